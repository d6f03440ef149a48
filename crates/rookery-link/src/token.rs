//! Join tokens: one line of text by which a new node finds the cluster and proves that it may join, once.
//!
//! ```text
//! rookery-join-1.BASE64URL(id 8 | secret 32 | CA fingerprint 32 | expires, seconds 8 | address | check 4)
//! ```
//!
//! Invariants:
//! - The secret itself is not kept by the node that gave the token, and does not travel: what is kept is a key made
//!   of it, and what travels is a proof bound to the TLS session and the request.
//! - A token is used up, durably, before a certificate is made for it.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::ca::Fingerprint;
use crate::files::{self, FileError};

const PREFIX: &str = "rookery-join-1.";
const ADDRESS_OCTETS_MAX: usize = 300;
const CHECK_OCTETS: usize = 4;
/// More are not outstanding at once.
const TOKENS_MAX: usize = 1_000;

/// Names a token in logs and files; says nothing of its secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

/// What an administrator carries to a new node.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which token.
    pub id: TokenId,
    secret: [u8; 32],
    /// The CA that the node at the address must show.
    pub fingerprint: Fingerprint,
    /// When it ends, in seconds since 1970.
    pub expires_s: u64,
    /// Where to join, as `host:port`.
    pub address: String,
}

impl fmt::Debug for JoinToken {
    /// No secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no join token, or not all of it")]
pub struct BadToken;

impl fmt::Display for JoinToken {
    /// The whole token, with its secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = Vec::new();
        octets.extend_from_slice(&self.id.0);
        octets.extend_from_slice(&self.secret);
        octets.extend_from_slice(&self.fingerprint.0);
        octets.extend_from_slice(&self.expires_s.to_be_bytes());
        octets.extend_from_slice(self.address.as_bytes());
        octets.extend_from_slice(&check(&octets));
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(octets))
    }
}

fn check(octets: &[u8]) -> [u8; CHECK_OCTETS] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(octets));
    [a, b, c, d]
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<JoinToken, BadToken> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(BadToken)?;
        let octets = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken)?;
        let (said, sum) = octets.split_last_chunk::<CHECK_OCTETS>().ok_or(BadToken)?;
        if check(said) != *sum {
            return Err(BadToken);
        }
        let (id, rest) = said.split_first_chunk().ok_or(BadToken)?;
        let (secret, rest) = rest.split_first_chunk().ok_or(BadToken)?;
        let (fingerprint, rest) = rest.split_first_chunk().ok_or(BadToken)?;
        let (expires, address) = rest.split_first_chunk().ok_or(BadToken)?;
        let address = std::str::from_utf8(address).map_err(|_| BadToken)?;
        if address.is_empty() || address.len() > ADDRESS_OCTETS_MAX {
            return Err(BadToken);
        }
        Ok(JoinToken {
            id: TokenId(*id),
            secret: *secret,
            fingerprint: Fingerprint(*fingerprint),
            expires_s: u64::from_be_bytes(*expires),
            address: address.to_owned(),
        })
    }
}

/// What of a secret is kept.
fn key_of(secret: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"rookery join token");
    hash.update(secret);
    hash.finalize().into()
}

/// Shows that whoever makes this request, in this TLS session, has the token.
fn proof(key: &[u8; 32], session: &[u8], request: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(&(session.len() as u64).to_be_bytes());
    mac.update(session);
    mac.update(request);
    mac.finalize().into_bytes().into()
}

impl JoinToken {
    pub(crate) fn proof(&self, session: &[u8], request: &[u8]) -> [u8; 32] {
        proof(&key_of(&self.secret), session, request)
    }
}

/// Why a token is not good.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It was never given, was used, or was taken back.
    #[error("the join token is unknown here or was used before")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
    /// The proof is wrong.
    #[error("the join token's secret is wrong")]
    Wrong,
    /// Too many are outstanding.
    #[error("{TOKENS_MAX} join tokens are outstanding; take some back")]
    TooMany,
    /// It cannot be written down.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file of tokens is damaged.
    #[error("{file}: {reason}", file = file.display())]
    Damaged {
        /// Which.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A token that was given and not yet used.
#[derive(Clone, Serialize, Deserialize)]
struct Given {
    key: [u8; 32],
    expires_s: u64,
    note: String,
}

/// The tokens that this node has given, in one file.
pub struct Tokens {
    file: PathBuf,
    given: Mutex<HashMap<String, Given>>,
}

impl Tokens {
    /// Reads the file, if there is one.
    pub fn open(file: impl Into<PathBuf>) -> Result<Tokens, TokenError> {
        let file = file.into();
        if !file.exists() {
            return Ok(Tokens { file, given: Mutex::default() });
        }
        let given = serde_json::from_slice(&files::read(&file)?)
            .map_err(|error| TokenError::Damaged { file: file.clone(), reason: error.to_string() })?;
        Ok(Tokens { file, given: Mutex::new(given) })
    }

    /// Gives a token. `note` comes back when it is used: what the administrator allows the node to be.
    pub fn give(
        &self,
        fingerprint: Fingerprint,
        address: &str,
        note: &str,
        valid: Duration,
        now: SystemTime,
    ) -> Result<JoinToken, TokenError> {
        let expires_s = seconds(now).saturating_add(valid.as_secs());
        let address = address.to_owned();
        let token = JoinToken {
            id: TokenId(rand::random()),
            secret: rand::random(),
            fingerprint,
            expires_s,
            address,
        };
        let given = Given { key: key_of(&token.secret), expires_s, note: note.to_owned() };
        let mut all = self.given.lock();
        let mut next = all.clone();
        next.retain(|_, given| given.expires_s > seconds(now));
        if next.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        next.insert(token.id.to_string(), given);
        self.write(&next)?;
        *all = next;
        Ok(token)
    }

    /// Takes a token back. Says whether it was there.
    pub fn take_back(&self, id: TokenId) -> Result<bool, TokenError> {
        let mut all = self.given.lock();
        let mut next = all.clone();
        let there = next.remove(&id.to_string()).is_some();
        if there {
            self.write(&next)?;
            *all = next;
        }
        Ok(there)
    }

    /// Those not used yet: id, end, note.
    pub fn list(&self) -> Vec<(String, u64, String)> {
        let all = self.given.lock();
        all.iter().map(|(id, given)| (id.clone(), given.expires_s, given.note.clone())).collect()
    }

    /// Uses a token up: it is gone from the file when this returns its note.
    pub(crate) fn redeem(
        &self,
        id: TokenId,
        shown: &[u8],
        session: &[u8],
        request: &[u8],
        now: SystemTime,
    ) -> Result<Redeemed, TokenError> {
        let mut all = self.given.lock();
        let given = all.get(&id.to_string()).ok_or(TokenError::Unknown)?;
        if !bool::from(proof(&given.key, session, request).ct_eq(shown)) {
            return Err(TokenError::Wrong);
        }
        if seconds(now) >= given.expires_s {
            return Err(TokenError::Expired);
        }
        let mut next = all.clone();
        let given = next.remove(&id.to_string()).ok_or(TokenError::Unknown)?;
        self.write(&next)?;
        *all = next;
        Ok(Redeemed { id, given })
    }

    /// Makes a token good again whose node was not let in.
    pub(crate) fn restore(&self, redeemed: Redeemed) -> Result<(), TokenError> {
        let mut all = self.given.lock();
        let mut next = all.clone();
        next.insert(redeemed.id.to_string(), redeemed.given);
        self.write(&next)?;
        *all = next;
        Ok(())
    }

    fn write(&self, given: &HashMap<String, Given>) -> Result<(), TokenError> {
        let octets = serde_json::to_vec(given)
            .map_err(|error| TokenError::Damaged { file: self.file.clone(), reason: error.to_string() })?;
        Ok(files::write_whole(&self.file, &octets)?)
    }
}

/// A token that was just used up.
pub(crate) struct Redeemed {
    id: TokenId,
    given: Given,
}

impl Redeemed {
    pub(crate) fn note(&self) -> &str {
        &self.given.note
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
