//! Transcripts of sessions: what clients send and what they hear, one family of commands a file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod acl;
mod admin;
mod basics;
mod compression;
mod condstore;
mod content;
mod habits;
mod harness;
mod listing;
mod metadata;
mod names;
mod notify;
mod quota;
mod replacing;
mod replay;
mod searching;
mod seen;
mod server_metadata;
mod sharing;
mod sorting;
mod unheard;
mod wire;

/// One node has the mail and takes the clients.
const NODES: harness::Nodes = harness::Nodes::One;
