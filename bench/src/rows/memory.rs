//! Memory of sessions that wait.

use std::time::Duration;

use anyhow::Result;
use rookery_tests::process;
use rookery_tests::server::PASSWORD;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::{Row, Values};
use crate::client::{Imap, Target};
use crate::contender::Contender;
use crate::report::{Aim, less};

const STAGE: &str = "memory";
/// Messages in each selected mailbox.
const MESSAGES: usize = 10_000;
/// How many clients come in at the same time.
const AT_ONCE: usize = 50;
/// How long the server may give back what opening sessions took, before it is measured.
pub(super) const SETTLE: Duration = Duration::from_secs(3);

/// Accounts, and the two numbers of sessions whose difference counts. The peers need megabytes for each session.
fn scale(contender: &Contender) -> (usize, usize, usize) {
    if contender.is_rookery() { (80, 1_000, 15_000) } else { (5, 100, 500) }
}

pub(super) fn rows() -> Vec<Row> {
    let row = |tls: bool| {
        let kind = if tls { "tls" } else { "plain" };
        let title = format!(
            "growth of PSS for each session ({kind}) in IDLE with a mailbox of 10,000 selected: from 1,000 to 15,000 \
             sessions of 80 accounts, for the peers from 100 to 500 of 5"
        );
        let most = if tls { 20.0 } else { 10.0 };
        let metrics = [less("KiB/session", Aim::AtMost(most))];
        Row::new(STAGE, format!("idle-{kind}"), title, &metrics, prepare, move |contender, runtime| {
            slope(contender, runtime, tls)
        })
        .once()
    };
    vec![row(false), row(true).alone()]
}

fn prepare(contender: &mut Contender, runtime: &Runtime) -> Result<()> {
    let accounts = scale(contender).0;
    contender.users("m{}", accounts)?;
    (1..=accounts).try_for_each(|number| contender.large_inbox(runtime, &format!("m{number}"), MESSAGES))
}

fn slope(contender: &mut Contender, runtime: &Runtime, tls: bool) -> Result<Values> {
    let (accounts, few, many) = scale(contender);
    // What an earlier load left free in the server's memory would hide what sessions take.
    contender.restart()?;
    let pid = contender.server.pid()?;
    let target = if tls {
        Target::tls(contender.server.imaps, &contender.server.certificate.cert)?
    } else {
        contender.imap()
    };
    runtime.block_on(async {
        let mut clients = Vec::with_capacity(many);
        open(&mut clients, &target, "m{}", accounts, few).await?;
        tokio::time::sleep(SETTLE).await;
        let before = process::pss(pid);
        open(&mut clients, &target, "m{}", accounts, many).await?;
        tokio::time::sleep(SETTLE).await;
        let after = process::pss(pid);
        let each = after.saturating_sub(before) as f64 / 1024.0 / (many - few) as f64;
        Ok(vec![("KiB/session", each)])
    })
}

/// Opens sessions of these users until there are so many.
pub(super) async fn open(
    clients: &mut Vec<Imap>,
    target: &Target,
    pattern: &str,
    accounts: usize,
    until: usize,
) -> Result<()> {
    while clients.len() < until {
        let mut set = JoinSet::new();
        for number in clients.len()..(clients.len() + AT_ONCE).min(until) {
            let user = pattern.replace("{}", &(1 + number % accounts).to_string());
            let target = target.clone();
            set.spawn(async move {
                let mut client = Imap::login(&target, &user, PASSWORD).await?;
                client.ok("SELECT INBOX").await?;
                client.idle().await?;
                anyhow::Ok(client)
            });
        }
        while let Some(client) = set.join_next().await {
            clients.push(client??);
        }
    }
    Ok(())
}
