//! The message of a transaction: taken by DATA or in chunks, kept or passed on, and answered.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rookery_codec::lmtp::command::{Body, Mail};
use rookery_codec::lmtp::server::Decoded;
use rookery_codec::lmtp::{Address, Reply};
use rookery_net::{IoError, Peer};
use rookery_route::PipeHead;
use rookery_types::{InternalDate, NodeId};
use tokio::task::JoinSet;

use super::{End, Obeyed, Session, Transaction, too_large};
use crate::backing::{Backing, Place};
use crate::body::{BodyError, Incoming};
use crate::deliver::{self, Job, Letter, Outcome};
use crate::follow::Onward;
use crate::forward::{Addressee, Forward};
use crate::parcel::Parcel;

/// A message that is coming in: into this node's store, and on its way to other homes.
pub(super) struct Arriving<B: Backing> {
    incoming: Incoming<B>,
    forwards: Vec<Forward>,
    /// What is said of it.
    parcel: Parcel,
}

impl<B: Backing> Arriving<B> {
    /// Takes more of it.
    async fn push(&mut self, piece: &[u8]) {
        self.incoming.push(piece);
        if self.incoming.is_refused() {
            // Dropped before their end, they bring nothing.
            self.forwards.clear();
        }
        for forward in &mut self.forwards {
            forward.push(piece).await;
        }
    }
}

/// What became of a message for those at home elsewhere.
type Away = HashMap<(NodeId, Addressee), Outcome>;

impl<B: Backing> Session<B> {
    pub(super) async fn data(&mut self) -> Result<Obeyed, IoError> {
        // RFC 3030 §3: lines mean nothing in a binary message, so DATA cannot carry one.
        let is_binary = |t: &Transaction<B>| t.mail.body == Some(Body::BinaryMime);
        let whole =
            |t: &mut Transaction<B>| !t.recipients.is_empty() && t.incoming.is_none() && !is_binary(t);
        let Some(transaction) = self.transaction.take_if(whole) else {
            let text = match &self.transaction {
                Some(transaction) if transaction.incoming.is_some() => "The message comes by BDAT",
                Some(transaction) if is_binary(transaction) => "A binary message comes by BDAT",
                Some(_) => "No valid recipients",
                None => "Say MAIL first",
            };
            self.reply(&Reply::new(503, (5, 5, 1), text));
            return Ok(Obeyed::Done);
        };
        let mut incoming = self.begin_message(&transaction).await;
        self.reply(&Reply::plain(354, "Go ahead"));
        self.decoder.expect_data();
        match self.take_octets(&mut incoming).await? {
            true => self.deliver(transaction, incoming).await,
            false => Ok(Obeyed::End(End::ClosedInData)),
        }
    }

    /// A chunk of a message (RFC 3030 §2). Its octets come whatever is answered, and those of a chunk that is
    /// refused here are passed over by [`Session::came`].
    pub(super) async fn bdat(&mut self, last: bool) -> Result<Obeyed, IoError> {
        let Some(mut transaction) = self.transaction.take_if(|t| !t.recipients.is_empty()) else {
            let text = match &self.transaction {
                Some(_) => "No valid recipients",
                None => "Say MAIL first",
            };
            self.reply(&Reply::new(503, (5, 5, 1), text));
            return Ok(Obeyed::Done);
        };
        let mut incoming = match transaction.incoming.take() {
            Some(incoming) => incoming,
            None => self.begin_message(&transaction).await,
        };
        let before = incoming.incoming.octets();
        if !self.take_octets(&mut incoming).await? {
            return Ok(Obeyed::End(End::ClosedInData));
        }
        if last {
            return self.deliver(transaction, incoming).await;
        }
        // After a failure the transaction is over, and chunks that are on their way already are refused.
        let reply = match incoming.incoming.failure() {
            Some(error) => self.reply_for_failure(error),
            None => {
                let taken = incoming.incoming.octets() - before;
                let reply = Reply::new(250, (2, 0, 0), format!("{taken} octets taken"));
                self.transaction = Some(Transaction { incoming: Some(incoming), ..transaction });
                reply
            }
        };
        self.reply(&reply);
        Ok(Obeyed::Done)
    }

    async fn begin_message(&mut self, transaction: &Transaction<B>) -> Arriving<B> {
        self.transactions += 1;
        let Transaction { mail, author, recipients, .. } = transaction;
        let id = format!("{}.{}", self.id, self.transactions);
        let now = jiff::ZonedDateTime::now();
        let trace = self.trace(mail, &id, &now);
        let services = Arc::clone(&self.services);
        let is_binary = mail.body == Some(Body::BinaryMime);
        let is_kept = recipients.iter().any(|job| job.accounts().next().is_some());
        let octets_max = services.site.message_octets_max;
        let incoming = Incoming::new(Arc::clone(&services.backing), octets_max, is_binary, is_kept);
        let sender = mail.from.as_ref().map(Address::to_string).unwrap_or_default();
        let parcel = Parcel::new(id, date_of(&now), sender, author.as_ref(), is_binary);
        let mut arriving = Arriving { incoming, forwards: Vec::new(), parcel };
        let head = PipeHead { trace: self.id.get() };
        for (node, addressees) in homes(recipients) {
            let peers = Arc::clone(&services.peers);
            let forward = Forward::begin(peers, head.encode(), node, addressees, &arriving.parcel).await;
            arriving.forwards.push(forward);
        }
        arriving.incoming.put_on_top(trace.as_bytes());
        for forward in &mut arriving.forwards {
            forward.push(trace.as_bytes()).await;
        }
        arriving
    }

    /// Takes octets until the message of DATA, or the chunk of BDAT, has come whole. False: the client is gone.
    async fn take_octets(&mut self, incoming: &mut Arriving<B>) -> Result<bool, IoError> {
        let idle = self.services.config.idle_timeout();
        loop {
            match self.decoder.next() {
                Decoded::Data(piece) => incoming.push(&piece).await,
                Decoded::NeedMore => {
                    // The replies to what came before, which the client may wait for.
                    self.connection.flush().await?;
                    if self.connection.read_some(self.decoder.buffer(), idle).await? == 0 {
                        return Ok(false);
                    }
                }
                // Nothing but data comes until its end.
                _ => return Ok(true),
            }
        }
    }

    /// The message has come whole: one reply for each recipient.
    async fn deliver(
        &mut self,
        transaction: Transaction<B>,
        arriving: Arriving<B>,
    ) -> Result<Obeyed, IoError> {
        let Arriving { incoming, forwards, parcel } = arriving;
        self.counts.octets = self.counts.octets.saturating_add(incoming.octets());
        self.counts.messages += 1;
        metrics::counter!("rookery_lmtp_messages_total").increment(1);
        metrics::counter!("rookery_lmtp_octets_total").increment(incoming.octets());
        let Transaction { author, recipients, .. } = transaction;
        let mut ways = JoinSet::new();
        for forward in forwards {
            let backing = Arc::clone(&self.services.backing);
            ways.spawn(async move { forward.finish(&*backing).await });
        }
        let is_refused = incoming.is_refused();
        let here = match incoming.finish().await {
            Ok(Some(message)) => {
                let services = Arc::clone(&self.services);
                let once = services.once(&parcel.sender);
                let letter = Letter { message, date: parcel.date(), once, author };
                let backing = Arc::clone(&services.backing);
                let head = PipeHead { trace: self.id.get() }.encode();
                let onward = Onward { peers: Arc::clone(&services.peers), head, parcel: parcel.clone() };
                deliver::deliver(backing, &recipients, letter, services.config.parallel_max, onward).await
            }
            Ok(None) => vec![Outcome::Duplicate; recipients.len()],
            Err(error) => {
                let failed = |job: &Job| match is_refused || job.accounts().next().is_some() {
                    true => Outcome::Failed(error.clone()),
                    false => Outcome::Duplicate,
                };
                recipients.iter().map(failed).collect()
            }
        };
        let mut away = Away::new();
        while let Some(way) = ways.join_next().await {
            match way {
                Ok(outcomes) => {
                    away.extend(
                        outcomes.into_iter().map(|(node, addressee, said)| ((node, addressee), said)),
                    );
                }
                Err(error) => tracing::error!(%error, "the task of a forward failed"),
            }
        }
        let outcomes = here.into_iter().zip(&recipients).map(|(here, job)| match is_refused {
            true => here,
            false => outcome_of(here, job, &away),
        });
        let (outcomes, id): (Vec<Outcome>, _) = (outcomes.collect(), parcel.id);
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
            "Return-Path: <{path}>\r\nReceived: from {client} ({from})\r\n\tby {host} (Rookery) with {with} id {id};\r\n\t{date}\r\n",
            with = self.protocol(mail),
            path = mail.from.as_ref().map(Address::to_string).unwrap_or_default(),
            client = self.client.as_deref().unwrap_or("unknown"),
            host = self.services.site.hostname,
            date = now.strftime("%a, %d %b %Y %H:%M:%S %z"),
        )
    }

    /// How the message came, for Received (RFC 3848, RFC 6531 §4.3).
    fn protocol(&self, mail: &Mail) -> String {
        let utf8 = if mail.smtputf8 { "UTF8" } else { "" };
        let tls = if self.connection.is_tls() { "S" } else { "" };
        let authenticated = if self.authenticated { "A" } else { "" };
        format!("{utf8}LMTP{tls}{authenticated}")
    }

    fn reply_for(&self, outcome: &Outcome, id: &str) -> Reply {
        match outcome {
            Outcome::Delivered => Reply::new(250, (2, 1, 5), format!("Delivered as {id}")),
            Outcome::Duplicate => Reply::new(250, (2, 1, 5), "Delivered already"),
            Outcome::Failed(error) => self.reply_for_failure(error),
        }
    }

    fn reply_for_failure(&self, error: &BodyError) -> Reply {
        match error {
            BodyError::TooLarge => too_large(self.services.site.message_octets_max),
            BodyError::Nul => Reply::new(554, (5, 6, 0), "The message has a NUL octet"),
            BodyError::OverQuota if self.services.config.over_quota_is_permanent => {
                Reply::new(552, (5, 2, 2), "The mailbox is full")
            }
            BodyError::OverQuota => Reply::new(452, (4, 2, 2), "The mailbox is full"),
            BodyError::Moved => Reply::new(451, (4, 4, 1), "The account is moving to another server"),
            BodyError::Gone => Reply::new(451, (4, 2, 1), "The account takes no mail now"),
            BodyError::NoSpace => Reply::new(452, (4, 3, 1), "The server's disk is full"),
            BodyError::Away(_) => Reply::new(451, (4, 4, 1), "The recipient's home is not reached"),
            BodyError::GivenUp => Reply::new(451, (4, 4, 1), "The way to the recipient's home broke off"),
            BodyError::Failed(_) => Reply::new(451, (4, 3, 0), "The store failed; try again"),
        }
    }

    fn count(&mut self, outcome: &Outcome, reply: &Reply, id: &str) {
        let result = match outcome {
            Outcome::Delivered => "delivered",
            Outcome::Duplicate => "duplicate",
            Outcome::Failed(_) => "failed",
        };
        metrics::counter!("rookery_lmtp_deliveries_total", "result" => result, "code" => reply.code.to_string())
            .increment(1);
        match outcome {
            Outcome::Delivered => self.counts.delivered += 1,
            Outcome::Duplicate => self.counts.duplicates += 1,
            Outcome::Failed(error) => {
                self.counts.failed += 1;
                error.tell(id);
            }
        }
    }
}

fn date_of(now: &jiff::ZonedDateTime) -> InternalDate {
    let seconds = now.timestamp().as_second();
    let zone = i16::try_from(now.offset().seconds() / 60).unwrap_or(0);
    InternalDate::new(seconds, zone).unwrap_or(InternalDate::from_unix(seconds))
}

/// The homes of recipients, other than this node, and whom each is to deliver to.
fn homes(recipients: &[Job]) -> BTreeMap<NodeId, Vec<Addressee>> {
    let mut homes: BTreeMap<NodeId, Vec<Addressee>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for job in recipients {
        for place in &job.places {
            if let Place::At(node, user) = place
                && seen.insert((*node, user, &job.detail))
            {
                homes.entry(*node).or_default().push((user.clone(), job.detail.clone()));
            }
        }
    }
    homes
}

/// What became of one recipient, here and elsewhere.
fn outcome_of(here: Outcome, job: &Job, away: &Away) -> Outcome {
    job.places.iter().fold(here, |all, place| match place {
        Place::Here(_) => all,
        Place::At(node, user) => {
            let said = away.get(&(*node, (user.clone(), job.detail.clone()))).cloned();
            let lost = || Outcome::Failed(BodyError::Failed("the delivery was broken off".to_owned()));
            all.and(said.unwrap_or_else(lost))
        }
    })
}
