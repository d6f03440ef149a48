//! Appends and copies that have ids, so that a lost answer can be asked for.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{
    Account, Copied, NewAccount, NewMessage, Once, Settled, Store, StoreError, StoreOptions,
};
use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, OperationId, SystemFlags, Uid, UidSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
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
    assert_eq!(account.settle_operation(one).await.unwrap(), Settled::Appended(appended.clone()));
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
    assert_eq!(account.settle_operation(one).await.unwrap(), Settled::Appended(appended));
    assert_eq!(exists(&account, inbox), 2);
}

#[tokio::test]
async fn what_was_asked_for_before_it_came_never_comes() {
    let store = opened(&SimDisk::new(4));
    let (account, inbox) = account(&store).await;
    let (late, other) = (OperationId([1; 16]), OperationId([2; 16]));
    assert_eq!(account.settle_operation(late).await.unwrap(), Settled::Undone);
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
    assert_eq!(
        (account.settle_operation(late).await.unwrap(), exists(&account, inbox)),
        (Settled::Undone, 0)
    );
    // What came by several is known by each of them.
    let several = [other, OperationId([3; 16])];
    let delivered =
        account.append_once(inbox, message(&store, "a: 2\r\n\r\n"), &once, &several).await.unwrap();
    for id in several {
        let settled = account.settle_operation(id).await.unwrap();
        assert_eq!(Some(settled), delivered.clone().map(Settled::Appended));
    }
}

/// An account with a mailbox besides INBOX, and another account.
async fn two_accounts(store: &Store) -> [(Account, MailboxId); 3] {
    let (one, inbox) = account(store).await;
    let work = one.create(&MailboxPath::new("Work").unwrap(), vec![]).await.unwrap();
    let new = NewAccount { mailboxes: vec![(MailboxPath::inbox(), vec![])], ..NewAccount::default() };
    let other = store.create_account(AccountId::new(2).unwrap(), new).await.unwrap();
    let theirs = other.tree().get(&MailboxPath::inbox()).unwrap();
    [(one.clone(), inbox), (one, work), (other, theirs)]
}

#[tokio::test]
async fn a_copy_is_done_once_and_known_afterwards() {
    let store = opened(&SimDisk::new(6));
    let [(account, inbox), within, across] = two_accounts(&store).await;
    let letters = (0..5).map(|n| message(&store, &format!("a: {n}\r\n\r\n"))).collect();
    account.append(inbox, letters).await.unwrap();
    let source = account.open(inbox).await.unwrap();
    let uids = UidSet::from_iter([1, 3, 4].map(|uid| Uid::new(uid).unwrap()));
    for (n, (to, target)) in [within, across].into_iter().enumerate() {
        let id = |m: u8| OperationId([u8::try_from(n).unwrap() * 10 + m; 16]);
        let copied = source.copy_as(&[id(1)], &uids, &to, target).await.unwrap();
        assert_eq!(copied.to.iter().map(|uid| uid.get()).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(source.copy_as(&[id(1)], &uids, &to, target).await.unwrap(), copied);
        assert_eq!(to.settle_operation(id(1)).await.unwrap(), Settled::Copied(copied));
        // What was asked about before it came does not come, and an id is of one thing.
        assert_eq!(to.settle_operation(id(2)).await.unwrap(), Settled::Undone);
        for (operation, refused) in [(id(2), true), (id(1), true), (id(3), false)] {
            let appended = to.append_as(&[operation], target, vec![message(&store, "b: 1\r\n\r\n")]).await;
            assert_eq!(matches!(appended, Err(StoreError::GivenUp)), refused);
        }
        for operation in [id(2), id(3)] {
            let refused = source.copy_as(&[operation], &uids, &to, target).await;
            assert!(matches!(refused, Err(StoreError::GivenUp)), "{refused:?}");
        }
        assert_eq!(exists(&to, target), 4);
    }
}

#[tokio::test]
async fn of_a_copy_that_is_broken_off_nobody_says_that_it_is_undone() {
    // So that no second step of the copy can be done before the first is seen.
    let store = opened_by_steps(&SimDisk::new(7));
    let [(account, inbox), within, across] = two_accounts(&store).await;
    let letters = (0..1001).map(|n| message(&store, &format!("a: {n}\r\n\r\n"))).collect();
    account.append(inbox, letters).await.unwrap();
    let source = account.open(inbox).await.unwrap();
    let all = UidSet::range(1, 1001);
    for (n, (to, target)) in [within, across].into_iter().enumerate() {
        let id = |m: u8| OperationId([u8::try_from(n).unwrap() * 10 + m; 16]);
        {
            let ids = [id(1)];
            let mut copying = std::pin::pin!(source.copy_as(&ids, &all, &to, target));
            while exists(&to, target) == 0 {
                tokio::select! {
                    biased;
                    done = &mut copying => panic!("{done:?}"),
                    () = tokio::task::yield_now() => {}
                }
            }
        }
        assert_eq!(to.settle_operation(id(1)).await.unwrap(), Settled::Open);
        let again = source.copy_as(&[id(1)], &all, &to, target).await;
        assert!(matches!(again, Err(StoreError::GivenUp)), "{again:?}");
        // One that comes to its end is known as a whole.
        let copied = source.copy_as(&[id(2)], &all, &to, target).await.unwrap();
        assert_eq!(copied.to.len(), 1001);
        assert_eq!(to.settle_operation(id(2)).await.unwrap(), Settled::Copied(copied));
    }
}

#[tokio::test]
async fn a_message_is_replaced_once() {
    let store = opened(&SimDisk::new(8));
    let [(account, inbox), (_, work), _] = two_accounts(&store).await;
    account.append(inbox, vec![message(&store, "a: 1\r\n\r\n")]).await.unwrap();
    let _open = account.open(inbox).await.unwrap();
    let (id, old) = (OperationId([1; 16]), (inbox, Uid::new(1).unwrap()));
    let new = || message(&store, "a: 2\r\n\r\n");
    let replaced = account.replace_as(&[id], work, new(), old).await.unwrap().unwrap();
    assert_eq!(account.replace_as(&[id], work, new(), old).await.unwrap(), Some(replaced.clone()));
    assert_eq!(account.settle_operation(id).await.unwrap(), Settled::Appended(replaced));
    assert_eq!((exists(&account, inbox), exists(&account, work)), (0, 1));
    assert_eq!(account.replace_as(&[OperationId([2; 16])], work, new(), old).await.unwrap(), None);
    assert_eq!(account.settle_operation(OperationId([2; 16])).await.unwrap(), Settled::Undone);
}

/// A store that writes nothing by itself but while something else is waited for.
fn opened_by_steps(disk: &SimDisk) -> Store {
    rookery_kv::sim::in_place();
    let options = StoreOptions { background: None, by_steps: true, ..StoreOptions::default() };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    let store = Store::open(options, engine, Arc::new(disk.files())).unwrap();
    let committing = store.clone();
    tokio::spawn(async move {
        loop {
            committing.commit_waits().await;
            committing.commit_step();
        }
    });
    store
}

/// Goes on with a move until the first messages have come, and no further.
fn until_some_came<T: std::fmt::Debug>(
    store: &Store,
    (to, target): (&Account, MailboxId),
    mut moving: Pin<&mut impl Future<Output = T>>,
) {
    let mut cx = Context::from_waker(Waker::noop());
    while exists(to, target) == 0 {
        let polled = moving.as_mut().poll(&mut cx);
        assert!(polled.is_pending(), "{polled:?}");
        store.commit_step();
    }
}

/// What is said of a move that is known.
fn moved(settled: Settled) -> (Copied, MailboxId, bool) {
    match settled {
        Settled::Moved { moved, source, whole } => (moved, source, whole),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_move_is_done_once_and_known_afterwards() {
    let disk = SimDisk::new(9);
    let store = opened(&disk);
    let [(account, inbox), within, across] = two_accounts(&store).await;
    let letters = (0..6).map(|n| message(&store, &format!("a: {n}\r\n\r\n"))).collect();
    account.append(inbox, letters).await.unwrap();
    let source = account.open(inbox).await.unwrap();
    let mut done = Vec::new();
    for (n, (to, target)) in [within, across].into_iter().enumerate() {
        let n = u8::try_from(n).unwrap();
        let id = |m: u8| OperationId([n * 10 + m; 16]);
        let uids = |uids: [u32; 2]| UidSet::from_iter(uids.map(|uid| Uid::new(uid + u32::from(n)).unwrap()));
        let (first, other) = (uids([1, 3]), uids([5, 5]));
        let copied = source.move_as(&[id(1)], &first, &to, target).await.unwrap();
        assert_eq!(
            (copied.from.len(), exists(&to, target), exists(&account, inbox)),
            (2, 2, 4 - 2 * u32::from(n))
        );
        // What is repeated changes nothing, and an id is of one thing.
        assert_eq!(source.move_as(&[id(1)], &other, &to, target).await.unwrap(), copied);
        assert_eq!(moved(to.settle_operation(id(1)).await.unwrap()), (copied.clone(), inbox, true));
        assert_eq!(to.settle_operation(id(2)).await.unwrap(), Settled::Undone);
        let late = source.move_as(&[id(2)], &other, &to, target).await;
        assert!(matches!(late, Err(StoreError::GivenUp)), "{late:?}");
        assert_eq!((exists(&to, target), exists(&account, inbox)), (2, 4 - 2 * u32::from(n)));
        assert!(store.finish_move(inbox, &copied).await.unwrap());
        assert_eq!(exists(&account, inbox), 4 - 2 * u32::from(n));
        done.push((to.id(), id(1), copied));
    }
    drop((account, source));
    store.close().await;
    drop(store);
    let store = opened(&disk);
    for (to, id, copied) in done {
        let to = store.account(to).await.unwrap();
        assert_eq!(moved(to.settle_operation(id).await.unwrap()), (copied, inbox, true));
    }
}

#[tokio::test]
async fn a_move_that_is_asked_for_goes_no_further() {
    let store = opened_by_steps(&SimDisk::new(10));
    let [(account, inbox), within, across] = two_accounts(&store).await;
    let source = account.open(inbox).await.unwrap();
    for (n, (to, target)) in [within, across].into_iter().enumerate() {
        let n = u32::try_from(n).unwrap();
        let letters = (0..1001).map(|n| message(&store, &format!("a: {n}\r\n\r\n"))).collect();
        account.append(inbox, letters).await.unwrap();
        let left = exists(&account, inbox);
        let all = UidSet::range(1, 9000);
        let ids = [OperationId([u8::try_from(n).unwrap(); 16])];
        let mut moving = std::pin::pin!(source.move_as(&ids, &all, &to, target));
        until_some_came(&store, (&to, target), moving.as_mut());
        let (copied, from, whole) = moved(to.settle_operation(ids[0]).await.unwrap());
        assert_eq!((copied.to.len(), from, whole), (1000, inbox, false));
        let refused = moving.await;
        assert!(matches!(refused, Err(StoreError::GivenUp)), "{refused:?}");
        // The same for good, and the messages are in one place each.
        assert_eq!(moved(to.settle_operation(ids[0]).await.unwrap()), (copied.clone(), inbox, false));
        assert!(store.finish_move(inbox, &copied).await.unwrap());
        assert_eq!((exists(&to, target), exists(&account, inbox)), (1000, left - 1000));
    }
}

#[tokio::test]
async fn what_has_come_to_another_account_goes_where_it_was() {
    let store = opened_by_steps(&SimDisk::new(11));
    let [(account, inbox), _, (to, target)] = two_accounts(&store).await;
    let letters = (0..3).map(|n| message(&store, &format!("a: {n}\r\n\r\n"))).collect();
    account.append(inbox, letters).await.unwrap();
    let source = account.open(inbox).await.unwrap();
    let (id, all) = (OperationId([1; 16]), UidSet::range(1, 2));
    {
        let ids = [id];
        let mut moving = std::pin::pin!(source.move_as(&ids, &all, &to, target));
        until_some_came(&store, (&to, target), moving.as_mut());
    }
    assert_eq!((exists(&to, target), exists(&account, inbox)), (2, 3), "it was broken off in between");
    let (copied, from, whole) = moved(to.settle_operation(id).await.unwrap());
    assert_eq!((copied.to.len(), from, whole), (2, inbox, true));
    for _ in 0..2 {
        assert!(store.finish_move(inbox, &copied).await.unwrap());
        assert_eq!((exists(&to, target), exists(&account, inbox)), (2, 1));
    }
    // A message that takes the place of another account's.
    let (id, old) = (OperationId([2; 16]), (inbox, Uid::new(3).unwrap()));
    let appended = to.append_in_place_of(&[id], target, message(&store, "a: 9\r\n\r\n"), old).await.unwrap();
    let (copied, from, whole) = moved(to.settle_operation(id).await.unwrap());
    assert_eq!((&copied.to, from, whole), (&appended.uids, inbox, true));
    assert!(store.finish_move(inbox, &copied).await.unwrap());
    assert_eq!((exists(&to, target), exists(&account, inbox)), (3, 0));
    let late = OperationId([3; 16]);
    assert_eq!(to.settle_operation(late).await.unwrap(), Settled::Undone);
    let late = to.append_in_place_of(&[late], target, message(&store, "a: 8\r\n\r\n"), old).await;
    assert!(matches!(late, Err(StoreError::GivenUp)), "{late:?}");
    // Where they were is nothing left to take them out of.
    store.delete_account(account.id()).await.unwrap();
    assert!(store.finish_move(inbox, &copied).await.unwrap());
}

/// Power is lost at each operation of a move: whoever asks finds each message in one place, and hears which.
#[tokio::test]
async fn messages_that_are_moved_are_in_one_place_whatever_crashes() {
    for is_across in [false, true] {
        let (mut crashes, mut undone, mut parts) = (0, 0, 0);
        for operation in (0..80).step_by(2) {
            let disk = SimDisk::new(200 + operation);
            let store = opened(&disk);
            let [(account, inbox), within, across] = two_accounts(&store).await;
            let (to, target) = if is_across { across } else { within };
            // More than goes to another account in one step.
            let size = if is_across { 17 << 17 } else { 1 };
            let texts = (0..2).map(|n| format!("a: {n}\r\n\r\n{}", "x\r\n".repeat(size / 3 + 1)));
            let letters = texts.map(|text| message(&store, &text)).collect();
            account.append(inbox, letters).await.unwrap();
            let source = account.open(inbox).await.unwrap();
            let id = OperationId([1; 16]);
            disk.crash_after(operation);
            let answer = source.move_as(&[id], &UidSet::range(1, 2), &to, target).await;
            let is_down = disk.is_down();
            crashes += u32::from(is_down);
            let to = to.id();
            drop((account, source));
            store.close().await;
            drop(store);
            disk.power_loss();
            let store = opened(&disk);
            let (account, to) =
                (store.account(inbox.account).await.unwrap(), store.account(to).await.unwrap());
            let gone = match to.settle_operation(id).await.unwrap() {
                Settled::Undone => {
                    undone += 1;
                    assert!(answer.is_err(), "operation {operation}: {answer:?}");
                    0
                }
                settled => {
                    let (copied, from, whole) = moved(settled);
                    parts += u32::from(!whole);
                    assert!(from == inbox && (whole || answer.is_err()), "operation {operation}");
                    assert!(store.finish_move(inbox, &copied).await.unwrap());
                    u32::try_from(copied.to.len()).unwrap()
                }
            };
            let there = (exists(&to, target), exists(&account, inbox));
            assert_eq!(there, (gone, 2 - gone), "operation {operation}, across: {is_across}");
            drop((account, to));
            store.close().await;
            if !is_down {
                break;
            }
        }
        assert!((1..80).contains(&crashes) && undone > 0, "{crashes} crashes, {undone} undone");
        assert_eq!(parts > 0, is_across, "{parts} were broken off in the middle");
    }
}

#[tokio::test]
async fn a_deleted_account_answers_nothing() {
    let store = opened(&SimDisk::new(5));
    let (account, _) = account(&store).await;
    store.delete_account(id()).await.unwrap();
    assert!(matches!(account.settle_operation(OperationId([1; 16])).await, Err(StoreError::NoAccount)));
}
