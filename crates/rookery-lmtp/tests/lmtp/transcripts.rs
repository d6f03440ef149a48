//! Whole LMTP connections as transcripts. The MTA is connected to the recipients' home, or to another node.

use std::sync::Arc;
use std::time::Duration;

use rookery_auth::{
    AccountState, Accounts, Authenticator, AuthenticatorOptions, Credential, HashParams, Hasher,
    HasherOptions, LookUp,
};
use rookery_lmtp::{LmtpConfig, Site};
use rookery_net::{Networks, Peer, ServerTls};
use rookery_types::UserName;

use crate::backing::{INBOX, LISTS, Memory, PRIVATE};
use crate::client::{Client, connect, connect_to, connect_with, services, site};

#[tokio::test]
async fn an_alias_is_one_recipient_and_all_its_accounts() {
    let mut client = connect();
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<ann@far.test>", "250 2.1.0"),
            ("RCPT TO:<both>", "250 2.1.5"),
            ("RCPT TO:<some>", "250 2.1.5"),
            ("RCPT TO:<joe>", "250 2.1.5"),
            ("DATA", "354"),
            ("Subject: x\r\n\r\nbody\r\n.", "250 2.1.5"),
            ("", "452 4.2.2"),
            ("", "250 2.1.5"),
            ("QUIT", "221 2.0.0"),
        ])
        .await;
    assert_eq!(client.rest().await, "");
    for user in ["joe", "ann"] {
        assert_eq!(client.backing.of(user, INBOX).len(), 1, "{user}");
    }
}

#[tokio::test]
async fn one_reply_for_each_recipient() {
    let mut client = connect();
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<ann@far.test> SIZE=40 BODY=8BITMIME", "250 2.1.0"),
            ("RCPT TO:<joe>", "250 2.1.5"),
            ("RCPT TO:<nobody@example.org>", "550 5.1.1 <nobody@example.org>"),
            ("RCPT TO:<full@EXAMPLE.org>", "250 2.1.5"),
            ("RCPT TO:<away>", "451 4.3.0"),
            ("RCPT TO:<moving>", "451 4.2.1"),
            ("RCPT TO:<broken>", "250 2.1.5"),
            ("RCPT TO:<joe@other.test>", "550 5.1.1"),
            ("RCPT TO:<Joe@example.org>", "250 2.1.5"),
            ("RCPT TO:<joe+Lists/rust@example.org>", "250 2.1.5"),
            ("DATA", "354"),
            ("Subject: x\r\n\r\n..dot\r\nbody\r\n.", "250 2.1.5"),
            ("", "452 4.2.2"),
            ("", "451 4.3.0"),
            ("", "250 2.1.5"),
            ("", "250 2.1.5"),
            ("NOOP", "250 2.0.0"),
            ("QUIT", "221 2.0.0"),
        ])
        .await;
    assert_eq!(client.rest().await, "");
    let inbox = client.backing.of("joe", INBOX);
    assert_eq!(inbox.len(), 1, "the same recipient twice is one delivery");
    let (trace, message) = inbox[0].split_once("Subject:").unwrap();
    assert_eq!(message, " x\r\n\r\n.dot\r\nbody\r\n");
    assert!(
        trace.starts_with("Return-Path: <ann@far.test>\r\nReceived: from mta.test (local)\r\n\tby mail.example.org (Rookery) with LMTP id "),
        "{trace}"
    );
    assert!(trace.ends_with("\r\n") && trace.matches("\r\n").count() == 4, "{trace}");
    assert_eq!(client.backing.of("joe", LISTS), inbox);
}

#[tokio::test]
async fn what_is_offered_is_what_is_done() {
    let mut client = connect();
    client.reply().await;
    client.send("LHLO x\r\n").await;
    assert_eq!(
        client.reply().await,
        "250-mail.example.org\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 100000\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 BINARYMIME"
    );
}

#[tokio::test]
async fn commands_out_of_order() {
    let mut client = connect();
    client
        .talk(&[
            ("", "220"),
            ("MAIL FROM:<>", "503 5.5.1"),
            ("EHLO x", "500 5.5.1"),
            ("LHLO x", "250-"),
            ("RCPT TO:<joe>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("MAIL FROM:<>", "250"),
            ("MAIL FROM:<>", "503 5.5.1"),
            ("RCPT TO:<nobody>", "550 5.1.1"),
            ("DATA", "503 5.5.1"),
            ("RCPT TO:<joe>", "250"),
            ("RSET", "250 2.0.0"),
            ("RCPT TO:<joe>", "503"),
            ("MAIL FROM:<>", "250"),
            ("LHLO again", "250-"),
            ("RCPT TO:<joe>", "503"),
            ("MAIL FROM:<a@b.test> SIZE=100001", "552 5.3.4"),
            ("VRFY joe", "252 2.3.3"),
            ("STARTTLS", "502 5.5.1"),
        ])
        .await;
    client.send(&format!("NOOP {}\r\n", "x".repeat(10_000))).await;
    assert!(client.reply().await.starts_with("500 5.5.2"));
    client.talk(&[("NOOP", "250")]).await;
}

#[tokio::test]
async fn a_pipelined_group_and_a_second_transaction() {
    let mut client = connect();
    client.hello().await;
    client.send("MAIL FROM:<>\r\nRCPT TO:<joe>\r\nRCPT TO:<nobody>\r\nRCPT TO:<ann>\r\nDATA\r\n").await;
    client.talk(&[("", "250"), ("", "250"), ("", "550"), ("", "250"), ("", "354")]).await;
    client.send("a\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<ann>\r\nDATA\r\n").await;
    client.talk(&[("", "250 2.1.5"), ("", "250 2.1.5"), ("", "250 2.1.0"), ("", "250"), ("", "354")]).await;
    client.talk(&[("b\r\n.", "250 2.1.5"), ("QUIT", "221")]).await;
    assert_eq!(client.backing.of("ann", INBOX).len(), 2);
    assert!(client.backing.of("joe", INBOX)[0].ends_with("\r\na\r\n"));
}

#[tokio::test]
async fn messages_that_cannot_be_taken() {
    let mut client = connect();
    client.hello().await;
    let begin =
        [("MAIL FROM:<>", "250"), ("RCPT TO:<joe>", "250"), ("RCPT TO:<ann>", "250"), ("DATA", "354")];
    client.talk(&begin).await;
    client.talk(&[("a\0b\r\n.", "554 5.6.0"), ("", "554 5.6.0")]).await;
    client.talk(&begin).await;
    let large = format!("{}\r\n.", "x".repeat(100_000));
    client.talk(&[(&large, "552 5.3.4"), ("", "552 5.3.4"), ("NOOP", "250")]).await;
    client.talk(&begin).await;
    let long_line = format!("{}\r\n.", "x".repeat(99_998));
    client.talk(&[(&long_line, "250"), ("", "250")]).await;
    assert_eq!(client.backing.of("joe", INBOX).len(), 1);
    let permanent = LmtpConfig { over_quota_is_permanent: true, ..LmtpConfig::default() };
    let mut client = connect_with(permanent, Peer::Memory);
    client.hello().await;
    client
        .talk(&[("MAIL FROM:<>", "250"), ("RCPT TO:<full>", "250"), ("DATA", "354"), ("x\r\n.", "552 5.2.2")])
        .await;
}

#[tokio::test]
async fn a_connection_cut_inside_data_stores_nothing() {
    let mut client = connect();
    client.hello().await;
    client.talk(&[("MAIL FROM:<>", "250"), ("RCPT TO:<joe>", "250"), ("DATA", "354")]).await;
    client.send("Subject: half\r\n\r\n.").await;
    drop(client.stream);
    client.server.await.unwrap();
    assert!(client.backing.of("joe", INBOX).is_empty());
}

#[tokio::test]
async fn a_thousand_recipients_and_the_limit() {
    let config = LmtpConfig { recipients_max: 1200, parallel_max: 7, ..LmtpConfig::default() };
    let mut client = connect_with(config, Peer::Memory);
    client.hello().await;
    client.talk(&[("MAIL FROM:<>", "250")]).await;
    for number in 0..1200 {
        client.send(&format!("RCPT TO:<u{number}>\r\n")).await;
        assert!(client.reply().await.starts_with("250"));
    }
    client.talk(&[("RCPT TO:<joe>", "452 4.5.3"), ("DATA", "354"), ("x\r\n.", "250")]).await;
    for _ in 1..1200 {
        assert!(client.reply().await.starts_with("250 2.1.5"));
    }
    assert_eq!(client.backing.of("u1199", INBOX).len(), 1);
    assert!(client.backing.of("joe", INBOX).is_empty());
}

#[tokio::test]
async fn the_author_counts_for_rights_and_strangers_may_not_deliver() {
    let mut client = connect();
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<x@far.test> AUTH=ann", "250"),
            ("RCPT TO:<joe+Private>", "250"),
            ("DATA", "354"),
            ("1\r\n.", "250"),
            ("MAIL FROM:<ann@example.org>", "250"),
            ("RCPT TO:<joe+Private>", "250"),
            ("RCPT TO:<joe+../x>", "250"),
            ("DATA", "354"),
            ("2\r\n.", "250"),
            ("", "250"),
        ])
        .await;
    assert_eq!((client.backing.of("joe", PRIVATE).len(), client.backing.of("joe", INBOX).len()), (1, 1));
    let stranger = Peer::from_addr(([192, 0, 2, 1], 25).into());
    let mut client = connect_with(LmtpConfig::default(), stranger);
    client.hello().await;
    client.talk(&[("MAIL FROM:<>", "530 5.7.0"), ("RCPT TO:<joe>", "503")]).await;
}

#[tokio::test]
async fn a_drain_waits_for_the_transaction() {
    let mut idle = connect();
    idle.hello().await;
    idle.drain.start();
    assert!(idle.rest().await.starts_with("421 4.3.2"));
    let mut busy = connect();
    busy.hello().await;
    busy.talk(&[("MAIL FROM:<>", "250"), ("RCPT TO:<joe>", "250")]).await;
    busy.drain.start();
    tokio::time::sleep(Duration::from_millis(20)).await;
    busy.talk(&[("DATA", "354"), ("x\r\n.", "250 2.1.5"), ("", "421 4.3.2")]).await;
    assert_eq!((busy.rest().await.as_str(), busy.backing.of("joe", INBOX).len()), ("", 1));
}

#[tokio::test(start_paused = true)]
async fn silence_and_nonsense_end_a_connection() {
    let mut client = connect();
    client.hello().await;
    assert!(client.rest().await.starts_with("421 4.4.2"));
    let mut client = connect();
    client.hello().await;
    for _ in 0..50 {
        client.talk(&[("XYZZY", "500 5.5.2")]).await;
    }
    assert!(client.rest().await.starts_with("421 4.7.0"));
}

#[tokio::test]
async fn what_is_not_announced_is_refused_and_the_stream_stays_in_step() {
    let mut client = connect();
    client.hello().await;
    client
        .talk(&[
            ("AUTH PLAIN", "502 5.5.1"),
            ("STARTTLS", "502 5.5.1"),
            ("MAIL FROM:<a@b.test> RET=HDRS", "555 5.5.4"),
            ("LHLO a b", "501 5.5.4"),
            ("LHLO a)(b", "501 5.5.4"),
            ("HELP", "214"),
            // The octets of the chunk are no commands.
            ("BDAT 6 LAST\r\nQUIT", "503 5.5.1 Say MAIL first"),
            ("MAIL FROM:<a@b.test>", "250"),
            ("BDAT 6 LAST\r\nQUIT", "503 5.5.1 No valid recipients"),
            ("RCPT TO:<joe> NOTIFY=NEVER", "555 5.5.4"),
            ("RCPT TO:<joe>", "250"),
            ("NOOP", "250"),
            ("DATA", "354"),
            ("x\r\n.", "250 2.1.5"),
            ("BDAT x", "421"),
        ])
        .await;
    assert_eq!(client.rest().await, "");
    assert_eq!(client.backing.of("joe", INBOX).len(), 1);
}

#[tokio::test]
async fn chunks_make_a_message() {
    let mut client = connect();
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<a@b.test>", "250"),
            ("RCPT TO:<joe>", "250"),
            ("RCPT TO:<full>", "250"),
            ("RCPT TO:<nobody>", "550"),
        ])
        .await;
    // A chunk begins and ends anywhere; dots and line ends mean nothing.
    client.send("BDAT 11\r\nSubject: x\r").await;
    client
        .talk(&[
            ("", "250 2.0.0 11 octets taken"),
            ("RCPT TO:<ann>", "503 5.5.1 The message has begun"),
            ("DATA", "503 5.5.1 The message comes by BDAT"),
        ])
        .await;
    client.send("BDAT 12\r\n\n\r\n.\r\n.x\n.\r\nBDAT 0 LAST\r\n").await;
    client
        .talk(&[("", "250 2.0.0 12 octets taken"), ("", "250 2.1.5"), ("", "452 4.2.2"), ("NOOP", "250")])
        .await;
    let stored = client.backing.of("joe", INBOX);
    assert!(stored[0].ends_with("Subject: x\r\n\r\n.\r\n.x\n.\r\n"), "{stored:?}");

    // Everything at once, as RFC 3030 §4.2 has it.
    client
        .send("RSET\r\nMAIL FROM:<>\r\nRCPT TO:<joe>\r\nBDAT 5\r\na\r\n\r\nBDAT 3 LAST\r\nb\r\nQUIT\r\n")
        .await;
    client
        .talk(&[("", "250"), ("", "250"), ("", "250"), ("", "250 2.0.0 5"), ("", "250 2.1.5"), ("", "221")])
        .await;
    assert!(
        client.backing.of("joe", INBOX)[1].ends_with("a\r\n\r\nb\r\n"),
        "{:?}",
        client.backing.of("joe", INBOX)
    );
}

#[tokio::test]
async fn chunks_that_cannot_be_taken() {
    let mut client = connect();
    client.hello().await;
    let begin = [("MAIL FROM:<>", "250"), ("RCPT TO:<joe>", "250"), ("RCPT TO:<ann>", "250")];
    client.talk(&begin).await;
    // Too large is told at the chunk; the transaction is over, and the next chunk is passed over.
    client.send(&format!("BDAT 100001\r\n{}BDAT 5 LAST\r\nQUIT\n", "x".repeat(100_001))).await;
    client.talk(&[("", "552 5.3.4"), ("", "503 5.5.1"), ("NOOP", "250")]).await;
    client.talk(&begin).await;
    client.send("BDAT 3 LAST\r\na\0b").await;
    client.talk(&[("", "554 5.6.0"), ("", "554 5.6.0")]).await;
    client.talk(&begin).await;
    client.send("BDAT 10 LAST\r\nhalf").await;
    drop(client.stream);
    client.server.await.unwrap();
    assert!(client.backing.is_empty());
}

#[tokio::test]
async fn rset_and_lhlo_drop_a_begun_message() {
    let mut client = connect();
    client.hello().await;
    for drop in ["RSET", "LHLO again.test"] {
        client
            .talk(&[
                ("MAIL FROM:<>", "250"),
                ("RCPT TO:<joe>", "250"),
                ("BDAT 5\r\nold", "250 2.0.0"),
                (drop, "250"),
                ("MAIL FROM:<>", "250"),
                ("RCPT TO:<joe>", "250"),
                ("BDAT 5 LAST\r\nnew", "250 2.1.5"),
            ])
            .await;
    }
    let stored = client.backing.of("joe", INBOX);
    assert!(stored.len() == 2 && stored.iter().all(|text| text.ends_with("\r\nnew\r\n")), "{stored:?}");
}

#[tokio::test]
async fn addresses_and_headers_in_utf8() {
    let mut client = connect();
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<j\u{fc}rgen@b.test>", "550 5.6.7"),
            ("MAIL FROM:<j\u{fc}rgen@b\u{fc}cher.test> SMTPUTF8 BODY=8BITMIME", "250"),
            ("RCPT TO:<j\u{f6}rg@example.org>", "550 5.1.1"),
            ("RCPT TO:<joe>", "250"),
            ("DATA", "354"),
        ])
        .await;
    client.talk(&[("Subject: gr\u{fc}\u{df}e\r\n\r\nx\r\n.", "250 2.1.5")]).await;
    let stored = client.backing.of("joe", INBOX);
    let text = &stored[0];
    assert!(text.starts_with("Return-Path: <j\u{fc}rgen@b\u{fc}cher.test>\r\n"), "{text}");
    assert!(text.contains(" with UTF8LMTP id ") && text.contains("Subject: gr\u{fc}\u{df}e\r\n"), "{text}");
}

/// RFC 3030 §3.
#[tokio::test]
async fn binary_messages_come_in_chunks() {
    let mut client = connect();
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<a@b.test> BODY=BINARYMIME", "250"),
            ("RCPT TO:<joe>", "250"),
            ("DATA", "503 5.5.1 A binary message comes by BDAT"),
        ])
        .await;
    client.send("BDAT 6\r\nX: 1\n\nBDAT 5 LAST\r\na\0\n\rb").await;
    client.talk(&[("", "250 2.0.0"), ("", "250 2.1.5")]).await;
    // The next one is no binary message.
    client.talk(&[("MAIL FROM:<a@b.test> BODY=8BITMIME", "250"), ("RCPT TO:<joe>", "250")]).await;
    client.talk(&[("BDAT 3 LAST\r\na\0b", "554 5.6.0"), ("", "500")]).await;
    let stored = client.backing.of("joe", INBOX);
    assert!(stored.len() == 1 && stored[0].ends_with("X: 1\n\na\0\n\rb"), "{stored:?}");
}

/// What could put a line into a message's header, or end a message early, does neither.
#[tokio::test]
async fn nothing_is_smuggled() {
    let mut client = connect();
    client.hello().await;
    client
        .talk(&[
            ("MAIL FROM:<a\rX-Evil: 1@b.test>", "500 5.5.2"),
            ("MAIL FROM:<\"a\rX\"@b.test>", "500 5.5.2"),
            ("MAIL FROM:<a@b.test\u{0}>", "500 5.5.2"),
            ("LHLO a\rX-Evil:", "500 5.5.2"),
            // A bare LF ends a command, so the rest is a command of its own, and none.
            ("MAIL FROM:<a\nX-Evil: 1@b.test>", "501"),
            ("", "500 5.5.2"),
            ("MAIL FROM:<a@b.test> AUTH=x+0D+0AX-Evil:+201", "250"),
            ("RCPT TO:<joe\rX-Evil: 1>", "500 5.5.2"),
            ("RCPT TO:<joe\nDATA>", "501"),
            ("", "500 5.5.2"),
            ("RCPT TO:<joe>", "250"),
            ("DATA", "354"),
        ])
        .await;
    let tricks = "a\n.\nb\n.\r\nc\r.\r\nd\r\n.\re\r\n.\nf\r.\rg";
    client.send(&format!("{tricks}\r\n.\r\n")).await;
    client.talk(&[("", "250 2.1.5"), ("NOOP", "250")]).await;
    let stored = client.backing.of("joe", INBOX);
    assert_eq!(stored.len(), 1);
    // A dot at a line's start with something behind it is transparency, and goes.
    let expected = "a\n.\nb\n.\r\nc\r.\r\nd\r\n\re\r\n\nf\r.\rg\r\n";
    assert!(stored[0].ends_with(expected), "{:?}", stored[0]);
    let header = stored[0].strip_suffix(expected).unwrap();
    assert!(!header.contains("Evil"), "{header}");
    assert!(header.split_inclusive("\r\n").all(|line| !line.trim_end_matches("\r\n").contains(['\r', '\n'])));
}

#[tokio::test]
async fn what_was_delivered_is_not_stored_twice() {
    let config = LmtpConfig { duplicate_window_s: 3600, ..LmtpConfig::default() };
    let mut client = connect_with(config, Peer::Memory);
    client.hello().await;
    let send = async |client: &mut Client, from: &str, to: &str, id: &str, expected: &str| {
        let mail = format!("MAIL FROM:<{from}>");
        let rcpt = format!("RCPT TO:<{to}>");
        let body = format!("{id}\r\n\r\nx\r\n.");
        client.talk(&[(&mail, "250"), (&rcpt, "250"), ("DATA", "354"), (&body, expected)]).await;
    };
    let one = "Message-ID: <1@b.test>";
    send(&mut client, "a@b.test", "joe", one, "250 2.1.5 Delivered as").await;
    send(&mut client, "a@b.test", "joe", one, "250 2.1.5 Delivered already").await;
    // Another mailbox, another sender, another message, and none that says which it is.
    send(&mut client, "a@b.test", "joe+Lists/rust", one, "250 2.1.5 Delivered as").await;
    send(&mut client, "a@b.test", "ann", one, "250 2.1.5 Delivered as").await;
    send(&mut client, "c@b.test", "joe", one, "250 2.1.5 Delivered as").await;
    send(&mut client, "a@b.test", "joe", "Message-ID: <2@b.test>", "250 2.1.5 Delivered as").await;
    send(&mut client, "a@b.test", "joe", "Subject: x", "250 2.1.5 Delivered as").await;
    send(&mut client, "a@b.test", "joe", "Subject: x", "250 2.1.5 Delivered as").await;
    // What was not stored does not count.
    send(&mut client, "a@b.test", "full", one, "452").await;
    send(&mut client, "a@b.test", "full", one, "452").await;
    assert_eq!(client.backing.of("joe", INBOX).len(), 5);
    // Without the setting everything is stored.
    let mut client = connect();
    client.hello().await;
    send(&mut client, "a@b.test", "joe", one, "250 2.1.5 Delivered as").await;
    send(&mut client, "a@b.test", "joe", one, "250 2.1.5 Delivered as").await;
}

/// Everyone's password is `secret`.
struct EverySecret(String);

impl Accounts for EverySecret {
    fn look_up<'a>(&'a self, _: &'a UserName) -> LookUp<'a> {
        let credential = Credential { verifier: Some(self.0.clone()), state: AccountState::Active };
        Box::pin(async move { Ok(Some(credential)) })
    }
}

async fn site_with_auth() -> Site {
    let params = HashParams { memory_kib: 8, passes: 1, lanes: 1 };
    let hasher = Hasher::new(HasherOptions { workers: 1, params, ..HasherOptions::default() }).unwrap();
    let verifier = hasher.hash(b"secret").await.unwrap();
    let options = AuthenticatorOptions::new("example.org");
    let authenticator = Authenticator::new(Arc::new(EverySecret(verifier)), Arc::new(hasher), options);
    let dir = tempfile::tempdir().unwrap();
    let made = rookery_net::tls::self_signed(&["mail.example.org".to_string()], dir.path()).unwrap();
    Site {
        tls: Some(Arc::new(ServerTls::load(made.cert, made.key).unwrap())),
        authenticator: Some(Arc::new(authenticator)),
        plaintext: Networks::parse(["192.0.2.0/24"]).unwrap(),
        admins: vec![UserName::parse("root", "example.org").unwrap()],
        ..site()
    }
}

#[tokio::test]
async fn who_is_not_trusted_delivers_after_auth() {
    let config = LmtpConfig { deliverers: vec!["mx".to_owned()], ..LmtpConfig::default() };
    let backing = Arc::new(Memory::default());
    let services = services(config, site_with_auth().await, Arc::clone(&backing));
    let connect = |ip: [u8; 4]| {
        let peer = Peer::from_addr((ip, 25).into());
        connect_to(Arc::clone(&services), Arc::clone(&backing), peer)
    };
    let plain = |user: &str, password: &str| {
        use base64::Engine as _;
        let message = format!("\0{user}\0{password}");
        format!("AUTH PLAIN {}", base64::engine::general_purpose::STANDARD.encode(message))
    };
    let mut client = connect([192, 0, 2, 1]);
    client.talk(&[("", "220"), ("AUTH PLAIN", "503"), ("LHLO mx.test", "250-mail.example.org")]).await;
    client
        .talk(&[
            ("MAIL FROM:<>", "530 5.7.0"),
            ("AUTH NONSENSE", "504 5.5.4"),
            ("AUTH PLAIN", "334"),
            ("*", "501"),
            ("AUTH PLAIN", "334"),
            ("!", "501 5.5.2"),
            (&plain("mx", "wrong"), "535 5.7.8"),
            // An account alone is not enough.
            (&plain("joe", "secret"), "535 5.7.8"),
            ("MAIL FROM:<>", "530 5.7.0"),
            ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
            ("bXg=", "334"),
            ("c2VjcmV0", "235 2.7.0"),
            (&plain("mx", "secret"), "503"),
            ("MAIL FROM:<>", "250"),
            ("RCPT TO:<joe>", "250"),
            ("DATA", "354"),
            ("x\r\n.", "250 2.1.5"),
        ])
        .await;
    assert!(backing.of("joe", INBOX)[0].contains(" with LMTPA id "));
    let mut client = connect([192, 0, 2, 1]);
    client
        .talk(&[
            ("", "220"),
            ("LHLO mx.test", "250-"),
            (&plain("root", "secret"), "235"),
            ("MAIL FROM:<>", "250"),
        ])
        .await;

    // From afar nothing that carries a password is told of or taken in the clear.
    let mut client = connect([198, 51, 100, 1]);
    client.talk(&[("", "220")]).await;
    client.send("LHLO mx.test\r\n").await;
    let hello = client.reply().await;
    assert!(hello.contains("STARTTLS") && !hello.contains("AUTH "), "{hello}");
    client.talk(&[(&plain("mx", "secret"), "538 5.7.11"), ("MAIL FROM:<>", "530")]).await;
    // What stands behind STARTTLS in the clear is not believed.
    client.talk(&[("STARTTLS\r\nMAIL FROM:<>", "220 2.0.0")]).await;
    assert_eq!(client.rest().await, "");
}
