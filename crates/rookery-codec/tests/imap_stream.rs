//! Framing: literals, APPEND, limits, and hostile input.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use proptest::prelude::*;
use rookery_codec::imap::Tag;
use rookery_codec::imap::command::{AppendSource, Replaced};
use rookery_codec::imap::server::{Decoded, Decoder, Limits};

/// What comes out, one word an event; message octets are joined. `plan`: accept each message, or refuse it.
fn events(input: &[u8], cuts: &[usize], limits: Limits, accept: bool) -> Vec<String> {
    let mut decoder = Decoder::new(limits);
    let mut events: Vec<String> = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let mut from = 0;
    for cut in cuts {
        decoder.push(&input[from..cut]);
        from = cut;
        loop {
            let event = match decoder.next() {
                Decoded::NeedMore => break,
                Decoded::Command(tagged) => format!("{tagged:?}"),
                Decoded::Bad(bad) => format!("bad {:?} {}", bad.tag.as_ref().map(Tag::as_str), bad.text),
                Decoded::AppendStart { tag, message, replaced, .. } => {
                    if accept {
                        decoder.accept_append()
                    } else {
                        decoder.refuse_append()
                    }
                    let what = match replaced {
                        Some(Replaced { uid, message }) => format!("replace {uid} {message:?}"),
                        None => "append".to_string(),
                    };
                    match message.source {
                        AppendSource::Literal(literal) => format!("{what} {tag} {}", literal.octets),
                        AppendSource::Catenate => format!("{what} {tag} of parts"),
                    }
                }
                Decoded::AppendUrl(url) => format!("url {}", String::from_utf8_lossy(&url)),
                Decoded::AppendText(literal) => {
                    if literal.octets < 4 {
                        decoder.accept_append()
                    } else {
                        decoder.refuse_append()
                    }
                    format!("text {} {}", literal.octets, literal.utf8)
                }
                Decoded::AppendData(octets) => {
                    let text = String::from_utf8_lossy(&octets).into_owned();
                    match events.last_mut().filter(|last| last.starts_with("data ")) {
                        Some(last) => {
                            last.push_str(&text);
                            continue;
                        }
                        None => format!("data {text}"),
                    }
                }
                other => format!("{other:?}"),
            };
            events.push(event);
        }
    }
    events
}

fn whole(input: &str) -> Vec<String> {
    events(input.as_bytes(), &[], Limits::LOGGED_IN, true)
}

const NOOP: &str = "z NOOP\r\n";
const NOOP_SEEN: &str = "Tagged { tag: Tag(z), command: Noop }";

#[test]
fn append_is_streamed() {
    assert_eq!(
        whole("a APPEND x (\\Seen) {5}\r\nhello\r\nz NOOP\r\n"),
        ["append a 5", "Continue", "data hello", "AppendEnd { more: false }", NOOP_SEEN]
    );
    assert_eq!(
        whole("a APPEND {1+}\r\nx \" 1-Jan-2024 10:00:00 +0100\" ~{3+}\r\n\0bc\r\nz NOOP\r\n"),
        ["append a 3", "data \0bc", "AppendEnd { more: false }", NOOP_SEEN]
    );
    assert_eq!(
        whole("a APPEND x {1+}\r\na (\\Flagged) {2}\r\nbc UTF8 (~{1+}\r\nd)\r\nz NOOP\r\n"),
        [
            "append a 1",
            "data a",
            "AppendEnd { more: true }",
            "append a 2",
            "Continue",
            "data bc",
            "AppendEnd { more: true }",
            "append a 1",
            "data d",
            "AppendEnd { more: false }",
            NOOP_SEEN
        ]
    );
    assert_eq!(
        whole("a APPEND x {0+}\r\n\r\nz NOOP\r\n"),
        ["append a 0", "AppendEnd { more: false }", NOOP_SEEN]
    );
}

#[test]
fn messages_of_parts_are_told_part_by_part() {
    assert_eq!(
        whole(
            "a APPEND x (\\Seen) CATENATE (URL \"/x;UID=1\" TEXT {2}\r\nab URL {3+}\r\n/b; TEXT ~{1+}\r\nc)\r\nz NOOP\r\n"
        ),
        [
            "append a of parts",
            "url /x;UID=1",
            "text 2 false",
            "Continue",
            "data ab",
            "url /b;",
            "text 1 false",
            "data c",
            "AppendEnd { more: false }",
            NOOP_SEEN
        ]
    );
    // Without a literal, with a literal for an argument, and several messages.
    assert_eq!(
        whole(
            "a APPEND {1+}\r\nx CATENATE (URL u URL {1}\r\nv) {3+}\r\nabc CATENATE (UTF8 (~{1+}\r\nd) URL w) catenate (url y)\r\nz NOOP\r\n"
        ),
        [
            "Continue",
            "append a of parts",
            "url u",
            "url v",
            "AppendEnd { more: true }",
            "append a 3",
            "data abc",
            "AppendEnd { more: true }",
            "append a of parts",
            "text 1 true",
            "data d",
            "url w",
            "AppendEnd { more: true }",
            "append a of parts",
            "url y",
            "AppendEnd { more: false }",
            NOOP_SEEN
        ]
    );
}

#[test]
fn replace_is_an_append_of_one_message() {
    assert_eq!(
        whole("a REPLACE 4 Drafts (\\Seen \\Draft) {3+}\r\nabc\r\nz NOOP\r\n"),
        ["replace false Number(4) a 3", "data abc", "AppendEnd { more: false }", NOOP_SEEN]
    );
    assert_eq!(
        whole("a UID REPLACE * Drafts CATENATE (URL x)\r\nz NOOP\r\n"),
        ["replace true Largest a of parts", "url x", "AppendEnd { more: false }", NOOP_SEEN]
    );
    for (input, text) in [
        ("a REPLACE 4 x {3+}\r\nabc {1+}\r\nd\r\n", "REPLACE takes one message"),
        ("a REPLACE 0 x {3+}\r\nabc\r\n", "Message numbers begin with 1"),
        ("a REPLACE 1:2 x {3+}\r\nabc\r\n", "Missing argument or space"),
        ("a APPEND x CATENATE ()\r\n", "Unknown part of CATENATE"),
        ("a APPEND x CATENATE (URL y\r\n", "Missing argument or space"),
        ("a APPEND x CATENATE (TEXT abc)\r\n", "APPEND must end with a literal"),
    ] {
        let events = whole(&format!("{input}{NOOP}"));
        assert_eq!(
            events[events.len() - 2..],
            [format!("bad Some(\"a\") {text}"), NOOP_SEEN.into()],
            "{input}"
        );
    }
}

#[test]
fn a_refused_part_ends_the_append() {
    for (input, last) in [
        ("a APPEND x CATENATE (URL u TEXT {9}\r\n", "text 9 false"),
        ("a APPEND x CATENATE (TEXT {9+}\r\n123456789 URL u TEXT {1+}\r\nx URL v)\r\n", "text 9 false"),
        ("a APPEND x CATENATE (TEXT {1+}\r\n1 TEXT {5}\r\n", "text 5 false"),
    ] {
        let events = whole(&format!("{input}{NOOP}"));
        assert_eq!(events[events.len() - 2..], [last, NOOP_SEEN], "{input}");
    }
    let refused = |input: &str| events(input.as_bytes(), &[], Limits::LOGGED_IN, false);
    for input in ["CATENATE (URL u URL v)", "CATENATE (URL u TEXT {3}", "CATENATE (TEXT {3+}\r\nabc URL x)"] {
        let events = refused(&format!("a APPEND x {input}\r\nz NOOP\r\n"));
        assert_eq!(events, ["append a of parts", NOOP_SEEN], "{input}");
    }
}

#[test]
fn a_refused_append_is_over() {
    let refused = |input: &str| events(input.as_bytes(), &[], Limits::LOGGED_IN, false);
    assert_eq!(refused("a APPEND x {5}\r\nz NOOP\r\n"), ["append a 5", NOOP_SEEN]);
    assert_eq!(
        refused("a APPEND x {5+}\r\nhello (\\Seen) {3+}\r\nfoo\r\nz NOOP\r\n"),
        ["append a 5", NOOP_SEEN]
    );
    // The second literal waits for a `+` that does not come.
    assert_eq!(refused("a APPEND x {5+}\r\nhello {3}\r\nz NOOP\r\n"), ["append a 5", NOOP_SEEN]);
}

#[test]
fn a_bad_append_leaves_the_stream_in_step() {
    let cases = [
        ("a APPEND x (\\Bogus) {5+}\r\nhello\r\n", vec!["bad Some(\"a\") Unknown system flag"]),
        ("a APPEND x (\\Bogus) {5}\r\n", vec!["bad Some(\"a\") Unknown system flag"]),
        ("a APPEND x {99999999}\r\n", vec!["bad Some(\"a\") Message too large"]),
        (
            "a APPEND x {3+}\r\nabcjunk\r\n",
            vec!["append a 3", "data abc", "bad Some(\"a\") Missing argument or space"],
        ),
        (
            "a APPEND x {3+}\r\nabc bogus {4+}\r\nb NO\r\n",
            vec!["append a 3", "data abc", "bad Some(\"a\") Unknown form of APPEND data"],
        ),
        ("a APPEND x {3+}\r\na\0c\r\n", vec!["append a 3", "data a", "bad Some(\"a\") Message holds NUL"]),
    ];
    for (input, mut expected) in cases {
        expected.push(NOOP_SEEN);
        assert_eq!(whole(&format!("{input}{NOOP}")), expected, "{input:?}");
    }
}

#[test]
fn literals_within_the_limits_are_taken_and_others_not() {
    assert_eq!(whole("a LOGIN {1}\r\nx {1+}\r\ny\r\n")[0], "Continue");
    let cases = [
        ("a LOGIN {70000}\r\n", "bad Some(\"a\") Literal too large"),
        ("a LOGIN {4294967296}\r\n", "bad Some(\"a\") Literal too large"),
        ("a LOGIN {99999999999999999999999}\r\n", "bad Some(\"a\") Literal too large"),
        ("a LOGIN x{3}\r\n", "bad Some(\"a\") Misplaced literal"),
        ("a LOGIN x{3+}\r\nabc y\r\n", "bad Some(\"a\") Misplaced literal"),
        ("a LOGIN {abc}\r\n", "bad Some(\"a\") Malformed literal"),
        ("a LOGIN {-1}\r\n", "bad Some(\"a\") Malformed literal"),
        ("a LOGIN {3+}\r\na\0b x\r\n", "bad Some(\"a\") NUL in a literal"),
    ];
    for (input, expected) in cases {
        let found = whole(&format!("{input}{NOOP}"));
        let texts: Vec<&str> = found.iter().map(String::as_str).collect();
        if expected.ends_with("Malformed literal") {
            assert!(texts[0].starts_with("bad"), "{input}");
        } else {
            assert_eq!(texts[0], expected, "{input}");
        }
        assert_eq!(texts.last(), Some(&NOOP_SEEN), "{input}");
    }
    let big = format!("a LOGIN {{70000+}}\r\n{} x\r\n{NOOP}", "y".repeat(70_000));
    assert_eq!(whole(&big), ["bad Some(\"a\") Literal too large", NOOP_SEEN]);
    let minus = Limits { literal_minus: true, ..Limits::LOGGED_IN };
    let big = format!("a LOGIN {{4097+}}\r\n{} x\r\n{NOOP}", "y".repeat(4097));
    assert_eq!(
        events(big.as_bytes(), &[], minus, true),
        ["bad Some(\"a\") Literal too large for LITERAL-", NOOP_SEEN]
    );
    assert_eq!(whole("a LOGIN {99999999999999999999999+}\r\n"), ["Fatal { text: \"Literal too large\" }"]);
}

#[test]
fn hostile_lines_are_answered_in_bounded_memory() {
    let depth = |n: usize| format!("a SEARCH {}ALL{}\r\n", "(".repeat(n), ")".repeat(n));
    assert!(whole(&depth(50))[0].starts_with("Tagged"));
    assert_eq!(whole(&depth(51)), ["bad Some(\"a\") Nested too deep"]);
    assert_eq!(whole(&depth(20_000)), ["bad Some(\"a\") Nested too deep"]);
    assert_eq!(
        whole(&format!("a SEARCH {}ALL\r\n", "NOT ".repeat(9000))),
        ["bad Some(\"a\") Nested too deep"]
    );
    assert_eq!(whole(&format!("a SEARCH {}\r\n", "OR ".repeat(9000))), ["bad Some(\"a\") Nested too deep"]);
    let long = format!("{} NOOP\r\n{NOOP}", "t".repeat(65));
    assert_eq!(whole(&long), ["bad None Missing or malformed tag", NOOP_SEEN]);
    let long = format!("{}\r\n{NOOP}", "t".repeat(1_000_000));
    assert_eq!(whole(&long), ["bad None Command line too long", NOOP_SEEN]);
    let endless = "a LOGIN ".to_owned() + &"x".repeat(3_000_000);
    assert_eq!(
        whole(&endless),
        ["bad Some(\"a\") Command line too long", "Fatal { text: \"Line too long\" }"]
    );
    // Octets that nobody wants are not kept.
    let mut decoder = Decoder::new(Limits::BEFORE_LOGIN);
    decoder.push(b"a LOGIN {4294967295+}\r\n");
    assert!(matches!(decoder.next(), Decoded::Bad(_)));
    for _ in 0..100 {
        decoder.push(&[b'x'; 4096]);
        assert_eq!(decoder.next(), Decoded::NeedMore);
        assert!(decoder.buffer().is_empty());
    }
    let mut decoder = Decoder::new(Limits::BEFORE_LOGIN);
    for _ in 0..100 {
        decoder.push(&[b'x'; 4096]);
        while decoder.next() != Decoded::NeedMore {}
        assert!(decoder.buffer().len() <= 12 << 10);
    }
    assert_eq!(
        events(b"a APPEND x {5+}\r\nhello\r\nz NOOP\r\n", &[], Limits::BEFORE_LOGIN, true),
        ["bad Some(\"a\") APPEND is not allowed now", NOOP_SEEN]
    );
}

#[test]
fn lines_that_are_no_commands_are_asked_for() {
    let mut decoder = Decoder::new(Limits::LOGGED_IN);
    decoder.push(b"a IDLE\r\nDONE\r\nb NOOP\r\n");
    assert!(matches!(decoder.next(), Decoded::Command(_)));
    decoder.expect_line(10);
    assert_eq!(decoder.next(), Decoded::Line("DONE".into()));
    assert!(matches!(decoder.next(), Decoded::Command(_)));
    assert!(decoder.is_idle());
    decoder.expect_line(10);
    decoder.push(&[b'x'; 20]);
    assert!(matches!(decoder.next(), Decoded::Fatal { .. }));
    assert_eq!(decoder.next(), Decoded::NeedMore);
}

/// Lines that go well and lines that do not, in any order.
fn session() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        &b"a NOOP\r\n"[..],
        b"b LOGIN {3}\r\nfoo {2+}\r\nxy\r\n",
        b"c APPEND x {5+}\r\nhel\0o\r\n",
        b"c APPEND x {5+}\r\nhello (\\Seen) {3+}\r\nabc\r\n",
        b"c APPEND {1}\r\nx {5}\r\nhello junk {3+}\r\nabc\r\n",
        b"c APPEND x UTF8 (~{2+}\r\n\0\0)\r\n",
        b"c APPEND x CATENATE (URL {2+}\r\nab TEXT {3}\r\nabc",
        b" URL {1}\r\nx TEXT {1+}\r\ny)\r\n",
        b" TEXT {9+}\r\n123456789 URL x)\r\n",
        b"c UID REPLACE 7 x CATENATE (URL u)\r\n",
        b"d LOGIN {300+}\r\n",
        b"e SEARCH ((((ALL))))\n",
        b"\r\n",
        b"f FETCH 1 BODY[HEADER.FIELDS ({4}\r\nDate)]\r\n",
        b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        b" {7+}\r\n",
        b"{",
        b"\0",
    ]);
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        input in session(),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
        accept: bool,
        command_octets in 60usize..300,
    ) {
        let limits = Limits { command_octets, append_octets: 4, ..Limits::LOGGED_IN };
        for limits in [limits, Limits::LOGGED_IN] {
            let at_once = events(&input, &[], limits, accept);
            prop_assert_eq!(&events(&input, &cuts, limits, accept), &at_once);
            let every: Vec<usize> = (0..input.len()).collect();
            prop_assert_eq!(&events(&input, &every, limits, accept), &at_once);
        }
    }

    #[test]
    fn any_octets_are_answered(input in prop::collection::vec(any::<u8>(), 0..400)) {
        events(&input, &[], Limits::LOGGED_IN, true);
    }
}

#[test]
fn input_can_be_taken_out_between_commands() {
    // RFC 9051 §6.2.1: what was sent in the clear behind STARTTLS must not be read as if it came by TLS.
    let mut decoder = Decoder::new(Limits::BEFORE_LOGIN);
    decoder.push(b"a STARTTLS\r\nb LOGIN x y\r\n");
    assert!(matches!(decoder.next(), Decoded::Command(_)));
    assert_eq!(&decoder.take_input()[..], b"b LOGIN x y\r\n");
    decoder.push(NOOP.as_bytes());
    assert!(matches!(decoder.next(), Decoded::Command(_)));
    assert_eq!(decoder.next(), Decoded::NeedMore);
}
