//! A whole cluster in one thread: nodes with the real store, directory, links, registrar and moves, on simulated disks,
//! a simulated network and a model of etcd, while clients work and everything that can go wrong does.
//!
//! Everything follows from one seed. What would be chance in a process (hash maps, the runtime, `rand`, the wall clock)
//! follows from it by the shim that [`process`] puts below; time stands still but when nobody has anything to do. So a
//! seed that fails fails again, line by line.
//!
//! `world` has the cluster, `faults` what befalls it by chance, `strike` who fails at one step of a move, which `steps` and
//! `watch` see; `node` one start of one node, `client` what clients do and what they
//! hold the cluster to, `model` what they know, `verify` what must be true in the end.
//!
//! Invariants of a run:
//! - Nothing runs beside anything else: one thread, stores whose committers go by steps, work beside the runtime in place.
//! - A node that has fallen has no effect any more: its disk, its network and its directory are another start's.
//! - A client claims only what it was told, and that of things nobody else touches.

mod client;
mod directory;
mod faults;
mod model;
mod network;
mod node;
mod ops;
// The program's own: what is simulated is what runs.
#[path = "../../crates/rookery/src/cluster/pipe.rs"]
mod pipe;
pub mod process;
mod rng;
mod steps;
mod strike;
mod trace;
mod verify;
mod watch;
mod world;

pub use rookery_kv::defect::Defect;
use std::collections::BTreeMap;
use std::time::Duration;
pub use steps::{Point, Role};

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// How many clients work.
    pub clients: u64,
    /// How long they do, in the cluster's time.
    pub lasts: Duration,
    /// A defect that is planted.
    pub defect: Option<Defect>,
    /// Everybody fails at this step of a move, one after another, and nothing else goes wrong.
    pub step: Option<Point>,
    /// Lines go to standard error as they come.
    pub shown: bool,
}

impl Plan {
    /// The usual run of a seed.
    pub fn new(seed: u64) -> Plan {
        Plan { seed, clients: 4, lasts: Duration::from_secs(40), defect: None, step: None, shown: false }
    }
}

/// What a run was.
#[derive(Clone, Default, Debug)]
pub struct Outcome {
    /// Of all lines of its log.
    pub hash: u64,
    /// How many lines there are.
    pub lines: u64,
    /// How often clients did something.
    pub did: u64,
    /// How often a node fell.
    pub falls: u64,
    /// How often an account came to a new home.
    pub moves: u64,
    /// How often what went wrong, by kind.
    pub faults: BTreeMap<String, u64>,
    /// How often who failed at which step of a move.
    pub pairs: BTreeMap<String, u64>,
    /// What was wrong; empty: nothing.
    pub wrong: Vec<String>,
}

/// Runs a plan on this thread, which nothing else may have used before: see [`process`].
pub fn run(plan: Plan) -> std::io::Result<Outcome> {
    rookery_kv::sim::in_place();
    plan.defect.into_iter().for_each(rookery_kv::defect::plant);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    Ok(runtime.block_on(world::live(plan)))
}
