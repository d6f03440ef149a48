//! Annotations (RFC 5464): named values on mailboxes, or on an account as a whole, of one user or for all.
//!
//! Invariants:
//! - An annotation stands in the account of its mailbox, under the mailbox's number: it keeps it through renames, and
//!   goes with it. A user's private ones on somebody else's mailbox stand there too.
//! - How many there are and how many octets they take is bounded, and counted in the same batch as each change.
//! - Changes are all made or none.

use crate::account::{Account, set, take_special_use};
use crate::error::StoreError;
use crate::keys;
use crate::records::{self, AnnotationName, Annotations};
use crate::sequencer::Transaction;
use bytes::Bytes;
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{MailboxId, SpecialUse, UserName};

/// Octets that an annotation counts for besides its name and value.
const OVERHEAD_OCTETS: u64 = 64;

/// A change of one annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Which one.
    pub name: AnnotationName,
    /// Its new value; `None` takes it away.
    pub value: Option<Bytes>,
}

impl Account {
    /// The annotations of a mailbox, or of the account itself, that all share or that are one user's, by their
    /// entries in order. Reads the disk.
    pub fn annotations(
        &self,
        of: Option<MailboxId>,
        owner: Option<&UserName>,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        let prefix = keys::annotations_of(self.id(), of, owner);
        let mut found = Vec::new();
        let mut failure = None;
        self.store.engine().scan(
            Space::Account,
            &prefix,
            prefix_end(&prefix).as_deref(),
            false,
            &mut |key, value| {
                match records::decode_annotation(key, value) {
                    Ok((_, name, value)) => found.push((name.entry.into(), value)),
                    Err(damaged) => failure = Some(damaged),
                }
                failure.is_none()
            },
        )?;
        match failure {
            Some(damaged) => Err(StoreError::Damaged(damaged)),
            None => Ok(found),
        }
    }

    /// Changes annotations of a mailbox, or of the account itself, all or none. `special_use`: what the mailbox is
    /// for from now on, if that changes with them (RFC 6154 §5).
    ///
    /// `TooMany` if one user, or all together, would have too many here or the account too much; `TooLarge` for a
    /// value beyond the store's limit.
    pub async fn annotate(
        &self,
        of: Option<MailboxId>,
        changes: &[Annotation],
        special_use: Option<Vec<SpecialUse>>,
    ) -> Result<(), StoreError> {
        let max = self.store.options().annotation_octets_max;
        if changes.iter().any(|change| change.value.as_ref().is_some_and(|value| value.len() as u64 > max)) {
            return Err(StoreError::TooLarge(max));
        }
        self.transact(|t| {
            if let Some(id) = of {
                t.mailbox(id).ok_or(StoreError::NoMailbox)?;
                if let Some(special_use) = special_use {
                    take_special_use(t, &special_use)?;
                    set(t, id, |settings| settings.special_use = special_use)?;
                }
            }
            let mut changed = Vec::new();
            for change in changes {
                if put(t, self, of, change)? {
                    changed.push(change.name.clone());
                }
            }
            if !changed.is_empty() {
                t.note_annotations(of, changed);
            }
            check(t, self, of, changes)
        })
        .await
    }
}

fn octets(key: &[u8], value: &[u8]) -> u64 {
    (key.len() as u64).saturating_add(value.len() as u64).saturating_add(OVERHEAD_OCTETS)
}

/// What the account's annotations come to.
fn usage(t: &Transaction<'_>, account: &Account) -> Result<Annotations, StoreError> {
    let key = keys::annotation_usage(account.id());
    match t.get(Space::Account, &key)? {
        Some(value) => Annotations::decode(&key, &value).map_err(StoreError::Damaged),
        None => Ok(Annotations::default()),
    }
}

fn put_usage(t: &mut Transaction<'_>, account: &Account, usage: Annotations) {
    let key = keys::annotation_usage(account.id());
    match usage.count {
        0 => t.delete(Space::Account, key.to_vec()),
        _ => t.put(Space::Account, key.to_vec(), usage.encode(&key)),
    }
}

impl Annotations {
    /// Counts one record in.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.saturating_add(1);
        self.octets = self.octets.saturating_add(octets(key, value));
    }

    /// Counts one record out.
    pub(crate) fn subtract(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.saturating_sub(1);
        self.octets = self.octets.saturating_sub(octets(key, value));
    }
}

/// Writes or takes away one annotation; returns whether that changes anything.
fn put(
    t: &mut Transaction<'_>,
    account: &Account,
    of: Option<MailboxId>,
    change: &Annotation,
) -> Result<bool, StoreError> {
    let key = keys::annotation(account.id(), of, change.name.owner.as_ref(), &change.name.entry);
    let old = t.get(Space::Account, &key)?;
    let new = change.value.as_ref().map(|value| records::encode_annotation(&key, value));
    if old == new {
        return Ok(false);
    }
    let mut usage = usage(t, account)?;
    if let Some(old) = &old {
        usage.subtract(&key, old);
    }
    match new {
        Some(new) => {
            usage.add(&key, &new);
            t.put(Space::Account, key, new);
        }
        None => t.delete(Space::Account, key),
    }
    put_usage(t, account, usage);
    Ok(true)
}

/// Refuses what would be too many. Taking away is never refused.
fn check(
    t: &Transaction<'_>,
    account: &Account,
    of: Option<MailboxId>,
    changes: &[Annotation],
) -> Result<(), StoreError> {
    let options = account.store.options();
    if changes.iter().all(|change| change.value.is_none()) {
        return Ok(());
    }
    if usage(t, account)?.octets > options.account_annotation_octets_max {
        return Err(StoreError::TooMany("annotations"));
    }
    let mut owners: Vec<Option<&UserName>> =
        changes.iter().map(|change| change.name.owner.as_ref()).collect();
    owners.sort();
    owners.dedup();
    for owner in owners {
        let prefix = keys::annotations_of(account.id(), of, owner);
        let max = options.annotations_max;
        let found = t.scan(Space::Account, &prefix, prefix_end(&prefix).as_deref(), max.saturating_add(1))?;
        if found.len() > max {
            return Err(StoreError::TooMany("annotations"));
        }
    }
    Ok(())
}

/// Gives a mailbox copies of all annotations of another.
pub(crate) fn copy(
    t: &mut Transaction<'_>,
    account: &Account,
    from: MailboxId,
    to: MailboxId,
) -> Result<(), StoreError> {
    let prefix = keys::annotations(account.id(), Some(from));
    let mut usage = usage(t, account)?;
    let mut changed = Vec::new();
    for (key, value) in t.scan(Space::Account, &prefix, prefix_end(&prefix).as_deref(), usize::MAX)? {
        let (_, name, value) = records::decode_annotation(&key, &value).map_err(StoreError::Damaged)?;
        let key = keys::annotation(account.id(), Some(to), name.owner.as_ref(), &name.entry);
        let value = records::encode_annotation(&key, &value);
        usage.add(&key, &value);
        t.put(Space::Account, key, value);
        changed.push(name);
    }
    if changed.is_empty() {
        return Ok(());
    }
    if usage.octets > account.store.options().account_annotation_octets_max {
        return Err(StoreError::TooMany("annotations"));
    }
    put_usage(t, account, usage);
    t.note_annotations(Some(to), changed);
    Ok(())
}

/// Forgets annotations of a deleted mailbox, at most so many; returns whether there may be more.
pub(crate) fn forget(
    t: &mut Transaction<'_>,
    account: &Account,
    id: MailboxId,
    max: usize,
) -> Result<bool, StoreError> {
    let prefix = keys::annotations(account.id(), Some(id));
    let doomed = t.scan(Space::Account, &prefix, prefix_end(&prefix).as_deref(), max)?;
    let more = doomed.len() == max;
    if doomed.is_empty() {
        return Ok(false);
    }
    let mut usage = usage(t, account)?;
    for (key, value) in doomed {
        usage.subtract(&key, &value);
        t.delete(Space::Account, key);
    }
    put_usage(t, account, usage);
    Ok(more)
}
