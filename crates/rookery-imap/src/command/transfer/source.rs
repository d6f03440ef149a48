//! Where the messages of a COPY between two homes come from: this store, or a guest of its own at the other home.
//!
//! Invariants:
//! - Messages come one behind the other, each in pieces; none is whole in memory here.
//! - The guest has opened the very mailbox that the client has selected, by its id, and only reads it.

use super::{Broken, read};
use crate::answer::{Answer, Failure, blocking};
use crate::guest::{Guest, Trouble, own_tag, printed};
use crate::session::{Abroad, Enabled, User};
use crate::wire::Wire;
use bytes::{Bytes, BytesMut};
use rookery_codec::imap::command::{Fetch, FetchItem, SelectParameters};
use rookery_codec::imap::passage::Passed;
use rookery_codec::imap::response::FetchData;
use rookery_codec::imap::{Code, Command, Condition, FlagList, MessageSet, Response, Section, Tag};
use rookery_store::{Account, BodyReader, Message};
use rookery_types::{Flag, InternalDate, Keyword, SequenceSet, SetEnd, SystemFlags, Uid, UidSet};
use std::sync::Arc;

/// Octets that are read at once.
const PIECE_OCTETS: u64 = 256 << 10;
/// Octets of a FETCH response outside of its literal.
const RESPONSE_OCTETS_MAX: usize = 1 << 20;

/// A message on its way, but for its octets.
pub(super) struct Carried {
    pub(super) uid: Uid,
    pub(super) octets: u64,
    pub(super) flags: Vec<Flag>,
    pub(super) date: InternalDate,
}

/// Where the messages come from.
pub(super) enum Source {
    Here(Box<Here>),
    There(Box<There>),
}

impl Source {
    /// How many messages it has in all, about.
    pub(super) fn whole(&self) -> usize {
        match self {
            Source::Here(here) => here.whole,
            Source::There(there) => there.whole,
        }
    }

    /// The next message. What is left of the one before is passed over.
    pub(super) async fn next(&mut self) -> Result<Option<Carried>, Broken> {
        match self {
            Source::Here(here) => here.next().await,
            Source::There(there) => there.next().await,
        }
    }

    /// The next octets of the message; none: that were all.
    pub(super) async fn octets(&mut self) -> Result<Option<Bytes>, Broken> {
        match self {
            Source::Here(here) => here.octets().await,
            Source::There(there) => there.octets().await,
        }
    }
}

/// Messages of this store.
pub(super) struct Here {
    whole: usize,
    account: Account,
    keywords: Arc<Vec<Keyword>>,
    messages: std::vec::IntoIter<Message>,
    /// The message under way, and how much of it was read.
    body: Option<(BodyReader, u64)>,
}

impl Here {
    /// These messages of an account, in a mailbox with these keywords.
    pub(super) fn new(account: Account, keywords: Arc<Vec<Keyword>>, messages: Vec<Message>) -> Here {
        Here { whole: messages.len(), account, keywords, messages: messages.into_iter(), body: None }
    }

    async fn next(&mut self) -> Result<Option<Carried>, Broken> {
        let Some(message) = self.messages.next() else { return Ok(None) };
        let (account, content) = (self.account.clone(), message.content);
        let reader = blocking(move || account.reader(content)).await??;
        let keywords = message.keywords.as_slice().iter();
        let keywords = keywords.filter_map(|n| self.keywords.get(usize::from(*n)).cloned());
        let mut flags = flags_of(message.flags);
        flags.extend(keywords.map(Flag::Keyword));
        let octets = reader.size();
        self.body = Some((reader, 0));
        Ok(Some(Carried { uid: message.uid, octets, flags, date: message.date }))
    }

    async fn octets(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some((reader, from)) = self.body.take() else { return Ok(None) };
        let left = reader.size().saturating_sub(from);
        if left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(left.min(PIECE_OCTETS)).unwrap_or(0);
        let (piece, reader) = blocking(move || (reader.read(from, wanted), reader)).await?;
        let piece = piece?;
        if piece.len() != wanted {
            tracing::error!("a message is shorter than its record says");
            return Err(Answer::server_fault().into());
        }
        self.body = Some((reader, from + piece.len() as u64));
        Ok(Some(piece))
    }
}

fn flags_of(system: SystemFlags) -> Vec<Flag> {
    let each = SystemFlags::ALL.iter().filter(|(flag, _)| system.contains(*flag));
    each.map(|(flag, _)| Flag::System(*flag)).collect()
}

/// Messages of a mailbox of another home.
pub(super) struct There {
    whole: usize,
    guest: Guest,
    tag: Tag,
}

impl There {
    /// Opens the selected mailbox once more, and asks for messages.
    pub(super) async fn open(
        wire: &Wire,
        user: &User,
        abroad: &Abroad,
        uids: UidSet,
    ) -> Result<There, Broken> {
        let Some(tag) = own_tag() else { return Err(Answer::server_fault().into()) };
        let whole = uids
            .ranges()
            .fold(0, |all: u32, (a, b)| all.saturating_add(b.saturating_sub(a)).saturating_add(1));
        let whole = usize::try_from(whole).unwrap_or(usize::MAX);
        let mut there = There { whole, guest: user.new_guest(wire, abroad.node).await?, tag };
        // Names are written as the session writes them; what messages look like is as it is without extensions.
        let enabled = Enabled { rev2: user.enabled.rev2, utf8: user.enabled.utf8, ..Enabled::default() };
        let (mailbox, parameters) = (abroad.name.clone(), SelectParameters::default());
        let examine = Command::Select { mailbox, read_only: true, parameters };
        there.guest.ask(enabled, printed(&there.tag, examine)?);
        let mut id = None;
        loop {
            match there.heard().await? {
                Passed::Status { status, .. } if status.tag.is_some() => {
                    if status.condition == Condition::Ok && id == abroad.mailbox_id {
                        break;
                    }
                    let text = "The mailbox is not what it was when it was selected; select it again";
                    return Err(Answer::no(Code::Unavailable, text).into());
                }
                Passed::Status { status, .. } => {
                    if let Some(Code::MailboxId(told)) = status.code {
                        id = Some(told);
                    }
                }
                _ => {}
            }
        }
        let number = |(first, last)| (SetEnd::Number(first), SetEnd::Number(last));
        let set = SequenceSet::new(uids.ranges().map(number).collect());
        let set = MessageSet::Set(set.ok_or_else(Answer::server_fault)?);
        let items = vec![
            FetchItem::Uid,
            FetchItem::Flags,
            FetchItem::InternalDate,
            FetchItem::Section { peek: true, section: Section::default(), partial: None },
        ];
        let fetch = Fetch { uid: true, set, items, changed_since: None, vanished: false, partial: None };
        there.guest.ask(enabled, printed(&there.tag, Command::Fetch(fetch))?);
        Ok(there)
    }

    async fn heard(&mut self) -> Result<Passed, Broken> {
        self.guest.next().await.map_err(|trouble| match trouble {
            // The command is done again, wherever the mailbox is.
            Trouble::Moved => Broken::Refused(Failure::Moved),
            Trouble::Client(_) | Trouble::Guest => Broken::Reader,
        })
    }

    async fn next(&mut self) -> Result<Option<Carried>, Broken> {
        let mut text = BytesMut::new();
        loop {
            match self.heard().await? {
                Passed::Text { octets, last } => {
                    text.extend_from_slice(&octets);
                    if let Some(octets) = self.guest.literal_left() {
                        return match carried(&text, octets) {
                            Some(message) => Ok(Some(message)),
                            None => Err(self.unreadable()),
                        };
                    }
                    // The end of a message, or something else that there is to tell.
                    if last {
                        text.clear();
                    }
                    if text.len() > RESPONSE_OCTETS_MAX {
                        return Err(self.unreadable());
                    }
                }
                Passed::Literal(_) => {}
                Passed::Status { status, .. } => match (status.tag, status.condition) {
                    (Some(_), Condition::Ok) => return Ok(None),
                    (Some(_), _) => {
                        let code = status.code.unwrap_or(Code::ServerBug);
                        return Err(Answer::no(code, status.text).into());
                    }
                    (None, Condition::Bye) => return Err(Broken::Reader),
                    (None, _) => {}
                },
                _ => return Err(self.unreadable()),
            }
        }
    }

    async fn octets(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.guest.literal_left().is_none_or(|left| left == 0) {
            return Ok(None);
        }
        match self.heard().await? {
            Passed::Literal(octets) => Ok(Some(octets)),
            _ => Err(self.unreadable()),
        }
    }

    fn unreadable(&self) -> Broken {
        tracing::error!("a mailbox's server answers FETCH with something else");
        Broken::Reader
    }
}

/// Reads a FETCH response up to the announcement of its only literal, the message.
fn carried(text: &[u8], octets: u64) -> Option<Carried> {
    let at = memchr_last(text, b" BODY[] ")?;
    let whole = [text.get(..at)?, b")\r\n"].concat();
    let Some(Response::Fetch { items, .. }) = read(&whole) else { return None };
    let (mut uid, mut flags, mut date) = (None, None, None);
    for item in items {
        match item {
            FetchData::Uid(one) => uid = Some(one),
            FetchData::Flags(list) => flags = Some(list),
            FetchData::InternalDate(one) => date = Some(one),
            _ => {}
        }
    }
    let FlagList { system, keywords, .. } = flags?;
    let mut flags = flags_of(system);
    flags.extend(keywords.into_iter().map(Flag::Keyword));
    Some(Carried { uid: uid?, octets, flags, date: date? })
}

/// Where some octets stand last.
fn memchr_last(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).rposition(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_before_its_octets() {
        let text =
            b"* 2 FETCH (UID 7 FLAGS (\\Seen $a) INTERNALDATE \" 1-Jan-2024 10:00:00 +0000\" BODY[] {3}\r\n";
        let message = carried(text, 3).unwrap();
        assert_eq!((message.uid.get(), message.octets), (7, 3));
        let flags = [Flag::System(SystemFlags::SEEN), Flag::Keyword(Keyword::new("$a").unwrap())];
        assert_eq!(message.flags, flags);
        for other in [&b"* 2 FETCH (UID 7 BODY[] {3}\r\n"[..], b"* 2 FETCH (BODY[TEXT] {3}\r\n", b""] {
            assert!(carried(other, 3).is_none());
        }
    }
}
