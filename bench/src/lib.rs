//! Load on any IMAP, LMTP or POP3 server, and side-by-side figures: the same bounded load on Rookery, Cyrus, Dovecot and,
//! before other servers, nginx, interleaved in one run on one machine.
//!
//! Invariants:
//! - Every load ends by count or by time, and every answer is checked: a refused message or a short answer fails the
//!   measurement.
//! - All servers of a stage run during all of it, with the same durability: nobody's syncs are turned off.
//! - Figures of different runs are not comparable; ratios within one run are.
//! - The load comes from one thread of this program, since it shares the machine with the servers.

pub mod client;
pub mod compare;
pub mod connects;
mod contender;
mod edge;
pub mod load;
mod machine;
mod report;
mod rows;
mod steady;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use rookery_tests::server::Program;

pub use report::Report;

/// The optimised binary, built if need be.
pub fn release_binary() -> Result<PathBuf> {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(rookery_tests::workspace()).args(["build", "--release", "--locked", "-p", "rookery"]);
    ensure!(build.status()?.success(), "the server does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| rookery_tests::workspace().join("target"));
    Ok(target.join("release/rookery"))
}

/// Reads a list such as `rookery,cyrus,dovecot`.
pub fn contenders(list: &str) -> Result<Vec<Program>> {
    list.split(',')
        .map(|name| match name {
            "rookery" => Ok(Program::Rookery),
            "dovecot" => Ok(Program::Dovecot),
            "cyrus" => Ok(Program::Cyrus),
            "nginx" => Ok(Program::Nginx),
            other => bail!("{other} is not one of rookery, cyrus, dovecot, nginx"),
        })
        .collect()
}
