//! The load: workers that deliver, append, flag, copy, move and expunge as fast as they are answered, and write down
//! what they sent and what was acknowledged.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};

use super::{ACCOUNTS, Effect, FLAGS, MAILBOXES, State, Step, Story};
use crate::imap::{Imap, Status};
use crate::lmtp::Lmtp;
use crate::process::monotonic_ns;
use crate::random::Random;
use crate::server::{PASSWORD, Program, Server};

/// Worker threads, each with an IMAP and an LMTP connection.
pub const WORKERS: usize = 6;
/// Steps of one worker in one load, should nothing stop it.
const STEPS_MAX: usize = 20_000;

/// One worker's messages.
#[derive(Debug)]
pub struct Worker {
    number: usize,
    born: usize,
    /// All messages this worker ever made.
    pub stories: Vec<Story>,
}

impl Worker {
    /// Workers without any message yet.
    pub fn all() -> Vec<Worker> {
        (0..WORKERS).map(|number| Worker { number, born: 0, stories: Vec::new() }).collect()
    }

    /// The same messages once more, for comparing with several servers.
    pub fn twin(&self) -> Worker {
        Worker { number: self.number, born: self.born, stories: self.stories.clone() }
    }

    fn account(&self) -> &'static str {
        ACCOUNTS[self.number % ACCOUNTS.len()]
    }
}

/// Adds the accounts and makes the mailboxes.
pub fn prepare(server: &Server) -> Result<()> {
    for account in ACCOUNTS {
        server.add_user(account)?;
        let mut imap = server.login(account)?;
        for mailbox in MAILBOXES.iter().filter(|name| **name != "INBOX") {
            imap.ok(&format!("CREATE {mailbox}"))?;
        }
    }
    Ok(())
}

/// Runs all workers until `dead` is set and their connections break. An error before that is the server's fault and is
/// given back.
pub fn run(server: &Server, workers: &mut [Worker], seed: u64, dead: &AtomicBool) -> Result<()> {
    let (imap, lmtp) = (server.imap, server.lmtp);
    let moves = server.program() == Program::Rookery;
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let random =
                    Random::new(seed ^ (worker.number as u64 + 1).wrapping_mul(0x5851_f42d_4c95_7f2d));
                scope.spawn(move || work(worker, (imap, lmtp), moves, random, dead))
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a worker panicked"),
            }
        }
        Ok(())
    })
}

fn work(
    worker: &mut Worker,
    (imap, lmtp): (SocketAddr, SocketAddr),
    moves: bool,
    mut random: Random,
    dead: &AtomicBool,
) -> Result<()> {
    let begin = || -> Result<Session> {
        Ok(Session {
            imap: Imap::login(imap, worker.account(), PASSWORD)?,
            lmtp: Lmtp::connect(lmtp)?,
            selected: None,
            moves,
        })
    };
    let mut session = match begin() {
        Ok(session) => session,
        Err(_) if dead.load(Ordering::SeqCst) => return Ok(()),
        Err(error) => return Err(error),
    };
    for _ in 0..STEPS_MAX {
        if let Err(error) = step(worker, &mut session, &mut random) {
            // A connection that breaks because the server was killed is what is wanted here.
            return if dead.load(Ordering::SeqCst) && error.downcast_ref::<Refused>().is_none() {
                Ok(())
            } else {
                Err(error)
            };
        }
    }
    Ok(())
}

/// The server answered, and not with OK.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "refused under load: {}", self.0)
    }
}

impl std::error::Error for Refused {}

struct Session {
    imap: Imap,
    lmtp: Lmtp,
    selected: Option<&'static str>,
    /// MOVE is used: the stand-in's is not whole when it is killed.
    moves: bool,
}

impl Session {
    fn select(&mut self, mailbox: &'static str) -> Result<()> {
        if self.selected != Some(mailbox) {
            let reply = self.imap.command(&format!("SELECT {mailbox}"))?;
            ensure!(reply.status == Status::Ok, Refused(format!("SELECT {mailbox}: {}", reply.text)));
            self.selected = Some(mailbox);
        }
        Ok(())
    }

    fn ok(&mut self, command: &str) -> Result<crate::imap::Reply> {
        let reply = self.imap.command(command)?;
        ensure!(reply.status == Status::Ok, Refused(format!("{command}: {:?} {}", reply.status, reply.text)));
        Ok(reply)
    }
}

fn step(worker: &mut Worker, session: &mut Session, random: &mut Random) -> Result<()> {
    match random.below(100) {
        0..30 => deliver(worker, session, random),
        30..50 => append(worker, session, random),
        50..55 => learn(worker, session),
        lot => {
            let Some((at, mailbox, uid)) = choose(worker, session, random) else {
                return append(worker, session, random);
            };
            session.select(mailbox)?;
            let story = &mut worker.stories[at];
            match lot {
                55..77 => flag(story, session, mailbox, uid, random),
                77..86 => expunge(story, session, mailbox, uid),
                _ => carry(story, session, mailbox, uid, random),
            }
        }
    }
}

/// A message with a known UID, mostly in the mailbox that is selected already.
fn choose(worker: &Worker, session: &Session, random: &mut Random) -> Option<(usize, &'static str, u32)> {
    for _ in 0..20 {
        let at = random.index(worker.stories.len());
        let story = worker.stories.get(at)?;
        let state = story.now();
        let places: Vec<_> = state.keys().filter_map(|place| Some((*place, story.uid(place)?))).collect();
        let Some(&(mailbox, uid)) = places.get(random.index(places.len())) else { continue };
        if session.selected == Some(mailbox) || random.chance(20) {
            return Some((at, mailbox, uid));
        }
    }
    None
}

fn flags(random: &mut Random) -> BTreeSet<&'static str> {
    FLAGS.iter().copied().filter(|_| random.chance(40)).collect()
}

fn list(flags: &BTreeSet<&'static str>) -> String {
    format!("({})", flags.iter().copied().collect::<Vec<_>>().join(" "))
}

fn new_story(worker: &mut Worker, random: &mut Random) -> Story {
    let size = match random.below(100) {
        0..60 => 200 + random.below(4_000),
        60..95 => 4_000 + random.below(30_000),
        _ => 60_000 + random.below(300_000),
    };
    worker.born += 1;
    Story {
        token: format!("w{}-m{}", worker.number, worker.born),
        account: worker.account(),
        size: usize::try_from(size).unwrap_or(200),
        base: State::new(),
        base_uids: std::collections::BTreeMap::new(),
        steps: Vec::new(),
        compared: false,
    }
}

/// Notes that a step goes out, before it does.
fn sending(story: &mut Story, effect: Effect) {
    story.steps.push(Step { effect, sent_ns: monotonic_ns(), acked_ns: None, uid: None });
}

/// Notes that the last step was acknowledged.
fn acked(story: &mut Story, uid: Option<(&'static str, u32)>) {
    if let Some(step) = story.steps.last_mut() {
        step.acked_ns = Some(monotonic_ns());
        step.uid = uid;
    }
}

fn deliver(worker: &mut Worker, session: &mut Session, random: &mut Random) -> Result<()> {
    let mut story = new_story(worker, random);
    sending(&mut story, Effect::Arrive { mailbox: "INBOX", flags: BTreeSet::new() });
    let answers = session.lmtp.deliver("load@example.net", &[story.account], &story.message());
    let done = match answers {
        Ok(answers) if answers.iter().all(|answer| answer.code == 250) => {
            acked(&mut story, None);
            Ok(())
        }
        Ok(answers) => Err(Refused(format!("delivery: {answers:?}")).into()),
        Err(error) => Err(error),
    };
    worker.stories.push(story);
    done
}

fn append(worker: &mut Worker, session: &mut Session, random: &mut Random) -> Result<()> {
    let mut story = new_story(worker, random);
    let mailbox = MAILBOXES[random.index(MAILBOXES.len())];
    let flags = flags(random);
    let wanted = list(&flags);
    sending(&mut story, Effect::Arrive { mailbox, flags });
    let reply = session.imap.append(mailbox, &wanted, &story.message());
    let done = match reply {
        Ok(reply) if reply.status == Status::Ok => {
            let code = reply.code("APPENDUID").context("no APPENDUID")?;
            let uid = code
                .split_once(' ')
                .and_then(|(_, uid)| uid.parse().ok())
                .context("APPENDUID is no number")?;
            acked(&mut story, Some((mailbox, uid)));
            Ok(())
        }
        Ok(reply) => Err(Refused(format!("APPEND: {:?} {}", reply.status, reply.text)).into()),
        Err(error) => Err(error),
    };
    worker.stories.push(story);
    done
}

/// Finds the UIDs of delivered messages, which LMTP does not tell.
fn learn(worker: &mut Worker, session: &mut Session) -> Result<()> {
    let unknown: Vec<usize> = worker
        .stories
        .iter()
        .enumerate()
        .rev()
        .take(200)
        .filter(|(_, story)| story.uid("INBOX").is_none() && story.now().contains_key("INBOX"))
        .map(|(at, _)| at)
        .take(5)
        .collect();
    session.select("INBOX")?;
    // A session may tell of what others delivered only now and then (RFC 9051 §7); at NOOP it must.
    session.ok("NOOP")?;
    for at in unknown {
        let token = worker.stories[at].token.clone();
        let reply = session.ok(&format!("UID SEARCH HEADER X-Token {token}"))?;
        // A token may be the beginning of another; the exact one has a space after it in the subject.
        let mut known = false;
        for uid in reply.search()? {
            let fetched = session.ok(&format!("UID FETCH {uid} BODY.PEEK[HEADER.FIELDS (X-Token)]"))?;
            for fetch in fetched.fetches()? {
                let field = fetch.items.iter().find(|(name, _)| name.starts_with("BODY["));
                let octets = field.and_then(|(_, value)| value.octets().ok().flatten()).unwrap_or_default();
                if super::verify::token_of(octets).as_deref() == Some(token.as_str()) {
                    learned(&mut worker.stories[at], uid);
                    known = true;
                }
            }
        }
        ensure!(known, Refused(format!("{token} was delivered and is not in INBOX")));
    }
    Ok(())
}

/// The UID belongs to the step by which the message came: it is as durable as that.
fn learned(story: &mut Story, uid: u32) {
    let came = |step: &&mut Step| matches!(step.effect, Effect::Arrive { mailbox: "INBOX", .. });
    match story.steps.iter_mut().find(came) {
        Some(step) => step.uid = Some(("INBOX", uid)),
        None => {
            story.base_uids.insert("INBOX", uid);
        }
    }
}

fn flag(
    story: &mut Story,
    session: &mut Session,
    mailbox: &'static str,
    uid: u32,
    random: &mut Random,
) -> Result<()> {
    let flags = flags(random);
    let command = format!("UID STORE {uid} FLAGS.SILENT {}", list(&flags));
    sending(story, Effect::Flags { mailbox, flags });
    session.ok(&command)?;
    acked(story, None);
    Ok(())
}

fn expunge(story: &mut Story, session: &mut Session, mailbox: &'static str, uid: u32) -> Result<()> {
    let mut flags = story.now().remove(mailbox).unwrap_or_default();
    flags.insert("\\Deleted");
    sending(story, Effect::Flags { mailbox, flags });
    session.ok(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)"))?;
    acked(story, None);
    sending(story, Effect::Expunge(mailbox));
    session.ok(&format!("UID EXPUNGE {uid}"))?;
    acked(story, None);
    Ok(())
}

/// COPY or MOVE to a mailbox where the message is not yet.
fn carry(
    story: &mut Story,
    session: &mut Session,
    mailbox: &'static str,
    uid: u32,
    random: &mut Random,
) -> Result<()> {
    let state = story.now();
    let free: Vec<_> = MAILBOXES.iter().copied().filter(|name| !state.contains_key(name)).collect();
    let Some(&to) = free.get(random.index(free.len())) else { return expunge(story, session, mailbox, uid) };
    let (verb, effect) = if session.moves && random.chance(50) {
        ("MOVE", Effect::Move(mailbox, to))
    } else {
        ("COPY", Effect::Copy(mailbox, to))
    };
    sending(story, effect);
    let reply = session.ok(&format!("UID {verb} {uid} {to}"))?;
    // MOVE tells the UIDs in an untagged OK (RFC 6851 §4.3), COPY in the tagged one.
    let code = reply.code("COPYUID").with_context(|| format!("no COPYUID for {verb}: {}", reply.text))?;
    let new = code.rsplit_once(' ').and_then(|(_, uid)| uid.parse().ok()).context("COPYUID is no number")?;
    acked(story, Some((to, new)));
    Ok(())
}
