//! swaks as the MTA: LMTP over TCP and a Unix socket.

use anyhow::{Context, Result, ensure};
use rookery_tests::command::{self, Output};
use rookery_tests::server::Server;

use crate::server_with_joe;

fn swaks(server: &Server, unix: bool, to: &str, more: &[&str]) -> Result<Output> {
    let (ip, port) = (server.lmtp.ip().to_string(), server.lmtp.port().to_string());
    let socket = server.lmtp_socket().display().to_string();
    let place: &[&str] = if unix { &["--socket", &socket] } else { &["--server", &ip, "--port", &port] };
    let common = ["--protocol", "LMTP", "--from", "ada@example.net", "--to", to, "--helo", "mx.example.org"];
    command::run("swaks", &[&common, place, more].concat(), b"")
}

fn subjects(server: &Server, user: &str, mailbox: &str) -> Result<Vec<String>> {
    let mut imap = server.login(user)?;
    imap.ok(&format!("EXAMINE {mailbox}"))?;
    let reply = imap.ok("UID FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])")?;
    let mut found = Vec::new();
    for fetch in reply.fetches()? {
        let field = fetch.body("BODY[HEADER.FIELDS (SUBJECT)]")?;
        found.push(String::from_utf8_lossy(field).trim().trim_start_matches("Subject: ").to_owned());
    }
    Ok(found)
}

#[test]
fn over_tcp_and_unix_socket_to_several_recipients() -> Result<()> {
    let mut server = server_with_joe()?;
    server.add_user("eve")?;
    let both = "joe@example.org,eve@example.org";
    for (unix, subject) in [(false, "over tcp"), (true, "over unix")] {
        let output = swaks(&server, unix, both, &["--header", &format!("Subject: {subject}")])?;
        ensure!(output.status.success(), "{}", output.text());
        // LMTP answers for each recipient after DATA (RFC 2033 §4.2).
        let accepted = output.text().lines().filter(|line| line.starts_with("<-  250 2.")).count();
        ensure!(accepted >= 2, "{}", output.text());
    }
    for user in ["joe", "eve"] {
        let found = subjects(&server, user, "INBOX")?;
        ensure!(found == ["over tcp", "over unix"], "{user}: {found:?}");
    }
    server.stop()
}

#[test]
fn an_unknown_user_gets_550_and_the_others_their_mail() -> Result<()> {
    let mut server = server_with_joe()?;
    let to = "nobody@example.org,joe@example.org";
    let output = swaks(&server, false, to, &["--header", "Subject: half"])?;
    let text = output.text();
    ensure!(text.lines().any(|line| line.contains("550 5.1.1")), "{text}");
    let found = subjects(&server, "joe", "INBOX")?;
    ensure!(found == ["half"], "{found:?}\n{text}");
    server.stop()
}

#[test]
fn a_detail_names_the_mailbox() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut imap = server.login("joe")?;
    imap.ok("CREATE lists")?;
    let output = swaks(&server, false, "joe+lists@example.org", &["--header", "Subject: not yet"])?;
    ensure!(output.status.success(), "{}", output.text());
    let (lists, inbox) = (subjects(&server, "joe", "lists")?, subjects(&server, "joe", "INBOX")?);
    ensure!(lists.is_empty() && inbox == ["not yet"], "without p: lists {lists:?}, INBOX {inbox:?}");
    imap.ok("SETACL lists anyone p")?;
    let output = swaks(&server, false, "joe+lists@example.org", &["--header", "Subject: detail"])?;
    ensure!(output.status.success(), "{}", output.text());
    let output = swaks(&server, false, "joe+nosuch@example.org", &["--header", "Subject: fallback"])?;
    ensure!(output.status.success(), "{}", output.text());
    let (lists, inbox) = (subjects(&server, "joe", "lists")?, subjects(&server, "joe", "INBOX")?);
    ensure!(lists == ["detail"] && inbox == ["not yet", "fallback"], "lists {lists:?}, INBOX {inbox:?}");
    server.stop()
}

#[test]
fn trace_fields_stand_at_the_top() -> Result<()> {
    let mut server = server_with_joe()?;
    let output = swaks(&server, false, "joe@example.org", &["--data", "Subject: x\n\n.dot\nFrom me\n"])?;
    ensure!(output.status.success(), "{}", output.text());
    let mut imap = server.login("joe")?;
    imap.ok("EXAMINE INBOX")?;
    let fetched = imap.ok("FETCH 1 BODY.PEEK[]")?.fetches()?;
    let text = String::from_utf8_lossy(fetched.first().context("nothing")?.body("BODY[]")?).into_owned();
    ensure!(text.starts_with("Return-Path: <ada@example.net>\r\n"), "{text}");
    ensure!(text.contains("\r\nReceived: "), "{text}");
    ensure!(text.contains("\r\nSubject: x\r\n\r\n.dot\r\nFrom me\r\n"), "{text}");
    server.stop()
}
