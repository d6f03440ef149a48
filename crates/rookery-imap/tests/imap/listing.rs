//! LIST in its forms, LSUB, NAMESPACE, STATUS, and making and unmaking mailboxes.

use crate::harness::Site;

#[tokio::test]
async fn names_that_exist_only_through_others() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 CREATE a/b/c
            A< 1 OK <*>
            A> 2 LIST "" *
            A< * LIST (\HasNoChildren) "/" INBOX
            A< * LIST (\HasNoChildren \Sent) "/" Sent
            A< * LIST (\HasNoChildren \Trash) "/" Trash
            A< * LIST (\NonExistent \Noselect \HasChildren) "/" a
            A< * LIST (\NonExistent \Noselect \HasChildren) "/" a/b
            A< * LIST (\HasNoChildren) "/" a/b/c
            A< 2 OK LIST completed
            A> 3 LIST "" %/%
            A< * LIST (\NonExistent \Noselect \HasChildren) "/" a/b
            A< 3 OK <*>
            A> 4 LIST a/ %
            A< * LIST (\NonExistent \Noselect \HasChildren) "/" a/b
            A< 4 OK <*>
            A> 5 LIST "" ""
            A< * LIST (\Noselect) "/" ""
            A< 5 OK <*>
            A> 6 LIST "" inbox
            A< * LIST (\HasNoChildren) "/" INBOX
            A< 6 OK <*>
            A> 7 CREATE a/
            A< 7 OK <*>
            A> 8 CREATE a
            A< 8 NO [ALREADYEXISTS] <*>
            A> 9 DELETE a
            A< 9 OK <*>
            A> 10 DELETE a
            A< 10 NO [NONEXISTENT] <*>
            A> 11 DELETE INBOX
            A< 11 NO [CANNOT] <*>
            A> 12 RENAME a/b z
            A< 12 OK <*>
            A> 13 LIST "" (a* z*)
            A< * LIST (\NonExistent \HasChildren) "/" z
            A< * LIST (\HasNoChildren) "/" z/c
            A< 13 OK <*>
            A> 14 RENAME z/c Sent
            A< 14 NO [ALREADYEXISTS] <*>
            A> 15 RENAME nowhere x
            A< 15 NO [NONEXISTENT] <*>
            A> 16 RENAME z/c z/c/d
            A< 16 NO [CANNOT] <*>
        "#,
        )
        .await;
}

#[tokio::test]
async fn renaming_inbox_leaves_it_empty() {
    let site = Site::new().await;
    site.fill("..").await;
    site.play(
        r#"
        A> 1 RENAME INBOX old/mail
        A< 1 OK <*>
        A> 2 LIST "" * RETURN (STATUS (MESSAGES))
        A< * LIST (\HasNoChildren) "/" INBOX
        A< * STATUS INBOX (MESSAGES 0)
        A< * LIST (\HasNoChildren \Sent) "/" Sent
        A< * STATUS Sent (MESSAGES 0)
        A< * LIST (\HasNoChildren \Trash) "/" Trash
        A< * STATUS Trash (MESSAGES 0)
        A< * LIST (\NonExistent \HasChildren) "/" old
        A< * LIST (\HasNoChildren) "/" old/mail
        A< * STATUS old/mail (MESSAGES 2)
        A< 2 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn subscriptions_outlive_mailboxes() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 SUBSCRIBE INBOX
            A< 1 OK <*>
            A> 2 CREATE work/now
            A< 2 OK <*>
            A> 3 SUBSCRIBE work/now
            A< 3 OK <*>
            A> 4 LSUB "" *
            A< * LSUB () "/" INBOX
            A< * LSUB () "/" work/now
            A< 4 OK <*>
            A> 5 LSUB "" %
            A< * LSUB () "/" INBOX
            A< * LSUB (\Noselect) "/" work
            A< 5 OK <*>
            A> 6 LIST (SUBSCRIBED) "" *
            A< * LIST (\Subscribed \HasNoChildren) "/" INBOX
            A< * LIST (\Subscribed \HasNoChildren) "/" work/now
            A< 6 OK <*>
            A> 7 LIST (SUBSCRIBED RECURSIVEMATCH) "" %
            A< * LIST (\Subscribed \HasNoChildren) "/" INBOX
            A< * LIST (\NonExistent \HasChildren) "/" work ("CHILDINFO" ("SUBSCRIBED"))
            A< 7 OK <*>
            A> 8 LIST (RECURSIVEMATCH) "" %
            A< 8 BAD <*>
            A> 9 DELETE work/now
            A< 9 OK <*>
            A> 10 LIST (SUBSCRIBED) "" *
            A< * LIST (\Subscribed \HasNoChildren) "/" INBOX
            A< * LIST (\NonExistent \Subscribed \HasNoChildren) "/" work/now
            A< 10 OK <*>
            A> 10b LIST (SUBSCRIBED RECURSIVEMATCH) "" w%
            A< * LIST (\NonExistent \HasNoChildren) "/" work ("CHILDINFO" ("SUBSCRIBED"))
            A< 10b OK <*>
            A> 11 LIST "" w*
            A< 11 OK <*>
            A> 12 UNSUBSCRIBE work/now
            A< 12 OK <*>
            A> 13 LSUB "" *
            A< * LSUB () "/" INBOX
            A< 13 OK <*>
            A> 14 LIST "" INBOX RETURN (SUBSCRIBED CHILDREN)
            A< * LIST (\Subscribed \HasNoChildren) "/" INBOX
            A< 14 OK <*>
        "#,
        )
        .await;
}

#[tokio::test]
async fn special_uses() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 CREATE Old (USE (\Archive))
            A< 1 OK <*>
            A> 2 LIST (SPECIAL-USE) "" *
            A< * LIST (\HasNoChildren \Archive) "/" Old
            A< * LIST (\HasNoChildren \Sent) "/" Sent
            A< * LIST (\HasNoChildren \Trash) "/" Trash
            A< 2 OK <*>
            A> 3 LIST "" Old RETURN (SPECIAL-USE MYRIGHTS)
            A< * LIST (\HasNoChildren \Archive) "/" Old
            A< * MYRIGHTS Old <*>
            A< 3 OK <*>
            A> 4 CREATE All (USE (\All))
            A< 4 NO [USEATTR] <*>
        "#,
        )
        .await;
}

#[tokio::test]
async fn namespaces_id_and_status() {
    let site = Site::new().await;
    site.fill("sd.").await;
    site.play(
        r#"
        A> 1 NAMESPACE
        A< * NAMESPACE (("" "/")) (("Other Users/" "/")) (("Shared/" "/"))
        A< 1 OK <*>
        A> 2 ID ("name" "test")
        A< * ID ("name" "Rookery" "version" "<*>")
        A< 2 OK <*>
        A> 3 STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE MAILBOXID RECENT APPENDLIMIT)
        A< * STATUS INBOX (MESSAGES 3 UIDNEXT 4 UIDVALIDITY <*> UNSEEN 2 DELETED 1 SIZE <*> MAILBOXID (<*>) RECENT 3 APPENDLIMIT 67108864)
        A< 3 OK <*>
        A> 4 STATUS nowhere (MESSAGES)
        A< 4 NO [NONEXISTENT] <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn others_mailboxes_are_not_there_without_rights() {
    let site = Site::new().await;
    site.fill(".").await;
    site.play(
        r#"
        J> 1 SELECT "Other Users/ann"
        J< 1 NO [NONEXISTENT] <*>
        J> 2 STATUS "Other Users/nobody" (MESSAGES)
        J< 2 NO [NONEXISTENT] <*>
        J> 3 LIST "" "Other Users/ann/*"
        J< 3 OK <*>
        J> 4 CREATE "Other Users/ann/x"
        J< 4 NO [NOPERM] <*>
        J> 5 CREATE "Shared/x"
        J< 5 NO [NOPERM] <*>
        J> 6 DELETE "Other Users/ann/Sent"
        J< 6 NO [NONEXISTENT] <*>
        "#,
    )
    .await;
    let account = site.account("ann").await;
    let inbox = account.tree().get(&rookery_types::MailboxPath::inbox()).unwrap();
    let mut acl = account.tree().state(inbox).unwrap().settings.acl.clone();
    let joe = rookery_types::UserName::parse("joe", "example.org").unwrap();
    acl.set(rookery_types::Identifier::User(joe), false, rookery_types::Rights::parse("lrs").unwrap());
    account.set_acl(inbox, acl).await.unwrap();
    site.play(
        r#"
        J> 1 LIST "" "Other Users/ann/*"
        J< 1 OK <*>
        J> 2 SELECT "Other Users/ann"
        J< * FLAGS <*>
        J< * OK [PERMANENTFLAGS (\Seen)] <*>
        J< ...
        J< 2 OK [READ-WRITE] <*>
        J> 3 STORE 1 +FLAGS (\Flagged)
        J< 3 NO [NOPERM] <*>
        J> 4 STORE 1 +FLAGS (\Flagged \Seen)
        J< * 1 FETCH (FLAGS (\Seen \Recent))
        J< 4 OK <*>
        J> 5 EXPUNGE
        J< 5 NO [NOPERM] <*>
        J> 6 COPY 1 "Other Users/ann"
        J< 6 NO [NOPERM] <*>
        J> 7 COPY 1 Sent
        J< 7 OK [COPYUID <*> 1 1] <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn shared_mailboxes_are_listed_to_those_who_may_look() {
    let site = Site::new().await;
    site.add_shared("team", "anyone", "lrswipte").await;
    site.add_shared("board", "joe", "lr").await;
    site.play(
        r#"
        A> 1 LIST "" *
        A< * LIST (\HasNoChildren) "/" INBOX
        A< * LIST (\HasNoChildren \Sent) "/" Sent
        A< * LIST (\NonExistent \Noselect \HasChildren) "/" Shared
        A< * LIST (\HasNoChildren) "/" Shared/team
        A< * LIST (\HasNoChildren \Trash) "/" Trash
        A< 1 OK <*>
        J> 2 LIST "" Shared/%
        J< * LIST (\HasNoChildren) "/" Shared/board
        J< * LIST (\HasNoChildren) "/" Shared/team
        J< 2 OK <*>
        A> 3 APPEND Shared/team {3+}\na\n
        A< 3 OK [APPENDUID <*>] <*>
        J> 4 STATUS Shared/team (MESSAGES)
        J< * STATUS Shared/team (MESSAGES 1)
        J< 4 OK <*>
        J> 5 APPEND Shared/board {3+}\na\n
        J< 5 NO [NOPERM] <*>
        A> 6 SELECT Shared/board
        A< 6 NO [NONEXISTENT] <*>
        "#,
    )
    .await;
}
