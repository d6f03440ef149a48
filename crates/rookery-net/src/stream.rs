//! One client's stream of octets: TCP, a Unix socket or memory, each plain or under TLS, and compressed or not.
//!
//! Invariants:
//! - TCP streams have TCP_NODELAY and keepalive set before anyone sees them.
//! - A stream becomes TLS only while nothing that was read before the handshake is waiting to be used.
//! - Compression is where the socket is. Octets are compressed first and encrypted then (RFC 4978 §3).
//!
//! Cost: a plain stream is a few words. Under TLS an idle one is some 8 KiB of rustls state in a box (measured
//! by `examples/idle_memory.rs`), plus up to one record (16 KiB) each way while octets are under way.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::deflate::Deflate;
use crate::peer::{Local, Peer};
use crate::pipe::Pipe;
use crate::proof::{self, ClientNames};
use crate::tls::ServerTls;

/// How long a client may take over its TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a TCP connection may be silent before the kernel asks whether the peer is still there. Below
/// the 5 minutes after which common NAT devices forget a connection.
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(240);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A client's stream. Reading and writing it is as cancel-safe as the transport below; most callers wrap it
/// in a [`Connection`](crate::Connection).
pub struct Stream {
    layer: Layer,
    deflate: Option<Box<Deflate>>,
    peer: Peer,
    local: Local,
}

enum Layer {
    Plain(Transport),
    Tls(Box<TlsStream<Transport>>),
    /// The client's socket is at another node.
    Piped {
        pipe: Box<dyn Pipe>,
        /// Whether octets are encrypted between the client and that node.
        tls: bool,
        /// Whether they are compressed there.
        deflated: bool,
    },
}

enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Memory(DuplexStream),
}

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: &'static str,
    /// The host name the client asked for (SNI), if any.
    pub server_name: Option<String>,
}

/// Why a stream could not become TLS. The stream is closed.
#[derive(Debug, thiserror::Error)]
pub enum StartTlsError {
    /// Octets stood behind the STARTTLS command: a command injected by someone on the path (RFC 3207 §6,
    /// RFC 9051 §11.3), or a client that does not wait.
    #[error("{octets} octets were sent in the clear behind STARTTLS")]
    PlaintextBehind {
        /// How many.
        octets: usize,
    },
    /// There is no certificate to begin with.
    #[error("there is no certificate")]
    NoCertificate,
    /// The stream is under TLS already.
    #[error("the stream is under TLS already")]
    AlreadyTls,
    /// The client did not finish its handshake within [`HANDSHAKE_TIMEOUT`].
    #[error("the TLS handshake took too long")]
    Timeout,
    /// The handshake failed, or the connection was lost.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
}

impl Stream {
    /// Takes an accepted or connected TCP stream and sets its options. An option that cannot be set is not
    /// worth a connection, so failures are logged only.
    pub fn from_tcp(tcp: TcpStream, peer: std::net::SocketAddr) -> Stream {
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
        if let Err(error) = SockRef::from(&tcp).set_tcp_keepalive(&keepalive) {
            tracing::debug!(%error, "TCP keepalive could not be set");
        }
        let local = tcp.local_addr().map_or(Local::Memory, Local::Ip);
        let layer = Layer::Plain(Transport::Tcp(tcp));
        Stream { layer, deflate: None, peer: Peer::from_addr(peer), local }
    }

    /// Takes an accepted or connected Unix stream.
    pub fn from_unix(unix: UnixStream) -> Stream {
        let uid = unix.peer_cred().ok().map(|cred| cred.uid());
        let path = unix.local_addr().ok().and_then(|addr| addr.as_pathname().map(|path| path.to_path_buf()));
        Stream {
            layer: Layer::Plain(Transport::Unix(unix)),
            deflate: None,
            peer: Peer::Unix { uid },
            local: Local::Unix(path.unwrap_or_default()),
        }
    }

    /// The stream of a client whose socket another node holds. `tls`: whether it speaks to that node under TLS.
    pub fn piped(pipe: Box<dyn Pipe>, peer: Peer, tls: bool) -> Stream {
        let layer = Layer::Piped { pipe, tls, deflated: false };
        Stream { layer, deflate: None, peer, local: Local::Memory }
    }

    /// A stream that has ended.
    pub fn ended() -> Stream {
        Stream::from(tokio::io::duplex(1).0)
    }

    /// The pipe, if the client's socket is at another node.
    pub fn pipe(&mut self) -> Option<&mut dyn Pipe> {
        match &mut self.layer {
            Layer::Piped { pipe, .. } => Some(&mut **pipe),
            Layer::Plain(_) | Layer::Tls(_) => None,
        }
    }

    /// The far end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The same stream, but with another far end: behind a proxy that tells the client's address, or in a
    /// test of what an address may do.
    pub fn with_peer(mut self, peer: Peer) -> Stream {
        self.peer = peer;
        self
    }

    /// The near end.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// Whether octets are encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.layer, Layer::Tls(_) | Layer::Piped { tls: true, .. })
    }

    /// What the handshake agreed on; `None` for a plain stream, and where another node performed it.
    pub fn tls_info(&self) -> Option<TlsInfo> {
        let Layer::Tls(tls) = &self.layer else { return None };
        let (_, session) = tls.get_ref();
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        Some(TlsInfo {
            version,
            cipher: session.negotiated_cipher_suite().and_then(|c| c.suite().as_str()).unwrap_or("unknown"),
            server_name: session.server_name().map(str::to_owned),
        })
    }

    /// What this stream can be bound to, as names of channel binding types and their octets (RFC 5056); none of a plain
    /// stream.
    pub fn channel_bindings(&self) -> Vec<(&'static str, Vec<u8>)> {
        match &self.layer {
            Layer::Tls(tls) => proof::bindings(tls.get_ref().1),
            _ => Vec::new(),
        }
    }

    /// The names in the client's verified certificate; `None`: it has shown none.
    pub fn client_names(&self) -> Option<ClientNames> {
        match &self.layer {
            Layer::Tls(tls) => proof::client_names(tls.get_ref().1),
            _ => None,
        }
    }

    /// Performs the server's half of a TLS handshake, at once (a TLS port) or after STARTTLS was answered.
    ///
    /// `buffered` is everything that was read and not yet used. It must be empty: what a client, or someone
    /// on the path, sent in the clear behind STARTTLS must not be taken for something said under TLS. What
    /// is still in the socket goes to the handshake, which fails on anything that is no TLS.
    pub async fn start_tls(
        self,
        acceptor: &TlsAcceptor,
        buffered: BytesMut,
    ) -> Result<Stream, StartTlsError> {
        if !buffered.is_empty() {
            return Err(StartTlsError::PlaintextBehind { octets: buffered.len() });
        }
        if self.deflate.is_some() {
            return Err(StartTlsError::Handshake(io::Error::other("the stream is compressed")));
        }
        let transport = match self.layer {
            Layer::Plain(transport) => transport,
            Layer::Tls(_) | Layer::Piped { .. } => return Err(StartTlsError::AlreadyTls),
        };
        let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(transport))
            .await
            .map_err(|_| StartTlsError::Timeout)?
            .map_err(StartTlsError::Handshake)?;
        Ok(Stream { layer: Layer::Tls(Box::new(tls)), ..self })
    }

    /// The same stream under TLS from its first octet, as on a TLS port.
    pub async fn secured(self, tls: Option<&ServerTls>) -> Result<Stream, StartTlsError> {
        let Some(tls) = tls else {
            tracing::error!("a TLS port has no certificate");
            return Err(StartTlsError::NoCertificate);
        };
        self.start_tls(&tls.acceptor(), BytesMut::new()).await
    }

    /// Whether the client's octets are compressed.
    pub fn is_deflated(&self) -> bool {
        self.deflate.is_some() || matches!(self.layer, Layer::Piped { deflated: true, .. })
    }

    /// Compresses all that is written from here on, and expects it of the client (RFC 4978), or knows that the node
    /// with the client's socket does so. `arrived`: what was read behind the command that asked for it.
    pub fn start_deflate(&mut self, arrived: BytesMut) {
        match &mut self.layer {
            Layer::Piped { deflated, .. } => *deflated = true,
            Layer::Plain(_) | Layer::Tls(_) if self.deflate.is_none() => {
                self.deflate = Some(Deflate::new(arrived));
            }
            Layer::Plain(_) | Layer::Tls(_) => {}
        }
    }

    /// Ends the compressed stream to the client, and gives what was read behind the client's last flush or end of its
    /// own, which is not compressed any more (RFC 8437 §4.1).
    pub async fn end_deflate(&mut self) -> io::Result<BytesMut> {
        let Stream { layer, deflate, .. } = self;
        let Some(deflated) = deflate else { return Ok(BytesMut::new()) };
        poll_fn(|cx| deflated.poll_finish(layer.inner(), cx)).await?;
        Ok(deflate.take().map(|deflate| deflate.into_rest()).unwrap_or_default())
    }
}

impl Layer {
    fn inner(&mut self) -> &mut dyn Octets {
        match self {
            Layer::Plain(transport) => transport.inner(),
            Layer::Tls(tls) => &mut **tls,
            Layer::Piped { pipe, .. } => pipe,
        }
    }
}

/// What every transport can do.
trait Octets: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Octets for T {}

impl Transport {
    fn inner(&mut self) -> &mut dyn Octets {
        match self {
            Transport::Tcp(tcp) => tcp,
            Transport::Unix(unix) => unix,
            Transport::Memory(memory) => memory,
        }
    }
}

/// A stream between two tasks, for tests and for what runs inside one process.
impl From<DuplexStream> for Stream {
    fn from(memory: DuplexStream) -> Stream {
        let layer = Layer::Plain(Transport::Memory(memory));
        Stream { layer, deflate: None, peer: Peer::Memory, local: Local::Memory }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("peer", &self.peer).field("tls", &self.is_tls()).finish()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Stream { layer, deflate, .. } = self.get_mut();
        match deflate {
            None => Pin::new(layer.inner()).poll_read(cx, buf),
            Some(deflate) => deflate.poll_read(layer.inner(), cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Stream { layer, deflate, .. } = self.get_mut();
        match deflate {
            None => Pin::new(layer.inner()).poll_write(cx, buf),
            Some(deflate) => deflate.poll_write(layer.inner(), cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream { layer, deflate, .. } = self.get_mut();
        match deflate {
            None => Pin::new(layer.inner()).poll_flush(cx),
            Some(deflate) => deflate.poll_flush(layer.inner(), cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream { layer, deflate, .. } = self.get_mut();
        if let Some(deflate) = deflate {
            ready!(deflate.poll_finish(layer.inner(), cx))?;
        }
        Pin::new(layer.inner()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Stream { layer, deflate, .. } = self.get_mut();
        match deflate {
            None => Pin::new(layer.inner()).poll_write_vectored(cx, bufs),
            Some(deflate) => {
                let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
                deflate.poll_write(layer.inner(), cx, first)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().inner()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().inner()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
