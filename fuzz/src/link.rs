//! Frames between nodes: however the input is cut, the same comes out, and what was understood is printed the same.

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
