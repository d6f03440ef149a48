//! Aliases: addresses that lead to other addresses of this directory, and catch-alls for whole domains.
//!
//! Invariants:
//! - No name is both an account's and an alias's.
//! - An alias is in a domain that exists. Where its targets lead is looked at when mail comes: an account may have
//!   been deleted since.

use crate::DirectoryError;
use crate::change::{Change, account, get};
use crate::encoding::{Damaged, Encoder, open};
use crate::records::LAYOUT;
use bytes::Bytes;
use rookery_types::{AccountName, UserName};
use std::fmt;

/// The first octet of an alias's key.
pub(crate) const ALIAS: u8 = b'l';

/// The name of an alias: an address, or a whole domain.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum AliasName {
    /// One address.
    Address(UserName),
    /// Every address of a domain that is neither an account nor an alias. The domain is in lower case.
    CatchAll(Box<str>),
}

impl AliasName {
    /// Reads `sales@example.org`, `sales` (completed with `default_domain`), or `@example.org` for a catch-all.
    pub fn parse(text: &str, default_domain: &str) -> Result<AliasName, DirectoryError> {
        let refused = |_| DirectoryError::Refused("this cannot be the name of an alias");
        match text.strip_prefix('@') {
            Some(domain) => {
                let user = UserName::parse(&format!("x@{domain}"), default_domain).map_err(refused)?;
                Ok(AliasName::CatchAll(user.domain().into()))
            }
            None => UserName::parse(text, default_domain).map(AliasName::Address).map_err(refused),
        }
    }

    /// The domain it is in.
    pub fn domain(&self) -> &str {
        match self {
            AliasName::Address(user) => user.domain(),
            AliasName::CatchAll(domain) => domain,
        }
    }

    fn local(&self) -> &str {
        match self {
            AliasName::Address(user) => user.local(),
            AliasName::CatchAll(_) => "",
        }
    }
}

/// `sales@example.org`, or `@example.org`.
impl fmt::Display for AliasName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local(), self.domain())
    }
}

/// An alias.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alias {
    /// Its name.
    pub name: AliasName,
    /// Where it leads: accounts or further aliases, each once, at least one.
    pub targets: Vec<UserName>,
    /// The directory's revision that last changed it.
    pub revision: u64,
}

impl Alias {
    /// Targets that one alias may have.
    pub const TARGETS_MAX: usize = 1000;
}

/// `l`, domain, 00, local part (nothing for a catch-all). No domain has a NUL.
pub(crate) fn alias_key(name: &AliasName) -> Vec<u8> {
    let mut key = domain_prefix(name.domain());
    key.extend_from_slice(name.local().as_bytes());
    key
}

/// What the keys of all aliases of a domain begin with.
pub(crate) fn domain_prefix(domain: &str) -> Vec<u8> {
    let mut key = vec![ALIAS];
    key.extend_from_slice(domain.as_bytes());
    key.push(0);
    key
}

fn name_of_key(key: &[u8]) -> Option<AliasName> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(char::from(ALIAS))?;
    let (domain, local) = text.split_once('\0')?;
    let name = AliasName::parse(&format!("{local}@{domain}"), "").ok()?;
    (alias_key(&name) == key).then_some(name)
}

pub(crate) fn encode_alias(key: &[u8], alias: &Alias) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    e.varint(alias.revision).varint(alias.targets.len() as u64);
    for target in &alias.targets {
        e.text(target.as_str());
    }
    e.seal(key)
}

pub(crate) fn decode_alias(key: &[u8], value: &[u8]) -> Result<Alias, Damaged> {
    let name = name_of_key(key).ok_or_else(|| Damaged::new(key, "its key is no alias's"))?;
    open(key, value, LAYOUT, |d| {
        let revision = d.varint()?;
        let count = usize::try_from(d.varint()?).ok().filter(|n| (1..=Alias::TARGETS_MAX).contains(n))?;
        let mut targets = Vec::new();
        for _ in 0..count {
            let text = d.text()?;
            targets.push(UserName::parse(text, "").ok().filter(|user| user.as_str() == text)?);
        }
        Some(Alias { name, targets, revision })
    })
}

/// The targets of an alias in the order in which they are kept. Refuses what no directory takes.
pub(crate) fn checked(name: &AliasName, mut targets: Vec<UserName>) -> Result<Vec<UserName>, DirectoryError> {
    targets.sort();
    targets.dedup();
    if !(1..=Alias::TARGETS_MAX).contains(&targets.len()) {
        return Err(DirectoryError::Refused("an alias has 1 to 1000 targets"));
    }
    match name {
        AliasName::Address(user) if targets.contains(user) => {
            Err(DirectoryError::Refused("an alias does not lead to itself"))
        }
        _ => Ok(targets),
    }
}

impl Change<'_> {
    /// Makes an alias, or leads it elsewhere. Name and targets are checked.
    pub(crate) fn put_alias(
        &mut self,
        name: AliasName,
        targets: Vec<UserName>,
    ) -> Result<Alias, DirectoryError> {
        if let AliasName::Address(user) = &name
            && account(&self.read, &AccountName::User(user.clone()))?.is_some()
        {
            return Err(DirectoryError::Exists(format!("the account {user}")));
        }
        self.need_domain(name.domain())?;
        let alias = Alias { name, targets, revision: self.revision };
        let key = alias_key(&alias.name);
        let value = encode_alias(&key, &alias);
        self.put_record(key, value);
        Ok(alias)
    }

    pub(crate) fn remove_alias(&mut self, name: &AliasName) -> Result<(), DirectoryError> {
        let key = alias_key(name);
        if get(&self.read, &key)?.is_none() {
            return Err(DirectoryError::NotFound(format!("the alias {name}")));
        }
        self.delete(key);
        Ok(())
    }

    /// Fails if an alias has the name that an account is to have.
    pub(crate) fn need_no_alias(&self, name: &AccountName) -> Result<(), DirectoryError> {
        let Some(user) = name.user() else { return Ok(()) };
        let alias = AliasName::Address(user.clone());
        match get(&self.read, &alias_key(&alias))? {
            Some(_) => Err(DirectoryError::Exists(format!("the alias {alias}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_records_read_back() {
        for (text, shown) in [
            ("Sales@Example.org", "sales@example.org"),
            ("sales", "sales@default.test"),
            ("@Example.org", "@example.org"),
        ] {
            let name = AliasName::parse(text, "default.test").unwrap();
            assert_eq!(name.to_string(), shown);
            let target = UserName::parse("joe@example.org", "").unwrap();
            let alias = Alias { name, targets: vec![target], revision: 7 };
            let key = alias_key(&alias.name);
            let value = encode_alias(&key, &alias);
            assert_eq!(decode_alias(&key, &value), Ok(alias));
            for at in 0..value.len() {
                assert!(decode_alias(&key, &value[..at]).is_err());
            }
        }
        assert_eq!(alias_key(&AliasName::parse("@x.test", "").unwrap()), b"lx.test\0");
        for bad in ["", "@", "a b", "a@", "@a b", "a/b", "@a@b"] {
            assert!(AliasName::parse(bad, "default.test").is_err(), "{bad}");
        }
    }
}
