//! One record of every kind is damaged in every way, and each time the store must name it, mend it and open again
//! with everything else as it was.
//!
//! `cargo test -p rookery-store --test damage -- --nocapture` prints the table.

#[path = "../image/mod.rs"]
mod image;
mod volumes;

use image::Image;
use rookery_kv::engine::{Engine, Space};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::check::{Outcome, Report, check, repair};
use rookery_store::{
    Account, Annotation, AnnotationName, Destination, FlagChange, FlagList, Limits, NewAccount, NewMessage,
    Once, Refusal, Store, StoreOptions, TransitId,
};
use rookery_types::{
    AccountId, InternalDate, Keyword, MailboxId, MailboxPath, OperationId, SystemFlags, UidSet, UserName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Semaphore;

fn options() -> StoreOptions {
    StoreOptions { background: None, volume_octets: 60_000, ..StoreOptions::default() }
}

fn open(disk: &SimDisk) -> Store {
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    Store::open(options(), engine, Arc::new(disk.files())).expect("the store opens")
}

fn account_id(n: u64) -> AccountId {
    AccountId::new(n).expect("not zero")
}

fn path(text: &str) -> MailboxPath {
    MailboxPath::new(text).expect("a path")
}

fn in_quarantine(image: &Image, value: &[u8]) -> bool {
    let mut own = image.records.iter().filter(|((space, _), _)| *space == Space::Meta);
    own.any(|((_, key), kept)| key.starts_with(b"quarantine/") && kept == value)
}

/// A message as a client sees it: flags, keywords and octets.
type Seen = (u8, Vec<String>, Vec<u8>);
type Mail = BTreeMap<(u64, String, u32), Seen>;

async fn mail(store: &Store) -> Mail {
    let mut mail = Mail::new();
    for n in 1..=3 {
        let account = store.account(account_id(n)).await.expect("the account is there");
        for (path, state) in account.tree().iter() {
            let mailbox = account.open(state.id).await.expect("it opens");
            let state = mailbox.now();
            assert!(mailbox.vanished_since(1).is_ok());
            for (_, message) in
                state.messages.as_ref().expect("it is open").iter().map(|found| found.expect("it is read"))
            {
                let body = account.read(message.content).expect("its octets are there").to_vec();
                account.facts(message.content).expect("its facts are there");
                let keywords = message.keywords.as_slice().iter();
                let names = keywords.map(|n| state.settings.keywords[usize::from(*n)].to_string()).collect();
                let key = (n, path.to_string(), message.uid.get());
                mail.insert(key, (message.flags.bits(), names, body));
            }
        }
    }
    mail
}

fn text(n: u32, reply_to: Option<u32>) -> Vec<u8> {
    let references = reply_to.map(|n| format!("In-Reply-To: <{n}@mail.example>\r\n")).unwrap_or_default();
    format!(
        "From: ann@mail.example\r\nSubject: message {n}\r\nDate: Mon, 3 Feb 2025 10:{:02}:{:02} +0100\r\n\
         Message-ID: <{n}@mail.example>\r\n{references}\r\nThis is the text of message {n}.\r\n",
        n / 60 % 60,
        n % 60
    )
    .into_bytes()
}

fn message(store: &Store, octets: &[u8], flags: SystemFlags, keywords: &[&str]) -> NewMessage {
    let mut spool = store.spool();
    spool.push(octets).expect("it takes octets");
    let keywords = keywords.iter().map(|name| Keyword::new(name).expect("a keyword")).collect();
    let date = InternalDate::from_unix(1_700_000_000);
    NewMessage { body: spool.finish().expect("it is whole"), flags, keywords, date }
}

fn flagged(flags: SystemFlags, keyword: &str) -> FlagChange {
    FlagChange::Add(FlagList { flags, keywords: vec![Keyword::new(keyword).expect("a keyword")] })
}

async fn fill(store: &Store, account: &Account, inbox: MailboxId, count: u32) {
    let base = account.id().get() as u32 * 10_000;
    for from in (0..count).step_by(100) {
        let new = (from..count.min(from + 100))
            .map(|n| {
                let reply_to = (n % 5 == 4).then(|| base + n - 1);
                message(store, &text(base + n, reply_to), SystemFlags::NONE, &["$one"])
            })
            .collect();
        account.append(inbox, new).await.expect("it appends");
    }
}

/// Three accounts with everything that a store can have.
async fn build() -> (Image, Mail) {
    let disk = SimDisk::new(7);
    let store = open(&disk);
    for (n, owner) in [(1, Some("ann@mail.example")), (2, Some("bob@mail.example")), (3, None)] {
        let owner = owner.map(|name| UserName::parse(name, "").expect("a name"));
        let boxes = ["INBOX", "Sent", "Archive", "Old"];
        let mailboxes = boxes.iter().map(|name| (path(name), Vec::new())).collect();
        let subscriptions = vec!["INBOX".into(), "Archive".into()];
        let account = store
            .create_account(account_id(n), NewAccount { owner, mailboxes, subscriptions })
            .await
            .expect("it is made");
        let id = |name: &str| account.tree().get(&path(name)).expect("the mailbox is there");
        account.subscribe("Lists/rust", None).await.expect("it subscribes");
        let limits = Limits { octets: Some(10 << 20), messages: None, mailboxes: Some(9) };
        account.set_quota(&path("Archive"), limits).await.expect("it has a quota");
        for (of, reader) in [
            (Some(id("Sent")), None),
            (Some(id("Old")), Some("bob@mail.example")),
            (None, Some("ann@mail.example")),
        ] {
            let owner = reader.map(|name| UserName::parse(name, "").expect("a name"));
            let name = AnnotationName { owner, entry: "/shared/comment".into() };
            let note = Annotation { name, value: Some("so it is".into()) };
            account.annotate(of, &[note], None).await.expect("it is annotated");
        }
        let entry = ("/shared/comment".to_string(), Some("hello".into()));
        store.annotate_server(&[entry]).await.expect("the server is annotated");
        let inbox = id("INBOX");
        fill(&store, &account, inbox, if n == 1 { 1100 } else { 12 }).await;
        let open = account.open(inbox).await.expect("it opens");
        let set = |a, b| UidSet::range(a, b);
        open.store_flags(&set(2, 8), flagged(SystemFlags::SEEN, "$two"), None).await.expect("it stores");
        if n == 1 {
            store.tend_now().await.expect("it folds");
            assert!(open.now().summary.chunks >= 3 && open.now().summary.deltas == 0);
        }
        let reader = UserName::parse("carl@mail.example", "").expect("a name");
        let read = account.clone().seen_by(&reader).open(inbox).await.expect("it opens");
        for (uids, seen) in [(set(1, 1090), true), (set(7, 7), false), (set(1030, 1032), false)] {
            let list = FlagList { flags: SystemFlags::SEEN, keywords: Vec::new() };
            let change = if seen { FlagChange::Add(list) } else { FlagChange::Remove(list) };
            read.store_flags(&uids, change, None).await.expect("it stores");
        }
        // Over what is folded: new flags, expunged messages, copies, moves and new mail.
        open.store_flags(&set(3, 4), flagged(SystemFlags::FLAGGED, "$three"), None).await.expect("it stores");
        open.store_flags(&set(9, 10), flagged(SystemFlags::DELETED, "$four"), None).await.expect("it stores");
        open.expunge(None).await.expect("it expunges");
        open.copy(&set(2, 4), &account, id("Sent")).await.expect("it copies");
        open.r#move(&set(5, 6), &account, id("Archive")).await.expect("it moves");
        let once = Once {
            sender: "cat@mail.example".into(),
            message_id: "<once@mail.example>".into(),
            window: std::time::Duration::from_secs(3600),
        };
        let delivered = message(&store, &text(9_700 + n as u32, None), SystemFlags::NONE, &[]);
        account
            .append_once(id("Sent"), delivered, &once, &[OperationId([n as u8; 16])])
            .await
            .expect("it delivers")
            .expect("it is the first");
        let late = message(&store, &text(9_000 + n as u32, Some(1)), SystemFlags::DRAFT, &["$late"]);
        account.append(inbox, vec![late]).await.expect("it appends");
        let old = message(&store, &text(9_500 + n as u32, None), SystemFlags::SEEN, &[]);
        account.append(id("Old"), vec![old]).await.expect("it appends");
        account.delete(id("Old")).await.expect("it deletes");
        let to = Destination {
            account: account_id(77),
            home: store.node(),
            path: path("INBOX"),
            user: UserName::parse("ann@mail.example", "").expect("a name"),
        };
        let departs = open.depart(&set(2, 3), &to).await.expect("it departs");
        assert!(departs.is_some_and(|(_, uids)| uids == set(2, 3)));
        let transit = |counter| TransitId { account: account_id(70 + n), counter };
        account.forget_arrivals(account_id(70 + n), 5).await.expect("it forgets");
        account.refuse(transit(6), Refusal::NoRight).await.expect("it refuses");
        // One that is there already, so that the volumes are what they would be without it.
        let new = message(&store, &text(9_700 + n as u32, None), SystemFlags::NONE, &[]);
        let from = open.now().messages.as_ref().expect("it is open").iter().next().expect("there is one");
        let from = from.expect("it is read").1.uid;
        account.arrive(transit(7), id("Sent"), vec![(from, new)]).await.expect("it arrives");
        if n == 2 {
            let mut large = text(9_999, None);
            large.resize(700_000, b'x');
            let large = message(&store, &large, SystemFlags::ANSWERED, &[]);
            account.append(id("Archive"), vec![large]).await.expect("it appends");
        }
    }
    let mail = mail(&store).await;
    store.close().await;
    drop(store);
    (Image::of(&disk), mail)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flip,
    Drop,
    Duplicate,
    Truncate,
}

const DAMAGES: [Damage; 4] = [Damage::Flip, Damage::Drop, Damage::Duplicate, Damage::Truncate];

/// Each kind of record in the engine, its space, and how to know its keys.
type Known = fn(&[u8]) -> bool;
const RECORDS: [(&str, Space, Known); 31] = [
    ("store identity", Space::Meta, |key| key == b"store"),
    ("group", Space::Meta, |key| key == b"group"),
    ("tail", Space::Meta, |key| key == b"tail"),
    ("volume counter", Space::Meta, |key| key.starts_with(b"volume/")),
    ("account", Space::Account, |key| key[8] == 0),
    ("subscription", Space::Account, |key| key[8] == 1),
    ("subscription list", Space::Account, |key| key[8] == 2),
    ("annotation", Space::Account, |key| key[8] == 3),
    ("annotation usage", Space::Account, |key| key[8] == 4),
    ("private seen", Space::Account, |key| key[8] == 5 && key[key.len() - 5] == 0),
    ("private seen summary", Space::Account, |key| key[8] == 5 && key[key.len() - 5] != 0),
    ("deliveries", Space::Account, |key| key[8] == 6),
    ("outgoing move", Space::Account, |key| key[8] == 7),
    ("incoming moves floor", Space::Account, |key| key[8] == 8 && key.len() == 17),
    ("incoming move", Space::Account, |key| key[8] == 8 && key.len() == 25),
    ("operation", Space::Account, |key| key[8] == 9),
    ("move pointer", Space::Meta, |key| key.starts_with(b"transit/")),
    ("server annotations", Space::Meta, |key| key == b"annotations"),
    ("mailbox settings", Space::Mailbox, |key| key[12] == 0),
    ("mailbox summary", Space::Mailbox, |key| key[12] == 1),
    ("quota usage", Space::Mailbox, |key| key[12] == 2),
    ("message chunk", Space::Chunk, |_| true),
    ("message delta", Space::Delta, |_| true),
    ("chunk summary", Space::Leaf, |_| true),
    ("change log entry", Space::Log, |_| true),
    ("tombstone", Space::Tombstone, |_| true),
    ("content", Space::Content, |key| key[24] == 0),
    ("content facts", Space::Content, |key| key[24] == 1),
    ("thread", Space::Thread, |_| true),
    ("expunged message", Space::Queue, |key| key[16..] != [0; 4]),
    ("deleted mailbox", Space::Queue, |key| key[16..] == [0; 4]),
];

/// Another key of the same kind that nothing has.
fn other_key(kind: &str, key: &[u8]) -> Vec<u8> {
    let mut other = key.to_vec();
    match kind {
        "store identity" | "group" | "tail" | "subscription" | "annotation" | "server annotations" => {
            other.push(b'2')
        }
        "volume counter"
        | "account"
        | "subscription list"
        | "annotation usage"
        | "deliveries"
        | "outgoing move"
        | "incoming move"
        | "incoming moves floor"
        | "operation" => other[7] ^= 0x40,
        "move pointer" => other[15] ^= 0x40,
        "mailbox settings"
        | "mailbox summary"
        | "quota usage"
        | "expunged message"
        | "deleted mailbox"
        | "private seen"
        | "private seen summary" => other[11] ^= 0x40,
        "message chunk" | "chunk summary" | "message delta" | "tombstone" => other[13] ^= 0x40,
        _ => other[10] ^= 0x40,
    }
    other
}

/// Damages a record; tells which finding has to name it, and the octets that must not be destroyed.
fn damage(image: &mut Image, kind: &str, space: Space, key: &[u8], how: Damage) -> (String, Option<Vec<u8>>) {
    let at = (space, key.to_vec());
    let mut value = image.records[&at].clone();
    match how {
        Damage::Flip => {
            let middle = value.len() / 2;
            value[middle] ^= 0x10;
            image.records.insert(at, value.clone());
        }
        Damage::Truncate => {
            value.pop();
            image.records.insert(at, value.clone());
        }
        Damage::Drop => {
            image.records.remove(&at);
            return (named(space, key), None);
        }
        Damage::Duplicate => {
            let other = other_key(kind, key);
            assert!(image.records.insert((space, other.clone()), value.clone()).is_none());
            return (named(space, &other), Some(value));
        }
    }
    (named(space, key), Some(value))
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn named(space: Space, key: &[u8]) -> String {
    match key.strip_prefix(b"volume/") {
        Some(number) if space == Space::Meta => format!("volume/{}", hex(number)),
        _ if space == Space::Meta && key.starts_with(b"transit/") => {
            let number = |at: usize| u64::from_be_bytes(key[at..at + 8].try_into().expect("eight octets"));
            format!("transit/{}-{}", number(8), number(16))
        }
        _ if space == Space::Meta => String::from_utf8_lossy(key).into_owned(),
        _ => hex(key),
    }
}

/// How many messages may be elsewhere, or have other flags, after a kind of damage: those of the record.
fn may_differ(kind: &str, how: Damage) -> usize {
    match (kind, how) {
        (_, Damage::Duplicate) => 0,
        ("message chunk", _) => 512,
        ("message delta", _) => 1,
        ("mailbox settings", _) => usize::MAX,
        _ => 0,
    }
}

struct Row {
    kind: String,
    damage: String,
    found: String,
    outcome: String,
}

#[expect(clippy::print_stdout, reason = "the table is for whoever runs the test")]
fn print(rows: &[Row]) {
    println!("{:<18} | {:<9} | {:<60} | outcome", "kind", "damage", "found as");
    for row in rows {
        println!("{:<18} | {:<9} | {:<60} | {}", row.kind, row.damage, row.found, row.outcome);
    }
}

fn outcome_of(report: &Report, kind: &str, record: &str) -> String {
    let same = |exact: bool| {
        let mut done = report.done.iter();
        done.find(|(f, _)| f.kind == kind && (!exact || f.record == record)).map(|(_, o)| o.clone())
    };
    match same(true).or_else(|| same(false)) {
        Some(outcome @ (Outcome::Repaired(_) | Outcome::Quarantined(_))) => outcome.to_string(),
        None => panic!("the report says nothing of {kind} {record}: {report}"),
    }
}

/// Checks, repairs, checks again and opens; gives the report, what was found, and the mail that is there.
async fn through(label: &str, image: &Image) -> (Vec<rookery_store::check::Finding>, Report, Image, Mail) {
    let disk = image.disk();
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let found = check(&*engine, Arc::new(disk.files())).expect("check runs");
    let report = repair(&*engine, Arc::new(disk.files())).unwrap_or_else(|e| panic!("{label}: {e:?}"));
    assert!(report.left.is_empty(), "{label}: not repaired: {:#?}\ndone: {report}", report.left);
    let again = check(&*engine, Arc::new(disk.files())).expect("check runs");
    assert!(again.is_empty(), "{label}: {again:#?}");
    drop(engine);
    let mended = Image::of(&disk);
    let store = open(&disk);
    let mail = mail(&store).await;
    // The store goes on: a message comes, and the check still finds nothing.
    let account = store.account(account_id(1)).await.expect("the account is there");
    let inbox = account.tree().iter().next().map(|(_, state)| state.id).expect("there is a mailbox");
    let new = message(&store, &text(1, None), SystemFlags::NONE, &[]);
    account.append(inbox, vec![new]).await.unwrap_or_else(|e| panic!("{label}: {e}"));
    store.close().await;
    let last = check(&*store.engine_for_check(), Arc::new(disk.files())).expect("check runs");
    assert!(last.is_empty(), "{label}: after going on: {last:#?}");
    (found, report, mended, mail)
}

/// All octets of mail that were there before are there still, in the same account.
fn assert_no_mail_lost(label: &str, before: &Mail, after: &Mail) {
    let bodies = |mail: &Mail| -> BTreeSet<(u64, Vec<u8>)> {
        mail.iter().map(|((account, ..), (_, _, body))| (*account, body.clone())).collect()
    };
    let lost = bodies(before).difference(&bodies(after)).count();
    assert_eq!(lost, 0, "{label}: mail is lost");
}

fn differences(before: &Mail, after: &Mail) -> usize {
    before.iter().filter(|(key, seen)| after.get(*key) != Some(*seen)).count()
}

/// Damages one record and sees it through; gives its row of the table.
async fn record_case(
    image: Arc<Image>,
    before: Arc<Mail>,
    (kind, space, key): (&'static str, Space, Vec<u8>),
    how: Damage,
) -> Row {
    let label = format!("{kind} {how:?} {}", named(space, &key));
    let mut damaged = Image::clone(&image);
    let (record, octets) = damage(&mut damaged, kind, space, &key, how);
    let (found, report, mended, after) = through(&label, &damaged).await;
    let finding = found.iter().find(|f| f.kind == kind && (f.record == record || how == Damage::Drop));
    let finding = finding.unwrap_or_else(|| panic!("{label}: not named: {found:#?}"));
    if let Some(octets) = octets {
        assert!(in_quarantine(&mended, &octets), "{label}: the damaged octets are gone");
    }
    assert_no_mail_lost(&label, &before, &after);
    let differ = differences(&before, &after);
    assert!(differ <= may_differ(kind, how), "{label}: {differ} messages differ\n{report}");
    Row {
        kind: kind.into(),
        damage: format!("{how:?}"),
        found: finding.what.clone(),
        outcome: outcome_of(&report, kind, &finding.record),
    }
}

/// Cases that run at the same time: each holds a whole store.
const AT_ONCE: usize = 2;

/// Runs cases, each to its end or its panic, so that the table is whole even when one fails.
async fn run(cases: Vec<(String, impl Future<Output = Row> + Send + 'static)>) -> (Vec<Row>, Vec<String>) {
    let mut rows: Vec<Row> = Vec::new();
    let mut failures = Vec::new();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let begin = |(label, case)| {
        let room = room.clone();
        let running = tokio::spawn(async move {
            let _room = room.acquire().await.expect("it is never closed");
            case.await
        });
        (label, running)
    };
    let running: Vec<_> = cases.into_iter().map(begin).collect();
    for (label, case) in running {
        match case.await {
            Ok(row)
                if rows.last().is_some_and(|last| (&last.kind, &last.damage) == (&row.kind, &row.damage)) => {
            }
            Ok(row) => rows.push(row),
            Err(_) => failures.push(label),
        }
    }
    (rows, failures)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_record_and_every_damage() {
    let (image, before) = build().await;
    let disk = image.disk();
    let engine = MemoryEngine::new(disk.clone());
    let healthy = check(&engine, Arc::new(disk.files())).expect("check runs");
    assert!(healthy.is_empty(), "{healthy:#?}");
    let (image, before) = (Arc::new(image), Arc::new(before));
    let mut cases = Vec::new();
    for (kind, space, is_kind) in RECORDS {
        let of_kind = image.records.keys().filter(|(s, key)| *s == space && is_kind(key));
        let keys: Vec<Vec<u8>> = of_kind.map(|(_, key)| key.clone()).collect();
        assert!(!keys.is_empty(), "the store has no {kind}");
        let targets: BTreeSet<usize> = [0, keys.len() / 2, keys.len() - 1].into_iter().collect();
        for how in DAMAGES {
            // No other record knows that the server has annotations, what was delivered when, or what was said of moves
            // and operations.
            let is_alone =
                ["server annotations", "deliveries", "incoming move", "incoming moves floor", "operation"];
            if how == Damage::Drop && is_alone.contains(&kind) {
                continue;
            }
            for at in &targets {
                let key = keys[*at].clone();
                let label = format!("{kind} {how:?} {}", named(space, &key));
                cases.push((label, record_case(image.clone(), before.clone(), (kind, space, key), how)));
            }
        }
    }
    let (rows, failures) = run(cases).await;
    print(&rows);
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The octets of many messages that come with one command, and of a large one that comes slowly, are in volumes while
/// others are committed.
#[tokio::test]
async fn a_lost_end_with_messages_that_have_waited() {
    let body = |n: u32| text(n, None).into_iter().cycle().take(500_000).collect::<Vec<u8>>();
    let large = [body(70_000), body(70_001)].concat();
    for many in [0, 40] {
        let (image, before) = build().await;
        let disk = image.disk();
        let store = open(&disk);
        let account = store.account(account_id(1)).await.expect("the account is there");
        let inbox = account.tree().get(&MailboxPath::inbox()).expect("it has an INBOX");
        let mut wanted = Vec::new();
        let mut waiting = Vec::new();
        let bodies = (60_000..60_000 + many).map(body).chain((many == 0).then(|| large.clone()));
        for body in bodies {
            let mut spool = account.spool();
            spool.push(&body).expect("it is taken");
            let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1));
            let body_of = spool.finish().expect("it is whole");
            waiting.push(NewMessage { body: body_of, flags, keywords: Vec::new(), date });
            wanted.push(body);
        }
        for n in 50_000..50_300 {
            let new = message(&store, &text(n, None), SystemFlags::SEEN, &[]);
            account.append(inbox, vec![new]).await.expect("it appends");
            wanted.push(text(n, None));
        }
        account.append(inbox, waiting).await.expect("it appends");
        let new = message(&store, &text(50_400, None), SystemFlags::SEEN, &[]);
        account.append(inbox, vec![new]).await.expect("it appends");
        store.close().await;
        drop((account, store));
        assert_eq!(disk.lose_suffix_of_durable(4), 4);
        let engine = Arc::new(MemoryEngine::new(disk.clone()));
        let found = check(&*engine, Arc::new(disk.files())).expect("check runs");
        assert!(found.iter().any(|f| f.kind == "group"), "{found:#?}");
        let report = repair(&*engine, Arc::new(disk.files())).expect("repair runs");
        assert!(report.left.is_empty(), "{report}");
        let after = mail(&open(&disk)).await;
        assert_eq!(differences(&before, &after), 0);
        for wanted in wanted {
            let is_there = after.values().any(|(_, _, body)| *body == wanted);
            assert!(is_there, "{many}: {} is lost", wanted[..60].escape_ascii());
        }
    }
}

/// The engine loses its newest commits: all mail is in the volumes, so all comes back.
#[tokio::test]
async fn a_lost_end_of_the_engine() {
    let (image, before) = build().await;
    let disk = image.disk();
    let store = open(&disk);
    let account = store.account(account_id(1)).await.expect("the account is there");
    let inbox = account.tree().get(&MailboxPath::inbox()).expect("it has an INBOX");
    let mut last = (0, 0);
    for n in 50_000..50_020 {
        let new = message(&store, &text(n, None), SystemFlags::SEEN, &[]);
        account.append(inbox, vec![new]).await.expect("it appends");
        let summary = account.tree().state(inbox).expect("it is there").summary;
        last = (summary.uid_next, summary.highest_modseq.get());
    }
    store.close().await;
    drop(store);
    assert_eq!(disk.lose_suffix_of_durable(10), 10);
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    let refused = Store::open(options(), engine.clone(), Arc::new(disk.files()));
    assert!(matches!(refused, Err(rookery_store::OpenError::LostSuffix { .. })));
    let found = check(&*engine, Arc::new(disk.files())).expect("check runs");
    assert!(found.iter().any(|f| f.kind == "group"), "{found:#?}");
    let report = repair(&*engine, Arc::new(disk.files())).expect("repair runs");
    assert!(report.left.is_empty(), "{report}");
    let store = open(&disk);
    let after = mail(&store).await;
    assert_eq!(differences(&before, &after), 0);
    for n in 50_000..50_020 {
        assert!(after.values().any(|(_, _, body)| *body == text(n, None)), "message {n} is lost\n{report}");
    }
    let account = store.account(account_id(1)).await.expect("the account is there");
    let summary = account.tree().state(inbox).expect("it is there").summary;
    assert!(summary.uid_next > last.0 && summary.highest_modseq.get() > last.1, "numbers go back");
    let mailbox = account.open(inbox).await.expect("it opens");
    assert_eq!(mailbox.vanished_since(last.1).expect("it reads"), None, "clients must look again");
}
