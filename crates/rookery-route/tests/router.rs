//! What names resolve to, and which error says what.

// The lint's exception for tests does not reach the helper functions of a test crate.
#![allow(clippy::unwrap_used)]

use rookery_directory::{
    AccountState, AliasName, DirectCommit, Directory, DirectoryError, EmbeddedDirectory, Home,
};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_kv::{Batch, Engine, Space};
use rookery_route::{Coming, Fence, Newcomers, Recipients, Route, RouteError, Router};
use rookery_types::{
    AccountId, AccountName, Address, Encoding, Epoch, NameError, NodeId, StoreId, Style, UserName,
};
use std::sync::Arc;

const HERE: NodeId = NodeId(1);

struct Site {
    engine: Arc<dyn Engine>,
    directory: EmbeddedDirectory,
}

impl Site {
    async fn new() -> Site {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(SimDisk::new(1)));
        let directory =
            EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine.clone()))).unwrap();
        directory.add_domain("example.org".to_string()).await.unwrap();
        Site { engine, directory }
    }

    async fn account(&self, name: &str, node: NodeId) -> AccountId {
        let home = Home { node, store: StoreId([1; 16]), epoch: Epoch(1) };
        let entry = self.directory.reserve(AccountName::parse(name).unwrap(), home, 1).await.unwrap();
        self.directory.activate(entry.id).await.unwrap().id
    }

    async fn resolve(&self, style: Style, name: &str) -> Result<(Route, String), RouteError> {
        let router = Router::new(Arc::new(self.directory.clone()), HERE, style);
        let joe = UserName::parse("joe", "example.org").unwrap();
        let target = router.resolve(&joe, name.as_bytes(), Encoding::Utf8).await?;
        Ok((target.route, target.address.to_string()))
    }
}

#[tokio::test]
async fn names_lead_to_accounts_in_both_styles() {
    let site = Site::new().await;
    let joe = site.account("user/joe@example.org", HERE).await;
    let team = site.account("team@example.org", HERE).await;
    let ann = site.account("user/ann@example.org", HERE).await;
    for (rookery, cyrus, account, address) in [
        ("inbox", "INBOX", joe, "user/joe@example.org"),
        ("Sent", "INBOX/Sent", joe, "user/joe/Sent@example.org"),
        ("Other Users/ann/x", "user/ann/x", ann, "user/ann/x@example.org"),
        ("Shared/team", "team", team, "team@example.org"),
    ] {
        for (style, name) in [(Style::Rookery, rookery), (Style::Cyrus, cyrus)] {
            let found = site.resolve(style, name).await;
            assert_eq!(found, Ok((Route::Here { account }, address.to_string())));
        }
    }
}

#[tokio::test]
async fn each_error_says_what_is_the_matter() {
    let site = Site::new().await;
    site.account("user/far@example.org", NodeId(2)).await;
    let gone = site.account("user/gone@example.org", HERE).await;
    site.directory.set_state(gone, AccountState::Deleted).await.unwrap();
    let held = site.account("user/held@example.org", HERE).await;
    site.directory.set_state(held, AccountState::Suspended).await.unwrap();
    let home = Home { node: HERE, store: StoreId([1; 16]), epoch: Epoch(1) };
    let new = AccountName::parse("user/new@example.org").unwrap();
    site.directory.reserve(new, home, 1).await.unwrap();

    let resolve = |name: &'static str| site.resolve(Style::Rookery, name);
    assert_eq!(resolve("Other Users/far").await.unwrap().0, Route::Proxy(NodeId(2)));
    assert!(resolve("Other Users/held").await.is_ok());
    for none in
        ["Other Users/gone", "Other Users/new", "Other Users/nobody", "Other Users/ann@b.test", "Shared/none"]
    {
        assert!(matches!(resolve(none).await, Err(RouteError::NonExistent(_))), "{none}");
    }
    assert_eq!(resolve("a//b").await, Err(RouteError::Name(NameError::EmptyComponent)));
    assert!(matches!(resolve("Shared").await, Err(RouteError::Name(NameError::Reserved(_)))));
}

#[tokio::test]
async fn a_damaged_directory_does_not_say_that_nobody_is_there() {
    let site = Site::new().await;
    let mut batch = Batch::new();
    batch.put(Space::Directory, b"aexample.org\0ujoe".to_vec(), b"rubbish".to_vec());
    site.engine.commit(batch).unwrap();
    let found = site.resolve(Style::Rookery, "INBOX").await;
    assert!(matches!(found, Err(RouteError::Unavailable(DirectoryError::Damaged(_)))), "{found:?}");
    // Nor does a state that cannot be read: whether the look-up was up to date is not known then.
    let mut batch = Batch::new();
    batch.put(Space::Directory, b"s".to_vec(), b"rubbish".to_vec());
    site.engine.commit(batch).unwrap();
    assert!(matches!(site.resolve(Style::Rookery, "Shared/none").await, Err(RouteError::Unavailable(_))));
}

#[tokio::test]
async fn new_names_and_known_addresses() {
    let site = Site::new().await;
    let joe = site.account("user/joe@example.org", HERE).await;
    let router = Router::new(Arc::new(site.directory.clone()), HERE, Style::Rookery);
    let viewer = UserName::parse("joe", "example.org").unwrap();
    let made = router.resolve_new(&viewer, b"Entw&APw-rfe/", Encoding::Utf7).await.unwrap();
    assert_eq!(made.address.to_string(), "user/joe/Entwürfe@example.org");
    let refused = router.resolve_new(&viewer, b"user/x", Encoding::Utf7).await;
    assert_eq!(refused, Err(RouteError::Name(NameError::Reserved("user".to_string()))));
    let inbox = router.target(Address::inbox(viewer)).await.unwrap();
    assert_eq!(inbox.route, Route::Here { account: joe });
}

/// Knows `new@example.org`, and makes the account.
struct Town(EmbeddedDirectory);

impl Newcomers for Town {
    fn know<'a>(&'a self, user: &'a UserName) -> Coming<'a, bool> {
        Box::pin(async move { user.local() == "new" })
    }

    fn welcome<'a>(&'a self, user: &'a UserName) -> Coming<'a, Result<(), String>> {
        Box::pin(async move {
            let home = Home { node: HERE, store: StoreId([1; 16]), epoch: Epoch(1) };
            let made = self.0.reserve(AccountName::User(user.clone()), home, 1).await;
            let entry = made.map_err(|error| error.to_string())?;
            self.0.activate(entry.id).await.map(drop).map_err(|error| error.to_string())
        })
    }
}

#[tokio::test]
async fn mail_finds_accounts_aliases_newcomers_and_catch_alls() {
    let site = Site::new().await;
    for name in ["joe", "ann", "held", "gone"] {
        let id = site.account(&format!("user/{name}@example.org"), HERE).await;
        match name {
            "held" => drop(site.directory.set_state(id, AccountState::Suspended).await.unwrap()),
            "gone" => drop(site.directory.set_state(id, AccountState::Deleted).await.unwrap()),
            _ => {}
        }
    }
    site.directory.add_domain("other.test".to_string()).await.unwrap();
    let user = |text: &str| UserName::parse(text, "example.org").unwrap();
    let depth: Vec<(String, String)> =
        (0..12).map(|n| (format!("deep{n}"), format!("deep{}", n + 1))).collect();
    let aliases = [
        ("sales", vec!["joe", "ann", "nobody"]),
        ("all", vec!["sales", "held", "all@other.test"]),
        ("loop", vec!["pool"]),
        ("pool", vec!["loop", "joe"]),
        ("dead", vec!["nobody", "gone"]),
        ("deep12", vec!["joe"]),
        ("@other.test", vec!["ann"]),
    ];
    let deep = depth.iter().map(|(from, to)| (from.as_str(), vec![to.as_str()]));
    for (name, targets) in aliases.into_iter().chain(deep) {
        let name = AliasName::parse(name, "example.org").unwrap();
        site.directory.set_alias(name, targets.into_iter().map(user).collect()).await.unwrap();
    }
    let plain = Router::new(Arc::new(site.directory.clone()), HERE, Style::Rookery);
    let router = plain.clone().with_newcomers(Arc::new(Town(site.directory.clone())));
    for (address, expected, by_alias) in [
        ("joe", Some(vec!["joe"]), false),
        ("held", Some(vec!["held"]), false),
        ("sales", Some(vec!["ann", "joe"]), true),
        ("all", Some(vec!["ann", "held", "joe"]), true),
        ("loop", Some(vec!["joe"]), true),
        ("dead", None, true),
        ("gone", None, true),
        ("nobody", None, true),
        ("deep6", Some(vec!["joe"]), true),
        ("deep0", None, true),
        ("whoever@other.test", Some(vec!["ann"]), true),
        ("new", Some(vec!["new"]), false),
        ("x@nowhere.test", None, true),
    ] {
        let found = router.recipients(&user(address)).await;
        match expected {
            Some(users) => {
                let users = users.into_iter().map(user).collect();
                assert_eq!(found, Ok(Recipients { users, by_alias }), "{address}");
            }
            None => assert!(matches!(found, Err(RouteError::NonExistent(_))), "{address}: {found:?}"),
        }
    }
    assert!(plain.recipients(&user("new")).await.is_err());
    assert!(plain.deliver_to(&user("new")).await.is_err());
    assert_eq!(router.deliver_to(&user("new")).await.unwrap().len(), 1);
    assert_eq!(plain.deliver_to(&user("all")).await.unwrap().len(), 3);
    assert!(
        router.has_domain("other.test").await.unwrap() && !router.has_domain("nowhere.test").await.unwrap()
    );
}

#[tokio::test]
async fn what_another_store_has_is_not_missed_in_this_one() {
    let site = Site::new().await;
    let joe = site.account("user/joe@example.org", HERE).await;
    let fence = Fence::default();
    let router = |store: u8| {
        Router::new(Arc::new(site.directory.clone()), HERE, Style::Rookery)
            .with_store(StoreId([store; 16]), fence.clone())
    };
    let inbox = || Address::inbox(UserName::parse("joe", "example.org").unwrap());
    let away =
        |found: Result<rookery_route::Target, RouteError>| matches!(found, Err(RouteError::Unavailable(_)));
    assert!(away(router(2).target(inbox()).await), "the store is another one");
    assert_eq!(router(1).target(inbox()).await.unwrap().route, Route::Here { account: joe });
    fence.close("it is old");
    assert!(away(router(1).target(inbox()).await));
    fence.lift();
    assert_eq!(router(1).target(inbox()).await.unwrap().route, Route::Here { account: joe });
}
