//! Slowing those who guess, without locking out those who know.
//!
//! How it works: nothing is slowed before a password is checked, since only then is it known who guesses. A
//! *failure* is told after a delay that grows with the source's recent failures, up to [`DELAY_MAX`]; a
//! success is told at once. While a source has recent failures, it may use only half of the hash workers (see
//! [`Hasher`](crate::Hasher)), where sources take turns, and users within a source. What that means:
//!
//! - Guessers on fifty connections of one address try at most 25 passwords a second. At most fifty checks are
//!   in front of a right password from that address: fifty times 40 ms on one worker, 2 s. If they guess at
//!   other users, only the jobs of its own turn are in front of it.
//! - From another address, a right password waits for at most one job of each source that has jobs waiting.
//! - A right password seen within minutes is known without a hash, so it does not even queue.
//!
//! Invariants:
//! - No answer depends on a count of failures: only its time does, and only that of a failure.
//! - Sources in memory are at most [`SOURCES_MAX`]; one without failures for a while is forgotten.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The longest delay of a failure.
pub const DELAY_MAX: Duration = Duration::from_secs(2);
/// The delay of a source's first failure; each further one doubles it.
pub const DELAY_FIRST: Duration = Duration::from_millis(125);
/// The time in which half of a source's failures are forgotten.
pub const HALF_LIFE: Duration = Duration::from_secs(60);
/// Sources remembered. Failures of others, when it is full, get the longest delay.
pub const SOURCES_MAX: usize = 100_000;
/// A score below this is as good as none. Reached ten minutes after the last of a long row of guesses.
const FORGOTTEN: f64 = 0.5;
/// A score above this delays no further: it bounds how long a guesser stays known.
const SCORE_MAX: f64 = 512.0;

/// Where attempts come from: an IPv4 address, the /64 of an IPv6 address, or this machine's own sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(Option<IpAddr>);

impl Source {
    /// The group of an address; `None` stands for Unix sockets and the like.
    pub fn of(ip: Option<IpAddr>) -> Source {
        Source(ip.map(|ip| match ip.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        }))
    }

    /// This machine's own sockets.
    pub const LOCAL: Source = Source(None);
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ip @ IpAddr::V4(_)) => write!(f, "{ip}"),
            Some(ip @ IpAddr::V6(_)) => write!(f, "{ip}/64"),
            None => f.write_str("local"),
        }
    }
}

/// The recent failures of each source.
pub struct Throttle {
    sources: Mutex<HashMap<Source, Score>>,
    sources_max: usize,
}

#[derive(Clone, Copy)]
struct Score {
    failures: f64,
    at: Instant,
}

impl Score {
    /// The failures that still count.
    fn now(self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.failures * 0.5f64.powf(elapsed / HALF_LIFE.as_secs_f64())
    }
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle::new(SOURCES_MAX)
    }
}

impl Throttle {
    /// Nobody has failed yet. Remembers at most `sources_max` sources.
    pub fn new(sources_max: usize) -> Throttle {
        Throttle { sources: Mutex::default(), sources_max }
    }

    /// Whether the source has failed recently.
    pub fn is_suspect(&self, source: Source) -> bool {
        let now = Instant::now();
        self.sources.lock().get(&source).is_some_and(|score| score.now(now) >= FORGOTTEN)
    }

    /// Counts a failure and says how long to wait before it is told.
    pub fn failed(&self, source: Source) -> Duration {
        let now = Instant::now();
        let mut sources = self.sources.lock();
        if sources.len() >= self.sources_max && !sources.contains_key(&source) {
            sources.retain(|_, score| score.now(now) >= FORGOTTEN);
            if sources.len() >= self.sources_max {
                return DELAY_MAX;
            }
        }
        let score = sources.entry(source).or_insert(Score { failures: 0.0, at: now });
        let failures = score.now(now);
        *score = Score { failures: (failures + 1.0).min(SCORE_MAX), at: now };
        delay_after(failures)
    }

    /// Sources remembered.
    pub fn sources(&self) -> usize {
        self.sources.lock().len()
    }
}

/// The delay of a failure that follows `failures` others.
fn delay_after(failures: f64) -> Duration {
    let doublings = failures.clamp(0.0, 16.0);
    DELAY_FIRST.mul_f64(doublings.exp2()).min(DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(Some(text.parse().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn delays_grow_to_two_seconds_and_are_forgotten() {
        let throttle = Throttle::default();
        let guesser = source("192.0.2.1");
        assert!(!throttle.is_suspect(guesser));
        let delays: Vec<_> = (0..7).map(|_| throttle.failed(guesser).as_millis()).collect();
        assert_eq!(delays, [125, 250, 500, 1000, 2000, 2000, 2000]);
        assert_eq!(throttle.failed(source("192.0.2.2")), DELAY_FIRST);
        for _ in 0..10_000 {
            throttle.failed(guesser);
        }
        tokio::time::advance(Duration::from_secs(300)).await;
        assert!(throttle.is_suspect(guesser));
        tokio::time::advance(Duration::from_secs(400)).await;
        assert!(!throttle.is_suspect(guesser));
        assert!(throttle.failed(guesser) < Duration::from_millis(180));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_a_host_cannot_hide_in_its_64() {
        let throttle = Throttle::new(10);
        for n in 0..100u8 {
            throttle.failed(source(&format!("192.0.2.{n}")));
        }
        assert_eq!(throttle.sources(), 10);
        assert_eq!(throttle.failed(source("198.51.100.1")), DELAY_MAX);
        tokio::time::advance(HALF_LIFE * 2).await;
        assert_eq!(throttle.failed(source("198.51.100.1")), DELAY_FIRST);
        assert_eq!(throttle.sources(), 1);
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }
}
