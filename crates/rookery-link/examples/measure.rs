//! Measures links on loopback: `cargo run --release -p rookery-link --example measure [STREAMS]`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for developers")]

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rookery_link::{
    Ca, Class, Duties, Identity, Incoming, LinkStream, Links, LinksConfig, Message, Peer, TraceId,
};
use rookery_types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ROUNDS: usize = 20_000;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let streams: usize = std::env::args().nth(1).map_or(10_000, |number| number.parse().unwrap());
    let ca = Ca::make("measure", SystemTime::now()).unwrap();
    let (edge, _) = node(&ca, 1).await;
    let (home, address) = node(&ca, 2).await;
    home.serve("echo", Duties::NONE, echo);
    home.serve("flood", Duties::NONE, flood);
    edge.set_peers(vec![Peer { id: NodeId(2), address }]);
    edge.peer(NodeId(2)).wait_for(rookery_link::PeerState::takes_streams).await.unwrap();

    let mut stream = open(&edge, Class::Interactive, "echo").await;
    rounds(&mut stream, 2_000).await;
    println!("echo of 64 octets, idle connection: {}", shown(rounds(&mut stream, ROUNDS).await));
    for class in [Class::Bulk, Class::Interactive] {
        let mut flood = open(&edge, class, "flood").await;
        let (began, cpu_before, mut octets) = (Instant::now(), cpu_s(), 0);
        while octets < 2_000_000_000 {
            let Some(Message::Data(piece)) = flood.recv().await.unwrap() else { panic!("ended early") };
            octets += piece.len();
        }
        let (gigabytes, seconds) = (octets as f64 / 1e9, began.elapsed().as_secs_f64());
        let cpu = (cpu_s() - cpu_before) / gigabytes;
        println!("one stream, {class:?}: {:.0} MB/s, {cpu:.2} s of CPU a GB", gigabytes * 1e3 / seconds);
        let flooded = tokio::spawn(async move { while let Ok(Some(_)) = flood.recv().await {} });
        // Twice, as two connections take turns.
        for _ in 0..2 {
            let mut busy = open(&edge, Class::Interactive, "echo").await;
            println!("echo beside it: {}", shown(rounds(&mut busy, ROUNDS).await));
        }
        flooded.abort();
        let _ = flooded.await;
    }

    println!("NOOP straight to the home, plain: {}", shown(noops(home_listener().await).await));
    println!("NOOP through an edge and a link:   {}", shown(noops(edge_listener(edge.clone()).await).await));

    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let before = pss();
    let mut all = Vec::with_capacity(streams);
    for _ in 0..streams {
        let mut stream = open(&edge, Class::Interactive, "echo").await;
        rounds(&mut stream, 1).await;
        all.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    println!(
        "{streams} idle streams: {} octets each, both ends and the echo's tasks together",
        (pss() - before) / streams
    );
}

async fn node(ca: &Ca, id: u64) -> (Links, String) {
    let identity = Identity { node: NodeId(id), name: format!("n{id}"), duties: Duties::ALL };
    let credentials = ca.credentials(&identity, SystemTime::now()).unwrap();
    let links = Links::new(&credentials, LinksConfig::new(1, "measure")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    links.listen(listener);
    (links, address)
}

async fn open(links: &Links, class: Class, service: &str) -> LinkStream {
    links.open(NodeId(2), class, service, TraceId(1), Bytes::new()).await.unwrap()
}

async fn echo(incoming: Incoming) {
    let mut stream = incoming.stream;
    while let Ok(Some(message)) = stream.recv().await {
        if stream.send(message).await.is_err() {
            return;
        }
    }
}

async fn flood(incoming: Incoming) {
    let mut stream = incoming.stream;
    let piece = Bytes::from(vec![7; 256 << 10]);
    while stream.send(Message::Data(piece.clone())).await.is_ok() {}
}

async fn rounds(stream: &mut LinkStream, rounds: usize) -> Vec<Duration> {
    let message = Message::Data(Bytes::from(vec![1; 64]));
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let began = Instant::now();
        stream.send(message.clone()).await.unwrap();
        stream.recv().await.unwrap().unwrap();
        times.push(began.elapsed());
    }
    times
}

/// A home that clients reach by themselves.
async fn home_listener() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            client.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(octets) = client.read(&mut buffer).await {
                    if octets == 0 || client.write_all(&buffer[..octets]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// An edge that pipes clients to the home.
async fn edge_listener(edge: Links) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            client.set_nodelay(true).unwrap();
            let mut stream = open(&edge, Class::Interactive, "echo").await;
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                loop {
                    tokio::select! {
                        read = client.read(&mut buffer) => match read {
                            Ok(octets @ 1..) => stream.send(Message::Data(Bytes::copy_from_slice(&buffer[..octets]))).await.unwrap(),
                            _ => return,
                        },
                        received = stream.recv() => match received {
                            Ok(Some(Message::Data(octets))) => client.write_all(&octets).await.unwrap(),
                            _ => return,
                        },
                    }
                }
            });
        }
    });
    address
}

async fn noops(address: String) -> Vec<Duration> {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (mut times, mut answer) = (Vec::with_capacity(ROUNDS), [0; 11]);
    for round in 0..ROUNDS + 1_000 {
        let began = Instant::now();
        client.write_all(b"a1234 NOOP\n").await.unwrap();
        client.read_exact(&mut answer).await.unwrap();
        if round >= 1_000 {
            times.push(began.elapsed());
        }
    }
    times
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100])
}

/// What this process has computed, in seconds.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

fn pss() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
