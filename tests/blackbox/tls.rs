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

/// A certificate authority of clients, and a certificate for joe of it: `ca.crt`, `joe.crt`, `joe.key`.
fn client_certificates(folder: &std::path::Path) -> Result<()> {
    let file = |name: &str| folder.join(name).display().to_string();
    let (ca, ca_key) = (file("ca.crt"), file("ca.key"));
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let own = ["-x509", "-days", "30", "-subj", "/CN=Clients", "-keyout", &ca_key, "-out", &ca];
    command::ok("openssl", &[&new[..], &own].concat(), b"")?;
    for (name, subject, email) in
        [("joe", "/CN=joe", "email:ann@example.org"), ("eve", "/CN=eve", "email:eve@example.org")]
    {
        let (key, request, cert) =
            (file(&format!("{name}.key")), file(&format!("{name}.csr")), file(&format!("{name}.crt")));
        let alternative = format!("subjectAltName={email}");
        let ask = ["-subj", subject, "-addext", &alternative, "-keyout", &key, "-out", &request];
        command::ok("openssl", &[&new[..], &ask].concat(), b"")?;
        let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        let out = ["-days", "30", "-copy_extensions", "copy", "-out", &cert];
        command::ok("openssl", &[&sign[..], &out].concat(), b"")?;
    }
    Ok(())
}

#[test]
fn a_client_certificate_logs_in_by_external() -> Result<()> {
    for (setting, user, other) in [("cn", "joe", "ann"), ("email", "ann", "joe")] {
        let mut server = Server::unstarted()?;
        client_certificates(server.root())?;
        let ca = server.root().join("ca.crt");
        server.add_to_section("tls", &format!("client_ca = \"{}\"\n", ca.display()))?;
        server.add_config(&format!("[auth]\ncertificate_name = \"{setting}\"\n"))?;
        server.launch()?;
        for name in ["joe", "ann"] {
            server.add_user(name)?;
        }
        let text = message("mine", "x");
        server.login(user)?.append_ok("INBOX", "", text.as_bytes())?;
        let external = |name: &str, as_user: &str| -> Result<command::Output> {
            let url = format!("imaps://localhost:{}/INBOX/;UID=1", server.imaps.port());
            let resolve = format!("localhost:{}:{}", server.imaps.port(), server.imap.ip());
            let trusted = server.certificate.cert.display().to_string();
            let (cert, key) =
                (server.root().join(format!("{name}.crt")), server.root().join(format!("{name}.key")));
            let (cert, key) = (cert.display().to_string(), key.display().to_string());
            let user = format!("{as_user}:");
            let args = [
                "--silent",
                "--show-error",
                "--max-time",
                "60",
                "--resolve",
                &resolve,
                "--cacert",
                &trusted,
                "--cert",
                &cert,
                "--key",
                &key,
                "--user",
                &user,
                "--login-options",
                "AUTH=EXTERNAL",
                &url,
            ];
            command::run("curl", &args, b"")
        };
        let output = external("joe", user)?;
        ensure!(output.status.success() && output.stdout == text.as_bytes(), "{setting}: {}", output.text());
        // Nobody acts as another, and a certificate of nobody here is nobody's.
        ensure!(!external("joe", other)?.status.success(), "{setting}");
        ensure!(!external("eve", "eve")?.status.success(), "{setting}");
        // Without a certificate everything is as before.
        ensure!(curl(&server, "imaps", server.imaps.port(), &[])?.status.code() != Some(35));
        server.stop()?;
    }
    Ok(())
}

#[test]
fn gsasl_binds_to_the_channel() -> Result<()> {
    let mut server = Server::unstarted()?;
    // gsasl compares the address that it was given with the certificate.
    let names = format!("subjectAltName=IP:{}", server.imap.ip());
    let own = server.certificate.clone();
    let (cert, key) = (own.cert.display().to_string(), own.key.display().to_string());
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let rest = ["-days", "2", "-subj", "/CN=localhost", "-addext", &names, "-keyout", &key, "-out", &cert];
    command::ok("openssl", &[&new[..], &rest].concat(), b"")?;
    server.launch()?;
    server.add_user("joe")?;
    let (host, port) = (server.imap.ip().to_string(), server.imap.port().to_string());
    let trusted = server.certificate.cert.display().to_string();
    let args = [
        "--imap",
        "--mechanism",
        "SCRAM-SHA-256-PLUS",
        "--authentication-id",
        "joe",
        "--password",
        PASSWORD,
        "--starttls",
        "--priority",
        "NORMAL:-VERS-ALL:+VERS-TLS1.3",
        "--x509-ca-file",
        &trusted,
        &host,
        &port,
    ];
    let output = command::run("gsasl", &args, b"")?;
    // `p=tls-exporter,` in base64.
    let bound = output.text().contains("cD10bHMtZXhwb3J0ZXIs");
    ensure!(output.status.success() && bound, "{}", output.text());
    server.stop()
}

/// gsasl speaks neither POP3 nor LMTP: that they offer to bind to the channel where they can is what is seen here.
#[test]
fn pop3_and_lmtp_offer_to_bind_to_the_channel() -> Result<()> {
    let mut server = server_with_joe()?;
    let cert = server.certificate.cert.display().to_string();
    for (protocol, place, hello) in [("pop3", server.pop3, "CAPA"), ("lmtp", server.lmtp, "LHLO client.test")]
    {
        for (version, binds) in [("-tls1_3", true), ("-tls1_2", false)] {
            let place = place.to_string();
            let args = ["s_client", "-quiet", "-ign_eof", "-CAfile", &cert, "-connect", &place];
            let args = [&args[..], &["-starttls", protocol, version]].concat();
            let said = command::run("openssl", &args, format!("{hello}\r\nQUIT\r\n").as_bytes())?.text();
            let offers = said.contains(" SCRAM-SHA-256-PLUS");
            ensure!(said.contains(" SCRAM-SHA-256") && offers == binds, "{protocol} {version}:\n{said}");
        }
    }
    server.stop()
}
