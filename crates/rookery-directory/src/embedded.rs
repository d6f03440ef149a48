//! The source in a node's own engine: for the single server, and for the directory node of a small site.
//!
//! The node's copy and the source are the same records. Changes are decided one after another, each on what all
//! before it will leave; those that come while a group is being written are written together next.
//!
//! Invariants:
//! - A change is answered after all that it was decided on is on the disk.
//! - A decided change goes on when whoever asked has gone.
//! - A change is in the change log from the batch on that makes it durable.

use crate::change::{Change, read_state, unavailable};
use crate::change_log::{self, ChangeLog};
use crate::copy::{Copy, page_of};
use crate::derive::Applier;
use crate::encoding::Damaged;
use crate::overlay::{Overlaid, Overlay};
use crate::published::Writes;
use crate::records::{POSITION_KEY, STATE_KEY, decode_state, is_primary};
use crate::source::{
    Changes, ConditionalBatch, Event, GET_MAX, Position, RecordPage, Reply, Source, SourceError, Write,
};
use crate::{Commit, DirectoryError};
use bytes::Bytes;
use parking_lot::Mutex;
use rookery_kv::{Engine, Read, Space, off_thread};
use rookery_types::AccountName;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Changes under way at most; further ones wait.
const WAITING_MAX: usize = 4096;
/// Keys and octets that a batch may have.
const BATCH_KEYS_MAX: usize = 10_000;
const BATCH_OCTETS_MAX: usize = 1 << 20;
/// Octets of a page at most, but for its last record.
const PAGE_OCTETS_MAX: usize = 1 << 20;
/// Events of one follower that are held ready.
const EVENTS_READY: usize = 64;
/// What is said when another source takes its place.
const MOVES: &str = "the directory moves to another source";

/// The source in an engine. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedSource(Arc<Inner>);

struct Inner {
    copy: Arc<Copy>,
    room: tokio::sync::Semaphore,
    pipeline: Mutex<Pipeline>,
}

/// What is decided and not yet durable.
struct Pipeline {
    overlay: Overlay,
    group: Group,
    /// The number of the group that is being collected.
    number: u64,
    /// The last change that was decided.
    position: Position,
    log: ChangeLog,
    /// A task is writing, or about to.
    is_writing: bool,
    stage: Stage,
}

/// Whether it is still the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It takes changes.
    Open,
    /// Another is to take its place: nothing changes meanwhile.
    Closed,
    /// Another has taken its place: nothing is said any more.
    Retired,
}

/// What is written together.
#[derive(Default)]
struct Group {
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
    names: Vec<AccountName>,
    waiting: Vec<oneshot::Sender<Result<(), String>>>,
}

impl EmbeddedSource {
    /// Opens what the engine holds: an empty directory if there is none. Reads a few records and the log's keys.
    pub fn open(engine: Arc<dyn Engine>, commit: Arc<dyn Commit>) -> Result<EmbeddedSource, DirectoryError> {
        read_state(&*engine)?;
        let copy = Arc::new(Copy::open(engine, commit)?);
        let position = match copy.position() {
            Some(position) => position,
            None => {
                let revision = old_revision(&*copy.engine)?.unwrap_or(0);
                Position { cluster: rand::random(), term: 1, revision }
            }
        };
        copy.position.send_replace(Some(position));
        copy.revisions.send_replace(position.revision);
        let log = ChangeLog::open(&*copy.engine)?;
        let pipeline = Pipeline {
            overlay: Overlay::new(),
            group: Group::default(),
            number: 1,
            position,
            log,
            is_writing: false,
            stage: Stage::Open,
        };
        let room = tokio::sync::Semaphore::new(WAITING_MAX);
        Ok(EmbeddedSource(Arc::new(Inner { copy, room, pipeline: Mutex::new(pipeline) })))
    }

    pub(crate) fn copy(&self) -> &Arc<Copy> {
        &self.0.copy
    }

    /// Takes no changes from here on, and answers with the last position when all before are on the disk.
    pub async fn close(&self) -> Result<Position, SourceError> {
        let waiting = {
            let mut pipeline = self.0.pipeline.lock();
            if pipeline.stage == Stage::Open {
                pipeline.stage = Stage::Closed;
            }
            self.wait(&mut pipeline)
        };
        let ended = || "the directory has ended".to_owned();
        waiting.await.unwrap_or_else(|_| Err(ended())).map_err(SourceError::Unavailable)?;
        Ok(self.0.pipeline.lock().position)
    }

    /// Takes changes again after [`EmbeddedSource::close`], unless another has taken its place.
    pub fn reopen(&self) {
        let mut pipeline = self.0.pipeline.lock();
        if pipeline.stage == Stage::Closed {
            pipeline.stage = Stage::Open;
        }
    }

    /// Says nothing any more: another has taken its place.
    pub(crate) fn retire(&self) {
        self.0.pipeline.lock().stage = Stage::Retired;
    }

    /// Decides a change on what all before it leave, and answers when that is durable.
    pub(crate) async fn change<T>(
        &self,
        decide: impl FnOnce(&mut Change<'_>) -> Result<T, DirectoryError>,
    ) -> Result<T, DirectoryError> {
        let away = |why: String| DirectoryError::Unavailable(why);
        let _room = self.0.room.acquire().await.map_err(|error| away(error.to_string()))?;
        let (answer, waiting) = {
            let mut pipeline = self.0.pipeline.lock();
            let (answer, batch) = {
                let read = Overlaid { below: &*self.0.copy.engine, overlay: &pipeline.overlay };
                let mut change = Change::begin(&read, pipeline.position.revision);
                match decide(&mut change) {
                    Ok(answer) => (Ok(answer), change.finish()?),
                    Err(error) => (Err(error), None),
                }
            };
            match batch {
                Some(_) if pipeline.stage != Stage::Open => {
                    return Err(away(format!("{MOVES}; nothing was changed")));
                }
                Some(batch) => drop(self.take(&mut pipeline, &batch.writes)?),
                // It rests on changes that are not durable, so it waits for them.
                None if pipeline.is_writing => {}
                None => return answer,
            }
            (answer, self.wait(&mut pipeline))
        };
        match waiting.await {
            Ok(Ok(())) => answer,
            Ok(Err(why)) => Err(DirectoryError::Pending(why)),
            Err(_) => Err(DirectoryError::Pending("the directory has ended".to_owned())),
        }
    }

    /// Takes writes into the group that is being collected, as the next revision.
    fn take(&self, pipeline: &mut Pipeline, writes: &[Write]) -> Result<Position, DirectoryError> {
        let (names, applied) = {
            let read = Overlaid { below: &*self.0.copy.engine, overlay: &pipeline.overlay };
            let mut applier = Applier::new(&read);
            applier.apply(writes)?;
            applier.into_parts()
        };
        let revision = pipeline.position.revision.checked_add(1);
        pipeline.position.revision = revision.ok_or(DirectoryError::Refused("no revision is left"))?;
        for (key, value) in applied {
            pipeline.overlay.insert(key.clone(), (pipeline.number, value.clone()));
            pipeline.group.writes.insert(key, value);
        }
        pipeline.group.names.extend(names);
        pipeline.group.writes.extend(pipeline.log.add(pipeline.position.revision, writes));
        Ok(pipeline.position)
    }

    /// Answers when all that was taken so far is durable.
    fn wait(&self, pipeline: &mut Pipeline) -> oneshot::Receiver<Result<(), String>> {
        let (done, waiting) = oneshot::channel();
        pipeline.group.waiting.push(done);
        if !std::mem::replace(&mut pipeline.is_writing, true) {
            let source = self.clone();
            tokio::spawn(async move { source.write_groups().await });
        }
        waiting
    }

    /// Writes one group after another until there is none.
    async fn write_groups(&self) {
        loop {
            let (group, number, position) = {
                let mut pipeline = self.0.pipeline.lock();
                if pipeline.group.waiting.is_empty() {
                    pipeline.is_writing = false;
                    return;
                }
                pipeline.number += 1;
                (std::mem::take(&mut pipeline.group), pipeline.number - 1, pipeline.position)
            };
            let Group { writes, names, waiting } = group;
            let written = match writes.is_empty() {
                true => Ok(()),
                false => {
                    let writes: Writes = writes.into_iter().collect();
                    self.0.copy.write(&names, writes, Some(position)).await
                }
            };
            let result = written.map_err(|error| error.to_string());
            let mut pipeline = self.0.pipeline.lock();
            let mut waiting = waiting;
            match &result {
                Ok(()) => pipeline.overlay.retain(|_, (group, _)| *group > number),
                Err(_) => waiting.extend(pipeline.start_again(&self.0.copy)),
            }
            drop(pipeline);
            for done in waiting {
                // Whoever asked may have gone; the change stands all the same.
                let _ = done.send(result.clone());
            }
        }
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Read) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Reply<'_, T> {
        let snapshot = self.0.copy.engine.snapshot();
        Box::pin(async move {
            let found = off_thread(move || read(&*snapshot)).await;
            let found = found.map_err(|error| SourceError::Unavailable(error.to_string()))?;
            found.map_err(source_error)
        })
    }

    /// Where a snapshot is. Before the first change nothing says so on the disk.
    fn position_in(&self, read: &dyn Read) -> Result<Position, DirectoryError> {
        let revision = old_revision(read)?.unwrap_or(0);
        let first = Position { revision, ..self.0.pipeline.lock().position };
        Ok(crate::change::read_position(read)?.unwrap_or(first))
    }
}

impl Pipeline {
    /// After a failure: what is on the disk counts, and whoever waits is told.
    fn start_again(&mut self, copy: &Copy) -> Vec<oneshot::Sender<Result<(), String>>> {
        self.overlay.clear();
        match crate::change::read_position(&*copy.engine) {
            Ok(Some(position)) => {
                self.position = position;
                // Perhaps what failed is there all the same; then followers are to be told.
                copy.at(position);
            }
            Ok(None) => self.position = copy.position().unwrap_or(self.position),
            // Nothing can be read, so nothing can be decided either.
            Err(error) => tracing::error!(%error, "the directory cannot be read"),
        }
        if let Ok(log) = ChangeLog::open(&*copy.engine) {
            self.log = log;
        }
        std::mem::take(&mut self.group).waiting
    }
}

/// The revision of a directory without a position: `None` if there is none, or else that of a program which had no
/// positions.
fn old_revision(read: &dyn Read) -> Result<Option<u64>, DirectoryError> {
    let Some(state) = read.get(Space::Directory, STATE_KEY).map_err(unavailable)? else { return Ok(None) };
    match decode_state(STATE_KEY, &state)?.1 {
        Some(revision) => Ok(Some(revision)),
        None if crate::change::read_position(read)?.is_some() => Ok(None),
        // To begin again at 0 would show followers revisions that they have seen with something else.
        None => Err(Damaged::new(POSITION_KEY, "it is missing").into()),
    }
}

fn source_error(error: DirectoryError) -> SourceError {
    match error {
        DirectoryError::Damaged(damaged) => SourceError::Damaged(damaged.to_string()),
        DirectoryError::WentBack(why) => SourceError::WentBack(why),
        error => SourceError::Unavailable(error.to_string()),
    }
}

impl Source for EmbeddedSource {
    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position> {
        Box::pin(async move {
            let away = |why: String| SourceError::Unavailable(why);
            let keys = batch.conditions.len().max(batch.writes.len());
            if keys > BATCH_KEYS_MAX || batch.octets() > BATCH_OCTETS_MAX {
                return Err(SourceError::TooLarge);
            }
            if batch.writes.iter().any(|write| !is_primary(&write.key)) {
                return Err(SourceError::Damaged(
                    "only primary records that the program knows are written".to_owned(),
                ));
            }
            let _room = self.0.room.acquire().await.map_err(|error| away(error.to_string()))?;
            let (answer, waiting) = {
                let mut pipeline = self.0.pipeline.lock();
                if pipeline.stage != Stage::Open {
                    return Err(away(MOVES.to_owned()));
                }
                let holds = {
                    let read = Overlaid { below: &*self.0.copy.engine, overlay: &pipeline.overlay };
                    let mut holds = batch.conditions.iter().map(|condition| {
                        let found = read.get(Space::Directory, &condition.key).map_err(unavailable)?;
                        Ok::<_, DirectoryError>(found == condition.value)
                    });
                    holds
                        .try_fold(true, |all, holds| holds.map(|holds| all && holds))
                        .map_err(source_error)?
                };
                let answer = match holds {
                    true if batch.writes.is_empty() => Ok(pipeline.position),
                    true => Ok(self.take(&mut pipeline, &batch.writes).map_err(source_error)?),
                    false => Err(SourceError::Conflict),
                };
                (answer, self.wait(&mut pipeline))
            };
            match waiting.await {
                Ok(Ok(())) => answer,
                // The write has failed, and may be found on the disk at the next start.
                Ok(Err(why)) => Err(SourceError::Unknown(why)),
                Err(_) => Err(SourceError::Unknown("the directory has ended".to_owned())),
            }
        })
    }

    fn head(&self) -> Reply<'_, Position> {
        // What was acknowledged is durable. It is asked of the engine, whose snapshots are what followers are shown:
        // they may have seen a change before whoever made it is told, and the head is never behind what was seen.
        Box::pin(async move {
            if self.0.pipeline.lock().stage == Stage::Retired {
                return Err(SourceError::Unavailable(MOVES.to_owned()));
            }
            self.position_in(&*self.0.copy.engine).map_err(source_error)
        })
    }

    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)> {
        let source = self.clone();
        self.read(move |read| {
            let values = keys.iter().take(GET_MAX).map(|key| match is_primary(key) {
                true => read.get(Space::Directory, key).map_err(unavailable),
                false => Ok(None),
            });
            let values = values.collect::<Result<Vec<_>, _>>()?;
            Ok((source.position_in(read)?, values))
        })
    }

    fn page(&self, start: Bytes, limit: usize) -> Reply<'_, RecordPage> {
        let source = self.clone();
        self.read(move |read| {
            let (records, next) = page_of(read, &start, limit.max(1), PAGE_OCTETS_MAX)?;
            Ok(RecordPage { records, next, position: source.position_in(read)? })
        })
    }

    fn changes(&self, since: Position) -> Reply<'_, Changes> {
        Box::pin(async move {
            let head = self.head().await?;
            if since.cluster != head.cluster || since > head {
                return Err(SourceError::WentBack(format!(
                    "{since:?} was asked for, and {head:?} is the end"
                )));
            }
            if since.term != head.term {
                return Err(SourceError::Compacted);
            }
            // Once now, so that whoever asks for too much is told at once.
            let first = self.logged_after(since).await?;
            let (events, changes) = mpsc::channel(EVENTS_READY);
            let source = self.clone();
            tokio::spawn(async move { source.tell(since, first, events).await });
            Ok(Changes::new(changes))
        })
    }
}

impl EmbeddedSource {
    /// The next changes after a position; none if it is the newest.
    async fn logged_after(&self, since: Position) -> Result<Vec<Event>, SourceError> {
        let head = self.0.copy.position().unwrap_or_default();
        let events = self.read(move |read| change_log::after(read, since, EVENTS_READY));
        let events = events.await?;
        match events.is_empty() && since.revision < head.revision {
            true => Err(SourceError::Compacted),
            false => Ok(events),
        }
    }

    async fn tell(
        &self,
        mut at: Position,
        mut events: Vec<Event>,
        to: mpsc::Sender<Result<Event, SourceError>>,
    ) {
        let mut revisions = self.0.copy.revisions.subscribe();
        loop {
            if let Some(last) = events.last() {
                at = last.position;
            }
            for event in events {
                if to.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            while *revisions.borrow_and_update() <= at.revision {
                tokio::select! {
                    () = to.closed() => return,
                    changed = revisions.changed() => if changed.is_err() { return },
                }
            }
            events = match self.logged_after(at).await {
                Ok(events) => events,
                Err(error) => {
                    let _ = to.send(Err(error)).await;
                    return;
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Encoder;
    use crate::records::{PUBLISHED_KEY, account_key, domain_key, id_key};
    use crate::{CopiedDirectory, DirectCommit, Directory, Home, published};
    use rookery_kv::Batch;
    use rookery_kv::memory::MemoryEngine;
    use rookery_kv::sim::SimDisk;
    use rookery_types::{AccountId, Epoch, NodeId, StoreId, UserName};

    /// A directory as it was written before there were positions: one domain, one account, 41 changes.
    fn old() -> Arc<dyn Engine> {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(SimDisk::new(1)));
        let name = AccountName::User(UserName::parse("joe", "x.test").unwrap());
        let sealed = |key: &[u8], fields: &dyn Fn(&mut Encoder)| {
            let mut e = Encoder::new(1);
            fields(&mut e);
            (key.to_vec(), e.seal(key))
        };
        let id = AccountId::new(3).unwrap();
        let mut batch = Batch::new();
        for (key, value) in [
            sealed(STATE_KEY, &|e| {
                e.varint(41).varint(4).text("x.test");
            }),
            sealed(&domain_key("x.test"), &|e| {
                e.varint(1);
            }),
            sealed(&account_key(&name), &|e| {
                e.varint(3).u64(7).raw(&[7; 16]).varint(1).u8(1).text("").varint(41);
            }),
            sealed(&id_key(id), &|e| {
                e.text("user/joe@x.test");
            }),
            sealed(PUBLISHED_KEY, &|_| {}),
        ] {
            batch.put(Space::Directory, key, value);
        }
        engine.commit(batch).unwrap();
        engine
    }

    #[tokio::test]
    async fn a_directory_without_positions_goes_on() {
        let engine = old();
        let sound = || crate::check::check(&*engine.snapshot(), &mut |fault| panic!("{fault}")).unwrap();
        sound();
        assert!(!published::is_complete(&*engine).unwrap(), "it has grants, and nothing published");
        let open = || CopiedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine.clone()))).unwrap();
        let directory = open();
        let before = directory.position().unwrap();
        assert_eq!((before.revision, directory.barrier().await.unwrap()), (41, 41));
        let joe = AccountName::parse("user/joe@x.test").unwrap();
        assert_eq!(directory.look_up(&joe).await.unwrap().id.get(), 3);
        assert_eq!(directory.domains(None, 9).await.unwrap().len(), 1);
        let home = Home { node: NodeId(7), store: StoreId([7; 16]), epoch: Epoch(1) };
        let ann = AccountName::parse("user/ann@x.test").unwrap();
        assert_eq!(directory.reserve(ann, home, 1).await.unwrap().id.get(), 4);
        sound();
        let after = open().position().unwrap();
        assert!(after.revision > 41 && after.cluster == before.cluster);
        assert_eq!(&*open().default_domain().await.unwrap().unwrap().name, "x.test");
    }
}
