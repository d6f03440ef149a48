//! The edge's half of a session: octets both ways, wherever the session goes.

use super::home::{HAND_BACK_TIMEOUT, Opening, REST_OCTETS_MAX, send_value};
use super::{Mark, PeerError, Peers, PipeService, SessionHead, SessionNote, VALUE_OCTETS_MAX};
use crate::keep::Keeper;
use bytes::{Bytes, BytesMut};
use rookery_net::{Before, DrainGuard, Onlooker, Pipe, Relay, Stopped, Stream};
use rookery_types::{Epoch, NodeId};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

/// How long the home has, once told, to say good-bye to a client of an edge that ends.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what a lost home has still said may take to be passed on.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a session may be without a home.
const REOPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a home is not asked again that could not take a session; twice as long each time.
const AGAIN_FIRST: Duration = Duration::from_millis(10);
const AGAIN_MAX: Duration = Duration::from_millis(500);

/// How the edge's half of a session has ended.
#[derive(Debug)]
pub enum Relayed {
    /// As it should: the home has ended it, and the client was sent all that was said.
    Ended,
    /// The client has left.
    ClientGone,
    /// The home, or the way to it, is lost.
    Lost(io::Error),
    /// The same, before the home has said anything and the client has sent anything: as if it had not been reached.
    NeverBegan(io::Error),
    /// The client is nobody's again and may log in anew; it has sent this much already.
    Unauthenticated(BytesMut),
    /// What the client sends is not compressed as was agreed.
    Garbled(io::Error),
    /// The edge ends and its clients are kept: the session waits as a value.
    Suspended(Suspended),
}

/// A session between two processes at its edge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suspended {
    /// The node where it goes on.
    pub node: NodeId,
    /// Since when that is its home, as far as that is known.
    pub epoch: Epoch,
    /// From what it goes on.
    pub value: Bytes,
    /// What the client has sent and nobody has used.
    pub rest: BytesMut,
}

/// Whoever goes on with a session when its home is lost.
pub trait Witness: Onlooker {
    /// The home says where the session will stand.
    fn marked(&mut self, mark: Mark);

    /// The session goes on at another home, which is sent everything anew that was not answered.
    fn turned(&mut self);

    /// The home is lost, and was not sent this of what the client has sent. None: that is not known.
    fn lost(&mut self, unsent: Option<BytesMut>);
}

impl Witness for () {
    fn marked(&mut self, _mark: Mark) {}

    fn turned(&mut self) {}

    fn lost(&mut self, _unsent: Option<BytesMut>) {}
}

/// How a session is opened at another home when it moves.
#[derive(Clone, Copy)]
pub struct Reopening<'a> {
    /// The nodes.
    pub peers: &'a dyn Peers,
    /// Of which kind the session is.
    pub service: PipeService,
    /// As it was opened first.
    pub head: &'a SessionHead,
    /// Whether clients are kept when the edge ends.
    pub keeper: &'a Keeper,
}

/// The edge's half of a session: passes octets on until the session ends, and follows it to other homes. `arrived`: what
/// the client has sent already. When the node drains, the home is told, which says good-bye, or gives the session back
/// if clients are kept.
pub async fn relay(
    client: &mut Stream,
    arrived: BytesMut,
    pipe: Box<dyn Pipe>,
    drain: &DrainGuard,
    reopening: Reopening<'_>,
    witness: &mut dyn Witness,
) -> Relayed {
    Edge::new(client, Relay::new(arrived), pipe, reopening, witness).run(drain).await
}

/// Goes on with a session that was suspended, as its edge.
pub async fn go_on(
    client: &mut Stream,
    suspended: Suspended,
    drain: &DrainGuard,
    reopening: Reopening<'_>,
    witness: &mut dyn Witness,
) -> Relayed {
    let Suspended { node, epoch, value, rest } = suspended;
    match reopen(reopening, (node, epoch), value).await {
        Ok(pipe) => Edge::new(client, Relay::new(rest), pipe, reopening, witness).run(drain).await,
        Err(error) => Relayed::Lost(error),
    }
}

/// A session at its edge, while it goes on.
struct Edge<'a> {
    client: &'a mut Stream,
    relay: Relay,
    /// To the home of now.
    pipe: Box<dyn Pipe>,
    reopening: Reopening<'a>,
    witness: &'a mut dyn Witness,
    /// The home was told that this node drains.
    told: bool,
    /// Since when the session has been sent from home to home without having begun.
    astray: Option<Instant>,
}

impl<'a> Edge<'a> {
    fn new(
        client: &'a mut Stream,
        relay: Relay,
        pipe: Box<dyn Pipe>,
        reopening: Reopening<'a>,
        witness: &'a mut dyn Witness,
    ) -> Box<Edge<'a>> {
        // In a box, since a value that is handed on lies in memory again at each hand.
        Box::new(Edge { client, relay, pipe, reopening, witness, told: false, astray: None })
    }

    async fn run(mut self: Box<Self>, drain: &DrainGuard) -> Relayed {
        let mut patience = pin!(None);
        loop {
            let stopped = tokio::select! {
                biased;
                () = drain.draining(), if !self.told => {
                    self.told = true;
                    patience.set(Some(tokio::time::sleep(LEAVE_TIMEOUT)));
                    self.say_leave();
                    continue;
                }
                () = async {
                    match patience.as_mut().as_pin_mut() {
                        Some(patience) => patience.await,
                        None => std::future::pending().await,
                    }
                } => Stopped::Lost(io::ErrorKind::TimedOut.into()),
                stopped = self.relay.run(self.client, &mut *self.pipe, &mut *self.witness) => stopped,
            };
            let ended = match stopped {
                Stopped::Note(note) => match SessionNote::decode(note) {
                    Some(SessionNote::Mark(mark)) => {
                        self.witness.marked(mark);
                        continue;
                    }
                    // Boxed, as what is below: what is rare is not to be room of every session.
                    note => match Box::pin(self.heard(note)).await {
                        Ok(on) => {
                            self = on;
                            continue;
                        }
                        Err(ended) => return ended,
                    },
                },
                Stopped::Lost(error) => Box::pin(self.lost(error)).await,
                Stopped::Garbled(error) => Relayed::Garbled(error),
                Stopped::Client => Relayed::ClientGone,
                Stopped::Ended => Relayed::Ended,
            };
            let (octets_in, octets_out) = (self.relay.octets_in, self.relay.octets_out);
            tracing::debug!(octets_in, octets_out, ?ended, "relay ended");
            return ended;
        }
    }

    /// Does what the home says besides marks. An error: so the session has ended.
    async fn heard(mut self: Box<Self>, note: Option<SessionNote>) -> Result<Box<Edge<'a>>, Relayed> {
        match note {
            Some(SessionNote::Compressed) => {
                self.deflate().await.map_err(|error| broken(&self.relay, error))?;
            }
            Some(SessionNote::Release) => {
                return Err(taken_back(&mut *self.pipe, &mut self.relay)
                    .await
                    .map_or_else(Relayed::Lost, Relayed::Unauthenticated));
            }
            Some(SessionNote::Moved { node, epoch, octets }) => {
                tracing::debug!(%node, octets, "the session moves");
                if self.told && self.reopening.keeper.is_open() {
                    let suspended = suspended(self.pipe, octets, &mut self.relay).await;
                    return Err(suspended.map_or_else(Relayed::Lost, |(value, rest)| {
                        Relayed::Suspended(Suspended { node, epoch, value, rest })
                    }));
                }
                return self.follow((node, epoch), octets).await;
            }
            // Of a newer version; it does not concern the client.
            Some(_) | None => {}
        }
        Ok(self)
    }

    /// What the client sends from here on, and is sent, is compressed.
    async fn deflate(&mut self) -> io::Result<()> {
        let behind = self.relay.take_unsent(REST_OCTETS_MAX).await?;
        self.client.start_deflate(behind);
        Ok(())
    }

    /// Goes on with the session at the node that its home names.
    async fn follow(
        mut self: Box<Self>,
        whither: (NodeId, Epoch),
        octets: u32,
    ) -> Result<Box<Edge<'a>>, Relayed> {
        if octets == 0 {
            let since = *self.astray.get_or_insert_with(Instant::now);
            if since.elapsed() > REOPEN_TIMEOUT {
                return Err(Relayed::Lost(io::ErrorKind::TimedOut.into()));
            }
            if !since.elapsed().is_zero() {
                tokio::time::sleep(AGAIN_FIRST * 5).await;
            }
        }
        match moved(self.pipe, octets, whither, self.reopening, &mut self.relay).await {
            Ok(pipe) => self.pipe = pipe,
            Err(error) => return Err(broken(&self.relay, error)),
        }
        self.witness.turned();
        if self.told {
            self.say_leave();
        }
        Ok(self)
    }

    /// Tells the home that this node drains.
    fn say_leave(&mut self) {
        let keeps = self.reopening.keeper.is_open();
        self.pipe.put_note(if keeps { SessionNote::Suspend } else { SessionNote::Leave }.encode());
        // The note leaves with what the relay flushes next.
        self.relay.touch();
    }

    /// The home, or the way to it, is lost. What it has still said was said.
    async fn lost(&mut self, error: io::Error) -> Relayed {
        let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, self.last_words()).await;
        self.witness.lost(self.relay.left_over());
        broken(&self.relay, error)
    }

    /// Passes on what a home that is lost has still said.
    async fn last_words(&mut self) {
        while let Stopped::Note(note) =
            self.relay.run_outward(self.client, &mut *self.pipe, &mut *self.witness).await
        {
            match SessionNote::decode(note) {
                Some(SessionNote::Mark(mark)) => self.witness.marked(mark),
                Some(SessionNote::Compressed) => {
                    if self.deflate().await.is_err() {
                        return;
                    }
                }
                Some(_) | None => {}
            }
        }
    }
}

/// How a session has ended whose home is lost.
fn broken(relay: &Relay, error: io::Error) -> Relayed {
    match relay.octets_in == 0 && relay.octets_out == 0 {
        true => Relayed::NeverBegan(error),
        false => Relayed::Lost(error),
    }
}

/// What the home was sent and has not used, and what it was not sent.
async fn taken_back(pipe: &mut dyn Pipe, relay: &mut Relay) -> io::Result<BytesMut> {
    let all = async {
        pipe.shutdown().await?;
        let mut rest = BytesMut::new();
        loop {
            let out_of_step = io::Error::from(io::ErrorKind::InvalidData);
            if pipe.read(&mut [0]).await? > 0 {
                return Err(out_of_step);
            }
            match pipe.take_note().map(SessionNote::decode) {
                Some(Some(SessionNote::Rest(octets))) => rest.extend_from_slice(&octets),
                Some(Some(SessionNote::Unauthenticated)) => break,
                // Of a newer version.
                Some(None) => {}
                Some(Some(_)) | None => return Err(out_of_step),
            }
        }
        rest.extend_from_slice(&relay.take_unsent(REST_OCTETS_MAX).await?);
        Ok(rest)
    };
    tokio::time::timeout(HAND_BACK_TIMEOUT, all).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Takes a session back from its home, with all that the client has sent and nobody has used.
async fn suspended(old: Box<dyn Pipe>, octets: u32, relay: &mut Relay) -> io::Result<(Bytes, BytesMut)> {
    let octets = usize::try_from(octets).map_err(|_| io::ErrorKind::InvalidData)?;
    let all = async {
        let mut old = OldHome { pipe: old, ended: false, done: false };
        let value = old.value(octets).await?;
        relay.turn(Box::new(old));
        Ok((value, relay.take_unsent(REST_OCTETS_MAX).await?))
    };
    tokio::time::timeout(HAND_BACK_TIMEOUT, all).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Follows a session to its new home.
async fn moved(
    old: Box<dyn Pipe>,
    octets: u32,
    whither: (NodeId, Epoch),
    reopening: Reopening<'_>,
    relay: &mut Relay,
) -> io::Result<Box<dyn Pipe>> {
    let octets = usize::try_from(octets).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut old = OldHome { pipe: old, ended: false, done: false };
    let value = old.value(octets);
    let value = tokio::time::timeout(REOPEN_TIMEOUT, value).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let pipe = reopen(reopening, whither, value).await?;
    relay.turn(Box::new(old));
    Ok(pipe)
}

/// Opens a session at a node from its value, unless that sends it on. Asks once.
pub async fn open_from(
    Reopening { peers, service, head, .. }: Reopening<'_>,
    node: NodeId,
    value: Bytes,
) -> io::Result<(Opening, Box<dyn Pipe>)> {
    let begins = value.is_empty();
    let head = SessionHead { value_octets: (!begins).then_some(value.len()), ..head.clone() };
    let mut pipe = peers.open(node, service, head.encode()).await.map_err(unreached)?;
    if begins {
        // It answers the client.
        return Ok((Opening::Resumed, pipe));
    }
    send_value(&mut *pipe, value).await?;
    let opening = Opening::hear(&mut *pipe).await?;
    Ok((opening, pipe))
}

/// Opens a session at a home from its value, and goes on asking until it is taken.
async fn reopen(
    reopening: Reopening<'_>,
    (mut node, mut epoch): (NodeId, Epoch),
    value: Bytes,
) -> io::Result<Box<dyn Pipe>> {
    let begins = value.is_empty();
    let end = Instant::now() + REOPEN_TIMEOUT;
    let mut again = AGAIN_FIRST;
    loop {
        let opened = open_from(reopening, node, value.clone());
        match tokio::time::timeout_at(end, opened).await {
            Ok(Ok((Opening::Resumed, pipe))) => return Ok(pipe),
            // One who knows less does not lead back.
            Ok(Ok((Opening::Elsewhere(other, since), _))) if since > epoch => (node, epoch) = (other, since),
            Ok(Ok((Opening::Elsewhere(..), _))) => {}
            // Who has just come can be told so.
            Ok(Err(error)) if begins => return Err(error),
            Ok(Err(error)) => tracing::debug!(%error, %node, "a session's new home does not take it yet"),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        if Instant::now() + again >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(AGAIN_MAX);
    }
}

fn unreached(error: PeerError) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, error)
}

/// A home that a session has left, and what it gives back.
struct OldHome {
    pipe: Box<dyn Pipe>,
    /// It was told that nothing more comes from here.
    ended: bool,
    done: bool,
}

impl OldHome {
    /// The next note. It is never waited for that the home reads: it may be waiting for this end to do so.
    fn poll_note(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<SessionNote>>> {
        if !self.ended
            && let Poll::Ready(ended) = Pin::new(&mut *self.pipe).poll_shutdown(cx)
        {
            self.ended = true;
            ended?;
        }
        let mut octet = [0];
        let mut read = ReadBuf::new(&mut octet);
        ready!(Pin::new(&mut *self.pipe).poll_read(cx, &mut read))?;
        if !read.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        match self.pipe.take_note() {
            Some(note) => Poll::Ready(Ok(SessionNote::decode(note))),
            // Whoever ends now has lost something of what the client has sent.
            None => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    async fn value(&mut self, octets: usize) -> io::Result<Bytes> {
        let mut value = BytesMut::new();
        while value.len() < octets.min(VALUE_OCTETS_MAX) {
            match poll_fn(|cx| self.poll_note(cx)).await? {
                Some(SessionNote::Value(piece)) => value.extend_from_slice(&piece),
                Some(SessionNote::Rest(_) | SessionNote::Done) => break,
                Some(_) | None => {}
            }
        }
        match value.len() == octets {
            true => Ok(value.freeze()),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Before for OldHome {
    fn poll_octets(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        while !self.done {
            match ready!(self.poll_note(cx))? {
                Some(SessionNote::Rest(octets)) if octets.is_empty() => {}
                Some(SessionNote::Rest(octets)) => return Poll::Ready(Ok(Some(octets))),
                Some(SessionNote::Done) => self.done = true,
                Some(_) | None => {}
            }
        }
        Poll::Ready(Ok(None))
    }
}

#[cfg(test)]
mod tests;
