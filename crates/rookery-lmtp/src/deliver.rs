//! One message to many recipients at once.
//!
//! Invariants:
//! - Outcomes stand in the order of the recipients, one each. A recipient whose address leads to several accounts is
//!   delivered to when all of them have the message; else the MTA hears the first failure and tries them all again.
//! - A mailbox that several recipients name gets the message once; all of them get its outcome.
//! - One recipient's failure changes nothing for the others.
//! - The mailboxes of one account are served one after another, so that the account stores the octets once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, OperationId, UserName};
use tokio::task::JoinSet;

use crate::backing::{Backing, DeliverError, Delivered, Once, Place};
use crate::body::BodyError;
use crate::follow::Onward;

/// One recipient.
pub(crate) struct Job {
    pub(crate) places: Vec<Place>,
    pub(crate) detail: Option<MailboxPath>,
    /// The id by which another node asks for it.
    pub(crate) operation: Option<OperationId>,
}

impl Job {
    /// Where it goes in this node's store.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = AccountId> {
        self.places.iter().filter_map(|place| match place {
            Place::Here(account) => Some(*account),
            Place::At(..) => None,
        })
    }
}

/// A message and what is said of it.
pub(crate) struct Letter<M> {
    pub(crate) message: M,
    pub(crate) date: InternalDate,
    /// Whether a second one of it is not stored, and for how long.
    pub(crate) once: Option<Once>,
    /// Who posts, as far as rights are concerned.
    pub(crate) author: Option<UserName>,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Delivered,
    /// It was delivered a short while ago; nothing was stored now.
    Duplicate,
    Failed(BodyError),
}

impl Outcome {
    /// What became of a delivery that was asked about: if it was not made, it never will be.
    pub(crate) fn settled(is_done: bool) -> Outcome {
        match is_done {
            true => Outcome::Delivered,
            false => Outcome::Failed(BodyError::Away("it was lost before it had the message".to_owned())),
        }
    }

    /// What became of a recipient whose mail goes to two places: a failure before a delivery, a delivery before a
    /// duplicate.
    pub(crate) fn and(self, other: Outcome) -> Outcome {
        match (self, other) {
            (failed @ Outcome::Failed(_), _) | (_, failed @ Outcome::Failed(_)) => failed,
            (Outcome::Duplicate, Outcome::Duplicate) => Outcome::Duplicate,
            _ => Outcome::Delivered,
        }
    }
}

impl From<Result<Delivered, DeliverError>> for Outcome {
    fn from(result: Result<Delivered, DeliverError>) -> Outcome {
        match result {
            Ok(Delivered::Stored) => Outcome::Delivered,
            Ok(Delivered::Before) => Outcome::Duplicate,
            Err(error) => Outcome::Failed(error.into()),
        }
    }
}

/// Appends the message for every job, as far as its accounts are here, to at most `parallel_max` accounts at a time, so that appends share group
/// commits.
pub(crate) async fn deliver<B: Backing>(
    backing: Arc<B>,
    jobs: &[Job],
    letter: Letter<B::Message>,
    parallel_max: usize,
    onward: Onward,
) -> Vec<Outcome> {
    let began = Instant::now();
    let letter = Arc::new(letter);
    let author = letter.author.as_ref();
    let mut targets: Vec<Vec<Result<MailboxId, Outcome>>> = Vec::with_capacity(jobs.len());
    // What became of those that were to be served elsewhere already.
    let mut followed: HashMap<(AccountId, Option<&MailboxPath>), Outcome> = HashMap::new();
    for job in jobs {
        let mut of_job = Vec::with_capacity(job.places.len());
        for account in job.accounts() {
            let detail = job.detail.as_ref();
            let target = match backing.target(account, detail, author).await {
                Ok(target) => Ok(target),
                Err(DeliverError::Moved) => Err(match followed.get(&(account, detail)) {
                    Some(outcome) => outcome.clone(),
                    None => {
                        let ids: Vec<OperationId> = job.operation.into_iter().collect();
                        let outcome = onward.follow(&*backing, &letter, account, detail, &ids).await;
                        followed.insert((account, detail), outcome.clone());
                        outcome
                    }
                }),
                Err(error) => Err(Outcome::Failed(error.into())),
            };
            of_job.push(target);
        }
        targets.push(of_job);
    }
    let mut done: HashMap<MailboxId, Outcome> = HashMap::new();
    let mut waiting: Vec<Vec<MailboxId>> = Vec::new();
    let mut place_of: HashMap<AccountId, usize> = HashMap::new();
    let mut operations: HashMap<MailboxId, Vec<OperationId>> = HashMap::new();
    let mut details: HashMap<MailboxId, Option<MailboxPath>> = HashMap::new();
    let of_jobs = jobs.iter().zip(&targets);
    for (job, mailbox) in of_jobs.flat_map(|(job, of_job)| of_job.iter().flatten().map(move |id| (job, id))) {
        operations.entry(*mailbox).or_default().extend(job.operation);
        details.entry(*mailbox).or_insert_with(|| job.detail.clone());
        if done.contains_key(mailbox) {
            continue;
        }
        // Until its append says otherwise.
        let unknown = Outcome::Failed(BodyError::Failed("the delivery was broken off".to_owned()));
        done.insert(*mailbox, unknown);
        let place = *place_of.entry(mailbox.account).or_insert_with(|| {
            waiting.push(Vec::new());
            waiting.len() - 1
        });
        if let Some(mailboxes) = waiting.get_mut(place) {
            mailboxes.push(*mailbox);
        }
    }
    let mut running = JoinSet::new();
    let mut waiting = waiting.into_iter();
    loop {
        while running.len() < parallel_max.max(1)
            && let Some(mailboxes) = waiting.next()
        {
            let (backing, letter, onward) = (Arc::clone(&backing), Arc::clone(&letter), onward.clone());
            let ids = |mailbox| {
                let detail = details.remove(&mailbox).flatten();
                (mailbox, operations.remove(&mailbox).unwrap_or_default(), detail)
            };
            let mailboxes: Vec<_> = mailboxes.into_iter().map(ids).collect();
            running.spawn(async move {
                let mut outcomes = Vec::with_capacity(mailboxes.len());
                for (mailbox, ids, detail) in mailboxes {
                    let (message, once) = (letter.message.clone(), letter.once.as_ref());
                    let outcome = match backing.append(mailbox, message, letter.date, once, &ids).await {
                        Err(DeliverError::Moved) => {
                            let account = mailbox.account;
                            onward.follow(&*backing, &letter, account, detail.as_ref(), &ids).await
                        }
                        appended => appended.into(),
                    };
                    outcomes.push((mailbox, outcome));
                }
                outcomes
            });
        }
        match running.join_next().await {
            Some(Ok(outcomes)) => {
                done.extend(outcomes);
            }
            Some(Err(error)) => tracing::error!(%error, "a delivery's task failed"),
            None => break,
        }
    }
    metrics::histogram!("rookery_lmtp_delivery_seconds").record(began.elapsed());
    let outcome_of = |target: Result<MailboxId, Outcome>| match target {
        Ok(mailbox) => done.get(&mailbox).cloned().unwrap_or(Outcome::Delivered),
        Err(outcome) => outcome,
    };
    let outcome_of_job =
        |of_job: Vec<_>| of_job.into_iter().map(outcome_of).fold(Outcome::Duplicate, Outcome::and);
    targets.into_iter().map(outcome_of_job).collect()
}
