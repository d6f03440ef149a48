//! GETMETADATA and SETMETADATA (RFC 5464), and the METADATA of LIST (RFC 9590).
//!
//! Invariants:
//! - Entries are kept in lower case, with their `/private` or `/shared`; private ones are read and set only as their
//!   owner's.
//! - A command changes all its entries or none.
//! - Whoever may not look up a mailbox is answered as if there were none.

use super::Outcome;
use crate::answer::{Answer, Failure, blocking, no_permission};
use crate::names::Found;
use crate::session::User;
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::command::MetadataDepth;
use rookery_codec::imap::response::MetadataEntries;
use rookery_codec::imap::{Code, Response, WireName};
use rookery_store::{Account, Annotation, AnnotationName, MailboxState, StoreError};
use rookery_types::{MailboxId, Rights, SpecialUse};
use std::collections::BTreeMap;

/// Octets of the longest entry name.
const ENTRY_OCTETS_MAX: usize = 512;
/// What a mailbox is for, as an entry (RFC 6154 §5).
const SPECIAL_USE: &str = "/private/specialuse";
/// How to reach the administrator: a setting, never changed by clients.
const ADMIN: &str = "/shared/admin";

/// Besides `l`, one of these is needed for the annotations of a mailbox (RFC 5464 §3.3).
const ANY_OF: [Rights; 5] = [Rights::READ, Rights::SEEN, Rights::WRITE, Rights::INSERT, Rights::POST];

/// An entry that a client names.
struct Entry {
    /// As it was written.
    written: Bytes,
    /// As it is kept.
    name: String,
}

impl Entry {
    fn is_private(&self) -> bool {
        self.name == "/private" || self.name.starts_with("/private/")
    }

    /// Reads a name (RFC 5464 §3.2). `scope`: whether `/private` and `/shared` alone may stand for all below them.
    fn read(written: &Bytes, scope: bool) -> Result<Entry, Failure> {
        let bad = |text| Failure::from(Answer::bad(text));
        let legal = |b: &u8| (0x20..0x7f).contains(b) && !matches!(b, b'*' | b'%');
        if written.len() > ENTRY_OCTETS_MAX || !written.iter().all(legal) {
            return Err(bad("That cannot be the name of an entry"));
        }
        let name = String::from_utf8_lossy(written).to_ascii_lowercase();
        let mut components = name.split('/');
        if components.next() != Some("") || components.clone().any(str::is_empty) {
            return Err(bad("An entry's name is /private or /shared, and components"));
        }
        let components: Vec<&str> = components.collect();
        let enough = match components[..] {
            ["private" | "shared"] => scope,
            ["private" | "shared", "vendor", ..] => scope || components.len() >= 4,
            ["private" | "shared", ..] => true,
            _ => false,
        };
        match enough {
            true => Ok(Entry { written: written.clone(), name }),
            false => Err(bad("An entry's name is /private or /shared, and components")),
        }
    }
}

/// Whose annotations: a mailbox's, or the server's.
enum Place {
    Server,
    Mailbox(Account, MailboxId),
}

/// All annotations that an answer can come from, by their names.
type Known = BTreeMap<String, Bytes>;

/// Answers with the values of entries.
pub(crate) async fn get(
    wire: &mut Wire,
    user: &User,
    mailbox: &WireName,
    max_size: Option<u32>,
    depth: MetadataDepth,
    entries: &[Bytes],
) -> Outcome {
    let entries = read(entries, depth != MetadataDepth::Zero)?;
    let known = match place(user, mailbox).await? {
        Place::Server => of_server(user, &entries).await?,
        Place::Mailbox(account, id) => of_mailbox(user, &account, id, &entries).await?,
    };
    let mut longest = 0;
    let mut values: Vec<(Bytes, Option<Bytes>)> = Vec::new();
    for entry in &entries {
        let mut found = false;
        for (name, value) in matching(&known, &entry.name, depth) {
            found = true;
            let octets = value.len() as u64;
            if max_size.is_some_and(|max| octets > max.into()) {
                longest = longest.max(octets);
                continue;
            }
            let name = match *name == entry.name {
                true => entry.written.clone(),
                false => Bytes::from(name.clone()),
            };
            if !values.iter().any(|(known, _)| *known == name) {
                values.push((name, Some(value.clone())));
            }
        }
        if !found {
            values.push((entry.written.clone(), None));
        }
    }
    if !values.is_empty() {
        let entries = MetadataEntries::Values(values);
        wire.put(&Response::Metadata { mailbox: mailbox.clone(), entries });
    }
    Ok(match longest {
        0 => Answer::ok("GETMETADATA completed"),
        octets => Answer::ok_code(Code::MetadataLongEntries(octets), "GETMETADATA completed"),
    })
}

/// Sets entries, or takes them away.
pub(crate) async fn set(user: &User, mailbox: &WireName, entries: &[(Bytes, Option<Bytes>)]) -> Outcome {
    let names: Vec<Bytes> = entries.iter().map(|(name, _)| name.clone()).collect();
    let names = read(&names, false)?;
    let values = entries.iter().map(|(_, value)| value.clone());
    // Of an entry that is named twice the last value holds.
    let wanted: BTreeMap<String, (bool, Option<Bytes>)> = names
        .into_iter()
        .zip(values)
        .map(|(entry, value)| (entry.name.clone(), (entry.is_private(), value)))
        .collect();
    match place(user, mailbox).await? {
        Place::Server => set_server(user, wanted).await?,
        Place::Mailbox(account, id) => set_mailbox(user, &account, id, wanted).await?,
    }
    Ok(Answer::ok("SETMETADATA completed"))
}

/// Answers LIST with entries of a mailbox; those that are not set are NIL. What cannot be told is left out.
pub(super) async fn listed(
    wire: &mut Wire,
    user: &User,
    name: WireName,
    account: &Account,
    state: &MailboxState,
    entries: &[Bytes],
) -> Result<(), Failure> {
    let entries = read(entries, false)?;
    let rights = user.rights(account, state);
    if !ANY_OF.iter().any(|one| rights.contains(*one)) {
        return Ok(());
    }
    let known = of_mailbox(user, account, state.id, &entries).await?;
    let value = |entry: Entry| (entry.written, known.get(&entry.name).cloned());
    let entries = MetadataEntries::Values(entries.into_iter().map(value).collect());
    wire.put(&Response::Metadata { mailbox: name, entries });
    Ok(())
}

/// Whether the names are entries: what LIST asks before it begins.
pub(super) fn check(entries: &[Bytes]) -> Result<(), Failure> {
    read(entries, false).map(drop)
}

fn read(entries: &[Bytes], scope: bool) -> Result<Vec<Entry>, Failure> {
    entries.iter().map(|written| Entry::read(written, scope)).collect()
}

async fn place(user: &User, mailbox: &WireName) -> Result<Place, Failure> {
    if mailbox.as_bytes().is_empty() {
        return Ok(Place::Server);
    }
    let Found { account, id, rights, .. } = user.find(mailbox).await?;
    match ANY_OF.iter().any(|one| rights.contains(*one)) {
        true => Ok(Place::Mailbox(account, id)),
        false => Err(no_permission().into()),
    }
}

/// The names at or below an entry, as far down as asked.
fn matching<'a>(
    known: &'a Known,
    entry: &'a str,
    depth: MetadataDepth,
) -> impl Iterator<Item = (&'a String, &'a Bytes)> {
    known.iter().filter(move |(name, _)| {
        let Some(rest) = name.strip_prefix(entry) else { return false };
        match (rest.strip_prefix('/'), depth) {
            (None, _) => rest.is_empty(),
            (Some(_), MetadataDepth::Zero) => false,
            (Some(below), MetadataDepth::One) => !below.contains('/'),
            (Some(_), MetadataDepth::Infinity) => true,
        }
    })
}

async fn of_server(user: &User, entries: &[Entry]) -> Result<Known, Failure> {
    let mut known = Known::new();
    known.extend(user.services.store.server_annotations().iter().map(|(n, v)| (n.clone(), v.clone())));
    let contact = &user.services.config.admin_contact;
    if !contact.is_empty() {
        known.insert(ADMIN.to_string(), Bytes::from(contact.clone()));
    }
    // An administrator without mailboxes has nowhere to keep any.
    if let Some(own) = user.own.as_ref().filter(|_| entries.iter().any(Entry::is_private)) {
        let (account, name) = (own.clone(), user.name.clone());
        known.extend(blocking(move || account.annotations(None, Some(&name))).await??);
    }
    Ok(known)
}

async fn of_mailbox(
    user: &User,
    account: &Account,
    id: MailboxId,
    entries: &[Entry],
) -> Result<Known, Failure> {
    let mut known = Known::new();
    let private = entries.iter().any(Entry::is_private);
    let shared = entries.iter().any(|entry| !entry.is_private());
    let (reader, name) = (account.clone(), user.name.clone());
    let found = blocking(move || -> Result<_, StoreError> {
        let mut found = Vec::new();
        if private {
            found.extend(reader.annotations(Some(id), Some(&name))?);
        }
        if shared {
            found.extend(reader.annotations(Some(id), None)?);
        }
        Ok(found)
    });
    known.extend(found.await??);
    if private
        && user.asker(account).owner
        && let Some(state) = account.tree().state(id)
        && !state.settings.special_use.is_empty()
    {
        let uses: Vec<&str> = state.settings.special_use.iter().map(|one| one.attribute()).collect();
        known.insert(SPECIAL_USE.to_string(), Bytes::from(uses.join(" ")));
    }
    Ok(known)
}

type Wanted = BTreeMap<String, (bool, Option<Bytes>)>;

async fn set_server(user: &User, wanted: Wanted) -> Result<(), Failure> {
    if wanted.contains_key(ADMIN) {
        return Err(Answer::no(Code::Cannot, "That entry is a setting of the server").into());
    }
    let (private, shared): (Wanted, Wanted) = wanted.into_iter().partition(|(_, (private, _))| *private);
    if !shared.is_empty() && !user.is_admin() {
        return Err(no_permission().into());
    }
    if !shared.is_empty() && !private.is_empty() {
        // They stand in different places, and could not be changed at once.
        return Err(Answer::no(Code::Cannot, "Set private and shared entries in two commands").into());
    }
    if !private.is_empty() {
        let changes = annotations(user, private);
        user.own()?.annotate(None, &changes, None).await.map_err(refused)?;
    }
    if !shared.is_empty() {
        let changes: Vec<_> = shared.into_iter().map(|(name, (_, value))| (name, value)).collect();
        user.services.store.annotate_server(&changes).await.map_err(refused)?;
    }
    Ok(())
}

async fn set_mailbox(
    user: &User,
    account: &Account,
    id: MailboxId,
    mut wanted: Wanted,
) -> Result<(), Failure> {
    let special_use = match wanted.remove(SPECIAL_USE) {
        None => None,
        Some(_) if !user.asker(account).owner => return Err(no_permission().into()),
        Some((_, None)) => Some(Vec::new()),
        Some((_, Some(value))) => Some(special_use(&value)?),
    };
    let changes = annotations(user, wanted);
    account.annotate(Some(id), &changes, special_use).await.map_err(refused)
}

/// Reads attributes with spaces between them.
fn special_use(value: &[u8]) -> Result<Vec<SpecialUse>, Failure> {
    let refused = || Answer::no(Code::UseAttr, "That special use cannot be given to a mailbox").into();
    let text = std::str::from_utf8(value).map_err(|_| refused())?;
    let read = |word| match SpecialUse::parse(word) {
        Some(SpecialUse::All | SpecialUse::Flagged) | None => Err(refused()),
        Some(special_use) => Ok(special_use),
    };
    text.split_ascii_whitespace().map(read).collect()
}

fn annotations(user: &User, wanted: Wanted) -> Vec<Annotation> {
    let owner = |private: bool| private.then(|| user.name.clone());
    let one = |(entry, (private, value)): (String, (bool, Option<Bytes>))| Annotation {
        name: AnnotationName { owner: owner(private), entry: entry.into() },
        value,
    };
    wanted.into_iter().map(one).collect()
}

/// RFC 5464 §4.3 has the codes.
fn refused(error: StoreError) -> Failure {
    match error {
        StoreError::TooMany(_) => {
            Answer::no(Code::MetadataTooMany, "There are as many entries as there may be").into()
        }
        StoreError::TooLarge(max) => {
            Answer::no(Code::MetadataMaxSize(max), "The value is larger than is taken").into()
        }
        error => error.into(),
    }
}
