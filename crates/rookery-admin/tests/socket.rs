//! The command line's socket, from end to end.
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rookery_admin::socket::{self, Asker, CallError, Client, FRAME_OCTETS_MAX, Failed, Replies, Request};
use rookery_net::{BindError, Drain};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

async fn handle(request: Request, replies: Replies) -> Result<Value, Failed> {
    match request.verb.as_str() {
        "count" => {
            let to = request.args["to"].as_u64().ok_or_else(|| Failed::new("usage", "to what?"))?;
            for n in 1..=to {
                replies.progress(n, Some(to), "counting").await.ok();
                replies.row(json!({ "n": n })).await.ok();
            }
            Ok(json!(to))
        }
        "echo" => Ok(request.args),
        "who" => Ok(json!(match request.from {
            Asker::User(uid) => uid,
            Asker::Node(_) => 0,
        })),
        "panic" => panic!("as asked"),
        "large" => Ok(json!("x".repeat(FRAME_OCTETS_MAX))),
        "flood" => {
            // Goes on until it learns that nobody reads.
            let mut sent = 0u64;
            while replies.row(json!("x".repeat(1000))).await.is_ok() {
                sent += 1;
            }
            std::fs::write(request.args.as_str().unwrap(), sent.to_string()).unwrap();
            Ok(Value::Null)
        }
        "hang" => std::future::pending().await,
        verb => Err(Failed::new("unknown-verb", format!("'{verb}' is nothing one can ask"))),
    }
}

fn start(path: &Path) -> (Drain, tokio::task::JoinHandle<()>) {
    let drain = Drain::new();
    let socket = socket::bind(path).unwrap();
    (drain.clone(), tokio::spawn(socket.serve(drain, handle)))
}

fn quiet(_: &socket::Progress) {}

#[tokio::test]
async fn requests_are_answered_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin");
    let (drain, server) = start(&path);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(socket::bind(&path), Err(BindError::Answered(_))));

    let mut client = Client::connect(&path).await.unwrap();
    let mut steps = Vec::new();
    let (rows, done) =
        client.call("count", json!({"to": 100}), |p| steps.push((p.done, p.total))).await.unwrap();
    assert_eq!((rows.len(), &rows[99], done), (100, &json!({"n": 100}), json!(100)));
    assert_eq!((steps.len(), steps[0]), (100, (1, Some(100))));

    let failed = |result: Result<_, CallError>| match result {
        Err(CallError::Failed(failed)) => failed.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(client.call("count", Value::Null, quiet).await), "usage");
    assert_eq!(failed(client.call("dance", Value::Null, quiet).await), "unknown-verb");
    assert_eq!(failed(client.call("panic", Value::Null, quiet).await), "server-bug");
    assert_eq!(failed(client.call("large", Value::Null, quiet).await), "too-large");
    let text = "line\nof\u{2028}ümläuts";
    assert_eq!(client.call("echo", json!(text), quiet).await.unwrap().1, json!(text));
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path).unwrap());
    assert_eq!(client.call("who", Value::Null, quiet).await.unwrap().1, json!(own));
    let large = json!("y".repeat(1_000_000));
    assert_eq!(client.call("echo", large.clone(), quiet).await.unwrap().1, large);
    let beyond = json!("y".repeat(FRAME_OCTETS_MAX));
    assert_eq!(failed(client.call("echo", beyond, quiet).await), "too-large");

    // A connection that waits for nothing does not hold the end up.
    assert_eq!(drain.shut_down(Duration::from_secs(10)).await, 0);
    server.await.unwrap();
    assert!(!path.exists());
    assert!(matches!(client.call("who", Value::Null, quiet).await, Err(CallError::Lost(_))));
    assert!(matches!(Client::connect(&path).await, Err(CallError::NoServer { .. })));
}

#[tokio::test]
async fn bad_frames_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin");
    let (drain, server) = start(&path);
    let mut raw = BufReader::new(UnixStream::connect(&path).await.unwrap());
    let mut answer = String::new();
    for bad in
        ["\n", "{}\n", "nonsense\n", "[1]\n", "{\"verb\":7}\n", "{\"verb\":\"echo\",\"arg\":1}\n", "\u{0}\n"]
    {
        raw.write_all(bad.as_bytes()).await.unwrap();
        answer.clear();
        raw.read_line(&mut answer).await.unwrap();
        assert!(answer.starts_with("{\"failed\":{\"code\":\"bad-request\""), "{bad:?} {answer}");
    }
    raw.write_all(b"{\"verb\":\"echo\"}\n{\"verb\":\"ec").await.unwrap();
    answer.clear();
    raw.read_line(&mut answer).await.unwrap();
    assert_eq!(answer, "{\"done\":null}\n");
    drop(raw);

    let mut endless = UnixStream::connect(&path).await.unwrap();
    let filling = vec![b' '; FRAME_OCTETS_MAX];
    endless.write_all(&filling).await.unwrap();
    let mut answer = String::new();
    let _ = endless.read_to_string(&mut answer).await;
    assert!(answer.starts_with("{\"failed\":{\"code\":\"too-large\""), "{answer}");
    drain.shut_down(Duration::from_secs(10)).await;
    server.await.unwrap();
}

#[tokio::test]
async fn a_handler_learns_that_its_client_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin");
    let (drain, server) = start(&path);
    let report = dir.path().join("report");
    let mut raw = UnixStream::connect(&path).await.unwrap();
    let request = json!({"verb": "flood", "args": report.to_str().unwrap()});
    raw.write_all(format!("{request}\n").as_bytes()).await.unwrap();
    raw.read_exact(&mut [0; 100_000]).await.unwrap();
    drop(raw);
    let written = async {
        while !std::fs::read_to_string(&report).is_ok_and(|text| !text.is_empty()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), written).await.unwrap();
    let sent: u64 = std::fs::read_to_string(&report).unwrap().parse().unwrap();
    assert!((99..10_000).contains(&sent), "{sent} rows went nowhere");

    // What never ends is cut with the drain.
    let mut client = Client::connect(&path).await.unwrap();
    let hanging = tokio::spawn(async move { client.call("hang", Value::Null, quiet).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(drain.shut_down(Duration::from_millis(50)).await, 2, "the socket, and what it waits for");
    assert_eq!(drain.guards(), 0, "the handler is gone too");
    server.await.unwrap();
    assert!(hanging.await.unwrap().is_err());
}

#[tokio::test]
async fn another_node_is_answered_over_any_stream() {
    let (near, far) = tokio::io::duplex(4096);
    let drain = Drain::new();
    let handler = |request: Request, _: Replies| async move {
        match request.from {
            Asker::Node(name) => Ok(json!([name, request.args])),
            Asker::User(uid) => Err(Failed::new("not-allowed", uid.to_string())),
        }
    };
    let serving = {
        let drain = drain.clone();
        tokio::spawn(async move { socket::answer_peer(far, "be1.example", &handler, &drain).await })
    };
    let mut client = Client::over(near);
    for n in 0..3 {
        let (_, done) = client.call("echo", json!(n), quiet).await.unwrap();
        assert_eq!(done, json!(["be1.example", n]));
    }
    drain.start();
    serving.await.unwrap().unwrap();
    assert!(matches!(client.call("echo", Value::Null, quiet).await, Err(CallError::Lost(_))));
}
