//! Metrics and log lines of sessions. No mailbox, no user and no content is ever a label.
//!
//! Metrics: `rookery_imap_commands_total{command,result}`, `rookery_imap_command_seconds{command}`,
//! `rookery_imap_sessions` (open connections), `rookery_imap_idle_sessions`.

use rookery_codec::imap::Command;
use rookery_net::ConnId;
use rookery_types::UserName;
use std::time::Instant;

/// A command's name for metrics and logs: a closed set.
pub(crate) fn verb(command: &Command) -> &'static str {
    match command {
        Command::Capability => "CAPABILITY",
        Command::Noop => "NOOP",
        Command::Logout => "LOGOUT",
        Command::Id(_) => "ID",
        Command::StartTls => "STARTTLS",
        Command::Login { .. } => "LOGIN",
        Command::Authenticate { .. } => "AUTHENTICATE",
        Command::Enable(_) => "ENABLE",
        Command::Select { read_only: false, .. } => "SELECT",
        Command::Select { read_only: true, .. } => "EXAMINE",
        Command::Create { .. } => "CREATE",
        Command::Delete { .. } => "DELETE",
        Command::Rename { .. } => "RENAME",
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
        Command::Fetch(fetch) if fetch.uid => "UID FETCH",
        Command::Fetch(_) => "FETCH",
        Command::Store(store) if store.uid => "UID STORE",
        Command::Store(_) => "STORE",
        Command::Copy { uid: true, .. } => "UID COPY",
        Command::Copy { .. } => "COPY",
        Command::Move { uid: true, .. } => "UID MOVE",
        Command::Move { .. } => "MOVE",
        Command::GetQuota { .. } => "GETQUOTA",
        Command::GetQuotaRoot { .. } => "GETQUOTAROOT",
        Command::SetQuota { .. } => "SETQUOTA",
        _ => "other",
    }
}

/// One command under way.
pub(crate) struct Timing {
    verb: &'static str,
    tag: Box<str>,
    began: Instant,
}

impl Timing {
    pub(crate) fn start(verb: &'static str, tag: &str) -> Timing {
        Timing { verb, tag: tag.into(), began: Instant::now() }
    }

    pub(crate) fn end(self, result: &'static str) {
        let took = self.began.elapsed();
        metrics::counter!("rookery_imap_commands_total", "command" => self.verb, "result" => result)
            .increment(1);
        metrics::histogram!("rookery_imap_command_seconds", "command" => self.verb)
            .record(took.as_secs_f64());
        tracing::debug!(tag = &*self.tag, verb = self.verb, result, micros = took.as_micros(), "command");
    }
}

/// A command that could not be read.
pub(crate) fn bad_syntax() {
    metrics::counter!("rookery_imap_commands_total", "command" => "none", "result" => "badsyntax")
        .increment(1);
}

/// What is said of a connection when it ends, and its place in the gauge.
pub(crate) struct ConnectionEnd {
    id: ConnId,
    user: Option<Box<str>>,
    began: Instant,
    pub(crate) commands: u64,
    why: &'static str,
}

impl ConnectionEnd {
    pub(crate) fn new(id: ConnId) -> ConnectionEnd {
        metrics::gauge!("rookery_imap_sessions").increment(1.0);
        ConnectionEnd { id, user: None, began: Instant::now(), commands: 0, why: "aborted" }
    }

    pub(crate) fn user(&mut self, user: &UserName) {
        self.user = Some(user.as_str().into());
    }

    pub(crate) fn end(&mut self, why: &'static str) {
        self.why = why;
    }
}

impl Drop for ConnectionEnd {
    fn drop(&mut self) {
        metrics::gauge!("rookery_imap_sessions").decrement(1.0);
        tracing::info!(
            id = %self.id,
            user = self.user.as_deref().unwrap_or(""),
            commands = self.commands,
            seconds = self.began.elapsed().as_secs(),
            why = self.why,
            "connection ended"
        );
    }
}

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
