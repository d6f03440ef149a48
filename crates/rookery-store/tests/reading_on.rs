//! A store that can write no more is one to read: also of mailboxes that nobody had open.

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::{Fault, OpKind, SimDisk};
use rookery_store::{Account, FlagChange, FlagList, NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, SystemFlags};
use std::sync::Arc;

fn message(store: &Store) -> NewMessage {
    let mut spool = store.spool();
    spool.push(b"Subject: news\r\n\r\n").expect("it takes octets");
    NewMessage {
        body: spool.finish().expect("it is whole"),
        flags: SystemFlags::default(),
        keywords: Vec::new(),
        date: InternalDate::from_unix(1_700_000_000),
    }
}

fn open(disk: &SimDisk) -> Store {
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    Store::open(options, engine, Arc::new(disk.files())).expect("the store opens")
}

fn path(name: &str) -> MailboxPath {
    MailboxPath::new(name).expect("a path")
}

fn mailbox(account: &Account, name: &str) -> MailboxId {
    account.tree().get(&path(name)).expect("it is there")
}

async fn exists(account: &Account, name: &str) -> Result<usize, rookery_store::StoreError> {
    let opened = account.open(mailbox(account, name)).await?;
    let state = opened.now();
    let messages = state.messages.as_ref().expect("an open mailbox has its messages in memory");
    messages.iter().try_for_each(|message| message.map(drop))?;
    Ok(messages.len())
}

#[tokio::test]
async fn mailboxes_are_opened_and_read_after_a_write_has_failed() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let ids = [AccountId::FIRST, AccountId::new(9).expect("an id")];
    for id in ids {
        let mailboxes = ["INBOX", "one", "two"].map(|name| (path(name), Vec::new())).to_vec();
        let new = NewAccount { mailboxes, ..NewAccount::default() };
        let account = store.create_account(id, new).await.expect("it is made");
        for (name, count) in [("INBOX", 3), ("one", 1), ("two", 2)] {
            let messages = (0..count).map(|_| message(&store)).collect();
            account.append(mailbox(&account, name), messages).await.expect("it appends");
        }
    }
    store.close().await;
    drop(store);
    let store = open(&disk);
    let hit = store.account(ids[0]).await.expect("it is there");
    assert_eq!(exists(&hit, "INBOX").await.expect("it opens"), 3);
    disk.fail_nth(OpKind::Commit, 1, Fault::Io);
    let inbox = mailbox(&hit, "INBOX");
    assert!(hit.append(inbox, vec![message(&store)]).await.is_err());
    assert!(store.read_only_because().is_some());
    // Whether the message is on the disk nobody knows: what was in memory is shown, and nothing else of the account.
    assert_eq!(exists(&hit, "INBOX").await.expect("it is open"), 3);
    assert!(exists(&hit, "one").await.is_err());
    // Accounts that had nothing on its way are read as ever, after changes were refused, too.
    let other = store.account(ids[1]).await.expect("it is there");
    assert_eq!(exists(&other, "one").await.expect("it opens"), 1);
    let opened = other.open(mailbox(&other, "one")).await.expect("it opens");
    let uids = [rookery_types::Uid::new(1).expect("a UID")].into_iter().collect();
    let seen = FlagChange::Add(FlagList { flags: SystemFlags::SEEN, ..FlagList::default() });
    assert!(opened.store_flags(&uids, seen, None).await.is_err());
    assert!(other.create(&path("three"), Vec::new()).await.is_err());
    assert!(other.append(mailbox(&other, "two"), vec![message(&store)]).await.is_err());
    assert_eq!(opened.now().summary.unseen, 1);
    assert_eq!(exists(&other, "two").await.expect("it opens"), 2);
    assert_eq!(exists(&other, "INBOX").await.expect("it opens"), 3);
    store.close().await;
}
