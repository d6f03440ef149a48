//! What is stored of a password, in all the forms that are understood, and the checking of a password against it.
//!
//! A verifier is one line or several; the first is what a password is checked against, and one that begins with
//! `{SCRAM-SHA-256}` has the keys for SCRAM besides. A line is a PHC or crypt(3) text (`$argon2id$`, `$6$`, ...),
//! with or without the name of its scheme in braces before it, as Dovecot writes it, or a scheme in braces with
//! what that defines.
//!
//! Invariants:
//! - What a verifier may cost is bounded here, whoever made it.
//! - Texts are compared in constant time.
//! - No error holds any part of a verifier.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use yescrypt::Yescrypt;

use crate::password::{HashError, PASSWORD_OCTETS_MAX};
use crate::scram::{self, ScramKeys};

/// The most memory a verifier may ask for, in KiB: it comes from the directory or a file, and may be imported.
pub const MEMORY_KIB_MAX: u32 = 128 * 1024;
/// The most passes and lanes an Argon2 verifier may ask for.
pub const PASSES_MAX: u32 = 16;
/// The most rounds of SHA-crypt and of PBKDF2. Some two seconds of a processor.
pub const ROUNDS_MAX: u32 = 2_000_000;
/// The highest cost of bcrypt: 2^14 rounds, some second of a processor.
pub const BCRYPT_COST_MAX: u32 = 14;

/// Schemes whose text says by its first field what it is.
const CRYPT_SCHEMES: [&str; 7] =
    ["CRYPT", "MD5", "MD5-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "BLF-CRYPT", "ARGON2ID"];
/// The first fields that are understood.
const CRYPT_IDS: [&str; 8] = ["argon2id", "1", "5", "6", "2a", "2b", "2y", "y"];
/// All other schemes.
const OTHER_SCHEMES: [&str; 15] = [
    "PLAIN",
    "CLEAR",
    "CLEARTEXT",
    "SHA",
    "SHA1",
    "SHA256",
    "SHA512",
    "SSHA",
    "SSHA256",
    "SSHA512",
    "SMD5",
    "LDAP-MD5",
    "PLAIN-MD5",
    "PBKDF2",
    "SCRAM-SHA-256",
];

/// Memory that a thread uses for one Argon2 hash after another: to get it from the system each time costs as much as
/// a part of the hash, and what allocators keep of it has no bound of ours.
pub(crate) type Scratch = Vec<Block>;

type Checked = Result<bool, HashError>;

fn bad(why: &'static str) -> HashError {
    HashError::BadVerifier(why)
}

/// The line that passwords are checked against.
fn first_line(verifier: &str) -> &str {
    verifier.lines().next().unwrap_or_default()
}

/// The keys for SCRAM-SHA-256, if a verifier has them.
pub fn scram_keys(verifier: &str) -> Option<ScramKeys> {
    verifier.lines().find_map(ScramKeys::parse)
}

/// Whether a password fits a verifier. Takes from microseconds to seconds.
pub(crate) fn verify(verifier: &str, password: &[u8], scratch: &mut Scratch) -> Checked {
    let line = first_line(verifier);
    if password.len() > PASSWORD_OCTETS_MAX {
        // A verifier that cannot be used is told all the same.
        check(line, b"", scratch)?;
        return Ok(false);
    }
    check(line, password, scratch)
}

/// Whether a verifier's scheme or algorithm is one that can be checked. Its fields are not looked at.
pub fn is_supported(verifier: &str) -> bool {
    let line = first_line(verifier);
    let (scheme, text) = match line.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((scheme, text)) => (scheme.to_ascii_uppercase(), text),
        None => ("CRYPT".to_owned(), line),
    };
    let scheme = scheme.split('.').next().unwrap_or_default();
    match CRYPT_SCHEMES.contains(&scheme) {
        true => text.split('$').nth(1).is_some_and(|id| CRYPT_IDS.contains(&id)) && text.starts_with('$'),
        false => OTHER_SCHEMES.contains(&scheme),
    }
}

/// The memory, in KiB, that checking a password takes for as long as it runs.
pub(crate) fn memory_kib(verifier: &str) -> u32 {
    let line = first_line(verifier);
    let text = line.get(line.find('$').unwrap_or(0)..).unwrap_or_default();
    if let Some(parameters) = text.strip_prefix("$y$") {
        return yescrypt_parameters(parameters).map_or(0, |params| yescrypt_kib(&params));
    }
    let phc = PasswordHash::new(text).ok().filter(|_| text.starts_with("$argon2"));
    match phc.as_ref().map(Params::try_from) {
        Some(Ok(params)) => params.m_cost(),
        _ => 0,
    }
}

fn check(line: &str, password: &[u8], scratch: &mut Scratch) -> Checked {
    let Some((scheme, text)) = line.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return crypt(line, password, scratch);
    };
    let scheme = scheme.to_ascii_uppercase();
    let (scheme, encoding) = match scheme.split_once('.') {
        Some((scheme, encoding)) => (scheme, Some(encoding)),
        None => (scheme.as_str(), None),
    };
    let same = |octets: &[u8]| Ok(octets.ct_eq(password).into());
    match (scheme, encoding) {
        ("PLAIN" | "CLEAR" | "CLEARTEXT", None | Some("B64" | "BASE64" | "HEX")) => match encoding {
            None => same(text.as_bytes()),
            Some(_) => same(&octets(text, encoding, "")?),
        },
        ("SHA" | "SHA1", _) => digest::<Sha1>(&octets(text, encoding, "B64")?, password, false),
        ("SHA256", _) => digest::<Sha256>(&octets(text, encoding, "B64")?, password, false),
        ("SHA512", _) => digest::<Sha512>(&octets(text, encoding, "B64")?, password, false),
        ("SSHA", _) => digest::<Sha1>(&octets(text, encoding, "B64")?, password, true),
        ("SSHA256", _) => digest::<Sha256>(&octets(text, encoding, "B64")?, password, true),
        ("SSHA512", _) => digest::<Sha512>(&octets(text, encoding, "B64")?, password, true),
        ("SMD5", _) => digest::<Md5>(&octets(text, encoding, "B64")?, password, true),
        ("LDAP-MD5", _) => digest::<Md5>(&octets(text, encoding, "B64")?, password, false),
        ("PLAIN-MD5", _) => digest::<Md5>(&octets(text, encoding, "HEX")?, password, false),
        (scheme, None) if CRYPT_SCHEMES.contains(&scheme) => crypt(text, password, scratch),
        ("PBKDF2", None) => pbkdf2_sha1(text, password),
        ("SCRAM-SHA-256", None) => match ScramKeys::parse(line) {
            Some(keys) => Ok(keys.fit(password)),
            None => Err(bad("its SCRAM keys are malformed")),
        },
        _ => Err(bad("its scheme is not supported")),
    }
}

/// The octets of a text in the encoding named behind a scheme's dot, or the scheme's own.
fn octets(text: &str, encoding: Option<&str>, own: &str) -> Result<Vec<u8>, HashError> {
    let malformed = || bad("it is not encoded as its scheme says");
    match encoding.unwrap_or(own) {
        "B64" | "BASE64" => STANDARD.decode(text).map_err(|_| malformed()),
        "HEX" => from_hex(text).ok_or_else(malformed),
        _ => Err(bad("its encoding is not supported")),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let digit = |octet: &u8| char::from(*octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

/// A digest of the password and, if `salted`, of the salt that stands behind the digest.
fn digest<D: Digest>(stored: &[u8], password: &[u8], salted: bool) -> Checked {
    let (digest, salt) = stored
        .split_at_checked(<D as Digest>::output_size())
        .filter(|(_, salt)| salt.is_empty() != salted)
        .ok_or_else(|| bad("its digest has the wrong length"))?;
    let made = D::new().chain_update(password).chain_update(salt).finalize();
    Ok(made.as_slice().ct_eq(digest).into())
}

/// Dovecot's PBKDF2: `$1$salt$rounds$digest`, HMAC-SHA-1, the digest in hexadecimal.
fn pbkdf2_sha1(text: &str, password: &[u8]) -> Checked {
    let malformed = || bad("its PBKDF2 fields are malformed");
    let mut fields = text.strip_prefix("$1$").ok_or_else(malformed)?.split('$');
    let (salt, rounds, digest) = (fields.next(), fields.next(), fields.next());
    let rounds = rounds.and_then(|text| text.parse().ok()).ok_or_else(malformed)?;
    let digest = digest.and_then(from_hex).filter(|octets| octets.len() == 20).ok_or_else(malformed)?;
    let salt = salt.filter(|_| fields.next().is_none()).ok_or_else(malformed)?;
    if !(1..=ROUNDS_MAX).contains(&rounds) {
        return Err(bad("its rounds are beyond the limits"));
    }
    let mut made = [0; 20];
    pbkdf2::pbkdf2_hmac::<Sha1>(password, salt.as_bytes(), rounds, &mut made);
    Ok(made.ct_eq(&digest).into())
}

/// crypt(3) texts and PHC texts: the first field says which.
fn crypt(text: &str, password: &[u8], scratch: &mut Scratch) -> Checked {
    let (id, rest) = text
        .strip_prefix('$')
        .and_then(|rest| rest.split_once('$'))
        .ok_or_else(|| bad("it is no PHC or crypt text with $ (traditional DES is not supported)"))?;
    match id {
        "argon2id" => argon2id(text, password, scratch),
        "1" => md5_crypt(rest, password),
        "5" | "6" => sha_crypt(text, rest, password),
        "2a" | "2b" | "2y" => bcrypt(text, password),
        "y" => yescrypt(text, rest, password),
        _ => Err(bad("its algorithm is not supported")),
    }
}

fn argon2id(text: &str, password: &[u8], scratch: &mut Scratch) -> Checked {
    let parsed = PasswordHash::new(text).map_err(|_| bad("it is no PHC string"))?;
    let (Some(expected), Some(salt)) = (&parsed.hash, &parsed.salt) else {
        return Err(bad("it has no salt or no hash"));
    };
    let version = parsed.version.map_or(Ok(Version::default()), Version::try_from);
    let version = version.map_err(|_| bad("its version is not supported"))?;
    let params = Params::try_from(&parsed).map_err(|_| bad("its parameters are wrong"))?;
    if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > PASSES_MAX || params.p_cost() > PASSES_MAX {
        return Err(bad("its parameters are beyond the limits"));
    }
    let blocks = params.block_count();
    if scratch.len() < blocks {
        scratch.resize(blocks, Block::default());
    }
    let memory = scratch.get_mut(..blocks).unwrap_or_default();
    let mut made = vec![0; expected.as_bytes().len()];
    Argon2::new(Algorithm::Argon2id, version, params)
        .hash_password_into_with_memory(password, salt, &mut made, memory)
        .map_err(|_| bad("its parameters are wrong"))?;
    Ok(made.ct_eq(expected.as_bytes()).into())
}

fn outcome(result: Result<(), argon2::password_hash::Error>) -> Checked {
    use argon2::password_hash::Error;
    match result {
        Ok(()) => Ok(true),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(Error::OutOfMemory) => Err(HashError::Failed("out of memory".to_owned())),
        Err(_) => Err(bad("it is malformed")),
    }
}

/// `[rounds=N$]salt$digest` after `$5$` or `$6$`.
fn sha_crypt(text: &str, rest: &str, password: &[u8]) -> Checked {
    if let Some(rounds) = rest.strip_prefix("rounds=") {
        let rounds = rounds.split('$').next().and_then(|text| text.parse::<u32>().ok());
        if rounds.is_none_or(|rounds| rounds > ROUNDS_MAX) {
            return Err(bad("its rounds are beyond the limits"));
        }
    }
    outcome(sha_crypt::PasswordVerifier::verify_password(&sha_crypt::ShaCrypt::SHA512, password, text))
}

fn bcrypt(text: &str, password: &[u8]) -> Checked {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| bad("it is malformed"))?;
    if parts.get_cost() > BCRYPT_COST_MAX {
        return Err(bad("its cost is beyond the limits"));
    }
    bcrypt::verify(password, text).map_err(|_| bad("it is malformed"))
}

/// The parameters of `$y$parameters$salt$digest`. Those with optional fields (parallelism, more time, read-only
/// memory), which no crypt(3) makes, are longer than four characters and refused, since their cost has no bound.
fn yescrypt_parameters(rest: &str) -> Option<yescrypt::Params> {
    rest.split('$').next().filter(|text| text.len() <= 4)?.parse().ok()
}

fn yescrypt_kib(params: &yescrypt::Params) -> u32 {
    u32::try_from(params.n().saturating_mul(u64::from(params.r())) / 8).unwrap_or(u32::MAX)
}

fn yescrypt(text: &str, rest: &str, password: &[u8]) -> Checked {
    let params = yescrypt_parameters(rest).ok_or_else(|| bad("its parameters are not supported"))?;
    if yescrypt_kib(&params) > MEMORY_KIB_MAX {
        return Err(bad("its parameters are beyond the limits"));
    }
    outcome(yescrypt::PasswordVerifier::verify_password(&Yescrypt::default(), password, text))
}

/// FreeBSD's MD5 crypt: `salt$digest` after `$1$`. Weak, and still in many passwd files.
fn md5_crypt(rest: &str, password: &[u8]) -> Checked {
    let (salt, stored) = rest.split_once('$').ok_or_else(|| bad("it is malformed"))?;
    if salt.len() > 8 || stored.len() != 22 {
        return Err(bad("it is malformed"));
    }
    Ok(md5_crypt_text(salt.as_bytes(), password).ct_eq(stored.as_bytes()).into())
}

fn md5_crypt_text(salt: &[u8], password: &[u8]) -> Vec<u8> {
    let mut inner: [u8; 16] =
        Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize().into();
    let mut outer = Md5::new().chain_update(password).chain_update(b"$1$").chain_update(salt);
    let mut left = password.len();
    while left > 0 {
        let taken = left.min(inner.len());
        outer.update(inner.get(..taken).unwrap_or_default());
        left -= taken;
    }
    let mut bits = password.len();
    while bits > 0 {
        match bits & 1 {
            1 => outer.update([0]),
            _ => outer.update(password.get(..1).unwrap_or_default()),
        }
        bits >>= 1;
    }
    inner = outer.finalize().into();
    for round in 0..1000 {
        let mut next = Md5::new();
        let (odd, last) = (round % 2 == 1, inner);
        if odd {
            next.update(password)
        } else {
            next.update(last)
        }
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        if odd {
            next.update(last)
        } else {
            next.update(password)
        }
        inner = next.finalize().into();
    }
    // Three octets make four characters, six bits each, lowest first; the octets' order is the scheme's own.
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = inner.map(u32::from);
    let groups = [(a, g, m), (b, h, n), (c, i, o), (d, j, p), (e, k, f)];
    let mut text = Vec::new();
    for (high, middle, low) in groups {
        push_sixes(&mut text, high << 16 | middle << 8 | low, 4);
    }
    push_sixes(&mut text, l, 2);
    text
}

fn push_sixes(text: &mut Vec<u8>, mut bits: u32, characters: u32) {
    const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for _ in 0..characters {
        text.push(*DIGITS.get((bits & 63) as usize).unwrap_or(&b'.'));
        bits >>= 6;
    }
}

/// What makes a stored text of a new password: the password's own hash, and keys for SCRAM if `scram_iterations`
/// is not 0.
pub(crate) fn with_scram(hash: String, password: &[u8], scram_iterations: u32) -> String {
    match scram_iterations {
        0 => hash,
        iterations => {
            let iterations = iterations.clamp(scram::ITERATIONS_MIN, scram::ITERATIONS_MAX);
            format!("{hash}\n{}", ScramKeys::of_new_password(password, iterations))
        }
    }
}

#[cfg(test)]
mod tests;
