//! Clients of POP3: Python's poplib, curl, fetchmail and getmail, in the clear from this machine, with STLS and on
//! the TLS port.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rookery_tests::command;
use rookery_tests::imap::SILENCE_MAX;
use rookery_tests::server::{PASSWORD, Server};

use crate::{message, server_with_joe};

/// Bodies with what POP3's transparency is about.
const BODIES: [&str; 3] = ["plain", ".\r\n..\r\n.dot", "last"];

fn server_with_mail() -> Result<Server> {
    let server = server_with_joe()?;
    let mut imap = server.login("joe")?;
    for (n, body) in BODIES.iter().enumerate() {
        let text = message(&format!("letter {n}"), body);
        imap.append_ok("INBOX", "", text.as_bytes())?;
    }
    Ok(server)
}

fn letters() -> Vec<String> {
    BODIES.iter().enumerate().map(|(n, body)| message(&format!("letter {n}"), body)).collect()
}

/// Messages that are left in INBOX.
pub(crate) fn left(server: &Server) -> Result<usize> {
    let mut imap = server.login("joe")?;
    let reply = String::from_utf8_lossy(&imap.ok("STATUS INBOX (MESSAGES)")?.untagged.concat()).into_owned();
    let found = (0..10).find(|n| reply.contains(&format!("(MESSAGES {n})")));
    found.with_context(|| format!("STATUS was answered {reply}"))
}

#[test]
fn poplib_lists_reads_and_deletes() -> Result<()> {
    let mut server = server_with_mail()?;
    let script = r#"
import poplib, ssl, sys
host, port, tls_port, user, password, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False

plain = poplib.POP3(host, int(port), timeout=60)
assert plain.getwelcome().startswith(b'+OK'), plain.getwelcome()
capabilities = plain.capa()
for name in ('TOP', 'UIDL', 'STLS', 'PIPELINING', 'RESP-CODES', 'UTF8', 'SASL'):
    assert name in capabilities, (name, capabilities)
plain.user(user)
plain.pass_(password)
count, octets = plain.stat()
assert count == 3, count
sizes = [int(line.split()[1]) for line in plain.list()[1]]
assert sum(sizes) == octets
ids = [line.split()[1] for line in plain.uidl()[1]]
assert len(set(ids)) == 3
for n in (1, 2, 3):
    lines = plain.retr(n)[1]
    text = b''.join(line + b'\r\n' for line in lines)
    assert len(text) == sizes[n - 1], (n, len(text), sizes)
assert plain.retr(2)[1][-3:] == [b'.', b'..', b'.dot'], plain.retr(2)[1]
assert plain.top(1, 0)[1][-1] == b''

other = poplib.POP3(host, int(port), timeout=60)
other.stls(context=context)
other.utf8()
other.user(user)
other.pass_(password)
assert [line.split()[1] for line in other.uidl()[1]] == ids
other.dele(1)
plain.dele(1)
plain.dele(3)
other.quit()
assert plain.quit().startswith(b'+OK')

third = poplib.POP3_SSL(host, int(tls_port), timeout=60, context=context)
third.user(user)
try:
    third.pass_('wrong')
    assert False, 'a wrong password was taken'
except poplib.error_proto as error:
    assert b'[AUTH]' in error.args[0], error
third.user(user)
third.pass_(password)
assert [line.split()[1] for line in third.uidl()[1]] == [ids[1]]
third.dele(1)
third.rset()
third.quit()
"#;
    let host = server.pop3.ip().to_string();
    let (port, tls_port) = (server.pop3.port().to_string(), server.pop3s.port().to_string());
    let ca = server.certificate.cert.display().to_string();
    command::ok("python3", &["-c", script, &host, &port, &tls_port, "joe", PASSWORD, &ca], b"")?;
    ensure!(left(&server)? == 1);
    server.stop()
}

#[test]
fn curl_lists_and_fetches() -> Result<()> {
    let mut server = server_with_mail()?;
    let user = format!("joe:{PASSWORD}");
    let ca = server.certificate.cert.display().to_string();
    let common = ["--silent", "--show-error", "--max-time", "60", "--user", &user];
    let curl = |url: &str, more: &[&str]| -> Result<Vec<u8>> {
        Ok(command::ok("curl", &[&common[..], more, &[url]].concat(), b"")?.stdout)
    };
    let plain = format!("pop3://{}", server.pop3);
    let list = String::from_utf8_lossy(&curl(&format!("{plain}/"), &[])?).into_owned();
    ensure!(list.lines().count() == 3, "{list}");
    for (n, letter) in letters().iter().enumerate() {
        for (url, more) in [
            (format!("{plain}/{}", n + 1), vec![]),
            (format!("{plain}/{}", n + 1), vec!["--ssl-reqd", "--cacert", &ca, "--insecure"]),
            (format!("pop3s://{}/{}", server.pop3s, n + 1), vec!["--cacert", &ca, "--insecure"]),
            (format!("{plain}/{}", n + 1), vec!["--login-options", "AUTH=PLAIN"]),
        ] {
            let fetched = curl(&url, &more)?;
            ensure!(fetched == letter.as_bytes(), "{url}: {}", String::from_utf8_lossy(&fetched));
        }
    }
    curl(&format!("{plain}/2"), &["--request", "DELE", "--list-only"])?;
    ensure!(left(&server)? == 2);
    server.stop()
}

/// Our letters in a file that a client has written.
fn letters_in(file: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(file)?;
    Ok(text.lines().filter(|line| line.starts_with("Subject: letter ")).count())
}

/// Writes a file that holds a password.
fn private(path: &Path, text: &str) -> Result<String> {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path.display().to_string())
}

#[test]
fn fetchmail_fetches_once_and_empties() -> Result<()> {
    let mut server = server_with_mail()?;
    let root = server.root().to_path_buf();
    let (ip, port, tls_port) = (server.pop3.ip(), server.pop3.port(), server.pop3s.port());
    let fetched = root.join("fetched");
    let run = |name: &str, port: u16, options: &str| -> Result<String> {
        let text = format!(
            "poll {ip} service {port} protocol POP3 uidl\n  user joe password \"{PASSWORD}\" is root here\n  \
             {options} mda \"cat >> {}\"\n",
            fetched.display()
        );
        let config = private(&root.join(name), &text)?;
        let (ids, pid) = (root.join("ids").display().to_string(), root.join("pid").display().to_string());
        let args = ["--fetchmailrc", &config, "--idfile", &ids, "--pidfile", &pid, "--nosyslog", "--verbose"];
        let output = command::run("fetchmail", &args, b"")?;
        // 0: mail was fetched; 1: there was none.
        ensure!(
            matches!(output.status.code(), Some(0 | 1)),
            "fetchmail: {}\n{}",
            output.status,
            output.text()
        );
        Ok(output.text())
    };
    let count = || letters_in(&fetched);
    run("keeping", port, "keep sslproto ''")?;
    ensure!(count()? == 3 && left(&server)? == 3);
    // It knows by UIDL what it has fetched.
    run("keeping", port, "keep sslproto ''")?;
    ensure!(count()? == 3, "{} after the second run", count()?);
    server.login("joe")?.append_ok("INBOX", "", message("letter new", "x").as_bytes())?;
    run("over-tls", port, "keep sslproto 'auto' no sslcertck")?;
    ensure!(count()? == 4, "{} after the third run", count()?);
    run("emptying", tls_port, "fetchall nokeep ssl no sslcertck")?;
    ensure!(count()? == 8 && left(&server)? == 0, "{} fetched, {} left", count()?, left(&server)?);
    let text = std::fs::read_to_string(&fetched)?;
    ensure!(text.replace('\r', "").contains("\n\n.\n..\n.dot\n"), "{text}");
    server.stop()
}

#[test]
fn getmail_fetches_what_is_new_and_deletes() -> Result<()> {
    let mut server = server_with_mail()?;
    let root = server.root().join("getmail");
    std::fs::create_dir_all(&root)?;
    let fetched = root.join("fetched");
    let run = |kind: &str, port: u16, delete: bool| -> Result<()> {
        let text = format!(
            "[retriever]\ntype = {kind}\nserver = {ip}\nport = {port}\nusername = joe\npassword = {PASSWORD}\n\
             [destination]\ntype = MDA_external\npath = /bin/sh\nallow_root_commands = true\n\
             arguments = (\"-c\", \"cat >> {file}\")\n\
             [options]\nread_all = false\ndelete = {delete}\ndelivered_to = false\nreceived = false\n",
            ip = server.pop3.ip(),
            file = fetched.display(),
        );
        let config = private(&root.join("getmailrc"), &text)?;
        let folder = root.display().to_string();
        command::ok("getmail", &["--rcfile", &config, "--getmaildir", &folder], b"")?;
        Ok(())
    };
    let count = || letters_in(&fetched);
    run("SimplePOP3Retriever", server.pop3.port(), false)?;
    ensure!(count()? == 3 && left(&server)? == 3);
    let new = message("letter new", "x");
    server.login("joe")?.append_ok("INBOX", "", new.as_bytes())?;
    // It knows by UIDL what it has fetched.
    run("SimplePOP3Retriever", server.pop3.port(), true)?;
    ensure!(count()? == 4 && left(&server)? == 0, "{} fetched, {} left", count()?, left(&server)?);
    server.login("joe")?.append_ok("INBOX", "", new.as_bytes())?;
    run("SimplePOP3SSLRetriever", server.pop3s.port(), true)?;
    ensure!(count()? == 5 && left(&server)? == 0, "{} fetched, {} left", count()?, left(&server)?);
    server.stop()
}

/// A client that speaks by itself.
pub(crate) struct Pop3 {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Pop3 {
    /// Joe logs in and says these.
    pub(crate) fn login(server: &Server, lines: &[&str]) -> Result<Pop3> {
        let stream = TcpStream::connect(server.pop3)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        let mut client = Pop3 { reader: BufReader::new(stream.try_clone()?), stream };
        client.line()?;
        let password = format!("PASS {PASSWORD}");
        for line in [&["USER joe", &password][..], lines].concat() {
            client.ok(line)?;
        }
        Ok(client)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.reader.read_line(&mut line)? > 0, "the connection has ended");
        Ok(line.trim_end().to_owned())
    }

    pub(crate) fn ok(&mut self, command: &str) -> Result<String> {
        self.stream.write_all(format!("{command}\r\n").as_bytes())?;
        let heard = self.line()?;
        ensure!(heard.starts_with("+OK"), "{command}: {heard}");
        Ok(heard)
    }

    /// The lines behind `+OK`.
    pub(crate) fn lines(&mut self, command: &str) -> Result<Vec<String>> {
        self.ok(command)?;
        let mut lines = Vec::new();
        loop {
            match self.line()? {
                line if line == "." => return Ok(lines),
                line => lines.push(line),
            }
        }
    }
}

#[test]
fn what_quit_has_answered_survives_a_crash_and_what_was_cut_does_not_count() -> Result<()> {
    let mut server = server_with_mail()?;
    Pop3::login(&server, &["DELE 1", "DELE 2", "QUIT"])?;
    server.kill9()?;
    server.launch()?;
    ensure!(left(&server)? == 1);
    let open = Pop3::login(&server, &["DELE 1"])?;
    server.kill9()?;
    drop(open);
    server.launch()?;
    ensure!(left(&server)? == 1);
    server.check()?;
    server.stop()
}
