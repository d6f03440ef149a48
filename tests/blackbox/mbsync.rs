//! mbsync (isync): pulls, pushes, carries flags both ways, and then has nothing left to do.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rookery_tests::command;
use rookery_tests::server::{PASSWORD, Server};

use crate::{message, server_with_joe};

/// A Maildir and mbsync's configuration and state for one account.
pub(crate) struct Mbsync {
    folder: tempfile::TempDir,
}

impl Mbsync {
    pub(crate) fn new(server: &Server, user: &str) -> Result<Mbsync> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().display();
        let config = format!(
            "SyncState {root}/state/\nFSync no\n\n\
             IMAPAccount test\nHost {ip}\nPort {port}\nUser {user}\nPass \"{PASSWORD}\"\nSSLType None\n\
             AuthMechs LOGIN\nTimeout 60\n\n\
             IMAPStore far\nAccount test\n\n\
             MaildirStore near\nPath {root}/mail/\nInbox {root}/mail/INBOX\nSubFolders Verbatim\n\n\
             Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nExpunge Both\nCopyArrivalDate yes\n",
            ip = server.imap.ip(),
            port = server.imap.port()
        );
        std::fs::create_dir_all(folder.path().join("mail"))?;
        std::fs::create_dir_all(folder.path().join("state"))?;
        std::fs::write(folder.path().join("mbsyncrc"), config)?;
        Ok(Mbsync { folder })
    }

    /// One run over all mailboxes; gives what it said.
    pub(crate) fn run(&self) -> Result<String> {
        self.run_with("--verbose")
    }

    fn run_with(&self, option: &str) -> Result<String> {
        let config = self.folder.path().join("mbsyncrc").display().to_string();
        Ok(command::ok("mbsync", &["--config", &config, option, "--all"], b"")?.text())
    }

    /// One run that must not find anything to do: it changes no file here and asks for no change there.
    pub(crate) fn run_idle(&self) -> Result<()> {
        let before = self.listing()?;
        // The commands it sends, as ">>> tag command".
        let said = self.run_with("--debug-net")?;
        let sent: Vec<&str> = said.lines().filter(|line| line.contains(">>> ")).collect();
        ensure!(sent.iter().any(|line| line.contains("SELECT")), "mbsync showed no commands:\n{said}");
        let changes = ["APPEND", "STORE", "EXPUNGE", "BODY.PEEK[]", "CREATE", "MOVE", "COPY"];
        for line in sent {
            ensure!(
                !changes.iter().any(|verb| line.contains(verb)),
                "mbsync still had something to do: {line}"
            );
        }
        ensure!(before == self.listing()?, "mbsync changed the Maildir in a run with nothing to do");
        Ok(())
    }

    pub(crate) fn maildir(&self, mailbox: &str) -> PathBuf {
        self.folder.path().join("mail").join(mailbox)
    }

    /// All messages of a Maildir, sorted by path.
    pub(crate) fn messages(&self, mailbox: &str) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut messages = Vec::new();
        for part in ["cur", "new"] {
            for entry in std::fs::read_dir(self.maildir(mailbox).join(part))? {
                let path = entry?.path();
                let octets = std::fs::read(&path)?;
                messages.push((path, octets));
            }
        }
        messages.sort();
        Ok(messages)
    }

    fn listing(&self) -> Result<Vec<String>> {
        let mail = self.folder.path().join("mail").display().to_string();
        let found = command::ok("find", &[&mail], b"")?;
        let mut lines: Vec<_> = String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }
}

fn flags(path: &Path) -> String {
    path.to_string_lossy().rsplit_once(":2,").map(|(_, flags)| flags.to_owned()).unwrap_or_default()
}

#[test]
fn pull_push_and_flags_both_ways() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut imap = server.login("joe")?;
    imap.ok("CREATE Letters")?;
    imap.append_ok("INBOX", "", message("first", "one").as_bytes())?;
    imap.append_ok("INBOX", "(\\Seen \\Flagged)", message("second", "two").as_bytes())?;
    imap.append_ok("Letters", "(\\Answered)", message("third", "three").as_bytes())?;

    // Pull.
    let near = Mbsync::new(&server, "joe")?;
    near.run()?;
    let inbox = near.messages("INBOX")?;
    ensure!(inbox.len() == 2 && near.messages("Letters")?.len() == 1, "{:?}", near.listing()?);
    near.run_idle()?;

    // Push a message and a new mailbox, and a flag; a flag on the server comes the other way.
    for part in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(near.maildir("Drafts").join(part))?;
    }
    let text = message("pushed", "four").replace("\r\n", "\n");
    std::fs::write(near.maildir("Drafts").join("cur/1.2.local:2,DS"), &text)?;
    let second =
        inbox.iter().find(|(_, octets)| octets.windows(6).any(|w| w == b"second")).context("no second")?;
    ensure!(flags(&second.0).contains('F'), "{:?}", second.0);
    let unflagged = second.0.to_string_lossy().replace(":2,FS", ":2,S");
    std::fs::rename(&second.0, unflagged)?;
    imap.ok("SELECT INBOX")?;
    imap.ok("STORE 1 +FLAGS (\\Seen)")?;
    near.run()?;

    imap.ok("NOOP")?;
    let fetched = imap.ok("FETCH 2 (FLAGS)")?.fetches()?;
    let now = fetched.first().context("nothing fetched")?.flags()?;
    ensure!(now.contains(&"\\Seen".into()) && !now.contains(&"\\Flagged".into()), "{now:?}");
    let first = near.messages("INBOX")?;
    let first =
        first.iter().find(|(_, octets)| octets.windows(5).any(|w| w == b"first")).context("no first")?;
    ensure!(flags(&first.0).contains('S'), "{:?}", first.0);
    ensure!(imap.ok("SELECT Drafts")?.lines().contains(&"1 EXISTS".into()));
    let fetched = imap.ok("FETCH 1 (FLAGS BODY.PEEK[])")?.fetches()?;
    let pushed = fetched.first().context("nothing fetched")?;
    ensure!(pushed.flags()?.contains(&"\\Draft".into()), "{:?}", pushed.flags()?);
    // mbsync puts an X-TUID field into what it pushes; all else is as it was.
    let came = String::from_utf8_lossy(pushed.body("BODY[]")?).into_owned();
    let came: String = came.split_inclusive('\n').filter(|line| !line.starts_with("X-TUID:")).collect();
    ensure!(came == message("pushed", "four"), "{came}");
    near.run_idle()?;

    // Expunge on the server.
    imap.ok("SELECT Letters")?;
    imap.ok("STORE 1 +FLAGS (\\Deleted)")?;
    imap.ok("EXPUNGE")?;
    near.run()?;
    ensure!(near.messages("Letters")?.is_empty());
    near.run_idle()?;
    server.stop()
}
