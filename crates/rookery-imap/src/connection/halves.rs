//! Sessions whose client is at one node and whose mailboxes are at another: both halves.

use super::{Begin, Driver, Next, bye, departed, limits, noting};
use crate::answer::{Answer, Failure};
use crate::command::authenticate::{self, Entered};
use crate::command::{self, Context, select};
use crate::guest::printed;
use crate::handed::{PAUSE_FIRST, PAUSE_MAX, READY_TIMEOUT, Replay};
use crate::measure;
use crate::services::Services;
use crate::session::State;
use crate::value::{DeflateValue, SessionValue};
use crate::wire::{LINE_OCTETS_MAX, Wire};
use crate::witness::Witness;
use bytes::{Bytes, BytesMut};
use rookery_codec::imap::command::Tagged;
use rookery_codec::imap::server::{Decoder, Limits};
use rookery_codec::imap::{Code, Response, Tag, WireName};
use rookery_net::{ConnId, Connection, ConnectionEnd, DrainGuard, IoError, Pipe, Stream, Timing};
use rookery_route::{HandOver, Kept, Opening, PipeService, Relayed, Reopening, SessionHead, Suspended};
use rookery_store::StoreError;
use rookery_types::{AccountId, AccountName, Epoch, NodeId};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

/// Runs the session of a user who has logged in at another node, which holds the client's socket.
pub async fn serve_pipe(pipe: Box<dyn Pipe>, head: SessionHead, services: Arc<Services>, drain: DrainGuard) {
    let (mut driver, head) = piped(pipe, head, services, drain);
    let begin = match head.value_octets {
        None => Begin::LoggedIn(head),
        Some(_) => Begin::Resumed(head),
    };
    driver.run(begin).await;
}

/// Runs a guest of a session at another node, which may act for the user.
pub async fn serve_guest(pipe: Box<dyn Pipe>, head: SessionHead, services: Arc<Services>, drain: DrainGuard) {
    let (mut driver, head) = piped(pipe, head, services, drain);
    let begin = match head.value_octets {
        None => Begin::Guest(head),
        Some(_) => Begin::ResumedGuest(head),
    };
    driver.run(begin).await;
}

fn piped(
    pipe: Box<dyn Pipe>,
    head: SessionHead,
    services: Arc<Services>,
    drain: DrainGuard,
) -> (Driver, Box<SessionHead>) {
    let stream = Stream::piped(pipe, head.peer(), head.tls);
    let silence_max = services.config.idle_timeout();
    let mut wire = Wire::new(Connection::new(stream), limits(&services, true), silence_max, head.trace);
    wire.marks = head.marks.then(Default::default);
    wire.can_deflate = head.deflates;
    let driver = Driver {
        wire,
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
        let sessions_max = self.services.config.sessions_per_account_max;
        let entered = match authenticate::enter(&self.services, user.clone(), sessions_max).await {
            Ok(Entered::Here(user)) => Ok(user),
            // It has moved since the edge looked, which follows it.
            Ok(Entered::Away { home, .. }) => {
                let known = self.services.router.home(&AccountName::User(user)).await;
                let whither = known.unwrap_or((home, Epoch(0)));
                let lost = || IoError::Lost(std::io::ErrorKind::NotConnected.into());
                let pipe = self.wire.connection.pipe().ok_or_else(lost)?;
                let given = give(pipe, whither, Bytes::new(), Replay::default(), Bytes::new()).await;
                given.map_err(IoError::Lost)?;
                return Ok(false);
            }
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
                self.wire.decoder.set_limits(roomy(&self.services));
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
        let head = head.marked().deflating();
        let mut witness = Witness::default();
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
        let services = self.services.clone();
        let reopening = reopening(&services, &head);
        match rookery_route::relay(client, arrived, pipe, &self.drain, reopening, &mut witness).await {
            Relayed::NeverBegan(error) => {
                tracing::warn!(%error, "a user's home is not reached");
                if let Some(refusal) = self.nobodys_again() {
                    return Ok(refusal);
                }
                let timing = Timing::start(&measure::NAMES, away.verb, tag.as_str());
                self.answered(tag, timing, true, Err(not_reached().into())).await
            }
            // In a box, since the relay that lasts is to be small.
            relayed => Box::pin(self.left(relayed, head, witness)).await,
        }
    }

    /// The session at the other node is over. `head`: as it was opened there.
    pub(super) async fn left(
        &mut self,
        relayed: Relayed,
        head: SessionHead,
        witness: Witness,
    ) -> Result<Next, Failure> {
        match relayed {
            Relayed::Ended => {
                self.counts.end("logout");
                Ok(Next::Left)
            }
            Relayed::ClientGone => {
                self.counts.end("client gone");
                Ok(Next::Left)
            }
            Relayed::Lost(error) | Relayed::NeverBegan(error) => {
                tracing::info!(%error, "a session's home is lost");
                if let Some(lost) = witness.bereft()
                    && let Some(next) = self.bereave(head, lost).await?
                {
                    return Ok(next);
                }
                self.counts.end("home lost");
                self.wire.put(&bye(Some(Code::Unavailable), "Your mailboxes cannot be reached any more"));
                Ok(Next::Left)
            }
            Relayed::Unauthenticated(rest) => {
                if let Some(refusal) = self.nobodys_again() {
                    return Ok(refusal);
                }
                Ok(self.begin_plainly(rest).await?.unwrap_or(Next::Go))
            }
            Relayed::Garbled(error) => Err(IoError::Garbled(error).into()),
            Relayed::Suspended(session) => self.keep(head, session),
        }
    }

    /// Leaves the client to the keeper, with its session.
    fn keep(&mut self, head: SessionHead, session: Suspended) -> Result<Next, Failure> {
        let client = self.wire.connection.take_stream();
        let kept = Kept { client, service: PipeService::Imap, head, session };
        if let Err(kept) = self.services.keeper.keep(kept) {
            self.wire.connection = Connection::new(kept.client);
            self.wire.put(&bye(Some(Code::Unavailable), "The server is ending"));
            return Ok(Next::Close);
        }
        self.counts.end("kept");
        Ok(Next::Left)
    }

    /// Whether the server makes room for another program, and the session is to go on there.
    pub(super) fn is_kept(&mut self) -> bool {
        self.drain.is_draining() && self.services.keeper.is_open() && self.state.user().is_some()
    }

    /// This node, for a session that goes on here.
    pub(super) fn here(&self) -> (NodeId, Epoch) {
        (self.services.store.node(), Epoch(0))
    }

    /// Where the session has to go on, if it has to.
    pub(super) fn whither(&mut self) -> Option<(NodeId, Epoch)> {
        if let Some(left) = self.state.user().and_then(|user| user.has_left()) {
            return Some(left);
        }
        // What is abroad is found by whoever goes on, also if that is here.
        (self.wire.suspended || self.state.misses_something()).then(|| self.here())
    }

    /// The same, if it can go on elsewhere as it stands.
    pub(super) fn leaves(&mut self) -> Option<(NodeId, Epoch)> {
        self.whither().filter(|_| self.wire.decoder.is_between())
    }

    /// A command that found an account gone: nothing of it was done. It is done again here, where it may lead elsewhere
    /// by now, or at the session's new home.
    pub(super) async fn command_elsewhere(&mut self, tagged: Tagged) -> Result<Next, Failure> {
        let timing = Timing::start(&measure::NAMES, measure::verb(&tagged.command), tagged.tag.as_str());
        let end = Instant::now() + READY_TIMEOUT;
        let mut pause = PAUSE_FIRST;
        loop {
            let is_guest = self.state.user().is_some_and(|user| user.is_guest);
            let whither = self.whither().or_else(|| is_guest.then(|| self.here()));
            if let Some(whither) = whither {
                let Tagged { tag, command } = tagged;
                let about = self.state.user().and_then(|user| user.account_in_command(&command));
                let octets = printed(&tag, command)?;
                timing.end("moved");
                return self.hand_over(whither, None, Replay::of_command(octets), about).await;
            }
            if Instant::now() > end {
                let outcome = Err(Answer::from(StoreError::Moved).into());
                return self.answered(tagged.tag, timing, false, outcome).await;
            }
            let home = self.state.user().and_then(|user| user.home.as_mut());
            tokio::select! {
                () = departed(home) => continue,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
            let Tagged { tag, command } = tagged.clone();
            let (expunges, own) = (command::may_expunge(&command), self.state.notes());
            let state = std::mem::replace(&mut self.state, State::Logout);
            let context = Context { services: &self.services, wire: &mut self.wire, tag: &tag };
            let (state, outcome) = noting(own, command::step(state, command, context)).await;
            self.state = state;
            if !matches!(outcome, Err(Failure::Moved)) {
                return self.answered(tag, timing, expunges, outcome).await;
            }
        }
    }

    /// The same of an APPEND, whose messages have come.
    pub(super) async fn append_elsewhere(
        &mut self,
        mut replay: Replay,
        mailbox: WireName,
    ) -> Result<Next, Failure> {
        replay.ready().await;
        let whither = self.whither().unwrap_or_else(|| self.here());
        let address = self.state.user().and_then(|user| user.names.address(&mailbox).ok());
        let about = address.map(|address| address.account().clone());
        self.hand_over(whither, None, replay, about).await
    }

    /// Gives the session to another node, by way of the edge; or becomes its edge, if the client is connected here.
    /// `idle`: the tag of an IDLE under way; `about`: the account in which something was asked for and not done.
    pub(super) async fn hand_over(
        &mut self,
        whither: (NodeId, Epoch),
        idle: Option<Tag>,
        replay: Replay,
        about: Option<AccountName>,
    ) -> Result<Next, Failure> {
        let mut value = match self.state.value(&mut self.wire, about).await {
            Ok(value) => value,
            Err(Failure::Refused(answer)) => return Ok(self.farewell(*answer)),
            Err(failure) => return Err(failure),
        };
        value.idle = idle.map(|tag| tag.as_str().to_owned());
        value.bad_in_a_row = self.bad_in_a_row;
        value.replay_octets = replay.octets();
        value.replaces = std::mem::take(&mut self.wire.replaces);
        self.wire.flush().await?;
        let (value, rest) = (value.encode(), self.wire.decoder.take_input().freeze());
        let Some(user) = self.state.user().map(|user| user.name.clone()) else { return Ok(Next::Close) };
        // Nothing of it stays here, its place among the account's sessions included.
        self.state = State::NotAuthenticated;
        let limits = limits(&self.services, true);
        self.wire.decoder = Decoder::new(limits);
        if let Some(pipe) = self.wire.connection.pipe() {
            give(pipe, whither, value, replay, rest).await.map_err(IoError::Lost)?;
            self.counts.end("moved");
            return Ok(Next::Left);
        }
        let head = SessionHead::new(&user, self.wire.trace, self.wire.connection.stream(), "", "");
        let head = head.marked().deflating();
        if self.services.keeper.is_open() && self.drain.is_draining() && replay.is_empty() {
            let (node, epoch) = whither;
            return self.keep(head, Suspended { node, epoch, value, rest: rest.into() });
        }
        let giving = |mut far| async move { give(&mut far, whither, value, replay, rest).await };
        let near = rookery_route::own_pipe(giving);
        let services = self.services.clone();
        let client = self.wire.connection.stream_mut();
        let reopening = reopening(&services, &head);
        let mut witness = Witness::default();
        let relaying =
            rookery_route::relay(client, BytesMut::new(), near, &self.drain, reopening, &mut witness);
        let relayed = relaying.await;
        Box::pin(self.left(relayed, head, witness)).await
    }

    /// The other node that an account is at home at.
    async fn left_for(&self, account: Option<AccountId>) -> Option<(NodeId, Epoch)> {
        let entry = self.services.directory.by_id(account?).await.ok()?;
        let (node, epoch) = self.services.router.home(&entry.name).await.ok()?;
        (node != self.services.store.node()).then_some((node, epoch))
    }

    /// Goes on with a session that was at another node; the tag of its IDLE, if that is under way.
    pub(super) async fn take_over(
        &mut self,
        head: SessionHead,
        is_guest: bool,
    ) -> Result<Option<Tag>, Failure> {
        let user = head.user().map_err(|_| not_reached())?;
        let lost = || IoError::Lost(std::io::ErrorKind::NotConnected.into());
        let pipe = self.wire.connection.pipe().ok_or_else(lost)?;
        let value = rookery_route::take_value(pipe, head.value_octets.unwrap_or_default()).await;
        let value = SessionValue::decode(&value.map_err(IoError::Lost)?).map_err(|error| {
            tracing::error!(%error, "a session is handed over that makes no sense");
            not_reached()
        })?;
        // It was among the account's sessions before it came.
        let entered = match is_guest {
            true => authenticate::visit(&self.services, user.clone()).await.map(Entered::Here)?,
            false => authenticate::enter(&self.services, user.clone(), usize::MAX).await?,
        };
        let user = match entered {
            Entered::Here(user) => user,
            Entered::Away { home, .. } => {
                let known = self.services.router.home(&AccountName::User(user)).await;
                let (home, epoch) = known.unwrap_or((home, Epoch(0)));
                let pipe = self.wire.connection.pipe().ok_or_else(lost)?;
                Opening::Elsewhere(home, epoch).say(pipe).await.map_err(IoError::Lost)?;
                return Err(not_reached().into());
            }
        };
        self.bad_in_a_row = value.bad_in_a_row;
        let idle = value.idle.as_ref().and_then(|tag| Tag::new(tag.as_bytes()));
        let replays = value.replay_octets > 0;
        self.wire.replaces = value.replaces;
        if let Some(DeflateValue::AtEdge) = value.deflate {
            self.wire.connection.start_deflate(BytesMut::new());
        }
        let account = value.selected.as_ref().and_then(|selected| AccountId::new(selected.account));
        self.state = match State::resumed(user, value, &self.wire).await {
            Err(Failure::Moved) => {
                if let Some((node, epoch)) = self.left_for(account).await {
                    let pipe = self.wire.connection.pipe().ok_or_else(lost)?;
                    Opening::Elsewhere(node, epoch).say(pipe).await.map_err(IoError::Lost)?;
                }
                return Err(Failure::Moved);
            }
            Err(Failure::Refused(answer)) => {
                // It can go on nowhere.
                let pipe = self.wire.connection.pipe().ok_or_else(lost)?;
                Opening::Resumed.say(pipe).await.map_err(IoError::Lost)?;
                self.farewell(*answer);
                self.wire.flush().await?;
                if let Some(pipe) = self.wire.connection.pipe() {
                    pipe.shutdown().await.map_err(IoError::Lost)?;
                }
                return Err(Failure::Moved);
            }
            state => state?,
        };
        self.logged_in();
        if replays || is_guest {
            self.wire.decoder.set_limits(roomy(&self.services));
        }
        if idle.is_some() {
            self.wire.decoder.expect_line(LINE_OCTETS_MAX);
        }
        let pipe = self.wire.connection.pipe().ok_or_else(lost)?;
        Opening::Resumed.say(pipe).await.map_err(IoError::Lost)?;
        Ok(idle)
    }
}

/// How an IMAP session is opened at another home.
pub(super) fn reopening<'a>(services: &'a Services, head: &'a SessionHead) -> Reopening<'a> {
    let Services { peers, keeper, .. } = services;
    Reopening { peers: &**peers, service: PipeService::Imap, head, keeper }
}

/// What a decoder may take of commands that were written anew, and may have become longer by that.
fn roomy(services: &Services) -> Limits {
    let limits = limits(services, true);
    let command_octets = limits.command_octets.saturating_mul(2);
    Limits { command_octets, ..limits }
}

/// The home's side of a session that goes on at another.
async fn give(
    pipe: &mut dyn Pipe,
    whither: (NodeId, Epoch),
    value: Bytes,
    replay: Replay,
    rest: Bytes,
) -> std::io::Result<()> {
    let mut over = HandOver::begin(pipe, whither, value).await?;
    replay.pass(&mut over).await?;
    over.pass(rest).await?;
    over.end().await
}

fn not_reached() -> Answer {
    Answer::no(Code::Unavailable, "Your mailboxes cannot be reached at the moment")
}
