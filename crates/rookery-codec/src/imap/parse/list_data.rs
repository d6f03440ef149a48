//! LIST, LSUB and NAMESPACE data.

use super::fetch_data::any_value;
use super::scan::{Fault, Parsed, Scanner, ascii, is_atom_char};
use crate::imap::print::LIST_ATTRIBUTES;
use crate::imap::response::{ListAttribute, ListEntry, Namespace, Namespaces};
use rookery_types::SpecialUse;
use std::borrow::Cow;

/// ```abnf
/// mailbox-list = "(" [mbx-list-flags] ")" SP (DQUOTE QUOTED-CHAR DQUOTE / nil) SP mailbox
///                [SP mbox-list-extended]
/// ```
pub(crate) fn entry(s: &mut Scanner<'_>) -> Parsed<ListEntry> {
    let attributes = s.list(attribute)?;
    s.sp()?;
    let separator = separator(s)?;
    s.sp()?;
    let mailbox = s.mailbox()?;
    let mut entry = ListEntry { attributes, separator, mailbox, child_info: Vec::new(), old_name: None };
    if s.take_word(" (") {
        s.items_to_close(|s| extended_item(s, &mut entry))?;
    }
    Ok(entry)
}

/// ```abnf
/// mbox-list-extended-item = mbox-list-extended-item-tag SP tagged-ext-val
/// ```
fn extended_item(s: &mut Scanner<'_>, entry: &mut ListEntry) -> Parsed<()> {
    let name = s.astring()?;
    s.sp()?;
    if name.eq_ignore_ascii_case(b"CHILDINFO") {
        let text = |octets: bytes::Bytes| Cow::Owned(String::from_utf8_lossy(&octets).into_owned());
        entry.child_info = s.list1(|s| s.astring().map(text))?;
    } else if name.eq_ignore_ascii_case(b"OLDNAME") {
        s.expect(b'(', "Missing (")?;
        entry.old_name = Some(s.mailbox()?);
        s.expect(b')', "Missing )")?;
    } else {
        any_value(s)?;
    }
    Ok(())
}

fn attribute(s: &mut Scanner<'_>) -> Parsed<ListAttribute> {
    let name = s.run(|b| is_atom_char(b) || b == b'\\');
    let text = std::str::from_utf8(name).unwrap_or("");
    if text.len() < 2 {
        return Err(Fault("Missing attribute"));
    }
    if let Some(special_use) = SpecialUse::parse(text) {
        return Ok(ListAttribute::SpecialUse(special_use));
    }
    let fixed = LIST_ATTRIBUTES.iter().find(|(_, one)| one.eq_ignore_ascii_case(text));
    Ok(fixed.map_or_else(|| ListAttribute::Other(ascii(name)), |(one, _)| one.clone()))
}

fn separator(s: &mut Scanner<'_>) -> Parsed<Option<u8>> {
    match s.nstring()?.as_deref() {
        None => Ok(None),
        Some([octet]) => Ok(Some(*octet)),
        Some(_) => Err(Fault("Malformed separator")),
    }
}

/// ```abnf
/// namespace-response = "NAMESPACE" SP namespace SP namespace SP namespace
/// namespace          = nil / "(" 1*namespace-descr ")"
/// ```
pub(crate) fn namespaces(s: &mut Scanner<'_>) -> Parsed<Namespaces> {
    let personal = namespace(s)?;
    s.sp()?;
    let others = namespace(s)?;
    s.sp()?;
    Ok(Namespaces { personal, others, shared: namespace(s)? })
}

fn namespace(s: &mut Scanner<'_>) -> Parsed<Vec<Namespace>> {
    let mut found = Vec::new();
    if s.take_nil() {
        return Ok(found);
    }
    s.expect(b'(', "Missing (")?;
    while s.take(b'(') {
        let prefix = s.mailbox()?;
        s.sp()?;
        found.push(Namespace { prefix, separator: separator(s)? });
        // Extensions: `*(SP string SP "(" string *(SP string) ")")`
        while s.take(b' ') {
            any_value(s)?;
        }
        s.expect(b')', "Missing )")?;
        s.take(b' ');
    }
    s.expect(b')', "Missing )")?;
    Ok(found)
}
