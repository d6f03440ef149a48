//! The directory in the node's own engine: for the single server, and for the directory node of a small site.
//!
//! Invariants:
//! - Changes are made one after another; each is read, decided and committed before the next begins, in a task of
//!   its own, so that a caller who goes away leaves no change half known.
//! - The cache forgets what a change touched before the change is acknowledged.

use crate::alias::{self, Alias, AliasName, alias_key, decode_alias};
use crate::cache::Cache;
use crate::change::{Change, account, read_state, unavailable};
use crate::entry::{AccountFilter, AccountState, Domain, Entry, Group, Home, Node, Page, Verifier};
use crate::records::{self, account_key, domain_key, domain_prefix, reservation_key};
use crate::{Answer, Directory, DirectoryError, PAGE_MAX};
use rookery_kv::{Batch, Engine, Read, Space, prefix_end};
use rookery_types::{AccountId, AccountName, Identifier, MailboxId, NodeId, UserName};
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// Records looked at for one page at most; a filter that admits few gives short pages.
const SCAN_MAX: usize = 10_000;

/// How the directory writes. The store's committer, which alone writes to the engine, is one.
pub trait Commit: Send + Sync {
    /// Makes a batch durable and visible, then returns. It goes on when the future is dropped.
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>>;
}

/// A batch may not have become durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommitError(pub String);

/// Commits to an engine without a committer between. Only where nothing else writes to it: in tests and tools.
pub struct DirectCommit(pub Arc<dyn Engine>);

impl Commit for DirectCommit {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        let engine = self.0.clone();
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || engine.commit(batch)).await {
                Ok(result) => result.map_err(|error| CommitError(error.to_string())),
                Err(error) => Err(CommitError(error.to_string())),
            }
        })
    }
}

/// See the module. Its methods run within a tokio runtime.
#[derive(Clone)]
pub struct EmbeddedDirectory {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<dyn Engine>,
    commit: Arc<dyn Commit>,
    turn: Mutex<()>,
    cache: Cache,
    revisions: watch::Sender<u64>,
}

impl EmbeddedDirectory {
    /// Opens the directory that the engine holds; an empty one if it holds none. Reads one record.
    pub fn open(
        engine: Arc<dyn Engine>,
        commit: Arc<dyn Commit>,
    ) -> Result<EmbeddedDirectory, DirectoryError> {
        let state = read_state(&*engine)?;
        let revisions = watch::Sender::new(state.revision);
        let inner = Inner { engine, commit, turn: Mutex::new(()), cache: Cache::default(), revisions };
        Ok(EmbeddedDirectory { inner: Arc::new(inner) })
    }

    fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Change<'_>) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Answer<'_, T> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let task = tokio::spawn(async move { inner.change(decide).await });
            task.await.unwrap_or_else(|error| Err(DirectoryError::Unavailable(error.to_string())))
        })
    }

    fn change_entry(
        &self,
        id: AccountId,
        edit: impl FnOnce(&mut Entry) -> Result<(), DirectoryError> + Send + 'static,
    ) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.edit(id, edit))
    }

    /// Runs a read that may take long off the runtime's threads.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Inner) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Answer<'_, T> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let task = tokio::task::spawn_blocking(move || read(&inner));
            task.await.unwrap_or_else(|error| Err(DirectoryError::Unavailable(error.to_string())))
        })
    }
}

impl Inner {
    async fn change<T>(
        &self,
        decide: impl FnOnce(&mut Change<'_>) -> Result<T, DirectoryError>,
    ) -> Result<T, DirectoryError> {
        let _turn = self.turn.lock().await;
        let (answer, finished) = {
            let mut change = Change::begin(&*self.engine)?;
            let answer = decide(&mut change)?;
            (answer, change.finish())
        };
        let Some(finished) = finished else { return Ok(answer) };
        let committed = self.commit.commit(finished.batch).await;
        // Also after an error: the change may have happened.
        self.cache.forget(&finished.names);
        match committed {
            Ok(()) => {
                self.revisions.send_replace(finished.revision);
                Ok(answer)
            }
            Err(error) => Err(DirectoryError::Unavailable(error.to_string())),
        }
    }

    fn look_up(&self, name: &AccountName) -> Result<Arc<Entry>, DirectoryError> {
        let before = match self.cache.get(name) {
            Ok(entry) => return Ok(entry),
            Err(before) => before,
        };
        let found = account(&*self.engine, name)?;
        let entry = Arc::new(found.ok_or_else(|| DirectoryError::NotFound(name.to_string()))?);
        self.cache.keep(before, &entry);
        Ok(entry)
    }

    fn by_id(&self, id: AccountId) -> Result<Arc<Entry>, DirectoryError> {
        // One snapshot, so that a rename cannot come between the two records.
        let snapshot = self.engine.snapshot();
        crate::change::by_id(&*snapshot, id).map(Arc::new)
    }

    fn list(
        &self,
        filter: &AccountFilter,
        after: Option<AccountName>,
        limit: usize,
    ) -> Result<Page, DirectoryError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let range = range_of(filter);
        let after = after.map(|name| just_after(account_key(&name)));
        let start = after.filter(|key| *key > range).unwrap_or_else(|| range.clone());
        let mut page = Page::default();
        let mut damaged = None;
        let mut seen = 0;
        let mut last = None;
        let mut visit = |key: &[u8], value: &[u8]| {
            if page.entries.len() >= limit || seen >= SCAN_MAX {
                page.next = last.take();
                return false;
            }
            seen += 1;
            match records::decode_account(key, value) {
                Ok(entry) => {
                    last = Some(entry.name.clone());
                    if filter.admits(&entry.name) {
                        page.entries.push(entry);
                    }
                    true
                }
                Err(error) => {
                    damaged = Some(error);
                    false
                }
            }
        };
        let end = prefix_end(&range);
        let scanned = self.engine.scan(Space::Directory, &start, end.as_deref(), false, &mut visit);
        scanned.map_err(unavailable)?;
        match damaged {
            Some(error) => Err(error.into()),
            None => Ok(page),
        }
    }

    /// Up to `limit` records with the prefix, from `start`.
    fn page<T>(
        &self,
        prefix: &[u8],
        start: Vec<u8>,
        limit: usize,
        read: impl Fn(&dyn Read, &[u8], &[u8]) -> Result<T, DirectoryError>,
    ) -> Result<Vec<T>, DirectoryError> {
        let snapshot = self.engine.snapshot();
        let mut found = Vec::new();
        let mut fault = None;
        let end = prefix_end(prefix);
        let scanned = snapshot.scan(Space::Directory, &start, end.as_deref(), false, &mut |key, value| {
            if found.len() >= limit.clamp(1, PAGE_MAX) {
                return false;
            }
            match read(&*snapshot, key, value) {
                Ok(record) => found.push(record),
                Err(error) => fault = Some(error),
            }
            fault.is_none()
        });
        scanned.map_err(unavailable)?;
        fault.map_or(Ok(found), Err)
    }
}

/// What the keys of everything that the filter admits begin with.
fn range_of(filter: &AccountFilter) -> Vec<u8> {
    let Some(domain) = &filter.domain else { return vec![records::ACCOUNT] };
    let mut key = domain_prefix(domain);
    if let Some(shared) = filter.shared {
        key.push(if shared { b's' } else { b'u' });
        key.extend_from_slice(filter.prefix.as_bytes());
    }
    key
}

fn just_after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

impl Directory for EmbeddedDirectory {
    fn look_up<'a>(&'a self, name: &'a AccountName) -> Answer<'a, Arc<Entry>> {
        Box::pin(async move { self.inner.look_up(name) })
    }

    fn by_id(&self, id: AccountId) -> Answer<'_, Arc<Entry>> {
        Box::pin(async move { self.inner.by_id(id) })
    }

    fn list(&self, filter: AccountFilter, after: Option<AccountName>, limit: usize) -> Answer<'_, Page> {
        self.read(move |inner| inner.list(&filter, after, limit))
    }

    fn reserve(&self, name: AccountName, home: Home, intent: u64) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.reserve(name, home, intent))
    }

    fn reservations(&self, after: Option<AccountId>, limit: usize) -> Answer<'_, Vec<Arc<Entry>>> {
        self.read(move |inner| {
            let prefix = [records::RESERVATION];
            let start = after.map_or(prefix.to_vec(), |id| just_after(reservation_key(id)));
            inner.page(&prefix, start, limit, |read, key, value| {
                let (id, _) = records::decode_name_of_id(key, value)?;
                crate::change::by_id(read, id).map(Arc::new)
            })
        })
    }

    fn activate(&self, id: AccountId) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.activate(id, AccountState::Active))
    }

    fn activate_login(&self, id: AccountId) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.activate(id, AccountState::LoginOnly))
    }

    fn set_verifier(&self, id: AccountId, verifier: Option<Verifier>) -> Answer<'_, Arc<Entry>> {
        self.change_entry(id, |entry| {
            entry.verifier = verifier;
            Ok(())
        })
    }

    fn set_state(&self, id: AccountId, state: AccountState) -> Answer<'_, Arc<Entry>> {
        self.change_entry(id, move |entry| match (entry.state, state) {
            (AccountState::Reserved { .. }, _) | (_, AccountState::Reserved { .. }) => {
                Err(DirectoryError::Refused(
                    "a reservation is activated or removed, and never made of an account",
                ))
            }
            _ => {
                entry.state = state;
                Ok(())
            }
        })
    }

    fn rename(&self, id: AccountId, to: AccountName) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.rename(id, to))
    }

    fn remove(&self, id: AccountId) -> Answer<'_, ()> {
        self.change(move |change| change.remove(id))
    }

    fn set_home(&self, id: AccountId, expected: Home, to: Home) -> Answer<'_, Arc<Entry>> {
        self.change_entry(id, move |entry| {
            if entry.home == to {
                // Asked again after a lost answer.
                return Ok(());
            }
            if entry.home != expected {
                return Err(DirectoryError::HomeChanged(entry.home));
            }
            if to.epoch <= expected.epoch {
                return Err(DirectoryError::Refused("the epoch of a home only rises"));
            }
            entry.home = to;
            Ok(())
        })
    }

    fn alias<'a>(&'a self, name: &'a AliasName) -> Answer<'a, Option<Alias>> {
        Box::pin(async move {
            let key = alias_key(name);
            let found = self.inner.engine.get(Space::Directory, &key).map_err(unavailable)?;
            Ok(found.map(|value| decode_alias(&key, &value)).transpose()?)
        })
    }

    fn aliases(
        &self,
        domain: Option<String>,
        after: Option<AliasName>,
        limit: usize,
    ) -> Answer<'_, Vec<Alias>> {
        self.read(move |inner| {
            let prefix = domain.map_or(vec![alias::ALIAS], |domain| alias::domain_prefix(&domain));
            let start = after.map_or(prefix.clone(), |name| just_after(alias_key(&name)));
            inner.page(&prefix, start, limit, |_, key, value| Ok(decode_alias(key, value)?))
        })
    }

    fn set_alias(&self, name: AliasName, targets: Vec<UserName>) -> Answer<'_, Alias> {
        self.change(move |change| change.set_alias(name, targets))
    }

    fn remove_alias(&self, name: AliasName) -> Answer<'_, ()> {
        self.change(move |change| change.remove_alias(&name))
    }

    fn domains(&self, after: Option<String>, limit: usize) -> Answer<'_, Vec<Domain>> {
        self.read(move |inner| {
            let prefix = [records::DOMAIN];
            let start = after.map_or(prefix.to_vec(), |name| just_after(domain_key(&name)));
            inner.page(&prefix, start, limit, |_, key, value| Ok(records::decode_domain(key, value)?))
        })
    }

    fn domain<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Domain>> {
        Box::pin(async move { crate::change::domain(&*self.inner.engine, name) })
    }

    fn add_domain(&self, name: String) -> Answer<'_, Domain> {
        self.change(move |change| change.add_domain(&name))
    }

    fn remove_domain(&self, name: String) -> Answer<'_, ()> {
        self.change(move |change| change.remove_domain(&name))
    }

    fn default_domain(&self) -> Answer<'_, Option<Domain>> {
        Box::pin(async move {
            let snapshot = self.inner.engine.snapshot();
            match read_state(&*snapshot)?.default_domain {
                Some(name) => crate::change::domain(&*snapshot, &name),
                None => Ok(None),
            }
        })
    }

    fn set_default_domain(&self, name: String) -> Answer<'_, ()> {
        self.change(move |change| change.set_default_domain(&name))
    }

    fn groups(&self, domain: String, after: Option<String>, limit: usize) -> Answer<'_, Vec<Group>> {
        self.read(move |inner| {
            let prefix = records::groups_prefix(&domain);
            let start = after.map_or(prefix.clone(), |name| just_after(records::group_key(&domain, &name)));
            inner.page(&prefix, start, limit, |_, key, value| Ok(records::decode_group(key, value)?))
        })
    }

    fn add_group(&self, domain: String, name: String) -> Answer<'_, Group> {
        self.change(move |change| change.add_group(&domain, &name))
    }

    fn remove_group(&self, domain: String, name: String) -> Answer<'_, ()> {
        self.change(move |change| change.remove_group(&domain, &name))
    }

    fn members(
        &self,
        domain: String,
        group: String,
        after: Option<UserName>,
        limit: usize,
    ) -> Answer<'_, Vec<UserName>> {
        self.read(move |inner| {
            let group = records::group_name(&group).unwrap_or_default();
            let prefix = records::members_prefix(&domain, &group);
            let start = after.map_or(prefix.clone(), |user| just_after(records::member_key(&group, &user)));
            inner.page(&prefix, start, limit, |_, key, value| Ok(records::decode_member(key, value)?.1))
        })
    }

    fn set_member(&self, group: String, user: UserName, is_member: bool) -> Answer<'_, ()> {
        self.change(move |change| change.set_member(&group, &user, is_member))
    }

    fn groups_of<'a>(&'a self, user: &'a UserName) -> Answer<'a, Vec<Box<str>>> {
        Box::pin(async move {
            let prefix = records::memberships_prefix(user);
            let group = |key: &[u8], value: &[u8]| Ok(records::decode_member(key, value)?.0);
            self.inner.page(&prefix, prefix.clone(), PAGE_MAX, |_, key, value| group(key, value))
        })
    }

    fn granted(
        &self,
        domain: String,
        to: Vec<Identifier>,
        shared: bool,
        limit: usize,
    ) -> Answer<'_, BTreeSet<MailboxId>> {
        Box::pin(async move { crate::published::granted(&*self.inner.engine, &domain, &to, shared, limit) })
    }

    fn nodes(&self) -> Answer<'_, Vec<Node>> {
        self.read(|inner| {
            let prefix = [records::NODE];
            inner.page(&prefix, prefix.to_vec(), PAGE_MAX, |_, key, value| {
                Ok(records::decode_node(key, value)?)
            })
        })
    }

    fn put_node(&self, node: Node) -> Answer<'_, ()> {
        self.change(move |change| change.put_node(&node))
    }

    fn remove_node(&self, id: NodeId) -> Answer<'_, ()> {
        self.change(move |change| change.remove_node(id))
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.revisions.subscribe()
    }

    fn barrier(&self) -> Answer<'_, u64> {
        // The engine is the source: what was acknowledged is in it, and nothing has to be waited for.
        Box::pin(async move { Ok(read_state(&*self.inner.engine)?.revision) })
    }
}
