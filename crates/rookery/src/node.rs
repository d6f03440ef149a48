//! The running node: what its parts share, and accounts as a whole (directory entry and store account together).
//!
//! Invariants:
//! - An account is made in the order reserve → store → activate, and taken apart in the order close → store →
//!   remove. Whatever a crash leaves is resolved by [`Node::resolve_reservations`] or by asking again.

use std::sync::Arc;

use rookery_auth::{AccountState as LoginState, Accounts, Authenticator, Credential, LookUp, LookUpError};
use rookery_directory::{
    AccountFilter, AccountState, Commit, CommitError, Directory, DirectoryError, EmbeddedDirectory, Entry,
    Home, Verifier,
};
use rookery_kv::Batch;
use rookery_store::{NewAccount, Store, StoreError};
use rookery_types::{AccountName, Address, Epoch, MailboxPath, UserName};

use crate::config::Config;

/// Everything that a request of an administrator may need.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) authenticator: Arc<Authenticator>,
}

/// The directory writes through the store's one committer.
pub(crate) struct ThroughStore(pub(crate) Store);

impl Commit for ThroughStore {
    fn commit(
        &self,
        batch: Batch,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        let store = self.0.clone();
        Box::pin(
            async move { store.commit_foreign(batch).await.map_err(|error| CommitError(error.to_string())) },
        )
    }
}

/// Logins are checked against the directory's entries.
pub(crate) struct DirectoryAccounts {
    pub(crate) directory: EmbeddedDirectory,
    pub(crate) admins: Vec<UserName>,
}

impl Accounts for DirectoryAccounts {
    fn look_up<'a>(&'a self, user: &'a UserName) -> LookUp<'a> {
        Box::pin(async move {
            let entry = match self.directory.look_up(&AccountName::User(user.clone())).await {
                Ok(entry) => entry,
                Err(DirectoryError::NotFound(_)) => return Ok(None),
                Err(error) => return Err(LookUpError(error.to_string())),
            };
            let state = match entry.state {
                AccountState::Active => LoginState::Active,
                AccountState::Suspended => LoginState::Suspended,
                AccountState::Reserved { .. } | AccountState::Deleted => return Ok(None),
            };
            let verifier = entry.verifier.as_ref().map(|verifier| verifier.as_str().to_owned());
            Ok(Some(Credential { verifier, state }))
        })
    }

    fn may_act_as(&self, who: &UserName, _whom: &UserName) -> bool {
        self.admins.contains(who)
    }
}

/// Why something about an account was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("{0}")]
    Name(#[from] rookery_types::NameError),
    #[error("{0} exists already")]
    Exists(String),
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("{0}")]
    Usage(String),
    #[error("the password cannot be hashed: {0}")]
    Password(#[from] rookery_auth::HashError),
    #[error(transparent)]
    Directory(DirectoryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DirectoryError> for NodeError {
    fn from(error: DirectoryError) -> NodeError {
        match error {
            DirectoryError::NotFound(what) => NodeError::NotFound(what),
            DirectoryError::Exists(what) => NodeError::Exists(what),
            other => NodeError::Directory(other),
        }
    }
}

impl Node {
    /// Reads a user's name as an administrator writes it.
    pub(crate) fn user(&self, name: &str) -> Result<UserName, NodeError> {
        Ok(UserName::parse(name, &self.config.default_domain)?)
    }

    /// As an administrator reads it.
    pub(crate) fn shown(&self, user: &UserName) -> String {
        user.shown(&self.config.default_domain).to_owned()
    }

    /// The directory's entry of a user that is not about to be made or gone.
    pub(crate) async fn entry(&self, user: &UserName) -> Result<Arc<Entry>, NodeError> {
        let entry = self.any_entry(user).await?;
        match entry.state {
            AccountState::Active | AccountState::Suspended => Ok(entry),
            AccountState::Reserved { .. } | AccountState::Deleted => {
                Err(NodeError::NotFound(format!("the user {}", self.shown(user))))
            }
        }
    }

    async fn any_entry(&self, user: &UserName) -> Result<Arc<Entry>, NodeError> {
        self.directory.look_up(&AccountName::User(user.clone())).await.map_err(|error| match error {
            DirectoryError::NotFound(_) => NodeError::NotFound(format!("the user {}", self.shown(user))),
            other => other.into(),
        })
    }

    /// The store's account of a user.
    pub(crate) async fn account(&self, user: &UserName) -> Result<rookery_store::Account, NodeError> {
        let entry = self.entry(user).await?;
        Ok(self.store.account(entry.id).await?)
    }

    /// Makes a user's account.
    pub(crate) async fn add_user(&self, user: &UserName, password: &str) -> Result<(), NodeError> {
        let verifier = self.authenticator.hasher().hash(password.as_bytes()).await?;
        let verifier = Verifier::new(&verifier)?;
        match self.directory.add_domain(user.domain().to_owned()).await {
            Ok(_) | Err(DirectoryError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let home = Home { node: self.store.node(), store: self.store.store_id(), epoch: Epoch(1) };
        let entry =
            self.directory.reserve(AccountName::User(user.clone()), home, rand::random()).await.map_err(
                |error| match error {
                    DirectoryError::Exists(_) => NodeError::Exists(format!("the user {}", self.shown(user))),
                    other => other.into(),
                },
            )?;
        let made = self.make_account(user, &entry, verifier).await;
        if made.is_err() {
            // Best effort: what stays is resolved at the next start.
            let _ = self.store.delete_account(entry.id).await;
            let _ = self.directory.remove(entry.id).await;
        }
        made
    }

    async fn make_account(
        &self,
        user: &UserName,
        entry: &Entry,
        verifier: Verifier,
    ) -> Result<(), NodeError> {
        self.directory.set_verifier(entry.id, Some(verifier)).await?;
        let mut mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
        mailboxes.extend(self.config.accounts.parsed().map_err(NodeError::Usage)?);
        let address = |path: &MailboxPath| Address::new(AccountName::User(user.clone()), path.clone());
        let subscriptions = mailboxes
            .iter()
            .map(|(path, _)| Ok(address(path)?.to_string()))
            .collect::<Result<Vec<_>, NodeError>>()?;
        let new = NewAccount { owner: Some(user.clone()), mailboxes, subscriptions };
        self.store.create_account(entry.id, new).await?;
        self.directory.activate(entry.id).await?;
        Ok(())
    }

    /// Changes a user's password.
    pub(crate) async fn set_password(&self, user: &UserName, password: &str) -> Result<(), NodeError> {
        let entry = self.entry(user).await?;
        let verifier = self.authenticator.hasher().hash(password.as_bytes()).await?;
        self.directory.set_verifier(entry.id, Some(Verifier::new(&verifier)?)).await?;
        self.authenticator.forget(user);
        Ok(())
    }

    /// Deletes a user's account. Asked again, it finishes what was broken off.
    pub(crate) async fn delete_user(&self, user: &UserName) -> Result<(), NodeError> {
        let entry = self.any_entry(user).await?;
        match entry.state {
            AccountState::Reserved { .. } => {
                return Err(NodeError::NotFound(format!("the user {}", self.shown(user))));
            }
            AccountState::Deleted => {}
            AccountState::Active | AccountState::Suspended => {
                self.directory.set_state(entry.id, AccountState::Deleted).await?;
            }
        }
        self.authenticator.forget(user);
        match self.store.delete_account(entry.id).await {
            Ok(()) | Err(StoreError::NoAccount) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.directory.remove(entry.id).await?)
    }

    /// A page of users, and where the next begins.
    pub(crate) async fn users(
        &self,
        after: Option<AccountName>,
    ) -> Result<(Vec<Entry>, Option<AccountName>), NodeError> {
        let filter = AccountFilter { shared: Some(false), ..AccountFilter::default() };
        let page = self.directory.list(filter, after, rookery_directory::PAGE_MAX).await?;
        Ok((page.entries, page.next))
    }

    /// Whether there is no user yet.
    pub(crate) async fn is_empty(&self) -> Result<bool, NodeError> {
        let page = self.directory.list(AccountFilter::default(), None, 1).await?;
        Ok(page.entries.is_empty() && page.next.is_none())
    }

    /// Ends what a crash left half made: an account that the store has becomes active, the others' names are
    /// given back. Call it before anybody can make accounts.
    pub(crate) async fn resolve_reservations(&self) -> Result<(), NodeError> {
        let mut after = None;
        loop {
            let page = self.directory.reservations(after, rookery_directory::PAGE_MAX).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for entry in page.iter().filter(|entry| entry.home.store == self.store.store_id()) {
                match self.store.account(entry.id).await {
                    Ok(_) => drop(self.directory.activate(entry.id).await?),
                    Err(StoreError::NoAccount) => self.directory.remove(entry.id).await?,
                    Err(error) => return Err(error.into()),
                }
                tracing::info!(account = %entry.name, "resolved an account that was being made when the server stopped");
            }
        }
    }
}
