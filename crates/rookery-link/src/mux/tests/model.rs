//! Random use of many streams against a naive model: what comes out of a stream is what went in, in order, whole
//! unless somebody reset it; nothing hangs, and nothing is left over.

use proptest::prelude::*;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Open {
        dialler: bool,
    },
    Data {
        stream: usize,
        dialler: bool,
        octets: usize,
    },
    Control {
        stream: usize,
        dialler: bool,
        octets: usize,
    },
    Finish {
        stream: usize,
        dialler: bool,
    },
    Reset {
        stream: usize,
        dialler: bool,
    },
    /// The receiver may take so many more messages.
    Allow {
        stream: usize,
        dialler: bool,
        messages: usize,
    },
    /// Everybody may run until nothing moves.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let at = || (0_usize..64, any::<bool>());
    prop_oneof![
        2 => any::<bool>().prop_map(|dialler| Step::Open { dialler }),
        6 => (at(), prop_oneof![0_usize..100, 100_usize..60_000]).prop_map(|((stream, dialler), octets)| {
            Step::Data { stream, dialler, octets }
        }),
        3 => (at(), 0_usize..CONTROL_OCTETS_MAX + 1).prop_map(|((stream, dialler), octets)| {
            Step::Control { stream, dialler, octets }
        }),
        1 => at().prop_map(|(stream, dialler)| Step::Finish { stream, dialler }),
        1 => at().prop_map(|(stream, dialler)| Step::Reset { stream, dialler }),
        4 => (at(), 0_usize..20).prop_map(|((stream, dialler), messages)| Step::Allow { stream, dialler, messages }),
        2 => Just(Step::Settle),
    ]
}

enum Order {
    Send(Message),
    Finish,
    Reset,
}

/// What passed in one direction: octets of data joined, control messages whole.
#[derive(Clone, Debug, Default, PartialEq)]
struct Passed(Vec<Message>);

impl Passed {
    fn push(&mut self, message: Message) {
        match (self.0.last_mut(), message) {
            (_, Message::Data(octets)) if octets.is_empty() => {}
            (Some(Message::Data(before)), Message::Data(octets)) => {
                *before = [&before[..], &octets[..]].concat().into()
            }
            (_, message) => self.0.push(message),
        }
    }

    fn is_start_of(&self, whole: &Passed) -> bool {
        let Some((last, before)) = self.0.split_last() else { return true };
        let starts = before.len() < whole.0.len() && before == &whole.0[..before.len()];
        starts
            && match (last, &whole.0[before.len()]) {
                (Message::Data(part), Message::Data(whole)) => whole.starts_with(part),
                (part, whole) => part == whole,
            }
    }
}

struct Direction {
    orders: mpsc::UnboundedSender<Order>,
    allowed: Arc<Semaphore>,
    sent: Passed,
    finished: bool,
    sender: JoinHandle<()>,
    receiver: JoinHandle<(Passed, Result<(), LinkError>)>,
}

fn direction(mut send: SendHalf, mut recv: RecvHalf) -> Direction {
    let (orders, mut todo) = mpsc::unbounded_channel();
    let allowed = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&allowed);
    let sender = tokio::spawn(async move {
        while let Some(order) = todo.recv().await {
            // A stream that somebody has reset takes nothing more.
            match order {
                Order::Send(message) => drop(send.send(message).await),
                Order::Finish => drop(send.finish()),
                Order::Reset => return send.reset("by the model"),
            }
        }
        let _ = send.finish();
    });
    let receiver = tokio::spawn(async move {
        let mut passed = Passed::default();
        loop {
            let _permit = permits.acquire().await.map(tokio::sync::SemaphorePermit::forget);
            match recv.recv().await {
                Ok(Some(message)) => passed.push(message),
                Ok(None) => return (passed, Ok(())),
                Err(error) => return (passed, Err(error)),
            }
        }
    });
    Direction { orders, allowed, sent: Passed::default(), finished: false, sender, receiver }
}

/// Octets that differ by place, so that pieces in the wrong order show.
fn octets(seed: usize, length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from((at.wrapping_mul(31) ^ seed ^ (at >> 8)) & 0xff).unwrap()).collect()
}

async fn run(steps: Vec<Step>, wire: usize) {
    let (mut a, mut b) = pair(wire);
    // For each stream: what the dialling side sends, what the accepting side sends.
    let mut streams: Vec<[Direction; 2]> = Vec::new();
    let mut reset = Vec::new();
    for (seed, step) in steps.into_iter().enumerate() {
        let of = |stream: usize, count: usize| (count > 0).then(|| stream % count);
        match step {
            Step::Open { dialler } => {
                let (ours, theirs) =
                    if dialler { stream(&a, &mut b).await } else { stream(&b, &mut a).await };
                let (ours, theirs) = if dialler { (ours, theirs) } else { (theirs, ours) };
                let ((our_send, our_recv), (their_send, their_recv)) = (ours.split(), theirs.split());
                streams.push([direction(our_send, their_recv), direction(their_send, our_recv)]);
                reset.push(false);
            }
            Step::Data { stream, dialler, octets: length } => {
                let Some(at) = of(stream, streams.len()) else { continue };
                let way = &mut streams[at][usize::from(!dialler)];
                send(way, Message::Data(octets(seed, length)));
            }
            Step::Control { stream, dialler, octets: length } => {
                let Some(at) = of(stream, streams.len()) else { continue };
                let way = &mut streams[at][usize::from(!dialler)];
                send(way, Message::Control(octets(seed, length)));
            }
            Step::Finish { stream, dialler } => {
                let Some(at) = of(stream, streams.len()) else { continue };
                let way = &mut streams[at][usize::from(!dialler)];
                way.finished = true;
                let _ = way.orders.send(Order::Finish);
            }
            Step::Reset { stream, dialler } => {
                let Some(at) = of(stream, streams.len()) else { continue };
                reset[at] = true;
                let _ = streams[at][usize::from(!dialler)].orders.send(Order::Reset);
            }
            Step::Allow { stream, dialler, messages } => {
                let Some(at) = of(stream, streams.len()) else { continue };
                streams[at][usize::from(!dialler)].allowed.add_permits(messages);
            }
            Step::Settle => sleep(Duration::from_millis(20)).await,
        }
    }
    for (ways, reset) in streams.into_iter().zip(reset) {
        for way in ways {
            way.allowed.add_permits(Semaphore::MAX_PERMITS / 2);
            drop(way.orders);
            let (passed, end) = way.receiver.await.unwrap();
            way.sender.await.unwrap();
            match end {
                Ok(()) => assert_eq!(passed, way.sent, "an end came, so all must have come"),
                Err(error) => {
                    assert!(reset, "nobody reset this stream: {error}");
                    assert!(passed.is_start_of(&way.sent), "what came is not what was sent first");
                }
            }
        }
    }
    sleep(Duration::from_millis(20)).await;
    for side in [&a, &b] {
        assert!(!side.mux.has_ended(), "{:?}", side.mux.why_ended());
        assert_eq!(side.mux.stream_count(), 0);
        assert_eq!(side.budget.left_octets(), BUDGET);
    }
}

fn send(way: &mut Direction, message: Message) {
    if !way.finished {
        way.sent.push(message.clone());
        let _ = way.orders.send(Order::Send(message));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn streams_do_what_a_naive_model_does(
        steps in prop::collection::vec(step(), 1..120),
        wire in prop_oneof![1 => Just(7_usize), 4 => 100_usize..2_000, 4 => Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            timeout(Duration::from_secs(600), run(steps, wire)).await.expect("something hangs");
        });
    }
}
