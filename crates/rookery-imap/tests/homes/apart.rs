//! REPLACE where the message that goes is at home elsewhere than the mailbox that takes the new one: nothing of it is done,
//! or all of it, or the client hears that both messages are there.

use crate::harness::{Client, Site};
use rookery_types::NodeId;

const OWN: &str = "INBOX";
const ANNS: &str = "\"Other Users/ann\"";
const JIMS: &str = "\"Other Users/jim\"";
/// At home where joe is.
const MAXS: &str = "\"Other Users/max\"";

/// Ann and jim have a home each, joe and max another. Each INBOX has three messages, and joe may do anything with all.
struct Homes {
    site: Site,
    ann: NodeId,
    jim: NodeId,
}

impl Homes {
    async fn new() -> Homes {
        let mut site = Site::new().await;
        let jim = site.add_home("jim").await;
        for user in ["ann", "jim", "max", "joe"] {
            let mut client = site.login(user).await;
            let command = format!("1 APPEND INBOX {{4+}}\\n{user}1 {{4+}}\\n{user}2 {{4+}}\\n{user}3");
            assert!(client.command(&command).await.last().unwrap().starts_with("1 OK"));
            if user != "joe" {
                // Max is an administrator, and names mailboxes as such.
                for mailbox in ["INBOX", if user == "max" { "user/max/Sent" } else { "Sent" }] {
                    let heard = client.command(&format!("2 SETACL {mailbox} joe lrswipkxte")).await;
                    assert_eq!(heard, ["2 OK SETACL completed"]);
                }
            }
        }
        site.settled().await;
        let ann = site.services.store.node();
        Homes { site, ann, jim }
    }

    async fn selected(&self, mailbox: &str) -> Client {
        let mut joe = self.site.login("joe").await;
        let heard = joe.command(&format!("1 SELECT {mailbox}")).await;
        assert!(heard.last().unwrap().starts_with("1 OK [READ-WRITE]"), "{heard:?}");
        joe
    }

    /// The messages of a mailbox, which have one line each.
    async fn texts(&self, mailbox: &str) -> Vec<String> {
        let mut joe = self.site.login("joe").await;
        joe.command(&format!("1 EXAMINE {mailbox}")).await;
        let heard = joe.command("2 UID FETCH 1:* BODY.PEEK[]").await;
        assert!(heard.last().unwrap().starts_with("2 OK"), "{heard:?}");
        heard.iter().filter_map(|line| line.strip_suffix(')')).map(str::to_owned).collect()
    }

    /// Whether the messages are those that were there from the beginning, but for what a REPLACE has changed.
    async fn must_hold(&self, mailbox: &str, gone: &[u32], come: &[&str]) {
        let user = mailbox.trim_matches('"').rsplit('/').next().unwrap().replace("INBOX", "joe");
        let old = (1..=3).filter(|n| !gone.contains(n)).map(|n| format!("{user}{n}"));
        let wanted: Vec<String> = old.chain(come.iter().map(ToString::to_string)).collect();
        assert_eq!(self.texts(mailbox).await, wanted, "{mailbox}");
    }

    /// Takes a right of joe's away.
    async fn restrict(&self, mailbox: &str, rights: &str) {
        let user = mailbox.trim_matches('"').rsplit('/').next().unwrap();
        let mut owner = self.site.login(user).await;
        let heard = owner.command(&format!("1 SETACL INBOX joe {rights}")).await;
        assert_eq!(heard, ["1 OK SETACL completed"]);
    }
}

/// Which message of the selected mailbox makes room for one in which other.
const PLACES: [(&str, &str); 6] =
    [(OWN, ANNS), (MAXS, ANNS), (ANNS, OWN), (ANNS, MAXS), (ANNS, JIMS), (JIMS, ANNS)];

/// What a REPLACE says that has done all of it.
fn must_be_done(heard: &[String], uid: u32, gone: &str, answer: &str) {
    let ready = format!(" {uid}] Replacement message ready");
    let [appended, expunged, last] = heard else { panic!("{heard:?}") };
    assert!(appended.starts_with("* OK [APPENDUID ") && appended.ends_with(&ready), "{heard:?}");
    assert_eq!((&**expunged, &**last), (gone, answer));
}

/// And one after which both messages are there.
fn must_be_half_done(heard: &[String], answer: &str) {
    let [appended, last] = heard else { panic!("{heard:?}") };
    assert!(appended.starts_with("* OK [APPENDUID ") && last.starts_with(answer), "{heard:?}");
}

#[tokio::test]
async fn a_message_of_any_home_makes_room_for_one_at_any_other() {
    for (from, to) in PLACES {
        let homes = Homes::new().await;
        let mut joe = homes.selected(from).await;
        joe.send(&format!("2 REPLACE 2 {to} (\\Flagged) \" 1-Feb-2020 03:04:05 +0100\" {{5}}")).await;
        assert_eq!(joe.line().await, "+ OK");
        joe.send("first").await;
        must_be_done(&joe.until("2 ").await, 4, "* 2 EXPUNGE", "2 OK REPLACE completed");
        let heard =
            joe.command(&format!("3 UID REPLACE 3 {to} CATENATE (TEXT {{3+}}\\nnew URL ;UID=1)")).await;
        must_be_done(&heard, 5, "* 2 EXPUNGE", "3 OK REPLACE completed");
        homes.must_hold(from, &[2, 3], &[]).await;
        let made = format!("new{}", &homes.texts(from).await[0]);
        homes.must_hold(to, &[], &["first", &made]).await;
        // Octets that take another form at once.
        let heard = joe.command(&format!("4 REPLACE * {to} ~{{10+}}\\na: b\\n\\n\0c")).await;
        must_be_done(&heard, 6, "* 1 EXPUNGE", "4 OK REPLACE completed");
        let mut reader = homes.selected(to).await;
        let heard = reader.command("2 FETCH 4 (FLAGS INTERNALDATE)").await;
        assert!(
            heard[0].contains("(\\Flagged") && heard[0].contains("\" 1-Feb-2020 03:04:05 +0100\""),
            "{heard:?}"
        );
        let heard = reader.command("3 FETCH 6 BODY[TEXT]").await;
        assert!(heard.iter().any(|line| line.starts_with("AGM=")), "{heard:?}");
    }
}

#[tokio::test]
async fn a_client_hears_what_it_has_asked_for() {
    for (from, to) in PLACES {
        let homes = Homes::new().await;
        let mut joe = homes.site.login("joe").await;
        joe.command("1 ENABLE QRESYNC UIDONLY").await;
        joe.command(&format!("2 SELECT {from}")).await;
        let heard = joe.command(&format!("3 REPLACE 2 {to} {{5}}")).await;
        assert!(heard.len() == 1 && heard[0].starts_with("3 BAD [UIDREQUIRED] "), "{heard:?}");
        let heard = joe.command(&format!("4 UID REPLACE 2 {to} {{3+}}\\nnew")).await;
        assert!(heard[0].starts_with("* OK [APPENDUID "), "{heard:?}");
        assert_eq!(heard[1], "* VANISHED 2");
        assert!(heard[2].starts_with("4 OK [HIGHESTMODSEQ ") && heard.len() == 3, "{heard:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_the_message_comes() {
    for (from, to) in PLACES {
        let homes = Homes::new().await;
        let mut joe = homes.selected(from).await;
        let below = match to {
            OWN => "none".to_string(),
            other => format!("{}/Sent/none\"", other.trim_end_matches('"')),
        };
        for (command, wanted) in [
            (format!("REPLACE 4 {to}"), "BAD There is no message of that number"),
            (format!("UID REPLACE 4 {to}"), "NO [NONEXISTENT] There is no such message"),
            (format!("REPLACE 1 {below}"), "NO [TRYCREATE]"),
            ("REPLACE 1 \"Other Users/ann/Trash\"".to_string(), "NO [NONEXISTENT]"),
            ("REPLACE 1 \"Other Users/nobody\"".to_string(), "NO [NONEXISTENT]"),
        ] {
            for rest in ["{5}", "(\\Seen) ~{5}", "CATENATE (TEXT {5}", "{5+}\\nabcde", "{0}"] {
                let heard = joe.command(&format!("n {command} {rest}")).await;
                assert!(
                    heard.len() == 1 && heard[0].starts_with(&format!("n {wanted}")),
                    "{from} {command} {rest}: {heard:?}"
                );
            }
        }
        let heard = joe.command(&format!("n REPLACE 1 {to} {{99999999999}}")).await;
        assert!(heard.len() == 1 && heard[0].starts_with("n NO [TOOBIG]"), "{heard:?}");
        if to != OWN {
            let mut root = homes.site.login("root").await;
            let user = to.trim_matches('"').rsplit('/').next().unwrap();
            let heard = root.command(&format!("1 SETQUOTA user/{user} (MESSAGE 3)")).await;
            assert!(heard.last().unwrap().starts_with("1 OK"), "{heard:?}");
            let heard = joe.command(&format!("n REPLACE 1 {to} {{5}}")).await;
            assert!(heard.len() == 1 && heard[0].starts_with("n NO [OVERQUOTA]"), "{heard:?}");
            homes.restrict(to, "lrs").await;
            let heard = joe.command(&format!("n REPLACE 1 {to} {{5}}")).await;
            assert!(heard.len() == 1 && heard[0].starts_with("n NO [NOPERM]"), "{heard:?}");
            homes.restrict(to, "lrswipkxte").await;
        }
        if from != OWN {
            // Neither right alone will do.
            for rights in ["lrswipkxt", "lrswipkxe"] {
                homes.restrict(from, rights).await;
                let heard = joe.command(&format!("n REPLACE 1 {to} {{5}}")).await;
                assert!(heard.len() == 1 && heard[0].starts_with("n NO [NOPERM]"), "{heard:?}");
            }
            homes.restrict(from, "lrswipkxte").await;
        }
        assert!(joe.command(&format!("2 EXAMINE {from}")).await.last().unwrap().starts_with("2 OK"));
        let heard = joe.command(&format!("n REPLACE 1 {to} {{5}}")).await;
        assert_eq!(heard, ["n NO [CANNOT] The mailbox is selected read-only"]);
        homes.must_hold(from, &[], &[]).await;
        homes.must_hold(to, &[], &[]).await;
    }
}

#[tokio::test]
async fn what_cannot_be_appended_changes_nothing() {
    for (from, to) in PLACES {
        let homes = Homes::new().await;
        let mut joe = homes.selected(from).await;
        for (rest, wanted) in [
            ("{5+}\\nab\0de", "NO "),
            ("CATENATE (TEXT {3+}\\nabc URL ;UID=7)", "NO [BADURL ;UID=7]"),
            ("{3+}\\nabc {3+}\\ndef", "BAD REPLACE takes one message"),
            ("CATENATE (TEXT {3+}\\nabc) nonsense", "BAD "),
        ] {
            let heard = joe.command(&format!("n REPLACE 1 {to} {rest}")).await;
            assert!(heard.len() == 1 && heard[0].starts_with(&format!("n {wanted}")), "{rest:?}: {heard:?}");
        }
        homes.must_hold(from, &[], &[]).await;
        homes.must_hold(to, &[], &[]).await;
        let heard = joe.command(&format!("2 REPLACE 1 {to} {{3+}}\\nnew")).await;
        must_be_done(&heard, 4, "* 1 EXPUNGE", "2 OK REPLACE completed");
    }
}

#[tokio::test]
async fn the_answer_of_the_home_that_takes_the_message_is_asked_for_if_it_is_lost() {
    for (from, to) in [(OWN, ANNS), (ANNS, JIMS), (JIMS, ANNS)] {
        for new in ["{3+}\\nnew", "CATENATE (TEXT {3+}\\nnew)"] {
            let homes = Homes::new().await;
            let taker = if to == ANNS { homes.ann } else { homes.jim };
            let mut joe = homes.selected(from).await;
            homes.site.links.cut_before(taker, "APPENDUID");
            let heard = joe.command(&format!("2 REPLACE 2 {to} {new}")).await;
            must_be_done(&heard, 4, "* 2 EXPUNGE", "2 OK REPLACE completed");
            homes.site.links.cut.notified().await;
            // What did not come is undone, and nothing goes for it.
            let mut joe = homes.selected(from).await;
            homes.site.links.cut_before(taker, "new\r\n");
            let heard = joe.command(&format!("3 REPLACE 2 {to} {new}")).await;
            assert!(heard.len() == 1 && heard[0].starts_with("3 NO [UNAVAILABLE] "), "{heard:?}");
            homes.site.links.cut.notified().await;
            homes.must_hold(from, &[2], &[]).await;
            homes.must_hold(to, &[], &["new"]).await;
        }
    }
}

#[tokio::test]
async fn the_home_of_the_old_message_may_be_lost_for_a_while_when_the_new_one_is_there() {
    for to in [OWN, JIMS] {
        // It has not heard that the message is to go; or has done it, and was not heard.
        for (away, before) in [(true, "UID EXPUNGE"), (false, "UID EXPUNGE"), (false, "* 2 EXPUNGE")] {
            let homes = Homes::new().await;
            let links = &homes.site.links;
            let ann = links.services(homes.ann);
            match away {
                true => links.go_away_before(homes.ann, before),
                false => links.cut_before(homes.ann, before),
            }
            let mut joe = homes.selected(ANNS).await;
            joe.send(&format!("2 REPLACE 2 {to} {{3+}}\\nnew")).await;
            links.cut.notified().await;
            if away {
                links.missed.notified().await;
                links.add(ann);
            }
            must_be_done(&joe.until("2 ").await, 4, "* 2 EXPUNGE", "2 OK REPLACE completed");
            homes.must_hold(ANNS, &[2], &[]).await;
            homes.must_hold(to, &[], &["new"]).await;
        }
    }
}

#[tokio::test]
async fn a_home_that_stays_away_leaves_both_messages_and_the_client_hears_of_it() {
    let homes = Homes::new().await;
    let links = &homes.site.links;
    let ann = links.services(homes.ann);
    links.go_away_before(homes.ann, "UID EXPUNGE");
    let mut joe = homes.selected(ANNS).await;
    let heard = joe.command("2 REPLACE 2 INBOX {3+}\\nnew").await;
    must_be_half_done(
        &heard,
        "2 NO [UNAVAILABLE] The new message is there; the old one may still be there, too",
    );
    links.add(ann);
    homes.must_hold(ANNS, &[], &[]).await;
    homes.must_hold(OWN, &[], &["new"]).await;
    // The session goes on.
    let mut heard = joe.command("3 REPLACE 2 INBOX {3+}\\nnew").await;
    while heard[0].starts_with("3 NO [UNAVAILABLE] ") {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        heard = joe.command("3 REPLACE 2 INBOX {3+}\\nnew").await;
    }
    must_be_done(&heard, 5, "* 2 EXPUNGE", "3 OK REPLACE completed");
}

#[tokio::test]
async fn a_home_that_is_lost_while_the_client_sends_is_found_out_before_anything_is_done() {
    for to in [OWN, JIMS] {
        let homes = Homes::new().await;
        let ann = homes.site.links.services(homes.ann);
        let mut joe = homes.selected(ANNS).await;
        joe.send(&format!("2 REPLACE 2 {to} {{3}}")).await;
        assert_eq!(joe.line().await, "+ OK");
        homes.site.links.lose(homes.ann);
        joe.send("new").await;
        let heard = joe.until("2 ").await;
        assert!(heard.len() == 1 && heard[0].starts_with("2 NO [UNAVAILABLE] "), "{heard:?}");
        homes.site.links.add(ann);
        homes.must_hold(ANNS, &[], &[]).await;
        homes.must_hold(to, &[], &[]).await;
    }
}

#[tokio::test]
async fn rights_that_go_while_the_client_sends_are_missed_before_anything_is_done() {
    for (from, to, whose) in
        [(MAXS, ANNS, MAXS), (ANNS, OWN, ANNS), (ANNS, JIMS, ANNS), (ANNS, JIMS, JIMS), (OWN, ANNS, ANNS)]
    {
        let homes = Homes::new().await;
        let mut joe = homes.selected(from).await;
        joe.send(&format!("2 REPLACE 2 {to} {{3}}")).await;
        assert_eq!(joe.line().await, "+ OK");
        homes.restrict(whose, "lrs").await;
        joe.send("new").await;
        let heard = joe.until("2 ").await;
        assert!(heard.len() == 1 && heard[0].starts_with("2 NO [NOPERM] "), "{heard:?}");
        homes.must_hold(from, &[], &[]).await;
        homes.must_hold(to, &[], &[]).await;
    }
}

#[tokio::test]
async fn a_message_that_is_on_its_way_to_another_home_is_not_replaced() {
    for (from, to) in [(OWN, JIMS), (JIMS, OWN)] {
        let homes = Homes::new().await;
        let mut joe = homes.selected(from).await;
        homes.site.links.lose(homes.ann);
        let heard = joe.command(&format!("2 MOVE 2 {ANNS}")).await;
        assert!(heard.last().unwrap().starts_with("2 NO [INUSE] The move is pending"), "{heard:?}");
        let heard = joe.command(&format!("3 REPLACE 2 {to} {{3}}")).await;
        assert!(heard.len() == 1 && heard[0].starts_with("3 NO [INUSE] "), "{heard:?}");
        homes.must_hold(to, &[], &[]).await;
        let heard = joe.command(&format!("4 REPLACE 3 {to} {{3+}}\\nnew")).await;
        must_be_done(&heard, 4, "* 3 EXPUNGE", "4 OK REPLACE completed");
    }
}

/// Joe replaces a message by one that goes to ann's home, whose answer is lost, and which is away; so the new message is
/// there already, and the old one has not gone yet.
async fn half_way(homes: &Homes, from: &str) -> Client {
    let links = &homes.site.links;
    let mut joe = homes.selected(from).await;
    links.go_away_before(homes.ann, "APPENDUID");
    joe.send(&format!("2 REPLACE 2 {ANNS} {{3+}}\\nnew")).await;
    links.cut.notified().await;
    links.missed.notified().await;
    joe
}

#[tokio::test]
async fn rights_that_go_when_the_new_message_is_there_leave_both() {
    for from in [MAXS, JIMS] {
        let homes = Homes::new().await;
        let ann = homes.site.links.services(homes.ann);
        let mut joe = half_way(&homes, from).await;
        homes.restrict(from, "lrs").await;
        homes.site.links.add(ann);
        let wanted = "2 NO [NOPERM] The new message is there, and the old one is still there, too: ";
        must_be_half_done(&joe.until("2 ").await, wanted);
        homes.must_hold(from, &[], &[]).await;
        homes.must_hold(ANNS, &[], &["new"]).await;
    }
}

#[tokio::test]
async fn numbers_are_those_that_the_client_knew_when_it_asked() {
    for (from, to) in [(MAXS, ANNS), (ANNS, OWN), (JIMS, ANNS)] {
        let homes = Homes::new().await;
        let mut owner = homes.site.login(from.trim_matches('"').rsplit('/').next().unwrap()).await;
        owner.command("1 SELECT INBOX").await;
        owner.command("2 STORE 1:2 +FLAGS.SILENT (\\Deleted)").await;
        let mut joe = homes.selected(from).await;
        // One goes before the client asks, of which it has not heard, and one while it sends.
        assert!(owner.command("3 UID EXPUNGE 1").await.last().unwrap().starts_with("3 OK"));
        joe.send(&format!("2 REPLACE 3 {to} {{3}}")).await;
        let mut heard = joe.until("+ ").await;
        assert!(owner.command("4 UID EXPUNGE 2").await.last().unwrap().starts_with("4 OK"));
        joe.send("new").await;
        heard.extend(joe.until("2 ").await);
        assert_eq!(heard.last().unwrap(), "2 OK REPLACE completed", "{heard:?}");
        let expunged = heard.iter().filter(|line| line.ends_with(" EXPUNGE")).count();
        assert_eq!(expunged, 3, "{heard:?}");
        homes.must_hold(to, &[], &["new"]).await;
        let mut reader = homes.site.login("joe").await;
        let heard = reader.command(&format!("1 STATUS {from} (MESSAGES)")).await;
        assert_eq!(heard[0], format!("* STATUS {from} (MESSAGES 0)"));
    }
}

#[tokio::test]
async fn a_message_that_somebody_else_expunges_meanwhile_is_gone_as_was_wanted() {
    for (from, to) in [(MAXS, ANNS), (ANNS, OWN), (ANNS, JIMS)] {
        let homes = Homes::new().await;
        let mut owner = homes.site.login(from.trim_matches('"').rsplit('/').next().unwrap()).await;
        owner.command("1 SELECT INBOX").await;
        let mut joe = homes.selected(from).await;
        joe.send(&format!("2 REPLACE 2 {to} {{3}}")).await;
        assert_eq!(joe.line().await, "+ OK");
        owner.command("2 STORE 2 +FLAGS.SILENT (\\Deleted)").await;
        assert!(owner.command("3 EXPUNGE").await.last().unwrap().starts_with("3 OK"));
        joe.send("new").await;
        let heard = joe.until("2 ").await;
        assert_eq!(heard.last().unwrap(), "2 OK REPLACE completed");
        assert_eq!(heard.iter().filter(|line| *line == "* 2 EXPUNGE").count(), 1, "{heard:?}");
        homes.must_hold(from, &[2], &[]).await;
        homes.must_hold(to, &[], &["new"]).await;
    }
}

#[tokio::test]
async fn accounts_move_while_the_client_sends() {
    for (from, to, moves) in [
        (OWN, ANNS, "ann"),
        (ANNS, OWN, "ann"),
        (ANNS, JIMS, "ann"),
        (JIMS, ANNS, "ann"),
        (OWN, ANNS, "joe"),
        (MAXS, ANNS, "max"),
    ] {
        for is_made in [false, true] {
            let homes = Homes::new().await;
            let mut joe = homes.selected(from).await;
            let (rest, sent, come) = match is_made {
                false => ("{3}", "new", "new".to_string()),
                true => {
                    ("CATENATE (URL ;UID=1 TEXT {3}", "new)", format!("{}new", homes.texts(from).await[0]))
                }
            };
            joe.send(&format!("2 REPLACE 2 {to} {rest}")).await;
            assert_eq!(joe.line().await, "+ OK");
            homes.site.relocate(moves).await;
            joe.send(sent).await;
            must_be_done(&joe.until("2 ").await, 4, "* 2 EXPUNGE", "2 OK REPLACE completed");
            homes.must_hold(from, &[2], &[]).await;
            homes.must_hold(to, &[], &[&come]).await;
        }
    }
}

#[tokio::test]
async fn the_account_of_the_old_message_may_move_when_the_new_one_is_there() {
    let homes = Homes::new().await;
    let links = &homes.site.links;
    let jim = links.services(homes.jim);
    links.go_away_before(homes.jim, "APPENDUID");
    let mut joe = homes.selected(ANNS).await;
    joe.send(&format!("2 REPLACE 2 {JIMS} {{3+}}\\nnew")).await;
    links.cut.notified().await;
    links.missed.notified().await;
    // To where joe is.
    homes.site.relocate("ann").await;
    links.add(jim);
    must_be_done(&joe.until("2 ").await, 4, "* 2 EXPUNGE", "2 OK REPLACE completed");
    homes.must_hold(ANNS, &[2], &[]).await;
    homes.must_hold(JIMS, &[], &["new"]).await;
    assert_eq!(joe.command("3 NOOP").await, ["3 OK NOOP completed"]);
}
