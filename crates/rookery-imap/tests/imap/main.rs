//! Transcripts of sessions: what clients send and what they hear, one family of commands a file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod acl;
mod basics;
mod compression;
mod condstore;
mod harness;
mod listing;
mod names;
mod quota;
mod replay;
mod searching;
mod wire;
