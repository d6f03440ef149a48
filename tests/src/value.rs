//! IMAP response data (RFC 9051 §9) as a tree of values: atoms, strings, lists.
//!
//! Written apart from the server's codec on purpose, and strict: what a careful client could trip over is an error.

use anyhow::{Context, Result, bail, ensure};

/// How deep lists may nest before the parser gives up; servers here cut MIME trees at about 100.
const DEPTH_MAX: usize = 600;

/// One datum of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Anything unquoted: words, numbers, flags, section names such as `BODY[1.2]<0>`.
    Atom(String),
    /// A quoted string or a literal, without its quotes or count.
    Text(Vec<u8>),
    /// A parenthesised list.
    List(Vec<Value>),
    /// `NIL`.
    Nil,
}

impl Value {
    /// The list's elements.
    pub fn list(&self) -> Result<&[Value]> {
        match self {
            Value::List(items) => Ok(items),
            other => bail!("expected a list, found {other:?}"),
        }
    }

    /// The octets of a string; an atom counts as one (astring), NIL as none.
    pub fn octets(&self) -> Result<Option<&[u8]>> {
        match self {
            Value::Text(octets) => Ok(Some(octets)),
            Value::Atom(atom) => Ok(Some(atom.as_bytes())),
            Value::Nil => Ok(None),
            Value::List(_) => bail!("expected a string, found a list"),
        }
    }

    /// A number.
    pub fn number(&self) -> Result<u64> {
        match self {
            Value::Atom(atom) => atom.parse().with_context(|| format!("expected a number, found {atom}")),
            other => bail!("expected a number, found {other:?}"),
        }
    }

    /// The word, in upper case, if this is an atom.
    pub fn word(&self) -> Option<String> {
        match self {
            Value::Atom(atom) => Some(atom.to_ascii_uppercase()),
            _ => None,
        }
    }
}

/// Parses the values of one whole response line without its final CRLF; literals stand in it as sent, with their count.
pub fn parse(raw: &[u8]) -> Result<Vec<Value>> {
    let mut parser = Parser { raw, at: 0 };
    let values = parser.values(0)?;
    ensure!(parser.at == raw.len(), "a closing parenthesis too many at octet {}", parser.at);
    Ok(values)
}

struct Parser<'a> {
    raw: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    /// Values up to a closing parenthesis (left in place) or the end, parted by single spaces.
    fn values(&mut self, depth: usize) -> Result<Vec<Value>> {
        ensure!(depth < DEPTH_MAX, "lists nest deeper than {DEPTH_MAX}");
        let mut values = Vec::new();
        loop {
            match self.raw.get(self.at) {
                None | Some(b')') => return Ok(values),
                Some(b' ') => {
                    ensure!(!values.is_empty(), "a space before the first value at octet {}", self.at);
                    self.at += 1;
                    let next = self.raw.get(self.at);
                    // A line may end in "text " (resp-text may be empty), a list may not.
                    ensure!(
                        depth == 0 || !matches!(next, None | Some(b' ' | b')')),
                        "a stray space at {}",
                        self.at
                    );
                }
                Some(_) => {
                    // Parts of a multipart stand side by side without a space: "(...)(...)".
                    let value = self.value(depth)?;
                    values.push(value);
                }
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        match self.raw.get(self.at) {
            Some(b'(') => {
                self.at += 1;
                let items = self.values(depth + 1)?;
                ensure!(self.raw.get(self.at) == Some(&b')'), "a list without an end");
                self.at += 1;
                Ok(Value::List(items))
            }
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal(),
            Some(b'~') if self.raw.get(self.at + 1) == Some(&b'{') => {
                self.at += 1;
                self.literal()
            }
            Some(_) => self.atom(),
            None => bail!("a value is missing at the end"),
        }
    }

    fn quoted(&mut self) -> Result<Value> {
        self.at += 1;
        let mut octets = Vec::new();
        loop {
            let octet = *self.raw.get(self.at).context("a quoted string without an end")?;
            self.at += 1;
            match octet {
                b'"' => return Ok(Value::Text(octets)),
                b'\\' => {
                    let escaped = *self.raw.get(self.at).context("a backslash at the end")?;
                    ensure!(
                        matches!(escaped, b'"' | b'\\'),
                        "\\{} in a quoted string",
                        escaped.escape_ascii()
                    );
                    octets.push(escaped);
                    self.at += 1;
                }
                b'\r' | b'\n' | 0 => bail!("octet {octet} in a quoted string (RFC 9051 §4.3)"),
                other => octets.push(other),
            }
        }
    }

    fn literal(&mut self) -> Result<Value> {
        let rest = self.raw.get(self.at + 1..).unwrap_or_default();
        let close =
            rest.iter().position(|&octet| octet == b'}').context("a literal's count without an end")?;
        let count: usize =
            std::str::from_utf8(&rest[..close])?.parse().context("a literal's count is no number")?;
        let body = rest.get(close + 1..).unwrap_or_default();
        let body = body.strip_prefix(b"\r\n").context("no CRLF after a literal's count")?;
        let octets = body.get(..count).context("a literal is cut short")?;
        self.at += 1 + close + 1 + 2 + count;
        Ok(Value::Text(octets.to_vec()))
    }

    fn atom(&mut self) -> Result<Value> {
        let start = self.at;
        let mut brackets = 0_usize;
        while let Some(&octet) = self.raw.get(self.at) {
            match octet {
                b'[' => brackets += 1,
                b']' => brackets = brackets.saturating_sub(1),
                b' ' | b'(' | b')' if brackets == 0 => break,
                b'\r' | b'\n' | 0 => bail!("octet {octet} in an atom"),
                _ => {}
            }
            self.at += 1;
        }
        let atom = String::from_utf8_lossy(self.raw.get(start..self.at).unwrap_or_default()).into_owned();
        ensure!(!atom.is_empty(), "an empty atom at octet {start}");
        if atom.eq_ignore_ascii_case("NIL") { Ok(Value::Nil) } else { Ok(Value::Atom(atom)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_line_with_a_section_and_a_literal() {
        let raw = b"3 FETCH (UID 7 FLAGS (\\Seen $x) BODY[HEADER.FIELDS (X-A B)] {4}\r\na)\"b ENVELOPE (NIL \"q\\\"\"))";
        let values = parse(raw).unwrap();
        let items = values[2].list().unwrap();
        assert_eq!(items[1].number().unwrap(), 7);
        assert_eq!(items[4], Value::Atom("BODY[HEADER.FIELDS (X-A B)]".into()));
        assert_eq!(items[5], Value::Text(b"a)\"b".to_vec()));
        assert_eq!(items[7].list().unwrap()[1], Value::Text(b"q\"".to_vec()));
    }

    #[test]
    fn what_a_client_would_trip_over_is_refused() {
        for bad in [&b"(a"[..], b"a)", b"(a  b)", b"( a)", b"(a )", b"\"a\\n\"", b"{9}\r\nshort", b"\"a\rb\""]
        {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
