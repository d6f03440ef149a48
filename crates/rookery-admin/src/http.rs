//! `/metrics`, `/health/live` and `/health/ready`, on a listener that is the machine's own by default.
//!
//! Invariants:
//! - Answers are plain text.
//! - At most [`CONNECTIONS_MAX`] connections; a slow scraper holds its own place only.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rookery_net::{ConnectionLimits, Drain, Gate, Listener, Local, Peer, Permit, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 64;
/// The version of Prometheus's text form.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How often histograms are tidied, so that they do not grow without a scraper.
const UPKEEP: Duration = Duration::from_secs(5);
/// Upper bounds of the buckets of everything that ends in `_seconds`.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Metrics cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be recorded: {0}")]
pub struct MetricsError(String);

/// Makes this process record metrics. Once in a process, at its start; a second call fails.
pub fn install_metrics() -> Result<PrometheusHandle, MetricsError> {
    crate::process::uptime();
    PrometheusBuilder::new()
        .set_buckets_for_metric(metrics_exporter_prometheus::Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| MetricsError(error.to_string()))
}

/// Whether clients should be sent here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// They should.
    Ready,
    /// Not now. The text says why, to the operator.
    NotReady(String),
}

/// What the handlers share.
#[derive(Clone)]
pub struct AdminState {
    metrics: PrometheusHandle,
    readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
}

impl AdminState {
    /// Metrics from [`install_metrics`], and a question that is asked at each `/health/ready`. It must answer
    /// at once.
    pub fn new(
        metrics: PrometheusHandle,
        readiness: impl Fn() -> Readiness + Send + Sync + 'static,
    ) -> AdminState {
        AdminState { metrics, readiness: Arc::new(readiness) }
    }
}

/// The paths there are.
pub fn router(state: AdminState) -> Router {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(ready))
        .with_state(state)
}

async fn metrics_text(State(state): State<AdminState>) -> Response {
    crate::process::record();
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], state.metrics.render()).into_response()
}

async fn ready(State(state): State<AdminState>) -> (StatusCode, String) {
    match (state.readiness)() {
        Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Readiness::NotReady(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

/// Serves HTTP until the drain starts; then finishes the requests under way, and returns. Fails only if the
/// HTTP server itself does.
pub async fn serve(listener: Listener, state: AdminState, drain: Drain) -> io::Result<()> {
    let guard = drain.guard();
    let limits =
        ConnectionLimits { total_max: CONNECTIONS_MAX, unauthenticated_per_address_max: CONNECTIONS_MAX };
    let listener = HttpListener { listener, gate: Gate::new(limits) };
    let metrics = state.metrics.clone();
    let app = router(state);
    let stop = drain.clone();
    let serving = axum::serve(listener, app).with_graceful_shutdown(async move { stop.draining().await });
    let serving = std::future::IntoFuture::into_future(serving);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            ended = &mut serving => {
                drop(guard);
                return ended;
            }
            () = drain.cut_off() => return Ok(()),
            () = tokio::time::sleep(UPKEEP) => metrics.run_upkeep(),
        }
    }
}

/// Our listener as axum's.
struct HttpListener {
    listener: Listener,
    gate: Gate,
}

/// A stream that holds its place in the gate.
struct HttpStream {
    stream: Stream,
    _permit: Permit,
}

impl axum::serve::Listener for HttpListener {
    type Io = HttpStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (HttpStream, Peer) {
        loop {
            match self.listener.accept().await {
                Ok(stream) => {
                    let peer = stream.peer();
                    match self.gate.admit_peer(peer) {
                        Ok(permit) => return (HttpStream { stream, _permit: permit }, peer),
                        Err(reason) => tracing::debug!(%peer, %reason, "HTTP connection refused"),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(match self.listener.local()? {
            Local::Ip(addr) => Peer::Ip(addr),
            Local::Unix(_) => Peer::Unix { uid: None },
            Local::Memory => Peer::Memory,
        })
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
