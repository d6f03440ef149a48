//! Accounts as a whole: the directory's entry and the store's account together.
//!
//! Invariants:
//! - An account is made in the order reserve, store, activate, and taken apart in the order close, store, remove.
//!   Whatever a crash leaves, here or at who asked, is resolved by the account's home ([`Registrar::keep_resolving`])
//!   or by asking again.
//! - A renamed account has its new name in the directory first; [`Registrar::settle`] brings the store after it, at
//!   the latest when its user logs in.
//! - An account stays in its domain.

use crate::Coming;
use parking_lot::Mutex;
use rookery_directory::{AccountState, Directory, DirectoryError, Entry, Home, PAGE_MAX, Verifier};
use rookery_store::{Account, CommitError, NewAccount, Store, StoreError};
use rookery_types::{
    AccountId, AccountName, Address, Epoch, MailboxPath, NameError, NodeId, SpecialUse, StoreId, UserName,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Whoever makes an account has given it up by then: no step of it takes so long.
const ABANDONED: Duration = Duration::from_secs(60);
/// How often the home looks for what was given up.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// When what could not be resolved is tried again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// Why something about an account was not done.
#[derive(Debug, thiserror::Error)]
pub enum RegistrarError {
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(AccountName),
    /// There is no such account.
    #[error("{0} does not exist")]
    NotFound(AccountName),
    /// What is asked cannot be, whatever the accounts are.
    #[error("{0}")]
    Refused(&'static str),
    /// A name cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The directory did not do it.
    #[error(transparent)]
    Directory(DirectoryError),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No node takes the account, or not the one that was named; why not.
    #[error("{0}")]
    NoPlace(String),
    /// An account of that name is half made, or half taken apart.
    #[error("{0} is being made or deleted; try again in a minute")]
    Busy(AccountName),
    /// Another node, which has or is to have the account, did not do its part.
    #[error("{0}")]
    Away(String),
    /// Something was begun that goes on by itself, or is undone: that is for the account's home. Why it is not known now.
    #[error("{0}; it goes on by itself, or is undone: outcome pending")]
    Pending(String),
}

/// What the home of an account does when it is made, renamed or taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccountTask {
    /// The account's tree is to be made.
    Make {
        /// Its id.
        id: AccountId,
        /// Its name.
        name: AccountName,
    },
    /// It is to be taken away.
    Delete {
        /// Its id.
        id: AccountId,
    },
    /// It has another name.
    Settle {
        /// Its id.
        id: AccountId,
        /// Its name now.
        name: AccountName,
    },
}

impl AccountTask {
    /// Of which account.
    pub fn id(&self) -> AccountId {
        match self {
            AccountTask::Make { id, .. } | AccountTask::Delete { id } | AccountTask::Settle { id, .. } => *id,
        }
    }
}

/// Where accounts are, and how another home does its part.
pub trait Homes: Send + Sync + 'static {
    /// The node, and its store, that a new account is to be at home at: the one of this name, if one is named.
    fn place<'a>(
        &'a self,
        name: &'a AccountName,
        at: Option<&'a str>,
    ) -> Coming<'a, Result<(NodeId, StoreId), RegistrarError>>;

    /// Whether an account that comes back, from a backup or from what was deleted, may be at home here; if not, why not.
    fn takes_here(&self) -> Coming<'_, Result<(), RegistrarError>>;

    /// Has another node do something. [`RegistrarError::Away`]: it may have done it.
    fn ask(&self, node: NodeId, task: AccountTask) -> Coming<'_, Result<(), RegistrarError>>;
}

/// All accounts are here.
struct OneHome {
    node: NodeId,
    store: StoreId,
}

impl Homes for OneHome {
    fn place<'a>(
        &'a self,
        _name: &'a AccountName,
        at: Option<&'a str>,
    ) -> Coming<'a, Result<(NodeId, StoreId), RegistrarError>> {
        Box::pin(async move {
            match at {
                Some(at) => {
                    Err(RegistrarError::NoPlace(format!("There is no node {at}; this server is alone")))
                }
                None => Ok((self.node, self.store)),
            }
        })
    }

    fn takes_here(&self) -> Coming<'_, Result<(), RegistrarError>> {
        Box::pin(async { Ok(()) })
    }

    fn ask(&self, node: NodeId, _task: AccountTask) -> Coming<'_, Result<(), RegistrarError>> {
        Box::pin(async move { Err(RegistrarError::Away(format!("node {node} is not linked with"))) })
    }
}

/// Makes accounts, renames them and takes them apart.
pub struct Registrar {
    directory: Arc<dyn Directory>,
    store: Store,
    homes: Arc<dyn Homes>,
    /// What a user's new account has besides INBOX.
    mailboxes: Vec<(MailboxPath, Vec<SpecialUse>)>,
    /// Held while an account is made for another node, and alone while what is abandoned is given back.
    making: tokio::sync::RwLock<()>,
    asked: Mutex<Asked>,
}

/// What other nodes have asked for of accounts that are being made here. A connection that is lost lets a later request
/// overtake an earlier one, and whoever made the account for nothing gives its name back then.
#[derive(Default)]
struct Asked {
    /// Those that are being made, and how often at once.
    made: BTreeMap<AccountId, u32>,
    /// Those that were taken back, and when. None of them is made any more.
    taken_back: BTreeMap<AccountId, Instant>,
}

/// An account that is being made, until this is dropped.
struct BeingMade<'a> {
    asked: &'a Mutex<Asked>,
    id: AccountId,
}

impl Drop for BeingMade<'_> {
    fn drop(&mut self) {
        let made = &mut self.asked.lock().made;
        match made.get_mut(&self.id) {
            Some(times) if *times > 1 => *times -= 1,
            _ => drop(made.remove(&self.id)),
        }
    }
}

impl Registrar {
    /// `mailboxes`: what a user's new account has besides INBOX, and is subscribed to.
    pub fn new(
        directory: Arc<dyn Directory>,
        store: Store,
        mailboxes: Vec<(MailboxPath, Vec<SpecialUse>)>,
    ) -> Registrar {
        let homes = Arc::new(OneHome { node: store.node(), store: store.store_id() });
        let making = tokio::sync::RwLock::default();
        Registrar { directory, store, homes, mailboxes, making, asked: Mutex::default() }
    }

    /// The same, with accounts at other nodes, too.
    pub fn with_homes(self, homes: Arc<dyn Homes>) -> Registrar {
        Registrar { homes, ..self }
    }

    /// Does the home's part of something.
    async fn at_home(&self, home: Home, task: AccountTask) -> Result<(), RegistrarError> {
        match home.node == self.store.node() {
            true => self.perform(task).await,
            false => self.homes.ask(home.node, task).await,
        }
    }

    /// Does this node's part of something that another node asks for. What is asked again is done once.
    pub async fn perform(&self, task: AccountTask) -> Result<(), RegistrarError> {
        match task {
            AccountTask::Make { id, name } => {
                match self.store.create_account(id, self.new_account(&name)?).await {
                    // What a crash left half done is finished.
                    Ok(_) | Err(StoreError::AlreadyExists) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            AccountTask::Delete { id } => match self.store.delete_account(id).await {
                Ok(()) => Ok(()),
                Err(StoreError::NoAccount) => self.is_certain(),
                // With its entry the directory forgets what the account published.
                Err(StoreError::Commit(CommitError::Unpublished)) => Ok(()),
                Err(error) => Err(error.into()),
            },
            AccountTask::Settle { id, name } => {
                let account = self.store.account(id).await?;
                Ok(self.settle(&account, &name).await?)
            }
        }
    }

    /// That the store does not have an account is certain unless a write has failed: then the next start tells.
    fn is_certain(&self) -> Result<(), RegistrarError> {
        self.store.read_only_because().map_or(Ok(()), |why| Err(RegistrarError::Away(why)))
    }

    /// The same for a node that asks over a link: what is not at home here is not done.
    pub async fn perform_for(&self, task: AccountTask) -> Result<(), RegistrarError> {
        let _making = self.making.read().await;
        let _being_made = match task {
            AccountTask::Make { id, .. } => Some(self.being_made(id)),
            AccountTask::Delete { .. } | AccountTask::Settle { .. } => None,
        };
        self.directory.barrier().await.map_err(RegistrarError::Directory)?;
        let entry = self.directory.by_id(task.id()).await.map_err(RegistrarError::Directory)?;
        if (entry.home.node, entry.home.store) != (self.store.node(), self.store.store_id()) {
            return Err(RegistrarError::Away("the account is not at home there".to_owned()));
        }
        // What is to be done must follow from the directory: nobody deletes an account by asking its home alone.
        let follows = match (&task, entry.state) {
            (AccountTask::Make { name, .. }, AccountState::Reserved { .. } | AccountState::LoginOnly)
            | (AccountTask::Settle { name, .. }, AccountState::Active | AccountState::Suspended) => {
                *name == entry.name
            }
            (AccountTask::Delete { .. }, AccountState::Reserved { .. } | AccountState::Deleted) => true,
            _ => false,
        };
        match follows {
            true if self.may_overtake(&task, entry.state) => self.perform(task).await,
            true => Err(RegistrarError::Away("the account is being made, or was taken back".to_owned())),
            false => Err(RegistrarError::Away("the directory says otherwise".to_owned())),
        }
    }

    fn being_made(&self, id: AccountId) -> BeingMade<'_> {
        *self.asked.lock().made.entry(id).or_default() += 1;
        BeingMade { asked: &self.asked, id }
    }

    /// Whether nothing else that was asked for of the account is in the way.
    fn may_overtake(&self, task: &AccountTask, state: AccountState) -> bool {
        let mut asked = self.asked.lock();
        match task {
            AccountTask::Make { id, .. } => !asked.taken_back.contains_key(id),
            AccountTask::Delete { id } if asked.made.contains_key(id) => false,
            AccountTask::Delete { id } => {
                if let AccountState::Reserved { .. } = state {
                    let now = Instant::now();
                    asked.taken_back.retain(|_, since| now.duration_since(*since) < ABANDONED);
                    asked.taken_back.insert(*id, now);
                }
                true
            }
            AccountTask::Settle { .. } => true,
        }
    }

    async fn entry(&self, name: &AccountName) -> Result<Option<Arc<Entry>>, RegistrarError> {
        match self.directory.look_up(name).await {
            Ok(entry) => Ok(Some(entry)),
            Err(DirectoryError::NotFound(_)) => Ok(None),
            Err(error) => Err(RegistrarError::Directory(error)),
        }
    }

    /// The entry of an account that something is to be done with: by an up-to-date copy alone, since in an old one the
    /// name may be that of another account. One that is being made may be there a moment later, so nobody is told that
    /// it does not exist.
    async fn known(&self, name: &AccountName) -> Result<Arc<Entry>, RegistrarError> {
        self.directory.barrier().await.map_err(RegistrarError::Directory)?;
        match self.entry(name).await? {
            Some(entry) if matches!(entry.state, AccountState::Reserved { .. }) => {
                Err(RegistrarError::Busy(name.clone()))
            }
            Some(entry) => Ok(entry),
            None => Err(RegistrarError::NotFound(name.clone())),
        }
    }

    /// Makes an account with its first mailboxes, and its domain if that is new. Without a verifier nobody logs in
    /// to it. One that was only there to log in becomes an account, and keeps its password unless another is given.
    pub async fn create(
        &self,
        name: &AccountName,
        verifier: Option<Verifier>,
    ) -> Result<AccountId, RegistrarError> {
        self.create_at(name, verifier, None).await
    }

    /// The same at the node of a name. Who was only there to log in has a home already.
    pub async fn create_at(
        &self,
        name: &AccountName,
        verifier: Option<Verifier>,
        at: Option<&str>,
    ) -> Result<AccountId, RegistrarError> {
        let is_login = |entry: &Arc<Entry>| entry.state == AccountState::LoginOnly;
        let login = match self.entry(name).await?.filter(is_login) {
            Some(_) => match self.known(name).await {
                Err(RegistrarError::NotFound(_)) => None,
                known => Some(known?).filter(is_login),
            },
            None => None,
        };
        if let Some(entry) = login {
            if at.is_some() {
                return Err(RegistrarError::Refused("who was only there to log in has a home already"));
            }
            if verifier.is_some() {
                self.directory.set_verifier(entry.id, verifier).await.map_err(RegistrarError::Directory)?;
            }
            self.at_home(entry.home, AccountTask::Make { id: entry.id, name: name.clone() }).await?;
            let active = self.directory.set_state(entry.id, AccountState::Active).await;
            return Ok(active.map_err(RegistrarError::Directory)?.id);
        }
        let entry = self.reserve(name, at).await?;
        let made = self.make(name, &entry, verifier).await;
        self.or_undone(&entry, made).await
    }

    /// Makes an entry that is only there to log in: an administrator's.
    pub async fn create_login(
        &self,
        user: &UserName,
        verifier: Verifier,
    ) -> Result<AccountId, RegistrarError> {
        let entry = self.reserve(&AccountName::User(user.clone()), None).await?;
        let set = self.directory.set_verifier(entry.id, Some(verifier)).await;
        let made = match set {
            Ok(_) => self.directory.activate_login(entry.id).await.map(drop),
            Err(error) => Err(error),
        };
        self.or_undone(&entry, made.map_err(RegistrarError::Directory)).await
    }

    /// Makes a domain unless there is one.
    async fn need_domain(&self, name: &str) -> Result<(), RegistrarError> {
        let known = self.directory.domain(name).await.map_err(RegistrarError::Directory)?;
        if known.is_some_and(|domain| !domain.closing) {
            return Ok(());
        }
        match self.directory.add_domain(name.to_owned()).await {
            Ok(_) | Err(DirectoryError::Exists(_)) => Ok(()),
            Err(error) => Err(RegistrarError::Directory(error)),
        }
    }

    async fn reserve(&self, name: &AccountName, at: Option<&str>) -> Result<Arc<Entry>, RegistrarError> {
        let (node, store) = self.homes.place(name, at).await?;
        self.need_domain(name.domain()).await?;
        let home = Home { node, store, epoch: Epoch(1) };
        match self.directory.reserve(name.clone(), home, rand::random()).await {
            Err(DirectoryError::Exists(_)) => {
                let taken = self.entry(name).await?;
                Err(match taken.is_some_and(|entry| entry.state.is_unfinished()) {
                    true => RegistrarError::Busy(name.clone()),
                    false => RegistrarError::Exists(name.clone()),
                })
            }
            reserved => reserved.map_err(RegistrarError::Directory),
        }
    }

    async fn or_undone(
        &self,
        entry: &Entry,
        made: Result<(), RegistrarError>,
    ) -> Result<AccountId, RegistrarError> {
        let Err(error) = made else { return Ok(entry.id) };
        // Best effort: what stays is resolved by its home in a minute, or when that is back. Where the home was not
        // reached the name stays reserved until then: it may have made the account. So does one that is made here and may be
        // activated by now, while the directory cannot say.
        let task = AccountTask::Delete { id: entry.id };
        let undone = match entry.home.node == self.store.node() {
            true => self.perform_for(task).await,
            false => self.homes.ask(entry.home.node, task).await,
        };
        let removed = match undone {
            Ok(()) => self.directory.remove(entry.id).await.map_err(RegistrarError::Directory),
            Err(kept) => Err(kept),
        };
        match removed {
            Ok(()) | Err(RegistrarError::Directory(DirectoryError::NotFound(_))) => Err(error),
            Err(kept) => {
                tracing::info!(%error, %kept, account = %entry.name, "an account is left half made");
                Err(RegistrarError::Pending(error.to_string()))
            }
        }
    }

    async fn make(
        &self,
        name: &AccountName,
        entry: &Entry,
        verifier: Option<Verifier>,
    ) -> Result<(), RegistrarError> {
        if verifier.is_some() {
            self.directory.set_verifier(entry.id, verifier).await.map_err(RegistrarError::Directory)?;
        }
        self.at_home(entry.home, AccountTask::Make { id: entry.id, name: name.clone() }).await?;
        self.directory.activate(entry.id).await.map(drop).map_err(RegistrarError::Directory)
    }

    fn new_account(&self, name: &AccountName) -> Result<NewAccount, RegistrarError> {
        let Some(user) = name.user() else {
            let mailboxes = vec![(MailboxPath::root(), Vec::new())];
            return Ok(NewAccount { owner: None, mailboxes, subscriptions: Vec::new() });
        };
        let mut mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
        mailboxes.extend(self.mailboxes.iter().cloned());
        let canonical = |path: &MailboxPath| Ok(Address::new(name.clone(), path.clone())?.to_string());
        let subscriptions =
            mailboxes.iter().map(|(path, _)| canonical(path)).collect::<Result<Vec<_>, RegistrarError>>()?;
        Ok(NewAccount { owner: Some(user.clone()), mailboxes, subscriptions })
    }

    /// Deletes an account with its whole tree; the name is free afterwards. What is broken off the account's home
    /// finishes, or this, asked again.
    pub async fn delete(&self, name: &AccountName) -> Result<(), RegistrarError> {
        let entry = self.known(name).await?;
        match entry.state {
            AccountState::Reserved { .. } | AccountState::Deleted => {}
            AccountState::Active | AccountState::Suspended | AccountState::LoginOnly => {
                let closed = self.directory.set_state(entry.id, AccountState::Deleted).await;
                closed.map_err(RegistrarError::Directory)?;
            }
        }
        // Of what was lost with its node nothing is left to take apart.
        let removed = self.directory.removed_nodes().await.map_err(RegistrarError::Directory)?;
        let finished = match removed.iter().any(|node| node.id == entry.home.node) {
            true => Ok(()),
            false => self.at_home(entry.home, AccountTask::Delete { id: entry.id }).await,
        };
        let finished = match finished {
            Ok(()) => self.directory.remove(entry.id).await.map_err(RegistrarError::Directory),
            Err(error) => Err(error),
        };
        match finished {
            // Its home has been faster.
            Ok(()) | Err(RegistrarError::Directory(DirectoryError::NotFound(_))) => Ok(()),
            Err(error) => Err(RegistrarError::Pending(error.to_string())),
        }
    }

    /// Whether an account that comes back may be at home here; if not, why not.
    pub async fn takes_here(&self) -> Result<(), RegistrarError> {
        self.homes.takes_here().await
    }

    /// Brings a deleted account back under a name that is free. It has no password until one is set.
    pub async fn bring_back(&self, id: AccountId, name: &AccountName) -> Result<(), RegistrarError> {
        self.takes_here().await?;
        if self.entry(name).await?.is_some() {
            return Err(RegistrarError::Exists(name.clone()));
        }
        self.need_domain(name.domain()).await?;
        // The directory first: what the account shares is listed under its name.
        let home = Home { node: self.store.node(), store: self.store.store_id(), epoch: Epoch(1) };
        let restored = self.directory.restore(id, name.clone(), home).await;
        restored.map_err(RegistrarError::Directory)?;
        if let Err(error) = self.store.undelete_account(id).await {
            self.directory.remove(id).await.map_err(RegistrarError::Directory)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Gives an account another name in its domain.
    pub async fn rename(&self, from: &AccountName, to: AccountName) -> Result<(), RegistrarError> {
        let entry = self.known(from).await?;
        match entry.state {
            AccountState::Active | AccountState::Suspended => {}
            AccountState::Reserved { .. } | AccountState::Deleted | AccountState::LoginOnly => {
                return Err(RegistrarError::NotFound(from.clone()));
            }
        }
        if from.domain() != to.domain() {
            return Err(RegistrarError::Refused("an account stays in its domain"));
        }
        let renamed = self.directory.rename(entry.id, to.clone()).await;
        renamed.map_err(|error| match error {
            DirectoryError::Exists(_) => RegistrarError::Exists(to.clone()),
            DirectoryError::Refused(why) => RegistrarError::Refused(why),
            error => RegistrarError::Directory(error),
        })?;
        self.at_home(entry.home, AccountTask::Settle { id: entry.id, name: to }).await
    }

    /// Makes the store's account know its name, if a renaming was broken off before it did.
    pub async fn settle(&self, account: &Account, name: &AccountName) -> Result<(), StoreError> {
        match name.user() {
            Some(user) if account.owner().as_ref() != Some(user) => account.change_owner(user.clone()).await,
            _ => Ok(()),
        }
    }

    /// The accounts of this store that are being made or taken apart: asked at the start, before anybody can do that,
    /// those that were left half done.
    pub async fn own_reservations(&self) -> Result<Vec<Arc<Entry>>, RegistrarError> {
        let (mut own, mut after) = (Vec::new(), None);
        loop {
            let page =
                self.directory.reservations(after, PAGE_MAX).await.map_err(RegistrarError::Directory)?;
            let Some(last) = page.last() else { return Ok(own) };
            after = Some(last.id);
            own.extend(page.into_iter().filter(|entry| entry.home.store == self.store.store_id()));
        }
    }

    /// Ends reservations that nobody is working on any more: an account that the store has becomes active, unless it is
    /// being deleted; the others' names are given back. May be asked again after it was broken off.
    pub async fn resolve(&self, reservations: &[Arc<Entry>]) -> Result<(), RegistrarError> {
        #[cfg(feature = "sim")]
        if rookery_kv::defect::is_planted(rookery_kv::defect::Defect::LostActivation) {
            return Ok(());
        }
        if reservations.is_empty() {
            return Ok(());
        }
        let _alone = self.making.write().await;
        // What an old copy shows reserved may be an account by now, perhaps at another node.
        self.directory.barrier().await.map_err(RegistrarError::Directory)?;
        for entry in reservations {
            match self.directory.by_id(entry.id).await {
                Ok(now) if now.state == entry.state && now.home == entry.home => {}
                Ok(_) | Err(DirectoryError::NotFound(_)) => continue,
                Err(error) => return Err(RegistrarError::Directory(error)),
            }
            if entry.state == AccountState::Deleted {
                self.perform(AccountTask::Delete { id: entry.id }).await?;
            }
            let resolved = match self.store.account(entry.id).await {
                Ok(_) => self.directory.activate(entry.id).await.map(drop),
                Err(StoreError::NoAccount) => {
                    self.is_certain()?;
                    self.directory.remove(entry.id).await
                }
                Err(error) => return Err(error.into()),
            };
            match resolved {
                Ok(()) => {
                    tracing::info!(account = %entry.name, state = ?entry.state, "an account was left half done, and is done")
                }
                Err(DirectoryError::NotFound(_)) => {}
                Err(error) => return Err(RegistrarError::Directory(error)),
            }
        }
        Ok(())
    }

    /// Resolves reservations of this store for ever: those of `before` as soon as the directory is there, since they are
    /// of before this start; others once they are so old that nobody is working on them.
    pub async fn keep_resolving(&self, mut before: Vec<Arc<Entry>>) {
        let mut seen: BTreeMap<AccountId, Instant> = BTreeMap::new();
        loop {
            match self.resolve(&before).await {
                Ok(()) => {
                    // What becomes of them from here on is something else.
                    seen.retain(|id, _| before.iter().all(|resolved| resolved.id != *id));
                    before.clear();
                }
                Err(error) => {
                    tracing::debug!(%error, "accounts that were left half done are not resolved yet")
                }
            }
            sleep(if before.is_empty() { LOOK_EVERY } else { RESOLVE_AGAIN }).await;
            // Without a copy there is nothing to look at yet.
            let Ok(own) = self.own_reservations().await else { continue };
            let now = Instant::now();
            seen.retain(|id, _| own.iter().any(|entry| entry.id == *id));
            for entry in own {
                let since = *seen.entry(entry.id).or_insert(now);
                if now.duration_since(since) >= ABANDONED && before.iter().all(|known| known.id != entry.id) {
                    before.push(entry);
                }
            }
        }
    }
}
