//! Messages for accounts that have left for another node while the message came: the node that has the message takes
//! it there.
//!
//! Invariants:
//! - Nothing was stored here of what is taken elsewhere: the account has left, or was never here.
//! - A message is passed on so from node to node a few times at most.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rookery_route::Peers;
use rookery_types::{AccountId, MailboxPath, NodeId, OperationId};
use tokio::time::Instant;

use crate::backing::{Backing, DeliverError, Place};
use crate::body::BodyError;
use crate::deliver::{Letter, Outcome};
use crate::forward::{Addressee, Forward};
use crate::parcel::Parcel;

/// How long the new home of an account is looked for.
const LOOKING: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Octets that are read at once.
const PIECE_OCTETS: usize = 64 << 10;
/// So often a message is passed on by nodes that are not its account's home any more.
const HOPS_MAX: u8 = 4;

/// What is needed to take a message to another node.
#[derive(Clone)]
pub(crate) struct Onward {
    pub(crate) peers: Arc<dyn Peers>,
    /// Of the pipes.
    pub(crate) head: Bytes,
    /// What is said of the message.
    pub(crate) parcel: Parcel,
}

impl Onward {
    /// Delivers a message to an account that was not here any more, or is about to be served elsewhere.
    pub(crate) async fn follow<B: Backing>(
        &self,
        backing: &B,
        letter: &Letter<B::Message>,
        account: AccountId,
        detail: Option<&MailboxPath>,
        operations: &[OperationId],
    ) -> Outcome {
        let end = Instant::now() + LOOKING;
        loop {
            let outcome = match backing.whither(account).await {
                Ok(Some(Place::At(node, user))) => {
                    self.carry(backing, &letter.message, node, (user, detail.cloned()), operations).await
                }
                // It has come back.
                Ok(Some(Place::Here(account))) => {
                    store(backing, letter, account, detail, operations).await.into()
                }
                Ok(None) => Outcome::Failed(BodyError::Moved),
                Err(error) => Outcome::Failed(error.into()),
            };
            let again =
                matches!(outcome, Outcome::Failed(BodyError::Moved | BodyError::Away(_) | BodyError::Gone));
            if !again || Instant::now() >= end {
                return outcome;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes a message to a node.
    pub(crate) async fn carry<B: Backing>(
        &self,
        backing: &B,
        message: &B::Message,
        node: NodeId,
        addressee: Addressee,
        operations: &[OperationId],
    ) -> Outcome {
        let Some(parcel) = self.parcel.passed_on(HOPS_MAX) else {
            return Outcome::Failed(BodyError::Away("it is passed on from node to node".to_owned()));
        };
        tracing::info!(id = parcel.id, %node, "a message follows its account");
        let operation = operations.first().copied().unwrap_or_else(rookery_route::new_operation);
        let (peers, head) = (Arc::clone(&self.peers), self.head.clone());
        let mut forward = Forward::begin_as(peers, head, node, vec![(addressee, operation)], &parcel).await;
        let mut from = 0;
        loop {
            match backing.read(message, from, PIECE_OCTETS).await {
                Ok(octets) if octets.is_empty() => break,
                Ok(octets) => {
                    from += octets.len() as u64;
                    forward.push(&octets).await;
                }
                Err(error) => return Outcome::Failed(error.into()),
            }
        }
        let outcome = forward.finish(backing).await.pop().map(|(_, _, outcome)| outcome);
        outcome.unwrap_or(Outcome::Failed(BodyError::Moved))
    }
}

/// Into an account that is here.
async fn store<B: Backing>(
    backing: &B,
    letter: &Letter<B::Message>,
    account: AccountId,
    detail: Option<&MailboxPath>,
    operations: &[OperationId],
) -> Result<crate::backing::Delivered, DeliverError> {
    let target = backing.target(account, detail, letter.author.as_ref()).await?;
    backing.append(target, letter.message.clone(), letter.date, letter.once.as_ref(), operations).await
}
