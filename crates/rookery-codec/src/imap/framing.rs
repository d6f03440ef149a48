//! Where lines end, and which of them announce a literal. Shared by both directions.

/// Octets looked at for an announcement at the end of a line: `~{`, 20 digits and more, `+}`, CR.
pub(crate) const TAIL_OCTETS: usize = 64;

/// `{n}` at the end of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Announcement {
    /// How many octets follow the line end; `None`: more than 63 bits can say.
    pub(crate) octets: Option<u64>,
    /// The sender waits for `+`.
    pub(crate) synchronising: bool,
    /// Whether it stands where a string can begin.
    pub(crate) well_placed: bool,
}

/// Reads the announcement at the end of a line, whose line end is cut off. Only the last
/// [`TAIL_OCTETS`] are looked at, so a decoder that drops a line needs to keep no more.
///
/// ```abnf
/// literal = "{" number64 ["+"] "}" CRLF *CHAR8    ; literal8 with "~" before it
/// ```
pub(crate) fn announcement(line: &[u8]) -> Option<Announcement> {
    let tail = line.get(line.len().saturating_sub(TAIL_OCTETS - 2)..)?;
    let inner = tail.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inner)?;
    let (before, inner) = (inner.get(..open)?, inner.get(open + 1..)?);
    let (digits, synchronising) = match inner.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (inner, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let octets = digits.iter().try_fold(0u64, |n, digit| {
        n.checked_mul(10)?.checked_add(u64::from(digit - b'0')).filter(|n| *n <= i64::MAX as u64)
    });
    let before = before.strip_suffix(b"~").unwrap_or(before);
    let well_placed = matches!(before.last(), Some(b' ' | b'('));
    Some(Announcement { octets, synchronising, well_placed })
}

/// The line without its CRLF or bare LF.
pub(crate) fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_found_at_the_end_alone() {
        let octets = |line: &[u8]| announcement(line).map(|a| (a.octets, a.synchronising, a.well_placed));
        assert_eq!(octets(b"a LOGIN {3}"), Some((Some(3), true, true)));
        assert_eq!(octets(b"a X (~{30+}"), Some((Some(30), false, true)));
        assert_eq!(octets(b"a X b{3}"), Some((Some(3), true, false)));
        assert_eq!(octets(b"a X {9223372036854775808}"), Some((None, true, true)));
        for plain in [&b"a X {}"[..], b"a X {+}", b"a X {3} ", b"a X {-3}", b"a X {3++}", b"}", b"", b"a 3}"]
        {
            assert_eq!(announcement(plain), None, "{plain:?}");
        }
        assert_eq!(announcement(format!("a {{{:0>70}}}", 3).as_bytes()), None);
    }
}
