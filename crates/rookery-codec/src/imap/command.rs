//! Commands, as typed values. One variant for each command of the RFCs that we know; a variant holds what
//! the grammar lets stand there and nothing that is decided elsewhere.
//!
//! APPEND and REPLACE are no [`Command`]s: their messages are streamed, see [`crate::imap::server::Decoded::AppendStart`].

mod notify;
mod search;

pub use notify::{Event, EventGroup, MailboxFilter, Notify};
pub use search::{
    DateField, DateTest, Day, EntryType, Search, SearchKey, SearchReturn, Sort, SortCriterion, SortKey,
    Thread,
};

use super::types::{
    IdParams, LiteralKind, MessageSet, Partial, PartialRange, Secret, Section, StatusItem, Tag, WireName,
};
use bytes::Bytes;
use rookery_types::{Flag, InternalDate, Rights, SequenceSet, SetEnd, SpecialUse, UidValidity};
use std::num::NonZeroU32;

/// A command with its tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tagged {
    /// What the answer must carry.
    pub tag: Tag,
    /// What is asked.
    pub command: Command,
}

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// RFC 9051 §6.1.1
    Capability,
    /// RFC 9051 §6.1.2
    Noop,
    /// RFC 9051 §6.1.3
    Logout,
    /// RFC 2971
    Id(IdParams),
    /// RFC 9051 §6.2.1
    StartTls,
    /// RFC 9051 §6.2.3
    Login {
        /// As sent.
        user: Bytes,
        /// As sent.
        password: Secret,
    },
    /// RFC 9051 §6.2.2. The client's further lines are read with
    /// [`crate::imap::server::Decoder::expect_line`].
    Authenticate {
        /// In upper case.
        mechanism: Box<str>,
        /// Base64 undone; `=` is an empty one (RFC 4959).
        initial: Option<Secret>,
    },
    /// RFC 9051 §6.3.1: capability names in upper case, at least one.
    Enable(Vec<Box<str>>),
    /// RFC 8437
    Unauthenticate,
    /// SELECT and EXAMINE, RFC 9051 §6.3.2 and §6.3.3.
    Select {
        /// Which mailbox.
        mailbox: WireName,
        /// EXAMINE: change nothing.
        read_only: bool,
        /// RFC 7162 parameters.
        parameters: SelectParameters,
    },
    /// RFC 9051 §6.3.4, RFC 6154 §3.
    Create {
        /// Which mailbox; may end with the separator.
        mailbox: WireName,
        /// `(USE (..))`; empty if not given.
        special_use: Vec<SpecialUse>,
        /// Where, as Cyrus has it: `CREATE mailbox node` or `(PARTITION node)`.
        at: Option<Bytes>,
    },
    /// RFC 9051 §6.3.5
    Delete {
        /// Which mailbox.
        mailbox: WireName,
    },
    /// RFC 9051 §6.3.6
    Rename {
        /// Its name now.
        from: WireName,
        /// Its name to be.
        to: WireName,
        /// Where to, as Cyrus has it: `RENAME mailbox mailbox node`.
        at: Option<Bytes>,
    },
    /// Cyrus's, for administrators: a mailbox goes to another node.
    Xfer {
        /// Which mailbox.
        mailbox: WireName,
        /// To which node.
        node: Bytes,
        /// To which of its partitions.
        partition: Option<Bytes>,
    },
    /// RFC 9051 §6.3.7
    Subscribe {
        /// Which mailbox.
        mailbox: WireName,
    },
    /// RFC 9051 §6.3.8
    Unsubscribe {
        /// Which mailbox.
        mailbox: WireName,
    },
    /// RFC 9051 §6.3.9, RFC 5258.
    List(List),
    /// RFC 3501 §6.3.9
    Lsub {
        /// What the pattern is relative to.
        reference: WireName,
        /// With `%` and `*`.
        pattern: WireName,
    },
    /// RFC 9051 §6.3.10
    Namespace,
    /// RFC 9051 §6.3.11
    Status {
        /// Which mailbox.
        mailbox: WireName,
        /// As asked, at least one.
        items: Vec<StatusItem>,
    },
    /// RFC 9051 §6.3.13. `DONE` is read with [`crate::imap::server::Decoder::expect_line`].
    Idle,
    /// RFC 3501 §6.4.1
    Check,
    /// RFC 9051 §6.4.1
    Close,
    /// RFC 9051 §6.4.2
    Unselect,
    /// EXPUNGE, and UID EXPUNGE with a set (RFC 9051 §6.4.3 and §6.4.9).
    Expunge {
        /// UID EXPUNGE's UIDs; `None`: EXPUNGE.
        uids: Option<MessageSet>,
    },
    /// RFC 9051 §6.4.4
    Search(Search),
    /// RFC 5256 §3
    Sort(Sort),
    /// RFC 5256 §3
    Thread(Thread),
    /// RFC 9051 §6.4.5
    Fetch(Fetch),
    /// RFC 9051 §6.4.6
    Store(Store),
    /// RFC 9051 §6.4.7
    Copy {
        /// UID COPY: the set holds UIDs, else sequence numbers.
        uid: bool,
        /// Which messages.
        set: MessageSet,
        /// Where to.
        mailbox: WireName,
    },
    /// RFC 9051 §6.4.8
    Move {
        /// UID MOVE: the set holds UIDs, else sequence numbers.
        uid: bool,
        /// Which messages.
        set: MessageSet,
        /// Where to.
        mailbox: WireName,
    },
    /// RFC 4314 §3.1
    SetAcl {
        /// Which mailbox.
        mailbox: WireName,
        /// Whom it speaks of, with its `-` if negative.
        identifier: Bytes,
        /// Replace, add or take away.
        change: Change,
        /// Which rights.
        rights: Rights,
    },
    /// RFC 4314 §3.2
    DeleteAcl {
        /// Which mailbox.
        mailbox: WireName,
        /// Whom it speaks of, with its `-` if negative.
        identifier: Bytes,
    },
    /// RFC 4314 §3.3
    GetAcl {
        /// Which mailbox.
        mailbox: WireName,
    },
    /// RFC 4314 §3.4
    ListRights {
        /// Which mailbox.
        mailbox: WireName,
        /// Whom it speaks of.
        identifier: Bytes,
    },
    /// RFC 4314 §3.5
    MyRights {
        /// Which mailbox.
        mailbox: WireName,
    },
    /// RFC 9208 §4.1.1
    GetQuota {
        /// Quota root.
        root: WireName,
    },
    /// RFC 9208 §4.1.2
    GetQuotaRoot {
        /// Which mailbox.
        mailbox: WireName,
    },
    /// RFC 9208 §4.1.3
    SetQuota {
        /// Quota root.
        root: WireName,
        /// Resource names in upper case with limits; resources not named have none.
        limits: Vec<(Box<str>, u64)>,
    },
    /// RFC 5464 §4.2
    GetMetadata {
        /// Empty: the server's annotations.
        mailbox: WireName,
        /// `MAXSIZE`: octets of the largest value wanted.
        max_size: Option<u32>,
        /// `DEPTH`
        depth: MetadataDepth,
        /// At least one.
        entries: Vec<Bytes>,
    },
    /// RFC 5464 §4.3
    SetMetadata {
        /// Empty: the server's annotations.
        mailbox: WireName,
        /// At least one; `None` removes.
        entries: Vec<(Bytes, Option<Bytes>)>,
    },
    /// RFC 5465 §3.1
    Notify(Notify),
    /// RFC 4978: the mechanism in upper case.
    Compress {
        /// `DEFLATE` is the only one there is.
        mechanism: Box<str>,
    },
    /// A command that this codec does not know; its arguments were not read.
    Unknown {
        /// In upper case, at most 64 octets.
        name: Box<str>,
    },
}

/// `select-param`s of RFC 7162.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SelectParameters {
    /// `(CONDSTORE)`
    pub condstore: bool,
    /// `(QRESYNC (..))`
    pub qresync: Option<Qresync>,
}

/// What a client remembers of a mailbox (RFC 7162 §3.2.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Qresync {
    /// The UIDVALIDITY it knew.
    pub uid_validity: UidValidity,
    /// The HIGHESTMODSEQ it knew, 0..=2^63-1. 0, which no grammar allows, is taken to mean everything.
    pub modseq: u64,
    /// The UIDs it has; never `*`.
    pub known_uids: Option<SequenceSet>,
    /// Sequence numbers and the UIDs they had, both of one length; never `*`.
    pub sequence_match: Option<(SequenceSet, SequenceSet)>,
}

/// LIST in both its forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// Selection options (RFC 5258 §3.1).
    pub select: ListSelect,
    /// What the patterns are relative to.
    pub reference: WireName,
    /// At least one, with `%` and `*`.
    pub patterns: Vec<WireName>,
    /// Return options (RFC 5258 §3.2).
    pub returns: ListReturn,
    /// Whether the command had a form that RFC 3501 does not know: options, or patterns in parentheses.
    pub extended: bool,
}

/// `list-select-opts` of RFC 9051 §9.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ListSelect {
    /// `SUBSCRIBED`
    pub subscribed: bool,
    /// `REMOTE`
    pub remote: bool,
    /// `RECURSIVEMATCH`: only together with another that selects.
    pub recursive_match: bool,
    /// `SPECIAL-USE` (RFC 6154)
    pub special_use: bool,
}

/// `list-return-opts` of RFC 9051 §9.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ListReturn {
    /// `SUBSCRIBED`
    pub subscribed: bool,
    /// `CHILDREN`
    pub children: bool,
    /// `SPECIAL-USE` (RFC 6154)
    pub special_use: bool,
    /// `MYRIGHTS` (RFC 8440)
    pub my_rights: bool,
    /// `STATUS (..)` (RFC 5819); empty: not asked.
    pub status: Vec<StatusItem>,
    /// `METADATA (..)` (RFC 9590): entries; empty: not asked.
    pub metadata: Vec<Bytes>,
}

/// FETCH and UID FETCH.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// UID FETCH: the set holds UIDs, and UID is among the answer's items whether asked or not.
    pub uid: bool,
    /// Which messages.
    pub set: MessageSet,
    /// At least one; macros are spelt out.
    pub items: Vec<FetchItem>,
    /// `CHANGEDSINCE` (RFC 7162 §3.1.4.1), 0..=2^63-1.
    pub changed_since: Option<u64>,
    /// `VANISHED` (RFC 7162 §3.2.6): only with UID and CHANGEDSINCE.
    pub vanished: bool,
    /// `PARTIAL` (RFC 9394 §3.3): only with UID.
    pub partial: Option<PartialRange>,
}

/// `fetch-att` of RFC 9051 §9.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchItem {
    /// `ENVELOPE`
    Envelope,
    /// `FLAGS`
    Flags,
    /// `INTERNALDATE`
    InternalDate,
    /// `RFC822` (RFC 3501): as `BODY[]` by another name.
    Rfc822,
    /// `RFC822.HEADER` (RFC 3501): as `BODY.PEEK[HEADER]` by another name.
    Rfc822Header,
    /// `RFC822.TEXT` (RFC 3501): as `BODY[TEXT]` by another name.
    Rfc822Text,
    /// `RFC822.SIZE`
    Rfc822Size,
    /// `BODY`: the structure without extension data.
    Body,
    /// `BODYSTRUCTURE`
    BodyStructure,
    /// `UID`
    Uid,
    /// `MODSEQ` (RFC 7162)
    ModSeq,
    /// `EMAILID` (RFC 8474)
    EmailId,
    /// `THREADID` (RFC 8474)
    ThreadId,
    /// `SAVEDATE` (RFC 8514)
    SaveDate,
    /// `PREVIEW` (RFC 8970)
    Preview {
        /// `(LAZY)`: only if it is at hand.
        lazy: bool,
    },
    /// `BODY[..]` and `BODY.PEEK[..]`
    Section {
        /// Leave `\Seen` alone.
        peek: bool,
        /// Which octets.
        section: Section,
        /// Which of them.
        partial: Option<Partial>,
    },
    /// `BINARY[..]` and `BINARY.PEEK[..]` (RFC 3516)
    Binary {
        /// Leave `\Seen` alone.
        peek: bool,
        /// Empty: the message itself.
        part: Vec<NonZeroU32>,
        /// Which octets.
        partial: Option<Partial>,
    },
    /// `BINARY.SIZE[..]`
    BinarySize {
        /// Empty: the message itself.
        part: Vec<NonZeroU32>,
    },
}

/// STORE and UID STORE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store {
    /// UID STORE: the set holds UIDs.
    pub uid: bool,
    /// Which messages.
    pub set: MessageSet,
    /// `UNCHANGEDSINCE` (RFC 7162 §3.1.3), 0..=2^63-1.
    pub unchanged_since: Option<u64>,
    /// `FLAGS`, `+FLAGS`, `-FLAGS`
    pub change: Change,
    /// `.SILENT`
    pub silent: bool,
    /// May be empty. `\Recent`, which no client can set, is left out.
    pub flags: Vec<Flag>,
}

/// What happens to a set of flags or rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Exactly these from now on.
    Replace,
    /// `+`
    Add,
    /// `-`
    Remove,
}

/// `DEPTH` of GETMETADATA (RFC 5464 §4.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum MetadataDepth {
    /// `0`: the entries themselves.
    #[default]
    Zero,
    /// `1`: and those directly below.
    One,
    /// `infinity`: and all below.
    Infinity,
}

/// What comes before one message's octets in APPEND and REPLACE (RFC 9051 §6.3.12, RFC 3502, RFC 8508).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendMessage {
    /// `\Recent`, which no client can set, is left out.
    pub flags: Vec<Flag>,
    /// INTERNALDATE; `None`: now.
    pub date: Option<InternalDate>,
    /// Where the message's octets come from.
    pub source: AppendSource,
}

/// Where a message's octets come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendSource {
    /// They follow.
    Literal(AppendLiteral),
    /// `CATENATE (..)` (RFC 4469): from texts that follow and from messages that URLs name.
    Catenate,
}

/// Octets of a message that are announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendLiteral {
    /// How many.
    pub octets: u64,
    /// How they are announced.
    pub kind: LiteralKind,
    /// In `UTF8 (~{n} ..)` (RFC 6855 §4): headers may hold UTF-8.
    pub utf8: bool,
}

/// The message that REPLACE takes away (RFC 8508).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// UID REPLACE: a UID, else a sequence number.
    pub uid: bool,
    /// Which message; never 0.
    pub message: SetEnd,
}
