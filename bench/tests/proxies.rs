//! The rows with an edge before each server, as far as they need no peer.

use rookery_bench::compare::{Plan, compare};
use rookery_tests::server::Program;

#[test]
fn rows_with_an_edge_measure_a_real_one() -> anyhow::Result<()> {
    let plan = Plan {
        contenders: vec![Program::Rookery],
        rows: ["proxy-noop", "proxy-fetch-4k", "proxy-create", "proxy-visible"].map(str::to_owned).to_vec(),
        rounds: 1,
        others_max: 1.0,
        retries: 0,
        binary: None,
    };
    let report = compare(&plan, |line| eprintln!("{line}"), |_| Ok(()))?;
    let text = report.markdown();
    anyhow::ensure!(!text.contains("failed"), "{text}");
    for line in text.lines().filter(|line| line.starts_with("| proxy-")) {
        let ours = line.split('|').nth(3).unwrap_or_default().trim();
        anyhow::ensure!(ours.parse::<f64>().is_ok(), "{line}");
    }
    anyhow::ensure!(text.lines().filter(|line| line.starts_with("| proxy-")).count() >= 10, "{text}");
    Ok(())
}
