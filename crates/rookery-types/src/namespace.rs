//! One mailbox, many names: the canonical address and the views of it that clients, administrators and Cyrus
//! have.
//!
//! Invariants:
//! - An [`Address`] has one text form and every view shows it in one way, from which it reads back. A view may
//!   take a second spelling (`Other Users/joe` from joe himself); it never shows it.
//! - Names are taken literally or refused: nothing is normalised but the case of `INBOX` and of users.
//! - A site with one domain sees no domain in any view but the canonical one.

mod admin;
mod client;
mod cyrus;
mod identifier;
mod pattern;

pub use admin::AdminNames;
pub use client::{ClientNames, Encoding, Namespace, Namespaces, Style};
pub use cyrus::CyrusWire;
pub use identifier::{parse_identifier, show_identifier};
pub use pattern::Pattern;

use crate::name::{MailboxPath, NameError, UserName};
use std::fmt;

/// The separator of every view but Cyrus's wire.
pub const SEPARATOR: char = '/';

/// First components that name other namespaces in some view: no new mailbox at the top of a user's own tree is
/// called so.
pub const RESERVED: [&str; 3] = [USER, OTHER_USERS, SHARED];

pub(crate) const USER: &str = "user";
pub(crate) const OTHER_USERS: &str = "Other Users";
pub(crate) const SHARED: &str = "Shared";

/// Splits at the first separator; the second part is `None` if there is no separator.
pub(crate) fn split_first(text: &str) -> (&str, Option<&str>) {
    match text.split_once(SEPARATOR) {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    }
}

/// A domain in lower case, if [`UserName`] could have it.
pub(crate) fn parse_domain(text: &str) -> Result<Box<str>, NameError> {
    if text.contains('@') {
        return Err(NameError::BadCharacter('@'));
    }
    Ok(UserName::parse("x", text)?.domain().into())
}

/// The root of a tree of shared mailboxes: one component, in a domain. Shown as `team@example.org`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SharedName {
    domain: Box<str>,
    root: Box<str>,
}

impl SharedName {
    /// Octets in the longest root.
    pub const OCTETS_MAX: usize = 255;

    /// Checks a root and its domain; the domain is lower-cased, the root is kept literally. Refuses what could
    /// be read as another namespace (`user`, `Other Users`, `Shared`, `INBOX` in any case, Cyrus's `DELETED`),
    /// `@`, which marks the domain, and what [`MailboxPath::new`] refuses.
    pub fn new(root: &str, domain: &str) -> Result<SharedName, NameError> {
        if root.len() > SharedName::OCTETS_MAX {
            return Err(NameError::TooLong(SharedName::OCTETS_MAX));
        }
        if RESERVED.contains(&root) || root == "DELETED" || root.eq_ignore_ascii_case("INBOX") {
            return Err(NameError::Reserved(root.to_string()));
        }
        if let Some(mark) = root.chars().find(|c| matches!(c, '@' | '/')) {
            return Err(NameError::BadCharacter(mark));
        }
        MailboxPath::new(root)?;
        Ok(SharedName { domain: parse_domain(domain)?, root: root.into() })
    }

    /// The first component of all names in the tree.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The domain, in lower case.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `root` or `root@domain` as a viewer of `domain` sees it.
    pub(crate) fn shown(&self, domain: &str) -> String {
        if *self.domain == *domain { self.root.to_string() } else { format!("{}@{}", self.root, self.domain) }
    }

    pub(crate) fn parse(text: &str, default_domain: &str) -> Result<SharedName, NameError> {
        match text.rsplit_once('@') {
            Some((root, domain)) => SharedName::new(root, domain),
            None => SharedName::new(text, default_domain),
        }
    }
}

/// Whose tree: what the directory has an entry for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AccountName {
    /// A user's own mailboxes.
    User(UserName),
    /// A tree of shared mailboxes, owned by no user.
    Shared(SharedName),
}

impl AccountName {
    /// Reads the canonical form: `user/joe@example.org` or `team@example.org`.
    pub fn parse(text: &str) -> Result<AccountName, NameError> {
        let address = Address::parse(text)?;
        if address != Address::top(address.account.clone()) {
            return Err(NameError::BadCharacter(SEPARATOR));
        }
        Ok(address.account)
    }

    /// The domain it belongs to.
    pub fn domain(&self) -> &str {
        match self {
            AccountName::User(user) => user.domain(),
            AccountName::Shared(shared) => shared.domain(),
        }
    }

    /// The user, if it is one's account.
    pub fn user(&self) -> Option<&UserName> {
        match self {
            AccountName::User(user) => Some(user),
            AccountName::Shared(_) => None,
        }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccountName::User(user) => write!(f, "{USER}/{user}"),
            AccountName::Shared(shared) => write!(f, "{}@{}", shared.root, shared.domain),
        }
    }
}

/// The canonical name of a mailbox, used inside and in the directory.
///
/// Its text is the administrator's form with the domain always written: `user/joe/Archive@example.org`,
/// `user/joe@example.org` for joe's INBOX, `team/x@example.org`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    account: AccountName,
    path: MailboxPath,
}

impl Address {
    /// Refuses the one combination that names nothing, the empty path in a user's tree, with
    /// [`NameError::Empty`].
    pub fn new(account: AccountName, path: MailboxPath) -> Result<Address, NameError> {
        match (&account, path.is_root()) {
            (AccountName::User(_), true) => Err(NameError::Empty),
            _ => Ok(Address { account, path }),
        }
    }

    /// The mailbox that an account is named after: a user's INBOX, the root of a shared tree.
    pub fn top(account: AccountName) -> Address {
        let path = match account {
            AccountName::User(_) => MailboxPath::inbox(),
            AccountName::Shared(_) => MailboxPath::root(),
        };
        Address { account, path }
    }

    /// A user's INBOX.
    pub fn inbox(user: UserName) -> Address {
        Address::top(AccountName::User(user))
    }

    /// Whose tree it is in.
    pub fn account(&self) -> &AccountName {
        &self.account
    }

    /// Where in the tree.
    pub fn path(&self) -> &MailboxPath {
        &self.path
    }

    /// Both parts.
    pub fn into_parts(self) -> (AccountName, MailboxPath) {
        (self.account, self.path)
    }

    /// Reads the canonical text. What follows the last `@` is the domain.
    pub fn parse(text: &str) -> Result<Address, NameError> {
        let (name, domain) = text.rsplit_once('@').ok_or_else(|| not_a_user(text))?;
        Address::from_admin(name, domain)
    }

    /// Whether a mailbox may be made under this name in any view: [`NameError::Reserved`] if the first component
    /// in a user's tree names another namespace.
    pub fn check_new(&self) -> Result<(), NameError> {
        let first = self.path.components().next().unwrap_or("");
        match self.account {
            AccountName::User(_) if RESERVED.contains(&first) => Err(NameError::Reserved(first.to_string())),
            _ => Ok(()),
        }
    }

    /// From the name without its domain: `user/LOCAL[/PATH]` or `ROOT[/PATH]`.
    pub(crate) fn from_admin(name: &str, domain: &str) -> Result<Address, NameError> {
        let domain = parse_domain(domain)?;
        let (first, rest) = split_first(name);
        if first != USER {
            return Address::below(AccountName::Shared(SharedName::new(first, &domain)?), rest);
        }
        let (local, path) = split_first(rest.ok_or_else(|| NameError::Reserved(USER.to_string()))?);
        if local.contains('@') {
            return Err(not_a_user(local));
        }
        Address::below(AccountName::User(UserName::parse(local, &domain)?), path)
    }

    /// The mailbox at `path` as the views of others write it: nothing is the top. A user's INBOX has no second
    /// name `INBOX` below the user.
    pub(crate) fn below(account: AccountName, path: Option<&str>) -> Result<Address, NameError> {
        let Some(path) = path else { return Ok(Address::top(account)) };
        let path = MailboxPath::new(path)?;
        match account {
            AccountName::User(_) if path.is_inbox() => Err(NameError::Reserved(path.to_string())),
            _ => Ok(Address { account, path }),
        }
    }

    /// The path as the views of others write it: `None` at the top.
    pub(crate) fn path_below(&self) -> Option<&str> {
        let at_top = match self.account {
            AccountName::User(_) => self.path.is_inbox(),
            AccountName::Shared(_) => self.path.is_root(),
        };
        (!at_top).then(|| self.path.as_str())
    }

    /// The name without its domain.
    pub(crate) fn to_admin(&self) -> String {
        let mut text = match &self.account {
            AccountName::User(user) => format!("{USER}/{}", user.local()),
            AccountName::Shared(shared) => shared.root.to_string(),
        };
        push_path(&mut text, self.path_below());
        text
    }
}

pub(crate) fn push_path(text: &mut String, path: Option<&str>) {
    if let Some(path) = path {
        text.push(SEPARATOR);
        text.push_str(path);
    }
}

pub(crate) fn not_a_user(text: &str) -> NameError {
    NameError::NotAUser(text.chars().take(80).collect())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.to_admin(), self.account.domain())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any mailbox of a few users, shared trees and domains, with names that are hard on the views.
    pub(crate) fn any_address() -> impl Strategy<Value = Address> {
        let domain = prop_oneof![Just("example.org"), Just("b.test"), Just("c-d.example.org")];
        let locals = ["joe", "ann", "j.r", "user", "shared", "anyone", "a&b", "jürgen", "inbox"];
        let local = prop_oneof![
            proptest::sample::select(locals.to_vec()).prop_map(str::to_string),
            "[a-z0-9_&.]{1,5}[a-z]".prop_map(|local| local),
        ];
        let component = prop_oneof![
            Just("INBOX".to_string()),
            Just("inbox".to_string()),
            Just("user".to_string()),
            Just("Shared".to_string()),
            Just("Other Users".to_string()),
            Just("a@b.test".to_string()),
            Just("joe".to_string()),
            Just("DELETED".to_string()),
            Just("&AOk-".to_string()),
            "[ -.0-~éß台😀]{1,6}",
            "[A-Za-z.&!^ ]{1,6}",
        ];
        let path = proptest::collection::vec(component, 0..4);
        (any::<bool>(), local, domain, path).prop_filter_map("a name", |(shared, local, domain, path)| {
            let account = match shared {
                true => AccountName::Shared(SharedName::new(&local, domain).ok()?),
                false => AccountName::User(UserName::parse(&local, domain).ok()?),
            };
            match path.is_empty() {
                true => Some(Address::top(account)),
                false => Address::new(account, MailboxPath::new(&path.join("/")).ok()?).ok(),
            }
        })
    }

    /// An address by its canonical text.
    pub(crate) fn at(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn canonical_texts() {
        for text in [
            "user/joe@example.org",
            "user/joe/Archive@example.org",
            "user/joe/INBOX/x@example.org",
            "user/joe/a@b/c@d@example.org",
            "team@example.org",
            "team/x/y@example.org",
        ] {
            assert_eq!(at(text).to_string(), text);
        }
        assert!(at("user/joe@example.org").path().is_inbox());
        assert!(at("team@example.org").path().is_root());
        assert_eq!(at("user/Joe/inbox/x@Example.ORG").to_string(), "user/joe/INBOX/x@example.org");
        assert_eq!(AccountName::parse("user/joe@example.org").unwrap().to_string(), "user/joe@example.org");
        assert_eq!(AccountName::parse("team@example.org").unwrap().to_string(), "team@example.org");
    }

    #[test]
    fn hostile_texts_are_refused() {
        for bad in [
            "",
            "@",
            "@example.org",
            "joe",
            "user",
            "user@example.org",
            "user/@example.org",
            "user//x@example.org",
            "user/joe/@example.org",
            "user/joe//x@example.org",
            "user/joe/../ann@example.org",
            "user/joe/x@",
            "user/joe/INBOX@example.org",
            "user/joe/inbox@example.org",
            "user/joe/x@a/b",
            "user/joe/x@a b",
            "INBOX/x@example.org",
            "inbox@example.org",
            "Shared/x@example.org",
            "Other Users/x@example.org",
            "DELETED/user/joe@example.org",
            "te@m/x@example.org",
            "../x@example.org",
            "team/x\n@example.org",
            "team/x\0@example.org",
            "user/joe@b.test/x@example.org",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["user/joe/x@example.org", "team/x@example.org"] {
            assert!(AccountName::parse(bad).is_err(), "{bad:?}");
        }
        let user = AccountName::User(UserName::parse("joe", "example.org").unwrap());
        assert_eq!(Address::new(user, MailboxPath::root()), Err(NameError::Empty));
    }

    #[test]
    fn reserved_names_are_not_made_at_the_top_of_a_users_tree() {
        for reserved in RESERVED {
            let address = at(&format!("user/joe/{reserved}/x@example.org"));
            assert_eq!(address.check_new(), Err(NameError::Reserved(reserved.to_string())));
            assert_eq!(at(&format!("user/joe/x/{reserved}@example.org")).check_new(), Ok(()));
            assert_eq!(at(&format!("team/{reserved}@example.org")).check_new(), Ok(()));
        }
        assert_eq!(at("user/joe/shared@example.org").check_new(), Ok(()));
    }

    proptest! {
        #[test]
        fn canonical_texts_read_back(address in any_address()) {
            prop_assert_eq!(Address::parse(&address.to_string()), Ok(address.clone()));
            let account = address.account();
            prop_assert_eq!(AccountName::parse(&account.to_string()), Ok(account.clone()));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-cA-C/@.!&éuserINBOX]{0,24}") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }
    }
}
