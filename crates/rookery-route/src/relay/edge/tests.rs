//! Sessions that go from home to home, and back to the edge.

use super::*;
use crate::relay::home::{HandOver, hand_back, take_value};
use crate::relay::{NoPeers, Reaching};
use parking_lot::Mutex;
use rookery_net::pipe::FramedPipe;
use rookery_types::UserName;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

fn head() -> SessionHead {
    let user = UserName::parse("joe", "a.test").unwrap();
    SessionHead::new(&user, 77, &Stream::from(tokio::io::duplex(1).0), "", "LOGIN")
}

/// Nobody keeps clients.
static CLOSED: std::sync::LazyLock<Keeper> = std::sync::LazyLock::new(Keeper::default);

fn alone(head: &SessionHead) -> Reopening<'_> {
    Reopening { peers: &NoPeers, service: PipeService::Imap, head, keeper: &CLOSED }
}

/// Nodes, each of which takes a session when it is asked the second time.
struct Nodes {
    asked: Mutex<Vec<NodeId>>,
    homes: mpsc::UnboundedSender<FramedPipe<DuplexStream>>,
}

impl Peers for Nodes {
    fn open(&self, node: NodeId, _service: PipeService, head: Bytes) -> Reaching<'_> {
        let head = SessionHead::decode(&head).unwrap();
        assert_eq!((head.trace, head.value_octets), (77, Some(5)));
        let mut asked = self.asked.lock();
        asked.push(node);
        let (near, far) = rookery_net::pipe::in_memory(64);
        if asked.iter().filter(|known| **known == node).count() > 1 {
            self.homes.send(far).unwrap();
        }
        Box::pin(async move { Ok::<Box<dyn Pipe>, PeerError>(Box::new(near)) })
    }
}

/// Hears and answers octets until it has heard so many; then the session moves.
async fn serve(mut far: FramedPipe<DuplexStream>, heard: usize, whither: NodeId) -> Vec<u8> {
    let mut octets = Vec::new();
    while octets.len() < heard {
        let mut some = [0; 7];
        let read = far.read(&mut some).await.unwrap();
        octets.extend_from_slice(&some[..read]);
        far.write_all(&some[..read]).await.unwrap();
        far.flush().await.unwrap();
    }
    // The last three were read and not used.
    let unused = octets.split_off(octets.len() - 3);
    let value = Bytes::from_static(b"value");
    let mut over = HandOver::begin(&mut far, (whither, Epoch(2)), value).await.unwrap();
    over.pass(unused.into()).await.unwrap();
    over.end().await.unwrap();
    far.shutdown().await.unwrap();
    octets
}

async fn resume(mut far: FramedPipe<DuplexStream>) -> FramedPipe<DuplexStream> {
    let value = take_value(&mut far, 5).await.unwrap();
    assert_eq!(value, &b"value"[..]);
    Opening::Resumed.say(&mut far).await.unwrap();
    far
}

#[tokio::test(start_paused = true)]
async fn a_session_goes_on_at_home_after_home_without_losing_an_octet() {
    let (homes, mut opened) = mpsc::unbounded_channel();
    let nodes = Nodes { asked: Mutex::default(), homes };
    let (near, far) = rookery_net::pipe::in_memory(64);
    let (client, socket) = tokio::io::duplex(64);
    let edge = tokio::spawn(async move {
        let (drain, head) = (rookery_net::Drain::new(), head());
        let reopening = Reopening { peers: &nodes, service: PipeService::Imap, head: &head, keeper: &CLOSED };
        relay(
            &mut Stream::from(socket),
            BytesMut::from("1 a "),
            Box::new(near),
            &drain.guard(),
            reopening,
            &mut (),
        )
        .await
    });
    let sent: String = (0..20_000).map(|number| format!("{number:04}")).collect();
    let sent = format!("1 a {sent}");
    let (mut reader, mut writer) = tokio::io::split(client);
    let rest = sent.as_bytes()[4..].to_vec();
    let writing = tokio::spawn(async move {
        writer.write_all(&rest).await.unwrap();
        writer
    });
    // What each home answers is thrown away here.
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
    });
    let mut before = Vec::new();
    let mut home = far;
    for (number, octets) in [100, 5, 30_000, 3, 1000].into_iter().enumerate() {
        let next = NodeId(number as u64 % 2 + 10);
        before.push(tokio::spawn(serve(home, octets, next)));
        home = resume(opened.recv().await.unwrap()).await;
    }
    // Each home before gives back what it has not used only as the next one reads.
    let mut last = Vec::new();
    while !last.ends_with(b"19999") {
        let mut some = [0; 1000];
        let read = home.read(&mut some).await.unwrap();
        assert!(read > 0, "cut off");
        last.extend_from_slice(&some[..read]);
    }
    let mut heard = Vec::new();
    for home in before {
        heard.extend(home.await.unwrap());
    }
    heard.extend(last);
    assert_eq!(String::from_utf8(heard).unwrap(), sent);
    home.shutdown().await.unwrap();
    assert!(matches!(edge.await.unwrap(), Relayed::Ended));
    drop((writing.await.unwrap(), reading.await));
}

#[tokio::test(start_paused = true)]
async fn a_home_that_is_not_found_within_ten_seconds_is_lost() {
    let (near, mut far) = rookery_net::pipe::in_memory(64);
    let (_client, socket) = tokio::io::duplex(64);
    let began = Instant::now();
    let edge = tokio::spawn(async move {
        let (drain, head) = (rookery_net::Drain::new(), head());
        relay(
            &mut Stream::from(socket),
            BytesMut::from("1 a "),
            Box::new(near),
            &drain.guard(),
            alone(&head),
            &mut (),
        )
        .await
    });
    let over = HandOver::begin(&mut far, (NodeId(4), Epoch(2)), Bytes::from_static(b"value")).await.unwrap();
    over.end().await.unwrap();
    assert!(matches!(edge.await.unwrap(), Relayed::Lost(_)));
    let waited = began.elapsed();
    assert!(waited > REOPEN_TIMEOUT / 2 && waited <= REOPEN_TIMEOUT, "{waited:?}");
}

#[tokio::test]
async fn a_home_that_ends_with_something_left_over_is_lost() {
    let (near, mut far) = rookery_net::pipe::in_memory(64);
    let mut old = OldHome { pipe: Box::new(near), ended: false, done: false };
    far.put_note(SessionNote::Rest(Bytes::from_static(b"x")).encode());
    far.shutdown().await.unwrap();
    assert_eq!(poll_fn(|cx| old.poll_octets(cx)).await.unwrap().unwrap(), &b"x"[..]);
    assert!(poll_fn(|cx| old.poll_octets(cx)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_node_says_besides_is_passed_over_wherever_it_comes() {
    let besides = || Bytes::from_static(b"?of a later version");
    let (homes, mut opened) = mpsc::unbounded_channel();
    let nodes = Nodes { asked: Mutex::default(), homes };
    let (near, mut far) = rookery_net::pipe::in_memory(1024);
    let (mut client, socket) = tokio::io::duplex(64);
    let edge = tokio::spawn(async move {
        let (drain, head) = (rookery_net::Drain::new(), head());
        let reopening = Reopening { peers: &nodes, service: PipeService::Imap, head: &head, keeper: &CLOSED };
        let (client, near) = (&mut Stream::from(socket), Box::new(near));
        relay(client, BytesMut::new(), near, &drain.guard(), reopening, &mut ()).await
    });
    // While a session runs.
    let mut heard = [0; 3];
    for said in [b"one", b"two"] {
        far.put_note(besides());
        far.write_all(said).await.unwrap();
        far.flush().await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, said);
    }
    // While it is handed over.
    let (node, piece) = (NodeId(4), |octets| SessionNote::Value(Bytes::from_static(octets)));
    let moved = SessionNote::Moved { node, epoch: Epoch(2), octets: 5 };
    let rest = SessionNote::Rest(Bytes::from_static(b"rest"));
    for note in [moved, piece(b"va"), piece(b"lue"), rest, SessionNote::Done] {
        far.put_note(note.encode());
        far.put_note(besides());
    }
    far.shutdown().await.unwrap();
    let mut home = opened.recv().await.unwrap();
    assert_eq!(take_value(&mut home, 5).await.unwrap(), &b"value"[..]);
    home.put_note(besides());
    Opening::Resumed.say(&mut home).await.unwrap();
    let mut used = [0; 4];
    home.read_exact(&mut used).await.unwrap();
    assert_eq!(&used, b"rest");
    // While it is given back.
    home.put_note(SessionNote::Release.encode());
    home.flush().await.unwrap();
    assert_eq!(home.read(&mut used).await.unwrap(), 0);
    for note in [besides(), SessionNote::Unauthenticated.encode()] {
        home.put_note(note);
    }
    home.flush().await.unwrap();
    assert!(matches!(edge.await.unwrap(), Relayed::Unauthenticated(_)));
    // And to a home that takes a session.
    let (mut near, mut far) = rookery_net::pipe::in_memory(1024);
    for note in [besides(), piece(b"value").encode()] {
        near.put_note(note);
    }
    near.flush().await.unwrap();
    assert_eq!(take_value(&mut far, 5).await.unwrap(), &b"value"[..]);
}

#[tokio::test]
async fn what_a_client_sends_meanwhile_comes_back_in_order() {
    let (near, mut far) = rookery_net::pipe::in_memory(64);
    let (mut client, socket) = tokio::io::duplex(64);
    let edge = tokio::spawn(async move {
        let drain = rookery_net::Drain::new();
        let head = head();
        relay(
            &mut Stream::from(socket),
            BytesMut::from("1 a "),
            Box::new(near),
            &drain.guard(),
            alone(&head),
            &mut (),
        )
        .await
    });
    let mut heard = [0; 2];
    far.read_exact(&mut heard).await.unwrap();
    // While the home gives the client back, it goes on sending.
    let sending = tokio::spawn(async move {
        for number in 0..5000 {
            client.write_all(format!("{number:04}").as_bytes()).await.unwrap();
        }
        client
    });
    hand_back(&mut far, BytesMut::from("unused ")).await.unwrap();
    let Relayed::Unauthenticated(mut rest) = edge.await.unwrap() else { panic!("not given back") };
    assert_eq!(&rest.split_to(9)[..], b"unused a ");
    let expected: String = (0..5000).map(|number| format!("{number:04}")).collect();
    assert!(expected.as_bytes().starts_with(&rest), "{}", rest.len());
    sending.abort();
}

#[tokio::test(start_paused = true)]
async fn a_home_is_told_when_the_edge_ends() {
    let (near, mut far) = rookery_net::pipe::in_memory(64);
    let (_client, socket) = tokio::io::duplex(64);
    let drain = rookery_net::Drain::new();
    let guard = drain.guard();
    let edge = tokio::spawn(async move {
        let head = head();
        relay(&mut Stream::from(socket), BytesMut::new(), Box::new(near), &guard, alone(&head), &mut ()).await
    });
    tokio::task::yield_now().await;
    drain.start();
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(far.take_note().and_then(SessionNote::decode), Some(SessionNote::Leave));
    // It does not say good-bye.
    assert!(matches!(edge.await.unwrap(), Relayed::NeverBegan(_)));
}
