//! Logging in, selecting, and the commands on messages, in IMAP4rev1 and IMAP4rev2.

use crate::harness::Site;
use rookery_imap::ImapConfig;

#[tokio::test]
async fn logging_in_and_out() {
    Site::new()
        .await
        .play(
            r"
            X> 1 NOOP
            X< 1 OK NOOP completed
            X> 2 SELECT INBOX
            X< 2 BAD Log in first
            X> 3 LOGIN ann wrong
            X< 3 NO [AUTHENTICATIONFAILED] <*>
            X> 4 CAPABILITY
            X< * CAPABILITY IMAP4rev1 IMAP4rev2 SASL-IR LITERAL+ ID ENABLE AUTH=SCRAM-SHA-256 AUTH=PLAIN AUTH=LOGIN
            X< 4 OK <*>
            X> 5 AUTHENTICATE PLAIN AGFubgBzZWNyZXQ=
            X< 5 OK [CAPABILITY IMAP4rev1 <*> QRESYNC <*>] AUTHENTICATE completed
            X> 6 LOGIN ann secret
            X< 6 BAD <*>
            X> 7 LOGOUT
            X< * BYE <*>
            X< 7 OK LOGOUT completed
        ",
        )
        .await;
}

#[tokio::test]
async fn sasl_goes_line_by_line_and_can_be_cancelled() {
    Site::new()
        .await
        .play(
            r"
            X~ 1 AUTHENTICATE PLAIN
            X< +<*>
            X~ *
            X< 1 BAD <*>
            X~ 2 AUTHENTICATE plain
            X< +<*>
            X~ AGFubgBzZWNyZXQ=
            X< 2 OK <*>
        ",
        )
        .await;
}

#[tokio::test]
async fn passwords_in_the_clear_are_refused_from_afar() {
    let site = Site::new().await;
    let (mut client, greeting) = site.connect_from(Some("192.0.2.1:1000".parse().unwrap())).await;
    assert!(greeting.contains("LOGINDISABLED") && !greeting.contains("AUTH="), "{greeting}");
    let answer = client.command("1 LOGIN ann secret").await;
    assert_eq!(answer, ["1 NO [PRIVACYREQUIRED] Passwords are taken under TLS only"]);
    let trusting = Site::with(ImapConfig { plaintext_login: true, ..ImapConfig::default() }).await;
    let (mut client, greeting) = trusting.connect_from(Some("192.0.2.1:1000".parse().unwrap())).await;
    assert!(greeting.contains("AUTH=PLAIN"), "{greeting}");
    assert!(client.command("1 LOGIN ann secret").await[0].starts_with("1 OK"));
}

#[tokio::test]
async fn selecting() {
    let site = Site::new().await;
    site.fill("s.d").await;
    site.play(
        r"
        A> 1 SELECT INBOX
        A< * FLAGS (\Answered \Flagged \Deleted \Seen \Draft)
        A< * OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft \*)] <*>
        A< * 3 EXISTS
        A< * 3 RECENT
        A< * OK [UNSEEN 2] <*>
        A< * OK [UIDVALIDITY <*>] <*>
        A< * OK [UIDNEXT 4] <*>
        A< * OK [HIGHESTMODSEQ <*>] <*>
        A< * OK [MAILBOXID (<*>)] <*>
        A< 1 OK [READ-WRITE] SELECT completed
        A> 2 EXAMINE inbox
        A< * OK [CLOSED] <*>
        A< * FLAGS <*>
        A< * OK [PERMANENTFLAGS ()] <*>
        A< * 3 EXISTS
        A< * 0 RECENT
        A< ...
        A< 2 OK [READ-ONLY] EXAMINE completed
        A> 3 STORE 1 +FLAGS (\Flagged)
        A< 3 NO <*>
        A> 4 SELECT nowhere
        A< * OK [CLOSED] <*>
        A< 4 NO [NONEXISTENT] <*>
        A> 5 FETCH 1 FLAGS
        A< 5 BAD No mailbox is selected
        ",
    )
    .await;
}

#[tokio::test]
async fn rev2_has_no_recent_and_says_the_name() {
    let site = Site::new().await;
    site.fill("s.").await;
    site.play(
        r#"
        A> 1 ENABLE IMAP4rev2 NONSENSE
        A< * ENABLED IMAP4rev2
        A< 1 OK <*>
        A> 2 SELECT inbox
        A< * FLAGS <*>
        A< * OK [PERMANENTFLAGS <*>
        A< * 2 EXISTS
        A< * OK [UIDVALIDITY <*>
        A< * OK [UIDNEXT 3] <*>
        A< * OK [HIGHESTMODSEQ <*>
        A< * OK [MAILBOXID <*>
        A< * LIST () "/" INBOX
        A< 2 OK [READ-WRITE] <*>
        A> 3 SEARCH UNSEEN
        A< * ESEARCH (TAG "3") ALL 2
        A< 3 OK <*>
        A> 4 FETCH 2 FLAGS
        A< * 2 FETCH (FLAGS ())
        A< 4 OK <*>
        A> 5 ENABLE CONDSTORE
        A< 5 BAD <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn fetching() {
    let site = Site::new().await;
    site.fill("s.").await;
    site.play(
        r#"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 FETCH 1:* (UID FLAGS RFC822.SIZE INTERNALDATE)
        A< * 1 FETCH (UID 1 FLAGS (\Seen \Recent) RFC822.SIZE <*> INTERNALDATE " 1-Jan-2024 10:00:00 +0000")
        A< * 2 FETCH (UID 2 FLAGS (\Recent) RFC822.SIZE <*>
        A< 2 OK FETCH completed
        A> 3 UID FETCH 2 BODY.PEEK[HEADER.FIELDS (Subject)]
        A< * 2 FETCH (UID 2 BODY[HEADER.FIELDS (Subject)] {21}
        A< Subject: Number 1
        A<
        A< )
        A< 3 OK FETCH completed
        A> 4 FETCH 1 ENVELOPE
        A< * 1 FETCH (ENVELOPE ("Mon, 1 Jan 2024 10:00:00 +0000" "Number 0" (("Joe" NIL "joe" "example.org")) <*> "<0@example.org>"))
        A< 4 OK FETCH completed
        A> 5 FETCH 1 (BODYSTRUCTURE BODY)
        A< * 1 FETCH (BODYSTRUCTURE ("TEXT" "PLAIN" <*>
        A< 5 OK FETCH completed
        A> 6 FETCH 2 BODY[TEXT]<2.4>
        A< * 2 FETCH (BODY[TEXT]<2> {4}
        A< dy 1 FLAGS (\Seen \Recent))
        A< 6 OK FETCH completed
        A> 7 FETCH 2 (BODY[TEXT])
        A< * 2 FETCH (BODY[TEXT] {8}
        A< body 1
        A< )
        A< 7 OK FETCH completed
        A> 8 FETCH 2 (BODY[7] BODY[1])
        A< * 2 FETCH (BODY[7] NIL BODY[1] {8}
        A< body 1
        A< )
        A< 8 OK FETCH completed
        A> 9 FETCH 3 FLAGS
        A< 9 BAD <*>
        A> 10 UID FETCH 99 FLAGS
        A< 10 OK <*>
        A> 11 FETCH 1 (RFC822.HEADER)
        A< * 1 FETCH (RFC822.HEADER {<*>}
        A< ...
        A< 11 OK <*>
        A> 12 FETCH 1 (EMAILID THREADID SAVEDATE MODSEQ)
        A< * 1 FETCH (EMAILID (E<*>) THREADID (T<*>) SAVEDATE "<*>" MODSEQ (<*>))
        A< * OK [HIGHESTMODSEQ <*>] <*>
        A< 12 OK <*>
        A> 13 FETCH 1 (BINARY.SIZE[1] BINARY.PEEK[1])
        A< * 1 FETCH (BINARY.SIZE[1] 8 BINARY[1] {8}
        A< body 0
        A< )
        A< 13 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn storing_and_expunging_across_two_sessions() {
    let site = Site::new().await;
    site.fill(".d..").await;
    site.play(
        r"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        A> 2 STORE 1 +FLAGS (\Flagged $Work)
        A< * FLAGS (<*> $Work)
        A< * OK [PERMANENTFLAGS (<*> $Work \*)] <*>
        A< * 1 FETCH (FLAGS (\Flagged \Recent $Work))
        A< 2 OK STORE completed
        A> 3 STORE 3 FLAGS.SILENT (\Seen)
        A< 3 OK STORE completed
        B> 2 EXPUNGE
        B< * 2 EXPUNGE
        B< * FLAGS <*>
        B< * OK [PERMANENTFLAGS <*>
        B< * 1 FETCH (FLAGS (\Flagged $Work))
        B< * 2 FETCH (FLAGS (\Seen))
        B< 2 OK EXPUNGE completed
        -- the expunge is not told inside STORE and FETCH (RFC 9051 §7.5.1)
        A> 4 STORE 1 -FLAGS.SILENT (\Flagged)
        A< 4 OK STORE completed
        A> 5 FETCH 2 (UID BODY.PEEK[TEXT])
        A< * 2 FETCH (UID 2 BODY[TEXT] {8}
        A< body 1
        A< )
        A< 5 OK FETCH completed
        B> 3 UID STORE 4 +FLAGS (\Answered)
        B< * 3 FETCH (UID 4 FLAGS (\Answered))
        B< * 1 FETCH (FLAGS ($Work))
        B< 3 OK STORE completed
        A> 6 FETCH 4 UID
        A< * 4 FETCH (UID 4)
        A< * 4 FETCH (FLAGS (\Answered \Recent))
        A< 6 OK FETCH completed
        A> 7 NOOP
        A< * 2 EXPUNGE
        A< 7 OK NOOP completed
        A> 8 NOOP
        A< 8 OK NOOP completed
        ",
    )
    .await;
}

#[tokio::test]
async fn close_expunges_and_unselect_does_not() {
    let site = Site::new().await;
    site.fill("d.").await;
    site.play(
        r"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 UNSELECT
        A< 2 OK UNSELECT completed
        A> 3 STATUS INBOX (MESSAGES DELETED)
        A< * STATUS INBOX (MESSAGES 2 DELETED 1)
        A< 3 OK STATUS completed
        A> 4 SELECT INBOX
        A< ...
        A< 4 OK <*>
        A> 5 CLOSE
        A< 5 OK CLOSE completed
        A> 6 STATUS INBOX (MESSAGES UIDNEXT UNSEEN RECENT)
        A< * STATUS INBOX (MESSAGES 1 UIDNEXT 3 UNSEEN 1 RECENT 0)
        A< 6 OK STATUS completed
        ",
    )
    .await;
}

#[tokio::test]
async fn idle_hears_arrivals_flags_and_expunges_at_once() {
    let site = Site::new().await;
    site.fill("d.").await;
    site.play(
        r"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        A~ 2 IDLE
        A< + idling
        B> 2 STORE 2 +FLAGS.SILENT (\Flagged)
        B< 2 OK STORE completed
        A< * 2 FETCH (FLAGS (\Flagged \Recent))
        B> 3 EXPUNGE
        B< * 1 EXPUNGE
        B< 3 OK EXPUNGE completed
        A< * 1 EXPUNGE
        B> 4 APPEND INBOX {5+}\nhello
        B< * 2 EXISTS
        B< * <*> RECENT
        B< 4 OK [APPENDUID <*> 3] APPEND completed
        A< * 2 EXISTS
        A< * <*> RECENT
        A~ DONE
        A< 2 OK IDLE completed
        A~ 3 IDLE\nDONE
        A< + idling
        A< 3 OK IDLE completed
        A~ 4 IDLE
        A< + idling
        A~ 5 NOOP
        A< 4 BAD DONE was expected
        ",
    )
    .await;
}

#[tokio::test]
async fn appending_copying_and_moving() {
    let site = Site::new().await;
    site.fill("s..").await;
    site.play(
        r#"
        A~ 1 APPEND Sent (\Seen $Work) "05-Feb-2024 12:00:00 +0100" {8}
        A< + OK
        A~ x: y\n\n
        A< 1 OK [APPENDUID <*> 1] APPEND completed
        A> 2 APPEND nowhere {5}
        A< 2 NO [TRYCREATE] <*>
        A> 3 SELECT Sent
        A< ...
        A< 3 OK <*>
        A> 4 FETCH 1 (FLAGS INTERNALDATE RFC822)
        A< * 1 FETCH (FLAGS (\Seen \Recent $Work) INTERNALDATE " 5-Feb-2024 12:00:00 +0100" RFC822 {8}
        A< x: y
        A<
        A< )
        A< 4 OK <*>
        "#,
    )
    .await;
    site.play(
        r"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 COPY 1:2 Sent
        A< 2 OK [COPYUID <*> 1:2 2:3] COPY completed
        A> 3 UID COPY 77 Sent
        A< 3 OK <*>
        A> 4 COPY 1 nowhere
        A< 4 NO [TRYCREATE] <*>
        A> 5 MOVE 2:3 Trash
        A< * OK [COPYUID <*> 2:3 1:2] <*>
        A< * 3 EXPUNGE
        A< * 2 EXPUNGE
        A< 5 OK MOVE completed
        A> 6 STATUS Trash (MESSAGES UNSEEN SIZE)
        A< * STATUS Trash (MESSAGES 2 UNSEEN 2 SIZE <*>)
        A< 6 OK <*>
        A> 7 UID EXPUNGE 1:9
        A< 7 OK <*>
        A> 8 STORE 1 +FLAGS.SILENT (\Deleted)
        A< 8 OK <*>
        A> 9 UID EXPUNGE 5:9
        A< 9 OK <*>
        A> 10 UID EXPUNGE 1
        A< * 1 EXPUNGE
        A< 10 OK <*>
        A> 11 FETCH 1:* FLAGS
        A< 11 OK <*>
        ",
    )
    .await;
}

#[tokio::test]
async fn several_messages_in_one_append() {
    let site = Site::new().await;
    site.play(
        r"
        A> 1 APPEND INBOX {3+}\na\n (\Seen) {3+}\nb\n
        A< 1 OK [APPENDUID <*> 1:2] APPEND completed
        A> 2 STATUS INBOX (MESSAGES UNSEEN)
        A< * STATUS INBOX (MESSAGES 2 UNSEEN 1)
        A< 2 OK <*>
        -- an empty message takes the whole command back (RFC 3502 §6.3.11)
        A> 3 APPEND INBOX {3+}\na\n {0}
        A< 3 NO [CANNOT] <*>
        A> 4 APPEND INBOX {0+}\n {3+}\nb\n
        A< 4 NO [CANNOT] <*>
        A> 5 STATUS INBOX (MESSAGES)
        A< * STATUS INBOX (MESSAGES 2)
        A< 5 OK <*>
        ",
    )
    .await;
}

#[tokio::test]
async fn keywords_are_announced_before_they_are_used() {
    let site = Site::new().await;
    site.fill(".").await;
    site.play(
        r"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        A> 2 STORE 1 +FLAGS.SILENT ($Work)
        A< * FLAGS (<*> $Work)
        A< * OK [PERMANENTFLAGS (<*> $Work \*)] <*>
        A< 2 OK <*>
        B> 2 FETCH 1 FLAGS
        B< * FLAGS (<*> $Work)
        B< * OK [PERMANENTFLAGS (<*> $Work \*)] <*>
        B< * 1 FETCH (FLAGS ($Work))
        B< 2 OK <*>
        ",
    )
    .await;
}

#[tokio::test]
async fn what_is_gone_stays_as_it_was_told_last() {
    let site = Site::new().await;
    site.fill("...").await;
    site.play(
        r"
        A> 1 SELECT INBOX (CONDSTORE)
        A< ...
        A< 1 OK <*>
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        B> 2 STORE 2 +FLAGS.SILENT (\Flagged \Deleted)
        B< 2 OK <*>
        A> 2 FETCH 1 UID
        A< * 1 FETCH (UID 1)
        A< * 2 FETCH (UID 2 FLAGS (\Flagged \Deleted \Recent) MODSEQ (<*>))
        A< 2 OK <*>
        B> 3 EXPUNGE
        B< * 2 EXPUNGE
        B< 3 OK <*>
        A> 3 FETCH 2 FLAGS
        A< * 2 FETCH (FLAGS (\Flagged \Deleted \Recent))
        A< 3 OK <*>
        A> 4 FETCH 2:3 FLAGS
        A< * 2 FETCH (FLAGS (\Flagged \Deleted \Recent))
        A< * 3 FETCH (FLAGS (\Recent))
        A< 4 OK <*>
        -- while the expunge is held back flags of others are told once
        B> 4 STORE 2 +FLAGS.SILENT (\Answered)
        B< 4 OK <*>
        A> 5 FETCH 1 UID
        A< * 1 FETCH (UID 1)
        A< * 3 FETCH (UID 3 FLAGS (\Answered \Recent) MODSEQ (<*>))
        A< 5 OK <*>
        A> 6 FETCH 1 UID
        A< * 1 FETCH (UID 1)
        A< 6 OK <*>
        A> 7 STORE 2:3 +FLAGS (\Seen)
        A< * 3 FETCH (UID 3 FLAGS (\Answered \Seen \Recent) MODSEQ (<*>))
        A< 7 OK [EXPUNGEISSUED] <*>
        A> 8 NOOP
        A< * 2 EXPUNGE
        A< 8 OK <*>
        ",
    )
    .await;
}

#[tokio::test]
async fn a_mailbox_deleted_under_a_session_is_empty() {
    let site = Site::new().await;
    site.play(
        r"
        A> 1 CREATE x
        A< 1 OK [MAILBOXID (<*>)] CREATE completed
        A> 2 APPEND x {3+}\na\n
        A< 2 OK <*>
        A> 3 SELECT x
        A< ...
        A< 3 OK <*>
        B> 1 DELETE x
        B< 1 OK DELETE completed
        A> 4 NOOP
        A< * 1 EXPUNGE
        A< 4 OK <*>
        A> 5 UID FETCH 1:* FLAGS
        A< 5 OK <*>
        A> 6 UID STORE 1 +FLAGS (\Seen)
        A< 6 OK <*>
        ",
    )
    .await;
}
