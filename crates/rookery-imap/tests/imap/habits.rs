//! What well-known programs do, in the order in which they do it.

use crate::harness::Site;

/// Thunderbird: compression and CONDSTORE, headers in one go, flags since the last visit, IDLE.
#[tokio::test]
async fn thunderbird() {
    let site = Site::new().await;
    site.fill("s..").await;
    site.play(
        r#"
        X> 1 capability
        X< * CAPABILITY <*>
        X< 1 OK <*>
        X> 2 authenticate PLAIN AGFubgBzZWNyZXQ=
        X< 2 OK [CAPABILITY <*> COMPRESS=DEFLATE<*>] <*>
        X> 3 COMPRESS DEFLATE
        X< 3 OK <*>
        X= deflate
        X> 4 ID ("name" "Thunderbird" "version" "128.5.0")
        X< * ID <*>
        X< 4 OK <*>
        X> 5 namespace
        X< * NAMESPACE <*>
        X< 5 OK <*>
        X> 6 list (subscribed) "" "*" return (special-use)
        X< 6 OK <*>
        X> 7 list "" "INBOX"
        X< * LIST (<*>) "/" INBOX
        X< 7 OK <*>
        X> 8 select "INBOX" (CONDSTORE)
        X< ...
        X< 8 OK [READ-WRITE] <*>
        X> 9 UID fetch 1:* (FLAGS)
        X< * 1 FETCH (UID 1 FLAGS (\Seen<*>))
        X< * 2 FETCH (UID 2 FLAGS (<*>))
        X< * 3 FETCH (UID 3 FLAGS (<*>))
        X< 9 OK <*>
        X> 10 UID fetch 2:3 (UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (From To Cc Bcc Subject Date Message-ID Priority X-Priority References Newsgroups In-Reply-To Content-Type Reply-To)])
        X< * 2 FETCH (UID 2 RFC822.SIZE <*> FLAGS (<*>) BODY[HEADER.FIELDS (From To Cc Bcc Subject Date Message-ID Priority X-Priority References Newsgroups In-Reply-To Content-Type Reply-To)] {<*>}
        X< ...
        X< 10 OK <*>
        X> 11 UID fetch 2 (UID RFC822.SIZE BODY[])
        X< * 2 FETCH (UID 2 RFC822.SIZE <*> BODY[] {<*>}
        X< ...
        X< 11 OK <*>
        X> 12 uid store 3 +Flags (\Seen)
        X< * 3 FETCH (UID 3 FLAGS (\Seen<*>) MODSEQ (<*>))
        X< 12 OK <*>
        X~ 13 IDLE
        X< + idling
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        B> 2 STORE 1 +FLAGS.SILENT (\Flagged)
        B< 2 OK <*>
        X< * 1 FETCH (UID 1 FLAGS (\Flagged \Seen<*>) MODSEQ (<*>))
        X~ DONE
        X< 13 OK <*>
        X> 14 uid copy 1 "Trash"
        X< 14 OK [COPYUID <*> 1 1] <*>
        X> 15 uid store 1 +FLAGS (\Deleted \Seen)
        X< * 1 FETCH (<*>\Deleted<*>)
        X< 15 OK <*>
        X> 16 expunge
        X< * 1 EXPUNGE
        X< 16 OK <*>
        X> 17 UID fetch 1:* (FLAGS) (CHANGEDSINCE 1)
        X< ...
        X< 17 OK <*>
        X> 18 close
        X< 18 OK <*>
        X> 19 logout
        X< * BYE <*>
        X< 19 OK <*>
    "#,
    )
    .await;
}

/// Outlook: LSUB before anything else, sizes of all messages, whole messages, no UIDs beyond FETCH.
#[tokio::test]
async fn outlook() {
    let site = Site::new().await;
    site.fill("s.").await;
    site.play(
        r#"
        A> a1 SUBSCRIBE "INBOX"
        A< a1 OK <*>
        A> a2 LSUB "" "*"
        A< * LSUB () "/" INBOX
        A< a2 OK <*>
        A> a3 LIST "" "*"
        A< * LIST (<*>) "/" INBOX
        A< * LIST (<*>\Sent<*>) "/" Sent
        A< * LIST (<*>\Trash<*>) "/" Trash
        A< a3 OK <*>
        A> a4 STATUS "INBOX" (UNSEEN MESSAGES UIDVALIDITY UIDNEXT)
        A< * STATUS INBOX (UNSEEN 1 MESSAGES 2 UIDVALIDITY <*> UIDNEXT 3)
        A< a4 OK <*>
        A> a5 SELECT "INBOX"
        A< ...
        A< a5 OK <*>
        A> a6 FETCH 1:* (RFC822.SIZE)
        A< * 1 FETCH (RFC822.SIZE 146)
        A< * 2 FETCH (RFC822.SIZE 146)
        A< a6 OK <*>
        A> a7 UID FETCH 1:* (UID FLAGS)
        A< * 1 FETCH (UID 1 FLAGS (\Seen<*>))
        A< * 2 FETCH (UID 2 FLAGS (<*>))
        A< a7 OK <*>
        A> a8 UID FETCH 2 (BODY.PEEK[HEADER] ENVELOPE BODYSTRUCTURE UID RFC822.SIZE INTERNALDATE FLAGS)
        A< * 2 FETCH (<*>UID 2<*>
        A< ...
        A< a8 OK <*>
        A> a9 UID FETCH 2 (UID BODY.PEEK[])
        A< * 2 FETCH (UID 2 BODY[] {146}
        A< ...
        A< a9 OK <*>
        A> a10 UID STORE 2 +FLAGS.SILENT (\Seen)
        A< a10 OK <*>
        A> a11 APPEND "Sent" (\Seen) {9+}\na: b\n\nc
        A< a11 OK [APPENDUID <*> 1] <*>
        A> a12 UID STORE 1 +FLAGS (\Deleted)
        A< * 1 FETCH (<*>\Deleted<*>)
        A< a12 OK <*>
        A> a13 UID FETCH 1:* (UID FLAGS)
        A< ...
        A< a13 OK <*>
        A> a14 NOOP
        A< a14 OK <*>
    "#,
    )
    .await;
}

/// Apple Mail: several connections, which copy and mark the same messages at once, with commands sent together.
#[tokio::test]
async fn apple_mail() {
    let site = Site::new().await;
    site.fill("......").await;
    site.play(
        r#"
        A> 1 ID ("name" "Mac OS X Mail" "version" "16.0" "os" "Mac OS X" "vendor" "Apple Inc.")
        A< * ID <*>
        A< 1 OK <*>
        A> 2 LIST "" "*" RETURN (SPECIAL-USE)
        A< ...
        A< 2 OK <*>
        A> 3 SELECT INBOX
        A< ...
        A< 3 OK <*>
    "#,
    )
    .await;
    // What each hears of the other's changes depends on who was first; in the end both agree.
    let mut one = site.login("ann").await;
    let mut other = site.login("ann").await;
    one.command("1 SELECT INBOX").await;
    other.command("1 SELECT INBOX").await;
    one.send("2 UID COPY 1:3 Trash\\n3 UID STORE 1:3 +FLAGS.SILENT (\\Deleted)\\n4 UID STORE 4 +FLAGS.SILENT (\\Seen)").await;
    other.send("2 UID STORE 4:6 +FLAGS.SILENT (\\Flagged)\\n3 UID COPY 4:6 Sent\\n4 NOOP").await;
    for client in [&mut one, &mut other] {
        for tag in ["2 ", "3 ", "4 "] {
            let heard = client.until(tag).await;
            assert!(heard.last().unwrap().starts_with(&format!("{tag}OK")), "{heard:?}");
        }
    }
    let heard = one.command("5 UID EXPUNGE 1:3").await;
    assert_eq!(heard.iter().filter(|line| line.ends_with(" EXPUNGE")).count(), 3, "{heard:?}");
    let mut seen = Vec::new();
    for client in [&mut one, &mut other] {
        client.command("6 NOOP").await;
        let heard = client.command("7 UID FETCH 1:* FLAGS").await;
        let flags: Vec<String> =
            heard.iter().map(|line| line.replace(" \\Recent", "").replace("\\Recent", "")).collect();
        seen.push(flags);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0][0], "* 1 FETCH (UID 4 FLAGS (\\Flagged \\Seen))");
    let heard = one.command("8 STATUS Sent (MESSAGES)").await;
    assert_eq!(heard[0], "* STATUS Sent (MESSAGES 3)");
}

/// K-9: what is new by date, some headers, structure, then parts of messages; IDLE under compression.
#[tokio::test]
async fn k9() {
    let site = Site::new().await;
    site.fill("s.d").await;
    site.play(
        r#"
        A> 1 COMPRESS DEFLATE
        A< 1 OK <*>
        A= deflate
        A> 2 NAMESPACE
        A< * NAMESPACE <*>
        A< 2 OK <*>
        A> 3 LIST "" "*"
        A< ...
        A< 3 OK <*>
        A> 4 SELECT "INBOX"
        A< ...
        A< 4 OK <*>
        A> 5 UID SEARCH 1:3 NOT DELETED
        A< * SEARCH 1 2
        A< 5 OK <*>
        A> 6 UID SEARCH SINCE 31-Dec-2023 NOT DELETED
        A< * SEARCH 1 2
        A< 6 OK <*>
        A> 7 UID SEARCH SINCE 2-Jan-2024
        A< * SEARCH
        A< 7 OK <*>
        A> 8 UID FETCH 1:2 (UID FLAGS)
        A< * 1 FETCH (UID 1 FLAGS (\Seen<*>))
        A< * 2 FETCH (UID 2 FLAGS (<*>))
        A< 8 OK <*>
        A> 9 UID FETCH 2 (INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (date subject from content-type to cc reply-to message-id references in-reply-to list-unsubscribe sender X-K9mail-Identity)])
        A< * 2 FETCH (UID 2 INTERNALDATE "<*>" RFC822.SIZE 146 BODY[HEADER.FIELDS (date subject from content-type to cc reply-to message-id references in-reply-to list-unsubscribe sender X-K9mail-Identity)] {<*>}
        A< ...
        A< 9 OK <*>
        A> 10 UID FETCH 2 (BODYSTRUCTURE)
        A< * 2 FETCH (UID 2 BODYSTRUCTURE (<*>))
        A< 10 OK <*>
        A> 11 UID FETCH 2 (BODY.PEEK[TEXT]<0.8>)
        A< * 2 FETCH (UID 2 BODY[TEXT]<0> {8}
        A< body 1
        A< )
        A< 11 OK <*>
        A> 12 UID STORE 2 +FLAGS.SILENT (\Seen)
        A< 12 OK <*>
        A~ 13 IDLE
        A< + idling
        B> 1 APPEND INBOX {9+}\na: b\n\nc
        B< 1 OK <*>
        A< * 4 EXISTS
        A< * 4 RECENT
        A~ DONE
        A< 13 OK <*>
        A> 14 UID SEARCH 4:* NOT DELETED
        A< * SEARCH 4
        A< 14 OK <*>
        A> 15 UID MOVE 4 "Trash"
        A< * OK [COPYUID <*> 4 1] <*>
        A< * 4 EXPUNGE
        A< 15 OK <*>
    "#,
    )
    .await;
}

/// Roundcube: folders with their counts in one go, threads and sorted lists by the server, ACL and METADATA.
#[tokio::test]
async fn roundcube() {
    let site = Site::new().await;
    site.fill("s..").await;
    site.play(
        r#"
        A> A1 ID ("name" "Roundcube" "version" "1.6.9" "os" "Linux")
        A< * ID <*>
        A< A1 OK <*>
        A> A2 NAMESPACE
        A< * NAMESPACE <*>
        A< A2 OK <*>
        A> A3 SUBSCRIBE INBOX
        A< A3 OK <*>
        A> A4 LIST (SUBSCRIBED) "" "*" RETURN (STATUS (MESSAGES UNSEEN))
        A< * LIST (<*>\Subscribed<*>) "/" INBOX
        A< * STATUS INBOX (MESSAGES 3 UNSEEN 2)
        A< A4 OK <*>
        A> A5 SELECT INBOX
        A< ...
        A< A5 OK <*>
        A> A6 UID THREAD REFERENCES US-ASCII UNDELETED
        A< * THREAD (1)(2)(3)
        A< A6 OK <*>
        A> A7 UID SORT (REVERSE DATE) US-ASCII UNDELETED
        A< * SORT 3 2 1
        A< A7 OK <*>
        A> A8 UID FETCH 3,2,1 (UID RFC822.SIZE FLAGS INTERNALDATE BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (DATE FROM TO SUBJECT CONTENT-TYPE CC REPLY-TO LIST-POST DISPOSITION-NOTIFICATION-TO X-PRIORITY)])
        A< ...
        A< A8 OK <*>
        A> A9 UID FETCH 2 (UID BODY.PEEK[1] BODY.PEEK[1.MIME])
        A< * 2 FETCH (UID 2 BODY[1] {<*>}
        A< ...
        A< A9 OK <*>
        A> A10 GETQUOTAROOT INBOX
        A< ...
        A< A10 OK <*>
        A> A11 MYRIGHTS INBOX
        A< * MYRIGHTS INBOX <*>
        A< A11 OK <*>
        A> A12 GETACL Sent
        A< * ACL Sent <*>
        A< A12 OK <*>
        A> A13 SETACL Sent joe lrs
        A< A13 OK <*>
        A> A14 SETMETADATA Sent (/private/comment "Roundcube")
        A< A14 OK <*>
        A> A15 GETMETADATA Sent (/private/comment /shared/comment)
        A< * METADATA Sent (/private/comment "Roundcube"<*>)
        A< A15 OK <*>
        A> A16 UID STORE 2 +FLAGS.SILENT (\Seen)
        A< A16 OK <*>
        A> A17 STATUS INBOX (UNSEEN)
        A< * STATUS INBOX (UNSEEN 1)
        A< A17 OK <*>
    "#,
    )
    .await;
}
