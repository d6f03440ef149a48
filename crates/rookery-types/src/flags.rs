//! Flags and keywords of messages, special uses of mailboxes.

use std::fmt;

/// The system flags of RFC 9051 §2.3.2 that are stored, as a bit set. `\Recent` belongs to sessions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SystemFlags(u8);

impl SystemFlags {
    /// No flag.
    pub const NONE: SystemFlags = SystemFlags(0);
    /// `\Seen`
    pub const SEEN: SystemFlags = SystemFlags(1);
    /// `\Answered`
    pub const ANSWERED: SystemFlags = SystemFlags(2);
    /// `\Flagged`
    pub const FLAGGED: SystemFlags = SystemFlags(4);
    /// `\Deleted`
    pub const DELETED: SystemFlags = SystemFlags(8);
    /// `\Draft`
    pub const DRAFT: SystemFlags = SystemFlags(16);

    /// Every flag with its wire name, in the order they are shown.
    pub const ALL: [(SystemFlags, &'static str); 5] = [
        (SystemFlags::ANSWERED, "\\Answered"),
        (SystemFlags::FLAGGED, "\\Flagged"),
        (SystemFlags::DELETED, "\\Deleted"),
        (SystemFlags::SEEN, "\\Seen"),
        (SystemFlags::DRAFT, "\\Draft"),
    ];

    /// The stored octet.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From a stored octet; `None` if a bit is set that no flag has.
    pub const fn from_bits(bits: u8) -> Option<SystemFlags> {
        if bits & !31 == 0 { Some(SystemFlags(bits)) } else { None }
    }

    /// Whether all flags of `other` are set here.
    pub const fn contains(self, other: SystemFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[must_use]
    pub const fn union(self, other: SystemFlags) -> SystemFlags {
        SystemFlags(self.0 | other.0)
    }

    /// The flags of this one that `other` has not.
    #[must_use]
    pub const fn without(self, other: SystemFlags) -> SystemFlags {
        SystemFlags(self.0 & !other.0)
    }

    /// Whether no flag is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitOr for SystemFlags {
    type Output = SystemFlags;
    fn bitor(self, other: SystemFlags) -> SystemFlags {
        self.union(other)
    }
}

impl fmt::Debug for SystemFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(SystemFlags::ALL.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, name)| name))
            .finish()
    }
}

/// A keyword: an atom that does not begin with `\` (RFC 9051 §2.3.2). Compared without ASCII case, kept as
/// first written.
#[derive(Clone)]
pub struct Keyword(Box<str>);

impl Keyword {
    /// Octets in the longest keyword taken.
    pub const OCTETS_MAX: usize = 128;

    /// `None` for what is no atom, begins with `\` or is too long.
    pub fn new(text: &str) -> Option<Keyword> {
        let legal = |b: u8| b > 0x20 && b < 0x7f && !br#"(){%*"\]"#.contains(&b);
        if text.is_empty() || text.len() > Keyword::OCTETS_MAX || !text.bytes().all(legal) {
            return None;
        }
        Some(Keyword(text.into()))
    }

    /// As first written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Keyword {
    fn eq(&self, other: &Keyword) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Keyword {}

impl std::hash::Hash for Keyword {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for byte in self.0.bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl fmt::Debug for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One flag as a client names it in STORE, APPEND or SEARCH.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Flag {
    /// One of the stored system flags; exactly one bit is set.
    System(SystemFlags),
    /// Anything else that a client may set.
    Keyword(Keyword),
}

impl Flag {
    /// Reads a flag without regard to case; `None` for `\Recent`, an unknown `\name` or an illegal atom.
    pub fn parse(text: &str) -> Option<Flag> {
        if text.starts_with('\\') {
            return SystemFlags::ALL
                .iter()
                .find(|(_, name)| name.eq_ignore_ascii_case(text))
                .map(|(flag, _)| Flag::System(*flag));
        }
        Keyword::new(text).map(Flag::Keyword)
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flag::System(flag) => {
                let name = SystemFlags::ALL.iter().find(|(one, _)| one == flag).map_or("", |(_, name)| name);
                f.write_str(name)
            }
            Flag::Keyword(keyword) => f.write_str(keyword.as_str()),
        }
    }
}

/// What a mailbox is for (RFC 6154 §2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SpecialUse {
    /// All messages of the account, however that is arranged.
    All,
    /// Archived messages.
    Archive,
    /// Drafts.
    Drafts,
    /// Flagged messages.
    Flagged,
    /// Unwanted mail.
    Junk,
    /// Copies of what was sent.
    Sent,
    /// What is about to be deleted.
    Trash,
}

impl SpecialUse {
    /// Each use with its wire name.
    pub const ALL: [(SpecialUse, &'static str); 7] = [
        (SpecialUse::All, "\\All"),
        (SpecialUse::Archive, "\\Archive"),
        (SpecialUse::Drafts, "\\Drafts"),
        (SpecialUse::Flagged, "\\Flagged"),
        (SpecialUse::Junk, "\\Junk"),
        (SpecialUse::Sent, "\\Sent"),
        (SpecialUse::Trash, "\\Trash"),
    ];

    /// The attribute as LIST shows it, with its backslash.
    pub fn attribute(self) -> &'static str {
        SpecialUse::ALL.iter().find(|(one, _)| *one == self).map_or("", |(_, name)| name)
    }

    /// Reads the attribute without regard to case.
    pub fn parse(text: &str) -> Option<SpecialUse> {
        SpecialUse::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(one, _)| *one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_matched_without_case_and_kept_as_written() {
        let first = Keyword::new("$Forwarded").unwrap();
        assert_eq!(first, Keyword::new("$FORWARDED").unwrap());
        assert_eq!(first.as_str(), "$Forwarded");
        for illegal in ["", "a b", "\\Seen", "a]", "a(", "a\"", "ü", &"x".repeat(129)] {
            assert!(Keyword::new(illegal).is_none(), "{illegal}");
        }
    }

    #[test]
    fn flags_read_back_as_they_are_shown() {
        for (_, name) in SystemFlags::ALL {
            assert_eq!(Flag::parse(&name.to_uppercase()).unwrap().to_string(), name);
        }
        assert_eq!(Flag::parse("\\Recent"), None);
        assert_eq!(Flag::parse("NonJunk").unwrap().to_string(), "NonJunk");
    }
}
