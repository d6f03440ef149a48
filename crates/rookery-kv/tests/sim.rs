//! The simulated disk keeps what it promised, loses what it did not, and does the same again for the same seed.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::{Fault, OpKind, SimDisk};
use rookery_kv::{Batch, Engine, EngineError, FileLayer, Read, Space, VolumeFile};

fn content(file: &dyn VolumeFile) -> Vec<u8> {
    let mut octets = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut octets, 0).unwrap(), octets.len());
    octets
}

/// Files by name, and entries.
type Dump = (BTreeMap<String, Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

/// Everything on the disk, as a restarted process finds it.
fn dump(disk: &SimDisk) -> Dump {
    let files = disk.files();
    let names = files.list().unwrap();
    let files = names.into_iter().map(|name| (name.clone(), content(&*files.open(&name).unwrap()))).collect();
    let mut entries = Vec::new();
    for space in Space::ALL {
        MemoryEngine::new(disk.clone())
            .scan(space, b"", None, false, &mut |key, value| {
                entries.push((key.to_vec(), value.to_vec()));
                true
            })
            .unwrap();
    }
    (files, entries)
}

fn numbered(n: u64) -> Batch {
    let mut batch = Batch::new();
    batch.put(Space::Log, n.to_be_bytes().to_vec(), n.to_be_bytes().to_vec());
    batch.put(Space::Meta, "newest", n.to_be_bytes().to_vec());
    batch
}

/// The newest numbered batch, after checking that all before it are there, whole.
fn newest(disk: &SimDisk) -> u64 {
    let engine = MemoryEngine::new(disk.clone());
    let newest = engine.get(Space::Meta, b"newest").unwrap();
    let newest = newest.map_or(0, |octets| u64::from_be_bytes(octets[..].try_into().unwrap()));
    let mut numbers = Vec::new();
    engine
        .scan(Space::Log, b"", None, false, &mut |key, _| {
            numbers.push(u64::from_be_bytes(key.try_into().unwrap()));
            true
        })
        .unwrap();
    assert_eq!(numbers, (1..=newest).collect::<Vec<_>>());
    newest
}

#[test]
fn a_crash_at_every_operation_keeps_what_was_promised() {
    // One delivery a round: the body into the volume, both synced, then the metadata.
    let work = |disk: &SimDisk, acknowledged: &mut u64| -> Result<(), Box<dyn std::error::Error>> {
        let files = disk.files();
        let engine = MemoryEngine::new(disk.clone());
        let volume = files.create("1.vol")?;
        files.sync_directory()?;
        for n in 1..=12u64 {
            volume.write_at(&[n as u8; 700], (n - 1) * 700)?;
            volume.sync()?;
            engine.commit(numbered(n))?;
            *acknowledged = n;
        }
        Ok(())
    };
    let calm = SimDisk::new(0);
    work(&calm, &mut 0).unwrap();
    let operations = calm.operations();
    assert_eq!(operations, 2 + 12 * 3);

    let (mut kept_unasked, mut lost) = (0, 0);
    for seed in 0..20 {
        for after in 0..operations {
            let disk = SimDisk::new(seed);
            disk.crash_after(after);
            let mut acknowledged = 0;
            work(&disk, &mut acknowledged).unwrap_err();
            assert!(disk.is_down());
            assert!(disk.files().list().is_err(), "a machine that is down answers");
            assert!(MemoryEngine::new(disk.clone()).get(Space::Meta, b"newest").is_err());
            disk.power_loss();
            let there = newest(&disk);
            assert!(there == acknowledged || there == acknowledged + 1, "seed {seed}, crash after {after}");
            let dump = dump(&disk).0;
            let volume = dump.get("1.vol").map_or(&[][..], Vec::as_slice);
            for n in 1..=there {
                let body = &volume[(n as usize - 1) * 700..n as usize * 700];
                assert!(body.iter().all(|octet| u64::from(*octet) == n), "seed {seed}, crash after {after}");
            }
            // The commit that was under way is there or not.
            if after == operations - 1 {
                *if there > acknowledged { &mut kept_unasked } else { &mut lost } += 1;
            }
        }
    }
    assert!(kept_unasked > 0 && lost > 0, "{kept_unasked} {lost}");
}

#[test]
fn the_same_seed_gives_the_same_and_another_another() {
    let run = |seed: u64| {
        let disk = SimDisk::new(seed);
        let mut trace = Vec::new();
        for life in 0..6u64 {
            let files = disk.files();
            let engine = MemoryEngine::new(disk.clone());
            for n in 0..5u64 {
                let name = format!("{life}-{n}.vol");
                let file = files.create(&name).unwrap();
                file.write_at(&[n as u8 + 1; 3_000], n * 100).unwrap();
                if n % 2 == 0 {
                    file.sync().unwrap();
                }
                if n == 3 {
                    files.sync_directory().unwrap();
                }
            }
            disk.fail_nth(OpKind::Commit, 2, Fault::Io);
            engine.commit(numbered(life * 2 + 1)).unwrap();
            engine.commit(numbered(life * 2 + 2)).unwrap_err();
            disk.power_loss();
            trace.push(dump(&disk));
        }
        trace
    };
    assert_eq!(run(42), run(42));
    let different: BTreeSet<_> = (0..20).map(run).collect();
    assert_eq!(different.len(), 20);
}

/// A write that was not synced, by what power loss made of it.
#[test]
fn unsynced_writes_are_kept_dropped_zeroed_or_torn_and_synced_ones_never() {
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..400 {
        let disk = SimDisk::new(seed);
        let files = disk.files();
        let file = files.create("1.vol").unwrap();
        files.sync_directory().unwrap();
        file.write_at(&[1; 1_000], 0).unwrap();
        file.sync().unwrap();
        // Overwrites the last 100 octets and appends 4,000.
        file.write_at(&[2; 4_100], 900).unwrap();
        disk.power_loss();

        let octets = content(&*disk.files().open("1.vol").unwrap());
        assert!(octets[..900].iter().all(|octet| *octet == 1), "seed {seed} lost what was synced");
        assert!(octets.len() >= 1_000 && octets.len() <= 5_000);
        assert!(octets[900..1_000].iter().all(|octet| matches!(octet, 1 | 2)), "old or new, nothing else");
        assert!(octets[1_000..].iter().all(|octet| matches!(octet, 0 | 2)));
        let new = octets[900..].iter().filter(|octet| **octet == 2).count();
        let outcome = if new == 4_100 {
            "kept"
        } else if new == 0 && octets.len() == 1_000 {
            "dropped"
        } else if octets[1_000..].contains(&0) {
            "zeroed in part"
        } else if octets.len().is_multiple_of(512) {
            "torn at a sector"
        } else {
            "torn within a sector"
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    assert_eq!(outcomes.len(), 5, "{outcomes:?}");
    assert!(outcomes.values().all(|count| *count >= 5), "{outcomes:?}");
}

#[test]
fn names_live_and_die_apart_from_what_they_name() {
    let (mut created, mut vanished, mut renamed, mut undone, mut back, mut empty) = (0, 0, 0, 0, 0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let files = disk.files();
        for name in ["old", "gone", "replaced"] {
            let file = files.create(name).unwrap();
            file.write_at(name.as_bytes(), 0).unwrap();
            file.sync().unwrap();
        }
        files.sync_directory().unwrap();
        // The name is durable, the content is not.
        files.create("hollow").unwrap().write_at(b"content", 0).unwrap();
        files.sync_directory().unwrap();
        // The content is durable, the name is not.
        let file = files.create("new").unwrap();
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap();
        files.rename("old", "replaced").unwrap();
        files.remove("gone").unwrap();
        disk.power_loss();

        let now = dump(&disk).0;
        let text = |name: &str| now.get(name).map(|octets| String::from_utf8_lossy(octets).into_owned());
        match text("new").as_deref() {
            Some("new") => created += 1,
            None => vanished += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
        match (text("old").as_deref(), text("replaced").as_deref()) {
            (None, Some("old")) => renamed += 1,
            (Some("old"), Some("replaced")) => undone += 1,
            other => panic!("seed {seed}: a rename is not atomic: {other:?}"),
        }
        back += u32::from(text("gone").as_deref() == Some("gone"));
        empty += u32::from(text("hollow").unwrap().is_empty());
    }
    for count in [created, vanished, renamed, undone, back, empty] {
        assert!((20..=180).contains(&count), "{:?}", [created, vanished, renamed, undone, back, empty]);
    }
}

#[test]
fn synced_names_stay() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let files = disk.files();
        files.create("a").unwrap();
        files.create("b").unwrap();
        files.rename("a", "c").unwrap();
        files.remove("b").unwrap();
        files.sync_directory().unwrap();
        disk.power_loss();
        assert_eq!(disk.files().list().unwrap(), ["c"]);
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_wrote_but_power_does_later() {
    let mut lost = 0;
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let files = disk.files();
        files.create("1.vol").unwrap().write_at(b"written", 0).unwrap();
        disk.process_crash();
        assert!(files.list().is_err());
        assert_eq!(dump(&disk).0.get("1.vol").map(Vec::as_slice), Some(&b"written"[..]));
        disk.power_loss();
        lost += u32::from(dump(&disk).0.get("1.vol").map(Vec::as_slice) != Some(b"written"));
    }
    assert!((10..60).contains(&lost), "{lost}");
}

#[test]
fn handles_from_before_are_stale() {
    let disk = SimDisk::new(3);
    let files = disk.files();
    let engine = MemoryEngine::new(disk.clone());
    engine.commit(numbered(1)).unwrap();
    let snapshot = engine.snapshot();
    let file = files.create("1.vol").unwrap();
    files.sync_directory().unwrap();
    disk.power_loss();
    assert!(file.write_at(b"x", 0).is_err());
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(file.sync().is_err());
    assert!(files.open("1.vol").is_err());
    assert!(matches!(engine.commit(numbered(2)), Err(EngineError::Io(_))));
    assert!(matches!(engine.commit(numbered(2)), Err(EngineError::Poisoned)));
    assert!(engine.get(Space::Meta, b"newest").is_err());
    assert!(snapshot.get(Space::Meta, b"newest").is_err());
    drop((file, snapshot, engine));
    // The batch that a stale engine tried never reached the disk.
    assert_eq!(newest(&disk), 1);
    disk.files().open("1.vol").unwrap();
}

#[test]
fn a_failed_commit_poisons_and_is_decided_at_the_next_opening() {
    let mut decisions = BTreeSet::new();
    for seed in 0..20 {
        for fault in [Fault::Io, Fault::NoSpace] {
            let disk = SimDisk::new(seed);
            let engine = MemoryEngine::new(disk.clone());
            engine.commit(numbered(1)).unwrap();
            disk.fail_nth(OpKind::Commit, 2, fault);
            engine.commit(numbered(2)).unwrap();
            match (fault, engine.commit(numbered(3))) {
                (Fault::Io, Err(EngineError::Io(_))) | (Fault::NoSpace, Err(EngineError::NoSpace)) => {}
                (_, other) => panic!("{other:?}"),
            }
            assert!(matches!(engine.commit(numbered(4)), Err(EngineError::Poisoned)));
            assert!(matches!(engine.commit(Batch::new()), Err(EngineError::Poisoned)));
            // Reads go on, and do not show what may not be.
            assert_eq!(engine.get(Space::Log, &3u64.to_be_bytes()).unwrap(), None);
            drop(engine);
            let decided = newest(&disk);
            assert_eq!(newest(&disk), decided);
            disk.power_loss();
            assert_eq!(newest(&disk), decided, "decided once");
            decisions.insert(decided);
        }
    }
    assert_eq!(decisions, BTreeSet::from([2, 3]));
}

#[test]
fn after_a_failed_sync_a_later_one_promises_nothing_about_the_range() {
    let mut lost = 0;
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let files = disk.files();
        let file = files.create("1.vol").unwrap();
        files.sync_directory().unwrap();
        file.write_at(&[1; 600], 0).unwrap();
        disk.fail_nth(OpKind::Sync, 1, Fault::Io);
        file.sync().unwrap_err();
        assert_eq!(content(&*file), [1; 600], "the cache still shows it");
        file.write_at(&[2; 10], 600).unwrap();
        file.sync().unwrap();
        disk.power_loss();
        let octets = content(&*disk.files().open("1.vol").unwrap());
        assert_eq!(octets[600..], [2; 10]);
        lost += u32::from(octets[..600] != [1; 600]);
    }
    assert!((10..60).contains(&lost), "{lost}");
}

#[test]
fn faults_of_each_kind_strike_the_planned_operation() {
    let disk = SimDisk::new(9);
    let files = disk.files();
    let file = files.create("1.vol").unwrap();
    disk.fail_nth(OpKind::Write, 2, Fault::Short);
    disk.fail_nth(OpKind::Write, 3, Fault::Io);
    disk.fail_nth(OpKind::SyncDirectory, 1, Fault::Io);
    disk.fail_nth(OpKind::Create, 1, Fault::NoSpace);
    disk.fail_nth(OpKind::Rename, 1, Fault::Io);
    disk.fail_nth(OpKind::Remove, 1, Fault::Io);
    disk.fail_nth(OpKind::SetLen, 1, Fault::NoSpace);
    disk.fail_nth(OpKind::Read, 1, Fault::Io);
    file.write_at(&[1; 100], 0).unwrap();
    let short = file.write_at(&[2; 1_000], 100).unwrap_err();
    assert_eq!(short.kind(), std::io::ErrorKind::StorageFull);
    file.write_at(&[3; 10], 0).unwrap_err();
    assert!(file.len().is_err());
    assert!((100..1_100).contains(&file.len().unwrap()));
    assert_eq!(content(&*file)[..100], [1; 100]);
    files.sync_directory().unwrap_err();
    files.sync_directory().unwrap();
    assert!(files.create("2.vol").is_err());
    files.create("2.vol").unwrap();
    files.rename("2.vol", "3.vol").unwrap_err();
    files.remove("2.vol").unwrap_err();
    assert_eq!(files.list().unwrap(), ["1.vol", "2.vol"]);
    assert!(file.set_len(5).is_err());
    file.set_len(5).unwrap();
}

#[test]
fn a_full_disk_refuses_what_grows() {
    let disk = SimDisk::new(4);
    let files = disk.files();
    let engine = MemoryEngine::new(disk.clone());
    let file = files.create("1.vol").unwrap();
    file.write_at(&[1; 100], 0).unwrap();
    disk.set_full(true);
    assert_eq!(file.write_at(&[2; 10], 95).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    file.write_at(&[2; 10], 90).unwrap();
    file.sync().unwrap();
    assert!(files.create("2.vol").is_err());
    assert!(matches!(engine.commit(numbered(1)), Err(EngineError::NoSpace)));
    disk.set_full(false);
    assert!(matches!(engine.commit(numbered(1)), Err(EngineError::Poisoned)));
    let engine = MemoryEngine::new(disk.clone());
    engine.commit(numbered(1)).unwrap();
    file.write_at(&[2; 10], 95).unwrap();
}

#[test]
fn lies_can_be_told() {
    let disk = SimDisk::new(5);
    let engine = MemoryEngine::new(disk.clone());
    let file = disk.files().create("1.vol").unwrap();
    disk.files().sync_directory().unwrap();
    file.write_at(&[0; 10], 0).unwrap();
    file.sync().unwrap();
    for n in 1..=10 {
        engine.commit(numbered(n)).unwrap();
    }
    assert_eq!(disk.lose_suffix_of_durable(3), 3);
    assert!(engine.get(Space::Meta, b"newest").is_err());
    assert_eq!(newest(&disk), 7);
    assert_eq!(disk.lose_suffix_of_durable(100), 7);
    assert_eq!(newest(&disk), 0);

    disk.corrupt_file("1.vol", 3, 0x81).unwrap();
    assert!(disk.corrupt_file("1.vol", 10, 1).is_err());
    assert!(disk.corrupt_file("2.vol", 0, 1).is_err());
    disk.power_loss();
    let octets = content(&*disk.files().open("1.vol").unwrap());
    assert_eq!(octets, [0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0]);
}

#[derive(Clone, Debug)]
enum Action {
    Write { offset: u64, octets: usize },
    SetLen(u64),
    Sync,
    FailSync,
    PowerLoss,
    Kill,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (0..3_000u64, 0..2_000usize).prop_map(|(offset, octets)| Action::Write { offset, octets }),
        1 => (0..3_000u64).prop_map(Action::SetLen),
        3 => Just(Action::Sync),
        1 => Just(Action::FailSync),
        1 => Just(Action::PowerLoss),
        1 => Just(Action::Kill),
    ]
}

/// More than any position that an [`Action`] reaches.
const REACH: usize = 5_000;

/// What a file looks like to the program, and what a loss of power must leave.
struct Model {
    current: Vec<u8>,
    promised: Vec<Option<u8>>,
    /// Changed since the last sync.
    dirty: Vec<bool>,
    /// Changed before a sync that failed, and not written since: no later sync promises it.
    doubtful: Vec<bool>,
}

impl Model {
    fn holding(content: Vec<u8>) -> Model {
        let mut promised: Vec<_> = content.iter().copied().map(Some).collect();
        promised.resize(REACH, None);
        Model { current: content, promised, dirty: vec![false; REACH], doubtful: vec![false; REACH] }
    }

    fn resize(&mut self, octets: usize) {
        let touched = octets.min(self.current.len())..octets.max(self.current.len());
        self.current.resize(octets, 0);
        self.dirty[touched.clone()].fill(true);
        self.promised[touched].fill(None);
    }

    fn write(&mut self, range: std::ops::Range<usize>, octet: u8) {
        if range.is_empty() {
            return;
        }
        self.resize(self.current.len().max(range.end));
        self.current[range.clone()].fill(octet);
        self.dirty[range.clone()].fill(true);
        self.doubtful[range.clone()].fill(false);
        self.promised[range].fill(None);
    }

    fn sync(&mut self) {
        for (at, octet) in self.current.iter().enumerate() {
            if !self.doubtful[at] {
                self.promised[at] = Some(*octet);
            }
        }
        self.dirty.fill(false);
    }

    fn fail_sync(&mut self) {
        for (doubtful, dirty) in self.doubtful.iter_mut().zip(&mut self.dirty) {
            *doubtful |= std::mem::take(dirty);
        }
    }
}

proptest! {
    /// Each octet that a sync promised and nothing touched since is there after every loss of power; and until then
    /// the file reads as written.
    #[test]
    fn no_promised_octet_is_ever_lost(
        seed in any::<u64>(),
        actions in proptest::collection::vec(action(), 1..40),
    ) {
        let disk = SimDisk::new(seed);
        let mut file = disk.files().create("1.vol").unwrap();
        disk.files().sync_directory().unwrap();
        let mut model = Model::holding(Vec::new());
        for (n, action) in (1..).zip(actions) {
            match action {
                Action::Write { offset, octets } => {
                    file.write_at(&vec![n; octets], offset).unwrap();
                    model.write(offset as usize..offset as usize + octets, n);
                }
                Action::SetLen(octets) => {
                    file.set_len(octets).unwrap();
                    model.resize(octets as usize);
                }
                Action::Sync => {
                    file.sync().unwrap();
                    model.sync();
                }
                Action::FailSync => {
                    disk.fail_nth(OpKind::Sync, 1, Fault::Io);
                    file.sync().unwrap_err();
                    model.fail_sync();
                }
                Action::Kill => {
                    disk.process_crash();
                    file = disk.files().open("1.vol").unwrap();
                }
                Action::PowerLoss => {
                    disk.power_loss();
                    file = disk.files().open("1.vol").unwrap();
                    let found = content(&*file);
                    for (at, octet) in model.promised.iter().enumerate() {
                        if let Some(octet) = octet {
                            prop_assert_eq!(found.get(at), Some(octet), "octet {}", at);
                        }
                    }
                    model = Model::holding(found);
                }
            }
            prop_assert_eq!(&content(&*file), &model.current);
        }
    }
}
