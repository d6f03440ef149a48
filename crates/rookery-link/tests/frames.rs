//! Frames: what is encoded is decoded, however it is cut; what is no frame is refused before it costs anything.

use bytes::Bytes;
use proptest::prelude::*;
use rookery_link::TraceId;
use rookery_link::frame::{Decoder, Frame, FrameError, GoodbyeCode, Hello, PAYLOAD_OCTETS_MAX, ResetCode};
use rookery_types::NodeId;

fn octets(max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Zä€ ]{0,40}"
}

fn frame() -> impl Strategy<Value = Frame> {
    let stream = 1_u32..;
    let hello = (any::<(u16, u16, u16, u64, u64, u8)>(), text()).prop_map(|(numbers, program)| {
        let (oldest, newest, chosen, node, boot, slot) = numbers;
        Frame::Hello(Hello { oldest, newest, chosen, node: NodeId(node), boot, slot, program })
    });
    prop_oneof![
        hello,
        (stream.clone(), any::<u64>(), "[a-z]{1,20}", octets(300)).prop_map(
            |(stream, trace, service, head)| { Frame::Open { stream, trace: TraceId(trace), service, head } }
        ),
        (stream.clone(), octets(3_000)).prop_map(|(stream, octets)| Frame::Data { stream, octets }),
        (stream.clone(), octets(300)).prop_map(|(stream, octets)| Frame::Control { stream, octets }),
        stream.clone().prop_map(|stream| Frame::Finish { stream }),
        (stream.clone(), any::<u16>(), text()).prop_map(|(stream, code, text)| Frame::Reset {
            stream,
            code: ResetCode(code),
            text
        }),
        (stream.clone(), any::<u32>()).prop_map(|(stream, octets)| Frame::Credit { stream, octets }),
        (stream, any::<u32>()).prop_map(|(stream, octets)| Frame::GiveBack { stream, octets }),
        Just(Frame::Beat),
        any::<bool>().prop_map(|node| Frame::Retire { node }),
        (any::<u16>(), text()).prop_map(|(code, text)| Frame::Goodbye { code: GoodbyeCode(code), text }),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_however_it_is_cut(
        frames in prop::collection::vec(frame(), 1..8),
        cuts in prop::collection::vec(1_usize..700, 1..20),
    ) {
        let mut wire = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut wire));
        let (mut decoder, mut seen, mut rest, mut cuts) = (Decoder::new(), Vec::new(), &wire[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            rest = after;
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(frame);
            }
        }
        prop_assert_eq!(seen, frames);
    }

    #[test]
    fn what_decodes_from_noise_encodes_to_the_same(noise in prop::collection::vec(any::<u8>(), 0..60), kind in 1_u8..12) {
        let mut wire = vec![kind, 0, 0, 0, u8::from((2..9).contains(&kind)), 0, 0, 0];
        wire.push(u8::try_from(noise.len()).unwrap());
        wire.extend_from_slice(&noise);
        let mut decoder = Decoder::new();
        decoder.push(&wire);
        match decoder.next_frame() {
            // A later version may say more in a hello.
            Ok(Some(Frame::Hello(hello))) => prop_assert!(wire.starts_with(&Frame::Hello(hello).to_vec()[9..20]) || !noise.is_empty()),
            Ok(Some(frame)) => prop_assert_eq!(frame.to_vec(), wire),
            Ok(None) => prop_assert!(false, "a whole frame was given"),
            Err(_) => {}
        }
    }
}

fn decode(wire: &[u8]) -> Result<Option<Frame>, FrameError> {
    let mut decoder = Decoder::new();
    decoder.push(wire);
    decoder.next_frame()
}

#[test]
fn a_length_above_the_limit_is_refused_by_its_header_alone() {
    let at_limit = u32::try_from(PAYLOAD_OCTETS_MAX).unwrap();
    let header = |length: u32| [&[3, 0, 0, 0, 1], &length.to_be_bytes()[..]].concat();
    assert_eq!(decode(&header(at_limit)), Ok(None));
    assert_eq!(decode(&header(at_limit + 1)), Err(FrameError::TooLong(at_limit + 1)));
    assert_eq!(decode(&header(u32::MAX)), Err(FrameError::TooLong(u32::MAX)));
}

#[test]
fn malformed_frames_are_refused() {
    let cases: &[(&str, &[u8])] = &[
        ("an unknown kind", &[0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("an unknown kind", &[12, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("data of stream 0", &[3, 0, 0, 0, 0, 0, 0, 0, 1, 7]),
        ("a beat of a stream", &[9, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("a beat with a payload", &[9, 0, 0, 0, 0, 0, 0, 0, 1, 1]),
        ("a short credit", &[7, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 1]),
        ("a long credit", &[7, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 1]),
        ("a retirement that is neither", &[10, 0, 0, 0, 0, 0, 0, 0, 1, 2]),
        ("a stream without a service", &[2, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a text longer than its frame", &[6, 0, 0, 0, 1, 0, 0, 0, 4, 0, 1, 9, b'x']),
        ("a text that is not UTF-8", &[6, 0, 0, 0, 1, 0, 0, 0, 4, 0, 1, 1, 0xff]),
        ("a hello to another protocol", &[1, 0, 0, 0, 0, 0, 0, 0, 4, b'H', b'T', b'T', b'P']),
    ];
    for (what, wire) in cases {
        assert!(decode(wire).is_err(), "{what}: {:?}", decode(wire));
    }
}

/// The octets of each kind, as nodes of other versions send them.
#[test]
fn each_frame_has_its_octets() {
    let stream = 0x0102_0304;
    let octets = Bytes::from_static(b"abc");
    let hello =
        Hello { oldest: 1, newest: 2, chosen: 0, node: NodeId(7), boot: 9, slot: 2, program: "r".to_owned() };
    #[rustfmt::skip]
    let cases: Vec<(Frame, &[u8])> = vec![
        (Frame::Hello(hello), &[1, 0, 0, 0, 0, 0, 0, 0, 29, b'R', b'K', b'L', b'K', 0, 1, 0, 2, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 2, 1, b'r']),
        (Frame::Open { stream, trace: TraceId(5), service: "im".to_owned(), head: octets.clone() },
            &[2, 1, 2, 3, 4, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 5, 2, b'i', b'm', b'a', b'b', b'c']),
        (Frame::Data { stream, octets: octets.clone() }, &[3, 1, 2, 3, 4, 0, 0, 0, 3, b'a', b'b', b'c']),
        (Frame::Control { stream, octets }, &[4, 1, 2, 3, 4, 0, 0, 0, 3, b'a', b'b', b'c']),
        (Frame::Finish { stream }, &[5, 1, 2, 3, 4, 0, 0, 0, 0]),
        (Frame::Reset { stream, code: ResetCode::NO_SERVICE, text: "no".to_owned() },
            &[6, 1, 2, 3, 4, 0, 0, 0, 5, 0, 16, 2, b'n', b'o']),
        (Frame::Credit { stream, octets: 258 }, &[7, 1, 2, 3, 4, 0, 0, 0, 4, 0, 0, 1, 2]),
        (Frame::GiveBack { stream, octets: 258 }, &[8, 1, 2, 3, 4, 0, 0, 0, 4, 0, 0, 1, 2]),
        (Frame::Beat, &[9, 0, 0, 0, 0, 0, 0, 0, 0]),
        (Frame::Retire { node: true }, &[10, 0, 0, 0, 0, 0, 0, 0, 1, 1]),
        (Frame::Goodbye { code: GoodbyeCode::VERSION, text: "no".to_owned() },
            &[11, 0, 0, 0, 0, 0, 0, 0, 5, 0, 2, 2, b'n', b'o']),
    ];
    for (frame, wire) in cases {
        assert_eq!(frame.to_vec(), wire, "{frame:?}");
        assert_eq!(decode(wire), Ok(Some(frame)));
    }
}
