//! One server with data becomes three nodes, then five, then two, while people are connected to the first of them and
//! mail comes in. Every step is what an operator does.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::edge;
use crate::etcd::Etcd;
use crate::murder::Murder;
use crate::server::Server;
use crate::soak::crowd::{Account, Crowd, Habit, Mood, Person};
use crate::soak::moving::{OCTETS, accounts_at, fill, moves};

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Accounts.
    pub accounts: u32,
    /// Messages that each has at first.
    pub messages: u32,
    /// People at work, all at the first node.
    pub people: usize,
    /// A command may take so long.
    pub patience: Duration,
    /// A step fails that is not over by then.
    pub step_max: Duration,
}

impl Plan {
    fn until(&self, what: &str, is_over: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + self.step_max;
        while !is_over()? {
            ensure!(Instant::now() < deadline, "{what} takes more than {:?}", self.step_max);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// What a run showed.
#[derive(Debug, Default)]
pub struct Summary {
    /// The steps, and how long each took.
    pub steps: Vec<(String, Duration)>,
    /// What people saw.
    pub account: Account,
    /// Messages in all mailboxes.
    pub messages: u64,
}

/// The name of the node of that number, from 1.
fn name(number: usize) -> String {
    format!("n{number}.example")
}

struct Run<'a> {
    murder: Murder,
    crowd: &'a Crowd,
    plan: Plan,
    steps: Vec<(String, Duration)>,
    report: &'a mut dyn FnMut(&str),
}

impl Run<'_> {
    fn step(&mut self, what: &str, work: impl FnOnce(&mut Murder) -> Result<()>) -> Result<()> {
        let began = Instant::now();
        work(&mut self.murder)?;
        self.crowd.nobody_failed().with_context(|| format!("behind: {what}"))?;
        (self.report)(&format!("{what}: {:?}", began.elapsed()));
        self.steps.push((what.to_owned(), began.elapsed()));
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    /// Another node joins, and gets its share.
    fn join(&mut self, number: usize) -> Result<()> {
        self.step(&format!("{} joins", name(number)), |murder| murder.add(&name(number), "serve,hold"))
    }

    fn balance(&mut self, nodes: usize) -> Result<()> {
        let plan = self.plan;
        self.step(&format!("balance over {nodes}"), |murder| {
            command(murder.node(0)?, &["balance"])?;
            let share = u64::from(plan.accounts) / u64::try_from(nodes)?;
            plan.until("the moves", || Ok(moves(murder.node(0)?)? == 0))?;
            for number in 1..=nodes {
                let there = accounts_at(murder.node(0)?, &name(number))?;
                ensure!(there + 1 + share / 4 >= share, "{there} accounts are at {}", name(number));
            }
            Ok(())
        })
    }

    /// The node of that number is emptied and leaves.
    fn leave(&mut self, number: usize) -> Result<()> {
        let plan = self.plan;
        self.step(&format!("{} leaves", name(number)), |murder| {
            let name = name(number);
            command(murder.node(0)?, &["node", "hold", "drain", "--node", &name])?;
            plan.until("the drain", || {
                Ok(accounts_at(murder.node(0)?, &name)? == 0 && moves(murder.node(0)?)? == 0)
            })?;
            let mut node = murder.nodes.pop().filter(|_| number > 1);
            if let Some(node) = &mut node {
                node.check()?;
                node.stop()?;
            }
            command(murder.node(0)?, &["node", "remove", &name])
        })
    }
}

/// Runs a command that must succeed.
fn command(node: &Server, words: &[&str]) -> Result<()> {
    let output = node.cli(words, b"")?;
    ensure!(output.status.success(), "{words:?}: {}", output.text());
    Ok(())
}

/// From one to three, to five, to two.
pub fn soak(plan: Plan, binary: Option<&Path>, mut report: impl FnMut(&str)) -> Result<Summary> {
    let mut first = Server::unstarted()?;
    if let Some(binary) = binary {
        first.use_binary(binary.to_path_buf());
    }
    first.launch()?;
    let users: Vec<String> = (0..plan.accounts).map(|number| format!("user{number}")).collect();
    first.add_users(&users)?;
    for user in &users {
        fill(&first, user, plan.messages, OCTETS)?;
    }
    report(&format!("a single server with {} accounts of {} messages", plan.accounts, plan.messages));
    let people = users.iter().cycle().take(plan.people).enumerate().map(|(number, user)| Person {
        user: user.clone(),
        at: first.imap,
        habit: Habit::ALL[number % Habit::ALL.len()],
        pace: Duration::from_millis(100),
    });
    let crowd = Crowd::gather(people.collect(), Mood::Strict(plan.patience), Some((first.lmtp, 20)))?;
    let link = edge::link_place(first.imap)?;
    let etcd = Etcd::start(Ipv4Addr::LOCALHOST.into(), 3)?;
    let mut run = Run {
        murder: Murder::around(first, binary),
        crowd: &crowd,
        plan,
        steps: Vec::new(),
        report: &mut report,
    };
    for node in &mut run.murder.nodes {
        node.allow_log("the directory's source is away");
        node.allow_log("the directory takes no changes");
        node.allow_log("a node is removed from the cluster");
    }
    run.step("the server becomes a node", |murder| {
        murder.node(0)?.add_config(&edge::cluster_section(&name(1), link))?;
        command(murder.node(0)?, &["restart"])
    })?;
    run.step("the directory moves into etcd", |murder| {
        let config = etcd.config(true)?;
        murder.configure(&config)?;
        command(murder.node(0)?, &["directory", "promote"])
    })?;
    for nodes in [[2, 3], [4, 5]] {
        for number in nodes {
            run.join(number)?;
        }
        run.balance(nodes[1])?;
    }
    for number in [5, 4, 3] {
        run.leave(number)?;
    }
    let Run { mut murder, steps, .. } = run;
    let mut account = crowd.disperse();
    account.nobody_failed()?;
    account.was_filled(&users, plan.messages);
    let messages = account.verify(murder.node(1)?.imap)?;
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()?;
    Ok(Summary { steps, account, messages })
}
