//! A cluster of a few nodes on loopback.
#![allow(dead_code, reason = "each test uses its part")]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rookery_link::{
    Ca, Class, Duties, Identity, LinkError, LinkStream, Links, LinksConfig, Message, Peer, PeerState, TraceId,
};
use rookery_types::NodeId;
use tokio::net::TcpListener;
use tokio::time::timeout;

pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn ca() -> Ca {
    Ca::make("test", SystemTime::now()).unwrap()
}

pub(crate) fn identity(node: u64, duties: Duties) -> Identity {
    Identity { node: NodeId(node), name: format!("n{node}.test"), duties }
}

pub(crate) fn config(boot: u64) -> LinksConfig {
    LinksConfig::new(boot, "rookery test")
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) links: Links,
    pub(crate) address: SocketAddr,
}

impl Node {
    /// A node with all duties, the service `echo`, and no peers yet.
    pub(crate) async fn start(ca: &Ca, node: u64) -> Node {
        Node::start_with(ca, node, Duties::ALL, config(1), None).await
    }

    pub(crate) async fn start_with(
        ca: &Ca,
        node: u64,
        duties: Duties,
        config: LinksConfig,
        address: Option<SocketAddr>,
    ) -> Node {
        let credentials = ca.credentials(&identity(node, duties), SystemTime::now()).unwrap();
        let links = Links::new(&credentials, config).unwrap();
        let listener =
            TcpListener::bind(address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap())).await.unwrap();
        let address = listener.local_addr().unwrap();
        links.serve("echo", Duties::SERVE, |incoming| async move {
            let mut stream = incoming.stream;
            while let Ok(Some(message)) = stream.recv().await {
                if stream.send(message).await.is_err() {
                    return;
                }
            }
            let _ = stream.finish();
        });
        links.listen(listener);
        Node { id: NodeId(node), links, address }
    }

    pub(crate) fn as_peer(&self) -> Peer {
        self.at(self.address)
    }

    pub(crate) fn at(&self, address: SocketAddr) -> Peer {
        Peer { id: self.id, address: address.to_string() }
    }

    pub(crate) async fn sees(&self, other: NodeId, what: impl Fn(&PeerState) -> bool) -> PeerState {
        let mut state = self.links.peer(other);
        let seen = timeout(SOON, state.wait_for(|state| what(state))).await;
        match seen {
            Ok(seen) => seen.unwrap().clone(),
            Err(_) => panic!("node {other} is seen as {:?}", self.links.peer(other).borrow()),
        }
    }

    pub(crate) async fn open(&self, other: NodeId, service: &str) -> Result<LinkStream, LinkError> {
        self.links.open(other, Class::Interactive, service, TraceId(1), Bytes::new()).await
    }

    /// Asks the other node's echo.
    pub(crate) async fn echo(&self, other: NodeId) -> Result<(), LinkError> {
        let mut stream = self.open(other, "echo").await?;
        stream.send(text("hello")).await?;
        assert_eq!(stream.recv().await?, Some(text("hello")));
        stream.finish()?;
        assert_eq!(stream.recv().await?, None);
        Ok(())
    }
}

pub(crate) fn text(text: &'static str) -> Message {
    Message::Data(Bytes::from_static(text.as_bytes()))
}

pub(crate) fn is_up(state: &PeerState) -> bool {
    matches!(state, PeerState::Up(_))
}

pub(crate) fn is_down(state: &PeerState) -> bool {
    matches!(state, PeerState::Down(_))
}

/// Two nodes that know each other and are linked.
pub(crate) async fn two(ca: &Ca) -> (Node, Node) {
    let (a, b) = (Node::start(ca, 1).await, Node::start(ca, 2).await);
    a.links.set_peers(vec![b.as_peer()]);
    b.links.set_peers(vec![a.as_peer()]);
    a.sees(b.id, is_up).await;
    b.sees(a.id, is_up).await;
    (a, b)
}
