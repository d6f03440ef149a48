//! INBOX as it was at the login, and what DELE has marked.
//!
//! Invariants:
//! - Numbers, sizes and unique-ids never change during a session, whatever others do with INBOX.
//! - A unique-id is UIDVALIDITY and UID, as in IMAP: it is never given to another message.
//! - Marking changes nothing but this value. [`Maildrop::update`] alone changes the mailbox.

use rookery_auth::{EnterError, SessionSlot};
use rookery_codec::pop3::{Code, Reply};
use rookery_route::AccountError;
use rookery_store::{Mailbox, Message, Messages, StoreError};
use rookery_types::acl::Asker;
use rookery_types::{AccountName, MailboxPath, NodeId, Rights, UidSet, UidValidity, UserName};

use crate::services::Services;

/// A maildrop in the TRANSACTION state.
pub(crate) struct Maildrop {
    user: UserName,
    mailbox: Mailbox,
    messages: Messages,
    uid_validity: UidValidity,
    /// Of all messages, marked ones included.
    octets: u64,
    marked: UidSet,
    marked_count: usize,
    marked_octets: u64,
    /// Held so that the session counts.
    slot: SessionSlot,
}

/// A message's unique-id (RFC 1939 §7), of 3 to 21 characters.
pub(crate) struct UniqueId(UidValidity, rookery_types::Uid);

impl std::fmt::Display for UniqueId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0.get(), self.1.get())
    }
}

/// Where the session of someone who has logged in runs.
pub(crate) enum Opened {
    Here(Box<Maildrop>),
    Away { user: UserName, home: NodeId },
}

impl Maildrop {
    /// Opens a user's maildrop; `Err` is the answer to the client.
    pub(crate) async fn open(services: &Services, user: UserName) -> Result<Opened, Reply> {
        let away = || Reply::refused(Code::SysTemp, "The maildrop cannot be reached at the moment");
        let account = match services.router.open(&services.store, &AccountName::User(user.clone())).await {
            Ok(Some(account)) => account,
            Ok(None) => return Err(away()),
            Err(AccountError::Elsewhere(home)) => return Ok(Opened::Away { user, home }),
            Err(error @ AccountError::Unavailable(_)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the directory failed a login");
                return Err(away());
            }
            Err(AccountError::Store(error)) => return Err(failed(&error)),
        };
        let slot = services.sessions.enter(account.id(), services.config.sessions_per_account_max);
        let slot = slot.map_err(|error| match error {
            EnterError::TooMany => Reply::refused(Code::InUse, "This account has too many sessions"),
            // While the password was being checked.
            EnterError::Closed => Reply::refused(Code::SysPerm, "The account is closed at the moment"),
        })?;
        let Some(inbox) = account.tree().get(&MailboxPath::inbox()) else { return Err(away()) };
        let mailbox = account.open(inbox).await.map_err(|error| failed(&error))?;
        let state = mailbox.now();
        let maildrop = Maildrop {
            user,
            messages: state.messages.clone().unwrap_or_default(),
            uid_validity: state.settings.uid_validity,
            octets: state.summary.octets,
            mailbox,
            marked: UidSet::new(),
            marked_count: 0,
            marked_octets: 0,
            slot,
        };
        match maildrop.may(Rights::READ) {
            true => Ok(Opened::Here(Box::new(maildrop))),
            false => Err(Reply::refused(Code::SysPerm, "You may not read the maildrop")),
        }
    }

    /// The session, as it counts, and as it is ended when the account is closed.
    pub(crate) fn slot(&self) -> &SessionSlot {
        &self.slot
    }

    /// Whose it is.
    pub(crate) fn user(&self) -> &UserName {
        &self.user
    }

    /// Where its messages are.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Messages that are not marked, and their octets.
    pub(crate) fn count(&self) -> (usize, u64) {
        let count = self.messages.len().saturating_sub(self.marked_count);
        (count, self.octets.saturating_sub(self.marked_octets))
    }

    /// All messages, each with its number; whether it is marked tells [`Maildrop::is_marked`].
    pub(crate) fn messages(&self) -> &Messages {
        &self.messages
    }

    pub(crate) fn is_marked(&self, message: &Message) -> bool {
        self.marked.contains_uid(message.uid)
    }

    /// The message of that number, unless it is marked; the error is the answer to the client.
    pub(crate) fn message(&self, number: u32) -> Result<Message, Reply> {
        let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        match place
            .map(|place| self.messages.get(place))
            .transpose()
            .map_err(|error| failed(&error))?
            .flatten()
        {
            Some(message) if self.is_marked(&message) => Err(Reply::err("That message is deleted")),
            Some(message) => Ok(message),
            None => Err(Reply::err("There is no message of that number")),
        }
    }

    /// A message's unique-id.
    pub(crate) fn unique_id(&self, message: &Message) -> UniqueId {
        UniqueId(self.uid_validity, message.uid)
    }

    /// Marks a message.
    pub(crate) fn mark(&mut self, number: u32) -> Reply {
        let (uid, size) = match self.message(number) {
            Ok(message) => (message.uid, message.size),
            Err(reply) => return reply,
        };
        if !self.may(Rights::DELETE_MESSAGES.union(Rights::EXPUNGE)) {
            return Reply::refused(Code::SysPerm, "You may not remove messages");
        }
        self.marked.insert_uid(uid);
        self.marked_count += 1;
        self.marked_octets = self.marked_octets.saturating_add(size.into());
        Reply::ok("Deleted when you say QUIT")
    }

    /// Marks no message any more.
    pub(crate) fn unmark_all(&mut self) {
        self.marked = UidSet::new();
        self.marked_count = 0;
        self.marked_octets = 0;
    }

    /// The UPDATE state (RFC 1939 §6): removes what is marked. A message that another session has removed is no
    /// error. `+OK` only when all of it is durable.
    pub(crate) async fn update(&self) -> Reply {
        if self.marked.is_empty() {
            return Reply::ok("Bye");
        }
        if !self.may(Rights::DELETE_MESSAGES.union(Rights::EXPUNGE)) {
            return Reply::refused(Code::SysPerm, "You may not remove messages; none was");
        }
        match self.mailbox.remove(&self.marked).await {
            Ok(_) => Reply::ok("What you deleted is gone; bye"),
            Err(error) => {
                failed(&error);
                Reply::refused(Code::SysTemp, "Some deleted messages are not removed")
            }
        }
    }

    /// Whether the user has these rights on INBOX now.
    fn may(&self, rights: Rights) -> bool {
        let owner = self.mailbox.account().owner().as_ref() == Some(&self.user);
        let asker = Asker { user: Some(&self.user), groups: &[], owner, administrator: false };
        self.mailbox.now().settings.acl.rights_of(&asker).contains(rights)
    }
}

/// Words for a client about what went wrong in the store, which an operator hears of.
pub(crate) fn failed(error: &StoreError) -> Reply {
    if error.is_server_fault() {
        tracing::error!(error = error as &dyn std::error::Error, "the store failed a command");
    }
    Reply::refused(Code::SysTemp, "Something is wrong here; the operator was told")
}
