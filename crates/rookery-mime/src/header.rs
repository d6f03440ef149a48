//! A header as a list of fields (RFC 5322 §2.2), and its subsets (RFC 9051 §6.4.5, HEADER.FIELDS).
//!
//! Invariants:
//! - Fields are slices of the header; nothing is copied and a folded field keeps its folds.
//! - A line without a colon is a field without a name: it is kept by HEADER.FIELDS.NOT, matched by nothing.

/// One field of a header, with its line end and all its continuation lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The whole field as it stands, line ends and all.
    pub raw: &'a [u8],
    /// What stands before the colon, without white space at its end; empty if there is no colon.
    pub name: &'a [u8],
    /// What stands after the colon, as it stands.
    pub value: &'a [u8],
}

impl Field<'_> {
    /// Whether this is a field called `name`, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value on one line, as [`unfold`] gives it.
    pub fn text(&self) -> Vec<u8> {
        unfold(self.value)
    }
}

/// The fields of a header up to its blank line or its end.
pub fn fields(header: &[u8]) -> Fields<'_> {
    Fields { rest: header }
}

/// See [`fields`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        if self.rest.is_empty() || blank_line(self.rest) > 0 {
            return None;
        }
        let mut end = line_end(self.rest, 0);
        // A continuation begins with white space and is not the blank line.
        while matches!(self.rest.get(end), Some(b' ' | b'\t')) {
            end = line_end(self.rest, end);
        }
        let (raw, rest) = self.rest.split_at(end);
        self.rest = rest;
        // The colon belongs to the first line: a name does not fold.
        let first = raw.get(..line_end(raw, 0)).unwrap_or(raw);
        let (name, value) = match memchr::memchr(b':', first) {
            Some(colon) => (raw.get(..colon).unwrap_or_default(), raw.get(colon + 1..).unwrap_or_default()),
            None => (&raw[..0], raw),
        };
        Some(Field { raw, name: name.trim_ascii_end(), value })
    }
}

/// Whether the header that `octets` begin with ends within them.
pub fn ends_within(octets: &[u8]) -> bool {
    let mut fields = fields(octets);
    fields.by_ref().for_each(drop);
    !fields.rest.is_empty()
}

/// Octets of the blank line that `octets` begins with; 0 if it does not.
fn blank_line(octets: &[u8]) -> usize {
    match octets {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    }
}

/// Where the line that `from` is in ends, its line end included.
fn line_end(octets: &[u8], from: usize) -> usize {
    let rest = octets.get(from..).unwrap_or_default();
    memchr::memchr(b'\n', rest).map_or(octets.len(), |at| from + at + 1)
}

/// A field value on one line: folds undone (RFC 5322 §2.2.3), outer white space gone, a bare CR made a space
/// and NUL, which no IMAP string can hold, made `?`.
pub fn unfold(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    unfold_into(value, &mut out);
    out
}

/// Appends what [`unfold`] gives.
pub(crate) fn unfold_into(value: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    let mut rest = value;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest);
        let (line, after) = match end {
            Some(end) => (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default()),
            None => (rest, &[][..]),
        };
        rest = after;
        let line = if end.is_some() { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        // White space before the value goes.
        let line = match out.len() == from {
            true => line.get(line.iter().take_while(|b| is_wsp(**b)).count()..).unwrap_or_default(),
            false => line,
        };
        match memchr::memchr2(b'\r', 0, line) {
            None => out.extend_from_slice(line),
            Some(_) => out.extend(line.iter().map(|octet| match octet {
                b'\r' => b' ',
                0 => b'?',
                octet => *octet,
            })),
        }
    }
    // A bare CR that has become a space may stand at either end.
    let text = out.get(from..).unwrap_or_default();
    let start = text.iter().take_while(|b| is_wsp(**b)).count();
    let end = text.iter().rposition(|b| !is_wsp(*b)).map_or(start, |at| at + 1);
    out.truncate(from + end);
    out.drain(from..from + start);
}

pub(crate) fn is_wsp(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

/// The fields of `header` whose name is among `names` (or is not, if `not`), as they stand and in their order,
/// and the blank line (RFC 9051 §6.4.5, HEADER.FIELDS and HEADER.FIELDS.NOT).
///
/// The blank line is the header's own; a header without one gets CRLF, so that what is sent always ends with
/// one. Field names are compared in any ASCII case and else exactly.
pub fn filter_header<N: AsRef<[u8]>>(header: &[u8], names: &[N], not: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut seen = 0;
    for field in fields(header) {
        seen += field.raw.len();
        let listed =
            !field.name.is_empty() && names.iter().any(|name| name.as_ref().eq_ignore_ascii_case(field.name));
        if listed != not {
            out.extend_from_slice(field.raw);
        }
    }
    let rest = header.get(seen..).unwrap_or_default();
    let blank = rest.get(..blank_line(rest)).unwrap_or_default();
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(if blank.is_empty() { b"\r\n" } else { blank });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] =
        b"From: a@example.org\r\nSUBJECT : one\r\n two\r\n\tthree\r\nno colon here\r\nTo: b\r\n\r\n";

    #[test]
    fn fields_keep_their_folds_and_lose_space_before_the_colon() {
        let all: Vec<_> = fields(HEADER).collect();
        let names: Vec<_> = all.iter().map(|f| f.name).collect();
        assert_eq!(names, [&b"From"[..], b"SUBJECT", b"", b"To"]);
        assert_eq!(all[1].raw, b"SUBJECT : one\r\n two\r\n\tthree\r\n");
        assert_eq!(all[1].text(), b"one two\tthree");
        assert!(all[1].is("subject"));
    }

    #[test]
    fn a_subset_ends_with_the_blank_line() {
        assert_eq!(filter_header(HEADER, &["to", "FROM"], false), b"From: a@example.org\r\nTo: b\r\n\r\n");
        assert_eq!(
            filter_header(HEADER, &["to", "subject"], true),
            b"From: a@example.org\r\nno colon here\r\n\r\n"
        );
        assert_eq!(filter_header(HEADER, &["x"], false), b"\r\n");
        assert_eq!(filter_header(b"A: 1\nB: 2\n\nbody", &["b"], false), b"B: 2\n\n");
        assert_eq!(filter_header(b"A: 1\r\nB: 2", &["b"], false), b"B: 2\r\n\r\n");
        assert_eq!(filter_header(b"", &["b"], true), b"\r\n");
    }

    #[test]
    fn an_empty_name_matches_nothing() {
        assert_eq!(filter_header(HEADER, &[""], false), b"\r\n");
    }

    #[test]
    fn unfolding_takes_bare_cr_and_nul() {
        assert_eq!(unfold(b" a\rb\0c\r\n d \r\n"), b"a b?c d");
        assert_eq!(unfold(b" \r\n \t\r\n"), b"");
    }
}
