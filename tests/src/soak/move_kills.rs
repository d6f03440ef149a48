//! Accounts that move between two nodes, through a frontend, with the directory in etcd, while one of the parties is
//! killed at a random moment, or its cable is cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::etcd::Etcd;
use crate::murder::Murder;
use crate::namespace::Namespace;
use crate::random::Random;
use crate::soak::crowd::{Crowd, Habit, Mood, Person};
use crate::soak::ledger::{self, Ledger};
use crate::soak::moving::{OCTETS, fill, moves, users};

/// The frontend, and the homes, of which the last is at the end of a cable.
const NODES: [(&str, &str); 3] = [("fe1.example", ""), ("be1.example", "hold"), ("be2.example", "hold")];
/// The users whose accounts move.
const USERS: [&str; 10] = ["ann", "joe", "eve", "bob", "kim", "lea", "max", "ned", "oda", "pia"];
/// How long until all is well again.
const RECOVERY_MAX: Duration = Duration::from_secs(40);
/// The longest pause between the beginning of a move and the kill, at first; it becomes as long as moves take.
const PAUSE_US: u64 = 300_000;
/// The longest that a cable is cut, and that a member of etcd is away.
const CUT_MAX_US: u64 = 2_500_000;
const AWAY_MAX_US: u64 = 1_500_000;
/// So many rounds, then all nodes are checked.
const CHECK_EVERY: u64 = 10;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The node that the account leaves is killed.
    Source,
    /// That which it goes to.
    Target,
    /// That which the clients are connected to.
    Edge,
    /// The member of etcd that leads.
    Directory,
    /// One of the homes, in turn the source and the target, is cut off from all others without a word.
    Cable,
}

/// All, in turn.
pub const VICTIMS: [Victim; 5] =
    [Victim::Source, Victim::Target, Victim::Edge, Victim::Directory, Victim::Cable];

/// How much.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Kills, of all victims in turn.
    pub rounds: u64,
    /// Messages of each account at first.
    pub messages: u32,
    /// Repeats the choices of an earlier run.
    pub seed: u64,
    /// No round begins after so long, but each victim has its turn.
    pub time_max: Duration,
    /// The program, if it is not the one of the tests.
    pub binary: Option<PathBuf>,
}

/// What a soak saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Kills, by [`VICTIMS`].
    pub kills: [u64; 5],
    /// Those of them that came before the move was over.
    pub in_time: [u64; 5],
    /// Accounts that were at the other node afterwards.
    pub moved: u64,
    /// Accounts that were where they had been.
    pub stayed: u64,
    /// Messages that were delivered meanwhile.
    pub delivered: u64,
    /// Commands that people were answered.
    pub answered: usize,
    /// Messages in all accounts in the end.
    pub messages: u64,
}

struct Run {
    murder: Murder,
    etcd: Etcd,
    cable: Namespace,
    /// What users were told since the beginning.
    ledgers: BTreeMap<String, Ledger>,
    /// Where they are at home.
    homes: [usize; USERS.len()],
    /// The longest pause before the kill.
    pause_us: u64,
    summary: Summary,
}

/// Kills, and looks each time whether all is whole.
pub fn soak(plan: &Plan, mut report: impl FnMut(&str)) -> Result<Summary> {
    let began = Instant::now();
    let mut run = Run::prepare(plan)?;
    report(&format!("{:?}: three nodes, {} messages in each account", began.elapsed(), plan.messages));
    let (all, mut round) = (VICTIMS.len() as u64, 0);
    while round < plan.rounds && (round < all || began.elapsed() < plan.time_max) {
        let seed = plan.seed.wrapping_add(round);
        let victim = VICTIMS[usize::try_from(round % all)?];
        let place = usize::try_from(round / all)? % USERS.len();
        let said = run.one_kill(place, victim, seed);
        let said =
            said.with_context(|| format!("round {round}, {victim:?}, {}, seed {seed}", USERS[place]))?;
        round += 1;
        report(&format!("{:?}: kill {round}: {victim:?} {said}", began.elapsed()));
        if round % CHECK_EVERY == 0 {
            run.check()?;
        }
    }
    run.check()?;
    for (user, ledger) in &mut run.ledgers {
        run.summary.messages += ledger.verify(run.murder.node(0)?.imap, user)?;
    }
    run.murder.stop()?;
    Ok(run.summary)
}

impl Run {
    fn prepare(plan: &Plan) -> Result<Run> {
        let cable = Namespace::new()?;
        let etcd = Etcd::start(cable.here(), 3)?;
        let mut murder = Murder::of(plan.binary.as_deref(), &etcd.config(true)?);
        for (number, (name, duties)) in NODES.into_iter().enumerate() {
            murder.add_at(name, duties, &cable, number == 2)?;
        }
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
        let mut ledgers = BTreeMap::new();
        murder.node(1)?.add_users(&USERS.map(str::to_owned))?;
        for user in USERS {
            fill(murder.node(1)?, user, plan.messages, OCTETS)?;
            let mut ledger = Ledger::default();
            ledger.was_filled(plan.messages);
            ledgers.insert(user.to_owned(), ledger);
        }
        let homes = [1; USERS.len()];
        Ok(Run { murder, etcd, cable, ledgers, homes, pause_us: PAUSE_US, summary: Summary::default() })
    }

    fn check(&self) -> Result<()> {
        self.murder.nodes.iter().try_for_each(|node| node.check())
    }

    fn front(&self) -> Result<SocketAddr> {
        Ok(self.murder.node(0)?.imap)
    }

    fn one_kill(&mut self, place: usize, victim: Victim, seed: u64) -> Result<String> {
        let mut random = Random::new(seed);
        let (user, home) = (USERS[place], self.homes[place]);
        let (target, front) = (3 - home, self.front()?);
        let habits = [Habit::Writes, Habit::Files, Habit::Reads, Habit::Idles, Habit::Flags];
        let people = habits.map(|habit| Person {
            user: user.to_owned(),
            at: front,
            habit,
            pace: Duration::from_millis(20),
        });
        let door = self.murder.node(0)?.lmtp;
        let crowd = Crowd::gather(people.to_vec(), Mood::Patient, Some((door, 30)))?;
        let leader = self.etcd.leader()?;
        let log_before = self.murder.node(home)?.log_size()?;
        let asked = self.murder.node(0)?.cli(&["move", "user", user, "--to", NODES[target].0], b"")?;
        ensure!(asked.status.success(), "{}", asked.text());
        let pause = Duration::from_micros(random.below(self.pause_us));
        std::thread::sleep(pause);
        let struck = Instant::now();
        self.strike(victim, home, leader)?;
        let is_in_time = !self.murder.node(home)?.log_after(log_before)?.contains("an account has moved");
        self.pause_us = self.pause_us * if is_in_time { 106 } else { 85 } / 100;
        self.mend(victim, home, leader, &mut random)?;
        let now = self.settled(user)?;
        let recovered = struck.elapsed();
        std::thread::sleep(Duration::from_millis(200));
        let mut account = crowd.disperse();
        account.nobody_failed()?;
        let number = VICTIMS.iter().position(|one| *one == victim).unwrap_or(0);
        self.summary.kills[number] += 1;
        self.summary.in_time[number] += u64::from(is_in_time);
        self.summary.delivered += account.delivered;
        self.summary.answered += account.writes.count() + account.reads.count();
        match now == target {
            true => self.summary.moved += 1,
            false => self.summary.stayed += 1,
        }
        let ledger = self.ledgers.entry(user.to_owned()).or_default();
        ledger.join(std::mem::take(&mut account.ledgers).remove(user).unwrap_or_default());
        let messages = ledger.verify(front, user)?;
        self.homes[place] = self.moves_whole(user, now)?;
        // Either home is the source half of the time.
        if random.chance(50) {
            self.homes[place] = self.moves_whole(user, self.homes[place])?;
        }
        let when = if is_in_time { "" } else { ", when it was over" };
        Ok(format!(
            "after {pause:?}{when}; {user} is whole after {recovered:?} at node {now}, of {messages} messages"
        ))
    }

    /// Nobody uses the account: what can be seen of it is the same at its next home.
    fn moves_whole(&self, user: &str, home: usize) -> Result<usize> {
        let (front, target) = (self.front()?, 3 - home);
        let before = ledger::digest(front, user)?;
        let moved =
            self.murder.node(0)?.cli(&["move", "user", user, "--to", NODES[target].0, "--wait"], b"")?;
        ensure!(moved.status.success(), "{}", moved.text());
        ledger::same(&before, &ledger::digest(front, user)?)?;
        // The next move begins when this one is over at both ends.
        self.settled(user)
    }

    fn strike(&mut self, victim: Victim, home: usize, leader: usize) -> Result<()> {
        match victim {
            Victim::Source => self.murder.node_mut(home)?.kill9(),
            Victim::Target => self.murder.node_mut(3 - home)?.kill9(),
            Victim::Edge => self.murder.node_mut(0)?.kill9(),
            Victim::Directory => self.etcd.kill(leader),
            Victim::Cable => self.cable.plug(false),
        }
    }

    fn mend(&mut self, victim: Victim, home: usize, leader: usize, random: &mut Random) -> Result<()> {
        match victim {
            Victim::Source => self.murder.node_mut(home)?.launch(),
            Victim::Target => self.murder.node_mut(3 - home)?.launch(),
            Victim::Edge => self.murder.node_mut(0)?.launch(),
            Victim::Directory => {
                std::thread::sleep(Duration::from_micros(random.below(AWAY_MAX_US)));
                self.etcd.launch(leader)
            }
            Victim::Cable => {
                std::thread::sleep(Duration::from_micros(random.below(CUT_MAX_US)));
                self.cable.plug(true)
            }
        }
    }

    /// Waits until no move is under way, and tells which node has the account: one, by the directory and by the nodes.
    fn settled(&self, user: &str) -> Result<usize> {
        let deadline = Instant::now() + RECOVERY_MAX;
        loop {
            match self.one_home(user) {
                Ok(Some(node)) => return Ok(node),
                other => ensure!(Instant::now() < deadline, "it does not come to rest: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn one_home(&self, user: &str) -> Result<Option<usize>> {
        let mut homes = Vec::new();
        if moves(self.murder.node(0)?)? > 0 {
            return Ok(None);
        }
        for (place, node) in self.murder.nodes.iter().enumerate() {
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
}
