//! The change log of the source in a node's own engine: what its last changes were, for those who follow it.
//!
//! Each change is a record of its own: `e` and the revision, with all that the change wrote of primary records.
//!
//! Invariants:
//! - The log holds the last changes without a gap, and never more than [`LOGGED_MAX`] of them.
//! - What is too old goes in the batch of the change that comes.

use crate::DirectoryError;
use crate::change::unavailable;
use crate::encoding::{Damaged, Encoder, open};
use crate::records::{LAYOUT, LOGGED, number_key, number_of_key};
use crate::source::{Event, Position, Write};
use bytes::Bytes;
use rookery_kv::{Read, Space, prefix_end};
use std::collections::VecDeque;

/// Changes that the log holds at most.
pub const LOGGED_MAX: usize = 8192;
/// Octets that the log holds at most, but for the last change.
const LOGGED_OCTETS_MAX: usize = 16 << 20;

/// Which changes the log holds.
pub(crate) struct ChangeLog {
    /// Their revisions and octets, oldest first.
    changes: VecDeque<(u64, usize)>,
    octets: usize,
}

impl ChangeLog {
    /// Finds the changes that are there.
    pub(crate) fn open(read: &dyn Read) -> Result<ChangeLog, DirectoryError> {
        let mut changes = VecDeque::new();
        let end = prefix_end(&[LOGGED]);
        let scanned = read.scan(Space::Directory, &[LOGGED], end.as_deref(), false, &mut |key, value| {
            changes.extend(number_of_key(LOGGED, key).map(|revision| (revision, value.len())));
            true
        });
        scanned.map_err(unavailable)?;
        let octets = changes.iter().map(|(_, octets)| octets).sum();
        Ok(ChangeLog { changes, octets })
    }

    /// Adds what the newest revision changed, and drops what is too old. Gives what is to be written for that.
    pub(crate) fn add(&mut self, revision: u64, writes: &[Write]) -> Vec<(Vec<u8>, Option<Bytes>)> {
        let (key, value) = encode_logged(revision, writes);
        self.changes.push_back((revision, value.len()));
        self.octets += value.len();
        let mut records = vec![(key, Some(value))];
        while self.changes.len() > LOGGED_MAX || self.octets > LOGGED_OCTETS_MAX && self.changes.len() > 1 {
            let Some((revision, octets)) = self.changes.pop_front() else { break };
            self.octets -= octets;
            records.push((number_key(LOGGED, revision), None));
        }
        records
    }
}

/// The keys of the log.
pub(crate) fn log_keys(read: &dyn Read) -> Result<Vec<Vec<u8>>, DirectoryError> {
    let changes = ChangeLog::open(read)?.changes;
    Ok(changes.into_iter().map(|(revision, _)| number_key(LOGGED, revision)).collect())
}

/// At most so many changes behind a position, up to the first gap: none if it is the newest, or if what came next is
/// forgotten.
pub(crate) fn after(read: &dyn Read, since: Position, max: usize) -> Result<Vec<Event>, DirectoryError> {
    let mut events: Vec<Event> = Vec::new();
    let mut fault = None;
    let mut next = since.revision.saturating_add(1);
    let start = number_key(LOGGED, next);
    let end = prefix_end(&[LOGGED]);
    let scanned = read.scan(Space::Directory, &start, end.as_deref(), false, &mut |key, value| {
        match decode_logged(key, value) {
            // A gap: what came between is forgotten.
            Ok((revision, _)) if revision != next => return false,
            Ok((revision, writes)) => {
                events.push(Event { position: Position { revision, ..since }, writes });
                next = next.saturating_add(1);
            }
            Err(damaged) => fault = Some(damaged),
        }
        fault.is_none() && events.len() < max
    });
    scanned.map_err(unavailable)?;
    match fault {
        Some(damaged) => Err(damaged.into()),
        None => Ok(events),
    }
}

fn encode_logged(revision: u64, writes: &[Write]) -> (Vec<u8>, Bytes) {
    let key = number_key(LOGGED, revision);
    let mut e = Encoder::new(LAYOUT);
    e.varint(writes.len() as u64);
    for Write { key, value } in writes {
        e.octets(key);
        match value {
            Some(value) => e.u8(1).octets(value),
            None => e.u8(0),
        };
    }
    let value = e.seal(&key);
    (key, value)
}

/// A revision and what it changed.
pub(crate) fn decode_logged(key: &[u8], value: &[u8]) -> Result<(u64, Vec<Write>), Damaged> {
    let revision = number_of_key(LOGGED, key).ok_or_else(|| Damaged::new(key, "its key is no revision's"))?;
    open(key, value, LAYOUT, |d| {
        let mut writes = Vec::new();
        for _ in 0..d.varint()? {
            let key = Bytes::copy_from_slice(d.octets()?);
            let value = match d.u8()? {
                0 => None,
                1 => Some(Bytes::copy_from_slice(d.octets()?)),
                _ => return None,
            };
            writes.push(Write { key, value });
        }
        Some((revision, writes))
    })
}
