//! One stream: its state, and the two halves that its users hold.
//!
//! Invariants:
//! - What waits here to be received costs the peer credit, each message its octets and [`MESSAGE_COST`]; so a stream
//!   holds at most its window.
//! - Messages come out in the order they went in; those that came before an end or a reset come out before it.
//! - A half that is dropped before its end resets the stream: no end is ever mistaken for a whole one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rookery_types::NodeId;
use tokio::time::Instant;

use super::out::Turn;
use super::{Mux, WINDOW_OCTETS_BASE, WINDOW_OCTETS_MAX};
use crate::error::LinkError;
use crate::frame::{Frame, PAYLOAD_OCTETS_MAX, ResetCode};
use crate::trace::TraceId;

/// What each message costs beside its octets, so that many small ones are bounded as well.
pub(crate) const MESSAGE_COST: u32 = 64;
/// The longest control message. A sender may count on this much credit when all it sent is received.
pub const CONTROL_OCTETS_MAX: usize = 8_000;
/// Less is not sent of a longer message, but credit is waited for.
const PIECE_OCTETS_MIN: usize = 4 << 10;
/// A window of which half is received in less than this grows.
const QUICK: Duration = Duration::from_millis(50);
/// A queue keeps room for so many messages when it is empty.
const KEPT_MESSAGES: usize = 4;

/// What a stream carries.
#[derive(Clone, PartialEq, Eq)]
pub enum Message {
    /// Octets. Where they are cut into messages means nothing: long ones are sent in pieces.
    Data(Bytes),
    /// A whole message of at most [`CONTROL_OCTETS_MAX`] octets, in order with the data.
    Control(Bytes),
}

impl std::fmt::Debug for Message {
    /// Content is never logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Message::Data(octets) => write!(f, "Data({} octets)", octets.len()),
            Message::Control(octets) => write!(f, "Control({} octets)", octets.len()),
        }
    }
}

pub(crate) struct Stream {
    pub(crate) mux: Arc<Mux>,
    pub(crate) id: u32,
    pub(crate) trace: TraceId,
    pub(crate) state: Mutex<State>,
}

pub(crate) struct State {
    /// What may still be sent.
    credit: u32,
    /// Among the streams whose unused credit is given back some time.
    pub(super) grown: bool,
    /// Something was sent since that was last looked at.
    pub(super) busy: bool,
    sent_end: bool,
    /// Asked for by the sending half.
    turn: Option<Turn>,
    sender: Option<Waker>,

    received: VecDeque<Message>,
    /// What the peer may have under way or waiting here, all in all.
    window: u32,
    /// What of it the peer has not used.
    outstanding: u32,
    /// What was taken out of `received` and not yet given back.
    consumed: u32,
    /// When that was done last.
    credited: Instant,
    received_end: bool,
    receiver: Option<Waker>,

    failed: Option<LinkError>,
    /// Where the stream's first frame ends among the octets of the connection; 0: the peer began it.
    opened_at: u64,
}

fn cost(octets: usize) -> u32 {
    u32::try_from(octets).unwrap_or(u32::MAX).saturating_add(MESSAGE_COST)
}

impl Stream {
    pub(crate) fn new(mux: Arc<Mux>, id: u32, trace: TraceId) -> Stream {
        let state = State {
            credit: WINDOW_OCTETS_BASE,
            grown: false,
            busy: false,
            sent_end: false,
            turn: None,
            sender: None,
            received: VecDeque::new(),
            window: WINDOW_OCTETS_BASE,
            outstanding: WINDOW_OCTETS_BASE,
            consumed: 0,
            credited: Instant::now(),
            received_end: false,
            receiver: None,
            failed: None,
            opened_at: 0,
        };
        Stream { mux, id, trace, state: Mutex::new(state) }
    }

    pub(crate) fn opened_at(&self, position: u64) {
        self.state.lock().opened_at = position;
    }

    /// Sends one piece of the octets at least. Gives how many went; the rest is for another call.
    fn poll_piece(
        &self,
        control: bool,
        octets: &mut Bytes,
        more: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, LinkError>> {
        let mut state = self.state.lock();
        if let Some(failed) = &state.failed {
            return Poll::Ready(Err(failed.clone()));
        }
        if state.sent_end {
            return Poll::Ready(Err(LinkError::Misuse("it was finished")));
        }
        let least = if control { octets.len() } else { octets.len().min(PIECE_OCTETS_MIN) };
        if state.credit < cost(least) {
            set_waker(&mut state.sender, cx);
            return Poll::Pending;
        }
        if self.mux.out.poll_turn(&mut state.turn, cx).is_pending() {
            // Also, should the stream fail before its turn comes.
            set_waker(&mut state.sender, cx);
            return Poll::Pending;
        }
        let may = usize::try_from(state.credit - MESSAGE_COST).unwrap_or(0).min(PAYLOAD_OCTETS_MAX);
        let piece = octets.split_to(octets.len().min(may));
        let sent = piece.len();
        state.credit -= cost(sent);
        state.busy = true;
        // Still under the lock: two senders of one stream's frames would mix up their order.
        self.mux.out.push_message(control, self.id, piece);
        drop(state);
        self.mux.counters.sent(sent);
        if !more {
            self.mux.flush();
        }
        Poll::Ready(Ok(sent))
    }

    fn finish(&self) -> Result<(), LinkError> {
        let mut state = self.state.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if state.sent_end {
            return Ok(());
        }
        state.sent_end = true;
        self.mux.push(&Frame::Finish { stream: self.id });
        let over = state.received_end;
        drop(state);
        if over {
            self.mux.forget(self.id);
        }
        self.mux.flush();
        Ok(())
    }

    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, LinkError>> {
        let mut state = self.state.lock();
        if let Some(message) = state.received.pop_front() {
            if state.received.is_empty() {
                state.received.shrink_to(KEPT_MESSAGES);
            }
            let (Message::Data(octets) | Message::Control(octets)) = &message;
            state.consumed += cost(octets.len());
            let credit = self.credit_due(&mut state);
            drop(state);
            if let Some(octets) = credit {
                self.mux.push(&Frame::Credit { stream: self.id, octets });
                self.mux.flush();
            }
            return Poll::Ready(Ok(Some(message)));
        }
        if state.received_end {
            return Poll::Ready(Ok(None));
        }
        if let Some(failed) = &state.failed {
            return Poll::Ready(Err(failed.clone()));
        }
        set_waker(&mut state.receiver, cx);
        Poll::Pending
    }

    /// Credit for what was received, in few frames. More than that if half of the window was received quickly: then
    /// the window, and not the receiver, is what holds the transfer up on a path that takes its time.
    fn credit_due(&self, state: &mut State) -> Option<u32> {
        if state.received_end || state.failed.is_some() || state.consumed < state.window / 2 {
            return None;
        }
        let mut credit = std::mem::take(&mut state.consumed);
        let now = Instant::now();
        let quick = now.duration_since(std::mem::replace(&mut state.credited, now)) < QUICK;
        let more = state.window.min(WINDOW_OCTETS_MAX - state.window);
        if quick && more > 0 && self.mux.budget.take(more) {
            state.window += more;
            credit += more;
        }
        state.outstanding += credit;
        Some(credit)
    }

    /// A message came. `Err`: the peer breaks the protocol.
    pub(super) fn on_message(&self, message: Message) -> Result<(), &'static str> {
        let (Message::Data(octets) | Message::Control(octets)) = &message;
        let mut state = self.state.lock();
        if state.received_end {
            return Err("a message after the end of its stream");
        }
        let left = state.outstanding.checked_sub(cost(octets.len()));
        state.outstanding = left.ok_or("more on a stream than it has credit for")?;
        state.received.push_back(message);
        let waker = state.receiver.take();
        drop(state);
        wake(waker);
        Ok(())
    }

    /// The peer sends no more. Says whether the stream is over.
    pub(super) fn on_finish(&self) -> Result<bool, &'static str> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.received_end, true) {
            return Err("two ends of one stream");
        }
        let grown = std::mem::replace(&mut state.window, WINDOW_OCTETS_BASE) - WINDOW_OCTETS_BASE;
        self.mux.budget.give(grown);
        let (waker, over) = (state.receiver.take(), state.sent_end);
        drop(state);
        wake(waker);
        Ok(over)
    }

    /// The peer gives credit. Says whether the stream has more than the base for the first time.
    pub(super) fn on_credit(&self, octets: u32) -> Result<bool, &'static str> {
        let mut state = self.state.lock();
        let sum = state.credit.checked_add(octets).filter(|sum| *sum <= WINDOW_OCTETS_MAX);
        state.credit = sum.ok_or("more credit than a stream can have")?;
        let grown = state.credit > WINDOW_OCTETS_BASE && !std::mem::replace(&mut state.grown, true);
        let waker = state.sender.take();
        drop(state);
        wake(waker);
        Ok(grown)
    }

    /// The peer gives back credit that it does not use.
    pub(super) fn on_give_back(&self, octets: u32) -> Result<(), &'static str> {
        let mut state = self.state.lock();
        let outstanding = state.outstanding.checked_sub(octets);
        let window = state.window.checked_sub(octets).filter(|left| *left >= WINDOW_OCTETS_BASE);
        let (Some(outstanding), Some(window)) = (outstanding, window) else {
            return Err("more credit given back than there was");
        };
        // The sender rests, so what it was to get back some time is not promised again either.
        let unpromised = state.consumed.min(window - WINDOW_OCTETS_BASE);
        state.consumed -= unpromised;
        (state.outstanding, state.window) = (outstanding, window - unpromised);
        self.mux.budget.give(octets + unpromised);
        Ok(())
    }

    /// Gives back what of the credit was not used for a while. Says whether to look again.
    pub(super) fn sweep(&self) -> bool {
        let mut state = self.state.lock();
        if state.failed.is_some() || state.sent_end {
            return false;
        }
        if std::mem::take(&mut state.busy) {
            return true;
        }
        let unused = state.credit.saturating_sub(WINDOW_OCTETS_BASE);
        state.grown = false;
        if unused > 0 {
            state.credit -= unused;
            self.mux.push(&Frame::GiveBack { stream: self.id, octets: unused });
        }
        false
    }

    /// The stream is gone; both halves learn why.
    pub(super) fn fail(&self, error: impl FnOnce(u64) -> LinkError) {
        let mut state = self.state.lock();
        if state.failed.is_some() || (state.sent_end && state.received_end) {
            return;
        }
        let error = error(state.opened_at);
        state.failed = Some(error);
        let wakers = [state.sender.take(), state.receiver.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Ends the stream from this side, unless it is over.
    fn reset(&self, code: ResetCode, text: &str) {
        let mut state = self.state.lock();
        if state.failed.is_some() || (state.sent_end && state.received_end) {
            return;
        }
        let peer = self.mux.facts.node;
        state.failed = Some(LinkError::Reset { peer, code, text: format!("given up here: {text}").into() });
        // What came and was not received is lost, so the other half must not take the end for a whole one.
        state.received_end &= state.received.is_empty();
        state.received = VecDeque::new();
        let wakers = [state.sender.take(), state.receiver.take()];
        self.mux.push(&Frame::Reset { stream: self.id, code, text: text.to_owned() });
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.mux.forget(self.id);
        self.mux.flush();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let grown = self.state.get_mut().window - WINDOW_OCTETS_BASE;
        if grown > 0 {
            self.mux.budget.give(grown);
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn set_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

/// The sending half of a stream. Dropped before [`SendHalf::finish`], it resets the stream.
pub struct SendHalf {
    stream: Arc<Stream>,
}

impl SendHalf {
    /// Sends a message. It is on its way when this returns, no more than that; waits while the peer takes nothing.
    /// If the future is dropped, data may have been sent in part.
    pub async fn send(&mut self, message: Message) -> Result<(), LinkError> {
        let (control, mut octets) = match message {
            Message::Data(octets) if octets.is_empty() => return Ok(()),
            Message::Data(octets) => (false, octets),
            Message::Control(octets) if octets.len() > CONTROL_OCTETS_MAX => {
                return Err(LinkError::Misuse("a control message is too long"));
            }
            Message::Control(octets) => (true, octets),
        };
        // Whoever gives up waiting gives up the turn.
        let turn = TurnGuard(&self.stream);
        loop {
            poll_fn(|cx| turn.0.poll_piece(control, &mut octets, false, cx)).await?;
            if octets.is_empty() {
                return Ok(());
            }
        }
    }

    /// As [`SendHalf::send`], for some of the data; what is sent is taken out of `octets`.
    pub fn poll_send_data(
        &mut self,
        octets: &mut Bytes,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, LinkError>> {
        if octets.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stream.poll_piece(false, octets, false, cx)
    }

    /// As [`SendHalf::send`] of a control message of at least one octet; `octets` is empty once it is sent.
    pub fn poll_send_control(
        &mut self,
        octets: &mut Bytes,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LinkError>> {
        self.poll_control(octets, false, cx)
    }

    /// The same, to leave in one write with what is sent next, or at [`SendHalf::flush`].
    pub fn poll_put_control(
        &mut self,
        octets: &mut Bytes,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LinkError>> {
        self.poll_control(octets, true, cx)
    }

    /// Sends what was put.
    pub fn flush(&mut self) {
        self.stream.mux.flush();
    }

    fn poll_control(
        &mut self,
        octets: &mut Bytes,
        more: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LinkError>> {
        if octets.len() > CONTROL_OCTETS_MAX {
            return Poll::Ready(Err(LinkError::Misuse("a control message is too long")));
        }
        if octets.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.stream.poll_piece(true, octets, more, cx).map_ok(drop)
    }

    /// Says that nothing more comes. The other half goes on.
    pub fn finish(&mut self) -> Result<(), LinkError> {
        self.stream.finish()
    }

    /// Ends the whole stream at once; the peer gets the reason.
    pub fn reset(self, text: &str) {
        self.stream.reset(ResetCode::FAILED, text);
    }

    /// The node at the other end.
    pub fn peer(&self) -> NodeId {
        self.stream.mux.facts.node
    }
}

struct TurnGuard<'a>(&'a Stream);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        let turn = self.0.state.lock().turn.take();
        self.0.mux.out.forget_turn(turn);
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        drop(TurnGuard(&self.stream));
        if !self.stream.state.lock().sent_end {
            self.stream.reset(ResetCode::DROPPED, "dropped before its end");
        }
    }
}

/// The receiving half of a stream. Dropped before the peer's end was seen, it resets the stream.
pub struct RecvHalf {
    stream: Arc<Stream>,
}

impl RecvHalf {
    /// The next message; `None`: the peer has finished. May be given up and called again.
    pub async fn recv(&mut self) -> Result<Option<Message>, LinkError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The same.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, LinkError>> {
        self.stream.poll_recv(cx)
    }

    /// Ends the whole stream at once; the peer gets the reason.
    pub fn reset(self, text: &str) {
        self.stream.reset(ResetCode::FAILED, text);
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        if !self.stream.state.lock().received_end {
            self.stream.reset(ResetCode::DROPPED, "dropped before its end");
        }
    }
}

/// One stream of messages with a service of another node.
pub struct LinkStream {
    send: SendHalf,
    recv: RecvHalf,
}

impl LinkStream {
    pub(crate) fn new(stream: Arc<Stream>) -> LinkStream {
        LinkStream { send: SendHalf { stream: Arc::clone(&stream) }, recv: RecvHalf { stream } }
    }

    /// Sends a message; see [`SendHalf::send`].
    pub async fn send(&mut self, message: Message) -> Result<(), LinkError> {
        self.send.send(message).await
    }

    /// The next message; see [`RecvHalf::recv`].
    pub async fn recv(&mut self) -> Result<Option<Message>, LinkError> {
        self.recv.recv().await
    }

    /// Says that nothing more comes from here.
    pub fn finish(&mut self) -> Result<(), LinkError> {
        self.send.finish()
    }

    /// Ends the stream at once; the peer gets the reason.
    pub fn reset(self, text: &str) {
        self.send.stream.reset(ResetCode::FAILED, text);
    }

    /// Both halves by themselves.
    pub fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }

    /// Both halves in place, for use at the same time.
    pub fn halves(&mut self) -> (&mut SendHalf, &mut RecvHalf) {
        (&mut self.send, &mut self.recv)
    }

    /// The stream as octets: data only.
    pub fn into_io(self) -> crate::io::LinkIo {
        crate::io::LinkIo::new(self)
    }

    /// The node at the other end.
    pub fn peer(&self) -> NodeId {
        self.send.peer()
    }

    /// The number that all logs of this request carry.
    pub fn trace(&self) -> TraceId {
        self.send.stream.trace
    }
}
