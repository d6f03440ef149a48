//! The first words of a message (RFC 8970, PREVIEW).

use crate::media::MediaType;
use crate::render::ContentFields;
use crate::search::for_each_text;
use crate::structure::{Part, PartKind, Structure};
use std::ops::Range;

/// Characters of a preview (RFC 8970 §4 allows 256 and wishes 200).
const PREVIEW_CHARS_MAX: usize = 200;
/// Characters of markup that are read in search of text.
const READ_CHARS_MAX: usize = 64 << 10;

/// Parts that are looked at.
const PARTS_MAX: usize = 100;
/// Octets of a part's header that are read.
const HEADER_OCTETS_MAX: u64 = 64 << 10;
/// Octets of a part's body that are read.
const BODY_OCTETS_MAX: u64 = 64 << 10;

/// The first words of the first text/plain part, or else of the first text/html part without its tags, on one
/// line; at most 200 characters. Empty if there is no such part. `read` gives octets of the message: headers of
/// the first parts, and the beginning of one body or two.
pub fn preview<B: AsRef<[u8]>, E>(
    structure: &Structure,
    mut read: impl FnMut(Range<u64>) -> Result<B, E>,
) -> Result<String, E> {
    let mut html = None;
    for part in structure.parts.iter().filter(|part| part.kind == PartKind::Single).take(PARTS_MAX) {
        let header = read(start_of(&part.header, HEADER_OCTETS_MAX))?;
        let media = ContentFields::read(header.as_ref()).media(false);
        if is(&media, b"PLAIN") {
            let body = read(start_of(&part.body, BODY_OCTETS_MAX))?;
            let text = first_words(body.as_ref(), part, header.as_ref(), false);
            if !text.is_empty() {
                return Ok(text);
            }
        } else if html.is_none() && is(&media, b"HTML") {
            html = Some((part, header));
        }
    }
    let Some((part, header)) = html else { return Ok(String::new()) };
    let body = read(start_of(&part.body, BODY_OCTETS_MAX))?;
    Ok(first_words(body.as_ref(), part, header.as_ref(), true))
}

fn start_of(range: &Range<u64>, max: u64) -> Range<u64> {
    range.start..range.end.min(range.start.saturating_add(max))
}

fn is(media: &MediaType, subtype: &[u8]) -> bool {
    media.is_text() && media.subtype == subtype
}

fn first_words(body: &[u8], part: &Part, header: &[u8], is_html: bool) -> String {
    let part = Part { body: 0..body.len() as u64, ..part.clone() };
    let mut out = String::new();
    let mut markup = Markup::default();
    let mut shown = String::new();
    let mut chars = 0;
    let mut read = 0;
    for_each_text(body, &part, header, |text| {
        for c in text.chars() {
            read += 1;
            if chars >= PREVIEW_CHARS_MAX || read > READ_CHARS_MAX {
                return false;
            }
            shown.clear();
            if is_html {
                markup.take(c, &mut shown)
            } else {
                shown.push(c)
            }
            for c in shown.chars().filter(|c| !is_invisible(*c)) {
                let c = if c.is_whitespace() || c.is_control() { ' ' } else { c };
                if chars < PREVIEW_CHARS_MAX && (c != ' ' || !out.is_empty() && !out.ends_with(' ')) {
                    out.push(c);
                    chars += 1;
                }
            }
        }
        true
    });
    out.truncate(out.trim_end().len());
    out
}

/// Characters that mark no place on the screen, with which advertisements pad their previews.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

/// Takes tags, and the insides of `style`, `script` and `title`, out of HTML.
#[derive(Default)]
struct Markup {
    /// The tag now read, its first letters in lower case.
    tag: Option<String>,
    /// The element whose inside is not text.
    hidden: Option<String>,
    /// The character reference now read, behind its `&`.
    reference: Option<String>,
}

/// Letters of the longest character reference that is known.
const REFERENCE_OCTETS_MAX: usize = 8;

/// The character that a reference names, as mail uses them.
fn referred(name: &str) -> Option<char> {
    let number = name.strip_prefix('#');
    if let Some(hex) = number.and_then(|number| number.strip_prefix(['x', 'X'])) {
        return u32::from_str_radix(hex, 16).ok().and_then(char::from_u32);
    }
    if let Some(number) = number {
        return number.parse().ok().and_then(char::from_u32);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" | "ensp" | "emsp" => ' ',
        "shy" => '\u{ad}',
        "zwnj" | "zwj" => '\u{200b}',
        "hellip" => '…',
        "ndash" => '–',
        "mdash" => '—',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "bull" => '•',
        "middot" => '·',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        "euro" => '€',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "Auml" => 'Ä',
        "Ouml" => 'Ö',
        "Uuml" => 'Ü',
        "szlig" => 'ß',
        "eacute" => 'é',
        "egrave" => 'è',
        "agrave" => 'à',
        "ccedil" => 'ç',
        _ => return None,
    })
}

impl Markup {
    /// Takes the next character, and adds what is to be seen.
    fn take(&mut self, c: char, shown: &mut String) {
        if let Some(tag) = &mut self.tag {
            if c == '>' {
                self.end_tag();
                // Words of two elements do not run together.
                shown.push(' ');
            } else if tag.len() < 20 {
                tag.push(c.to_ascii_lowercase());
            }
            return;
        }
        if let Some(mut reference) = self.reference.take() {
            if (c.is_ascii_alphanumeric() || c == '#') && reference.len() < REFERENCE_OCTETS_MAX {
                reference.push(c);
                self.reference = Some(reference);
                return;
            }
            match referred(&reference) {
                Some(found) => shown.push(found),
                None => {
                    shown.push('&');
                    shown.push_str(&reference);
                }
            }
            if c == ';' {
                return;
            }
        }
        match c {
            '<' => self.tag = Some(String::new()),
            _ if self.hidden.is_some() => {}
            '&' => self.reference = Some(String::new()),
            c => shown.push(c),
        }
    }

    fn end_tag(&mut self) {
        let tag = self.tag.take().unwrap_or_default();
        let name = tag.split(|c: char| c.is_whitespace() || c == '>').next().unwrap_or_default();
        match &self.hidden {
            Some(hidden) if name.strip_prefix('/') == Some(hidden) => self.hidden = None,
            None if matches!(name, "style" | "script" | "title") => self.hidden = Some(name.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Scanner};

    fn of(message: &str) -> String {
        let mut scanner = Scanner::new(Limits::default());
        scanner.push(message.as_bytes());
        let read =
            |range: Range<u64>| Ok::<_, ()>(&message.as_bytes()[range.start as usize..range.end as usize]);
        preview(scanner.finish().structure(), read).unwrap()
    }

    #[test]
    fn previews() {
        assert_eq!(of("\r\n  Hello\r\n\r\n\tworld \r\n"), "Hello world");
        assert_eq!(
            of("Content-Type: text/html\r\n\r\n<html><style>p {}</style><p>Hello<br>there</p>"),
            "Hello there"
        );
        assert_eq!(
            of("Content-Type: text/html\r\n\r\n<p>&#8203;&zwnj;&nbsp;A &amp; B&#x21; AT&T &Uuml;ber<b>&lt;1"),
            "A & B! AT&T Über <1"
        );
        assert_eq!(
            of(
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<i>x</i>\r\n\
                --b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\neQ==\r\n--b--\r\n"
            ),
            "y"
        );
        assert_eq!(of("Content-Type: image/png\r\n\r\nxx"), "");
        assert_eq!(of(&format!("\r\n{}", "é".repeat(999))).chars().count(), 200);
    }
}
