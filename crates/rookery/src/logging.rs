//! The log: lines on standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Begins to log. A second call changes nothing.
pub(crate) fn start(config: &Config) {
    let named = std::env::var("ROOKERY_LOG").ok().filter(|text| !text.is_empty());
    let level = named.as_deref().unwrap_or(&config.log.level);
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match config.log.format {
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => {
            builder.json().with_target(true).with_current_span(true).with_span_list(false).try_init()
        }
    };
}
