//! What goes wrong by chance while clients work.

use crate::directory::Reach;
use crate::rng::Rng;
use crate::steps::Role;
use crate::world::World;
use rookery_kv::sim::{Fault, OpKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::sleep;

/// Until the time is over.
pub(crate) async fn faults(world: Arc<World>) {
    let mut rng = Rng::new(world.plan.seed, 4);
    while !world.is_over() {
        let pause = rng.micros(20_000, 1_500_000);
        sleep(pause).await;
        one(&world, &mut rng);
    }
}

fn one(world: &Arc<World>, rng: &mut Rng) {
    let nodes = world.nodes();
    let Some(machine) = rng.pick(&world.machines) else { return };
    let power = rng.one_in(2);
    match rng.below(24) {
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
            let (Some(a), Some(b)) = (rng.pick(&nodes).copied(), rng.pick(&nodes).copied()) else { return };
            let (times, spell) = (10 + rng.below(400), rng.micros(100_000, 6_000_000));
            let kind = rng.below(4);
            world.trace.say(format_args!("the network between two nodes: {kind} for {spell:?}"));
            let name = match kind {
                0 => {
                    world.network.part(a, b, true);
                    "link-cut"
                }
                1 => {
                    world.network.part(a, b, false);
                    "link-cut-one-way"
                }
                2 => {
                    world.network.slow(a, b, times);
                    "link-slow"
                }
                _ => {
                    world.network.reset(a, b);
                    "link-reset"
                }
            };
            world.count(name);
            world.steps.failed(|_, ends| {
                ([(a, b), (b, a)].contains(&(ends.source, ends.target))).then_some(Role::Link)
            });
            let world = Arc::clone(world);
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
            world.count(if reach == Reach::Refused { "directory-refuses" } else { "directory-hangs" });
            world.steps.failed(|_, _| one.is_none().then_some(Role::Directory));
            let of = |index: usize| one.is_none_or(|one| one == index);
            let all: Vec<usize> = (0..world.machines.len()).filter(|index| of(*index)).collect();
            all.iter().for_each(|index| world.model.set_reach(*index, reach));
            let world = Arc::clone(world);
            tokio::spawn(async move {
                sleep(spell).await;
                all.iter().for_each(|index| world.model.set_reach(*index, Reach::Good));
            });
        }
        14..16 => {
            let kept = rng.index(6);
            world.trace.say(format_args!("the directory forgets all changes but {kept}"));
            world.count("directory-compacted");
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
            world.count("disk-fails");
            machine.disk.fail_nth(kind, nth, Fault::Io);
        }
        19 => {
            let spell = rng.micros(300_000, 3_000_000);
            world.trace.say(format_args!("the directory changes its leader, for {spell:?}"));
            world.count("directory-leader");
            world.steps.failed(|_, _| Some(Role::Directory));
            world.model.change_leader(world.machines.len(), spell);
        }
        20 => {
            let spell = rng.micros(300_000, 6_000_000);
            if world.stall(machine, spell) {
                world.count("node-stalls");
                let node = world.node_id(machine.index);
                world.steps.failed(|_, ends| {
                    (Some(ends.source) == node || Some(ends.target) == node).then_some(Role::Clock)
                });
            }
        }
        21 => {
            let spell = rng.micros(300_000, 8_000_000);
            world.trace.say(format_args!("all clocks leap by {spell:?}"));
            world.count("clocks-leap");
            world.steps.failed(|_, _| Some(Role::Clock));
            tokio::spawn(tokio::time::advance(spell));
        }
        _ => {}
    }
}
