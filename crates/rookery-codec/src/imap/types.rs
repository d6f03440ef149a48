//! Values that stand in commands and in responses alike.

use bytes::Bytes;
use rookery_types::{Keyword, SequenceSet, SystemFlags};
use std::fmt;
use std::num::NonZeroU32;

/// A command's tag (RFC 9051 §2.2.1): 1 to [`Tag::OCTETS_MAX`] octets of `ASTRING-CHAR` but `+`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// Octets in the longest tag taken.
    pub const OCTETS_MAX: usize = 64;

    /// `None` for what is no tag or is too long.
    pub fn new(octets: &[u8]) -> Option<Tag> {
        let legal = |b: &u8| {
            *b > 0x20
                && *b < 0x7f
                && !matches!(b, b'(' | b')' | b'{' | b'%' | b'*')
                && !matches!(b, b'"' | b'\\' | b'+')
        };
        if octets.is_empty() || octets.len() > Tag::OCTETS_MAX || !octets.iter().all(legal) {
            return None;
        }
        std::str::from_utf8(octets).ok().map(|text| Tag(text.into()))
    }

    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({})", self.0)
    }
}

/// A mailbox name or pattern as it stands on the wire, quoting and literals undone: modified UTF-7 or UTF-8,
/// with the connection's separator and namespace prefix. Its translation is not the codec's business.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WireName(pub Bytes);

impl WireName {
    /// From text that the program itself made.
    pub fn from_static(text: &'static str) -> WireName {
        WireName(Bytes::from_static(text.as_bytes()))
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for WireName {
    fn from(text: &str) -> WireName {
        WireName(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for WireName {
    fn from(text: String) -> WireName {
        WireName(Bytes::from(text))
    }
}

impl fmt::Debug for WireName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireName({:?})", self.0)
    }
}

/// A password or a SASL response: never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Bytes);

impl Secret {
    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which messages a command is about (RFC 9051 §9 `sequence-set`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MessageSet {
    /// Sequence numbers or UIDs, as the command has it.
    Set(SequenceSet),
    /// `$`: the result saved by the last SEARCH RETURN (SAVE) (RFC 5182).
    Saved,
}

/// Flags as a response shows them: system flags, `\Recent`, `\*` and keywords. System flags without a name
/// of ours are dropped when read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FlagList {
    /// The stored system flags.
    pub system: SystemFlags,
    /// `\Recent`, of IMAP4rev1 alone (RFC 3501 §2.3.2).
    pub recent: bool,
    /// `\*` in PERMANENTFLAGS: new keywords can be made (RFC 9051 §7.1).
    pub any: bool,
    /// In the order they are shown.
    pub keywords: Vec<Keyword>,
}

/// What of a message BODY[...] names (RFC 9051 §6.4.5.1). Without part and text it is the whole message.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Section {
    /// `1.2.3`; empty: the message itself.
    pub part: Vec<NonZeroU32>,
    /// Which side of it; `None`: the whole part.
    pub text: Option<SectionText>,
}

/// `section-text` of RFC 9051 §9.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SectionText {
    /// `HEADER`
    Header,
    /// `HEADER.FIELDS (names)`; at least one name, as written.
    HeaderFields(Vec<Bytes>),
    /// `HEADER.FIELDS.NOT (names)`; at least one name, as written.
    HeaderFieldsNot(Vec<Bytes>),
    /// `TEXT`
    Text,
    /// `MIME`: the header of a part; only with a part.
    Mime,
}

/// `<origin.octets>` (RFC 9051 §6.4.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partial {
    /// First octet wanted, from 0.
    pub origin: u64,
    /// How many at most; at least 1.
    pub octets: u64,
}

/// `partial-range` of RFC 9394 §4: which of many results.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialRange {
    /// Counted from the last result (`-1:-100`), else from the first (`1:100`).
    pub from_last: bool,
    /// One end as written, from 1, without its sign.
    pub start: NonZeroU32,
    /// The other end as written; may be smaller than `start`.
    pub end: NonZeroU32,
}

impl PartialRange {
    /// The places it means among `count` results, from 0; empty if there are none.
    pub fn places(self, count: usize) -> std::ops::Range<usize> {
        let place =
            |n: NonZeroU32| usize::try_from(n.get()).unwrap_or(usize::MAX).min(count.saturating_add(1));
        let (a, b) = (place(self.start.min(self.end)), place(self.start.max(self.end)));
        let (a, b) = ((a - 1).min(count), b.min(count));
        if self.from_last { count - b..count - a } else { a..b }
    }
}

/// What STATUS can ask of a mailbox (RFC 9051 §6.3.11, RFC 3501, 7162, 7889, 8474, 9208).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StatusItem {
    /// `MESSAGES`
    Messages,
    /// `RECENT`, of IMAP4rev1 alone.
    Recent,
    /// `UIDNEXT`
    UidNext,
    /// `UIDVALIDITY`
    UidValidity,
    /// `UNSEEN`
    Unseen,
    /// `DELETED`
    Deleted,
    /// `SIZE`
    Size,
    /// `HIGHESTMODSEQ`; enables CONDSTORE (RFC 7162 §3.1).
    HighestModSeq,
    /// `MAILBOXID`
    MailboxId,
    /// `DELETED-STORAGE`
    DeletedStorage,
    /// `APPENDLIMIT`
    AppendLimit,
}

impl StatusItem {
    /// Each item with its wire name.
    pub const ALL: [(StatusItem, &'static str); 11] = [
        (StatusItem::Messages, "MESSAGES"),
        (StatusItem::Recent, "RECENT"),
        (StatusItem::UidNext, "UIDNEXT"),
        (StatusItem::UidValidity, "UIDVALIDITY"),
        (StatusItem::Unseen, "UNSEEN"),
        (StatusItem::Deleted, "DELETED"),
        (StatusItem::Size, "SIZE"),
        (StatusItem::HighestModSeq, "HIGHESTMODSEQ"),
        (StatusItem::MailboxId, "MAILBOXID"),
        (StatusItem::DeletedStorage, "DELETED-STORAGE"),
        (StatusItem::AppendLimit, "APPENDLIMIT"),
    ];

    /// The wire name.
    pub fn name(self) -> &'static str {
        StatusItem::ALL.iter().find(|(one, _)| *one == self).map_or("", |(_, name)| name)
    }
}

/// How a literal is announced (RFC 9051 §4.3, RFC 7888, RFC 3516).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiteralKind {
    /// `{n}`: the sender waits for `+`. Else `{n+}`.
    pub synchronising: bool,
    /// `~{n}`: may hold NUL (`literal8`).
    pub binary: bool,
}

/// What ID tells, field by field (RFC 2971 §3.1); `None`: `NIL`.
pub type IdParams = Option<Vec<(Bytes, Option<Bytes>)>>;
