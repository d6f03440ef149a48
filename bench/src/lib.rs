//! Side-by-side figures: the same bounded load on Rookery, Cyrus and Dovecot, interleaved in one run on one machine.
//!
//! Invariants:
//! - Every load ends by count, and every answer is checked: a refused message or a short answer fails the run.
//! - All servers run during the whole comparison, with the same durability: nobody's syncs are turned off.
//! - Figures of different runs are not comparable; ratios within one run are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::imap::Imap;
use rookery_tests::lmtp::Lmtp;
use rookery_tests::process::{self, SignalName};
use rookery_tests::server::{PASSWORD, Program, Server};

/// How much is asked of each server.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who takes part.
    pub contenders: Vec<Program>,
    /// Times that each measurement is taken, interleaved; the median counts.
    pub rounds: usize,
    /// Deliveries in each measurement of LMTP.
    pub deliveries: usize,
    /// Messages in the large mailbox.
    pub mailbox: usize,
    /// Connections in IDLE.
    pub idle: usize,
    /// The optimised server binary.
    pub binary: Option<PathBuf>,
}

/// Inboxes that deliveries go to in turn.
const INBOXES: usize = 20;
/// Octets of a delivered message.
const MESSAGE_OCTETS: usize = 4096;
/// Connections at which LMTP is measured.
const CONNECTIONS: [usize; 3] = [1, 8, 32];
/// Messages delivered one by one before the large mailbox is filled by COPY.
const SEED_MESSAGES: usize = 1000;

/// Times that the large mailbox is fetched in each measurement: CPU time is counted in steps of 10 ms.
const FETCHES: usize = 10;

/// Measure by contender: all rounds' values.
type Table = BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>;

/// What a run gave.
#[derive(Debug, Default)]
pub struct Figures {
    table: Table,
}

/// The optimised binary, built if need be.
pub fn release_binary() -> Result<PathBuf> {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(rookery_tests::workspace()).args(["build", "--release", "--locked", "-p", "rookery"]);
    ensure!(build.status()?.success(), "the server does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| rookery_tests::workspace().join("target"));
    Ok(target.join("release/rookery"))
}

/// Takes all measurements.
pub fn first_figures(plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Figures> {
    raise_descriptor_limit()?;
    let folder = tempfile::Builder::new().prefix("rookery-bench-").tempdir()?;
    let mut servers = Vec::new();
    for program in &plan.contenders {
        progress(&format!("starting {}", name(*program)));
        let place = folder.path().join(name(*program));
        std::fs::create_dir_all(&place)?;
        let mut server = Server::of(*program, &place)?;
        if let Some(binary) = &plan.binary {
            server.use_binary(binary.clone());
        }
        server.launch()?;
        (1..=INBOXES).try_for_each(|number| server.add_user(&format!("u{number}")))?;
        servers.push(server);
    }
    let mut figures = Figures::default();
    // First of all: what other measurements leave free in a server's memory would hide what connections take.
    for server in &servers {
        progress(&format!("{} idle connections, {}", plan.idle, name(server.program())));
        figures.idle(server, plan.idle)?;
    }
    for round in 1..=plan.rounds {
        for connections in CONNECTIONS {
            for server in &servers {
                progress(&format!(
                    "round {round}: LMTP, {connections} connections, {}",
                    name(server.program())
                ));
                figures.deliveries(server, connections, plan.deliveries)?;
            }
        }
    }
    for connections in CONNECTIONS {
        for server in &servers {
            progress(&format!("syncs, {connections} connections, {}", name(server.program())));
            figures.syncs(server, connections, plan.deliveries.min(200))?;
        }
    }
    for server in &servers {
        progress(&format!("filling a mailbox of {} messages, {}", plan.mailbox, name(server.program())));
        fill(server, plan.mailbox)?;
    }
    for round in 1..=plan.rounds {
        for server in &servers {
            progress(&format!("round {round}: FETCH 1:* (FLAGS), {}", name(server.program())));
            figures.flags(server, plan.mailbox)?;
        }
    }
    Ok(figures)
}

fn name(program: Program) -> &'static str {
    match program {
        Program::Rookery => "rookery",
        Program::Dovecot => "dovecot",
        Program::Cyrus => "cyrus",
    }
}

fn raise_descriptor_limit() -> Result<()> {
    process::raise_descriptor_limit(20_000)
}

fn message(number: usize) -> Vec<u8> {
    let mut text = format!(
        "From: Load <load@example.net>\r\nTo: u@example.org\r\nSubject: load {number}\r\n\
         Message-ID: <{number}.{}@load.example.net>\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\n\r\n",
        process::monotonic_ns()
    );
    while text.len() < MESSAGE_OCTETS {
        text.push_str("a line of text that fills the message up to its size, as lines do\r\n");
    }
    text.into_bytes()
}

/// Delivers `count` messages over `connections` connections; the latencies of all.
fn deliver(lmtp: SocketAddr, connections: usize, count: usize) -> Result<Vec<Duration>> {
    let each = count.div_ceil(connections);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|connection| {
                scope.spawn(move || -> Result<Vec<Duration>> {
                    let mut client = Lmtp::connect(lmtp)?;
                    let mut took = Vec::with_capacity(each);
                    for number in 0..each {
                        let to = format!("u{}", 1 + (connection + number * connections) % INBOXES);
                        let text = message(number);
                        let begun = Instant::now();
                        let answers = client.deliver("load@example.net", &[&to], &text)?;
                        took.push(begun.elapsed());
                        ensure!(answers[0].code == 250, "a delivery was answered {answers:?}");
                    }
                    Ok(took)
                })
            })
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        Ok(all)
    })
}

fn fill(server: &Server, count: usize) -> Result<()> {
    let mut imap = server.login("u1")?;
    imap.ok("CREATE Seed")?;
    imap.ok("CREATE Big")?;
    for number in 0..SEED_MESSAGES.min(count) {
        imap.append_ok("Seed", "", &message(number))?;
    }
    imap.ok("SELECT Seed")?;
    let mut there = 0;
    while there < count {
        let now = SEED_MESSAGES.min(count - there);
        imap.ok(&format!("COPY 1:{now} Big"))?;
        there += now;
    }
    Ok(())
}

impl Figures {
    fn add(&mut self, measure: String, server: &Server, value: f64) {
        self.table.entry(measure).or_default().entry(name(server.program())).or_default().push(value);
    }

    fn deliveries(&mut self, server: &Server, connections: usize, count: usize) -> Result<()> {
        let cpu = process::cpu(server.pid()?);
        let begun = Instant::now();
        let mut took = deliver(server.lmtp, connections, count)?;
        let wall = begun.elapsed().as_secs_f64();
        let cpu = process::cpu(server.pid()?).saturating_sub(cpu).as_secs_f64();
        took.sort();
        let done = took.len() as f64;
        let p50 = took.get(took.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e3;
        self.add(format!("LMTP 4 KB, {connections:2} connections, messages/s"), server, done / wall);
        self.add(format!("LMTP 4 KB, {connections:2} connections, p50 ms"), server, p50);
        self.add(
            format!("LMTP 4 KB, {connections:2} connections, server CPU ms/message"),
            server,
            cpu * 1e3 / done,
        );
        Ok(())
    }

    fn syncs(&mut self, server: &Server, connections: usize, count: usize) -> Result<()> {
        let output = server.root().join("strace-counts");
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-c", "-e", "trace=fsync,fdatasync,msync,sync_file_range,syncfs,sync", "-o"])
            .arg(&output);
        for pid in process::tree(server.pid()?) {
            strace.args(["-p", &pid.to_string()]);
        }
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut strace = strace.spawn().context("strace cannot be started")?;
        std::thread::sleep(Duration::from_millis(700));
        let done = deliver(server.lmtp, connections, count)?.len();
        process::signal(strace.id(), SignalName::INT)?;
        strace.wait()?;
        let text = std::fs::read_to_string(&output)?;
        self.add(
            format!("LMTP 4 KB, {connections:2} connections, syncs/message"),
            server,
            calls(&text) / done as f64,
        );
        Ok(())
    }

    fn flags(&mut self, server: &Server, count: usize) -> Result<()> {
        let mut imap = server.login("u1")?;
        imap.ok("SELECT Big")?;
        let cpu = process::cpu(server.pid()?);
        let begun = Instant::now();
        for _ in 0..FETCHES {
            let reply = imap.ok("FETCH 1:* (FLAGS)")?;
            let is_fetch = |line: &&Vec<u8>| line.windows(7).any(|word| word == b" FETCH ");
            let lines = reply.untagged.iter().filter(is_fetch).count();
            ensure!(lines == count, "{lines} FETCH responses for {count} messages");
        }
        let took = begun.elapsed().as_secs_f64() / FETCHES as f64;
        let cpu = process::cpu(server.pid()?).saturating_sub(cpu).as_secs_f64() / FETCHES as f64;
        self.add(format!("FETCH 1:* (FLAGS) of {count}, ms"), server, took * 1e3);
        self.add(format!("FETCH 1:* (FLAGS) of {count}, server CPU ms"), server, cpu * 1e3);
        Ok(())
    }

    fn idle(&mut self, server: &Server, count: usize) -> Result<()> {
        let before = process::pss(server.pid()?);
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            let user = format!("u{}", 1 + number % INBOXES);
            let mut imap = Imap::login(server.imap, &user, PASSWORD)?;
            imap.ok("SELECT INBOX")?;
            imap.idle()?;
            clients.push(imap);
        }
        std::thread::sleep(Duration::from_secs(3));
        let after = process::pss(server.pid()?);
        let each = after.saturating_sub(before) as f64 / 1024.0 / count as f64;
        self.add(format!("memory per idle connection at {count}, PSS KiB"), server, each);
        Ok(())
    }

    /// The medians as a Markdown table.
    pub fn markdown(&self, contenders: &[Program]) -> String {
        let names: Vec<_> = contenders.iter().map(|program| name(*program)).collect();
        let mut text = format!("| measure | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
        for (measure, values) in &self.table {
            let cells: Vec<_> =
                names.iter().map(|name| values.get(name).map_or("-".into(), |all| show(all))).collect();
            text.push_str(&format!("| {measure} | {} |\n", cells.join(" | ")));
        }
        text
    }

    /// All values of all rounds.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.table)?)
    }
}

fn show(values: &[f64]) -> String {
    let median = median(values);
    if median >= 100.0 { format!("{median:.0}") } else { format!("{median:.2}") }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The calls that `strace -c` counted: its fourth column, without the total.
fn calls(text: &str) -> f64 {
    let rows = text.lines().filter(|line| line.contains("sync") && !line.contains("total"));
    rows.filter_map(|line| line.split_ascii_whitespace().nth(3)?.parse::<f64>().ok()).sum()
}

/// Reads a list such as `rookery,cyrus,dovecot`.
pub fn contenders(list: &str) -> Result<Vec<Program>> {
    list.split(',')
        .map(|name| match name {
            "rookery" => Ok(Program::Rookery),
            "dovecot" => Ok(Program::Dovecot),
            "cyrus" => Ok(Program::Cyrus),
            other => bail!("{other} is not one of rookery, cyrus, dovecot"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn strace_counts_are_summed() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n 60.00    0.1   10   30   fsync\n \
                    40.00    0.1   10   12    2 fdatasync\n100.00    0.2   10   42    2 total\n";
        assert_eq!(super::calls(text), 42.0);
        assert_eq!(super::median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
