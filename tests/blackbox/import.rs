//! `rookery import`: mail of other programs comes in with its flags and dates, and a repetition doubles nothing.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rookery_tests::server::Server;
use serde_json::Value;

use crate::command_line::json;
use crate::{message, server_with_joe};

fn import(server: &Server, args: &[&str]) -> Result<[u64; 3]> {
    let done = json(server, &[&["import"], args, &["--json"]].concat())?;
    let number =
        |name: &str| done.get(name).and_then(Value::as_u64).with_context(|| format!("{name}: {done}"));
    Ok([number("imported")?, number("skipped")?, number("failed")?])
}

/// Subject, sorted flags and INTERNALDATE of each message, in UID order.
fn shown(server: &Server, mailbox: &str) -> Result<Vec<(String, String, String)>> {
    let mut imap = server.login("joe")?;
    imap.ok(&format!("EXAMINE {mailbox}"))?;
    let reply = imap.ok("UID FETCH 1:* (FLAGS INTERNALDATE BODY.PEEK[HEADER.FIELDS (SUBJECT)])")?;
    let mut all = Vec::new();
    for fetch in reply.fetches()? {
        let subject = String::from_utf8_lossy(fetch.body("BODY[HEADER.FIELDS (SUBJECT)]")?).into_owned();
        let mut flags = fetch.flags()?;
        flags.retain(|flag| !flag.eq_ignore_ascii_case("\\Recent"));
        flags.sort();
        let date = fetch.get("INTERNALDATE")?.octets()?.unwrap_or_default();
        // The day has two places: a space or a zero before one digit (RFC 9051 §9, date-day-fixed).
        let date = String::from_utf8_lossy(date).trim_start_matches([' ', '0']).to_owned();
        all.push((subject.trim().trim_start_matches("Subject: ").to_owned(), flags.join(" "), date));
    }
    Ok(all)
}

fn put(folder: &Path, name: &str, subject: &str, unix_time: u64) -> Result<()> {
    std::fs::create_dir_all(folder.parent().context("no folder above")?.join("tmp"))?;
    std::fs::create_dir_all(folder)?;
    let path = folder.join(name);
    std::fs::write(&path, message(subject, "text").replace("\r\n", "\n"))?;
    let file = std::fs::File::options().write(true).open(&path)?;
    Ok(file.set_modified(UNIX_EPOCH + Duration::from_secs(unix_time))?)
}

#[test]
fn a_maildir_with_folders_twice() -> Result<()> {
    let mut server = server_with_joe()?;
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    for place in ["cur", "new", "tmp", ".Lists.rust/cur", ".Lists.rust/new", ".Lists.rust/tmp"] {
        std::fs::create_dir_all(root.join(place))?;
    }
    put(&root.join("cur"), "1000000001.a.host:2,RS", "read", 1_000_000_001)?;
    put(&root.join("cur"), "1000000002.b.host:2,DFT", "flagged", 1_000_000_002)?;
    put(&root.join("new"), "1000000003.c.host", "new", 1_000_000_003)?;
    put(&root.join(".Lists.rust/cur"), "1000000004.d.host:2,S", "listed", 1_000_000_004)?;
    let path = root.display().to_string();
    ensure!(import(&server, &["maildir", "joe", &path])? == [4, 0, 0]);
    let inbox = shown(&server, "INBOX")?;
    let want = [
        ("read", "\\Answered \\Seen", "9-Sep-2001 01:46:41 +0000"),
        ("flagged", "\\Deleted \\Draft \\Flagged", "9-Sep-2001 01:46:42 +0000"),
        ("new", "", "9-Sep-2001 01:46:43 +0000"),
    ];
    let want = want.map(|(subject, flags, date)| (subject.to_owned(), flags.to_owned(), date.to_owned()));
    ensure!(inbox == want, "{inbox:?}");
    let mut names = server.login("joe")?.ok("LIST \"\" \"*rust\"")?.lines();
    let listed = names.pop().context("no mailbox for the folder")?;
    let listed = listed.rsplit(' ').next().unwrap_or_default().trim_matches('"').to_owned();
    let lists = shown(&server, &listed)?;
    ensure!(lists.len() == 1 && lists[0].0 == "listed" && lists[0].1 == "\\Seen", "{listed}: {lists:?}");
    // Again, with one message more: that one alone comes in.
    put(&root.join("new"), "1000000005.e.host", "late", 1_000_000_005)?;
    ensure!(import(&server, &["maildir", "joe", &path])? == [1, 4, 0]);
    let again = shown(&server, "INBOX")?;
    ensure!(again.len() == 4 && again[..3] == inbox, "{again:?}");
    server.check()?;
    server.stop()
}

#[test]
fn an_mbox_twice() -> Result<()> {
    let mut server = server_with_joe()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("mbox");
    std::fs::write(
        &path,
        "From ann@example.net Sun Sep  9 01:46:41 2001\nSubject: one\nStatus: RO\nX-Status: AF\n\nFrom here on it is \
         text.\n>From the quoted\n\nFrom bob@example.net Sun Sep  9 01:46:42 2001\nSubject: two\n\nno flags\n\n",
    )?;
    let name = path.display().to_string();
    ensure!(import(&server, &["mbox", "joe", &name, "--into", "Old"])? == [2, 0, 0]);
    let old = shown(&server, "Old")?;
    ensure!(old.len() == 2 && old[0].0 == "one" && old[0].1 == "\\Answered \\Flagged \\Seen", "{old:?}");
    ensure!(old[1].0 == "two" && old[1].1.is_empty() && old[1].2 == "9-Sep-2001 01:46:42 +0000", "{old:?}");
    let mut imap = server.login("joe")?;
    imap.ok("EXAMINE Old")?;
    let fetched = imap.ok("FETCH 1 BODY.PEEK[TEXT]")?.fetches()?;
    let text = fetched.first().context("nothing fetched")?.body("BODY[TEXT]")?.to_vec();
    ensure!(text.starts_with(b"From here on it is text.\r\nFrom the quoted\r\n"), "{}", text.escape_ascii());
    ensure!(import(&server, &["mbox", "joe", &name, "--into", "Old"])? == [0, 2, 0]);
    ensure!(shown(&server, "Old")? == old);
    let missing = server.cli(&["import", "mbox", "joe", "/nonexistent/mbox"], b"")?;
    ensure!(missing.status.code() == Some(3), "{}", missing.text());
    server.check()?;
    server.stop()
}
