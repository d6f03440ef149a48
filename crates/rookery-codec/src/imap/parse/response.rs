//! `response` of RFC 9051 §9 and of the extensions: which kind it is.

use super::scan::{Fault, Parsed, Scanner, upper};
use super::{code, data, fetch_data};
use crate::imap::response::{Condition, Response, Status};
use crate::imap::types::Tag;
use bytes::Bytes;
use rookery_types::{SeqNum, Uid};

/// One response, from a frame without its last line end.
///
/// ```abnf
/// response = *(continue-req / response-data) response-done
/// ```
pub(crate) fn response(frame: &Bytes, depth: usize) -> Parsed<Response> {
    let mut s = Scanner::shared(frame, depth);
    if s.take(b'+') {
        s.take(b' ');
        let text = s.take_rest();
        return Ok(Response::Continue(s.own(text)));
    }
    let tag =
        if s.take(b'*') { None } else { Some(Tag::new(s.run(|b| b != b' ')).ok_or(Fault("Malformed tag"))?) };
    s.sp()?;
    let whole = s.clone();
    let word = s.run(|b| b != b' ');
    if let Some(condition) = condition(word) {
        return status(&mut s, tag, condition).map(Response::Status);
    }
    if tag.is_some() {
        return Err(Fault("Tagged response that is no status"));
    }
    let parsed = if word.first().is_some_and(u8::is_ascii_digit) {
        s = whole.clone();
        numbered(&mut s)?
    } else {
        data::data(&mut s, &upper(word))?
    };
    match parsed {
        Some(response) => {
            s.end()?;
            Ok(response)
        }
        None => {
            let mut whole = whole;
            let rest = whole.take_rest();
            Ok(Response::Other(whole.own(rest)))
        }
    }
}

/// Whether a response that begins so ends with its line, whatever that ends with: free text may end with
/// `{3}`.
pub(crate) fn is_one_line(line: &[u8]) -> bool {
    match line.strip_prefix(b"* ") {
        Some(rest) => condition(rest.split(|b| *b == b' ').next().unwrap_or(&[])).is_some(),
        None => true,
    }
}

fn condition(word: &[u8]) -> Option<Condition> {
    let conditions = [
        ("OK", Condition::Ok),
        ("NO", Condition::No),
        ("BAD", Condition::Bad),
        ("PREAUTH", Condition::PreAuth),
        ("BYE", Condition::Bye),
    ];
    let found = conditions.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(word));
    found.map(|(_, condition)| *condition)
}

/// ```abnf
/// resp-text = ["[" resp-text-code "]" SP] [text]
/// ```
fn status(s: &mut Scanner<'_>, tag: Option<Tag>, condition: Condition) -> Parsed<Status> {
    s.take(b' ');
    let mut code = None;
    if s.take(b'[') {
        code = Some(code::code(s)?);
        s.take(b' ');
    }
    let text = String::from_utf8_lossy(s.take_rest()).into_owned();
    Ok(Status { tag, condition, code, text: text.into() })
}

/// `message-data`, and the parts of `mailbox-data` that begin with a number.
fn numbered(s: &mut Scanner<'_>) -> Parsed<Option<Response>> {
    let n = s.number()?;
    s.sp()?;
    let word = s.atom_upper()?;
    let seq = SeqNum::new(n).ok_or(Fault("Message numbers begin with 1"));
    Ok(Some(match &*word {
        "EXISTS" => Response::Exists(n),
        "RECENT" => Response::Recent(n),
        "EXPUNGE" => Response::Expunge(seq?),
        "FETCH" => {
            let seq = seq?;
            s.sp()?;
            let items = s.list1(fetch_data::item)?.into_iter().flatten().collect();
            Response::Fetch { seq, items }
        }
        "UIDFETCH" => {
            let uid = Uid::new(n).ok_or(Fault("UIDs begin with 1"))?;
            s.sp()?;
            let items = s.list(fetch_data::item)?.into_iter().flatten().collect();
            Response::UidFetch { uid, items }
        }
        _ => return Ok(None),
    }))
}
