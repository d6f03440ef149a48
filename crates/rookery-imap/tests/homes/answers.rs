//! APPEND, COPY, MOVE and REPLACE at another home whose answer is lost, or that is lost before it came: the session finds out which.

use crate::harness::{Client, Site};
use rookery_store::NewMessage;
use rookery_types::{InternalDate, MailboxPath, NodeId, SystemFlags};

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

async fn messages_of(client: &mut Client, name: &str) -> String {
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
        assert_eq!(messages_of(&mut client, theirs).await, to.to_string());
        site.links.cut_before(home, "APPENDUID");
        // The guest of the STATUS is not cut.
        let mut client = site.login(who).await;
        client.command("1 SELECT INBOX").await;
        let heard = client.command(&format!("2 COPY {own} {theirs}")).await;
        let wanted = format!(" {own} {}:{}] COPY completed", to + 1, to + copied);
        assert!(heard[0].starts_with("2 OK [COPYUID ") && heard[0].ends_with(&wanted), "{heard:?}");
        site.links.cut.notified().await;
        assert_eq!(messages_of(&mut client, theirs).await, (to + copied).to_string());
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
            assert_eq!(messages_of(&mut client, theirs).await, before);
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
    assert_eq!(messages_of(&mut joe, ANNS).await, "4");
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
    assert_eq!(messages_of(&mut joe, ANNS).await, "3");
}

#[tokio::test]
async fn what_is_made_of_parts_is_asked_for_like_any_message() {
    let site = shared().await;
    let (anns, _) = homes(&site);
    for (cut, wanted, messages) in [
        ("APPENDUID", "2 OK [APPENDUID ", "5"),
        // The end of the command, the guest's wish for the message, and the question whether it wants any.
        ("abcdef\r\n", "2 NO [UNAVAILABLE] ", "5"),
        ("{6}\r\n", "2 NO [UNAVAILABLE] ", "5"),
        ("{1}\r\n", "2 NO [UNAVAILABLE] ", "5"),
    ] {
        let mut joe = site.login("joe").await;
        joe.command("1 SELECT INBOX").await;
        site.links.cut_before(anns, cut);
        let before = if cut.starts_with("APPENDUID") { "{3+}\\nxyz " } else { "" };
        let command = format!("2 APPEND {ANNS} {before}CATENATE (URL ;UID=1 TEXT {{3+}}\\ndef)");
        let heard = joe.command(&command).await;
        assert!(heard.len() == 1 && heard[0].starts_with(wanted), "{cut}: {heard:?}");
        site.links.cut.notified().await;
        assert_eq!(messages_of(&mut joe, ANNS).await, messages, "{cut}");
    }
}

/// Joe has Ann's INBOX selected, by a guest that is cut before this, and may do anything with her Work.
async fn selected_there(site: &Site, cut: &'static str, enable: &str) -> Client {
    let mut ann = site.login("ann").await;
    assert!(ann.command("1 CREATE Work").await[0].starts_with("1 OK"));
    assert!(ann.command("2 SETACL Work joe lrswipkxte").await[0].starts_with("2 OK"));
    site.settled().await;
    login_abroad(site, cut, enable).await
}

async fn login_abroad(site: &Site, cut: &'static str, enable: &str) -> Client {
    let mut joe = site.login("joe").await;
    if !enable.is_empty() {
        joe.command(&format!("0 {enable}")).await;
    }
    site.links.cut_before(homes(site).0, cut);
    let selected = joe.command(&format!("1 SELECT {ANNS}")).await;
    assert!(selected.last().unwrap().starts_with("1 OK"), "{selected:?}");
    joe
}

const WORK: &str = "\"Other Users/ann/Work\"";

#[tokio::test]
async fn a_copy_within_another_home_is_asked_for_and_done_once() {
    let site = shared().await;
    let (anns, _) = homes(&site);
    let mut joe = selected_there(&site, "COPYUID", "").await;
    let heard = joe.command(&format!("2 COPY 1,3 {WORK}")).await;
    let last = heard.last().unwrap();
    assert!(last.starts_with("2 OK [COPYUID ") && last.ends_with(" 1,3 1:2] COPY completed"), "{heard:?}");
    site.links.cut.notified().await;
    // The session goes on with what it had selected, by another guest.
    site.links.cut_before(anns, "UID COPY");
    assert_eq!(messages_of(&mut joe, WORK).await, "2");
    assert!(joe.command("3 FETCH 3 UID").await.last().unwrap().starts_with("3 OK"));
    // What did not come is undone, and never comes.
    let heard = joe.command(&format!("4 UID COPY 2 {WORK}")).await;
    assert!(heard.last().unwrap().starts_with("4 NO [UNAVAILABLE] That mailbox cannot"), "{heard:?}");
    site.links.cut.notified().await;
    assert_eq!(messages_of(&mut joe, WORK).await, "2");
    let heard = joe.command(&format!("5 UID COPY 2 {WORK}")).await;
    assert!(heard.last().unwrap().ends_with(" 2 3] COPY completed"), "{heard:?}");
}

#[tokio::test]
async fn a_replacement_at_another_home_is_asked_for_and_done_once() {
    let site = shared().await;
    let (anns, _) = homes(&site);
    let mut joe = selected_there(&site, "APPENDUID", "").await;
    joe.send(&format!("2 REPLACE 2 {WORK} CATENATE (TEXT {{3+}}\nabc URL ;UID=1)")).await;
    let heard = joe.until("2 ").await;
    let ready = heard.iter().filter(|line| line.starts_with("* OK [APPENDUID ")).count();
    assert_eq!((ready, &**heard.last().unwrap()), (1, "2 OK REPLACE completed"), "{heard:?}");
    site.links.cut.notified().await;
    site.links.cut_before(anns, "new\r\n");
    let told = joe.command("3 NOOP").await;
    assert_eq!(told, ["* 2 EXPUNGE", "3 OK NOOP completed"]);
    assert_eq!(
        (messages_of(&mut joe, WORK).await, messages_of(&mut joe, ANNS).await),
        ("1".into(), "2".into())
    );
    // What did not come is undone.
    joe.send(&format!("4 REPLACE 2 {WORK} {{3+}}\nnew")).await;
    let heard = joe.until("4 ").await;
    assert!(heard.last().unwrap().starts_with("4 NO [UNAVAILABLE] "), "{heard:?}");
    assert_eq!(
        (messages_of(&mut joe, WORK).await, messages_of(&mut joe, ANNS).await),
        ("1".into(), "2".into())
    );
}

/// A tree at ann's home.
const TEAM: &str = "Shared/team";

#[tokio::test]
async fn a_move_within_another_home_is_asked_for_and_done_once() {
    for (to, enable, gone) in [
        (WORK, "", "* 3 EXPUNGE * 1 EXPUNGE"),
        (TEAM, "", "* 3 EXPUNGE * 1 EXPUNGE"),
        (WORK, "ENABLE QRESYNC", "* VANISHED 1,3"),
        (TEAM, "ENABLE QRESYNC", "* VANISHED 1,3"),
    ] {
        let site = shared().await;
        site.add_shared("team", "joe", "lrswipkxte").await;
        let mut joe = selected_there(&site, "COPYUID", enable).await;
        let heard = joe.command(&format!("2 MOVE 1,3 {to}")).await;
        assert!(
            heard[0].starts_with("* OK [COPYUID ") && heard[0].ends_with(" 1,3 1:2] These moved"),
            "{heard:?}"
        );
        let (last, told) = heard[1..].split_last().unwrap();
        let told: Vec<&str> =
            told.iter().map(String::as_str).filter(|line| !line.ends_with("RECENT")).collect();
        let expunged = match told.join(" ") {
            // In whichever order.
            told if told == "* 1 EXPUNGE * 2 EXPUNGE" => "* 3 EXPUNGE * 1 EXPUNGE".to_string(),
            told => told,
        };
        assert_eq!(expunged, gone);
        let wanted = if enable.is_empty() { "2 OK MOVE completed" } else { "2 OK [HIGHESTMODSEQ " };
        assert!(last.starts_with(wanted), "{last}");
        site.links.cut.notified().await;
        let (left, come) = (messages_of(&mut joe, ANNS).await, messages_of(&mut joe, to).await);
        assert_eq!((&*left, &*come), ("1", "2"));
        // What did not come is undone, and never comes.
        let mut joe = login_abroad(&site, "MOVE", enable).await;
        let heard = joe.command(&format!("4 UID MOVE 2 {to}")).await;
        assert!(heard.last().unwrap().starts_with("4 NO [UNAVAILABLE] That mailbox cannot"), "{heard:?}");
        site.links.cut.notified().await;
        let (left, come) = (messages_of(&mut joe, ANNS).await, messages_of(&mut joe, to).await);
        assert_eq!((&*left, &*come), ("1", "2"));
        let heard = joe.command(&format!("5 UID MOVE 2 {to}")).await;
        assert!(heard[0].ends_with(" 2 3] These moved"), "{heard:?}");
        assert!(heard.last().unwrap().starts_with("5 OK "), "{heard:?}");
    }
}

#[tokio::test]
async fn a_home_that_comes_back_says_what_was_moved() {
    for (cut, wanted, left) in [("COPYUID", "2 OK MOVE completed", "1"), ("MOVE", "2 NO [UNAVAILABLE] ", "3")]
    {
        let site = shared().await;
        let (anns, _) = homes(&site);
        let home = site.services.clone();
        let mut joe = selected_there(&site, "nothing of the kind", "").await;
        drop(joe);
        joe = site.login("joe").await;
        site.links.go_away_before(anns, cut);
        joe.command(&format!("1 SELECT {ANNS}")).await;
        joe.send(&format!("2 MOVE 1,3 {WORK}")).await;
        site.links.cut.notified().await;
        site.links.missed.notified().await;
        site.links.add(home);
        let heard = joe.until("2 ").await;
        assert!(heard.last().unwrap().starts_with(wanted), "{heard:?}");
        assert_eq!(messages_of(&mut joe, ANNS).await, left);
    }
}

#[tokio::test]
async fn of_a_large_move_that_is_broken_off_the_client_hears_what_has_come() {
    let site = shared().await;
    let ann = site.account("ann").await;
    let inbox = ann.tree().get(&MailboxPath::inbox()).unwrap();
    let new = |_| {
        let mut spool = site.services.store.spool();
        spool.push(b"a: b\r\n\r\n").unwrap();
        let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1));
        NewMessage { body: spool.finish().unwrap(), flags, keywords: vec![], date }
    };
    ann.append(inbox, (0..4000).map(new).collect()).await.unwrap();
    drop(selected_there(&site, "nothing of the kind", "").await);
    let mut joe = site.login("joe").await;
    joe.command(&format!("1 SELECT {ANNS}")).await;
    let work = ann.tree().get(&MailboxPath::new("Work").unwrap()).unwrap();
    joe.send(&format!("2 MOVE 1:* {WORK}")).await;
    while ann.tree().state(work).unwrap().summary.exists == 0 {
        tokio::task::yield_now().await;
    }
    site.links.lose(homes(&site).0);
    site.links.add(site.services.clone());
    let heard = joe.until("2 ").await;
    let told = heard.iter().filter(|line| line.ends_with(" EXPUNGE")).count();
    // Steps more may have been taken before it was lost.
    assert!([1000, 2000, 3000].contains(&told), "{told}");
    assert!(heard[0].ends_with(&format!(" 1:{told} 1:{told}] These moved")), "{}", heard[0]);
    assert!(heard.last().unwrap().starts_with("2 NO [UNAVAILABLE] "), "{:?}", heard.last());
    assert_eq!(messages_of(&mut joe, WORK).await, told.to_string());
    assert_eq!(messages_of(&mut joe, ANNS).await, (4003 - told).to_string());
}

#[tokio::test]
async fn a_replacement_by_a_message_of_another_account_is_asked_for_and_done_once() {
    let site = shared().await;
    let (anns, _) = homes(&site);
    site.add_shared("team", "joe", "lrswipkxte").await;
    let mut joe = selected_there(&site, "APPENDUID", "").await;
    joe.send(&format!("2 REPLACE 2 {TEAM} {{3+}}\nabc")).await;
    let heard = joe.until("2 ").await;
    let ready =
        heard.iter().filter(|line| line.starts_with("* OK [APPENDUID ") && line.contains(" 1] ")).count();
    assert_eq!((ready, &**heard.last().unwrap()), (1, "2 OK REPLACE completed"), "{heard:?}");
    site.links.cut.notified().await;
    site.links.cut_before(anns, "new\r\n");
    assert_eq!(joe.command("3 NOOP").await, ["* 2 EXPUNGE", "3 OK NOOP completed"]);
    assert_eq!(
        (messages_of(&mut joe, TEAM).await, messages_of(&mut joe, ANNS).await),
        ("1".into(), "2".into())
    );
    // What did not come is undone.
    joe.send(&format!("4 REPLACE 2 {TEAM} {{3+}}\nnew")).await;
    let heard = joe.until("4 ").await;
    assert!(heard.last().unwrap().starts_with("4 NO [UNAVAILABLE] "), "{heard:?}");
    assert_eq!(
        (messages_of(&mut joe, TEAM).await, messages_of(&mut joe, ANNS).await),
        ("1".into(), "2".into())
    );
}
