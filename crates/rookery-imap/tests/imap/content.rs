//! What is asked of a message's content: BINARY (RFC 3516), PREVIEW (RFC 8970), UTF8=ACCEPT (RFC 6855) and the
//! limits of APPEND (RFC 7889, RFC 3502).

use crate::harness::{Client, Site};
use rookery_imap::ImapConfig;

const MIXED: &str = "Subject: bin\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
    --b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n\
    --b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
    caf=C3=A9=\r\n!\r\n\
    --b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\nxx\r\n\
    --b\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\na\0b\r\n--b--\r\n";

async fn append(client: &mut Client, tag: &str, how: &str, message: &str) -> String {
    client
        .send_octets(format!("{tag} APPEND INBOX {how}{{{}+}}\r\n{message}\r\n", message.len()).as_bytes())
        .await;
    client.until(&format!("{tag} ")).await.pop().unwrap()
}

#[tokio::test]
async fn parts_are_sent_decoded() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    // NUL stands in a literal8 alone. The part with it is in base64 from then on, so that BODY[] is a literal
    // (RFC 3516 §6).
    let answer = append(&mut client, "a", "", MIXED).await;
    assert_eq!(answer, "a NO Message holds NUL");
    assert!(append(&mut client, "b", "(\\Seen) ~", MIXED).await.starts_with("b OK [APPENDUID "));
    client.command("c SELECT INBOX").await;
    let stored = MIXED.replace(": binary\r\n\r\na\0b\r\n", ": base64\r\n\r\nYQBi\r\n\r\n");
    client.send("d FETCH 1 (RFC822.SIZE BODY.PEEK[])").await;
    let heard = client.until("d ").await;
    let octets = stored.len();
    assert_eq!(heard[0], format!("* 1 FETCH (RFC822.SIZE {octets} BODY[] {{{octets}}}"));
    assert_eq!(heard[1..heard.len() - 1].join("\r\n"), format!("{stored})"));
    let heard = client.command("e FETCH 1 BODYSTRUCTURE").await;
    assert!(heard[0].contains("(\"APPLICATION\" \"X\" NIL NIL NIL \"BASE64\" 6 "), "{heard:?}");
    let outside = "a: \0\r\n\r\nx\r\n";
    let answer = append(&mut client, "f", "~", outside).await;
    assert_eq!(answer, "f NO [UNKNOWN-CTE] NUL stands where no transfer encoding can be put over it");
    for (command, heard) in [
        (
            "1 FETCH 1 (BINARY.SIZE[1] BINARY.PEEK[1])",
            &["* 1 FETCH (BINARY.SIZE[1] 3 BINARY[1] ~{3}", "\0\u{1}\u{2})", "1 OK FETCH completed"][..],
        ),
        (
            "2 FETCH 1 (BINARY.PEEK[2] BINARY.SIZE[2])",
            &["* 1 FETCH (BINARY[2] {6}", "café! BINARY.SIZE[2] 6)", "2 OK FETCH completed"],
        ),
        ("3 FETCH 1 BINARY.PEEK[2]<1.2>", &["* 1 FETCH (BINARY[2]<1> {2}", "af)", "3 OK FETCH completed"]),
        ("4 FETCH 1 BINARY.PEEK[2]<9.2>", &["* 1 FETCH (BINARY[2]<9> {0}", ")", "4 OK FETCH completed"]),
        ("5 FETCH 1 BINARY.PEEK[4]", &["* 1 FETCH (BINARY[4] ~{3}", "a\0b)", "5 OK FETCH completed"]),
        ("6 FETCH 1 BINARY.PEEK[9]", &["* 1 FETCH (BINARY[9] NIL)", "6 OK FETCH completed"]),
        ("7 FETCH 1 BINARY.PEEK[3]", &["7 NO [UNKNOWN-CTE] A part has an unknown encoding"]),
        (
            "8 FETCH 1 (UID BINARY.SIZE[3])",
            &["* 1 FETCH (UID 1)", "8 NO [UNKNOWN-CTE] A part has an unknown encoding"],
        ),
    ] {
        assert_eq!(client.command(command).await, heard, "{command}");
    }
    // BINARY sets \Seen, BINARY.PEEK does not.
    client.command("9 STORE 1 -FLAGS.SILENT (\\Seen)").await;
    client.command("10 FETCH 1 BINARY.PEEK[2]").await;
    assert!(!client.command("11 FETCH 1 FLAGS").await[0].contains("\\Seen"));
    assert!(client.command("12 FETCH 1 BINARY[2]").await[1].starts_with("café! FLAGS (\\Seen"));
}

/// White space that was added at the ends of encoded lines on the way (RFC 2045 §6.7 (3)).
#[tokio::test]
async fn white_space_at_the_ends_of_quoted_printable_lines_is_not_sent() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    let padded = "MIME-Version: 1.0\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        one \t\r\ntwo=20 \r\nthree =\t\r\nfour  \r\n";
    append(&mut client, "a", "", padded).await;
    client.command("b SELECT INBOX").await;
    assert_eq!(
        client.command("c FETCH 1 (BINARY.SIZE[1] BINARY.PEEK[1])").await,
        [
            "* 1 FETCH (BINARY.SIZE[1] 23 BINARY[1] {23}",
            "one",
            "two ",
            "three four",
            ")",
            "c OK FETCH completed"
        ]
    );
    assert_eq!(
        client.command("d FETCH 1 BINARY.PEEK[1]<2.4>").await,
        ["* 1 FETCH (BINARY[1]<2> {4}", "e", "t)", "d OK FETCH completed"]
    );
}

#[tokio::test]
async fn large_parts_are_decoded_while_they_are_sent() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    let lines = 60_000;
    let base64 = "MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY=\r\n".repeat(lines);
    let plain = "0123456789abcdefghijklmnopqrstuv";
    let message = format!(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\n\
        {base64}\r\n--b\r\nContent-Transfer-Encoding: binary\r\n\r\n{}\0end\r\n--b--\r\n",
        "z".repeat(2 << 20)
    );
    assert!(append(&mut client, "a", "~", &message).await.starts_with("a OK"));
    client.command("b SELECT INBOX").await;
    let size = plain.len() * lines;
    let heard = client.command("c FETCH 1 (BINARY.SIZE[1] BINARY.PEEK[1])").await;
    assert_eq!(heard[0], format!("* 1 FETCH (BINARY.SIZE[1] {size} BINARY[1] {{{size}}}"));
    assert!(heard[1] == format!("{})", plain.repeat(lines)));
    let heard = client.command("d FETCH 1 BINARY.PEEK[1]<1000001.2000000>").await;
    assert!(heard[1] == format!("{})", &plain.repeat(lines)[1_000_001..size]), "{}", heard[0]);
    let heard = client.command("e FETCH 1 BINARY.PEEK[1]<31.3>").await;
    assert_eq!(heard[..2], ["* 1 FETCH (BINARY[1]<31> {3}", "v01)"]);
    let heard = client.command("f FETCH 1 BINARY.PEEK[2]").await;
    assert_eq!(heard[0], format!("* 1 FETCH (BINARY[2] ~{{{}}}", (2 << 20) + 4));
    assert!(heard[1].ends_with("z\0end)"));
    let heard = client.command("g FETCH 1 BINARY.PEEK[2]<0.2000000>").await;
    assert_eq!(heard[0], "* 1 FETCH (BINARY[2]<0> {2000000}");
}

#[tokio::test]
async fn previews() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    for (message, _) in [
        ("\r\nPreview text!\r\n", ""),
        ("Content-Type: image/png\r\n\r\nxx\r\n", ""),
        ("Content-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n\r\naus \"Köln\"\r\n", ""),
    ] {
        assert!(append(&mut client, "a", "", message).await.starts_with("a OK"));
    }
    // Longer than anything that is read whole: the text stands at its beginning.
    let large = format!("\r\n{}", "long text\r\n".repeat(200_000));
    assert!(append(&mut client, "a", "", &large).await.starts_with("a OK"));
    client.command("b SELECT INBOX").await;
    let heard = client.command("c FETCH 1 (RFC822.SIZE PREVIEW)").await;
    assert_eq!(heard, ["* 1 FETCH (RFC822.SIZE 17 PREVIEW \"Preview text!\")", "c OK FETCH completed"]);
    let heard = client.command("d FETCH 1:3 (PREVIEW (LAZY) UID)").await;
    assert_eq!(heard[..2], ["* 1 FETCH (PREVIEW \"Preview text!\" UID 1)", "* 2 FETCH (PREVIEW \"\" UID 2)"]);
    assert_eq!(heard[2..4], ["* 3 FETCH (PREVIEW {19}", "Grüße aus \"Köln\" UID 3)"]);
    let heard = client.command("e FETCH 4 PREVIEW").await;
    let text = "long text ".repeat(20);
    assert_eq!(heard[0], format!("* 4 FETCH (PREVIEW \"{}\")", text.trim_end()));
    // RFC 8970 §5: \Seen is left alone, and modifiers may follow.
    assert!(!client.command("f FETCH 1 FLAGS").await[0].contains("\\Seen"));
    let heard = client.command("g FETCH 1 PREVIEW (CHANGEDSINCE 1)").await;
    assert!(
        heard.iter().any(|line| line.starts_with("* 1 FETCH (PREVIEW \"Preview text!\" MODSEQ (")),
        "{heard:?}"
    );
    assert!(client.command("h FETCH 1 PREVIEW (BOGUS)").await[0].starts_with("h BAD"));
}

#[tokio::test]
async fn lazy_previews_of_a_whole_mailbox_do_not_keep_the_client_waiting() {
    let site = Site::new().await;
    site.fill(&".".repeat(260)).await;
    let mut client = site.login("ann").await;
    client.command("a SELECT INBOX").await;
    let heard = client.command("b FETCH 1:* PREVIEW (LAZY)").await;
    assert_eq!(heard[249..251], ["* 250 FETCH (PREVIEW \"body 249\")", "* 251 FETCH (PREVIEW NIL)"]);
    let heard = client.command("c FETCH 251:260 PREVIEW (LAZY)").await;
    assert_eq!(heard[0], "* 251 FETCH (PREVIEW \"body 250\")");
    let heard = client.command("d FETCH 1:* PREVIEW").await;
    assert!(!heard.iter().any(|line| line.contains("NIL")));
}

#[tokio::test]
async fn utf8_is_accepted_once_it_is_enabled() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    let message = "From: Zoë <zoë@example.org>\r\nSubject: Grüße\r\n\r\nText\r\n";
    let utf8 = |tag: &str| format!("{tag} APPEND INBOX UTF8 (~{{{}+}}\r\n{message})\r\n", message.len());
    client.send_octets(utf8("a").as_bytes()).await;
    assert_eq!(client.line().await, "a BAD ENABLE UTF8=ACCEPT comes first");
    assert!(client.command("b CREATE \"R&AOk-sum&AOk-\"").await[0].starts_with("b OK"));
    assert_eq!(client.command("c LIST \"\" R*").await[0], "* LIST (\\HasNoChildren) \"/\" R&AOk-sum&AOk-");
    assert_eq!(client.command("d ENABLE UTF8=ACCEPT").await[0], "* ENABLED UTF8=ACCEPT");
    assert_eq!(client.command("e LIST \"\" R*").await[0], "* LIST (\\HasNoChildren) \"/\" \"Résumé\"");
    assert!(client.command("f CREATE \"Entwürfe\"").await[0].starts_with("f OK"));
    assert!(client.command("g SUBSCRIBE \"Entwürfe\"").await[0].starts_with("g OK"));
    assert_eq!(client.command("h LSUB \"\" \"Entw*\"").await[0], "* LSUB () \"/\" \"Entwürfe\"");
    let heard = client.command("i STATUS \"Entwürfe\" (MESSAGES)").await;
    assert_eq!(heard[0], "* STATUS \"Entwürfe\" (MESSAGES 0)");
    for (bad, code) in [("\"a\u{85}b\"", "NO"), ("\"a\u{2028}b\"", "NO")] {
        let heard = client.command(&format!("j CREATE {bad}")).await;
        assert!(heard[0].starts_with(&format!("j {code} ")), "{bad:?} {heard:?}");
    }
    // RFC 6855 §3: octets that are no UTF-8 are BAD, and so is a charset.
    client.send_octets(b"k CREATE \"a\xffb\"\r\n").await;
    assert!(client.line().await.starts_with("k BAD"));
    client.send_octets(utf8("l").as_bytes()).await;
    assert!(client.line().await.starts_with("l OK [APPENDUID "));
    client.command("m SELECT INBOX").await;
    assert_eq!(client.command("n SEARCH CHARSET UTF-8 SUBJECT \"Grüße\"").await.len(), 1);
    assert!(client.command("n SEARCH CHARSET UTF-8 ALL").await[0].starts_with("n BAD"));
    assert_eq!(client.command("o SEARCH SUBJECT \"grüße\"").await[0], "* SEARCH 1");
    let heard = client.command("p FETCH 1 BODY.PEEK[HEADER]").await;
    assert_eq!(heard[1..3], ["From: Zoë <zoë@example.org>", "Subject: Grüße"]);
    // A client that knows nothing of it gets the same octets.
    let mut legacy = site.login("ann").await;
    legacy.command("a SELECT INBOX").await;
    let heard = legacy.command("b FETCH 1 BODY.PEEK[]").await;
    assert_eq!(heard[0], format!("* 1 FETCH (BODY[] {{{}}}", message.len()));
    assert_eq!(heard[1..5].join("\r\n"), message.trim_end_matches("\r\n"));
    let heard = legacy.command("c FETCH 1 ENVELOPE").await.concat();
    assert!(!heard.contains("\"Gr"), "8-bit octets between quotes: {heard}");
    assert_eq!(legacy.command("d LIST \"\" E*").await[0], "* LIST (\\HasNoChildren) \"/\" Entw&APw-rfe");
}

#[tokio::test]
async fn appends_have_limits() {
    let site =
        Site::with(ImapConfig { message_octets_max: 100, append_messages_max: 2, ..ImapConfig::default() });
    let site = site.await;
    let mut client = site.login("ann").await;
    assert!(client.command("a CAPABILITY").await[0].contains(" APPENDLIMIT=100 "));
    // RFC 7889 §5: of one mailbox, and of all in a LIST.
    assert_eq!(client.command("b STATUS INBOX (APPENDLIMIT)").await[0], "* STATUS INBOX (APPENDLIMIT 100)");
    let heard = client.command("c LIST \"\" INBOX RETURN (STATUS (APPENDLIMIT))").await;
    assert_eq!(heard[1], "* STATUS INBOX (APPENDLIMIT 100)");
    assert_eq!(client.command("d APPEND INBOX {101}").await, ["d NO [TOOBIG] Message too large"]);
    // RFC 3502 §6.3.11: all or nothing, UIDs in the order of the messages.
    let heard = client.command("e APPEND INBOX (\\Seen) {6+}\\na: 1\\n (\\Flagged) {6+}\\na: 2\\n").await;
    assert!(heard[0].starts_with("e OK [APPENDUID ") && heard[0].contains(" 1:2]"), "{heard:?}");
    let heard = client.command("f APPEND INBOX {6+}\\na: 3\\n {0+}\\n").await;
    assert_eq!(heard, ["f NO [CANNOT] A message cannot be empty"]);
    let heard = client.command("g APPEND INBOX {6+}\\na: 3\\n {101+}\\n").await;
    assert_eq!(heard, ["g NO [TOOBIG] Message too large"]);
    client.send_octets(&[b'x'; 101]).await;
    client.send_octets(b"\r\n").await;
    let heard = client.command("h APPEND INBOX {2+}\\na: {2+}\\na: {2+}\\na:").await;
    assert_eq!(heard, ["h NO [LIMIT] Too many messages in one APPEND"]);
    assert_eq!(client.command("i STATUS INBOX (MESSAGES)").await[0], "* STATUS INBOX (MESSAGES 2)");
}

#[tokio::test]
async fn what_is_known_of_many_messages_has_its_limit() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    let part = "--b\r\nContent-Type: text/plain; name=\"a part of many\"\r\n\r\nx\r\n";
    let mut body = "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned() + &part.repeat(9_000);
    body += "--b--\r\n";
    // One of them is taken whatever is known of it; of 60 that is far more than may wait in memory.
    let mut octets = b"a APPEND INBOX".to_vec();
    for _ in 0..60 {
        octets.extend_from_slice(format!(" {{{}+}}\r\n{body}", body.len()).as_bytes());
    }
    client.send_octets(&octets).await;
    client.send_octets(b"\r\n").await;
    let heard = client.until("a ").await;
    assert_eq!(heard, ["a NO [LIMIT] Those are more messages than can be taken at once; send fewer"]);
    client.send_octets(format!("b APPEND INBOX {{{}+}}\r\n{body}\r\n", body.len()).as_bytes()).await;
    assert!(client.until("b ").await[0].starts_with("b OK"));
    assert_eq!(client.command("c STATUS INBOX (MESSAGES)").await[0], "* STATUS INBOX (MESSAGES 1)");
}
