//! A pipe between the two nodes of a move, with what is said on it seen as it passes. What comes is seen before whoever
//! it is for.

use crate::network::Alive;
use crate::steps::{Ends, Point, Steps};
use bytes::{Buf, Bytes, BytesMut};
use rookery_net::Pipe;
use rookery_route::Phase;
use rookery_types::{AccountId, NodeId};
use serde_json::Value;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Of the nodes: JSON.
const TALK: u8 = b'J';
/// Of the stores; its first octet says what is asked.
const FRAME: u8 = b'F';
const COMPARE: u8 = 1;
const APPLY: u8 = 3;
const SEAL: u8 = 7;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Begin,
    Compare,
    Apply,
    Seal,
    Release,
    Cancel,
    Settled,
}

pub(crate) struct Watched {
    pipe: Box<dyn Pipe>,
    steps: Arc<Steps>,
    alive: Alive,
    ends: Ends,
    /// It is the target's end.
    answers: bool,
    account: Option<AccountId>,
    read: BytesMut,
    written: BytesMut,
    asked: Option<Asked>,
}

impl Watched {
    /// The end of whoever asks; that is the source, but for one question that no step needs.
    pub(crate) fn asking(
        pipe: Box<dyn Pipe>,
        steps: Arc<Steps>,
        alive: Alive,
        (here, to): (NodeId, NodeId),
    ) -> Watched {
        Watched::new(pipe, steps, alive, Ends { source: here, target: to }, false)
    }

    /// The other end.
    pub(crate) fn answering(
        pipe: Box<dyn Pipe>,
        steps: Arc<Steps>,
        alive: Alive,
        (here, from): (NodeId, NodeId),
    ) -> Watched {
        Watched::new(pipe, steps, alive, Ends { source: from, target: here }, true)
    }

    fn new(pipe: Box<dyn Pipe>, steps: Arc<Steps>, alive: Alive, ends: Ends, answers: bool) -> Watched {
        let (read, written) = Default::default();
        Watched { pipe, steps, alive, ends, answers, account: None, read, written, asked: None }
    }

    fn question(&mut self, kind: u8, octets: &[u8]) {
        self.asked = match (kind, octets.first()) {
            (FRAME, Some(&COMPARE)) => Some(Asked::Compare),
            (FRAME, Some(&APPLY)) => Some(Asked::Apply),
            (FRAME, Some(&SEAL)) => Some(Asked::Seal),
            (TALK, _) => {
                let Ok(Value::Object(asked)) = serde_json::from_slice(octets) else { return };
                let Some((verb, fields)) = asked.into_iter().next() else { return };
                self.account = fields.get("account").and_then(Value::as_u64).and_then(AccountId::new);
                match verb.as_str() {
                    "begin" => Some(Asked::Begin),
                    "release" => Some(Asked::Release),
                    "cancel" => Some(Asked::Cancel),
                    "settled" => Some(Asked::Settled),
                    _ => None,
                }
            }
            _ => None,
        };
    }

    fn is(&self, phase: Phase) -> bool {
        self.account.and_then(|account| self.steps.phase(account, self.ends)) == Some(phase)
    }

    fn heard_question(&self) -> Option<Point> {
        match self.asked? {
            Asked::Begin => Some(Point::Beginning),
            Asked::Apply if self.is(Phase::Copying) => Some(Point::Copying),
            Asked::Compare if self.is(Phase::Following) => Some(Point::Comparing),
            Asked::Apply | Asked::Compare => None,
            Asked::Seal => Some(Point::Sealing),
            Asked::Release => Some(Point::Releasing),
            Asked::Cancel => Some(Point::Cancelling),
            Asked::Settled => Some(Point::Settling),
        }
    }

    fn heard_answer(&self, kind: u8, octets: &[u8]) -> Option<Point> {
        let says =
            |word: &str| kind == TALK && serde_json::from_slice::<Value>(octets).is_ok_and(|it| it == word);
        match self.asked? {
            Asked::Apply if kind == FRAME && self.is(Phase::Copying) => Some(Point::Copied),
            Asked::Seal if kind == FRAME => Some(Point::Sealed),
            Asked::Release if says("active") => Some(Point::Active),
            Asked::Settled if says("yes") => Some(Point::Settled),
            _ => None,
        }
    }

    fn heard(&mut self, kind: u8, octets: &[u8]) {
        let point = match self.answers {
            true => {
                self.question(kind, octets);
                self.heard_question()
            }
            false => self.heard_answer(kind, octets),
        };
        if let (Some(point), Some(account)) = (point, self.account) {
            self.steps.reached(account, point, self.ends);
        }
    }
}

/// A whole message, taken from the front.
fn whole(octets: &mut BytesMut) -> Option<(u8, Bytes)> {
    let [a, b, c, d, kind] = *octets.first_chunk::<5>()?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    if octets.len() < 5 + length {
        return None;
    }
    octets.advance(5);
    Some((kind, octets.split_to(length).freeze()))
}

impl Pipe for Watched {
    fn take_note(&mut self) -> Option<Bytes> {
        self.pipe.take_note()
    }

    fn put_note(&mut self, note: Bytes) {
        self.pipe.put_note(note);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        let came = Bytes::copy_from_slice(buf.filled().get(before..).unwrap_or_default());
        self.read.extend_from_slice(&came);
        while let Some((kind, octets)) = whole(&mut self.read) {
            self.heard(kind, &octets);
        }
        match self.alive.load(Ordering::Relaxed) {
            true => Poll::Ready(Ok(())),
            // It has failed at this very moment.
            false => Poll::Ready(Err(io::Error::other("this start of the node is over"))),
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.pipe).poll_write(cx, octets))?;
        if !self.answers {
            self.written.extend_from_slice(octets.get(..taken).unwrap_or_default());
            while let Some((kind, octets)) = whole(&mut self.written) {
                self.question(kind, &octets);
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
