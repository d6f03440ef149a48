//! What the change log says to those who follow an account.

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{
    Annotation, AnnotationName, Change, LogEntry, NewAccount, Store, StoreError, StoreOptions,
};
use rookery_types::{AccountId, MailboxPath, UserName};
use std::sync::Arc;

fn path(text: &str) -> MailboxPath {
    MailboxPath::new(text).expect("a path")
}

fn note(owner: Option<&UserName>, value: Option<&'static str>) -> Annotation {
    let name = AnnotationName { owner: owner.cloned(), entry: "/private/comment".into() };
    Annotation { name, value: value.map(Into::into) }
}

#[tokio::test]
async fn renames_and_annotations_are_told_and_too_much_is_not() {
    let disk = SimDisk::new(1);
    let options =
        StoreOptions { background: None, account_annotation_octets_max: 1000, ..StoreOptions::default() };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    let store = Store::open(options, engine, Arc::new(disk.files())).expect("it opens");
    let joe = UserName::parse("joe@example.org", "").expect("a name");
    let mailboxes = vec![(MailboxPath::inbox(), vec![]), (path("a"), vec![]), (path("a/b"), vec![])];
    let new = NewAccount { owner: Some(joe.clone()), mailboxes, subscriptions: vec![] };
    let account = store.create_account(AccountId::new(1).expect("not zero"), new).await.expect("an account");
    let begin = *account.changed().borrow();
    let (a, b) = (account.tree().get(&path("a")).unwrap(), account.tree().get(&path("a/b")).unwrap());

    account.rename(&path("a"), &path("z")).await.expect("it renames");
    account.annotate(Some(b), &[note(Some(&joe), Some("x"))], None).await.expect("it annotates");
    // What changes nothing is no change.
    account.annotate(Some(b), &[note(Some(&joe), Some("x"))], None).await.expect("it annotates");
    account.annotate(None, &[note(None, Some("y"))], None).await.expect("it annotates");
    account.delete(a).await.expect("it deletes");

    let end = *account.changed().borrow();
    let entries = account.changes(begin, end, 100).expect("it reads").expect("it remembers");
    let one = |number, changes: Vec<Change>| LogEntry {
        changes: changes.into_iter().map(|change| (number, change)).collect(),
        subscriptions: false,
    };
    let name = |owner: Option<&UserName>| vec![note(owner, None).name];
    assert_eq!(entries.len(), 4, "{entries:#?}");
    for (number, old) in [(a.number, "a"), (b.number, "a/b")] {
        assert!(entries[0].changes.contains(&(number, Change::Renamed(path(old)))), "{entries:#?}");
    }
    assert_eq!(entries[1], one(b.number, vec![Change::Annotations(name(Some(&joe)))]));
    assert_eq!(entries[2], one(0, vec![Change::Annotations(name(None))]));
    assert_eq!(entries[3], one(a.number, vec![Change::Deleted]));
    assert_eq!(account.last_path(a).expect("it reads"), Some(path("z")));
    assert_eq!(account.changes(begin, end, 3).expect("it reads"), None, "more than was asked for");
    assert_eq!(account.changes(end, end, 3).expect("it reads"), Some(vec![]));

    // All annotations of an account together are bounded; taking away is never refused.
    let large: &'static str = Box::leak("x".repeat(900).into_boxed_str());
    let refused = account.annotate(Some(b), &[note(None, Some(large))], None).await;
    assert!(matches!(refused, Err(StoreError::TooMany(_))));
    assert_eq!(account.annotations(Some(b), None).expect("it reads"), vec![]);
    account.annotate(Some(b), &[note(Some(&joe), None)], None).await.expect("it lets go");
    store.close().await;
}
