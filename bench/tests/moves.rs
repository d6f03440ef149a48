//! The row of an account that moves, as far as it needs no peer.

use rookery_bench::compare::{Plan, compare};
use rookery_tests::server::Program;

#[test]
fn an_account_that_moves_refuses_nobody_and_cuts_nobody_off() -> anyhow::Result<()> {
    let plan = Plan {
        contenders: vec![Program::Rookery],
        rows: vec!["move-account".to_owned()],
        rounds: 1,
        others_max: 1.0,
        retries: 0,
        binary: None,
    };
    let report = compare(&plan, |line| eprintln!("{line}"), |_| Ok(()))?;
    let text = report.markdown();
    anyhow::ensure!(!text.contains("failed"), "{text}");
    let measured = |measure: &str| -> anyhow::Result<f64> {
        let head = format!("| move-account | {measure} |");
        let line = text.lines().find_map(|line| line.strip_prefix(&head));
        let ours = line.and_then(|rest| rest.split('|').next()).unwrap_or_default();
        ours.trim().parse().map_err(|_| anyhow::anyhow!("no {measure} in\n{text}"))
    };
    for measure in ["there, s", "back, s", "longest write, ms", "longest read, ms"] {
        anyhow::ensure!(measured(measure)? > 0.0, "{text}");
    }
    for measure in ["refused, s", "sessions cut off"] {
        anyhow::ensure!(measured(measure)? == 0.0, "{text}");
    }
    Ok(())
}
