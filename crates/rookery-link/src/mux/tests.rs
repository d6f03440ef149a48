//! The multiplexer over transports in memory, in virtual time.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::Context;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::*;
use crate::peer::Peer;

mod model;

/// Gives each stream to whoever waits for it.
struct ToChannel(mpsc::UnboundedSender<Incoming>);

impl Accept for ToChannel {
    fn service(&self, _: &PeerFacts, service: &str) -> Result<Serve, (ResetCode, &'static str)> {
        if service != "test" {
            return Err((ResetCode::NO_SERVICE, "no such service"));
        }
        let to = self.0.clone();
        Ok(Box::new(move |incoming| drop(to.send(incoming))))
    }
}

struct Side {
    mux: Arc<Mux>,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    budget: Arc<Budget>,
}

const BUDGET: usize = 4 << 20;

fn side(io: BoxTransport, dialled: bool, streams: usize) -> Side {
    let (sender, incoming) = mpsc::unbounded_channel();
    let budget = Arc::new(Budget::new(BUDGET));
    let shared = Shared {
        accept: Arc::new(ToChannel(sender)),
        budget: Arc::clone(&budget),
        counters: Arc::default(),
        limits: StreamLimits { incoming: streams, outgoing: usize::MAX },
        emptied: Arc::default(),
    };
    let facts = PeerFacts {
        node: NodeId(if dialled { 2 } else { 1 }),
        name: "peer".to_owned(),
        duties: Duties::ALL,
        boot: 1,
        program: "test".to_owned(),
        protocol: 1,
    };
    Side { mux: Mux::start(io, Decoder::new(), Arc::new(facts), dialled, &shared), incoming, budget }
}

fn pair(buffer: usize) -> (Side, Side) {
    let (a, b) = duplex(buffer);
    (side(Box::new(a), true, usize::MAX), side(Box::new(b), false, usize::MAX))
}

async fn stream(a: &Side, b: &mut Side) -> (LinkStream, LinkStream) {
    let ours = a.mux.open("test", TraceId(7), Bytes::from_static(b"head")).await.unwrap();
    let theirs = b.incoming.recv().await.unwrap();
    assert_eq!((theirs.trace, &theirs.head[..]), (TraceId(7), &b"head"[..]));
    (ours, theirs.stream)
}

fn data(octets: &'static [u8]) -> Message {
    Message::Data(Bytes::from_static(octets))
}

/// The raw other end of a connection, for peers that do not behave.
struct Raw {
    io: DuplexStream,
    decoder: Decoder,
}

impl Raw {
    fn against() -> (Side, Raw) {
        let (a, b) = duplex(1 << 20);
        (side(Box::new(a), true, 10), Raw { io: b, decoder: Decoder::new() })
    }

    async fn say(&mut self, frame: Frame) {
        self.io.write_all(&frame.to_vec()).await.unwrap();
    }

    /// The next frame but beats; `None`: the connection ended.
    async fn hear(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next_frame().unwrap() {
                Some(Frame::Beat) => continue,
                Some(frame) => return Some(frame),
                None => {}
            }
            if self.io.read_buf(self.decoder.room(4096)).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

fn open(stream: u32) -> Frame {
    Frame::Open { stream, trace: TraceId(0), service: "test".to_owned(), head: Bytes::new() }
}

#[tokio::test(start_paused = true)]
async fn messages_pass_in_order_both_ways_and_each_side_ends_by_itself() {
    let (a, mut b) = pair(64 << 10);
    let (mut ours, mut theirs) = stream(&a, &mut b).await;
    ours.send(data(b"one")).await.unwrap();
    ours.send(Message::Control(Bytes::from_static(b"two"))).await.unwrap();
    ours.finish().unwrap();
    assert_eq!(theirs.recv().await.unwrap(), Some(data(b"one")));
    assert_eq!(theirs.recv().await.unwrap(), Some(Message::Control(Bytes::from_static(b"two"))));
    assert_eq!(theirs.recv().await.unwrap(), None);
    assert!(matches!(ours.send(data(b"more")).await, Err(LinkError::Misuse(_))));
    theirs.send(data(b"answer")).await.unwrap();
    theirs.finish().unwrap();
    assert_eq!(ours.recv().await.unwrap(), Some(data(b"answer")));
    assert_eq!(ours.recv().await.unwrap(), None);
    assert_eq!((a.mux.stream_count(), b.mux.stream_count()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_half_that_is_dropped_unfinished_resets_the_stream() {
    let (a, mut b) = pair(64 << 10);
    let (mut ours, mut theirs) = stream(&a, &mut b).await;
    ours.send(data(b"half of it")).await.unwrap();
    drop(ours);
    assert_eq!(theirs.recv().await.unwrap(), Some(data(b"half of it")));
    let error = theirs.recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Reset { code: ResetCode::DROPPED, .. }), "{error:?}");
    assert!(!error.cannot_have_reached());
    drop(theirs);

    let (ours, theirs) = stream(&a, &mut b).await;
    theirs.reset("the disk is full");
    let (mut send, mut recv) = ours.split();
    let error = recv.recv().await.unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
    assert!(matches!(send.send(data(b"x")).await, Err(LinkError::Reset { code: ResetCode::FAILED, .. })));
    assert_eq!((a.mux.stream_count(), b.mux.stream_count()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn streams_that_no_service_saw_cannot_have_reached_it() {
    let (a, b) = duplex(64 << 10);
    let (a, mut b) = (side(Box::new(a), true, 10), side(Box::new(b), false, 1));
    let mut nobody = a.mux.open("other", TraceId(0), Bytes::new()).await.unwrap();
    let error = nobody.recv().await.unwrap_err();
    assert!(
        matches!(error, LinkError::Refused { code: ResetCode::NO_SERVICE, .. })
            && error.cannot_have_reached()
    );

    let (_ours, _theirs) = stream(&a, &mut b).await;
    let mut second = a.mux.open("test", TraceId(0), Bytes::new()).await.unwrap();
    let error = second.recv().await.unwrap_err();
    assert!(
        matches!(error, LinkError::Refused { code: ResetCode::TOO_MANY, .. }) && error.cannot_have_reached()
    );

    b.mux.retire(true);
    let mut health = a.mux.health();
    health.wait_for(|_| a.mux.retired() == Some(true)).await.unwrap();
    let error = a.mux.open("test", TraceId(0), Bytes::new()).await.err().unwrap();
    assert!(
        matches!(error, LinkError::Refused { code: ResetCode::DRAINING, .. }) && error.cannot_have_reached()
    );
}

#[tokio::test(start_paused = true)]
async fn a_retired_connection_ends_with_its_last_stream() {
    let (a, mut b) = pair(64 << 10);
    let (mut ours, mut theirs) = stream(&a, &mut b).await;
    b.mux.retire(false);
    ours.send(data(b"x")).await.unwrap();
    assert_eq!(theirs.recv().await.unwrap(), Some(data(b"x")));
    assert!(!b.mux.has_ended());
    ours.finish().unwrap();
    theirs.finish().unwrap();
    assert_eq!(ours.recv().await.unwrap(), None);
    a.mux.health().wait_for(|health| matches!(health, Health::Ended(_))).await.unwrap();
    assert!(b.mux.has_ended());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_last_stream_is_heard_before_the_end_of_its_connection() {
    let (a, mut b) = pair(64 << 10);
    let (mut ours, mut theirs) = stream(&a, &mut b).await;
    b.mux.retire(false);
    ours.finish().unwrap();
    assert_eq!(theirs.recv().await.unwrap(), None);
    let mut last = Bytes::from_static(b"last");
    let put = |cx: &mut Context<'_>| theirs.halves().0.poll_put_control(&mut last, cx);
    poll_fn(put).await.unwrap();
    theirs.finish().unwrap();
    assert!(b.mux.has_ended());
    assert_eq!(ours.recv().await.unwrap(), Some(Message::Control(Bytes::from_static(b"last"))));
    assert_eq!(ours.recv().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_retired_connection_keeps_its_streams_when_the_peer_dials_anew() {
    let peer = Arc::new(Peer::new(NodeId(2), None));
    let (theirs, mut first) = pair(64 << 10);
    peer.adopt(0, &first.mux, true).unwrap();
    let (mut asking, mut answering) = stream(&theirs, &mut first).await;
    // Both have dialled; then the connection that stays is lost.
    let (ours, _other) = pair(64 << 10);
    peer.adopt(0, &ours.mux, true).unwrap();
    assert!(first.mux.is_retiring());
    ours.mux.end("the network", None);
    let (_anew, third) = pair(64 << 10);
    peer.adopt(0, &third.mux, true).unwrap();
    answering.send(data(b"x")).await.unwrap();
    assert_eq!(asking.recv().await.unwrap(), Some(data(b"x")));
}

/// A wire that can swallow everything without a word.
struct Hole {
    io: DuplexStream,
    closed: Arc<AtomicBool>,
}

impl AsyncRead for Hole {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.closed.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Hole {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.closed.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_without_a_word_is_suspect_and_then_down() {
    let closed = Arc::new(AtomicBool::new(false));
    let (a, b) = duplex(64 << 10);
    let a = side(Box::new(Hole { io: a, closed: Arc::clone(&closed) }), true, 10);
    let mut b = side(Box::new(b), false, 10);
    let (mut ours, _theirs) = stream(&a, &mut b).await;
    sleep(Duration::from_secs(10)).await;
    assert!(a.mux.is_good() && b.mux.is_good());

    closed.store(true, Ordering::Relaxed);
    let gone = Instant::now();
    ours.send(data(b"into nothing")).await.unwrap();
    let mut health = a.mux.health();
    health.wait_for(|health| *health == Health::Suspect).await.unwrap();
    assert!(gone.elapsed() <= SUSPECT_AFTER + 2 * BEAT, "{:?}", gone.elapsed());
    let error = ours.recv().await.unwrap_err();
    assert!(
        gone.elapsed() >= DOWN_AFTER - BEAT && gone.elapsed() <= DOWN_AFTER + 2 * BEAT,
        "{:?}",
        gone.elapsed()
    );
    assert!(matches!(error, LinkError::Lost { reach: Reach::Unknown, .. }), "{error:?}");
    let error = a.mux.open("test", TraceId(0), Bytes::new()).await.err().unwrap();
    assert!(error.cannot_have_reached());
}

#[tokio::test(start_paused = true)]
async fn what_never_left_this_node_cannot_have_reached_the_peer() {
    // Nobody reads at the other end, and the wire holds little.
    let (io, _kept) = duplex(256);
    let a = side(Box::new(io), true, 10);
    let mut first = a.mux.open("test", TraceId(0), Bytes::from(vec![7; 4_000])).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    let mut second = a.mux.open("test", TraceId(0), Bytes::from(vec![8; 4_000])).await.unwrap();
    a.mux.end("for the test", None);
    let (first, second) = (first.recv().await.unwrap_err(), second.recv().await.unwrap_err());
    assert_eq!((first.reach(), second.reach()), (Reach::Unknown, Reach::Not), "{first:?} {second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_the_rules_is_cut_off() {
    let credit = |octets| Frame::Credit { stream: 2, octets };
    let piece = |octets: usize| Frame::Data { stream: 2, octets: Bytes::from(vec![1; octets]) };
    let finish = || Frame::Finish { stream: 2 };
    let cases: Vec<(&str, Vec<Frame>)> = vec![
        ("more than its credit", vec![open(2), piece(16_000), piece(16_000)]),
        ("many empty messages", [vec![open(2)], vec![piece(0); 257]].concat()),
        ("a number of the other half", vec![open(1)]),
        ("a number again", vec![open(2), open(2)]),
        ("a stream never begun", vec![Frame::Data { stream: 4, octets: Bytes::new() }]),
        ("a stream of ours never begun", vec![Frame::Finish { stream: 1 }]),
        ("two ends", vec![open(2), finish(), finish()]),
        ("octets after the end", vec![open(2), finish(), piece(1)]),
        ("endless credit", vec![open(2), credit(u32::MAX)]),
        ("more than can be credit", vec![open(2), credit(WINDOW_OCTETS_MAX)]),
        ("credit back that it had not", vec![open(2), Frame::GiveBack { stream: 2, octets: 1 }]),
        (
            "a second hello",
            vec![Frame::Hello(crate::frame::Hello {
                oldest: 1,
                newest: 1,
                chosen: 1,
                node: NodeId(2),
                boot: 1,
                slot: 0,
                program: String::new(),
            })],
        ),
    ];
    for (what, frames) in cases {
        let (side, mut raw) = Raw::against();
        for frame in frames {
            raw.say(frame).await;
        }
        let goodbye = timeout(Duration::from_secs(1), raw.hear()).await;
        let said = goodbye.unwrap_or_else(|_| panic!("{what}: not cut off"));
        assert!(matches!(said, Some(Frame::Goodbye { code: GoodbyeCode::PROTOCOL, .. })), "{what}: {said:?}");
        assert_eq!(raw.hear().await, None, "{what}");
        assert!(side.mux.has_ended() && side.mux.stream_count() == 0, "{what}");
        assert_eq!(side.mux.counters.snapshot().protocol_errors, 1, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn frames_for_a_stream_that_is_over_are_late_and_do_no_harm() {
    let (mut side, mut raw) = Raw::against();
    raw.say(open(2)).await;
    side.incoming.recv().await.unwrap().stream.reset("enough");
    assert!(matches!(raw.hear().await, Some(Frame::Reset { stream: 2, .. })));
    raw.say(Frame::Data { stream: 2, octets: Bytes::from_static(b"late") }).await;
    raw.say(Frame::Credit { stream: 2, octets: 9 }).await;
    raw.say(Frame::Finish { stream: 2 }).await;
    raw.say(open(4)).await;
    assert!(side.incoming.recv().await.is_some());
    assert!(!side.mux.has_ended());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_does_not_read_is_cut_off() {
    let (io, mut peer) = duplex(64 << 10);
    let side = side(Box::new(io), true, 0);
    // Each of these is answered by a reset.
    let asking = async {
        for stream in (2..).step_by(2) {
            if peer.write_all(&open(stream).to_vec()).await.is_err() || side.mux.has_ended() {
                return;
            }
        }
    };
    timeout(Duration::from_secs(2), asking).await.expect("cut off before the heart is missed");
    assert!(side.mux.why_ended().unwrap().contains("does not read"), "{:?}", side.mux.why_ended());
}

#[tokio::test(start_paused = true)]
async fn a_sender_waits_for_credit_and_a_window_grows_only_for_a_quick_receiver() {
    let (a, mut b) = pair(1 << 20);
    let (mut ours, mut theirs) = stream(&a, &mut b).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let sender = tokio::spawn(async move {
        for _ in 0..1_000 {
            ours.send(Message::Data(Bytes::from(vec![5; 8 << 10]))).await.unwrap();
            count.fetch_add(8 << 10, Ordering::Relaxed);
        }
        ours.finish().unwrap();
        ours.recv().await.unwrap();
    });
    // Nothing is received: no more than the window is under way.
    sleep(Duration::from_secs(5)).await;
    assert!(sent.load(Ordering::Relaxed) < WINDOW_OCTETS_BASE as usize, "{sent:?}");
    assert_eq!(b.budget.left_octets(), BUDGET);
    // A receiver that takes its time gets no more.
    let (mut octets, mut least) = (0, BUDGET);
    for _ in 0..10 {
        let Some(Message::Data(piece)) = theirs.recv().await.unwrap() else { panic!("ended early") };
        octets += piece.len();
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(b.budget.left_octets(), BUDGET);
    while let Some(Message::Data(piece)) = theirs.recv().await.unwrap() {
        octets += piece.len();
        least = least.min(b.budget.left_octets());
    }
    assert_eq!(octets, 1_000 * (8 << 10));
    assert!(least < BUDGET, "the window has grown");
    assert_eq!(b.budget.left_octets(), BUDGET, "and what it took is given back at the end");
    theirs.finish().unwrap();
    sender.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn credit_that_is_not_used_goes_back_to_the_budget() {
    let (a, mut b) = pair(1 << 20);
    let (mut ours, mut theirs) = stream(&a, &mut b).await;
    let receiver = tokio::spawn(async move {
        let mut left = 4 << 20;
        while left > 0 {
            let Some(Message::Data(piece)) = theirs.recv().await.unwrap() else { panic!("ended early") };
            left -= piece.len();
        }
        theirs
    });
    ours.send(Message::Data(Bytes::from(vec![5; 4 << 20]))).await.unwrap();
    let mut theirs = receiver.await.unwrap();
    assert!(b.budget.left_octets() < BUDGET, "the window has grown");
    sleep(BEAT * 3 * BEATS_PER_SWEEP).await;
    assert_eq!(b.budget.left_octets(), BUDGET);
    ours.send(data(b"still usable")).await.unwrap();
    assert_eq!(theirs.recv().await.unwrap(), Some(data(b"still usable")));
}

#[tokio::test(start_paused = true)]
async fn streams_take_turns_on_a_slow_connection() {
    // The wire takes 1,000 octets at a time, so the queue is always full.
    let (a, mut b) = pair(1_000);
    let (mut much, mut much_there) = stream(&a, &mut b).await;
    let (mut little, mut little_there) = stream(&a, &mut b).await;
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    tokio::spawn(
        async move { while much.send(Message::Data(Bytes::from(vec![1; 1 << 20]))).await.is_ok() {} },
    );
    tokio::spawn(async move {
        while let Ok(Some(Message::Data(piece))) = much_there.recv().await {
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    while received.load(Ordering::Relaxed) < 4 << 20 {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        let before = received.load(Ordering::Relaxed);
        little.send(data(b"hello")).await.unwrap();
        assert_eq!(little_there.recv().await.unwrap(), Some(data(b"hello")));
        let between = received.load(Ordering::Relaxed) - before;
        assert!(between <= 256 << 10, "{between} octets of the other stream came first");
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_sending_holds_nobody_up() {
    let (a, mut b) = pair(1_000);
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(stream(&a, &mut b).await);
    }
    // All of them want a turn, and most give up while they wait for it.
    let give_up = streams.iter_mut().map(|(ours, _)| async {
        let long = ours.send(Message::Data(Bytes::from(vec![1; 12_000])));
        let _ = timeout(Duration::ZERO, long).await;
    });
    for one in give_up {
        one.await;
    }
    let (ours, theirs) = &mut streams[0];
    let done = async {
        ours.send(data(b"through")).await.unwrap();
        loop {
            match theirs.recv().await.unwrap() {
                Some(Message::Data(octets)) if &octets[..] == b"through" => return,
                Some(_) => {}
                None => panic!("ended early"),
            }
        }
    };
    timeout(Duration::from_secs(2), done).await.expect("nobody holds the turn");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_streams_on_one_connection() {
    let (a, mut b) = pair(64 << 10);
    let echo = tokio::spawn(async move {
        while let Some(incoming) = b.incoming.recv().await {
            tokio::spawn(async move {
                let mut stream = incoming.stream;
                while let Some(message) = stream.recv().await.unwrap() {
                    stream.send(message).await.unwrap();
                }
                stream.finish().unwrap();
            });
        }
    });
    let mut streams = Vec::new();
    for _ in 0..10_000 {
        streams.push(a.mux.open("test", TraceId(0), Bytes::new()).await.unwrap());
    }
    assert_eq!(a.mux.stream_count(), 10_000);
    for (at, stream) in streams.iter_mut().enumerate() {
        stream.send(Message::Data(Bytes::from(at.to_string()))).await.unwrap();
    }
    for (at, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.recv().await.unwrap(), Some(Message::Data(Bytes::from(at.to_string()))));
        stream.finish().unwrap();
        assert_eq!(stream.recv().await.unwrap(), None);
    }
    assert_eq!(a.mux.stream_count(), 0);
    echo.abort();
}
