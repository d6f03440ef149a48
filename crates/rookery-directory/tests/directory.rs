//! The embedded directory on the engines: what changes, what is refused, what survives reopening, and what is found
//! when records are damaged.

// The lint's exception for tests does not reach the helper functions of a test crate.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rookery_directory::check::check;
use rookery_directory::repair::{Stored, repair};
use rookery_directory::{
    AccountFilter, AccountState, AliasName, Commit, CommitError, DirectCommit, Directory, DirectoryError,
    Duty, EmbeddedDirectory, Entry, Home, Node, NodeEdit, Placement, Verifier,
};
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_kv::{Batch, Engine, Space};
use rookery_types::{AccountId, AccountName, Epoch, NodeId, StoreId};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

const HOME: Home = Home { node: NodeId(1), store: StoreId([7; 16]), epoch: Epoch(1) };

fn name(text: &str) -> AccountName {
    AccountName::parse(text).unwrap()
}

fn memory() -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::new(SimDisk::new(1)))
}

fn open(engine: &Arc<dyn Engine>) -> EmbeddedDirectory {
    EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine.clone()))).unwrap()
}

fn sound(engine: &Arc<dyn Engine>) {
    check(&*engine.snapshot(), &mut |fault| panic!("{fault}")).unwrap();
}

async fn make(directory: &EmbeddedDirectory, text: &str) -> Arc<Entry> {
    let entry = directory.reserve(name(text), HOME, 1).await.unwrap();
    directory.activate(entry.id).await.unwrap()
}

async fn lives_and_comes_back(reopen: impl Fn() -> Arc<dyn Engine>) {
    let engine = reopen();
    let directory = open(&engine);
    directory.add_domain("Example.org".to_string()).await.unwrap();
    let joe = make(&directory, "user/joe@example.org").await;
    let team = make(&directory, "team@example.org").await;
    assert_ne!(joe.id, team.id);
    directory.set_verifier(joe.id, Some(Verifier::new("$argon2id$x").unwrap())).await.unwrap();
    directory.set_state(joe.id, AccountState::Suspended).await.unwrap();
    directory.rename(joe.id, name("user/john@example.org")).await.unwrap();
    directory.remove(team.id).await.unwrap();
    directory
        .put_node(Node { address: "a:1".into(), version: "1".into(), ..Node::new(NodeId(1)) })
        .await
        .unwrap();
    let revision = directory.barrier().await.unwrap();
    sound(&engine);
    drop((directory, engine));

    let engine = reopen();
    let directory = open(&engine);
    sound(&engine);
    let john = directory.look_up(&name("user/john@example.org")).await.unwrap();
    assert_eq!((john.id, john.state), (joe.id, AccountState::Suspended));
    assert_eq!(john.verifier.as_ref().unwrap().as_str(), "$argon2id$x");
    assert_eq!(directory.by_id(joe.id).await.unwrap(), john);
    assert!(matches!(directory.look_up(&joe.name).await, Err(DirectoryError::NotFound(_))));
    assert!(matches!(directory.by_id(team.id).await, Err(DirectoryError::NotFound(_))));
    assert_eq!(directory.nodes().await.unwrap().len(), 1);
    assert_eq!(&*directory.default_domain().await.unwrap().unwrap().name, "example.org");
    assert_eq!((*directory.subscribe().borrow(), directory.barrier().await.unwrap()), (revision, revision));
    // Also the id of the removed account is not given again.
    assert!(make(&directory, "team@example.org").await.id > team.id);
}

#[tokio::test]
async fn on_the_memory_engine() {
    let disk = SimDisk::new(1);
    lives_and_comes_back(|| Arc::new(MemoryEngine::new(disk.clone()))).await;
}

#[tokio::test]
async fn on_fjall() {
    let folder = tempfile::tempdir().unwrap();
    lives_and_comes_back(|| Arc::new(FjallEngine::open(folder.path(), FjallOptions::default()).unwrap()))
        .await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let engine = memory();
    let directory = open(&engine);
    let joe = name("user/joe@example.org");
    assert!(matches!(directory.reserve(joe.clone(), HOME, 1).await, Err(DirectoryError::NotFound(_))));
    for bad in ["", "a b", "x@example.org", "-x.org", "a..b"] {
        assert!(
            matches!(directory.add_domain(bad.to_string()).await, Err(DirectoryError::Refused(_))),
            "{bad}"
        );
    }
    // Nothing but that a block of ids was taken.
    assert_eq!(directory.barrier().await.unwrap(), 1);
    directory.add_domain("example.org".to_string()).await.unwrap();
    directory.add_domain("b.test".to_string()).await.unwrap();
    let entry = directory.reserve(joe.clone(), HOME, 1).await.unwrap();
    let revision = directory.barrier().await.unwrap();
    assert_eq!(directory.reserve(joe.clone(), HOME, 1).await.unwrap(), entry);
    let exists = |result| matches!(result, Err(DirectoryError::Exists(_)));
    let refused = |result| matches!(result, Err(DirectoryError::Refused(_)));
    assert!(exists(directory.reserve(joe.clone(), HOME, 2).await));
    assert!(refused(directory.reserve(name("x@b.test"), Home { epoch: Epoch(2), ..HOME }, 1).await));
    assert!(refused(directory.set_state(entry.id, AccountState::Suspended).await));
    assert!(refused(directory.rename(entry.id, name("user/x@example.org")).await));
    assert_eq!(*directory.reservations(None, 10).await.unwrap(), *std::slice::from_ref(&entry));
    assert_eq!(directory.reservations(Some(entry.id), 10).await.unwrap(), []);
    assert_eq!(directory.barrier().await.unwrap(), revision);

    directory.activate(entry.id).await.unwrap();
    let revision = directory.barrier().await.unwrap();
    directory.activate(entry.id).await.unwrap();
    assert_eq!(directory.reservations(None, 10).await.unwrap(), []);
    assert!(refused(directory.set_state(entry.id, AccountState::Reserved { intent: 1 }).await));
    assert!(refused(directory.rename(entry.id, name("joe@example.org")).await));
    assert!(matches!(
        directory.rename(entry.id, name("user/joe@c.test")).await,
        Err(DirectoryError::NotFound(_))
    ));
    for used in ["example.org", "EXAMPLE.ORG"] {
        assert!(matches!(directory.remove_domain(used.to_string()).await, Err(DirectoryError::InUse(_))));
    }
    assert!(matches!(directory.add_domain("B.test".to_string()).await, Err(DirectoryError::Exists(_))));
    let nobody = AccountId::new(99).unwrap();
    assert!(matches!(directory.remove(nobody).await, Err(DirectoryError::NotFound(_))));
    assert!(matches!(directory.remove_node(NodeId(3)).await, Err(DirectoryError::NotFound(_))));
    assert_eq!(directory.barrier().await.unwrap(), revision);
    directory.remove_domain("b.test".to_string()).await.unwrap();
    // What is half taken apart is looked for by its home, too.
    let closed = directory.set_state(entry.id, AccountState::Deleted).await.unwrap();
    assert_eq!(*directory.reservations(None, 10).await.unwrap(), *std::slice::from_ref(&closed));
    sound(&engine);
    directory.remove(entry.id).await.unwrap();
    assert_eq!(directory.reservations(None, 10).await.unwrap(), []);
    sound(&engine);
}

#[tokio::test]
async fn a_home_changes_only_from_what_it_was() {
    let engine = memory();
    let directory = open(&engine);
    directory.add_domain("example.org".to_string()).await.unwrap();
    let joe = make(&directory, "user/joe@example.org").await;
    let second = Home { node: NodeId(2), store: StoreId([8; 16]), epoch: Epoch(2) };
    let mut revisions = directory.subscribe();
    revisions.mark_unchanged();
    assert_eq!(directory.set_home(joe.id, HOME, second).await.unwrap().home, second);
    assert!(revisions.has_changed().unwrap());
    // A lost answer: asking again is no harm.
    assert_eq!(directory.set_home(joe.id, HOME, second).await.unwrap().home, second);
    let third = Home { epoch: Epoch(3), ..HOME };
    assert_eq!(directory.set_home(joe.id, HOME, third).await, Err(DirectoryError::HomeChanged(second)));
    let back = directory.set_home(joe.id, second, Home { epoch: Epoch(2), ..HOME }).await;
    assert!(matches!(back, Err(DirectoryError::Refused(_))));
    assert_eq!(directory.look_up(&joe.name).await.unwrap().home, second);
}

#[tokio::test]
async fn pages_together_are_the_whole() {
    let engine = memory();
    let directory = open(&engine);
    for domain in ["a.test", "b.test"] {
        directory.add_domain(domain.to_string()).await.unwrap();
        for n in 0..7 {
            make(&directory, &format!("user/u{n}@{domain}")).await;
            make(&directory, &format!("s{n}@{domain}")).await;
        }
    }
    let all = |filter: AccountFilter, limit| {
        let directory = &directory;
        async move {
            let (mut names, mut after) = (Vec::new(), None);
            loop {
                let page = directory.list(filter.clone(), after, limit).await.unwrap();
                assert!(page.entries.len() <= limit);
                names.extend(page.entries.into_iter().map(|entry| entry.name.to_string()));
                match page.next {
                    Some(name) => after = Some(name),
                    None => return names,
                }
            }
        }
    };
    let users_of_a = AccountFilter { domain: Some("a.test".into()), shared: Some(false), prefix: "".into() };
    for limit in [1, 3, 7, 28, 100] {
        assert_eq!(all(AccountFilter::default(), limit).await.len(), 28);
        let users: Vec<String> = (0..7).map(|n| format!("user/u{n}@a.test")).collect();
        assert_eq!(all(users_of_a.clone(), limit).await, users);
        let prefix = AccountFilter { prefix: "u3".into(), ..AccountFilter::default() };
        assert_eq!(all(prefix, limit).await, ["user/u3@a.test", "user/u3@b.test"]);
    }
    assert_eq!(directory.domains(Some("a.test".to_string()), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn changes_at_the_same_time_are_made_one_after_another() {
    let engine = memory();
    let directory = open(&engine);
    directory.add_domain("example.org".to_string()).await.unwrap();
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let directory = directory.clone();
            tokio::spawn(async move {
                let name = name(&format!("user/u{}@example.org", n / 2));
                directory.reserve(name, HOME, n).await.map(|entry| entry.id)
            })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(id) => assert!(ids.insert(id)),
            Err(error) => assert!(matches!(error, DirectoryError::Exists(_))),
        }
    }
    // One for the domain and one for the block of ids.
    assert_eq!((ids.len(), directory.barrier().await.unwrap()), (20, 22));
    sound(&engine);
}

/// Commits nothing until it is told to.
struct Slow(Arc<dyn Engine>, Arc<tokio::sync::Notify>);

impl Commit for Slow {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        let (inner, go) = (DirectCommit(self.0.clone()), self.1.clone());
        Box::pin(async move {
            go.notified().await;
            inner.commit(batch).await
        })
    }
}

#[tokio::test]
async fn a_change_goes_on_when_its_caller_has_gone() {
    let engine = memory();
    let go = Arc::new(tokio::sync::Notify::new());
    let slow = Arc::new(Slow(engine.clone(), go.clone()));
    let directory = EmbeddedDirectory::open(engine.clone(), slow).unwrap();
    let mut revisions = directory.subscribe();
    {
        let mut change = directory.add_domain("a.test".to_string());
        assert!(poll_once(&mut change).await.is_none());
    }
    go.notify_one();
    revisions.changed().await.unwrap();
    assert_eq!(directory.domains(None, 10).await.unwrap().len(), 1);
}

/// Polls once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

struct Failing;

impl Commit for Failing {
    fn commit(&self, _: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        Box::pin(async { Err(CommitError("no disk".to_string())) })
    }
}

#[tokio::test]
async fn a_failed_commit_is_unavailable_and_not_believed() {
    let engine = memory();
    let directory = EmbeddedDirectory::open(engine.clone(), Arc::new(Failing)).unwrap();
    let failed = directory.add_domain("a.test".to_string()).await;
    assert_eq!(failed, Err(DirectoryError::Pending("no disk".to_string())));
    assert_eq!((directory.domains(None, 1).await, *directory.subscribe().borrow()), (Ok(vec![]), 0));
}

async fn records() -> (Arc<dyn Engine>, Vec<(Vec<u8>, Vec<u8>)>) {
    let engine = memory();
    let directory = open(&engine);
    directory.add_domain("example.org".to_string()).await.unwrap();
    make(&directory, "user/joe@example.org").await;
    directory.reserve(name("team@example.org"), HOME, 4).await.unwrap();
    directory
        .put_node(Node { address: "a:1".into(), version: "1".into(), ..Node::new(NodeId(1)) })
        .await
        .unwrap();
    let mut records = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        records.push((key.to_vec(), value.to_vec()));
        true
    };
    engine.scan(Space::Directory, b"", None, false, &mut visit).unwrap();
    (engine, records)
}

/// A node is named by nothing else, and the oldest change of the log may have been forgotten.
fn is_not_missed(key: &[u8]) -> bool {
    key[0] == b'n' || key == b"e\0\0\0\0\0\0\0\x01"
}

fn faults(engine: &Arc<dyn Engine>) -> Vec<String> {
    let mut faults = Vec::new();
    check(&*engine.snapshot(), &mut |fault| faults.push(fault.to_string())).unwrap();
    faults
}

#[tokio::test]
async fn every_damaged_or_missing_record_is_found() {
    let (engine, records) = records().await;
    // Six of them are the change log.
    assert_eq!((records.len(), faults(&engine)), (15, vec![]));
    for (key, value) in &records {
        let mut changed = value.clone();
        changed[1] ^= 4;
        let mut batch = Batch::new();
        batch.put(Space::Directory, key.clone(), changed);
        engine.commit(batch).unwrap();
        assert!(!faults(&engine).is_empty(), "damaged {}", key.escape_ascii());
        let mut batch = Batch::new();
        batch.delete(Space::Directory, key.clone());
        engine.commit(batch).unwrap();
        assert_eq!(faults(&engine).is_empty(), is_not_missed(key), "missing {}", key.escape_ascii());
        let mut batch = Batch::new();
        batch.put(Space::Directory, key.clone(), value.clone());
        batch.put(Space::Directory, b"?".to_vec(), value.clone());
        engine.commit(batch).unwrap();
        assert_eq!(faults(&engine).len(), 1, "a record of no kind");
        let mut batch = Batch::new();
        batch.delete(Space::Directory, b"?".to_vec());
        engine.commit(batch).unwrap();
    }
    sound(&engine);
}

#[tokio::test]
async fn damage_is_told_with_the_record_and_not_taken_for_absence() {
    let (engine, records) = records().await;
    let mut batch = Batch::new();
    for (key, value) in records {
        batch.put(Space::Directory, key, value[..value.len() - 1].to_vec());
    }
    let directory = open(&engine);
    engine.commit(batch).unwrap();
    let Err(DirectoryError::Damaged(damaged)) = directory.look_up(&name("user/joe@example.org")).await else {
        panic!("damage was not found")
    };
    assert_eq!(damaged.record, "aexample.org\\x00ujoe");
    let is_damaged = |error| matches!(error, DirectoryError::Damaged(_));
    assert!(is_damaged(directory.by_id(AccountId::new(1).unwrap()).await.unwrap_err()));
    assert!(is_damaged(directory.list(AccountFilter::default(), None, 10).await.unwrap_err()));
    assert!(is_damaged(directory.add_domain("b.test".to_string()).await.unwrap_err()));
    assert!(EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine.clone()))).is_err());
}

/// What is done to a record.
type Harm = fn(&[u8], &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)>;

const HARMS: [(&str, Harm); 4] = [
    ("flipped", |key, value| {
        let mut flipped = value.to_vec();
        flipped[value.len() / 2] ^= 4;
        vec![(key.to_vec(), Some(flipped))]
    }),
    ("dropped", |key, _| vec![(key.to_vec(), None)]),
    ("truncated", |key, value| vec![(key.to_vec(), Some(value[..value.len() - 1].to_vec()))]),
    ("duplicated", |key, value| vec![([key, b"1"].concat(), Some(value.to_vec()))]),
];

/// What the store says of the two accounts of [`records`]: of a shared one not its name.
fn stored() -> Vec<Stored> {
    let id = |n| AccountId::new(n).unwrap();
    vec![
        Stored { id: id(1), name: Some(name("user/joe@example.org")), home: HOME },
        Stored { id: id(2), name: None, home: HOME },
    ]
}

#[tokio::test]
async fn every_damage_is_repaired_and_nothing_is_lost() {
    let (_, intact) = records().await;
    for (key, value) in intact {
        for (what, harm) in HARMS {
            let (engine, _) = records().await;
            let mut batch = Batch::new();
            for (key, value) in harm(&key, &value) {
                match value {
                    Some(value) => batch.put(Space::Directory, key, value),
                    None => batch.delete(Space::Directory, key),
                }
            }
            engine.commit(batch).unwrap();
            let found = faults(&engine);
            let case = format!("{what} {}", key.escape_ascii());
            assert_eq!(found.is_empty(), is_not_missed(&key) && what == "dropped", "{case}");
            let mended = repair(&*engine, &stored(), "example.org").unwrap();
            assert_eq!(mended.is_empty(), found.is_empty(), "{case}");
            println!(
                "{case}: {}",
                mended
                    .iter()
                    .map(|m| format!("{}; {}", m.finding, m.outcome))
                    .collect::<Vec<_>>()
                    .join(" | ")
            );
            sound(&engine);
            assert_eq!(repair(&*engine, &stored(), "example.org").unwrap(), [], "{case}");
            let directory = open(&engine);
            let joe = directory.look_up(&name("user/joe@example.org")).await.unwrap();
            assert_eq!((joe.id.get(), joe.state), (1, AccountState::Active), "{case}");
            let team = directory.by_id(AccountId::new(2).unwrap()).await.unwrap();
            assert_eq!(team.name, name("team@example.org"), "{case}");
            // No id is given twice.
            assert!(make(&directory, "user/new@example.org").await.id > team.id, "{case}");
        }
    }
}

#[tokio::test]
async fn accounts_of_the_store_come_back_without_any_record() {
    let engine = memory();
    let mended = repair(&*engine, &stored(), "example.org").unwrap();
    assert!(!mended.is_empty());
    sound(&engine);
    let directory = open(&engine);
    let joe = directory.look_up(&name("user/joe@example.org")).await.unwrap();
    assert_eq!((joe.id.get(), joe.verifier.clone()), (1, None));
    assert_eq!(
        directory.by_id(AccountId::new(2).unwrap()).await.unwrap().name,
        name("recovered-2@example.org")
    );
    assert_eq!(repair(&*memory(), &[], "example.org").unwrap(), [], "an empty directory is whole");
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u8, u64),
    Activate(u8),
    Suspend(u8),
    Rename(u8, u8),
    Remove(u8),
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..5, 0u64..2).prop_map(|(n, intent)| Step::Reserve(n, intent)),
        (0u8..5).prop_map(Step::Activate),
        (0u8..5).prop_map(Step::Suspend),
        (0u8..5, 0u8..5).prop_map(|(from, to)| Step::Rename(from, to)),
        (0u8..5).prop_map(Step::Remove),
        Just(Step::Reopen),
    ]
}

fn numbered(n: u8) -> AccountName {
    name(&format!("user/u{n}@example.org"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Against a map of names to ids and states, with look-ups through a warm cache after every step.
    #[test]
    fn it_does_what_a_map_does(steps in proptest::collection::vec(any_step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let engine = memory();
            let mut directory = open(&engine);
            directory.add_domain("example.org".to_string()).await.unwrap();
            let mut model: BTreeMap<AccountName, (AccountId, AccountState)> = BTreeMap::new();
            let mut given = 0;
            for step in steps {
                match step {
                    Step::Reserve(n, intent) => {
                        let state = AccountState::Reserved { intent };
                        let got = directory.reserve(numbered(n), HOME, intent).await;
                        match model.get(&numbered(n)) {
                            Some((id, known)) if *known == state => assert_eq!(got.unwrap().id, *id),
                            Some(_) => assert!(got.is_err()),
                            None => {
                                let id = got.unwrap().id;
                                assert!(id.get() > given);
                                given = id.get();
                                model.insert(numbered(n), (id, state));
                            }
                        }
                    }
                    Step::Activate(n) => if let Some((id, state)) = model.get_mut(&numbered(n)) {
                        let got = directory.activate(*id).await;
                        assert_eq!(got.is_ok(), *state != AccountState::Suspended);
                        if got.is_ok() { *state = AccountState::Active }
                    },
                    Step::Suspend(n) => if let Some((id, state)) = model.get_mut(&numbered(n)) {
                        let got = directory.set_state(*id, AccountState::Suspended).await;
                        assert_eq!(got.is_err(), matches!(state, AccountState::Reserved { .. }));
                        if got.is_ok() { *state = AccountState::Suspended }
                    },
                    Step::Rename(from, to) => if let Some((id, state)) = model.get(&numbered(from)).copied() {
                        let got = directory.rename(id, numbered(to)).await;
                        let free = !model.contains_key(&numbered(to)) && !matches!(state, AccountState::Reserved { .. });
                        assert_eq!(got.is_ok(), free || from == to);
                        if got.is_ok() {
                            model.remove(&numbered(from));
                            model.insert(numbered(to), (id, state));
                        }
                    },
                    Step::Remove(n) => if let Some((id, _)) = model.remove(&numbered(n)) {
                        directory.remove(id).await.unwrap();
                    },
                    Step::Reopen => directory = open(&engine),
                }
                for n in 0..5 {
                    let found = directory.look_up(&numbered(n)).await.ok().map(|entry| (entry.id, entry.state));
                    assert_eq!(found, model.get(&numbered(n)).copied());
                }
            }
            sound(&engine);
        });
    }
}

#[tokio::test]
async fn aliases_are_kept_and_share_no_name_with_accounts() {
    let engine = memory();
    let directory = open(&engine);
    directory.add_domain("x.test".to_string()).await.unwrap();
    let joe = make(&directory, "user/joe@x.test").await;
    let alias = |text: &str| AliasName::parse(text, "x.test").unwrap();
    let user = |text: &str| rookery_types::UserName::parse(text, "x.test").unwrap();
    let made =
        directory.set_alias(alias("sales"), vec![user("joe"), user("ann"), user("joe")]).await.unwrap();
    assert_eq!(made.targets, [user("ann"), user("joe")]);
    directory.set_alias(alias("@x.test"), vec![user("joe")]).await.unwrap();
    directory.set_alias(alias("sales"), vec![user("joe")]).await.unwrap();
    for (name, targets) in [
        ("joe", vec![user("ann")]),
        ("new", vec![]),
        ("new", vec![user("new")]),
        ("new@nowhere.test", vec![user("joe")]),
        ("new", (0..1001).map(|n| user(&format!("u{n}"))).collect()),
    ] {
        assert!(directory.set_alias(alias(name), targets).await.is_err(), "{name}");
    }
    let taken = directory.reserve(name("user/sales@x.test"), HOME, 1).await;
    assert!(matches!(taken, Err(DirectoryError::Exists(_))), "{taken:?}");
    assert!(directory.rename(joe.id, name("user/sales@x.test")).await.is_err());
    sound(&engine);
    let directory = open(&engine);
    assert_eq!(directory.alias(&alias("sales")).await.unwrap().unwrap().targets, [user("joe")]);
    assert_eq!(directory.alias(&alias("nobody")).await.unwrap(), None);
    let all = |domain: Option<&str>, after: Option<AliasName>, limit| {
        let (directory, domain) = (directory.clone(), domain.map(str::to_owned));
        async move {
            let page = directory.aliases(domain, after, limit).await.unwrap();
            page.into_iter().map(|alias| alias.name.to_string()).collect::<Vec<_>>()
        }
    };
    assert_eq!(all(None, None, 10).await, ["@x.test", "sales@x.test"]);
    assert_eq!(all(Some("x.test"), Some(alias("@x.test")), 1).await, ["sales@x.test"]);
    assert!(all(Some("x"), None, 10).await.is_empty());
    directory.remove_alias(alias("sales")).await.unwrap();
    assert!(matches!(directory.remove_alias(alias("sales")).await, Err(DirectoryError::NotFound(_))));
    make(&directory, "user/sales@x.test").await;
    directory.add_domain("y.test".to_string()).await.unwrap();
    directory.set_alias(alias("@y.test"), vec![user("joe")]).await.unwrap();
    assert!(matches!(directory.remove_domain("y.test".to_string()).await, Err(DirectoryError::InUse(_))));
    sound(&engine);
}

#[tokio::test]
async fn what_operators_decide_of_nodes_stays_and_is_obeyed() {
    let engine = memory();
    let directory = open(&engine);
    directory.add_domain("example.org".to_string()).await.unwrap();
    let own = Node { name: "be1.example".into(), version: "1".into(), ..Node::new(NodeId(1)) };
    directory.put_node(own.clone()).await.unwrap();
    make(&directory, "user/joe@example.org").await;
    let edit =
        NodeEdit { serve: Some(Duty::Drain), hold: Some(Duty::Cordon), tags: Some(vec!["ssd".into()]) };
    let edited = directory.edit_node(NodeId(1), edit.clone()).await.unwrap();
    // What the node says of itself does not change it.
    directory.put_node(Node { version: "2".into(), ..own.clone() }).await.unwrap();
    assert_eq!(directory.nodes().await.unwrap(), [Node { version: "2".into(), ..edited }]);
    let refused = directory.reserve(name("user/ann@example.org"), HOME, 2).await;
    assert!(matches!(refused, Err(DirectoryError::Refused(_))), "{refused:?}");
    let hold = |hold| NodeEdit { hold: Some(hold), ..NodeEdit::default() };
    for (duty, takes) in [(Duty::Drain, false), (Duty::Off, false), (Duty::On, true)] {
        directory.edit_node(NodeId(1), hold(duty)).await.unwrap();
        assert_eq!(directory.reserve(name("user/ann@example.org"), HOME, 2).await.is_ok(), takes, "{duty:?}");
    }
    let bad = NodeEdit { tags: Some(vec!["two words".into()]), ..NodeEdit::default() };
    assert!(matches!(directory.edit_node(NodeId(1), bad).await, Err(DirectoryError::Refused(_))));
    // One that was removed does not come back.
    directory.remove_node(NodeId(1)).await.unwrap();
    assert!(directory.nodes().await.unwrap().is_empty());
    assert_eq!(directory.removed_nodes().await.unwrap().len(), 1);
    assert!(matches!(directory.put_node(own).await, Err(DirectoryError::Refused(_))));
    assert!(matches!(directory.edit_node(NodeId(1), edit).await, Err(DirectoryError::NotFound(_))));
    assert!(matches!(directory.remove_node(NodeId(1)).await, Err(DirectoryError::NotFound(_))));
    let refused = directory.reserve(name("user/eve@example.org"), HOME, 3).await;
    assert!(matches!(refused, Err(DirectoryError::Refused(_))), "{refused:?}");
    sound(&engine);
}

#[tokio::test]
async fn placements_are_set_listed_and_forgotten() {
    let engine = memory();
    let directory = open(&engine);
    let at = |word: &str| Placement { nodes: vec![word.into()], tags: Vec::new() };
    directory.set_placement("example.org".to_owned(), Some(at("be1"))).await.unwrap();
    directory.set_placement(String::new(), Some(at("be2"))).await.unwrap();
    directory.set_placement("example.org".to_owned(), Some(at("be3"))).await.unwrap();
    let all = directory.placements().await.unwrap();
    assert_eq!(all, [("".into(), at("be2")), ("example.org".into(), at("be3"))]);
    for (domain, placement) in [("Example.org", at("be1")), ("a b", at("be1")), ("example.org", at("be 1"))] {
        let refused = directory.set_placement(domain.to_owned(), Some(placement)).await;
        assert!(matches!(refused, Err(DirectoryError::Refused(_))), "{refused:?}");
    }
    directory.set_placement("example.org".to_owned(), None).await.unwrap();
    assert_eq!(directory.placements().await.unwrap().len(), 1);
    let again = directory.set_placement("example.org".to_owned(), None).await;
    assert!(matches!(again, Err(DirectoryError::NotFound(_))), "{again:?}");
    sound(&engine);
}

#[tokio::test]
async fn an_account_takes_the_place_of_one_that_is_lost_and_of_no_other() {
    let engine = memory();
    let directory = open(&engine);
    directory.add_domain("example.org".to_string()).await.unwrap();
    for id in 1..3 {
        let own = Node { name: format!("be{id}").into(), ..Node::new(NodeId(id)) };
        directory.put_node(own).await.unwrap();
    }
    let lost = make(&directory, "user/joe@example.org").await;
    directory.set_verifier(lost.id, Some(Verifier::new("$argon2id$x").unwrap())).await.unwrap();
    let elsewhere = Home { node: NodeId(2), ..HOME };
    let made = directory.reserve(name("user/new@example.org"), elsewhere, 7).await.unwrap();
    let place = || name("user/joe@example.org");
    directory.remove_node(NodeId(1)).await.unwrap();
    // Not before it is made.
    assert!(matches!(directory.take_over(made.id, place()).await, Err(DirectoryError::Refused(_))));
    directory.activate(made.id).await.unwrap();
    for wrong in ["user/nobody@example.org", "joe@example.org"] {
        assert!(directory.take_over(made.id, name(wrong)).await.is_err(), "{wrong}");
    }
    for _ in 0..2 {
        directory.take_over(made.id, place()).await.unwrap();
    }
    let joe = directory.look_up(&place()).await.unwrap();
    assert_eq!((joe.id, joe.home, joe.state), (made.id, elsewhere, AccountState::Active));
    assert_eq!(joe.verifier.as_ref().unwrap().as_str(), "$argon2id$x");
    assert!(matches!(directory.by_id(lost.id).await, Err(DirectoryError::NotFound(_))));
    assert!(matches!(directory.look_up(&made.name).await, Err(DirectoryError::NotFound(_))));
    // The home of this one is there.
    let other = directory.reserve(name("user/other@example.org"), elsewhere, 8).await.unwrap();
    directory.activate(other.id).await.unwrap();
    assert!(matches!(directory.take_over(other.id, place()).await, Err(DirectoryError::Refused(_))));
    sound(&engine);
}
