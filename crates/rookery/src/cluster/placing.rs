//! Which node a new account is to be at home at, by what is known of all of them.

use std::collections::HashMap;

use parking_lot::Mutex;
use rookery_directory::{Duty, Node, Placement};
use rookery_types::{NodeId, StoreId};

/// Of two nodes whose free space differs by less than one in so many, the one with fewer accounts is taken.
const ALIKE_PART: u64 = 10;

/// How many accounts were placed at nodes since they have said how many they have.
#[derive(Default)]
pub(crate) struct Placed(Mutex<HashMap<NodeId, (u64, u64)>>);

impl Placed {
    /// Accounts at a node, with those that it has not told of.
    fn accounts(&self, node: &Node) -> u64 {
        let told = node.load.accounts;
        let since = self.0.lock().get(&node.id).filter(|(of, _)| *of == told).map_or(0, |(_, since)| *since);
        told.saturating_add(since)
    }

    fn note(&self, node: &Node) {
        let told = node.load.accounts;
        let mut placed = self.0.lock();
        let (of, since) = placed.entry(node.id).or_insert((told, 0));
        *since = if *of == told { since.saturating_add(1) } else { 1 };
        *of = told;
    }
}

/// Why an account is not placed.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// No node is to have it.
    NoPlace(String),
    /// Those that could have it are away.
    Away(String),
}

/// What is known when an account is placed.
pub(super) struct View<'a> {
    pub(super) nodes: &'a [Node],
    pub(super) placements: &'a [(Box<str>, Placement)],
    pub(super) here: NodeId,
    pub(super) is_there: &'a dyn Fn(&Node) -> bool,
}

impl View<'_> {
    /// The node of a name, as Cyrus has it: `node`, or `node!partition`. The operator's word goes before placements.
    pub(super) fn named(&self, at: &str) -> Result<(NodeId, StoreId), Why> {
        let name = at.split_once('!').map_or(at, |(node, _)| node);
        let is_it = |node: &&Node| node.name.eq_ignore_ascii_case(name);
        let Some(node) = self.nodes.iter().find(is_it) else {
            return Err(Why::NoPlace(format!("There is no node {name}")));
        };
        match node.store {
            Some(store) if node.hold == Duty::On && (self.is_there)(node) => Ok((node.id, store)),
            Some(_) if node.hold == Duty::On => Err(Why::NoPlace(format!("The node {name} is not there"))),
            _ => Err(Why::NoPlace(format!(
                "The node {name} takes no new accounts: hold is {}",
                node.hold.word()
            ))),
        }
    }

    /// The best node for an account of a domain.
    pub(super) fn choose(&self, domain: &str, placed: &Placed) -> Result<(NodeId, StoreId), Why> {
        let of = |domain: &str| {
            self.placements.iter().find(|(of, _)| **of == *domain).map(|(_, placement)| placement)
        };
        let placement = of(domain).or_else(|| of(""));
        let fits = |node: &&Node| placement.is_none_or(|placement| placement.fits(node));
        let takes = |node: &&Node| node.hold == Duty::On && node.store.is_some();
        let may: Vec<&Node> = self.nodes.iter().filter(takes).filter(fits).collect();
        if may.is_empty() {
            return Err(Why::NoPlace(match placement {
                Some(_) => format!(
                    "No node that accounts of {domain} are placed at takes new accounts (rookery placement list)"
                ),
                None => "No node takes new accounts: hold is on at none (rookery node list)".to_owned(),
            }));
        }
        let there: Vec<&Node> = may.into_iter().filter(|node| (self.is_there)(node)).collect();
        let most = there.iter().map(|node| node.load.octets_free).max().unwrap_or(0);
        let has_room = |node: &&&Node| node.load.octets_free >= most - most / ALIKE_PART;
        let here = there.iter().find(|node| node.id == self.here);
        let best = || {
            there.iter().filter(has_room).min_by_key(|node| (placed.accounts(node), rand::random::<u64>()))
        };
        match here.or_else(best).and_then(|node| node.store.map(|store| (node, store))) {
            Some((node, store)) => {
                placed.note(node);
                Ok((node.id, store))
            }
            None => Err(Why::Away("no node that takes new accounts is there".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rookery_directory::Load;

    fn node(id: u64, octets_free: u64, accounts: u64) -> Node {
        Node {
            name: format!("be{id}.example").into(),
            store: Some(StoreId([1; 16])),
            load: Load { accounts, octets_free, octets_used: 0 },
            ..Node::new(NodeId(id))
        }
    }

    fn chosen(nodes: &[Node], placements: &[(Box<str>, Placement)], away: u64) -> Result<u64, Why> {
        let is_there = |node: &Node| node.id.0 != away;
        let view = View { nodes, placements, here: NodeId(99), is_there: &is_there };
        view.choose("example.org", &Placed::default()).map(|(node, _)| node.0)
    }

    #[test]
    fn room_comes_first_and_then_the_number_of_accounts() {
        let nodes = [node(1, 100, 50), node(2, 500, 90), node(3, 480, 10), node(4, 490, 30)];
        assert_eq!(chosen(&nodes, &[], 0), Ok(3));
        assert_eq!(chosen(&nodes, &[], 3), Ok(4));
        let mut cordoned = nodes.clone();
        for node in &mut cordoned[1..] {
            node.hold = Duty::Cordon;
        }
        assert_eq!(chosen(&cordoned, &[], 0), Ok(1));
        assert!(matches!(chosen(&cordoned, &[], 1), Err(Why::Away(_))));
        cordoned[0].hold = Duty::Off;
        assert!(matches!(chosen(&cordoned, &[], 0), Err(Why::NoPlace(_))));
        // A node that holds takes what is made there.
        let is_there = |_: &Node| true;
        let view = View { nodes: &nodes, placements: &[], here: NodeId(1), is_there: &is_there };
        assert_eq!(view.choose("x.test", &Placed::default()).unwrap().0, NodeId(1));
    }

    #[test]
    fn what_a_node_has_not_told_of_counts() {
        let nodes = [node(1, 100, 3), node(2, 100, 0)];
        let is_there = |_: &Node| true;
        let view = View { nodes: &nodes, placements: &[], here: NodeId(99), is_there: &is_there };
        let placed = Placed::default();
        let at = |count: usize| {
            let all: Vec<u64> = (0..count).map(|_| view.choose("x.test", &placed).unwrap().0.0).collect();
            all.iter().filter(|id| **id == 2).count()
        };
        assert_eq!((at(3), at(10)), (3, 5));
        // Told again: what was counted here is in that.
        let nodes = [node(1, 100, 8), node(2, 100, 7)];
        assert_eq!((placed.accounts(&nodes[0]), placed.accounts(&nodes[1])), (8, 7));
    }

    #[test]
    fn placements_rule_out_nodes_and_names_go_before_them() {
        let mut nodes = [node(1, 900, 0), node(2, 100, 0), node(3, 100, 9)];
        nodes[2].tags = vec!["eu".into()];
        let named = |words: &[&str], tags: &[&str]| Placement {
            nodes: words.iter().map(|word| (*word).into()).collect(),
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
        };
        let only = |domain: &str, placement: Placement| [(Box::from(domain), placement)];
        assert_eq!(chosen(&nodes, &only("example.org", named(&["be2.example"], &[])), 0), Ok(2));
        assert_eq!(chosen(&nodes, &only("example.org", named(&[], &["eu"])), 0), Ok(3));
        assert_eq!(chosen(&nodes, &only("", named(&[], &["eu"])), 0), Ok(3));
        assert_eq!(chosen(&nodes, &only("other.test", named(&[], &["eu"])), 0), Ok(1));
        assert!(matches!(chosen(&nodes, &only("", named(&["be9"], &["us"])), 0), Err(Why::NoPlace(_))));
        let placements = only("", named(&[], &["eu"]));
        let is_there = |node: &Node| node.id.0 != 3;
        nodes[1].hold = Duty::Cordon;
        let view = View { nodes: &nodes, placements: &placements, here: NodeId(99), is_there: &is_there };
        let at = |name: &str| view.named(name).map(|(id, _)| id.0);
        assert_eq!((at("be1.example"), at("BE1.example!default")), (Ok(1), Ok(1)));
        for refused in ["be2.example", "be3.example", "be9.example", ""] {
            assert!(matches!(at(refused), Err(Why::NoPlace(_))), "{refused}");
        }
    }
}
