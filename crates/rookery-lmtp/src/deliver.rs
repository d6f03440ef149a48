//! One message to many recipients at once.
//!
//! Invariants:
//! - Outcomes stand in the order of the recipients, one each. A recipient whose address leads to several accounts is
//!   delivered to when all of them have the message; else the MTA hears the first failure and tries them all again.
//! - A mailbox that several recipients name gets the message once; all of them get its outcome.
//! - One recipient's failure changes nothing for the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, UserName};
use tokio::task::JoinSet;

use crate::backing::Backing;
use crate::session::BodyError;

/// One recipient.
pub(crate) struct Job {
    pub(crate) accounts: Vec<AccountId>,
    pub(crate) detail: Option<MailboxPath>,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Delivered,
    Failed(BodyError),
}

/// Appends the message for every job, at most `parallel_max` at a time, so that appends share group commits.
pub(crate) async fn deliver<B: Backing>(
    backing: Arc<B>,
    jobs: Vec<Job>,
    author: Option<UserName>,
    message: B::Message,
    date: InternalDate,
    parallel_max: usize,
) -> Vec<Outcome> {
    let began = Instant::now();
    let mut targets: Vec<Vec<Result<MailboxId, BodyError>>> = Vec::with_capacity(jobs.len());
    for job in &jobs {
        let mut of_job = Vec::with_capacity(job.accounts.len());
        for account in &job.accounts {
            let target = backing.target(*account, job.detail.as_ref(), author.as_ref()).await;
            of_job.push(target.map_err(BodyError::from));
        }
        targets.push(of_job);
    }
    let mut done: HashMap<MailboxId, Outcome> = HashMap::new();
    let mut waiting = Vec::new();
    for mailbox in targets.iter().flatten().flatten() {
        // Until its append says otherwise.
        let unknown = Outcome::Failed(BodyError::Failed("the delivery was broken off".to_owned()));
        if done.insert(*mailbox, unknown).is_none() {
            waiting.push(*mailbox);
        }
    }
    let mut running = JoinSet::new();
    let mut waiting = waiting.into_iter();
    loop {
        while running.len() < parallel_max.max(1)
            && let Some(mailbox) = waiting.next()
        {
            let (backing, message) = (Arc::clone(&backing), message.clone());
            running.spawn(async move { (mailbox, backing.append(mailbox, message, date).await) });
        }
        match running.join_next().await {
            Some(Ok((mailbox, Ok(())))) => {
                done.insert(mailbox, Outcome::Delivered);
            }
            Some(Ok((mailbox, Err(error)))) => {
                done.insert(mailbox, Outcome::Failed(error.into()));
            }
            Some(Err(error)) => tracing::error!(%error, "a delivery's task failed"),
            None => break,
        }
    }
    metrics::histogram!("rookery_lmtp_delivery_seconds").record(began.elapsed());
    let outcome_of = |target: Result<MailboxId, BodyError>| match target {
        Ok(mailbox) => done.get(&mailbox).cloned().unwrap_or(Outcome::Delivered),
        Err(error) => Outcome::Failed(error),
    };
    let outcome_of_job = |of_job: Vec<_>| {
        let mut outcomes = of_job.into_iter().map(outcome_of);
        outcomes.find(|outcome| *outcome != Outcome::Delivered).unwrap_or(Outcome::Delivered)
    };
    targets.into_iter().map(outcome_of_job).collect()
}
