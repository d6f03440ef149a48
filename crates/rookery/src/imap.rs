//! IMAP's listeners and what their sessions share.

use std::sync::Arc;

use rookery_auth::Sessions;
use rookery_imap::{ImapConfig, Services};
use rookery_net::{Drain, Gate, Listener, Networks, ServerTls, Service};
use tokio::task::JoinSet;

use crate::exit::{Failure, Kind};
use crate::serve::Data;

/// Puts together what sessions need.
pub(crate) fn services(
    data: &Data,
    hostname: &str,
    tls: Option<Arc<ServerTls>>,
    sessions: &Sessions,
) -> Result<Arc<Services>, Failure> {
    let config = &data.node.config;
    let settings = ImapConfig {
        message_octets_max: config.imap.sessions.message_octets_max.min(config.store.message_octets_max),
        ..config.imap.sessions.clone()
    };
    let trusted = Networks::parse(&config.server.plaintext_networks)
        .map_err(|error| Failure::new(Kind::Usage, error))?;
    Ok(Arc::new(Services {
        store: data.node.store.clone(),
        directory: Arc::clone(&data.node.directory),
        router: data.router.clone(),
        authenticator: Arc::clone(&data.node.authenticator),
        tls,
        config: settings,
        hostname: hostname.to_owned(),
        trusted,
        admins: config.admins(),
        sessions: sessions.clone(),
    }))
}

/// Serves a listener until the drain ends.
pub(crate) fn spawn(
    services: &Arc<Services>,
    tasks: &mut JoinSet<()>,
    listener: Listener,
    over_tls: bool,
    gate: &Gate,
    drain: &Drain,
) {
    let services = Arc::clone(services);
    let service = match over_tls {
        false => Service { protocol: "imap", refusal: "* BYE Too many connections\r\n" },
        true => Service { protocol: "imaps", refusal: "" },
    };
    tasks.spawn(rookery_net::serve(listener, service, gate.clone(), drain.clone(), move |accepted| {
        rookery_imap::serve_connection(accepted, Arc::clone(&services), over_tls)
    }));
}
