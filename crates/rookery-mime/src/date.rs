//! The Date field (RFC 5322 §3.3 and §4.3), read as tolerantly as RFC 5256 §2.2 asks.

use crate::media::skip_comment;
use rookery_types::InternalDate;
use rookery_types::date::{civil_from_days, days_from_civil};

/// Words of a date that are looked at.
const WORDS_MAX: usize = 20;

/// The sent date of a Date value: day names may be missing, years have two to four digits, months may come
/// first, zones may be names. `None` without a valid day.
///
/// A time that is none counts as 00:00:00, a zone that is none as UTC (RFC 5256 §2.2).
pub fn parse_date(value: &[u8]) -> Option<InternalDate> {
    let words = words(value);
    let mut numbers = Vec::new();
    let mut month = None;
    let mut time = None;
    let mut zone = None;
    for word in &words {
        let first = *word.first()?;
        if word.contains(&b':') {
            time = time.or_else(|| parse_time(word));
        } else if matches!(first, b'+' | b'-') && time.is_some() {
            zone = zone.or_else(|| numeric_zone(word));
        } else if first.is_ascii_digit() {
            numbers.push((parse_number(word)?, word.len()));
        } else if first.is_ascii_alphabetic() {
            match (month, parse_month(word)) {
                (None, Some(number)) => month = Some(number),
                _ if time.is_some() => zone = zone.or_else(|| named_zone(word)),
                _ => {}
            }
        }
    }
    let (first, first_digits) = *numbers.first()?;
    let (second, second_digits) = *numbers.get(1)?;
    // A year in front has four digits.
    let (day, year, digits) =
        if first_digits == 4 { (second, first, first_digits) } else { (first, second, second_digits) };
    let year = match (digits, year) {
        // RFC 5322 §4.3.
        (2, 0..=49) => year + 2000,
        (2 | 3, _) => year + 1900,
        (4, _) => year,
        _ => return None,
    };
    let (month, year) = (month?, i64::from(year));
    let days = days_from_civil(year, month, day);
    if !(1..=31).contains(&day) || civil_from_days(days) != (year, month, day) {
        return None;
    }
    let zone = zone.unwrap_or(0);
    InternalDate::new(days * 86_400 + time.unwrap_or(0) - i64::from(zone) * 60, zone)
}

/// Words without comments, parted by white space, commas, and hyphens between letters or digits
/// (`1-Jan-2003`).
fn words(value: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut at = 0;
    while let Some(&octet) = value.get(at) {
        at += 1;
        let Some(word) = words.last_mut() else { break };
        let ends = match octet {
            b'(' => {
                at = skip_comment(value, at - 1);
                true
            }
            b'-' => word.iter().all(u8::is_ascii_alphanumeric) && !word.is_empty(),
            // A zone may follow the time without a space.
            b'+' if !word.is_empty() => {
                words.push(vec![octet]);
                continue;
            }
            _ => octet.is_ascii_whitespace() || matches!(octet, b',' | b';'),
        };
        if !ends {
            word.push(octet);
        } else if !word.is_empty() {
            words.push(Vec::new());
        }
        if words.len() > WORDS_MAX {
            break;
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn parse_number(word: &[u8]) -> Option<u32> {
    let digits = word.iter().take_while(|b| b.is_ascii_digit()).count();
    // `1st`, `2nd`.
    if digits > 4 || word.len() - digits > 2 {
        return None;
    }
    std::str::from_utf8(word.get(..digits)?).ok()?.parse().ok()
}

fn parse_month(word: &[u8]) -> Option<u32> {
    let names = b"janfebmaraprmayjunjulaugsepoctnovdec";
    let head = word.get(..3)?.to_ascii_lowercase();
    let place = names.chunks(3).position(|name| name == head)?;
    u32::try_from(place).ok().map(|place| place + 1)
}

/// Seconds of `hh:mm[:ss]`.
fn parse_time(word: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(word).ok()?;
    let mut parts = text.split([':', '.']);
    let mut part = |max: i64| -> Option<i64> {
        let text = parts.next()?;
        let number = text.parse().ok()?;
        (text.len() <= 2 && (0..=max).contains(&number)).then_some(number)
    };
    let (hour, minute) = (part(24)?, part(59)?);
    if hour == 24 {
        return None;
    }
    // A leap second is the second before it.
    let second = part(60).unwrap_or(0).min(59);
    Some(hour * 3600 + minute * 60 + second)
}

/// Minutes of `+hhmm` or `-hhmm`.
fn numeric_zone(word: &[u8]) -> Option<i16> {
    let (sign, digits) = word.split_first()?;
    let digits: Vec<u8> = digits.iter().copied().filter(|b| *b != b':').collect();
    if digits.len() != 4 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: i16 = std::str::from_utf8(&digits).ok()?.parse().ok()?;
    let (hours, minutes) = (number / 100, number % 100);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let zone = hours * 60 + minutes;
    Some(if *sign == b'-' { -zone } else { zone })
}

/// Obsolete zone names (RFC 5322 §4.3) and the common European ones. Military letters mean UTC, as they were
/// used either way.
fn named_zone(word: &[u8]) -> Option<i16> {
    let hours = match word.to_ascii_uppercase().as_slice() {
        b"EST" | b"CDT" => -5,
        b"EDT" => -4,
        b"CST" | b"MDT" => -6,
        b"MST" | b"PDT" => -7,
        b"PST" => -8,
        b"BST" | b"CET" | b"MET" => 1,
        b"CEST" | b"EET" | b"MEST" => 2,
        b"EEST" | b"MSK" => 3,
        b"JST" => 9,
        b"UT" | b"GMT" | b"UTC" | b"Z" => 0,
        _ => return None,
    };
    Some(hours * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_they_occur() {
        for (text, expected) in [
            ("Wed, 17 Jul 1996 02:23:25 -0700 (PDT)", "17-Jul-1996 02:23:25 -0700"),
            ("17 Jul 1996 02:23 EST", "17-Jul-1996 02:23:00 -0500"),
            ("Sat, 1 Jan 00 00:00:60 GMT", " 1-Jan-2000 00:00:59 +0000"),
            ("1 jan 99 1:2:3 +0130", " 1-Jan-1999 01:02:03 +0130"),
            ("1 Jan 103 01:02:03 +0000", " 1-Jan-2003 01:02:03 +0000"),
            ("Mon Jan  6 10:11:12 2003", " 6-Jan-2003 10:11:12 +0000"),
            ("Mon Jan  6 10:11:12 PST 2003", " 6-Jan-2003 10:11:12 -0800"),
            ("6-Jan-2003 10:11:12 -0100", " 6-Jan-2003 10:11:12 -0100"),
            ("Mon,6 January 2003 10:11:12+0200", " 6-Jan-2003 10:11:12 +0200"),
            ("6 Jan 2003 99:11:12 +9999", " 6-Jan-2003 00:00:00 +0000"),
            ("6 Jan 2003", " 6-Jan-2003 00:00:00 +0000"),
        ] {
            let got = parse_date(text.as_bytes()).map(|date| date.to_string());
            assert_eq!(got.as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "today",
            "31 Feb 2003 10:00:00 +0000",
            "0 Jan 2003",
            "1 Jan 99999",
            "Jan 2003",
            "(1 Jan 2003",
        ] {
            assert_eq!(parse_date(text.as_bytes()), None, "{text}");
        }
    }
}
