//! Accounts that move between nodes, and nodes that are emptied, with people at work in them all the while.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::etcd::Etcd;
use crate::lmtp::Lmtp;
use crate::murder::Murder;
use crate::process;
use crate::random::Random;
use crate::server::Server;
use crate::soak::both_stores;
use crate::soak::crowd::{Account, Crowd, Habit, Mood, Person, Times};
use crate::soak::upgrade::{self, Installed, Traveller};

/// What one run of moves showed.
#[derive(Debug, Default)]
pub struct Pauses {
    /// Moves made.
    pub moves: u64,
    /// How long each took.
    pub took: Times,
    /// Commands that change something.
    pub writes: Times,
    /// Those that do not.
    pub reads: Times,
    /// Messages delivered meanwhile.
    pub delivered: u64,
    /// Messages that were in the account in the end.
    pub messages: u64,
}

/// How much stands still when one account moves.
#[derive(Debug, Clone, Copy)]
pub struct PausesPlan {
    /// Moves, to and fro.
    pub moves: u64,
    /// Messages that the account has at first.
    pub messages: u32,
    /// Whether clients are at a third node, which has no mail; else half of them are at each home.
    pub through_frontend: bool,
    /// A command may take so long.
    pub patience: Duration,
    /// No move begins after so long.
    pub time_max: Duration,
}

/// Moves an account to and fro while clients send it a command every 5 ms, 20 messages a second are appended to it and
/// as many delivered, and five sessions are in IDLE.
pub fn pauses(plan: PausesPlan, binary: Option<&Path>, mut report: impl FnMut(&str)) -> Result<Pauses> {
    let nodes = [("fe1.example", ""), ("be1.example", "hold"), ("be2.example", "hold")];
    let nodes = if plan.through_frontend { nodes } else { nodes.map(|(name, _)| (name, "serve,hold")) };
    let mut murder = Murder::start_by(binary, &nodes)?;
    for node in &mut murder.nodes {
        node.allow_log("the directory's source is away");
        node.allow_log("is not reached");
    }
    murder.node(1)?.add_user("joe")?;
    fill(murder.node(1)?, "joe", plan.messages, OCTETS)?;
    report(&format!("{} messages are there", plan.messages));
    let door = |number: usize| {
        let node = if plan.through_frontend { 0 } else { 1 + number % 2 };
        murder.node(node).map(|node| node.imap)
    };
    let mut people = Vec::new();
    let pace = Duration::from_millis(5);
    let mut comes = |at, habit, pace| people.push(Person { user: "joe".into(), at, habit, pace });
    for (number, habit) in [Habit::Flags, Habit::Flags, Habit::Asks, Habit::Asks].into_iter().enumerate() {
        comes(door(number)?, habit, pace);
    }
    comes(door(0)?, Habit::Writes, Duration::from_millis(48));
    for number in 0..5 {
        comes(door(number)?, Habit::Idles, pace);
    }
    let crowd = Crowd::gather(people, Mood::Strict(plan.patience), Some((murder.node(0)?.lmtp, 20)))?;
    let (mut done, began) = (Pauses::default(), Instant::now());
    while done.moves < plan.moves && (done.moves < 2 || began.elapsed() < plan.time_max) {
        let from = usize::try_from(done.moves % 2)?;
        let (to, source) = (["be2.example", "be1.example"][from], murder.node(1 + from)?);
        let (move_began, log_before) = (Instant::now(), source.log_size()?);
        let moved = murder.node(0)?.cli(&["move", "user", "joe", "--to", to, "--wait"], b"")?;
        ensure!(moved.status.success(), "move {}: {}", done.moves, moved.text());
        done.took.add(move_began.elapsed());
        done.moves += 1;
        let (messages, octets) = copied(&source.log_after(log_before)?)?;
        let took = move_began.elapsed();
        report(&format!("move {} took {took:?}, {messages} messages, {octets} octets", done.moves));
        crowd.nobody_failed()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut account = crowd.disperse();
    account.nobody_failed()?;
    account.was_filled(&["joe".to_owned()], plan.messages);
    done.messages = account.verify(murder.node(0)?.imap)?;
    (done.writes, done.reads, done.delivered) = (account.writes, account.reads, account.delivered);
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()?;
    Ok(done)
}

/// Accounts that nobody uses, and go to a node that has nothing of them.
#[derive(Debug, Clone, Copy)]
pub struct CopyPlan {
    /// How many, one after another.
    pub accounts: u32,
    /// Messages of each.
    pub messages: u32,
    /// Octets of each message, about.
    pub octets: usize,
}

/// How fast accounts were moved.
#[derive(Debug, Default)]
pub struct Copied {
    /// Messages that were copied.
    pub messages: u64,
    /// Octets that were sent for them.
    pub octets: u64,
    /// From the command to its end.
    pub took: Times,
}

/// Moves accounts, each once, and says how long that takes.
pub fn copies(plan: CopyPlan, binary: Option<&Path>, mut report: impl FnMut(&str)) -> Result<Copied> {
    let mut murder = Murder::start_by(binary, &[("n1.example", ""), ("n2.example", "serve,hold")])?;
    for node in &mut murder.nodes {
        node.allow_log("the directory's source is away");
    }
    let (source, target) = (murder.node(0)?, murder.node(1)?);
    let mut done = Copied::default();
    for number in 0..plan.accounts {
        let user = format!("user{number}");
        source.add_user(&user)?;
        fill(source, &user, plan.messages, plan.octets)?;
        let (began, log_before) = (Instant::now(), source.log_size()?);
        let moved = source.cli(&["move", "user", &user, "--to", "n2.example", "--wait"], b"")?;
        ensure!(moved.status.success(), "{}", moved.text());
        let took = began.elapsed();
        let (messages, octets) = copied(&source.log_after(log_before)?)?;
        ensure!(messages == u64::from(plan.messages), "{messages} messages were copied");
        report(&format!("{messages} messages, {octets} octets in {took:?}"));
        (done.messages, done.octets) = (done.messages + messages, done.octets + octets);
        done.took.add(took);
    }
    ensure!(accounts_at(target, "n2.example")? == u64::from(plan.accounts), "not all have moved");
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()?;
    Ok(done)
}

/// What a node says of the account that has left it last: messages and octets that were copied.
fn copied(log: &str) -> Result<(u64, u64)> {
    let line = log.lines().rev().find(|line| line.contains("an account has moved"));
    let line: serde_json::Value = serde_json::from_str(line.context("the log says nothing of a move")?)?;
    let field = |name: &str| line["fields"][name].as_u64().with_context(|| format!("no {name} in {line}"));
    Ok((field("messages")?, field("octets")?))
}

/// Octets of an ordinary message.
pub const OCTETS: usize = 4_000;

/// Brings messages into an account, of about so many octets each, no two of which begin with the same text.
pub fn fill(node: &Server, user: &str, messages: u32, octets: usize) -> Result<()> {
    let mut lmtp = Lmtp::connect(node.lmtp)?;
    let mut random = Random::new(1);
    for number in 0..messages {
        let mut text = format!("Message-ID: <{number}@{user}.full>\r\nSubject: old {number}\r\n\r\n");
        // As hard to pack as mail is: half of it words, half of it what says nothing twice.
        while text.len() < octets {
            let [one, other] = [random.draw(), random.draw()];
            text += &format!("and so on and so forth {one:016x} {other:016x}\r\n");
        }
        let answers = lmtp.deliver("sender@example.net", &[user], text.as_bytes())?;
        ensure!(answers.iter().all(|answer| answer.code == 250), "{number}: {answers:?}");
    }
    Ok(())
}

/// What a drain showed, and the restarts behind it.
#[derive(Debug)]
pub struct Drained {
    /// Accounts that went.
    pub accounts: u64,
    /// How long it took.
    pub took: Duration,
    /// CPU time of each node meanwhile.
    pub cpu: Vec<Duration>,
    /// When it was over.
    pub over: Instant,
    /// How long the restart of each node took.
    pub restarts: Vec<Duration>,
    /// What people saw meanwhile.
    pub account: Account,
    /// Messages in all mailboxes.
    pub messages: u64,
}

/// A node that is emptied, and a program that is replaced.
#[derive(Debug, Clone)]
pub struct DrainPlan {
    /// Accounts on the node.
    pub accounts: u32,
    /// Messages that each has.
    pub messages: u32,
    /// People at work meanwhile, at all nodes in turn.
    pub people: usize,
    /// A command may take so long.
    pub patience: Duration,
    /// It fails if it is not over by then.
    pub time_max: Duration,
    /// The program, if it is not that of the tests.
    pub binary: Option<PathBuf>,
    /// What takes its place; by default a copy of it with an octet more.
    pub new_binary: Option<PathBuf>,
}

/// Empties one node of three while people work, and mail comes in at another; then all nodes are restarted with another
/// program. The directory is in etcd.
pub fn drain(plan: &DrainPlan, mut report: impl FnMut(&str)) -> Result<Drained> {
    let nodes = [("n1.example", ""), ("n2.example", "serve,hold"), ("n3.example", "serve,hold")];
    let (installed, etcd) =
        (Installed::new(plan.binary.as_deref())?, Etcd::start(Ipv4Addr::LOCALHOST.into(), 3)?);
    let mut murder = Murder::of(Some(&installed.path()), &etcd.config(true)?);
    nodes.iter().try_for_each(|(name, duties)| murder.add(name, duties))?;
    for node in &mut murder.nodes {
        node.allow_log("the directory's source is away");
    }
    let users: Vec<String> = (0..plan.accounts).map(|number| format!("user{number}")).collect();
    murder.node(1)?.add_users(&users)?;
    for user in &users {
        fill(murder.node(1)?, user, plan.messages, OCTETS)?;
    }
    report(&format!("{} accounts of {} messages are there", plan.accounts, plan.messages));
    let people = people_at(&murder, &users, plan.people)?;
    let crowd = Crowd::gather(people, Mood::Strict(plan.patience), Some((murder.node(2)?.lmtp, 20)))?;
    let cpu = || murder.nodes.iter().map(|node| Ok(process::cpu(node.pid()?))).collect::<Result<Vec<_>>>();
    let (began, cpu_before) = (Instant::now(), cpu()?);
    let asked = murder.node(0)?.cli(&["node", "hold", "drain", "--node", "n2.example"], b"")?;
    ensure!(asked.status.success(), "hold drain: {}", asked.text());
    let mut last = u64::MAX;
    loop {
        let left = accounts_at(murder.node(0)?, "n2.example")?;
        if left != last {
            report(&format!("{:?}: {left} accounts are left", began.elapsed()));
            last = left;
        }
        crowd.nobody_failed()?;
        if left == 0 && moves(murder.node(0)?)? == 0 {
            break;
        }
        ensure!(began.elapsed() < plan.time_max, "{left} accounts are left after {:?}", plan.time_max);
        std::thread::sleep(Duration::from_millis(200));
    }
    let took = began.elapsed();
    let cpu =
        cpu()?.into_iter().zip(cpu_before).map(|(after, before)| after.saturating_sub(before)).collect();
    std::thread::sleep(Duration::from_millis(500));
    let over = Instant::now();
    // An account that people at work know nothing of goes between the old program and the new.
    let on = murder.node(0)?.cli(&["node", "hold", "on", "--node", "n2.example"], b"")?;
    ensure!(on.status.success(), "hold on: {}", on.text());
    murder.node(0)?.add_user("traveller")?;
    installed.replace(plan.new_binary.as_deref())?;
    let traveller = Traveller { user: "traveller", nodes: &nodes.map(|(name, _)| name) };
    let restarts = upgrade::restart_all(&murder, &crowd, &traveller, &mut report)?;
    let mut account = crowd.disperse();
    account.nobody_failed()?;
    account.was_filled(&users, plan.messages);
    let messages = account.verify(murder.node(2)?.imap)?;
    for node in &murder.nodes {
        node.check()?;
    }
    let compared = both_stores::compare(&mut murder, &nodes.map(|(name, _)| name), &[0, 1, 2])?;
    report(&format!("{compared} accounts, the same in both stores"));
    Ok(Drained { accounts: plan.accounts.into(), took, cpu, over, restarts, account, messages })
}

/// People of every habit, at all nodes in turn.
fn people_at(murder: &Murder, users: &[String], count: usize) -> Result<Vec<Person>> {
    let all = users.iter().cycle().take(count).enumerate().map(|(number, user)| {
        let at = murder.node(number % murder.nodes.len())?.imap;
        let habit = Habit::ALL[number / murder.nodes.len() % Habit::ALL.len()];
        Ok(Person { user: user.clone(), at, habit, pace: Duration::from_millis(100) })
    });
    all.collect()
}

/// How many accounts the directory, as a node knows it, says are at home at another.
pub fn accounts_at(node: &Server, name: &str) -> Result<u64> {
    Ok(users(node)?.iter().filter(|user| user["home"] == name).count() as u64)
}

/// How many moves of accounts are under way anywhere.
pub fn moves(node: &Server) -> Result<usize> {
    let listed = node.cli(&["move", "status", "--json"], b"")?;
    ensure!(listed.status.success(), "{}", listed.text());
    let all: Vec<serde_json::Value> = serde_json::from_str(&listed.text()).context("move status --json")?;
    Ok(all.len())
}

/// All users, as a node knows them.
pub fn users(node: &Server) -> Result<Vec<serde_json::Value>> {
    let listed = node.cli(&["user", "list", "--json"], b"")?;
    ensure!(listed.status.success(), "{}", listed.text());
    serde_json::from_str(&listed.text()).context("user list --json")
}
