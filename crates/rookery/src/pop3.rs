//! POP3's listeners and what their sessions share.

use std::sync::Arc;

use rookery_net::{Door, Gate, Listener, Service};
use rookery_pop3::Services;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::exit::Failure;
use crate::live::{self, Live, Parts};

/// Puts together what sessions need.
pub(crate) fn services(config: &Config, parts: &Parts) -> Result<Services, Failure> {
    Ok(Services {
        store: parts.node.store.clone(),
        router: parts.router.clone(),
        peers: Arc::clone(&parts.peers),
        keeper: parts.keeper.clone(),
        authenticator: Arc::clone(&parts.node.authenticator),
        tls: parts.tls.clone(),
        config: config.pop3.clone(),
        hostname: parts.hostname.clone(),
        trusted: live::trusted(config)?,
        sessions: parts.sessions.clone(),
    })
}

/// What is said at a Unix socket while the node takes no clients.
const SHUT: &str = "-ERR [SYS/TEMP] This server takes no clients at the moment\r\n";

/// Serves a listener until the drain ends.
pub(crate) fn spawn(
    services: &Live<Services>,
    tasks: &mut JoinSet<()>,
    listener: Listener,
    over_tls: bool,
    gate: &Gate,
    door: &Door,
) {
    let services = services.clone();
    let service = match over_tls {
        false => {
            Service { protocol: "pop3", refusal: "-ERR [SYS/TEMP] Too many connections\r\n", shut: SHUT }
        }
        true => Service { protocol: "pop3s", refusal: "", shut: "" },
    };
    tasks.spawn(rookery_net::serve(listener, service, gate.clone(), door.clone(), move |accepted| {
        rookery_pop3::serve_connection(accepted, services.now(), over_tls)
    }));
}
