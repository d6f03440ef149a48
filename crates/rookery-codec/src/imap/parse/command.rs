//! `command` of RFC 9051 §9 and of the extensions, all but APPEND.

use super::scan::{Fault, Parsed, Scanner, upper};
use super::{fetch, list, notify, search};
use crate::imap::command::{Change, Command, MetadataDepth, Qresync, SelectParameters, Tagged};
use crate::imap::response::Condition;
use crate::imap::server::Bad;
use crate::imap::types::{IdParams, Secret, StatusItem, Tag};
use crate::sasl;
use bytes::Bytes;
use rookery_types::{Flag, Rights, SpecialUse, UidValidity};

/// Names longer than this are no command's.
const NAME_OCTETS_MAX: usize = 64;

/// One command, from a frame without its last line end.
///
/// ```abnf
/// command = tag SP (command-any / command-auth / command-nonauth / command-select) CRLF
/// ```
pub(crate) fn command(frame: &[u8], depth: usize) -> Result<Tagged, Bad> {
    let mut scanner = Scanner::new(frame, depth);
    let word = scanner.run(|b| !matches!(b, b' ' | b'\r' | b'\n'));
    let tag = Tag::new(word);
    let bad = |tag, fault: Fault| Bad { tag, condition: Condition::Bad, code: None, text: fault.0 };
    let Some(tag) = tag else {
        return Err(bad(None, Fault("Missing or malformed tag")));
    };
    let parsed = scanner.sp().and_then(|()| body(&mut scanner));
    match parsed {
        Ok(command) => Ok(Tagged { tag, command }),
        Err(fault) => Err(bad(Some(tag), fault)),
    }
}

/// A command's name, in upper case, in a buffer of its own.
struct Name {
    octets: [u8; NAME_OCTETS_MAX],
    len: usize,
}

impl Name {
    fn new(atom: &[u8]) -> Parsed<Name> {
        let mut name = Name { octets: [0; NAME_OCTETS_MAX], len: atom.len() };
        let octets = name.octets.get_mut(..atom.len()).ok_or(Fault("Unknown command"))?;
        octets.copy_from_slice(atom);
        octets.make_ascii_uppercase();
        Ok(name)
    }

    fn as_bytes(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or(&[])
    }
}

fn body(s: &mut Scanner<'_>) -> Parsed<Command> {
    let name = Name::new(s.atom()?)?;
    let (name, uid) = match name.as_bytes() {
        b"UID" => {
            s.sp()?;
            (Name::new(s.atom()?)?, true)
        }
        _ => (name, false),
    };
    let command = match (name.as_bytes(), uid) {
        (b"FETCH", _) => fetch::fetch(s, uid)?,
        (b"STORE", _) => fetch::store(s, uid)?,
        (b"SEARCH", _) => search::search(s, uid)?,
        (b"SORT", _) => search::sort(s, uid)?,
        (b"THREAD", _) => search::thread(s, uid)?,
        (b"COPY" | b"MOVE", _) => {
            s.sp()?;
            let set = s.message_set()?;
            s.sp()?;
            let mailbox = s.mailbox()?;
            match name.as_bytes() {
                b"COPY" => Command::Copy { uid, set, mailbox },
                _ => Command::Move { uid, set, mailbox },
            }
        }
        (b"EXPUNGE", true) => {
            s.sp()?;
            Command::Expunge { uids: Some(s.message_set()?) }
        }
        (_, true) => return Err(Fault("Unknown UID command")),
        (name, false) => return plain(s, name),
    };
    s.end()?;
    Ok(command)
}

/// The commands that have no UID form.
fn plain(s: &mut Scanner<'_>, name: &[u8]) -> Parsed<Command> {
    let command = match name {
        b"CAPABILITY" => Command::Capability,
        b"NOOP" => Command::Noop,
        b"LOGOUT" => Command::Logout,
        b"STARTTLS" => Command::StartTls,
        b"UNAUTHENTICATE" => Command::Unauthenticate,
        b"NAMESPACE" => Command::Namespace,
        b"IDLE" => Command::Idle,
        b"CHECK" => Command::Check,
        b"CLOSE" => Command::Close,
        b"UNSELECT" => Command::Unselect,
        b"EXPUNGE" => Command::Expunge { uids: None },
        b"APPEND" => return Err(Fault("APPEND must end with a literal")),
        _ => return with_arguments(s, name),
    };
    s.end()?;
    Ok(command)
}

fn with_arguments(s: &mut Scanner<'_>, name: &[u8]) -> Parsed<Command> {
    let rule: fn(&mut Scanner<'_>) -> Parsed<Command> = match name {
        b"ID" => |s| id_params(s).map(Command::Id),
        b"LOGIN" => login,
        b"AUTHENTICATE" => authenticate,
        b"ENABLE" => enable,
        b"SELECT" => |s| select(s, false),
        b"EXAMINE" => |s| select(s, true),
        b"CREATE" => create,
        b"DELETE" => |s| Ok(Command::Delete { mailbox: s.mailbox()? }),
        b"RENAME" => rename,
        b"XFER" => xfer,
        b"SUBSCRIBE" => |s| Ok(Command::Subscribe { mailbox: s.mailbox()? }),
        b"UNSUBSCRIBE" => |s| Ok(Command::Unsubscribe { mailbox: s.mailbox()? }),
        b"LIST" => |s| list::list(s).map(Command::List),
        b"LSUB" => list::lsub,
        b"STATUS" => status,
        b"SETACL" => set_acl,
        b"DELETEACL" => |s| {
            let mailbox = s.mailbox()?;
            s.sp()?;
            Ok(Command::DeleteAcl { mailbox, identifier: s.astring()? })
        },
        b"GETACL" => |s| Ok(Command::GetAcl { mailbox: s.mailbox()? }),
        b"LISTRIGHTS" => |s| {
            let mailbox = s.mailbox()?;
            s.sp()?;
            Ok(Command::ListRights { mailbox, identifier: s.astring()? })
        },
        b"MYRIGHTS" => |s| Ok(Command::MyRights { mailbox: s.mailbox()? }),
        b"GETQUOTA" => |s| Ok(Command::GetQuota { root: s.mailbox()? }),
        b"GETQUOTAROOT" => |s| Ok(Command::GetQuotaRoot { mailbox: s.mailbox()? }),
        b"SETQUOTA" => set_quota,
        b"GETMETADATA" => get_metadata,
        b"SETMETADATA" => set_metadata,
        b"NOTIFY" => notify::notify,
        b"COMPRESS" => |s| Ok(Command::Compress { mechanism: s.atom_upper()? }),
        _ => return Ok(Command::Unknown { name: upper(name) }),
    };
    s.sp()?;
    let command = rule(s)?;
    s.end()?;
    Ok(command)
}

/// ```abnf
/// id-params-list = "(" *(string SP nstring) ")" / nil
/// ```
pub(crate) fn id_params(s: &mut Scanner<'_>) -> Parsed<IdParams> {
    if s.take_nil() {
        return Ok(None);
    }
    // RFC 2971 §3.3 allows 30 of them; the frame's limit bounds them already.
    s.list(|s| {
        let name = s.string()?;
        s.sp()?;
        Ok((name, s.nstring()?))
    })
    .map(Some)
}

/// ```abnf
/// login = "LOGIN" SP userid SP password
/// ```
fn login(s: &mut Scanner<'_>) -> Parsed<Command> {
    let user = s.astring()?;
    s.sp()?;
    Ok(Command::Login { user, password: Secret(s.astring()?) })
}

/// ```abnf
/// authenticate     = "AUTHENTICATE" SP auth-type [SP initial-resp]
/// initial-resp     = (base64 / "=")
/// ```
fn authenticate(s: &mut Scanner<'_>) -> Parsed<Command> {
    let mechanism = s.atom_upper()?;
    if s.rest().iter().all(|b| *b == b' ') {
        return Ok(Command::Authenticate { mechanism, initial: None });
    }
    s.sp()?;
    let text = s.run(|b| b != b' ');
    let initial = sasl::initial_response(text).map_err(|_| Fault("Malformed base64"))?;
    Ok(Command::Authenticate { mechanism, initial: Some(Secret(initial)) })
}

/// ```abnf
/// enable = "ENABLE" 1*(SP capability)
/// ```
fn enable(s: &mut Scanner<'_>) -> Parsed<Command> {
    let mut names = vec![s.atom_upper()?];
    while !s.rest().iter().all(|b| *b == b' ') {
        s.sp()?;
        names.push(s.atom_upper()?);
    }
    Ok(Command::Enable(names))
}

/// ```abnf
/// select        = "SELECT" SP mailbox [select-params]
/// select-params = SP "(" select-param *(SP select-param) ")"
/// select-param  =/ condstore-param / "QRESYNC" SP "(" ... ")"
/// ```
fn select(s: &mut Scanner<'_>, read_only: bool) -> Parsed<Command> {
    let mailbox = s.mailbox()?;
    let mut parameters = SelectParameters::default();
    if s.take_word(" (") {
        s.items_to_close(|s| {
            match s.atom()?.to_ascii_uppercase().as_slice() {
                b"CONDSTORE" => parameters.condstore = true,
                b"QRESYNC" if parameters.qresync.is_none() => {
                    s.sp()?;
                    parameters.qresync = Some(qresync(s)?);
                }
                _ => return Err(Fault("Unknown parameter")),
            }
            Ok(())
        })?;
    }
    Ok(Command::Select { mailbox, read_only, parameters })
}

/// ```abnf
/// "(" uidvalidity SP mod-sequence-value [SP known-uids] [SP seq-match-data] ")"
/// seq-match-data = "(" known-sequence-set SP known-uid-set ")"
/// ```
fn qresync(s: &mut Scanner<'_>) -> Parsed<Qresync> {
    s.expect(b'(', "Missing (")?;
    let uid_validity = s.number_as(UidValidity::new)?;
    s.sp()?;
    let modseq = s.number64()?;
    let mut found = Qresync { uid_validity, modseq, known_uids: None, sequence_match: None };
    if s.rest().first() == Some(&b' ') && s.rest().get(1) != Some(&b'(') {
        s.sp()?;
        found.known_uids = Some(s.known_set()?);
    }
    if s.take_word(" (") {
        let numbers = s.known_set()?;
        s.sp()?;
        let uids = s.known_set()?;
        s.expect(b')', "Missing )")?;
        found.sequence_match = Some((numbers, uids));
    }
    s.expect(b')', "Missing )")?;
    Ok(found)
}

/// ```abnf
/// create       = "CREATE" SP mailbox [SP "(" create-param *(SP create-param) ")"]
/// create-param =/ "USE" SP "(" [use-attr *(SP use-attr)] ")"
///
/// Cyrus's, for administrators:
/// create       =/ "CREATE" SP mailbox SP astring
/// create-param =/ "PARTITION" SP astring
/// ```
fn create(s: &mut Scanner<'_>) -> Parsed<Command> {
    let mailbox = s.mailbox()?;
    let (mut special_use, mut at) = (Vec::new(), None);
    if s.take_word(" (") {
        loop {
            if s.take_word("USE ") {
                special_use = s.list(use_attr)?;
            } else if s.take_word("PARTITION ") {
                at = Some(s.astring()?);
            } else {
                return Err(Fault("Unknown parameter"));
            }
            if !s.take_word(" ") {
                break;
            }
        }
        s.expect(b')', "Missing )")?;
    } else {
        at = place(s)?;
    }
    Ok(Command::Create { mailbox, special_use, at })
}

fn use_attr(s: &mut Scanner<'_>) -> Parsed<SpecialUse> {
    let start = s.rest();
    s.expect(b'\\', "Missing \\")?;
    let name = s.atom()?;
    let whole = start.get(..name.len() + 1).unwrap_or(&[]);
    let text = std::str::from_utf8(whole).unwrap_or("");
    SpecialUse::parse(text).ok_or(Fault("Unknown special use"))
}

/// `[SP astring]`: where Cyrus's administrators want a mailbox. A space at the end of a line is no argument.
fn place(s: &mut Scanner<'_>) -> Parsed<Option<Bytes>> {
    let is_given = s.rest().len() > 1 && s.take_word(" ");
    is_given.then(|| s.astring()).transpose()
}

/// ```abnf
/// rename = "RENAME" SP mailbox SP mailbox
///
/// Cyrus's, for administrators:
/// rename =/ "RENAME" SP mailbox SP mailbox SP astring
/// ```
fn rename(s: &mut Scanner<'_>) -> Parsed<Command> {
    let from = s.mailbox()?;
    s.sp()?;
    Ok(Command::Rename { from, to: s.mailbox()?, at: place(s)? })
}

/// ```abnf
/// Cyrus's, for administrators:
/// xfer = "XFER" SP mailbox SP astring [SP astring]
/// ```
fn xfer(s: &mut Scanner<'_>) -> Parsed<Command> {
    let mailbox = s.mailbox()?;
    s.sp()?;
    Ok(Command::Xfer { mailbox, node: s.astring()?, partition: place(s)? })
}

/// ```abnf
/// status = "STATUS" SP mailbox SP "(" status-att *(SP status-att) ")"
/// ```
fn status(s: &mut Scanner<'_>) -> Parsed<Command> {
    let mailbox = s.mailbox()?;
    s.sp()?;
    Ok(Command::Status { mailbox, items: s.list1(status_item)? })
}

/// `status-att`
pub(crate) fn status_item(s: &mut Scanner<'_>) -> Parsed<StatusItem> {
    let name = s.atom()?;
    let found = StatusItem::ALL.iter().find(|(_, one)| one.as_bytes().eq_ignore_ascii_case(name));
    found.map(|(item, _)| *item).ok_or(Fault("Unknown STATUS item"))
}

/// ```abnf
/// setacl     = "SETACL" SP mailbox SP identifier SP mod-rights
/// mod-rights = astring    ; +rights to add, -rights to remove, rights to replace
/// ```
fn set_acl(s: &mut Scanner<'_>) -> Parsed<Command> {
    let mailbox = s.mailbox()?;
    s.sp()?;
    let identifier = s.astring()?;
    s.sp()?;
    let text = s.astring()?;
    let (change, letters) = match text.split_first() {
        Some((b'+', rest)) => (Change::Add, rest),
        Some((b'-', rest)) => (Change::Remove, rest),
        _ => (Change::Replace, &text[..]),
    };
    let letters = std::str::from_utf8(letters).map_err(|_| Fault("Unknown right"))?;
    let rights = Rights::parse(letters).map_err(|_| Fault("Unknown right"))?;
    Ok(Command::SetAcl { mailbox, identifier, change, rights })
}

/// ```abnf
/// setquota           = "SETQUOTA" SP quota-root-name SP setquota-list
/// setquota-list      = "(" [setquota-resource *(SP setquota-resource)] ")"
/// setquota-resource  = resource-name SP resource-limit
/// ```
fn set_quota(s: &mut Scanner<'_>) -> Parsed<Command> {
    let root = s.mailbox()?;
    s.sp()?;
    let limits = s.list(|s| {
        let name = s.atom_upper()?;
        s.sp()?;
        Ok((name, s.number64()?))
    })?;
    Ok(Command::SetQuota { root, limits })
}

/// The options stand before the mailbox (RFC 5464 §4.2); some clients put them after it, which is taken.
///
/// ```abnf
/// getmetadata = "GETMETADATA" [SP getmetadata-options] SP mailbox SP entries
/// entries     = entry / "(" entry *(SP entry) ")"
/// ```
fn get_metadata(s: &mut Scanner<'_>) -> Parsed<Command> {
    let (mut max_size, mut depth) = (None, MetadataDepth::Zero);
    let mut options = |s: &mut Scanner<'_>| {
        s.list1(|s| {
            let name = s.atom_upper()?;
            s.sp()?;
            match &*name {
                "MAXSIZE" => max_size = Some(s.number()?),
                "DEPTH" => depth = metadata_depth(s)?,
                _ => return Err(Fault("Unknown option")),
            }
            Ok(())
        })
    };
    if s.peek() == Some(b'(') {
        options(s)?;
        s.sp()?;
    }
    let mailbox = s.mailbox()?;
    s.sp()?;
    let late = |s: &Scanner<'_>| {
        let mut ahead = s.clone();
        ahead.take(b'(') && (ahead.take_word("MAXSIZE ") || ahead.take_word("DEPTH "))
    };
    if late(s) {
        options(s)?;
        s.sp()?;
    }
    let entries = match s.peek() {
        Some(b'(') => s.list1(Scanner::astring)?,
        _ => vec![s.astring()?],
    };
    Ok(Command::GetMetadata { mailbox, max_size, depth, entries })
}

fn metadata_depth(s: &mut Scanner<'_>) -> Parsed<MetadataDepth> {
    match &*s.atom_upper()? {
        "0" => Ok(MetadataDepth::Zero),
        "1" => Ok(MetadataDepth::One),
        "INFINITY" => Ok(MetadataDepth::Infinity),
        _ => Err(Fault("DEPTH is 0, 1 or infinity")),
    }
}

/// ```abnf
/// setmetadata  = "SETMETADATA" SP mailbox SP entry-values
/// entry-values = "(" entry-value *(SP entry-value) ")"
/// entry-value  = entry SP value
/// value        = nstring / literal8
/// ```
fn set_metadata(s: &mut Scanner<'_>) -> Parsed<Command> {
    let mailbox = s.mailbox()?;
    s.sp()?;
    let entries = s.list1(|s| {
        let entry = s.astring()?;
        s.sp()?;
        Ok((entry, s.nstring()?))
    })?;
    Ok(Command::SetMetadata { mailbox, entries })
}

/// A flag that a client sets; `None`: `\Recent`, which means nothing there.
///
/// ```abnf
/// flag = "\Answered" / "\Flagged" / "\Deleted" / "\Seen" / "\Draft" / flag-keyword / flag-extension
/// ```
pub(crate) fn flag(s: &mut Scanner<'_>) -> Parsed<Option<Flag>> {
    let start = s.rest();
    let backslash = s.take(b'\\');
    let len = s.atom()?.len() + usize::from(backslash);
    let text = start.get(..len).and_then(|octets| std::str::from_utf8(octets).ok()).unwrap_or("");
    if text.eq_ignore_ascii_case("\\Recent") {
        return Ok(None);
    }
    match Flag::parse(text) {
        Some(flag) => Ok(Some(flag)),
        None if backslash => Err(Fault("Unknown system flag")),
        None => Err(Fault("Keyword too long")),
    }
}
