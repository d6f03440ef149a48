//! What people at their mail programs do, and write down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::crowd::{Habit, PATIENCE, Person, Times};
use super::ledger::{COPIES, DRAFTS, FILED, Ledger, modseq};
use crate::imap::{Imap, Reply};
use crate::server::PASSWORD;

/// Somebody patient may find nothing working for so long.
pub(super) const AWAY_MAX: Duration = Duration::from_secs(40);

/// What somebody has done and was told.
#[derive(Debug, Default)]
pub(super) struct Day {
    /// Commands that change something.
    pub(super) writes: Times,
    /// Those that do not.
    pub(super) reads: Times,
    /// Of messages.
    pub(super) ledger: Ledger,
    /// The MODSEQ that was told last of the first message.
    modseq: u64,
    /// By mailbox, the UID that was told last of a new message.
    uids: BTreeMap<&'static str, u32>,
}

/// What makes subjects, none twice.
#[derive(Debug)]
pub(super) struct Pen {
    name: String,
    number: u64,
}

impl Pen {
    /// Of this name, which nobody else has.
    pub(super) fn new(name: String) -> Pen {
        Pen { name, number: 0 }
    }

    fn letter(&self, user: &str) -> (String, String) {
        let subject = format!("{user} writes {}.{}", self.name, self.number);
        let text = format!("From: {user}@example.org\r\nSubject: {subject}\r\n\r\nThe text of it.\r\n");
        (subject, text)
    }
}

impl Day {
    /// A new message has this UID: the highest so far.
    fn arrived(&mut self, mailbox: &'static str, uid: u32) -> Result<()> {
        let last = self.uids.insert(mailbox, uid).unwrap_or(0);
        ensure!(uid > last, "UID {uid} was given in {mailbox} after {last}");
        Ok(())
    }
}

/// Logs in, and makes what is needed.
pub(super) fn enter(person: &Person) -> Result<Imap> {
    let mut client = Imap::login(person.at, &person.user, PASSWORD)?;
    let needed: &[&str] = match person.habit {
        Habit::Writes => &[DRAFTS],
        Habit::Files => &[FILED, COPIES],
        _ => &[],
    };
    for mailbox in needed {
        // It may be there.
        client.command(&format!("CREATE {mailbox}"))?;
    }
    if person.habit == Habit::Flags {
        client.ok("ENABLE CONDSTORE")?;
    }
    client.ok("SELECT INBOX")?;
    Ok(client)
}

/// Works until it is time; a command that is not answered with OK within `patience` ends it.
pub(super) fn work(
    person: &Person,
    mut client: Imap,
    day: &mut Day,
    pen: &mut Pen,
    patience: Duration,
    stop: &AtomicBool,
) -> Result<()> {
    client.set_silence_max(patience)?;
    let mut client = Timed { client, patience };
    while !stop.load(Ordering::Relaxed) {
        pen.number += 1;
        let number = pen.number;
        match person.habit {
            Habit::Reads => reads(&mut client, day, number)?,
            Habit::Writes => writes(&mut client, day, pen.letter(&person.user))?,
            Habit::Idles => idles(&mut client, day)?,
            Habit::Files => files(&mut client, day, pen.letter(&person.user))?,
            Habit::Looks => looks(&mut client, day)?,
            Habit::Flags => flags(&mut client, day, number)?,
            Habit::Asks => {
                let ask = if number.is_multiple_of(2) { "NOOP" } else { "FETCH * FLAGS" };
                client.ok(&mut day.reads, ask)?;
            }
        }
        std::thread::sleep(person.pace);
    }
    client.client.ok("LOGOUT").map(drop)
}

/// Goes on with a new connection when one has failed, until it is time.
pub(super) fn work_on(
    person: &Person,
    client: Imap,
    day: &mut Day,
    pen: &mut Pen,
    stop: &AtomicBool,
) -> Result<()> {
    let (mut client, mut done) = (Some(client), 0);
    let mut since = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let entered = client.take().map_or_else(|| enter(person), Ok);
        match entered.and_then(|client| work(person, client, day, pen, PATIENCE, stop)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                // The first of a connection that has just been made need not have been answered.
                if pen.number > done + 1 {
                    since = Instant::now();
                }
                done = pen.number;
                ensure!(since.elapsed() < AWAY_MAX, "served no more: {error:#}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    Ok(())
}

/// A client whose commands must be answered with OK, in time.
struct Timed {
    client: Imap,
    patience: Duration,
}

impl Timed {
    fn take(&mut self, times: &mut Times, work: impl FnOnce(&mut Imap) -> Result<Reply>) -> Result<Reply> {
        let began = Instant::now();
        let reply = work(&mut self.client)?;
        let took = began.elapsed();
        times.add(took);
        ensure!(took < self.patience, "a command took {took:?}\n{}", self.client.transcript());
        Ok(reply)
    }

    fn ok(&mut self, times: &mut Times, command: &str) -> Result<Reply> {
        self.take(times, |client| client.ok(command))
    }

    /// The UID that it got.
    fn append(&mut self, day: &mut Day, mailbox: &'static str, flags: &str, text: &str) -> Result<u32> {
        let mut told = 0;
        self.take(&mut day.writes, |client| {
            let reply = client.append(mailbox, flags, text.as_bytes())?;
            let code = reply.code("APPENDUID");
            let code = code.with_context(|| format!("APPEND was answered {}", reply.text))?;
            told = code.split_once(' ').context("APPENDUID of one number")?.1.parse()?;
            Ok(reply)
        })?;
        day.arrived(mailbox, told)?;
        Ok(told)
    }
}

fn reads(client: &mut Timed, day: &mut Day, number: u64) -> Result<()> {
    client.ok(&mut day.reads, "NOOP")?;
    let what = ["UID FETCH * (FLAGS BODY.PEEK[HEADER])", "UID SEARCH UNSEEN", "FETCH 1:* (UID FLAGS)"];
    let what = what[usize::try_from(number)? % what.len()];
    client.ok(&mut day.reads, what)?;
    Ok(())
}

fn flags(client: &mut Timed, day: &mut Day, number: u64) -> Result<()> {
    let sign = if number.is_multiple_of(2) { '-' } else { '+' };
    let stored = client.ok(&mut day.writes, &format!("STORE 1 {sign}FLAGS (\\Flagged)"))?;
    for fetch in stored.fetches()?.iter().filter(|fetch| fetch.seq == 1) {
        let told = modseq(fetch)?;
        ensure!(told >= day.modseq, "MODSEQ {told} was told of a message after {}", day.modseq);
        day.modseq = told;
    }
    Ok(())
}

fn writes(client: &mut Timed, day: &mut Day, (subject, text): (String, String)) -> Result<()> {
    day.ledger.may_be(&subject, &[(DRAFTS, None)]);
    let uid = client.append(day, DRAFTS, "(\\Draft)", &text)?;
    day.ledger.is(&subject, &[(DRAFTS, Some(uid))]);
    client.ok(&mut day.writes, "UID STORE * +FLAGS (\\Flagged)")?;
    Ok(())
}

fn idles(client: &mut Timed, day: &mut Day) -> Result<()> {
    let tag = client.client.idle()?;
    std::thread::sleep(Duration::from_millis(300));
    client.take(&mut day.reads, |client| {
        let reply = client.done(&tag)?;
        ensure!(reply.status == crate::imap::Status::Ok, "IDLE was answered {}", reply.text);
        Ok(reply)
    })?;
    Ok(())
}

fn files(client: &mut Timed, day: &mut Day, (subject, text): (String, String)) -> Result<()> {
    day.ledger.may_be(&subject, &[("INBOX", None)]);
    let uid = client.append(day, "INBOX", "", &text)?;
    let here = ("INBOX", Some(uid));
    day.ledger.is(&subject, &[here]);
    day.ledger.may_be(&subject, &[here, (COPIES, None)]);
    let copied = client.ok(&mut day.writes, &format!("UID COPY {uid} {COPIES}"))?;
    let copy = new_uid(&copied)?;
    day.arrived(COPIES, copy)?;
    let copy = (COPIES, Some(copy));
    day.ledger.is(&subject, &[here, copy]);
    day.ledger.may_be(&subject, &[(FILED, None), copy]);
    let moved = client.ok(&mut day.writes, &format!("UID MOVE {uid} {FILED}"))?;
    let filed = new_uid(&moved)?;
    day.arrived(FILED, filed)?;
    day.ledger.is(&subject, &[(FILED, Some(filed)), copy]);
    Ok(())
}

/// The new UID in COPYUID, which MOVE tells untagged.
fn new_uid(reply: &Reply) -> Result<u32> {
    let code = reply.code("COPYUID").with_context(|| format!("no COPYUID: {:?}", reply.lines()))?;
    match code.split(' ').collect::<Vec<_>>()[..] {
        [_, _, new] => Ok(new.parse()?),
        _ => bail!("COPYUID is {code}"),
    }
}

fn looks(client: &mut Timed, day: &mut Day) -> Result<()> {
    let listed = client.ok(&mut day.reads, "LIST \"\" *")?;
    ensure!(listed.lines().iter().any(|line| line.contains("INBOX")), "LIST shows {:?}", listed.lines());
    client.ok(&mut day.reads, "STATUS INBOX (MESSAGES UIDNEXT UNSEEN)")?;
    client.ok(&mut day.reads, "GETQUOTAROOT INBOX")?;
    Ok(())
}
