//! What the machine does meanwhile: CPU that others take, what a sync costs now, octets written, octets on disk.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rookery_tests::process::{self, SignalName};

/// Clock ticks a second in `/proc/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds that the whole machine has spent on anything since it started, time stolen by its host included.
fn busy() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    // user nice system idle iowait irq softirq steal (proc(5)); idle and iowait are nobody's.
    let fields = line.split_ascii_whitespace().skip(1).take(8).enumerate();
    let ticks = fields.filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, field)| field.parse().unwrap_or(0u64));
    Ok(ticks.sum::<u64>() as f64 / TICKS_PER_SECOND)
}

/// CPU spent by this program and all servers it started, those that it has stopped included.
fn ours() -> f64 {
    process::cpu(std::process::id()).as_secs_f64()
}

/// How much of the machine others take from now on.
pub(crate) struct Noise {
    begun: Instant,
    busy: f64,
    ours: f64,
}

impl Noise {
    pub(crate) fn begin() -> Result<Noise> {
        Ok(Noise { begun: Instant::now(), busy: busy()?, ours: ours() })
    }

    /// CPU time of others since, as a part of all that the machine has.
    pub(crate) fn others(&self) -> Result<f64> {
        let cores = std::thread::available_parallelism()?.get() as f64;
        let others = (busy()? - self.busy) - (ours() - self.ours);
        Ok((others / (self.begun.elapsed().as_secs_f64() * cores)).max(0.0))
    }
}

/// Keeps the machine's cores from sleeping: a thread of the lowest priority on each takes what nobody else wants. Waking
/// a core of a virtual machine costs more than a small command, and would be most of what is measured.
pub(crate) struct KeptAwake(Arc<AtomicBool>);

impl KeptAwake {
    pub(crate) fn begin() -> Result<KeptAwake> {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism()?.get() {
            let over = over.clone();
            std::thread::spawn(move || {
                // On Linux this is the thread's own.
                if rustix::process::setpriority_process(None, 19).is_ok() {
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        Ok(KeptAwake(over))
    }
}

impl Drop for KeptAwake {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The median time of writing 4 KiB and syncing them, in milliseconds.
pub(crate) fn sync_ms(folder: &Path) -> Result<f64> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut took = Vec::new();
    for _ in 0..15 {
        let begun = Instant::now();
        file.write_all(&[b'x'; 4096])?;
        file.sync_data()?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(crate::report::median(&took))
}

/// Octets that a server's processes, with those that ended, have had written to disk (`write_bytes` of proc(5)).
pub(crate) fn written(root: u32) -> u64 {
    let of_one = |pid: u32| -> Option<u64> {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
    };
    process::tree(root).into_iter().filter_map(of_one).sum()
}

/// Octets that a folder takes up on disk.
pub(crate) fn disk_octets(folder: &Path) -> Result<u64> {
    let mut all = 0;
    let mut seen = std::collections::BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let meta = entry.path().symlink_metadata()?;
            if meta.is_dir() {
                folders.push(entry.path());
            }
            // A file with several names is there once.
            if seen.insert(meta.ino()) {
                all += meta.blocks() * 512;
            }
        }
    }
    Ok(all)
}

/// strace on all processes of a server, looking at syncs.
pub(crate) struct SyncTrace {
    child: Child,
    output: std::path::PathBuf,
}

/// Syncs seen.
#[derive(Debug, PartialEq)]
pub(crate) struct Syncs {
    /// Calls.
    pub(crate) calls: usize,
    /// Times that one or more were under way at once.
    pub(crate) rounds: usize,
}

impl SyncTrace {
    pub(crate) fn attach(root: u32, folder: &Path) -> Result<SyncTrace> {
        let output = folder.join("strace-syncs");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-ttt", "-T", "-e", "trace=fsync,fdatasync,msync,sync_file_range,syncfs,sync"]);
        strace.arg("-o").arg(&output);
        let pids = process::tree(root);
        for pid in &pids {
            strace.args(["-p", &pid.to_string()]);
        }
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = strace.spawn().context("strace cannot be started")?;
        // strace says nothing when it has attached; the kernel does.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !pids.iter().all(|pid| traced(*pid)) {
            if Instant::now() > deadline {
                bail!("strace did not attach");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(SyncTrace { child, output })
    }

    pub(crate) fn end(mut self) -> Result<Syncs> {
        process::signal(self.child.id(), SignalName::INT)?;
        self.child.wait()?;
        Ok(count_syncs(&std::fs::read_to_string(&self.output)?))
    }
}

/// Whether every thread of a process is traced; one that has ended counts as such.
fn traced(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    tasks.flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        !status.lines().any(|line| line.starts_with("TracerPid:") && line.ends_with("\t0"))
    })
}

/// Reads lines `PID TIME CALL(...) = 0 <SECONDS>`, and the halves of those that another interrupted.
fn count_syncs(text: &str) -> Syncs {
    let mut spans: Vec<(f64, f64)> = Vec::new();
    let mut open = std::collections::BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(pid), Some(time)) = (words.next(), words.next()) else { continue };
        let Ok(time) = time.parse::<f64>() else { continue };
        if line.ends_with("<unfinished ...>") {
            open.insert(pid, time);
            continue;
        }
        let Some(seconds) = line.rsplit_once('<').and_then(|(_, end)| end.strip_suffix('>')) else {
            continue;
        };
        let Ok(seconds) = seconds.parse::<f64>() else { continue };
        if line.contains("resumed>") {
            if let Some(begun) = open.remove(pid) {
                spans.push((begun, time));
            }
        } else {
            spans.push((time, time + seconds));
        }
    }
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut rounds = 0;
    let mut end = f64::NEG_INFINITY;
    for (from, to) in &spans {
        rounds += usize::from(*from > end);
        end = end.max(*to);
    }
    Syncs { calls: spans.len(), rounds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_at_the_same_time_are_one_round() {
        let text = "10 1.000 fdatasync(7 <unfinished ...>\n11 1.001 fsync(8)  = 0 <0.001>\n\
                    10 1.004 <... fdatasync resumed>) = 0 <0.004>\n10 1.010 fsync(7) = 0 <0.002>\n";
        assert_eq!(count_syncs(text), Syncs { calls: 3, rounds: 2 });
    }

    #[test]
    fn the_machine_has_been_busy() {
        assert!(busy().unwrap() > 0.0 && ours() >= 0.0);
        let folder = tempfile::tempdir().unwrap();
        assert!(sync_ms(folder.path()).unwrap() > 0.0);
        std::fs::write(folder.path().join("a"), [b'x'; 10_000]).unwrap();
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        let octets = disk_octets(folder.path()).unwrap();
        assert!((10_000..30_000).contains(&octets) || octets == 0, "{octets}");
    }
}
