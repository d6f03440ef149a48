//! The identifiers of ACLs as clients write them (RFC 4314 §2): `anyone`, `anonymous`, `group:staff`, `joe`,
//! `joe@b.test`, each with `-` before it in a negative entry.

use super::not_a_user;
use crate::acl::Identifier;
use crate::name::{NameError, UserName};

const ANYONE: &str = "anyone";
const ANONYMOUS: &str = "anonymous";
const GROUP: &str = "group:";

/// Octets in the longest group name.
const GROUP_OCTETS_MAX: usize = 255;

/// Reads an identifier and whether it is negative. A bare user belongs to `default_domain`; users and groups are
/// lower-cased, and `anyone` and `anonymous` are known in any case, lest a slip make a user of them.
pub fn parse_identifier(text: &str, default_domain: &str) -> Result<(Identifier, bool), NameError> {
    let (name, negative) = match text.strip_prefix('-') {
        Some(name) => (name, true),
        None => (text, false),
    };
    let identifier = if name.is_empty() {
        return Err(NameError::Empty);
    } else if name.eq_ignore_ascii_case(ANYONE) {
        Identifier::Anyone
    } else if name.eq_ignore_ascii_case(ANONYMOUS) {
        Identifier::Anonymous
    } else if let Some(group) = name.strip_prefix(GROUP) {
        Identifier::Group(parse_group(group)?)
    } else {
        Identifier::User(UserName::parse(name, default_domain)?)
    };
    Ok((identifier, negative))
}

fn parse_group(text: &str) -> Result<Box<str>, NameError> {
    let name = text.to_lowercase();
    if name.len() > GROUP_OCTETS_MAX {
        return Err(NameError::TooLong(GROUP_OCTETS_MAX));
    }
    if let Some(bad) = name.chars().find(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err(NameError::BadCharacter(bad));
    }
    match name.trim() == name && !name.is_empty() {
        true => Ok(name.into()),
        false => Err(not_a_user(text)),
    }
}

/// Shows an identifier; users of `default_domain` bare, unless their name would read as `anyone` or `anonymous`.
pub fn show_identifier(identifier: &Identifier, negative: bool, default_domain: &str) -> String {
    let sign = if negative { "-" } else { "" };
    match identifier {
        Identifier::Anyone => format!("{sign}{ANYONE}"),
        Identifier::Anonymous => format!("{sign}{ANONYMOUS}"),
        Identifier::Group(name) => format!("{sign}{GROUP}{name}"),
        Identifier::User(user) if matches!(user.local(), ANYONE | ANONYMOUS) => format!("{sign}{user}"),
        Identifier::User(user) => format!("{sign}{}", user.shown(default_domain)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(text: &str) -> Identifier {
        Identifier::User(UserName::parse(text, "example.org").unwrap())
    }

    #[test]
    fn identifiers_read_and_show() {
        for (text, identifier, negative) in [
            ("anyone", Identifier::Anyone, false),
            ("-anyone", Identifier::Anyone, true),
            ("anonymous", Identifier::Anonymous, false),
            ("group:staff", Identifier::Group("staff".into()), false),
            ("-group:domain users", Identifier::Group("domain users".into()), true),
            ("fred", user("fred"), false),
            ("-fred", user("fred"), true),
            ("fred@b.test", user("fred@b.test"), false),
            ("anyone@example.org", user("anyone"), false),
        ] {
            assert_eq!(parse_identifier(text, "example.org"), Ok((identifier.clone(), negative)));
            assert_eq!(show_identifier(&identifier, negative, "example.org"), text);
        }
        assert_eq!(parse_identifier("Anyone", "example.org"), Ok((Identifier::Anyone, false)));
        assert_eq!(parse_identifier("fred@example.org", "example.org"), Ok((user("fred"), false)));
        assert_eq!(parse_identifier("group:Staff", "x.test"), Ok((Identifier::Group("staff".into()), false)));
    }

    #[test]
    fn hostile_identifiers_are_refused() {
        for bad in [
            "",
            "-",
            "--fred",
            "group:",
            "group: x",
            "group:a\tb",
            "a\tb",
            "a b",
            "fred@",
            "@x",
            "a/b",
            "x:y",
        ] {
            assert!(parse_identifier(bad, "example.org").is_err(), "{bad:?}");
        }
        assert!(parse_identifier(&format!("group:{}", "x".repeat(256)), "example.org").is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_shown_and_read_again(text in "-?(group:|anyone|anonymous)?[a-zA-ZİΣ@. ]{0,8}") {
            if let Ok((identifier, negative)) = parse_identifier(&text, "example.org") {
                let shown = show_identifier(&identifier, negative, "example.org");
                prop_assert_eq!(parse_identifier(&shown, "example.org"), Ok((identifier, negative)));
            }
        }
    }
}
