//! The directory: which accounts exist and where they are at home, their verifiers and states; domains and nodes.
//!
//! A [`Source`](source::Source) holds the primary records and orders their changes; each node has a copy of them with
//! what is derived of them, and reads that. For a single server the source and the copy are the same records.
//!
//! Invariants:
//! - An [`AccountId`] is given once and never again, also after the account is gone.
//! - The epoch of an account's home only rises.
//! - A change is recorded only if all that was read to decide it is still so at the source.
//! - A change that was acknowledged is seen by every later look-up at the same node, and at any node after
//!   [`Directory::barrier`].
//! - Nothing is loaded at the start, and memory does not grow with the number of accounts.
//! - "Not found" and "cannot say" are different errors: mail is bounced for the one and kept for the other.

mod alias;
mod cache;
mod change;
mod change_log;
pub mod check;
mod commit;
mod copied;
mod copy;
mod derive;
mod embedded;
mod encoding;
mod entry;
#[cfg(feature = "etcd")]
mod etcd;
mod follow;
mod kinds;
mod memory;
mod node;
mod overlay;
mod placement;
pub mod published;
pub mod records;
pub mod remote;
pub mod renamed;
pub mod repair;
pub mod source;
mod turn;
pub mod whole;

pub use alias::{Alias, AliasName};
pub use change_log::LOGGED_MAX;
pub use commit::{Commit, CommitError, DirectCommit};
pub use copied::{CopiedDirectory, Counts};
pub use embedded::EmbeddedSource;
pub use encoding::Damaged;
pub use entry::{AccountFilter, AccountState, Domain, Entry, Group, Home, Moving, Page, Verifier};
#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdSource};
pub use follow::Following;
pub use memory::{Call, MemorySnapshot, MemorySource, Trouble};
pub use node::{Duty, Load, Node, NodeEdit};
pub use placement::Placement;
pub use published::Published;
pub use records::{boot_of, boot_record};
pub use source::{Position, Source, SourceError};

/// The directory whose source is this node's own engine.
pub type EmbeddedDirectory = CopiedDirectory;

use rookery_types::{AccountId, AccountName, Identifier, MailboxId, NodeId, UserName};
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

/// What a directory will answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, DirectoryError>> + Send + 'a>>;

/// Entries in the longest page; more asked for is cut to this.
pub const PAGE_MAX: usize = 1000;

/// Why the directory did not do what was asked. Nothing was changed, except under [`DirectoryError::Pending`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// There is no such account, domain or node.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// A domain that accounts are still in, or that is the default one.
    #[error("{0} is still in use")]
    InUse(String),
    /// The home, or where the account is going to, is another than expected: the change came too late.
    #[error("the account is at home at node {} with epoch {}", .0.node, .0.epoch.0)]
    HomeChanged(Home),
    /// The change makes no sense, whatever the entry says.
    #[error("{0}")]
    Refused(&'static str),
    /// Another change came first, and this one has to be decided again. Not told to callers of [`Directory`].
    #[error("another change of the directory came first")]
    Conflict,
    /// The directory cannot be asked now.
    #[error("the directory is not available: {0}")]
    Unavailable(String),
    /// The change is made, or will be, or never: that cannot be said now.
    #[error("the directory has not answered ({0}): outcome pending")]
    Pending(String),
    /// What holds the directory is not what was followed, or has lost changes: nothing can be changed until an
    /// operator decides.
    #[error("the directory takes no changes: {0}")]
    WentBack(String),
    /// What is stored is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

impl DirectoryError {
    /// Whether the same may be done later: it is the directory that cannot be asked, or whose answer is not known.
    pub fn is_away(&self) -> bool {
        matches!(
            self,
            DirectoryError::Unavailable(_) | DirectoryError::Pending(_) | DirectoryError::WentBack(_)
        )
    }
}

/// A directory as a node has it. Changes are ordered by its source; look-ups see every change acknowledged here.
///
/// A change goes on when its future is dropped.
pub trait Directory: Send + Sync {
    /// The entry of an account, in whatever state, also reserved.
    fn look_up<'a>(&'a self, name: &'a AccountName) -> Answer<'a, Arc<Entry>>;

    /// The same by id.
    fn by_id(&self, id: AccountId) -> Answer<'_, Arc<Entry>>;

    /// Accounts in the order of their domains and names, from the one after `after`, at most `limit` and
    /// [`PAGE_MAX`]. A page may be shorter, even empty, and not the last: [`Page::next`] says.
    fn list(&self, filter: AccountFilter, after: Option<AccountName>, limit: usize) -> Answer<'_, Page>;

    /// Takes a name for an account that is being made, and gives it an id; the epoch of its home is 1.
    ///
    /// `intent` is the maker's own number for what it is doing: asking again with the same home and intent gives
    /// the same entry. The domain must exist.
    fn reserve(&self, name: AccountName, home: Home, intent: u64) -> Answer<'_, Arc<Entry>>;

    /// The accounts that are half made or half taken apart ([`AccountState::is_unfinished`]), lowest id first, after the id
    /// `after`, at most `limit` and [`PAGE_MAX`]: a node finishes its own when it starts, and those that whoever began has
    /// given up. Time alone ends no reservation.
    fn reservations(&self, after: Option<AccountId>, limit: usize) -> Answer<'_, Vec<Arc<Entry>>>;

    /// Puts an account back that was removed, under its old id, active and without a verifier. The name has to be
    /// free, and the id one that was given before.
    fn restore(&self, id: AccountId, name: AccountName, home: Home) -> Answer<'_, Arc<Entry>>;

    /// Makes a reserved account active. An active one stays so.
    fn activate(&self, id: AccountId) -> Answer<'_, Arc<Entry>>;

    /// Makes a reserved account one that is only there to log in: an administrator's, without mailboxes.
    fn activate_login(&self, id: AccountId) -> Answer<'_, Arc<Entry>>;

    /// Sets what logins are checked against; `None`: no login is possible.
    fn set_verifier(&self, id: AccountId, verifier: Option<Verifier>) -> Answer<'_, Arc<Entry>>;

    /// Sets any state but reserved; reservations end by [`Directory::activate`] or [`Directory::remove`].
    fn set_state(&self, id: AccountId, state: AccountState) -> Answer<'_, Arc<Entry>>;

    /// Gives an account another name, in the same domain or another that exists. A user's account stays one.
    fn rename(&self, id: AccountId, to: AccountName) -> Answer<'_, Arc<Entry>>;

    /// Forgets an account; its id is not given again.
    fn remove(&self, id: AccountId) -> Answer<'_, ()>;

    /// Sets the home of an account that is not on its way, if it is exactly `expected`. The epoch must rise.
    fn set_home(&self, id: AccountId, expected: Home, to: Home) -> Answer<'_, Arc<Entry>> {
        self.relocate(id, (expected, None), (to, None))
    }

    /// Sets the home, and where the account is going to, if both are exactly what is expected. The epoch of another home
    /// must rise. Asked again, it says the same.
    fn relocate(
        &self,
        id: AccountId,
        expected: (Home, Option<Moving>),
        to: (Home, Option<Moving>),
    ) -> Answer<'_, Arc<Entry>>;

    /// Lets an account stand in the place of another, whose home is a node that was removed: it takes over that one's
    /// name, state and verifier, and the other's id and what it published are forgotten. Both are of one domain.
    fn take_over(&self, id: AccountId, place: AccountName) -> Answer<'_, ()>;

    /// An alias or a catch-all, by its very name.
    fn alias<'a>(&'a self, name: &'a AliasName) -> Answer<'a, Option<Alias>>;

    /// Aliases in the order of their domains and names, of one domain (in lower case) or of all, after `after`, at
    /// most `limit` and [`PAGE_MAX`].
    fn aliases(
        &self,
        domain: Option<String>,
        after: Option<AliasName>,
        limit: usize,
    ) -> Answer<'_, Vec<Alias>>;

    /// Makes an alias, or leads it elsewhere. Its name must not be an account's, its domain must exist.
    fn set_alias(&self, name: AliasName, targets: Vec<UserName>) -> Answer<'_, Alias>;

    /// Forgets an alias.
    fn remove_alias(&self, name: AliasName) -> Answer<'_, ()>;

    /// Domains by name, after `after`, at most `limit` and [`PAGE_MAX`].
    fn domains(&self, after: Option<String>, limit: usize) -> Answer<'_, Vec<Domain>>;

    /// A domain by its name in lower case.
    fn domain<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Domain>>;

    /// Makes a domain. The first one becomes the default.
    fn add_domain(&self, name: String) -> Answer<'_, Domain>;

    /// Forgets a domain without accounts that is not the default.
    fn remove_domain(&self, name: String) -> Answer<'_, ()>;

    /// The domain that completes bare names; `None` before there is any.
    fn default_domain(&self) -> Answer<'_, Option<Domain>>;

    /// Makes a domain the default. Entries are not changed: they always carry their domain.
    fn set_default_domain(&self, name: String) -> Answer<'_, ()>;

    /// Groups of a domain in the order of their names, after `after`, at most `limit` and [`PAGE_MAX`].
    fn groups(&self, domain: String, after: Option<String>, limit: usize) -> Answer<'_, Vec<Group>>;

    /// Makes a group without members in a domain.
    fn add_group(&self, domain: String, name: String) -> Answer<'_, Group>;

    /// Forgets a group and who was in it.
    fn remove_group(&self, domain: String, name: String) -> Answer<'_, ()>;

    /// Users in a group in the order of their names, after `after`, at most `limit` and [`PAGE_MAX`].
    fn members(
        &self,
        domain: String,
        group: String,
        after: Option<UserName>,
        limit: usize,
    ) -> Answer<'_, Vec<UserName>>;

    /// Puts a user into a group of their domain, or takes them out. That the user exists is not asked.
    fn set_member(&self, group: String, user: UserName, is_member: bool) -> Answer<'_, ()>;

    /// The groups that a user is in.
    fn groups_of<'a>(&'a self, user: &'a UserName) -> Answer<'a, Vec<Box<str>>>;

    /// Mailboxes of a domain that any of these identifiers may look up by an entry for it, in shared trees or in
    /// users' trees, at most `limit` for each. Negative entries are not looked at.
    fn granted(
        &self,
        domain: String,
        to: Vec<Identifier>,
        shared: bool,
        limit: usize,
    ) -> Answer<'_, BTreeSet<MailboxId>>;

    /// All nodes that were not removed; they are few.
    fn nodes(&self) -> Answer<'_, Vec<Node>>;

    /// The nodes that were removed.
    fn removed_nodes(&self) -> Answer<'_, Vec<Node>>;

    /// Sets what is known of a node, new or not. Of one that is known what operators have decided stays, which is
    /// changed by [`Directory::edit_node`] alone. Refused for one that was removed.
    fn put_node(&self, node: Node) -> Answer<'_, ()>;

    /// Sets what operators decide of a node. No account is reserved at a node that does not hold
    /// ([`Duty::On`]) from then on.
    fn edit_node(&self, id: NodeId, edit: NodeEdit) -> Answer<'_, Node>;

    /// Takes a node out of the cluster for good. What is at home there stays so.
    fn remove_node(&self, id: NodeId) -> Answer<'_, ()>;

    /// Where new accounts are placed: domains, an empty one for all others, with what is said of them. They are few.
    fn placements(&self) -> Answer<'_, Vec<(Box<str>, Placement)>>;

    /// Says where new accounts of a domain are placed, an empty one for all that have no placement of their own; or
    /// forgets it.
    fn set_placement(&self, domain: String, placement: Option<Placement>) -> Answer<'_, ()>;

    /// Publishes mailboxes, or takes them back, in the order given. One of an account that does not exist is taken back.
    fn publish(&self, mailboxes: Vec<(MailboxId, Option<Published>)>) -> Answer<'_, ()>;

    /// A published mailbox.
    fn published(&self, mailbox: MailboxId) -> Answer<'_, Option<Published>>;

    /// The published mailboxes of an account in the order of their numbers, after `after`, at most `limit` and
    /// [`PAGE_MAX`].
    fn published_of(
        &self,
        account: AccountId,
        after: Option<MailboxId>,
        limit: usize,
    ) -> Answer<'_, Vec<Published>>;

    /// The newest revision, and a wake-up at each further one. Revisions may be skipped; the newest is always told.
    fn subscribe(&self) -> watch::Receiver<u64>;

    /// Returns when look-ups here see all that was acknowledged anywhere before the call, with the revision.
    fn barrier(&self) -> Answer<'_, u64>;
}
