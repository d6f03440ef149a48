//! What the directory knows of accounts, domains and nodes.

use crate::DirectoryError;
use rookery_types::{AccountId, AccountName, Epoch, JobId, NodeId, StoreId};
use std::fmt;

/// Where an account's mail is, and by which right.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Home {
    /// The node.
    pub node: NodeId,
    /// The node's store; a node that came back with another one holds nothing.
    pub store: StoreId,
    /// How often the home has changed, from 1.
    pub epoch: Epoch,
}

/// An account is on its way to another home, which alone may take it over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Moving {
    /// The node that it goes to.
    pub node: NodeId,
    /// Which move that is.
    pub job: JobId,
}

/// What may be done with an account.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AccountState {
    /// Being made; nobody sees it yet.
    Reserved {
        /// The maker's number for what it is doing.
        intent: u64,
    },
    /// In use.
    Active,
    /// Mail comes in; nobody logs in.
    Suspended,
    /// Deleted and not yet cleaned up; the name is still taken.
    Deleted,
    /// Somebody logs in, and there are no mailboxes: an administrator.
    LoginOnly,
}

impl AccountState {
    /// Half made, or half taken apart: nobody sees the account, and the name is reserved until its home has done the rest.
    pub fn is_unfinished(self) -> bool {
        matches!(self, AccountState::Reserved { .. } | AccountState::Deleted)
    }
}

/// What a login is checked against: a password hash in PHC text form, say. Not shown in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier(Box<str>);

impl Verifier {
    /// Octets in the longest verifier.
    pub const OCTETS_MAX: usize = 4096;

    /// Takes any text that is not empty and not longer than [`Verifier::OCTETS_MAX`].
    pub fn new(text: &str) -> Result<Verifier, DirectoryError> {
        match text.len() {
            0 => Err(DirectoryError::Refused("a verifier is not empty")),
            octets if octets > Verifier::OCTETS_MAX => {
                Err(DirectoryError::Refused("the verifier is too long"))
            }
            _ => Ok(Verifier(text.into())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// An account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its id; survives renames.
    pub id: AccountId,
    /// Its name.
    pub name: AccountName,
    /// Where it is.
    pub home: Home,
    /// Where it is going to.
    pub moving: Option<Moving>,
    /// What may be done with it.
    pub state: AccountState,
    /// What logins are checked against; `None`: no login is possible.
    pub verifier: Option<Verifier>,
    /// The directory's revision that last changed the entry.
    pub revision: u64,
}

/// A domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Domain {
    /// In lower case.
    pub name: Box<str>,
    /// The revision that made it.
    pub revision: u64,
    /// It is being removed: nothing new is made in it.
    pub closing: bool,
}

/// A group of users of one domain, which ACLs speak of as `group:NAME`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Whose users are in it.
    pub domain: Box<str>,
    /// In lower case.
    pub name: Box<str>,
    /// The revision that last changed it.
    pub revision: u64,
    /// How many users are in it.
    pub members: u64,
}

/// Which accounts are listed. The default is all.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AccountFilter {
    /// Only those of this domain, in lower case.
    pub domain: Option<Box<str>>,
    /// Only shared accounts, or only users'.
    pub shared: Option<bool>,
    /// Only those whose local part or root begins so.
    pub prefix: Box<str>,
}

impl AccountFilter {
    /// The local part of a user or the root of a shared tree.
    pub(crate) fn admits(&self, name: &AccountName) -> bool {
        let (shared, text) = match name {
            AccountName::User(user) => (false, user.local()),
            AccountName::Shared(root) => (true, root.root()),
        };
        self.domain.as_deref().is_none_or(|domain| domain == name.domain())
            && self.shared.is_none_or(|wanted| wanted == shared)
            && text.starts_with(&*self.prefix)
    }
}

/// Some of the accounts that were asked for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Page {
    /// In the order of domains and names.
    pub entries: Vec<Entry>,
    /// What to ask for entries after; `None` if these were the last.
    pub next: Option<AccountName>,
}
