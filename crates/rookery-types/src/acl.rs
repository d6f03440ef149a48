//! Rights (RFC 4314) and the one function that evaluates them.

use crate::name::UserName;
use std::fmt;

/// A set of rights (RFC 4314 §2.1), with Cyrus's `n` (annotate).
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Rights(u16);

/// Each right's letter and bit, in the order they are shown.
const LETTERS: [(u8, u16); 12] = [
    (b'l', 1),
    (b'r', 2),
    (b's', 4),
    (b'w', 8),
    (b'i', 16),
    (b'p', 32),
    (b'k', 64),
    (b'x', 128),
    (b't', 256),
    (b'e', 512),
    (b'a', 1024),
    (b'n', 2048),
];

impl Rights {
    /// No right.
    pub const NONE: Rights = Rights(0);
    /// `l`: the mailbox is seen in LIST.
    pub const LOOKUP: Rights = Rights(1);
    /// `r`: SELECT, FETCH, SEARCH, COPY from it.
    pub const READ: Rights = Rights(2);
    /// `s`: keep \Seen.
    pub const SEEN: Rights = Rights(4);
    /// `w`: set other flags and keywords.
    pub const WRITE: Rights = Rights(8);
    /// `i`: APPEND and COPY into it.
    pub const INSERT: Rights = Rights(16);
    /// `p`: deliver to its address.
    pub const POST: Rights = Rights(32);
    /// `k`: make mailboxes below it.
    pub const CREATE: Rights = Rights(64);
    /// `x`: delete or rename it.
    pub const DELETE_MAILBOX: Rights = Rights(128);
    /// `t`: set \Deleted.
    pub const DELETE_MESSAGES: Rights = Rights(256);
    /// `e`: EXPUNGE.
    pub const EXPUNGE: Rights = Rights(512);
    /// `a`: see and change the ACL.
    pub const ADMINISTER: Rights = Rights(1024);
    /// `n`: annotate messages.
    pub const ANNOTATE: Rights = Rights(2048);
    /// Everything: what an owner starts with.
    pub const ALL: Rights = Rights(4095);
    /// What the owner of a tree has whatever the ACL says (Cyrus's `implicit_owner_rights`, but everything).
    pub const OWNER_IMPLIED: Rights = Rights::ALL;
    /// What an administrator has on every mailbox whatever the ACL says. Reading mail is not in it.
    pub const ADMINISTRATOR_IMPLIED: Rights = Rights(1 | 64 | 128 | 1024);

    /// The stored bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// From stored bits; `None` if one is set that no right has.
    pub const fn from_bits(bits: u16) -> Option<Rights> {
        if bits & !4095 == 0 { Some(Rights(bits)) } else { None }
    }

    /// Whether all of `other` are here.
    pub const fn contains(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights of both.
    #[must_use]
    pub const fn union(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    /// These less those of `other`.
    #[must_use]
    pub const fn without(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }

    /// Reads letters. The obsolete `c` means `k` and `x`, `d` means `t` and `e`, each only if none of its
    /// members is named (RFC 4314 §2.1.1, Cyrus's reading). Err: the first letter that is no right.
    pub fn parse(text: &str) -> Result<Rights, char> {
        let mut rights = 0;
        let (mut create, mut delete) = (false, false);
        for letter in text.chars() {
            match letter {
                'c' => create = true,
                'd' => delete = true,
                _ => {
                    let found = LETTERS.iter().find(|(l, _)| char::from(*l) == letter);
                    rights |= found.ok_or(letter)?.1;
                }
            }
        }
        if create && rights & (64 | 128) == 0 {
            rights |= 64 | 128;
        }
        if delete && rights & (256 | 512) == 0 {
            rights |= 256 | 512;
        }
        Ok(Rights(rights))
    }

    /// With the virtual `c` and `d` after the real letters, as RFC 4314 §2.1.1 asks for old clients.
    pub fn shown_to_old_clients(self) -> String {
        let mut text = self.to_string();
        if self.0 & (64 | 128) != 0 {
            text.push('c');
        }
        if self.0 & (256 | 512) != 0 {
            text.push('d');
        }
        text
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, bit) in LETTERS {
            if self.0 & bit != 0 {
                write!(f, "{}", char::from(letter))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({self})")
    }
}

/// Whom an entry of an ACL speaks of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Identifier {
    /// Everybody, with or without a login.
    Anyone,
    /// Those without a login.
    Anonymous,
    /// The members of a group, by its name in lower case without `group:`.
    Group(Box<str>),
    /// One user.
    User(UserName),
}

/// Who is asking, with all that rights can hang on.
#[derive(Clone, Debug)]
pub struct Asker<'a> {
    /// `None`: not logged in (an MTA that delivers without AUTH, say).
    pub user: Option<&'a UserName>,
    /// The groups the user is in, lower case.
    pub groups: &'a [Box<str>],
    /// Whether the account's tree is this user's own.
    pub owner: bool,
    /// Whether the user administers the account.
    pub administrator: bool,
}

/// A mailbox's access control list: entries in the order they were made, one for each identifier and sign.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Acl {
    entries: Vec<AclEntry>,
}

/// One entry of an [`Acl`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AclEntry {
    /// Whom it speaks of.
    pub identifier: Identifier,
    /// Takes the rights away instead of giving them (RFC 4314 §2, identifiers with `-`).
    pub negative: bool,
    /// Not empty.
    pub rights: Rights,
}

impl Acl {
    /// An ACL that gives nobody anything.
    pub fn new() -> Acl {
        Acl::default()
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[AclEntry] {
        &self.entries
    }

    /// Sets an identifier's rights; without rights the entry goes.
    pub fn set(&mut self, identifier: Identifier, negative: bool, rights: Rights) {
        let at = self.entries.iter().position(|e| e.identifier == identifier && e.negative == negative);
        match (at, rights == Rights::NONE) {
            (Some(at), true) => drop(self.entries.remove(at)),
            (Some(at), false) => {
                if let Some(entry) = self.entries.get_mut(at) {
                    entry.rights = rights;
                }
            }
            (None, true) => {}
            (None, false) => self.entries.push(AclEntry { identifier, negative, rights }),
        }
    }

    /// What an identifier has by its own entry.
    pub fn of(&self, identifier: &Identifier, negative: bool) -> Rights {
        self.entries
            .iter()
            .find(|e| e.identifier == *identifier && e.negative == negative)
            .map_or(Rights::NONE, |e| e.rights)
    }

    /// What the asker may do: all positive entries that speak of them, less all negative ones, and for the
    /// owner at least [`Rights::OWNER_IMPLIED`], for an administrator at least [`Rights::ADMINISTRATOR_IMPLIED`].
    /// The only place where rights are worked out.
    pub fn rights_of(&self, asker: &Asker<'_>) -> Rights {
        let speaks_of = |identifier: &Identifier| match identifier {
            Identifier::Anyone => true,
            Identifier::Anonymous => asker.user.is_none(),
            Identifier::Group(name) => asker.groups.contains(name),
            Identifier::User(user) => asker.user == Some(user),
        };
        let mut given = Rights::NONE;
        let mut taken = Rights::NONE;
        for entry in self.entries.iter().filter(|entry| speaks_of(&entry.identifier)) {
            match entry.negative {
                false => given = given.union(entry.rights),
                true => taken = taken.union(entry.rights),
            }
        }
        let mut rights = given.without(taken);
        if asker.owner {
            rights = rights.union(Rights::OWNER_IMPLIED);
        }
        if asker.administrator {
            rights = rights.union(Rights::ADMINISTRATOR_IMPLIED);
        }
        rights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_read_and_show() {
        assert_eq!(Rights::parse("lrswipkxtean").unwrap(), Rights::ALL);
        assert_eq!(Rights::parse("lrd").unwrap().to_string(), "lrte");
        assert_eq!(Rights::parse("cx").unwrap().to_string(), "x");
        assert_eq!(Rights::parse("lrq"), Err('q'));
        assert_eq!(Rights::ALL.shown_to_old_clients(), "lrswipkxteancd");
    }

    #[test]
    fn negative_entries_win_and_an_owner_keeps_what_is_implied() {
        let joe = UserName::parse("joe@x.test", "").unwrap();
        let mut acl = Acl::new();
        acl.set(Identifier::Anyone, false, Rights::parse("lrp").unwrap());
        acl.set(Identifier::Group("staff".into()), false, Rights::parse("swi").unwrap());
        acl.set(Identifier::User(joe.clone()), true, Rights::parse("rwl").unwrap());
        let groups = ["staff".into()];
        let asker = Asker { user: Some(&joe), groups: &groups, owner: false, administrator: false };
        assert_eq!(acl.rights_of(&asker).to_string(), "sip");
        assert_eq!(acl.rights_of(&Asker { owner: true, ..asker.clone() }), Rights::ALL);
        assert_eq!(acl.rights_of(&Asker { administrator: true, ..asker.clone() }).to_string(), "lsipkxa");
        assert_eq!(acl.rights_of(&Asker { user: None, groups: &[], ..asker }).to_string(), "lrp");
        acl.set(Identifier::Anyone, false, Rights::NONE);
        assert_eq!(acl.entries().len(), 2);
    }
}
