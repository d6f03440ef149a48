//! Pipes over streams, with notes between the octets.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn notes_come_where_they_were_put() {
    let (mut one, mut other) = in_memory(7);
    let sender = tokio::spawn(async move {
        one.write_all(b"before").await.unwrap();
        one.put_note(Bytes::from_static(b"note"));
        one.write_all(b"behind").await.unwrap();
        one.shutdown().await.unwrap();
    });
    let mut before = Vec::new();
    other.read_to_end(&mut before).await.unwrap();
    assert_eq!(before, b"before");
    assert_eq!(other.take_note().unwrap(), &b"note"[..]);
    let mut behind = Vec::new();
    other.read_to_end(&mut behind).await.unwrap();
    assert_eq!((behind.as_slice(), other.take_note()), (&b"behind"[..], None));
    sender.await.unwrap();
}

/// A far half that repeats what it hears, and ends after a note at a full stop.
async fn echo(mut far: FramedPipe<DuplexStream>) {
    let mut heard = [0; 1000];
    loop {
        let octets = far.read(&mut heard).await.unwrap();
        let heard = &heard[..octets];
        far.write_all(heard).await.unwrap();
        if octets == 0 || heard.contains(&b'.') {
            far.put_note(Bytes::from_static(b"stop"));
            far.flush().await.unwrap();
            return;
        }
        far.flush().await.unwrap();
    }
}

#[tokio::test]
async fn a_relay_passes_everything_and_stops_at_notes() {
    let (near, far) = in_memory(1000);
    let far = tokio::spawn(echo(far));
    let (mut client, socket) = tokio::io::duplex(64);
    let relaying = tokio::spawn(async move {
        let (mut stream, mut near) = (Stream::from(socket), near);
        let mut relay = Relay::new(BytesMut::from("early "));
        let first = relay.run(&mut stream, &mut near, &mut ()).await;
        assert!(matches!(&first, Stopped::Note(note) if note == "stop"), "{first:?}");
        assert!(matches!(relay.run(&mut stream, &mut near, &mut ()).await, Stopped::Ended));
        (relay.octets_in, relay.octets_out)
    });
    let sent = [b"x".repeat(100_000), b".".to_vec()].concat();
    let (mut reader, mut writer) = tokio::io::split(client);
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer
    });
    let mut heard = vec![0; 100_007];
    reader.read_exact(&mut heard).await.unwrap();
    assert!(heard.starts_with(b"early xx") && heard.ends_with(b"x."));
    far.await.unwrap();
    assert_eq!(relaying.await.unwrap(), (100_007, 100_007));
    client = reader.unsplit(writing.await.unwrap());
    drop(client);
}

#[tokio::test]
async fn two_pipes_become_one() {
    let ((mut client, mut near), (mut far, mut home)) = (in_memory(50), in_memory(50));
    let joined = tokio::spawn(async move {
        let last = async { Bytes::from_static(b"leave") };
        join(&mut near, &mut far, last).await
    });
    let sent = tokio::spawn(async move {
        client.put_note(Bytes::from_static(b"head"));
        client.put_note(Bytes::from_static(b"value"));
        client.flush().await.unwrap();
        let mut taken = [0; 5];
        client.read_exact(&mut taken).await.unwrap();
        client.write_all(&[b'x'; 70_000]).await.unwrap();
        client.put_note(Bytes::from_static(b"tail"));
        client.shutdown().await.unwrap();
        client
    });
    let (mut octets, mut notes, mut heard) = (0, Vec::new(), [0; 100]);
    // It is not told to leave before it has taken up what it is to leave.
    while notes.len() < 2 {
        assert_eq!(home.read(&mut heard).await.unwrap(), 0);
        notes.extend(home.take_note());
    }
    assert_eq!(notes, ["head", "value"].map(Bytes::from).to_vec());
    home.write_all(b"taken").await.unwrap();
    home.flush().await.unwrap();
    loop {
        match home.read(&mut heard).await.unwrap() {
            0 => match home.take_note() {
                Some(note) => notes.push(note),
                None => break,
            },
            read => octets += read,
        }
    }
    assert_eq!((octets, &notes[2..]), (70_000, &["leave", "tail"].map(Bytes::from)[..]));
    // The other way goes on, and ends it.
    let mut client = sent.await.unwrap();
    home.write_all(b"answer").await.unwrap();
    home.put_note(Bytes::from_static(b"moved"));
    home.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!((&answer[..], client.take_note()), (&b"answer"[..], Some(Bytes::from_static(b"moved"))));
    joined.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_relay_behind_its_last_octet() {
    let (mut near, mut far) = in_memory(1000);
    let (mut client, socket) = tokio::io::duplex(64);
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let stopped = Relay::default().run(&mut Stream::from(socket), &mut near, &mut ()).await;
    assert!(matches!(stopped, Stopped::Client));
    near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"last words");
}

#[tokio::test]
async fn a_far_half_that_is_cut_off_is_no_end() {
    let (one, mut other) = tokio::io::duplex(64);
    other.write_all(&[OCTETS, 0, 9, b'x']).await.unwrap();
    drop(other);
    let (_client, socket) = tokio::io::duplex(64);
    let stopped = Relay::default().run(&mut Stream::from(socket), &mut FramedPipe::new(one), &mut ()).await;
    assert!(matches!(stopped, Stopped::Lost(_)), "{stopped:?}");
}
