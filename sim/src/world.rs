//! The cluster, what befalls it, and what was seen of it.

use crate::client::{Client, stable};
use crate::directory::{Model, Reach};
use crate::network::Network;
use crate::node::Live;
use crate::ops::{Place, Seen};
use crate::rng::Rng;
use crate::trace::Trace;
use crate::{Outcome, Plan, verify};
use parking_lot::Mutex;
use rookery_directory::Directory;
use rookery_kv::sim::{Fault, OpKind, SimDisk};
use rookery_link::{Ca, Identity, PeerState};
use rookery_types::{AccountName, Identifier, MailboxPath, NodeId, Rights};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

/// How often it is looked whether a disk has fallen.
const LOOK: Duration = Duration::from_millis(10);
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
    falls: Notify,
    /// The next fall is a loss of power, in silence, and not the end of a process.
    power: AtomicBool,
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
}

/// Everything.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) trace: Trace,
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
        let nodes = 2 + rng.index(3);
        let ca = Ca::make("simulated", std::time::SystemTime::now()).map_err(|error| error.to_string())?;
        Ok(Arc::new(World {
            network: Network::new(plan.seed),
            model: Model::new(plan.seed, trace.clone()),
            ca,
            identities: Arc::default(),
            machines: (0..nodes).map(|index| Machine::new(index, plan.seed)).collect(),
            stable: nodes + rng.index(nodes),
            until: Mutex::new(Instant::now()),
            tokens: AtomicU64::new(0),
            did: AtomicU64::new(0),
            falls: AtomicU64::new(0),
            quiet: AtomicBool::new(true),
            observed: Mutex::default(),
            plan,
            trace,
        }))
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
        while !machine.disk.is_down() && timeout(LOOK, machine.falls.notified()).await.is_err() {
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
    if let Some(live) = &live {
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

/// What goes wrong, until the time is over.
async fn faults(world: Arc<World>) {
    let mut rng = Rng::new(world.plan.seed, 4);
    while !world.is_over() {
        let pause = rng.micros(20_000, 1_500_000);
        sleep(pause).await;
        let nodes = world.nodes();
        let Some(machine) = rng.pick(&world.machines) else { return };
        let power = rng.one_in(2);
        match rng.below(20) {
            0..3 => {
                machine.power.store(power, Ordering::Relaxed);
                machine.falls.notify_one();
            }
            3..8 => {
                let after = rng.below(25);
                world.trace.say(format_args!("node {} will fall after {after} operations", machine.index));
                machine.power.store(power, Ordering::Relaxed);
                machine.disk.crash_after(after);
            }
            8..11 => {
                let (Some(a), Some(b)) = (rng.pick(&nodes).copied(), rng.pick(&nodes).copied()) else {
                    continue;
                };
                let (times, spell) = (10 + rng.below(400), rng.micros(100_000, 6_000_000));
                let kind = rng.below(4);
                world.trace.say(format_args!("the network between two nodes: {kind} for {spell:?}"));
                match kind {
                    0 => world.network.part(a, b, true),
                    1 => world.network.part(a, b, false),
                    2 => world.network.slow(a, b, times),
                    _ => world.network.reset(a, b),
                }
                let world = Arc::clone(&world);
                tokio::spawn(async move {
                    sleep(spell).await;
                    world.network.heal();
                });
            }
            11..14 => {
                let reach = if rng.one_in(2) { Reach::Refused } else { Reach::Hanging };
                let spell = rng.micros(50_000, 8_000_000);
                let one = (!rng.one_in(3)).then_some(machine.index);
                world.trace.say(format_args!("the directory is {reach:?} for {one:?}, for {spell:?}"));
                let of = |index: usize| one.is_none_or(|one| one == index);
                let all: Vec<usize> = (0..world.machines.len()).filter(|index| of(*index)).collect();
                all.iter().for_each(|index| world.model.set_reach(*index, reach));
                let world = Arc::clone(&world);
                tokio::spawn(async move {
                    sleep(spell).await;
                    all.iter().for_each(|index| world.model.set_reach(*index, Reach::Good));
                });
            }
            14..16 => {
                let kept = rng.index(6);
                world.trace.say(format_args!("the directory forgets all changes but {kept}"));
                world.model.source().compact(kept);
            }
            16..18 => {
                let harm = [0, 3, 8, 20][rng.index(4)];
                world.trace.say(format_args!("of {harm} commits of the directory one comes to harm"));
                world.model.set_harm(harm);
            }
            18 => {
                let kinds = [OpKind::Commit, OpKind::Sync, OpKind::Write, OpKind::Create];
                let kind = kinds[rng.index(kinds.len())];
                let nth = 1 + rng.below(30);
                world.trace.say(format_args!("node {}: the {nth}th {kind:?} fails", machine.index));
                machine.disk.fail_nth(kind, nth, Fault::Io);
            }
            _ => {}
        }
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
    *world.until.lock() = Instant::now() + world.plan.lasts;
    world.quiet.store(false, Ordering::Relaxed);
    let faults = tokio::spawn(faults(Arc::clone(&world)));
    let clients: Vec<_> = (0..world.plan.clients)
        .map(|number| tokio::spawn(Client::new(number, world.plan.seed).run(Arc::clone(&world))))
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
    Outcome { hash, lines, did, falls, wrong }
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
