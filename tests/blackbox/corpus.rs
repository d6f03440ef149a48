//! The whole corpus of real mail goes in by LMTP and by APPEND, and comes out as it was.

use anyhow::{Context, Result, ensure};
use rookery_tests::corpus::{self, Message, crlf};
use rookery_tests::lmtp::Lmtp;
use rookery_tests::server::{Program, Server};

use crate::mbsync::Mbsync;

/// As a server has it that was given lines: CRLF throughout, the last line ended.
fn as_delivered(message: &Message) -> Vec<u8> {
    let mut octets = crlf(&message.octets);
    if !octets.ends_with(b"\r\n") {
        octets.extend_from_slice(b"\r\n");
    }
    octets
}

/// What stands before the message is exactly one Return-Path field and one Received field.
fn check_trace_fields(octets: &[u8], program: Program) -> Result<()> {
    let text = String::from_utf8_lossy(octets);
    let mut names: Vec<&str> = text
        .split_terminator("\r\n")
        .filter(|line| !line.starts_with([' ', '\t']))
        .map(|line| line.split(':').next().unwrap_or_default())
        .collect();
    if program == Program::Dovecot {
        names.retain(|name| *name != "Delivered-To");
    }
    ensure!(names == ["Return-Path", "Received"], "fields at the top: {text}");
    Ok(())
}

/// All messages of INBOX in UID order, by FETCH BODY[].
fn fetch_all(server: &Server, user: &str) -> Result<Vec<Vec<u8>>> {
    let mut imap = server.login(user)?;
    imap.ok("EXAMINE INBOX")?;
    let mut all = Vec::new();
    loop {
        let first = all.len() + 1;
        let count = imap.ok("STATUS INBOX (MESSAGES)")?.lines().join(" ");
        let digits = count.rsplit_once("MESSAGES ").context("no MESSAGES")?.1.trim_end_matches(')');
        let total: usize = digits.parse()?;
        if first > total {
            return Ok(all);
        }
        let last = (first + 99).min(total);
        for fetch in imap.ok(&format!("FETCH {first}:{last} (RFC822.SIZE BODY.PEEK[])"))?.fetches()? {
            let octets = fetch.body("BODY[]")?.to_vec();
            let size = fetch.get("RFC822.SIZE")?.number()?;
            ensure!(size == octets.len() as u64, "RFC822.SIZE is {size}, BODY[] has {} octets", octets.len());
            all.push(octets);
        }
    }
}

/// mbsync into a fresh Maildir gives these messages (in any order), and a second run finds nothing to do.
fn pull_and_compare(server: &Server, user: &str, want: &[Vec<u8>]) -> Result<()> {
    let near = Mbsync::new(server, user)?;
    near.run()?;
    // A Maildir has LF line ends, and mbsync drops a bare CR and adds its mark; that is all it changes.
    let mut got: Vec<_> =
        near.messages("INBOX")?.iter().map(|(_, octets)| without_bare_cr(&without_tuid(octets))).collect();
    let mut want: Vec<_> = want.iter().map(|octets| without_bare_cr(&without_tuid(octets))).collect();
    got.sort();
    want.sort();
    ensure!(got.len() == want.len(), "{user}: {} messages came out of {}", got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        ensure!(
            got == want,
            "{user}: a message changed on its way through mbsync:\n{}",
            difference(got, want)
        );
    }
    near.run_idle()
}

fn difference(got: &[u8], want: &[u8]) -> String {
    let at = got.iter().zip(want).position(|(a, b)| a != b).unwrap_or(got.len().min(want.len()));
    let around =
        |octets: &[u8]| octets[at.saturating_sub(60)..(at + 60).min(octets.len())].escape_ascii().to_string();
    format!(
        "{} and {} octets, at {at}:\n  got  {}\n  want {}",
        got.len(),
        want.len(),
        around(got),
        around(want)
    )
}

#[test]
fn real_mail_in_by_lmtp_and_out() -> Result<()> {
    let mut server = crate::server_with_joe()?;
    let messages = corpus::real()?;
    let mut lmtp = Lmtp::connect(server.lmtp)?;
    for message in &messages {
        let answers = lmtp.deliver("list@example.net", &["joe"], &message.octets)?;
        ensure!(answers[0].code == 250, "{}: {answers:?}", message.name);
    }
    let stored = fetch_all(&server, "joe")?;
    ensure!(stored.len() == messages.len(), "{} of {} messages are there", stored.len(), messages.len());
    for (octets, message) in stored.iter().zip(&messages) {
        let want = as_delivered(message);
        if server.program() == Program::Dovecot && without_bare_cr(&want) != want {
            continue; // The stand-in rewrites a bare CR.
        }
        let trace = octets.strip_suffix(want.as_slice());
        let trace =
            trace.with_context(|| format!("{} changed: {}", message.name, difference(octets, &want)))?;
        check_trace_fields(trace, server.program()).with_context(|| message.name.clone())?;
    }
    pull_and_compare(&server, "joe", &stored)?;
    server.check()?;
    server.stop()
}

#[test]
fn real_mail_in_by_mbsync_and_out() -> Result<()> {
    let mut server = crate::server_with_joe()?;
    let messages = corpus::real()?;
    let near = Mbsync::new(&server, "joe")?;
    for part in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(near.maildir("INBOX").join(part))?;
    }
    for (number, message) in messages.iter().enumerate() {
        let flags = ["", "S", "RS", "FS"][number % 4];
        let path = near.maildir("INBOX").join(format!("cur/1600000000.M{number:06}P1.corpus:2,{flags}"));
        std::fs::write(path, &message.octets)?;
    }
    near.run()?;
    near.run_idle()?;
    let stored = fetch_all(&server, "joe")?;
    let mut got: Vec<_> = stored.iter().map(|octets| without_bare_cr(&without_tuid(octets))).collect();
    let mut want: Vec<_> = messages.iter().map(|message| without_bare_cr(&message.octets)).collect();
    got.sort();
    want.sort();
    ensure!(got.len() == want.len(), "{} of {} messages are there", got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        ensure!(got == want, "a message changed: {}", difference(got, want));
    }
    pull_and_compare(&server, "joe", &stored)?;
    server.check()?;
    server.stop()
}

/// With CRLF line ends and no other CR, as a message is after mbsync carried it.
fn without_bare_cr(octets: &[u8]) -> Vec<u8> {
    let without: Vec<u8> = octets.iter().copied().filter(|octet| *octet != b'\r').collect();
    crlf(&without)
}

/// mbsync marks what it uploads with a field of its own in the header, by which it finds it again.
fn without_tuid(octets: &[u8]) -> Vec<u8> {
    let Some(at) = octets.windows(8).position(|window| window == b"X-TUID: ") else { return octets.to_vec() };
    let end =
        octets[at..].iter().position(|&octet| octet == b'\n').map_or(octets.len(), |length| at + length + 1);
    [&octets[..at], &octets[end..]].concat()
}
