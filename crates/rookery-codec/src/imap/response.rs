//! Responses, as typed values: what a server prints and a client parses.
//!
//! FETCH data can be printed without building these, with [`crate::imap::print::FetchWriter`].

use super::types::{FlagList, IdParams, PartialRange, Section, Tag, WireName};
use bytes::Bytes;
use rookery_types::{InternalDate, ModSeq, SeqNum, SpecialUse, Uid, UidSet, UidValidity};
use std::borrow::Cow;
use std::num::NonZeroU32;

/// One response line, literals included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// OK, NO, BAD, PREAUTH, BYE (RFC 9051 §7.1).
    Status(Status),
    /// `+`: text, or base64 within AUTHENTICATE (RFC 9051 §7.6).
    Continue(Bytes),
    /// RFC 9051 §7.2.2: names as given.
    Capability(Vec<Cow<'static, str>>),
    /// RFC 9051 §7.2.1
    Enabled(Vec<Cow<'static, str>>),
    /// RFC 2971
    Id(IdParams),
    /// RFC 9051 §7.3.3
    Namespace(Namespaces),
    /// RFC 9051 §7.3.1
    List(ListEntry),
    /// RFC 3501 §7.2.3
    Lsub(ListEntry),
    /// RFC 9051 §7.3.4
    MailboxStatus {
        /// Which mailbox.
        mailbox: WireName,
        /// What was asked.
        items: Vec<StatusValue>,
    },
    /// RFC 3501 §7.2.5, RFC 7162 §7. Numbers in any order.
    Search {
        /// Sequence numbers or UIDs, as the command was.
        numbers: Vec<u32>,
        /// The highest of the messages found.
        modseq: Option<ModSeq>,
    },
    /// RFC 9051 §7.3.5
    Esearch(Esearch),
    /// RFC 5256 §4, RFC 7162 §3.1.9.
    Sort {
        /// Sequence numbers or UIDs, as the command was, in the order asked for.
        numbers: Vec<u32>,
        /// The highest of the messages found.
        modseq: Option<ModSeq>,
    },
    /// RFC 5256 §4: the lists of threads as they stand in the response, `(2)(3 6 (4 23)(44 7 96))`.
    Thread(Bytes),
    /// RFC 9051 §7.3.6
    Flags(FlagList),
    /// RFC 9051 §7.4.1
    Exists(u32),
    /// RFC 3501 §7.3.2
    Recent(u32),
    /// RFC 9051 §7.5.1
    Expunge(SeqNum),
    /// RFC 7162 §3.2.10
    Vanished {
        /// Answers SELECT or FETCH, and says nothing of sequence numbers.
        earlier: bool,
        /// Not empty.
        uids: UidSet,
    },
    /// RFC 9586 §3.3: FETCH for a client that has done away with sequence numbers.
    UidFetch {
        /// Which message.
        uid: Uid,
        /// May be empty.
        items: Vec<FetchData>,
    },
    /// RFC 9051 §7.5.2
    Fetch {
        /// Which message.
        seq: SeqNum,
        /// At least one.
        items: Vec<FetchData>,
    },
    /// RFC 4314 §3.6
    Acl {
        /// Which mailbox.
        mailbox: WireName,
        /// Identifiers and their rights as shown.
        entries: Vec<(Bytes, Bytes)>,
    },
    /// RFC 4314 §3.7
    ListRights {
        /// Which mailbox.
        mailbox: WireName,
        /// Whom it speaks of.
        identifier: Bytes,
        /// Rights always given.
        required: Bytes,
        /// Rights that can be given, in groups that go together.
        optional: Vec<Bytes>,
    },
    /// RFC 4314 §3.8
    MyRights {
        /// Which mailbox.
        mailbox: WireName,
        /// As shown.
        rights: Bytes,
    },
    /// RFC 9208 §4.2.1
    Quota {
        /// Quota root.
        root: WireName,
        /// Resource name, use and limit, in the resource's unit.
        resources: Vec<(Cow<'static, str>, u64, u64)>,
    },
    /// RFC 9208 §4.2.2
    QuotaRoot {
        /// Which mailbox.
        mailbox: WireName,
        /// Its quota roots.
        roots: Vec<WireName>,
    },
    /// RFC 5464 §4.4.1 and §4.4.2
    Metadata {
        /// Empty: the server's annotations.
        mailbox: WireName,
        /// What is told.
        entries: MetadataEntries,
    },
    /// Untagged data that this codec does not know, as read: what follows `* `, literals included.
    Other(Bytes),
}

impl Response {
    /// An untagged status response without a code.
    pub fn untagged(condition: Condition, text: impl Into<Cow<'static, str>>) -> Response {
        Response::Status(Status { tag: None, condition, code: None, text: text.into() })
    }

    /// An untagged OK with a code, as SELECT has many.
    pub fn ok_code(code: Code, text: impl Into<Cow<'static, str>>) -> Response {
        Response::Status(Status { tag: None, condition: Condition::Ok, code: Some(code), text: text.into() })
    }
}

/// `resp-cond-state`, greeting and BYE (RFC 9051 §7.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// `None`: untagged. PREAUTH and BYE never have one.
    pub tag: Option<Tag>,
    /// How it went.
    pub condition: Condition,
    /// `[..]`
    pub code: Option<Code>,
    /// For people. CR, LF and NUL are printed as spaces; an empty text gets a stand-in.
    pub text: Cow<'static, str>,
}

/// What a status response says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Done.
    Ok,
    /// Refused.
    No,
    /// Not understood.
    Bad,
    /// The greeting of a connection that is logged in already.
    PreAuth,
    /// The server closes the connection.
    Bye,
}

/// `resp-text-code` of RFC 9051 §9 and of the extensions.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(
    missing_docs,
    reason = "the variants are the registered names; RFC 9051 §7.1 and RFC 5530 say what they mean"
)]
pub enum Code {
    Alert,
    AlreadyExists,
    AppendUid {
        uid_validity: UidValidity,
        uids: UidSet,
    },
    AuthenticationFailed,
    AuthorizationFailed,
    BadCharset(Vec<Bytes>),
    /// RFC 5465 §8: the events that there are.
    BadEvent(Vec<Cow<'static, str>>),
    /// RFC 4469 §4.1: the first URL of CATENATE that names nothing.
    BadUrl(Bytes),
    Cannot,
    Capability(Vec<Cow<'static, str>>),
    ClientBug,
    Closed,
    CompressionActive,
    ContactAdmin,
    /// Both sets ascending: the n-th of one became the n-th of the other (RFC 4315 §3).
    CopyUid {
        uid_validity: UidValidity,
        from: UidSet,
        to: UidSet,
    },
    Corruption,
    Expired,
    ExpungeIssued,
    HasChildren,
    HighestModSeq(ModSeq),
    /// RFC 9585: the tag of the command under way, with octets or messages done and the whole.
    InProgress(Option<(Tag, Option<u64>, Option<u64>)>),
    InUse,
    Limit,
    MailboxId(Bytes),
    /// RFC 5464 §4.2.1: the size of the longest value left out.
    MetadataLongEntries(u64),
    /// RFC 5464 §4.3: the largest value taken.
    MetadataMaxSize(u64),
    MetadataTooMany,
    MetadataNoPrivate,
    /// Sequence numbers or UIDs, as the command was (RFC 7162 §3.1.3).
    Modified(UidSet),
    NoModSeq,
    NonExistent,
    NoPerm,
    NotSaved,
    NotificationOverflow,
    OverQuota,
    Parse,
    PermanentFlags(FlagList),
    PrivacyRequired,
    ReadOnly,
    ReadWrite,
    /// RFC 2221 and RFC 2193: IMAP URLs.
    Referral(Vec<Bytes>),
    ServerBug,
    TooBig,
    TryCreate,
    UidNext(Uid),
    UidNotSticky,
    /// RFC 9586: sequence numbers are not taken any more.
    UidRequired,
    UidValidity(UidValidity),
    Unavailable,
    UnknownCte,
    /// RFC 3501's: the sequence number of the first message that is not seen.
    Unseen(SeqNum),
    UseAttr,
    /// A code that is not ours, as it stands between the brackets: name and what follows it.
    Other(Cow<'static, str>),
}

/// RFC 9051 §7.3.3: `None` is `NIL`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Namespaces {
    /// The user's own mailboxes.
    pub personal: Vec<Namespace>,
    /// Other users' mailboxes.
    pub others: Vec<Namespace>,
    /// Mailboxes of nobody.
    pub shared: Vec<Namespace>,
}

/// One namespace; extension data is dropped when read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// What its names begin with.
    pub prefix: WireName,
    /// `None`: flat.
    pub separator: Option<u8>,
}

/// LIST's and LSUB's data (RFC 9051 §7.3.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListEntry {
    /// Without doubles.
    pub attributes: Vec<ListAttribute>,
    /// `None`: flat.
    pub separator: Option<u8>,
    /// As this connection has it.
    pub mailbox: WireName,
    /// `CHILDINFO` (RFC 5258 §4): what selected it is below it; empty: not told.
    pub child_info: Vec<Cow<'static, str>>,
    /// `OLDNAME` (RFC 9051 §6.3.9.7): how it was called before.
    pub old_name: Option<WireName>,
}

/// `mbx-list-flags` of RFC 9051 §9.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListAttribute {
    /// `\NonExistent`
    NonExistent,
    /// `\Noinferiors`
    NoInferiors,
    /// `\Noselect`
    NoSelect,
    /// `\HasChildren`
    HasChildren,
    /// `\HasNoChildren`
    HasNoChildren,
    /// `\Marked`
    Marked,
    /// `\Unmarked`
    Unmarked,
    /// `\Subscribed`
    Subscribed,
    /// `\Remote`
    Remote,
    /// RFC 6154
    SpecialUse(SpecialUse),
    /// With its backslash.
    Other(Box<str>),
}

/// `status-att-val` of RFC 9051 §9 and extensions.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the variants are the names of StatusItem with their values")]
pub enum StatusValue {
    Messages(u32),
    Recent(u32),
    UidNext(Uid),
    UidValidity(UidValidity),
    Unseen(u32),
    Deleted(u32),
    /// Octets.
    Size(u64),
    /// `None`: 0, the mailbox keeps none.
    HighestModSeq(Option<ModSeq>),
    MailboxId(Bytes),
    /// Octets.
    DeletedStorage(u64),
    /// Octets; `None`: no limit known.
    AppendLimit(Option<u64>),
}

/// Numbers in the order they are told, which SORT gives a meaning, as a `sequence-set`: runs of ascending neighbours
/// are joined (RFC 5267 §3.2).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Runs(Vec<(u32, u32)>);

impl Runs {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// First and last number of each run.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.iter().copied()
    }

    /// Adds the numbers from `first` to `last`; a range the wrong way round is taken the right way.
    pub fn push(&mut self, first: u32, last: u32) {
        let (first, last) = (first.min(last), first.max(last));
        match self.0.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
            _ => self.0.push((first, last)),
        }
    }
}

impl FromIterator<u32> for Runs {
    fn from_iter<T: IntoIterator<Item = u32>>(numbers: T) -> Runs {
        let mut runs = Runs::default();
        numbers.into_iter().for_each(|n| runs.push(n, n));
        runs
    }
}

/// RFC 4731, RFC 9051 §7.3.4.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Esearch {
    /// Of the SEARCH it answers.
    pub tag: Option<Tag>,
    /// Numbers are UIDs.
    pub uid: bool,
    /// `MIN`
    pub min: Option<NonZeroU32>,
    /// `MAX`
    pub max: Option<NonZeroU32>,
    /// `ALL`; left out when nothing was found.
    pub all: Runs,
    /// `PARTIAL`: the range asked for and what it holds; empty: `NIL` (RFC 9394 §3.1).
    pub partial: Option<(PartialRange, Runs)>,
    /// `COUNT`
    pub count: Option<u32>,
    /// `MODSEQ`
    pub modseq: Option<ModSeq>,
}

/// `msg-att` of RFC 9051 §9.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchData {
    /// `FLAGS`
    Flags(FlagList),
    /// `UID`
    Uid(Uid),
    /// `MODSEQ`
    ModSeq(ModSeq),
    /// `RFC822.SIZE`
    Size(u64),
    /// `INTERNALDATE`
    InternalDate(InternalDate),
    /// `ENVELOPE`, rendered: from `(` to `)`.
    Envelope(Bytes),
    /// `BODY`, rendered: from `(` to `)`.
    Body(Bytes),
    /// `BODYSTRUCTURE`, rendered: from `(` to `)`.
    BodyStructure(Bytes),
    /// `BODY[..]`
    Section {
        /// Which octets.
        section: Section,
        /// Where they begin, if asked for a part.
        origin: Option<u64>,
        /// `None`: NIL.
        data: Option<Bytes>,
    },
    /// `BINARY[..]`
    Binary {
        /// Empty: the message itself.
        part: Vec<NonZeroU32>,
        /// Where they begin, if asked for a part.
        origin: Option<u64>,
        /// `None`: NIL.
        data: Option<Bytes>,
    },
    /// `BINARY.SIZE[..]`
    BinarySize {
        /// Empty: the message itself.
        part: Vec<NonZeroU32>,
        /// After decoding.
        octets: u64,
    },
    /// `RFC822`
    Rfc822(Option<Bytes>),
    /// `RFC822.HEADER`
    Rfc822Header(Option<Bytes>),
    /// `RFC822.TEXT`
    Rfc822Text(Option<Bytes>),
    /// `EMAILID`
    EmailId(Bytes),
    /// `THREADID`
    ThreadId(Option<Bytes>),
    /// `SAVEDATE`
    SaveDate(Option<InternalDate>),
    /// `PREVIEW`; `None`: not at hand.
    Preview(Option<Bytes>),
}

/// METADATA's two forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetadataEntries {
    /// What GETMETADATA asked; at least one.
    Values(Vec<(Bytes, Option<Bytes>)>),
    /// Unasked: these have changed; at least one.
    Changed(Vec<Bytes>),
}
