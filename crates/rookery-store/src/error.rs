//! What can go wrong in the store, and whose fault it is.

use crate::committer::CommitError;
use crate::encoding::Damaged;
use crate::volume::VolumeError;
use rookery_kv::CutOff;
use rookery_kv::engine::EngineError;
use rookery_mime::NulOutside;
use rookery_types::MailboxId;

/// Why a request to the store failed. Its text is for the operator; sessions have their own words for clients.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such account here.
    #[error("no such account")]
    NoAccount,
    /// The account's home is another node: nothing was changed here, nor will be.
    #[error("the account's home is another node")]
    Moved,
    /// Another node asked for something that cannot be.
    #[error("{0}")]
    Refused(&'static str),
    /// There is no such mailbox, or no more.
    #[error("no such mailbox")]
    NoMailbox,
    /// The name is taken.
    #[error("a mailbox of that name exists")]
    AlreadyExists,
    /// The name cannot be given, or the mailbox not be renamed or deleted.
    #[error("the mailbox cannot have that name, or not lose it")]
    InvalidName,
    /// The quota does not allow it.
    #[error("the quota does not allow it")]
    OverQuota,
    /// There are as many of something as an account or mailbox can have.
    #[error("there are as many {0} as there can be")]
    TooMany(&'static str),
    /// The mailbox has as many keywords as it may have.
    #[error("mailbox {0} has too many keywords")]
    TooManyKeywords(MailboxId),
    /// Numbers have run out.
    #[error("the {0} of a mailbox or account have run out")]
    Exhausted(&'static str),
    /// The messages are on their way to another home, or the mailbox has such.
    #[error("the messages are being moved to another home")]
    InUse,
    /// It was asked what came of this change before it came, and the answer was that it never will.
    #[error("the operation was given up before it came")]
    GivenUp,
    /// A message that was to be read is not there any more.
    #[error("the message's octets are gone")]
    NoContent,
    /// The message is larger than the store takes.
    #[error("the message has more than {0} octets")]
    TooLarge(u64),
    /// The message has NUL where no transfer encoding can be put over it (RFC 3516 §4.4).
    #[error(transparent)]
    Nul(#[from] NulOutside),
    /// The disk is nearly full: nothing new is taken, deletions are.
    #[error("the disk is nearly full")]
    NoSpace,
    /// The change could not be made durable.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A record is damaged.
    #[error(transparent)]
    Damaged(Damaged),
    /// The engine failed.
    #[error("the metadata engine failed")]
    Engine(#[from] EngineError),
    /// A volume failed.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A blocking task of ours ended early.
    #[error("a store task was cut off")]
    CutOff,
}

impl From<CutOff> for StoreError {
    fn from(_: CutOff) -> StoreError {
        StoreError::CutOff
    }
}

impl StoreError {
    /// Whether the server is at fault, so that an operator must hear of it.
    pub fn is_server_fault(&self) -> bool {
        !matches!(self, StoreError::Commit(CommitError::Unpublished))
            && matches!(
                self,
                StoreError::Commit(_)
                    | StoreError::Damaged(_)
                    | StoreError::Engine(_)
                    | StoreError::Volume(_)
                    | StoreError::NoContent
                    | StoreError::Exhausted(_)
                    | StoreError::CutOff
            )
    }
}
