//! What every source must do.

use crate::world::World;
use rookery_directory::source::{Condition, ConditionalBatch, Source, SourceError, Write};
use rookery_directory::{Position, source};
use rookery_kv::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A batch that changes one key from one value to another.
pub(crate) fn swap(key: &'static [u8], before: Option<Bytes>, after: Option<Bytes>) -> ConditionalBatch {
    let key = Bytes::from_static(key);
    ConditionalBatch {
        conditions: vec![Condition { key: key.clone(), value: before }],
        writes: vec![Write { key, value: after }],
    }
}

fn text(text: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(text.as_bytes()))
}

async fn value(source: &Arc<dyn Source>, key: &'static [u8]) -> Option<Bytes> {
    source.get(vec![Bytes::from_static(key)]).await.unwrap().1.remove(0)
}

pub(crate) async fn a_batch_is_applied_whole_or_not_at_all(world: &impl World) {
    let source = world.source();
    let empty = source.head().await.unwrap();
    let first = source.commit(swap(b"la", None, text("1"))).await.unwrap();
    assert!(first > empty && first.cluster == empty.cluster);
    assert_eq!(source.commit(swap(b"la", None, text("2"))).await, Err(SourceError::Conflict));
    assert_eq!(source.commit(swap(b"la", text("2"), text("3"))).await, Err(SourceError::Conflict));
    // One condition of two that does not hold.
    let mut two = swap(b"lb", None, text("b"));
    two.conditions.push(Condition { key: Bytes::from_static(b"lc"), value: text("c") });
    two.writes.push(Write { key: Bytes::from_static(b"la"), value: None });
    assert_eq!(source.commit(two).await, Err(SourceError::Conflict));
    assert_eq!((value(&source, b"la").await, value(&source, b"lb").await), (text("1"), None));
    assert!(source.head().await.unwrap() >= first);
    // An empty value is not the same as none.
    source.commit(swap(b"lb", None, text(""))).await.unwrap();
    assert_eq!(source.commit(swap(b"lb", None, text("b"))).await, Err(SourceError::Conflict));
    let mut both = swap(b"lb", text(""), None);
    both.conditions.push(Condition { key: Bytes::from_static(b"la"), value: text("1") });
    both.writes.push(Write { key: Bytes::from_static(b"la"), value: text("2") });
    let last = world.source().commit(both).await.unwrap();
    let (position, values) =
        source.get(vec![Bytes::from_static(b"la"), Bytes::from_static(b"lb")]).await.unwrap();
    assert!(position >= last && last > first);
    assert_eq!(values, [text("2"), None]);
}

pub(crate) async fn writers_at_the_same_time_are_put_in_an_order(world: &impl World) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 15;
    let start = world.source().head().await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let source = world.source();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    loop {
                        let before = value(&source, b"lcount").await;
                        let number = before
                            .as_ref()
                            .map_or(0, |value| std::str::from_utf8(value).unwrap().parse::<u64>().unwrap());
                        let after = Some(Bytes::from((number + 1).to_string()));
                        match source.commit(swap(b"lcount", before, after)).await {
                            Ok(position) => {
                                assert!(source.head().await.unwrap() >= position);
                                break;
                            }
                            Err(SourceError::Conflict) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let total = WRITERS * EACH;
    assert_eq!(value(&world.source(), b"lcount").await, Some(Bytes::from(total.to_string())));
    let mut changes = world.source().changes(start).await.unwrap();
    let mut seen = start;
    for number in 1..=total {
        let event = changes.next().await.unwrap();
        assert!(event.position > seen);
        seen = event.position;
        let value = Some(Bytes::from(number.to_string()));
        assert_eq!(event.writes, [Write { key: Bytes::from_static(b"lcount"), value }]);
    }
}

pub(crate) async fn changes_come_once_and_in_order_from_any_position(world: &impl World) {
    let source = world.source();
    let mut positions = vec![source.head().await.unwrap()];
    let mut early = source.changes(positions[0]).await.unwrap();
    let mut before = None;
    for n in 0..10 {
        let mut batch = swap(b"la", before.clone(), (n % 3 != 2).then(|| Bytes::from(n.to_string())));
        before.clone_from(&batch.writes[0].value);
        batch.writes.push(Write { key: Bytes::from(format!("lb{n}")), value: text("x") });
        positions.push(source.commit(batch).await.unwrap());
    }
    for (at, since) in positions.iter().enumerate() {
        let mut changes = world.source().changes(*since).await.unwrap();
        for (n, position) in positions.iter().enumerate().skip(at + 1) {
            let event = changes.next().await.unwrap();
            assert_eq!((event.position, event.writes.len()), (*position, 2));
            assert!(event.writes.iter().any(|write| write.key == format!("lb{}", n - 1)));
        }
        assert_eq!(changes.try_next(), None);
    }
    for position in &positions[1..] {
        assert_eq!(early.next().await.unwrap().position, *position);
    }
    // A change made while somebody waits for it.
    let waiting = tokio::spawn(async move { early.next().await });
    let position = source.commit(swap(b"lnew", None, text("1"))).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().position, position);
}

pub(crate) async fn pages_together_are_the_whole(world: &impl World) {
    let source = world.source();
    let mut expected = BTreeMap::new();
    for n in 0..60u32 {
        let key = Bytes::from(format!("{}{n}", ["l", "m", "n"][n as usize % 3]));
        let value = Bytes::from(vec![b'x'; n as usize]);
        let batch = ConditionalBatch {
            conditions: vec![Condition { key: key.clone(), value: None }],
            writes: vec![Write { key: key.clone(), value: Some(value.clone()) }],
        };
        source.commit(batch).await.unwrap();
        expected.insert(key, value);
    }
    for limit in [1, 7, 60, 1000] {
        let (mut found, mut start) = (BTreeMap::new(), Some(Bytes::new()));
        while let Some(from) = start {
            let page = source.page(from.clone(), limit).await.unwrap();
            assert!(page.records.len() <= limit && page.position == source.head().await.unwrap());
            assert!(page.records.is_sorted_by(|a, b| a.key < b.key));
            assert!(page.records.iter().all(|record| record.key >= from));
            start = page.next;
            found.extend(page.records.into_iter().map(|record| (record.key, record.value)));
        }
        assert_eq!(found, expected);
    }
}

pub(crate) async fn what_is_too_large_is_refused(world: &impl World) {
    let source = world.source();
    let head = source.head().await.unwrap();
    let key = |n: u32| Bytes::from(format!("l{n}"));
    let write = |n, octets| Write { key: key(n), value: Some(Bytes::from(vec![b'x'; octets])) };
    for (count, octets) in [(20_000, 1), (4, 600 << 10)] {
        let writes: Vec<_> = (0..count).map(|n| write(n, octets)).collect();
        let conditions = vec![Condition { key: key(0), value: None }];
        let batch = ConditionalBatch { conditions, writes };
        assert_eq!(source.commit(batch).await, Err(SourceError::TooLarge));
    }
    assert_eq!(source.head().await.unwrap(), head);
    // The largest that every source takes.
    let writes: Vec<_> = (0..100).map(|n| write(n, 8 << 10)).collect();
    let conditions = (0..100).map(|n| Condition { key: key(n), value: None }).collect();
    source.commit(ConditionalBatch { conditions, writes }).await.unwrap();
    let mut changes = source.changes(head).await.unwrap();
    assert_eq!(changes.next().await.unwrap().writes.len(), 100);
}

pub(crate) async fn changes_that_are_forgotten_are_not_skipped(world: &impl World) {
    let source = world.source();
    let old = source.head().await.unwrap();
    source.commit(swap(b"la", None, text("1"))).await.unwrap();
    source.commit(swap(b"la", text("1"), text("2"))).await.unwrap();
    world.compact().await;
    let told = match source.changes(old).await {
        Ok(mut changes) => changes.next().await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(told, Err(SourceError::Compacted));
    let head = source.head().await.unwrap();
    let mut changes = source.changes(head).await.unwrap();
    let position = source.commit(swap(b"la", text("2"), None)).await.unwrap();
    assert_eq!(changes.next().await.unwrap().position, position);
}

pub(crate) async fn another_history_is_not_followed(world: &impl World) {
    let source = world.source();
    source.commit(swap(b"la", None, text("1"))).await.unwrap();
    let head: source::Position = source.head().await.unwrap();
    for at in
        [Position { cluster: head.cluster ^ 1, ..head }, Position { revision: head.revision + 1, ..head }]
    {
        let told = match source.changes(at).await {
            Ok(mut changes) => changes.next().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(told, Err(SourceError::WentBack(_))), "{told:?}");
    }
}
