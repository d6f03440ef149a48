//! How many sessions each account has, by all protocols together, and how they are ended from elsewhere.
//!
//! Invariants:
//! - A session counts from its login until its slot is dropped, whatever becomes of its task.
//! - Once an account is closed, every session that it had is told so, and no further one begins until it is opened.
//! - Accounts without a session take no memory, unless they are closed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rookery_types::AccountId;
use tokio::sync::Notify;

/// How many sessions each account has.
#[derive(Clone, Default)]
pub struct Sessions {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    accounts: HashMap<AccountId, Entered>,
    closed: HashSet<AccountId>,
}

struct Entered {
    count: usize,
    ended: Arc<Ended>,
}

/// Tells sessions that began at the same opening of their account that it is closed.
#[derive(Default)]
struct Ended {
    ended: AtomicBool,
    told: Notify,
}

/// One session of an account, counted until it is dropped.
pub struct SessionSlot {
    sessions: Sessions,
    account: AccountId,
    ended: Arc<Ended>,
}

/// Why a session does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnterError {
    /// The account has as many as it may have.
    #[error("the account has too many sessions")]
    TooMany,
    /// The account is closed.
    #[error("the account is closed")]
    Closed,
}

impl Sessions {
    /// None so far.
    pub fn new() -> Sessions {
        Sessions::default()
    }

    /// Counts one more session of an account, unless there are `max` already.
    pub fn enter(&self, account: AccountId, max: usize) -> Result<SessionSlot, EnterError> {
        let mut inner = self.inner.lock();
        if inner.closed.contains(&account) {
            return Err(EnterError::Closed);
        }
        let fresh = || Entered { count: 0, ended: Arc::default() };
        let entered = inner.accounts.entry(account).or_insert_with(fresh);
        if entered.count >= max {
            return Err(EnterError::TooMany);
        }
        entered.count += 1;
        let ended = entered.ended.clone();
        Ok(SessionSlot { sessions: self.clone(), account, ended })
    }

    /// Tells an account's sessions to end, and lets none begin until [`Sessions::open`].
    pub fn close(&self, account: AccountId) {
        let ended = {
            let mut inner = self.inner.lock();
            inner.closed.insert(account);
            // Sessions of after the next opening are others.
            inner.accounts.get_mut(&account).map(|entered| std::mem::take(&mut entered.ended))
        };
        if let Some(ended) = ended {
            ended.ended.store(true, Ordering::Release);
            ended.told.notify_waiters();
        }
    }

    /// Lets sessions of an account begin again.
    pub fn open(&self, account: AccountId) {
        self.inner.lock().closed.remove(&account);
    }

    /// The sessions of an account now.
    pub fn of(&self, account: AccountId) -> usize {
        self.inner.lock().accounts.get(&account).map_or(0, |entered| entered.count)
    }
}

impl SessionSlot {
    /// Whether the account was closed since the session began.
    pub fn is_ended(&self) -> bool {
        self.ended.ended.load(Ordering::Acquire)
    }

    /// Returns when the account is closed. Safe to cancel.
    pub async fn ended(&self) {
        let mut told = std::pin::pin!(self.ended.told.notified());
        // From here on a closing is heard, so it cannot fall between the look and the wait.
        told.as_mut().enable();
        if !self.is_ended() {
            told.await;
        }
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let mut inner = self.sessions.inner.lock();
        if let Some(entered) = inner.accounts.get_mut(&self.account) {
            entered.count -= 1;
            if entered.count == 0 {
                inner.accounts.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> AccountId {
        AccountId::new(7).expect("it is not zero")
    }

    #[test]
    fn sessions_of_an_account_are_bounded_and_given_back() {
        let sessions = Sessions::new();
        let first = sessions.enter(account(), 2).expect("there is room");
        let second = sessions.enter(account(), 2).expect("there is room");
        assert_eq!(sessions.enter(account(), 2).err(), Some(EnterError::TooMany));
        drop(first);
        assert_eq!(sessions.of(account()), 1);
        drop(second);
        assert!(sessions.inner.lock().accounts.is_empty());
    }

    #[tokio::test]
    async fn closing_ends_the_sessions_that_there_are() {
        let sessions = Sessions::new();
        let before = sessions.enter(account(), 9).expect("there is room");
        let other = sessions.enter(AccountId::new(8).expect("it is not zero"), 9).expect("there is room");
        let waiting = async {
            before.ended().await;
            true
        };
        let (ended, ()) = tokio::join!(waiting, async { sessions.close(account()) });
        assert!(ended && before.is_ended() && !other.is_ended());
        // Who asks late hears it too.
        before.ended().await;
        assert_eq!(sessions.enter(account(), 9).err(), Some(EnterError::Closed));
        sessions.open(account());
        let after = sessions.enter(account(), 9).expect("it is open");
        assert!(!after.is_ended());
        drop((before, after));
        assert_eq!(sessions.of(account()), 0);
    }
}
