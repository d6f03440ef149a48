//! The transcripts of `tests/imap`, with clients that come in at another node than the one that has the mail: every
//! line has to be the same. Sessions of administrators are not among them: they run where they connect.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

#[path = "../imap/acl.rs"]
mod acl;
#[path = "../imap/basics.rs"]
mod basics;
#[path = "../imap/compression.rs"]
mod compression;
#[path = "../imap/condstore.rs"]
mod condstore;
#[path = "../imap/content.rs"]
mod content;
#[path = "../imap/habits.rs"]
mod habits;
mod halves;
#[path = "../imap/harness/mod.rs"]
mod harness;
#[path = "../imap/listing.rs"]
mod listing;
mod lost;
#[path = "../imap/metadata.rs"]
mod metadata;
#[path = "../imap/names.rs"]
mod names;
#[path = "../imap/notify.rs"]
mod notify;
#[path = "../imap/quota.rs"]
mod quota;
#[path = "../imap/replacing.rs"]
mod replacing;
#[path = "../imap/replay.rs"]
mod replay;
#[path = "../imap/searching.rs"]
mod searching;
#[path = "../imap/server_metadata.rs"]
mod server_metadata;
#[path = "../imap/sharing.rs"]
mod sharing;
#[path = "../imap/sorting.rs"]
mod sorting;
#[path = "../imap/wire.rs"]
mod wire;

/// Clients come in at another node than the one that has the mail.
const NODES: harness::Nodes = harness::Nodes::HomeAndEdge;
