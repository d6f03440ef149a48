//! The header fields that are searched most, ready to be searched: SUBJECT, FROM, TO, CC, BCC and the sent date of
//! messages that were looked at once need no octet of them again.
//!
//! Invariants:
//! - A row never changes, since what a UID means never does. Rows stand in ascending order of UID.
//! - What is found in a row is what is found in the message's header, and nothing else.

use crate::kept::{Kept, Rows};
use rookery_mime::{Needle, SearchableField};
use rookery_store::{Account, Message, StoreError};
use rookery_types::{ContentId, MailboxId};
use std::sync::Arc;

/// The largest message that is read whole for its header, octets.
const WHOLE_OCTETS_MAX: u32 = 64 << 10;
/// Octets of a header that are looked at.
const HEADER_OCTETS_MAX: usize = 1 << 20;
/// The fields.
const FIELDS: usize = 5;

/// One of the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Field {
    Subject,
    From,
    To,
    Cc,
    Bcc,
}

impl Field {
    const ALL: [(Field, SearchableField<'static>); FIELDS] = [
        (Field::Subject, SearchableField { name: "Subject", addresses: false }),
        (Field::From, SearchableField { name: "From", addresses: true }),
        (Field::To, SearchableField { name: "To", addresses: true }),
        (Field::Cc, SearchableField { name: "Cc", addresses: true }),
        (Field::Bcc, SearchableField { name: "Bcc", addresses: true }),
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Field::ALL.iter().find(|(one, _)| *one == self).map_or("", |(_, field)| field.name)
    }
}

/// The fields of one message, folded.
#[derive(Debug)]
pub(crate) struct NewRow {
    uid: u32,
    /// The day of the Date field, since 1970.
    sent: Option<i64>,
    fields: [Option<Vec<u8>>; FIELDS],
}

#[derive(Clone, Copy, Debug)]
struct Row {
    uid: u32,
    /// The day of the Date field; `i64::MIN`: there is none that makes sense.
    sent: i64,
    start: usize,
    /// Where the text of each field ends, from `start`; each begins where the one before it ends.
    ends: [u32; FIELDS],
    /// Which fields there are.
    present: u8,
}

/// The fields of messages of one mailbox.
#[derive(Default, Debug)]
pub(crate) struct Headers {
    rows: Vec<Row>,
    texts: Vec<u8>,
}

impl Rows for Headers {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn octets(&self) -> usize {
        self.rows.len() * size_of::<Row>() + self.texts.len()
    }
}

/// One message's fields.
#[derive(Clone, Copy)]
pub(crate) struct HeaderRow<'a> {
    row: &'a Row,
    texts: &'a [u8],
}

impl HeaderRow<'_> {
    /// The day when the message was sent, since 1970.
    pub(crate) fn sent(&self) -> Option<i64> {
        Some(self.row.sent).filter(|day| *day != i64::MIN)
    }

    /// Whether a field holds the needle; the empty one asks whether there is such a field.
    pub(crate) fn holds(&self, field: Field, needle: &Needle) -> bool {
        let column = field as usize;
        if self.row.present & 1 << column == 0 {
            return false;
        }
        let at = |n: u32| self.row.start.saturating_add(usize::try_from(n).unwrap_or(usize::MAX));
        let start = column.checked_sub(1).and_then(|before| self.row.ends.get(before)).map_or(0, |end| *end);
        let end = self.row.ends.get(column).copied().unwrap_or(start);
        needle.is_in_field(self.texts.get(at(start)..at(end)).unwrap_or_default())
    }
}

impl Headers {
    /// With more rows; those that are there already are left out.
    fn with(&self, mut new: Vec<NewRow>) -> Headers {
        new.sort_by_key(|row| row.uid);
        let mut headers = Headers { rows: self.rows.clone(), texts: self.texts.clone() };
        for row in new {
            headers.add(row);
        }
        headers.rows.sort_by_key(|row| row.uid);
        headers.rows.dedup_by_key(|row| row.uid);
        headers
    }

    fn add(&mut self, new: NewRow) -> Option<()> {
        let start = self.texts.len();
        let sent = new.sent.unwrap_or(i64::MIN);
        let mut row = Row { uid: new.uid, sent, start, ends: [0; FIELDS], present: 0 };
        for (column, (field, end)) in new.fields.into_iter().zip(&mut row.ends).enumerate() {
            if let Some(text) = field {
                self.texts.extend_from_slice(&text);
                row.present |= 1 << column;
            }
            *end = u32::try_from(self.texts.len() - start).ok()?;
        }
        self.rows.push(row);
        Some(())
    }

    /// The row of a message; cheap when UIDs are asked in ascending order and `at` is kept between.
    pub(crate) fn row(&self, uid: u32, at: &mut usize) -> Option<HeaderRow<'_>> {
        while self.rows.get(*at).is_some_and(|row| row.uid < uid) {
            *at += 1;
        }
        let row = self.rows.get(*at).filter(|row| row.uid == uid)?;
        Some(HeaderRow { row, texts: &self.texts })
    }
}

/// The headers of the mailboxes that were searched last, for all sessions.
#[derive(Clone)]
pub struct HeaderTexts(Kept<Headers>);

impl HeaderTexts {
    /// None yet; together they will take at most so many octets, about.
    pub fn new(octets_max: usize) -> HeaderTexts {
        HeaderTexts(Kept::new(octets_max))
    }

    /// What is known of a mailbox's messages, of which there are so many.
    pub(crate) fn known(&self, mailbox: MailboxId, exists: usize) -> Arc<Headers> {
        self.0.get(mailbox, exists)
    }

    /// What is known, and what was just read.
    pub(crate) fn learn(&self, mailbox: MailboxId, known: &Headers, new: Vec<NewRow>) -> Arc<Headers> {
        let headers = Arc::new(known.with(new));
        self.0.put(mailbox, &headers);
        headers
    }
}

/// Reads the headers of messages, on a blocking thread. One that cannot be read is an error in its place.
pub(crate) fn read(account: &Account, messages: &[&Message]) -> Vec<Result<NewRow, StoreError>> {
    let mut rows = Vec::with_capacity(messages.len());
    let small: Vec<&Message> =
        messages.iter().copied().filter(|message| message.size <= WHOLE_OCTETS_MAX).collect();
    let contents: Vec<ContentId> = small.iter().map(|message| message.content).collect();
    account.read_many(&contents, |at, whole| {
        if let Some(message) = small.get(at) {
            rows.push(whole.map(|whole| row(message, whole.octets)));
        }
    });
    for message in messages.iter().filter(|message| message.size > WHOLE_OCTETS_MAX) {
        rows.push(read_header(account, message));
    }
    rows
}

fn read_header(account: &Account, message: &Message) -> Result<NewRow, StoreError> {
    let mut octets = usize::try_from(WHOLE_OCTETS_MAX).unwrap_or(HEADER_OCTETS_MAX);
    loop {
        let head = account.read_part(message.content, 0, octets)?;
        let ends = rookery_mime::header::ends_within(&head);
        if ends || octets >= HEADER_OCTETS_MAX || head.len() < octets {
            return Ok(row(message, &head));
        }
        octets = HEADER_OCTETS_MAX;
    }
}

fn row(message: &Message, octets: &[u8]) -> NewRow {
    let header = octets.get(..HEADER_OCTETS_MAX).unwrap_or(octets);
    let fields = Field::ALL.map(|(_, field)| field);
    let sent = rookery_mime::sent_date(header).map(|date| date.day());
    NewRow { uid: message.uid.get(), sent, fields: rookery_mime::searchable(header, fields) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(uid: u32, header: &str) -> NewRow {
        let fields = Field::ALL.map(|(_, field)| field);
        NewRow { uid, sent: None, fields: rookery_mime::searchable(header.as_bytes(), fields) }
    }

    #[test]
    fn rows_are_found_by_uid_and_hold_what_their_headers_hold() {
        let first =
            Headers::default().with(vec![new(7, "Subject: Seven\r\nTo: a@b\r\n"), new(2, "From: x@y\r\n")]);
        let headers =
            first.with(vec![new(4, "Subject: =?utf-8?q?F=C3=BCnf?=\r\nSubject: Six\r\n"), new(7, "")]);
        let mut at = 0;
        let mut holds = |uid, field, needle: &str| {
            headers.row(uid, &mut at).map(|row| row.holds(field, &Needle::new(needle)))
        };
        assert_eq!(holds(1, Field::From, ""), None);
        assert_eq!(holds(2, Field::From, "X@y"), Some(true));
        assert_eq!(holds(2, Field::Subject, ""), Some(false));
        assert_eq!(holds(4, Field::Subject, "FÜNF"), Some(true));
        assert_eq!(holds(4, Field::Subject, "six"), Some(true));
        assert_eq!(holds(4, Field::Subject, "fünf\nsix"), Some(false));
        assert_eq!(holds(4, Field::To, ""), Some(false));
        assert_eq!(holds(7, Field::Subject, "seven"), Some(true));
        assert_eq!(holds(7, Field::To, ""), Some(true));
        assert_eq!(holds(9, Field::To, ""), None);
    }
}
