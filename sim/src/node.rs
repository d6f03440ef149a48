//! One start of one node: what the program wires up in `serve`, on a simulated disk, network and directory.

use crate::network::{Alive, Dialler};
use crate::ops::{self, Question};
use crate::pipe::LinkPipe;
use crate::rng::Rng;
use crate::steps::{Durable, Steps};
use crate::watch::Watched;
use crate::world::{Machine, World};
use bytes::Bytes;
use parking_lot::Mutex;
use rookery_directory::{Commit, CommitError, CopiedDirectory, Directory, DirectoryError, Duty, Node};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::{Batch, Engine};
use rookery_link::{Class, Duties, Identity, Incoming, Links, LinksConfig, Peer, TraceId};
use rookery_net::{Drain, Pipe};
use rookery_route::{
    AccountTask, Administrators, Coming, Fence, Homes, MoveLimits, MoveTimes, Mover, MoverParts, PeerError,
    Peers, PipeService, Publications, Reaching, Registrar, RegistrarError, Router, Transit, TransitTimes,
};
use rookery_store::{Store, StoreOptions};
use rookery_types::{AccountId, AccountName, NodeId, StoreId, Style};
use serde::{Deserialize, Serialize};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long one node waits for another's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Octets of a question or an answer at most.
const TEXT_OCTETS_MAX: u64 = 4 << 20;

/// A node that is up.
pub(crate) struct Live {
    pub(crate) index: usize,
    pub(crate) alive: Alive,
    pub(crate) store: Store,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) directory: CopiedDirectory,
    pub(crate) router: Router,
    pub(crate) registrar: Arc<Registrar>,
    pub(crate) transit: Transit,
    pub(crate) mover: Mover,
    pub(crate) links: Links,
    publications: Arc<Publications>,
    tasks: Mutex<JoinSet<()>>,
}

struct ThroughStore(Store);

impl Commit for ThroughStore {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        let done = self.0.commit_foreign(batch);
        Box::pin(async move { done.await.map_err(|error| CommitError(error.to_string())) })
    }
}

/// The links as the services see them.
#[derive(Clone)]
struct Others(Links);

impl Peers for Others {
    fn open(&self, node: NodeId, service: PipeService, head: Bytes) -> Reaching<'_> {
        Box::pin(async move {
            let opened = self.0.open(node, Class::Bulk, service.name(), TraceId(1), head).await;
            match opened {
                Ok(stream) => Ok(Box::new(LinkPipe::new(stream)) as Box<dyn Pipe>),
                Err(error) => Err(PeerError { node, why: error.to_string() }),
            }
        })
    }
}

/// The other nodes as moves of accounts see them, and are seen.
struct OtherHomes {
    others: Others,
    node: NodeId,
    alive: Alive,
    steps: Arc<Steps>,
}

impl Peers for OtherHomes {
    fn open(&self, node: NodeId, service: PipeService, head: Bytes) -> Reaching<'_> {
        Box::pin(async move {
            let pipe = self.others.open(node, service, head).await?;
            let (steps, alive) = (Arc::clone(&self.steps), Arc::clone(&self.alive));
            Ok(Box::new(Watched::asking(pipe, steps, alive, (self.node, node))) as Box<dyn Pipe>)
        })
    }
}

/// Places new accounts at any node that the directory knows.
struct AnyHome {
    others: Others,
    directory: CopiedDirectory,
    rng: Mutex<Rng>,
}

#[derive(Serialize, Deserialize)]
struct Asked {
    verb: String,
    id: u64,
    name: Option<String>,
}

impl Homes for AnyHome {
    fn place<'a>(
        &'a self,
        _name: &'a AccountName,
        _asked: Option<&'a str>,
    ) -> Coming<'a, Result<(NodeId, StoreId), RegistrarError>> {
        Box::pin(async move {
            let nodes = self.directory.nodes().await.map_err(RegistrarError::Directory)?;
            let takes = nodes.iter().filter(|node| node.hold == Duty::On);
            let places: Vec<(NodeId, StoreId)> =
                takes.filter_map(|node| Some((node.id, node.store?))).collect();
            let place = self.rng.lock().pick(&places).copied();
            place.ok_or_else(|| RegistrarError::Away("no node that takes new accounts is there".to_owned()))
        })
    }

    fn takes_here(&self) -> Coming<'_, Result<(), RegistrarError>> {
        // The simulation brings nothing back.
        Box::pin(async { Ok(()) })
    }

    fn ask(&self, node: NodeId, task: AccountTask) -> Coming<'_, Result<(), RegistrarError>> {
        Box::pin(async move {
            let (verb, id, name) = match &task {
                AccountTask::Make { id, name } => ("make", id, Some(name.to_string())),
                AccountTask::Delete { id } => ("delete", id, None),
                AccountTask::Settle { id, name } => ("settle", id, Some(name.to_string())),
            };
            let asked = Asked { verb: verb.to_owned(), id: id.get(), name };
            match self.others.ask::<Result<(), String>>(node, "accounts", &asked).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(why)) => Err(RegistrarError::Away(why)),
                Err(lost) => Err(RegistrarError::Away(lost.why)),
            }
        })
    }
}

/// What was asked of another node has no answer.
pub(crate) struct Lost {
    /// It cannot have arrived.
    pub(crate) unheard: bool,
    pub(crate) why: String,
}

impl Others {
    async fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        node: NodeId,
        service: &str,
        question: &impl Serialize,
    ) -> Result<T, Lost> {
        let lost = |unheard: bool| move |error: std::io::Error| Lost { unheard, why: error.to_string() };
        let work = async {
            let question =
                serde_json::to_vec(question).map_err(|e| Lost { unheard: true, why: e.to_string() })?;
            let opened = self.0.open(node, Class::Interactive, service, TraceId(1), Bytes::new()).await;
            let stream = opened
                .map_err(|error| Lost { unheard: error.cannot_have_reached(), why: error.to_string() })?;
            let mut pipe = LinkPipe::new(stream);
            pipe.write_all(&question).await.map_err(lost(false))?;
            pipe.shutdown().await.map_err(lost(false))?;
            let mut octets = Vec::new();
            (&mut pipe).take(TEXT_OCTETS_MAX).read_to_end(&mut octets).await.map_err(lost(false))?;
            serde_json::from_slice(&octets).map_err(|error| Lost { unheard: false, why: error.to_string() })
        };
        match timeout(ANSWER_WITHIN, work).await {
            Ok(answer) => answer,
            Err(_) => Err(Lost { unheard: false, why: "no answer in time".to_owned() }),
        }
    }
}

/// Reads a question, and answers it.
async fn serve<Q: for<'a> Deserialize<'a>, A: Serialize, F: Future<Output = A>>(
    incoming: Incoming,
    answer: impl FnOnce(Q) -> F,
) {
    let mut pipe = LinkPipe::new(incoming.stream);
    let mut octets = Vec::new();
    if (&mut pipe).take(TEXT_OCTETS_MAX).read_to_end(&mut octets).await.is_err() {
        return;
    }
    let Ok(question) = serde_json::from_slice(&octets) else { return };
    let Ok(answer) = serde_json::to_vec(&answer(question).await) else { return };
    // Whoever asked may have gone.
    if pipe.write_all(&answer).await.is_ok() {
        let _ = pipe.shutdown().await;
    }
}

async fn perform(asked: Asked, registrar: &Registrar) -> Result<(), String> {
    let id = AccountId::new(asked.id).ok_or("no id")?;
    let name = asked.name.and_then(|name| AccountName::parse(&name).ok());
    let task = match (asked.verb.as_str(), name) {
        ("make", Some(name)) => AccountTask::Make { id, name },
        ("delete", None) => AccountTask::Delete { id },
        ("settle", Some(name)) => AccountTask::Settle { id, name },
        _ => return Err("that is not understood".to_owned()),
    };
    registrar.perform_for(task).await.map_err(|error| error.to_string())
}

impl Live {
    /// Starts a node. Err: why not, and it may be tried again.
    pub(crate) async fn start(world: &Arc<World>, machine: &Machine) -> Result<Arc<Live>, String> {
        let alive: Alive = Arc::new(AtomicBool::new(true));
        let started = Live::start_as(world, machine, &alive).await;
        if started.is_err() {
            alive.store(false, Ordering::Relaxed);
        }
        started
    }

    async fn start_as(world: &Arc<World>, machine: &Machine, alive: &Alive) -> Result<Arc<Live>, String> {
        let mut tasks = JoinSet::new();
        let index = machine.index;
        let text = |error: &dyn std::error::Error| error.to_string();
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(machine.disk.clone()));
        let options = StoreOptions {
            background: Some(Duration::from_secs(1)),
            // Small, so that they fill and are compacted.
            volume_octets: 32 << 10,
            pack_octets_min: 4 << 10,
            // Messages wait in memory, or in volumes.
            waiting_octets_max: if world.plan.seed.is_multiple_of(2) { 0 } else { 16 << 20 },
            by_steps: true,
            ..StoreOptions::default()
        };
        let files = Arc::new(machine.disk.files());
        let store = Store::open(options, Arc::clone(&engine), files).map_err(|error| text(&error))?;
        let node = store.node();
        let boot = machine.next_boot();
        let committing = store.clone();
        let mut durable = Durable::new(Arc::clone(&world.steps), store.clone());
        let mut stalled = machine.stalled();
        let mut rng = Rng::new(world.plan.seed, 0x1000 + boot * 0x100 + index as u64);
        tasks.spawn(async move {
            loop {
                committing.commit_waits().await;
                let takes = rng.micros(200, 4_000);
                sleep(takes).await;
                let _ = stalled.wait_for(|stalled| !stalled).await;
                committing.commit_step();
                durable.look();
            }
        });
        let source = world.model.of_node(index, Arc::clone(alive));
        let commit = Arc::new(ThroughStore(store.clone()));
        let directory = CopiedDirectory::follow(Arc::clone(&engine), commit, source, node)
            .map_err(|error| text(&error))?;
        let mut revisions = directory.subscribe();
        while directory.position().is_none() {
            if machine.disk.is_down() || store.read_only_because().is_some() {
                return Err("it fell before it had a copy of the directory".to_owned());
            }
            let _ = timeout(Duration::from_millis(100), revisions.changed()).await;
        }
        let publications =
            Publications::start(store.clone(), Arc::new(directory.clone()), Arc::clone(&engine)).await;
        let publications = publications.map_err(|error| text(&error))?;
        let shared: Arc<dyn Directory> = Arc::new(directory.clone());
        let router = Router::new(Arc::clone(&shared), node, Style::default())
            .with_store(store.store_id(), Fence::default())
            .with_moves(store.clone());
        let identity = Identity { node, name: machine.name.clone(), duties: Duties::ALL };
        let links = links(world, &identity, boot, alive)?;
        let others = Others(links.clone());
        let homes = AnyHome {
            others: others.clone(),
            directory: directory.clone(),
            rng: Mutex::new(Rng::new(world.plan.seed, 0x2000 + boot * 0x100 + index as u64)),
        };
        let registrar = Registrar::new(Arc::clone(&shared), store.clone(), Vec::new());
        let registrar = Arc::new(registrar.with_homes(Arc::new(homes)));
        let transit = Transit::new(
            store.clone(),
            Arc::clone(&shared),
            Arc::new(others.clone()),
            Administrators::default(),
            TransitTimes::default(),
        );
        let mover = Mover::new(MoverParts {
            store: store.clone(),
            directory: Arc::clone(&shared),
            peers: Arc::new(OtherHomes {
                others,
                node,
                alive: Arc::clone(alive),
                steps: Arc::clone(&world.steps),
            }),
            publications: Some(Arc::clone(&publications)),
            transit: Some(transit.clone()),
            times: MoveTimes::default(),
            limits: MoveLimits::default(),
        });
        let own = registrar.own_reservations().await.map_err(|error| text(&error))?;
        let live = Arc::new(Live {
            index,
            alive: Arc::clone(alive),
            store,
            engine,
            directory,
            router,
            registrar,
            transit,
            mover,
            links,
            publications,
            tasks: Mutex::new(tasks),
        });
        live.serve(world);
        live.transit.resume().map_err(|error| text(&error))?;
        live.mover.resume().map_err(|error| text(&error))?;
        let resolving = Arc::clone(&live.registrar);
        live.spawn(async move { resolving.keep_resolving(own).await });
        let (known, links) = (live.directory.clone(), live.links.clone());
        let address: Box<str> = machine.name.as_str().into();
        let myself = Node {
            name: address.clone(),
            address,
            store: Some(live.store.store_id()),
            boot,
            ..Node::new(node)
        };
        live.spawn(async move { keep_known(&known, &links, myself).await });
        Ok(live)
    }

    fn serve(self: &Arc<Live>, world: &World) {
        let mut incoming = world.network.listen(self.store.node(), Arc::clone(&self.alive));
        let links = self.links.clone();
        self.spawn(async move {
            while let Some((io, peer)) = incoming.recv().await {
                let links = links.clone();
                tokio::spawn(async move {
                    let _ = links.accept_over(io, peer).await;
                });
            }
        });
        let transit = self.transit.clone();
        let drain = Drain::new();
        self.links.serve(PipeService::Transit.name(), Duties::HOLD, move |incoming| {
            let (transit, drain) = (transit.clone(), drain.guard());
            async move {
                let node = incoming.peer.node;
                transit.serve(Box::new(LinkPipe::new(incoming.stream)), node, drain).await;
            }
        });
        let (mover, drain, here) = (self.mover.clone(), Drain::new(), self.store.node());
        let (steps, alive) = (Arc::clone(&world.steps), Arc::clone(&self.alive));
        self.links.serve(PipeService::Move.name(), Duties::HOLD, move |incoming| {
            let (mover, drain) = (mover.clone(), drain.guard());
            let (steps, alive) = (Arc::clone(&steps), Arc::clone(&alive));
            async move {
                let node = incoming.peer.node;
                let pipe = Box::new(LinkPipe::new(incoming.stream));
                let pipe = Watched::answering(pipe, steps, alive, (here, node));
                mover.serve(Box::new(pipe), node, drain).await;
            }
        });
        let registrar = Arc::clone(&self.registrar);
        self.links.serve("accounts", Duties::NONE, move |incoming| {
            let registrar = Arc::clone(&registrar);
            async move { serve(incoming, |asked| async move { perform(asked, &registrar).await }).await }
        });
        let weak = Arc::downgrade(self);
        self.links.serve("op", Duties::NONE, move |incoming| {
            let weak = weak.clone();
            async move {
                let Some(live) = weak.upgrade() else { return };
                // What a node has begun goes on when its link is lost.
                let work = |question: Question| async move {
                    let (tell, told) = tokio::sync::oneshot::channel();
                    let working = Arc::clone(&live);
                    live.spawn(async move {
                        let _ = tell.send(ops::at_home(&working, question).await);
                    });
                    told.await.unwrap_or(ops::Answer::Unknown("the node is gone".to_owned()))
                };
                serve(incoming, work).await;
            }
        });
    }

    /// Asks another node to do something that is to be done there.
    pub(crate) async fn ask(&self, node: NodeId, question: &Question) -> Result<ops::Answer, Lost> {
        Others(self.links.clone()).ask(node, "op", question).await
    }

    /// Runs as long as this start of the node lives.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if self.alive.load(Ordering::Relaxed) {
            let mut tasks = self.tasks.lock();
            while tasks.try_join_next().is_some() {}
            tasks.spawn(work);
        }
    }

    /// Everything of this start ends. Its disk must be a later one's already.
    pub(crate) async fn end(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        self.links.shutdown();
        self.directory.stop_following();
        self.mover.stop().await;
        self.transit.stop().await;
        self.publications.stop().await;
        self.store.close().await;
    }
}

fn links(world: &World, identity: &Identity, boot: u64, alive: &Alive) -> Result<Links, String> {
    world.identities.lock().insert(identity.node, identity.clone());
    let now = std::time::SystemTime::now();
    let credentials = world.ca.credentials(identity, now).map_err(|error| error.to_string())?;
    let dialler = Dialler {
        network: world.network.clone(),
        own: identity.clone(),
        alive: Arc::clone(alive),
        identities: Arc::clone(&world.identities),
    };
    Links::with_dial(&credentials, LinksConfig::new(boot, "simulated"), Box::new(dialler))
        .map_err(|error| error.to_string())
}

/// Tells the directory of this node, and the links of the others.
async fn keep_known(directory: &CopiedDirectory, links: &Links, myself: Node) {
    let mut revisions = directory.subscribe();
    loop {
        let known: Result<Vec<Node>, DirectoryError> = directory.nodes().await;
        if let Ok(nodes) = known {
            if nodes.iter().all(|node| *node != myself) {
                let _ = directory.put_node(myself.clone()).await;
            }
            let peers = nodes.into_iter().map(|node| Peer { id: node.id, address: node.address.into() });
            links.set_peers(peers.collect());
        }
        let _ = timeout(Duration::from_secs(30), revisions.changed()).await;
        sleep(Duration::from_millis(20)).await;
    }
}
