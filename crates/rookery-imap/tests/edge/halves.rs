//! What only sessions in two halves have: ends of either half.

use crate::harness::Site;
use rookery_directory::Home;
use rookery_imap::ImapConfig;
use rookery_types::{AccountName, Epoch, NodeId, UserName};

#[tokio::test]
async fn a_client_that_logs_out_of_its_home_logs_in_to_it_again() {
    let site = Site::new().await;
    let mut client = site.connect().await;
    // Pipelined: what stands behind UNAUTHENTICATE comes back from the home.
    client
        .send_octets(
            b"1 LOGIN ann secret\r\n2 UNAUTHENTICATE\r\n3 LOGIN joe secret\r\n4 CREATE mine\r\n5 LIST \"\" *\r\n",
        )
        .await;
    assert!(client.until("3 OK").await.iter().any(|line| line.starts_with("2 OK")));
    let listed = client.until("5 OK").await;
    assert!(listed.iter().any(|line| line.ends_with(" mine")), "{listed:?}");
    // The edge's own session again, with the edge's own limits.
    client.command("6 UNAUTHENTICATE").await;
    assert_eq!(client.command("7 NOOP").await.last().unwrap(), "7 OK NOOP completed");
    assert_eq!(client.command("8 SELECT INBOX").await.last().unwrap(), "8 BAD Log in first");
}

#[tokio::test]
async fn a_home_that_cannot_be_reached_is_no_wrong_password() {
    let site = Site::new().await;
    let ann = AccountName::User(UserName::parse("ann", "example.org").unwrap());
    let entry = site.services.directory.look_up(&ann).await.unwrap();
    let nowhere = Home { node: NodeId(9), epoch: Epoch(2), ..entry.home };
    site.services.directory.set_home(entry.id, entry.home, nowhere).await.unwrap();
    let mut client = site.connect().await;
    let answer = client.command("1 LOGIN ann secret").await;
    assert_eq!(answer.last().unwrap(), "1 NO [UNAVAILABLE] Your mailboxes cannot be reached at the moment");
    let answer = client.command("2 LOGIN ann wrong").await;
    assert!(answer.last().unwrap().starts_with("2 NO [AUTHENTICATIONFAILED]"), "{answer:?}");
}

#[tokio::test]
async fn an_edge_that_ends_lets_the_home_say_good_bye() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    client.command("1 NOOP").await;
    let idling = {
        let mut client = site.login("ann").await;
        client.send("1 IDLE").await;
        assert_eq!(client.line().await, "+ idling");
        client
    };
    site.drain.start();
    for mut client in [client, idling] {
        assert_eq!(client.line().await, "* BYE [UNAVAILABLE] The server is ending");
        assert_eq!(client.next_line().await, None);
    }
}

#[tokio::test]
async fn a_home_that_refuses_leaves_the_client_at_its_edge() {
    let site = Site::with(ImapConfig { sessions_per_account_max: 1, ..ImapConfig::default() }).await;
    let _first = site.login("ann").await;
    let mut second = site.connect().await;
    let answer = second.command("1 LOGIN ann secret").await;
    assert!(answer.last().unwrap().starts_with("1 NO [LIMIT]"), "{answer:?}");
    let answer = second.command("2 LOGIN joe secret").await;
    assert!(answer.last().unwrap().starts_with("2 OK [CAPABILITY "), "{answer:?}");
}
