//! Delivery by LMTP.

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;

use super::{Row, Values};
use crate::contender::{Contender, Window};
use crate::load::{self, Bound, Users};
use crate::machine::{SyncTrace, written};
use crate::report::{Aim, less, more};

const STAGE: &str = "delivery";
/// Inboxes that deliveries go to in turn.
const INBOXES: usize = 20;
/// How long one measurement goes on.
const TIME: Duration = Duration::from_millis(2_000);
/// Deliveries under strace.
const TRACED: u64 = 1_000;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let aims = [
        (1, Aim::Times(2.5)),
        (8, Aim::Times(4.0)),
        (32, Aim::Times(7.0)),
        (128, Aim::NotWorseThan("lmtp-4k-32")),
    ];
    for (connections, aim) in aims {
        let metrics = [
            more("messages/s", aim),
            less("p50 ms", Aim::Shown),
            less("p99 ms", Aim::Shown),
            less("server CPU ms/message", Aim::AtMost(0.15)),
        ];
        rows.push(Row::new(
            STAGE,
            format!("lmtp-4k-{connections}"),
            format!("LMTP, 4 KB to {INBOXES} inboxes in turn over {connections} connections, 2 s"),
            &metrics,
            prepare,
            move |contender, runtime| deliveries(contender, runtime, connections, 4096),
        ));
    }
    rows.push(Row::new(
        STAGE,
        "lmtp-40k-32",
        "LMTP, 40 KB over 32 connections, 2 s; octets written are those of the server's processes (write_bytes)",
        &[
            more("messages/s", Aim::Times(4.0)),
            less("server CPU ms/message", Aim::Shown),
            less("octets written / received", Aim::AtMost(2.2)),
        ],
        prepare,
        |contender, runtime| deliveries(contender, runtime, 32, 40 << 10),
    ));
    for (connections, most) in [(1, 1.1), (32, 0.2)] {
        let metrics =
            [less("sync rounds/message", Aim::AtMost(most)), less("sync calls/message", Aim::Shown)];
        let row = Row::new(
            STAGE,
            format!("lmtp-4k-syncs-{connections}"),
            format!(
                "syncs that strace saw in {TRACED} deliveries over {connections} connections; those under way at \
                 the same time are one round"
            ),
            &metrics,
            prepare,
            move |contender, runtime| syncs(contender, runtime, connections),
        );
        rows.push(row.once());
    }
    rows
}

fn inboxes(contender: &mut Contender) -> Result<Users> {
    contender.users("u{}", INBOXES)
}

fn prepare(contender: &mut Contender, runtime: &Runtime) -> Result<()> {
    let users = inboxes(contender)?;
    if contender.first("deliveries") {
        runtime.block_on(load::deliver(&contender.lmtp(), &users, 4, 4096, Bound::count(100)))?;
    }
    Ok(())
}

fn deliveries(
    contender: &mut Contender,
    runtime: &Runtime,
    connections: usize,
    octets: usize,
) -> Result<Values> {
    let users = inboxes(contender)?;
    let before = written(contender.server.pid()?);
    let window = Window::open(contender)?;
    let lmtp = contender.lmtp();
    let load = load::deliver(&lmtp, &users, connections, octets, Bound::time(TIME));
    let done = runtime.block_on(load)?;
    let (_, cpu) = window.close();
    let written = written(contender.server.pid()?).saturating_sub(before);
    Ok(vec![
        ("messages/s", done.rate()),
        ("p50 ms", done.percentile_ms(50)),
        ("p99 ms", done.percentile_ms(99)),
        ("server CPU ms/message", cpu * 1e3 / done.count as f64),
        ("octets written / received", written as f64 / done.octets as f64),
    ])
}

fn syncs(contender: &mut Contender, runtime: &Runtime, connections: usize) -> Result<Values> {
    let users = inboxes(contender)?;
    let trace = SyncTrace::attach(contender.server.pid()?, contender.server.root())?;
    let lmtp = contender.lmtp();
    let load = load::deliver(&lmtp, &users, connections, 4096, Bound::count(TRACED));
    let done = runtime.block_on(load)?;
    let syncs = trace.end()?;
    let each = |number: usize| number as f64 / done.count as f64;
    Ok(vec![("sync rounds/message", each(syncs.rounds)), ("sync calls/message", each(syncs.calls))])
}
