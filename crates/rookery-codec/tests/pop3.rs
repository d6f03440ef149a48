//! POP3's wire: the RFCs' examples, what both sides print and read, and any octets at all.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop here

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rookery_codec::dot::{DotStuffer, LineEnds};
use rookery_codec::imap::Secret;
use rookery_codec::pop3::server::{Decoded, Decoder, LINE_OCTETS_MAX};
use rookery_codec::pop3::{Code, Command, Reply, client, print_challenge};

fn secret(text: &'static str) -> Secret {
    Secret(Bytes::from_static(text.as_bytes()))
}

fn read(line: &str) -> Decoded {
    let mut decoder = Decoder::new();
    decoder.push(line.as_bytes());
    decoder.push(b"\r\n");
    decoder.next()
}

fn auth(mechanism: &str, initial: Option<Secret>) -> Command {
    Command::Auth { mechanism: mechanism.into(), initial }
}

#[test]
fn commands_are_read_and_printed() {
    for (line, command) in [
        ("CAPA", Command::Capa),
        ("STLS", Command::Stls),
        ("UTF8", Command::Utf8),
        ("USER mrose", Command::User("mrose".into())),
        ("USER j\u{fc}rgen b", Command::User("j\u{fc}rgen b".into())),
        ("PASS secret", Command::Pass(secret("secret"))),
        ("PASS  two words ", Command::Pass(secret(" two words "))),
        ("AUTH", Command::AuthList),
        ("AUTH PLAIN", auth("PLAIN", None)),
        ("AUTH PLAIN dGVzdAB0ZXN0AHRlc3Q=", auth("PLAIN", Some(secret("test\0test\0test")))),
        ("AUTH EXTERNAL =", auth("EXTERNAL", Some(secret("")))),
        ("STAT", Command::Stat),
        ("LIST", Command::List(None)),
        ("LIST 2", Command::List(Some(2))),
        ("UIDL", Command::Uidl(None)),
        ("UIDL 2", Command::Uidl(Some(2))),
        ("RETR 1", Command::Retr(1)),
        ("DELE 1", Command::Dele(1)),
        ("TOP 1 10", Command::Top { message: 1, lines: 10 }),
        ("NOOP", Command::Noop),
        ("RSET", Command::Rset),
        ("QUIT", Command::Quit),
    ] {
        assert_eq!(read(line), Decoded::Command(command.clone()), "{line}");
        let mut out = BytesMut::new();
        client::encode(&command, &mut out).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), format!("{line}\r\n"));
    }
    for (line, command) in [
        ("retr  1 ", Command::Retr(1)),
        ("Top 1 0", Command::Top { message: 1, lines: 0 }),
        ("LIST 99999999999", Command::List(Some(u32::MAX))),
        ("auth plain", auth("PLAIN", None)),
        ("APOP mrose c4c9334bac560ecc979e58001b3e22fb", Command::Unknown { name: "APOP".into() }),
        ("xtnd x", Command::Unknown { name: "XTND".into() }),
    ] {
        assert_eq!(read(line), Decoded::Command(command), "{line}");
    }
    for line in [
        "",
        " ",
        "USER",
        "USER  ",
        "PASS",
        "STAT 1",
        "QUIT now",
        "RETR",
        "RETR x",
        "RETR 1 2",
        "RETR -1",
        "TOP 1",
        "TOP 1 x",
        "TOP x 1",
        "LIST 1 2",
        "AUTH PLAIN !!",
        "AUTH PLAIN dGVzdA== x",
        "AUTH PL\u{e4}IN",
        "USER a\u{7}b",
        "RETR 1\u{0}",
    ] {
        assert!(matches!(read(line), Decoded::Bad(reply) if !reply.ok), "{line:?}");
    }
}

#[test]
fn what_is_no_line_cannot_be_sent() {
    let mut out = BytesMut::new();
    for command in [
        Command::User("a\r\nDELE 1".into()),
        Command::User("".into()),
        Command::Pass(secret("a\nb")),
        Command::Pass(secret("")),
        Command::Unknown { name: "X".into() },
    ] {
        assert!(client::encode(&command, &mut out).is_err(), "{command:?}");
    }
    assert!(out.is_empty());
}

#[test]
fn long_lines_are_refused_and_the_stream_stays_in_step() {
    let mut decoder = Decoder::new();
    decoder.push(&vec![b'x'; LINE_OCTETS_MAX + 1]);
    assert!(matches!(decoder.next(), Decoded::Bad(_)));
    assert_eq!(decoder.next(), Decoded::NeedMore);
    decoder.push(b"RETR 1\r\nNOOP\r\n");
    assert_eq!(decoder.next(), Decoded::Command(Command::Noop));
    decoder.push(&vec![b'x'; LINE_OCTETS_MAX + 1]);
    assert!(matches!(decoder.next(), Decoded::Bad(_)));
    for _ in 0..1200 {
        decoder.push(&[b'x'; 1024]);
        match decoder.next() {
            Decoded::NeedMore => assert!(decoder.buffer().is_empty(), "it is dropped, not kept"),
            Decoded::Fatal(_) => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("a line without an end was taken");
}

#[test]
fn lines_of_auth_are_no_commands() {
    let mut decoder = Decoder::new();
    decoder.expect_line(10);
    decoder.push(b"QUIT\r\nQUIT\r\n");
    assert_eq!(decoder.next(), Decoded::Line(Bytes::from_static(b"QUIT")));
    assert_eq!(decoder.next(), Decoded::Command(Command::Quit));
    decoder.expect_line(10);
    decoder.push(b"0123456789a\r\n");
    assert!(matches!(decoder.next(), Decoded::Fatal(_)));
    decoder.push(b"QUIT\r\n");
    assert_eq!(decoder.next(), Decoded::NeedMore);
}

#[test]
fn replies_are_printed_and_read() {
    for (line, reply) in [
        ("+OK", Reply::ok("")),
        ("+OK 2 320", Reply::ok("2 320")),
        ("-ERR no such message", Reply::err("no such message")),
        ("-ERR [IN-USE] Do you have another POP session running?", {
            Reply::refused(Code::InUse, "Do you have another POP session running?")
        }),
        ("-ERR [SYS/TEMP] Later", Reply::refused(Code::SysTemp, "Later")),
        ("-ERR [X-Y] z", Reply::refused(Code::Other("X-Y".into()), "z")),
    ] {
        let mut out = BytesMut::new();
        reply.print(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), format!("{line}\r\n"));
        let mut decoder = client::Decoder::new();
        decoder.push(&out);
        assert_eq!(decoder.next(), client::Decoded::Reply(reply));
    }
    let mut out = BytesMut::new();
    Reply::ok("a\r\n.\r\nb").print(&mut out);
    assert_eq!(&out[..], b"+OK a  .  b\r\n");
    out.clear();
    Reply::err("\u{e4}".repeat(400)).print(&mut out);
    assert!(out.len() <= 512 && out.ends_with("\u{e4}\r\n".as_bytes()));
    out.clear();
    print_challenge(b"Username:", &mut out);
    assert_eq!(&out[..], b"+ VXNlcm5hbWU6\r\n");
    let mut decoder = client::Decoder::new();
    decoder.push(&out);
    assert_eq!(decoder.next(), client::Decoded::Challenge(Bytes::from_static(b"Username:")));
    for bad in ["250 ok\r\n", "+OKAY\r\n", "-ERROR x\r\n", "+ !\r\n", "\r\n"] {
        let mut decoder = client::Decoder::new();
        decoder.push(bad.as_bytes());
        assert!(matches!(decoder.next(), client::Decoded::Malformed(_)), "{bad}");
        decoder.push(b"+OK\r\n");
        assert_eq!(decoder.next(), client::Decoded::NeedMore);
    }
}

/// What a client finds that takes LF for a line end, as most do.
fn lenient(stuffed: &[u8]) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    let mut lines = stuffed.split_inclusive(|b| *b == b'\n');
    for line in lines.by_ref() {
        match line {
            b".\r\n" | b".\n" => return lines.next().is_none().then_some(found),
            [b'.', line @ ..] => found.extend_from_slice(line),
            line => found.extend_from_slice(line),
        }
    }
    None
}

proptest! {
    /// No message ends early, or says something after it, for any kind of client.
    #[test]
    fn messages_come_whole_to_strict_and_to_lenient_clients(
        pieces in prop::collection::vec(prop::sample::select(vec![".", "\r", "\n", "\r\n", "x", "..", "\r\n.", "\n."]), 0..40),
        cut in 1usize..20,
    ) {
        let message = pieces.concat();
        let mut stuffed = BytesMut::new();
        let mut stuffer = DotStuffer::new(LineEnds::Any);
        for part in message.as_bytes().chunks(cut) {
            match stuffer.goes_as_it_is(part) {
                true => stuffed.extend_from_slice(part),
                false => stuffer.push(part, &mut stuffed),
            }
        }
        stuffer.end(&mut stuffed);
        let missing = if message.is_empty() || message.ends_with("\r\n") { "" } else { "\r\n" };
        let expected = message + missing;
        prop_assert_eq!(lenient(&stuffed).map(|found| String::from_utf8_lossy(&found).into_owned()), Some(expected.clone()));

        let mut decoder = client::Decoder::new();
        decoder.push(b"+OK\r\n");
        prop_assert_eq!(decoder.next(), client::Decoded::Reply(Reply::ok("")));
        decoder.expect_lines();
        let mut found = Vec::new();
        let mut ended = false;
        for part in stuffed.chunks(cut) {
            prop_assert!(!ended);
            decoder.push(part);
            loop {
                match decoder.next() {
                    client::Decoded::Data(octets) => found.extend_from_slice(&octets),
                    client::Decoded::DataEnd => ended = true,
                    client::Decoded::NeedMore => break,
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
        prop_assert!(ended);
        prop_assert_eq!(String::from_utf8_lossy(&found).into_owned(), expected);
    }

    /// How the input was cut never changes what comes out.
    #[test]
    fn any_octets_are_answered(input in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..40) {
        let events = |cut: usize| {
            let mut decoder = Decoder::new();
            let mut events = Vec::new();
            for part in input.chunks(cut) {
                decoder.push(part);
                loop {
                    match decoder.next() {
                        Decoded::NeedMore => break,
                        event => events.push(event),
                    }
                }
            }
            events
        };
        prop_assert_eq!(events(cut), events(300));
    }
}
