//! Sessions whose client is at one node and whose maildrop is at another: both halves.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rookery_net::{ConnId, Connection, ConnectionEnd, DrainGuard, IoError, Pipe, Stream};
use rookery_route::{
    HandOver, Kept, Opening, PipeService, Relayed, Reopening, SessionHead, Suspended, VALUE_OCTETS_MAX,
};
use rookery_types::{AccountName, Epoch, NodeId, UserName};
use tokio::io::AsyncWriteExt;

use super::{Driver, Next, Outcome, State};
use crate::authorization::Authorization;
use crate::maildrop::{Maildrop, Opened, READY_TIMEOUT, Refusal, failed, not_reached, not_removed};
use crate::measure;
use crate::services::Services;
use crate::value::SessionValue;
use crate::wire::{Patience, Wire};

/// Runs the session of a user who has logged in at another node, which holds the client's socket.
pub async fn serve_pipe(pipe: Box<dyn Pipe>, head: SessionHead, services: Arc<Services>, drain: DrainGuard) {
    let stream = Stream::piped(pipe, head.peer(), head.tls);
    let patience = Patience::Silence(services.config.idle_timeout());
    let mut driver = Driver {
        wire: Wire::new(Connection::new(stream), patience),
        state: State::Authorization(Authorization::default()),
        permit: None,
        drain,
        bad_in_a_row: 0,
        counts: ConnectionEnd::new(&measure::NAMES, ConnId::carried(head.trace)),
        services,
    };
    driver.run(Some(Box::new(head))).await;
}

impl Driver {
    /// The home's first answer: that of the command that logged in. False: the login failed.
    pub(super) async fn take_up(&mut self, head: SessionHead) -> Result<bool, IoError> {
        let Ok(user) = head.user() else { return Ok(false) };
        let outcome = match Maildrop::open(&self.services, user).await {
            Ok(Opened::Here(maildrop)) => Outcome::LoggedIn(maildrop),
            // It has moved since the edge looked, which follows it.
            Ok(Opened::Away { user, home }) => {
                let whither = self.known_home(user, home).await;
                give(self.pipe()?, whither, Bytes::new(), Bytes::new()).await.map_err(IoError::Lost)?;
                return Ok(false);
            }
            Err(refusal) => Outcome::Said(refusal.into_reply()),
        };
        self.answer(outcome).await?;
        if matches!(self.state, State::Transaction(_)) {
            return Ok(true);
        }
        self.wire.connection.flush().await?;
        if let Some(pipe) = self.wire.connection.pipe() {
            rookery_route::hand_back(pipe, BytesMut::new()).await?;
        }
        Ok(false)
    }

    /// Goes on with a session that was at another node. False: it does not go on here, and the edge was told where, or asks
    /// again.
    pub(super) async fn take_over(&mut self, head: SessionHead) -> Result<bool, IoError> {
        let Ok(user) = head.user() else { return Ok(false) };
        let octets = head.value_octets.unwrap_or_default();
        let value = rookery_route::take_value(self.pipe()?, octets).await.map_err(IoError::Lost)?;
        let value = match SessionValue::decode(&value) {
            Ok(value) => value,
            Err(error) => {
                tracing::error!(%error, "a session is handed over that makes no sense");
                return Ok(false);
            }
        };
        self.bad_in_a_row = value.bad_in_a_row;
        match Maildrop::resume(&self.services, user, value.maildrop).await {
            Ok(Opened::Here(maildrop)) => {
                Opening::Resumed.say(self.pipe()?).await.map_err(IoError::Lost)?;
                self.enter(maildrop);
                Ok(true)
            }
            Ok(Opened::Away { user, home }) => {
                let (home, epoch) = self.known_home(user, home).await;
                Opening::Elsewhere(home, epoch).say(self.pipe()?).await.map_err(IoError::Lost)?;
                Ok(false)
            }
            Err(Refusal::Later(_) | Refusal::Moving) => Ok(false),
            // It can go on nowhere.
            Err(Refusal::Never(reply)) => {
                Opening::Resumed.say(self.pipe()?).await.map_err(IoError::Lost)?;
                self.wire.put(&reply);
                self.wire.connection.flush().await?;
                self.pipe()?.shutdown().await.map_err(IoError::Lost)?;
                Ok(false)
            }
        }
    }

    /// The node that is the home of a user who is not at home here, and since when as far as that is known.
    async fn known_home(&self, user: UserName, home: NodeId) -> (NodeId, Epoch) {
        let known = self.services.router.home(&AccountName::User(user)).await;
        known.unwrap_or((home, Epoch(0)))
    }

    fn pipe(&mut self) -> Result<&mut dyn Pipe, IoError> {
        self.wire.connection.pipe().ok_or_else(|| IoError::Lost(io::ErrorKind::NotConnected.into()))
    }

    /// Whether the server makes room for another program, and the session is to go on there.
    pub(super) fn is_kept(&self) -> bool {
        let has_begun = matches!(self.state, State::Transaction(_));
        has_begun && self.drain.is_draining() && self.services.keeper.is_open()
    }

    /// Where the session has to go on, if it has to and can as it stands.
    pub(super) fn leaves(&self) -> Option<(NodeId, Epoch)> {
        let State::Transaction(maildrop) = &self.state else { return None };
        let here = || (self.services.store.node(), Epoch(0));
        let whither = maildrop.has_left().or_else(|| self.wire.suspended.then(here));
        whither.filter(|_| self.wire.decoder.is_between())
    }

    /// A QUIT that found the account gone is said again where it is at home: what was deleted is removed there.
    pub(super) async fn quit_elsewhere(&mut self) -> Result<Next, IoError> {
        if let State::Transaction(maildrop) = &self.state {
            // It may have been released and not be served yet.
            let _ = tokio::time::timeout(READY_TIMEOUT, maildrop.departed()).await;
        }
        match self.leaves() {
            Some(whither) => self.hand_over(whither, b"QUIT\r\n").await,
            None => {
                self.wire.put(&not_removed());
                Ok(Next::Close("quit"))
            }
        }
    }

    /// Gives the session to another node, by way of the edge; or becomes its edge, if the client is connected here.
    /// `again`: a command that was not done, for the session to read first.
    pub(super) async fn hand_over(
        &mut self,
        whither: (NodeId, Epoch),
        again: &'static [u8],
    ) -> Result<Next, IoError> {
        let begins = State::Authorization(Authorization::default());
        let State::Transaction(maildrop) = std::mem::replace(&mut self.state, begins) else {
            return Ok(Next::Go);
        };
        let value = match maildrop.value().await {
            Ok(value) => SessionValue::new(self.bad_in_a_row, value).encode(),
            Err(error) => {
                self.wire.put(&failed(&error));
                return Ok(Next::Close("not carried"));
            }
        };
        if value.len() > VALUE_OCTETS_MAX {
            self.wire.put(&not_reached());
            return Ok(Next::Close("not carried"));
        }
        self.wire.connection.flush().await?;
        let mut rest = BytesMut::from(again);
        rest.extend_from_slice(&self.wire.decoder.take_input());
        let user = maildrop.user().clone();
        // Nothing of it stays here, its place among the account's sessions included.
        drop(maildrop);
        if let Some(pipe) = self.wire.connection.pipe() {
            give(pipe, whither, value, rest.freeze()).await.map_err(IoError::Lost)?;
            return Ok(Next::Close("moved"));
        }
        let trace = self.counts.id().get();
        let head = SessionHead::new(&user, trace, self.wire.connection.stream(), "", "");
        if self.services.keeper.is_open() && self.drain.is_draining() {
            let (node, epoch) = whither;
            return Ok(self.keep(head, Suspended { node, epoch, value, rest }));
        }
        let giving = |mut far| async move { give(&mut far, whither, value, rest.freeze()).await };
        let relayed = self.relay(&head, BytesMut::new(), rookery_route::own_pipe(giving)).await;
        Ok(self.left(head, relayed))
    }

    /// The edge's half of the session of someone whose home is another node, from the login to the end.
    pub(super) async fn away(&mut self, (user, home): (UserName, NodeId)) -> Result<Next, IoError> {
        let trace = self.counts.id().get();
        let head = SessionHead::new(&user, trace, self.wire.connection.stream(), "", "");
        let pipe = match self.services.peers.open(home, PipeService::Pop3, head.encode()).await {
            Ok(pipe) => pipe,
            Err(error) => {
                tracing::warn!(%error, "a user's home is not reached");
                self.wire.put(&not_reached());
                self.wire.flush_if_full().await?;
                return Ok(Next::Go);
            }
        };
        self.logged_in(&user);
        self.wire.connection.flush().await?;
        let arrived = self.wire.decoder.take_input();
        match self.relay(&head, arrived, pipe).await {
            Relayed::NeverBegan(error) => {
                tracing::warn!(%error, "a user's home is not reached");
                self.wire.put(&not_reached());
                self.begin_anew(BytesMut::new()).await
            }
            Relayed::Unauthenticated(rest) => self.begin_anew(rest).await,
            relayed => Ok(self.left(head, relayed)),
        }
    }

    /// Passes octets on until the session ends. `head`: as it was opened.
    async fn relay(&mut self, head: &SessionHead, arrived: BytesMut, pipe: Box<dyn Pipe>) -> Relayed {
        let Services { peers, keeper, .. } = &*self.services;
        let reopening = Reopening { peers: &**peers, service: PipeService::Pop3, head, keeper };
        let client = self.wire.connection.stream_mut();
        rookery_route::relay(client, arrived, pipe, &self.drain, reopening, &mut ()).await
    }

    /// The session at the other node is over.
    fn left(&mut self, head: SessionHead, relayed: Relayed) -> Next {
        match relayed {
            Relayed::Ended => Next::Close("quit"),
            Relayed::ClientGone => Next::Close("client gone"),
            Relayed::Suspended(session) => self.keep(head, session),
            // A client that is in the middle of an answer must not take what is said for a part of it.
            Relayed::Lost(error) | Relayed::NeverBegan(error) => {
                tracing::info!(%error, "a session's home is lost");
                Next::Close("home lost")
            }
            // A session that has begun is not given back.
            Relayed::Unauthenticated(_) | Relayed::Garbled(_) => Next::Close("out of step"),
        }
    }

    /// The client is nobody's again.
    async fn begin_anew(&mut self, rest: BytesMut) -> Result<Next, IoError> {
        let peer = self.wire.connection.peer();
        if self.permit.as_mut().is_some_and(|permit| permit.unauthenticated(peer).is_err()) {
            return Ok(Next::Close("too many"));
        }
        self.wire.decoder.push(&rest);
        self.wire.flush_if_full().await?;
        Ok(Next::Go)
    }

    /// Leaves the client to the keeper, with its session.
    fn keep(&mut self, head: SessionHead, session: Suspended) -> Next {
        let client = self.wire.connection.take_stream();
        let kept = Kept { client, service: PipeService::Pop3, head, session };
        match self.services.keeper.keep(kept) {
            Ok(()) => Next::Close("kept"),
            Err(kept) => {
                self.wire.connection = Connection::new(kept.client);
                self.drained()
            }
        }
    }
}

/// The home's side of a session that goes on at another.
async fn give(pipe: &mut dyn Pipe, whither: (NodeId, Epoch), value: Bytes, rest: Bytes) -> io::Result<()> {
    let mut over = HandOver::begin(pipe, whither, value).await?;
    over.pass(rest).await?;
    over.end().await
}
