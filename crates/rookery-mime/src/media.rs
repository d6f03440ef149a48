//! The Content-* fields of a part: media type and parameters (RFC 2045 §5), disposition (RFC 2183).
//!
//! Invariants:
//! - Anything parses: a media type that is none is text/plain (RFC 2045 §5.2), a parameter that is none is
//!   left out.
//! - Parameter names and values keep their case. RFC 2231 continuations are joined by [`join_continuations`].

use crate::header::is_wsp;

/// Octets of a type or a subtype: twice what can be registered (RFC 6838 §4.2). A longer one is none.
const NAME_OCTETS_MAX: usize = 254;
/// Parameters taken of one field; what follows is left out.
const PARAMETERS_MAX: usize = 1_000;

/// A value with parameters, like `text/plain; charset=utf-8` or `attachment; filename=x`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WithParameters {
    pub(crate) value: Vec<u8>,
    pub(crate) parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A media type, its type and subtype in upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MediaType {
    pub(crate) kind: Vec<u8>,
    pub(crate) subtype: Vec<u8>,
    pub(crate) parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

impl MediaType {
    /// text/plain in US-ASCII (RFC 2045 §5.2).
    pub(crate) fn plain_text() -> MediaType {
        MediaType {
            kind: b"TEXT".to_vec(),
            subtype: b"PLAIN".to_vec(),
            parameters: vec![(b"CHARSET".to_vec(), b"US-ASCII".to_vec())],
        }
    }

    /// message/rfc822, the default inside multipart/digest (RFC 2046 §5.1.5).
    pub(crate) fn message() -> MediaType {
        MediaType { kind: b"MESSAGE".to_vec(), subtype: b"RFC822".to_vec(), parameters: Vec::new() }
    }

    /// An unfolded Content-Type; `None` if it names no type and subtype.
    pub(crate) fn parse(text: &[u8]) -> Option<MediaType> {
        let parsed = parse_with_parameters(text);
        let slash = memchr::memchr(b'/', &parsed.value)?;
        let (kind, subtype) = parsed.value.split_at(slash);
        let subtype = subtype.get(1..)?;
        if !is_name(kind) || !is_name(subtype) {
            return None;
        }
        let (kind, subtype) = (kind.to_ascii_uppercase(), subtype.to_ascii_uppercase());
        let mut parameters = parsed.parameters;
        let has_charset = parameters.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"charset"));
        if kind == b"TEXT" && subtype == b"PLAIN" && !has_charset {
            // RFC 2046 §4.1.2: the default charset of text/plain.
            parameters.push((b"CHARSET".to_vec(), b"US-ASCII".to_vec()));
        }
        Some(MediaType { kind, subtype, parameters })
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&[u8]> {
        let named = |(attribute, _): &&(Vec<u8>, Vec<u8>)| attribute.eq_ignore_ascii_case(name.as_bytes());
        self.parameters.iter().find(named).map(|(_, value)| value.as_slice())
    }

    pub(crate) fn is_text(&self) -> bool {
        self.kind == b"TEXT"
    }

    pub(crate) fn is_multipart(&self) -> bool {
        self.kind == b"MULTIPART"
    }

    /// Whether it holds a whole message: message/rfc822 or message/global (RFC 9051 `media-message`).
    pub(crate) fn is_message(&self) -> bool {
        self.kind == b"MESSAGE" && (self.subtype == b"RFC822" || self.subtype == b"GLOBAL")
    }
}

fn is_name(text: &[u8]) -> bool {
    (1..=NAME_OCTETS_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// Reads `value *(";" attribute "=" value)`, comments and stray white space left out.
pub(crate) fn parse_with_parameters(text: &[u8]) -> WithParameters {
    let mut cursor = Cursor { text, at: 0 };
    let mut parsed = WithParameters { value: cursor.take_until(b";"), parameters: Vec::new() };
    while cursor.at < text.len() && parsed.parameters.len() < PARAMETERS_MAX {
        cursor.at += 1; // the `;`
        let attribute = cursor.take_until(b"=;");
        if text.get(cursor.at) != Some(&b'=') {
            continue;
        }
        cursor.at += 1;
        let value = cursor.take_value();
        if !attribute.is_empty() {
            parsed.parameters.push((attribute, value));
        }
    }
    parsed
}

/// One token or quoted string of an unfolded value such as Content-Transfer-Encoding.
pub(crate) fn first_token(text: &[u8]) -> Vec<u8> {
    Cursor { text, at: 0 }.take_until(b";")
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// Skips a comment that begins here, nested ones with it. One that does not end goes to the end.
    fn skip_comment(&mut self) {
        self.at = skip_comment(self.text, self.at);
    }

    /// Text up to one of `stops`, without white space and comments.
    fn take_until(&mut self, stops: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(&octet) = self.text.get(self.at) {
            match octet {
                _ if stops.contains(&octet) => break,
                b'(' => {
                    self.skip_comment();
                    continue;
                }
                b'"' => {
                    self.take_quoted(&mut out);
                    continue;
                }
                _ if is_wsp(octet) => {}
                _ => out.push(octet),
            }
            self.at += 1;
        }
        out
    }

    /// A parameter value: a quoted string, or all up to `;`, inner white space kept as many mailers that
    /// forget the quotes mean it.
    fn take_value(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.text.get(self.at).is_some_and(|b| is_wsp(*b)) {
            self.at += 1;
        }
        let quoted = self.text.get(self.at) == Some(&b'"');
        if quoted {
            self.take_quoted(&mut out);
            // Nothing but white space or a comment may follow; what does is left out.
            self.take_until(b";");
            return out;
        }
        while let Some(&octet) = self.text.get(self.at) {
            match octet {
                b';' => break,
                b'(' if out.last().is_none_or(|b| is_wsp(*b)) => {
                    self.skip_comment();
                    continue;
                }
                _ => out.push(octet),
            }
            self.at += 1;
        }
        let end = out.iter().rposition(|b| !is_wsp(*b)).map_or(0, |at| at + 1);
        out.truncate(end);
        out
    }

    fn take_quoted(&mut self, out: &mut Vec<u8>) {
        self.at = take_quoted(self.text, self.at, out);
    }
}

/// Appends the content of the quoted string that begins at `at`; gives where it ends.
pub(crate) fn take_quoted(text: &[u8], at: usize, out: &mut Vec<u8>) -> usize {
    let mut at = at + 1;
    while let Some(&octet) = text.get(at) {
        at += 1;
        match octet {
            b'"' => break,
            b'\\' => {
                if let Some(&escaped) = text.get(at) {
                    out.push(escaped);
                    at += 1;
                }
            }
            _ => out.push(octet),
        }
    }
    at
}

/// Where the comment that begins at `at` ends (RFC 5322 §3.2.2). Counts, so depth costs nothing.
pub(crate) fn skip_comment(text: &[u8], at: usize) -> usize {
    let mut at = at;
    let mut depth = 0_usize;
    while let Some(&octet) = text.get(at) {
        at += 1;
        match octet {
            b'(' => depth += 1,
            b')' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            }
            b'\\' => at += 1,
            _ => {}
        }
    }
    at.min(text.len())
}

/// Joins RFC 2231 §3 continuations (`name*0`, `name*1*`): into `name` when no piece is percent-encoded, else
/// into `name*`, whose value stays percent-encoded with its charset in front (RFC 9051 §7.5.2, BODYSTRUCTURE).
///
/// Pieces are joined in the order of their numbers, and a set without piece 0 is left as it is.
pub(crate) fn join_continuations(parameters: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    type Piece<'a> = (u32, bool, &'a [u8]);
    let mut joined: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(parameters.len());
    let mut sets: Vec<(usize, Vec<Piece<'_>>)> = Vec::new();
    let mut by_name = std::collections::HashMap::<Vec<u8>, usize>::new();
    let starts: std::collections::HashSet<Vec<u8>> = parameters
        .iter()
        .filter_map(|(name, _)| continuation(name))
        .filter(|(_, number, _)| *number == 0)
        .map(|(name, ..)| name.to_ascii_lowercase())
        .collect();
    for (name, value) in parameters {
        let piece = continuation(name).filter(|(base, ..)| starts.contains(&base.to_ascii_lowercase()));
        let Some((base, number, encoded)) = piece else {
            joined.push((name.clone(), value.clone()));
            continue;
        };
        let set = *by_name.entry(base.to_ascii_lowercase()).or_insert_with(|| {
            joined.push((base.to_vec(), Vec::new()));
            sets.push((joined.len() - 1, Vec::new()));
            sets.len() - 1
        });
        if let Some((_, pieces)) = sets.get_mut(set) {
            pieces.push((number, encoded, value));
        }
    }
    for (place, mut pieces) in sets {
        pieces.sort_by_key(|(number, ..)| *number);
        let Some((name, value)) = joined.get_mut(place) else { continue };
        let any_encoded = pieces.iter().any(|(_, encoded, _)| *encoded);
        if any_encoded {
            name.push(b'*');
            if !pieces.first().is_some_and(|(_, encoded, _)| *encoded) {
                // A value whose first piece names no charset is in an unnamed one.
                value.extend_from_slice(b"''");
            }
        }
        for (_, encoded, piece) in pieces {
            if encoded || !any_encoded {
                value.extend_from_slice(piece);
            } else {
                percent_encode(piece, value);
            }
        }
    }
    joined
}

/// `name*NUMBER` or `name*NUMBER*`: name, number, and whether percent-encoded.
fn continuation(name: &[u8]) -> Option<(&[u8], u32, bool)> {
    let (name, encoded) = match name.strip_suffix(b"*") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let star = memchr::memrchr(b'*', name)?;
    let digits = name.get(star + 1..)?;
    if digits.is_empty() || digits.len() > 6 || !digits.iter().all(u8::is_ascii_digit) || star == 0 {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((name.get(..star)?, number, encoded))
}

fn percent_encode(text: &[u8], out: &mut Vec<u8>) {
    for &octet in text {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_' | b'+') {
            out.push(octet);
        } else {
            out.extend_from_slice(format!("%{octet:02X}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(list: &[(Vec<u8>, Vec<u8>)]) -> String {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        list.iter().map(|(n, v)| format!("{}={}", text(n), text(v))).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn media_types_parse_as_tolerantly_as_mail_needs() {
        for (text, kind, parameters) in [
            ("text/html; Charset=\"utf-8\"", "TEXT/HTML", "Charset=utf-8"),
            (
                "text / plain (a (nested) comment) ; charset = iso-8859-1 (x)",
                "TEXT/PLAIN",
                "charset=iso-8859-1",
            ),
            ("text/plain", "TEXT/PLAIN", "CHARSET=US-ASCII"),
            ("image/png; name=a b c.png;; x; =y; z=", "IMAGE/PNG", "name=a b c.png|z="),
            (r#"a/b; n="q\"\\;x" junk; m=1"#, "A/B", r#"n=q"\;x|m=1"#),
            ("a/b; n=\"never ends", "A/B", "n=never ends"),
        ] {
            let parsed = MediaType::parse(text.as_bytes()).unwrap();
            let name = [&parsed.kind[..], b"/", &parsed.subtype].concat();
            assert_eq!(String::from_utf8_lossy(&name), kind, "{text}");
            assert_eq!(shown(&parsed.parameters), parameters, "{text}");
        }
        for text in ["", "text", "/plain", "text/", "; charset=x", "te\u{e9}xt/plain"] {
            assert_eq!(MediaType::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(MediaType::parse(format!("a/{}", "b".repeat(255)).as_bytes()), None);
    }

    #[test]
    fn continuations_are_joined() {
        for (text, expected) in [
            ("x/y; name*1=b; a=1; name*0=a", "name=ab|a=1"),
            ("x/y; name*0*=utf-8''%c3%a9; name*1=\" z\"", "name*=utf-8''%c3%a9%20z"),
            ("x/y; name*=utf-8''%c3%a9", "name*=utf-8''%c3%a9"),
            ("x/y; name*1=lonely", "name*1=lonely"),
            ("x/y; Name*0=a; NAME*1=b; NAME*10=d; name*2=c", "Name=abcd"),
        ] {
            let parsed = parse_with_parameters(text.as_bytes());
            assert_eq!(shown(&join_continuations(&parsed.parameters)), expected, "{text}");
        }
    }
}
