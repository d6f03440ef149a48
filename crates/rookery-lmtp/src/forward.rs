//! A message on its way to recipients at home at another node: the half of the node that has the MTA's connection.
//!
//! Invariants:
//! - The octets go on as they come; no node but the homes stores them.
//! - A forward that is dropped before its end brings nothing.
//! - Whatever is lost on the way is a failure for now: the MTA keeps the message.
//! - If the home is lost once it has the whole message, it is asked what became of it, so that the MTA does not send once
//!   more what has arrived.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rookery_net::Pipe;
use rookery_route::{Peers, PipeService, framed};
use rookery_types::{MailboxPath, NodeId, OperationId, UserName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::body::BodyError;
use crate::deliver::Outcome;
use crate::parcel::{self, Parcel};

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
    pub(crate) async fn finish(mut self) -> Vec<(NodeId, Addressee, Outcome)> {
        let outcomes = match std::mem::replace(&mut self.way, Err(BodyError::Gone)) {
            Ok(pipe) => match answer(pipe, self.addressees.len()).await {
                Ok(outcomes) => outcomes,
                Err(why) => match tokio::time::timeout(ASKING, self.ask()).await {
                    Ok(outcomes) => outcomes,
                    Err(_) => vec![Outcome::Failed(self.away(why)); self.addressees.len()],
                },
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

    /// What became of the message, as the home says it when it is there again.
    async fn ask(&self) -> Vec<Outcome> {
        let question = self.parcel.question().encode();
        loop {
            let asked = Instant::now();
            match self.asked(&question).await {
                Ok(outcomes) => return outcomes,
                Err(why) => tracing::debug!(node = %self.node, why, "what became of a message is not known"),
            }
            tokio::time::sleep_until(asked + PAUSE).await;
        }
    }

    async fn asked(&self, question: &[u8]) -> Result<Vec<Outcome>, String> {
        let opened = self.peers.open(self.node, PipeService::Lmtp, self.head.clone()).await;
        let mut pipe = opened.map_err(|error| error.to_string())?;
        pipe.write_all(question).await.map_err(|error| error.to_string())?;
        answer(pipe, self.addressees.len()).await
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
