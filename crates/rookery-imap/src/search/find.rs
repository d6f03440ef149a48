//! The messages of a view that match: first by what memory knows, then, on blocking threads, by their content.

use super::{Compiled, Scene, matches};
use crate::answer::{Failure, blocking};
use crate::progress::Progress;
use crate::session::Selected;
use crate::wire::Wire;
use rookery_store::{Message, StoreError};
use rookery_types::SeqNum;
use std::sync::Arc;

/// About how many octets are read between two looks at the runtime.
const BATCH_OCTETS: u64 = 4 << 20;
/// Messages asked on one thread at once.
const BATCH_MESSAGES: usize = 256;
/// Messages asked of memory between two looks at the runtime.
const MEMORY_MESSAGES: usize = 20_000;

/// What is kept of each message that matches.
pub(crate) trait Hit: Send {
    fn new(seq: SeqNum, message: &Message) -> Self;
    /// Its place in the mailbox: the UID.
    fn place(&self) -> u32;
}

/// The messages that match, ascending, and how many could not be read.
pub(crate) async fn find<H: Hit>(
    wire: &mut Wire,
    progress: &mut Progress,
    selected: &Selected,
    key: Arc<Compiled>,
) -> Result<(Vec<H>, usize), Failure> {
    let (_, newest) = selected.now();
    let everywhere = selected.view.everywhere();
    let mut hits: Vec<H> = Vec::new();
    let mut undecided: Vec<(SeqNum, Message)> = Vec::new();
    let scene = Scene { recent: selected.view.recent() };
    for (asked, (seq, message)) in selected.view.at(std::slice::from_ref(&everywhere), &newest).enumerate() {
        match key.known(message, &scene) {
            Some(true) => hits.push(H::new(seq, message)),
            Some(false) => {}
            None => undecided.push((seq, message.clone())),
        }
        if asked % MEMORY_MESSAGES == MEMORY_MESSAGES - 1 {
            tokio::task::yield_now().await;
        }
    }
    if undecided.is_empty() {
        return Ok((hits, 0));
    }
    let whole = undecided.len();
    let mut done = 0;
    let mut unread = 0;
    let mut rest = undecided.into_iter();
    let mut batch = || {
        let mut octets = 0;
        let mut batch = Vec::new();
        while octets < BATCH_OCTETS && batch.len() < BATCH_MESSAGES {
            let Some((seq, message)) = rest.next() else { break };
            octets += u64::from(message.size);
            batch.push((seq, message));
        }
        batch
    };
    let ask = |batch: Vec<(SeqNum, Message)>| {
        let account = selected.mailbox.account().clone();
        let recent = selected.view.recent().clone();
        let key = key.clone();
        blocking(move || {
            let messages: Vec<&Message> = batch.iter().map(|(_, message)| message).collect();
            let answers = matches(&key, &account, &messages, &recent);
            batch.into_iter().zip(answers).collect::<Vec<_>>()
        })
    };
    loop {
        // Two threads at a time.
        let (one, other) = (batch(), batch());
        if one.is_empty() {
            break;
        }
        done += one.len() + other.len();
        let found = match other.is_empty() {
            true => (ask(one).await?, Vec::new()),
            false => tokio::try_join!(ask(one), ask(other))?,
        };
        for ((seq, message), matches) in found.0.into_iter().chain(found.1) {
            match matches {
                Ok(true) => hits.push(H::new(seq, &message)),
                Ok(false) => {}
                Err(error) => {
                    note(&error);
                    unread += 1;
                }
            }
        }
        progress.note(wire, done, whole).await?;
    }
    hits.sort_unstable_by_key(Hit::place);
    Ok((hits, unread))
}

fn note(error: &StoreError) {
    tracing::error!(error = error as &dyn std::error::Error, "a message cannot be searched");
}
