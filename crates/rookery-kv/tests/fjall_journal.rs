//! What fjall does with a damaged journal, as the documentation of `fjall_engine` states it. If an upgrade of fjall
//! makes one of these fail, read that text again.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::{Batch, Engine, EngineError, Read, Space};

const BATCHES: u64 = 20;

/// What the value of batch `n` begins with; found in the journal, it says where the batch is.
fn mark(n: u64) -> Vec<u8> {
    format!("<value of batch {n:04}>").into_bytes()
}

fn open(path: &Path) -> Result<FjallEngine, EngineError> {
    FjallEngine::open(path, FjallOptions::default())
}

/// A closed engine with batches 1 to [`BATCHES`] in its journal, and the journal's path.
fn prepared(dir: &Path) -> (PathBuf, PathBuf) {
    let path = dir.join("engine");
    let engine = open(&path).unwrap();
    for n in 1..=BATCHES {
        let mut batch = Batch::new();
        batch.put(Space::Log, n.to_be_bytes().to_vec(), mark(n));
        batch.put(Space::Meta, "newest", n.to_be_bytes().to_vec());
        engine.commit(batch).unwrap();
    }
    drop(engine);
    let journal = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .unwrap();
    (path, journal)
}

/// Where the value of batch `n` lies in the journal.
fn place(journal: &[u8], n: u64) -> usize {
    let mark = mark(n);
    journal.windows(mark.len()).position(|window| window == mark).unwrap()
}

/// The batches that are there, and whether the engine still works.
fn survivors(path: &Path) -> Vec<u64> {
    let engine = open(path).unwrap();
    let mut found = Vec::new();
    let mut each = |key: &[u8], value: &[u8]| {
        let n = u64::from_be_bytes(key.try_into().unwrap());
        assert_eq!(value, mark(n));
        found.push(n);
        true
    };
    engine.scan(Space::Log, b"", None, false, &mut each).unwrap();
    let newest = engine.get(Space::Meta, b"newest").unwrap().unwrap();
    assert_eq!(newest, found.last().unwrap().to_be_bytes()[..], "a batch is there in part");
    let mut batch = Batch::new();
    batch.put(Space::Queue, "after", "damage");
    engine.commit(batch).unwrap();
    drop(engine);
    let engine = open(path).unwrap();
    assert_eq!(engine.get(Space::Queue, b"after").unwrap().as_deref(), Some(&b"damage"[..]));
    found
}

#[test]
fn a_torn_tail_loses_the_torn_batch_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, journal) = prepared(dir.path());
    let whole = fs::read(&journal).unwrap();
    let last = place(&whole, BATCHES);
    // Cut off, or followed by the zeros that the file was extended with; within the value, the key, or the marker
    // that begins the batch.
    for cut in [last + 5, last, last - 9, last - 35] {
        for zeros in [0, 100_000] {
            let mut torn = whole[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            fs::write(&journal, &torn).unwrap();
            let copy = dir.path().join("copy");
            copy_tree(&path, &copy);
            assert_eq!(survivors(&copy), (1..BATCHES).collect::<Vec<_>>(), "cut at {cut}, {zeros} zeros");
            fs::remove_dir_all(&copy).unwrap();
        }
    }
}

#[test]
fn what_a_clean_stop_has_written_out_needs_no_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (path, journal) = prepared(dir.path());
    let before = fs::read(&journal).unwrap();
    assert!(place(&before, BATCHES) > 0);
    let engine = open(&path).unwrap();
    engine.settle();
    // Nothing could be read that is written behind what is cut off.
    let mut batch = Batch::new();
    batch.put(Space::Log, "late", "late");
    assert!(matches!(engine.commit(batch), Err(EngineError::Poisoned)));
    assert_eq!(engine.get(Space::Meta, b"newest").unwrap().as_deref(), Some(&BATCHES.to_be_bytes()[..]));
    drop(engine);
    assert_eq!(journal_octets(&path), 0, "the next opening has nothing to read");
    assert_eq!(survivors(&path), (1..=BATCHES).collect::<Vec<_>>());
    // A stop that could not cut it off: what the journal says is in the tables, and passed over.
    let engine = open(&path).unwrap();
    engine.settle();
    drop(engine);
    fs::write(&journal, before).unwrap();
    assert_eq!(survivors(&path), (1..=BATCHES).collect::<Vec<_>>());
}

/// Octets of all journals of an engine that was opened since it was written to: what is behind their end is cut off
/// then.
fn journal_octets(path: &Path) -> u64 {
    let journals = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let journals = journals.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "jnl"));
    journals.map(|journal| journal.metadata().unwrap().len()).sum()
}

/// However much is written, and though some spaces change little, a crash leaves little to be read.
#[test]
fn journals_stay_short() {
    const STEP: u64 = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    let options = || FjallOptions { unflushed_octets_max: STEP, ..FjallOptions::default() };
    let engine = FjallEngine::open(&path, options()).unwrap();
    let random = |n: u64| {
        let mut next = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut value = Vec::with_capacity(1000);
        while value.len() < 1000 {
            next ^= next << 13;
            next ^= next >> 7;
            next ^= next << 17;
            value.extend_from_slice(&next.to_le_bytes());
        }
        value
    };
    let mut written = 0;
    let mut n: u64 = 0;
    while written < (3 * 64) << 20 {
        let mut batch = Batch::new();
        for _ in 0..1000 {
            n += 1;
            // Few keys, so that tables stay small.
            batch.put(Space::Log, (n % 5000).to_be_bytes().to_vec(), random(n));
        }
        batch.put(Space::Queue, "rare", n.to_be_bytes().to_vec());
        written += batch.octets() as u64;
        engine.commit(batch).unwrap();
    }
    drop(engine);
    let engine = FjallEngine::open(&path, options()).unwrap();
    assert_eq!(engine.get(Space::Queue, b"rare").unwrap().as_deref(), Some(&n.to_be_bytes()[..]));
    assert_eq!(engine.get(Space::Log, &(n % 5000).to_be_bytes()).unwrap().as_deref(), Some(&random(n)[..]));
    drop(engine);
    // One that is being ended while another is begun, and what is written meanwhile.
    let octets = journal_octets(&path);
    assert!(octets < 150_000_000, "{octets} octets of journals");
}

#[test]
fn damage_within_a_value_is_detected() {
    for n in [3, BATCHES] {
        let dir = tempfile::tempdir().unwrap();
        let (path, journal) = prepared(dir.path());
        let mut octets = fs::read(&journal).unwrap();
        let at = place(&octets, n);
        octets[at + 4] ^= 0x10;
        fs::write(&journal, &octets).unwrap();
        match open(&path) {
            Err(EngineError::Corrupt { detail }) => assert!(detail.contains("ChecksumMismatch"), "{detail}"),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("damage in batch {n} was not detected"),
        }
    }
}

/// Wrong, and the reason for the numbers that the store gives its batches: seventeen acknowledged batches are gone
/// and nobody is told.
#[test]
fn damage_to_a_marker_silently_loses_all_that_follows() {
    let dir = tempfile::tempdir().unwrap();
    let (path, journal) = prepared(dir.path());
    let mut octets = fs::read(&journal).unwrap();
    let third = place(&octets, 3);
    let fourth = place(&octets, 4);
    // The trailer of the third batch's end marker is the last before the fourth begins.
    let trailer = octets[third..fourth].windows(4).rposition(|window| window == b"FJL\x03").unwrap();
    octets[third + trailer] ^= 1;
    fs::write(&journal, &octets).unwrap();
    assert_eq!(survivors(&path), [1, 2]);
}

#[test]
fn a_creation_that_was_cut_short_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    // What fjall leaves if it dies before its version marker; it could not go on from there.
    let unfinished = dir.path().join("engine.creating");
    fs::create_dir_all(unfinished.join("keyspaces")).unwrap();
    fs::write(unfinished.join("lock"), "").unwrap();
    fs::write(unfinished.join("0.jnl"), "").unwrap();
    drop(open(&path).unwrap());
    assert!(!unfinished.exists());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    // An empty folder, made by an installer say, is a place for an engine too.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    drop(open(&empty).unwrap());
    assert!(open(&empty).is_ok());
}

#[test]
fn what_is_no_engine_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter.txt"), "Dear all").unwrap();
    assert!(matches!(open(dir.path()), Err(EngineError::Corrupt { .. })));
    assert_eq!(fs::read_to_string(dir.path().join("letter.txt")).unwrap(), "Dear all");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let (path, _) = prepared(dir.path());
    fs::write(path.join("version"), b"FJL\x04").unwrap();
    assert!(matches!(open(&path), Err(EngineError::NewerFormat { .. })));
    fs::write(path.join("version"), b"junk").unwrap();
    assert!(matches!(open(&path), Err(EngineError::Corrupt { .. })));
}

#[test]
fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    let first = open(&path).unwrap();
    assert!(matches!(open(&path), Err(EngineError::Locked)));
    drop(first);
    open(&path).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
