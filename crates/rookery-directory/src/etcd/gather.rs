//! Batches that are to be committed at the same time, put into one transaction of etcd's: what a transaction costs its
//! members hardly depends on how many keys it has.
//!
//! Invariants:
//! - A batch goes with others only if none of them writes what another reads or writes, and none expects a key to be
//!   what another does not. So all of them apply together exactly if each would alone, in any order.
//! - A transaction that was refused says nothing of its batches: each is then committed by itself.
//! - An answer that is lost is lost to all of them.

use crate::source::{ConditionalBatch, Position, SourceError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use tokio::sync::oneshot;

/// Keys that a transaction may compare, and may write: etcd's `--max-txn-ops` as it is unless set.
pub(super) const KEYS_MAX: usize = 128;
/// Octets of a transaction: below etcd's `--max-request-bytes`, 1.5 MiB unless set.
pub(super) const OCTETS_MAX: usize = 1 << 20;
/// Transactions that are on their way at the same time. What comes meanwhile is gathered.
const UNDER_WAY_MAX: usize = 2;

type Values = BTreeMap<Bytes, Option<Bytes>>;

/// What one transaction compares and writes.
#[derive(Clone, Default, Debug)]
pub(super) struct Transaction {
    /// What each key must be; `None`: it must not exist.
    pub(super) compared: Values,
    /// What each key is then; `None`: it is deleted.
    pub(super) written: Values,
    octets: usize,
}

impl Transaction {
    /// That of one batch.
    pub(super) fn of(batch: &ConditionalBatch) -> Transaction {
        let mut transaction = Transaction::default();
        transaction.take(batch);
        transaction
    }

    /// Takes a batch in if it can go with those that are in it.
    fn add(&mut self, batch: &ConditionalBatch) -> bool {
        let (mut compared, mut written) = (self.compared.len(), self.written.len());
        for condition in &batch.conditions {
            if self.written.contains_key(&condition.key) {
                return false;
            }
            match self.compared.get(&condition.key) {
                Some(value) if *value != condition.value => return false,
                Some(_) => {}
                None => compared += 1,
            }
        }
        for write in &batch.writes {
            if self.written.contains_key(&write.key) || self.compared.contains_key(&write.key) {
                return false;
            }
            written += 1;
        }
        if compared > KEYS_MAX || written > KEYS_MAX || self.octets + batch.octets() > OCTETS_MAX {
            return false;
        }
        self.take(batch);
        true
    }

    fn take(&mut self, batch: &ConditionalBatch) {
        self.octets += batch.octets();
        let conditions =
            batch.conditions.iter().map(|condition| (condition.key.clone(), condition.value.clone()));
        self.compared.extend(conditions);
        self.written.extend(batch.writes.iter().map(|write| (write.key.clone(), write.value.clone())));
    }
}

/// A batch, and who waits for what becomes of it.
struct Waiting {
    batch: ConditionalBatch,
    answer: oneshot::Sender<Result<Position, SourceError>>,
}

/// The batches that wait.
#[derive(Default)]
pub(super) struct Gathered(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    under_way: usize,
}

impl Gathered {
    /// Lets a batch wait for its turn. If so it says, the caller has to send what waits: [`Gathered::send_all`].
    pub(super) fn wait(
        &self,
        batch: ConditionalBatch,
    ) -> (oneshot::Receiver<Result<Position, SourceError>>, bool) {
        let (answer, told) = oneshot::channel();
        let mut state = self.0.lock();
        state.waiting.push_back(Waiting { batch, answer });
        let sends = state.under_way < UNDER_WAY_MAX;
        state.under_way += usize::from(sends);
        (told, sends)
    }

    /// Sends one transaction after another until nothing waits.
    pub(super) async fn send_all<F>(&self, send: impl Fn(Transaction) -> F)
    where
        F: Future<Output = Result<Position, SourceError>> + Send + 'static,
    {
        while let Some((transaction, group)) = self.next() {
            let sent = send(transaction).await;
            if matches!(&sent, Err(SourceError::Conflict | SourceError::TooLarge)) && group.len() > 1 {
                for Waiting { batch, answer } in group {
                    let sending = send(Transaction::of(&batch));
                    tokio::spawn(async move { answer.send(sending.await) });
                }
                continue;
            }
            for waiting in group {
                // Whoever waited may have gone.
                let _ = waiting.answer.send(sent.clone());
            }
        }
    }

    /// The next transaction and its batches. None: nothing waits, and nothing more is sent.
    fn next(&self) -> Option<(Transaction, Vec<Waiting>)> {
        let mut state = self.0.lock();
        let (mut transaction, mut group) = (Transaction::default(), Vec::new());
        let mut others = VecDeque::new();
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting {
                // It was given up.
                waiting if waiting.answer.is_closed() => {}
                waiting if transaction.add(&waiting.batch) => group.push(waiting),
                waiting => others.push_back(waiting),
            }
            if transaction.compared.len() >= KEYS_MAX {
                break;
            }
        }
        others.append(&mut state.waiting);
        state.waiting = others;
        if group.is_empty() {
            state.under_way -= 1;
            return None;
        }
        Some((transaction, group))
    }
}

#[cfg(test)]
mod tests;
