//! All links of a node: who the peers are, who serves which streams, and the door for those who connect.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rookery_types::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;

use crate::budget::Budget;
use crate::ca::{CaError, Credentials};
use crate::dial::{BoxTransport, Dial, TcpDial, identity_of, read_ahead};
use crate::error::LinkError;
use crate::frame::{GoodbyeCode, HEAD_OCTETS_MAX, ResetCode, SERVICE_OCTETS_MAX};
use crate::hello::{ConnectError, HELLO_WITHIN, Myself, PROTOCOL};
use crate::identity::{Duties, Identity};
use crate::join::JoinDesk;
use crate::metrics::{Counters, LinkCounters, count};
use crate::mux::{Accept, Health, Incoming, LinkStream, Mux, PeerFacts, Shared, StreamLimits};
use crate::peer::{Class, Peer as PeerEntry, PeerState, SLOTS};
use crate::services::{Handler, Services};
use crate::tls::{ALPN_JOIN, TlsConfigs};
use crate::trace::TraceId;

/// A node to be linked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which.
    pub id: NodeId,
    /// Where it listens, as `host:port`.
    pub address: String,
}

/// Decides whether a node with a good certificate may link, by what the cluster knows of it. `Err`: why not.
pub type Admit = Arc<dyn Fn(&PeerFacts) -> Result<(), String> + Send + Sync>;

/// What is set for all links of a node.
#[derive(Clone)]
pub struct LinksConfig {
    /// How often this node has started.
    pub boot: u64,
    /// The version of this program, for people.
    pub program: String,
    /// The versions of the protocol to speak.
    pub protocol: RangeInclusive<u16>,
    /// How many streams one connection may have in each direction.
    pub streams_max: usize,
    /// What all windows together may grow to above their base.
    pub budget_octets: usize,
    /// How long [`Links::open`] waits for a connection that was there a moment ago, or to a node that was not known
    /// before.
    pub patience: Duration,
    /// Who may link; `None`: each node with a certificate of the cluster's CA.
    pub admit: Option<Admit>,
}

impl LinksConfig {
    /// The usual.
    pub fn new(boot: u64, program: impl Into<String>) -> LinksConfig {
        LinksConfig {
            boot,
            program: program.into(),
            protocol: PROTOCOL,
            streams_max: 50_000,
            budget_octets: 64 << 20,
            patience: PATIENCE,
            admit: None,
        }
    }
}

/// The node with the higher id dials a slot only if it stays empty so long.
const YIELD: Duration = Duration::from_millis(100);
/// A node that has just begun and has the higher id waits for the other one to dial, and dials then: its first clients
/// are not to be refused meanwhile.
const PATIENCE: Duration = Duration::from_millis(750);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(900);
/// A connection that lived so long was a good one: the next attempt is made at once.
const PROVEN_AFTER: Duration = Duration::from_secs(1);
/// Connections that have not said hello yet.
const HANDSHAKES_MAX: usize = 256;
/// Nodes that join at the same time. Apart from the others, since whoever reaches the port can begin one.
const JOINS_MAX: usize = 16;

/// All links of this node. Clones are the same.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    myself: Myself,
    admit: Option<Admit>,
    patience: Duration,
    tls: Arc<ArcSwap<TlsConfigs>>,
    dial: Box<dyn Dial>,
    services: Arc<Services>,
    shared: Shared,
    counters: Arc<Counters>,
    budget: Arc<Budget>,
    peers: Mutex<HashMap<NodeId, Arc<PeerEntry>>>,
    /// Those of the last [`Links::set_peers`].
    wanted: Mutex<HashSet<NodeId>>,
    desk: RwLock<Option<Arc<JoinDesk>>>,
    joins: Semaphore,
    leaving: AtomicBool,
    closed: watch::Sender<bool>,
}

impl Links {
    /// Links over TCP and mutual TLS.
    pub fn new(credentials: &Credentials, config: LinksConfig) -> Result<Links, CaError> {
        let tls = Arc::new(ArcSwap::from_pointee(TlsConfigs::new(credentials)?));
        let dial = Box::new(TcpDial { tls: Arc::clone(&tls) });
        Ok(Links::build(credentials.identity().clone(), tls, dial, config))
    }

    /// Links over something else than TCP; [`Links::accept_over`] is the other end.
    pub fn with_dial(
        credentials: &Credentials,
        config: LinksConfig,
        dial: Box<dyn Dial>,
    ) -> Result<Links, CaError> {
        let tls = Arc::new(ArcSwap::from_pointee(TlsConfigs::new(credentials)?));
        Ok(Links::build(credentials.identity().clone(), tls, dial, config))
    }

    fn build(
        identity: Identity,
        tls: Arc<ArcSwap<TlsConfigs>>,
        dial: Box<dyn Dial>,
        config: LinksConfig,
    ) -> Links {
        let services = Arc::new(Services::default());
        let counters = Arc::new(Counters::default());
        let budget = Arc::new(Budget::new(config.budget_octets));
        let shared = Shared {
            accept: Arc::new(Arc::clone(&services)) as Arc<dyn Accept>,
            budget: Arc::clone(&budget),
            counters: Arc::clone(&counters),
            limits: StreamLimits { incoming: config.streams_max, outgoing: config.streams_max },
            emptied: Arc::default(),
        };
        let myself = Myself {
            node: identity.node,
            boot: config.boot,
            program: config.program,
            protocol: config.protocol,
        };
        let inner = Inner {
            identity,
            myself,
            admit: config.admit,
            patience: config.patience,
            tls,
            dial,
            services,
            shared,
            counters,
            budget,
            peers: Mutex::default(),
            wanted: Mutex::default(),
            desk: RwLock::default(),
            joins: Semaphore::new(JOINS_MAX),
            leaving: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        };
        Links { inner: Arc::new(inner) }
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Uses other credentials of the same node for connections from now on.
    pub fn set_credentials(&self, credentials: &Credentials) -> Result<(), CaError> {
        if credentials.identity().node != self.inner.identity.node {
            return Err(CaError::NoNode);
        }
        self.inner.tls.store(Arc::new(TlsConfigs::new(credentials)?));
        Ok(())
    }

    /// Serves streams of a name, begun by nodes that have all duties of `needs`. Each stream gets a task of its own,
    /// in a span with the peer, the service and the trace id. A service of the same name is replaced.
    pub fn serve<F, R>(&self, service: &str, needs: Duties, handler: F)
    where
        F: Fn(Incoming) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |incoming| Box::pin(handler(incoming)));
        self.inner.services.add(service, needs, handler);
    }

    /// Says whether this node starts: then streams of services that it has not got yet wait for them a moment, instead
    /// of being refused. A node that was known a moment ago is not to be away because it is started anew.
    pub fn set_starting(&self, is_starting: bool) {
        self.inner.services.set_starting(is_starting);
    }

    /// Lets new nodes join at this node's port.
    pub fn set_join_desk(&self, desk: Option<Arc<JoinDesk>>) {
        *self.inner.desk.write() = desk;
    }

    /// Accepts connections until [`Links::shutdown`].
    pub fn listen(&self, listener: TcpListener) -> JoinHandle<()> {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move { inner.accept_all(listener).await })
    }

    /// Takes a connection that somebody else made and secured; `peer` is who is at its other end.
    pub async fn accept_over(&self, io: BoxTransport, peer: Identity) -> Result<(), ConnectError> {
        self.inner.accepted(io, peer).await
    }

    /// Says which nodes to be linked with. Nodes that are not named any more are let go: their connections end when
    /// their streams do. Nodes that connect by themselves need not be named.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        let own = self.inner.identity.node;
        let peers: Vec<Peer> = peers.into_iter().filter(|peer| peer.id != own).collect();
        let wanted: HashSet<NodeId> = peers.iter().map(|peer| peer.id).collect();
        for Peer { id, address } in peers {
            let entry = self.inner.entry(id);
            entry.address.send_if_modified(|known| {
                let changed = known.as_deref() != Some(&address);
                *known = Some(address);
                changed
            });
        }
        let before = std::mem::replace(&mut *self.inner.wanted.lock(), wanted.clone());
        for gone in before.difference(&wanted) {
            let Some(entry) = self.inner.known(*gone) else { continue };
            entry.address.send_replace(None);
            entry.live().iter().for_each(|mux| mux.retire(false));
        }
    }

    /// How a node is, now and from now on.
    pub fn peer(&self, node: NodeId) -> watch::Receiver<PeerState> {
        self.inner.entry(node).state()
    }

    /// All nodes that are or were linked, with their states.
    pub fn peers(&self) -> Vec<(NodeId, PeerState)> {
        let peers = self.inner.peers.lock();
        peers.values().map(|peer| (peer.id, peer.state().borrow().clone())).collect()
    }

    /// Opens a stream. Waits for no answer of the peer: whether it takes the stream shows when something is received.
    pub async fn open(
        &self,
        peer: NodeId,
        class: Class,
        service: &str,
        trace: TraceId,
        head: Bytes,
    ) -> Result<LinkStream, LinkError> {
        if service.is_empty() || service.len() > SERVICE_OCTETS_MAX || head.len() > HEAD_OCTETS_MAX {
            return Err(LinkError::Misuse("the service's name or the head is too long"));
        }
        let entry = self.inner.known(peer).ok_or(LinkError::UnknownPeer(peer))?;
        let mux = match entry.pick(class) {
            Some(mux) => mux,
            None => self.wait(&entry, class).await?,
        };
        match mux.open(service, trace, head.clone()).await {
            // The connection went away under our hands; there may be another.
            Err(error) if error.cannot_have_reached() => {
                let other = entry.pick(class).filter(|other| !Arc::ptr_eq(other, &mux));
                other.ok_or(error)?.open(service, trace, head).await
            }
            done => done,
        }
    }

    /// Waits a moment for a connection, if there was one a moment ago.
    async fn wait(&self, entry: &PeerEntry, class: Class) -> Result<Arc<Mux>, LinkError> {
        let mut state = entry.state();
        let left = match entry.down_for() {
            // It may be making room for another program, which is there in a moment.
            _ if entry.is_leaving() => self.inner.patience,
            Some(down) => self.inner.patience.saturating_sub(down),
            None => self.inner.patience,
        };
        let work = async {
            loop {
                if let Some(mux) = entry.pick(class) {
                    return Some(mux);
                }
                state.changed().await.ok()?;
            }
        };
        if let Ok(Some(mux)) = timeout(left, work).await {
            return Ok(mux);
        }
        let peer = entry.id;
        let state = entry.state().borrow().clone();
        Err(match state {
            PeerState::Leaving(_) => {
                LinkError::Refused { peer, code: ResetCode::DRAINING, text: "it is about to leave".into() }
            }
            PeerState::Down(why) => LinkError::Away { peer, why },
            _ => LinkError::Away { peer, why: "its connections just ended".into() },
        })
    }

    /// What was counted.
    pub fn counters(&self) -> LinkCounters {
        self.inner.counters.snapshot()
    }

    /// How many streams are open, of both directions.
    pub fn stream_count(&self) -> usize {
        self.inner.all().iter().flat_map(|peer| peer.live()).map(|mux| mux.stream_count()).sum()
    }

    /// What windows may still grow by.
    pub fn budget_left_octets(&self) -> usize {
        self.inner.budget.left_octets()
    }

    /// Tells all peers that this node takes no new streams, and waits until all streams are over, or so long.
    /// Says whether all are over. This node may go on opening streams.
    pub async fn drain(&self, within: Duration) -> bool {
        self.inner.leaving.store(true, Ordering::Relaxed);
        for mux in self.inner.all().iter().flat_map(|peer| peer.live()) {
            mux.retire(true);
        }
        let work = async {
            loop {
                let emptied = self.inner.shared.emptied.notified();
                tokio::pin!(emptied);
                emptied.as_mut().enable();
                if self.stream_count() == 0 {
                    return;
                }
                emptied.await;
            }
        };
        timeout(within, work).await.is_ok()
    }

    /// Ends all connections and stops to listen and dial. Services and whatever they hold are let go of.
    pub fn shutdown(&self) {
        self.inner.closed.send_replace(true);
        self.inner.services.clear();
        *self.inner.desk.write() = None;
        for peer in self.inner.all() {
            peer.close("this node shuts down");
        }
    }
}

impl Inner {
    fn all(&self) -> Vec<Arc<PeerEntry>> {
        self.peers.lock().values().cloned().collect()
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || *self.closed.borrow()
    }

    fn known(&self, node: NodeId) -> Option<Arc<PeerEntry>> {
        self.peers.lock().get(&node).cloned()
    }

    /// The peer of an id; new ones are dialled as soon as their address is known.
    fn entry(self: &Arc<Inner>, node: NodeId) -> Arc<PeerEntry> {
        let mut peers = self.peers.lock();
        let entry = peers.entry(node).or_insert_with(|| {
            let entry = Arc::new(PeerEntry::new(node, None));
            if *self.closed.borrow() {
                entry.close("this node shuts down");
            } else {
                for slot in 0..SLOTS {
                    tokio::spawn(keep_dialled(
                        Arc::downgrade(self),
                        self.closed.subscribe(),
                        Arc::clone(&entry),
                        slot,
                    ));
                }
            }
            entry
        });
        Arc::clone(entry)
    }

    async fn accept_all(self: Arc<Inner>, listener: TcpListener) {
        let mut closed = self.closed.subscribe();
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let accepted = tokio::select! {
                _ = closed.wait_for(|closed| *closed) => return,
                accepted = listener.accept() => accepted,
            };
            let tcp = match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "a link connection cannot be accepted");
                    // Out of file handles, most likely: they come back when others close theirs.
                    sleep(BACKOFF_MIN).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else { continue };
            let inner = Arc::clone(&self);
            tokio::spawn(async move {
                let from = tcp.peer_addr().map_or_else(|_| String::new(), |address| address.to_string());
                if let Err(error) = inner.shake_hands(tcp, permit).await {
                    count(&inner.counters.connections_refused);
                    match error {
                        // Peers that have not heard of it yet try at once: nothing is wrong.
                        _ if inner.is_leaving() => {
                            tracing::debug!(%from, %error, "a link connection is refused");
                        }
                        // Whoever it was has ended, or the network.
                        ConnectError::Gone(_) => {
                            tracing::info!(%from, %error, "a link connection ended before it was made");
                        }
                        _ => tracing::warn!(%from, %error, "a link connection is refused"),
                    }
                }
            });
        }
    }

    async fn shake_hands(
        self: &Arc<Inner>,
        tcp: TcpStream,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), ConnectError> {
        let tls = self.tls.load_full();
        let secure = async {
            let start =
                LazyConfigAcceptor::new(rustls::server::Acceptor::default(), read_ahead(tcp)?).await?;
            let join =
                start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == ALPN_JOIN));
            let config = if join { &tls.accept_join } else { &tls.accept };
            Ok::<_, ConnectError>((join, start.into_stream(Arc::clone(config)).await?))
        };
        let secured = timeout(HELLO_WITHIN, secure).await;
        let (join, stream) = secured.map_err(|_| ConnectError::Slow(HELLO_WITHIN))??;
        if join {
            drop(permit);
            let refused = |why: String| ConnectError::Refused(why);
            let desk = self.desk.read().clone();
            let desk = desk.ok_or_else(|| refused("nodes cannot join here".to_owned()))?;
            let _join =
                self.joins.try_acquire().map_err(|_| refused("too many nodes join at once".to_owned()))?;
            return desk.serve(stream).await.map_err(|error| refused(error.to_string()));
        }
        let identity = identity_of(stream.get_ref().1)?;
        let accepted = self.accepted(Box::new(stream), identity).await;
        drop(permit);
        accepted
    }

    async fn accepted(
        self: &Arc<Inner>,
        mut io: BoxTransport,
        identity: Identity,
    ) -> Result<(), ConnectError> {
        let admit = |facts: &PeerFacts| {
            if facts.node == self.identity.node {
                return Err("this is the node itself".to_owned());
            }
            if self.is_leaving() {
                return Err("this node is about to leave".to_owned());
            }
            self.admit.as_ref().map_or(Ok(()), |admit| admit(facts))
        };
        let (facts, slot, decoder) = self.myself.accept(&mut io, &identity, admit).await?;
        let mux = Mux::start(io, decoder, facts, false, &self.shared);
        self.adopt(slot.min(SLOTS - 1), &mux).map(drop)
    }

    fn adopt(self: &Arc<Inner>, slot: u8, mux: &Arc<Mux>) -> Result<Arc<PeerEntry>, ConnectError> {
        let entry = self.entry(mux.facts.node);
        let lower = self.identity.node < mux.facts.node;
        if let Err(why) = entry.adopt(slot, mux, lower) {
            mux.end(why, Some(GoodbyeCode::DUPLICATE));
            return Err(ConnectError::Refused(why.to_owned()));
        }
        if self.leaving.load(Ordering::Relaxed) {
            mux.retire(true);
        }
        tracing::info!(peer = %mux.facts.name, slot, program = %mux.facts.program, protocol = mux.facts.protocol,
            "a link connection is made");
        Ok(entry)
    }

    async fn dial(
        self: &Arc<Inner>,
        entry: &PeerEntry,
        address: &str,
        slot: u8,
    ) -> Result<Arc<Mux>, ConnectError> {
        let (mut io, identity) = self.dial.dial(entry.id, address).await?;
        let (facts, decoder) = self.myself.dial(&mut io, &identity, slot).await?;
        if let Some(admit) = &self.admit {
            admit(&facts).map_err(ConnectError::Identity)?;
        }
        let mux = Mux::start(io, decoder, facts, true, &self.shared);
        self.adopt(slot, &mux)?;
        Ok(mux)
    }
}

/// Sees to it that one slot of a peer has a connection while the peer's address is known.
async fn keep_dialled(
    inner: Weak<Inner>,
    mut closed: watch::Receiver<bool>,
    entry: Arc<PeerEntry>,
    slot: u8,
) {
    let work = async {
        let (mut state, mut address) = (entry.state(), entry.address.subscribe());
        let mut backoff = Duration::ZERO;
        loop {
            // Told first, looked at then: no change between is missed.
            state.borrow_and_update();
            let known = address.borrow_and_update().clone();
            let Some(to) = known.filter(|_| entry.is_empty(slot) && !entry.is_leaving()) else {
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return },
                    changed = address.changed() => if changed.is_err() { return },
                }
                continue;
            };
            let yields = inner.upgrade().is_some_and(|inner| inner.identity.node > entry.id);
            let pause = if yields { backoff.max(YIELD) } else { backoff };
            if !pause.is_zero() {
                sleep(pause.mul_f64(rand::random_range(0.75..1.0))).await;
                if !entry.is_empty(slot) {
                    continue;
                }
            }
            let Some(inner) = inner.upgrade() else { return };
            let began = Instant::now();
            match inner.dial(&entry, &to, slot).await {
                Ok(mux) => {
                    drop(inner);
                    let mut health = mux.health();
                    // Not `Mux::has_ended`: it would borrow again what is borrowed here.
                    let over =
                        |health: &Health| matches!(health, Health::Ended(_)) || mux.retired().is_some();
                    let _ = health.wait_for(over).await;
                }
                Err(error) => {
                    count(&inner.counters.dials_failed);
                    tracing::debug!(peer = %entry.id, slot, %error, "a peer cannot be reached");
                    entry.dial_failed(&error.to_string());
                }
            }
            backoff = match began.elapsed() >= PROVEN_AFTER {
                true => Duration::ZERO,
                false => (backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX),
            };
        }
    };
    tokio::select! {
        _ = closed.wait_for(|closed| *closed) => {}
        () = work => {}
    }
}
