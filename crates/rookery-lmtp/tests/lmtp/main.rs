//! LMTP connections to the node where the recipients are at home.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop here

mod backing;
mod client;
mod transcripts;

/// Whether the MTA is connected to another node than the recipients' home.
const THROUGH_AN_EDGE: bool = false;
