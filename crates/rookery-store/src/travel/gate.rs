//! How an account's changes are stopped: for a moment, so that the other node gets the last of them, and then for good.
//!
//! It is done in two steps. While the gate is *closing*, whoever asks for a guard waits, and those who hold one go on
//! with all their transactions. When nobody holds one, the account is *frozen*: transactions wait, and those before
//! become durable. If guards are not given back soon, the gate opens again.

use crate::account::Account;
use crate::committer::CommitError;
use crate::error::StoreError;
use crate::records::{AccountState, Travel};
use crate::sequencer::AccountCell;
use crate::transit;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// Who holds a guard: a task may take another one while it holds one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Holder {
    Task(tokio::task::Id),
    Thread(ThreadId),
}

impl Holder {
    fn current() -> Holder {
        match tokio::task::try_id() {
            Some(id) => Holder::Task(id),
            None => Holder::Thread(std::thread::current().id()),
        }
    }
}

#[derive(Debug, Default)]
struct Guards {
    closing: bool,
    held: HashMap<Holder, usize>,
}

/// The gate before an account's changes.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    guards: Mutex<Guards>,
    /// Told when the last guard is given back.
    idle: Notify,
    /// Told when the gate opens again, or closes for good.
    thawed: Notify,
}

impl Gate {
    /// Ends when the gate opens next, or closes for good.
    pub(crate) fn thawed(&self) -> Notified<'_> {
        self.thawed.notified()
    }

    fn take(&self, holder: Holder) -> bool {
        let mut guards = self.guards.lock();
        if guards.closing && !guards.held.contains_key(&holder) {
            return false;
        }
        *guards.held.entry(holder).or_default() += 1;
        true
    }

    fn give_back(&self, holder: Holder) {
        let mut guards = self.guards.lock();
        if let Some(count) = guards.held.get_mut(&holder) {
            *count -= 1;
            if *count == 0 {
                guards.held.remove(&holder);
            }
        }
        if guards.held.is_empty() && guards.closing {
            self.idle.notify_waiters();
        }
    }

    pub(crate) fn open(&self) {
        self.guards.lock().closing = false;
        self.thawed.notify_waiters();
    }

    /// Whether all guards are given back before the deadline; nobody gets a new one from now on.
    async fn close(&self, deadline: Instant) -> bool {
        loop {
            let mut idle = pin!(self.idle.notified());
            idle.as_mut().enable();
            {
                let mut guards = self.guards.lock();
                guards.closing = true;
                if guards.held.is_empty() {
                    return true;
                }
            }
            if tokio::time::timeout_at(deadline, idle).await.is_err() {
                return self.guards.lock().held.is_empty();
            }
        }
    }
}

/// Held by whatever changes an account by more than one transaction: the account is not frozen meanwhile, so that all
/// of it is done here, or none.
#[derive(Debug)]
pub struct CommandGuard {
    cell: Arc<AccountCell>,
    holder: Holder,
}

impl Drop for CommandGuard {
    fn drop(&mut self) {
        self.cell.gate.give_back(self.holder);
    }
}

/// Opens the gate again, unless the account is released.
struct Closing<'a>(&'a AccountCell);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.set_frozen(false);
        self.0.gate.open();
    }
}

/// An account that stands still. It goes on when this is dropped, unless it was released.
#[derive(Debug)]
pub struct Frozen {
    account: Account,
    modseq: u64,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(Closing(&self.account.cell));
    }
}

impl Frozen {
    /// The account's modseq, which stays as it is.
    pub fn modseq(&self) -> u64 {
        self.modseq
    }

    /// Gives the account away, for good. Once this returns, and after any crash from then on, nothing of it changes here
    /// any more. An error leaves open whether it is so: the store is read-only then, and its next opening tells.
    pub async fn release(self, travel: Travel) -> Result<(), StoreError> {
        let ticket = {
            let mut t = self.account.cell.begin(self.account.store.engine())?;
            if t.record.state != AccountState::Home {
                return Err(StoreError::NoAccount);
            }
            t.record.state = AccountState::Released(Travel { modseq: self.modseq, ..travel });
            // Moves of its messages go on at its new home.
            transit::forget_pointers(&mut t, self.account.id())?;
            t.finish(self.account.store.committer())
        };
        ticket.wait().await?;
        Ok(())
    }
}

impl Account {
    /// Leave to change the account by more than one transaction. Waits while it is closing or frozen; `Moved` once it
    /// has been released. A task that holds one gets another at once.
    pub async fn guard(&self) -> Result<CommandGuard, StoreError> {
        let holder = Holder::current();
        loop {
            let mut thawed = pin!(self.cell.gate.thawed());
            thawed.as_mut().enable();
            let taken = self.cell.gate.take(holder);
            let guard = taken.then(|| CommandGuard { cell: self.cell.clone(), holder });
            // Looked at behind that: just before, it may have been released.
            if matches!(self.cell.record.load().state, AccountState::Released(_) | AccountState::Moved(_)) {
                return Err(StoreError::Moved);
            }
            match guard {
                Some(guard) => return Ok(guard),
                None => thawed.await,
            }
        }
    }

    /// Stops the account's changes. When it returns all that was queued is durable. `None`: guards were held for longer
    /// than `patience`, and everything goes on. One at a time.
    pub async fn freeze(&self, patience: Duration) -> Result<Option<Frozen>, StoreError> {
        let closing = Closing(&self.cell);
        if !self.cell.gate.close(Instant::now() + patience).await {
            return Ok(None);
        }
        self.cell.set_frozen(true);
        let ticket = {
            let t = self.cell.begin(self.store.engine())?;
            match t.record.state {
                AccountState::Home => {}
                AccountState::Deleted => return Err(StoreError::NoAccount),
                _ => return Err(StoreError::Moved),
            }
            // Nothing is changed by it: it ends when all before it has.
            t.finish(self.store.committer())
        };
        match ticket.wait().await {
            Ok(()) => {}
            Err(error @ CommitError::Fenced) => {
                tracing::error!(account = %self.id(), "an account that is at home was fenced off");
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        }
        self.cell.tidy();
        let modseq = self.modseq();
        std::mem::forget(closing);
        Ok(Some(Frozen { account: self.as_kept(), modseq }))
    }
}
