//! The administrator's view: every mailbox of a site under `user/…` and the bare shared roots.

use super::{Address, parse_domain};
use crate::name::{NameError, UserName};

/// Names as administrators write them: `user/joe/Archive@example.org`, `team/x@example.org`; without the domain
/// where it is the administrator's own.
#[derive(Clone, Debug)]
pub struct AdminNames {
    domain: Box<str>,
}

impl AdminNames {
    /// `domain`: the one that names without `@` belong to: the domain administrator's own, or the site's default.
    pub fn new(domain: &str) -> Result<AdminNames, NameError> {
        Ok(AdminNames { domain: parse_domain(domain)? })
    }

    /// The view of an administrator: names without `@` belong to the same domain.
    pub fn of(administrator: &UserName) -> AdminNames {
        AdminNames { domain: administrator.domain().into() }
    }

    /// Reads a name. What follows its last `@` is the domain; a name with `@` in its own text is written with its
    /// domain, always.
    pub fn parse(&self, text: &str) -> Result<Address, NameError> {
        match text.contains('@') {
            true => Address::parse(text),
            false => Address::from_admin(text, &self.domain),
        }
    }

    /// The name one level up as this view shows it, whether or not a mailbox has it; `None` at the top.
    pub fn parent(&self, name: &str) -> Option<String> {
        let (whole, domain) = match name.rsplit_once('@') {
            Some((whole, domain)) => (whole, Some(domain)),
            None => (name, None),
        };
        let (above, _) = whole.rsplit_once(super::SEPARATOR)?;
        Some(match domain {
            // What all users stand below is in no domain.
            Some(domain) if above != super::USER && (*domain != *self.domain || above.contains('@')) => {
                format!("{above}@{domain}")
            }
            _ => above.to_string(),
        })
    }

    /// Shows a name.
    pub fn show(&self, address: &Address) -> String {
        let text = address.to_admin();
        match *address.account().domain() == *self.domain && !text.contains('@') {
            true => text,
            false => address.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_address, at};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_administrators_column() {
        let names = AdminNames::new("Example.org").unwrap();
        for (admin, canonical) in [
            ("user/fred", "user/fred@example.org"),
            ("user/fred/Sent", "user/fred/Sent@example.org"),
            ("user/fred/INBOX/x", "user/fred/INBOX/x@example.org"),
            ("user/ann/Sent", "user/ann/Sent@example.org"),
            ("team/x", "team/x@example.org"),
            ("user/fred/Sent@b.test", "user/fred/Sent@b.test"),
            ("team@b.test", "team@b.test"),
            ("user/fred/a@b@example.org", "user/fred/a@b@example.org"),
        ] {
            assert_eq!(names.parse(admin), Ok(at(canonical)));
            assert_eq!(names.show(&at(canonical)), admin);
        }
        assert_eq!(names.parse("user/fred@example.org"), Ok(at("user/fred@example.org")));
        for bad in
            ["", "user", "user/", "user/fred/", "user/fred/a@b/c", "/x", "INBOX", "DELETED/user/fred/S/5F"]
        {
            assert!(names.parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_stands_above_a_name() {
        let names = AdminNames::new("example.org").unwrap();
        for (name, above) in [
            ("user/fred/Sent/x", Some("user/fred/Sent")),
            ("user/fred", Some("user")),
            ("user/fred/Sent@b.test", Some("user/fred@b.test")),
            ("user/fred@b.test", Some("user")),
            ("user/fred/a@b/c@example.org", Some("user/fred/a@b@example.org")),
            ("user/fred/a@b@example.org", Some("user/fred")),
            ("team/x@b.test", Some("team@b.test")),
            ("team@b.test", None),
            ("team", None),
        ] {
            assert_eq!(names.parent(name).as_deref(), above, "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_read_back(address in any_address()) {
            let names = AdminNames::new("example.org").unwrap();
            prop_assert_eq!(names.parse(&names.show(&address)), Ok(address));
        }
    }
}
