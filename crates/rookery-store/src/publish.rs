//! What others may see of an account's mailboxes is kept outside of the account, in the same batch as the mailboxes.

use bytes::Bytes;
use rookery_types::{Acl, MailboxId, MailboxPath};

/// What others may see of a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen<'a> {
    /// Its name below the account's root.
    pub path: &'a MailboxPath,
    /// Its rights.
    pub acl: &'a Acl,
}

/// Keeps an index of the mailboxes that others may see.
pub trait Publisher: Send + Sync {
    /// What is to be written to [`rookery_kv::Space::Directory`] where a mailbox was `before` and will be `after`, key
    /// by key; `None` is a mailbox that is not to be seen, and a key to be deleted. Called under the account's lock:
    /// it does not wait for anything but the engine.
    fn changes(
        &self,
        mailbox: MailboxId,
        before: Option<Seen<'_>>,
        after: Option<Seen<'_>>,
    ) -> Vec<(Vec<u8>, Option<Bytes>)>;
}
