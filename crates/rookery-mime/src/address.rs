//! Address lists (RFC 5322 §3.4), read so that nothing fails: what is no address becomes the nearest one.
//!
//! Invariants:
//! - Each group start has its group end, also in a list cut short.
//! - A mailbox always has a local part and a host: a missing one gets a fixed word, as IMAP would take an
//!   absent host for a group (RFC 9051 §7.5.2, ENVELOPE).

use crate::header::is_wsp;
use crate::media::{skip_comment, take_quoted};

/// Stands for a host that is not there.
const MISSING_HOST: &[u8] = b"MISSING_DOMAIN";
/// Stands for a local part that is not there.
const MISSING_MAILBOX: &[u8] = b"MISSING_MAILBOX";

/// One entry of an ENVELOPE address list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Mailbox { name: Option<Vec<u8>>, route: Option<Vec<u8>>, mailbox: Vec<u8>, host: Vec<u8> },
    GroupStart(Vec<u8>),
    GroupEnd,
}

/// At most `max` addresses of an unfolded list; a group end that closes a cut list comes on top.
pub(crate) fn parse_addresses(text: &[u8], max: usize) -> Vec<Address> {
    let mut parser = Parser { text, at: 0, in_group: false, out: Vec::new() };
    while parser.at < text.len() && parser.out.len() < max {
        parser.entry();
    }
    if parser.in_group {
        parser.out.push(Address::GroupEnd);
    }
    parser.out
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    in_group: bool,
    out: Vec<Address>,
}

/// What was read of an entry before its `<` or its end.
#[derive(Default)]
struct Words {
    /// Words with one space between them where there was white space.
    phrase: Vec<u8>,
    /// The same without spaces: a local part and a host.
    compact: Vec<u8>,
    /// Where in `compact` the last `@` outside quotes is.
    at_sign: Option<usize>,
    space_due: bool,
    comment: Option<Vec<u8>>,
    any: bool,
}

impl Words {
    fn push(&mut self, octets: &[u8]) {
        if self.space_due && !self.phrase.is_empty() {
            self.phrase.push(b' ');
        }
        self.space_due = false;
        self.phrase.extend_from_slice(octets);
        self.compact.extend_from_slice(octets);
        self.any = true;
    }
}

impl Parser<'_> {
    /// Reads one mailbox, group start or group end, and the separator after it.
    fn entry(&mut self) {
        let mut words = Words::default();
        while let Some(&octet) = self.text.get(self.at) {
            match octet {
                b'"' => {
                    let mut quoted = Vec::new();
                    self.at = take_quoted(self.text, self.at, &mut quoted);
                    words.push(&quoted);
                }
                b'(' => self.comment(&mut words),
                b'<' => return self.angle(words),
                b',' => {
                    self.at += 1;
                    return self.bare(words);
                }
                b';' => {
                    self.at += 1;
                    self.bare(words);
                    if self.in_group {
                        self.in_group = false;
                        self.out.push(Address::GroupEnd);
                    }
                    return;
                }
                b':' if !self.in_group && words.at_sign.is_none() && words.any => {
                    self.at += 1;
                    self.in_group = true;
                    self.out.push(Address::GroupStart(words.phrase));
                    return;
                }
                _ if is_wsp(octet) => {
                    words.space_due = true;
                    self.at += 1;
                }
                _ => {
                    if octet == b'@' {
                        words.at_sign = Some(words.compact.len());
                    }
                    words.push(&[octet]);
                    self.at += 1;
                }
            }
        }
        self.bare(words);
    }

    fn comment(&mut self, words: &mut Words) {
        let end = skip_comment(self.text, self.at);
        let inner = self.text.get(self.at + 1..end).unwrap_or_default();
        let inner = inner.strip_suffix(b")").unwrap_or(inner).trim_ascii();
        if !inner.is_empty() {
            words.comment = Some(inner.to_vec());
        }
        words.space_due = true;
        self.at = end;
    }

    /// An entry that ended without angle brackets: `local@host (name)`, or less.
    fn bare(&mut self, words: Words) {
        if !words.any {
            return;
        }
        let (mailbox, host) = match words.at_sign {
            Some(at) => (
                words.compact.get(..at).unwrap_or_default().to_vec(),
                words.compact.get(at + 1..).unwrap_or_default().to_vec(),
            ),
            None => (words.phrase, Vec::new()),
        };
        self.mailbox(words.comment, None, mailbox, host);
    }

    /// `<[route:]local@host>` after the words of a name; what follows up to the separator is left out.
    fn angle(&mut self, words: Words) {
        self.at += 1;
        let mut inner = Vec::new();
        let mut at_sign = None;
        let mut route = None;
        while let Some(&octet) = self.text.get(self.at) {
            match octet {
                b'>' => break,
                // A route has commas; elsewhere one means that the `>` was forgotten.
                b',' if inner.first() != Some(&b'@') => break,
                b'"' => {
                    self.at = take_quoted(self.text, self.at, &mut inner);
                    continue;
                }
                b'(' => {
                    self.at = skip_comment(self.text, self.at);
                    continue;
                }
                b':' if inner.first() == Some(&b'@') => {
                    route = Some(std::mem::take(&mut inner));
                    at_sign = None;
                }
                _ if is_wsp(octet) => {}
                _ => {
                    if octet == b'@' {
                        at_sign = Some(inner.len());
                    }
                    inner.push(octet);
                }
            }
            self.at += 1;
        }
        let mut rest = Words::default();
        while let Some(&octet) = self.text.get(self.at) {
            match octet {
                b',' => {
                    self.at += 1;
                    break;
                }
                b';' => break,
                b'(' => self.comment(&mut rest),
                _ => self.at += 1,
            }
        }
        let (mailbox, host) = match at_sign {
            Some(at) => (
                inner.get(..at).unwrap_or_default().to_vec(),
                inner.get(at + 1..).unwrap_or_default().to_vec(),
            ),
            None => (inner, Vec::new()),
        };
        let name = Some(words.phrase).filter(|name| !name.is_empty()).or(words.comment).or(rest.comment);
        self.mailbox(name, route, mailbox, host);
    }

    fn mailbox(&mut self, name: Option<Vec<u8>>, route: Option<Vec<u8>>, mailbox: Vec<u8>, host: Vec<u8>) {
        let or = |text: Vec<u8>, missing: &[u8]| if text.is_empty() { missing.to_vec() } else { text };
        self.out.push(Address::Mailbox {
            name,
            route,
            mailbox: or(mailbox, MISSING_MAILBOX),
            host: or(host, MISSING_HOST),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let show = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let one = |address: &Address| match address {
            Address::Mailbox { name, route, mailbox, host } => {
                let opt = |o: &Option<Vec<u8>>| o.as_deref().map_or("-".into(), show);
                format!("{}/{}/{}/{}", opt(name), opt(route), show(mailbox), show(host))
            }
            Address::GroupStart(name) => format!("{{{}", show(name)),
            Address::GroupEnd => "}".into(),
        };
        parse_addresses(text.as_bytes(), 100).iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn addresses_as_they_occur() {
        for (text, expected) in [
            ("a@b.example", "-/-/a/b.example"),
            ("A B <a@b>, c@d (See)", "A B/-/a/b See/-/c/d"),
            (r#""Q. \"X\", Y" <"a b"@c>"#, r#"Q. "X", Y/-/a b/c"#),
            ("<@r1,@r2:a@b>", "-/@r1,@r2/a/b"),
            ("Friends: a@b, C <c@d>; e@f", "{Friends -/-/a/b C/-/c/d } -/-/e/f"),
            ("undisclosed-recipients:;", "{undisclosed-recipients }"),
            ("never: closed@x", "{never -/-/closed/x }"),
            ("nobody", "-/-/nobody/MISSING_DOMAIN"),
            ("<>", "-/-/MISSING_MAILBOX/MISSING_DOMAIN"),
            ("x <", "x/-/MISSING_MAILBOX/MISSING_DOMAIN"),
            ("a@b <c@d>", "a@b/-/c/d"),
            ("F <a@b, G <c@d>", "F/-/a/b G/-/c/d"),
            (" , ,, ", ""),
            // A comment that never ends holds the rest: no address at all.
            ("((deep (comment)) a@b", ""),
            ("john . doe @ x . example", "-/-/john.doe/x.example"),
            ("a@[127.0.0.1]", "-/-/a/[127.0.0.1]"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn a_cut_list_closes_its_group() {
        let cut = parse_addresses(b"g: a@b, c@d, e@f;", 3);
        assert_eq!(cut.len(), 4);
        assert_eq!(cut.last(), Some(&Address::GroupEnd));
    }
}
