//! Streams between two halves of one session: the node that holds the client's socket, and the node where the
//! session runs.
//!
//! A pipe carries octets and, between them, notes: what the halves have to say to each other and the client is not to
//! see. A note arrives at its place in the stream.
//!
//! Invariants:
//! - Reading stops at a note: it gives 0 octets, [`Pipe::take_note`] gives the note, and reading goes on behind it. 0
//!   octets without a note are the end.
//! - A relay that waits owns no buffer.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::connection::{give_back, poll_into};
use crate::stream::Stream;

/// A stream to the other half of a session.
pub trait Pipe: AsyncRead + AsyncWrite + Unpin + Send + Sync {
    /// The note at which reading has stopped.
    fn take_note(&mut self) -> Option<Bytes>;

    /// Puts a note behind all that was written. It leaves with the next flush or shutdown.
    fn put_note(&mut self, note: Bytes);
}

/// Why a relay has stopped.
#[derive(Debug)]
pub enum Stopped {
    /// The client has closed its side, or is lost.
    Client,
    /// The far half has ended the session; what it said was sent.
    Ended,
    /// A note of the far half. What the client sent was passed on, and what the far half said before the note was
    /// sent.
    Note(Bytes),
    /// What the client sends under compression cannot be unpacked.
    Garbled(io::Error),
    /// The far half is lost.
    Lost(io::Error),
}

/// Octets that come before the client's.
pub trait Before: Send + Sync {
    /// The next of them; none: that were all.
    fn poll_octets(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;
}

impl Before for Option<Bytes> {
    fn poll_octets(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        Poll::Ready(Ok(self.take()))
    }
}

/// Sees what a relay passes on.
pub trait Onlooker: Send {
    /// Whether what the client sends next is to stay unread for now.
    fn holds(&self) -> bool {
        false
    }

    /// How many of these octets of the client may go to the far half now.
    fn admits(&self, octets: &[u8]) -> usize {
        octets.len()
    }

    /// Octets of the client went to the far half.
    fn inward(&mut self, octets: &[u8]);

    /// Octets of the far half went to the client.
    fn outward(&mut self, octets: &[u8]);
}

/// Nobody looks on.
impl Onlooker for () {
    fn inward(&mut self, _octets: &[u8]) {}

    fn outward(&mut self, _octets: &[u8]) {}
}

/// What is under way in a relay: the octets of either side that the other has not taken yet. It is kept from one
/// [`Relay::run`] to the next.
#[derive(Default)]
pub struct Relay {
    /// What comes before all that is read of the client.
    before: VecDeque<Box<dyn Before>>,
    /// From the client.
    inward: BytesMut,
    /// To the client.
    outward: BytesMut,
    /// Octets were written and not yet flushed.
    unflushed: (bool, bool),
    client_ended: bool,
    /// Octets from the client so far.
    pub octets_in: u64,
    /// Octets to the client so far.
    pub octets_out: u64,
}

impl Relay {
    /// A relay for which the client has sent some octets already.
    pub fn new(arrived: BytesMut) -> Relay {
        Relay { octets_in: arrived.len() as u64, inward: arrived, ..Relay::default() }
    }

    /// Makes the next run flush towards the far half: a note was put there.
    pub fn touch(&mut self) {
        self.unflushed.0 = true;
    }

    /// The far half from here on is another, and is sent these octets before any others. What was passed on to the
    /// one before has to be among them.
    pub fn turn(&mut self, first: Box<dyn Before>) {
        if !self.inward.is_empty() {
            self.before.push_front(Box::new(Some(self.inward.split().freeze())));
        }
        self.before.push_front(first);
        self.unflushed.0 = false;
    }

    /// What the client has sent and was not passed on, at most so many octets of it.
    pub async fn take_unsent(&mut self, octets_max: usize) -> io::Result<BytesMut> {
        let mut unsent = std::mem::take(&mut self.inward);
        while let Some(before) = self.before.front_mut() {
            match poll_fn(|cx| before.poll_octets(cx)).await? {
                Some(octets) => unsent.extend_from_slice(&octets),
                None => drop(self.before.pop_front()),
            }
            if unsent.len() > octets_max {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(unsent)
    }

    /// The same once the far half is lost. None: there was more than the client's own octets, and it is not all here.
    pub fn left_over(&mut self) -> Option<BytesMut> {
        self.before.is_empty().then(|| std::mem::take(&mut self.inward))
    }

    /// Passes octets both ways until something ends it. Safe to cancel.
    pub async fn run(
        &mut self,
        client: &mut Stream,
        far: &mut dyn Pipe,
        onlooker: &mut dyn Onlooker,
    ) -> Stopped {
        poll_fn(|cx| {
            // Both directions are polled each time, so that both leave their wakers. A far half that is lost is sent
            // nothing more.
            match self.poll_outward(client, far, onlooker, cx) {
                Poll::Ready(stopped) => Poll::Ready(stopped),
                Poll::Pending => self.poll_inward(client, far, onlooker, cx),
            }
        })
        .await
    }

    /// Passes on what a far half that is lost has still said. Safe to cancel.
    pub async fn run_outward(
        &mut self,
        client: &mut Stream,
        far: &mut dyn Pipe,
        onlooker: &mut dyn Onlooker,
    ) -> Stopped {
        poll_fn(|cx| self.poll_outward(client, far, onlooker, cx)).await
    }

    fn poll_inward(
        &mut self,
        client: &mut Stream,
        far: &mut dyn Pipe,
        onlooker: &mut dyn Onlooker,
        cx: &mut Context<'_>,
    ) -> Poll<Stopped> {
        loop {
            while !self.inward.is_empty() {
                let admitted = self.inward.get(..onlooker.admits(&self.inward)).unwrap_or(&self.inward);
                if admitted.is_empty() {
                    return self.poll_flush_inward(far, cx);
                }
                match ready!(Pin::new(&mut *far).poll_write(cx, admitted)) {
                    Ok(0) => return Poll::Ready(Stopped::Lost(io::ErrorKind::WriteZero.into())),
                    Ok(written) => {
                        onlooker.inward(admitted.get(..written).unwrap_or(admitted));
                        self.inward.advance(written.min(self.inward.len()));
                    }
                    Err(error) => return Poll::Ready(Stopped::Lost(error)),
                }
                self.unflushed.0 = true;
            }
            give_back(&mut self.inward);
            if self.client_ended {
                return Poll::Ready(Stopped::Client);
            }
            if onlooker.holds() {
                return self.poll_flush_inward(far, cx);
            }
            let arrived = match self.before.front_mut() {
                Some(before) => match before.poll_octets(cx) {
                    Poll::Ready(Ok(Some(octets))) => {
                        self.inward.extend_from_slice(&octets);
                        continue;
                    }
                    Poll::Ready(Ok(None)) => {
                        self.before.pop_front();
                        if self.before.is_empty() {
                            self.before = VecDeque::new();
                        }
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Stopped::Lost(error)),
                    Poll::Pending => Poll::Pending,
                },
                None => poll_into(client, &mut self.inward, cx),
            };
            match arrived {
                Poll::Ready(Err(error))
                    if error.kind() == io::ErrorKind::InvalidData && client.is_deflated() =>
                {
                    return Poll::Ready(Stopped::Garbled(error));
                }
                Poll::Ready(Ok(0) | Err(_)) => self.client_ended = true,
                Poll::Ready(Ok(octets)) => self.octets_in += octets as u64,
                Poll::Pending => return self.poll_flush_inward(far, cx),
            }
        }
    }

    /// Sends what was passed on. It never ends the run unless the far half is lost.
    fn poll_flush_inward(&mut self, far: &mut dyn Pipe, cx: &mut Context<'_>) -> Poll<Stopped> {
        if self.unflushed.0 {
            match ready!(Pin::new(&mut *far).poll_flush(cx)) {
                Ok(()) => self.unflushed.0 = false,
                Err(error) => return Poll::Ready(Stopped::Lost(error)),
            }
        }
        Poll::Pending
    }

    fn poll_outward(
        &mut self,
        client: &mut Stream,
        far: &mut dyn Pipe,
        onlooker: &mut dyn Onlooker,
        cx: &mut Context<'_>,
    ) -> Poll<Stopped> {
        loop {
            while !self.outward.is_empty() {
                match ready!(Pin::new(&mut *client).poll_write(cx, &self.outward)) {
                    Ok(0) | Err(_) => return Poll::Ready(Stopped::Client),
                    Ok(written) => {
                        onlooker.outward(self.outward.get(..written).unwrap_or(&self.outward));
                        self.outward.advance(written.min(self.outward.len()));
                    }
                }
                self.unflushed.1 = true;
            }
            give_back(&mut self.outward);
            let stopped = match poll_into(far, &mut self.outward, cx) {
                Poll::Ready(Ok(0)) => Some(far.take_note().map_or(Stopped::Ended, Stopped::Note)),
                Poll::Ready(Err(error)) => Some(Stopped::Lost(error)),
                Poll::Ready(Ok(octets)) => {
                    self.octets_out += octets as u64;
                    continue;
                }
                Poll::Pending => None,
            };
            if self.unflushed.1 {
                match Pin::new(&mut *client).poll_flush(cx) {
                    Poll::Ready(Ok(())) => self.unflushed.1 = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(Stopped::Client),
                    // What has stopped the far half is lost to this poll; the client is slow, and the flush of its
                    // stream goes on with whatever is written next.
                    Poll::Pending => {}
                }
            }
            return stopped.map_or(Poll::Pending, Poll::Ready);
        }
    }
}

/// What is on its way from one pipe to another.
#[derive(Default)]
struct Way {
    octets: BytesMut,
    unflushed: bool,
    /// Something was passed on, or is about to be.
    has_passed: bool,
    ended: bool,
}

impl Way {
    /// Passes on octets and notes in their order. Ready: the near pipe has ended, and the far one was told.
    fn poll_pass(
        &mut self,
        from: &mut dyn Pipe,
        to: &mut dyn Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.octets.is_empty() {
                match ready!(Pin::new(&mut *to).poll_write(cx, &self.octets))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.octets.advance(written.min(self.octets.len())),
                }
                self.unflushed = true;
            }
            give_back(&mut self.octets);
            if self.ended {
                return Pin::new(&mut *to).poll_shutdown(cx);
            }
            match poll_into(from, &mut self.octets, cx) {
                Poll::Ready(Ok(0)) => match from.take_note() {
                    Some(note) => {
                        to.put_note(note);
                        (self.unflushed, self.has_passed) = (true, true);
                    }
                    None => self.ended = true,
                },
                Poll::Ready(Ok(_)) => self.has_passed = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Makes one pipe of two: passes on octets and notes both ways, until the far one has ended. `last` is put on the way to
/// the far half when it comes, but not before that has said something: until then it may be taking up what the near half
/// sends, and what comes between would be lost. Nothing of the near half's but octets under way is held back behind it.
pub async fn join(
    near: &mut dyn Pipe,
    far: &mut dyn Pipe,
    last: impl Future<Output = Bytes>,
) -> io::Result<()> {
    let (mut inward, mut outward) = (Way::default(), Way::default());
    let (mut last, mut is_in) = (pin!(Some(last)), false);
    poll_fn(|cx| {
        loop {
            let has_answered = outward.has_passed;
            if has_answered
                && let Some(waiting) = last.as_mut().as_pin_mut()
                && let Poll::Ready(note) = waiting.poll(cx)
            {
                far.put_note(note);
                inward.unflushed = true;
                last.set(None);
            }
            if !is_in {
                match inward.poll_pass(near, far, cx) {
                    Poll::Ready(Ok(())) => is_in = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            let passed = outward.poll_pass(far, near, cx);
            if passed.is_ready() || outward.has_passed == has_answered {
                return passed;
            }
        }
    })
    .await
}

/// Octets of one frame at most.
const FRAME_OCTETS_MAX: usize = 16 * 1024;
/// Octets that wait to be sent before writing waits.
const WAITING_MAX: usize = 64 * 1024;
const OCTETS: u8 = 0;
const NOTE: u8 = 1;

/// A pipe over any stream of octets, in frames of a kind, a length and as many octets. For tests, and for what runs
/// inside one process.
pub struct FramedPipe<S> {
    stream: S,
    /// What was read and not taken yet.
    arrived: BytesMut,
    /// How much of the frame at its front is left; `None`: a header comes next.
    left: Option<(u8, usize)>,
    note: Option<Bytes>,
    waiting: BytesMut,
}

/// Two ends of a pipe inside this process. `octets`: how much either end takes before the other has read.
pub fn in_memory(octets: usize) -> (FramedPipe<DuplexStream>, FramedPipe<DuplexStream>) {
    let (one, other) = tokio::io::duplex(octets);
    (FramedPipe::new(one), FramedPipe::new(other))
}

impl<S> FramedPipe<S> {
    /// A pipe over a stream that nothing was read from.
    pub fn new(stream: S) -> FramedPipe<S> {
        FramedPipe { stream, arrived: BytesMut::new(), left: None, note: None, waiting: BytesMut::new() }
    }

    /// The next header, if all of it is there.
    fn header(&mut self) -> Option<(u8, usize)> {
        if self.left.is_none() && self.arrived.len() >= 3 {
            let (kind, octets) = (self.arrived.get_u8(), self.arrived.get_u16());
            self.left = Some((kind, usize::from(octets)));
        }
        self.left
    }

    fn frame(&mut self, kind: u8, octets: &[u8]) {
        for octets in octets.chunks(FRAME_OCTETS_MAX) {
            self.waiting.put_u8(kind);
            // Frames are below 64 KiB.
            self.waiting.put_u16(u16::try_from(octets.len()).unwrap_or(u16::MAX));
            self.waiting.extend_from_slice(octets);
        }
    }
}

impl<S: AsyncWrite + Unpin> FramedPipe<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.waiting.advance(written.min(self.waiting.len())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Pipe for FramedPipe<S> {
    fn take_note(&mut self) -> Option<Bytes> {
        self.note.take()
    }

    /// Notes are at most [`FRAME_OCTETS_MAX`] octets long; what is longer comes as several.
    fn put_note(&mut self, note: Bytes) {
        self.frame(NOTE, &note);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FramedPipe<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.note.is_some() {
            return Poll::Ready(Ok(()));
        }
        loop {
            match this.header() {
                Some((OCTETS, 0)) => {
                    this.left = None;
                    continue;
                }
                Some((OCTETS, left)) if !this.arrived.is_empty() => {
                    let octets = left.min(this.arrived.len()).min(buf.remaining());
                    buf.put_slice(&this.arrived.split_to(octets));
                    this.left = Some((OCTETS, left - octets));
                    return Poll::Ready(Ok(()));
                }
                Some((OCTETS, _)) | None => {}
                Some((NOTE, octets)) => {
                    if this.arrived.len() >= octets {
                        this.note = Some(this.arrived.split_to(octets).freeze());
                        this.left = None;
                        return Poll::Ready(Ok(()));
                    }
                }
                Some(_) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            give_back(&mut this.arrived);
            if ready!(poll_into(&mut this.stream, &mut this.arrived, cx))? == 0 {
                return match this.left.is_none() && this.arrived.is_empty() {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                };
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FramedPipe<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.waiting.len() >= WAITING_MAX {
            ready!(this.poll_send(cx))?;
        }
        let octets = octets.get(..FRAME_OCTETS_MAX).unwrap_or(octets);
        this.frame(OCTETS, octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        give_back(&mut this.waiting);
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
