//! POP3 (RFC 1939) with CAPA (RFC 2449), AUTH (RFC 5034), STLS (RFC 2595), UTF8 (RFC 6856) and response codes
//! (RFC 2449 §8, RFC 3206).
//!
//! A server pushes octets into a [`server::Decoder`], prints [`Reply`]s, and messages with a
//! [`DotStuffer`](crate::dot::DotStuffer); a client prints [`Command`]s and reads with [`client::Decoder`].

pub mod client;
pub mod command;
mod parse;
pub mod reply;
pub mod server;

pub use command::Command;
pub use reply::{Code, Reply, print_challenge};
