//! The node among others: its certificate, its links, and what it does for other nodes.
//!
//! A server whose `cluster.listen` is set and that has not joined another is the first node of a cluster: it makes the
//! cluster's authority and has the directory, unless that is in etcd. The others join with a token of it and follow the
//! directory.
//!
//! Invariants:
//! - What other nodes ask for is done only for what is at home here.
//! - Certificates and tokens lie in the data folder, readable for the server's user alone.

mod accounts;
pub(crate) mod balance;
mod desk;
pub(crate) mod duties;
mod errands;
mod fence;
mod homes;
mod itself;
mod join;
mod moving;
mod pipe;
pub(crate) mod placing;
pub(crate) mod relocating;
mod renewal;
mod site;
mod source;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rookery_directory::remote::{RemoteSource, serve_source};
use rookery_directory::{
    Commit, CopiedDirectory, Directory, DirectoryError, Duty, Following, Load, Node, Source,
};
use rookery_kv::{Engine, Space};
use rookery_link::{
    Ca, Class, Credentials, Duties, Identity, Incoming, Links, LinksConfig, Message, PROTOCOL, Peer,
    PeerFacts, Tokens, TraceId,
};
use rookery_net::{ConnId, Drain, Pipe};
use rookery_route::{
    AccountTask, Fence, PeerError, Peers, PipeHead, PipeService, Reaching, Registrar, SessionHead, Transit,
};
use rookery_store::Store;
use rookery_types::{AccountName, NodeId};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::config::{Config, DirectorySection, SourceKind};
use crate::exit::with_causes;
use crate::exit::{Failure, Kind};
use crate::live::Live;

pub(crate) use desk::{accept, nodes, token};
pub(crate) use duties::remove;
pub(crate) use errands::lost;
pub(crate) use homes::ClusterHomes;
pub(crate) use join::join;
pub(crate) use moving::{Settings, promote, rebuild};

use duties::Doorkeeper;
use itself::Itself;
use pipe::LinkPipe;
use site::Site;
use source::{Receiving, Sending, ToDirectory};

/// How long a follower waits at its start for the directory's node, if it knows nothing yet.
const FIRST_COPY: Duration = Duration::from_secs(20);
/// How often a node says what it holds.
const LOAD_INTERVAL: Duration = Duration::from_secs(30);
/// Counting accounts takes this part of the time at most.
const COUNTING_PART: u32 = 100;
/// How often at most it looks whether its certificate ends.
const RENEWAL_EVERY: Duration = Duration::from_secs(1);

/// This node's place in its cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) links: Links,
    site: Site,
    /// Where certificates and the site are.
    folder: std::path::PathBuf,
    /// How often this node has started.
    boot: u64,
    /// Whether it holds what is in its store.
    pub(crate) fence: Fence,
    /// Where other nodes reach this one.
    address: String,
    /// The cluster's authority and the tokens it has given, if they are here.
    giving: Option<(Arc<Ca>, Arc<Tokens>)>,
    /// Nodes that are let go for good.
    removed: Removed,
    /// What it serves to itself.
    itself: Itself,
}

/// Nodes that were removed from the cluster, as this node knows.
type Removed = Arc<parking_lot::RwLock<BTreeSet<NodeId>>>;

fn failed(what: impl std::fmt::Display, error: &dyn std::error::Error) -> Failure {
    Failure::failed(format!("{what}: {}", with_causes(error)))
}

impl Cluster {
    /// Takes this node's place: founds a cluster if it has none. `None`: the server is alone.
    pub(crate) async fn open(config: &Config, store: &Store) -> Result<Option<Cluster>, Failure> {
        let folder = config.data_dir.join("cluster");
        let joined = Site::load(&folder)?;
        let listen = &config.cluster.listen;
        if listen.is_empty() {
            return match joined {
                None if config.directory.source == SourceKind::Etcd => Err(Failure::new(
                    Kind::Usage,
                    "directory.source is etcd, which is for clusters: set cluster.listen",
                )),
                None => Ok(None),
                Some(_) => Err(Failure::new(
                    Kind::Usage,
                    "this server is a node of a cluster: cluster.listen must say where other nodes reach it",
                )),
            };
        }
        let address = config.cluster.address().to_owned();
        let site = match joined {
            Some(site) => site,
            None => {
                if config.directory.source == SourceKind::Etcd {
                    refuse_own_directory(store)?;
                }
                Site::found(&folder, config, store.node())?
            }
        };
        // The other way the start itself sees whether the directory has moved.
        if (site.source, config.directory.source) == (SourceKind::Etcd, SourceKind::Embedded) {
            return Err(Failure::new(
                Kind::Usage,
                format!(
                    "directory.source is {}, and this node's directory is in {}",
                    config.directory.source.word(),
                    site.source.word()
                ),
            ));
        }
        let boot = fence::next_boot(store).await?;
        let credentials =
            Credentials::load(&folder).map_err(|error| failed("this node's certificate", &error))?;
        if credentials.identity().node != store.node() {
            return Err(Failure::failed(
                "the certificate in the data folder is another node's than the store is: is the store a new one? What \
                 was at home here is answered as unavailable until the store is back; an empty machine joins under \
                 another name",
            ));
        }
        let removed = Removed::default();
        let known = Arc::clone(&removed);
        let admit = move |peer: &PeerFacts| match known.read().contains(&peer.node) {
            true => Err("it was removed from the cluster".to_owned()),
            false => Ok(()),
        };
        let settings = LinksConfig::new(boot, env!("CARGO_PKG_VERSION"));
        let links = Links::new(&credentials, LinksConfig { admit: Some(Arc::new(admit)), ..settings });
        let links = links.map_err(|error| failed("links", &error))?;
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|error| failed(format!("cluster.listen, {listen}"), &error))?;
        tracing::info!(protocol = "link", at = %listen, name = site.name, "listening");
        links.set_starting(true);
        links.listen(listener);
        if let Some(directory) = &site.directory {
            links.set_peers(vec![Peer { id: NodeId(directory.node), address: directory.address.clone() }]);
        }
        let (fence, itself) = (Fence::default(), Itself::default());
        Ok(Some(Cluster { links, site, folder, boot, fence, address, giving: None, removed, itself }))
    }

    /// The directory: in this node's engine, or a copy there of the one that another node has.
    pub(crate) async fn directory(
        &self,
        settings: &DirectorySection,
        engine: Arc<dyn Engine>,
        commit: Arc<dyn Commit>,
    ) -> Result<CopiedDirectory, Failure> {
        let cannot = |error: DirectoryError| failed("the directory", &error);
        let (source, place): (Arc<dyn Source>, String) = match (settings.source, &self.site.directory) {
            (SourceKind::Etcd, _) => {
                let etcd = settings.etcd().map_err(|error| Failure::new(Kind::Usage, error))?;
                (Arc::new(etcd), format!("etcd does not answer at {}", settings.endpoints.join(", ")))
            }
            (SourceKind::Embedded, None) => return CopiedDirectory::open(engine, commit).map_err(cannot),
            (SourceKind::Embedded, Some(at)) => {
                let connect = ToDirectory { links: self.links.clone(), node: NodeId(at.node) };
                let place = format!("the node with the directory does not answer at {}", at.address);
                (Arc::new(RemoteSource::new(Arc::new(connect))), place)
            }
        };
        let directory =
            CopiedDirectory::follow(engine, commit, source, self.links.identity().node).map_err(cannot)?;
        let wait = async {
            let mut revisions = directory.subscribe();
            while directory.position().is_none() {
                if revisions.changed().await.is_err() {
                    break;
                }
            }
        };
        let whole = tokio::time::timeout(FIRST_COPY, wait).await.is_ok();
        if !whole {
            return Err(Failure::failed(format!("{place}, and this node has no copy yet")));
        }
        if self.site.source != settings.source {
            let mut following = directory.following();
            let follows = following.wait_for(|now| *now == Following::Following);
            if !matches!(tokio::time::timeout(FIRST_COPY, follows).await, Ok(Ok(_))) {
                return Err(Failure::new(
                    Kind::Usage,
                    "directory.source is etcd, and the directory of this node has not moved there; set it back to \
                     embedded and give at the first node: rookery directory promote",
                ));
            }
            self.has_moved().map_err(Failure::failed)?;
        }
        Ok(directory)
    }

    /// Whether a node is the only one with the directory.
    pub(crate) fn has_directory(&self, node: NodeId) -> bool {
        let first = self.site.directory.as_ref().map_or(self.links.identity().node, |at| NodeId(at.node));
        self.source() == SourceKind::Embedded && first == node
    }

    /// Whether the cluster's authority is here.
    pub(crate) fn has_authority(&self) -> bool {
        self.site.directory.is_none()
    }

    /// Whether new accounts may be at home here.
    pub(crate) fn holds(&self) -> bool {
        self.links.identity().duties.contains(Duties::HOLD)
    }

    /// Serves other nodes, until the drain.
    pub(crate) fn serve(&self, parts: ServedParts, tasks: &mut JoinSet<()>, drain: &Drain) {
        if let Some(source) = parts.directory.embedded() {
            let source = Arc::new(source);
            self.links.serve(source::SERVICE, Duties::NONE, move |incoming| {
                let source = source.clone();
                async move {
                    let (send, recv) = incoming.stream.split();
                    serve_source(source, Receiving(recv), Sending(send)).await;
                }
            });
        }
        self.itself.serves(parts.imap.clone(), parts.pop3.clone(), drain.clone());
        let (imap, draining) = (parts.imap.clone(), drain.clone());
        self.links.serve(PipeService::Imap.name(), Duties::SERVE, move |incoming| {
            let (imap, drain) = (imap.now(), draining.guard());
            async move {
                let Some((pipe, head)) = session(incoming) else { return };
                let span = span("imap", &head);
                rookery_imap::serve_pipe(pipe, head, imap, drain).instrument(span).await;
            }
        });
        let (imap, draining, directory) = (parts.imap.clone(), drain.clone(), parts.directory.clone());
        self.links.serve(PipeService::Guest.name(), Duties::NONE, move |incoming| {
            let (imap, drain, directory) = (imap.now(), draining.guard(), directory.clone());
            async move {
                let peer = incoming.peer.clone();
                let Some((pipe, head)) = session(incoming) else { return };
                if !may_act_for(&directory, &peer, &head).await {
                    tracing::warn!(peer = %peer.name, "a node asks for a user that is not at home there");
                    return;
                }
                let span = span("imap", &head);
                rookery_imap::serve_guest(pipe, head, imap, drain).instrument(span).await;
            }
        });
        let (pop3, draining) = (parts.pop3.clone(), drain.clone());
        self.links.serve(PipeService::Pop3.name(), Duties::SERVE, move |incoming| {
            let (pop3, drain) = (pop3.now(), draining.guard());
            async move {
                let Some((pipe, head)) = session(incoming) else { return };
                let span = span("pop3", &head);
                rookery_pop3::serve_pipe(pipe, head, pop3, drain).instrument(span).await;
            }
        });
        let (lmtp, draining) = (parts.lmtp.clone(), drain.clone());
        self.links.serve(PipeService::Lmtp.name(), Duties::NONE, move |incoming| {
            let (lmtp, drain) = (lmtp.now(), draining.guard());
            async move {
                let id = PipeHead::decode(&incoming.head)
                    .map_or_else(|_| ConnId::carried(0), |head| ConnId::carried(head.trace));
                let span = tracing::info_span!("conn", %id, protocol = "lmtp", peer = %incoming.peer.name);
                let carrier = match incoming.peer.duties.contains(Duties::SERVE) {
                    true => rookery_lmtp::Carrier::Serves,
                    false => rookery_lmtp::Carrier::Holds,
                };
                let pipe = Box::new(LinkPipe::new(incoming.stream));
                rookery_lmtp::serve_pipe(pipe, carrier, id.get(), lmtp, drain).instrument(span).await;
            }
        });
        let (transit, draining, fence) = (parts.transit.clone(), drain.clone(), self.fence.clone());
        // Nobody but the home of the messages asks for it.
        self.links.serve(PipeService::Transit.name(), Duties::HOLD, move |incoming| {
            let (transit, drain, fence) = (transit.clone(), draining.guard(), fence.clone());
            async move {
                let id = PipeHead::decode(&incoming.head)
                    .map_or_else(|_| ConnId::carried(0), |head| ConnId::carried(head.trace));
                let (node, name) = (incoming.peer.node, &incoming.peer.name);
                let span = tracing::info_span!("conn", %id, protocol = "transit", peer = %name);
                let pipe = Box::new(LinkPipe::new(incoming.stream));
                // What an old store knows of a move may have been settled since.
                if fence.why().is_none() {
                    transit.serve(pipe, node, drain).instrument(span).await;
                }
            }
        });
        self.serve_accounts(&parts.mover, &parts.directory, tasks, drain);
        let registrar = parts.registrar.clone();
        self.links.serve(homes::SERVICE, Duties::NONE, move |incoming| {
            let registrar = registrar.clone();
            async move { homes::serve(incoming, &registrar).await }
        });
        self.serve_renewals(&parts.directory);
        self.serve_moves(&parts.directory, parts.settings.clone());
        let (cluster, drain) = (self.clone(), drain.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = drain.draining() => {}
                () = cluster.keep_known(&parts) => {}
            }
        });
    }

    /// Whatever other nodes may ask for is served now: what they ask for besides there is not.
    pub(crate) fn serves_all(&self) {
        self.links.set_starting(false);
    }

    /// What this node is to do for clients, by what the directory says; before it says anything: all.
    pub(crate) async fn serve_duty(&self, directory: &CopiedDirectory) -> Duty {
        let nodes = directory.nodes().await.unwrap_or_default();
        let own = nodes.iter().find(|node| node.id == self.links.identity().node);
        own.map_or(Duty::On, |own| own.serve)
    }

    /// Obeys what the directory says of this node and of those that were removed.
    async fn obey(&self, parts: &ServedParts) -> Result<(), DirectoryError> {
        let here = self.links.identity().node;
        parts.doorkeeper.follow(&parts.directory, here).await?;
        let removed = parts.directory.removed_nodes().await?;
        let removed: BTreeSet<NodeId> = removed.into_iter().map(|node| node.id).collect();
        if removed.contains(&here) && self.fence.why().is_none() {
            tracing::error!("this node was removed from the cluster, and holds and serves nothing");
            self.fence.close("this node was removed from the cluster");
            parts.doorkeeper.turn_to(Duty::Off, Duration::ZERO);
        }
        if *self.removed.read() != removed {
            *self.removed.write() = removed;
        }
        Ok(())
    }

    /// Ends all that it has with other nodes. What serves them is let go of.
    pub(crate) fn shutdown(&self) {
        self.links.shutdown();
        self.itself.ends();
    }

    /// Tells the directory of this node, and the links of the others, again and again.
    async fn keep_known(&self, parts: &ServedParts) {
        let mut revisions = parts.directory.subscribe();
        let mut told: Option<Node> = None;
        let mut counted = Counted::default();
        let mut renewed: Option<Instant> = None;
        loop {
            match parts.directory.nodes().await {
                Ok(nodes) => {
                    let known = nodes.iter().find(|node| node.id == self.links.identity().node);
                    if let Err(error) = self.obey(parts).await {
                        tracing::warn!(%error, "the nodes of the cluster cannot be read");
                    }
                    counted.renew(self, parts).await;
                    let node = self.myself(parts, known, &counted);
                    // What the directory knows is compared first, and stays if this node is not that one.
                    let is_it =
                        self.look_back(&parts.directory, &parts.store).await && self.fence.why().is_none();
                    if is_it && known != Some(&node) && told.as_ref() != Some(&node) {
                        match parts.directory.put_node(node.clone()).await {
                            Ok(()) => told = Some(node),
                            Err(error) => tracing::debug!(%error, "the directory is not told of this node"),
                        }
                    }
                    let peers = nodes.into_iter().filter(|node| !node.address.is_empty());
                    let peer = |node: Node| Peer { id: node.id, address: node.address.into() };
                    let mut peers: Vec<Peer> = peers.map(peer).collect();
                    // The directory's node is linked with whatever a copy says that may be old.
                    if let Some(at) = &self.site.directory
                        && peers.iter().all(|peer| peer.id != NodeId(at.node))
                    {
                        peers.push(Peer { id: NodeId(at.node), address: at.address.clone() });
                    }
                    self.links.set_peers(peers);
                }
                Err(error) => tracing::warn!(%error, "the nodes of the cluster cannot be read"),
            }
            if renewed.is_none_or(|last| last.elapsed() > RENEWAL_EVERY) {
                renewed = Some(Instant::now());
                if let Err(why) = self.renew().await {
                    tracing::warn!(why, "this node's certificate is not renewed yet");
                }
            }
            // The next look is at the next change, or when there is other load to tell of.
            let _ = tokio::time::timeout(LOAD_INTERVAL, revisions.changed()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the directory is to know of this node.
    fn myself(&self, parts: &ServedParts, known: Option<&Node>, counted: &Counted) -> Node {
        let identity = self.links.identity();
        let has = |duty: Duties| if identity.duties.contains(duty) { Duty::On } else { Duty::Off };
        Node {
            name: identity.name.as_str().into(),
            address: self.address.as_str().into(),
            services: parts.services.clone(),
            serve: known.map_or(has(Duties::SERVE), |node| node.serve),
            hold: known.map_or(has(Duties::HOLD), |node| node.hold),
            version: env!("CARGO_PKG_VERSION").into(),
            links: (*PROTOCOL.start(), *PROTOCOL.end()),
            store: Some(parts.store.store_id()),
            boot: self.boot,
            load: counted.load,
            tags: known.map_or_else(Vec::new, |node| node.tags.clone()),
            ..Node::new(identity.node)
        }
    }
}

/// How much this node holds, as it was counted last.
#[derive(Default)]
struct Counted {
    load: Load,
    /// When, and how long that took.
    at: Option<(Instant, Duration)>,
}

impl Counted {
    /// Counts again, if that was long ago: whoever has many accounts counts more seldom.
    async fn renew(&mut self, cluster: &Cluster, parts: &ServedParts) {
        let is_due = |(at, took): (Instant, Duration)| at.elapsed() > LOAD_INTERVAL.max(took * COUNTING_PART);
        if !self.at.is_none_or(is_due) {
            return;
        }
        let began = Instant::now();
        let space = rustix::fs::statvfs(&parts.data_dir).ok();
        // So coarse that what other programs write does not make it differ all the time.
        let octets = |blocks: u64, size: u64| blocks.saturating_mul(size) >> 30 << 30;
        let here = cluster.links.identity().node;
        match duties::accounts_at(&parts.directory, here).await {
            Ok((accounts, _)) => self.load.accounts = accounts,
            Err(error) => tracing::warn!(%error, "the accounts of this node cannot be counted"),
        }
        if let Some(s) = space {
            self.load.octets_used = octets(s.f_blocks.saturating_sub(s.f_bfree), s.f_frsize);
            self.load.octets_free = octets(s.f_bavail, s.f_frsize);
        }
        self.at = Some((Instant::now(), began.elapsed()));
    }
}

/// What is needed to serve other nodes.
pub(crate) struct ServedParts {
    pub(crate) directory: CopiedDirectory,
    pub(crate) store: Store,
    pub(crate) registrar: Arc<Registrar>,
    pub(crate) imap: Live<rookery_imap::Services>,
    pub(crate) pop3: Live<rookery_pop3::Services>,
    pub(crate) lmtp: Live<crate::lmtp::Services>,
    pub(crate) transit: Transit,
    pub(crate) mover: rookery_route::Mover,
    pub(crate) services: Vec<(Box<str>, Box<str>)>,
    pub(crate) data_dir: std::path::PathBuf,
    pub(crate) settings: Settings,
    pub(crate) doorkeeper: Arc<Doorkeeper>,
}

/// Whether a node may act for the user of a guest: it takes users' logins, or the user is at home there.
async fn may_act_for(directory: &CopiedDirectory, peer: &PeerFacts, head: &SessionHead) -> bool {
    if peer.duties.contains(Duties::SERVE) {
        return true;
    }
    let Ok(name) = head.user().map(AccountName::User) else { return false };
    let known = match directory.look_up(&name).await {
        // The copy may lag.
        Err(DirectoryError::NotFound(_)) if directory.barrier().await.is_ok() => {
            directory.look_up(&name).await
        }
        known => known,
    };
    known.is_ok_and(|entry| entry.home.node == peer.node)
}

/// What a session that comes over a link is: the pipe to its client, and who that is.
fn session(incoming: Incoming) -> Option<(Box<dyn Pipe>, SessionHead)> {
    match SessionHead::decode(&incoming.head) {
        Ok(head) => Some((Box::new(LinkPipe::new(incoming.stream)), head)),
        Err(error) => {
            tracing::warn!(%error, peer = %incoming.peer.name, "a node hands a session over that makes no sense");
            None
        }
    }
}

/// The span of a session whose client is at another node: with the id that the connection has there.
fn span(protocol: &'static str, head: &SessionHead) -> tracing::Span {
    tracing::info_span!("conn", id = %ConnId::carried(head.trace), protocol, peer = %head.peer())
}

impl Peers for Cluster {
    fn open(&self, node: NodeId, service: PipeService, head: bytes::Bytes) -> Reaching<'_> {
        Box::pin(async move {
            if node == self.links.identity().node {
                return self.itself.open(node, service, &head);
            }
            let trace =
                PipeHead::decode(&head).map_or_else(|_| TraceId::random(), |head| TraceId(head.trace));
            // Messages do not stand before what somebody waits for at a screen.
            let class = match service {
                PipeService::Imap | PipeService::Guest | PipeService::Pop3 => Class::Interactive,
                PipeService::Lmtp | PipeService::Transit | PipeService::Move => Class::Bulk,
            };
            let opened = self.links.open(node, class, service.name(), trace, head).await;
            match opened {
                Ok(stream) => Ok(Box::new(LinkPipe::new(stream)) as Box<dyn Pipe>),
                Err(error) => Err(PeerError { node, why: with_causes(&error) }),
            }
        })
    }
}

/// A server that has a directory in its own engine cannot begin with another: its accounts would be nobody's.
fn refuse_own_directory(store: &Store) -> Result<(), Failure> {
    let engine = store.engine_for_check();
    let mut is_there = false;
    let scanned = engine.scan(Space::Directory, b"", None, false, &mut |_, _| {
        is_there = true;
        false
    });
    scanned.map_err(|error| failed("the directory", &error))?;
    match is_there {
        true => Err(Failure::new(
            Kind::Usage,
            "directory.source is etcd, and this data folder has a directory of its own; begin with an empty one",
        )),
        false => Ok(()),
    }
}

/// Who a node is at its founding.
fn founder(node: NodeId, name: &str) -> Identity {
    Identity { node, name: name.to_owned(), duties: Duties::ALL }
}

/// One message of JSON over a stream, and the answer to it.
async fn ask(
    links: &Links,
    node: NodeId,
    service: &str,
    question: &serde_json::Value,
) -> Result<serde_json::Value, String> {
    let head = serde_json::to_vec(question).map_err(|error| error.to_string())?;
    let opened = links.open(node, Class::Interactive, service, TraceId::random(), head.into()).await;
    let mut stream = opened.map_err(|error| with_causes(&error))?;
    stream.finish().map_err(|error| with_causes(&error))?;
    match stream.recv().await {
        Ok(Some(Message::Data(octets))) => serde_json::from_slice(&octets).map_err(|error| error.to_string()),
        Ok(_) => Err("there was no answer".to_owned()),
        Err(error) => Err(with_causes(&error)),
    }
}

/// What is asked of a home.
fn task_json(task: &AccountTask) -> serde_json::Value {
    let (verb, id, name) = match task {
        AccountTask::Make { id, name } => ("make", id, Some(name)),
        AccountTask::Delete { id } => ("delete", id, None),
        AccountTask::Settle { id, name } => ("settle", id, Some(name)),
    };
    serde_json::json!({"verb": verb, "id": id.get(), "name": name.map(ToString::to_string)})
}
