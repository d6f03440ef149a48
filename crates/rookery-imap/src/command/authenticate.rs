//! LOGIN and AUTHENTICATE (RFC 9051 §6.2.2, §6.2.3).
//!
//! Invariants:
//! - A password is refused, unread, where it came in the clear and may not (RFC 9051 §11.1).
//! - Nothing here is logged but what the authenticator logs.

use super::Context;
use crate::answer::{Answer, Failure};
use crate::awaiting::Awaiting;
use crate::capability;
use crate::guest::Guests;
use crate::names::{self, Names};
use crate::services::Services;
use crate::session::{Away, Enabled, State, User};
use crate::wire::{LINE_OCTETS_MAX, Wire, closed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rookery_auth::{Attempt, AuthError, EnterError, Login, Progress, SessionSlot};
use rookery_codec::imap::server::Decoded;
use rookery_codec::imap::{Code, Response, Secret};
use rookery_route::{AccountError, Authority};
use rookery_store::Account;
use rookery_types::{AccountName, ClientNames, NodeId, UserName};
use std::sync::Arc;

type LoggedIn = Result<(State, Answer), Failure>;

/// LOGIN: a user's name and password as they are.
pub(crate) async fn login(context: Context<'_>, user: Bytes, password: Secret) -> LoggedIn {
    private(context.services, context.wire)?;
    let Ok(name) = std::str::from_utf8(&user) else { return Err(wrong().into()) };
    let attempt = Attempt {
        authzid: "",
        authcid: name,
        password: password.as_bytes(),
        ip: context.wire.connection.peer().ip(),
        protocol: "imap",
    };
    let login = context.services.authenticator.login(attempt).await.map_err(refused)?;
    logged_in(context.services, context.wire, login, "LOGIN").await
}

/// AUTHENTICATE: a SASL mechanism, line by line in base64.
pub(crate) async fn authenticate(context: Context<'_>, mechanism: &str, initial: Option<Secret>) -> LoggedIn {
    let client = capability::client(context.services, context.wire);
    let Some(mut exchange) = context.services.authenticator.begin(mechanism, client) else {
        private(context.services, context.wire)?;
        return Err(Answer::no(Code::Cannot, "No such authentication mechanism").into());
    };
    let mut progress = exchange.start(initial.as_ref().map(Secret::as_bytes)).await;
    let login = loop {
        match progress {
            Progress::Challenge(challenge) => {
                let response = challenge_client(context.wire, &challenge).await?;
                progress = exchange.step(&response).await;
            }
            Progress::Done(login) => break login,
            Progress::Failed(error) => return Err(refused(error).into()),
        }
    };
    logged_in(context.services, context.wire, login, "AUTHENTICATE").await
}

/// Sends a challenge and reads the client's answer to it.
async fn challenge_client(wire: &mut Wire, challenge: &[u8]) -> Result<Vec<u8>, Failure> {
    wire.decoder.expect_line(LINE_OCTETS_MAX);
    wire.put(&Response::Continue(STANDARD.encode(challenge).into()));
    match wire.next().await? {
        Decoded::Line(line) if &line[..] == b"*" => Err(Answer::bad("AUTHENTICATE cancelled").into()),
        Decoded::Line(line) => STANDARD.decode(&line).map_err(|_| Answer::bad("That is no base64").into()),
        _ => Err(closed()),
    }
}

fn private(services: &Services, wire: &Wire) -> Result<(), Failure> {
    match capability::password_allowed(services, wire) {
        true => Ok(()),
        false => Err(Answer::no(Code::PrivacyRequired, "Passwords are taken under TLS only").into()),
    }
}

fn wrong() -> Answer {
    Answer::no(Code::AuthenticationFailed, "The user or the password is wrong")
}

fn unavailable() -> Answer {
    Answer::no(Code::Unavailable, "Logins are not possible at the moment")
}

fn refused(error: AuthError) -> Answer {
    match error {
        AuthError::Invalid | AuthError::Malformed => wrong(),
        AuthError::NotAuthorized => Answer::no(Code::AuthorizationFailed, "You may not act as that user"),
        AuthError::Suspended => Answer::no(Code::AuthorizationFailed, "The account is closed at the moment"),
        AuthError::Throttled | AuthError::Unavailable => unavailable(),
    }
}

async fn logged_in(services: &Arc<Services>, wire: &Wire, login: Login, verb: &'static str) -> LoggedIn {
    if wire.administrators && services.administrators.authority(&login.authenticated) == Authority::User {
        return Err(Answer::no(Code::AuthorizationFailed, "Only administrators log in here").into());
    }
    match enter(services, login.user, services.config.sessions_per_account_max).await? {
        // The home answers.
        Entered::Away { user, home } => {
            Ok((State::Away(Box::new(Away { user, home, verb })), Answer::ok("Going on elsewhere")))
        }
        Entered::Here(user) => Ok(entered(services, wire, user, verb)),
    }
}

/// The state of someone whose session runs here, and what is said to that.
pub(crate) fn entered(services: &Services, wire: &Wire, user: Box<User>, verb: &str) -> (State, Answer) {
    let state = State::Authenticated(user);
    // What can be done now is said at once, which saves the client a round trip.
    let names = capability::names(services, &state, wire);
    (state, Answer::ok_code(Code::Capability(names), format!("{verb} completed")))
}

/// Where the session of someone who has proved who they are runs.
pub(crate) enum Entered {
    Here(Box<User>),
    Away { user: UserName, home: NodeId },
}

/// A guest's user: their own account, and with it their session, is at another node, which has let them in.
pub(crate) async fn visit(services: &Arc<Services>, name: UserName) -> Result<Box<User>, Failure> {
    let authority = services.administrators.authority(&name);
    let user = made(services, name, authority, None, None).await?;
    Ok(Box::new(User { is_guest: true, ..user }))
}

/// The user of a session that has lost its home, and looks for it.
pub(crate) async fn bereft(
    services: &Arc<Services>,
    name: UserName,
    trace: u64,
) -> Result<Box<User>, Failure> {
    let authority = services.administrators.authority(&name);
    let user = made(services, name.clone(), authority, None, None).await?;
    let (awaiting, home) = Awaiting::start(services.clone(), name, trace);
    Ok(Box::new(User { home: Some(home), awaiting: Some(awaiting), ..user }))
}

/// Opens the account of someone who has proved who they are, unless it has so many sessions already.
pub(crate) async fn enter(
    services: &Arc<Services>,
    name: UserName,
    sessions_max: usize,
) -> Result<Entered, Failure> {
    let authority = services.administrators.authority(&name);
    let account_name = AccountName::User(name.clone());
    let own = match services.router.open(&services.store, &account_name).await {
        Err(AccountError::Elsewhere(home)) => return Ok(Entered::Away { user: name, home }),
        own => own.map_err(names::not_opened)?,
    };
    let mut slot = None;
    if let Some(own) = &own {
        // A renaming may have been broken off.
        services.registrar.settle(own, &account_name).await?;
        slot = match services.sessions.enter(own.id(), sessions_max) {
            Ok(slot) => Some(slot),
            Err(EnterError::TooMany) => {
                return Err(Answer::no(Code::Limit, "This account has too many sessions").into());
            }
            // While the password was being checked.
            Err(EnterError::Closed) => return Err(refused(AuthError::Suspended).into()),
        };
    } else if authority == Authority::User {
        return Err(unavailable().into());
    }
    Ok(Entered::Here(Box::new(made(services, name, authority, own, slot).await?)))
}

async fn made(
    services: &Arc<Services>,
    name: UserName,
    authority: Authority,
    own: Option<Account>,
    slot: Option<SessionSlot>,
) -> Result<User, Failure> {
    let revisions = services.directory.subscribe();
    let groups = services.directory.groups_of(&name).await.map_err(names::directory_failed)?;
    let names = Names::new(match authority {
        Authority::User => services.router.names_of(&name),
        Authority::Domain | Authority::Site => ClientNames::for_administrator(name.clone()),
    });
    let home = own.as_ref().map(Account::whereabouts);
    Ok(User {
        home,
        services: services.clone(),
        name,
        groups,
        revisions,
        authority,
        own,
        names,
        enabled: Enabled::default(),
        notify: None,
        awaiting: None,
        slot,
        is_guest: false,
        guests: Guests::default(),
    })
}
