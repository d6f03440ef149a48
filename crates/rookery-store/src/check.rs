//! Whether a store keeps its promises: every kind of record read, and compared with the others that know of it; and
//! what can be done when it does not.
//!
//! Works on an engine and volumes that nobody writes to meanwhile.
//!
//! Invariants:
//! - [`check`] changes nothing, and finds nothing in a store that has only crashed, folded, expunged or compacted.
//! - [`repair`] destroys nothing: what it takes away stands under `quarantine/` in the store's own records, or in a
//!   file `quarantine-…` beside the volumes.
//! - What repair cannot mend it puts aside, so that the store opens and a second check finds nothing.

mod account;
mod analysis;
mod mend;
mod private;
mod rebuild;
mod repair;
mod transit;
mod volumes;
pub(crate) mod walk;

pub use repair::repair;

use crate::error::StoreError;
use crate::keys;
use crate::records::{AccountRecord, AccountState, Settings};
use crate::store::{FORMAT_WITH_SUMMARIES, Identity, OpenError, last_mark, read_group};
use crate::volume::Volumes;
use rookery_kv::engine::{Engine, EngineError, Space};
use rookery_kv::files::FileLayer;
use rookery_types::{AccountId, Identifier, MailboxId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The kind of record, by its name in [`crate::KINDS`]; of the store itself `store identity`, `group`, `tail`,
    /// `server annotations`, `move pointer`, `move job`, `volume counter`, `volume file` or
    /// `volume record`.
    pub kind: &'static str,
    /// Which account; `None` for the store's own records.
    pub account: Option<u64>,
    /// Which record: its key in hexadecimal, or a volume and an offset.
    pub record: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.record)?;
        if let Some(account) = self.account {
            write!(f, " of account {account}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What became of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The record says again what it should; the text says from what.
    Repaired(String),
    /// The record, or what could be had of it, was put aside; the text says where.
    Quarantined(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Repaired(text) => write!(f, "repaired: {text}"),
            Outcome::Quarantined(text) => write!(f, "quarantined: {text}"),
        }
    }
}

/// What a repair found and did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each finding, and what became of it.
    pub done: Vec<(Finding, Outcome)>,
    /// What a check finds afterwards: nothing, unless the repair itself is at fault.
    pub left: Vec<Finding>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (finding, outcome) in &self.done {
            writeln!(f, "{finding}; {outcome}")?;
        }
        self.left.iter().try_for_each(|finding| writeln!(f, "{finding}; not repaired"))
    }
}

/// Why a check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The engine failed.
    #[error("the metadata engine failed")]
    Engine(#[from] EngineError),
    /// The volumes could not be read.
    #[error("the volumes cannot be read")]
    Volumes(#[source] std::io::Error),
    /// Written by a newer program.
    #[error("the store has format {0}, which this program does not know; use a newer program")]
    NewerFormat(u32),
    /// Numbers have run out.
    #[error("the {0} of an account have run out")]
    Exhausted(&'static str),
}

/// What is found, in the order it is found; of each record only the first.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) found: Vec<Finding>,
    known: BTreeSet<(&'static str, String)>,
}

impl Findings {
    /// Something about the record with a key that begins with its account.
    pub(crate) fn add(&mut self, kind: &'static str, key: &[u8], what: impl Into<String>) {
        let account = keys::account_of(key).map(AccountId::get);
        self.add_named(kind, account, crate::encoding::hex(key), what.into());
    }

    /// Something about one of the store's own records.
    pub(crate) fn add_own(&mut self, kind: &'static str, key: &[u8], what: impl Into<String>) {
        self.add_named(kind, None, own_name(key), what.into());
    }

    pub(crate) fn add_named(
        &mut self,
        kind: &'static str,
        account: Option<u64>,
        record: String,
        what: String,
    ) {
        if self.known.insert((kind, record.clone())) {
            self.found.push(Finding { kind, account, record, what });
        }
    }
}

/// How one of the store's own records is called in reports.
pub(crate) fn own_name(key: &[u8]) -> String {
    match key.strip_prefix(keys::VOLUME) {
        Some(number) => format!("volume/{}", crate::encoding::hex(number)),
        None if key.starts_with(keys::JOB) => {
            format!("move/{}", crate::encoding::hex(key.get(keys::JOB.len()..).unwrap_or_default()))
        }
        None if key.starts_with(keys::TRANSIT) => match keys::transit_of_pointer(key) {
            Some(id) => format!("transit/{id}"),
            None => format!("transit/{}", crate::encoding::hex(key)),
        },
        None => String::from_utf8_lossy(key).into_owned(),
    }
}

/// Every record of every account, the store's own records, and all message octets.
pub fn check(engine: &dyn Engine, files: Arc<dyn FileLayer>) -> Result<Vec<Finding>, CheckError> {
    let mut findings = Findings::default();
    walk::damaged(engine, &mut |space, key, _, kind, what| match space {
        Space::Meta => findings.add_own(kind, key, what),
        _ => findings.add(kind, key, what),
    })?;
    let identity = identity(engine)?;
    if identity.is_none() {
        findings.add_own("store identity", keys::STORE, "it is missing");
    }
    let summarised = has_chunk_summaries(identity.as_ref());
    let store = identity.map(|identity| identity.store);
    store_numbers(engine, &files, store, &mut findings)?;
    let mut in_use: BTreeMap<u32, u64> = BTreeMap::new();
    let mut bodies = Vec::new();
    for id in accounts(engine)? {
        let seen = account::Seen::read(engine, id)?;
        account::check(id, &seen, summarised, &mut findings);
        seen.bodies(id, &mut in_use, &mut bodies);
    }
    transit::check(engine, &mut findings)?;
    let survey = volumes::Survey::take(engine, files, store, in_use, &bodies)?;
    survey.tell(&bodies, &mut findings);
    Ok(findings.found)
}

/// The store's identity; `None` if it is missing or damaged.
fn identity(engine: &dyn Engine) -> Result<Option<Identity>, CheckError> {
    match Identity::read(engine) {
        Ok(identity) => Ok(identity),
        Err(OpenError::NewerFormat { found }) => Err(CheckError::NewerFormat(found)),
        Err(OpenError::Engine(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Whether the store is of a format that has them.
fn has_chunk_summaries(identity: Option<&Identity>) -> bool {
    identity.is_none_or(|identity| identity.format >= FORMAT_WITH_SUMMARIES)
}

/// The group the engine is at, if it knows, and the last one that a volume says was durable.
fn groups(
    engine: &dyn Engine,
    files: &Arc<dyn FileLayer>,
    store: Option<StoreId>,
) -> Result<(Option<u64>, u64), CheckError> {
    let group = match read_group(engine) {
        Ok(group) => Some(group),
        Err(OpenError::Engine(error)) => return Err(error.into()),
        Err(_) => None,
    };
    let volumes = Volumes::open(files.clone(), store.unwrap_or(StoreId([0; 16])), 0);
    let marked = match last_mark(&volumes.map_err(CheckError::Volumes)?) {
        Ok(marked) => marked,
        Err(OpenError::Volumes(error)) => return Err(CheckError::Volumes(error)),
        Err(error) => return Err(CheckError::Volumes(std::io::Error::other(error))),
    };
    Ok((group, marked))
}

fn store_numbers(
    engine: &dyn Engine,
    files: &Arc<dyn FileLayer>,
    store: Option<StoreId>,
    findings: &mut Findings,
) -> Result<(), CheckError> {
    let (group, marked) = groups(engine, files, store)?;
    match group {
        None => findings.add_own("group", keys::GROUP, "it is missing"),
        Some(group) if marked > group => {
            let what =
                format!("the engine is at group {group}, and group {marked} was durable: its end is lost");
            findings.add_own("group", keys::GROUP, what);
        }
        Some(_) => {}
    }
    if group != Some(0) && engine.get(Space::Meta, keys::TAIL)?.is_none() {
        findings.add_own("tail", keys::TAIL, "it is missing");
    }
    Ok(())
}

/// The accounts that this store is the home of, by their own records; damaged records are passed over.
pub fn homes(engine: &dyn Engine) -> Result<Vec<(AccountId, AccountRecord)>, CheckError> {
    let mut homes = Vec::new();
    for id in accounts(engine)? {
        let key = keys::account_record(id);
        let record =
            engine.get(Space::Account, &key)?.and_then(|value| AccountRecord::decode(&key, &value).ok());
        homes.extend(record.filter(|record| record.state == AccountState::Home).map(|record| (id, record)));
    }
    Ok(homes)
}

/// What all records of an account come to that go along when it moves: the same at both homes when it has, until one
/// of them is changed.
pub fn digest(engine: &dyn Engine, id: AccountId) -> Result<[u8; 16], StoreError> {
    let snapshot = engine.snapshot();
    crate::travel::digest_of_all(&*snapshot, id)
}

/// The same of each account that this store is or was the home of, with its own record; damaged records are passed over.
pub fn digests(engine: &dyn Engine) -> Result<Vec<(AccountId, AccountRecord, [u8; 16])>, StoreError> {
    let mut digests = Vec::new();
    for id in accounts(engine)? {
        let key = keys::account_record(id);
        let value = engine.get(Space::Account, &key)?;
        if let Some(record) = value.and_then(|value| AccountRecord::decode(&key, &value).ok()) {
            digests.push((id, record, digest(engine, id)?));
        }
    }
    Ok(digests)
}

/// The mailboxes of accounts at home here whose ACLs speak of others than the owner, by their records; damaged ones
/// are passed over.
pub fn shared_mailboxes(engine: &dyn Engine) -> Result<Vec<(MailboxId, Settings)>, CheckError> {
    let mut shared = Vec::new();
    for (id, record) in homes(engine)? {
        let prefix = keys::account(id);
        let end = rookery_kv::engine::prefix_end(&prefix);
        engine.scan(Space::Mailbox, &prefix, end.as_deref(), false, &mut |key, value| {
            if key.len() == 13
                && key.last() == Some(&0)
                && let (Some(mailbox), Ok(settings)) = (keys::mailbox_of(key), Settings::decode(key, value))
            {
                let own = |who: &Identifier| matches!(who, Identifier::User(user) if Some(user) == record.owner.as_ref());
                let others = settings.acl.entries().iter().any(|entry| !own(&entry.identifier));
                if others && settings.deleted_unix_seconds.is_none() {
                    shared.push((mailbox, settings));
                }
            }
            true
        })?;
    }
    Ok(shared)
}

/// Every account that any record speaks of, whether it has a record of its own or not.
fn accounts(engine: &dyn Engine) -> Result<BTreeSet<AccountId>, EngineError> {
    let mut found = BTreeSet::new();
    for space in crate::travel::SPACES {
        let mut start = Vec::new();
        loop {
            let mut next = None;
            engine.scan(space, &start, None, false, &mut |key, _| {
                next = Some(key.to_vec());
                false
            })?;
            let Some(key) = next else { break };
            let id = keys::account_of(&key);
            found.extend(id);
            match id.and_then(|id| rookery_kv::engine::prefix_end(&keys::account(id))) {
                Some(end) => start = end,
                None => start = [&key[..], &[0]].concat(),
            }
        }
    }
    Ok(found)
}
