//! One command line, its end cut off, to a [`Command`].

use super::address::{Address, is_atext};
use super::command::{Body, Command, Mail, Notify, Rcpt, Ret};
use super::reply::Reply;
use crate::imap::Secret;
use crate::sasl;
use bytes::Bytes;

/// What a rule gives; the error is the answer to the client.
type Parsed<T> = Result<T, Reply>;

fn syntax(text: &'static str) -> Reply {
    Reply::new(501, (5, 5, 4), text)
}

/// ```abnf
/// command = verb [SP arguments] CRLF
/// ```
pub(crate) fn command(line: &[u8]) -> Parsed<Command> {
    let unreadable = || Reply::new(500, (5, 5, 2), "Command line is not text");
    let line = std::str::from_utf8(line).map_err(|_| unreadable())?;
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(unreadable());
    }
    let line = line.trim_end_matches([' ', '\t']);
    let (verb, arguments) = line.split_once(' ').unwrap_or((line, ""));
    let arguments = arguments.trim_start_matches(' ');
    let verb = verb.to_ascii_uppercase();
    let alone = |command| match arguments {
        "" => Ok(command),
        _ => Err(syntax("No parameters allowed")),
    };
    match verb.as_str() {
        "LHLO" if arguments.is_empty() => Err(syntax("LHLO needs a name")),
        "LHLO" => Ok(Command::Lhlo(arguments.into())),
        "HELO" => Ok(Command::Helo),
        "EHLO" => Ok(Command::Ehlo),
        "MAIL" => mail(arguments).map(Command::Mail),
        "RCPT" => rcpt(arguments).map(Command::Rcpt),
        "DATA" => alone(Command::Data),
        "BDAT" => bdat(arguments),
        "RSET" => alone(Command::Rset),
        "NOOP" => Ok(Command::Noop),
        "QUIT" => alone(Command::Quit),
        "VRFY" => Ok(Command::Vrfy(arguments.into())),
        "STARTTLS" => alone(Command::StartTls),
        "AUTH" => auth(arguments),
        "" => Err(Reply::new(500, (5, 5, 2), "Empty command")),
        _ => Ok(Command::Unknown { name: verb.chars().take(64).collect() }),
    }
}

/// Whether a line that does not parse announces octets, so that the stream is out of step behind it.
pub(crate) fn is_bdat(line: &[u8]) -> bool {
    line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"))
}

/// ```abnf
/// bdat-cmd = "BDAT" SP chunk-size [SP end-marker] CRLF
/// ```
fn bdat(arguments: &str) -> Parsed<Command> {
    let (octets, marker) = arguments.split_once(' ').unwrap_or((arguments, ""));
    let octets = number(octets).ok_or_else(|| syntax("BDAT needs a size"))?;
    match marker.trim() {
        "" => Ok(Command::Bdat { octets, last: false }),
        marker if marker.eq_ignore_ascii_case("LAST") => Ok(Command::Bdat { octets, last: true }),
        _ => Err(syntax("Only LAST can follow BDAT's size")),
    }
}

/// ```abnf
/// auth-command = "AUTH" SP sasl-mech [SP initial-response]
/// ```
fn auth(arguments: &str) -> Parsed<Command> {
    let (mechanism, initial) = match arguments.split_once(' ') {
        Some((mechanism, initial)) => (mechanism, Some(initial.trim())),
        None => (arguments, None),
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if mechanism.is_empty() || !mechanism.bytes().all(legal) {
        return Err(syntax("AUTH needs a mechanism"));
    }
    let initial = match initial {
        Some(text) => {
            let octets = sasl::initial_response(text.as_bytes());
            Some(Secret(octets.map_err(|_| Reply::new(501, (5, 5, 2), "Malformed base64"))?))
        }
        None => None,
    };
    Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase().into(), initial })
}

/// Digits alone, 63 bits.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| *n <= i64::MAX as u64)
}

/// Takes `FROM:` or `TO:`; spaces behind it, which many clients leave, are no fault.
fn after_word<'a>(arguments: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = arguments.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word).then(|| rest.trim_start_matches(' '))
}

/// ```abnf
/// mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF
/// ```
fn mail(arguments: &str) -> Parsed<Mail> {
    let rest = after_word(arguments, "FROM:").ok_or_else(|| syntax("Expected MAIL FROM:<address>"))?;
    let (from, parameters) = match rest.strip_prefix("<>") {
        Some(parameters) => (None, parameters),
        None => path(rest).map(|(address, rest)| (Some(address), rest)).ok_or_else(bad_sender)?,
    };
    let mut mail = Mail { from, ..Mail::default() };
    for parameter in parameter_words(parameters)? {
        mail_parameter(&mut mail, parameter)?;
    }
    if !mail.smtputf8 && mail.from.as_ref().is_some_and(|from| !from.is_ascii()) {
        return Err(Reply::new(550, (5, 6, 7), "Address needs SMTPUTF8"));
    }
    Ok(mail)
}

fn bad_sender() -> Reply {
    Reply::new(501, (5, 1, 7), "Malformed sender address")
}

fn mail_parameter(mail: &mut Mail, parameter: &str) -> Parsed<()> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    let upper = value.to_ascii_uppercase();
    match name.to_ascii_uppercase().as_str() {
        "SIZE" => mail.size = Some(number(value).ok_or_else(|| syntax("Malformed SIZE"))?),
        "BODY" => {
            mail.body = Some(match upper.as_str() {
                "7BIT" => Body::SevenBit,
                "8BITMIME" => Body::EightBitMime,
                "BINARYMIME" => Body::BinaryMime,
                _ => return Err(syntax("Unknown BODY")),
            });
        }
        "SMTPUTF8" if value.is_empty() => mail.smtputf8 = true,
        "AUTH" => mail.auth = Some(xtext(value).ok_or_else(|| syntax("Malformed AUTH"))?),
        "RET" => {
            mail.ret = Some(match upper.as_str() {
                "FULL" => Ret::Full,
                "HDRS" => Ret::Headers,
                _ => return Err(syntax("Unknown RET")),
            });
        }
        "ENVID" => mail.envid = Some(xtext(value).ok_or_else(|| syntax("Malformed ENVID"))?),
        _ => return Err(unknown_parameter()),
    }
    Ok(())
}

fn unknown_parameter() -> Reply {
    Reply::new(555, (5, 5, 4), "Unknown parameter")
}

/// ```abnf
/// rcpt = "RCPT TO:" ("<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path) [SP Rcpt-parameters] CRLF
/// ```
fn rcpt(arguments: &str) -> Parsed<Rcpt> {
    let rest = after_word(arguments, "TO:").ok_or_else(|| syntax("Expected RCPT TO:<address>"))?;
    let bad = || Reply::new(501, (5, 1, 3), "Malformed recipient address");
    let (to, parameters) = path(rest).ok_or_else(bad)?;
    let mut rcpt = Rcpt { to, notify: None, orcpt: None, ignore_quota: false };
    for parameter in parameter_words(parameters)? {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.to_ascii_uppercase().as_str() {
            "NOTIFY" => rcpt.notify = Some(notify(value).ok_or_else(|| syntax("Malformed NOTIFY"))?),
            "ORCPT" => {
                let parts = value.split_once(';').filter(|(kind, _)| !kind.is_empty());
                let parts = parts.and_then(|(kind, address)| Some((kind.into(), xtext(address)?)));
                rcpt.orcpt = Some(parts.ok_or_else(|| syntax("Malformed ORCPT"))?);
            }
            "IGNOREQUOTA" if value.is_empty() => rcpt.ignore_quota = true,
            _ => return Err(unknown_parameter()),
        }
    }
    Ok(rcpt)
}

/// ```abnf
/// notify-esmtp-value = "NEVER" / 1#notify-list-element
/// ```
fn notify(value: &str) -> Option<Notify> {
    let mut notify = Notify::default();
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(notify);
    }
    for word in value.split(',') {
        match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => notify.success = true,
            "FAILURE" => notify.failure = true,
            "DELAY" => notify.delay = true,
            _ => return None,
        }
    }
    Some(notify)
}

/// `*(SP parameter)`, behind a path.
fn parameter_words(text: &str) -> Parsed<impl Iterator<Item = &str>> {
    if !text.is_empty() && !text.starts_with([' ', '\t']) {
        return Err(syntax("Missing space behind the address"));
    }
    Ok(text.split([' ', '\t']).filter(|word| !word.is_empty()))
}

/// An address, in angle brackets or bare, and what follows it.
///
/// ```abnf
/// Path = "<" [A-d-l ":"] Mailbox ">"
/// ```
pub(crate) fn path(text: &str) -> Option<(Address, &str)> {
    let Some(inner) = text.strip_prefix('<') else {
        return mailbox(text);
    };
    // Source routes are taken and not looked at (RFC 5321 §4.1.1.3).
    let inner = match inner.strip_prefix('@') {
        Some(route) => {
            let colon = route.find([':', '>', '"']).filter(|at| route.as_bytes().get(*at) == Some(&b':'))?;
            route.get(colon + 1..)?
        }
        None => inner,
    };
    let (address, rest) = mailbox(inner)?;
    Some((address, rest.strip_prefix('>')?))
}

/// ```abnf
/// Mailbox    = Local-part ["@" (Domain / address-literal)]
/// Local-part = Dot-string / Quoted-string
/// ```
fn mailbox(text: &str) -> Option<(Address, &str)> {
    let (local, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted_string(quoted)?,
        None => {
            let end = text.find(|c| !is_atext(c) && c != '.').unwrap_or(text.len());
            (text.get(..end)?.to_owned(), text.get(end..)?)
        }
    };
    let (domain, rest) = match rest.strip_prefix('@') {
        Some(domain) => {
            let end = domain.find([' ', '>', '\t']).unwrap_or(domain.len());
            (Some(domain.get(..end)?), domain.get(end..)?)
        }
        None => (None, rest),
    };
    Some((Address::new(&local, domain)?, rest))
}

/// Behind the opening quote.
///
/// ```abnf
/// Quoted-string = DQUOTE *(qtextSMTP / quoted-pairSMTP) DQUOTE
/// ```
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut local = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((local, text.get(at + 1..)?)),
            '\\' => local.push(chars.next()?.1),
            c => local.push(c),
        }
    }
    None
}

/// ```abnf
/// xtext   = *(xchar / hexchar)
/// hexchar = "+" 2(%x30-39 / %x41-46)
/// ```
fn xtext(text: &str) -> Option<Bytes> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => hex(rest.next()?)? * 16 + hex(rest.next()?)?,
            octet => octet,
        });
    }
    Some(octets.into())
}

fn hex(octet: u8) -> Option<u8> {
    char::from(octet).to_digit(16).and_then(|n| u8::try_from(n).ok())
}
