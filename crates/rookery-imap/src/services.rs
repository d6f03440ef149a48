//! What every session of this node shares.

use crate::config::ImapConfig;
use parking_lot::Mutex;
use rookery_auth::Authenticator;
use rookery_directory::Directory;
use rookery_net::{Networks, TlsAcceptor};
use rookery_route::{Administrators, Registrar, Router};
use rookery_store::Store;
use rookery_types::AccountId;
use std::collections::HashMap;
use std::sync::Arc;

/// What every session of this node shares.
pub struct Services {
    /// Mail.
    pub store: Store,
    /// Which accounts there are.
    pub directory: Arc<dyn Directory>,
    /// Where the commands on a mailbox run.
    pub router: Router,
    /// Who is asking.
    pub authenticator: Arc<Authenticator>,
    /// Makes accounts and takes them apart, for administrators.
    pub registrar: Arc<Registrar>,
    /// Who administers what.
    pub administrators: Administrators,
    /// For STARTTLS and for TLS ports; `None`: there is no certificate.
    pub tls: Option<TlsAcceptor>,
    /// The operator's settings.
    pub config: ImapConfig,
    /// The server's name, for the greeting.
    pub hostname: String,
    /// Networks from which passwords are taken without TLS, besides this machine.
    pub trusted: Networks,
    /// How many sessions each account has.
    pub sessions: Sessions,
}

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
