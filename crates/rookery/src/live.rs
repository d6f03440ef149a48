//! What sessions of every protocol are made of, and how a changed configuration reaches those that come.
//!
//! Invariant: a session keeps the settings it began with.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rookery_auth::Sessions;
use rookery_net::{Networks, ServerTls};
use rookery_route::{Keeper, Peers, Relocator, Router, Transit};

use crate::config::Config;
use crate::exit::{Failure, Kind};
use crate::node::Node;

/// What the services of all protocols share, whatever the configuration says.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) node: Arc<Node>,
    pub(crate) router: Router,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) transit: Transit,
    pub(crate) relocator: Arc<dyn Relocator>,
    pub(crate) hostname: String,
    pub(crate) tls: Option<Arc<ServerTls>>,
    pub(crate) sessions: Sessions,
    pub(crate) keeper: Keeper,
}

/// Networks from which passwords are taken without TLS.
pub(crate) fn trusted(config: &Config) -> Result<Networks, Failure> {
    Networks::parse(&config.server.plaintext_networks).map_err(|error| Failure::new(Kind::Usage, error))
}

/// How something learns of a changed configuration.
pub(crate) type Apply = Box<dyn Fn(&Config) -> Result<(), Failure> + Send + Sync>;

/// The services of one protocol, as the configuration is now.
pub(crate) struct Live<T> {
    services: Arc<ArcSwap<T>>,
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Live<T> {
        Live { services: Arc::clone(&self.services) }
    }
}

/// Puts together what sessions of one protocol need.
type Make<T> = fn(&Config, &Parts) -> Result<T, Failure>;

impl<T: Send + Sync + 'static> Live<T> {
    /// What there is now, and what makes it anew.
    pub(crate) fn new(config: &Config, parts: &Parts, make: Make<T>) -> Result<(Live<T>, Apply), Failure> {
        let live = Live { services: Arc::new(ArcSwap::from_pointee(make(config, parts)?)) };
        let (again, parts) = (live.clone(), parts.clone());
        let apply: Apply = Box::new(move |config| {
            again.services.store(Arc::new(make(config, &parts)?));
            Ok(())
        });
        Ok((live, apply))
    }

    /// For a session that begins.
    pub(crate) fn now(&self) -> Arc<T> {
        self.services.load_full()
    }
}
