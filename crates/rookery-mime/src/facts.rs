//! What SORT, THREAD and lists of messages ask of a header, taken once at arrival.
//!
//! Invariants:
//! - Message ids are bare (`local@host`), without angle brackets and needless quotes, so that equal ids are
//!   equal octets (RFC 5256 §3, REFERENCES).
//! - Every list and text is bounded.

use crate::date::parse_date;
use crate::header::{fields, is_wsp, unfold};
use crate::media::{skip_comment, take_quoted};
use crate::subject::{BaseSubject, base_subject};
use crate::words::decode_words;
use rookery_types::InternalDate;

/// Message ids of one References field that are kept: the first and the last ones.
const REFERENCES_MAX: usize = 100;
/// Octets of a message id; a longer one is none.
const MESSAGE_ID_OCTETS_MAX: usize = 1_000;
/// Octets of a display text before it is decoded.
const TEXT_OCTETS_MAX: usize = 16 << 10;

/// Facts of one message's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageFacts {
    /// The message's own id.
    pub message_id: Option<String>,
    /// Ids in In-Reply-To, at most 100. THREAD uses the first, and only without `references`.
    pub in_reply_to: Vec<String>,
    /// Ids in References in their order; of more than 100 the first and the last 99.
    pub references: Vec<String>,
    /// The sent date; the internal date stands in for `None` (RFC 5256 §2.2).
    pub date: Option<InternalDate>,
    /// The subject as people read it.
    pub subject: String,
    /// What SORT and THREAD compare of the subject.
    pub base_subject: BaseSubject,
    /// From as people read it.
    pub from: String,
    /// To as people read it.
    pub to: String,
    /// Cc as people read it.
    pub cc: String,
}

impl MessageFacts {
    /// Reads a message's header. The first field of each name counts.
    pub fn read(header: &[u8]) -> MessageFacts {
        const NAMES: [&str; 8] =
            ["Message-ID", "In-Reply-To", "References", "Date", "Subject", "From", "To", "Cc"];
        let mut values: [Option<Vec<u8>>; 8] = Default::default();
        for field in fields(header) {
            if let Some(place) = NAMES.iter().position(|name| field.is(name))
                && let Some(value @ None) = values.get_mut(place)
            {
                *value = Some(unfold(field.value));
            }
        }
        let [message_id, in_reply_to, references, date, subject, from, to, cc] =
            values.map(Option::unwrap_or_default);
        let text = |value: &[u8]| decode_words(value.get(..TEXT_OCTETS_MAX).unwrap_or(value));
        let subject = text(&subject);
        MessageFacts {
            message_id: message_ids(&message_id).into_iter().next().or_else(|| bare_id(&message_id)),
            in_reply_to: message_ids(&in_reply_to),
            references: message_ids(&references),
            date: parse_date(&date),
            base_subject: base_subject(&subject),
            subject,
            from: text(&from),
            to: text(&to),
            cc: text(&cc),
        }
    }
}

/// The sent date of the header that a message begins with, as [`MessageFacts::date`] has it.
pub fn sent_date(message: &[u8]) -> Option<InternalDate> {
    let field = fields(message).find(|field| field.is("Date"))?;
    parse_date(&field.text())
}

/// The ids in angle brackets of an unfolded value.
pub(crate) fn message_ids(value: &[u8]) -> Vec<String> {
    let mut ids = std::collections::VecDeque::new();
    let mut first = None;
    let mut at = 0;
    while let Some(&octet) = value.get(at) {
        match octet {
            b'(' => at = skip_comment(value, at),
            b'"' => at = take_quoted(value, at, &mut Vec::new()),
            b'<' => {
                let (id, end) = message_id(value, at + 1);
                at = end;
                let Some(id) = id else { continue };
                if first.is_none() {
                    first = Some(id);
                    continue;
                }
                ids.push_back(id);
                if ids.len() >= REFERENCES_MAX {
                    ids.pop_front();
                }
            }
            _ => at += 1,
        }
    }
    first.into_iter().chain(ids).collect()
}

/// The id from `at` to its `>`, and where to go on.
fn message_id(value: &[u8], at: usize) -> (Option<String>, usize) {
    let mut id = Vec::new();
    let mut at = at;
    loop {
        match value.get(at) {
            None => return (None, at),
            // The id before this one was never closed.
            Some(b'<') => return (None, at),
            Some(b'>') => break,
            Some(b'"') => at = take_quoted(value, at, &mut id),
            Some(octet) => {
                if !is_wsp(*octet) {
                    id.push(*octet);
                }
                at += 1;
            }
        }
    }
    let is_id = !id.is_empty() && id.len() <= MESSAGE_ID_OCTETS_MAX;
    (is_id.then(|| String::from_utf8_lossy(&id).into_owned()), at + 1)
}

/// A Message-ID whose brackets were forgotten.
fn bare_id(value: &[u8]) -> Option<String> {
    let is_id = value.contains(&b'@')
        && value.len() <= MESSAGE_ID_OCTETS_MAX
        && value.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>'));
    is_id.then(|| String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_a_reply() {
        let facts = MessageFacts::read(
            b"Message-ID: <\"c\"@x>\r\nIn-Reply-To: Your message (<no@x>) <b@x>\r\n\
              References: <a@x>\r\n <b@x> <broken <d@\r\n x>\r\nSubject: Re: =?utf-8?q?caf=C3=A9?=\r\n\
              Date: 1 Jan 2003 00:00:00 +0000\r\nFrom: =?iso-8859-1?q?J=F6rg?= <j@x>\r\n",
        );
        assert_eq!(facts.message_id.as_deref(), Some("c@x"));
        assert_eq!(facts.in_reply_to, ["b@x"]);
        assert_eq!(facts.references, ["a@x", "b@x", "d@x"]);
        assert_eq!(facts.subject, "Re: café");
        assert_eq!(facts.base_subject.text, "café");
        assert_eq!(facts.from, "Jörg <j@x>");
        assert_eq!(facts.date.map(|date| date.unix_seconds()), Some(1_041_379_200));
    }

    #[test]
    fn many_references_keep_the_first_and_the_last() {
        let ids: Vec<_> = (0..500).map(|n| format!("<{n}@x>")).collect();
        let facts = MessageFacts::read(format!("References: {}\r\n", ids.join(" ")).as_bytes());
        assert_eq!(facts.references.len(), 100);
        assert_eq!(facts.references[0], "0@x");
        assert_eq!(facts.references[1], "401@x");
        assert_eq!(facts.references[99], "499@x");
    }

    #[test]
    fn an_id_without_brackets_is_taken_and_garbage_is_not() {
        assert_eq!(MessageFacts::read(b"Message-ID: a@b\n").message_id.as_deref(), Some("a@b"));
        assert_eq!(MessageFacts::read(b"Message-ID: some words\n").message_id, None);
        let long = format!("Message-ID: <{}>\n", "x".repeat(1_001));
        assert_eq!(MessageFacts::read(long.as_bytes()).message_id, None);
    }
}
