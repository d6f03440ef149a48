//! What all clients of a round share: what is under way, what was answered, and when it is time to go.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::imap::{Imap, Reply, Status};

/// How long nothing of what a client asks may be done.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// How long a server may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Messages move to a mailbox of another home.
    Move,
    /// They are copied to one, or within the other home.
    Copy,
    /// A message takes the place of one at the other home.
    Replace,
    /// An account or a mailbox is made.
    Create,
}

/// All kinds.
pub const KINDS: [Kind; 4] = [Kind::Move, Kind::Copy, Kind::Replace, Kind::Create];

/// So many of each kind.
pub type Counts = [u64; KINDS.len()];

/// What was said.
#[derive(Debug)]
pub(super) enum Told {
    /// It is done.
    Done(Reply),
    /// It is not, and will not be.
    Refused(Reply),
    /// Nobody knows.
    Open,
}

impl Told {
    /// What an answer says, if there is one.
    pub(super) fn of(answer: Result<Reply>) -> Told {
        match answer {
            Ok(reply) if reply.status == Status::Ok => Told::Done(reply),
            Ok(reply) if ["pending", "not known"].iter().any(|word| reply.text.contains(word)) => Told::Open,
            Ok(reply) => Told::Refused(reply),
            Err(_) => Told::Open,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Board {
    under_way: [AtomicU64; KINDS.len()],
    done: [AtomicU64; KINDS.len()],
    open: [AtomicU64; KINDS.len()],
    refused: [AtomicU64; KINDS.len()],
    is_over: AtomicBool,
    failures: Mutex<Vec<String>>,
}

fn counted(all: &[AtomicU64; KINDS.len()]) -> Counts {
    all.each_ref().map(|one| one.load(Ordering::SeqCst))
}

impl Board {
    /// How many commands of each kind nobody has answered yet.
    pub(super) fn under_way(&self) -> Counts {
        counted(&self.under_way)
    }

    /// How many were answered with OK; were left open; were refused.
    pub(super) fn told(&self) -> [Counts; 3] {
        [&self.done, &self.open, &self.refused].map(counted)
    }

    /// Asks, and sees to it that this can be seen.
    pub(super) fn ask(&self, kind: Kind, client: &mut Imap, command: &str) -> Told {
        let at = kind as usize;
        self.under_way[at].fetch_add(1, Ordering::SeqCst);
        let told = Told::of(client.command(command));
        self.under_way[at].fetch_sub(1, Ordering::SeqCst);
        let counter = match told {
            Told::Done(_) => &self.done,
            Told::Open => &self.open,
            Told::Refused(_) => &self.refused,
        };
        counter[at].fetch_add(1, Ordering::SeqCst);
        told
    }

    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Works with one connection after another until it is time. `work`: one piece of it; whether anything was done.
    pub(super) fn work(
        &self,
        who: &str,
        enter: impl Fn() -> Result<Imap>,
        mut work: impl FnMut(&mut Imap) -> Result<bool>,
    ) {
        let mut since = Instant::now();
        let mut client = None;
        while !self.is_over() {
            let step = match client.take().map_or_else(&enter, Ok) {
                Ok(mut entered) => entered
                    .set_silence_max(SILENCE_MAX)
                    .and_then(|()| work(&mut entered))
                    .map(|is_done| (entered, is_done)),
                Err(error) => Err(error),
            };
            let failed = match step {
                Ok((mut entered, is_done)) => {
                    let goes_on = is_done || entered.command("NOOP").is_ok();
                    let said = entered.transcript();
                    client = Some(entered).filter(|_| goes_on);
                    (!is_done).then(|| format!("nothing is done:\n{said}"))
                }
                Err(error) if error.is::<Fault>() => return self.note(who, format!("{error:#}")),
                Err(error) => Some(format!("{error:#}")),
            };
            match failed {
                None => since = Instant::now(),
                Some(text) if since.elapsed() > AWAY_MAX => return self.note(who, text),
                Some(_) => std::thread::sleep(Duration::from_millis(30)),
            }
        }
    }

    fn note(&self, who: &str, text: String) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{who}: {text}"));
    }

    pub(super) fn nobody_failed(&self) -> Result<()> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    }
}

/// A server has said what cannot be.
#[derive(Debug)]
pub(super) struct Fault(pub(super) String);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}
