//! An MTA: connects to the recipients' home, or to another node (`crate::THROUGH_AN_EDGE`), and talks LMTP.

use std::collections::HashMap;
use std::sync::Arc;

use rookery_lmtp::{LmtpConfig, Services, Site, serve_connection};
use rookery_net::{Accepted, ConnId, ConnectionLimits, Drain, Gate, Networks, Peer, Stream};
use rookery_route::NoPeers;
use rookery_types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::backing::{Homes, Memory};

const OCTETS_MAX: u64 = 100_000;

/// An MTA's connection, and where its messages go.
pub(crate) struct Client {
    pub(crate) stream: DuplexStream,
    pub(crate) backing: Arc<Memory>,
    pub(crate) drain: Drain,
    pub(crate) server: tokio::task::JoinHandle<()>,
}

pub(crate) fn connect_with(config: LmtpConfig, peer: Peer) -> Client {
    let backing = Arc::new(Memory::default());
    let services = services(config, site(), Arc::clone(&backing));
    connect_to(services, backing, peer)
}

/// Of the node that the MTA connects to.
pub(crate) fn services(config: LmtpConfig, site: Site, home: Arc<Memory>) -> Arc<Services<Memory>> {
    if !crate::THROUGH_AN_EDGE {
        return Arc::new(Services::new(config, site, home, Arc::new(NoPeers)).unwrap());
    }
    let at = NodeId(2);
    let home = Services::new(config.clone(), self::site(), home, Arc::new(NoPeers)).unwrap();
    let homes = Homes { nodes: HashMap::from([(at, Arc::new(home))]), for_a_holder: false };
    let edge = Memory::without(vec![("", at)]);
    Arc::new(Services::new(config, site, Arc::new(edge), Arc::new(homes)).unwrap())
}

pub(crate) fn site() -> Site {
    Site {
        hostname: "mail.example.org".into(),
        default_domain: "example.org".into(),
        message_octets_max: OCTETS_MAX,
        tls: None,
        authenticator: None,
        plaintext: Networks::none(),
        admins: Vec::new(),
    }
}

pub(crate) fn connect_to(services: Arc<Services<Memory>>, backing: Arc<Memory>, peer: Peer) -> Client {
    let (near, far) = tokio::io::duplex(1 << 20);
    let drain = Drain::new();
    let accepted = Accepted {
        stream: Stream::from(far).with_peer(peer),
        id: ConnId::next(),
        permit: Gate::new(ConnectionLimits::default()).admit_peer(peer).unwrap(),
        drain: drain.guard(),
    };
    let server = tokio::spawn(serve_connection(accepted, services));
    Client { stream: near, backing, drain, server }
}

pub(crate) fn connect() -> Client {
    connect_with(LmtpConfig::default(), Peer::Memory)
}

impl Client {
    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// One reply, with all its lines.
    pub(crate) async fn reply(&mut self) -> String {
        let mut text = String::new();
        loop {
            let start = text.len();
            loop {
                let octet = self.stream.read_u8().await.unwrap_or(b'\n');
                text.push(char::from(octet));
                if octet == b'\n' {
                    break;
                }
            }
            if text.as_bytes().get(start + 3) != Some(&b'-') {
                return text.trim_end().to_owned();
            }
        }
    }

    /// Says each line and expects a reply that begins so.
    pub(crate) async fn talk(&mut self, script: &[(&str, &str)]) {
        for (line, expected) in script {
            if !line.is_empty() {
                self.send(&format!("{line}\r\n")).await;
            }
            let reply = self.reply().await;
            assert!(reply.starts_with(expected), "{line:?}: {reply:?}, not {expected:?}");
        }
    }

    pub(crate) async fn hello(&mut self) {
        self.talk(&[("", "220 mail.example.org "), ("LHLO mta.test", "250-mail.example.org")]).await;
    }

    /// Everything until the server closes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut text = String::new();
        self.stream.read_to_string(&mut text).await.unwrap();
        text
    }
}
