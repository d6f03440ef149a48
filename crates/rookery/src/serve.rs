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
use std::sync::Arc;
use std::time::Duration;

use rookery_admin::{AdminState, Readiness};
use rookery_auth::{Authenticator, AuthenticatorOptions, Hasher, Sessions};
use rookery_directory::{Directory, DirectoryError, EmbeddedDirectory};
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::lock::{DataLock, LockError};
use rookery_kv::{Engine, EngineError, RealFiles};
use rookery_net::{
    ConnectionLimits, Drain, Gate, ListenOptions, ListenSpec, Listener, Local, ServerTls, Service,
};
use rookery_route::{Registrar, Router};
use rookery_store::{OpenError, Store, StoreOptions};
use rookery_types::Style;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::admin::{self, Desk};
use crate::config::Config;
use crate::exit::{Failure, Kind};
use crate::node::{DirectoryAccounts, Node, ThroughStore};
use crate::notify::notify;
use crate::reload::Reload;

/// Room for the trace lines that LMTP puts on top of a message of the largest size.
const TRACE_OCTETS_MAX: u64 = 64 * 1024;
/// How often the certificate's files are looked at.
const TLS_WATCH: Duration = Duration::from_secs(60);

/// An open data folder, without listeners. Dropping it after [`Data::close`] frees the folder.
pub(crate) struct Data {
    pub(crate) node: Arc<Node>,
    pub(crate) router: Router,
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
        let options = StoreOptions {
            retention: Duration::from_secs(config.store.retention_days * 86_400),
            message_octets_max: config.store.message_octets_max + TRACE_OCTETS_MAX,
            background: Some(Duration::from_secs(1)),
            ..StoreOptions::default()
        };
        let store = Store::open(options, Arc::clone(&engine), files)
            .map_err(|error: OpenError| failed(folder.display(), &error))?;
        let directory = EmbeddedDirectory::open(engine, Arc::new(ThroughStore(store.clone())))
            .map_err(|error| failed("the directory", &error))?;
        match directory.add_domain(config.default_domain.clone()).await {
            Ok(_) | Err(DirectoryError::Exists(_)) => {}
            Err(error) => return Err(failed("the directory", &error)),
        }
        let current = directory.default_domain().await.map_err(|error| failed("the directory", &error))?;
        if current.is_none_or(|domain| *domain.name != *config.default_domain) {
            let set = directory.set_default_domain(config.default_domain.clone()).await;
            set.map_err(|error| failed("the directory", &error))?;
        }
        let administrators = config.administrators();
        let hasher =
            Hasher::new(config.auth.hasher_options()).map_err(|error| failed("passwords", &error))?;
        let authenticator = Arc::new(Authenticator::new(
            Arc::new(DirectoryAccounts {
                directory: directory.clone(),
                administrators: administrators.clone(),
            }),
            Arc::new(hasher),
            AuthenticatorOptions {
                cache_lifetime: Duration::from_secs(config.auth.cache_lifetime_s),
                mechanisms: config.auth.mechanisms.clone(),
                scram_secret: crate::secret::read_or_make(&folder.join("scram.secret"))
                    .map_err(|error| failed(folder.join("scram.secret").display(), &error))?,
                ..AuthenticatorOptions::new(&config.default_domain)
            },
        ));
        let directory: Arc<dyn Directory> = Arc::new(directory);
        let router = Router::new(Arc::clone(&directory), store.node(), Style::default());
        let mailboxes = config.accounts.parsed().map_err(|error| Failure::new(Kind::Usage, error))?;
        let registrar = Arc::new(Registrar::new(Arc::clone(&directory), store.clone(), mailboxes));
        let config = config.clone();
        let node = Arc::new(Node { config, store, directory, authenticator, registrar, administrators });
        Ok(Data { node, router, _lock: lock })
    }

    /// Makes durable what is queued, and closes.
    pub(crate) async fn close(self) {
        self.node.store.close().await;
    }
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

/// Where a running server is reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub(crate) imap: Vec<Local>,
    pub(crate) imap_tls: Vec<Local>,
    pub(crate) lmtp: Vec<Local>,
    pub(crate) http: Vec<Local>,
}

/// Listeners that are bound and not served yet.
struct Bound {
    imap: Vec<Listener>,
    imap_tls: Vec<Listener>,
    lmtp: Vec<Listener>,
    http: Vec<Listener>,
}

fn bind(specs: &[String], unix_mode: u32) -> Result<Vec<Listener>, Failure> {
    let options = ListenOptions { unix_mode, ..ListenOptions::default() };
    let mut listeners = Vec::new();
    for text in specs {
        let spec: ListenSpec = text.parse().map_err(|error| Failure::new(Kind::Usage, error))?;
        match Listener::bind_with(&spec, options) {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 is no reason not to start, where IPv4 beside it works.
            Err(error) if is_missing_family(&error) && !listeners.is_empty() => {
                tracing::info!(%error, "not listened to");
            }
            Err(error) => return Err(Failure::failed(with_causes(&error))),
        }
    }
    Ok(listeners)
}

fn is_missing_family(error: &rookery_net::BindError) -> bool {
    use std::io::ErrorKind;
    let rookery_net::BindError::Refused { spec: ListenSpec::Tcp(address), source } = error else {
        return false;
    };
    address.is_ipv6()
        && (source.kind() == ErrorKind::AddrNotAvailable
            || rustix::io::Errno::from_io_error(source) == Some(rustix::io::Errno::AFNOSUPPORT))
}

fn locals(listeners: &[Listener]) -> Vec<Local> {
    listeners.iter().filter_map(|listener| listener.local().ok()).collect()
}

fn make_tls(config: &Config, hostname: &str) -> Result<Option<Arc<ServerTls>>, Failure> {
    if config.imap.listen.is_empty() && config.imap.listen_tls.is_empty() {
        return Ok(None);
    }
    let (cert, key) = if config.tls.cert.as_os_str().is_empty() {
        let names = [hostname.to_owned(), "localhost".to_owned()];
        let made =
            rookery_net::tls::self_signed(&names, &config.data_dir).map_err(|error| failed("TLS", &error))?;
        if made.newly_made {
            tracing::info!(cert = %made.cert.display(), "made a self-signed certificate; set [tls] cert and key for a real one");
        }
        (made.cert, made.key)
    } else {
        (config.tls.cert.clone(), config.tls.key.clone())
    };
    ServerTls::load(cert, key).map(Arc::new).map(Some).map_err(|error| failed("TLS", &error))
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

/// Runs the server until a signal ends it. `ready` is called once, when clients are served.
pub(crate) async fn run(
    config: Config,
    ready: impl AsyncFnOnce(Arc<Node>, Places) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("signals", &error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed("signals", &error))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| failed("signals", &error))?;
    let _ = rookery_admin::process::uptime();
    if config.server.raise_file_limit {
        raise_file_limit();
    }
    let metrics = rookery_admin::install_metrics().map_err(|error| failed("metrics", &error))?;
    let hostname = config.hostname();
    let data = Data::open(&config).await?;
    let node = Arc::clone(&data.node);
    let resolved = node.registrar.resolve_reservations().await;
    resolved.map_err(|error| failed("accounts that were being made", &error))?;
    let tls = make_tls(&config, &hostname)?;
    let lmtp_mode = config.lmtp.unix_mode().unwrap_or(0o660);
    let bound = Bound {
        imap: bind(&config.imap.listen, 0o666)?,
        imap_tls: bind(&config.imap.listen_tls, 0o666)?,
        lmtp: bind(&config.lmtp.listen, lmtp_mode)?,
        http: bind(&config.http.listen, 0o660)?,
    };
    let socket = rookery_admin::socket::bind(&config.admin_socket())
        .map_err(|error| failed("the admin socket", &error))?;
    let places = Places {
        imap: locals(&bound.imap),
        imap_tls: locals(&bound.imap_tls),
        lmtp: locals(&bound.lmtp),
        http: locals(&bound.http),
    };
    let drain = Drain::new();
    let gate = Gate::new(ConnectionLimits {
        total_max: config.server.connections_max,
        unauthenticated_per_address_max: config.server.unauthenticated_per_address_max,
    });
    let mut tasks = JoinSet::new();
    let sessions = Sessions::new();
    let imap = crate::imap::services(&data, &hostname, tls.clone(), &sessions)?;
    let reload = Reload { tls: tls.clone() };
    let desk = Arc::new(Desk { node: Arc::clone(&node), reload: reload.clone(), heavy: Default::default() });
    tasks
        .spawn(socket.serve(drain.clone(), move |request, replies| {
            admin::answer(Arc::clone(&desk), request, replies)
        }));
    for (listeners, over_tls) in [(bound.imap, false), (bound.imap_tls, true)] {
        for listener in listeners {
            crate::imap::spawn(&imap, &mut tasks, listener, over_tls, &gate, &drain);
        }
    }
    spawn_lmtp(&mut tasks, bound.lmtp, &data, &hostname, &gate, &drain)?;
    for listener in bound.http {
        let store = node.store.clone();
        let draining = drain.clone();
        let state = AdminState::new(metrics.clone(), move || match store.read_only_because() {
            Some(why) => Readiness::NotReady(why),
            None if draining.is_draining() => Readiness::NotReady("the server is shutting down".to_owned()),
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
    let result = ready(Arc::clone(&node), places).await;
    if result.is_ok() {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => drop(reload.run()),
            }
        }
    }
    notify("STOPPING=1");
    tracing::info!(connections = gate.total(), "stopping");
    let impatient = drain.clone();
    let second = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        impatient.cut();
    });
    drain.shut_down(Duration::from_secs(config.server.drain_timeout_s)).await;
    while tasks.join_next().await.is_some() {}
    second.abort();
    drop(imap);
    data.close().await;
    tracing::info!("stopped");
    result
}

fn spawn_lmtp(
    tasks: &mut JoinSet<()>,
    listeners: Vec<Listener>,
    data: &Data,
    hostname: &str,
    gate: &Gate,
    drain: &Drain,
) -> Result<(), Failure> {
    let config = &data.node.config;
    let house = rookery_lmtp::House::new(data.node.store.clone(), Arc::new(data.router.clone()));
    let services = rookery_lmtp::Services::new(
        config.lmtp.clone(),
        hostname.to_owned(),
        config.default_domain.clone(),
        config.store.message_octets_max,
        Arc::new(house),
    );
    let services = Arc::new(services.map_err(|error| Failure::new(Kind::Usage, error))?);
    for listener in listeners {
        let services = Arc::clone(&services);
        let service = Service { protocol: "lmtp", refusal: "421 4.3.2 Too many connections\r\n" };
        tasks.spawn(rookery_net::serve(listener, service, gate.clone(), drain.clone(), move |accepted| {
            rookery_lmtp::serve_connection(accepted, Arc::clone(&services))
        }));
    }
    Ok(())
}

/// Says where clients are served, and what to do first on a server without users.
async fn tell(node: &Node, places: &Places) {
    let kinds =
        [("imap", &places.imap), ("imaps", &places.imap_tls), ("lmtp", &places.lmtp), ("http", &places.http)];
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
