//! A login from beginning to end: user name, account, cache, hash, delay, and one log line for a failure.
//!
//! Invariants:
//! - The account is looked up at every login; the cache only saves the hash.
//! - Whether a user exists, or is suspended, is told to nobody who does not know the password: neither by
//!   the answer, nor by its time.
//! - Every failure writes the line [`FAILURE_LINE`] describes, for those who watch logs.

use std::borrow::Cow;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rookery_types::UserName;

use crate::accounts::{AccountState, Accounts, Credential};
use crate::cache::VerifierCache;
use crate::exchange::{CertificateName, Client, Exchange};
use crate::password::{HashError, Hasher, Lane};
use crate::sasl::MECHANISMS;
use crate::scram::ScramKeys;
use crate::throttle::{Source, Throttle};
use crate::verifier;

/// The form of the line logged at level `info` for each failure. It does not change between versions. Control
/// characters, `<`, `>` and `\` in the user's text are escaped, and the text is cut after 255 characters.
pub const FAILURE_LINE: &str =
    "auth failed: user=<USER> from=<ADDRESS or local> protocol=<PROTOCOL> reason=REASON";

/// How long a client waits that was turned away for too much work, so that it does not ask at once again.
const BUSY_DELAY: Duration = Duration::from_millis(500);
/// Characters of the user's text in a log line.
const LOGGED_CHARACTERS_MAX: usize = 255;

/// How an [`Authenticator`] is set up.
#[derive(Clone, Debug)]
pub struct AuthenticatorOptions {
    /// The domain of users that are named without one.
    pub default_domain: String,
    /// How long a checked password is believed without hashing it again; zero turns the cache off.
    pub cache_lifetime: Duration,
    /// Checked passwords remembered.
    pub cache_entries_max: usize,
    /// The SASL mechanisms that are offered where they are possible; of [`MECHANISMS`], in any order.
    pub mechanisms: Vec<String>,
    /// Which name in a client's certificate says who the client is.
    pub certificate_name: CertificateName,
    /// What the salts are made of that users without SCRAM keys are shown. To be kept over restarts, or those
    /// users are told from others by salts that change.
    pub scram_secret: [u8; 32],
}

impl AuthenticatorOptions {
    /// The defaults, with a default domain.
    pub fn new(default_domain: &str) -> AuthenticatorOptions {
        AuthenticatorOptions {
            default_domain: default_domain.to_owned(),
            cache_lifetime: crate::cache::LIFETIME,
            cache_entries_max: crate::cache::ENTRIES_MAX,
            mechanisms: MECHANISMS.map(str::to_owned).to_vec(),
            certificate_name: CertificateName::default(),
            scram_secret: rand::random(),
        }
    }
}

/// What a client offers.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// Whom to act as; empty for whom `authcid` is.
    pub authzid: &'a str,
    /// Whose password it is, as the client wrote it.
    pub authcid: &'a str,
    /// The password.
    pub password: &'a [u8],
    /// The client's address; `None` for what did not come over IP.
    pub ip: Option<IpAddr>,
    /// The protocol, for the log and the metrics: `imap`, `pop3`, `lmtp`.
    pub protocol: &'static str,
}

/// A successful login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Whom the session acts as.
    pub user: UserName,
    /// Whose password was given; the same, unless an authorization identity was asked for.
    pub authenticated: UserName,
}

/// Why a login failed: what may be told to the client (RFC 5530 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Wrong user or password: `NO [AUTHENTICATIONFAILED]`. The delay has passed already.
    #[error("the user or the password is wrong")]
    Invalid,
    /// The password is right, but the client may not act as whom it asked for: `NO [AUTHORIZATIONFAILED]`.
    #[error("this user may not act as the other")]
    NotAuthorized,
    /// The password is right, but the account is suspended: `NO [AUTHORIZATIONFAILED]`.
    #[error("the account is suspended")]
    Suspended,
    /// Too many logins are being checked: `NO [UNAVAILABLE]`, try later.
    #[error("too many logins at once")]
    Throttled,
    /// Accounts cannot be looked up, or the stored verifier is damaged: `NO [UNAVAILABLE]`.
    #[error("logins are not possible at the moment")]
    Unavailable,
    /// The client's octets are no message of the mechanism; nobody was looked up: `BAD` or `NO`.
    #[error("the client's message is malformed")]
    Malformed,
}

/// Checks logins. Shared by all sessions of all protocols.
pub struct Authenticator {
    accounts: Arc<dyn Accounts>,
    hasher: Arc<Hasher>,
    cache: VerifierCache,
    throttle: Throttle,
    default_domain: String,
    users: RandomState,
    mechanisms: Vec<&'static str>,
    scram_secret: [u8; 32],
    certificate_name: CertificateName,
}

/// Who has failed, for the log.
struct Who<'a> {
    authcid: &'a str,
    ip: Option<IpAddr>,
    protocol: &'static str,
}

/// Why a login failed, for the log. `look-up-failed` and `bad-verifier` are the operator's to mend.
struct Failure {
    reason: &'static str,
    error: AuthError,
}

impl Failure {
    fn new(reason: &'static str, error: AuthError) -> Failure {
        Failure { reason, error }
    }
}

impl Authenticator {
    /// An authenticator that has seen nobody yet.
    pub fn new(
        accounts: Arc<dyn Accounts>,
        hasher: Arc<Hasher>,
        options: AuthenticatorOptions,
    ) -> Authenticator {
        let is_wanted =
            |name: &&str| options.mechanisms.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
        Authenticator {
            mechanisms: MECHANISMS.into_iter().filter(is_wanted).collect(),
            scram_secret: options.scram_secret,
            certificate_name: options.certificate_name,
            accounts,
            hasher,
            cache: VerifierCache::new(options.cache_lifetime, options.cache_entries_max),
            throttle: Throttle::default(),
            default_domain: options.default_domain,
            users: RandomState::new(),
        }
    }

    /// Checks what a client offers. A wrong user or password is answered after a delay that grows with its
    /// source's failures (at most 2 s, see [`crate::throttle`]); everything else at once. Safe to cancel.
    ///
    /// Metrics: `rookery_auth_logins_total{protocol,result}`.
    pub async fn login(&self, attempt: Attempt<'_>) -> Result<Login, AuthError> {
        let source = Source::of(attempt.ip);
        let checked = self.check(&attempt, source).await;
        let Attempt { authcid, ip, protocol, .. } = attempt;
        self.conclude(&Who { authcid, ip, protocol }, checked).await
    }

    /// The mechanisms that are offered to a client, the strongest first.
    pub fn mechanisms(&self, client: &Client) -> impl Iterator<Item = &'static str> {
        let (private, binds, known) =
            (client.private, !client.bindings.is_empty(), self.named_by_certificate(client).is_some());
        self.mechanisms.iter().copied().filter(move |name| match *name {
            "EXTERNAL" => known,
            "SCRAM-SHA-256-PLUS" => private && binds,
            _ => private,
        })
    }

    /// Who a client is, by its certificate.
    pub(crate) fn named_by_certificate<'a>(&self, client: &'a Client) -> Option<&'a str> {
        client.certificate.as_ref()?.get(self.certificate_name)
    }

    /// Begins a SASL exchange with a client; `None` if it is not offered the mechanism (the name's case is its own).
    pub fn begin(self: &Arc<Self>, mechanism: &str, client: Client) -> Option<Exchange> {
        Exchange::new(Arc::clone(self), mechanism, client)
    }

    /// Ends an attempt: counts it, and logs and delays a failure.
    async fn conclude(&self, who: &Who<'_>, checked: Result<Login, Failure>) -> Result<Login, AuthError> {
        let checked = match checked {
            Ok(login) => self.welcome(login).await,
            failed => failed,
        };
        let result = checked.as_ref().map_or_else(|failure| failure.reason, |_| "ok");
        metrics::counter!("rookery_auth_logins_total", "protocol" => who.protocol, "result" => result)
            .increment(1);
        let failure = match checked {
            Ok(login) => return Ok(login),
            Err(failure) => failure,
        };
        tracing::info!("{}", failure_line(who, failure.reason));
        match failure.error {
            AuthError::Invalid => tokio::time::sleep(self.throttle.failed(Source::of(who.ip))).await,
            AuthError::Throttled => tokio::time::sleep(BUSY_DELAY).await,
            AuthError::NotAuthorized
            | AuthError::Suspended
            | AuthError::Unavailable
            | AuthError::Malformed => {}
        }
        Err(failure.error)
    }

    /// The keys that a user's SCRAM proof is to fit: for whom there are none, keys that nothing fits.
    pub(crate) async fn scram_keys(&self, authcid: &str) -> Result<ScramKeys, AuthError> {
        let user = UserName::parse(authcid, &self.default_domain);
        let found = match &user {
            Ok(user) => self.known(user).await.map_err(|failure| failure.error)?,
            Err(_) => None,
        };
        let keys = found.and_then(|found| verifier::scram_keys(found.verifier.as_deref()?));
        Ok(keys.unwrap_or_else(|| {
            let name = user.as_ref().map_or_else(|_| authcid.to_lowercase(), |user| user.as_str().to_owned());
            ScramKeys::nobodys(&self.scram_secret, &name, self.hasher.scram_iterations())
        }))
    }

    /// Ends an exchange in which a client proved without a password that it is `authcid`.
    pub(crate) async fn proved(
        &self,
        authzid: &str,
        authcid: &str,
        ip: Option<IpAddr>,
        protocol: &'static str,
    ) -> Result<Login, AuthError> {
        let checked = self.admit(authzid, authcid).await;
        self.conclude(&Who { authcid, ip, protocol }, checked).await
    }

    /// Ends an exchange in which a client's proof was wrong.
    pub(crate) async fn disproved(
        &self,
        authcid: &str,
        ip: Option<IpAddr>,
        protocol: &'static str,
    ) -> AuthError {
        let user = UserName::parse(authcid, &self.default_domain);
        // Another proof cannot be asked for, but the next one is for the newest keys.
        self.accounts.catch_up().await;
        let reason = match user {
            Err(_) => "bad-user-name",
            Ok(user) => match self.look_up(&user).await {
                Err(failure) => failure.reason,
                Ok(None) => "unknown-user",
                Ok(Some(found)) if found.verifier.as_deref().and_then(verifier::scram_keys).is_none() => {
                    "no-scram-keys"
                }
                Ok(Some(_)) => "bad-password",
            },
        };
        let failed = Err(Failure::new(reason, AuthError::Invalid));
        self.conclude(&Who { authcid, ip, protocol }, failed).await.err().unwrap_or(AuthError::Invalid)
    }

    async fn admit(&self, authzid: &str, authcid: &str) -> Result<Login, Failure> {
        let user = UserName::parse(authcid, &self.default_domain)
            .map_err(|_| Failure::new("bad-user-name", AuthError::Invalid))?;
        match self.known(&user).await? {
            None => Err(Failure::new("unknown-user", AuthError::Invalid)),
            Some(Credential { state: AccountState::Suspended, .. }) => {
                Err(Failure::new("suspended", AuthError::Suspended))
            }
            Some(_) => {
                let acts_as = self.authorize(&user, authzid).await?;
                Ok(Login { user: acts_as, authenticated: user })
            }
        }
    }

    /// Drops what is cached of a user's passwords: call it when a password changes or an account is
    /// suspended. (A login after it would notice both without; this wipes what is no longer needed.)
    pub fn forget(&self, user: &UserName) {
        self.cache.forget(user);
    }

    /// The service that makes verifiers for new passwords.
    pub fn hasher(&self) -> &Arc<Hasher> {
        &self.hasher
    }

    async fn check(&self, attempt: &Attempt<'_>, source: Source) -> Result<Login, Failure> {
        let lane = Lane {
            source,
            user: self.users.hash_one(attempt.authcid.to_lowercase()),
            suspect: self.throttle.is_suspect(source),
        };
        let Ok(user) = UserName::parse(attempt.authcid, &self.default_domain) else {
            let stand_in = self.stand_in(attempt.authcid);
            self.hasher.verify_in(lane, &stand_in, attempt.password).await.map_err(hash_failed)?;
            return Err(Failure::new("bad-user-name", AuthError::Invalid));
        };
        let mut credential = self.look_up(&user).await?;
        let mut right = self.is_right(&user, credential.as_ref(), attempt.password, lane).await?;
        if !right || credential.is_none() {
            // A new user or another password may not have come here yet. Both take the same time.
            self.accounts.catch_up().await;
            let newer = self.look_up(&user).await?;
            if newer != credential {
                right = self.is_right(&user, newer.as_ref(), attempt.password, lane).await?;
                credential = newer;
            }
        }
        let Some(credential) = credential else {
            return Err(Failure::new("unknown-user", AuthError::Invalid));
        };
        if credential.verifier.is_none() {
            return Err(Failure::new("no-password", AuthError::Invalid));
        }
        if !right {
            return Err(Failure::new("bad-password", AuthError::Invalid));
        }
        if credential.state == AccountState::Suspended {
            return Err(Failure::new("suspended", AuthError::Suspended));
        }
        let acts_as = self.authorize(&user, attempt.authzid).await?;
        Ok(Login { user: acts_as, authenticated: user })
    }

    /// Whether a password is that of a credential. For a user who does not exist or has no password everything is done
    /// alike, against a verifier of nobody.
    async fn is_right(
        &self,
        user: &UserName,
        credential: Option<&Credential>,
        password: &[u8],
        lane: Lane,
    ) -> Result<bool, Failure> {
        let verifier = match credential.and_then(|found| found.verifier.as_deref()) {
            Some(verifier) => Cow::Borrowed(verifier),
            None => self.stand_in(user.as_str()),
        };
        if let Some(right) = self.cache.get(user, &verifier, password) {
            return Ok(right);
        }
        let right = self.hasher.verify_in(lane, &verifier, password).await.map_err(hash_failed)?;
        self.cache.put(user, &verifier, password, right);
        Ok(right)
    }

    fn stand_in(&self, user: &str) -> Cow<'_, str> {
        self.accounts.stand_in(user).map_or(Cow::Borrowed(self.hasher.dummy()), Cow::Owned)
    }

    /// Whom the session acts as (RFC 4422 §3.4.1).
    async fn authorize(&self, user: &UserName, authzid: &str) -> Result<UserName, Failure> {
        if authzid.is_empty() {
            return Ok(user.clone());
        }
        let refused = || Failure::new("not-authorized", AuthError::NotAuthorized);
        let whom = UserName::parse(authzid, &self.default_domain).map_err(|_| refused())?;
        if whom == *user {
            return Ok(whom);
        }
        if !self.accounts.may_act_as(user, &whom) {
            return Err(refused());
        }
        match self.look_up(&whom).await? {
            Some(Credential { state: AccountState::Active, .. }) => Ok(whom),
            Some(_) => Err(Failure::new("suspended", AuthError::Suspended)),
            None => Err(refused()),
        }
    }

    async fn welcome(&self, login: Login) -> Result<Login, Failure> {
        match self.accounts.welcome(&login.user).await {
            Ok(()) => Ok(login),
            Err(error) => {
                tracing::warn!(user = %login.user, %error, "a user's account cannot be made");
                Err(Failure::new("look-up-failed", AuthError::Unavailable))
            }
        }
    }

    /// The credential of a user, also of one who is not known here yet.
    async fn known(&self, user: &UserName) -> Result<Option<Credential>, Failure> {
        match self.look_up(user).await? {
            None => {
                self.accounts.catch_up().await;
                self.look_up(user).await
            }
            found => Ok(found),
        }
    }

    async fn look_up(&self, user: &UserName) -> Result<Option<Credential>, Failure> {
        self.accounts.look_up(user).await.map_err(|error| {
            tracing::warn!(%user, %error, "a login cannot be checked");
            Failure::new("look-up-failed", AuthError::Unavailable)
        })
    }
}

fn hash_failed(error: HashError) -> Failure {
    match error {
        HashError::Busy => Failure::new("busy", AuthError::Throttled),
        error @ (HashError::BadVerifier(_) | HashError::Failed(_)) => {
            tracing::error!(%error, "a stored verifier cannot be checked");
            Failure::new("bad-verifier", AuthError::Unavailable)
        }
    }
}

/// [`FAILURE_LINE`] filled in. The client's text cannot end the line or leave its brackets.
fn failure_line(who: &Who<'_>, reason: &str) -> String {
    let mut line = String::from("auth failed: user=<");
    for c in who.authcid.chars().take(LOGGED_CHARACTERS_MAX) {
        match c {
            '<' | '>' => line.extend(c.escape_unicode()),
            _ => line.extend(c.escape_debug()),
        }
    }
    let ip = who.ip.map_or_else(|| "local".to_owned(), |ip| ip.to_canonical().to_string());
    // Writing to a String cannot fail.
    let _ = write!(line, "> from=<{ip}> protocol=<{}> reason={reason}", who.protocol);
    line
}

#[cfg(test)]
mod tests;
