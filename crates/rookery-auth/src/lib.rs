//! Who is asking: passwords and their verifiers, SASL mechanisms, and the slowing of guesses.
//!
//! [`Authenticator::login`] is what sessions call that were told a user and a password, [`Authenticator::begin`]
//! what those call that speak SASL; the rest serves them. This crate owns no socket and no directory: accounts
//! come through [`Accounts`].
//!
//! Invariants:
//! - A password is in no log, no error and no cache; what holds one wipes its memory.
//! - Hashing never runs on the runtime's threads, and its memory is bounded.
//! - An unknown user costs what a known one with a wrong password costs.
//! - A guesser slows only guesses: a right password is never delayed on purpose, whoever guesses beside it.

pub mod accounts;
pub mod authenticator;
pub mod cache;
pub mod exchange;
pub mod passwd;
pub mod password;
mod queue;
pub mod sasl;
pub mod scram;
pub mod sessions;
pub mod throttle;
pub mod verifier;

pub use accounts::{AccountState, Accounts, CatchUp, Credential, LookUp, LookUpError, Welcome};
pub use authenticator::{Attempt, AuthError, Authenticator, AuthenticatorOptions, Login};
pub use cache::VerifierCache;
pub use exchange::{CertificateName, CertificateNames, Client, Exchange, Progress};
pub use passwd::PasswdFile;
pub use password::{HashError, HashParams, Hasher, HasherOptions, Lane, Password};
pub use sasl::{Credentials, MECHANISMS, Mechanism, Step};
pub use scram::{ChannelBinding, ScramKeys};
pub use sessions::{EnterError, SessionSlot, Sessions};
pub use throttle::{Source, Throttle};
