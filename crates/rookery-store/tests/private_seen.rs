//! \Seen of those who are not the owner: what is counted when nothing remembers what has gone, and after a restart.

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{Account, FlagChange, FlagList, NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, SystemFlags, UidSet, UserName};
use std::sync::Arc;

fn open(disk: &SimDisk) -> Store {
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let engine = MemoryEngine::new(disk.clone());
    Store::open(options, Arc::new(engine), Arc::new(disk.files())).expect("it opens")
}

fn user(name: &str) -> UserName {
    UserName::parse(name, "").expect("a name")
}

async fn store_flag(account: &Account, id: MailboxId, uids: UidSet, flag: SystemFlags) {
    let list = FlagList { flags: flag, keywords: Vec::new() };
    let mailbox = account.open(id).await.expect("it opens");
    mailbox.store_flags(&uids, FlagChange::Add(list), None).await.expect("it stores");
}

/// Unseen messages and HIGHESTMODSEQ, as STATUS has them.
async fn counted(account: &Account, id: MailboxId) -> (u32, u64) {
    let state = account.tree().state(id).expect("the mailbox is there");
    let summary = account.summary_of(&state).await.expect("it is counted");
    (summary.unseen, summary.highest_modseq.get())
}

#[tokio::test]
async fn it_is_counted_anew_when_nothing_remembers_what_has_gone() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let id = AccountId::new(1).expect("an id");
    let mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
    let new = NewAccount { owner: Some(user("ann@example.org")), mailboxes, subscriptions: vec![] };
    let owner = store.create_account(id, new).await.expect("it is made");
    let inbox = owner.tree().get(&MailboxPath::inbox()).expect("INBOX is there");
    let mut spool = store.spool();
    spool.push(b"Subject: x\r\n\r\n").expect("it takes octets");
    let body = spool.finish().expect("it is whole");
    let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1));
    let message = NewMessage { body, flags, keywords: Vec::new(), date };
    owner.append(inbox, vec![message; 6]).await.expect("it appends");
    let kim = owner.clone().seen_by(&user("kim@example.org"));
    store_flag(&kim, inbox, UidSet::range(1, 4), SystemFlags::SEEN).await;
    let (unseen, own) = counted(&kim, inbox).await;
    assert_eq!(unseen, 2);
    assert_eq!(counted(&owner, inbox).await.0, 6);
    // Two go that kim has seen, one that she has not; from here on the change log knows of nothing before.
    store_flag(&owner, inbox, UidSet::range(2, 3), SystemFlags::DELETED).await;
    store_flag(&owner, inbox, UidSet::range(6, 6), SystemFlags::DELETED).await;
    owner.open(inbox).await.expect("it opens").expunge(None).await.expect("it expunges");
    assert_eq!(counted(&kim, inbox).await.0, 1, "by the tombstones");
    owner.restore_from(owner.modseq()).await.expect("the log begins anew");
    let (unseen, highest) = counted(&kim, inbox).await;
    assert_eq!(unseen, 1, "by the messages");
    assert!(highest >= own);
    store_flag(&kim, inbox, UidSet::range(1, 6), SystemFlags::SEEN).await;
    let last = counted(&kim, inbox).await;
    assert!(last.0 == 0 && last.1 > highest, "{last:?}");
    assert_eq!(counted(&owner, inbox).await.0, 3);
    store.close().await;
    drop((owner, kim, store));
    let store = open(&disk);
    let kim = store.account(id).await.expect("it is there").seen_by(&user("kim@example.org"));
    assert_eq!(counted(&kim, inbox).await, last);
    let findings = rookery_store::check::check(&*store.engine_for_check(), Arc::new(disk.files()));
    assert_eq!(findings.expect("check runs"), []);
}

/// Which of the messages a user sees as seen.
async fn seen(account: &Account, id: MailboxId) -> Vec<u32> {
    let mailbox = account.open(id).await.expect("it opens");
    let state = mailbox.now();
    let messages =
        state.messages.as_ref().expect("it is open").iter().map(|found| found.expect("it is read").1);
    let seen: Vec<u32> = messages
        .filter(|message| message.flags.contains(SystemFlags::SEEN))
        .map(|message| message.uid.get())
        .collect();
    let unseen = state.summary.exists - seen.len() as u32;
    assert_eq!((unseen, counted(account, id).await.0), (state.summary.unseen, unseen));
    seen
}

#[tokio::test]
async fn it_goes_with_a_user_who_gets_another_name() {
    let disk = SimDisk::new(2);
    let store = open(&disk);
    let mut inboxes = Vec::new();
    for n in 1..=3 {
        let mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
        let new = NewAccount { owner: Some(user(&format!("u{n}@x.test"))), mailboxes, subscriptions: vec![] };
        let owner = store.create_account(AccountId::new(n).expect("an id"), new).await.expect("it is made");
        let inbox = owner.tree().get(&MailboxPath::inbox()).expect("INBOX is there");
        let mut spool = store.spool();
        spool.push(b"Subject: x\r\n\r\n").expect("it takes octets");
        let body = spool.finish().expect("it is whole");
        let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1));
        owner
            .append(inbox, vec![NewMessage { body, flags, keywords: Vec::new(), date }; 6])
            .await
            .expect("it appends");
        inboxes.push((owner, inbox));
    }
    let as_user = |n: usize, name: &str| inboxes[n].0.clone().seen_by(&user(name));
    let (kim, kay, lee) = ("kim@x.test", "kay@x.test", "lee@x.test");
    // Of the first, with the new name known there already; of the second, which nobody has open; of the third nothing.
    store_flag(&as_user(0, kim), inboxes[0].1, UidSet::range(1, 4), SystemFlags::SEEN).await;
    store_flag(&as_user(0, kay), inboxes[0].1, UidSet::range(5, 5), SystemFlags::SEEN).await;
    store_flag(&as_user(1, kim), inboxes[1].1, UidSet::range(2, 3), SystemFlags::SEEN).await;
    store_flag(&as_user(2, lee), inboxes[2].1, UidSet::range(6, 6), SystemFlags::SEEN).await;
    store_flag(&inboxes[0].0, inboxes[0].1, UidSet::range(2, 2), SystemFlags::DELETED).await;
    inboxes[0].0.open(inboxes[0].1).await.expect("it opens").expunge(None).await.expect("it expunges");
    let open_by_kay = as_user(0, kay).open(inboxes[0].1).await.expect("it opens");
    let before =
        (counted(&as_user(0, kay), inboxes[0].1).await.1, counted(&as_user(1, kay), inboxes[1].1).await.1);
    assert_eq!(store.rename_reader(&user(kim), &user(kay)).await.expect("it is done"), 2);
    assert_eq!(seen(&as_user(0, kay), inboxes[0].1).await, [1, 3, 4, 5]);
    assert_eq!(open_by_kay.now().summary.unseen, 1, "who has it open hears of it");
    assert_eq!(seen(&as_user(1, kay), inboxes[1].1).await, [2, 3]);
    // A client that asks what has changed is told.
    assert!(counted(&as_user(0, kay), inboxes[0].1).await.1 > before.0);
    assert!(counted(&as_user(1, kay), inboxes[1].1).await.1 > before.1);
    for (n, none) in [(0, kim), (1, kim), (2, kim), (2, kay)] {
        assert_eq!(seen(&as_user(n, none), inboxes[n].1).await, [] as [u32; 0]);
    }
    assert_eq!(seen(&as_user(2, lee), inboxes[2].1).await, [6]);
    assert_eq!(seen(&inboxes[0].0, inboxes[0].1).await, [] as [u32; 0]);
    assert_eq!(store.rename_reader(&user(kim), &user(kay)).await.expect("it is done"), 0, "once is enough");
    drop(open_by_kay);
    drop(inboxes);
    store.close().await;
    drop(store);
    let store = open(&disk);
    let kay = |n| {
        let account = store.account(AccountId::new(n).expect("an id"));
        async move { account.await.expect("it is there").seen_by(&user(kay)) }
    };
    let inbox = |account: &Account| account.tree().get(&MailboxPath::inbox()).expect("INBOX is there");
    let (one, two) = (kay(1).await, kay(2).await);
    assert_eq!(seen(&one, inbox(&one)).await, [1, 3, 4, 5]);
    assert_eq!(seen(&two, inbox(&two)).await, [2, 3]);
    let findings = rookery_store::check::check(&*store.engine_for_check(), Arc::new(disk.files()));
    assert_eq!(findings.expect("check runs"), []);
}
