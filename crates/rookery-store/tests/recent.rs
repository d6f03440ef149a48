//! `\Recent` (RFC 3501 §2.3.2): every message is it for one session, and for one alone.

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxPath, SystemFlags};
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

#[tokio::test]
async fn what_comes_between_the_look_and_the_claim_is_left_to_the_next() {
    let disk = SimDisk::new(1);
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, engine, Arc::new(disk.files())).expect("the store opens");
    let new = NewAccount { mailboxes: vec![(MailboxPath::inbox(), Vec::new())], ..NewAccount::default() };
    let account = store.create_account(AccountId::FIRST, new).await.expect("it is made");
    let inbox = account.tree().get(&MailboxPath::inbox()).expect("it is there");
    let mailbox = account.open(inbox).await.expect("it opens");

    account.append(inbox, vec![message(&store)]).await.expect("it appends");
    let looked = mailbox.now().summary.uid_next;
    account.append(inbox, vec![message(&store)]).await.expect("it appends");
    // The session tells of the first message alone; the second is not its own.
    assert_eq!((mailbox.claim_recent(looked), looked), (1, 2));
    let looked = mailbox.now().summary.uid_next;
    assert_eq!((mailbox.claim_recent(looked), looked), (2, 3));
    // Nothing is left, and who looked earlier takes nothing back.
    assert_eq!(mailbox.claim_recent(2), 3);
    assert_eq!(mailbox.peek_recent(), 3);
    store.close().await;
}
