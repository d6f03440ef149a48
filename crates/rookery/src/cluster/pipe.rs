//! A stream of a link as one half of a session needs it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rookery_link::{LinkStream, Message};
use rookery_net::Pipe;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Octets that one message carries at most.
const PIECE_OCTETS_MAX: usize = 16 << 10;

/// Octets and notes over a stream: data is octets, control messages are notes.
pub(super) struct LinkPipe {
    stream: LinkStream,
    /// What came and was not read yet.
    rest: Bytes,
    note: Option<Bytes>,
    /// Notes that are to be sent before anything else.
    notes: VecDeque<Bytes>,
}

impl LinkPipe {
    pub(super) fn new(stream: LinkStream) -> LinkPipe {
        LinkPipe { stream, rest: Bytes::new(), note: None, notes: VecDeque::new() }
    }

    /// Puts the notes that wait, to leave with what is sent next.
    fn poll_notes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(note) = self.notes.front_mut() {
            let half = self.stream.halves().0;
            match half.poll_put_control(note, cx) {
                Poll::Ready(put) => put?,
                Poll::Pending => {
                    half.flush();
                    return Poll::Pending;
                }
            }
            self.notes.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl Pipe for LinkPipe {
    fn take_note(&mut self) -> Option<Bytes> {
        self.note.take()
    }

    fn put_note(&mut self, note: Bytes) {
        self.notes.push_back(note);
    }
}

impl AsyncRead for LinkPipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            if self.note.is_some() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.stream.halves().1.poll_recv(cx))? {
                Some(Message::Data(octets)) => self.rest = octets,
                Some(Message::Control(note)) => self.note = Some(note),
                None => return Poll::Ready(Ok(())),
            }
        }
        let octets = self.rest.len().min(buf.remaining());
        if let Some(part) = self.rest.get(..octets) {
            buf.put_slice(part);
        }
        self.rest.advance(octets);
        if self.rest.is_empty() {
            // It may hold a whole read of the connection in memory.
            self.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LinkPipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let notes = !self.notes.is_empty();
        ready!(self.poll_notes(cx))?;
        let piece = octets.get(..PIECE_OCTETS_MAX).unwrap_or(octets);
        let mut piece = Bytes::copy_from_slice(piece);
        let half = self.stream.halves().0;
        let sent = half.poll_send_data(&mut piece, cx);
        if sent.is_pending() && notes {
            half.flush();
        }
        Poll::Ready(ready!(sent).map_err(io::Error::from))
    }

    /// Nothing but notes is held back.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let notes = !self.notes.is_empty();
        ready!(self.poll_notes(cx))?;
        if notes {
            self.stream.halves().0.flush();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_notes(cx))?;
        Poll::Ready(self.stream.finish().map_err(io::Error::from))
    }
}
