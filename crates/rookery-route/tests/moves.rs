//! Accounts move between three nodes while mail comes in, whatever happens on the way: at home at one node exactly, with
//! every message that was acknowledged once.
//!
//! Each life moves an account some times, with nodes crashing at one of their disk's operations and links that break.
//! `ROOKERY_MOVES_SEEDS=100 cargo test -p rookery-route --test moves` has more lives.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use bytes::Bytes;
use parking_lot::Mutex;
use rookery_directory::{DirectCommit, Directory, Duty, EmbeddedDirectory, NodeEdit};
use rookery_kv::Engine;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::{Fault, OpKind, SimDisk};
use rookery_net::{Drain, Pipe};
use rookery_route::{
    Attended, MoveLimits, MoveOutcome, MoveTimes, Mover, MoverError, MoverParts, PeerError, Peers, Phase,
    PipeService, Reaching, Registrar, Route, Router,
};
use rookery_store::check::check;
use rookery_store::{AccountState, FORMAT, NewMessage, Stage, Store, StoreError, StoreOptions, Whereabouts};
use rookery_types::{
    AccountId, AccountName, Address, InternalDate, MailboxPath, NodeId, Style, SystemFlags, UserName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }
}

/// What lies between the nodes.
struct Between {
    nodes: Mutex<BTreeMap<NodeId, Mover>>,
    rng: Mutex<Rng>,
    /// Of four pipes so many break, after some octets.
    harm: Mutex<u64>,
    /// What runs at each node for others.
    serving: Mutex<BTreeMap<NodeId, JoinSet<()>>>,
    /// Nobody reaches this node.
    cut_off: Mutex<BTreeSet<NodeId>>,
}

/// The links of one node.
struct LinksOf(NodeId, Arc<Between>);

impl Peers for LinksOf {
    fn open(&self, node: NodeId, service: PipeService, _head: Bytes) -> Reaching<'_> {
        assert_eq!(service, PipeService::Move);
        let (from, between) = (self.0, Arc::clone(&self.1));
        Box::pin(async move {
            let cut = between.cut_off.lock().iter().any(|cut| [from, node].contains(cut));
            let mover = between.nodes.lock().get(&node).cloned().filter(|_| !cut);
            let Some(mover) = mover else {
                return Err(PeerError { node, why: "it is not there".to_owned() });
            };
            let breaks = {
                let mut rng = between.rng.lock();
                let small = [300, 3000, 30_000][rng.below(3) as usize];
                (rng.below(4) < *between.harm.lock()).then(|| rng.below(small))
            };
            let (near, middle) = rookery_net::pipe::in_memory(1 << 16);
            let (other, far) = rookery_net::pipe::in_memory(1 << 16);
            let mut serving = between.serving.lock();
            let serving = serving.entry(node).or_default();
            serving.spawn(async move { mover.serve(Box::new(far), from, Drain::new().guard()).await });
            serving.spawn(async move { pass(middle, other, breaks).await });
            Ok::<Box<dyn Pipe>, PeerError>(Box::new(near))
        })
    }
}

/// Passes octets on, until so many have gone.
async fn pass(mut a: impl Pipe, mut b: impl Pipe, breaks: Option<u64>) {
    let mut left = breaks.unwrap_or(u64::MAX);
    let (mut one, mut two) = ([0; 8192], [0; 8192]);
    loop {
        let (to, octets): (&mut dyn Pipe, _) = tokio::select! {
            read = a.read(&mut one) => (&mut b, one.get(..read.unwrap_or(0)).unwrap()),
            read = b.read(&mut two) => (&mut a, two.get(..read.unwrap_or(0)).unwrap()),
        };
        if octets.is_empty() || left < octets.len() as u64 {
            return;
        }
        left -= octets.len() as u64;
        if to.write_all(octets).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

struct Node {
    disk: SimDisk,
    store: Store,
    mover: Mover,
}

struct World {
    directory: Arc<dyn Directory>,
    between: Arc<Between>,
    nodes: Vec<Node>,
    id: AccountId,
    /// Messages that were acknowledged, and all.
    acknowledged: BTreeSet<u64>,
    tried: u64,
    crashes: u64,
}

fn user(name: &str) -> UserName {
    UserName::parse(name, "a.test").unwrap()
}

fn node(disk: SimDisk, directory: &Arc<dyn Directory>, between: &Arc<Between>) -> Node {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, engine, Arc::new(disk.files())).unwrap();
    let times = MoveTimes {
        patience: Duration::from_millis(50),
        still_max: Duration::from_secs(2),
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(8),
        stalled: Duration::from_secs(2),
        ask_every: Duration::from_millis(20),
    };
    let mover = Mover::new(MoverParts {
        store: store.clone(),
        directory: Arc::clone(directory),
        peers: Arc::new(LinksOf(store.node(), Arc::clone(between))),
        publications: None,
        transit: None,
        times,
        limits: MoveLimits::default(),
    });
    between.nodes.lock().insert(store.node(), mover.clone());
    mover.resume().unwrap();
    Node { disk, store, mover }
}

fn letter(n: u64) -> Vec<u8> {
    format!("Subject: {n}\r\n\r\n{}", "x".repeat((n % 5) as usize * 900)).into_bytes()
}

impl World {
    /// Joe is at home at the first of three nodes.
    async fn new(seed: u64, harm: u64) -> World {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(SimDisk::new(seed)));
        let directory = EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap();
        directory.add_domain("a.test".to_string()).await.unwrap();
        let directory: Arc<dyn Directory> = Arc::new(directory);
        let between = Arc::new(Between {
            nodes: Mutex::default(),
            rng: Mutex::new(Rng(seed.wrapping_mul(0x9e37_79b9) | 1)),
            harm: Mutex::new(harm),
            serving: Mutex::default(),
            cut_off: Mutex::default(),
        });
        let nodes: Vec<Node> =
            (0..3).map(|n| node(SimDisk::new(seed * 3 + n), &directory, &between)).collect();
        for node in &nodes {
            directory.put_node(rookery_directory::Node::new(node.store.node())).await.unwrap();
        }
        let registrar = Registrar::new(Arc::clone(&directory), nodes[0].store.clone(), vec![]);
        let id = registrar.create(&AccountName::User(user("joe")), None).await.unwrap();
        let (acknowledged, tried, crashes) = (BTreeSet::new(), 0, 0);
        World { directory, between, nodes, id, acknowledged, tried, crashes }
    }

    /// Puts a message into joe's INBOX, wherever that is.
    async fn deliver(&mut self) {
        let n = self.tried;
        self.tried += 1;
        for at in 0..3 {
            let store = &self.nodes[at].store;
            let Ok(account) = store.account(self.id).await else { continue };
            let Some(inbox) = account.tree().get(&MailboxPath::inbox()) else { continue };
            let mut spool = store.spool();
            if spool.push(&letter(n)).is_err() {
                continue;
            }
            let Ok(body) = spool.finish() else { continue };
            let date = InternalDate::from_unix(1);
            let new = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
            match account.append(inbox, vec![new]).await {
                Ok(_) => drop(self.acknowledged.insert(n)),
                Err(StoreError::Moved) => continue,
                // It may be there, and is not asked for again.
                Err(_) => {}
            }
            return;
        }
    }

    async fn restart(&mut self, at: usize, power: bool) {
        self.crashes += 1;
        let lost = self.nodes.remove(at);
        let id = lost.store.node();
        self.between.nodes.lock().remove(&id);
        lost.mover.stop().await;
        let serving = self.between.serving.lock().remove(&id);
        if let Some(mut serving) = serving {
            serving.shutdown().await;
        }
        lost.store.close().await;
        let Node { disk, store, mover } = lost;
        drop((store, mover));
        match power {
            true => disk.power_loss(),
            false => disk.process_crash(),
        }
        self.nodes.insert(at, node(disk, &self.directory, &self.between));
    }

    async fn restart_the_dead(&mut self, power: bool) {
        for at in 0..3 {
            if self.nodes[at].disk.is_down() {
                self.restart(at, power).await;
            }
        }
    }

    /// The node where joe is at home.
    fn home(&self) -> Option<usize> {
        (0..3).find(|at| {
            let record = self.nodes[*at].store.account_record(self.id).ok().flatten();
            record.is_some_and(|record| record.state == AccountState::Home)
        })
    }

    /// Waits until nothing is under way any more, with mail coming in; nodes that crash come back.
    async fn settle(&mut self, rng: &mut Rng) {
        let power = rng.below(2) == 0;
        for round in 0..10_000_u64 {
            self.restart_the_dead(power).await;
            // One whose disk has failed under it goes on for a while, and does not know what became of its last change.
            if round % 16 == 15 {
                for at in 0..3 {
                    if self.nodes[at].store.read_only_because().is_some() {
                        self.restart(at, power).await;
                    }
                }
            }
            if round % 4 == 0 && round < 100 {
                self.deliver().await;
            }
            self.is_at_one_home();
            // What drives a move hears a moment later that it is no more written down.
            let is_idle = |node: &Node| node.mover.status().is_ok_and(|moves| moves.is_empty());
            let has_none = |node: &Node| node.store.jobs().is_ok_and(|jobs| jobs.is_empty());
            let is_over = self.nodes.iter().all(|node| has_none(node) && is_idle(node));
            let is_well = |node: &Node| !node.disk.is_down() && node.store.read_only_because().is_none();
            if is_over && self.nodes.iter().all(is_well) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let jobs: Vec<_> = self.nodes.iter().map(|node| (node.store.jobs(), node.mover.status())).collect();
        panic!("the move does not end: {jobs:?}");
    }

    /// At no moment two.
    fn is_at_one_home(&self) {
        let mut homes = 0;
        let mut states = Vec::new();
        for node in &self.nodes {
            // One that has just crashed says nothing.
            let record = node.store.account_record(self.id).ok().flatten();
            homes += usize::from(record.as_ref().is_some_and(|record| record.state == AccountState::Home));
            states.push(record.map(|record| (record.state, record.epoch)));
        }
        assert!(homes <= 1, "{states:?}");
    }

    /// Joe's messages by their numbers, in the order of their UIDs.
    async fn letters(&self) -> Vec<u64> {
        let at = self.home().unwrap();
        let account = self.nodes[at].store.account(self.id).await.unwrap();
        let inbox = account.open(account.tree().get(&MailboxPath::inbox()).unwrap()).await.unwrap();
        let state = inbox.now();
        let mut found = Vec::new();
        for one in state.messages.as_ref().unwrap().iter() {
            let body = account.read(one.unwrap().1.content).unwrap();
            let text = std::str::from_utf8(&body).unwrap();
            let n = text.strip_prefix("Subject: ").unwrap().split_once("\r\n").unwrap().0.parse().unwrap();
            assert_eq!(body, letter(n));
            found.push(n);
        }
        found
    }

    async fn is_right(&self, when: &str) {
        let at = self.home().unwrap_or_else(|| panic!("{when}: it is at home nowhere"));
        self.is_at_one_home();
        let entry = self.directory.by_id(self.id).await.unwrap();
        assert_eq!((entry.home.node, entry.moving), (self.nodes[at].store.node(), None), "{when}");
        let record = self.nodes[at].store.account_record(self.id).unwrap().unwrap();
        assert_eq!(record.epoch, entry.home.epoch, "{when}");
        let letters = self.letters().await;
        let once: BTreeSet<u64> = letters.iter().copied().collect();
        assert_eq!(once.len(), letters.len(), "{when}: something is there twice");
        let lost: Vec<_> = self.acknowledged.difference(&once).collect();
        assert!(lost.is_empty(), "{when}: {lost:?} are lost");
        let mut sorted = letters.clone();
        sorted.sort_unstable();
        assert_eq!(letters, sorted, "{when}: UIDs go with the order of arrival");
        for node in &self.nodes {
            let found = check(&*node.store.engine_for_check(), Arc::new(node.disk.files())).unwrap();
            assert!(found.is_empty(), "{when}: {found:#?}");
        }
    }

    async fn end(self) {
        for node in self.nodes {
            node.mover.stop().await;
            node.store.close().await;
        }
    }
}

#[tokio::test]
async fn accounts_move_whole_whatever_happens() {
    let seeds: u64 = std::env::var("ROOKERY_MOVES_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    let first: u64 = std::env::var("ROOKERY_MOVES_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (mut moved, mut crashes, mut stayed) = (0, 0, 0);
    for seed in first..first + seeds {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut world = World::new(seed, seed % 4).await;
        for _ in 0..rng.below(12) {
            world.deliver().await;
        }
        for round in 0..3 {
            let from = world.home().unwrap();
            let to = (from + 1 + rng.below(2) as usize) % 3;
            for at in [from, to] {
                match rng.below(4) {
                    0 => world.nodes[at].disk.fail_nth(OpKind::Commit, 1 + rng.below(30), Fault::Io),
                    1 | 2 => world.nodes[at].disk.crash_after(rng.below(40)),
                    _ => {}
                }
            }
            let (mover, node) = (world.nodes[from].mover.clone(), world.nodes[to].store.node());
            let begun = mover.begin(world.id, node).await.is_ok();
            if begun && rng.below(6) == 0 {
                tokio::time::sleep(Duration::from_millis(rng.below(8))).await;
                // Too early, in time or too late.
                let _ = mover.cancel(world.id).await;
            }
            drop(mover);
            world.settle(&mut rng).await;
            world.is_right(&format!("seed {seed}, round {round}")).await;
            match world.home() == Some(to) {
                true => moved += 1,
                false => stayed += 1,
            }
        }
        crashes += world.crashes;
        world.end().await;
    }
    println!("{seeds} seeds from {first}: {moved} moves, {stayed} times it stayed, {crashes} crashes");
    assert!(moved > seeds && crashes > seeds / 2, "{moved} {crashes}");
}

/// Everything goes well: what is told of it.
/// Sends one question to a mover, and hears the kind of the answer and its text.
async fn answer_to(mover: &Mover, from: NodeId, question: &str) -> (u8, String) {
    let (mut near, far) = rookery_net::pipe::in_memory(1 << 16);
    let mover = mover.clone();
    let serving = tokio::spawn(async move { mover.serve(Box::new(far), from, Drain::new().guard()).await });
    let length = u32::try_from(question.len()).unwrap().to_be_bytes();
    near.write_all(&[&length[..], b"J", question.as_bytes()].concat()).await.unwrap();
    near.shutdown().await.unwrap();
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    serving.await.unwrap();
    (
        answer.get(4).copied().unwrap_or(0),
        String::from_utf8_lossy(answer.get(5..).unwrap_or(&[])).into_owned(),
    )
}

#[tokio::test]
async fn an_account_whose_records_a_node_does_not_know_does_not_come() {
    let mut world = World::new(4, 0).await;
    world.deliver().await;
    let [a, b] = [0, 1].map(|at| world.nodes[at].store.node());
    let of_b = world.nodes[1].mover.clone();
    // As the directory has it when a move begins.
    let entry = world.directory.by_id(world.id).await.unwrap();
    let job = rookery_types::JobId(77);
    let to = Some(rookery_directory::Moving { node: b, job });
    world.directory.relocate(world.id, (entry.home, None), (entry.home, to)).await.unwrap();
    let begin =
        |more: &str| format!(r#"{{"begin":{{"account":{},"job":77,"epoch":2{more}}}}}"#, world.id.get());
    let newer = format!(r#","format":{}"#, FORMAT + 1);
    let (kind, why) = answer_to(&of_b, a, &begin(&newer)).await;
    assert!(kind == b'E' && why.contains(&format!("formats up to {FORMAT}")), "{why}");
    assert!(world.nodes[1].store.account_record(world.id).unwrap().is_none(), "something of it is there");
    // An older node does not say which format it has, a newer one may say more.
    for more in [String::new(), format!(r#","format":{FORMAT},"more":[1]"#)] {
        assert_eq!(answer_to(&of_b, a, &begin(&more)).await.0, b'J', "{more}");
    }
}

#[tokio::test]
async fn a_node_that_takes_no_new_accounts_is_not_moved_to() {
    let mut world = World::new(3, 0).await;
    world.deliver().await;
    let [mover, of_b] = [0, 1].map(|at| world.nodes[at].mover.clone());
    let [a, b] = [0, 1].map(|at| world.nodes[at].store.node());
    let told = |node, hold| {
        let edit = NodeEdit { hold: Some(hold), ..NodeEdit::default() };
        world.directory.edit_node(node, edit)
    };
    for hold in [Duty::Cordon, Duty::Drain, Duty::Off] {
        told(b, hold).await.unwrap();
        let refused = mover.begin(world.id, b).await.unwrap_err();
        assert!(matches!(refused, MoverError::Closed { hold: why, .. } if why == hold), "{refused}");
        assert!(matches!(mover.drain(Some(b)).await, Err(MoverError::Closed { .. })));
    }
    told(b, Duty::On).await.unwrap();
    // What has begun goes on, and can be waited for.
    world.between.cut_off.lock().insert(b);
    let job = mover.begin(world.id, b).await.unwrap();
    told(b, Duty::Cordon).await.unwrap();
    let joined = mover.begin_or_join(world.id, b).await.unwrap();
    assert_eq!(joined, (job, false));
    world.between.cut_off.lock().clear();
    let outcome = mover.wait(world.id, job).await.unwrap();
    assert!(matches!(outcome, MoveOutcome::Moved { .. }), "{outcome:?}");
    // Nor is it drained to where nobody is to go.
    for node in [a, world.nodes[2].store.node()] {
        told(node, Duty::Cordon).await.unwrap();
    }
    assert!(matches!(of_b.drain(None).await, Err(MoverError::NoPlace)));
}

#[tokio::test]
async fn an_account_moves_and_all_know() {
    let mut world = World::new(1, 0).await;
    for _ in 0..20 {
        world.deliver().await;
    }
    let here = world.nodes[0].store.account(world.id).await.unwrap();
    let [a, b] = [0, 1].map(|at| world.nodes[at].store.node());
    let mover = world.nodes[0].mover.clone();
    assert!(matches!(mover.begin(world.id, a).await, Err(MoverError::AlreadyThere)));
    assert!(matches!(mover.begin(world.id, NodeId(7)).await, Err(MoverError::NoNode)));
    assert!(matches!(world.nodes[1].mover.begin(world.id, a).await, Err(MoverError::NotHere)));
    let job = mover.begin(world.id, b).await.unwrap();
    assert!(matches!(mover.begin(world.id, b).await, Err(MoverError::OnItsWay)));
    let outcome = mover.wait(world.id, job).await.unwrap();
    assert!(matches!(outcome, MoveOutcome::Moved { .. }), "{outcome:?}");
    // It is served there from now on, and whoever has it open here hears of it.
    let told = *here.whereabouts().borrow();
    assert_eq!(told, Whereabouts::Left { node: b, epoch: rookery_types::Epoch(2) });
    assert!(world.nodes[1].store.account(world.id).await.is_ok());
    assert!(matches!(world.nodes[0].store.account(world.id).await, Err(StoreError::Moved)));
    world.settle(&mut Rng(5)).await;
    world.is_right("moved").await;
    let ended = mover.ended();
    assert_eq!((ended.len(), ended[0].0.messages, ended[0].0.phase), (1, 20, Phase::Announcing));
    assert!(mover.status().unwrap().is_empty());
    assert!(matches!(mover.cancel(world.id).await, Err(MoverError::NoMove)));
    // All of a node's accounts go, to a node that takes them; shared mailboxes are some.
    let registrar = Registrar::new(Arc::clone(&world.directory), world.nodes[1].store.clone(), vec![]);
    let team = registrar.create(&AccountName::parse("team@a.test").unwrap(), None).await.unwrap();
    assert_eq!(world.nodes[1].mover.drain(Some(a)).await.unwrap(), 2);
    world.settle(&mut Rng(6)).await;
    assert_eq!(world.home(), Some(0));
    let mut revisions = world.directory.subscribe();
    while world.directory.by_id(team).await.unwrap().home.node != a {
        revisions.changed().await.unwrap();
    }
    let team = world.nodes[0].store.account(team).await.unwrap();
    assert!(team.owner().is_none() && team.tree().get(&MailboxPath::root()).is_some());
    drop(team);
    assert_eq!(world.nodes[1].mover.drain(None).await.unwrap(), 0);
    world.is_right("drained").await;
    world.end().await;
}

/// The old home and the new one know where an account is, whatever their copies of the directory say.
#[tokio::test]
async fn a_directory_that_lags_sends_nobody_the_wrong_way() {
    let mut world = World::new(3, 0).await;
    world.deliver().await;
    let old = world.directory.by_id(world.id).await.unwrap();
    let [a, b] = [0, 1].map(|at| world.nodes[at].store.node());
    let job = world.nodes[0].mover.begin(world.id, b).await.unwrap();
    world.nodes[0].mover.wait(world.id, job).await.unwrap();
    world.settle(&mut Rng(5)).await;
    // A directory that still says that it is at home at the first.
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(SimDisk::new(9)));
    let lagging = EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap();
    lagging.add_domain("a.test".to_string()).await.unwrap();
    let entry = lagging.reserve(old.name.clone(), old.home, 1).await.unwrap();
    assert_eq!(entry.id, world.id);
    lagging.activate(entry.id).await.unwrap();
    let lagging: Arc<dyn Directory> = Arc::new(lagging);
    let inbox = Address::inbox(user("joe"));
    for (at, here, wanted) in [(0, a, Route::Proxy(b)), (1, b, Route::Here { account: world.id })] {
        let router = Router::new(Arc::clone(&lagging), here, Style::default());
        let router = router.with_moves(world.nodes[at].store.clone());
        assert_eq!(router.target(inbox.clone()).await.unwrap().route, wanted);
        assert_eq!(router.locate(&old.name).await.unwrap(), (world.id, wanted));
    }
    world.end().await;
}

/// A target that is gone for long, and a move that is stopped and given up meanwhile.
#[tokio::test]
async fn a_move_waits_is_stopped_and_is_given_up() {
    let mut world = World::new(4, 0).await;
    for _ in 0..3 {
        world.deliver().await;
    }
    let b = world.nodes[1].store.node();
    world.between.cut_off.lock().insert(b);
    let mover = world.nodes[0].mover.clone();
    let job = mover.begin(world.id, b).await.unwrap();
    let status = async |wanted: &dyn Fn(&rookery_route::MoveStatus) -> bool| {
        while !mover.status().unwrap().iter().any(wanted) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    status(&|one| one.trouble.as_ref().is_some_and(|(why, _)| why.contains("not there"))).await;
    mover.pause(world.id, true).await.unwrap();
    world.between.cut_off.lock().clear();
    status(&|one| one.paused).await;
    // It is as it was said after a restart as well.
    drop(mover);
    world.restart(0, true).await;
    let mover = world.nodes[0].mover.clone();
    let known = mover.status().unwrap();
    assert!(known.len() == 1 && known[0].paused && known[0].job == job, "{known:?}");
    world.deliver().await;
    assert_eq!(world.home(), Some(0));
    mover.pause(world.id, false).await.unwrap();
    let outcome = mover.wait(world.id, job).await.unwrap();
    assert!(matches!(outcome, MoveOutcome::Moved { .. }), "{outcome:?}");
    world.settle(&mut Rng(5)).await;
    world.is_right("moved").await;
    // Back again, but given up while the other node is gone: it drops what it has when it hears that.
    let back = world.nodes[1].mover.clone();
    let a = world.nodes[0].store.node();
    let job = back.begin(world.id, a).await.unwrap();
    while world.nodes[0].store.job(world.id).unwrap().is_none_or(|job| job.stage != Stage::Receiving)
        && world.home() == Some(1)
    {
        tokio::task::yield_now().await;
    }
    world.between.cut_off.lock().insert(a);
    let cancelled = back.cancel(world.id).await;
    let outcome = back.wait(world.id, job).await.unwrap();
    world.between.cut_off.lock().clear();
    assert_eq!(cancelled.is_ok(), outcome == MoveOutcome::Cancelled, "{cancelled:?} {outcome:?}");
    world.settle(&mut Rng(5)).await;
    world.is_right("given up").await;
    world.end().await;
}

/// Somebody who waits for an answer gets one, whatever becomes of the move.
#[tokio::test]
async fn whoever_waits_for_a_move_is_not_left_waiting() {
    let mut world = World::new(5, 0).await;
    for _ in 0..3 {
        world.deliver().await;
    }
    let [a, b, c] = [0, 1, 2].map(|at| world.nodes[at].store.node());
    let (mover, id, patience) = (world.nodes[0].mover.clone(), world.id, Duration::from_millis(50));
    assert!(matches!(mover.begin_or_join(id, a).await, Err(MoverError::AlreadyThere)));
    // It does not get on: whoever has joined it leaves it as it is, whoever has begun it gives it up.
    world.between.cut_off.lock().insert(b);
    let (job, is_new) = mover.begin_or_join(id, b).await.unwrap();
    assert!(is_new);
    assert_eq!(mover.begin_or_join(id, b).await.unwrap(), (job, false));
    assert!(matches!(mover.begin_or_join(id, c).await, Err(MoverError::OnItsWay)));
    for gives_up in [false, true] {
        let Attended::Stuck(why) = mover.attend(id, job, patience, gives_up).await else {
            panic!("not stuck")
        };
        assert!(why.contains("not there"), "{why}");
    }
    let given_up = mover.wait(id, job).await;
    assert!(given_up.is_none_or(|outcome| outcome == MoveOutcome::Cancelled));
    world.between.cut_off.lock().clear();
    world.settle(&mut Rng(5)).await;
    assert_eq!(world.home(), Some(0));
    assert_eq!(mover.attend(id, rookery_types::JobId(7), patience, true).await, Attended::Unknown);
    // An operator stops it, and lets it go on.
    world.between.cut_off.lock().insert(b);
    let (job, _) = mover.begin_or_join(id, b).await.unwrap();
    mover.pause(id, true).await.unwrap();
    assert_eq!(mover.attend(id, job, patience, true).await, Attended::Paused);
    world.between.cut_off.lock().clear();
    mover.pause(id, false).await.unwrap();
    let attended = mover.attend(id, job, Duration::from_secs(60), true).await;
    assert!(matches!(attended, Attended::Ended(MoveOutcome::Moved { .. })), "{attended:?}");
    world.settle(&mut Rng(5)).await;
    assert_eq!(world.home(), Some(1));
    // What has ended is known as long as it is told of.
    let attended = mover.attend(id, job, patience, true).await;
    assert!(matches!(attended, Attended::Ended(MoveOutcome::Moved { .. })), "{attended:?}");
    world.is_right("attended").await;
    drop(mover);
    world.end().await;
}
