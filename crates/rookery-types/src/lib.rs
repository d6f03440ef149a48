//! The words of a mail store as types: ids, UIDs and modseqs, flags, names, rights, dates and sets.
//!
//! Nothing here does I/O, and nothing here knows a protocol's wire form beyond the text that RFCs give to
//! single values (a date, a rights string, a sequence set, a mailbox name).
//!
//! Invariants:
//! - A value that exists is valid: constructors check, and what is inside is not checked again.
//! - Text from a client never becomes part of a file path.

pub mod acl;
pub mod date;
pub mod flags;
pub mod ids;
pub mod name;
pub mod namespace;
pub mod set;
pub mod settings;
pub mod utf7;

pub use acl::{Acl, Identifier, Rights};
pub use date::InternalDate;
pub use flags::{Flag, Keyword, SpecialUse, SystemFlags};
pub use ids::{
    AccountId, ContentId, Epoch, JobId, MailboxId, ModSeq, NodeId, OperationId, SeqNum, StoreId, ThreadId,
    Uid, UidValidity,
};
pub use name::{MailboxPath, NameError, UserName};
pub use namespace::{AccountName, Address, ClientNames, Encoding, Pattern, SharedName, Style};
pub use set::{SequenceSet, SetEnd, UidSet};
pub use settings::Setting;
