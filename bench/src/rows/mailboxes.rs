//! Large mailboxes: SELECT, flags, sizes, envelopes.

use std::time::Instant;

use anyhow::{Result, ensure};
use tokio::runtime::Runtime;

use super::{Row, Values, middle_ms};
use crate::contender::{Contender, Window};
use crate::load::{self, Bound};
use crate::report::{Aim, Metric, less};

const STAGE: &str = "mailboxes";
/// Times that a warm SELECT is timed.
const SELECTS: usize = 15;
/// Times that flags are fetched in one measurement: CPU time is counted in steps of 10 ms.
const FETCHES: usize = 10;
/// Messages whose envelopes are fetched.
const ENVELOPES: usize = 1000;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![
        select("10k", 10_000, Aim::Times(1.0)),
        select("100k", 100_000, Aim::Times(1.0)),
        // Filling the peers takes minutes.
        select("1m", 1_000_000, Aim::AtMost(1.0)).alone(),
    ];
    rows.push(Row::new(
        STAGE,
        "fetch-flags-100k",
        "FETCH 1:* (FLAGS) of 100,000 messages, ten in a row",
        &[less("ms", Aim::Times(2.0)), less("server CPU ms", Aim::Times(3.0))],
        |contender, runtime| contender.large_inbox(runtime, "m100k", 100_000),
        fetch_flags,
    ));
    rows.push(Row::new(
        STAGE,
        "fetch-sizes-100k",
        "UID FETCH 1:* (FLAGS RFC822.SIZE INTERNALDATE) of 100,000 messages, first after a restart of the server \
         and again",
        &[less("first ms", Aim::Times(3.0)), less("warm ms", Aim::Times(3.0))],
        |contender, runtime| contender.large_inbox(runtime, "m100k", 100_000),
        fetch_sizes,
    ));
    rows.push(Row::new(
        STAGE,
        "fetch-envelopes-1000",
        "FETCH 1:1000 (ENVELOPE BODYSTRUCTURE) of messages that LMTP brought and nobody fetched before, and again",
        &[less("first ms", Aim::Times(2.0)), less("warm ms", Aim::Times(2.0))],
        |_, _| Ok(()),
        envelopes,
    ));
    rows
}

fn select(short: &str, count: usize, warm: Aim) -> Row {
    let user = format!("m{short}");
    let metrics: [Metric; 2] = [less("first ms", Aim::AtMost(20.0)), less("warm ms", warm)];
    let account = user.clone();
    Row::new(
        STAGE,
        format!("select-{short}"),
        format!(
            "SELECT of a mailbox with {count} messages, first after a restart of the server (its files still in the \
             system's cache) and again"
        ),
        &metrics,
        move |contender, runtime| contender.large_inbox(runtime, &account, count),
        move |contender, runtime| selects(contender, runtime, &user, count),
    )
}

fn selects(contender: &mut Contender, runtime: &Runtime, user: &str, count: usize) -> Result<Values> {
    contender.restart()?;
    runtime.block_on(async {
        let mut client = contender.login(user).await?;
        let begun = Instant::now();
        let lines = client.lines("SELECT INBOX").await?;
        let first = begun.elapsed();
        ensure!(lines.contains(&format!("{count} EXISTS")), "{lines:?}");
        let mut took = Vec::new();
        for _ in 0..SELECTS {
            let begun = Instant::now();
            client.ok("SELECT INBOX").await?;
            took.push(begun.elapsed());
        }
        Ok(vec![("first ms", middle_ms(&[first])), ("warm ms", middle_ms(&took))])
    })
}

fn fetch_flags(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    runtime.block_on(async {
        let mut client = contender.login("m100k").await?;
        client.ok("SELECT INBOX").await?;
        let window = Window::open(contender)?;
        for _ in 0..FETCHES {
            let lines = client.count_lines("FETCH 1:* (FLAGS)").await?;
            ensure!(lines == 100_000, "{lines} responses for 100000 messages");
        }
        let (wall, cpu) = window.close();
        let each = 1e3 / FETCHES as f64;
        Ok(vec![("ms", wall * each), ("server CPU ms", cpu * each)])
    })
}

fn fetch_sizes(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    contender.restart()?;
    runtime.block_on(async {
        let mut client = contender.login("m100k").await?;
        client.ok("SELECT INBOX").await?;
        let mut took = Vec::new();
        for _ in 0..4 {
            let begun = Instant::now();
            let lines = client.count_lines("UID FETCH 1:* (FLAGS RFC822.SIZE INTERNALDATE)").await?;
            took.push(begun.elapsed());
            ensure!(lines == 100_000, "{lines} responses for 100000 messages");
        }
        Ok(vec![("first ms", middle_ms(&took[..1])), ("warm ms", middle_ms(&took[1..]))])
    })
}

fn envelopes(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let user = format!("e{}", contender.fresh());
    let users = contender.users(&user, 1)?;
    runtime.block_on(async {
        let bound = Bound::count(ENVELOPES as u64);
        load::deliver(&contender.lmtp(), &users, 8, 4096, bound).await?;
        let mut client = contender.login(&user).await?;
        client.ok("SELECT INBOX").await?;
        let mut took = Vec::new();
        for _ in 0..6 {
            let begun = Instant::now();
            let brought = client.ok("FETCH 1:1000 (ENVELOPE BODYSTRUCTURE)").await?;
            took.push(begun.elapsed());
            ensure!(brought.fetches == ENVELOPES, "{} responses", brought.fetches);
        }
        Ok(vec![("first ms", middle_ms(&took[..1])), ("warm ms", middle_ms(&took[1..]))])
    })
}
