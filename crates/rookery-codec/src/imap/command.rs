//! Commands, as typed values. One variant for each command of the RFCs that we know; a variant holds what
//! the grammar lets stand there and nothing that is decided elsewhere.
//!
//! APPEND and REPLACE are no [`Command`]s: their messages are streamed, see [`crate::imap::server::Decoded::AppendStart`].

use super::types::{
    IdParams, LiteralKind, MessageSet, Partial, PartialRange, Secret, Section, StatusItem, Tag, WireName,
};
use bytes::Bytes;
use rookery_types::{
    Flag, InternalDate, Keyword, Rights, SequenceSet, SetEnd, SpecialUse, SystemFlags, UidValidity,
};
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

/// NOTIFY (RFC 5465 §8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notify {
    /// `NONE`: nothing is wanted.
    None,
    /// `SET`
    Set {
        /// `STATUS`: begin with a STATUS of each mailbox.
        status: bool,
        /// At least one.
        groups: Vec<EventGroup>,
    },
}

/// Some mailboxes and what is wanted of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventGroup {
    /// Which mailboxes.
    pub filter: MailboxFilter,
    /// Empty: `NONE`.
    pub events: Vec<Event>,
}

/// `filter-mailboxes` of RFC 5465 §8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MailboxFilter {
    /// `SELECTED`
    Selected,
    /// `SELECTED-DELAYED`
    SelectedDelayed,
    /// `INBOXES`
    Inboxes,
    /// `PERSONAL`
    Personal,
    /// `SUBSCRIBED`
    Subscribed,
    /// `SUBTREE`; at least one.
    Subtree(Vec<WireName>),
    /// `MAILBOXES`; at least one.
    Mailboxes(Vec<WireName>),
}

/// `event` of RFC 5465 §8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// `MessageNew`, with what is to be told of each; empty: nothing besides.
    MessageNew(Vec<FetchItem>),
    /// `MessageExpunge`
    MessageExpunge,
    /// `FlagChange`
    FlagChange,
    /// `AnnotationChange`
    AnnotationChange,
    /// `MailboxName`
    MailboxName,
    /// `SubscriptionChange`
    SubscriptionChange,
    /// `MailboxMetadataChange`
    MailboxMetadataChange,
    /// `ServerMetadataChange`
    ServerMetadataChange,
    /// One that is not ours, as written.
    Other(Box<str>),
}

impl Event {
    /// Each event with its wire name, without attributes.
    pub const NAMES: [(Event, &'static str); 8] = [
        (Event::MessageNew(Vec::new()), "MessageNew"),
        (Event::MessageExpunge, "MessageExpunge"),
        (Event::FlagChange, "FlagChange"),
        (Event::AnnotationChange, "AnnotationChange"),
        (Event::MailboxName, "MailboxName"),
        (Event::SubscriptionChange, "SubscriptionChange"),
        (Event::MailboxMetadataChange, "MailboxMetadataChange"),
        (Event::ServerMetadataChange, "ServerMetadataChange"),
    ];

    /// The wire name.
    pub fn name(&self) -> &str {
        match self {
            Event::MessageNew(_) => "MessageNew",
            Event::Other(name) => name,
            known => {
                let mut names = Event::NAMES.into_iter();
                names.find(|(one, _)| one == known).map_or("", |(_, name)| name)
            }
        }
    }
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
