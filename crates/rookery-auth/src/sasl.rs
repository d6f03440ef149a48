//! The server's side of the SASL mechanisms: PLAIN (RFC 4616), LOGIN (never standardised, still asked for by old
//! clients), SCRAM-SHA-256 with and without channel binding (RFC 5802, 7677) and EXTERNAL (RFC 4422 appendix A).
//! Base64 and the protocol's framing are the caller's, looking up users is [`Exchange`](crate::Exchange)'s.
//!
//! Invariants:
//! - What a mechanism yields is UTF-8 without control characters, not empty, and bounded in length.
//! - After `Fail`, `Password` or `Proved` a mechanism is over: every further step fails.

use std::borrow::Cow;
use std::fmt;

use crate::password::Password;
use crate::scram::{ChannelBinding, ClientFirst, ScramKeys, Waiting};

/// Octets in the longest user name, authorization identity or password accepted. RFC 4616 §2 asks for at
/// least 255.
pub const FIELD_OCTETS_MAX: usize = 1024;

/// The mechanisms there are, the strongest first, as a capability lists them.
pub const MECHANISMS: [&str; 5] = ["EXTERNAL", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"];

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
    External { authcid: String },
    ScramFirst { plus: bool, bindings: Vec<ChannelBinding> },
    ScramKeys { first: ClientFirst },
    ScramLast { waiting: Waiting },
    Over,
}

/// What comes after the client's octets.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this challenge.
    Continue(Cow<'static, [u8]>),
    /// The client has said who it is; the password is still to be checked.
    Password(Credentials),
    /// The keys of this user are needed: find them and go on with [`Mechanism::keys`].
    NeedKeys(String),
    /// The client has proved without a password who it is.
    Proved {
        /// Whom to act as; empty for whom `authcid` is.
        authzid: String,
        /// Who it is.
        authcid: String,
        /// A last message, to which the client's answer is empty.
        last: Option<Vec<u8>>,
    },
    /// The client's proof is wrong.
    Wrong {
        /// Who it said it is.
        authcid: String,
    },
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
    /// The mechanism of that name, in any case; `None` if it is not one of [`MECHANISMS`], or asks for what is not
    /// given. `bindings`: what the channel can be bound by; `certificate`: who the client's certificate says it is.
    pub fn new(name: &str, bindings: &[ChannelBinding], certificate: Option<&str>) -> Option<Mechanism> {
        let scram = |plus| State::ScramFirst { plus, bindings: bindings.to_vec() };
        let state = match name {
            _ if name.eq_ignore_ascii_case("PLAIN") => State::Plain,
            _ if name.eq_ignore_ascii_case("LOGIN") => State::LoginUser,
            _ if name.eq_ignore_ascii_case("SCRAM-SHA-256") => scram(false),
            _ if name.eq_ignore_ascii_case("SCRAM-SHA-256-PLUS") && !bindings.is_empty() => scram(true),
            _ if name.eq_ignore_ascii_case("EXTERNAL") => {
                State::External { authcid: certificate?.to_owned() }
            }
            _ => return None,
        };
        Some(Mechanism { state })
    }

    /// Begins, with the client's initial response if it sent one (decoded; `=` in a protocol is an empty one).
    pub fn start(&mut self, initial: Option<&[u8]>) -> Step {
        match (initial, &self.state) {
            (Some(response), _) => self.step(response),
            (None, State::LoginUser) => Step::Continue(Cow::Borrowed(b"Username:")),
            (None, State::Plain | State::External { .. } | State::ScramFirst { .. }) => {
                Step::Continue(Cow::Borrowed(b""))
            }
            (None, _) => Step::Fail,
        }
    }

    /// Takes the client's next response.
    pub fn step(&mut self, response: &[u8]) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Plain => plain(response).map_or(Step::Fail, Step::Password),
            State::LoginUser => match field(response) {
                Some(authcid) => {
                    self.state = State::LoginPassword { authcid: authcid.to_owned() };
                    Step::Continue(Cow::Borrowed(b"Password:"))
                }
                None => Step::Fail,
            },
            State::LoginPassword { authcid } => match field(response) {
                Some(password) => Step::Password(Credentials {
                    authzid: String::new(),
                    authcid,
                    password: Password::new(password.as_bytes()),
                }),
                None => Step::Fail,
            },
            State::External { authcid } => match response {
                b"" => Step::Proved { authzid: String::new(), authcid, last: None },
                authzid => match field(authzid) {
                    Some(authzid) => Step::Proved { authzid: authzid.to_owned(), authcid, last: None },
                    None => Step::Fail,
                },
            },
            State::ScramFirst { plus, bindings } => match ClientFirst::parse(response, plus, &bindings) {
                Some(first) => {
                    let authcid = first.authcid.clone();
                    self.state = State::ScramKeys { first };
                    Step::NeedKeys(authcid)
                }
                None => Step::Fail,
            },
            State::ScramLast { waiting } => {
                let finished = waiting.finish(response);
                let ClientFirst { authzid, authcid, .. } = waiting.first;
                match finished {
                    Some(Some(last)) => Step::Proved { authzid, authcid, last: Some(last) },
                    Some(None) => Step::Wrong { authcid },
                    None => Step::Fail,
                }
            }
            State::ScramKeys { .. } | State::Over => Step::Fail,
        }
    }

    /// Goes on after [`Step::NeedKeys`]. `nonce`: printable ASCII without commas that nobody can guess.
    pub fn keys(&mut self, keys: ScramKeys, nonce: &str) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::ScramKeys { first } => {
                let (waiting, challenge) = Waiting::new(first, keys, nonce);
                self.state = State::ScramLast { waiting };
                Step::Continue(challenge.into())
            }
            _ => Step::Fail,
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
pub(crate) fn field(octets: &[u8]) -> Option<&str> {
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

    fn mechanism(name: &str) -> Mechanism {
        Mechanism::new(name, &[("tls-exporter", vec![7])], Some("tim")).unwrap()
    }

    fn credentials(authzid: &str, authcid: &str, password: &str) -> Step {
        Step::Password(Credentials {
            authzid: authzid.to_owned(),
            authcid: authcid.to_owned(),
            password: Password::new(password.as_bytes()),
        })
    }

    fn challenge(text: &'static str) -> Step {
        Step::Continue(Cow::Borrowed(text.as_bytes()))
    }

    fn step_plain(response: &[u8]) -> Step {
        mechanism("plain").step(response)
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
        let mut login = mechanism("LOGIN");
        assert_eq!(login.start(None), challenge("Username:"));
        assert_eq!(login.step(b"tim"), challenge("Password:"));
        assert_eq!(login.step(b"secret"), credentials("", "tim", "secret"));
        assert_eq!(login.step(b"secret"), Step::Fail, "it is over");

        let mut login = mechanism("Login");
        assert_eq!(login.start(Some(b"tim")), challenge("Password:"));
        assert_eq!(login.step(b""), Step::Fail);
        assert_eq!(login.step(b"secret"), Step::Fail);
        assert_eq!(mechanism("LOGIN").start(Some(b"")), Step::Fail);
    }

    #[test]
    fn plain_without_an_initial_response_gets_an_empty_challenge() {
        let mut plain = mechanism("PLAIN");
        assert_eq!(plain.start(None), challenge(""));
        assert_eq!(plain.step(b"\0a\0b"), credentials("", "a", "b"));
        assert_eq!(plain.start(None), Step::Fail);
        assert!(Mechanism::new("CRAM-MD5", &[], None).is_none());
    }

    #[test]
    fn external_takes_who_the_certificate_names() {
        let proved = |authzid: &str| Step::Proved {
            authzid: authzid.to_owned(),
            authcid: "tim".to_owned(),
            last: None,
        };
        assert_eq!(mechanism("EXTERNAL").start(None), challenge(""));
        assert_eq!(mechanism("external").start(Some(b"")), proved(""));
        assert_eq!(mechanism("EXTERNAL").start(Some(b"ann")), proved("ann"));
        assert_eq!(mechanism("EXTERNAL").start(Some(b"a\0")), Step::Fail);
        assert!(Mechanism::new("EXTERNAL", &[], None).is_none());
    }

    #[test]
    fn scram_in_its_order_alone() {
        let keys = || ScramKeys::derive(b"pencil", b"salt", 1);
        let mut scram = mechanism("SCRAM-SHA-256");
        assert_eq!(scram.start(None), challenge(""));
        assert_eq!(scram.step(b"n,a=ann,n=tim,r=abc"), Step::NeedKeys("tim".to_owned()));
        assert_eq!(scram.keys(keys(), "xyz"), Step::Continue(b"r=abcxyz,s=c2FsdA==,i=1"[..].into()));
        let (last, server) =
            crate::scram::client::last("n=tim,r=abc", "r=abcxyz,s=c2FsdA==,i=1", b"n,a=ann,", b"pencil");
        let proved =
            Step::Proved { authzid: "ann".to_owned(), authcid: "tim".to_owned(), last: Some(server.into()) };
        assert_eq!(scram.step(last.as_bytes()), proved);
        assert_eq!(scram.step(b""), Step::Fail, "it is over");

        let mut early = mechanism("SCRAM-SHA-256");
        assert_eq!(early.keys(keys(), "xyz"), Step::Fail);
        let mut late = mechanism("SCRAM-SHA-256-PLUS");
        assert_eq!(late.step(b"p=tls-exporter,,n=tim,r=abc"), Step::NeedKeys("tim".to_owned()));
        assert_eq!(late.step(last.as_bytes()), Step::Fail);
        assert!(Mechanism::new("SCRAM-SHA-256-PLUS", &[], None).is_none());
    }

    #[test]
    fn another_channel_is_no_proof() {
        let with = |octets: &[u8]| {
            let mut scram = mechanism("SCRAM-SHA-256-PLUS");
            let _ = scram.step(b"p=tls-exporter,,n=tim,r=abc");
            let Step::Continue(first) = scram.keys(ScramKeys::derive(b"pencil", b"salt", 1), "xyz") else {
                panic!()
            };
            let first = String::from_utf8(first.into_owned()).unwrap();
            let bound = [b"p=tls-exporter,,", octets].concat();
            let (last, _) = crate::scram::client::last("n=tim,r=abc", &first, &bound, b"pencil");
            scram.step(last.as_bytes())
        };
        assert!(matches!(with(&[7]), Step::Proved { .. }));
        assert_eq!(with(&[8]), Step::Wrong { authcid: "tim".to_owned() });
    }

    #[test]
    fn debug_texts_tell_no_password() {
        let step = step_plain(b"\0tim\0hunter2");
        assert!(!format!("{step:?}").contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_answered(octets: Vec<u8>) {
            for name in MECHANISMS {
                let mut mechanism = mechanism(name);
                let _ = mechanism.step(&octets);
                if let Step::Password(c) = mechanism.step(&octets) {
                    proptest::prop_assert!(!c.authcid.is_empty());
                }
            }
        }
    }
}
