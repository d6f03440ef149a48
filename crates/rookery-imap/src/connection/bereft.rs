//! Sessions that have lost their home: they go on at the edge, without the user's own account, until it is back.
//!
//! What is asked of mailboxes at home there is refused; everything else goes on, through guests of other homes. The
//! selected mailbox stays selected. When the home is there again, the session goes on there from its value, and the client
//! is told what has changed meanwhile.

use super::{Driver, Next, limits};
use crate::answer::Failure;
use crate::command::authenticate;
use crate::guest::perhaps_done;
use crate::session::State;
use crate::witness::{Bereft, Witness};
use bytes::BytesMut;
use rookery_codec::imap::server::Decoder;
use rookery_codec::imap::{Code, Response, Tag};
use rookery_route::{Opening, SessionHead};
use rookery_types::{AccountName, Epoch, NodeId, UserName};
use std::time::Duration;

/// How long a home may take to take a session back.
const TAKE_BACK_TIMEOUT: Duration = Duration::from_millis(900);

impl Driver {
    /// Goes on without the home. None: it cannot.
    pub(super) async fn bereave(&mut self, head: SessionHead, lost: Bereft) -> Result<Option<Next>, Failure> {
        let Bereft { value, tags, broken_off, mut rest } = lost;
        let Ok(name) = head.user() else { return Ok(None) };
        let idle = value.idle.as_ref().and_then(|tag| Tag::new(tag.as_bytes()));
        let (overflow, bad_in_a_row) = (value.overflow, value.bad_in_a_row);
        match authenticate::bereft(&self.services, name, self.wire.trace).await {
            Ok(user) => self.state = State::bereft(user, value).await,
            Err(_) => return Ok(None),
        }
        tracing::info!("a session goes on without its home");
        self.bad_in_a_row = bad_in_a_row;
        self.wire.decoder = Decoder::new(limits(&self.services, true));
        self.wire.silence_max = self.services.config.idle_timeout();
        for tag in tags {
            self.wire.put(&perhaps_done().into_response(tag));
        }
        if let Some(mut broken_off) = broken_off {
            let tag = loop {
                if let Some(tag) = broken_off.skip(&mut rest) {
                    break tag;
                }
                self.wire.flush().await?;
                let silence_max = self.wire.silence_max;
                if self.wire.connection.read_some(&mut rest, silence_max).await? == 0 {
                    return Ok(Some(Next::Close));
                }
            };
            let Some(tag) = tag else { return Ok(None) };
            self.wire.put(&perhaps_done().into_response(tag));
        }
        self.wire.decoder.push(&rest);
        if overflow {
            let text = "More has happened than can be told; nothing more will be";
            self.wire.put(&Response::ok_code(Code::NotificationOverflow, text));
        }
        Ok(Some(idle.map_or(Next::Go, |tag| Next::Idle(Box::new(tag)))))
    }

    /// Goes on at the home that is there again; or here, if it does not take the session yet. `idle`: the tag of an IDLE
    /// under way.
    pub(super) async fn go_home(
        &mut self,
        (node, _): (NodeId, Epoch),
        idle: Option<Tag>,
    ) -> Result<Next, Failure> {
        let mut value = match self.state.value(&mut self.wire, None).await {
            Ok(value) => value,
            Err(Failure::Refused(answer)) => return Ok(self.farewell(*answer)),
            Err(failure) => return Err(failure),
        };
        value.idle = idle.as_ref().map(|tag| tag.as_str().to_owned());
        value.bad_in_a_row = self.bad_in_a_row;
        self.wire.flush().await?;
        let Some(name) = self.state.user().map(|user| user.name.clone()) else { return Ok(Next::Close) };
        let head = SessionHead::new(&name, self.wire.trace, self.wire.connection.stream(), "", "");
        let head = head.marked().deflating();
        let services = self.services.clone();
        let reopening = super::halves::reopening(&services, &head);
        let encoded = value.encode();
        let opening = rookery_route::open_from(reopening, node, encoded.clone());
        match tokio::time::timeout(TAKE_BACK_TIMEOUT, opening).await {
            Ok(Ok((Opening::Resumed, pipe))) => {
                let rest: BytesMut = self.wire.decoder.take_input();
                self.state = State::NotAuthenticated;
                self.wire.decoder = Decoder::new(limits(&self.services, true));
                let mut witness = Witness::of(encoded);
                let client = self.wire.connection.stream_mut();
                let relayed =
                    rookery_route::relay(client, rest, pipe, &self.drain, reopening, &mut witness).await;
                return Box::pin(self.left(relayed, head, witness)).await;
            }
            Ok(Ok((Opening::Elsewhere(node, epoch), _))) => self.hear_of(&name, node, epoch).await,
            Ok(Err(error)) => tracing::debug!(%error, "a home does not take its session back yet"),
            Err(_) => tracing::debug!("a home takes too long to take its session back"),
        }
        let user = authenticate::bereft(&self.services, name, self.wire.trace).await?;
        self.state = State::bereft(user, value).await;
        Ok(idle.map_or(Next::Go, |tag| Next::Idle(Box::new(tag))))
    }

    async fn hear_of(&self, name: &UserName, node: NodeId, epoch: Epoch) {
        let name = AccountName::User(name.clone());
        if let Ok((account, _)) = self.services.router.locate(&name).await {
            self.services.router.hear_of(account, node, epoch);
        }
    }
}
