//! Commands, as typed values.

use super::address::Address;
use crate::imap::Secret;
use bytes::Bytes;

/// What a client of LMTP asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// RFC 2033 §4.1: the client's name.
    Lhlo(Box<str>),
    /// HELO, which LMTP does not have: answer 500 (RFC 2033 §4.1).
    Helo,
    /// EHLO, which LMTP does not have: answer 500 (RFC 2033 §4.1).
    Ehlo,
    /// RFC 5321 §4.1.1.2
    Mail(Mail),
    /// RFC 5321 §4.1.1.3
    Rcpt(Rcpt),
    /// RFC 5321 §4.1.1.4. If it is taken, [`crate::lmtp::server::Decoder::expect_data`] comes next.
    Data,
    /// RFC 3030 §2. Its octets follow whatever is answered, and the decoder gives them out.
    Bdat {
        /// Of this chunk.
        octets: u64,
        /// The message ends with it.
        last: bool,
    },
    /// RFC 5321 §4.1.1.5
    Rset,
    /// RFC 5321 §4.1.1.9
    Noop,
    /// RFC 5321 §4.1.1.10
    Quit,
    /// RFC 5321 §4.1.1.6: what is asked for.
    Vrfy(Box<str>),
    /// RFC 3207
    StartTls,
    /// RFC 4954. Further lines are read with [`crate::lmtp::server::Decoder::expect_line`].
    Auth {
        /// In upper case.
        mechanism: Box<str>,
        /// Base64 undone; `=` is an empty one.
        initial: Option<Secret>,
    },
    /// A command that this codec does not know.
    Unknown {
        /// In upper case.
        name: Box<str>,
    },
}

/// MAIL FROM with its parameters.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Mail {
    /// `None`: `<>`, the null sender of bounces.
    pub from: Option<Address>,
    /// `SIZE`, octets (RFC 1870).
    pub size: Option<u64>,
    /// `BODY` (RFC 6152, RFC 3030).
    pub body: Option<Body>,
    /// `SMTPUTF8` (RFC 6531)
    pub smtputf8: bool,
    /// `AUTH`, xtext undone; `<>` as it stands (RFC 4954 §5).
    pub auth: Option<Bytes>,
    /// `RET` (RFC 3461 §4.3)
    pub ret: Option<Ret>,
    /// `ENVID`, xtext undone (RFC 3461 §4.4).
    pub envid: Option<Bytes>,
}

/// `BODY=`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// `7BIT`
    SevenBit,
    /// `8BITMIME`
    EightBitMime,
    /// `BINARYMIME`: only with BDAT.
    BinaryMime,
}

/// `RET=`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// `FULL`
    Full,
    /// `HDRS`
    Headers,
}

/// RCPT TO with its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rcpt {
    /// To whom.
    pub to: Address,
    /// `NOTIFY` (RFC 3461 §4.1)
    pub notify: Option<Notify>,
    /// `ORCPT`: address type, and the address with its xtext undone (RFC 3461 §4.2).
    pub orcpt: Option<(Box<str>, Bytes)>,
    /// `IGNOREQUOTA`, an extension of Cyrus.
    pub ignore_quota: bool,
}

/// `NOTIFY=`; none of them set: `NEVER`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Notify {
    /// `SUCCESS`
    pub success: bool,
    /// `FAILURE`
    pub failure: bool,
    /// `DELAY`
    pub delay: bool,
}
