//! Debian's Postfix delivers by LMTP: through the Unix socket, and over TCP with TLS and AUTH to a server that does
//! not trust it by its address.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rookery_tests::command;
use rookery_tests::postfix::Postfix;
use rookery_tests::server::{PASSWORD, Server};

/// How long a message may be under way.
const DELIVERY_MAX: Duration = Duration::from_secs(60);

/// A server with `joe` and `ann`, whose `[lmtp]` section has these lines too.
fn server(lmtp: &str) -> Result<Server> {
    let mut server = Server::unstarted()?;
    // Postfix's processes run as another user.
    std::fs::set_permissions(server.root(), Permissions::from_mode(0o755))?;
    server.add_to_section("lmtp", lmtp)?;
    server.launch()?;
    for user in ["joe", "ann"] {
        server.add_user(user)?;
    }
    Ok(server)
}

fn postfix(server: &Server, settings: &str) -> Result<Postfix> {
    let common = "mynetworks = 127.0.0.0/8\nsmtpd_relay_restrictions = permit_mynetworks, reject\n\
        virtual_mailbox_domains = example.org\nlmtp_destination_recipient_limit = 50\n";
    Postfix::start(server.imap.ip(), &format!("{common}{settings}"))
}

/// Sends a message to both users, from an address and with a subject in UTF-8.
fn submit(postfix: &Postfix) -> Result<()> {
    let script = r#"
import smtplib, sys
client = smtplib.SMTP(sys.argv[1], int(sys.argv[2]), timeout=60)
client.ehlo()
text = 'From: jürgen@example.net\r\nSubject: grüße\r\n\r\n.dot\r\n..\r\nFrom here\r\n'.encode()
client.sendmail('jürgen@example.net', ['joe@example.org', 'ann+x@example.org'], text, ['SMTPUTF8', 'BODY=8BITMIME'])
client.quit()
"#;
    let (ip, port) = (postfix.smtp.ip().to_string(), postfix.smtp.port().to_string());
    command::ok("python3", &["-c", script, &ip, &port], b"")?;
    Ok(())
}

/// The one message that a user gets.
fn arrived(server: &Server, postfix: &Postfix, user: &str) -> Result<String> {
    let mut imap = server.login(user)?;
    let deadline = Instant::now() + DELIVERY_MAX;
    while !imap.ok("SELECT INBOX")?.lines().contains(&"1 EXISTS".to_owned()) {
        ensure!(Instant::now() < deadline, "{user}'s mail has not arrived\n{}", postfix.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let fetched = imap.ok("FETCH 1 BODY.PEEK[]")?.fetches()?;
    let body = fetched.first().map(|fetch| fetch.body("BODY[]")).transpose()?.unwrap_or_default();
    Ok(String::from_utf8_lossy(body).into_owned())
}

fn delivers_to_both(server: &Server, postfix: &Postfix, protocol: &str) -> Result<()> {
    submit(postfix)?;
    for user in ["joe", "ann"] {
        let text = arrived(server, postfix, user)?;
        ensure!(text.starts_with("Return-Path: <jürgen@example.net>\r\n"), "{text}");
        ensure!(text.contains(&format!(" with {protocol} id ")), "not {protocol}: {text}\n{}", postfix.log());
        ensure!(text.contains("\r\nSubject: grüße\r\n"), "{text}");
        ensure!(text.ends_with("\r\n\r\n.dot\r\n..\r\nFrom here\r\n"), "{text}");
    }
    Ok(())
}

#[test]
fn through_the_unix_socket() -> Result<()> {
    let mut server = server("unix_mode = \"0666\"\ntrusted = [\"unix\"]\n")?;
    let socket = server.lmtp_socket().display().to_string();
    let postfix = postfix(&server, &format!("virtual_transport = lmtp:unix:{socket}\n"))?;
    delivers_to_both(&server, &postfix, "UTF8LMTP")?;
    drop(postfix);
    server.stop()
}

#[test]
fn over_tcp_with_tls_and_auth() -> Result<()> {
    let mut server = server("trusted = [\"unix\"]\ndeliverers = [\"mx\"]\n")?;
    server.add_user("mx")?;
    let (ip, port) = (server.lmtp.ip(), server.lmtp.port());
    let passwords = server.root().join("passwords");
    let keys = [format!("{ip}"), format!("[{ip}]"), format!("{ip}:{port}"), format!("[{ip}]:{port}")];
    let lines: Vec<String> = keys.iter().map(|key| format!("{key} mx:{PASSWORD}\n")).collect();
    std::fs::write(&passwords, lines.concat())?;
    let postfix = postfix(
        &server,
        &format!(
            "virtual_transport = lmtp:inet:{ip}:{port}\nlmtp_tls_security_level = encrypt\n\
             lmtp_sasl_auth_enable = yes\nlmtp_sasl_password_maps = texthash:{}\n\
             lmtp_sasl_security_options = noanonymous\nlmtp_sasl_mechanism_filter = plain\n",
            passwords.display()
        ),
    )?;
    delivers_to_both(&server, &postfix, "UTF8LMTPSA")?;
    drop(postfix);
    server.stop()
}
