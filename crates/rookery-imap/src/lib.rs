//! Sessions of IMAP4rev1 (RFC 3501) and IMAP4rev2 (RFC 9051) with their extensions: the state machine of one
//! client, and the task that drives its connection.
//!
//! Invariants:
//! - A session is a view: a shared immutable version of a mailbox, and what was told of it. There are no queues
//!   of events; at each checkpoint the difference to the mailbox as it is now is told ([`view`], [`tell`]).
//! - No octet is written to a client while a store lock is held: a slow reader must not stop delivery.
//! - What a client sends never panics the session; what goes wrong is answered in one place ([`answer`]).
//! - Capabilities name exactly what is here.

mod answer;
mod awaiting;
mod capability;
mod command;
mod config;
mod connection;
mod fetch;
mod guest;
mod handed;
mod kept;
mod mark;
mod measure;
mod names;
mod notify;
mod progress;
mod search;
mod services;
mod session;
mod sorting;
mod tell;
mod value;
mod view;
mod wire;
mod witness;

/// What is read of other nodes, for `fuzz/`, which alone is built with `cfg(fuzzing)`.
#[cfg(fuzzing)]
pub mod fuzzing {
    use crate::value::SessionValue;

    /// Reads a session's value, and again what is written of it.
    pub fn session_value(octets: &[u8]) {
        if let Ok(value) = SessionValue::decode(octets) {
            assert_eq!(SessionValue::decode(&value.encode()), Ok(value));
        }
    }
}

pub use config::ImapConfig;
pub use connection::{Entrance, serve_connection, serve_guest, serve_pipe};
pub use search::HeaderTexts;
pub use services::Services;
pub use sorting::SortTables;
pub use witness::Witness;
