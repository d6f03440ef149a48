//! The way out of one connection: frames queue up, whoever queued one writes what it can at once, and a task
//! goes on where the transport was full.
//!
//! Invariants:
//! - A frame needs no task to leave while the transport takes it: [`Out::push`], then [`Out::flush`].
//! - Only the holder of `io` writes; who does not get it leaves the frame to the holder, who looks again after
//!   letting go. So no frame is forgotten and nobody waits for another's system call.
//! - The transport's waker is always the keeper task's, whoever polls.
//! - Frames with octets of streams take turns: [`QUEUE_OCTETS_SOFT`] octets wait at most (and a frame for each turn
//!   given), the first to wait is the first to go on. Small frames of the protocol's own need no turn; above
//!   [`QUEUE_OCTETS_HARD`] the connection is cut.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

use crate::frame::{self, Frame, PAYLOAD_OCTETS_MAX};

/// Above this, frames of streams wait for a turn.
const QUEUE_OCTETS_SOFT: usize = 64 << 10;
/// A peer that makes us queue more than this without reading it is cut off.
const QUEUE_OCTETS_HARD: usize = 4 << 20;
/// What a turn stands for.
const TURN_OCTETS: usize = PAYLOAD_OCTETS_MAX;
/// Payloads from here on are written from where they are instead of being copied.
const SHARED_OCTETS_MIN: usize = 2 << 10;
/// Slices in one call.
const SLICES_MAX: usize = 32;
/// What an idle connection keeps of its buffers.
const KEPT_OCTETS: usize = 64 << 10;

/// Frames' octets in order; large payloads are not copied.
#[derive(Default)]
struct Batch {
    octets: Vec<u8>,
    /// Payloads, and how many of `octets` come before each.
    shared: VecDeque<(usize, Bytes)>,
    /// Octets of `octets` that are written.
    written: usize,
    /// Octets of the first of `shared` that are written.
    shared_written: usize,
    left: usize,
}

impl Batch {
    fn push_frame(&mut self, frame: &Frame) -> usize {
        let before = self.octets.len();
        frame.encode(&mut self.octets);
        let added = self.octets.len() - before;
        self.left += added;
        added
    }

    fn push_message(&mut self, control: bool, stream: u32, payload: Bytes) -> usize {
        let before = self.octets.len();
        frame::put_message_header(&mut self.octets, control, stream, payload.len());
        let added = self.octets.len() - before + payload.len();
        if payload.len() >= SHARED_OCTETS_MIN {
            self.shared.push_back((self.octets.len(), payload));
        } else {
            self.octets.extend_from_slice(&payload);
        }
        self.left += added;
        added
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.octets.shrink_to(KEPT_OCTETS);
        self.shared.clear();
        (self.written, self.shared_written, self.left) = (0, 0, 0);
    }

    /// The next octets to write, as slices.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let (mut count, mut at, mut skip) = (0, self.written, self.shared_written);
        let mut put = |octets: &'a [u8]| {
            let slot = slices.get_mut(count).filter(|_| !octets.is_empty());
            if let Some(slot) = slot {
                *slot = IoSlice::new(octets);
                count += 1;
            }
        };
        for (end, payload) in self.shared.iter().take(SLICES_MAX / 2) {
            put(self.octets.get(at..*end).unwrap_or(&[]));
            put(payload.get(skip..).unwrap_or(&[]));
            (at, skip) = (*end, 0);
        }
        if self.shared.len() < SLICES_MAX / 2 {
            put(self.octets.get(at..).unwrap_or(&[]));
        }
        count
    }

    /// Notes that so many octets are written.
    fn advance(&mut self, mut octets: usize) {
        self.left = self.left.saturating_sub(octets);
        while octets > 0 {
            let until = self.shared.front().map_or(self.octets.len(), |(end, _)| *end);
            let plain = octets.min(until - self.written);
            self.written += plain;
            octets -= plain;
            let Some((_, payload)) = self.shared.front().filter(|_| self.written == until) else { break };
            let of_payload = octets.min(payload.len() - self.shared_written);
            self.shared_written += of_payload;
            octets -= of_payload;
            if self.shared_written < payload.len() {
                break;
            }
            self.shared.pop_front();
            self.shared_written = 0;
        }
    }
}

/// Waits for a turn.
pub(crate) type Turn = u64;

#[derive(Default)]
struct Queue {
    batch: Batch,
    /// Octets that were ever queued.
    queued_ever: u64,
    waiting: VecDeque<(Turn, Waker)>,
    granted: Vec<Turn>,
    /// Of `granted`, what was there at the last look.
    expiring: Vec<Turn>,
    last_turn: Turn,
    /// Nothing is queued any more.
    closed: bool,
}

impl Queue {
    fn room(&self, in_flight: usize) -> bool {
        self.batch.left + in_flight + self.granted.len() * TURN_OCTETS < QUEUE_OCTETS_SOFT
    }

    fn grant(&mut self, in_flight: usize, wake: &mut Vec<Waker>) {
        while self.room(in_flight) {
            let Some((turn, waker)) = self.waiting.pop_front() else { break };
            self.granted.push(turn);
            wake.push(waker);
        }
    }
}

/// The writing half and what was taken from the queue for it.
struct Io<W> {
    transport: Option<W>,
    batch: Batch,
    keeper: Option<Waker>,
    /// The transport was full; the keeper is woken when it is not.
    blocked: bool,
    /// What was written may still lie in the transport.
    unflushed: bool,
    error: Option<io::Error>,
}

pub(crate) struct Out<W> {
    queue: Mutex<Queue>,
    io: Mutex<Io<W>>,
    /// Octets that were offered to the transport; changed under the queue's lock.
    offered: AtomicU64,
    /// Octets of the batch under way, for the queue's bound.
    in_flight: AtomicU64,
}

/// What becomes of frames that were not yet offered to the transport when a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// They never leave: the streams that they are of have failed.
    Dropped,
    /// They go before the last frame: the streams that they are of have ended well.
    Sent,
}

/// What came of an attempt to write.
pub(crate) enum Flushed {
    /// All is with the transport, or somebody else sees to it.
    Done,
    /// The transport is full.
    Blocked,
    /// The connection is broken.
    Broken(io::Error),
}

impl<W: AsyncWrite + Unpin> Out<W> {
    pub(crate) fn new(transport: W) -> Out<W> {
        Out {
            queue: Mutex::default(),
            io: Mutex::new(Io {
                transport: Some(transport),
                batch: Batch::default(),
                keeper: None,
                blocked: false,
                unflushed: false,
                error: None,
            }),
            offered: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
        }
    }

    fn in_flight(&self) -> usize {
        usize::try_from(self.in_flight.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Queues a small frame. Gives the position of its end among all octets ever queued; `None`: the peer reads
    /// too little, cut it.
    pub(crate) fn push(&self, frame: &Frame) -> Option<u64> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Some(queue.queued_ever);
        }
        let added = queue.batch.push_frame(frame);
        queue.queued_ever += added as u64;
        (queue.batch.left <= QUEUE_OCTETS_HARD).then_some(queue.queued_ever)
    }

    /// Queues a message of a stream, which has its turn.
    pub(crate) fn push_message(&self, control: bool, stream: u32, payload: Bytes) {
        let mut queue = self.queue.lock();
        if queue.closed {
            return;
        }
        let added = queue.batch.push_message(control, stream, payload);
        queue.queued_ever += added as u64;
    }

    /// Waits until a frame may be queued. The turn is used up when this is ready; who gives up calls
    /// [`Out::forget_turn`].
    pub(crate) fn poll_turn(&self, turn: &mut Option<Turn>, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.queue.lock();
        let Some(mine) = *turn else {
            if queue.closed || (queue.waiting.is_empty() && queue.room(self.in_flight())) {
                return Poll::Ready(());
            }
            queue.last_turn += 1;
            let mine = queue.last_turn;
            queue.waiting.push_back((mine, cx.waker().clone()));
            *turn = Some(mine);
            return Poll::Pending;
        };
        if let Some(at) = queue.granted.iter().position(|other| *other == mine) {
            queue.granted.swap_remove(at);
            *turn = None;
            return Poll::Ready(());
        }
        match queue.waiting.iter_mut().find(|(other, _)| *other == mine) {
            Some((_, waker)) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            // The turn was not used in time, or everybody was let go.
            None => {
                *turn = None;
                drop(queue);
                self.poll_turn(turn, cx)
            }
        }
    }

    /// Takes turns back that were given two calls ago and not used: who forgets to poll holds nobody up.
    pub(crate) fn expire_turns(&self) {
        let mut wake = Vec::new();
        let mut queue = self.queue.lock();
        let Queue { granted, expiring, .. } = &mut *queue;
        granted.retain(|turn| !expiring.contains(turn));
        expiring.clone_from(granted);
        queue.grant(self.in_flight(), &mut wake);
        drop(queue);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Gives up a turn that was asked for.
    pub(crate) fn forget_turn(&self, turn: Option<Turn>) {
        let Some(mine) = turn else { return };
        let mut wake = Vec::new();
        let mut queue = self.queue.lock();
        queue.waiting.retain(|(other, _)| *other != mine);
        queue.granted.retain(|other| *other != mine);
        queue.grant(self.in_flight(), &mut wake);
        drop(queue);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Writes what is queued, as far as the transport takes it now.
    pub(crate) fn flush(&self) -> Flushed {
        loop {
            let Some(mut io) = self.io.try_lock() else { return Flushed::Done };
            let flushed = self.write(&mut io);
            drop(io);
            if !matches!(flushed, Flushed::Done) || self.queue.lock().batch.left == 0 {
                return flushed;
            }
        }
    }

    /// The same from the keeper task, which is woken from now on whenever a full transport has room again.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Flushed {
        let mut io = self.io.lock();
        io.blocked = false;
        match &mut io.keeper {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        let flushed = self.write(&mut io);
        drop(io);
        match flushed {
            Flushed::Done => self.flush(),
            other => other,
        }
    }

    fn write(&self, io: &mut Io<W>) -> Flushed {
        let Io { transport: Some(transport), batch, keeper: Some(keeper), blocked, unflushed, error } = io
        else {
            // The keeper has not begun yet, or is done.
            return Flushed::Blocked;
        };
        if let Some(error) = error {
            return Flushed::Broken(io::Error::new(error.kind(), error.to_string()));
        }
        let mut cx = Context::from_waker(keeper);
        while !*blocked {
            if batch.left == 0 && !self.refill(batch) {
                if !*unflushed {
                    return Flushed::Done;
                }
                match Pin::new(&mut *transport).poll_flush(&mut cx) {
                    Poll::Ready(Ok(())) => *unflushed = false,
                    Poll::Ready(Err(broken)) => return fail(error, broken),
                    Poll::Pending => *blocked = true,
                }
                continue;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = batch.slices(&mut slices);
            let slices = slices.get(..count).unwrap_or(&[]);
            match Pin::new(&mut *transport).poll_write_vectored(&mut cx, slices) {
                Poll::Ready(Ok(0)) => return fail(error, io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(octets)) => {
                    batch.advance(octets);
                    *unflushed = true;
                    self.in_flight.store(batch.left as u64, Ordering::Relaxed);
                }
                Poll::Ready(Err(broken)) => return fail(error, broken),
                Poll::Pending => *blocked = true,
            }
        }
        Flushed::Blocked
    }

    /// Takes what is queued, and lets those who wait go on. Says whether there was anything.
    fn refill(&self, batch: &mut Batch) -> bool {
        let mut wake = Vec::new();
        let mut queue = self.queue.lock();
        batch.clear();
        std::mem::swap(batch, &mut queue.batch);
        self.offered.store(queue.queued_ever, Ordering::Relaxed);
        self.in_flight.store(batch.left as u64, Ordering::Relaxed);
        queue.grant(batch.left, &mut wake);
        drop(queue);
        wake.into_iter().for_each(Waker::wake);
        batch.left > 0
    }

    /// Whether all is written.
    pub(crate) fn is_empty(&self) -> bool {
        let io = self.io.lock();
        io.batch.left == 0 && !io.unflushed && self.queue.lock().batch.left == 0
    }

    /// Takes nothing more, and ends with one last frame; lets everybody go who waits for a turn. Gives the position up
    /// to which octets can have left this node.
    pub(crate) fn close(&self, last: Option<&Frame>, unsent: Unsent) -> u64 {
        let mut queue = self.queue.lock();
        let offered = match unsent {
            Unsent::Dropped => self.offered.load(Ordering::Relaxed),
            Unsent::Sent => queue.queued_ever,
        };
        if queue.closed {
            return offered;
        }
        if unsent == Unsent::Dropped {
            queue.batch.clear();
        }
        if let Some(last) = last {
            queue.queued_ever += queue.batch.push_frame(last) as u64;
        }
        queue.closed = true;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        offered
    }

    /// Takes the transport out, so that it can be shut down and dropped.
    pub(crate) fn take_transport(&self) -> Option<W> {
        self.io.lock().transport.take()
    }
}

fn fail(error: &mut Option<io::Error>, broken: io::Error) -> Flushed {
    *error = Some(io::Error::new(broken.kind(), broken.to_string()));
    Flushed::Broken(broken)
}
