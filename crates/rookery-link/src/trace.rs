//! The number that ties together what all nodes log of one client's connection.

use std::fmt;

/// Given when a client connects; it travels in the head of each stream that is opened on the client's behalf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceId(pub u64);

impl TraceId {
    /// A new one, by chance.
    pub fn random() -> TraceId {
        TraceId(rand::random())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
