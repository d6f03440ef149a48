//! House commands: `cargo xtask soak WHAT`, `cargo xtask trace-delivery`, `cargo xtask bench compare`,
//! `cargo xtask bench load`, `cargo xtask imaptest PROGRAM`.
#![allow(clippy::print_stdout, reason = "a command line tool's results go to standard output")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use rookery_bench::connects::Plan;
use rookery_tests::server::Server;
use rookery_tests::soak;
use rookery_tests::soak::crowd::PATIENCE;
use rookery_tests::soak::moving::{CopyPlan, DrainPlan, OCTETS, PausesPlan};

mod bench;
mod imaptest;
mod trace_delivery;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "House commands of this workspace")]
enum Xtask {
    /// Kill the server, or its disk, again and again under load, and compare what is left with what it acknowledged.
    #[command(subcommand)]
    Soak(Soak),
    /// Load on a server, and side-by-side figures with the peers that Debian ships.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Trace one LMTP delivery and prove that every file it wrote was synced before its 250 went out.
    TraceDelivery,
    /// Dovecot's imaptest, which has to be built already, against the server: its scripted tests and its stress mode.
    Imaptest(imaptest::Imaptest),
}

#[derive(Subcommand)]
enum Soak {
    /// `kill -9` at random moments.
    Kill9 {
        /// Kills.
        #[arg(long, default_value_t = 100)]
        rounds: u64,
        /// Repeats the choices of an earlier run; by default the clock decides.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Loss of power: what was not synced is kept, dropped or torn.
    Powerloss {
        /// Crash points.
        #[arg(long, default_value_t = 100)]
        runs: u64,
        /// Repeats the choices of an earlier run; by default the clock decides.
        #[arg(long)]
        seed: Option<u64>,
        /// The sync of a new file also keeps its name, as ext4 and XFS do; without this a folder must be synced.
        #[arg(long)]
        lenient_dirs: bool,
    },
    /// The store beside a naive model, over random operations and simulated crashes: one life for each seed.
    Store {
        /// Lives.
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// The first seed; the others follow it.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Builds the test optimised: worth it for many thousands of seeds.
        #[arg(long)]
        release: bool,
    },
    /// A whole cluster in one thread, simulated: one life for each seed, which repeats.
    Sim {
        /// The first seed; the others follow it. `target/debug/sim one --seed N --trace` shows one.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How long.
        #[arg(long, default_value_t = 30)]
        minutes: u64,
        /// In each run everybody fails at one step of a move.
        #[arg(long)]
        steps: bool,
        /// Builds it optimised: worth it for hours.
        #[arg(long)]
        release: bool,
    },
    /// An account that moves to and fro, with clients that send a command every 5 ms: how long they wait.
    Pauses {
        /// Moves.
        #[arg(long, default_value_t = 50)]
        moves: u64,
        /// Messages in the account at first, of 4 KB.
        #[arg(long, default_value_t = 10_000)]
        messages: u32,
        /// Clients are at the two homes instead of at a frontend.
        #[arg(long)]
        unified: bool,
        /// This program of Rookery's instead of one built now.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// Accounts move that nobody uses: how fast they are copied.
    Copies {
        /// How many, one after another.
        #[arg(long, default_value_t = 5)]
        accounts: u32,
        /// Messages of each.
        #[arg(long, default_value_t = 10_000)]
        messages: u32,
        /// Their size.
        #[arg(long, default_value_t = OCTETS)]
        octets: usize,
        /// This program of Rookery's instead of one built now.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// An account moves, with clients at work in it, and one of the parties is killed at a random moment: its old home,
    /// its new one, the node that the clients are at, and the leader of etcd, by turns; or the cable of a home is cut.
    /// Needs root, for the cable.
    MoveKills {
        /// Kills of each of them that come before the move is over.
        #[arg(long, default_value_t = 50)]
        in_time: u64,
        /// Kills at the most, those that come too late with them.
        #[arg(long, default_value_t = 1000)]
        rounds: u64,
        /// Repeats the choices of an earlier run; by default the clock decides.
        #[arg(long)]
        seed: Option<u64>,
        /// Messages of each of the ten accounts at first, of 4 KB.
        #[arg(long, default_value_t = 300)]
        messages: u32,
        /// This program of Rookery's instead of one built now.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// Messages move, are copied and replaced between two homes, in both directions, and accounts and mailboxes are made, by several
    /// clients at once, and a home, the node that the clients are at, or a member of etcd is killed at a random moment, in
    /// turn; or the cable of a home is cut. Needs root, for the cable.
    CrossKills {
        /// Kills.
        #[arg(long, default_value_t = 200)]
        kills: u64,
        /// Repeats the choices of an earlier run; by default the clock decides.
        #[arg(long)]
        seed: Option<u64>,
        /// This program of Rookery's instead of one built now.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// One server becomes three nodes, then five, then two, while people work and mail comes in.
    Growth {
        /// Accounts.
        #[arg(long, default_value_t = 100)]
        accounts: u32,
        /// Messages that each has, of 4 KB.
        #[arg(long, default_value_t = 100)]
        messages: u32,
        /// People at work.
        #[arg(long, default_value_t = 50)]
        people: usize,
        /// This program of Rookery's instead of one built now.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// One node of three is emptied while people work and mail comes in; then another program is installed, and all
    /// nodes are restarted, one after another.
    Drain {
        /// Accounts on the node.
        #[arg(long, default_value_t = 1000)]
        accounts: u32,
        /// Messages that each has, of 4 KB.
        #[arg(long, default_value_t = 100)]
        messages: u32,
        /// People at work.
        #[arg(long, default_value_t = 50)]
        people: usize,
        /// This program of Rookery's instead of one built now.
        #[arg(long)]
        binary: Option<PathBuf>,
        /// What takes its place; by default a copy of it with an octet more.
        #[arg(long)]
        new_binary: Option<PathBuf>,
    },
    /// Connections that come and go, 200 a second: logins, handshakes, half-open ones. The server's memory at the end
    /// must be what it was after a third of the time.
    Connects {
        /// How long.
        #[arg(long, default_value_t = 30)]
        minutes: u32,
        /// Connections a second.
        #[arg(long, default_value_t = 200)]
        a_second: u32,
        /// Growth that fails the run, in percent.
        #[arg(long, default_value_t = 5.0)]
        growth_max: f64,
        /// This program of Rookery's instead of one built now.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    match Xtask::parse() {
        Xtask::Soak(Soak::Kill9 { rounds, seed }) => kill9(rounds, seed.unwrap_or_else(clock)),
        Xtask::Soak(Soak::Powerloss { runs, seed, lenient_dirs }) => {
            powerloss(runs, seed.unwrap_or_else(clock), lenient_dirs)
        }
        Xtask::Soak(Soak::Store { seeds, first, release }) => store(seeds, first, release),
        Xtask::Soak(Soak::Sim { seed, minutes, steps, release }) => simulate(seed, minutes, steps, release),
        Xtask::Soak(Soak::Pauses { moves, messages, unified, binary }) => {
            let plan = PausesPlan {
                moves,
                messages,
                through_frontend: !unified,
                patience: PATIENCE,
                time_max: Duration::MAX,
            };
            pauses(plan, &program(binary)?)
        }
        Xtask::Soak(Soak::Copies { accounts, messages, octets, binary }) => {
            copies(CopyPlan { accounts, messages, octets }, &program(binary)?)
        }
        Xtask::Soak(Soak::MoveKills { in_time, rounds, seed, messages, binary }) => {
            let (seed, binary) = (seed.unwrap_or_else(clock), Some(program(binary)?));
            let time_max = Duration::MAX;
            move_kills(&soak::move_kills::Plan { in_time, rounds, messages, seed, time_max, binary })
        }
        Xtask::Soak(Soak::CrossKills { kills, seed, binary }) => {
            let (seed, binary) = (seed.unwrap_or_else(clock), Some(program(binary)?));
            let time_max = Duration::MAX;
            cross_kills(&soak::cross_kills::Plan { kills, seed, time_max, is_patient: true, binary })
        }
        Xtask::Soak(Soak::Growth { accounts, messages, people, binary }) => {
            let plan = soak::growth::Plan {
                accounts,
                messages,
                people,
                patience: PATIENCE,
                step_max: Duration::from_secs(600),
            };
            growth(plan, &program(binary)?)
        }
        Xtask::Soak(Soak::Drain { accounts, messages, people, binary, new_binary }) => drain(&DrainPlan {
            accounts,
            messages,
            people,
            patience: PATIENCE,
            time_max: Duration::from_secs(1800),
            binary: Some(program(binary)?),
            new_binary,
        }),
        Xtask::Soak(Soak::Connects { minutes, a_second, growth_max, binary }) => {
            connects(minutes, a_second, growth_max, binary)
        }
        Xtask::Bench(bench) => bench.run(),
        Xtask::TraceDelivery => trace_delivery::run(),
        Xtask::Imaptest(imaptest) => imaptest.run(),
    }
}

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

fn kill9(rounds: u64, seed: u64) -> Result<()> {
    println!("seed {seed}");
    let summary = soak::kill9::soak(rounds, seed, |line| println!("{line}"))?;
    println!(
        "{} kills: {} with commands in flight, {} with one acknowledged within the 50 ms before; {} commands \
         acknowledged in all, none lost, no UID reused",
        summary.rounds, summary.with_in_flight, summary.with_just_acked, summary.acked
    );
    Ok(())
}

fn powerloss(runs: u64, seed: u64, lenient_dirs: bool) -> Result<()> {
    println!("seed {seed}");
    let summary = soak::powerloss::soak(runs, seed, lenient_dirs, |line| println!("{line}"))?;
    println!(
        "{} losses of power: {} with commands in flight, {} with one acknowledged within the 50 ms before, {} with \
         something unsynced at stake; {} changes dropped or torn, nothing acknowledged lost, no UID reused",
        summary.runs, summary.with_in_flight, summary.with_just_acked, summary.with_risk, summary.lost
    );
    Ok(())
}

fn copies(plan: CopyPlan, binary: &Path) -> Result<()> {
    let done = soak::moving::copies(plan, Some(binary), |line| println!("{line}"))?;
    let seconds = done.took.sum().as_secs_f64();
    println!(
        "{:.0} messages and {:.1} MB a second, from the command to its end",
        done.messages as f64 / seconds,
        done.octets as f64 / seconds / 1e6
    );
    Ok(())
}

/// The program that is measured.
fn program(given: Option<PathBuf>) -> Result<PathBuf> {
    given.map_or_else(rookery_bench::release_binary, |path| Ok(std::path::absolute(path)?))
}

fn growth(plan: soak::growth::Plan, binary: &Path) -> Result<()> {
    let done = soak::growth::soak(plan, Some(binary), |line| println!("{line}"))?;
    println!("writes: {}", done.account.writes.text());
    println!("reads: {}", done.account.reads.text());
    println!(
        "{} delivered, the postman asked {} times to come again; {} messages, none lost or doubled",
        done.account.delivered, done.account.deferred, done.messages
    );
    Ok(())
}

fn move_kills(plan: &soak::move_kills::Plan) -> Result<()> {
    println!("seed {}", plan.seed);
    let summary = soak::move_kills::soak(plan, |line| println!("{line}"))?;
    for (number, victim) in soak::move_kills::VICTIMS.iter().enumerate() {
        let (kills, in_time) = (summary.kills[number], summary.in_time[number]);
        println!("{victim:?}: {kills} times, {in_time} of them before the move was over");
    }
    println!(
        "{} accounts moved, {} stayed; {} commands answered, {} messages delivered meanwhile; {} messages are there, \
         each acknowledged one once",
        summary.moved, summary.stayed, summary.answered, summary.delivered, summary.messages
    );
    Ok(())
}

fn cross_kills(plan: &soak::cross_kills::Plan) -> Result<()> {
    use soak::cross_kills::{KINDS, VICTIMS};
    println!("seed {}", plan.seed);
    let summary = soak::cross_kills::soak(plan, |line| println!("{line}"))?;
    for (number, victim) in VICTIMS.iter().enumerate() {
        let during = KINDS.map(|kind| format!("{} during {kind:?}", summary.during[number][kind as usize]));
        println!("{victim:?}: {} times, {}", summary.kills[number], during.join(", "));
    }
    for kind in KINDS {
        let at = kind as usize;
        let (done, open, refused) = (summary.done[at], summary.open[at], summary.refused[at]);
        println!("{kind:?}: {done} done, {open} left open, {refused} refused");
    }
    let [made, not_made] = summary.resolved;
    println!(
        "{} messages were looked for, each at the places that were told; of names left open {made} were made, {not_made} \
         in the end not; all names the same everywhere",
        summary.messages
    );
    Ok(())
}

fn pauses(plan: PausesPlan, binary: &Path) -> Result<()> {
    let done = soak::moving::pauses(plan, Some(binary), |line| println!("{line}"))?;
    println!("{} moves: {}", done.moves, done.took.text());
    println!("writes: {}", done.writes.text());
    println!("reads: {}", done.reads.text());
    println!(
        "{} delivered meanwhile; {} messages, each of those acknowledged once",
        done.delivered, done.messages
    );
    Ok(())
}

fn drain(plan: &DrainPlan) -> Result<()> {
    let done = soak::moving::drain(plan, |line| println!("{line}"))?;
    println!("{} accounts gone after {:?}; CPU time of the nodes {:?}", done.accounts, done.took, done.cpu);
    let [writes, reads] = [&done.account.writes, &done.account.reads].map(|times| times.split(done.over));
    println!("until then, writes: {}", writes[0].text());
    println!("until then, reads: {}", reads[0].text());
    println!("restarts took {:?}", done.restarts);
    println!("meanwhile, writes: {}", writes[1].text());
    println!("meanwhile, reads: {}", reads[1].text());
    println!(
        "{} delivered, the postman asked {} times to come again; {} messages, none lost or doubled",
        done.account.delivered, done.account.deferred, done.messages
    );
    Ok(())
}

fn connects(minutes: u32, a_second: u32, growth_max_percent: f64, binary: Option<PathBuf>) -> Result<()> {
    let mut server = Server::unstarted()?;
    server.use_binary(program(binary)?);
    let time = Duration::from_secs(60) * minutes;
    let plan =
        Plan { a_second, time, warm: time / 3, sample_every: Duration::from_secs(10), growth_max_percent };
    let summary = rookery_bench::connects::soak(&mut server, plan, |line| println!("{line}"))?;
    println!(
        "{} connections; PSS {:.2} MiB when warm, {:.2} MiB at the end: {:+.2} %",
        summary.begun,
        summary.warm as f64 / f64::from(1 << 20),
        summary.end as f64 / f64::from(1 << 20),
        summary.growth_percent()
    );
    Ok(())
}

/// Runs the store's model test over these seeds and shows what it says last.
fn simulate(seed: u64, minutes: u64, steps: bool, release: bool) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(rookery_tests::workspace()).args(["run", "--quiet", "--locked", "-p", "sim"]);
    if release {
        cargo.arg("--release");
    }
    cargo.args(["--", "soak", "--first", &seed.to_string(), "--minutes", &minutes.to_string()]);
    if steps {
        cargo.arg("--steps");
    }
    ensure!(cargo.stdin(Stdio::null()).status()?.success(), "a seed fails");
    Ok(())
}

fn store(seeds: u64, first: u64, release: bool) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(rookery_tests::workspace());
    cargo.args(["test", "--quiet", "--locked", "-p", "rookery-store", "--test", "model"]);
    if release {
        cargo.arg("--release");
    }
    cargo.args(["--", "--nocapture"]);
    cargo.env("ROOKERY_SEEDS", seeds.to_string()).env("ROOKERY_FIRST_SEED", first.to_string());
    let output = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the store and its model differ:\n{said}");
    for line in said.lines().filter(|line| line.contains("seeds from")) {
        println!("{}", line.trim_start_matches('.'));
    }
    println!("{}", said.trim_end().lines().next_back().unwrap_or_default());
    Ok(())
}
