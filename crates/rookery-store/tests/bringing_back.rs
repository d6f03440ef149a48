//! What was deleted comes back, and what was saved elsewhere is put back as it was; a check finds nothing afterwards.

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{
    Account, NewAccount, NewMessage, RestoredMailbox, RestoredMessage, Store, StoreError, StoreOptions,
};
use rookery_types::{
    AccountId, InternalDate, MailboxId, MailboxPath, SystemFlags, Uid, UidSet, UidValidity, UserName,
};
use std::sync::Arc;

fn open(disk: &SimDisk) -> Store {
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    Store::open(options, engine, Arc::new(disk.files())).expect("the store opens")
}

fn path(name: &str) -> MailboxPath {
    MailboxPath::new(name).expect("a path")
}

fn message(store: &Store, n: u32, flags: SystemFlags) -> NewMessage {
    let mut spool = store.spool();
    spool.push(format!("Subject: {n}\r\n\r\nText of message {n}.\r\n").as_bytes()).expect("it takes octets");
    NewMessage {
        body: spool.finish().expect("it is whole"),
        flags,
        keywords: Vec::new(),
        date: InternalDate::from_unix(1_700_000_000),
    }
}

async fn account(store: &Store) -> (Account, MailboxId, MailboxId) {
    let owner = Some(UserName::parse("joe", "example.org").expect("a name"));
    let mailboxes = vec![(path("INBOX"), Vec::new()), (path("Old"), Vec::new())];
    let new = NewAccount { owner, mailboxes, ..NewAccount::default() };
    let account = store.create_account(AccountId::FIRST, new).await.expect("it is made");
    let (inbox, old) = (account.tree().get(&path("INBOX")), account.tree().get(&path("Old")));
    (account, inbox.expect("it is there"), old.expect("it is there"))
}

/// Closes, loses power, opens again, and checks everything.
async fn again(store: Store, disk: &SimDisk) -> Store {
    store.close().await;
    drop(store);
    disk.power_loss();
    let store = open(disk);
    let engine = store.engine_for_check();
    let findings = rookery_store::check::check(&*engine, Arc::new(disk.files())).expect("check runs");
    assert!(findings.is_empty(), "{findings:#?}");
    store
}

/// The UIDs of a mailbox, with the text of each message.
async fn texts(account: &Account, mailbox: MailboxId) -> Vec<(u32, String)> {
    let mailbox = account.open(mailbox).await.expect("it opens");
    let messages = mailbox.now().messages.clone().expect("it is open");
    let text = |content| String::from_utf8_lossy(&account.read(content).expect("it reads")).into_owned();
    let row = |found: Result<_, StoreError>| {
        let (_, message): (_, rookery_store::Message) = found.expect("it loads");
        (message.uid.get(), text(message.content))
    };
    messages.iter().map(row).collect()
}

#[tokio::test]
async fn expunged_messages_come_back_under_new_uids() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let (account, inbox, _) = account(&store).await;
    let new = (1..=5).map(|n| message(&store, n, SystemFlags::DELETED)).collect();
    account.append(inbox, new).await.expect("it appends");
    let held = account.usage();
    let mailbox = account.open(inbox).await.expect("it opens");
    mailbox.expunge(Some(&UidSet::range(2, 3))).await.expect("it expunges");
    drop((mailbox, account));
    let store = again(store, &disk).await;
    let account = store.account(AccountId::FIRST).await.expect("it is there");
    let gone = account.expunged(Some(inbox)).expect("it reads");
    assert_eq!(gone.iter().map(|one| one.message.uid.get()).collect::<Vec<_>>(), [2, 3]);
    let back = account.undelete_messages(inbox, &gone).await.expect("they come back");
    assert_eq!(back.ranges().collect::<Vec<_>>(), [(6, 7)]);
    assert_eq!(account.usage(), held);
    assert!(account.undelete_messages(inbox, &gone).await.expect("nothing is left").is_empty());
    assert!(account.expunged(None).expect("it reads").is_empty());
    drop(account);
    let store = again(store, &disk).await;
    let account = store.account(AccountId::FIRST).await.expect("it is there");
    let found = texts(&account, inbox).await;
    let uids: Vec<u32> = found.iter().map(|(uid, _)| *uid).collect();
    assert_eq!(uids, [1, 4, 5, 6, 7]);
    assert!(found[3].1.contains("message 2.") && found[4].1.contains("message 3."), "{found:?}");
    store.close().await;
}

#[tokio::test]
async fn a_deleted_mailbox_comes_back_as_it_was() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let (account, _, old) = account(&store).await;
    account.append(old, vec![message(&store, 1, SystemFlags::SEEN)]).await.expect("it appends");
    let before = texts(&account, old).await;
    let (held, validity) =
        (account.usage(), account.tree().state(old).expect("a state").settings.uid_validity);
    account.delete(old).await.expect("it deletes");
    let other = account.create(&path("Old"), Vec::new()).await.expect("the name is free");
    drop(account);
    let store = again(store, &disk).await;
    let account = store.account(AccountId::FIRST).await.expect("it is there");
    let deleted = account.deleted_mailboxes().expect("it reads");
    assert_eq!(deleted.iter().map(|one| (one.id, one.messages)).collect::<Vec<_>>(), [(old, 1)]);
    let taken = account.undelete_mailbox(old, &path("Old")).await;
    assert!(matches!(taken, Err(StoreError::AlreadyExists)), "{taken:?}");
    account.undelete_mailbox(old, &path("Older")).await.expect("it comes back");
    assert!(account.undelete_mailbox(other, &path("X")).await.is_err(), "it is not deleted");
    assert_eq!(account.tree().get(&path("Older")), Some(old));
    assert_eq!(account.usage(), held);
    drop(account);
    let store = again(store, &disk).await;
    let account = store.account(AccountId::FIRST).await.expect("it is there");
    assert_eq!(texts(&account, old).await, before);
    assert_eq!(account.tree().state(old).expect("a state").settings.uid_validity, validity);
    assert!(account.deleted_mailboxes().expect("it reads").is_empty());
    store.close().await;
}

#[tokio::test]
async fn a_deleted_account_comes_back_with_all_its_mail() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let (account, inbox, _) = account(&store).await;
    account.append(inbox, vec![message(&store, 1, SystemFlags::NONE)]).await.expect("it appends");
    let before = texts(&account, inbox).await;
    drop(account);
    store.delete_account(AccountId::FIRST).await.expect("it deletes");
    let store = again(store, &disk).await;
    assert!(store.account(AccountId::FIRST).await.is_err());
    let deleted = store.deleted_accounts().expect("it reads");
    let owner = deleted[0].owner.as_ref().map(UserName::as_str);
    assert_eq!((deleted.len(), deleted[0].id, owner), (1, AccountId::FIRST, Some("joe@example.org")));
    store.undelete_account(AccountId::FIRST).await.expect("it comes back");
    assert!(store.undelete_account(AccountId::FIRST).await.is_err(), "it is there");
    let store = again(store, &disk).await;
    let account = store.account(AccountId::FIRST).await.expect("it is there");
    assert_eq!(texts(&account, inbox).await, before);
    assert!(store.deleted_accounts().expect("it reads").is_empty());
    store.close().await;
}

#[tokio::test]
async fn a_mailbox_is_put_back_with_its_uids() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let (account, inbox, _) = account(&store).await;
    account.restore_from(7_000).await.expect("it goes on from there");
    let uid_validity = UidValidity::new(12_345).expect("not zero");
    let acl = account.tree().state(inbox).expect("a state").settings.acl.clone();
    let was = RestoredMailbox { path: path("INBOX"), uid_validity, special_use: Vec::new(), acl };
    assert_eq!(account.restore_mailbox(was.clone()).await.expect("it is restored"), inbox);
    let numbered = |uid: u32| RestoredMessage {
        uid: Uid::new(uid).expect("not zero"),
        saved_unix_seconds: 1_600_000_000 + uid,
        message: message(&store, uid, SystemFlags::SEEN),
    };
    account.restore_messages(inbox, vec![numbered(3), numbered(9)]).await.expect("they are restored");
    let low = account.restore_messages(inbox, vec![numbered(11), numbered(9)]).await;
    assert!(matches!(low, Err(StoreError::AlreadyExists)), "{low:?}");
    account.restored_mailbox(inbox, 20).await.expect("it is restored");
    assert!(account.restore_mailbox(was).await.is_err(), "it has messages");
    let appended =
        account.append(inbox, vec![message(&store, 1, SystemFlags::NONE)]).await.expect("it appends");
    assert_eq!((appended.uids[0].get(), appended.uid_validity), (20, uid_validity));
    drop(account);
    let store = again(store, &disk).await;
    let account = store.account(AccountId::FIRST).await.expect("it is there");
    let found: Vec<u32> = texts(&account, inbox).await.into_iter().map(|(uid, _)| uid).collect();
    assert_eq!(found, [3, 9, 20]);
    let mailbox = account.open(inbox).await.expect("it opens");
    assert!(mailbox.now().summary.highest_modseq.get() > 7_000);
    // A client that knew the account before cannot be told what went: the log does not reach back.
    assert_eq!(mailbox.vanished_since(7_000).expect("it reads"), None);
    drop(mailbox);
    store.close().await;
}
