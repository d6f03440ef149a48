//! Homes that are lost and were watched for NOTIFY: they are looked for, and when one is there again the session goes on
//! from its value, with how far the client was told, so that what has happened meanwhile is told.
//!
//! Invariant: it is certain how far the client was told. Where it is not, NOTIFY ends with NOTIFICATIONOVERFLOW.

use super::{Guest, Guests, not_reached};
use crate::answer::Failure;
use crate::session::User;
use crate::value::{GuestValue, NotifyValue, SessionValue, WatchedValue};
use crate::wire::Wire;
use rookery_types::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long a home is not looked for after it was lost; twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(16);

/// The homes.
#[derive(Default)]
pub(super) struct Unwatched {
    /// How far the client was told of accounts there.
    homes: BTreeMap<NodeId, Vec<WatchedValue>>,
    /// When they are looked for next, and how long not after that.
    next: Option<(Instant, Duration)>,
}

impl Unwatched {
    /// When they are to be looked for.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    /// What whoever goes on has to know of them.
    pub(super) fn take(&mut self) -> Vec<GuestValue> {
        let homes = std::mem::take(self).homes.into_iter();
        let value = |(node, watched): (NodeId, _)| {
            let mut session = SessionValue::new();
            session.notify = Some(NotifyValue::of_guest(&[], watched));
            GuestValue { node: node.0, watches: true, session }
        };
        homes.map(value).collect()
    }

    fn wait(&mut self, pause: Duration) {
        self.next = Some((Instant::now() + pause, pause));
    }
}

impl Guests {
    /// A guest is lost, which may have watched.
    pub(super) fn lose_watch(&mut self, guest: &Guest) {
        if !guest.watches {
            return;
        }
        match guest.told().filter(|_| !guest.overflow) {
            Some(watched) => {
                self.unwatched.homes.insert(guest.node, watched);
                self.unwatched.wait(PAUSE_FIRST);
            }
            None => self.overflow = true,
        }
    }

    /// A home that is to be watched is away.
    pub(crate) fn unwatch(&mut self, node: NodeId, watched: Vec<WatchedValue>) {
        self.unwatched.homes.insert(node, watched);
        // It seemed to be there a moment ago.
        self.unwatched.wait(PAUSE_MAX);
    }

    /// One of them may be there again: the session goes on from its value.
    pub(super) fn watch_again(&mut self) {
        let mut values = self.unwatched.take();
        self.moved.append(&mut values);
    }
}

impl User {
    /// Looks for homes that are lost, if it is time for that.
    pub(crate) async fn look_for_unwatched(&mut self, wire: &Wire) {
        let Some((at, pause)) = self.guests.unwatched.next else { return };
        if at > Instant::now() {
            return;
        }
        let nodes: Vec<NodeId> = self.guests.unwatched.homes.keys().copied().collect();
        for node in nodes {
            if self.new_guest(wire, node).await.is_ok() {
                return self.guests.watch_again();
            }
        }
        self.guests.unwatched.wait((pause * 2).min(PAUSE_MAX));
    }

    /// Refuses to begin anew to watch a home that was lost, since what has happened there would not be told.
    pub(crate) async fn refuse_unwatched(&mut self, wire: &Wire, node: NodeId) -> Result<(), Failure> {
        if !self.guests.unwatched.homes.contains_key(&node) {
            return Ok(());
        }
        match self.new_guest(wire, node).await {
            Ok(_) => {
                self.guests.watch_again();
                Err(Failure::Moved)
            }
            Err(Failure::Refused(_)) => Err(not_reached().into()),
            Err(failure) => Err(failure),
        }
    }
}
