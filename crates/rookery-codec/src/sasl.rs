//! The base64 lines of AUTHENTICATE and AUTH (RFC 9051 §6.2.2, RFC 4954, RFC 4648 §4).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Octets in the longest line of a SASL exchange, as base64 (RFC 4954 §4 wants 12288).
pub const LINE_OCTETS_MAX: usize = 12_288;

/// The line is not base64 with its padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the line is not base64")]
pub struct NotBase64;

/// What a client says in answer to `+`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientLine {
    /// `*`: the client gives up (RFC 9051 §6.2.2).
    Cancel,
    /// The response, base64 undone. May be empty.
    Response(crate::imap::Secret),
}

/// Reads a client's line, its line end cut off.
pub fn client_line(line: &[u8]) -> Result<ClientLine, NotBase64> {
    if line == b"*" {
        return Ok(ClientLine::Cancel);
    }
    decode(line).map(|octets| ClientLine::Response(crate::imap::Secret(octets)))
}

/// Reads an initial response: `=` is an empty one (RFC 4959 §3).
pub fn initial_response(text: &[u8]) -> Result<Bytes, NotBase64> {
    if text == b"=" { Ok(Bytes::new()) } else { decode(text) }
}

/// Undoes base64.
pub fn decode(text: &[u8]) -> Result<Bytes, NotBase64> {
    STANDARD.decode(text).map(Bytes::from).map_err(|_| NotBase64)
}

/// A challenge or response as it stands on the line.
pub fn encode(octets: &[u8]) -> String {
    STANDARD.encode(octets)
}

/// An initial response as it stands in the command: `=` for an empty one.
pub fn encode_initial(octets: &[u8]) -> String {
    if octets.is_empty() { "=".to_owned() } else { encode(octets) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::Secret;

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(client_line(b"*"), Ok(ClientLine::Cancel));
        assert_eq!(client_line(b""), Ok(ClientLine::Response(Secret(Bytes::new()))));
        assert_eq!(client_line(b"AGEAYg=="), Ok(ClientLine::Response(Secret(Bytes::from_static(b"\0a\0b")))));
        for bad in [&b"="[..], b"AGEAYg", b"A GE", b"AGEAYg==\r", b"\xff"] {
            assert_eq!(client_line(bad), Err(NotBase64), "{bad:?}");
        }
        assert_eq!(initial_response(b"="), Ok(Bytes::new()));
        assert_eq!((encode(b""), encode_initial(b"")), (String::new(), "=".to_owned()));
    }
}
