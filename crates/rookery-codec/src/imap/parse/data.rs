//! `mailbox-data`, `capability-data` and the like: untagged data that begins with a word.

use super::command::id_params;
use super::list_data;
use super::scan::{Fault, Parsed, Scanner, ascii, is_atom_char};
use super::search::{object_id, partial_range};
use crate::imap::response::{Esearch, MetadataEntries, Response, Runs, StatusValue};
use crate::imap::types::{FlagList, Tag};
use bytes::Bytes;
use rookery_types::{Flag, ModSeq, SetEnd, SystemFlags, Uid, UidValidity};
use std::borrow::Cow;
use std::num::NonZeroU32;

/// What follows `name`; `None`: not known.
pub(crate) fn data(s: &mut Scanner<'_>, name: &str) -> Parsed<Option<Response>> {
    let empty_or_sp = |s: &mut Scanner<'_>| s.take(b' ');
    Ok(Some(match name {
        "CAPABILITY" => Response::Capability(names(s)),
        "ENABLED" => Response::Enabled(names(s)),
        "SEARCH" => {
            let (numbers, modseq) = found(s)?;
            Response::Search { numbers, modseq }
        }
        "SORT" => {
            let (numbers, modseq) = found(s)?;
            Response::Sort { numbers, modseq }
        }
        "THREAD" => {
            empty_or_sp(s);
            Response::Thread(thread(s)?)
        }
        "ESEARCH" => Response::Esearch(esearch(s)?),
        _ => {
            if !known_with_argument(name) {
                return Ok(None);
            }
            s.sp()?;
            with_argument(s, name)?
        }
    }))
}

fn known_with_argument(name: &str) -> bool {
    [
        "ID",
        "NAMESPACE",
        "LIST",
        "LSUB",
        "STATUS",
        "FLAGS",
        "VANISHED",
        "ACL",
        "LISTRIGHTS",
        "MYRIGHTS",
        "QUOTA",
        "QUOTAROOT",
        "METADATA",
    ]
    .contains(&name)
}

fn with_argument(s: &mut Scanner<'_>, name: &str) -> Parsed<Response> {
    Ok(match name {
        "ID" => Response::Id(id_params(s)?),
        "NAMESPACE" => Response::Namespace(list_data::namespaces(s)?),
        "LIST" => Response::List(list_data::entry(s)?),
        "LSUB" => Response::Lsub(list_data::entry(s)?),
        "STATUS" => {
            let mailbox = s.mailbox()?;
            s.sp()?;
            let items = s.list(status_value)?.into_iter().flatten().collect();
            Response::MailboxStatus { mailbox, items }
        }
        "FLAGS" => Response::Flags(flag_list(s)?),
        "VANISHED" => {
            let earlier = s.take_word("(EARLIER) ");
            Response::Vanished { earlier, uids: s.uid_set()? }
        }
        "METADATA" => metadata(s)?,
        _ => rights_or_quota(s, name)?,
    })
}

/// ```abnf
/// acl-data        = "ACL" SP mailbox *(SP identifier SP rights)
/// listrights-data = "LISTRIGHTS" SP mailbox SP identifier SP rights *(SP rights)
/// quota-response  = "QUOTA" SP quota-root-name SP quota-list
/// ```
fn rights_or_quota(s: &mut Scanner<'_>, name: &str) -> Parsed<Response> {
    let mailbox = s.mailbox()?;
    Ok(match name {
        "ACL" => {
            let mut entries = Vec::new();
            while more(s) {
                let identifier = s.astring()?;
                s.sp()?;
                entries.push((identifier, s.astring()?));
            }
            Response::Acl { mailbox, entries }
        }
        "LISTRIGHTS" => {
            s.sp()?;
            let identifier = s.astring()?;
            s.sp()?;
            let required = s.astring()?;
            let mut optional = Vec::new();
            while more(s) {
                optional.push(s.astring()?);
            }
            Response::ListRights { mailbox, identifier, required, optional }
        }
        "MYRIGHTS" => {
            s.sp()?;
            Response::MyRights { mailbox, rights: s.astring()? }
        }
        "QUOTA" => {
            s.sp()?;
            let resources = s.list(|s| {
                let name = s.atom_upper()?;
                s.sp()?;
                let usage = s.number64()?;
                s.sp()?;
                Ok((Cow::Owned(name.into()), usage, s.number64()?))
            })?;
            Response::Quota { root: mailbox, resources }
        }
        _ => {
            let mut roots = Vec::new();
            while more(s) {
                roots.push(s.mailbox()?);
            }
            Response::QuotaRoot { mailbox, roots }
        }
    })
}

/// Takes a space that something follows.
fn more(s: &mut Scanner<'_>) -> bool {
    s.rest().iter().any(|b| *b != b' ') && s.take(b' ')
}

/// `*(SP atom)`
fn names(s: &mut Scanner<'_>) -> Vec<Cow<'static, str>> {
    let mut names = Vec::new();
    while more(s) {
        match s.run(|b| b > b' ' && b < 0x7f) {
            [] => break,
            name => names.push(Cow::Owned(ascii(name).into())),
        }
    }
    names
}

/// `*(SP nz-number)`
fn numbers(s: &mut Scanner<'_>) -> Parsed<Vec<u32>> {
    let mut numbers = Vec::new();
    while s.rest().get(1).is_some_and(u8::is_ascii_digit) && s.take(b' ') {
        numbers.push(s.number()?);
    }
    Ok(numbers)
}

/// ```abnf
/// mailbox-data        =/ "SEARCH" [1*(SP nz-number) SP search-sort-mod-seq]
/// sort-data           = "SORT" [1*(SP nz-number) SP search-sort-mod-seq]
/// search-sort-mod-seq = "(" "MODSEQ" SP mod-sequence-value ")"
/// ```
fn found(s: &mut Scanner<'_>) -> Parsed<(Vec<u32>, Option<ModSeq>)> {
    let numbers = numbers(s)?;
    let mut modseq = None;
    if s.take_word(" (MODSEQ ") {
        modseq = Some(s.number64_as(ModSeq::new)?);
        s.expect(b')', "Missing )")?;
    }
    Ok((numbers, modseq))
}

/// ```abnf
/// thread-data = "THREAD" [SP 1*thread-list]
/// ```
fn thread(s: &mut Scanner<'_>) -> Parsed<Bytes> {
    let lists = s.run(|b| b.is_ascii_digit() || matches!(b, b'(' | b')' | b' '));
    let mut open = 0usize;
    for octet in lists {
        match octet {
            b'(' => open += 1,
            b')' => open = open.checked_sub(1).ok_or(Fault("Unbalanced thread"))?,
            _ => {}
        }
    }
    if open != 0 {
        return Err(Fault("Unbalanced thread"));
    }
    Ok(s.own(lists))
}

/// ```abnf
/// esearch-response   = "ESEARCH" [search-correlator] [SP "UID"] *(SP search-return-data)
/// search-correlator  = SP "(" "TAG" SP tag-string ")"
/// ```
fn esearch(s: &mut Scanner<'_>) -> Parsed<Esearch> {
    let mut found = Esearch::default();
    if s.take_word(" (TAG ") {
        let tag = s.astring()?;
        found.tag = Some(Tag::new(&tag).ok_or(Fault("Malformed tag"))?);
        s.expect(b')', "Missing )")?;
    }
    while more(s) {
        let name = s.atom_upper()?;
        if &*name == "UID" {
            found.uid = true;
            continue;
        }
        s.sp()?;
        match &*name {
            "MIN" => found.min = Some(s.number_as(NonZeroU32::new)?),
            "MAX" => found.max = Some(s.number_as(NonZeroU32::new)?),
            "ALL" => found.all = runs(s)?,
            "PARTIAL" => {
                s.expect(b'(', "Missing (")?;
                let range = partial_range(s)?;
                s.sp()?;
                let numbers = if s.take_nil() { Runs::default() } else { runs(s)? };
                s.expect(b')', "Missing )")?;
                found.partial = Some((range, numbers));
            }
            "COUNT" => found.count = Some(s.number()?),
            "MODSEQ" => found.modseq = Some(s.number64_as(ModSeq::new)?),
            _ => return Err(Fault("Unknown ESEARCH data")),
        }
    }
    Ok(found)
}

/// A `sequence-set` without `*`, in its order.
fn runs(s: &mut Scanner<'_>) -> Parsed<Runs> {
    let mut found = Runs::default();
    for (a, b) in s.known_set()?.ranges() {
        if let (SetEnd::Number(a), SetEnd::Number(b)) = (a, b) {
            found.push(*a, *b);
        }
    }
    Ok(found)
}

/// ```abnf
/// flag-list = "(" [flag *(SP flag)] ")"
/// ```
pub(crate) fn flag_list(s: &mut Scanner<'_>) -> Parsed<FlagList> {
    let mut found = FlagList::default();
    s.list(|s| {
        let flag = s.run(|b| is_atom_char(b) || matches!(b, b'\\' | b'*' | b']'));
        let text = std::str::from_utf8(flag).unwrap_or("");
        match Flag::parse(text) {
            Some(Flag::System(flag)) => found.system = found.system.union(flag),
            Some(Flag::Keyword(keyword)) => found.keywords.push(keyword),
            None if text == "\\*" => found.any = true,
            None if text.eq_ignore_ascii_case("\\Recent") => found.recent = true,
            None if text.is_empty() => return Err(Fault("Missing flag")),
            // A system flag or keyword that we could not hold.
            None => found.system = found.system.union(SystemFlags::NONE),
        }
        Ok(())
    })?;
    Ok(found)
}

/// `"(" objectid ")"`
pub(crate) fn object_id_in_parentheses(s: &mut Scanner<'_>) -> Parsed<Bytes> {
    s.expect(b'(', "Missing (")?;
    let id = object_id(s)?;
    s.expect(b')', "Missing )")?;
    Ok(id)
}

/// `status-att-val`; `None`: not known.
fn status_value(s: &mut Scanner<'_>) -> Parsed<Option<StatusValue>> {
    let name = s.atom_upper()?;
    s.sp()?;
    Ok(Some(match &*name {
        "MESSAGES" => StatusValue::Messages(s.number()?),
        "RECENT" => StatusValue::Recent(s.number()?),
        "UIDNEXT" => StatusValue::UidNext(s.number_as(Uid::new)?),
        "UIDVALIDITY" => StatusValue::UidValidity(s.number_as(UidValidity::new)?),
        "UNSEEN" => StatusValue::Unseen(s.number()?),
        "DELETED" => StatusValue::Deleted(s.number()?),
        "SIZE" => StatusValue::Size(s.number64()?),
        "HIGHESTMODSEQ" => StatusValue::HighestModSeq(ModSeq::new(s.number64()?)),
        "MAILBOXID" => StatusValue::MailboxId(object_id_in_parentheses(s)?),
        "DELETED-STORAGE" => StatusValue::DeletedStorage(s.number64()?),
        "APPENDLIMIT" if s.take_nil() => StatusValue::AppendLimit(None),
        "APPENDLIMIT" => StatusValue::AppendLimit(Some(s.number64()?)),
        _ => {
            super::fetch_data::any_value(s)?;
            return Ok(None);
        }
    }))
}

/// ```abnf
/// metadata-resp = "METADATA" SP mailbox SP (entry-values / entry-list)
/// ```
fn metadata(s: &mut Scanner<'_>) -> Parsed<Response> {
    let mailbox = s.mailbox()?;
    s.sp()?;
    let entries = if s.peek() == Some(b'(') {
        MetadataEntries::Values(s.list1(|s| {
            let entry = s.astring()?;
            s.sp()?;
            Ok((entry, s.nstring()?))
        })?)
    } else {
        let mut names = vec![s.astring()?];
        while more(s) {
            names.push(s.astring()?);
        }
        MetadataEntries::Changed(names)
    };
    Ok(Response::Metadata { mailbox, entries })
}
