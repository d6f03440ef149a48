//! Where clients come in: each listener that is bound, and who answers there.

use rookery_admin::{AdminState, PrometheusHandle, Readiness};
use rookery_imap::Entrance;
use rookery_net::{Door, Drain, Gate, Listener};
use tokio::task::JoinSet;

use crate::cluster::duties::Doorkeeper;
use crate::data::Data;
use crate::listen::Bound;
use crate::live::Live;

/// What those who answer need.
pub(crate) struct Entrances<'a> {
    pub(crate) imap: &'a Live<rookery_imap::Services>,
    pub(crate) pop3: &'a Live<rookery_pop3::Services>,
    pub(crate) lmtp: &'a Live<crate::lmtp::Services>,
    pub(crate) data: &'a Data,
    pub(crate) metrics: &'a PrometheusHandle,
    pub(crate) gate: &'a Gate,
    pub(crate) doorkeeper: &'a Doorkeeper,
    pub(crate) drain: &'a Drain,
}

impl Entrances<'_> {
    /// Serves everywhere, until the server ends.
    pub(crate) fn open(&self, bound: Bound, tasks: &mut JoinSet<()>) {
        let Entrances { imap, pop3, lmtp, data, gate, drain, .. } = *self;
        let door = self.doorkeeper.door();
        for (listeners, tls) in [(bound.imap, false), (bound.imap_tls, true)] {
            let entrance = Entrance { tls, administrators: false };
            for listener in listeners {
                crate::imap::spawn(imap, tasks, listener, entrance, gate, door);
            }
        }
        // Whoever looks after the node comes in also while it takes no clients.
        let always = Door::new(drain.clone());
        for listener in bound.imap_administrators {
            let entrance = Entrance { tls: false, administrators: true };
            crate::imap::spawn(imap, tasks, listener, entrance, gate, &always);
        }
        for (listeners, over_tls) in [(bound.pop3, false), (bound.pop3_tls, true)] {
            for listener in listeners {
                crate::pop3::spawn(pop3, tasks, listener, over_tls, gate, door);
            }
        }
        for listener in bound.lmtp {
            crate::lmtp::spawn(lmtp, tasks, listener, gate, door);
        }
        crate::mta::spawn(tasks, bound.mta_auth, bound.mta_lookup, data, gate, drain);
        for listener in bound.http {
            self.http(listener, tasks);
        }
    }

    /// Metrics, and whether the server is ready.
    fn http(&self, listener: Listener, tasks: &mut JoinSet<()>) {
        let store = self.data.node.store.clone();
        let (draining, door) = (self.drain.clone(), self.doorkeeper.door().clone());
        let state = AdminState::new(self.metrics.clone(), move || match store.read_only_because() {
            Some(why) => Readiness::NotReady(why),
            None if draining.is_draining() => Readiness::NotReady("the server is shutting down".to_owned()),
            None if !door.is_open() => Readiness::NotReady("this node takes no clients".to_owned()),
            None => Readiness::Ready,
        });
        let drain = self.drain.clone();
        tasks.spawn(async move {
            if let Err(error) = rookery_admin::serve(listener, state, drain).await {
                tracing::error!(%error, "HTTP has ended");
            }
        });
    }
}
