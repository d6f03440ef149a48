//! NOTIFY (RFC 5465) as transcripts.

use crate::harness::{Nodes, Site};

#[tokio::test]
async fn the_rfcs_example() {
    let site = Site::new().await;
    site.play(
        r#"
        A> 1 CREATE Lists/Lemonade
        A< 1 OK <*>
        A> 2 CREATE Lists/Im2000
        A< 2 OK <*>
        A> b NOTIFY SET STATUS (selected (MessageNew (uid body.peek[header.fields (from subject)]) MessageExpunge)) (subtree Lists (MessageNew MessageExpunge))
        A< * STATUS Lists/Im2000 (MESSAGES 0 UIDNEXT 1 UIDVALIDITY <*>)
        A< * STATUS Lists/Lemonade (MESSAGES 0 UIDNEXT 1 UIDVALIDITY <*>)
        A< b OK <*>
        A> c SELECT INBOX
        A< ...
        A< c OK <*>
        -- A message comes to another mailbox, and one to the selected one.
        B> 1 APPEND Lists/Lemonade {3+}\na\n
        B< 1 OK <*>
        A< * STATUS Lists/Lemonade (MESSAGES 1 UIDNEXT 2 UIDVALIDITY <*>)
        B> 2 APPEND INBOX {26+}\nFrom: a\nSubject: b\n\nc\n
        B< 2 OK <*>
        A< * 1 EXISTS
        A< * 1 RECENT
        A< * 1 FETCH (UID 1 BODY[HEADER.FIELDS (from subject)] {23}
        A< From: a
        A< Subject: b
        A<
        A< )
        -- Flags were not asked for; expunges come at once.
        B> 3 SELECT INBOX
        B< ...
        B< 3 OK <*>
        B> 4 STORE 1 +FLAGS.SILENT (\Deleted)
        B< 4 OK <*>
        B> 5 EXPUNGE
        B< * 1 EXPUNGE
        B< 5 OK <*>
        A< * 1 EXPUNGE
        -- What is not watched is not told.
        B> 6 APPEND Sent {3+}\na\n
        B< 6 OK <*>
        B> 7 APPEND Lists/Im2000 {3+}\na\n
        B< 7 OK <*>
        A< * STATUS Lists/Im2000 (MESSAGES 1 UIDNEXT 2 UIDVALIDITY <*>)
        A> d NOTIFY NONE
        A< d OK <*>
        B> 8 APPEND INBOX {3+}\na\n
        B< ...
        B< 8 OK <*>
        A> e NOOP
        A< e OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_cannot_be_asked() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 NOTIFY SET (personal (MessageNew))
            A< 1 BAD <*>
            A> 2 NOTIFY SET (personal (MessageExpunge))
            A< 2 BAD <*>
            A> 3 NOTIFY SET (personal (FlagChange))
            A< 3 BAD <*>
            A> 4 NOTIFY SET (selected (MailboxName))
            A< 4 BAD <*>
            A> 5 NOTIFY SET (selected (MessageNew MessageExpunge)) (selected-delayed NONE)
            A< 5 BAD <*>
            A> 6 NOTIFY SET (personal (MessageNew (uid) MessageExpunge))
            A< 6 BAD <*>
            A> 7 NOTIFY SET (personal (MessageNew MessageExpunge AnnotationChange))
            A< 7 NO [BADEVENT (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange MailboxMetadataChange ServerMetadataChange)] <*>
            A> 8 NOTIFY SET (personal (X-Moon))
            A< 8 NO [BADEVENT (<*>)] <*>
            A> 9 NOTIFY
            A< 9 BAD <*>
            A> 10 NOTIFY SET (everywhere NONE)
            A< 10 BAD <*>
            A> 11 NOTIFY SET (mailboxes (nowhere "Other Users/joe") (MessageNew MessageExpunge))
            A< 11 OK <*>
            X> 1 NOTIFY NONE
            X< 1 BAD <*>
            "#,
        )
        .await;
}

#[tokio::test]
async fn expunges_can_be_put_off_and_flags_told() {
    let site = Site::new().await;
    site.fill("d.").await;
    site.play(
        r#"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 NOTIFY SET (selected-delayed (MessageNew MessageExpunge FlagChange))
        A< 2 OK <*>
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        B> 2 STORE 2 +FLAGS.SILENT (\Flagged)
        B< 2 OK <*>
        A< * 2 FETCH (UID 2 FLAGS (\Flagged \Recent))
        B> 3 EXPUNGE
        B< * 1 EXPUNGE
        B< 3 OK <*>
        B> 4 STORE 1 +FLAGS.SILENT (\Seen)
        B< 4 OK <*>
        A< * 2 FETCH (UID 2 FLAGS (\Flagged \Seen \Recent))
        A> 3 NOOP
        A< * 1 EXPUNGE
        A< 3 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn flags_elsewhere_are_told_by_status() {
    let site = Site::new().await;
    site.fill("..").await;
    site.play(
        r#"
        A> 1 ENABLE CONDSTORE
        A< ...
        A< 1 OK <*>
        A> 2 NOTIFY SET STATUS (personal (MessageNew MessageExpunge FlagChange))
        A< * STATUS INBOX (MESSAGES 2 UIDNEXT 3 UIDVALIDITY <*> UNSEEN 2 HIGHESTMODSEQ <*>)
        A< * STATUS Sent (MESSAGES 0 <*>)
        A< * STATUS Trash (MESSAGES 0 <*>)
        A< 2 OK <*>
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        B> 2 STORE 1 +FLAGS.SILENT (\Seen)
        B< 2 OK <*>
        A< * STATUS INBOX (MESSAGES 2 UIDNEXT 3 UIDVALIDITY <*> UNSEEN 1 HIGHESTMODSEQ <*>)
        B> 3 MOVE 1 Sent
        B< ...
        B< 3 OK <*>
        A< * STATUS INBOX (MESSAGES 1 UIDNEXT 3 UIDVALIDITY <*> UNSEEN 1 HIGHESTMODSEQ <*>)
        A< * STATUS Sent (MESSAGES 1 UIDNEXT 2 UIDVALIDITY <*> UNSEEN 0 HIGHESTMODSEQ <*>)
        "#,
    )
    .await;
}

#[tokio::test]
async fn names_and_subscriptions() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 NOTIFY SET (personal (MailboxName SubscriptionChange))
            A< 1 OK <*>
            B> 1 CREATE a/b
            B< 1 OK <*>
            A< * LIST (\HasNoChildren) "/" a/b
            A< * LIST (\NonExistent \HasChildren) "/" a
            B> 2 CREATE a/b/c
            B< 2 OK <*>
            A< * LIST (\HasNoChildren) "/" a/b/c
            A< * LIST (\HasChildren) "/" a/b
            B> 3 RENAME a/b z
            B< 3 OK <*>
            A< * LIST (\HasChildren) "/" z ("OLDNAME" (a/b))
            B> 4 SUBSCRIBE z
            B< 4 OK <*>
            A< * LIST (\Subscribed \HasChildren) "/" z
            B> 5 UNSUBSCRIBE z
            B< 5 OK <*>
            A< * LIST (\HasChildren) "/" z
            B> 6 DELETE z/c
            B< 6 OK <*>
            A< * LIST (\NonExistent) "/" z/c
            A< * LIST (\HasNoChildren) "/" z
            B> 7 SUBSCRIBE gone
            B< 7 OK <*>
            A< * LIST (\NonExistent \Subscribed \HasNoChildren) "/" gone
            "#,
        )
        .await;
}

#[tokio::test]
async fn rights_make_mailboxes_come_and_go() {
    // What other homes tell does not go along when an account moves.
    if crate::NODES == Nodes::Travelling {
        return;
    }
    let site = Site::new().await;
    site.play(
        r#"
        J> 1 SETACL Sent ann l
        J< 1 OK <*>
        A> 1 NOTIFY SET (subtree "Other Users/joe" (MessageNew MessageExpunge MailboxName))
        A< * LIST (\NoAccess) "/" "Other Users/joe/Sent"
        A< 1 OK <*>
        J> 2 APPEND Sent {3+}\na\n
        J< 2 OK <*>
        J> 3 SETACL Trash ann lr
        J< 3 OK <*>
        A< * LIST (\HasNoChildren \Trash) "/" "Other Users/joe/Trash"
        J> 4 APPEND Trash {3+}\na\n
        J< 4 OK <*>
        A< * STATUS "Other Users/joe/Trash" (MESSAGES 1 UIDNEXT 2 UIDVALIDITY <*>)
        J> 5 SETACL Trash ann ""
        J< 5 OK <*>
        A< * LIST (\NonExistent) "/" "Other Users/joe/Trash"
        J> 6 APPEND Trash {3+}\na\n
        J< 6 OK <*>
        J> 7 APPEND INBOX {3+}\na\n
        J< 7 OK <*>
        A> 2 NOOP
        A< 2 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn annotations_are_told_by_name() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 SETACL INBOX joe lr
            A< 1 OK <*>
            A> 2 NOTIFY SET (mailboxes INBOX (MailboxMetadataChange))
            A< 2 OK <*>
            J> 1 SETMETADATA "Other Users/ann" (/shared/comment "x" /private/comment "joe's own")
            J< 1 OK <*>
            A< * METADATA INBOX /shared/comment
            B> 1 SETMETADATA INBOX (/shared/comment NIL /private/comment "y")
            B< 1 OK <*>
            A< * METADATA INBOX /private/comment /shared/comment
            "#,
        )
        .await;
}

#[tokio::test]
async fn idle_tells_the_same() {
    let site = Site::new().await;
    site.fill("..").await;
    site.play(
        r#"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 NOTIFY SET (selected (MessageNew MessageExpunge)) (subscribed (MessageNew MessageExpunge))
        A< 2 OK <*>
        A~ 3 IDLE
        A< + idling
        B> 1 SUBSCRIBE Sent
        B< 1 OK <*>
        B> 2 SELECT INBOX
        B< ...
        B< 2 OK <*>
        B> 3 STORE 1 +FLAGS.SILENT (\Flagged)
        B< 3 OK <*>
        B> 4 COPY 1 Sent
        B< 4 OK <*>
        A< * STATUS Sent (MESSAGES 1 UIDNEXT 2 UIDVALIDITY <*>)
        B> 5 APPEND INBOX {3+}\na\n
        B< ...
        B< 5 OK <*>
        A< * 3 EXISTS
        A< * <*> RECENT
        A~ DONE
        A< 3 OK <*>
        "#,
    )
    .await;
}

/// RFC 5465 §5: what the client itself has done is not told, what others do at the same time is.
#[tokio::test]
async fn own_changes_are_not_told() {
    let site = Site::new().await;
    site.fill(".").await;
    site.play(
        r#"
        A> 1 NOTIFY SET (selected (MessageNew (uid) MessageExpunge)) (personal (MessageNew MessageExpunge MailboxName SubscriptionChange MailboxMetadataChange))
        A< 1 OK <*>
        A> 2 SELECT INBOX
        A< ...
        A< 2 OK <*>
        A> 3 CREATE a/b
        A< 3 OK <*>
        A> 4 SUBSCRIBE a/b
        A< 4 OK <*>
        A> 5 COPY 1 Sent
        A< 5 OK <*>
        A> 6 SETMETADATA a/b (/private/comment "x")
        A< 6 OK <*>
        A> 7 RENAME a/b c
        A< 7 OK <*>
        A> 8 DELETE c
        A< 8 OK <*>
        -- New messages are told, but not what they are.
        A> 9 APPEND INBOX {3+}\na\n
        A< * 2 EXISTS
        A< * <*> RECENT
        A< 9 OK <*>
        B> 1 APPEND INBOX {3+}\nb\n
        B< 1 OK <*>
        A< * 3 EXISTS
        A< * <*> RECENT
        A< * 3 FETCH (UID 3)
        B> 2 APPEND Sent {3+}\na\n
        B< 2 OK <*>
        A< * STATUS Sent (MESSAGES 2 <*>)
        B> 3 CREATE d
        B< 3 OK <*>
        A< * LIST (\HasNoChildren) "/" d
        B> 4 SUBSCRIBE d
        B< 4 OK <*>
        A< * LIST <*>
        A< * LIST (\Subscribed \HasNoChildren) "/" d
        "#,
    )
    .await;
}
