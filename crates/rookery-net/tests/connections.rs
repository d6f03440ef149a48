//! A connection's buffers, batches and timeouts.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rookery_net::{Connection, IoError, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LONG: Duration = Duration::from_secs(3600);

fn pair(octets: usize) -> (Connection, tokio::io::DuplexStream) {
    let (server, client) = tokio::io::duplex(octets);
    (Connection::new(Stream::from(server)), client)
}

#[tokio::test(start_paused = true)]
async fn waiting_owns_no_buffer_and_loses_nothing_when_cancelled() {
    let (mut connection, mut client) = pair(1024);
    let mut input = BytesMut::with_capacity(64 * 1024);
    for n in 0..100u8 {
        let waiting = connection.read_some(&mut input, LONG);
        tokio::select! {
            biased;
            _ = waiting => panic!("nothing was sent"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(input.capacity(), 0);
        client.write_all(&[n]).await.unwrap();
        assert_eq!(connection.read_some(&mut input, LONG).await.unwrap(), 1);
        assert_eq!(input.split()[..], [n]);
    }
    client.write_all(b"line").await.unwrap();
    connection.read_some(&mut input, LONG).await.unwrap();
    let line = input.split().freeze();
    assert!(!line.is_unique(), "the empty buffer still holds the memory of what was cut from it");
    tokio::select! {
        biased;
        _ = connection.read_some(&mut input, LONG) => panic!("nothing was sent"),
        () = tokio::task::yield_now() => {}
    }
    assert!(line.is_unique());
    client.write_all(b"half").await.unwrap();
    connection.read_some(&mut input, LONG).await.unwrap();
    let idle = connection.read_some(&mut input, Duration::from_secs(1800)).await;
    assert!(matches!(idle, Err(IoError::Idle)));
    assert_eq!(&input[..], b"half", "what is not used yet stays");
    drop(client);
    assert_eq!(connection.read_some(&mut input, LONG).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_keeps_its_order_over_cancelled_flushes() {
    let (mut connection, mut client) = pair(1000);
    let mut expected = Vec::new();
    for n in 0..50u8 {
        let line = format!("* {n} FETCH\r\n");
        connection.out().extend_from_slice(line.as_bytes());
        let body = vec![n; usize::from(n) * 400];
        connection.push_body(Bytes::from(body.clone()));
        expected.extend_from_slice(line.as_bytes());
        expected.extend_from_slice(&body);
    }
    assert_eq!(connection.unsent_octets(), expected.len());
    assert!(connection.must_flush());
    let reading = tokio::spawn(async move {
        let mut got = Vec::new();
        let mut some = [0; 700];
        loop {
            match client.read(&mut some).await.unwrap() {
                0 => return got,
                n => got.extend_from_slice(&some[..n]),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    while tokio::time::timeout(Duration::from_millis(25), connection.flush()).await.is_err() {}
    assert_eq!(connection.unsent_octets(), 0);
    connection.close().await.unwrap();
    assert_eq!(reading.await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn only_a_client_that_takes_nothing_is_given_up() {
    let (mut connection, mut client) = pair(100);
    connection.set_write_timeout(Duration::from_secs(60));
    connection.out().extend_from_slice(&[b'x'; 1000]);
    let slow = tokio::spawn(async move {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            client.read_exact(&mut [0; 100]).await.unwrap();
        }
        client
    });
    connection.flush().await.unwrap();
    let client = slow.await.unwrap();
    connection.out().extend_from_slice(&[b'x'; 1000]);
    let before = tokio::time::Instant::now();
    assert!(matches!(connection.flush().await, Err(IoError::Stalled)));
    assert_eq!(before.elapsed(), Duration::from_secs(60));
    drop(client);
}

#[tokio::test]
async fn a_large_literal_is_read_into_the_room_made_for_it() {
    let (mut connection, mut client) = pair(256 * 1024);
    client.write_all(&vec![7; 200_000]).await.unwrap();
    let mut input = BytesMut::with_capacity(200_000);
    let mut reads = 0;
    while input.len() < 200_000 {
        connection.read_some(&mut input, LONG).await.unwrap();
        reads += 1;
    }
    assert!(input.iter().all(|&octet| octet == 7));
    assert!(reads <= 3, "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn compression_loses_nothing_over_cancelled_flushes_and_reads() {
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
    let (mut connection, client) = pair(500);
    let (mut from_server, mut to_server) = tokio::io::split(client);
    let reader = tokio::spawn(async move {
        let mut packed = Vec::new();
        from_server.read_to_end(&mut packed).await.unwrap();
        packed
    });
    connection.start_deflate(BytesMut::new());
    let mut packer = Compress::new(Compression::fast(), false);
    let (mut expected, mut input) = (Vec::new(), BytesMut::new());
    for n in 0..40u32 {
        let line: Vec<u8> = (0..2000).map(|k: u32| (k * k * (n + 1) % 251) as u8).collect();
        connection.out().extend_from_slice(&line);
        connection.push_body(Bytes::from(line.repeat(3)));
        expected.extend(line.repeat(4));
        for _ in 0..n {
            tokio::select! {
                biased;
                flushed = connection.flush() => flushed.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
        let mut octets = Vec::with_capacity(4096);
        packer.compress_vec(&line, &mut octets, FlushCompress::Sync).unwrap();
        for half in octets.chunks(octets.len().div_ceil(2)) {
            let write = to_server.write_all(half);
            tokio::pin!(write);
            let mut written = false;
            while !written {
                tokio::select! {
                    read = connection.read_some(&mut input, LONG) => assert!(read.unwrap() > 0),
                    done = &mut write => { done.unwrap(); written = true; }
                }
            }
        }
        while input.len() < line.len() {
            assert!(connection.read_some(&mut input, LONG).await.unwrap() > 0);
        }
        assert_eq!(input.split()[..], line);
    }
    connection.close().await.unwrap();
    let packed = reader.await.unwrap();
    let mut out = Vec::with_capacity(expected.len() + 1);
    let status = Decompress::new(false).decompress_vec(&packed, &mut out, FlushDecompress::None).unwrap();
    assert!(status == Status::StreamEnd && out == expected);
}

#[tokio::test(start_paused = true)]
async fn a_compressed_connection_that_waits_owns_no_buffer_and_takes_no_garbage() {
    let (mut connection, mut client) = pair(1024);
    connection.start_deflate(BytesMut::new());
    let mut input = BytesMut::with_capacity(64 * 1024);
    tokio::select! {
        biased;
        _ = connection.read_some(&mut input, LONG) => panic!("nothing was sent"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!((input.capacity(), connection.unsent_octets()), (0, 0));
    client.write_all(b"a NOOP\r\n a NOOP\r\n").await.unwrap();
    assert!(matches!(connection.read_some(&mut input, LONG).await, Err(IoError::Garbled(_))));
}
