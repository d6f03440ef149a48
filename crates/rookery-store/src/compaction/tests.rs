//! Packing from end to end: nothing changes for readers, at whatever moment the power goes.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use super::*;
use crate::append::NewMessage;
use crate::store::{FORMAT, Identity, NewAccount, StoreOptions};
use crate::volume::{Coding, FILE_HEADER, RECORD_HEADER, encode_file_header};
use rookery_kv::files::FileLayer;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::{Fault, OpKind, SimDisk};
use rookery_types::{InternalDate, MailboxPath, SystemFlags, UidSet};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_store_is_idle_after_some_quiet_rounds() {
    let mut pace = Pace::default();
    for _ in 1..QUIET_ROUNDS {
        assert!(!pace.is_idle(0));
    }
    assert!(pace.is_idle(0));
    assert!(pace.is_idle(QUIET_OCTETS - 1), "a little is no work");
    assert!(!pace.is_idle(2 * QUIET_OCTETS));
    for _ in 1..QUIET_ROUNDS {
        assert!(!pace.is_idle(2 * QUIET_OCTETS));
    }
    assert!(pace.is_idle(2 * QUIET_OCTETS));
}

fn options() -> StoreOptions {
    StoreOptions {
        background: None,
        volume_octets: 2 << 20,
        pack_octets_min: 1000,
        retention: Duration::ZERO,
        ..StoreOptions::default()
    }
}

fn open(disk: &SimDisk) -> Store {
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    Store::open(options(), engine, Arc::new(disk.files())).expect("it opens")
}

fn id(n: u64) -> AccountId {
    AccountId::new(n).unwrap()
}

fn text(n: usize) -> Vec<u8> {
    let mut text = format!(
        "From: Ann <ann{n}@mail.example>\r\nSubject: the report of day {n}\r\nMessage-ID: <{}@mail.example>\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\nDear Joe,\r\nhere are the numbers.\r\n",
        n * 7919
    );
    for line in 0..20 + n % 9 {
        text += &format!("{line}: this is what was found on day {}\r\n", n * 31 % (line + 11));
    }
    text.into_bytes()
}

async fn append(store: &Store, n: u64, bodies: &[Vec<u8>]) {
    let account = store.account(id(n)).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let messages = bodies.iter().map(|body| {
        let mut spool = store.spool();
        spool.push(body).unwrap();
        let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1));
        NewMessage { body: spool.finish().unwrap(), flags, keywords: Vec::new(), date }
    });
    account.append(inbox, messages.collect()).await.unwrap();
}

/// Two accounts with small messages, some of a few hundred KB, and large ones.
async fn build(disk: &SimDisk, small: usize) -> Vec<Vec<u8>> {
    let store = open(disk);
    let mut all = Vec::new();
    for n in [1, 2] {
        let mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
        store.create_account(id(n), NewAccount { mailboxes, ..NewAccount::default() }).await.unwrap();
        let mut bodies: Vec<Vec<u8>> = (0..small).map(|at| text(at + 1000 * n as usize)).collect();
        for octets in [300_000, 600_000] {
            bodies.push(text(octets + n as usize).into_iter().cycle().take(octets).collect());
        }
        append(&store, n, &bodies).await;
        all.extend(bodies);
    }
    store.close().await;
    all.sort();
    all
}

/// All messages, read whole, in parts, and many at once.
async fn observed(store: &Store) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for n in [1, 2] {
        let account = store.account(id(n)).await.unwrap();
        let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
        let mailbox = account.open(inbox).await.unwrap();
        let messages = mailbox.now().messages.clone().unwrap();
        let contents: Vec<ContentId> = messages.iter().map(|found| found.unwrap().1.content).collect();
        let mut bodies = vec![Vec::new(); contents.len()];
        account.read_many(&contents, |at, found| bodies[at] = found.unwrap().octets.to_vec());
        for (content, body) in contents.iter().zip(&bodies) {
            assert!(account.read(*content).unwrap() == body);
            let reader = account.reader(*content).unwrap();
            let mut parts = Vec::new();
            while parts.len() < body.len() {
                parts.extend_from_slice(&reader.read(parts.len() as u64, 100_000).unwrap());
            }
            assert!(parts == *body);
        }
        all.extend(bodies);
    }
    all.sort();
    all
}

async fn contents(account: &Account) -> Vec<ContentId> {
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let mailbox = account.open(inbox).await.unwrap();
    let messages = mailbox.now().messages.clone().unwrap();
    messages.iter().map(|found| found.unwrap().1.content).collect()
}

fn findings(store: &Store, disk: &SimDisk) -> Vec<crate::check::Finding> {
    crate::check::check(&*store.engine_for_check(), Arc::new(disk.files())).expect("it is checked")
}

/// Octets of all volumes.
fn octets(disk: &SimDisk) -> u64 {
    let files = disk.files();
    files.list().unwrap().iter().map(|name| files.open(name).unwrap().len().unwrap()).sum()
}

/// How the messages of an account are stored.
async fn codings(store: &Store, n: u64) -> Vec<Coding> {
    let account = store.account(id(n)).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let mailbox = account.open(inbox).await.unwrap();
    let messages = mailbox.now().messages.clone().unwrap();
    let coding = |content| {
        let at = account.content(content).unwrap().locator;
        store.volumes().record(at, id(n), content).unwrap().header.coding
    };
    messages.iter().map(|found| coding(found.unwrap().1.content)).collect()
}

#[tokio::test]
async fn what_is_idle_is_packed_once_and_reads_the_same() {
    let disk = SimDisk::new(1);
    let bodies = build(&disk, 400).await;
    let store = open(&disk);
    let before = octets(&disk);
    assert!(codings(&store, 1).await.iter().all(|coding| matches!(coding, Coding::Raw | Coding::Framed)));
    store.tend_now().await.unwrap();
    assert_eq!(observed(&store).await, bodies);
    assert_eq!(findings(&store, &disk), Vec::new());
    let after = octets(&disk);
    assert!(after * 4 < before, "{before} octets before, {after} after");
    let with_dictionary = |codings: Vec<Coding>| {
        codings.iter().filter(|coding| matches!(coding, Coding::WithDictionary(_))).count()
    };
    assert!(with_dictionary(codings(&store, 1).await) > 300);
    assert!(with_dictionary(codings(&store, 2).await) > 300);
    let files = disk.files().list().unwrap();
    store.tend_now().await.unwrap();
    assert_eq!(disk.files().list().unwrap(), files, "what is packed is left alone");

    // What comes later is packed with the same dictionary, also after a restart.
    store.close().await;
    drop(store);
    let store = open(&disk);
    let more: Vec<Vec<u8>> = (5000..5100).map(text).collect();
    append(&store, 1, &more).await;
    store.tend_now().await.unwrap();
    let mut all = [bodies, more].concat();
    all.sort();
    assert_eq!(observed(&store).await, all);
    assert!(codings(&store, 1).await.iter().rev().take(100).all(|c| matches!(c, Coding::WithDictionary(_))));
    assert_eq!(findings(&store, &disk), Vec::new());
    // And what is left of a packed volume is written elsewhere when most of it has gone.
    for n in [1, 2] {
        let account = store.account(id(n)).await.unwrap();
        let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
        let mailbox = account.open(inbox).await.unwrap();
        let flags = crate::FlagList { flags: SystemFlags::DELETED, keywords: Vec::new() };
        let gone = UidSet::range(10, 600);
        mailbox.store_flags(&gone, crate::FlagChange::Add(flags), None).await.unwrap();
        mailbox.expunge(None).await.unwrap();
    }
    std::thread::sleep(Duration::from_millis(1100));
    store.tend_now().await.unwrap();
    assert_eq!(observed(&store).await.len(), 18);
    assert_eq!(findings(&store, &disk), Vec::new());
    store.close().await;
}

#[tokio::test]
async fn nothing_is_packed_where_that_is_not_wanted_or_while_the_store_is_used() {
    let disk = SimDisk::new(1);
    build(&disk, 100).await;
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { compress: false, ..options() };
    let store = Store::open(options, engine, Arc::new(disk.files())).unwrap();
    let before = disk.files().list().unwrap();
    store.tend_now().await.unwrap();
    assert_eq!(disk.files().list().unwrap(), before);
    store.close().await;
    drop(store);
    let store = open(&disk);
    for _ in 1..QUIET_ROUNDS {
        compact(&store, When::Idle).await.unwrap();
    }
    store.volumes().used(1 << 20);
    for _ in 0..QUIET_ROUNDS {
        assert_eq!(disk.files().list().unwrap(), before);
        compact(&store, When::Idle).await.unwrap();
    }
    compact(&store, When::Idle).await.unwrap();
    assert_ne!(disk.files().list().unwrap(), before);
    store.close().await;
}

#[tokio::test]
async fn packing_may_be_cut_off_anywhere() {
    let mut is_done = false;
    let mut operations = 0;
    while !is_done {
        let disk = SimDisk::new(operations);
        let bodies = build(&disk, 60).await;
        let store = open(&disk);
        disk.crash_after(operations);
        is_done = store.tend_now().await.is_ok();
        store.close().await;
        drop(store);
        disk.power_loss();
        for round in 0..2 {
            let store = open(&disk);
            assert_eq!(findings(&store, &disk), Vec::new(), "cut off at {operations}, round {round}");
            assert!(observed(&store).await == bodies, "cut off at {operations}, round {round}");
            store.tend_now().await.unwrap();
            assert!(observed(&store).await == bodies, "cut off at {operations}, round {round}");
            store.close().await;
        }
        // Nearly all operations are alike: one message more is copied.
        operations += if operations < 12 { 1 } else { 11 };
    }
    assert!(operations > 60, "{operations}");
}

#[tokio::test]
async fn a_failed_sync_of_copies_makes_the_store_read_only() {
    for kind in [OpKind::Sync, OpKind::SyncDirectory] {
        let disk = SimDisk::new(1);
        let bodies = build(&disk, 50).await;
        let store = open(&disk);
        let account = store.account(id(1)).await.unwrap();
        let contents = contents(&account).await;
        disk.fail_nth(kind, 0, Fault::Io);
        assert!(store.tend_now().await.is_err());
        assert!(store.read_only_because().is_some(), "{kind:?}");
        let change = account.create(&MailboxPath::new("new").unwrap(), Vec::new()).await;
        assert!(change.is_err(), "nothing is acknowledged any more");
        assert!(contents.iter().all(|content| account.read(*content).is_ok()), "reading goes on");
        drop(account);
        store.close().await;
        drop(store);
        disk.power_loss();
        let store = open(&disk);
        assert_eq!(findings(&store, &disk), Vec::new());
        assert!(observed(&store).await == bodies);
        store.tend_now().await.unwrap();
        assert!(observed(&store).await == bodies);
        store.close().await;
    }
}

#[tokio::test]
async fn a_damaged_message_stops_nothing_but_the_packing_of_its_volume() {
    let disk = SimDisk::new(1);
    build(&disk, 50).await;
    let store = open(&disk);
    let account = store.account(id(1)).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let mailbox = account.open(inbox).await.unwrap();
    let messages = mailbox.now().messages.clone().unwrap();
    let content = messages.iter().next().unwrap().unwrap().1.content;
    let at = account.content(content).unwrap().locator;
    disk.corrupt_file(&crate::volume::name(at.volume), at.offset + RECORD_HEADER + 20, 1).unwrap();
    let before = codings(&store, 1).await;
    store.tend_now().await.unwrap();
    store.tend_now().await.unwrap();
    assert!(account.read(content).is_err());
    assert!(store.read_only_because().is_none());
    let after = codings(&store, 1).await;
    assert_eq!(after[..51], before[..51]);
    // The large one has a volume of its own, which has gone its own way.
    assert_eq!(
        account.content(messages.iter().last().unwrap().unwrap().1.content).unwrap().locator.offset,
        FILE_HEADER
    );
    assert_eq!(findings(&store, &disk).len(), 1);
    store.close().await;
}

/// A store as the program before this format wrote it.
async fn make_format_2(disk: &SimDisk) {
    let store = open(disk);
    for n in [1, 2] {
        let account = store.account(id(n)).await.unwrap();
        let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
        let mailbox = account.open(inbox).await.unwrap();
        let messages = mailbox.now().messages.clone().unwrap();
        for found in messages.iter() {
            let content = found.unwrap().1.content;
            let mut record = account.content(content).unwrap();
            let body = account.read(content).unwrap();
            if store.volumes().record(record.locator, id(n), content).unwrap().header.coding == Coding::Raw {
                continue;
            }
            let header = RecordHeader {
                kind: RecordKind::Content,
                account: n,
                content,
                coding: Coding::Raw,
                stored: body.len() as u64,
                plain: body.len() as u64,
                crc: crc32c::crc32c(&body),
            };
            let number = record.locator.volume;
            let file = disk.files().open(&crate::volume::name(number)).unwrap();
            let own = encode_file_header(store.store_id(), number, Purpose::Arrivals);
            file.write_at(&[&own[..], &header.encode(), &body].concat(), 0).unwrap();
            file.set_len(FILE_HEADER + RECORD_HEADER + body.len() as u64).unwrap();
            file.sync().unwrap();
            let was = record.stored;
            record.stored = RECORD_HEADER as u32 + body.len() as u32;
            let change = account.transact(|t| {
                t.put_content(content, &record);
                t.live(number, i64::from(record.stored) - i64::from(was));
                Ok(())
            });
            change.await.unwrap();
        }
    }
    store.close().await;
    let engine = store.engine_for_check();
    let identity = Identity::read(&*engine).unwrap().unwrap();
    let mut batch = Batch::new();
    batch.put(Space::Meta, keys::STORE, identity.encode_as(2));
    engine.commit(batch).unwrap();
}

/// A crash leaves a header whose octets were never written, and mail comes behind it.
#[tokio::test]
async fn no_record_is_missed_behind_a_torn_one() {
    let disk = SimDisk::new(1);
    let mut bodies = build(&disk, 20).await;
    let file = disk.files().open(&crate::volume::name(1)).unwrap();
    let header = RecordHeader {
        kind: RecordKind::Content,
        account: 1,
        content: ContentId([9; 16]),
        coding: Coding::Raw,
        stored: 3000,
        plain: 3000,
        crc: 0,
    };
    file.write_at(&header.encode(), file.len().unwrap().next_multiple_of(8)).unwrap();
    let store = open(&disk);
    append(&store, 1, &[text(77)]).await;
    let account = store.account(id(1)).await.unwrap();
    let last = *contents(&account).await.last().unwrap();
    let at = account.content(last).unwrap().locator;
    assert_ne!(at.volume, 1);
    // Older programs went on in the same volume.
    let file = disk.files().open(&crate::volume::name(at.volume)).unwrap();
    let mut octets = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut octets, 0).unwrap();
    octets.splice(at.offset as usize..at.offset as usize, header.encode());
    octets.resize(octets.len() + 4000, 0);
    // A change without a body, so that nobody looks for this one after the restart.
    account.create(&MailboxPath::new("other").unwrap(), Vec::new()).await.unwrap();
    drop(account);
    store.close().await;
    drop(store);
    file.write_at(&octets, 0).unwrap();
    let store = open(&disk);
    let account = store.account(id(1)).await.unwrap();
    let mut record = account.content(last).unwrap();
    record.locator.offset += RECORD_HEADER;
    let change = account.transact(|t| {
        t.put_content(last, &record);
        Ok(())
    });
    change.await.unwrap();
    append(&store, 1, &(600..640).map(text).collect::<Vec<_>>()).await;
    bodies.extend((600..640).chain([77]).map(text));
    bodies.sort();
    store.tend_now().await.unwrap();
    store.tend_now().await.unwrap();
    assert!(observed(&store).await == bodies);
    assert!(!disk.files().list().unwrap().contains(&crate::volume::name(at.volume)));
    assert_eq!(findings(&store, &disk), Vec::new());
    store.close().await;
}

#[tokio::test]
async fn a_store_of_format_2_is_read_and_packed() {
    let disk = SimDisk::new(1);
    let bodies = build(&disk, 200).await;
    make_format_2(&disk).await;
    let engine = MemoryEngine::new(disk.clone());
    let found = crate::check::check(&engine, Arc::new(disk.files())).unwrap();
    assert_eq!(found, Vec::new(), "a store of that format lacks nothing");
    drop(engine);
    let store = open(&disk);
    assert!(codings(&store, 1).await.iter().all(|coding| *coding == Coding::Raw));
    assert!(observed(&store).await == bodies);
    let now = Identity::read(&*store.engine_for_check()).unwrap().unwrap();
    assert_eq!(now.format, FORMAT);
    let before = octets(&disk);
    store.tend_now().await.unwrap();
    assert!(octets(&disk) * 4 < before);
    assert!(observed(&store).await == bodies);
    assert_eq!(findings(&store, &disk), Vec::new());
    store.close().await;
}

#[tokio::test]
async fn a_large_message_in_one_piece_is_checked_at_its_end() {
    let disk = SimDisk::new(1);
    build(&disk, 1).await;
    make_format_2(&disk).await;
    let store = open(&disk);
    let account = store.account(id(1)).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let mailbox = account.open(inbox).await.unwrap();
    let messages = mailbox.now().messages.clone().unwrap();
    let content = messages.iter().last().unwrap().unwrap().1.content;
    let at = account.content(content).unwrap().locator;
    disk.corrupt_file(&crate::volume::name(at.volume), at.offset + RECORD_HEADER + 300_000, 1).unwrap();
    let reader = account.reader(content).unwrap();
    assert_eq!(reader.read(0, 350_000).unwrap().len(), 350_000);
    assert!(reader.read(350_000, 350_000).is_err());
    drop(mailbox);
    store.close().await;
}

#[tokio::test]
async fn what_waits_in_a_volume_is_there_when_it_is_appended() {
    let disk = SimDisk::new(77);
    let store = open(&disk);
    for n in [1, 2] {
        let mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
        store.create_account(id(n), NewAccount { mailboxes, ..NewAccount::default() }).await.unwrap();
    }
    let account = store.account(id(1)).await.unwrap();
    let come = |n: usize| {
        let body: Vec<u8> = text(n).into_iter().cycle().take(500_000).collect();
        let mut spool = account.spool();
        spool.push(&body).unwrap();
        (body, spool.finish().unwrap())
    };
    let compacted = async || {
        store.volumes().end_arrivals(1).unwrap();
        compact(&store, When::Now).await.unwrap();
    };
    let waiting: Vec<_> = (0..50).map(come).collect();
    let stowed = octets(&disk);
    assert!((7 << 20..9 << 20).contains(&stowed), "16 MiB are in memory, {stowed} octets in volumes");
    compacted().await;
    assert_eq!(octets(&disk), stowed, "somebody needs them");
    for (body, spooled) in &waiting {
        assert!(*body == spooled.read(0, body.len() + 1).unwrap());
        assert!(body[499_990..] == spooled.read(499_990, 100).unwrap() && spooled.octets_known() > 100);
    }
    let new = |spooled: &crate::append::Spooled| NewMessage {
        body: spooled.clone(),
        flags: SystemFlags::NONE,
        keywords: Vec::new(),
        date: InternalDate::from_unix(1),
    };
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    account.append(inbox, waiting.iter().map(|(_, spooled)| new(spooled)).collect()).await.unwrap();
    assert!(octets(&disk) < 26 << 20, "nothing was written twice");
    // For others they are copied.
    let other = store.account(id(2)).await.unwrap();
    let inbox = other.tree().get(&MailboxPath::inbox()).unwrap();
    other.append(inbox, waiting[48..].iter().map(|(_, spooled)| new(spooled)).collect()).await.unwrap();
    let mut all: Vec<Vec<u8>> = waiting.iter().map(|(body, _)| body.clone()).collect();
    all.extend_from_within(48..);
    all.sort();
    drop(waiting);
    compacted().await;
    assert!(observed(&store).await == all);
    // What is given up goes.
    let before = octets(&disk);
    drop((100..150).map(come).collect::<Vec<_>>());
    assert!(octets(&disk) > before + (7 << 20));
    compacted().await;
    assert!(octets(&disk) <= before);
    assert_eq!(findings(&store, &disk), []);
    store.close().await;
    disk.power_loss();
    assert!(observed(&open(&disk)).await == all);
}
