//! Modified UTF-7: how mailbox names stand on the wire of a client that did not ask for UTF-8
//! (RFC 3501 §5.1.3, RFC 9051 Appendix A.1).
//!
//! Invariants:
//! - Every text has exactly one encoding. [`decode`] takes that one and no other, so two names that look
//!   different on the wire are different, and what was decoded encodes to the same octets again.
//! - Nothing here knows of separators or of what a name may contain; that is the business of
//!   [`MailboxPath`](crate::MailboxPath).

use crate::name::NameError;

/// The base64 alphabet with `,` in the place of `/`.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

fn stands_for_itself(c: char) -> bool {
    matches!(c, ' '..='~')
}

/// Encodes any text; the result is printable ASCII.
pub fn encode(text: &str) -> String {
    let mut wire = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let printable = stands_for_itself(first);
        let run_end = rest.find(|c| stands_for_itself(c) != printable).unwrap_or(rest.len());
        let (run, after) = rest.split_at(run_end);
        match printable {
            true => wire.push_str(&run.replace('&', "&-")),
            false => encode_shift(run, &mut wire),
        }
        rest = after;
    }
    wire
}

fn encode_shift(run: &str, wire: &mut String) {
    wire.push('&');
    let (mut bits, mut held) = (0u32, 0u32);
    let mut push = |sextet: u32| wire.push(char::from(ALPHABET[(sextet & 63) as usize]));
    for unit in run.encode_utf16() {
        bits = bits << 16 | u32::from(unit);
        held += 16;
        while held >= 6 {
            held -= 6;
            push(bits >> held);
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        push(bits << (6 - held));
    }
    wire.push('-');
}

/// Decodes a name. Refuses with [`NameError::BadEncoding`] all that [`encode`] does not write: octets outside
/// printable ASCII, a shift without its end, characters outside the alphabet, padding bits that are not zero,
/// lone surrogates, printable ASCII in base64 and shifts that touch.
pub fn decode(wire: &[u8]) -> Result<String, NameError> {
    let wire = std::str::from_utf8(wire).map_err(|_| NameError::BadEncoding)?;
    let text = decode_loosely(wire).ok_or(NameError::BadEncoding)?;
    // One comparison instead of a rule for each way to write the same text differently.
    if encode(&text) == wire { Ok(text) } else { Err(NameError::BadEncoding) }
}

fn decode_loosely(wire: &str) -> Option<String> {
    let mut text = String::with_capacity(wire.len());
    let mut rest = wire;
    while let Some((plain, shifted)) = rest.split_once('&') {
        text.push_str(plain);
        let (base64, after) = shifted.split_once('-')?;
        match base64 {
            "" => text.push('&'),
            _ => decode_shift(base64, &mut text)?,
        }
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

fn decode_shift(base64: &str, text: &mut String) -> Option<()> {
    let (mut bits, mut held) = (0u32, 0u32);
    let mut units = Vec::with_capacity(base64.len() * 6 / 16);
    for octet in base64.bytes() {
        let sextet = ALPHABET.iter().position(|known| *known == octet)?;
        bits = bits << 6 | u32::try_from(sextet).ok()?;
        held += 6;
        if held >= 16 {
            held -= 16;
            units.push(u16::try_from(bits >> held).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    for c in char::decode_utf16(units) {
        text.push(c.ok()?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_names() {
        for (text, wire) in [
            ("", ""),
            ("INBOX", "INBOX"),
            ("Entwürfe", "Entw&APw-rfe"),
            ("a&b", "a&-b"),
            ("&&", "&-&-"),
            ("é&é", "&AOk-&-&AOk-"),
            ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"), // RFC 9051 Appendix A.1
            ("Отправленные", "&BB4EQgQ,BEAEMAQyBDsENQQ9BD0ESwQ1-"),
            ("😀", "&2D3eAA-"),
            ("\u{7}", "&AAc-"),
        ] {
            assert_eq!(encode(text), wire);
            assert_eq!(decode(wire.as_bytes()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for bad in [
            &b"&AGE-"[..],  // 'a' needs no base64
            b"&ACY-",       // nor does '&'
            b"&AOkAYQ-",    // 'a' beside a character that does
            b"&AOk",        // no end
            b"&",           // nothing but a beginning
            b"a&b",         // a bare '&'
            b"&AOl-",       // padding bits set
            b"&AO-",        // 12 bits hold no character
            b"&AOkA-",      // a sextet too many
            b"&2D0-",       // half a surrogate pair
            b"&3gA-",       // the other half
            b"&3gDYPQ-",    // the wrong way round
            b"&AOk-&AOk-",  // touching shifts
            b"&AOk=-",      // padding
            b"&U/BTFw-",    // the other alphabet
            b"Entw\xfcrfe", // Latin-1
            "Entwürfe".as_bytes(),
            b"a\x07",
            b"a\x7f",
            b"\0",
        ] {
            assert_eq!(decode(bad), Err(NameError::BadEncoding), "{}", bad.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in any::<String>()) {
            let wire = encode(&text);
            prop_assert!(wire.bytes().all(|octet| matches!(octet, b' '..=b'~')));
            prop_assert_eq!(decode(wire.as_bytes()), Ok(text));
        }

        #[test]
        fn what_decodes_has_one_spelling(wire in "[&\\-A-D,+ a/é]{0,12}") {
            if let Ok(text) = decode(wire.as_bytes()) {
                prop_assert_eq!(encode(&text), wire);
            }
        }

        #[test]
        fn octets_do_no_harm(wire in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&wire);
        }
    }
}
