//! Addresses of the envelope (RFC 5321 §4.1.2, RFC 6531 §3.3).

use std::fmt;

/// An envelope address, its quoting undone. `postmaster` and users of a default domain have none.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    local: Box<str>,
    domain: Option<Box<str>>,
}

impl Address {
    /// Octets in the longest local part taken. RFC 5321 §4.5.3.1.1 asks for 64; mailboxes have longer names.
    pub const LOCAL_OCTETS_MAX: usize = 256;
    /// Octets in the longest domain (RFC 5321 §4.5.3.1.2).
    pub const DOMAIN_OCTETS_MAX: usize = 255;

    /// `None` for an empty or too long part, a control character, or a domain that is neither dotted names
    /// nor an address literal in brackets. The local part is given without quoting.
    pub fn new(local: &str, domain: Option<&str>) -> Option<Address> {
        let legal_local =
            (1..=Address::LOCAL_OCTETS_MAX).contains(&local.len()) && !local.chars().any(char::is_control);
        let legal = legal_local && domain.is_none_or(is_domain);
        legal.then(|| Address { local: local.into(), domain: domain.map(Into::into) })
    }

    /// Before the `@`, its quoting undone; not empty.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// After the `@`, as written.
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The local part before its first `+`, and what follows it (RFC 5233 §1). A local part that begins
    /// with `+` is no detail of nobody: it is whole.
    pub fn user_and_detail(&self) -> (&str, Option<&str>) {
        match self.local.split_once('+') {
            Some((user, detail)) if !user.is_empty() => (user, Some(detail)),
            _ => (&self.local, None),
        }
    }

    /// Whether it can be sent without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.as_deref().is_none_or(str::is_ascii)
    }

    /// Whether it is `postmaster`, which every server takes (RFC 5321 §4.5.1).
    pub fn is_postmaster(&self) -> bool {
        self.local.eq_ignore_ascii_case("postmaster")
    }
}

/// ```abnf
/// Domain          = sub-domain *("." sub-domain)
/// address-literal = "[" (IPv4-address-literal / IPv6-address-literal / General-address-literal) "]"
/// ```
fn is_domain(domain: &str) -> bool {
    if domain.len() > Address::DOMAIN_OCTETS_MAX {
        return false;
    }
    if let Some(literal) = domain.strip_prefix('[') {
        let legal = |b: u8| (0x21..0x7f).contains(&b) && !matches!(b, b'[' | b']' | b'\\' | b'<' | b'>');
        return literal.strip_suffix(']').is_some_and(|inner| !inner.is_empty() && inner.bytes().all(legal));
    }
    let legal = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_') || (!c.is_ascii() && !c.is_control());
    domain.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && label.chars().all(legal))
}

/// Whether a local part can stand without quotes: `Dot-string` of RFC 5321 §4.1.2.
fn is_dot_string(local: &str) -> bool {
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// ```abnf
/// atext = ALPHA / DIGIT / "!" / "#" / ... / UTF8-non-ascii
/// ```
pub(crate) fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

/// `Mailbox`, quoted where it must be, without angle brackets.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local) {
            f.write_str(&self.local)?;
        } else {
            f.write_str("\"")?;
            for c in self.local.chars() {
                if matches!(c, '"' | '\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
            f.write_str("\"")?;
        }
        match &self.domain {
            Some(domain) => write!(f, "@{domain}"),
            None => Ok(()),
        }
    }
}
