//! Who is asking: passwords and their verifiers, SASL mechanisms, and the slowing of guesses.
//!
//! [`Authenticator::login`] is what sessions call; the rest serves it. This crate owns no socket and no
//! directory: accounts come through [`Accounts`].
//!
//! Invariants:
//! - A password is in no log, no error and no cache; what holds one wipes its memory.
//! - Hashing never runs on the runtime's threads, and its memory is bounded by workers times one hash.
//! - An unknown user costs what a known one with a wrong password costs.
//! - A guesser slows only guesses: a right password is never delayed on purpose, whoever guesses beside it.

pub mod accounts;
pub mod authenticator;
pub mod cache;
pub mod password;
mod queue;
pub mod sasl;
pub mod sessions;
pub mod throttle;

pub use accounts::{AccountState, Accounts, Credential, LookUp, LookUpError};
pub use authenticator::{Attempt, AuthError, Authenticator, AuthenticatorOptions, Login};
pub use cache::VerifierCache;
pub use password::{HashError, HashParams, Hasher, HasherOptions, Lane, Password};
pub use sasl::{Credentials, Mechanism, Step};
pub use sessions::{SessionSlot, Sessions};
pub use throttle::{Source, Throttle};
