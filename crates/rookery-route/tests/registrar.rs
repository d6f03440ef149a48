//! What a home does for other nodes, and what it does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use rookery_directory::{AccountState, DirectCommit, Directory, DirectoryError, EmbeddedDirectory};
use rookery_kv::Engine;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_route::{AccountTask, Coming, Homes, Registrar, RegistrarError};
use rookery_store::{Store, StoreError, StoreOptions};
use rookery_types::{AccountName, NodeId, StoreId};
use std::sync::Arc;
use std::time::Duration;

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

/// A home that hears what it is asked, or does not, and whose answers are lost.
struct Unheard {
    home: Arc<Registrar>,
    at: (NodeId, StoreId),
    hears: bool,
}

impl Homes for Unheard {
    fn place<'a>(
        &'a self,
        _name: &'a AccountName,
        _at: Option<&'a str>,
    ) -> Coming<'a, Result<(NodeId, StoreId), RegistrarError>> {
        Box::pin(async move { Ok(self.at) })
    }

    fn ask(&self, _node: NodeId, task: AccountTask) -> Coming<'_, Result<(), RegistrarError>> {
        Box::pin(async move {
            if self.hears && matches!(task, AccountTask::Make { .. }) {
                self.home.perform_for(task).await.unwrap();
            }
            Err(RegistrarError::Away("no answer".to_owned()))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_whoever_asked_has_given_up_is_resolved_by_its_home() {
    let open = |seed: u64| {
        let disk = SimDisk::new(seed);
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
        let options = StoreOptions { background: None, ..StoreOptions::default() };
        (engine.clone(), Store::open(options, engine, Arc::new(disk.files())).unwrap())
    };
    let ((engine, home), (_, elsewhere)) = (open(1), open(2));
    let directory: Arc<dyn Directory> =
        Arc::new(EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap());
    let registrar = Arc::new(Registrar::new(directory.clone(), home.clone(), vec![]));
    let resolving = registrar.clone();
    let resolver = tokio::spawn(async move { resolving.keep_resolving(Vec::new()).await });
    for hears in [true, false] {
        let homes = Unheard { home: registrar.clone(), at: (home.node(), home.store_id()), hears };
        let asked = Registrar::new(directory.clone(), elsewhere.clone(), vec![]).with_homes(Arc::new(homes));
        let name = AccountName::parse(&format!("user/{hears}@example.org")).unwrap();
        let made = asked.create(&name, None).await;
        assert!(matches!(made, Err(RegistrarError::Away(_))), "{made:?}");
        tokio::time::sleep(Duration::from_secs(50)).await;
        let entry = directory.look_up(&name).await.unwrap();
        assert!(matches!(entry.state, AccountState::Reserved { .. }), "it may still be made");
        tokio::time::sleep(Duration::from_secs(30)).await;
        match (hears, directory.look_up(&name).await) {
            (true, Ok(entry)) => {
                assert_eq!(entry.state, AccountState::Active);
                assert_eq!(home.account(entry.id).await.unwrap().owner().as_ref(), name.user());
            }
            (false, Err(DirectoryError::NotFound(_))) => {
                assert!(matches!(home.account(entry.id).await, Err(StoreError::NoAccount)));
                asked.create(&name, None).await.unwrap_err();
            }
            other => panic!("{other:?}"),
        }
    }
    resolver.abort();
}
