//! What joins the store's mailboxes to those that the directory publishes: one batch for both.

use rookery_directory::published;
use rookery_kv::{Bytes, Engine};
use rookery_store::{Publisher, Seen};
use rookery_types::MailboxId;
use std::sync::Arc;

/// Publishes to an embedded directory, which is in the store's own engine, in the batch of the change.
pub struct Publications(Arc<dyn Engine>);

impl Publications {
    /// `engine`: that of both.
    pub fn new(engine: Arc<dyn Engine>) -> Publications {
        Publications(engine)
    }
}

impl Publisher for Publications {
    fn changes(
        &self,
        mailbox: MailboxId,
        _before: Option<Seen<'_>>,
        after: Option<Seen<'_>>,
    ) -> Vec<(Vec<u8>, Option<Bytes>)> {
        let after = after.map(|seen| (seen.path, seen.acl));
        published::changes(&*self.0, mailbox, after).unwrap_or_else(|error| {
            // The ACL holds all the same; only LIST does not know of it until it is mended.
            tracing::error!(%error, %mailbox.account, "a shared mailbox is not listed; `rookery check --repair` lists it");
            Vec::new()
        })
    }
}
