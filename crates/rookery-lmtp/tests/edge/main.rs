//! The transcripts of `tests/lmtp`, with an MTA that is connected to another node than the recipients' home: every
//! line has to be the same. And what only that has.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop here

#[path = "../lmtp/backing.rs"]
mod backing;
#[path = "../lmtp/client.rs"]
mod client;
mod forwards;
#[path = "../lmtp/transcripts.rs"]
mod transcripts;

/// Whether the MTA is connected to another node than the recipients' home.
const THROUGH_AN_EDGE: bool = true;
