//! MOVE between two homes, through a frontend, with either home killed at a random moment.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::imap::{Imap, Status};
use crate::murder::Murder;
use crate::random::Random;
use crate::server::PASSWORD;

/// Messages that go to and fro.
const MESSAGES: usize = 12;
/// How long a node, and what was under way, may take until all is well again.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// The longest pause between a MOVE and the kill.
const PAUSE_MAX_US: u64 = 40_000;

/// What a soak saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Kills.
    pub rounds: u64,
    /// MOVEs that were answered with OK.
    pub moved: u64,
    /// MOVEs without an answer, or with one that leaves the outcome open.
    pub open: u64,
    /// Of these, those whose messages went all the same.
    pub went: u64,
}

/// The nodes: the frontend, which has the directory; ann's home; joe's home.
const FRONT: usize = 0;
const HOMES: [usize; 2] = [1, 2];
/// Their INBOXes, as joe calls them.
const INBOXES: [&str; 2] = ["\"Other Users/ann\"", "INBOX"];

/// Kills a home `rounds` times while messages move, for at most so long, and looks where they are.
pub fn soak(rounds: u64, seed: u64, time_max: Duration, mut report: impl FnMut(&str)) -> Result<Summary> {
    let began = Instant::now();
    let mut murder = Murder::start(&[("fe1.example", ""), ("be1.example", "hold"), ("be2.example", "hold")])?;
    for (node, user) in HOMES.into_iter().zip(["ann", "joe"]) {
        murder.node(node)?.add_user(user)?;
    }
    for node in [0, 1, 2] {
        let lines = [
            "is not reached",
            "the directory's source is away",
            "is not published yet",
            // A home that is killed while it links itself.
            "a link connection is refused",
        ];
        for line in lines {
            murder.node_mut(node)?.allow_log(line);
        }
    }
    let front = murder.node(FRONT)?.imap;
    Imap::login(front, "ann", PASSWORD)?.ok("SETACL INBOX joe lrswipkxte")?;
    let mut joe = Imap::login(front, "joe", PASSWORD)?;
    report(&format!("{:?}: three nodes", began.elapsed()));
    for number in 0..MESSAGES {
        // From a line to some frames of the link.
        let body = format!("Subject: letter {number}\r\n\r\n{}", "x".repeat(number * number * 300));
        joe.append_ok("INBOX", "", body.as_bytes())?;
    }
    drop(joe);
    let mut summary = Summary::default();
    let mut at = 1;
    while summary.rounds < rounds && (summary.rounds < 3 || began.elapsed() < time_max) {
        let seed = seed.wrapping_add(summary.rounds);
        let round = one_kill(&mut murder, at, seed, &mut summary);
        at = round.with_context(|| format!("round {}, seed {seed}", summary.rounds))?;
        summary.rounds += 1;
        report(&format!(
            "kill {}: {} moved, {} open, {} of them went",
            summary.rounds, summary.moved, summary.open, summary.went
        ));
    }
    for node in HOMES {
        murder.node(node)?.check()?;
    }
    murder.stop()?;
    Ok(summary)
}

/// Moves all messages from the INBOX where they are to the other, kills a home, and tells where they are then.
fn one_kill(murder: &mut Murder, at: usize, seed: u64, summary: &mut Summary) -> Result<usize> {
    let mut random = Random::new(seed);
    let to = 1 - at;
    let front = murder.node(FRONT)?.imap;
    let mut joe = Imap::login(front, "joe", PASSWORD)?;
    joe.ok(&format!("SELECT {}", INBOXES[at]))?;
    let victim = HOMES[random.index(2)];
    let killer = murder.node(victim)?.killer()?;
    let pause = Duration::from_micros(random.below(PAUSE_MAX_US));
    let tag = joe.send(&format!("UID MOVE 1:* {}", INBOXES[to]))?;
    std::thread::sleep(pause);
    killer.fire()?;
    murder.node_mut(victim)?.kill9()?;
    murder.node_mut(victim)?.launch()?;
    let answer = joe.answer(&tag).ok();
    let ok =
        answer.as_ref().is_some_and(|answer| answer.code("INUSE").is_none() && answer.status == Status::Ok);
    let (here, there) = settled(front, at)?;
    let all: Vec<usize> = (0..MESSAGES).collect();
    let now = match (here == all, there == all) {
        (true, false) if there.is_empty() => at,
        (false, true) if here.is_empty() => to,
        _ => bail!("the messages are at {here:?} and {there:?} after {:?}", answer.map(|a| a.text)),
    };
    ensure!(!ok || now == to, "OK was said, and the messages are where they were");
    summary.moved += u64::from(ok);
    summary.open += u64::from(!ok);
    summary.went += u64::from(!ok && now == to);
    Ok(now)
}

/// Waits until no message is on its way, and tells which are where they were, and which at the other place.
fn settled(front: std::net::SocketAddr, at: usize) -> Result<(Vec<usize>, Vec<usize>)> {
    let deadline = Instant::now() + RECOVERY_MAX;
    let mut last = None;
    loop {
        let found = Imap::login(front, "joe", PASSWORD).and_then(|mut joe| {
            let here = letters(&mut joe, at)?;
            Ok((here, letters(&mut joe, 1 - at)?))
        });
        match found {
            // For the moment that the last change takes to the disk they are at both places: twice the same is rest.
            Ok((Some(here), Some(there))) if last.as_ref() == Some(&(here.clone(), there.clone())) => {
                return Ok((here, there));
            }
            Ok((Some(here), Some(there))) => last = Some((here, there)),
            other => ensure!(Instant::now() < deadline, "it does not come to rest: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The numbers of the letters in an INBOX; `None`: some are on their way.
fn letters(joe: &mut Imap, inbox: usize) -> Result<Option<Vec<usize>>> {
    joe.ok(&format!("SELECT {}", INBOXES[inbox]))?;
    // What is on its way cannot be changed.
    let stored = joe.command("UID STORE 1:* +FLAGS.SILENT (\\Answered)")?;
    if stored.code("INUSE").is_some() {
        return Ok(None);
    }
    ensure!(stored.status == Status::Ok, "{:?}", stored.text);
    let mut found = Vec::new();
    for fetch in joe.ok("UID FETCH 1:* BODY.PEEK[HEADER.FIELDS (SUBJECT)]")?.fetches()? {
        let header = String::from_utf8_lossy(fetch.body("BODY[HEADER.FIELDS (SUBJECT)]")?).into_owned();
        let number = header.trim().rsplit(' ').next().and_then(|number| number.parse().ok());
        found.push(number.with_context(|| format!("the subject is {header:?}"))?);
    }
    found.sort_unstable();
    Ok(Some(found))
}
