//! Accounts that move between two nodes, through a frontend, with the directory in etcd, while one of the parties is
//! killed at a random moment.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::etcd::Etcd;
use crate::imap::Imap;
use crate::murder::Murder;
use crate::random::Random;
use crate::server::PASSWORD;
use crate::soak::crowd::{Crowd, Habit, Mood, Person};
use crate::soak::moving::{fill, users};

/// The frontend, and the homes.
const NODES: [(&str, &str); 3] = [("fe1.example", ""), ("be1.example", "hold"), ("be2.example", "hold")];
/// The users whose accounts move.
const USERS: [&str; 4] = ["ann", "joe", "eve", "bob"];
/// Messages of each at first.
const MESSAGES: u32 = 300;
/// How long until all is well again.
const RECOVERY_MAX: Duration = Duration::from_secs(40);
/// The longest pause between the beginning of a move and the kill.
const PAUSE_MAX_US: u64 = 600_000;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The node that the account leaves.
    Source,
    /// The node that it goes to.
    Target,
    /// The node that the clients are connected to.
    Edge,
    /// The member of etcd that leads.
    Directory,
}

/// All, in turn.
pub const VICTIMS: [Victim; 4] = [Victim::Source, Victim::Target, Victim::Edge, Victim::Directory];

/// What a soak saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Kills, by [`VICTIMS`].
    pub kills: [u64; 4],
    /// Moves that came to their end.
    pub moved: u64,
    /// Moves after which the account was where it had been.
    pub stayed: u64,
    /// Messages that were delivered meanwhile.
    pub delivered: u64,
}

/// Kills `rounds` times, or for so long, and looks each time whether all is whole.
pub fn soak(rounds: u64, seed: u64, time_max: Duration, mut report: impl FnMut(&str)) -> Result<Summary> {
    let began = Instant::now();
    let mut etcd = Etcd::start(Ipv4Addr::LOCALHOST.into(), 3)?;
    let mut murder = Murder::start_with(&NODES, &etcd.config(true)?)?;
    for node in &mut murder.nodes {
        for line in [
            "is not reached",
            "the directory's source is away",
            "the directory takes no changes",
            "not published yet",
            "a link connection is refused",
            "cannot be compared",
            "moving an account",
        ] {
            node.allow_log(line);
        }
    }
    for user in USERS {
        murder.node(1)?.add_user(user)?;
        fill(murder.node(1)?, user, MESSAGES)?;
    }
    report(&format!("{:?}: three nodes", began.elapsed()));
    let (mut summary, mut homes) = (Summary::default(), [1_usize; USERS.len()]);
    let mut round = 0;
    while round < rounds && (round < 4 || began.elapsed() < time_max) {
        let seed = seed.wrapping_add(round);
        let place = usize::try_from(round)? % USERS.len();
        let victim = VICTIMS[usize::try_from(round / USERS.len() as u64)? % VICTIMS.len()];
        let killed = one_kill(&mut murder, &mut etcd, place, homes[place], victim, seed, &mut summary);
        let now = killed.with_context(|| format!("round {round}, {victim:?}, seed {seed}"))?;
        report(&format!("kill {}: {victim:?}, {} is at node {now}", round + 1, USERS[place]));
        homes[place] = now;
        round += 1;
    }
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()?;
    Ok(summary)
}

fn one_kill(
    murder: &mut Murder,
    etcd: &mut Etcd,
    place: usize,
    home: usize,
    victim: Victim,
    seed: u64,
    summary: &mut Summary,
) -> Result<usize> {
    let mut random = Random::new(seed);
    let (user, target) = (USERS[place], 3 - home);
    let front = murder.node(0)?.imap;
    let before = highest_modseq(front, user)?;
    let people = [Habit::Writes, Habit::Files, Habit::Reads, Habit::Idles].map(|habit| Person {
        user: user.to_owned(),
        at: front,
        habit,
        pace: Duration::from_millis(10),
    });
    // The postman comes by the node that nobody kills this time, or by the edge, which then comes back.
    let door = murder.node(if victim == Victim::Target { home } else { target })?.lmtp;
    let crowd = Crowd::gather(people.to_vec(), Mood::Patient, Some((door, 30)))?;
    let asked = murder.node(0)?.cli(&["move", "user", user, "--to", NODES[target].0], b"")?;
    ensure!(asked.status.success(), "{}", asked.text());
    std::thread::sleep(Duration::from_micros(random.below(PAUSE_MAX_US)));
    match victim {
        Victim::Directory => {
            let leader = etcd.leader()?;
            etcd.kill(leader)?;
            std::thread::sleep(Duration::from_millis(random.below(1500)));
            etcd.launch(leader)?;
        }
        Victim::Source | Victim::Target | Victim::Edge => {
            let node = match victim {
                Victim::Source => home,
                Victim::Target => target,
                _ => 0,
            };
            murder.node_mut(node)?.kill9()?;
            murder.node_mut(node)?.launch()?;
        }
    }
    summary.kills[VICTIMS.iter().position(|one| *one == victim).unwrap_or(0)] += 1;
    let now = settled(murder, user)?;
    std::thread::sleep(Duration::from_millis(200));
    let account = crowd.disperse();
    account.nobody_failed()?;
    summary.delivered += account.delivered;
    account.verify(front)?;
    let after = highest_modseq(front, user)?;
    ensure!(after >= before, "HIGHESTMODSEQ was {before} and is {after}");
    match now == target {
        true => summary.moved += 1,
        false => summary.stayed += 1,
    }
    Ok(now)
}

fn highest_modseq(at: std::net::SocketAddr, user: &str) -> Result<u64> {
    let mut client = Imap::login(at, user, PASSWORD)?;
    let reply = client.ok("SELECT INBOX (CONDSTORE)")?;
    Ok(reply.code("HIGHESTMODSEQ").context("no HIGHESTMODSEQ")?.parse()?)
}

/// Waits until no move is under way, and tells which node has the account: one, by the directory and by the nodes.
fn settled(murder: &Murder, user: &str) -> Result<usize> {
    let deadline = Instant::now() + RECOVERY_MAX;
    loop {
        let found = one_home(murder, user);
        match found {
            Ok(Some(node)) => return Ok(node),
            other => ensure!(Instant::now() < deadline, "it does not come to rest: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn one_home(murder: &Murder, user: &str) -> Result<Option<usize>> {
    let mut homes = Vec::new();
    let jobs = murder.node(0)?.cli(&["move", "status", "--json"], b"")?;
    ensure!(jobs.status.success(), "{}", jobs.text());
    let jobs: Vec<serde_json::Value> = serde_json::from_str(&jobs.text()).context("move status --json")?;
    if !jobs.is_empty() {
        return Ok(None);
    }
    for (place, node) in murder.nodes.iter().enumerate() {
        let status = node.cli(&["directory", "status", "--json"], b"")?;
        let status: serde_json::Value = serde_json::from_str(&status.text())?;
        if status["conflicts"] != 0 {
            return Ok(None);
        }
        let users = users(node)?;
        let shown = users.iter().find(|shown| shown["name"] == user).context("the user is not listed")?;
        let home = NODES.iter().position(|(name, _)| shown["home"] == *name);
        homes.push(home.with_context(|| format!("{shown}, as node {place} says"))?);
    }
    homes.dedup();
    Ok(match homes[..] {
        [one] => Some(one),
        _ => None,
    })
}
