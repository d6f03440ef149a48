//! What changes for one reader alone, and nothing is told of to the others. A session that has just moved may tell it: it
//! does not know how its client knows what has changed since.

use crate::seen::shared_inbox;

#[tokio::test]
async fn what_changes_nothing_for_somebody_is_not_told_to_them() {
    let site = shared_inbox("s..").await;
    site.play(
        r#"
        A> 1 SELECT INBOX
        A< ...
        A< 1 OK <*>
        J> 1 SELECT "Other Users/ann"
        J< ...
        J< 1 OK <*>
        M> 1 SELECT "user/ann"
        M< ...
        M< 1 OK <*>
        J> 2 STORE 3 +FLAGS (\Seen)
        J< * 3 FETCH (FLAGS (\Seen))
        J< 2 OK <*>
        A> 2 STORE 2:3 +FLAGS.SILENT (\Seen)
        A< 2 OK <*>
        J> 3 NOOP
        J< 3 OK <*>
        M> 2 NOOP
        M< 2 OK <*>
        J> 4 STORE 1 +FLAGS (\Flagged)
        J< * 1 FETCH (FLAGS (\Flagged))
        J< 4 OK <*>
        M> 3 NOOP
        M< * 1 FETCH (FLAGS (\Flagged))
        M< 3 OK <*>
        "#,
    )
    .await;
}
