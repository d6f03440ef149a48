//! Quotas set on the command line, as IMAP and LMTP meet them.

use anyhow::{Result, ensure};
use rookery_tests::lmtp::Lmtp;
use rookery_tests::server::Server;

use crate::command_line::json;
use crate::{message, server_with_joe};

/// The code of the answer to one delivery.
fn deliver(server: &Server, subject: &str) -> Result<Vec<u16>> {
    let message = message(subject, "x");
    let answers = Lmtp::connect(server.lmtp)?.deliver("sender@example.net", &["joe"], message.as_bytes())?;
    Ok(answers.iter().map(|answer| answer.code).collect())
}

#[test]
fn a_full_account_takes_no_mail_until_something_is_expunged() -> Result<()> {
    let mut server = server_with_joe()?;
    ensure!(deliver(&server, "one")? == [250]);
    let set = json(&server, &["quota", "set", "user/joe", "--messages", "1", "--storage", "1M", "--json"])?;
    ensure!(set["messages"] == 1 && set["messages_max"] == 1 && set["storage_max"] == 1 << 20, "{set}");
    ensure!(deliver(&server, "two")? == [452]);

    let mut imap = server.login("joe")?;
    let reply = imap.append("INBOX", "", message("three", "x").as_bytes())?;
    ensure!(reply.text.starts_with("[OVERQUOTA]"), "{reply:?}");
    let root = imap.ok("GETQUOTAROOT INBOX")?.lines();
    ensure!(root == ["QUOTAROOT INBOX user/joe", "QUOTA user/joe (STORAGE 1 1024 MESSAGE 1 1)"], "{root:?}");
    let reply = imap.command("SETQUOTA user/joe (MESSAGE 10)")?;
    ensure!(reply.text.starts_with("[NOPERM]"), "{reply:?}");
    imap.ok("SELECT INBOX")?;
    imap.ok("STORE 1 +FLAGS (\\Deleted)")?;
    ensure!(deliver(&server, "four")? == [452]);
    imap.ok("EXPUNGE")?;
    ensure!(deliver(&server, "five")? == [250]);
    imap.ok("LOGOUT")?;

    // What was set is there after a restart, and what is counted is right.
    server.restart()?;
    let shown = json(&server, &["quota", "show", "--json"])?;
    ensure!(shown.as_array().map(Vec::len) == Some(1), "{shown}");
    ensure!(shown[0]["root"] == "user/joe" && shown[0]["messages"] == 1, "{shown}");
    server.check()?;
    ensure!(deliver(&server, "six")? == [452]);
    json(&server, &["quota", "set", "user/joe", "--none", "--json"])?;
    ensure!(deliver(&server, "seven")? == [250]);
    let output = server.cli(&["quota", "set", "user/nobody", "--messages", "1"], b"")?;
    ensure!(output.status.code() == Some(3), "{}", output.text());
    server.stop()
}
