//! The octets on disk are the ones that `docs/store-format.md` shows.
//!
//! A tiny store is made from fixed values; each record in the page's examples must be found in it, octet by octet.
//! Where the page has `??` the clock decides. A failure prints what the store has, so that a format change that is
//! meant is copied into the page, with a new format number if old stores cannot be read any more.

use rookery_kv::engine::{Batch, Engine, Read, Space};
use rookery_kv::files::FileLayer;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{FORMAT, FlagChange, FlagList, KINDS, NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, Keyword, MailboxPath, SystemFlags, UidSet, UserName};
use std::fmt::Write;
use std::sync::Arc;

const PAGE: &str = include_str!("../../../docs/store-format.md");
const BODY: &[u8] =
    b"From: Ann <ann@example.org>\r\nMessage-ID: <1@example.org>\r\nSubject: Hi\r\n\r\nHello.\r\n";

/// A record of the page; `None` stands for any octet.
struct Example {
    space: String,
    key: Vec<Option<u8>>,
    value: Vec<Option<u8>>,
}

fn octets(text: &str) -> Vec<Option<u8>> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
    pairs
        .map(|pair| match pair.as_str() {
            "??" => None,
            pair => Some(u8::from_str_radix(pair, 16).expect("the page's octets are hexadecimal")),
        })
        .collect()
}

/// The records in the page's fenced block with a name.
fn examples(name: &str) -> Vec<Example> {
    let begin = format!("```{name}\n");
    let block = PAGE.split_once(&begin).expect("the page has the block").1;
    let block = block.split_once("```").expect("the block ends").0;
    let mut found: Vec<Example> = Vec::new();
    for line in block.lines() {
        let text = line.split(';').next().unwrap_or_default();
        match text.strip_prefix("  ") {
            Some(value) => found.last_mut().expect("a key is first").value.extend(octets(value)),
            None if text.trim().is_empty() => {}
            None => {
                let (space, key) = text.split_once(' ').expect("a space and a key");
                found.push(Example { space: space.to_string(), key: octets(key), value: Vec::new() });
            }
        }
    }
    found
}

fn fits(pattern: &[Option<u8>], octets: &[u8]) -> bool {
    pattern.len() == octets.len() && pattern.iter().zip(octets).all(|(p, o)| p.is_none_or(|p| p == *o))
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn checksum(space: Space, key: &[u8], fields: &[u8]) -> [u8; 4] {
    crc32c::crc32c(&[&[space.index()], key, fields].concat()).to_le_bytes()
}

/// Every record of the engine; each must end in its checksum.
fn records(engine: &dyn Engine) -> Vec<(Space, Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    for space in Space::ALL {
        let scanned = engine.scan(space, &[], None, false, &mut |key, value| {
            found.push((space, key.to_vec(), value.to_vec()));
            true
        });
        scanned.expect("the engine scans");
    }
    for (space, key, value) in &found {
        let (fields, crc) = value.split_last_chunk::<4>().expect("a checksum is there");
        assert_eq!(*crc, checksum(*space, key, fields), "{space:?} {}", hex(key));
    }
    found
}

fn volume(files: &dyn FileLayer) -> Vec<u8> {
    let file = files.open("v00000001.vol").expect("the volume is there");
    let mut octets = vec![0; usize::try_from(file.len().expect("a length")).expect("it fits")];
    assert_eq!(file.read_at(&mut octets, 0).expect("it is read"), octets.len());
    octets
}

fn compare(name: &str, store: &Store, disk: &SimDisk) {
    let records = records(&*store.engine_for_check());
    let volume = volume(&disk.files());
    let mut dump = String::new();
    for (space, key, value) in &records {
        let _ = writeln!(dump, "{} {}\n  {}", space.name(), hex(key), hex(value));
    }
    let _ = writeln!(dump, "volume\n  {}", hex(&volume));
    let examples = examples(name);
    assert!(examples.len() > 2, "the page shows records");
    for example in examples {
        let key: String = example.key.iter().map(|o| o.map_or("??".to_string(), |o| hex(&[o]))).collect();
        let found = match example.space.as_str() {
            // The key is where it begins.
            "volume" => {
                let at =
                    example.key.iter().fold(0, |at, octet| at << 8 | usize::from(octet.expect("an offset")));
                volume.get(at..at + example.value.len()).is_some_and(|octets| fits(&example.value, octets))
            }
            space => records.iter().any(|(known, key, value)| {
                known.name() == space && fits(&example.key, key) && fits(&example.value, value)
            }),
        };
        assert!(found, "the store has no such record: {} {key}\n{dump}", example.space);
    }
}

/// A store whose node, id and secret are known.
fn formatted(engine: &dyn Engine) {
    let mut identity = vec![1];
    identity.extend(FORMAT.to_le_bytes());
    identity.extend(0x11_u64.to_le_bytes());
    identity.extend([0x22; 16]);
    identity.extend([0x33; 32]);
    let mut group = vec![1];
    group.extend(0_u64.to_le_bytes());
    let mut batch = Batch::new();
    for (key, mut value) in [(&b"store"[..], identity), (b"group", group)] {
        value.extend(checksum(Space::Meta, key, &value));
        batch.put(Space::Meta, key, value);
    }
    engine.commit(batch).expect("the engine commits");
}

#[tokio::test]
async fn the_page_shows_what_is_on_disk() {
    let disk = SimDisk::new(1);
    let engine = MemoryEngine::new(disk.clone());
    formatted(&engine);
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, Arc::new(engine), Arc::new(disk.files())).expect("it opens");
    let new = NewAccount {
        owner: Some(UserName::parse("joe@example.org", "").unwrap()),
        mailboxes: vec![(MailboxPath::new("INBOX").unwrap(), Vec::new())],
        subscriptions: vec!["user/joe@example.org".to_string()],
    };
    let account = store.create_account(AccountId::new(1).unwrap(), new).await.expect("an account");
    let inbox = account.tree().get(&MailboxPath::new("INBOX").unwrap()).unwrap();
    let mut spool = store.spool();
    spool.push(BODY).unwrap();
    let message = NewMessage {
        body: spool.finish().unwrap(),
        flags: SystemFlags::FLAGGED,
        keywords: vec![Keyword::new("$Work").unwrap()],
        date: InternalDate::new(1_000_000_000, 60).unwrap(),
    };
    account.append(inbox, vec![message]).await.expect("a message");
    compare("records", &store, &disk);

    // Enough changes that they are packed, then the end of the message.
    let mailbox = account.open(inbox).await.expect("it opens");
    let all: UidSet = [rookery_types::Uid::FIRST].into_iter().collect();
    let seen = || FlagList { flags: SystemFlags::SEEN, keywords: Vec::new() };
    for _ in 0..512 {
        mailbox.store_flags(&all, FlagChange::Add(seen()), None).await.expect("flags");
        mailbox.store_flags(&all, FlagChange::Remove(seen()), None).await.expect("flags");
    }
    store.tend_now().await.expect("folding");
    compare("records-folded", &store, &disk);
    let deleted = FlagList { flags: SystemFlags::DELETED, keywords: Vec::new() };
    mailbox.store_flags(&all, FlagChange::Add(deleted), None).await.expect("flags");
    mailbox.expunge(None).await.expect("expunge");
    compare("records-expunged", &store, &disk);
}

#[tokio::test]
async fn a_store_of_the_format_before_becomes_one_of_this() {
    let disk = SimDisk::new(1);
    let engine = MemoryEngine::new(disk.clone());
    formatted(&engine);
    let record = engine.get(Space::Meta, b"store").expect("it is read").expect("it is there");
    let mut before = record[..record.len() - 4].to_vec();
    before[1..5].copy_from_slice(&(FORMAT - 1).to_le_bytes());
    before.extend(checksum(Space::Meta, b"store", &before));
    let mut batch = Batch::new();
    batch.put(Space::Meta, &b"store"[..], before);
    engine.commit(batch).expect("the engine commits");
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, Arc::new(engine), Arc::new(disk.files())).expect("it opens");
    let now = store.engine_for_check().get(Space::Meta, b"store").expect("it is read");
    assert_eq!(now.as_deref(), Some(&record[..]));
}

#[test]
fn the_page_names_every_kind_and_the_format() {
    for kind in KINDS {
        assert!(PAGE.contains(&format!("| {} | `{}` |", kind.name, kind.space.name())), "{}", kind.name);
    }
    assert!(PAGE.contains(&format!("The format number is {FORMAT}.")));
}
