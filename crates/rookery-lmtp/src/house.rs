//! The real [`Backing`]: recipients by the router, messages into the store.

use std::sync::Arc;

use rookery_route::{Route, RouteError, Router, Target};
use rookery_store::{NewMessage, Spool, Spooled, Store, StoreError};
use rookery_types::acl::Asker;
use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, Rights, SystemFlags, UserName};

use crate::backing::{Backing, DeliverError, LookUpError};

/// Directory and store of this node.
#[derive(Clone)]
pub struct House {
    store: Store,
    router: Arc<Router>,
}

impl House {
    /// Both of one node.
    pub fn new(store: Store, router: Arc<Router>) -> House {
        House { store, router }
    }
}

impl From<StoreError> for DeliverError {
    fn from(error: StoreError) -> DeliverError {
        match error {
            StoreError::OverQuota => DeliverError::OverQuota,
            StoreError::TooLarge(_) => DeliverError::TooLarge,
            StoreError::NoAccount | StoreError::NoMailbox => DeliverError::Gone,
            StoreError::NoSpace => DeliverError::NoSpace,
            other => {
                // The whole chain: what stands behind "the engine failed" is what the operator needs.
                let mut text = other.to_string();
                let mut cause = std::error::Error::source(&other);
                while let Some(error) = cause {
                    text = format!("{text}: {error}");
                    cause = error.source();
                }
                DeliverError::Failed(text)
            }
        }
    }
}

impl Backing for House {
    type Spool = Spool;
    type Message = Spooled;

    async fn look_up(&self, user: &UserName) -> Result<Vec<AccountId>, LookUpError> {
        let targets = match self.router.deliver_to(user).await {
            Ok(targets) => targets,
            Err(RouteError::Name(_) | RouteError::NonExistent(_)) => return Err(LookUpError::NotFound),
            Err(RouteError::Unavailable(error)) => return Err(LookUpError::Unavailable(error.to_string())),
        };
        let account = |target: Target| match target.route {
            Route::Here { account } => Ok(account),
            Route::Proxy(node) => Err(LookUpError::Unavailable(format!(
                "the account is at node {}, which is not relayed to",
                node.0
            ))),
        };
        targets.into_iter().map(account).collect()
    }

    async fn target(
        &self,
        account: AccountId,
        detail: Option<&MailboxPath>,
        author: Option<&UserName>,
    ) -> Result<MailboxId, DeliverError> {
        let account = self.store.account(account).await?;
        let tree = account.tree();
        let owner = author.is_some() && account.owner().as_ref() == author;
        let asker = Asker { user: author, groups: &[], owner, administrator: false };
        let may_post = |id: &MailboxId| {
            tree.state(*id).is_some_and(|state| state.settings.acl.rights_of(&asker).contains(Rights::POST))
        };
        detail
            .and_then(|path| tree.get(path))
            .filter(may_post)
            .or_else(|| tree.get(&MailboxPath::inbox()))
            .ok_or(DeliverError::Gone)
    }

    fn spool(&self) -> Spool {
        self.store.spool()
    }

    fn push(&self, spool: &mut Spool, octets: &[u8]) -> Result<(), DeliverError> {
        Ok(spool.push(octets)?)
    }

    fn finish(&self, spool: Spool) -> Result<Spooled, DeliverError> {
        Ok(spool.finish()?)
    }

    fn message_id(&self, message: &Spooled) -> Option<String> {
        message.message_id().map(str::to_owned)
    }

    async fn append(
        &self,
        mailbox: MailboxId,
        message: Spooled,
        date: InternalDate,
    ) -> Result<(), DeliverError> {
        let account = self.store.account(mailbox.account).await?;
        let message = NewMessage { body: message, flags: SystemFlags::NONE, keywords: Vec::new(), date };
        match account.append(mailbox, vec![message.clone()]).await {
            Err(StoreError::NoMailbox) => {
                // The mailbox of a detail went away since it was looked up; INBOX never does.
                let inbox = account.tree().get(&MailboxPath::inbox()).ok_or(DeliverError::Gone)?;
                account.append(inbox, vec![message]).await?;
            }
            other => {
                other?;
            }
        }
        Ok(())
    }
}
