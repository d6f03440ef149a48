//! What a mail store needs to know about a message (RFC 5322, MIME): its ENVELOPE and BODYSTRUCTURE as they
//! will be sent, the octet range of each section, header subsets, threading keys and search text.
//!
//! Invariants:
//! - No I/O. A message arrives by [`Scanner::push`] in pieces of any size, and the answer does not depend on
//!   where the cuts are.
//! - Every octet string is a message: malformed input gets a best-effort answer, never an error or a panic.
//! - Memory is bounded by [`Limits`], not by the message.
//! - Sections are octet ranges of the message as it came. What BODYSTRUCTURE says of a part's size is the
//!   length of that part's range.
//! - LF and CRLF end a line; a bare CR is an octet like any other.

mod address;
pub mod date;
mod decode;
mod facts;
pub mod header;
mod media;
mod nul;
mod preview;
mod render;
mod scanner;
mod search;
mod sorting;
mod structure;
mod subject;
mod words;

pub use date::parse_date;
pub use decode::{TransferDecoder, TransferEncoding};
pub use facts::{MessageFacts, sent_date};
pub use header::filter_header;
pub use nul::{NulOutside, without_nul};
pub use preview::preview;
pub use scanner::{Limits, Scanned, Scanner};
pub use search::{
    Needle, SearchBuffers, SearchScope, SearchableField, search_text, search_text_with, searchable,
};
pub use sorting::{SortKeys, collation_key};
pub use structure::{DamagedStructure, PartKind, PartRef, SectionPath, SectionText, Structure};
pub use subject::{BaseSubject, base_subject};
pub use words::decode_words;
