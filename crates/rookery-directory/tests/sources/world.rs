//! Sources to be tested, and ways to come between them and who asks.

use parking_lot::Mutex;
use rookery_directory::remote::{Channel, Connect, Incoming, Outgoing, RemoteSource, Step, serve_source};
use rookery_directory::source::{Changes, ConditionalBatch, Event, RecordPage, Reply, Source, SourceError};
use rookery_directory::{CopiedDirectory, DirectCommit, EmbeddedSource, LOGGED_MAX, MemorySource, Position};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_kv::{Bytes, Engine};
use rookery_types::NodeId;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) type Work<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A kind of source, empty at first.
pub(crate) trait World: Sync {
    /// The source, as one more node reaches it.
    fn source(&self) -> Arc<dyn Source>;

    /// Makes it forget all changes so far.
    fn compact(&self) -> Work<'_>;
}

pub(crate) struct InMemory(MemorySource);

impl InMemory {
    pub(crate) fn new() -> InMemory {
        InMemory(MemorySource::new(7))
    }
}

impl World for InMemory {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.0.clone())
    }

    fn compact(&self) -> Work<'_> {
        Box::pin(async move { self.0.compact(0) })
    }
}

pub(crate) struct Embedded(EmbeddedSource);

impl Embedded {
    pub(crate) fn new() -> Embedded {
        let engine = engine();
        Embedded(EmbeddedSource::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap())
    }
}

impl World for Embedded {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.0.clone())
    }

    /// By as many changes as the log has room for, of a record that nobody reads.
    fn compact(&self) -> Work<'_> {
        Box::pin(async move {
            let mut before = None;
            for n in 0..=LOGGED_MAX {
                let value = Some(Bytes::from(n.to_string()));
                self.0.commit(crate::contract::swap(b"lcompact", before, value.clone())).await.unwrap();
                before = value;
            }
            self.0.commit(crate::contract::swap(b"lcompact", before, None)).await.unwrap();
        })
    }
}

pub(crate) fn engine() -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::new(SimDisk::new(1)))
}

/// A node's directory that follows a source.
pub(crate) fn node(engine: &Arc<dyn Engine>, source: Arc<dyn Source>) -> CopiedDirectory {
    // Each is another one.
    static NODES: AtomicU64 = AtomicU64::new(1);
    node_as(NodeId(NODES.fetch_add(1, Ordering::Relaxed)), engine, source)
}

/// The same of a node that starts more than once.
pub(crate) fn node_as(who: NodeId, engine: &Arc<dyn Engine>, source: Arc<dyn Source>) -> CopiedDirectory {
    CopiedDirectory::follow(engine.clone(), Arc::new(DirectCommit(engine.clone())), source, who).unwrap()
}

/// Stands between a node and its source.
pub(crate) struct Between {
    source: Arc<dyn Source>,
    /// Nothing comes through.
    pub(crate) is_cut: AtomicBool,
    /// Every so many answers to a commit get lost.
    pub(crate) lose_every: usize,
    /// What is told of every position.
    pub(crate) shown: Mutex<fn(Position) -> Position>,
    pub(crate) commits: AtomicUsize,
    pub(crate) pages: AtomicUsize,
    cuts: tokio::sync::Notify,
}

impl Between {
    pub(crate) fn new(source: Arc<dyn Source>, lose_every: usize) -> Arc<Between> {
        Arc::new(Between {
            source,
            is_cut: AtomicBool::new(false),
            lose_every,
            shown: Mutex::new(|position| position),
            commits: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            cuts: tokio::sync::Notify::new(),
        })
    }

    /// Lets nothing through, also of streams that were begun.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cuts.notify_waiters();
    }

    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }

    fn open(&self) -> Result<(), SourceError> {
        match self.is_cut.load(Ordering::SeqCst) {
            true => Err(SourceError::Unavailable("it is cut off".to_owned())),
            false => Ok(()),
        }
    }

    fn shown(&self, position: Position) -> Position {
        (*self.shown.lock())(position)
    }
}

/// The same for whoever holds it.
pub(crate) struct Through(pub(crate) Arc<Between>);

impl Source for Through {
    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position> {
        Box::pin(async move {
            self.0.open()?;
            let done = self.0.source.commit(batch).await?;
            let count = self.0.commits.fetch_add(1, Ordering::SeqCst) + 1;
            match self.0.lose_every > 0 && count.is_multiple_of(self.0.lose_every) {
                true => Err(SourceError::Unknown("the answer is lost".to_owned())),
                false => Ok(self.0.shown(done)),
            }
        })
    }

    fn head(&self) -> Reply<'_, Position> {
        Box::pin(async move {
            self.0.open()?;
            Ok(self.0.shown(self.0.source.head().await?))
        })
    }

    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)> {
        Box::pin(async move {
            self.0.open()?;
            let (position, values) = self.0.source.get(keys).await?;
            Ok((self.0.shown(position), values))
        })
    }

    fn page(&self, start: Bytes, _limit: usize) -> Reply<'_, RecordPage> {
        Box::pin(async move {
            self.0.open()?;
            self.0.pages.fetch_add(1, Ordering::SeqCst);
            // Small pages, so that there are several.
            let page = self.0.source.page(start, 7).await?;
            Ok(RecordPage { position: self.0.shown(page.position), ..page })
        })
    }

    fn changes(&self, since: Position) -> Reply<'_, Changes> {
        Box::pin(async move {
            self.0.open()?;
            let mut changes = self.0.source.changes(since).await?;
            let (events, told) = tokio::sync::mpsc::channel(1);
            let between = self.0.clone();
            tokio::spawn(async move {
                loop {
                    let cut = between.cuts.notified();
                    let next = match between.open() {
                        Err(error) => Err(error),
                        Ok(()) => tokio::select! {
                            next = changes.next() => next,
                            () = cut => Err(SourceError::Unavailable("it is cut off".to_owned())),
                            () = events.closed() => return,
                        },
                    };
                    let next = next.map(|event| Event { position: between.shown(event.position), ..event });
                    let ended = next.is_err();
                    if events.send(next).await.is_err() || ended {
                        return;
                    }
                }
            });
            Ok(Changes::new(told))
        })
    }

    fn nudge(&self) -> Reply<'_, ()> {
        self.0.source.nudge()
    }
}

/// A source that is reached over channels which cut messages anywhere.
pub(crate) struct Remote(Embedded);

impl Remote {
    pub(crate) fn new() -> Remote {
        Remote(Embedded::new())
    }
}

impl World for Remote {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(RemoteSource::new(Arc::new(Pipes(self.0.source()))))
    }

    fn compact(&self) -> Work<'_> {
        self.0.compact()
    }
}

struct Pipes(Arc<dyn Source>);
struct Sending(tokio::io::WriteHalf<tokio::io::DuplexStream>);
struct Receiving(tokio::io::ReadHalf<tokio::io::DuplexStream>);

impl Outgoing for Sending {
    fn send(&mut self, octets: Bytes) -> Step<'_, Result<(), ()>> {
        Box::pin(async move { self.0.write_all(&octets).await.map_err(drop) })
    }
}

impl Incoming for Receiving {
    fn recv(&mut self) -> Step<'_, Option<Bytes>> {
        Box::pin(async move {
            let mut octets = vec![0; 333];
            let count = self.0.read(&mut octets).await.ok().filter(|count| *count > 0)?;
            octets.truncate(count);
            Some(octets.into())
        })
    }
}

impl Connect for Pipes {
    fn connect(&self) -> Step<'_, Result<Channel, String>> {
        let (here, there) = tokio::io::duplex(1000);
        let (incoming, outgoing) = tokio::io::split(there);
        tokio::spawn(serve_source(self.0.clone(), Receiving(incoming), Sending(outgoing)));
        let (incoming, outgoing) = tokio::io::split(here);
        Box::pin(async move {
            Ok((
                Box::new(Sending(outgoing)) as Box<dyn Outgoing>,
                Box::new(Receiving(incoming)) as Box<dyn Incoming>,
            ))
        })
    }
}
