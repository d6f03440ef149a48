//! What a client pays for being connected to another node than its mail: each server with an edge before it. Rookery's
//! edge is a node that only serves, over links with mutual TLS; Cyrus's a frontend, Dovecot's and nginx's a proxy, all
//! three in plain text. Clients come in plain text. nginx stands before a Rookery.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rookery_tests::process;
use rookery_tests::server::{PASSWORD, Program};
use tokio::runtime::Runtime;

use super::{Row, Values, memory};
use crate::client::{Imap, Lmtp, Target};
use crate::contender::{Contender, Window};
use crate::edge::Before;
use crate::load::{self, Bound, Done, Users};
use crate::machine::KeptAwake;
use crate::report::{Aim, Metric, less, more};

const STAGE: &str = "proxies";
const ETCD_STAGE: &str = "proxies-etcd";
const MEMORY_STAGE: &str = "proxies-memory";
const DIRECTORY_STAGE: &str = "proxies-directory";
const ALL: &[Program] = &[Program::Rookery, Program::Cyrus, Program::Dovecot, Program::Nginx];
/// nginx has no LMTP.
const WITH_LMTP: &[Program] = &[Program::Rookery, Program::Cyrus, Program::Dovecot];
/// The others have no accounts that are made over IMAP.
const WITH_ACCOUNTS: &[Program] = &[Program::Rookery, Program::Cyrus];
/// Users, and messages of 4 KB that each of them has.
const USERS: usize = 20;
/// Users of idle sessions.
const IDLE_USERS: usize = 80;
const MESSAGES: usize = 20;
/// A mailbox beside INBOX.
const OTHER: &str = "Other";
/// Turns of either way in one measurement, and commands of a turn.
const TURNS: usize = 10;
const COMMANDS: usize = 200;
/// How long loads go on.
const TIME: Duration = Duration::from_secs(2);
/// Messages of 1 MB.
const LARGE: usize = 100;
/// Administrators who make accounts at the same time.
const ADMINISTRATORS: usize = 64;
/// Accounts of a large directory, and mailboxes of them that are shared.
const ACCOUNTS: u64 = 250_000;
const SHARED: u64 = 100_000;
/// How long an edge may take until it knows the users: a Cyrus frontend asks every five seconds.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![
        latency(
            "proxy-noop",
            "NOOP with INBOX selected, 2,000 times straight at the home and as often through the edge, by turns of 200; \
             no core of the machine sleeps meanwhile",
            true,
            "NOOP",
        ),
        latency(
            "proxy-status",
            "STATUS of another mailbox, in the same way",
            true,
            "STATUS Other (MESSAGES UNSEEN UIDNEXT UIDVALIDITY)",
        ),
        latency(
            "proxy-noop-asleep",
            "NOOP in the same way, and cores that have nothing to do sleep: each of four ways has to wake one, straight \
             each of two",
            false,
            "NOOP",
        ),
        row(
            "proxy-fetch-4k",
            "one FETCH of BODY.PEEK[] of 4 KB through the edge, 50 times",
            &[less("p50 ms", Aim::AtMost(5.0)), less("p50 ms", Aim::Times(1.0)), less("p99 ms", Aim::Shown)],
            fetch_one,
        ),
        row(
            "proxy-bodies-1m",
            "FETCH 1:* (BODY.PEEK[]) of 100 messages of 1 MB over one connection, three times, straight and through",
            &[
                more("MB/s", Aim::TimesPeer("nginx", 0.7)),
                more("straight MB/s", Aim::Shown),
                less("edge CPU ms/GB", Aim::Shown),
            ],
            bodies,
        ),
        row(
            "proxy-logins",
            "login, SELECT INBOX, logout on new connections by 4 clients, 2 s through the edge and 2 s straight",
            &[
                more("sessions/s", Aim::Times(3.0)),
                more("straight sessions/s", Aim::Shown),
                less("edge CPU ms/session", Aim::Shown),
            ],
            logins,
        ),
        row(
            "proxy-lmtp-8",
            "LMTP, 4 KB to 20 inboxes in turn over 8 connections, 2 s through the edge and 2 s straight",
            &[
                more("messages/s", Aim::Times(4.0)),
                more("straight messages/s", Aim::Shown),
                less("edge CPU ms/message", Aim::Shown),
            ],
            lmtp,
        )
        .of(WITH_LMTP),
    ];
    rows.extend(of_accounts(STAGE, "", "").map(|row| row.behind_edges(WITH_ACCOUNTS)));
    rows.extend(of_accounts(ETCD_STAGE, "-etcd", ", the directory in etcd, three members").map(|row| {
        let row = row.behind_edges(&[Program::Rookery]);
        Row { before: Before::EdgeOfEtcd, ..row }
    }));
    let idle = Row::new(
        MEMORY_STAGE,
        "proxy-idle",
        "growth of the edge's PSS for each session in IDLE through it: from 1,000 to 10,000 sessions of 80 users, for \
         Cyrus and Dovecot from 100 to 500",
        &[less("edge KiB/session", Aim::AtMost(12.0)), less("home KiB/session", Aim::Shown)],
        |contender, runtime| filled(contender, runtime, IDLE_USERS),
        idle,
    );
    rows.push(idle.once().behind_edges(ALL));
    let directory = Row::new(
        DIRECTORY_STAGE,
        "proxy-directory",
        "250,000 users of six mailboxes each made through the edge, which holds none, 100,000 of the mailboxes shared: \
         rates at 64 connections; the edge's memory when it has followed, and when it was started anew and a user has \
         logged in and listed; how long that took",
        &[
            more("creations/s", Aim::AtLeast(1000.0)),
            more("SETACL/s", Aim::Shown),
            less("edge PSS MiB, followed", Aim::AtMost(256.0)),
            less("edge PSS MiB, restarted", Aim::AtMost(256.0)),
            less("start to first LIST, s", Aim::AtMost(1.0)),
        ],
        prepare,
        directory,
    );
    rows.push(directory.once().behind_edges(&[Program::Rookery]));
    rows
}

/// What is added to one command.
fn latency(name: &str, title: &str, awake: bool, command: &'static str) -> Row {
    let metrics = [
        less("added p50 µs", Aim::AtMost(50.0)),
        less("added p50 µs", Aim::Times(1.0)),
        less("through p50 µs", Aim::Shown),
        less("through p99 µs", Aim::Shown),
        less("straight p50 µs", Aim::Shown),
        less("edge CPU µs/command", Aim::Shown),
    ];
    let row = Row::new(STAGE, name, title, &metrics, prepare, move |contender, runtime| {
        let _awake = awake.then(KeptAwake::begin).transpose()?;
        added(contender, runtime, command)
    });
    row.behind_edges(ALL)
}

/// Rows of accounts that are made through the edge, in a directory of this kind.
fn of_accounts(stage: &'static str, suffix: &str, where_to: &str) -> [Row; 2] {
    [
        Row::new(
            stage,
            format!("proxy-create{suffix}"),
            format!("CREATE of users by 64 connections of the administrator to the edge, 2 s{where_to}"),
            &[
                more("creations/s", Aim::AtLeast(1000.0)),
                less("p50 ms", Aim::Shown),
                less("p99 ms", Aim::Shown),
            ],
            prepare,
            create,
        ),
        Row::new(
            stage,
            format!("proxy-visible{suffix}"),
            format!(
                "from the OK of CREATE of a user at the home until the edge's LMTP takes the name; 200 times, Cyrus \
                 2{where_to}"
            ),
            &[less("p50 ms", Aim::AtMost(10.0)), less("max ms", Aim::AtMost(10.0))],
            prepare,
            visible,
        ),
    ]
}

fn row(
    name: &str,
    title: &str,
    metrics: &[Metric],
    measure: fn(&mut Contender, &Runtime) -> Result<Values>,
) -> Row {
    Row::new(STAGE, name, title, metrics, prepare, measure).behind_edges(ALL)
}

fn prepare(contender: &mut Contender, runtime: &Runtime) -> Result<()> {
    filled(contender, runtime, USERS)
}

fn filled(contender: &mut Contender, runtime: &Runtime, count: usize) -> Result<()> {
    let users = contender.users("u{}", count)?;
    if !contender.first("mail") {
        return Ok(());
    }
    let through = Target::plain(contender.edge()?.imap);
    runtime.block_on(async {
        let mail = Bound::count((count * MESSAGES) as u64);
        load::deliver(&contender.lmtp(), &users, 4, 4096, mail).await?;
        for number in 0..count {
            let mut client = contender.login(&users.name(number)).await?;
            client.ok(&format!("CREATE {OTHER}")).await?;
            known(&through, &users.name(number), OTHER).await?;
        }
        Ok(())
    })
}

/// Waits until a user and one of their mailboxes are found through an edge.
pub(super) async fn known(through: &Target, user: &str, mailbox: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let tried = async {
            let mut client = selected(through, user).await?;
            client.ok(&format!("STATUS {mailbox} (MESSAGES)")).await
        };
        match tried.await {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > KNOWN_WITHIN => {
                return Err(error.context(format!("the edge does not find {user}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn selected(target: &Target, user: &str) -> Result<Imap> {
    let mut client = Imap::login(target, user, PASSWORD).await?;
    client.ok("SELECT INBOX").await?;
    Ok(client)
}

fn both_ways(contender: &Contender) -> Result<[Target; 2]> {
    Ok([contender.imap(), Target::plain(contender.edge()?.imap)])
}

async fn repeat(client: &mut Imap, command: &str, times: usize, done: &mut Done) -> Result<()> {
    for _ in 0..times {
        let begun = Instant::now();
        client.ok(command).await?;
        done.latencies.push(begun.elapsed());
    }
    Ok(())
}

fn added(contender: &mut Contender, runtime: &Runtime, command: &str) -> Result<Values> {
    let [straight, through] = both_ways(contender)?;
    runtime.block_on(async {
        let mut near = selected(&straight, "u1").await?;
        let mut far = selected(&through, "u1").await?;
        let (mut straight, mut through) = (Done::default(), Done::default());
        for client in [&mut near, &mut far] {
            repeat(client, command, COMMANDS, &mut Done::default()).await?;
        }
        let window = Window::of(contender.edge()?)?;
        for _ in 0..TURNS {
            repeat(&mut near, command, COMMANDS, &mut straight).await?;
            repeat(&mut far, command, COMMANDS, &mut through).await?;
        }
        let (_, cpu) = window.close();
        for done in [&mut straight, &mut through] {
            done.latencies.sort_unstable();
        }
        let us = |done: &Done, percent| done.percentile_ms(percent) * 1e3;
        Ok(vec![
            ("added p50 µs", us(&through, 50) - us(&straight, 50)),
            ("through p50 µs", us(&through, 50)),
            ("through p99 µs", us(&through, 99)),
            ("straight p50 µs", us(&straight, 50)),
            ("edge CPU µs/command", cpu * 1e6 / through.latencies.len() as f64),
        ])
    })
}

fn fetch_one(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let [_, through] = both_ways(contender)?;
    runtime.block_on(async {
        let mut client = selected(&through, "u1").await?;
        let mut done = Done::default();
        for number in (1..=MESSAGES).cycle().take(50) {
            let begun = Instant::now();
            let brought = client.ok(&format!("FETCH {number} (BODY.PEEK[])")).await?;
            done.latencies.push(begun.elapsed());
            ensure!(brought.literal_octets > 4000, "{} octets", brought.literal_octets);
        }
        done.latencies.sort_unstable();
        Ok(vec![("p50 ms", done.percentile_ms(50)), ("p99 ms", done.percentile_ms(99))])
    })
}

fn bodies(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let users = contender.users("b1m", 1)?;
    let [straight, through] = both_ways(contender)?;
    runtime.block_on(async {
        if contender.first("b1m") {
            load::deliver(&contender.lmtp(), &users, 4, 1 << 20, Bound::count(LARGE as u64)).await?;
            contender.login("b1m").await?.ok(&format!("CREATE {OTHER}")).await?;
            known(&through, "b1m", OTHER).await?;
            // Whatever a first reading has to build is there afterwards.
            selected(&straight, "b1m").await?.ok("FETCH 1:* (BODY.PEEK[])").await?;
        }
        let mut rates = [0.0; 2];
        let window = Window::of(contender.edge()?)?;
        let mut octets = 0;
        for (target, rate) in [straight, through].iter().zip(&mut rates) {
            let mut client = selected(target, "b1m").await?;
            let begun = Instant::now();
            octets = 0;
            for _ in 0..3 {
                let brought = client.ok("FETCH 1:* (BODY.PEEK[])").await?;
                ensure!(brought.fetches == LARGE, "{} responses for {LARGE}", brought.fetches);
                octets += brought.literal_octets;
            }
            *rate = octets as f64 / 1e6 / begun.elapsed().as_secs_f64();
        }
        let (_, cpu) = window.close();
        let [straight, through] = rates;
        Ok(vec![
            ("MB/s", through),
            ("straight MB/s", straight),
            ("edge CPU ms/GB", cpu * 1e3 / (octets as f64 / 1e9)),
        ])
    })
}

fn logins(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let users = contender.users("u{}", USERS)?;
    let [straight, through] = both_ways(contender)?;
    runtime.block_on(async {
        // Each password is known to both by then.
        for target in [&straight, &through] {
            load::logins(target, &users, 4, Bound::count(2 * USERS as u64)).await?;
        }
        let window = Window::of(contender.edge()?)?;
        let done = load::logins(&through, &users, 4, Bound::time(TIME)).await?;
        let (_, cpu) = window.close();
        let near = load::logins(&straight, &users, 4, Bound::time(TIME)).await?;
        Ok(vec![
            ("sessions/s", done.rate()),
            ("straight sessions/s", near.rate()),
            ("edge CPU ms/session", cpu * 1e3 / done.count as f64),
        ])
    })
}

fn lmtp(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let users = contender.users("u{}", USERS)?;
    let through = Target::plain(contender.edge()?.lmtp);
    runtime.block_on(async {
        let window = Window::of(contender.edge()?)?;
        let done = load::deliver(&through, &users, 8, 4096, Bound::time(TIME)).await?;
        let (_, cpu) = window.close();
        let near = load::deliver(&contender.lmtp(), &users, 8, 4096, Bound::time(TIME)).await?;
        Ok(vec![
            ("messages/s", done.rate()),
            ("straight messages/s", near.rate()),
            ("edge CPU ms/message", cpu * 1e3 / done.count as f64),
        ])
    })
}

/// Through the edge.
async fn administer(
    contender: &Contender,
    bound: Bound,
    command: impl Fn(u64) -> String + Clone + Send + 'static,
) -> Result<Done> {
    let pattern = contender.administrator()?.to_owned();
    let admin = Users { pattern, count: 1, password: PASSWORD.to_owned() };
    let through = Target::plain(contender.edge()?.imap);
    load::administer(&through, &admin, ADMINISTRATORS, bound, command).await
}

fn create(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let prefix = format!("c{}x", contender.fresh());
    let command = move |number| format!("CREATE user/{prefix}{number}");
    let done = runtime.block_on(administer(contender, Bound::time(TIME), command))?;
    Ok(vec![
        ("creations/s", done.rate()),
        ("p50 ms", done.percentile_ms(50)),
        ("p99 ms", done.percentile_ms(99)),
    ])
}

fn visible(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let times = if contender.is_rookery() { 200 } else { 2 };
    let prefix = format!("v{}x", contender.fresh());
    runtime.block_on(async {
        let mut admin = contender.login(contender.administrator()?).await?;
        let mut asking = Lmtp::connect(&Target::plain(contender.edge()?.lmtp)).await?;
        ensure!(!asking.knows(&format!("{prefix}nobody")).await?, "the edge takes mail for anybody");
        let mut done = Done::default();
        for number in 0..times {
            let user = format!("{prefix}{number}");
            admin.ok(&format!("CREATE user/{user}")).await?;
            let begun = Instant::now();
            while !asking.knows(&user).await? {
                ensure!(begun.elapsed() < KNOWN_WITHIN, "the edge does not hear of {user}");
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            done.latencies.push(begun.elapsed());
        }
        done.latencies.sort_unstable();
        Ok(vec![("p50 ms", done.percentile_ms(50)), ("max ms", done.percentile_ms(100))])
    })
}

fn directory(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let (made, shared) = runtime.block_on(async {
        let create = |number| format!("CREATE user/d{number}");
        let made = administer(contender, Bound::count(ACCOUNTS), create).await?;
        // Each is shared with someone else.
        let share = |number: u64| format!("SETACL user/d{number} d{} lr", (number * 7 + 1) % ACCOUNTS);
        let shared = administer(contender, Bound::count(SHARED), share).await?;
        let mut asking = Lmtp::connect(&Target::plain(contender.edge()?.lmtp)).await?;
        ensure!(asking.knows(&format!("d{}", ACCOUNTS - 1)).await?, "the edge does not follow");
        anyhow::Ok((made, shared))
    })?;
    std::thread::sleep(memory::SETTLE);
    let mib = |octets: u64| octets as f64 / f64::from(1 << 20);
    let followed = process::pss(contender.edge()?.pid()?);
    contender.edge_mut()?.stop()?;
    let begun = Instant::now();
    contender.edge_mut()?.launch()?;
    let edge = contender.edge()?;
    let listed = runtime.block_on(async {
        let mut client = Imap::login(&Target::plain(edge.imap), "u1", PASSWORD).await?;
        client.lines("LIST \"\" *").await
    })?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(listed.len() >= 2, "{listed:?}");
    Ok(vec![
        ("creations/s", made.rate()),
        ("SETACL/s", shared.rate()),
        ("edge PSS MiB, followed", mib(followed)),
        ("edge PSS MiB, restarted", mib(process::pss(edge.pid()?))),
        ("start to first LIST, s", took),
    ])
}

fn idle(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    let (few, many) = match contender.program() {
        Program::Rookery | Program::Nginx => (1_000, 10_000),
        Program::Cyrus | Program::Dovecot => (100, 500),
    };
    let [_, through] = both_ways(contender)?;
    let (edge, home) = (contender.edge()?.pid()?, contender.server.pid()?);
    let pss = || [process::pss(edge), process::pss(home)];
    runtime.block_on(async {
        let mut clients = Vec::with_capacity(many);
        memory::open(&mut clients, &through, "u{}", IDLE_USERS, few).await?;
        tokio::time::sleep(memory::SETTLE).await;
        let before = pss();
        memory::open(&mut clients, &through, "u{}", IDLE_USERS, many).await?;
        tokio::time::sleep(memory::SETTLE).await;
        let after = pss();
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / 1024.0 / (many - few) as f64;
        let ([edge_after, home_after], [edge_before, home_before]) = (after, before);
        Ok(vec![
            ("edge KiB/session", each(edge_after, edge_before)),
            ("home KiB/session", each(home_after, home_before)),
        ])
    })
}
