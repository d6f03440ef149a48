//! The small pieces: numbers, strings, names, sets, dates, flags, sections.

use crate::imap::response::Runs;
use crate::imap::types::{FlagList, PartialRange, Section, SectionText, WireName};
use bytes::{BufMut, BytesMut};
use rookery_types::date::civil_from_days;
use rookery_types::{InternalDate, Keyword, SequenceSet, SetEnd, SystemFlags, UidSet};
use std::num::NonZeroU32;

/// Strings up to this many octets are quoted if they can be, longer ones are literals.
const QUOTED_OCTETS_MAX: usize = 1024;

/// The two digits of every number below 100.
const DIGIT_PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

/// `number` in decimal.
pub fn number(out: &mut BytesMut, n: impl Into<u64>) {
    let mut n: u64 = n.into();
    if n < 10 {
        return out.put_u8(b'0' + n as u8);
    }
    // 20 digits hold 2^64-1.
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    while n >= 100 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&DIGIT_PAIRS[(n % 100) as usize]);
        n /= 100;
    }
    if n >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&DIGIT_PAIRS[n as usize]);
    } else {
        at -= 1;
        digits[at] = b'0' + n as u8;
    }
    out.extend_from_slice(&digits[at..]);
}

/// Two digits, for dates.
fn two(out: &mut BytesMut, n: i64) {
    let pair = usize::try_from(n).ok().and_then(|n| DIGIT_PAIRS.get(n)).unwrap_or(&[b'0'; 2]);
    out.extend_from_slice(pair);
}

/// Puts `put` between the items, by calling `item` for each.
pub(crate) fn joined<T>(
    out: &mut BytesMut,
    between: &str,
    items: impl IntoIterator<Item = T>,
    mut item: impl FnMut(&mut BytesMut, T),
) {
    for (i, one) in items.into_iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(between.as_bytes());
        }
        item(out, one);
    }
}

/// Whether the octets can stand between quotes without 8-bit octets.
pub(crate) fn can_be_quoted(octets: &[u8]) -> bool {
    octets.len() <= QUOTED_OCTETS_MAX && octets.iter().all(|b| *b < 0x80 && !matches!(b, b'\r' | b'\n' | 0))
}

/// Whether the octets are an `atom` whole, and no `NIL`.
pub(crate) fn is_astring_atom(octets: &[u8]) -> bool {
    let legal = |b: &u8| *b > 0x20 && *b < 0x7f && !br#"(){%*"\"#.contains(b);
    !octets.is_empty()
        && octets.len() <= QUOTED_OCTETS_MAX
        && octets.iter().all(legal)
        && !octets.eq_ignore_ascii_case(b"NIL")
}

/// `quoted`: the caller knows that neither CR, LF nor NUL is in it; were it, a space stands there.
///
/// ```abnf
/// quoted = DQUOTE *QUOTED-CHAR DQUOTE
/// ```
pub fn quoted(out: &mut BytesMut, octets: &[u8]) {
    out.reserve(octets.len() + 2);
    out.put_u8(b'"');
    for octet in octets {
        match octet {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *octet]),
            b'\r' | b'\n' | 0 => out.put_u8(b' '),
            _ => out.put_u8(*octet),
        }
    }
    out.put_u8(b'"');
}

/// A literal; with NUL in it, which only `literal8` may hold, a `literal8`.
///
/// ```abnf
/// literal  = "{" number64 ["+"] "}" CRLF *CHAR8
/// literal8 = "~{" number64 "}" CRLF *OCTET
/// ```
pub fn literal(out: &mut BytesMut, octets: &[u8]) {
    let binary = memchr::memchr(0, octets).is_some();
    literal_header(out, binary, octets.len() as u64);
    out.extend_from_slice(octets);
}

/// `{n}` or `~{n}` with its CRLF.
pub(crate) fn literal_header(out: &mut BytesMut, binary: bool, octets: u64) {
    if binary {
        out.put_u8(b'~');
    }
    out.put_u8(b'{');
    number(out, octets);
    out.extend_from_slice(b"}\r\n");
}

/// A string that every client reads: quoted if short and of 7 bits, else a literal.
pub fn string(out: &mut BytesMut, octets: &[u8]) {
    if can_be_quoted(octets) { quoted(out, octets) } else { literal(out, octets) }
}

/// A string or `NIL`.
pub fn nstring(out: &mut BytesMut, octets: Option<&[u8]>) {
    match octets {
        Some(octets) => string(out, octets),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// An atom where it can be one, else a string.
pub fn astring(out: &mut BytesMut, octets: &[u8]) {
    if is_astring_atom(octets) { out.extend_from_slice(octets) } else { string(out, octets) }
}

/// A mailbox name. UTF-8 in it stands between quotes: such names come only to clients that may see them
/// (RFC 9051 §5.1, RFC 6855 §3).
pub fn mailbox(out: &mut BytesMut, name: &WireName) {
    let octets = name.as_bytes();
    if is_astring_atom(octets) {
        return out.extend_from_slice(octets);
    }
    let legal = |b: &u8| !matches!(b, b'\r' | b'\n' | 0);
    if octets.len() <= QUOTED_OCTETS_MAX && octets.iter().all(legal) && std::str::from_utf8(octets).is_ok() {
        quoted(out, octets);
    } else {
        literal(out, octets);
    }
}

/// `uid-set`, or sequence numbers of the same form.
pub fn uid_set(out: &mut BytesMut, set: &UidSet) {
    joined(out, ",", set.ranges(), |out, (first, last)| {
        number(out, first);
        if first != last {
            out.put_u8(b':');
            number(out, last);
        }
    });
}

/// Numbers in an order of their own, as a `sequence-set`.
pub(crate) fn runs(out: &mut BytesMut, runs: &Runs) {
    joined(out, ",", runs.ranges(), |out, (first, last)| {
        number(out, first);
        if first != last {
            out.put_u8(b':');
            number(out, last);
        }
    });
}

/// `partial-range`
pub(crate) fn partial_range(out: &mut BytesMut, range: PartialRange) {
    let sign: &[u8] = if range.from_last { b"-" } else { b"" };
    out.extend_from_slice(sign);
    number(out, range.start.get());
    out.put_u8(b':');
    out.extend_from_slice(sign);
    number(out, range.end.get());
}

/// `sequence-set`
pub(crate) fn sequence_set(out: &mut BytesMut, set: &SequenceSet) {
    let end = |out: &mut BytesMut, end: &SetEnd| match end {
        SetEnd::Number(n) => number(out, *n),
        SetEnd::Largest => out.put_u8(b'*'),
    };
    joined(out, ",", set.ranges(), |out, (a, b)| {
        end(out, a);
        if a != b {
            out.put_u8(b':');
            end(out, b);
        }
    });
}

/// Month names as dates have them.
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `-Jan-2024`
fn month_and_year(out: &mut BytesMut, month: u32, year: i64) {
    out.put_u8(b'-');
    let name = usize::try_from(month).ok().and_then(|m| MONTHS.get(m.wrapping_sub(1))).unwrap_or(&"Jan");
    out.extend_from_slice(name.as_bytes());
    out.put_u8(b'-');
    two(out, year / 100);
    two(out, year % 100);
}

/// `date-text`, from days since 1970-01-01.
pub(crate) fn day(out: &mut BytesMut, days: i64) {
    let (year, month, day) = civil_from_days(days);
    number(out, day);
    month_and_year(out, month, year);
}

/// `date-time`, with its quotes.
///
/// ```abnf
/// date-time = DQUOTE date-day-fixed "-" date-month "-" date-year SP time SP zone DQUOTE
/// ```
pub fn date_time(out: &mut BytesMut, date: InternalDate) {
    let local = date.unix_seconds() + i64::from(date.zone_minutes()) * 60;
    let (year, month, day) = civil_from_days(local.div_euclid(86_400));
    let second = local.rem_euclid(86_400);
    out.put_u8(b'"');
    if day < 10 {
        out.put_u8(b' ');
    }
    number(out, day);
    month_and_year(out, month, year);
    out.put_u8(b' ');
    two(out, second / 3600);
    out.put_u8(b':');
    two(out, second / 60 % 60);
    out.put_u8(b':');
    two(out, second % 60);
    let zone = i64::from(date.zone_minutes());
    out.extend_from_slice(if zone < 0 { b" -" } else { b" +" });
    two(out, zone.abs() / 60);
    two(out, zone.abs() % 60);
    out.put_u8(b'"');
}

/// Flags between parentheses.
pub(crate) fn flags<'k>(
    out: &mut BytesMut,
    system: SystemFlags,
    recent: bool,
    keywords: impl IntoIterator<Item = &'k str>,
    any: bool,
) {
    let start = out.len();
    let mut put = |flag: &str| {
        out.put_u8(if out.len() == start { b'(' } else { b' ' });
        out.extend_from_slice(flag.as_bytes());
    };
    for (flag, name) in SystemFlags::ALL {
        if system.contains(flag) {
            put(name);
        }
    }
    if recent {
        put("\\Recent");
    }
    keywords.into_iter().for_each(&mut put);
    if any {
        put("\\*");
    }
    if out.len() == start {
        out.put_u8(b'(');
    }
    out.put_u8(b')');
}

/// Flags between parentheses, as FLAGS and PERMANENTFLAGS have them.
pub fn flag_list(out: &mut BytesMut, list: &FlagList) {
    flags(out, list.system, list.recent, list.keywords.iter().map(Keyword::as_str), list.any);
}

/// `1.2.3`
pub(crate) fn part(out: &mut BytesMut, part: &[NonZeroU32]) {
    joined(out, ".", part, |out, n| number(out, n.get()));
}

/// `section`, with its brackets. Field names may be literals, so `name` prints them.
///
/// ```abnf
/// section = "[" [section-spec] "]"
/// ```
pub(crate) fn section_with(
    out: &mut BytesMut,
    section: &Section,
    mut name: impl FnMut(&mut BytesMut, &[u8]),
) {
    out.put_u8(b'[');
    part(out, &section.part);
    if let Some(text) = &section.text {
        if !section.part.is_empty() {
            out.put_u8(b'.');
        }
        let (word, names) = match text {
            SectionText::Header => ("HEADER", None),
            SectionText::HeaderFields(names) => ("HEADER.FIELDS (", Some(names)),
            SectionText::HeaderFieldsNot(names) => ("HEADER.FIELDS.NOT (", Some(names)),
            SectionText::Text => ("TEXT", None),
            SectionText::Mime => ("MIME", None),
        };
        out.extend_from_slice(word.as_bytes());
        if let Some(names) = names {
            joined(out, " ", names, |out, one| name(out, one));
            out.put_u8(b')');
        }
    }
    out.put_u8(b']');
}

/// `section` in a response.
pub(crate) fn section(out: &mut BytesMut, section: &Section) {
    section_with(out, section, astring);
}
