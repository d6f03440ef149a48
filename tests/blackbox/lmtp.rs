//! LMTP at its edges: very many recipients, transactions that are cut off.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use rookery_tests::lmtp::{Lmtp, stuffed};
use rookery_tests::server::Server;

use crate::{message, server_with_joe};

const RECIPIENTS: usize = 1_000;

fn exists(server: &Server, user: &str) -> Result<String> {
    Ok(server.login(user)?.ok("STATUS INBOX (MESSAGES)")?.lines().join(" "))
}

#[test]
fn a_thousand_recipients_in_one_transaction() -> Result<()> {
    let mut server = Server::start()?;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= RECIPIENTS {
                            return Ok(());
                        }
                        server.add_user(&format!("u{number}"))?;
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    let names: Vec<String> = (0..RECIPIENTS).map(|number| format!("u{number}@example.org")).collect();
    let recipients: Vec<&str> = names.iter().map(String::as_str).chain(["nobody@example.org"]).collect();
    let began = Instant::now();
    let answers = Lmtp::connect(server.lmtp)?.deliver(
        "ada@example.net",
        &recipients,
        message("all", "x").as_bytes(),
    )?;
    eprintln!("{RECIPIENTS} recipients: {:.2} s", began.elapsed().as_secs_f64());
    ensure!(answers.len() == RECIPIENTS + 1);
    let (unknown, known) = answers.split_last().map_or((None, &answers[..]), |(last, all)| (Some(last), all));
    ensure!(unknown.is_some_and(|answer| answer.code == 550), "{unknown:?}");
    if let Some(other) = known.iter().find(|answer| answer.code != 250) {
        anyhow::bail!("one of {RECIPIENTS} was answered {other:?}");
    }
    for number in [0, 1, 499, 998, 999] {
        let status = exists(&server, &format!("u{number}"))?;
        ensure!(status.contains("MESSAGES 1)"), "u{number}: {status}");
    }
    server.check()?;
    server.stop()
}

#[test]
fn a_connection_cut_inside_data_stores_nothing() -> Result<()> {
    let mut server = server_with_joe()?;
    let whole = stuffed(message("cut", &"a line of text\r\n".repeat(20_000)).as_bytes());
    let (last, half) = (whole.len() - 3, whole.len() / 2);
    // In the header, in the middle, before the final dot, and after the dot but before its line's end.
    for cut in [0, 40, half, last, last + 1, last + 2] {
        let mut client = Lmtp::connect(server.lmtp)?;
        ensure!(client.command("MAIL FROM:<ada@example.net>")?.code == 250);
        ensure!(client.command("RCPT TO:<joe@example.org>")?.code == 250);
        ensure!(client.command("DATA")?.code == 354);
        client.send(&whole[..cut])?;
        drop(client);
    }
    if Lmtp::connect(server.lmtp)?.extensions.iter().any(|line| line == "CHUNKING") {
        let mut client = Lmtp::connect(server.lmtp)?;
        client.command("MAIL FROM:<ada@example.net>")?;
        client.command("RCPT TO:<joe@example.org>")?;
        client.send(b"BDAT 1000 LAST\r\nSubject: half a chunk\r\n\r\n")?;
        drop(client);
        let mut client = Lmtp::connect(server.lmtp)?;
        client.command("MAIL FROM:<ada@example.net>")?;
        client.command("RCPT TO:<joe@example.org>")?;
        client.send(b"BDAT 12\r\nSubject: x\r\n")?;
        ensure!(client.answer()?.code == 250);
        drop(client);
    }
    server.deliver("joe", message("whole", "x").as_bytes())?;
    let status = exists(&server, "joe")?;
    ensure!(status.contains("MESSAGES 1)"), "{status}");
    server.restart()?;
    let status = exists(&server, "joe")?;
    ensure!(status.contains("MESSAGES 1)"), "after a restart: {status}");
    server.check()?;
    server.stop()
}
