//! IMAP4rev2 (RFC 9051), IMAP4rev1 (RFC 3501) and extensions.
//!
//! A server pushes octets into a [`server::Decoder`] and gets [`Command`]s; it prints [`Response`]s, or
//! FETCH data item by item with [`print::FetchWriter`]. A client prints commands with
//! [`client::encode`] and gets responses from [`client::Decoder`].

pub mod client;
pub mod command;
mod framing;
mod parse;
pub mod passage;
pub mod print;
pub mod response;
pub mod server;
pub mod types;
pub mod url;

pub use command::Command;
pub use response::{Code, Condition, Response, Status};
pub use types::{FlagList, MessageSet, Secret, Section, SectionText, StatusItem, Tag, WireName};
