//! STARTTLS and IMAP over TLS with curl and openssl, which check the certificate.

use anyhow::{Result, ensure};
use rookery_tests::command;
use rookery_tests::server::{PASSWORD, Server};

use crate::{message, server_with_joe};

fn curl(server: &Server, scheme: &str, port: u16, more: &[&str]) -> Result<command::Output> {
    let user = format!("joe:{PASSWORD}");
    let url = format!("{scheme}://localhost:{port}/INBOX/;UID=1");
    let resolve = format!("localhost:{port}:{}", server.imap.ip());
    let cert = server.certificate.cert.display().to_string();
    let common = ["--silent", "--show-error", "--max-time", "60", "--user", &user, "--resolve", &resolve];
    command::run("curl", &[&common[..], &["--cacert", &cert, &url], more].concat(), b"")
}

#[test]
fn curl_over_starttls_and_imaps() -> Result<()> {
    let mut server = server_with_joe()?;
    let text = message("secret", "hush");
    server.login("joe")?.append_ok("INBOX", "", text.as_bytes())?;
    for (scheme, port, more) in
        [("imap", server.imap.port(), &["--ssl-reqd"][..]), ("imaps", server.imaps.port(), &[])]
    {
        let output = curl(&server, scheme, port, more)?;
        ensure!(output.status.success() && output.stdout == text.as_bytes(), "{scheme}: {}", output.text());
    }
    server.stop()
}

#[test]
fn openssl_sees_tls_1_2_and_1_3_and_nothing_older() -> Result<()> {
    let mut server = server_with_joe()?;
    let cert = server.certificate.cert.display().to_string();
    let (imap, imaps) = (server.imap.to_string(), server.imaps.to_string());
    let login = format!("a LOGIN joe \"{PASSWORD}\"\r\nb LOGOUT\r\n");
    let common =
        ["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost", "-CAfile", &cert];
    for version in ["-tls1_2", "-tls1_3"] {
        for place in [&["-connect", &imaps][..], &["-connect", &imap, "-starttls", "imap"]] {
            let args = [&common[..], place, &[version, "-ign_eof"]].concat();
            let output = command::run("openssl", &args, login.as_bytes())?;
            let text = output.text();
            ensure!(text.contains("a OK") && text.contains("b OK"), "{args:?}:\n{text}");
        }
    }
    let old = command::run(
        "openssl",
        &["s_client", "-connect", &imaps, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        b"",
    )?;
    ensure!(!old.text().contains("* OK"), "TLS 1.1 was accepted:\n{}", old.text());
    server.allow_log("TLS");
    server.stop()
}
