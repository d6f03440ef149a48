//! Where the commands on a mailbox run: decided in one place, as a value, for every protocol.
//!
//! Invariants:
//! - [`route`] alone asks whether an account is at home here.
//! - "There is none" is said only after the directory was read up to date; when it cannot be read, that is what is
//!   said, so that no mail bounces for a directory that is away.
//! - An account whose home is another node is never answered as if it did not exist.

mod administrators;
pub mod framed;
mod keep;
mod moves;
pub mod parts;
mod publications;
mod registrar;
mod relay;
mod relocator;
mod renames;
mod transit;

pub use administrators::{Administrators, Authority};
pub use keep::{Keeper, Kept};
pub use moves::{
    Attended, MoveLimits, MoveOutcome, MoveStatus, MoveTimes, Mover, MoverError, MoverParts, Phase,
};
pub use publications::{Publications, StartError};
pub use registrar::{AccountTask, Homes, Registrar, RegistrarError};
pub use relay::{
    BadHead, HEAD_OCTETS_MAX, HandOver, MARK_OCTETS_MAX, Mark, Marked, NoPeers, Opening, PeerError, Peers,
    PipeHead, PipeService, Reaching, Relayed, Reopening, SessionHead, SessionNote, Suspended,
    VALUE_OCTETS_MAX, Witness, go_on, hand_back, open_from, own_pipe, relay, take_value,
};
pub use relocator::{NoRelocator, NotMoved, Relocated, Relocator};
pub use renames::Renames;
pub use transit::{GivenUp, MoveError, Pending, Transit, TransitTimes};

use parking_lot::Mutex;
use rookery_directory::{AccountState, AliasName, Directory, DirectoryError, Entry};
use rookery_store::{Account, Store, StoreError, Whereabouts};
use rookery_types::{
    AccountId, AccountName, Address, ClientNames, Encoding, Epoch, NameError, NodeId, OperationId, StoreId,
    Style, UserName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The id of a change that another node is asked for.
pub fn new_operation() -> OperationId {
    OperationId(rand::random())
}

/// Where the commands on one mailbox run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// In this node's store.
    Here {
        /// The account in the store.
        account: AccountId,
    },
    /// At another node, by relaying.
    Proxy(NodeId),
}

/// A name that was resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where its commands run.
    pub route: Route,
    /// The mailbox meant. Whether it exists is for the route's end to say; that its account does is known.
    pub address: Address,
}

/// Why there is no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The name cannot be a mailbox's.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such account; the directory was up to date when it said so.
    #[error("{0} does not exist")]
    NonExistent(AccountName),
    /// Whether there is such an account, or where, cannot be said now.
    #[error("where the mailbox is cannot be found out")]
    Unavailable(#[source] DirectoryError),
}

/// Why an account cannot be opened here.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Its commands run at another node.
    #[error("the account is at home at node {0}")]
    Elsewhere(NodeId),
    /// Whether there is such an account, or where, cannot be said now.
    #[error("where the account is cannot be found out")]
    Unavailable(#[source] DirectoryError),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

/// Decides where the commands on an account's mailboxes run.
///
/// Reserved and deleted accounts, and those that are only there to log in, do not exist for anyone; suspended ones do, since mail still comes in and others
/// read what was shared with them.
pub fn route(entry: &Entry, here: NodeId) -> Result<Route, RouteError> {
    match entry.state {
        AccountState::Reserved { .. } | AccountState::Deleted | AccountState::LoginOnly => {
            Err(RouteError::NonExistent(entry.name.clone()))
        }
        AccountState::Active | AccountState::Suspended if entry.home.node == here => {
            Ok(Route::Here { account: entry.id })
        }
        AccountState::Active | AccountState::Suspended => Ok(Route::Proxy(entry.home.node)),
    }
}

/// Aliases may lead to aliases, so many times one after another.
pub const ALIAS_DEPTH_MAX: usize = 8;
/// Users that one address may lead to; the rest is left out.
pub const RECIPIENTS_MAX: usize = 1000;

/// Who gets the mail for an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipients {
    /// The users, each once; at least one and at most [`RECIPIENTS_MAX`].
    pub users: Vec<UserName>,
    /// Whether an alias or a catch-all led to them.
    pub by_alias: bool,
}

/// A future of a [`Newcomers`].
pub type Coming<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Users who are known elsewhere and get an account when they first need one.
pub trait Newcomers: Send + Sync + 'static {
    /// Whether this user would get an account.
    fn know<'a>(&'a self, user: &'a UserName) -> Coming<'a, bool>;

    /// Makes the account of a user who is known, unless there is one. Err: why not, for the operator.
    fn welcome<'a>(&'a self, user: &'a UserName) -> Coming<'a, Result<(), String>>;
}

/// Says whether this node's store counts as holding nothing, and why. Cheap to clone.
#[derive(Clone, Default)]
pub struct Fence(Arc<Mutex<(bool, Option<Box<str>>)>>);

impl Fence {
    /// From here on it holds nothing.
    pub fn close(&self, why: &str) {
        self.0.lock().1 = Some(why.into());
    }

    /// It holds what it has, as an operator has decided.
    pub fn lift(&self) {
        self.0.lock().1 = None;
    }

    /// Why it holds nothing; `None`: it holds what it has.
    pub fn why(&self) -> Option<Box<str>> {
        self.0.lock().1.clone()
    }

    /// It was compared with what the directory knows.
    pub fn compared(&self) {
        self.0.lock().0 = true;
    }

    /// Whether it was.
    pub fn is_compared(&self) -> bool {
        self.0.lock().0
    }
}

/// Resolves the names that clients use.
#[derive(Clone)]
pub struct Router {
    directory: Arc<dyn Directory>,
    here: NodeId,
    /// The store that is here, if that is asked.
    store: Option<(StoreId, Fence)>,
    /// The same, if it is asked which accounts have come and gone.
    knows: Option<Store>,
    /// Where other nodes have said that accounts are at home, before the directory's copy knows.
    heard: Arc<Mutex<BTreeMap<AccountId, (NodeId, Epoch)>>>,
    style: Style,
    newcomers: Option<Arc<dyn Newcomers>>,
}

/// Accounts of which a router remembers what other nodes have said.
const HEARD_MAX: usize = 10_000;

impl Router {
    /// A router of the node `here`, whose clients see names in one style.
    pub fn new(directory: Arc<dyn Directory>, here: NodeId, style: Style) -> Router {
        let heard = Arc::default();
        Router { directory, here, store: None, knows: None, heard, style, newcomers: None }
    }

    /// The same, for which accounts that are at home in another store than this, or in a fenced one, are not reached.
    pub fn with_store(self, store: StoreId, fence: Fence) -> Router {
        Router { store: Some((store, fence)), ..self }
    }

    /// The same, which knows of accounts that have come to this store, or have gone from it, before the directory's copy
    /// does.
    pub fn with_moves(self, store: Store) -> Router {
        Router { knows: Some(store), ..self }
    }

    /// The same, with users who get accounts when mail comes for them.
    pub fn with_newcomers(self, newcomers: Arc<dyn Newcomers>) -> Router {
        Router { newcomers: Some(newcomers), ..self }
    }

    /// The names as a user sees them.
    pub fn names_of(&self, viewer: &UserName) -> ClientNames {
        ClientNames::new(self.style, viewer.clone())
    }

    /// What a name on the wire means to a user and where the commands on it run.
    pub async fn resolve(
        &self,
        viewer: &UserName,
        wire: &[u8],
        encoding: Encoding,
    ) -> Result<Target, RouteError> {
        let address = self.names_of(viewer).to_address(wire, encoding)?;
        self.target(address).await
    }

    /// The same for a mailbox that is to be made ([`ClientNames::to_new_address`]).
    pub async fn resolve_new(
        &self,
        viewer: &UserName,
        wire: &[u8],
        encoding: Encoding,
    ) -> Result<Target, RouteError> {
        let address = self.names_of(viewer).to_new_address(wire, encoding)?;
        self.target(address).await
    }

    /// Where the commands on a mailbox run whose name is known: a recipient's INBOX, say.
    pub async fn target(&self, address: Address) -> Result<Target, RouteError> {
        let entry = self.entry(address.account()).await?;
        let (route, epoch) = self.home_of(&entry)?;
        if let (Route::Here { .. }, Some((store, fence))) = (&route, &self.store) {
            // A home is a node and its store: nobody is told that there is nothing because another store has nothing.
            let why = match *store == entry.home.store || epoch > entry.home.epoch {
                true => fence.why(),
                false => Some("the account is at home in another store".into()),
            };
            if let Some(why) = why {
                return Err(unavailable(why.into()));
            }
        }
        Ok(Target { route, address })
    }

    /// The account of a name, and where the commands on its mailboxes run.
    pub async fn locate(&self, name: &AccountName) -> Result<(AccountId, Route), RouteError> {
        let entry = self.entry(name).await?;
        Ok((entry.id, self.home_of(&entry)?.0))
    }

    /// The home of an account, and since which epoch it is that.
    pub async fn home(&self, name: &AccountName) -> Result<(NodeId, Epoch), RouteError> {
        let entry = self.entry(name).await?;
        Ok(match self.home_of(&entry)? {
            (Route::Here { .. }, epoch) => (self.here, epoch),
            (Route::Proxy(node), epoch) => (node, epoch),
        })
    }

    /// Its last home has said that an account is at home at a node, since an epoch.
    pub fn hear_of(&self, account: AccountId, node: NodeId, epoch: Epoch) {
        let mut heard = self.heard.lock();
        if heard.len() >= HEARD_MAX {
            heard.clear();
        }
        let known = heard.entry(account).or_insert((node, epoch));
        if known.1 < epoch {
            *known = (node, epoch);
        }
    }

    /// Where the directory, the store or another node says that an account is at home: whoever knows of the later epoch.
    fn home_of(&self, entry: &Entry) -> Result<(Route, Epoch), RouteError> {
        let (route, epoch) = self.home_known_here(entry)?;
        let mut heard = self.heard.lock();
        match heard.get(&entry.id).copied() {
            None => Ok((route, epoch)),
            // What is here the store knows.
            Some((node, since)) if since > epoch && node != self.here => Ok((Route::Proxy(node), since)),
            Some((_, since)) => {
                if since <= entry.home.epoch {
                    heard.remove(&entry.id);
                }
                Ok((route, epoch))
            }
        }
    }

    fn home_known_here(&self, entry: &Entry) -> Result<(Route, Epoch), RouteError> {
        let route = route(entry, self.here)?;
        let Some(store) = &self.knows else { return Ok((route, entry.home.epoch)) };
        let standing = store.standing(entry.id).map_err(|error| unavailable(error.to_string()))?;
        Ok(match standing.filter(|(_, epoch)| *epoch > entry.home.epoch) {
            Some((Whereabouts::Here, epoch)) => (Route::Here { account: entry.id }, epoch),
            Some((Whereabouts::Left { node, .. }, epoch)) => (Route::Proxy(node), epoch),
            None => (route, entry.home.epoch),
        })
    }

    /// Who gets the mail for an address: the account of this name; else where the alias of this name leads; else a
    /// newcomer; else where the catch-all of the domain leads. Loops and dead ends of aliases are left out.
    pub async fn recipients(&self, user: &UserName) -> Result<Recipients, RouteError> {
        if self.takes_mail(user).await? {
            return Ok(Recipients { users: vec![user.clone()], by_alias: false });
        }
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::from([user.clone()]);
        let mut level = self.led_to(user).await?;
        for _ in 0..ALIAS_DEPTH_MAX {
            let mut next = Vec::new();
            for target in level {
                if found.len() >= RECIPIENTS_MAX || !seen.insert(target.clone()) {
                    continue;
                }
                if self.takes_mail(&target).await? {
                    found.insert(target);
                } else {
                    next.extend(self.led_to(&target).await?);
                }
            }
            level = next;
            if level.is_empty() {
                break;
            }
        }
        match found.is_empty() {
            true => Err(RouteError::NonExistent(AccountName::User(user.clone()))),
            false => Ok(Recipients { users: found.into_iter().collect(), by_alias: true }),
        }
    }

    /// Where the mail for an address goes: the INBOX of each recipient. Newcomers get their accounts.
    pub async fn deliver_to(&self, user: &UserName) -> Result<Vec<Target>, RouteError> {
        let mut targets = Vec::new();
        for user in self.recipients(user).await?.users {
            let inbox = Address::inbox(user.clone());
            let target = match (self.target(inbox.clone()).await, &self.newcomers) {
                (Err(RouteError::NonExistent(_)), Some(newcomers)) => {
                    newcomers.welcome(&user).await.map_err(unavailable)?;
                    self.target(inbox).await
                }
                (target, _) => target,
            };
            targets.push(target?);
        }
        Ok(targets)
    }

    /// The groups that a user is in, for ACLs.
    pub async fn groups_of(&self, user: &UserName) -> Result<Vec<Box<str>>, RouteError> {
        self.directory.groups_of(user).await.map_err(RouteError::Unavailable)
    }

    /// Whether this domain (in lower case) is one of the directory's.
    pub async fn has_domain(&self, name: &str) -> Result<bool, RouteError> {
        let domain = self.directory.domain(name).await.map_err(RouteError::Unavailable)?;
        Ok(domain.is_some())
    }

    /// Whether there is an account of this name, or would be.
    async fn takes_mail(&self, user: &UserName) -> Result<bool, RouteError> {
        let account = AccountName::User(user.clone());
        let found = match self.entry(&account).await {
            Ok(entry) => route(&entry, self.here).map(drop),
            Err(error) => Err(error),
        };
        match (found, &self.newcomers) {
            (Ok(()), _) => Ok(true),
            (Err(RouteError::NonExistent(_)), Some(newcomers)) => {
                Ok(self.alias(&AliasName::Address(user.clone())).await?.is_empty()
                    && newcomers.know(user).await)
            }
            (Err(RouteError::NonExistent(_)), None) => Ok(false),
            (Err(error), _) => Err(error),
        }
    }

    /// The targets of the alias of this name, or of its domain's catch-all.
    async fn led_to(&self, user: &UserName) -> Result<Vec<UserName>, RouteError> {
        let targets = self.alias(&AliasName::Address(user.clone())).await?;
        match targets.is_empty() {
            true => self.alias(&AliasName::CatchAll(user.domain().into())).await,
            false => Ok(targets),
        }
    }

    /// The targets of an alias; none if there is no such alias.
    async fn alias(&self, name: &AliasName) -> Result<Vec<UserName>, RouteError> {
        let alias = self.directory.alias(name).await.map_err(RouteError::Unavailable)?;
        Ok(alias.map_or_else(Vec::new, |alias| alias.targets))
    }

    /// The account of that name in this node's store, if there is one and its commands run here.
    pub async fn open(&self, store: &Store, name: &AccountName) -> Result<Option<Account>, AccountError> {
        let target = self.target(Address::top(name.clone())).await;
        let account = match target.map(|target| target.route) {
            Ok(Route::Here { account }) => account,
            Ok(Route::Proxy(node)) => return Err(AccountError::Elsewhere(node)),
            Err(RouteError::NonExistent(_) | RouteError::Name(_)) => return Ok(None),
            Err(RouteError::Unavailable(error)) => return Err(AccountError::Unavailable(error)),
        };
        match store.account(account).await {
            Ok(account) => Ok(Some(account)),
            Err(StoreError::NoAccount) => Ok(None),
            // It has gone since, and the directory's copy has not heard of it.
            Err(StoreError::Moved) => match store.standing(account) {
                Ok(Some((Whereabouts::Left { node, .. }, _))) => Err(AccountError::Elsewhere(node)),
                Ok(_) => Err(AccountError::Store(StoreError::Moved)),
                Err(error) => Err(AccountError::Store(error)),
            },
            Err(error) => Err(AccountError::Store(error)),
        }
    }

    /// The entry of an account that anyone may know of.
    async fn entry(&self, name: &AccountName) -> Result<Arc<Entry>, RouteError> {
        let found = match self.directory.look_up(name).await {
            // The copy at hand may lag; only an up-to-date one can say that there is none. An account that is not for
            // anyone may be made by now, or be gone with another in its place.
            Ok(entry) if route(&entry, self.here).is_ok() => return Ok(entry),
            Ok(_) | Err(DirectoryError::NotFound(_)) => {
                self.directory.barrier().await.map_err(RouteError::Unavailable)?;
                self.directory.look_up(name).await
            }
            found => found,
        };
        found.map_err(|error| match error {
            DirectoryError::NotFound(_) => RouteError::NonExistent(name.clone()),
            error => RouteError::Unavailable(error),
        })
    }
}

fn unavailable(error: String) -> RouteError {
    RouteError::Unavailable(DirectoryError::Unavailable(error))
}
