//! What a store folds when it closes, or is about to, so that the next opening has little to read.

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{
    FlagChange, FlagList, MailboxState, NewAccount, NewMessage, Store, StoreOptions, Summary,
};
use rookery_types::{AccountId, InternalDate, MailboxPath, SystemFlags, UidSet};
use std::sync::Arc;
use std::time::Duration;

fn id() -> AccountId {
    AccountId::new(1).expect("it is not zero")
}

fn open(disk: &SimDisk, background: Option<Duration>) -> Store {
    let options = StoreOptions { background, ..StoreOptions::default() };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    Store::open(options, engine, Arc::new(disk.files())).expect("it opens")
}

async fn append(store: &Store, count: usize) {
    let account = store.account(id()).await.expect("it is there");
    let inbox = account.tree().get(&MailboxPath::inbox()).expect("it is there");
    let mut spool = store.spool();
    spool.push(b"Subject: x\r\n\r\n").expect("it takes octets");
    let (body, date) = (spool.finish().expect("it is whole"), InternalDate::from_unix(1));
    let message = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
    account.append(inbox, vec![message; count]).await.expect("it appends");
}

async fn summary(store: &Store) -> Summary {
    let account = store.account(id()).await.expect("it is there");
    let tree = account.tree();
    tree.get(&MailboxPath::inbox()).and_then(|id| tree.state(id)).expect("it is there").summary
}

async fn state(store: &Store) -> Arc<MailboxState> {
    let account = store.account(id()).await.expect("it is there");
    let inbox = account.tree().get(&MailboxPath::inbox()).expect("it is there");
    account.open(inbox).await.expect("it opens").now()
}

async fn filled(disk: &SimDisk, background: Option<Duration>, count: usize) -> Store {
    let store = open(disk, background);
    let new = NewAccount { mailboxes: vec![(MailboxPath::inbox(), vec![])], ..NewAccount::default() };
    store.create_account(id(), new).await.expect("it is made");
    append(&store, count).await;
    store
}

#[tokio::test]
async fn a_store_folds_when_it_closes() {
    // Rounds that never come.
    let pause = Some(Duration::from_secs(1_000_000));
    let disk = SimDisk::new(1);
    let store = filled(&disk, pause, 900).await;
    assert_eq!((summary(&store).await.deltas, summary(&store).await.chunks), (900, 0));
    store.close().await;
    drop(store);
    let store = open(&disk, pause);
    assert_eq!((summary(&store).await.deltas, summary(&store).await.chunks), (0, 2));
    assert_eq!(state(&store).await.messages.as_ref().map(|messages| messages.len()), Some(900));
    // What is little stays: writing chunks anew for it would cost more than reading it.
    append(&store, 100).await;
    let account = store.account(id()).await.expect("it is there");
    let inbox = account.tree().get(&MailboxPath::inbox()).expect("it is there");
    let mailbox = account.open(inbox).await.expect("it opens");
    let change = FlagChange::Add(FlagList { flags: SystemFlags::SEEN, keywords: vec![] });
    mailbox.store_flags(&UidSet::range(1, 10), change, None).await.expect("it stores");
    store.close().await;
    drop((store, account, mailbox));
    let store = open(&disk, pause);
    assert_eq!(summary(&store).await.deltas, 110);
    let state = state(&store).await;
    let messages = state.messages.clone().expect("it is open");
    assert_eq!((messages.len(), state.summary.unseen), (1000, 990));
    store.close().await;
}

#[tokio::test]
async fn a_store_that_has_settled_is_used_and_closes_without_folding_more() {
    let pause = Some(Duration::from_secs(1_000_000));
    let disk = SimDisk::new(2);
    let store = filled(&disk, pause, 900).await;
    store.settle().await;
    assert_eq!((summary(&store).await.deltas, summary(&store).await.chunks), (0, 2));
    append(&store, 700).await;
    store.close().await;
    drop(store);
    let store = open(&disk, pause);
    assert_eq!(summary(&store).await.deltas, 700);
    assert_eq!(state(&store).await.messages.as_ref().map(|messages| messages.len()), Some(1600));
    store.close().await;
}
