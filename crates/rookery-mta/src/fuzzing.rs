//! The decoders of what an MTA says, for `fuzz/`, which alone is built with `cfg(fuzzing)`.

use crate::{auth, socketmap};
use bytes::BytesMut;

/// Reads a line of the authentication protocol.
pub fn request(line: &str) {
    let _ = auth::parse(line);
}

/// Takes netstrings until there is no whole one; the last is `None` if what follows is malformed.
pub fn netstrings(octets: &[u8], step: usize) -> Vec<Option<Vec<u8>>> {
    let (mut buffer, mut taken) = (BytesMut::new(), Vec::new());
    for piece in octets.chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(framed) = socketmap::take_netstring(&mut buffer) {
            match framed {
                socketmap::Framed::Request(request) => taken.push(Some(request)),
                socketmap::Framed::Malformed => {
                    taken.push(None);
                    return taken;
                }
            }
        }
    }
    taken
}
