//! Metrics of sessions. No user and no content is ever a label.
//!
//! Metrics: `rookery_pop3_commands_total{command,result}`, `rookery_pop3_command_seconds{command}`,
//! `rookery_pop3_sessions` (open connections).

use rookery_codec::pop3::Command;
use rookery_net::MetricNames;

/// What is counted of commands and connections.
pub(crate) const NAMES: MetricNames = MetricNames {
    commands: "rookery_pop3_commands_total",
    seconds: "rookery_pop3_command_seconds",
    sessions: "rookery_pop3_sessions",
};

/// A command's name for metrics and logs: a closed set.
pub(crate) fn verb(command: &Command) -> &'static str {
    match command {
        Command::Capa => "CAPA",
        Command::Stls => "STLS",
        Command::Utf8 => "UTF8",
        Command::User(_) => "USER",
        Command::Pass(_) => "PASS",
        Command::AuthList | Command::Auth { .. } => "AUTH",
        Command::Stat => "STAT",
        Command::List(_) => "LIST",
        Command::Uidl(_) => "UIDL",
        Command::Retr(_) => "RETR",
        Command::Top { .. } => "TOP",
        Command::Dele(_) => "DELE",
        Command::Noop => "NOOP",
        Command::Rset => "RSET",
        Command::Quit => "QUIT",
        Command::Unknown { .. } => "other",
    }
}
