//! The server from start to end: lock, store, directory, listeners, signals, drain.
//!
//! Invariants:
//! - Nothing is listened to before the data is open and whole; the admin socket answers before any client does.
//! - A start that fails says why in one line, and leaves nothing running.
//! - A stop waits for what is under way, then closes the store; what was acknowledged is on disk in any case.

use std::fmt::Display;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rookery_admin::{AdminState, Readiness};
use rookery_auth::{Authenticator, AuthenticatorOptions, Hasher, PasswdFile, Sessions};
use rookery_directory::{CopiedDirectory, Directory, DirectoryError, Duty, Entry};
use rookery_imap::Entrance;
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::lock::{DataLock, LockError};
use rookery_kv::{Engine, EngineError, RealFiles};
use rookery_net::{ConnectionLimits, Door, Drain, Gate, ServerTls, TlsFiles};
use rookery_route::{
    Fence, Keeper, MoveLimits, MoveTimes, Mover, MoverParts, NoPeers, NoRelocator, Peers, Publications,
    Registrar, RegistrarError, Relocator, Renames, Router, Transit, TransitTimes,
};
use rookery_store::{OpenError, Store, StoreOptions};
use rookery_types::Style;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::admin::{self, Desk};
use crate::cluster::duties::Doorkeeper;
use crate::cluster::relocating::Relocations;
use crate::cluster::{Cluster, ClusterHomes, ServedParts, Settings};
use crate::config::{Config, Loaded, SourceKind};
use crate::exit::{Failure, Kind};
use crate::keeping::Keeping;
use crate::lineage::Lineage;
use crate::listen::{Bound, Places};
use crate::live::{Apply, Live, Parts};
use crate::newcomers::Newcomers;
use crate::node::{DirectoryAccounts, Node, ThroughStore};
use crate::notify::notify;
use crate::reload::Reload;
use crate::restart::Restart;
use crate::succession::{self, Heirs};

/// Room for the trace lines that LMTP puts on top of a message of the largest size.
const TRACE_OCTETS_MAX: u64 = 64 * 1024;
/// How often the certificate's files are looked at.
const TLS_WATCH: Duration = Duration::from_secs(60);

/// An open data folder, without listeners. Dropping it after [`Data::close`] frees the folder.
pub(crate) struct Data {
    pub(crate) node: Arc<Node>,
    /// The same as `node.directory`, for what only its own kind can do.
    directory: CopiedDirectory,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) router: Router,
    /// Says whether it is still open.
    engine: Weak<dyn Engine>,
    publications: Arc<Publications>,
    renames: Renames,
    peers: Arc<dyn Peers>,
    transit: Transit,
    mover: Mover,
    _lock: DataLock,
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn failed(what: impl Display, error: &dyn std::error::Error) -> Failure {
    Failure::failed(format!("{what}: {}", with_causes(error)))
}

/// The data folder under its lock: engine and volumes, nothing of them looked at yet.
pub(crate) struct Folder {
    lock: DataLock,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) files: Arc<RealFiles>,
}

impl Folder {
    /// Opens the data folder, making it if it is new.
    pub(crate) async fn open(config: &Config) -> Result<Folder, Failure> {
        let folder = &config.data_dir;
        let cannot = |error: std::io::Error| failed(format!("the data folder {}", folder.display()), &error);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot)?;
        let lock = DataLock::acquire(folder).map_err(|error| match &error {
            LockError::Held { .. } => Failure::new(Kind::InUse, &error),
            LockError::Io { .. } => failed("the data folder", &error),
        })?;
        check_space(folder, config.store.free_octets_min)?;
        let engine_folder = folder.join("engine");
        let engine =
            tokio::task::spawn_blocking(move || FjallEngine::open(engine_folder, FjallOptions::default()));
        let engine = engine.await.map_err(|error| failed("the engine", &error))?;
        let engine: Arc<dyn Engine> = Arc::new(engine.map_err(|error| match &error {
            EngineError::Locked => Failure::new(Kind::InUse, &error),
            _ => failed(folder.display(), &error),
        })?);
        let files = Arc::new(RealFiles::open(folder.join("volumes")).map_err(cannot)?);
        Ok(Folder { lock, engine, files })
    }
}

impl Data {
    /// Opens the data folder, making it if it is new.
    pub(crate) async fn open(config: &Config) -> Result<Data, Failure> {
        let folder = &config.data_dir;
        let Folder { lock, engine, files } = Folder::open(config).await?;
        let released = Arc::downgrade(&engine);
        let options = StoreOptions {
            retention: Duration::from_secs(config.store.retention_days * 86_400),
            message_octets_max: config.store.message_octets_max + TRACE_OCTETS_MAX,
            background: Some(Duration::from_secs(1)),
            annotations_max: config.store.annotations_max,
            annotation_octets_max: config.store.annotation_octets_max,
            account_annotation_octets_max: config.store.account_annotation_octets_max,
            compress: config.store.compress,
            ..StoreOptions::default()
        };
        let store = Store::open(options, Arc::clone(&engine), files)
            .map_err(|error: OpenError| failed(folder.display(), &error))?;
        let mut cluster = Cluster::open(config, &store).await?;
        let commit = Arc::new(ThroughStore(store.clone()));
        let directory = match &cluster {
            Some(cluster) => cluster.directory(&config.directory, Arc::clone(&engine), commit).await?,
            None => CopiedDirectory::open(Arc::clone(&engine), commit)
                .map_err(|error| failed("the directory", &error))?,
        };
        settle_domain(&directory, config).await?;
        let publications =
            Publications::start(store.clone(), Arc::new(directory.clone()), Arc::clone(&engine)).await;
        let publications = publications.map_err(|error| failed("the mailboxes that are shared", &error))?;
        let renames = Renames::start(store.clone(), &directory, engine);
        let administrators = config.administrators();
        let hasher =
            Hasher::new(config.auth.hasher_options()).map_err(|error| failed("passwords", &error))?;
        let users = (!config.auth.passwd_file.as_os_str().is_empty())
            .then(|| PasswdFile::open(&config.auth.passwd_file, &config.default_domain));
        let users = users.transpose().map_err(|error| {
            failed(format!("the users' file {}", config.auth.passwd_file.display()), &error)
        })?;
        let newcomers = Newcomers::new(users, config.auth.passwd_file_makes_accounts);
        let authenticator = Arc::new(Authenticator::new(
            Arc::new(DirectoryAccounts {
                directory: directory.clone(),
                newcomers: Arc::clone(&newcomers),
                administrators: administrators.clone(),
            }),
            Arc::new(hasher),
            AuthenticatorOptions {
                cache_lifetime: Duration::from_secs(config.auth.cache_lifetime_s),
                mechanisms: config.auth.mechanisms.clone(),
                certificate_name: config.auth.certificate_name.into(),
                scram_secret: crate::secret::read_or_make(&folder.join("scram.secret"))
                    .map_err(|error| failed(folder.join("scram.secret").display(), &error))?,
                ..AuthenticatorOptions::new(&config.default_domain)
            },
        ));
        let copied = directory;
        let directory: Arc<dyn Directory> = Arc::new(copied.clone());
        if let Some(cluster) = &mut cluster {
            cluster.open_desk(config, Arc::clone(&directory))?;
        }
        let fence = cluster.as_ref().map_or_else(Fence::default, |cluster| cluster.fence.clone());
        if let Some(cluster) = &cluster
            && !cluster.look_back(&copied, &store).await
        {
            tracing::info!(
                "this node cannot be compared with what the directory knows of it, and serves meanwhile"
            );
        }
        let router = Router::new(Arc::clone(&directory), store.node(), Style::default())
            .with_store(store.store_id(), fence)
            .with_moves(store.clone())
            .with_newcomers(newcomers.clone());
        let mailboxes = config.accounts.parsed().map_err(|error| Failure::new(Kind::Usage, error))?;
        let registrar = Registrar::new(Arc::clone(&directory), store.clone(), mailboxes);
        let registrar = Arc::new(match &cluster {
            Some(cluster) => registrar.with_homes(Arc::new(ClusterHomes {
                cluster: cluster.clone(),
                directory: Arc::clone(&directory),
                store: store.store_id(),
                placed: Default::default(),
            })),
            None => registrar,
        });
        let node = Arc::new(Node {
            config: config.clone(),
            store,
            directory,
            authenticator,
            sessions: Sessions::new(),
            newcomers,
            making: Default::default(),
            registrar,
            administrators,
        });
        let maker = Arc::downgrade(&node);
        node.newcomers.set_maker(Box::new(move |user| {
            let maker = maker.clone();
            Box::pin(async move {
                let node = maker.upgrade().ok_or("the server has stopped")?;
                node.welcome(&user).await.map_err(|error| with_causes(&error))
            })
        }));
        let peers: Arc<dyn Peers> = match &cluster {
            Some(cluster) => Arc::new(cluster.clone()),
            None => Arc::new(NoPeers),
        };
        let transit = Transit::new(
            node.store.clone(),
            Arc::clone(&node.directory),
            Arc::clone(&peers),
            node.administrators.clone(),
            TransitTimes::default(),
        );
        let limits = MoveLimits {
            at_once: usize::try_from(config.cluster.moves_at_once).unwrap_or(usize::MAX),
            octets_per_second: Some(config.cluster.move_octets_per_second).filter(|octets| *octets > 0),
        };
        let mover = Mover::new(MoverParts {
            store: node.store.clone(),
            directory: Arc::clone(&node.directory),
            peers: Arc::clone(&peers),
            publications: Some(Arc::clone(&publications)),
            transit: Some(transit.clone()),
            times: MoveTimes::default(),
            limits,
        });
        Ok(Data {
            engine: released,
            node,
            directory: copied,
            cluster,
            router,
            publications,
            renames,
            peers,
            transit,
            mover,
            _lock: lock,
        })
    }

    /// What has accounts moved for sessions at this node.
    fn relocator(&self) -> Arc<dyn Relocator> {
        match self.cluster.clone() {
            Some(cluster) => {
                let (directory, mover) = (Arc::clone(&self.node.directory), self.mover.clone());
                Arc::new(Relocations { directory, mover, cluster })
            }
            None => Arc::new(NoRelocator),
        }
    }

    /// Makes durable what is queued, and closes.
    pub(crate) async fn close(self) {
        self.mover.stop().await;
        self.transit.stop().await;
        self.publications.stop().await;
        self.renames.stop().await;
        self.node.store.close().await;
    }
}

/// Makes the default domain what the configuration says; of a directory that is another node's it has to be that.
async fn settle_domain(directory: &CopiedDirectory, config: &Config) -> Result<(), Failure> {
    let cannot = |error: DirectoryError| failed("the directory", &error);
    let current = directory.default_domain().await.map_err(cannot)?;
    if current.as_ref().is_some_and(|domain| *domain.name == *config.default_domain) {
        return Ok(());
    }
    let may_set =
        directory.embedded().is_some() || config.directory.source == SourceKind::Etcd && current.is_none();
    if !may_set {
        return Err(Failure::new(
            Kind::Usage,
            format!(
                "default_domain is {}, and the cluster's is {}",
                config.default_domain,
                current.map_or("not set".into(), |domain| domain.name)
            ),
        ));
    }
    match directory.add_domain(config.default_domain.clone()).await {
        Ok(_) | Err(DirectoryError::Exists(_)) => {}
        Err(error) => return Err(cannot(error)),
    }
    directory.set_default_domain(config.default_domain.clone()).await.map_err(cannot)
}

fn check_space(folder: &Path, free_min: u64) -> Result<(), Failure> {
    let Ok(stat) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    match free >= free_min {
        true => Ok(()),
        false => Err(Failure::failed(format!(
            "only {} are free on the disk of {}; at least {} are needed (store.free_octets_min)",
            crate::output::size(free),
            folder.display(),
            crate::output::size(free_min),
        ))),
    }
}

fn make_tls(config: &Config, hostname: &str) -> Result<Option<Arc<ServerTls>>, Failure> {
    let clients =
        [&config.imap.listen, &config.imap.listen_tls, &config.pop3.listen, &config.pop3.listen_tls];
    let mut clients = clients.into_iter().chain([&config.imap.admins_listen]);
    if clients.all(|listen| listen.is_empty()) {
        return Ok(None);
    }
    let tls = ServerTls::load_files(tls_files(config, hostname)?);
    tls.map(Arc::new).map(Some).map_err(|error| failed("TLS", &error))
}

/// The certificates that are set, or one that is made.
fn tls_files(config: &Config, hostname: &str) -> Result<TlsFiles, Failure> {
    let given = |path: &std::path::PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
    let (folder, client_ca) = (given(&config.tls.folder), given(&config.tls.client_ca));
    if !config.tls.cert.as_os_str().is_empty() {
        return Ok(TlsFiles {
            cert: config.tls.cert.clone(),
            key: config.tls.key.clone(),
            folder,
            client_ca,
        });
    }
    let names = [hostname.to_owned(), "localhost".to_owned()];
    let made =
        rookery_net::tls::self_signed(&names, &config.data_dir).map_err(|error| failed("TLS", &error))?;
    if made.newly_made {
        tracing::info!(cert = %made.cert.display(), "made a self-signed certificate; set [tls] cert and key for a real one");
    }
    Ok(TlsFiles { cert: made.cert, key: made.key, folder, client_ca })
}

fn tls_again(tls: Option<Arc<ServerTls>>, hostname: String) -> Apply {
    Box::new(move |config| {
        let Some(tls) = &tls else { return Ok(()) };
        let reloaded = tls.reload_from(tls_files(config, &hostname)?);
        reloaded.map(drop).map_err(|error| failed("the old certificates are still served", &error))
    })
}

fn connection_limits(config: &Config) -> ConnectionLimits {
    ConnectionLimits {
        total_max: config.server.connections_max,
        unauthenticated_per_address_max: config.server.unauthenticated_per_address_max,
    }
}

fn gate_again(gate: &Gate) -> Apply {
    let gate = gate.clone();
    Box::new(move |config| {
        gate.set_limits(connection_limits(config));
        Ok(())
    })
}

/// As many open files as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files could not be raised");
    }
}

/// How a server has ended.
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// It makes room for the program that takes its place, which is given the sockets. There may be clients to keep.
    Restart(Keeping),
}

/// Runs the server until a signal ends it. `ready` is called once, when clients are served.
pub(crate) async fn run(
    loaded: Loaded,
    ready: impl AsyncFnOnce(Arc<Node>, Places) -> Result<(), Failure>,
) -> Result<End, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("signals", &error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed("signals", &error))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| failed("signals", &error))?;
    let mut user2 = signal(SignalKind::user_defined2()).map_err(|error| failed("signals", &error))?;
    let _ = rookery_admin::process::uptime();
    let config = loaded.config.clone();
    if config.server.raise_file_limit {
        raise_file_limit();
    }
    let metrics = rookery_admin::install_metrics().map_err(|error| failed("metrics", &error))?;
    let hostname = config.hostname();
    let data = Data::open(&config).await?;
    let node = Arc::clone(&data.node);
    let unresolved = resolve_reservations(&node).await?;
    let tls = make_tls(&config, &hostname)?;
    let duty = match &data.cluster {
        Some(cluster) => cluster.serve_duty(&data.directory).await,
        None => Duty::On,
    };
    let mut bound = Bound::all(&config, duty == Duty::On)?;
    let lineage =
        Lineage::new(bound.line.take()).map_err(|error| failed("the line to the first process", &error))?;
    let heirs = succession::bind(&config.data_dir)
        .map_err(|error| failed("the socket of those who come before", &error))?;
    let keeper = Keeper::default();
    let mut held = bound.hold().map_err(|error| failed("the listening sockets", &error))?;
    let socket = rookery_admin::socket::bind(&config.admin_socket())
        .map_err(|error| failed("the admin socket", &error))?;
    let places = bound.places();
    let drain = Drain::new();
    let doorkeeper = Doorkeeper::new(Door::new(drain.clone()), duty);
    let gate = Gate::new(connection_limits(&config));
    let mut tasks = JoinSet::new();
    let parts = Parts {
        node: Arc::clone(&node),
        router: data.router.clone(),
        transit: data.transit.clone(),
        relocator: data.relocator(),
        peers: Arc::clone(&data.peers),
        hostname: hostname.clone(),
        tls: tls.clone(),
        sessions: node.sessions.clone(),
        keeper: keeper.clone(),
    };
    let (imap, imap_again) = Live::new(&config, &parts, crate::imap::services)?;
    let (pop3, pop3_again) = Live::new(&config, &parts, crate::pop3::services)?;
    let (lmtp, lmtp_again) = Live::new(&config, &parts, crate::lmtp::services)?;
    let again = vec![imap_again, pop3_again, lmtp_again, gate_again(&gate), tls_again(tls.clone(), hostname)];
    let reload = Reload::new(loaded, tls.clone(), again);
    let (restart, mut restarts) = Restart::new();
    let (resolving, draining) = (Arc::clone(&node.registrar), drain.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = draining.draining() => {}
            () = resolving.keep_resolving(unresolved) => {}
        }
    });
    if let Some(cluster) = &data.cluster {
        let parts = ServedParts {
            directory: data.directory.clone(),
            store: node.store.clone(),
            registrar: Arc::clone(&node.registrar),
            imap: imap.clone(),
            pop3: pop3.clone(),
            lmtp: lmtp.clone(),
            transit: data.transit.clone(),
            mover: data.mover.clone(),
            services: services(&places),
            data_dir: config.data_dir.clone(),
            settings: Settings { file: reload.file() },
            doorkeeper: Arc::clone(&doorkeeper),
        };
        cluster.serve(parts, &mut tasks, &drain);
    }
    // What an old store knows of a move may have been settled since; once it is accepted, the next start goes on.
    if data.cluster.as_ref().is_none_or(|cluster| cluster.fence.why().is_none()) {
        data.mover.resume().map_err(|error| failed("moves of accounts", &error))?;
        let resumed = data.transit.resume();
        resumed.map_err(|error| failed("moves to other nodes", &error))?;
    }
    let desk = Arc::new(Desk {
        node: Arc::clone(&node),
        transit: data.transit.clone(),
        mover: data.mover.clone(),
        cluster: data.cluster.clone(),
        directory: data.directory.clone(),
        reload: reload.clone(),
        restart: restart.clone(),
        metrics: metrics.clone(),
        doorkeeper: Arc::clone(&doorkeeper),
        heavy: Default::default(),
    });
    if let Some(cluster) = &data.cluster {
        cluster.serve_errands(&desk, &drain);
        cluster.serves_all();
    }
    tasks
        .spawn(socket.serve(drain.clone(), move |request, replies| {
            admin::answer(Arc::clone(&desk), request, replies)
        }));
    let here = Heirs {
        here: node.store.node(),
        imap: imap.clone(),
        pop3: pop3.clone(),
        peers: Arc::clone(&data.peers),
        keeper: keeper.clone(),
    };
    tasks.spawn(succession::serve(heirs, here, drain.clone()));
    for (listeners, tls) in [(bound.imap, false), (bound.imap_tls, true)] {
        let entrance = Entrance { tls, administrators: false };
        for listener in listeners {
            crate::imap::spawn(&imap, &mut tasks, listener, entrance, &gate, doorkeeper.door());
        }
    }
    // Whoever looks after the node comes in also while it takes no clients.
    let always = Door::new(drain.clone());
    for listener in bound.imap_administrators {
        let entrance = Entrance { tls: false, administrators: true };
        crate::imap::spawn(&imap, &mut tasks, listener, entrance, &gate, &always);
    }
    for (listeners, over_tls) in [(bound.pop3, false), (bound.pop3_tls, true)] {
        for listener in listeners {
            crate::pop3::spawn(&pop3, &mut tasks, listener, over_tls, &gate, doorkeeper.door());
        }
    }
    for listener in bound.lmtp {
        crate::lmtp::spawn(&lmtp, &mut tasks, listener, &gate, doorkeeper.door());
    }
    crate::mta::spawn(&mut tasks, bound.mta_auth, bound.mta_lookup, &data, &gate, &drain);
    for listener in bound.http {
        let store = node.store.clone();
        let (draining, door) = (drain.clone(), doorkeeper.door().clone());
        let state = AdminState::new(metrics.clone(), move || match store.read_only_because() {
            Some(why) => Readiness::NotReady(why),
            None if draining.is_draining() => Readiness::NotReady("the server is shutting down".to_owned()),
            None if !door.is_open() => Readiness::NotReady("this node takes no clients".to_owned()),
            None => Readiness::Ready,
        });
        let drain = drain.clone();
        tasks.spawn(async move {
            if let Err(error) = rookery_admin::serve(listener, state, drain).await {
                tracing::error!(%error, "HTTP has ended");
            }
        });
    }
    if tls.is_some() {
        let (reload, drain) = (reload.clone(), drain.clone());
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = drain.draining() => return,
                    () = tokio::time::sleep(TLS_WATCH) => reload.look(),
                }
            }
        });
    }
    tell(&node, &places).await;
    notify("READY=1");
    lineage.serves().map_err(|error| failed("the line to the first process", &error))?;
    let result = ready(Arc::clone(&node), places).await;
    let mut restarting = false;
    if result.is_ok() {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => drop(reload.run()),
                _ = user2.recv() => drop(restart.ask().await),
                () = lineage.orphaned() => break,
                Some(()) = restarts.recv() => {
                    restarting = true;
                    break;
                }
            }
        }
    }
    // From here on new connections are refused, or wait for the next program.
    if restarting {
        // Nobody waits for this yet.
        data.node.store.settle().await;
        keeper.open();
    } else {
        held = Vec::new();
    }
    notify(if restarting { "RELOADING=1" } else { "STOPPING=1" });
    tracing::info!(connections = gate.total(), "stopping");
    let impatient = drain.clone();
    let second = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        impatient.cut();
    });
    if let Some(cluster) = &data.cluster {
        // What other nodes have begun here ends with the drain, and nothing new begins.
        cluster.links.drain(Duration::ZERO).await;
    }
    drain.shut_down(Duration::from_secs(reload.running().server.drain_timeout_s)).await;
    while tasks.join_next().await.is_some() {}
    second.abort();
    if let Some(cluster) = &data.cluster {
        data.directory.stop_following();
        cluster.shutdown();
    }
    drop((imap, pop3, lmtp, parts, reload));
    // Whoever is kept looks for the next program's.
    succession::unbind(&config.data_dir);
    let engine = data.engine.clone();
    data.close().await;
    tracing::info!("stopped");
    result.map(|()| match restarting {
        true => End::Restart(Keeping { sockets: held, clients: keeper.close(), lineage, engine }),
        false => End::Stopped,
    })
}

/// Ends what a crash left half made; what the directory, being away, does not take is returned.
async fn resolve_reservations(node: &Node) -> Result<Vec<Arc<Entry>>, Failure> {
    let cannot = |error: RegistrarError| failed("accounts that were being made", &error);
    let own = node.registrar.own_reservations().await.map_err(cannot)?;
    match node.registrar.resolve(&own).await {
        Ok(()) => Ok(Vec::new()),
        Err(RegistrarError::Directory(
            error @ (DirectoryError::Unavailable(_) | DirectoryError::WentBack(_)),
        )) => {
            tracing::warn!(%error, "accounts that were being made are resolved when the directory is back");
            Ok(own)
        }
        Err(error) => Err(cannot(error)),
    }
}

/// Where clients reach this node's services.
fn services(places: &Places) -> Vec<(Box<str>, Box<str>)> {
    let kinds = [
        ("imap", &places.imap),
        ("imaps", &places.imap_tls),
        ("pop3", &places.pop3),
        ("pop3s", &places.pop3_tls),
        ("lmtp", &places.lmtp),
    ];
    let at = kinds
        .iter()
        .flat_map(|(kind, locals)| locals.iter().map(|local| ((*kind).into(), local.to_string().into())));
    at.take(rookery_directory::Node::SERVICES_MAX).collect()
}

/// Says where clients are served, and what to do first on a server without users.
async fn tell(node: &Node, places: &Places) {
    let kinds = [
        ("imap", &places.imap),
        ("imaps", &places.imap_tls),
        ("imap for administrators", &places.imap_administrators),
        ("pop3", &places.pop3),
        ("pop3s", &places.pop3_tls),
        ("lmtp", &places.lmtp),
        ("mta-auth", &places.mta_auth),
        ("mta-lookup", &places.mta_lookup),
        ("http", &places.http),
    ];
    for (protocol, locals) in kinds {
        for local in locals {
            tracing::info!(protocol, at = %local, "listening");
        }
    }
    if node.is_empty().await.unwrap_or(false) {
        tracing::info!("there are no accounts yet; make one with: rookery user add NAME");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "ready");
}
