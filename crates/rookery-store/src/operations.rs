//! What has come of changes that another node asked for, by their ids: a repetition is answered and not done again, and
//! whoever has lost an answer can ask for it.
//!
//! Invariants:
//! - The result stands in the batch of the change, so both are there after a crash or neither is.
//! - What was asked for before it came is given up for good: if it comes later, it is refused. So the answer to a
//!   question never changes.
//! - Results are kept for an hour at least. They stand by the hour of this node's clock, and a change takes some of
//!   those away that are older, more than it adds; so an account has those of its last hours with changes and no others.

use crate::account::Account;
use crate::append::{Along, Appended, NewMessage};
use crate::committer::TailEntry;
use crate::encoding::{Damaged, Encoder, open, seal};
use crate::error::StoreError;
use crate::keys;
use crate::sequencer::Transaction;
use crate::store::now_unix;
use bytes::Bytes;
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{AccountId, MailboxId, OperationId, Uid, UidValidity};

/// Old results that one change takes away.
const SWEPT: usize = 8;

/// What has come of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// Messages are in a mailbox, or were.
    Appended {
        /// The mailbox's number.
        mailbox: u32,
        uid_validity: UidValidity,
        /// The UID of the first; the others have those that follow.
        first: Uid,
        count: u32,
    },
    /// It was given up before it came.
    GivenUp,
}

impl Operation {
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        match self {
            Operation::Appended { mailbox, uid_validity, first, count } => {
                e.u8(0).varint((*mailbox).into()).varint(uid_validity.get().into());
                e.varint(first.get().into()).varint((*count).into());
            }
            Operation::GivenUp => {
                e.u8(1);
            }
        }
        seal(Space::Account, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Operation, Damaged> {
        open(Space::Account, key, value, |d| {
            d.layout(1)?;
            match d.u8()? {
                0 => {
                    let (mailbox, uid_validity) = (d.varint32()?, UidValidity::new(d.varint32()?)?);
                    let (first, count) = (Uid::new(d.varint32()?)?, d.varint32()?);
                    first.get().checked_add(count)?;
                    Some(Operation::Appended { mailbox, uid_validity, first, count })
                }
                1 => Some(Operation::GivenUp),
                _ => None,
            }
        })
    }

    /// What to say to a repetition.
    fn answer(&self) -> Result<Appended, StoreError> {
        match self {
            Operation::Appended { uid_validity, first, count, .. } => {
                let uids = (first.get()..first.get().saturating_add(*count)).filter_map(Uid::new);
                Ok(Appended { uid_validity: *uid_validity, uids: uids.collect() })
            }
            Operation::GivenUp => Err(StoreError::GivenUp),
        }
    }

    fn is_about(&self, entry: &TailEntry) -> bool {
        match self {
            Operation::Appended { mailbox, first, count, .. } => {
                let place = entry.uid.get().checked_sub(first.get());
                *mailbox == entry.mailbox.number && place.is_some_and(|place| place < *count)
            }
            Operation::GivenUp => false,
        }
    }
}

/// The hour that results of now stand under.
fn this_hour() -> u32 {
    now_unix() / 3600
}

impl Account {
    /// Puts messages into a mailbox, all or none of them, as some operations; usually one. If one of them is done
    /// already, nothing is done now, and what came of it is the answer; if one was given up, [`StoreError::GivenUp`].
    pub async fn append_as(
        &self,
        operations: &[OperationId],
        to: MailboxId,
        messages: Vec<NewMessage>,
    ) -> Result<Appended, StoreError> {
        let along = Along::Remembered { once: None, operations };
        self.append_along(to, messages, Vec::new(), along).await?.ok_or(StoreError::NoContent)
    }

    /// What came of an operation; `None`: it was not done, and never will be.
    pub async fn settle_operation(&self, id: OperationId) -> Result<Option<Appended>, StoreError> {
        let settled = self.transact(|t| {
            if let Some(known) = known(t, self.id(), id)? {
                return Ok(known);
            }
            remember(t, self.id(), &[id], &Operation::GivenUp)?;
            Ok(Operation::GivenUp)
        });
        Ok(settled.await?.answer().ok())
    }
}

fn known(t: &Transaction<'_>, account: AccountId, id: OperationId) -> Result<Option<Operation>, StoreError> {
    let now = this_hour();
    // The clock may have been set back a little.
    for hour in [now, now.saturating_sub(1), now.saturating_add(1)] {
        let key = keys::operation(account, hour, id);
        if let Some(value) = t.get(Space::Account, &key)? {
            return Operation::decode(&key, &value).map(Some).map_err(StoreError::Damaged);
        }
    }
    Ok(None)
}

/// The answer of the first of some operations that is done, or given up.
pub(crate) fn answered(
    t: &Transaction<'_>,
    account: AccountId,
    ids: &[OperationId],
) -> Result<Option<Appended>, StoreError> {
    for id in ids {
        if let Some(known) = known(t, account, *id)? {
            return known.answer().map(Some);
        }
    }
    Ok(None)
}

/// Writes down what this change comes to.
pub(crate) fn remember_appended(
    t: &mut Transaction<'_>,
    to: MailboxId,
    ids: &[OperationId],
    appended: &Appended,
) -> Result<(), StoreError> {
    let (Some(first), Ok(count)) = (appended.uids.first(), u32::try_from(appended.uids.len())) else {
        return Ok(());
    };
    let Appended { uid_validity, .. } = *appended;
    let result = Operation::Appended { mailbox: to.number, uid_validity, first: *first, count };
    remember(t, to.account, ids, &result)
}

fn remember(
    t: &mut Transaction<'_>,
    account: AccountId,
    ids: &[OperationId],
    result: &Operation,
) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let now = this_hour();
    for id in ids {
        let key = keys::operation(account, now, *id);
        let value = result.encode(&key);
        t.put(Space::Account, key.to_vec(), value);
    }
    let kept = keys::operations_of(account, now.saturating_sub(1));
    let swept = ids.len().saturating_add(SWEPT);
    for (key, _) in t.scan(Space::Account, &keys::operations(account), Some(&kept), swept)? {
        t.delete(Space::Account, key);
    }
    Ok(())
}

/// Forgets what brought messages that a crash has taken back.
pub(crate) fn take_back(
    t: &mut Transaction<'_>,
    account: AccountId,
    entries: &[TailEntry],
) -> Result<(), StoreError> {
    let prefix = keys::operations(account);
    for (key, value) in t.scan(Space::Account, &prefix, prefix_end(&prefix).as_deref(), usize::MAX)? {
        let result = Operation::decode(&key, &value).map_err(StoreError::Damaged)?;
        if entries.iter().any(|entry| result.is_about(entry)) {
            t.delete(Space::Account, key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NewAccount, Store, StoreOptions};
    use rookery_kv::memory::MemoryEngine;
    use rookery_kv::sim::SimDisk;
    use std::sync::Arc;

    #[tokio::test]
    async fn results_go_after_an_hour() {
        let disk = SimDisk::new(3);
        let options = StoreOptions { background: None, ..StoreOptions::default() };
        let engine = Arc::new(MemoryEngine::new(disk.clone()));
        let store = Store::open(options, engine, Arc::new(disk.files())).unwrap();
        let account = store.create_account(AccountId::new(1).unwrap(), NewAccount::default()).await.unwrap();
        let id = |n: u8| OperationId([n; 16]);
        let now = this_hour();
        let old = [now - 3, now - 2, now - 1, now + 1];
        account
            .transact(|t| {
                for (hour, n) in old.into_iter().flat_map(|hour| (0..10).map(move |n| (hour, n))) {
                    let key = keys::operation(account.id(), hour, id(n));
                    t.put(Space::Account, key.to_vec(), Operation::GivenUp.encode(&key));
                }
                Ok(())
            })
            .await
            .unwrap();
        let hours = || {
            let (mut hours, prefix) = (Vec::new(), keys::operations(account.id()));
            let end = prefix_end(&prefix);
            store
                .engine()
                .scan(Space::Account, &prefix, end.as_deref(), false, &mut |key, _| {
                    hours.push(u32::from_be_bytes(key[9..13].try_into().unwrap()));
                    true
                })
                .unwrap();
            hours
        };
        // Each takes more away than it adds.
        for (n, left) in [(100, 32), (101, 24), (102, 23)] {
            assert_eq!(account.settle_operation(id(n)).await.unwrap(), None);
            assert_eq!(hours().len(), left);
        }
        let (before, hour) = (hours(), now - 1);
        assert!(before.iter().all(|one| *one >= hour));
        // One of the hour before, and of the next, is known.
        account.settle_operation(id(5)).await.unwrap();
        assert_eq!(hours(), before);
    }

    #[test]
    fn records_come_back_as_they_were() {
        let key = keys::operation(AccountId::new(7).unwrap(), 480_000, OperationId([9; 16]));
        let (uid_validity, first) = (UidValidity::new(5).unwrap(), Uid::new(300).unwrap());
        let appended = Operation::Appended { mailbox: 3, uid_validity, first, count: 2 };
        for operation in [appended.clone(), Operation::GivenUp] {
            assert_eq!(Operation::decode(&key, &operation.encode(&key)), Ok(operation));
        }
        let uids = [300, 301].map(|uid| Uid::new(uid).unwrap()).to_vec();
        assert_eq!(appended.answer().unwrap(), Appended { uid_validity, uids });
    }
}
