//! What the store rests on, on a file system that turns read-only while it is written to: a sync that is under way at
//! that moment may be told by ext4 that all is well, though nothing came onto the disk. Needs root.
//!
//! The test starts itself again, with [`CHILD`] set, where mounts are its own and end with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::{Batch, Engine, FileLayer, Read, RealFiles, Space, VolumeFile};
use rookery_tests::command;

/// Names the folder to the child, in which `image` holds a file system and `disk` is where it is mounted.
const CHILD: &str = "ROOKERY_TESTS_UNTRUE_SYNCS_FOLDER";

/// Times that the file system breaks. Where syncs are believed as they are, every few show it.
const ROUNDS: u64 = 20;

/// Volumes that are written to at the same time, in every second round. Commits alone are untrue more often.
const WRITERS: usize = 4;

/// Octets of one write, also of one value.
const OCTETS: usize = 20_000;

/// How long one waits at the most for syncs to fail after the file system broke.
const PATIENCE: Duration = Duration::from_secs(20);

fn content(writer: usize, number: u64) -> Vec<u8> {
    format!("{writer:03}-{number:07} ").into_bytes().repeat(OCTETS / 12 + 1)[..OCTETS].to_vec()
}

fn offset(number: u64) -> u64 {
    number * OCTETS as u64
}

/// Writes until that fails or `is_over`; how many were acknowledged.
fn write(volume: &dyn VolumeFile, writer: usize, is_over: &AtomicBool) -> Result<u64> {
    for number in 0.. {
        let done = volume.write_at(&content(writer, number), offset(number)).and_then(|()| volume.sync());
        if done.is_err() {
            return Ok(number);
        }
        ensure!(!is_over.load(Ordering::Relaxed), "a disk that cannot be written to takes writes");
    }
    bail!("there are no more numbers")
}

/// Commits until that fails or `is_over`; how many were acknowledged.
fn commit(engine: &FjallEngine, is_over: &AtomicBool) -> Result<u64> {
    for number in 0_u64.. {
        let mut batch = Batch::new();
        batch.put(Space::Log, number.to_be_bytes().to_vec(), content(WRITERS, number));
        if engine.commit(batch).is_err() {
            return Ok(number);
        }
        ensure!(!is_over.load(Ordering::Relaxed), "a disk that cannot be written to takes commits");
    }
    bail!("there are no more numbers")
}

struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn mount(&self) -> Result<()> {
        let (image, at) = (self.image.display().to_string(), self.at.display().to_string());
        command::ok("mount", &["-o", "loop", &image, &at], b"").map(drop)
    }

    fn unmount(&self) -> Result<()> {
        command::ok("umount", &[&self.at], b"").map(drop)
    }

    /// As a file system does that finds itself damaged.
    fn fail(&self) -> Result<()> {
        command::ok("mount", &["-o", "remount,abort", &self.at.display().to_string()], b"").map(drop)
    }

    /// An empty file system in place of what there was.
    fn format(&self) -> Result<()> {
        std::fs::File::create(&self.image)?.set_len(400 << 20)?;
        command::ok("mkfs.ext4", &["-q", "-F", &self.image.display().to_string()], b"").map(drop)
    }
}

/// One file system that breaks under writers and one that commits. Nothing that was acknowledged may be gone.
fn round(disk: &Disk, round: u64) -> Result<()> {
    disk.format()?;
    disk.mount()?;
    let volumes = RealFiles::open(disk.at.join("volumes"))?;
    let writers = if round.is_multiple_of(2) { WRITERS } else { 0 };
    let files: Vec<Arc<dyn VolumeFile>> =
        (0..writers).map(|writer| volumes.create(&format!("v{writer}"))).collect::<std::io::Result<_>>()?;
    volumes.sync_directory()?;
    let engine = FjallEngine::open(disk.at.join("engine"), FjallOptions::default())?;
    let is_over = AtomicBool::new(false);
    let (written, committed) = std::thread::scope(|scope| {
        let is_over = &is_over;
        let writers: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(writer, file)| scope.spawn(move || write(&**file, writer, is_over)))
            .collect();
        let committer = scope.spawn(|| commit(&engine, is_over));
        std::thread::sleep(Duration::from_micros(60_000 + 37_777 * round % 101_000));
        let failed = disk.fail();
        let until = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < until
            && !(committer.is_finished() && writers.iter().all(|writer| writer.is_finished()))
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        is_over.store(true, Ordering::Relaxed);
        let written: Result<Vec<u64>> = writers.into_iter().map(joined).collect();
        failed.and_then(|()| Ok((written?, joined(committer)?)))
    })?;
    drop((volumes, files, engine));
    disk.unmount()?;
    disk.mount()?;
    ensure!(committed > 0 && written.iter().all(|count| *count > 0), "nothing was acknowledged");
    let volumes = RealFiles::open(disk.at.join("volumes"))?;
    for (writer, acknowledged) in written.into_iter().enumerate() {
        let file = volumes.open(&format!("v{writer}"))?;
        let mut found = vec![0; OCTETS];
        for number in 0..acknowledged {
            let octets = file.read_at(&mut found, offset(number))?;
            ensure!(
                octets == OCTETS && found == content(writer, number),
                "write {number} of {acknowledged} to volume {writer} was acknowledged and is not there"
            );
        }
    }
    let engine = FjallEngine::open(disk.at.join("engine"), FjallOptions::default())?;
    for number in 0..committed {
        let found = engine.get(Space::Log, &number.to_be_bytes())?;
        ensure!(
            found.is_some_and(|found| *found == *content(WRITERS, number)),
            "commit {number} of {committed} was acknowledged and is not there"
        );
    }
    drop((volumes, engine));
    disk.unmount()
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| bail!("a thread panicked"))
}

#[test]
fn what_is_acknowledged_while_the_disk_turns_read_only_is_there() -> Result<()> {
    if let Some(folder) = std::env::var_os(CHILD) {
        let folder = Path::new(&folder);
        let disk = Disk { image: folder.join("image"), at: folder.join("disk") };
        return (0..ROUNDS).try_for_each(|n| round(&disk, n).with_context(|| format!("round {n}")));
    }
    ensure!(rustix::process::geteuid().is_root(), "only root can mount a file system in a file");
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("disk"))?;
    let me = std::env::current_exe()?;
    let mut child = std::process::Command::new("unshare");
    child.arg("--mount").arg(me).args([
        "--exact",
        "untrue_syncs::what_is_acknowledged_while_the_disk_turns_read_only_is_there",
        "--nocapture",
    ]);
    child.env(CHILD, folder.path());
    let ended = command::run_command(child, b"")?;
    ensure!(ended.status.success(), "{}", ended.text());
    Ok(())
}
