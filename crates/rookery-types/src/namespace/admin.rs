//! The administrator's view: every mailbox of a site under `user/…` and the bare shared roots.

use super::{Address, parse_domain};
use crate::name::NameError;

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

    /// Reads a name. What follows its last `@` is the domain; a name with `@` in its own text is written with its
    /// domain, always.
    pub fn parse(&self, text: &str) -> Result<Address, NameError> {
        match text.contains('@') {
            true => Address::parse(text),
            false => Address::from_admin(text, &self.domain),
        }
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

    proptest! {
        #[test]
        fn names_read_back(address in any_address()) {
            let names = AdminNames::new("example.org").unwrap();
            prop_assert_eq!(names.parse(&names.show(&address)), Ok(address));
        }
    }
}
