//! cyradm (cyrus-admin): an administrator of Cyrus does here what they do there.

use anyhow::{Result, ensure};
use rookery_tests::command;
use rookery_tests::server::{PASSWORD, Server};

/// A server that `cyrus` administers, who has no mailboxes.
pub(crate) fn administered() -> Result<Server> {
    let mut server = Server::unstarted()?;
    server.put_config_first("admins = [\"cyrus\"]\ndomain_admins = [\"adm@b.test\"]\n")?;
    server.launch()?;
    for admin in ["cyrus", "adm@b.test"] {
        let args = ["user", "add", admin, "--login-only", "--password-stdin"];
        let added = server.cli(&args, PASSWORD.as_bytes())?;
        ensure!(added.status.success(), "{}", added.text());
    }
    Ok(server)
}

/// What cyradm prints for some commands, without its prompts.
pub(crate) fn cyradm(server: &Server, commands: &[&str]) -> Result<(Vec<String>, String)> {
    let (ip, port) = (server.imap.ip().to_string(), server.imap.port().to_string());
    let login = ["--norc", "--notls", "--user", "cyrus", "--password", PASSWORD, "--auth", "PLAIN"];
    let place = ["--server", &ip, "--port", &port];
    let args: Vec<&str> = login.into_iter().chain(place).collect();
    let script = format!("{}\nquit\n", commands.join("\n"));
    let said = command::ok("cyradm", &args, script.as_bytes())?;
    let prompt = format!("{ip}> ");
    let lines = String::from_utf8_lossy(&said.stdout).replace(&prompt, "");
    let lines = lines.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty());
    Ok((lines.collect(), String::from_utf8_lossy(&said.stderr).into_owned()))
}

/// As [`cyradm`], for commands that all must succeed.
fn obeyed(server: &Server, commands: &[&str]) -> Result<Vec<String>> {
    let (lines, complaints) = cyradm(server, commands)?;
    ensure!(complaints.is_empty(), "{commands:?}: {complaints}");
    Ok(lines)
}

#[test]
fn accounts_rights_and_names_are_administered() -> Result<()> {
    let mut server = administered()?;
    let made = obeyed(&server, &["cm user/joe", "cm user/joe/Letters", "cm team", "lm user/joe*"])?;
    ensure!(made.first().is_some_and(|line| line == "user/joe (\\HasChildren)"), "{made:?}");
    ensure!(made.contains(&"user/joe/Letters (\\HasNoChildren)".to_owned()), "{made:?}");

    // cyradm shows the entries of one mailbox in no order.
    let mut acls = obeyed(&server, &["lam user/joe", "sam user/joe ann read", "lam user/joe", "lam team"])?;
    acls.sort();
    let wanted = ["ann lrs", "anyone lrs", "joe lrswipkxteancd", "joe lrswipkxteancd"];
    ensure!(acls == wanted, "{acls:?}");
    let acls = obeyed(&server, &["dam user/joe ann", "lam user/joe"])?;
    ensure!(acls == ["joe lrswipkxteancd"], "{acls:?}");

    let quota = obeyed(&server, &["sq user/joe 1000", "lq user/joe", "lqr user/joe/Letters"])?;
    ensure!(quota.iter().any(|line| line.contains("0/1000")), "{quota:?}");

    // The account has mail before anybody can log in to it, and takes it along.
    server.deliver("joe@example.org", crate::message("one", "here").as_bytes())?;
    let names = obeyed(&server, &["renm user/joe user/john", "lm user/j%", "lm *"])?;
    ensure!(names.first().is_some_and(|line| line == "user/john (\\HasChildren)"), "{names:?}");
    ensure!(!names.iter().any(|line| line.starts_with("user/joe") || line.starts_with("user ")), "{names:?}");
    ensure!(names.contains(&"team (\\HasNoChildren)".to_owned()), "{names:?}");
    let refused = server.deliver("joe@example.org", crate::message("two", "gone").as_bytes());
    ensure!(refused.is_err(), "mail for a name that was given up");
    server.deliver("john@example.org", crate::message("three", "here").as_bytes())?;
    let (_, complaints) = cyradm(&server, &["cm user/john"])?;
    ensure!(complaints.contains("exists already"), "{complaints}");

    for command in ["xfer user/john be2", "renm user/john user/john be2"] {
        let (_, complaints) = cyradm(&server, &[command])?;
        ensure!(complaints.contains("There is no node be2"), "{command}: {complaints}");
    }

    // Whoever has the name next has none of its mail.
    let left = obeyed(&server, &["dm user/john", "dm team", "lm", "cm user/john", "sam user/john cyrus lr"])?;
    ensure!(left.is_empty(), "{left:?}");
    let mut imap = server.login("cyrus")?;
    ensure!(
        imap.ok("STATUS user/john (MESSAGES)")?.lines().contains(&"STATUS user/john (MESSAGES 0)".into())
    );
    server.stop()
}
