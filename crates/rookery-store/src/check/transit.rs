//! Moves to other homes: each against the pointer by which a store that opens finds it.

use super::repair::Repair;
use super::{CheckError, Findings, Outcome, accounts, own_name};
use crate::keys;
use crate::records::{AccountRecord, AccountState};
use crate::transit::{TransitId, encode_pointer};
use rookery_kv::engine::{Engine, EngineError, Space, prefix_end};
use std::collections::BTreeSet;

/// What does not agree.
enum Fault {
    /// There is no pointer to a move.
    NoPointer(TransitId),
    /// There is a pointer to no move.
    NoMove(TransitId),
}

fn faults(engine: &dyn Engine) -> Result<Vec<Fault>, EngineError> {
    let mut pointed = BTreeSet::new();
    engine.scan(Space::Meta, keys::TRANSIT, prefix_end(keys::TRANSIT).as_deref(), false, &mut |key, _| {
        pointed.extend(keys::transit_of_pointer(key));
        true
    })?;
    let mut faults = Vec::new();
    for id in accounts(engine)? {
        let key = keys::account_record(id);
        let record =
            engine.get(Space::Account, &key)?.and_then(|value| AccountRecord::decode(&key, &value).ok());
        let state = record.map(|record| record.state);
        if !matches!(state, None | Some(AccountState::Home | AccountState::Deleted)) {
            // Where it is not at home nobody goes on with its moves.
            continue;
        }
        let prefix = keys::departures(id);
        engine.scan(Space::Account, &prefix, prefix_end(&prefix).as_deref(), false, &mut |key, _| {
            if let Some(transit) = keys::transit_of_departure(key)
                && !pointed.remove(&transit)
            {
                faults.push(Fault::NoPointer(transit));
            }
            true
        })?;
    }
    faults.extend(pointed.into_iter().map(Fault::NoMove));
    Ok(faults)
}

pub(super) fn check(engine: &dyn Engine, findings: &mut Findings) -> Result<(), EngineError> {
    for fault in faults(engine)? {
        match fault {
            Fault::NoPointer(id) => {
                findings.add_own("move pointer", &keys::transit_pointer(id), "it is missing");
            }
            Fault::NoMove(id) => {
                let key = keys::departure(id.account, id.counter);
                findings.add("outgoing move", &key, "it is missing, though there is a pointer to it");
            }
        }
    }
    Ok(())
}

/// Makes pointers anew, and takes those away that point to nothing.
pub(super) fn mend(repair: &mut Repair<'_>) -> Result<(), CheckError> {
    for fault in faults(repair.engine)? {
        match fault {
            Fault::NoPointer(id) => {
                let key = keys::transit_pointer(id);
                repair.put(Space::Meta, key.clone(), encode_pointer(&key));
                let text = "made anew from the move".to_string();
                repair.note_named("move pointer", own_name(&key), Outcome::Repaired(text));
            }
            Fault::NoMove(id) => {
                repair.delete(Space::Meta, keys::transit_pointer(id));
                let text =
                    "the pointer to it is taken away; its messages stay here, and may be there as well";
                let key = keys::departure(id.account, id.counter);
                repair.note("outgoing move", &key, Outcome::Repaired(text.into()));
            }
        }
    }
    repair.flush()
}
