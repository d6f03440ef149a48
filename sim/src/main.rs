//! Runs simulations of a cluster: one seed, or one after another for some time.
#![allow(clippy::print_stdout, reason = "a command line tool's results go to standard output")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use sim::{Defect, Plan, process};

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
        /// Shows everything that happens.
        #[arg(long)]
        trace: bool,
    },
    /// One seed after another, until one fails or the time is over.
    Soak {
        /// The first seed; the others follow it.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// How long, by a clock on the wall.
        #[arg(long, default_value_t = 30)]
        minutes: u64,
        /// A defect that is planted.
        #[arg(long, value_parser = defect)]
        defect: Option<Defect>,
        /// Goes on after a seed that fails.
        #[arg(long)]
        keep_going: bool,
    },
}

fn defect(name: &str) -> Result<Defect, String> {
    let known = Defect::ALL.iter().find(|defect| defect.name() == name);
    let names: Vec<&str> = Defect::ALL.iter().map(|defect| defect.name()).collect();
    known.copied().ok_or_else(|| format!("there are {}", names.join(", ")))
}

fn main() -> Result<()> {
    match Line::parse().verb {
        Verb::One { seed, clients, seconds, defect, trace } => {
            let plan = Plan { seed, clients, lasts: Duration::from_secs(seconds), defect, shown: trace };
            match process::is_below() {
                true => {
                    if let Some(level) = std::env::var_os("SIM_LOG") {
                        let filter = tracing_subscriber::EnvFilter::new(level.to_string_lossy());
                        tracing_subscriber::fmt()
                            .with_env_filter(filter)
                            .without_time()
                            .with_writer(std::io::stderr)
                            .init();
                    }
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
        Verb::Soak { first, minutes, defect, keep_going } => soak(first, minutes, defect, keep_going),
    }
}

fn soak(first: u64, minutes: u64, defect: Option<Defect>, keep_going: bool) -> Result<()> {
    let program = std::env::current_exe()?;
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    let (mut seeds, mut did, mut falls, mut lines, mut failed) = (0_u64, 0, 0, 0, Vec::new());
    for seed in first.. {
        if Instant::now() >= until {
            break;
        }
        let ran = process::run(&program, &Plan { defect, ..Plan::new(seed) })?;
        seeds += 1;
        did += ran.outcome.did;
        falls += ran.outcome.falls;
        lines += ran.outcome.lines;
        if !ran.outcome.wrong.is_empty() {
            println!("seed {seed} fails: sim one --seed {seed} --trace");
            ran.outcome.wrong.iter().for_each(|wrong| println!("  {wrong}"));
            failed.push(seed);
            if !keep_going {
                break;
            }
        }
    }
    println!(
        "{seeds} seeds, {did} steps of clients, {falls} falls of nodes, {lines} events; failed: {failed:?}"
    );
    ensure!(failed.is_empty(), "{} seeds failed", failed.len());
    Ok(())
}
