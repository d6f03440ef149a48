//! A session as a value: what another node needs to go on with it, to the octet.
//!
//! It says what the client knows, not what there is: what differs between the two is told by whoever goes on, at the next
//! checkpoint. Written as JSON with a version; members that a version does not know are passed over.
//!
//! Invariants:
//! - What is written is read again as the same value; what is not a value is refused, whatever its octets are.
//! - A value holds no mail and no password: names, numbers and flags.

use bytes::Bytes;
use rookery_route::parts;
use rookery_store::Message;
use rookery_types::{AccountId, MailboxId, UidSet};
use serde::{Deserialize, Serialize};

/// Octets of the longest value that is read.
pub(crate) const OCTETS_MAX: usize = 16 << 20;
/// Of what is written here.
const VERSION: u32 = 1;
/// Messages of which a value says how the client knows them. Of more it is told the flags again.
pub(crate) const KNOWN_MAX: usize = 10_000;

/// All of a session but its user, who stands in the head, and its connection.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SessionValue {
    version: u32,
    /// As [`crate::session::Enabled::bits`] writes it.
    pub(crate) enabled: u8,
    /// Commands that were none, one after the other.
    #[serde(default)]
    pub(crate) bad_in_a_row: u32,
    /// So many of the octets that follow are of a command that was printed anew, and may be longer than a client's.
    #[serde(default)]
    pub(crate) replay_octets: u64,
    /// They are a UID EXPUNGE of the message that a REPLACE takes away, whose new one is there.
    #[serde(default)]
    pub(crate) replaces: bool,
    /// What NOTIFY asks for is not told any more, and the client has not heard of that.
    #[serde(default)]
    pub(crate) overflow: bool,
    /// Where accounts are at home, of which whoever goes on may not have heard.
    #[serde(default)]
    pub(crate) homes: Vec<HomeValue>,
    /// The tag of an IDLE under way.
    #[serde(default)]
    pub(crate) idle: Option<String>,
    /// The selected mailbox, if it is at home where the session was.
    #[serde(default)]
    pub(crate) selected: Option<SelectedValue>,
    /// The selected mailbox, if a guest has it.
    #[serde(default)]
    pub(crate) abroad: Option<AbroadValue>,
    #[serde(default)]
    pub(crate) notify: Option<NotifyValue>,
    #[serde(default)]
    pub(crate) deflate: Option<DeflateValue>,
    /// The guests that the client would miss.
    #[serde(default)]
    pub(crate) guests: Vec<GuestValue>,
}

/// The compression of a session's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum DeflateValue {
    /// Where the client's socket is, as always.
    AtEdge,
}

/// A guest of a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct GuestValue {
    pub(crate) node: u64,
    /// It tells what NOTIFY asks for.
    pub(crate) watches: bool,
    pub(crate) session: SessionValue,
}

/// Where an account is at home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HomeValue {
    pub(crate) account: u64,
    pub(crate) node: u64,
    pub(crate) epoch: u64,
}

/// Which mailbox a guest has selected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct AbroadValue {
    pub(crate) node: u64,
    /// As the client has named it.
    #[serde(with = "parts::octets")]
    pub(crate) name: Bytes,
    /// Its MAILBOXID.
    #[serde(with = "parts::maybe_octets")]
    pub(crate) mailbox_id: Option<Bytes>,
}

/// A selected mailbox, and what the client knows of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SelectedValue {
    pub(crate) account: u64,
    pub(crate) mailbox: u32,
    pub(crate) uid_validity: u32,
    /// As the client would name it now.
    #[serde(with = "parts::octets")]
    pub(crate) name: Bytes,
    pub(crate) read_only: bool,
    /// `$`.
    #[serde(with = "parts::set")]
    pub(crate) saved: UidSet,
    pub(crate) view: ViewValue,
}

/// What a client knows of a mailbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ViewValue {
    /// The messages that it knows of, the expunged ones among them of which it has not been told.
    #[serde(with = "parts::set")]
    pub(crate) uids: UidSet,
    /// Up to which modseq flags were told.
    pub(crate) modseq: u64,
    /// How many keywords of the mailbox's table.
    pub(crate) keywords: usize,
    #[serde(with = "parts::set")]
    pub(crate) recent: UidSet,
    /// Expunges are held back.
    pub(crate) held_back: bool,
    /// The messages are those that the mailbox had at `modseq`, up to here, and those of `uids`.
    #[serde(default)]
    pub(crate) as_of: Option<AsOfValue>,
    /// Those of the messages that are other by now, or gone, as the client knows them; ascending, [`KNOWN_MAX`] at most.
    #[serde(with = "parts::messages")]
    pub(crate) known: Vec<Message>,
}

/// The messages that a mailbox had once, for its home to find again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct AsOfValue {
    /// The highest UID.
    pub(crate) last: u32,
    /// How many there are, with those that are named.
    pub(crate) exists: u64,
}

/// What a client has asked NOTIFY for, and how far it was told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct NotifyValue {
    /// The NOTIFY that asked, printed; `None`: nothing is told.
    #[serde(with = "parts::maybe_octets")]
    pub(crate) asked: Option<Bytes>,
    pub(crate) watched: Vec<WatchedValue>,
    /// Subscriptions that were told and are no more, and that are and were not told.
    #[serde(default)]
    pub(crate) unsubscribed: Vec<String>,
    #[serde(default)]
    pub(crate) subscribed: Vec<String>,
}

/// An account of which changes are told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct WatchedValue {
    pub(crate) account: u64,
    /// Up to which modseq everything was told.
    pub(crate) modseq: u64,
    /// The numbers of the mailboxes that the client may know of.
    #[serde(with = "parts::set")]
    pub(crate) visible: UidSet,
}

impl NotifyValue {
    /// Of a client that is told nothing.
    pub(crate) fn nothing() -> NotifyValue {
        let (watched, unsubscribed, subscribed) = (Vec::new(), Vec::new(), Vec::new());
        NotifyValue { asked: None, watched, unsubscribed, subscribed }
    }
}

impl SelectedValue {
    /// Its MAILBOXID.
    pub(crate) fn objectid(&self) -> Option<Bytes> {
        let account = AccountId::new(self.account)?;
        Some(MailboxId { account, number: self.mailbox }.objectid().into())
    }
}

/// Octets that are no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("that is not a session's value")]
pub(crate) struct NoValue;

impl SessionValue {
    /// Of this version, without anything.
    pub(crate) fn new() -> SessionValue {
        SessionValue { version: VERSION, ..SessionValue::default() }
    }

    /// Of a guest that has a mailbox selected.
    pub(crate) fn of_selected(selected: SelectedValue) -> SessionValue {
        SessionValue { selected: Some(selected), ..SessionValue::new() }
    }

    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub(crate) fn decode(octets: &[u8]) -> Result<SessionValue, NoValue> {
        if octets.len() > OCTETS_MAX {
            return Err(NoValue);
        }
        let value: SessionValue = serde_json::from_slice(octets).map_err(|_| NoValue)?;
        let knows = |value: &SessionValue| {
            let view = value.selected.as_ref().map(|selected| &selected.view);
            value.version == VERSION && view.is_none_or(|view| view.known.len() <= KNOWN_MAX)
        };
        // Guests have none themselves.
        let guests = value.guests.iter().map(|guest| &guest.session);
        let alone = guests.clone().all(|guest| guest.guests.is_empty() && guest.abroad.is_none());
        let once = value.selected.is_none() || value.abroad.is_none();
        match knows(&value) && guests.clone().all(knows) && alone && once {
            true => Ok(value),
            false => Err(NoValue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use rookery_store::KeywordNumbers;
    use rookery_types::{ContentId, InternalDate, ModSeq, SystemFlags, Uid};

    fn sets() -> impl Strategy<Value = UidSet> {
        vec((1u32.., 0u32..9), 0..9).prop_map(|ranges| {
            let mut set = UidSet::new();
            ranges.iter().for_each(|(first, more)| set.insert_range(*first, first.saturating_add(*more)));
            set
        })
    }

    fn messages() -> impl Strategy<Value = Vec<Message>> {
        let one = (1u32.., any::<u32>(), 1u64..1 << 63, -1i64 << 30..1 << 40, -720i16..720, 0u8..32);
        let more = (vec(any::<u16>(), 0..5), any::<[u8; 16]>(), any::<u32>());
        vec((one, more), 0..9).prop_map(|rows| {
            let mut messages: Vec<Message> = rows
                .into_iter()
                .filter_map(|((uid, size, modseq, seconds, zone, flags), (keywords, content, saved))| {
                    Some(Message {
                        uid: Uid::new(uid)?,
                        size,
                        modseq: ModSeq::new(modseq)?,
                        date: InternalDate::new(seconds, zone)?,
                        saved_unix_seconds: saved,
                        flags: SystemFlags::from_bits(flags)?,
                        keywords: KeywordNumbers::new(keywords),
                        content: ContentId(content),
                    })
                })
                .collect();
            messages.sort_unstable_by_key(|message| message.uid);
            messages.dedup_by_key(|message| message.uid);
            messages
        })
    }

    fn octets() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    prop_compose! {
        fn selected()(
            (account, mailbox, uid_validity, read_only) in any::<(u64, u32, u32, bool)>(),
            (saved, uids, recent) in (sets(), sets(), sets()),
            (modseq, keywords, held_back) in any::<(u64, usize, bool)>(),
            (known, name) in (messages(), octets()),
        ) -> SelectedValue {
            let as_of = held_back.then_some(AsOfValue { last: mailbox, exists: account });
            let view = ViewValue { uids, modseq, keywords, recent, held_back, as_of, known };
            SelectedValue { account, mailbox, uid_validity, name, read_only, saved, view }
        }
    }

    prop_compose! {
        fn notify()(
            asked in option::of(octets()),
            watched in vec((any::<(u64, u64)>(), sets()), 0..4),
            (unsubscribed, subscribed) in any::<(Vec<String>, Vec<String>)>(),
        ) -> NotifyValue {
            let watched = watched.into_iter();
            let watched = watched.map(|((account, modseq), visible)| WatchedValue { account, modseq, visible });
            NotifyValue { asked, watched: watched.collect(), unsubscribed, subscribed }
        }
    }

    prop_compose! {
        fn alone()(
            (enabled, bad_in_a_row, replay_octets, replaces, idle) in any::<(u8, u32, u64, bool, Option<String>)>(),
            (selected, notify) in (option::of(selected()), option::of(notify())),
            homes in vec(any::<(u64, u64, u64)>(), 0..3),
        ) -> SessionValue {
            let homes = homes.into_iter().map(|(account, node, epoch)| HomeValue { account, node, epoch });
            let homes = homes.collect();
            SessionValue {
                enabled, bad_in_a_row, replay_octets, replaces, homes, idle, selected, notify, ..SessionValue::new()
            }
        }
    }

    prop_compose! {
        fn sessions()(
            (mut value, guests) in (alone(), vec((any::<(u64, bool)>(), alone()), 0..3)),
            abroad in option::of((any::<u64>(), octets(), option::of(octets()))),
        ) -> SessionValue {
            let guests = guests.into_iter();
            value.guests = guests.map(|((node, watches), session)| GuestValue { node, watches, session }).collect();
            if value.selected.is_none() {
                value.abroad = abroad.map(|(node, name, mailbox_id)| AbroadValue { node, name, mailbox_id });
            }
            value
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in sessions()) {
            prop_assert_eq!(SessionValue::decode(&value.encode()), Ok(value));
        }

        #[test]
        fn what_is_cut_off_or_damaged_is_refused_or_another(
            value in sessions(), at in any::<prop::sample::Index>(), octet in any::<u8>(),
        ) {
            let mut octets = value.encode().to_vec();
            prop_assert_eq!(SessionValue::decode(&octets[..at.index(octets.len())]), Err(NoValue));
            let at = at.index(octets.len());
            octets[at] = octet;
            if let Ok(value) = SessionValue::decode(&octets) {
                prop_assert_eq!(SessionValue::decode(&value.encode()), Ok(value));
            }
        }
    }

    #[test]
    fn what_is_no_session_is_refused() {
        let read = |text: &str| SessionValue::decode(text.as_bytes());
        assert!(read(r#"{"version":1,"enabled":3,"more":[1]}"#).is_ok());
        let view = |uids: &str| {
            format!(
                r#"{{"version":1,"enabled":0,"selected":{{"account":1,"mailbox":1,"uid_validity":1,"name":"","read_only":false,"saved":"","view":{{"uids":"{uids}","modseq":1,"keywords":0,"recent":"","held_back":false,"known":[]}}}}}}"#
            )
        };
        assert!(read(&view("1:5,7")).is_ok());
        for uids in ["5:1", "0", "1:5,5", "7,1", "1,,2", "x", "4294967296", "1:2:3", ","] {
            assert_eq!(read(&view(uids)), Err(NoValue), "{uids}");
        }
        let nested = r#"{"version":1,"enabled":0,"guests":[{"node":1,"watches":true,"session":
            {"version":1,"enabled":0,"guests":[{"node":1,"watches":true,"session":{"version":1,"enabled":0}}]}}]}"#;
        let deep = "[".repeat(100_000);
        for bad in ["", "{}", "1", r#"{"version":2,"enabled":3}"#, nested, &deep] {
            assert_eq!(read(bad), Err(NoValue), "{}", bad.get(..40).unwrap_or(bad));
        }
        assert_eq!(SessionValue::decode(&b" ".repeat(OCTETS_MAX + 1)), Err(NoValue));
    }
}
