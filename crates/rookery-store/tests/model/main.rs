//! The store against a naive model: random operations, crashes at any moment, then everything is compared.
//!
//! After a loss of power each acknowledged operation must be there, and of the one that was under way either all or
//! nothing.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod naive;
mod step;

use naive::{Model, ModelMailbox, ModelMessage, READERS, SEEN, held, without_modseq};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{Account, FlagChange, FlagList, NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, SystemFlags, Uid, UidSet, UserName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use step::{Operations, Rng, step};

fn options() -> StoreOptions {
    StoreOptions {
        background: None,
        volume_octets: 20_000,
        pack_octets_min: 5000,
        waiting_octets_max: 1000,
        annotations_max: 3,
        retention: Duration::ZERO,
        ..StoreOptions::default()
    }
}

fn open(disk: &SimDisk) -> Result<Store, rookery_store::OpenError> {
    let engine = MemoryEngine::new(disk.clone());
    Store::open(options(), Arc::new(engine), Arc::new(disk.files()))
}

const ACCOUNT: u64 = 7;

fn account_id() -> AccountId {
    AccountId::new(ACCOUNT).unwrap()
}

/// What a reader has seen of a mailbox goes into the messages; tells the reader's HIGHESTMODSEQ. Whatever else the
/// store says of it must agree.
async fn seen_of(
    account: &Account,
    path: &MailboxPath,
    reader: &'static str,
    messages: &mut BTreeMap<u32, ModelMessage>,
) -> u64 {
    let account = account.clone().seen_by(&UserName::parse(reader, "").unwrap());
    let state = account.tree().state(account.tree().get(path).unwrap()).unwrap();
    let quick = account.summary_of(&state).await.expect("it is counted");
    let mailbox = account.open(state.id).await.expect("it opens");
    let (state, shared) = (mailbox.now(), state);
    assert_eq!((quick.unseen, quick.highest_modseq), (state.summary.unseen, state.summary.highest_modseq));
    let theirs = state.messages.as_ref().expect("an open mailbox has its messages");
    let mut first_unseen = None;
    let mut unseen = 0;
    for found in theirs.iter() {
        let (seq, message) = found.expect("it is read");
        assert!(message.modseq <= state.summary.highest_modseq, "{path}: a modseq above the highest");
        let known = messages.get_mut(&message.uid.get()).expect("all see the same messages");
        assert_eq!(message.flags.bits() & !SEEN, known.flags & !SEEN);
        if message.flags.contains(SystemFlags::SEEN) {
            known.seen_by.insert(reader);
        } else {
            unseen += 1;
            first_unseen = first_unseen.or(Some(seq));
        }
    }
    assert_eq!(state.summary.unseen, unseen, "{path}: what {reader} has not seen is counted");
    assert_eq!(theirs.first_unseen().expect("it is read"), first_unseen);
    assert!(state.summary.highest_modseq >= shared.summary.highest_modseq);
    state.summary.highest_modseq.get()
}

/// What the store says now, read back octet by octet.
async fn observed(store: &Store) -> Model {
    let account = store.account(account_id()).await.expect("the account is there");
    let mut model = Model::new();
    for (path, state) in account.tree().iter() {
        let mailbox = account.open(state.id).await.expect("it opens");
        let state = mailbox.now();
        let mut messages = BTreeMap::new();
        let mut unseen = 0;
        let mut octets = 0;
        for (_, message) in state
            .messages
            .as_ref()
            .expect("an open mailbox has its messages")
            .iter()
            .map(|found| found.expect("it is read"))
        {
            let body = account.read(message.content).expect("content is readable").to_vec();
            account.facts(message.content).expect("facts are readable");
            assert_eq!(body.len(), message.size as usize);
            let names = message.keywords.as_slice().iter();
            let keywords = names.map(|n| state.settings.keywords[usize::from(*n)].to_string()).collect();
            unseen += u32::from(!message.flags.contains(SystemFlags::SEEN));
            octets += u64::from(message.size);
            let (flags, seen_by) = (message.flags.bits(), BTreeSet::new());
            messages.insert(message.uid.get(), ModelMessage { body, flags, keywords, seen_by });
        }
        let mut own_modseqs = [0; 2];
        for (reader, own) in READERS.into_iter().zip(&mut own_modseqs) {
            *own = seen_of(&account, path, reader, &mut messages).await;
        }
        assert_eq!(state.summary.exists as usize, messages.len(), "{path}: the summary counts the messages");
        assert_eq!((state.summary.unseen, state.summary.octets), (unseen, octets), "{path}");
        let quota = account.quota_at(path).map(|quota| quota.limits);
        let annotations = account.annotations(Some(state.id), None).expect("annotations are readable");
        let annotations = annotations.into_iter().map(|(name, value)| (name, value.to_vec())).collect();
        model.insert(
            path.to_string(),
            ModelMailbox {
                uid_validity: state.settings.uid_validity.get(),
                uid_next: state.summary.uid_next,
                messages,
                highest_modseq: state.summary.highest_modseq.get(),
                own_modseqs,
                quota,
                annotations,
            },
        );
    }
    let usage = account.usage();
    let total: usize = model.values().flat_map(|m| m.messages.values()).map(|m| m.body.len()).sum();
    assert_eq!(usage.octets, total as u64, "the quota sum counts what is there");
    let held = held(&model);
    for quota in account.quotas() {
        let wanted = held.get(quota.path.as_str()).copied().unwrap_or_default();
        assert_eq!(quota.held, wanted, "{}: a quota root counts what it governs", quota.path);
    }
    model
}

async fn fresh(disk: &SimDisk) -> (Store, Model) {
    let store = open(disk).expect("an empty disk opens");
    let mailboxes = vec![(MailboxPath::inbox(), Vec::new()), (MailboxPath::new("Sent").unwrap(), Vec::new())];
    let owner = Some(UserName::parse("joe@example.org", "").unwrap());
    store.create_account(account_id(), NewAccount { mailboxes, owner, subscriptions: vec![] }).await.unwrap();
    let model = observed(&store).await;
    (store, model)
}

/// UIDs, UIDVALIDITYs and modseqs never go back.
fn assert_forward(before: &Model, after: &Model, seed: u64) {
    for (name, old) in before {
        let Some(new) = after.get(name).filter(|new| new.uid_validity == old.uid_validity) else { continue };
        assert!(new.uid_next >= old.uid_next, "seed {seed}: {name}: UIDNEXT went back");
        assert!(new.highest_modseq >= old.highest_modseq, "seed {seed}: {name}: HIGHESTMODSEQ went back");
        let own = old.own_modseqs.iter().zip(&new.own_modseqs);
        assert!(own.clone().all(|(old, new)| new >= old), "seed {seed}: {name}: a reader's went back");
    }
}

async fn life(seed: u64) {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let disk = SimDisk::new(seed);
    let (mut store, mut model) = fresh(&disk).await;
    let mut operations = Operations::new();
    for _ in 0..3 {
        disk.crash_after(rng.below(120));
        let mut other = model.clone();
        for _ in 0..60 {
            if let Err(next) = step(&store, &mut rng, &mut model, &mut operations).await {
                other = *next;
                break;
            }
            other = model.clone();
        }
        store.close().await;
        drop(store);
        disk.power_loss();
        store = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: the store does not open: {e:?}"));
        let seen = observed(&store).await;
        assert_forward(&model, &seen, seed);
        let (plain, wanted, or) = (without_modseq(&seen), without_modseq(&model), without_modseq(&other));
        let mut is_as_wanted = true;
        if plain != wanted {
            // What was under way may be there in whole; UIDs that were given may stay given.
            let lenient = |m: &Model| {
                let mut m = m.clone();
                m.values_mut().for_each(|mailbox| (mailbox.uid_next, mailbox.uid_validity) = (0, 0));
                m
            };
            let seen = lenient(&plain);
            is_as_wanted = seen == lenient(&wanted);
            assert!(
                seen == lenient(&or) || seen == lenient(&wanted),
                "seed {seed}:\nseen   {plain:?}\nwanted {wanted:?}\nor     {or:?}"
            );
        }
        let findings = rookery_store::check::check(&*store.engine_for_check(), Arc::new(disk.files()))
            .expect("check runs");
        assert!(findings.is_empty(), "seed {seed}: {findings:?}");
        let account = store.account(account_id()).await.unwrap();
        for (id, appended) in std::mem::take(&mut operations) {
            let ask = async || match account.settle_operation(id).await.unwrap() {
                rookery_store::Settled::Appended(appended) => Some(appended),
                rookery_store::Settled::Undone => None,
                other => panic!("seed {seed}: an append is {other:?}"),
            };
            let settled = ask().await;
            match &appended {
                Some(_) => assert_eq!(settled, appended, "seed {seed}: what was answered is known"),
                None => assert_eq!(
                    settled.is_some(),
                    !is_as_wanted,
                    "seed {seed}: it is known whether it was done"
                ),
            }
            // That is so for good.
            assert_eq!(ask().await, settled);
            operations.extend(appended.is_some().then_some((id, appended)));
        }
        drop(account);
        model = observed(&store).await;
    }
    store.close().await;
}

#[tokio::test]
async fn the_store_agrees_with_the_model_over_crashes() {
    let seeds: u64 = std::env::var("ROOKERY_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let first: u64 = std::env::var("ROOKERY_FIRST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds {
        life(seed).await;
    }
    println!("{seeds} seeds from {first}: every acknowledged change was there after each loss of power");
}

#[tokio::test]
async fn folding_and_reopening_change_nothing() {
    let disk = SimDisk::new(1);
    let (store, _) = fresh(&disk).await;
    let account = store.account(account_id()).await.unwrap();
    let inbox: MailboxId = account.tree().get(&MailboxPath::inbox()).unwrap();
    let mut spool = store.spool();
    spool.push(b"Subject: x\r\n\r\nbody\r\n").unwrap();
    let body = spool.finish().unwrap();
    let message = |flags| NewMessage {
        body: body.clone(),
        flags,
        keywords: Vec::new(),
        date: InternalDate::from_unix(5),
    };
    for _ in 0..30 {
        account.append(inbox, vec![message(SystemFlags::NONE); 100]).await.unwrap();
    }
    let mailbox = account.open(inbox).await.unwrap();
    let seen = FlagList { flags: SystemFlags::SEEN, keywords: Vec::new() };
    mailbox.store_flags(&UidSet::range(500, 700), FlagChange::Add(seen), None).await.unwrap();
    mailbox
        .store_flags(
            &UidSet::range(1, 10),
            FlagChange::Add(FlagList { flags: SystemFlags::DELETED, keywords: vec![] }),
            None,
        )
        .await
        .unwrap();
    assert_eq!(mailbox.expunge(None).await.unwrap(), UidSet::range(1, 10));
    let before = observed(&store).await;
    store.tend_now().await.unwrap();
    assert!(mailbox.now().summary.deltas < 1024);
    assert_eq!(observed(&store).await, before);
    drop(mailbox);
    store.close().await;
    let store = open(&disk).unwrap();
    assert_eq!(observed(&store).await, before);
    let account = store.account(account_id()).await.unwrap();
    let mailbox = account.open(inbox).await.unwrap();
    assert_eq!(mailbox.now().messages.as_ref().unwrap().len(), 2990);
    assert_eq!(mailbox.vanished_since(1).unwrap(), Some(UidSet::range(1, 10)));
    assert_eq!(
        mailbox.now().messages.as_ref().unwrap().by_uid(Uid::new(600).unwrap()).unwrap().unwrap().0.get(),
        590
    );
    let findings = rookery_store::check::check(&*store.engine_for_check(), Arc::new(disk.files())).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}

/// A failed write or sync is never acknowledged, and what was acknowledged before it stays.
async fn faulty_life(seed: u64) {
    use rookery_kv::sim::{Fault, OpKind};
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let disk = SimDisk::new(seed);
    let (store, mut model) = fresh(&disk).await;
    let mut operations = Operations::new();
    let kind = [OpKind::Write, OpKind::Sync, OpKind::Create, OpKind::SyncDirectory, OpKind::Commit]
        [rng.below(5) as usize];
    let fault = [Fault::Io, Fault::NoSpace, Fault::Short][rng.below(3) as usize];
    disk.fail_nth(kind, rng.below(15), fault);
    let mut others = vec![];
    for _ in 0..40 {
        if let Err(next) = step(&store, &mut rng, &mut model, &mut operations).await {
            others.push(*next);
            if store.read_only_because().is_some() {
                // Nothing is acknowledged any more.
                let mut copy = model.clone();
                let _ = step(&store, &mut rng, &mut copy, &mut operations).await;
                assert!(store.read_only_because().is_some());
                break;
            }
        }
    }
    store.close().await;
    drop(store);
    match rng.below(2) {
        0 => disk.process_crash(),
        _ => disk.power_loss(),
    }
    let store = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: the store does not open: {e:?}"));
    let seen = without_modseq(&observed(&store).await);
    let lenient = |m: &Model| {
        let mut m = without_modseq(m);
        m.values_mut().for_each(|mailbox| (mailbox.uid_next, mailbox.uid_validity) = (0, 0));
        m
    };
    let fits =
        lenient(&seen) == lenient(&model) || others.last().is_some_and(|or| lenient(&seen) == lenient(or));
    assert!(fits, "seed {seed} {kind:?} {fault:?}:\nseen   {seen:?}\nwanted {model:?}\nor     {others:?}");
    let findings = rookery_store::check::check(&*store.engine_for_check(), Arc::new(disk.files())).unwrap();
    assert!(findings.is_empty(), "seed {seed}: {findings:?}");
    store.close().await;
}

#[tokio::test]
async fn failing_writes_and_syncs_are_never_acknowledged() {
    for seed in 1..=300 {
        faulty_life(seed).await;
    }
}

#[tokio::test]
async fn an_engine_that_lost_its_end_is_refused() {
    let disk = SimDisk::new(3);
    let (store, _) = fresh(&disk).await;
    let account = store.account(account_id()).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    for n in 0..40 {
        let mut spool = store.spool();
        spool.push(format!("Subject: {n}\r\n\r\n").as_bytes()).unwrap();
        let body = spool.finish().unwrap();
        let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1));
        let new = NewMessage { body, flags, keywords: Vec::new(), date };
        account.append(inbox, vec![new]).await.unwrap();
    }
    drop(account);
    store.close().await;
    drop(store);
    disk.process_crash();
    assert!(disk.lose_suffix_of_durable(10) > 0);
    match open(&disk) {
        Err(rookery_store::OpenError::LostSuffix { engine, marked }) => assert!(engine < marked),
        Ok(_) => panic!("a store that lost acknowledged changes opened"),
        Err(error) => panic!("another error: {error:?}"),
    }
}

#[tokio::test]
async fn a_full_disk_takes_no_messages_and_lets_go_of_them() {
    let disk = SimDisk::new(4);
    let (store, _) = fresh(&disk).await;
    let account = store.account(account_id()).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let new = |body| NewMessage {
        body,
        flags: SystemFlags::DELETED,
        keywords: Vec::new(),
        date: InternalDate::from_unix(1),
    };
    let spool = |text: &[u8]| -> Result<_, rookery_store::StoreError> {
        let mut spool = store.spool();
        spool.push(text)?;
        spool.finish()
    };
    account.append(inbox, vec![new(spool(b"a: b\r\n\r\n").unwrap())]).await.unwrap();
    disk.set_full(true);
    store.tend_now().await.unwrap();
    assert!(matches!(spool(b"c: d\r\n\r\n"), Err(rookery_store::StoreError::NoSpace)));
    disk.set_full(false);
    store.tend_now().await.unwrap();
    account.append(inbox, vec![new(spool(b"c: d\r\n\r\n").unwrap())]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_get_different_uids_in_order() {
    let disk = SimDisk::new(5);
    let (store, _) = fresh(&disk).await;
    let account = store.account(account_id()).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let mailbox = account.open(inbox).await.unwrap();
    let mut tasks = Vec::new();
    for writer in 0..8 {
        let (store, account, mailbox) = (store.clone(), account.clone(), mailbox.clone());
        tasks.push(tokio::spawn(async move {
            let mut uids = Vec::new();
            for n in 0..50 {
                let mut spool = store.spool();
                spool.push(format!("Subject: {writer} {n}\r\n\r\n").as_bytes()).unwrap();
                let body = spool.finish().unwrap();
                let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1));
                let new = NewMessage { body, flags, keywords: Vec::new(), date };
                let uid = account.append(inbox, vec![new]).await.unwrap().uids[0];
                // Acknowledged is visible.
                assert!(mailbox.now().messages.as_ref().unwrap().by_uid(uid).unwrap().is_some());
                uids.push(uid);
            }
            uids
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        let uids = task.await.unwrap();
        assert!(uids.windows(2).all(|pair| pair[0] < pair[1]));
        all.extend(uids);
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), all.last().map(|uid| uid.get())), (400, Some(400)));
}

#[tokio::test]
async fn a_deleted_account_is_gone_at_once_and_its_space_is_won_back() {
    let disk = SimDisk::new(6);
    let (store, mut model) = fresh(&disk).await;
    let mut rng = Rng(9);
    for _ in 0..60 {
        step(&store, &mut rng, &mut model, &mut Operations::new()).await.expect("nothing fails here");
    }
    let account = store.account(account_id()).await.unwrap();
    store.delete_account(account_id()).await.unwrap();
    assert!(matches!(store.account(account_id()).await, Err(rookery_store::StoreError::NoAccount)));
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let set = account.set_special_use(inbox, Vec::new()).await;
    assert!(
        matches!(set, Err(rookery_store::StoreError::NoAccount)),
        "a handle to it changes nothing either"
    );
    drop(account);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    store.tend_now().await.unwrap();
    store.close().await;
    drop(store);
    let store = open(&disk).unwrap();
    store.tend_now().await.unwrap();
    let engine = store.engine_for_check();
    for space in rookery_kv::engine::Space::ALL {
        let mut keys = 0;
        engine
            .scan(space, &[], None, false, &mut |_, _| {
                keys += 1;
                true
            })
            .unwrap();
        assert!(keys == 0 || space == rookery_kv::engine::Space::Meta, "{space:?} has {keys} keys left");
    }
    use rookery_kv::files::FileLayer;
    // One for what arrives and one for what is packed may be left.
    assert!(disk.files().list().unwrap().len() <= 2, "{:?}", disk.files().list());
    assert!(rookery_store::check::check(&*engine, Arc::new(disk.files())).unwrap().is_empty());
}
