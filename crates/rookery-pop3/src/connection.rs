//! The task that drives one connection: octets to commands, commands to answers.
//!
//! Invariants:
//! - One command at a time, in order; answers leave before the task waits for the client again.
//! - Only QUIT enters the UPDATE state. A drain, a silence, a lost connection or a client that is sent away removes
//!   nothing.
//! - A session goes on elsewhere between two commands, or with a QUIT that removed nothing.
//! - The future that waits for a client is small: what a command needs lives in a box of its own, only while the
//!   command runs.

mod halves;

pub use halves::serve_pipe;

use std::sync::Arc;

use rookery_codec::pop3::server::{Decoded, Decoder};
use rookery_codec::pop3::{Code, Command, Reply};
use rookery_net::{Accepted, Connection, ConnectionEnd, DrainGuard, IoError, Permit, StartTlsError, Timing};
use rookery_route::SessionHead;
use rookery_types::{NodeId, UserName};
use tokio::time::Instant;

use crate::authorization::{self, Authorization};
use crate::capability;
use crate::maildrop::Maildrop;
use crate::measure;
use crate::services::Services;
use crate::transaction;
use crate::wire::{Patience, Wire};

/// Serves one client until it leaves, is sent away, or the drain is over. `tls`: the port is a TLS port, and the
/// handshake comes before anything else.
pub async fn serve_connection(accepted: Accepted, services: Arc<Services>, tls: bool) {
    let Accepted { mut stream, id, permit, drain } = accepted;
    if tls {
        // Boxed: a handshake is far larger than what waits for a client.
        match Box::pin(stream.secured(services.tls.as_deref())).await {
            Ok(secured) => stream = secured,
            Err(error) => return tracing::debug!(%id, %error, "no TLS"),
        }
    }
    let patience = Patience::Until(Instant::now() + services.config.login_timeout());
    let mut driver = Driver {
        wire: Wire::new(Connection::new(stream), patience),
        state: State::Authorization(Authorization::default()),
        services,
        permit: Some(permit),
        drain,
        bad_in_a_row: 0,
        counts: ConnectionEnd::new(&measure::NAMES, id),
    };
    driver.run(None).await;
}

/// Where a session stands (RFC 1939 §3). UPDATE is what QUIT does.
enum State {
    Authorization(Authorization),
    Transaction(Box<Maildrop>),
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

/// What a command came to.
pub(crate) enum Outcome {
    /// This is to be said.
    Said(Reply),
    /// All was said.
    Sent,
    /// It was no command, or none that can come here.
    Bad(Reply),
    /// The client has logged in.
    LoggedIn(Box<Maildrop>),
    /// The client has logged in, and its maildrop is at another node.
    Away { user: UserName, home: NodeId },
    /// TLS is to begin.
    StartTls,
    /// It was QUIT, and the account has gone before anything was removed.
    Moved,
    /// This is the last thing said, and why.
    Close(Reply, &'static str),
    /// An answer broke off in its middle: nothing can be said any more.
    Broken,
}

/// Why the loop goes on or ends.
enum Next {
    Go,
    StartTls,
    /// The client has logged in, and the session goes on at another node.
    Away(Box<(UserName, NodeId)>),
    /// All has been said.
    Close(&'static str),
    /// The client must not take what it got for whole.
    Abort,
}

impl Driver {
    fn greet(&mut self) {
        self.wire.put(&Reply::ok(format!("{} Rookery POP3 ready", self.services.hostname)));
    }

    /// `head`: the client is at another node, and has logged in there, or the session goes on here.
    async fn run(&mut self, head: Option<Box<SessionHead>>) {
        let begun = match head {
            None => {
                self.greet();
                Ok(true)
            }
            Some(head) if head.value_octets.is_some() => Box::pin(self.take_over(*head)).await,
            Some(head) => Box::pin(self.take_up(*head)).await,
        };
        match begun {
            Ok(true) => {}
            // The edge has its client back, or asks again.
            Ok(false) => return self.counts.end("refused"),
            Err(_) => return self.counts.end("lost"),
        }
        let ended = loop {
            let next = match self.turn().await {
                // Not before the command has ended: what it took would be held as long as the session lasts.
                Ok(Next::Away(login)) => Box::pin(self.away(*login)).await,
                next => next,
            };
            match next {
                Ok(Next::Go | Next::Away(_)) => {}
                Ok(Next::Close(why)) => break Ok(why),
                Ok(Next::Abort) => {
                    self.counts.end("broken");
                    return;
                }
                Ok(Next::StartTls) => {
                    if !Box::pin(self.start_tls()).await {
                        return;
                    }
                }
                Err(error) => break Err(error),
            }
        };
        match ended {
            Ok(why) => {
                self.counts.end(why);
                let _ = self.wire.connection.close().await;
            }
            // Without a word (RFC 1939 §3).
            Err(IoError::Idle) => {
                self.counts.end("idle");
                let _ = self.wire.connection.close().await;
            }
            Err(error) => {
                tracing::debug!(%error, "connection lost");
                self.counts.end("lost");
            }
        }
    }

    /// One thing that came from the client, or the wait for it.
    async fn turn(&mut self) -> Result<Next, IoError> {
        let kept = self.is_kept();
        self.wire.suspended |= kept;
        // Also a client that never stops sending has to go.
        if self.drain.is_draining() && !kept || self.wire.leaving {
            return Ok(self.drained());
        }
        if let State::Transaction(maildrop) = &self.state
            && maildrop.slot().is_ended()
        {
            return Ok(self.closed());
        }
        if let Some(whither) = self.leaves() {
            return Box::pin(self.hand_over(whither, b"")).await;
        }
        match self.wire.decoder.next() {
            Decoded::NeedMore => self.wait().await,
            Decoded::Command(command) => Box::pin(self.command(command)).await,
            Decoded::Bad(reply) => {
                measure::NAMES.bad_syntax();
                self.wire.put(&reply);
                Ok(self.count_bad(true))
            }
            Decoded::Fatal(reply) => {
                self.wire.put(&reply);
                Ok(Next::Close("out of step"))
            }
            // It comes out only during AUTH.
            Decoded::Line(_) => {
                tracing::error!("the decoder is out of step");
                Ok(Next::Close("out of step"))
            }
        }
    }

    fn drained(&mut self) -> Next {
        self.wire.put(&Reply::refused(Code::SysTemp, "The server is ending; nothing was removed"));
        Next::Close("drained")
    }

    /// The account was closed to its user while the session was open.
    fn closed(&mut self) -> Next {
        self.wire.put(&Reply::refused(Code::SysPerm, "The account was closed; nothing was removed"));
        Next::Close("account closed")
    }

    /// Sends what is waiting and waits for the client, for the server's or the account's end, or for the account to leave.
    async fn wait(&mut self) -> Result<Next, IoError> {
        self.wire.connection.flush().await?;
        let state = &self.state;
        let ended = async {
            match state {
                State::Transaction(maildrop) => maildrop.slot().ended().await,
                State::Authorization(_) => std::future::pending().await,
            }
        };
        // Between commands, and nowhere else, can it go on elsewhere.
        let is_between = self.wire.decoder.is_between();
        let departed = async {
            match state {
                State::Transaction(maildrop) if is_between => maildrop.departed().await,
                State::Transaction(_) | State::Authorization(_) => std::future::pending().await,
            }
        };
        let suspended = self.wire.suspended;
        tokio::select! {
            biased;
            () = self.drain.draining(), if !suspended => match self.is_kept() {
                true => Ok(Next::Go),
                false => Ok(self.drained()),
            },
            () = ended => Ok(self.closed()),
            () = departed => Ok(Next::Go),
            read = self.wire.read() => match read? {
                true => Ok(Next::Go),
                false => Ok(Next::Close("closed")),
            },
        }
    }

    async fn command(&mut self, command: Command) -> Result<Next, IoError> {
        let timing = Timing::start(&measure::NAMES, measure::verb(&command), "");
        let outcome = match self.obey(command).await {
            Ok(outcome) => outcome,
            Err(error) => {
                timing.end("gone");
                return Err(error);
            }
        };
        if matches!(outcome, Outcome::Moved) {
            timing.end("moved");
            return Box::pin(self.quit_elsewhere()).await;
        }
        self.counts.commands += 1;
        let (result, next) = self.answer(outcome).await?;
        timing.end(result);
        Ok(next)
    }

    async fn obey(&mut self, command: Command) -> Result<Outcome, IoError> {
        let Driver { wire, state, services, .. } = self;
        match (command, state) {
            (Command::Capa, state) => {
                capability::capa(services, wire, matches!(state, State::Transaction(_)));
                Ok(Outcome::Sent)
            }
            (Command::Quit, State::Authorization(_)) => Ok(Outcome::Close(Reply::ok("Bye"), "quit")),
            (Command::Quit, State::Transaction(maildrop)) => {
                Ok(maildrop.update().await.map_or(Outcome::Moved, |reply| Outcome::Close(reply, "quit")))
            }
            (command, State::Authorization(authorization)) => {
                authorization::obey(wire, services, authorization, command).await
            }
            (command, State::Transaction(maildrop)) => transaction::obey(wire, maildrop, command).await,
        }
    }

    /// Says what a command came to: for metrics, and for the loop.
    async fn answer(&mut self, outcome: Outcome) -> Result<(&'static str, Next), IoError> {
        let result_of = |reply: &Reply| match (reply.ok, &reply.code) {
            (true, _) => "ok",
            (false, Some(Code::SysTemp)) => "servererror",
            (false, _) => "err",
        };
        Ok(match outcome {
            Outcome::Said(reply) => {
                self.wire.put(&reply);
                self.wire.flush_if_full().await?;
                (result_of(&reply), self.count_bad(false))
            }
            Outcome::Sent => {
                self.wire.flush_if_full().await?;
                ("ok", self.count_bad(false))
            }
            Outcome::Bad(reply) => {
                self.wire.put(&reply);
                self.wire.flush_if_full().await?;
                ("bad", self.count_bad(true))
            }
            Outcome::Away { user, home } => ("relayed", Next::Away(Box::new((user, home)))),
            Outcome::LoggedIn(maildrop) => {
                let (count, octets) = maildrop.count();
                self.wire.put(&Reply::ok(format!("maildrop has {count} messages ({octets} octets)")));
                self.enter(maildrop);
                ("ok", self.count_bad(false))
            }
            Outcome::StartTls => {
                self.wire.put(&Reply::ok("Begin TLS"));
                self.wire.connection.flush().await?;
                ("ok", Next::StartTls)
            }
            Outcome::Close(reply, why) => {
                self.wire.put(&reply);
                (result_of(&reply), Next::Close(why))
            }
            // Not before it is said again where the account is.
            Outcome::Moved => ("moved", Next::Close("moved")),
            Outcome::Broken => ("servererror", Next::Abort),
        })
    }

    /// The session's TRANSACTION state begins, or goes on here.
    fn enter(&mut self, maildrop: Box<Maildrop>) {
        self.logged_in(maildrop.user());
        self.wire.patience = Patience::Silence(self.services.config.idle_timeout());
        self.state = State::Transaction(maildrop);
    }

    fn logged_in(&mut self, user: &UserName) {
        if let Some(permit) = &mut self.permit {
            permit.authenticated();
        }
        self.counts.user(user.as_str());
    }

    fn count_bad(&mut self, bad: bool) -> Next {
        self.bad_in_a_row = if bad { self.bad_in_a_row + 1 } else { 0 };
        if self.bad_in_a_row < self.services.config.bad_commands_max {
            return Next::Go;
        }
        self.wire.put(&Reply::err("Too many commands that are none"));
        Next::Close("bad commands")
    }

    /// The handshake; false: there is no session any more. Nothing said in the clear counts behind it (RFC 2595 §4).
    async fn start_tls(&mut self) -> bool {
        let Some(acceptor) = self.services.tls.as_ref().map(|tls| tls.acceptor()) else { return false };
        let input = self.wire.decoder.take_input();
        if let Err(error) = self.wire.connection.start_tls(&acceptor, input).await {
            if matches!(error, StartTlsError::PlaintextBehind { .. }) {
                tracing::warn!(%error, "commands were sent in the clear behind STLS");
            }
            self.counts.end("tls");
            return false;
        }
        self.wire.decoder = Decoder::new();
        self.state = State::Authorization(Authorization::default());
        true
    }
}
