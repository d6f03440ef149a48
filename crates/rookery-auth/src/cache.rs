//! Passwords checked a moment ago, so that a client that connects often costs one hash.
//!
//! Invariants:
//! - A password is kept only as a keyed hash, under a key that lives and dies with the process.
//! - The verifier is part of what is hashed: a changed password misses the cache, in both directions.
//! - Whether the account may be used is not cached; it is looked up each time.
//! - At most `entries_max` entries, and [`PER_USER_MAX`] of one user; guesses push out guesses first.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use parking_lot::Mutex;
use rookery_types::UserName;
use tokio::time::Instant;

/// How long a check is believed.
pub const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Checks remembered.
pub const ENTRIES_MAX: usize = 100_000;
/// Checks remembered for one user.
pub const PER_USER_MAX: usize = 16;

/// What is known of passwords that were checked recently.
pub struct VerifierCache {
    key: [u8; blake3::KEY_LEN],
    users: RandomState,
    lifetime: Duration,
    entries_max: usize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// By a hash of the user's name. Two users under one hash share their bound, and nothing else.
    by_user: HashMap<u64, Vec<Entry>>,
    /// Users in the order of their entries; may name some that are gone.
    order: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy)]
struct Entry {
    print: blake3::Hash,
    right: bool,
    at: Instant,
}

impl Default for VerifierCache {
    fn default() -> VerifierCache {
        VerifierCache::new(LIFETIME, ENTRIES_MAX)
    }
}

impl VerifierCache {
    /// An empty cache, with a new random key. With `entries_max` 0 it remembers nothing.
    pub fn new(lifetime: Duration, entries_max: usize) -> VerifierCache {
        VerifierCache {
            key: rand::random(),
            users: RandomState::new(),
            lifetime,
            entries_max,
            entries: Mutex::default(),
        }
    }

    /// Whether this password was right or wrong against this verifier; `None` if it was not checked recently.
    pub fn get(&self, user: &UserName, verifier: &str, password: &[u8]) -> Option<bool> {
        let print = self.print(user, verifier, password);
        let now = Instant::now();
        let entries = self.entries.lock();
        let of_user = entries.by_user.get(&self.users.hash_one(user))?;
        // `blake3::Hash` compares in constant time.
        let entry = of_user.iter().find(|entry| entry.print == print)?;
        (now.saturating_duration_since(entry.at) < self.lifetime).then_some(entry.right)
    }

    /// Remembers a check.
    pub fn put(&self, user: &UserName, verifier: &str, password: &[u8], right: bool) {
        if self.entries_max == 0 {
            return;
        }
        let print = self.print(user, verifier, password);
        let key = self.users.hash_one(user);
        let at = Instant::now();
        let mut entries = self.entries.lock();
        entries.expire(at, self.lifetime, self.entries_max - 1);
        let of_user = entries.by_user.entry(key).or_default();
        of_user.retain(|entry| entry.print != print);
        if of_user.len() >= PER_USER_MAX {
            // The oldest guess; the oldest entry where all are right.
            let oldest = of_user.iter().position(|entry| !entry.right).unwrap_or(0);
            of_user.remove(oldest);
        }
        of_user.push(Entry { print, right, at });
        entries.order.push_back((at, key));
    }

    /// Drops all that is known of a user's passwords: at a change, or a suspension.
    pub fn forget(&self, user: &UserName) {
        self.entries.lock().by_user.remove(&self.users.hash_one(user));
    }

    /// Entries, expired ones included.
    pub fn len(&self) -> usize {
        self.entries.lock().by_user.values().map(Vec::len).sum()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn print(&self, user: &UserName, verifier: &str, password: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in [user.as_str().as_bytes(), verifier.as_bytes(), password] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

impl Entries {
    /// Drops what is too old, and the oldest beyond `left`.
    fn expire(&mut self, now: Instant, lifetime: Duration, left: usize) {
        while let Some(&(at, user)) = self.order.front() {
            if self.order.len() <= left && now.saturating_duration_since(at) < lifetime {
                return;
            }
            self.order.pop_front();
            if let Some(of_user) = self.by_user.get_mut(&user) {
                of_user.retain(|entry| entry.at > at);
                if of_user.is_empty() {
                    self.by_user.remove(&user);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        UserName::parse(name, "example.org").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_knows_exactly_what_was_checked() {
        let cache = VerifierCache::default();
        let (joe, eve) = (user("joe"), user("eve"));
        cache.put(&joe, "v1", b"right", true);
        cache.put(&joe, "v1", b"wrong", false);
        assert_eq!(cache.get(&joe, "v1", b"right"), Some(true));
        assert_eq!(cache.get(&joe, "v1", b"wrong"), Some(false));
        assert_eq!(cache.get(&joe, "v1", b"other"), None);
        assert_eq!(cache.get(&joe, "v2", b"right"), None, "the password was changed");
        assert_eq!(cache.get(&eve, "v1", b"right"), None);
        assert_eq!(cache.get(&joe, "v1r", b"ight"), None);
        tokio::time::advance(LIFETIME).await;
        assert_eq!(cache.get(&joe, "v1", b"right"), None);
        cache.put(&eve, "v", b"p", true);
        assert_eq!(cache.len(), 1, "what has expired is dropped when something comes");
        cache.forget(&eve);
        assert!(cache.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_and_guesses_push_out_guesses() {
        let cache = VerifierCache::new(LIFETIME, 50);
        let joe = user("joe");
        cache.put(&joe, "v", b"right", true);
        for n in 0..40u8 {
            tokio::time::advance(Duration::from_millis(1)).await;
            cache.put(&joe, "v", &[n], false);
        }
        assert_eq!(cache.len(), PER_USER_MAX);
        assert_eq!(cache.get(&joe, "v", b"right"), Some(true));
        assert_eq!(cache.get(&joe, "v", &[39]), Some(false));
        assert_eq!(cache.get(&joe, "v", &[0]), None);
        for n in 0..200u8 {
            tokio::time::advance(Duration::from_millis(1)).await;
            cache.put(&user(&format!("u{n}")), "v", b"p", true);
            assert!(cache.len() <= 50 && cache.entries.lock().order.len() <= 50);
        }
        assert_eq!(cache.get(&user("u199"), "v", b"p"), Some(true));
        assert_eq!(cache.get(&user("u100"), "v", b"p"), None);
    }
}
