//! Who gets in, and whose mail goes where: users in a file, suspended users, aliases, SASL by a client of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rookery_tests::command;
use rookery_tests::imap::{Imap, Status};
use rookery_tests::server::{PASSWORD, Server};

use crate::command_line::json;
use crate::{message, server_with_joe};

/// What LOGIN is answered.
fn login(imap: SocketAddr, user: &str, password: &str) -> Result<(Status, String)> {
    let reply = Imap::connect(imap)?.command(&format!("LOGIN {user} \"{password}\""))?;
    Ok((reply.status, reply.text))
}

fn cli(server: &Server, words: &[&str]) -> Result<String> {
    let output = server.cli(words, b"")?;
    ensure!(output.status.success(), "{words:?} ended with {}:\n{}", output.status, output.text());
    Ok(output.text())
}

#[test]
fn users_in_a_file_log_in_and_get_accounts() -> Result<()> {
    let mut server = Server::unstarted()?;
    let users = server.root().join("users");
    // openssl passwd -6 -salt saltsalt 'correct horse'; openssl passwd -1 -salt saltsalt 'correct horse'
    let sha512 =
        "$6$saltsalt$hRM5XZ86KXEw9UOmjigeVqFgULtFB2sgpC9lXQDfMib3Zgw7mEiUvBJI2EplzfAqxL5Vvwp2scFtv/uamSo5z0";
    std::fs::write(
        &users,
        format!("eve:{sha512}:1000:1000::/home/eve::\nbob:{{PLAIN}}{PASSWORD}\njoe:{{PLAIN}}from the file\n"),
    )?;
    server.add_config(&format!(
        "[auth]\npasswd_file = \"{}\"\npasswd_file_makes_accounts = true\n",
        users.display()
    ))?;
    server.launch()?;
    server.add_user("joe")?;
    ensure!(login(server.imap, "joe", PASSWORD)?.0 == Status::No, "the file counts for whom it names");
    ensure!(login(server.imap, "joe", "from the file")?.0 == Status::Ok);
    let refused = server.cli(&["user", "passwd", "joe", "--password-stdin"], b"new")?;
    ensure!(refused.status.code() == Some(2) && refused.text().contains("users' file"), "{}", refused.text());
    // One gets an account by logging in, several times at once; the other by mail.
    let logins: Vec<_> = (0..4)
        .map(|_| {
            let imap = server.imap;
            std::thread::spawn(move || login(imap, "eve", PASSWORD))
        })
        .collect();
    for one in logins {
        let (status, text) = one.join().map_err(|_| anyhow::anyhow!("a login panicked"))??;
        ensure!(status == Status::Ok, "{text}");
    }
    server.deliver("bob", message("welcome", "x").as_bytes())?;
    let mut bob = server.login("bob")?;
    ensure!(bob.ok("SELECT INBOX")?.lines().contains(&"1 EXISTS".to_owned()));
    ensure!(login(server.imap, "eve", "wrong")?.0 == Status::No);
    // The file is read again when it changes, and a user who is gone from it is gone.
    std::fs::write(&users, "eve:{PLAIN}changed\n")?;
    ensure!(login(server.imap, "eve", PASSWORD)?.0 == Status::No);
    ensure!(login(server.imap, "eve", "changed")?.0 == Status::Ok);
    ensure!(login(server.imap, "bob", PASSWORD)?.0 == Status::No);
    ensure!(login(server.imap, "joe", PASSWORD)?.0 == Status::Ok, "the store's own password counts again");
    let names = json(&server, &["user", "list", "--json"])?;
    ensure!(names.as_array().is_some_and(|rows| rows.len() == 3), "{names}");
    server.check()?;
    server.stop()
}

#[test]
fn a_suspended_user_gets_mail_and_does_not_get_in() -> Result<()> {
    let mut server = server_with_joe()?;
    ensure!(login(server.imap, "joe", PASSWORD)?.0 == Status::Ok);
    // Sessions that are open end, each with a last word.
    let (mut waiting, mut idling) = (server.login("joe")?, server.login("joe")?);
    idling.idle()?;
    cli(&server, &["user", "suspend", "joe"])?;
    let asked = std::time::Instant::now();
    for imap in [&mut waiting, &mut idling] {
        let last = String::from_utf8_lossy(&imap.response()?).into_owned();
        ensure!(last.starts_with("* BYE [UNAVAILABLE]"), "{last}");
    }
    ensure!(asked.elapsed() < std::time::Duration::from_secs(1), "{:?}", asked.elapsed());
    let (status, text) = login(server.imap, "joe", PASSWORD)?;
    ensure!(status == Status::No && text.contains("AUTHORIZATIONFAILED"), "{text}");
    let (_, text) = login(server.imap, "joe", "wrong")?;
    ensure!(text.contains("AUTHENTICATIONFAILED"), "{text}");
    server.deliver("joe", message("meanwhile", "x").as_bytes())?;
    let rows = json(&server, &["user", "list", "--json"])?;
    ensure!(rows[0]["state"] == "suspended" && rows[0]["messages"] == 1, "{rows}");
    server.restart()?;
    ensure!(login(server.imap, "joe", PASSWORD)?.0 == Status::No);
    cli(&server, &["user", "resume", "joe"])?;
    ensure!(server.login("joe")?.ok("SELECT INBOX")?.lines().contains(&"1 EXISTS".to_owned()));
    ensure!(server.cli(&["user", "suspend", "nobody"], b"")?.status.code() == Some(3));
    server.stop()
}

#[test]
fn aliases_from_the_command_line_to_the_mailboxes() -> Result<()> {
    let mut server = server_with_joe()?;
    server.add_user("ann")?;
    cli(&server, &["alias", "add", "sales", "joe", "ann@example.org"])?;
    cli(&server, &["alias", "add", "@example.org", "ann"])?;
    let rows = json(&server, &["alias", "list", "--json"])?;
    let expected = serde_json::json!([
        {"name": "@example.org", "targets": ["ann@example.org"]},
        {"name": "sales@example.org", "targets": ["ann@example.org", "joe@example.org"]},
    ]);
    ensure!(rows == expected, "{rows}");
    for (words, code) in [
        (&["alias", "add", "joe", "ann"][..], 5),
        (&["alias", "add", "new", "nobody"], 3),
        (&["alias", "add", "a b", "joe"], 1),
        (&["alias", "add", "x@nowhere.test", "joe"], 3),
        (&["alias", "delete", "nothing"], 3),
        (&["user", "add", "sales", "--password-stdin"], 5),
    ] {
        let output = server.cli(words, b"secret\n")?;
        ensure!(
            output.status.code() == Some(code),
            "{words:?} ended with {}:\n{}",
            output.status,
            output.text()
        );
    }
    server.deliver("sales@example.org", message("for both", "x").as_bytes())?;
    server.deliver("whoever@example.org", message("for ann", "x").as_bytes())?;
    let exists = |user: &str| -> Result<Vec<String>> { Ok(server.login(user)?.ok("SELECT INBOX")?.lines()) };
    ensure!(
        exists("joe")?.contains(&"1 EXISTS".to_owned()) && exists("ann")?.contains(&"2 EXISTS".to_owned())
    );
    cli(&server, &["alias", "delete", "@example.org"])?;
    ensure!(server.deliver("whoever@example.org", message("for nobody", "x").as_bytes()).is_err());
    server.check()?;
    server.restart()?;
    ensure!(json(&server, &["alias", "list", "--json"])?.as_array().is_some_and(|rows| rows.len() == 1));
    server.stop()
}

/// GNU SASL's command line client over IMAP.
fn gsasl(server: &Server, mechanism: &str, user: &str, password: &str) -> Result<command::Output> {
    let (host, port) = (server.imap.ip().to_string(), server.imap.port().to_string());
    let args = [
        "--imap",
        "--mechanism",
        mechanism,
        "--authentication-id",
        user,
        "--password",
        password,
        "--no-starttls",
        &host,
        &port,
    ];
    command::run("gsasl", &args, b"")
}

#[test]
fn gsasl_by_every_mechanism() -> Result<()> {
    let mut server = server_with_joe()?;
    for mechanism in ["SCRAM-SHA-256", "PLAIN", "LOGIN"] {
        let output = gsasl(&server, mechanism, "joe", PASSWORD)?;
        let text = output.text();
        ensure!(output.status.success() && text.contains("OK"), "{mechanism}: {}\n{text}", output.status);
        let output = gsasl(&server, mechanism, "joe", "wrong")?;
        ensure!(output.text().contains("NO [AUTHENTICATIONFAILED]"), "{mechanism}:\n{}", output.text());
        let output = gsasl(&server, mechanism, "nobody", PASSWORD)?;
        ensure!(output.text().contains("NO [AUTHENTICATIONFAILED]"), "{mechanism}:\n{}", output.text());
    }
    // A password that is changed changes its SCRAM keys too.
    let changed = server.cli(&["user", "passwd", "joe", "--password-stdin"], b"another")?;
    ensure!(changed.status.success(), "{}", changed.text());
    ensure!(gsasl(&server, "SCRAM-SHA-256", "joe", PASSWORD)?.text().contains("AUTHENTICATIONFAILED"));
    ensure!(gsasl(&server, "SCRAM-SHA-256", "joe", "another")?.status.success());
    server.stop()
}

#[test]
fn the_right_password_is_answered_while_fifty_guess() -> Result<()> {
    let mut server = Server::unstarted()?;
    // A fifth of the default's work, so that a machine that is busy with other tests says something too.
    server.add_config("[auth]\nhash_memory_kib = 8192\nhash_passes = 1\n")?;
    server.launch()?;
    server.add_user("joe")?;
    let imap = server.imap;
    let until = Instant::now() + Duration::from_secs(6);
    let guessers: Vec<_> = (0..50)
        .map(|n| {
            std::thread::spawn(move || -> Result<u32> {
                let mut client = Imap::connect(imap)?;
                let mut guesses = 0;
                while Instant::now() < until {
                    let reply = client.command(&format!("LOGIN joe \"guess {n} {guesses}\""))?;
                    ensure!(reply.status == Status::No, "{}", reply.text);
                    guesses += 1;
                }
                Ok(guesses)
            })
        })
        .collect();
    // A password that nobody has seen yet costs a hash, and waits for its turn behind the guesses.
    let mut worst = Duration::ZERO;
    while Instant::now() < until {
        let before = Instant::now();
        let (status, text) = login(imap, "joe", PASSWORD)?;
        ensure!(status == Status::Ok, "{text}");
        worst = worst.max(before.elapsed());
        let output = server.cli(&["user", "passwd", "joe", "--password-stdin"], PASSWORD.as_bytes())?;
        ensure!(output.status.success(), "{}", output.text());
    }
    ensure!(worst < Duration::from_secs(5), "the right password waited {worst:?}");
    for guesser in guessers {
        let guesses = guesser.join().map_err(|_| anyhow::anyhow!("a guesser panicked"))??;
        ensure!(guesses >= 1, "a guesser was not answered");
    }
    server.stop()
}

/// The regular expression that `docs/operating.md` gives fail2ban, as it stands there.
fn failregex() -> Result<String> {
    let text = std::fs::read_to_string(rookery_tests::workspace().join("docs/operating.md"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("failregex = "));
    Ok(line.context("docs/operating.md has no failregex")?.to_owned())
}

#[test]
fn fail2bans_filter_finds_real_lines() -> Result<()> {
    let mut server = server_with_joe()?;
    for (user, password) in [("joe", "wrong"), ("nobody", "x"), ("\"a>b from=<192.0.2.9>\"", "x")] {
        ensure!(login(server.imap, user, password)?.0 == Status::No);
    }
    ensure!(login(server.imap, "joe", PASSWORD)?.0 == Status::Ok);
    let address = server.imap.ip().to_string();
    // fail2ban puts its own expression for an address in the place of <HOST>, and reads with Python.
    let script = "import re, sys\n\
        pattern = sys.argv[1].replace('<HOST>', r'(?P<host>[0-9a-fA-F:.]+)')\n\
        for line in open(sys.argv[2]):\n\
        \x20   found = re.search(pattern, line)\n\
        \x20   if found: print(found.group('host'))\n";
    let log = server.log_path().display().to_string();
    let output = command::ok("python3", &["-c", script, &failregex()?, &log], b"")?;
    let hosts: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let source = "127.0.0.1";
    ensure!(
        hosts.len() == 3 && hosts.iter().all(|host| *host == address || host == source),
        "{hosts:?}\n{}",
        server.log_tail()
    );
    server.stop()
}
