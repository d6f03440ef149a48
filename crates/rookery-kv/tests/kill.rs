//! `kill -9` of a process that commits to fjall: what it acknowledged is there, in order, without holes.
//!
//! The child is this test binary, started again with [`CHILD`] set; it writes each acknowledgement to stderr as one
//! line in one write. A line without its end is one that the kill cut off, and acknowledges nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::{Batch, Engine, Read, Space};

/// Names the engine's folder to the child.
const CHILD: &str = "ROOKERY_KV_KILL_TEST_FOLDER";

const ROUNDS: u64 = 10;

/// Small memory tables, so that the kill also hits flushes, merges and journal changes.
fn open(path: &Path) -> FjallEngine {
    let options = FjallOptions { memtable_octets: 256 * 1024, ..FjallOptions::default() };
    FjallEngine::open(path, options).unwrap()
}

/// The octets that batch `number` writes: of lengths from 1 octet to beyond a journal block.
fn value(number: u64) -> Vec<u8> {
    let octets = 1 + (number * 7_919) % if number.is_multiple_of(50) { 60_000 } else { 600 };
    (0..octets).map(|at| (number * 31 + at * at) as u8).collect()
}

fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    batch.put(Space::Log, number.to_be_bytes().to_vec(), value(number));
    batch.put(Space::Meta, "newest", number.to_be_bytes().to_vec());
    batch.delete(Space::Queue, (number - 1).to_be_bytes().to_vec());
    batch.put(Space::Queue, number.to_be_bytes().to_vec(), value(number));
    batch
}

fn number(octets: &[u8]) -> u64 {
    u64::from_be_bytes(octets.try_into().unwrap())
}

/// The newest batch, after checking that exactly it and all before it are there.
fn check(engine: &FjallEngine) -> u64 {
    let newest = engine.get(Space::Meta, b"newest").unwrap().map_or(0, |octets| number(&octets));
    let mut expected = 1;
    let mut each = |key: &[u8], found: &[u8]| {
        assert_eq!(number(key), expected, "a hole");
        assert!(found == value(expected), "batch {expected} is damaged");
        expected += 1;
        true
    };
    engine.scan(Space::Log, b"", None, false, &mut each).unwrap();
    assert_eq!(expected, newest + 1, "batches are there in part");
    let mut queued = Vec::new();
    engine.scan(Space::Queue, b"", None, false, &mut |key, _| (queued.push(number(key)), true).1).unwrap();
    assert_eq!(queued, if newest == 0 { vec![] } else { vec![newest] });
    newest
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    // The child's part: commit until killed.
    if let Some(path) = std::env::var_os(CHILD) {
        let engine = open(Path::new(&path));
        for next in check(&engine) + 1.. {
            engine.commit(batch(next)).unwrap();
            // `eprintln` would write the line in pieces.
            std::io::stderr().write_all(format!("acknowledged {next}\n").as_bytes()).unwrap();
        }
    }

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    let mut newest = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_was_acknowledged_survives_kill_9", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        // Kill within a commit or beside it: counted from the first acknowledgement, by the clock. Round 0 does not
        // wait, so that it may hit the creation of the engine.
        let mut acknowledged = newest;
        if round > 0 {
            acknowledged = acknowledgement(&mut said).expect("the child ended before it was killed");
        }
        std::thread::sleep(Duration::from_micros(30_000 + 37_777 * round % 211_000));
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(number) = acknowledgement(&mut said) {
            acknowledged = number;
        }

        newest = check(&open(&path));
        assert!(
            newest == acknowledged || newest == acknowledged + 1,
            "round {round}: {acknowledged} were acknowledged, {newest} are there"
        );
    }
    assert!(newest > 2 * ROUNDS, "only {newest} commits: the child hardly ran");
}

/// The number of the next batch that the child acknowledged; `None` once there is no whole line any more.
fn acknowledgement(said: &mut impl BufRead) -> Option<u64> {
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let line = line.strip_suffix('\n')?;
    match line.strip_prefix("acknowledged ") {
        Some(number) => Some(number.parse().unwrap()),
        None => panic!("the child failed: {line}"),
    }
}
