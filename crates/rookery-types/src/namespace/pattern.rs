//! The patterns of LIST and LSUB (RFC 9051 §6.3.9): `*` stands for anything, `%` for anything without a separator.
//!
//! The pattern is run as an automaton whose states are bits: one for each octet of literal text that has been
//! matched, with wildcards as loops on a state. A name costs its length times an eighth of a word for each octet of
//! the pattern, whatever the pattern: there is nothing to go back to, so nothing blows up.

use super::{Encoding, SEPARATOR};
use crate::name::NameError;

const INBOX: &str = "INBOX";
const WORD_BITS: usize = 64;

/// A reference and pattern, ready to match names in the client's view, decoded ([`ClientNames::show`]).
///
/// Names are compared octet by octet; only a first component `INBOX` matches in any case. A pattern says nothing
/// about mailboxes that are not there: for `%` the caller also offers the parents of names that are.
///
/// [`ClientNames::show`]: super::ClientNames::show
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The literal text, without wildcards.
    literal: String,
    /// Octets of `literal` before the first wildcard; `None` if there is none.
    wildcard_at: Option<usize>,
    /// For each octet the states that it takes one further; `words` for each.
    steps: Vec<u64>,
    /// The states that `*` stands on.
    star: Vec<u64>,
    /// The states that `%` or `*` stands on.
    percent: Vec<u64>,
}

fn set(bits: &mut [u64], at: usize) {
    if let Some(word) = bits.get_mut(at / WORD_BITS) {
        *word |= 1 << (at % WORD_BITS);
    }
}

impl Pattern {
    /// Octets in the longest reference and pattern together: longer than any name.
    pub const OCTETS_MAX: usize = 1500;

    /// Reads a pattern from the wire.
    pub fn from_wire(reference: &[u8], pattern: &[u8], encoding: Encoding) -> Result<Pattern, NameError> {
        Pattern::new(&encoding.decode(reference)?, &encoding.decode(pattern)?)
    }

    /// The reference is put before the pattern as it is (RFC 9051 §6.3.9); wildcards in it are wildcards.
    pub fn new(reference: &str, pattern: &str) -> Result<Pattern, NameError> {
        let text = format!("{reference}{pattern}");
        if text.len() > Pattern::OCTETS_MAX {
            return Err(NameError::TooLong(Pattern::OCTETS_MAX));
        }
        let literal: String = text.chars().filter(|c| !matches!(c, '*' | '%')).collect();
        let words = literal.len() / WORD_BITS + 1;
        let (mut star, mut percent) = (vec![0; words], vec![0; words]);
        let mut steps = vec![0; 256 * words];
        let mut state = 0;
        for octet in text.bytes() {
            match octet {
                b'*' => {
                    set(&mut star, state);
                    set(&mut percent, state);
                }
                b'%' => set(&mut percent, state),
                _ => {
                    set(&mut steps[usize::from(octet) * words..], state);
                    state += 1;
                }
            }
        }
        Ok(Pattern { wildcard_at: text.find(['*', '%']), literal, steps, star, percent })
    }

    /// Whether the name matches.
    pub fn matches(&self, name: &str) -> bool {
        let end = self.literal.len();
        let ends = |states: Vec<u64>| {
            states.get(end / WORD_BITS).is_some_and(|word| word >> (end % WORD_BITS) & 1 == 1)
        };
        self.run(name).is_some_and(ends)
    }

    /// Whether a name that begins so can match.
    pub fn reaches(&self, beginning: &str) -> bool {
        self.run(beginning).is_some()
    }

    /// The states after a text; `None` if there are none.
    fn run(&self, name: &str) -> Option<Vec<u64>> {
        let words = self.star.len();
        let inbox = if super::split_first(name).0 == INBOX { INBOX.len() } else { 0 };
        let mut states = vec![0u64; words];
        set(&mut states, 0);
        for (at, octet) in name.bytes().enumerate() {
            let steps = self.steps_of(octet);
            let other_case = if at < inbox { self.steps_of(octet.to_ascii_lowercase()) } else { steps };
            let loops = if octet == SEPARATOR as u8 { &self.star } else { &self.percent };
            let mut carry = 0;
            let mut alive = 0;
            for ((state, (step, other)), stay) in
                states.iter_mut().zip(steps.iter().zip(other_case)).zip(loops)
            {
                let stepping = *state & (step | other);
                let staying = *state & stay;
                *state = stepping << 1 | carry | staying;
                carry = stepping >> (WORD_BITS - 1);
                alive |= *state;
            }
            if alive == 0 {
                return None;
            }
        }
        Some(states)
    }

    fn steps_of(&self, octet: u8) -> &[u64] {
        let words = self.star.len();
        let from = usize::from(octet) * words;
        self.steps.get(from..from + words).unwrap_or(&[])
    }

    /// Whether there is no wildcard: the pattern names one mailbox.
    pub fn is_literal(&self) -> bool {
        self.wildcard_at.is_none()
    }

    /// Whether there is neither name nor wildcard: the client asks for the separator (RFC 9051 §6.3.9).
    pub fn is_empty(&self) -> bool {
        self.is_literal() && self.literal.is_empty()
    }

    /// What every matching name begins with, for the look-up of candidates. Shorter than the literal text where
    /// INBOX matches in another case.
    pub fn literal_prefix(&self) -> String {
        let prefix = self.literal.get(..self.wildcard_at.unwrap_or(self.literal.len())).unwrap_or("");
        let (first, rest) = super::split_first(prefix);
        let first_is_whole = rest.is_some() || self.is_literal();
        match first.eq_ignore_ascii_case(INBOX.get(..first.len()).unwrap_or("")) {
            // `inbox/%`: names in this view have it in capitals.
            true if first_is_whole && first.len() == INBOX.len() => {
                let mut upper = INBOX.to_string();
                super::push_path(&mut upper, rest);
                upper
            }
            // `inb%` may be INBOX or inbetween.
            true if !first_is_whole => common(first, INBOX),
            _ => prefix.to_string(),
        }
    }
}

fn common(a: &str, b: &str) -> String {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new("", pattern).unwrap().matches(name)
    }

    #[test]
    fn wildcards() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "a/b/c", "INBOX"][..], &[][..]),
            ("%", &["a", "INBOX", "a.b"], &["a/b", "a/"]),
            ("%/%", &["a/b"], &["a", "a/b/c"]),
            ("a*b", &["ab", "a/b", "axb"], &["a", "b", "abc", "xab"]),
            ("a%b", &["ab", "axb", "abab"], &["a/b"]),
            ("%b%c", &["abbc", "bc", "bbcc"], &["b/c", "bcd"]),
            ("*/%", &["a/b", "a/b/c"], &["a"]),
            ("%*", &["a/b", ""], &[]),
            ("*%", &["a/b", ""], &[]),
            ("a", &["a"], &["A", "aa", ""]),
            ("Entw%e", &["Entwürfe"], &["entwürfe"]),
            ("?[a]", &["?[a]"], &["xa"]),
            ("", &[""], &["a"]),
        ] {
            for name in yes {
                assert!(matches(pattern, name), "{pattern:?} {name:?}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern:?} {name:?}");
            }
        }
    }

    #[test]
    fn inbox_matches_in_any_case_and_nothing_else_does() {
        for pattern in ["INBOX", "inbox", "InBox", "inb%", "%ox", "*BOX", "i*x"] {
            assert!(matches(pattern, "INBOX"), "{pattern}");
        }
        assert!(matches("inbox/%", "INBOX/x") && !matches("inbox/%", "INBOX/x/y"));
        assert!(!matches("INBOX/X", "INBOX/x"));
        assert!(!matches("inboxes", "INBOXES") && !matches("a/inbox", "a/INBOX"));
    }

    #[test]
    fn the_reference_goes_before() {
        let pattern = Pattern::new("Shared/", "%").unwrap();
        assert!(pattern.matches("Shared/team") && !pattern.matches("team"));
        assert!(Pattern::from_wire(b"", b"Entw&APw-%", Encoding::Utf7).unwrap().matches("Entwürfe"));
        assert!(Pattern::from_wire(b"", b"\xff*", Encoding::Utf8).is_err());
        assert!(Pattern::new(&"x".repeat(1400), &"*".repeat(101)).is_err());
        assert!(Pattern::new("", "").unwrap().is_empty());
    }

    #[test]
    fn prefixes() {
        for (pattern, prefix) in [
            ("*", ""),
            ("a/b%", "a/b"),
            ("a/b", "a/b"),
            ("inbox", "INBOX"),
            ("inbox/a*", "INBOX/a"),
            ("inb%", ""),
            ("INB%", "INB"),
            ("INbetween%", "INbetween"),
            ("inbox*", ""),
            ("Infos/%", "Infos/"),
            ("in", "in"),
            ("éa*", "éa"),
            ("I/%", "I/"),
        ] {
            assert_eq!(Pattern::new("", pattern).unwrap().literal_prefix(), prefix, "{pattern}");
        }
    }

    #[test]
    fn patterns_of_the_worst_kind_end() {
        // By going back this would take longer than the universe has lasted; the test would never end.
        let name = "a".repeat(1000);
        for part in ["*a", "%a", "*a%a"] {
            let pattern = Pattern::new("", &format!("{}b", part.repeat(1400 / part.len()))).unwrap();
            assert!(!pattern.matches(&name));
        }
        assert!(matches(&"*a".repeat(300), &name) && matches(&"%a".repeat(300), &name));
        assert!(matches(&format!("{}b", "%a".repeat(300)), &format!("{name}b")));
    }

    /// The definition, for short texts only.
    fn by_definition(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) | (Some((b'%', rest)), None) => by_definition(rest, name),
            (Some((b'*', rest)), Some((_, after))) => {
                by_definition(rest, name) || by_definition(pattern, after)
            }
            (Some((b'%', rest)), Some((c, after))) => {
                by_definition(rest, name) || (*c != b'/' && by_definition(pattern, after))
            }
            (Some((p, rest)), Some((c, after))) => p == c && by_definition(rest, after),
            _ => false,
        }
    }

    #[test]
    fn what_a_pattern_reaches() {
        let reaches = |pattern: &str, beginning| Pattern::new("", pattern).unwrap().reaches(beginning);
        assert!(reaches("*", "Shared/") && reaches("Shared/%", "Shared/") && reaches("S*x", "Shared/"));
        assert!(!reaches("%", "Shared/") && !reaches("Shared", "Shared/") && !reaches("Other*", "Shared/"));
        assert!(reaches("%", ""));
    }

    proptest! {
        #[test]
        fn it_matches_what_the_definition_matches(pattern in "[ab/*%]{0,8}", name in "[ab/]{0,10}") {
            prop_assert_eq!(matches(&pattern, &name), by_definition(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn long_patterns_too(head in "[ab]{60,70}", pattern in "[ab/*%]{0,6}", name in "[ab/]{0,8}") {
            let (pattern, name) = (format!("{head}{pattern}"), format!("{head}{name}"));
            prop_assert_eq!(matches(&pattern, &name), by_definition(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn a_match_begins_with_the_prefix(
            pattern in "[iInN]{0,2}[INBOXinbox/]{0,5}[*%]?[a/*%]{0,2}", name in "(INBOX|INB|in|I)?[/aX]{0,3}"
        ) {
            let pattern = Pattern::new("", &pattern).unwrap();
            if pattern.matches(&name) {
                prop_assert!(name.starts_with(&pattern.literal_prefix()));
            }
        }
    }
}
