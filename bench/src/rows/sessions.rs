//! Whole sessions: mixed commands, logins.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rookery_tests::process;
use tokio::runtime::Runtime;

use super::{Row, Values};
use crate::contender::{Contender, Window};
use crate::load::{self, Bound, COPIES, Users};
use crate::report::{Aim, less, more};

const STAGE: &str = "sessions";
/// Users of the mixed commands.
const MIXED_USERS: usize = 200;
/// Messages that each of them has.
const MIXED_MESSAGES: u64 = 20;
/// Distinct users who log in for the first time.
const COLD_USERS: usize = 1000;
/// How many of them at the same time.
const COLD_AT_ONCE: usize = 100;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for clients in [20, 200] {
        rows.push(Row::new(
            STAGE,
            format!("mixed-{clients}"),
            format!(
                "sessions of 15 commands (login, list, status, select, fetch, store, append, search, copy, expunge, \
                 logout) by {clients} clients with a user each, 4 s"
            ),
            &[
                more("commands/s", Aim::Times(2.0)),
                more("commands / server CPU s", Aim::Times(4.0)),
                less("session p50 ms", Aim::Shown),
            ],
            prepare_mixed,
            move |contender, runtime| mixed(contender, runtime, clients),
        ));
    }
    rows.push(Row::new(
        STAGE,
        "login-warm",
        "login, SELECT INBOX, logout on new connections by 4 clients, passwords known from before, 2 s",
        &[more("sessions/s", Aim::Times(5.0)), less("server CPU ms/session", Aim::Shown)],
        |contender, runtime| {
            let users = contender.users("u{}", 20)?;
            runtime.block_on(load::logins(&contender.imap(), &users, 4, Bound::count(40)))?;
            Ok(())
        },
        login_warm,
    ));
    let row = Row::new(
        STAGE,
        "login-cold",
        "login, SELECT INBOX, logout of 1,000 distinct users after a restart, 100 at a time, while one session \
         sends NOOP; memory is the growth of the highest resident size",
        &[
            less("all, s", Aim::AtMost(30.0)),
            less("NOOP p99 ms", Aim::AtMost(50.0)),
            less("memory MiB", Aim::AtMost(128.0)),
        ],
        |contender, _| contender.users("u{}", COLD_USERS).map(drop),
        login_cold,
    );
    rows.push(row.once());
    rows
}

fn prepare_mixed(contender: &mut Contender, runtime: &Runtime) -> Result<()> {
    let users = contender.users("u{}", MIXED_USERS)?;
    if !contender.first("mixed") {
        return Ok(());
    }
    runtime.block_on(async {
        let count = MIXED_MESSAGES * MIXED_USERS as u64;
        load::deliver(&contender.lmtp(), &users, 16, 4096, Bound::count(count)).await?;
        for number in 0..MIXED_USERS {
            let mut client = contender.login(&users.name(number)).await?;
            client.ok(&format!("CREATE {COPIES}")).await?;
            client.ok("LOGOUT").await?;
        }
        Ok(())
    })
}

fn mixed(contender: &mut Contender, runtime: &Runtime, clients: usize) -> Result<Values> {
    let users = contender.users("u{}", MIXED_USERS)?;
    let window = Window::open(contender)?;
    let bound = Bound::time(Duration::from_secs(4));
    let done = runtime.block_on(load::mixed(&contender.imap(), &users, clients, bound))?;
    let (_, cpu) = window.close();
    Ok(vec![
        ("commands/s", done.rate()),
        ("commands / server CPU s", done.count as f64 / cpu),
        ("session p50 ms", done.percentile_ms(50)),
    ])
}

fn login_warm(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let users = contender.users("u{}", 20)?;
    let window = Window::open(contender)?;
    let bound = Bound::time(Duration::from_secs(2));
    let done = runtime.block_on(load::logins(&contender.imap(), &users, 4, bound))?;
    let (_, cpu) = window.close();
    Ok(vec![("sessions/s", done.rate()), ("server CPU ms/session", cpu * 1e3 / done.count as f64)])
}

fn login_cold(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let prober = contender.users("prober", 1)?;
    contender.restart()?;
    let users = Users { count: COLD_USERS, ..contender.users("u{}", COLD_USERS)? };
    let pid = contender.server.pid()?;
    let target = contender.imap();
    let (all, noops, before) = runtime.block_on(async {
        let mut client = contender.login(&prober.name(0)).await?;
        process::reset_peak(pid)?;
        let before = process::peak(pid)?;
        let logins = tokio::spawn(async move {
            let begun = Instant::now();
            let done = load::logins(&target, &users, COLD_AT_ONCE, Bound::count(COLD_USERS as u64)).await?;
            ensure!(done.count == COLD_USERS as u64, "{} logins", done.count);
            Ok(begun.elapsed())
        });
        let mut noops = load::Done::default();
        while !logins.is_finished() {
            let begun = Instant::now();
            client.ok("NOOP").await?;
            noops.latencies.push(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        noops.latencies.sort_unstable();
        anyhow::Ok((logins.await??, noops, before))
    })?;
    let mut values = vec![("all, s", all.as_secs_f64()), ("NOOP p99 ms", noops.percentile_ms(99))];
    if contender.is_rookery() {
        // The peers have many processes, whose peaks do not add up to one.
        let growth = process::peak(pid)?.saturating_sub(before);
        values.push(("memory MiB", growth as f64 / f64::from(1 << 20)));
    }
    Ok(values)
}
