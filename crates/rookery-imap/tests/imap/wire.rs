//! Octets: literals, pipelining, lines too long, commands that are none, limits, the server's end.

use crate::harness::Site;
use rookery_imap::ImapConfig;
use std::time::Duration;

#[tokio::test]
async fn literals_and_pipelined_commands() {
    let site = Site::new().await;
    site.play(
        r"
        X~ 1 LOGIN {3}
        X< + OK
        X~ ann {6}
        X< + OK
        X~ secret
        X< 1 OK <*>
        X~ 2 NOOP\n3 STATUS INBOX (MESSAGES)\n4 NOOP
        X< 2 OK <*>
        X< * STATUS INBOX (MESSAGES 0)
        X< 3 OK <*>
        X< 4 OK <*>
        X> 5 APPEND INBOX {99999999999}
        X< 5 NO [TOOBIG] <*>
        X> 6 NOOP
        X< 6 OK <*>
        ",
    )
    .await;
}

#[tokio::test]
async fn nul_in_a_message_is_refused_and_the_stream_stays_in_step() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    client.send_octets(b"1 APPEND INBOX {5+}\r\na\0b\r\n\r\n").await;
    let heard = client.until("1 ").await;
    assert!(heard[0].starts_with("1 NO"), "{heard:?}");
    let heard = client.command("2 STATUS INBOX (MESSAGES)").await;
    assert_eq!(heard[0], "* STATUS INBOX (MESSAGES 0)");
}

#[tokio::test]
async fn a_line_of_a_megabyte_is_bad_and_no_more() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    let mut line = b"1 NOOP ".to_vec();
    line.resize(1_000_000, b'x');
    line.extend_from_slice(b"\r\n2 NOOP\r\n");
    client.send_octets(&line).await;
    let heard = client.until("2 ").await;
    assert!(heard[0].starts_with("1 BAD") || heard[0].starts_with("* BAD"), "{heard:?}");
    assert!(heard.last().unwrap().starts_with("2 OK"), "{heard:?}");
}

#[tokio::test]
async fn a_client_that_speaks_nonsense_is_sent_away() {
    let site = Site::with(ImapConfig { bad_commands_max: 3, ..ImapConfig::default() }).await;
    let mut client = site.connect().await;
    client.command("1 NONSENSE").await;
    client.command("2 NONSENSE").await;
    client.command("3 NOOP").await;
    client.send("4 NONSENSE\\n5 FETCH\\n6 HTTP/1.1").await;
    let heard = client.until("* BYE").await;
    assert_eq!(heard.len(), 4, "{heard:?}");
    assert_eq!(client.next_line().await, None);
}

#[tokio::test]
async fn sessions_of_an_account_are_limited() {
    let site = Site::with(ImapConfig { sessions_per_account_max: 2, ..ImapConfig::default() }).await;
    let one = site.login("ann").await;
    let _two = site.login("ann").await;
    let _joe = site.login("joe").await;
    let mut three = site.connect().await;
    assert!(three.command("1 LOGIN ann secret").await[0].starts_with("1 NO [LIMIT]"));
    drop(one);
    // The server notices that the first is gone in its own time.
    for _ in 0..100 {
        if three.command("2 LOGIN ann secret").await[0].starts_with("2 OK") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place was not given back");
}

#[tokio::test]
async fn a_drained_server_says_good_bye() {
    let site = Site::new().await;
    site.fill(".").await;
    let mut idle = site.login("ann").await;
    idle.command("1 SELECT INBOX").await;
    idle.send("2 IDLE").await;
    assert_eq!(idle.line().await, "+ idling");
    let mut waiting = site.login("joe").await;
    site.drain.start();
    assert!(idle.line().await.starts_with("* BYE [UNAVAILABLE]"));
    assert_eq!(idle.next_line().await, None);
    assert!(waiting.line().await.starts_with("* BYE [UNAVAILABLE]"));
    assert_eq!(site.drain.wait_for_all(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_large_message_comes_back_octet_by_octet() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    let mut message = b"Subject: large\r\n\r\n".to_vec();
    while message.len() < 3_000_000 {
        message.extend_from_slice(format!("line {}\r\n", message.len()).as_bytes());
    }
    client.send_octets(format!("1 APPEND INBOX {{{}+}}\r\n", message.len()).as_bytes()).await;
    client.send_octets(&message).await;
    client.send("").await;
    let heard = client.until("1 ").await;
    assert!(heard[0].starts_with("1 OK [APPENDUID"), "{heard:?}");
    client.command("2 SELECT INBOX").await;
    let heard = client.command("3 FETCH 1 (UID BODY.PEEK[])").await;
    assert_eq!(heard[0], format!("* 1 FETCH (UID 1 BODY[] {{{}}}", message.len()));
    let body = heard[1..heard.len() - 2].join("\r\n") + "\r\n";
    assert!(body.as_bytes() == message, "{} octets of {}", body.len(), message.len());
    assert_eq!(heard[heard.len() - 2], ")");
    let heard = client.command("4 FETCH 1 BODY.PEEK[TEXT]<2000000.5>").await;
    assert_eq!(heard[0], "* 1 FETCH (BODY[TEXT]<2000000> {5}");
}

#[tokio::test]
async fn starttls_changes_what_is_offered() {
    let site = Site::with_tls().await;
    let (mut client, greeting) = site.connect_from(Some("192.0.2.1:1000".parse().unwrap())).await;
    assert!(greeting.contains(" STARTTLS LOGINDISABLED]"), "{greeting}");
    assert_eq!(client.command("1 STARTTLS").await, ["1 OK Begin TLS"]);
    let mut client = client.start_tls().await;
    let heard = client.command("2 CAPABILITY").await;
    assert!(heard[0].contains("AUTH=PLAIN") && !heard[0].contains("STARTTLS"), "{heard:?}");
    assert!(client.command("3 STARTTLS").await[0].starts_with("3 BAD"));
    assert!(client.command("4 LOGIN ann secret").await[0].starts_with("4 OK"));
}

#[tokio::test]
async fn what_stands_behind_starttls_is_not_believed() {
    let site = Site::with_tls().await;
    let mut client = site.connect().await;
    client.send_octets(b"1 STARTTLS\r\n2 LOGIN ann secret\r\n").await;
    assert_eq!(client.line().await, "1 OK Begin TLS");
    assert_eq!(client.next_line().await, None);
}

#[tokio::test]
async fn a_session_is_small() {
    let site = Site::new().await;
    let octets = std::mem::size_of_val(&site.session());
    assert!(octets < 3000, "{octets}");
}

#[tokio::test]
async fn silent_clients_are_logged_out() {
    let site = Site::with(ImapConfig { login_timeout_s: 0, ..ImapConfig::default() }).await;
    let mut client = site.connect().await;
    assert!(client.line().await.starts_with("* BYE Autologout"));
    assert_eq!(client.next_line().await, None);
    let config = ImapConfig { idle_timeout_s: 1, still_here_s: 1, ..ImapConfig::default() };
    let site = Site::with(config).await;
    let mut client = site.login("ann").await;
    client.send("1 IDLE").await;
    let heard = client.until("* BYE").await;
    assert_eq!(heard.first().unwrap(), "+ idling");
    assert!(heard.last().unwrap().starts_with("* BYE Autologout"), "{heard:?}");
}

#[tokio::test]
async fn a_client_in_idle_hears_that_the_server_is_there() {
    let site = Site::with(ImapConfig { still_here_s: 1, ..ImapConfig::default() }).await;
    let mut client = site.login("ann").await;
    client.send("1 IDLE").await;
    assert_eq!(client.until("* OK").await, ["+ idling", "* OK Still here"]);
}

/// Sends octets one a second, never ending a line, and gives the seconds until the server has said BYE.
async fn dribble(client: &mut crate::harness::Client, octets: &[u8]) -> u64 {
    let begun = tokio::time::Instant::now();
    let mut octets = octets.iter().cycle();
    loop {
        tokio::select! {
            biased;
            line = client.next_line() => match line {
                Some(line) if line.starts_with("* BYE") => return begun.elapsed().as_secs(),
                Some(_) => {}
                None => panic!("no BYE"),
            },
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                client.try_send_octets(&[*octets.next().unwrap()]).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_octet_a_second_does_not_keep_a_connection() {
    let site = Site::new().await;
    let mut client = site.connect().await;
    assert!((59..=61).contains(&dribble(&mut client, b"a LOGIN ann").await));
    // Within a SASL exchange, where a line of the client is awaited.
    let mut client = site.connect().await;
    client.send("a AUTHENTICATE PLAIN").await;
    assert!((59..=61).contains(&dribble(&mut client, b"AAAA").await));
    // Within a literal.
    let mut client = site.connect().await;
    client.send("a LOGIN {100}").await;
    assert!((59..=61).contains(&dribble(&mut client, b"ann").await));
    // Whole commands change nothing.
    let mut client = site.connect().await;
    assert!((59..=61).contains(&dribble(&mut client, b"a NOOP\r\n").await));
}
