//! Connections that come and go, many a second: what each leaves behind in the server's memory adds up.
//!
//! Invariants:
//! - The mix is the same in every run: the kind of a connection, and where it comes from, follow from its number.
//! - No more than [`OPEN_MAX`] are open at once; each ends by itself or by the server's login timeout.
//! - An answer that is not the expected one fails the run.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::process;
use rookery_tests::server::{PASSWORD, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::client::{Imap, SILENCE_MAX, Target};

/// Connections of the load at the same time.
const OPEN_MAX: usize = 2_000;
/// Users who log in.
const USERS: usize = 20;
/// Messages in each INBOX.
const MESSAGES: usize = 20;
/// How long a client that says no more keeps its connection.
const HELD: Duration = Duration::from_secs(3);
/// The server's login timeout in this run: it ends the connections of those who wait for it.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// One of so many connections brings a wrong password, which costs a hash.
const WRONG_PASSWORD_EACH: u64 = 500;
/// Readings of the memory whose least is a sample: a password that is hashed takes 19 MiB for an instant.
const READINGS: u32 = 5;
/// Samples whose least stands for the memory at a moment.
const SAMPLES: usize = 6;
/// The beginning of a TLS handshake: a record of 512 octets that never come.
const HALF_HANDSHAKE: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// What is run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Connections a second.
    pub a_second: u32,
    /// How long.
    pub time: Duration,
    /// How long until the memory is taken that the end is compared with: caches are full by then.
    pub warm: Duration,
    /// Time between samples.
    pub sample_every: Duration,
    /// Growth between the two moments that fails the run, in percent.
    pub growth_max_percent: f64,
}

/// The server at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Since the load began.
    pub at: Duration,
    /// Its proportional set size, in octets.
    pub pss: u64,
    /// Connections begun so far.
    pub begun: u64,
}

/// How a run went.
#[derive(Debug)]
pub struct Summary {
    /// Connections begun.
    pub begun: u64,
    /// The memory when it was warm, in octets.
    pub warm: u64,
    /// The memory at the end, in octets.
    pub end: u64,
}

impl Summary {
    /// How much more the end is, in percent; negative if it is less.
    pub fn growth_percent(&self) -> f64 {
        (self.end as f64 / self.warm as f64 - 1.0) * 100.0
    }
}

/// What one connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// LOGIN, SELECT, LOGOUT.
    Session { tls: bool },
    /// LOGIN with a password that is wrong.
    WrongPassword,
    /// A TLS handshake and the greeting; then it is gone without a word.
    Handshake,
    /// The greeting; then it is gone.
    Greeting,
    /// Gone at once.
    Drop,
    /// The greeting of another protocol; then it is gone.
    Elsewhere,
    /// Silence, half a command or half a handshake, for a while; then it is gone.
    Half(Half),
    /// Silence until the server ends it.
    TimedOut,
}

/// What a client stops in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Nothing,
    Command,
    Handshake,
}

impl Kind {
    fn of(number: u64) -> Kind {
        if number % WRONG_PASSWORD_EACH == WRONG_PASSWORD_EACH - 1 {
            return Kind::WrongPassword;
        }
        // 7 and 20 have no common factor: all of them come, mixed.
        match number * 7 % 20 {
            0..=3 => Kind::Session { tls: false },
            4..=5 => Kind::Session { tls: true },
            6..=8 => Kind::Handshake,
            9..=11 => Kind::Greeting,
            12..=13 => Kind::Drop,
            14 => Kind::Elsewhere,
            15..=16 => Kind::Half(Half::Nothing),
            17 => Kind::Half(Half::Command),
            18 => Kind::Half(Half::Handshake),
            _ => Kind::TimedOut,
        }
    }
}

/// Where a connection comes from: some 65,000 addresses in turn, since what is kept for each address counts, too.
fn source(number: u64) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low).into()
}

struct Places {
    imap: Target,
    imaps: Target,
    /// Without a memory for sessions, so that every handshake is a whole one.
    imaps_anew: Target,
    others: [Target; 2],
}

/// Runs the load on a server that is not started yet, and judges its memory.
pub fn soak(server: &mut Server, plan: Plan, report: impl FnMut(&str)) -> Result<Summary> {
    ensure!(
        plan.a_second > 0 && plan.warm < plan.time,
        "a load of nothing, or one that ends before it is warm"
    );
    process::raise_descriptor_limit(2 * OPEN_MAX as u64 + 100)?;
    // A file of its own: what several servers map from one file counts for each in part, so that the figure would change
    // with what else runs.
    let program = server.root().join("program");
    std::fs::copy(server.binary()?, &program)?;
    server.use_binary(program);
    let text = std::fs::read_to_string(server.config())?;
    let timeout = format!("[imap]\nlogin_timeout_s = {}\n", LOGIN_TIMEOUT.as_secs());
    std::fs::write(server.config(), text.replace("[imap]\n", &timeout))?;
    server.launch()?;
    let users: Vec<_> = (0..USERS).map(user).collect();
    server.add_users(&users)?;
    let message = b"From: a@example.net\r\nSubject: something to select\r\n\r\nand nothing to read\r\n";
    for user in &users {
        (0..MESSAGES).try_for_each(|_| server.deliver(user, message))?;
    }
    let imaps = Target::tls(server.imaps, &server.certificate.cert)?;
    let mut anew = rustls::ClientConfig::clone(imaps.tls.as_deref().context("no TLS")?);
    anew.resumption = rustls::client::Resumption::disabled();
    let places = Places {
        imap: Target::plain(server.imap),
        imaps_anew: Target { tls: Some(Arc::new(anew)), ..imaps.clone() },
        imaps,
        others: [Target::plain(server.pop3), Target::plain(server.lmtp)],
    };
    let pid = server.pid()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let samples = runtime.block_on(load(Arc::new(places), pid, plan, report))?;
    let summary = judge(&samples, plan)?;
    // Every failure of a login is logged as a warning: there must be something for those who ban guessers.
    server.allow_log("login");
    server.stop()?;
    Ok(summary)
}

fn user(number: usize) -> String {
    format!("soaker{number}")
}

/// Begins connections at their times and samples between them.
async fn load(
    places: Arc<Places>,
    pid: u32,
    plan: Plan,
    mut report: impl FnMut(&str),
) -> Result<Vec<Sample>> {
    let began = Instant::now();
    let mut beat = interval(Duration::from_secs(1) / plan.a_second);
    // Whoever is late catches up: so many a second is the point.
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sampling = interval(plan.sample_every / READINGS);
    sampling.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let room = Arc::new(Semaphore::new(OPEN_MAX));
    let done = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    let mut samples = Vec::new();
    let (mut readings, mut least) = (0, u64::MAX);
    let mut begun = 0;
    while began.elapsed() < plan.time {
        tokio::select! {
            _ = sampling.tick() => {
                let pss = process::pss(pid);
                ensure!(pss > 0, "the server is gone");
                least = least.min(pss);
                readings += 1;
                if readings % READINGS == 0 {
                    let sample = Sample { at: began.elapsed(), pss: std::mem::replace(&mut least, u64::MAX), begun };
                    report(&format!(
                        "{:>6.0} s  {:>8.2} MiB PSS  {:>8} connections begun, {:>5} open",
                        sample.at.as_secs_f64(), mib(sample.pss), begun, begun - done.load(Ordering::Relaxed),
                    ));
                    samples.push(sample);
                }
            }
            _ = beat.tick() => {
                let Ok(place) = room.clone().try_acquire_owned() else {
                    bail!("{OPEN_MAX} connections are open: the server does not keep up");
                };
                let (places, done) = (places.clone(), done.clone());
                running.spawn(async move {
                    let kind = Kind::of(begun);
                    let went = connection(&places, kind, begun).await;
                    done.fetch_add(1, Ordering::Relaxed);
                    drop(place);
                    went.with_context(|| format!("connection {begun}, {kind:?}"))
                });
                begun += 1;
            }
            Some(went) = running.join_next() => went??,
        }
    }
    while let Some(went) = running.join_next().await {
        went??;
    }
    Ok(samples)
}

/// One connection from its beginning to its end.
async fn connection(places: &Places, kind: Kind, number: u64) -> Result<()> {
    let from = source(number);
    let imap = places.imap.clone().from(from);
    let user = user(usize::try_from(number)? % USERS);
    match kind {
        Kind::Session { tls } => {
            let target = if tls { places.imaps.clone().from(from) } else { imap };
            let mut client = Imap::login(&target, &user, PASSWORD).await?;
            let lines = client.lines("SELECT INBOX").await?;
            ensure!(lines.contains(&format!("{MESSAGES} EXISTS")), "{lines:?}");
            client.ok("LOGOUT").await?;
        }
        Kind::WrongPassword => {
            let mut client = Imap::connect(&imap).await?;
            let refused = client.ok(&format!("LOGIN nobody{number} wrong")).await;
            ensure!(refused.is_err_and(|error| error.to_string().contains("AUTHENTICATIONFAILED")));
        }
        Kind::Handshake => drop(Imap::connect(&places.imaps_anew.clone().from(from)).await?),
        Kind::Greeting => drop(Imap::connect(&imap).await?),
        Kind::Drop => drop(imap.open().await?),
        Kind::Elsewhere => {
            let at = usize::try_from(number / 20)? % places.others.len();
            let mut stream = places.others[at].clone().from(from).open().await?;
            let mut greeting = [0; 256];
            ensure!(timeout(SILENCE_MAX, stream.read(&mut greeting)).await?? > 0, "no greeting");
        }
        Kind::Half(half) => {
            let target = if half == Half::Handshake { places.imaps.clone().from(from) } else { imap };
            let mut stream = target.open().await?;
            match half {
                Half::Nothing => {}
                Half::Command => stream.write_all(b"a LOGIN {6}\r\njo").await?,
                Half::Handshake => stream.write_all(HALF_HANDSHAKE).await?,
            }
            sleep(HELD).await;
        }
        Kind::TimedOut => {
            let mut stream = imap.open().await?;
            let mut said = Vec::new();
            let ended = timeout(LOGIN_TIMEOUT + SILENCE_MAX, stream.read_to_end(&mut said)).await;
            ended.context("the login timeout did not come")??;
            ensure!(said.windows(5).any(|word| word == b"* BYE"), "{}", said.escape_ascii());
        }
    }
    Ok(())
}

fn mib(octets: u64) -> f64 {
    octets as f64 / f64::from(1 << 20)
}

/// Compares the memory at the end with what it was when it was warm: the least of the samples up to both moments.
fn judge(samples: &[Sample], plan: Plan) -> Result<Summary> {
    let until = |moment: Duration| {
        let before = samples.iter().rev().filter(|sample| sample.at <= moment).take(SAMPLES);
        before.map(|sample| sample.pss).min().context("no samples")
    };
    let begun = samples.last().context("no samples")?.begun;
    let wanted = plan.time.as_secs_f64() * f64::from(plan.a_second);
    ensure!(
        begun as f64 > wanted * 0.9,
        "only {begun} connections of {wanted:.0} were begun: the load is too slow"
    );
    let summary = Summary { begun, warm: until(plan.warm)?, end: until(Duration::MAX)? };
    ensure!(
        summary.growth_percent() <= plan.growth_max_percent,
        "the server's memory grew by {:.1} %, from {:.2} MiB after {} s to {:.2} MiB, over {begun} connections; at most \
         {} % are allowed",
        summary.growth_percent(),
        mib(summary.warm),
        plan.warm.as_secs(),
        mib(summary.end),
        plan.growth_max_percent
    );
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        a_second: 10,
        time: Duration::from_secs(60),
        warm: Duration::from_secs(20),
        sample_every: Duration::from_secs(1),
        growth_max_percent: 5.0,
    };

    fn judged(each: impl Fn(u64) -> u64) -> Result<Summary> {
        let samples: Vec<_> = (0..=60)
            .map(|at| Sample { at: Duration::from_secs(at), pss: each(at), begun: at * 10 })
            .collect();
        judge(&samples, PLAN)
    }

    #[test]
    fn growth_after_the_warm_time_fails_and_growth_before_does_not() {
        assert!(judged(|at| 100_000 + 20_000 * at.min(15)).is_ok());
        assert!(judged(|at| 100_000 + 500 * at).is_err());
        // One sample that stands out is no growth.
        assert!(judged(|at| if at == 60 { 200_000 } else { 100_000 }).is_ok());
        let shrunk = judged(|at| 100_000 - 100 * at).unwrap();
        assert!(shrunk.growth_percent() < 0.0);
    }

    #[test]
    fn every_kind_comes_within_so_many_connections() {
        let kinds: Vec<_> = (0..WRONG_PASSWORD_EACH).map(Kind::of).collect();
        let share = |wanted: fn(&Kind) -> bool| kinds.iter().filter(|kind| wanted(kind)).count();
        assert_eq!(share(|kind| *kind == Kind::WrongPassword), 1);
        assert_eq!(share(|kind| matches!(kind, Kind::Session { tls: true })), 50);
        assert_eq!(share(|kind| matches!(kind, Kind::Half(_))), 100);
        assert!(share(|kind| *kind == Kind::TimedOut) >= 24);
    }
}
