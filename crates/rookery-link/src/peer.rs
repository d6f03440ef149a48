//! One other node: its connections, which of them a new stream takes, and how the node is.
//!
//! Each peer has three slots, two for interactive streams and one for bulk. Either side dials a slot that is empty; the
//! node with the higher id waits a little first, so that mostly the lower one dials. Should both have dialled, the
//! node with the lower id keeps the newest connection and retires the others. Streams stay where they are until they
//! end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rookery_types::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::frame::GoodbyeCode;
use crate::mux::{Mux, PeerFacts};

/// Which connections a stream may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody waits for each message.
    Interactive,
    /// Much, and nobody waits: bodies, moves, copies.
    Bulk,
}

/// How many connections two nodes have.
pub(crate) const SLOTS: u8 = 3;
const BULK_SLOT: u8 = 2;

/// How a node is, seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It answers.
    Up(Arc<PeerFacts>),
    /// It is silent for some heartbeats.
    Suspect(Arc<PeerFacts>),
    /// It takes no new streams since it is about to leave.
    Leaving(Arc<PeerFacts>),
    /// There is no connection; what was tried last failed so.
    Down(Arc<str>),
}

impl PeerState {
    /// Whether new streams can be opened.
    pub fn takes_streams(&self) -> bool {
        matches!(self, PeerState::Up(_) | PeerState::Suspect(_))
    }

    /// What is known of the node; `None`: it is down.
    pub fn facts(&self) -> Option<&Arc<PeerFacts>> {
        match self {
            PeerState::Up(facts) | PeerState::Suspect(facts) | PeerState::Leaving(facts) => Some(facts),
            PeerState::Down(_) => None,
        }
    }
}

pub(crate) struct Peer {
    pub(crate) id: NodeId,
    /// Where it listens; `None`: it has to dial.
    pub(crate) address: watch::Sender<Option<String>>,
    connections: Mutex<Connections>,
    state: watch::Sender<PeerState>,
    turn: AtomicUsize,
}

struct Connections {
    /// With their slots, oldest first.
    live: Vec<(u8, Arc<Mux>)>,
    why_down: Arc<str>,
    down_since: Instant,
    closed: bool,
}

impl Peer {
    pub(crate) fn new(id: NodeId, address: Option<String>) -> Peer {
        let why_down: Arc<str> = "it was not reached yet".into();
        let connections = Connections {
            live: Vec::new(),
            why_down: Arc::clone(&why_down),
            down_since: Instant::now(),
            closed: false,
        };
        Peer {
            id,
            address: watch::Sender::new(address),
            connections: Mutex::new(connections),
            state: watch::Sender::new(PeerState::Down(why_down)),
            turn: AtomicUsize::new(0),
        }
    }

    pub(crate) fn state(&self) -> watch::Receiver<PeerState> {
        self.state.subscribe()
    }

    /// Whether a slot has no connection that new streams can use.
    pub(crate) fn is_empty(&self, slot: u8) -> bool {
        let connections = self.connections.lock();
        !connections.closed && !connections.live.iter().any(|(of, mux)| *of == slot && is_usable(mux))
    }

    /// Notes that an attempt to connect failed.
    pub(crate) fn dial_failed(&self, why: &str) {
        let mut connections = self.connections.lock();
        if *connections.why_down != *why {
            connections.why_down = why.into();
        }
        drop(connections);
        self.refresh();
    }

    /// Since when there is no connection; `None`: there is one.
    pub(crate) fn down_for(&self) -> Option<Duration> {
        let connections = self.connections.lock();
        connections.live.is_empty().then(|| connections.down_since.elapsed())
    }

    /// Takes a new connection in. `lower`: this node has the lower id and decides which stay.
    /// `Err`: a newer start of the peer is connected already.
    pub(crate) fn adopt(self: &Arc<Peer>, slot: u8, mux: &Arc<Mux>, lower: bool) -> Result<(), &'static str> {
        let mut connections = self.connections.lock();
        if connections.closed {
            return Err("this node shuts down");
        }
        if connections.live.iter().any(|(_, other)| other.facts.boot > mux.facts.boot) {
            return Err("a later start of the same node is connected");
        }
        let (mut dead, mut double) = (Vec::new(), Vec::new());
        connections.live.retain(|(of, other)| {
            if other.facts.boot < mux.facts.boot {
                dead.push((Arc::clone(other), "the peer has started anew"));
                return false;
            }
            // Who dials holds the slot for empty: what it dialled before is gone on its side, unless either has said
            // that nothing new begins there.
            let takes_streams = other.retired().is_none() && !other.is_retiring();
            let redialled = *of == slot && !other.dialled() && !mux.dialled() && takes_streams;
            if redialled {
                dead.push((Arc::clone(other), "the peer has connected anew"));
                return false;
            }
            if lower && *of == slot && is_usable(other) {
                double.push(Arc::clone(other));
            }
            true
        });
        connections.live.push((slot, Arc::clone(mux)));
        drop(connections);
        for (mux, why) in dead {
            mux.end(why, Some(GoodbyeCode::DUPLICATE));
        }
        for mux in double {
            mux.retire(false);
        }
        self.refresh();
        let (peer, mux) = (Arc::clone(self), Arc::clone(mux));
        tokio::spawn(async move { peer.watch(&mux).await });
        Ok(())
    }

    /// Follows one connection until it ends.
    async fn watch(&self, mux: &Arc<Mux>) {
        let mut health = mux.health();
        while !mux.has_ended() {
            self.refresh();
            if health.changed().await.is_err() {
                break;
            }
        }
        let mut connections = self.connections.lock();
        connections.live.retain(|(_, other)| !Arc::ptr_eq(other, mux));
        if connections.live.is_empty() {
            connections.down_since = Instant::now();
            if let Some(why) = mux.why_ended() {
                connections.why_down = why;
            }
        }
        drop(connections);
        tracing::info!(peer = %mux.facts.name, why = mux.why_ended().as_deref().unwrap_or(""), "a link connection ended");
        self.refresh();
    }

    /// Works out how the node is. Also wakes whoever waits for a connection.
    fn refresh(&self) {
        // Under the lock, so that two of these do not overtake each other.
        let connections = self.connections.lock();
        let live = || connections.live.iter().map(|(_, mux)| mux).filter(|mux| !mux.has_ended());
        let facts = |mux: &Arc<Mux>| Arc::clone(&mux.facts);
        let up = live().find(|mux| mux.is_good() && mux.retired().is_none());
        let suspect = live().find(|mux| mux.retired().is_none());
        let state = match (up, suspect, live().next()) {
            (Some(mux), ..) => PeerState::Up(facts(mux)),
            (_, Some(mux), _) => PeerState::Suspect(facts(mux)),
            (_, _, Some(mux)) => PeerState::Leaving(facts(mux)),
            _ => PeerState::Down(Arc::clone(&connections.why_down)),
        };
        // Always told: slots may be empty though the node's state is what it was.
        self.state.send_replace(state);
    }

    /// The best connection for a new stream.
    pub(crate) fn pick(&self, class: Class) -> Option<Arc<Mux>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let connections = self.connections.lock();
        let usable = connections.live.iter().filter(|(_, mux)| !mux.has_ended() && mux.retired().is_none());
        let best = usable.max_by_key(|(slot, mux)| {
            let fits = (*slot == BULK_SLOT) == (class == Class::Bulk);
            let next = usize::from(*slot) % 2 == turn % 2;
            (mux.is_good(), fits, next)
        });
        best.map(|(_, mux)| Arc::clone(mux))
    }

    /// Whether the node said that it leaves.
    pub(crate) fn is_leaving(&self) -> bool {
        self.connections.lock().live.iter().any(|(_, mux)| mux.retired() == Some(true))
    }

    pub(crate) fn live(&self) -> Vec<Arc<Mux>> {
        self.connections.lock().live.iter().map(|(_, mux)| Arc::clone(mux)).collect()
    }

    /// Ends all connections; no more are taken.
    pub(crate) fn close(&self, why: &str) {
        let mut connections = self.connections.lock();
        connections.closed = true;
        connections.why_down = why.into();
        drop(connections);
        for mux in self.live() {
            mux.end(why, Some(GoodbyeCode::DONE));
        }
        self.refresh();
    }
}

fn is_usable(mux: &Mux) -> bool {
    // A suspect one too: it is cut soon enough, and a second one would be no better.
    !mux.has_ended() && mux.retired() != Some(false)
}
