//! Frames between nodes, and what is asked through them: however the input is cut, the same comes out, and what was
//! understood is printed the same.

use std::fmt::Debug;

use rookery_directory::remote::{self, Message, Pieces, Request, Response};
use rookery_link::frame::{Decoder, Frame};

pub fn link(data: &[u8]) {
    let (step, input) = match data {
        [step, _, rest @ ..] => (usize::from(*step) % 64 + 1, rest),
        _ => (1, data),
    };
    let whole = frames(input, input.len().max(1));
    assert_eq!(whole, frames(input, step), "cut into pieces of {step}");
    let (frames, _) = whole;
    assert!(frames.len() * 9 <= input.len(), "{} frames from {} octets", frames.len(), input.len());
    for frame in frames {
        let octets = frame.to_vec();
        let mut decoder = Decoder::new();
        decoder.push(&octets);
        assert_eq!(decoder.next_frame(), Ok(Some(frame)), "printed and read again");
    }
}

fn frames(input: &[u8], step: usize) -> (Vec<Frame>, Option<String>) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in input.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }
    (frames, None)
}

/// What is asked of a directory in another place, and what it answers.
pub fn requests(data: &[u8]) {
    let [step, bits, input @ ..] = data else { return };
    let step = usize::from(*step) % 64 + 1;
    // With a length that fits, half of the time.
    let length = u32::try_from(input.len()).expect("inputs are short").to_be_bytes();
    let sent = if bits & 1 == 0 { input.to_vec() } else { [&length, input].concat() };
    read::<Request>(&sent, step);
    read::<Response>(&sent, step);
}

fn read<M: Message + PartialEq + Debug>(sent: &[u8], step: usize) {
    let whole = messages::<M>(sent, sent.len().max(1));
    assert_eq!(whole, messages::<M>(sent, step), "cut into pieces of {step}");
    for (number, message) in whole.0 {
        let octets = remote::encode(number, &message).expect("no longer than it came");
        let again = messages::<M>(&octets, octets.len());
        assert_eq!(again, (vec![(number, message)], false), "printed and read again");
    }
}

/// The messages, and whether something came that is none.
fn messages<M: Message>(sent: &[u8], step: usize) -> (Vec<(u64, M)>, bool) {
    let (mut pieces, mut messages) = (Pieces::default(), Vec::new());
    for piece in sent.chunks(step) {
        pieces.push(piece);
        loop {
            match pieces.message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
    }
    (messages, false)
}
