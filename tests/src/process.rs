//! Processes as the kernel shows them under `/proc`: who descends from whom, their CPU time, their memory.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// A signal by its name, such as `SignalName::INT`.
pub type SignalName = Signal;

/// Clock ticks a second in `/proc/PID/stat`; Linux has used 100 for user space on every architecture we run on.
const TICKS_PER_SECOND: u64 = 100;

/// The time since boot that every process of this machine agrees on, in nanoseconds (CLOCK_MONOTONIC).
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Raises this process's limit of open files, which its children inherit, to at least `wanted` if the hard limit allows.
pub fn raise_descriptor_limit(wanted: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let allowed = now.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: now.maximum })
        .context("the limit of open files cannot be raised")
}

/// Sends a signal to one process, by its id.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    kill_process(pid, signal).context("the signal could not be sent")
}

/// A process and all that descend from it.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(parent) = stat_fields(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut at = 0;
    while let Some(&pid) = all.get(at) {
        all.extend(children.remove(&pid).unwrap_or_default());
        at += 1;
    }
    all
}

/// The fields of `/proc/PID/stat` after the command name: state, parent, ...
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses; the last one closes it.
    let after = stat.rsplit_once(") ")?.1;
    Some(after.split_ascii_whitespace().map(str::to_owned).collect())
}

/// CPU time spent so far by a process and its descendants, with that of children already waited for.
pub fn cpu(root: u32) -> Duration {
    let ticks: u64 = tree(root).into_iter().map(ticks).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

fn ticks(pid: u32) -> u64 {
    let Some(fields) = stat_fields(pid) else { return 0 };
    // utime, stime, cutime, cstime are fields 14 to 17 of the whole line, 12 to 15 after the name (proc(5)).
    (11..15).filter_map(|field| fields.get(field)?.parse::<u64>().ok()).sum()
}

/// Proportional set size of a process and its descendants, in octets (`smaps_rollup`).
pub fn pss(root: u32) -> u64 {
    tree(root).into_iter().filter_map(pss_of_one).sum()
}

fn pss_of_one(pid: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Forgets the highest resident size that a process of this user has had so far.
pub fn reset_peak(pid: u32) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("the peak cannot be reset")
}

/// The highest resident size of a process since [`reset_peak`], in octets.
pub fn peak(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_time_and_memory() {
        let me = std::process::id();
        assert!(super::tree(me).contains(&me));
        assert!(super::pss(me) > 100_000);
    }
}
