//! SORT and THREAD: messages in an order, and in conversations (RFC 5256).
//!
//! Invariants:
//! - No octet of a message is read: what was found out when it came is enough.
//! - What is compared of a message never changes under its UID, so it is kept for all sessions of a mailbox, within a
//!   budget of memory. Without that memory everything is the same, only slower.
//! - What a client sent can cost time in proportion to its messages only, never their square.

mod cache;
mod conversations;
mod order;
mod table;

pub use cache::SortTables;
pub(crate) use conversations::{ordered_subject, references};
pub(crate) use order::{Sortable, in_order, needs_table};
