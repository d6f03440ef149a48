//! IMAP URLs of messages and of parts of them (RFC 5092 §6), as CATENATE has them (RFC 4469 §3).
//!
//! Invariant: what is read names one message and octets of it. URLs of servers, mailboxes and searches, and
//! ones with an access key (`URLAUTH`), are none here.

use super::parse;
use super::parse::scan::Scanner;
use super::types::{Partial, Section};
use rookery_types::{Uid, UidValidity};
use std::num::NonZeroU64;

/// A message, or octets of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageUrl {
    /// The server the URL names; `None`: that of the session.
    pub server: Option<UrlServer>,
    /// The mailbox, in UTF-8; `None`: the selected one.
    pub mailbox: Option<String>,
    /// The UIDVALIDITY that the mailbox must have.
    pub uid_validity: Option<UidValidity>,
    /// Which message.
    pub uid: Uid,
    /// Which of its parts; neither part nor text: the whole message.
    pub section: Section,
    /// Which octets of that.
    pub partial: Option<Partial>,
}

/// A server and a user of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UrlServer {
    /// Who is to log in there, if the URL says so.
    pub user: Option<String>,
    /// In lower case, without the port.
    pub host: String,
}

/// The longest URL that is looked at, octets.
const URL_OCTETS_MAX: usize = 8 << 10;

impl MessageUrl {
    /// `None` for what is no URL of a message.
    ///
    /// ```abnf
    /// imapurl      = "imap://" iserver "/" imessagepart    ; or without scheme, or without both
    /// imessagepart = enc-mailbox [";UIDVALIDITY=" nz-number] "/;UID=" nz-number
    ///                ["/;SECTION=" enc-section] ["/;PARTIAL=" number ["." nz-number]]
    /// ```
    pub fn parse(url: &[u8]) -> Option<MessageUrl> {
        let text = std::str::from_utf8(url).ok().filter(|text| text.len() <= URL_OCTETS_MAX)?;
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let after_scheme = strip(text, "imap:").filter(|rest| rest.starts_with("//"));
        let (server, path) = match after_scheme.unwrap_or(text).strip_prefix("//") {
            Some(rest) => {
                let at = rest.find('/')?;
                (Some(server(rest.get(..at)?)?), rest.get(at..)?)
            }
            None => (None, text),
        };
        let at = find(path, ";UID=")?;
        let (mailbox, rest) = (path.get(..at)?, path.get(at + ";UID=".len()..)?);
        let (mailbox, uid_validity) = self::mailbox(mailbox)?;
        if server.is_some() && mailbox.is_none() {
            return None;
        }
        let mut parts = rest.split("/;");
        let uid = Uid::new(parts.next()?.parse().ok()?)?;
        let mut section = Section { part: Vec::new(), text: None };
        let mut partial = None;
        for part in parts {
            if let Some(value) = strip(part, "SECTION=").filter(|_| section == whole() && partial.is_none()) {
                section = self::section(value)?;
            } else if let Some(value) = strip(part, "PARTIAL=").filter(|_| partial.is_none()) {
                partial = Some(self::partial(value)?);
            } else {
                return None;
            }
        }
        Some(MessageUrl { server, mailbox, uid_validity, uid, section, partial })
    }
}

fn whole() -> Section {
    Section { part: Vec::new(), text: None }
}

/// What follows a word in any case.
fn strip<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let start = text.get(..word.len())?;
    if start.eq_ignore_ascii_case(word) { text.get(word.len()..) } else { None }
}

/// The first place of an ASCII word in any case.
fn find(text: &str, word: &str) -> Option<usize> {
    text.as_bytes().windows(word.len()).position(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// ```abnf
/// iserver = [enc-user [";AUTH=" ..] "@"] host [":" port]
/// ```
fn server(text: &str) -> Option<UrlServer> {
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, text),
    };
    let user = user.map(|user| user.split_once(';').map_or(user, |(user, _)| user));
    let host = match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let user = match user.filter(|user| !user.is_empty()) {
        Some(user) => Some(decoded(user)?),
        None => None,
    };
    (!host.is_empty()).then(|| UrlServer { user, host: host.to_ascii_lowercase() })
}

/// The path before `;UID=`: empty or `/` for the selected mailbox.
fn mailbox(path: &str) -> Option<(Option<String>, Option<UidValidity>)> {
    if path.is_empty() || path == "/" {
        return Some((None, None));
    }
    let path = path.strip_prefix('/')?.strip_suffix('/')?;
    let (name, uid_validity) = match find(path, ";UIDVALIDITY=") {
        Some(at) => {
            let value = path.get(at + ";UIDVALIDITY=".len()..)?;
            (path.get(..at)?, Some(UidValidity::new(value.parse().ok()?)?))
        }
        None => (path, None),
    };
    let name = decoded(name)?;
    (!name.is_empty()).then_some((Some(name), uid_validity))
}

fn section(text: &str) -> Option<Section> {
    let bracketed = format!("[{}]", decoded(text)?);
    let mut scanner = Scanner::new(bracketed.as_bytes(), 1);
    let section = parse::fetch::section(&mut scanner).ok()?;
    (scanner.is_done() && section != whole()).then_some(section)
}

fn partial(text: &str) -> Option<Partial> {
    let (origin, octets) = match text.split_once('.') {
        Some((origin, octets)) => (origin, octets.parse::<NonZeroU64>().ok()?.get()),
        None => (text, u64::MAX),
    };
    Some(Partial { origin: origin.parse().ok()?, octets })
}

/// Undoes percent encoding; `None` if what comes out is no UTF-8 or has a control character.
fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            octets.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else { return None };
        let digit = |b: u8| char::from(b).to_digit(16);
        octets.push(u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?);
        rest = after;
    }
    String::from_utf8(octets).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::types::SectionText;
    use proptest::prelude::*;

    fn parse(url: &str) -> Option<MessageUrl> {
        MessageUrl::parse(url.as_bytes())
    }

    #[test]
    fn urls_of_the_rfcs() {
        let url = parse("/Drafts;UIDVALIDITY=385759045/;UID=20/;section=HEADER").unwrap();
        assert_eq!((url.server, url.mailbox.as_deref(), url.uid.get()), (None, Some("Drafts"), 20));
        assert_eq!(url.uid_validity, UidValidity::new(385_759_045));
        assert_eq!(url.section.text, Some(SectionText::Header));
        let url = parse("/Drafts;UIDVALIDITY=385759045/;UID=20/;Section=2.MIME").unwrap();
        assert_eq!((url.section.part.len(), url.section.text), (1, Some(SectionText::Mime)));
        assert_eq!(parse("/Drafts/;UID=3002").unwrap().section, whole());
        // RFC 5092 §9 and §10.
        let url = parse(
            "imap://michael@minbari.example.org/users.*;uidvalidity=1/;UID=20/;section=1.2/;partial=0.1024",
        );
        let url = url.unwrap();
        let user = Some("michael".to_string());
        assert_eq!(url.server, Some(UrlServer { user, host: "minbari.example.org".into() }));
        assert_eq!(url.partial, Some(Partial { origin: 0, octets: 1024 }));
        let url = parse("IMAP://;AUTH=*@Host:143/a%20%C3%A9%2Fb/;UID=1/;PARTIAL=7").unwrap();
        assert_eq!(url.server, Some(UrlServer { user: None, host: "host".into() }));
        assert_eq!(url.mailbox.as_deref(), Some("a é/b"));
        assert_eq!(url.partial, Some(Partial { origin: 7, octets: u64::MAX }));
        let url = parse("//host/x/;UID=1/;SECTION=HEADER.FIELDS%20(DATE%20FROM)").unwrap();
        assert!(matches!(url.section.text, Some(SectionText::HeaderFields(names)) if names.len() == 2));
        assert_eq!(parse(";UID=5").unwrap().mailbox, None);
        assert_eq!(parse("/;UID=5").unwrap().mailbox, None);
    }

    #[test]
    fn what_names_no_message_is_refused() {
        for url in [
            "",
            "/",
            "/INBOX",
            "/INBOX;UIDVALIDITY=1",
            "/INBOX/;UID=0",
            "/INBOX/;UID=x",
            "/INBOX;UID=1",
            "imap://host/;UID=1",
            "imap://host",
            "http://host/x/;UID=1",
            "x/;UID=1",
            "/x/;UID=1/;SECTION=",
            "/x/;UID=1/;SECTION=bogus",
            "/x/;UID=1/;SECTION=1/;SECTION=2",
            "/x/;UID=1/;PARTIAL=1.0",
            "/x/;UID=1/;URLAUTH=anonymous:internal:00",
            "/%00/;UID=1",
            "/%ff/;UID=1",
            "/%4/;UID=1",
            "/é/;UID=1",
            "//;UID=1",
            "/x;UIDVALIDITY=0/;UID=1",
            "/x/;UID=1/;SECTION=HEADER%0d",
            "/a b/;UID=1",
        ] {
            assert_eq!(parse(url), None, "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_taken(url in "(imap://|//|/|)[a-z@:/%;.0-9]{0,20}(;UIDVALIDITY=1)?/;UID=[0-9]{1,3}(/;SECTION=[0-9A-Z.%()]{0,9})?\\PC?") {
            let _ = parse(&url);
        }
    }
}
