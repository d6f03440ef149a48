//! A session as a value: what another node needs to go on with it.
//!
//! It says what the client knows: the maildrop as it was at the login, and what DELE has marked. Written as JSON with a
//! version; members that a version does not know are passed over.
//!
//! Invariants:
//! - What is written is read again as the same value; what is not a value is refused, whatever its octets are.
//! - A value holds no mail and no password: numbers, sizes and names of contents.

use bytes::Bytes;
use rookery_route::{VALUE_OCTETS_MAX, parts};
use rookery_store::Message;
use rookery_types::UidSet;
use serde::{Deserialize, Serialize};

/// Of what is written here.
const VERSION: u32 = 1;
/// Messages that were removed since the login of which a value says what they were.
pub(crate) const GONE_MAX: usize = 50_000;

/// All of a session but its user, who stands in the head, and its connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SessionValue {
    version: u32,
    /// Commands that were none, one after the other.
    #[serde(default)]
    pub(crate) bad_in_a_row: u32,
    pub(crate) maildrop: MaildropValue,
}

/// A maildrop in the TRANSACTION state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MaildropValue {
    /// INBOX: the user's account, the mailbox's number in it, and its UIDVALIDITY.
    pub(crate) account: u64,
    pub(crate) mailbox: u32,
    pub(crate) uid_validity: u32,
    /// All messages of the maildrop, in the order of their numbers.
    #[serde(with = "parts::set")]
    pub(crate) uids: UidSet,
    /// Octets of all of them.
    pub(crate) octets: u64,
    /// Those that are marked.
    #[serde(with = "parts::set")]
    pub(crate) marked: UidSet,
    pub(crate) marked_octets: u64,
    /// Those that are no more in the mailbox, [`GONE_MAX`] at most.
    #[serde(with = "parts::messages")]
    pub(crate) gone: Vec<Message>,
}

/// Octets that are no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("that is not a session's value")]
pub(crate) struct NoValue;

impl SessionValue {
    pub(crate) fn new(bad_in_a_row: u32, maildrop: MaildropValue) -> SessionValue {
        SessionValue { version: VERSION, bad_in_a_row, maildrop }
    }

    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub(crate) fn decode(octets: &[u8]) -> Result<SessionValue, NoValue> {
        if octets.len() > VALUE_OCTETS_MAX {
            return Err(NoValue);
        }
        let value: SessionValue = serde_json::from_slice(octets).map_err(|_| NoValue)?;
        let maildrop = &value.maildrop;
        let is_of_it = maildrop.marked.difference(&maildrop.uids).is_empty()
            && maildrop.gone.iter().all(|message| maildrop.uids.contains_uid(message.uid))
            && maildrop.marked_octets <= maildrop.octets;
        match value.version == VERSION && is_of_it && maildrop.gone.len() <= GONE_MAX {
            true => Ok(value),
            false => Err(NoValue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rookery_store::KeywordNumbers;
    use rookery_types::{ContentId, InternalDate, ModSeq, SystemFlags, Uid};

    fn message(uid: u32, size: u32, content: [u8; 16]) -> Message {
        Message {
            uid: Uid::new(uid).unwrap(),
            size,
            modseq: ModSeq::FIRST,
            date: InternalDate::from_unix(1_000_000_000),
            saved_unix_seconds: 7,
            flags: SystemFlags::SEEN,
            keywords: KeywordNumbers::new(vec![3]),
            content: ContentId(content),
        }
    }

    prop_compose! {
        fn sessions()(
            (bad_in_a_row, account, mailbox, uid_validity) in any::<(u32, u64, u32, u32)>(),
            ranges in vec((1u32..u32::MAX - 9, 0u32..9), 0..9),
            (octets, marked_octets) in any::<(u64, u64)>(),
            (marks, gone) in (any::<u32>(), vec((any::<u32>(), any::<[u8; 16]>()), 0..9)),
        ) -> SessionValue {
            let mut uids = UidSet::new();
            ranges.iter().for_each(|(first, more)| uids.insert_range(*first, first + more));
            let all: Vec<u32> = uids.iter().collect();
            let marked = all.iter().filter(|uid| (*uid ^ marks) % 3 == 0).copied();
            let marked = marked.filter_map(Uid::new).collect();
            let gone = all.iter().zip(gone).map(|(uid, (size, content))| message(*uid, size, content)).collect();
            let (octets, marked_octets) = (octets.max(marked_octets), octets.min(marked_octets));
            let maildrop =
                MaildropValue { account, mailbox, uid_validity, uids, octets, marked, marked_octets, gone };
            SessionValue::new(bad_in_a_row, maildrop)
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
        let written = |version, uids: &str, marked: &str, octets: (u64, u64), gone: &str| {
            let (octets, marked_octets) = octets;
            format!(
                r#"{{"version":{version},"more":1,"maildrop":{{"account":1,"mailbox":1,"uid_validity":1,"uids":"{uids}","octets":{octets},"marked":"{marked}","marked_octets":{marked_octets},"gone":[{gone}]}}}}"#
            )
        };
        let read = |text: &str| SessionValue::decode(text.as_bytes());
        let row = r#"[5,10,1,0,0,0,0,[],"AAAAAAAAAAAAAAAAAAAAAA=="]"#;
        let good = read(&written(1, "1:5,7", "5,7", (9, 9), row)).unwrap();
        assert_eq!((good.bad_in_a_row, good.maildrop.gone[0].size), (0, 10));
        for bad in [
            written(2, "1:5,7", "5,7", (9, 9), row),
            written(1, "7,1", "", (9, 9), ""),
            written(1, "1:5", "6", (9, 9), ""),
            written(1, "1:4", "", (9, 9), row),
            written(1, "1:5", "", (9, 10), ""),
            written(1, "1:5", "", (9, 9), "[5]"),
            written(1, "1:5", "", (9, 9), &format!("{row},{row}")),
            String::new(),
            "[".repeat(100_000),
        ] {
            assert_eq!(read(&bad), Err(NoValue), "{}", bad.get(..200).unwrap_or(&bad));
        }
        assert_eq!(SessionValue::decode(&b" ".repeat(VALUE_OCTETS_MAX + 1)), Err(NoValue));
    }
}
