//! Delivery into a real store and directory, both in memory.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop here

use std::sync::Arc;
use std::time::Duration;

use rookery_directory::{AliasName, DirectCommit, Directory, EmbeddedDirectory, Home};
use rookery_kv::{Engine, RealFiles, memory::MemoryEngine};
use rookery_lmtp::{Backing, DeliverError, Delivered, House, LookUpError, Once, Place};
use rookery_route::Router;
use rookery_store::{NewAccount, Store, StoreOptions};
use rookery_types::{
    AccountName, Acl, Epoch, Identifier, InternalDate, MailboxPath, NodeId, OperationId, Rights, Style,
    UserName,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_the_mailbox_it_may_reach() {
    let folder = tempfile::tempdir().unwrap();
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(rookery_kv::sim::SimDisk::new(1)));
    let files = Arc::new(RealFiles::open(folder.path().join("volumes")).unwrap());
    let options = StoreOptions { background: None, message_octets_max: 1000, ..StoreOptions::default() };
    let store = Store::open(options, Arc::clone(&engine), files).unwrap();
    let directory =
        Arc::new(EmbeddedDirectory::open(Arc::clone(&engine), Arc::new(DirectCommit(engine))).unwrap());
    directory.add_domain("example.org".to_owned()).await.unwrap();
    let joe = UserName::parse("joe@example.org", "").unwrap();
    let home = Home { node: store.node(), store: store.store_id(), epoch: Epoch(1) };
    let entry = directory.reserve(AccountName::User(joe.clone()), home, 7).await.unwrap();
    let lists = MailboxPath::new("Lists").unwrap();
    let new = NewAccount {
        owner: Some(joe.clone()),
        mailboxes: vec![(MailboxPath::inbox(), vec![]), (lists.clone(), vec![])],
        subscriptions: vec![],
    };
    let account = store.create_account(entry.id, new).await.unwrap();
    let house =
        House::new(store.clone(), Arc::new(Router::new(directory.clone(), store.node(), Style::default())));

    // Not yet active: not there.
    assert_eq!(house.look_up(&joe).await, Err(LookUpError::NotFound));
    directory.activate(entry.id).await.unwrap();
    assert_eq!(house.look_up(&joe).await, Ok(vec![Place::Here(entry.id)]));
    let sales = UserName::parse("sales@example.org", "").unwrap();
    directory.set_alias(AliasName::Address(sales.clone()), vec![joe.clone()]).await.unwrap();
    assert_eq!(house.look_up(&sales).await, Ok(vec![Place::Here(entry.id)]));
    assert_eq!(house.at_home(&joe).await, Ok(Place::Here(entry.id)));
    assert_eq!(house.at_home(&sales).await, Err(LookUpError::NotFound), "an alias is followed once");
    let ann = UserName::parse("ann@example.org", "").unwrap();
    assert_eq!(house.look_up(&ann).await, Err(LookUpError::NotFound));

    // At home at another node, mail goes there, also by the alias; what is sent on to here by mistake is not taken.
    let elsewhere = Home { node: NodeId(77), epoch: Epoch(2), ..home };
    directory.set_home(entry.id, home, elsewhere).await.unwrap();
    assert_eq!(house.look_up(&sales).await, Ok(vec![Place::At(NodeId(77), joe.clone())]));
    assert!(matches!(house.at_home(&joe).await, Ok(Place::At(_, user)) if user == joe));
    let back = Home { epoch: Epoch(3), ..home };
    directory.set_home(entry.id, elsewhere, back).await.unwrap();

    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let id = account.tree().get(&lists).unwrap();
    let target =
        async |author: Option<&UserName>| house.target(entry.id, Some(&lists), author).await.unwrap();
    assert_eq!(target(None).await, inbox, "nobody may post to it");
    assert_eq!(target(Some(&ann)).await, inbox);
    let mut acl = Acl::new();
    acl.set(Identifier::User(ann.clone()), false, Rights::POST);
    account.set_acl(id, acl.clone()).await.unwrap();
    assert_eq!((target(Some(&ann)).await, target(None).await), (id, inbox));
    // A group's members may what the group may.
    acl.set(Identifier::User(ann.clone()), false, Rights::NONE);
    acl.set(Identifier::Group("team".into()), false, Rights::POST);
    account.set_acl(id, acl.clone()).await.unwrap();
    assert_eq!(target(Some(&ann)).await, inbox);
    directory.add_group("example.org".to_owned(), "team".to_owned()).await.unwrap();
    directory.set_member("team".to_owned(), ann.clone(), true).await.unwrap();
    assert_eq!((target(Some(&ann)).await, target(None).await), (id, inbox));
    acl.set(Identifier::Anyone, false, Rights::POST);
    account.set_acl(id, acl).await.unwrap();
    assert_eq!(target(None).await, id);

    let mut spool = house.spool();
    house.push(&mut spool, b"Subject: x\r\n\r\nbody\r\n").unwrap();
    let message = house.finish(spool).await.unwrap();
    for mailbox in [id, inbox] {
        house
            .append(mailbox, message.clone(), InternalDate::from_unix(1_000_000_000), None, &[])
            .await
            .unwrap();
    }
    let opened = account.open(id).await.unwrap();
    let messages = opened.now().messages.clone().unwrap();
    let content = messages.get(0).unwrap().unwrap().content;
    assert_eq!(&account.read(content).unwrap()[..], b"Subject: x\r\n\r\nbody\r\n");

    // A part with NUL is kept so that every client can fetch it; NUL elsewhere cannot be kept.
    let mut spool = house.spool();
    house.push(&mut spool, b"Content-Transfer-Encoding: binary\r\n\r\na\0b").unwrap();
    let binary = house.finish(spool).await.unwrap();
    assert_eq!(house.append(id, binary, InternalDate::from_unix(1), None, &[]).await, Ok(Delivered::Stored));
    let content = opened.now().messages.as_ref().unwrap().get(1).unwrap().unwrap().content;
    assert_eq!(
        &account.read(content).unwrap()[..],
        b"Content-Transfer-Encoding: base64\r\nMIME-Version: 1.0\r\n\r\nYQBi\r\n"
    );
    let mut spool = house.spool();
    house.push(&mut spool, b"Subject: \0\r\n\r\n").unwrap();
    assert_eq!(house.finish(spool).await.unwrap_err(), DeliverError::Nul);

    // What has a Message-ID is stored once for each sender.
    let mut spool = house.spool();
    house.push(&mut spool, b"Message-ID: <1@b.test>\r\n\r\n").unwrap();
    let known = house.finish(spool).await.unwrap();
    for (sender, expected) in
        [("a@b.test", Delivered::Stored), ("a@b.test", Delivered::Before), ("", Delivered::Stored)]
    {
        let once = Once { sender: sender.to_owned(), window: Duration::from_secs(60) };
        let date = InternalDate::from_unix(1);
        assert_eq!(house.append(id, known.clone(), date, Some(&once), &[]).await, Ok(expected));
    }

    // What was asked about before it came is not stored any more, and that is no failure of the store.
    let asked = OperationId([7; 16]);
    assert_eq!(house.settle(entry.id, asked).await, Ok(false));
    let late = house.append(id, known.clone(), InternalDate::from_unix(1), None, &[asked]).await;
    assert_eq!(late, Err(DeliverError::GivenUp));

    // The detail's mailbox goes away between RCPT and the end of DATA: INBOX gets the message.
    account.delete(id).await.unwrap();
    house.append(id, message.clone(), InternalDate::from_unix(1_000_000_000), None, &[]).await.unwrap();
    assert_eq!(account.tree().state(inbox).unwrap().summary.exists, 2);
    // Its quota is full: nothing is stored.
    let limits = rookery_store::Limits { octets: Some(50), ..Default::default() };
    account.set_quota(&MailboxPath::inbox(), limits).await.unwrap();
    assert_eq!(
        house.append(inbox, message, InternalDate::from_unix(0), None, &[]).await,
        Err(DeliverError::OverQuota)
    );
    assert_eq!(account.tree().state(inbox).unwrap().summary.exists, 2);
    let mut spool = house.spool();
    let large = match house.push(&mut spool, &[b'x'; 2000]) {
        Ok(()) => house.finish(spool).await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(large, Err(DeliverError::TooLarge));
    store.close().await;
}
