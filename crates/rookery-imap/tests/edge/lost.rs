//! Sessions whose home is lost, and comes back.

use crate::harness::{Client, Site};
use rookery_types::{MailboxPath, SystemFlags, UidSet};
use std::time::Duration;
use tokio::time::Instant;

const AWAY: &str = "NO [UNAVAILABLE]";

async fn refused(client: &mut Client, number: u32, command: &str) {
    let began = Instant::now();
    let lines = client.command(&format!("{number} {command}")).await;
    assert!(lines.last().unwrap().starts_with(&format!("{number} {AWAY}")), "{command}: {lines:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "{command}");
}

async fn done(client: &mut Client, number: u32, command: &str) -> Vec<String> {
    let lines = client.command(&format!("{number} {command}")).await;
    assert!(lines.last().unwrap().starts_with(&format!("{number} OK")), "{command}: {lines:?}");
    lines
}

/// Somebody who has logged in, compressed or not.
async fn entered(site: &Site, compressed: bool) -> Client {
    let mut client = site.login("ann").await;
    if compressed {
        done(&mut client, 0, "COMPRESS DEFLATE").await;
        client.deflate();
    }
    client
}

/// Sends a part of a command, or several.
async fn part(client: &mut Client, octets: &[u8]) {
    let octets = client.packed(octets);
    client.send_octets(&octets).await;
}

/// Until it is done; all that was said meanwhile.
async fn recovered(client: &mut Client, command: &str) -> Vec<String> {
    let began = Instant::now();
    let mut said = Vec::new();
    for number in 0.. {
        let lines = client.command(&format!("r{number} {command}")).await;
        let last = lines.last().unwrap().clone();
        said.extend(lines);
        if last.starts_with(&format!("r{number} OK")) {
            break;
        }
        assert!(last.starts_with(&format!("r{number} {AWAY}")), "{last}");
        assert!(began.elapsed() < Duration::from_secs(20), "not recovered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    said.retain(|line| line.starts_with("* "));
    said
}

#[tokio::test]
async fn without_its_home_a_session_goes_on_with_what_is_elsewhere() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    done(&mut client, 1, "NOOP").await;
    site.links.lose(site.services.store.node());
    done(&mut client, 2, "NOOP").await;
    for command in [
        "SELECT INBOX",
        "STATUS Sent (MESSAGES)",
        "LIST \"\" *",
        "LSUB \"\" *",
        "SUBSCRIBE Sent",
        "CREATE new",
        "APPEND INBOX {5}",
        "GETQUOTAROOT INBOX",
        "SETACL INBOX joe lr",
        "NOTIFY SET (personal (MessageNew MessageExpunge))",
    ] {
        refused(&mut client, 3, command).await;
    }
    // Others find the edge as it was.
    let mut other = site.connect().await;
    let answer = other.command("1 LOGIN ann secret").await;
    assert!(answer.last().unwrap().starts_with("1 NO [UNAVAILABLE]"), "{answer:?}");
    done(&mut client, 4, "NAMESPACE").await;
    // That is between the client and the edge.
    done(&mut client, 5, "COMPRESS DEFLATE").await;
    client.deflate();
    site.links.add(site.services.clone());
    recovered(&mut client, "SELECT INBOX").await;
    recovered(&mut client, "LIST \"\" *").await;
    done(&mut client, 5, "LIST \"\" *").await;
    assert_eq!(
        client.command("5 COMPRESS DEFLATE").await,
        ["5 NO [COMPRESSIONACTIVE] DEFLATE is active already"]
    );
    // And once more.
    site.links.lose(site.services.store.node());
    refused(&mut client, 6, "FETCH 1:* FLAGS").await;
    done(&mut client, 7, "UNSELECT").await;
    site.links.add(site.services.clone());
    recovered(&mut client, "STATUS INBOX (MESSAGES)").await;
    assert_eq!(client.command("8 FETCH 1 FLAGS").await, ["8 BAD No mailbox is selected"]);
}

#[tokio::test]
async fn what_has_changed_meanwhile_is_told_when_the_home_is_back() {
    for compressed in [false, true] {
        changed_meanwhile(compressed).await;
    }
}

async fn changed_meanwhile(compressed: bool) {
    let site = Site::new().await;
    site.fill("s....").await;
    let mut client = entered(&site, compressed).await;
    let mut other = entered(&site, compressed).await;
    done(&mut client, 1, "SELECT INBOX").await;
    done(&mut client, 2, "STORE 2 +FLAGS.SILENT (\\Deleted)").await;
    done(&mut client, 3, "EXPUNGE").await;
    done(&mut other, 1, "SELECT INBOX").await;
    other.send("4 IDLE").await;
    assert_eq!(other.line().await, "+ idling");
    let account = site.account("ann").await;
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    site.links.lose(site.services.store.node());
    refused(&mut client, 4, "FETCH 1:* FLAGS").await;
    refused(&mut client, 5, "NOOP").await;
    refused(&mut client, 6, "CLOSE").await;
    refused(&mut client, 7, "IDLE").await;
    let mailbox = account.open(inbox).await.unwrap();
    mailbox.remove(&UidSet::from_iter([rookery_types::Uid::new(4).unwrap()])).await.unwrap();
    let body = b"Subject: new\r\n\r\nnew\r\n";
    site.append(&account, inbox, body, SystemFlags::FLAGGED, &["$new"]).await;
    site.links.add(site.services.clone());
    // Four are left of the five that there were: 1, 3, 4 and 5.
    let told = recovered(&mut client, "NOOP").await;
    assert_eq!(told[0], "* 3 EXPUNGE", "{told:?}");
    assert_eq!(told[1], "* 4 EXISTS", "{told:?}");
    let found = done(&mut client, 8, "UID SEARCH ALL").await;
    assert_eq!(found[0], "* SEARCH 1 3 5 6");
    done(&mut client, 9, "STORE 4 +FLAGS (\\Answered)").await;
    assert_eq!(other.line().await, "* 3 EXPUNGE");
    assert_eq!(other.line().await, "* 4 EXISTS");
    other.send("DONE").await;
    assert!(other.until("4 ").await.last().unwrap().starts_with("4 OK"));
    done(&mut other, 5, "FETCH 4 BODY.PEEK[]").await;
}

#[tokio::test]
async fn a_command_under_way_is_answered_as_far_as_it_is_known() {
    for compressed in [false, true] {
        under_way(compressed).await;
    }
}

async fn under_way(compressed: bool) {
    let site = Site::new().await;
    site.fill("...").await;
    let mut client = entered(&site, compressed).await;
    let mut sending = entered(&site, compressed).await;
    let mut idling = entered(&site, compressed).await;
    done(&mut client, 1, "SELECT INBOX").await;
    idling.send("1 IDLE").await;
    assert_eq!(idling.line().await, "+ idling");
    sending.send("1 APPEND INBOX {10}").await;
    assert_eq!(sending.line().await, "+ OK");
    part(&mut sending, b"123").await;
    // A change that waits for the account.
    let account = site.account("ann").await;
    let frozen = account.freeze(Duration::from_secs(5)).await.unwrap().unwrap();
    part(&mut client, b"2 STORE 1 +FLAGS (\\Seen)\r\n3 SELECT Sent\r\n4 NO").await;
    tokio::time::timeout(Duration::from_millis(300), client.next_line()).await.unwrap_err();
    site.links.lose(site.services.store.node());
    let unknown = "NO [UNAVAILABLE] The server of that mailbox is lost; whether this was done is not known";
    assert_eq!(client.line().await, format!("2 {unknown}"));
    assert_eq!(client.line().await, format!("3 {unknown}"));
    part(&mut client, b"OP\r\n").await;
    assert!(client.line().await.starts_with("4 NO [UNAVAILABLE]"));
    part(&mut sending, b"4567890\r\n2 NOOP\r\n").await;
    assert_eq!(sending.line().await, format!("1 {unknown}"));
    assert_eq!(sending.line().await, "2 OK NOOP completed");
    part(&mut idling, b"DONE\r\n2 NOOP\r\n").await;
    assert_eq!(idling.line().await, "1 OK IDLE completed");
    assert_eq!(idling.line().await, "2 OK NOOP completed");
    drop(frozen);
    site.links.add(site.services.clone());
    recovered(&mut client, "FETCH 1 FLAGS").await;
    recovered(&mut sending, "APPEND INBOX {5+}\\nagain").await;
}

#[tokio::test]
async fn a_mailbox_that_is_not_the_same_any_more_ends_the_session() {
    let site = Site::new().await;
    site.fill("..").await;
    let mut client = site.login("ann").await;
    done(&mut client, 1, "CREATE box").await;
    done(&mut client, 2, "APPEND box {5+}\\nmail1").await;
    done(&mut client, 3, "SELECT box").await;
    let account = site.account("ann").await;
    site.links.lose(site.services.store.node());
    let id = account.tree().get(&MailboxPath::new("box").unwrap()).unwrap();
    account.delete(id).await.unwrap();
    site.links.add(site.services.clone());
    let said = loop {
        let said = client.command("4 NOOP").await;
        if !said.last().unwrap().starts_with("4 NO [UNAVAILABLE]") {
            break said;
        }
    };
    assert!(said.last().unwrap().starts_with("* BYE [UNAVAILABLE]"), "{said:?}");
    assert_eq!(client.next_line().await, None);
}
