//! Administration over IMAP: accounts by CREATE, DELETE and RENAME, rights everywhere, mail nowhere.

use crate::harness::Site;

#[tokio::test]
async fn accounts_are_made_renamed_and_deleted() {
    let site = Site::new().await;
    site.play(
        r#"
        R> 1 NAMESPACE
        R< * NAMESPACE (("INBOX/" "/")) (("user/" "/")) (("" "/"))
        R< 1 OK <*>
        R> 2 CREATE user/eve
        R< 2 OK [MAILBOXID (<*>)] <*>
        R> 3 CREATE user/eve
        R< 3 NO [ALREADYEXISTS] <*>
        R> 4 CREATE user/eve/Letters
        R< 4 OK <*>
        R> 5 CREATE user/nobody/Letters
        R< 5 NO [NONEXISTENT] <*>
        R> 6 LIST "" "user/eve*"
        R< * LIST (\HasChildren) "/" user/eve
        R< * LIST (\HasNoChildren) "/" user/eve/Letters
        R< 6 OK <*>
        R> 7 CREATE user/eve@b.test
        R< 7 OK <*>
        R> 8 LIST "" "user/eve%"
        R< * LIST (\HasChildren) "/" user/eve
        R< * LIST (\HasNoChildren) "/" user/eve@b.test
        R< 8 OK <*>
        R> 9 LIST "" %
        R< * LIST (\NonExistent \Noselect \HasChildren) "/" user
        R< 9 OK <*>
        R> 10 RENAME user/eve user/ann
        R< 10 NO [ALREADYEXISTS] <*>
        R> 11 RENAME user/eve user/eva
        R< 11 OK <*>
        R> 12 LIST "" "user/ev*"
        R< * LIST (\HasChildren) "/" user/eva
        R< * LIST (\HasNoChildren) "/" user/eva/Letters
        R< * LIST (\HasNoChildren) "/" user/eve@b.test
        R< 12 OK <*>
        R> 13 GETACL user/eva/Letters
        R< * ACL user/eva/Letters eva lrswipkxteancd
        R< 13 OK <*>
        R> 14 RENAME user/eva user/eva@b.test
        R< 14 NO [CANNOT] <*>
        R> 15 RENAME user/eva team
        R< 15 NO [CANNOT] <*>
        R> 16 DELETE user/eva
        R< 16 OK <*>
        R> 17 LIST "" "user/eva*"
        R< 17 OK <*>
        R> 18 CREATE user/eva
        R< 18 OK <*>
        R> 19 CREATE user
        R< 19 NO [CANNOT] <*>
        R> 20 SELECT INBOX
        R< 20 NO [NONEXISTENT] <*>
        R> 21 SUBSCRIBE user/eva
        R< 21 NO [CANNOT] <*>
        R> 22 LSUB "" *
        R< 22 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn shared_mailboxes_are_made_for_everyone_to_read() {
    let site = Site::new().await;
    site.play(
        r#"
        R> 1 CREATE team
        R< 1 OK <*>
        R> 2 GETACL team
        R< * ACL team anyone lrs
        R< 2 OK <*>
        R> 3 CREATE team/sub
        R< 3 OK <*>
        R> 4 CREATE made/below
        R< 4 OK <*>
        R> 5 LIST "" "%/%"
        R< * LIST (\HasNoChildren) "/" made/below
        R< * LIST (\HasNoChildren) "/" team/sub
        R< * LIST (\HasChildren) "/" user/ann
        R< * LIST (\HasChildren) "/" user/joe
        R< * LIST (\HasChildren) "/" user/max
        R< 5 OK <*>
        R> 6 DELETE team
        R< 6 NO [HASCHILDREN] <*>
        R> 7 RENAME team crew
        R< 7 OK <*>
        R> 8 DELETE crew/sub
        R< 8 OK <*>
        J> 1 SELECT Shared/crew
        J< ...
        J< 1 OK [READ-WRITE] <*>
        J> 2 DELETE Shared/crew
        J< 2 NO [NOPERM] <*>
        J> 3 CREATE Shared/mine
        J< 3 NO [NOPERM] <*>
        R> 9 DELETE crew
        R< 9 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn administrators_set_rights_and_read_no_mail() {
    let site = Site::new().await;
    site.fill(".").await;
    site.play(
        r#"
        R> 1 SELECT user/ann
        R< 1 NO [NOPERM] <*>
        R> 2 STATUS user/ann (MESSAGES)
        R< 2 NO [NOPERM] <*>
        R> 3 MYRIGHTS user/ann
        R< * MYRIGHTS user/ann lkxac
        R< 3 OK <*>
        R> 4 SETACL user/ann ann ""
        R< 4 OK <*>
        R> 5 SETACL user/ann root lr
        R< 5 OK <*>
        R> 6 EXAMINE user/ann
        R< ...
        R< 6 OK <*>
        R> 7 FETCH 1 (BODY.PEEK[HEADER.FIELDS (SUBJECT)])
        R< ...
        R< 7 OK <*>
        R> 8 SETACL user/ann root ""
        R< 8 OK <*>
        R> 9 SELECT user/ann
        R< * OK [CLOSED] <*>
        R< 9 NO [NOPERM] <*>
        A> 1 GETACL INBOX
        A< * ACL INBOX
        A< 1 OK <*>
        A> 2 MYRIGHTS INBOX
        A< * MYRIGHTS INBOX lrswipkxteancd
        A< 2 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn whoever_is_deleted_or_renamed_hears_bye() {
    let site = Site::new().await;
    let mut ann = site.login("ann").await;
    let mut joe = site.login("joe").await;
    let mut root = site.login("root").await;
    assert!(root.command("1 DELETE user/ann").await[0].starts_with("1 OK"));
    assert!(root.command("2 RENAME user/joe user/john").await[0].starts_with("2 OK"));
    for client in [&mut ann, &mut joe] {
        let heard = client.command("1 NOOP").await;
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert!(heard[0].starts_with("* BYE [NONEXISTENT] "), "{heard:?}");
    }
}

#[tokio::test]
async fn an_administrator_acts_as_a_user_and_is_one_then() {
    use base64::Engine as _;
    let site = Site::new().await;
    let plain = |authzid: &str, authcid: &str| {
        let text = format!("{authzid}\0{authcid}\0secret");
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let mut client = site.connect().await;
    let heard = client.command(&format!("1 AUTHENTICATE PLAIN {}", plain("joe", "root"))).await;
    assert!(heard[0].starts_with("1 OK"), "{heard:?}");
    let heard = client.command("2 NAMESPACE").await;
    assert_eq!(heard[0], r#"* NAMESPACE (("" "/")) (("Other Users/" "/")) (("Shared/" "/"))"#);
    let heard = client.command("3 CREATE user/x").await;
    assert!(heard[0].starts_with("3 NO"), "{heard:?}");
    let mut client = site.connect().await;
    let heard = client.command(&format!("1 AUTHENTICATE PLAIN {}", plain("joe", "ann"))).await;
    assert!(heard[0].starts_with("1 NO [AUTHORIZATIONFAILED] "), "{heard:?}");
}

#[tokio::test]
async fn a_closed_account_loses_its_sessions() {
    let site = Site::new().await;
    let (mut waiting, mut idling, mut watching) =
        (site.login("ann").await, site.login("ann").await, site.login("ann").await);
    idling.send("1 IDLE").await;
    assert_eq!(idling.line().await, "+ idling");
    watching.command("1 NOTIFY SET (personal (MessageNew MessageExpunge))").await;
    watching.send("2 IDLE").await;
    assert_eq!(watching.line().await, "+ idling");
    let mut other = site.login("joe").await;
    let ann = site.account("ann").await.id();
    site.services.sessions.close(ann);
    for client in [&mut waiting, &mut idling, &mut watching] {
        assert_eq!(client.line().await, "* BYE [UNAVAILABLE] The account was closed");
        assert_eq!(client.next_line().await, None);
    }
    assert!(other.command("1 NOOP").await[0].starts_with("1 OK"));
    // A login whose password was being checked meanwhile.
    let mut late = site.connect().await;
    assert!(late.command("1 LOGIN ann secret").await[0].starts_with("1 NO [AUTHORIZATIONFAILED]"));
    site.services.sessions.open(ann);
    site.login("ann").await;
}

#[tokio::test]
async fn an_administrator_of_a_domain_administers_it() {
    let site = Site::new().await;
    let mut root = site.login("root").await;
    assert!(root.command("1 CREATE user/eve@b.test").await[0].starts_with("1 OK"));
    site.play(
        r#"
        D> 1 CREATE user/new
        D< 1 OK <*>
        D> 2 CREATE team
        D< 2 OK <*>
        D> 3 LIST "" %
        D< * LIST (\HasNoChildren) "/" team
        D< * LIST (\NonExistent \Noselect \HasChildren) "/" user
        D< 3 OK <*>
        D> 4 SETACL user/eve adm lr
        D< 4 OK <*>
        D> 5 GETACL user/eve
        D< * ACL user/eve eve lrswipkxteancd adm lr
        D< 5 OK <*>
        D> 6 SETACL user/eve ann@example.org lr
        D< 6 NO [CANNOT] <*>
        D> 7 SETQUOTA user/eve (STORAGE 100)
        D< * QUOTA user/eve (STORAGE 0 100)
        D< 7 OK <*>
        D> 8 RENAME user/new user/newer
        D< 8 OK <*>
        D> 9 DELETE user/newer
        D< 9 OK <*>
        E> 1 LIST "" "Shared/%"
        E< * LIST (\HasNoChildren) "/" Shared/team
        E< 1 OK <*>
        R> 1 LIST "" "*@b.test"
        R< * LIST (\HasNoChildren) "/" team@b.test
        R< * LIST (\HasNoChildren) "/" user/eve@b.test
        R< 1 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn accounts_are_sent_to_other_nodes() {
    let site = Site::new().await;
    site.play(
        r#"
        R> 1 XFER user/ann far.example
        R< 1 OK The account is at home there now
        R> 2 xfer "user/ann" "far.example" default
        R< 2 OK The account is at home there now
        R> 3 RENAME user/ann user/ann far.example!default
        R< 3 OK The account is at home there now
        R> 4 RENAME user/ann user/ann near.example
        R< 4 OK The account is at home there already
        R> 5 CREATE team
        R< 5 OK <*>
        R> 6 XFER team far.example:1143
        R< 6 OK The account is at home there now
        R> 7 XFER user/ann be9
        R< 7 NO [CANNOT] There is no node be9
        R> 8 XFER user/ann busy.example
        R< 8 NO [INUSE] user/ann@example.org is on its way
        R> 9 XFER user/ann away.example
        R< 9 NO [UNAVAILABLE] user/ann@example.org stays where it is
        R> 10 XFER user/nobody far.example
        R< 10 NO [NONEXISTENT] <*>
        -- Less than an account goes nowhere.
        R> 11 XFER user/ann/Sent far.example
        R< 11 NO [CANNOT] A mailbox is kept where its account is; move the account
        R> 12 RENAME team/x team/x far.example
        R< 12 NO [CANNOT] <*>
        R> 13 RENAME user/ann user/anna far.example
        R< 13 NO [CANNOT] <*>
        R> 14 RENAME user/ann user/ann
        R< 14 OK <*>
        R> 15 XFER
        R< 15 BAD <*>
        R> 16 XFER "" far.example
        R< 16 NO <*>
        -- Whoever does not run the nodes hears nothing of them.
        J> 1 XFER INBOX far.example
        J< 1 NO [NOPERM] <*>
        J> 2 RENAME INBOX INBOX far.example
        J< 2 NO [NOPERM] <*>
        J> 3 RENAME INBOX Other far.example
        J< 3 NO [NOPERM] <*>
        J> 4 XFER "Other Users/nobody" be9
        J< 4 NO [NOPERM] <*>
        D> 1 XFER user/eve far.example
        D< 1 NO [NOPERM] <*>
        "#,
    )
    .await;
}
