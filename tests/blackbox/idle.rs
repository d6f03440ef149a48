//! What an idle client hears, how soon, and how it is told good-bye.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rookery_tests::imap::{Imap, Status};
use rookery_tests::server::Server;

use crate::{message, server_with_joe};

/// A notification that takes longer fails a test. The aim is 100 ms, on a machine that does nothing else.
const LATE: Duration = Duration::from_secs(1);

/// Runs `change` while another client idles; the time from its acknowledgement until the line that `wanted` knows.
fn heard_after(
    idler: &mut Imap,
    wanted: impl Fn(&str) -> bool + Sync,
    change: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let tag = idler.idle()?;
    let (heard, acknowledged) = std::thread::scope(|scope| -> Result<(Instant, Instant)> {
        let listener = scope.spawn(|| -> Result<Instant> {
            loop {
                let line = String::from_utf8_lossy(&idler.response()?).into_owned();
                if wanted(&line) {
                    return Ok(Instant::now());
                }
            }
        });
        change()?;
        let acknowledged = Instant::now();
        let heard = listener.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
        Ok((heard, acknowledged))
    })?;
    ensure!(idler.done(&tag)?.status == Status::Ok);
    Ok(heard.saturating_duration_since(acknowledged))
}

fn in_time(what: &str, took: Duration) -> Result<()> {
    eprintln!("{what}: heard {:.1} ms after the acknowledgement", took.as_secs_f64() * 1e3);
    ensure!(took < LATE, "{what} was heard after {took:?}");
    Ok(())
}

#[test]
fn delivery_flags_and_expunge_are_heard_at_once() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut idler = server.login("joe")?;
    idler.ok("SELECT INBOX")?;
    let mut actor = server.login("joe")?;
    for round in 1..=5 {
        let took = heard_after(
            &mut idler,
            |line| line == "* 1 EXISTS",
            || server.deliver("joe", message("news", "x").as_bytes()),
        )?;
        in_time(&format!("delivery {round}"), took)?;
        actor.ok("SELECT INBOX")?;
        let flagged = |line: &str| line.contains("FETCH") && line.contains("\\Flagged");
        let took =
            heard_after(&mut idler, flagged, || actor.ok("STORE 1 +FLAGS (\\Flagged \\Deleted)").map(drop))?;
        in_time(&format!("flags {round}"), took)?;
        let gone = |line: &str| line == "* 1 EXPUNGE" || line.starts_with("* VANISHED");
        let took = heard_after(&mut idler, gone, || actor.ok("EXPUNGE").map(drop))?;
        in_time(&format!("expunge {round}"), took)?;
    }
    server.stop()
}

#[test]
fn a_stop_says_bye_to_the_idle() -> Result<()> {
    let mut server = server_with_joe()?;
    let (mut idler, mut fresh, mut selected) =
        (server.login("joe")?, Imap::connect(server.imap)?, server.login("joe")?);
    idler.ok("SELECT INBOX")?;
    idler.idle()?;
    selected.ok("SELECT INBOX")?;
    let began = Instant::now();
    // Fails unless the exit code is 0.
    server.stop()?;
    ensure!(began.elapsed() < Duration::from_secs(20), "the stop took {:?}", began.elapsed());
    for (who, client) in [("idle", &mut idler), ("not logged in", &mut fresh), ("selected", &mut selected)] {
        let line = client.response().with_context(|| format!("the client that was {who} heard nothing"))?;
        ensure!(line.starts_with(b"* BYE"), "the client that was {who} heard {}", line.escape_ascii());
    }
    Ok(())
}

/// Lines that tell of messages, up to the tagged answer of NOOP.
fn told(imap: &mut Imap) -> Result<Vec<String>> {
    Ok(imap.ok("NOOP")?.lines())
}

#[test]
fn a_silent_client_hears_all_at_its_next_command() -> Result<()> {
    let mut server: Server = server_with_joe()?;
    let mut silent = server.login("joe")?;
    silent.ok("SELECT INBOX")?;
    server.deliver("joe", message("one", "x").as_bytes())?;
    server.deliver("joe", message("two", "x").as_bytes())?;
    ensure!(told(&mut silent)?.contains(&"2 EXISTS".to_owned()));
    let mut actor = server.login("joe")?;
    actor.ok("SELECT INBOX")?;
    actor.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")?;
    actor.ok("EXPUNGE")?;
    ensure!(told(&mut silent)?.contains(&"1 EXPUNGE".to_owned()));
    server.stop()
}
