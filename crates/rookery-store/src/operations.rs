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
use crate::mailbox::Copied;
use crate::records::{decode_uids, encode_uids};
use crate::sequencer::Transaction;
use crate::store::now_unix;
use bytes::Bytes;
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{AccountId, MailboxId, OperationId, Uid, UidSet, UidValidity};

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
    /// Messages of another mailbox are copied in more than one step, of which the last was not taken yet.
    Copying,
    /// They are copied.
    Copied {
        /// The mailbox's number.
        mailbox: u32,
        uid_validity: UidValidity,
        /// Their UIDs where they were.
        from: UidSet,
        /// And in the mailbox, in the same order.
        to: UidSet,
    },
    /// Messages of another mailbox have come, and go there; or have gone.
    Moved {
        /// The mailbox's number.
        mailbox: u32,
        uid_validity: UidValidity,
        /// The mailbox that they leave.
        source: MailboxId,
        from: UidSet,
        to: UidSet,
        extent: Extent,
    },
}

/// How much of a move is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    /// More is to come.
    Open,
    /// No more will come.
    Part,
    /// All of it.
    Whole,
}

/// What has come of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settled {
    /// Messages were appended.
    Appended(Appended),
    /// They were copied.
    Copied(Copied),
    /// They were moved.
    Moved {
        /// Which, as far as they came.
        moved: Copied,
        /// The mailbox that they leave; see [`Store::finish_move`](crate::Store::finish_move).
        source: MailboxId,
        /// Whether that is all of them. No others will be.
        whole: bool,
    },
    /// It was not done, and never will be.
    Undone,
    /// Some of it is done; it may still go on.
    Open,
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
            Operation::Copying => {
                e.u8(2);
            }
            Operation::Copied { mailbox, uid_validity, from, to } => {
                e.u8(3).varint((*mailbox).into()).varint(uid_validity.get().into());
                encode_uids(&mut e, from);
                encode_uids(&mut e, to);
            }
            Operation::Moved { mailbox, uid_validity, source, from, to, extent } => {
                e.u8(4).varint((*mailbox).into()).varint(uid_validity.get().into());
                e.varint(source.account.get()).varint(source.number.into());
                e.u8(match extent {
                    Extent::Open => 0,
                    Extent::Part => 1,
                    Extent::Whole => 2,
                });
                encode_uids(&mut e, from);
                encode_uids(&mut e, to);
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
                2 => Some(Operation::Copying),
                3 => {
                    let (mailbox, uid_validity) = (d.varint32()?, UidValidity::new(d.varint32()?)?);
                    let (from, to) = (decode_uids(d)?, decode_uids(d)?);
                    Some(Operation::Copied { mailbox, uid_validity, from, to })
                }
                4 => {
                    let (mailbox, uid_validity) = (d.varint32()?, UidValidity::new(d.varint32()?)?);
                    let source = MailboxId { account: AccountId::new(d.varint()?)?, number: d.varint32()? };
                    let extent = match d.u8()? {
                        0 => Extent::Open,
                        1 => Extent::Part,
                        2 => Extent::Whole,
                        _ => return None,
                    };
                    let (from, to) = (decode_uids(d)?, decode_uids(d)?);
                    Some(Operation::Moved { mailbox, uid_validity, source, from, to, extent })
                }
                _ => None,
            }
        })
    }

    /// What to say of it.
    fn settled(&self) -> Settled {
        match self {
            Operation::Appended { uid_validity, first, count, .. } => {
                let uids = (first.get()..first.get().saturating_add(*count)).filter_map(Uid::new);
                Settled::Appended(Appended { uid_validity: *uid_validity, uids: uids.collect() })
            }
            Operation::GivenUp => Settled::Undone,
            Operation::Copying => Settled::Open,
            Operation::Copied { uid_validity, from, to, .. } => {
                Settled::Copied(copied_of(*uid_validity, from, to))
            }
            Operation::Moved { uid_validity, source, from, to, extent, .. } => Settled::Moved {
                moved: copied_of(*uid_validity, from, to),
                source: *source,
                whole: *extent == Extent::Whole,
            },
        }
    }

    fn is_about(&self, entry: &TailEntry) -> bool {
        match self {
            Operation::Appended { mailbox, first, count, .. } => {
                let place = entry.uid.get().checked_sub(first.get());
                *mailbox == entry.mailbox.number && place.is_some_and(|place| place < *count)
            }
            Operation::Copied { mailbox, to, .. } | Operation::Moved { mailbox, to, .. } => {
                *mailbox == entry.mailbox.number && to.contains(entry.uid.get())
            }
            Operation::GivenUp | Operation::Copying => false,
        }
    }
}

fn copied_of(uid_validity: UidValidity, from: &UidSet, to: &UidSet) -> Copied {
    let each = |uids: &UidSet| uids.iter().filter_map(Uid::new).collect();
    Copied { uid_validity, from: each(from), to: each(to) }
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

    /// What came of an operation. One of which nothing is known is given up; a move that is under way goes no further.
    pub async fn settle_operation(&self, id: OperationId) -> Result<Settled, StoreError> {
        let settled = self.transact(|t| {
            let now = match known(t, self.id(), id)? {
                Some(Operation::Moved { mailbox, uid_validity, source, from, to, extent: Extent::Open }) => {
                    let extent = Extent::Part;
                    Operation::Moved { mailbox, uid_validity, source, from, to, extent }
                }
                Some(known) => return Ok(known),
                None => Operation::GivenUp,
            };
            remember(t, self.id(), &[id], &now)?;
            Ok(now)
        });
        Ok(settled.await?.settled())
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

/// What the first of some operations came to that is known.
fn first_known(
    t: &Transaction<'_>,
    account: AccountId,
    ids: &[OperationId],
) -> Result<Option<Settled>, StoreError> {
    for id in ids {
        if let Some(known) = known(t, account, *id)? {
            return Ok(Some(known.settled()));
        }
    }
    Ok(None)
}

/// What an append has brought already as one of some operations. One that was given up, or is something else, is
/// refused.
pub(crate) fn appended(
    t: &Transaction<'_>,
    account: AccountId,
    ids: &[OperationId],
) -> Result<Option<Appended>, StoreError> {
    match first_known(t, account, ids)? {
        None => Ok(None),
        Some(Settled::Appended(appended)) => Ok(Some(appended)),
        Some(_) => Err(StoreError::GivenUp),
    }
}

/// The same of a copy or move.
pub(crate) fn copied(
    t: &Transaction<'_>,
    account: AccountId,
    ids: &[OperationId],
) -> Result<Option<Copied>, StoreError> {
    match first_known(t, account, ids)? {
        None => Ok(None),
        Some(Settled::Copied(copied) | Settled::Moved { moved: copied, whole: true, .. }) => Ok(Some(copied)),
        Some(_) => Err(StoreError::GivenUp),
    }
}

/// Refuses to go on with a move that nobody waits for any more, since what came of it was asked for.
pub(crate) fn goes_on(
    t: &Transaction<'_>,
    account: AccountId,
    ids: &[OperationId],
) -> Result<(), StoreError> {
    for id in ids {
        match known(t, account, *id)? {
            Some(Operation::Moved { extent: Extent::Open, .. }) => {}
            _ => return Err(StoreError::GivenUp),
        }
    }
    Ok(())
}

/// Writes down what a move out of a mailbox has come to with this change.
pub(crate) fn remember_moved(
    t: &mut Transaction<'_>,
    (source, to): (MailboxId, MailboxId),
    ids: &[OperationId],
    moved: &Copied,
    are_all: bool,
) -> Result<(), StoreError> {
    let result = Operation::Moved {
        mailbox: to.number,
        uid_validity: moved.uid_validity,
        source,
        from: moved.from.iter().copied().collect(),
        to: moved.to.iter().copied().collect(),
        extent: if are_all { Extent::Whole } else { Extent::Open },
    };
    remember(t, to.account, ids, &result)
}

/// Writes down what a copy comes to with this change. None: there is more to come.
pub(crate) fn remember_copied(
    t: &mut Transaction<'_>,
    to: MailboxId,
    ids: &[OperationId],
    copied: Option<&Copied>,
) -> Result<(), StoreError> {
    let result = match copied {
        None => Operation::Copying,
        Some(Copied { uid_validity, from, to: there }) => Operation::Copied {
            mailbox: to.number,
            uid_validity: *uid_validity,
            from: from.iter().copied().collect(),
            to: there.iter().copied().collect(),
        },
    };
    remember(t, to.account, ids, &result)
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
            assert_eq!(account.settle_operation(id(n)).await.unwrap(), Settled::Undone);
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
        let (from, to) =
            (UidSet::from_iter([1, 9].map(|uid| Uid::new(uid).unwrap())), UidSet::range(300, 301));
        let copied = Operation::Copied { mailbox: 3, uid_validity, from, to };
        let moved = |extent| {
            let (from, to) = (UidSet::range(7, 8), UidSet::range(300, 301));
            let source = MailboxId { account: AccountId::new(9).unwrap(), number: 4 };
            Operation::Moved { mailbox: 3, uid_validity, source, from, to, extent }
        };
        let moves = [Extent::Open, Extent::Part, Extent::Whole].map(moved);
        let others = [appended.clone(), Operation::GivenUp, Operation::Copying, copied.clone()];
        for operation in others.into_iter().chain(moves) {
            assert_eq!(Operation::decode(&key, &operation.encode(&key)), Ok(operation));
        }
        let uids = [300, 301].map(|uid| Uid::new(uid).unwrap()).to_vec();
        assert_eq!(appended.settled(), Settled::Appended(Appended { uid_validity, uids: uids.clone() }));
        let from = [1, 9].map(|uid| Uid::new(uid).unwrap()).to_vec();
        assert_eq!(copied.settled(), Settled::Copied(Copied { uid_validity, from, to: uids }));
    }
}
