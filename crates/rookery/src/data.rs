//! The data folder: its lock, the store and the directory in it, and what works on both.
//!
//! Invariants:
//! - One process at a time has the folder open.
//! - A folder that cannot be opened whole is not opened: the error says why in one line.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rookery_auth::{Authenticator, AuthenticatorOptions, Hasher, PasswdFile, Sessions};
use rookery_directory::{CopiedDirectory, Directory, DirectoryError};
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::lock::{DataLock, LockError};
use rookery_kv::{Engine, EngineError, RealFiles};
use rookery_route::{
    Fence, MoveLimits, MoveTimes, Mover, MoverParts, NoPeers, NoRelocator, Peers, Publications, Registrar,
    Relocator, Renames, Router, Transit, TransitTimes,
};
use rookery_store::{OpenError, Store, StoreOptions};
use rookery_types::Style;

use crate::cluster::relocating::Relocations;
use crate::cluster::{Cluster, ClusterHomes};
use crate::config::{Config, SourceKind};
use crate::exit::{Failure, Kind, failed, with_causes};
use crate::newcomers::Newcomers;
use crate::node::{DirectoryAccounts, Node, ThroughStore};

/// Room for the trace lines that LMTP puts on top of a message of the largest size.
const TRACE_OCTETS_MAX: u64 = 64 * 1024;

/// An open data folder, without listeners. Dropping it after [`Data::close`] frees the folder.
pub(crate) struct Data {
    pub(crate) node: Arc<Node>,
    /// The same as `node.directory`, for what only its own kind can do.
    pub(crate) directory: CopiedDirectory,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) router: Router,
    /// Says whether it is still open.
    pub(crate) engine: Weak<dyn Engine>,
    publications: Arc<Publications>,
    renames: Renames,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) transit: Transit,
    pub(crate) mover: Mover,
    _lock: DataLock,
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
    pub(crate) fn relocator(&self) -> Arc<dyn Relocator> {
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
