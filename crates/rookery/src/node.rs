//! The running node: what its parts share, and what administrators ask of accounts.

use std::sync::Arc;
use std::time::Duration;

use rookery_auth::{
    AccountState as LoginState, Accounts, Authenticator, CatchUp, Credential, LookUp, LookUpError, Sessions,
    Welcome,
};
use rookery_directory::{
    AccountFilter, AccountState, Alias, AliasName, Commit, CommitError, Directory, DirectoryError,
    EmbeddedDirectory, Entry, Verifier,
};
use rookery_kv::Batch;
use rookery_route::{Administrators, Authority, Registrar, RegistrarError};
use rookery_store::{Store, StoreError};
use rookery_types::{AccountName, UserName};

use crate::config::Config;
use crate::newcomers::Newcomers;

/// Everything that a request of an administrator may need.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) authenticator: Arc<Authenticator>,
    /// The sessions of all protocols.
    pub(crate) sessions: Sessions,
    pub(crate) newcomers: Arc<Newcomers>,
    /// One newcomer's account is made at a time.
    pub(crate) making: tokio::sync::Mutex<()>,
    pub(crate) registrar: Arc<Registrar>,
    pub(crate) administrators: Administrators,
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

/// Logins are checked against the directory's entries, and against the users' file for whom it names.
pub(crate) struct DirectoryAccounts {
    pub(crate) directory: EmbeddedDirectory,
    pub(crate) newcomers: Arc<Newcomers>,
    pub(crate) administrators: Administrators,
}

/// How long the login of somebody unknown, or with a wrong password, waits for a directory that is away, and how often
/// that is asked.
const REFUSED_WAITS: Duration = Duration::from_secs(3);
const ASKED_AGAIN: Duration = Duration::from_millis(50);

impl Accounts for DirectoryAccounts {
    fn look_up<'a>(&'a self, user: &'a UserName) -> LookUp<'a> {
        Box::pin(async move {
            let named = self.newcomers.credential(user).await;
            let entry = match self.directory.look_up(&AccountName::User(user.clone())).await {
                Ok(entry) => entry,
                // Whoever gets an account when let in is let in.
                Err(DirectoryError::NotFound(_)) => {
                    return Ok(named.filter(|_| self.newcomers.are_welcome()));
                }
                Err(error) => return Err(LookUpError(error.to_string())),
            };
            let state = match entry.state {
                AccountState::Active | AccountState::LoginOnly => LoginState::Active,
                AccountState::Suspended => LoginState::Suspended,
                // Being made at this moment, perhaps because its user has just logged in for the first time.
                AccountState::Reserved { .. } => {
                    return Ok(named.filter(|_| self.newcomers.are_welcome()));
                }
                AccountState::Deleted => return Ok(None),
            };
            Ok(Some(match named {
                Some(named) if named.state == LoginState::Suspended => named,
                Some(named) => Credential { state, ..named },
                None => {
                    let verifier = entry.verifier.as_ref().map(|verifier| verifier.as_str().to_owned());
                    Credential { verifier, state }
                }
            }))
        })
    }

    fn catch_up(&self) -> CatchUp<'_> {
        Box::pin(async move {
            let asked = async {
                while self.directory.barrier().await.is_err() {
                    tokio::time::sleep(ASKED_AGAIN).await;
                }
            };
            // Where it cannot be asked the copy's word counts.
            let _ = tokio::time::timeout(REFUSED_WAITS, asked).await;
        })
    }

    fn welcome<'a>(&'a self, user: &'a UserName) -> Welcome<'a> {
        use rookery_route::Newcomers as _;
        Box::pin(async move { self.newcomers.welcome(user).await.map_err(LookUpError) })
    }

    fn stand_in(&self, user: &str) -> Option<String> {
        self.newcomers.stand_in(user)
    }

    fn may_act_as(&self, who: &UserName, _whom: &UserName) -> bool {
        self.administrators.authority(who) == Authority::Site
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
    #[error("{0}")]
    Away(String),
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

impl From<RegistrarError> for NodeError {
    fn from(error: RegistrarError) -> NodeError {
        match error {
            RegistrarError::Exists(name) => NodeError::Exists(name.to_string()),
            RegistrarError::NotFound(name) => NodeError::NotFound(name.to_string()),
            RegistrarError::Refused(why) => NodeError::Usage(why.to_owned()),
            RegistrarError::Name(error) => error.into(),
            RegistrarError::Directory(error) => error.into(),
            RegistrarError::Store(error) => error.into(),
            RegistrarError::NoPlace(why) => NodeError::Away(why),
            RegistrarError::Away(why) => NodeError::Away(why),
            error @ (RegistrarError::Pending(_) | RegistrarError::Busy(_)) => {
                NodeError::Away(error.to_string())
            }
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
            AccountState::Active | AccountState::Suspended | AccountState::LoginOnly => Ok(entry),
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
        self.at_home(&entry)?;
        Ok(self.store.account(entry.id).await?)
    }

    /// Refuses what has to be asked of another node's server.
    pub(crate) fn at_home(&self, entry: &Entry) -> Result<(), NodeError> {
        match entry.home.node == self.store.node() {
            true => Ok(()),
            false => Err(NodeError::Away(format!(
                "{} is at home at node {}; ask the server there (rookery node list)",
                entry.name, entry.home.node
            ))),
        }
    }

    /// Makes the account of a user who is known elsewhere, unless there is one.
    pub(crate) async fn welcome(&self, user: &UserName) -> Result<(), NodeError> {
        if self.entry(user).await.is_ok() {
            return Ok(());
        }
        let _turn = self.making.lock().await;
        match self.entry(user).await {
            Err(NodeError::NotFound(_)) => {
                self.registrar.create(&AccountName::User(user.clone()), None).await?;
                tracing::info!(%user, "made the account of a user of the users' file");
                Ok(())
            }
            found => found.map(drop),
        }
    }

    /// Makes a user's account, or one that is only there to log in.
    pub(crate) async fn add_user(
        &self,
        user: &UserName,
        password: &str,
        login_only: bool,
        at: Option<&str>,
    ) -> Result<(), NodeError> {
        let verifier = self.authenticator.hasher().hash(password.as_bytes()).await?;
        let verifier = Verifier::new(&verifier)?;
        match login_only {
            true => self.registrar.create_login(user, verifier).await?,
            false => self.registrar.create_at(&AccountName::User(user.clone()), Some(verifier), at).await?,
        };
        Ok(())
    }

    /// Changes a user's password.
    pub(crate) async fn set_password(&self, user: &UserName, password: &str) -> Result<(), NodeError> {
        if self.newcomers.credential(user).await.is_some() {
            return Err(NodeError::Usage(format!(
                "the password of {} is in the users' file (auth.passwd_file), and what is stored here would not count",
                self.shown(user)
            )));
        }
        let entry = self.entry(user).await?;
        let verifier = self.authenticator.hasher().hash(password.as_bytes()).await?;
        self.directory.set_verifier(entry.id, Some(Verifier::new(&verifier)?)).await?;
        self.authenticator.forget(user);
        Ok(())
    }

    /// Closes an account to its user, whose sessions end, or opens it again. Mail comes in all the same.
    pub(crate) async fn suspend(&self, user: &UserName, suspended: bool) -> Result<(), NodeError> {
        let entry = self.entry(user).await?;
        if entry.state == AccountState::LoginOnly {
            return Err(NodeError::Usage("who is only there to log in is deleted, not suspended".to_owned()));
        }
        let state = if suspended { AccountState::Suspended } else { AccountState::Active };
        self.directory.set_state(entry.id, state).await?;
        self.authenticator.forget(user);
        match suspended {
            true => self.sessions.close(entry.id),
            false => self.sessions.open(entry.id),
        }
        Ok(())
    }

    /// Makes an alias, or leads it elsewhere. Its targets must take mail.
    pub(crate) async fn set_alias(&self, name: &str, targets: &[String]) -> Result<Alias, NodeError> {
        let name = AliasName::parse(name, &self.config.default_domain)?;
        let mut users = Vec::new();
        for target in targets {
            let user = self.user(target)?;
            let alias = AliasName::Address(user.clone());
            if self.entry(&user).await.is_err()
                && self.newcomers.credential(&user).await.is_none()
                && self.directory.alias(&alias).await?.is_none()
            {
                return Err(NodeError::NotFound(format!("the user or alias {}", self.shown(&user))));
            }
            users.push(user);
        }
        Ok(self.directory.set_alias(name, users).await?)
    }

    /// Forgets an alias.
    pub(crate) async fn remove_alias(&self, name: &str) -> Result<(), NodeError> {
        let name = AliasName::parse(name, &self.config.default_domain)?;
        Ok(self.directory.remove_alias(name).await?)
    }

    /// Deletes a user's account. Asked again, it finishes what was broken off.
    pub(crate) async fn delete_user(&self, user: &UserName) -> Result<(), NodeError> {
        let deleted = self.registrar.delete(&AccountName::User(user.clone())).await;
        self.authenticator.forget(user);
        Ok(deleted?)
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
}
