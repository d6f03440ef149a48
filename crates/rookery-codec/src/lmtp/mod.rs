//! LMTP (RFC 2033) on the grammar of SMTP (RFC 5321), with SIZE, 8BITMIME, BINARYMIME and CHUNKING,
//! SMTPUTF8, DSN, AUTH and STARTTLS.
//!
//! A server pushes octets into a [`server::Decoder`] and prints [`Reply`]s; a client prints
//! [`Command`]s and reads replies with [`client::Decoder`].

pub mod address;
pub mod client;
pub mod command;
mod parse;
pub mod reply;
pub mod server;

pub use address::Address;
pub use command::Command;
pub use reply::{Enhanced, Reply};
