//! Recipients at several homes, and homes that are lost on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use rookery_lmtp::{LmtpConfig, Services};
use rookery_net::{Peer, Pipe};
use rookery_route::{NoPeers, PeerError, Peers, PipeService, Reaching};
use rookery_types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backing::{Homes, INBOX, Memory};
use crate::client::{Client, connect_to, site};

const HOME: NodeId = NodeId(2);
const OTHER: NodeId = NodeId(3);

/// An MTA at a node with `elsewhere` at home at other nodes, which `peers` reaches.
fn connect(elsewhere: Vec<(&'static str, NodeId)>, peers: Arc<dyn Peers>) -> Client {
    let edge = Arc::new(Memory::without(elsewhere));
    let services = Services::new(LmtpConfig::default(), site(), Arc::clone(&edge), peers).unwrap();
    connect_to(Arc::new(services), edge, Peer::Memory)
}

/// Homes of these numbers, and what they have.
fn homes(nodes: Vec<(NodeId, Memory)>) -> (Homes, Vec<Arc<Memory>>) {
    let mut homes = Homes::default();
    let mut backings = Vec::new();
    for (node, memory) in nodes {
        let memory = Arc::new(memory);
        let services = Services::new(LmtpConfig::default(), site(), Arc::clone(&memory), Arc::new(NoPeers));
        homes.nodes.insert(node, Arc::new(services.unwrap()));
        backings.push(memory);
    }
    (homes, backings)
}

#[tokio::test]
async fn a_message_is_split_by_home_and_answered_per_recipient() {
    let (homes, backings) = homes(vec![(HOME, Memory::default())]);
    let elsewhere = vec![("ann", HOME), ("full", HOME), ("u1", OTHER), ("u2", OTHER)];
    let mut client = connect(elsewhere, Arc::new(homes));
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<x@far.test>", "250 2.1.0"),
            ("RCPT TO:<joe>", "250 2.1.5"),
            ("RCPT TO:<u1>", "250 2.1.5"),
            ("RCPT TO:<ann>", "250 2.1.5"),
            ("RCPT TO:<full>", "250 2.1.5"),
            ("RCPT TO:<both>", "250 2.1.5"),
            ("RCPT TO:<ann+Lists/rust>", "250 2.1.5"),
            ("DATA", "354"),
            ("Subject: x\r\n\r\n..body\r\n.", "250 2.1.5"),
            ("", "451 4.4.1"),
            ("", "250 2.1.5"),
            ("", "452 4.2.2"),
            ("", "250 2.1.5"),
            ("", "250 2.1.5"),
            ("QUIT", "221"),
        ])
        .await;
    let here = client.backing.of("joe", INBOX);
    assert_eq!(here.len(), 1);
    assert!(here[0].ends_with("Subject: x\r\n\r\n.body\r\n"), "{}", here[0]);
    // The same octets everywhere, the trace among them, and each once.
    assert_eq!(backings[0].of("ann", INBOX), here);
    assert_eq!(backings[0].of("ann", 2), here);
    assert_eq!(client.backing.of("ann", INBOX), Vec::<String>::new());
}

#[tokio::test]
async fn a_message_follows_an_account_that_has_left() {
    // From the node of the MTA to another, which is not its home any more either.
    let (third, mut backings) = homes(vec![(OTHER, Memory::default())]);
    let memory = Arc::new(Memory::without(vec![("ann", OTHER)]));
    let services = Services::new(LmtpConfig::default(), site(), Arc::clone(&memory), Arc::new(third));
    let mut homes = Homes::default();
    homes.nodes.insert(HOME, Arc::new(services.unwrap()));
    backings.push(memory);
    let edge = Arc::new(Memory::leaving("ann", HOME));
    let services = Services::new(LmtpConfig::default(), site(), Arc::clone(&edge), Arc::new(homes)).unwrap();
    let mut client = connect_to(Arc::new(services), edge, Peer::Memory);
    client.hello().await;
    let body = "0123456789\r\n".repeat(8_000);
    client
        .talk(&[
            ("MAIL FROM:<x@far.test>", "250"),
            ("RCPT TO:<ann+Lists/rust>", "250"),
            ("RCPT TO:<joe>", "250"),
            ("RCPT TO:<ann>", "250"),
            ("DATA", "354"),
            (&format!("Subject: x\r\n\r\n{body}."), "250 2.1.5"),
            ("", "250 2.1.5"),
            ("", "250 2.1.5"),
        ])
        .await;
    let here = client.backing.of("joe", INBOX);
    assert_eq!(here.len(), 1);
    assert_eq!((backings[0].of("ann", INBOX), backings[0].of("ann", 2)), (here.clone(), here));
    let nothing = Vec::<String>::new();
    assert_eq!((client.backing.of("ann", INBOX), backings[1].of("ann", INBOX)), (nothing.clone(), nothing));
}

#[tokio::test]
async fn a_user_whose_home_is_not_found_is_tried_again_later() {
    let (homes, backings) = homes(vec![(HOME, Memory::without(vec![("ann", OTHER)]))]);
    let mut client = connect(vec![("ann", HOME), ("u1", HOME)], Arc::new(homes));
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<>", "250"),
            ("RCPT TO:<ann>", "250"),
            ("RCPT TO:<u1>", "250"),
            ("DATA", "354"),
            ("body\r\n.", "451 4.4.1"),
            ("", "250 2.1.5"),
        ])
        .await;
    assert_eq!((backings[0].of("ann", INBOX).len(), backings[0].of("u1", INBOX).len()), (0, 1));
}

#[tokio::test]
async fn what_does_not_come_whole_is_stored_nowhere() {
    let (homes, backings) = homes(vec![(HOME, Memory::default())]);
    let homes = Arc::new(homes);
    let mut client = connect(vec![("ann", HOME)], homes.clone());
    client.hello().await;
    client.talk(&[("MAIL FROM:<>", "250"), ("RCPT TO:<ann>", "250"), ("DATA", "354")]).await;
    client.send("Subject: half\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    client.rest().await;
    let mut client = connect(vec![("ann", HOME)], homes.clone());
    client.hello().await;
    let large = format!("{}\r\n.", "0123456789\r\n".repeat(9_000));
    client
        .talk(&[
            ("MAIL FROM:<>", "250"),
            ("RCPT TO:<ann>", "250"),
            ("DATA", "354"),
            (&large, "552 5.3.4"),
            ("MAIL FROM:<>", "250"),
            ("RCPT TO:<ann>", "250"),
            ("BDAT 6\r\nhalf", "250 2.0.0"),
        ])
        .await;
    drop(client);
    let mut client = connect(vec![("ann", HOME)], homes);
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<>", "250"),
            ("RCPT TO:<ann>", "250"),
            ("DATA", "354"),
            ("whole\r\n.", "250 2.1.5"),
        ])
        .await;
    let stored = backings[0].of("ann", INBOX);
    assert_eq!(stored.len(), 1, "{stored:?}");
    assert!(stored[0].ends_with("whole\r\n"));
}

/// A home that reads so much and is lost for good.
struct Lost(usize, AtomicBool);

impl Peers for Lost {
    fn open(&self, node: NodeId, _: PipeService, _: Bytes) -> Reaching<'_> {
        let octets = self.0;
        let is_lost = self.1.swap(true, Ordering::Relaxed);
        Box::pin(async move {
            if is_lost {
                return Err(PeerError { node, why: "it is lost".to_owned() });
            }
            let (near, mut far) = rookery_net::pipe::in_memory(64);
            tokio::spawn(async move { far.read_exact(&mut vec![0; octets]).await });
            Ok(Box::new(near) as Box<dyn Pipe>)
        })
    }
}

/// Homes whose answers to the first message are lost, or the ends of that message on the way there.
struct Forgetful {
    homes: Homes,
    /// The answer is lost, not the end of the message.
    answer: bool,
    opened: AtomicUsize,
}

impl Peers for Forgetful {
    fn open(&self, node: NodeId, service: PipeService, head: Bytes) -> Reaching<'_> {
        Box::pin(async move {
            match self.opened.fetch_add(1, Ordering::Relaxed) {
                0 => {}
                // Away for a moment.
                1 | 2 => return Err(PeerError { node, why: "not yet".to_owned() }),
                _ => return self.homes.open(node, service, head).await,
            }
            let mut far = self.homes.open(node, service, head).await?;
            let (near, mut link) = rookery_net::pipe::in_memory(64);
            let answer = self.answer;
            tokio::spawn(async move {
                let mut octets = [0; 1000];
                loop {
                    let read = link.read(&mut octets).await.unwrap();
                    match link.take_note() {
                        Some(note) if answer => {
                            far.put_note(note);
                            far.flush().await.unwrap();
                            // It has answered, which nobody hears.
                            far.read_to_end(&mut Vec::new()).await.unwrap();
                            return;
                        }
                        Some(_) => return,
                        None => far.write_all(&octets[..read]).await.unwrap(),
                    }
                }
            });
            Ok(Box::new(near) as Box<dyn Pipe>)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_is_asked_for() {
    for (answer, reply, stored) in [(true, "250 2.1.5", 1), (false, "451 4.4.1", 0)] {
        let (homes, backings) = homes(vec![(HOME, Memory::default())]);
        let forgetful = Forgetful { homes, answer, opened: AtomicUsize::new(0) };
        let mut client = connect(vec![("ann", HOME), ("full", HOME)], Arc::new(forgetful));
        client.hello().await;
        client
            .talk(&[
                ("MAIL FROM:<x@far.test>", "250 2.1.0"),
                ("RCPT TO:<ann>", "250 2.1.5"),
                ("RCPT TO:<ann+Lists/none>", "250 2.1.5"),
                ("RCPT TO:<full>", "250 2.1.5"),
                ("DATA", "354"),
                ("body\r\n.", reply),
                // The same mailbox.
                ("", reply),
                // Not why, but that it was not.
                ("", "451 4.4.1"),
                ("QUIT", "221"),
            ])
            .await;
        assert_eq!(backings[0].of("ann", INBOX).len(), stored);
    }
}

/// A home that is lost for good when it has taken a message, which it had with all that is in the account from then on
/// at another node, where the edge is told that it is.
struct MovedOn {
    homes: Homes,
    edge: Arc<Memory>,
    is_lost: AtomicBool,
}

impl Peers for MovedOn {
    fn open(&self, node: NodeId, service: PipeService, head: Bytes) -> Reaching<'_> {
        Box::pin(async move {
            if node == HOME && self.is_lost.swap(true, Ordering::Relaxed) {
                return Err(PeerError { node, why: "it is lost".to_owned() });
            }
            let mut far = self.homes.open(node, service, head).await?;
            if node == OTHER {
                return Ok(far);
            }
            let (near, mut link) = rookery_net::pipe::in_memory(64);
            let edge = Arc::clone(&self.edge);
            tokio::spawn(async move {
                let mut octets = [0; 1000];
                loop {
                    let read = link.read(&mut octets).await.unwrap();
                    far.write_all(&octets[..read]).await.unwrap();
                    if let Some(note) = link.take_note() {
                        far.put_note(note);
                        far.flush().await.unwrap();
                        far.read_to_end(&mut Vec::new()).await.unwrap();
                        edge.is_elsewhere("ann", OTHER);
                        return;
                    }
                }
            });
            Ok(Box::new(near) as Box<dyn Pipe>)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_is_asked_for_where_the_account_is_now() {
    let account = Arc::new(Memory::default());
    let mut homes = Homes::default();
    for node in [HOME, OTHER] {
        let services = Services::new(LmtpConfig::default(), site(), Arc::clone(&account), Arc::new(NoPeers));
        homes.nodes.insert(node, Arc::new(services.unwrap()));
    }
    let edge = Arc::new(Memory::without(vec![("ann", HOME)]));
    let peers = MovedOn { homes, edge: Arc::clone(&edge), is_lost: AtomicBool::new(false) };
    let services = Services::new(LmtpConfig::default(), site(), Arc::clone(&edge), Arc::new(peers)).unwrap();
    let mut client = connect_to(Arc::new(services), edge, Peer::Memory);
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<x@far.test>", "250 2.1.0"),
            ("RCPT TO:<ann>", "250 2.1.5"),
            ("DATA", "354"),
            ("body\r\n.", "250 2.1.5"),
            ("QUIT", "221"),
        ])
        .await;
    assert_eq!(account.of("ann", INBOX).len(), 1);
}

#[tokio::test]
async fn a_node_that_only_holds_passes_on_what_nobody_posts_by_rights() {
    let (mut homes, backings) = homes(vec![(HOME, Memory::default())]);
    homes.for_a_holder = true;
    let mut client = connect(vec![("ann", HOME)], Arc::new(homes));
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<x@far.test> AUTH=ann@example.org", "250 2.1.0"),
            ("RCPT TO:<ann+Private>", "250 2.1.5"),
            ("DATA", "354"),
            ("body\r\n.", "451"),
            ("MAIL FROM:<x@far.test>", "250 2.1.0"),
            ("RCPT TO:<ann+Private>", "250 2.1.5"),
            ("DATA", "354"),
            ("body\r\n.", "250 2.1.5"),
            ("QUIT", "221"),
        ])
        .await;
    assert_eq!((backings[0].of("ann", INBOX).len(), backings[0].of("ann", 3).len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_home_that_is_lost_on_the_way_leaves_the_message_with_the_mta() {
    // Before it has read anything, in the midst of the message, and behind its end, before the answer.
    for octets in [0, 1000, 20_400] {
        let mut client = connect(vec![("ann", HOME)], Arc::new(Lost(octets, AtomicBool::new(false))));
        client.hello().await;
        let message = format!("{}\r\n.", "x".repeat(20_000));
        client
            .talk(&[
                ("MAIL FROM:<>", "250"),
                ("RCPT TO:<joe>", "250"),
                ("RCPT TO:<ann>", "250"),
                ("DATA", "354"),
                (&message, "250 2.1.5"),
                ("", "451 4.4.1"),
                ("QUIT", "221"),
            ])
            .await;
        assert_eq!(client.backing.of("joe", INBOX).len(), 1);
    }
}
