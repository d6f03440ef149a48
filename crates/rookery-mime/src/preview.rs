//! The first words of a message (RFC 8970, PREVIEW).

use crate::media::MediaType;
use crate::render::ContentFields;
use crate::search::{for_each_text, header_of};
use crate::structure::{Part, PartKind, Structure};

/// Characters of a preview (RFC 8970 §4 allows 256 and wishes 200).
const PREVIEW_CHARS_MAX: usize = 200;
/// Characters of markup that are read in search of text.
const READ_CHARS_MAX: usize = 64 << 10;

/// The first words of the first text/plain part, or else of the first text/html part without its tags, on one
/// line; at most 200 characters. Empty if there is no such part.
pub fn preview(message: &[u8], structure: &Structure) -> String {
    for subtype in [&b"PLAIN"[..], b"HTML"] {
        for part in &structure.parts {
            let header = header_of(message, part);
            let media = ContentFields::read(header).media(false);
            if part.kind != PartKind::Single || !is(&media, subtype) {
                continue;
            }
            let text = first_words(message, part, header, subtype == b"HTML");
            if !text.is_empty() {
                return text;
            }
        }
    }
    String::new()
}

fn is(media: &MediaType, subtype: &[u8]) -> bool {
    media.is_text() && media.subtype == subtype
}

fn first_words(message: &[u8], part: &Part, header: &[u8], is_html: bool) -> String {
    let mut out = String::new();
    let mut markup = Markup::default();
    let mut chars = 0;
    let mut read = 0;
    for_each_text(message, part, header, |text| {
        for c in text.chars() {
            read += 1;
            if chars >= PREVIEW_CHARS_MAX || read > READ_CHARS_MAX {
                return false;
            }
            let c = if is_html { markup.take(c) } else { Some(c) };
            let Some(c) = c else { continue };
            let c = if c.is_whitespace() || c.is_control() { ' ' } else { c };
            if c != ' ' || !out.is_empty() && !out.ends_with(' ') {
                out.push(c);
                chars += 1;
            }
        }
        true
    });
    out.truncate(out.trim_end().len());
    out
}

/// Takes tags, and the insides of `style`, `script` and `title`, out of HTML.
#[derive(Default)]
struct Markup {
    /// The tag now read, its first letters in lower case.
    tag: Option<String>,
    /// The element whose inside is not text.
    hidden: Option<String>,
}

impl Markup {
    fn take(&mut self, c: char) -> Option<char> {
        match (&mut self.tag, c) {
            (None, '<') => self.tag = Some(String::new()),
            (None, _) => return self.hidden.is_none().then_some(c),
            (Some(_), '>') => {
                let tag = self.tag.take().unwrap_or_default();
                let name = tag.split(|c: char| c.is_whitespace() || c == '>').next().unwrap_or_default();
                if let Some(hidden) = &self.hidden {
                    if name.strip_prefix('/') == Some(hidden) {
                        self.hidden = None;
                    }
                } else if matches!(name, "style" | "script" | "title") {
                    self.hidden = Some(name.to_owned());
                }
                // Words of two elements do not run together.
                return Some(' ');
            }
            (Some(tag), _) if tag.len() < 20 => tag.push(c.to_ascii_lowercase()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Scanner};

    fn of(message: &str) -> String {
        let mut scanner = Scanner::new(Limits::default());
        scanner.push(message.as_bytes());
        preview(message.as_bytes(), scanner.finish().structure())
    }

    #[test]
    fn previews() {
        assert_eq!(of("\r\n  Hello\r\n\r\n\tworld \r\n"), "Hello world");
        assert_eq!(
            of("Content-Type: text/html\r\n\r\n<html><style>p {}</style><p>Hello<br>there</p>"),
            "Hello there"
        );
        assert_eq!(of("Content-Type: image/png\r\n\r\nxx"), "");
        assert_eq!(of(&format!("\r\n{}", "é".repeat(999))).chars().count(), 200);
    }
}
