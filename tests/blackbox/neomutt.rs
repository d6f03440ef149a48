//! neomutt, driven by configuration commands and pushed keys, on a pseudo-terminal that `script` gives it.

use anyhow::{Result, ensure};
use rookery_tests::command;
use rookery_tests::server::{PASSWORD, Server};

use crate::{message, server_with_joe};

/// Starts neomutt on a mailbox with these keys pushed.
fn neomutt(server: &Server, mailbox: &str, keys: &str) -> Result<String> {
    command::require("neomutt")?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("neomuttrc");
    let url = format!("imap://{}", server.imap);
    let cert = folder.path().join("certs").display().to_string();
    let text = format!(
        "set folder=\"{url}/\"\nset imap_user=\"joe\"\nset imap_pass=\"{PASSWORD}\"\nset imap_authenticators=\"login\"\n\
         set ssl_starttls=no\nset ssl_force_tls=no\nset certificate_file=\"{cert}\"\nset header_cache=\"\"\n\
         set confirmappend=no\nset confirmcreate=no\nset delete=yes\nset quit=yes\nset mark_old=no\nset wait_key=no\n\
         set imap_keepalive=30\nset net_inc=0\nset read_inc=0\nset write_inc=0\nset sleep_time=0\n\
         set spool_file=\"{url}/{mailbox}\"\nset index_format=\"%C|%Z|%s\"\npush \"{keys}\"\n"
    );
    std::fs::write(&config, text)?;
    let run = format!(
        "stty rows 40 cols 100; exec env TERM=xterm HOME={} neomutt -n -F {}",
        folder.path().display(),
        config.display()
    );
    let log = folder.path().join("typescript").display().to_string();
    let output = command::ok("timeout", &["60", "script", "-q", "-e", "-c", &run, &log], b"")?;
    Ok(output.text())
}

#[test]
fn neomutt_reads_copies_and_deletes() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut imap = server.login("joe")?;
    imap.ok("CREATE Kept")?;
    for subject in ["alpha", "beta", "gamma"] {
        imap.append_ok("INBOX", "", message(subject, "text").as_bytes())?;
    }
    let shown = neomutt(&server, "INBOX", "<refresh><sync-mailbox><quit>")?;
    for subject in ["alpha", "beta", "gamma"] {
        ensure!(shown.contains(subject), "neomutt did not show {subject}:\n{}", shown.escape_debug());
    }
    ensure!(shown.contains("Msgs:3"), "neomutt did not count three:\n{}", shown.escape_debug());
    // Tags everything, copies it to Kept, deletes the second message, reads the third, quits.
    let keys = "<tag-pattern>.<enter><tag-prefix><copy-message>=Kept<enter><untag-pattern>.<enter>\
                <jump>2<enter><delete-message><jump>3<enter><display-message><exit><sync-mailbox><quit>";
    neomutt(&server, "INBOX", keys)?;
    let subjects = |imap: &mut rookery_tests::imap::Imap, mailbox: &str| -> Result<Vec<(String, bool)>> {
        imap.ok(&format!("SELECT {mailbox}"))?;
        let reply = imap.ok("UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")?;
        let mut found = Vec::new();
        for fetch in reply.fetches()? {
            let field = String::from_utf8_lossy(fetch.body("BODY[HEADER.FIELDS (SUBJECT)]")?).into_owned();
            let subject = field.trim().trim_start_matches("Subject: ").to_owned();
            found.push((subject, fetch.flags()?.contains(&"\\Seen".into())));
        }
        Ok(found)
    };
    let inbox = subjects(&mut imap, "INBOX")?;
    ensure!(inbox == [("alpha".into(), false), ("gamma".into(), true)], "{inbox:?}");
    let kept: Vec<_> = subjects(&mut imap, "Kept")?.into_iter().map(|(subject, _)| subject).collect();
    ensure!(kept == ["alpha", "beta", "gamma"], "{kept:?}");
    server.stop()
}
