//! Slices of the soaks; `cargo xtask soak kill9` and `cargo xtask soak powerloss` go on for as long as one likes.

use anyhow::{Result, ensure};
use rookery_tests::soak;

#[test]
fn five_kills_under_load() -> Result<()> {
    let summary = soak::kill9::soak(5, 20_261_123, |line| eprintln!("{line}"))?;
    // A slice in which nothing was going on would prove nothing.
    ensure!(summary.with_in_flight >= 3 && summary.with_just_acked >= 3, "{summary:?}");
    Ok(())
}

#[test]
fn five_losses_of_power_under_load() -> Result<()> {
    let summary = soak::powerloss::soak(5, 20_261_123, false, |line| eprintln!("{line}"))?;
    ensure!(summary.with_in_flight >= 3 && summary.with_risk >= 2, "{summary:?}");
    Ok(())
}

#[test]
fn losses_of_power_while_the_server_ends() -> Result<()> {
    let summary = soak::powerloss::soak(3, 1_795_713_103, false, |line| eprintln!("{line}"))?;
    ensure!(summary.at_the_end >= 2 && summary.with_risk >= 2, "{summary:?}");
    Ok(())
}
