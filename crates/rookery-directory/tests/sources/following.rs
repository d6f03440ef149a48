//! What the copies that follow a source must do, whatever the source is.

use crate::world::{Between, Through, World, engine, node};
use rookery_directory::check::check;
use rookery_directory::renamed::renamed;
use rookery_directory::{
    AccountState, AliasName, CopiedDirectory, Directory, DirectoryError, Entry, Following, Home, Moving,
    Position, Published, Verifier,
};
use rookery_kv::{Engine, Space};
use rookery_types::{
    AccountId, AccountName, Acl, Epoch, Identifier, JobId, MailboxId, MailboxPath, NodeId, Rights,
    SpecialUse, StoreId, UserName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const HOME: Home = Home { node: NodeId(1), store: StoreId([7; 16]), epoch: Epoch(1) };

pub(crate) fn name(text: &str) -> AccountName {
    AccountName::parse(text).unwrap()
}

pub(crate) async fn make(directory: &CopiedDirectory, text: &str) -> Arc<Entry> {
    let entry = directory.reserve(name(text), HOME, 1).await.unwrap();
    directory.activate(entry.id).await.unwrap()
}

/// Waits until the copy is as asked, told by it.
pub(crate) async fn until(directory: &CopiedDirectory, wanted: impl Fn(&Following) -> bool) {
    directory.following().wait_for(|now| wanted(now)).await.unwrap();
}

/// A directory once it follows.
pub(crate) async fn following(
    engine: &Arc<dyn Engine>,
    source: Arc<dyn rookery_directory::Source>,
) -> CopiedDirectory {
    let directory = node(engine, source);
    until(&directory, |now| *now == Following::Following).await;
    directory
}

/// The records of a copy, but for those that are the node's own.
pub(crate) fn records(engine: &Arc<dyn Engine>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records = BTreeMap::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        if !matches!(key.first(), Some(b'c' | b'e' | b'k' | b't' | b'w')) {
            records.insert(key.to_vec(), value.to_vec());
        }
        true
    };
    engine.scan(Space::Directory, b"", None, false, &mut visit).unwrap();
    records
}

pub(crate) fn sound(engine: &Arc<dyn Engine>) {
    check(&*engine.snapshot(), &mut |fault| panic!("{fault}")).unwrap();
}

pub(crate) async fn what_one_node_changes_every_node_sees_after_a_barrier(world: &impl World) {
    let (one, two) = (engine(), engine());
    let a = following(&one, world.source()).await;
    let b = following(&two, world.source()).await;
    a.add_domain("x.test".to_owned()).await.unwrap();
    for n in 0..20 {
        let (here, there) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let made = make(here, &format!("user/u{n}@x.test")).await;
        // Whoever changed it sees it without asking; others after a barrier.
        assert_eq!(here.by_id(made.id).await.unwrap(), made);
        let revision = there.barrier().await.unwrap();
        assert_eq!(there.look_up(&made.name).await.unwrap(), made);
        assert!(*there.subscribe().borrow() >= revision);
        let verifier = Some(Verifier::new(&format!("$x${n}")).unwrap());
        let changed = there.set_verifier(made.id, verifier).await.unwrap();
        here.barrier().await.unwrap();
        assert_eq!(here.look_up(&made.name).await.unwrap(), changed);
    }
    let user = UserName::parse("u1", "x.test").unwrap();
    a.add_group("x.test".to_owned(), "staff".to_owned()).await.unwrap();
    b.barrier().await.unwrap();
    b.set_member("staff".to_owned(), user.clone(), true).await.unwrap();
    let shared = make(&b, "team@x.test").await;
    let mut acl = Acl::new();
    acl.set(Identifier::Group("staff".into()), false, Rights::LOOKUP);
    let mailbox = MailboxId { account: shared.id, number: 1 };
    let path = MailboxPath::new("Plans").unwrap();
    let published = Published::of(&shared.name, mailbox, &path, &acl, &[SpecialUse::Junk]).unwrap();
    b.publish(vec![(mailbox, Some(published.clone()))]).await.unwrap();
    a.barrier().await.unwrap();
    assert_eq!(a.groups_of(&user).await.unwrap(), ["staff".into()]);
    let to = vec![Identifier::Group("staff".into())];
    let granted = a.granted("x.test".to_owned(), to.clone(), true, 10).await.unwrap();
    assert_eq!(granted, BTreeSet::from([mailbox]));
    assert_eq!(a.published(mailbox).await.unwrap(), Some(published.clone()));
    assert_eq!(a.published_of(shared.id, None, 10).await.unwrap(), [published]);
    a.rename(shared.id, name("crew@x.test")).await.unwrap();
    a.remove(shared.id).await.unwrap();
    b.barrier().await.unwrap();
    assert_eq!(b.granted("x.test".to_owned(), to, true, 10).await.unwrap(), BTreeSet::new());
    assert_eq!(records(&one), records(&two));
    sound(&one);
    sound(&two);
}

pub(crate) async fn an_account_goes_only_where_it_was_sent(world: &impl World) {
    let (one, two) = (engine(), engine());
    let (a, b) = (following(&one, world.source()).await, following(&two, world.source()).await);
    let _ = a.add_domain("x.test".to_owned()).await;
    let joe = make(&a, "user/goer@x.test").await;
    let there = Moving { node: NodeId(8), job: JobId(4) };
    let elsewhere = Moving { node: NodeId(9), job: JobId(5) };
    let new = Home { node: NodeId(8), store: StoreId([8; 16]), epoch: Epoch(2) };
    // Two nodes that send it elsewhere at the same time: one of them does.
    let (first, second) = tokio::join!(
        a.relocate(joe.id, (joe.home, None), (joe.home, Some(there))),
        b.relocate(joe.id, (joe.home, None), (joe.home, Some(elsewhere)))
    );
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    b.barrier().await.unwrap();
    let sent = b.by_id(joe.id).await.unwrap().moving.unwrap();
    if sent == elsewhere {
        a.barrier().await.unwrap();
        a.relocate(joe.id, (joe.home, Some(elsewhere)), (joe.home, Some(there))).await.unwrap();
    }
    b.barrier().await.unwrap();
    // Nobody else takes it, and nobody forgets that it is on its way.
    let late = DirectoryError::HomeChanged(joe.home);
    assert_eq!(b.set_home(joe.id, joe.home, new).await, Err(late.clone()));
    assert_eq!(b.relocate(joe.id, (joe.home, Some(elsewhere)), (new, None)).await, Err(late));
    let same = b.relocate(joe.id, (joe.home, Some(there)), (Home { epoch: Epoch(1), ..new }, None)).await;
    assert!(matches!(same, Err(DirectoryError::Refused(_))));
    let moved = b.relocate(joe.id, (joe.home, Some(there)), (new, None)).await.unwrap();
    assert_eq!((moved.home, moved.moving), (new, None));
    // A lost answer: asking again is no harm, and what comes late does nothing.
    b.relocate(joe.id, (joe.home, Some(there)), (new, None)).await.unwrap();
    a.barrier().await.unwrap();
    let back = a.relocate(joe.id, (joe.home, Some(there)), (joe.home, None)).await;
    assert_eq!(back, Err(DirectoryError::HomeChanged(new)));
    assert_eq!(a.look_up(&joe.name).await.unwrap().home, new);
}

pub(crate) async fn nodes_that_change_the_same_agree(world: &impl World) {
    let (one, two) = (engine(), engine());
    let nodes = [following(&one, world.source()).await, following(&two, world.source()).await];
    nodes[0].add_domain("x.test".to_owned()).await.unwrap();
    let tasks: Vec<_> = (0..40u64)
        .map(|n| {
            let directory = nodes[n as usize % 2].clone();
            tokio::spawn(async move {
                let name = name(&format!("user/u{}@x.test", n / 4));
                directory.reserve(name, HOME, n).await.map(|entry| entry.id)
            })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(id) => assert!(ids.insert(id), "an id was given twice"),
            Err(error) => assert!(matches!(error, DirectoryError::Exists(_)), "{error}"),
        }
    }
    assert_eq!(ids.len(), 10);
    // A counter that all of them change: every change counts.
    nodes[0].add_group("x.test".to_owned(), "all".to_owned()).await.unwrap();
    let tasks: Vec<_> = (0..12)
        .map(|n| {
            let directory = nodes[n % 2].clone();
            let user = UserName::parse(&format!("u{n}"), "x.test").unwrap();
            tokio::spawn(async move { directory.set_member("all".to_owned(), user, true).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    for directory in &nodes {
        directory.barrier().await.unwrap();
        let groups = directory.groups("x.test".to_owned(), None, 10).await.unwrap();
        assert_eq!(groups.iter().map(|group| group.members).collect::<Vec<_>>(), [12]);
    }
    assert_eq!(records(&one), records(&two));
    sound(&one);
}

pub(crate) async fn lost_answers_are_looked_up(world: &impl World) {
    let (one, two) = (engine(), engine());
    let lossy = following(&one, Arc::new(Through(Between::new(world.source(), 2)))).await;
    lossy.add_domain("x.test".to_owned()).await.unwrap();
    for n in 0..10 {
        let made = make(&lossy, &format!("user/u{n}@x.test")).await;
        assert_eq!(made.state, AccountState::Active);
    }
    let again = lossy.add_domain("x.test".to_owned()).await;
    assert!(matches!(again, Err(DirectoryError::Exists(_))));
    let plain = following(&two, world.source()).await;
    assert_eq!(plain.list(Default::default(), None, 100).await.unwrap().entries.len(), 10);
    assert_eq!(records(&one), records(&two));
}

pub(crate) async fn a_copy_that_was_cut_off_for_long_never_shows_less(world: &impl World) {
    let (one, two) = (engine(), engine());
    let a = following(&one, world.source()).await;
    a.add_domain("x.test".to_owned()).await.unwrap();
    let mut kept = Vec::new();
    for n in 0..30 {
        kept.push(make(&a, &format!("user/u{n:02}@x.test")).await);
    }
    let between = Between::new(world.source(), 0);
    let b = following(&two, Arc::new(Through(between.clone()))).await;
    between.cut();
    until(&b, |now| matches!(now, Following::Away(_))).await;
    assert!(matches!(b.barrier().await, Err(DirectoryError::Unavailable(_))));
    let refused = b.add_domain("y.test".to_owned()).await;
    assert!(matches!(refused, Err(DirectoryError::Unavailable(_))), "{refused:?}");
    // A third goes, a third gets other names, some come.
    for entry in &kept[..10] {
        a.remove(entry.id).await.unwrap();
    }
    for (n, entry) in kept[10..20].iter().enumerate() {
        a.rename(entry.id, name(&format!("user/{}{n}@x.test", ["a", "z"][n % 2]))).await.unwrap();
    }
    for n in 0..10 {
        make(&a, &format!("user/new{n}@x.test")).await;
    }
    world.compact().await;
    // Whatever was before and is after is always there: the first look-up is made before the copy goes on.
    let done = Arc::new(AtomicBool::new(false));
    let looking = {
        let (b, done, kept) = (b.clone(), done.clone(), kept.clone());
        tokio::spawn(async move {
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) {
                for entry in &kept[10..] {
                    let found = b.by_id(entry.id).await.unwrap();
                    assert_eq!(found.id, entry.id);
                }
                for entry in &kept[20..] {
                    assert_eq!(b.look_up(&entry.name).await.unwrap().id, entry.id);
                }
                assert!(b.list(Default::default(), None, 100).await.unwrap().entries.len() >= 30);
                rounds += 1;
                tokio::task::yield_now().await;
            }
            rounds
        })
    };
    let pages = between.pages.load(Ordering::SeqCst);
    between.mend();
    until(&b, |now| *now == Following::Following).await;
    b.barrier().await.unwrap();
    done.store(true, Ordering::SeqCst);
    assert!(looking.await.unwrap() > 0);
    assert!(between.pages.load(Ordering::SeqCst) > pages, "it was read again");
    a.barrier().await.unwrap();
    assert_eq!(records(&one), records(&two));
    sound(&two);
    assert!(matches!(b.by_id(kept[0].id).await, Err(DirectoryError::NotFound(_))));
    // Both know who has another name, whether they heard of it or read it.
    let known = |engine: &Arc<dyn Engine>| -> BTreeSet<(String, String)> {
        let found = renamed(&**engine, 100).unwrap();
        assert!(found.windows(2).all(|two| two[0].number < two[1].number));
        found.into_iter().map(|renamed| (renamed.from.to_string(), renamed.to.to_string())).collect()
    };
    let wanted = (0..10).map(|n| (format!("u{}@x.test", n + 10), format!("{}{n}@x.test", ["a", "z"][n % 2])));
    let wanted: BTreeSet<_> = wanted.collect();
    assert_eq!(known(&one), wanted);
    assert_eq!(known(&two), wanted);
}

pub(crate) async fn a_copy_goes_on_from_where_it_was(world: &impl World) {
    let (one, two) = (engine(), engine());
    let a = following(&one, world.source()).await;
    a.add_domain("x.test".to_owned()).await.unwrap();
    let between = Between::new(world.source(), 0);
    let b = following(&two, Arc::new(Through(between.clone()))).await;
    b.barrier().await.unwrap();
    let pages = between.pages.load(Ordering::SeqCst);
    let at = b.position().unwrap();
    // With the source away, what the copy has is there at once. Cut off, the old copy also writes nothing any more.
    between.cut();
    until(&b, |now| matches!(now, Following::Away(_))).await;
    drop(b);
    let joe = make(&a, "user/joe@x.test").await;
    let b = node(&two, Arc::new(Through(between.clone())));
    assert_eq!(b.position(), Some(at));
    assert_eq!(b.domains(None, 10).await.unwrap().len(), 1);
    assert!(matches!(b.look_up(&joe.name).await, Err(DirectoryError::NotFound(_))));
    between.mend();
    until(&b, |now| *now == Following::Following).await;
    b.barrier().await.unwrap();
    assert_eq!(b.look_up(&joe.name).await.unwrap(), joe);
    assert_eq!(between.pages.load(Ordering::SeqCst), pages, "nothing was read again");
    // A copy that was never whole says nothing of what is not there.
    between.cut();
    let c = node(&engine(), Arc::new(Through(between)));
    let unknown = c.look_up(&joe.name).await;
    assert!(matches!(unknown, Err(DirectoryError::Unavailable(_))), "{unknown:?}");
    assert!(c.domains(None, 10).await.is_err() && c.list(Default::default(), None, 1).await.is_err());
}

pub(crate) async fn a_source_that_went_back_is_refused(world: &impl World) {
    let (one, two) = (engine(), engine());
    let a = following(&one, world.source()).await;
    a.add_domain("x.test".to_owned()).await.unwrap();
    let joe = make(&a, "user/joe@x.test").await;
    let between = Between::new(world.source(), 0);
    let b = following(&two, Arc::new(Through(between.clone()))).await;
    b.barrier().await.unwrap();
    for shown in [
        (|at| Position { revision: at.revision - 1, ..at }) as fn(Position) -> Position,
        |at| Position { cluster: at.cluster ^ 1, ..at },
        |at| Position { term: at.term.wrapping_sub(1), revision: at.revision + 100, ..at },
    ] {
        between.cut();
        until(&b, |now| matches!(now, Following::Away(_))).await;
        *between.shown.lock() = shown;
        between.mend();
        until(&b, |now| matches!(now, Following::WentBack(_))).await;
        let refused = b.set_state(joe.id, AccountState::Suspended).await;
        assert!(matches!(refused, Err(DirectoryError::WentBack(_))), "{refused:?}");
        assert!(b.barrier().await.is_err());
        // What it knows it goes on saying.
        assert_eq!(b.look_up(&joe.name).await.unwrap(), joe);
        *between.shown.lock() = |at| at;
        until(&b, |now| *now == Following::Following).await;
    }
    b.set_state(joe.id, AccountState::Suspended).await.unwrap();
    a.barrier().await.unwrap();
    assert_eq!(a.look_up(&joe.name).await.unwrap().state, AccountState::Suspended);
    assert_eq!(records(&one), records(&two));
}

pub(crate) async fn a_domain_is_removed_only_if_nothing_is_in_it(world: &impl World) {
    let (one, two) = (engine(), engine());
    let nodes = [following(&one, world.source()).await, following(&two, world.source()).await];
    nodes[0].add_domain("default.test".to_owned()).await.unwrap();
    for round in 0..10 {
        let domain = format!("x{round}.test");
        nodes[0].add_domain(domain.clone()).await.unwrap();
        nodes[1].barrier().await.unwrap();
        let alias = AliasName::parse(&format!("sales@{domain}"), "").unwrap();
        let target = UserName::parse("joe", "default.test").unwrap();
        let (removed, made) = tokio::join!(
            nodes[round % 2].remove_domain(domain.clone()),
            nodes[1 - round % 2].set_alias(alias.clone(), vec![target]),
        );
        // One of them came first.
        match (&removed, &made) {
            (Ok(()), Err(DirectoryError::NotFound(_))) | (Err(DirectoryError::InUse(_)), Ok(_)) => {}
            other => panic!("{other:?}"),
        }
        for directory in &nodes {
            directory.barrier().await.unwrap();
            let is_there = directory.domain(&domain).await.unwrap();
            assert_eq!(is_there.is_some(), removed.is_err());
            assert!(is_there.is_none_or(|domain| !domain.closing));
            assert_eq!(directory.alias(&alias).await.unwrap().is_some(), made.is_ok());
        }
    }
    // What a crash left half removed can be removed, or used again.
    assert!(matches!(nodes[0].remove_domain("default.test".to_owned()).await, Err(DirectoryError::InUse(_))));
    make(&nodes[0], "user/joe@default.test").await;
    sound(&one);
}

pub(crate) async fn large_groups_go_in_steps(world: &impl World) {
    let engine = engine();
    let directory = following(&engine, world.source()).await;
    directory.add_domain("x.test".to_owned()).await.unwrap();
    directory.add_group("x.test".to_owned(), "all".to_owned()).await.unwrap();
    let joe = make(&directory, "user/u0@x.test").await;
    for n in 0..45 {
        directory.add_group("x.test".to_owned(), format!("g{n}")).await.unwrap();
        let user = UserName::parse("u0", "x.test").unwrap();
        directory.set_member(format!("g{n}"), user, true).await.unwrap();
        let user = UserName::parse(&format!("u{n}"), "x.test").unwrap();
        directory.set_member("all".to_owned(), user, true).await.unwrap();
    }
    let id: AccountId = joe.id;
    directory.rename(id, name("user/joe@x.test")).await.unwrap();
    sound(&engine);
    let user = UserName::parse("joe", "x.test").unwrap();
    assert_eq!(directory.groups_of(&user).await.unwrap().len(), 46);
    directory.remove(id).await.unwrap();
    assert_eq!(directory.groups_of(&user).await.unwrap().len(), 0);
    directory.remove_group("x.test".to_owned(), "all".to_owned()).await.unwrap();
    let left = records(&engine).keys().filter(|key| key.starts_with(b"m") || key.starts_with(b"o")).count();
    assert_eq!(left, 0);
    sound(&engine);
}
