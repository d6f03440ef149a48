//! The directory's source at another node, over a link.

use std::time::Duration;

use bytes::Bytes;
use rookery_directory::remote::{Connect, Incoming, Outgoing, Step};
use rookery_link::{Class, Links, Message, PeerState, RecvHalf, SendHalf, TraceId};
use rookery_types::NodeId;

/// The name of the service.
pub(super) const SERVICE: &str = "directory";

/// How long a link is waited for.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Makes channels to the node that has the directory.
pub(super) struct ToDirectory {
    pub(super) links: Links,
    pub(super) node: NodeId,
}

impl Connect for ToDirectory {
    fn connect(&self) -> Step<'_, Result<(Box<dyn Outgoing>, Box<dyn Incoming>), String>> {
        Box::pin(async move {
            // At the start links are not made yet.
            let mut state = self.links.peer(self.node);
            let _ = tokio::time::timeout(CONNECT_WITHIN, state.wait_for(PeerState::takes_streams)).await;
            let trace = TraceId::random();
            let opened = self.links.open(self.node, Class::Interactive, SERVICE, trace, Bytes::new()).await;
            let (send, recv) = opened.map_err(|error| error.to_string())?.split();
            Ok((Box::new(Sending(send)) as Box<dyn Outgoing>, Box::new(Receiving(recv)) as Box<dyn Incoming>))
        })
    }
}

pub(super) struct Sending(pub(super) SendHalf);

impl Outgoing for Sending {
    fn send(&mut self, octets: Bytes) -> Step<'_, Result<(), ()>> {
        Box::pin(async move { self.0.send(Message::Data(octets)).await.map_err(drop) })
    }
}

pub(super) struct Receiving(pub(super) RecvHalf);

impl Incoming for Receiving {
    fn recv(&mut self) -> Step<'_, Option<Bytes>> {
        Box::pin(async move {
            match self.0.recv().await {
                Ok(Some(Message::Data(octets))) => Some(octets),
                Ok(Some(Message::Control(_)) | None) | Err(_) => None,
            }
        })
    }
}
