//! Marks: where a session stands, for an edge that may lose this home.
//!
//! A mark goes before what is said last, with how long that is: whoever hears it whole stands at the mark. It costs what it
//! says: a count when nothing but that has changed; else the session's value, in the short form that the home can make a
//! view of again ([`crate::value::AsOfValue`]).
//!
//! Invariant: a mark is made between two commands, or in IDLE, and nowhere else.

use crate::answer::Failure;
use crate::guest::Guest;
use crate::session::{Abroad, Selected, State, User};
use crate::value::{AbroadValue, GuestValue, NotifyValue, SelectedValue, SessionValue};
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::Tag;
use rookery_route::{MARK_OCTETS_MAX, Mark, Marked, SessionNote};
use rookery_store::StoreError;
use rookery_types::MailboxId;

/// What tells values apart without making them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stamp {
    enabled: u8,
    idle: bool,
    notify: bool,
    /// Of a guest: how far the accounts that it watches were told, and how many of their mailboxes are known.
    watched: (u64, u64),
    mailbox: Option<MailboxId>,
    read_only: bool,
    /// The view: its modseq, how many messages, how many of them are \Recent, and `$`.
    view: (u64, u32, u64, bool, usize),
    saved: (u64, u32, u32),
    abroad: Option<u64>,
}

/// The marks of one session.
#[derive(Default)]
pub(crate) struct Marks {
    /// Octets that were read of the edge.
    pub(crate) read: u64,
    used: u64,
    stamp: Option<Box<Stamp>>,
}

impl Marks {
    /// The next mark, if there is anything to mark. `said`: so many octets are to be said behind it.
    fn next(
        &mut self,
        used: u64,
        said: usize,
        stamp: Stamp,
        value: impl FnOnce() -> Marked,
    ) -> Option<Bytes> {
        let same = self.stamp.as_deref() == Some(&stamp);
        if same && said == 0 && used == self.used {
            return None;
        }
        self.used = used;
        let value = match same {
            true => Marked::Same,
            false => {
                self.stamp = Some(Box::new(stamp));
                value()
            }
        };
        let behind = u32::try_from(said).unwrap_or(u32::MAX);
        Some(SessionNote::Mark(Mark { used, behind, value }).encode())
    }
}

/// Sends what waits, and where the session stands behind it. `idle`: the tag of an IDLE under way.
pub(crate) async fn flush(
    wire: &mut Wire,
    user: &User,
    selected: Option<&Selected>,
    abroad: Option<(&Abroad, Option<&Guest>)>,
    idle: Option<&Tag>,
) -> Result<(), Failure> {
    let Some(mut marks) = wire.marks.take() else { return Ok(wire.flush().await?) };
    let used = marks.read.saturating_sub(wire.decoder.unused() as u64);
    let said = wire.connection.unsent_octets();
    let stamp = stamp(user, selected, abroad, idle);
    let note = marks.next(used, said, stamp, || marked(user, selected, abroad, idle));
    wire.marks = Some(marks);
    match note {
        Some(note) => Ok(wire.connection.flush_with(note).await?),
        None => Ok(wire.flush().await?),
    }
}

/// The same of a session between two commands.
pub(crate) async fn flush_state(wire: &mut Wire, state: &State) -> Result<(), Failure> {
    match state {
        State::Authenticated(user) => flush(wire, user, None, None, None).await,
        State::Selected(user, selected) => flush(wire, user, Some(selected), None, None).await,
        State::Abroad(user, abroad) => {
            let guest = user.guests.of(abroad.node);
            flush(wire, user, None, Some((abroad, guest)), None).await
        }
        State::NotAuthenticated | State::Away(_) | State::Logout => Ok(wire.flush().await?),
    }
}

fn stamp(
    user: &User,
    selected: Option<&Selected>,
    abroad: Option<(&Abroad, Option<&Guest>)>,
    idle: Option<&Tag>,
) -> Stamp {
    let view = selected.map(|selected| &selected.view);
    let saved = selected.map(|selected| &selected.saved);
    Stamp {
        enabled: user.enabled.bits(),
        idle: idle.is_some(),
        notify: user.notify.is_some(),
        watched: user.notify.as_ref().filter(|_| user.is_guest).map_or((0, 0), |notify| notify.told()),
        mailbox: selected.map(|selected| selected.mailbox.id()),
        read_only: selected.is_some_and(|selected| selected.read_only),
        view: view.map_or((0, 0, 0, false, 0), |view| {
            (view.modseq(), view.exists(), view.recent().len(), view.is_held_back(), view.keywords_known())
        }),
        saved: saved
            .map_or((0, 0, 0), |saved| (saved.len(), saved.first().unwrap_or(0), saved.last().unwrap_or(0))),
        abroad: abroad.map(|(_, guest)| guest.map_or(0, Guest::marks)),
    }
}

fn marked(
    user: &User,
    selected: Option<&Selected>,
    abroad: Option<(&Abroad, Option<&Guest>)>,
    idle: Option<&Tag>,
) -> Marked {
    match value(user, selected, abroad, idle) {
        Ok(Some(value)) => {
            let value = value.encode();
            if value.len() > MARK_OCTETS_MAX { Marked::Nothing } else { Marked::Value(value) }
        }
        Ok(None) => Marked::Nothing,
        Err(error) => {
            tracing::debug!(%error, "a session is not marked");
            Marked::Nothing
        }
    }
}

fn value(
    user: &User,
    selected: Option<&Selected>,
    abroad: Option<(&Abroad, Option<&Guest>)>,
    idle: Option<&Tag>,
) -> Result<Option<SessionValue>, StoreError> {
    let mut value = SessionValue::new();
    value.enabled = user.enabled.bits();
    value.idle = idle.map(|tag| tag.as_str().to_owned());
    // What happens until the home is back is not told; but of a home where a guest watches it is.
    value.notify = user.notify.as_ref().map(|notify| match user.is_guest {
        true => NotifyValue { asked: None, ..notify.value(user) },
        false => NotifyValue::nothing(),
    });
    value.overflow = !user.is_guest && user.notify.as_ref().is_some_and(|notify| notify.asks());
    if let Some(selected) = selected {
        let (state, messages) = selected.now();
        let id = selected.mailbox.id();
        value.selected = Some(SelectedValue {
            account: id.account.get(),
            mailbox: id.number,
            uid_validity: state.settings.uid_validity.get(),
            name: Bytes::new(),
            read_only: selected.read_only,
            saved: selected.saved.clone(),
            view: selected.view.short_value(&messages)?,
        });
    }
    if let Some((abroad, guest)) = abroad {
        let known = match guest {
            Some(guest) => guest.mark(),
            None => user.guests.awaited(),
        };
        let Some(known) = known else { return Ok(None) };
        let session = SessionValue::of_selected(known);
        value.guests = vec![GuestValue { node: abroad.node.0, watches: false, session }];
        let (name, mailbox_id) = (abroad.name.0.clone(), abroad.mailbox_id.clone());
        value.abroad = Some(AbroadValue { node: abroad.node.0, name, mailbox_id });
    }
    Ok(Some(value))
}
