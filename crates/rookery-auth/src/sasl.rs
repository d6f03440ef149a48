//! The server's side of the SASL mechanisms that carry a password: PLAIN (RFC 4616) and LOGIN (never
//! standardised, still asked for by old clients). Base64 and the protocol's framing are the caller's.
//!
//! Invariants:
//! - What a mechanism yields is UTF-8 without control characters, not empty, and bounded in length.
//! - After `Fail` or `Credentials` a mechanism is over: every further step fails.

use std::fmt;

use crate::password::Password;

/// Octets in the longest user name, authorization identity or password accepted. RFC 4616 §2 asks for at
/// least 255.
pub const FIELD_OCTETS_MAX: usize = 1024;

/// A mechanism under way.
#[derive(Debug)]
pub struct Mechanism {
    state: State,
}

#[derive(Debug)]
enum State {
    Plain,
    LoginUser,
    LoginPassword { authcid: String },
    Over,
}

/// What comes after the client's octets.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this challenge.
    Continue(&'static [u8]),
    /// The client has said who it is; nothing is proved yet.
    Credentials(Credentials),
    /// The client's octets are no message of this mechanism.
    Fail,
}

/// Who a client says it is.
#[derive(PartialEq, Eq)]
pub struct Credentials {
    /// Whom to act as; empty for whom `authcid` is.
    pub authzid: String,
    /// Whose password it is.
    pub authcid: String,
    /// The password.
    pub password: Password,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?} as {:?})", self.authcid, self.authzid)
    }
}

impl Mechanism {
    /// The mechanisms there are, as a capability lists them.
    pub const NAMES: [&'static str; 2] = ["PLAIN", "LOGIN"];

    /// The mechanism of that name, in any case; `None` if it is not one of [`Mechanism::NAMES`].
    pub fn new(name: &str) -> Option<Mechanism> {
        let state = match name {
            _ if name.eq_ignore_ascii_case("PLAIN") => State::Plain,
            _ if name.eq_ignore_ascii_case("LOGIN") => State::LoginUser,
            _ => return None,
        };
        Some(Mechanism { state })
    }

    /// Begins, with the client's initial response if it sent one (decoded; `=` in a protocol is an empty one).
    pub fn start(&mut self, initial: Option<&[u8]>) -> Step {
        match (initial, &self.state) {
            (Some(response), _) => self.step(response),
            (None, State::Plain) => Step::Continue(b""),
            (None, State::LoginUser) => Step::Continue(b"Username:"),
            (None, State::LoginPassword { .. } | State::Over) => Step::Fail,
        }
    }

    /// Takes the client's next response.
    pub fn step(&mut self, response: &[u8]) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Plain => plain(response).map_or(Step::Fail, Step::Credentials),
            State::LoginUser => match field(response) {
                Some(authcid) => {
                    self.state = State::LoginPassword { authcid: authcid.to_owned() };
                    Step::Continue(b"Password:")
                }
                None => Step::Fail,
            },
            State::LoginPassword { authcid } => match field(response) {
                Some(password) => Step::Credentials(Credentials {
                    authzid: String::new(),
                    authcid,
                    password: Password::new(password.as_bytes()),
                }),
                None => Step::Fail,
            },
            State::Over => Step::Fail,
        }
    }
}

/// `message = [authzid] UTF8NUL authcid UTF8NUL passwd` (RFC 4616 §2).
fn plain(message: &[u8]) -> Option<Credentials> {
    let mut parts = message.split(|&octet| octet == 0);
    let (authzid, authcid, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let authzid = if authzid.is_empty() { "" } else { field(authzid)? };
    Some(Credentials {
        authzid: authzid.to_owned(),
        authcid: field(authcid)?.to_owned(),
        password: Password::new(field(password)?.as_bytes()),
    })
}

/// A name or a password: what SASLprep (RFC 4013 §2.3) prohibits of control characters is refused.
///
/// DEVIATION: RFC 4616 §2, because names and passwords are not normalised by SASLprep: they are compared as
/// the octets that came. A password set in one composition of its characters is wrong in another.
fn field(octets: &[u8]) -> Option<&str> {
    if octets.is_empty() || octets.len() > FIELD_OCTETS_MAX {
        return None;
    }
    let text = std::str::from_utf8(octets).ok()?;
    let prohibited =
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffd}');
    (!text.chars().any(prohibited)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(authzid: &str, authcid: &str, password: &str) -> Step {
        Step::Credentials(Credentials {
            authzid: authzid.to_owned(),
            authcid: authcid.to_owned(),
            password: Password::new(password.as_bytes()),
        })
    }

    fn step_plain(response: &[u8]) -> Step {
        Mechanism::new("plain").unwrap().step(response)
    }

    #[test]
    fn plain_messages() {
        assert_eq!(step_plain(b"\0tim\0tanstaaftanstaaf"), credentials("", "tim", "tanstaaftanstaaf"));
        assert_eq!(step_plain(b"Ursel\0Kurt\0xipj3plmq"), credentials("Ursel", "Kurt", "xipj3plmq"));
        assert_eq!(step_plain("\0jürgen\0pässwort 1".as_bytes()), credentials("", "jürgen", "pässwort 1"));
        let long = "x".repeat(FIELD_OCTETS_MAX);
        assert_eq!(step_plain(format!("\0u\0{long}").as_bytes()), credentials("", "u", &long));
        for bad in [
            &b""[..],
            b"\0",
            b"\0\0",
            b"tim",
            b"tim\0pw",
            b"\0tim\0",
            b"\0\0pw",
            b"\0tim\0pw\0",
            b"a\0b\0c\0d",
            b"\0t\nm\0pw",
            b"\0tim\0p\x07w",
            b"\0tim\0p\x7fw",
            b"\0tim\0\xff",
            b"\xc0\xaf\0tim\0pw",
            b"\0t\xc2\x85m\0pw",
        ] {
            assert_eq!(step_plain(bad), Step::Fail, "{bad:?}");
        }
        assert_eq!(step_plain(format!("\0u\0{long}x").as_bytes()), Step::Fail);
    }

    #[test]
    fn login_asks_twice() {
        let mut login = Mechanism::new("LOGIN").unwrap();
        assert_eq!(login.start(None), Step::Continue(b"Username:"));
        assert_eq!(login.step(b"tim"), Step::Continue(b"Password:"));
        assert_eq!(login.step(b"secret"), credentials("", "tim", "secret"));
        assert_eq!(login.step(b"secret"), Step::Fail, "it is over");

        let mut login = Mechanism::new("Login").unwrap();
        assert_eq!(login.start(Some(b"tim")), Step::Continue(b"Password:"));
        assert_eq!(login.step(b""), Step::Fail);
        assert_eq!(login.step(b"secret"), Step::Fail);
        assert_eq!(Mechanism::new("LOGIN").unwrap().start(Some(b"")), Step::Fail);
    }

    #[test]
    fn plain_without_an_initial_response_gets_an_empty_challenge() {
        let mut plain = Mechanism::new("PLAIN").unwrap();
        assert_eq!(plain.start(None), Step::Continue(b""));
        assert_eq!(plain.step(b"\0a\0b"), credentials("", "a", "b"));
        assert_eq!(plain.start(None), Step::Fail);
        assert!(Mechanism::new("CRAM-MD5").is_none());
    }

    #[test]
    fn debug_texts_tell_no_password() {
        let step = step_plain(b"\0tim\0hunter2");
        assert!(!format!("{step:?}").contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_answered(octets: Vec<u8>) {
            for name in Mechanism::NAMES {
                let mut mechanism = Mechanism::new(name).unwrap();
                let _ = mechanism.step(&octets);
                if let Step::Credentials(c) = mechanism.step(&octets) {
                    proptest::prop_assert!(!c.authcid.is_empty());
                }
            }
        }
    }
}
