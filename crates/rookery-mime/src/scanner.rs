//! A message read once from front to back, in pieces, into its part tree and its rendered facts.
//!
//! Invariants:
//! - The last of `open` is the part that octets now go to; only it can be in its header.
//! - A part's offsets are final once it is closed. Parts closed together are cut at the same octet, so a
//!   child never reaches beyond its parent.
//! - The line end before a delimiter line belongs to the delimiter (RFC 2046 §5.1.1).
//! - Kept at any time: one header up to its limit, one line up to its limit, and `parts` with what was
//!   rendered of them up to the limits.

use crate::facts::MessageFacts;
use crate::media::MediaType;
use crate::render::{self, PartText};
use crate::structure::{Part, PartKind, Structure};

/// Bounds of what is kept of a message. What is beyond is left out of the facts, never out of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Octets of the message's own header that are read for facts.
    pub header_octets: usize,
    /// Octets of a part's header, or of a held message's.
    pub part_header_octets: usize,
    /// Octets of one header line; the rest of the line is left out.
    pub header_line_octets: usize,
    /// Containers (multiparts, held messages) inside each other; a deeper one is one opaque part.
    pub nesting: usize,
    /// Parts; after the last one the rest is opaque.
    pub parts: usize,
    /// Octets of the rendered ENVELOPE, about; longer address lists are cut.
    pub envelope_octets: usize,
    /// Octets of all that is rendered of the parts; beyond it, parts lose their optional fields.
    pub rendered_octets: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            header_octets: 1 << 20,
            part_header_octets: 256 << 10,
            header_line_octets: 256 << 10,
            nesting: 100,
            parts: 10_000,
            envelope_octets: 256 << 10,
            rendered_octets: 2 << 20,
        }
    }
}

/// Octets of a boundary that is recognised. RFC 2046 allows 70.
const BOUNDARY_OCTETS_MAX: usize = 1_000;
/// Octets of a body line that are kept to compare it with boundaries: two hyphens on each side and padding.
const DELIMITER_OCTETS_MAX: usize = BOUNDARY_OCTETS_MAX + 100;

/// Takes a message in pieces; see [`Scanner::push`] and [`Scanner::finish`].
#[derive(Debug)]
pub struct Scanner {
    limits: Limits,
    /// Octets and line ends pushed before the current piece of a line.
    offset: u64,
    newlines: u64,
    /// The line now read: where it starts, its first octets if it is in two pieces, its last octet so far.
    line_start: u64,
    line: Vec<u8>,
    last: u8,
    /// Octets of the line end before the line now read.
    previous_end: u64,
    in_header: bool,
    header: Vec<u8>,
    root_header: Vec<u8>,
    parts: Vec<Part>,
    texts: Vec<PartText>,
    rendered: usize,
    open: Vec<Open>,
    /// How many of `open` have a boundary.
    boundaries: usize,
    /// Which boundaries there may be, so that most lines are compared with none.
    sums: Sums,
}

#[derive(Debug)]
struct Open {
    part: usize,
    boundary: Option<Box<[u8]>>,
    has_child: bool,
    newlines_before_body: u64,
}

enum Delimiter {
    Opens(usize),
    Closes(usize),
}

impl Scanner {
    /// A scanner that has seen nothing.
    pub fn new(limits: Limits) -> Scanner {
        let mut scanner = Scanner {
            limits,
            offset: 0,
            newlines: 0,
            line_start: 0,
            line: Vec::new(),
            last: 0,
            previous_end: 0,
            in_header: true,
            header: Vec::new(),
            root_header: Vec::new(),
            parts: Vec::new(),
            texts: Vec::new(),
            rendered: 0,
            open: Vec::new(),
            boundaries: 0,
            sums: Sums::default(),
        };
        scanner.open_part(0, 0);
        scanner
    }

    /// The next octets of the message. Where the message is cut makes no difference.
    pub fn push(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() {
            if !self.in_header && self.boundaries == 0 {
                // Nothing can end what is open but the message's end.
                self.newlines += memchr::memchr_iter(b'\n', rest).count() as u64;
                self.offset += rest.len() as u64;
                self.line.clear();
                self.line_start = self.offset;
                return;
            }
            match memchr::memchr(b'\n', rest) {
                Some(at) => {
                    let (piece, after) = rest.split_at(at + 1);
                    rest = after;
                    self.end_line(piece);
                }
                None => {
                    self.keep(rest);
                    self.offset += rest.len() as u64;
                    self.last = rest.last().copied().unwrap_or(self.last);
                    return;
                }
            }
        }
    }

    /// The message is whole.
    pub fn finish(mut self) -> Scanned {
        if self.offset > self.line_start {
            let line = std::mem::take(&mut self.line);
            self.take_line(&line, b"");
        }
        self.close_above(0, self.offset, self.newlines);
        let structure = Structure { octets: self.offset, lines: self.newlines, parts: self.parts };
        Scanned { structure, header: self.root_header, texts: self.texts, limits: self.limits }
    }

    /// Keeps the beginning of a line that goes on, as far as it may matter.
    fn keep(&mut self, piece: &[u8]) {
        let max = if self.in_header { self.limits.header_line_octets } else { 0 }.max(DELIMITER_OCTETS_MAX);
        // The octet of a CR that turns out to belong to the line end does not count.
        let room = (max + 1).saturating_sub(self.line.len());
        let is_start = self.offset == self.line_start;
        let started = if is_start { piece.first() } else { self.line.first() };
        if self.in_header || started == Some(&b'-') {
            self.line.extend_from_slice(piece.get(..room).unwrap_or(piece));
        }
    }

    /// A piece that ends with LF.
    fn end_line(&mut self, piece: &[u8]) {
        let before = piece.len().checked_sub(2).and_then(|at| piece.get(at)).copied();
        let is_whole = self.offset == self.line_start;
        let before = if piece.len() == 1 && !is_whole { Some(self.last) } else { before };
        let line_end: &[u8] = if before == Some(b'\r') { b"\r\n" } else { b"\n" };
        let end_octets = line_end.len() as u64;
        if is_whole {
            self.offset += piece.len() as u64;
            let content = piece.get(..piece.len() - line_end.len()).unwrap_or_default();
            if self.in_header || content.starts_with(b"--") {
                self.take_line(content, line_end);
            }
        } else {
            self.keep(piece);
            self.offset += piece.len() as u64;
            let mut line = std::mem::take(&mut self.line);
            let content = (self.offset - self.line_start).saturating_sub(end_octets);
            line.truncate(usize::try_from(content).unwrap_or(usize::MAX));
            if self.in_header || line.starts_with(b"--") {
                self.take_line(&line, line_end);
            }
            line.clear();
            self.line = line;
        }
        self.newlines += 1;
        self.line_start = self.offset;
        self.previous_end = end_octets;
        self.last = b'\n';
    }

    /// A whole line that may be header, blank or delimiter. `offset` is behind it; `newlines` does not count
    /// it yet.
    fn take_line(&mut self, content: &[u8], line_end: &[u8]) {
        match self.delimiter(content) {
            Some(Delimiter::Opens(level)) => {
                self.close_at_delimiter(level + 1);
                let parent = self.open.get_mut(level).map_or(0, |open| {
                    open.has_child = true;
                    open.part
                });
                self.open_part(parent, self.offset);
            }
            Some(Delimiter::Closes(level)) => {
                self.close_at_delimiter(level + 1);
                if let Some(open) = self.open.get_mut(level) {
                    open.boundary = None;
                    self.boundaries -= 1;
                }
                self.sums = Sums::default();
                self.open.iter().filter_map(|open| open.boundary.as_deref()).for_each(|b| self.sums.add(b));
            }
            None if !self.in_header => {}
            None if content.is_empty() && !line_end.is_empty() => {
                self.end_header(self.offset, self.newlines + 1);
            }
            None => {
                let is_root = self.open.len() == 1;
                let max = if is_root { self.limits.header_octets } else { self.limits.part_header_octets };
                let kept = content.get(..self.limits.header_line_octets).unwrap_or(content);
                if self.header.len() + kept.len() + line_end.len() <= max {
                    self.header.extend_from_slice(kept);
                    self.header.extend_from_slice(line_end);
                }
            }
        }
    }

    /// Which open multipart's delimiter a line is, the innermost first. Only white space may follow, so that a
    /// boundary that another one begins with is not taken for it.
    fn delimiter(&self, content: &[u8]) -> Option<Delimiter> {
        if self.boundaries == 0 || content.len() > DELIMITER_OCTETS_MAX {
            return None;
        }
        let rest = content.strip_prefix(b"--")?.trim_ascii_end();
        let closes = rest.strip_suffix(b"--");
        if !self.sums.may_have(rest) && !closes.is_some_and(|rest| self.sums.may_have(rest)) {
            return None;
        }
        for (level, open) in self.open.iter().enumerate().rev() {
            let Some(boundary) = open.boundary.as_deref() else { continue };
            if boundary == rest {
                // Beyond the limit a new part is more of the last one.
                return (self.parts.len() < self.limits.parts).then_some(Delimiter::Opens(level));
            }
            if Some(boundary) == closes {
                return Some(Delimiter::Closes(level));
            }
        }
        None
    }

    fn open_part(&mut self, parent: usize, start: u64) {
        self.open.push(Open {
            part: self.parts.len(),
            boundary: None,
            has_child: false,
            newlines_before_body: 0,
        });
        self.add_part(parent, PartKind::Single, start..start);
        self.in_header = true;
        self.header.clear();
    }

    fn add_part(&mut self, parent: usize, kind: PartKind, header: std::ops::Range<u64>) {
        let body = header.end..header.end;
        // `limits.parts` and one more for each open container: far below 2^32.
        let parent = u32::try_from(parent).unwrap_or(u32::MAX);
        self.parts.push(Part { kind, parent, header, body, lines: 0 });
        self.texts.push(PartText::default());
    }

    /// The innermost part's header ends before `end`: decides what the part is. `newlines` are those before
    /// `end`.
    fn end_header(&mut self, end: u64, newlines: u64) {
        self.in_header = false;
        let depth = self.open.len();
        let header = std::mem::take(&mut self.header);
        let Some(open) = self.open.last_mut() else { return };
        open.newlines_before_body = newlines;
        let index = open.part;
        let parent = self.parts.get(index).map_or(0, |part| part.parent as usize);
        let is_message =
            index == 0 || self.parts.get(parent).is_some_and(|part| part.kind == PartKind::Message);
        let in_digest = index != 0 && self.texts.get(parent).is_some_and(|text| text.is_digest);

        let content = render::ContentFields::read(&header);
        let media = content.media(in_digest && !is_message);
        let may_hold = depth <= self.limits.nesting && self.parts.len() < self.limits.parts.max(1);
        let kind = match (media.is_multipart(), media.is_message()) {
            (false, false) => PartKind::Single,
            (true, _) if depth <= self.limits.nesting => PartKind::Multipart,
            (_, true) if may_hold => PartKind::Message,
            _ => PartKind::Opaque,
        };
        let left = self.limits.rendered_octets.saturating_sub(self.rendered);
        let envelope_max = if index == 0 { self.limits.envelope_octets } else { left.min(64 << 10) };
        let envelope = if is_message { render::envelope(&header, envelope_max) } else { Vec::new() };
        let left = left.saturating_sub(envelope.len());
        let mut text = render::part_text(&content, &media, kind, left);
        text.envelope = envelope;
        self.rendered += text.octets();

        if kind == PartKind::Multipart {
            open.boundary = boundary_of(&media);
            if let Some(boundary) = open.boundary.as_deref() {
                self.boundaries += 1;
                self.sums.add(boundary);
            }
        }
        if let (Some(part), Some(kept)) = (self.parts.get_mut(index), self.texts.get_mut(index)) {
            let end = end.max(part.header.start);
            part.kind = kind;
            part.header.end = end;
            part.body = end..end;
            *kept = text;
        }
        if kind == PartKind::Message {
            open.has_child = true;
            self.open_part(index, end);
        }
        if index == 0 {
            self.root_header = header;
        } else if self.header.capacity() == 0 {
            self.header = header;
            self.header.clear();
        }
    }

    /// Closes what is open from `level` on, before the delimiter line now read.
    fn close_at_delimiter(&mut self, level: usize) {
        let newlines = self.newlines - u64::from(self.previous_end > 0);
        self.close_above(level, self.line_start - self.previous_end, newlines);
        self.in_header = false;
    }

    /// Closes what is open from `level` on, before the octet `end`. `newlines` are those before it.
    fn close_above(&mut self, level: usize, end: u64, newlines: u64) {
        let Some(outermost) = self.open.get(level).map(|open| open.part) else { return };
        // The line end before the delimiter may be the one that ended the part's header; then the part keeps
        // it, and its body is empty.
        let is_in_header = self.in_header && self.open.len() == level + 1;
        let floor = self
            .parts
            .get(outermost)
            .map_or(0, |part| if is_in_header { part.header.start } else { part.body.start });
        let end = end.max(floor);
        while self.open.len() > level {
            if self.in_header {
                self.end_header(end, newlines);
                continue;
            }
            let Some(open) = self.open.pop() else { return };
            self.boundaries -= usize::from(open.boundary.is_some());
            let Some(part) = self.parts.get_mut(open.part) else { return };
            for offset in [&mut part.header.start, &mut part.header.end, &mut part.body.start] {
                *offset = end.min(*offset);
            }
            part.body.end = end;
            if part.body.start < end {
                part.lines = newlines.saturating_sub(open.newlines_before_body);
            }
            if part.kind == PartKind::Multipart && !open.has_child {
                // A multipart holds at least one part: one that came without holds its text.
                let (body, lines) = (part.body.clone(), part.lines);
                self.add_part(open.part, PartKind::Single, body.start..body.start);
                if let (Some(child), Some(text)) = (self.parts.last_mut(), self.texts.last_mut()) {
                    child.body = body;
                    child.lines = lines;
                    *text = render::plain_text();
                }
            }
        }
    }
}

/// A set of hashes that says "may be" too often, and never "not" wrongly: it forgets nothing until it is
/// built anew.
#[derive(Debug, Default)]
struct Sums([u64; 16]);

impl Sums {
    fn place(text: &[u8]) -> (usize, u64) {
        let sum = text.iter().fold(0x811c_9dc5_u32, |sum, b| (sum ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        let sum = sum ^ sum >> 16;
        ((sum >> 6) as usize % 16, 1 << (sum % 64))
    }

    fn add(&mut self, text: &[u8]) {
        let (word, bit) = Sums::place(text);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    fn may_have(&self, text: &[u8]) -> bool {
        let (word, bit) = Sums::place(text);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

fn boundary_of(media: &MediaType) -> Option<Box<[u8]>> {
    let boundary = media.parameter("boundary")?.trim_ascii_end();
    (!boundary.is_empty() && boundary.len() <= BOUNDARY_OCTETS_MAX).then(|| boundary.into())
}

/// What was learnt of a message.
#[derive(Debug, Clone)]
pub struct Scanned {
    structure: Structure,
    header: Vec<u8>,
    texts: Vec<PartText>,
    limits: Limits,
}

impl Scanned {
    /// The part tree, to be stored.
    pub fn structure(&self) -> &Structure {
        &self.structure
    }

    /// The message's header, without its blank line, as far as the limits let it be kept.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Octets of the message (RFC822.SIZE).
    pub fn octets(&self) -> u64 {
        self.structure.octets
    }

    /// Line ends in the message.
    pub fn lines(&self) -> u64 {
        self.structure.lines
    }

    /// The value of ENVELOPE as it is sent (RFC 9051 §7.5.2).
    pub fn envelope(&self) -> Vec<u8> {
        self.texts.first().map_or_else(Vec::new, |text| text.envelope.clone())
    }

    /// The value of BODYSTRUCTURE as it is sent, extension data and all (RFC 9051 §7.5.2).
    pub fn bodystructure(&self) -> Vec<u8> {
        render::body(&self.structure, &self.texts, true)
    }

    /// The value of BODY as it is sent: BODYSTRUCTURE without extension data.
    pub fn body(&self) -> Vec<u8> {
        render::body(&self.structure, &self.texts, false)
    }

    /// Threading keys, dates and display texts from the header.
    pub fn facts(&self) -> MessageFacts {
        MessageFacts::read(&self.header)
    }

    /// The limits it was scanned under.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
