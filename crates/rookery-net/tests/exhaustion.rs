//! What happens when the process has no file descriptor left. Alone in its file, since the limit holds for the
//! whole process.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use rookery_net::{ConnectionLimits, Drain, Gate, Listener, Service, serve};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn accepting_goes_on_when_descriptors_come_back() {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local().unwrap().addr().unwrap();
    // The kernel completes the connections; nobody has accepted them yet.
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(TcpStream::connect(addr).await.unwrap());
    }
    // Descriptors are given out from the lowest: room for four more.
    let next = std::fs::File::open("/proc/self/status").unwrap();
    let lowest = std::os::fd::AsRawFd::as_raw_fd(&next);
    drop(next);
    let limit = Rlimit { current: Some(u64::try_from(lowest).unwrap() + 4), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();

    let drain = Drain::new();
    let gate = Gate::new(ConnectionLimits::default());
    let service = Service { protocol: "test", refusal: "", shut: "" };
    let server = tokio::spawn(serve(listener, service, gate.clone(), drain.clone(), |accepted| async move {
        let (mut stream, _permit, _drain) = (accepted.stream, accepted.permit, accepted.drain);
        stream.write_all(b"hello").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    }));
    while gate.total() < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(gate.total(), 4, "the others wait");
    for mut client in clients {
        let mut hello = [0; 5];
        let greeting = client.read_exact(&mut hello);
        tokio::time::timeout(Duration::from_secs(20), greeting).await.unwrap().unwrap();
    }
    assert_eq!(drain.shut_down(Duration::from_secs(20)).await, 0);
    server.await.unwrap();
}
