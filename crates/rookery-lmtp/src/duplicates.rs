//! Messages that were delivered a short while ago, so that a second one of the same sender with the same Message-ID
//! is not stored again.
//!
//! Invariants:
//! - Only what is durable in a mailbox counts as delivered there: nothing is held back because of a delivery that
//!   failed.
//! - The sender belongs to the key, so that nobody keeps another's mail away by guessing its Message-ID, and so that a
//!   mailing list's copy and the writer's own are two messages.
//! - It is memory alone, bounded in time and number. After a restart, and for a message that comes twice at the same
//!   moment, the second is delivered: rather two than none.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use parking_lot::Mutex;
use rookery_types::MailboxId;
use tokio::time::Instant;

/// Deliveries remembered. One takes some 80 octets.
const REMEMBERED_MAX: usize = 200_000;

/// 128 bits of a mailbox, a sender and a Message-ID, hashed with keys that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64, u64);

/// What was delivered within the last while.
pub(crate) struct Duplicates {
    window: Duration,
    hashers: [RandomState; 2],
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    delivered: HashMap<Key, Instant>,
    /// In the order of their times.
    order: VecDeque<(Instant, Key)>,
}

impl Duplicates {
    /// Remembers for `window`; zero: nothing.
    pub(crate) fn new(window: Duration) -> Duplicates {
        Duplicates { window, hashers: [RandomState::new(), RandomState::new()], seen: Mutex::default() }
    }

    /// The key of a message in a mailbox; `None` if nothing is remembered.
    pub(crate) fn key(&self, mailbox: MailboxId, sender: &str, message_id: &str) -> Option<Key> {
        if self.window.is_zero() {
            return None;
        }
        let whole = (mailbox, sender, message_id);
        let [first, second] = &self.hashers;
        Some(Key(first.hash_one(whole), second.hash_one(whole)))
    }

    /// Whether it was delivered within the window.
    pub(crate) fn knows(&self, key: Key) -> bool {
        let mut seen = self.seen.lock();
        seen.forget(self.window);
        seen.delivered.contains_key(&key)
    }

    /// It is delivered now.
    pub(crate) fn remember(&self, key: Key) {
        let mut seen = self.seen.lock();
        seen.forget(self.window);
        let now = Instant::now();
        if seen.delivered.insert(key, now).is_none() {
            seen.order.push_back((now, key));
        }
        if seen.order.len() > REMEMBERED_MAX
            && let Some((_, oldest)) = seen.order.pop_front()
        {
            seen.delivered.remove(&oldest);
        }
    }
}

impl Seen {
    fn forget(&mut self, window: Duration) {
        while let Some((at, key)) = self.order.front().copied()
            && at.elapsed() >= window
        {
            self.order.pop_front();
            self.delivered.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use rookery_types::AccountId;

    use super::*;

    fn mailbox(number: u32) -> MailboxId {
        MailboxId { account: AccountId::new(1).expect("it is not zero"), number }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_delivered_is_known_for_a_while() {
        let duplicates = Duplicates::new(Duration::from_secs(100));
        let key = duplicates.key(mailbox(1), "a@b.test", "<1@b.test>").expect("it remembers");
        assert!(!duplicates.knows(key));
        duplicates.remember(key);
        assert!(duplicates.knows(key));
        for other in [
            duplicates.key(mailbox(2), "a@b.test", "<1@b.test>"),
            duplicates.key(mailbox(1), "c@b.test", "<1@b.test>"),
            duplicates.key(mailbox(1), "a@b.test", "<2@b.test>"),
        ] {
            assert!(!duplicates.knows(other.expect("it remembers")));
        }
        tokio::time::advance(Duration::from_secs(99)).await;
        assert!(duplicates.knows(key));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!duplicates.knows(key));
        assert!(Duplicates::new(Duration::ZERO).key(mailbox(1), "a", "b").is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let duplicates = Duplicates::new(Duration::from_secs(1 << 20));
        for n in 0..=REMEMBERED_MAX as u64 {
            duplicates.remember(Key(n, n));
        }
        assert!(!duplicates.knows(Key(0, 0)) && duplicates.knows(Key(1, 1)));
        let seen = duplicates.seen.lock();
        assert_eq!((seen.delivered.len(), seen.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
    }
}
