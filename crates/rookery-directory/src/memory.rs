//! A source in memory that can fail in every way a real one can: the model that the others are measured by, and the
//! source of simulations.

use crate::source::{
    Changes, ConditionalBatch, Event, GET_MAX, Position, Record, RecordPage, Reply, Source, SourceError,
    Write,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Events of one follower that are held ready.
const EVENTS_READY: usize = 16;
/// Keys, and octets, that a batch may have; as etcd has it.
const BATCH_KEYS_MAX: usize = 128;
const BATCH_OCTETS_MAX: usize = 1 << 20;

/// What a source is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// [`Source::commit`].
    Commit,
    /// [`Source::head`].
    Head,
    /// [`Source::get`].
    Get,
    /// [`Source::page`].
    Page,
    /// [`Source::changes`].
    Changes,
    /// One event on its way to a follower.
    Event,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// It is refused; nothing is done. An event: its stream ends.
    Away,
    /// The request is lost, and who asked cannot know that.
    LostRequest,
    /// It is done, and the answer is lost.
    LostAnswer,
    /// The request arrives only before the next commit of anybody, and who asked cannot know that.
    Late,
    /// It takes so long.
    Slow(Duration),
}

type Plan = Box<dyn FnMut(Call) -> Trouble + Send>;

struct State {
    records: BTreeMap<Bytes, Bytes>,
    log: VecDeque<Event>,
    position: Position,
    late: Vec<ConditionalBatch>,
    plan: Plan,
    predecessor: Option<Position>,
}

/// The source in memory. Clones are the same one.
#[derive(Clone)]
pub struct MemorySource {
    state: Arc<Mutex<State>>,
    revisions: watch::Sender<u64>,
}

/// All that a source holds, as it was once.
#[derive(Clone)]
pub struct MemorySnapshot(BTreeMap<Bytes, Bytes>, VecDeque<Event>, Position);

impl MemorySource {
    /// An empty one of a cluster.
    pub fn new(cluster: u64) -> MemorySource {
        let state = State {
            records: BTreeMap::new(),
            log: VecDeque::new(),
            position: Position { cluster, term: 1, revision: 0 },
            late: Vec::new(),
            plan: Box::new(|_| Trouble::None),
            predecessor: None,
        };
        MemorySource { state: Arc::new(Mutex::new(state)), revisions: watch::Sender::new(0) }
    }

    /// Sets what will go wrong with each call from now on.
    pub fn set_plan(&self, plan: impl FnMut(Call) -> Trouble + Send + 'static) {
        self.state.lock().plan = Box::new(plan);
    }

    /// Says that it goes on from where another history was.
    pub fn begin_after(&self, position: Position) {
        self.state.lock().predecessor = Some(position);
    }

    /// Forgets all changes but the last `kept`.
    pub fn compact(&self, kept: usize) {
        let mut state = self.state.lock();
        while state.log.len() > kept {
            state.log.pop_front();
        }
    }

    /// All records.
    pub fn records(&self) -> BTreeMap<Bytes, Bytes> {
        self.state.lock().records.clone()
    }

    /// All that it holds now.
    pub fn snapshot(&self) -> MemorySnapshot {
        let state = self.state.lock();
        MemorySnapshot(state.records.clone(), state.log.clone(), state.position)
    }

    /// Goes back to what it once held, in the same term or in a new one.
    pub fn go_back(&self, to: MemorySnapshot, terms: u64) {
        let mut state = self.state.lock();
        let term = state.position.term + terms;
        (state.records, state.log, state.position) = (to.0, to.1, to.2);
        state.position.term = term;
        if terms > 0 {
            state.log.clear();
        }
        let revision = state.position.revision;
        drop(state);
        self.revisions.send_replace(revision);
    }

    async fn trouble(&self, call: Call) -> Result<Trouble, SourceError> {
        let trouble = (self.state.lock().plan)(call);
        match trouble {
            Trouble::Away => Err(SourceError::Unavailable("it is planned to be away".to_owned())),
            Trouble::LostRequest | Trouble::Late if call != Call::Commit => Err(lost()),
            Trouble::Slow(pause) => {
                tokio::time::sleep(pause).await;
                Ok(trouble)
            }
            _ => Ok(trouble),
        }
    }

    fn answer<T>(trouble: Trouble, answer: T) -> Result<T, SourceError> {
        match trouble {
            Trouble::LostAnswer => Err(lost()),
            _ => Ok(answer),
        }
    }

    async fn tell(&self, mut at: Position, to: mpsc::Sender<Result<Event, SourceError>>) {
        let mut revisions = self.revisions.subscribe();
        loop {
            revisions.borrow_and_update();
            let next = self.state.lock().after(at);
            let next = match next {
                Ok(Some(event)) => {
                    self.trouble(Call::Event).await.and_then(|trouble| MemorySource::answer(trouble, event))
                }
                Ok(None) => {
                    tokio::select! {
                        () = to.closed() => return,
                        changed = revisions.changed() => if changed.is_err() { return },
                    }
                    continue;
                }
                Err(error) => Err(error),
            };
            let ended = next.is_err();
            if let Ok(event) = &next {
                at = event.position;
            }
            if to.send(next).await.is_err() || ended {
                return;
            }
        }
    }
}

fn lost() -> SourceError {
    SourceError::Unknown("it is planned to be lost".to_owned())
}

impl State {
    fn apply(&mut self, batch: &ConditionalBatch) -> Result<Position, SourceError> {
        let holds = |condition: &crate::source::Condition| {
            self.records.get(&condition.key) == condition.value.as_ref()
        };
        if !batch.conditions.iter().all(holds) {
            return Err(SourceError::Conflict);
        }
        if batch.writes.is_empty() {
            return Ok(self.position);
        }
        self.position.revision += 1;
        for Write { key, value } in &batch.writes {
            match value {
                Some(value) => drop(self.records.insert(key.clone(), value.clone())),
                None => drop(self.records.remove(key)),
            }
        }
        self.log.push_back(Event { position: self.position, writes: batch.writes.clone() });
        Ok(self.position)
    }

    /// The first change after a position.
    fn after(&self, at: Position) -> Result<Option<Event>, SourceError> {
        if at.cluster != self.position.cluster || at > self.position {
            return Err(SourceError::WentBack(format!(
                "{at:?} was asked for, and {:?} is the end",
                self.position
            )));
        }
        if at.term != self.position.term {
            return Err(SourceError::Compacted);
        }
        let first = self.log.front().map_or(self.position.revision, |event| event.position.revision - 1);
        if at.revision < first {
            return Err(SourceError::Compacted);
        }
        let index = usize::try_from(at.revision - first).unwrap_or(usize::MAX);
        Ok(self.log.get(index).cloned())
    }
}

impl Source for MemorySource {
    fn predecessor(&self) -> Reply<'_, Option<Position>> {
        Box::pin(async move { Ok(self.state.lock().predecessor) })
    }

    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position> {
        Box::pin(async move {
            if batch.conditions.len().max(batch.writes.len()) > BATCH_KEYS_MAX
                || batch.octets() > BATCH_OCTETS_MAX
            {
                return Err(SourceError::TooLarge);
            }
            let trouble = self.trouble(Call::Commit).await?;
            let (applied, revision) = {
                let mut state = self.state.lock();
                match trouble {
                    Trouble::LostRequest => return Err(lost()),
                    Trouble::Late => {
                        state.late.push(batch);
                        return Err(lost());
                    }
                    _ => {}
                }
                for late in std::mem::take(&mut state.late) {
                    // Whoever sent it has been told that it may be done.
                    let _ = state.apply(&late);
                }
                (state.apply(&batch), state.position.revision)
            };
            self.revisions.send_replace(revision);
            MemorySource::answer(trouble, applied).and_then(|applied| applied)
        })
    }

    fn head(&self) -> Reply<'_, Position> {
        Box::pin(async move {
            let trouble = self.trouble(Call::Head).await?;
            let position = self.state.lock().position;
            MemorySource::answer(trouble, position)
        })
    }

    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)> {
        Box::pin(async move {
            let trouble = self.trouble(Call::Get).await?;
            let answer = {
                let state = self.state.lock();
                let values = keys.iter().take(GET_MAX).map(|key| state.records.get(key).cloned());
                (state.position, values.collect())
            };
            MemorySource::answer(trouble, answer)
        })
    }

    fn page(&self, start: Bytes, limit: usize) -> Reply<'_, RecordPage> {
        Box::pin(async move {
            let trouble = self.trouble(Call::Page).await?;
            let page = {
                let state = self.state.lock();
                let mut rest = state.records.range(start..);
                let records = rest.by_ref().take(limit.max(1));
                let records =
                    records.map(|(key, value)| Record { key: key.clone(), value: value.clone() }).collect();
                let next = rest.next().map(|(key, _)| key.clone());
                RecordPage { records, next, position: state.position }
            };
            MemorySource::answer(trouble, page)
        })
    }

    fn changes(&self, since: Position) -> Reply<'_, Changes> {
        Box::pin(async move {
            let trouble = self.trouble(Call::Changes).await?;
            self.state.lock().after(since)?;
            let (events, changes) = mpsc::channel(EVENTS_READY);
            let source = self.clone();
            tokio::spawn(async move { source.tell(since, events).await });
            MemorySource::answer(trouble, Changes::new(changes))
        })
    }
}
