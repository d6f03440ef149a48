//! What one home asks of another over a pipe: a length of four octets, as much JSON, the octets that it is about, and a
//! note, [`END`]. A stream that ends without the note asks for nothing.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

/// Stands behind all that is asked.
pub const END: Bytes = Bytes::from_static(b"E");
/// Octets of the longest JSON, either way; what is longer is refused.
pub const JSON_OCTETS_MAX: usize = 64 << 20;

/// The JSON of a value, with its length before it.
pub fn encode(value: &impl Serialize) -> Bytes {
    let json = serde_json::to_vec(value).unwrap_or_default();
    let mut octets = BytesMut::with_capacity(json.len() + 4);
    octets.put_u32(u32::try_from(json.len()).unwrap_or(u32::MAX));
    octets.extend_from_slice(&json);
    octets.freeze()
}
