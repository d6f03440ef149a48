//! Whether two stores have the same of an account that has gone from one to the other, record by record.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::murder::Murder;
use crate::server::Server;
use crate::soak::moving::{moves, users};

/// How long the last moves may take.
const OVER_WITHIN: Duration = Duration::from_secs(60);

/// With nobody at work: moves each account once more, to the next of these nodes that takes accounts (`names`: of all
/// nodes), and stops all of them. Then the store that an account has left and the one where it is now have to have the
/// same records of it. How many accounts that were.
pub fn compare(murder: &mut Murder, names: &[&str], holds: &[usize]) -> Result<u64> {
    // A store that is closed has put all in order that it would else put in order behind the moves, at one node alone.
    murder.stop()?;
    murder.nodes.iter_mut().try_for_each(Server::launch)?;
    let front = murder.node(0)?;
    let all = users(front)?;
    for user in &all {
        let name = user["name"].as_str().context("a user without a name")?;
        let home = names.iter().position(|node| user["home"] == **node).context("a home that is no node")?;
        let next = holds.iter().find(|node| **node > home).or(holds.first()).context("nobody holds")?;
        if *next != home {
            let to = *names.get(*next).context("a node without a name")?;
            let moved = front.cli(&["move", "user", name, "--to", to, "--wait"], b"")?;
            ensure!(moved.status.success(), "{name} to {to}: {}", moved.text());
        }
    }
    let deadline = Instant::now() + OVER_WITHIN;
    while moves(front)? > 0 {
        ensure!(Instant::now() < deadline, "moves do not come to their end");
        std::thread::sleep(Duration::from_millis(50));
    }
    murder.stop()?;
    let (mut home, mut left) = (BTreeMap::new(), BTreeMap::new());
    for (node, name) in murder.nodes.iter().zip(names) {
        let said = node.cli(&["check", "--digests", "--json"], b"")?;
        ensure!(said.status.success(), "{}", said.text());
        let rows: Vec<Value> = serde_json::from_slice(&said.stdout).context("check --digests")?;
        for row in rows {
            let of =
                (row["account"].as_u64().context("no account")?, row["epoch"].as_u64().context("no epoch")?);
            let place = if row["state"] == "home" { &mut home } else { &mut left };
            let before = place.insert(of, (*name, row["digest"].clone()));
            ensure!(before.is_none(), "account {of:?} is {} at {name} and at {before:?}", row["state"]);
        }
    }
    ensure!(home.len() >= all.len(), "of {} accounts {} are at home", all.len(), home.len());
    let mut compared = 0;
    for (of, (now, digest)) in &home {
        // One that has never moved has nothing elsewhere.
        let Some((before, was)) = left.get(of) else { continue };
        ensure!(digest == was, "account {}: {digest} at {now}, {was} at {before}, which it has left", of.0);
        compared += 1;
    }
    ensure!(compared == all.len() as u64, "{compared} of {} accounts are at two nodes", all.len());
    Ok(compared)
}
