//! A message on its way to recipients at home at another node: the half of the node that has the MTA's connection.
//!
//! Invariants:
//! - The octets go on as they come; no node but the homes stores them.
//! - A forward that is dropped before its end brings nothing.
//! - Whatever is lost on the way is a failure for now: the MTA keeps the message.
//! - If the home is lost once it has the whole message, whoever is the home then is asked what became of it, so that the
//!   MTA does not send once more what has arrived: what an account was given goes along when it moves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rookery_net::Pipe;
use rookery_route::{Peers, PipeService, framed};
use rookery_types::{MailboxPath, NodeId, OperationId, UserName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::backing::{Backing, Place};
use crate::body::BodyError;
use crate::deliver::Outcome;
use crate::parcel::{self, Parcel, Question};

/// How long a home may take no octet before it counts as away.
const STALLED: Duration = Duration::from_secs(30);

/// How long a home that was lost before it answered is asked what became of the message.
const ASKING: Duration = Duration::from_secs(10);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// A message on its way to one home.
pub(crate) struct Forward {
    peers: Arc<dyn Peers>,
    head: Bytes,
    node: NodeId,
    parcel: Parcel,
    addressees: Vec<Addressee>,
    way: Result<Box<dyn Pipe>, BodyError>,
}

/// A user, and the mailbox that the address asks for.
pub(crate) type Addressee = (UserName, Option<MailboxPath>);

impl Forward {
    /// Begins it. `head`: of the pipe.
    pub(crate) async fn begin(
        peers: Arc<dyn Peers>,
        head: Bytes,
        node: NodeId,
        addressees: Vec<Addressee>,
        parcel: &Parcel,
    ) -> Forward {
        let each = addressees.into_iter().map(|addressee| (addressee, rookery_route::new_operation()));
        Forward::begin_as(peers, head, node, each.collect(), parcel).await
    }

    /// The same, where the deliveries have ids already.
    pub(crate) async fn begin_as(
        peers: Arc<dyn Peers>,
        head: Bytes,
        node: NodeId,
        addressees: Vec<(Addressee, OperationId)>,
        parcel: &Parcel,
    ) -> Forward {
        let each = addressees.iter();
        let parcel = parcel.to(each.map(|((user, detail), id)| (user, detail.as_ref(), *id)));
        let addressees: Vec<Addressee> = addressees.into_iter().map(|(addressee, _)| addressee).collect();
        let opened = peers.open(node, PipeService::Lmtp, head.clone()).await;
        let way = opened.map_err(|error| BodyError::Away(error.to_string()));
        let octets = parcel.encode();
        let mut forward = Forward { peers, head, node, parcel, addressees, way };
        forward.push(&octets).await;
        forward
    }

    /// Passes octets on. What has failed goes on failing.
    pub(crate) async fn push(&mut self, octets: &[u8]) {
        let Ok(pipe) = &mut self.way else { return };
        let failed = match tokio::time::timeout(STALLED, pipe.write_all(octets)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it takes no more octets".to_owned(),
        };
        self.way = Err(self.away(failed));
    }

    /// The message is whole: what became of it for each addressee.
    pub(crate) async fn finish<B: Backing>(mut self, backing: &B) -> Vec<(NodeId, Addressee, Outcome)> {
        let outcomes = match std::mem::replace(&mut self.way, Err(BodyError::Gone)) {
            Ok(pipe) => match answer(pipe, self.addressees.len()).await {
                Ok(outcomes) => outcomes,
                Err(why) => self.ask(backing, why).await,
            },
            Err(error) => vec![Outcome::Failed(error); self.addressees.len()],
        };
        let node = self.node;
        self.addressees
            .into_iter()
            .zip(outcomes)
            .map(|(addressee, outcome)| (node, addressee, outcome))
            .collect()
    }

    /// What became of the message, as the home of each addressee says it, when that is there again. `why`: the answer
    /// was lost.
    async fn ask<B: Backing>(&self, backing: &B, why: String) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; self.addressees.len()];
        let asking = async {
            loop {
                let asked = Instant::now();
                for (question, outcome) in self.parcel.questions().zip(&mut outcomes) {
                    if outcome.is_none() {
                        match self.asked(backing, &question).await {
                            Ok(told) => *outcome = Some(told),
                            Err(why) => tracing::debug!(why, "what became of a message is not known"),
                        }
                    }
                }
                if outcomes.iter().all(Option::is_some) {
                    return;
                }
                tokio::time::sleep_until(asked + PAUSE).await;
            }
        };
        // What is not known by then stays so.
        let _ = tokio::time::timeout(ASKING, asking).await;
        let lost = || Outcome::Failed(self.away(why.clone()));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(lost)).collect()
    }

    /// Asks the home of the one that the question is about, which may be another than it was.
    async fn asked<B: Backing>(&self, backing: &B, question: &Question) -> Result<Outcome, String> {
        let (user, operation) = question.deliveries().next().flatten().ok_or("a question about nothing")?;
        let node = match backing.at_home(&user).await.map_err(|error| error.to_string())? {
            Place::Here(account) => {
                let settled = backing.settle(account, operation).await;
                return settled.map(Outcome::settled).map_err(|error| error.to_string());
            }
            Place::At(node, _) => node,
        };
        let opened = self.peers.open(node, PipeService::Lmtp, self.head.clone()).await;
        let mut pipe = opened.map_err(|error| error.to_string())?;
        pipe.write_all(&question.encode()).await.map_err(|error| error.to_string())?;
        let outcome = answer(pipe, 1).await?.pop();
        outcome.ok_or_else(|| "no answer".to_owned())
    }

    fn away(&self, why: String) -> BodyError {
        BodyError::Away(format!("node {}: {why}", self.node))
    }
}

/// What the home says once it has the whole message.
async fn answer(mut pipe: Box<dyn Pipe>, addressees: usize) -> Result<Vec<Outcome>, String> {
    let lost = |error: std::io::Error| format!("lost before it answered: {error}");
    pipe.put_note(framed::END);
    pipe.flush().await.map_err(lost)?;
    let mut json = Vec::new();
    let limit = u64::try_from(framed::JSON_OCTETS_MAX).unwrap_or(u64::MAX);
    (&mut pipe).take(limit).read_to_end(&mut json).await.map_err(lost)?;
    if json.is_empty() {
        return Err("no answer".to_owned());
    }
    parcel::decode_answer(&json, addressees)
}
