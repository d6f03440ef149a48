//! Accounts move to other nodes while they are used.
//!
//! [`Mover`] is a service of the node. `source` is the half of the home that an account leaves: it copies the account,
//! stops it for a moment, gives it away, and goes on until all know. `target` is the half of the node that it goes to.
//! `wire` is what they say to each other, `attend` whoever waits for a move. What is copied, and what an account may become, is the store's
//! ([`rookery_store::Outgoing`], [`rookery_store::Incoming`]); the rules of the whole are in
//! `docs/decisions/0016-moving-accounts.md`.
//!
//! Invariants:
//! - An account is released at its home only when the other node has all of it, durably, and is taken home there only
//!   when it was released. So it is at home at one node at most in each epoch.
//! - A move is given up only by the home that the account leaves, and only before it has released it.
//! - What is said to the other node can be said again: it answers the same and changes nothing.
//! - Each move is written down before anything is done about it, and goes on after a restart.

mod attend;
mod source;
mod target;
mod wire;

pub use attend::Attended;

use crate::relay::Peers;
use crate::{Publications, Transit};
use parking_lot::Mutex;
use rookery_directory::{Directory, DirectoryError, Duty, Entry};
use rookery_kv::off_thread;
use rookery_store::{AccountState, Job, SendError, Stage, Store, StoreError};
use rookery_types::{AccountId, Epoch, JobId, NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Moves that have ended and are still told of.
const ENDED_MAX: usize = 1000;
/// How long whoever wants an account to go on that has just come waits for the directory.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(10);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct MoveTimes {
    /// How long commands under way may keep an account from standing still; then it goes on, and it is tried again.
    pub patience: Duration,
    /// How long it may stand still before it is released. It is doubled with each try that took too long, up to two
    /// seconds.
    pub still_max: Duration,
    /// The first pause before something is tried again; the others are longer.
    pub pause_min: Duration,
    /// The longest.
    pub pause_max: Duration,
    /// How long the other node may give no answer.
    pub stalled: Duration,
    /// How often the home of an account that comes is asked whether it still does.
    pub ask_every: Duration,
}

impl Default for MoveTimes {
    fn default() -> MoveTimes {
        MoveTimes {
            patience: Duration::from_millis(100),
            still_max: Duration::from_millis(150),
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(5),
            stalled: Duration::from_secs(30),
            ask_every: Duration::from_secs(30),
        }
    }
}

/// How much is done at once.
#[derive(Clone, Copy, Debug)]
pub struct MoveLimits {
    /// Accounts that leave at once; others wait.
    pub at_once: usize,
    /// Octets a second that are sent, of all moves together; `None`: as many as go.
    pub octets_per_second: Option<u64>,
}

impl Default for MoveLimits {
    fn default() -> MoveLimits {
        MoveLimits { at_once: 4, octets_per_second: None }
    }
}

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Others come first.
    Waiting,
    /// The records go over.
    Copying,
    /// What changes goes over, until little is left.
    Following,
    /// The account stands still.
    Switching,
    /// The account is at home there, and the directory is told.
    Announcing,
    /// It is given up.
    Cancelling,
    /// Here it is the other half: the account comes.
    Receiving,
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Copying => "copying",
            Phase::Following => "following",
            Phase::Switching => "switching",
            Phase::Announcing => "announcing",
            Phase::Cancelling => "cancelling",
            Phase::Receiving => "receiving",
        }
    }
}

/// A move that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveStatus {
    /// Which.
    pub job: JobId,
    /// The account.
    pub account: AccountId,
    /// The other node.
    pub peer: NodeId,
    /// How far it is.
    pub phase: Phase,
    /// An operator has stopped it.
    pub paused: bool,
    /// Messages sent so far.
    pub messages: u64,
    /// Octets of them.
    pub octets: u64,
    /// Octets a second, since it was begun to send them.
    pub octets_per_second: Option<u64>,
    /// What keeps it from going on, and since when.
    pub trouble: Option<(String, Duration)>,
    /// When it was asked for, seconds since 1970.
    pub unix_seconds: u32,
}

/// What became of a move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MoveOutcome {
    /// The account is at home at the other node.
    Moved {
        /// How long it stood still.
        pause: Duration,
    },
    /// It stays here, since somebody has cancelled the move.
    Cancelled,
    /// It stays here, for this reason.
    Failed(String),
}

/// Why a move is not begun, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    /// The account is not at home here.
    #[error("the account is not at home at this node")]
    NotHere,
    /// It is at home there already.
    #[error("the account is at home at that node already")]
    AlreadyThere,
    /// There is no such node.
    #[error("there is no such node")]
    NoNode,
    /// The node takes no accounts that it has not got.
    #[error("the node {name} takes no new accounts: hold is {}", hold.word())]
    Closed {
        /// Which.
        name: Box<str>,
        /// What it holds.
        hold: Duty,
    },
    /// There is nowhere to go.
    #[error("no other node takes new accounts")]
    NoPlace,
    /// It is on its way already.
    #[error("the account is on its way already")]
    OnItsWay,
    /// There is no such move.
    #[error("the account is not on its way")]
    NoMove,
    /// It has left.
    #[error("it is too late: the account has left")]
    TooLate,
    /// The directory cannot be asked.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a mover needs.
pub struct MoverParts {
    /// The node's store.
    pub store: Store,
    /// The directory.
    pub directory: Arc<dyn Directory>,
    /// The other nodes.
    pub peers: Arc<dyn Peers>,
    /// What is not published yet is published before an account goes.
    pub publications: Option<Arc<Publications>>,
    /// Goes on with the moves of messages of accounts that come.
    pub transit: Option<Transit>,
    /// How long things may take.
    pub times: MoveTimes,
    /// How much is done at once.
    pub limits: MoveLimits,
}

/// Moves accounts to other nodes, and takes them in. Cheap to clone.
#[derive(Clone)]
pub struct Mover(Arc<Inner>);

impl std::fmt::Debug for Mover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mover")
    }
}

struct Inner {
    store: Store,
    directory: Arc<dyn Directory>,
    peers: Arc<dyn Peers>,
    publications: Option<Arc<Publications>>,
    transit: Option<Transit>,
    times: MoveTimes,
    limits: MoveLimits,
    leaving: Semaphore,
    /// Changes of what is written down of moves, one after another.
    turn: tokio::sync::Mutex<()>,
    live: Mutex<BTreeMap<AccountId, Arc<Live>>>,
    ended: Mutex<VecDeque<(MoveStatus, MoveOutcome)>>,
    /// Accounts that have come, of which the directory is told.
    announcing: watch::Sender<BTreeSet<AccountId>>,
    /// When the next octets may be sent.
    budget: Mutex<Option<Instant>>,
    tasks: Mutex<JoinSet<()>>,
}

/// A move out of this node.
struct Live {
    job: Mutex<Job>,
    /// Woken when an operator has changed it.
    changed: watch::Sender<()>,
    progress: Mutex<Progress>,
    outcome: watch::Sender<Option<MoveOutcome>>,
}

struct Progress {
    phase: Phase,
    messages: u64,
    octets: u64,
    /// When the first of them were sent, in this try.
    since: Option<Instant>,
    /// Since when nothing was answered, too.
    trouble: Option<(String, Instant)>,
    /// Why it is given up, if not by an operator.
    failed: Option<String>,
}

/// What keeps something from going on, for the operator.
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

impl From<SendError> for Trouble {
    fn from(error: SendError) -> Trouble {
        Trouble(error.to_string())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble(format!("the link: {error}"))
    }
}

impl Live {
    fn new(job: Job) -> Arc<Live> {
        let progress = Progress {
            phase: Phase::Waiting,
            messages: 0,
            octets: 0,
            since: None,
            trouble: None,
            failed: None,
        };
        Arc::new(Live {
            job: Mutex::new(job),
            changed: watch::Sender::new(()),
            progress: Mutex::new(progress),
            outcome: watch::Sender::new(None),
        })
    }

    fn job(&self) -> Job {
        *self.job.lock()
    }

    fn is(&self, phase: Phase) {
        self.progress.lock().phase = phase;
    }

    /// Something keeps it from going on. Whether that is news.
    fn is_kept(&self, why: &str) -> bool {
        let trouble = &mut self.progress.lock().trouble;
        let is_new = trouble.as_ref().is_none_or(|(known, _)| known != why);
        let since = trouble.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        *trouble = Some((why.to_owned(), since));
        is_new
    }

    /// It goes on; so many messages, and octets of them, were sent in this try.
    fn goes_on(&self, messages: u64, octets: u64) {
        let mut progress = self.progress.lock();
        if octets < progress.octets || octets == 0 {
            progress.since = None;
        }
        if octets > 0 {
            progress.since.get_or_insert_with(Instant::now);
        }
        (progress.messages, progress.octets, progress.trouble) = (messages, octets, None);
    }

    fn status(&self) -> MoveStatus {
        let (job, progress) = (self.job(), self.progress.lock());
        MoveStatus {
            job: job.id,
            account: job.account,
            peer: job.peer,
            phase: progress.phase,
            paused: job.paused,
            messages: progress.messages,
            octets: progress.octets,
            octets_per_second: progress.since.and_then(|since| {
                let milliseconds =
                    u64::try_from(since.elapsed().as_millis()).ok().filter(|took| *took > 0)?;
                Some(progress.octets.saturating_mul(1000) / milliseconds)
            }),
            trouble: progress.trouble.as_ref().map(|(why, since)| (why.clone(), since.elapsed())),
            unix_seconds: job.unix_seconds,
        }
    }
}

fn now_unix() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

impl Mover {
    /// Of the node of that store.
    pub fn new(parts: MoverParts) -> Mover {
        let MoverParts { store, directory, peers, publications, transit, times, limits } = parts;
        Mover(Arc::new(Inner {
            store,
            directory,
            peers,
            publications,
            transit,
            times,
            limits,
            leaving: Semaphore::new(limits.at_once.max(1)),
            turn: tokio::sync::Mutex::default(),
            live: Mutex::default(),
            ended: Mutex::default(),
            announcing: watch::Sender::default(),
            budget: Mutex::default(),
            tasks: Mutex::default(),
        }))
    }

    /// Goes on with the moves that were under way when the store was closed or the node died. Once, after the start.
    pub fn resume(&self) -> Result<(), StoreError> {
        for job in self.0.store.jobs()? {
            match job.stage {
                Stage::Waiting | Stage::Prepared | Stage::Aborting => drop(self.0.drive(job)),
                Stage::Announce => self.0.begin_announcing(job),
                // Its home comes back to it, or is asked.
                Stage::Receiving => {}
            }
        }
        let inner = Arc::clone(&self.0);
        self.0.spawn(async move { inner.look_after_coming().await });
        Ok(())
    }

    /// Moves an account to another node, if that takes new accounts. Once this returns the move is written down, and goes
    /// on by itself, whatever the node is told meanwhile. An account that has just come goes when the directory knows of
    /// that.
    pub async fn begin(&self, account: AccountId, to: NodeId) -> Result<JobId, MoverError> {
        let mut announcing = self.0.announcing.subscribe();
        // If it takes too long, that is said below.
        let announced = announcing.wait_for(|all| !all.contains(&account));
        let _ = tokio::time::timeout(ANNOUNCED_WITHIN, announced).await;
        // What an operator has just told the other node counts. Without the directory, what is known here does.
        if let Err(error) = self.0.directory.barrier().await {
            tracing::debug!(%error, "a move is begun without asking the directory");
        }
        self.begin_now(account, to).await
    }

    async fn begin_now(&self, account: AccountId, to: NodeId) -> Result<JobId, MoverError> {
        if to == self.0.here() {
            return Err(MoverError::AlreadyThere);
        }
        let nodes = self.0.directory.nodes().await?;
        let node = nodes.into_iter().find(|node| node.id == to).ok_or(MoverError::NoNode)?;
        let _turn = self.0.turn.lock().await;
        let record = self.0.store.account_record(account)?.ok_or(MoverError::NotHere)?;
        if self.0.store.job(account)?.is_some() {
            return Err(MoverError::OnItsWay);
        }
        if record.state != AccountState::Home {
            return Err(MoverError::NotHere);
        }
        if node.hold != Duty::On {
            return Err(MoverError::Closed { name: node.name, hold: node.hold });
        }
        let job = Job {
            id: JobId(rand::random()),
            account,
            peer: to,
            epoch: Epoch(record.epoch.0.saturating_add(1)),
            stage: Stage::Waiting,
            paused: false,
            unix_seconds: now_unix(),
        };
        self.0.store.put_job(job).await?;
        self.0.drive(job);
        Ok(job.id)
    }

    /// Returns when a move has ended. `None`: there is none, or it is no more told of.
    pub async fn wait(&self, account: AccountId, job: JobId) -> Option<MoveOutcome> {
        let live = self.0.live.lock().get(&account).filter(|live| live.job().id == job).cloned();
        if let Some(live) = live {
            let mut outcome = live.outcome.subscribe();
            if let Ok(outcome) = outcome.wait_for(Option::is_some).await {
                return outcome.clone();
            }
        }
        let ended = self.0.ended.lock();
        ended.iter().find(|(status, _)| status.job == job).map(|(_, outcome)| outcome.clone())
    }

    /// The moves that this node has a part in.
    pub fn status(&self) -> Result<Vec<MoveStatus>, StoreError> {
        let mut all: Vec<MoveStatus> = self.0.live.lock().values().map(|live| live.status()).collect();
        for job in self.0.store.jobs()? {
            let phase = match job.stage {
                Stage::Receiving => Phase::Receiving,
                Stage::Announce => Phase::Announcing,
                _ => continue,
            };
            all.push(MoveStatus {
                job: job.id,
                account: job.account,
                peer: job.peer,
                phase,
                paused: false,
                messages: 0,
                octets: 0,
                octets_per_second: None,
                trouble: None,
                unix_seconds: job.unix_seconds,
            });
        }
        Ok(all)
    }

    /// The moves that have ended since the start, the newest last; a thousand at most.
    pub fn ended(&self) -> Vec<(MoveStatus, MoveOutcome)> {
        self.0.ended.lock().iter().cloned().collect()
    }

    /// Stops a move until it is said to go on. The copy over there stays.
    pub async fn pause(&self, account: AccountId, paused: bool) -> Result<(), MoverError> {
        self.change(account, |job| job.paused = paused).await
    }

    /// Gives a move up. Once this returns that is written down; the account stays where it is.
    pub async fn cancel(&self, account: AccountId) -> Result<(), MoverError> {
        self.change(account, |job| job.stage = Stage::Aborting).await
    }

    async fn change(&self, account: AccountId, change: impl FnOnce(&mut Job)) -> Result<(), MoverError> {
        let _turn = self.0.turn.lock().await;
        let live = self.0.live.lock().get(&account).cloned().ok_or(MoverError::NoMove)?;
        let state = self.0.store.account_record(account)?.map(|record| record.state);
        if matches!(state, Some(AccountState::Released(_) | AccountState::Moved(_))) {
            return Err(MoverError::TooLate);
        }
        let mut job = live.job();
        change(&mut job);
        self.0.store.put_job(job).await?;
        *live.job.lock() = job;
        live.changed.send_replace(());
        Ok(())
    }

    /// Moves all accounts that are at home here to other nodes: to the one that is named, or to those that take
    /// accounts, most to those with the most room. Says how many moves were begun. What was broken off is said again:
    /// accounts that are on their way are passed over.
    pub async fn drain(&self, to: Option<NodeId>) -> Result<u64, MoverError> {
        let engine = self.0.store.engine_for_check();
        let homes = off_thread(move || rookery_store::check::homes(&*engine)).await;
        let homes = homes.map_err(StoreError::from)?.map_err(|error| {
            tracing::error!(%error, "the accounts of this node cannot be listed");
            StoreError::CutOff
        })?;
        let mut rooms = match to {
            Some(to) => vec![(u64::MAX, to)],
            None => self.rooms().await?,
        };
        let mut begun = 0;
        for (account, record) in homes {
            rooms.sort_unstable();
            let (room, node) = rooms.last_mut().ok_or(MoverError::NoPlace)?;
            // One that has just come is passed over, so that the others do not wait for it.
            match self.begin_now(account, *node).await {
                Ok(_) => {
                    *room = room.saturating_sub(record.octets.saturating_add(1));
                    begun += 1;
                }
                // It is on its way, or was deleted meanwhile.
                Err(MoverError::OnItsWay | MoverError::NotHere) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(begun)
    }

    /// The other nodes that take accounts, with their free octets.
    async fn rooms(&self) -> Result<Vec<(u64, NodeId)>, MoverError> {
        let nodes = self.0.directory.nodes().await?;
        let others = nodes.into_iter().filter(|node| node.id != self.0.here() && node.hold == Duty::On);
        Ok(others.map(|node| (node.load.octets_free, node.id)).collect())
    }

    /// Ends it; what is under way goes on after the next start. It holds the store open until then.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        tasks.shutdown().await;
    }
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

    /// What the directory knows of an account; `None`: nothing, for certain.
    async fn entry(&self, id: AccountId) -> Result<Option<Arc<Entry>>, Trouble> {
        self.directory.barrier().await?;
        match self.directory.by_id(id).await {
            Ok(entry) => Ok(Some(entry)),
            Err(DirectoryError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::time::timeout(self.times.stalled, work).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}
