//! How a command ends: an exit code that means something, and one line on standard error.

use std::fmt;
use std::process::ExitCode;

use rookery_admin::socket::CallError;

/// Why a command failed. The numbers are told in `rookery --help` and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    NotRunning = 4,
    Exists = 5,
    InUse = 6,
    Damage = 7,
}

/// A failure and its text.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What is printed; may have several lines. Empty: everything was said.
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl fmt::Display) -> Failure {
        Failure { kind, text: text.to_string() }
    }

    /// Something that fits no other kind.
    pub(crate) fn failed(text: impl fmt::Display) -> Failure {
        Failure::new(Kind::Failed, text)
    }

    /// Tells it, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("rookery: {}", self.text);
        }
        ExitCode::from(self.kind as u8)
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Failure {
        Failure::new(Kind::Usage, error)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        let kind = match &error {
            CallError::NoServer { .. } => Kind::NotRunning,
            CallError::Failed(failed) => match failed.code.as_str() {
                "not-found" => Kind::NotFound,
                "exists" => Kind::Exists,
                "usage" => Kind::Usage,
                "damage" => Kind::Damage,
                _ => Kind::Failed,
            },
            CallError::Lost(_) | CallError::BadFrame(_) => Kind::Failed,
        };
        match &error {
            CallError::NoServer { path, source } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                let text = format!(
                    "{}: permission denied; run this as root or as the server's user",
                    path.display()
                );
                Failure::failed(text)
            }
            CallError::NoServer { path, .. } => Failure::new(
                kind,
                format!(
                    "no server runs on this data folder ({}); start it with: rookery serve",
                    path.display()
                ),
            ),
            _ => Failure::new(kind, error),
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Something that fits no other kind, and what caused it.
pub(crate) fn failed(what: impl fmt::Display, error: &dyn std::error::Error) -> Failure {
    Failure::failed(format!("{what}: {}", with_causes(error)))
}
