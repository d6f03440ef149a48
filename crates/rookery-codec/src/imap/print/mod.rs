//! Values to octets, appended to a `BytesMut`. Nothing here allocates per token.
//!
//! Invariant: whatever a value holds, what is printed is one response: no string can end a line early.

pub(crate) mod basic;
mod code;
mod command;
mod fetch;
mod response;
mod search;

pub use basic::{astring, date_time, flag_list, literal, mailbox, nstring, number, quoted, string, uid_set};
pub(crate) use code::PLAIN as PLAIN_CODES;
pub use code::{code, status};
pub(crate) use command::CommandWriter;
pub use fetch::FetchWriter;
pub(crate) use response::ATTRIBUTES as LIST_ATTRIBUTES;
pub use response::{list_entry, mailbox_status, response};
