//! The real [`Backing`]: recipients by the router, messages into the store.

use std::sync::Arc;

use bytes::Bytes;
use rookery_route::{Route, RouteError, Router, Target};
use rookery_store::{Account, NewMessage, Settled, Spool, Spooled, Store, StoreError, Whereabouts};
use rookery_types::acl::Asker;
use rookery_types::{
    AccountId, AccountName, Address, InternalDate, MailboxId, MailboxPath, OperationId, Rights, SystemFlags,
    UserName,
};

use crate::backing::{Backing, DeliverError, Delivered, LookUpError, Once, Place};

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

/// The directory is away: the MTA tries again, rather than that the message ends in another mailbox.
fn failed(error: RouteError) -> DeliverError {
    DeliverError::Failed(error.to_string())
}

impl From<RouteError> for LookUpError {
    fn from(error: RouteError) -> LookUpError {
        match error {
            RouteError::Name(_) | RouteError::NonExistent(_) => LookUpError::NotFound,
            RouteError::Unavailable(error) => LookUpError::Unavailable(error.to_string()),
        }
    }
}

impl From<StoreError> for DeliverError {
    fn from(error: StoreError) -> DeliverError {
        match error {
            StoreError::OverQuota => DeliverError::OverQuota,
            StoreError::TooLarge(_) => DeliverError::TooLarge,
            StoreError::Nul(_) => DeliverError::Nul,
            StoreError::NoAccount | StoreError::NoMailbox => DeliverError::Gone,
            StoreError::NoSpace => DeliverError::NoSpace,
            StoreError::Moved => DeliverError::Moved,
            StoreError::GivenUp => DeliverError::GivenUp,
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

    async fn look_up(&self, user: &UserName) -> Result<Vec<Place>, LookUpError> {
        let place = |target: Target| match (target.route, target.address.account()) {
            (Route::Here { account }, _) => Some(Place::Here(account)),
            (Route::Proxy(node), AccountName::User(user)) => Some(Place::At(node, user.clone())),
            // Mail is delivered to users alone.
            (Route::Proxy(_), _) => None,
        };
        Ok(self.router.deliver_to(user).await?.into_iter().filter_map(place).collect())
    }

    async fn at_home(&self, user: &UserName) -> Result<Place, LookUpError> {
        Ok(match self.router.target(Address::inbox(user.clone())).await?.route {
            Route::Here { account } => Place::Here(account),
            Route::Proxy(node) => Place::At(node, user.clone()),
        })
    }

    async fn whither(&self, account: AccountId) -> Result<Option<Place>, DeliverError> {
        Ok(match self.store.standing(account)? {
            Some((Whereabouts::Here, _)) => Some(Place::Here(account)),
            Some((Whereabouts::Left { node, .. }, _)) => {
                let owner = self.store.account_record(account)?.and_then(|record| record.owner);
                owner.map(|user| Place::At(node, user))
            }
            None => None,
        })
    }

    async fn read(&self, message: &Spooled, from: u64, octets: usize) -> Result<Bytes, DeliverError> {
        let message = message.clone();
        let read = tokio::task::spawn_blocking(move || message.read(from, octets)).await;
        Ok(read.map_err(|error| DeliverError::Failed(error.to_string()))??)
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
        // They count for a detail's mailbox alone: INBOX takes what comes. Another domain's groups are others, whatever
        // their names.
        let is_neighbour = |author: &&UserName| {
            account.owner().as_ref().is_some_and(|owner| owner.domain() == author.domain())
        };
        let groups = match author.filter(is_neighbour) {
            Some(author) if detail.is_some() => self.router.groups_of(author).await.map_err(failed)?,
            _ => Vec::new(),
        };
        let asker = Asker { user: author, groups: &groups, owner, administrator: false };
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

    async fn finish(&self, spool: Spool) -> Result<Spooled, DeliverError> {
        Ok(spool.finished_without_nul().await?)
    }

    async fn append(
        &self,
        mailbox: MailboxId,
        message: Spooled,
        date: InternalDate,
        once: Option<&Once>,
        operations: &[OperationId],
    ) -> Result<Delivered, DeliverError> {
        let account = self.store.account(mailbox.account).await?;
        let once = once.zip(message.message_id()).map(|(once, message_id)| rookery_store::Once {
            sender: once.sender.clone(),
            message_id: message_id.to_owned(),
            window: once.window,
        });
        let message = NewMessage { body: message, flags: SystemFlags::NONE, keywords: Vec::new(), date };
        match append(&account, mailbox, message.clone(), once.as_ref(), operations).await {
            Err(StoreError::NoMailbox) => {
                // The mailbox of a detail went away since it was looked up; INBOX never does.
                let inbox = account.tree().get(&MailboxPath::inbox()).ok_or(DeliverError::Gone)?;
                Ok(append(&account, inbox, message, once.as_ref(), operations).await?)
            }
            other => Ok(other?),
        }
    }

    async fn settle(&self, account: AccountId, operation: OperationId) -> Result<bool, DeliverError> {
        let account = self.store.account(account).await?;
        Ok(matches!(account.settle_operation(operation).await?, Settled::Appended(_)))
    }
}

async fn append(
    account: &Account,
    mailbox: MailboxId,
    message: NewMessage,
    once: Option<&rookery_store::Once>,
    operations: &[OperationId],
) -> Result<Delivered, StoreError> {
    let stored = match once {
        Some(once) => account.append_once(mailbox, message, once, operations).await?.is_some(),
        None => account.append_as(operations, mailbox, vec![message]).await.map(|_| true)?,
    };
    Ok(if stored { Delivered::Stored } else { Delivered::Before })
}
