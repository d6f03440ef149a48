//! SORT and THREAD, with their return options, and PARTIAL.

use crate::harness::Site;
use rookery_types::{MailboxPath, SystemFlags};

/// ann's INBOX with these messages, whose headers are given.
async fn filled(headers: &[&str]) -> Site {
    let site = Site::new().await;
    let account = site.account("ann").await;
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    for (n, header) in headers.iter().enumerate() {
        let body = format!("{}\r\n\r\nbody {n}\r\n", header.replace('\n', "\r\n"));
        site.append(&account, inbox, body.as_bytes(), SystemFlags::NONE, &[]).await;
    }
    site
}

async fn letters() -> Site {
    filled(&[
        "Subject: Re: pears\nFrom: Zoe <bob@a.test>\nTo: carl@a.test\nCc: x@a.test\nDate: 3 Jan 2024 10:00:00 +0000",
        "Subject: apples\nFrom: alice@b.test\nTo: \"Bert\" <dora@a.test>\nDate: 1 Jan 2024 10:00:00 +0000",
        "Subject: [list] PEARS (fwd)\nFrom: =?utf-8?q?=C3=84nne?= <carl@a.test>\nDate: 3 Jan 2024 11:00:00 +0200\nX: longer than the others by far",
        "Subject: =?utf-8?q?=C3=A4pfel?=\nFrom: Bob <BOB@c.test>\nTo: team: a@b.test;\nDate: 2 Jan 2024 10:00:00 +0000",
        "X-Nothing: at all",
    ])
    .await
}

#[tokio::test]
async fn by_every_criterion() {
    letters()
        .await
        .play(
            r#"
            A> 1 SELECT INBOX
            A< ...
            A< 1 OK <*>
            A> 2 SORT (SUBJECT) UTF-8 ALL
            A< * SORT 5 2 4 1 3
            A< 2 OK SORT completed
            A> 3 SORT (SUBJECT REVERSE DATE) UTF-8 ALL
            A< * SORT 5 2 4 1 3
            A< 3 OK <*>
            A> 4 UID SORT (REVERSE SUBJECT) US-ASCII 2:*
            A< * SORT 3 4 2 5
            A< 4 OK <*>
            -- the internal date, which is 1 January 10:00 here, stands in for a missing one
            A> 5 SORT (DATE) UTF-8 ALL
            A< * SORT 2 5 4 3 1
            A< 5 OK <*>
            A> 6 SORT (FROM DATE) UTF-8 ALL
            A< * SORT 5 2 4 1 3
            A< 6 OK <*>
            A> 7 SORT (TO) UTF-8 ALL
            A< * SORT 3 5 1 2 4
            A< 7 OK <*>
            A> 8 SORT (CC) UTF-8 ALL
            A< * SORT 2 3 4 5 1
            A< 8 OK <*>
            A> 9 SORT (REVERSE SIZE) UTF-8 1,3,5
            A< * SORT 3 1 5
            A< 9 OK <*>
            A> 10 SORT (REVERSE ARRIVAL) UTF-8 ALL
            A< * SORT 1 2 3 4 5
            A< 10 OK <*>
            A> 11 SORT (DISPLAYFROM) UTF-8 ALL
            A< * SORT 5 2 3 4 1
            A< 11 OK <*>
            A> 12 SORT (DISPLAYTO) UTF-8 ALL
            A< * SORT 3 5 2 1 4
            A< 12 OK <*>
            A> 13 SORT (SUBJECT) UTF-8 TEXT "not in mailbox"
            A< * SORT
            A< 13 OK <*>
            A> 14 SORT (SUBJECT) x-klingon ALL
            A< 14 NO [BADCHARSET (US-ASCII UTF-8)] <*>
            A> 15 SORT (COLOUR) UTF-8 ALL
            A< 15 BAD <*>
            A> 16 SORT (DATE) UTF-8 FROM bob MODSEQ 1
            A< * SORT 4 1 (MODSEQ <*>)
            A< * OK [HIGHESTMODSEQ <*>
            A< 16 OK <*>
        "#,
        )
        .await;
}

#[tokio::test]
async fn with_return_options() {
    letters()
        .await
        .play(
            r#"
            A> 1 SELECT INBOX
            A< ...
            A< 1 OK <*>
            A> E01 UID SORT RETURN () (REVERSE DATE) UTF-8 ALL
            A< * ESEARCH (TAG "E01") UID ALL 1,3:4,2,5
            A< E01 OK SORT completed
            A> 2 SORT RETURN (MIN MAX COUNT) (SUBJECT) UTF-8 ALL
            A< * ESEARCH (TAG "2") MIN 5 MAX 3 COUNT 5
            A< 2 OK <*>
            A> 3 SORT RETURN (PARTIAL 2:3) (SUBJECT) UTF-8 ALL
            A< * ESEARCH (TAG "3") PARTIAL (2:3 2,4)
            A< 3 OK <*>
            A> 4 SORT RETURN (COUNT PARTIAL -1:-2) (SUBJECT) UTF-8 ALL
            A< * ESEARCH (TAG "4") COUNT 5 PARTIAL (-1:-2 1,3)
            A< 4 OK <*>
            A> 5 SORT RETURN (ALL) (SUBJECT) UTF-8 SUBJECT nothing
            A< * ESEARCH (TAG "5")
            A< 5 OK <*>
            A> 6 SORT RETURN (SAVE) (SUBJECT) UTF-8 SUBJECT pears
            A< 6 OK <*>
            A> 7 SEARCH $
            A< * SEARCH 1 3
            A< 7 OK <*>
            A> 8 SORT RETURN (ALL) (SUBJECT) x-klingon ALL
            A< 8 NO [BADCHARSET <*>
            A> 9 SEARCH $
            A< * SEARCH 1 3
            A< 9 OK <*>
        "#,
        )
        .await;
}

#[tokio::test]
async fn conversations() {
    let site = filled(&[
        "Message-ID: <1@x>\nSubject: lunch\nDate: 1 Jan 2024 10:00:00 +0000",
        "Message-ID: <2@x>\nSubject: Re: lunch\nIn-Reply-To: <1@x>\nDate: 1 Jan 2024 11:00:00 +0000",
        "Message-ID: <3@x>\nSubject: dinner\nReferences: <0@x>\nDate: 1 Jan 2024 09:00:00 +0000",
        "Message-ID: <4@x>\nSubject: Re: lunch\nReferences: <1@x> <2@x>\nDate: 1 Jan 2024 12:00:00 +0000",
        "Message-ID: <5@x>\nSubject: supper\nReferences: <0@x>\nDate: 1 Jan 2024 13:00:00 +0000",
        "Subject: Re: lunch\nDate: 1 Jan 2024 08:00:00 +0000",
    ])
    .await;
    site.play(
        r#"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 THREAD REFERENCES UTF-8 ALL
        A< * THREAD ((3)(5))(1 (6)(2 4))
        A< 2 OK THREAD completed
        A> 3 UID THREAD ORDEREDSUBJECT UTF-8 ALL
        A< * THREAD (6 (1)(2)(4))(3)(5)
        A< 3 OK <*>
        A> 4 THREAD REFERENCES US-ASCII 2:4
        A< * THREAD (3)(2 4)
        A< 4 OK <*>
        A> 5 THREAD REFERENCES US-ASCII TEXT "gewp"
        A< * THREAD
        A< 5 OK <*>
        A> 6 THREAD REFERENCES x-klingon ALL
        A< 6 NO [BADCHARSET <*>
        A> 7 THREAD FLAT UTF-8 ALL
        A< 7 BAD <*>
        -- another session's expunge is not told during a command with sequence numbers, but during one with UIDs
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        B> 2 STORE 3 +FLAGS (\Deleted)
        B< ...
        B< 2 OK <*>
        B> 3 EXPUNGE
        B< * 3 EXPUNGE
        B< 3 OK <*>
        A> 8 SORT (ARRIVAL) UTF-8 1
        A< * SORT 1
        A< 8 OK <*>
        A> 9 THREAD REFERENCES UTF-8 5
        A< * THREAD (5)
        A< 9 OK <*>
        A> 10 UID SORT (DATE) UTF-8 3:5
        A< * SORT 3 4 5
        A< * 3 EXPUNGE
        A< 10 OK <*>
        A> 11 UID THREAD REFERENCES UTF-8 ALL
        A< * THREAD (1 (6)(2 4))(5)
        A< 11 OK <*>
    "#,
    )
    .await;
}

#[tokio::test]
async fn some_of_many() {
    let site = Site::new().await;
    site.fill("s.d.s.").await;
    site.play(
        r#"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 UID SEARCH RETURN (PARTIAL -1:-3) ALL
        A< * ESEARCH (TAG "2") UID PARTIAL (-1:-3 4:6)
        A< 2 OK <*>
        A> 3 SEARCH RETURN (PARTIAL 3:2 MIN COUNT) UNSEEN
        A< * ESEARCH (TAG "3") MIN 2 COUNT 4 PARTIAL (3:2 3:4)
        A< 3 OK <*>
        A> 4 UID SEARCH RETURN (PARTIAL 24000:24500) ALL
        A< * ESEARCH (TAG "4") UID PARTIAL (24000:24500 NIL)
        A< 4 OK <*>
        A> 5 SEARCH RETURN (PARTIAL 1:2 ALL) ALL
        A< 5 BAD <*>
        A> 6 SEARCH RETURN (SAVE PARTIAL 2:3 MAX) ALL
        A< * ESEARCH (TAG "6") MAX 6 PARTIAL (2:3 2:3)
        A< 6 OK <*>
        A> 7 SEARCH $
        A< * SEARCH 2 3 6
        A< 7 OK <*>
        A> 8 SEARCH RETURN (SAVE PARTIAL 2:3 COUNT) UNSEEN
        A< * ESEARCH (TAG "8") COUNT 4 PARTIAL (2:3 3:4)
        A< 8 OK <*>
        A> 9 SEARCH $
        A< * SEARCH 2 3 4 6
        A< 9 OK <*>
        A> 10 UID FETCH 2,4:* (UID) (PARTIAL -1:-3)
        A< * 4 FETCH (UID 4)
        A< * 5 FETCH (UID 5)
        A< * 6 FETCH (UID 6)
        A< 10 OK <*>
        A> 11 UID FETCH 1:* (UID) (PARTIAL 2:3)
        A< * 2 FETCH (UID 2)
        A< * 3 FETCH (UID 3)
        A< 11 OK <*>
        A> 12 UID FETCH 1:* (UID) (PARTIAL 7:9)
        A< 12 OK <*>
        A> 13 FETCH 1:* (UID) (PARTIAL 1:2)
        A< 13 BAD <*>
        A> 14 UID FETCH 1:* (UID) (CHANGEDSINCE 1 PARTIAL 4:4)
        A< * 4 FETCH (UID 4 MODSEQ (<*>))
        A< * OK [HIGHESTMODSEQ <*>
        A< 14 OK <*>
    "#,
    )
    .await;
}

/// RFC 9586.
#[tokio::test]
async fn a_client_without_sequence_numbers() {
    let site = Site::new().await;
    site.fill("s.ds").await;
    site.play(
        r#"
        A> 1 ENABLE UIDONLY
        A< * ENABLED UIDONLY
        A< 1 OK <*>
        A> 2 SELECT INBOX
        A< * FLAGS <*>
        A< * OK [PERMANENTFLAGS <*>
        A< * 4 EXISTS
        A< * 4 RECENT
        A< * OK [UIDVALIDITY <*>
        A< * OK [UIDNEXT 5] <*>
        A< * OK [HIGHESTMODSEQ <*>
        A< * OK [MAILBOXID <*>
        A< 2 OK <*>
        A> 3 FETCH 1 FLAGS
        A< 3 BAD [UIDREQUIRED] <*>
        A> 4 STORE 1 +FLAGS (\Seen)
        A< 4 BAD [UIDREQUIRED] <*>
        A> 5 COPY 1 Sent
        A< 5 BAD [UIDREQUIRED] <*>
        A> 6 MOVE 1 Sent
        A< 6 BAD [UIDREQUIRED] <*>
        A> 7 SEARCH ALL
        A< 7 BAD [UIDREQUIRED] <*>
        A> 8 UID SEARCH NOT (SEEN 1:2)
        A< 8 BAD [UIDREQUIRED] <*>
        A> 9 SORT (ARRIVAL) UTF-8 ALL
        A< 9 BAD [UIDREQUIRED] <*>
        A> 10 THREAD REFERENCES UTF-8 ALL
        A< 10 BAD [UIDREQUIRED] <*>
        A> 10b REPLACE 1 INBOX {8+}\nX: y\n\n
        A< 10b BAD [UIDREQUIRED] <*>
        A> 11 UID FETCH 2:3 (FLAGS)
        A< * 2 UIDFETCH (FLAGS (\Recent))
        A< * 3 UIDFETCH (FLAGS (\Deleted \Recent))
        A< 11 OK <*>
        A> 12 UID FETCH 2 (UID BODY.PEEK[TEXT])
        A< * 2 UIDFETCH (UID 2 BODY[TEXT] {8}
        A< body 1
        A< )
        A< 12 OK <*>
        A> 13 UID STORE 1 +FLAGS (\Flagged)
        A< * 1 UIDFETCH (FLAGS (\Flagged \Seen \Recent))
        A< 13 OK <*>
        A> 14 UID SEARCH RETURN (SAVE ALL) UNSEEN
        A< * ESEARCH (TAG "14") UID ALL 2:3
        A< 14 OK <*>
        A> 15 UID SEARCH $ DELETED
        A< * SEARCH 3
        A< 15 OK <*>
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        B> 2 STORE 2 +FLAGS (\Answered)
        B< * 2 FETCH (FLAGS (\Answered))
        B< 2 OK <*>
        A> 16 NOOP
        A< * 2 UIDFETCH (FLAGS (\Answered \Recent))
        A< 16 OK <*>
        A> 17 EXPUNGE
        A< * VANISHED 3
        A< 17 OK <*>
        A> 18 UID MOVE 1 Sent
        A< * OK [COPYUID <*> 1 1] <*>
        A< * VANISHED 1
        A< 18 OK <*>
        A> 19 ENABLE QRESYNC
        A< 19 BAD <*>
    "#,
    )
    .await;
}

#[tokio::test]
async fn a_client_without_sequence_numbers_resynchronises() {
    let site = Site::new().await;
    site.fill("s..").await;
    let mut client = site.login("ann").await;
    client.command("1 ENABLE UIDONLY QRESYNC").await;
    let opened = client.command("2 SELECT INBOX").await;
    let validity = opened.iter().find_map(|line| line.split("[UIDVALIDITY ").nth(1)).unwrap();
    let validity = validity.split(']').next().unwrap();
    let refused = client.command(&format!("3 SELECT INBOX (QRESYNC ({validity} 1 1:3 (1 1)))")).await;
    assert!(refused.last().unwrap().starts_with("3 BAD [UIDREQUIRED] "), "{refused:?}");
    let opened = client.command(&format!("4 SELECT INBOX (QRESYNC ({validity} 1 2:3))")).await;
    let fetched: Vec<&String> = opened.iter().filter(|line| line.contains("FETCH")).collect();
    assert!(fetched.len() == 2 && fetched[0].starts_with("* 2 UIDFETCH (FLAGS () MODSEQ ("), "{opened:?}");
}
