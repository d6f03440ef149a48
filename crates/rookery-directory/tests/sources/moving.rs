//! A directory that goes on in another source, and one that is put together from an export.

use crate::following::{following, make, records, sound, until};
use crate::world::{engine, node};
use rookery_directory::source::{Record, Source, SourceError};
use rookery_directory::{
    CopiedDirectory, DirectCommit, Directory, DirectoryError, Following, MemorySource, Trouble, Verifier,
    whole,
};
use rookery_kv::{Bytes, Engine};
use rookery_types::{NodeId, UserName};
use std::sync::Arc;

/// A directory in its own engine, with something of most kinds in it.
async fn embedded(engine: &Arc<dyn Engine>) -> CopiedDirectory {
    let directory = CopiedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine.clone()))).unwrap();
    directory.add_domain("x.test".to_owned()).await.unwrap();
    directory.add_group("x.test".to_owned(), "staff".to_owned()).await.unwrap();
    for n in 0..100 {
        let entry = make(&directory, &format!("user/u{n}@x.test")).await;
        directory.set_verifier(entry.id, Some(Verifier::new("$x$1").unwrap())).await.unwrap();
        let user = UserName::parse(&format!("u{n}"), "x.test").unwrap();
        directory.set_member("staff".to_owned(), user, true).await.unwrap();
    }
    directory
}

fn all(directory: &CopiedDirectory) -> Vec<Record> {
    let whole = directory.whole().unwrap();
    let (mut all, mut start) = (Vec::new(), Some(Bytes::new()));
    while let Some(from) = start {
        let (records, next) = whole.page(&from, 7).unwrap();
        all.extend(records);
        start = next;
    }
    all
}

#[tokio::test]
async fn an_embedded_directory_goes_on_in_another_source() {
    let (one, two) = (engine(), engine());
    let first = embedded(&one).await;
    let source = first.embedded().unwrap();
    let second = following(&two, Arc::new(source.clone())).await;
    let new = MemorySource::new(77);
    // Nothing goes over to a source that does not say that it goes on from there.
    let refused = second.follow_on(Arc::new(new.clone()), NodeId(2)).await;
    assert!(matches!(refused, Err(DirectoryError::WentBack(_))), "{refused:?}");
    let before = make(&second, "user/last@x.test").await;
    let at = source.close().await.unwrap();
    let refused = first.add_domain("y.test".to_owned()).await;
    assert!(matches!(refused, Err(DirectoryError::Unavailable(_))), "{refused:?}");
    assert!(matches!(second.add_domain("y.test".to_owned()).await, Err(DirectoryError::Unavailable(_))));
    assert_eq!(first.look_up(&before.name).await.unwrap(), before, "it still answers");
    // It may be broken off and begun again.
    let mut left = 2;
    new.set_plan(move |call| {
        left -= i32::from(call == rookery_directory::Call::Commit);
        if left < 0 && left > -3 { Trouble::LostAnswer } else { Trouble::None }
    });
    whole::fill(&new, first.whole().unwrap()).await.unwrap();
    new.begin_after(at);
    first.follow_on(Arc::new(new.clone()), NodeId(1)).await.unwrap();
    until(&first, |now| *now == Following::Following).await;
    assert!(
        matches!(source.head().await, Err(SourceError::Unavailable(_))),
        "nobody takes it for the source"
    );
    second.follow_on(Arc::new(new.clone()), NodeId(2)).await.unwrap();
    until(&second, |now| *now == Following::Following).await;
    // Both go on, and see what the other does.
    let made = make(&first, "user/new@x.test").await;
    second.barrier().await.unwrap();
    assert_eq!(second.look_up(&made.name).await.unwrap(), made);
    assert_eq!(second.by_id(made.id).await.unwrap(), made);
    assert_eq!(second.by_id(before.id).await.unwrap().name, before.name, "no id is given twice");
    assert_eq!(records(&one), records(&two));
    sound(&one);
    sound(&two);
}

#[tokio::test]
async fn a_copy_goes_on_by_itself_where_the_directory_was_rebuilt() {
    let (one, two) = (engine(), engine());
    let old = MemorySource::new(1);
    let a = following(&one, Arc::new(old.clone())).await;
    a.add_domain("x.test".to_owned()).await.unwrap();
    let made = make(&a, "user/ann@x.test").await;
    let kept = a.whole().unwrap();
    let at = kept.position();
    // One that has seen more than what it is rebuilt from does not lose it without a word.
    let b = following(&two, Arc::new(old.clone())).await;
    let more = make(&b, "user/more@x.test").await;
    drop((a, b));
    let new = MemorySource::new(2);
    whole::fill(&new, kept).await.unwrap();
    new.begin_after(at);
    let b = node(&two, Arc::new(new.clone()));
    until(&b, |now| matches!(now, Following::WentBack(_))).await;
    assert_eq!(b.look_up(&more.name).await.unwrap(), more);
    let three = engine();
    let c = following(&three, Arc::new(new.clone())).await;
    assert_eq!(c.look_up(&made.name).await.unwrap().id, made.id);
    drop(b);
    let new = MemorySource::new(3);
    let b = node(&two, Arc::new(new.clone()));
    until(&b, |now| matches!(now, Following::WentBack(_))).await;
    let whole = b.whole().unwrap();
    let at = whole.position();
    whole::fill(&new, whole).await.unwrap();
    new.begin_after(at);
    until(&b, |now| *now == Following::Following).await;
    assert_eq!(b.look_up(&more.name).await.unwrap().id, more.id);
    sound(&two);
}

#[tokio::test]
async fn an_export_is_put_into_a_new_directory_alone() {
    let (one, two) = (engine(), engine());
    let first = embedded(&one).await;
    let exported = all(&first);
    assert!(exported.iter().all(|record| whole::kind_of(record).is_ok()));
    let second = CopiedDirectory::open(two.clone(), Arc::new(DirectCommit(two.clone()))).unwrap();
    second.add_domain("x.test".to_owned()).await.unwrap();
    second.import(exported.clone()).await.unwrap();
    // What was broken off is begun again.
    second.import(exported.clone()).await.unwrap();
    sound(&two);
    assert_eq!(all(&second).len(), exported.len());
    assert_eq!(second.counts().await.unwrap(), first.counts().await.unwrap());
    let next = make(&second, "user/new@x.test").await;
    assert!(first.by_id(next.id).await.is_err(), "no id is given twice");
    let third = engine();
    let other = embedded(&third).await;
    let refused = other.import(exported).await;
    assert!(matches!(refused, Err(DirectoryError::Refused(_))), "{refused:?}");
    let mut bad = all(&first).remove(0);
    bad.value = Bytes::from_static(b"no record");
    whole::kind_of(&bad).unwrap_err();
}
