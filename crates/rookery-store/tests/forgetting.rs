//! Forgetting what was expunged, and compacting what it leaves, may be cut off at any moment: a check finds nothing.

mod image;

use image::Image;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxPath, SystemFlags, UidSet};
use std::sync::Arc;
use std::time::Duration;

fn open(disk: &SimDisk) -> Store {
    let options = StoreOptions {
        background: None,
        volume_octets: 20_000,
        retention: Duration::ZERO,
        ..StoreOptions::default()
    };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    Store::open(options, engine, Arc::new(disk.files())).expect("the store opens")
}

fn message(store: &Store, n: u32) -> NewMessage {
    let mut spool = store.spool();
    let text = format!("Subject: {n}\r\nMessage-ID: <{n}@mail.example>\r\n\r\nText of message {n}.\r\n");
    spool.push(text.as_bytes()).expect("it takes octets");
    NewMessage {
        body: spool.finish().expect("it is whole"),
        flags: SystemFlags::DELETED,
        keywords: Vec::new(),
        date: InternalDate::from_unix(1_700_000_000),
    }
}

/// A deleted mailbox and expunged messages, all due to be forgotten, among messages that stay.
async fn build() -> Image {
    let disk = SimDisk::new(3);
    let store = open(&disk);
    let mailboxes =
        ["INBOX", "Old"].map(|name| (MailboxPath::new(name).expect("a path"), Vec::new())).to_vec();
    let id = AccountId::new(1).expect("not zero");
    let new = NewAccount { mailboxes, ..NewAccount::default() };
    let account = store.create_account(id, new).await.expect("it is made");
    let [inbox, old] = ["INBOX", "Old"]
        .map(|name| account.tree().get(&MailboxPath::new(name).expect("a path")).expect("it is there"));
    for from in (0..1100).step_by(100) {
        let new = (from..from + 100).map(|n| message(&store, n)).collect();
        account.append(old, new).await.expect("it appends");
    }
    let new = (2000..2300).map(|n| message(&store, n)).collect();
    account.append(inbox, new).await.expect("it appends");
    let mailbox = account.open(inbox).await.expect("it opens");
    mailbox.copy(&UidSet::range(5, 20), &account, inbox).await.expect("it copies");
    mailbox.expunge(Some(&UidSet::range(1, 280))).await.expect("it expunges");
    drop(mailbox);
    store.tend_now().await.expect("it folds");
    account.delete(old).await.expect("it deletes");
    store.close().await;
    Image::of(&disk)
}

#[tokio::test]
async fn forgetting_and_compacting_may_be_cut_off_anywhere() {
    let image = build().await;
    // Due is what was expunged before this second: the only clock that the store looks at.
    std::thread::sleep(Duration::from_millis(1100));
    for operations in 0..10_000 {
        let disk = image.disk();
        let store = open(&disk);
        disk.crash_after(operations);
        let is_done = store.tend_now().await.is_ok();
        store.close().await;
        drop(store);
        disk.power_loss();
        let store = open(&disk);
        for round in 0..2 {
            let engine = store.engine_for_check();
            let findings = rookery_store::check::check(&*engine, Arc::new(disk.files())).expect("check runs");
            assert!(findings.is_empty(), "cut off at {operations}, round {round}: {findings:#?}");
            store.tend_now().await.expect("it goes on");
        }
        store.close().await;
        if is_done {
            assert!(operations > 10, "there was nothing to be done");
            return;
        }
    }
    panic!("it never ends");
}
