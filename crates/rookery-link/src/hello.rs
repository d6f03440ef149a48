//! The first frames of a connection: who is there, and which version is spoken.

use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rookery_types::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::frame::{Decoder, Frame, FrameError, GoodbyeCode, Hello};
use crate::identity::Identity;
use crate::mux::PeerFacts;

/// The versions of the protocol of links this program speaks: the newest, and the one before it once there is one.
pub const PROTOCOL: RangeInclusive<u16> = 1..=1;
/// How long a connection may take until both have said hello.
pub(crate) const HELLO_WITHIN: Duration = Duration::from_secs(3);
const READ_OCTETS: usize = 4 << 10;

/// What this node says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Myself {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) program: String,
    pub(crate) protocol: RangeInclusive<u16>,
}

/// Why a connection did not come to be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The transport or TLS.
    #[error("{0}")]
    Transport(String),
    /// Whoever was at the other end has gone.
    #[error("{0}")]
    Gone(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// What the peer says is no frame.
    #[error("the peer speaks no link protocol: {0}")]
    Frame(#[from] FrameError),
    /// The peer says something else than hello.
    #[error("the peer does not say hello")]
    NoHello,
    /// The peer refuses.
    #[error("the peer refuses: {0}")]
    Refused(String),
    /// No common version.
    #[error("{0}")]
    Version(String),
    /// The peer is not who it should be.
    #[error("{0}")]
    Identity(String),
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> ConnectError {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                ConnectError::Gone(error.to_string())
            }
            _ => ConnectError::Transport(error.to_string()),
        }
    }
}

impl Myself {
    fn hello(&self, slot: u8, chosen: u16) -> Frame {
        Frame::Hello(Hello {
            oldest: *self.protocol.start(),
            newest: *self.protocol.end(),
            chosen,
            node: self.node,
            boot: self.boot,
            slot,
            program: self.program.clone(),
        })
    }

    /// The newest version that both speak, or why there is none, by name.
    fn choose(&self, peer: &Identity, hello: &Hello) -> Result<u16, ConnectError> {
        let (oldest, newest) = (*self.protocol.start(), *self.protocol.end());
        let chosen = newest.min(hello.newest);
        if chosen >= oldest && chosen >= hello.oldest {
            return Ok(chosen);
        }
        let says = |program: &str, oldest: u16, newest: u16| {
            format!("{program} with link protocol {oldest} to {newest}")
        };
        let theirs = says(&hello.program, hello.oldest, hello.newest);
        let ours = says(&self.program, oldest, newest);
        let text = match hello.newest < oldest {
            true => format!("node {} runs {theirs}, too old for {ours}", peer.name),
            false => format!("node {} runs {theirs}, too new for {ours}", peer.name),
        };
        Err(ConnectError::Version(text))
    }

    fn facts(&self, peer: &Identity, hello: Hello, chosen: u16) -> Arc<PeerFacts> {
        Arc::new(PeerFacts {
            node: peer.node,
            name: peer.name.clone(),
            duties: peer.duties,
            boot: hello.boot,
            program: hello.program,
            protocol: chosen,
        })
    }

    /// Says hello as the side that dialled.
    pub(crate) async fn dial<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: &mut T,
        peer: &Identity,
        slot: u8,
    ) -> Result<(Arc<PeerFacts>, Decoder), ConnectError> {
        let mut decoder = Decoder::new();
        let work = async {
            send(io, &self.hello(slot, 0)).await?;
            let hello = read_hello(io, &mut decoder).await?;
            same_node(peer, &hello)?;
            let chosen = self.choose(peer, &hello)?;
            if chosen != hello.chosen {
                return Err(ConnectError::Version(format!("the peer chose version {}", hello.chosen)));
            }
            Ok(self.facts(peer, hello, chosen))
        };
        let facts = timeout(HELLO_WITHIN, work).await.map_err(|_| ConnectError::Slow(HELLO_WITHIN))??;
        Ok((facts, decoder))
    }

    /// Says hello as the side that was dialled. `admit` may refuse; the peer learns why. Gives the slot too.
    pub(crate) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: &mut T,
        peer: &Identity,
        admit: impl FnOnce(&PeerFacts) -> Result<(), String>,
    ) -> Result<(Arc<PeerFacts>, u8, Decoder), ConnectError> {
        let mut decoder = Decoder::new();
        let work = async {
            let hello = read_hello(io, &mut decoder).await?;
            let slot = hello.slot;
            let decided =
                same_node(peer, &hello).and_then(|()| self.choose(peer, &hello)).and_then(|chosen| {
                    let facts = self.facts(peer, hello, chosen);
                    admit(&facts).map_err(ConnectError::Identity)?;
                    Ok((facts, chosen))
                });
            match decided {
                Ok((facts, chosen)) => {
                    send(io, &self.hello(slot, chosen)).await?;
                    Ok((facts, slot))
                }
                Err(error) => {
                    let code = match error {
                        ConnectError::Version(_) => GoodbyeCode::VERSION,
                        _ => GoodbyeCode::IDENTITY,
                    };
                    send(io, &Frame::Goodbye { code, text: error.to_string() }).await?;
                    let _ = io.shutdown().await;
                    Err(error)
                }
            }
        };
        let (facts, slot) =
            timeout(HELLO_WITHIN, work).await.map_err(|_| ConnectError::Slow(HELLO_WITHIN))??;
        Ok((facts, slot, decoder))
    }
}

fn same_node(peer: &Identity, hello: &Hello) -> Result<(), ConnectError> {
    if peer.node == hello.node {
        return Ok(());
    }
    let text = format!("the certificate is of node {}, the hello of node {}", peer.node, hello.node);
    Err(ConnectError::Identity(text))
}

async fn send<T: AsyncWrite + Unpin>(io: &mut T, frame: &Frame) -> Result<(), ConnectError> {
    io.write_all(&frame.to_vec()).await?;
    Ok(io.flush().await?)
}

async fn read_hello<T: AsyncRead + Unpin>(io: &mut T, decoder: &mut Decoder) -> Result<Hello, ConnectError> {
    loop {
        match decoder.next_frame()? {
            Some(Frame::Hello(hello)) => return Ok(hello),
            Some(Frame::Goodbye { code: GoodbyeCode::VERSION, text }) => {
                return Err(ConnectError::Version(text));
            }
            Some(Frame::Goodbye { text, .. }) => return Err(ConnectError::Refused(text)),
            Some(_) => return Err(ConnectError::NoHello),
            None => {}
        }
        if io.read_buf(decoder.room(READ_OCTETS)).await? == 0 {
            return Err(ConnectError::Gone("the peer closed the connection".to_owned()));
        }
    }
}
