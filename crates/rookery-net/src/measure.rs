//! Metrics and log lines of sessions that obey commands. No user and no content is ever a label.

use std::time::Instant;

use crate::serve::ConnId;

/// What a protocol's metrics are called.
#[derive(Clone, Copy, Debug)]
pub struct MetricNames {
    /// The counter of commands, with the labels `command` and `result`.
    pub commands: &'static str,
    /// The histogram of what commands take, with the label `command`.
    pub seconds: &'static str,
    /// The gauge of open connections.
    pub sessions: &'static str,
}

impl MetricNames {
    /// Counts what could not be read as a command.
    pub fn bad_syntax(&self) {
        metrics::counter!(self.commands, "command" => "none", "result" => "badsyntax").increment(1);
    }
}

/// One command under way.
#[derive(Debug)]
pub struct Timing {
    names: &'static MetricNames,
    verb: &'static str,
    tag: Box<str>,
    began: Instant,
}

impl Timing {
    /// Begins. `verb` is of a closed set; `tag` is for the log alone.
    pub fn start(names: &'static MetricNames, verb: &'static str, tag: &str) -> Timing {
        Timing { names, verb, tag: tag.into(), began: Instant::now() }
    }

    /// Ends, with a result of a closed set.
    pub fn end(self, result: &'static str) {
        let took = self.began.elapsed();
        metrics::counter!(self.names.commands, "command" => self.verb, "result" => result).increment(1);
        metrics::histogram!(self.names.seconds, "command" => self.verb).record(took.as_secs_f64());
        tracing::debug!(tag = &*self.tag, verb = self.verb, result, micros = took.as_micros(), "command");
    }
}

/// What is said of a connection when it ends, and its place in the gauge.
#[derive(Debug)]
pub struct ConnectionEnd {
    names: &'static MetricNames,
    id: ConnId,
    user: Option<Box<str>>,
    began: Instant,
    /// Commands answered.
    pub commands: u64,
    why: &'static str,
}

impl ConnectionEnd {
    /// At the connection's start.
    pub fn new(names: &'static MetricNames, id: ConnId) -> ConnectionEnd {
        metrics::gauge!(names.sessions).increment(1.0);
        ConnectionEnd { names, id, user: None, began: Instant::now(), commands: 0, why: "aborted" }
    }

    /// The connection's id.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// Who has logged in.
    pub fn user(&mut self, user: &str) {
        self.user = Some(user.into());
    }

    /// Why it ends.
    pub fn end(&mut self, why: &'static str) {
        self.why = why;
    }
}

impl Drop for ConnectionEnd {
    fn drop(&mut self) {
        metrics::gauge!(self.names.sessions).decrement(1.0);
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
