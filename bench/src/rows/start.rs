//! What must not become slow because there are many other accounts: the start of the process, and one user's LIST.

use std::time::Instant;

use anyhow::{Result, ensure};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::{Row, Values};
use crate::contender::Contender;
use crate::load::Done;
use crate::report::{Aim, less};

const STAGE: &str = "start";
/// Accounts.
const ACCOUNTS: usize = 100_000;
/// Connections that make them.
const CONNECTIONS: usize = 64;
/// Who makes them.
const ADMIN: &str = "postmaster";
/// Who lists mailboxes.
const LISTER: &str = "lister";
/// Times that mailboxes are listed.
const LISTS: usize = 500;

pub(super) fn rows() -> Vec<Row> {
    let row = Row::new(
        STAGE,
        "start-100k",
        "from starting the process to the first greeting with 100,000 accounts",
        &[less("after a stop, s", Aim::AtMost(0.3)), less("after kill -9, s", Aim::AtMost(1.5))],
        prepare,
        start,
    );
    let list = Row::new(
        STAGE,
        "list-100k",
        "LIST \"\" % of a user with six mailboxes, with 100,000 other accounts: first after the login, and 500 times",
        &[less("first ms", Aim::AtMost(2.0)), less("p50 ms", Aim::AtMost(2.0)), less("p99 ms", Aim::Shown)],
        prepare,
        list,
    );
    vec![row.alone(), list.alone()]
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

fn list(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    contender.users(LISTER, 1)?;
    contender.restart()?;
    runtime.block_on(async {
        let mut client = contender.login(LISTER).await?;
        let mut done = Done::default();
        for _ in 0..=LISTS {
            let begun = Instant::now();
            let lines = client.lines("LIST \"\" %").await?;
            done.latencies.push(begun.elapsed());
            ensure!(lines.len() == 6, "{lines:?}");
        }
        let first = done.latencies.remove(0).as_secs_f64() * 1e3;
        done.latencies.sort_unstable();
        Ok(vec![("first ms", first), ("p50 ms", done.percentile_ms(50)), ("p99 ms", done.percentile_ms(99))])
    })
}
