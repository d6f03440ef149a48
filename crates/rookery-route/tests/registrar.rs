//! What a home does for other nodes, and what it does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use rookery_directory::{AccountState, DirectCommit, Directory, EmbeddedDirectory};
use rookery_kv::Engine;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_route::{AccountTask, Registrar, RegistrarError};
use rookery_store::{Store, StoreError, StoreOptions};
use rookery_types::AccountName;
use std::sync::Arc;

#[tokio::test]
async fn a_home_does_for_others_only_what_the_directory_says() {
    let disk = SimDisk::new(1);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
    let directory: Arc<dyn Directory> =
        Arc::new(EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap());
    let registrar = Registrar::new(directory.clone(), store.clone(), vec![]);
    let name = AccountName::parse("user/joe@example.org").unwrap();
    let id = registrar.create(&name, None).await.unwrap();

    let other = AccountName::parse("user/eve@example.org").unwrap();
    for task in [
        AccountTask::Delete { id },
        AccountTask::Make { id, name: name.clone() },
        AccountTask::Settle { id, name: other },
    ] {
        let done = registrar.perform_for(task.clone()).await;
        assert!(matches!(done, Err(RegistrarError::Away(_))), "{task:?}");
    }
    assert_eq!(store.account(id).await.unwrap().owner().as_ref(), name.user());
    registrar.perform_for(AccountTask::Settle { id, name }).await.unwrap();

    directory.set_state(id, AccountState::Deleted).await.unwrap();
    registrar.perform_for(AccountTask::Delete { id }).await.unwrap();
    assert!(matches!(store.account(id).await, Err(StoreError::NoAccount)));
}
