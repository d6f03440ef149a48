//! People at their mail programs while something happens to the servers. A command that is not answered with OK within
//! two seconds, or a connection that ends, fails them, unless they are [`Mood::Patient`]. Nobody does anything twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::imap::{Imap, Reply};
use crate::lmtp::Lmtp;
use crate::server::PASSWORD;

/// Somebody patient may find nothing working for so long.
const AWAY_MAX: Duration = Duration::from_secs(40);
/// A command may take so long.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Where those who file put messages.
const FILED: &str = "Filed";
/// Where those who file copy messages.
const COPIES: &str = "Copies";
/// Where those who write put messages.
const DRAFTS: &str = "Drafts";

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
    /// They go home and complain.
    Strict,
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

/// Commands of a kind, by how long they took.
#[derive(Debug, Default, Clone)]
pub struct Times {
    all_us: Vec<u32>,
}

impl Times {
    /// One more.
    pub fn add(&mut self, took: Duration) {
        self.all_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    fn join(&mut self, other: Times) {
        self.all_us.extend(other.all_us);
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.all_us.len()
    }

    /// The time below which that share of them stays, from 0 to 1.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.all_us.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        Duration::from_micros(sorted.get(at).copied().unwrap_or(0).into())
    }

    /// In words.
    pub fn text(&self) -> String {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.quantile(share).as_secs_f64() * 1e3);
        format!("{} commands, p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms", self.count())
    }
}

/// What somebody has done and was told.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Commands that change something.
    pub writes: Times,
    /// Those that do not.
    pub reads: Times,
    /// By subject: where a message must be, with its UID if that was told.
    pub messages: BTreeMap<String, Vec<(&'static str, Option<u32>)>>,
    /// The subjects of messages for which a command was not answered.
    pub open: BTreeSet<String>,
    /// That of the message that a command is under way for.
    at_work: Option<String>,
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
}

/// Somebody at work: what they have done, and whether they were failed.
type Day<T> = JoinHandle<(T, Result<()>)>;

/// All of them, at work.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    people: Vec<(String, Day<Ledger>)>,
    postman: Option<Day<BTreeMap<String, Vec<String>>>>,
    failed: Arc<AtomicU64>,
}

impl Crowd {
    /// Sets people to work, and a postman who brings `a_second` messages to them in turn by LMTP to `door`. Returns when
    /// all are logged in.
    pub fn gather(people: Vec<Person>, mood: Mood, door: Option<(SocketAddr, u32)>) -> Result<Crowd> {
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let users: Vec<String> = people.iter().map(|person| person.user.clone()).collect();
        let mut crowd = Crowd { stop, people: Vec::new(), postman: None, failed };
        for person in people {
            let client = enter(&person).with_context(|| format!("{} at {}", person.user, person.at))?;
            let (stop, failed, user) = (crowd.stop.clone(), crowd.failed.clone(), person.user.clone());
            let thread = std::thread::spawn(move || {
                let mut ledger = Ledger::default();
                let done = match mood {
                    Mood::Strict => day(&person, client, &mut ledger, &mut 0, &stop),
                    Mood::Patient => many_days(&person, client, &mut ledger, &stop),
                };
                if done.is_err() {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                (ledger, done)
            });
            crowd.people.push((user, thread));
        }
        if let Some((door, a_second)) = door {
            let (stop, failed) = (crowd.stop.clone(), crowd.failed.clone());
            crowd.postman = Some(std::thread::spawn(move || {
                let mut brought = BTreeMap::new();
                let done = round(door, a_second, &users, mood, &mut brought, &stop);
                if done.is_err() {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                (brought, done)
            }));
        }
        Ok(crowd)
    }

    /// How many have been failed so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Sends all home and takes down what they tell.
    pub fn disperse(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let mut account = Account::default();
        for (user, thread) in self.people {
            match thread.join() {
                Ok((ledger, done)) => {
                    if let Err(error) = done {
                        account.failures.push(format!("{user}: {error:#}"));
                    }
                    account.writes.join(ledger.writes.clone());
                    account.reads.join(ledger.reads.clone());
                    let all = account.ledgers.entry(user).or_default();
                    for (subject, places) in ledger.messages {
                        all.messages.entry(subject).or_default().extend(places);
                    }
                    all.open.extend(ledger.open);
                }
                Err(_) => account.failures.push(format!("{user}: panicked")),
            }
        }
        if let Some(postman) = self.postman {
            match postman.join() {
                Ok((brought, done)) => {
                    if let Err(error) = done {
                        account.failures.push(format!("the postman: {error:#}"));
                    }
                    for (user, subjects) in brought {
                        account.delivered += subjects.len() as u64;
                        let ledger = account.ledgers.entry(user).or_default();
                        for subject in subjects {
                            ledger.messages.entry(subject).or_default().push(("somewhere", None));
                        }
                    }
                }
                Err(_) => account.failures.push("the postman panicked".to_owned()),
            }
        }
        account
    }
}

impl Account {
    /// Looks into all mailboxes of all users, at one node: what was acknowledged must be there, each message once, with
    /// the UID that was told.
    pub fn verify(&self, at: SocketAddr) -> Result<u64> {
        let mut seen = 0;
        for (user, ledger) in &self.ledgers {
            seen += verify_one(at, user, ledger).with_context(|| format!("the mail of {user}"))?;
        }
        Ok(seen)
    }

    /// Fails if anybody was failed.
    pub fn nobody_failed(&self) -> Result<()> {
        let shown: Vec<&str> = self.failures.iter().take(5).map(String::as_str).collect();
        ensure!(self.failures.is_empty(), "{} failed:\n{}", self.failures.len(), shown.join("\n"));
        Ok(())
    }
}

fn verify_one(at: SocketAddr, user: &str, ledger: &Ledger) -> Result<u64> {
    let mut client = Imap::login(at, user, PASSWORD)?;
    let mut found: BTreeMap<String, Vec<(&'static str, u32)>> = BTreeMap::new();
    for mailbox in ["INBOX", DRAFTS, FILED, COPIES] {
        if client.command(&format!("EXAMINE {mailbox}"))?.status != crate::imap::Status::Ok {
            continue;
        }
        let mut last = 0;
        for fetch in client.ok("UID FETCH 1:* BODY.PEEK[HEADER.FIELDS (SUBJECT)]")?.fetches()? {
            let header = String::from_utf8_lossy(fetch.body("BODY[HEADER.FIELDS (SUBJECT)]")?).into_owned();
            let uid = fetch.uid()?;
            ensure!(uid > last, "UID {uid} stands behind {last} in {mailbox}");
            last = uid;
            let subject = header.trim().trim_start_matches("Subject: ").to_owned();
            found.entry(subject).or_default().push((mailbox, uid));
        }
    }
    for (subject, must) in &ledger.messages {
        let is = found.get(subject).map(Vec::as_slice).unwrap_or_default();
        if ledger.open.contains(subject) {
            ensure!(!is.is_empty(), "{subject:?} is nowhere");
            continue;
        }
        // Where a delivered message is when nobody has filed it, nobody has to say.
        let told: Vec<&(&str, Option<u32>)> =
            must.iter().filter(|(place, _)| *place != "somewhere").collect();
        let expected = told.len().max(1);
        ensure!(is.len() == expected, "{subject:?} is at {is:?}, and should be at {must:?}");
        for (place, uid) in told {
            ensure!(
                is.iter().any(|(mailbox, at)| mailbox == place && uid.is_none_or(|uid| uid == *at)),
                "{subject:?} is at {is:?}, and should be at {must:?}"
            );
        }
    }
    for (subject, places) in &found {
        let mut mailboxes: Vec<&str> = places.iter().map(|(mailbox, _)| *mailbox).collect();
        mailboxes.dedup();
        ensure!(mailboxes.len() == places.len() && places.len() <= 2, "{subject:?} is at {places:?}");
    }
    Ok(found.values().map(|places| places.len() as u64).sum())
}

/// Logs in, and makes what is needed.
fn enter(person: &Person) -> Result<Imap> {
    let mut client = Imap::login(person.at, &person.user, PASSWORD)?;
    let needed: &[&str] = match person.habit {
        Habit::Writes => &[DRAFTS],
        Habit::Files => &[FILED, COPIES],
        _ => &[],
    };
    for mailbox in needed {
        client.command(&format!("CREATE {mailbox}"))?;
    }
    client.ok("SELECT INBOX")?;
    client.set_silence_max(PATIENCE)?;
    Ok(client)
}

/// One command that must be answered with OK, in time.
fn timed(times: &mut Times, work: impl FnOnce() -> Result<Reply>) -> Result<Reply> {
    let began = Instant::now();
    let reply = work()?;
    let took = began.elapsed();
    times.add(took);
    ensure!(took < PATIENCE, "a command took {took:?}");
    Ok(reply)
}

/// Goes on with a new connection when one has failed, until it is time.
fn many_days(person: &Person, client: Imap, ledger: &mut Ledger, stop: &AtomicBool) -> Result<()> {
    let (mut client, mut number, mut done) = (Some(client), 0, 0);
    let mut since = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let entered = client.take().map_or_else(|| enter(person), Ok);
        match entered.and_then(|client| day(person, client, ledger, &mut number, stop)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                ledger.open.extend(ledger.at_work.take());
                if number > done {
                    (done, since) = (number, Instant::now());
                }
                ensure!(since.elapsed() < AWAY_MAX, "served no more: {error:#}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    Ok(())
}

fn day(
    person: &Person,
    mut client: Imap,
    ledger: &mut Ledger,
    number: &mut u64,
    stop: &AtomicBool,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        *number += 1;
        let number = *number;
        ledger.at_work = None;
        match person.habit {
            Habit::Reads => reads(&mut client, ledger, number)?,
            Habit::Writes => writes(&mut client, ledger, &person.user, number)?,
            Habit::Idles => idles(&mut client, ledger)?,
            Habit::Files => files(&mut client, ledger, &person.user, number)?,
            Habit::Looks => looks(&mut client, ledger)?,
            Habit::Flags => {
                let sign = if number.is_multiple_of(2) { '-' } else { '+' };
                let store = format!("STORE 1 {sign}FLAGS (\\Flagged)");
                timed(&mut ledger.writes, || client.ok(&store)).map(drop)?;
            }
            Habit::Asks => {
                let ask = if number.is_multiple_of(2) { "NOOP" } else { "FETCH * FLAGS" };
                timed(&mut ledger.reads, || client.ok(ask)).map(drop)?;
            }
        }
        std::thread::sleep(person.pace);
    }
    let bye = client.ok("LOGOUT");
    bye.map(drop)
}

fn reads(client: &mut Imap, ledger: &mut Ledger, number: u64) -> Result<()> {
    timed(&mut ledger.reads, || client.ok("NOOP"))?;
    let what = ["UID FETCH * (FLAGS BODY.PEEK[HEADER])", "UID SEARCH UNSEEN", "FETCH 1:* (UID FLAGS)"];
    let what = what[usize::try_from(number)? % what.len()];
    timed(&mut ledger.reads, || client.ok(what))?;
    Ok(())
}

fn letter(user: &str, number: u64) -> (String, String) {
    let subject = format!("{user} writes {number}");
    let text = format!("From: {user}@example.org\r\nSubject: {subject}\r\n\r\nThe text of it.\r\n");
    (subject, text)
}

/// The two numbers of APPENDUID.
fn appended(reply: &Reply) -> Result<u32> {
    let code = reply.code("APPENDUID").with_context(|| format!("no APPENDUID in {:?}", reply.text))?;
    Ok(code.split_once(' ').context("APPENDUID of one number")?.1.parse()?)
}

fn writes(client: &mut Imap, ledger: &mut Ledger, user: &str, number: u64) -> Result<()> {
    let (subject, text) = letter(user, number);
    ledger.at_work = Some(subject.clone());
    let reply = timed(&mut ledger.writes, || client.append(DRAFTS, "(\\Draft)", text.as_bytes()))?;
    ensure!(reply.status == crate::imap::Status::Ok, "APPEND was answered {}", reply.text);
    ledger.messages.insert(subject, vec![(DRAFTS, Some(appended(&reply)?))]);
    ledger.at_work = None;
    timed(&mut ledger.writes, || client.ok("UID STORE * +FLAGS (\\Flagged)"))?;
    Ok(())
}

fn idles(client: &mut Imap, ledger: &mut Ledger) -> Result<()> {
    let tag = client.idle()?;
    std::thread::sleep(Duration::from_millis(300));
    timed(&mut ledger.reads, || client.done(&tag))?;
    Ok(())
}

fn files(client: &mut Imap, ledger: &mut Ledger, user: &str, number: u64) -> Result<()> {
    let (subject, text) = letter(user, number);
    ledger.at_work = Some(subject.clone());
    let reply = timed(&mut ledger.writes, || client.append("INBOX", "", text.as_bytes()))?;
    ensure!(reply.status == crate::imap::Status::Ok, "APPEND was answered {}", reply.text);
    let uid = appended(&reply)?;
    ledger.messages.insert(subject.clone(), vec![("INBOX", Some(uid))]);
    let copied = timed(&mut ledger.writes, || client.ok(&format!("UID COPY {uid} {COPIES}")))?;
    let copy = new_uid(&copied)?;
    ledger.messages.insert(subject.clone(), vec![("INBOX", Some(uid)), (COPIES, Some(copy))]);
    let moved = timed(&mut ledger.writes, || client.ok(&format!("UID MOVE {uid} {FILED}")))?;
    ledger.messages.insert(subject, vec![(FILED, Some(new_uid(&moved)?)), (COPIES, Some(copy))]);
    Ok(())
}

/// The new UID in COPYUID, which MOVE tells untagged.
fn new_uid(reply: &Reply) -> Result<u32> {
    let code = reply.code("COPYUID").with_context(|| format!("no COPYUID: {:?}", reply.lines()))?;
    match code.split(' ').collect::<Vec<_>>()[..] {
        [_, _, new] => Ok(new.parse()?),
        _ => bail!("COPYUID is {code}"),
    }
}

fn looks(client: &mut Imap, ledger: &mut Ledger) -> Result<()> {
    let listed = timed(&mut ledger.reads, || client.ok("LIST \"\" *"))?;
    ensure!(listed.lines().iter().any(|line| line.contains("INBOX")), "LIST shows {:?}", listed.lines());
    timed(&mut ledger.reads, || client.ok("STATUS INBOX (MESSAGES UIDNEXT UNSEEN)"))?;
    timed(&mut ledger.reads, || client.ok("GETQUOTAROOT INBOX"))?;
    Ok(())
}

/// Brings letters, each in a transaction over one connection. A patient postman brings a letter again that was not
/// taken, or of which nobody said so.
fn round(
    door: SocketAddr,
    a_second: u32,
    users: &[String],
    mood: Mood,
    brought: &mut BTreeMap<String, Vec<String>>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut lmtp = Some(Lmtp::connect(door)?);
    let pause = Duration::from_secs(1) / a_second.max(1);
    let (mut number, mut since) = (0_usize, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let user = users.get(number % users.len()).context("nobody to write to")?;
        let subject = format!("letter {number}");
        let text = format!("Message-ID: <{number}@crowd>\r\nSubject: {subject}\r\n\r\nThe text of it.\r\n");
        let connected = lmtp.take().map_or_else(|| Lmtp::connect(door), Ok);
        let answered = connected.and_then(|mut connected| {
            let answers = connected.deliver("sender@example.net", &[user], text.as_bytes())?;
            lmtp = Some(connected);
            ensure!(answers.iter().all(|answer| answer.code == 250), "{subject} was answered {answers:?}");
            Ok(())
        });
        match (answered, mood) {
            (Ok(()), _) => {
                brought.entry(user.clone()).or_default().push(subject);
                (number, since) = (number + 1, Instant::now());
            }
            (Err(error), Mood::Patient) => {
                ensure!(since.elapsed() < AWAY_MAX, "mail is taken no more: {error:#}");
                lmtp = None;
            }
            (Err(error), Mood::Strict) => return Err(error),
        }
        std::thread::sleep(pause);
    }
    Ok(())
}
