//! Whether a store keeps its promises: every kind of record read, and compared with the others that know of it.
//!
//! Works on an engine and volumes that nobody writes to meanwhile. Changes nothing.

mod account;
mod volumes;

use crate::encoding::Damaged;
use crate::keys;
use crate::store::{Identity, OpenError, read_group, read_live};
use rookery_kv::engine::{Engine, EngineError, Space};
use rookery_kv::files::FileLayer;
use rookery_types::AccountId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The kind of record, by its name in [`crate::KINDS`].
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

/// Why a check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The engine failed.
    #[error("the metadata engine failed")]
    Engine(#[from] EngineError),
    /// The volumes could not be read.
    #[error("the volumes cannot be read")]
    Volumes(#[source] std::io::Error),
}

/// What is found, in the order it is found.
#[derive(Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    pub(crate) fn add(&mut self, kind: &'static str, key: &[u8], what: impl Into<String>) {
        let account = (kind != "store" && kind != "volume")
            .then(|| keys::account_of(key).map(AccountId::get))
            .flatten();
        self.0.push(Finding { kind, account, record: crate::encoding::hex(key), what: what.into() });
    }

    /// The record, or a finding that it is damaged.
    pub(crate) fn keep<T>(&mut self, kind: &'static str, key: &[u8], read: Result<T, Damaged>) -> Option<T> {
        read.map_err(|damaged| self.add(kind, key, damaged.what)).ok()
    }
}

/// Every record of every account, the store's own records, and all message octets.
pub fn check(engine: &dyn Engine, files: Arc<dyn FileLayer>) -> Result<Vec<Finding>, CheckError> {
    let mut findings = Findings::default();
    let store = match Identity::read(engine) {
        Ok(Some(identity)) => Some(identity),
        Ok(None) => {
            findings.add("store", keys::STORE, "it is missing");
            None
        }
        Err(error) => {
            findings.add("store", keys::STORE, error.to_string());
            None
        }
    };
    store_numbers(engine, &mut findings)?;
    let mut in_use: BTreeMap<u32, u64> = BTreeMap::new();
    let mut bodies = Vec::new();
    for id in accounts(engine)? {
        account::check(engine, id, &mut findings, &mut in_use, &mut bodies)?;
    }
    volumes::check(engine, files, store.map(|identity| identity.store), &mut findings, in_use, &bodies)?;
    Ok(findings.0)
}

/// Every account that any record speaks of, whether it has a record of its own or not.
fn accounts(engine: &dyn Engine) -> Result<BTreeSet<AccountId>, EngineError> {
    let mut found = BTreeSet::new();
    for space in [
        Space::Account,
        Space::Mailbox,
        Space::Chunk,
        Space::Delta,
        Space::Log,
        Space::Tombstone,
        Space::Content,
        Space::Thread,
        Space::Queue,
    ] {
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

fn store_numbers(engine: &dyn Engine, findings: &mut Findings) -> Result<(), CheckError> {
    match read_group(engine) {
        Ok(_) => {}
        Err(OpenError::Engine(error)) => return Err(error.into()),
        Err(error) => findings.add("store", keys::GROUP, error.to_string()),
    }
    if let Some(value) = engine.get(Space::Meta, keys::TAIL)?
        && let Err(damaged) = crate::committer::decode_tail(&value)
    {
        findings.add("store", keys::TAIL, damaged.what);
    }
    match read_live(engine) {
        Ok(_) => Ok(()),
        Err(OpenError::Engine(error)) => Err(error.into()),
        Err(error) => {
            findings.add("volume", keys::VOLUME, error.to_string());
            Ok(())
        }
    }
}
