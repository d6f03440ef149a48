//! LMTP: commands, replies, and what ends a message.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use bytes::BytesMut;
use proptest::prelude::*;
use rookery_codec::dot::{DotStuffer, LineEnds, Unstuffed, Unstuffer};
use rookery_codec::lmtp::command::*;
use rookery_codec::lmtp::server::{Decoded, Decoder};
use rookery_codec::lmtp::{Address, Enhanced, Reply, client};

fn read(line: &str) -> Result<Command, u16> {
    let mut decoder = Decoder::new();
    decoder.push(format!("{line}\r\n").as_bytes());
    match decoder.next() {
        Decoded::Command(command) => Ok(command),
        Decoded::Bad(reply) => Err(reply.code),
        other => panic!("{other:?} for {line}"),
    }
}

fn print(command: &Command) -> String {
    let mut out = BytesMut::new();
    client::encode(command, &mut out).unwrap();
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn commands_survive_printing() {
    for line in [
        "LHLO foo.edu",
        "lhlo [127.0.0.1]",
        "MAIL FROM:<chris@bar.com>",
        "mail from:<>",
        "MAIL FROM: <joe@x.test> SIZE=500000 BODY=8BITMIME",
        "MAIL FROM:<a@b> AUTH=e+3Dmc2@example.com RET=HDRS ENVID=QQ+2B1",
        "MAIL FROM:<a@b> AUTH=<>",
        "MAIL FROM:<\u{fc}@\u{fc}.test> SMTPUTF8 BODY=BINARYMIME RET=FULL",
        "MAIL FROM:joe",
        "RCPT TO:<pat@foo.edu>",
        "RCPT TO:<Postmaster>",
        "RCPT TO:<joe+detail@dom>",
        "RCPT TO:<@hosta.int,@jkl.org:userc@d.bar.org>",
        "RCPT TO:<\"joe \\\"x\\\" @ y\"@dom> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@c",
        "RCPT TO:<joe@[IPv6:::1]> NOTIFY=NEVER IGNOREQUOTA",
        "DATA",
        "BDAT 1000",
        "BDAT 0 last",
        "RSET",
        "NOOP",
        "QUIT",
        "VRFY joe",
        "STARTTLS",
        "AUTH PLAIN",
        "auth plain AGEAYg==",
        "AUTH EXTERNAL =",
    ] {
        let command = read(line).unwrap_or_else(|code| panic!("{code}: {line}"));
        let printed = print(&command);
        assert_eq!(read(printed.trim_end()), Ok(command), "{line} -> {printed}");
    }
}

#[test]
fn what_is_wrong_is_told_apart() {
    for (line, code) in [
        ("", 500),
        ("LHLO", 501),
        ("MAIL", 501),
        ("MAIL FROM:", 501),
        ("MAIL FROM:<a@b", 501),
        ("MAIL FROM:<a b@c>", 501),
        ("MAIL FROM:<a@b>SIZE=1", 501),
        ("MAIL FROM:<a@b> SIZE=x", 501),
        ("MAIL FROM:<a@b> BOGUS=1", 555),
        ("MAIL FROM:<\u{fc}@b>", 550),
        ("RCPT TO:<>", 501),
        ("RCPT TO:<a@>", 501),
        ("RCPT TO:<a@-b>", 501),
        ("RCPT TO:<@a:>", 501),
        ("RCPT TO:<\"\"@b>", 501),
        ("RCPT TO:<a@b> NOTIFY=NEVER,DELAY", 501),
        ("DATA now", 501),
        ("AUTH PLAIN ab", 501),
        ("NOOP \u{7}", 500),
    ] {
        assert_eq!(read(line), Err(code), "{line}");
    }
    assert_eq!(read("EHLO x"), Ok(Command::Ehlo));
    assert_eq!(read("HELO x"), Ok(Command::Helo));
    assert_eq!(read("xyzzy a"), Ok(Command::Unknown { name: "XYZZY".into() }));
}

#[test]
fn addresses_are_taken_apart() {
    let to = |line: &str| match read(line) {
        Ok(Command::Rcpt(rcpt)) => rcpt.to,
        other => panic!("{other:?}"),
    };
    let joe = to("RCPT TO:<joe+a+b@Dom.test>");
    assert_eq!((joe.user_and_detail(), joe.domain()), (("joe", Some("a+b")), Some("Dom.test")));
    assert_eq!(to("RCPT TO:<+x@d>").user_and_detail(), ("+x", None));
    assert_eq!(to("RCPT TO:<joe>").domain(), None);
    assert!(to("RCPT TO:<postMaster>").is_postmaster());
    assert_eq!(to("RCPT TO:<\"a\\ b\"@c>").to_string(), "\"a b\"@c");
    assert_eq!(to("RCPT TO:<@a,@b:joe@c>").to_string(), "joe@c");
    assert!(Address::new("a\r\nb", None).is_none() && Address::new("", None).is_none());
    assert!(Address::new("a", Some("b>")).is_none());
}

/// Everything that comes out, message octets joined.
fn events(input: &[u8], chunk: usize) -> Vec<String> {
    let mut decoder = Decoder::new();
    let mut events: Vec<String> = Vec::new();
    for part in input.chunks(chunk.max(1)) {
        decoder.push(part);
        loop {
            match decoder.next() {
                Decoded::NeedMore => break,
                Decoded::Command(command) => {
                    if command == Command::Data {
                        decoder.expect_data();
                    }
                    events.push(format!("{command:?}"));
                }
                Decoded::Bad(reply) => events.push(format!("bad {}", reply.code)),
                Decoded::Data(octets) => {
                    let text = String::from_utf8_lossy(&octets).into_owned();
                    match events.last_mut().filter(|last| last.starts_with("data ")) {
                        Some(last) => last.push_str(&text),
                        None => events.push(format!("data {text}")),
                    }
                }
                other => events.push(format!("{other:?}")),
            }
        }
    }
    events
}

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    let smuggled = "DATA\r\na\n.\nRCPT\n.\r\nb\r\n.\nc\r.\r\nd\r.\re\r\n.\r\r\n..f\r\n.\r\nNOOP\r\n";
    for chunk in 1..smuggled.len() {
        assert_eq!(
            events(smuggled.as_bytes(), chunk),
            ["Data", "data a\n.\nRCPT\n.\r\nb\r\n\nc\r.\r\nd\r.\re\r\n\r\r\n.f\r\n", "DataEnd", "Noop"],
            "{chunk}"
        );
    }
    assert_eq!(events(b"DATA\r\n.\r\nQUIT\r\n", 99), ["Data", "DataEnd", "Quit"]);
}

#[test]
fn the_stream_stays_in_step_or_ends() {
    let long = format!("NOOP {}\r\nQUIT\r\n", "x".repeat(5000));
    for chunk in [1, 7, 4096, 9999] {
        assert_eq!(events(long.as_bytes(), chunk), ["bad 500", "Quit"]);
    }
    assert_eq!(
        events(b"BDAT 5\r\nQUIT\rBDAT 0 LAST\r\nQUIT\r\n", 3),
        [
            "Bdat { octets: 5, last: false }",
            "data QUIT\r",
            "DataEnd",
            "Bdat { octets: 0, last: true }",
            "DataEnd",
            "Quit"
        ]
    );
    for bad in ["BDAT x\r\nRSET\r\n", "BDAT 99999999999999999999\r\nRSET\r\n", "BDAT\r\nRSET\r\n"] {
        let found = events(bad.as_bytes(), 999);
        assert!(found.len() == 1 && found[0].starts_with("Fatal"), "{found:?}");
    }
}

#[test]
fn replies_survive_printing() {
    for reply in [
        Reply::new(250, (2, 1, 5), "OK"),
        Reply::plain(354, "Go ahead"),
        Reply::plain(220, "foo.edu LMTP server ready"),
        Reply::lhlo("foo.edu", vec!["PIPELINING".into(), "SIZE 1000".into()]),
        Reply {
            code: 550,
            enhanced: Some(Enhanced(5, 7, 514)),
            lines: vec!["a".into(), "".into(), "c".into()],
        },
    ] {
        let mut out = BytesMut::new();
        reply.print(&mut out);
        let mut decoder = client::Decoder::new();
        for octet in &out {
            assert_eq!(decoder.next(), client::Decoded::NeedMore);
            decoder.push(&[*octet]);
        }
        assert_eq!(decoder.next(), client::Decoded::Reply(reply), "{out:?}");
    }
    let mut out = BytesMut::new();
    Reply::new(452, (4, 2, 2), "a\r\nb").print(&mut out);
    assert_eq!(&out[..], b"452 4.2.2 a  b\r\n");
    for bad in ["2x0 a\r\n", "99\r\n", "250_a\r\n", "250-a\r\n251 b\r\n", "700 a\r\n"] {
        let mut decoder = client::Decoder::new();
        decoder.push(bad.as_bytes());
        assert!(matches!(decoder.next(), client::Decoded::Malformed(_)), "{bad}");
    }
}

proptest! {
    #[test]
    fn stuffing_is_undone_however_it_is_cut(
        pieces in prop::collection::vec(prop::sample::select(vec![".", "\r", "\n", "\r\n", "x", "..", "\r\n."]), 0..40),
        cut in 1usize..20,
    ) {
        let message = pieces.concat();
        let mut stuffed = BytesMut::new();
        let mut stuffer = DotStuffer::new(LineEnds::CrLf);
        for part in message.as_bytes().chunks(cut) {
            stuffer.push(part, &mut stuffed);
        }
        stuffer.end(&mut stuffed);
        let (mut input, mut found, mut ended) = (BytesMut::new(), Vec::new(), false);
        let mut unstuffer = Unstuffer::new(LineEnds::CrLf);
        for part in stuffed.chunks(cut) {
            prop_assert!(!ended);
            input.extend_from_slice(part);
            loop {
                match unstuffer.next(&mut input) {
                    Unstuffed::NeedMore => break,
                    Unstuffed::Data(octets) => found.extend_from_slice(&octets),
                    Unstuffed::End => { ended = true; break }
                }
            }
        }
        prop_assert!(ended && input.is_empty());
        let missing = if message.is_empty() || message.ends_with("\r\n") { "" } else { "\r\n" };
        prop_assert_eq!(String::from_utf8_lossy(&found), message + missing);
    }

    #[test]
    fn addresses_read_back(local in "[\\PC]{1,20}", domain in prop::option::of("[a-z]{1,5}(\\.[a-z]{1,5}){0,2}")) {
        let Some(address) = Address::new(&local, domain.as_deref()) else { return Ok(()) };
        prop_assert_eq!(read(&format!("RCPT TO:<{address}>")).map(|command| match command {
            Command::Rcpt(rcpt) => rcpt.to,
            other => panic!("{other:?}"),
        }), Ok(address));
    }

    #[test]
    fn any_octets_are_answered(input in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..40) {
        prop_assert_eq!(events(&input, cut), events(&input, 300));
    }
}
