//! Three nodes with the directory in etcd, of which the last is at the end of a cable; and what can befall them.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::etcd::Etcd;
use crate::murder::Murder;
use crate::namespace::Namespace;
use crate::random::Random;

/// The longest that a cable is cut, and that a member of etcd is away.
const CUT_MAX_US: u64 = 2_500_000;
const AWAY_MAX_US: u64 = 1_500_000;
/// What nodes may complain of.
const COMPLAINTS: [&str; 6] = [
    "is not reached",
    "the directory's source is away",
    "the directory takes no changes",
    "not published yet",
    "a link connection is refused",
    "cannot be compared",
];

/// The nodes and what is between them.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) murder: Murder,
    pub(super) etcd: Etcd,
    cable: Namespace,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    /// A node is killed.
    Node(usize),
    /// A member of etcd is.
    Member(usize),
    /// The last node is cut off from all others without a word.
    Cable,
}

impl Scene {
    /// Starts all. `top`: what their configurations begin with; `complaints`: what nodes may complain of besides.
    pub(super) fn set(
        binary: Option<&Path>,
        nodes: [(&str, &str); 3],
        top: &str,
        complaints: &[&str],
    ) -> Result<Scene> {
        let cable = Namespace::new()?;
        let etcd = Etcd::start(cable.here(), 3)?;
        let mut murder = Murder::of(binary, &etcd.config(true)?).under(top);
        for (number, (name, duties)) in nodes.into_iter().enumerate() {
            murder.add_at(name, duties, &cable, number == 2)?;
        }
        for node in &mut murder.nodes {
            COMPLAINTS.iter().chain(complaints).for_each(|line| node.allow_log(line));
        }
        Ok(Scene { murder, etcd, cable })
    }

    /// It happens.
    pub(super) fn strike(&mut self, blow: Blow) -> Result<()> {
        match blow {
            Blow::Node(place) => self.murder.node_mut(place)?.kill9(),
            Blow::Member(place) => self.etcd.kill(place),
            Blow::Cable => self.cable.plug(false),
        }
    }

    /// What was killed is started again; what was away comes back after a while.
    pub(super) fn mend(&mut self, blow: Blow, random: &mut Random) -> Result<()> {
        match blow {
            Blow::Node(place) => self.murder.node_mut(place)?.launch(),
            Blow::Member(place) => {
                std::thread::sleep(Duration::from_micros(random.below(AWAY_MAX_US)));
                self.etcd.launch(place)
            }
            Blow::Cable => {
                std::thread::sleep(Duration::from_micros(random.below(CUT_MAX_US)));
                self.cable.plug(true)
            }
        }
    }

    /// No node finds anything wrong in its store.
    pub(super) fn check(&self) -> Result<()> {
        self.murder.nodes.iter().try_for_each(|node| node.check())
    }
}
