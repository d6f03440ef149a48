//! `resp-text-code` of RFC 9051 §9 and of the extensions.

use super::data::{flag_list, object_id_in_parentheses};
use super::scan::{Fault, Parsed, Scanner, is_atom_char};
use crate::imap::print::PLAIN_CODES;
use crate::imap::response::Code;
use crate::imap::types::Tag;
use rookery_types::{ModSeq, SeqNum, Uid, UidValidity};

/// From behind `[` to behind `]`. A code that is unknown or malformed is [`Code::Other`].
pub(crate) fn code(s: &mut Scanner<'_>) -> Parsed<Code> {
    let mut ahead = s.clone();
    if let Ok(Some(code)) = known(&mut ahead)
        && ahead.take(b']')
    {
        *s = ahead;
        return Ok(code);
    }
    let text = String::from_utf8_lossy(s.run(|b| b != b']')).into_owned();
    s.expect(b']', "Missing ]")?;
    Ok(Code::Other(text.into()))
}

fn known(s: &mut Scanner<'_>) -> Parsed<Option<Code>> {
    let ahead = s.clone();
    let text = s.run(|b| b != b']');
    let plain = PLAIN_CODES.iter().find(|(_, name)| name.as_bytes().eq_ignore_ascii_case(text));
    if let Some((code, _)) = plain {
        return Ok(Some(code.clone()));
    }
    *s = ahead;
    let name = s.atom_upper()?;
    let code = match &*name {
        "BADCHARSET" => bad_charset(s)?,
        "CAPABILITY" => {
            let mut names = Vec::new();
            while s.take(b' ') {
                names.push(String::from_utf8_lossy(s.run(is_atom_char)).into_owned().into());
            }
            Code::Capability(names)
        }
        "INPROGRESS" => in_progress(s)?,
        _ => {
            s.sp()?;
            return with_argument(s, &name);
        }
    };
    Ok(Some(code))
}

fn with_argument(s: &mut Scanner<'_>, name: &str) -> Parsed<Option<Code>> {
    Ok(Some(match name {
        "APPENDUID" => {
            let uid_validity = s.number_as(UidValidity::new)?;
            s.sp()?;
            Code::AppendUid { uid_validity, uids: s.uid_set()? }
        }
        "BADURL" => {
            let url = s.run(|b| b != b']');
            Code::BadUrl(s.own(url))
        }
        "COPYUID" => {
            let uid_validity = s.number_as(UidValidity::new)?;
            s.sp()?;
            let from = s.uid_set()?;
            s.sp()?;
            Code::CopyUid { uid_validity, from, to: s.uid_set()? }
        }
        "BADEVENT" => {
            let name = |s: &mut Scanner<'_>| Ok(String::from_utf8_lossy(s.atom()?).into_owned().into());
            Code::BadEvent(s.list1(name)?)
        }
        "HIGHESTMODSEQ" => Code::HighestModSeq(s.number64_as(ModSeq::new)?),
        "MAILBOXID" => Code::MailboxId(object_id_in_parentheses(s)?),
        "METADATA" if s.take_word("LONGENTRIES ") => Code::MetadataLongEntries(s.number64()?),
        "METADATA" if s.take_word("MAXSIZE ") => Code::MetadataMaxSize(s.number64()?),
        "MODIFIED" => Code::Modified(s.uid_set()?),
        "PERMANENTFLAGS" => Code::PermanentFlags(flag_list(s)?),
        "REFERRAL" => {
            let mut urls = Vec::new();
            loop {
                let url = s.run(|b| b > b' ' && b != b']');
                if url.is_empty() {
                    return Err(Fault("Missing URL"));
                }
                urls.push(s.own(url));
                if !s.take(b' ') {
                    break;
                }
            }
            Code::Referral(urls)
        }
        "UIDNEXT" => Code::UidNext(s.number_as(Uid::new)?),
        "UIDVALIDITY" => Code::UidValidity(s.number_as(UidValidity::new)?),
        "UNSEEN" => Code::Unseen(s.number_as(SeqNum::new)?),
        _ => return Ok(None),
    }))
}

/// ```abnf
/// "BADCHARSET" [SP "(" charset *(SP charset) ")"]
/// ```
fn bad_charset(s: &mut Scanner<'_>) -> Parsed<Code> {
    let mut names = Vec::new();
    if s.take(b' ') {
        names = s.list(Scanner::astring)?;
    }
    Ok(Code::BadCharset(names))
}

/// ```abnf
/// "INPROGRESS" [SP "(" (quoted / nil) SP (number / nil) SP (nz-number / nil) ")"]
/// ```
fn in_progress(s: &mut Scanner<'_>) -> Parsed<Code> {
    if !s.take_word(" (") {
        return Ok(Code::InProgress(None));
    }
    let tag = s.nstring()?;
    let mut numbers = [None; 2];
    for n in &mut numbers {
        s.sp()?;
        if !s.take_nil() {
            *n = Some(s.number64()?);
        }
    }
    s.expect(b')', "Missing )")?;
    let [done, whole] = numbers;
    let tag = tag.as_deref().and_then(Tag::new);
    Ok(Code::InProgress(tag.map(|tag| (tag, done, whole))))
}
