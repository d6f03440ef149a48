//! Somebody fails at one step of a move of an account, at once; and the scenario that has everybody fail at it, one after
//! another.

use crate::client::stable;
use crate::rng::Rng;
use crate::steps::{Aim, Ends, Point, Role};
use crate::verify;
use crate::world::{Machine, World};
use rookery_directory::Directory;
use rookery_store::AccountState;
use rookery_types::AccountId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How often it is tried to reach a step: a move may go another way.
const TRIES: usize = 8;
/// How long one try may take.
const REACHED_WITHIN: Duration = Duration::from_secs(60);
/// How long an account may take to have one home again that all know.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);

/// Lets somebody fail. False: they cannot, at this moment.
pub(crate) fn strike(world: &Arc<World>, aim: Aim, ends: Ends) -> bool {
    let (point, role) = (aim.point, aim.role);
    let mut rng = world.chance();
    let fails = |machine: Option<&Machine>, power: bool| machine.is_some_and(|machine| machine.fail(power));
    let done = match role {
        Role::Source => fails(world.machine_at(ends.source), !rng.one_in(3)),
        Role::Target => fails(world.machine_at(ends.target), !rng.one_in(3)),
        Role::Session => {
            let edge = world.steps.edge();
            world.is_asked(edge, &stable(0)) && fails(world.machines.get(edge), !rng.one_in(3))
        }
        // What is lost there is that request or answer; whoever carries it sees to that.
        Role::Directory if point.is_at_the_directory() => true,
        Role::Directory => {
            world.model.source().compact(0);
            world.model.lose_next();
            world.model.change_leader(world.machines.len(), rng.micros(300_000, 3_000_000));
            true
        }
        Role::Link => {
            let (a, b) = (ends.source, ends.target);
            match rng.below(4) {
                0 => world.network.part(a, b, false),
                1 => world.network.part(b, a, false),
                2 => world.network.part(a, b, true),
                _ => world.network.reset(a, b),
            }
            let (world, spell) = (Arc::clone(world), rng.micros(300_000, 6_000_000));
            tokio::spawn(async move {
                sleep(spell).await;
                world.network.heal();
            });
            true
        }
        Role::Clock => {
            let spell = rng.micros(300_000, 6_000_000);
            match rng.below(3) {
                0 => world.machine_at(ends.source).is_some_and(|machine| world.stall(machine, spell)),
                1 => world.machine_at(ends.target).is_some_and(|machine| world.stall(machine, spell)),
                _ => {
                    tokio::spawn(tokio::time::advance(spell));
                    true
                }
            }
        }
    };
    if done {
        world.trace.say(format_args!("at {} fails: {}", point.name(), role.name()));
        world.count(role.name());
    }
    done
}

/// Everybody fails at a step, in one move after another of one account that clients use.
pub(crate) async fn at_a_step(world: &Arc<World>, point: Point) {
    let mut rng = Rng::new(world.plan.seed, 5);
    let Some(account) = world.steps.account(&stable(0)) else {
        return world.trace.wrong("there is no account to move");
    };
    for role in Role::ALL {
        pair(world, &mut rng, Aim { account, point, role }).await;
        if world.trace.is_wrong() {
            return;
        }
    }
}

async fn pair(world: &Arc<World>, rng: &mut Rng, aim: Aim) {
    for _ in 0..TRIES {
        let Some(home) = settled(world, aim.account).await else { return };
        let others: Vec<usize> = (0..world.machines.len()).filter(|index| *index != home).collect();
        let to = rng.index(others.len());
        let (Some(target), Some(edge)) = (others.get(to), others.get((to + 1) % others.len())) else {
            return;
        };
        // One after another.
        world.model.forget_harm();
        world.steps.aim(aim, *edge);
        // Clients are at it.
        sleep(rng.micros(5_000, 10_000)).await;
        let ended = world.steps.ended();
        let (source, target) = (world.machines.get(home), world.machines.get(*target));
        let (Some(source), Some(target)) = (source.and_then(Machine::live), target.and_then(Machine::live))
        else {
            continue;
        };
        let begun = timeout(REACHED_WITHIN, source.mover.begin(aim.account, target.store.node())).await;
        world.trace.say(format_args!("the account goes from {home} to {}: {begun:?}", target.index));
        let began = Instant::now();
        let armed = world.steps.armed();
        while *armed.borrow() && world.steps.ended() == ended && began.elapsed() < REACHED_WITHIN {
            sleep(Duration::from_millis(2)).await;
        }
        let is_hit = !*armed.borrow();
        drop(armed);
        world.steps.disarm();
        if is_hit {
            settled(world, aim.account).await;
            return;
        }
    }
    world.trace.wrong(format_args!(
        "{} is never reached so that {} fails",
        aim.point.name(),
        aim.role.name()
    ));
}

/// Waits until an account has one home, which all know, and nothing of it is under way: which. `None`: that does not
/// come, or there were two.
async fn settled(world: &Arc<World>, account: AccountId) -> Option<usize> {
    let settles = async {
        loop {
            if world.trace.is_wrong() {
                return None;
            }
            if let Some(home) = home(world, account).await {
                return Some(home);
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    match timeout(SETTLED_WITHIN, settles).await {
        Ok(home) => home,
        Err(_) => {
            let why = verify::restless(world).await;
            world.trace.wrong(format_args!("the account does not come to rest: {why}"));
            None
        }
    }
}

async fn home(world: &World, account: AccountId) -> Option<usize> {
    let mut found = None;
    let mut all_up = world.model.is_well() && world.network.is_well();
    for machine in &world.machines {
        let Some(live) = machine.live() else {
            all_up = false;
            continue;
        };
        let is_up = live.alive.load(Ordering::Relaxed) && !machine.is_stalled();
        all_up &= is_up && live.mover.status().ok()?.is_empty();
        let record = live.store.account_record(account).ok()?;
        if let Some(record) = record.filter(|record| record.state == AccountState::Home)
            && let Some((other, ..)) = found.replace((machine.index, live.store.node(), record.epoch))
        {
            world
                .trace
                .wrong(format_args!("the account is at home at node {other} and at node {}", machine.index));
        }
    }
    let (index, node, epoch) = found.filter(|_| all_up)?;
    for machine in &world.machines {
        let entry = machine.live()?.directory.by_id(account).await.ok()?;
        if (entry.home.node, entry.home.epoch) != (node, epoch) || entry.moving.is_some() {
            return None;
        }
    }
    Some(index)
}
