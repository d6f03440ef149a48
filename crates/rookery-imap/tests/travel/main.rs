//! The transcripts of `tests/imap` with an account that moves to the other node before
//! every command of its user, and its sessions with it, also those of others: every line has to be the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

#[path = "../imap/acl.rs"]
mod acl;
#[path = "../imap/basics.rs"]
mod basics;
#[path = "../imap/condstore.rs"]
mod condstore;
#[path = "../imap/content.rs"]
mod content;
#[path = "../imap/harness/mod.rs"]
#[allow(dead_code, reason = "these transcripts do not need all of it")]
mod harness;
mod load;
#[path = "../imap/metadata.rs"]
mod metadata;
#[path = "../imap/names.rs"]
mod names;
#[path = "../imap/notify.rs"]
mod notify;
#[path = "../imap/replacing.rs"]
mod replacing;
#[path = "../imap/replay.rs"]
mod replay;
#[path = "../imap/searching.rs"]
mod searching;
#[path = "../imap/seen.rs"]
mod seen;
#[path = "../imap/sharing.rs"]
mod sharing;
#[path = "../imap/sorting.rs"]
mod sorting;
#[path = "../imap/wire.rs"]
mod wire;

/// Nor do accounts.
const NODES: harness::Nodes = harness::Nodes::Travelling;
