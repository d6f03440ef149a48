//! The sockets at which an MTA asks.

use std::sync::Arc;

use rookery_mta::socketmap::LookUps;
use rookery_net::{Drain, Gate, Listener, Service};
use tokio::task::JoinSet;

use crate::data::Data;

/// Serves the listeners until the drain ends.
pub(crate) fn spawn(
    tasks: &mut JoinSet<()>,
    auth: Vec<Listener>,
    lookup: Vec<Listener>,
    data: &Data,
    gate: &Gate,
    drain: &Drain,
) {
    for listener in auth {
        let service = Service { protocol: "mta-auth", refusal: "", shut: "" };
        let authenticator = Arc::clone(&data.node.authenticator);
        tasks.spawn(rookery_net::serve(listener, service, gate.clone(), drain.clone(), move |accepted| {
            rookery_mta::auth::serve_connection(accepted, Arc::clone(&authenticator))
        }));
    }
    let look_ups = Arc::new(LookUps::new(data.router.clone(), &data.node.config.default_domain));
    for listener in lookup {
        let service = Service { protocol: "mta-lookup", refusal: "", shut: "" };
        let look_ups = Arc::clone(&look_ups);
        tasks.spawn(rookery_net::serve(listener, service, gate.clone(), drain.clone(), move |accepted| {
            rookery_mta::socketmap::serve_connection(accepted, Arc::clone(&look_ups))
        }));
    }
}
