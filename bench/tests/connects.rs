//! A slice of `cargo xtask soak connects`: too short to show a small leak, long enough for one of some 3 KiB for each
//! connection.

use std::time::Duration;

use anyhow::Result;
use rookery_bench::connects::{Plan, soak};
use rookery_tests::server::Server;

#[test]
fn connections_that_came_and_went_leave_no_memory_behind() -> Result<()> {
    let plan = Plan {
        a_second: 200,
        time: Duration::from_secs(20),
        warm: Duration::from_secs(13),
        sample_every: Duration::from_millis(500),
        growth_max_percent: 10.0,
    };
    let mut server = Server::unstarted()?;
    let summary = soak(&mut server, plan, |line| eprintln!("{line}"))?;
    eprintln!("{} connections, memory {:+.1} %", summary.begun, summary.growth_percent());
    Ok(())
}
