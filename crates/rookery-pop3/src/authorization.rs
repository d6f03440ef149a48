//! Commands before the login (RFC 1939 §4): who is asking.
//!
//! Invariants:
//! - A password is refused, unread, where it came in the clear and may not.
//! - Nothing here is logged but what the authenticator logs.

use std::sync::Arc;

use rookery_auth::{Attempt, AuthError, Login, Progress};
use rookery_codec::pop3::server::Decoded;
use rookery_codec::pop3::{Code, Command, Reply, print_challenge};
use rookery_codec::sasl::{self, ClientLine};
use rookery_net::IoError;

use crate::capability;
use crate::connection::Outcome;
use crate::maildrop::{Maildrop, Opened};
use crate::services::Services;
use crate::wire::Wire;

/// What a client has said of itself.
#[derive(Debug, Default)]
pub(crate) struct Authorization {
    /// By USER; PASS takes it.
    user: Option<Box<str>>,
    /// Whether UTF8 was said.
    utf8: bool,
}

/// Does what a client asks that has not logged in.
pub(crate) async fn obey(
    wire: &mut Wire,
    services: &Arc<Services>,
    authorization: &mut Authorization,
    command: Command,
) -> Result<Outcome, IoError> {
    Ok(match command {
        // DEVIATION: RFC 6856 §2.1, because messages with UTF-8 in their headers are sent as they are without UTF8,
        // too. Refusing one would stop clients at it that have always coped, and keep them from what is behind it.
        Command::Utf8 => {
            authorization.utf8 = true;
            Outcome::Said(Reply::ok("UTF-8 it is"))
        }
        Command::User(_) | Command::Pass(_) if !services.password_allowed(&wire.connection) => {
            Outcome::Said(not_private())
        }
        Command::User(name) => {
            authorization.user = Some(name);
            Outcome::Said(Reply::ok("And the password?"))
        }
        Command::Pass(password) => {
            let Some(user) = authorization.user.take() else {
                return Ok(Outcome::Bad(Reply::err("Say USER first")));
            };
            let attempt = Attempt {
                authzid: "",
                authcid: &user,
                password: password.as_bytes(),
                ip: wire.connection.peer().ip(),
                protocol: "pop3",
            };
            enter(services, services.authenticator.login(attempt).await).await
        }
        Command::AuthList => {
            capability::mechanisms(services, wire);
            Outcome::Sent
        }
        Command::Auth { mechanism, initial } => {
            authorization.user = None;
            let initial = initial.as_ref().map(|initial| initial.as_bytes());
            return authenticate(wire, services, &mechanism, initial).await;
        }
        Command::Stls if authorization.utf8 => Outcome::Said(Reply::err("STLS comes before UTF8")),
        Command::Stls if services.offers_tls(&wire.connection) => Outcome::StartTls,
        Command::Stls => Outcome::Said(Reply::err("There is no TLS to begin")),
        Command::Unknown { .. } => Outcome::Bad(Reply::err("Unknown command")),
        _ => Outcome::Bad(Reply::err("Log in first")),
    })
}

/// A SASL exchange, line by line in base64 (RFC 5034 §4).
async fn authenticate(
    wire: &mut Wire,
    services: &Services,
    mechanism: &str,
    initial: Option<&[u8]>,
) -> Result<Outcome, IoError> {
    let client = services.client(&wire.connection);
    let Some(mut exchange) = services.authenticator.begin(mechanism, client) else {
        return Ok(Outcome::Said(match services.password_allowed(&wire.connection) {
            true => Reply::err("No such authentication mechanism"),
            false => not_private(),
        }));
    };
    let mut progress = exchange.start(initial).await;
    loop {
        let challenge = match progress {
            Progress::Challenge(challenge) => challenge,
            Progress::Done(login) => return Ok(enter(services, Ok(login)).await),
            Progress::Failed(error) => return Ok(enter(services, Err(error)).await),
        };
        wire.decoder.expect_line(sasl::LINE_OCTETS_MAX);
        print_challenge(&challenge, wire.connection.out());
        let line = match wire.next().await? {
            Decoded::Line(line) => line,
            Decoded::Fatal(reply) => return Ok(Outcome::Close(reply, "out of step")),
            _ => return Ok(Outcome::Bad(Reply::err("AUTH broken off"))),
        };
        progress = match sasl::client_line(&line) {
            Ok(ClientLine::Response(response)) => exchange.step(response.as_bytes()).await,
            Ok(ClientLine::Cancel) => return Ok(Outcome::Said(Reply::err("AUTH cancelled"))),
            Err(_) => return Ok(Outcome::Bad(Reply::err("That is no base64"))),
        };
    }
}

fn not_private() -> Reply {
    Reply::err("Passwords are taken under TLS only; say STLS first")
}

/// Opens the maildrop of someone who has proved who they are.
async fn enter(services: &Services, login: Result<Login, AuthError>) -> Outcome {
    let refusal = match login {
        Ok(login) => match Maildrop::open(services, login.user).await {
            Ok(Opened::Here(maildrop)) => return Outcome::LoggedIn(maildrop),
            Ok(Opened::Away { user, home }) => return Outcome::Away { user, home },
            Err(refusal) => refusal.into_reply(),
        },
        Err(AuthError::Invalid | AuthError::Malformed) => {
            Reply::refused(Code::Auth, "The user or the password is wrong")
        }
        Err(AuthError::NotAuthorized) => Reply::refused(Code::Auth, "You may not act as that user"),
        Err(AuthError::Suspended) => Reply::refused(Code::SysPerm, "The account is closed at the moment"),
        Err(AuthError::Throttled | AuthError::Unavailable) => {
            Reply::refused(Code::SysTemp, "Logins are not possible at the moment")
        }
    };
    Outcome::Said(refusal)
}
