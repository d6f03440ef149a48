//! The mail store: accounts, mailboxes, messages, flags, quota, subscriptions and the change log.
//!
//! It knows no protocol and no other node. One committer ([`committer`](self)) is the only writer; one sequencer per
//! account orders its changes; content lies in append-only volumes beside an ordered key-value engine.
//!
//! Invariants:
//! - What a caller is told has happened is on stable storage, and only then visible to others.
//! - A UID is never given twice under one UIDVALIDITY; modseqs of an account only rise.
//! - A message's content is referred to once by each message that has it, expunged ones that are kept included.
//! - No cost grows with the size of a mailbox, except that of reading all of it.

mod account;
mod annotations;
mod append;
mod background;
pub mod check;
mod committer;
mod compaction;
mod deliveries;
mod encoding;
mod error;
mod fold;
#[cfg(fuzzing)]
pub mod fuzzing;
mod keys;
mod leaf;
mod load;
mod mailbox;
mod messages;
mod noted;
mod operations;
mod publish;
mod quota;
mod readers;
mod reading;
mod records;
mod recover;
mod restore;
mod seen;
mod sequencer;
mod store;
mod transit;
mod travel;
mod undelete;
mod volume;

pub use account::Account;
pub use annotations::Annotation;
pub use append::{Appended, NewMessage, Spool, Spooled};
pub use committer::CommitError;
pub use deliveries::Once;
pub use encoding::Damaged;
pub use error::StoreError;
pub use mailbox::{Copied, FlagChange, FlagList, KEYWORDS_MAX, Mailbox, Stored};
pub use messages::{Difference, Iter, KeywordNumbers, Message, Messages};
pub use noted::Noted;
pub use operations::Settled;
pub use publish::{Outbox, Publisher, Seen, SeenChange};
pub use quota::{QUOTA_ROOTS_MAX, Quota};
pub use reading::{BodyReader, Whole};
pub use records::{
    AccountRecord, AccountState, AnnotationName, Change, ContentRecord, Facts, Held, KINDS, Kind, Limits,
    Locator, LogEntry, Settings, Summary, Travel,
};
pub use restore::{RestoredMailbox, RestoredMessage};
pub use sequencer::{MailboxState, Tree};
pub use store::{FORMAT, NewAccount, OpenError, Store, StoreOptions};
pub use transit::{Arrival, Departure, Destination, Refusal, Transit, TransitId, Verdict};
pub use travel::{
    CommandGuard, Exchange, FRAME_OCTETS_MAX, Frozen, Incoming, Job, Outgoing, SendError, Stage, Whereabouts,
};
pub use undelete::{DeletedAccount, DeletedMailbox, Expunged};
pub use volume::VolumeError;
