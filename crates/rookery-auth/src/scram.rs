//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the server's side, without I/O (RFC 5802, RFC 7677): what is stored of
//! a password, and the three messages that prove one.
//!
//! Invariants:
//! - Nothing stored here lets anybody log in: a proof needs the client's key, whose hash alone is kept.
//! - A client that binds to the wrong channel, or was made to believe that the server does not bind, fails.
//! - A user without keys gets the same messages with keys that nothing fits, and the same salt each time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How a stored line begins that holds SCRAM-SHA-256 keys: Dovecot's scheme of that name.
pub const SCHEME: &str = "{SCRAM-SHA-256}";
/// The fewest iterations RFC 7677 §4 allows.
pub const ITERATIONS_MIN: u32 = 4096;
/// The most iterations that keys may ask for: the server pays for them when a password is checked against keys.
pub const ITERATIONS_MAX: u32 = 1_000_000;
/// Octets of a new salt.
const SALT_OCTETS: usize = 16;
/// Octets in the longest salt that is read, and in the longest nonce a client may send.
const FIELD_OCTETS_MAX: usize = 256;
/// Octets in the longest user name or authorization identity, escapes undone.
const NAME_OCTETS_MAX: usize = crate::sasl::FIELD_OCTETS_MAX;

type Key = [u8; 32];

/// What is kept of a password (RFC 5802 §3).
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScramKeys({} iterations)", self.iterations)
    }
}

fn hmac(key: &[u8], message: &[&[u8]]) -> Key {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Key::default() };
    for part in message {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hash(octets: &[u8]) -> Key {
    Sha256::digest(octets).into()
}

/// A password as SCRAM computes with it: prepared by SASLprep (RFC 4013); one that cannot be, as it is.
fn prepared(password: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    match std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok()) {
        Some(text) if !text.is_empty() => text.into_owned().into_bytes().into(),
        _ => password.into(),
    }
}

impl ScramKeys {
    /// The keys of a password. Costs `iterations` HMACs.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> ScramKeys {
        let mut salted = Key::default();
        pbkdf2::pbkdf2_hmac::<Sha256>(&prepared(password), salt, iterations, &mut salted);
        ScramKeys {
            iterations,
            salt: salt.to_vec(),
            stored_key: hash(&hmac(&salted, &[b"Client Key"])),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// The keys of a new password, under a random salt.
    pub fn of_new_password(password: &[u8], iterations: u32) -> ScramKeys {
        ScramKeys::derive(password, &rand::random::<[u8; SALT_OCTETS]>(), iterations)
    }

    /// Keys for a user who has none: nothing fits them, and they are the same at each asking.
    pub(crate) fn nobodys(secret: &[u8; 32], user: &str, iterations: u32) -> ScramKeys {
        let salt = hmac(secret, &[b"salt", user.as_bytes()]);
        ScramKeys {
            iterations,
            salt: salt.iter().copied().take(SALT_OCTETS).collect(),
            stored_key: hmac(secret, &[b"stored", user.as_bytes()]),
            server_key: hmac(secret, &[b"server", user.as_bytes()]),
        }
    }

    /// Whether this is the password. Costs as much as deriving.
    pub fn fit(&self, password: &[u8]) -> bool {
        let derived = ScramKeys::derive(password, &self.salt, self.iterations);
        derived.stored_key.ct_eq(&self.stored_key).into()
    }

    /// Reads `{SCRAM-SHA-256}iterations,salt,StoredKey,ServerKey`, the last three in base64.
    pub fn parse(line: &str) -> Option<ScramKeys> {
        let mut fields = line
            .get(..SCHEME.len())
            .filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
            .and(line.get(SCHEME.len()..))?
            .split(',');
        let iterations = fields.next()?.parse().ok()?;
        let mut octets = || STANDARD.decode(fields.next()?).ok();
        let keys = ScramKeys {
            iterations,
            salt: octets()?,
            stored_key: octets()?.try_into().ok()?,
            server_key: octets()?.try_into().ok()?,
        };
        let sound = fields.next().is_none()
            && (1..=ITERATIONS_MAX).contains(&keys.iterations)
            && (1..=FIELD_OCTETS_MAX).contains(&keys.salt.len());
        sound.then_some(keys)
    }
}

/// As [`ScramKeys::parse`] reads it.
impl std::fmt::Display for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|octets| STANDARD.encode(octets));
        write!(f, "{SCHEME}{},{salt},{stored},{server}", self.iterations)
    }
}

/// What a channel is told apart by: the name of a binding's type, such as `tls-exporter`, and its octets.
pub type ChannelBinding = (&'static str, Vec<u8>);

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst {
    pub(crate) authzid: String,
    pub(crate) authcid: String,
    nonce: String,
    /// The message without its GS2 header.
    bare: String,
    /// What the client must say it is bound to: the GS2 header and the channel's octets.
    bound: Vec<u8>,
}

/// A character that a nonce may have.
fn printable(c: char) -> bool {
    c.is_ascii_graphic() && c != ','
}

/// Undoes `=2C` and `=3D` (RFC 5802 §5.1); every other `=` is a fault.
fn name(text: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        name.push_str(before);
        name.push(match after.get(..2)? {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        rest = after.get(2..)?;
    }
    name.push_str(rest);
    crate::sasl::field(name.as_bytes()).filter(|name| name.len() <= NAME_OCTETS_MAX).map(str::to_owned)
}

impl ClientFirst {
    /// `gs2-header [reserved-mext ","] username "," nonce ["," extensions]` (RFC 5802 §7).
    ///
    /// `plus`: the client has chosen the mechanism that binds. `bindings`: what this server can bind to here.
    pub(crate) fn parse(message: &[u8], plus: bool, bindings: &[ChannelBinding]) -> Option<ClientFirst> {
        let message = std::str::from_utf8(message).ok()?;
        let mut parts = message.splitn(3, ',');
        let (flag, authzid, bare) = (parts.next()?, parts.next()?, parts.next()?);
        let channel: &[u8] = match (flag.strip_prefix("p="), flag) {
            (Some(wanted), _) if plus => &bindings.iter().find(|(name, _)| *name == wanted)?.1,
            (None, "n") if !plus => b"",
            // The client could bind, and was told that the server cannot: somebody stands between (§6).
            (None, "y") if !plus && bindings.is_empty() => b"",
            _ => return None,
        };
        let header = message.get(..message.len() - bare.len())?;
        let authzid = match authzid {
            "" => String::new(),
            text => name(text.strip_prefix("a=")?)?,
        };
        // A mandatory extension (`m=`) stands where the name should, and is refused with everything else.
        let mut fields = bare.split(',');
        let authcid = name(fields.next()?.strip_prefix("n=")?)?;
        let nonce = fields.next()?.strip_prefix("r=")?;
        if nonce.is_empty() || nonce.len() > FIELD_OCTETS_MAX || !nonce.chars().all(printable) {
            return None;
        }
        Some(ClientFirst {
            authzid,
            authcid,
            nonce: nonce.to_owned(),
            bare: bare.to_owned(),
            bound: [header.as_bytes(), channel].concat(),
        })
    }
}

/// The server's part between its two messages.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) first: ClientFirst,
    keys: ScramKeys,
    nonce: String,
    server_first: String,
}

impl Waiting {
    /// Makes the server's first message. `nonce` is the server's part: printable, unpredictable, never used twice.
    pub(crate) fn new(first: ClientFirst, keys: ScramKeys, nonce: &str) -> (Waiting, Vec<u8>) {
        let nonce = format!("{}{nonce}", first.nonce);
        let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        let message = server_first.clone().into_bytes();
        (Waiting { first, keys, nonce, server_first }, message)
    }

    /// Checks the client's last message and makes the server's: `None` if the client's is malformed,
    /// `Some(None)` if it proves nothing.
    pub(crate) fn finish(&self, message: &[u8]) -> Option<Option<Vec<u8>>> {
        let message = std::str::from_utf8(message).ok()?;
        let (unproved, proof) = message.rsplit_once(",p=")?;
        let mut fields = unproved.split(',');
        let bound = STANDARD.decode(fields.next()?.strip_prefix("c=")?).ok()?;
        let nonce = fields.next()?.strip_prefix("r=")?;
        let proof: Key = STANDARD.decode(proof).ok()?.try_into().ok()?;
        let said = [self.first.bare.as_str(), ",", &self.server_first, ",", unproved].map(str::as_bytes);
        let signature = hmac(&self.keys.stored_key, &said);
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(octet, mask)| *octet ^= mask);
        let proved = hash(&client_key).ct_eq(&self.keys.stored_key)
            & bound.ct_eq(&self.first.bound)
            & nonce.as_bytes().ct_eq(self.nonce.as_bytes());
        let last = || format!("v={}", STANDARD.encode(hmac(&self.keys.server_key, &said))).into_bytes();
        Some(bool::from(proved).then(last))
    }
}

#[cfg(test)]
pub(crate) mod client {
    //! The client's side, for tests.

    use super::*;

    /// The client's last message, and the server's that must follow.
    pub(crate) fn last(bare: &str, server_first: &str, bound: &[u8], password: &[u8]) -> (String, String) {
        let field = |name: &str| {
            server_first.split(',').find_map(|field| field.strip_prefix(name)).unwrap_or_default()
        };
        let salt = STANDARD.decode(field("s=")).unwrap();
        let mut salted = Key::default();
        let iterations = field("i=").parse().unwrap();
        pbkdf2::pbkdf2_hmac::<Sha256>(&prepared(password), &salt, iterations, &mut salted);
        let unproved = format!("c={},r={}", STANDARD.encode(bound), field("r="));
        let said = [bare, ",", server_first, ",", &unproved].map(str::as_bytes);
        let client_key = hmac(&salted, &[b"Client Key"]);
        let signature = hmac(&hash(&client_key), &said);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let server = hmac(&hmac(&salted, &[b"Server Key"]), &said);
        (format!("{unproved},p={}", STANDARD.encode(proof)), format!("v={}", STANDARD.encode(server)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677 §3.
    #[test]
    fn the_example_of_the_rfc() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = ScramKeys::derive(b"pencil", &salt, 4096);
        let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", false, &[]).unwrap();
        assert_eq!((first.authcid.as_str(), first.authzid.as_str()), ("user", ""));
        let (waiting, challenge) = Waiting::new(first, keys, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        assert_eq!(
            String::from_utf8(challenge).unwrap(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let signature = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(waiting.finish(last.as_bytes()), Some(Some(signature.as_bytes().to_vec())));
        for wrong in
            [last.replace("p=d", "p=e"), last.replace("c=biws", "c=eSws"), last.replace("r=rO", "r=sO")]
        {
            assert_eq!(waiting.finish(wrong.as_bytes()), Some(None), "{wrong}");
        }
        for malformed in ["", "c=biws", "c=biws,r=x", "c=biws,r=x,p=", "c=!,r=x,p=AAAA", "r=x,c=biws,p=AAAA"]
        {
            assert_eq!(waiting.finish(malformed.as_bytes()), None, "{malformed}");
        }
    }

    #[test]
    fn first_messages() {
        let bindings = [("tls-exporter", vec![1, 2, 3])];
        let parse = |text: &str, plus, bindings: &[ChannelBinding]| {
            ClientFirst::parse(text.as_bytes(), plus, bindings)
        };
        let first = parse("p=tls-exporter,a=a=3Db,n=x=2Cy,r=abc,x=1", true, &bindings).unwrap();
        assert_eq!((first.authzid.as_str(), first.authcid.as_str()), ("a=b", "x,y"));
        assert_eq!(first.bound, b"p=tls-exporter,a=a=3Db,\x01\x02\x03");
        assert_eq!(first.bare, "n=x=2Cy,r=abc,x=1");
        assert!(parse("y,,n=u,r=abc", false, &[]).is_some(), "neither can bind");
        for (text, plus, bindings) in [
            ("y,,n=u,r=abc", false, &bindings[..]),
            ("n,,n=u,r=abc", true, &bindings),
            ("p=tls-unique,,n=u,r=abc", true, &bindings),
            ("p=tls-exporter,,n=u,r=abc", false, &bindings),
            ("p=tls-exporter,,n=u,r=abc", true, &[]),
            ("n,,n=u", false, &[]),
            ("n,,n=,r=abc", false, &[]),
            ("n,,n=u,r=", false, &[]),
            ("n,,n=u,r=a\u{7f}", false, &[]),
            ("n,,n=u=2c,r=abc", false, &[]),
            ("n,,n=u=,r=abc", false, &[]),
            ("n,,m=x,n=u,r=abc", false, &[]),
            ("n,b,n=u,r=abc", false, &[]),
            ("n,n=u,r=abc", false, &[]),
            ("", false, &[]),
        ] {
            assert!(parse(text, plus, bindings).is_none(), "{text}");
        }
    }

    #[test]
    fn stored_keys_read_back_and_fit_their_password_alone() {
        let keys = ScramKeys::of_new_password("pässwort".as_bytes(), 4096);
        let text = keys.to_string();
        assert_eq!(ScramKeys::parse(&text), Some(keys.clone()));
        assert!(keys.fit("pässwort".as_bytes()) && !keys.fit(b"passwort"));
        // SASLprep: the same text in another composition.
        assert!(keys.fit("pa\u{308}sswort".as_bytes()));
        for bad in
            ["", "{SCRAM-SHA-256}", "{SCRAM-SHA-256}1,AA==,AA==,AA==", &format!("{text},x"), &text[1..]]
        {
            assert!(ScramKeys::parse(bad).is_none(), "{bad}");
        }
        assert!(ScramKeys::parse(&text.replace("4096", "4000000000")).is_none());
        assert!(ScramKeys::parse(&text.replace("4096", "0")).is_none());
    }

    #[test]
    fn nobodys_keys_stay_the_same() {
        let keys = |secret, user| ScramKeys::nobodys(&[secret; 32], user, 4096);
        assert_eq!(keys(1, "joe@x"), keys(1, "joe@x"));
        assert_ne!(keys(1, "joe@x").salt, keys(1, "ann@x").salt);
        assert_ne!(keys(1, "joe@x").salt, keys(2, "joe@x").salt);
        assert_eq!(keys(1, "joe@x").salt.len(), ScramKeys::of_new_password(b"x", 1).salt.len());
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_answered(octets: Vec<u8>, text in "[nyp=a,r=,s:\\PC]{0,60}") {
            let bindings = [("tls-exporter", vec![1])];
            let _ = ClientFirst::parse(&octets, true, &bindings);
            let _ = ClientFirst::parse(text.as_bytes(), false, &[]);
            let first = ClientFirst::parse(b"n,,n=u,r=abc", false, &[]).unwrap();
            let (waiting, _) = Waiting::new(first, ScramKeys::nobodys(&[0; 32], "u", 1), "x");
            proptest::prop_assert!(!matches!(waiting.finish(&octets), Some(Some(_))));
            let _ = waiting.finish(text.as_bytes());
        }

        #[test]
        fn a_client_with_the_password_gets_in(password in "\\PC{1,20}", user in "[a-z=,]{1,9}") {
            let keys = ScramKeys::of_new_password(password.as_bytes(), 2);
            let escaped = user.replace('=', "=3D").replace(',', "=2C");
            let bare = format!("n={escaped},r=nonce");
            let first = ClientFirst::parse(format!("n,,{bare}").as_bytes(), false, &[]).unwrap();
            proptest::prop_assert_eq!(&first.authcid, &user);
            let (waiting, challenge) = Waiting::new(first, keys, "more");
            let challenge = String::from_utf8(challenge).unwrap();
            let (last, server) = client::last(&bare, &challenge, b"n,,", password.as_bytes());
            proptest::prop_assert_eq!(waiting.finish(last.as_bytes()), Some(Some(server.into_bytes())));
            let (last, _) = client::last(&bare, &challenge, b"n,,", b"another");
            if password != "another" {
                proptest::prop_assert_eq!(waiting.finish(last.as_bytes()), Some(None));
            }
        }
    }
}
