//! Links over TCP and mutual TLS on loopback.

#![allow(clippy::unwrap_used, reason = "a failure shows where")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use common::{Node, SOON, ca, config, identity, is_down, is_up, text, two};
use rookery_link::{
    Class, Duties, LinkError, Links, LinksConfig, Message, PeerFacts, PeerState, Reach, TraceId,
};
use rookery_types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

#[tokio::test]
async fn two_nodes_link_and_each_opens_streams_to_the_other() {
    let ca = ca();
    let (a, b) = two(&ca).await;
    a.echo(b.id).await.unwrap();
    b.echo(a.id).await.unwrap();
    let PeerState::Up(facts) = b.sees(a.id, is_up).await else { unreachable!() };
    let expected = PeerFacts {
        node: NodeId(1),
        name: "n1.test".to_owned(),
        duties: Duties::ALL,
        boot: 1,
        program: "rookery test".to_owned(),
        protocol: 1,
    };
    assert_eq!(*facts, expected);
    assert_eq!(a.echo(NodeId(9)).await.unwrap_err().reach(), Reach::Not);
}

#[tokio::test]
async fn a_node_that_starts_lets_streams_wait_for_what_is_not_served_yet() {
    let ca = ca();
    let (a, b) = two(&ca).await;
    b.links.set_starting(true);
    let mut early = a.open(b.id, "late").await.unwrap();
    early.send(text("one")).await.unwrap();
    let mut never = a.open(b.id, "never").await.unwrap();
    b.sees(a.id, is_up).await;
    settle(|| b.links.stream_count() == 2).await;
    // Of this one nothing was known when the stream came.
    b.links.serve("late", Duties::SERVE, |incoming| async move {
        let mut stream = incoming.stream;
        while let Ok(Some(message)) = stream.recv().await {
            stream.send(message).await.unwrap();
        }
    });
    let answer = timeout(SOON, early.recv()).await.unwrap().unwrap().unwrap();
    assert!(matches!(answer, Message::Data(octets) if octets == "one"));
    b.links.set_starting(false);
    let refused = timeout(SOON, never.recv()).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("no such service"), "{refused}");
    let mut later = a.open(b.id, "never").await.unwrap();
    assert!(matches!(timeout(SOON, later.recv()).await.unwrap(), Err(LinkError::Refused { .. })));
}

#[tokio::test]
async fn a_node_that_never_comes_up_does_not_keep_streams_waiting() {
    let ca = ca();
    let (a, b) = two(&ca).await;
    b.links.set_starting(true);
    let mut stream = a.open(b.id, "never").await.unwrap();
    let refused = timeout(SOON, stream.recv()).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("no such service"), "{refused}");
}

#[tokio::test]
async fn a_link_is_three_connections_whoever_dials() {
    let ca = ca();
    let (a, b) = two(&ca).await;
    settle(|| a.links.counters().connections_made >= 3 && b.links.counters().connections_made >= 3).await;
    // Streams keep the connections busy while any doubles would come and go.
    for _ in 0..50 {
        a.echo(b.id).await.unwrap();
        b.echo(a.id).await.unwrap();
    }
    let live = |node: &Node| {
        let counters = node.links.counters();
        counters.connections_made - counters.connections_ended
    };
    settle(|| live(&a) == 3 && live(&b) == 3).await;

    // Only the node with the higher id knows where the other is.
    let (low, high) = (Node::start(&ca, 3).await, Node::start(&ca, 4).await);
    high.links.set_peers(vec![low.as_peer()]);
    high.sees(low.id, is_up).await;
    low.sees(high.id, is_up).await;
    low.echo(high.id).await.unwrap();
}

#[tokio::test]
async fn a_node_that_has_just_begun_waits_for_its_first_connection() {
    let ca = ca();
    let (low, high) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    // It lets the other one dial first, which does not know where it is.
    high.links.set_peers(vec![low.as_peer()]);
    high.echo(low.id).await.unwrap();
}

#[tokio::test]
async fn head_trace_and_class_arrive_and_octets_pass_as_a_plain_stream() {
    let ca = ca();
    let (a, b) = two(&ca).await;
    let (seen, mut heads) = mpsc::unbounded_channel();
    b.links.serve("pipe", Duties::NONE, move |incoming| {
        let seen = seen.clone();
        async move {
            seen.send((incoming.peer.node, incoming.trace, incoming.head.clone())).unwrap();
            let (mut read, mut write) = tokio::io::split(incoming.stream.into_io());
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        }
    });
    for class in [Class::Interactive, Class::Bulk] {
        let head = Bytes::from_static(b"joe");
        let stream = a.links.open(b.id, class, "pipe", TraceId(77), head.clone()).await.unwrap();
        assert_eq!(heads.recv().await.unwrap(), (NodeId(1), TraceId(77), head));
        let sent: Vec<u8> =
            (0_u32..3_000_000).map(|at| u8::try_from((at ^ (at >> 8)) & 0xff).unwrap()).collect();
        let (mut read, mut write) = tokio::io::split(stream.into_io());
        let (mut received, expected) = (Vec::new(), sent.clone());
        let sender = tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
            write
        });
        read.read_to_end(&mut received).await.unwrap();
        sender.await.unwrap();
        assert!(received == expected, "{} octets of {}", received.len(), expected.len());
    }
}

#[tokio::test]
async fn a_service_is_only_for_nodes_with_its_duties() {
    let ca = ca();
    let a = Node::start_with(&ca, 1, Duties::HOLD, config(1), None).await;
    let b = Node::start(&ca, 2).await;
    a.links.set_peers(vec![b.as_peer()]);
    a.sees(b.id, is_up).await;
    let mut stream = a.open(b.id, "echo").await.unwrap();
    let error = stream.recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { .. }) && error.cannot_have_reached(), "{error:?}");
    b.sees(a.id, is_up).await;
    b.echo(a.id).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_no_way_in() {
    let (ours, theirs) = (ca(), ca());
    let a = Node::start(&ours, 1).await;
    let stranger = Node::start(&theirs, 2).await;
    stranger.links.set_peers(vec![a.as_peer()]);
    a.links.set_peers(vec![stranger.as_peer()]);
    settle(|| a.links.counters().dials_failed > 0 && stranger.links.counters().dials_failed > 0).await;
    settle(|| a.links.counters().connections_refused > 0).await;
    assert!(is_down(&a.links.peer(stranger.id).borrow()) && is_down(&stranger.links.peer(a.id).borrow()));
    assert_eq!(a.links.counters().connections_made, 0);
}

#[tokio::test]
async fn another_node_of_the_cluster_does_not_pass_for_the_one_that_was_dialled() {
    let ca = ca();
    let (a, c) = (Node::start(&ca, 1).await, Node::start(&ca, 3).await);
    // Node 2 is said to be where node 3 is.
    a.links.set_peers(vec![rookery_link::Peer { id: NodeId(2), address: c.address.to_string() }]);
    settle(|| a.links.counters().dials_failed > 0).await;
    assert!(is_down(&a.links.peer(NodeId(2)).borrow()));
    assert_eq!(c.links.counters().connections_made, 0);
}

#[tokio::test]
async fn without_a_certificate_nothing_is_said() {
    let ca = ca();
    let a = Node::start(&ca, 1).await;
    let mut plain = TcpStream::connect(a.address).await.unwrap();
    plain.write_all(b"RKLK").await.unwrap();
    plain.shutdown().await.unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said).await;
    // At most a TLS alert.
    assert!(said.len() < 10, "{said:?}");
    settle(|| a.links.counters().connections_refused == 1).await;
}

#[tokio::test]
async fn the_cluster_may_refuse_a_node_with_a_good_certificate() {
    let ca = ca();
    let admit = Arc::new(|facts: &PeerFacts| match facts.node {
        NodeId(2) => Err("node n2.test was removed".to_owned()),
        _ => Ok(()),
    });
    let a =
        Node::start_with(&ca, 1, Duties::ALL, LinksConfig { admit: Some(admit), ..config(1) }, None).await;
    let removed = Node::start(&ca, 2).await;
    removed.links.set_peers(vec![a.as_peer()]);
    let told = |state: &PeerState| matches!(state, PeerState::Down(why) if why.contains("was removed"));
    removed.sees(a.id, told).await;
    let other = Node::start(&ca, 3).await;
    other.links.set_peers(vec![a.as_peer()]);
    other.sees(a.id, is_up).await;
}

#[tokio::test]
async fn the_version_before_is_served_and_an_older_one_refused_by_name() {
    let ca = ca();
    let node = async |id, program: &str, protocol| {
        let config = LinksConfig { protocol, program: program.to_owned(), ..config(1) };
        Node::start_with(&ca, id, Duties::ALL, config, None).await
    };
    let now = node(1, "rookery 3.0", 6..=7).await;
    let before = node(2, "rookery 2.0", 5..=6).await;
    let old = node(3, "rookery 1.0", 4..=5).await;

    now.links.set_peers(vec![before.as_peer()]);
    let PeerState::Up(facts) = now.sees(before.id, is_up).await else { unreachable!() };
    assert_eq!((facts.protocol, facts.program.as_str()), (6, "rookery 2.0"));
    now.echo(before.id).await.unwrap();

    old.links.set_peers(vec![now.as_peer()]);
    let says = |named: &'static str| move |state: &PeerState| matches!(state, PeerState::Down(why) if why.contains(named));
    let too_old = "node n3.test runs rookery 1.0 with link protocol 4 to 5, too old for rookery 3.0 with link protocol 6 to 7";
    old.sees(now.id, says(too_old)).await;
    old.links.set_peers(vec![]);
    now.links.set_peers(vec![before.as_peer(), old.as_peer()]);
    let too_new = "node n1.test runs rookery 3.0 with link protocol 6 to 7, too new for rookery 1.0 with link protocol 4 to 5";
    now.sees(old.id, says(too_new)).await;
    let error = now.echo(old.id).await.unwrap_err();
    assert!(error.cannot_have_reached());
}

#[tokio::test]
async fn a_node_that_comes_back_is_linked_at_once_and_old_streams_learn_of_it() {
    let ca = ca();
    let (a, b) = two(&ca).await;
    let mut stream = a.open(b.id, "echo").await.unwrap();
    stream.send(text("x")).await.unwrap();
    stream.recv().await.unwrap();
    b.links.shutdown();
    let error = stream.recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Lost { reach: Reach::Unknown, .. }), "{error:?}");
    a.sees(b.id, is_down).await;
    let error = a.echo(b.id).await.unwrap_err();
    assert!(error.cannot_have_reached(), "{error:?}");

    let began = Instant::now();
    let b = Node::start_with(&ca, 2, Duties::ALL, config(2), Some(b.address)).await;
    let PeerState::Up(facts) = a.sees(b.id, is_up).await else { unreachable!() };
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(facts.boot, 2);
    a.echo(b.id).await.unwrap();
}

#[tokio::test]
async fn a_node_that_leaves_takes_no_new_streams_and_lets_the_others_end() {
    let ca = ca();
    let (a, b) = two(&ca).await;
    let mut stream = a.open(b.id, "echo").await.unwrap();
    stream.send(text("x")).await.unwrap();
    stream.recv().await.unwrap();
    let leaving = b.links.clone();
    let drain = tokio::spawn(async move { leaving.drain(SOON).await });
    a.sees(b.id, |state| matches!(state, PeerState::Leaving(_))).await;
    let error = a.echo(b.id).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { .. }) && error.cannot_have_reached(), "{error:?}");
    // It still may ask others.
    b.echo(a.id).await.unwrap();
    stream.send(text("y")).await.unwrap();
    assert_eq!(stream.recv().await.unwrap(), Some(text("y")));
    assert!(!drain.is_finished());
    stream.finish().unwrap();
    assert_eq!(stream.recv().await.unwrap(), None);
    assert!(drain.await.unwrap());
    b.links.shutdown();
    a.sees(b.id, is_down).await;
}

#[tokio::test]
async fn certificates_can_be_renewed_while_streams_are_open() {
    let ca = ca();
    let (a, b) = two(&ca).await;
    let mut stream = a.open(b.id, "echo").await.unwrap();
    let renewed = ca.credentials(&identity(2, Duties::HOLD), SystemTime::now()).unwrap();
    b.links.set_credentials(&renewed).unwrap();
    let other = ca.credentials(&identity(3, Duties::HOLD), SystemTime::now()).unwrap();
    assert!(b.links.set_credentials(&other).is_err(), "another node's");
    stream.send(text("x")).await.unwrap();
    assert_eq!(stream.recv().await.unwrap(), Some(text("x")));
    let c = Node::start(&ca, 3).await;
    c.links.set_peers(vec![b.as_peer()]);
    let PeerState::Up(facts) = c.sees(b.id, is_up).await else { unreachable!() };
    assert_eq!(facts.duties, Duties::HOLD);
}

/// Passes TCP connections on until it is told to be a hole: then it keeps them and passes nothing.
async fn hole(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (switch, is_hole) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut is_hole = is_hole.clone();
            tokio::spawn(async move {
                if !*is_hole.borrow() {
                    let mut on = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut on) => return,
                        _ = is_hole.wait_for(|hole| *hole) => {}
                    }
                    // Both ends stay open, and nobody reads.
                    let _ = is_hole.wait_for(|hole| !*hole).await;
                    return;
                }
                let _ = is_hole.wait_for(|hole| !*hole).await;
            });
        }
    });
    (address, switch)
}

#[tokio::test]
async fn a_path_that_swallows_everything_is_seen_within_five_seconds_by_both() {
    let ca = ca();
    let (a, b) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    let (address, switch) = hole(b.address).await;
    a.links.set_peers(vec![b.at(address)]);
    a.sees(b.id, is_up).await;
    b.sees(a.id, is_up).await;
    let mut stream = a.open(b.id, "echo").await.unwrap();
    stream.send(text("x")).await.unwrap();
    stream.recv().await.unwrap();

    switch.send_replace(true);
    let began = Instant::now();
    let seen = tokio::join!(
        stream.recv(),
        a.sees(b.id, |state| matches!(state, PeerState::Suspect(_))),
        a.sees(b.id, is_down),
        b.sees(a.id, is_down),
    );
    assert!(began.elapsed() <= Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(matches!(seen.0, Err(LinkError::Lost { .. })), "{:?}", seen.0);
    let asked = Instant::now();
    let error = a.echo(b.id).await.unwrap_err();
    assert!(error.cannot_have_reached() && asked.elapsed() < Duration::from_secs(1), "{error:?}");

    switch.send_replace(false);
    let back = Instant::now();
    a.sees(b.id, is_up).await;
    assert!(back.elapsed() <= Duration::from_secs(5), "{:?}", back.elapsed());
    a.echo(b.id).await.unwrap();
}

#[tokio::test]
async fn dropping_links_in_the_middle_of_everything_leaves_no_stream_waiting() {
    let ca = ca();
    let (a, b) = two(&ca).await;
    let stopped = Arc::new(AtomicBool::new(false));
    let mut busy = Vec::new();
    for _ in 0..50 {
        let (links, id, stopped) = (a.links.clone(), b.id, Arc::clone(&stopped));
        busy.push(tokio::spawn(async move {
            loop {
                let opened = links.open(id, Class::Interactive, "echo", TraceId(0), Bytes::new()).await;
                let worked = match opened {
                    Ok(mut stream) => work(&mut stream).await,
                    Err(error) => Err(error),
                };
                if worked.is_err() && stopped.load(Ordering::Relaxed) {
                    return;
                }
            }
        }));
    }
    async fn work(stream: &mut rookery_link::LinkStream) -> Result<(), LinkError> {
        stream.send(Message::Data(Bytes::from(vec![1; 40_000]))).await?;
        let mut left = 40_000;
        while left > 0 {
            let Some(Message::Data(octets)) = stream.recv().await? else { return Ok(()) };
            left -= octets.len();
        }
        Ok(())
    }
    settle(|| b.links.counters().streams_accepted > 200).await;
    stopped.store(true, Ordering::Relaxed);
    b.links.shutdown();
    for task in busy {
        timeout(SOON, task).await.expect("no stream waits for ever").unwrap();
    }
    settle(|| a.links.stream_count() == 0 && b.links.stream_count() == 0).await;
}

#[tokio::test]
async fn a_simulated_transport_needs_no_network() {
    use rookery_link::dial::{Dial, Dialling};
    struct InMemory(Links);
    impl Dial for InMemory {
        fn dial<'a>(&'a self, node: NodeId, _: &'a str) -> Dialling<'a> {
            let there = self.0.clone();
            Box::pin(async move {
                let (near, far) = tokio::io::duplex(8 << 10);
                tokio::spawn(async move { there.accept_over(Box::new(far), identity(1, Duties::ALL)).await });
                Ok((Box::new(near) as rookery_link::BoxTransport, identity(node.0, Duties::ALL)))
            })
        }
    }
    let ca = ca();
    let credentials = |node| ca.credentials(&identity(node, Duties::ALL), SystemTime::now()).unwrap();
    let b = Links::new(&credentials(2), config(1)).unwrap();
    b.serve("hello", Duties::NONE, |incoming| async move {
        let mut stream = incoming.stream;
        stream.send(text("hello")).await.unwrap();
        stream.finish().unwrap();
        while let Ok(Some(_)) = stream.recv().await {}
    });
    let a = Links::with_dial(&credentials(1), config(1), Box::new(InMemory(b.clone()))).unwrap();
    a.set_peers(vec![rookery_link::Peer { id: NodeId(2), address: "nowhere".to_owned() }]);
    timeout(SOON, a.peer(NodeId(2)).wait_for(is_up)).await.unwrap().unwrap();
    let mut stream = a.open(NodeId(2), Class::Interactive, "hello", TraceId(0), Bytes::new()).await.unwrap();
    assert_eq!(stream.recv().await.unwrap(), Some(text("hello")));
}

/// Looks until it is so.
async fn settle(is: impl Fn() -> bool) {
    let looking = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, looking).await.expect("it settles");
}
