//! What a session needs of the house below it, as one trait, so that sessions can be tested without a disk.

use std::future::Future;

use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, UserName};

/// Where recipients are looked up and messages go.
pub trait Backing: Send + Sync + 'static {
    /// A message while it comes in. Dropping it stores nothing.
    type Spool: Send + 'static;
    /// A whole message, which can be appended to many mailboxes.
    type Message: Clone + Send + Sync + 'static;

    /// The accounts that mail for an address goes to; not none.
    fn look_up(&self, user: &UserName) -> impl Future<Output = Result<Vec<AccountId>, LookUpError>> + Send;

    /// The mailbox a delivery goes to: the one that `detail` names if it exists and `author` may post to it,
    /// otherwise INBOX.
    fn target(
        &self,
        account: AccountId,
        detail: Option<&MailboxPath>,
        author: Option<&UserName>,
    ) -> impl Future<Output = Result<MailboxId, DeliverError>> + Send;

    /// Begins a message.
    fn spool(&self) -> Self::Spool;

    /// Takes more octets of it.
    fn push(&self, spool: &mut Self::Spool, octets: &[u8]) -> Result<(), DeliverError>;

    /// Ends it. May take a while for a large message; may block.
    fn finish(&self, spool: Self::Spool) -> Result<Self::Message, DeliverError>;

    /// Its Message-ID, if it has one.
    fn message_id(&self, message: &Self::Message) -> Option<String>;

    /// Appends it. Returns when the message is durable and visible.
    fn append(
        &self,
        mailbox: MailboxId,
        message: Self::Message,
        date: InternalDate,
    ) -> impl Future<Output = Result<(), DeliverError>> + Send;
}

/// Why a user's account is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookUpError {
    /// There surely is no such user.
    #[error("no such user")]
    NotFound,
    /// The account exists but takes no mail now: it is being made, moved or is suspended.
    #[error("the account takes no mail now")]
    Closed,
    /// Nobody can say now.
    #[error("the directory is unavailable: {0}")]
    Unavailable(String),
}

/// Why a message was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// The account or the mailbox takes no more.
    #[error("over quota")]
    OverQuota,
    /// Larger than the store takes.
    #[error("the message is too large")]
    TooLarge,
    /// The account or mailbox is gone since RCPT.
    #[error("the mailbox is gone")]
    Gone,
    /// The disk is full.
    #[error("the disk is full")]
    NoSpace,
    /// The store failed; the text is for the operator.
    #[error("{0}")]
    Failed(String),
}
