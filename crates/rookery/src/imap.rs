//! IMAP's listeners and what their sessions share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rookery_imap::{ImapConfig, Sessions};
use rookery_net::{Drain, Gate, Listener, Networks, ServerTls, Service};
use tokio::task::JoinSet;

use crate::exit::{Failure, Kind};
use crate::serve::Data;

/// What sessions share. Replaced as a whole when the certificate changes; sessions keep what they began with.
pub(crate) struct Imap {
    services: Arc<ArcSwap<rookery_imap::Services>>,
}

/// Puts together what sessions need.
pub(crate) fn services(data: &Data, hostname: &str, tls: Option<&ServerTls>) -> Result<Imap, Failure> {
    let config = &data.node.config;
    let sessions = ImapConfig {
        message_octets_max: config.imap.sessions.message_octets_max.min(config.store.message_octets_max),
        ..config.imap.sessions.clone()
    };
    let trusted = Networks::parse(&config.server.plaintext_networks)
        .map_err(|error| Failure::new(Kind::Usage, error))?;
    let services = rookery_imap::Services {
        store: data.node.store.clone(),
        directory: Arc::clone(&data.node.directory),
        router: data.router.clone(),
        authenticator: Arc::clone(&data.node.authenticator),
        registrar: Arc::clone(&data.node.registrar),
        administrators: data.node.administrators.clone(),
        tls: tls.map(ServerTls::acceptor),
        config: sessions,
        hostname: hostname.to_owned(),
        trusted,
        sessions: Sessions::new(),
    };
    Ok(Imap { services: Arc::new(ArcSwap::from_pointee(services)) })
}

impl Imap {
    /// What to call when `tls` has read a new certificate.
    pub(crate) fn renewer(&self, tls: Option<Arc<ServerTls>>) -> Arc<dyn Fn() + Send + Sync> {
        let services = Arc::clone(&self.services);
        Arc::new(move || {
            services.rcu(|old| rookery_imap::Services {
                store: old.store.clone(),
                directory: Arc::clone(&old.directory),
                router: old.router.clone(),
                authenticator: Arc::clone(&old.authenticator),
                registrar: Arc::clone(&old.registrar),
                administrators: old.administrators.clone(),
                tls: tls.as_deref().map(ServerTls::acceptor),
                config: old.config.clone(),
                hostname: old.hostname.clone(),
                trusted: old.trusted.clone(),
                sessions: old.sessions.clone(),
            });
        })
    }

    /// Serves a listener until the drain ends.
    pub(crate) fn spawn(
        &self,
        tasks: &mut JoinSet<()>,
        listener: Listener,
        over_tls: bool,
        gate: &Gate,
        drain: &Drain,
    ) {
        let services = Arc::clone(&self.services);
        let service = match over_tls {
            false => Service { protocol: "imap", refusal: "* BYE Too many connections\r\n" },
            true => Service { protocol: "imaps", refusal: "" },
        };
        tasks.spawn(rookery_net::serve(listener, service, gate.clone(), drain.clone(), move |accepted| {
            rookery_imap::serve_connection(accepted, services.load_full(), over_tls)
        }));
    }
}
