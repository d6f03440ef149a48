//! What an operator's tools ask: metrics and health over HTTP, and the local socket of the command line.
//!
//! Invariants:
//! - HTTP is read-only, and tells nothing of users or mailboxes.
//! - The local socket answers root and the server's own user, and nobody else.
//! - Everything here is bounded: connections, frames, and what waits to be sent.

pub mod http;
pub mod process;
pub mod socket;

pub use http::{AdminState, MetricsError, Readiness, install_metrics, router, serve};
pub use metrics_exporter_prometheus::PrometheusHandle;
