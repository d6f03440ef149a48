//! An account that moves to and fro while its sessions work: nothing is refused, lost or doubled.

use crate::harness::{Client, Site};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const MOVES: usize = 50;

/// Says a command, which has to be done; gives all lines up to its tagged one.
async fn done(client: &mut Client, number: usize, command: &str) -> Vec<String> {
    let lines = client.command(&format!("t{number} {command}")).await;
    let last = lines.last().unwrap();
    assert!(last.starts_with(&format!("t{number} OK")), "{command}: {lines:?}");
    lines
}

/// Adds messages until it is told to end, of one kind or the other; gives their UIDs and subjects.
async fn append(
    site: Arc<Site>,
    ends: Arc<AtomicBool>,
    who: usize,
    (user, inbox): Who,
) -> Vec<(u32, String)> {
    let mut client = site.login(user).await;
    let mut appended = Vec::new();
    for number in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let subject = |part: usize| format!("Subject: {who}.{number}.{part}");
        let (first, second) = (subject(0), subject(1));
        let (one, two) =
            (format!("{first}\r\n\r\n"), format!("{second}\r\n\r\n{}", "x".repeat(number % 3 * 300_000)));
        // Several messages at once, some of them large.
        let (one, two) = (format!("{{{}+}}\r\n{one}", one.len()), format!("{{{}+}}\r\n{two}", two.len()));
        let command = match number % 4 {
            // Parts that a message is made of cannot be said again as they came.
            3 => format!("APPEND {inbox} (\\Flagged) CATENATE (TEXT {one}) CATENATE (TEXT {two})"),
            _ => format!("APPEND {inbox} (\\Flagged) {one} {two}"),
        };
        let lines = done(&mut client, number, &command).await;
        let uids = lines.last().unwrap().split(['[', ']', ' ']).nth(5).unwrap().to_string();
        let (a, b) = uids.split_once(':').unwrap();
        appended.push((a.parse().unwrap(), first));
        appended.push((b.parse().unwrap(), second));
    }
    appended
}

/// Reads, flags and searches until it is told to end, several commands in one write.
async fn work(site: Arc<Site>, ends: Arc<AtomicBool>, who: usize, (user, inbox): Who) {
    let mut client = site.login(user).await;
    done(&mut client, 0, &format!("SELECT {inbox}")).await;
    for number in 1.. {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let sign = if number % 2 == 0 { '+' } else { '-' };
        let commands = [
            format!("a{number} UID STORE 1:20 {sign}FLAGS (\\Answered)"),
            format!("b{number} UID FETCH 1:5 (UID FLAGS BODY.PEEK[HEADER])"),
            format!("c{number} UID SEARCH ANSWERED"),
            format!("d{number} STATUS {inbox} (MESSAGES UIDNEXT)"),
            format!("e{number} CREATE box{who}.{number}"),
            format!("f{number} DELETE box{who}.{number}"),
            format!("g{number} UID COPY 1 Trash"),
            format!("h{number} MYRIGHTS {inbox}"),
        ];
        client.send(&commands.join("\\n")).await;
        for tag in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let lines = client.until(&format!("{tag}{number} ")).await;
            let last = lines.last().map(String::as_str).unwrap_or_default();
            let shown = lines.len().saturating_sub(4);
            assert!(last.starts_with(&format!("{tag}{number} OK")), "{:?}", &lines[shown..]);
        }
    }
}

/// Hears of messages, in IDLE or by NOTIFY, until there are so many.
async fn hear(mut client: Client, wanted: tokio::sync::oneshot::Receiver<u32>) {
    let mut exists = 0;
    let mut wanted = wanted;
    let mut whole = None;
    while whole != Some(exists) {
        tokio::select! {
            count = &mut wanted, if whole.is_none() => whole = Some(count.unwrap()),
            line = client.line() => {
                assert!(!line.contains("BYE") && !line.contains(" NO ") && !line.contains("OVERFLOW"), "{line}");
                if let Some(count) = line.strip_prefix("* ").and_then(|line| line.strip_suffix(" EXISTS")) {
                    let count = count.parse().unwrap();
                    assert!(count > exists, "{count} after {exists}");
                    exists = count;
                }
            }
        }
    }
}

/// A user, and how they call the mailbox that moves.
type Who = (&'static str, &'static str);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_refused_lost_or_doubled_while_an_account_moves_fifty_times() {
    under_load(("ann", "INBOX"), &["ann"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_refused_lost_or_doubled_while_the_account_of_a_shared_mailbox_moves_fifty_times() {
    under_load(("joe", "\"Other Users/ann\""), &["ann", "ann", "ann", "joe"]).await;
}

/// A user's sessions work, while these accounts move in turn.
async fn under_load(who: Who, moving: &[&str]) {
    let site = Arc::new(Site::new().await);
    site.fill("....................").await;
    let before = 20;
    let mut ann = site.login("ann").await;
    done(&mut ann, 0, "SETACL INBOX joe lrswite").await;
    let ends = Arc::new(AtomicBool::new(false));
    let (mut hearing, mut counts) = (Vec::new(), Vec::new());
    let (user, inbox) = who;
    for number in 0..5 {
        let mut client = site.login(user).await;
        if number % 2 == 1 {
            let notify = "NOTIFY SET (selected (MessageNew MessageExpunge FlagChange)) (personal (MessageNew MessageExpunge))";
            done(&mut client, 0, notify).await;
        }
        done(&mut client, 1, &format!("SELECT {inbox}")).await;
        if number % 2 == 0 {
            client.send("i IDLE").await;
            assert_eq!(client.line().await, "+ idling");
        }
        let (count, wanted) = tokio::sync::oneshot::channel();
        counts.push(count);
        hearing.push(tokio::spawn(hear(client, wanted)));
    }
    let appending: Vec<_> =
        (0..2).map(|number| tokio::spawn(append(site.clone(), ends.clone(), number, who))).collect();
    let working: Vec<_> =
        (0..3).map(|number| tokio::spawn(work(site.clone(), ends.clone(), number, who))).collect();
    for moved in moving.iter().cycle().take(MOVES) {
        site.relocate(moved).await;
    }
    ends.store(true, Ordering::Relaxed);
    let mut all = BTreeSet::new();
    for appending in appending {
        for (uid, subject) in appending.await.unwrap() {
            assert!(all.insert((uid, subject)), "{uid} was given twice");
        }
    }
    for working in working {
        working.await.unwrap();
    }
    for count in counts {
        count.send(u32::try_from(before + all.len()).unwrap()).unwrap();
    }
    for hearing in hearing {
        hearing.await.unwrap();
    }
    let mut client = site.login("ann").await;
    done(&mut client, 0, "SELECT INBOX").await;
    let lines =
        done(&mut client, 1, &format!("FETCH {}:* (UID BODY.PEEK[HEADER.FIELDS (Subject)])", before + 1))
            .await;
    let mut there = BTreeSet::new();
    let mut uid = 0;
    for line in lines {
        if let Some((_, rest)) = line.split_once("(UID ") {
            uid = rest.split(' ').next().unwrap().parse().unwrap();
        }
        if line.starts_with("Subject: ") {
            there.insert((uid, line));
        }
    }
    assert_eq!(there, all);
    assert!(all.len() >= 2 * MOVES / 10, "only {} messages came meanwhile", all.len());
}

/// Has a message make room for one in a mailbox of the other account, to and fro, until it is told to end; counts how often.
async fn replace(site: Arc<Site>, ends: Arc<AtomicBool>, times: Arc<AtomicUsize>) {
    let places = ["Trash", "\"Other Users/ann/Sent\""];
    let mut client = site.login("joe").await;
    let uid_of = |line: &str| line.split([' ', ']']).nth(4).unwrap().to_string();
    let lines = done(&mut client, 0, &format!("APPEND {} {{3+}}\\nabc", places[0])).await;
    let mut uid = uid_of(lines.last().unwrap());
    for number in 1.. {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let (from, to) = (places[(number + 1) % 2], places[number % 2]);
        done(&mut client, 2 * number, &format!("SELECT {from}")).await;
        let what = match number % 3 {
            0 => "{3+}\\nabc".to_string(),
            1 => "CATENATE (TEXT {3+}\\nabc TEXT {3+}\\ndef)".to_string(),
            _ => format!("{{300000+}}\\n{}", "x".repeat(300_000)),
        };
        let lines = done(&mut client, 2 * number + 1, &format!("UID REPLACE {uid} {to} {what}")).await;
        let ready: Vec<&String> = lines.iter().filter(|line| line.starts_with("* OK [APPENDUID ")).collect();
        let [ready] = ready[..] else { panic!("{lines:?}") };
        assert!(lines.iter().any(|line| line.ends_with(" EXPUNGE")), "{lines:?}");
        uid = uid_of(ready);
        times.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_replaced_between_two_accounts_are_neither_lost_nor_doubled_while_both_move() {
    let site = Arc::new(Site::new().await);
    let mut ann = site.login("ann").await;
    done(&mut ann, 0, "SETACL Sent joe lrswite").await;
    let ends = Arc::new(AtomicBool::new(false));
    let times = Arc::new(AtomicUsize::new(0));
    let replacing: Vec<_> =
        (0..3).map(|_| tokio::spawn(replace(site.clone(), ends.clone(), times.clone()))).collect();
    let (mut moves, mut moving) = (0, ["ann", "joe", "ann"].iter().cycle());
    while moves < MOVES || times.load(Ordering::Relaxed) < MOVES {
        site.relocate(moving.next().unwrap()).await;
        moves += 1;
        assert!(!replacing.iter().any(tokio::task::JoinHandle::is_finished), "something was refused");
    }
    ends.store(true, Ordering::Relaxed);
    for replacing in replacing {
        replacing.await.unwrap();
    }
    let mut client = site.login("joe").await;
    let mut all = 0;
    for (number, place) in ["Trash", "\"Other Users/ann/Sent\""].iter().enumerate() {
        let lines = done(&mut client, number, &format!("STATUS {place} (MESSAGES)")).await;
        let count = lines[0].split_once("(MESSAGES ").unwrap().1.trim_end_matches(')');
        all += count.parse::<usize>().unwrap();
    }
    assert_eq!(all, 3);
}

#[tokio::test]
async fn what_others_have_selected_or_watch_goes_on_where_its_account_goes() {
    let site = Site::new().await;
    site.fill("..").await;
    let mut ann = site.login("ann").await;
    done(&mut ann, 1, "SETACL INBOX joe lrswite").await;
    let (mut joe, mut idling, mut watching) =
        (site.login("joe").await, site.login("joe").await, site.login("joe").await);
    for client in [&mut joe, &mut idling] {
        done(client, 1, "SELECT \"Other Users/ann\"").await;
    }
    idling.send("2 IDLE").await;
    assert_eq!(idling.line().await, "+ idling");
    done(&mut watching, 1, "NOTIFY SET (subtree \"Other Users\" (MessageNew MessageExpunge))").await;
    // To another home, and the users' own after it, and back.
    for (number, moved) in ["ann", "joe", "ann", "joe", "joe", "ann"].into_iter().enumerate() {
        site.relocate(moved).await;
        site.fill(".").await;
        let exists = format!("* {} EXISTS", 3 + number);
        assert_eq!(idling.line().await, exists);
        assert_eq!(idling.line().await.replace(char::is_numeric, ""), "*  RECENT");
        let told = watching.line().await;
        assert!(
            told.starts_with(&format!("* STATUS \"Other Users/ann\" (MESSAGES {}", 3 + number)),
            "{told}"
        );
        let told = done(&mut joe, 2, "NOOP").await;
        assert_eq!(told[0], exists);
    }
    idling.send("DONE").await;
    assert_eq!(idling.line().await, "2 OK IDLE completed");
}
