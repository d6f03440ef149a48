//! The simulation itself: it repeats, it finds planted defects, and a slice of its seeds finds nothing.
//!
//! `ROOKERY_SIM_SEEDS=500 cargo test -p sim` has a longer slice; `cargo xtask soak sim` runs for as long as it is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use sim::{Defect, Plan, Point, Role, process};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A planted defect must be found within so long.
const FOUND_WITHIN: Duration = Duration::from_secs(300);

fn run(plan: &Plan) -> process::Ran {
    process::run(Path::new(env!("CARGO_BIN_EXE_sim")), plan).unwrap()
}

fn seeds() -> u64 {
    std::env::var("ROOKERY_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(80)
}

#[test]
fn a_seed_repeats_line_by_line() {
    let runs: Vec<_> = [3, 3, 4].into_iter().map(|seed| run(&Plan::new(seed)).outcome).collect();
    assert_eq!((runs[0].hash, runs[0].lines), (runs[1].hash, runs[1].lines));
    assert_ne!(runs[0].hash, runs[2].hash);
    assert!(runs[0].did > 500 && runs[0].falls > 5, "{runs:?}");
    // With logs it is the same run.
    let mut logged = Command::new(env!("CARGO_BIN_EXE_sim"));
    let logged = logged.args(["one", "--seed", "3"]).env("SIM_LOG", "debug").output().unwrap();
    let text = String::from_utf8_lossy(&logged.stdout);
    assert!(text.contains(&format!("hash: {},", runs[0].hash)), "{text}");
    assert!(!logged.stderr.is_empty(), "there are logs");
}

#[test]
fn nothing_is_wrong_in_a_slice_of_seeds() {
    let (mut did, mut falls) = (0, 0);
    for seed in 1..=seeds() {
        let outcome = run(&Plan::new(seed)).outcome;
        assert!(outcome.wrong.is_empty(), "sim one --seed {seed} --trace: {:#?}", outcome.wrong);
        did += outcome.did;
        falls += outcome.falls;
    }
    assert!(did > seeds() * 500 && falls > seeds() * 5, "{did} steps, {falls} falls");
}

/// At each numbered step of a move, and of giving one up, each of those that take part fails once, exactly there.
#[test]
fn everybody_fails_at_every_step_of_a_move() {
    let mut pairs = BTreeSet::new();
    for point in Point::ALL {
        let outcome = run(&Plan { step: Some(point), ..Plan::new(1) }).outcome;
        let repeats = format!("sim one --seed 1 --step {} --trace", point.name());
        assert!(outcome.wrong.is_empty(), "{repeats}: {:#?}", outcome.wrong);
        pairs.extend(outcome.pairs.into_keys());
    }
    let all = Point::ALL.iter().flat_map(|point| Role::ALL.map(|role| (point, role)));
    let all: BTreeSet<String> =
        all.map(|(point, role)| format!("{} {}", point.name(), role.name())).collect();
    assert_eq!(pairs, all);
}

/// At a step that everybody fails at, or by chance.
fn is_found(defect: Defect, step: Option<Point>) {
    let mut took = Duration::ZERO;
    for seed in 1.. {
        let ran = run(&Plan { defect: Some(defect), step, ..Plan::new(seed) });
        took += ran.took;
        assert!(took < FOUND_WITHIN, "{} is not found up to seed {seed}", defect.name());
        if ran.outcome.wrong.is_empty() {
            continue;
        }
        // It is this defect's doing, and it is found again.
        let sound = run(&Plan { step, ..Plan::new(seed) }).outcome;
        assert!(sound.wrong.is_empty(), "sim one --seed {seed}: {:#?}", sound.wrong);
        let again = run(&Plan { defect: Some(defect), step, ..Plan::new(seed) });
        assert_eq!(again.outcome.hash, ran.outcome.hash);
        return;
    }
}

#[test]
fn an_early_acknowledgement_is_found() {
    is_found(Defect::EarlyAcknowledgement, None);
}

#[test]
fn a_lost_activation_is_found() {
    is_found(Defect::LostActivation, None);
}

#[test]
fn a_forwarded_duplicate_is_found() {
    is_found(Defect::ForwardedDuplicate, None);
}

#[test]
fn a_delayed_compare_and_set_is_found() {
    is_found(Defect::DelayedCompareAndSet, None);
}

#[test]
fn a_store_that_asks_for_no_epoch_is_found() {
    is_found(Defect::NoEpochCheck, None);
}

#[test]
fn a_home_that_speaks_too_early_is_found() {
    is_found(Defect::EarlyHome, Some(Point::Active));
}

#[test]
fn a_move_without_the_last_changes_is_found() {
    is_found(Defect::NoCatchUp, None);
}
