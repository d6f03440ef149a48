//! The command line's listings in JSON, and health and metrics by HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rookery_tests::server::Server;
use serde_json::Value;

use crate::{message, server_with_joe};

/// One GET: the status code and the body.
fn get(server: &Server, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(server.http)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer without an empty line")?;
    let code = head.split(' ').nth(1).context("an HTTP answer without a code")?;
    Ok((code.parse()?, body.to_owned()))
}

/// The value of a metric without labels.
fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// What a command prints as JSON.
pub(crate) fn json(server: &Server, args: &[&str]) -> Result<Value> {
    let output = server.cli(args, b"")?;
    ensure!(output.status.success(), "{args:?} ended with {}:\n{}", output.status, output.text());
    serde_json::from_slice(&output.stdout).with_context(|| format!("{args:?} printed {}", output.text()))
}

#[test]
fn top_counts_what_is_going_on() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut imap = server.login("joe")?;
    let busy = std::thread::spawn(move || {
        (0..200).try_for_each(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            imap.ok("NOOP").map(drop)
        })
    });
    let output = server.cli(&["top", "--interval", "1", "--count", "1", "--json"], b"")?;
    ensure!(output.status.success(), "{}", output.text());
    busy.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let commands = shown["commands"].as_array().cloned().unwrap_or_default();
    ensure!(commands.iter().any(|one| one["command"] == "imap NOOP"), "{shown:#}");
    ensure!(shown["connections"]["imap"].as_f64().is_some_and(|count| count >= 1.0), "{shown:#}");
    server.stop()
}

#[test]
fn health_and_metrics() -> Result<()> {
    let mut server = server_with_joe()?;
    ensure!(get(&server, "/health/live")?.0 == 200);
    ensure!(get(&server, "/health/ready")?.0 == 200);
    ensure!(get(&server, "/nothing/here")?.0 == 404);
    let total = "rookery_lmtp_messages_total";
    let before = metric(&get(&server, "/metrics")?.1, total).unwrap_or(0.0);
    server.deliver("joe", message("counted", "x").as_bytes())?;
    let mut imap = server.login("joe")?;
    imap.ok("SELECT INBOX")?;
    let tag = imap.idle()?;
    let (code, text) = get(&server, "/metrics")?;
    ensure!(code == 200 && metric(&text, total) == Some(before + 1.0), "{text}");
    ensure!(metric(&text, "rookery_imap_idle_sessions") == Some(1.0), "{text}");
    ensure!(metric(&text, "process_resident_memory_bytes").is_some_and(|octets| octets > 1e6), "{text}");
    ensure!(text.contains("# TYPE rookery_imap_command_seconds histogram"), "{text}");
    imap.done(&tag)?;
    imap.ok("LOGOUT")?;
    server.stop()
}

#[test]
fn listings_in_json() -> Result<()> {
    let mut server = server_with_joe()?;
    server.add_user("eve")?;
    let mut imap = server.login("joe")?;
    imap.append_ok("INBOX", "(\\Seen $Later)", message("one", "x").as_bytes())?;
    let (validity, uid) = imap.append_ok("INBOX", "", message("two", "y").as_bytes())?;

    let users = json(&server, &["user", "list", "--json"])?;
    let users = users.as_array().context("no array of users")?;
    let names: Vec<_> = users.iter().filter_map(|user| user["name"].as_str()).collect();
    ensure!(names.len() == 2 && users.iter().all(|user| user["state"] == "active"), "{users:?}");
    let joe = users.iter().find(|user| user["name"].as_str().is_some_and(|name| name.starts_with("joe")));
    ensure!(joe.is_some_and(|joe| joe["messages"] == 2), "{users:?}");

    let mailboxes = json(&server, &["mailbox", "list", "joe", "--json"])?;
    let mailboxes = mailboxes.as_array().context("no array of mailboxes")?;
    let named = |name: &str| mailboxes.iter().find(|mailbox| mailbox["name"] == name);
    let inbox = named("INBOX").context("no INBOX")?;
    ensure!(inbox["messages"] == 2 && inbox["unseen"] == 1, "{inbox}");
    let archive = named("Archive").context("no Archive")?;
    ensure!(archive["special_use"] == serde_json::json!(["\\Archive"]), "{archive}");

    let info = json(&server, &["mailbox", "info", "joe", "INBOX", "--json"])?;
    ensure!(info["uidvalidity"] == validity && info["uidnext"] == uid + 1, "{info}");
    ensure!(info["keywords"] == serde_json::json!(["$Later"]), "{info}");

    let status = json(&server, &["status", "--json"])?;
    ensure!(status["pid"] == server.pid()? && status["read_only"].is_null(), "{status}");
    let check = json(&server, &["check", "--json"])?;
    ensure!(check["faults"] == serde_json::json!([]), "{check}");
    imap.ok("LOGOUT")?;
    server.stop()
}

#[test]
fn mailboxes_are_made_renamed_and_deleted() -> Result<()> {
    let mut server = server_with_joe()?;
    let code = |args: &[&str]| -> Result<Option<i32>> { Ok(server.cli(args, b"")?.status.code()) };
    ensure!(code(&["mailbox", "create", "joe", "Lists/rust"])? == Some(0));
    ensure!(code(&["mailbox", "create", "joe", "Lists/rust"])? == Some(5), "made twice");
    ensure!(code(&["mailbox", "rename", "joe", "Lists/rust", "Lists/c"])? == Some(0));
    ensure!(code(&["mailbox", "delete", "joe", "Lists/rust", "--yes"])? == Some(3), "gone by rename");
    ensure!(code(&["mailbox", "delete", "joe", "Lists/c", "--yes"])? == Some(0));
    ensure!(code(&["mailbox", "list", "nobody"])? == Some(3), "no such user");
    ensure!(code(&["user", "add", "joe", "--password-stdin"])? != Some(0), "an empty password");
    ensure!(code(&["user", "frobnicate"])? == Some(2), "no such command");
    server.stop()?;
    ensure!(server.cli(&["user", "list"], b"")?.status.code() == Some(4), "no server runs");
    Ok(())
}
