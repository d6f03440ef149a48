//! Whole accounts from one store to another, while they change and stores crash: there is then what was here, record by
//! record.

use super::*;
use crate::check::walk::kind_of;
use crate::deliveries::Once;
use crate::keys;
use crate::records::{AnnotationName, ContentRecord, KINDS, Locator};
use crate::transit::{Destination, Refusal, TransitId, Verdict};
use crate::{Annotation, Limits};
use bytes::Bytes;
use rookery_kv::engine::{Read, Space, prefix_end};
use rookery_types::{Acl, Identifier, Keyword, Rights, UserName};
use std::collections::{BTreeMap, BTreeSet};

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }
}

/// Both stores in one process: what is asked is done at once. After some requests the link breaks.
struct Wire<'a> {
    incoming: &'a mut Incoming,
    left: &'a mut u64,
}

impl Exchange for Wire<'_> {
    async fn ask(&mut self, request: Bytes) -> Result<Bytes, String> {
        assert!(request.len() <= FRAME_OCTETS_MAX);
        if *self.left == 0 {
            return Err("the link broke".to_owned());
        }
        *self.left -= 1;
        self.incoming.handle(request).await.map_err(|error| error.to_string())
    }
}

fn start(disk: &SimDisk) -> Store {
    let options = StoreOptions {
        background: None,
        retention: Duration::from_secs(3600),
        volume_octets: 200_000,
        log_entries: 40,
        pack_octets_min: 1,
        ..StoreOptions::default()
    };
    Store::open(options, Arc::new(MemoryEngine::new(disk.clone())), Arc::new(disk.files())).unwrap()
}

fn user(name: &str) -> UserName {
    UserName::parse(name, "a.test").unwrap()
}

fn path(text: &str) -> MailboxPath {
    MailboxPath::new(text).unwrap()
}

async fn born(store: &Store, rng: &mut Rng) -> Account {
    let owner = (rng.below(4) > 0).then(|| user("joe"));
    let mailboxes = vec![(MailboxPath::inbox(), Vec::new()), (path("Other"), Vec::new())];
    let new = NewAccount { owner, mailboxes, subscriptions: vec!["user/joe@a.test".into()] };
    store.create_account(id(), new).await.unwrap()
}

fn spooled(store: &Store, rng: &mut Rng) -> NewMessage {
    let large = rng.below(40) == 0;
    let octets = if large { 300_000 + rng.below(600_000) } else { rng.below(9000) } as usize;
    // Some have the same octets.
    let seed = rng.below(30);
    let text = format!("Message-ID: <{seed}@a.test>\r\nReferences: <{}@a.test>\r\n\r\n", rng.below(30));
    let mut body = text.into_bytes();
    body.extend((0..octets).map(|at| b'a' + ((at as u64 * (seed + 3)) % 23) as u8));
    let mut spool = store.spool();
    spool.push(&body).unwrap();
    let keywords = vec![Keyword::new(&format!("$k{}", rng.below(5))).unwrap()];
    let flags = SystemFlags::from_bits(rng.below(32) as u8).unwrap();
    NewMessage { body: spool.finish().unwrap(), flags, keywords, date: InternalDate::from_unix(5) }
}

/// Something happens to the account; what cannot be is refused.
async fn change(account: &Account, rng: &mut Rng) {
    let store = account.store.clone();
    let who = ["joe", "ann", "bob"][rng.below(3) as usize];
    let account = account.clone().seen_by(&user(who));
    let tree = account.tree();
    let all: Vec<_> = tree.iter().map(|(path, state)| (path.clone(), state.id)).collect();
    let (name, mailbox) = all[rng.below(all.len() as u64) as usize].clone();
    let (_, other) = all[rng.below(all.len() as u64) as usize];
    let first = 1 + rng.below(60) as u32;
    let uids = UidSet::range(first, first + rng.below(20) as u32);
    let open = async || account.open(mailbox).await.unwrap();
    match rng.below(17) {
        0..=3 => {
            let messages = (0..1 + rng.below(6)).map(|_| spooled(&store, rng)).collect();
            let _ = account.append(mailbox, messages).await;
        }
        4 => {
            let window = Duration::from_secs(1000);
            let once = Once { sender: "a@b".into(), message_id: format!("{}", rng.below(40)), window };
            let operation = rookery_types::OperationId([rng.below(200) as u8; 16]);
            let _ = account.append_once(mailbox, spooled(&store, rng), &once, &[operation]).await;
        }
        5 | 6 => {
            let flags = SystemFlags::from_bits(rng.below(32) as u8).unwrap();
            let list = FlagList { flags, keywords: vec![Keyword::new("$x").unwrap()] };
            let change = if rng.below(2) == 0 { FlagChange::Add(list) } else { FlagChange::Remove(list) };
            let _ = open().await.store_flags(&uids, change, None).await;
        }
        7 => drop(open().await.expunge(None).await),
        8 => drop(open().await.copy(&uids, &account, other).await),
        9 => drop(open().await.r#move(&uids, &account, other).await),
        10 => drop(account.create(&path(&format!("box{}", rng.below(6))), Vec::new()).await),
        11 => drop(account.rename(&name, &path(&format!("new{}", rng.below(9)))).await),
        12 if name != MailboxPath::inbox() => drop(account.delete(mailbox).await),
        12 => {
            let limits = Limits { messages: Some(1000), ..Limits::default() };
            let _ = account.set_quota(&name, limits).await;
        }
        13 => {
            let owner = (rng.below(2) == 0).then(|| user(who));
            let name = AnnotationName { owner, entry: format!("/x/n{}", rng.below(4)).into() };
            let value = (rng.below(3) > 0).then(|| Bytes::from(vec![b'v'; rng.below(50) as usize]));
            let of = (rng.below(2) == 0).then_some(mailbox);
            let _ = account.annotate(of, &[Annotation { name, value }], None).await;
        }
        14 => {
            let mut acl = Acl::new();
            acl.set(Identifier::User(user("ann")), false, Rights::ALL);
            let _ = account.set_acl(mailbox, acl).await;
            let limits = Limits { messages: Some(2000), ..Limits::default() };
            let _ = account.set_quota(&name, limits).await;
            let _ = account.subscribe(&format!("user/ann@a.test/{}", rng.below(4)), Some(other)).await;
            let _ = account.unsubscribe(&format!("user/ann@a.test/{}", rng.below(4))).await;
        }
        15 => {
            // Messages on their way to and from other homes.
            let to = Destination {
                account: AccountId::new(2).unwrap(),
                home: NodeId(9),
                path: path("INBOX"),
                user: user("joe"),
            };
            let few = UidSet::range(first, first + 1);
            let departed = open().await.depart(&few, &to).await;
            if let Ok(Some((transit, _))) = departed
                && rng.below(2) == 0
            {
                account.settle(transit.counter, &Verdict::Refused(Refusal::Gone)).await.unwrap();
            }
            let (source, counter) = (AccountId::new(3).unwrap(), rng.below(50));
            let arrived = (0..2).map(|n| (rookery_types::Uid::new(n + 1).unwrap(), spooled(&store, rng)));
            let arrived = arrived.collect();
            let _ = account.arrive(TransitId { account: source, counter }, mailbox, arrived).await;
            if rng.below(4) == 0 {
                account.forget_arrivals(source, rng.below(20)).await.unwrap();
            }
        }
        _ => {
            for _ in 0..2 {
                crate::fold::fold(&account, mailbox).await.unwrap();
            }
            store.tend_now().await.unwrap();
        }
    }
}

type All = BTreeMap<(Space, Vec<u8>), Vec<u8>>;

/// All that a store has, but for what is its own: its counters, its volumes, its jobs, and the accounts' own records.
fn all(engine: &dyn Read) -> All {
    let mut all = All::new();
    for space in Space::ALL {
        let scanned = engine.scan(space, &[], None, false, &mut |key, value| {
            let is_own = space == Space::Meta && !key.starts_with(keys::TRANSIT);
            if is_own || (space == Space::Account && key.len() == 9 && key[8] == 0) {
                return true;
            }
            let mut value = value.to_vec();
            if space == Space::Content && key.last() == Some(&0) {
                let mut record = ContentRecord::decode(key, &value).unwrap();
                record.locator = Locator { volume: 0, offset: 0 };
                record.stored = 0;
                value = record.encode(key).to_vec();
            }
            all.insert((space, key.to_vec()), value);
            true
        });
        scanned.unwrap();
    }
    all
}

/// The octets of all contents of the account.
fn bodies(store: &Store) -> BTreeMap<Vec<u8>, Bytes> {
    let mut bodies = BTreeMap::new();
    let scanned =
        store.engine().scan(Space::Content, &keys::account(id()), None, false, &mut |key, value| {
            if key.last() == Some(&0) {
                let record = ContentRecord::decode(key, value).unwrap();
                let content = ranges::content_of(Space::Content, key).unwrap();
                bodies.insert(key.to_vec(), store.volumes().read(&record, id(), content).unwrap());
            }
            true
        });
    scanned.unwrap();
    bodies
}

fn is_whole(store: &Store, disk: &SimDisk, when: &str) {
    let found = check(&*store.engine_handle(), Arc::new(disk.files())).unwrap();
    assert!(found.is_empty(), "{when}: {found:#?}");
}

/// What both ends had at the end of a move.
struct Moved {
    kinds: BTreeSet<&'static str>,
}

/// Moves the account, with changes in between, over a link that breaks, with either store crashing.
async fn travel_once(
    rng: &mut Rng,
    from: (&mut Store, &SimDisk),
    to: (&mut Store, &SimDisk),
    epoch: u64,
    breaks: bool,
) -> Moved {
    let mut job = JobId(epoch * 100);
    let mut tries = 0;
    let kinds = loop {
        tries += 1;
        let account = from.0.account(id()).await.unwrap();
        let peer = from.0.node();
        if tries > 1 && rng.below(4) == 0 {
            // Given up, and begun again.
            to.0.cancel_receiving(id(), job).await.unwrap();
            is_whole(to.0, to.1, "given up");
            assert!(!bodies(to.0).keys().any(|_| true), "nothing of it is left");
            job.0 += 1;
        }
        let travel = Travel { job, peer, epoch: Epoch(epoch), modseq: 0 };
        let (mut incoming, fresh) = to.0.receive(id(), travel).await.unwrap();
        assert!(matches!(to.0.account(id()).await, Err(StoreError::Moved)));
        let mut left = if breaks && tries < 6 { rng.below(30) } else { u64::MAX };
        let mut outgoing = account.outgoing();
        let sent: Result<Frozen, SendError> = async {
            let mut wire = Wire { incoming: &mut incoming, left: &mut left };
            outgoing.copy(&mut wire, fresh).await?;
            for _ in 0..3 {
                for _ in 0..rng.below(8) {
                    change(&account, rng).await;
                }
                outgoing.catch_up(&mut wire).await?;
            }
            is_whole(to.0, to.1, "while it comes");
            assert_eq!(outgoing.verify(&mut wire).await?, 0, "what was sent is what is there");
            assert!(outgoing.is_compared());
            for _ in 0..rng.below(5) {
                change(&account, rng).await;
            }
            let frozen = account.freeze(PATIENCE).await.unwrap().unwrap();
            outgoing.seal(&mut wire, &frozen).await?;
            Ok(frozen)
        }
        .await;
        drop(outgoing);
        if let Ok(frozen) = sent {
            // Once more not, and all goes on.
            if breaks && rng.below(3) == 0 {
                drop(frozen);
                change(&account, rng).await;
                continue;
            }
            let modseq = frozen.modseq();
            let (before, octets) = (all(&*from.0.engine_handle()), bodies(from.0));
            assert!(matches!(to.0.take_home(id(), job, modseq + 1).await, Err(StoreError::Refused(_))));
            frozen.release(Travel { job, peer: to.0.node(), epoch: Epoch(epoch), modseq: 0 }).await.unwrap();
            is_whole(from.0, from.1, "released");
            to.0.take_home(id(), job, modseq).await.unwrap();
            to.0.take_home(id(), job, modseq).await.unwrap();
            assert_eq!(all(&*to.0.engine_handle()), before, "there is what was here");
            assert_eq!(bodies(to.0), octets);
            let digest = |store: &Store| crate::check::digest(&*store.engine_handle(), id()).unwrap();
            assert_eq!(digest(to.0), digest(from.0));
            let found = incoming.handle(Bytes::from_static(&[2, 0])).await;
            assert!(matches!(found, Err(StoreError::Refused(_))), "what comes late is refused");
            break before.keys().filter_map(|(space, key)| kind_of(*space, key)).collect();
        }
        assert!(breaks, "{:?}", sent.err());
        drop((incoming, account));
        // Sometimes a store dies of it.
        let dies = rng.below(3);
        let (store, disk) = match dies {
            0 => (&mut *to.0, to.1),
            1 => (&mut *from.0, from.1),
            _ => continue,
        };
        store.close().await;
        disk.power_loss();
        *store = start(disk);
        is_whole(store, disk, "after a loss of power");
    };
    is_whole(to.0, to.1, "at home");
    // Its new home is its home after a restart, too, and the old one knows where it is.
    for (store, disk) in [(&mut *from.0, from.1), (&mut *to.0, to.1)] {
        store.close().await;
        disk.power_loss();
        *store = start(disk);
    }
    assert_eq!(to.0.job(id()).unwrap().map(|job| job.stage), Some(Stage::Announce));
    to.0.drop_job(id()).await.unwrap();
    let account = to.0.account(id()).await.unwrap();
    let record = to.0.account_record(id()).unwrap().unwrap();
    assert_eq!((record.state, record.epoch), (AccountState::Home, Epoch(epoch)));
    from.0.has_moved(id()).await.unwrap();
    from.0.has_moved(id()).await.unwrap();
    assert_eq!(
        from.0.whereabouts(id()).unwrap(),
        Some(Whereabouts::Left { node: to.0.node(), epoch: Epoch(epoch) })
    );
    assert!(matches!(from.0.account(id()).await, Err(StoreError::Moved)));
    let all = |store: &Store| crate::check::digests(&*store.engine_handle()).unwrap();
    assert_eq!(all(from.0)[0].2, all(to.0)[0].2, "both stores have the same of it");
    for _ in 0..10 {
        change(&account, rng).await;
    }
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    account.append(inbox, vec![spooled(to.0, rng)]).await.unwrap();
    is_whole(to.0, to.1, "it goes on");
    let digest = |store: &Store| crate::check::digest(&*store.engine_handle(), id()).unwrap();
    assert_ne!(digest(to.0), digest(from.0), "what changes is seen");
    is_whole(from.0, from.1, "moved");
    Moved { kinds }
}

/// Record by record, for accounts with all that an account can have, through crashes, there and back again.
#[tokio::test]
async fn an_account_is_there_what_it_was_here() {
    let seeds: u64 = std::env::var("ROOKERY_TRAVEL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let mut kinds = BTreeSet::new();
    for seed in 1..=seeds {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (here, there) = (SimDisk::new(seed), SimDisk::new(seed + 1000));
        let (mut a, mut b) = (start(&here), start(&there));
        let account = born(&a, &mut rng).await;
        for _ in 0..60 {
            change(&account, &mut rng).await;
        }
        drop(account);
        let breaks = seed % 3 > 0;
        kinds.append(&mut travel_once(&mut rng, (&mut a, &here), (&mut b, &there), 2, breaks).await.kinds);
        if seed % 4 == 0 {
            // What it left behind has been forgotten when it comes back.
            let before = u32::MAX;
            forget_moved(&a, id(), before).await.unwrap();
            assert!(bodies(&a).is_empty());
            is_whole(&a, &here, "forgotten");
        }
        travel_once(&mut rng, (&mut b, &there), (&mut a, &here), 3, breaks).await;
        let record = a.account_record(id()).unwrap().unwrap();
        assert!(record.incarnation >= 2, "it is not here for the first time");
        a.close().await;
        b.close().await;
    }
    // A kind that no such account has is a kind that this test does not see.
    let missing: Vec<_> = KINDS
        .iter()
        .map(|kind| kind.name)
        .filter(|name| !kinds.contains(name) && !matches!(*name, "account" | "deleted account"))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let (here, there) = (SimDisk::new(1), SimDisk::new(2));
    let (a, b) = (start(&here), start(&there));
    let (account, inbox) = account(&a).await;
    append(&account, inbox, "a: b\r\n\r\n").await.unwrap();
    let travel = Travel { job: JobId(1), peer: a.node(), epoch: Epoch(2), modseq: 0 };
    // Where it is at home nobody brings it.
    assert!(matches!(a.receive(id(), travel).await, Err(StoreError::AlreadyExists)));
    let (mut late, _) = b.receive(id(), travel).await.unwrap();
    let (mut incoming, fresh) = b.receive(id(), travel).await.unwrap();
    assert!(!fresh);
    let before = all(&*b.engine_handle());
    let key = Bytes::copy_from_slice(&keys::account_record(id()));
    let mut other = keys::content(id(), rookery_types::ContentId([1; 16])).to_vec();
    let nowhere = Locator { volume: 1, offset: 64 };
    let thread = rookery_types::ThreadId(1);
    let content = ContentRecord { locator: nowhere, size: 5, stored: 9, references: 1, thread };
    let content =
        frames::Item::Put { space: Space::Content, value: content.encode(&other), key: other.clone().into() };
    other[0] = 9;
    for item in [
        // The account's own record, a record that is damaged, one of another account's, a content without octets,
        // octets with another hash.
        frames::Item::Put { space: Space::Account, key: key.clone(), value: Bytes::from_static(b"x") },
        frames::Item::Put {
            space: Space::Account,
            key: [&key[..8], &[4]].concat().into(),
            value: Bytes::new(),
        },
        frames::Item::Put { space: Space::Directory, key: key.clone(), value: Bytes::new() },
        frames::Item::Delete { space: Space::Meta, key: key.clone() },
        content,
        frames::Item::Body {
            content: rookery_types::ContentId([2; 16]),
            hash: [0; 16],
            octets: Bytes::from_static(b"text"),
        },
    ] {
        let request = frames::Request::Apply(vec![item]).encode(id());
        assert!(incoming.handle(request).await.is_err());
    }
    for octets in [&b""[..], b"\x09", b"\x05\x04text", b"\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"] {
        assert!(incoming.handle(Bytes::copy_from_slice(octets)).await.is_err());
    }
    let lack = frames::Request::Lack(Vec::new()).encode(id());
    assert!(matches!(late.handle(lack.clone()).await, Err(StoreError::Refused(_))), "another took over");
    assert!(incoming.handle(lack).await.is_ok());
    assert!(matches!(b.take_home(id(), JobId(1), 0).await, Err(StoreError::Refused(_))));
    assert_eq!(all(&*b.engine_handle()), before);
    b.cancel_receiving(id(), JobId(2)).await.unwrap();
    assert!(b.account_record(id()).unwrap().is_some(), "that was another move");
    b.cancel_receiving(id(), JobId(1)).await.unwrap();
    assert!(b.account_record(id()).unwrap().is_none());
    assert!(b.jobs().unwrap().is_empty());
    let prefix = keys::account(id());
    for space in ranges::SPACES {
        let mut found = 0;
        let end = prefix_end(&prefix);
        b.engine()
            .scan(space, &prefix, end.as_deref(), false, &mut |_, _| {
                found += 1;
                true
            })
            .unwrap();
        assert_eq!(found, 0);
    }
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_an_account_as_it_comes_home_has_the_same_as_those_who_come_later() {
    let stores = [start(&SimDisk::new(1)), start(&SimDisk::new(2))];
    born(&stores[0], &mut Rng(3)).await;
    for epoch in 2..42 {
        let (from, to) = (&stores[epoch as usize % 2], &stores[(epoch as usize + 1) % 2]);
        let travel = |peer| Travel { job: JobId(epoch), peer, epoch: Epoch(epoch), modseq: 0 };
        let account = from.account(id()).await.unwrap();
        let (mut incoming, fresh) = to.receive(id(), travel(from.node())).await.unwrap();
        let mut left = u64::MAX;
        let mut wire = Wire { incoming: &mut incoming, left: &mut left };
        let mut outgoing = account.outgoing();
        outgoing.copy(&mut wire, fresh).await.unwrap();
        outgoing.catch_up(&mut wire).await.unwrap();
        let frozen = account.freeze(PATIENCE).await.unwrap().unwrap();
        outgoing.seal(&mut wire, &frozen).await.unwrap();
        let modseq = frozen.modseq();
        frozen.release(travel(to.node())).await.unwrap();
        let seeks = to.clone();
        let seeking = tokio::spawn(async move {
            loop {
                match seeks.account(id()).await {
                    Ok(account) => return account,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        to.take_home(id(), JobId(epoch), modseq).await.unwrap();
        let found = seeking.await.unwrap();
        assert!(Arc::ptr_eq(&found.cell, &to.account(id()).await.unwrap().cell), "{epoch}");
        account.leave();
        from.has_moved(id()).await.unwrap();
    }
    for store in stores {
        store.close().await;
    }
}
