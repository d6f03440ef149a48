//! What a home does for other nodes, and what it does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use rookery_directory::check::check;
use rookery_directory::repair::repair;
use rookery_directory::{
    AccountState, Commit, CommitError, DirectCommit, Directory, DirectoryError, EmbeddedDirectory, Home,
};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::{Fault, OpKind, SimDisk};
use rookery_kv::{Batch, Engine, Space};
use rookery_route::{AccountTask, Coming, Homes, Registrar, RegistrarError};
use rookery_store::{Store, StoreError, StoreOptions};
use rookery_types::{AccountName, Epoch, NodeId, StoreId};
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
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

    fn takes_here(&self) -> Coming<'_, Result<(), RegistrarError>> {
        Box::pin(async { Err(RegistrarError::NoPlace("hold is cordon".to_owned())) })
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
        // By steps: while the clock is made to leap, nothing may wait for another thread.
        let options = StoreOptions { background: None, by_steps: true, ..StoreOptions::default() };
        (engine.clone(), Store::open(options, engine, Arc::new(disk.files())).unwrap())
    };
    let ((engine, home), (_, elsewhere)) = (open(1), open(2));
    let committing = home.clone();
    let committer = tokio::spawn(async move {
        loop {
            committing.commit_waits().await;
            committing.commit_step();
        }
    });
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
        assert!(matches!(made, Err(RegistrarError::Pending(_))), "{made:?}");
        let again = asked.create(&name, None).await;
        assert!(matches!(again, Err(RegistrarError::Busy(_))), "{again:?}");
        // Nor is it said not to exist: it may be there when its home has resolved it.
        let early = asked.delete(&name).await;
        assert!(matches!(early, Err(RegistrarError::Busy(_))), "{early:?}");
        tokio::time::sleep(Duration::from_secs(50)).await;
        let entry = directory.look_up(&name).await.unwrap();
        assert!(matches!(entry.state, AccountState::Reserved { .. }), "it may still be made");
        tokio::time::sleep(Duration::from_secs(25)).await;
        match (hears, directory.look_up(&name).await) {
            (true, Ok(entry)) => {
                assert_eq!(entry.state, AccountState::Active);
                assert_eq!(home.account(entry.id).await.unwrap().owner().as_ref(), name.user());
                let deleted = asked.delete(&name).await;
                assert!(matches!(deleted, Err(RegistrarError::Pending(_))), "{deleted:?}");
                let again = asked.create(&name, None).await;
                assert!(matches!(again, Err(RegistrarError::Busy(_))), "{again:?}");
                // What was resolved a moment ago is not taken for given up at once.
                tokio::time::sleep(Duration::from_secs(10)).await;
                let entry = directory.look_up(&name).await.unwrap();
                assert_eq!(entry.state, AccountState::Deleted);
                tokio::time::sleep(Duration::from_secs(70)).await;
                let gone = directory.look_up(&name).await;
                assert!(matches!(gone, Err(DirectoryError::NotFound(_))), "{gone:?}");
                assert!(matches!(home.account(entry.id).await, Err(StoreError::NoAccount)));
            }
            (false, Err(DirectoryError::NotFound(_))) => {
                assert!(matches!(home.account(entry.id).await, Err(StoreError::NoAccount)));
                asked.create(&name, None).await.unwrap_err();
            }
            other => panic!("{other:?}"),
        }
    }
    resolver.abort();
    committer.abort();
}

#[tokio::test]
async fn nothing_comes_back_to_a_node_that_takes_no_accounts() {
    let disk = SimDisk::new(1);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
    let directory: Arc<dyn Directory> =
        Arc::new(EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap());
    let open = Arc::new(Registrar::new(directory.clone(), store.clone(), vec![]));
    let at = (store.node(), store.store_id());
    let homes = Arc::new(Unheard { home: open.clone(), at, hears: true });
    let shut = Registrar::new(directory.clone(), store.clone(), vec![]).with_homes(homes);
    let name = AccountName::parse("user/joe@example.org").unwrap();
    let id = open.create(&name, None).await.unwrap();
    open.delete(&name).await.unwrap();
    let refused = shut.bring_back(id, &name).await;
    assert!(matches!(refused, Err(RegistrarError::NoPlace(_))), "{refused:?}");
    assert!(matches!(directory.look_up(&name).await, Err(DirectoryError::NotFound(_))));
    assert!(matches!(store.account(id).await, Err(StoreError::NoAccount)));
    open.bring_back(id, &name).await.unwrap();
    store.close().await;
}

/// Programs that noted no deletions left accounts which nobody sees and whose names nobody can take.
#[tokio::test]
async fn what_an_older_program_has_left_half_deleted_is_found_mended_and_finished() {
    let disk = SimDisk::new(1);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
    let open = || {
        let commit = Arc::new(DirectCommit(engine.clone()));
        let directory: Arc<dyn Directory> =
            Arc::new(EmbeddedDirectory::open(engine.clone(), commit).unwrap());
        (directory.clone(), Registrar::new(directory, store.clone(), vec![]))
    };
    let (directory, registrar) = open();
    let name = AccountName::parse("user/joe@example.org").unwrap();
    let id = registrar.create(&name, None).await.unwrap();
    directory.set_state(id, AccountState::Deleted).await.unwrap();
    let mut batch = Batch::new();
    batch.delete(Space::Directory, [b"r", &id.get().to_be_bytes()[..]].concat());
    engine.commit(batch).unwrap();
    drop((directory, registrar));
    let (_, registrar) = open();
    assert!(registrar.own_reservations().await.unwrap().is_empty(), "it would stay for ever");
    drop(registrar);
    let faults = || {
        let mut faults = Vec::new();
        check(&*engine.snapshot(), &mut |fault| faults.push(fault.to_string())).unwrap();
        faults
    };
    let found = faults();
    assert!(found.len() == 1 && found[0].contains("half deleted"), "{found:?}");
    let mended = repair(&*engine, &[], "example.org").unwrap();
    assert_eq!(mended.len(), 1, "{mended:?}");
    assert_eq!(faults(), Vec::<String>::new());
    let (directory, registrar) = open();
    let left = registrar.own_reservations().await.unwrap();
    registrar.resolve(&left).await.unwrap();
    assert!(matches!(directory.look_up(&name).await, Err(DirectoryError::NotFound(_))));
    assert!(matches!(store.account(id).await, Err(StoreError::NoAccount)));
    registrar.create(&name, None).await.unwrap();
    store.close().await;
}

/// After a failed write an account may be there or not, which the next start tells: until then its name stays reserved.
#[tokio::test]
async fn an_account_whose_write_failed_is_resolved_by_the_next_start() {
    let open = |disk: &SimDisk| {
        let options = StoreOptions { background: None, ..StoreOptions::default() };
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
        Store::open(options, engine, Arc::new(disk.files())).unwrap()
    };
    let mut seen = BTreeSet::new();
    for seed in 1..=12 {
        let (disk, other) = (SimDisk::new(seed), SimDisk::new(seed + 100));
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(other));
        let directory: Arc<dyn Directory> =
            Arc::new(EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap());
        let store = open(&disk);
        let registrar = Registrar::new(directory.clone(), store.clone(), vec![]);
        let name = AccountName::parse("user/joe@example.org").unwrap();
        disk.fail_nth(OpKind::Commit, 1, Fault::Io);
        registrar.create(&name, None).await.unwrap_err();
        let own = registrar.own_reservations().await.unwrap();
        assert_eq!(own.len(), 1, "it may be there");
        registrar.resolve(&own).await.unwrap_err();
        let entry = directory.look_up(&name).await.unwrap();
        store.close().await;

        disk.process_crash();
        let store = open(&disk);
        let registrar = Registrar::new(directory.clone(), store.clone(), vec![]);
        registrar.resolve(&registrar.own_reservations().await.unwrap()).await.unwrap();
        let is_there = store.account(entry.id).await.is_ok();
        match directory.look_up(&name).await {
            Ok(entry) => assert_eq!((entry.state, is_there), (AccountState::Active, true)),
            Err(error) => assert!(matches!(error, DirectoryError::NotFound(_)) && !is_there, "{error}"),
        }
        seen.insert(is_there);
    }
    assert_eq!(seen.len(), 2, "of a write that fails either is met");
}

/// Whoever gives a name back must not be overtaken by its own request to make the account, nor overtake it.
#[tokio::test(start_paused = true)]
async fn what_is_taken_back_is_not_made_later() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let options = StoreOptions { background: None, by_steps: true, ..StoreOptions::default() };
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let store = Store::open(options, engine, Arc::new(disk.files())).unwrap();
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(other));
    let directory: Arc<dyn Directory> =
        Arc::new(EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap());
    directory.add_domain("example.org".to_owned()).await.unwrap();
    let registrar = Arc::new(Registrar::new(directory.clone(), store.clone(), vec![]));
    let home = Home { node: store.node(), store: store.store_id(), epoch: Epoch(1) };
    let reserve = async |user: &str| {
        let name = AccountName::parse(&format!("user/{user}@example.org")).unwrap();
        (directory.reserve(name.clone(), home, 1).await.unwrap().id, name)
    };

    let (id, name) = reserve("late").await;
    registrar.perform_for(AccountTask::Delete { id }).await.unwrap();
    let made = registrar.perform_for(AccountTask::Make { id, name }).await;
    assert!(matches!(made, Err(RegistrarError::Away(_))), "{made:?}");
    assert!(matches!(store.account(id).await, Err(StoreError::NoAccount)));

    let (id, name) = reserve("early").await;
    let making = registrar.clone();
    let made = tokio::spawn(async move { making.perform_for(AccountTask::Make { id, name }).await });
    store.commit_waits().await;
    let taken = registrar.perform_for(AccountTask::Delete { id }).await;
    assert!(matches!(taken, Err(RegistrarError::Away(_))), "{taken:?}");
    while store.commit_step() {}
    made.await.unwrap().unwrap();
    // It is not for ever.
    let deleting = registrar.clone();
    let gone = tokio::spawn(async move { deleting.perform_for(AccountTask::Delete { id }).await });
    store.commit_waits().await;
    while store.commit_step() {}
    gone.await.unwrap().unwrap();
    assert!(matches!(store.account(id).await, Err(StoreError::NoAccount)));
}

/// Commits so many changes; of the next the answer is lost, and those behind it are not done.
struct Failing {
    commits: DirectCommit,
    left: Arc<AtomicI32>,
}

impl Commit for Failing {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        let committed = self.commits.commit(batch);
        Box::pin(async move {
            match left {
                1.. => committed.await,
                0 => committed.await.and(Err(CommitError("the answer is lost".to_owned()))),
                _ => Err(CommitError("away".to_owned())),
            }
        })
    }
}

#[tokio::test]
async fn an_account_that_may_be_active_is_not_taken_apart() {
    let disk = SimDisk::new(1);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
    let left = Arc::new(AtomicI32::new(i32::MAX));
    let failing = Failing { commits: DirectCommit(engine.clone()), left: left.clone() };
    let directory: Arc<dyn Directory> =
        Arc::new(EmbeddedDirectory::open(engine.clone(), Arc::new(failing)).unwrap());
    let registrar = Registrar::new(directory.clone(), store.clone(), vec![]);
    let name = |user: &str| AccountName::parse(&format!("user/{user}@example.org")).unwrap();
    registrar.create(&name("ann"), None).await.unwrap();
    // The name is reserved, and whether the account is active then is not heard.
    left.store(1, Ordering::SeqCst);
    let made = registrar.create(&name("joe"), None).await;
    assert!(matches!(made, Err(RegistrarError::Pending(_))), "{made:?}");
    left.store(i32::MAX, Ordering::SeqCst);
    let directory = EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap();
    let entry = directory.look_up(&name("joe")).await.unwrap();
    assert_eq!(entry.state, AccountState::Active);
    assert_eq!(store.account(entry.id).await.unwrap().owner().as_ref(), name("joe").user());
}
