//! SEARCH: which messages of a view match a key (RFC 9051 §6.4.4).
//!
//! A key is compiled once against the mailbox (sets to UIDs, keywords to numbers), then asked of each message
//! twice at most: first of what memory knows, where the answer may be "that depends on the content"; those
//! messages alone are then read, on blocking threads. So cheap keys always go first.

mod compile;
mod content;
mod find;
mod headers;
mod results;

pub(crate) use compile::{Compiled, Scene, compile, mentions_modseq, mentions_numbers};
pub(crate) use content::matches;
pub(crate) use find::{Finding, Hit};
pub use headers::HeaderTexts;
pub(crate) use results::{Found, esearch, saved};
