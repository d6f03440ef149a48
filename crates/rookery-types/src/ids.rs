//! Numbers that must not be mixed up, each with its range.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

/// A message's UID: nonzero, ascending, never used again under one [`UidValidity`] (RFC 9051 §2.3.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(NonZeroU32);

impl Uid {
    /// The first UID of a mailbox.
    pub const FIRST: Uid = Uid(NonZeroU32::MIN);
    /// The largest UID there can be.
    pub const MAX: Uid = Uid(NonZeroU32::MAX);

    /// `None` for 0, which is no UID.
    pub const fn new(n: u32) -> Option<Uid> {
        match NonZeroU32::new(n) {
            Some(n) => Some(Uid(n)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The UID after this one; `None` after the last.
    pub fn next(self) -> Option<Uid> {
        self.0.checked_add(1).map(Uid)
    }
}

/// A message's place in *one session's* view, from 1; moves down at every EXPUNGE. Not a [`Uid`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNum(NonZeroU32);

impl SeqNum {
    /// `None` for 0.
    pub const fn new(n: u32) -> Option<SeqNum> {
        match NonZeroU32::new(n) {
            Some(n) => Some(SeqNum(n)),
            None => None,
        }
    }

    /// The number, from 1.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// A mailbox's UIDVALIDITY: nonzero, rises when its UIDs may have been lost (RFC 9051 §2.3.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UidValidity(NonZeroU32);

impl UidValidity {
    /// `None` for 0.
    pub const fn new(n: u32) -> Option<UidValidity> {
        match NonZeroU32::new(n) {
            Some(n) => Some(UidValidity(n)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// An account's change counter, 1..=2^63-1 (RFC 7162 §7). A mailbox's HIGHESTMODSEQ is the account's
/// counter at the mailbox's last change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModSeq(NonZeroU64);

impl ModSeq {
    /// The first modseq there is.
    pub const FIRST: ModSeq = ModSeq(NonZeroU64::MIN);

    /// `None` for 0 and for what 63 bits cannot hold: callers are the wire and the disk, and both can lie.
    pub const fn new(n: u64) -> Option<ModSeq> {
        match NonZeroU64::new(n) {
            Some(v) if n <= i64::MAX as u64 => Some(ModSeq(v)),
            _ => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The modseq after this one; `None` past 2^63-1.
    pub fn next(self) -> Option<ModSeq> {
        ModSeq::new(self.0.get().wrapping_add(1))
    }
}

/// An account: one user's tree, or one tree of shared mailboxes. Given by the directory, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(NonZeroU64);

impl AccountId {
    /// The first id of a directory.
    pub const FIRST: AccountId = AccountId(NonZeroU64::MIN);

    /// `None` for 0.
    pub const fn new(n: u64) -> Option<AccountId> {
        match NonZeroU64::new(n) {
            Some(n) => Some(AccountId(n)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// A mailbox: its account and a number the account never uses again. Survives renames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxId {
    /// The account whose tree the mailbox stands in.
    pub account: AccountId,
    /// Counted from 1 within the account.
    pub number: u32,
}

impl MailboxId {
    /// The text of RFC 8474's MAILBOXID: letters and digits, unique on the whole site.
    pub fn objectid(self) -> String {
        format!("M{:x}m{:x}", self.account.get(), self.number)
    }
}

/// What a message's octets are, by keyed hash. Equal octets of one site have equal ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub [u8; 16]);

impl ContentId {
    /// The text of RFC 8474's EMAILID.
    pub fn objectid(self) -> String {
        let mut text = String::with_capacity(33);
        text.push('E');
        for byte in self.0 {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

/// Which conversation a message belongs to within its account.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId(pub u64);

impl ThreadId {
    /// The text of RFC 8474's THREADID.
    pub fn objectid(self) -> String {
        format!("T{:016x}", self.0)
    }
}

/// A server of the murder, for as long as its data folder lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// One store (data folder). A machine that returns with another store id holds nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub [u8; 16]);

/// One move of an account to another home; random, so that no two have one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// A change that one node asks another for, so that a repetition is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OperationId(pub [u8; 16]);

impl OperationId {
    /// Reads what `Display` has written.
    pub fn parse(text: &str) -> Option<OperationId> {
        let digits =
            Some(text).filter(|text| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u128::from_str_radix(digits, 16).ok().map(|number| OperationId(number.to_be_bytes()))
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// How often an account's home has changed, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

macro_rules! number_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.get().fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.get())
            }
        }
    )*};
}
number_text!(Uid, SeqNum, UidValidity, ModSeq, AccountId);

macro_rules! objectid_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.objectid())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.objectid())
            }
        }
    )*};
}
objectid_text!(MailboxId, ContentId, ThreadId);

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({:x})", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modseq_has_63_bits_and_is_not_zero() {
        assert!(ModSeq::new(0).is_none());
        assert!(ModSeq::new(1 << 63).is_none());
        let last = ModSeq::new(i64::MAX as u64).unwrap();
        assert_eq!(last.next(), None);
    }

    #[test]
    fn operation_ids_are_read_as_they_are_written() {
        for id in [OperationId([0; 16]), OperationId([0xa5; 16])] {
            assert_eq!(OperationId::parse(&id.to_string()), Some(id));
        }
        for other in ["", "+0000000000000000000000000000001", "0"] {
            assert_eq!(OperationId::parse(other), None);
        }
    }

    #[test]
    fn object_ids_are_legal_objectids() {
        // RFC 8474 §7: 1..255 of ALPHA / DIGIT / "_" / "-".
        let mailbox = MailboxId { account: AccountId::new(u64::MAX).unwrap(), number: u32::MAX };
        for text in [mailbox.objectid(), ContentId([0xff; 16]).objectid(), ThreadId(7).objectid()] {
            assert!(text.len() < 256 && text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}");
        }
    }
}
