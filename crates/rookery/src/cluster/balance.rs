//! `rookery balance`: which accounts have to move so that the nodes hold about as much.

use std::collections::BTreeMap;

use rookery_admin::socket::{Failed, Replies, Reply};
use rookery_directory::{Duty, Node, Placement};
use rookery_route::Mover;
use rookery_types::{AccountId, AccountName, NodeId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Cluster;
use super::desk::in_cluster;
use super::duties::{each_account, failed};
use super::errands::lost;
use crate::node::Node as Here;

/// Nodes of which none is further from the mean than one part in so many are even.
const EVEN_PART: u64 = 20;

#[derive(Deserialize)]
pub(crate) struct Args {
    #[serde(default)]
    dry_run: bool,
}

/// How much each account at home at this node holds, each a row.
pub(crate) async fn usage(node: &Here, replies: &Replies) -> Result<Value, Failed> {
    for (account, octets) in own_usage(node).await? {
        if replies.row(json!([account.get(), octets])).await.is_err() {
            break;
        }
    }
    Ok(Value::Null)
}

async fn own_usage(node: &Here) -> Result<Vec<(AccountId, u64)>, Failed> {
    let (store, here) = (node.store.clone(), node.store.node());
    let mut own = Vec::new();
    let seen = each_account(&*node.directory, |entry| {
        if entry.home.node == here {
            own.push(entry.id);
        }
    });
    seen.await.map_err(failed)?;
    let read = tokio::task::spawn_blocking(move || {
        let of = |id| store.account_record(id).ok().flatten().map_or(0, |record| record.octets);
        own.into_iter().map(|id| (id, of(id))).collect()
    });
    read.await.map_err(|error| Failed::new("failed", error.to_string()))
}

async fn usage_at(cluster: &Cluster, node: &Node) -> Result<Vec<(AccountId, u64)>, Failed> {
    let mut client = cluster.errand((node.id, &node.name), "node.usage", Value::Null).await?;
    let mut all = Vec::new();
    loop {
        match client.reply().await.map_err(|error| lost(&node.name, error))? {
            Reply::Row(row) => {
                let (id, octets): (u64, u64) = serde_json::from_value(row).map_err(|_| {
                    Failed::new("failed", format!("{}: its answer makes no sense", node.name))
                })?;
                all.extend(AccountId::new(id).map(|id| (id, octets)));
            }
            Reply::Progress(_) => {}
            Reply::Done(_) => return Ok(all),
            Reply::Failed(failed) => return Err(failed),
        }
    }
}

/// Moves what has to move, or only says it: each account a row.
pub(crate) async fn balance(
    cluster: Option<&Cluster>,
    node: &Here,
    mover: &Mover,
    args: Args,
    replies: &Replies,
) -> Result<Value, Failed> {
    let cluster = in_cluster(cluster)?;
    let directory = &*node.directory;
    let nodes = directory.nodes().await.map_err(failed)?;
    let holding: Vec<Node> =
        nodes.into_iter().filter(|node| node.hold == Duty::On && node.store.is_some()).collect();
    let mut octets = BTreeMap::new();
    for one in &holding {
        octets.extend(match one.id == cluster.links.identity().node {
            true => own_usage(node).await?,
            false => usage_at(cluster, one).await?,
        });
    }
    let mut accounts = Vec::new();
    each_account(directory, |entry| {
        // What is on its way already counts where it is, and is left alone.
        let moves = entry.moving.is_none();
        if let Some(octets) = octets.get(&entry.id) {
            let (id, name, home) = (entry.id, entry.name.clone(), entry.home.node);
            accounts.push(Account { id, name, home, octets: *octets, moves });
        }
    })
    .await
    .map_err(failed)?;
    let placements = directory.placements().await.map_err(failed)?;
    let moves = plan(&holding, &placements, accounts);
    let name = |id: NodeId| holding.iter().find(|node| node.id == id).map_or("", |node| &node.name);
    let (count, sum) = (moves.len(), moves.iter().map(|one| one.account.octets).sum::<u64>());
    let mut passed = 0_u64;
    for one in moves {
        if !args.dry_run
            && let Err(failed) = begin(cluster, mover, &one, (name(one.account.home), name(one.to))).await
        {
            tracing::info!(account = %one.account.name, why = failed.text, "a move was not begun");
            passed += 1;
        }
        let row = json!({
            "account": one.account.name.to_string(),
            "from": name(one.account.home),
            "to": name(one.to),
            "octets": one.account.octets,
        });
        if replies.row(row).await.is_err() {
            break;
        }
    }
    Ok(json!({"accounts": count, "octets": sum, "passed": passed}))
}

/// Begins a move, here or at the node where the account is.
async fn begin(cluster: &Cluster, mover: &Mover, one: &Move, (from, to): (&str, &str)) -> Result<(), Failed> {
    let home = one.account.home;
    if home == cluster.links.identity().node {
        let begun = mover.begin(one.account.id, one.to).await;
        return begun.map(drop).map_err(|error| Failed::new("failed", error.to_string()));
    }
    let args = json!({"name": one.account.name.to_string(), "to": to});
    let mut client = cluster.errand((home, from), "move.begin", args).await?;
    match client.reply().await.map_err(|error| lost(from, error))? {
        Reply::Failed(failed) => Err(failed),
        _ => Ok(()),
    }
}

/// An account that could move.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Account {
    id: AccountId,
    name: AccountName,
    home: NodeId,
    octets: u64,
    /// Whether it can.
    moves: bool,
}

/// One account that is to move.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Move {
    account: Account,
    to: NodeId,
}

/// From the node that holds most to the one that holds least, until they are even: octets count, and each account as
/// much as a mean one besides, so that numbers are even where sizes do not matter.
fn plan(nodes: &[Node], placements: &[(Box<str>, Placement)], mut accounts: Vec<Account>) -> Vec<Move> {
    let mean = accounts.iter().map(|one| one.octets).sum::<u64>() / (accounts.len() as u64).max(1);
    let weight = |account: &Account| account.octets.saturating_add(mean).max(1);
    let of = |domain: &str| placements.iter().find(|(of, _)| **of == *domain).map(|(_, placement)| placement);
    let fits = |account: &Account, node: &Node| {
        of(account.name.domain()).or_else(|| of("")).is_none_or(|placement| placement.fits(node))
    };
    let mut held: BTreeMap<NodeId, u64> = nodes.iter().map(|node| (node.id, 0)).collect();
    for account in &accounts {
        if let Some(held) = held.get_mut(&account.home) {
            *held = held.saturating_add(weight(account));
        }
    }
    let even = held.values().sum::<u64>() / (held.len() as u64).max(1) / EVEN_PART;
    // The largest first: few moves.
    accounts.sort_by(|a, b| (b.octets, &a.name).cmp(&(a.octets, &b.name)));
    let mut moves = Vec::new();
    let mut stuck: Vec<(NodeId, NodeId)> = Vec::new();
    loop {
        // The pair that differs most, of those between which something can move.
        let pairs = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (from, to)));
        let differs = |from: &Node, to: &Node| {
            let of = |node: &Node| held.get(&node.id).copied().unwrap_or(0);
            of(from).saturating_sub(of(to))
        };
        let open = pairs.filter(|(from, to)| !stuck.contains(&(from.id, to.id)));
        let Some((from, to)) = open.max_by_key(|(from, to)| differs(from, to)) else { return moves };
        let difference = differs(from, to);
        if difference / 2 <= even {
            return moves;
        }
        let goes = |account: &Account| {
            account.moves && account.home == from.id && weight(account) <= difference / 2 && fits(account, to)
        };
        let Some(at) = accounts.iter().position(goes) else {
            stuck.push((from.id, to.id));
            continue;
        };
        // Each moves once.
        let account = accounts.remove(at);
        for (node, is_there) in [(from.id, false), (to.id, true)] {
            let held = held.entry(node).or_default();
            let weight = weight(&account);
            *held = if is_there { held.saturating_add(weight) } else { held.saturating_sub(weight) };
        }
        moves.push(Move { account, to: to.id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> Node {
        Node { name: format!("be{id}").into(), ..Node::new(NodeId(id)) }
    }

    fn accounts(at: &[(u64, u64)]) -> Vec<Account> {
        let account = |(place, (home, octets)): (usize, &(u64, u64))| Account {
            id: AccountId::new(place as u64 + 1).unwrap(),
            name: AccountName::parse(&format!("user/u{place}@example.org")).unwrap(),
            home: NodeId(*home),
            octets: *octets,
            moves: true,
        };
        at.iter().enumerate().map(account).collect()
    }

    fn after(nodes: &[Node], at: &[(u64, u64)], placements: &[(Box<str>, Placement)]) -> (usize, Vec<u64>) {
        let all = accounts(at);
        let moves = plan(nodes, placements, all.clone());
        let home = |account: &Account| {
            moves.iter().find(|one| one.account == *account).map_or(account.home, |one| one.to)
        };
        let at = |node: &Node| all.iter().filter(|account| home(account) == node.id).map(|a| a.octets).sum();
        (moves.len(), nodes.iter().map(at).collect())
    }

    #[test]
    fn nodes_become_even_with_few_moves() {
        let nodes = [node(1), node(2), node(3)];
        let on_one: Vec<(u64, u64)> = (0..30).map(|_| (1, 100)).collect();
        assert_eq!(after(&nodes, &on_one, &[]), (20, vec![1000, 1000, 1000]));
        // Empty ones by their number.
        let empty: Vec<(u64, u64)> = (0..30).map(|_| (1, 0)).collect();
        assert_eq!(after(&nodes, &empty, &[]).0, 20);
        let even = [(1, 500), (2, 500), (3, 500)];
        assert_eq!(after(&nodes, &even, &[]).0, 0);
        // One that is larger than all else stays.
        assert_eq!(after(&nodes, &[(1, 10_000)], &[]).0, 0);
        let (moves, held) = after(&nodes[..2], &[(1, 900), (1, 400), (1, 300), (1, 100), (2, 100)], &[]);
        assert!(moves <= 2 && held.iter().all(|octets| (800..=1000).contains(octets)), "{moves} {held:?}");
    }

    #[test]
    fn nobody_moves_to_where_their_domain_is_not_placed() {
        let mut nodes = [node(1), node(2), node(3)];
        nodes[2].tags = vec!["eu".into()];
        let placements =
            [("example.org".into(), Placement { nodes: vec!["be1".into()], tags: vec!["eu".into()] })];
        let on_one: Vec<(u64, u64)> = (0..30).map(|_| (1, 100)).collect();
        assert_eq!(after(&nodes, &on_one, &placements), (15, vec![1500, 0, 1500]));
    }
}
