//! Certificates, tokens, and how a node joins.

#![allow(clippy::unwrap_used, reason = "a failure shows where")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::{Node, ca, config, identity, is_up};
use rookery_link::token::BadToken;
use rookery_link::{
    Admission, Ca, Credentials, Duties, Fingerprint, Identity, JoinDesk, JoinError, JoinToken, Links,
    NewNode, TokenError, Tokens, join,
};
use rookery_types::NodeId;
use tempfile::TempDir;
use tokio::net::TcpListener;

const HOUR: Duration = Duration::from_secs(3600);

/// A directory node where others join; it gives ids from 100 and refuses whom the note does not allow.
struct Desk {
    ca: Arc<Ca>,
    tokens: Arc<Tokens>,
    node: Node,
    _folder: TempDir,
}

async fn desk(duties: Duties) -> Desk {
    let folder = TempDir::new().unwrap();
    let ca = Arc::new(ca());
    let tokens = Arc::new(Tokens::open(folder.path().join("tokens.json")).unwrap());
    let node = Node::start_with(&ca, 1, duties, config(1), None).await;
    let next = Arc::new(AtomicU64::new(100));
    let admit = move |new: NewNode, note: String| {
        let id = next.fetch_add(1, Ordering::Relaxed);
        let admission = match new.name.starts_with(&note) {
            true => Ok(Admission {
                identity: Identity {
                    node: new.node.unwrap_or(NodeId(id)),
                    name: new.name,
                    duties: new.duties,
                },
                facts: [b"you said ", &new.facts[..]].concat().into(),
            }),
            false => Err(format!("the token is for {note}")),
        };
        Box::pin(async move { admission }) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
    };
    let desk = JoinDesk::new(Arc::clone(&ca), Arc::clone(&tokens), Box::new(admit));
    node.links.set_join_desk(Some(Arc::new(desk)));
    Desk { ca, tokens, node, _folder: folder }
}

impl Desk {
    fn token(&self) -> JoinToken {
        self.token_valid(HOUR)
    }

    fn token_valid(&self, valid: Duration) -> JoinToken {
        let address = self.node.address.to_string();
        self.tokens.give(self.ca.fingerprint(), &address, "be", valid, SystemTime::now()).unwrap()
    }
}

fn new_node(name: &str) -> NewNode {
    let duties = Duties::SERVE.and(Duties::HOLD);
    NewNode { node: None, name: name.to_owned(), duties, facts: Bytes::from_static(b"link 127.0.0.1:1") }
}

#[tokio::test]
async fn a_node_joins_with_a_line_of_text_and_is_linked() {
    let desk = desk(Duties::ALL).await;
    let line = desk.token().to_string();
    assert!(!line.contains(char::is_whitespace), "{line}");
    let joined = join(&line.parse().unwrap(), new_node("be2.example")).await.unwrap();
    assert_eq!(&joined.facts[..], b"you said link 127.0.0.1:1");
    let duties = Duties::SERVE.and(Duties::HOLD);
    let expected = Identity { node: NodeId(100), name: "be2.example".to_owned(), duties };
    assert_eq!(joined.credentials.identity(), &expected);

    let folder = TempDir::new().unwrap();
    joined.credentials.save(folder.path()).unwrap();
    let credentials = Credentials::load(folder.path()).unwrap();
    assert_eq!(credentials.identity(), &expected);
    let links = Links::new(&credentials, config(1)).unwrap();
    links.set_peers(vec![desk.node.as_peer()]);
    tokio::time::timeout(common::SOON, links.peer(desk.node.id).wait_for(is_up)).await.unwrap().unwrap();
    desk.node.sees(NodeId(100), is_up).await;
}

#[tokio::test]
async fn a_single_server_keeps_its_id_when_it_joins() {
    let desk = desk(Duties::ALL).await;
    let new = NewNode { node: Some(NodeId(0xabcd)), ..new_node("be") };
    let joined = join(&desk.token(), new).await.unwrap();
    assert_eq!(joined.credentials.identity().node, NodeId(0xabcd));
}

#[tokio::test]
async fn a_token_is_good_once() {
    let desk = desk(Duties::ALL).await;
    let token = desk.token();
    join(&token, new_node("be1")).await.unwrap();
    let error = join(&token, new_node("be2")).await.err().unwrap();
    assert!(matches!(&error, JoinError::Refused(why) if why.contains("used before")), "{error}");
    assert!(desk.tokens.list().is_empty());
}

#[tokio::test]
async fn a_token_is_good_for_its_time_only() {
    let desk = desk(Duties::ALL).await;
    let error = join(&desk.token_valid(Duration::ZERO), new_node("be")).await.err().unwrap();
    assert!(matches!(&error, JoinError::Refused(why) if why.contains("expired")), "{error}");
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_does_not_use_the_token_up() {
    let desk = desk(Duties::ALL).await;
    let token = desk.token();
    let forged = change(&token, 8);
    let error = join(&forged, new_node("be")).await.err().unwrap();
    assert!(matches!(&error, JoinError::Refused(why) if why.contains("secret is wrong")), "{error}");
    let unknown = change(&token, 0);
    let error = join(&unknown, new_node("be")).await.err().unwrap();
    assert!(matches!(&error, JoinError::Refused(why) if why.contains("unknown")), "{error}");
    join(&token, new_node("be")).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_not_let_in_does_not_use_the_token_up() {
    let desk = desk(Duties::ALL).await;
    let token = desk.token();
    let error = join(&token, new_node("fe")).await.err().unwrap();
    assert!(matches!(&error, JoinError::Refused(why) if why.contains("for be")), "{error}");
    join(&token, new_node("be")).await.unwrap();
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_no_good() {
    let desk = desk(Duties::ALL).await;
    let token = desk.token();
    assert!(desk.tokens.take_back(token.id).unwrap());
    assert!(!desk.tokens.take_back(token.id).unwrap());
    assert!(join(&token, new_node("be")).await.is_err());
}

#[tokio::test]
async fn a_node_tells_its_secret_to_the_tokens_cluster_only() {
    let desk = desk(Duties::ALL).await;
    // The fingerprint stands behind id and secret.
    let error = join(&change(&desk.token(), 40), new_node("be")).await.err().unwrap();
    assert!(
        matches!(&error, JoinError::Stranger { reason, .. } if reason.contains("fingerprint")),
        "{error}"
    );

    // A stranger that shows the right CA beside a certificate of its own.
    let stranger_ca = ca();
    let stranger = stranger_ca.credentials(&identity(1, Duties::ALL), SystemTime::now()).unwrap();
    let shows = vec![desk.ca.certificate().clone(), stranger_ca.certificate().clone()];
    let links = Links::new(&stranger.with_authorities(shows), config(1)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut token = desk.token();
    token.address = listener.local_addr().unwrap().to_string();
    links.listen(listener);
    let error = join(&token, new_node("be")).await.err().unwrap();
    assert!(matches!(&error, JoinError::Stranger { .. }), "{error}");
}

#[tokio::test]
async fn a_node_without_the_duty_lets_nobody_join() {
    let desk = desk(Duties::SERVE.and(Duties::HOLD)).await;
    let error = join(&desk.token(), new_node("be")).await.err().unwrap();
    assert!(matches!(&error, JoinError::Stranger { reason, .. } if reason.contains("duty")), "{error}");
}

#[tokio::test]
async fn who_begins_to_join_and_says_nothing_keeps_nobody_out() {
    let desk = desk(Duties::ALL).await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(desk.ca.certificate().clone()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"rookery-join".to_vec()];
    let tls = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let mut silent = Vec::new();
    for _ in 0..300 {
        let tcp = tokio::net::TcpStream::connect(desk.node.address).await.unwrap();
        let name = Identity::server_name(desk.node.id).try_into().unwrap();
        silent.push(tls.connect(name, tcp).await.unwrap());
    }
    let other = Node::start(&desk.ca, 2).await;
    other.links.set_peers(vec![desk.node.as_peer()]);
    other.sees(desk.node.id, is_up).await;
    other.echo(desk.node.id).await.unwrap();
}

#[tokio::test]
async fn without_a_desk_nobody_joins() {
    let desk = desk(Duties::ALL).await;
    let token = desk.token();
    desk.node.links.set_join_desk(None);
    assert!(join(&token, new_node("be")).await.is_err());
    assert_eq!(desk.tokens.list().len(), 1);
}

#[test]
fn tokens_survive_a_restart_and_damage_shows() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens.json");
    let token = Tokens::open(&file)
        .unwrap()
        .give(Fingerprint([7; 32]), "[::1]:4190", "be", HOUR, SystemTime::now())
        .unwrap();
    assert_eq!(Tokens::open(&file).unwrap().list()[0].0, token.id.to_string());
    assert_private(&file);
    let kept = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &kept[..kept.len() / 2]).unwrap();
    assert!(matches!(Tokens::open(&file), Err(TokenError::Damaged { .. })));
}

#[test]
fn a_token_that_was_not_copied_whole_is_seen() {
    let folder = TempDir::new().unwrap();
    let tokens = Tokens::open(folder.path().join("tokens.json")).unwrap();
    let token = tokens.give(Fingerprint([7; 32]), "be1.example:4190", "", HOUR, SystemTime::now()).unwrap();
    let line = token.to_string();
    assert_eq!(line.parse::<JoinToken>(), Ok(token));
    assert_eq!(format!("  {line}\n").parse::<JoinToken>().unwrap().to_string(), line);
    for cut in 0..line.len() {
        assert_eq!(line[..cut].parse::<JoinToken>(), Err(BadToken), "{cut}");
    }
    let secret = &line[40..60];
    assert!(!format!("{:?}", line.parse::<JoinToken>()).contains(secret));
}

/// The token with one octet changed and the sum right again.
fn change(token: &JoinToken, at: usize) -> JoinToken {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use sha2::{Digest, Sha256};
    let line = token.to_string();
    let (prefix, rest) = line.split_at("rookery-join-1.".len());
    let mut octets = URL_SAFE_NO_PAD.decode(rest).unwrap();
    octets.truncate(octets.len() - 4);
    octets[at] ^= 1;
    let sum = Sha256::digest(&octets);
    octets.extend_from_slice(&sum[..4]);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(octets)).parse().unwrap()
}

fn assert_private(file: &Path) {
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{}", file.display());
}

#[test]
fn files_are_private_and_a_ca_is_not_overwritten() {
    let folder = TempDir::new().unwrap();
    let ca = ca();
    ca.save(folder.path()).unwrap();
    assert!(ca.save(folder.path()).is_err());
    let loaded = Ca::load(folder.path()).unwrap();
    assert_eq!(loaded.fingerprint(), ca.fingerprint());
    let node = TempDir::new().unwrap();
    let credentials = loaded.credentials(&identity(5, Duties::HOLD), SystemTime::now()).unwrap();
    credentials.save(node.path()).unwrap();
    for file in ["ca.crt", "ca.key"].map(|name| folder.path().join(name)) {
        assert_private(&file);
    }
    for file in ["ca.crt", "node.crt", "node.key"].map(|name| node.path().join(name)) {
        assert_private(&file);
    }
    assert_eq!(std::fs::read_dir(node.path()).unwrap().count(), 3);
    assert!(!format!("{credentials:?}").contains("PRIVATE"));
}

#[test]
fn a_certificate_says_who_and_for_how_long() {
    let ca = ca();
    let now = SystemTime::now();
    for duties in [Duties::NONE, Duties::SERVE, Duties::HOLD.and(Duties::DIRECTORY), Duties::ALL] {
        let credentials = ca.credentials(&identity(0xfeed, duties), now).unwrap();
        assert_eq!(Identity::of_certificate(credentials.certificate()), Some(identity(0xfeed, duties)));
    }
    assert_eq!(identity(0xfeed, Duties::ALL).uri(), "rookery://node/000000000000feed?serve&hold&directory");
    assert_eq!(Identity::of_certificate(ca.certificate()), None);
    let credentials = ca.credentials(&identity(1, Duties::ALL), now).unwrap();
    let year = 365 * 24 * HOUR;
    assert!(credentials.valid_until() > now + year - HOUR && credentials.valid_until() < now + year + HOUR);
    assert!(!credentials.needs_renewal(now) && !credentials.needs_renewal(now + year / 2));
    assert!(credentials.needs_renewal(now + year / 3 * 2));
    let later = now + year / 4 * 3;
    let renewed = ca.issue(&credentials.renewal().unwrap(), credentials.identity(), later, 365).unwrap();
    let renewed = credentials.renewed(renewed).unwrap();
    assert_eq!(renewed.identity(), credentials.identity());
    assert!(!renewed.needs_renewal(later) && credentials.needs_renewal(later));
    Links::new(&renewed, config(1)).expect("the certificate is of the key");
    assert!(ca.credentials(&Identity { name: String::new(), ..identity(1, Duties::ALL) }, now).is_err());
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_no_way_in() {
    let ca = ca();
    let a = Node::start(&ca, 1).await;
    let long_ago = SystemTime::now() - 400 * 24 * HOUR;
    let old = ca.credentials(&identity(2, Duties::ALL), long_ago).unwrap();
    let links = Links::new(&old, config(1)).unwrap();
    links.set_peers(vec![a.as_peer()]);
    let told = |state: &rookery_link::PeerState| matches!(state, rookery_link::PeerState::Down(why) if why.to_lowercase().contains("expired"));
    tokio::time::timeout(common::SOON, links.peer(a.id).wait_for(told)).await.unwrap().unwrap();
}
