use super::*;
use crate::source::{Condition, Write};
use proptest::prelude::*;
use std::sync::Arc;

/// Keys and values as etcd would hold them, and what was sent.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<(Values, u64, Vec<usize>)>>);

impl Held {
    fn applies(&self, transaction: &Transaction) -> bool {
        let held = self.0.lock();
        transaction.compared.iter().all(|(key, value)| held.0.get(key).cloned().flatten() == *value)
    }

    fn apply(&self, transaction: Transaction) -> Result<Position, SourceError> {
        let applies = self.applies(&transaction);
        let mut held = self.0.lock();
        held.2.push(transaction.written.len());
        if !applies {
            return Err(SourceError::Conflict);
        }
        held.0.extend(transaction.written);
        held.1 += 1;
        Ok(Position { cluster: 1, term: 1, revision: held.1 })
    }
}

fn key(n: u8) -> Bytes {
    vec![b'k', n].into()
}

fn value(n: u8) -> Option<Bytes> {
    (n > 0).then(|| vec![n].into())
}

/// Changes a key from one value to another if some others have theirs; 0 stands for a key that is not there.
fn batch(changed: u8, before: u8, after: u8, read: &[(u8, u8)]) -> ConditionalBatch {
    let mut conditions = vec![Condition { key: key(changed), value: value(before) }];
    conditions.extend(read.iter().map(|(n, is)| Condition { key: key(*n), value: value(*is) }));
    ConditionalBatch { conditions, writes: vec![Write { key: key(changed), value: value(after) }] }
}

/// Commits all of them while the first is on its way.
async fn committed(held: &Held, batches: Vec<ConditionalBatch>) -> Vec<Result<Position, SourceError>> {
    let gathered = Gathered::default();
    let mut told = Vec::new();
    let mut sending = 0;
    for batch in batches {
        let (answer, sends) = gathered.wait(batch);
        told.push(answer);
        sending += usize::from(sends);
        if sends && sending == 1 {
            // It takes the first alone.
            let (transaction, group) = gathered.next().unwrap();
            let answer = held.apply(transaction);
            for waiting in group {
                waiting.answer.send(answer.clone()).unwrap();
            }
        }
    }
    assert!(sending <= UNDER_WAY_MAX);
    gathered.send_all(|transaction| std::future::ready(held.apply(transaction))).await;
    let mut answers = Vec::new();
    for answer in told {
        answers.push(answer.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn what_comes_at_the_same_time_goes_together() {
    let held = Held::default();
    let batches = (1..=50).map(|n| batch(n, 0, 1, &[(0, 0)])).collect();
    let answers = committed(&held, batches).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(held.0.lock().2, [1, 49]);
}

#[tokio::test]
async fn one_that_does_not_apply_keeps_no_other_from_it() {
    let held = Held::default();
    let mut batches: Vec<_> = (1..=9).map(|n| batch(n, 0, 1, &[])).collect();
    batches.push(batch(10, 7, 1, &[]));
    let answers = committed(&held, batches).await;
    assert!(answers[..9].iter().all(Result::is_ok));
    assert_eq!(answers[9], Err(SourceError::Conflict));
    assert_eq!(held.0.lock().0.len(), 9);
}

#[tokio::test]
async fn what_is_too_much_for_one_goes_in_several() {
    let held = Held::default();
    // Each compares three keys.
    let batches = (0..80).map(|n| batch(n, 0, 1, &[(100 + n, 0), (255, 0)])).collect();
    assert!(committed(&held, batches).await.iter().all(Result::is_ok));
    assert_eq!(held.0.lock().2, [1, 63, 16]);
    let large = |n| ConditionalBatch {
        conditions: vec![Condition { key: key(n), value: None }],
        writes: vec![Write { key: key(n), value: Some(vec![0; OCTETS_MAX / 3].into()) }],
    };
    let held = Held::default();
    assert!(committed(&held, (0..6).map(large).collect()).await.iter().all(Result::is_ok));
    assert_eq!(held.0.lock().2, [1, 2, 2, 1]);
}

#[tokio::test]
async fn a_lost_answer_is_lost_to_all_and_nothing_is_sent_for_who_has_gone() {
    let gathered = Gathered::default();
    let (first, sends) = gathered.wait(batch(1, 0, 1, &[]));
    let (gone, _) = gathered.wait(batch(2, 0, 1, &[]));
    let (last, _) = gathered.wait(batch(3, 0, 1, &[]));
    drop(gone);
    assert!(sends);
    let sent = Held::default();
    let lost = || SourceError::Unknown("it is lost".to_owned());
    let send = |transaction| {
        sent.apply(transaction).unwrap();
        std::future::ready(Err(lost()))
    };
    gathered.send_all(send).await;
    assert_eq!((first.await.unwrap(), last.await.unwrap()), (Err(lost()), Err(lost())));
    assert_eq!(sent.0.lock().2, [2]);
    // Both places are free again.
    assert!(gathered.wait(batch(1, 0, 1, &[])).1);
}

proptest! {
    /// What goes together comes to the same as one after another, in either order.
    #[test]
    fn together_is_as_one_after_another(
        batches in prop::collection::vec((0u8..6, 0u8..2, 0u8..3, prop::collection::vec((0u8..6, 0u8..2), 0..3)), 1..8),
        start in prop::collection::vec(0u8..2, 6),
    ) {
        let held = || {
            let held = Held::default();
            held.0.lock().0.extend(start.iter().enumerate().map(|(n, is)| (key(n as u8), value(*is))));
            held
        };
        let batches = batches.into_iter().map(|(changed, before, after, mut read)| {
            read.retain(|(n, _)| *n != changed);
            read.dedup_by_key(|(n, _)| *n);
            read.sort_unstable();
            read.dedup_by_key(|(n, _)| *n);
            batch(changed, before, after, &read)
        });
        let mut transaction = Transaction::default();
        let group: Vec<_> = batches.filter(|batch| transaction.add(batch)).collect();
        let together = held();
        let applied = together.apply(transaction).is_ok();
        let (forth, back) = (held(), held());
        let each: Vec<_> = group.iter().map(|batch| forth.apply(Transaction::of(batch)).is_ok()).collect();
        let mut each_back: Vec<_> =
            group.iter().rev().map(|batch| back.apply(Transaction::of(batch)).is_ok()).collect();
        each_back.reverse();
        prop_assert_eq!(applied, each.iter().all(|applied| *applied));
        prop_assert_eq!(&each, &each_back);
        prop_assert_eq!(&forth.0.lock().0, &back.0.lock().0);
        if applied {
            prop_assert_eq!(&together.0.lock().0, &forth.0.lock().0);
        }
    }
}
