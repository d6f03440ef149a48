//! Appends that have ids, so that a lost answer can be asked for.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{Account, NewAccount, NewMessage, Once, Store, StoreError, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, OperationId, SystemFlags};
use std::sync::Arc;
use std::time::Duration;

fn opened(disk: &SimDisk) -> Store {
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    Store::open(options, engine, Arc::new(disk.files())).unwrap()
}

fn message(store: &Store, text: &str) -> NewMessage {
    let mut spool = store.spool();
    spool.push(text.as_bytes()).unwrap();
    let (body, date) = (spool.finish().unwrap(), InternalDate::from_unix(1));
    NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date }
}

fn id() -> AccountId {
    AccountId::new(1).unwrap()
}

async fn account(store: &Store) -> (Account, MailboxId) {
    let new = NewAccount { mailboxes: vec![(MailboxPath::inbox(), vec![])], ..NewAccount::default() };
    let account = store.create_account(id(), new).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    (account, inbox)
}

fn exists(account: &Account, mailbox: MailboxId) -> u32 {
    account.tree().state(mailbox).unwrap().summary.exists
}

#[tokio::test]
async fn a_repetition_gets_the_same_answer_and_changes_nothing() {
    let disk = SimDisk::new(3);
    let store = opened(&disk);
    let (account, inbox) = account(&store).await;
    let one = OperationId([1; 16]);
    let both = || vec![message(&store, "a: 1\r\n\r\n"), message(&store, "a: 2\r\n\r\n")];
    account.append(inbox, both()).await.unwrap();
    let ids = [one];
    let (first, second) =
        tokio::join!(account.append_as(&ids, inbox, both()), account.append_as(&ids, inbox, both()));
    let appended = first.unwrap();
    assert_eq!((appended.uids[0].get(), appended.uids.len()), (3, 2));
    assert_eq!(second.unwrap(), appended);
    assert_eq!(account.settle_operation(one).await.unwrap(), Some(appended.clone()));
    store.close().await;
    drop((account, store));
    let store = opened(&disk);
    let account = store.account(id()).await.unwrap();
    let again = account.append_as(&[one], inbox, vec![message(&store, "a: 3\r\n\r\n")]).await;
    assert_eq!((again.unwrap(), exists(&account, inbox)), (appended.clone(), 4));
    // Whatever became of the messages.
    account.delete(inbox).await.unwrap_err();
    let open = account.open(inbox).await.unwrap();
    open.remove(&appended.uids.iter().copied().collect()).await.unwrap();
    assert_eq!(account.settle_operation(one).await.unwrap(), Some(appended));
    assert_eq!(exists(&account, inbox), 2);
}

#[tokio::test]
async fn what_was_asked_for_before_it_came_never_comes() {
    let store = opened(&SimDisk::new(4));
    let (account, inbox) = account(&store).await;
    let (late, other) = (OperationId([1; 16]), OperationId([2; 16]));
    assert_eq!(account.settle_operation(late).await.unwrap(), None);
    let come = |ids: &[OperationId]| {
        let (ids, account, message) = (ids.to_vec(), account.clone(), message(&store, "a: 1\r\n\r\n"));
        async move { account.append_as(&ids, inbox, vec![message]).await }
    };
    assert!(matches!(come(&[late]).await, Err(StoreError::GivenUp)));
    assert!(matches!(come(&[other, late]).await, Err(StoreError::GivenUp)));
    let window = Duration::from_secs(60);
    let once = Once { sender: "a@b.test".into(), message_id: "<1@b.test>".into(), window };
    let delivered = account.append_once(inbox, message(&store, "a: 2\r\n\r\n"), &once, &[late]).await;
    assert!(matches!(delivered, Err(StoreError::GivenUp)));
    assert_eq!((account.settle_operation(late).await.unwrap(), exists(&account, inbox)), (None, 0));
    // What came by several is known by each of them.
    let several = [other, OperationId([3; 16])];
    let delivered =
        account.append_once(inbox, message(&store, "a: 2\r\n\r\n"), &once, &several).await.unwrap();
    for id in several {
        assert_eq!(account.settle_operation(id).await.unwrap(), delivered);
    }
}

#[tokio::test]
async fn a_deleted_account_answers_nothing() {
    let store = opened(&SimDisk::new(5));
    let (account, _) = account(&store).await;
    store.delete_account(id()).await.unwrap();
    assert!(matches!(account.settle_operation(OperationId([1; 16])).await, Err(StoreError::NoAccount)));
}
