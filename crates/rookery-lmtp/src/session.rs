//! One LMTP connection: commands, transactions, replies.
//!
//! Invariants:
//! - A connection that ends inside DATA stores nothing: a message is finished only at its last line.
//! - After DATA there is exactly one reply for each accepted RCPT, in their order, and 250 only for what is
//!   durable (RFC 2033 §4.2).
//! - A drain never interrupts a transaction; it ends the connection before the next one.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rookery_codec::lmtp::command::{Body, Mail, Rcpt};
use rookery_codec::lmtp::server::{Decoded, Decoder};
use rookery_codec::lmtp::{Address, Command, Reply};
use rookery_net::{Accepted, ConnId, Connection, DrainGuard, IoError, Networks, Peer};
use rookery_route::RECIPIENTS_MAX;
use rookery_types::{AccountId, InternalDate, MailboxPath, UserName};

use crate::backing::{Backing, DeliverError, LookUpError};
use crate::config::LmtpConfig;
use crate::deliver::{self, Job, Outcome};

/// Commands in a row that are none before the connection is closed.
const BAD_COMMANDS_MAX: u32 = 50;
/// Messages of more octets are finished on a thread that may block.
const FINISH_INLINE_OCTETS: u64 = 256 * 1024;

/// What all sessions share.
pub struct Services<B> {
    config: LmtpConfig,
    trusted: Networks,
    hostname: String,
    default_domain: String,
    message_octets_max: u64,
    backing: Arc<B>,
}

impl<B: Backing> Services<B> {
    /// Puts them together. `hostname` stands in the greeting and in Received lines, `default_domain` completes
    /// bare recipients, `message_octets_max` is announced as SIZE. Err: a network in the configuration is none.
    pub fn new(
        config: LmtpConfig,
        hostname: String,
        default_domain: String,
        message_octets_max: u64,
        backing: Arc<B>,
    ) -> Result<Services<B>, rookery_net::networks::BadNetwork> {
        let trusted = Networks::parse(&config.trusted)?;
        Ok(Services { config, trusted, hostname, default_domain, message_octets_max, backing })
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
        drain,
        id,
        trusted,
        decoder: Decoder::new(),
        bad_commands: 0,
        transactions: 0,
        client: None,
        transaction: None,
        counts: Counts::default(),
    };
    let end = match session.run().await {
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
    let Session { connection, counts, drain, .. } = session;
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
    let Counts { messages, delivered, failed, rejected, octets } = counts;
    tracing::info!(
        messages, delivered, failed, rejected, octets,
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
    #[error("{0}")]
    Lost(IoError),
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    messages: u64,
    delivered: u64,
    failed: u64,
    rejected: u64,
    octets: u64,
}

struct Session<B> {
    connection: Connection,
    services: Arc<Services<B>>,
    drain: DrainGuard,
    id: ConnId,
    trusted: bool,
    decoder: Decoder,
    bad_commands: u32,
    transactions: u64,
    /// The name of LHLO.
    client: Option<Box<str>>,
    transaction: Option<Transaction>,
    counts: Counts,
}

/// From MAIL on.
struct Transaction {
    mail: Mail,
    /// Who posts, as far as rights are concerned.
    author: Option<UserName>,
    recipients: Vec<Recipient>,
}

/// An accepted RCPT.
struct Recipient {
    accounts: Vec<AccountId>,
    detail: Option<MailboxPath>,
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
    async fn run(&mut self) -> Result<End, IoError> {
        let greeting = format!("{} Rookery LMTP server ready", self.services.hostname);
        self.reply(&Reply::plain(220, greeting));
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
            // Not announced. The chunk that follows BDAT is taken from the stream and thrown away.
            Command::Bdat { .. } | Command::StartTls | Command::Auth { .. } => {
                return Ok(Obeyed::Refused(Reply::new(502, (5, 5, 1), "Command not implemented")));
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
        let size = format!("SIZE {}", self.services.message_octets_max);
        let extensions =
            vec!["PIPELINING".into(), "8BITMIME".into(), size.into(), "ENHANCEDSTATUSCODES".into()];
        self.reply(&Reply::lhlo(self.services.hostname.clone(), extensions));
    }

    fn mail(&mut self, mail: Mail) -> Reply {
        if self.client.is_none() {
            return Reply::new(503, (5, 5, 1), "Say LHLO first");
        }
        if !self.trusted {
            return Reply::new(530, (5, 7, 0), "Authentication required");
        }
        if mail.smtputf8 || mail.ret.is_some() || mail.envid.is_some() || mail.body == Some(Body::BinaryMime)
        {
            return not_announced();
        }
        if self.transaction.is_some() {
            return Reply::new(503, (5, 5, 1), "There is a transaction already");
        }
        if mail.size.is_some_and(|size| size > self.services.message_octets_max) {
            return too_large(self.services.message_octets_max);
        }
        let default_domain = &self.services.default_domain;
        let author = author_of(&mail, default_domain);
        self.transaction = Some(Transaction { mail, author, recipients: Vec::new() });
        Reply::new(250, (2, 1, 0), "Ok")
    }

    async fn rcpt(&mut self, rcpt: Rcpt) -> Reply {
        let Some(transaction) = &mut self.transaction else {
            return Reply::new(503, (5, 5, 1), "Say MAIL first");
        };
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
        let Ok(user) = UserName::parse(&whole, &self.services.default_domain) else {
            return unknown();
        };
        match self.services.backing.look_up(&user).await {
            Ok(accounts) => {
                let led_to =
                    transaction.recipients.iter().map(|recipient| recipient.accounts.len()).sum::<usize>();
                let accounts_max = self.services.config.recipients_max.max(RECIPIENTS_MAX);
                if led_to + accounts.len() > accounts_max {
                    return Reply::new(452, (4, 5, 3), "Too many recipients");
                }
                // A detail that can name no mailbox is as good as one that names none: INBOX gets the message.
                let detail = detail.and_then(|detail| MailboxPath::new(detail).ok());
                transaction.recipients.push(Recipient { accounts, detail });
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

    async fn data(&mut self) -> Result<Obeyed, IoError> {
        let Some(transaction) = self.transaction.take_if(|t| !t.recipients.is_empty()) else {
            let text = match &self.transaction {
                Some(_) => "No valid recipients",
                None => "Say MAIL first",
            };
            self.reply(&Reply::new(503, (5, 5, 1), text));
            return Ok(Obeyed::Done);
        };
        self.transactions += 1;
        let id = format!("{}.{}", self.id, self.transactions);
        let now = jiff::ZonedDateTime::now();
        self.reply(&Reply::plain(354, "Go ahead"));
        self.connection.flush().await?;
        let taken = match self.take_body(&transaction.mail, &id, &now).await? {
            Some(taken) => taken,
            None => return Ok(Obeyed::End(End::ClosedInData)),
        };
        let outcomes = match taken {
            Ok(message) => {
                let jobs = transaction
                    .recipients
                    .into_iter()
                    .map(|recipient| Job { accounts: recipient.accounts, detail: recipient.detail })
                    .collect();
                let backing = Arc::clone(&self.services.backing);
                let parallel_max = self.services.config.parallel_max;
                deliver::deliver(backing, jobs, transaction.author, message, date_of(&now), parallel_max)
                    .await
            }
            Err(error) => vec![Outcome::Failed(error); transaction.recipients.len()],
        };
        self.counts.messages += 1;
        for outcome in &outcomes {
            let reply = self.reply_for(outcome, &id);
            self.count(outcome, &reply, &id);
            self.reply(&reply);
            if self.connection.must_flush() {
                self.connection.flush().await?;
            }
        }
        Ok(Obeyed::Done)
    }

    /// Reads the message to its end, with the trace lines on top. None: the client is gone. The inner Err is
    /// for every recipient; the rest of the message was read and thrown away.
    #[allow(clippy::type_complexity)]
    async fn take_body(
        &mut self,
        mail: &Mail,
        id: &str,
        now: &jiff::ZonedDateTime,
    ) -> Result<Option<Result<B::Message, BodyError>>, IoError> {
        let backing = Arc::clone(&self.services.backing);
        let octets_max = self.services.message_octets_max;
        let mut spool = backing.spool();
        let mut failed =
            backing.push(&mut spool, self.trace(mail, id, now).as_bytes()).err().map(BodyError::from);
        self.decoder.expect_data();
        let mut octets = 0_u64;
        let mut has_nul = false;
        let idle = self.services.config.idle_timeout();
        loop {
            match self.decoder.next() {
                Decoded::Data(piece) => {
                    octets = octets.saturating_add(piece.len() as u64);
                    // No IMAP client could ever fetch it (RFC 9051 §4.3).
                    has_nul = has_nul || memchr::memchr(0, &piece).is_some();
                    if failed.is_none() {
                        failed = match octets > octets_max {
                            true => Some(BodyError::TooLarge),
                            false => backing.push(&mut spool, &piece).err().map(BodyError::from),
                        };
                    }
                }
                Decoded::NeedMore => {
                    if self.connection.read_some(self.decoder.buffer(), idle).await? == 0 {
                        return Ok(None);
                    }
                }
                // Nothing but data comes until its end.
                _ => break,
            }
        }
        self.counts.octets = self.counts.octets.saturating_add(octets);
        metrics::counter!("rookery_lmtp_messages_total").increment(1);
        metrics::counter!("rookery_lmtp_octets_total").increment(octets);
        if has_nul {
            failed = failed.or(Some(BodyError::Nul));
        }
        if let Some(failed) = failed {
            return Ok(Some(Err(failed)));
        }
        let finished = if octets <= FINISH_INLINE_OCTETS {
            backing.finish(spool)
        } else {
            tokio::task::spawn_blocking(move || backing.finish(spool))
                .await
                .unwrap_or_else(|error| Err(DeliverError::Failed(error.to_string())))
        };
        Ok(Some(finished.map_err(BodyError::from)))
    }

    /// The lines that final delivery puts on top (RFC 5321 §4.4).
    fn trace(&self, mail: &Mail, id: &str, now: &jiff::ZonedDateTime) -> String {
        let from = match self.connection.peer() {
            Peer::Ip(addr) => match addr.ip() {
                std::net::IpAddr::V4(ip) => format!("[{ip}]"),
                std::net::IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
            },
            Peer::Unix { .. } | Peer::Memory => "local".to_owned(),
        };
        format!(
            "Return-Path: <{path}>\r\nReceived: from {client} ({from})\r\n\tby {host} (Rookery) with LMTP id {id};\r\n\t{date}\r\n",
            path = mail.from.as_ref().map(Address::to_string).unwrap_or_default(),
            client = self.client.as_deref().unwrap_or("unknown"),
            host = self.services.hostname,
            date = now.strftime("%a, %d %b %Y %H:%M:%S %z"),
        )
    }

    fn reply_for(&self, outcome: &Outcome, id: &str) -> Reply {
        let error = match outcome {
            Outcome::Delivered => return Reply::new(250, (2, 1, 5), format!("Delivered as {id}")),
            Outcome::Failed(error) => error,
        };
        match error {
            BodyError::TooLarge => too_large(self.services.message_octets_max),
            BodyError::Nul => Reply::new(554, (5, 6, 0), "The message has a NUL octet"),
            BodyError::OverQuota if self.services.config.over_quota_is_permanent => {
                Reply::new(552, (5, 2, 2), "The mailbox is full")
            }
            BodyError::OverQuota => Reply::new(452, (4, 2, 2), "The mailbox is full"),
            BodyError::Gone => Reply::new(451, (4, 2, 1), "The account takes no mail now"),
            BodyError::NoSpace => Reply::new(452, (4, 3, 1), "The server's disk is full"),
            BodyError::Failed(_) => Reply::new(451, (4, 3, 0), "The store failed; try again"),
        }
    }

    fn count(&mut self, outcome: &Outcome, reply: &Reply, id: &str) {
        let result = match outcome {
            Outcome::Delivered => "delivered",
            Outcome::Failed(_) => "failed",
        };
        metrics::counter!("rookery_lmtp_deliveries_total", "result" => result, "code" => reply.code.to_string())
            .increment(1);
        match outcome {
            Outcome::Delivered => self.counts.delivered += 1,
            Outcome::Failed(error) => {
                self.counts.failed += 1;
                match error {
                    BodyError::Failed(reason) => {
                        tracing::error!(id, %reason, "a message could not be stored")
                    }
                    other => tracing::debug!(id, reason = %other, "a message was not stored"),
                }
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
                () = self.drain.draining(), if self.transaction.is_none() => return Ok(Came::Drained),
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

/// Why no recipient, or one recipient, gets the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("too large")]
    TooLarge,
    #[error("a NUL octet")]
    Nul,
    #[error("over quota")]
    OverQuota,
    #[error("the mailbox is gone")]
    Gone,
    #[error("no space")]
    NoSpace,
    #[error("{0}")]
    Failed(String),
}

impl From<DeliverError> for BodyError {
    fn from(error: DeliverError) -> BodyError {
        match error {
            DeliverError::OverQuota => BodyError::OverQuota,
            DeliverError::TooLarge => BodyError::TooLarge,
            DeliverError::Gone => BodyError::Gone,
            DeliverError::NoSpace => BodyError::NoSpace,
            DeliverError::Failed(reason) => BodyError::Failed(reason),
        }
    }
}

fn too_large(octets_max: u64) -> Reply {
    Reply::new(552, (5, 3, 4), format!("The message is larger than {octets_max} octets"))
}

fn date_of(now: &jiff::ZonedDateTime) -> InternalDate {
    let seconds = now.timestamp().as_second();
    let zone = i16::try_from(now.offset().seconds() / 60).unwrap_or(0);
    InternalDate::new(seconds, zone).unwrap_or(InternalDate::from_unix(seconds))
}
