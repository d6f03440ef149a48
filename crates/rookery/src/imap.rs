//! IMAP's listeners and what their sessions share.

use std::sync::Arc;

use rookery_imap::{Entrance, HeaderTexts, ImapConfig, Services, SortTables};
use rookery_net::{Door, Gate, Listener, Service};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::exit::Failure;
use crate::live::{self, Live, Parts};

/// Puts together what sessions need.
pub(crate) fn services(config: &Config, parts: &Parts) -> Result<Services, Failure> {
    let settings = ImapConfig {
        message_octets_max: config.imap.sessions.message_octets_max.min(config.store.message_octets_max),
        ..config.imap.sessions.clone()
    };
    Ok(Services {
        store: parts.node.store.clone(),
        directory: Arc::clone(&parts.node.directory),
        router: parts.router.clone(),
        peers: Arc::clone(&parts.peers),
        keeper: parts.keeper.clone(),
        transit: parts.transit.clone(),
        authenticator: Arc::clone(&parts.node.authenticator),
        registrar: Arc::clone(&parts.node.registrar),
        relocator: Arc::clone(&parts.relocator),
        administrators: parts.node.administrators.clone(),
        tls: parts.tls.clone(),
        header_texts: HeaderTexts::new(settings.search_memory_octets_max),
        sort_tables: SortTables::new(settings.sort_memory_octets_max),
        config: settings,
        hostname: parts.hostname.clone(),
        trusted: live::trusted(config)?,
        sessions: parts.sessions.clone(),
    })
}

/// What is said at a Unix socket while the node takes no clients.
const SHUT: &str = "* BYE [UNAVAILABLE] This server takes no clients at the moment\r\n";

/// Serves a listener until the drain ends.
pub(crate) fn spawn(
    services: &Live<Services>,
    tasks: &mut JoinSet<()>,
    listener: Listener,
    entrance: Entrance,
    gate: &Gate,
    door: &Door,
) {
    let services = services.clone();
    let service = match entrance.tls {
        false => Service { protocol: "imap", refusal: "* BYE Too many connections\r\n", shut: SHUT },
        true => Service { protocol: "imaps", refusal: "", shut: "" },
    };
    tasks.spawn(rookery_net::serve(listener, service, gate.clone(), door.clone(), move |accepted| {
        rookery_imap::serve_connection(accepted, services.now(), entrance)
    }));
}
