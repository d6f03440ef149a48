//! One command line, its end cut off, to a [`Command`].

use super::command::Command;
use super::reply::Reply;
use crate::imap::Secret;
use crate::sasl;
use bytes::Bytes;

/// What a rule gives; the error is the answer to the client.
type Parsed<T> = Result<T, Reply>;

/// ```abnf
/// command = keyword *(SP argument) CRLF
/// ```
pub(crate) fn command(line: &[u8]) -> Parsed<Command> {
    let (keyword, arguments) = match memchr::memchr(b' ', line) {
        Some(at) => (line.get(..at).unwrap_or(&[]), line.get(at + 1..).unwrap_or(&[])),
        None => (line, &[][..]),
    };
    let keyword = keyword.to_ascii_uppercase();
    // A password may be of any octets, with spaces at its ends.
    if keyword == b"PASS" {
        return match arguments {
            b"" => Err(Reply::err("PASS needs a password")),
            password => Ok(Command::Pass(Secret(Bytes::copy_from_slice(password)))),
        };
    }
    let text = std::str::from_utf8(arguments).map_err(|_| Reply::err("The command is not text"))?;
    if text.chars().any(char::is_control) {
        return Err(Reply::err("The command is not text"));
    }
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    match keyword.as_slice() {
        b"CAPA" => alone(&words, Command::Capa),
        b"STLS" => alone(&words, Command::Stls),
        b"UTF8" => alone(&words, Command::Utf8),
        b"STAT" => alone(&words, Command::Stat),
        b"NOOP" => alone(&words, Command::Noop),
        b"RSET" => alone(&words, Command::Rset),
        b"QUIT" => alone(&words, Command::Quit),
        b"USER" if words.is_empty() => Err(Reply::err("USER needs a name")),
        b"USER" => Ok(Command::User(text.trim_matches(' ').into())),
        b"AUTH" => auth(&words),
        b"LIST" => some_or_all(&words).map(Command::List),
        b"UIDL" => some_or_all(&words).map(Command::Uidl),
        b"RETR" => one(&words).map(Command::Retr),
        b"DELE" => one(&words).map(Command::Dele),
        b"TOP" => match words.as_slice() {
            [message, lines] => Ok(Command::Top {
                message: number(message)?,
                lines: digits(lines).ok_or_else(|| Reply::err("That is no number of lines"))?,
            }),
            _ => Err(Reply::err("TOP needs a message and a number of lines")),
        },
        b"" => Err(Reply::err("Empty command")),
        keyword => {
            let name: String = String::from_utf8_lossy(keyword).chars().take(64).collect();
            Ok(Command::Unknown { name: name.into() })
        }
    }
}

fn alone(words: &[&str], command: Command) -> Parsed<Command> {
    match words {
        [] => Ok(command),
        _ => Err(Reply::err("No arguments are allowed")),
    }
}

fn one(words: &[&str]) -> Parsed<u32> {
    match words {
        [word] => number(word),
        _ => Err(Reply::err("One message number is needed")),
    }
}

fn some_or_all(words: &[&str]) -> Parsed<Option<u32>> {
    match words {
        [] => Ok(None),
        words => one(words).map(Some),
    }
}

/// Digits alone. What is more than 32 bits is no message's number, so it stands for the largest, which is none.
fn digits(word: &str) -> Option<u32> {
    let legal = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    legal.then(|| word.parse().unwrap_or(u32::MAX))
}

fn number(word: &str) -> Parsed<u32> {
    digits(word).ok_or_else(|| Reply::err("That is no message number"))
}

/// ```abnf
/// auth-command = "AUTH" SP sasl-mech [SP initial-response] *(CRLF [base64]) [CRLF cancel-response] CRLF
/// ```
fn auth(words: &[&str]) -> Parsed<Command> {
    let (mechanism, initial) = match words {
        [] => return Ok(Command::AuthList),
        [mechanism] => (mechanism, None),
        [mechanism, initial] => (mechanism, Some(initial)),
        _ => return Err(Reply::err("AUTH has two arguments at most")),
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !mechanism.bytes().all(legal) {
        return Err(Reply::err("AUTH needs a mechanism"));
    }
    let initial = initial.map(|text| sasl::initial_response(text.as_bytes())).transpose();
    let initial = initial.map_err(|_| Reply::err("That is no base64"))?.map(Secret);
    Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase().into(), initial })
}
