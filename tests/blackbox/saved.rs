//! What was deleted comes back, and an export restores every account on an empty machine.

use anyhow::{Result, ensure};
use rookery_tests::server::{PASSWORD, Server};

use crate::{message, server_with_joe};

fn ok(server: &Server, args: &[&str]) -> Result<String> {
    let output = server.cli(args, b"")?;
    ensure!(output.status.success(), "{args:?}: {}", output.text());
    Ok(output.text())
}

/// UIDVALIDITY, UIDNEXT, and each message with UID, flags, date and octets.
fn contents(server: &Server, user: &str, mailbox: &str) -> Result<String> {
    let mut imap = server.login(user)?;
    let selected = imap.ok(&format!("SELECT {mailbox}"))?.lines();
    let numbers: Vec<String> = selected
        .into_iter()
        .filter(|line| line.contains("UIDVALIDITY") || line.contains("UIDNEXT"))
        .collect();
    let messages = imap.ok("UID FETCH 1:* (UID FLAGS INTERNALDATE SAVEDATE BODY.PEEK[])")?.lines();
    // \Recent is each server's own.
    Ok(format!("{numbers:#?}{messages:#?}").replace(" \\\\Recent", "").replace("\\\\Recent", ""))
}

#[test]
fn what_was_deleted_comes_back() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut imap = server.login("joe")?;
    imap.append_ok("INBOX", "", message("keep", "one").as_bytes())?;
    imap.append_ok("INBOX", "(\\Deleted)", message("gone", "two").as_bytes())?;
    imap.ok("CREATE Work")?;
    imap.append_ok("Work", "(\\Seen)", message("work", "three").as_bytes())?;
    imap.ok("SELECT INBOX")?;
    imap.ok("EXPUNGE")?;
    imap.ok("DELETE Work")?;
    let listed = ok(&server, &["undelete", "list", "joe"])?;
    ensure!(listed.contains("Work") && listed.contains("INBOX"), "{listed}");
    ensure!(ok(&server, &["undelete", "messages", "joe", "INBOX"])?.contains("1 messages"));
    ensure!(
        ok(&server, &["undelete", "mailbox", "joe", "Work", "--into", "Old work"])?.contains("1 messages")
    );
    // A session that has the mailbox selected hears of it.
    let heard = imap.ok("NOOP")?.lines();
    ensure!(heard.iter().any(|line| line == "2 EXISTS"), "{heard:?}");
    ensure!(contents(&server, "joe", "INBOX")?.contains("Subject: gone"));
    ensure!(contents(&server, "joe", "\"Old work\"")?.contains("Subject: work"));
    drop(imap);

    ok(&server, &["user", "delete", "joe", "--yes"])?;
    ensure!(ok(&server, &["undelete", "users"])?.contains("joe"));
    ok(&server, &["undelete", "user", "joe"])?;
    ensure!(server.login("joe").is_err(), "the password does not come back");
    let output = server.cli(&["user", "passwd", "joe", "--password-stdin"], PASSWORD.as_bytes())?;
    ensure!(output.status.success(), "{}", output.text());
    ensure!(contents(&server, "joe", "INBOX")?.contains("Subject: gone"));
    server.check()?;
    server.stop()?;
    // Stopped, the check reads every record.
    server.check()
}

#[test]
fn an_export_restores_everything_on_an_empty_machine() -> Result<()> {
    let mut old = server_with_joe()?;
    old.add_user("ann")?;
    let mut imap = old.login("joe")?;
    for n in 0..30 {
        let flags = if n % 3 == 0 { "(\\Seen \\Flagged $Work)" } else { "" };
        imap.append_ok("INBOX", flags, message(&format!("number {n}"), "text").as_bytes())?;
    }
    imap.ok("SELECT INBOX")?;
    imap.ok("UID STORE 5:9 +FLAGS (\\Deleted)")?;
    imap.ok("EXPUNGE")?;
    imap.ok("CREATE \"A/B c\"")?;
    imap.ok("UID COPY 1:3 \"A/B c\"")?;
    imap.ok("SUBSCRIBE \"A/B c\"")?;
    imap.ok("SETACL \"A/B c\" ann lrs")?;
    imap.ok("SETMETADATA \"A/B c\" (/shared/comment \"hello\" /private/comment \"mine\")")?;
    imap.ok("DELETE Archive")?;
    let listing = |server: &Server| -> Result<Vec<String>> {
        let mut imap = server.login("joe")?;
        let mut lines = imap.ok("LIST \"\" * RETURN (SUBSCRIBED SPECIAL-USE)")?.lines();
        lines.extend(imap.ok("GETACL \"A/B c\"")?.lines());
        lines.extend(imap.ok("GETMETADATA \"A/B c\" (/shared/comment /private/comment)")?.lines());
        // What another user has seen of it.
        let mut ann = server.login("ann")?;
        ann.ok("EXAMINE \"Other Users/joe/A/B c\"")?;
        lines.extend(ann.ok("UID SEARCH SEEN")?.lines());
        Ok(lines)
    };
    let mut ann = old.login("ann")?;
    ann.ok("SELECT \"Other Users/joe/A/B c\"")?;
    ann.ok("UID STORE 2 +FLAGS (\\Seen)")?;
    let before = (listing(&old)?, contents(&old, "joe", "INBOX")?, contents(&old, "joe", "\"A/B c\"")?);
    ensure!(before.0.contains(&"SEARCH 2".to_string()), "{before:#?}");
    drop(ann);
    drop(imap);
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("backup");
    let place = place.to_str().unwrap_or_default();
    let said = ok(&old, &["export", place])?;
    ensure!(said.contains("2 accounts with 28 messages; 25 of them"), "{said}");
    // Again: nothing is new, one message is.
    old.deliver("ann", message("late", "last").as_bytes())?;
    let said = ok(&old, &["export", place])?;
    ensure!(said.contains("29 messages; 1 of them"), "{said}");
    old.stop()?;

    let mut new = Server::start()?;
    let said = ok(&new, &["restore", place])?;
    ensure!(said.contains("2 accounts with 29 messages"), "{said}");
    // The passwords came along.
    let after = (listing(&new)?, contents(&new, "joe", "INBOX")?, contents(&new, "joe", "\"A/B c\"")?);
    ensure!(after == before, "before: {before:#?}\nafter: {after:#?}");
    ensure!(contents(&new, "ann", "INBOX")?.contains("Subject: late"));
    // What exists is left alone.
    let again = new.cli(&["restore", place], b"")?;
    ensure!(!again.status.success() && again.text().contains("exists already"), "{}", again.text());
    ensure!(contents(&new, "joe", "INBOX")? == before.1);
    new.check()?;
    new.stop()?;
    new.check()
}
