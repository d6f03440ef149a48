//! The client's view: what one user calls mailboxes, in one of two styles. An administrator's client has the
//! administrator's view ([`AdminNames`]), and `INBOX` for their own.
//!
//! | mailbox | Rookery style | Cyrus style |
//! |---|---|---|
//! | own INBOX | `INBOX` | `INBOX` |
//! | own | `Sent` | `INBOX/Sent` |
//! | own, below INBOX | `INBOX/x` | `INBOX/INBOX/x` |
//! | ann's | `Other Users/ann/Sent` | `user/ann/Sent` |
//! | shared | `Shared/team/x` | `team/x` |
//!
//! Users and shared trees of the viewer's own domain are written without it, others as `ann@b.test`.

use super::{
    AccountName, Address, AdminNames, OTHER_USERS, SHARED, SharedName, USER, push_path, split_first,
};
use crate::name::{MailboxPath, NameError, UserName};
use crate::utf7;
use std::borrow::Cow;

/// How names stand on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// Modified UTF-7: IMAP4rev1 (RFC 3501 §5.1.3).
    Utf7,
    /// UTF-8: IMAP4rev2, and IMAP4rev1 after `ENABLE UTF8=ACCEPT` (RFC 6855 §3).
    Utf8,
}

impl Encoding {
    /// Octets in the longest name that is looked at. The longest path needs 2.5 octets for each of its own in
    /// modified UTF-7, and a prefix.
    pub const OCTETS_MAX: usize = 4096;

    /// Octets of the wire as text.
    pub fn decode(self, wire: &[u8]) -> Result<Cow<'_, str>, NameError> {
        if wire.len() > Encoding::OCTETS_MAX {
            return Err(NameError::TooLong(Encoding::OCTETS_MAX));
        }
        match self {
            Encoding::Utf7 => utf7::decode(wire).map(Cow::Owned),
            Encoding::Utf8 => {
                std::str::from_utf8(wire).map(Cow::Borrowed).map_err(|_| NameError::BadEncoding)
            }
        }
    }

    /// Text as octets of the wire.
    pub fn encode(self, text: String) -> Vec<u8> {
        match self {
            Encoding::Utf7 => utf7::encode(&text).into_bytes(),
            Encoding::Utf8 => text.into_bytes(),
        }
    }
}

/// Which names a site's clients see.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Style {
    /// Own mailboxes at the top, others under two prefixes.
    #[default]
    Rookery,
    /// As Cyrus without its alternative namespace.
    Cyrus,
}

/// One namespace (RFC 2342 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// What its names begin with, with the separator; may be empty.
    pub prefix: &'static str,
    /// Between components.
    pub separator: char,
}

/// What NAMESPACE answers: one of each kind (RFC 2342 §5, RFC 9051 §6.3.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Namespaces {
    /// The user's own mailboxes.
    pub personal: Namespace,
    /// Other users'.
    pub other_users: Namespace,
    /// Nobody's.
    pub shared: Namespace,
}

/// Reads and shows names for one user.
#[derive(Clone, Debug)]
pub struct ClientNames {
    view: View,
    user: UserName,
}

#[derive(Clone, Debug)]
enum View {
    User(Style),
    Administrator(AdminNames),
}

impl ClientNames {
    /// The view of `user`, whose domain completes bare names.
    pub fn new(style: Style, user: UserName) -> ClientNames {
        ClientNames { view: View::User(style), user }
    }

    /// The view of an administrator, whose domain completes bare names.
    pub fn for_administrator(user: UserName) -> ClientNames {
        ClientNames { view: View::Administrator(AdminNames::of(&user)), user }
    }

    /// Whose view it is.
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// The data of the NAMESPACE response.
    pub fn namespaces(&self) -> Namespaces {
        let (personal, other_users, shared) = match self.view {
            View::User(Style::Rookery) => ("", "Other Users/", "Shared/"),
            View::User(Style::Cyrus) | View::Administrator(_) => ("INBOX/", "user/", ""),
        };
        let of = |prefix| Namespace { prefix, separator: super::SEPARATOR };
        Namespaces { personal: of(personal), other_users: of(other_users), shared: of(shared) }
    }

    /// Reads a name that a command refers to. That the mailbox exists is not said.
    ///
    /// The bare prefixes (`Shared`, `Other Users`, `user`) are no mailboxes: [`NameError::Reserved`].
    pub fn to_address(&self, wire: &[u8], encoding: Encoding) -> Result<Address, NameError> {
        self.read(&encoding.decode(wire)?)
    }

    /// Reads the name of a mailbox to be made (CREATE, the second name of RENAME): one separator at the end is
    /// taken and means nothing (RFC 9051 §6.3.4), and reserved names are refused (see [`Address::check_new`]).
    pub fn to_new_address(&self, wire: &[u8], encoding: Encoding) -> Result<Address, NameError> {
        let text = encoding.decode(wire)?;
        let address = self.read(text.strip_suffix(super::SEPARATOR).unwrap_or(&text))?;
        address.check_new()?;
        Ok(address)
    }

    /// The name as this user's client writes it.
    pub fn to_wire(&self, address: &Address, encoding: Encoding) -> Vec<u8> {
        encoding.encode(self.show(address))
    }

    /// Reads a decoded name.
    pub fn read(&self, text: &str) -> Result<Address, NameError> {
        let (first, rest) = split_first(text);
        match &self.view {
            View::User(Style::Rookery) => match first {
                OTHER_USERS => self.read_others(first, rest),
                SHARED => self.read_shared(rest.ok_or_else(|| NameError::Reserved(first.to_string()))?),
                _ => Address::new(self.own(), MailboxPath::new(text)?),
            },
            View::User(Style::Cyrus) => match first {
                _ if first.eq_ignore_ascii_case("INBOX") => Address::below(self.own(), rest),
                USER => self.read_others(first, rest),
                _ => self.read_shared(text),
            },
            View::Administrator(names) => match first.eq_ignore_ascii_case("INBOX") {
                true => Address::below(self.own(), rest),
                false => names.parse(text),
            },
        }
    }

    /// Shows a name, not yet encoded for the wire; LIST patterns match against this.
    pub fn show(&self, address: &Address) -> String {
        let domain = self.user.domain();
        let style = match &self.view {
            View::User(style) => *style,
            View::Administrator(names) => return names.show(address),
        };
        let (mut text, path) = match (address.account(), style) {
            (AccountName::User(user), Style::Cyrus) if *user == self.user => {
                ("INBOX".to_string(), address.path_below())
            }
            (AccountName::User(user), Style::Rookery) if *user == self.user && !hidden(address.path()) => {
                return address.path().to_string();
            }
            (AccountName::User(user), style) => {
                let prefix = if style == Style::Cyrus { USER } else { OTHER_USERS };
                (format!("{prefix}/{}", user.shown(domain)), address.path_below())
            }
            (AccountName::Shared(shared), Style::Cyrus) => (shared.shown(domain), address.path_below()),
            (AccountName::Shared(shared), Style::Rookery) => {
                (format!("{SHARED}/{}", shared.shown(domain)), address.path_below())
            }
        };
        push_path(&mut text, path);
        text
    }

    /// The name one level up as this view shows it, whether or not a mailbox has it; `None` at the top.
    pub fn parent(&self, name: &str) -> Option<String> {
        match &self.view {
            View::User(_) => name.rsplit_once(super::SEPARATOR).map(|(above, _)| above.to_string()),
            View::Administrator(names) => names.parent(name),
        }
    }

    fn own(&self) -> AccountName {
        AccountName::User(self.user.clone())
    }

    fn read_others(&self, prefix: &str, rest: Option<&str>) -> Result<Address, NameError> {
        let (user, path) = split_first(rest.ok_or_else(|| NameError::Reserved(prefix.to_string()))?);
        Address::below(AccountName::User(UserName::parse(user, self.user.domain())?), path)
    }

    fn read_shared(&self, text: &str) -> Result<Address, NameError> {
        let (root, path) = split_first(text);
        Address::below(AccountName::Shared(SharedName::parse(root, self.user.domain())?), path)
    }
}

/// Whether a path in the own tree would be read as another namespace. Such a mailbox cannot be made, but may
/// have come from another server; it is shown under `Other Users/` and the user's own name.
fn hidden(path: &MailboxPath) -> bool {
    matches!(path.components().next(), Some(OTHER_USERS | SHARED))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{any_address, at};
    use super::*;
    use proptest::prelude::*;

    fn view(style: Style, user: &str) -> ClientNames {
        ClientNames::new(style, UserName::parse(user, "example.org").unwrap())
    }

    #[test]
    fn both_columns_of_the_table() {
        for (canonical, rookery, cyrus) in [
            ("user/fred@example.org", "INBOX", "INBOX"),
            ("user/fred/Sent@example.org", "Sent", "INBOX/Sent"),
            ("user/fred/Sent/2020@example.org", "Sent/2020", "INBOX/Sent/2020"),
            ("user/fred/INBOX/x@example.org", "INBOX/x", "INBOX/INBOX/x"),
            ("user/fred/Inboxes@example.org", "Inboxes", "INBOX/Inboxes"),
            ("user/fred/a.b@example.org", "a.b", "INBOX/a.b"),
            ("user/ann@example.org", "Other Users/ann", "user/ann"),
            ("user/ann/Sent@example.org", "Other Users/ann/Sent", "user/ann/Sent"),
            ("user/ann/INBOX/x@example.org", "Other Users/ann/INBOX/x", "user/ann/INBOX/x"),
            ("user/ann/Sent@b.test", "Other Users/ann@b.test/Sent", "user/ann@b.test/Sent"),
            ("user/fred@b.test", "Other Users/fred@b.test", "user/fred@b.test"),
            ("team@example.org", "Shared/team", "team"),
            ("team/x@example.org", "Shared/team/x", "team/x"),
            ("team/x@b.test", "Shared/team@b.test/x", "team@b.test/x"),
            ("user/fred/Shared/x@example.org", "Other Users/fred/Shared/x", "INBOX/Shared/x"),
            ("user/fred/user/x@example.org", "user/x", "INBOX/user/x"),
            ("user/fred/team/x@example.org", "team/x", "INBOX/team/x"),
        ] {
            for (style, name) in [(Style::Rookery, rookery), (Style::Cyrus, cyrus)] {
                let view = view(style, "fred");
                assert_eq!(view.show(&at(canonical)), name, "{canonical}");
                assert_eq!(view.read(name), Ok(at(canonical)), "{name}");
            }
        }
    }

    #[test]
    fn a_viewer_of_another_domain_sees_that_one_bare() {
        let view = view(Style::Rookery, "eve@b.test");
        assert_eq!(view.read("Other Users/ann"), Ok(at("user/ann@b.test")));
        assert_eq!(view.show(&at("user/ann@example.org")), "Other Users/ann@example.org");
    }

    #[test]
    fn other_spellings_are_taken_and_not_shown() {
        let rookery = view(Style::Rookery, "fred");
        for (name, canonical) in [
            ("inbox", "user/fred@example.org"),
            ("inBox/x", "user/fred/INBOX/x@example.org"),
            ("Other Users/fred/Sent", "user/fred/Sent@example.org"),
            ("Other Users/Ann@Example.org", "user/ann@example.org"),
            ("shared/x", "user/fred/shared/x@example.org"),
        ] {
            assert_eq!(rookery.read(name), Ok(at(canonical)));
        }
        let cyrus = view(Style::Cyrus, "fred");
        for (name, canonical) in [
            ("Inbox", "user/fred@example.org"),
            ("inbox/Sent", "user/fred/Sent@example.org"),
            ("user/fred/Sent", "user/fred/Sent@example.org"),
        ] {
            assert_eq!(cyrus.read(name), Ok(at(canonical)));
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        for style in [Style::Rookery, Style::Cyrus] {
            let view = view(style, "fred");
            for bad in [
                "",
                "/",
                "//",
                "/x",
                "a//b",
                "a/",
                "../ann",
                "a/../../b",
                "a/.",
                "a\0",
                "a\r\nb",
                "a\u{85}",
                "a\u{2028}",
                "Shared",
                "Shared/",
                "Shared//x",
                "Other Users",
                "Other Users/",
                "Other Users//x",
                "Other Users/../x",
                "Other Users/a b",
                "Other Users/ann/",
                "Other Users/ann/INBOX",
                "Shared/INBOX",
                "Shared/user/ann",
                "Shared/DELETED/x",
                "Shared/te@m@x@y/..",
                "INBOX/",
                "INBOX//x",
                "INBOX/..",
                "user/",
                "user//x",
                "user/../x",
                "INBOX/\u{7f}",
            ] {
                assert!(view.read(bad).is_err(), "{style:?} {bad:?}");
            }
            let deep = "x/".repeat(5000);
            assert!(view.to_address(deep.as_bytes(), Encoding::Utf8).is_err());
            assert!(view.to_address(&[b'x'; 1001], Encoding::Utf8).is_err());
        }
        let cyrus = view(Style::Cyrus, "fred");
        for bad in ["user", "INBOX/INBOX", "INBOX/inbox", "user/ann/INBOX", "DELETED/user/fred/S/5F"] {
            assert!(cyrus.read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn new_names() {
        let rookery = view(Style::Rookery, "fred");
        let new = |name: &str| rookery.to_new_address(name.as_bytes(), Encoding::Utf8);
        assert_eq!(new("a/b/"), Ok(at("user/fred/a/b@example.org")));
        assert!(new("a//").is_err());
        assert_eq!(new("user/x"), Err(NameError::Reserved("user".to_string())));
        assert_eq!(new("Shared/"), Err(NameError::Reserved("Shared".to_string())));
        assert_eq!(new("Other Users/fred/Shared/x"), Err(NameError::Reserved("Shared".to_string())));
        let cyrus = view(Style::Cyrus, "fred");
        let new = |name: &str| cyrus.to_new_address(name.as_bytes(), Encoding::Utf8);
        assert_eq!(new("INBOX/Shared"), Err(NameError::Reserved("Shared".to_string())));
        assert_eq!(new("INBOX/x/"), Ok(at("user/fred/x@example.org")));
    }

    #[test]
    fn an_administrator_sees_all_accounts_and_an_inbox() {
        let root = ClientNames::for_administrator(UserName::parse("root", "example.org").unwrap());
        for (name, canonical, shown) in [
            ("user/fred/Sent", "user/fred/Sent@example.org", "user/fred/Sent"),
            ("user/fred@b.test", "user/fred@b.test", "user/fred@b.test"),
            ("team/x", "team/x@example.org", "team/x"),
            ("inbox", "user/root@example.org", "user/root"),
            ("INBOX/x", "user/root/x@example.org", "user/root/x"),
        ] {
            assert_eq!(root.read(name), Ok(at(canonical)));
            assert_eq!(root.show(&at(canonical)), shown);
        }
        assert_eq!(root.namespaces().other_users.prefix, "user/");
    }

    #[test]
    fn encodings() {
        let view = view(Style::Rookery, "fred");
        let drafts = at("user/fred/Entwürfe@example.org");
        assert_eq!(view.to_wire(&drafts, Encoding::Utf7), b"Entw&APw-rfe");
        assert_eq!(view.to_address(b"Entw&APw-rfe", Encoding::Utf7), Ok(drafts.clone()));
        assert_eq!(view.to_wire(&drafts, Encoding::Utf8), "Entwürfe".as_bytes());
        assert_eq!(view.to_address("Entwürfe".as_bytes(), Encoding::Utf7), Err(NameError::BadEncoding));
        assert_eq!(view.to_address(b"Entw\xfcrfe", Encoding::Utf8), Err(NameError::BadEncoding));
        // RFC 6855 §3: with UTF-8 an ampersand is one.
        assert_eq!(view.to_address(b"&AOk-", Encoding::Utf8), Ok(at("user/fred/&AOk-@example.org")));
    }

    #[test]
    fn the_namespace_response() {
        let prefixes = |style| {
            let n = view(style, "fred").namespaces();
            (n.personal.prefix, n.other_users.prefix, n.shared.prefix, n.shared.separator)
        };
        assert_eq!(prefixes(Style::Rookery), ("", "Other Users/", "Shared/", '/'));
        assert_eq!(prefixes(Style::Cyrus), ("INBOX/", "user/", "", '/'));
    }

    proptest! {
        #[test]
        fn names_read_back_in_every_view(
            address in any_address(), cyrus in any::<bool>(), utf7 in any::<bool>(), viewer in "joe|ann@b\\.test|user"
        ) {
            let view = view(if cyrus { Style::Cyrus } else { Style::Rookery }, &viewer);
            let encoding = if utf7 { Encoding::Utf7 } else { Encoding::Utf8 };
            let wire = view.to_wire(&address, encoding);
            prop_assert!(wire.len() <= Encoding::OCTETS_MAX);
            prop_assert_eq!(view.to_address(&wire, encoding), Ok(address));
        }

        #[test]
        fn octets_do_no_harm(wire in proptest::collection::vec(any::<u8>(), 0..60)) {
            for style in [Style::Rookery, Style::Cyrus] {
                for encoding in [Encoding::Utf7, Encoding::Utf8] {
                    let _ = view(style, "joe").to_address(&wire, encoding);
                    let _ = view(style, "joe").to_new_address(&wire, encoding);
                }
            }
        }
    }
}
