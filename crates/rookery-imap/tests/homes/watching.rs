//! NOTIFY about mailboxes of other homes, one of which is lost.

use crate::harness::{Client, Site};
use rookery_types::{MailboxPath, SystemFlags};

const WATCH: &str = r#"NOTIFY SET (MAILBOXES (INBOX) (MessageNew MessageExpunge)) (SUBTREE ("Other Users") (MessageNew MessageExpunge MailboxName))"#;

/// Ann's INBOX has three messages; joe may do anything with it, and with Sent.
async fn shared() -> Site {
    let site = Site::new().await;
    site.fill("s..").await;
    let mut ann = site.login("ann").await;
    for mailbox in ["INBOX", "Sent"] {
        assert!(ann.command(&format!("1 SETACL {mailbox} joe lrswipkxte")).await[0].starts_with("1 OK"));
    }
    site.settled().await;
    site
}

async fn done(client: &mut Client, command: &str) -> Vec<String> {
    let heard = client.command(command).await;
    let (tag, _) = command.split_once(' ').unwrap();
    assert!(heard.last().unwrap().starts_with(&format!("{tag} OK")), "{command}: {heard:?}");
    heard
}

/// Hears lines until each of these was begun with.
async fn hears(client: &mut Client, wanted: &[&str]) {
    let mut left = wanted.to_vec();
    while !left.is_empty() {
        let line = client.line().await;
        assert!(line.starts_with("* ") && !line.contains("OVERFLOW") && !line.contains("BYE"), "{line}");
        left.retain(|start| !line.starts_with(start));
    }
}

/// Something happens at a home that nobody reaches: one message more in INBOX, and one in Sent or no Sent any more.
async fn happens(site: &Site, is_deleted: bool) {
    site.fill(".").await;
    let ann = site.account("ann").await;
    let sent = ann.tree().get(&MailboxPath::new("Sent").unwrap()).unwrap();
    match is_deleted {
        true => ann.delete(sent).await.unwrap(),
        false => site.append(&ann, sent, b"a: b\r\n\r\n", SystemFlags::NONE, &[]).await,
    }
}

#[tokio::test]
async fn what_happens_at_a_home_that_is_lost_is_told_when_it_is_back() {
    for (idles, ends) in [(false, false), (true, false), (false, true), (true, true)] {
        let site = shared().await;
        let (home, node) = (site.services.clone(), site.services.store.node());
        let (mut joe, mut other) = (site.login("joe").await, site.login("joe").await);
        done(&mut joe, &format!("1 {WATCH}")).await;
        if idles {
            joe.send("2 IDLE").await;
            assert_eq!(joe.line().await, "+ idling");
        }
        match ends {
            true => site.links.end(node),
            false => site.links.lose(node),
        }
        // What is at other homes is told meanwhile.
        done(&mut other, "1 APPEND INBOX {3+}\\nabc").await;
        hears(&mut joe, &["* STATUS INBOX (MESSAGES 1 "]).await;
        happens(&site, true).await;
        // It was looked for in vain.
        site.links.missed.notified().await;
        site.links.add(home);
        let told = [r#"* STATUS "Other Users/ann" (MESSAGES 4 "#, r"* LIST (\NonExistent"];
        hears(&mut joe, &told).await;
        site.fill(".").await;
        hears(&mut joe, &[r#"* STATUS "Other Users/ann" (MESSAGES 5 "#]).await;
        done(&mut other, "2 APPEND INBOX {3+}\\nabc").await;
        hears(&mut joe, &["* STATUS INBOX (MESSAGES 2 "]).await;
        if idles {
            joe.send("DONE").await;
            assert_eq!(joe.line().await, "2 OK IDLE completed");
        }
        assert_eq!(joe.command("3 NOOP").await, ["3 OK NOOP completed"]);
    }
}

#[tokio::test]
async fn the_mailbox_that_is_selected_there_is_told_of_with_the_others() {
    for ends in [false, true] {
        let site = shared().await;
        let (home, node) = (site.services.clone(), site.services.store.node());
        let mut joe = site.login("joe").await;
        let watch = WATCH.replace("SET ", "SET (SELECTED (MessageNew MessageExpunge)) ");
        done(&mut joe, &format!("1 {watch}")).await;
        done(&mut joe, r#"2 SELECT "Other Users/ann""#).await;
        joe.send("3 IDLE").await;
        assert_eq!(joe.line().await, "+ idling");
        match ends {
            true => site.links.end(node),
            false => site.links.lose(node),
        }
        happens(&site, false).await;
        site.links.missed.notified().await;
        site.links.add(home);
        hears(&mut joe, &["* 4 EXISTS", r#"* STATUS "Other Users/ann/Sent" (MESSAGES 1 "#]).await;
        happens(&site, false).await;
        hears(&mut joe, &["* 5 EXISTS", r#"* STATUS "Other Users/ann/Sent" (MESSAGES 2 "#]).await;
        joe.send("DONE").await;
        assert!(joe.until("3 ").await.last().unwrap().starts_with("3 OK"));
    }
}

#[tokio::test]
async fn who_asks_anew_while_a_home_is_lost_hears_that_it_is() {
    let site = shared().await;
    let (home, node) = (site.services.clone(), site.services.store.node());
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut joe = site.login("joe").await;
        done(&mut joe, &format!("1 {WATCH}")).await;
        clients.push(joe);
    }
    site.links.lose(node);
    let [refused, none, selecting] = &mut clients[..] else { panic!() };
    let heard = refused.command(&format!("2 {WATCH}")).await;
    assert!(heard.last().unwrap().starts_with("2 NO [UNAVAILABLE]"), "{heard:?}");
    done(none, "2 NOTIFY NONE").await;
    let heard = selecting.command(r#"2 SELECT "Other Users/ann""#).await;
    assert!(heard.last().unwrap().starts_with("2 NO [UNAVAILABLE]"), "{heard:?}");
    happens(&site, false).await;
    site.links.add(home);
    for client in [refused, none] {
        assert_eq!(client.command("3 NOOP").await, ["3 OK NOOP completed"]);
    }
    // Nothing is missed by whoever selects something there before it was looked for.
    let heard = done(selecting, r#"3 SELECT "Other Users/ann""#).await;
    assert!(heard.iter().any(|line| line == "* 4 EXISTS"), "{heard:?}");
    selecting.send("4 NOOP").await;
    let told = [heard, selecting.until("4 ").await].concat();
    let sent = r#"* STATUS "Other Users/ann/Sent" (MESSAGES 1 "#;
    assert!(told.iter().any(|line| line.starts_with(sent)), "{told:?}");
}
