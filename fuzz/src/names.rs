//! Names, patterns, sets and dates: what is accepted has one spelling that reads back as the same.

use std::collections::BTreeSet;

use rookery_codec::imap::url::MessageUrl;
use rookery_types::namespace::{AdminNames, CyrusWire, parse_identifier, show_identifier};
use rookery_types::{
    AccountName, Address, ClientNames, Encoding, InternalDate, MailboxPath, Pattern, Rights, Style, UidSet,
    UserName, utf7,
};

const DOMAIN: &str = "example.org";

pub fn names(data: &[u8]) {
    if let Ok(text) = utf7::decode(data) {
        let wire = utf7::encode(&text);
        assert_eq!(utf7::decode(wire.as_bytes()).as_deref(), Ok(text.as_str()), "by way of {wire}");
    }
    if let Some(url) = MessageUrl::parse(data) {
        assert!(url.mailbox.is_some() || url.server.is_none(), "{url:?}");
    }
    let joe = UserName::parse("joe", DOMAIN).expect("a name");
    for style in [Style::Rookery, Style::Cyrus] {
        for names in [ClientNames::new(style, joe.clone()), ClientNames::for_administrator(joe.clone())] {
            for encoding in [Encoding::Utf7, Encoding::Utf8] {
                if let Ok(address) = names.to_address(data, encoding) {
                    let wire = names.to_wire(&address, encoding);
                    assert_eq!(
                        names.to_address(&wire, encoding).as_ref(),
                        Ok(&address),
                        "by way of {}",
                        wire.escape_ascii()
                    );
                }
            }
        }
    }
    let cyrus = CyrusWire::new(DOMAIN).expect("a domain");
    if let Ok(address) = cyrus.parse(data)
        && let Ok(wire) = cyrus.to_wire(&address)
    {
        assert_eq!(cyrus.parse(wire.as_bytes()).as_ref(), Ok(&address), "by way of {wire}");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(path) = MailboxPath::new(text) {
        assert_eq!(MailboxPath::new(path.as_str()).as_ref(), Ok(&path));
        assert!(path.components().all(|part| !part.is_empty()) || path.is_root());
    }
    if let Ok(user) = UserName::parse(text, DOMAIN) {
        assert_eq!(UserName::parse(user.as_str(), DOMAIN).as_ref(), Ok(&user));
        assert_eq!(UserName::parse(user.shown(DOMAIN), DOMAIN).as_ref(), Ok(&user));
        assert!(!user.as_str().contains('/'));
    }
    if let Ok(address) = Address::parse(text) {
        assert_eq!(Address::parse(&address.to_string()).as_ref(), Ok(&address));
    }
    if let Ok(name) = AccountName::parse(text) {
        assert_eq!(AccountName::parse(&name.to_string()).as_ref(), Ok(&name));
    }
    let admin = AdminNames::new(DOMAIN).expect("a domain");
    if let Ok(address) = admin.parse(text) {
        let shown = admin.show(&address);
        assert_eq!(admin.parse(&shown).as_ref(), Ok(&address), "by way of {shown}");
    }
    if let Ok((identifier, negative)) = parse_identifier(text, DOMAIN) {
        let shown = show_identifier(&identifier, negative, DOMAIN);
        assert_eq!(parse_identifier(&shown, DOMAIN), Ok((identifier, negative)), "by way of {shown}");
    }
    if let Ok(rights) = Rights::parse(text) {
        assert_eq!(Rights::parse(&rights.to_string()), Ok(rights));
    }
}

/// A pattern and a name, one line each.
pub fn patterns(data: &[u8]) {
    let mut lines = data.splitn(3, |octet| *octet == b'\n');
    let (Some(reference), Some(pattern), Some(name)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    let Ok(name) = std::str::from_utf8(name) else { return };
    for encoding in [Encoding::Utf7, Encoding::Utf8] {
        let Ok(pattern) = Pattern::from_wire(reference, pattern, encoding) else { continue };
        let matches = pattern.matches(name);
        let prefix = pattern.literal_prefix();
        if matches
            && !prefix.to_ascii_uppercase().starts_with("INBOX")
            && !"INBOX".starts_with(&prefix.to_ascii_uppercase())
        {
            assert!(name.starts_with(&prefix), "{name:?} matches, and does not begin with {prefix:?}");
        }
        let _ = pattern.is_literal();
    }
}

/// Operations on sets, beside the plainest set there is.
pub fn sets(data: &[u8]) {
    let (mut set, mut model) = (UidSet::new(), BTreeSet::new());
    let mut other = UidSet::new();
    for step in data.chunks_exact(3) {
        let (first, last) = (u32::from(step[1]) + 1, u32::from(step[2]) + 1);
        let range = first.min(last)..=first.max(last);
        match step[0] % 6 {
            0 => {
                set.insert_range(first.min(last), first.max(last));
                model.extend(range);
            }
            1 => {
                set.remove_range(first.min(last), first.max(last));
                model.retain(|n| !range.contains(n));
            }
            2 => {
                set.insert(first);
                model.insert(first);
            }
            3 => {
                set.remove(first);
                model.remove(&first);
            }
            4 => other.insert_range(first.min(last), first.max(last)),
            _ => {
                let plain: BTreeSet<u32> = other.iter().collect();
                let both: Vec<u32> = set.intersection(&other).iter().collect();
                assert_eq!(both, model.intersection(&plain).copied().collect::<Vec<_>>());
                let one: Vec<u32> = set.difference(&other).iter().collect();
                assert_eq!(one, model.difference(&plain).copied().collect::<Vec<_>>());
                set.extend(&other);
                model.extend(plain);
            }
        }
        assert_eq!(set.len(), model.len() as u64);
        assert_eq!((set.first(), set.last()), (model.first().copied(), model.last().copied()));
        assert_eq!(set.contains(first), model.contains(&first));
    }
    assert!(set.iter().eq(model));
}

pub fn dates(data: &[u8]) {
    if let Some(date) = rookery_mime::parse_date(data) {
        let shown = date.to_string();
        assert_eq!(InternalDate::parse(&shown), Some(date), "by way of {shown}");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(date) = InternalDate::parse(text) {
        let shown = date.to_string();
        assert_eq!(InternalDate::parse(&shown), Some(date), "by way of {shown}");
        let _ = date.day();
    }
    let _ = rookery_types::date::parse_day(text);
}
