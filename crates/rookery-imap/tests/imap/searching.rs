//! SEARCH with its keys and result options.

use crate::harness::Site;
use rookery_types::{MailboxPath, SystemFlags};

async fn filled() -> Site {
    let site = Site::new().await;
    site.fill("s.d").await;
    let account = site.account("ann").await;
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let body = "From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\
                Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n\
                R3LDvMOfZSBhbiBhbGxlLg==\r\n";
    site.append(&account, inbox, body.as_bytes(), SystemFlags::FLAGGED, &["$Work"]).await;
    site
}

#[tokio::test]
async fn keys() {
    filled()
        .await
        .play(
            r#"
            A> 1 SELECT INBOX
            A< ...
            A< 1 OK <*>
            A> 2 SEARCH ALL
            A< * SEARCH 1 2 3 4
            A< 2 OK SEARCH completed
            A> 3 SEARCH UNSEEN NOT DELETED
            A< * SEARCH 2 4
            A< 3 OK <*>
            A> 4 SEARCH OR SEEN KEYWORD $work
            A< * SEARCH 1 4
            A< 4 OK <*>
            A> 5 UID SEARCH 3:* UNKEYWORD $nonsense
            A< * SEARCH 3 4
            A< 5 OK <*>
            A> 6 SEARCH SUBJECT "number 1"
            A< * SEARCH 2
            A< 6 OK <*>
            A> 7 SEARCH CHARSET UTF-8 SUBJECT {7+}\nGRÜSSE
            A< * SEARCH 4
            A< 7 OK <*>
            A> 8 SEARCH BODY "body 2"
            A< * SEARCH 3
            A< 8 OK <*>
            A> 9 SEARCH BODY alle FROM example.org
            A< * SEARCH 4
            A< 9 OK <*>
            A> 10 SEARCH CHARSET x-klingon SUBJECT a
            A< 10 NO [BADCHARSET (<*>)] <*>
            A> 11 SEARCH ON 1-Jan-2024 SENTSINCE 1-Jan-2024
            A< * SEARCH 1 2 3
            A< 11 OK <*>
            -- numbers beyond the last are no mistake here, only found nowhere
            A> 11b SEARCH 3:9 UNSEEN
            A< * SEARCH 3 4
            A< 11b OK <*>
            A> 11c SEARCH 1000
            A< * SEARCH
            A< 11c OK <*>
            A> 12 SEARCH SENTBEFORE 1-Jan-2024
            A< * SEARCH
            A< 12 OK <*>
            A> 13 SEARCH HEADER Message-ID ""
            A< * SEARCH 1 2 3
            A< 13 OK <*>
            A> 14 SEARCH (LARGER 10 SMALLER 1000) (OR (DELETED) (FLAGGED))
            A< * SEARCH 3 4
            A< 14 OK <*>
            A> 15 SEARCH RECENT OLD
            A< * SEARCH
            A< 15 OK <*>
            A> 16 SEARCH TEXT nowhere
            A< * SEARCH
            A< 16 OK <*>
            A> 17 SEARCH UID 2,4 OLDER 3600 SAVEDSINCE 1-Jan-2025
            A< * SEARCH 2 4
            A< 17 OK <*>
        "#,
        )
        .await;
}

/// What was looked at once is remembered; new messages and mixed keys are no different.
#[tokio::test]
async fn fields_are_found_again_and_with_other_keys() {
    filled()
        .await
        .play(
            r#"
            A> 1 SELECT INBOX
            A< ...
            A< 1 OK <*>
            A> 2 SEARCH OR FROM j@example.org SUBJECT "number 0"
            A< * SEARCH 1 4
            A< 2 OK <*>
            A> 3 SEARCH OR FROM j@example.org BODY "body 1"
            A< * SEARCH 2 4
            A< 3 OK <*>
            A> 4 SEARCH NOT TO ann@ NOT BODY nothing
            A< * SEARCH 4
            A< 4 OK <*>
            A> 5 COPY 4 INBOX
            A< ...
            A< 5 OK <*>
            A> 6 UID SEARCH FROM {7+}\njürgen
            A< * SEARCH 4 5
            A< 6 OK <*>
            A> 7 SEARCH HEADER subject {7+}\nGRÜSSE SENTSINCE 1-Jan-2000
            A< * SEARCH
            A< 7 OK <*>
            A> 8 SEARCH NOT SENTSINCE 1-Jan-2000
            A< * SEARCH 4 5
            A< 8 OK <*>
            A> 9 SEARCH SENTON 1-Jan-2024 SUBJECT number
            A< * SEARCH 1 2 3
            A< 9 OK <*>
            A> 10 SEARCH CC ""
            A< * SEARCH
            A< 10 OK <*>
        "#,
        )
        .await;
}

#[tokio::test]
async fn results_as_asked_for_and_saved() {
    filled()
        .await
        .play(
            r#"
            A> 1 SELECT INBOX
            A< ...
            A< 1 OK <*>
            A> 2 SEARCH RETURN (MIN MAX COUNT) UNSEEN
            A< * ESEARCH (TAG "2") MIN 2 MAX 4 COUNT 3
            A< 2 OK <*>
            A> 3 UID SEARCH RETURN () 1:3
            A< * ESEARCH (TAG "3") UID ALL 1:3
            A< 3 OK <*>
            A> 4 SEARCH RETURN (ALL COUNT) TEXT nowhere
            A< * ESEARCH (TAG "4") COUNT 0
            A< 4 OK <*>
            A> 5 SEARCH RETURN (SAVE) UNSEEN
            A< 5 OK <*>
            A> 6 FETCH $ UID
            A< * 2 FETCH (UID 2)
            A< * 3 FETCH (UID 3)
            A< * 4 FETCH (UID 4)
            A< 6 OK <*>
            A> 7 SEARCH $ FLAGGED
            A< * SEARCH 4
            A< 7 OK <*>
            A> 8 EXPUNGE
            A< * 3 EXPUNGE
            A< 8 OK <*>
            A> 9 UID SEARCH RETURN (SAVE MIN) UID $
            A< * ESEARCH (TAG "9") UID MIN 2
            A< 9 OK <*>
            A> 10 COPY $ Sent
            A< 10 OK [COPYUID <*> 2 1] <*>
            A> 11 SEARCH RETURN (SAVE) CHARSET x-klingon ALL
            A< 11 NO [BADCHARSET <*>
            A> 12 UID STORE $ +FLAGS (\Seen)
            A< 12 OK <*>
        "#,
        )
        .await;
}

#[tokio::test]
async fn an_address_is_found_however_it_was_written() {
    let site = Site::new().await;
    let account = site.account("ann").await;
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let body = "From: <joe (at home)@ (far) example.org>\r\nCc: team: max@example.org;\r\n\r\nx\r\n";
    site.append(&account, inbox, body.as_bytes(), SystemFlags::NONE, &[]).await;
    site.play(
        r#"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 SEARCH FROM joe@example.org
        A< * SEARCH 1
        A< 2 OK <*>
        A> 3 SEARCH FROM "at home"
        A< * SEARCH 1
        A< 3 OK <*>
        A> 4 SEARCH CC MAX@example.org NOT TO max BCC ""
        A< * SEARCH
        A< 4 OK <*>
        A> 5 SEARCH CC MAX@example.org
        A< * SEARCH 1
        A< 5 OK <*>
        -- HEADER asks for the field as it stands
        A> 6 SEARCH HEADER From joe@example.org
        A< * SEARCH
        A< 6 OK <*>
        "#,
    )
    .await;
}
