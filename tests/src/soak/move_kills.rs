//! Accounts that move between two nodes, through a frontend, with the directory in etcd, while one of the parties is
//! killed at a random moment, or its cable is cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::random::Random;
use crate::soak::both_stores;
use crate::soak::crowd::{Crowd, Habit, Mood, Person};
use crate::soak::ledger::{self, Ledger};
use crate::soak::moving::{OCTETS, fill, moves, users};
use crate::soak::scene::{Blow, Scene};

/// The frontend, and the homes, of which the last is at the end of a cable.
const NODES: [(&str, &str); 3] = [("fe1.example", ""), ("be1.example", "hold"), ("be2.example", "hold")];
/// The users whose accounts move.
const USERS: [&str; 10] = ["ann", "joe", "eve", "bob", "kim", "lea", "max", "ned", "oda", "pia"];
/// How long until all is well again.
const RECOVERY_MAX: Duration = Duration::from_secs(40);
/// The longest pause between the beginning of a move and the kill, at first; it becomes as long as moves take.
const PAUSE_US: u64 = 300_000;
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
    /// Enough kills of each victim that came before the move was over.
    pub in_time: u64,
    /// Kills at the most, early and late ones.
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

impl Summary {
    /// Of [`VICTIMS`], that which was killed in time least often; of these, that which was killed least often.
    fn next_victim(&self) -> usize {
        (0..VICTIMS.len()).min_by_key(|number| (self.in_time[*number], self.kills[*number])).unwrap_or(0)
    }
}

struct Run {
    scene: Scene,
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
        let number = run.summary.next_victim();
        if run.summary.in_time[number] >= plan.in_time {
            break;
        }
        let seed = plan.seed.wrapping_add(round);
        let victim = VICTIMS[number];
        let place = usize::try_from(round / all)? % USERS.len();
        let said = run.one_kill(place, victim, seed);
        let said =
            said.with_context(|| format!("round {round}, {victim:?}, {}, seed {seed}", USERS[place]))?;
        round += 1;
        report(&format!("{:?}: kill {round}: {victim:?} {said}", began.elapsed()));
        if round % CHECK_EVERY == 0 {
            run.scene.check()?;
        }
    }
    run.scene.check()?;
    for (user, ledger) in &mut run.ledgers {
        run.summary.messages += ledger.verify(run.scene.murder.node(0)?.imap, user)?;
    }
    let compared = both_stores::compare(&mut run.scene.murder, &NODES.map(|(name, _)| name), &[1, 2])?;
    report(&format!("{:?}: {compared} accounts, the same in both stores", began.elapsed()));
    Ok(run.summary)
}

impl Run {
    fn prepare(plan: &Plan) -> Result<Run> {
        let scene = Scene::set(plan.binary.as_deref(), NODES, "", &["moving an account"])?;
        let murder = &scene.murder;
        let mut ledgers = BTreeMap::new();
        murder.node(1)?.add_users(&USERS.map(str::to_owned))?;
        for user in USERS {
            fill(murder.node(1)?, user, plan.messages, OCTETS)?;
            let mut ledger = Ledger::default();
            ledger.was_filled(plan.messages);
            ledgers.insert(user.to_owned(), ledger);
        }
        let homes = [1; USERS.len()];
        Ok(Run { scene, ledgers, homes, pause_us: PAUSE_US, summary: Summary::default() })
    }

    fn front(&self) -> Result<SocketAddr> {
        Ok(self.scene.murder.node(0)?.imap)
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
        let door = self.scene.murder.node(0)?.lmtp;
        let crowd = Crowd::gather(people.to_vec(), Mood::Patient, Some((door, 30)))?;
        let blow = match victim {
            Victim::Source => Blow::Node(home),
            Victim::Target => Blow::Node(target),
            Victim::Edge => Blow::Node(0),
            Victim::Directory => Blow::Member(self.scene.etcd.leader()?),
            Victim::Cable => Blow::Cable,
        };
        let log_before = self.scene.murder.node(home)?.log_size()?;
        let asked = self.scene.murder.node(0)?.cli(&["move", "user", user, "--to", NODES[target].0], b"")?;
        ensure!(asked.status.success(), "{}", asked.text());
        let pause = Duration::from_micros(random.below(self.pause_us));
        std::thread::sleep(pause);
        let struck = Instant::now();
        self.scene.strike(blow)?;
        let is_in_time =
            !self.scene.murder.node(home)?.log_after(log_before)?.contains("an account has moved");
        self.pause_us = self.pause_us * if is_in_time { 106 } else { 85 } / 100;
        self.scene.mend(blow, &mut random)?;
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
        let moved = self
            .scene
            .murder
            .node(0)?
            .cli(&["move", "user", user, "--to", NODES[target].0, "--wait"], b"")?;
        ensure!(moved.status.success(), "{}", moved.text());
        ledger::same(&before, &ledger::digest(front, user)?)?;
        // The next move begins when this one is over at both ends.
        self.settled(user)
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
        if moves(self.scene.murder.node(0)?)? > 0 {
            return Ok(None);
        }
        for (place, node) in self.scene.murder.nodes.iter().enumerate() {
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
