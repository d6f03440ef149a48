//! The directory as a node has it: its copy, what that follows, and how a change gets to the source. What is asked of
//! it is in `answers`.
//!
//! Invariants:
//! - After a change was acknowledged, look-ups here see it.
//! - A change in many steps is one of which every step leaves a directory that agrees with itself, and which may be
//!   asked for again after it was broken off.

mod answers;

use crate::change::{Change, unavailable};
use crate::copy::Copy;
use crate::embedded::EmbeddedSource;
use crate::entry::{Entry, Home};
use crate::follow::{Follower, Following, Tasks};
use crate::records;
use crate::source::{Position, Record, Source};
use crate::whole::{Whole, goes_on, import_order};
use crate::{Answer, Commit, DirectoryError};
use parking_lot::RwLock;
use rookery_kv::{Engine, Space, off_thread};
use rookery_types::{AccountId, AccountName, NodeId};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::watch;

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

    /// All primary records as they are now. Not while some of them are still to be fetched, and the source is there.
    pub fn whole(&self) -> Result<Whole, DirectoryError> {
        let copy = self.0.whole()?;
        if let Kept::Elsewhere { follower, .. } = &*self.0.kept() {
            follower.check_complete()?;
        }
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
        task.await.unwrap_or_else(|error| Err(DirectoryError::Pending(error.to_string())))
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
