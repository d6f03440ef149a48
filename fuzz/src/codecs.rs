//! Decoders of the wire: however the input is cut, the same comes out, in bounded steps and memory; what was
//! understood survives being printed and read again.

use bytes::BytesMut;
use rookery_codec::imap::command::AppendSource;
use rookery_codec::imap::server::Limits;
use rookery_codec::imap::{Command, print};
use rookery_codec::{imap, lmtp, pop3, sasl};

/// The first octets of the input say how the rest is cut.
fn plan(data: &[u8]) -> (usize, u8, &[u8]) {
    match data {
        [step, bits, rest @ ..] => (usize::from(*step) % 64 + 1, *bits, rest),
        _ => (1, 0, data),
    }
}

/// Feeds all at once, and in pieces, and compares what came out.
fn compare(data: &[u8], run: impl Fn(&[u8], usize, u8) -> Vec<String>) {
    let (step, bits, input) = plan(data);
    let whole = run(input, input.len().max(1), bits);
    let pieces = run(input, step, bits);
    assert_eq!(whole, pieces, "cut into pieces of {step}");
    assert!(whole.len() <= 4 * input.len() + 16, "{} events from {} octets", whole.len(), input.len());
}

/// Octets that belong together, however they were cut.
fn joined(events: &mut Vec<String>, kind: &str, octets: &[u8]) {
    let text = octets.escape_ascii().to_string();
    match events.last_mut().filter(|last| last.starts_with(kind)) {
        Some(last) => last.push_str(&text),
        None => events.push(format!("{kind}{text}")),
    }
}

pub fn imap_server(data: &[u8]) {
    compare(data, |input, step, bits| {
        use imap::server::{Decoded, Decoder};
        let limits = Limits {
            command_octets: if bits & 1 == 0 { 64 << 10 } else { 200 },
            append_octets: if bits & 2 == 0 { 1 << 20 } else { 20 },
            depth: 50,
            literal_minus: bits & 4 != 0,
        };
        let mut decoder = Decoder::new(limits);
        let mut events = Vec::new();
        for piece in input.chunks(step) {
            decoder.push(piece);
            loop {
                let event = match decoder.next() {
                    Decoded::NeedMore => break,
                    Decoded::AppendData(octets) => {
                        assert!(!octets.is_empty());
                        joined(&mut events, "data ", &octets);
                        continue;
                    }
                    Decoded::AppendStart { message, .. } => {
                        if matches!(message.source, AppendSource::Literal(_)) {
                            if bits & 8 == 0 { decoder.accept_append() } else { decoder.refuse_append() }
                        }
                        format!("append {message:?}")
                    }
                    Decoded::AppendText(literal) => {
                        if bits & 16 == 0 {
                            decoder.accept_append()
                        } else {
                            decoder.refuse_append()
                        }
                        format!("text {literal:?}")
                    }
                    Decoded::Command(tagged) => {
                        if matches!(tagged.command, Command::Idle | Command::Authenticate { .. }) {
                            decoder.expect_line(100);
                        }
                        again(&tagged);
                        format!("{tagged:?}")
                    }
                    other => format!("{other:?}"),
                };
                events.push(event);
            }
        }
        events
    });
}

/// What was read can be sent, and is then read as the same.
fn again(tagged: &imap::command::Tagged) {
    use imap::server::{Decoded, Decoder};
    let Ok(chunks) = imap::client::encode(tagged, imap::client::Literals::NonSynchronising) else { return };
    let octets = chunks.concat();
    if octets.len() >= 64 << 10 {
        return;
    }
    let mut decoder = Decoder::new(Limits::LOGGED_IN);
    decoder.push(&octets);
    let read = decoder.next();
    assert_eq!(read, Decoded::Command(tagged.clone()), "printed as {}", octets.escape_ascii());
}

pub fn imap_client(data: &[u8]) {
    compare(data, |input, step, bits| {
        use imap::client::{Decoded, Decoder};
        let mut decoder = Decoder::new(if bits & 1 == 0 { 1 << 20 } else { 300 });
        let mut events = Vec::new();
        for piece in input.chunks(step) {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Decoded::NeedMore => break,
                    Decoded::TooLong => {
                        events.push("too long".to_owned());
                        break;
                    }
                    Decoded::Response(response) => {
                        let mut out = BytesMut::new();
                        print::response(&mut out, &response);
                        let mut second = Decoder::new(4 << 20);
                        second.push(&out);
                        // What is printed is one response, whatever it holds. Without the items that nobody knows, a
                        // FETCH may be left without any, which the grammar has not.
                        let again = second.next();
                        assert!(
                            !matches!(again, Decoded::NeedMore | Decoded::TooLong),
                            "{response:?} printed as {}",
                            out.escape_ascii()
                        );
                        assert_eq!(second.next(), Decoded::NeedMore, "{}", out.escape_ascii());
                        events.push(format!("{response:?}"));
                    }
                    other => events.push(format!("{other:?}")),
                }
            }
            if events.last().is_some_and(|last| last == "too long") {
                break;
            }
        }
        events
    });
}

pub fn lmtp_server(data: &[u8]) {
    compare(data, |input, step, bits| {
        use lmtp::server::{Decoded, Decoder};
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for piece in input.chunks(step) {
            decoder.push(piece);
            loop {
                let event = match decoder.next() {
                    Decoded::NeedMore => break,
                    Decoded::Data(octets) => {
                        assert!(!octets.is_empty());
                        joined(&mut events, "data ", &octets);
                        continue;
                    }
                    Decoded::Command(command) => {
                        if matches!(command, lmtp::Command::Data) && bits & 1 == 0 {
                            decoder.expect_data();
                        }
                        let mut out = BytesMut::new();
                        if lmtp::client::encode(&command, &mut out).is_ok() {
                            let mut second = Decoder::new();
                            second.push(&out);
                            assert_eq!(
                                second.next(),
                                Decoded::Command(command.clone()),
                                "{}",
                                out.escape_ascii()
                            );
                        }
                        format!("{command:?}")
                    }
                    other => format!("{other:?}"),
                };
                events.push(event);
            }
        }
        events
    });
}

pub fn lmtp_client(data: &[u8]) {
    compare(data, |input, step, _| {
        use lmtp::client::{Decoded, Decoder};
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for piece in input.chunks(step) {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Decoded::NeedMore => break,
                    other => events.push(format!("{other:?}")),
                }
                if events.last().is_some_and(|last| last.starts_with("Malformed")) {
                    return events;
                }
            }
        }
        events
    });
}

pub fn pop3_server(data: &[u8]) {
    compare(data, |input, step, bits| {
        use pop3::server::{Decoded, Decoder};
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for piece in input.chunks(step) {
            decoder.push(piece);
            loop {
                let event = match decoder.next() {
                    Decoded::NeedMore => break,
                    Decoded::Command(command) => {
                        if matches!(command, pop3::Command::Auth { .. }) && bits & 1 == 0 {
                            decoder.expect_line(100);
                        }
                        let mut out = BytesMut::new();
                        if pop3::client::encode(&command, &mut out).is_ok() {
                            let mut second = Decoder::new();
                            second.push(&out);
                            assert_eq!(
                                second.next(),
                                Decoded::Command(command.clone()),
                                "{}",
                                out.escape_ascii()
                            );
                        }
                        format!("{command:?}")
                    }
                    other => format!("{other:?}"),
                };
                events.push(event);
            }
        }
        events
    });
}

pub fn pop3_client(data: &[u8]) {
    compare(data, |input, step, bits| {
        use pop3::client::{Decoded, Decoder};
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for piece in input.chunks(step) {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Decoded::NeedMore => break,
                    Decoded::Data(octets) => {
                        joined(&mut events, "data ", &octets);
                        continue;
                    }
                    Decoded::Reply(reply) => {
                        if bits & 1 == 0 {
                            decoder.expect_lines();
                        }
                        events.push(format!("{reply:?}"));
                    }
                    other => events.push(format!("{other:?}")),
                }
                if events.last().is_some_and(|last| last.starts_with("Malformed")) {
                    return events;
                }
            }
        }
        events
    });
}

pub fn sasl(data: &[u8]) {
    let _ = sasl::client_line(data);
    let _ = sasl::initial_response(data);
    if let Ok(octets) = sasl::decode(data) {
        assert_eq!(sasl::decode(sasl::encode(&octets).as_bytes()).as_deref(), Ok(&octets[..]));
    }
}

pub fn imap_passage(data: &[u8]) {
    compare(data, |input, step, bits| {
        use imap::passage::{Passage, Passed};
        let mut passage = Passage::new(if bits & 1 == 0 { 1 << 20 } else { 300 });
        let mut events = Vec::new();
        let mut is_open = false;
        let mut passed = 0;
        for piece in input.chunks(step) {
            passage.buffer().extend_from_slice(piece);
            loop {
                match passage.next() {
                    Passed::NeedMore => break,
                    Passed::Text { octets, last } => {
                        assert!(!octets.is_empty() && last == passage.is_between());
                        passed += octets.len();
                        is_open = !last;
                    }
                    Passed::Literal(octets) => {
                        assert!(is_open && !octets.is_empty());
                        passed += octets.len();
                    }
                    Passed::Status { status, octets } => {
                        passed += octets.len();
                        events.push(format!("{status:?}"));
                    }
                    other => events.push(format!("{other:?}")),
                }
            }
        }
        assert!(passed <= input.len());
        events
    });
}
