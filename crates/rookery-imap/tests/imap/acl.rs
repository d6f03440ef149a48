//! Access control lists (RFC 4314) as transcripts.

use crate::harness::Site;

#[tokio::test]
async fn an_owner_gives_and_takes_rights_which_hold_at_the_next_command() {
    let site = Site::new().await;
    site.fill(".").await;
    site.play(
        r#"
        A> 1 GETACL INBOX
        A< * ACL INBOX ann lrswipkxteancd
        A< 1 OK <*>
        J> 1 MYRIGHTS "Other Users/ann"
        J< 1 NO [NONEXISTENT] <*>
        A> 2 SETACL INBOX joe lrs
        A< 2 OK <*>
        J> 2 MYRIGHTS "Other Users/ann"
        J< * MYRIGHTS "Other Users/ann" lrs
        J< 2 OK <*>
        J> 3 SELECT "Other Users/ann"
        J< ...
        J< 3 OK <*>
        J> 4 STORE 1 +FLAGS.SILENT (\Seen)
        J< 4 OK <*>
        J> 5 STORE 1 +FLAGS (\Flagged)
        J< 5 NO [NOPERM] <*>
        A> 3 SETACL INBOX joe +w
        A< 3 OK <*>
        J> 6 STORE 1 +FLAGS.SILENT (\Flagged)
        J< 6 OK <*>
        A> 4 SETACL INBOX -joe w
        A< ...
        A< 4 OK <*>
        J> 7 STORE 1 -FLAGS (\Flagged)
        J< 7 NO [NOPERM] <*>
        A> 5 GETACL INBOX
        A< * ACL INBOX ann lrswipkxteancd joe lrsw -joe w
        A< 5 OK <*>
        A> 6 DELETEACL INBOX -joe
        A< 6 OK <*>
        A> 7 SETACL INBOX joe -lw
        A< 7 OK <*>
        J> 8 STATUS "Other Users/ann" (MESSAGES)
        J< 8 NO [NONEXISTENT] <*>
        A> 8 DELETEACL INBOX joe
        A< 8 OK <*>
        A> 9 DELETEACL INBOX joe
        A< 9 OK <*>
        A> 10 GETACL INBOX
        A< * ACL INBOX ann lrswipkxteancd
        A< 10 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn only_administrators_see_and_change_a_list() {
    let site = Site::new().await;
    site.play(
        r#"
        A> 1 SETACL Sent joe lr
        A< 1 OK <*>
        J> 1 GETACL "Other Users/ann/Sent"
        J< 1 NO [NOPERM] <*>
        J> 2 SETACL "Other Users/ann/Sent" joe +a
        J< 2 NO [NOPERM] <*>
        J> 3 DELETEACL "Other Users/ann/Sent" ann
        J< 3 NO [NOPERM] <*>
        J> 4 LISTRIGHTS "Other Users/ann/Sent" joe
        J< 4 NO [NOPERM] <*>
        J> 5 GETACL "Other Users/ann/Trash"
        J< 5 NO [NONEXISTENT] <*>
        A> 2 SETACL Sent joe +a
        A< 2 OK <*>
        J> 6 SETACL "Other Users/ann/Sent" max lr
        J< 6 OK <*>
        J> 7 DELETEACL "Other Users/ann/Sent" ann
        J< 7 OK <*>
        -- The owner keeps what is implied, and helps herself.
        A> 3 MYRIGHTS Sent
        A< * MYRIGHTS Sent lkxanc
        A< 3 OK <*>
        A> 4 SETACL Sent ann lrswipkxtea
        A< 4 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn rights_are_listed_and_nonsense_is_refused() {
    let site = Site::new().await;
    site.play(
        r#"
        A> 1 LISTRIGHTS INBOX ann
        A< * LISTRIGHTS INBOX ann lkxan r s w i p t e
        A< 1 OK <*>
        A> 2 LISTRIGHTS INBOX anyone
        A< * LISTRIGHTS INBOX anyone "" l r s w i p k x t e a n
        A< 2 OK <*>
        A> 3 SETACL INBOX joe lrz
        A< 3 BAD <*>
        A> 4 SETACL INBOX "a b" lr
        A< 4 BAD <*>
        A> 5 SETACL INBOX "" lr
        A< 5 BAD <*>
        A> 6 SETACL Nowhere joe lr
        A< 6 NO [NONEXISTENT] <*>
        A> 7 GETACL INBOX
        A< * ACL INBOX ann lrswipkxteancd
        A< 7 OK <*>
        X> 1 GETACL INBOX
        X< 1 BAD <*>
        "#,
    )
    .await;
}
