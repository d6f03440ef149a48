//! What a session is made of (RFC 9051 §3): its state, its user, its selected mailbox.
//!
//! Invariants:
//! - A state owns exactly what exists in it: no selected mailbox without a user.
//! - Rights are asked of the mailbox as it is now, at every command; nothing remembers them.

use crate::answer::{Answer, Failure, blocking, no_permission};
use crate::awaiting::Awaiting;
use crate::guest::Guests;
use crate::names::{Names, directory_failed};
use crate::notify::{Notify, OfSelected};
use crate::services::Services;
use crate::view::View;
use bytes::Bytes;
use rookery_auth::SessionSlot;
use rookery_codec::imap::{Code, MessageSet, WireName};
use rookery_directory::Published;
use rookery_route::Authority;
use rookery_store::{Account, Mailbox, MailboxState, Messages, Noted, StoreError, Whereabouts};
use rookery_types::acl::Asker;
use rookery_types::{Epoch, MailboxPath, NodeId, Rights, SetEnd, UidSet, UserName};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::watch;

/// Where a session stands.
pub(crate) enum State {
    /// Nobody has logged in.
    NotAuthenticated,
    /// Somebody has.
    Authenticated(Box<User>),
    /// And has selected a mailbox.
    Selected(Box<User>, Box<Selected>),
    /// And has selected a mailbox that is at home at another node: a guest there has it.
    Abroad(Box<User>, Box<Abroad>),
    /// Somebody has logged in whose home is another node: the session goes on there.
    Away(Box<Away>),
    /// The session is over.
    Logout,
}

/// Who has logged in, and where their session runs.
pub(crate) struct Away {
    pub(crate) user: UserName,
    pub(crate) home: NodeId,
    /// The command that logged in.
    pub(crate) verb: &'static str,
}

/// What ENABLE and the like have turned on. It stays on as long as the session.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Enabled {
    /// IMAP4rev2 (RFC 9051): ESEARCH, UTF-8 names, no \Recent.
    pub(crate) rev2: bool,
    /// MODSEQ in every FETCH that tells of flags (RFC 7162 §3.1).
    pub(crate) condstore: bool,
    /// UTF8=ACCEPT (RFC 6855): UTF-8 names, and UTF-8 in quoted strings.
    pub(crate) utf8: bool,
    /// VANISHED instead of EXPUNGE (RFC 7162 §3.2).
    pub(crate) qresync: bool,
    /// No sequence numbers, neither way (RFC 9586).
    pub(crate) uid_only: bool,
}

impl Enabled {
    /// As one octet, for [`rookery_route::SessionNote::Enabled`].
    pub(crate) fn bits(self) -> u8 {
        let Enabled { rev2, condstore, utf8, qresync, uid_only } = self;
        [rev2, condstore, utf8, qresync, uid_only].iter().rev().fold(0, |bits, on| bits << 1 | u8::from(*on))
    }

    /// What [`Enabled::bits`] has written; bits that this version does not know are passed over.
    pub(crate) fn from_bits(bits: u8) -> Enabled {
        let on = |place: u8| bits >> place & 1 == 1;
        Enabled { rev2: on(0), condstore: on(1), utf8: on(2), qresync: on(3), uid_only: on(4) }
    }
}

/// Who has logged in.
pub(crate) struct User {
    pub(crate) services: Arc<Services>,
    pub(crate) name: UserName,
    pub(crate) groups: Vec<Box<str>>,
    /// The directory's revision that the groups are of.
    pub(crate) revisions: watch::Receiver<u64>,
    pub(crate) authority: Authority,
    /// The user's own account. An administrator needs none.
    pub(crate) own: Option<Account>,
    /// Where that is at home.
    pub(crate) home: Option<watch::Receiver<Whereabouts>>,
    pub(crate) names: Names,
    pub(crate) enabled: Enabled,
    /// What NOTIFY asks for; `None`: it was never used.
    pub(crate) notify: Option<Box<Notify>>,
    /// The search for the home of the user's account, if that is lost.
    pub(crate) awaiting: Option<Awaiting>,
    /// Held so that the session counts; tells when the account is closed.
    pub(crate) slot: Option<SessionSlot>,
    /// The session is a guest: its user's own session runs at another node.
    pub(crate) is_guest: bool,
    /// Its own guests at other nodes.
    pub(crate) guests: Guests,
}

/// A selected mailbox of another node.
pub(crate) struct Abroad {
    /// Which node.
    pub(crate) node: NodeId,
    /// The name by which it was selected.
    pub(crate) name: WireName,
    /// Its id, as the guest has said it.
    pub(crate) mailbox_id: Option<Bytes>,
}

/// The selected mailbox.
pub(crate) struct Selected {
    pub(crate) mailbox: Mailbox,
    /// Selected by EXAMINE, or without the rights to change anything.
    pub(crate) read_only: bool,
    pub(crate) view: View,
    /// `$` (RFC 5182).
    pub(crate) saved: UidSet,
    /// Where its account is at home.
    pub(crate) home: watch::Receiver<Whereabouts>,
}

impl User {
    /// The user's rights on a mailbox of `account`.
    pub(crate) fn rights(&self, account: &Account, state: &MailboxState) -> Rights {
        state.settings.acl.rights_of(&self.asker(account))
    }

    /// The user's rights on a mailbox of another node, as far as it publishes them.
    pub(crate) fn rights_published(&self, published: &Published) -> Rights {
        let owner = published.owner.as_ref() == Some(&self.name);
        let (user, administrator) = (Some(&self.name), self.administers());
        published.acl.rights_of(&Asker { user, groups: &self.groups, owner, administrator })
    }

    /// What is told of the selected mailbox.
    pub(crate) fn of_selected(&self) -> Option<&OfSelected> {
        self.notify.as_ref().map(|notify| &notify.selected)
    }

    /// Whether the user administers the site.
    pub(crate) fn is_admin(&self) -> bool {
        self.authority == Authority::Site
    }

    pub(crate) fn asker(&self, account: &Account) -> Asker<'_> {
        let owner = account.owner().as_ref() == Some(&self.name);
        // Accounts that a domain's administrator has no authority over are not found in the first place.
        Asker { user: Some(&self.name), groups: &self.groups, owner, administrator: self.administers() }
    }

    /// Whether the user administers whatever accounts they can reach.
    pub(crate) fn administers(&self) -> bool {
        self.authority != Authority::User
    }

    /// Whether accounts of that domain exist for the user at all: those of their own domain, and all for an
    /// administrator of the site.
    pub(crate) fn reaches(&self, domain: &str) -> bool {
        self.is_admin() || self.name.domain() == domain
    }

    /// Learns the user's groups anew if the directory has changed.
    pub(crate) async fn refresh(&mut self) -> Result<(), Failure> {
        if self.revisions.has_changed().unwrap_or(false) {
            self.revisions.borrow_and_update();
            let groups = self.services.directory.groups_of(&self.name).await;
            self.groups = groups.map_err(directory_failed)?;
        }
        Ok(())
    }

    /// Turns on what is on elsewhere in the user's session, too.
    pub(crate) fn enable(&mut self, enabled: Enabled) {
        self.enabled = enabled;
        if enabled.rev2 || enabled.utf8 {
            self.names.use_utf8();
        }
    }

    /// Whether an account is the user's own.
    pub(crate) fn owns(&self, account: &Account) -> bool {
        self.own.as_ref().is_some_and(|own| own.id() == account.id())
    }

    /// The user's own account.
    pub(crate) fn own(&self) -> Result<&Account, Failure> {
        let none = || Answer::no(Code::Cannot, "You have no mailboxes of your own").into();
        self.own.as_ref().ok_or_else(none)
    }

    /// The node that the user's account has left for, and since which epoch it is at home there.
    pub(crate) fn has_left(&self) -> Option<(NodeId, Epoch)> {
        match *self.home.as_ref()?.borrow() {
            Whereabouts::Here => None,
            Whereabouts::Left { node, epoch } => Some((node, epoch)),
        }
    }

    /// Whether the home of the user's account is lost, and the session goes on without.
    pub(crate) fn is_bereft(&self) -> bool {
        self.awaiting.is_some()
    }

    /// Whether something has left for another node that the session has abroad, or watches.
    pub(crate) fn misses_something(&self) -> bool {
        self.guests.have_moved() || self.notify.as_ref().is_some_and(|notify| notify.has_left())
    }

    /// The same, or the user's own account has.
    pub(crate) fn goes_on_elsewhere(&self) -> bool {
        self.has_left().is_some() || self.misses_something()
    }

    /// Whether the account that was logged in to has been deleted or renamed since.
    pub(crate) fn is_gone(&self) -> bool {
        self.own.as_ref().is_some_and(|own| !own.exists() || own.owner().as_ref() != Some(&self.name))
    }

    /// The rights that decide whether something can be made at a path where nothing is.
    pub(crate) fn rights_above(&self, account: &Account, path: &MailboxPath) -> Rights {
        account.tree().rights_above(path, &self.asker(account))
    }
}

impl State {
    /// Who has logged in.
    pub(crate) fn user(&mut self) -> Option<&mut User> {
        match self {
            State::Authenticated(user) | State::Selected(user, _) | State::Abroad(user, _) => Some(user),
            State::NotAuthenticated | State::Away(_) | State::Logout => None,
        }
    }

    /// Where the changes of the client's own commands are noted, if it hears of changes.
    pub(crate) fn notes(&self) -> Option<Noted> {
        match self {
            State::Authenticated(user) | State::Selected(user, _) | State::Abroad(user, _) => {
                user.notify.as_ref().map(|notify| notify.own.clone())
            }
            State::NotAuthenticated | State::Away(_) | State::Logout => None,
        }
    }

    /// Whether something that the session has selected or watches has left for another node: here it stays as it was.
    pub(crate) fn misses_something(&self) -> bool {
        match self {
            State::Selected(user, selected) => selected.has_left() || user.misses_something(),
            State::Authenticated(user) | State::Abroad(user, _) => user.misses_something(),
            State::NotAuthenticated | State::Away(_) | State::Logout => false,
        }
    }

    /// Whether the home of the user's account is lost.
    pub(crate) fn is_bereft(&self) -> bool {
        match self {
            State::Authenticated(user) | State::Selected(user, _) | State::Abroad(user, _) => {
                user.is_bereft()
            }
            State::NotAuthenticated | State::Away(_) | State::Logout => false,
        }
    }

    /// Whether the account that was logged in to is closed.
    pub(crate) fn is_ended(&self) -> bool {
        match self {
            State::Authenticated(user) | State::Selected(user, _) | State::Abroad(user, _) => {
                user.slot.as_ref().is_some_and(SessionSlot::is_ended)
            }
            State::NotAuthenticated | State::Away(_) | State::Logout => false,
        }
    }

    /// Whether the session has lost what it was logged in to.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            State::Authenticated(user) | State::Selected(user, _) | State::Abroad(user, _) => user.is_gone(),
            State::NotAuthenticated | State::Away(_) | State::Logout => false,
        }
    }
}

impl Selected {
    /// Whether its account has left for another node.
    pub(crate) fn has_left(&self) -> bool {
        *self.home.borrow() != Whereabouts::Here
    }

    /// The mailbox as it is now, and its messages; none once it is deleted.
    pub(crate) fn now(&self) -> (Arc<MailboxState>, Messages) {
        let state = self.mailbox.now();
        let messages = match self.mailbox.exists() {
            true => state.messages.clone().unwrap_or_default(),
            false => Messages::default(),
        };
        (state, messages)
    }

    /// Brings the view's messages at some places into memory, on a thread that may block. They may leave it again
    /// before they are looked at; then looking at them reads the disk.
    pub(crate) async fn load(&self, places: Range<usize>) -> Result<(), Failure> {
        if self.view.messages().are_loaded(&places) {
            return Ok(());
        }
        let messages = self.view.messages().clone();
        Ok(blocking(move || messages.load(&places)).await??)
    }

    pub(crate) fn rights(&self, user: &User) -> Rights {
        user.rights(self.mailbox.account(), &self.mailbox.now())
    }

    /// Refuses unless the mailbox may be changed and the user has one of these rights.
    pub(crate) fn writable(&self, user: &User, any_of: &[Rights]) -> Result<Rights, Failure> {
        if self.read_only {
            return Err(Answer::no(Code::Cannot, "The mailbox is selected read-only").into());
        }
        let rights = self.rights(user);
        match any_of.iter().any(|one| rights.contains(*one)) {
            true => Ok(rights),
            false => Err(no_permission().into()),
        }
    }

    /// The places in the view of the messages a command names. Sequence numbers that do not exist are the
    /// client's mistake (RFC 9051 §9 `seq-number`); UIDs that do not exist are none.
    pub(crate) fn resolve(&self, set: &MessageSet, uid: bool) -> Result<Vec<Range<usize>>, Failure> {
        let set = match set {
            MessageSet::Saved => return Ok(self.view.places_of_uids(&self.saved)?),
            MessageSet::Set(set) => set,
        };
        if uid {
            return Ok(self.view.places_of_uids(&set.resolve(self.view.last_uid()))?);
        }
        let exists = self.view.exists();
        let beyond = |end: &SetEnd| matches!(end, SetEnd::Number(n) if *n > exists);
        let starred = |a: &SetEnd, b: &SetEnd| *a == SetEnd::Largest || *b == SetEnd::Largest;
        if set.ranges().iter().any(|(a, b)| (beyond(a) || beyond(b)) && !(starred(a, b) && exists == 0)) {
            return Err(Answer::bad("There is no message of that number").into());
        }
        Ok(self.view.places_of_numbers(&set.resolve(exists)))
    }

    /// The UIDs of the messages with these sequence numbers. Unlike [`Selected::resolve`] it takes numbers that
    /// do not exist, for a search: nothing matches them, which is an answer.
    pub(crate) fn uids_of_numbers(&self, set: &MessageSet) -> Result<UidSet, StoreError> {
        match set {
            MessageSet::Saved => Ok(self.saved.clone()),
            MessageSet::Set(set) => {
                self.view.uids_at(&self.view.places_of_numbers(&set.resolve(self.view.exists())))
            }
        }
    }

    /// The UIDs of the messages a command names, as far as they are in the view.
    pub(crate) fn resolve_uids(&self, set: &MessageSet, uid: bool) -> Result<UidSet, Failure> {
        Ok(self.view.uids_at(&self.resolve(set, uid)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enabled_is_one_octet() {
        for bits in 0..32 {
            assert_eq!(Enabled::from_bits(bits).bits(), bits);
        }
        let some = Enabled { condstore: true, uid_only: true, ..Enabled::default() };
        assert_eq!((some.bits(), Enabled::from_bits(0xf2).bits()), (0b1_0010, 0b1_0010));
    }
}
