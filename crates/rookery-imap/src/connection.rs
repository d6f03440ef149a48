//! The task that drives one connection: octets to commands, commands to steps, steps to answers.
//!
//! Invariants:
//! - One command at a time, in order; answers leave before the task waits for the client again.
//! - Every command ends in exactly one tagged response, unless the connection is lost.
//! - The future that waits for a client is small: what a command needs lives in a box of its own, only while
//!   the command runs.

mod bereft;
mod halves;
mod waiting;

pub use halves::{serve_guest, serve_pipe};
pub(crate) use waiting::{departed, ended};

use crate::answer::{Answer, Failure};
use crate::capability;
use crate::command::{self, Context};
use crate::handed::Replay;
use crate::measure;
use crate::services::Services;
use crate::session::State;
use crate::tell;
use crate::wire::Wire;
use bytes::BytesMut;
use rookery_codec::imap::command::{AppendMessage, Replaced, Tagged};
use rookery_codec::imap::server::{Bad, Decoded, Decoder, Limits};
use rookery_codec::imap::{Code, Command, Condition, Response, Status, Tag, WireName};
use rookery_net::{Accepted, Connection, ConnectionEnd, DrainGuard, IoError, Permit, StartTlsError, Timing};
use rookery_route::{SessionHead, SessionNote};
use rookery_store::{Noted, StoreError};
use std::sync::Arc;
use tokio::time::Instant;

/// Parentheses, OR and NOT within one another in a command.
const DEPTH_MAX: usize = 50;

/// What a listener is for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Entrance {
    /// TLS from the first octet.
    pub tls: bool,
    /// Only administrators log in.
    pub administrators: bool,
}

/// Serves one client until it leaves, is sent away, or the drain is over. `tls`: the port is a TLS port, and
/// the handshake comes before anything else.
pub async fn serve_connection(accepted: Accepted, services: Arc<Services>, entrance: Entrance) {
    let Accepted { mut stream, id, permit, drain } = accepted;
    if entrance.tls {
        // Boxed: a handshake is far larger than what waits for a client.
        match Box::pin(stream.secured(services.tls.as_deref())).await {
            Ok(secured) => stream = secured,
            Err(error) => return tracing::debug!(%id, %error, "no TLS"),
        }
    }
    let limits = limits(&services, false);
    let mut wire = Wire::new(Connection::new(stream), limits, services.config.login_timeout(), id.get());
    wire.deadline = Some(Instant::now() + services.config.login_timeout());
    wire.administrators = entrance.administrators;
    let mut driver = Driver {
        wire,
        state: State::NotAuthenticated,
        services,
        permit: Some(permit),
        drain,
        bad_in_a_row: 0,
        counts: ConnectionEnd::new(&measure::NAMES, id),
    };
    driver.run(Begin::Greeting).await;
}

/// What the decoder may take.
fn limits(services: &Services, logged_in: bool) -> Limits {
    let config = &services.config;
    Limits {
        command_octets: if logged_in {
            config.command_octets_max
        } else {
            config.command_octets_before_login_max
        },
        append_octets: if logged_in { config.message_octets_max } else { 0 },
        depth: DEPTH_MAX,
        literal_minus: false,
    }
}

struct Driver {
    wire: Wire,
    state: State,
    services: Arc<Services>,
    /// Its place among this node's connections; none if another node holds the socket.
    permit: Option<Permit>,
    drain: DrainGuard,
    bad_in_a_row: u32,
    counts: ConnectionEnd,
}

/// What a session begins with.
enum Begin {
    /// A client that has just connected.
    Greeting,
    /// A login at another node.
    LoggedIn(Box<SessionHead>),
    /// A session at another node, which needs this one as its guest.
    Guest(Box<SessionHead>),
    /// A session that was at another node and goes on here.
    Resumed(Box<SessionHead>),
    /// The same of a guest.
    ResumedGuest(Box<SessionHead>),
}

/// Why the loop goes on or ends.
enum Next {
    Go,
    /// The client asked for TLS and was told to begin.
    StartTls,
    /// The client has logged in by a command of this tag, and the session goes on at another node.
    Away(Box<(Tag, Timing)>),
    /// An IDLE of this tag goes on.
    Idle(Box<Tag>),
    /// All has been said.
    Close,
    /// The same, and why it ended was noted.
    Left,
}

impl Driver {
    /// The session, to its end. What awaits this lies in memory as long as the client is there.
    async fn run(&mut self, begin: Begin) {
        let mut idling = None;
        match begin {
            Begin::Greeting => self.greet(),
            begin @ (Begin::Resumed(_) | Begin::ResumedGuest(_)) => {
                let is_guest = matches!(begin, Begin::ResumedGuest(_));
                let (Begin::Resumed(head) | Begin::ResumedGuest(head)) = begin else { return };
                match Box::pin(self.take_over(*head, is_guest)).await {
                    Ok(under_way) => idling = under_way,
                    // The edge asks again, here or elsewhere.
                    Err(_) => return self.counts.end("refused"),
                }
            }
            Begin::LoggedIn(head) => match Box::pin(self.take_up(*head)).await {
                Ok(true) => {}
                // The edge has its client back.
                Ok(false) => return self.counts.end("refused"),
                Err(_) => return self.counts.end("lost"),
            },
            Begin::Guest(head) => {
                if !Box::pin(self.take_in(*head)).await {
                    let _ = self.wire.connection.close().await;
                    return self.counts.end("refused");
                }
            }
        }
        let ended = loop {
            let turned = match idling.take() {
                None => self.turn().await,
                Some(tag) => Box::pin(self.idle(tag, true)).await,
            };
            let next = match turned {
                // Not before the command has ended: what it took would be held as long as the session lasts.
                Ok(Next::Away(login)) => Box::pin(self.away(*login)).await,
                next => next,
            };
            match next {
                Ok(Next::Go | Next::Away(_)) => {}
                Ok(Next::Idle(tag)) => idling = Some(*tag),
                Ok(Next::Close) => {
                    self.counts.end("logout");
                    break Ok(());
                }
                Ok(Next::Left) => break Ok(()),
                Ok(Next::StartTls) => {
                    if !Box::pin(self.start_tls()).await {
                        return;
                    }
                }
                Err(Failure::Gone(error)) => break Err(error),
                // Refusals were answered where they came up, and so were moves.
                Err(Failure::Refused(_) | Failure::Moved) => {}
            }
        };
        match ended {
            Ok(()) => {
                let _ = self.wire.connection.close().await;
            }
            Err(IoError::Idle) => {
                self.counts.end("idle");
                self.wire.put(&bye(None, "Autologout; the connection was silent for too long"));
                let _ = self.wire.connection.close().await;
            }
            Err(IoError::Garbled(error)) => {
                tracing::debug!(%error, "octets that are not compressed under compression");
                self.counts.end("garbled");
                self.wire.put(&bye(None, "What you send is not compressed as was agreed"));
                let _ = self.wire.connection.close().await;
            }
            Err(error) => {
                tracing::debug!(%error, "connection lost");
                self.counts.end("lost");
            }
        }
    }

    fn greet(&mut self) {
        let names = capability::names(&self.services, &self.state, &self.wire);
        let text = format!("{} Rookery ready", self.services.hostname);
        self.wire.put(&Response::ok_code(Code::Capability(names), text));
    }

    /// One thing that came from the client, or the wait for it.
    async fn turn(&mut self) -> Result<Next, Failure> {
        let kept = self.is_kept();
        self.wire.suspended |= kept;
        // Also a client that never stops sending has to go.
        if self.drain.is_draining() && !kept || self.wire.leaving {
            self.wire.put(&bye(Some(Code::Unavailable), "The server is ending"));
            return Ok(Next::Close);
        }
        if self.state.is_ended() {
            return Ok(account_closed(&mut self.wire));
        }
        if let Some(whither) = self.leaves() {
            if self.state.is_bereft() && !self.wire.suspended {
                return Box::pin(self.go_home(whither, None)).await;
            }
            return Box::pin(self.hand_over(whither, None, Replay::default(), None)).await;
        }
        let Some(decoded) = self.decoded() else { return self.wait().await };
        match decoded {
            Decoded::Continue => {
                self.wire.connection.out().extend_from_slice(b"+ OK\r\n");
                Ok(Next::Go)
            }
            Decoded::Command(tagged) => match tagged.command {
                Command::Idle => self.idle(tagged.tag, false).await,
                _ => Box::pin(self.command(tagged)).await,
            },
            Decoded::Bad(bad) => self.bad(bad),
            Decoded::AppendStart { tag, replaced, mailbox, message } => {
                Box::pin(self.append(tag, replaced, mailbox, message)).await
            }
            Decoded::Fatal { text } => {
                self.wire.put(&bye(None, text));
                Ok(Next::Close)
            }
            // What belongs to a command under way comes out only during it.
            Decoded::NeedMore
            | Decoded::AppendData(_)
            | Decoded::AppendUrl(_)
            | Decoded::AppendText(_)
            | Decoded::AppendEnd { .. }
            | Decoded::Line(_) => {
                tracing::error!("the decoder is out of step");
                self.wire.put(&bye(Some(Code::ServerBug), "Internal error"));
                Ok(Next::Close)
            }
        }
    }

    /// What has come, if that is enough for anything.
    fn decoded(&mut self) -> Option<Decoded> {
        let decoded = self.wire.decoder.next();
        if decoded == Decoded::NeedMore {
            return None;
        }
        if self.wire.enabled.is_some() {
            self.learn_enabled();
        }
        Some(decoded)
    }

    async fn append(
        &mut self,
        tag: Tag,
        replaced: Option<Replaced>,
        mailbox: WireName,
        message: AppendMessage,
    ) -> Result<Next, Failure> {
        let verb = match replaced {
            None => "APPEND",
            Some(Replaced { uid: false, .. }) => "REPLACE",
            Some(Replaced { uid: true, .. }) => "UID REPLACE",
        };
        let timing = Timing::start(&measure::NAMES, verb, tag.as_str());
        let own = self.state.notes();
        let about = mailbox.clone();
        let context = Context { services: &self.services, wire: &mut self.wire, tag: &tag };
        let append = command::append::append(context, &mut self.state, replaced, mailbox, message);
        let mut outcome = Box::pin(noting(own, append)).await;
        if matches!(outcome, Err(Failure::Moved)) {
            if let Some(replay) = self.wire.replay.take() {
                timing.end("moved");
                return Box::pin(self.append_elsewhere(*replay, about)).await;
            }
            outcome = Err(Answer::from(StoreError::Moved).into());
        }
        self.answered(tag, timing, true, outcome).await
    }

    async fn command(&mut self, tagged: Tagged) -> Result<Next, Failure> {
        let Tagged { tag, command } = tagged;
        if let Some(user) = self.state.user()
            && let Err(failure) = user.refresh().await
        {
            let timing = Timing::start(&measure::NAMES, measure::verb(&command), tag.as_str());
            return self.answered(tag, timing, false, Err(failure)).await;
        }
        if self.state.is_gone() {
            self.wire.put(&bye(Some(Code::NonExistent), "The account was deleted or renamed"));
            return Ok(Next::Close);
        }
        let timing = Timing::start(&measure::NAMES, measure::verb(&command), tag.as_str());
        if let (Command::StartTls, State::NotAuthenticated) = (&command, &self.state)
            && self.services.tls.is_some()
            && !self.wire.connection.is_tls()
        {
            self.wire.put(&Answer::ok("Begin TLS").into_response(tag));
            self.wire.flush().await?;
            return Ok(Next::StartTls);
        }
        match &command {
            Command::Compress { mechanism } => return self.compress(tag, timing, mechanism).await,
            Command::Unauthenticate => return self.unauthenticate(tag, timing).await,
            _ => {}
        }
        let expunges = command::may_expunge(&command);
        let before = matches!(self.state, State::NotAuthenticated);
        let own = self.state.notes();
        let again = command.clone();
        let state = std::mem::replace(&mut self.state, State::Logout);
        let context = Context { services: &self.services, wire: &mut self.wire, tag: &tag };
        let (state, outcome) = noting(own, command::step(state, command, context)).await;
        self.state = state;
        if before && matches!(self.state, State::Authenticated(_)) {
            self.logged_in();
        }
        if matches!(self.state, State::Away(_)) {
            return Ok(Next::Away(Box::new((tag, timing))));
        }
        if matches!(outcome, Err(Failure::Moved)) {
            timing.end("moved");
            return Box::pin(self.command_elsewhere(Tagged { tag, command: again })).await;
        }
        self.answered(tag, timing, expunges, outcome).await
    }

    /// COMPRESS (RFC 4978): from behind the tagged OK on, octets are compressed both ways.
    async fn compress(&mut self, tag: Tag, timing: Timing, mechanism: &str) -> Result<Next, Failure> {
        let answer = match &self.state {
            State::NotAuthenticated | State::Away(_) | State::Logout => Answer::bad("Log in first"),
            _ if !self.services.config.compress => Answer::bad("Compression is turned off"),
            _ if !self.wire.can_deflate => Answer::bad("The node that you are connected to cannot compress"),
            _ if mechanism != "DEFLATE" => Answer::bad("DEFLATE is the only compression there is"),
            _ if self.wire.connection.is_deflated() => {
                Answer::no(Code::CompressionActive, "DEFLATE is active already")
            }
            _ => Answer::ok("DEFLATE active"),
        };
        let begins = answer.condition == Condition::Ok;
        let next = self.answered(tag, timing, true, Ok(answer)).await?;
        if begins {
            self.wire.flush().await?;
            let mut arrived = BytesMut::new();
            match self.wire.connection.pipe() {
                Some(_) => self.wire.connection.flush_with(SessionNote::Compressed.encode()).await?,
                None => arrived = self.wire.decoder.take_input(),
            }
            self.wire.connection.start_deflate(arrived);
        }
        Ok(next)
    }

    /// UNAUTHENTICATE (RFC 8437): all that was the user's ends; what is left is the connection and its TLS.
    async fn unauthenticate(&mut self, tag: Tag, timing: Timing) -> Result<Next, Failure> {
        let refused = match &self.state {
            State::NotAuthenticated | State::Away(_) | State::Logout => Some("Log in first"),
            _ if !self.services.config.unauthenticate => Some("UNAUTHENTICATE is turned off"),
            _ => None,
        };
        if let Some(text) = refused {
            return self.answered(tag, timing, true, Ok(Answer::bad(text))).await;
        }
        if let Some(refusal) = self.nobodys_again() {
            return Ok(refusal);
        }
        let next = self.answered(tag, timing, true, Ok(Answer::ok("UNAUTHENTICATE completed"))).await?;
        let rest = self.wire.decoder.take_input();
        if self.wire.connection.pipe().is_some() {
            return self.hand_back(rest).await;
        }
        Ok(self.begin_plainly(rest).await?.unwrap_or(next))
    }

    /// The client that is nobody's again goes on without compression. `rest`: what it has sent already, under
    /// compression if that was on. What to do instead if there is any of that.
    pub(super) async fn begin_plainly(&mut self, mut rest: BytesMut) -> Result<Option<Next>, Failure> {
        if self.wire.connection.is_deflated() {
            let behind = self.wire.connection.end_deflate().await?;
            if !rest.is_empty() {
                self.wire.put(&bye(None, "Compression ended behind UNAUTHENTICATE"));
                return Ok(Some(Next::Close));
            }
            rest = behind;
        }
        self.wire.decoder.push(&rest);
        Ok(None)
    }

    /// Makes the connection one that nobody has logged in on; what to do instead if there are too many of those.
    fn nobodys_again(&mut self) -> Option<Next> {
        // A NO is not allowed: the client may have sent its next login already (RFC 8437 §3).
        let peer = self.wire.connection.peer();
        if self.permit.as_mut().is_some_and(|permit| permit.unauthenticated(peer).is_err()) {
            self.wire
                .put(&bye(Some(Code::Limit), "Too many connections from your address that are nobody's"));
            return Some(Next::Close);
        }
        self.state = State::NotAuthenticated;
        self.wire.deadline = Some(Instant::now() + self.services.config.login_timeout());
        self.wire.silence_max = self.services.config.login_timeout();
        self.wire.decoder.set_limits(limits(&self.services, false));
        None
    }

    fn logged_in(&mut self) {
        if let Some(permit) = &mut self.permit {
            permit.authenticated();
        }
        self.wire.decoder.set_limits(limits(&self.services, true));
        self.wire.silence_max = self.services.config.idle_timeout();
        self.wire.deadline = None;
        if let State::Authenticated(user) = &self.state {
            self.counts.user(user.name.as_str());
        }
    }

    /// The checkpoint and the tagged response.
    async fn answered(
        &mut self,
        tag: Tag,
        timing: Timing,
        expunges: bool,
        outcome: Result<Answer, Failure>,
    ) -> Result<Next, Failure> {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(Failure::Refused(answer)) => *answer,
            Err(gone) => {
                timing.end("gone");
                return Err(gone);
            }
        };
        if answer.condition == Condition::Bye {
            timing.end(answer.result());
            return Ok(self.farewell(answer));
        }
        match &mut self.state {
            State::Selected(user, selected) => {
                // Who wants to hear of expunges at once has given up sequence numbers (RFC 5465 §5.3).
                let at_once = user.of_selected().is_some_and(|of| of.messages && !of.delayed);
                let expunges = expunges || at_once;
                Box::pin(tell::all(&mut self.wire, user, Some(selected), expunges)).await?;
            }
            State::Authenticated(user) | State::Abroad(user, _) if user.notify.is_some() => {
                Box::pin(tell::all(&mut self.wire, user, None, expunges)).await?;
            }
            _ => {}
        }
        let bad = answer.condition == Condition::Bad;
        timing.end(answer.result());
        self.counts.commands += 1;
        self.wire.put(&answer.into_response(tag));
        if self.wire.connection.must_flush() {
            // In a box, since it is rare.
            Box::pin(self.wire.flush_if_full()).await?;
        }
        if matches!(self.state, State::Logout) {
            return Ok(Next::Close);
        }
        Ok(self.count_bad(bad))
    }

    /// Something went wrong behind which the session cannot go on.
    fn farewell(&mut self, answer: Answer) -> Next {
        let (condition, code, text) = (Condition::Bye, answer.code, answer.text);
        self.wire.put(&Response::Status(Status { tag: None, condition, code, text }));
        Next::Close
    }

    fn bad(&mut self, bad: Bad) -> Result<Next, Failure> {
        measure::NAMES.bad_syntax();
        let condition = bad.condition;
        self.wire.put(&bad.into_response());
        Ok(self.count_bad(condition == Condition::Bad))
    }

    fn count_bad(&mut self, bad: bool) -> Next {
        self.bad_in_a_row = if bad { self.bad_in_a_row + 1 } else { 0 };
        if self.bad_in_a_row < self.services.config.bad_commands_max {
            return Next::Go;
        }
        self.wire.put(&bye(None, "Too many commands that are none"));
        Next::Close
    }

    /// The handshake; false: there is no session any more. Nothing said in the clear counts behind it (RFC 9051 §6.2.1).
    async fn start_tls(&mut self) -> bool {
        let Some(acceptor) = self.services.tls.as_ref().map(|tls| tls.acceptor()) else { return false };
        let input = self.wire.decoder.take_input();
        if let Err(error) = self.wire.connection.start_tls(&acceptor, input).await {
            if matches!(error, StartTlsError::PlaintextBehind { .. }) {
                tracing::warn!(%error, "commands were sent in the clear behind STARTTLS");
            }
            self.counts.end("tls");
            return false;
        }
        self.wire.decoder = Decoder::new(limits(&self.services, false));
        true
    }
}

/// Does what a command asks for, and notes its changes if the client hears of changes.
async fn noting<T>(own: Option<Noted>, work: impl Future<Output = T>) -> T {
    match own {
        Some(own) => own.during(work).await,
        None => work.await,
    }
}

/// The account was closed to its user while the session was open.
fn account_closed(wire: &mut Wire) -> Next {
    wire.put(&bye(Some(Code::Unavailable), "The account was closed"));
    Next::Close
}

fn bye(code: Option<Code>, text: &'static str) -> Response {
    Response::Status(Status { tag: None, condition: Condition::Bye, code, text: text.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets_of<'a, A, B, F: Future>(_: impl FnOnce(&'a mut Driver, A, B) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// Tens of thousands of each wait at once. A future that is given by value to what awaits it lies there twice, and
    /// the largest of what is awaited makes room for all.
    #[test]
    fn the_futures_that_last_are_small() {
        let serves =
            octets_of(|_, accepted, (services, entrance)| serve_connection(accepted, services, entrance));
        assert!(serves < 2304, "{serves}");
        let relays = octets_of(|driver, tag, timing| driver.away((tag, timing)));
        assert!(relays < 1664, "{relays}");
    }
}
