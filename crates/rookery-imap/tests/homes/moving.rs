//! MOVE between mailboxes of two homes, as a client sees it.

use crate::harness::Site;

/// Ann's INBOX has three messages; joe may do anything with it, and with Sent; he has two of his own.
async fn shared() -> Site {
    let site = Site::new().await;
    site.fill("s..").await;
    let mut ann = site.login("ann").await;
    assert!(ann.command("1 SETACL INBOX joe lrswipkxte").await[0].starts_with("1 OK"));
    assert!(ann.command("2 SETACL Sent joe lrswipkxte").await[0].starts_with("2 OK"));
    let mut joe = site.login("joe").await;
    for (n, flags) in [(1, "(\\Flagged $one)"), (2, "(\\Seen)")] {
        let command = format!("{n} APPEND INBOX {flags} \" 1-Feb-2020 03:04:05 +0100\" {{5+}}\\nmail{n}");
        assert!(joe.command(&command).await.last().unwrap().starts_with(&format!("{n} OK")));
    }
    site
}

#[tokio::test]
async fn messages_go_to_another_home_and_come_back() {
    let site = shared().await;
    site.play(
        r#"
        J> 1 SELECT INBOX
        J< ...
        J< 1 OK [READ-WRITE] <*>
        J> 2 UID MOVE 1:2 "Other Users/ann/Sent"
        J< * OK [COPYUID <*> 1:2 1:2] These moved
        J< * 2 EXPUNGE
        J< * 1 EXPUNGE
        J< 2 OK MOVE completed
        J> 3 UID MOVE 1:2 "Other Users/ann/Sent"
        J< 3 OK No messages to move
        J> 4 SELECT "Other Users/ann/Sent"
        J< * OK [CLOSED] <*>
        J< ...
        J< 4 OK [READ-WRITE] <*>
        J> 5 FETCH 1:2 (FLAGS INTERNALDATE BODY.PEEK[])
        J< * 1 FETCH (FLAGS (\Flagged<*>$one) INTERNALDATE " 1-Feb-2020 03:04:05 +0100" BODY[] {5}
        J< mail1)
        J< * 2 FETCH (FLAGS (\Seen<*>) INTERNALDATE " 1-Feb-2020 03:04:05 +0100" BODY[] {5}
        J< mail2)
        J< 5 OK <*>
        -- The home of the messages moves them, to that of the session.
        J> 6 MOVE 2 Trash
        J< * OK [COPYUID <*> 2 1] These moved
        J< * 2 EXPUNGE
        J< 6 OK MOVE completed
        J> 7 STATUS Trash (MESSAGES UNSEEN)
        J< * STATUS Trash (MESSAGES 1 UNSEEN 0)
        J< 7 OK <*>
        -- And within their home.
        J> 8 MOVE 1 "Other Users/ann"
        J< * OK [COPYUID <*> 1 4] These moved
        J< * 1 EXPUNGE
        J< 8 OK MOVE completed
        -- Ann sees them as unseen, whatever joe has seen.
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 FETCH 4 FLAGS
        A< * 4 FETCH (FLAGS (\Flagged<*>$one))
        A< 2 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_another_home_does_not_take_stays() {
    let site = shared().await;
    site.play(
        r#"
        J> 1 SELECT INBOX
        J< ...
        J< 1 OK [READ-WRITE] <*>
        J> 2 MOVE 1 "Other Users/ann/none"
        J< 2 NO [NONEXISTENT] No such mailbox
        J> 3 MOVE 1 "Other Users/ann/Trash"
        J< 3 NO [NONEXISTENT] No such mailbox
        J> 4 MOVE 1 "Other Users/ann/Sent/none"
        J< 4 NO [TRYCREATE] <*>
        J> 5 MOVE 1 "Other Users/nobody"
        J< 5 NO [NONEXISTENT] No such mailbox
        A> 1 SETACL Sent joe lr
        A< 1 OK <*>
        J> 6 MOVE 1 "Other Users/ann/Sent"
        J< 6 NO [NOPERM] <*>
        M> 1 SETQUOTA user/ann (MESSAGE 3)
        M< * QUOTA user/ann <*>
        M< 1 OK <*>
        J> 7 MOVE 1 "Other Users/ann"
        J< 7 NO [OVERQUOTA] <*>
        -- It can be changed as before.
        J> 8 STORE 1 +FLAGS.SILENT (\Answered)
        J< 8 OK <*>
        J> 9 EXAMINE INBOX
        J< ...
        J< 9 OK <*>
        J> 10 MOVE 1 "Other Users/ann"
        J< 10 NO [CANNOT] <*>
        -- Neither right to expunge.
        A> 2 SETACL INBOX joe lrswit
        A< 2 OK <*>
        J> 11 SELECT "Other Users/ann"
        J< ...
        J< 11 OK <*>
        J> 12 MOVE 1 Trash
        J< 12 NO [NOPERM] <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn a_home_that_is_away_leaves_the_move_pending() {
    let site = shared().await;
    let ann = site.services.clone();
    site.links.lose(ann.store.node());
    site.play(
        r#"
        J> 1 SELECT INBOX
        J< ...
        J< 1 OK [READ-WRITE] <*>
        J> 2 MOVE 1 "Other Users/ann/Sent"
        J< 2 NO [INUSE] The move is pending<*>
        -- They are read; nothing else is done with them.
        J> 3 FETCH 1 BODY[]
        J< * 1 FETCH (BODY[] {5}
        J< mail1)
        J< 3 OK <*>
        J> 4 COPY 1 Trash
        J< 4 OK [COPYUID <*>] <*>
        J> 5 STORE 2 +FLAGS.SILENT (\Deleted)
        J< 5 OK <*>
        J> 6 STORE 1 +FLAGS (\Deleted)
        J< 6 NO [INUSE] <*>
        "#,
    )
    .await;
    let mut joe = site.login("joe").await;
    joe.command("1 SELECT INBOX").await;
    site.links.add(ann);
    // The move ends within its longest pause.
    joe.send("2 IDLE").await;
    assert!(joe.line().await.starts_with("+ "));
    assert_eq!(joe.line().await, "* 1 EXPUNGE");
    joe.send("DONE").await;
    joe.until("2 ").await;
    let mut ann = site.login("ann").await;
    let status = ann.command("1 STATUS Sent (MESSAGES)").await;
    assert_eq!(status[0], "* STATUS Sent (MESSAGES 1)");
}
