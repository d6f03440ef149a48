//! A store without threads of its own, as simulations have it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxPath, SystemFlags};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

fn open(disk: &SimDisk) -> Store {
    let options = StoreOptions { background: None, by_steps: true, ..StoreOptions::default() };
    Store::open(options, Arc::new(MemoryEngine::new(disk.clone())), Arc::new(disk.files())).unwrap()
}

#[tokio::test]
async fn nothing_is_written_but_by_a_step() {
    rookery_kv::sim::in_place();
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let id = AccountId::new(1).unwrap();
    let new = NewAccount { mailboxes: vec![(MailboxPath::inbox(), vec![])], ..NewAccount::default() };
    let mut made = pin!(store.create_account(id, new));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(made.as_mut().poll(&mut cx).is_pending());
    store.commit_waits().await;
    assert!(store.account(id).await.is_err());
    assert!(store.commit_step() && !store.commit_step());
    let account = made.await.unwrap();
    // With a body, so that a volume is synced, before the engine commits and after it.
    for uid in 1..=2 {
        let mut spool = store.spool();
        spool.push(b"Subject: x\r\n\r\n").unwrap();
        let (body, date) = (spool.finish().unwrap(), InternalDate::from_unix(1));
        let message = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
        let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
        let mut appended = pin!(account.append(inbox, vec![message]));
        assert!(appended.as_mut().poll(&mut cx).is_pending());
        assert!(store.commit_step());
        assert_eq!(appended.await.unwrap().uids.first().map(|uid| uid.get()), Some(uid));
    }
    store.close().await;
    drop(account);
    disk.power_loss();
    let store = open(&disk);
    let account = store.account(id).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    assert_eq!(account.tree().state(inbox).unwrap().summary.exists, 2);
    store.close().await;
    let findings =
        rookery_store::check::check(&MemoryEngine::new(disk.clone()), Arc::new(disk.files())).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}
