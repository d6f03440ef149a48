//! The power-loss shim by itself: a small program's calls are all seen, and the disks rebuilt from them are those that
//! a loss of power could leave.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rookery_tests::command;
use rookery_tests::powerloss::disk::{Fate, History, Policy};
use rookery_tests::powerloss::trace::{self, Kind, Record};
use rookery_tests::powerloss::{compile_shim, environment};
use rookery_tests::random::Random;

struct Run {
    folder: tempfile::TempDir,
    records: Vec<Record>,
}

/// Runs a Python program in a recorded folder, named `d`, that held the file `old` before.
fn run(program: &str) -> Result<Run> {
    let folder = tempfile::tempdir()?;
    let (data, before, trace) =
        (folder.path().join("data"), folder.path().join("before"), folder.path().join("trace"));
    for place in [&data, &before] {
        std::fs::create_dir(place)?;
        std::fs::write(place.join("old"), "as it was")?;
    }
    let shim = compile_shim(folder.path())?;
    let mut python = Command::new("python3");
    let whole = format!("import os, fcntl\nd = {:?} + '/'\n{program}", data.display().to_string());
    python.arg("-c").arg(whole).envs(environment(&shim, &data, &trace)).current_dir(folder.path());
    let output = command::run_command(python, b"")?;
    ensure!(output.status.success(), "{}", output.text());
    Ok(Run { records: trace::read(&trace)?, folder })
}

impl Run {
    fn rebuild(&self, crash: u64, policy: Policy, seed: u64) -> Result<BTreeMap<String, Vec<u8>>> {
        let history = History::follow(&self.folder.path().join("before"), &self.records)?;
        let target = tempfile::tempdir()?;
        history.rebuild(crash, policy, &mut Random::new(seed), target.path())?;
        let mut files = BTreeMap::new();
        list(target.path(), "", &mut files)?;
        Ok(files)
    }

    fn dropped(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        self.rebuild(u64::MAX - 1, Policy { fate: Fate::Dropped, lenient_folders: false }, 0)
    }

    fn prove(&self) -> Result<()> {
        let history = History::follow(&self.folder.path().join("before"), &self.records)?;
        history.prove_complete(&self.folder.path().join("data"))
    }
}

fn list(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(())
}

fn names(files: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

#[test]
fn every_kind_of_call_is_seen() -> Result<()> {
    let run = run("
f = os.open(d + 'a', os.O_RDWR | os.O_CREAT)
os.write(f, b'one'); os.pwrite(f, b'two', 5); os.writev(f, [b'x', b'y']); os.pwritev(f, [b'z', b'w'], 20)
os.ftruncate(f, 30); os.posix_fallocate(f, 0, 64); os.fsync(f); os.fdatasync(f)
g = os.dup(f); os.write(g, b'dup'); h = fcntl.fcntl(f, fcntl.F_DUPFD_CLOEXEC, 100); os.write(h, b'fcntl')
os.close(f); os.close(g); os.close(h)
os.mkdir(d + 'sub'); e = os.open(d + 'sub', os.O_RDONLY)
a = os.open('b', os.O_WRONLY | os.O_CREAT | os.O_APPEND, dir_fd=e)
os.write(a, b'1'); os.write(a, b'2'); os.pwrite(a, b'3', 0); os.close(a)
os.rename('b', 'c', src_dir_fd=e, dst_dir_fd=e); os.link(d + 'sub/c', d + 'second'); os.unlink(d + 'sub/c')
os.rename(d + 'sub', d + 'moved'); os.mkdir(d + 'empty'); os.rmdir(d + 'empty'); os.fsync(e); os.close(e)
t = open(d + 'old', 'w'); t.write('cut'); t.close()
os.chdir(d); r = os.open('relative', os.O_WRONLY | os.O_CREAT); os.write(r, b'r' * 5000); os.close(r)
s = os.open(d + 'old', os.O_RDONLY); w = os.open('copied', os.O_WRONLY | os.O_CREAT)
try: os.sendfile(w, s, 0, 3)
except OSError: os.write(w, b'cut')
")?;
    run.prove()?;
    let kinds = [
        Kind::Open,
        Kind::Close,
        Kind::Duplicate,
        Kind::Write,
        Kind::Sync,
        Kind::SetLength,
        Kind::Extend,
        Kind::Rename,
        Kind::Unlink,
        Kind::RemoveFolder,
        Kind::MakeFolder,
        Kind::Link,
    ];
    for kind in kinds {
        ensure!(run.records.iter().any(|record| record.kind == kind), "no {kind:?} was seen");
    }
    let times: Vec<u64> = run.records.iter().map(|record| record.time_ns).collect();
    ensure!(times.is_sorted() && times[0] < rookery_tests::process::monotonic_ns());
    Ok(())
}

#[test]
fn a_call_past_the_shim_is_noticed() -> Result<()> {
    // The program's child has no shim.
    let run = run("
import subprocess
os.close(os.open(d + 'a', os.O_WRONLY | os.O_CREAT))
subprocess.run(['/bin/sh', '-c', 'echo hidden > ' + d + 'a'], env={})
")?;
    ensure!(run.prove().is_err(), "a hidden write was not noticed");
    Ok(())
}

#[test]
fn only_what_was_synced_is_sure() -> Result<()> {
    let run = run("
dirfd = os.open(d, os.O_RDONLY)
f = os.open(d + 'synced', os.O_WRONLY | os.O_CREAT); os.write(f, b'first'); os.fsync(f); os.fsync(dirfd); os.write(f, b'second')
g = os.open(d + 'nameless', os.O_WRONLY | os.O_CREAT); os.write(g, b'data'); os.fsync(g)
h = os.open(d + 'old', os.O_WRONLY | os.O_TRUNC); os.write(h, b'new')
")?;
    run.prove()?;
    let files = run.dropped()?;
    ensure!(names(&files) == ["old", "synced"], "{:?}", names(&files));
    ensure!(files["old"] == b"as it was" && files["synced"] == b"first", "{files:?}");
    let lenient = Policy { fate: Fate::Dropped, lenient_folders: true };
    let files = run.rebuild(u64::MAX - 1, lenient, 0)?;
    ensure!(names(&files) == ["nameless", "old", "synced"] && files["nameless"] == b"data", "{files:?}");
    let kept = Policy { fate: Fate::Kept, lenient_folders: false };
    let files = run.rebuild(u64::MAX - 1, kept, 0)?;
    ensure!(files["synced"] == b"firstsecond" && files["old"] == b"new", "{files:?}");
    Ok(())
}

#[test]
fn a_crash_before_the_sync_returned_may_lose_the_write() -> Result<()> {
    let run = run("
f = os.open(d + 'old', os.O_WRONLY); os.pwrite(f, b'AS', 0); os.fsync(f)
")?;
    let sync = run.records.iter().find(|record| record.kind == Kind::Sync).context("no sync")?;
    let returned = run.records.iter().find(|record| record.start == sync.seq).context("no return")?;
    let policy = Policy { fate: Fate::Dropped, lenient_folders: false };
    ensure!(run.rebuild(returned.seq, policy, 0)?["old"] == b"as it was");
    ensure!(run.rebuild(returned.seq + 1, policy, 0)?["old"] == b"AS it was");
    Ok(())
}

#[test]
fn writes_are_torn_in_whole_sectors_and_renames_never() -> Result<()> {
    let run = run("
dirfd = os.open(d, os.O_RDONLY)
f = os.open(d + 'big', os.O_WRONLY | os.O_CREAT); os.write(f, b'-' * 2048); os.fsync(f); os.fsync(dirfd)
os.pwrite(f, b'+' * 1500, 100)
os.rename(d + 'old', d + 'new')
")?;
    let policy = Policy { fate: Fate::Chance, lenient_folders: false };
    let (mut torn, mut renamed, mut stayed) = (0, 0, 0);
    for seed in 0..60 {
        let files = run.rebuild(u64::MAX - 1, policy, seed)?;
        let big = &files["big"];
        ensure!(big.len() == 2048);
        for (from, to) in [(0, 100), (100, 512), (512, 1024), (1024, 1536), (1536, 1600), (1600, 2048)] {
            ensure!(big[from..to].iter().all(|octet| *octet == big[from]), "a sector is torn: {from}..{to}");
        }
        torn += usize::from(big.contains(&b'+') && big[100..1600].contains(&b'-'));
        match (files.contains_key("old"), files.contains_key("new")) {
            (true, false) => stayed += 1,
            (false, true) => renamed += 1,
            other => anyhow::bail!("a rename was cut in half: {other:?}"),
        }
    }
    ensure!(torn > 5 && renamed > 5 && stayed > 5, "{torn} torn, {renamed} renamed, {stayed} not");
    Ok(())
}

#[test]
fn a_descriptor_given_away_while_another_is_opened_is_followed() -> Result<()> {
    let begun = |seq, kind, fd, path: &str| Record {
        seq,
        time_ns: 0,
        kind,
        fd,
        arg: 0,
        start: 0,
        path: path.to_owned(),
        path2: String::new(),
        data: b"new".to_vec(),
    };
    let ended = |seq, start, arg| Record { start, arg, ..begun(seq, Kind::End, -1, "") };
    let folder = tempfile::tempdir()?;
    for name in ["first", "second"] {
        std::fs::write(folder.path().join(name), "as it was")?;
    }
    // The second open gets the number that the first file is about to give away.
    let records = [
        begun(1, Kind::Open, -1, "first"),
        ended(2, 1, 7),
        begun(3, Kind::Open, -1, "second"),
        begun(4, Kind::Close, 7, ""),
        ended(5, 3, 7),
        begun(6, Kind::Write, 7, ""),
        ended(7, 6, 3),
        begun(8, Kind::Sync, 7, ""),
        ended(9, 8, 0),
    ];
    let history = History::follow(folder.path(), &records)?;
    let target = tempfile::tempdir()?;
    let policy = Policy { fate: Fate::Dropped, lenient_folders: false };
    history.rebuild(u64::MAX - 1, policy, &mut Random::new(0), target.path())?;
    ensure!(std::fs::read(target.path().join("first"))? == b"as it was");
    ensure!(std::fs::read(target.path().join("second"))? == b"newit was");
    Ok(())
}
