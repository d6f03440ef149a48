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
        A< * MYRIGHTS Sent lrswipkxteancd
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
        A< * LISTRIGHTS INBOX ann lrswipkxtean
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
        A> 6 SETACL INBOX eve@b.test lr
        A< 6 NO [CANNOT] <*>
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

#[tokio::test]
async fn each_right_alone_does_what_it_says() {
    let site = Site::new().await;
    site.fill("..").await;
    site.play(
        r#"
        -- k makes a mailbox below, and no other right does.
        A> 1 SETACL Sent joe lk
        A< 1 OK <*>
        J> 1 CREATE "Other Users/ann/Sent/new"
        J< 1 OK <*>
        J> 2 SELECT "Other Users/ann/Sent"
        J< 2 NO [NOPERM] <*>
        J> 3 DELETE "Other Users/ann/Sent"
        J< 3 NO [NOPERM] <*>
        -- x deletes.
        A> 2 SETACL Sent/new joe lx
        A< 2 OK <*>
        J> 4 CREATE "Other Users/ann/Sent/new/er"
        J< 4 NO [NOPERM] <*>
        J> 5 DELETE "Other Users/ann/Sent/new"
        J< 5 OK <*>
        -- i with l lets APPEND and COPY in.
        A> 3 SETACL Trash joe li
        A< 3 OK <*>
        J> 6 APPEND "Other Users/ann/Trash" {5+}\nhello
        J< 6 OK [APPENDUID <*>
        J> 7 APPEND INBOX {5+}\nhello
        J< 7 OK [APPENDUID <*>
        J> 8 SELECT INBOX
        J< ...
        J< 8 OK <*>
        J> 9 COPY 1 "Other Users/ann/Trash"
        J< 9 OK [COPYUID <*>
        J> 10 COPY 1 "Other Users/ann/Sent"
        J< 10 NO [NOPERM] <*>
        -- a alone shows and sets ACLs. Without l nobody knows of the mailbox.
        A> 4 SETACL INBOX joe a
        A< 4 OK <*>
        J> 11 GETACL "Other Users/ann"
        J< 11 NO [NONEXISTENT] <*>
        A> 5 SETACL INBOX joe la
        A< 5 OK <*>
        J> 12 GETACL "Other Users/ann"
        J< * ACL "Other Users/ann" ann lrswipkxteancd joe la
        J< 12 OK <*>
        J> 13 SETACL "Other Users/ann" max cd
        J< 13 OK <*>
        A> 6 GETACL INBOX
        A< * ACL INBOX ann lrswipkxteancd joe la max kxtecd
        A< 6 OK <*>
        "#,
    )
    .await;
}
