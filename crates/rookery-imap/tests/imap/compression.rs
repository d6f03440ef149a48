//! COMPRESS (RFC 4978) and UNAUTHENTICATE (RFC 8437), alone and together.

use crate::harness::{Client, Site};
use rookery_imap::ImapConfig;

async fn compressed(site: &Site) -> Client {
    let mut client = site.login("ann").await;
    assert_eq!(client.command("c compress deflate").await, ["c OK DEFLATE active"]);
    client.deflate();
    client
}

#[tokio::test]
async fn everything_behind_the_ok_is_compressed() {
    let site = Site::with_tls().await;
    site.fill("..s").await;
    // The order of RFC 4978 §3: STARTTLS, LOGIN, COMPRESS.
    let (mut client, _) = site.connect_from(None).await;
    assert!(client.command("a starttls").await[0].starts_with("a OK"));
    let mut client = client.start_tls().await;
    assert_eq!(client.command("b COMPRESS DEFLATE").await, ["b BAD Log in first"]);
    let login = client.command("b LOGIN ann secret").await;
    assert!(login[0].contains(" COMPRESS=DEFLATE"), "{login:?}");
    assert_eq!(client.command("c compress lzma").await, ["c BAD DEFLATE is the only compression there is"]);
    assert_eq!(client.command("d compress deflate").await, ["d OK DEFLATE active"]);
    client.deflate();
    let capability = client.command("e CAPABILITY").await;
    assert!(!capability[0].contains("COMPRESS"), "{capability:?}");
    assert_eq!(
        client.command("f COMPRESS DEFLATE").await,
        ["f NO [COMPRESSIONACTIVE] DEFLATE is active already"]
    );
    client.command("g SELECT INBOX").await;
    let fetched = client.command("h FETCH 1:* (UID BODY[TEXT])").await;
    assert!(fetched.contains(&"body 2".to_string()), "{fetched:?}");
    // Many commands in one flush are answered one by one.
    client.send("i1 NOOP\\ni2 NOOP\\ni3 FETCH 1 UID").await;
    assert!(client.until("i1 ").await[0].starts_with("i1 OK"));
    assert!(client.until("i2 ").await[0].starts_with("i2 OK"));
    assert_eq!(client.until("i3 ").await[0], "* 1 FETCH (UID 1)");
    let bye = client.command("j LOGOUT").await;
    assert!(bye[0].starts_with("* BYE"), "{bye:?}");
    assert_eq!(client.next_line().await, None);
}

#[tokio::test]
async fn compression_can_be_turned_off() {
    let site =
        Site::with(ImapConfig { compress: false, unauthenticate: false, ..ImapConfig::default() }).await;
    let mut client = site.login("ann").await;
    let capability = client.command("a CAPABILITY").await;
    assert!(!capability[0].contains("COMPRESS") && !capability[0].contains("UNAUTH"), "{capability:?}");
    assert_eq!(client.command("b COMPRESS DEFLATE").await, ["b BAD Compression is turned off"]);
    assert_eq!(client.command("c UNAUTHENTICATE").await, ["c BAD UNAUTHENTICATE is turned off"]);
}

#[tokio::test]
async fn idle_and_a_large_body_under_compression() {
    let site = Site::new().await;
    site.fill(".").await;
    let mut client = compressed(&site).await;
    let mut other = site.login("ann").await;
    client.command("a SELECT INBOX").await;
    client.send("b IDLE").await;
    assert!(client.line().await.starts_with("+ "));
    let large = format!("Subject: large\\n\\n{}", "0123456789abcde\\n".repeat(100_000));
    let octets = large.replace("\\n", "\r\n").len();
    other.send(&format!("x APPEND INBOX {{{octets}+}}\\n{large}")).await;
    other.until("x ").await;
    assert_eq!(client.line().await, "* 2 EXISTS");
    client.until("* 2 RECENT").await;
    client.send("DONE").await;
    client.until("b OK").await;
    let fetched = client.command("c FETCH 2 BODY.PEEK[]").await;
    assert_eq!(fetched[0], format!("* 2 FETCH (BODY[] {{{octets}}}"));
    assert_eq!(fetched.len(), 100_000 + 5);
    // And the other way.
    client.send(&format!("d APPEND INBOX {{{octets}+}}\\n{large}")).await;
    assert!(client.until("d ").await.last().unwrap().starts_with("d OK [APPENDUID "));
}

#[tokio::test]
async fn the_server_says_goodbye_under_compression() {
    let site = Site::new().await;
    let mut client = compressed(&site).await;
    client.command("a NOOP").await;
    site.drain.start();
    let bye = client.until("* BYE").await;
    assert!(bye[0].starts_with("* BYE [UNAVAILABLE]"), "{bye:?}");
    assert_eq!(client.next_line().await, None);
}

#[tokio::test]
async fn a_bomb_meets_the_limits_of_what_it_blows_up_to() {
    let site = Site::new().await;
    let mut client = compressed(&site).await;
    // Sixteen megabytes of one line in some sixteen kilobytes.
    let bomb = client.packed(&vec![b'x'; 16 << 20]);
    assert!(bomb.len() < 128 << 10, "{}", bomb.len());
    client.send_octets(&bomb).await;
    let said = client.until("* BYE").await;
    assert_eq!(said, ["* BAD [TOOBIG] Command line too long", "* BYE Line too long"]);
    assert_eq!(client.next_line().await, None);
}

#[tokio::test]
async fn what_is_not_compressed_ends_the_session() {
    let site = Site::new().await;
    let mut client = compressed(&site).await;
    client.send_octets(b"a NOOP\r\nb NOOP\r\n\xff\xff\xff\xff").await;
    let said = client.until("* BYE").await;
    assert_eq!(said, ["* BYE What you send is not compressed as was agreed"]);
    assert_eq!(client.next_line().await, None);
}

#[tokio::test]
async fn compressed_octets_may_stand_right_behind_the_command() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    client.deflate();
    let noop = client.packed(b"b NOOP\r\n");
    let mut fresh = site.login("ann").await;
    fresh.send_octets(&[b"a COMPRESS DEFLATE\r\n", &noop[..]].concat()).await;
    assert_eq!(fresh.line().await, "a OK DEFLATE active");
    fresh.deflate();
    assert_eq!(fresh.line().await, "b OK NOOP completed");
}

#[tokio::test]
async fn unauthenticate_leaves_nothing_of_the_user() {
    let site = Site::new().await;
    site.fill("...").await;
    site.play(
        r"
        X> 1 UNAUTHENTICATE
        X< 1 BAD Log in first
        X> 2 LOGIN ann secret
        X< 2 OK [CAPABILITY <*> UNAUTHENTICATE] <*>
        X> 3 ENABLE QRESYNC IMAP4rev2
        X< * ENABLED <*>
        X< 3 OK <*>
        X> 4 SELECT INBOX
        X< ...
        X< 4 OK <*>
        X> 5 SEARCH RETURN (SAVE) 2
        X< 5 OK <*>
        X> 6 UNAUTHENTICATE
        X< 6 OK UNAUTHENTICATE completed
        X> 7 FETCH 1 FLAGS
        X< 7 BAD Log in first
        X> 8 CAPABILITY
        X< * CAPABILITY <*> AUTH=PLAIN<*>
        X< 8 OK <*>
        X> 9 LOGIN joe secret
        X< 9 OK <*>
        X> 10 SELECT INBOX
        X< * FLAGS <*>
        X< * OK [PERMANENTFLAGS <*>
        X< * 0 EXISTS
        X< * 0 RECENT
        X< ...
        X< 10 OK <*>
        X> 11 SELECT &AOk-
        X< * OK [CLOSED] <*>
        X< 11 NO [NONEXISTENT] <*>
        X> 12 UNAUTHENTICATE
        X< 12 OK <*>
        X> 13 LOGIN ann secret
        X< 13 OK <*>
        X> 14 SELECT INBOX
        X< ...
        X< 14 OK <*>
        X> 15 FETCH $ UID
        X< 15 OK <*>
        X> 16 STORE 1 +FLAGS (\Flagged)
        X< * 1 FETCH (FLAGS (\Flagged<*>))
        X< 16 OK <*>
    ",
    )
    .await;
    let slots = &site.services.sessions;
    assert_eq!(slots.of(site.account("joe").await.id()), 0);
}

#[tokio::test]
async fn a_login_may_stand_right_behind_unauthenticate() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    client.send("a UNAUTHENTICATE\\nb AUTHENTICATE PLAIN AGpvZQBzZWNyZXQ=\\nc STATUS INBOX (MESSAGES)").await;
    assert_eq!(client.line().await, "a OK UNAUTHENTICATE completed");
    assert!(client.line().await.starts_with("b OK [CAPABILITY "));
    assert_eq!(client.until("c ").await[0], "* STATUS INBOX (MESSAGES 0)");
}

#[tokio::test]
async fn unauthenticate_ends_compression() {
    let site = Site::new().await;
    let mut client = compressed(&site).await;
    // The next login comes in the same write, not compressed.
    let packed = client.packed(b"a UNAUTHENTICATE\r\n");
    client.send_plain();
    client.send_octets(&[&packed[..], b"b LOGIN joe secret\r\n"].concat()).await;
    assert_eq!(client.line().await, "a OK UNAUTHENTICATE completed");
    let login = client.line().await;
    assert!(login.starts_with("b OK ") && login.contains(" COMPRESS=DEFLATE"), "{login}");
    assert_eq!(client.command("c COMPRESS DEFLATE").await, ["c OK DEFLATE active"]);
    client.deflate();
    assert_eq!(client.command("d NOOP").await, ["d OK NOOP completed"]);
    // Whoever goes on compressing is sent away.
    client.send("e UNAUTHENTICATE\\nf LOGIN ann secret").await;
    assert_eq!(client.line().await, "e OK UNAUTHENTICATE completed");
    assert_eq!(client.line().await, "* BYE Compression ended behind UNAUTHENTICATE");
    assert_eq!(client.next_line().await, None);
}
