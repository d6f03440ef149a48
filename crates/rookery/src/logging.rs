//! The log: lines on standard error, as text or JSON.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::config::{Config, LogFormat};

/// Sets which lines are written, once the log has begun.
static LEVEL: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Begins to log. A second call changes nothing.
pub(crate) fn start(config: &Config) {
    let (level, handle) = reload::Layer::new(filter(config));
    // A level that cannot be set is that of a log which has ended.
    let _ = LEVEL.set(Box::new(move |filter| drop(handle.reload(filter))));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(level);
    let _ = match config.log.format {
        LogFormat::Text => {
            registry.with(lines.with_target(false).with_ansi(std::io::stderr().is_terminal())).try_init()
        }
        LogFormat::Json => {
            let lines = lines.json().with_target(true).with_current_span(true).with_span_list(false);
            registry.with(lines).try_init()
        }
    };
}

/// Writes the lines that the configuration asks for from now on.
pub(crate) fn set_level(config: &Config) {
    if let Some(set) = LEVEL.get() {
        set(filter(config));
    }
}

fn filter(config: &Config) -> EnvFilter {
    let named = std::env::var("ROOKERY_LOG").ok().filter(|text| !text.is_empty());
    let level = named.as_deref().unwrap_or(&config.log.level);
    EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"))
}
