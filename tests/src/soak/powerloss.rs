//! Loss of power under load: the disk is rebuilt from the shim's trace as it could be at several moments of it, and the
//! real server has to come up on each with everything that was acknowledged before that moment.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Moment;
use super::load::{self, Worker};
use super::verify::{self, Uids};
use crate::powerloss::disk::{AtRisk, Fate, History, Policy};
use crate::powerloss::trace::{self, Record};
use crate::powerloss::{compile_shim, environment};
use crate::random::Random;
use crate::server::Server;

/// Crash points tried on each recorded load.
const CRASHES_PER_LOAD: u64 = 5;
/// About as many file calls a server makes when it ends in order.
const END_RECORDS: usize = 400;

/// What a soak saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Crash points tried.
    pub runs: u64,
    /// Those with a command in flight.
    pub with_in_flight: u64,
    /// Those with a command acknowledged within the 50 ms before.
    pub with_just_acked: u64,
    /// Those at which something unsynced was at stake.
    pub with_risk: u64,
    /// Those near the end of a load that ended in order.
    pub at_the_end: u64,
    /// Changes dropped or torn in all.
    pub lost: usize,
}

/// Tries `runs` crash points. `lenient_folders`: see [`Policy`].
pub fn soak(runs: u64, seed: u64, lenient_folders: bool, mut report: impl FnMut(&str)) -> Result<Summary> {
    let mut summary = Summary::default();
    let mut done = 0;
    while done < runs {
        let here = CRASHES_PER_LOAD.min(runs - done);
        let folder = tempfile::Builder::new().prefix("rookery-power-").tempdir()?;
        let seed = seed.wrapping_add(done);
        let result = one_load(folder.path(), here, seed, lenient_folders, &mut summary, &mut report);
        if let Err(error) = result {
            let kept = folder.keep();
            return Err(error.context(format!("seed {seed}; all files are kept in {}", kept.display())));
        }
        done += here;
    }
    Ok(summary)
}

struct Recorded {
    records: Vec<Record>,
    workers: Vec<Worker>,
    uids: Uids,
    /// From here on the accounts and mailboxes were acknowledged.
    load_began_ns: u64,
}

fn one_load(
    folder: &Path,
    crashes: u64,
    seed: u64,
    lenient_folders: bool,
    summary: &mut Summary,
    report: &mut impl FnMut(&str),
) -> Result<()> {
    let mut random = Random::new(seed);
    let live = folder.join("live");
    std::fs::create_dir_all(live.join("data"))?;
    let before = folder.join("before");
    // Half of the loads record the store's first start as well.
    let (from_birth, ends) = (random.chance(50), random.chance(50));
    let recorded = record_load(&live, &before, folder, from_birth, ends, seed)?;
    let history = History::follow(&before, &recorded.records)?;
    history.prove_complete(&live.join("data"))?;
    let first = recorded.records.iter().position(|record| record.time_ns > recorded.load_began_ns);
    let first = first.context("the load changed no file")?;
    for number in 0..crashes {
        let span = recorded.records.len() - first;
        // Of the end of those that end in order there is not much, and it is what they are for.
        let late = if ends && number % 2 == 0 { span - span.min(END_RECORDS) } else { 0 };
        let at = &recorded.records[first + late + random.index(span - late)];
        let fate = match number % 4 {
            0 => Fate::Dropped,
            3 if random.chance(30) => Fate::Kept,
            _ => Fate::Chance,
        };
        let run_seed = seed.wrapping_mul(1000).wrapping_add(number);
        let policy = Policy { fate, lenient_folders };
        let target = folder.join(format!("crash-{number}"));
        std::fs::create_dir_all(&target)?;
        let risk = history.rebuild(at.seq, policy, &mut Random::new(run_seed), &target.join("data"))?;
        let moment = check_one(&target, &recorded, at.time_ns)
            .with_context(|| format!("power lost before record {} ({fate:?}, {risk:?})", at.seq))?;
        note(summary, moment, risk);
        summary.at_the_end += u64::from(late > 0);
        report(&format!(
            "loss {}: record {} of {}, {fate:?}; {} acknowledged, {} in flight, {} within 50 ms; unsynced: {} writes \
             ({} dropped, {} torn), {} names ({} dropped)",
            summary.runs,
            at.seq,
            recorded.records.len(),
            moment.acked,
            moment.in_flight,
            moment.just_acked,
            risk.writes,
            risk.writes_dropped,
            risk.writes_torn,
            risk.names,
            risk.names_dropped
        ));
        std::fs::remove_dir_all(&target)?;
    }
    Ok(())
}

fn note(summary: &mut Summary, moment: Moment, risk: AtRisk) {
    summary.runs += 1;
    summary.with_in_flight += u64::from(moment.in_flight > 0);
    summary.with_just_acked += u64::from(moment.just_acked > 0);
    summary.with_risk += u64::from(risk.writes + risk.names > 0);
    summary.lost += risk.writes_dropped + risk.writes_torn + risk.names_dropped;
}

/// A load with every file call recorded, ended by a kill, or in order: then power may be lost while what is in memory is
/// written out.
fn record_load(
    live: &Path,
    before: &Path,
    folder: &Path,
    from_birth: bool,
    ends: bool,
    seed: u64,
) -> Result<Recorded> {
    let shim = compile_shim(folder)?;
    let trace = folder.join("trace");
    let mut server = Server::on(live)?;
    if !from_birth {
        server.launch()?;
        load::prepare(&server)?;
        server.stop()?;
    }
    copy_folder(&server.data(), before, 0)?;
    for (name, value) in environment(&shim, &server.data(), &trace) {
        server.set_environment(name, value);
    }
    server.launch()?;
    if from_birth {
        load::prepare(&server)?;
    }
    let uids = Uids::note(&server)?;
    let load_began_ns = crate::process::monotonic_ns();
    let mut workers = Worker::all();
    let dead = AtomicBool::new(false);
    let killer = server.killer()?;
    let dead_flag = &dead;
    std::thread::scope(|scope| -> Result<()> {
        let killer = scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(1_000 + Random::new(seed).below(1_500)));
            dead_flag.store(true, Ordering::SeqCst);
            if ends { killer.end() } else { killer.fire() }
        });
        let load = load::run(&server, &mut workers, seed, &dead);
        killer.join().map_err(|_| anyhow::anyhow!("the killer panicked"))??;
        load
    })?;
    match ends {
        true => server.stop()?,
        false => server.kill9()?,
    }
    let records = trace::read(&trace)?;
    ensure!(!records.is_empty(), "the shim recorded nothing");
    Ok(Recorded { records, workers, uids, load_began_ns })
}

fn check_one(target: &Path, recorded: &Recorded, cut_ns: u64) -> Result<Moment> {
    let mut workers: Vec<Worker> = recorded.workers.iter().map(Worker::twin).collect();
    let stories: Vec<_> = workers.iter().flat_map(|worker| worker.stories.iter().cloned()).collect();
    let mut server = Server::on(target)?;
    server.launch()?;
    verify::verify(&server, &mut workers, &mut recorded.uids.clone(), cut_ns)?;
    server.check()?;
    server.stop()?;
    Ok(Moment::at(&stories, cut_ns))
}

fn copy_folder(from: &Path, to: &Path, depth: usize) -> Result<()> {
    ensure!(depth < 64, "folders nest deeper than 64");
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_folder(&entry.path(), &target, depth + 1)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
