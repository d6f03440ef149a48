//! Load, sudden death, and the question whether everything that was acknowledged is still there.
//!
//! Invariants:
//! - Each message has one owner: one worker thread, which alone changes it and does one thing at a time. So a message's
//!   story is a line of steps, and after a crash it must be at a step not before the last acknowledged one and not
//!   after the last one sent.
//! - Times are CLOCK_MONOTONIC, the same that the power-loss shim writes.

pub mod both_stores;
pub mod cross_kills;
pub mod crowd;
pub mod growth;
pub mod kill9;
pub mod ledger;
pub mod load;
pub mod move_kills;
pub mod moving;
mod people;
mod postman;
pub mod powerloss;
mod scene;
pub mod upgrade;
pub mod verify;

use std::collections::{BTreeMap, BTreeSet};

/// Accounts under load.
pub const ACCOUNTS: [&str; 2] = ["anna", "bert"];
/// Mailboxes under load in each account; all but INBOX are made beforehand.
pub const MAILBOXES: [&str; 3] = ["INBOX", "Work", "Old"];
/// Flags that the load sets.
pub const FLAGS: [&str; 4] = ["\\Seen", "\\Flagged", "\\Answered", "$Later"];

/// Where a message is, with which flags.
pub type State = BTreeMap<&'static str, BTreeSet<&'static str>>;

/// What a step does to its message.
#[derive(Debug, Clone)]
pub enum Effect {
    /// It arrives.
    Arrive {
        /// In this mailbox.
        mailbox: &'static str,
        /// With these flags.
        flags: BTreeSet<&'static str>,
    },
    /// Its flags are replaced.
    Flags {
        /// In this mailbox.
        mailbox: &'static str,
        /// By these.
        flags: BTreeSet<&'static str>,
    },
    /// It goes from this mailbox for good.
    Expunge(&'static str),
    /// It is copied.
    Copy(&'static str, &'static str),
    /// It is moved.
    Move(&'static str, &'static str),
}

/// One step of a message's story.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it does.
    pub effect: Effect,
    /// When the command went out.
    pub sent_ns: u64,
    /// When its OK had come, if it came.
    pub acked_ns: Option<u64>,
    /// UID that the answer named, in the mailbox the message then came to.
    pub uid: Option<(&'static str, u32)>,
}

/// A message and what was done to it.
#[derive(Debug, Clone)]
pub struct Story {
    /// Its name, which stands in its `X-Token` field.
    pub token: String,
    /// The account it is in.
    pub account: &'static str,
    /// Octets of its body.
    pub size: usize,
    /// Where it stood when the load began.
    pub base: State,
    /// UIDs known when the load began.
    pub base_uids: BTreeMap<&'static str, u32>,
    /// Steps since.
    pub steps: Vec<Step>,
    /// Its octets have been compared once.
    pub compared: bool,
}

impl Step {
    fn acked_by(&self, ns: u64) -> bool {
        self.acked_ns.is_some_and(|acked| acked <= ns)
    }
}

impl Story {
    /// The message as it was given to the server; LMTP puts trace fields before it.
    pub fn message(&self) -> Vec<u8> {
        let mut message = format!(
            "From: Load <load@example.net>\r\nTo: {}@example.org\r\nSubject: {} {}\r\nX-Token: {}\r\n\
             Message-ID: <{}@load.example.net>\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\n\r\n",
            self.account, self.token, self.size, self.token, self.token
        )
        .into_bytes();
        let line = format!("{} and so on, and so forth, until the size is reached.\r\n", self.token);
        let end = message.len() + self.size;
        while message.len() < end {
            message.extend_from_slice(line.as_bytes());
        }
        message
    }

    /// All states the message may be in if everything ended at `ns`, the earliest first.
    pub fn possible(&self, ns: u64) -> Vec<State> {
        let must = self.steps.iter().rposition(|step| step.acked_by(ns)).map_or(0, |last| last + 1);
        let mut state = self.base.clone();
        let mut possible = Vec::new();
        if must == 0 {
            possible.push(state.clone());
        }
        for (number, step) in self.steps.iter().enumerate().take_while(|(_, step)| step.sent_ns <= ns) {
            apply(&mut state, &step.effect);
            if number + 1 >= must {
                possible.push(state.clone());
            }
        }
        possible
    }

    /// The state after all steps.
    pub fn now(&self) -> State {
        let mut state = self.base.clone();
        self.steps.iter().for_each(|step| apply(&mut state, &step.effect));
        state
    }

    /// The message's UID in a mailbox, as far as anyone has said it.
    pub fn uid(&self, mailbox: &str) -> Option<u32> {
        let told = self.steps.iter().rev().filter_map(|step| step.uid);
        let told = told.into_iter().find(|(there, _)| *there == mailbox).map(|(_, uid)| uid);
        told.or_else(|| self.base_uids.get(mailbox).copied())
    }
}

fn apply(state: &mut State, effect: &Effect) {
    match effect {
        Effect::Arrive { mailbox, flags } | Effect::Flags { mailbox, flags } => {
            state.insert(mailbox, flags.clone());
        }
        Effect::Expunge(mailbox) => {
            state.remove(mailbox);
        }
        Effect::Copy(from, to) => {
            let flags = state.get(from).cloned().unwrap_or_default();
            state.insert(to, flags);
        }
        Effect::Move(from, to) => {
            let flags = state.remove(from).unwrap_or_default();
            state.insert(to, flags);
        }
    }
}

/// What one crash found going on.
#[derive(Debug, Default, Clone, Copy)]
pub struct Moment {
    /// Commands sent and not yet acknowledged.
    pub in_flight: usize,
    /// Commands acknowledged within the last 50 ms.
    pub just_acked: usize,
    /// Commands acknowledged in this load.
    pub acked: usize,
}

impl Moment {
    /// How things stood at `ns`.
    pub fn at(stories: &[Story], ns: u64) -> Moment {
        let mut moment = Moment::default();
        for step in stories.iter().flat_map(|story| &story.steps).filter(|step| step.sent_ns <= ns) {
            if step.acked_by(ns) {
                moment.acked += 1;
                moment.just_acked += usize::from(step.acked_ns.is_some_and(|acked| ns - acked <= 50_000_000));
            } else {
                moment.in_flight += 1;
            }
        }
        moment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_may_end_between_the_last_ack_and_the_last_send() {
        let flags = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
        let step = |effect, sent_ns, acked_ns| Step { effect, sent_ns, acked_ns, uid: None };
        let story = Story {
            token: "t".into(),
            account: "anna",
            size: 10,
            base: State::new(),
            base_uids: BTreeMap::new(),
            steps: vec![
                step(Effect::Arrive { mailbox: "INBOX", flags: flags(&[]) }, 10, Some(20)),
                step(Effect::Flags { mailbox: "INBOX", flags: flags(&["\\Seen"]) }, 30, Some(40)),
                step(Effect::Move("INBOX", "Old"), 50, None),
            ],
            compared: false,
        };
        let seen = |mailbox: &'static str| State::from([(mailbox, flags(&["\\Seen"]))]);
        let fresh = State::from([("INBOX", flags(&[]))]);
        assert_eq!(story.possible(5), [State::new()]);
        assert_eq!(story.possible(15), [State::new(), fresh.clone()]);
        assert_eq!(story.possible(25), std::slice::from_ref(&fresh));
        assert_eq!(story.possible(35), [fresh, seen("INBOX")]);
        assert_eq!(story.possible(99), [seen("INBOX"), seen("Old")]);
        let moment = Moment::at(std::slice::from_ref(&story), 99);
        assert_eq!((moment.in_flight, moment.just_acked, moment.acked), (1, 2, 2));
    }
}
