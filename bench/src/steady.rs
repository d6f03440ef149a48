//! Clients that go on whatever is done to them, and take down how long they waited: until a command is answered with OK
//! they send it again, in the same session if it was refused and in a new one if theirs was cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rookery_tests::imap::quote;
use rookery_tests::server::PASSWORD;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Imap, Target};

/// The pause between two commands.
const PACE: Duration = Duration::from_millis(5);
/// The pause before a client asks again that was refused, or could not connect. Who was cut off connects at once.
const AGAIN: Duration = Duration::from_millis(20);
/// A session that has refused so often in a row is left for a new one.
const REFUSALS_MAX: u32 = 50;
/// A session that is silent for so long is given up, as one that was cut off.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// What a client does all the time, with INBOX selected.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Sends these in turn.
    Commands([&'static str; 2]),
    /// Sits in IDLE; what it waits for is news.
    Idle,
}

/// What a client saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How long it took until each command was answered with OK, with all that it was sent again for.
    pub(crate) waits: Vec<Duration>,
    /// From each refusal of a command, or of what it needs, until the command was answered with OK.
    pub(crate) refused: Vec<(Instant, Instant)>,
    /// Sessions that ended otherwise than by the client's will.
    pub(crate) cuts: u32,
}

impl Seen {
    /// The longest wait, in milliseconds.
    pub(crate) fn longest_ms(&self) -> f64 {
        self.waits.iter().max().copied().unwrap_or_default().as_secs_f64() * 1e3
    }
}

/// How long any of them was refused something.
pub(crate) fn refused(all: &[Seen]) -> Duration {
    let mut spans: Vec<_> = all.iter().flat_map(|seen| seen.refused.iter().copied()).collect();
    spans.sort_unstable();
    let (mut sum, mut counted) = (Duration::ZERO, None);
    for (from, to) in spans {
        let from = counted.map_or(from, |counted| from.max(counted));
        sum += to.saturating_duration_since(from);
        counted = Some(to.max(from));
    }
    sum
}

/// Some clients of one user at work.
pub(crate) struct Clients {
    stop: watch::Sender<bool>,
    /// How often each has succeeded.
    well: Vec<Arc<AtomicU64>>,
    tasks: Vec<JoinHandle<Seen>>,
}

impl Clients {
    /// Sets one to each of these works when all are logged in.
    pub(crate) async fn begin(target: &Target, user: &str, works: &[Work]) -> Result<Clients> {
        let mut clients = Vec::new();
        for work in works {
            let mut client = Client {
                target: target.clone(),
                user: user.to_owned(),
                work: *work,
                session: None,
                seen: Seen::default(),
            };
            ensure!(client.is_ready().await?, "{user} is refused at first");
            clients.push(client);
        }
        let (stop, stopped) = watch::channel(false);
        let mut begun = Clients { stop, well: Vec::new(), tasks: Vec::new() };
        for client in clients {
            let well = Arc::new(AtomicU64::new(0));
            begun.tasks.push(tokio::spawn(client.go_on(stopped.clone(), well.clone())));
            begun.well.push(well);
        }
        Ok(begun)
    }

    /// Waits until all have succeeded with something that they began after now; false if that takes longer.
    pub(crate) async fn are_well(&self, within: Duration) -> bool {
        let begun = Instant::now();
        let counts = || self.well.iter().map(|well| well.load(Ordering::Relaxed));
        // The first success may be of something begun before.
        let wanted: Vec<u64> = counts().map(|count| count + 2).collect();
        while !counts().zip(&wanted).all(|(count, wanted)| count >= *wanted) {
            if begun.elapsed() > within {
                return false;
            }
            tokio::time::sleep(PACE).await;
        }
        true
    }

    /// Sends them home; what each saw, in the order of their works.
    pub(crate) async fn end(self) -> Result<Vec<Seen>> {
        self.stop.send(true).context("no client is left")?;
        let mut all = Vec::new();
        for task in self.tasks {
            all.push(task.await.context("a client panicked")?);
        }
        Ok(all)
    }
}

struct Session {
    imap: Imap,
    /// INBOX is selected, and IDLE begun if that is the work.
    selected: bool,
    /// In a row.
    refusals: u32,
}

enum Outcome {
    Well,
    Refused,
    Cut,
    /// No session could be begun.
    Away,
}

struct Client {
    target: Target,
    user: String,
    work: Work,
    session: Option<Session>,
    seen: Seen,
}

impl Client {
    async fn go_on(mut self, mut stopped: watch::Receiver<bool>, well: Arc<AtomicU64>) -> Seen {
        let mut turn = 0;
        loop {
            let begun = Instant::now();
            let mut refused_since = None;
            let done = tokio::select! {
                _ = stopped.changed() => false,
                () = self.succeed(turn, &mut refused_since) => true,
            };
            // What somebody still waits for at the end counts, too.
            let now = Instant::now();
            self.seen.waits.push(now.duration_since(begun));
            self.seen.refused.extend(refused_since.map(|since| (since, now)));
            if !done {
                return self.seen;
            }
            well.fetch_add(1, Ordering::Relaxed);
            turn += 1;
            if let Work::Commands(_) = self.work {
                tokio::time::sleep(PACE).await;
            }
        }
    }

    /// Does one thing, however often that has to be tried.
    async fn succeed(&mut self, turn: usize, refused_since: &mut Option<Instant>) {
        loop {
            match self.attempt(turn).await {
                Outcome::Well => return,
                Outcome::Refused => {
                    refused_since.get_or_insert_with(Instant::now);
                    tokio::time::sleep(AGAIN).await;
                }
                Outcome::Cut => {}
                Outcome::Away => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    async fn attempt(&mut self, turn: usize) -> Outcome {
        let had = self.session.is_some();
        match tokio::time::timeout(SILENCE_MAX, self.tried(turn)).await {
            Ok(Ok(true)) => Outcome::Well,
            Ok(Ok(false)) => {
                if let Some(session) = &mut self.session {
                    (session.selected, session.refusals) = (false, session.refusals + 1);
                }
                self.session.take_if(|session| session.refusals >= REFUSALS_MAX);
                Outcome::Refused
            }
            Ok(Err(_)) | Err(_) => {
                self.session = None;
                self.seen.cuts += u32::from(had);
                if had { Outcome::Cut } else { Outcome::Away }
            }
        }
    }

    /// False if anything was refused.
    async fn tried(&mut self, turn: usize) -> Result<bool> {
        if !self.is_ready().await? {
            return Ok(false);
        }
        let session = self.session.as_mut().context("there is no session")?;
        let well = match self.work {
            Work::Commands(commands) => session.imap.answered(commands[turn % 2]).await?.is_ok(),
            Work::Idle => session.imap.news().await.map(|()| true)?,
        };
        if well {
            session.refusals = 0;
        }
        Ok(well)
    }

    /// Makes sure of a session with INBOX selected; false if that was refused.
    async fn is_ready(&mut self) -> Result<bool> {
        let session = match &mut self.session {
            Some(session) => session,
            none => {
                let mut imap = Imap::connect(&self.target).await?;
                let login = format!("LOGIN {} {}", quote(&self.user), quote(PASSWORD));
                if imap.answered(&login).await?.is_err() {
                    return Ok(false);
                }
                none.insert(Session { imap, selected: false, refusals: 0 })
            }
        };
        if !session.selected {
            if session.imap.answered("SELECT INBOX").await?.is_err() {
                return Ok(false);
            }
            if let Work::Idle = self.work {
                session.imap.idle().await?;
            }
            session.selected = true;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// Says OK to everything, except: the second command with INBOX selected is refused, and the fourth ends the session.
    async fn moody(listener: TcpListener) -> Result<()> {
        let mut number = 0;
        loop {
            let mut stream = BufReader::new(listener.accept().await?.0);
            stream.write_all(b"* OK hello\r\n").await?;
            let mut line = String::new();
            while stream.read_line(&mut line).await? > 0 {
                let (tag, command) = line.trim_end().split_once(' ').context("no tag")?;
                number += u32::from(command == "NOOP");
                let answer = match (command, number) {
                    ("NOOP", 2) => format!("{tag} NO not now\r\n"),
                    ("NOOP", 4) => "* BYE\r\n".to_owned(),
                    _ => format!("{tag} OK done\r\n"),
                };
                stream.write_all(answer.as_bytes()).await?;
                if (command, number) == ("NOOP", 4) {
                    number += 1;
                    break;
                }
                line.clear();
            }
        }
    }

    #[tokio::test]
    async fn refusals_and_cuts_are_counted_and_what_was_wanted_is_done_in_the_end() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let target = Target::plain(listener.local_addr()?);
        let server = tokio::spawn(moody(listener));
        let clients = Clients::begin(&target, "joe", &[Work::Commands(["NOOP"; 2])]).await?;
        for _ in 0..3 {
            assert!(clients.are_well(Duration::from_secs(30)).await);
        }
        let all = clients.end().await?;
        server.abort();
        let [seen] = &all[..] else { anyhow::bail!("{all:?}") };
        assert_eq!((seen.cuts, seen.refused.len()), (1, 1));
        assert!(refused(&all) >= AGAIN);
        // The wait for what was refused has the pause in it.
        assert!(seen.longest_ms() >= AGAIN.as_secs_f64() * 1e3);
        assert!(seen.waits.len() >= 6);
        Ok(())
    }

    #[test]
    fn times_of_refusals_that_overlap_count_once() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let seen = |spans: &[(u64, u64)]| Seen {
            refused: spans.iter().map(|(from, to)| (at(*from), at(*to))).collect(),
            ..Seen::default()
        };
        let all = [seen(&[(10, 50), (90, 100)]), seen(&[(20, 30), (40, 70)])];
        assert_eq!(refused(&all), Duration::from_millis(70));
        assert_eq!(refused(&[Seen::default()]), Duration::ZERO);
    }
}
