//! INBOX as it was at the login, and what DELE has marked.
//!
//! Invariants:
//! - Numbers, sizes and unique-ids never change during a session, whatever others do with INBOX.
//! - A unique-id is UIDVALIDITY and UID, as in IMAP: it is never given to another message.
//! - Marking changes nothing but this value. [`Maildrop::update`] alone changes the mailbox.

mod handed;

use rookery_auth::{EnterError, SessionSlot};
use rookery_codec::pop3::{Code, Reply};
use rookery_route::AccountError;
use rookery_store::{Account, Mailbox, Message, Messages, StoreError, Whereabouts};
use rookery_types::acl::Asker;
use rookery_types::{AccountName, Epoch, MailboxPath, NodeId, Rights, UidSet, UidValidity, UserName};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::services::Services;

/// How long an account that is between two nodes is waited for.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it is not looked for again; twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);

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
    /// Where the account is.
    home: watch::Receiver<Whereabouts>,
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

/// Why there is no maildrop, with the answer to the client.
pub(crate) enum Refusal {
    /// There may be one in a moment.
    Later(Reply),
    /// The account is between two nodes.
    Moving,
    /// There is none for this client.
    Never(Reply),
}

impl Refusal {
    /// The answer.
    pub(crate) fn into_reply(self) -> Reply {
        match self {
            Refusal::Later(reply) | Refusal::Never(reply) => reply,
            Refusal::Moving => not_reached(),
        }
    }

    fn of(error: &StoreError) -> Refusal {
        match error {
            StoreError::Moved => Refusal::Moving,
            error => Refusal::Later(failed(error)),
        }
    }
}

impl Maildrop {
    /// Opens the maildrop of a user who has just logged in; one that is between two nodes when it has come to rest.
    pub(crate) async fn open(services: &Services, user: UserName) -> Result<Opened, Refusal> {
        let end = Instant::now() + READY_TIMEOUT;
        let mut pause = PAUSE_FIRST;
        loop {
            match Maildrop::open_at_once(services, user.clone()).await {
                Err(Refusal::Moving) if Instant::now() + pause < end => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                opened => return opened,
            }
        }
    }

    async fn open_at_once(services: &Services, user: UserName) -> Result<Opened, Refusal> {
        let account = match account_of(services, &user).await? {
            Ok(account) => account,
            Err(home) => return Ok(Opened::Away { user, home }),
        };
        let slot = enter(services, &account, services.config.sessions_per_account_max)?;
        let inbox = account.tree().get(&MailboxPath::inbox());
        let inbox = inbox.ok_or_else(|| Refusal::Later(not_reached()))?;
        let mailbox = account.open(inbox).await.map_err(|error| Refusal::of(&error))?;
        let state = mailbox.now();
        let maildrop = Maildrop {
            user,
            messages: state.messages.clone().unwrap_or_default(),
            uid_validity: state.settings.uid_validity,
            octets: state.summary.octets,
            home: account.whereabouts(),
            mailbox,
            marked: UidSet::new(),
            marked_count: 0,
            marked_octets: 0,
            slot,
        };
        maildrop.opened()
    }

    fn opened(self) -> Result<Opened, Refusal> {
        match self.may(Rights::READ) {
            true => Ok(Opened::Here(Box::new(self))),
            false => Err(Refusal::Never(Reply::refused(Code::SysPerm, "You may not read the maildrop"))),
        }
    }

    /// The node that the account has left for, and since which epoch it is at home there.
    pub(crate) fn has_left(&self) -> Option<(NodeId, Epoch)> {
        match *self.home.borrow() {
            Whereabouts::Here => None,
            Whereabouts::Left { node, epoch } => Some((node, epoch)),
        }
    }

    /// Returns when the account has left for a node that serves it. Safe to cancel.
    pub(crate) async fn departed(&self) {
        let mut home = self.home.clone();
        if home.wait_for(|whereabouts| *whereabouts != Whereabouts::Here).await.is_err() {
            std::future::pending::<()>().await;
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
    /// error. `+OK` only when all of it is durable. None: the account has gone, and nothing was removed here.
    pub(crate) async fn update(&self) -> Option<Reply> {
        if self.marked.is_empty() {
            return Some(Reply::ok("Bye"));
        }
        if !self.may(Rights::DELETE_MESSAGES.union(Rights::EXPUNGE)) {
            return Some(Reply::refused(Code::SysPerm, "You may not remove messages; none was"));
        }
        match self.mailbox.remove(&self.marked).await {
            Ok(_) => Some(Reply::ok("What you deleted is gone; bye")),
            Err(StoreError::Moved) => None,
            Err(error) => {
                failed(&error);
                Some(not_removed())
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

/// The account of a user, or the node that it is at home at.
async fn account_of(services: &Services, user: &UserName) -> Result<Result<Account, NodeId>, Refusal> {
    match services.router.open(&services.store, &AccountName::User(user.clone())).await {
        Ok(Some(account)) => Ok(Ok(account)),
        Ok(None) => Err(Refusal::Later(not_reached())),
        Err(AccountError::Elsewhere(home)) => Ok(Err(home)),
        Err(error @ AccountError::Unavailable(_)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the directory failed a login");
            Err(Refusal::Later(not_reached()))
        }
        Err(AccountError::Store(error)) => Err(Refusal::of(&error)),
    }
}

/// A place among the account's sessions.
fn enter(services: &Services, account: &Account, sessions_max: usize) -> Result<SessionSlot, Refusal> {
    let slot = services.sessions.enter(account.id(), sessions_max);
    slot.map_err(|error| {
        Refusal::Never(match error {
            EnterError::TooMany => Reply::refused(Code::InUse, "This account has too many sessions"),
            // While the password was being checked.
            EnterError::Closed => Reply::refused(Code::SysPerm, "The account is closed at the moment"),
        })
    })
}

/// The maildrop is at another node that does not answer, or it is not known where.
pub(crate) fn not_reached() -> Reply {
    Reply::refused(Code::SysTemp, "The maildrop cannot be reached at the moment")
}

/// QUIT could not do all of what DELE has asked for.
pub(crate) fn not_removed() -> Reply {
    Reply::refused(Code::SysTemp, "Some deleted messages are not removed")
}

/// Words for a client about what went wrong in the store, which an operator hears of.
pub(crate) fn failed(error: &StoreError) -> Reply {
    if error.is_server_fault() {
        tracing::error!(error = error as &dyn std::error::Error, "the store failed a command");
    }
    Reply::refused(Code::SysTemp, "Something is wrong here; the operator was told")
}
