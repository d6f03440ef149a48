//! The home's half of a session: giving it back to the edge, and taking it up from a value.

use super::{NOTE_OCTETS, SessionNote, VALUE_OCTETS_MAX};
use bytes::{Bytes, BytesMut};
use rookery_net::Pipe;
use rookery_net::pipe::FramedPipe;
use rookery_types::{Epoch, NodeId};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// How long the halves may take to give a client back to the edge.
pub(super) const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a value may take to arrive, once its session was opened.
const VALUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Octets that a client may have sent behind its last command; more is no client's.
pub(super) const REST_OCTETS_MAX: usize = 1 << 20;
/// Octets on their way between the two halves of a session within one node.
const OWN_PIPE_OCTETS: usize = 64 << 10;

/// Gives a client back to the edge, as nobody's. What was said to it is flushed. `rest`: what was read and not used.
pub async fn hand_back(pipe: &mut dyn Pipe, mut rest: BytesMut) -> io::Result<()> {
    let all = async {
        pipe.put_note(SessionNote::Release.encode());
        pipe.flush().await?;
        let mut octets = [0; 1024];
        loop {
            let read = pipe.read(&mut octets).await?;
            rest.extend_from_slice(octets.get(..read).unwrap_or_default());
            if read == 0 && pipe.take_note().is_none() {
                break;
            }
            if rest.len() > REST_OCTETS_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        while !rest.is_empty() {
            let octets = rest.split_to(rest.len().min(NOTE_OCTETS)).freeze();
            pipe.put_note(SessionNote::Rest(octets).encode());
            pipe.flush().await?;
        }
        pipe.put_note(SessionNote::Unauthenticated.encode());
        pipe.flush().await
    };
    tokio::time::timeout(HAND_BACK_TIMEOUT, all).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// A session on its way from this home to another, by way of the edge.
pub struct HandOver<'a> {
    pipe: &'a mut dyn Pipe,
}

impl<'a> HandOver<'a> {
    /// Tells the edge where the session goes on, and from which value; without one it has not begun, and begins there.
    /// What was said to the client is flushed.
    pub async fn begin(
        pipe: &'a mut dyn Pipe,
        (node, epoch): (NodeId, Epoch),
        value: Bytes,
    ) -> io::Result<HandOver<'a>> {
        let octets = u32::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        pipe.put_note(SessionNote::Moved { node, epoch, octets }.encode());
        send_value(pipe, value).await?;
        Ok(HandOver { pipe })
    }

    /// Passes octets on that the new home is to read, behind those that were passed on before.
    pub async fn pass(&mut self, mut octets: Bytes) -> io::Result<()> {
        while !octets.is_empty() {
            let piece = octets.split_to(octets.len().min(NOTE_OCTETS));
            self.pipe.put_note(SessionNote::Rest(piece).encode());
            self.pipe.flush().await?;
        }
        Ok(())
    }

    /// Passes on what another session gives back that has left for elsewhere, whose value was taken.
    pub async fn pass_rest(&mut self, from: &mut dyn Pipe) -> io::Result<()> {
        from.shutdown().await?;
        loop {
            if from.read(&mut [0]).await? > 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match from.take_note().map(SessionNote::decode) {
                Some(Some(SessionNote::Rest(octets))) => self.pass(octets).await?,
                Some(Some(SessionNote::Done)) => return Ok(()),
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Passes on what the edge has sent and was not read, and ends.
    pub async fn end(mut self) -> io::Result<()> {
        let mut octets = BytesMut::with_capacity(NOTE_OCTETS);
        loop {
            let read = self.pipe.read_buf(&mut octets).await?;
            if read > 0 {
                self.pass(octets.split().freeze()).await?;
                octets.reserve(NOTE_OCTETS);
            } else if self.pipe.take_note().is_none() {
                break;
            }
        }
        self.pipe.put_note(SessionNote::Done.encode());
        self.pipe.shutdown().await
    }
}

/// The edge's end of a pipe within this process, for a session that goes on elsewhere while its client is connected here.
/// `giving` is the home's half, with the other end.
pub fn own_pipe<F>(giving: impl FnOnce(FramedPipe<DuplexStream>) -> F) -> Box<dyn Pipe>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let (near, far) = rookery_net::pipe::in_memory(OWN_PIPE_OCTETS);
    let giving = giving(far);
    tokio::spawn(async move {
        if let Err(error) = giving.await {
            tracing::debug!(%error, "a session is not taken from here");
        }
    });
    Box::new(near)
}

pub(super) async fn send_value(pipe: &mut dyn Pipe, mut value: Bytes) -> io::Result<()> {
    while !value.is_empty() {
        let piece = value.split_to(value.len().min(NOTE_OCTETS));
        pipe.put_note(SessionNote::Value(piece).encode());
        pipe.flush().await?;
    }
    pipe.flush().await
}

/// The value of a session that comes in notes.
pub async fn take_value(pipe: &mut dyn Pipe, octets: usize) -> io::Result<Bytes> {
    if octets > VALUE_OCTETS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let all = async {
        let mut value = BytesMut::new();
        while value.len() < octets {
            if pipe.read(&mut [0]).await? > 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match pipe.take_note().map(SessionNote::decode) {
                Some(Some(SessionNote::Value(piece))) if value.len() + piece.len() <= octets => {
                    value.extend_from_slice(&piece);
                }
                Some(Some(SessionNote::Value(_))) | None => return Err(io::ErrorKind::InvalidData.into()),
                // Another's concern.
                Some(_) => {}
            }
        }
        Ok(value.freeze())
    };
    tokio::time::timeout(VALUE_TIMEOUT, all).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// What a home says to a session that is to go on there.
pub enum Opening {
    /// It does.
    Resumed,
    /// The account is at home elsewhere.
    Elsewhere(NodeId, Epoch),
}

impl Opening {
    /// Says it.
    pub async fn say(self, pipe: &mut dyn Pipe) -> io::Result<()> {
        let note = match self {
            Opening::Resumed => SessionNote::Resumed,
            Opening::Elsewhere(node, epoch) => SessionNote::Moved { node, epoch, octets: 0 },
        };
        pipe.put_note(note.encode());
        pipe.flush().await
    }

    /// Hears it.
    pub(super) async fn hear(pipe: &mut dyn Pipe) -> io::Result<Opening> {
        loop {
            if pipe.read(&mut [0]).await? > 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match pipe.take_note().map(SessionNote::decode) {
                Some(Some(SessionNote::Resumed)) => return Ok(Opening::Resumed),
                Some(Some(SessionNote::Moved { node, epoch, .. })) => {
                    return Ok(Opening::Elsewhere(node, epoch));
                }
                // Of a newer version.
                Some(None) => {}
                Some(Some(_)) | None => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}
