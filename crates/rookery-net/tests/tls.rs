//! Certificates, handshakes, STARTTLS and reloading, with a real rustls client.
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rookery_net::{
    Connection, ListenSpec, Listener, ServerTls, StartTlsError, Stream, TlsError, TlsFiles, tls,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

const LONG: Duration = Duration::from_secs(20);

fn certificate(dir: &Path) -> tls::SelfSigned {
    tls::self_signed(&["mail.example.org".to_owned(), "127.0.0.1".to_owned()], dir).unwrap()
}

fn load(dir: &Path) -> ServerTls {
    let files = certificate(dir);
    ServerTls::load(files.cert, files.key).unwrap()
}

/// A client that trusts exactly the certificate in `dir`.
fn connector(dir: &Path, versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("self-signed.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    connector: &TlsConnector,
    stream: S,
) -> std::io::Result<tokio_rustls::client::TlsStream<S>> {
    connector.connect(ServerName::try_from("mail.example.org").unwrap(), stream).await
}

#[test]
fn a_certificate_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = certificate(dir.path());
    assert!(first.newly_made);
    assert_eq!(std::fs::metadata(&first.key).unwrap().permissions().mode() & 0o777, 0o600);
    let key = std::fs::read(&first.key).unwrap();
    let second = certificate(dir.path());
    assert!(!second.newly_made);
    assert_eq!(std::fs::read(&first.key).unwrap(), key);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    // A crash between the two files leaves a key alone: both are made anew.
    std::fs::remove_file(&first.cert).unwrap();
    assert!(certificate(dir.path()).newly_made);
    load(dir.path());
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificate(dir.path());
    let other = tempfile::tempdir().unwrap();
    let others = certificate(other.path());
    let garbage = dir.path().join("garbage");
    std::fs::write(&garbage, "no pem\n").unwrap();
    let missing = dir.path().join("missing");
    for (cert, key, named) in [
        (&missing, &files.key, &missing),
        (&files.cert, &missing, &missing),
        (&garbage, &files.key, &garbage),
        (&files.cert, &garbage, &garbage),
        (&files.cert, &files.cert, &files.cert),
        (&files.cert, &others.key, &others.key),
    ] {
        let Err(error) = ServerTls::load(cert, key) else { panic!("{cert:?} {key:?} were taken") };
        assert!(error.to_string().contains(named.to_str().unwrap()), "{error}");
    }
    let Err(error) = ServerTls::load(&files.cert, &others.key) else { panic!("mixed pair was taken") };
    assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
}

#[tokio::test]
async fn octets_pass_under_both_versions_over_tcp_and_unix() {
    let dir = tempfile::tempdir().unwrap();
    let server = load(dir.path());
    let unix = ListenSpec::Unix(dir.path().join("sock"));
    for spec in [&"127.0.0.1:0".parse().unwrap(), &"[::1]:0".parse().unwrap(), &unix] {
        let listener = Listener::bind(spec).unwrap();
        for (version, name) in [(&rustls::version::TLS13, "TLSv1.3"), (&rustls::version::TLS12, "TLSv1.2")] {
            let connector = connector(dir.path(), &[version]);
            let local = listener.local().unwrap();
            let client = async {
                let mut tls: Box<dyn Both> = match local.addr() {
                    Some(addr) => {
                        let tcp = tokio::net::TcpStream::connect(addr).await.unwrap();
                        Box::new(shake(&connector, tcp).await.unwrap())
                    }
                    None => {
                        let path = dir.path().join("sock");
                        let stream = tokio::net::UnixStream::connect(path).await.unwrap();
                        Box::new(shake(&connector, stream).await.unwrap())
                    }
                };
                tls.write_all(b"a1 NOOP\r\n").await.unwrap();
                let mut all = Vec::new();
                tls.read_to_end(&mut all).await.unwrap();
                assert_eq!(all.len(), 100_009);
                assert_eq!(&all[..9], b"a1 NOOP\r\n");
            };
            let serve = async {
                let stream = listener.accept().await.unwrap();
                let stream = stream.start_tls(&server.acceptor(), BytesMut::new()).await.unwrap();
                let info = stream.tls_info().unwrap();
                assert!(stream.is_tls());
                assert_eq!((info.version, info.server_name.as_deref()), (name, Some("mail.example.org")));
                let mut connection = Connection::new(stream);
                let mut input = BytesMut::new();
                while input.len() < 9 {
                    connection.read_some(&mut input, LONG).await.unwrap();
                }
                connection.out().extend_from_slice(&input);
                connection.push_body(Bytes::from(vec![b'x'; 100_000]));
                connection.close().await.unwrap();
            };
            tokio::join!(client, serve);
        }
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

#[tokio::test]
async fn what_is_injected_behind_starttls_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = load(dir.path());

    // The injected command came with STARTTLS and was read with it.
    let (near, _far) = tokio::io::duplex(1024);
    let injected = BytesMut::from(&b"a2 LOGIN mallory x\r\n"[..]);
    let refused = Stream::from(near).start_tls(&server.acceptor(), injected).await;
    assert!(matches!(refused, Err(StartTlsError::PlaintextBehind { octets: 20 })));

    // It came a moment later and waits in the socket, in front of a good handshake.
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    far.write_all(b"a2 LOGIN mallory x\r\n").await.unwrap();
    let connector = connector(dir.path(), &[&rustls::version::TLS13]);
    let acceptor = server.acceptor();
    let mut connection = Connection::new(Stream::from(near));
    let (served, shaken) =
        tokio::join!(connection.start_tls(&acceptor, BytesMut::new()), shake(&connector, far));
    assert!(matches!(served, Err(StartTlsError::Handshake(_))));
    assert!(shaken.is_err());
}

#[tokio::test]
async fn tls_is_started_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = load(dir.path());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = connector(dir.path(), &[&rustls::version::TLS13]);
    let acceptor = server.acceptor();
    let (served, _client) =
        tokio::join!(Stream::from(near).start_tls(&acceptor, BytesMut::new()), shake(&connector, far));
    let again = served.unwrap().start_tls(&acceptor, BytesMut::new()).await;
    assert!(matches!(again, Err(StartTlsError::AlreadyTls)));
}

#[tokio::test]
async fn a_client_that_just_hangs_up_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let server = load(dir.path());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = connector(dir.path(), &[&rustls::version::TLS13]);
    let acceptor = server.acceptor();
    let (served, client) =
        tokio::join!(Stream::from(near).start_tls(&acceptor, BytesMut::new()), shake(&connector, far));
    let mut connection = Connection::new(served.unwrap());
    drop(client.unwrap()); // without close_notify
    assert_eq!(connection.read_some(&mut BytesMut::new(), LONG).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_shakes_hands_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let server = load(dir.path());
    let (near, _far) = tokio::io::duplex(1024);
    let late = Stream::from(near).start_tls(&server.acceptor(), BytesMut::new()).await;
    assert!(matches!(late, Err(StartTlsError::Timeout)));
}

#[tokio::test]
async fn a_new_certificate_is_served_and_a_bad_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = load(dir.path());
    let old = connector(dir.path(), &[&rustls::version::TLS13]);
    assert!(!server.reload().unwrap());

    let good = std::fs::read(dir.path().join("self-signed.key")).unwrap();
    std::fs::write(dir.path().join("self-signed.key"), "half a ke").unwrap();
    assert!(server.reload().is_err());
    assert!(server.reload().is_err(), "it is tried again");
    assert!(accepts(&server, &old).await, "the old certificate is still served");
    std::fs::write(dir.path().join("self-signed.key"), good).unwrap();
    assert!(server.reload().unwrap());

    std::fs::remove_file(dir.path().join("self-signed.crt")).unwrap();
    assert!(certificate(dir.path()).newly_made);
    assert!(server.reload().unwrap());
    assert!(!accepts(&server, &old).await);
    assert!(accepts(&server, &connector(dir.path(), &[&rustls::version::TLS13])).await);
}

#[tokio::test]
async fn sessions_are_resumed_by_ticket_even_after_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let server = load(dir.path());
    let connector = connector(dir.path(), &[&rustls::version::TLS13]);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let acceptor = server.acceptor();
        let (served, shaken) =
            tokio::join!(Stream::from(near).start_tls(&acceptor, BytesMut::new()), shake(&connector, far));
        let mut client = shaken.unwrap();
        let mut connection = Connection::new(served.unwrap());
        connection.out().extend_from_slice(b"x");
        connection.flush().await.unwrap();
        client.read_exact(&mut [0]).await.unwrap(); // and the tickets before it
        kinds.push(client.get_ref().1.handshake_kind());
        let same = std::fs::read(dir.path().join("self-signed.crt")).unwrap();
        std::fs::write(dir.path().join("self-signed.crt"), [same, b"\n".to_vec()].concat()).unwrap();
        assert!(server.reload().unwrap());
    }
    assert_eq!(kinds, [Some(rustls::HandshakeKind::Full), Some(rustls::HandshakeKind::Resumed)]);
}

async fn accepts(server: &ServerTls, connector: &TlsConnector) -> bool {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let acceptor = server.acceptor();
    let (served, shaken) =
        tokio::join!(Stream::from(near).start_tls(&acceptor, BytesMut::new()), shake(connector, far));
    served.is_ok() && shaken.is_ok()
}

/// Whether the server shows a client that asks for `name` exactly the certificate in `dir`.
async fn is_shown(server: &ServerTls, dir: &Path, name: &'static str) -> bool {
    let (client, end) = tokio::io::duplex(64 * 1024);
    let acceptor = server.acceptor();
    let served = tokio::spawn(async move { drop(acceptor.accept(end).await) });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let shaken = connector.connect(ServerName::try_from(name).unwrap(), client).await;
    drop(served.await);
    shaken.is_ok()
}

/// Makes a certificate for a name in a folder of its own, as ACME clients lay them out.
fn certificate_of(folder: &Path, name: &str) -> std::path::PathBuf {
    let place = folder.join(name.replace('*', "any"));
    std::fs::create_dir_all(&place).unwrap();
    let made = tls::self_signed(&[name.to_owned()], &place).unwrap();
    std::fs::rename(made.cert, place.join("fullchain.pem")).unwrap();
    std::fs::rename(made.key, place.join("privkey.pem")).unwrap();
    place.join("fullchain.pem")
}

#[tokio::test]
async fn each_client_is_shown_the_certificate_of_the_name_it_asks_for() {
    let (dir, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = certificate(dir.path());
    let one = certificate_of(folder.path(), "imap.one.test");
    let wild = certificate_of(folder.path(), "*.two.test");
    // A certificate that cannot be read takes nobody else's away.
    let broken = certificate_of(folder.path(), "broken.test");
    std::fs::write(&broken, "no pem\n").unwrap();
    let server = ServerTls::load_files(TlsFiles {
        cert: first.cert.clone(),
        key: first.key,
        folder: Some(folder.path().to_owned()),
        client_ca: None,
    })
    .unwrap();
    assert!(is_shown(&server, &first.cert, "mail.example.org").await);
    assert!(is_shown(&server, &one, "imap.one.test").await);
    assert!(is_shown(&server, &wild, "imap.two.test").await);
    assert!(!is_shown(&server, &wild, "a.imap.two.test").await, "a wildcard is for one label");
    assert!(!is_shown(&server, &one, "imap.three.test").await);
    // Another name's folder is seen at the next look.
    let three = certificate_of(folder.path(), "imap.three.test");
    assert!(server.reload().unwrap());
    assert!(is_shown(&server, &three, "imap.three.test").await);
    assert!(!server.reload().unwrap());
}
