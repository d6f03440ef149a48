//! Metrics and log lines of sessions. No mailbox, no user and no content is ever a label.
//!
//! Metrics: `rookery_imap_commands_total{command,result}`, `rookery_imap_command_seconds{command}`,
//! `rookery_imap_sessions` (open connections), `rookery_imap_idle_sessions`.

use rookery_codec::imap::Command;
use rookery_net::MetricNames;

/// A command's name for metrics and logs: a closed set.
pub(crate) fn verb(command: &Command) -> &'static str {
    match command {
        Command::Capability => "CAPABILITY",
        Command::Noop => "NOOP",
        Command::Logout => "LOGOUT",
        Command::Id(_) => "ID",
        Command::StartTls => "STARTTLS",
        Command::Compress { .. } => "COMPRESS",
        Command::Unauthenticate => "UNAUTHENTICATE",
        Command::Login { .. } => "LOGIN",
        Command::Authenticate { .. } => "AUTHENTICATE",
        Command::Enable(_) => "ENABLE",
        Command::Select { read_only: false, .. } => "SELECT",
        Command::Select { read_only: true, .. } => "EXAMINE",
        Command::Create { .. } => "CREATE",
        Command::Delete { .. } => "DELETE",
        Command::Rename { .. } => "RENAME",
        Command::Xfer { .. } => "XFER",
        Command::Subscribe { .. } => "SUBSCRIBE",
        Command::Unsubscribe { .. } => "UNSUBSCRIBE",
        Command::List(_) => "LIST",
        Command::Lsub { .. } => "LSUB",
        Command::Namespace => "NAMESPACE",
        Command::Status { .. } => "STATUS",
        Command::Idle => "IDLE",
        Command::Check => "CHECK",
        Command::Close => "CLOSE",
        Command::Unselect => "UNSELECT",
        Command::Expunge { uids: None } => "EXPUNGE",
        Command::Expunge { uids: Some(_) } => "UID EXPUNGE",
        Command::Search(search) if search.uid => "UID SEARCH",
        Command::Search(_) => "SEARCH",
        Command::Sort(sort) if sort.uid => "UID SORT",
        Command::Sort(_) => "SORT",
        Command::Thread(thread) if thread.uid => "UID THREAD",
        Command::Thread(_) => "THREAD",
        Command::Fetch(fetch) if fetch.uid => "UID FETCH",
        Command::Fetch(_) => "FETCH",
        Command::Store(store) if store.uid => "UID STORE",
        Command::Store(_) => "STORE",
        Command::Copy { uid: true, .. } => "UID COPY",
        Command::Copy { .. } => "COPY",
        Command::Move { uid: true, .. } => "UID MOVE",
        Command::Move { .. } => "MOVE",
        Command::GetMetadata { .. } => "GETMETADATA",
        Command::SetMetadata { .. } => "SETMETADATA",
        Command::Notify(_) => "NOTIFY",
        Command::GetQuota { .. } => "GETQUOTA",
        Command::GetQuotaRoot { .. } => "GETQUOTAROOT",
        Command::SetQuota { .. } => "SETQUOTA",
        _ => "other",
    }
}

/// What is counted of commands and connections.
pub(crate) const NAMES: MetricNames = MetricNames {
    commands: "rookery_imap_commands_total",
    seconds: "rookery_imap_command_seconds",
    sessions: "rookery_imap_sessions",
};

/// One session in IDLE, in the gauge.
pub(crate) struct Idling(());

impl Idling {
    pub(crate) fn new() -> Idling {
        metrics::gauge!("rookery_imap_idle_sessions").increment(1.0);
        Idling(())
    }
}

impl Drop for Idling {
    fn drop(&mut self) {
        metrics::gauge!("rookery_imap_idle_sessions").decrement(1.0);
    }
}
