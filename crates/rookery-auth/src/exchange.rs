//! A SASL exchange from its first octets to a login: the mechanism's steps, with the users looked up in between.
//!
//! ```text
//! let mut exchange = authenticator.begin("SCRAM-SHA-256", client)?;   // None: no such mechanism here
//! let mut progress = exchange.start(initial_response).await;
//! while let Progress::Challenge(challenge) = progress {
//!     // send the challenge, read the client's response, undo its base64
//!     progress = exchange.step(&response).await;
//! }
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::authenticator::{Attempt, AuthError, Authenticator, Login};
use crate::sasl::{Credentials, Mechanism, Step};
use crate::scram::ChannelBinding;

/// Where a client is, and what is known of its connection.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Its address; `None` for what did not come over IP.
    pub ip: Option<IpAddr>,
    /// The protocol, for the log and the metrics: `imap`, `pop3`, `lmtp`.
    pub protocol: &'static str,
    /// Whether a password may come over this connection as it is. Without it no mechanism but EXTERNAL is offered.
    pub private: bool,
    /// What SCRAM can be bound to (RFC 5056): empty without TLS.
    pub bindings: Vec<ChannelBinding>,
    /// Whom the client's certificate names, if it has shown one that was verified.
    pub certificate: Option<CertificateNames>,
}

/// The names in a client's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// The subject's common name.
    pub common_name: Option<String>,
    /// The mail addresses among its alternative names.
    pub emails: Vec<String>,
}

/// Which name in a client's certificate says who the client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateName {
    /// The subject's common name: `joe`, or `joe@example.org`.
    #[default]
    CommonName,
    /// The mail address among its alternative names. Several are none, as nobody says which one counts.
    Email,
}

impl CertificateNames {
    /// The name that counts.
    pub(crate) fn get(&self, which: CertificateName) -> Option<&str> {
        match (which, self.emails.as_slice()) {
            (CertificateName::CommonName, _) => self.common_name.as_deref(),
            (CertificateName::Email, [email]) => Some(email),
            (CertificateName::Email, _) => None,
        }
    }
}

/// Where an exchange stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send this to the client, and give its response to [`Exchange::step`].
    Challenge(Vec<u8>),
    /// The client is who it says.
    Done(Login),
    /// It is not, or it made no sense ([`AuthError::Malformed`]). Whatever delay there is has passed.
    Failed(AuthError),
}

/// An exchange under way.
pub struct Exchange {
    authenticator: Arc<Authenticator>,
    client: Client,
    mechanism: Mechanism,
    /// The login that holds once the client has answered the last message.
    proved: Option<Login>,
}

impl Exchange {
    /// The mechanism of that name for this client; `None` if it is not offered.
    pub(crate) fn new(authenticator: Arc<Authenticator>, name: &str, client: Client) -> Option<Exchange> {
        let offered = authenticator.mechanisms(&client).any(|offered| offered.eq_ignore_ascii_case(name));
        let certificate = authenticator.named_by_certificate(&client);
        let mechanism = Mechanism::new(name, &client.bindings, certificate).filter(|_| offered)?;
        Some(Exchange { authenticator, client, mechanism, proved: None })
    }

    /// Begins, with the client's initial response if it sent one (an empty one is `Some`).
    pub async fn start(&mut self, initial: Option<&[u8]>) -> Progress {
        let step = self.mechanism.start(initial);
        self.go_on(step).await
    }

    /// Takes the client's response to a challenge. Safe to cancel, after which the exchange is over.
    pub async fn step(&mut self, response: &[u8]) -> Progress {
        match self.proved.take() {
            Some(login) if response.is_empty() => Progress::Done(login),
            Some(_) => Progress::Failed(AuthError::Malformed),
            None => {
                let step = self.mechanism.step(response);
                self.go_on(step).await
            }
        }
    }

    async fn go_on(&mut self, step: Step) -> Progress {
        let Client { ip, protocol, .. } = self.client;
        match step {
            Step::Continue(challenge) => Progress::Challenge(challenge.into_owned()),
            Step::NeedKeys(authcid) => {
                let nonce = STANDARD_NO_PAD.encode(rand::random::<[u8; 18]>());
                match self.authenticator.scram_keys(&authcid).await {
                    Ok(keys) => match self.mechanism.keys(keys, &nonce) {
                        Step::Continue(challenge) => Progress::Challenge(challenge.into_owned()),
                        _ => Progress::Failed(AuthError::Malformed),
                    },
                    Err(error) => Progress::Failed(error),
                }
            }
            Step::Password(Credentials { authzid, authcid, password }) => {
                let attempt = Attempt {
                    authzid: &authzid,
                    authcid: &authcid,
                    password: password.as_bytes(),
                    ip,
                    protocol,
                };
                match self.authenticator.login(attempt).await {
                    Ok(login) => Progress::Done(login),
                    Err(error) => Progress::Failed(error),
                }
            }
            Step::Proved { authzid, authcid, last } => {
                match self.authenticator.proved(&authzid, &authcid, ip, protocol).await {
                    Err(error) => Progress::Failed(error),
                    Ok(login) => match last {
                        Some(last) => {
                            self.proved = Some(login);
                            Progress::Challenge(last)
                        }
                        None => Progress::Done(login),
                    },
                }
            }
            Step::Wrong { authcid } => {
                Progress::Failed(self.authenticator.disproved(&authcid, ip, protocol).await)
            }
            Step::Fail => Progress::Failed(AuthError::Malformed),
        }
    }
}
