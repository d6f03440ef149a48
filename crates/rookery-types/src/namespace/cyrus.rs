//! Cyrus's internal names, as they stand on the wire of MUPDATE and of its replication:
//! `[domain!]user.joe.Archive`, `[domain!]team.x`; `^` for a dot within a component, modified UTF-7 for what is
//! not ASCII.
//!
//! Invariants:
//! - Each way refuses what the other could not bring back: no two mailboxes share a name here.

use super::{AccountName, Address, SharedName, USER, not_a_user, parse_domain};
use crate::name::{MailboxPath, NameError, UserName};
use crate::utf7;

/// Printable ASCII that Cyrus refuses in a name. `&` is checked as modified UTF-7, `!` stands for the domain.
const REFUSED: &str = "!\"%/;<>\\`{|}";

/// Localparts that Cyrus keeps for its ACLs.
const NO_USERS: [&str; 2] = ["anyone", "anonymous"];

/// Translates between addresses and Cyrus's internal names.
#[derive(Clone, Debug)]
pub struct CyrusWire {
    default_domain: Box<str>,
}

impl CyrusWire {
    /// Octets in the longest internal name.
    pub const OCTETS_MAX: usize = 490;

    /// `default_domain`: Cyrus's `defaultdomain`, which is never written.
    pub fn new(default_domain: &str) -> Result<CyrusWire, NameError> {
        Ok(CyrusWire { default_domain: parse_domain(default_domain)? })
    }

    /// The internal name. Refuses what has none: `^` and the characters that Cyrus refuses, a first `~` or `$`,
    /// domains that are not ASCII, users called `anyone` or `anonymous`, and what is too long.
    pub fn to_wire(&self, address: &Address) -> Result<String, NameError> {
        let mut name = String::new();
        let domain = address.account().domain();
        if *domain != *self.default_domain {
            if let Some(bad) = domain.chars().find(|c| !c.is_ascii()) {
                return Err(NameError::BadCharacter(bad));
            }
            name = format!("{domain}!");
        }
        match address.account() {
            AccountName::User(user) if NO_USERS.contains(&user.local()) => {
                return Err(NameError::Reserved(user.local().to_string()));
            }
            AccountName::User(user) => {
                name.push_str("user.");
                name.push_str(&component_to_wire(user.local())?);
            }
            AccountName::Shared(shared) => {
                if let Some(bad) = shared.root().chars().next().filter(|c| matches!(c, '~' | '$')) {
                    return Err(NameError::BadCharacter(bad));
                }
                name.push_str(&component_to_wire(shared.root())?);
            }
        }
        if let Some(path) = address.path_below() {
            for component in path.split(super::SEPARATOR) {
                name.push('.');
                name.push_str(&component_to_wire(component)?);
            }
        }
        if name.len() > CyrusWire::OCTETS_MAX {
            return Err(NameError::TooLong(CyrusWire::OCTETS_MAX));
        }
        Ok(name)
    }

    /// Reads an internal name. Refuses what Cyrus would refuse, and what no address stands for: `DELETED.…`, users
    /// and domains with capitals, and a first component that is `INBOX` in other case, since here that is INBOX.
    pub fn parse(&self, wire: &[u8]) -> Result<Address, NameError> {
        if wire.len() > CyrusWire::OCTETS_MAX {
            return Err(NameError::TooLong(CyrusWire::OCTETS_MAX));
        }
        let name = std::str::from_utf8(wire).map_err(|_| NameError::BadEncoding)?;
        let (domain, rest) = match name.split_once('!') {
            Some((domain, rest)) => (domain, rest),
            None => (&*self.default_domain, name),
        };
        let components =
            rest.split('.').map(component_from_wire).collect::<Result<Vec<String>, NameError>>()?;
        let address = match components.split_first() {
            Some((first, rest)) if first == USER => {
                let (local, path) =
                    rest.split_first().ok_or_else(|| NameError::Reserved(USER.to_string()))?;
                if local.contains('@') {
                    return Err(not_a_user(local));
                }
                address(AccountName::User(UserName::parse(local, domain)?), path)?
            }
            Some((root, path)) => address(AccountName::Shared(SharedName::new(root, domain)?), path)?,
            None => return Err(NameError::Empty),
        };
        match self.to_wire(&address)? == name {
            true => Ok(address),
            false => Err(not_a_user(name)),
        }
    }
}

fn address(account: AccountName, path: &[String]) -> Result<Address, NameError> {
    let Some(first) = path.first() else { return Ok(Address::top(account)) };
    if first.eq_ignore_ascii_case("INBOX") && first != "INBOX" {
        return Err(NameError::Reserved(first.clone()));
    }
    let path = path.join("/");
    // Checked here too, so that a long list of components fails with the error that says so.
    MailboxPath::new(&path)?;
    Address::below(account, Some(&path))
}

fn component_to_wire(component: &str) -> Result<String, NameError> {
    match component.chars().find(|c| *c == '^' || REFUSED.contains(*c)) {
        Some(bad) => Err(NameError::BadCharacter(bad)),
        None => Ok(utf7::encode(&component.replace('.', "^"))),
    }
}

fn component_from_wire(component: &str) -> Result<String, NameError> {
    if let Some(bad) = component.chars().find(|c| REFUSED.contains(*c)) {
        return Err(NameError::BadCharacter(bad));
    }
    if component.is_empty() {
        return Err(NameError::EmptyComponent);
    }
    Ok(utf7::decode(component.as_bytes())?.replace('^', "."))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_address, at};
    use super::*;
    use proptest::prelude::*;

    fn cyrus() -> CyrusWire {
        CyrusWire::new("example.org").unwrap()
    }

    #[test]
    fn the_internal_column() {
        for (internal, canonical) in [
            ("user.fred", "user/fred@example.org"),
            ("user.fred.Sent", "user/fred/Sent@example.org"),
            ("user.fred.INBOX.x", "user/fred/INBOX/x@example.org"),
            ("user.ann.Sent", "user/ann/Sent@example.org"),
            ("team.x", "team/x@example.org"),
            ("team.support", "team/support@example.org"),
            ("b.test!user.joe.Archive", "user/joe/Archive@b.test"),
            ("b.test!team", "team@b.test"),
            ("user.joe^r.v1^2", "user/joe.r/v1.2@example.org"),
            ("user.fred.Entw&APw-rfe", "user/fred/Entwürfe@example.org"),
            ("user.fred.R&-D", "user/fred/R&D@example.org"),
            ("user.fred.#calendars.x", "user/fred/#calendars/x@example.org"),
            ("user.fred.a@b", "user/fred/a@b@example.org"),
        ] {
            assert_eq!(cyrus().to_wire(&at(canonical)).as_deref(), Ok(internal));
            assert_eq!(cyrus().parse(internal.as_bytes()), Ok(at(canonical)));
        }
    }

    #[test]
    fn names_with_no_counterpart_are_refused() {
        for bad in [
            "user/fred/a^b@example.org",
            "user/fred/a!b@example.org",
            "user/fred/50%@example.org",
            "user/fred/{x}@example.org",
            "user/fred/a\\b@example.org",
            "user/fred/<a>@example.org",
            "user/fr^ed@example.org",
            "user/anyone@example.org",
            "user/anonymous/x@b.test",
            "~team@example.org",
            "$team/x@example.org",
            "user/fred@münchen.test",
        ] {
            assert!(cyrus().to_wire(&at(bad)).is_err(), "{bad}");
        }
        let long = at(&format!("user/fred/{}@example.org", "x".repeat(481)));
        assert_eq!(cyrus().to_wire(&long), Err(NameError::TooLong(490)));
        for bad in [
            "",
            ".",
            "user",
            "user.",
            "user..x",
            ".user.fred",
            "user.fred.",
            "user.anyone",
            "user.Fred",
            "user.fred.inbox",
            "user.fred.INBOX",
            "user.fred.Inbox.x",
            "team.inbox",
            "INBOX",
            "DELETED.user.fred.5F",
            "B.test!user.joe",
            "example.org!user.joe",
            "!user.joe",
            "a!b!user.joe",
            "user.fred.a/b",
            "user.fred.^",
            "user.fred.^^",
            "user.fred.Entw&APw",
            "user.fred.&AGE-",
            "user.fred.a\n",
            "user.fred.a\0",
            "user.joe@b^test",
            "~x",
            "$x",
            "user.%x",
            "user.fred.Entwürfe",
        ] {
            assert!(cyrus().parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(cyrus().parse(b"user.fred.\xff").is_err());
        assert!(cyrus().parse(&[b'x'; 491]).is_err());
    }

    proptest! {
        #[test]
        fn what_has_a_name_comes_back(address in any_address()) {
            if let Ok(wire) = cyrus().to_wire(&address) {
                prop_assert_eq!(cyrus().parse(wire.as_bytes()), Ok(address));
            }
        }

        #[test]
        fn what_is_read_is_written_the_same(wire in "(b\\.test!)?(user\\.)?[a-cAIN.^&\\-@ é]{0,12}") {
            if let Ok(address) = cyrus().parse(wire.as_bytes()) {
                prop_assert_eq!(cyrus().to_wire(&address), Ok(wire));
            }
        }
    }
}
