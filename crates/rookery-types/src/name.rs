//! Who owns a tree, and where a mailbox stands in it: the canonical names, used inside and on disk.
//!
//! What a client, an administrator or Cyrus calls a mailbox is translated to these where it enters.

use std::fmt;

/// Why a name is refused. The text is for the person who typed it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is left of the name.
    #[error("the name is empty")]
    Empty,
    /// Longer than the limit of its kind.
    #[error("the name is longer than {0} octets")]
    TooLong(usize),
    /// `a//b`, or a separator at the start.
    #[error("a name between two separators is empty")]
    EmptyComponent,
    /// `.` or `..` as a component.
    #[error("'.' and '..' are no names")]
    DotComponent,
    /// A control character, or a character that the wire forms cannot carry.
    #[error("the character {0:?} cannot stand in a name")]
    BadCharacter(char),
    /// More levels than the limit.
    #[error("the name has more than {0} levels")]
    TooDeep(usize),
    /// The first component names another namespace.
    #[error("'{0}' is reserved at the top of an account")]
    Reserved(String),
    /// Not UTF-8, or not well-formed modified UTF-7 where that is spoken.
    #[error("the name is not well encoded")]
    BadEncoding,
    /// A user name without a local part, or with a bad domain.
    #[error("'{0}' is not a user name of the form local@domain")]
    NotAUser(String),
}

/// Where a mailbox stands below its account's root: components of UTF-8 text. `INBOX` is a user's root
/// mailbox, always written so. In a shared account the empty path is the root mailbox itself.
///
/// Never part of a file path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxPath(Box<str>);

impl MailboxPath {
    /// Octets in the longest path.
    pub const OCTETS_MAX: usize = 1000;
    /// Levels in the deepest path.
    pub const DEPTH_MAX: usize = 64;

    /// A user's INBOX.
    pub fn inbox() -> MailboxPath {
        MailboxPath("INBOX".into())
    }

    /// The root mailbox of a shared account.
    pub fn root() -> MailboxPath {
        MailboxPath("".into())
    }

    /// Reads a path whose components are separated by `/`. A first component `inbox` in any case becomes
    /// `INBOX`. Refuses, and never repairs: empty components, `.` and `..`, control characters (C0, DEL, C1,
    /// line and paragraph separators), and what is too long or too deep. `%` and `*` are kept literally.
    pub fn new(text: &str) -> Result<MailboxPath, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MailboxPath::OCTETS_MAX {
            return Err(NameError::TooLong(MailboxPath::OCTETS_MAX));
        }
        if text.split('/').count() > MailboxPath::DEPTH_MAX {
            return Err(NameError::TooDeep(MailboxPath::DEPTH_MAX));
        }
        for component in text.split('/') {
            match component {
                "" => return Err(NameError::EmptyComponent),
                "." | ".." => return Err(NameError::DotComponent),
                _ => {}
            }
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            return Err(NameError::BadCharacter(bad));
        }
        let (first, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
        if first.eq_ignore_ascii_case("INBOX") && first != "INBOX" {
            return Ok(MailboxPath(format!("INBOX{rest}").into()));
        }
        Ok(MailboxPath(text.into()))
    }

    /// The text, components separated by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is exactly `INBOX`.
    pub fn is_inbox(&self) -> bool {
        &*self.0 == "INBOX"
    }

    /// Whether this is a shared account's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, from the top.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// The path one level up; above the top level that is the root, which only shared trees have as a mailbox. `None`
    /// for the root.
    pub fn parent(&self) -> Option<MailboxPath> {
        let above = self.0.rfind('/').and_then(|at| self.0.get(..at)).unwrap_or_default();
        (!self.is_root()).then(|| MailboxPath(above.into()))
    }

    /// Whether `self` stands below `above`, at any depth. Everything but itself is below the root.
    pub fn is_below(&self, above: &MailboxPath) -> bool {
        if above.is_root() {
            return !self.is_root();
        }
        self.0.strip_prefix(&*above.0).is_some_and(|rest| rest.starts_with('/'))
    }

    /// `self` with its beginning `from` replaced by `to`; `None` if it is neither `from` nor below it, or if
    /// the result would be too long.
    pub fn moved(&self, from: &MailboxPath, to: &MailboxPath) -> Option<MailboxPath> {
        if self == from {
            return Some(to.clone());
        }
        if !self.is_below(from) {
            return None;
        }
        let rest = self.0.get(from.0.len()..)?;
        MailboxPath::new(format!("{}{rest}", to.0).trim_start_matches('/')).ok()
    }
}

impl fmt::Display for MailboxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MailboxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A user: always `local@domain`, both in lower case. A bare name is completed with the default domain where
/// it enters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName {
    text: Box<str>,
    /// Where the `@` stands.
    at: usize,
}

impl UserName {
    /// Octets in the longest user name.
    pub const OCTETS_MAX: usize = 255;

    /// Reads `local` or `local@domain` (split at the last `@`), lower-cased; a bare name gets
    /// `default_domain`. Refuses control characters, spaces, `/`, `%`, `*`, quotes and backslashes: they
    /// could not stand in a mailbox name or a pattern.
    pub fn parse(text: &str, default_domain: &str) -> Result<UserName, NameError> {
        let (local, domain) = match text.rsplit_once('@') {
            Some((local, domain)) => (local, domain),
            None => (text, default_domain),
        };
        let not_a_user = || NameError::NotAUser(text.chars().take(80).collect());
        // Lower-cased before it is judged: some capitals become a letter and a mark, and marks are no letters.
        let (local, domain) = (local.to_lowercase(), domain.to_lowercase());
        let whole = format!("{local}@{domain}");
        if whole.len() > UserName::OCTETS_MAX {
            return Err(NameError::TooLong(UserName::OCTETS_MAX));
        }
        let legal_local = |c: char| !c.is_control() && !c.is_whitespace() && !"/%*\"\\@!<>(),;:".contains(c);
        if local.is_empty()
            || !local.chars().all(legal_local)
            || matches!(local.as_str(), "." | "..")
            || local.starts_with('-')
        {
            return Err(not_a_user());
        }
        let legal_label = |label: &str| {
            !label.is_empty()
                && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
                && !label.starts_with('-')
        };
        if !domain.split('.').all(legal_label) {
            return Err(not_a_user());
        }
        let at = local.len();
        Ok(UserName { text: whole.into(), at })
    }

    /// `local@domain`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Before the `@`.
    pub fn local(&self) -> &str {
        self.text.get(..self.at).unwrap_or("")
    }

    /// After the `@`.
    pub fn domain(&self) -> &str {
        self.text.get(self.at + 1..).unwrap_or("")
    }

    /// Bare in the default domain, whole elsewhere: how logs of a single-domain site and its users see it.
    pub fn shown(&self, default_domain: &str) -> &str {
        if self.domain() == default_domain { self.local() } else { self.as_str() }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_are_refused_or_kept_literally() {
        for bad in
            ["", "/", "a//b", "/a", "a/", "a/../b", ".", "..", "a\u{7}", "a\nb", "a\u{85}b", "x\u{2028}"]
        {
            assert!(MailboxPath::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a%b", "*", "a.b", "...", "~", "#news", "Entwürfe", "a b", "INBOX/x", "a\\b"] {
            assert_eq!(MailboxPath::new(good).unwrap().as_str(), good);
        }
        assert_eq!(MailboxPath::new("inBox/x").unwrap().as_str(), "INBOX/x");
        assert_eq!(MailboxPath::new("inboxes").unwrap().as_str(), "inboxes");
        assert!(MailboxPath::new(&"x/".repeat(64)[..127]).is_ok());
        assert!(MailboxPath::new(&"x/".repeat(65)[..129]).is_err());
    }

    #[test]
    fn a_path_moves_with_what_is_above_it() {
        let path = |text| MailboxPath::new(text).unwrap();
        assert_eq!(path("a/b/c").moved(&path("a/b"), &path("z")), Some(path("z/c")));
        assert_eq!(path("ab").moved(&path("a"), &path("z")), None);
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(MailboxPath::root()));
        assert_eq!(MailboxPath::root().parent(), None);
        assert!(path("a/b").is_below(&path("a")) && !path("ab").is_below(&path("a")));
        assert!(path("a").is_below(&MailboxPath::root()));
    }

    #[test]
    fn users_have_a_domain() {
        let user = UserName::parse("Joe", "example.org").unwrap();
        assert_eq!((user.as_str(), user.shown("example.org")), ("joe@example.org", "joe"));
        assert_eq!(UserName::parse("a.b@c.test", "example.org").unwrap().shown("example.org"), "a.b@c.test");
        for bad in ["", "@x", "a@", "a b", "a/b", "../x", "a@b..c", "-x", "a%", "a\0", "a@-b", "a@İ.test"] {
            assert!(UserName::parse(bad, "example.org").is_err(), "{bad:?}");
        }
    }
}
