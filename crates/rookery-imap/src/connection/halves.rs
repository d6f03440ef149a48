//! Sessions whose client is at one node and whose mailboxes are at another: both halves.

use super::{Begin, Driver, Next, bye, limits};
use crate::answer::{Answer, Failure};
use crate::command::authenticate::{self, Entered};
use crate::command::select;
use crate::measure;
use crate::services::Services;
use crate::session::State;
use crate::wire::Wire;
use bytes::BytesMut;
use rookery_codec::imap::server::Limits;
use rookery_codec::imap::{Code, Response, Tag};
use rookery_net::{ConnId, Connection, ConnectionEnd, DrainGuard, IoError, Pipe, Stream, Timing};
use rookery_route::{PipeService, Relayed, SessionHead};
use std::sync::Arc;

/// Runs the session of a user who has logged in at another node, which holds the client's socket.
pub async fn serve_pipe(pipe: Box<dyn Pipe>, head: SessionHead, services: Arc<Services>, drain: DrainGuard) {
    let (driver, head) = piped(pipe, head, services, drain);
    driver.run(Begin::LoggedIn(head)).await;
}

/// Runs a guest of a session at another node, which may act for the user.
pub async fn serve_guest(pipe: Box<dyn Pipe>, head: SessionHead, services: Arc<Services>, drain: DrainGuard) {
    let (driver, head) = piped(pipe, head, services, drain);
    driver.run(Begin::Guest(head)).await;
}

fn piped(
    pipe: Box<dyn Pipe>,
    head: SessionHead,
    services: Arc<Services>,
    drain: DrainGuard,
) -> (Driver, Box<SessionHead>) {
    let stream = Stream::piped(pipe, head.peer(), head.tls);
    let silence_max = services.config.idle_timeout();
    let driver = Driver {
        wire: Wire::new(Connection::new(stream), limits(&services, true), silence_max, head.trace),
        state: State::NotAuthenticated,
        permit: None,
        drain,
        bad_in_a_row: 0,
        counts: ConnectionEnd::new(&measure::NAMES, ConnId::carried(head.trace)),
        services,
    };
    (driver, Box::new(head))
}

impl Driver {
    /// The home's first answer: that of the command that logged in. False: the login failed.
    pub(super) async fn take_up(&mut self, head: SessionHead) -> Result<bool, Failure> {
        let timing = Timing::start(&measure::NAMES, "LOGIN", &head.tag);
        let (Some(tag), Ok(user)) = (Tag::new(head.tag.as_bytes()), head.user()) else { return Ok(false) };
        let entered = match authenticate::enter(&self.services, user).await {
            Ok(Entered::Here(user)) => Ok(user),
            // It has moved since the edge looked; a session is not passed on twice.
            Ok(Entered::Away { .. }) => Err(not_reached().into()),
            Err(failure) => Err(failure),
        };
        let outcome = entered.map(|user| {
            let (state, answer) = authenticate::entered(&self.services, &self.wire, user, &head.verb);
            self.state = state;
            self.logged_in();
            answer
        });
        let entered = outcome.is_ok();
        self.answered(tag, timing, true, outcome).await?;
        if !entered {
            self.hand_back(BytesMut::new()).await?;
        }
        Ok(entered)
    }

    /// Begins as a guest. It says nothing, but good-bye if it cannot be; false: that was said.
    pub(super) async fn take_in(&mut self, head: SessionHead) -> bool {
        let entered = match head.user() {
            Ok(user) => authenticate::visit(&self.services, user).await,
            Err(_) => Err(not_reached().into()),
        };
        match entered {
            Ok(user) => {
                self.state = State::Authenticated(user);
                self.logged_in();
                // A command that is sent on may have become longer by being written anew.
                let limits = limits(&self.services, true);
                let command_octets = limits.command_octets.saturating_mul(2);
                self.wire.decoder.set_limits(Limits { command_octets, ..limits });
                true
            }
            Err(_) => {
                self.wire
                    .put(&bye(Some(Code::Unavailable), "Mailboxes here cannot be reached at the moment"));
                false
            }
        }
    }

    /// A guest learns what is on in the session that it serves.
    pub(super) fn learn_enabled(&mut self) {
        let Some(enabled) = self.wire.enabled.take() else { return };
        let Some(user) = self.state.user() else { return };
        let knew_modseqs = user.enabled.condstore;
        user.enable(enabled);
        if let State::Selected(_, selected) = &self.state
            && enabled.condstore
            && !knew_modseqs
        {
            let code = select::highest_modseq(selected);
            self.wire.put(&Response::ok_code(code, "The last change that you know of"));
        }
    }

    /// Gives the client back to the edge, as nobody's.
    pub(super) async fn hand_back(&mut self, rest: BytesMut) -> Result<Next, Failure> {
        self.wire.flush().await?;
        if let Some(pipe) = self.wire.connection.pipe() {
            rookery_route::hand_back(pipe, rest).await.map_err(IoError::Lost)?;
        }
        self.counts.end("unauthenticated");
        Ok(Next::Left)
    }

    /// The edge's half of the session of someone whose home is another node, from the login to the end.
    pub(super) async fn away(&mut self, (tag, timing): (Tag, Timing)) -> Result<Next, Failure> {
        let State::Away(away) = std::mem::replace(&mut self.state, State::NotAuthenticated) else {
            return Ok(Next::Go);
        };
        let trace = self.wire.trace;
        let head =
            SessionHead::new(&away.user, trace, self.wire.connection.stream(), tag.as_str(), away.verb);
        let pipe = match self.services.peers.open(away.home, PipeService::Imap, head.encode()).await {
            Ok(pipe) => pipe,
            Err(error) => {
                tracing::warn!(%error, "a user's home is not reached");
                return self.answered(tag, timing, true, Err(not_reached().into())).await;
            }
        };
        timing.end("relayed");
        self.logged_in();
        self.counts.user(away.user.as_str());
        self.wire.flush().await?;
        let arrived = self.wire.decoder.take_input();
        let client = self.wire.connection.stream_mut();
        match rookery_route::relay(client, arrived, pipe, &self.drain).await {
            Relayed::Ended => {
                self.counts.end("logout");
                Ok(Next::Left)
            }
            Relayed::ClientGone => {
                self.counts.end("client gone");
                Ok(Next::Left)
            }
            Relayed::Lost(error) => {
                tracing::info!(%error, "a session's home is lost");
                self.counts.end("home lost");
                self.wire.put(&bye(Some(Code::Unavailable), "Your mailboxes cannot be reached any more"));
                Ok(Next::Left)
            }
            Relayed::NeverBegan(error) => {
                tracing::warn!(%error, "a user's home is not reached");
                if let Some(refusal) = self.nobodys_again() {
                    return Ok(refusal);
                }
                let timing = Timing::start(&measure::NAMES, away.verb, tag.as_str());
                self.answered(tag, timing, true, Err(not_reached().into())).await
            }
            Relayed::Unauthenticated(rest) => {
                if let Some(refusal) = self.nobodys_again() {
                    return Ok(refusal);
                }
                self.wire.decoder.push(&rest);
                Ok(Next::Go)
            }
        }
    }
}

fn not_reached() -> Answer {
    Answer::no(Code::Unavailable, "Your mailboxes cannot be reached at the moment")
}
