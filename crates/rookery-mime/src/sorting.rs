//! What SORT and THREAD compare of a message (RFC 5256, RFC 5957), taken from its rendered ENVELOPE: no octet of the
//! message itself is read again.
//!
//! Invariants:
//! - Texts come out as collation keys: octet order of two keys is the order of the texts under i;unicode-casemap.
//! - Octets that are no envelope give empty keys, never a panic.

use crate::facts::message_ids;
use crate::subject::base_subject;
use crate::words::decode_words;
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;

/// Octets of a text that is compared; what is behind them counts for nothing.
const KEY_OCTETS_MAX: usize = 1_024;

/// What is compared of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SortKeys {
    /// The base subject (RFC 5256 §2.1), as a collation key.
    pub subject: String,
    /// Whether the subject says that it is a reply or a forward.
    pub is_reply_or_forward: bool,
    /// addr-mailbox of the first address of From, as a collation key.
    pub from: String,
    /// The same of To.
    pub to: String,
    /// The same of Cc.
    pub cc: String,
    /// The display sort value of the first address of From (RFC 5957 §3), as a collation key.
    pub display_from: String,
    /// The same of To.
    pub display_to: String,
    /// The message's own id.
    pub message_id: Option<String>,
    /// What THREAD takes as its references: those of References, or else the first of In-Reply-To.
    pub references: Vec<String>,
}

impl SortKeys {
    /// From an ENVELOPE as this crate renders it, and the ids that were stored with it: the message's own if it has
    /// one, then those of References, then those of In-Reply-To, perhaps cut off.
    pub fn of_envelope(envelope: &[u8], ids: &[String]) -> SortKeys {
        let mut reader = Reader { rest: envelope };
        reader.take(b'(');
        reader.string();
        let subject = decode_words(&reader.string().unwrap_or_default());
        let base = base_subject(&subject);
        let from = reader.first_address();
        reader.first_address();
        reader.first_address();
        let to = reader.first_address();
        let cc = reader.first_address();
        reader.first_address();
        let in_reply_to = message_ids(&reader.string().unwrap_or_default());
        let own = reader.string().is_some_and(|text| {
            ids.first().is_some_and(|first| match message_ids(&text).first() {
                Some(id) => id == first,
                None => text.trim_ascii() == first.as_bytes(),
            })
        });
        let (message_id, others) = match ids.split_first() {
            Some((first, others)) if own => (Some(first.clone()), others),
            _ => (None, ids),
        };
        // What In-Reply-To had stands at the end.
        let tail = (0..=in_reply_to.len().min(others.len()))
            .rev()
            .find(|n| others.ends_with(in_reply_to.get(..*n).unwrap_or_default()));
        let references = others.get(..others.len() - tail.unwrap_or(0)).unwrap_or_default();
        let references = match references.is_empty() {
            true => in_reply_to.into_iter().take(1).collect(),
            false => references.to_vec(),
        };
        SortKeys {
            subject: collation_key(&base.text),
            is_reply_or_forward: base.is_reply_or_forward,
            from: from.mailbox_key(),
            to: to.mailbox_key(),
            cc: cc.mailbox_key(),
            display_from: from.display_key(),
            display_to: to.display_key(),
            message_id,
            references,
        }
    }
}

/// The key of a text under i;unicode-casemap (RFC 5051 §2): each character in title case, then decomposed.
///
/// DEVIATION: RFC 5051 §2, because the standard library has no title case: upper case stands in for it, which differs
/// for the digraphs ǆ, ǉ, ǌ and ǳ alone. Characters whose upper case is several stay as they are, as their simple title
/// case does.
pub fn collation_key(text: &str) -> String {
    let end = (0..=KEY_OCTETS_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    let text = text.get(..end.unwrap_or(0)).unwrap_or(text);
    if text.is_ascii() {
        return text.to_ascii_uppercase();
    }
    text.chars().map(upper).nfkd().collect()
}

fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

/// The first address of a list.
#[derive(Default)]
struct First<'a> {
    name: Option<Cow<'a, [u8]>>,
    mailbox: Option<Cow<'a, [u8]>>,
    host: Option<Cow<'a, [u8]>>,
}

impl First<'_> {
    fn mailbox_key(&self) -> String {
        collation_key(&self.mailbox.as_deref().map(decode_words).unwrap_or_default())
    }

    /// RFC 5957 §3
    fn display_key(&self) -> String {
        let name = self.name.as_deref().map(decode_words).unwrap_or_default();
        if !name.is_empty() {
            return collation_key(&name);
        }
        let text = |octets: &Option<Cow<'_, [u8]>>| {
            octets.as_deref().map(|octets| String::from_utf8_lossy(octets).into_owned())
        };
        match (text(&self.mailbox), text(&self.host)) {
            (Some(mailbox), Some(host)) => collation_key(&format!("{mailbox}@{host}")),
            (Some(mailbox), None) => collation_key(&mailbox),
            _ => String::new(),
        }
    }
}

/// Reads what `render` writes: strings, NIL and lists of addresses with a space before each.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, octet: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == octet => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// A string or NIL, and the space behind it.
    fn string(&mut self) -> Option<Cow<'a, [u8]>> {
        let value = match self.rest.first()? {
            b'"' => self.quoted(),
            b'{' | b'~' => self.literal(),
            _ => {
                self.rest = self.rest.strip_prefix(b"NIL").unwrap_or_default();
                None
            }
        };
        self.take(b' ');
        value
    }

    fn quoted(&mut self) -> Option<Cow<'a, [u8]>> {
        let text = self.rest.get(1..)?;
        let mut at = 0;
        let mut escaped = false;
        loop {
            let step = memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
            at += step;
            if text.get(at) == Some(&b'"') {
                break;
            }
            escaped = true;
            at += 2;
        }
        let (value, rest) = text.split_at_checked(at)?;
        self.rest = rest.get(1..)?;
        if !escaped {
            return Some(Cow::Borrowed(value));
        }
        let mut out = Vec::with_capacity(value.len());
        let mut octets = value.iter();
        while let Some(octet) = octets.next() {
            out.extend(if *octet == b'\\' { octets.next() } else { Some(octet) });
        }
        Some(Cow::Owned(out))
    }

    fn literal(&mut self) -> Option<Cow<'a, [u8]>> {
        let open = memchr::memchr(b'{', self.rest)?;
        let close = memchr::memchr(b'}', self.rest)?;
        let octets: usize = std::str::from_utf8(self.rest.get(open + 1..close)?).ok()?.parse().ok()?;
        let text = self.rest.get(close + 1..)?.strip_prefix(b"\r\n")?;
        let (value, rest) = text.split_at_checked(octets)?;
        self.rest = rest;
        Some(Cow::Borrowed(value))
    }

    /// The first address structure of a list or of NIL, which may be the beginning of a group; goes behind the whole
    /// list and the space after it.
    fn first_address(&mut self) -> First<'a> {
        let mut first = First::default();
        if !self.take(b'(') {
            self.string();
            return first;
        }
        let mut found = false;
        while self.take(b'(') {
            let (name, _route) = (self.string(), self.string());
            let (mailbox, host) = (self.string(), self.string());
            self.take(b')');
            if !found {
                first = First { name, mailbox, host };
                found = true;
            }
        }
        self.take(b')');
        self.take(b' ');
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Scanner};
    use proptest::prelude::*;

    fn keys(header: &str) -> SortKeys {
        let mut scanner = Scanner::new(Limits::default());
        scanner.push(format!("{header}\r\nbody\r\n").as_bytes());
        let scanned = scanner.finish();
        let facts = scanned.facts();
        let ids: Vec<String> =
            facts.message_id.iter().chain(&facts.references).chain(&facts.in_reply_to).cloned().collect();
        SortKeys::of_envelope(&scanned.envelope(), &ids)
    }

    #[test]
    fn keys_of_a_reply() {
        let got = keys(
            "From: =?utf-8?q?J=C3=B6rg?= <joerg@x.test>\r\nTo: team: Ann \"q\" <ann@y.test>, b@y.test;\r\n\
             Cc: max@z.test\r\nSubject: Re: [list] \"caf\\\\=C3\" =?utf-8?q?caf=C3=A9?=\r\n\
             Message-ID: <own@x>\r\nReferences: <a@x> <b@x>\r\nIn-Reply-To: <b@x>\r\n",
        );
        assert_eq!(got.subject, collation_key("\"caf\\\\=C3\" café"));
        assert!(got.is_reply_or_forward);
        assert_eq!((got.from.as_str(), got.to.as_str(), got.cc.as_str()), ("JOERG", "TEAM", "MAX"));
        assert_eq!(got.display_from, collation_key("JÖRG"));
        assert_eq!(got.message_id.as_deref(), Some("own@x"));
        assert_eq!(got.references, ["a@x", "b@x"]);
    }

    #[test]
    fn references_are_told_from_the_message_id_and_from_in_reply_to() {
        for (header, own, references) in [
            ("Message-ID: <a@x>\r\n", Some("a@x"), &[][..]),
            ("References: <a@x>\r\n", None, &["a@x"][..]),
            ("In-Reply-To: <a@x> <b@x>\r\n", None, &["a@x"][..]),
            ("Message-ID: none\r\nReferences: <a@x>\r\nIn-Reply-To: <b@x>\r\n", None, &["a@x"][..]),
            ("Message-ID: <a@x>\r\nReferences: junk\r\nIn-Reply-To: <b@x>\r\n", Some("a@x"), &["b@x"][..]),
            ("Message-ID: <a@x>\r\nReferences: <a@x>\r\nIn-Reply-To: <a@x>\r\n", Some("a@x"), &["a@x"][..]),
            ("Message-ID: c@x\r\nIn-Reply-To: <b@x>\r\n", Some("c@x"), &["b@x"][..]),
        ] {
            let got = keys(header);
            assert_eq!(got.message_id.as_deref(), own, "{header}");
            assert_eq!(got.references, references, "{header}");
        }
    }

    #[test]
    fn display_values() {
        for (from, display) in [
            ("a@b.test", "A@B.TEST"),
            ("\"Zoe\" <a@b.test>", "ZOE"),
            ("=?utf-8?q??= <a@b.test>", "A@B.TEST"),
            ("", ""),
        ] {
            assert_eq!(keys(&format!("From: {from}\r\n")).display_from, display, "{from}");
        }
    }

    #[test]
    fn case_and_composition_make_no_difference() {
        assert_eq!(collation_key("Größe"), collation_key("gro\u{308}ße"));
        assert_eq!(collation_key("ﬁ"), collation_key("ﬁ"));
        assert!(collation_key("a_") > collation_key("ab"));
        assert!(collation_key(&"ä".repeat(5_000)).len() <= 3 * KEY_OCTETS_MAX);
    }

    #[test]
    fn what_is_no_envelope_has_empty_keys() {
        for octets in [&b""[..], b"(", b"(NIL \"", b"({9}\r\nab", b"(NIL \"a\\", b"(NIL NIL ((((", b"xxxx"] {
            let got = SortKeys::of_envelope(octets, &[]);
            assert_eq!(got.subject, "", "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_have_keys(octets in prop::collection::vec(prop::sample::select(b"()\"\\{}0129~NIL ab\r\n\xc3".to_vec()), 0..60)) {
            SortKeys::of_envelope(&octets, &["a@b".to_string()]);
        }
    }
}
