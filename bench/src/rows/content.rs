//! Bodies: many small ones, some large ones, one at a time.

use std::time::Instant;

use anyhow::{Result, ensure};
use rookery_tests::random::Random;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::{Row, Values};
use crate::contender::{Contender, Window};
use crate::load::{self, Bound, Done};
use crate::report::{Aim, Metric, less, more};

const STAGE: &str = "mailboxes";
/// Small messages.
const SMALL: usize = 10_000;
/// Large ones, of 1 MB.
const LARGE: usize = 200;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for connections in [1, 4] {
        rows.push(bodies(
            format!("fetch-bodies-4k-{connections}"),
            format!("FETCH 1:* (BODY.PEEK[]) of 10,000 messages of 4 KB, over {connections} connections"),
            &[more("MB/s", Aim::Times(1.5)), less("server CPU ms/GB", Aim::Shown)],
            ("b4k", SMALL, 4096),
            connections,
        ));
    }
    rows.push(bodies(
        "fetch-bodies-1m".to_owned(),
        "FETCH 1:* (BODY.PEEK[]) of 200 messages of 1 MB, over one connection, three times".to_owned(),
        &[more("MB/s", Aim::Times(1.2)), less("server CPU ms/GB", Aim::Times(2.0))],
        ("b1m", LARGE, 1 << 20),
        1,
    ));
    rows.push(Row::new(
        STAGE,
        "fetch-one-4k",
        "one FETCH of BODY.PEEK[] of 4 KB, 1,000 times, at random among 10,000",
        &[less("p50 ms", Aim::Times(1.0)), less("p99 ms", Aim::Times(1.0))],
        |contender, runtime| filled(contender, runtime, ("b4k", SMALL, 4096)),
        one_at_a_time,
    ));
    rows
}

fn filled(contender: &mut Contender, runtime: &Runtime, what: (&str, usize, usize)) -> Result<()> {
    let (user, count, octets) = what;
    let users = contender.users(user, 1)?;
    if contender.first(user) {
        let bound = Bound::count(count as u64);
        runtime.block_on(load::deliver(&contender.lmtp(), &users, 8, octets, bound))?;
    }
    Ok(())
}

fn bodies(
    name: String,
    title: String,
    metrics: &[Metric],
    what: (&'static str, usize, usize),
    connections: usize,
) -> Row {
    Row::new(
        STAGE,
        name,
        title,
        metrics,
        move |contender, runtime| filled(contender, runtime, what),
        move |contender, runtime| fetch_bodies(contender, runtime, what, connections),
    )
}

fn fetch_bodies(
    contender: &mut Contender,
    runtime: &Runtime,
    what: (&str, usize, usize),
    connections: usize,
) -> Result<Values> {
    let (user, count, _) = what;
    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let mut client = contender.login(user).await?;
            client.ok("SELECT INBOX").await?;
            clients.push(client);
        }
        let window = Window::open(contender)?;
        let mut set = JoinSet::new();
        for mut client in clients {
            set.spawn(async move {
                let mut octets = 0;
                for _ in 0..3 {
                    let brought = client.ok("FETCH 1:* (BODY.PEEK[])").await?;
                    ensure!(brought.fetches == count, "{} responses for {count}", brought.fetches);
                    octets += brought.literal_octets;
                }
                Ok(octets)
            });
        }
        let mut octets = 0;
        while let Some(done) = set.join_next().await {
            octets += done??;
        }
        let (wall, cpu) = window.close();
        Ok(vec![
            ("MB/s", octets as f64 / 1e6 / wall),
            ("server CPU ms/GB", cpu * 1e3 / (octets as f64 / 1e9)),
        ])
    })
}

fn one_at_a_time(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let mut random = Random::new(contender.fresh());
    runtime.block_on(async {
        let mut client = contender.login("b4k").await?;
        client.ok("SELECT INBOX").await?;
        let mut done = Done::default();
        for _ in 0..1_000 {
            let number = 1 + random.index(SMALL);
            let begun = Instant::now();
            client.ok(&format!("FETCH {number} (BODY.PEEK[])")).await?;
            done.latencies.push(begun.elapsed());
        }
        done.latencies.sort_unstable();
        Ok(vec![("p50 ms", done.percentile_ms(50)), ("p99 ms", done.percentile_ms(99))])
    })
}
