//! What every engine must do, run on each of them.
//!
//! `open` opens one and the same data each time it is called; a check begins with whatever the last one left and
//! empties it first.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::redb_engine::RedbEngine;
use rookery_kv::sim::SimDisk;
use rookery_kv::{Batch, Engine, EngineError, Read, Space, prefix_end};

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

#[test]
fn memory_conforms() {
    let disk = SimDisk::new(7);
    conformance(200, || Box::new(MemoryEngine::new(disk.clone())));
}

#[test]
fn fjall_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    // Small memory tables, so that much is read back from tables on the disk.
    let options = FjallOptions { memtable_octets: 64 * 1024, ..FjallOptions::default() };
    conformance(12, || Box::new(FjallEngine::open(&path, options.clone()).unwrap()));
}

#[test]
fn redb_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine.redb");
    conformance(20, || Box::new(RedbEngine::open(&path).unwrap()));
}

/// Runs everything; `histories` says how many random histories, since opening costs unequally.
fn conformance(histories: u32, open: impl Fn() -> Box<dyn Engine>) {
    order_and_bounds(&*emptied(&open));
    spaces_are_apart(&*emptied(&open));
    last_change_of_a_batch_wins(&*emptied(&open));
    values_and_keys_of_any_octets(&*emptied(&open));
    what_no_engine_takes_changes_nothing(&*emptied(&open));
    snapshots_stand_still(&*emptied(&open));
    readers_see_whole_batches(&*emptied(&open));
    a_visitor_may_read_and_stop(&*emptied(&open));
    large_batches_and_values(&open);
    agrees_with_a_model(histories, &open);
}

/// Opens the engine and removes all that is in it.
fn emptied(open: &impl Fn() -> Box<dyn Engine>) -> Box<dyn Engine> {
    let engine = open();
    let mut batch = Batch::new();
    for space in Space::ALL {
        for (key, _) in all(&*engine, space) {
            batch.delete(space, key);
        }
    }
    engine.commit(batch).unwrap();
    for space in Space::ALL {
        assert_eq!(all(&*engine, space), [], "{} {space:?}", engine.name());
    }
    engine
}

/// Something that can read, as a plain reference: engines and snapshots alike.
trait Source {
    fn entries(&self, space: Space, start: &[u8], end: Option<&[u8]>, reverse: bool) -> Entries;
}

impl<R: Read + ?Sized> Source for R {
    fn entries(&self, space: Space, start: &[u8], end: Option<&[u8]>, reverse: bool) -> Entries {
        let mut found = Vec::new();
        self.scan(space, start, end, reverse, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
        found
    }
}

fn all(source: &(impl Source + ?Sized), space: Space) -> Entries {
    source.entries(space, b"", None, false)
}

fn keys(entries: &Entries) -> Vec<&[u8]> {
    entries.iter().map(|(key, _)| key.as_slice()).collect()
}

fn order_and_bounds(engine: &dyn Engine) {
    let sorted: [&[u8]; 8] = [b"\0", b"a", b"a\0", b"aa", b"b", b"\x7f", b"\x80", b"\xff\xff"];
    let mut batch = Batch::new();
    for key in [5, 0, 7, 2, 4, 1, 6, 3] {
        batch.put(Space::Log, sorted[key].to_vec(), vec![key as u8]);
    }
    engine.commit(batch).unwrap();

    let up = all(engine, Space::Log);
    assert_eq!(keys(&up), sorted);
    assert!(up.iter().enumerate().all(|(at, (_, value))| value == &[at as u8]));
    let mut down = engine.entries(Space::Log, b"", None, true);
    down.reverse();
    assert_eq!(down, up);

    type Case<'a> = (&'a [u8], Option<&'a [u8]>, &'a [&'a [u8]]);
    let cases: [Case<'_>; 9] = [
        (b"a", Some(b"b"), &sorted[1..4]),
        (b"a\0", Some(b"aa"), &sorted[2..3]),
        (b"a", None, &sorted[1..]),
        (b"", Some(b"a"), &sorted[..1]),
        (b"a!", Some(b"az"), &sorted[3..4]),
        (b"\xff\xff\x01", None, &[]),
        (b"b", Some(b"b"), &[]),
        (b"b", Some(b"a"), &[]),
        (b"", Some(b""), &[]),
    ];
    for (start, end, expected) in cases {
        assert_eq!(keys(&engine.entries(Space::Log, start, end, false)), expected, "{start:?} {end:?}");
        let mut down = engine.entries(Space::Log, start, end, true);
        down.reverse();
        assert_eq!(keys(&down), expected, "{start:?} {end:?} reversed");
    }
    let prefix = engine.entries(Space::Log, b"a", prefix_end(b"a").as_deref(), false);
    assert_eq!(keys(&prefix), &sorted[1..4]);
    let to_the_end = engine.entries(Space::Log, b"\xff", prefix_end(b"\xff").as_deref(), false);
    assert_eq!(keys(&to_the_end), &sorted[7..]);
}

fn spaces_are_apart(engine: &dyn Engine) {
    let mut batch = Batch::new();
    for space in Space::ALL {
        batch.put(space, "key", space.name().as_bytes().to_vec());
    }
    engine.commit(batch).unwrap();
    let mut batch = Batch::new();
    batch.delete(Space::Chunk, "key");
    engine.commit(batch).unwrap();
    for space in Space::ALL {
        let expected = (space != Space::Chunk).then(|| space.name().as_bytes());
        assert_eq!(engine.get(space, b"key").unwrap().as_deref(), expected);
    }
}

fn last_change_of_a_batch_wins(engine: &dyn Engine) {
    let mut batch = Batch::new();
    batch.put(Space::Meta, "put put", "1");
    batch.put(Space::Meta, "put delete", "1");
    batch.delete(Space::Meta, "delete put");
    batch.put(Space::Meta, "delete put", "2");
    batch.delete(Space::Meta, "put delete");
    batch.put(Space::Meta, "put put", "2");
    batch.delete(Space::Meta, "never there");
    engine.commit(batch).unwrap();
    let expected = [(b"delete put".to_vec(), b"2".to_vec()), (b"put put".to_vec(), b"2".to_vec())];
    assert_eq!(all(engine, Space::Meta), expected);
    // And over what earlier batches left.
    let mut batch = Batch::new();
    batch.put(Space::Meta, "put put", "3");
    batch.delete(Space::Meta, "put put");
    engine.commit(batch).unwrap();
    assert_eq!(engine.get(Space::Meta, b"put put").unwrap(), None);
}

fn values_and_keys_of_any_octets(engine: &dyn Engine) {
    let mut batch = Batch::new();
    batch.put(Space::Queue, "empty value", "");
    for octet in 0..=255u8 {
        batch.put(Space::Queue, vec![octet, 0, octet], vec![octet; usize::from(octet)]);
    }
    batch.put(Space::Queue, vec![b'k'; 65_535], "longest key");
    engine.commit(batch).unwrap();
    assert_eq!(engine.get(Space::Queue, b"empty value").unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(engine.get(Space::Queue, b"absent").unwrap(), None);
    assert_eq!(engine.get(Space::Queue, b"").unwrap(), None);
    for octet in 0..=255u8 {
        let value = engine.get(Space::Queue, &[octet, 0, octet]).unwrap().unwrap();
        assert_eq!(value, vec![octet; usize::from(octet)]);
    }
    assert_eq!(engine.get(Space::Queue, &[b'k'; 65_535]).unwrap().as_deref(), Some(&b"longest key"[..]));
}

fn what_no_engine_takes_changes_nothing(engine: &dyn Engine) {
    let mut batch = Batch::new();
    batch.put(Space::Meta, "good", "1");
    batch.put(Space::Meta, "", "2");
    assert!(matches!(engine.commit(batch), Err(EngineError::EmptyKey)));
    let mut batch = Batch::new();
    batch.put(Space::Meta, "good", "1");
    batch.delete(Space::Meta, vec![1; 65_536]);
    assert!(matches!(engine.commit(batch), Err(EngineError::TooLarge { what: "key", octets: 65_536, .. })));
    assert_eq!(all(engine, Space::Meta), []);
    // No harm done: it goes on.
    engine.commit(Batch::new()).unwrap();
    let mut batch = Batch::new();
    batch.put(Space::Meta, "good", "1");
    engine.commit(batch).unwrap();
}

fn snapshots_stand_still(engine: &dyn Engine) {
    let put = |value: u32| {
        let mut batch = Batch::new();
        for key in 0..50u8 {
            batch.put(Space::Delta, vec![key], value.to_be_bytes().to_vec());
        }
        batch.delete(Space::Delta, vec![(value % 50) as u8]);
        engine.commit(batch).unwrap();
    };
    let mut seen = Vec::new();
    for value in 0..40 {
        put(value);
        let snapshot = engine.snapshot();
        let now = all(&*snapshot, Space::Delta);
        assert_eq!(now.len(), 49);
        seen.push((snapshot, now));
    }
    // Snapshots end in another order than they began, and between commits.
    for round in 0..20 {
        let (snapshot, then) = seen.remove((round * 7) % seen.len());
        assert_eq!(all(&*snapshot, Space::Delta), then);
        for key in 0..50u8 {
            let expected = then.iter().find(|(there, _)| there == &[key]).map(|(_, value)| value.as_slice());
            assert_eq!(snapshot.get(Space::Delta, &[key]).unwrap().as_deref(), expected);
        }
        put(100 + round as u32);
    }
    for (snapshot, then) in &seen {
        assert_eq!(&all(&**snapshot, Space::Delta), then);
    }
}

fn readers_see_whole_batches(engine: &dyn Engine) {
    let put = |value: u32| {
        let mut batch = Batch::new();
        for key in 0..200u8 {
            batch.put(Space::Mailbox, vec![key], value.to_be_bytes().to_vec());
            batch.put(Space::Chunk, vec![key], value.to_be_bytes().to_vec());
        }
        engine.commit(batch).unwrap();
    };
    put(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = Vec::new();
                while last != 100u32.to_be_bytes() {
                    let snapshot = engine.snapshot();
                    let entries = all(&*snapshot, Space::Mailbox);
                    assert_eq!(entries.len(), 200);
                    let one = entries[0].1.clone();
                    assert!(entries.iter().all(|(_, value)| *value == one), "a scan saw half a batch");
                    assert_eq!(snapshot.get(Space::Chunk, &[199]).unwrap().unwrap(), one);
                    assert!(one >= last, "went back in time");
                    let scanned = all(engine, Space::Chunk);
                    assert!(scanned.iter().all(|(_, value)| *value == scanned[0].1), "half a batch");
                    assert!(scanned[0].1 >= one, "an older state than a snapshot before");
                    last = one;
                }
            });
        }
        for value in 1..=100 {
            put(value);
            // Read one's own commit at once.
            assert_eq!(engine.get(Space::Chunk, &[7]).unwrap().unwrap(), value.to_be_bytes()[..]);
        }
    });
}

fn a_visitor_may_read_and_stop(engine: &dyn Engine) {
    let mut batch = Batch::new();
    for key in 0..1_000u16 {
        batch.put(Space::Thread, key.to_be_bytes().to_vec(), key.to_le_bytes().to_vec());
    }
    engine.commit(batch).unwrap();
    for reverse in [false, true] {
        for stop_at in [1, 2, 255, 256, 257, 512, 999, 1_000] {
            let mut visited = 0;
            engine
                .scan(Space::Thread, b"", None, reverse, &mut |key, value| {
                    assert_eq!(engine.get(Space::Thread, key).unwrap().as_deref(), Some(value));
                    visited += 1;
                    visited < stop_at
                })
                .unwrap();
            assert_eq!(visited, stop_at);
        }
    }
}

fn large_batches_and_values(open: &impl Fn() -> Box<dyn Engine>) {
    let engine = emptied(open);
    let mut batch = Batch::new();
    for key in 0..8_192u32 {
        batch.put(Space::Content, key.to_be_bytes().to_vec(), vec![key as u8; 128]);
    }
    assert!(batch.octets() > 1 << 20);
    engine.commit(batch).unwrap();
    let mut batch = Batch::new();
    let large: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(n) >> 3) as u8).collect();
    batch.put(Space::Content, "large", large.clone());
    batch.put(Space::Content, "even", vec![0; 300_000]);
    engine.commit(batch).unwrap();
    drop(engine);

    let engine = open();
    assert_eq!(all(&*engine, Space::Content).len(), 8_194);
    for key in 0..8_192u32 {
        let value = engine.get(Space::Content, &key.to_be_bytes()).unwrap().unwrap();
        assert_eq!(value, vec![key as u8; 128]);
    }
    assert_eq!(engine.get(Space::Content, b"large").unwrap().unwrap(), large);
    assert_eq!(engine.get(Space::Content, b"even").unwrap().unwrap(), vec![0; 300_000]);
    assert!(engine.disk_octets() > 1 << 20);
}

/// One step of a random history: a batch, or closing and opening again.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Vec<u8>, Option<Vec<u8>>)>),
    Reopen,
}

fn agrees_with_a_model(histories: u32, open: &impl Fn() -> Box<dyn Engine>) {
    // Few spaces, octets and lengths, so that keys meet each other.
    let key = proptest::collection::vec(prop_oneof![Just(0u8), Just(b'm'), Just(0xff)], 1..4);
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..40));
    let change = (0..3u8, key.clone(), value);
    let step = prop_oneof![
        9 => proptest::collection::vec(change, 0..12).prop_map(Step::Commit),
        1 => Just(Step::Reopen),
    ];
    let query = (0..3u8, key.clone(), proptest::option::of(key), any::<bool>());
    let history = (proptest::collection::vec(step, 1..14), proptest::collection::vec(query, 1..12));

    let config = Config { cases: histories, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&history, |(steps, queries)| {
            let mut engine = Some(emptied(open));
            let mut model: BTreeMap<(Space, Vec<u8>), Vec<u8>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Commit(changes) => {
                        let mut batch = Batch::new();
                        for (space, key, value) in changes {
                            let space = Space::from_index(space).unwrap();
                            match value {
                                Some(value) => {
                                    batch.put(space, key.clone(), value.clone());
                                    model.insert((space, key), value);
                                }
                                None => {
                                    batch.delete(space, key.clone());
                                    model.remove(&(space, key));
                                }
                            }
                        }
                        engine.as_ref().unwrap().commit(batch).unwrap();
                    }
                    Step::Reopen => {
                        drop(engine.take());
                        engine = Some(open());
                    }
                }
                let engine = engine.as_deref().unwrap();
                for (space, start, end, reverse) in &queries {
                    let space = Space::from_index(*space).unwrap();
                    let mut expected: Entries = model
                        .iter()
                        .filter(|((in_space, key), _)| {
                            *in_space == space && key >= start && end.as_ref().is_none_or(|end| key < end)
                        })
                        .map(|((_, key), value)| (key.clone(), value.clone()))
                        .collect();
                    if *reverse {
                        expected.reverse();
                    }
                    prop_assert_eq!(engine.entries(space, start, end.as_deref(), *reverse), expected);
                    let expected = model.get(&(space, start.clone())).map(Vec::as_slice);
                    let found = engine.get(space, start).unwrap();
                    prop_assert_eq!(found.as_deref(), expected);
                }
            }
            Ok(())
        })
        .unwrap();
}
