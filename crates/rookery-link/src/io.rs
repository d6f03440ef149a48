//! A stream as [`AsyncRead`] and [`AsyncWrite`]: data alone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frame::PAYLOAD_OCTETS_MAX;
use crate::mux::{LinkStream, Message};

/// Octets of one stream, both ways. A control message of the peer is an error here.
pub struct LinkIo {
    stream: LinkStream,
    /// What came and was not yet read.
    rest: Bytes,
}

impl LinkIo {
    pub(crate) fn new(stream: LinkStream) -> LinkIo {
        LinkIo { stream, rest: Bytes::new() }
    }

    /// The stream, and what came of it and was not read.
    pub fn into_inner(self) -> (LinkStream, Bytes) {
        (self.stream, self.rest)
    }
}

impl AsyncRead for LinkIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.stream.halves().1.poll_recv(cx))? {
                Some(Message::Data(octets)) => self.rest = octets,
                Some(Message::Control(_)) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a control message among the octets of a stream",
                    )));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let octets = self.rest.len().min(buf.remaining());
        if let Some(part) = self.rest.get(..octets) {
            buf.put_slice(part);
        }
        self.rest.advance(octets);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LinkIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let part = buf.get(..buf.len().min(PAYLOAD_OCTETS_MAX)).unwrap_or(buf);
        let mut octets = Bytes::copy_from_slice(part);
        Poll::Ready(ready!(self.stream.halves().0.poll_send_data(&mut octets, cx)).map_err(io::Error::from))
    }

    /// Nothing is held back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.finish().map_err(io::Error::from))
    }
}
