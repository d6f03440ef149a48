//! LMTP's listeners and what their sessions share.

use std::sync::Arc;

use rookery_lmtp::House;
use rookery_net::{Door, Gate, Listener, Service};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::exit::{Failure, Kind};
use crate::live::{self, Live, Parts};

pub(crate) type Services = rookery_lmtp::Services<House>;

/// Puts together what sessions need.
pub(crate) fn services(config: &Config, parts: &Parts) -> Result<Services, Failure> {
    let house = House::new(parts.node.store.clone(), Arc::new(parts.router.clone()));
    let site = rookery_lmtp::Site {
        hostname: parts.hostname.clone(),
        default_domain: config.default_domain.clone(),
        message_octets_max: config.store.message_octets_max,
        tls: parts.tls.clone(),
        authenticator: Some(Arc::clone(&parts.node.authenticator)),
        plaintext: live::trusted(config)?,
        admins: parts.node.administrators.site().to_vec(),
    };
    let services = Services::new(config.lmtp.clone(), site, Arc::new(house), Arc::clone(&parts.peers));
    services.map_err(|error| Failure::new(Kind::Usage, error))
}

/// What is said at a Unix socket while the node takes no clients.
const SHUT: &str = "421 4.3.2 This server takes no mail at the moment\r\n";

/// Serves a listener until the drain ends.
pub(crate) fn spawn(
    services: &Live<Services>,
    tasks: &mut JoinSet<()>,
    listener: Listener,
    gate: &Gate,
    door: &Door,
) {
    let services = services.clone();
    let service = Service { protocol: "lmtp", refusal: "421 4.3.2 Too many connections\r\n", shut: SHUT };
    tasks.spawn(rookery_net::serve(listener, service, gate.clone(), door.clone(), move |accepted| {
        rookery_lmtp::serve_connection(accepted, services.now())
    }));
}
