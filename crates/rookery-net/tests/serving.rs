//! Listeners, the accept loop, the gate and the drain, over real sockets.
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::BytesMut;
use rookery_net::{
    BindError, Connection, ConnectionLimits, Door, Drain, Gate, ListenOptions, ListenSpec, Listener, Local,
    Peer, Service, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const LONG: Duration = Duration::from_secs(20);
const TEST: Service = Service { protocol: "test", refusal: "* BYE too many\r\n", shut: "* BYE shut\r\n" };

fn tcp(text: &str) -> Listener {
    Listener::bind(&text.parse().unwrap()).unwrap()
}

fn addr(listener: &Listener) -> std::net::SocketAddr {
    listener.local().unwrap().addr().unwrap()
}

/// Echoes until end or drain.
async fn echo(accepted: rookery_net::Accepted) {
    let drain = accepted.drain;
    let _permit = accepted.permit;
    let mut connection = Connection::new(accepted.stream);
    let mut input = BytesMut::new();
    loop {
        tokio::select! {
            read = connection.read_some(&mut input, LONG) => match read {
                Ok(octets) if octets > 0 => {
                    assert_ne!(&input[..], b"panic");
                    connection.out().extend_from_slice(&input.split());
                }
                _ => return,
            },
            () = drain.draining() => {
                connection.out().extend_from_slice(b"BYE");
                let _ = connection.close().await;
                return;
            }
        }
        if connection.flush().await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn both_families_share_a_port() {
    let v6 = tcp("[::]:0");
    let port = addr(&v6).port();
    let v4 = tcp(&format!("0.0.0.0:{port}"));
    let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let stream = v4.accept().await.unwrap();
    assert_eq!(stream.peer(), Peer::Ip(client.local_addr().unwrap()));
    assert_eq!(stream.local(), &Local::Ip(client.peer_addr().unwrap()));
    let _client = TcpStream::connect(("::1", port)).await.unwrap();
    assert!(v6.accept().await.unwrap().peer().is_loopback());
    assert!(matches!(Listener::bind(&ListenSpec::Tcp(addr(&v4))), Err(BindError::Refused { .. })));
}

#[tokio::test]
async fn a_unix_socket_is_replaced_only_when_nobody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let spec = ListenSpec::Unix(path.clone());
    let options = ListenOptions { unix_mode: 0o600, ..ListenOptions::default() };
    let listener = Listener::bind_with(&spec, options).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(listener.local().unwrap(), Local::Unix(path.clone()));
    assert!(matches!(Listener::bind(&spec), Err(BindError::Answered(_))));
    let _client = UnixStream::connect(&path).await.unwrap();
    // The bind attempt above has connected too.
    let Peer::Unix { uid: Some(peer) } = listener.accept().await.unwrap().peer() else {
        panic!("the kernel does not say who connected");
    };
    assert_eq!(peer, std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path).unwrap()));
    drop(listener);
    assert!(!path.exists());

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead server leaves its socket");
    let old = Listener::bind(&spec).unwrap();
    std::fs::remove_file(&path).unwrap();
    let new = Listener::bind(&spec).unwrap();
    drop(old);
    assert!(path.exists(), "the old listener must not remove the new one's file");
    drop(new);

    std::fs::write(&path, "letters").unwrap();
    assert!(matches!(Listener::bind(&spec), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"letters");
}

#[tokio::test]
async fn clients_are_served_and_then_told_to_go() {
    let listener = tcp("127.0.0.1:0");
    let addr = addr(&listener);
    let drain = Drain::new();
    let gate = Gate::new(ConnectionLimits::default());
    let server = tokio::spawn(serve(listener, TEST, gate.clone(), drain.clone(), echo));
    let mut clients = Vec::new();
    for n in 0..20u8 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(&[n; 10]).await.unwrap();
        let mut answer = [0; 10];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [n; 10]);
        clients.push(client);
    }
    // The accept loop itself is one that the drain waits for.
    assert_eq!((drain.guards(), gate.total(), gate.unauthenticated(addr.ip())), (21, 20, 20));
    // A panicking session costs itself only.
    clients[0].write_all(b"panic").await.unwrap();
    assert_eq!(clients[0].read(&mut [0; 9]).await.unwrap_or(0), 0);
    drop(clients.remove(0));
    assert_eq!(drain.shut_down(LONG).await, 0);
    server.await.unwrap();
    for mut client in clients {
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"BYE");
    }
    assert_eq!(gate.total(), 0);
    assert!(TcpStream::connect(addr).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn what_does_not_end_is_cut_off() {
    let listener = tcp("127.0.0.1:0");
    let addr = addr(&listener);
    let drain = Drain::new();
    let gate = Gate::new(ConnectionLimits::default());
    let server = tokio::spawn(serve(listener, TEST, gate, drain.clone(), |accepted| async move {
        let mut accepted = accepted;
        accepted.stream.write_all(b"x").await.unwrap();
        std::future::pending::<()>().await;
        drop(accepted);
    }));
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    assert_eq!(drain.shut_down(Duration::from_millis(50)).await, 1);
    server.await.unwrap();
    assert_eq!(drain.guards(), 0);
    assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn too_many_are_told_so() {
    let listener = tcp("127.0.0.1:0");
    let addr = addr(&listener);
    let drain = Drain::new();
    let limits = ConnectionLimits { total_max: 10, unauthenticated_per_address_max: 2 };
    let server = tokio::spawn(serve(listener, TEST, Gate::new(limits), drain.clone(), echo));
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(b"a").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        held.push(client);
    }
    let mut refused = Vec::new();
    TcpStream::connect(addr).await.unwrap().read_to_end(&mut refused).await.unwrap();
    assert_eq!(refused, b"* BYE too many\r\n");
    drain.shut_down(LONG).await;
    server.await.unwrap();
}

/// Whether a new client is served.
async fn is_served(at: std::net::SocketAddr) -> bool {
    // A refusal may come at once, and others have to do something.
    tokio::task::yield_now().await;
    let Ok(mut client) = TcpStream::connect(at).await else { return false };
    let mut answer = [0; 4];
    for _ in 0..2 {
        if client.write_all(b"ping").await.is_err() || client.read_exact(&mut answer).await.is_err() {
            return false;
        }
        // The second time the server waits already.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    true
}

#[tokio::test]
async fn a_door_refuses_new_clients_and_sends_away_those_inside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let (drain, gate) = (Drain::new(), Gate::new(ConnectionLimits::default()));
    let door = Door::new(drain.clone());
    // A port that the kernel has chosen is not kept at rest.
    let at = addr(&tcp("127.0.0.1:0"));
    let listener = Listener::bind(&ListenSpec::Tcp(at)).unwrap();
    let serving = tokio::spawn(serve(listener, TEST, gate.clone(), door.clone(), echo));
    let unix = Listener::bind(&ListenSpec::Unix(path.clone())).unwrap();
    let also = tokio::spawn(serve(unix, TEST, gate.clone(), door.clone(), echo));
    for _ in 0..2 {
        let mut inside = TcpStream::connect(at).await.unwrap();
        inside.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        inside.read_exact(&mut answer).await.unwrap();
        door.shut();
        assert!(!door.is_open() && door.inside() >= 1);
        while is_served(at).await {}
        let mut refused = UnixStream::connect(&path).await.unwrap();
        let mut told = Vec::new();
        refused.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, b"* BYE shut\r\n");
        inside.write_all(b"pong").await.unwrap();
        inside.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"pong", "who is inside goes on");
        assert_eq!(door.empty(LONG, true).await, 0);
        let mut told = Vec::new();
        inside.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, b"BYE");
        assert_eq!(door.inside(), 0);
        door.open();
        while !is_served(at).await {}
    }
    // Who does not leave is aborted, and the server goes on.
    let stubborn = tcp("127.0.0.1:0");
    let there = addr(&stubborn);
    let deaf = tokio::spawn(serve(stubborn, TEST, gate, door.clone(), |accepted| async move {
        let _accepted = accepted;
        std::future::pending::<()>().await;
    }));
    let mut client = TcpStream::connect(there).await.unwrap();
    while door.inside() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(door.empty(Duration::from_millis(50), false).await, 1);
    assert_eq!((client.read(&mut [0]).await.unwrap(), door.inside()), (0, 0));
    door.open();
    while !is_served(at).await {}
    drain.shut_down(LONG).await;
    for task in [serving, also, deaf] {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_door_that_is_shut_from_the_start_is_opened() {
    let options = ListenOptions { listens: false, ..ListenOptions::default() };
    let at = addr(&tcp("127.0.0.1:0"));
    let listener = Listener::bind_with(&ListenSpec::Tcp(at), options).unwrap();
    assert!(TcpStream::connect(at).await.is_err());
    let (drain, gate) = (Drain::new(), Gate::new(ConnectionLimits::default()));
    let door = Door::new(drain.clone());
    door.shut();
    let serving = tokio::spawn(serve(listener, TEST, gate, door.clone(), echo));
    assert!(!is_served(at).await);
    door.open();
    while !is_served(at).await {}
    drain.shut_down(LONG).await;
    serving.await.unwrap();
}
