//! Runs simulations of a cluster: one seed, or one after another for some time.
#![allow(clippy::print_stdout, reason = "a command line tool's results go to standard output")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use sim::{Defect, Outcome, Plan, Point, process};
use tracing_subscriber::filter::LevelFilter;

#[derive(Parser)]
#[command(name = "sim", about = "A whole cluster in one thread, driven by one seed")]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// One run, and what was wrong.
    One {
        /// Everything follows from it.
        #[arg(long)]
        seed: u64,
        /// How many clients work.
        #[arg(long, default_value_t = 4)]
        clients: u64,
        /// How long they do, in the cluster's time.
        #[arg(long, default_value_t = 40)]
        seconds: u64,
        /// A defect that is planted.
        #[arg(long, value_parser = defect)]
        defect: Option<Defect>,
        /// Everybody fails at this step of a move, one after another, and nothing else goes wrong.
        #[arg(long, value_parser = step)]
        step: Option<Point>,
        /// Shows everything that happens.
        #[arg(long)]
        trace: bool,
    },
    /// One seed after another, until the time is over. A seed that fails is shown with what repeats it.
    Soak {
        /// The first seed; the others follow it.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// How long, by a clock on the wall; half an hour, if nothing is said.
        #[arg(long)]
        hours: Option<u64>,
        /// And so many minutes.
        #[arg(long)]
        minutes: Option<u64>,
        /// And so many seconds.
        #[arg(long)]
        seconds: Option<u64>,
        /// A defect that is planted.
        #[arg(long, value_parser = defect)]
        defect: Option<Defect>,
        /// In each run everybody fails at one step of a move, the next run's the next, and nothing else goes wrong.
        #[arg(long)]
        steps: bool,
    },
}

fn step(name: &str) -> Result<Point, String> {
    let known = Point::ALL.iter().find(|point| point.name() == name);
    let names: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
    known.copied().ok_or_else(|| format!("there are {}", names.join(", ")))
}

fn defect(name: &str) -> Result<Defect, String> {
    let known = Defect::ALL.iter().find(|defect| defect.name() == name);
    let names: Vec<&str> = Defect::ALL.iter().map(|defect| defect.name()).collect();
    known.copied().ok_or_else(|| format!("there are {}", names.join(", ")))
}

fn main() -> Result<()> {
    match Line::parse().verb {
        Verb::One { seed, clients, seconds, defect, step, trace } => {
            let plan =
                Plan { seed, clients, lasts: Duration::from_secs(seconds), defect, step, shown: trace };
            match process::is_below() {
                true => {
                    // Without logs the same is set up, so that nothing else is drawn by chance.
                    let level = std::env::var("SIM_LOG").unwrap_or_else(|_| "off".to_owned());
                    tracing_subscriber::fmt()
                        .with_max_level(level.parse::<LevelFilter>()?)
                        .without_time()
                        .with_writer(std::io::stderr)
                        .init();
                    print!("{}", process::told(&sim::run(plan)?));
                }
                false => {
                    let ran = process::run(&std::env::current_exe()?, &plan)?;
                    println!("{:?} in {:?}", ran.outcome, ran.took);
                    ensure!(ran.outcome.wrong.is_empty(), "seed {seed} fails");
                }
            }
            Ok(())
        }
        Verb::Soak { first, hours, minutes, seconds, defect, steps } => {
            let lasts = match (hours, minutes, seconds) {
                (None, None, None) => 30 * 60,
                (h, m, s) => h.unwrap_or(0) * 3600 + m.unwrap_or(0) * 60 + s.unwrap_or(0),
            };
            soak(first, Duration::from_secs(lasts), defect, steps)
        }
    }
}

/// How often it is said how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(600);

/// All runs so far.
#[derive(Default)]
struct Sum {
    seeds: u64,
    did: u64,
    moves: u64,
    falls: u64,
    lines: u64,
    faults: BTreeMap<String, u64>,
    pairs: BTreeMap<String, u64>,
    failed: Vec<u64>,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.did += outcome.did;
        self.moves += outcome.moves;
        self.falls += outcome.falls;
        self.lines += outcome.lines;
        for (all, more) in [(&mut self.faults, outcome.faults), (&mut self.pairs, outcome.pairs)] {
            more.into_iter().for_each(|(name, times)| *all.entry(name).or_default() += times);
        }
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = |names: &BTreeMap<String, u64>| {
            let all: Vec<String> = names.iter().map(|(name, times)| format!("{name} {times}")).collect();
            all.join(", ")
        };
        writeln!(
            f,
            "{} seeds, {} steps of clients, {} moves of accounts, {} falls of nodes, {} events",
            self.seeds, self.did, self.moves, self.falls, self.lines
        )?;
        writeln!(f, "what went wrong: {}", all(&self.faults))?;
        writeln!(f, "{} steps of moves and who failed there: {}", self.pairs.len(), all(&self.pairs))?;
        write!(f, "seeds that failed: {:?}", self.failed)
    }
}

fn soak(first: u64, lasts: Duration, defect: Option<Defect>, steps: bool) -> Result<()> {
    let program = std::env::current_exe()?;
    let (began, mut told) = (Instant::now(), Instant::now());
    let mut sum = Sum::default();
    for seed in first.. {
        if began.elapsed() >= lasts {
            break;
        }
        let at = usize::try_from(seed)? % Point::ALL.len();
        let step = Point::ALL.get(at).copied().filter(|_| steps);
        let ran = process::run(&program, &Plan { defect, step, ..Plan::new(seed) })?;
        if !ran.outcome.wrong.is_empty() {
            let step = step.map(|point| format!(" --step {}", point.name())).unwrap_or_default();
            let defect = defect.map(|defect| format!(" --defect {}", defect.name())).unwrap_or_default();
            println!("seed {seed} fails: sim one --seed {seed}{step}{defect} --trace");
            ran.outcome.wrong.iter().for_each(|wrong| println!("  {wrong}"));
            sum.failed.push(seed);
        }
        sum.add(ran.outcome);
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            println!("after {:?}: {sum}", began.elapsed());
        }
    }
    println!("{sum}");
    ensure!(sum.failed.is_empty(), "{} seeds failed", sum.failed.len());
    Ok(())
}
