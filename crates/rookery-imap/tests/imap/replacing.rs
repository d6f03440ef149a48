//! REPLACE (RFC 8508) and CATENATE (RFC 4469).

use crate::harness::{Client, Site};
use rookery_imap::ImapConfig;

/// The message of RFC 4469 appendix A: a text and an attachment.
const MIXED: &str = "Subject: draft\r\nContent-Type: multipart/mixed;\r\n boundary=\"--0907\"\r\n\r\n\
    ----0907\r\nContent-Type: text/plain\r\n\r\nThe text.\r\n\
    ----0907\r\nContent-Type: application/x-zip-compressed\r\n\r\nPK\r\n----0907--\r\n";

async fn append(client: &mut Client, mailbox: &str, message: &str) {
    let command = format!("put APPEND {mailbox} {{{}+}}\r\n{message}\r\n", message.len());
    client.send_octets(command.as_bytes()).await;
    let heard = client.until("put ").await;
    assert!(heard.last().unwrap().starts_with("put OK"), "{heard:?}");
}

/// The octets of a message.
async fn body(client: &mut Client, uid: u32) -> String {
    let heard = client.command(&format!("body UID FETCH {uid} (BODY.PEEK[])")).await;
    let lines = heard.len() - 1;
    let whole = heard[1..lines].join("\r\n");
    whole.strip_suffix(')').unwrap().to_string()
}

async fn validity(client: &mut Client, mailbox: &str) -> String {
    let heard = client.command(&format!("v STATUS {mailbox} (UIDVALIDITY)")).await;
    heard[0].trim_end_matches(')').rsplit(' ').next().unwrap().to_string()
}

#[tokio::test]
async fn replacing_a_draft() {
    let site = Site::new().await;
    site.fill("...s").await;
    site.play(
        r#"
        A> a0 REPLACE 4 INBOX {3+}\na: 
        A< a0 BAD No mailbox is selected
        A> a1 SELECT INBOX
        A< ...
        A< a1 OK <*>
        A~ a2 REPLACE 4 INBOX (\Seen \Draft) {22}
        A< + OK
        A~ Subject: new\n\nbody\n
        A< * OK [APPENDUID <*> 5] Replacement message ready
        A< * 4 EXPUNGE
        A< * 4 EXISTS
        A< * 4 RECENT
        A< a2 OK REPLACE completed
        A> a3 FETCH 4 (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])
        A< * 4 FETCH (UID 5 FLAGS (\Seen \Draft \Recent) BODY[HEADER.FIELDS (SUBJECT)] {16}
        A< Subject: new
        A< 
        A< )
        A< a3 OK <*>
        -- Into another mailbox; the flags are not those of the old message.
        A> a4 UID REPLACE 5 Sent {9+}\na: b\n\nc
        A< * OK [APPENDUID <*> 1] Replacement message ready
        A< * 4 EXPUNGE
        A< a4 OK REPLACE completed
        A> a5 STATUS Sent (MESSAGES UNSEEN)
        A< * STATUS Sent (MESSAGES 1 UNSEEN 1)
        A< a5 OK <*>
        -- What is not there, and what cannot be: nothing changes.
        A> a6 UID REPLACE 5 INBOX {9+}\na: b\n\nc
        A< a6 NO [NONEXISTENT] There is no such message
        A> a7 REPLACE 9 INBOX {9+}\na: b\n\nc
        A< a7 BAD <*>
        A> a8 REPLACE 1 Nowhere {8}
        A< a8 NO [TRYCREATE] <*>
        A> a9 REPLACE 1 INBOX {9+}\na: b\n\nc {1+}\nd
        A< a9 BAD REPLACE takes one message
        A> a10 EXAMINE INBOX
        A< ...
        A< a10 OK <*>
        A> a11 REPLACE 1 INBOX {8}
        A< a11 NO [CANNOT] The mailbox is selected read-only
        A> a12 STATUS INBOX (MESSAGES)
        A< * STATUS INBOX (MESSAGES 3)
        A< a12 OK <*>
    "#,
    )
    .await;
}

#[tokio::test]
async fn a_replaced_message_vanishes() {
    let site = Site::new().await;
    site.fill("...").await;
    site.play(
        r"
        A> 1 ENABLE QRESYNC
        A< * ENABLED QRESYNC
        A< 1 OK <*>
        A> 2 SELECT INBOX
        A< ...
        A< 2 OK <*>
        B> 2 SELECT INBOX
        B< ...
        B< 2 OK <*>
        A> 3 UID REPLACE * INBOX {9+}\na: b\n\nc
        A< * OK [APPENDUID <*> 4] Replacement message ready
        A< * VANISHED 3
        A< * 3 EXISTS
        A< * 3 RECENT
        A< 3 OK [HIGHESTMODSEQ <*>] REPLACE completed
        -- The other session learns of both at once.
        B> 3 NOOP
        B< * 3 EXPUNGE
        B< * 3 EXISTS
        B< * <*> RECENT
        B< 3 OK <*>
    ",
    )
    .await;
}

#[tokio::test]
async fn the_quota_sees_the_difference() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    append(&mut client, "INBOX", &format!("a: b\r\n\r\n{}", "x".repeat(992))).await;
    site.account("ann")
        .await
        .set_quota(
            &rookery_types::MailboxPath::inbox(),
            rookery_store::Limits { octets: Some(1500), ..Default::default() },
        )
        .await
        .unwrap();
    client.command("a SELECT INBOX").await;
    let message = format!("a: b\\n\\n{}", "y".repeat(1392));
    let heard = client.command(&format!("b APPEND INBOX {{1400+}}\\n{message}")).await;
    assert!(heard[0].starts_with("b NO [OVERQUOTA]"), "{heard:?}");
    let heard = client.command(&format!("c REPLACE 1 INBOX {{1400+}}\\n{message}")).await;
    assert!(heard[0].starts_with("* OK [APPENDUID "), "{heard:?}");
    let heard = client.command("d REPLACE 1 INBOX {1501}").await;
    assert!(heard[0].starts_with("d NO [OVERQUOTA]"), "{heard:?}");
    assert_eq!(site.account("ann").await.usage().octets, 1400);
}

#[tokio::test]
async fn messages_are_made_of_messages() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    append(&mut client, "Sent", MIXED).await;
    append(&mut client, "Sent", "Subject: other\r\n\r\nOther.\r\n").await;
    let validity = validity(&mut client, "Sent").await;
    // RFC 4469, example 1: the attachment is replaced by another message.
    client.send(&format!(
        "A003 APPEND INBOX (\\Seen \\Draft $MDNSent) CATENATE (URL \"/Sent;UIDVALIDITY={validity}/;UID=1/;section=HEADER\" TEXT {{10}}"
    )).await;
    assert_eq!(client.line().await, "+ OK");
    client.send_octets(b"----0907\r\n").await;
    client.send(&format!(
        " URL \"/Sent;UIDVALIDITY={validity}/;UID=1/;section=1.MIME\" URL \"/Sent;UIDVALIDITY={validity}/;UID=1/;Section=1\" TEXT {{12}}"
    )).await;
    assert_eq!(client.line().await, "+ OK");
    client.send_octets(b"\r\n----0907\r\n").await;
    client.send(&format!(" URL \"/Sent;UIDVALIDITY={validity}/;UID=2\" TEXT {{12+}}\\n----0907--\\n)")).await;
    let heard = client.line().await;
    assert!(heard.starts_with("A003 OK [APPENDUID "), "{heard}");
    client.command("b SELECT INBOX").await;
    assert!(client.command("c FETCH 1 FLAGS").await[0].contains("\\Draft \\Recent $MDNSent"), "flags");
    let (header, _) = MIXED.split_once("----0907").unwrap();
    let made = format!(
        "{header}----0907\r\nContent-Type: text/plain\r\n\r\nThe text.\r\n----0907\r\nSubject: other\r\n\r\nOther.\r\n----0907--\r\n"
    );
    assert_eq!(body(&mut client, 1).await, made);
    // \Seen of what was taken is left alone.
    let heard = client.command("d STATUS Sent (UNSEEN)").await;
    assert_eq!(heard[0], "* STATUS Sent (UNSEEN 2)");
    // URLs alone, in all the forms that mean this session.
    for (n, (url, text)) in [
        ("/;UID=1/;SECTION=1", "The text."),
        (";UID=1/;SECTION=1/;PARTIAL=4", "text."),
        ("imap://mail.example.org/INBOX/;UID=1/;SECTION=1/;PARTIAL=0.3", "The"),
        ("imap://ann@MAIL.example.org:143/Sent/;UID=2/;SECTION=TEXT", "Other.\r\n"),
        (
            "imap://ann%40example.org;AUTH=*@mail.example.org/Sent/;UID=2/;SECTION=HEADER.FIELDS%20(SUBJECT)",
            "Subject: other\r\n\r\n",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let uid = u32::try_from(n).unwrap() + 2;
        let heard =
            client.command(&format!("e APPEND INBOX CATENATE (URL {{{}+}}\\n{url})", url.len())).await;
        assert!(heard.last().unwrap().starts_with("e OK [APPENDUID "), "{url} {heard:?}");
        assert_eq!(body(&mut client, uid).await, text, "{url}");
    }
    // With REPLACE (RFC 8508 §4.2) and MULTIAPPEND.
    let heard =
        client.command("f UID REPLACE 2 INBOX CATENATE (TEXT {9+}\\nTo: joe\\n URL \"/INBOX/;UID=2\")").await;
    assert!(heard[0].starts_with("* OK [APPENDUID "), "{heard:?}");
    assert_eq!(body(&mut client, 7).await, "To: joe\r\nThe text.");
    let heard = client.command("g APPEND INBOX CATENATE (URL \"/INBOX/;UID=3\") (\\Seen) {6+}\\na: b\\n CATENATE (TEXT {1+}\\nx)").await;
    assert!(heard.last().unwrap().contains(" 8:10] "), "{heard:?}");
}

#[tokio::test]
async fn bad_urls_are_named_and_nothing_is_kept() {
    let site = Site::new().await;
    site.fill("..").await;
    let mut client = site.login("ann").await;
    let mut joe = site.login("joe").await;
    append(&mut joe, "INBOX", "Subject: secret\r\n\r\nx\r\n").await;
    for url in [
        "/INBOX;UIDVALIDITY=785799047/;UID=1",
        "/INBOX/;UID=11467",
        "/INBOX/;UID=1/;section=1.5.9",
        "/Nowhere/;UID=1",
        "/Other%20Users/joe/;UID=1",
        "/;UID=1",
        "imap://joe@mail.example.org/INBOX/;UID=1",
        "imap://other.example.org/INBOX/;UID=1",
        "http://mail.example.org/",
        "/INBOX",
    ] {
        let heard = client.command(&format!("a APPEND INBOX CATENATE (URL \"{url}\")")).await;
        assert!(heard[0].starts_with(&format!("a NO [BADURL {url}] ")), "{heard:?}");
        // The text that follows is not asked for, or is dropped.
        let heard = client.command(&format!("b APPEND INBOX CATENATE (URL \"{url}\" TEXT {{99}}")).await;
        assert!(heard[0].starts_with("b NO [BADURL "), "{heard:?}");
        let heard = client
            .command(&format!(
                "c APPEND INBOX CATENATE (TEXT {{2+}}\\nab URL \"{url}\" TEXT {{4+}}\\nabcd) {{2+}}\\nab"
            ))
            .await;
        assert!(heard[0].starts_with("c NO [BADURL "), "{heard:?}");
    }
    let heard = client.command("d APPEND INBOX CATENATE (TEXT {0+}\\n)").await;
    assert_eq!(heard, ["d NO [CANNOT] A message cannot be empty"]);
    assert_eq!(client.command("e STATUS INBOX (MESSAGES)").await[0], "* STATUS INBOX (MESSAGES 2)");
}

#[tokio::test]
async fn what_is_made_of_parts_has_the_limits_of_a_message() {
    let config = ImapConfig { message_octets_max: 1000, ..ImapConfig::default() };
    let site = Site::with(config).await;
    let mut client = site.login("ann").await;
    append(&mut client, "INBOX", &format!("a: b\r\n\r\n{}", "x".repeat(592))).await;
    for parts in [
        "URL /INBOX/;UID=1 URL /INBOX/;UID=1",
        "URL /INBOX/;UID=1 TEXT {401}",
        "TEXT {1+}\\nx URL /INBOX/;UID=1 URL /INBOX/;UID=1/;SECTION=TEXT)",
    ] {
        let command =
            format!("a APPEND INBOX CATENATE ({parts}{}", if parts.ends_with(['}', ')']) { "" } else { ")" });
        assert_eq!(
            client.command(&command).await,
            ["a NO [TOOBIG] The message is larger than is taken"],
            "{parts}"
        );
    }
    let text = "y".repeat(400);
    let heard =
        client.command(&format!("b APPEND INBOX CATENATE (URL /INBOX/;UID=1 TEXT {{400+}}\\n{text})")).await;
    assert!(heard[0].starts_with("b OK"), "{heard:?}");
}

/// Ann's INBOX has two messages; joe may do anything with it and with Sent, and only look at Trash. His own INBOX has one.
async fn shared(config: ImapConfig) -> Site {
    let site = Site::with(config).await;
    site.fill("..").await;
    let mut ann = site.login("ann").await;
    for (mailbox, rights) in [("INBOX", "lrswipkxte"), ("Sent", "lrswipkxte"), ("Trash", "lr")] {
        let heard = ann.command(&format!("1 SETACL {mailbox} joe {rights}")).await;
        assert!(heard[0].starts_with("1 OK"), "{heard:?}");
    }
    site.settled().await;
    append(&mut site.login("joe").await, "INBOX", "Subject: mine\r\n\r\nJoe's.\r\n").await;
    site
}

#[tokio::test]
async fn mailboxes_of_others_take_what_is_made_of_parts() {
    let site = shared(ImapConfig::default()).await;
    site.play(
        r#"
        J> 1 SELECT INBOX
        J< ...
        J< 1 OK <*>
        -- Of a message of one's own, of one of the other's, and of one of the selected mailbox.
        J~ 2 APPEND "Other Users/ann" (\Flagged $one) "01-Feb-2020 03:04:05 +0100" CATENATE (URL /INBOX/;UID=1/;SECTION=HEADER TEXT {7}
        J< + OK
        J~ hello\n URL "/Other%20Users/ann/;UID=2/;SECTION=TEXT" URL ;UID=1/;SECTION=TEXT/;PARTIAL=0.3)
        J< 2 OK [APPENDUID <*> 3] APPEND completed
        J> 3 SELECT "Other Users/ann"
        J< ...
        J< 3 OK <*>
        J> 4 FETCH 3 (INTERNALDATE BODY.PEEK[])
        J< * 3 FETCH (INTERNALDATE " 1-Feb-2020 03:04:05 +0100" BODY[] {35}
        J< Subject: mine
        J<
        J< hello
        J< body 1
        J< Joe)
        J< 4 OK <*>
        J> 5 SEARCH FLAGGED KEYWORD $one
        J< * SEARCH 3
        J< 5 OK <*>
        -- The other's mailbox is the selected one.
        J> 6 APPEND INBOX CATENATE (URL /;UID=3/;SECTION=HEADER URL ;UID=1/;SECTION=TEXT)
        J< 6 OK [APPENDUID <*> 2] APPEND completed
        J> 7 APPEND "Other Users/ann/Sent" CATENATE (URL /;UID=3)
        J< 7 OK [APPENDUID <*> 1] APPEND completed
        J> 8 APPEND "Other Users/ann" CATENATE (URL /;UID=2/;SECTION=TEXT URL "/INBOX/;UID=2")
        J< * 4 EXISTS
        J< * <*> RECENT
        J< 8 OK [APPENDUID <*> 4] APPEND completed
        J> 9 FETCH 4 BODY.PEEK[]
        J< * 4 FETCH (BODY[] {33}
        J< body 1
        J< Subject: mine
        J<
        J< body 0
        J< )
        J< 9 OK <*>
        -- With others of both kinds, and in place of another.
        J> 10 APPEND "Other Users/ann/Sent" {6+}\na: 1\n CATENATE (URL ;UID=3) (\Seen) {6+}\na: 2\n CATENATE (TEXT {1+}\nx)
        J< 10 OK [APPENDUID <*> 2:5] APPEND completed
        J> 11 APPEND "Other Users/ann/Sent" CATENATE (TEXT {1+}\nx) {6+}\na: 1\n
        J< 11 OK [APPENDUID <*> 6:7] APPEND completed
        J> 12 REPLACE 2 "Other Users/ann/Sent" CATENATE (TEXT {6+}\nnew: 1 URL ;UID=2/;SECTION=TEXT)
        J< * OK [APPENDUID <*> 8] Replacement message ready
        J< * 2 EXPUNGE
        J< 12 OK REPLACE completed
        J> 13 UID REPLACE 1 "Other Users/ann" CATENATE (URL ;UID=1/;SECTION=TEXT)
        J< * OK [APPENDUID <*> 5] Replacement message ready
        J< * 1 EXPUNGE
        J< * 3 EXISTS
        J< * <*> RECENT
        J< 13 OK REPLACE completed
        J> 14 FETCH 3 BODY.PEEK[]
        J< * 3 FETCH (BODY[] {8}
        J< body 0
        J< )
        J< 14 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_mailboxes_of_others_do_not_take_is_refused_and_nothing_is_kept() {
    let site = shared(ImapConfig { message_octets_max: 1000, ..ImapConfig::default() }).await;
    let large = format!("a: b\\n\\n{}", "x".repeat(592));
    let mut joe = site.login("joe").await;
    joe.command("1 SELECT INBOX").await;
    assert!(
        joe.command(&format!("2 APPEND INBOX {{600+}}\\n{large}")).await.last().unwrap().starts_with("2 OK")
    );
    let (whole, own) = (r#""Other Users/ann""#, "URL ;UID=2");
    // Refused before anything comes, whatever else is wrong.
    for (mailbox, code) in [
        (r#""Other Users/ann/Sent/none""#, "TRYCREATE"),
        (r#""Other Users/ann/none/none""#, "NONEXISTENT"),
        (r#""Other Users/ann/Trash""#, "NOPERM"),
    ] {
        for rest in ["TEXT {5}", "URL ;UID=77 TEXT {5}", "TEXT {5+}\\nabcde URL ;UID=77)"] {
            let heard = joe.command(&format!("a APPEND {mailbox} CATENATE ({rest}")).await;
            assert!(
                heard.len() == 1 && heard[0].starts_with(&format!("a NO [{code}] ")),
                "{rest}: {heard:?}"
            );
        }
    }
    // More often than a session may say what makes no sense. The mailbox stays selected.
    let mut reader = site.login("joe").await;
    reader.command(&format!("1 SELECT {whole}")).await;
    for n in 0..60 {
        let bad =
            ["/INBOX/;UID=77", "/Other%20Users/ann/;UID=77", "/Other%20Users/max/;UID=1", "/;UID=77", "x"]
                [n % 5];
        let before = ["", "CATENATE (TEXT {1+}\\nx) ", "CATENATE (URL ;UID=1) "];
        let before = before.get(n).copied().unwrap_or("{1+}\\nx ");
        let heard = reader
            .command(&format!("b APPEND {whole} {before}CATENATE (TEXT {{1+}}\\nx URL \"{bad}\")"))
            .await;
        let wanted = format!("b NO [BADURL {bad}] ");
        assert!(heard.len() == 1 && heard[0].starts_with(&wanted), "{before} {bad}: {heard:?}");
    }
    for (rest, wanted) in [
        ("CATENATE (URL ;UID=2 TEXT {401}", "NO [TOOBIG] The message is larger than is taken"),
        ("CATENATE (URL ;UID=2 URL ;UID=2)", "NO [TOOBIG] The message is larger than is taken"),
        ("CATENATE (TEXT {1001}", "NO [TOOBIG] Message too large"),
        ("CATENATE (TEXT {0+}\\n)", "NO [CANNOT] A message cannot be empty"),
        ("{1+}\\nx CATENATE (TEXT {0+}\\n)", "NO [CANNOT] A message cannot be empty"),
        ("CATENATE (TEXT {1+}\\nx) {0+}\\n", "NO [CANNOT] A message cannot be empty"),
        ("CATENATE (TEXT {1+}\\nx) nonsense", "BAD <*>"),
        ("CATENATE (TEXT {1+}\\n\0)", "NO Message holds NUL"),
        ("{1+}\\nx CATENATE (TEXT {1+}\\n\0)", "NO Message holds NUL"),
    ] {
        let heard = joe.command(&format!("c APPEND {whole} {rest}")).await;
        let wanted = wanted.strip_suffix("<*>").unwrap_or(wanted);
        assert!(heard.len() == 1 && heard[0].starts_with(&format!("c {wanted}")), "{rest:?}: {heard:?}");
    }
    let mut root = site.login("root").await;
    let heard = root.command("1 SETQUOTA user/ann (STORAGE 1 MESSAGE 3)").await;
    assert!(heard.last().unwrap().starts_with("1 OK"), "{heard:?}");
    for rest in [
        format!("CATENATE ({own} TEXT {{400+}}\\n{})", "y".repeat(400)),
        format!("CATENATE ({own}) CATENATE (TEXT {{1+}}\\nx)"),
    ] {
        let heard = joe.command(&format!("d APPEND {whole} {rest}")).await;
        assert!(heard.len() == 1 && heard[0].starts_with("d NO [OVERQUOTA] "), "{rest}: {heard:?}");
    }
    assert_eq!(
        joe.command(&format!("e STATUS {whole} (MESSAGES)")).await[0],
        format!("* STATUS {whole} (MESSAGES 2)")
    );
    let heard = joe.command(&format!("f APPEND {whole} CATENATE (TEXT {{1+}}\\nx)")).await;
    assert!(heard.last().unwrap().starts_with("f OK [APPENDUID "), "{heard:?}");
    let heard = joe.command(&format!("g APPEND {whole} CATENATE (TEXT {{1}}")).await;
    assert!(heard.len() == 1 && heard[0].starts_with("g NO [OVERQUOTA] "), "{heard:?}");
}

#[tokio::test]
async fn a_message_makes_room_for_one_in_a_mailbox_of_somebody_else() {
    let site = shared(ImapConfig::default()).await;
    append(&mut site.login("joe").await, "INBOX", "Subject: two\r\n\r\nJoe's.\r\n").await;
    site.play(
        r#"
        J> 1 SELECT INBOX
        J< ...
        J< 1 OK <*>
        J~ 2 REPLACE 1 "Other Users/ann" (\Flagged $one) "01-Feb-2020 03:04:05 +0100" {6}
        J< + OK
        J~ a: b\n
        J< * OK [APPENDUID <*> 3] Replacement message ready
        J< * 1 EXPUNGE
        J< 2 OK REPLACE completed
        J> 3 REPLACE 2 "Other Users/ann" {1}
        J< 3 BAD There is no message of that number
        J> 4 UID REPLACE 1 "Other Users/ann" {1}
        J< 4 NO [NONEXISTENT] There is no such message
        J> 5 UID REPLACE 2 "Other Users/ann/Trash" {1}
        J< 5 NO [NOPERM] <*>
        J~ 6 UID REPLACE 2 "Other Users/ann/Sent" CATENATE (URL ;UID=2/;SECTION=HEADER TEXT {4}
        J< + OK
        J~ text URL "/Other%20Users/ann/;UID=3")
        J< * OK [APPENDUID <*> 1] Replacement message ready
        J< * 1 EXPUNGE
        J< 6 OK REPLACE completed
        -- The other way round.
        J> 7 SELECT "Other Users/ann"
        J< ...
        J< 7 OK <*>
        J> 8 FETCH 3 (FLAGS INTERNALDATE BODY.PEEK[])
        J< * 3 FETCH (FLAGS (\Flagged<*>$one) INTERNALDATE " 1-Feb-2020 03:04:05 +0100" BODY[] {6}
        J< a: b
        J< )
        J< 8 OK <*>
        J~ 9 REPLACE 3 INBOX CATENATE (URL ;UID=3 TEXT {1}
        J< + OK
        J~ x)
        J< * OK [APPENDUID <*> 3] Replacement message ready
        J< * 3 EXPUNGE
        J< 9 OK REPLACE completed
        J> 10 REPLACE 3 INBOX {1}
        J< 10 BAD There is no message of that number
        J> 11 UID REPLACE 3 INBOX {1}
        J< 11 NO [NONEXISTENT] There is no such message
        J> 12 REPLACE 1 none {1}
        J< 12 NO [TRYCREATE] <*>
        J> 13 UID REPLACE * INBOX (\Seen) {6+}\na: 2\n
        J< * OK [APPENDUID <*> 4] Replacement message ready
        J< * 2 EXPUNGE
        J< 13 OK REPLACE completed
        J> 14 SELECT INBOX
        J< ...
        J< 14 OK <*>
        J> 15 FETCH 1:2 BODY.PEEK[]
        J< * 1 FETCH (BODY[] {7}
        J< a: b
        J< x)
        J< * 2 FETCH (BODY[] {6}
        J< a: 2
        J< )
        J< 15 OK <*>
        J> 16 STATUS "Other Users/ann" (MESSAGES)
        J< * STATUS "Other Users/ann" (MESSAGES 1)
        J< 16 OK <*>
        J> 17 STATUS "Other Users/ann/Sent" (MESSAGES)
        J< * STATUS "Other Users/ann/Sent" (MESSAGES 1)
        J< 17 OK <*>
        "#,
    )
    .await;
}
