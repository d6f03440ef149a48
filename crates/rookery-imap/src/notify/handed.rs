//! What a client wants to hear of, carried to another node.

use super::{Notify, subscriptions};
use crate::answer::Failure;
use crate::guest::{own_tag, printed};
use crate::session::User;
use crate::value::{NotifyValue, WatchedValue};
use bytes::Bytes;
use rookery_codec::imap::Command;
use rookery_codec::imap::command::{self, EventGroup};
use rookery_codec::imap::server::{Decoded, Decoder, Limits};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Notify {
    /// What another node has to know of it.
    pub(crate) fn value(&self, user: &User) -> NotifyValue {
        let watched = self.watched.iter().map(|watched| WatchedValue {
            account: watched.account.id().get(),
            modseq: watched.modseq,
            visible: watched.visible.clone(),
        });
        let (now, told) = (subscriptions(user), &self.told_subscriptions);
        let other = !Arc::ptr_eq(&now, told);
        let unsubscribed = told.keys().filter(|name| other && !now.contains_key(*name)).cloned();
        let subscribed = now.keys().filter(|name| other && !told.contains_key(*name)).cloned();
        NotifyValue {
            asked: self.asked.as_ref().and_then(|groups| written(groups)),
            watched: watched.collect(),
            unsubscribed: unsubscribed.collect(),
            subscribed: subscribed.collect(),
        }
    }

    /// The same again, at the node where the user has just come in.
    pub(crate) async fn resumed(user: &User, value: NotifyValue) -> Result<Notify, Failure> {
        let mut notify = match value.asked.as_deref().and_then(read) {
            Some(groups) => Notify::new(user, groups).await?,
            None => Notify::none(user),
        };
        for watched in &mut notify.watched {
            let id = watched.account.id().get();
            let Some(known) = value.watched.iter().find(|known| known.account == id) else { continue };
            if known.modseq != watched.modseq {
                watched.changed.mark_changed();
            }
            watched.modseq = known.modseq;
            watched.visible = known.visible.clone();
        }
        if !value.subscribed.is_empty() || !value.unsubscribed.is_empty() {
            let mut told = BTreeMap::clone(&notify.subscriptions);
            told.retain(|name, _| !value.subscribed.contains(name));
            told.extend(value.unsubscribed.into_iter().map(|name| (name, None)));
            notify.told_subscriptions = told.into();
        }
        Ok(notify)
    }
}

impl Notify {
    /// A number that is another when other accounts are watched or more of them was told, and one for their mailboxes.
    pub(crate) fn told(&self) -> (u64, u64) {
        self.watched.iter().fold((0, 0), |(modseqs, visible), watched| {
            (modseqs.wrapping_add(watched.modseq), visible.wrapping_add(watched.visible.len()))
        })
    }

    /// Whether the client has asked for something.
    pub(crate) fn asks(&self) -> bool {
        self.asked.is_some()
    }

    /// What the client has asked for.
    pub(crate) fn asked(&self) -> Option<Arc<[EventGroup]>> {
        self.asked.clone()
    }
}

impl NotifyValue {
    /// Of a guest that is to tell of some groups, and has told of accounts before.
    pub(crate) fn of_guest(groups: &[EventGroup], watched: Vec<WatchedValue>) -> NotifyValue {
        let asked = written(groups).filter(|_| !groups.is_empty());
        NotifyValue { asked, watched, unsubscribed: Vec::new(), subscribed: Vec::new() }
    }
}

/// Groups as a command.
fn written(groups: &[EventGroup]) -> Option<Bytes> {
    let asked = command::Notify::Set { status: false, groups: groups.to_vec() };
    printed(&own_tag()?, Command::Notify(asked)).ok()
}

fn read(octets: &[u8]) -> Option<Vec<EventGroup>> {
    let limits = Limits { command_octets: octets.len().saturating_add(1), ..Limits::LOGGED_IN };
    let mut decoder = Decoder::new(limits);
    decoder.push(octets);
    match decoder.next() {
        Decoded::Command(command::Tagged {
            command: Command::Notify(command::Notify::Set { groups, .. }),
            ..
        }) => Some(groups),
        _ => None,
    }
}
