//! Very large and very odd messages, and clients that do not read what they asked for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rookery_tests::bodystructure;
use rookery_tests::imap::{Imap, Status};
use rookery_tests::process;

use crate::{message, server_with_joe};

/// Octets of a large message: below the largest that is taken by default.
const LARGE: usize = 50 << 20;
/// What the server's memory may grow by while one large message passes through it.
const GROWTH_MAX: u64 = 20 << 20;

fn large(subject: &str) -> Vec<u8> {
    let line = "all work and no play makes a mail server a dull program, line after line\r\n";
    let mut octets = message(subject, "").into_bytes();
    octets.reserve(LARGE + line.len());
    while octets.len() < LARGE {
        octets.extend_from_slice(line.as_bytes());
    }
    octets
}

#[test]
fn fifty_megabytes_pass_through_little_memory() -> Result<()> {
    let mut server = server_with_joe()?;
    let text = large("large");
    let mut imap = server.login("joe")?;
    imap.append_ok("INBOX", "", message("small", "so that everything is warm").as_bytes())?;
    imap.ok("SELECT INBOX")?;
    imap.ok("FETCH 1 (BODYSTRUCTURE BODY.PEEK[])")?;
    let pid = server.pid()?;
    process::reset_peak(pid)?;
    let before = process::peak(pid)?;
    let mut stages = Vec::new();
    let mut stage = |what: &str, began: Instant| -> Result<()> {
        let growth = process::peak(pid)?.saturating_sub(before);
        let mib = growth as f64 / f64::from(1 << 20);
        eprintln!("{what}: {:.2} s, memory grew by {mib:.1} MiB at most", began.elapsed().as_secs_f64());
        stages.push((what.to_owned(), growth));
        Ok(())
    };
    let began = Instant::now();
    imap.append_ok("INBOX", "", &text)?;
    stage("APPEND", began)?;
    let began = Instant::now();
    let fetched = imap.ok("FETCH 2 (RFC822.SIZE BODY.PEEK[])")?.fetches()?;
    stage("FETCH", began)?;
    let fetch = fetched.first().context("nothing fetched")?;
    ensure!(fetch.body("BODY[]")? == text && fetch.get("RFC822.SIZE")?.number()? == text.len() as u64);
    drop(fetched);
    let began = Instant::now();
    imap.ok("FETCH 2 (ENVELOPE BODYSTRUCTURE)")?;
    stage("FETCH BODYSTRUCTURE", began)?;
    let began = Instant::now();
    server.deliver("joe", &text)?;
    stage("LMTP", began)?;
    for (what, growth) in stages {
        ensure!(growth < GROWTH_MAX, "after {what} memory had grown by {growth} octets");
    }
    imap.ok("LOGOUT")?;
    server.stop()
}

#[test]
fn a_client_that_stops_reading_holds_nobody_up() -> Result<()> {
    let mut server = server_with_joe()?;
    let text = large("unread");
    let mut stalled = server.login("joe")?;
    stalled.append_ok("INBOX", "", &text)?;
    stalled.ok("SELECT INBOX")?;
    let pid = server.pid()?;
    process::reset_peak(pid)?;
    let before = process::peak(pid)?;
    let tag = stalled.send("FETCH 1 BODY.PEEK[]")?;
    let mut listener = server.login("joe")?;
    listener.ok("SELECT INBOX")?;
    let mut slowest = Duration::ZERO;
    for number in 2..=40 {
        let idle = listener.idle()?;
        let began = Instant::now();
        server.deliver("joe", message("meanwhile", "x").as_bytes())?;
        let wanted = format!("* {number} EXISTS");
        while listener.response()? != wanted.as_bytes() {}
        slowest = slowest.max(began.elapsed());
        ensure!(listener.done(&idle)?.status == Status::Ok);
        listener.ok(&format!("STORE {number} +FLAGS (\\Seen)"))?;
    }
    eprintln!("beside a client that does not read, the slowest delivery took {slowest:?}");
    ensure!(slowest < Duration::from_secs(1), "a delivery took {slowest:?}");
    let growth = process::peak(pid)?.saturating_sub(before);
    ensure!(growth < GROWTH_MAX, "memory grew by {growth} octets");
    // When it reads again, all is there.
    let reply = stalled.answer(&tag)?;
    let fetched = reply.fetches()?;
    ensure!(fetched.iter().any(|fetch| fetch.body("BODY[]").is_ok_and(|octets| octets == text)));
    // Another one never does, and goes.
    let mut gone = server.login("joe")?;
    gone.ok("SELECT INBOX")?;
    gone.send("FETCH 1 BODY.PEEK[]")?;
    std::thread::sleep(Duration::from_millis(200));
    drop(gone);
    server.deliver("joe", message("afterwards", "x").as_bytes())?;
    server.stop()
}

fn odd_messages() -> Vec<(&'static str, Vec<u8>)> {
    let mut long_line = b"Subject: one long line\r\n\r\n".to_vec();
    long_line.extend(std::iter::repeat_n(b'x', 1 << 20));
    long_line.extend_from_slice(b"\r\nand a short one\r\n");
    let mut long_field = b"Subject: ".to_vec();
    long_field.extend(std::iter::repeat_n(b'y', 1 << 20));
    long_field.extend_from_slice(b"\r\nFrom: a@example.net\r\n\r\ntext\r\n");
    vec![
        (
            "Latin-1 in the header",
            b"From: J\xf6rg <j@example.net>\r\nSubject: Gr\xfc\xdfe\r\n\r\n\xe4\r\n".to_vec(),
        ),
        ("UTF-8 in the header", "From: Jörg <j@example.net>\r\nSubject: Grüße\r\n\r\nä\r\n".into()),
        ("bare CR in a header", b"Subject: a\rb\r\nX: c\r\r\n\r\ntext\r\n".to_vec()),
        ("bare CR in the body", b"Subject: x\r\n\r\na\rb\r\r\n\rc\r\n\r".to_vec()),
        ("no header", b"\r\nall of this is body\r\n".to_vec()),
        ("no header and no empty line", b"this is no header field\r\nand neither is this\r\n".to_vec()),
        ("no body", b"Subject: nothing below\r\n".to_vec()),
        ("no line end", b"Subject: nothing below".to_vec()),
        ("one octet", b"x".to_vec()),
        ("only an empty line", b"\r\n".to_vec()),
        ("a line of 1 MiB", long_line),
        ("a header field of 1 MiB", long_field),
        ("all octets but NUL, CR and LF", {
            let rest = (1..=255).filter(|octet| !b"\r\n".contains(octet));
            b"Subject: octets\r\n\r\n".iter().copied().chain(rest).chain(*b"\r\n").collect()
        }),
    ]
}

fn round_trip(imap: &mut Imap, octets: &[u8]) -> Result<()> {
    let (_, uid) = imap.append_ok("INBOX", "", octets)?;
    let reply = imap.ok(&format!("UID FETCH {uid} (RFC822.SIZE ENVELOPE BODYSTRUCTURE BODY.PEEK[])"))?;
    let fetches = reply.fetches()?;
    let fetch =
        fetches.iter().find(|fetch| fetch.uid().is_ok_and(|found| found == uid)).context("not fetched")?;
    let got = fetch.body("BODY[]")?;
    ensure!(got == octets, "BODY[] is {}", got[..got.len().min(200)].escape_ascii());
    ensure!(fetch.get("RFC822.SIZE")?.number()? == octets.len() as u64);
    bodystructure::envelope(fetch.get("ENVELOPE")?).context("ENVELOPE")?;
    ensure!(!bodystructure::parts(fetch.get("BODYSTRUCTURE")?).context("BODYSTRUCTURE")?.is_empty());
    Ok(())
}

#[test]
fn odd_messages_come_back_as_they_were() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut imap = server.login("joe")?;
    imap.ok("SELECT INBOX")?;
    let mut faults = Vec::new();
    for (what, octets) in odd_messages() {
        if let Err(error) = round_trip(&mut imap, &octets) {
            faults.push(format!("{what}: {error:#}"));
            imap = server.login("joe")?;
            imap.ok("SELECT INBOX")?;
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    server.check()?;
    server.stop()
}

#[test]
fn nul_and_more_than_is_allowed_are_refused() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut imap = server.login("joe")?;
    imap.ok("SELECT INBOX")?;
    // NUL is no CHAR8 (RFC 9051 §9): a literal cannot hold it.
    let reply = imap.append("INBOX", "", b"Subject: a\0b\r\n\r\ntext\r\n")?;
    ensure!(reply.status != Status::Ok, "NUL was taken: {}", reply.text);
    let mut late = vec![b'x'; 300_000];
    late[299_990] = 0;
    let reply = imap.append("INBOX", "", &late)?;
    ensure!(reply.status != Status::Ok, "NUL far behind was taken: {}", reply.text);
    // 4 GB are refused before they are sent.
    let reply = imap.command("APPEND INBOX {4000000000}")?;
    ensure!(reply.status == Status::No && reply.text.contains("TOOBIG"), "{:?} {}", reply.status, reply.text);
    let reply = imap.ok("NOOP")?;
    ensure!(!reply.lines().iter().any(|line| line.ends_with("EXISTS")), "{:?}", reply.lines());
    let status = imap.ok("STATUS INBOX (MESSAGES)")?.lines().join(" ");
    ensure!(status.contains("MESSAGES 0)"), "{status}");
    server.stop()
}
