//! Turns: how a node makes sure that what it has given up is never done.
//!
//! A request whose answer does not come may reach the source much later, when its conditions, which are values, happen to
//! hold again. So every change that a node makes elsewhere has one condition more: the node's turn, a number that only
//! rises. As long as a request of an earlier turn may be on its way nothing is decided; first the turn is raised, after
//! which that request can never be done.
//!
//! Invariants:
//! - A request has the turn as a condition, as the copy had it when it was decided.
//! - Before a node decides anything, its turn is above those of all requests of which it does not know that they have
//!   come to an end, also of requests that were made before it started.

use crate::DirectoryError;
use crate::change::{Change, get};
use crate::encoding::{Damaged, Encoder, open};
use crate::records::{LAYOUT, number_key, number_of_key};
use bytes::Bytes;
use rookery_types::NodeId;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const TURN: u8 = b'f';

/// `f` and the node.
pub(crate) fn turn_key(node: NodeId) -> Vec<u8> {
    number_key(TURN, node.0)
}

/// `mark`: a random number of whoever raised it, so that nobody takes another's raising for their own.
pub(crate) fn encode_turn(key: &[u8], turn: u64, mark: u64) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    e.varint(turn);
    e.varint(mark);
    e.seal(key)
}

pub(crate) fn decode_turn(key: &[u8], value: &[u8]) -> Result<u64, Damaged> {
    number_of_key(TURN, key).ok_or_else(|| Damaged::new(key, "its key is no node's"))?;
    open(key, value, LAYOUT, |d| {
        let turn = d.varint()?;
        d.varint()?;
        Some(turn)
    })
}

impl Change<'_> {
    /// The turn of a node, which becomes a condition; 0: it has had none.
    pub(crate) fn turn(&self, node: NodeId) -> Result<u64, DirectoryError> {
        let key = turn_key(node);
        Ok(get(&self.read, &key)?.map(|value| decode_turn(&key, &value)).transpose()?.unwrap_or(0))
    }

    /// Raises it by one.
    pub(crate) fn raise_turn(&mut self, node: NodeId) -> Result<u64, DirectoryError> {
        let turn = self.turn(node)?.saturating_add(1);
        let key = turn_key(node);
        let value = encode_turn(&key, turn, rand::random());
        self.put_record(key, value);
        Ok(turn)
    }
}

/// Which turns of a node are over.
pub(crate) struct Turns {
    pub(crate) node: NodeId,
    /// The first turn in which the node may decide.
    first: AtomicU64,
    /// One raises it at a time.
    pub(crate) raising: tokio::sync::Mutex<()>,
}

/// Nobody knows yet which turn comes first, only that it has to be a new one.
const A_NEW_ONE: u64 = u64::MAX;

impl Turns {
    /// Those of a node that starts: what it asked for before is unknown.
    pub(crate) fn new(node: NodeId) -> Turns {
        Turns { node, first: AtomicU64::new(A_NEW_ONE), raising: tokio::sync::Mutex::default() }
    }

    pub(crate) fn may_decide_in(&self, turn: u64) -> bool {
        turn >= self.first.load(Ordering::Acquire)
    }

    /// A request of this turn may come to its end later.
    pub(crate) fn is_in_doubt(&self, turn: u64) {
        self.first.fetch_max(turn.saturating_add(1), Ordering::AcqRel);
    }

    /// The turn was raised, and the copy has it.
    pub(crate) fn raised(&self, turn: u64) {
        // Else one was in doubt since that already was of a later start than this.
        let _ = self.first.compare_exchange(A_NEW_ONE, turn, Ordering::AcqRel, Ordering::Acquire);
    }
}
