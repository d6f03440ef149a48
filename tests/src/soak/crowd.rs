//! People at their mail programs while something happens to the servers, and a postman who brings them letters. A command
//! that is not answered with OK in time, or a connection that ends, fails them, unless they are [`Mood::Patient`]. Nobody
//! does anything twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::ledger::Ledger;
use super::people::{self, Day, Pen};
use super::postman::{self, Round};

/// A command of the strict may take so long.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What somebody does all day. Everybody has INBOX selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Looks for news, and reads the last message.
    Reads,
    /// Appends messages and flags them.
    Writes,
    /// Sits in IDLE.
    Idles,
    /// Copies and moves messages out of INBOX.
    Files,
    /// Lists mailboxes and asks for their status.
    Looks,
    /// Sets and removes a flag, and nothing else.
    Flags,
    /// Asks for news and for the flags of the last message, and nothing else.
    Asks,
}

impl Habit {
    /// What people do, in turn.
    pub const ALL: [Habit; 5] = [Habit::Reads, Habit::Writes, Habit::Idles, Habit::Files, Habit::Looks];
}

/// What somebody does when a server fails them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// They go home and complain, also of a command that takes longer.
    Strict(Duration),
    /// They connect anew, and go on with something else.
    Patient,
}

/// Somebody.
#[derive(Debug, Clone)]
pub struct Person {
    /// Who.
    pub user: String,
    /// The node they are connected to.
    pub at: SocketAddr,
    /// What they do.
    pub habit: Habit,
    /// The pause between two commands.
    pub pace: Duration,
}

/// Commands of a kind, by when they were answered and how long that took.
#[derive(Debug, Default, Clone)]
pub struct Times {
    all: Vec<(Instant, Duration)>,
}

impl Times {
    /// One more, that has just been answered.
    pub fn add(&mut self, took: Duration) {
        self.all.push((Instant::now(), took));
    }

    /// All of another's.
    pub fn join(&mut self, other: Times) {
        self.all.extend(other.all);
    }

    /// Those that were answered before a moment, and the others.
    pub fn split(&self, at: Instant) -> [Times; 2] {
        let (before, after) = self.all.iter().partition(|(answered, _)| *answered < at);
        [Times { all: before }, Times { all: after }]
    }

    /// All together.
    pub fn sum(&self) -> Duration {
        self.all.iter().map(|(_, took)| *took).sum()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The time below which that share of them stays, from 0 to 1.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted: Vec<Duration> = self.all.iter().map(|(_, took)| *took).collect();
        sorted.sort_unstable();
        let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }

    /// In words.
    pub fn text(&self) -> String {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.quantile(share).as_secs_f64() * 1e3);
        format!("{} commands, p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms", self.count())
    }
}

/// What all have done and were told.
#[derive(Debug, Default)]
pub struct Account {
    /// Commands that change something.
    pub writes: Times,
    /// Those that do not.
    pub reads: Times,
    /// By user.
    pub ledgers: BTreeMap<String, Ledger>,
    /// Who was failed, and how.
    pub failures: Vec<String>,
    /// Messages delivered by LMTP.
    pub delivered: u64,
    /// How often the postman was asked to come again.
    pub deferred: u64,
}

/// All of them, at work.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    people: Vec<(String, JoinHandle<Day>)>,
    postman: Option<JoinHandle<Round>>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Crowd {
    /// Sets people to work, and a postman who brings `a_second` messages to them in turn by LMTP to `door`. Returns when
    /// all are logged in.
    pub fn gather(people: Vec<Person>, mood: Mood, door: Option<(SocketAddr, u32)>) -> Result<Crowd> {
        static CROWDS: AtomicU64 = AtomicU64::new(0);
        // What one crowd writes is not what another has written.
        let number = CROWDS.fetch_add(1, Ordering::Relaxed);
        let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let users: Vec<String> = people.iter().map(|person| person.user.clone()).collect();
        let mut crowd = Crowd { stop, people: Vec::new(), postman: None, failures };
        for (place, person) in people.into_iter().enumerate() {
            let client =
                people::enter(&person).with_context(|| format!("{} at {}", person.user, person.at))?;
            let (stop, failures, user) = (crowd.stop.clone(), crowd.failures.clone(), person.user.clone());
            let mut pen = Pen::new(format!("{number}.{place}"));
            let thread = std::thread::spawn(move || {
                let mut day = Day::default();
                let done = match mood {
                    Mood::Strict(patience) => {
                        people::work(&person, client, &mut day, &mut pen, patience, &stop)
                    }
                    Mood::Patient => people::work_on(&person, client, &mut day, &mut pen, &stop),
                };
                note(&failures, &format!("{} who {:?}", person.user, person.habit), done);
                day
            });
            crowd.people.push((user, thread));
        }
        if let Some((door, a_second)) = door {
            let (stop, failures) = (crowd.stop.clone(), crowd.failures.clone());
            crowd.postman = Some(std::thread::spawn(move || {
                let mut round = Round::default();
                let done = postman::bring(door, a_second, &users, mood, number, &mut round, &stop);
                note(&failures, "the postman", done);
                round
            }));
        }
        Ok(crowd)
    }

    /// Fails if anybody has been failed so far.
    pub fn nobody_failed(&self) -> Result<()> {
        none_of(&self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends all home and takes down what they tell.
    pub fn disperse(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let mut account = Account::default();
        for (user, thread) in self.people {
            match thread.join() {
                Ok(day) => {
                    account.writes.join(day.writes);
                    account.reads.join(day.reads);
                    account.ledgers.entry(user).or_default().join(day.ledger);
                }
                Err(_) => note(&self.failures, &user, Err(anyhow!("panicked"))),
            }
        }
        match self.postman.map(JoinHandle::join) {
            Some(Ok(round)) => {
                (account.delivered, account.deferred) = (round.delivered, round.deferred);
                for (user, ledger) in round.ledgers {
                    account.ledgers.entry(user).or_default().join(ledger);
                }
            }
            Some(Err(_)) => note(&self.failures, "the postman", Err(anyhow!("panicked"))),
            None => {}
        }
        account.failures = std::mem::take(&mut self.failures.lock().unwrap_or_else(PoisonError::into_inner));
        account
    }
}

fn note(failures: &Mutex<Vec<String>>, who: &str, done: Result<()>) {
    if let Err(error) = done {
        failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{who}: {error:#}"));
    }
}

fn none_of(failures: &[String]) -> Result<()> {
    let shown: Vec<&str> = failures.iter().take(5).map(String::as_str).collect();
    ensure!(failures.is_empty(), "{} failed:\n{}", failures.len(), shown.join("\n"));
    Ok(())
}

impl Account {
    /// Says that [`super::moving::fill`] has brought messages to these users.
    pub fn was_filled(&mut self, users: &[String], messages: u32) {
        for user in users {
            self.ledgers.entry(user.clone()).or_default().was_filled(messages);
        }
    }

    /// Looks into all mailboxes of all users, at one node: what was acknowledged must be there, each message once, with
    /// the UID that was told.
    pub fn verify(&mut self, at: SocketAddr) -> Result<u64> {
        let mut seen = 0;
        for (user, ledger) in &mut self.ledgers {
            seen += ledger.verify(at, user).with_context(|| format!("the mail of {user}"))?;
        }
        Ok(seen)
    }

    /// Fails if anybody was failed.
    pub fn nobody_failed(&self) -> Result<()> {
        none_of(&self.failures)
    }
}
