//! `kill -9` again and again, under load, on one store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Moment;
use super::load::{self, Worker};
use super::verify::{self, Uids};
use crate::process::monotonic_ns;
use crate::random::Random;
use crate::server::Server;

/// Rounds on one store before a new one is taken, so that reading it all back stays quick.
const ROUNDS_PER_STORE: u64 = 25;

/// What a soak saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Kills.
    pub rounds: u64,
    /// Kills with a command in flight.
    pub with_in_flight: u64,
    /// Kills with a command acknowledged within the 50 ms before.
    pub with_just_acked: u64,
    /// Commands acknowledged.
    pub acked: usize,
    /// Messages in the store at the end.
    pub messages: usize,
}

/// Kills the server `rounds` times at random moments of a load and compares after each restart.
pub fn soak(rounds: u64, seed: u64, mut report: impl FnMut(&str)) -> Result<Summary> {
    let mut summary = Summary::default();
    let mut done = 0;
    while done < rounds {
        let rounds_here = ROUNDS_PER_STORE.min(rounds - done);
        one_store(rounds_here, seed.wrapping_add(done), &mut summary, &mut report)?;
        done += rounds_here;
    }
    Ok(summary)
}

fn one_store(rounds: u64, seed: u64, summary: &mut Summary, report: &mut impl FnMut(&str)) -> Result<()> {
    let mut server = Server::start()?;
    load::prepare(&server)?;
    let mut uids = Uids::note(&server)?;
    let mut workers = Worker::all();
    for round in 0..rounds {
        let seed = seed.wrapping_add(round);
        let moment = one_kill(&mut server, &mut workers, &mut uids, seed, summary)
            .with_context(|| format!("round {round}, seed {seed}, folder {}", server.root().display()))?;
        report(&format!(
            "kill {}: {} acknowledged, {} in flight, {} acknowledged within 50 ms; {} messages",
            summary.rounds, moment.acked, moment.in_flight, moment.just_acked, summary.messages
        ));
    }
    server.stop()
}

fn one_kill(
    server: &mut Server,
    workers: &mut [Worker],
    uids: &mut Uids,
    seed: u64,
    summary: &mut Summary,
) -> Result<Moment> {
    let dead = AtomicBool::new(false);
    let pause = Duration::from_millis(150 + Random::new(seed).below(1_200));
    let killer = server.killer()?;
    let mut killed_ns = 0;
    let dead_flag = &dead;
    std::thread::scope(|scope| -> Result<()> {
        let killer = scope.spawn(move || {
            std::thread::sleep(pause);
            dead_flag.store(true, Ordering::SeqCst);
            let now = monotonic_ns();
            killer.fire().map(|()| now)
        });
        let load = load::run(server, workers, seed, &dead);
        killed_ns = killer.join().map_err(|_| anyhow::anyhow!("the killer panicked"))??;
        load
    })?;
    server.kill9()?;
    let stories: Vec<_> = workers.iter().flat_map(|worker| worker.stories.iter().cloned()).collect();
    let moment = Moment::at(&stories, killed_ns);
    ensure!(moment.acked > 0, "the load got nothing done in {pause:?}");
    server.launch()?;
    summary.messages = verify::verify(server, workers, uids, u64::MAX)?;
    server.check()?;
    server.judge_log()?;
    summary.rounds += 1;
    summary.acked += moment.acked;
    summary.with_in_flight += u64::from(moment.in_flight > 0);
    summary.with_just_acked += u64::from(moment.just_acked > 0);
    Ok(moment)
}
