//! APPEND and COPY at another home whose answer is lost, or that is lost before it came: the session finds out which.

use crate::harness::{Client, Site};
use rookery_types::NodeId;

const ANNS: &str = "\"Other Users/ann\"";
const JOES: &str = "\"Other Users/joe\"";

/// Ann's INBOX has three messages and joe's two; each may do anything with the other's.
async fn shared() -> Site {
    let site = Site::new().await;
    site.fill("s..").await;
    for (one, other) in [("ann", "joe"), ("joe", "ann")] {
        let mut client = site.login(one).await;
        let granted = client.command(&format!("1 SETACL INBOX {other} lrswipkxte")).await;
        assert!(granted[0].starts_with("1 OK"), "{granted:?}");
        if one == "joe" {
            assert!(client.command("2 APPEND INBOX {3+}\\nabc {3+}\\ndef").await[0].starts_with("2 OK"));
        }
    }
    site.settled().await;
    site
}

fn homes(site: &Site) -> (NodeId, NodeId) {
    (site.services.store.node(), site.front.as_ref().unwrap().store.node())
}

async fn messages(client: &mut Client, name: &str) -> String {
    let status = client.command(&format!("s STATUS {name} (MESSAGES)")).await;
    status[0].split_once("(MESSAGES ").expect(&status[0]).1.trim_end_matches(')').to_string()
}

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for() {
    let site = shared().await;
    let (anns, joes) = homes(&site);
    for (who, home, theirs, before, own) in [("joe", anns, ANNS, 3, "1:2"), ("ann", joes, JOES, 2, "1:3")] {
        let copied = own.rsplit_once(':').unwrap().1.parse::<u32>().unwrap();
        let mut client = site.login(who).await;
        client.command("1 SELECT INBOX").await;
        site.links.cut_before(home, "APPENDUID");
        let heard = client.command(&format!("2 APPEND {theirs} {{3+}}\\nabc {{3+}}\\ndef")).await;
        let (from, to) = (before + 1, before + 2);
        let wanted = format!(" {from}:{to}] APPEND completed");
        assert!(heard[0].starts_with("2 OK [APPENDUID ") && heard[0].ends_with(&wanted), "{heard:?}");
        site.links.cut.notified().await;
        assert_eq!(messages(&mut client, theirs).await, to.to_string());
        site.links.cut_before(home, "APPENDUID");
        // The guest of the STATUS is not cut.
        let mut client = site.login(who).await;
        client.command("1 SELECT INBOX").await;
        let heard = client.command(&format!("2 COPY {own} {theirs}")).await;
        let wanted = format!(" {own} {}:{}] COPY completed", to + 1, to + copied);
        assert!(heard[0].starts_with("2 OK [COPYUID ") && heard[0].ends_with(&wanted), "{heard:?}");
        site.links.cut.notified().await;
        assert_eq!(messages(&mut client, theirs).await, (to + copied).to_string());
        // The session goes on as before.
        assert!(client.command(&format!("3 APPEND {theirs} {{3+}}\\nabc")).await[0].starts_with("3 OK"));
    }
}

#[tokio::test]
async fn what_did_not_come_is_said_to_be_undone_and_never_comes() {
    let site = shared().await;
    let (anns, joes) = homes(&site);
    for (who, home, theirs, before) in [("joe", anns, ANNS, "3"), ("ann", joes, JOES, "2")] {
        for (n, command) in
            [format!("APPEND {theirs} {{5+}}\\nwhole"), format!("COPY 1 {theirs}")].iter().enumerate()
        {
            let mut client = site.login(who).await;
            client.command("1 SELECT INBOX").await;
            // The end of the command.
            site.links
                .cut_before(home, ["whole\r\n", if who == "joe" { "abc\r\n" } else { "body 0\r\n\r\n" }][n]);
            let heard = client.command(&format!("2 {command}")).await;
            assert!(heard[0].starts_with("2 NO [UNAVAILABLE] "), "{who} {command}: {heard:?}");
            site.links.cut.notified().await;
            assert_eq!(messages(&mut client, theirs).await, before);
        }
    }
}

#[tokio::test]
async fn a_home_that_comes_back_soon_is_asked_then() {
    let site = shared().await;
    let (anns, _) = homes(&site);
    let home = site.services.clone();
    let mut joe = site.login("joe").await;
    joe.command("1 SELECT INBOX").await;
    for (n, cut, wanted) in [(2, "APPENDUID", "2 OK [APPENDUID "), (3, "abc\r\n", "3 NO [UNAVAILABLE] ")] {
        site.links.go_away_before(anns, cut);
        joe.send(&format!("{n} APPEND {ANNS} {{3+}}\\nabc")).await;
        site.links.cut.notified().await;
        // It is asked once in vain.
        site.links.missed.notified().await;
        site.links.add(home.clone());
        let heard = joe.line().await;
        assert!(heard.starts_with(wanted), "{heard}");
        // So that the next one has a guest of its own, which is cut.
        joe = site.login("joe").await;
    }
    assert_eq!(messages(&mut joe, ANNS).await, "4");
}

#[tokio::test]
async fn with_its_mailbox_selected_the_session_hears_the_answer_and_goes_on() {
    let site = shared().await;
    let (anns, _) = homes(&site);
    site.links.cut_before(anns, "APPENDUID");
    let mut joe = site.login("joe").await;
    joe.command(&format!("1 SELECT {ANNS}")).await;
    joe.send(&format!("2 APPEND {ANNS} {{3+}}\\nabc")).await;
    let heard = joe.until("2 ").await;
    assert!(heard.last().unwrap().starts_with("2 OK [APPENDUID "), "{heard:?}");
    let told = joe.command("3 NOOP").await;
    assert_eq!((&*told[0], &**told.last().unwrap()), ("* 4 EXISTS", "3 OK NOOP completed"), "{told:?}");
    assert!(joe.command("4 FETCH 4 BODY[]").await.last().unwrap().starts_with("4 OK"));
}

#[tokio::test]
async fn a_home_lost_before_all_was_sent_has_nothing() {
    let site = shared().await;
    let (anns, _) = homes(&site);
    let mut joe = site.login("joe").await;
    site.links.cut_before(anns, "!");
    // More than waits anywhere on the way, and more messages behind it.
    let large = format!("!{}", "x".repeat(2_000_000));
    let command = format!("1 APPEND {ANNS} {{{}+}}\\n{large} {{3+}}\\nabc", large.len());
    let heard = joe.command(&command).await;
    assert!(heard[0].starts_with("1 NO [UNAVAILABLE] "), "{heard:?}");
    assert!(joe.command("2 NOOP").await[0].starts_with("2 OK"));
    assert_eq!(messages(&mut joe, ANNS).await, "3");
}
