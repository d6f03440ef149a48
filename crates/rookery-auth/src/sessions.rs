//! How many sessions each account has, by all protocols together.
//!
//! Invariants:
//! - A session counts from its login until its slot is dropped, whatever becomes of its task.
//! - Accounts without a session take no memory.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rookery_types::AccountId;

/// How many sessions each account has.
#[derive(Clone, Default)]
pub struct Sessions {
    counts: Arc<Mutex<HashMap<AccountId, usize>>>,
}

/// One session of an account, counted until it is dropped.
pub struct SessionSlot {
    sessions: Sessions,
    account: AccountId,
}

impl Sessions {
    /// None so far.
    pub fn new() -> Sessions {
        Sessions::default()
    }

    /// Counts one more session of an account, unless there are `max` already.
    pub fn enter(&self, account: AccountId, max: usize) -> Option<SessionSlot> {
        let mut counts = self.counts.lock();
        let count = counts.entry(account).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(SessionSlot { sessions: self.clone(), account })
    }

    /// The sessions of an account now.
    pub fn of(&self, account: AccountId) -> usize {
        self.counts.lock().get(&account).copied().unwrap_or(0)
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let mut counts = self.sessions.counts.lock();
        if let Some(count) = counts.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_an_account_are_bounded_and_given_back() {
        let account = AccountId::new(7).unwrap();
        let sessions = Sessions::new();
        let first = sessions.enter(account, 2).unwrap();
        let second = sessions.enter(account, 2).unwrap();
        assert!(sessions.enter(account, 2).is_none());
        drop(first);
        assert_eq!(sessions.of(account), 1);
        drop(second);
        assert!(sessions.counts.lock().is_empty());
    }
}
