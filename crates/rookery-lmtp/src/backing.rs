//! What a session needs of the house below it, as one trait, so that sessions can be tested without a disk.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, NodeId, OperationId, UserName};

/// Where recipients are looked up and messages go.
pub trait Backing: Send + Sync + 'static {
    /// A message while it comes in. Dropping it stores nothing.
    type Spool: Send + 'static;
    /// A whole message, which can be appended to many mailboxes.
    type Message: Clone + Send + Sync + 'static;

    /// Where mail for an address goes; not nowhere.
    fn look_up(&self, user: &UserName) -> impl Future<Output = Result<Vec<Place>, LookUpError>> + Send;

    /// Where the account is of a user for whom another node has sent a message here, following no aliases.
    fn at_home(&self, user: &UserName) -> impl Future<Output = Result<Place, LookUpError>> + Send;

    /// Where an account is that was here; `None`: it is not served anywhere at the moment.
    fn whither(&self, account: AccountId)
    -> impl Future<Output = Result<Option<Place>, DeliverError>> + Send;

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

    /// Ends it. NUL, which only BINARYMIME brings, is put under a transfer encoding. May take a while for a large message.
    fn finish(&self, spool: Self::Spool) -> impl Future<Output = Result<Self::Message, DeliverError>> + Send;

    /// Some octets of it; none at its end.
    fn read(
        &self,
        message: &Self::Message,
        from: u64,
        octets: usize,
    ) -> impl Future<Output = Result<Bytes, DeliverError>> + Send;

    /// Appends it. Returns when the message is durable and visible. `once`: not if one with its Message-ID, if it has
    /// one, was appended to the mailbox before. `operations`: the ids by which another node asks for it. If one of them
    /// is done already, nothing is appended.
    fn append(
        &self,
        mailbox: MailboxId,
        message: Self::Message,
        date: InternalDate,
        once: Option<&Once>,
        operations: &[OperationId],
    ) -> impl Future<Output = Result<Delivered, DeliverError>> + Send;

    /// Whether an operation was done in an account. If not, it never will be.
    fn settle(
        &self,
        account: AccountId,
        operation: OperationId,
    ) -> impl Future<Output = Result<bool, DeliverError>> + Send;
}

/// Where the mail for one user goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into an account of this node.
    Here(AccountId),
    /// To another node, where the user's account is at home.
    At(NodeId, UserName),
}

/// Which messages are not stored a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The envelope's sender; empty for `<>`.
    pub sender: String,
    /// For how long a delivery is remembered.
    pub window: Duration,
}

/// What became of a message that a mailbox has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It was stored.
    Stored,
    /// It was there already.
    Before,
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
    /// It has NUL where no transfer encoding can be put over it.
    #[error("a NUL octet")]
    Nul,
    /// The account or mailbox is gone since RCPT.
    #[error("the mailbox is gone")]
    Gone,
    /// The disk is full.
    #[error("the disk is full")]
    NoSpace,
    /// The account has left for another node; nothing was stored.
    #[error("the account is at home at another node")]
    Moved,
    /// It was asked what became of this delivery before it came, and the answer was that it never will be made.
    #[error("the delivery was broken off on its way, and given up")]
    GivenUp,
    /// The store failed; the text is for the operator.
    #[error("{0}")]
    Failed(String),
}
