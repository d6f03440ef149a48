//! What users have seen of mailboxes that are not theirs, when they get other names.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop here

use rookery_directory::renamed::renamed;
use rookery_directory::{CopiedDirectory, DirectCommit, Directory};
use rookery_kv::Engine;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_route::{Registrar, Renames};
use rookery_store::{Account, FlagChange, FlagList, NewMessage, Store, StoreOptions};
use rookery_types::{AccountName, InternalDate, MailboxPath, SystemFlags, UidSet, UserName};
use std::sync::Arc;

fn opened(disk: &SimDisk) -> (Store, CopiedDirectory, Arc<dyn Engine>) {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
    let directory = CopiedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine.clone()))).unwrap();
    (store, directory, engine)
}

async fn unseen(account: &Account, user: &str) -> u32 {
    let account = account.clone().seen_by(&UserName::parse(user, "x.test").unwrap());
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let state = account.tree().state(inbox).unwrap();
    account.summary_of(&state).await.unwrap().unseen
}

#[tokio::test]
async fn a_renaming_that_nobody_followed_is_followed_after_a_restart() {
    let disk = SimDisk::new(5);
    let (store, directory, engine) = opened(&disk);
    let registrar = Registrar::new(Arc::new(directory.clone()), store.clone(), vec![]);
    let name = |user: &str| AccountName::parse(&format!("user/{user}@x.test")).unwrap();
    let ann = registrar.create(&name("ann"), None).await.unwrap();
    registrar.create(&name("kim"), None).await.unwrap();
    let account = store.account(ann).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let mut spool = store.spool();
    spool.push(b"a: b\r\n\r\n").unwrap();
    let (body, date) = (spool.finish().unwrap(), InternalDate::from_unix(1));
    let message = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
    account.append(inbox, vec![message; 3]).await.unwrap();
    let kim = account.clone().seen_by(&UserName::parse("kim", "x.test").unwrap());
    let seen = FlagChange::Add(FlagList { flags: SystemFlags::SEEN, keywords: vec![] });
    kim.open(inbox).await.unwrap().store_flags(&UidSet::range(1, 2), seen, None).await.unwrap();
    // Twice, and a newcomer takes the old name.
    registrar.rename(&name("kim"), name("kay")).await.unwrap();
    registrar.rename(&name("kay"), name("lea")).await.unwrap();
    registrar.create(&name("kim"), None).await.unwrap();
    assert_eq!(renamed(&*engine, 10).unwrap().len(), 2);
    store.close().await;
    drop((account, kim, registrar, store, directory, engine));
    let (store, directory, engine) = opened(&disk);
    let renames = Renames::start(store.clone(), &directory, engine.clone());
    renames.reach(*directory.subscribe().borrow()).await;
    assert_eq!(renamed(&*engine, 10).unwrap(), []);
    let account = store.account(ann).await.unwrap();
    for (user, left) in [("kim", 3), ("kay", 3), ("lea", 1)] {
        assert_eq!(unseen(&account, user).await, left, "{user}");
    }
    // From then on at once.
    let registrar = Registrar::new(Arc::new(directory.clone()), store.clone(), vec![]);
    registrar.rename(&name("lea"), name("mia")).await.unwrap();
    renames.reach(*directory.subscribe().borrow()).await;
    assert_eq!((unseen(&account, "lea").await, unseen(&account, "mia").await), (3, 1));
    renames.stop().await;
    store.close().await;
}
