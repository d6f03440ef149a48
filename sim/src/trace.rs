//! What happened, line by line, and what was wrong.

use parking_lot::Mutex;
use std::fmt::Display;
use std::sync::Arc;
use tokio::time::Instant;

/// Violations that are kept; what comes after them mostly follows from them.
const WRONG_MAX: usize = 20;

/// The log of a run. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Log>>);

struct Log {
    began: Instant,
    /// FNV-1a over all lines.
    hash: u64,
    lines: u64,
    shown: bool,
    wrong: Vec<String>,
}

impl Trace {
    /// `shown`: lines go to standard error as they come.
    pub(crate) fn new(shown: bool) -> Trace {
        let log =
            Log { began: Instant::now(), hash: 0xcbf2_9ce4_8422_2325, lines: 0, shown, wrong: Vec::new() };
        Trace(Arc::new(Mutex::new(log)))
    }

    pub(crate) fn say(&self, what: impl Display) {
        let mut log = self.0.lock();
        let line = format!("{:>12.6} {what}", log.began.elapsed().as_secs_f64());
        for octet in line.bytes().chain([b'\n']) {
            log.hash = (log.hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
        }
        log.lines += 1;
        if log.shown {
            eprintln!("{line}");
        }
    }

    /// An invariant does not hold.
    pub(crate) fn wrong(&self, what: impl Display) {
        let what = what.to_string();
        self.say(format_args!("WRONG: {what}"));
        let mut log = self.0.lock();
        if log.wrong.len() < WRONG_MAX && !log.wrong.contains(&what) {
            log.wrong.push(what);
        }
    }

    pub(crate) fn is_wrong(&self) -> bool {
        !self.0.lock().wrong.is_empty()
    }

    /// The hash of all lines, how many there are, and what was wrong.
    pub(crate) fn end(&self) -> (u64, u64, Vec<String>) {
        let log = self.0.lock();
        (log.hash, log.lines, log.wrong.clone())
    }
}
