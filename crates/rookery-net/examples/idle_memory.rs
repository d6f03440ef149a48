//! Measures what an idle connection costs this process, task included, after it has echoed 2000 octets:
//! `cargo run --example idle_memory [connections] [tls]`. The clients are bare sockets without memory of their
//! own; each connection takes two file descriptors.
#![allow(clippy::print_stdout, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use rookery_net::{
    Accepted, Connection, ConnectionLimits, Drain, Gate, Listener, ServerTls, Service, serve, tls,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

/// Octets of one session's future.
static SESSION: AtomicUsize = AtomicUsize::new(0);

fn resident_octets() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

async fn session(accepted: Accepted, tls: Option<Arc<ServerTls>>) {
    let drain = accepted.drain;
    let _permit = accepted.permit;
    let mut connection = Connection::new(accepted.stream);
    if let Some(tls) = tls {
        // In a box, so that the handshake's future is not part of the session's for ever.
        let acceptor = tls.acceptor();
        if Box::pin(connection.start_tls(&acceptor, BytesMut::new())).await.is_err() {
            return;
        }
    }
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
}

fn echo(stream: &mut (impl Read + Write)) {
    stream.write_all(&[b'x'; 2000]).expect("sent");
    stream.read_exact(&mut [0; 2000]).expect("echoed");
}

/// Connects, has an echo, and keeps nothing but the socket.
fn client(addr: SocketAddr, tls: Option<&Arc<rustls::ClientConfig>>) -> TcpStream {
    let mut tcp = TcpStream::connect(addr).expect("accepted");
    match tls {
        None => {
            echo(&mut tcp);
            tcp
        }
        Some(config) => {
            let name = ServerName::try_from("localhost").expect("a constant");
            let session = rustls::ClientConnection::new(Arc::clone(config), name).expect("a client");
            let mut stream = rustls::StreamOwned::new(session, tcp);
            echo(&mut stream);
            stream.sock
        }
    }
}

fn certificate() -> (Arc<ServerTls>, Arc<rustls::ClientConfig>) {
    let dir = tempfile::tempdir().expect("a folder");
    let files = tls::self_signed(&["localhost".to_owned()], dir.path()).expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.cert).expect("PEM")).expect("a certificate");
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
    (Arc::new(ServerTls::load(files.cert, files.key).expect("loadable")), Arc::new(config))
}

#[tokio::main]
async fn main() {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5_000);
    let (server_tls, client_tls) = std::env::args().nth(2).map(|_| certificate()).unzip();
    let listener = Listener::bind(&"127.0.0.1:0".parse().expect("a constant")).expect("a free port");
    let addr = listener.local().ok().and_then(|local| local.addr()).expect("a TCP listener");
    let limits = ConnectionLimits { total_max: count + 1, unauthenticated_per_address_max: count + 1 };
    let gate = Gate::new(limits);
    let service = Service { protocol: "idle", refusal: "", shut: "" };
    tokio::spawn(serve(listener, service, gate.clone(), Drain::new(), move |accepted| {
        let session = session(accepted, server_tls.clone());
        SESSION.store(size_of_val(&session), Ordering::Relaxed);
        session
    }));
    let measured = tokio::task::spawn_blocking(move || {
        let mut clients = Vec::with_capacity(count + 1);
        clients.push(client(addr, client_tls.as_ref()));
        let before = resident_octets();
        clients.extend((0..count).map(|_| client(addr, client_tls.as_ref())));
        std::thread::sleep(Duration::from_millis(500));
        resident_octets().saturating_sub(before)
    });
    let octets = measured.await.expect("no panic");
    println!(
        "{count} connections: {} octets each, of which {} are the session's future and {} its connection",
        octets / u64::try_from(count).unwrap_or(1).max(1),
        SESSION.load(Ordering::Relaxed),
        size_of::<Connection>()
    );
}
