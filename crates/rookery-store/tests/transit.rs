//! Moves to other homes, as each store sees its own half.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::check::check;
use rookery_store::{
    Account, Arrival, Destination, FlagChange, FlagList, Limits, Mailbox, NewAccount, NewMessage, Refusal,
    Store, StoreError, StoreOptions, Transit, TransitId, Verdict,
};
use rookery_types::{
    AccountId, InternalDate, MailboxId, MailboxPath, NodeId, SystemFlags, Uid, UidSet, UidValidity, UserName,
};
use std::sync::Arc;

fn open(disk: &SimDisk) -> Store {
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    Store::open(options, Arc::new(MemoryEngine::new(disk.clone())), Arc::new(disk.files())).unwrap()
}

fn id(n: u64) -> AccountId {
    AccountId::new(n).unwrap()
}

fn uid(n: u32) -> Uid {
    Uid::new(n).unwrap()
}

fn path(text: &str) -> MailboxPath {
    MailboxPath::new(text).unwrap()
}

fn message(store: &Store, text: &str) -> NewMessage {
    let mut spool = store.spool();
    spool.push(text.as_bytes()).unwrap();
    let (body, date) = (spool.finish().unwrap(), InternalDate::from_unix(1));
    NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date }
}

async fn account(store: &Store, number: u64) -> Account {
    let mailboxes = ["INBOX", "Other"].map(|name| (path(name), vec![]));
    let owner = Some(UserName::parse("joe@a.test", "").unwrap());
    let new = NewAccount { owner, mailboxes: mailboxes.to_vec(), ..NewAccount::default() };
    store.create_account(id(number), new).await.unwrap()
}

fn mailbox(account: &Account, name: &str) -> MailboxId {
    account.tree().get(&path(name)).unwrap()
}

fn exists(account: &Account, name: &str) -> u32 {
    account.tree().state(mailbox(account, name)).unwrap().summary.exists
}

fn destination() -> Destination {
    let user = UserName::parse("joe@a.test", "").unwrap();
    Destination { account: id(2), home: NodeId(5), path: path("INBOX"), user }
}

fn moved(pairs: &[(u32, u32)]) -> Verdict {
    let uids = pairs.iter().map(|(from, to)| (uid(*from), uid(*to))).collect();
    Verdict::Moved { uid_validity: UidValidity::new(9).unwrap(), uids }
}

fn is_whole(disk: &SimDisk, store: &Store) {
    let found = check(&*store.engine_for_check(), Arc::new(disk.files())).unwrap();
    assert!(found.is_empty(), "{found:#?}");
}

async fn flag(mailbox: &Mailbox, uids: &UidSet) -> Result<UidSet, StoreError> {
    let list = FlagList { flags: SystemFlags::FLAGGED, keywords: Vec::new() };
    mailbox.store_flags(uids, FlagChange::Add(list), None).await.map(|stored| stored.changed)
}

/// An account whose INBOX has five messages.
async fn filled(disk: &SimDisk) -> (Store, Account) {
    let store = open(disk);
    let account = account(&store, 1).await;
    let messages = (0..5).map(|n| message(&store, &format!("a: {n}\r\n\r\n"))).collect();
    account.append(mailbox(&account, "INBOX"), messages).await.unwrap();
    (store, account)
}

fn in_use<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::InUse)), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_in_transit_are_read_and_nothing_else() {
    let disk = SimDisk::new(1);
    let (store, account) = filled(&disk).await;
    let inbox = account.open(mailbox(&account, "INBOX")).await.unwrap();
    let other = mailbox(&account, "Other");
    let (transit, gone) = inbox.depart(&UidSet::range(2, 3), &destination()).await.unwrap().unwrap();
    assert_eq!(gone, UidSet::range(2, 3));
    assert_eq!(inbox.departing().unwrap(), gone);
    drop((inbox, account));
    store.close().await;
    drop(store);
    // A restart knows of it.
    disk.process_crash();
    let store = open(&disk);
    assert_eq!(store.departures().unwrap(), [transit]);
    let account = store.account(id(1)).await.unwrap();
    let inbox = account.open(mailbox(&account, "INBOX")).await.unwrap();
    let Some(Transit::Open(departure)) = account.transit(transit.counter).unwrap() else { panic!() };
    assert_eq!((departure.to, departure.mailbox), (destination(), inbox.id()));
    let all = UidSet::range(1, u32::MAX);
    in_use(flag(&inbox, &all).await);
    in_use(inbox.remove(&gone).await);
    in_use(inbox.r#move(&all, &account, other).await);
    in_use(inbox.depart(&all, &destination()).await);
    in_use(account.rename(&path("INBOX"), &path("New")).await);
    let new = message(&store, "b: c\r\n\r\n");
    in_use(account.replace(other, new, (inbox.id(), uid(3))).await);
    assert_eq!(inbox.copy(&all, &account, other).await.unwrap().from.len(), 5);
    assert_eq!(flag(&inbox, &UidSet::range(4, 5)).await.unwrap(), UidSet::range(4, 5));
    // Those that wait go on when it has ended.
    let verdict = moved(&[(2, 7), (3, 8)]);
    let (flagged, settled) = tokio::join!(flag(&inbox, &all), account.settle(transit.counter, &verdict));
    settled.unwrap();
    assert_eq!(flagged.unwrap(), UidSet::range(1, 1));
    assert_eq!(exists(&account, "INBOX"), 3);
    assert_eq!(account.expunged(Some(inbox.id())).unwrap().len(), 2);
    assert!(inbox.departing().unwrap().is_empty());
    // Said again, nothing more happens.
    account.settle(transit.counter, &Verdict::Refused(Refusal::Gone)).await.unwrap();
    assert_eq!(
        account.transit(transit.counter).unwrap(),
        Some(Transit::Done { account: id(2), home: NodeId(5) })
    );
    assert!(account.settled_below().await.unwrap() > transit.counter);
    is_whole(&disk, &store);
    account.close_departure(transit.counter).await.unwrap();
    assert_eq!((store.departures().unwrap(), account.transit(transit.counter).unwrap()), (vec![], None));
    is_whole(&disk, &store);
    drop((inbox, account));
    store.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_stays_and_a_mailbox_with_moves_is_not_deleted() {
    let disk = SimDisk::new(2);
    let (store, account) = filled(&disk).await;
    let inbox = account.open(mailbox(&account, "INBOX")).await.unwrap();
    let other = mailbox(&account, "Other");
    inbox.copy(&UidSet::range(1, 5), &account, other).await.unwrap();
    let open = account.open(other).await.unwrap();
    let depart =
        async |from: u32| open.depart(&UidSet::range(from, from), &destination()).await.unwrap().unwrap().0;
    let (one, two) = (depart(1).await, depart(2).await);
    assert!(one.counter < two.counter);
    in_use(account.delete(other).await);
    account.settle(two.counter, &Verdict::Refused(Refusal::OverQuota)).await.unwrap();
    assert_eq!(account.settled_below().await.unwrap(), one.counter);
    in_use(account.delete(other).await);
    account.settle(one.counter, &Verdict::Refused(Refusal::OverQuota)).await.unwrap();
    assert_eq!(exists(&account, "Other"), 5);
    assert!(account.settled_below().await.unwrap() > two.counter);
    account.delete(other).await.unwrap();
    // Nobody has been told of a change of the messages.
    is_whole(&disk, &store);
    drop((inbox, open, account));
    store.close().await;
}

#[tokio::test]
async fn a_verdict_is_given_once() {
    let disk = SimDisk::new(3);
    let store = open(&disk);
    let account = account(&store, 2).await;
    let inbox = mailbox(&account, "INBOX");
    let transit = |counter| TransitId { account: id(1), counter };
    let arrive = async |account: &Account, counter, texts: &[&str]| {
        let messages = (3..).zip(texts).map(|(n, text)| (uid(n), message(&store, text)));
        account.arrive(transit(counter), inbox, messages.collect()).await.unwrap()
    };
    let first = arrive(&account, 5, &["a: 1\r\n\r\n", "a: 2\r\n\r\n"]).await;
    let Arrival::Judged(Verdict::Moved { uids, .. }) = &first else { panic!("{first:?}") };
    assert_eq!(uids, &[(uid(3), uid(1)), (uid(4), uid(2))]);
    assert_eq!(arrive(&account, 5, &["a: 3\r\n\r\n"]).await, first);
    assert_eq!(account.refuse(transit(5), Refusal::GivenUp).await.unwrap(), first);
    // Two at once.
    let (one, two) =
        tokio::join!(arrive(&account, 6, &["b: 1\r\n\r\n"]), arrive(&account, 6, &["b: 1\r\n\r\n"]));
    assert_eq!(one, two);
    assert_eq!(exists(&account, "INBOX"), 3);
    // A refusal is for good, too.
    let limits = Limits { messages: Some(3), ..Limits::default() };
    account.set_quota(&MailboxPath::inbox(), limits).await.unwrap();
    let refused = Arrival::Judged(Verdict::Refused(Refusal::OverQuota));
    assert_eq!(arrive(&account, 7, &["c: 1\r\n\r\n"]).await, refused);
    account.set_quota(&MailboxPath::inbox(), Limits::default()).await.unwrap();
    assert_eq!(arrive(&account, 7, &["c: 1\r\n\r\n"]).await, refused);
    account.forget_arrivals(id(1), 6).await.unwrap();
    account.forget_arrivals(id(1), 3).await.unwrap();
    assert_eq!(arrive(&account, 5, &["a: 1\r\n\r\n"]).await, Arrival::Closed);
    assert_eq!(account.refuse(transit(4), Refusal::GivenUp).await.unwrap(), Arrival::Closed);
    assert_eq!(arrive(&account, 6, &["b: 1\r\n\r\n"]).await, one);
    // Of a deleted account as long as it is kept.
    store.delete_account(id(2)).await.unwrap();
    assert_eq!(account.judged(transit(6)).await.unwrap(), Some(one));
    let gone = Arrival::Judged(Verdict::Refused(Refusal::Gone));
    assert_eq!(account.refuse(transit(8), Refusal::Gone).await.unwrap(), gone);
    store.undelete_account(id(2)).await.unwrap();
    assert_eq!(arrive(&account, 8, &["d: 1\r\n\r\n"]).await, gone);
    assert_eq!(exists(&account, "INBOX"), 3);
    is_whole(&disk, &store);
    drop(account);
    store.close().await;
}

/// Power is lost at each operation of an arrival: either the messages are there with their verdict, or neither is.
#[tokio::test]
async fn messages_and_their_verdict_survive_together() {
    let mut crashes = 0;
    for operation in 0..40 {
        let disk = SimDisk::new(100 + operation);
        let store = open(&disk);
        let account = account(&store, 2).await;
        let transit = TransitId { account: id(1), counter: 5 };
        let messages = ["a: 1\r\n\r\n", "a: 2\r\n\r\n"].map(|text| (uid(9), message(&store, text)));
        disk.crash_after(operation);
        let arrived = account.arrive(transit, mailbox(&account, "INBOX"), messages.to_vec()).await;
        let is_down = disk.is_down();
        crashes += u64::from(is_down);
        drop((account, messages));
        store.close().await;
        drop(store);
        disk.power_loss();
        let store = open(&disk);
        let account = store.account(id(2)).await.unwrap();
        let known = account.judged(transit).await.unwrap();
        match known {
            Some(Arrival::Judged(Verdict::Moved { uids, .. })) => {
                assert_eq!((uids.len(), exists(&account, "INBOX")), (2, 2), "operation {operation}");
            }
            known => {
                assert!(arrived.is_err() && known.is_none(), "operation {operation}: {arrived:?} {known:?}");
                assert_eq!(exists(&account, "INBOX"), 0, "operation {operation}");
            }
        }
        is_whole(&disk, &store);
        drop(account);
        store.close().await;
        if !is_down {
            break;
        }
    }
    assert!((4..40).contains(&crashes), "{crashes} crashes");
}
