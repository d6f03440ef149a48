//! What others may see of an account's mailboxes is kept outside of the account. What changes of it goes into an
//! outbox in the same batch as the mailboxes, and from there to the directory.

use bytes::Bytes;
use rookery_types::{Acl, MailboxId, MailboxPath, SpecialUse};
use std::future::Future;
use std::pin::Pin;

/// What others may see of a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen<'a> {
    /// Its name below the account's root.
    pub path: &'a MailboxPath,
    /// Its rights.
    pub acl: &'a Acl,
    /// What it is for.
    pub special_use: &'a [SpecialUse],
}

/// A mailbox that others may see differently, or of which that was set to what it was; `None`: it was not there, or is
/// not to be seen any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenChange<'a> {
    /// Which.
    pub mailbox: MailboxId,
    /// As it was.
    pub before: Option<Seen<'a>>,
    /// As it will be.
    pub after: Option<Seen<'a>>,
}

/// What a change leaves to be published.
pub struct Outbox {
    /// Written to [`rookery_kv::Space::Directory`] in the batch of the change.
    pub writes: Vec<(Vec<u8>, Bytes)>,
    /// Called when the change is durable; dropped if it will never be.
    pub durable: Box<dyn FnOnce() + Send>,
    /// Ends when others see the change, or with false when that takes too long.
    pub published: Pin<Box<dyn Future<Output = bool> + Send>>,
}

/// Publishes what others may see.
pub trait Publisher: Send + Sync {
    /// What is to be published of a change; `None`: nothing. Called under the account's lock: it does not wait for
    /// anything but the engine.
    fn changes(&self, changes: &[SeenChange<'_>]) -> Option<Outbox>;
}
