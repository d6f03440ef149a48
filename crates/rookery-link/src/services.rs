//! Who serves the streams that peers begin.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument;

use crate::frame::ResetCode;
use crate::identity::Duties;
use crate::mux::{Accept, Incoming, PeerFacts, Serve};

/// A node that starts lets streams wait so long for services that are not there yet.
const STARTS_WITHIN: Duration = Duration::from_secs(3);

pub(crate) type Handler = Arc<dyn Fn(Incoming) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;
type Refusal = (ResetCode, &'static str);

const NO_SERVICE: Refusal = (ResetCode::NO_SERVICE, "this node has no such service");

/// All that a node serves.
#[derive(Default)]
pub(crate) struct Services {
    all: RwLock<HashMap<String, (Duties, Handler)>>,
    /// Whether the node starts. Also told of each service that has come.
    starts: watch::Sender<bool>,
}

impl Services {
    /// One more, or another in its place.
    pub(crate) fn add(&self, name: &str, needs: Duties, handler: Handler) {
        self.all.write().insert(name.to_owned(), (needs, handler));
        self.starts.send_modify(|_| {});
    }

    pub(crate) fn set_starting(&self, is_starting: bool) {
        self.starts.send_replace(is_starting);
    }

    /// Lets go of all of them.
    pub(crate) fn clear(&self) {
        self.all.write().clear();
        self.set_starting(false);
    }

    /// Who serves this; none: nobody does yet.
    fn find(&self, peer: &PeerFacts, name: &str) -> Option<Result<Handler, Refusal>> {
        let all = self.all.read();
        let (needs, handler) = all.get(name)?;
        Some(match peer.duties.contains(*needs) {
            true => Ok(Arc::clone(handler)),
            false => Err((ResetCode::NOT_PERMITTED, "the certificate does not allow this")),
        })
    }

    /// The same, when the service is there, or will not come.
    async fn find_soon(&self, peer: &PeerFacts, name: &str) -> Result<Handler, Refusal> {
        let mut starts = self.starts.subscribe();
        let coming = async {
            loop {
                let is_starting = *starts.borrow_and_update();
                if let Some(found) = self.find(peer, name) {
                    return found;
                }
                if !is_starting || starts.changed().await.is_err() {
                    return Err(NO_SERVICE);
                }
            }
        };
        timeout(STARTS_WITHIN, coming).await.unwrap_or(Err(NO_SERVICE))
    }
}

impl Accept for Arc<Services> {
    fn service(&self, peer: &PeerFacts, name: &str) -> Result<Serve, Refusal> {
        let found = self.find(peer, name).transpose()?;
        if found.is_none() && !*self.starts.borrow() {
            return Err(NO_SERVICE);
        }
        let (services, name) = (Arc::clone(self), name.to_owned());
        Ok(Box::new(move |incoming| {
            let span = tracing::info_span!("link", peer = %incoming.peer.name, service = name, trace = %incoming.trace);
            let serve = async move {
                let found = match found {
                    Some(handler) => Ok(handler),
                    None => services.find_soon(&incoming.peer, &name).await,
                };
                drop(services);
                match found {
                    Ok(handler) => handler(incoming).await,
                    Err((_, why)) => incoming.stream.reset(why),
                }
            };
            tokio::spawn(serve.instrument(span));
        }))
    }
}
