//! The moves that are under way, for the operator: which node each waits for, since when and why; and their being given
//! up.
//!
//! Invariant: giving up is a wish. The other home says whether the messages are there already; until it does, they stay
//! as they are.

use super::{Inner, Known, Transit};
use rookery_store::{Destination, StoreError, TransitId, Verdict};
use rookery_types::{MailboxId, NodeId};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// Moves that have no verdict.
#[derive(Default)]
pub(super) struct UnderWay {
    moves: BTreeMap<TransitId, Move>,
    /// Who waits to hear of the end of one.
    listeners: Vec<(TransitId, oneshot::Sender<Verdict>)>,
}

struct Move {
    begun_unix_seconds: u32,
    /// What kept it from going on when that was tried last.
    why: Option<String>,
}

/// A move that is under way.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Which.
    pub id: TransitId,
    /// The mailbox that the messages leave.
    pub mailbox: MailboxId,
    /// Where they go.
    pub to: Destination,
    /// The node that has to say what became of it: the home of the account that they go to. `None`: there is none any
    /// more.
    pub node: Option<NodeId>,
    /// How many messages.
    pub messages: usize,
    /// The second when it began; 0 if that is not known.
    pub begun_unix_seconds: u32,
    /// An operator has given it up.
    pub given_up: bool,
    /// What kept it from going on when that was tried last.
    pub why: Option<String>,
}

/// What came of giving a move up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GivenUp {
    /// No such move is under way.
    None,
    /// The messages stay where they were.
    Stayed,
    /// They had gone already.
    Gone,
    /// The other home has not answered. Until it does, they are as they were.
    Asked,
}

impl Transit {
    /// The moves out of accounts of this node that are under way. Reads the disk.
    pub async fn pending(&self) -> Result<Vec<Pending>, StoreError> {
        let mut found = Vec::new();
        for id in self.0.store.departures()? {
            let Some(account) = self.0.store.account_for_arrivals(id.account)? else { continue };
            let Some(rookery_store::Transit::Open(departure)) = account.transit(id.counter)? else {
                continue;
            };
            let node = match self.0.known(departure.to.account).await {
                Ok(Known::At(entry)) => Some(entry.home.node),
                Ok(Known::Gone) => None,
                Err(_) => Some(departure.to.home),
            };
            let why = self.0.under_way.lock().moves.get(&id).and_then(|one| one.why.clone());
            found.push(Pending {
                id,
                mailbox: departure.mailbox,
                node,
                messages: departure.messages.len(),
                begun_unix_seconds: departure.begun_unix_seconds,
                given_up: departure.given_up,
                to: departure.to,
                why,
            });
        }
        Ok(found)
    }

    /// How many moves are under way, and the second when the oldest began.
    pub fn under_way(&self) -> (usize, Option<u32>) {
        self.0.under_way.lock().count()
    }

    /// Has a move ended without its messages going, unless they have gone already. That is written down; then the other
    /// home is asked, again and again. Waits as long for it as a command does.
    pub async fn give_up(&self, id: TransitId) -> Result<GivenUp, StoreError> {
        let (tell, told) = oneshot::channel();
        self.0.under_way.lock().listeners.push((id, tell));
        let account = match self.0.store.account(id.account).await {
            Ok(account) => account,
            Err(StoreError::NoAccount) => return Ok(GivenUp::None),
            Err(error) => return Err(error),
        };
        if !account.give_up(id.counter).await? {
            return Ok(GivenUp::None);
        }
        tracing::info!(transit = %id, "a move to another node is given up by the operator");
        Ok(match tokio::time::timeout(self.0.times.answer_max, told).await {
            Ok(Ok(Verdict::Moved { .. })) => GivenUp::Gone,
            Ok(Ok(Verdict::Refused(_))) => GivenUp::Stayed,
            Ok(Err(_)) | Err(_) => GivenUp::Asked,
        })
    }
}

impl UnderWay {
    fn count(&self) -> (usize, Option<u32>) {
        (self.moves.len(), self.moves.values().map(|one| one.begun_unix_seconds).min())
    }

    fn measure(&self) {
        let (count, oldest) = self.count();
        // Never so many that a float cannot count them.
        metrics::gauge!("rookery_transit_moves_pending").set(count as f64);
        metrics::gauge!("rookery_transit_oldest_begun_seconds").set(f64::from(oldest.unwrap_or(0)));
    }
}

impl Inner {
    pub(super) fn begun(&self, id: TransitId, begun_unix_seconds: u32) {
        let mut under_way = self.under_way.lock();
        under_way.moves.entry(id).or_insert(Move { begun_unix_seconds, why: None });
        under_way.measure();
    }

    pub(super) fn waits(&self, id: TransitId, why: &str) {
        if let Some(one) = self.under_way.lock().moves.get_mut(&id) {
            one.why = Some(why.to_owned());
        }
    }

    /// It has a verdict, or there is none of it any more.
    pub(super) fn ended(&self, id: TransitId, verdict: Option<&Verdict>) {
        let mut under_way = self.under_way.lock();
        under_way.moves.remove(&id);
        under_way.measure();
        let listeners = std::mem::take(&mut under_way.listeners);
        for (of, listener) in listeners {
            match verdict {
                Some(verdict) if of == id => drop(listener.send(verdict.clone())),
                _ if of == id || listener.is_closed() => {}
                _ => under_way.listeners.push((of, listener)),
            }
        }
    }
}
