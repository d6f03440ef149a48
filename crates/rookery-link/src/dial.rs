//! How a connection to a peer comes to be: TCP and TLS, or what a simulation puts in their place.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rookery_types::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, rustls};

use crate::hello::ConnectError;
use crate::identity::Identity;
use crate::tls::{TlsConfigs, server_name};

/// What a connection runs over.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Any transport.
pub type BoxTransport = Box<dyn Transport>;

/// What [`Dial::dial`] gives: a transport and who is at its other end.
pub type Dialling<'a> =
    Pin<Box<dyn Future<Output = Result<(BoxTransport, Identity), ConnectError>> + Send + 'a>>;

/// Makes connections.
pub trait Dial: Send + Sync {
    /// Connects to a node at an address, and finds out who answers.
    fn dial<'a>(&'a self, node: NodeId, address: &'a str) -> Dialling<'a>;
}

/// TCP and TLS may take so long.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// One read takes whole records out of the kernel; rustls by itself asks for 4 KiB at a time.
const READ_AHEAD_OCTETS: usize = 64 << 10;

/// Dials by TCP and mutual TLS.
pub(crate) struct TcpDial {
    pub(crate) tls: Arc<ArcSwap<TlsConfigs>>,
}

impl Dial for TcpDial {
    fn dial<'a>(&'a self, node: NodeId, address: &'a str) -> Dialling<'a> {
        let work = async move {
            let tcp = TcpStream::connect(address).await?;
            let name = server_name(node).map_err(ConnectError::Transport)?;
            let connector = TlsConnector::from(Arc::clone(&self.tls.load().dial));
            let stream = connector.connect(name, read_ahead(tcp)?).await?;
            let identity = identity_of(stream.get_ref().1)?;
            if identity.node != node {
                return Err(ConnectError::Identity(format!(
                    "node {} answers instead of node {node}",
                    identity.node
                )));
            }
            Ok((Box::new(stream) as BoxTransport, identity))
        };
        Box::pin(async move {
            timeout(CONNECT_WITHIN, work).await.map_err(|_| ConnectError::Slow(CONNECT_WITHIN))?
        })
    }
}

/// A TCP connection as links use it.
pub(crate) fn read_ahead(tcp: TcpStream) -> std::io::Result<BufReader<TcpStream>> {
    tcp.set_nodelay(true)?;
    Ok(BufReader::with_capacity(READ_AHEAD_OCTETS, tcp))
}

/// Who is at the other end; TLS has verified the certificate.
pub(crate) fn identity_of(tls: &rustls::CommonState) -> Result<Identity, ConnectError> {
    let certificate = tls.peer_certificates().and_then(|chain| chain.first());
    let identity = certificate.and_then(Identity::of_certificate);
    identity.ok_or_else(|| ConnectError::Identity("the peer's certificate is not one of a node".to_owned()))
}
