//! Published mailboxes: those that others than their owner may look up. So LIST costs what it answers, not what
//! there is.
//!
//! The truth is each mailbox's ACL in its account's store. What is published decides only what is looked at, and what
//! is shown while the mailbox's home is away.
//!
//! Invariants:
//! - A mailbox is published exactly if its ACL lets somebody but the owner and `anonymous` look it up.
//! - For every positive entry of a published ACL with `l` there is a grant, but for the owner's own and for
//!   `anonymous`. Grants are derived from the published record alone.
//! - A group and `anyone` stand for users of the account's domain.

use crate::DirectoryError;
use crate::change::{Change, by_id, unavailable};
use crate::encoding::{Damaged, Encoder, layout_of, open};
use crate::records::{self, LAYOUT, MAILBOX, OUTBOX, PUBLISHED_KEY, encode_empty, grant_key};
use crate::repair::Mended;
use bytes::Bytes;
use rookery_kv::{Batch, Read, Space, prefix_end};
use rookery_types::{
    AccountId, AccountName, Acl, Identifier, MailboxId, MailboxPath, Rights, SharedName, SpecialUse, UserName,
};
use std::collections::{BTreeMap, BTreeSet};

/// The layout of a record of a mailbox that is for something.
const LAYOUT_WITH_USES: u8 = 2;
/// Entries of an ACL that are published at most; the home has all of them.
pub const ENTRIES_MAX: usize = 1000;

/// A mailbox that others may see, as the directory shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// Which.
    pub mailbox: MailboxId,
    /// In whose tree it is: `None` in a shared one.
    pub owner: Option<UserName>,
    /// The account's domain.
    pub domain: Box<str>,
    /// Its name below the account's root.
    pub path: MailboxPath,
    /// Its rights.
    pub acl: Acl,
    /// What it is for.
    pub special_use: Vec<SpecialUse>,
}

impl Published {
    /// What is published of a mailbox of the account of that name; `None`: nothing.
    pub fn of(
        name: &AccountName,
        mailbox: MailboxId,
        path: &MailboxPath,
        acl: &Acl,
        special_use: &[SpecialUse],
    ) -> Option<Published> {
        let mut kept = Acl::new();
        for entry in acl.entries().iter().take(ENTRIES_MAX) {
            kept.set(entry.identifier.clone(), entry.negative, entry.rights);
        }
        let published = Published {
            mailbox,
            owner: name.user().cloned(),
            domain: name.domain().into(),
            path: path.clone(),
            acl: kept,
            special_use: special_use.iter().take(SpecialUse::ALL.len()).copied().collect(),
        };
        (!published.grants().is_empty()).then_some(published)
    }

    /// The keys of its grants.
    pub(crate) fn grants(&self) -> BTreeSet<Vec<u8>> {
        let entries = self.acl.entries().iter();
        let grants = entries.filter(|entry| !entry.negative && entry.rights.contains(Rights::LOOKUP));
        let others = grants.filter(|entry| match &entry.identifier {
            Identifier::User(user) => self.owner.as_ref() != Some(user),
            _ => true,
        });
        let shared = self.owner.is_none();
        let keys =
            others.filter_map(|entry| grant_key(&entry.identifier, &self.domain, shared, self.mailbox));
        keys.collect()
    }

    pub(crate) fn record(&self) -> (Vec<u8>, Bytes) {
        let key = published_key(self.mailbox);
        let value = encode_published(&key, self);
        (key, value)
    }
}

pub(crate) fn published_key(mailbox: MailboxId) -> Vec<u8> {
    let mut key = published_prefix(mailbox.account);
    key.extend_from_slice(&mailbox.number.to_be_bytes());
    key
}

/// What the keys of an account's published mailboxes begin with.
pub(crate) fn published_prefix(account: AccountId) -> Vec<u8> {
    records::number_key(MAILBOX, account.get())
}

pub(crate) fn encode_published(key: &[u8], published: &Published) -> Bytes {
    // Most are for nothing, and need no more than they always did.
    let mut e = Encoder::new(if published.special_use.is_empty() { LAYOUT } else { LAYOUT_WITH_USES });
    e.text(published.owner.as_ref().map_or("", UserName::local)).text(&published.domain);
    e.text(published.path.as_str()).varint(published.acl.entries().len() as u64);
    for entry in published.acl.entries() {
        let (kind, text) = match &entry.identifier {
            Identifier::Anyone => (0, ""),
            Identifier::Anonymous => (1, ""),
            Identifier::Group(name) => (2, &**name),
            Identifier::User(user) => (3, user.as_str()),
        };
        let sign = if entry.negative { 4 } else { 0 };
        e.u8(kind | sign).varint(entry.rights.bits().into()).text(text);
    }
    if !published.special_use.is_empty() {
        e.varint(published.special_use.len() as u64);
        for one in &published.special_use {
            e.text(one.attribute());
        }
    }
    e.seal(key)
}

pub(crate) fn decode_published(key: &[u8], value: &[u8]) -> Result<Published, Damaged> {
    let damaged = || Damaged::new(key, "its key is no mailbox's");
    let (rest, number) = key.split_last_chunk::<4>().ok_or_else(damaged)?;
    let account = records::number_of_key(MAILBOX, rest).and_then(AccountId::new).ok_or_else(damaged)?;
    let mailbox = MailboxId { account, number: u32::from_be_bytes(*number) };
    let has_uses = layout_of(value) == Some(LAYOUT_WITH_USES);
    open(key, value, if has_uses { LAYOUT_WITH_USES } else { LAYOUT }, |d| {
        let (local, domain) = (d.text()?, d.text()?);
        // A shared root's name is not known here; that there can be one says that the domain is one.
        let name = match local {
            "" => AccountName::Shared(SharedName::new("x", domain).ok()?),
            local => AccountName::User(UserName::parse(local, domain).ok()?),
        };
        let is_same = name.domain() == domain && name.user().is_none_or(|user| user.local() == local);
        let text = d.text()?;
        let path = if text.is_empty() { MailboxPath::root() } else { MailboxPath::new(text).ok()? };
        let count = usize::try_from(d.varint()?).ok().filter(|count| *count <= ENTRIES_MAX)?;
        let mut acl = Acl::new();
        for _ in 0..count {
            let code = d.u8()?;
            let rights = Rights::from_bits(u16::try_from(d.varint()?).ok()?)?;
            let text = d.text()?;
            let identifier = match code & !4 {
                0 => Identifier::Anyone,
                1 => Identifier::Anonymous,
                2 => Identifier::Group(records::group_name(text).filter(|name| &**name == text)?),
                3 => Identifier::User(UserName::parse(text, "").ok().filter(|user| user.as_str() == text)?),
                _ => return None,
            };
            acl.set(identifier, code & 4 != 0, rights);
        }
        let mut special_use = Vec::new();
        if has_uses {
            let count = usize::try_from(d.varint()?).ok();
            for _ in 0..count.filter(|count| (1..=SpecialUse::ALL.len()).contains(count))? {
                let text = d.text()?;
                special_use.push(SpecialUse::parse(text).filter(|one| one.attribute() == text)?);
            }
        }
        let whole = is_same && acl.entries().len() == count && path.as_str() == text;
        let (owner, domain) = (name.user().cloned(), Box::from(domain));
        whole.then_some(Published { mailbox, owner, domain, path, acl, special_use })
    })
}

/// A mailbox of a store, with what others could see of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shared {
    /// Which.
    pub mailbox: MailboxId,
    /// Its name below the account's root.
    pub path: MailboxPath,
    /// Its rights.
    pub acl: Acl,
    /// What it is for.
    pub special_use: Vec<SpecialUse>,
}

/// Keys with what is to be written to them; `None`: they are to be deleted.
pub(crate) type Writes = Vec<(Vec<u8>, Option<Bytes>)>;

/// What is to be published of a mailbox; `read` tells whose account it is. `None`: nothing.
pub fn published_of(
    read: &dyn Read,
    mailbox: MailboxId,
    path: &MailboxPath,
    acl: &Acl,
    special_use: &[SpecialUse],
) -> Result<Option<Published>, DirectoryError> {
    let name = by_id(read, mailbox.account)?.name;
    Ok(Published::of(&name, mailbox, path, acl, special_use))
}

/// The record in a home's outbox that says what is to be published of a mailbox; `None`: nothing any more.
pub fn outbox_record(mailbox: MailboxId, published: Option<&Published>) -> (Vec<u8>, Bytes) {
    let key = outbox_key(mailbox);
    let mut e = Encoder::new(LAYOUT);
    match published {
        Some(published) => e.u8(1).octets(&published.record().1),
        None => e.u8(0),
    };
    let value = e.seal(&key);
    (key, value)
}

/// The key of the record in the outbox.
pub fn outbox_key(mailbox: MailboxId) -> Vec<u8> {
    let mut key = published_key(mailbox);
    if let Some(tag) = key.first_mut() {
        *tag = OUTBOX;
    }
    key
}

/// The mailbox of a record in the outbox, and what is to be published of it.
pub(crate) fn decode_outbox(key: &[u8], value: &[u8]) -> Result<(MailboxId, Option<Published>), Damaged> {
    let damaged = || Damaged::new(key, "its key is no mailbox's");
    let (rest, number) = key.split_last_chunk::<4>().ok_or_else(damaged)?;
    let account = records::number_of_key(OUTBOX, rest).and_then(AccountId::new).ok_or_else(damaged)?;
    let mailbox = MailboxId { account, number: u32::from_be_bytes(*number) };
    let published = open(key, value, LAYOUT, |d| match d.u8()? {
        0 => Some(None),
        1 => Some(Some(decode_published(&published_key(mailbox), d.octets()?).ok()?)),
        _ => None,
    })?;
    Ok((mailbox, published))
}

/// What the outbox has for a mailbox; `None`: nothing.
pub fn outbox_of(read: &dyn Read, mailbox: MailboxId) -> Result<Option<Option<Published>>, DirectoryError> {
    let key = outbox_key(mailbox);
    let found = read.get(Space::Directory, &key).map_err(unavailable)?;
    Ok(found.map(|value| decode_outbox(&key, &value)).transpose()?.map(|(_, published)| published))
}

/// The mailboxes that the outbox has something for. A damaged record is told and left.
pub fn outbox(read: &dyn Read) -> Result<Vec<MailboxId>, DirectoryError> {
    let mut found = Vec::new();
    for (key, value) in there(read, OUTBOX)? {
        match decode_outbox(&key, &value) {
            Ok((mailbox, _)) => found.push(mailbox),
            Err(damaged) => tracing::error!(%damaged, "a mailbox is not published"),
        }
    }
    Ok(found)
}

impl Change<'_> {
    /// Publishes mailboxes, or takes them back. A mailbox of an account that is gone is not published.
    pub(crate) fn publish(
        &mut self,
        mailboxes: &[(MailboxId, Option<Published>)],
    ) -> Result<(), DirectoryError> {
        for (mailbox, published) in mailboxes {
            let key = published_key(*mailbox);
            // Read also for what is taken back: a request that comes late, from a node that has died since, does
            // nothing once the account is at home elsewhere.
            let entry = match by_id(&self.read, mailbox.account) {
                Ok(entry) => Some(entry),
                Err(DirectoryError::NotFound(_)) => None,
                Err(error) => return Err(error),
            };
            let published = published.as_ref().zip(entry).and_then(|(published, entry)| {
                // Under the name that the account has now: it may have got another since.
                let Published { path, acl, special_use, .. } = published;
                Published::of(&entry.name, *mailbox, path, acl, special_use)
            });
            match published {
                Some(published) => {
                    let (key, value) = published.record();
                    decode_published(&key, &value)?;
                    self.put_record(key, value);
                }
                None => self.delete(key),
            }
        }
        Ok(())
    }
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

/// The records that there must be for the mailboxes of a store.
fn expected(read: &dyn Read, mailboxes: &[Shared]) -> Result<BTreeMap<Vec<u8>, Bytes>, DirectoryError> {
    let mut expected = BTreeMap::new();
    for shared in mailboxes {
        match by_id(read, shared.mailbox.account) {
            Ok(entry) => {
                expected.extend(
                    Published::of(
                        &entry.name,
                        shared.mailbox,
                        &shared.path,
                        &shared.acl,
                        &shared.special_use,
                    )
                    .map(|published| published.record()),
                );
            }
            // The directory's own check tells of it.
            Err(DirectoryError::NotFound(_) | DirectoryError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(expected)
}

/// All records of a kind.
fn there(read: &dyn Read, tag: u8) -> Result<BTreeMap<Vec<u8>, Bytes>, DirectoryError> {
    let mut there = BTreeMap::new();
    let end = prefix_end(&[tag]);
    let scanned = read.scan(Space::Directory, &[tag], end.as_deref(), false, &mut |key, value| {
        there.insert(key.to_vec(), Bytes::copy_from_slice(value));
        true
    });
    scanned.map_err(unavailable)?;
    Ok(there)
}

/// Whether the mailboxes of this store were ever published.
pub fn is_complete(read: &dyn Read) -> Result<bool, DirectoryError> {
    match read.get(Space::Directory, PUBLISHED_KEY).map_err(unavailable)? {
        Some(value) => Ok(records::decode_complete(PUBLISHED_KEY, &value)?),
        None => Ok(false),
    }
}

/// The published records as they will be when the outbox is empty. Damaged ones of the outbox are left out.
fn effective(read: &dyn Read) -> Result<BTreeMap<Vec<u8>, Bytes>, DirectoryError> {
    let mut records = there(read, MAILBOX)?;
    for (key, value) in there(read, OUTBOX)? {
        let Ok((mailbox, published)) = decode_outbox(&key, &value) else { continue };
        match published {
            Some(published) => records.extend([published.record()]),
            None => drop(records.remove(&published_key(mailbox))),
        }
    }
    Ok(records)
}

/// Tells of every published record that is missing or is another than a mailbox gives, unless the outbox mends it.
/// `mailboxes`: all of the store that are shared; `here`: all accounts of the store.
pub fn check(
    read: &dyn Read,
    mailboxes: &[Shared],
    here: &BTreeSet<AccountId>,
    fault: &mut dyn FnMut(Damaged),
) -> Result<(), DirectoryError> {
    if !is_complete(read).unwrap_or(false) {
        fault(Damaged::new(PUBLISHED_KEY, "it is missing, so not all that is shared is published"));
        return Ok(());
    }
    for (key, _, what) in differences(read, mailboxes, here)? {
        fault(Damaged::new(&key, what));
    }
    Ok(())
}

/// The key of a published record that is not as it must be, what it must be, and what is wrong.
type Difference = (Vec<u8>, Option<Bytes>, &'static str);

/// Where what is published, or will be, is not as the mailboxes give it.
fn differences(
    read: &dyn Read,
    mailboxes: &[Shared],
    here: &BTreeSet<AccountId>,
) -> Result<Vec<Difference>, DirectoryError> {
    let (expected, there) = (expected(read, mailboxes)?, effective(read)?);
    let mut differences = Vec::new();
    for (key, value) in &expected {
        match there.get(key) {
            Some(known) if known == value => {}
            Some(_) => {
                differences.push((key.clone(), Some(value.clone()), "it is not what the mailbox gives"))
            }
            None => differences.push((key.clone(), Some(value.clone()), "it is missing")),
        }
    }
    for key in there.keys().filter(|key| !expected.contains_key(*key)) {
        // Other stores' mailboxes are not for this one to judge, as long as there is such an account.
        let is_ours = match account_of(key) {
            Some(account) if here.contains(&account) => true,
            Some(account) => matches!(by_id(read, account), Err(DirectoryError::NotFound(_))),
            None => false,
        };
        if is_ours {
            differences.push((key.clone(), None, "no mailbox gives it"));
        }
    }
    Ok(differences)
}

fn account_of(key: &[u8]) -> Option<AccountId> {
    let (rest, _) = key.split_last_chunk::<4>()?;
    records::number_of_key(MAILBOX, rest).and_then(AccountId::new)
}

/// What puts into the outbox all that is not published as the mailboxes give it, makes the grants follow from that,
/// and what is mended by it. Nobody else changes the directory here before it is committed.
pub fn rebuild(
    read: &dyn Read,
    mailboxes: &[Shared],
    here: &BTreeSet<AccountId>,
) -> Result<(Batch, Vec<Mended>), DirectoryError> {
    let mut faults = Vec::new();
    check(read, mailboxes, here, &mut |fault| faults.push(fault))?;
    let mut batch = Batch::new();
    let mut records = effective(read)?;
    for (key, value, _) in differences(read, mailboxes, here)? {
        let Some((account, number)) = account_of(&key).zip(key.last_chunk::<4>()) else { continue };
        let mailbox = MailboxId { account, number: u32::from_be_bytes(*number) };
        let published = value.as_ref().map(|value| decode_published(&key, value)).transpose()?;
        let (outbox, waiting) = outbox_record(mailbox, published.as_ref());
        batch.put(Space::Directory, outbox, waiting);
        match value {
            Some(value) => drop(records.insert(key, value)),
            None => drop(records.remove(&key)),
        }
    }
    // From scratch, whatever stands there: a grant may be left of a record that is gone.
    let mut grants = there(read, records::GRANT)?;
    for (key, value) in records {
        // A damaged record gives nothing, and is told by the directory's own check.
        let Ok(published) = decode_published(&key, &value) else { continue };
        for grant in published.grants() {
            let empty = encode_empty(&grant);
            if grants.remove(&grant).as_ref() != Some(&empty) {
                batch.put(Space::Directory, grant, empty);
            }
        }
    }
    for key in grants.into_keys() {
        batch.delete(Space::Directory, key);
    }
    batch.put(Space::Directory, PUBLISHED_KEY.to_vec(), records::encode_complete());
    let mended = faults.into_iter().map(|fault| Mended {
        finding: fault.to_string(),
        outcome: "will be published from the mailboxes' rights".into(),
    });
    Ok((batch, mended.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::KINDS;

    #[test]
    fn what_is_published_reads_back_and_grants_follow_from_it() {
        let user = |text: &str| UserName::parse(text, "x.test").unwrap();
        let mut acl = Acl::new();
        let lookup = Rights::parse("lr").unwrap();
        acl.set(Identifier::User(user("joe")), false, Rights::ALL);
        let mailbox = MailboxId { account: AccountId::new(300).unwrap(), number: 5 };
        let name = AccountName::User(user("joe"));
        let path = MailboxPath::new("Work/Ä").unwrap();
        assert_eq!(Published::of(&name, mailbox, &path, &acl, &[]), None, "the owner's own is not published");
        acl.set(Identifier::Anyone, false, Rights::parse("p").unwrap());
        acl.set(Identifier::Anonymous, false, lookup);
        acl.set(Identifier::User(user("ann")), true, lookup);
        assert_eq!(Published::of(&name, mailbox, &path, &acl, &[]), None, "nobody may look it up");
        acl.set(Identifier::Group("staff".into()), false, lookup);
        acl.set(Identifier::User(user("ann")), false, lookup);
        for (name, grants) in [
            (name, [&b"vgx.test/staff\0u"[..], b"vuann@x.test\0u"].to_vec()),
            (
                AccountName::parse("team@x.test").unwrap(),
                [&b"vgx.test/staff\0s"[..], b"vuann@x.test\0s", b"vujoe@x.test\0s"].to_vec(),
            ),
        ] {
            let published = Published::of(&name, mailbox, &path, &acl, &[]).unwrap();
            let heads: Vec<_> =
                published.grants().into_iter().map(|key| key[..key.len() - 12].to_vec()).collect();
            assert_eq!(heads, grants);
            let uses = vec![SpecialUse::Sent, SpecialUse::Archive];
            let for_something = Published { special_use: uses, ..published.clone() };
            for (published, layout) in [(published, 1), (for_something, 2)] {
                let (key, value) = published.record();
                assert_eq!((value[0], decode_published(&key, &value)), (layout, Ok(published)));
                let kind = KINDS.iter().find(|kind| kind.tag == MAILBOX).unwrap();
                for at in 0..value.len() {
                    let mut changed = value.to_vec();
                    changed[at] ^= 1;
                    assert!(
                        (kind.check)(&key, &changed).is_err() && (kind.check)(&key, &value[..at]).is_err()
                    );
                }
            }
        }
    }
}
