//! An account before, while and after its changes are stopped.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod copying;

use super::*;
use crate::append::NewMessage;
use crate::check::check;
use crate::records::{AccountRecord, AccountState, Travel};
use crate::store::{NewAccount, StoreOptions};
use crate::{FlagChange, FlagList};
use rookery_kv::engine::{Batch, Space};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_types::{InternalDate, JobId, MailboxId, MailboxPath, SystemFlags, UidSet};
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_millis(100);

fn open(disk: &SimDisk) -> Store {
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    Store::open(options, Arc::new(MemoryEngine::new(disk.clone())), Arc::new(disk.files())).unwrap()
}

fn id() -> AccountId {
    AccountId::new(1).unwrap()
}

fn travel() -> Travel {
    Travel { job: JobId(7), peer: NodeId(5), epoch: Epoch(2), modseq: 0 }
}

fn left() -> Whereabouts {
    Whereabouts::Left { node: NodeId(5), epoch: Epoch(2) }
}

async fn account(store: &Store) -> (Account, MailboxId) {
    let mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
    let new = NewAccount { mailboxes, ..NewAccount::default() };
    let account = store.create_account(id(), new).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    (account, inbox)
}

async fn append(account: &Account, inbox: MailboxId, text: &str) -> Result<(), StoreError> {
    let mut spool = account.store.spool();
    spool.push(text.as_bytes()).unwrap();
    let (body, date) = (spool.finish().unwrap(), InternalDate::from_unix(1));
    let new = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
    account.append(inbox, vec![new]).await.map(drop)
}

fn exists(account: &Account, inbox: MailboxId) -> u32 {
    account.tree().state(inbox).unwrap().summary.exists
}

/// Whether something is still waiting after everybody else had their turn.
async fn waits<T>(task: &tokio::task::JoinHandle<T>) -> bool {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    !task.is_finished()
}

#[tokio::test]
async fn changes_wait_while_an_account_is_frozen_and_go_on_afterwards() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let (account, inbox) = account(&store).await;
    append(&account, inbox, "a: b\r\n\r\n").await.unwrap();
    let modseq = account.modseq();
    let frozen = account.freeze(PATIENCE).await.unwrap().unwrap();
    assert_eq!(frozen.modseq(), modseq);
    let (here, other) = (account.clone(), account.clone());
    let appending = tokio::spawn(async move { append(&here, inbox, "c: d\r\n\r\n").await });
    let guarding = tokio::spawn(async move { other.guard().await });
    assert!(waits(&appending).await && waits(&guarding).await);
    // Reading does not wait, also of what nobody had open.
    let mailbox = account.open(inbox).await.unwrap();
    assert_eq!(mailbox.now().messages.as_ref().unwrap().len(), 1);
    drop(frozen);
    appending.await.unwrap().unwrap();
    drop(guarding.await.unwrap().unwrap());
    assert_eq!(exists(&account, inbox), 2);
    assert_eq!(*account.whereabouts().borrow(), Whereabouts::Here);
    store.close().await;
}

#[tokio::test]
async fn who_holds_a_guard_is_waited_for_and_not_for_long() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let (account, inbox) = account(&store).await;
    let guard = account.guard().await.unwrap();
    // It takes too long: nothing is frozen, and everybody goes on.
    assert!(account.freeze(Duration::from_millis(5)).await.unwrap().is_none());
    drop(account.guard().await.unwrap());
    let freezer = account.clone();
    let freezing =
        tokio::spawn(
            async move { freezer.freeze(Duration::from_secs(60)).await.map(|frozen| frozen.is_some()) },
        );
    assert!(waits(&freezing).await);
    // Others wait; whoever has one goes on, and gets another.
    let late = account.clone();
    let waiting = tokio::spawn(async move { late.guard().await.map(drop) });
    assert!(waits(&waiting).await);
    append(&account, inbox, "a: b\r\n\r\n").await.unwrap();
    let again = account.guard().await.unwrap();
    drop(guard);
    assert!(waits(&freezing).await);
    drop(again);
    assert!(freezing.await.unwrap().unwrap());
    waiting.await.unwrap().unwrap();
    append(&account, inbox, "c: d\r\n\r\n").await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn what_is_released_is_never_changed_again() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let (account, inbox) = account(&store).await;
    append(&account, inbox, "a: b\r\n\r\n").await.unwrap();
    let other = account.create(&MailboxPath::new("Other").unwrap(), Vec::new()).await.unwrap();
    let modseq = account.modseq();
    let frozen = account.freeze(PATIENCE).await.unwrap().unwrap();
    let (here, late) = (account.clone(), account.clone());
    let appending = tokio::spawn(async move { append(&here, inbox, "c: d\r\n\r\n").await });
    let guarding = tokio::spawn(async move { late.guard().await.map(drop) });
    assert!(waits(&appending).await && waits(&guarding).await);
    frozen.release(travel()).await.unwrap();
    assert!(matches!(appending.await.unwrap(), Err(StoreError::Moved)));
    assert!(matches!(guarding.await.unwrap(), Err(StoreError::Moved)));
    // It is read until its new home serves it.
    assert_eq!(*account.whereabouts().borrow(), Whereabouts::Here);
    let mailbox = store.account(id()).await.unwrap().open(inbox).await.unwrap();
    let list = FlagList { flags: SystemFlags::FLAGGED, keywords: Vec::new() };
    let flagged = mailbox.store_flags(&UidSet::range(1, 1), FlagChange::Add(list), None).await;
    assert!(matches!(flagged, Err(StoreError::Moved)));
    assert!(matches!(account.delete(other).await, Err(StoreError::Moved)));
    assert!(matches!(store.delete_account(id()).await, Err(StoreError::Moved)));
    assert!(matches!(account.freeze(PATIENCE).await, Err(StoreError::Moved)));
    assert_eq!((account.modseq(), exists(&account, inbox)), (modseq, 1));
    // The work in the background passes over it.
    store.tend_now().await.unwrap();
    drop((mailbox, account));
    store.close().await;
    drop(store);

    disk.process_crash();
    let store = open(&disk);
    let account = store.account(id()).await.unwrap();
    let record = store.account_record(id()).unwrap().unwrap();
    assert_eq!(record.state, AccountState::Released(Travel { modseq, ..travel() }));
    assert_eq!(store.whereabouts(id()).unwrap(), Some(left()));
    assert!(matches!(append(&account, inbox, "e: f\r\n\r\n").await, Err(StoreError::Moved)));
    let mut told = account.whereabouts();
    account.leave();
    assert_eq!(*told.borrow_and_update(), left());
    account.leave();
    assert!(!told.has_changed().unwrap());
    assert!(matches!(store.account(id()).await, Err(StoreError::Moved)));
    assert_eq!(check(&*store.engine_for_check(), Arc::new(disk.files())).unwrap(), Vec::new());
    store.close().await;
}

/// The sequencer refuses what comes after the release; if it ever failed to, the committer would.
#[tokio::test]
async fn the_committer_fences_off_what_was_released() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let (account, inbox) = account(&store).await;
    let frozen = account.freeze(PATIENCE).await.unwrap().unwrap();
    frozen.release(travel()).await.unwrap();
    let ticket = {
        let mut t = account.cell.begin(store.engine()).unwrap();
        t.pretend_home();
        t.note(inbox, crate::Change::Settings);
        t.finish(store.committer())
    };
    assert_eq!(ticket.wait().await, Err(crate::CommitError::Fenced));
    store.close().await;
}

/// Whoever waits while an account goes hears of it whatever else is on its way to the disk.
#[tokio::test]
async fn who_waits_while_it_goes_and_is_forgotten_hears_of_it() {
    let disk = SimDisk::new(1);
    let options = StoreOptions { background: None, by_steps: true, ..StoreOptions::default() };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    let store = Store::open(options, engine, Arc::new(disk.files())).unwrap();
    let step = async |task: &dyn Fn() -> bool| {
        while !task() {
            store.commit_step();
            tokio::task::yield_now().await;
        }
    };
    let maker = store.clone();
    let making = tokio::spawn(async move { account(&maker).await });
    step(&|| making.is_finished()).await;
    let (account, inbox) = making.await.unwrap();
    let freezer = account.clone();
    let freezing = tokio::spawn(async move { freezer.freeze(PATIENCE).await });
    step(&|| freezing.is_finished()).await;
    let frozen = freezing.await.unwrap().unwrap().unwrap();
    let here = account.clone();
    let appending = tokio::spawn(async move { append(&here, inbox, "c: d\r\n\r\n").await });
    assert!(waits(&appending).await);
    let releasing = tokio::spawn(frozen.release(travel()));
    assert!(waits(&releasing).await);
    // The release is durable, and the next state is on its way before anybody else has a turn.
    assert!(store.commit_step());
    let next = store.clone();
    let mut moved = Box::pin(async move { next.has_moved(id()).await });
    assert!(futures_poll(&mut moved).is_pending());
    assert!(!waits(&appending).await);
    assert!(matches!(appending.await.unwrap(), Err(StoreError::Moved)));
    releasing.await.unwrap().unwrap();
    assert!(store.commit_step());
    moved.await.unwrap();
    store.close().await;
}

/// Whoever comes in at the moment an account is at home here has the same one in memory as all who come later.
#[tokio::test]
async fn it_is_in_memory_once_whoever_finds_it_first() {
    let disk = SimDisk::new(1);
    let options = StoreOptions { background: None, by_steps: true, ..StoreOptions::default() };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    let store = Store::open(options, engine, Arc::new(disk.files())).unwrap();
    let maker = store.clone();
    let mut making = Box::pin(async move { account(&maker).await });
    assert!(futures_poll(&mut making).is_pending());
    assert!(store.commit_step());
    let found = store.account(id()).await.unwrap();
    let (made, _) = making.await;
    assert!(Arc::ptr_eq(&found.cell, &made.cell));
    // It comes back from elsewhere.
    let record = store.account_record(id()).unwrap().unwrap();
    let ready = AccountState::Ready(Travel { modseq: record.modseq.get(), ..travel() });
    let (modseq, record) = (record.modseq.get(), AccountRecord { state: ready, ..record });
    let mut batch = Batch::new();
    batch.put(Space::Account, crate::keys::account_record(id()).to_vec(), record.encode(id()));
    let writer = store.clone();
    let mut writing = Box::pin(async move { writer.commit_foreign(batch).await });
    assert!(futures_poll(&mut writing).is_pending());
    assert!(store.commit_step());
    writing.await.unwrap();
    store.unload(id());
    drop((found, made));
    let taker = store.clone();
    let mut taking = Box::pin(async move { taker.take_home(id(), JobId(7), modseq).await });
    assert!(futures_poll(&mut taking).is_pending());
    assert!(matches!(store.account(id()).await, Err(StoreError::Moved)));
    assert!(store.commit_step());
    let found = store.account(id()).await.unwrap();
    taking.await.unwrap();
    assert!(Arc::ptr_eq(&found.cell, &store.account(id()).await.unwrap().cell));
    store.close().await;
}

fn futures_poll<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> std::task::Poll<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    future.as_mut().poll(&mut context)
}
