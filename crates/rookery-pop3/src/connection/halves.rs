//! Sessions whose client is at one node and whose maildrop is at another: both halves.

use std::sync::Arc;

use bytes::BytesMut;
use rookery_codec::pop3::{Code, Reply};
use rookery_net::{ConnId, Connection, ConnectionEnd, DrainGuard, IoError, Pipe, Stream};
use rookery_route::{Keeper, PipeService, Relayed, Reopening, SessionHead};
use rookery_types::{NodeId, UserName};

use super::{Driver, Next, Outcome, State};
use crate::authorization::Authorization;
use crate::maildrop::{Maildrop, Opened};
use crate::measure;
use crate::services::Services;
use crate::wire::{Patience, Wire};

/// Runs the session of a user who has logged in at another node, which holds the client's socket.
pub async fn serve_pipe(pipe: Box<dyn Pipe>, head: SessionHead, services: Arc<Services>, drain: DrainGuard) {
    let stream = Stream::piped(pipe, head.peer(), head.tls);
    let patience = Patience::Silence(services.config.idle_timeout());
    let driver = Driver {
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
            // It has moved since the edge looked; a session is not passed on twice.
            Ok(Opened::Away { .. }) => Outcome::Said(not_reached()),
            Err(reply) => Outcome::Said(reply),
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
        let client = self.wire.connection.stream_mut();
        // Whoever fetches their mail comes again; nobody's client is kept.
        let keeper = Keeper::default();
        let peers = &*self.services.peers;
        let reopening = Reopening { peers, service: PipeService::Pop3, head: &head, keeper: &keeper };
        match rookery_route::relay(client, arrived, pipe, &self.drain, reopening, &mut ()).await {
            Relayed::Ended => Ok(Next::Close("quit")),
            Relayed::ClientGone => Ok(Next::Close("client gone")),
            Relayed::Suspended(_) => Ok(Next::Close("suspended")),
            Relayed::Lost(error) => {
                tracing::info!(%error, "a session's home is lost");
                Ok(Next::Close("home lost"))
            }
            Relayed::NeverBegan(error) => {
                tracing::warn!(%error, "a user's home is not reached");
                let peer = self.wire.connection.peer();
                if self.permit.as_mut().is_some_and(|permit| permit.unauthenticated(peer).is_err()) {
                    return Ok(Next::Close("too many"));
                }
                self.wire.put(&not_reached());
                self.wire.flush_if_full().await?;
                Ok(Next::Go)
            }
            Relayed::Unauthenticated(rest) => {
                let peer = self.wire.connection.peer();
                if self.permit.as_mut().is_some_and(|permit| permit.unauthenticated(peer).is_err()) {
                    return Ok(Next::Close("too many"));
                }
                self.wire.decoder.push(&rest);
                Ok(Next::Go)
            }
        }
    }
}

fn not_reached() -> Reply {
    Reply::refused(Code::SysTemp, "The maildrop cannot be reached at the moment")
}
