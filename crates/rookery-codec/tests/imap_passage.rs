//! What is relayed comes out as it went in, however it was cut.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use proptest::prelude::*;
use rookery_codec::imap::passage::{Passage, Passed};
use rookery_codec::imap::{Code, Condition};

/// All that comes out, and what of it is to be passed on; data is joined to one piece for each response.
fn events(input: &[u8], cut: usize) -> (Vec<String>, Vec<u8>) {
    let mut passage = Passage::new(300);
    let mut events: Vec<String> = Vec::new();
    let mut passed = Vec::new();
    let mut is_open = false;
    let add = |events: &mut Vec<String>, is_open: bool, octets: &[u8]| {
        let text = octets.escape_ascii().to_string();
        match events.last_mut().filter(|_| is_open) {
            Some(last) => last.push_str(&text),
            None => events.push(text),
        }
    };
    for piece in input.chunks(cut.max(1)) {
        passage.buffer().extend_from_slice(piece);
        loop {
            match passage.next() {
                Passed::NeedMore => break,
                Passed::Text { octets, last } => {
                    assert!(!octets.is_empty());
                    assert_eq!(last, passage.is_between());
                    add(&mut events, is_open, &octets);
                    passed.extend_from_slice(&octets);
                    is_open = !last;
                }
                Passed::Literal(octets) => {
                    assert!(is_open && !octets.is_empty());
                    add(&mut events, is_open, &octets);
                    passed.extend_from_slice(&octets);
                }
                Passed::Status { status, octets } => {
                    passed.extend_from_slice(&octets);
                    events.push(format!("{status:?}"));
                }
                other => events.push(format!("{other:?}")),
            }
        }
    }
    (events, passed)
}

#[test]
fn data_passes_and_statuses_are_seen() {
    let long = "x".repeat(200);
    let input = format!(
        "* 1 FETCH (BODY[] {{11}}\r\n\r\na1 OK x\r\n)\r\n* OK [UNSEEN 1] {{3}}\r\n* SEARCH {long}\r\n+ go on\r\n\
         a1 OK [COPYUID 1 2 3] done\r\n* BYE over\r\n* NO [OVERQUOTA nonsense\r\n"
    );
    let (whole, passed) = events(input.as_bytes(), input.len());
    assert_eq!(whole.len(), 7, "{whole:#?}");
    assert_eq!(whole[0], r"* 1 FETCH (BODY[] {11}\r\n\r\na1 OK x\r\n)\r\n");
    assert!(whole[1].contains("Unseen"), "{}", whole[1]);
    assert_eq!(whole[2], format!(r"* SEARCH {long}\r\n"));
    assert_eq!(whole[3], r#"Continue(b"go on")"#);
    assert!(whole[4].starts_with("Status { tag: Some(Tag(a1)), condition: Ok, code: Some(CopyUid"));
    assert!(whole[5].starts_with("Status { tag: None, condition: Bye"));
    assert_eq!(whole[6], r"* NO [OVERQUOTA nonsense\r\n");
    assert_eq!(passed.len(), input.len() - "+ go on\r\n".len());
}

#[test]
fn a_literal_is_not_held() {
    let mut passage = Passage::new(300);
    passage.buffer().extend_from_slice(b"* 1 FETCH (BODY[] {1000000000000}\r\nabc");
    assert!(matches!(passage.next(), Passed::Text { last: false, .. }));
    assert_eq!(passage.next(), Passed::Literal(bytes::Bytes::from_static(b"abc")));
    assert_eq!(passage.next(), Passed::NeedMore);
    assert!(passage.buffer().is_empty() && !passage.is_between());
}

#[test]
fn a_long_line_of_data_is_not_held_and_a_long_status_breaks() {
    let mut passage = Passage::new(300);
    passage.buffer().extend_from_slice(format!("* SORT{}", " 1".repeat(1000)).as_bytes());
    assert!(matches!(passage.next(), Passed::Text { last: false, octets } if octets.len() > 1900));
    let (heard, _) = events(format!("a1 OK {}", "x".repeat(400)).as_bytes(), 7);
    assert_eq!(heard, [r#"Broken("a line is too long")"#]);
    for bad in ["a1 FETCH x\r\na2 OK x\r\n", "\r\n", "* 1 FETCH (X {99999999999999999999}\r\n"] {
        let (heard, _) = events(bad.as_bytes(), 100);
        assert!(heard.last().unwrap().starts_with("Broken"), "{bad}: {heard:?}");
    }
}

#[test]
fn codes_come_out_as_values() {
    let mut passage = Passage::new(300);
    passage.buffer().extend_from_slice(b"a1 NO [TRYCREATE] none\r\n");
    let Passed::Status { status, .. } = passage.next() else { panic!("no status") };
    assert_eq!((status.condition, status.code), (Condition::No, Some(Code::TryCreate)));
}

fn response() -> impl Strategy<Value = Vec<u8>> {
    let literal = prop::collection::vec(any::<u8>(), 0..200).prop_map(|octets| {
        [format!("* 3 FETCH (FLAGS () BODY[] {{{}}}\r\n", octets.len()).as_bytes(), &octets, b" UID 3)\r\n"]
            .concat()
    });
    prop_oneof![
        literal,
        "\\* [A-Z]{1,8} [ -~]{0,180}\r\n".prop_map(String::into_bytes),
        "a[0-9]{1,3} (OK|NO|BAD) [a-z ]{1,80}\r\n".prop_map(String::into_bytes),
        "\\* (OK|NO|BYE) [ -~]{1,80}\r\n".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn cuts_change_nothing(responses in prop::collection::vec(response(), 1..6), cut in 1usize..90) {
        let input = responses.concat();
        let (whole, passed) = events(&input, input.len());
        let (pieces, same) = events(&input, cut);
        prop_assert_eq!(&whole, &pieces);
        prop_assert_eq!(&passed, &same);
        if !whole.iter().any(|event| event.starts_with("Broken") || event.starts_with("Continue")) {
            prop_assert!(input.starts_with(&passed));
        }
    }

    #[test]
    fn nonsense_is_passed_or_breaks(input in prop::collection::vec(any::<u8>(), 0..400), cut in 1usize..40) {
        let (whole, _) = events(&input, input.len());
        let (pieces, _) = events(&input, cut);
        // What has come of a response that is not whole depends on the cut.
        let whole_ones = whole.len().min(pieces.len()).saturating_sub(1);
        prop_assert_eq!(&whole[..whole_ones], &pieces[..whole_ones]);
    }
}
