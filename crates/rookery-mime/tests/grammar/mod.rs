//! Checks ENVELOPE and BODYSTRUCTURE against the grammar of RFC 9051 §9, and a message against its scan.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use rookery_mime::{
    Limits, Scanned, Scanner, SearchScope, SectionPath, SectionText, Structure, filter_header, preview,
    search_text,
};

pub fn scan(message: &[u8]) -> Scanned {
    let mut scanner = Scanner::new(Limits::default());
    scanner.push(message);
    scanner.finish()
}

pub fn scan_in_pieces(message: &[u8], mut cuts: impl FnMut() -> usize) -> Scanned {
    let mut scanner = Scanner::new(Limits::default());
    let mut rest = message;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(cuts().clamp(1, rest.len()));
        scanner.push(piece);
        rest = after;
    }
    scanner.finish()
}

pub fn section(structure: &Structure, parts: &[u32], text: SectionText) -> Option<std::ops::Range<usize>> {
    let range = structure.section(&SectionPath::new(parts, text))?;
    Some(range.start as usize..range.end as usize)
}

/// Everything that must hold of any octets.
pub fn check_message(message: &[u8], scanned: &Scanned) {
    let structure = scanned.structure();
    assert_eq!(scanned.octets(), message.len() as u64);
    assert_eq!(scanned.lines(), newlines(message));
    assert_eq!(Structure::decode(&structure.encode()).as_ref(), Ok(structure));

    let envelope = scanned.envelope();
    let mut reader = Reader { text: &envelope, at: 0 };
    reader.envelope();
    assert_eq!(reader.at, envelope.len());

    let header = section(structure, &[], SectionText::Header).unwrap();
    let text = section(structure, &[], SectionText::Text).unwrap();
    assert_eq!(header, 0..text.start);
    assert_eq!(text.end, message.len());
    filter_header(&message[header], &["subject", "content-type"], true);

    for extended in [true, false] {
        let body = if extended { scanned.bodystructure() } else { scanned.body() };
        let mut reader = Reader { text: &body, at: 0 };
        let mut parts = Vec::new();
        reader.body(&mut vec![], true, extended, &mut parts);
        assert_eq!(reader.at, body.len());
        for told in parts {
            let range = section(structure, &told.path, SectionText::Whole)
                .unwrap_or_else(|| panic!("no section {:?}", told.path));
            let octets = &message[range];
            assert_eq!(octets.len() as u64, told.octets, "octets of {:?}", told.path);
            if let Some(lines) = told.lines {
                assert_eq!(newlines(octets), lines, "lines of {:?}", told.path);
            }
            assert!(section(structure, &told.path, SectionText::Mime).is_some());
            if told.is_message {
                let header = section(structure, &told.path, SectionText::Header).unwrap();
                let text = section(structure, &told.path, SectionText::Text).unwrap();
                let whole = section(structure, &told.path, SectionText::Whole).unwrap();
                assert_eq!((header.start, header.end, text.end), (whole.start, text.start, whole.end));
            }
        }
    }
    scanned.facts();
    let text =
        preview(structure, |range| Ok::<_, ()>(&message[range.start as usize..range.end as usize])).unwrap();
    assert!(text.chars().count() <= 200);
    let needle = rookery_mime::Needle::new("surely in no message \u{1F426}");
    assert!(!search_text(message, structure, &needle, SearchScope::Text));
}

fn newlines(octets: &[u8]) -> u64 {
    octets.iter().filter(|b| **b == b'\n').count() as u64
}

pub struct Told {
    pub path: Vec<u32>,
    pub octets: u64,
    pub lines: Option<u64>,
    pub is_message: bool,
}

pub struct Reader<'a> {
    pub text: &'a [u8],
    pub at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> u8 {
        *self.text.get(self.at).unwrap_or_else(|| panic!("ends early: {}", self.shown()))
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(self.text).chars().take(2_000).collect()
    }

    fn expect(&mut self, what: &str) {
        let rest = &self.text[self.at..];
        assert!(rest.starts_with(what.as_bytes()), "no {what:?} at {} of {}", self.at, self.shown());
        self.at += what.len();
    }

    fn is_nil(&mut self) -> bool {
        let nil = self.text[self.at..].starts_with(b"NIL");
        if nil {
            self.at += 3;
        }
        nil
    }

    fn number(&mut self) -> u64 {
        let start = self.at;
        while self.at < self.text.len() && self.text[self.at].is_ascii_digit() {
            self.at += 1;
        }
        std::str::from_utf8(&self.text[start..self.at])
            .unwrap()
            .parse()
            .unwrap_or_else(|_| panic!("no number: {}", self.shown()))
    }

    fn string(&mut self) -> Vec<u8> {
        if self.peek() == b'{' {
            self.at += 1;
            let octets = self.number() as usize;
            self.expect("}\r\n");
            let text = self.text[self.at..self.at + octets].to_vec();
            assert!(!text.contains(&0));
            self.at += octets;
            return text;
        }
        self.expect("\"");
        let mut out = Vec::new();
        loop {
            let octet = self.peek();
            self.at += 1;
            match octet {
                b'"' => return out,
                b'\\' => {
                    assert!(matches!(self.peek(), b'"' | b'\\'));
                    out.push(self.peek());
                    self.at += 1;
                }
                b'\r' | b'\n' | 0 | 128.. => panic!("octet {octet} in a quoted string"),
                _ => out.push(octet),
            }
        }
    }

    fn nstring(&mut self) -> Option<Vec<u8>> {
        if self.is_nil() { None } else { Some(self.string()) }
    }

    pub fn envelope(&mut self) {
        self.expect("(");
        for field in 0..10 {
            if field > 0 {
                self.expect(" ");
            }
            if matches!(field, 2..=7) { self.addresses() } else { drop(self.nstring()) }
        }
        self.expect(")");
    }

    fn addresses(&mut self) {
        if self.is_nil() {
            return;
        }
        self.expect("(");
        let mut in_group = false;
        while self.peek() != b')' {
            self.expect("(");
            let name = self.nstring();
            self.expect(" ");
            let route = self.nstring();
            self.expect(" ");
            let mailbox = self.nstring();
            self.expect(" ");
            let host = self.nstring();
            self.expect(")");
            match (mailbox, host) {
                (Some(_), Some(_)) => {}
                (Some(_), None) => {
                    assert!(!in_group && name.is_none() && route.is_none());
                    in_group = true;
                }
                (None, None) => {
                    assert!(in_group && name.is_none() && route.is_none());
                    in_group = false;
                }
                (None, Some(_)) => panic!("a host alone"),
            }
        }
        assert!(!in_group);
        assert_ne!(self.text[self.at - 1], b'(');
        self.expect(")");
    }

    fn parameters(&mut self) {
        if self.is_nil() {
            return;
        }
        self.expect("(");
        loop {
            self.string();
            self.expect(" ");
            self.string();
            if self.peek() == b')' {
                break;
            }
            self.expect(" ");
        }
        self.expect(")");
    }

    /// `body`; `path` is where its parts are numbered below, `is_message` that it is a message's own body.
    pub fn body(&mut self, path: &mut Vec<u32>, is_message: bool, extended: bool, told: &mut Vec<Told>) {
        self.expect("(");
        if self.peek() == b'(' {
            let mut number = 0;
            while self.peek() == b'(' {
                number += 1;
                path.push(number);
                self.body(path, false, extended, told);
                path.pop();
            }
            self.expect(" ");
            self.string();
            if extended {
                self.expect(" ");
                self.parameters();
                self.extension();
            }
            self.expect(")");
            return;
        }
        if is_message {
            path.push(1);
        }
        let kind = self.string().to_ascii_uppercase();
        self.expect(" ");
        let subtype = self.string().to_ascii_uppercase();
        self.expect(" ");
        self.parameters();
        self.expect(" ");
        self.nstring();
        self.expect(" ");
        self.nstring();
        self.expect(" ");
        self.string();
        self.expect(" ");
        let octets = self.number();
        let mut lines = None;
        let holds = kind == b"MESSAGE" && (subtype == b"RFC822" || subtype == b"GLOBAL");
        if holds {
            self.expect(" ");
            self.envelope();
            self.expect(" ");
            self.body(path, true, extended, told);
        }
        if holds || kind == b"TEXT" {
            self.expect(" ");
            lines = Some(self.number());
        }
        assert_ne!(kind, b"MULTIPART");
        if extended {
            self.expect(" ");
            self.nstring();
            self.extension();
        }
        self.expect(")");
        told.push(Told { path: path.clone(), octets, lines, is_message: holds });
        if is_message {
            path.pop();
        }
    }

    /// Disposition, language, location.
    fn extension(&mut self) {
        self.expect(" ");
        if !self.is_nil() {
            self.expect("(");
            self.string();
            self.expect(" ");
            self.parameters();
            self.expect(")");
        }
        self.expect(" ");
        if self.peek() == b'(' {
            self.at += 1;
            self.string();
            while self.peek() == b' ' {
                self.at += 1;
                self.string();
            }
            self.expect(")");
        } else {
            self.nstring();
        }
        self.expect(" ");
        self.nstring();
    }
}
