//! mbox: messages one after another, each begun by a line `From sender date`.
//!
//! A line begins a message if it starts with `From `, has a date at its end, and stands at the file's start or
//! after an empty line; so files of the old kind, which quote nothing, come through as well. `>From ` loses one
//! `>` (mboxrd).

use std::io::{self, BufRead};

use rookery_types::{InternalDate, Keyword, SystemFlags};

use super::{Found, crlf};

/// Octets in the longest line that is looked at whole; a longer one is message text.
const LINE_OCTETS_MAX: u64 = 64 * 1024;

/// Messages of an mbox file, one by one.
pub(crate) struct Mbox<R> {
    input: R,
    octets_max: u64,
    /// The date of the message whose `From ` line was read last; `None` before the first and after the last.
    date: Option<InternalDate>,
    line: Vec<u8>,
    begun: bool,
    /// Octets read so far, for progress.
    pub(crate) octets_read: u64,
}

impl<R: BufRead> Mbox<R> {
    pub(crate) fn new(input: R, octets_max: u64) -> Mbox<R> {
        Mbox { input, octets_max, date: None, line: Vec::new(), begun: false, octets_read: 0 }
    }

    fn next_line(&mut self) -> io::Result<usize> {
        self.line.clear();
        let read = io::Read::take(&mut self.input, LINE_OCTETS_MAX).read_until(b'\n', &mut self.line)?;
        self.octets_read += read as u64;
        Ok(read)
    }

    /// The next message. The inner Err: why it is left out. Fails if the file cannot be read, or is no mbox.
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<Found, String>>> {
        if !self.begun {
            self.begun = true;
            loop {
                if self.next_line()? == 0 {
                    return Ok(None);
                }
                if let Some(date) = separator(&self.line) {
                    self.date = Some(date);
                    break;
                }
                if !self.line.trim_ascii().is_empty() {
                    let text = "this is no mbox: it does not begin with a line 'From sender date'";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        }
        let Some(date) = self.date.take() else { return Ok(None) };
        let mut octets = Vec::new();
        let mut too_large = false;
        let mut after_empty_line = false;
        let mut line_start = true;
        while self.next_line()? > 0 {
            if line_start
                && after_empty_line
                && let Some(date) = separator(&self.line)
            {
                self.date = Some(date);
                break;
            }
            after_empty_line = line_start && matches!(&self.line[..], b"\n" | b"\r\n");
            let text = match line_start && is_quoted_from(&self.line) {
                true => self.line.get(1..).unwrap_or_default(),
                false => &self.line,
            };
            line_start = self.line.ends_with(b"\n");
            if octets.len() as u64 + text.len() as u64 > self.octets_max {
                too_large = true;
            } else if !too_large {
                octets.extend_from_slice(text);
            }
        }
        if too_large {
            return Ok(Some(Err(format!("the message of {date} is larger than messages may be"))));
        }
        // The empty line before the next separator belongs to the format.
        if octets.ends_with(b"\r\n\r\n") {
            octets.truncate(octets.len() - 2);
        } else if octets.ends_with(b"\n\n") {
            octets.truncate(octets.len() - 1);
        }
        let (octets, flags, keywords) = without_status(&octets);
        Ok(Some(Ok(Found { octets: crlf(&octets), flags, keywords, date })))
    }
}

fn is_quoted_from(line: &[u8]) -> bool {
    let unquoted = line.iter().position(|octet| *octet != b'>').unwrap_or(0);
    unquoted > 0 && line.get(unquoted..).is_some_and(|rest| rest.starts_with(b"From "))
}

/// The date of a separator line; `None` if the line is none.
fn separator(line: &[u8]) -> Option<InternalDate> {
    let text = std::str::from_utf8(line.strip_prefix(b"From ")?).ok()?;
    asctime(text.trim_end())
}

/// Reads a date of the form `Mon Nov 23 22:18:09 2026` at the end of the text; a zone may stand before or behind
/// the year. Without one it is UTC.
fn asctime(text: &str) -> Option<InternalDate> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let at = words.iter().rposition(|word| word.bytes().filter(|octet| *octet == b':').count() >= 1)?;
    let (month, day) = (words.get(at.checked_sub(2)?)?, words.get(at.checked_sub(1)?)?);
    let month = MONTHS.iter().find(|name| name.eq_ignore_ascii_case(month))?;
    let behind = words.get(at + 1..)?;
    let year =
        behind.iter().find(|word| word.len() == 4 && word.bytes().all(|octet| octet.is_ascii_digit()))?;
    let zone = behind
        .iter()
        .find(|word| word.len() == 5 && word.starts_with(['+', '-']))
        .copied()
        .unwrap_or("+0000");
    let time = words.get(at)?;
    let time = if time.len() == 5 { format!("{time}:00") } else { (*time).to_owned() };
    InternalDate::parse(&format!("{day}-{month}-{year} {time} {zone}"))
}

/// Takes the fields out of the header that hold flags, and reads them: `Status` (R: seen) and `X-Status`
/// (A, F, D, T), `X-Keywords`.
fn without_status(message: &[u8]) -> (Vec<u8>, SystemFlags, Vec<Keyword>) {
    let mut out = Vec::with_capacity(message.len());
    let (mut flags, mut keywords) = (SystemFlags::NONE, Vec::new());
    let mut rest = message;
    // Whether the last field was taken out, so that its folded lines go too.
    let mut taken_out = false;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let (line, after) = rest.split_at(end + 1);
        if line.trim_ascii().is_empty() {
            break;
        }
        let continued = line.starts_with(b" ") || line.starts_with(b"\t");
        if !continued {
            let field = line.split(|octet| *octet == b':').next().unwrap_or_default();
            let value =
                String::from_utf8_lossy(line.get(field.len() + 1..).unwrap_or_default()).trim().to_owned();
            taken_out = true;
            if field.eq_ignore_ascii_case(b"Status") {
                if value.contains('R') {
                    flags = flags | SystemFlags::SEEN;
                }
            } else if field.eq_ignore_ascii_case(b"X-Status") {
                for letter in value.bytes() {
                    flags = flags
                        | match letter {
                            b'A' => SystemFlags::ANSWERED,
                            b'F' => SystemFlags::FLAGGED,
                            b'D' => SystemFlags::DELETED,
                            b'T' => SystemFlags::DRAFT,
                            _ => SystemFlags::NONE,
                        };
                }
            } else if field.eq_ignore_ascii_case(b"X-Keywords") {
                keywords.extend(value.split_ascii_whitespace().filter_map(Keyword::new));
            } else {
                taken_out = false;
            }
        }
        if !taken_out {
            out.extend_from_slice(line);
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    (out, flags, keywords)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Found> {
        let mut mbox = Mbox::new(text.as_bytes(), 10_000);
        let mut found = Vec::new();
        while let Some(message) = mbox.next().unwrap() {
            found.push(message.unwrap());
        }
        found
    }

    #[test]
    fn messages_flags_quotes_and_dates() {
        let text = "From ann@x.test Mon Nov 23 22:18:09 2026\nSubject: one\nStatus: RO\nX-Status: AF\nX-Keywords: Work\n\nFrom here on it is text.\n>From the quoted\n>>From twice\n\nFrom nobody knows\n\n\
                    From bob@x.test Tue Nov 24 01:02:03 2026 +0100\r\nSubject: two\r\n\r\nbody\r\n\r\n";
        let found = all(text);
        assert_eq!(found.len(), 2);
        let first = String::from_utf8(found[0].octets.clone()).unwrap();
        assert_eq!(
            first,
            "Subject: one\r\n\r\nFrom here on it is text.\r\nFrom the quoted\r\n>From twice\r\n\r\nFrom nobody knows\r\n"
        );
        assert_eq!(found[0].flags, SystemFlags::SEEN | SystemFlags::ANSWERED | SystemFlags::FLAGGED);
        assert_eq!(found[0].keywords, [Keyword::new("Work").unwrap()]);
        assert_eq!(found[0].date.to_string(), "23-Nov-2026 22:18:09 +0000");
        assert_eq!(found[1].octets, b"Subject: two\r\n\r\nbody\r\n");
        assert_eq!(found[1].date.to_string(), "24-Nov-2026 01:02:03 +0100");
    }

    #[test]
    fn odd_files() {
        assert!(all("").is_empty());
        assert!(Mbox::new(&b"Subject: x\n\n"[..], 99).next().is_err());
        let mut mbox = Mbox::new(
            &b"From a Mon Nov 23 22:18:09 2026\nxxxxxxxxxx\n\nFrom a Mon Nov 23 22:18:09 2026\ny\n"[..],
            5,
        );
        assert!(mbox.next().unwrap().unwrap().is_err());
        assert_eq!(mbox.next().unwrap().unwrap().unwrap().octets, b"y\r\n");
        assert!(mbox.next().unwrap().is_none());
        assert_eq!(all("From a Mon Nov 23 22:18:09 2026\n").len(), 1);
    }
}
