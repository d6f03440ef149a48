//! Loads on one server: deliveries, logins, mixed commands, POP3 sessions. Each is bounded and checks every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rookery_tests::process;
use tokio::task::JoinSet;

use crate::client::{Imap, Lmtp, Pop3, Target};

/// Who logs in, or gets mail.
#[derive(Debug, Clone)]
pub struct Users {
    /// A name in which `{}` stands for a number from 1.
    pub pattern: String,
    /// How many there are.
    pub count: usize,
    /// Everybody's password.
    pub password: String,
}

impl Users {
    /// The name of the user with this number from 0; beyond the last it begins again.
    pub fn name(&self, number: usize) -> String {
        self.pattern.replace("{}", &(1 + number % self.count.max(1)).to_string())
    }
}

/// When a load ends: at the first of these.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Operations begun.
    pub count: u64,
    /// Time since the beginning; what was begun is finished.
    pub time: Duration,
}

impl Bound {
    /// By time alone.
    pub fn time(time: Duration) -> Bound {
        Bound { count: u64::MAX, time }
    }

    /// By count, within ten minutes.
    pub fn count(count: u64) -> Bound {
        Bound { count, time: Duration::from_secs(600) }
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    /// Operations that were answered well.
    pub count: u64,
    /// From the beginning to the last answer.
    pub wall: Duration,
    /// What each operation took, in order of length.
    pub latencies: Vec<Duration>,
    /// Octets sent or received in messages.
    pub octets: u64,
}

impl Done {
    /// Operations a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.wall.as_secs_f64()
    }

    /// The latency that so many of 100 stay below, in milliseconds.
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// Who may begin another operation.
struct Turns {
    begun: Instant,
    bound: Bound,
    given: AtomicU64,
}

impl Turns {
    /// The next operation's number from 0; none when the load is at its end.
    fn next(&self) -> Option<u64> {
        if self.begun.elapsed() >= self.bound.time {
            return None;
        }
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        (number < self.bound.count).then_some(number)
    }
}

/// Runs one task for each worker until the bound and gathers what they did.
async fn workers<F, W>(count: usize, bound: Bound, work: W) -> Result<Done>
where
    F: Future<Output = Result<Done>> + Send + 'static,
    W: Fn(usize, Turn) -> F,
{
    let turns = Arc::new(Turns { begun: Instant::now(), bound, given: AtomicU64::new(0) });
    let mut set = JoinSet::new();
    for worker in 0..count {
        set.spawn(work(worker, Turn(turns.clone())));
    }
    let mut all = Done::default();
    while let Some(done) = set.join_next().await {
        let done = done.context("a client panicked")??;
        all.count += done.count;
        all.octets += done.octets;
        all.latencies.extend(done.latencies);
    }
    all.wall = turns.begun.elapsed();
    all.latencies.sort_unstable();
    Ok(all)
}

/// A worker's share of the turns.
#[derive(Clone)]
struct Turn(Arc<Turns>);

/// Lines that fill messages up to their size.
fn filler(octets: usize) -> Vec<u8> {
    let line = b"a line of text that fills the message up to its size, as lines do\r\n";
    line.iter().copied().cycle().take(octets.next_multiple_of(line.len())).collect()
}

/// A message of about this size, unlike any other, with the final dot of DATA; no line of it begins with a dot.
pub fn message(number: u64, octets: usize, filler: &[u8]) -> Vec<u8> {
    let mut text = format!(
        "From: Load {number} <load@example.net>\r\nTo: u@example.org\r\nSubject: load {number}\r\n\
         Message-ID: <{number}.{}@load.example.net>\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n",
        process::monotonic_ns()
    )
    .into_bytes();
    let fill = octets.saturating_sub(text.len()).min(filler.len());
    text.extend_from_slice(&filler[..fill]);
    if !text.ends_with(b"\r\n") {
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b".\r\n");
    text
}

/// Delivers messages of this size over LMTP, one recipient each, the users in turn.
pub async fn deliver(
    target: &Target,
    users: &Users,
    connections: usize,
    octets: usize,
    bound: Bound,
) -> Result<Done> {
    let filler = Arc::new(filler(octets));
    workers(connections, bound, |_, turn| {
        let (target, users, filler) = (target.clone(), users.clone(), filler.clone());
        async move {
            let mut client = Lmtp::connect(&target).await?;
            let mut done = Done::default();
            while let Some(number) = turn.0.next() {
                let to = [users.name(usize::try_from(number).unwrap_or(0))];
                let text = message(number, octets, &filler);
                let begun = Instant::now();
                client.deliver(&to, &text).await?;
                done.latencies.push(begun.elapsed());
                done.count += 1;
                done.octets += text.len() as u64;
            }
            Ok(done)
        }
    })
    .await
}

/// Delivers each of these, already as DATA wants them, to all recipients; those that are refused are counted and left.
pub async fn deliver_all(
    target: &Target,
    recipients: Vec<String>,
    connections: usize,
    messages: Arc<Vec<Vec<u8>>>,
) -> Result<(Done, u64)> {
    let refused = Arc::new(AtomicU64::new(0));
    let bound = Bound::count(messages.len() as u64);
    let done = workers(connections, bound, |_, turn| {
        let (target, messages, refused) = (target.clone(), messages.clone(), refused.clone());
        let recipients = recipients.clone();
        async move {
            let mut client = Lmtp::connect(&target).await?;
            let mut done = Done::default();
            while let Some(number) = turn.0.next() {
                let Some(text) = messages.get(usize::try_from(number)?) else { break };
                if client.deliver(&recipients, text).await.is_ok() {
                    done.count += 1;
                    done.octets += text.len() as u64;
                } else {
                    refused.fetch_add(1, Ordering::Relaxed);
                    client = Lmtp::connect(&target).await?;
                }
            }
            Ok(done)
        }
    })
    .await?;
    Ok((done, refused.load(Ordering::Relaxed)))
}

/// Logs in, selects INBOX and logs out, on a new connection each time.
pub async fn logins(target: &Target, users: &Users, workers_count: usize, bound: Bound) -> Result<Done> {
    workers(workers_count, bound, |_, turn| {
        let (target, users) = (target.clone(), users.clone());
        async move {
            let mut done = Done::default();
            while let Some(number) = turn.0.next() {
                let user = users.name(usize::try_from(number).unwrap_or(0));
                let begun = Instant::now();
                let mut client = Imap::login(&target, &user, &users.password).await?;
                client.ok("SELECT INBOX").await?;
                client.ok("LOGOUT").await?;
                done.latencies.push(begun.elapsed());
                done.count += 1;
            }
            Ok(done)
        }
    })
    .await
}

/// The mailbox that [`mixed`] copies into.
pub const COPIES: &str = "Copies";

/// Sessions of many commands, each client with a user of its own: login, list, status, select, fetch, store, append,
/// search, copy, expunge, logout. What is counted is commands. INBOX needs ten messages and keeps its number; a mailbox
/// [`COPIES`] has to be there.
pub async fn mixed(target: &Target, users: &Users, clients: usize, bound: Bound) -> Result<Done> {
    let filler = Arc::new(filler(4096));
    workers(clients, bound, |worker, turn| {
        let (target, users, filler) = (target.clone(), users.clone(), filler.clone());
        async move {
            let user = users.name(worker);
            let mut done = Done::default();
            while let Some(number) = turn.0.next() {
                let begun = Instant::now();
                let mut text = message(number, 4096, &filler);
                text.truncate(text.len() - 3);
                let mut client = Imap::login(&target, &user, &users.password).await?;
                client.ok("LIST \"\" \"*\"").await?;
                client.ok("STATUS INBOX (MESSAGES UNSEEN UIDNEXT)").await?;
                client.ok("SELECT INBOX").await?;
                let fetched = client.ok("FETCH 1:10 (UID FLAGS RFC822.SIZE ENVELOPE)").await?;
                ensure!(fetched.fetches == 10, "{} FETCH responses for 10 messages", fetched.fetches);
                client.ok(&format!("FETCH {} (BODYSTRUCTURE)", 1 + number % 10)).await?;
                client.ok(&format!("FETCH {} (BODY.PEEK[])", 1 + number % 10)).await?;
                client.ok(&format!("STORE {} +FLAGS (\\Seen)", 1 + number % 10)).await?;
                client.append("INBOX", &text).await?;
                client.ok("SEARCH UNSEEN").await?;
                client.ok("SEARCH FROM \"load\" SINCE 1-Nov-2026").await?;
                client.ok(&format!("COPY 2 {COPIES}")).await?;
                client.ok("STORE 1 +FLAGS (\\Deleted)").await?;
                client.ok("EXPUNGE").await?;
                client.ok("LOGOUT").await?;
                done.count += 15;
                done.latencies.push(begun.elapsed());
            }
            Ok(done)
        }
    })
    .await
}

/// Fetches all of INBOX again and again, each connection as a user in turn.
pub async fn fetch_all(
    target: &Target,
    users: &Users,
    connections: usize,
    items: &str,
    bound: Bound,
) -> Result<Done> {
    workers(connections, bound, |worker, turn| {
        let (target, users, items) = (target.clone(), users.clone(), items.to_owned());
        async move {
            let mut client = Imap::login(&target, &users.name(worker), &users.password).await?;
            client.ok("SELECT INBOX").await?;
            let mut done = Done::default();
            while turn.0.next().is_some() {
                let begun = Instant::now();
                let brought = client.ok(&format!("UID FETCH 1:* ({items})")).await?;
                done.latencies.push(begun.elapsed());
                done.count += brought.fetches as u64;
                done.octets += brought.literal_octets;
            }
            Ok(done)
        }
    })
    .await
}

/// Commands of an administrator, each made from its number; all connections are logged in before the first.
pub async fn administer(
    target: &Target,
    admin: &Users,
    connections: usize,
    bound: Bound,
    command: impl Fn(u64) -> String + Clone + Send + 'static,
) -> Result<Done> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Imap::login(target, &admin.name(0), &admin.password).await?);
    }
    let clients = std::sync::Mutex::new(clients);
    workers(connections, bound, |_, turn| {
        let client = clients.lock().ok().and_then(|mut clients| clients.pop());
        let command = command.clone();
        async move {
            let mut client = client.context("no connection for this worker")?;
            let mut done = Done::default();
            while let Some(number) = turn.0.next() {
                let begun = Instant::now();
                client.ok(&command(number)).await?;
                done.latencies.push(begun.elapsed());
                done.count += 1;
            }
            Ok(done)
        }
    })
    .await
}

/// POP3 sessions: login, STAT, UIDL, RETR of up to ten messages, QUIT.
pub async fn pop3(target: &Target, users: &Users, clients: usize, bound: Bound) -> Result<Done> {
    workers(clients, bound, |worker, turn| {
        let (target, users) = (target.clone(), users.clone());
        async move {
            let mut done = Done::default();
            while turn.0.next().is_some() {
                let begun = Instant::now();
                let mut client = Pop3::login(&target, &users.name(worker), &users.password).await?;
                let stat = client.ok("STAT").await?;
                let messages: u64 = stat.split(' ').nth(1).unwrap_or_default().parse()?;
                client.multi("UIDL").await?;
                for number in 1..=messages.min(10) {
                    done.octets += client.multi(&format!("RETR {number}")).await?;
                }
                client.ok("QUIT").await?;
                done.latencies.push(begun.elapsed());
                done.count += 1;
            }
            Ok(done)
        }
    })
    .await
}
