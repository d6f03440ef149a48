//! The network between the nodes: transports that take time, are cut, or fall silent.
//!
//! A partition holds octets back and loses none, as TCP does; what waits too long is ended by the links themselves. A
//! machine without power says nothing more; a killed process has its connections reset.

use crate::rng::Rng;
use bytes::Bytes;
use parking_lot::Mutex;
use rookery_link::dial::Dialling;
use rookery_link::{BoxTransport, ConnectError, Dial, Identity};
use rookery_types::NodeId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

/// Octets on the way in one direction of a connection at most.
const CAPACITY: usize = 64 << 10;
/// A peer that does not answer is given up.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// What connects to a node: a transport and who is at its other end.
pub(crate) type Incoming = mpsc::UnboundedReceiver<(BoxTransport, Identity)>;

/// The network. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<State>>);

struct State {
    rng: Rng,
    listeners: BTreeMap<NodeId, Listener>,
    /// From which node to which nothing comes through.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Which nodes stand still: nothing comes from them or gets there.
    held: BTreeSet<NodeId>,
    /// How many times as long as usual things take.
    slowness: BTreeMap<(NodeId, NodeId), u64>,
    connections: Vec<(NodeId, NodeId, Weak<Mutex<Way>>)>,
}

struct Listener {
    alive: Alive,
    to: mpsc::UnboundedSender<(BoxTransport, Identity)>,
}

/// Whether one start of a node still lives.
pub(crate) type Alive = Arc<AtomicBool>;

/// One direction of a connection.
#[derive(Default)]
struct Way {
    queue: VecDeque<(Instant, Bytes)>,
    octets: usize,
    /// The writer has ended it in good order.
    ended: bool,
    /// It was reset.
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    last: Option<Instant>,
}

impl Way {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

impl Network {
    pub(crate) fn new(seed: u64) -> Network {
        Network(Arc::new(Mutex::new(State {
            rng: Rng::new(seed, 2),
            listeners: BTreeMap::new(),
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            slowness: BTreeMap::new(),
            connections: Vec::new(),
        })))
    }

    /// A node listens from now on.
    pub(crate) fn listen(&self, node: NodeId, alive: Alive) -> Incoming {
        let (to, incoming) = mpsc::unbounded_channel();
        self.0.lock().listeners.insert(node, Listener { alive, to });
        incoming
    }

    /// Nothing comes through between two nodes, in one direction or both.
    pub(crate) fn part(&self, a: NodeId, b: NodeId, both: bool) {
        let mut state = self.0.lock();
        state.cut.insert((a, b));
        if both {
            state.cut.insert((b, a));
        }
    }

    /// Whether nothing is cut or slow.
    pub(crate) fn is_well(&self) -> bool {
        let state = self.0.lock();
        state.cut.is_empty() && state.slowness.is_empty() && state.held.is_empty()
    }

    /// A node stands still, or goes on.
    pub(crate) fn hold(&self, node: NodeId, is_held: bool) {
        let mut state = self.0.lock();
        match is_held {
            true => state.held.insert(node),
            false => state.held.remove(&node),
        };
        state.each(|_, _| true, Way::wake);
    }

    /// From now on everything takes so many times as long as usual.
    pub(crate) fn slow(&self, a: NodeId, b: NodeId, times: u64) {
        let mut state = self.0.lock();
        state.slowness.insert((a, b), times);
        state.slowness.insert((b, a), times);
    }

    /// All is well again between all nodes.
    pub(crate) fn heal(&self) {
        let mut state = self.0.lock();
        state.cut.clear();
        state.slowness.clear();
        state.each(|_, _| true, Way::wake);
    }

    /// Connections between two nodes are reset.
    pub(crate) fn reset(&self, a: NodeId, b: NodeId) {
        let mut state = self.0.lock();
        state.each(
            |from, to| (from, to) == (a, b) || (from, to) == (b, a),
            |way| {
                way.reset = true;
                way.wake();
            },
        );
    }

    /// A node is gone, in silence or with its connections reset. Its `alive` says so already.
    pub(crate) fn lose(&self, node: NodeId, silent: bool) {
        let mut state = self.0.lock();
        state.listeners.remove(&node);
        state.each(
            |from, to| from == node || to == node,
            |way| {
                way.reset |= !silent;
                way.wake();
            },
        );
    }

    async fn connect(
        &self,
        from: NodeId,
        to: NodeId,
        own: &Alive,
    ) -> io::Result<(BoxTransport, BoxTransport)> {
        let (pause, is_cut) = {
            let mut state = self.0.lock();
            (state.delay(from, to) + state.delay(to, from), state.is_cut(from, to) || state.is_cut(to, from))
        };
        if is_cut {
            sleep(CONNECT_WITHIN).await;
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(pause).await;
        let mut state = self.0.lock();
        let other = state.listeners.get(&to).map(|listener| listener.alive.clone());
        let other = other.ok_or(io::ErrorKind::ConnectionRefused)?;
        if !own.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let ways: [Arc<Mutex<Way>>; 2] = Default::default();
        let [there, back] = ways;
        state.connections.retain(|(.., way)| way.strong_count() > 0);
        state.connections.push((from, to, Arc::downgrade(&there)));
        state.connections.push((to, from, Arc::downgrade(&back)));
        let end = |alive: &Alive, from, to, write: &Arc<Mutex<Way>>, read: &Arc<Mutex<Way>>| {
            let (network, alive, timer) = (self.clone(), alive.clone(), None);
            Box::new(Transport { network, alive, from, to, write: write.clone(), read: read.clone(), timer })
                as BoxTransport
        };
        Ok((end(own, from, to, &there, &back), end(&other, to, from, &back, &there)))
    }
}

impl State {
    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to)) || self.held.contains(&from) || self.held.contains(&to)
    }

    fn delay(&mut self, from: NodeId, to: NodeId) -> Duration {
        let times = self.slowness.get(&(from, to)).copied().unwrap_or(1);
        self.rng.micros(50, 400) * u32::try_from(times).unwrap_or(1)
    }

    fn each(&mut self, which: impl Fn(NodeId, NodeId) -> bool, what: impl Fn(&mut Way)) {
        for (from, to, way) in &self.connections {
            if which(*from, *to)
                && let Some(way) = way.upgrade()
            {
                what(&mut way.lock());
            }
        }
    }
}

/// One end of a connection.
struct Transport {
    network: Network,
    alive: Alive,
    from: NodeId,
    to: NodeId,
    write: Arc<Mutex<Way>>,
    read: Arc<Mutex<Way>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Transport {
    fn check(&self) -> io::Result<()> {
        match self.alive.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(io::Error::other("this start of the node is over")),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let is_cut = self.network.0.lock().is_cut(self.to, self.from);
        let read = self.read.clone();
        let mut way = read.lock();
        if way.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        way.reader = Some(cx.waker().clone());
        let Some((due, _)) = way.queue.front() else {
            return if way.ended && !is_cut { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let due = *due;
        if is_cut {
            return Poll::Pending;
        }
        if due > Instant::now() {
            let mut timer = Box::pin(tokio::time::sleep_until(due));
            if timer.as_mut().poll(cx).is_pending() {
                self.timer = Some(timer);
                return Poll::Pending;
            }
        }
        self.timer = None;
        if let Some((due, mut octets)) = way.queue.pop_front() {
            let part = octets.split_to(octets.len().min(buf.remaining()));
            buf.put_slice(&part);
            way.octets -= part.len();
            if !octets.is_empty() {
                way.queue.push_front((due, octets));
            }
        }
        way.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let delay = self.network.0.lock().delay(self.from, self.to);
        let mut way = self.write.lock();
        if way.reset || way.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if way.octets >= CAPACITY {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let part = octets.get(..octets.len().min(CAPACITY - way.octets)).unwrap_or(octets);
        let due = Instant::now() + delay;
        let due = way.last.map_or(due, |last| last.max(due));
        way.last = Some(due);
        way.octets += part.len();
        way.queue.push_back((due, Bytes::copy_from_slice(part)));
        way.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = self.write.lock();
        way.ended = true;
        way.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        // A machine without power says nothing more.
        if self.alive.load(Ordering::Relaxed) {
            let mut write = self.write.lock();
            write.ended = true;
            write.wake();
            drop(write);
            let mut read = self.read.lock();
            read.reset = true;
            read.wake();
        }
    }
}

/// How one start of a node reaches others.
pub(crate) struct Dialler {
    pub(crate) network: Network,
    pub(crate) own: Identity,
    pub(crate) alive: Alive,
    /// Who the others are.
    pub(crate) identities: Arc<Mutex<BTreeMap<NodeId, Identity>>>,
}

impl Dial for Dialler {
    fn dial<'a>(&'a self, node: NodeId, _address: &'a str) -> Dialling<'a> {
        Box::pin(async move {
            let (near, far) = self.network.connect(self.own.node, node, &self.alive).await?;
            let refused = || ConnectError::Transport("nobody listens".to_owned());
            let identity = self.identities.lock().get(&node).cloned().ok_or_else(refused)?;
            let state = self.network.0.lock();
            let listener = state.listeners.get(&node).ok_or_else(refused)?;
            listener.to.send((far, self.own.clone())).map_err(|_| refused())?;
            Ok((near, identity))
        })
    }
}
