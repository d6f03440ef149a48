//! How a command ends, and the one place where an error becomes words for a client.
//!
//! Invariant: nothing that an operator reads (`Display` of an error) is sent to a client, but to administrators of the
//! site what is wrong with nodes (`command/xfer.rs`).

use rookery_codec::imap::{Code, Condition, Response, Status, Tag};
use rookery_directory::DirectoryError;
use rookery_net::IoError;
use rookery_route::RegistrarError;
use rookery_store::{CommitError, StoreError};
use rookery_types::NameError;
use std::borrow::Cow;

/// The end of a command: what its tagged response says.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) condition: Condition,
    pub(crate) code: Option<Code>,
    pub(crate) text: Cow<'static, str>,
    /// Whether the server is at fault.
    pub(crate) fault: bool,
}

/// Why a command came to no good end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client is told so, and may go on. Boxed: it is rare, and results should be small.
    Refused(Box<Answer>),
    /// There is nobody to tell any more.
    Gone(IoError),
    /// The session goes on at another node. Nothing of the command was done; but for IDLE, it is done there.
    Moved,
}

impl Answer {
    fn new(condition: Condition, code: Option<Code>, text: impl Into<Cow<'static, str>>) -> Answer {
        Answer { condition, code, text: text.into(), fault: false }
    }

    pub(crate) fn ok(text: impl Into<Cow<'static, str>>) -> Answer {
        Answer::new(Condition::Ok, None, text)
    }

    pub(crate) fn ok_code(code: Code, text: impl Into<Cow<'static, str>>) -> Answer {
        Answer::new(Condition::Ok, Some(code), text)
    }

    pub(crate) fn no(code: Code, text: impl Into<Cow<'static, str>>) -> Answer {
        Answer::new(Condition::No, Some(code), text)
    }

    pub(crate) fn bad(text: impl Into<Cow<'static, str>>) -> Answer {
        Answer::new(Condition::Bad, None, text)
    }

    /// The client has done away with sequence numbers, and sends some (RFC 9586 §3).
    pub(crate) fn no_numbers() -> Answer {
        Answer::new(Condition::Bad, Some(Code::UidRequired), "UIDONLY is enabled: no sequence numbers")
    }

    /// The server's own fault; what happened was logged.
    pub(crate) fn server_fault() -> Answer {
        let mut answer = Answer::no(Code::ServerBug, "Something is wrong here; the operator was told");
        answer.fault = true;
        answer
    }

    /// For metrics: a closed set.
    pub(crate) fn result(&self) -> &'static str {
        match self.condition {
            _ if self.fault => "servererror",
            Condition::Ok | Condition::PreAuth => "ok",
            Condition::No => "no",
            Condition::Bad => "bad",
            Condition::Bye => "bye",
        }
    }

    pub(crate) fn into_response(self, tag: Tag) -> Response {
        Response::Status(Status {
            tag: Some(tag),
            condition: self.condition,
            code: self.code,
            text: self.text,
        })
    }
}

impl From<Answer> for Failure {
    fn from(answer: Answer) -> Failure {
        Failure::Refused(Box::new(answer))
    }
}

impl From<IoError> for Failure {
    fn from(error: IoError) -> Failure {
        Failure::Gone(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::Moved => Failure::Moved,
            error => Answer::from(error).into(),
        }
    }
}

impl From<RegistrarError> for Failure {
    fn from(error: RegistrarError) -> Failure {
        match error {
            RegistrarError::Exists(_) => Answer::from(StoreError::AlreadyExists).into(),
            RegistrarError::NotFound(_) => no_such_mailbox().into(),
            RegistrarError::Refused(why) => Answer::no(Code::Cannot, why).into(),
            RegistrarError::NoPlace(why) => {
                tracing::info!(why, "an account is not placed");
                Answer::no(Code::Cannot, why).into()
            }
            RegistrarError::Name(error) => error.into(),
            RegistrarError::Store(error) => error.into(),
            RegistrarError::Away(error) => {
                tracing::error!(%error, "another node failed a command");
                Answer::no(Code::Unavailable, "Accounts there cannot be changed at the moment").into()
            }
            RegistrarError::Pending(error) => {
                tracing::error!(error, "another node failed a command");
                let text = "That goes on by itself, or is undone: outcome pending";
                Answer::no(Code::Unavailable, text).into()
            }
            RegistrarError::Busy(_) => {
                Answer::no(Code::InUse, "An account of that name is being made or deleted; try again later")
                    .into()
            }
            RegistrarError::Directory(DirectoryError::Pending(error)) => {
                tracing::error!(error, "the directory failed a command");
                Answer::no(Code::Unavailable, "The directory has not answered: outcome pending").into()
            }
            RegistrarError::Directory(error) => {
                tracing::error!(%error, "the directory failed a command");
                Answer::no(Code::Unavailable, "Accounts cannot be changed at the moment").into()
            }
        }
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Failure {
        // A NameError's text is written for the person who typed the name.
        Answer::no(Code::Cannot, format!("Bad mailbox name: {error}")).into()
    }
}

impl From<StoreError> for Answer {
    /// RFC 5530 has the codes.
    fn from(error: StoreError) -> Answer {
        if error.is_server_fault() {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed a command");
        }
        match error {
            StoreError::NoAccount | StoreError::NoMailbox => no_such_mailbox(),
            StoreError::AlreadyExists => {
                Answer::no(Code::AlreadyExists, "A mailbox of that name exists already")
            }
            StoreError::InvalidName => Answer::no(Code::Cannot, "That name cannot be given or lost"),
            StoreError::OverQuota => Answer::no(Code::OverQuota, "The quota does not allow it"),
            StoreError::TooMany(_) => Answer::no(Code::Limit, "There are as many of these as there may be"),
            StoreError::TooManyKeywords(_) => {
                Answer::no(Code::Limit, "The mailbox has as many keywords as it may have")
            }
            StoreError::TooLarge(_) => Answer::no(Code::TooBig, "The message is larger than is taken"),
            StoreError::Nul(_) => {
                Answer::no(Code::UnknownCte, "NUL stands where no transfer encoding can be put over it")
            }
            StoreError::InUse => Answer::no(Code::InUse, "Messages there are being moved; try again later"),
            StoreError::NoSpace => Answer::no(Code::Unavailable, "The disk is full; the operator was told"),
            StoreError::Commit(CommitError::Unpublished) => Answer::no(
                Code::Unavailable,
                "Done here, but other servers do not know of it yet: outcome pending",
            ),
            StoreError::Moved => Answer::no(Code::Unavailable, "The mailbox is moving to another server"),
            StoreError::GivenUp => Answer::no(Code::Unavailable, "It was given up before it came"),
            StoreError::CutOff => Answer::no(Code::Unavailable, "The server is ending"),
            _ => Answer::server_fault(),
        }
    }
}

pub(crate) fn no_such_mailbox() -> Answer {
    Answer::no(Code::NonExistent, "No such mailbox")
}

pub(crate) fn no_permission() -> Answer {
    Answer::no(Code::NoPerm, "You have not the right to do that")
}

/// What a blocking task gave, or the answer if it was cut off.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.map_err(|error| {
        if error.is_panic() {
            tracing::error!("a blocking task of a session panicked");
        }
        Answer::server_fault().into()
    })
}
