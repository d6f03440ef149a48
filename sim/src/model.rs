//! What one client knows of what it did, and what must be true of that in the end.
//!
//! A client touches its own messages and its own mailboxes alone, one after another, so it knows of each what it is,
//! unless an answer was lost. Then the thing is left alone, and in the end it is one of what it may be.

use crate::ops::Place;
use std::collections::{BTreeMap, BTreeSet};

/// A message at a place. One client has at most one of a token at a place.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) token: u64,
    pub(crate) state: State,
    pub(crate) uid: Option<u32>,
    /// Its keywords; `None`: an answer was lost.
    pub(crate) keywords: Option<BTreeSet<String>>,
    /// The epochs that both accounts of a move whose answer was lost had before, at two homes.
    pub(crate) epochs: Option<(u64, u64)>,
}

/// Where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// There, for sure.
    At(Place),
    /// Not there any more, for sure.
    Gone(Place),
    /// Perhaps there.
    Maybe(Place),
    /// At exactly one of both.
    Either(Place, Place),
    /// At one of both, or at both: a client whose answer was lost does not know.
    Both(Place, Place),
}

impl State {
    pub(crate) fn places(&self) -> Vec<&Place> {
        match self {
            State::At(place) | State::Gone(place) | State::Maybe(place) => vec![place],
            State::Either(a, b) | State::Both(a, b) => vec![a, b],
        }
    }
}

impl Instance {
    /// What is wrong with how often the message was found at each place.
    pub(crate) fn judge(&self, found: &BTreeMap<Place, usize>) -> Option<String> {
        let count = |place: &Place| found.get(place).copied().unwrap_or(0);
        let token = self.token;
        let (is_well, what) = match &self.state {
            State::At(place) => (count(place) == 1, format!("must be once at {place}, is {}", count(place))),
            State::Gone(place) => {
                (count(place) == 0, format!("was expunged at {place}, is {}", count(place)))
            }
            State::Maybe(place) => {
                (count(place) <= 1, format!("may be once at {place}, is {}", count(place)))
            }
            State::Either(a, b) => {
                (count(a) + count(b) == 1, format!("must be at one of {a}: {}, {b}: {}", count(a), count(b)))
            }
            State::Both(a, b) => {
                let (here, there) = (count(a), count(b));
                let is_well = here <= 1 && there <= 1 && here + there > 0;
                (is_well, format!("must be at {a}: {here} or {b}: {there}, or both"))
            }
        };
        (!is_well).then(|| format!("message t{token} {what}"))
    }
}

/// A mailbox of the client's own.
#[derive(Clone, Debug)]
pub(crate) struct OwnBox {
    pub(crate) place: Place,
    pub(crate) state: BoxState,
    /// Whether others see it; `None`: an answer was lost.
    pub(crate) shared: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BoxState {
    There,
    Gone,
    /// An answer was lost.
    Unknown,
}

/// An account of the client's own, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AccountState {
    Absent,
    There,
    /// An answer was lost.
    Unknown,
}

/// All that a client knows.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) instances: Vec<Instance>,
    pub(crate) boxes: Vec<OwnBox>,
    pub(crate) accounts: BTreeMap<String, AccountState>,
}

impl Known {
    /// A message is, or may be, somewhere it was not. What was known to be gone there is known no more.
    pub(crate) fn add(&mut self, instance: Instance) {
        self.instances.push(instance);
        self.forget_gone();
    }

    /// What is known to be gone from somewhere counts only until it is, or may be, there again.
    pub(crate) fn forget_gone(&mut self) {
        let gone = |state: &State| matches!(state, State::Gone(_));
        let live: BTreeSet<(u64, Place)> = (self.instances.iter())
            .filter(|one| !gone(&one.state))
            .flat_map(|one| one.state.places().into_iter().map(|place| (one.token, place.clone())))
            .collect();
        let is_back = |one: &Instance| {
            one.state.places().into_iter().any(|place| live.contains(&(one.token, place.clone())))
        };
        self.instances.retain(|one| !gone(&one.state) || !is_back(one));
    }

    /// Whether a message is, or may be, at a place.
    pub(crate) fn has(&self, token: u64, place: &Place) -> bool {
        let touches = |state: &State| !matches!(state, State::Gone(_)) && state.places().contains(&place);
        self.instances.iter().any(|instance| instance.token == token && touches(&instance.state))
    }

    /// Those that are somewhere for sure.
    pub(crate) fn sure(&self) -> Vec<usize> {
        let all = self.instances.iter().enumerate();
        let sure = all.filter(|(_, one)| matches!(one.state, State::At(_)) && one.uid.is_some());
        sure.map(|(at, _)| at).collect()
    }

    /// Whether it is unknown of a message whether it is in this mailbox.
    pub(crate) fn is_unsure_of(&self, place: &Place) -> bool {
        let unsure = |state: &State| !matches!(state, State::At(_) | State::Gone(_));
        self.instances.iter().any(|one| unsure(&one.state) && one.state.places().contains(&place))
    }

    /// All messages at a place are somewhere else now, or gone (`None`), or may be.
    pub(crate) fn relocate(&mut self, from: &Place, to: Option<&Place>, certain: bool) {
        for one in self.instances.iter_mut() {
            match (&one.state, to) {
                (State::At(place) | State::Gone(place), _) if place != from => {}
                (State::At(_), Some(to)) => {
                    one.state = match certain {
                        true => State::At(to.clone()),
                        false => State::Either(from.clone(), to.clone()),
                    }
                }
                (State::At(_), None) => {
                    one.state = match certain {
                        true => State::Gone(from.clone()),
                        false => State::Maybe(from.clone()),
                    }
                }
                _ => {}
            }
        }
    }
}
