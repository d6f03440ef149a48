//! Transcripts of sessions: what clients send and what they hear, one family of commands a file.

mod basics;
mod condstore;
mod harness;
mod listing;
mod names;
mod replay;
mod searching;
mod wire;
