//! How a session comes to its guests: the one that is there, a new one, or one that goes on from a value where another
//! was lost or has moved.
//!
//! Invariants:
//! - Where the guest with the selected mailbox is lost, only one takes its place that goes on from what the client knows
//!   of it.
//! - Nobody waits long for another node: it is there at once, or the client is told that the mailbox is not reached.

use super::{Guest, Marks, STATUS_OCTETS_MAX, farewell, not_reached};
use crate::answer::Failure;
use crate::session::{Enabled, User};
use crate::value::{GuestValue, NotifyValue, SessionValue};
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::passage::Passage;
use rookery_net::{Connection, Pipe, Stream};
use rookery_route::{Opening, PipeService, Reopening, SessionHead};
use rookery_types::{AccountId, NodeId};
use std::time::Duration;
use tokio::time::Instant;

/// How long a guest may take to be opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the lost home of the selected mailbox is not asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl User {
    /// The guest at a node; opens it if there is none. [`Guests::keep`] takes it back.
    pub(crate) async fn guest(&mut self, wire: &Wire, node: NodeId) -> Result<Guest, Failure> {
        let known = self.guests.open.remove(&node);
        if self.guests.selected == Some(node) {
            return match known {
                Some(known) => Ok(known),
                None if self.guests.have_moved() => Err(Failure::Moved),
                None => self.guest_again(wire, node).await,
            };
        }
        if let Some(mut guest) = known {
            if guest.is_there().await {
                return Ok(guest);
            }
            if self.has_moved(&guest) && self.guests.have_moved() {
                return Err(Failure::Moved);
            }
            if !self.guests.have_moved() {
                self.guests.lose_watch(&guest);
            }
        }
        self.new_guest(wire, node).await
    }

    /// A guest that goes on with the selected mailbox where one was lost.
    async fn guest_again(&mut self, wire: &Wire, node: NodeId) -> Result<Guest, Failure> {
        let Some(awaited) = &mut self.guests.awaited else { return Err(farewell().into()) };
        if awaited.next > Instant::now() {
            return Err(not_reached().into());
        }
        let value = awaited.value.clone();
        let mailbox_id = value.objectid();
        let mut there = SessionValue::new();
        there.enabled = self.enabled.bits();
        there.selected = Some(value);
        there.notify = self.notify.as_ref().map(|_| NotifyValue::nothing());
        let opened = self.guest_from(wire, node, &there, mailbox_id).await;
        match opened {
            Ok(guest) => {
                self.guests.awaited = None;
                self.guests.watch_again();
                Ok(guest)
            }
            Err(Failure::Moved) => {
                self.guests.awaited = None;
                self.guests.moved.push(GuestValue { node: node.0, watches: false, session: there });
                Err(Failure::Moved)
            }
            Err(failure) => {
                if let Some(awaited) = &mut self.guests.awaited {
                    awaited.next = Instant::now() + ASK_AGAIN;
                }
                Err(failure)
            }
        }
    }

    /// One more guest at a node, of which nobody else knows.
    pub(crate) async fn new_guest(&self, wire: &Wire, node: NodeId) -> Result<Guest, Failure> {
        let head = SessionHead::of_guest(&self.name, wire.trace, wire.connection.stream()).marked();
        let opening = self.services.peers.open(node, PipeService::Guest, head.encode());
        let pipe = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(pipe)) => pipe,
            Ok(Err(error)) => {
                tracing::info!(%error, "the home of a mailbox is not reached");
                return Err(not_reached().into());
            }
            Err(_) => {
                tracing::info!(%node, "the home of a mailbox takes too long");
                return Err(not_reached().into());
            }
        };
        Ok(Guest::at(node, pipe, wire))
    }

    /// A guest that goes on from a value at a node. Moved: not there, and it is known where.
    pub(crate) async fn guest_from(
        &self,
        wire: &Wire,
        node: NodeId,
        value: &SessionValue,
        mailbox_id: Option<Bytes>,
    ) -> Result<Guest, Failure> {
        let head = SessionHead::of_guest(&self.name, wire.trace, wire.connection.stream()).marked();
        let watches = value.notify.as_ref().is_some_and(|notify| notify.asked.is_some());
        let (peers, keeper) = (&*self.services.peers, &self.services.keeper);
        let reopening = Reopening { peers, service: PipeService::Guest, head: &head, keeper };
        let opening = rookery_route::open_from(reopening, node, value.encode());
        let pipe = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok((Opening::Resumed, pipe))) => pipe,
            Ok(Ok((Opening::Elsewhere(node, epoch), _))) => {
                if let Some(selected) = &value.selected
                    && let Some(account) = AccountId::new(selected.account)
                {
                    self.services.router.hear_of(account, node, epoch);
                }
                return Err(Failure::Moved);
            }
            Ok(Err(error)) => {
                tracing::info!(%error, %node, "the home of a mailbox does not go on with it");
                return Err(not_reached().into());
            }
            Err(_) => {
                tracing::info!(%node, "the home of a mailbox takes too long to go on with it");
                return Err(not_reached().into());
            }
        };
        Ok(Guest { enabled: self.enabled, mailbox_id, watches, ..Guest::at(node, pipe, wire) })
    }
}

impl Guest {
    /// A guest that has just begun, of the session with the client at this wire.
    fn at(node: NodeId, pipe: Box<dyn Pipe>, wire: &Wire) -> Guest {
        let stream = wire.connection.stream();
        Guest {
            node,
            connection: Connection::new(Stream::piped(pipe, stream.peer(), stream.is_tls())),
            passage: Passage::new(STATUS_OCTETS_MAX),
            enabled: Enabled::default(),
            used: Instant::now(),
            mailbox_id: None,
            watches: false,
            overflow: false,
            heard: 0,
            marks: Marks::default(),
            leaves: None,
        }
    }
}
