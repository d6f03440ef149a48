//! Sessions whose edge is their home: their account has come to the node where their client is connected.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rookery_net::{Drain, Pipe};
use rookery_route::{PeerError, PipeService, SessionHead};
use rookery_types::NodeId;
use tracing::Instrument;

use super::span;
use crate::live::Live;

/// Octets on their way between the halves of a session within this node.
const PIPE_OCTETS: usize = 64 << 10;

/// What this node serves to others, for itself; it needs this in turn, so it has to be told when that ends. Cheap to
/// clone.
#[derive(Clone, Default)]
pub(super) struct Itself(Arc<ArcSwapOption<Served>>);

struct Served {
    imap: Live<rookery_imap::Services>,
    pop3: Live<rookery_pop3::Services>,
    drain: Drain,
}

impl Itself {
    /// From here on it is served.
    pub(super) fn serves(
        &self,
        imap: Live<rookery_imap::Services>,
        pop3: Live<rookery_pop3::Services>,
        drain: Drain,
    ) {
        self.0.store(Some(Arc::new(Served { imap, pop3, drain })));
    }

    /// From here on it is not.
    pub(super) fn ends(&self) {
        self.0.store(None);
    }

    /// Opens a pipe to a service of this node.
    pub(super) fn open(
        &self,
        node: NodeId,
        service: PipeService,
        head: &[u8],
    ) -> Result<Box<dyn Pipe>, PeerError> {
        let refused = |why: &str| PeerError { node, why: why.to_owned() };
        let served = self.0.load_full().ok_or_else(|| refused("this node does not serve"))?;
        let head = SessionHead::decode(head).map_err(|_| refused("that is no session"))?;
        let (near, far) = rookery_net::pipe::in_memory(PIPE_OCTETS);
        let (far, drain) = (Box::new(far), served.drain.guard());
        match service {
            PipeService::Imap => {
                let span = span("imap", &head);
                tokio::spawn(rookery_imap::serve_pipe(far, head, served.imap.now(), drain).instrument(span));
            }
            PipeService::Pop3 => {
                let span = span("pop3", &head);
                tokio::spawn(rookery_pop3::serve_pipe(far, head, served.pop3.now(), drain).instrument(span));
            }
            PipeService::Guest | PipeService::Lmtp | PipeService::Transit | PipeService::Move => {
                return Err(refused("it is this node itself"));
            }
        }
        Ok(Box::new(near))
    }
}
