//! What SEARCH, SORT and THREAD ask.

use crate::imap::types::{MessageSet, PartialRange};
use bytes::Bytes;
use rookery_types::{Keyword, SystemFlags};
use std::num::NonZeroU32;

/// SEARCH and UID SEARCH.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search {
    /// UID SEARCH: numbers in the answer are UIDs.
    pub uid: bool,
    /// `RETURN (..)`; `None`: not given, and an IMAP4rev1 client expects SEARCH rather than ESEARCH.
    pub returns: Option<SearchReturn>,
    /// `CHARSET`, as written.
    pub charset: Option<Bytes>,
    /// What to look for; several keys are an [`SearchKey::And`].
    pub key: SearchKey,
}

/// What SEARCH shall return (RFC 4731, RFC 5182). `RETURN ()` reads as `ALL`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SearchReturn {
    /// `MIN`
    pub min: bool,
    /// `MAX`
    pub max: bool,
    /// `ALL`
    pub all: bool,
    /// `COUNT`
    pub count: bool,
    /// `SAVE`
    pub save: bool,
    /// `PARTIAL` (RFC 9394 §3.1); never together with `ALL`.
    pub partial: Option<PartialRange>,
}

/// `search-key` of RFC 9051 §9. Strings are octets in the command's charset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SearchKey {
    /// All of them, at least two; or in a command with one key in parentheses, that one.
    And(Vec<SearchKey>),
    /// `OR`
    Or(Box<SearchKey>, Box<SearchKey>),
    /// `NOT`
    Not(Box<SearchKey>),
    /// `ALL`
    All,
    /// `ANSWERED`, `DELETED`, ...: exactly one flag.
    Has(SystemFlags),
    /// `UNANSWERED`, `UNDELETED`, ...: exactly one flag.
    HasNot(SystemFlags),
    /// `KEYWORD`
    Keyword(Keyword),
    /// `UNKEYWORD`
    Unkeyword(Keyword),
    /// `RECENT` (RFC 3501)
    Recent,
    /// `NEW` (RFC 3501)
    New,
    /// `OLD` (RFC 3501)
    Old,
    /// `BEFORE`, `SENTON`, `SAVEDSINCE`, ...: which date, how it compares, and the day.
    Date(DateField, DateTest, Day),
    /// `SAVEDATESUPPORTED` (RFC 8514)
    SaveDateSupported,
    /// `BCC`
    Bcc(Bytes),
    /// `BODY`
    Body(Bytes),
    /// `CC`
    Cc(Bytes),
    /// `FROM`
    From(Bytes),
    /// `SUBJECT`
    Subject(Bytes),
    /// `TEXT`
    Text(Bytes),
    /// `TO`
    To(Bytes),
    /// `HEADER`
    Header {
        /// Field name.
        field: Bytes,
        /// What the field contains; empty: the field is there.
        value: Bytes,
    },
    /// `LARGER`, octets.
    Larger(u64),
    /// `SMALLER`, octets.
    Smaller(u64),
    /// `OLDER`, seconds (RFC 5032).
    Older(NonZeroU32),
    /// `YOUNGER`, seconds (RFC 5032).
    Younger(NonZeroU32),
    /// `MODSEQ` (RFC 7162 §3.1.5).
    ModSeq {
        /// Entry name and type, which a server without per-flag modseqs ignores.
        entry: Option<(Bytes, EntryType)>,
        /// At least this, 0..=2^63-1.
        modseq: u64,
    },
    /// `EMAILID` (RFC 8474)
    EmailId(Bytes),
    /// `THREADID` (RFC 8474)
    ThreadId(Bytes),
    /// Sequence numbers.
    Sequence(MessageSet),
    /// `UID`
    Uid(MessageSet),
}

/// `entry-type-req` of RFC 7162 §7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryType {
    /// `priv`
    Private,
    /// `shared`
    Shared,
    /// `all`
    All,
}

/// Which of a message's dates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DateField {
    /// INTERNALDATE
    Internal,
    /// The `Date:` header field.
    Sent,
    /// When it came into this mailbox (RFC 8514).
    Saved,
}

/// How a date compares, time and zone disregarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DateTest {
    /// Earlier than the day.
    Before,
    /// On the day.
    On,
    /// On the day or later.
    Since,
}

/// A day, as days since 1970-01-01 within the years 0 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Day(pub i64);

/// SORT and UID SORT (RFC 5256).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sort {
    /// UID SORT
    pub uid: bool,
    /// `RETURN (..)` (RFC 5267).
    pub returns: Option<SearchReturn>,
    /// At least one.
    pub criteria: Vec<SortCriterion>,
    /// As written.
    pub charset: Bytes,
    /// Which messages.
    pub key: SearchKey,
}

/// One `sort-criterion` of RFC 5256 §5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SortCriterion {
    /// `REVERSE`
    pub reverse: bool,
    /// By what.
    pub key: SortKey,
}

/// `sort-key` of RFC 5256 §5 and RFC 5957.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SortKey {
    /// `ARRIVAL`
    Arrival,
    /// `CC`
    Cc,
    /// `DATE`
    Date,
    /// `DISPLAYFROM` (RFC 5957)
    DisplayFrom,
    /// `DISPLAYTO` (RFC 5957)
    DisplayTo,
    /// `FROM`
    From,
    /// `SIZE`
    Size,
    /// `SUBJECT`
    Subject,
    /// `TO`
    To,
}

/// THREAD and UID THREAD (RFC 5256).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread {
    /// UID THREAD
    pub uid: bool,
    /// `REFERENCES`, `ORDEREDSUBJECT` or another, in upper case.
    pub algorithm: Box<str>,
    /// As written.
    pub charset: Bytes,
    /// Which messages.
    pub key: SearchKey,
}
