//! One connection between two nodes with many streams on it.
//!
//! A task reads and gives each frame to its stream, whose user is woken; whoever sends writes at once (`out`).
//! A second task, the keeper, beats the heart, watches the peer's, and writes on when the transport was full.
//!
//! Invariants:
//! - The reader never waits for a stream's user: credit bounds what the streams hold, so nobody holds others up.
//! - A number of a stream is used once. A frame for a number that was never used is an error; one for a stream that
//!   is over is late, and dropped.
//! - Locks are taken in the order stream, table, queue; no user's code runs and nothing waits under them.
//! - When the connection ends, each stream learns of it, and whether its first frame can have left this node.

mod out;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rookery_types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::budget::Budget;
use crate::dial::BoxTransport;
use crate::error::{LinkError, Reach};
use crate::frame::{Decoder, Frame, GoodbyeCode, ResetCode};
use crate::identity::Duties;
use crate::metrics::{Counters, count};
use crate::trace::TraceId;
use out::{Flushed, Out, Unsent};
pub(crate) use stream::Stream;
pub use stream::{CONTROL_OCTETS_MAX, LinkStream, Message, RecvHalf, SendHalf};

/// What each side of a stream may send before it hears anything.
pub const WINDOW_OCTETS_BASE: u32 = 16 << 10;
/// What a window grows to where the budget allows it.
pub const WINDOW_OCTETS_MAX: u32 = 1 << 20;
/// How often a connection beats.
pub const BEAT: Duration = Duration::from_millis(250);
/// Silence after which new streams go elsewhere.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(750);
/// Silence after which the connection is cut.
pub const DOWN_AFTER: Duration = Duration::from_secs(3);
/// How long the last frames of a connection may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);
/// What one read takes at most.
const READ_OCTETS: usize = 32 << 10;
/// Unused credit is given back after about so many beats.
const BEATS_PER_SWEEP: u32 = 4;

/// What is known of the node at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// Which node, by its certificate.
    pub node: NodeId,
    /// Its name, by its certificate.
    pub name: String,
    /// What it may do, by its certificate.
    pub duties: Duties,
    /// How often it has started.
    pub boot: u64,
    /// The version of its program.
    pub program: String,
    /// The version of the protocol that is spoken.
    pub protocol: u16,
}

/// A stream that a peer began.
pub struct Incoming {
    /// Who began it.
    pub peer: Arc<PeerFacts>,
    /// Which client's request it belongs to.
    pub trace: TraceId,
    /// What the opener said.
    pub head: Bytes,
    /// The stream.
    pub stream: LinkStream,
}

/// Takes streams that peers begin.
pub(crate) trait Accept: Send + Sync {
    /// Who serves this, or why nobody does.
    fn service(&self, peer: &PeerFacts, service: &str) -> Result<Serve, (ResetCode, &'static str)>;
}

pub(crate) type Serve = Box<dyn FnOnce(Incoming) + Send>;

/// How many streams a connection has at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamLimits {
    pub(crate) incoming: usize,
    pub(crate) outgoing: usize,
}

/// What all connections of a node share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) accept: Arc<dyn Accept>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) limits: StreamLimits,
    /// Told whenever a connection has lost its last stream.
    pub(crate) emptied: Arc<Notify>,
}

/// How a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    /// Nothing was heard for a while.
    Suspect,
    Ended(Arc<str>),
}

type Writer = WriteHalf<BoxTransport>;

pub(crate) struct Mux {
    pub(crate) facts: Arc<PeerFacts>,
    dialled: bool,
    out: Out<Writer>,
    table: Mutex<Table>,
    grown: Mutex<Vec<Weak<Stream>>>,
    budget: Arc<Budget>,
    pub(crate) counters: Arc<Counters>,
    accept: Arc<dyn Accept>,
    limits: StreamLimits,
    emptied: Arc<Notify>,
    began: Instant,
    /// When something was last heard, in milliseconds since `began`.
    heard: AtomicU64,
    health: watch::Sender<Health>,
    reader: OnceLock<AbortHandle>,
    /// The peer makes this side queue too much.
    overfull: Notify,
}

#[derive(Default)]
struct Table {
    streams: HashMap<u32, Arc<Stream>>,
    /// The last number given here.
    last_out: u32,
    /// The last number the peer gave.
    last_in: u32,
    incoming: usize,
    /// No new streams are taken here; `Some(false)`: the connection ends when the last one is over.
    retiring: Option<bool>,
    /// The peer takes no new streams; `Some(true)`: on none of its connections.
    retired: Option<bool>,
    ended: Option<Arc<str>>,
}

impl Mux {
    /// Begins with a transport on which both sides have said hello; `decoder` holds what was read after it.
    pub(crate) fn start(
        io: BoxTransport,
        decoder: Decoder,
        facts: Arc<PeerFacts>,
        dialled: bool,
        shared: &Shared,
    ) -> Arc<Mux> {
        let (read, write) = tokio::io::split(io);
        let mux = Arc::new(Mux {
            facts,
            dialled,
            out: Out::new(write),
            table: Mutex::default(),
            grown: Mutex::default(),
            budget: Arc::clone(&shared.budget),
            counters: Arc::clone(&shared.counters),
            accept: Arc::clone(&shared.accept),
            limits: shared.limits,
            emptied: Arc::clone(&shared.emptied),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            health: watch::Sender::new(Health::Good),
            reader: OnceLock::new(),
            overfull: Notify::new(),
        });
        count(&mux.counters.connections_made);
        let reader = tokio::spawn(Arc::clone(&mux).read(read, decoder));
        let _ = mux.reader.set(reader.abort_handle());
        if mux.table.lock().ended.is_some() {
            reader.abort();
        }
        tokio::spawn(Arc::clone(&mux).keep());
        mux
    }

    /// Changes of the connection's health, from what it is now.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(crate) fn is_good(&self) -> bool {
        *self.health.borrow() == Health::Good
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(*self.health.borrow(), Health::Ended(_))
    }

    pub(crate) fn why_ended(&self) -> Option<Arc<str>> {
        match &*self.health.borrow() {
            Health::Ended(why) => Some(Arc::clone(why)),
            _ => None,
        }
    }

    pub(crate) fn dialled(&self) -> bool {
        self.dialled
    }

    /// What the peer said of new streams: `None`: it takes them.
    pub(crate) fn retired(&self) -> Option<bool> {
        self.table.lock().retired
    }

    /// Whether the peer was told that no new streams are taken.
    pub(crate) fn is_retiring(&self) -> bool {
        self.table.lock().retiring.is_some()
    }

    pub(crate) fn stream_count(&self) -> usize {
        self.table.lock().streams.len()
    }

    /// How long nothing was heard.
    pub(crate) fn silence(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    fn hear(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// Begins a stream. Waits for room on the connection, for nothing of the peer.
    pub(crate) async fn open(
        self: &Arc<Mux>,
        service: &str,
        trace: TraceId,
        head: Bytes,
    ) -> Result<LinkStream, LinkError> {
        let mut turn = WaitingTurn { mux: self, turn: None };
        poll_fn(|cx| turn.mux.out.poll_turn(&mut turn.turn, cx)).await;
        let mut table = self.table.lock();
        let refused =
            |code, text: &str| Err(LinkError::Refused { peer: self.facts.node, code, text: text.into() });
        if let Some(why) = &table.ended {
            return Err(LinkError::Away { peer: self.facts.node, why: Arc::clone(why) });
        }
        if table.retired.is_some() {
            return refused(ResetCode::DRAINING, "it takes no new streams");
        }
        if table.streams.len() - table.incoming >= self.limits.outgoing {
            return refused(ResetCode::TOO_MANY, "too many streams are open to it");
        }
        let first = if self.dialled { 1 } else { 2 };
        let id = if table.last_out == 0 { Some(first) } else { table.last_out.checked_add(2) };
        let Some(id) = id else {
            return refused(ResetCode::DRAINING, "all numbers of this connection are used");
        };
        table.last_out = id;
        let stream = Arc::new(Stream::new(Arc::clone(self), id, trace));
        table.streams.insert(id, Arc::clone(&stream));
        // Under the table's lock, since numbers must rise on the wire.
        match self.out.push(&Frame::Open { stream: id, trace, service: service.to_owned(), head }) {
            Some(end) => stream.opened_at(end),
            None => self.overfull.notify_one(),
        }
        drop(table);
        count(&self.counters.streams_opened);
        self.flush();
        Ok(LinkStream::new(stream))
    }

    /// Takes no new streams from the peer. `node`: the whole node is about to leave, and ends its connections itself;
    /// else this connection ends when its last stream is over.
    pub(crate) fn retire(&self, node: bool) {
        let mut table = self.table.lock();
        table.retiring = Some(node);
        let over = !node && table.streams.is_empty();
        drop(table);
        self.push(&Frame::Retire { node });
        if over { self.end_retired() } else { self.flush() }
    }

    /// Ends the connection; `goodbye`: the peer is told.
    pub(crate) fn end(&self, why: &str, goodbye: Option<GoodbyeCode>) {
        self.end_with(why, goodbye, Unsent::Dropped);
    }

    /// Ends a connection whose last stream is over. How that ended may not be with the peer yet.
    fn end_retired(&self) {
        self.end_with("retired", Some(GoodbyeCode::DONE), Unsent::Sent);
    }

    fn end_with(&self, why: &str, goodbye: Option<GoodbyeCode>, unsent: Unsent) {
        let why: Arc<str> = why.into();
        let mut table = self.table.lock();
        if table.ended.is_some() {
            return;
        }
        table.ended = Some(Arc::clone(&why));
        table.incoming = 0;
        let streams = std::mem::take(&mut table.streams);
        drop(table);
        let last = goodbye.map(|code| Frame::Goodbye { code, text: why.to_string() });
        let offered = self.out.close(last.as_ref(), unsent);
        for stream in streams.into_values() {
            let peer = self.facts.node;
            stream.fail(|opened_at| LinkError::Lost {
                peer,
                why: Arc::clone(&why),
                reach: if opened_at > offered { Reach::Not } else { Reach::Unknown },
            });
        }
        count(&self.counters.connections_ended);
        if let Some(reader) = self.reader.get() {
            reader.abort();
        }
        self.health.send_replace(Health::Ended(why));
        self.emptied.notify_waiters();
    }

    fn push(&self, frame: &Frame) {
        // The stream's lock may be held, so the end waits for the keeper.
        if self.out.push(frame).is_none() {
            self.overfull.notify_one();
        }
    }

    fn flush(&self) {
        if let Flushed::Broken(error) = self.out.flush() {
            self.end(&error.to_string(), None);
        }
    }

    /// A stream is over.
    fn forget(&self, id: u32) {
        let mut table = self.table.lock();
        if table.streams.remove(&id).is_some() && !self.is_own(id) {
            table.incoming -= 1;
        }
        let empty = table.streams.is_empty();
        let over = empty && table.retiring == Some(false);
        drop(table);
        if empty {
            self.emptied.notify_waiters();
        }
        if over {
            self.end_retired();
        }
    }

    /// Whether this side gives such numbers.
    fn is_own(&self, id: u32) -> bool {
        (id % 2 == 1) == self.dialled
    }

    async fn read(self: Arc<Mux>, mut transport: ReadHalf<BoxTransport>, mut decoder: Decoder) {
        loop {
            loop {
                let frame = match decoder.next_frame() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(error) => return self.broken_by_peer(&error.to_string()),
                };
                if let Err(error) = self.on_frame(frame) {
                    return self.broken_by_peer(error);
                }
            }
            match transport.read_buf(decoder.room(READ_OCTETS)).await {
                Ok(0) => return self.end("the peer closed it", None),
                Ok(_) => self.hear(),
                Err(error) => return self.end(&error.to_string(), None),
            }
        }
    }

    fn broken_by_peer(&self, error: &str) {
        count(&self.counters.protocol_errors);
        tracing::warn!(peer = %self.facts.name, error, "a peer breaks the protocol of links");
        self.end(error, Some(GoodbyeCode::PROTOCOL));
    }

    fn on_frame(self: &Arc<Mux>, frame: Frame) -> Result<(), &'static str> {
        match frame {
            Frame::Data { stream, octets } => self.on_message(stream, Message::Data(octets)),
            Frame::Control { stream, octets } => self.on_message(stream, Message::Control(octets)),
            Frame::Open { stream, trace, service, head } => self.on_open(stream, trace, &service, head),
            Frame::Finish { stream } => {
                if let Some(known) = self.stream(stream)?
                    && known.on_finish()?
                {
                    self.forget(stream);
                }
                Ok(())
            }
            Frame::Reset { stream, code, text } => {
                let Some(known) = self.stream(stream)? else { return Ok(()) };
                let (peer, text) = (self.facts.node, Arc::from(text));
                known.fail(|opened_at| match code.before_service() && opened_at > 0 {
                    true => LinkError::Refused { peer, code, text },
                    false => LinkError::Reset { peer, code, text },
                });
                self.forget(stream);
                Ok(())
            }
            Frame::Credit { stream, octets } => {
                if let Some(known) = self.stream(stream)?
                    && known.on_credit(octets)?
                {
                    self.grown.lock().push(Arc::downgrade(&known));
                }
                Ok(())
            }
            Frame::GiveBack { stream, octets } => match self.stream(stream)? {
                Some(known) => known.on_give_back(octets),
                None => Ok(()),
            },
            Frame::Beat => Ok(()),
            Frame::Retire { node } => {
                self.table.lock().retired = Some(node);
                // Whoever picks connections looks again.
                self.health.send_modify(|_| ());
                Ok(())
            }
            Frame::Goodbye { text, .. } => {
                self.end(&format!("the peer says goodbye: {text}"), None);
                Ok(())
            }
            Frame::Hello(_) => Err("a second hello"),
        }
    }

    /// A stream that is not over; `None`: it is.
    fn stream(&self, id: u32) -> Result<Option<Arc<Stream>>, &'static str> {
        let table = self.table.lock();
        let known = table.streams.get(&id).cloned();
        let last = if self.is_own(id) { table.last_out } else { table.last_in };
        if known.is_none() && id > last {
            return Err("a frame for a stream that was never begun");
        }
        Ok(known)
    }

    fn on_message(&self, id: u32, message: Message) -> Result<(), &'static str> {
        let Some(stream) = self.stream(id)? else { return Ok(()) };
        let (Message::Data(octets) | Message::Control(octets)) = &message;
        self.counters.received(octets.len());
        stream.on_message(message)
    }

    fn on_open(
        self: &Arc<Mux>,
        id: u32,
        trace: TraceId,
        service: &str,
        head: Bytes,
    ) -> Result<(), &'static str> {
        let mut table = self.table.lock();
        if self.is_own(id) || id <= table.last_in {
            return Err("a stream begins with a number that it cannot have");
        }
        table.last_in = id;
        let serve = if table.ended.is_some() || table.retiring.is_some() {
            Err((ResetCode::DRAINING, "this node takes no new streams here"))
        } else if table.incoming >= self.limits.incoming {
            Err((ResetCode::TOO_MANY, "this node takes no more streams of one connection"))
        } else {
            self.accept.service(&self.facts, service)
        };
        match serve {
            Ok(serve) => {
                let stream = Arc::new(Stream::new(Arc::clone(self), id, trace));
                table.streams.insert(id, Arc::clone(&stream));
                table.incoming += 1;
                drop(table);
                count(&self.counters.streams_accepted);
                let stream = LinkStream::new(stream);
                serve(Incoming { peer: Arc::clone(&self.facts), trace, head, stream });
            }
            Err((code, text)) => {
                drop(table);
                count(&self.counters.streams_refused);
                self.push(&Frame::Reset { stream: id, code, text: text.to_owned() });
                self.flush();
            }
        }
        Ok(())
    }

    async fn keep(self: Arc<Mux>) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut health = self.health();
        let (mut beats, mut last) = (0_u32, Instant::now());
        loop {
            let broken = {
                let work = poll_fn(|cx| {
                    if let Flushed::Broken(error) = self.out.poll_flush(cx) {
                        return Poll::Ready(Some(error.to_string()));
                    }
                    beat.poll_tick(cx).map(|_| None)
                });
                tokio::select! {
                    biased;
                    _ = health.wait_for(|health| matches!(health, Health::Ended(_))) => break,
                    () = self.overfull.notified() => Some("the peer does not read what it asks for".to_owned()),
                    broken = work => broken,
                }
            };
            if let Some(error) = broken {
                self.end(&error, None);
                break;
            }
            beats = beats.wrapping_add(1);
            self.look(last.elapsed());
            last = Instant::now();
            self.push(&Frame::Beat);
            self.out.expire_turns();
            if beats.is_multiple_of(BEATS_PER_SWEEP) {
                self.sweep();
            }
        }
        let farewell = poll_fn(|cx| match self.out.poll_flush(cx) {
            Flushed::Blocked if !self.out.is_empty() => Poll::Pending,
            _ => Poll::Ready(()),
        });
        let _ = timeout(FAREWELL, farewell).await;
        if let Some(mut transport) = self.out.take_transport() {
            let _ = timeout(FAREWELL, transport.shutdown()).await;
        }
    }

    /// Looks how long the peer was silent; `since`: the last look.
    fn look(&self, since: Duration) {
        if since > BEAT * 3 {
            // This process itself was held up: what the peer said meanwhile was not read yet.
            self.hear();
        }
        let silence = self.silence();
        if silence >= DOWN_AFTER {
            count(&self.counters.silences);
            return self.end("the peer is silent", None);
        }
        let now = if silence >= SUSPECT_AFTER { Health::Suspect } else { Health::Good };
        self.health.send_if_modified(|health| match health {
            Health::Ended(_) => false,
            before if *before == now => false,
            before => {
                *before = now;
                true
            }
        });
    }

    fn sweep(&self) {
        let streams = std::mem::take(&mut *self.grown.lock());
        let again =
            streams.into_iter().filter(|stream| stream.upgrade().is_some_and(|stream| stream.sweep()));
        let again: Vec<_> = again.collect();
        self.grown.lock().extend(again);
    }
}

/// A turn that is given up when the waiting is.
struct WaitingTurn<'a> {
    mux: &'a Mux,
    turn: Option<out::Turn>,
}

impl Drop for WaitingTurn<'_> {
    fn drop(&mut self) {
        self.mux.out.forget_turn(self.turn.take());
    }
}
