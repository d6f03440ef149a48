//! Commands, as typed values.

use crate::imap::Secret;

/// What a client of POP3 asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// RFC 2449 §5
    Capa,
    /// RFC 2595 §4
    Stls,
    /// RFC 6856 §2.1
    Utf8,
    /// RFC 1939 §7: a user's name, which may have spaces.
    User(Box<str>),
    /// RFC 1939 §7: all that follows the space.
    Pass(Secret),
    /// RFC 5034: AUTH alone, which asks for the mechanisms. Old clients do; no RFC has it.
    AuthList,
    /// RFC 5034. Further lines are read with [`crate::pop3::server::Decoder::expect_line`].
    Auth {
        /// In upper case.
        mechanism: Box<str>,
        /// Base64 undone; `=` is an empty one.
        initial: Option<Secret>,
    },
    /// RFC 1939 §5
    Stat,
    /// RFC 1939 §5: of one message, or of all.
    List(Option<u32>),
    /// RFC 1939 §7: of one message, or of all.
    Uidl(Option<u32>),
    /// RFC 1939 §5
    Retr(u32),
    /// RFC 1939 §7
    Top {
        /// Which.
        message: u32,
        /// Lines of the body.
        lines: u32,
    },
    /// RFC 1939 §5
    Dele(u32),
    /// RFC 1939 §5
    Noop,
    /// RFC 1939 §5
    Rset,
    /// RFC 1939 §5, §6
    Quit,
    /// A command that this codec does not know, APOP among them.
    Unknown {
        /// In upper case.
        name: Box<str>,
    },
}

impl Command {
    /// Whether a positive answer has lines behind it, up to a dot (RFC 1939 §3).
    pub fn has_lines(&self) -> bool {
        matches!(
            self,
            Command::Capa
                | Command::AuthList
                | Command::List(None)
                | Command::Uidl(None)
                | Command::Retr(_)
                | Command::Top { .. }
        )
    }
}
