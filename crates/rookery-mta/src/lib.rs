//! What an MTA asks a mail store: who is logging in, by Dovecot's auth protocol, so that Postfix and others
//! authenticate submission against the same users ([`auth`]); and which recipients there are and where aliases
//! lead, by Postfix's socketmap protocol ([`socketmap`]).
//!
//! Invariants:
//! - Both are for this machine's MTA: whoever can connect can guess passwords and ask for names, so the sockets'
//!   modes decide who that is.
//! - "There is none" is said only when the directory says so; when it cannot be asked, that is said.
//! - Lines, requests and exchanges under way are bounded.

pub mod auth;
pub mod config;
#[cfg(fuzzing)]
pub mod fuzzing;
mod lines;
pub mod socketmap;

pub use config::MtaConfig;
