//! The cluster, what befalls it, and what was seen of it.

use crate::client::{Client, stable};
use crate::directory::{Model, Reach};
use crate::faults::faults;
use crate::network::Network;
use crate::node::Live;
use crate::ops::{Place, Seen};
use crate::rng::Rng;
use crate::steps::{Ends, Role, Steps};
use crate::trace::Trace;
use crate::{Outcome, Plan, strike, verify};
use parking_lot::Mutex;
use rookery_directory::Directory;
use rookery_kv::sim::SimDisk;
use rookery_link::{Ca, Identity, PeerState};
use rookery_store::AccountState;
use rookery_types::{AccountId, AccountName, Identifier, MailboxPath, NodeId, Rights};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

/// How often it is looked whether a disk has fallen.
const LOOK: Duration = Duration::from_millis(10);
/// Longer than any run that ends when it has done what it is for.
const FOR_LONG: Duration = Duration::from_secs(1 << 20);
/// How long a cluster may take to come to rest when nothing goes wrong any more.
const REST_WITHIN: Duration = Duration::from_secs(600);

/// A machine that a node runs on, as often as it starts.
pub(crate) struct Machine {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) disk: SimDisk,
    boots: AtomicU64,
    live: Mutex<Option<Arc<Live>>>,
    /// Somebody wants it to fall now.
    pub(crate) falls: Notify,
    /// The next fall is a loss of power, in silence, and not the end of a process.
    pub(crate) power: AtomicBool,
    /// It stands still: nothing of it is seen by others, and it sees nothing.
    stalled: watch::Sender<bool>,
    /// Told when it is up or down.
    ups: watch::Sender<bool>,
}

impl Machine {
    fn new(index: usize, seed: u64) -> Machine {
        Machine {
            index,
            name: format!("n{index}.test"),
            disk: SimDisk::new(seed.wrapping_mul(16) + index as u64),
            boots: AtomicU64::new(0),
            live: Mutex::default(),
            falls: Notify::new(),
            power: AtomicBool::new(false),
            stalled: watch::Sender::new(false),
            ups: watch::Sender::new(false),
        }
    }

    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.live.lock().clone()
    }

    pub(crate) fn next_boot(&self) -> u64 {
        self.boots.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn up(&self) {
        let _ = self.ups.subscribe().wait_for(|up| *up).await;
    }

    /// It falls, and nothing of it is seen any more from this moment on. False: it is not up.
    pub(crate) fn fail(&self, power: bool) -> bool {
        let Some(live) = self.live().filter(|live| live.alive.load(Ordering::Relaxed)) else { return false };
        self.power.store(power, Ordering::Relaxed);
        live.alive.store(false, Ordering::Relaxed);
        self.disk.crash_after(0);
        true
    }

    pub(crate) fn is_stalled(&self) -> bool {
        *self.stalled.borrow()
    }

    pub(crate) fn stalled(&self) -> watch::Receiver<bool> {
        self.stalled.subscribe()
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) trace: Trace,
    /// Where moves of accounts are.
    pub(crate) steps: Arc<Steps>,
    pub(crate) network: Network,
    pub(crate) model: Model,
    pub(crate) ca: Ca,
    pub(crate) identities: Arc<Mutex<BTreeMap<NodeId, Identity>>>,
    pub(crate) machines: Vec<Machine>,
    /// How many accounts there are that clients neither make nor delete.
    pub(crate) stable: usize,
    until: Mutex<Instant>,
    tokens: AtomicU64,
    /// How much clients did.
    did: AtomicU64,
    falls: AtomicU64,
    /// Nothing goes wrong any more.
    quiet: AtomicBool,
    observed: Mutex<Observed>,
    /// What went wrong, by kind.
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// What clients wait for: at which node, of which account.
    asked: Mutex<BTreeMap<(usize, String), u64>>,
    chance: Mutex<Rng>,
}

/// What was seen of mailboxes, by anybody, at any time.
#[derive(Default)]
struct Observed {
    /// By mailbox and UID: which message it was.
    uids: BTreeMap<(u64, u32, u32, u32), u64>,
    modseqs: SeenSoFar,
}

/// By account and mailbox: HIGHESTMODSEQ and UIDNEXT.
pub(crate) type SeenSoFar = BTreeMap<(u64, u32), (u64, u32)>;

impl World {
    pub(crate) fn new(plan: Plan) -> Result<Arc<World>, String> {
        let trace = Trace::new(plan.shown);
        let mut rng = Rng::new(plan.seed, 1);
        let (nodes, stable) = match plan.step {
            Some(_) => (3, 2),
            None => {
                let nodes = 2 + rng.index(3);
                (nodes, nodes + rng.index(nodes))
            }
        };
        let steps = Steps::new();
        let ca = Ca::make("simulated", std::time::SystemTime::now()).map_err(|error| error.to_string())?;
        let world = Arc::new(World {
            network: Network::new(plan.seed),
            model: Model::new(plan.seed, trace.clone(), Arc::clone(&steps)),
            steps,
            ca,
            identities: Arc::default(),
            machines: (0..nodes).map(|index| Machine::new(index, plan.seed)).collect(),
            stable,
            until: Mutex::new(Instant::now()),
            tokens: AtomicU64::new(0),
            did: AtomicU64::new(0),
            falls: AtomicU64::new(0),
            quiet: AtomicBool::new(true),
            observed: Mutex::default(),
            counts: Mutex::default(),
            asked: Mutex::default(),
            chance: Mutex::new(Rng::new(plan.seed, 6)),
            plan,
            trace,
        });
        world.steps.attach(&world);
        Ok(world)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.trace.is_wrong() || Instant::now() >= *self.until.lock()
    }

    pub(crate) fn new_token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn did(&self) {
        self.did.fetch_add(1, Ordering::Relaxed);
    }

    /// Something has gone wrong.
    pub(crate) fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    /// Of whoever fails by aim.
    pub(crate) fn chance(&self) -> Rng {
        Rng::new(self.chance.lock().next(), 7)
    }

    pub(crate) fn live_at(&self, node: NodeId) -> Option<Arc<Live>> {
        self.machine_at(node)?.live()
    }

    pub(crate) fn machine_at(&self, node: NodeId) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.live().is_some_and(|live| live.store.node() == node))
    }

    pub(crate) fn node_id(&self, index: usize) -> Option<NodeId> {
        Some(self.machines.get(index)?.live()?.store.node())
    }

    /// A client asks for something of an account, at a node, until what this returns is gone.
    pub(crate) fn asking(self: &Arc<Self>, node: usize, account: &str) -> Asking {
        let of = (node, account.to_owned());
        *self.asked.lock().entry(of.clone()).or_default() += 1;
        Asking { world: Arc::clone(self), of }
    }

    pub(crate) fn is_asked(&self, node: usize, account: &str) -> bool {
        self.asked.lock().get(&(node, account.to_owned())).is_some_and(|times| *times > 0)
    }

    /// A machine stands still for some time. False: it does already.
    pub(crate) fn stall(self: &Arc<Self>, machine: &Machine, spell: Duration) -> bool {
        let Some(node) = self.node_id(machine.index).filter(|_| !machine.is_stalled()) else { return false };
        self.trace.say(format_args!("node {} stands still for {spell:?}", machine.index));
        machine.stalled.send_replace(true);
        self.network.hold(node, true);
        self.model.set_reach(machine.index, Reach::Hanging);
        let (world, index) = (Arc::clone(self), machine.index);
        tokio::spawn(async move {
            sleep(spell).await;
            world.trace.say(format_args!("node {index} goes on"));
            world.model.set_reach(index, Reach::Good);
            world.network.hold(node, false);
            if let Some(machine) = world.machines.get(index) {
                machine.stalled.send_replace(false);
            }
        });
        true
    }

    /// An account has just come to its new home, and nothing was done to it there: both homes must have the same.
    pub(crate) fn compare(&self, account: AccountId, ends: Ends) {
        let (Some(source), Some(target)) = (self.live_at(ends.source), self.live_at(ends.target)) else {
            return;
        };
        let state = source.store.account_record(account).ok().flatten().map(|record| record.state);
        if !matches!(state, Some(AccountState::Released(_))) {
            return;
        }
        let digest =
            |live: &Live| rookery_store::check::digest(&*live.engine, account).map_err(|e| e.to_string());
        let (there, here) = (digest(&source), digest(&target));
        if there != here || there.is_err() {
            self.trace.wrong(format_args!("account {account} is not what it was: {there:?}, now {here:?}"));
        }
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.identities.lock().keys().copied().collect()
    }

    /// The epochs of two accounts, if they are at home at two nodes for sure. While they stay what they are, so do the
    /// homes.
    pub(crate) fn epochs(&self, a: &str, b: &str) -> Option<(u64, u64)> {
        let homes = self.homes();
        let (a, b) = (homes.get(a)?, homes.get(b)?);
        (a.0 != b.0).then_some((a.1, b.1))
    }

    /// Where accounts are at home, as the stores have it, and their epochs: by owner.
    pub(crate) fn homes(&self) -> BTreeMap<String, (usize, u64)> {
        let mut homes = BTreeMap::new();
        for machine in &self.machines {
            let Some(live) = machine.live() else { continue };
            for (_, record) in rookery_store::check::homes(&*live.engine).unwrap_or_default() {
                let Some(owner) = record.owner else { continue };
                homes.insert(AccountName::User(owner).to_string(), (machine.index, record.epoch.0));
            }
        }
        homes
    }

    /// What was seen so far of HIGHESTMODSEQ and UIDNEXT.
    pub(crate) fn seen_so_far(&self) -> SeenSoFar {
        self.observed.lock().modseqs.clone()
    }

    /// What was seen must fit what had been seen before it was asked for.
    pub(crate) fn observe(&self, place: &Place, seen: &Seen, so_far: &SeenSoFar) {
        let mut observed = self.observed.lock();
        let mailbox = (seen.account, seen.number);
        let before = so_far.get(&mailbox).copied().unwrap_or_default();
        if seen.modseq < before.0 || seen.uid_next < before.1 {
            let now = (seen.modseq, seen.uid_next);
            self.trace
                .wrong(format_args!("{place}: HIGHESTMODSEQ and UIDNEXT went from {before:?} to {now:?}"));
        }
        let known = observed.modseqs.entry(mailbox).or_default();
        *known = (known.0.max(seen.modseq), known.1.max(seen.uid_next));
        for message in &seen.messages {
            let Some(token) = message.token else {
                self.trace.wrong(format_args!("{place}: UID {} has octets that nobody wrote", message.uid));
                continue;
            };
            if message.uid >= seen.uid_next || message.modseq > seen.modseq {
                self.trace
                    .wrong(format_args!("{place}: UID {} is beyond UIDNEXT or HIGHESTMODSEQ", message.uid));
            }
            let key = (seen.account, seen.number, seen.uid_validity, message.uid);
            let known = *observed.uids.entry(key).or_insert(token);
            if known != token {
                self.trace.wrong(format_args!("{place}: UID {} was t{known} and is t{token}", message.uid));
            }
        }
    }
}

/// A client waits for something.
pub(crate) struct Asking {
    world: Arc<World>,
    of: (usize, String),
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(times) = self.world.asked.lock().get_mut(&self.of) {
            *times = times.saturating_sub(1);
        }
    }
}

/// Keeps a machine running: what falls is started again.
async fn keep(world: Arc<World>, index: usize) {
    let Some(machine) = world.machines.get(index) else { return };
    let mut rng = Rng::new(world.plan.seed, 0x300 + index as u64);
    loop {
        let started = {
            let fallen = async {
                while !machine.disk.is_down() {
                    sleep(LOOK).await;
                }
            };
            tokio::select! {
                biased;
                started = Live::start(&world, machine) => Some(started),
                () = fallen => None,
            }
        };
        let live = match started {
            Some(Ok(live)) => live,
            Some(Err(why)) => {
                world.trace.say(format_args!("node {index} does not start: {why}"));
                fall(&world, machine, None).await;
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            None => {
                world.trace.say(format_args!("node {index} falls while it starts"));
                fall(&world, machine, None).await;
                continue;
            }
        };
        world.trace.say(format_args!("node {index} is up"));
        *machine.live.lock() = Some(live.clone());
        machine.ups.send_replace(true);
        let mut read_only_for = Duration::ZERO;
        let patience = rng.micros(200_000, 3_000_000);
        while !machine.disk.is_down()
            && live.alive.load(Ordering::Relaxed)
            && timeout(LOOK, machine.falls.notified()).await.is_err()
        {
            if live.store.read_only_because().is_some() {
                read_only_for += LOOK;
            }
            // An operator comes.
            if read_only_for > patience {
                break;
            }
        }
        *machine.live.lock() = None;
        machine.ups.send_replace(false);
        fall(&world, machine, Some(live)).await;
        let pause = match world.quiet.load(Ordering::Relaxed) {
            true => Duration::from_millis(100),
            false => rng.micros(50_000, 6_000_000),
        };
        sleep(pause).await;
    }
}

/// A node ends at once.
async fn fall(world: &World, machine: &Machine, live: Option<Arc<Live>>) {
    let power = machine.power.load(Ordering::Relaxed);
    world.falls.fetch_add(1, Ordering::Relaxed);
    world.trace.say(format_args!("node {} falls, power {power}", machine.index));
    world.count(if power { "node-power" } else { "node-kill" });
    if let Some(live) = &live {
        let (node, index) = (live.store.node(), machine.index);
        world.steps.failed(|account, ends| match () {
            () if world.plan.step.is_some() => None,
            () if node == ends.source => Some(Role::Source),
            () if node == ends.target => Some(Role::Target),
            () => world.is_asked(index, account).then_some(Role::Session),
        });
        live.alive.store(false, Ordering::Relaxed);
        world.network.lose(live.store.node(), power);
    }
    match power {
        true => machine.disk.power_loss(),
        false => machine.disk.process_crash(),
    }
    if let Some(live) = live {
        live.end().await;
    }
}

/// The first accounts.
async fn set_up(world: &World) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    for (n, machine) in world.machines.iter().enumerate() {
        machine.up().await;
        let live = machine.live().ok_or("it fell at once")?;
        if n == 0 {
            live.directory.add_domain("a.test".to_owned()).await.map_err(|error| text(&error))?;
        }
    }
    let first = world.machines.first().and_then(Machine::live).ok_or("there is no node")?;
    // Until all nodes know each other.
    let nodes = world.nodes();
    for live in world.machines.iter().filter_map(Machine::live) {
        for node in nodes.iter().filter(|node| **node != live.store.node()) {
            let linked =
                live.links.peer(*node).wait_for(|state| matches!(state, PeerState::Up(_))).await.is_ok();
            world.trace.say(format_args!("node {} is linked with {node}: {linked}", live.index));
        }
    }
    for n in 0..world.stable {
        let name = AccountName::parse(&stable(n)).map_err(|error| text(&error))?;
        let made = first.registrar.create(&name, None).await;
        let id = made.map_err(|error| text(&error))?;
        world.steps.name(id, &stable(n));
        for live in world.machines.iter().filter_map(Machine::live) {
            let Ok(account) = live.store.account(id).await else { continue };
            let inbox = account.tree().get(&MailboxPath::inbox()).ok_or("it has no INBOX")?;
            let rights = Rights::parse(crate::ops::SHARED).map_err(|right| right.to_string())?;
            let mut acl = account.tree().state(inbox).ok_or("it has no INBOX")?.settings.acl.clone();
            acl.set(Identifier::Anyone, false, rights);
            account.set_acl(inbox, acl).await.map_err(|error| text(&error))?;
            world.trace.say(format_args!("{name} is at home at node {}", live.index));
        }
    }
    Ok(())
}

/// One life of the cluster.
pub(crate) async fn live(plan: Plan) -> Outcome {
    let world = match World::new(plan) {
        Ok(world) => world,
        Err(why) => return Outcome { wrong: vec![why], ..Outcome::default() },
    };
    let keepers: Vec<_> =
        (0..world.machines.len()).map(|index| tokio::spawn(keep(Arc::clone(&world), index))).collect();
    if let Err(why) = set_up(&world).await {
        world.trace.wrong(format_args!("the cluster does not begin: {why}"));
    }
    let lasts = if world.plan.step.is_some() { FOR_LONG } else { world.plan.lasts };
    *world.until.lock() = Instant::now() + lasts;
    world.quiet.store(false, Ordering::Relaxed);
    let failing = Arc::clone(&world);
    let faults = tokio::spawn(async move {
        match failing.plan.step {
            Some(point) => {
                strike::at_a_step(&failing, point).await;
                *failing.until.lock() = Instant::now();
            }
            None => faults(failing).await,
        }
    });
    let clients: Vec<_> = (0..world.plan.clients)
        .map(|number| tokio::spawn(Client::new(number, &world.plan).run(Arc::clone(&world))))
        .collect();
    let mut ended = Vec::new();
    for client in clients {
        match client.await {
            Ok(client) => ended.push(client),
            Err(error) => world.trace.wrong(format_args!("a client: {error}")),
        }
    }
    let _ = faults.await;
    if !world.trace.is_wrong() {
        let rested = timeout(REST_WITHIN, rest(&world, &mut ended)).await;
        match rested {
            Ok(()) => verify::verify(&world, &ended).await,
            Err(_) => world
                .trace
                .wrong(format_args!("it does not come to rest: {}", verify::restless(&world).await)),
        }
    }
    keepers.iter().for_each(|keeper| keeper.abort());
    let (hash, lines, wrong) = world.trace.end();
    let (did, falls) = (world.did.load(Ordering::Relaxed), world.falls.load(Ordering::Relaxed));
    let (moves, pairs) = world.steps.sum();
    let counts = world.counts.lock().clone().into_iter().chain(world.model.counts());
    let faults = counts.map(|(kind, times)| (kind.to_owned(), times)).collect();
    Outcome { hash, lines, did, falls, moves, faults, pairs, wrong }
}

/// Lets all be well, starts every node once more, and waits until nothing is under way.
async fn rest(world: &Arc<World>, clients: &mut [Client]) {
    world.quiet.store(true, Ordering::Relaxed);
    world.trace.say("all is well from now on");
    world.model.set_harm(0);
    (0..world.machines.len()).for_each(|index| world.model.set_reach(index, Reach::Good));
    // What was under way to the directory arrives.
    sleep(Duration::from_secs(30)).await;
    world.network.heal();
    for machine in &world.machines {
        machine.up().await;
        machine.disk.crash_after(u64::MAX);
        machine.power.store(false, Ordering::Relaxed);
        machine.falls.notify_one();
        let _ = machine.ups.subscribe().wait_for(|up| !up).await;
        machine.up().await;
    }
    for client in clients {
        client.settle(world).await;
    }
    while let why = verify::restless(world).await
        && !why.is_empty()
    {
        sleep(Duration::from_millis(200)).await;
    }
}
