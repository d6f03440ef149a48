//! What drives the real server from outside: it is started as a process, talked to over its sockets, killed,
//! started again and judged by what it then says.
//!
//! Invariants:
//! - Nothing of the server's own code is used here: a mistake in a shared codec would hide on both sides of the wire.
//! - Every wait has an end ([`command::LIMIT`], socket timeouts), every load a bound.
//! - Only processes started here are ever signalled, by their id.
//! - Servers listen on loopback addresses alone, on ports that were free a moment ago.

pub mod bodystructure;
pub mod certificate;
pub mod clock;
pub mod command;
pub mod corpus;
pub mod edge;
pub mod etcd;
pub mod imap;
pub mod lmtp;
pub mod murder;
pub mod namespace;
pub mod peer;
pub mod postfix;
pub mod powerloss;
pub mod process;
pub mod random;
pub mod server;
pub mod soak;
pub mod value;

use std::path::PathBuf;

/// The workspace's root folder, where `Cargo.toml` of the whole lies.
pub fn workspace() -> PathBuf {
    // Cargo says it when it runs something; clones that share a target folder share what was built in one of them, too.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let here = PathBuf::from(here);
    here.parent().unwrap_or(&here).to_path_buf()
}
