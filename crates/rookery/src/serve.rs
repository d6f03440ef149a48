//! The server from start to end: data, listeners, signals, drain.
//!
//! Invariants:
//! - Nothing is listened to before the data is open and whole; the admin socket answers before any client does.
//! - A start that fails says why in one line, and leaves nothing running.
//! - A stop waits for what is under way, then closes the store; what was acknowledged is on disk in any case.

use std::sync::Arc;
use std::time::Duration;

use rookery_directory::{Duty, Entry};
use rookery_net::{ConnectionLimits, Door, Drain, Gate};
use rookery_route::{Keeper, RegistrarError};
use tokio::task::JoinSet;

use crate::admin::{self, Desk};
use crate::certificates;
use crate::cluster::duties::Doorkeeper;
use crate::cluster::{ServedParts, Settings};
use crate::config::{Config, Loaded};
use crate::data::Data;
use crate::entrances::Entrances;
use crate::exit::{Failure, failed};
use crate::keeping::Keeping;
use crate::lineage::Lineage;
use crate::listen::{Bound, Places};
use crate::live::{Apply, Live, Parts};
use crate::node::Node;
use crate::notify::notify;
use crate::reload::Reload;
use crate::restart::Restart;
use crate::signals::Signals;
use crate::succession::{self, Heirs};

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
    let mut signals = Signals::listen().map_err(|error| failed("signals", &error))?;
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
    let tls = certificates::make(&config, &hostname)?;
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
    let again = vec![
        imap_again,
        pop3_again,
        lmtp_again,
        gate_again(&gate),
        certificates::again(tls.clone(), hostname),
    ];
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
    let entrances = Entrances {
        imap: &imap,
        pop3: &pop3,
        lmtp: &lmtp,
        data: &data,
        metrics: &metrics,
        gate: &gate,
        doorkeeper: &doorkeeper,
        drain: &drain,
    };
    entrances.open(bound, &mut tasks);
    if tls.is_some() {
        certificates::watch(&mut tasks, &reload, &drain);
    }
    tell(&node, &places).await;
    notify("READY=1");
    lineage.serves().map_err(|error| failed("the line to the first process", &error))?;
    let result = ready(Arc::clone(&node), places).await;
    let restarting = match &result {
        Ok(()) => signals.until_the_end(&reload, (&restart, &mut restarts), &lineage).await,
        Err(_) => false,
    };
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
    let second = tokio::spawn(signals.cut_at_the_next(drain.clone()));
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
        Err(RegistrarError::Directory(error)) if error.is_away() => {
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
