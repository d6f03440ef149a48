//! Slices of the drills; `cargo xtask soak pauses`, `move-kills`, `cross-kills`, `growth` and `drain` go on for as long as one likes.
//!
//! On a machine that is busy with other tests a command may take long. That it is not answered with OK, or that a
//! connection ends, is a failure here as there.

use anyhow::{Result, ensure};
use rookery_tests::soak::moving::{self, CopyPlan, DrainPlan, PausesPlan};
use rookery_tests::soak::{cross_kills, growth, move_kills};
use std::time::Duration;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long anything else may.
const TIME_MAX: Duration = Duration::from_secs(120);

#[test]
fn an_account_moves_while_it_is_used_and_nobody_notices() -> Result<()> {
    let plan = PausesPlan {
        moves: 6,
        messages: 100,
        through_frontend: true,
        patience: PATIENCE,
        time_max: Duration::from_secs(15),
    };
    let done = moving::pauses(plan, None, |line| eprintln!("{line}"))?;
    ensure!(done.moves >= 2 && done.writes.count() > 0 && done.reads.count() > 0, "{done:?}");
    Ok(())
}

#[test]
fn an_account_is_copied_whole_when_it_moves() -> Result<()> {
    let plan = CopyPlan { accounts: 1, messages: 30, octets: 100_000 };
    let done = moving::copies(plan, None, |line| eprintln!("{line}"))?;
    ensure!(done.messages == 30 && done.octets > 1_000_000, "{done:?}");
    Ok(())
}

#[test]
fn accounts_that_move_are_whole_whoever_is_killed() -> Result<()> {
    let plan = move_kills::Plan {
        in_time: 2,
        rounds: 10,
        messages: 40,
        seed: 20_261_126,
        time_max: Duration::from_secs(15),
        binary: None,
    };
    let done = move_kills::soak(&plan, |line| eprintln!("{line}"))?;
    ensure!(done.kills.iter().all(|kills| *kills > 0), "{done:?}");
    // A slice in which nothing was going on would prove nothing.
    ensure!(done.in_time.iter().sum::<u64>() > 0 && done.answered > 0, "{done:?}");
    Ok(())
}

#[test]
fn messages_and_names_are_where_they_were_told_to_be_whoever_is_killed() -> Result<()> {
    let plan = cross_kills::Plan {
        kills: 6,
        seed: 20_261_126,
        time_max: Duration::from_secs(30),
        is_patient: false,
        binary: None,
    };
    let done = cross_kills::soak(&plan, |line| eprintln!("{line}"))?;
    ensure!(done.kills.iter().all(|kills| *kills > 0), "{done:?}");
    // A slice in which nothing was going on would prove nothing.
    let during =
        |kind: cross_kills::Kind| done.during.iter().map(|counts| counts[kind as usize]).sum::<u64>();
    ensure!(cross_kills::KINDS.iter().all(|kind| during(*kind) > 0), "{done:?}");
    ensure!(done.messages > 0, "{done:?}");
    Ok(())
}

#[test]
fn one_server_becomes_five_nodes_and_then_two_under_its_clients() -> Result<()> {
    let plan = growth::Plan { accounts: 10, messages: 5, people: 10, patience: PATIENCE, step_max: TIME_MAX };
    let done = growth::soak(plan, None, |line| eprintln!("{line}"))?;
    ensure!(done.account.writes.count() > 0 && done.account.reads.count() > 0, "{:?}", done.steps);
    Ok(())
}

#[test]
fn a_node_is_emptied_and_all_get_another_program_under_their_clients() -> Result<()> {
    let plan = DrainPlan {
        accounts: 8,
        messages: 10,
        people: 15,
        patience: PATIENCE,
        time_max: TIME_MAX,
        binary: None,
        new_binary: None,
    };
    let done = moving::drain(&plan, |line| eprintln!("{line}"))?;
    ensure!(done.account.writes.count() > 0 && done.restarts.len() == 3, "{done:?}");
    Ok(())
}
