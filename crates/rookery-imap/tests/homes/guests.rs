//! What only mailboxes of other homes have: their home is lost, or the user's session needs it in odd ways.

use crate::harness::Site;
use rookery_types::AccountName;

/// Ann's INBOX has three messages; joe may do anything with it, and with Sent.
async fn shared_inbox() -> Site {
    let site = Site::new().await;
    site.fill("s..").await;
    let mut ann = site.login("ann").await;
    assert!(ann.command("1 SETACL INBOX joe lrswipkxte").await[0].starts_with("1 OK"));
    assert!(ann.command("2 SETACL Sent joe lrswipkxte").await[0].starts_with("2 OK"));
    site
}

#[tokio::test]
async fn another_homes_mailbox_is_used_like_any() {
    let site = shared_inbox().await;
    site.play(
        r#"
        J> 1 STATUS "Other Users/ann" (MESSAGES UIDNEXT)
        J< * STATUS "Other Users/ann" (MESSAGES 3 UIDNEXT 4)
        J< 1 OK STATUS completed
        J> 2 CREATE mine
        J< 2 OK <*>
        J> 3 SELECT mine
        J< ...
        J< 3 OK [READ-WRITE] <*>
        J> 4 SELECT "Other Users/ann"
        J< * OK [CLOSED] <*>
        J< * FLAGS (<*>
        J< * OK [PERMANENTFLAGS (<*>
        J< * 3 EXISTS
        J< * 3 RECENT
        J< * OK [UNSEEN 1] <*>
        J< ...
        J< 4 OK [READ-WRITE] SELECT completed
        J> 5 UID FETCH 2 (FLAGS BODY.PEEK[TEXT])
        J< * 2 FETCH (<*>BODY[TEXT] {8}
        J< body 1
        J< <*>)
        J< 5 OK FETCH completed
        J> 6 STORE 2 +FLAGS (\Flagged)
        J< * 2 FETCH (FLAGS (\Flagged<*>
        J< 6 OK STORE completed
        J> 7 SEARCH FLAGGED
        J< * SEARCH 2
        J< 7 OK SEARCH completed
        J> 8 APPEND "Other Users/ann" (\Seen) {5+}\nhello
        J< * 4 EXISTS
        J< * 4 RECENT
        J< 8 OK [APPENDUID <*> 4] APPEND completed
        J> 9 APPEND mine {5+}\nhello
        J< 9 OK [APPENDUID <*> 1] APPEND completed
        -- What is new abroad is told at the end of any command.
        A> 1 APPEND INBOX {3+}\nnew
        A< 1 OK <*>
        J> 10 STATUS mine (MESSAGES)
        J< * STATUS mine (MESSAGES 1)
        J< * 5 EXISTS
        J< * 5 RECENT
        J< 10 OK STATUS completed
        A> 2 STORE INBOX
        A< 2 BAD <*>
        J> 11 STORE 1 +FLAGS.SILENT (\Deleted)
        J< 11 OK <*>
        J> 12 EXPUNGE
        J< * 1 EXPUNGE
        J< 12 OK <*>
        J> 13 FETCH 9 FLAGS
        J< 13 BAD There is no message of that number
        J> 14 CLOSE
        J< 14 OK CLOSE completed
        J> 15 FETCH 1 FLAGS
        J< 15 BAD No mailbox is selected
        J> 16 EXAMINE "Other Users/ann"
        J< ...
        J< 16 OK [READ-ONLY] EXAMINE completed
        J> 17 EXAMINE "Other Users/ann"
        J< * OK [CLOSED] <*>
        J< ...
        J< 17 OK [READ-ONLY] EXAMINE completed
        J> 18 SELECT mine
        J< * OK [CLOSED] <*>
        J< * FLAGS <*>
        J< * OK [PERMANENTFLAGS <*>
        J< * 1 EXISTS
        J< ...
        J< 18 OK [READ-WRITE] SELECT completed
        J> 19 SELECT "Other Users/ann/none"
        J< * OK [CLOSED] <*>
        J< 19 NO [NONEXISTENT] No such mailbox
        J> 20 NOOP
        J< 20 OK NOOP completed
        "#,
    )
    .await;
}

#[tokio::test]
async fn idle_is_heard_from_another_home() {
    let site = shared_inbox().await;
    site.play(
        r#"
        J> 1 SELECT "Other Users/ann"
        J< ...
        J< 1 OK <*>
        J~ 2 IDLE
        J< + idling
        A> 1 APPEND INBOX {3+}\nnew
        A< 1 OK <*>
        J< * 4 EXISTS
        J< * 4 RECENT
        J~ DONE
        J< 2 OK IDLE completed
        J~ 3 IDLE
        J< + idling
        J~ nonsense
        J< 3 BAD DONE was expected
        J> 4 NOOP
        J< 4 OK NOOP completed
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_is_enabled_holds_at_other_homes() {
    let site = shared_inbox().await;
    site.play(
        r#"
        J> 1 ENABLE IMAP4rev2 QRESYNC
        J< * ENABLED IMAP4rev2 QRESYNC
        J< 1 OK <*>
        J> 2 SELECT "Other Users/ann"
        J< * FLAGS <*>
        J< * OK [PERMANENTFLAGS <*>
        J< * 3 EXISTS
        J< * OK [UIDVALIDITY <*>
        J< * OK [UIDNEXT 4] <*>
        J< * OK [HIGHESTMODSEQ <*>
        J< * OK [MAILBOXID <*>
        J< * LIST () "/" "Other Users/ann"
        J< 2 OK [READ-WRITE] <*>
        J> 3 STORE 2 +FLAGS.SILENT (\Deleted)
        J< * 2 FETCH (UID 2 MODSEQ <*>
        J< 3 OK <*>
        J> 4 EXPUNGE
        J< * VANISHED 2
        J< 4 OK [HIGHESTMODSEQ <*>
        "#,
    )
    .await;
    // Modseqs that begin in the middle, on either side.
    site.play(
        r#"
        J> 1 SELECT "Other Users/ann"
        J< ...
        J< 1 OK <*>
        J> 2 STATUS INBOX (HIGHESTMODSEQ)
        J< * STATUS INBOX (HIGHESTMODSEQ <*>
        J< * OK [HIGHESTMODSEQ <*>
        J< 2 OK <*>
        J> 3 STORE 1 +FLAGS (\Draft)
        J< * 1 FETCH (UID 1 FLAGS (<*>\Draft<*> MODSEQ (<*>))
        J< 3 OK <*>
        J> 4 SELECT INBOX
        J< ...
        J< 4 OK <*>
        "#,
    )
    .await;
    site.play(
        r#"
        J> 1 SELECT "Other Users/ann"
        J< ...
        J< 1 OK <*>
        J> 2 FETCH 1 MODSEQ
        J< * 1 FETCH (<*>MODSEQ (<*>
        J< * OK [HIGHESTMODSEQ <*>
        J< 2 OK <*>
        J> 3 SELECT INBOX
        J< ...
        J< 3 OK <*>
        J> 4 APPEND INBOX {3+}\nabc
        J< ...
        J< 4 OK <*>
        J> 5 STORE 1 +FLAGS.SILENT (\Draft)
        J< * 1 FETCH (UID 1 MODSEQ (<*>
        J< 5 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn messages_come_to_another_home_as_they_are_or_not_at_all() {
    let site = shared_inbox().await;
    let big = "x".repeat(300_000);
    let mut joe = site.login("joe").await;
    // Refused before it comes.
    joe.send(r#"1 APPEND "Other Users/ann/Sent/none" {5}"#).await;
    assert!(joe.line().await.starts_with("1 NO [TRYCREATE]"));
    joe.send(r#"2 APPEND "Other Users/ann" {300000}"#).await;
    assert!(joe.line().await.starts_with("+ "));
    joe.send(&big).await;
    assert!(joe.line().await.starts_with("2 OK [APPENDUID "));
    // Several, and what is wrong behind the first undoes it.
    let heard = joe.command(r#"3 APPEND "Other Users/ann" {3+}\nabc {3+}\ndef"#).await;
    assert!(heard.last().unwrap().starts_with("3 OK [APPENDUID "), "{heard:?}");
    for (n, bad) in [
        r#"APPEND "Other Users/ann" {3+}\nabc {0+}\n"#,
        r#"APPEND "Other Users/ann" {3+}\nabc nonsense"#,
        "APPEND \"Other Users/ann\" {5+}\\na\0bcd",
    ]
    .iter()
    .enumerate()
    {
        let heard = joe.command(&format!("b{n} {bad}")).await;
        assert_eq!(heard.len(), 1, "{bad}: {heard:?}");
        let answer = heard[0].split(' ').nth(1).unwrap();
        assert!(["NO", "BAD"].contains(&answer), "{bad}: {heard:?}");
    }
    let heard = joe.command(r#"4 STATUS "Other Users/ann" (MESSAGES)"#).await;
    assert_eq!(heard[0], r#"* STATUS "Other Users/ann" (MESSAGES 6)"#);
    // What replaces is abroad with what is replaced, or not.
    joe.command(r#"5 SELECT "Other Users/ann""#).await;
    let heard = joe.command(r#"6 REPLACE 1 "Other Users/ann" {3+}\nnew"#).await;
    assert!(
        heard[0].starts_with("* OK [APPENDUID ") && heard.contains(&"* 1 EXPUNGE".to_string()),
        "{heard:?}"
    );
    let heard = joe.command("7 REPLACE 1 INBOX {3+}\\nnew").await;
    assert!(heard[0].starts_with("* OK [APPENDUID ") && heard[1] == "* 1 EXPUNGE", "{heard:?}");
    assert_eq!(heard[2..], ["7 OK REPLACE completed"]);
    let heard = joe.command("8 CLOSE").await;
    assert_eq!(heard, ["8 OK CLOSE completed"]);
}

#[tokio::test]
async fn messages_are_made_of_messages_of_another_home() {
    let site = shared_inbox().await;
    let mut joe = site.login("joe").await;
    let large = format!("a: b\\n\\n{}", "x".repeat(300_000));
    let mut uids = Vec::new();
    for (octets, text) in [(19, "Subject: x\\n\\nfirst"), (300_008, large.as_str())] {
        let heard = joe.command(&format!("1 APPEND \"Other Users/ann\" {{{octets}+}}\\n{text}")).await;
        let code = heard[0].strip_prefix("1 OK [APPENDUID ").unwrap_or_else(|| panic!("{heard:?}"));
        uids.push(code.split([' ', ']']).nth(1).unwrap().to_owned());
    }
    let url = |uid: &str, rest: &str| format!("URL \"/Other%20Users/ann/;UID={uid}{rest}\"");
    let (head, body) = (url(&uids[0], "/;SECTION=HEADER"), url(&uids[0], "/;SECTION=TEXT/;PARTIAL=1.3"));
    let heard = joe.command(&format!("2 APPEND INBOX CATENATE ({head} TEXT {{6+}}\\nsecond {body})")).await;
    assert!(heard[0].starts_with("2 OK [APPENDUID "), "{heard:?}");
    let heard = joe.command(&format!("3 APPEND INBOX CATENATE ({})", url(&uids[1], ""))).await;
    assert!(heard[0].starts_with("3 OK [APPENDUID "), "{heard:?}");
    joe.command("4 SELECT INBOX").await;
    let heard = joe.command("5 FETCH *:1 BODY.PEEK[]").await.join("\n");
    assert!(
        heard.contains("Subject: x\n\nsecondirs") || heard.contains("Subject: x\r\n\r\nsecondirs"),
        "{heard:?}"
    );
    assert!(heard.contains(&"x".repeat(300_000)));
    // What is not there, or not to be read, or of another time.
    for (n, bad) in [
        url("99", ""),
        url(&uids[0], "/;SECTION=7"),
        "URL \"/Other%20Users/ann;UIDVALIDITY=1/;UID=1\"".to_owned(),
        "URL \"/Other%20Users/ann/Sent/;UID=1\"".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let heard = joe.command(&format!("b{n} APPEND INBOX CATENATE ({bad})")).await;
        assert!(heard[0].starts_with(&format!("b{n} NO [BADURL ")), "{bad}: {heard:?}");
    }
    site.links.lose(site.services.store.node());
    let heard = joe.command(&format!("6 APPEND INBOX CATENATE ({head})")).await;
    assert!(heard[0].starts_with("6 NO [UNAVAILABLE] "), "{heard:?}");
}

#[tokio::test]
async fn a_lost_home_is_no_answer() {
    let site = shared_inbox().await;
    let home = site.services.store.node();
    let mut joe = site.login("joe").await;
    joe.command(r#"1 STATUS "Other Users/ann" (MESSAGES)"#).await;
    let mut reader = site.login("joe").await;
    reader.command(r#"1 SELECT "Other Users/ann""#).await;
    let mut idler = site.login("joe").await;
    idler.command(r#"1 SELECT "Other Users/ann""#).await;
    idler.send("2 IDLE").await;
    assert_eq!(idler.line().await, "+ idling");
    site.links.lose(home);
    // Nothing is selected there: the session goes on.
    for (n, command) in [
        r#"STATUS "Other Users/ann" (MESSAGES)"#,
        r#"SELECT "Other Users/ann""#,
        r#"SETACL "Other Users/ann" joe lr"#,
        r#"APPEND "Other Users/ann" {3+}\nabc"#,
        r#"SUBSCRIBE "Other Users/ann""#,
    ]
    .iter()
    .enumerate()
    {
        let heard = joe.command(&format!("u{n} {command}")).await;
        assert!(heard[0].starts_with(&format!("u{n} NO [UNAVAILABLE]")), "{command}: {heard:?}");
    }
    assert_eq!(joe.command("2 STATUS INBOX (MESSAGES)").await[0], "* STATUS INBOX (MESSAGES 0)");
    // What was selected stays so, and whoever idles goes on idling.
    for (n, command) in ["NOOP", "FETCH 1:* FLAGS", "STORE 1 +FLAGS (\\Seen)", "CLOSE"].iter().enumerate() {
        let heard = reader.command(&format!("u{n} {command}")).await;
        assert!(heard[0].starts_with(&format!("u{n} NO [UNAVAILABLE]")), "{command}: {heard:?}");
    }
    assert_eq!(reader.command("2 STATUS INBOX (MESSAGES)").await[0], "* STATUS INBOX (MESSAGES 0)");
    site.links.add(site.services.clone());
    site.fill(".").await;
    assert_eq!(idler.line().await, "* 4 EXISTS");
    idler.send("DONE").await;
    assert!(idler.until("2 ").await.last().unwrap().starts_with("2 OK"));
    let mut heard = reader.command("3 NOOP").await;
    while heard[0].starts_with("3 NO [UNAVAILABLE]") {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        heard = reader.command("3 NOOP").await;
    }
    assert_eq!(heard[0], "* 4 EXISTS");
    assert!(reader.command("4 STORE 4 +FLAGS (\\Seen)").await[1].starts_with("4 OK"));
    let heard = joe.command(r#"3 STATUS "Other Users/ann" (MESSAGES)"#).await;
    assert_eq!(heard[0], r#"* STATUS "Other Users/ann" (MESSAGES 4)"#);
}

#[tokio::test]
async fn names_of_two_homes_do_not_go_together() {
    let site = shared_inbox().await;
    site.play(
        r#"
        J> 1 RENAME "Other Users/ann" mine
        J< 1 NO [CANNOT] <*>
        J> 2 CREATE mine
        J< 2 OK <*>
        J> 3 RENAME mine "Other Users/ann/mine"
        J< 3 NO [<*>
        J> 4 RENAME mine "Other Users/nobody/mine"
        J< 4 NO [NOPERM] Nothing can be made there
        J> 5 CREATE "Other Users/ann/Sent/below"
        J< 5 OK [MAILBOXID <*>
        J> 6 RENAME "Other Users/ann/Sent/below" "Other Users/ann/Sent/other"
        J< 6 OK <*>
        J> 7 SUBSCRIBE "Other Users/ann/Sent/other"
        J< 7 OK <*>
        J> 8 LSUB "" "Other*"
        J< * LSUB () "/" "Other Users/ann/Sent/other"
        J< 8 OK <*>
        J> 9 DELETE "Other Users/ann/Sent/other"
        J< 9 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn copies_go_from_home_to_home() {
    let site = shared_inbox().await;
    site.play(
        r#"
        J> 1 APPEND INBOX (\Flagged $one) "01-Feb-2020 03:04:05 +0100" {5+}\nfirst
        J< 1 OK <*>
        J> 2 APPEND INBOX (\Seen) {6+}\nsecond
        J< 2 OK <*>
        J> 3 SELECT INBOX
        J< ...
        J< 3 OK <*>
        J> 4 COPY 1:2 "Other Users/ann"
        J< 4 OK [COPYUID <*> 1:2 4:5] COPY completed
        J> 5 UID COPY 2 "Other Users/ann/Sent"
        J< 5 OK [COPYUID <*> 2 1] COPY completed
        J> 6 UID COPY 77 "Other Users/ann/Sent"
        J< 6 OK No messages to copy
        J> 7 UID COPY 77 "Other Users/ann/Trash"
        J< 7 NO [NONEXISTENT] No such mailbox
        J> 8 COPY 1 "Other Users/ann/Sent/none"
        J< 8 NO [TRYCREATE] <*>
        J> 9 COPY 1 "Other Users/ann/Trash"
        J< 9 NO [NONEXISTENT] No such mailbox
        J> 10 COPY 9 "Other Users/ann"
        J< 10 BAD <*>
        -- And back. What the client knows of the mailbox stays as it was told.
        J> 13 SELECT "Other Users/ann"
        J< ...
        J< 13 OK <*>
        J> 14 FETCH 4:5 (INTERNALDATE FLAGS BODY.PEEK[])
        J< * 4 FETCH (INTERNALDATE " 1-Feb-2020 03:04:05 +0100" FLAGS (<*>$one) BODY[] {5}
        J< first)
        J< * 5 FETCH (INTERNALDATE <*> FLAGS (\Seen<*>) BODY[] {6}
        J< second)
        J< 14 OK <*>
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 STORE 4 +FLAGS.SILENT (\Answered)
        A< ...
        A< 2 OK <*>
        J> 15 COPY 4:5 Trash
        J< * 4 FETCH (FLAGS (<*>\Answered<*>))
        J< 15 OK [COPYUID <*> 4:5 1:2] COPY completed
        J> 16 SEARCH RETURN (SAVE) 1:2
        J< 16 OK <*>
        J> 17 UID COPY $ Trash
        J< 17 OK [COPYUID <*> 1:2 3:4] COPY completed
        J> 18 COPY 1 "Other Users/ann/Sent"
        J< 18 OK [COPYUID <*> 1 2] COPY completed
        J> 19 COPY 9 Trash
        J< 19 BAD <*>
        J> 20 COPY 1 none
        J< 20 NO [TRYCREATE] <*>
        J> 23 UID COPY 99 Trash
        J< 23 OK No messages to copy
        A> 3 RENAME INBOX Old
        A< ...
        A< 3 OK <*>
        J> 24 SELECT Trash
        J< ...
        J< 24 OK <*>
        J> 25 FETCH 1 (INTERNALDATE FLAGS BODY.PEEK[])
        J< * 1 FETCH (INTERNALDATE " 1-Feb-2020 03:04:05 +0100" FLAGS (\Answered \Flagged<*>$one) BODY[] {5}
        J< first)
        J< 25 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn a_copy_that_does_not_fit_leaves_nothing() {
    let site = shared_inbox().await;
    let mut root = site.login("root").await;
    let heard = root.command("1 SETQUOTA user/ann (MESSAGE 4)").await;
    assert!(heard.last().unwrap().starts_with("1 OK"), "{heard:?}");
    let mut joe = site.login("joe").await;
    joe.command(r#"1 APPEND INBOX {3+}\nabc {3+}\ndef"#).await;
    joe.command("2 SELECT INBOX").await;
    let heard = joe.command(r#"3 COPY 1:2 "Other Users/ann""#).await;
    assert!(heard.last().unwrap().starts_with("3 NO [OVERQUOTA]"), "{heard:?}");
    let heard = joe.command(r#"4 STATUS "Other Users/ann" (MESSAGES)"#).await;
    assert_eq!(heard[0], r#"* STATUS "Other Users/ann" (MESSAGES 3)"#);
    let heard = joe.command(r#"5 COPY 1 "Other Users/ann""#).await;
    assert!(heard.last().unwrap().starts_with("5 OK [COPYUID "), "{heard:?}");
    let home = site.services.store.node();
    site.links.lose(home);
    let heard = joe.command(r#"6 COPY 1 "Other Users/ann""#).await;
    assert!(heard[0].starts_with("6 NO [UNAVAILABLE]"), "{heard:?}");
    assert!(joe.command("7 COPY 1 Trash").await[0].starts_with("7 OK [COPYUID "));
}

#[tokio::test]
async fn a_list_is_whole_or_none() {
    let site = shared_inbox().await;
    site.add_shared("team", "anyone", "lr").await;
    site.settled().await;
    site.play(
        r#"
        -- An administrator finds every account at any home, in order.
        R> 1 LIST "" *
        R< * LIST (\HasNoChildren) "/" team
        R< * LIST (\HasChildren) "/" user/ann
        R< * LIST (\HasNoChildren \Sent) "/" user/ann/Sent
        R< * LIST (\HasNoChildren \Trash) "/" user/ann/Trash
        R< * LIST (\HasChildren) "/" user/joe
        R< * LIST (\HasNoChildren \Sent) "/" user/joe/Sent
        R< * LIST (\HasNoChildren \Trash) "/" user/joe/Trash
        R< * LIST (\HasChildren) "/" user/max
        R< * LIST (\HasNoChildren \Sent) "/" user/max/Sent
        R< * LIST (\HasNoChildren \Trash) "/" user/max/Trash
        R< 1 OK <*>
        R> 2 LIST "" user/%/Sent RETURN (STATUS (MESSAGES) MYRIGHTS)
        R< * LIST (\HasNoChildren \Sent) "/" user/ann/Sent
        R< * MYRIGHTS user/ann/Sent <*>
        R< * LIST (\HasNoChildren \Sent) "/" user/joe/Sent
        R< * MYRIGHTS user/joe/Sent <*>
        R< * LIST (\HasNoChildren \Sent) "/" user/max/Sent
        R< * MYRIGHTS user/max/Sent <*>
        R< 2 OK <*>
        R> 3 SETACL user/ann/Sent root lr
        R< 3 OK <*>
        R> 4 LIST "" user/ann/Sent RETURN (STATUS (MESSAGES))
        R< * LIST (\HasNoChildren \Sent) "/" user/ann/Sent
        R< * STATUS user/ann/Sent (MESSAGES 0)
        R< 4 OK <*>
        J> 1 SUBSCRIBE "Other Users/ann"
        J< 1 OK <*>
        J> 2 LIST "" "Other*" RETURN (STATUS (MESSAGES) SUBSCRIBED METADATA (/shared/comment))
        J< * LIST (\NonExistent \HasChildren) "/" "Other Users"
        J< * LIST (\Subscribed \HasChildren) "/" "Other Users/ann"
        J< * STATUS "Other Users/ann" (MESSAGES 3)
        J< * METADATA "Other Users/ann" (/shared/comment NIL)
        J< * LIST (\HasNoChildren \Sent) "/" "Other Users/ann/Sent"
        J< * STATUS "Other Users/ann/Sent" (MESSAGES 0)
        J< * METADATA "Other Users/ann/Sent" (/shared/comment NIL)
        J< 2 OK <*>
        "#,
    )
    .await;
    site.links.lose(site.services.store.node());
    site.play(
        r#"
        -- What the directory knows is listed; what only the home knows is left out where that may be (RFC 5819 §2).
        J> 1 LIST "" "Other*" RETURN (STATUS (MESSAGES))
        J< * LIST (\NonExistent \HasChildren) "/" "Other Users"
        J< * LIST (\HasChildren) "/" "Other Users/ann"
        J< * LIST (\HasNoChildren \Sent) "/" "Other Users/ann/Sent"
        J< 1 OK <*>
        J> 3 LIST (SPECIAL-USE) "" "Other*"
        J< * LIST (\HasNoChildren \Sent) "/" "Other Users/ann/Sent"
        J< 3 OK <*>
        J> 2 LSUB "" *
        J< * LSUB () "/" "Other Users/ann"
        J< 2 OK <*>
        R> 1 LIST "" *
        R< 1 NO [UNAVAILABLE] <*>
        R> 2 LIST "" user/joe
        R< * LIST (\HasChildren) "/" user/joe
        R< 2 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_another_home_has_made_or_renamed_is_listed_at_once() {
    let site = Site::new().await;
    site.play(
        r#"
        -- Ann's home does both, and this node hears of it later.
        R> 1 RENAME user/ann user/anna
        R< 1 OK <*>
        R> 2 LIST "" "user/ann%"
        R< * LIST (\HasChildren) "/" user/anna
        R< 2 OK <*>
        R> 3 LIST "" user/ann/*
        R< 3 OK <*>
        R> 4 RENAME user/anna user/ann
        R< 4 OK <*>
        R> 5 LIST "" "user/ann%"
        R< * LIST (\HasChildren) "/" user/ann
        R< 5 OK <*>
        "#,
    )
    .await;
    let added = site.services.directory.add_domain("b.test".to_owned()).await;
    added.unwrap();
    let made = site.services.registrar.create(&AccountName::parse("user/eve@b.test").unwrap(), None).await;
    made.unwrap();
    site.play(
        r#"
        R> 1 LIST "" "user/e%"
        R< * LIST (\HasNoChildren) "/" user/eve@b.test
        R< 1 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_happens_at_other_homes_is_told() {
    let site = shared_inbox().await;
    site.play(
        r#"
        J> 1 NOTIFY SET STATUS (MAILBOXES (INBOX "Other Users/ann") (MessageNew MessageExpunge)) (SELECTED (MessageNew MessageExpunge FlagChange))
        J< * STATUS "Other Users/ann" (MESSAGES 3 <*>)
        J< * STATUS INBOX (MESSAGES 0 <*>)
        J< 1 OK NOTIFY completed
        -- Nothing is selected.
        A> 1 APPEND INBOX {3+}\nnew
        A< 1 OK <*>
        J< * STATUS "Other Users/ann" (MESSAGES 4 <*>)
        J> 2 APPEND INBOX {3+}\nnew
        J< 2 OK <*>
        J> 3 APPEND "Other Users/ann" {3+}\nnew
        J< 3 OK <*>
        -- Something of this home is, and joe idles.
        J> 4 SELECT INBOX
        J< ...
        J< 4 OK <*>
        J~ 5 IDLE
        J< + idling
        A> 2 APPEND INBOX {3+}\nnew
        A< 2 OK <*>
        J< * STATUS "Other Users/ann" (MESSAGES 6 <*>)
        J~ DONE
        J< 5 OK <*>
        -- Something of the other home is.
        J> 6 SELECT "Other Users/ann"
        J< ...
        J< 6 OK <*>
        A> 3 APPEND INBOX {3+}\nnew
        A< 3 OK <*>
        J< * 7 EXISTS
        J< * 7 RECENT
        J~ 7 IDLE
        J< + idling
        A> 4 APPEND INBOX {3+}\nnew
        A< 4 OK <*>
        J< * 8 EXISTS
        J< * 8 RECENT
        J~ DONE
        J< 7 OK <*>
        J> 8 NOTIFY NONE
        J< 8 OK <*>
        A> 5 APPEND INBOX {3+}\nnew
        A< 5 OK <*>
        J> 9 NOOP
        J< 9 OK <*>
        J> 10 NOTIFY SET (SUBTREE ("Other Users") (MessageNew MessageExpunge MailboxName))
        J< * 9 EXISTS
        J< * 9 RECENT
        J< 10 OK <*>
        J> 11 UNSELECT
        J< 11 OK <*>
        A> 6 CREATE Sent/new
        A< 6 OK <*>
        J< * LIST (\HasNoChildren) "/" "Other Users/ann/Sent/new"
        J< * LIST (\HasChildren<*>) "/" "Other Users/ann/Sent"
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_may_have_been_done_is_never_answered() {
    // Each ends the command; the home is lost before it answers.
    for (command, last, ends) in [
        (r#"SETACL "Other Users/ann" max lr"#, "\r\n", true),
        (r#"CREATE "Other Users/ann/Sent/new""#, "\r\n", true),
        (r#"STATUS "Other Users/ann" (MESSAGES)"#, "\r\n", false),
        (r#"SELECT "Other Users/ann""#, "\r\n", false),
        (r#"APPEND "Other Users/ann" {3+}\nabc"#, "abc\r\n", true),
        // Messages of which not all has come cannot be there.
        (r#"COPY 1 "Other Users/ann""#, "y", false),
        (r#"COPY 1 "Other Users/ann""#, "y\r\n", true),
    ] {
        let site = shared_inbox().await;
        let mut joe = site.login("joe").await;
        joe.command(&format!("1 APPEND INBOX {{100000+}}\\n{}", "y".repeat(100_000))).await;
        joe.command("2 SELECT INBOX").await;
        site.links.lose_after(site.services.store.node(), last);
        joe.send(&format!("3 {command}")).await;
        let mut heard = joe.line().await;
        if heard.starts_with("* OK [CLOSED]") {
            heard = joe.line().await;
        }
        match ends {
            true => {
                assert!(heard.starts_with("* BYE [UNAVAILABLE] "), "{command}: {heard}");
                assert_eq!(joe.next_line().await, None);
            }
            false => {
                assert!(heard.starts_with("3 NO [UNAVAILABLE] "), "{command}: {heard}");
                assert!(joe.command("4 NOOP").await[0].starts_with("4 OK"));
            }
        }
    }
}

#[tokio::test]
async fn a_guest_that_is_not_needed_goes() {
    let site = shared_inbox().await;
    let mut joe = site.login("joe").await;
    let mut reader = site.login("joe").await;
    let status = r#"STATUS "Other Users/ann" (MESSAGES)"#;
    joe.command(&format!("1 {status}")).await;
    reader.command(r#"1 SELECT "Other Users/ann""#).await;
    assert_eq!(site.links.sessions(), 2);
    tokio::time::pause();
    tokio::time::sleep(std::time::Duration::from_secs(301)).await;
    tokio::time::resume();
    assert_eq!(site.links.sessions(), 1, "the one with a mailbox selected stays");
    assert!(joe.command(&format!("2 {status}")).await.last().unwrap().starts_with("2 OK"));
    assert!(reader.command("2 FETCH 1 FLAGS").await.last().unwrap().starts_with("2 OK"));
}
