//! CONDSTORE and QRESYNC (RFC 7162).

use crate::harness::{Client, Site};

/// The number in the line with this code.
fn number(lines: &[String], code: &str) -> u64 {
    let line = lines.iter().find(|line| line.contains(code)).unwrap();
    let rest = &line[line.find(code).unwrap() + code.len()..];
    rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

async fn select(client: &mut Client, parameters: &str) -> Vec<String> {
    let lines = client.command(&format!("select SELECT INBOX{parameters}")).await;
    assert!(lines.last().unwrap().starts_with("select OK"), "{lines:?}");
    lines
}

#[tokio::test]
async fn modseqs_are_told_once_they_are_asked_for() {
    let site = Site::new().await;
    site.fill("..").await;
    site.play(
        r"
        A> 1 SELECT INBOX (CONDSTORE)
        A< ...
        A< 1 OK <*>
        A> 2 STORE 1 +FLAGS.SILENT (\Flagged)
        A< * 1 FETCH (UID 1 MODSEQ (<*>))
        A< 2 OK <*>
        A> 3 STORE 1 +FLAGS (\Flagged)
        A< * 1 FETCH (UID 1 FLAGS (\Flagged \Recent) MODSEQ (<*>))
        A< 3 OK <*>
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        A> 4 STORE 2 +FLAGS (\Answered)
        A< * 2 FETCH (UID 2 FLAGS (\Answered \Recent) MODSEQ (<*>))
        A< 4 OK <*>
        B> 2 NOOP
        B< * 2 FETCH (FLAGS (\Answered))
        B< 2 OK <*>
        B> 3 STATUS Sent (HIGHESTMODSEQ)
        B< * STATUS Sent (HIGHESTMODSEQ <*>)
        B< * OK [HIGHESTMODSEQ <*>] <*>
        B< 3 OK <*>
        A> 5 STORE 2 -FLAGS.SILENT (\Answered)
        A< * 2 FETCH (UID 2 MODSEQ (<*>))
        A< 5 OK <*>
        B> 4 NOOP
        B< * 2 FETCH (UID 2 FLAGS () MODSEQ (<*>))
        B< 4 OK <*>
        ",
    )
    .await;
}

#[tokio::test]
async fn the_first_word_of_modseqs_brings_the_highest() {
    let site = Site::new().await;
    site.fill("..").await;
    site.play(
        r"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 FETCH 1 MODSEQ
        A< * 1 FETCH (MODSEQ (<*>))
        A< * OK [HIGHESTMODSEQ <*>] <*>
        A< 2 OK <*>
        A> 3 SEARCH MODSEQ 1
        A< * SEARCH 1 2 (MODSEQ <*>)
        A< 3 OK <*>
        A> 4 FETCH 1 (BODY[TEXT])
        A< * 1 FETCH (BODY[TEXT] {8}
        A< body 0
        A< <*>FLAGS (\Seen \Recent) UID 1 MODSEQ (<*>))
        A< 4 OK <*>
        A> 5 FETCH 1 FLAGS
        A< * 1 FETCH (FLAGS (\Seen \Recent))
        A< 5 OK <*>
        ",
    )
    .await;
}

#[tokio::test]
async fn a_store_is_refused_for_what_has_changed() {
    let site = Site::new().await;
    site.fill("...").await;
    let mut ann = site.login("ann").await;
    let modseq = number(&select(&mut ann, " (CONDSTORE)").await, "HIGHESTMODSEQ");
    ann.command(r"1 STORE 2 +FLAGS (\Flagged)").await;
    let heard =
        ann.command(&format!(r"2 STORE 1:3 (UNCHANGEDSINCE {modseq}) +FLAGS.SILENT (\Deleted)")).await;
    assert!(heard[0].starts_with("* 1 FETCH (UID 1 MODSEQ ("), "{heard:?}");
    assert!(heard[1].starts_with("* 3 FETCH (UID 3 MODSEQ ("), "{heard:?}");
    assert!(heard[2].starts_with("2 OK [MODIFIED 2]"), "{heard:?}");
    assert_eq!(heard.len(), 3);
    let heard = ann.command(&format!("3 UID FETCH 1:* (FLAGS) (CHANGEDSINCE {modseq})")).await;
    assert_eq!(heard.len(), 4);
    assert!(heard[1].starts_with(r"* 2 FETCH (UID 2 FLAGS (\Flagged"), "{heard:?}");
    let newest = number(&heard[2..], "MODSEQ (");
    let heard = ann.command(&format!("4 FETCH 1:* (FLAGS) (CHANGEDSINCE {newest})")).await;
    assert_eq!(heard.len(), 1);
    let heard = ann.command(&format!("5 SEARCH MODSEQ {}", modseq + 1)).await;
    assert_eq!(heard[0], format!("* SEARCH 1 2 3 (MODSEQ {newest})"));
    let heard = ann.command(&format!("6 SEARCH RETURN (MIN COUNT) MODSEQ {newest}")).await;
    assert!(heard[0].ends_with(&format!("COUNT 2 MODSEQ {newest}")), "{heard:?}");
    let heard = ann.command(&format!("7 UID STORE 1 (UNCHANGEDSINCE {modseq}) +FLAGS (\\Seen)")).await;
    assert!(heard[0].starts_with("7 OK [MODIFIED 1]"), "{heard:?}");
}

/// A client that reads slowly holds the server in the middle of its answer to SELECT, while others go on.
#[tokio::test]
async fn what_changes_during_select_is_told_after_its_answer() {
    let site = Site::new().await;
    site.fill(&".".repeat(500)).await;
    let mut ann = site.login("ann").await;
    let validity = number(&select(&mut ann, "").await, "UIDVALIDITY");
    for round in 1..=3 {
        ann.command(&format!("{round} COPY 1:* INBOX")).await;
    }
    let mut slow = site.login("ann").await;
    slow.command("1 ENABLE QRESYNC").await;
    slow.send(&format!("2 SELECT INBOX (QRESYNC ({validity} 1))")).await;
    slow.until("* 4000 EXISTS").await;
    ann.command("4 STORE 1 +FLAGS.SILENT (\\Deleted)").await;
    ann.command("5 EXPUNGE").await;
    ann.command("6 COPY 1 INBOX").await;
    let heard = slow.until("2 ").await;
    assert!(heard.len() > 4000, "the answer fits into buffers: {}", heard.len());
    let moved = |line: &&String| line.contains("EXISTS") || line.starts_with("* VANISHED 1");
    assert_eq!(heard.iter().find(moved), None);
    let heard = slow.command("3 NOOP").await;
    assert_eq!(heard[..2], ["* VANISHED 1", "* 4000 EXISTS"], "{heard:?}");
}

#[tokio::test]
async fn a_client_that_was_away_hears_what_it_missed() {
    let site = Site::new().await;
    site.fill("..d.d.").await;
    let mut ann = site.login("ann").await;
    let lines = select(&mut ann, "").await;
    let (validity, modseq) = (number(&lines, "UIDVALIDITY"), number(&lines, "HIGHESTMODSEQ"));
    ann.command("1 EXPUNGE").await;
    ann.command(r"2 STORE 2 +FLAGS (\Seen)").await;
    let mut again = site.login("ann").await;
    let heard = again.command(&format!("1 SELECT INBOX (QRESYNC ({validity} {modseq}))")).await;
    assert_eq!(heard, ["1 BAD ENABLE QRESYNC comes first"]);
    let heard = again.command("2 ENABLE QRESYNC").await;
    assert_eq!(heard[0], "* ENABLED QRESYNC");
    let heard = select(&mut again, &format!(" (QRESYNC ({validity} {modseq}))")).await;
    assert!(heard.contains(&"* VANISHED (EARLIER) 3,5".to_string()), "{heard:?}");
    let fetch: Vec<&String> = heard.iter().filter(|line| line.contains("FETCH")).collect();
    assert_eq!(fetch.len(), 1);
    assert!(fetch[0].starts_with(r"* 2 FETCH (UID 2 FLAGS (\Seen) MODSEQ ("), "{fetch:?}");
    let heard = select(&mut again, &format!(" (QRESYNC ({validity} {modseq} 1:3))")).await;
    assert!(heard.contains(&"* VANISHED (EARLIER) 3".to_string()), "{heard:?}");
    let heard = select(&mut again, &format!(" (QRESYNC ({} {modseq}))", validity + 1)).await;
    assert!(!heard.iter().any(|line| line.contains("VANISHED") || line.contains("FETCH")), "{heard:?}");
    let heard = again.command(&format!("3 UID FETCH 1:* (FLAGS) (CHANGEDSINCE {modseq} VANISHED)")).await;
    assert_eq!(heard[0], "* VANISHED (EARLIER) 3,5");
    assert_eq!(heard.len(), 3);
}

#[tokio::test]
async fn with_qresync_messages_vanish() {
    let site = Site::new().await;
    site.fill("d.d.").await;
    site.play(
        r"
        A> 1 ENABLE QRESYNC CONDSTORE
        A< * ENABLED QRESYNC<*>
        A< 1 OK <*>
        A> 2 SELECT INBOX
        A< ...
        A< 2 OK <*>
        B> 1 SELECT INBOX
        B< ...
        B< 1 OK <*>
        A> 3 UID EXPUNGE 1
        A< * VANISHED 1
        A< 3 OK [HIGHESTMODSEQ <*>] EXPUNGE completed
        A> 4 UID EXPUNGE 2
        A< 4 OK EXPUNGE completed
        B> 2 EXPUNGE
        B< * 3 EXPUNGE
        B< * 1 EXPUNGE
        B< 2 OK EXPUNGE completed
        A> 5 FETCH 1 UID
        A< * 1 FETCH (UID 2)
        A< 5 OK <*>
        A> 6 NOOP
        A< * VANISHED 3
        A< 6 OK <*>
        A> 7 MOVE 1 Trash
        A< * OK [COPYUID <*> 2 1] <*>
        A< * VANISHED 2
        A< 7 OK [HIGHESTMODSEQ <*>] <*>
        A> 8 STORE 1 +FLAGS (\Deleted)
        A< * 1 FETCH (UID 4 FLAGS (\Deleted \Recent) MODSEQ (<*>))
        A< 8 OK <*>
        A> 9 CLOSE
        A< 9 OK CLOSE completed
        ",
    )
    .await;
}
