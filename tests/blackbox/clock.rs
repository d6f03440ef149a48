//! A wall clock that is set back, and forward again, while the server runs and while it does not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rookery_tests::clock::{Clock, DAY};
use rookery_tests::imap::Imap;
use rookery_tests::server::Server;

use crate::message;

/// A server whose wall clock is so many seconds off, as a file says.
struct Shifted {
    server: Server,
    clock: Clock,
}

impl Shifted {
    fn start() -> Result<Shifted> {
        let mut server = Server::unstarted()?;
        server.add_config("[store]\nretention_days = 1\n")?;
        let clock = Clock::of(&mut server)?;
        Ok(Shifted { server, clock })
    }

    fn shift(&self, seconds: i64) -> Result<()> {
        self.clock.shift(seconds)
    }

    fn undeletable(&self) -> Result<String> {
        let output = self.server.cli(&["undelete", "list", "joe", "--json"], b"")?;
        ensure!(output.status.success(), "{}", output.text());
        Ok(output.text())
    }
}

fn number(reply: Option<String>, what: &str) -> Result<u64> {
    Ok(reply.with_context(|| format!("no {what}"))?.parse()?)
}

fn modseq(imap: &mut Imap) -> Result<u64> {
    number(imap.ok("SELECT INBOX (CONDSTORE)")?.code("HIGHESTMODSEQ"), "HIGHESTMODSEQ")
}

fn validity(imap: &mut Imap, mailbox: &str) -> Result<u64> {
    number(imap.ok(&format!("EXAMINE {mailbox}"))?.code("UIDVALIDITY"), "UIDVALIDITY")
}

#[test]
fn a_clock_set_back_takes_nothing_back() -> Result<()> {
    let mut shifted = Shifted::start()?;
    shifted.server.launch()?;
    shifted.server.add_user("joe")?;
    let mut imap = shifted.server.login("joe")?;
    let (inbox, first) = imap.append_ok("INBOX", "(\\Deleted)", message("one", "x").as_bytes())?;
    let (_, second) = imap.append_ok("INBOX", "", message("two", "x").as_bytes())?;
    ensure!((first, second) == (1, 2));
    imap.ok("CREATE Work")?;
    let work = validity(&mut imap, "Work")?;
    imap.ok("DELETE Work")?;
    let before = modseq(&mut imap)?;
    imap.ok("EXPUNGE")?;

    // Three days back while a session is open, then for a whole run.
    shifted.shift(-3 * DAY)?;
    for (uid, restarted) in [(3, false), (4, true)] {
        if restarted {
            shifted.server.restart()?;
            imap = shifted.server.login("joe")?;
        }
        let (validity_now, got) = imap.append_ok("INBOX", "", message(&format!("m{uid}"), "x").as_bytes())?;
        ensure!((validity_now, got) == (inbox, uid), "UIDVALIDITY {validity_now}, UID {got}");
        ensure!(modseq(&mut imap)? > before + u64::from(uid) - 2, "modseqs do not rise");
        imap.ok("CREATE Work")?;
        ensure!(validity(&mut imap, "Work")? > work, "a mailbox of the same name has an old UIDVALIDITY");
        imap.ok("DELETE Work")?;
        let kept = shifted.undeletable()?;
        ensure!(kept.contains("\"messages\"") && kept.contains("INBOX"), "{kept}");
    }
    // What came later stands later, whatever its date is.
    imap.ok("SELECT INBOX")?;
    let fetched = imap.ok("FETCH 1:* (UID INTERNALDATE)")?.fetches()?;
    let uids = fetched.iter().map(|fetch| fetch.uid()).collect::<Result<Vec<_>>>()?;
    ensure!(uids == [2, 3, 4], "{uids:?}");
    let day = |at: usize| -> Result<String> { Ok(format!("{:?}", fetched[at].get("INTERNALDATE")?)) };
    ensure!(day(0)? != day(1)?, "the clock was not set back: {}", day(0)?);

    // Right again nothing has expired early; a day and an hour on all of it has.
    shifted.shift(0)?;
    imap.ok("NOOP")?;
    ensure!(shifted.undeletable()?.contains("INBOX"), "what was expunged is gone before its time");
    shifted.shift(DAY + 3600)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while shifted.undeletable()?.contains("INBOX") {
        ensure!(Instant::now() < deadline, "what was expunged is kept for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    imap.ok("NOOP")?;
    let read = imap.ok("UID FETCH 2:4 BODY.PEEK[]")?.fetches()?;
    ensure!(read.len() == 3);
    imap.ok("LOGOUT")?;
    shifted.server.check()?;
    shifted.server.stop()
}
