//! What the process takes of its machine, read from `/proc`.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// When this process first asked; called early, that is its start.
static STARTED: LazyLock<(Instant, SystemTime)> = LazyLock::new(|| (Instant::now(), SystemTime::now()));

/// Octets of memory that are resident; `None` where `/proc` does not say.
pub fn resident_octets() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Open file descriptors, the one used to count them left out.
pub fn open_files() -> Option<u64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(count).ok().map(|count| count.saturating_sub(1))
}

/// How long the process runs.
pub fn uptime() -> Duration {
    STARTED.0.elapsed()
}

/// When the process began, in milliseconds since 1970: differs between a server and its successor.
pub fn started_unix_ms() -> u64 {
    let since = STARTED.1.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Sets the process's gauges, under the names every Prometheus client library uses. Called before each
/// rendering.
pub fn record() {
    if let Some(octets) = resident_octets() {
        metrics::gauge!("process_resident_memory_bytes").set(lossy(octets));
    }
    if let Some(files) = open_files() {
        metrics::gauge!("process_open_fds").set(lossy(files));
    }
    let started = STARTED.1.duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics::gauge!("process_start_time_seconds").set(started.as_secs_f64());
    metrics::gauge!("rookery_process_uptime_seconds").set(uptime().as_secs_f64());
}

/// Gauges are floats; beyond 2^53 the last digits are nobody's concern.
fn lossy(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory_and_files() {
        assert!(resident_octets().unwrap() > 100_000);
        let before = open_files().unwrap();
        assert!(before >= 3);
        let _held: Vec<_> = (0..200).map(|_| std::fs::File::open("/proc/self/status").unwrap()).collect();
        assert!(open_files().unwrap() >= before + 100);
    }
}
