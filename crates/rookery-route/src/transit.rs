//! MOVE to mailboxes of other homes, exactly once, through crashes of either side.
//!
//! [`Transit`] is a service of the node, not of a session: it goes on when the session that asked has gone, and after a
//! restart. `coordinator` is the half of the home that the messages leave, `server` that of the home they go to, `wire`
//! what they say to each other. The records are the store's ([`rookery_store::Transit`]); the rules of the whole are
//! in `docs/decisions/0015-moves-across-homes.md`.
//!
//! Invariants:
//! - A move ends here only by a verdict of the other home, or when the directory is sure that its account is gone.
//! - What is said to the other home can be said again: it answers the same and changes nothing.
//! - The other home is told to forget a move only when its end is on the disk here.

mod coordinator;
mod pending;
mod server;
mod wire;

pub use pending::{GivenUp, Pending};

use crate::Administrators;
use crate::relay::Peers;
use parking_lot::Mutex;
use rookery_directory::{Directory, DirectoryError};
use rookery_store::{Copied, Destination, Mailbox, Refusal, Store, StoreError, Verdict};
use rookery_types::{AccountId, NodeId, UidSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

/// Moves that send at once.
const SENDING_MAX: usize = 16;
/// Moves that are taken in at once. Small messages of each wait in memory until all have come.
const TAKING_MAX: usize = 2;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct TransitTimes {
    /// How long a command waits for a move in which no octet flows.
    pub answer_max: Duration,
    /// The first pause before something is said again; the others are longer.
    pub pause_min: Duration,
    /// The longest.
    pub pause_max: Duration,
    /// How long the other node may take no octet, or give none.
    pub stalled: Duration,
}

impl Default for TransitTimes {
    fn default() -> TransitTimes {
        TransitTimes {
            answer_max: Duration::from_secs(10),
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(2),
            stalled: Duration::from_secs(30),
        }
    }
}

/// Why not all messages were moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The other home does not take them; they stay as they were.
    #[error("the other home does not take them: {}", .0.name())]
    Refused(Refusal),
    /// They will be moved, or not, later; until then they stay as they are.
    #[error("the move is pending")]
    Pending,
    /// The store failed, or messages are being moved already.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Moves messages to other homes, and takes them in. Cheap to clone.
#[derive(Clone)]
pub struct Transit(Arc<Inner>);

struct Inner {
    store: Store,
    directory: Arc<dyn Directory>,
    peers: Arc<dyn Peers>,
    administrators: Administrators,
    times: TransitTimes,
    sending: Semaphore,
    taking: Semaphore,
    tasks: Mutex<JoinSet<()>>,
    under_way: Mutex<pending::UnderWay>,
}

impl std::fmt::Debug for Transit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transit")
    }
}

/// What keeps a move from going on, for the operator.
#[derive(Debug)]
struct Trouble(String);

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        Trouble(format!("the store: {error}"))
    }
}

impl From<DirectoryError> for Trouble {
    fn from(error: DirectoryError) -> Trouble {
        Trouble(format!("the directory: {error}"))
    }
}

impl Transit {
    /// Of the node of that store.
    pub fn new(
        store: Store,
        directory: Arc<dyn Directory>,
        peers: Arc<dyn Peers>,
        administrators: Administrators,
        times: TransitTimes,
    ) -> Transit {
        Transit(Arc::new(Inner {
            store,
            directory,
            peers,
            administrators,
            times,
            sending: Semaphore::new(SENDING_MAX),
            taking: Semaphore::new(TAKING_MAX),
            tasks: Mutex::new(JoinSet::new()),
            under_way: Mutex::default(),
        }))
    }

    /// Goes on with the moves that were under way when the store was closed or the node died. Once, after the start.
    pub fn resume(&self) -> Result<(), StoreError> {
        let left = self.0.store.departures()?;
        if !left.is_empty() {
            tracing::info!(moves = left.len(), "moves to other nodes go on");
        }
        for id in left {
            let inner = Arc::clone(&self.0);
            self.0.spawn(async move { inner.drive(id, rand::random(), None, Arc::default()).await });
        }
        Ok(())
    }

    /// Goes on with the moves of an account that has come from another node.
    pub fn adopt(&self, account: AccountId) -> Result<(), StoreError> {
        for id in self.0.store.departures()?.into_iter().filter(|id| id.account == account) {
            let inner = Arc::clone(&self.0);
            self.0.spawn(async move { inner.drive(id, rand::random(), None, Arc::default()).await });
        }
        Ok(())
    }

    /// Moves messages to a mailbox of another home. What was moved, and why not all, if so: what comes behind the first
    /// that is not moved stays. `trace`: of the connection, for the logs of both nodes.
    pub async fn r#move(
        &self,
        trace: u64,
        mailbox: &Mailbox,
        uids: &UidSet,
        to: &Destination,
    ) -> (Vec<Copied>, Result<(), MoveError>) {
        let mut copied = Vec::new();
        let result = self.move_all(trace, mailbox, uids, to, &mut copied).await;
        (copied, result)
    }

    async fn move_all(
        &self,
        trace: u64,
        mailbox: &Mailbox,
        uids: &UidSet,
        to: &Destination,
        copied: &mut Vec<Copied>,
    ) -> Result<(), MoveError> {
        let mut left = uids.clone();
        while let Some((id, gone)) = mailbox.depart(&left, to).await? {
            left.remove_range(1, gone.last().unwrap_or(u32::MAX));
            let (tell, mut told) = oneshot::channel();
            let flowing: Arc<AtomicU64> = Arc::default();
            let (inner, flows) = (Arc::clone(&self.0), Arc::clone(&flowing));
            self.0.spawn(async move { inner.drive(id, trace, Some(tell), flows).await });
            let verdict = loop {
                let before = flowing.load(Ordering::Relaxed);
                match tokio::time::timeout(self.0.times.answer_max, &mut told).await {
                    Ok(Ok(verdict)) => break verdict,
                    Ok(Err(_)) => return Err(MoveError::Pending),
                    Err(_) if flowing.load(Ordering::Relaxed) != before => {}
                    Err(_) => return Err(MoveError::Pending),
                }
            };
            match verdict {
                Verdict::Refused(refusal) => return Err(MoveError::Refused(refusal)),
                Verdict::Moved { uid_validity, uids } => {
                    let same = copied.last().is_some_and(|last: &Copied| last.uid_validity == uid_validity);
                    if !same {
                        copied.push(Copied { uid_validity, from: Vec::new(), to: Vec::new() });
                    }
                    if let Some(last) = copied.last_mut() {
                        last.from.extend(uids.iter().map(|(from, _)| *from));
                        last.to.extend(uids.iter().map(|(_, to)| *to));
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends it; what is under way goes on after the next start. It holds the store open until then.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        tasks.shutdown().await;
    }
}

/// What the directory knows of an account.
enum Known {
    /// That it is at home there, whatever may be done with it.
    At(rookery_directory::Entry),
    /// That there is none, for certain.
    Gone,
}

impl Inner {
    fn here(&self) -> NodeId {
        self.store.node()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        // Those that have ended take up no room.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    async fn known(&self, id: AccountId) -> Result<Known, Trouble> {
        let found = match self.directory.by_id(id).await {
            Err(DirectoryError::NotFound(_)) => {
                self.directory.barrier().await?;
                self.directory.by_id(id).await
            }
            found => found,
        };
        match found {
            Ok(entry) => Ok(Known::At((*entry).clone())),
            Err(DirectoryError::NotFound(_)) => Ok(Known::Gone),
            Err(error) => Err(error.into()),
        }
    }
}
