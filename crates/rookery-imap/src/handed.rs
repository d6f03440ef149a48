//! Sessions on their way from one node to another: from what they are to their value, and back.
//!
//! Invariants:
//! - A session is handed over between commands, or in IDLE: nothing of a command is half done, and all that was said has
//!   left.
//! - Whoever goes on says nothing of its own: the next checkpoint tells what has changed.

use crate::answer::{Answer, Failure, blocking};
use crate::command::notify_there;
use crate::guest::{Guests, learn_homes};
use crate::names::directory_failed;
use crate::notify::Notify;
use crate::session::{Abroad, Enabled, Selected, State, User};
use crate::value::{
    AbroadValue, DeflateValue, GuestValue, HomeValue, NotifyValue, SelectedValue, SessionValue, WatchedValue,
};
use crate::view::View;
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::client::{AppendEncoder, Literals};
use rookery_codec::imap::command::{AppendLiteral, AppendMessage, AppendSource, EventGroup, Replaced};
use rookery_codec::imap::types::LiteralKind;
use rookery_codec::imap::{Code, Response, Tag, WireName};
use rookery_net::Stream;
use rookery_route::HandOver;
use rookery_store::{Spooled, StoreError, Whereabouts};
use rookery_types::{AccountId, AccountName, Address, MailboxId, NodeId, UidValidity};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

impl State {
    /// What another node needs to go on with the session. What its guests still say is passed on. `about`: an account in
    /// which something was asked for and not done.
    pub(crate) async fn value(
        &mut self,
        wire: &mut Wire,
        about: Option<AccountName>,
    ) -> Result<SessionValue, Failure> {
        let mut value = SessionValue::new();
        let (user, selected, abroad) = match self {
            State::Authenticated(user) => (user, None, None),
            State::Selected(user, selected) => (user, Some(selected), None),
            State::Abroad(user, abroad) => (user, None, Some(abroad)),
            State::NotAuthenticated | State::Away(_) | State::Logout => return Err(cannot_go_on().into()),
        };
        value.enabled = user.enabled.bits();
        value.deflate = wire.connection.is_deflated().then_some(DeflateValue::AtEdge);
        value.guests = user.guests.suspend(wire).await?;
        if let Some(selected) = selected {
            value.selected = Some(selected.value(user).await?);
        }
        value.abroad = abroad.map(|abroad| AbroadValue {
            node: abroad.node.0,
            name: abroad.name.0.clone(),
            mailbox_id: abroad.mailbox_id.clone(),
        });
        if user.guests.take_overflow() {
            user.notify = Some(Box::new(Notify::none(user)));
            let text = "More has happened than can be told; nothing more will be";
            wire.put(&Response::ok_code(Code::NotificationOverflow, text));
        }
        value.notify = user.notify.as_ref().map(|notify| notify.value(user));
        value.homes = homes(user, &value, about).await;
        Ok(value)
    }

    /// The session of a value, whose user has just come in.
    pub(crate) async fn resumed(
        mut user: Box<User>,
        mut value: SessionValue,
        wire: &Wire,
    ) -> Result<State, Failure> {
        user.enable(Enabled::from_bits(value.enabled));
        learn_homes(&user.services, &value);
        let mut parts =
            Parts { abroad: value.abroad.take(), selected: value.selected.take(), ..Parts::default() };
        for GuestValue { session, .. } in std::mem::take(&mut value.guests) {
            parts.watched.extend(session.notify.into_iter().flat_map(|notify| notify.watched));
            parts.selected = parts.selected.or(session.selected);
        }
        if parts.abroad.is_some() && parts.selected.is_none() {
            return Err(cannot_go_on().into());
        }
        if let Some(mut notify) = value.notify.take() {
            notify.watched.append(&mut parts.watched);
            parts.watched = notify.watched.clone();
            let resumed = Notify::resumed(&user, notify).await?;
            parts.groups = resumed.asked();
            user.notify = Some(Box::new(resumed));
        }
        let end = Instant::now() + READY_TIMEOUT;
        let patient = Instant::now() + AWAY_AFTER;
        let mut pause = PAUSE_FIRST;
        let selected = loop {
            let placed = parts.place(&mut user, wire, Instant::now() > patient).await;
            match placed {
                Ok(selected) => break selected,
                Err(failure) if user.is_guest || Instant::now() > end => return Err(failure),
                Err(failure @ Failure::Gone(_)) => return Err(failure),
                // It has moved on meanwhile, or its home is not ready.
                Err(Failure::Moved | Failure::Refused(_)) => {
                    user.guests = Guests::default();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        };
        Ok(match selected {
            None => State::Authenticated(user),
            Some(Placed::Here(selected)) => State::Selected(user, selected),
            Some(Placed::There(abroad)) => State::Abroad(user, abroad),
        })
    }
}

impl State {
    /// The session of a value whose home is lost.
    pub(crate) async fn bereft(mut user: Box<User>, mut value: SessionValue) -> State {
        user.enable(Enabled::from_bits(value.enabled));
        learn_homes(&user.services, &value);
        if value.notify.is_some() {
            user.notify = Some(Box::new(Notify::none(&user)));
        }
        let abroad = value.abroad.take();
        let of_guests = value.guests.into_iter();
        let selected = match value.selected.take() {
            Some(selected) => {
                let home = user.services.router.home(&AccountName::User(user.name.clone())).await;
                // Where that is not known, nothing is reached.
                Some((home.map_or(NodeId(0), |(node, _)| node), selected))
            }
            None => {
                let mut of_guests = of_guests
                    .filter_map(|guest| guest.session.selected.map(|known| (NodeId(guest.node), known)));
                of_guests.next()
            }
        };
        let Some((node, selected)) = selected else { return State::Authenticated(user) };
        let (name, mailbox_id) = match abroad {
            Some(AbroadValue { name, mailbox_id, .. }) => (name, mailbox_id),
            None => (selected.name.clone(), selected.objectid()),
        };
        user.guests.await_selected(node, selected);
        State::Abroad(user, Box::new(Abroad { node, name: WireName(name), mailbox_id }))
    }
}

/// What of a session may be at several nodes.
#[derive(Default)]
struct Parts {
    selected: Option<SelectedValue>,
    abroad: Option<AbroadValue>,
    /// What NOTIFY asks for, and how far accounts were told.
    groups: Option<Arc<[EventGroup]>>,
    watched: Vec<WatchedValue>,
}

/// A selected mailbox, where it is at home.
enum Placed {
    Here(Box<Selected>),
    There(Box<Abroad>),
}

impl Parts {
    /// Opens what is at home here, and guests for what is not.
    /// `away`: what is not reached is away, and was waited for.
    async fn place(&self, user: &mut User, wire: &Wire, away: bool) -> Result<Option<Placed>, Failure> {
        let place = match &self.selected {
            Some(selected) => home_of(user, selected).await?,
            None => None,
        };
        let mut nodes: BTreeSet<NodeId> = place.into_iter().collect();
        if let Some(groups) = self.groups.as_ref().filter(|_| !user.is_guest) {
            nodes.extend(notify_there::nodes(user, groups).await?);
            user.guests.watch(Some(groups.clone()));
        }
        let mut placed = None;
        user.guests.set_selected(place);
        for node in nodes {
            let mut there = SessionValue::new();
            there.enabled = user.enabled.bits();
            if let Some(groups) = &self.groups {
                let asked = notify_there::of_node(user, groups, node).await?;
                there.notify = Some(NotifyValue::of_guest(&asked, self.watched.clone()));
            } else if user.notify.is_some() {
                there.notify = Some(NotifyValue::of_guest(&[], Vec::new()));
            }
            let mut mailbox_id = None;
            if let Some(selected) = self.selected.as_ref().filter(|_| place == Some(node)) {
                let (name, id) = match &self.abroad {
                    Some(known) => (known.name.clone(), known.mailbox_id.clone()),
                    None => (selected.name.clone(), selected.objectid()),
                };
                mailbox_id = id.clone();
                there.selected = Some(selected.clone());
                placed = Some(Placed::There(Box::new(Abroad { node, name: WireName(name), mailbox_id: id })));
            }
            match user.guest_from(wire, node, &there, mailbox_id).await {
                Ok(guest) => user.guests.keep(guest),
                Err(Failure::Refused(_)) if away => {
                    if self.groups.is_some() {
                        user.guests.unwatch(node, self.watched.clone());
                    }
                    if let Some(selected) = there.selected {
                        user.guests.await_selected(node, selected);
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        match &self.selected {
            Some(selected) if place.is_none() => {
                let selected = Selected::resumed(user, selected.clone()).await?;
                Ok(Some(Placed::Here(Box::new(selected))))
            }
            _ => Ok(placed),
        }
    }
}

/// Where accounts are at home that a session has to do with, as far as this node knows better than others may.
async fn homes(user: &User, value: &SessionValue, about: Option<AccountName>) -> Vec<HomeValue> {
    let mut accounts: BTreeSet<u64> = value.selected.iter().map(|selected| selected.account).collect();
    accounts.extend(value.notify.iter().flat_map(|notify| &notify.watched).map(|watched| watched.account));
    let mut homes: Vec<HomeValue> =
        value.guests.iter().flat_map(|guest| guest.session.homes.iter().copied()).collect();
    for account in accounts.into_iter().filter_map(AccountId::new) {
        let standing = user.services.store.standing(account);
        if let Ok(Some((Whereabouts::Left { node, .. }, epoch))) = standing {
            homes.push(HomeValue { account: account.get(), node: node.0, epoch: epoch.0 });
        }
    }
    if let Some(name) = about {
        let router = &user.services.router;
        if let (Ok((account, _)), Ok((node, epoch))) = (router.locate(&name).await, router.home(&name).await)
        {
            homes.push(HomeValue { account: account.get(), node: node.0, epoch: epoch.0 });
        }
    }
    homes
}

/// The other node that a selected mailbox is at home at.
async fn home_of(user: &User, selected: &SelectedValue) -> Result<Option<NodeId>, Failure> {
    let id = AccountId::new(selected.account).ok_or_else(cannot_go_on)?;
    if user.is_guest || user.own.as_ref().is_some_and(|own| own.id() == id) {
        return Ok(None);
    }
    let entry = user.services.directory.by_id(id).await.map_err(directory_failed)?;
    user.home_of(&entry.name).await
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
    /// What a guest gives back, as long as it is.
    Guest(Box<Stream>, u64),
}

impl Replay {
    /// A command without messages.
    pub(crate) fn of_command(octets: Bytes) -> Replay {
        Replay { pieces: vec![Piece::Octets(octets)], home: None }
    }

    /// What a guest gives back that was asked something, so many octets.
    pub(crate) fn of_guest(guest: Stream, octets: u64) -> Replay {
        Replay { pieces: vec![Piece::Guest(Box::new(guest), octets)], home: None }
    }

    /// The beginning of an APPEND or REPLACE, of whose first message nothing has come. None: it cannot be said again.
    pub(crate) fn of_beginning(
        tag: &Tag,
        replaced: Option<Replaced>,
        mailbox: &WireName,
        first: &AppendMessage,
    ) -> Option<Replay> {
        let begun = AppendEncoder::start(tag, replaced, mailbox, first, Literals::NonSynchronising);
        let (_, pieces) = begun.ok()?;
        Some(Replay::of_command(pieces.concat().into()))
    }

    /// An APPEND or REPLACE whose messages have come. `home`: of the account that has left, if it was here. None: there are
    /// no messages.
    pub(crate) fn new(
        tag: &Tag,
        replaced: Option<Replaced>,
        mailbox: &WireName,
        messages: Vec<(AppendMessage, Spooled)>,
        home: Option<watch::Receiver<Whereabouts>>,
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
        Some(Box::new(Replay { pieces, home }))
    }

    /// How many octets it has.
    pub(crate) fn octets(&self) -> u64 {
        let octets = |piece: &Piece| match piece {
            Piece::Octets(octets) => octets.len() as u64,
            Piece::Message(message) => message.size().into(),
            Piece::Guest(_, octets) => *octets,
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
                Piece::Guest(mut guest, _) => {
                    let pipe = guest.pipe().ok_or(std::io::ErrorKind::NotConnected)?;
                    over.pass_rest(pipe).await?;
                    continue;
                }
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
/// How long the home of something may be out of reach before it counts as lost.
const AWAY_AFTER: Duration = Duration::from_secs(1);
/// How long what was not found where it should be is not looked for again; twice as long each time.
pub(crate) const PAUSE_FIRST: Duration = Duration::from_millis(5);
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(200);

/// The session cannot be carried on; the client has to begin anew.
pub(crate) fn cannot_go_on() -> Answer {
    Answer::no(Code::Unavailable, "The session cannot go on; connect again")
}

impl Selected {
    async fn value(&self, user: &User) -> Result<SelectedValue, Failure> {
        let (state, messages) = self.now();
        let id = self.mailbox.id();
        let entry = user.services.directory.by_id(id.account).await.map_err(directory_failed)?;
        let address = Address::new(entry.name.clone(), state.settings.path.clone());
        let name = address.map(|address| user.names.wire(&user.names.show(&address)).0);
        Ok(SelectedValue {
            account: id.account.get(),
            mailbox: id.number,
            uid_validity: state.settings.uid_validity.get(),
            name: name.unwrap_or_default(),
            read_only: self.read_only,
            saved: self.saved.clone(),
            view: self.view.value(&messages)?,
        })
    }

    async fn resumed(user: &User, value: SelectedValue) -> Result<Selected, Failure> {
        let SelectedValue { account, mailbox, uid_validity, read_only, saved, view, .. } = value;
        let ids = AccountId::new(account).zip(UidValidity::new(uid_validity));
        let (id, uid_validity) = ids.ok_or_else(cannot_go_on)?;
        let entry = user.services.directory.by_id(id).await.map_err(directory_failed)?;
        let account = user.account_of(&entry.name).await?.filter(|account| account.id() == id);
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
            let vanished = |modseq| opened.vanished_since(modseq);
            View::resumed(view, &state, &messages, vanished, |uids| {
                opened.account().lately_expunged(id, uids)
            })
        });
        let view = view.await??.ok_or_else(cannot_go_on)?;
        let home = account.whereabouts();
        Ok(Selected { mailbox, read_only, view, saved, home })
    }
}
