//! Whole responses.

use super::basic::{
    astring, flag_list, joined, mailbox, nstring, number, partial_range, quoted, runs, string, uid_set,
};
use super::code::status;
use super::fetch::FetchWriter;
use crate::imap::response::{
    Esearch, ListAttribute, ListEntry, MetadataEntries, Namespace, Namespaces, Response, StatusValue,
};
use crate::imap::types::{IdParams, WireName};
use bytes::{BufMut, Bytes, BytesMut};

/// Any response, with its line end.
pub fn response(out: &mut BytesMut, response: &Response) {
    match response {
        Response::Status(one) => return status(out, one),
        Response::Fetch { seq, items } => {
            let mut writer = FetchWriter::begin(out, *seq);
            items.iter().for_each(|item| writer.item(item));
            return writer.end();
        }
        Response::UidFetch { uid, items } => {
            let mut writer = FetchWriter::begin_uid(out, *uid);
            items.iter().for_each(|item| writer.item(item));
            return writer.end();
        }
        Response::List(entry) => return list_entry(out, "LIST", entry),
        Response::Lsub(entry) => return list_entry(out, "LSUB", entry),
        Response::MailboxStatus { mailbox, items } => return mailbox_status(out, mailbox, items),
        Response::Continue(text) => {
            out.extend_from_slice(b"+ ");
            out.extend(text.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }));
        }
        Response::Exists(n) => counted(out, *n, "EXISTS"),
        Response::Recent(n) => counted(out, *n, "RECENT"),
        Response::Expunge(seq) => counted(out, seq.get(), "EXPUNGE"),
        Response::Capability(names) => {
            out.extend_from_slice(b"* CAPABILITY");
            spaced(out, names, |out, name| out.extend_from_slice(name.as_bytes()));
        }
        Response::Enabled(names) => {
            out.extend_from_slice(b"* ENABLED");
            spaced(out, names, |out, name| out.extend_from_slice(name.as_bytes()));
        }
        Response::Id(parameters) => {
            out.extend_from_slice(b"* ID ");
            id_params(out, parameters);
        }
        Response::Namespace(namespaces) => namespace_data(out, namespaces),
        Response::Search { numbers, modseq } | Response::Sort { numbers, modseq } => {
            let word: &[u8] = if matches!(response, Response::Sort { .. }) { b"* SORT" } else { b"* SEARCH" };
            out.extend_from_slice(word);
            spaced(out, numbers, |out, n| number(out, *n));
            if let Some(modseq) = modseq {
                out.extend_from_slice(b" (MODSEQ ");
                number(out, modseq.get());
                out.put_u8(b')');
            }
        }
        Response::Esearch(data) => esearch(out, data),
        Response::Thread(lists) => {
            out.extend_from_slice(b"* THREAD");
            if !lists.is_empty() {
                out.put_u8(b' ');
                out.extend_from_slice(lists);
            }
        }
        Response::Flags(list) => {
            out.extend_from_slice(b"* FLAGS ");
            flag_list(out, list);
        }
        Response::Vanished { earlier, uids } => {
            out.extend_from_slice(if *earlier { b"* VANISHED (EARLIER) " } else { b"* VANISHED " });
            uid_set(out, uids);
        }
        Response::Acl { .. } | Response::ListRights { .. } | Response::MyRights { .. } => {
            rights_data(out, response);
        }
        Response::Quota { root, resources } => {
            named(out, "QUOTA", root);
            out.extend_from_slice(b" (");
            joined(out, " ", resources, |out, (name, usage, limit)| {
                out.extend_from_slice(name.as_bytes());
                out.put_u8(b' ');
                number(out, *usage);
                out.put_u8(b' ');
                number(out, *limit);
            });
            out.put_u8(b')');
        }
        Response::QuotaRoot { mailbox: name, roots } => {
            named(out, "QUOTAROOT", name);
            spaced(out, roots, mailbox);
        }
        Response::Metadata { mailbox: name, entries } => metadata(out, name, entries),
        Response::Other(octets) => {
            out.extend_from_slice(b"* ");
            out.extend_from_slice(octets);
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn counted(out: &mut BytesMut, n: u32, word: &str) {
    out.extend_from_slice(b"* ");
    number(out, n);
    out.put_u8(b' ');
    out.extend_from_slice(word.as_bytes());
}

fn named(out: &mut BytesMut, word: &str, name: &WireName) {
    out.extend_from_slice(b"* ");
    out.extend_from_slice(word.as_bytes());
    out.put_u8(b' ');
    mailbox(out, name);
}

/// Each item with a space before it.
fn spaced<T>(out: &mut BytesMut, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut BytesMut, T)) {
    for one in items {
        out.put_u8(b' ');
        item(out, one);
    }
}

/// ```abnf
/// id-params-list = "(" *(string SP nstring) ")" / nil
/// ```
pub(crate) fn id_params(out: &mut BytesMut, parameters: &IdParams) {
    let Some(parameters) = parameters else { return out.extend_from_slice(b"NIL") };
    out.put_u8(b'(');
    joined(out, " ", parameters, |out, (name, value)| {
        string(out, name);
        out.put_u8(b' ');
        nstring(out, value.as_deref());
    });
    out.put_u8(b')');
}

/// ```abnf
/// namespace-response = "*" SP "NAMESPACE" SP namespace SP namespace SP namespace
/// namespace          = nil / "(" 1*namespace-descr ")"
/// ```
fn namespace_data(out: &mut BytesMut, namespaces: &Namespaces) {
    out.extend_from_slice(b"* NAMESPACE");
    for class in [&namespaces.personal, &namespaces.others, &namespaces.shared] {
        if class.is_empty() {
            out.extend_from_slice(b" NIL");
            continue;
        }
        out.extend_from_slice(b" (");
        for Namespace { prefix, separator: hierarchy } in class {
            out.put_u8(b'(');
            // The grammar wants a string here, never an atom.
            if std::str::from_utf8(prefix.as_bytes()).is_ok() && !prefix.0.iter().any(|b| *b < 0x20) {
                quoted(out, prefix.as_bytes());
            } else {
                string(out, prefix.as_bytes());
            }
            out.put_u8(b' ');
            separator(out, *hierarchy);
            out.put_u8(b')');
        }
        out.put_u8(b')');
    }
}

fn separator(out: &mut BytesMut, separator: Option<u8>) {
    match separator {
        Some(octet) => quoted(out, &[octet]),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// `LIST` or `LSUB` data, with its line end.
///
/// ```abnf
/// mailbox-list = "(" [mbx-list-flags] ")" SP (DQUOTE QUOTED-CHAR DQUOTE / nil) SP mailbox
///                [SP mbox-list-extended]
/// ```
pub fn list_entry(out: &mut BytesMut, word: &'static str, entry: &ListEntry) {
    out.extend_from_slice(b"* ");
    out.extend_from_slice(word.as_bytes());
    out.extend_from_slice(b" (");
    joined(out, " ", &entry.attributes, |out, one| out.extend_from_slice(attribute(one).as_bytes()));
    out.extend_from_slice(b") ");
    separator(out, entry.separator);
    out.put_u8(b' ');
    mailbox(out, &entry.mailbox);
    if !entry.child_info.is_empty() || entry.old_name.is_some() {
        out.extend_from_slice(b" (");
        if !entry.child_info.is_empty() {
            out.extend_from_slice(b"\"CHILDINFO\" (");
            joined(out, " ", &entry.child_info, |out, one| quoted(out, one.as_bytes()));
            out.put_u8(b')');
        }
        if let Some(old) = &entry.old_name {
            if !entry.child_info.is_empty() {
                out.put_u8(b' ');
            }
            out.extend_from_slice(b"\"OLDNAME\" (");
            mailbox(out, old);
            out.put_u8(b')');
        }
        out.put_u8(b')');
    }
    out.extend_from_slice(b"\r\n");
}

/// Attributes with fixed names.
pub(crate) const ATTRIBUTES: &[(ListAttribute, &str)] = &[
    (ListAttribute::NonExistent, "\\NonExistent"),
    (ListAttribute::NoInferiors, "\\Noinferiors"),
    (ListAttribute::NoSelect, "\\Noselect"),
    (ListAttribute::HasChildren, "\\HasChildren"),
    (ListAttribute::HasNoChildren, "\\HasNoChildren"),
    (ListAttribute::Marked, "\\Marked"),
    (ListAttribute::Unmarked, "\\Unmarked"),
    (ListAttribute::Subscribed, "\\Subscribed"),
    (ListAttribute::Remote, "\\Remote"),
];

fn attribute(attribute: &ListAttribute) -> &str {
    match attribute {
        ListAttribute::SpecialUse(special_use) => special_use.attribute(),
        ListAttribute::Other(name) => name,
        fixed => ATTRIBUTES.iter().find(|(one, _)| one == fixed).map_or("", |(_, name)| name),
    }
}

/// `STATUS` data, with its line end.
///
/// ```abnf
/// mailbox-data =/ "STATUS" SP mailbox SP "(" [status-att-list] ")"
/// ```
pub fn mailbox_status(out: &mut BytesMut, name: &WireName, items: &[StatusValue]) {
    named(out, "STATUS", name);
    out.extend_from_slice(b" (");
    joined(out, " ", items, status_value);
    out.extend_from_slice(b")\r\n");
}

fn status_value(out: &mut BytesMut, value: &StatusValue) {
    let mut numbered = |name: &str, n: u64| {
        out.extend_from_slice(name.as_bytes());
        number(out, n);
    };
    match value {
        StatusValue::Messages(n) => numbered("MESSAGES ", (*n).into()),
        StatusValue::Recent(n) => numbered("RECENT ", (*n).into()),
        StatusValue::UidNext(uid) => numbered("UIDNEXT ", uid.get().into()),
        StatusValue::UidValidity(n) => numbered("UIDVALIDITY ", n.get().into()),
        StatusValue::Unseen(n) => numbered("UNSEEN ", (*n).into()),
        StatusValue::Deleted(n) => numbered("DELETED ", (*n).into()),
        StatusValue::Size(octets) => numbered("SIZE ", *octets),
        StatusValue::HighestModSeq(modseq) => numbered("HIGHESTMODSEQ ", modseq.map_or(0, |n| n.get())),
        StatusValue::DeletedStorage(octets) => numbered("DELETED-STORAGE ", *octets),
        StatusValue::AppendLimit(Some(octets)) => numbered("APPENDLIMIT ", *octets),
        StatusValue::AppendLimit(None) => out.extend_from_slice(b"APPENDLIMIT NIL"),
        StatusValue::MailboxId(id) => {
            out.extend_from_slice(b"MAILBOXID (");
            out.extend_from_slice(id);
            out.put_u8(b')');
        }
    }
}

/// ```abnf
/// esearch-response = "ESEARCH" [search-correlator] [SP "UID"] *(SP search-return-data)
/// ```
fn esearch(out: &mut BytesMut, data: &Esearch) {
    out.extend_from_slice(b"* ESEARCH");
    if let Some(tag) = &data.tag {
        out.extend_from_slice(b" (TAG ");
        quoted(out, tag.as_str().as_bytes());
        out.put_u8(b')');
    }
    if data.uid {
        out.extend_from_slice(b" UID");
    }
    let mut numbered = |name: &str, n: Option<u64>| {
        if let Some(n) = n {
            out.extend_from_slice(name.as_bytes());
            number(out, n);
        }
    };
    numbered(" MIN ", data.min.map(|n| n.get().into()));
    numbered(" MAX ", data.max.map(|n| n.get().into()));
    numbered(" COUNT ", data.count.map(u64::from));
    if !data.all.is_empty() {
        out.extend_from_slice(b" ALL ");
        runs(out, &data.all);
    }
    if let Some((range, found)) = &data.partial {
        out.extend_from_slice(b" PARTIAL (");
        partial_range(out, *range);
        out.put_u8(b' ');
        match found.is_empty() {
            true => out.extend_from_slice(b"NIL"),
            false => runs(out, found),
        }
        out.put_u8(b')');
    }
    if let Some(modseq) = data.modseq {
        out.extend_from_slice(b" MODSEQ ");
        number(out, modseq.get());
    }
}

/// ```abnf
/// acl-data        = "ACL" SP mailbox *(SP identifier SP rights)
/// listrights-data = "LISTRIGHTS" SP mailbox SP identifier SP rights *(SP rights)
/// myrights-data   = "MYRIGHTS" SP mailbox SP rights
/// ```
fn rights_data(out: &mut BytesMut, response: &Response) {
    let text = |out: &mut BytesMut, octets: &Bytes| astring(out, octets);
    match response {
        Response::Acl { mailbox, entries } => {
            named(out, "ACL", mailbox);
            for (identifier, rights) in entries {
                spaced(out, [identifier, rights], text);
            }
        }
        Response::ListRights { mailbox, identifier, required, optional } => {
            named(out, "LISTRIGHTS", mailbox);
            spaced(out, [identifier, required], text);
            spaced(out, optional, text);
        }
        Response::MyRights { mailbox, rights } => {
            named(out, "MYRIGHTS", mailbox);
            spaced(out, [rights], text);
        }
        _ => {}
    }
}

/// ```abnf
/// metadata-resp = "METADATA" SP mailbox SP (entry-values / entry-list)
/// ```
fn metadata(out: &mut BytesMut, name: &WireName, entries: &MetadataEntries) {
    named(out, "METADATA", name);
    match entries {
        MetadataEntries::Values(values) => {
            out.extend_from_slice(b" (");
            joined(out, " ", values, |out, (entry, value)| {
                astring(out, entry);
                out.put_u8(b' ');
                nstring(out, value.as_deref());
            });
            out.put_u8(b')');
        }
        MetadataEntries::Changed(names) => spaced(out, names, |out, entry: &Bytes| astring(out, entry)),
    }
}
