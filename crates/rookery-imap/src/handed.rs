//! Sessions on their way from one node to another: from what they are to their value, and back.
//!
//! Invariants:
//! - A session is handed over between commands, or in IDLE: nothing of a command is half done, and all that was said has
//!   left.
//! - Whoever goes on says nothing of its own: the next checkpoint tells what has changed.

use crate::answer::{Answer, Failure, blocking};
use crate::names::directory_failed;
use crate::notify::Notify;
use crate::session::{Enabled, Selected, State, User};
use crate::value::{SelectedValue, SessionValue};
use crate::view::View;
use bytes::Bytes;
use rookery_codec::imap::client::{AppendEncoder, Literals};
use rookery_codec::imap::command::{AppendLiteral, AppendMessage, AppendSource, Replaced};
use rookery_codec::imap::types::LiteralKind;
use rookery_codec::imap::{Code, Tag, WireName};
use rookery_route::HandOver;
use rookery_store::{Spooled, StoreError, Whereabouts};
use rookery_types::{AccountId, MailboxId, UidValidity};
use std::time::Duration;
use tokio::sync::watch;

impl State {
    /// What another node needs to go on with the session.
    pub(crate) async fn value(&self) -> Result<SessionValue, Failure> {
        let mut value = SessionValue::new();
        let (user, selected) = match self {
            State::Authenticated(user) => (user, None),
            State::Selected(user, selected) => (user, Some(selected)),
            State::Abroad(..) | State::NotAuthenticated | State::Away(_) | State::Logout => {
                return Err(cannot_go_on().into());
            }
        };
        value.enabled = user.enabled.bits();
        if let Some(selected) = selected {
            value.selected = Some(selected.value().await?);
        }
        value.notify = user.notify.as_ref().map(|notify| notify.value(user));
        Ok(value)
    }

    /// The session of a value, whose user has just come in.
    pub(crate) async fn resumed(mut user: Box<User>, value: SessionValue) -> Result<State, Failure> {
        user.enable(Enabled::from_bits(value.enabled));
        if let Some(notify) = value.notify {
            user.notify = Some(Box::new(Notify::resumed(&user, notify).await?));
        }
        match value.selected {
            None => Ok(State::Authenticated(user)),
            Some(selected) => {
                let selected = Selected::resumed(&user, selected).await?;
                Ok(State::Selected(user, Box::new(selected)))
            }
        }
    }
}

/// Octets of a message that are read at once.
const PIECE_OCTETS: usize = 64 << 10;

/// A command that was not done here, for the new home of its account to read before all that the client sends.
#[derive(Default)]
pub(crate) struct Replay {
    pieces: Vec<Piece>,
    /// Of the account that has left.
    home: Option<watch::Receiver<Whereabouts>>,
}

enum Piece {
    Octets(Bytes),
    Message(Spooled),
}

impl Replay {
    /// A command without messages.
    pub(crate) fn of_command(octets: Bytes) -> Replay {
        Replay { pieces: vec![Piece::Octets(octets)], home: None }
    }

    /// An APPEND or REPLACE whose messages have come. None: there are none.
    pub(crate) fn new(
        tag: &Tag,
        replaced: Option<Replaced>,
        mailbox: &WireName,
        messages: Vec<(AppendMessage, Spooled)>,
        home: watch::Receiver<Whereabouts>,
    ) -> Option<Box<Replay>> {
        let announced = messages.iter().map(|(message, body)| {
            let utf8 = matches!(message.source, AppendSource::Literal(AppendLiteral { utf8: true, .. }));
            let kind = LiteralKind { synchronising: false, binary: utf8 };
            let source = AppendSource::Literal(AppendLiteral { octets: body.size().into(), kind, utf8 });
            AppendMessage { source, ..message.clone() }
        });
        let announced: Vec<AppendMessage> = announced.collect();
        let mut pieces = Vec::new();
        let mut encoder: Option<AppendEncoder> = None;
        for (message, (_, body)) in announced.iter().zip(messages) {
            let head = match &mut encoder {
                None => {
                    let start =
                        AppendEncoder::start(tag, replaced, mailbox, message, Literals::NonSynchronising);
                    let (started, head) = start.ok()?;
                    encoder = Some(started);
                    head
                }
                Some(encoder) => encoder.next(message).ok()?,
            };
            pieces.extend(head.into_iter().map(Piece::Octets));
            pieces.push(Piece::Message(body));
        }
        pieces.push(Piece::Octets(Bytes::from_static(encoder?.end())));
        Some(Box::new(Replay { pieces, home: Some(home) }))
    }

    /// How many octets it has.
    pub(crate) fn octets(&self) -> u64 {
        let octets = |piece: &Piece| match piece {
            Piece::Octets(octets) => octets.len() as u64,
            Piece::Message(message) => message.size().into(),
        };
        self.pieces.iter().map(octets).sum()
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Waits until the new home of its account serves it, but not for ever.
    pub(crate) async fn ready(&mut self) {
        let Some(home) = &mut self.home else { return };
        let left = home.wait_for(|whereabouts| *whereabouts != Whereabouts::Here);
        let _ = tokio::time::timeout(READY_TIMEOUT, left).await;
    }

    /// Gives it to the new home.
    pub(crate) async fn pass(self, over: &mut HandOver<'_>) -> std::io::Result<()> {
        for piece in self.pieces {
            let message = match piece {
                Piece::Octets(octets) => {
                    over.pass(octets).await?;
                    continue;
                }
                Piece::Message(message) => message,
            };
            let mut from = 0;
            while from < u64::from(message.size()) {
                let reading = message.clone();
                let octets = tokio::task::spawn_blocking(move || reading.read(from, PIECE_OCTETS)).await?;
                let octets = octets.map_err(std::io::Error::other)?;
                if octets.is_empty() {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                from += octets.len() as u64;
                over.pass(octets).await?;
            }
        }
        Ok(())
    }
}

/// How long a command waits for its account to be served at its new home.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// The session cannot be carried on; the client has to begin anew.
pub(crate) fn cannot_go_on() -> Answer {
    Answer::no(Code::Unavailable, "The session cannot go on; connect again")
}

impl Selected {
    async fn value(&self) -> Result<SelectedValue, Failure> {
        let (state, messages) = self.now();
        let id = self.mailbox.id();
        Ok(SelectedValue {
            account: id.account.get(),
            mailbox: id.number,
            uid_validity: state.settings.uid_validity.get(),
            read_only: self.read_only,
            saved: self.saved.clone(),
            view: self.view.value(&messages)?,
        })
    }

    async fn resumed(user: &User, value: SelectedValue) -> Result<Selected, Failure> {
        let SelectedValue { account, mailbox, uid_validity, read_only, saved, view } = value;
        let ids = AccountId::new(account).zip(UidValidity::new(uid_validity));
        let (id, uid_validity) = ids.ok_or_else(cannot_go_on)?;
        let entry = user.services.directory.by_id(id).await.map_err(directory_failed)?;
        let account = user.account_here(&entry.name).await?.filter(|account| account.id() == id);
        let account = account.ok_or_else(cannot_go_on)?;
        let id = MailboxId { account: id, number: mailbox };
        let mailbox = match account.open(id).await {
            Ok(mailbox) if mailbox.now().settings.uid_validity == uid_validity => mailbox,
            // Deleted under the session, which goes on to see it empty.
            Ok(_) | Err(StoreError::NoMailbox) => account.open_deleted(id, uid_validity),
            Err(error) => return Err(error.into()),
        };
        let opened = mailbox.clone();
        let view = blocking(move || {
            let state = opened.now();
            let messages = state.messages.clone().unwrap_or_default();
            View::resumed(view, &state, &messages, |uids| opened.account().lately_expunged(id, uids))
        });
        let view = view.await??.ok_or_else(cannot_go_on)?;
        Ok(Selected { mailbox, read_only, view, saved })
    }
}
