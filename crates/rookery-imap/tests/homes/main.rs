//! The transcripts of `tests/imap` that are about mailboxes of others, where those are at home at another node than the
//! user: every line has to be the same. And what only two homes have.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

#[path = "../imap/acl.rs"]
mod acl;
#[path = "../imap/admin.rs"]
mod admin;
mod answers;
mod apart;
mod guests;
#[path = "../imap/harness/mod.rs"]
#[allow(dead_code, reason = "these transcripts do not need all of it")]
mod harness;
#[path = "../imap/listing.rs"]
mod listing;
mod many;
#[path = "../imap/metadata.rs"]
mod metadata;
mod moving;
#[path = "../imap/notify.rs"]
mod notify;
#[path = "../imap/quota.rs"]
mod quota;
#[path = "../imap/replacing.rs"]
mod replacing;
#[path = "../imap/seen.rs"]
mod seen;
#[path = "../imap/sharing.rs"]
mod sharing;
mod third;
#[path = "../imap/unheard.rs"]
mod unheard;
mod watching;

/// Ann is at home at one node, everybody else at another, where the clients come in.
const NODES: harness::Nodes = harness::Nodes::TwoHomes;
