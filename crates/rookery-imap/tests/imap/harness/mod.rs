//! A site in memory, for the tests of sessions: its nodes, its users and their mail.
//!
//! Which nodes there are is said by the test program (`crate::NODES`); a test sees no difference. The nodes reach each
//! other by [`Links`], a [`Client`] comes in at one of them, and [`Site::play`] plays a script of what clients send and
//! hear. The file is called `mod.rs` because the other test programs have it by its path.

mod client;
mod counting;
mod links;
mod script;

pub(crate) use client::Client;

use counting::Counting;
use links::Links;
use rookery_auth::{
    AccountState, Accounts, Authenticator, AuthenticatorOptions, Credential, HashParams, Hasher,
    HasherOptions, LookUp, Sessions,
};
use rookery_directory::{DirectCommit, Directory, EmbeddedDirectory, Home, Published};
use rookery_imap::{Entrance, HeaderTexts, ImapConfig, Services, SortTables, serve_connection};
use rookery_kv::Engine;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_net::{Accepted, ConnId, ConnectionLimits, Drain, Gate, Networks, ServerTls, Stream};
use rookery_route::{
    Administrators, Coming, NotMoved, Publications, Registrar, Relocated, Relocator, Renames, Router,
    Transit, TransitTimes,
};
use rookery_store::{Account, NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::namespace::parse_identifier;
use rookery_types::{
    AccountId, AccountName, Acl, Epoch, InternalDate, Keyword, MailboxId, MailboxPath, NodeId, Rights,
    SharedName, SpecialUse, StoreId, Style, SystemFlags, UserName,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

#[path = "../../../../rookery-route/tests/two_nodes/mod.rs"]
#[allow(dead_code, reason = "accounts do not move in all of the test programs")]
mod two_nodes;

/// Which nodes there are.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each test program has one of them")]
pub(crate) enum Nodes {
    /// One, which does everything.
    One,
    /// One with the mail, and one without, which takes the clients.
    HomeAndEdge,
    /// The same, and behind every line that a client sends its session goes on from its value, in another task.
    HandedOver,
    /// The same two, and before every command of ann's her account moves to the other of them.
    Travelling,
    /// Ann's home, which has shared trees too, and the home of all others, which takes the clients.
    TwoHomes,
}

/// A server with the users ann, joe and max; everyone's password is `secret`. Max administers it, as root does without
/// having an account, and adm@b.test the domain b.test.
pub(crate) struct Site {
    pub(crate) services: Arc<Services>,
    pub(crate) drain: Drain,
    /// Records that were read from the engine.
    pub(crate) reads: Arc<AtomicU64>,
    /// Another node that takes the clients.
    pub(crate) front: Option<Arc<Services>>,
    /// What links the nodes.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) links: Arc<Links>,
    /// Of each node.
    renames: Vec<Renames>,
    gate: Gate,
    common: Common,
    /// The one with the primary records.
    directory: EmbeddedDirectory,
}

/// What all nodes of a site have in common.
struct Common {
    links: Arc<Links>,
    config: ImapConfig,
    tls: Option<Arc<ServerTls>>,
    authenticator: Arc<Authenticator>,
}

impl Common {
    /// A node, which the others reach from now on.
    fn services(&self, store: Store, directory: EmbeddedDirectory) -> Arc<Services> {
        let user = |name| UserName::parse(name, "example.org").unwrap();
        let Common { links, config, tls, authenticator } = self;
        let directory: Arc<dyn Directory> = Arc::new(directory);
        let administrators = Administrators::new(vec![user("root"), user("max")], vec![user("adm@b.test")]);
        let times = TransitTimes { answer_max: Duration::from_millis(500), ..TransitTimes::default() };
        let transit =
            Transit::new(store.clone(), directory.clone(), links.clone(), administrators.clone(), times);
        let services = Arc::new(Services {
            keeper: Default::default(),
            registrar: Arc::new(Registrar::new(directory.clone(), store.clone(), vec![])),
            relocator: Arc::new(SaidByName),
            administrators,
            router: Router::new(directory.clone(), store.node(), Style::Rookery).with_moves(store.clone()),
            store,
            directory: directory.clone(),
            peers: links.clone(),
            transit,
            authenticator: authenticator.clone(),
            tls: tls.clone(),
            config: config.clone(),
            hostname: "mail.example.org".to_string(),
            trusted: Networks::none(),
            sessions: Sessions::new(),
            header_texts: HeaderTexts::new(1 << 20),
            sort_tables: SortTables::new(1 << 20),
        });
        links.add(services.clone());
        services
    }
}

struct EverySecret(String);

impl Accounts for EverySecret {
    fn look_up<'a>(&'a self, user: &'a UserName) -> LookUp<'a> {
        let known = ["ann", "joe", "jim", "max", "root", "adm", "eve"].contains(&user.local());
        let credential = Credential { verifier: Some(self.0.clone()), state: AccountState::Active };
        Box::pin(async move { Ok(known.then_some(credential)) })
    }

    fn may_act_as(&self, who: &UserName, _whom: &UserName) -> bool {
        who.local() == "root"
    }
}

/// Says of nodes what their names say.
struct SaidByName;

impl Relocator for SaidByName {
    fn relocate<'a>(
        &'a self,
        account: &'a AccountName,
        node: &'a str,
    ) -> Coming<'a, Result<Relocated, NotMoved>> {
        Box::pin(async move {
            match node {
                _ if account.to_string().starts_with("user/nobody") => Err(NotMoved::NonExistent),
                "far.example" => Ok(Relocated::Moved),
                "near.example" => Ok(Relocated::WasThere),
                "busy.example" => Err(NotMoved::InUse(format!("{account} is on its way"))),
                "away.example" => Err(NotMoved::Unavailable(format!("{account} stays where it is"))),
                _ => Err(NotMoved::Refused(format!("There is no node {node}"))),
            }
        })
    }
}

impl Site {
    pub(crate) async fn new() -> Site {
        Site::with(ImapConfig::default()).await
    }

    pub(crate) async fn with(config: ImapConfig) -> Site {
        Site::built(config, None).await
    }

    /// A site with a certificate that nobody has signed.
    pub(crate) async fn with_tls() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let made = rookery_net::tls::self_signed(&["mail.example.org".to_string()], dir.path()).unwrap();
        let tls = ServerTls::load(made.cert, made.key).unwrap();
        Site::built(ImapConfig::default(), Some(Arc::new(tls))).await
    }

    async fn built(config: ImapConfig, tls: Option<Arc<ServerTls>>) -> Site {
        let disk = SimDisk::new(1);
        let options = StoreOptions { background: None, ..StoreOptions::default() };
        let links = Links::new();
        let reads = Arc::new(AtomicU64::new(0));
        let engine: Arc<dyn Engine> =
            Arc::new(Counting { inner: MemoryEngine::new(disk.clone()), reads: reads.clone() });
        let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
        let commit = Arc::new(DirectCommit(engine.clone()));
        let directory = EmbeddedDirectory::open(engine.clone(), commit).unwrap();
        Publications::start(store.clone(), Arc::new(directory.clone()), engine.clone()).await.unwrap();
        let renames = Renames::start(store.clone(), &directory, engine);
        directory.add_domain("example.org".to_string()).await.unwrap();
        let second = match crate::NODES {
            Nodes::One => None,
            Nodes::HomeAndEdge | Nodes::HandedOver | Nodes::Travelling | Nodes::TwoHomes => {
                Some(two_nodes::second_node(&directory).await)
            }
        };
        let mut renames = vec![renames];
        let second = second.map(|(store, copy, of_second)| {
            renames.push(of_second);
            (store, copy)
        });
        for user in ["ann", "joe", "max"] {
            let home = second.as_ref().filter(|_| crate::NODES == Nodes::TwoHomes && user != "ann");
            let (store, directory) = home.map_or((&store, &directory), |(store, copy)| (store, copy));
            add_user(store, directory, user).await;
        }
        let params = HashParams { memory_kib: 8, passes: 1, lanes: 1 };
        let hasher = Hasher::new(HasherOptions { workers: 1, params, ..HasherOptions::default() }).unwrap();
        let verifier = hasher.hash(b"secret").await.unwrap();
        let options = AuthenticatorOptions::new("example.org");
        let authenticator = Authenticator::new(Arc::new(EverySecret(verifier)), Arc::new(hasher), options);
        let authenticator = Arc::new(authenticator);
        let common = Common { links: links.clone(), config, tls, authenticator };
        let embedded = directory.clone();
        let services = |store, directory| common.services(store, directory);
        let services_of_home = services(store, directory);
        Site {
            services: services_of_home,
            front: second.map(|(store, copy)| services(store, copy)),
            links,
            renames,
            common,
            directory: embedded,
            drain: Drain::new(),
            reads,
            gate: Gate::new(ConnectionLimits::default()),
        }
    }

    /// Adds a user who is at home at a node of their own.
    #[allow(dead_code, reason = "only where there are two homes is there a third")]
    pub(crate) async fn add_home(&mut self, user: &str) -> NodeId {
        let (store, copy, renames) = two_nodes::another_node(&self.directory, 3).await;
        add_user(&store, &copy, user).await;
        self.renames.push(renames);
        let node = store.node();
        self.common.services(store, copy);
        self.settled().await;
        node
    }

    /// The node that takes the clients.
    fn front(&self) -> Arc<Services> {
        self.front.as_ref().unwrap_or(&self.services).clone()
    }

    /// Waits until the node that takes the clients knows what the directory knows.
    pub(crate) async fn settled(&self) {
        self.front().directory.barrier().await.unwrap();
    }

    /// Waits until all nodes have followed those who have other names.
    #[allow(dead_code, reason = "not all test programs have the tests that need it")]
    pub(crate) async fn renamed(&self) {
        let revision = self.services.directory.barrier().await.unwrap();
        self.settled().await;
        for renames in &self.renames {
            renames.reach(revision).await;
        }
    }

    /// The node that has an account.
    async fn home_of(&self, account: AccountId) -> Arc<Services> {
        for services in std::iter::once(&self.services).chain(&self.front) {
            if services.store.account(account).await.is_ok() {
                return services.clone();
            }
        }
        panic!("no node has {account}");
    }

    /// Moves an account to the other of two nodes, whatever its sessions do meanwhile.
    #[allow(dead_code, reason = "not where there is one node")]
    pub(crate) async fn relocate(&self, user: &str) {
        let name = AccountName::User(UserName::parse(user, "example.org").unwrap());
        let other = self.front.as_ref().unwrap();
        let stores = [&self.services.store, &other.store];
        two_nodes::relocate(&*self.services.directory, &name, stores).await;
    }

    pub(crate) async fn account(&self, user: &str) -> Account {
        let name = AccountName::User(UserName::parse(user, "example.org").unwrap());
        let entry = self.services.directory.look_up(&name).await.unwrap();
        self.home_of(entry.id).await.store.account(entry.id).await.unwrap()
    }

    /// Adds a shared tree of one mailbox, on which someone has rights.
    pub(crate) async fn add_shared(&self, root: &str, identifier: &str, rights: &str) {
        let store = &self.services.store;
        let name = AccountName::Shared(SharedName::new(root, "example.org").unwrap());
        let home = Home { node: store.node(), store: store.store_id(), epoch: Epoch(1) };
        let entry = self.services.directory.reserve(name, home, 1).await.unwrap();
        let mailboxes = vec![(MailboxPath::root(), vec![])];
        let new = NewAccount { owner: None, mailboxes, subscriptions: vec![] };
        let account = store.create_account(entry.id, new).await.unwrap();
        self.services.directory.activate(entry.id).await.unwrap();
        let id = account.tree().get(&MailboxPath::root()).unwrap();
        let (identifier, _) = parse_identifier(identifier, "example.org").unwrap();
        let mut acl = Acl::new();
        acl.set(identifier, false, Rights::parse(rights).unwrap());
        account.set_acl(id, acl).await.unwrap();
    }

    /// Adds a user of another node, and sets what that publishes of one mailbox.
    pub(crate) async fn publish_elsewhere(&self, user: &str, path: &str, acl: &[(&str, &str)]) {
        let directory = &self.services.directory;
        let name = AccountName::User(UserName::parse(user, "example.org").unwrap());
        let home = Home { node: NodeId(77), store: StoreId([77; 16]), epoch: Epoch(1) };
        let entry = match directory.look_up(&name).await {
            Ok(entry) => entry,
            Err(_) => {
                let reserved = directory.reserve(name.clone(), home, 1).await.unwrap();
                directory.activate(reserved.id).await.unwrap()
            }
        };
        let mut shared = Acl::new();
        for (identifier, rights) in acl {
            let (identifier, negative) = parse_identifier(identifier, "example.org").unwrap();
            shared.set(identifier, negative, Rights::parse(rights).unwrap());
        }
        let mailbox = MailboxId { account: entry.id, number: 1 };
        let published = Published::of(&name, mailbox, &MailboxPath::new(path).unwrap(), &shared, &[]);
        directory.publish(vec![(mailbox, published)]).await.unwrap();
    }

    /// A client that has heard the greeting.
    pub(crate) async fn connect(&self) -> Client {
        self.connect_from(None).await.0
    }

    /// The same from an address, with the greeting.
    pub(crate) async fn connect_from(&self, peer: Option<SocketAddr>) -> (Client, String) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let mut stream = Stream::from(theirs);
        if let Some(peer) = peer {
            stream = stream.with_peer(rookery_net::Peer::from_addr(peer));
        }
        let permit = self.gate.admit_peer(stream.peer()).unwrap();
        let accepted = Accepted { stream, id: ConnId::next(), permit, drain: self.drain.guard() };
        tokio::spawn(serve_connection(accepted, self.front(), Entrance::default()));
        let mut client = Client::new(ours);
        let greeting = client.line().await;
        assert!(greeting.starts_with("* OK [CAPABILITY IMAP4rev1 "), "{greeting}");
        (client, greeting)
    }

    /// A session that nobody drives.
    pub(crate) fn session(&self) -> impl Future<Output = ()> + use<> {
        let stream = Stream::from(tokio::io::duplex(1).1);
        let permit = self.gate.admit_peer(stream.peer()).unwrap();
        let accepted = Accepted { stream, id: ConnId::next(), permit, drain: self.drain.guard() };
        serve_connection(accepted, self.front(), Entrance::default())
    }

    /// A client of a user who has logged in.
    pub(crate) async fn login(&self, user: &str) -> Client {
        let mut client = self.connect().await;
        let answer = client.command(&format!("login LOGIN {user} secret")).await;
        assert!(answer.last().unwrap().starts_with("login OK [CAPABILITY "), "{answer:?}");
        client
    }

    /// Puts messages into ann's INBOX: one for each letter: `d` is \Deleted, `s` \Seen, `.` nothing.
    pub(crate) async fn fill(&self, letters: &str) {
        let account = self.account("ann").await;
        let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
        for (n, letter) in letters.chars().enumerate() {
            let flags = match letter {
                'd' => SystemFlags::DELETED,
                's' => SystemFlags::SEEN,
                _ => SystemFlags::NONE,
            };
            let body = format!(
                "From: Joe <joe@example.org>\r\nTo: ann@example.org\r\nSubject: Number {n}\r\n\
                 Date: Mon, 1 Jan 2024 10:00:0{} +0000\r\nMessage-ID: <{n}@example.org>\r\n\r\nbody {n}\r\n",
                n % 10
            );
            self.append(&account, inbox, body.as_bytes(), flags, &[]).await;
        }
    }

    pub(crate) async fn append(
        &self,
        account: &Account,
        mailbox: rookery_types::MailboxId,
        body: &[u8],
        flags: SystemFlags,
        keywords: &[&str],
    ) {
        let mut spool = self.home_of(account.id()).await.store.spool();
        spool.push(body).unwrap();
        let keywords = keywords.iter().map(|keyword| Keyword::new(keyword).unwrap()).collect();
        let date = InternalDate::parse("01-Jan-2024 10:00:00 +0000").unwrap();
        let message = NewMessage { body: spool.finish().unwrap(), flags, keywords, date };
        account.append(mailbox, vec![message]).await.unwrap();
    }
}

async fn add_user(store: &Store, directory: &EmbeddedDirectory, user: &str) {
    let user = UserName::parse(user, "example.org").unwrap();
    let home = Home { node: store.node(), store: store.store_id(), epoch: Epoch(1) };
    let entry = directory.reserve(AccountName::User(user.clone()), home, 1).await.unwrap();
    let path = |text| MailboxPath::new(text).unwrap();
    let new = NewAccount {
        owner: Some(user),
        mailboxes: vec![
            (MailboxPath::inbox(), vec![]),
            (path("Sent"), vec![SpecialUse::Sent]),
            (path("Trash"), vec![SpecialUse::Trash]),
        ],
        subscriptions: vec![],
    };
    store.create_account(entry.id, new).await.unwrap();
    directory.activate(entry.id).await.unwrap();
}
