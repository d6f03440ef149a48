//! What joins the store's mailboxes to the directory's grants: one batch for both.

use rookery_directory::published;
use rookery_kv::{Bytes, Engine};
use rookery_store::Publisher;
use rookery_types::{Acl, MailboxId};
use std::sync::Arc;

/// Keeps the grants of an embedded directory, which is in the store's own engine.
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
        before: Option<&Acl>,
        after: Option<&Acl>,
    ) -> Vec<(Vec<u8>, Option<Bytes>)> {
        published::changes(&*self.0, mailbox, before, after).unwrap_or_else(|error| {
            // The ACL holds all the same; only LIST does not know of it until it is mended.
            tracing::error!(%error, %mailbox.account, "a grant is not listed; `rookery check --repair` lists it");
            Vec::new()
        })
    }
}
