//! Defects that a simulation plants, to prove that it would find them. Built with the feature `sim` alone; without it
//! nothing asks for them.

use std::cell::Cell;

/// A defect of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// A change is acknowledged before it is on stable storage.
    EarlyAcknowledgement,
    /// A store does not look whether the account is still at home when it is changed.
    NoEpochCheck,
    /// What a crash has left of accounts that were being made is not resolved: an intent without its effect.
    LostActivation,
    /// The verdict on messages that came from another home is not looked for: forwarded twice, they are there twice.
    ForwardedDuplicate,
    /// An account's new home says that it serves it before that is on stable storage.
    EarlyHome,
    /// An account is given away without its last changes.
    NoCatchUp,
    /// A change of the directory that comes late is made, whatever it was conditional on.
    DelayedCompareAndSet,
}

impl Defect {
    /// All of them.
    pub const ALL: [Defect; 7] = [
        Defect::EarlyAcknowledgement,
        Defect::NoEpochCheck,
        Defect::LostActivation,
        Defect::ForwardedDuplicate,
        Defect::EarlyHome,
        Defect::NoCatchUp,
        Defect::DelayedCompareAndSet,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Defect::EarlyAcknowledgement => "early-acknowledgement",
            Defect::NoEpochCheck => "no-epoch-check",
            Defect::LostActivation => "lost-activation",
            Defect::ForwardedDuplicate => "forwarded-duplicate",
            Defect::EarlyHome => "early-home",
            Defect::NoCatchUp => "no-catch-up",
            Defect::DelayedCompareAndSet => "delayed-compare-and-set",
        }
    }
}

thread_local! {
    static PLANTED: Cell<Option<Defect>> = const { Cell::new(None) };
}

/// From now on this thread has the defect.
pub fn plant(defect: Defect) {
    PLANTED.set(Some(defect));
}

/// Whether this thread has the defect.
pub fn is_planted(defect: Defect) -> bool {
    PLANTED.get() == Some(defect)
}
