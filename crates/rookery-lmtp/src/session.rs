//! One LMTP connection: commands and their replies. The messages are in [`message`].
//!
//! Invariants:
//! - A connection that ends inside DATA or between chunks stores nothing: a message is finished only at its end.
//! - After DATA and the last BDAT there is exactly one reply for each accepted RCPT, in their order, and 250 only for what is
//!   durable (RFC 2033 §4.2).
//! - What was said before STARTTLS counts no more after it.
//! - A drain never interrupts a transaction; it ends the connection before the next one.

mod message;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rookery_auth::{Authenticator, CertificateNames, Client};
use rookery_codec::imap::Secret;
use rookery_codec::lmtp::command::{Mail, Rcpt};
use rookery_codec::lmtp::server::{Decoded, Decoder};
use rookery_codec::lmtp::{Address, Command, Reply};
use rookery_net::{
    Accepted, ConnId, Connection, DrainGuard, IoError, Networks, Permit, ServerTls, StartTlsError,
};
use rookery_route::{Peers, RECIPIENTS_MAX};
use rookery_types::{MailboxPath, UserName};

use crate::authenticate::{self, Authenticated};
use crate::backing::{Backing, LookUpError, Once};
use crate::config::LmtpConfig;
use crate::deliver::Job;
use message::Arriving;

/// Commands in a row that are none before the connection is closed.
const BAD_COMMANDS_MAX: u32 = 50;

/// What LMTP sessions need to know of the site.
pub struct Site {
    /// Stands in the greeting and in Received lines.
    pub hostname: String,
    /// Completes bare recipients.
    pub default_domain: String,
    /// Announced as SIZE.
    pub message_octets_max: u64,
    /// For STARTTLS; `None`: there is no certificate.
    pub tls: Option<Arc<ServerTls>>,
    /// For AUTH; `None`: there is none.
    pub authenticator: Option<Arc<Authenticator>>,
    /// Networks from which passwords are taken without TLS, besides this machine.
    pub plaintext: Networks,
    /// Who may deliver once authenticated, besides those of the configuration.
    pub admins: Vec<UserName>,
}

/// What all sessions share.
pub struct Services<B> {
    pub(crate) config: LmtpConfig,
    trusted: Networks,
    deliverers: Vec<UserName>,
    pub(crate) site: Site,
    pub(crate) backing: Arc<B>,
    pub(crate) peers: Arc<dyn Peers>,
}

impl<B: Backing> Services<B> {
    /// Puts them together. Err: a network in the configuration is none.
    pub fn new(
        config: LmtpConfig,
        site: Site,
        backing: Arc<B>,
        peers: Arc<dyn Peers>,
    ) -> Result<Services<B>, rookery_net::networks::BadNetwork> {
        let trusted = Networks::parse(&config.trusted)?;
        let deliverers = config.deliverers(&site.default_domain).chain(site.admins.iter().cloned()).collect();
        Ok(Services { config, trusted, deliverers, site, backing, peers })
    }

    /// How a message of this sender is kept from being stored twice.
    pub(crate) fn once(&self, sender: &str) -> Option<Once> {
        let window = self.config.duplicate_window();
        (!window.is_zero()).then(|| Once { sender: sender.to_owned(), window })
    }
}

/// Serves one connection to its end.
pub async fn serve_connection<B: Backing>(accepted: Accepted, services: Arc<Services<B>>) {
    let Accepted { stream, id, mut permit, drain } = accepted;
    let trusted = services.trusted.contains(stream.peer());
    if trusted {
        permit.authenticated();
    }
    let began = Instant::now();
    let mut session = Session {
        connection: Connection::new(stream),
        services,
        permit,
        drain,
        id,
        may_deliver: trusted,
        authenticated: false,
        decoder: Decoder::new(),
        bad_commands: 0,
        transactions: 0,
        client: None,
        transaction: None,
        counts: Counts::default(),
    };
    session.greet();
    let end = loop {
        match session.run().await {
            Ok(End::StartTls) => {
                if let Err(error) = Box::pin(session.start_tls()).await {
                    tracing::info!(end = %error, "lmtp connection ended");
                    return;
                }
            }
            ended => break ended,
        }
    };
    let end = match end {
        Ok(end) => end,
        Err(error) => {
            // A client that is silent or gone is told what can be told.
            if matches!(error, IoError::Idle) {
                session.reply(&Reply::new(421, (4, 4, 2), "Idle for too long"));
                let _ = session.connection.flush().await;
            }
            End::Lost(error)
        }
    };
    let Session { mut connection, counts, permit, drain, .. } = session;
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
    let Counts { messages, delivered, duplicates, failed, rejected, octets } = counts;
    tracing::info!(
        messages, delivered, duplicates, failed, rejected, octets,
        seconds = began.elapsed().as_secs(), end = %end, "lmtp connection ended"
    );
    drop((permit, drain));
}

/// How long a client may take over the end of its connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("QUIT")]
    Quit,
    #[error("the client closed the connection")]
    Closed,
    #[error("the client closed the connection inside DATA")]
    ClosedInData,
    #[error("the stream was out of step")]
    OutOfStep,
    #[error("too many bad commands")]
    BadCommands,
    #[error("the server drains")]
    Drained,
    /// Not an end: TLS is to begin.
    #[error("STARTTLS")]
    StartTls,
    #[error("{0}")]
    Lost(IoError),
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    messages: u64,
    delivered: u64,
    duplicates: u64,
    failed: u64,
    rejected: u64,
    octets: u64,
}

struct Session<B: Backing> {
    connection: Connection,
    services: Arc<Services<B>>,
    permit: Permit,
    drain: DrainGuard,
    id: ConnId,
    /// It comes from a trusted network, or has authenticated as a deliverer.
    may_deliver: bool,
    authenticated: bool,
    decoder: Decoder,
    bad_commands: u32,
    transactions: u64,
    /// The name of LHLO.
    client: Option<Box<str>>,
    transaction: Option<Transaction<B>>,
    counts: Counts,
}

/// From MAIL on.
struct Transaction<B: Backing> {
    mail: Mail,
    /// Who posts, as far as rights are concerned.
    author: Option<UserName>,
    /// Of the RCPTs that were accepted.
    recipients: Vec<Job>,
    /// The message, from the first BDAT on.
    incoming: Option<Arriving<B>>,
}

/// What came from the client between messages.
enum Came {
    Command(Command),
    /// No command: the answer.
    Bad(Reply),
    Closed,
    Drained,
    /// The stream is out of step: the answer, and the end.
    Fatal(Reply),
}

impl<B: Backing> Session<B> {
    fn greet(&mut self) {
        let greeting = format!("{} Rookery LMTP server ready", self.services.site.hostname);
        self.reply(&Reply::plain(220, greeting));
    }

    /// Obeys until the end, or until TLS is to begin.
    async fn run(&mut self) -> Result<End, IoError> {
        loop {
            match self.came().await? {
                Came::Command(command) => match self.obey(command).await? {
                    Obeyed::Done => self.bad_commands = 0,
                    Obeyed::Refused(reply) => {
                        if self.refuse(&reply).await? {
                            return Ok(End::BadCommands);
                        }
                    }
                    Obeyed::End(end) => {
                        self.connection.flush().await?;
                        return Ok(end);
                    }
                },
                Came::Bad(reply) => {
                    if self.refuse(&reply).await? {
                        return Ok(End::BadCommands);
                    }
                }
                Came::Closed => return Ok(End::Closed),
                Came::Drained => {
                    self.reply(&Reply::new(421, (4, 3, 2), "The server is shutting down"));
                    self.connection.flush().await?;
                    return Ok(End::Drained);
                }
                Came::Fatal(reply) => {
                    self.reply(&reply);
                    self.connection.flush().await?;
                    return Ok(End::OutOfStep);
                }
            }
        }
    }

    /// Answers what is no command here. True: that was one too many, and the client was told.
    async fn refuse(&mut self, reply: &Reply) -> Result<bool, IoError> {
        self.reply(reply);
        self.bad_commands += 1;
        let too_many = self.bad_commands >= BAD_COMMANDS_MAX;
        if too_many {
            self.reply(&Reply::new(421, (4, 7, 0), "Too many bad commands"));
            self.connection.flush().await?;
        }
        Ok(too_many)
    }

    async fn obey(&mut self, command: Command) -> Result<Obeyed, IoError> {
        match command {
            Command::Lhlo(name) if !is_client_name(&name) => {
                return Ok(Obeyed::Refused(Reply::new(501, (5, 5, 4), "LHLO needs a host name")));
            }
            Command::Lhlo(name) => self.lhlo(name),
            Command::Mail(mail) => {
                let reply = self.mail(mail);
                self.reply(&reply);
            }
            Command::Rcpt(rcpt) => {
                let reply = self.rcpt(rcpt).await;
                if !reply.is_positive() {
                    self.counts.rejected += 1;
                    metrics::counter!("rookery_lmtp_recipients_rejected_total", "code" => reply.code.to_string())
                        .increment(1);
                }
                self.reply(&reply);
            }
            Command::Data => return self.data().await,
            Command::Bdat { last, .. } => return self.bdat(last).await,
            Command::StartTls if self.services.site.tls.is_none() || self.connection.is_tls() => {
                return Ok(Obeyed::Refused(Reply::new(502, (5, 5, 1), "There is no TLS to begin")));
            }
            Command::StartTls => {
                self.reply(&Reply::new(220, (2, 0, 0), "Begin TLS"));
                return Ok(Obeyed::End(End::StartTls));
            }
            Command::Auth { mechanism, initial } => return Box::pin(self.auth(&mechanism, initial)).await,
            Command::Rset => {
                self.transaction = None;
                self.reply(&Reply::new(250, (2, 0, 0), "Ok"));
            }
            Command::Noop => self.reply(&Reply::new(250, (2, 0, 0), "Ok")),
            Command::Vrfy(_) => self.reply(&Reply::new(252, (2, 3, 3), "Try RCPT")),
            Command::Quit => {
                self.reply(&Reply::new(221, (2, 0, 0), "Bye"));
                return Ok(Obeyed::End(End::Quit));
            }
            Command::Unknown { name } if &*name == "HELP" => {
                self.reply(&Reply::new(214, (2, 0, 0), "See RFC 2033"));
            }
            // RFC 2033 §4.1: an LMTP server must not take them.
            Command::Helo | Command::Ehlo => {
                return Ok(Obeyed::Refused(Reply::new(500, (5, 5, 1), "This is LMTP: say LHLO")));
            }
            Command::Unknown { .. } => {
                return Ok(Obeyed::Refused(Reply::new(500, (5, 5, 2), "Unknown command")));
            }
        }
        Ok(Obeyed::Done)
    }

    fn lhlo(&mut self, name: Box<str>) {
        self.transaction = None;
        self.client = Some(name);
        let size = format!("SIZE {}", self.services.site.message_octets_max);
        let mut extensions: Vec<Cow<'static, str>> = vec![
            "PIPELINING".into(),
            "8BITMIME".into(),
            "SMTPUTF8".into(),
            size.into(),
            "ENHANCEDSTATUSCODES".into(),
            "CHUNKING".into(),
            "BINARYMIME".into(),
        ];
        if self.services.site.tls.is_some() && !self.connection.is_tls() {
            extensions.push("STARTTLS".into());
        }
        if let Some(authenticator) = &self.services.site.authenticator
            && !self.authenticated
        {
            let mechanisms: Vec<&str> = authenticator.mechanisms(&self.client_of_auth()).collect();
            if !mechanisms.is_empty() {
                extensions.push(format!("AUTH {}", mechanisms.join(" ")).into());
            }
        }
        self.reply(&Reply::lhlo(self.services.site.hostname.clone(), extensions));
    }

    /// What the authenticator is to know of the client.
    fn client_of_auth(&self) -> Client {
        Client {
            ip: self.connection.peer().ip(),
            protocol: "lmtp",
            private: self.connection.is_private(&self.services.site.plaintext),
            bindings: self.connection.stream().channel_bindings(),
            certificate: self
                .connection
                .stream()
                .client_names()
                .map(|names| CertificateNames { common_name: names.common_name, emails: names.emails }),
        }
    }

    async fn auth(&mut self, mechanism: &str, initial: Option<Secret>) -> Result<Obeyed, IoError> {
        let services = Arc::clone(&self.services);
        let Some(authenticator) = &services.site.authenticator else {
            return Ok(Obeyed::Refused(Reply::new(502, (5, 5, 1), "There is no AUTH")));
        };
        if self.client.is_none() || self.transaction.is_some() || self.authenticated {
            return Ok(Obeyed::Refused(Reply::new(503, (5, 5, 1), "AUTH comes once, between LHLO and MAIL")));
        }
        let client = self.client_of_auth();
        let idle = services.config.idle_timeout();
        let (connection, decoder) = (&mut self.connection, &mut self.decoder);
        let outcome =
            authenticate::authenticate(connection, decoder, authenticator, client, mechanism, initial, idle);
        Ok(match outcome.await? {
            Authenticated::Login(login) if !services.deliverers.contains(&login.user) => {
                tracing::info!(id = %self.id, user = %login.user, "a user who may not deliver tried to");
                Obeyed::Refused(Reply::new(535, (5, 7, 8), "This user may not deliver mail"))
            }
            Authenticated::Login(_) => {
                self.permit.authenticated();
                self.may_deliver = true;
                self.authenticated = true;
                self.reply(&Reply::new(235, (2, 7, 0), "Authenticated"));
                Obeyed::Done
            }
            Authenticated::Refused(reply) => Obeyed::Refused(reply),
            Authenticated::Fatal(reply) => {
                self.reply(&reply);
                Obeyed::End(End::OutOfStep)
            }
            Authenticated::Closed => Obeyed::End(End::Closed),
        })
    }

    /// Nothing said before it counts any more (RFC 3207 §4.2).
    async fn start_tls(&mut self) -> Result<(), StartTlsError> {
        let tls = self.services.site.tls.as_ref().ok_or(StartTlsError::NoCertificate)?;
        let acceptor = tls.acceptor();
        let input = self.decoder.take_input();
        self.connection.start_tls(&acceptor, input).await.inspect_err(|error| {
            if matches!(error, StartTlsError::PlaintextBehind { .. }) {
                tracing::warn!(%error, "commands were sent in the clear behind STARTTLS");
            }
        })?;
        self.may_deliver = self.services.trusted.contains(self.connection.peer());
        self.authenticated = false;
        self.decoder = Decoder::new();
        (self.client, self.transaction) = (None, None);
        Ok(())
    }

    fn mail(&mut self, mail: Mail) -> Reply {
        if self.client.is_none() {
            return Reply::new(503, (5, 5, 1), "Say LHLO first");
        }
        if !self.may_deliver {
            return Reply::new(530, (5, 7, 0), "Authentication required");
        }
        if mail.ret.is_some() || mail.envid.is_some() {
            return not_announced();
        }
        if self.transaction.is_some() {
            return Reply::new(503, (5, 5, 1), "There is a transaction already");
        }
        if mail.size.is_some_and(|size| size > self.services.site.message_octets_max) {
            return too_large(self.services.site.message_octets_max);
        }
        let default_domain = &self.services.site.default_domain;
        let author = author_of(&mail, default_domain);
        self.transaction = Some(Transaction { mail, author, recipients: Vec::new(), incoming: None });
        Reply::new(250, (2, 1, 0), "Ok")
    }

    async fn rcpt(&mut self, rcpt: Rcpt) -> Reply {
        let Some(transaction) = &mut self.transaction else {
            return Reply::new(503, (5, 5, 1), "Say MAIL first");
        };
        if transaction.incoming.is_some() {
            return Reply::new(503, (5, 5, 1), "The message has begun");
        }
        if rcpt.notify.is_some() || rcpt.orcpt.is_some() || rcpt.ignore_quota {
            return not_announced();
        }
        if transaction.recipients.len() >= self.services.config.recipients_max {
            return Reply::new(452, (4, 5, 3), "Too many recipients");
        }
        let address: Address = rcpt.to;
        let unknown = || Reply::new(550, (5, 1, 1), format!("<{address}>: no such user"));
        let (local, detail) = address.user_and_detail();
        let whole = match address.domain() {
            Some(domain) => Cow::Owned(format!("{local}@{domain}")),
            None => Cow::Borrowed(local),
        };
        if address.domain().is_none() && local.contains('@') {
            return unknown();
        }
        let Ok(user) = UserName::parse(&whole, &self.services.site.default_domain) else {
            return unknown();
        };
        match self.services.backing.look_up(&user).await {
            Ok(places) => {
                let led_to =
                    transaction.recipients.iter().map(|recipient| recipient.places.len()).sum::<usize>();
                let accounts_max = self.services.config.recipients_max.max(RECIPIENTS_MAX);
                if led_to + places.len() > accounts_max {
                    return Reply::new(452, (4, 5, 3), "Too many recipients");
                }
                // A detail that can name no mailbox is as good as one that names none: INBOX gets the message.
                let detail = detail.and_then(|detail| MailboxPath::new(detail).ok());
                transaction.recipients.push(Job { places, detail, operation: None });
                Reply::new(250, (2, 1, 5), "Ok")
            }
            Err(LookUpError::NotFound) => unknown(),
            Err(LookUpError::Closed) => Reply::new(451, (4, 2, 1), "The account takes no mail now"),
            Err(LookUpError::Unavailable(reason)) => {
                tracing::warn!(id = %self.id, %user, reason, "a recipient could not be looked up");
                Reply::new(451, (4, 3, 0), "The directory is unavailable")
            }
        }
    }

    fn reply(&mut self, reply: &Reply) {
        reply.print(self.connection.out());
    }

    /// What comes next, after everything said so far was sent, if nothing more waits to be obeyed (RFC 2920 §3.2:
    /// replies to a pipelined group go out together).
    async fn came(&mut self) -> Result<Came, IoError> {
        let idle = self.services.config.idle_timeout();
        loop {
            let came = match self.decoder.next() {
                Decoded::NeedMore => None,
                Decoded::Command(command) => Some(Came::Command(command)),
                Decoded::Bad(reply) => Some(Came::Bad(reply)),
                Decoded::Fatal(reply) => Some(Came::Fatal(reply)),
                // The chunk of a BDAT that was refused.
                Decoded::Data(_) | Decoded::DataEnd | Decoded::Line(_) => continue,
            };
            if let Some(came) = came {
                if self.connection.must_flush() {
                    self.connection.flush().await?;
                }
                // A drain waits for a transaction, not for the next one that a client has sent already.
                let drained = self.transaction.is_none() && self.drain.is_draining();
                return Ok(if drained { Came::Drained } else { came });
            }
            self.connection.flush().await?;
            let read = tokio::select! {
                biased;
                read = self.connection.read_some(self.decoder.buffer(), idle) => read?,
                () = self.drain.easing(), if self.transaction.is_none() => return Ok(Came::Drained),
            };
            if read == 0 {
                return Ok(Came::Closed);
            }
        }
    }
}

/// What a command came to.
enum Obeyed {
    /// It was answered.
    Done,
    /// It is none that is done here: the answer.
    Refused(Reply),
    /// The session is over.
    End(End),
}

/// A name or address literal. MTAs are configured with all kinds of names, but no more than these characters
/// may stand in a Received line.
fn is_client_name(name: &str) -> bool {
    name.len() <= 255 && name.chars().all(|c| c.is_alphanumeric() || "-._:[]".contains(c))
}

/// A parameter of an extension that LHLO did not tell of (RFC 5321 §4.1.1.11).
fn not_announced() -> Reply {
    Reply::new(555, (5, 5, 4), "Unknown parameter")
}

/// Who submitted the message by `AUTH=` (RFC 4954 §5). A name that can be no user's has the rights of nobody.
fn author_of(mail: &Mail, default_domain: &str) -> Option<UserName> {
    let name = std::str::from_utf8(mail.auth.as_deref()?).ok()?;
    UserName::parse(name, default_domain).ok()
}

fn too_large(octets_max: u64) -> Reply {
    Reply::new(552, (5, 3, 4), format!("The message is larger than {octets_max} octets"))
}
