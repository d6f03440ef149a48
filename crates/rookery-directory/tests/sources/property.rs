//! After any changes, crashes and troubles a copy is what its source holds, and what is derived is what follows from
//! that.

use crate::following::{HOME, name, records, sound, until};
use crate::world::{engine, node, node_as};
use proptest::prelude::*;
use rookery_directory::{
    AccountState, AliasName, CopiedDirectory, DirectCommit, Directory, DirectoryError, Following, Home,
    MemorySource, Published, Trouble,
};
use rookery_kv::Engine;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_types::{Acl, Epoch, Identifier, MailboxId, MailboxPath, NodeId, Rights, UserName};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Reserve(u8),
    Activate(u8),
    Suspend(u8),
    Rename(u8, u8),
    Remove(u8),
    Move(u8),
    Member(u8, bool),
    Group(bool),
    Alias(u8, u8),
    Publish(u8, bool),
    Crash,
    Compact(usize),
    CutPower(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..5).prop_map(Step::Reserve),
        2 => (0u8..5).prop_map(Step::Activate),
        1 => (0u8..5).prop_map(Step::Suspend),
        2 => (0u8..5, 0u8..5).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (0u8..5).prop_map(Step::Remove),
        1 => (0u8..5).prop_map(Step::Move),
        2 => (0u8..5, any::<bool>()).prop_map(|(n, is)| Step::Member(n, is)),
        1 => any::<bool>().prop_map(Step::Group),
        2 => (5u8..7, 0u8..5).prop_map(|(n, to)| Step::Alias(n, to)),
        2 => (0u8..5, any::<bool>()).prop_map(|(n, is)| Step::Publish(n, is)),
        2 => Just(Step::Crash),
        1 => (0usize..3).prop_map(Step::Compact),
        1 => (1u64..4).prop_map(Step::CutPower),
    ]
}

fn user(n: u8) -> UserName {
    UserName::parse(&format!("u{n}"), "x.test").unwrap()
}

/// Makes one change. What is refused is refused; what was acknowledged is there.
async fn take(directory: &CopiedDirectory, step: &Step) {
    let account = |n: u8| name(&format!("user/u{n}@x.test"));
    let id = |n: u8| async move { Some(directory.look_up(&account(n)).await.ok()?.id) };
    match *step {
        Step::Reserve(n) => {
            if let Ok(entry) = directory.reserve(account(n), HOME, 1).await {
                assert_eq!(directory.look_up(&account(n)).await.unwrap(), entry);
            }
        }
        Step::Activate(n) => {
            if let Some(id) = id(n).await
                && let Ok(entry) = directory.activate(id).await
            {
                assert_eq!(directory.by_id(id).await.unwrap(), entry);
            }
        }
        Step::Suspend(n) => {
            if let Some(id) = id(n).await {
                let _ = directory.set_state(id, AccountState::Suspended).await;
            }
        }
        Step::Rename(from, to) => {
            if let Some(id) = id(from).await
                && directory.rename(id, account(to)).await.is_ok()
            {
                assert_eq!(directory.look_up(&account(to)).await.unwrap().id, id);
            }
        }
        Step::Remove(n) => {
            if let Some(id) = id(n).await
                && directory.remove(id).await.is_ok()
            {
                assert!(matches!(directory.by_id(id).await, Err(DirectoryError::NotFound(_))));
            }
        }
        Step::Move(n) => {
            if let Ok(entry) = directory.look_up(&account(n)).await {
                let to = Home { node: NodeId(2), epoch: Epoch(entry.home.epoch.0 + 1), ..entry.home };
                if directory.set_home(entry.id, entry.home, to).await.is_ok() {
                    assert_eq!(directory.by_id(entry.id).await.unwrap().home, to);
                }
            }
        }
        Step::Member(n, is_member) => {
            let set = directory.set_member("g".to_owned(), user(n), is_member).await;
            if set.is_ok() {
                assert_eq!(!directory.groups_of(&user(n)).await.unwrap().is_empty(), is_member);
            }
        }
        Step::Group(true) => drop(directory.add_group("x.test".to_owned(), "g".to_owned()).await),
        Step::Group(false) => drop(directory.remove_group("x.test".to_owned(), "g".to_owned()).await),
        Step::Alias(n, to) => {
            let alias = AliasName::Address(user(n));
            if directory.set_alias(alias.clone(), vec![user(to)]).await.is_ok() {
                assert_eq!(directory.alias(&alias).await.unwrap().unwrap().targets, [user(to)]);
            }
        }
        Step::Publish(n, is_there) => {
            let Ok(entry) = directory.look_up(&account(n)).await else { return };
            let mut acl = Acl::new();
            acl.set(Identifier::Anyone, false, Rights::LOOKUP);
            let mailbox = MailboxId { account: entry.id, number: 1 };
            let published = Published::of(&entry.name, mailbox, &MailboxPath::inbox(), &acl, &[]);
            let published = published.filter(|_| is_there);
            if directory.publish(vec![(mailbox, published.clone())]).await.is_ok() {
                // Of an account that is gone, as the source knows and the copy did not, nothing is published.
                let is_there = directory.by_id(entry.id).await.is_ok();
                let expected = published.filter(|_| is_there);
                assert_eq!(directory.published(mailbox).await.unwrap(), expected);
            }
        }
        Step::Crash | Step::Compact(_) | Step::CutPower(_) => {}
    }
}

fn on_paused_clock(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(work);
}

/// Numbers that follow from a seed (SplitMix64).
fn numbers(mut seed: u64) -> impl FnMut() -> u64 + Send {
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_copy_becomes_what_its_source_is(
        steps in proptest::collection::vec((any::<bool>(), any_step()), 1..50), seed: u64,
    ) {
        on_paused_clock(async {
            let source = MemorySource::new(7);
            let steady_engine = engine();
            let steady = node(&steady_engine, Arc::new(source.clone()));
            until(&steady, |now| *now == Following::Following).await;
            steady.add_domain("x.test".to_owned()).await.unwrap();
            let disk = SimDisk::new(seed);
            let open = |disk: &SimDisk| -> (Arc<dyn Engine>, CopiedDirectory) {
                let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
                let directory = node_as(NodeId(u64::MAX), &engine, Arc::new(source.clone()));
                (engine, directory)
            };
            let (_, mut crashing) = open(&disk);
            let mut number = numbers(seed);
            source.set_plan(move |_| match number() % 24 {
                0 => Trouble::Away,
                1 => Trouble::LostRequest,
                2 => Trouble::LostAnswer,
                3 => Trouble::Late,
                4 => Trouble::Slow(Duration::from_millis(number() % 800)),
                _ => Trouble::None,
            });
            for (on_steady, step) in steps {
                match step {
                    Step::Crash => {
                        drop(crashing);
                        disk.power_loss();
                        crashing = open(&disk).1;
                    }
                    Step::CutPower(operations) => disk.crash_after(operations),
                    Step::Compact(kept) => source.compact(kept),
                    step if on_steady => take(&steady, &step).await,
                    // Its disk may have failed under it: then nothing is acknowledged.
                    step => if !disk.is_down() { take_anything(&crashing, &disk, &step).await },
                }
            }
            source.set_plan(|_| Trouble::None);
            drop(crashing);
            disk.power_loss();
            let (crashing_engine, crashing) = open(&disk);
            let scratch_engine = engine();
            let scratch = node(&scratch_engine, Arc::new(source.clone()));
            for directory in [&steady, &crashing, &scratch] {
                until(directory, |now| *now == Following::Following).await;
                directory.barrier().await.unwrap();
            }
            let there = records(&scratch_engine);
            assert_eq!(records(&steady_engine), there);
            assert_eq!(records(&crashing_engine), there);
            for (key, value) in source.records() {
                assert_eq!(there.get(&key[..]).map(Vec::as_slice), Some(&value[..]));
            }
            let primary = there.keys().filter(|key| b"adfglmnps".contains(&key[0])).count();
            assert_eq!(primary, source.records().len());
            sound(&crashing_engine);
        });
    }

    #[test]
    fn an_embedded_directory_survives_crashes(
        steps in proptest::collection::vec(any_step(), 1..40), seed: u64,
    ) {
        on_paused_clock(async {
            let disk = SimDisk::new(seed);
            let open = |disk: &SimDisk| -> (Arc<dyn Engine>, CopiedDirectory) {
                let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
                let directory = CopiedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine.clone())));
                (engine, directory.unwrap())
            };
            let (mut engine, mut directory) = open(&disk);
            directory.add_domain("x.test".to_owned()).await.unwrap();
            // It is told what an acknowledged change has changed, however its own disk fares.
            let follower_engine = crate::world::engine();
            for step in steps {
                match step {
                    Step::Crash => {
                        drop((directory, engine));
                        disk.power_loss();
                        (engine, directory) = open(&disk);
                        sound(&engine);
                        let follower = node(&follower_engine, Arc::new(directory.embedded().unwrap()));
                        until(&follower, |now| *now == Following::Following).await;
                        follower.barrier().await.unwrap();
                        assert_eq!(records(&follower_engine), records(&engine));
                    }
                    Step::CutPower(operations) => disk.crash_after(operations),
                    Step::Compact(_) => {}
                    step => if !disk.is_down() { take_anything(&directory, &disk, &step).await },
                }
            }
            drop((directory, engine));
            disk.power_loss();
            (engine, directory) = open(&disk);
            sound(&engine);
            let scratch_engine = crate::world::engine();
            let scratch = node(&scratch_engine, Arc::new(directory.embedded().unwrap()));
            until(&scratch, |now| *now == Following::Following).await;
            assert_eq!(records(&scratch_engine), records(&engine));
        });
    }
}

/// Makes a change at a node whose disk may fail while it does: nothing can be asked there then.
async fn take_anything(directory: &CopiedDirectory, disk: &SimDisk, step: &Step) {
    let (directory, step) = (directory.clone(), step.clone());
    let taken = tokio::spawn(async move { take(&directory, &step).await }).await;
    if let Err(panicked) = taken
        && !disk.is_down()
    {
        std::panic::resume_unwind(panicked.into_panic());
    }
}
