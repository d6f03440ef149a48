//! From the start of the process to its first greeting, with many accounts.

use std::time::Instant;

use anyhow::Result;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::{Row, Values};
use crate::contender::Contender;
use crate::report::{Aim, less};

const STAGE: &str = "start";
/// Accounts.
const ACCOUNTS: usize = 100_000;
/// Connections that make them.
const CONNECTIONS: usize = 64;
/// Who makes them.
const ADMIN: &str = "postmaster";

pub(super) fn rows() -> Vec<Row> {
    let row = Row::new(
        STAGE,
        "start-100k",
        "from starting the process to the first greeting with 100,000 accounts",
        &[less("after a stop, s", Aim::AtMost(0.3)), less("after kill -9, s", Aim::AtMost(1.5))],
        prepare,
        start,
    );
    vec![row.alone()]
}

/// The administrator makes accounts without passwords.
fn prepare(contender: &mut Contender, runtime: &Runtime) -> Result<()> {
    if !contender.first("accounts") {
        return Ok(());
    }
    contender.server.stop()?;
    let config = contender.server.config();
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, format!("admins = [\"{ADMIN}\"]\n{text}"))?;
    contender.server.launch()?;
    contender.users(ADMIN, 1)?;
    runtime.block_on(async {
        let mut set = JoinSet::new();
        for worker in 0..CONNECTIONS {
            let mut client = contender.login(ADMIN).await?;
            set.spawn(async move {
                for number in (worker..ACCOUNTS).step_by(CONNECTIONS) {
                    client.ok(&format!("CREATE user/a{number}")).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = set.join_next().await {
            done??;
        }
        Ok(())
    })
}

fn start(contender: &mut Contender, _: &Runtime) -> Result<Values> {
    contender.server.stop()?;
    let begun = Instant::now();
    contender.server.launch()?;
    let stopped = begun.elapsed().as_secs_f64();
    contender
        .server
        .deliver("a1", b"Subject: before the kill\r\n\r\nso that there is something to recover\r\n")?;
    contender.server.kill9()?;
    let begun = Instant::now();
    contender.server.launch()?;
    Ok(vec![("after a stop, s", stopped), ("after kill -9, s", begun.elapsed().as_secs_f64())])
}
