//! A cursor over one frame: a command or response with its literals, without its last line end.
//!
//! Invariants: it never reads outside the frame, never goes back past a token it took, and what it gives out
//! is checked by the grammar of its rule.

use crate::imap::types::{MessageSet, WireName};
use bytes::Bytes;
use rookery_types::{InternalDate, SequenceSet, SetEnd, UidSet};

/// Why octets do not parse. The text is for the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault(pub(crate) &'static str);

/// What a rule gives.
pub(crate) type Parsed<T> = Result<T, Fault>;

/// The cursor.
#[derive(Clone)]
pub(crate) struct Scanner<'a> {
    input: &'a [u8],
    /// Where strings are cut from without a copy; `None`: they are copied, so that a small string does not
    /// keep a large buffer.
    shared: Option<&'a Bytes>,
    at: usize,
    /// How many levels deeper parentheses may go.
    depth_left: usize,
}

/// `ATOM-CHAR`: no CTL, SP, 8-bit octet, parentheses, `{`, wildcards, quotes, backslash or `]`.
pub(crate) fn is_atom_char(b: u8) -> bool {
    ATOM[usize::from(b)]
}

/// `ASTRING-CHAR = ATOM-CHAR / resp-specials`
pub(crate) fn is_astring_char(b: u8) -> bool {
    ATOM[usize::from(b)] || b == b']'
}

const ATOM: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0x21;
    while b < 0x7f {
        table[b] = !matches!(b as u8, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']');
        b += 1;
    }
    table
};

/// A string as it stands in the frame.
enum Text<'a> {
    Plain(&'a [u8]),
    Unescaped(Vec<u8>),
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(input: &'a [u8], depth: usize) -> Scanner<'a> {
        Scanner { input, shared: None, at: 0, depth_left: depth }
    }

    pub(crate) fn shared(input: &'a Bytes, depth: usize) -> Scanner<'a> {
        Scanner { input, shared: Some(input), at: 0, depth_left: depth }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.input.get(self.at..).unwrap_or(&[])
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.input.len()
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    /// The octets as a value.
    pub(crate) fn own(&self, octets: &'a [u8]) -> Bytes {
        match self.shared {
            Some(whole) => whole.slice_ref(octets),
            None => Bytes::copy_from_slice(octets),
        }
    }

    /// All that is left.
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        let rest = self.rest();
        self.at = self.input.len();
        rest
    }

    /// Takes the octet if it is next.
    pub(crate) fn take(&mut self, octet: u8) -> bool {
        let found = self.peek() == Some(octet);
        self.at += usize::from(found);
        found
    }

    /// Takes the octet, or fails.
    pub(crate) fn expect(&mut self, octet: u8, fault: &'static str) -> Parsed<()> {
        if self.take(octet) { Ok(()) } else { Err(Fault(fault)) }
    }

    /// `SP`
    pub(crate) fn sp(&mut self) -> Parsed<()> {
        self.expect(b' ', "Missing argument or space")
    }

    /// The end of the frame; spaces before it, which some clients leave, are no fault.
    pub(crate) fn end(&mut self) -> Parsed<()> {
        if self.rest().iter().all(|b| *b == b' ') { Ok(()) } else { Err(Fault("Too many arguments")) }
    }

    /// Takes the word without regard to case, if it is next. What follows is not looked at.
    pub(crate) fn take_word(&mut self, word: &str) -> bool {
        let found = self.rest().get(..word.len()).is_some_and(|b| b.eq_ignore_ascii_case(word.as_bytes()));
        if found {
            self.at += word.len();
        }
        found
    }

    /// The octets up to the first that `legal` refuses; may be none.
    pub(crate) fn run(&mut self, legal: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let len = rest.iter().position(|b| !legal(*b)).unwrap_or(rest.len());
        self.at += len;
        rest.get(..len).unwrap_or(&[])
    }

    /// ```abnf
    /// atom = 1*ATOM-CHAR
    /// ```
    pub(crate) fn atom(&mut self) -> Parsed<&'a [u8]> {
        match self.run(is_atom_char) {
            [] => Err(Fault("Missing word")),
            atom => Ok(atom),
        }
    }

    /// An atom in upper case, as text.
    pub(crate) fn atom_upper(&mut self) -> Parsed<Box<str>> {
        let atom = self.atom()?;
        Ok(upper(atom))
    }

    /// Runs `inner` one level deeper.
    pub(crate) fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or(Fault("Nested too deep"))?;
        let value = inner(self);
        self.depth_left += 1;
        value
    }

    /// `"(" [item *(SP item)] ")"`, after the opening parenthesis.
    pub(crate) fn items_to_close<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        if self.take(b')') {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.take(b')') {
                return Ok(items);
            }
            self.sp()?;
        }
    }

    /// `"(" [item *(SP item)] ")"`
    pub(crate) fn list<T>(&mut self, item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.expect(b'(', "Missing (")?;
        self.items_to_close(item)
    }

    /// `"(" item *(SP item) ")"`
    pub(crate) fn list1<T>(&mut self, item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let items = self.list(item)?;
        if items.is_empty() { Err(Fault("Empty list")) } else { Ok(items) }
    }

    /// ```abnf
    /// number64 = 1*DIGIT    ; 0 <= n <= 9,223,372,036,854,775,807
    /// ```
    pub(crate) fn number64(&mut self) -> Parsed<u64> {
        let digits = self.run(|b| b.is_ascii_digit());
        if digits.is_empty() {
            return Err(Fault("Missing number"));
        }
        let mut n: u64 = 0;
        for digit in digits {
            n = n
                .checked_mul(10)
                .and_then(|n| n.checked_add(u64::from(digit - b'0')))
                .filter(|n| *n <= i64::MAX as u64)
                .ok_or(Fault("Number too large"))?;
        }
        Ok(n)
    }

    /// `number`, 32 bits.
    pub(crate) fn number(&mut self) -> Parsed<u32> {
        u32::try_from(self.number64()?).map_err(|_| Fault("Number too large"))
    }

    /// A number that `make` takes, such as one that may not be 0.
    pub(crate) fn number_as<T>(&mut self, make: impl FnOnce(u32) -> Option<T>) -> Parsed<T> {
        make(self.number()?).ok_or(Fault("Number must not be 0"))
    }

    /// As [`Scanner::number_as`], 64 bits.
    pub(crate) fn number64_as<T>(&mut self, make: impl FnOnce(u64) -> Option<T>) -> Parsed<T> {
        make(self.number64()?).ok_or(Fault("Number must not be 0"))
    }

    /// ```abnf
    /// string = quoted / literal
    /// ```
    pub(crate) fn string(&mut self) -> Parsed<Bytes> {
        Ok(match self.text()? {
            Text::Plain(octets) => self.own(octets),
            Text::Unescaped(octets) => Bytes::from(octets),
        })
    }

    fn text(&mut self) -> Parsed<Text<'a>> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{' | b'~') => self.literal().map(Text::Plain),
            _ => Err(Fault("Missing string")),
        }
    }

    /// ```abnf
    /// quoted      = DQUOTE *QUOTED-CHAR DQUOTE
    /// QUOTED-CHAR = <any TEXT-CHAR except quoted-specials> / "\" quoted-specials / UTF8-2 / UTF8-3 / UTF8-4
    /// ```
    fn quoted(&mut self) -> Parsed<Text<'a>> {
        self.expect(b'"', "Missing quote")?;
        let special = |b: u8| matches!(b, b'"' | b'\\' | b'\r' | b'\n' | 0);
        let plain = self.run(|b| !special(b));
        let text = if self.take(b'"') {
            Text::Plain(plain)
        } else {
            let mut octets = plain.to_vec();
            while !self.take(b'"') {
                if !self.take(b'\\') {
                    return Err(Fault("Quoted string without end, or with CR, LF or NUL"));
                }
                match self.peek() {
                    Some(escaped @ (b'"' | b'\\')) => octets.push(escaped),
                    _ => return Err(Fault("Only \" and \\ can follow \\ in a quoted string")),
                }
                self.at += 1;
                octets.extend_from_slice(self.run(|b| !special(b)));
            }
            Text::Unescaped(octets)
        };
        let octets: &[u8] = match &text {
            Text::Plain(octets) => octets,
            Text::Unescaped(octets) => octets,
        };
        if std::str::from_utf8(octets).is_err() {
            return Err(Fault("Quoted string is not UTF-8"));
        }
        Ok(text)
    }

    /// A literal of any kind, whose octets the framing has seen to be there.
    ///
    /// ```abnf
    /// literal  = "{" number64 ["+"] "}" CRLF *CHAR8
    /// literal8 = "~{" number64 ["+"] "}" CRLF *OCTET
    /// ```
    fn literal(&mut self) -> Parsed<&'a [u8]> {
        let fault = Fault("Malformed literal");
        let binary = self.take(b'~');
        self.expect(b'{', fault.0)?;
        let octets = usize::try_from(self.number64()?).map_err(|_| fault)?;
        self.take(b'+');
        self.expect(b'}', fault.0)?;
        self.take(b'\r');
        self.expect(b'\n', fault.0)?;
        let value = self.rest().get(..octets).ok_or(fault)?;
        self.at += octets;
        if !binary && memchr::memchr(0, value).is_some() {
            return Err(Fault("NUL in a literal"));
        }
        Ok(value)
    }

    /// ```abnf
    /// astring = 1*ASTRING-CHAR / string
    /// ```
    pub(crate) fn astring(&mut self) -> Parsed<Bytes> {
        if self.rest().starts_with(b"~{") {
            return self.string();
        }
        match self.run(is_astring_char) {
            [] => self.string(),
            atom => Ok(self.own(atom)),
        }
    }

    /// ```abnf
    /// nstring = string / nil
    /// ```
    pub(crate) fn nstring(&mut self) -> Parsed<Option<Bytes>> {
        if self.take_nil() { Ok(None) } else { self.string().map(Some) }
    }

    /// `NIL`
    pub(crate) fn take_nil(&mut self) -> bool {
        self.take_word("NIL")
    }

    /// ```abnf
    /// mailbox = "INBOX" / astring
    /// ```
    pub(crate) fn mailbox(&mut self) -> Parsed<WireName> {
        self.astring().map(WireName)
    }

    /// ```abnf
    /// list-mailbox = 1*list-char / string
    /// list-char    = ATOM-CHAR / list-wildcards / resp-specials
    /// ```
    pub(crate) fn list_mailbox(&mut self) -> Parsed<WireName> {
        match self.run(|b| is_astring_char(b) || matches!(b, b'%' | b'*')) {
            [] => self.string().map(WireName),
            pattern => Ok(WireName(self.own(pattern))),
        }
    }

    /// ```abnf
    /// sequence-set = (seq-number / seq-range) ["," sequence-set] / seq-last-command
    /// ```
    pub(crate) fn message_set(&mut self) -> Parsed<MessageSet> {
        if self.take(b'$') { Ok(MessageSet::Saved) } else { self.sequence_set().map(MessageSet::Set) }
    }

    /// `sequence-set` without `$`.
    pub(crate) fn sequence_set(&mut self) -> Parsed<SequenceSet> {
        let mut ranges = Vec::new();
        loop {
            let first = self.set_end()?;
            let last = if self.take(b':') { self.set_end()? } else { first };
            ranges.push((first, last));
            if !self.take(b',') {
                return SequenceSet::new(ranges).ok_or(Fault("Malformed set of messages"));
            }
        }
    }

    /// ```abnf
    /// seq-number = nz-number / "*"
    /// ```
    pub(crate) fn set_end(&mut self) -> Parsed<SetEnd> {
        if self.take(b'*') {
            return Ok(SetEnd::Largest);
        }
        match self.number() {
            Ok(0) => Err(Fault("Message numbers begin with 1")),
            Ok(n) => Ok(SetEnd::Number(n)),
            Err(_) => Err(Fault("Malformed set of messages")),
        }
    }

    /// A sequence set without `*`.
    pub(crate) fn known_set(&mut self) -> Parsed<SequenceSet> {
        let set = self.sequence_set()?;
        if set.ranges().iter().any(|(a, b)| *a == SetEnd::Largest || *b == SetEnd::Largest) {
            return Err(Fault("* cannot stand in this set"));
        }
        Ok(set)
    }

    /// ```abnf
    /// uid-set = (uniqueid / uid-range) *("," uid-set)
    /// ```
    pub(crate) fn uid_set(&mut self) -> Parsed<UidSet> {
        let mut ranges = self.known_set()?.ranges().to_vec();
        // Inserting in order keeps a long set cheap, however it was written.
        ranges.sort_by_key(|(a, b)| (number(*a).min(number(*b)), number(*b)));
        let mut set = UidSet::new();
        for (a, b) in ranges {
            let (a, b) = (number(a), number(b));
            set.insert_range(a.min(b), a.max(b));
        }
        Ok(set)
    }

    /// ```abnf
    /// date-time = DQUOTE date-day-fixed "-" date-month "-" date-year SP time SP zone DQUOTE
    /// ```
    pub(crate) fn date_time(&mut self) -> Parsed<InternalDate> {
        let fault = Fault("Malformed date");
        self.expect(b'"', fault.0)?;
        let text = self.run(|b| b != b'"' && b.is_ascii() && b >= b' ');
        self.expect(b'"', fault.0)?;
        std::str::from_utf8(text).ok().and_then(InternalDate::parse).ok_or(fault)
    }
}

fn number(end: SetEnd) -> u32 {
    match end {
        SetEnd::Number(n) => n,
        SetEnd::Largest => u32::MAX,
    }
}

/// ASCII text in upper case. Octets that are not ASCII, which no atom has, are dropped.
pub(crate) fn upper(octets: &[u8]) -> Box<str> {
    octets.iter().filter(|b| b.is_ascii()).map(|b| char::from(b.to_ascii_uppercase())).collect()
}

/// ASCII text as it is.
pub(crate) fn ascii(octets: &[u8]) -> Box<str> {
    octets.iter().filter(|b| b.is_ascii()).map(|b| char::from(*b)).collect()
}
