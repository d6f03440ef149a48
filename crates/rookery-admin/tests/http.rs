//! Metrics and health over real connections.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rookery_admin::{AdminState, Readiness, install_metrics, serve};
use rookery_net::{Drain, Listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn get(addr: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_and_health() {
    let handle = install_metrics().unwrap();
    assert!(install_metrics().is_err());
    let ready = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&ready);
    let state = AdminState::new(handle, move || {
        if asked.load(Ordering::SeqCst) {
            Readiness::Ready
        } else {
            Readiness::NotReady("the store is being opened".to_owned())
        }
    });
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local().unwrap().addr().unwrap();
    let drain = Drain::new();
    let server = tokio::spawn(serve(listener, state, drain.clone()));

    assert!(get(addr, "/health/live").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let not_ready = get(addr, "/health/ready").await;
    assert!(not_ready.starts_with("HTTP/1.1 503 "), "{not_ready}");
    assert!(not_ready.ends_with("not ready: the store is being opened\n"), "{not_ready}");
    ready.store(true, Ordering::SeqCst);
    assert!(get(addr, "/health/ready").await.ends_with("\r\n\r\nready\n"));

    metrics::counter!("rookery_test_things_total", "result" => "ok").increment(3);
    metrics::histogram!("rookery_test_seconds").record(0.003);
    let text = get(addr, "/metrics").await;
    for expected in [
        "content-type: text/plain; version=0.0.4",
        "rookery_test_things_total{result=\"ok\"} 3\n",
        "rookery_test_seconds_bucket{le=\"0.005\"} 1\n",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_start_time_seconds ",
        "rookery_process_uptime_seconds ",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    assert!(get(addr, "/nothing").await.starts_with("HTTP/1.1 404 "));

    // An idle keep-alive connection does not hold the end up.
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 512]).await.unwrap() > 0);
    assert_eq!(drain.shut_down(Duration::from_secs(10)).await, 0);
    server.await.unwrap().unwrap();
}
