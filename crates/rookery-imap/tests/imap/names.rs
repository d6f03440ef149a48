//! Names that are hard: encodings, empty components, dots, wildcards.

use crate::harness::Site;

#[tokio::test]
async fn odd_names() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 CREATE a//b
            A< 1 NO [CANNOT] <*>
            A> 2 CREATE ../b
            A< 2 NO [CANNOT] <*>
            A> 3 CREATE /a
            A< 3 NO [CANNOT] <*>
            A> 4 CREATE "100%"
            A< 4 OK <*>
            A> 5 CREATE "star*"
            A< 5 OK <*>
            A> 6 LIST "" "100%"
            A< * LIST (\HasNoChildren) "/" "100%"
            A< 6 OK <*>
            A> 7 CREATE ""
            A< 7 NO [CANNOT] <*>
            A> 8 SELECT ..
            A< 8 NO [NONEXISTENT] <*>
            A> 9 CREATE Inbox/x
            A< 9 OK <*>
            A> 10 LIST "" inbox/%
            A< * LIST (\HasNoChildren) "/" INBOX/x
            A< 10 OK <*>
            A> 11 CREATE Shared
            A< 11 NO <*>
            A> 12 CREATE {5+}\na b c
            A< 12 OK <*>
            A> 13 STATUS "a b c" (MESSAGES)
            A< * STATUS "a b c" (MESSAGES 0)
            A< 13 OK <*>
        "#,
        )
        .await;
}

#[tokio::test]
async fn names_are_utf7_before_rev2_and_utf8_after() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 CREATE Entw&APw-rfe
            A< 1 OK <*>
            A> 2 CREATE a&b
            A< 2 NO [CANNOT] <*>
            A> 2b SELECT a&b
            A< 2b NO [CANNOT] <*>
            A> 2c LIST "" a&b*
            A< 2c OK <*>
            A> 3 LIST "" E*
            A< * LIST (\HasNoChildren) "/" Entw&APw-rfe
            A< 3 OK <*>
            A> 4 CREATE a&-b
            A< 4 OK <*>
            A> 5 ENABLE IMAP4rev2
            A< * ENABLED IMAP4rev2
            A< 5 OK <*>
            A> 6 LIST "" E*
            A< * LIST (\HasNoChildren) "/" "Entwürfe"
            A< 6 OK <*>
            A> 7 STATUS "Entwürfe" (MESSAGES)
            A< * STATUS "Entwürfe" (MESSAGES 0)
            A< 7 OK <*>
            A> 8 LIST "" a&*
            A< * LIST (\HasNoChildren) "/" a&b
            A< 8 OK <*>
        "#,
        )
        .await;
}
