//! Measures what an idle plain connection costs this process, task included, after it has echoed 2000 octets:
//! `cargo run --example idle_memory [connections]`. The clients are bare sockets without memory of their own;
//! each connection takes two file descriptors.
#![allow(clippy::print_stdout, missing_docs)]

use std::time::Duration;

use bytes::BytesMut;
use rookery_net::{Connection, ConnectionLimits, Drain, Gate, Listener, Service, serve};

/// Octets of one session's future.
static SESSION: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

fn resident_octets() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[tokio::main]
async fn main() {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5_000);
    let listener = Listener::bind(&"127.0.0.1:0".parse().expect("a constant")).expect("a free port");
    let addr = listener.local().ok().and_then(|local| local.addr()).expect("a TCP listener");
    let limits = ConnectionLimits { total_max: count, unauthenticated_per_address_max: count };
    let gate = Gate::new(limits);
    let service = Service { protocol: "idle", refusal: "" };
    tokio::spawn(serve(listener, service, gate.clone(), Drain::new(), |accepted| {
        let session = async move {
            let drain = accepted.drain;
            let _permit = accepted.permit;
            let mut connection = Connection::new(accepted.stream);
            let mut input = BytesMut::new();
            loop {
                tokio::select! {
                    read = connection.read_some(&mut input, Duration::from_secs(1800)) => match read {
                        Ok(octets) if octets > 0 => connection.out().extend_from_slice(&input.split()),
                        _ => return,
                    },
                    () = drain.draining() => return,
                }
                if connection.flush().await.is_err() {
                    return;
                }
            }
        };
        SESSION.store(std::mem::size_of_val(&session), std::sync::atomic::Ordering::Relaxed);
        session
    }));
    let before = resident_octets();
    let clients = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = std::net::TcpStream::connect(addr).expect("accepted");
            client.write_all(&[b'x'; 2000]).expect("sent");
            client.read_exact(&mut [0; 2000]).expect("echoed");
            clients.push(client);
        }
        clients
    })
    .await
    .expect("no panic");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = resident_octets();
    println!(
        "{} connections: {} octets each, of which {} are the session's future and {} its connection",
        gate.total(),
        after.saturating_sub(before) / u64::try_from(count).unwrap_or(1).max(1),
        SESSION.load(std::sync::atomic::Ordering::Relaxed),
        size_of::<Connection>()
    );
    drop(clients);
}
