//! Quotas (RFC 9208) as transcripts.

use crate::harness::Site;

#[tokio::test]
async fn administrators_set_what_users_may_only_see() {
    let site = Site::new().await;
    site.fill("..").await;
    site.play(
        r#"
        A> 1 GETQUOTAROOT INBOX
        A< * QUOTAROOT INBOX
        A< 1 OK <*>
        A> 2 GETQUOTA user/ann
        A< 2 NO [NONEXISTENT] <*>
        A> 3 SETQUOTA user/ann (STORAGE 10)
        A< 3 NO [NOPERM] <*>
        M> 1 SETQUOTA user/ann (STORAGE 10 MESSAGE 1000)
        M< * QUOTA user/ann (STORAGE 1 10 MESSAGE 2 1000)
        M< 1 OK <*>
        A> 4 GETQUOTAROOT INBOX
        A< * QUOTAROOT INBOX user/ann
        A< * QUOTA user/ann (STORAGE 1 10 MESSAGE 2 1000)
        A< 4 OK <*>
        A> 5 GETQUOTA user/ann
        A< * QUOTA user/ann (STORAGE 1 10 MESSAGE 2 1000)
        A< 5 OK <*>
        -- All limits are set anew, and what is not named is none.
        M> 2 SETQUOTA "user/ann" (MAILBOX 5)
        M< * QUOTA user/ann (MAILBOX 3 5)
        M< 2 OK <*>
        -- Another user hears nothing of it, as of what is not there.
        J> 1 GETQUOTA user/ann
        J< 1 NO [NONEXISTENT] No such quota root
        J> 2 GETQUOTA user/nobody
        J< 2 NO [NONEXISTENT] No such quota root
        J> 3 GETQUOTA ""
        J< 3 NO [NONEXISTENT] No such quota root
        J> 4 GETQUOTAROOT "Other Users/ann/Sent"
        J< 4 NO [NONEXISTENT] <*>
        M> 3 SETQUOTA user/ann ()
        M< * QUOTA user/ann ()
        M< 3 OK <*>
        A> 6 GETQUOTA user/ann
        A< 6 NO [NONEXISTENT] <*>
        M> 4 SETQUOTA user/ann (X-FILES 1)
        M< 4 NO [CANNOT] <*>
        M> 5 SETQUOTA user/ann/nowhere (STORAGE 1)
        M< 5 NO [NONEXISTENT] <*>
        M> 6 SETQUOTA user/ann (STORAGE 9223372036854775807)
        M< * QUOTA user/ann (STORAGE 1 9007199254740991)
        M< 6 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn the_total_that_would_be_is_what_counts() {
    let site = Site::new().await;
    site.fill("....").await;
    site.play(
        r#"
        M> 1 SETQUOTA user/ann (MESSAGE 5)
        M< * QUOTA user/ann (MESSAGE 4 5)
        M< 1 OK <*>
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 COPY 1:2 Sent
        A< 2 NO [OVERQUOTA] <*>
        A> 3 STATUS Sent (MESSAGES)
        A< * STATUS Sent (MESSAGES 0)
        A< 3 OK <*>
        A> 4 COPY 1 Sent
        A< * NO [OVERQUOTA] The quota is nearly used up
        A< 4 OK [COPYUID <*>] <*>
        A> 5 APPEND Sent {3+}\na\n
        A< 5 NO [OVERQUOTA] <*>
        -- Nothing more is there after a MOVE.
        A> 6 MOVE 1 Sent
        A< * NO [OVERQUOTA] <*>
        A< * OK [COPYUID <*>] <*>
        A< * 1 EXPUNGE
        A< 6 OK <*>
        -- What is \Deleted counts, what is expunged does not.
        A> 7 STORE 1 +FLAGS.SILENT (\Deleted)
        A< 7 OK <*>
        A> 8 STATUS INBOX (MESSAGES DELETED DELETED-STORAGE)
        A< * STATUS INBOX (MESSAGES 3 DELETED 1 DELETED-STORAGE 1<*>)
        A< 8 OK <*>
        A> 9 APPEND Sent {3+}\na\n
        A< 9 NO [OVERQUOTA] <*>
        A> 10 EXPUNGE
        A< * 1 EXPUNGE
        A< 10 OK <*>
        A> 11 APPEND Sent {3+}\na\n
        A< * NO [OVERQUOTA] <*>
        A< 11 OK [APPENDUID <*>] <*>
        -- With the command in several messages it is all of them or none.
        A> 12 STORE 1 +FLAGS.SILENT (\Deleted)
        A< 12 OK <*>
        A> 13 EXPUNGE
        A< * 1 EXPUNGE
        A< 13 OK <*>
        A> 14 APPEND Sent {3+}\na\n {3+}\nb\n
        A< 14 NO [OVERQUOTA] <*>
        A> 15 GETQUOTA user/ann
        A< * QUOTA user/ann (MESSAGE 4 5)
        A< 15 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn a_mailbox_can_be_a_root_of_its_own() {
    let site = Site::new().await;
    site.fill("...").await;
    site.play(
        r#"
        A> 1 CREATE Lists
        A< 1 OK <*>
        A> 2 CREATE Lists/rust
        A< 2 OK <*>
        A> 3 CREATE Listsx
        A< 3 OK <*>
        M> 1 SETQUOTA user/ann (MESSAGE 100)
        M< * QUOTA user/ann (MESSAGE 3 100)
        M< 1 OK <*>
        M> 2 SETQUOTA user/ann/Lists (MESSAGE 2 MAILBOX 3)
        M< * QUOTA user/ann/Lists (MESSAGE 0 2 MAILBOX 2 3)
        M< 2 OK <*>
        A> 4 SELECT INBOX
        A< ...
        A< 4 OK <*>
        A> 5 COPY 1:2 Lists/rust
        A< * NO [OVERQUOTA] <*>
        A< 5 OK <*>
        A> 6 COPY 1 Lists
        A< 6 NO [OVERQUOTA] <*>
        -- A move between roots takes from one and gives to the other.
        A> 7 MOVE 1 Lists
        A< 7 NO [OVERQUOTA] <*>
        A> 8 COPY 1 Listsx
        A< 8 OK <*>
        A> 9 GETQUOTAROOT Lists/rust
        A< * QUOTAROOT Lists/rust user/ann/Lists
        A< * QUOTA user/ann/Lists (MESSAGE 2 2 MAILBOX 2 3)
        A< 9 OK <*>
        A> 10 GETQUOTAROOT Lists/not/yet
        A< * QUOTAROOT Lists/not/yet user/ann/Lists
        A< * QUOTA user/ann/Lists (MESSAGE 2 2 MAILBOX 2 3)
        A< 10 OK <*>
        A> 11 GETQUOTA user/ann
        A< * QUOTA user/ann (MESSAGE 4 100)
        A< 11 OK <*>
        A> 12 CREATE Lists/a
        A< 12 OK <*>
        A> 13 CREATE Lists/b
        A< 13 NO [OVERQUOTA] <*>
        A> 14 RENAME Listsx Lists/x
        A< 14 NO [OVERQUOTA] <*>
        A> 15 RENAME Lists/rust rust
        A< 15 OK <*>
        A> 16 GETQUOTA user/ann
        A< * QUOTA user/ann (MESSAGE 6 100)
        A< 16 OK <*>
        -- Its limits go with it to another name.
        A> 17 RENAME Lists Other
        A< 17 OK <*>
        A> 18 GETQUOTAROOT Other/a
        A< * QUOTAROOT Other/a user/ann/Other
        A< * QUOTA user/ann/Other (MESSAGE 0 2 MAILBOX 2 3)
        A< 18 OK <*>
        A> 19 DELETE Other
        A< 19 OK <*>
        A> 20 GETQUOTAROOT Other/a
        A< * QUOTAROOT Other/a user/ann
        A< * QUOTA user/ann (MESSAGE 6 100)
        A< 20 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn who_reads_a_shared_mailbox_sees_its_quota() {
    let site = Site::new().await;
    site.add_shared("team", "ann", "lrswipkxte").await;
    site.play(
        r#"
        M> 1 SETQUOTA team (STORAGE 1)
        M< * QUOTA team (STORAGE 0 1)
        M< 1 OK <*>
        A> 1 GETQUOTAROOT Shared/team
        A< * QUOTAROOT Shared/team team
        A< * QUOTA team (STORAGE 0 1)
        A< 1 OK <*>
        A> 2 APPEND Shared/team {1025}
        A< 2 NO [OVERQUOTA] <*>
        A> 3 APPEND Shared/team {3+}\na\n
        A< 3 OK <*>
        A> 4 GETQUOTA team
        A< * QUOTA team (STORAGE 1 1)
        A< 4 OK <*>
        J> 1 GETQUOTA team
        J< 1 NO [NONEXISTENT] <*>
        J> 2 GETQUOTAROOT Shared/team
        J< 2 NO [NONEXISTENT] <*>
        M> 2 CREATE team/plans
        M< 2 OK <*>
        A> 5 GETQUOTAROOT Shared/team/plans
        A< * QUOTAROOT Shared/team/plans team
        A< * QUOTA team (STORAGE 1 1)
        A< 5 OK <*>
        A> 6 APPEND Shared/team/plans {1025}
        A< 6 NO [OVERQUOTA] <*>
        "#,
    )
    .await;
}
