//! Debian's Postfix beside the server: submission authenticated by Dovecot's protocol, recipients looked up by
//! socketmap, delivery by LMTP.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use rookery_tests::command::{self, Output};
use rookery_tests::postfix::Postfix;
use rookery_tests::server::{PASSWORD, Server};

/// A server with the MTA's sockets, the accounts `joe` and `ann`, and some aliases.
fn server() -> Result<Server> {
    let mut server = Server::unstarted()?;
    // Postfix's processes run as another user.
    std::fs::set_permissions(server.root(), Permissions::from_mode(0o755))?;
    let root = server.root().display().to_string();
    server.add_config(&format!(
        "[mta]\nauth_listen = [\"unix:{root}/auth.sock\"]\nlookup_listen = [\"unix:{root}/lookup.sock\"]\nunix_mode = \"0666\"\n"
    ))?;
    server.launch()?;
    for user in ["joe", "ann"] {
        server.add_user(user)?;
    }
    for words in [&["sales", "joe", "ann"][..], &["all", "sales"], &["@other.test", "joe"]] {
        if words[0] == "@other.test" {
            // A domain is made with its first user.
            server.add_user("someone@other.test")?;
        }
        let output = server.cli(&[&["alias", "add"], words].concat(), b"")?;
        ensure!(output.status.success(), "{}", output.text());
    }
    Ok(server)
}

fn postfix(server: &Server) -> Result<Postfix> {
    let root = server.root().display().to_string();
    Postfix::start(
        server.imap.ip(),
        &format!(
            "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = unix:{root}/auth.sock\n\
             smtpd_relay_restrictions = permit_sasl_authenticated, reject\n\
             virtual_mailbox_domains = socketmap:unix:{root}/lookup.sock:domains\n\
             virtual_mailbox_maps = socketmap:unix:{root}/lookup.sock:recipients\n\
             virtual_transport = lmtp:inet:{lmtp}\n",
            lmtp = server.lmtp,
        ),
    )
}

fn swaks(postfix: &Postfix, to: &str, more: &[&str]) -> Result<Output> {
    let (ip, port) = (postfix.smtp.ip().to_string(), postfix.smtp.port().to_string());
    let common = ["--server", &ip, "--port", &port, "--from", "joe@example.org", "--to", to];
    command::run("swaks", &[&common[..], &["--header", "Subject: by postfix"], more].concat(), b"")
}

#[test]
fn submission_is_authenticated_and_mail_arrives() -> Result<()> {
    let mut server = server()?;
    let postfix = postfix(&server)?;
    let right = |user: &'static str, mechanism: &'static str| {
        ["--auth", mechanism, "--auth-user", user, "--auth-password", PASSWORD]
    };
    for (mechanism, user, to) in
        [("PLAIN", "joe", "sales@example.org"), ("LOGIN", "joe@example.org", "ann@example.org")]
    {
        let output = swaks(&postfix, to, &right(user, mechanism))?;
        let text = output.text();
        ensure!(
            output.status.success() && text.contains("235 2.7.0"),
            "{mechanism}:\n{text}\n{}",
            postfix.log()
        );
    }
    let mut ann = server.login("ann")?;
    let mut arrived = false;
    for _ in 0..600 {
        arrived = ann.ok("SELECT INBOX")?.lines().contains(&"2 EXISTS".to_owned());
        if arrived {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    ensure!(arrived, "ann's mail has not arrived\n{}", postfix.log());
    for (user, password) in [("joe", "wrong"), ("nobody", PASSWORD)] {
        let args = ["--auth", "PLAIN", "--auth-user", user, "--auth-password", password];
        let output = swaks(&postfix, "ann@example.org", &args)?;
        ensure!(output.text().contains("535 5.7.8"), "{user}:\n{}\n{}", output.text(), postfix.log());
    }
    ensure!(server.cli(&["user", "suspend", "joe"], b"")?.status.success());
    let output = swaks(&postfix, "ann@example.org", &right("joe", "PLAIN"))?;
    ensure!(output.text().contains("535 5.7.8"), "{}", output.text());
    let log = std::fs::read_to_string(server.log_path())?;
    ensure!(log.contains("auth failed: user=<joe> from=<127."), "{log}");
    ensure!(log.contains("protocol=<smtp> reason=bad-password"), "{log}");
    ensure!(log.contains("protocol=<smtp> reason=suspended"), "{log}");
    drop(postfix);
    server.stop()
}

#[test]
fn postmap_asks_for_recipients_aliases_and_domains() -> Result<()> {
    let mut server = server()?;
    let postfix = postfix(&server)?;
    let root = server.root().display().to_string();
    for (map, key, expected) in [
        ("recipients", "joe@example.org", Some("joe@example.org")),
        ("recipients", "Joe+lists@Example.org", Some("joe@example.org")),
        ("recipients", "sales@example.org", Some("sales@example.org")),
        ("recipients", "whoever@other.test", Some("whoever@other.test")),
        ("recipients", "nobody@example.org", None),
        ("recipients", "joe@nowhere.test", None),
        ("recipients", "@example.org", None),
        ("aliases", "sales@example.org", Some("ann@example.org,joe@example.org")),
        ("aliases", "all@example.org", Some("ann@example.org,joe@example.org")),
        ("aliases", "whoever@other.test", Some("joe@example.org")),
        ("aliases", "joe@example.org", None),
        ("domains", "example.org", Some("example.org")),
        ("domains", "nowhere.test", None),
    ] {
        let found = postfix.look_up(key, &format!("socketmap:unix:{root}/lookup.sock:{map}"))?;
        ensure!(found.as_deref() == expected, "{map} {key}: {found:?}");
    }
    let refused = postfix.look_up("x", &format!("socketmap:unix:{root}/lookup.sock:nosuchmap"));
    ensure!(refused.is_err(), "{refused:?}");
    let output = swaks(
        &postfix,
        "nobody@example.org",
        &["--auth", "PLAIN", "--auth-user", "joe", "--auth-password", PASSWORD],
    )?;
    ensure!(output.text().contains("550 5.1.1"), "{}", output.text());
    drop(postfix);
    server.stop()
}
