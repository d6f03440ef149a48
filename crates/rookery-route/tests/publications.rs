//! What users share comes to the directory, whatever happens on the way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use rookery_directory::published::{self, Shared};
use rookery_directory::{
    Call, Commit, CommitError, CopiedDirectory, Directory, EmbeddedSource, MemorySource, Published, Source,
    Trouble,
};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_kv::{Batch, Engine};
use rookery_route::{Publications, Registrar};
use rookery_store::{Account, Settings, Store, StoreError, StoreOptions};
use rookery_types::{AccountName, Acl, Identifier, MailboxId, MailboxPath, Rights, SpecialUse, UserName};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The directory's records go where the store's go.
struct ThroughStore(Store);

impl Commit for ThroughStore {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        let committed = self.0.commit_foreign(batch);
        Box::pin(async move { committed.await.map_err(|error| CommitError(error.to_string())) })
    }
}

/// A home whose directory is elsewhere, or in its own engine.
struct Home {
    engine: Arc<dyn Engine>,
    store: Store,
    directory: CopiedDirectory,
    publications: Arc<Publications>,
}

impl Home {
    /// Opens it and begins to publish.
    async fn open(disk: &SimDisk, source: Option<&MemorySource>) -> Home {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
        let options = StoreOptions { background: None, ..StoreOptions::default() };
        let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
        let commit = Arc::new(ThroughStore(store.clone()));
        let directory = match source {
            Some(source) => {
                CopiedDirectory::follow(engine.clone(), commit, Arc::new(source.clone()), store.node())
            }
            None => CopiedDirectory::open(engine.clone(), commit),
        };
        let directory = directory.unwrap();
        let mut revisions = directory.subscribe();
        while directory.position().is_none() {
            revisions.changed().await.unwrap();
        }
        let shared = Arc::new(directory.clone());
        let publications = Publications::start(store.clone(), shared, engine.clone()).await.unwrap();
        Home { engine, store, directory, publications }
    }

    async fn account(&self, name: &str) -> Account {
        let registrar = Registrar::new(Arc::new(self.directory.clone()), self.store.clone(), vec![]);
        let name = AccountName::parse(name).unwrap();
        let id = registrar.create(&name, None).await.unwrap();
        self.store.account(id).await.unwrap()
    }

    /// What is wrong with what is published, when all that waits is counted in.
    fn faults(&self) -> Vec<String> {
        let shared = rookery_store::check::shared_mailboxes(&*self.engine).unwrap();
        let shared: Vec<Shared> = shared
            .into_iter()
            .map(|(mailbox, settings)| {
                let Settings { path, acl, special_use, .. } = settings;
                Shared { mailbox, path, acl, special_use }
            })
            .collect();
        let here =
            rookery_store::check::homes(&*self.engine).unwrap().into_iter().map(|(id, _)| id).collect();
        let mut faults = Vec::new();
        published::check(&*self.engine, &shared, &here, &mut |fault| faults.push(fault.to_string())).unwrap();
        faults
    }

    async fn close(self) {
        self.publications.stop().await;
        self.directory.stop_following();
        self.store.close().await;
    }
}

fn acl(text: &str) -> Acl {
    let joe = UserName::parse("joe", "x.test").unwrap();
    let ann = UserName::parse("ann", "x.test").unwrap();
    let mut acl = Acl::new();
    acl.set(Identifier::User(ann), false, Rights::ALL);
    acl.set(Identifier::User(joe), false, Rights::parse(text).unwrap());
    acl
}

fn inbox(account: &Account) -> MailboxId {
    account.tree().get(&MailboxPath::inbox()).unwrap()
}

/// A new directory of the domain x.test, in memory.
async fn new_source() -> MemorySource {
    let source = MemorySource::new(1);
    let disk = SimDisk::new(99);
    let home = Home::open(&disk, Some(&source)).await;
    home.directory.add_domain("x.test".to_owned()).await.unwrap();
    home.close().await;
    source
}

/// What another node finds published of a mailbox, after it has caught up.
async fn elsewhere(source: &MemorySource, mailbox: MailboxId) -> Option<Published> {
    let disk = SimDisk::new(98);
    let other = Home::open(&disk, Some(source)).await;
    other.directory.barrier().await.unwrap();
    let published = other.directory.published(mailbox).await.unwrap();
    other.close().await;
    published
}

#[tokio::test]
async fn what_is_shared_is_published_before_the_change_returns() {
    let source = new_source().await;
    let disk = SimDisk::new(1);
    let home = Home::open(&disk, Some(&source)).await;
    let account = home.account("user/ann@x.test").await;
    let id = inbox(&account);
    account.set_acl(id, acl("lr")).await.unwrap();
    assert_eq!(elsewhere(&source, id).await.unwrap().acl, acl("lr"));
    account.set_special_use(id, vec![SpecialUse::Archive]).await.unwrap();
    assert_eq!(elsewhere(&source, id).await.unwrap().special_use, [SpecialUse::Archive]);
    account.set_special_use(id, vec![]).await.unwrap();
    assert_eq!(elsewhere(&source, id).await.unwrap().special_use, []);
    let (from, to) = (MailboxPath::new("Plans").unwrap(), MailboxPath::new("Past").unwrap());
    let plans = account.create(&from, vec![]).await.unwrap();
    account.set_acl(plans, acl("l")).await.unwrap();
    account.rename(&from, &to).await.unwrap();
    assert_eq!(elsewhere(&source, plans).await.unwrap().path, to);
    account.delete(plans).await.unwrap();
    assert_eq!(elsewhere(&source, plans).await, None);
    account.set_acl(id, acl("r")).await.unwrap();
    assert_eq!(elsewhere(&source, id).await, None, "joe may not look it up any more");
    let engine = home.engine.clone();
    home.close().await;
    assert_eq!(published::outbox(&*engine).unwrap(), [], "nothing is left to publish");
}

#[tokio::test]
async fn those_who_follow_an_embedded_directory_hear_of_what_is_shared() {
    let disk = SimDisk::new(1);
    let home = Home::open(&disk, None).await;
    home.directory.add_domain("x.test".to_owned()).await.unwrap();
    let account = home.account("user/ann@x.test").await;
    let source: EmbeddedSource = home.directory.embedded().unwrap();
    let before = source.head().await.unwrap();
    account.set_acl(inbox(&account), acl("lr")).await.unwrap();
    assert!(source.head().await.unwrap() > before, "it is a revision of its own");
    let event = source.changes(before).await.unwrap().next().await.unwrap();
    assert!(event.writes.iter().any(|write| write.value.is_some()), "{event:?}");
    // What nobody else may see costs the directory nothing.
    let before = source.head().await.unwrap();
    account.create(&MailboxPath::new("Private").unwrap(), vec![]).await.unwrap();
    assert_eq!(source.head().await.unwrap(), before);
    home.close().await;
}

#[tokio::test]
async fn a_directory_that_is_away_is_told_when_it_comes_back() {
    let source = new_source().await;
    let disk = SimDisk::new(1);
    let home = Home::open(&disk, Some(&source)).await;
    let account = home.account("user/ann@x.test").await;
    let id = inbox(&account);
    account.set_acl(id, acl("lr")).await.unwrap();
    source.set_plan(|_| Trouble::Away);
    let setting = tokio::spawn({
        let account = account.clone();
        async move { account.set_acl(id, acl("r")).await }
    });
    // A revocation counts here at once, published or not.
    let mut changed = account.changed();
    let is_set = |account: &Account| account.tree().state(id).unwrap().settings.acl == acl("r");
    while !is_set(&account) {
        changed.changed().await.unwrap();
    }
    assert!(!setting.is_finished());
    // Nothing but clocks runs from here on.
    tokio::time::pause();
    let answer = setting.await.unwrap();
    let unpublished = rookery_store::CommitError::Unpublished;
    assert!(matches!(&answer, Err(StoreError::Commit(error)) if *error == unpublished), "{answer:?}");
    assert!(is_set(&account), "the change stands");
    // Who sets the same is not told either that others see it.
    let again = account.set_acl(id, acl("r")).await;
    assert!(matches!(&again, Err(StoreError::Commit(error)) if *error == unpublished), "{again:?}");
    tokio::time::resume();
    assert!(home.faults().is_empty(), "{:?}", home.faults());
    let mut revisions = home.directory.subscribe();
    source.set_plan(|_| Trouble::None);
    while home.directory.published(id).await.unwrap().is_some() {
        revisions.changed().await.unwrap();
    }
    assert_eq!(elsewhere(&source, id).await, None);
    home.close().await;
}

/// A small source of chance that repeats.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One change of what others may see; whether it is done is not asked.
async fn change(account: &Account, chance: &mut Chance) -> Result<(), StoreError> {
    let path = |n: u64| MailboxPath::new(&format!("M{n}")).unwrap();
    let one = path(chance.below(4));
    match (chance.below(4), account.tree().get(&one)) {
        (0, Some(id)) => account.delete(id).await,
        (1, Some(_)) => account.rename(&one, &path(chance.below(4))).await,
        (_, Some(id)) => {
            let rights = ["l", "lr", "r", ""];
            let text = rights[usize::try_from(chance.below(4)).unwrap()];
            account.set_acl(id, acl(text)).await
        }
        (_, None) => account.create(&one, vec![]).await.map(drop),
    }
}

#[tokio::test]
async fn no_crash_loses_what_is_to_be_published() {
    for seed in 1..=20 {
        let mut chance = Chance(seed);
        let source = new_source().await;
        let disk = SimDisk::new(seed);
        let home = Home::open(&disk, Some(&source)).await;
        home.account("user/ann@x.test").await;
        home.close().await;
        for round in 0..3 {
            let home = Home::open(&disk, Some(&source)).await;
            let id =
                home.directory.look_up(&AccountName::parse("user/ann@x.test").unwrap()).await.unwrap().id;
            let account = home.store.account(id).await.unwrap();
            disk.crash_after(chance.below(40));
            let mut lost = Chance(chance.below(u64::MAX));
            source.set_plan(move |call| match (call, lost.below(4)) {
                (Call::Commit, 0) => Trouble::LostAnswer,
                (Call::Commit | Call::Event, 1) => Trouble::Away,
                _ => Trouble::None,
            });
            // Whoever waits until something is published may go away; once the disk is gone nothing comes.
            while home.store.read_only_because().is_none() {
                let _ = timeout(Duration::from_millis(300), change(&account, &mut chance)).await;
            }
            drop(account);
            home.close().await;
            match chance.below(2) {
                0 => disk.process_crash(),
                _ => disk.power_loss(),
            }
            source.set_plan(|_| Trouble::None);
            let home = Home::open(&disk, Some(&source)).await;
            assert!(home.faults().is_empty(), "seed {seed}, round {round}: {:?}", home.faults());
            // What is published is taken out of the outbox by a commit that nobody waits for, but it has its turn.
            while !published::outbox(&*home.engine).unwrap().is_empty() {
                home.store.commit_foreign(Batch::new()).await.unwrap();
            }
            home.directory.barrier().await.unwrap();
            assert!(home.faults().is_empty(), "seed {seed}, round {round}: {:?}", home.faults());
            let mut grants = Vec::new();
            let fault = &mut |fault: rookery_directory::Damaged| grants.push(fault.to_string());
            rookery_directory::check::check(&*home.engine.snapshot(), fault).unwrap();
            assert!(grants.is_empty(), "seed {seed}, round {round}: {grants:?}");
            home.close().await;
        }
    }
}
