//! The base subject, by which SORT and THREAD compare (RFC 5256 §2.1).

/// Rounds of taking away; each one shortens the subject, so this bounds only hostile nesting.
const ROUNDS_MAX: usize = 200;

/// A subject without "Re:", list tags and the like.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BaseSubject {
    /// What remains; may be empty.
    pub text: String,
    /// Whether something was taken away that marks a reply or a forward (RFC 5256 §3, REFERENCES, step 5).
    pub is_reply_or_forward: bool,
}

/// The base subject of a decoded subject ([`decode_words`](crate::decode_words)).
pub fn base_subject(subject: &str) -> BaseSubject {
    // Step 1: tabs and continuations become spaces, many spaces one.
    let mut line = String::with_capacity(subject.len());
    for c in subject.chars() {
        let c = if matches!(c, '\t' | '\r' | '\n') { ' ' } else { c };
        if c != ' ' || !line.ends_with(' ') {
            line.push(c);
        }
    }
    let mut text = line.as_str();
    let mut marked = false;
    for _ in 0..ROUNDS_MAX {
        // Step 2: trailers.
        loop {
            text = text.trim_end_matches(' ');
            match strip_suffix_ascii(text, "(fwd)") {
                Some(shorter) => {
                    text = shorter;
                    marked = true;
                }
                None => break,
            }
        }
        // Steps 3 to 5: leaders, and a blob that leaves something behind it.
        for _ in 0..ROUNDS_MAX {
            if let Some(shorter) = text.strip_prefix(' ') {
                text = shorter;
            } else if let Some(shorter) = strip_reply(text) {
                text = shorter;
                marked = true;
            } else if let Some(shorter) = strip_blob(text).filter(|shorter| !shorter.is_empty()) {
                text = shorter;
            } else {
                break;
            }
        }
        // Step 6: a forward in brackets.
        let inner = strip_prefix_ascii(text, "[fwd:").and_then(|text| text.strip_suffix(']'));
        match inner {
            Some(inner) => {
                text = inner;
                marked = true;
            }
            None => break,
        }
    }
    BaseSubject { text: text.to_owned(), is_reply_or_forward: marked }
}

/// `*subj-blob subj-refwd`.
fn strip_reply(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(shorter) = strip_blob(rest) {
        rest = shorter;
    }
    let rest = ["re", "fwd", "fw"].iter().find_map(|word| strip_prefix_ascii(rest, word))?;
    let rest = rest.trim_start_matches(' ');
    let rest = strip_blob(rest).unwrap_or(rest);
    rest.strip_prefix(':')
}

/// `"[" *BLOBCHAR "]" *WSP`.
fn strip_blob(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?;
    let end = inner.find(['[', ']'])?;
    inner.get(end..)?.strip_prefix(']').map(|rest| rest.trim_start_matches(' '))
}

fn strip_prefix_ascii<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn strip_suffix_ascii<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let (rest, tail) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    tail.eq_ignore_ascii_case(suffix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_subjects() {
        for (subject, base, marked) in [
            ("hello", "hello", false),
            ("Re: hello", "hello", true),
            ("RE:re : Fwd: FW: \thello  (fwd) (FWD) ", "hello", true),
            ("[list] Re: [list] hello world", "hello world", true),
            ("[only a blob]", "[only a blob]", false),
            ("Re[2]: hello", "hello", true),
            ("Re: [list]", "[list]", true),
            ("[Fwd: Re: hello]", "hello", true),
            ("[fwd: hello", "[fwd: hello", false),
            ("[a [b] c] x", "[a [b] c] x", false),
            ("regarding: x", "regarding: x", false),
            ("Re:", "", true),
            ("", "", false),
            ("(fwd)", "", true),
            ("a   b\tc", "a b c", false),
        ] {
            let got = base_subject(subject);
            assert_eq!((got.text.as_str(), got.is_reply_or_forward), (base, marked), "{subject:?}");
        }
    }

    #[test]
    fn hostile_nesting_ends() {
        base_subject(&"[".repeat(100_000));
        base_subject(&"[fwd:".repeat(20_000));
        base_subject(&"re:[]".repeat(20_000));
    }
}
