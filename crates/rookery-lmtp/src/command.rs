//! One line of an LMTP client as a command (RFC 2033, RFC 5321 §4.1, RFC 1870, RFC 6152, RFC 4954 §5).
//!
//! Invariants:
//! - No octet of a path or parameter that could end a header line gets through: no CR, LF, NUL or control.
//! - The line was cut to its limit by the caller; nothing here grows with anything else.

use crate::reply::Reply;

/// A command and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `LHLO name`
    Lhlo(String),
    /// `MAIL FROM:<path> parameters`
    Mail(MailFrom),
    /// `RCPT TO:<path>`
    Rcpt(Address),
    Data,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
}

/// What MAIL says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct MailFrom {
    /// The path as it was written, without brackets and route; empty for `<>`.
    pub(crate) path: String,
    /// `SIZE=`: octets that will come.
    pub(crate) size: Option<u64>,
    /// `AUTH=`: who submitted the message; `None` if nobody is named, or `<>`.
    pub(crate) author: Option<String>,
}

/// A recipient's address: the local part without quotes, and the domain if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) local: String,
    pub(crate) domain: Option<String>,
    /// As it was written, for replies.
    pub(crate) text: String,
}

/// The longest path taken: RFC 5321 §4.5.3.1.3 asks for 256 at least.
const PATH_OCTETS_MAX: usize = 1024;
/// Parameters on one line.
const PARAMETERS_MAX: usize = 16;

const SYNTAX: Reply = Reply::new(501, "5.5.4", "Syntax error in the parameters");

/// Reads a line without its line end. Err: what to answer.
pub(crate) fn parse(line: &[u8]) -> Result<Command, Reply> {
    let line = std::str::from_utf8(line).map_err(|_| Reply::new(500, "5.5.2", "The command is not UTF-8"))?;
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Reply::new(500, "5.5.2", "The command has control characters"));
    }
    let line = line.trim_end_matches([' ', '\t']);
    let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let rest = rest.trim_start_matches([' ', '\t']);
    let alone = |command| if rest.is_empty() { Ok(command) } else { Err(SYNTAX) };
    match verb.to_ascii_uppercase().as_str() {
        "LHLO" => lhlo(rest),
        "MAIL" => mail(rest),
        "RCPT" => rcpt(rest),
        "DATA" => alone(Command::Data),
        "RSET" => alone(Command::Rset),
        "QUIT" => alone(Command::Quit),
        "NOOP" => Ok(Command::Noop),
        "VRFY" => Ok(Command::Vrfy),
        "HELP" => Ok(Command::Help),
        // RFC 2033 §4.1: an LMTP server must not take them.
        "HELO" | "EHLO" => Err(Reply::new(500, "5.5.1", "This is LMTP: say LHLO")),
        "EXPN" | "AUTH" | "STARTTLS" | "BDAT" | "ETRN" | "TURN" => {
            Err(Reply::new(502, "5.5.1", "Command not implemented"))
        }
        _ => Err(Reply::new(500, "5.5.2", "Unknown command")),
    }
}

fn lhlo(rest: &str) -> Result<Command, Reply> {
    // A name or address literal; anything printable without brackets' meaning in a Received line is taken,
    // since MTAs are configured with all kinds of names.
    let legal = |c: char| c.is_alphanumeric() || "-._:[]".contains(c);
    if rest.is_empty() || rest.len() > 255 || !rest.chars().all(legal) {
        return Err(Reply::new(501, "5.5.4", "LHLO needs a host name"));
    }
    Ok(Command::Lhlo(rest.to_owned()))
}

fn mail(rest: &str) -> Result<Command, Reply> {
    let (path, parameters) = path_after(rest, "FROM:")?;
    if !path.is_empty() {
        split_address(path).ok_or(Reply::new(501, "5.1.7", "Bad sender address"))?;
    }
    let mut mail = MailFrom { path: path.to_owned(), ..MailFrom::default() };
    for (name, value) in read_parameters(parameters)? {
        match (name.to_ascii_uppercase().as_str(), value) {
            ("SIZE", Some(digits)) => {
                let legal = (1..=20).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
                if !legal {
                    return Err(SYNTAX);
                }
                // Twenty digits can be more than 64 bits hold: surely too large.
                mail.size = Some(digits.parse().unwrap_or(u64::MAX));
            }
            ("BODY", Some(kind))
                if kind.eq_ignore_ascii_case("7BIT") || kind.eq_ignore_ascii_case("8BITMIME") => {}
            ("AUTH", Some(author)) => {
                let author = decode_xtext(author).ok_or(SYNTAX)?;
                mail.author = (!author.is_empty() && author != "<>").then_some(author);
            }
            ("SIZE" | "BODY" | "AUTH", _) => return Err(SYNTAX),
            _ => return Err(Reply::new(555, "5.5.4", "Unknown MAIL parameter")),
        }
    }
    Ok(Command::Mail(mail))
}

fn rcpt(rest: &str) -> Result<Command, Reply> {
    let (path, parameters) = path_after(rest, "TO:")?;
    let bad = Reply::new(501, "5.1.3", "Bad recipient address");
    let (local, domain) = split_address(path).ok_or(bad)?;
    if !read_parameters(parameters)?.is_empty() {
        return Err(Reply::new(555, "5.5.4", "Unknown RCPT parameter"));
    }
    Ok(Command::Rcpt(Address { local, domain, text: path.to_owned() }))
}

/// `FROM:<path> rest` → path without brackets and without a source route (RFC 5321 §4.1.2, appendix C), rest.
fn path_after<'a>(rest: &'a str, keyword: &str) -> Result<(&'a str, &'a str), Reply> {
    let after = match rest.split_at_checked(keyword.len()) {
        Some((word, after)) if word.eq_ignore_ascii_case(keyword) => after.trim_start_matches(' '),
        _ => return Err(SYNTAX),
    };
    let inside = after.strip_prefix('<').ok_or(SYNTAX)?;
    let end = end_of_path(inside).ok_or(SYNTAX)?;
    let (path, behind) = (inside.get(..end).ok_or(SYNTAX)?, inside.get(end + 1..).ok_or(SYNTAX)?);
    if path.len() > PATH_OCTETS_MAX || !(behind.is_empty() || behind.starts_with(' ')) {
        return Err(SYNTAX);
    }
    let path = match path.strip_prefix('@') {
        Some(route) => route.split_once(':').ok_or(SYNTAX)?.1,
        None => path,
    };
    Ok((path, behind))
}

/// Where the closing bracket stands: the first one outside of a quoted string.
fn end_of_path(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(at),
            '<' if !quoted => return None,
            _ => {}
        }
    }
    None
}

/// Local part (unquoted) and domain of an address; `None` if it is none.
fn split_address(path: &str) -> Option<(String, Option<String>)> {
    let (local, domain) = if let Some(inside) = path.strip_prefix('"') {
        let mut local = String::new();
        let mut chars = inside.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => local.push(chars.next()?.1),
                (_, c) => local.push(c),
            }
        };
        match inside.get(end + 1..)? {
            "" => (local, None),
            domain => (local, Some(domain.strip_prefix('@')?)),
        }
    } else {
        let (local, domain) = match path.rsplit_once('@') {
            Some((local, domain)) => (local, Some(domain)),
            None => (path, None),
        };
        if local.contains([' ', '\t', '"', '<', '>']) {
            return None;
        }
        (local.to_owned(), domain)
    };
    let legal_domain = |domain: &str| {
        !domain.is_empty() && domain.chars().all(|c| c.is_alphanumeric() || "-._:[]".contains(c))
    };
    if local.is_empty() || !domain.is_none_or(legal_domain) {
        return None;
    }
    Some((local, domain.map(str::to_owned)))
}

fn read_parameters(text: &str) -> Result<Vec<(&str, Option<&str>)>, Reply> {
    let mut parameters = Vec::new();
    for word in text.split([' ', '\t']).filter(|word| !word.is_empty()) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let known: &Vec<(&str, Option<&str>)> = &parameters;
        let repeated = known.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        if name.is_empty() || repeated || parameters.len() == PARAMETERS_MAX {
            return Err(SYNTAX);
        }
        parameters.push((name, value));
    }
    Ok(parameters)
}

/// RFC 3461 §4: `+XX` stands for an octet. `None` for what is no xtext, no UTF-8, or has control characters.
fn decode_xtext(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'+' {
            let (digits, after) = after.split_at_checked(2)?;
            octets.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            octets.push(*first);
            rest = after;
        }
    }
    String::from_utf8(octets).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(line: &str) -> Option<(String, Option<String>)> {
        match parse(line.as_bytes()) {
            Ok(Command::Rcpt(address)) => Some((address.local, address.domain)),
            _ => None,
        }
    }

    #[test]
    fn recipients() {
        let some = |local: &str, domain: Option<&str>| Some((local.to_owned(), domain.map(str::to_owned)));
        let table = [
            ("RCPT TO:<joe>", some("joe", None)),
            ("rcpt to:<Joe@Example.ORG>", some("Joe", Some("Example.ORG"))),
            ("RCPT TO: <joe+A/B@x.test>", some("joe+A/B", Some("x.test"))),
            ("RCPT TO:<@a.test,@b.test:joe@c.test>", some("joe", Some("c.test"))),
            ("RCPT TO:<\"joe smith\"@x.test>", some("joe smith", Some("x.test"))),
            ("RCPT TO:<\"a\\\">@b\"@x.test>", some("a\">@b", Some("x.test"))),
            ("RCPT TO:<joe@[192.0.2.1]>", some("joe", Some("[192.0.2.1]"))),
            ("RCPT TO:<>", None),
            ("RCPT TO:joe", None),
            ("RCPT TO:<joe", None),
            ("RCPT TO:<@x.test>", None),
            ("RCPT TO:<joe@>", None),
            ("RCPT TO:<joe smith@x.test>", None),
            ("RCPT TO:<joe> NOTIFY=NEVER", None),
            ("RCPT TO:<joe>x", None),
            ("RCPT FROM:<joe>", None),
            ("RCPT", None),
        ];
        for (line, expected) in table {
            assert_eq!(address(line), expected, "{line}");
        }
    }

    #[test]
    fn mail_and_its_parameters() {
        let mail = |line: &str| match parse(line.as_bytes()) {
            Ok(Command::Mail(mail)) => Ok((mail.path, mail.size, mail.author)),
            Ok(other) => panic!("{other:?}"),
            Err(reply) => Err(reply.code),
        };
        let ok =
            |path: &str, size, author: Option<&str>| Ok((path.to_owned(), size, author.map(str::to_owned)));
        assert_eq!(mail("MAIL FROM:<>"), ok("", None, None));
        assert_eq!(mail("mail from:<a@b.test> size=12 BODY=8bitmime"), ok("a@b.test", Some(12), None));
        assert_eq!(mail("MAIL FROM:<a@b> AUTH=<>"), ok("a@b", None, None));
        assert_eq!(mail("MAIL FROM:<a@b> AUTH=e+3Dmc2@x.test"), ok("a@b", None, Some("e=mc2@x.test")));
        assert_eq!(mail(&format!("MAIL FROM:<> SIZE={}", "9".repeat(20))), ok("", Some(u64::MAX), None));
        for (line, code) in [
            ("MAIL FROM:<a@b> SIZE=x", 501),
            ("MAIL FROM:<a@b> SIZE=1 SIZE=2", 501),
            ("MAIL FROM:<a@b> SIZE", 501),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", 501),
            ("MAIL FROM:<a@b> AUTH=+0", 501),
            ("MAIL FROM:<a@b> AUTH=+0A", 501),
            ("MAIL FROM:<a@b> SMTPUTF8", 555),
            ("MAIL FROM:<a b@c>", 501),
            ("MAIL", 501),
        ] {
            assert_eq!(mail(line), Err(code), "{line}");
        }
    }

    #[test]
    fn other_commands() {
        assert_eq!(parse(b"lhlo mta.example.org"), Ok(Command::Lhlo("mta.example.org".to_owned())));
        assert_eq!(parse(b"LHLO [IPv6:::1]"), Ok(Command::Lhlo("[IPv6:::1]".to_owned())));
        assert_eq!(parse(b"DATA "), Ok(Command::Data));
        assert_eq!(parse(b"NOOP x"), Ok(Command::Noop));
        for (line, code) in [
            (&b"LHLO"[..], 501),
            (b"LHLO a b", 501),
            (b"EHLO x", 500),
            (b"HELO x", 500),
            (b"AUTH PLAIN", 502),
            (b"XYZZY", 500),
            (b"", 500),
            (b"RSET x", 501),
            (b"NOOP \x00", 500),
            (b"MAIL FROM:<\xff>", 500),
        ] {
            assert_eq!(parse(line).map_err(|reply| reply.code), Err(code), "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn nothing_that_parses_can_break_a_header_line(line in "(MAIL FROM:<|LHLO |RCPT TO:<)\\PC*[\\x00-\\x20]?\\PC*>?") {
            let texts = match parse(line.as_bytes()) {
                Ok(Command::Lhlo(name)) => vec![name],
                Ok(Command::Mail(mail)) => vec![mail.path, mail.author.unwrap_or_default()],
                Ok(Command::Rcpt(to)) => vec![to.local, to.text],
                _ => vec![],
            };
            for text in texts {
                prop_assert!(!text.contains(['\r', '\n', '\0']));
            }
        }
    }
}
