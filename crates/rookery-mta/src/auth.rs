//! The server's side of Dovecot's authentication protocol, version 1.2, as MTAs use it: lines of fields between
//! tabs. (Dovecot's "Authentication Protocol" page describes it; there is no RFC.)
//!
//! ```text
//! S: VERSION 1 2 / MECH PLAIN plaintext / ... / SPID 123 / CUID 1 / COOKIE 0f.. / DONE
//! C: VERSION 1 2 / CPID 456
//! C: AUTH 1 PLAIN service=smtp rip=192.0.2.7 secured resp=AGpvZQBwdw==
//! S: OK 1 user=joe@example.org
//! ```
//!
//! Invariants:
//! - Requests are answered in their order. An MTA has a connection for each of its processes, with one request at a
//!   time, so nobody waits for anybody else's delay.
//! - At most [`EXCHANGES_MAX`] exchanges are under way on a connection.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use rookery_auth::{AuthError, Authenticator, Client, Exchange, Progress};
use rookery_net::{Accepted, Connection};

use crate::lines;

/// Octets in the longest line, as in Dovecot.
const LINE_OCTETS_MAX: usize = 8192;
/// Exchanges that may be under way on one connection.
pub const EXCHANGES_MAX: usize = 64;

/// One request, as far as it is understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// The other side's version: major, minor.
    Version(u32),
    Auth {
        id: u32,
        mechanism: String,
        service: &'static str,
        ip: Option<IpAddr>,
        response: Response,
    },
    Cont {
        id: u32,
        response: Response,
    },
    Cancel {
        id: u32,
    },
    /// What needs no answer: the client's process id, and whatever later versions say.
    Other,
}

/// A client's response, out of base64.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Response {
    None,
    Octets(Vec<u8>),
    Malformed,
}

fn response(text: &str) -> Response {
    STANDARD.decode(text).map_or(Response::Malformed, Response::Octets)
}

/// Undoes the protocol's escapes: an octet 1 and a letter.
fn unescaped(text: &str) -> String {
    let mut characters = text.chars();
    let mut plain = String::new();
    while let Some(c) = characters.next() {
        plain.push(match c {
            '\u{1}' => match characters.next() {
                Some('0') => '\0',
                Some('1') => '\u{1}',
                Some('t') => '\t',
                Some('r') => '\r',
                Some('n') => '\n',
                Some(other) => other,
                None => break,
            },
            c => c,
        });
    }
    plain
}

/// None: the line is malformed, and the connection of no further use.
pub(crate) fn parse(line: &str) -> Option<Request> {
    let mut fields = line.split('\t');
    let verb = fields.next()?;
    let mut number = || fields.next()?.parse().ok();
    Some(match verb {
        "VERSION" => Request::Version(number()?),
        "AUTH" => {
            let id = number()?;
            let mechanism = fields.next()?.to_owned();
            let (mut service, mut ip, mut given) = ("dovecot-auth", None, Response::None);
            for field in fields {
                match field.split_once('=').unwrap_or((field, "")) {
                    ("service", "smtp" | "submission") => service = "smtp",
                    ("rip", text) => ip = unescaped(text).parse().ok(),
                    ("resp", text) => given = response(text),
                    _ => {}
                }
            }
            Request::Auth { id, mechanism, service, ip, response: given }
        }
        "CONT" => Request::Cont { id: number()?, response: response(fields.next().unwrap_or_default()) },
        "CANCEL" => Request::Cancel { id: number()? },
        _ => Request::Other,
    })
}

/// What is said when a client has connected.
fn handshake(authenticator: &Authenticator) -> String {
    static CONNECTIONS: AtomicU32 = AtomicU32::new(1);
    let mut text = "VERSION\t1\t2\n".to_owned();
    for mechanism in authenticator.mechanisms(&client("", None)) {
        let properties = match mechanism {
            "PLAIN" | "LOGIN" => "plaintext",
            _ => "mutual-auth",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "MECH\t{mechanism}\t{properties}");
    }
    let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let cookie: u128 = rand::random();
    let _ = write!(text, "SPID\t{}\nCUID\t{connection}\nCOOKIE\t{cookie:032x}\nDONE\n", std::process::id());
    text
}

/// The MTA decides whether passwords may come over its own connections; it has no channel bindings to tell of.
fn client(protocol: &'static str, ip: Option<IpAddr>) -> Client {
    Client { ip, protocol, private: true, ..Client::default() }
}

/// Serves one connection to its end.
pub async fn serve_connection(accepted: Accepted, authenticator: Arc<Authenticator>) {
    let Accepted { stream, mut permit, drain, .. } = accepted;
    permit.authenticated();
    let mut session = Session { authenticator, exchanges: HashMap::new() };
    let mut connection = Connection::new(stream);
    let mut buffer = BytesMut::new();
    connection.out().extend_from_slice(handshake(&session.authenticator).as_bytes());
    while connection.flush().await.is_ok() {
        let line = lines::next(&mut connection, &drain, &mut buffer, LINE_OCTETS_MAX, |buffer| {
            let end = buffer.iter().position(|octet| *octet == b'\n')?;
            Some(buffer.split_to(end + 1))
        });
        let Some(line) = line.await else { break };
        let request =
            std::str::from_utf8(&line).ok().and_then(|line| parse(line.trim_end_matches(['\r', '\n'])));
        let Some(request) = request else {
            tracing::warn!("an MTA sent a malformed request; its connection is closed");
            break;
        };
        match session.answer(request).await {
            Some(answer) => connection.out().extend_from_slice(answer.as_bytes()),
            None => break,
        }
    }
    let _ = connection.close().await;
    drop((permit, drain));
}

struct Session {
    authenticator: Arc<Authenticator>,
    exchanges: HashMap<u32, Exchange>,
}

impl Session {
    /// None: the connection is of no further use.
    async fn answer(&mut self, request: Request) -> Option<String> {
        match request {
            Request::Version(1) | Request::Other => Some(String::new()),
            Request::Version(major) => {
                tracing::warn!(major, "an MTA speaks another version of the auth protocol");
                None
            }
            Request::Cancel { id } => {
                self.exchanges.remove(&id);
                Some(String::new())
            }
            Request::Auth { id, mechanism, service, ip, response } => {
                if self.exchanges.contains_key(&id) || self.exchanges.len() >= EXCHANGES_MAX {
                    return Some(format!("FAIL\t{id}\ttemp\n"));
                }
                let initial = match response {
                    Response::None => None,
                    Response::Octets(octets) => Some(octets),
                    Response::Malformed => return Some(format!("FAIL\t{id}\treason=malformed base64\n")),
                };
                let exchange = self.authenticator.begin(&mechanism, client(service, ip));
                let Some(mut exchange) = exchange else {
                    return Some(format!("FAIL\t{id}\treason=no such mechanism\n"));
                };
                let progress = exchange.start(initial.as_deref()).await;
                Some(self.went_on(id, exchange, progress))
            }
            Request::Cont { id, response } => {
                let Some(mut exchange) = self.exchanges.remove(&id) else {
                    return Some(format!("FAIL\t{id}\treason=no such request\n"));
                };
                let Response::Octets(octets) = response else {
                    return Some(format!("FAIL\t{id}\treason=malformed base64\n"));
                };
                let progress = exchange.step(&octets).await;
                Some(self.went_on(id, exchange, progress))
            }
        }
    }

    fn went_on(&mut self, id: u32, exchange: Exchange, progress: Progress) -> String {
        match progress {
            Progress::Challenge(challenge) => {
                self.exchanges.insert(id, exchange);
                format!("CONT\t{id}\t{}\n", STANDARD.encode(challenge))
            }
            // A user's name has neither tabs nor control characters.
            Progress::Done(login) => format!("OK\t{id}\tuser={}\n", login.user),
            Progress::Failed(error) => {
                let why = match error {
                    AuthError::Invalid | AuthError::Malformed => "",
                    AuthError::NotAuthorized => "\tauthz",
                    AuthError::Suspended => "\tuser_disabled",
                    AuthError::Throttled | AuthError::Unavailable => "\ttemp",
                };
                format!("FAIL\t{id}{why}\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_postfix_and_exim_send_them() {
        let auth = |response| Request::Auth {
            id: 1,
            mechanism: "PLAIN".to_owned(),
            service: "smtp",
            ip: Some([192, 0, 2, 7].into()),
            response,
        };
        let line = "AUTH\t1\tPLAIN\tservice=smtp\tnologin\tlip=127.0.0.1\trip=192.0.2.7\tsecured";
        assert_eq!(parse(line), Some(auth(Response::None)));
        assert_eq!(parse(&format!("{line}\tresp=")), Some(auth(Response::Octets(Vec::new()))));
        assert_eq!(
            parse(&format!("{line}\tresp=AGpvZQBwdw==")),
            Some(auth(Response::Octets(b"\0joe\0pw".to_vec())))
        );
        assert_eq!(parse(&format!("{line}\tresp=!")), Some(auth(Response::Malformed)));
        assert_eq!(
            parse("CONT\t7\tam9l"),
            Some(Request::Cont { id: 7, response: Response::Octets(b"joe".to_vec()) })
        );
        assert_eq!(parse("CONT\t7"), Some(Request::Cont { id: 7, response: Response::Octets(Vec::new()) }));
        assert_eq!(parse("CANCEL\t7"), Some(Request::Cancel { id: 7 }));
        assert_eq!(parse("VERSION\t1\t0"), Some(Request::Version(1)));
        for other in ["CPID\t123", "", "SOMETHING\tnew"] {
            assert_eq!(parse(other), Some(Request::Other), "{other}");
        }
        for bad in
            ["AUTH", "AUTH\tx\tPLAIN", "AUTH\t1", "AUTH\t-1\tPLAIN", "CONT", "CANCEL\t99999999999", "VERSION"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(unescaped("a\u{1}tb\u{1}1\u{1}nc\u{1}0\u{1}"), "a\tb\u{1}\nc\0");
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_answered(line in "(AUTH|CONT|CANCEL|VERSION)?[\t0-9a-z=,\\PC]{0,60}") {
            let _ = parse(&line);
        }
    }
}
