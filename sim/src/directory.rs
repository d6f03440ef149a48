//! The model of etcd, as each node reaches it.
//!
//! What is stored, its revisions, its watchers and its compaction are those of [`MemorySource`]. Between it and each
//! node lies what goes wrong: requests and answers that are lost, requests that arrive when they were long given up,
//! nodes that do not reach it, leaders that go and leave no answers, times without one in which whoever asks is refused
//! or waits.

use crate::network::Alive;
use crate::rng::Rng;
use crate::steps::{Role, Steps};
use crate::trace::Trace;
use bytes::Bytes;
use parking_lot::Mutex;
use rookery_directory::source::{Changes, ConditionalBatch, RecordPage, Reply, Source};
use rookery_directory::{MemorySource, Position, SourceError};
use rookery_kv::defect::{Defect, is_planted};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// Changes on their way to a node.
const CHANGES_READY: usize = 16;
/// What is waited for in vain, at most.
const HANGS: Duration = Duration::from_secs(15);

/// How a node gets on with the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Well.
    Good,
    /// It is refused.
    Refused,
    /// Nothing comes back.
    Hanging,
}

/// The directory. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Model(Arc<Inner>);

struct Inner {
    source: MemorySource,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    trace: Trace,
    steps: Arc<Steps>,
}

struct State {
    rng: Rng,
    reach: BTreeMap<usize, Reach>,
    /// One in so many commits comes to harm; 0: none.
    harm: u64,
    /// The answer to the next commit is lost.
    loses_next: bool,
    /// Which leader it has. Whoever waits for an answer of an earlier one gets none.
    leader: u64,
    /// What went wrong, by kind.
    counts: BTreeMap<&'static str, u64>,
}

enum Harm {
    None,
    LostRequest,
    LostAnswer,
    Late(Duration),
}

impl Model {
    pub(crate) fn new(seed: u64, trace: Trace, steps: Arc<Steps>) -> Model {
        let (reach, counts) = Default::default();
        let state = State { rng: Rng::new(seed, 3), reach, harm: 0, loses_next: false, leader: 0, counts };
        let source = MemorySource::new(1);
        let changed = watch::Sender::new(0);
        Model(Arc::new(Inner { source, state: Mutex::new(state), changed, trace, steps }))
    }

    pub(crate) fn source(&self) -> &MemorySource {
        &self.0.source
    }

    /// Sets how a node reaches it.
    pub(crate) fn set_reach(&self, node: usize, reach: Reach) {
        self.0.state.lock().reach.insert(node, reach);
        self.0.changed.send_modify(|changes| *changes += 1);
    }

    /// Sets that of so many commits one comes to harm; 0: none.
    pub(crate) fn set_harm(&self, one_in: u64) {
        self.0.state.lock().harm = one_in;
    }

    /// The answer to the next commit is lost.
    pub(crate) fn lose_next(&self) {
        self.0.state.lock().loses_next = true;
    }

    /// It is not lost, if there was none so far.
    pub(crate) fn forget_harm(&self) {
        self.0.state.lock().loses_next = false;
    }

    /// The leader is gone: what was asked of it has no answer, whoever follows is cut off, and for some time there is
    /// no other.
    pub(crate) fn change_leader(&self, nodes: usize, spell: Duration) {
        self.0.state.lock().leader += 1;
        (0..nodes).for_each(|node| self.set_reach(node, Reach::Refused));
        let model = self.clone();
        tokio::spawn(async move {
            sleep(spell).await;
            (0..nodes).for_each(|node| model.set_reach(node, Reach::Good));
        });
    }

    /// Whether every node reaches it.
    pub(crate) fn is_well(&self) -> bool {
        self.0.state.lock().reach.values().all(|reach| *reach == Reach::Good)
    }

    fn leader(&self) -> u64 {
        self.0.state.lock().leader
    }

    /// What went wrong, by kind.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.state.lock().counts.clone()
    }

    /// A request that comes only when whoever sent it has given it up, or has had it done another time.
    fn later(&self, batch: ConditionalBatch, pause: Duration) {
        let model = self.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            let is_blind = is_planted(Defect::DelayedCompareAndSet);
            let conditions = if is_blind { Vec::new() } else { batch.conditions };
            let late = ConditionalBatch { conditions, writes: batch.writes };
            let done = model.0.source.commit(late).await;
            model.0.trace.say(format_args!("directory: a late request is done: {}", done.is_ok()));
        });
    }

    /// As one start of a node reaches it.
    pub(crate) fn of_node(&self, node: usize, alive: Alive) -> Arc<dyn Source> {
        Arc::new(OfNode { model: self.clone(), node, alive })
    }
}

struct OfNode {
    model: Model,
    node: usize,
    alive: Alive,
}

fn away() -> SourceError {
    SourceError::Unavailable("the directory cannot be reached".to_owned())
}

fn lost() -> SourceError {
    SourceError::Unknown("no answer of the directory".to_owned())
}

impl OfNode {
    fn reach(&self) -> Reach {
        match self.alive.load(Ordering::Relaxed) {
            true => self.model.0.state.lock().reach.get(&self.node).copied().unwrap_or(Reach::Good),
            false => Reach::Refused,
        }
    }

    /// On the way there, or back. False: it has not arrived.
    async fn way(&self) -> bool {
        let pause = self.model.0.state.lock().rng.micros(100, 900);
        sleep(pause).await;
        match self.reach() {
            Reach::Good => true,
            Reach::Refused => false,
            Reach::Hanging => {
                let mut changed = self.model.0.changed.subscribe();
                let well =
                    async { while self.reach() == Reach::Hanging && changed.changed().await.is_ok() {} };
                // What waited so long is given up by whoever carries it.
                tokio::time::timeout(HANGS, well).await.is_ok() && self.reach() == Reach::Good
            }
        }
    }

    /// Returns when there is another leader.
    async fn another_leader(&self, known: u64) {
        let mut changed = self.model.0.changed.subscribe();
        while self.model.leader() == known && changed.changed().await.is_ok() {}
    }

    async fn asked<T>(&self, question: Reply<'_, T>) -> Result<T, SourceError> {
        if !self.way().await {
            return Err(away());
        }
        let leader = self.model.leader();
        let answer = question.await;
        match self.way().await && self.model.leader() == leader {
            true => answer,
            false => Err(away()),
        }
    }

    fn harm(&self) -> Harm {
        let mut state = self.model.0.state.lock();
        if std::mem::take(&mut state.loses_next) {
            return Harm::LostAnswer;
        }
        let harm = state.harm;
        if harm == 0 || !state.rng.one_in(harm) {
            return Harm::None;
        }
        match state.rng.below(3) {
            0 => Harm::LostRequest,
            1 => Harm::LostAnswer,
            _ => state.late(),
        }
    }
}

impl State {
    fn late(&mut self) -> Harm {
        Harm::Late(self.rng.micros(1_000, 20_000_000))
    }

    fn count(&mut self, harm: &Harm) {
        let kind = match harm {
            Harm::None => return,
            Harm::LostRequest => "directory-lost-request",
            Harm::LostAnswer => "directory-lost-answer",
            Harm::Late(_) => "directory-late-request",
        };
        *self.counts.entry(kind).or_default() += 1;
    }
}

impl Source for OfNode {
    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position> {
        Box::pin(async move {
            if !self.way().await {
                return Err(away());
            }
            let leader = self.model.leader();
            let steps = &self.model.0.steps;
            let step = steps.of_change(self.node, &batch);
            let is_struck = step.is_some_and(|(account, before, _, ends)| {
                steps.reached(account, before, ends) == Some(Role::Directory)
            });
            let harm = match is_struck {
                true => {
                    let mut state = self.model.0.state.lock();
                    if state.rng.one_in(2) { Harm::LostRequest } else { state.late() }
                }
                false => self.harm(),
            };
            self.model.0.state.lock().count(&harm);
            let is_well = matches!(harm, Harm::None);
            let answer = match harm {
                Harm::None => self.model.0.source.commit(batch).await,
                Harm::LostRequest => Err(lost()),
                Harm::LostAnswer => {
                    let answer = self.model.0.source.commit(batch).await;
                    self.model.0.trace.say(format_args!("directory: an answer is lost, {}", answer.is_ok()));
                    Err(lost())
                }
                Harm::Late(pause) => {
                    self.model.later(batch, pause);
                    Err(lost())
                }
            };
            let is_struck =
                step.filter(|_| is_well && answer.is_ok()).is_some_and(|(account, _, after, ends)| {
                    steps.reached(account, after, ends) == Some(Role::Directory)
                });
            if is_struck {
                self.model.0.state.lock().count(&Harm::LostAnswer);
                return Err(lost());
            }
            match self.way().await && self.model.leader() == leader {
                true => answer,
                false => Err(lost()),
            }
        })
    }

    fn head(&self) -> Reply<'_, Position> {
        self.model.0.steps.asks(self.node);
        Box::pin(self.asked(self.model.0.source.head()))
    }

    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)> {
        Box::pin(self.asked(self.model.0.source.get(keys)))
    }

    fn page(&self, start: Bytes, limit: usize) -> Reply<'_, RecordPage> {
        // Small ones, so that much happens between them.
        Box::pin(self.asked(self.model.0.source.page(start, limit.min(7))))
    }

    fn changes(&self, since: Position) -> Reply<'_, Changes> {
        Box::pin(async move {
            let leader = self.model.leader();
            let mut changes = self.asked(self.model.0.source.changes(since)).await?;
            let (to, wrapped) = mpsc::channel(CHANGES_READY);
            let here = OfNode { model: self.model.clone(), node: self.node, alive: self.alive.clone() };
            tokio::spawn(async move {
                loop {
                    let next = tokio::select! {
                        biased;
                        () = to.closed() => return,
                        () = here.another_leader(leader) => Err(away()),
                        next = changes.next() => next,
                    };
                    let next = if here.way().await { next } else { Err(away()) };
                    let ends = next.is_err();
                    if to.send(next).await.is_err() || ends {
                        return;
                    }
                }
            });
            Ok(Changes::new(wrapped))
        })
    }
}
