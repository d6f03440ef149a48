//! The directory as a node has it: look-ups read the node's copy, changes go to the source.
//!
//! Invariants:
//! - After a change was acknowledged, look-ups here see it.
//! - A change in many steps is one of which every step leaves a directory that agrees with itself, and which may be
//!   asked for again after it was broken off.

use crate::alias::{self, Alias, AliasName, alias_key, decode_alias};
use crate::change::{Change, read_state, unavailable};
use crate::copy::{Copy, just_after};
use crate::embedded::EmbeddedSource;
use crate::entry::{AccountFilter, AccountState, Domain, Entry, Group, Home, Moving, Page, Verifier};
use crate::follow::{Follower, Following, Tasks};
use crate::node::{Node, NodeEdit, decode_node};
use crate::placement::{PLACEMENT, Placement, decode_placement};
use crate::published::{Published, decode_published, published_key, published_prefix};
use crate::records::{self, domain_key, reservation_key};
use crate::source::{Position, Record, Source};
use crate::whole::{Whole, goes_on, import_order};
use crate::{Answer, Commit, Directory, DirectoryError, PAGE_MAX};
use parking_lot::RwLock;
use rookery_kv::{Engine, Space, off_thread};
use rookery_types::{AccountId, AccountName, Identifier, MailboxId, NodeId, UserName};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::watch;

/// Published mailboxes that change in one step.
const PUBLISH_STEP: usize = 16;
/// Records that are imported in one step.
const IMPORT_STEP: usize = 20;

/// A node's directory. Cheap to clone. Its methods run within a tokio runtime.
#[derive(Clone)]
pub struct CopiedDirectory(Arc<Inner>);

struct Inner {
    /// The same whatever it follows.
    copy: Arc<Copy>,
    kept: RwLock<Arc<Kept>>,
    ids: Ids,
}

enum Kept {
    /// The source and the copy are the same records.
    Here(EmbeddedSource),
    Elsewhere {
        follower: Follower,
        /// They follow the source until they are dropped.
        tasks: parking_lot::Mutex<Option<Tasks>>,
    },
}

/// How much is in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Accounts, reserved ones too.
    pub accounts: u64,
    /// Published mailboxes.
    pub published: u64,
    /// Accounts that are being made.
    pub reservations: u64,
}

/// Ids of accounts that were taken and not yet given.
#[derive(Default)]
struct Ids {
    /// One takes a block at a time.
    taking: tokio::sync::Mutex<()>,
    left: parking_lot::Mutex<(Range<u64>, Vec<AccountId>)>,
}

impl Ids {
    fn next(&self) -> Option<AccountId> {
        let mut left = self.left.lock();
        let returned = left.1.pop();
        returned.or_else(|| left.0.next().and_then(AccountId::new))
    }

    /// Gives back one of which nothing was told to anybody.
    fn give_back(&self, id: AccountId) {
        self.left.lock().1.push(id);
    }
}

impl Kept {
    fn following(copy: Arc<Copy>, source: Arc<dyn Source>, who: NodeId) -> Kept {
        let (follower, tasks) = Follower::start(copy, source, who);
        Kept::Elsewhere { follower, tasks: parking_lot::Mutex::new(Some(tasks)) }
    }
}

impl CopiedDirectory {
    /// Opens the directory whose source is the node's own engine; an empty one if there is none.
    pub fn open(engine: Arc<dyn Engine>, commit: Arc<dyn Commit>) -> Result<CopiedDirectory, DirectoryError> {
        let source = EmbeddedSource::open(engine, commit)?;
        let copy = source.copy().clone();
        Ok(CopiedDirectory::new(copy, Kept::Here(source)))
    }

    /// Follows a source with a copy in the node's own engine, until all clones are dropped. The copy answers as soon
    /// as it was whole once, whether the source is there or not. `who`: the node, of which only one follows the source at
    /// a time.
    pub fn follow(
        engine: Arc<dyn Engine>,
        commit: Arc<dyn Commit>,
        source: Arc<dyn Source>,
        who: NodeId,
    ) -> Result<CopiedDirectory, DirectoryError> {
        let copy = Arc::new(Copy::open(engine, commit)?);
        let kept = Kept::following(copy.clone(), source, who);
        Ok(CopiedDirectory::new(copy, kept))
    }

    fn new(copy: Arc<Copy>, kept: Kept) -> CopiedDirectory {
        CopiedDirectory(Arc::new(Inner { copy, kept: RwLock::new(Arc::new(kept)), ids: Ids::default() }))
    }

    /// Follows a source from here on that has taken the place of the one so far, as this node. Look-ups go on meanwhile.
    pub async fn follow_on(&self, source: Arc<dyn Source>, who: NodeId) -> Result<(), DirectoryError> {
        let after =
            source.predecessor().await.map_err(|error| DirectoryError::Unavailable(error.to_string()))?;
        if !self.position().is_some_and(|at| goes_on(after, at)) {
            return Err(DirectoryError::WentBack("the source does not go on from here".to_owned()));
        }
        match &*self.0.kept() {
            Kept::Here(embedded) => embedded.retire(),
            Kept::Elsewhere { tasks, .. } => drop(tasks.lock().take()),
        }
        *self.0.kept.write() = Arc::new(Kept::following(self.0.copy.clone(), source, who));
        Ok(())
    }

    /// How many accounts, published mailboxes and reservations there are.
    pub fn counts(&self) -> Answer<'_, Counts> {
        self.read(|copy| {
            let snapshot = copy.engine.snapshot();
            let count = |tag: u8| {
                let mut count = 0;
                let end = rookery_kv::prefix_end(&[tag]);
                let scanned = snapshot.scan(Space::Directory, &[tag], end.as_deref(), false, &mut |_, _| {
                    count += 1;
                    true
                });
                scanned.map(|()| count).map_err(unavailable)
            };
            Ok(Counts {
                accounts: count(records::ACCOUNT)?,
                published: count(records::MAILBOX)?,
                reservations: count(records::RESERVATION)?,
            })
        })
    }

    /// All primary records as they are now.
    pub fn whole(&self) -> Result<Whole, DirectoryError> {
        let copy = self.0.whole()?;
        let snapshot = copy.engine.snapshot();
        let position = crate::change::read_position(&*snapshot)?.or(copy.position()).unwrap_or_default();
        Ok(Whole { snapshot, position })
    }

    /// Puts the records of another directory, all of them, into this one, which must be new.
    pub fn import(&self, mut records: Vec<Record>) -> Answer<'_, ()> {
        let inner = self.0.clone();
        detached(async move {
            records.sort_by_key(import_order);
            let Some(state) = records.first().filter(|record| import_order(record) == 0).cloned() else {
                return Err(DirectoryError::Refused("the state of the directory is missing"));
            };
            inner.change(&|change: &mut Change<'_>| change.import_state(&state)).await?;
            for step in records.chunks(IMPORT_STEP) {
                inner.change(&|change: &mut Change<'_>| change.import(step)).await?;
            }
            Ok(())
        })
    }

    /// How far the source is.
    pub async fn head(&self) -> Result<Position, DirectoryError> {
        match &*self.0.kept() {
            Kept::Here(source) => source.head().await.map_err(|e| DirectoryError::Unavailable(e.to_string())),
            Kept::Elsewhere { follower, .. } => follower.head().await,
        }
    }

    /// The source in this node's engine, for others to follow; `None` if it is elsewhere.
    pub fn embedded(&self) -> Option<EmbeddedSource> {
        match &*self.0.kept() {
            Kept::Here(source) => Some(source.clone()),
            Kept::Elsewhere { .. } => None,
        }
    }

    /// Stops following: the node is about to end.
    pub fn stop_following(&self) {
        if let Kept::Elsewhere { tasks, .. } = &*self.0.kept() {
            tasks.lock().take();
        }
    }

    /// How the copy stands to its source, and a wake-up when that changes. One whose source is here always follows.
    pub fn following(&self) -> watch::Receiver<Following> {
        match &*self.0.kept() {
            Kept::Here(_) => watch::Sender::new(Following::Following).subscribe(),
            Kept::Elsewhere { follower, .. } => follower.following(),
        }
    }

    /// How far the copy is; `None` before it was whole.
    pub fn position(&self) -> Option<Position> {
        self.0.copy().position()
    }

    /// Decides a change and has it recorded. It goes on when the future is dropped.
    fn change<T: Send + 'static>(
        &self,
        decide: impl Fn(&mut Change<'_>) -> Result<T, DirectoryError> + Send + Sync + 'static,
    ) -> Answer<'_, T> {
        let inner = self.0.clone();
        match &*self.0.kept() {
            // Once decided it is on its way, whoever waits.
            Kept::Here(_) => Box::pin(async move { inner.change(&decide).await }),
            Kept::Elsewhere { .. } => detached(async move { inner.change(&decide).await }),
        }
    }

    fn change_entry(
        &self,
        id: AccountId,
        edit: impl Fn(&mut Entry) -> Result<(), DirectoryError> + Send + Sync + 'static,
    ) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.edit(id, &edit))
    }

    /// Steps until a step says that it was the last.
    fn change_in_steps(
        &self,
        step: impl Fn(&mut Change<'_>) -> Result<bool, DirectoryError> + Send + Sync + 'static,
    ) -> Answer<'_, ()> {
        let inner = self.0.clone();
        detached(async move {
            while !inner.change(&step).await? {}
            Ok(())
        })
    }

    /// Runs a read that may take long off the runtime's threads.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Copy) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Answer<'_, T> {
        let inner = self.0.clone();
        Box::pin(async move {
            let read = off_thread(move || read(inner.whole()?)).await;
            read.unwrap_or_else(|error| Err(DirectoryError::Unavailable(error.to_string())))
        })
    }
}

/// Goes on when the answer is dropped.
fn detached<'a, T: Send + 'static>(
    work: impl Future<Output = Result<T, DirectoryError>> + Send + 'static,
) -> Answer<'a, T> {
    Box::pin(async move {
        let task = tokio::spawn(work);
        task.await.unwrap_or_else(|error| Err(DirectoryError::Unavailable(error.to_string())))
    })
}

impl Inner {
    fn copy(&self) -> &Copy {
        &self.copy
    }

    fn kept(&self) -> Arc<Kept> {
        self.kept.read().clone()
    }

    /// The copy, if what it does not have does not exist, as far as it is.
    fn whole(&self) -> Result<&Copy, DirectoryError> {
        if let Kept::Elsewhere { follower, .. } = &*self.kept() {
            follower.check_whole()?;
        }
        Ok(self.copy())
    }

    async fn change<T>(
        &self,
        decide: &(impl Fn(&mut Change<'_>) -> Result<T, DirectoryError> + Sync),
    ) -> Result<T, DirectoryError> {
        match &*self.kept() {
            Kept::Here(source) => source.change(decide).await,
            Kept::Elsewhere { follower, .. } => follower.change(decide).await,
        }
    }

    async fn new_id(&self) -> Result<AccountId, DirectoryError> {
        if let Some(id) = self.ids.next() {
            return Ok(id);
        }
        let _taking = self.ids.taking.lock().await;
        loop {
            if let Some(id) = self.ids.next() {
                return Ok(id);
            }
            let block = self.change(&|change: &mut Change<'_>| change.take_ids()).await?;
            self.ids.left.lock().0 = block;
        }
    }

    async fn reserve(
        &self,
        name: AccountName,
        home: Home,
        intent: u64,
    ) -> Result<Arc<Entry>, DirectoryError> {
        let id = self.new_id().await?;
        let decide = |change: &mut Change<'_>| change.reserve(name.clone(), home, intent, id);
        let reserved = self.change(&decide).await;
        let unused = match &reserved {
            Ok(entry) => entry.id != id,
            Err(DirectoryError::Exists(_) | DirectoryError::NotFound(_) | DirectoryError::Refused(_)) => true,
            // It may have been given all the same.
            Err(_) => false,
        };
        if unused {
            self.ids.give_back(id);
        }
        reserved
    }

    async fn remove_domain(&self, name: String) -> Result<(), DirectoryError> {
        self.change(&|change: &mut Change<'_>| change.close_domain(&name)).await?;
        match self.change(&|change: &mut Change<'_>| change.remove_domain(&name)).await? {
            true => Ok(()),
            false => Err(DirectoryError::InUse(format!("domain {name}"))),
        }
    }
}

impl Directory for CopiedDirectory {
    fn look_up<'a>(&'a self, name: &'a AccountName) -> Answer<'a, Arc<Entry>> {
        Box::pin(async move { self.0.whole()?.look_up(name) })
    }

    fn by_id(&self, id: AccountId) -> Answer<'_, Arc<Entry>> {
        Box::pin(async move { self.0.whole()?.by_id(id) })
    }

    fn list(&self, filter: AccountFilter, after: Option<AccountName>, limit: usize) -> Answer<'_, Page> {
        self.read(move |copy| copy.list(&filter, after, limit))
    }

    fn reserve(&self, name: AccountName, home: Home, intent: u64) -> Answer<'_, Arc<Entry>> {
        let inner = self.0.clone();
        detached(async move { inner.reserve(name, home, intent).await })
    }

    fn reservations(&self, after: Option<AccountId>, limit: usize) -> Answer<'_, Vec<Arc<Entry>>> {
        self.read(move |copy| {
            let prefix = [records::RESERVATION];
            let start = after.map_or(prefix.to_vec(), |id| just_after(reservation_key(id)));
            copy.page(&prefix, start, limit, |read, key, value| {
                let (id, _) = records::decode_name_of_id(key, value)?;
                crate::change::by_id(read, id).map(Arc::new)
            })
        })
    }

    fn restore(&self, id: AccountId, name: AccountName, home: Home) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.restore(id, name.clone(), home))
    }

    fn activate(&self, id: AccountId) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.activate(id, AccountState::Active))
    }

    fn activate_login(&self, id: AccountId) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.activate(id, AccountState::LoginOnly))
    }

    fn set_verifier(&self, id: AccountId, verifier: Option<Verifier>) -> Answer<'_, Arc<Entry>> {
        self.change_entry(id, move |entry| {
            entry.verifier = verifier.clone();
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
        self.change(move |change| change.rename(id, to.clone()))
    }

    fn remove(&self, id: AccountId) -> Answer<'_, ()> {
        self.change_in_steps(move |change| change.remove(id))
    }

    fn relocate(
        &self,
        id: AccountId,
        expected: (Home, Option<Moving>),
        to: (Home, Option<Moving>),
    ) -> Answer<'_, Arc<Entry>> {
        self.change_entry(id, move |entry| {
            let now = (entry.home, entry.moving);
            if now == to {
                // Asked again after a lost answer.
                return Ok(());
            }
            if now != expected {
                return Err(DirectoryError::HomeChanged(entry.home));
            }
            if to.0 != expected.0 && to.0.epoch <= expected.0.epoch {
                return Err(DirectoryError::Refused("the epoch of a home only rises"));
            }
            (entry.home, entry.moving) = to;
            Ok(())
        })
    }

    fn take_over(&self, id: AccountId, place: AccountName) -> Answer<'_, ()> {
        self.change_in_steps(move |change| change.take_over(id, &place))
    }

    fn alias<'a>(&'a self, name: &'a AliasName) -> Answer<'a, Option<Alias>> {
        Box::pin(async move {
            let key = alias_key(name);
            let found = self.0.whole()?.engine.get(Space::Directory, &key).map_err(unavailable)?;
            Ok(found.map(|value| decode_alias(&key, &value)).transpose()?)
        })
    }

    fn aliases(
        &self,
        domain: Option<String>,
        after: Option<AliasName>,
        limit: usize,
    ) -> Answer<'_, Vec<Alias>> {
        self.read(move |copy| {
            let prefix = domain.map_or(vec![alias::ALIAS], |domain| alias::domain_prefix(&domain));
            let start = after.map_or(prefix.clone(), |name| just_after(alias_key(&name)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(decode_alias(key, value)?))
        })
    }

    fn set_alias(&self, name: AliasName, targets: Vec<UserName>) -> Answer<'_, Alias> {
        match alias::checked(&name, targets) {
            Ok(targets) => self.change(move |change| change.put_alias(name.clone(), targets.clone())),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn remove_alias(&self, name: AliasName) -> Answer<'_, ()> {
        self.change(move |change| change.remove_alias(&name))
    }

    fn domains(&self, after: Option<String>, limit: usize) -> Answer<'_, Vec<Domain>> {
        self.read(move |copy| {
            let prefix = [records::DOMAIN];
            let start = after.map_or(prefix.to_vec(), |name| just_after(domain_key(&name)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(records::decode_domain(key, value)?))
        })
    }

    fn domain<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Domain>> {
        Box::pin(async move { crate::change::domain(&*self.0.whole()?.engine, name) })
    }

    fn add_domain(&self, name: String) -> Answer<'_, Domain> {
        self.change(move |change| change.add_domain(&name))
    }

    fn remove_domain(&self, name: String) -> Answer<'_, ()> {
        let inner = self.0.clone();
        detached(async move { inner.remove_domain(name).await })
    }

    fn default_domain(&self) -> Answer<'_, Option<Domain>> {
        Box::pin(async move {
            let snapshot = self.0.whole()?.engine.snapshot();
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
        self.read(move |copy| {
            let prefix = records::groups_prefix(&domain);
            let start = after.map_or(prefix.clone(), |name| just_after(records::group_key(&domain, &name)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(records::decode_group(key, value)?))
        })
    }

    fn add_group(&self, domain: String, name: String) -> Answer<'_, Group> {
        self.change(move |change| change.add_group(&domain, &name))
    }

    fn remove_group(&self, domain: String, name: String) -> Answer<'_, ()> {
        self.change_in_steps(move |change| change.remove_group(&domain, &name))
    }

    fn members(
        &self,
        domain: String,
        group: String,
        after: Option<UserName>,
        limit: usize,
    ) -> Answer<'_, Vec<UserName>> {
        self.read(move |copy| {
            let group = records::group_name(&group).unwrap_or_default();
            let prefix = records::members_prefix(&domain, &group);
            let start = after.map_or(prefix.clone(), |user| just_after(records::member_key(&group, &user)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(records::decode_member(key, value)?.1))
        })
    }

    fn set_member(&self, group: String, user: UserName, is_member: bool) -> Answer<'_, ()> {
        self.change(move |change| change.set_member(&group, &user, is_member))
    }

    fn groups_of<'a>(&'a self, user: &'a UserName) -> Answer<'a, Vec<Box<str>>> {
        Box::pin(async move {
            let prefix = records::memberships_prefix(user);
            let group = |key: &[u8], value: &[u8]| Ok(records::decode_member(key, value)?.0);
            self.0.whole()?.page(&prefix, prefix.clone(), PAGE_MAX, |_, key, value| group(key, value))
        })
    }

    fn granted(
        &self,
        domain: String,
        to: Vec<Identifier>,
        shared: bool,
        limit: usize,
    ) -> Answer<'_, BTreeSet<MailboxId>> {
        Box::pin(
            async move { crate::published::granted(&*self.0.whole()?.engine, &domain, &to, shared, limit) },
        )
    }

    fn nodes(&self) -> Answer<'_, Vec<Node>> {
        self.read(|copy| known_nodes(copy, false))
    }

    fn removed_nodes(&self) -> Answer<'_, Vec<Node>> {
        self.read(|copy| known_nodes(copy, true))
    }

    fn put_node(&self, node: Node) -> Answer<'_, ()> {
        self.change(move |change| change.put_node(&node))
    }

    fn edit_node(&self, id: NodeId, edit: NodeEdit) -> Answer<'_, Node> {
        self.change(move |change| change.edit_node(id, &edit))
    }

    fn remove_node(&self, id: NodeId) -> Answer<'_, ()> {
        self.change(move |change| change.remove_node(id))
    }

    fn placements(&self) -> Answer<'_, Vec<(Box<str>, Placement)>> {
        self.read(|copy| {
            let prefix = [PLACEMENT];
            copy.page(&prefix, prefix.to_vec(), PAGE_MAX, |_, key, value| Ok(decode_placement(key, value)?))
        })
    }

    fn set_placement(&self, domain: String, placement: Option<Placement>) -> Answer<'_, ()> {
        self.change(move |change| change.put_placement(&domain, placement.as_ref()))
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.copy().revisions.subscribe()
    }

    fn barrier(&self) -> Answer<'_, u64> {
        Box::pin(async move {
            match &*self.0.kept() {
                Kept::Here(source) => {
                    // What was acknowledged is in it. A directory that cannot be read does not say what there is not.
                    read_state(&*source.copy().engine)?;
                    Ok(source.copy().position().unwrap_or_default().revision)
                }
                Kept::Elsewhere { follower, .. } => Ok(follower.barrier().await?.revision),
            }
        })
    }

    fn publish(&self, mailboxes: Vec<(MailboxId, Option<Published>)>) -> Answer<'_, ()> {
        let inner = self.0.clone();
        detached(async move {
            for step in mailboxes.chunks(PUBLISH_STEP) {
                inner.change(&|change: &mut Change<'_>| change.publish(step)).await?;
            }
            Ok(())
        })
    }

    fn published(&self, mailbox: MailboxId) -> Answer<'_, Option<Published>> {
        Box::pin(async move {
            let key = published_key(mailbox);
            let found = self.0.whole()?.engine.get(Space::Directory, &key).map_err(unavailable)?;
            Ok(found.map(|value| decode_published(&key, &value)).transpose()?)
        })
    }

    fn published_of(
        &self,
        account: AccountId,
        after: Option<MailboxId>,
        limit: usize,
    ) -> Answer<'_, Vec<Published>> {
        self.read(move |copy| {
            let prefix = published_prefix(account);
            let start = after.map_or(prefix.clone(), |mailbox| just_after(published_key(mailbox)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(decode_published(key, value)?))
        })
    }
}

/// The nodes that were removed, or the others.
fn known_nodes(copy: &Copy, removed: bool) -> Result<Vec<Node>, DirectoryError> {
    let prefix = [records::NODE];
    let mut nodes =
        copy.page(&prefix, prefix.to_vec(), PAGE_MAX, |_, key, value| Ok(decode_node(key, value)?))?;
    nodes.retain(|node| node.removed == removed);
    Ok(nodes)
}
