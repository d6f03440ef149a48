//! \Seen on mailboxes that several people read: each has their own, and none shows to another.

use crate::harness::{Client, Site};

/// The number in the line with this code.
fn number(lines: &[String], code: &str) -> u64 {
    let line = lines.iter().find(|line| line.contains(code)).unwrap_or_else(|| panic!("{code} in {lines:?}"));
    let rest = &line[line.find(code).unwrap() + code.len()..];
    rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// Ann's INBOX with these messages, none of them \Recent any more; joe and max may do what they like with it.
pub(crate) async fn shared_inbox(letters: &str) -> Site {
    let site = Site::new().await;
    site.fill(letters).await;
    let mut ann = site.login("ann").await;
    for (n, command) in
        ["SETACL INBOX joe lrswite", "SETACL INBOX max lrswite", "SELECT INBOX"].iter().enumerate()
    {
        let heard = ann.command(&format!("{n} {command}")).await;
        assert!(heard.last().unwrap().starts_with(&format!("{n} OK")), "{heard:?}");
    }
    site
}

#[tokio::test]
async fn everyone_has_their_own() {
    let site = shared_inbox("s..").await;
    site.play(
        r#"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        J> 1 STATUS "Other Users/ann" (MESSAGES UNSEEN)
        J< * STATUS "Other Users/ann" (MESSAGES 3 UNSEEN 3)
        J< 1 OK <*>
        J> 2 SELECT "Other Users/ann"
        J< * FLAGS (\Answered \Flagged \Deleted \Seen \Draft)
        J< * OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft \*)] <*>
        J< * 3 EXISTS
        J< * 0 RECENT
        J< * OK [UNSEEN 1] <*>
        J< ...
        J< 2 OK [READ-WRITE] <*>
        J> 3 FETCH 1:3 FLAGS
        J< * 1 FETCH (FLAGS ())
        J< * 2 FETCH (FLAGS ())
        J< * 3 FETCH (FLAGS ())
        J< 3 OK <*>
        J> 4 STORE 2 +FLAGS (\Seen)
        J< * 2 FETCH (FLAGS (\Seen))
        J< 4 OK <*>
        J> 5 FETCH 3 BODY[TEXT]
        J< * 3 FETCH (BODY[TEXT] {8}
        J< body 2
        J< <*>FLAGS (\Seen))
        J< 5 OK <*>
        M> 1 SELECT "user/ann"
        M< ...
        M< 1 OK <*>
        M> 2 FETCH 1:3 FLAGS
        M< * 1 FETCH (FLAGS ())
        M< * 2 FETCH (FLAGS ())
        M< * 3 FETCH (FLAGS ())
        M< 2 OK <*>
        A> 2 FETCH 1:3 FLAGS
        A< * 1 FETCH (FLAGS (\Seen))
        A< * 2 FETCH (FLAGS ())
        A< * 3 FETCH (FLAGS ())
        A< 2 OK <*>
        J> 6 SEARCH UNSEEN
        J< * SEARCH 1
        J< 6 OK <*>
        J> 7 SEARCH SEEN
        J< * SEARCH 2 3
        J< 7 OK <*>
        M> 3 SEARCH UNSEEN
        M< * SEARCH 1 2 3
        M< 3 OK <*>
        A> 3 SEARCH UNSEEN
        A< * SEARCH 2 3
        A< 3 OK <*>
        J> 8 LIST "" "Other Users/ann" RETURN (STATUS (UNSEEN))
        J< * LIST <*>
        J< * STATUS "Other Users/ann" (UNSEEN 1)
        J< 8 OK <*>
        M> 4 STATUS "user/ann" (UNSEEN)
        M< * STATUS user/ann (UNSEEN 3)
        M< 4 OK <*>
        A> 4 STATUS Trash (UNSEEN)
        A< * STATUS Trash (UNSEEN 0)
        A< 4 OK <*>
        -- What joe replaces is his \Seen, and everybody's other flags.
        J> 9 STORE 1:2 FLAGS (\Flagged)
        J< * 1 FETCH (FLAGS (\Flagged))
        J< * 2 FETCH (FLAGS (\Flagged))
        J< 9 OK <*>
        A> 5 NOOP
        A< * 1 FETCH (FLAGS (\Flagged \Seen))
        A< * 2 FETCH (FLAGS (\Flagged))
        A< 5 OK <*>
        M> 5 NOOP
        M< * 1 FETCH (FLAGS (\Flagged))
        M< * 2 FETCH (FLAGS (\Flagged))
        M< 5 OK <*>
        -- And ann's own is nobody else's.
        A> 6 STORE 2:3 +FLAGS.SILENT (\Seen)
        A< 6 OK <*>
        J> 10 NOOP
        J< ...
        J< 10 OK <*>
        J> 10a FETCH 2:3 FLAGS
        J< * 2 FETCH (FLAGS (\Flagged))
        J< * 3 FETCH (FLAGS (\Seen))
        J< 10a OK <*>
        M> 6 NOOP
        M< ...
        M< 6 OK <*>
        M> 6a FETCH 2:3 FLAGS
        M< * 2 FETCH (FLAGS (\Flagged))
        M< * 3 FETCH (FLAGS ())
        M< 6a OK <*>
        -- It is kept.
        J> 11 UNSELECT
        J< 11 OK <*>
        J> 12 SELECT "Other Users/ann"
        J< ...
        J< 12 OK <*>
        J> 13 SEARCH SEEN
        J< * SEARCH 3
        J< 13 OK <*>
        J> 14 STORE 3 -FLAGS (\Seen)
        J< * 3 FETCH (FLAGS ())
        J< 14 OK <*>
        A> 7 SEARCH SEEN
        A< * SEARCH 1 2 3
        A< 7 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn in_a_shared_tree_nobody_is_the_owner() {
    let site = Site::new().await;
    site.add_shared("team", "anyone", "lrswite").await;
    site.add_shared("board", "anyone", "lri").await;
    site.play(
        r#"
        A> 1 APPEND Shared/team (\Seen \Flagged) {3+}\na\n
        A< 1 OK <*>
        A> 2 STATUS Shared/team (UNSEEN)
        A< * STATUS Shared/team (UNSEEN 0)
        A< 2 OK <*>
        J> 1 STATUS Shared/team (MESSAGES UNSEEN)
        J< * STATUS Shared/team (MESSAGES 1 UNSEEN 1)
        J< 1 OK <*>
        J> 2 SELECT Shared/team
        J< ...
        J< 2 OK <*>
        J> 3 FETCH 1 FLAGS
        J< * 1 FETCH (FLAGS (\Flagged \Recent))
        J< 3 OK <*>
        A> 3 SELECT Shared/team
        A< ...
        A< 3 OK <*>
        A> 4 FETCH 1 FLAGS
        A< * 1 FETCH (FLAGS (\Flagged \Seen))
        A< 4 OK <*>
        -- Without the right nothing is kept, and the flag is not offered.
        J> 4 APPEND Shared/board (\Seen) {3+}\na\n
        J< 4 OK <*>
        J> 5 STORE 1 +FLAGS (\Seen)
        J< * 1 FETCH (FLAGS (\Flagged \Seen \Recent))
        J< 5 OK <*>
        J> 6 COPY 1 Shared/board
        J< 6 OK <*>
        J> 7 STATUS Shared/board (MESSAGES UNSEEN)
        J< * STATUS Shared/board (MESSAGES 2 UNSEEN 2)
        J< 7 OK <*>
        J> 8 SELECT Shared/board
        J< * OK [CLOSED] <*>
        J< * FLAGS <*>
        J< * OK [PERMANENTFLAGS ()] <*>
        J< ...
        J< 8 OK <*>
        J> 9 STORE 1 +FLAGS (\Seen)
        J< 9 NO [NOPERM] <*>
        J> 10 FETCH 1 (BODY[] FLAGS)
        J< * 1 FETCH (BODY[] {3}
        J< a
        J< <*>FLAGS (\Recent))
        J< 10 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn copies_go_with_what_their_maker_has_seen() {
    let site = shared_inbox("s....").await;
    site.play(
        r#"
        J> 1 SELECT "Other Users/ann"
        J< ...
        J< 1 OK <*>
        J> 2 STORE 2:3 +FLAGS.SILENT (\Seen)
        J< 2 OK <*>
        -- To his own mailbox, as \Seen of the record; ann's is not his.
        J> 3 COPY 1:2 Sent
        J< 3 OK [COPYUID <*> 1:2 1:2] <*>
        J> 4 MOVE 3:4 Sent
        J< * OK [COPYUID <*> 3:4 3:4] <*>
        J< * 4 EXPUNGE
        J< * 3 EXPUNGE
        J< 4 OK <*>
        J> 5 STATUS Sent (MESSAGES UNSEEN)
        J< * STATUS Sent (MESSAGES 4 UNSEEN 2)
        J< 5 OK <*>
        -- Within the shared mailbox, as his own there; ann has not seen them.
        J> 6 COPY 1:2 "Other Users/ann"
        J< * 5 EXISTS
        J< * 2 RECENT
        J< 6 OK <*>
        J> 7 MOVE 2 "Other Users/ann"
        J< * OK [COPYUID <*> 2 8] <*>
        J< * 2 EXPUNGE
        J< * 5 EXISTS
        J< * 3 RECENT
        J< 7 OK <*>
        J> 8 UID SEARCH SEEN
        J< * SEARCH 7 8
        J< 8 OK <*>
        J> 9 STATUS INBOX (UNSEEN)
        J< * STATUS INBOX (UNSEEN 0)
        J< 9 OK <*>
        -- And from his own to the shared one.
        J> 10 SELECT Sent
        J< ...
        J< 10 OK <*>
        J> 11 SEARCH SEEN
        J< * SEARCH 2 3
        J< 11 OK <*>
        J> 12 COPY 1:2 "Other Users/ann"
        J< 12 OK [COPYUID <*> 1:2 9:10] <*>
        J> 13 STATUS "Other Users/ann" (MESSAGES UNSEEN)
        J< * STATUS "Other Users/ann" (MESSAGES 7 UNSEEN 4)
        J< 13 OK <*>
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        A> 2 UID SEARCH SEEN
        A< * SEARCH 1
        A< 2 OK <*>
        "#,
    )
    .await;
}

/// Begins to wait for what others do.
async fn idle(client: &mut Client) {
    client.send("idle IDLE").await;
    assert!(client.line().await.starts_with("+ "));
}

#[tokio::test]
async fn who_reads_wakes_nobody_else() {
    let site = shared_inbox("....").await;
    let (mut joe, mut also, mut max, mut ann) =
        (site.login("joe").await, site.login("joe").await, site.login("max").await, site.login("ann").await);
    for (client, name) in [
        (&mut joe, "Other Users/ann"),
        (&mut also, "Other Users/ann"),
        (&mut max, "user/ann"),
        (&mut ann, "INBOX"),
    ] {
        let heard = client.command(&format!("s SELECT \"{name}\" (CONDSTORE)")).await;
        assert!(heard.last().unwrap().starts_with("s OK"), "{heard:?}");
    }
    for client in [&mut also, &mut max, &mut ann] {
        idle(client).await;
    }
    let heard = joe.command(r"1 STORE 2 +FLAGS (\Seen)").await;
    let seen = number(&heard, "MODSEQ (");
    let told = also.line().await;
    assert!(told.starts_with(r"* 2 FETCH (UID 2 FLAGS (\Seen) MODSEQ ("), "{told}");
    assert_eq!(number(&[told], "MODSEQ ("), seen);
    // What comes next is of something else.
    let heard = joe.command(r"2 STORE 3 +FLAGS (\Flagged)").await;
    let flagged = number(&heard, "MODSEQ (");
    for client in [&mut also, &mut max, &mut ann] {
        let told = client.line().await;
        assert!(told.starts_with(r"* 3 FETCH (UID 3 FLAGS (\Flagged) MODSEQ ("), "{told}");
        assert_eq!(number(&[told], "MODSEQ ("), flagged);
        client.send("DONE").await;
        assert_eq!(client.until("idle ").await, ["idle OK IDLE completed"]);
    }
}

#[tokio::test]
async fn modseqs_are_the_larger_of_the_mailboxs_and_ones_own() {
    let site = shared_inbox("....").await;
    let (mut joe, mut max, mut ann) =
        (site.login("joe").await, site.login("max").await, site.login("ann").await);
    let status = |name: &str| format!("t STATUS \"{name}\" (UNSEEN HIGHESTMODSEQ)");
    let (of_joe, of_max, of_ann) = (status("Other Users/ann"), status("user/ann"), status("INBOX"));
    let highest = |heard: &[String]| number(heard, "HIGHESTMODSEQ");
    let begin = highest(&ann.command(&of_ann).await);
    let heard = joe.command("1 SELECT \"Other Users/ann\" (CONDSTORE)").await;
    assert_eq!(highest(&heard), begin);
    let heard = joe.command(r"2 STORE 1:2 +FLAGS.SILENT (\Seen)").await;
    let seen = number(&heard, "MODSEQ (");
    assert!(seen > begin);
    // His own moves, theirs do not.
    let heard = joe.command(&of_joe).await;
    assert_eq!((highest(&heard), number(&heard, "UNSEEN")), (seen, 2));
    for (client, status) in [(&mut max, &of_max), (&mut ann, &of_ann)] {
        let heard = client.command(status).await;
        assert_eq!((highest(&heard), number(&heard, "UNSEEN")), (begin, 4));
    }
    let changed = format!("3 FETCH 1:* (FLAGS) (CHANGEDSINCE {begin})");
    let heard = joe.command(&changed).await;
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(heard[1].starts_with(&format!(r"* 2 FETCH (FLAGS (\Seen) MODSEQ ({seen})")), "{heard:?}");
    assert!(max.command("4 SELECT user/ann (CONDSTORE)").await.last().unwrap().starts_with("4 OK"));
    assert_eq!(max.command(&changed).await.len(), 1);
    let heard = max.command(&format!("5 SEARCH MODSEQ {seen}")).await;
    assert_eq!(heard[0], "* SEARCH", "{heard:?}");
    let heard = joe.command(&format!("6 SEARCH MODSEQ {seen}")).await;
    assert_eq!(heard[0], format!("* SEARCH 1 2 (MODSEQ {seen})"), "{heard:?}");
    // UNCHANGEDSINCE goes by one's own.
    let heard = joe.command(&format!(r"7 STORE 1:4 (UNCHANGEDSINCE {begin}) +FLAGS.SILENT (\Flagged)")).await;
    assert!(heard.last().unwrap().starts_with("7 OK [MODIFIED 1:2]"), "{heard:?}");
    let flagged = number(&heard, "MODSEQ (");
    let heard = max.command(&format!(r"8 STORE 1:4 (UNCHANGEDSINCE {begin}) +FLAGS.SILENT (\Seen)")).await;
    assert!(heard.last().unwrap().starts_with("8 OK [MODIFIED 3:4]"), "{heard:?}");
    assert!(number(&heard, "* 1 FETCH (UID 1 MODSEQ (") > flagged);
    assert_eq!(highest(&joe.command(&of_joe).await), flagged);
    assert_eq!(highest(&ann.command(&of_ann).await), flagged);
}

#[tokio::test]
async fn who_was_away_hears_of_their_own() {
    let site = shared_inbox("......").await;
    let mut joe = site.login("joe").await;
    let lines = joe.command("1 SELECT \"Other Users/ann\"").await;
    let (validity, modseq) = (number(&lines, "UIDVALIDITY"), number(&lines, "HIGHESTMODSEQ"));
    joe.command(r"2 STORE 2,4 +FLAGS (\Seen)").await;
    // Nobody has the mailbox open for a moment, and one of the messages goes.
    joe.command("3 UNSELECT").await;
    let mut ann = site.login("ann").await;
    for command in ["1 SELECT INBOX", r"2 STORE 4:5 +FLAGS (\Deleted)", "3 EXPUNGE", "4 CLOSE"] {
        ann.command(command).await;
    }
    let heard = joe.command("4 STATUS \"Other Users/ann\" (MESSAGES UNSEEN)").await;
    assert_eq!(heard[0], "* STATUS \"Other Users/ann\" (MESSAGES 4 UNSEEN 3)");
    joe.command("5 ENABLE QRESYNC").await;
    let select = format!("(QRESYNC ({validity} {modseq}))");
    let heard = joe.command(&format!("6 SELECT \"Other Users/ann\" {select}")).await;
    assert!(heard.contains(&"* VANISHED (EARLIER) 4:5".to_string()), "{heard:?}");
    let fetch: Vec<&String> = heard.iter().filter(|line| line.contains("FETCH")).collect();
    assert_eq!(fetch.len(), 1, "{heard:?}");
    assert!(fetch[0].starts_with(r"* 2 FETCH (UID 2 FLAGS (\Seen) MODSEQ ("), "{fetch:?}");
    let mut max = site.login("max").await;
    max.command("1 ENABLE QRESYNC").await;
    let heard = max.command(&format!("2 SELECT user/ann {select}")).await;
    assert!(!heard.iter().any(|line| line.contains("FETCH")), "{heard:?}");
    assert!(heard.contains(&"* OK [UNSEEN 1] The first message that is not seen".to_string()), "{heard:?}");
}

#[tokio::test]
async fn notify_tells_each_of_their_own() {
    let site = shared_inbox("..").await;
    let mut joe = site.login("joe").await;
    let mut max = site.login("max").await;
    let set =
        |name: &str| format!("1 NOTIFY SET (mailboxes \"{name}\" (MessageNew MessageExpunge FlagChange))");
    assert!(joe.command(&set("Other Users/ann")).await[0].starts_with("1 OK"));
    assert!(max.command(&set("user/ann")).await[0].starts_with("1 OK"));
    let mut also = site.login("joe").await;
    also.command("1 SELECT \"Other Users/ann\"").await;
    also.command(r"2 STORE 1 +FLAGS (\Seen)").await;
    let told = joe.line().await;
    assert!(told.starts_with("* STATUS \"Other Users/ann\" (MESSAGES 2 UIDNEXT 3 "), "{told}");
    assert!(told.contains("UNSEEN 1"), "{told}");
    also.command(r"3 STORE 1 +FLAGS (\Flagged)").await;
    let told = max.line().await;
    assert!(told.contains("UNSEEN 2"), "{told}");
    assert_eq!(max.command("2 NOOP").await.len(), 1);
}

#[tokio::test]
async fn it_is_kept_by_who_gets_another_name() {
    let site = shared_inbox("....").await;
    let mut ann = site.login("ann").await;
    assert!(ann.command("1 SETACL INBOX anyone lrs").await[0].starts_with("1 OK"));
    site.play(
        r#"
        J> 1 SELECT "Other Users/ann"
        J< ...
        J< 1 OK <*>
        J> 2 STORE 2:3 +FLAGS.SILENT (\Seen)
        J< 2 OK <*>
        J> 3 LOGOUT
        J< ...
        J< 3 OK <*>
        R> 1 RENAME user/joe user/jim
        R< 1 OK <*>
        "#,
    )
    .await;
    site.renamed().await;
    let mut jim = site.login("jim").await;
    let status = jim.command("1 STATUS \"Other Users/ann\" (UNSEEN)").await;
    assert_eq!(status[0], "* STATUS \"Other Users/ann\" (UNSEEN 2)");
    jim.command("2 EXAMINE \"Other Users/ann\"").await;
    assert_eq!(jim.command("3 SEARCH SEEN").await[0], "* SEARCH 2 3");
    let mut max = site.login("max").await;
    assert_eq!(max.command("1 STATUS user/ann (UNSEEN)").await[0], "* STATUS user/ann (UNSEEN 4)");
}
