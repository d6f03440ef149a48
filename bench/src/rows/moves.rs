//! What clients notice of an account that moves to another node and back. They are connected to a frontend, and the
//! administrator asks for XFER where the program wants to be asked. Rookery's nodes speak over mutual TLS, Cyrus's in
//! plain text.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::server::{PASSWORD, Program};
use rookery_tests::soak::moving;
use tokio::runtime::Runtime;

use super::{Row, Values, middle_ms, proxies};
use crate::client::{Imap, Target};
use crate::contender::Contender;
use crate::edge::Before;
use crate::report::{Aim, less};
use crate::steady::{self, Clients, Work};

/// Messages of the account.
const MESSAGES: u32 = 1_037;
/// What the clients do all the while.
const WORKS: [Work; 3] = [
    Work::Commands(["NOOP", "FETCH 1 (FLAGS)"]),
    Work::Commands(["STORE 1 +FLAGS (\\Flagged)", "STORE 1 -FLAGS (\\Flagged)"]),
    Work::Idle,
];
/// Both moves are over by then.
const ROUND_MAX: Duration = Duration::from_secs(60);
/// Clients that do not get on so long after a move are not waited for.
const WELL_WITHIN: Duration = Duration::from_secs(8);
/// How long clients work before a move, and after the last one.
const QUIET: Duration = Duration::from_secs(2);

pub(super) fn rows() -> Vec<Row> {
    let row = Row::new(
        "moves",
        "move-account",
        "XFER of a user with 1,037 messages of 4 KB to a node that has nothing of them, and back, while three clients are \
         connected to a frontend: one sends NOOP and FETCH 1 (FLAGS) by turns, one STORE, each 5 ms after the last answer, \
         and one is in IDLE; who is refused asks again after 20 ms, who is cut off connects at once. Waits last until the \
         OK that was wanted",
        &[
            less("there, s", Aim::Shown),
            less("back, s", Aim::Shown),
            less("longest write, ms", Aim::AtMost(200.0)),
            less("longest read, ms", Aim::AtMost(250.0)),
            less("longest without news in IDLE, ms", Aim::Shown),
            less("refused, s", Aim::AtMost(0.0)),
            less("sessions cut off", Aim::AtMost(0.0)),
            less("write p50, ms", Aim::Shown),
            less("read p50, ms", Aim::Shown),
        ],
        |_, _| Ok(()),
        measure,
    );
    vec![Row { before: Before::EdgeOfTwo, ..row.of(&[Program::Rookery, Program::Cyrus]) }]
}

fn measure(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    // A new one each time: nodes keep something of those that have left.
    let user = format!("moved{}", contender.fresh());
    contender.users(&user, 1)?;
    moving::fill(&contender.server, &user, MESSAGES, moving::OCTETS)?;
    let through = Target::plain(contender.edge()?.imap);
    runtime.block_on(async {
        proxies::known(&through, &user, "INBOX").await?;
        let moves = to_and_fro(contender, &user, &through);
        tokio::time::timeout(ROUND_MAX, moves).await.context("the moves take too long")?
    })
}

async fn to_and_fro(contender: &Contender, user: &str, through: &Target) -> Result<Values> {
    let clients = Clients::begin(through, user, &WORKS).await?;
    let mut took = Vec::new();
    for way in contender.ways()? {
        tokio::time::sleep(QUIET).await;
        let asked = Target::plain(way.asked.imap);
        let mut admin = Imap::login(&asked, contender.administrator()?, PASSWORD).await?;
        let begun = Instant::now();
        let lines = admin.lines(&format!("XFER user/{user} {}", way.to)).await?;
        took.push(begun.elapsed().as_secs_f64());
        // Cyrus says OK at the end whatever has become of the account.
        ensure!(!lines.iter().any(|line| line.starts_with("NO ")), "XFER was answered {lines:?}");
        clients.are_well(WELL_WITHIN).await;
    }
    tokio::time::sleep(QUIET).await;
    let seen = clients.end().await?;
    let status = contender.login(user).await?.lines("STATUS INBOX (MESSAGES)").await?.join(" ");
    ensure!(status.contains(&format!("MESSAGES {MESSAGES})")), "{status} after the moves");
    let ([reads, writes, idle], [there, back]) = (&seen[..], &took[..]) else {
        bail!("{} clients, {} moves", seen.len(), took.len())
    };
    Ok(vec![
        ("there, s", *there),
        ("back, s", *back),
        ("longest write, ms", writes.longest_ms()),
        ("longest read, ms", reads.longest_ms()),
        ("longest without news in IDLE, ms", idle.longest_ms()),
        ("refused, s", steady::refused(&seen).as_secs_f64()),
        ("sessions cut off", seen.iter().map(|seen| f64::from(seen.cuts)).sum()),
        ("write p50, ms", middle_ms(&writes.waits)),
        ("read p50, ms", middle_ms(&reads.waits)),
    ])
}
