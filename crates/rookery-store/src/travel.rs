//! Accounts on their way to another home: what a store does of it. It knows no other node; who uses this carries the
//! records and the octets, and decides when which state is reached.
//!
//! Where an account leaves: [`Account::freeze`] stops its changes for a moment, [`Frozen::release`] for good. Whoever
//! changes an account by more than one transaction holds an [`Account::guard`] meanwhile, and is waited for.
//! [`Account::whereabouts`] tells its sessions when they are to follow. [`Outgoing`] copies its records meanwhile.
//!
//! Where it goes: [`Incoming`] takes them, in a state in which nobody uses the account, until
//! [`Store::take_home`] makes it at home there, or [`Store::cancel_receiving`] drops it.
//!
//! Invariants:
//! - While an account is frozen nothing of it changes, and all that was acknowledged is durable.
//! - What is released stays so, through crashes as well: every change of it is refused with [`StoreError::Moved`], and
//!   nothing was changed by what is refused so.

mod forget;
mod frames;
mod gate;
mod jobs;
mod ranges;
mod receive;
mod send;
mod tap;
#[cfg(test)]
mod tests;

pub(crate) use forget::forget_moved;
pub use frames::FRAME_OCTETS_MAX;
pub(crate) use gate::Gate;
pub use gate::{CommandGuard, Frozen};
pub use jobs::{Job, Stage};
pub(crate) use jobs::{job_of, read_job};
pub(crate) use ranges::{SPACES, digest_of_all};
pub use receive::Incoming;
pub(crate) use receive::{Berths, relocate};
pub use send::{Exchange, Outgoing, SendError};
pub(crate) use tap::Taps;

use crate::account::Account;
use crate::error::StoreError;
use crate::records::AccountState;
use crate::sequencer::Transaction;
use crate::store::Store;
use rookery_types::{AccountId, Epoch, NodeId};
use std::pin::pin;
use tokio::sync::watch;

/// Where an account is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// In this store.
    Here,
    /// At another node, which is its home and serves it.
    Left {
        /// Which.
        node: NodeId,
        /// The account's epoch there.
        epoch: Epoch,
    },
}

impl Account {
    /// Begins a change. Waits while the account is frozen; `Moved` once it has been released.
    pub(crate) async fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        loop {
            // Nothing of what is begun lives while this waits.
            if let Some(transaction) = self.try_begin()? {
                return Ok(transaction);
            }
            self.until_open().await;
        }
    }

    /// Begins a change; `None` while the account is frozen.
    pub(crate) fn try_begin(&self) -> Result<Option<Transaction<'_>>, StoreError> {
        let transaction = self.cell.begin(self.store.engine())?;
        match transaction.record.state {
            AccountState::Home => Ok((!transaction.is_frozen()).then_some(transaction)),
            AccountState::Deleted => Err(StoreError::NoAccount),
            // Whether it is released is known when that is on the disk.
            _ if self.cell.record.load().state == AccountState::Home => {
                self.store.committer().poison().map_or(Ok(None), |error| Err(error.into()))
            }
            #[cfg(feature = "sim")]
            _ if rookery_kv::defect::is_planted(rookery_kv::defect::Defect::NoEpochCheck) => {
                Ok(Some(transaction))
            }
            _ => Err(StoreError::Moved),
        }
    }

    /// The account as the next change would see it, for reading alone: also while it is frozen or has been released.
    pub(crate) fn peek(&self) -> Result<Transaction<'_>, StoreError> {
        let transaction = self.cell.begin(self.store.engine())?;
        match transaction.record.state {
            AccountState::Deleted => Err(StoreError::NoAccount),
            _ => Ok(transaction),
        }
    }

    /// Waits until the account is not frozen any more.
    pub(crate) async fn until_open(&self) {
        let mut thawed = pin!(self.cell.gate.thawed());
        thawed.as_mut().enable();
        if !matches!(self.try_begin(), Ok(None)) {
            return;
        }
        thawed.await;
    }

    /// Where it is served. `Left` is told once its new home serves it: whoever follows is served there.
    pub fn whereabouts(&self) -> watch::Receiver<Whereabouts> {
        self.cell.whereabouts.subscribe()
    }

    /// Tells everybody who has it open that its new home serves it. Nothing happens unless it has been released.
    pub fn leave(&self) {
        let state = self.cell.record.load().state;
        if let AccountState::Released(travel) | AccountState::Moved(travel) = state {
            let left = Whereabouts::Left { node: travel.peer, epoch: travel.epoch };
            self.cell.whereabouts.send_if_modified(|told| std::mem::replace(told, left) != left);
        }
    }
}

impl Store {
    /// Where this store knows an account to be served, and since which epoch, for those who want to go there: an account
    /// that was given away and is still served here is here. `None`: the store does not know. Reads the disk, unless the
    /// account is in memory.
    pub fn standing(&self, id: AccountId) -> Result<Option<(Whereabouts, Epoch)>, StoreError> {
        if let Some(account) = self.in_memory(id) {
            let whereabouts = *account.cell.whereabouts.borrow();
            let record = account.cell.record.load();
            return Ok(match (whereabouts, record.state) {
                (_, AccountState::Deleted) => None,
                (Whereabouts::Here, _) => Some((whereabouts, record.epoch)),
                (Whereabouts::Left { epoch, .. }, _) => Some((whereabouts, epoch)),
            });
        }
        let Some(record) = self.account_record(id)? else { return Ok(None) };
        Ok(match (record.state, self.whereabouts(id)?) {
            // What is on its way here is the directory's to tell.
            (AccountState::Receiving(_) | AccountState::Ready(_), _) => None,
            (_, Some(Whereabouts::Here)) => Some((Whereabouts::Here, record.epoch)),
            (_, Some(left @ Whereabouts::Left { epoch, .. })) => Some((left, epoch)),
            (_, None) => None,
        })
    }

    /// Where this store knows an account to be served, by the account's own record: the directory's copy may know less,
    /// or not be had. `None`: the store has never had it, or it is deleted. Reads the disk.
    pub fn whereabouts(&self, id: AccountId) -> Result<Option<Whereabouts>, StoreError> {
        let Some(record) = self.account_record(id)? else { return Ok(None) };
        Ok(match record.state {
            AccountState::Home => Some(Whereabouts::Here),
            AccountState::Deleted => None,
            // It is not here yet, and stays where it is as long as it may.
            AccountState::Receiving(travel) | AccountState::Ready(travel) => {
                let epoch = Epoch(travel.epoch.0.saturating_sub(1));
                Some(Whereabouts::Left { node: travel.peer, epoch })
            }
            AccountState::Released(travel) | AccountState::Moved(travel) => {
                Some(Whereabouts::Left { node: travel.peer, epoch: travel.epoch })
            }
        })
    }
}
