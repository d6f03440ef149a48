//! Accounts that move between nodes, and nodes that are emptied, with people at work in them all the while.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lmtp::Lmtp;
use crate::murder::Murder;
use crate::server::Server;
use crate::soak::crowd::{Account, Crowd, Habit, Mood, Person, Times};

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
pub fn pauses(
    plan: PausesPlan,
    binary: Option<&std::path::Path>,
    mut report: impl FnMut(&str),
) -> Result<Pauses> {
    let nodes = [("fe1.example", ""), ("be1.example", "hold"), ("be2.example", "hold")];
    let nodes = if plan.through_frontend { nodes } else { nodes.map(|(name, _)| (name, "serve,hold")) };
    let mut murder = Murder::start_by(binary, &nodes)?;
    for node in &mut murder.nodes {
        node.allow_log("the directory's source is away");
        node.allow_log("is not reached");
    }
    murder.node(1)?.add_user("joe")?;
    fill(murder.node(1)?, "joe", plan.messages)?;
    report(&format!("{} messages are there", plan.messages));
    let door = |number: usize| {
        let node = if plan.through_frontend { 0 } else { 1 + number % 2 };
        murder.node(node).map(|node| node.imap)
    };
    let mut people = Vec::new();
    let pace = Duration::from_millis(5);
    for (number, habit) in [Habit::Flags, Habit::Flags, Habit::Asks, Habit::Asks].into_iter().enumerate() {
        people.push(Person { user: "joe".into(), at: door(number)?, habit, pace });
    }
    people.push(Person {
        user: "joe".into(),
        at: door(0)?,
        habit: Habit::Writes,
        pace: Duration::from_millis(48),
    });
    for number in 0..5 {
        people.push(Person { user: "joe".into(), at: door(number)?, habit: Habit::Idles, pace });
    }
    let crowd = Crowd::gather(people, Mood::Strict(plan.patience), Some((murder.node(0)?.lmtp, 20)))?;
    let (mut done, began) = (Pauses::default(), Instant::now());
    while done.moves < plan.moves && (done.moves < 2 || began.elapsed() < plan.time_max) {
        let to = ["be2.example", "be1.example"][usize::try_from(done.moves % 2)?];
        let move_began = Instant::now();
        let moved = murder.node(0)?.cli(&["move", "user", "joe", "--to", to, "--wait"], b"")?;
        ensure!(moved.status.success(), "move {}: {}", done.moves, moved.text());
        done.took.add(move_began.elapsed());
        done.moves += 1;
        report(&format!("move {} took {:?}", done.moves, move_began.elapsed()));
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

/// Brings messages into an account, of 4 KB each.
pub fn fill(node: &Server, user: &str, messages: u32) -> Result<()> {
    let mut lmtp = Lmtp::connect(node.lmtp)?;
    for number in 0..messages {
        let text = format!(
            "Message-ID: <{number}@{user}.full>\r\nSubject: old {number}\r\n\r\n{}",
            "Some words that stand here for a text.\r\n".repeat(95)
        );
        let answers = lmtp.deliver("sender@example.net", &[user], text.as_bytes())?;
        ensure!(answers.iter().all(|answer| answer.code == 250), "{number}: {answers:?}");
    }
    Ok(())
}

/// What a drain showed.
#[derive(Debug, Default)]
pub struct Drained {
    /// Accounts that went.
    pub accounts: u64,
    /// How long it took.
    pub took: Duration,
    /// What people saw meanwhile.
    pub account: Account,
    /// Messages in all mailboxes.
    pub messages: u64,
}

/// A node that is emptied.
#[derive(Debug, Clone, Copy)]
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
}

/// Empties one node of three while people work, and mail comes in at another.
pub fn drain(
    plan: DrainPlan,
    binary: Option<&std::path::Path>,
    mut report: impl FnMut(&str),
) -> Result<Drained> {
    let nodes = [("n1.example", ""), ("n2.example", "serve,hold"), ("n3.example", "serve,hold")];
    let mut murder = Murder::start_by(binary, &nodes)?;
    for node in &mut murder.nodes {
        node.allow_log("the directory's source is away");
    }
    let users: Vec<String> = (0..plan.accounts).map(|number| format!("user{number}")).collect();
    murder.node(1)?.add_users(&users)?;
    for user in &users {
        fill(murder.node(1)?, user, plan.messages)?;
    }
    report(&format!("{} accounts of {} messages are there", plan.accounts, plan.messages));
    let people = people_at(&murder, &users, plan.people)?;
    let crowd = Crowd::gather(people, Mood::Strict(plan.patience), Some((murder.node(2)?.lmtp, 20)))?;
    let began = Instant::now();
    let asked = murder.node(0)?.cli(&["node", "hold", "drain", "--node", "n2.example"], b"")?;
    ensure!(asked.status.success(), "hold drain: {}", asked.text());
    let mut last = u64::MAX;
    loop {
        let left = accounts_at(murder.node(0)?, "n2.example")?;
        if left != last {
            report(&format!("{:?}: {left} accounts are left", began.elapsed()));
            last = left;
        }
        if left == 0 {
            break;
        }
        ensure!(began.elapsed() < plan.time_max, "{left} accounts are left after {:?}", plan.time_max);
        crowd.nobody_failed()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    let took = began.elapsed();
    std::thread::sleep(Duration::from_millis(500));
    let mut account = crowd.disperse();
    account.nobody_failed()?;
    account.was_filled(&users, plan.messages);
    let messages = account.verify(murder.node(2)?.imap)?;
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()?;
    Ok(Drained { accounts: plan.accounts.into(), took, account, messages })
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
