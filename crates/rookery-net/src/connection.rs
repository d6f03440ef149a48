//! A stream with what a session needs around it: batched output, timeouts, and buffers that exist only
//! while they hold something.
//!
//! Invariants:
//! - Every future here is safe to drop: octets read are in the caller's buffer, octets written are gone from
//!   the queue, and the rest is still there.
//! - Waiting for octets costs no buffer: while nothing is there to read, an empty input buffer and an empty
//!   output buffer own no memory.
//! - Nothing is sent before `flush`: a batch of responses is one write.
//!
//! Cost of an idle connection with a small session, task and timer included, after its first exchange, as
//! `examples/idle_memory.rs` measures it (x86-64 Linux): 2.6 KiB plain, 10 KiB under TLS. What the session's
//! own future is larger than the example's comes on top, and the kernel's socket.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::networks::Networks;
use crate::peer::Peer;
use crate::pipe::Pipe;
use crate::stream::{StartTlsError, Stream};

/// Octets of output at which a session must flush before it makes more.
pub const HIGH_WATER: usize = 64 * 1024;
/// How long a client may take to accept some octets before it is given up.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Bodies below this are copied into the batch rather than queued beside it.
const COPY_BELOW: usize = 4 * 1024;
/// Octets taken from the stream at once. Lives on the stack, and only while a read is polled.
const READ_OCTETS: usize = 16 * 1024;
/// Queue entries given to one vectored write.
const SLICES: usize = 16;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// The client said nothing for the time given.
    #[error("the client was silent for too long")]
    Idle,
    /// The client took nothing of what is waiting for it for [`WRITE_TIMEOUT`] (or the time set).
    #[error("the client reads nothing any more")]
    Stalled,
    /// What the client sends under compression cannot be unpacked.
    #[error("the client's compressed stream is damaged: {0}")]
    Garbled(io::Error),
    /// The connection is lost.
    #[error("the connection is lost: {0}")]
    Lost(#[from] io::Error),
}

/// A client's connection as its one task uses it: octets in, batches out.
pub struct Connection {
    stream: Stream,
    /// What is to be sent before `batch`: earlier batches and large bodies.
    queue: VecDeque<Bytes>,
    batch: BytesMut,
    queued_octets: usize,
    /// Whether octets were written since the stream was last flushed.
    unflushed: bool,
    write_timeout: Duration,
}

impl Connection {
    /// Takes over a stream.
    pub fn new(stream: Stream) -> Connection {
        Connection {
            stream,
            queue: VecDeque::new(),
            batch: BytesMut::new(),
            queued_octets: 0,
            unflushed: false,
            write_timeout: WRITE_TIMEOUT,
        }
    }

    /// Sets how long a client may refuse to take octets; [`WRITE_TIMEOUT`] unless set.
    pub fn set_write_timeout(&mut self, write_timeout: Duration) {
        self.write_timeout = write_timeout;
    }

    /// The stream, for its peer and its TLS.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The pipe, if the client's socket is at another node.
    pub fn pipe(&mut self) -> Option<&mut dyn Pipe> {
        self.stream.pipe()
    }

    /// The stream, for octets that are not this node's to read. All output has to be flushed.
    pub fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The stream, for somebody else: what is left is a connection that has ended. All output has to be flushed.
    pub fn take_stream(&mut self) -> Stream {
        std::mem::replace(&mut self.stream, Stream::ended())
    }

    /// The far end.
    pub fn peer(&self) -> Peer {
        self.stream.peer()
    }

    /// Whether octets are encrypted.
    pub fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }

    /// Whether the client's octets are compressed.
    pub fn is_deflated(&self) -> bool {
        self.stream.is_deflated()
    }

    /// Compresses all that is sent from here on, and expects it of the client (RFC 4978). `arrived`: what was
    /// read behind the command that asked for it. Whatever is not flushed yet will be compressed too.
    pub fn start_deflate(&mut self, arrived: BytesMut) {
        self.stream.start_deflate(arrived);
    }

    /// Sends what is waiting, ends the compression layer, and gives what was read behind the client's end of
    /// it, which is not compressed any more (RFC 8437 §4.1).
    pub async fn end_deflate(&mut self) -> Result<BytesMut, IoError> {
        self.flush().await?;
        let ended = timeout(self.write_timeout, self.stream.end_deflate()).await;
        Ok(ended.map_err(|_| IoError::Stalled)??)
    }

    /// Whether nobody between can read along: TLS, or a peer on this machine or in a network that is trusted.
    /// Passwords are taken over nothing else, unless the operator says so.
    pub fn is_private(&self, trusted: &Networks) -> bool {
        let peer = self.peer();
        self.is_tls() || peer.is_loopback() || trusted.contains(peer)
    }

    /// The batch that responses are appended to; sent by [`flush`](Connection::flush).
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.batch
    }

    /// Appends a body to the output, without a copy if it is large.
    pub fn push_body(&mut self, body: Bytes) {
        if body.len() < COPY_BELOW {
            self.batch.extend_from_slice(&body);
            return;
        }
        if !self.batch.is_empty() {
            let batch = self.batch.split().freeze();
            self.queued_octets += batch.len();
            self.queue.push_back(batch);
        }
        self.queued_octets += body.len();
        self.queue.push_back(body);
    }

    /// Octets waiting to be sent.
    pub fn unsent_octets(&self) -> usize {
        self.queued_octets + self.batch.len()
    }

    /// Whether the session must flush before it makes more output (at [`HIGH_WATER`]).
    pub fn must_flush(&self) -> bool {
        self.unsent_octets() >= HIGH_WATER
    }

    /// Sends everything that is waiting, in as few writes as the stream takes. Safe to cancel: what was not
    /// sent stays. Fails with `Stalled` when the client takes nothing at all for the write timeout (under TLS
    /// also when it takes longer over the last 64 KiB, which rustls buffers, and under compression over what the
    /// last 32 KiB were packed of); a slow client that keeps reading is not cut.
    pub async fn flush(&mut self) -> Result<(), IoError> {
        while self.unsent_octets() > 0 {
            let sent =
                timeout(self.write_timeout, self.write_some()).await.map_err(|_| IoError::Stalled)??;
            if sent == 0 {
                return Err(IoError::Lost(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.sent(sent);
        }
        self.flush_stream().await
    }

    /// The same, and a note before it: whoever hears any of it has the note.
    pub async fn flush_with(&mut self, note: Bytes) -> Result<(), IoError> {
        if let Some(pipe) = self.stream.pipe() {
            pipe.put_note(note);
            self.unflushed = true;
        }
        self.flush().await
    }

    async fn flush_stream(&mut self) -> Result<(), IoError> {
        if self.unflushed {
            timeout(self.write_timeout, self.stream.flush()).await.map_err(|_| IoError::Stalled)??;
            self.unflushed = false;
        }
        Ok(())
    }

    async fn write_some(&mut self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let waiting = self.queue.iter().map(|bytes| &bytes[..]).chain([&self.batch[..]]);
        let mut count = 0;
        for (slice, octets) in slices.iter_mut().zip(waiting.filter(|octets| !octets.is_empty())) {
            *slice = IoSlice::new(octets);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or(&[]);
        let stream = &mut self.stream;
        poll_fn(|cx| Pin::new(&mut *stream).poll_write_vectored(cx, slices)).await
    }

    fn sent(&mut self, mut octets: usize) {
        while let Some(first) = self.queue.front_mut() {
            let part = octets.min(first.len());
            first.advance(part);
            self.queued_octets -= part;
            octets -= part;
            if !first.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
        self.batch.advance(octets.min(self.batch.len()));
    }

    /// Waits until octets come, appends them to `input` and says how many; 0 when the client has closed its
    /// side. Fails with `Idle` when nothing came for `idle`.
    ///
    /// Safe to cancel: octets are either in `input` or still in the stream. While it waits, an empty `input`
    /// gives its memory back. Reads at most 16 KiB, or what `input` has room for if that is more.
    pub async fn read_some(&mut self, input: &mut BytesMut, idle: Duration) -> Result<usize, IoError> {
        match timeout(idle, self.read(input)).await.map_err(|_| IoError::Idle)? {
            // TLS closed without close_notify, as many clients do. Lines and literals say where they end, so
            // that nothing cut short is taken for whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::InvalidData && self.is_deflated() => {
                Err(IoError::Garbled(error))
            }
            read => read.map_err(IoError::Lost),
        }
    }

    async fn read(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        let Connection { stream, queue, batch, .. } = self;
        poll_fn(|cx| {
            let polled = if input.capacity() - input.len() > READ_OCTETS {
                pin!(stream.read_buf(input)).poll(cx)
            } else {
                poll_into(stream, input, cx)
            };
            if polled.is_pending() {
                give_back(input);
                give_back(batch);
                if queue.is_empty() && queue.capacity() > 0 {
                    *queue = VecDeque::new();
                }
            }
            polled
        })
        .await
    }

    /// Starts TLS after a STARTTLS command was answered (and the answer flushed). `input` is the session's
    /// read buffer; it must be empty, see [`Stream::start_tls`]. Output that was not flushed is refused too. Behind an
    /// error of the handshake the connection has ended.
    pub async fn start_tls(&mut self, acceptor: &TlsAcceptor, input: BytesMut) -> Result<(), StartTlsError> {
        if self.unsent_octets() > 0 {
            return Err(StartTlsError::Handshake(io::Error::other("responses were not yet sent")));
        }
        self.stream = self.take_stream().start_tls(acceptor, input).await?;
        Ok(())
    }

    /// Sends what is waiting and closes the sending side (with close_notify under TLS). Errors matter to
    /// nobody any more, except that the last octets may not have arrived.
    pub async fn close(&mut self) -> Result<(), IoError> {
        self.flush().await?;
        timeout(self.write_timeout, self.stream.shutdown()).await.map_err(|_| IoError::Stalled)??;
        Ok(())
    }

    /// Gives the stream back; what was not flushed is lost.
    pub fn into_stream(self) -> Stream {
        self.stream
    }
}

/// Reads once through a buffer on the stack, so that a stream with nothing to give costs no allocation.
pub(crate) fn poll_into<S: AsyncRead + Unpin + ?Sized>(
    stream: &mut S,
    input: &mut BytesMut,
    cx: &mut std::task::Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut scratch = [const { MaybeUninit::<u8>::uninit() }; READ_OCTETS];
    let mut read = ReadBuf::uninit(&mut scratch);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    input.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

/// Lets go of an empty buffer's memory. Its capacity does not tell whether it owns any: after `split` or
/// `advance` a buffer without room still holds what it was cut from.
pub(crate) fn give_back(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    }
}
