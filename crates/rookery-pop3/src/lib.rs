//! Sessions of POP3 (RFC 1939) with CAPA, SASL, STLS, PIPELINING and UTF8: an account's INBOX as a maildrop.
//!
//! Invariants:
//! - A session sees INBOX as it was at the login, and locks nobody out: deliveries, IMAP and other POP3 sessions go
//!   on beside it ([`maildrop`]).
//! - Nothing changes before QUIT. What DELE named is gone, durably, when QUIT is answered with `+OK`; a connection
//!   that ends otherwise removes nothing (RFC 1939 §6).
//! - Flags are left alone: what was fetched by POP3 is not `\Seen` for that.
//! - A session goes on where its account goes, from its value ([`value`]), and its client hears nothing of it. QUIT removes
//!   messages where the account is at home then.
//! - Large messages are sent piece by piece, and no lock is held while a client reads.

mod authorization;
mod capability;
mod config;
mod connection;
mod maildrop;
mod measure;
mod retrieve;
mod services;
mod transaction;
mod value;
mod wire;

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

pub use config::Pop3Config;
pub use connection::{serve_connection, serve_pipe};
pub use services::Services;
