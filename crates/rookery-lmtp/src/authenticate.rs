//! AUTH (RFC 4954): MTAs from networks that are not trusted.
//!
//! Invariants:
//! - A password is refused, unread, where it came in the clear and may not.
//! - Having an account is not enough: only who is listed as a deliverer may put mail into others' mailboxes.

use std::sync::Arc;

use rookery_auth::{AuthError, Authenticator, Client, Login, Progress};
use rookery_codec::imap::Secret;
use rookery_codec::lmtp::Reply;
use rookery_codec::lmtp::server::{Decoded, Decoder};
use rookery_codec::sasl::{self, ClientLine};
use rookery_net::{Connection, IoError};

/// What an exchange came to.
pub(crate) enum Authenticated {
    Login(Login),
    Refused(Reply),
    /// The stream is out of step: the answer, and the end.
    Fatal(Reply),
    /// The client has closed the connection.
    Closed,
}

/// One exchange, line by line in base64.
pub(crate) async fn authenticate(
    connection: &mut Connection,
    decoder: &mut Decoder,
    authenticator: &Arc<Authenticator>,
    client: Client,
    mechanism: &str,
    initial: Option<Secret>,
    idle: std::time::Duration,
) -> Result<Authenticated, IoError> {
    let private = client.private;
    let Some(mut exchange) = authenticator.begin(mechanism, client) else {
        return Ok(Authenticated::Refused(match private {
            true => Reply::new(504, (5, 5, 4), "No such authentication mechanism"),
            false => Reply::new(538, (5, 7, 11), "Passwords are taken under TLS only"),
        }));
    };
    let mut progress = exchange.start(initial.as_ref().map(Secret::as_bytes)).await;
    loop {
        let challenge = match progress {
            Progress::Challenge(challenge) => challenge,
            Progress::Done(login) => return Ok(Authenticated::Login(login)),
            Progress::Failed(error) => return Ok(Authenticated::Refused(refused(error))),
        };
        Reply::plain(334, sasl::encode(&challenge)).print(connection.out());
        decoder.expect_line(sasl::LINE_OCTETS_MAX);
        let line = loop {
            match decoder.next() {
                Decoded::Line(line) => break line,
                Decoded::Fatal(reply) => return Ok(Authenticated::Fatal(reply)),
                _ => {
                    connection.flush().await?;
                    if connection.read_some(decoder.buffer(), idle).await? == 0 {
                        return Ok(Authenticated::Closed);
                    }
                }
            }
        };
        progress = match sasl::client_line(&line) {
            Ok(ClientLine::Response(response)) => exchange.step(response.as_bytes()).await,
            Ok(ClientLine::Cancel) => {
                return Ok(Authenticated::Refused(Reply::new(501, (5, 7, 0), "AUTH cancelled")));
            }
            Err(_) => return Ok(Authenticated::Refused(Reply::new(501, (5, 5, 2), "That is no base64"))),
        };
    }
}

fn refused(error: AuthError) -> Reply {
    match error {
        AuthError::Invalid | AuthError::Malformed => {
            Reply::new(535, (5, 7, 8), "The user or the password is wrong")
        }
        AuthError::NotAuthorized => Reply::new(535, (5, 7, 8), "You may not act as that user"),
        AuthError::Suspended => Reply::new(535, (5, 7, 8), "The account is closed at the moment"),
        AuthError::Throttled | AuthError::Unavailable => {
            Reply::new(454, (4, 7, 0), "Logins are not possible at the moment")
        }
    }
}
