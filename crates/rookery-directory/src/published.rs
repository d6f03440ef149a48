//! Grants: which mailboxes an identifier may look up, so that LIST costs what it answers and not what there is.
//!
//! The truth is each mailbox's ACL in its account's store. A grant is written in the same batch as the ACL; what it
//! decides is only which mailboxes are looked at.
//!
//! Invariants:
//! - For every positive entry of an ACL with `l` there is a grant, but for the owner's own and for `anonymous`.
//! - A group and `anyone` stand for users of the account's domain.

use crate::DirectoryError;
use crate::change::{by_id, unavailable};
use crate::encoding::Damaged;
use crate::records::{self, PUBLISHED_KEY, encode_empty, grant_key};
use crate::repair::Mended;
use bytes::Bytes;
use rookery_kv::{Batch, Read, Space, prefix_end};
use rookery_types::{AccountName, Acl, Identifier, MailboxId, Rights};
use std::collections::BTreeSet;

/// The keys of a mailbox's grants.
fn keys(name: &AccountName, mailbox: MailboxId, acl: &Acl) -> BTreeSet<Vec<u8>> {
    let entries = acl.entries().iter();
    let grants = entries.filter(|entry| !entry.negative && entry.rights.contains(Rights::LOOKUP));
    let others = grants.filter(|entry| match &entry.identifier {
        Identifier::User(user) => name.user() != Some(user),
        _ => true,
    });
    others.filter_map(|entry| grant_key(&entry.identifier, name, mailbox)).collect()
}

/// Keys with what is to be written to them; `None`: they are to be deleted.
pub type Writes = Vec<(Vec<u8>, Option<Bytes>)>;

/// What must be written where the ACL of a mailbox was `before` and will be `after`; `None`: it is not to be seen.
/// `read` tells whose account it is. Nothing if no grant is another.
pub fn changes(
    read: &dyn Read,
    mailbox: MailboxId,
    before: Option<&Acl>,
    after: Option<&Acl>,
) -> Result<Writes, DirectoryError> {
    if before == after {
        return Ok(Vec::new());
    }
    let name = by_id(read, mailbox.account)?.name;
    let of = |acl: Option<&Acl>| acl.map(|acl| keys(&name, mailbox, acl)).unwrap_or_default();
    let (before, after) = (of(before), of(after));
    let gone = before.difference(&after).map(|key| (key.clone(), None));
    let come = after.difference(&before).map(|key| (key.clone(), Some(encode_empty(key))));
    Ok(gone.chain(come).collect())
}

pub(crate) fn granted(
    read: &dyn Read,
    domain: &str,
    to: &[Identifier],
    shared: bool,
    limit: usize,
) -> Result<BTreeSet<MailboxId>, DirectoryError> {
    let mut found = BTreeSet::new();
    for prefix in to.iter().filter_map(|to| records::grants_prefix(to, domain, shared)) {
        let mut damaged = None;
        let mut seen = 0;
        let end = prefix_end(&prefix);
        let scanned = read.scan(Space::Directory, &prefix, end.as_deref(), false, &mut |key, value| {
            seen += 1;
            match records::decode_grant(key, value) {
                Ok(mailbox) => drop(found.insert(mailbox)),
                Err(error) => damaged = Some(error),
            }
            damaged.is_none() && seen < limit
        });
        scanned.map_err(unavailable)?;
        if let Some(damaged) = damaged {
            return Err(damaged.into());
        }
    }
    Ok(found)
}

/// The grants that there must be. `mailboxes`: all that are to be seen, with their ACLs.
fn expected(read: &dyn Read, mailboxes: &[(MailboxId, Acl)]) -> Result<BTreeSet<Vec<u8>>, DirectoryError> {
    let mut expected = BTreeSet::new();
    for (mailbox, acl) in mailboxes {
        match by_id(read, mailbox.account) {
            Ok(entry) => expected.extend(keys(&entry.name, *mailbox, acl)),
            // The directory's own check tells of it.
            Err(DirectoryError::NotFound(_) | DirectoryError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(expected)
}

fn there(read: &dyn Read) -> Result<BTreeSet<Vec<u8>>, DirectoryError> {
    let mut there = BTreeSet::new();
    let prefix = [records::GRANT];
    let scanned =
        read.scan(Space::Directory, &prefix, prefix_end(&prefix).as_deref(), false, &mut |key, _| {
            there.insert(key.to_vec());
            true
        });
    scanned.map_err(unavailable)?;
    Ok(there)
}

/// Whether grants were ever written for all mailboxes.
pub fn is_complete(read: &dyn Read) -> Result<bool, DirectoryError> {
    Ok(read.get(Space::Directory, PUBLISHED_KEY).map_err(unavailable)?.is_some())
}

/// Tells of every grant that is missing, and of those that no ACL gives.
pub fn check(
    read: &dyn Read,
    mailboxes: &[(MailboxId, Acl)],
    fault: &mut dyn FnMut(Damaged),
) -> Result<(), DirectoryError> {
    if !is_complete(read)? {
        fault(Damaged::new(PUBLISHED_KEY, "it is missing, so grants are not complete"));
        return Ok(());
    }
    let (expected, there) = (expected(read, mailboxes)?, there(read)?);
    expected.difference(&there).for_each(|key| fault(Damaged::new(key, "it is missing")));
    there.difference(&expected).for_each(|key| fault(Damaged::new(key, "no mailbox grants it")));
    Ok(())
}

/// What makes the grants what the mailboxes' ACLs give, and what that mends. Nobody else changes them before it is
/// committed.
pub fn rebuild(
    read: &dyn Read,
    mailboxes: &[(MailboxId, Acl)],
) -> Result<(Batch, Vec<Mended>), DirectoryError> {
    let mut mended = Vec::new();
    let mut faults = Vec::new();
    check(read, mailboxes, &mut |fault| faults.push(fault))?;
    let (expected, there) = (expected(read, mailboxes)?, there(read)?);
    let mut batch = Batch::new();
    for key in there.difference(&expected) {
        batch.delete(Space::Directory, key.clone());
    }
    for key in expected.difference(&there) {
        batch.put(Space::Directory, key.clone(), encode_empty(key));
    }
    batch.put(Space::Directory, PUBLISHED_KEY.to_vec(), encode_empty(PUBLISHED_KEY));
    for fault in faults {
        mended.push(Mended {
            finding: fault.to_string(),
            outcome: "made anew from the mailboxes' rights".into(),
        });
    }
    Ok((batch, mended))
}
