//! Annotations of the server (RFC 5464): each node's own.

use crate::harness::Site;
use rookery_imap::ImapConfig;

#[tokio::test]
async fn the_servers_own() {
    let config = ImapConfig { admin_contact: "mailto:max@example.org".into(), ..ImapConfig::default() };
    Site::with(config)
        .await
        .play(
            r#"
            A> 1 GETMETADATA "" (/shared/comment /shared/admin)
            A< * METADATA "" (/shared/comment NIL /shared/admin "mailto:max@example.org")
            A< 1 OK <*>
            A> 2 SETMETADATA "" (/shared/comment "mine")
            A< 2 NO [NOPERM] <*>
            M> 1 SETMETADATA "" (/shared/comment "Shared comment")
            M< 1 OK <*>
            M> 2 SETMETADATA "" (/shared/admin "mailto:x@example.org")
            M< 2 NO [CANNOT] <*>
            A> 3 GETMETADATA "" /shared/comment
            A< * METADATA "" (/shared/comment "Shared comment")
            A< 3 OK <*>
            A> 4 SETMETADATA "" (/private/vendor/x/y "mine")
            A< 4 OK <*>
            M> 3 GETMETADATA "" (/private/vendor/x/y)
            M< * METADATA "" (/private/vendor/x/y NIL)
            M< 3 OK <*>
            A> 5 GETMETADATA "" (/private/vendor/x/y)
            A< * METADATA "" (/private/vendor/x/y "mine")
            A< 5 OK <*>
            M> 4 SETMETADATA "" (/shared/comment NIL)
            M< 4 OK <*>
            "#,
        )
        .await;
}

#[tokio::test]
async fn its_changes_are_told_by_name() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 NOTIFY SET (mailboxes INBOX (ServerMetadataChange))
            A< 1 OK <*>
            M> 1 SETMETADATA "" (/shared/comment "x")
            M< 1 OK <*>
            A< * METADATA "" /shared/comment
            B> 2 SETMETADATA "" (/private/vendor/a/b "x")
            B< 2 OK <*>
            A< * METADATA "" /private/vendor/a/b
            "#,
        )
        .await;
}
