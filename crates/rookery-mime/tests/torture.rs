//! Messages that go wrong in one way each: what their sections are, and what BODYSTRUCTURE says.

#![allow(clippy::unwrap_used)]

mod grammar;

use grammar::{check_message, scan, scan_in_pieces, section};
use proptest::prelude::*;
use rookery_mime::SectionText::{Header, Mime, Text, Whole};
use rookery_mime::{Limits, PartKind, Scanner, SectionText};

/// The sections of `message` by number, and BODY.
fn check(message: &str, body: &str, sections: &[(&[u32], SectionText, Option<&str>)]) {
    for message in [message.to_owned(), message.replace("\r\n", "\n")] {
        let is_crlf = message.contains('\r');
        let scanned = scan(message.as_bytes());
        check_message(message.as_bytes(), &scanned);
        let one = scan_in_pieces(message.as_bytes(), || 1);
        assert_eq!(one.structure(), scanned.structure());
        if is_crlf {
            assert_eq!(String::from_utf8_lossy(&scanned.body()), body);
        }
        for (parts, text, expected) in sections {
            let got = section(scanned.structure(), parts, *text).map(|range| &message[range]);
            let expected = expected.map(|e| if is_crlf { e.to_owned() } else { e.replace("\r\n", "\n") });
            assert_eq!(got, expected.as_deref(), "{parts:?} {text:?}");
        }
    }
}

const PLAIN: &str = r#""TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT""#;

#[test]
fn a_message_that_is_no_multipart() {
    check(
        "Subject: x\r\n\r\nhello\r\n",
        &format!("({PLAIN} 7 1)"),
        &[
            (&[], Whole, Some("Subject: x\r\n\r\nhello\r\n")),
            (&[], Header, Some("Subject: x\r\n\r\n")),
            (&[], Text, Some("hello\r\n")),
            (&[], Mime, None),
            (&[1], Whole, Some("hello\r\n")),
            (&[1], Mime, Some("Subject: x\r\n\r\n")),
            (&[1], Header, None),
            (&[1], Text, None),
            (&[1, 1], Whole, None),
            (&[2], Whole, None),
            (&[0], Whole, None),
        ],
    );
}

#[test]
fn without_header_without_blank_line_or_without_anything() {
    check("\r\nbody", &format!("({PLAIN} 4 0)"), &[(&[], Header, Some("\r\n")), (&[1], Whole, Some("body"))]);
    check(
        "A: b\r\nC: d",
        &format!("({PLAIN} 0 0)"),
        &[(&[], Header, Some("A: b\r\nC: d")), (&[], Text, Some(""))],
    );
    check("A: b\r\n\r\n", &format!("({PLAIN} 0 0)"), &[(&[1], Whole, Some(""))]);
    check("", &format!("({PLAIN} 0 0)"), &[(&[], Whole, Some("")), (&[1], Whole, Some(""))]);
}

/// The example of RFC 9051 §6.4.5, cut down.
#[test]
fn sections_of_held_messages() {
    let message = "Content-Type: multipart/mixed; boundary=a\r\n\r\npreamble\r\n\
        --a\r\n\r\none\r\n\
        --a\r\nContent-Type: message/rfc822\r\n\r\nSubject: held\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\n\r\nthree one\r\n--b\r\nX: y\r\n\r\nthree two\r\n--b--\r\n\
        --a\r\nContent-Type: message/rfc822\r\n\r\nSubject: plain\r\n\r\ntext\r\n\
        --a--\r\nepilogue\r\n";
    let held = "Subject: held\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";
    let body = "--b\r\n\r\nthree one\r\n--b\r\nX: y\r\n\r\nthree two\r\n--b--";
    let envelope = |subject: &str| format!("(NIL \"{subject}\" NIL NIL NIL NIL NIL NIL NIL NIL)");
    let message_type = r#""MESSAGE" "RFC822" NIL NIL NIL "7BIT""#;
    check(
        message,
        &format!(
            "(({PLAIN} 3 0)({message_type} {} {} (({PLAIN} 9 0)({PLAIN} 9 0) \"MIXED\") 10)({message_type} 22 {} ({PLAIN} 4 0) 2) \"MIXED\")",
            held.len() + body.len(),
            envelope("held"),
            envelope("plain")
        ),
        &[
            (&[1], Whole, Some("one")),
            (&[1], Mime, Some("\r\n")),
            (&[2], Whole, Some(&format!("{held}{body}"))),
            (&[2], Mime, Some("Content-Type: message/rfc822\r\n\r\n")),
            (&[2], Header, Some(held)),
            (&[2], Text, Some(body)),
            (&[2, 1], Whole, Some("three one")),
            (&[2, 2], Whole, Some("three two")),
            (&[2, 2], Mime, Some("X: y\r\n\r\n")),
            (&[2, 3], Whole, None),
            (&[3, 1], Whole, Some("text")),
            (&[3, 1], Mime, Some("Subject: plain\r\n\r\n")),
            (&[3, 2], Whole, None),
            (&[3, 1, 1], Whole, None),
            (&[3], Text, Some("text")),
            (&[4], Whole, None),
        ],
    );
}

#[test]
fn a_message_that_is_itself_a_held_message() {
    check(
        "Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\nx\r\n",
        &format!(
            "(\"MESSAGE\" \"RFC822\" NIL NIL NIL \"7BIT\" 18 (NIL \"in\" NIL NIL NIL NIL NIL NIL NIL NIL) ({PLAIN} 3 1) 3)"
        ),
        &[
            (&[1], Header, Some("Subject: in\r\n\r\n")),
            (&[1, 1], Whole, Some("x\r\n")),
            (&[], Text, Some("Subject: in\r\n\r\nx\r\n")),
        ],
    );
}

#[test]
fn boundaries_that_resemble_each_other() {
    let message = "Content-Type: multipart/mixed; boundary=\"x\"\r\n\r\n\
        --x  \t\r\nContent-Type: multipart/mixed; boundary=\"x-y\"\r\n\r\n--x-y\r\n\r\nin\r\n--x-yz\r\n--x-y-- \r\n\
        --x\r\n\r\n--xx\r\n-- x\r\nout\r\n--x--";
    check(
        message,
        &format!("((({PLAIN} 10 1) \"MIXED\")({PLAIN} 15 2) \"MIXED\")"),
        &[(&[1, 1], Whole, Some("in\r\n--x-yz")), (&[2], Whole, Some("--xx\r\n-- x\r\nout"))],
    );
    // The same boundary inside and outside: the inner one takes it until it is closed.
    let message = "Content-Type: multipart/mixed; boundary=s\r\n\r\n--s\r\n\
        Content-Type: multipart/mixed; boundary=s\r\n\r\n--s\r\n\r\na\r\n--s--\r\n--s\r\n\r\nb\r\n--s--\r\n";
    check(
        message,
        &format!("((({PLAIN} 1 0) \"MIXED\")({PLAIN} 1 0) \"MIXED\")"),
        &[(&[2], Whole, Some("b"))],
    );
}

#[test]
fn ends_that_are_missing() {
    let inner = "Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\
        Content-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\n\r\na\r\n--o\r\n\r\nb";
    check(
        inner,
        &format!("((({PLAIN} 1 0) \"ALTERNATIVE\")({PLAIN} 1 0) \"MIXED\")"),
        &[(&[1, 1], Whole, Some("a")), (&[2], Whole, Some("b"))],
    );
    // A part that ends inside its header.
    check(
        "Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\nX: 1\r\n--o\r\n--o\r\n\r\n--o--\r\n",
        &format!("(({PLAIN} 0 0)({PLAIN} 0 0)({PLAIN} 0 0) \"MIXED\")"),
        &[(&[1], Mime, Some("X: 1")), (&[2], Mime, Some("")), (&[3], Mime, Some("\r\n"))],
    );
}

#[test]
fn a_multipart_without_parts_holds_its_text() {
    let expected = format!("(({PLAIN} 6 1) \"MIXED\")");
    check("Content-Type: multipart/mixed\r\n\r\ntext\r\n", &expected, &[(&[1], Whole, Some("text\r\n"))]);
    check("Content-Type: multipart/mixed; boundary=\"\"\r\n\r\ntext\r\n", &expected, &[]);
    check("Content-Type: multipart/mixed; boundary=q\r\n\r\ntext\r\n", &expected, &[(&[1], Mime, Some(""))]);
    let closed = "Content-Type: multipart/mixed; boundary=q\r\n\r\n--q--\r\n";
    check(closed, &format!("(({PLAIN} 7 1) \"MIXED\")"), &[]);
}

#[test]
fn a_digest_holds_messages() {
    let message = "Content-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\nSubject: s\r\n\r\nt\r\n\
        --d\r\nContent-Type: text/plain\r\n\r\nu\r\n--d--\r\n";
    check(
        message,
        &format!(
            "((\"MESSAGE\" \"RFC822\" NIL NIL NIL \"7BIT\" 15 (NIL \"s\" NIL NIL NIL NIL NIL NIL NIL NIL) ({PLAIN} 1 0) 2)({PLAIN} 1 0) \"DIGEST\")"
        ),
        &[(&[1], Header, Some("Subject: s\r\n\r\n")), (&[1, 1], Whole, Some("t"))],
    );
}

#[test]
fn extension_data_and_8_bit_headers() {
    let message =
        b"Content-Type: image/png; name=\"caf\xe9\"\r\nContent-MD5: abc==\r\nContent-Language: en, de\r\n\
        Content-Disposition: attachment; FileName*0=a; FileName*1=b\r\nContent-Location: http://x/\r\n\
        Content-ID: <i@d>\r\nContent-Description: d\0\r\nContent-Transfer-Encoding: base64 (x)\r\n\r\nAAAA";
    let scanned = scan(message);
    check_message(message, &scanned);
    assert_eq!(
        scanned.bodystructure(),
        b"(\"IMAGE\" \"PNG\" (\"name\" {4}\r\ncaf\xe9) \"<i@d>\" \"d?\" \"BASE64\" 4 \"abc==\" \
          (\"attachment\" (\"FileName\" \"ab\")) (\"en\" \"de\") \"http://x/\")"
            .as_slice()
    );
}

#[test]
fn a_bare_cr_ends_no_line() {
    let message = b"A: b\rC: d\r\n\r\nx\ry\r\nz\n";
    let scanned = scan(message);
    check_message(message, &scanned);
    assert_eq!(section(scanned.structure(), &[], Header), Some(0..13));
    assert_eq!(scanned.lines(), 4);
}

#[test]
fn nesting_beyond_the_limit_is_one_opaque_part() {
    let mut message = String::new();
    for n in 0..2_000 {
        message.push_str(&format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"));
    }
    message.push_str("\r\ndeep\r\n");
    for n in (0..2_000).rev() {
        message.push_str(&format!("--b{n}--\r\n"));
    }
    let scanned = scan(message.as_bytes());
    check_message(message.as_bytes(), &scanned);
    assert_eq!(scanned.structure().parts().count(), 101);
    assert_eq!(scanned.structure().parts().last().map(|part| part.kind), Some(PartKind::Opaque));

    let held = "Content-Type: message/rfc822\r\n\r\n".repeat(300);
    let scanned = scan(held.as_bytes());
    check_message(held.as_bytes(), &scanned);
    assert_eq!(scanned.structure().parts().count(), 101);
}

#[test]
fn parts_beyond_the_limit_are_in_the_last_one() {
    let mut message = "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned();
    message.push_str(&"--b\r\n\r\nx\r\n".repeat(100_000));
    message.push_str("--b--\r\nepilogue");
    let scanned = scan(message.as_bytes());
    check_message(message.as_bytes(), &scanned);
    assert_eq!(scanned.structure().parts().count(), 10_000);
}

#[test]
fn long_lines_and_headers_stay_within_limits() {
    let long = "y".repeat(1_200_000);
    let message =
        format!("X: {long}\r\nSubject: found\r\nTo: {long}@example.org\r\n\r\n{long}\r\n--{long}\r\n");
    let scanned = scan(message.as_bytes());
    check_message(message.as_bytes(), &scanned);
    assert_eq!(scanned.facts().subject, "found");
    assert!(scanned.header().len() <= Limits::default().header_octets);
    assert!(scanned.envelope().len() <= 300 << 10);
    assert_eq!(scan_in_pieces(message.as_bytes(), || 997).envelope(), scanned.envelope());
}

/// Lines that make boundaries meet, headers end early and line ends mix.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "--a",
        "--b",
        "--ab",
        "--a--",
        "--b--",
        "--a ",
        "-",
        "--",
        "",
        "",
        "text",
        "Subject: x",
        " folded",
        "Content-Type: multipart/mixed; boundary=a",
        "Content-Type: multipart/digest; boundary=b",
        "Content-Type: multipart/x; boundary=ab",
        "Content-Type: message/rfc822",
        "Content-Type: message/global",
        "Content-Type: text/html; charset=\"\u{e9}",
        "Content-Type: multipart/mixed",
        "To: g: a@b, <c; d",
        "Content-Transfer-Encoding: base64",
        "\0\u{1}",
        "From: \"x\\\" <a@b>, (c",
        "Content-Disposition: a; b=c; d",
    ]);
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\n", "\r", ""]);
    prop::collection::vec((line, end), 0..60).prop_map(|lines| {
        lines.into_iter().flat_map(|(line, end)| [line, end]).collect::<String>().into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn hostile_messages_are_told_as_they_are(message in hostile()) {
        check_message(&message, &scan(&message));
    }

    #[test]
    fn cuts_make_no_difference(message in hostile(), cuts in prop::collection::vec(1usize..40, 1..20)) {
        let whole = scan(&message);
        let mut cuts = cuts.iter().cycle();
        let pieces = scan_in_pieces(&message, || *cuts.next().unwrap());
        prop_assert_eq!(whole.structure(), pieces.structure());
        prop_assert_eq!(whole.header(), pieces.header());
        prop_assert_eq!(whole.envelope(), pieces.envelope());
        prop_assert_eq!(whole.bodystructure(), pieces.bodystructure());
    }

    #[test]
    fn random_octets_are_a_message(message in prop::collection::vec(any::<u8>(), 0..400)) {
        check_message(&message, &scan(&message));
    }

    #[test]
    fn few_parts_are_enough(message in hostile(), parts in 0usize..6, nesting in 0usize..4) {
        let mut scanner = Scanner::new(Limits { parts, nesting, rendered_octets: 300, ..Limits::default() });
        scanner.push(&message);
        check_message(&message, &scanner.finish());
    }
}
