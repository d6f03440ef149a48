//! Status responses and their codes.

use super::basic::{astring, flag_list, joined, number, string, uid_set};
use crate::imap::response::{Code, Condition, Status};
use bytes::{BufMut, BytesMut};
use rookery_types::{UidSet, UidValidity};

/// Text of a status response or a code, where no octet may end the line.
fn line_text(out: &mut BytesMut, text: &str) {
    for octet in text.bytes() {
        out.put_u8(if matches!(octet, b'\r' | b'\n' | 0) { b' ' } else { octet });
    }
}

/// A whole status response.
///
/// ```abnf
/// response-tagged = tag SP resp-cond-state CRLF
/// resp-text       = ["[" resp-text-code "]" SP] [text]
/// ```
pub fn status(out: &mut BytesMut, status: &Status) {
    match &status.tag {
        Some(tag) => out.extend_from_slice(tag.as_str().as_bytes()),
        None => out.put_u8(b'*'),
    }
    out.extend_from_slice(match status.condition {
        Condition::Ok => b" OK ",
        Condition::No => b" NO ",
        Condition::Bad => b" BAD ",
        Condition::PreAuth => b" PREAUTH ",
        Condition::Bye => b" BYE ",
    });
    if let Some(one) = &status.code {
        out.put_u8(b'[');
        code(out, one);
        out.extend_from_slice(b"] ");
    }
    match (&*status.text, &status.code) {
        // IMAP4rev1 wants at least one character of text.
        ("", _) => out.extend_from_slice(b"Done"),
        // Without a code, a bracket at the start would read as one.
        (text, None) if text.starts_with('[') => {
            out.put_u8(b'(');
            line_text(out, text.get(1..).unwrap_or(""));
        }
        (text, _) => line_text(out, text),
    }
    out.extend_from_slice(b"\r\n");
}

/// `resp-text-code`, without its brackets.
pub fn code(out: &mut BytesMut, code: &Code) {
    if let Some(name) = plain_name(code) {
        return out.extend_from_slice(name.as_bytes());
    }
    match code {
        Code::AppendUid { uid_validity, uids } => uid_code(out, "APPENDUID ", *uid_validity, &[uids]),
        Code::CopyUid { uid_validity, from, to } => {
            uid_code(out, "COPYUID ", *uid_validity, &[from, to]);
        }
        Code::BadCharset(names) => {
            out.extend_from_slice(b"BADCHARSET");
            if !names.is_empty() {
                out.extend_from_slice(b" (");
                joined(out, " ", names, |out, name| astring(out, name));
                out.put_u8(b')');
            }
        }
        Code::BadEvent(names) => {
            out.extend_from_slice(b"BADEVENT (");
            joined(out, " ", names, |out, name| line_text(out, name));
            out.put_u8(b')');
        }
        Code::BadUrl(url) => {
            out.extend_from_slice(b"BADURL ");
            for octet in url {
                out.put_u8(if matches!(octet, b'\r' | b'\n' | 0 | b']') { b'?' } else { *octet });
            }
        }
        Code::Capability(names) => {
            out.extend_from_slice(b"CAPABILITY");
            for name in names {
                out.put_u8(b' ');
                line_text(out, name);
            }
        }
        Code::HighestModSeq(modseq) => numbered(out, "HIGHESTMODSEQ ", modseq.get()),
        Code::InProgress(progress) => {
            out.extend_from_slice(b"INPROGRESS");
            if let Some((tag, done, whole)) = progress {
                out.extend_from_slice(b" (");
                string(out, tag.as_str().as_bytes());
                for n in [done, whole] {
                    match n {
                        Some(n) => numbered(out, " ", *n),
                        None => out.extend_from_slice(b" NIL"),
                    }
                }
                out.put_u8(b')');
            }
        }
        Code::MailboxId(id) => {
            out.extend_from_slice(b"MAILBOXID (");
            out.extend_from_slice(id);
            out.put_u8(b')');
        }
        Code::MetadataLongEntries(octets) => numbered(out, "METADATA LONGENTRIES ", *octets),
        Code::MetadataMaxSize(octets) => numbered(out, "METADATA MAXSIZE ", *octets),
        Code::Modified(set) => {
            out.extend_from_slice(b"MODIFIED ");
            uid_set(out, set);
        }
        Code::PermanentFlags(list) => {
            out.extend_from_slice(b"PERMANENTFLAGS ");
            flag_list(out, list);
        }
        Code::Referral(urls) => {
            out.extend_from_slice(b"REFERRAL");
            for url in urls {
                out.put_u8(b' ');
                out.extend_from_slice(url);
            }
        }
        Code::UidNext(uid) => numbered(out, "UIDNEXT ", uid.get().into()),
        Code::UidValidity(n) => numbered(out, "UIDVALIDITY ", n.get().into()),
        Code::Unseen(seq) => numbered(out, "UNSEEN ", seq.get().into()),
        Code::Other(text) => line_text(out, text),
        _ => {}
    }
}

fn numbered(out: &mut BytesMut, name: &str, n: u64) {
    out.extend_from_slice(name.as_bytes());
    number(out, n);
}

/// ```abnf
/// resp-code-apnd = "APPENDUID" SP nz-number SP append-uid
/// resp-code-copy = "COPYUID" SP nz-number SP uid-set SP uid-set
/// ```
fn uid_code(out: &mut BytesMut, name: &str, uid_validity: UidValidity, sets: &[&UidSet]) {
    numbered(out, name, uid_validity.get().into());
    for set in sets {
        out.put_u8(b' ');
        uid_set(out, set);
    }
}

/// The name of a code that is a name and nothing more.
pub(crate) fn plain_name(code: &Code) -> Option<&'static str> {
    PLAIN.iter().find(|(one, _)| one == code).map(|(_, name)| *name)
}

/// Codes that are names alone (RFC 9051 §7.1, RFC 5530 and others).
pub(crate) const PLAIN: &[(Code, &str)] = &[
    (Code::ReadWrite, "READ-WRITE"),
    (Code::ReadOnly, "READ-ONLY"),
    (Code::TryCreate, "TRYCREATE"),
    (Code::Alert, "ALERT"),
    (Code::AlreadyExists, "ALREADYEXISTS"),
    (Code::AuthenticationFailed, "AUTHENTICATIONFAILED"),
    (Code::AuthorizationFailed, "AUTHORIZATIONFAILED"),
    (Code::Cannot, "CANNOT"),
    (Code::ClientBug, "CLIENTBUG"),
    (Code::Closed, "CLOSED"),
    (Code::CompressionActive, "COMPRESSIONACTIVE"),
    (Code::ContactAdmin, "CONTACTADMIN"),
    (Code::Corruption, "CORRUPTION"),
    (Code::Expired, "EXPIRED"),
    (Code::ExpungeIssued, "EXPUNGEISSUED"),
    (Code::HasChildren, "HASCHILDREN"),
    (Code::InUse, "INUSE"),
    (Code::Limit, "LIMIT"),
    (Code::MetadataTooMany, "METADATA TOOMANY"),
    (Code::MetadataNoPrivate, "METADATA NOPRIVATE"),
    (Code::NoModSeq, "NOMODSEQ"),
    (Code::NonExistent, "NONEXISTENT"),
    (Code::NoPerm, "NOPERM"),
    (Code::NotSaved, "NOTSAVED"),
    (Code::NotificationOverflow, "NOTIFICATIONOVERFLOW"),
    (Code::OverQuota, "OVERQUOTA"),
    (Code::Parse, "PARSE"),
    (Code::PrivacyRequired, "PRIVACYREQUIRED"),
    (Code::ServerBug, "SERVERBUG"),
    (Code::TooBig, "TOOBIG"),
    (Code::UidNotSticky, "UIDNOTSTICKY"),
    (Code::UidRequired, "UIDREQUIRED"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::UnknownCte, "UNKNOWN-CTE"),
    (Code::UseAttr, "USEATTR"),
];
