//! Sessions whose account moves between two nodes while they work: their clients, at either node, hear nothing of it, and
//! QUIT removes what was marked, once, wherever the account is then.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop here

#[path = "../../rookery-route/tests/two_nodes/mod.rs"]
mod two_nodes;

use rookery_auth::{
    AccountState, Accounts, Authenticator, AuthenticatorOptions, Credential, HashParams, Hasher,
    HasherOptions, LookUp, Sessions,
};
use rookery_directory::{DirectCommit, Directory, EmbeddedDirectory, Home};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_kv::{Bytes, Engine};
use rookery_net::{Accepted, ConnId, ConnectionLimits, Drain, Gate, Networks, Peer, Pipe, Stream};
use rookery_pop3::{Pop3Config, Services, serve_connection, serve_pipe};
use rookery_route::{
    Keeper, Kept, PeerError, Peers, PipeService, Publications, Reaching, Relayed, Renames, Reopening, Router,
    SessionHead,
};
use rookery_store::{Account, FlagChange, FlagList, NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{
    AccountName, Epoch, InternalDate, MailboxPath, NodeId, Style, SystemFlags, Uid, UidSet, UserName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use two_nodes::{Moving, relocate, second_node};

struct EverySecret(String);

impl Accounts for EverySecret {
    fn look_up<'a>(&'a self, _user: &'a UserName) -> LookUp<'a> {
        let credential = Credential { verifier: Some(self.0.clone()), state: AccountState::Active };
        Box::pin(async move { Ok(Some(credential)) })
    }
}

/// The links between the nodes, in memory.
#[derive(Default)]
struct Links(Mutex<BTreeMap<NodeId, Arc<Services>>>);

impl Peers for Links {
    fn open(&self, node: NodeId, service: PipeService, head: Bytes) -> Reaching<'_> {
        assert_eq!(service, PipeService::Pop3);
        let home = self.0.lock().unwrap().get(&node).cloned();
        Box::pin(async move {
            let Some(home) = home else { return Err(PeerError { node, why: "it is away".to_owned() }) };
            let (near, far) = rookery_net::pipe::in_memory(1 << 16);
            let head = SessionHead::decode(&head).unwrap();
            tokio::spawn(async move {
                let drain = Drain::new();
                serve_pipe(Box::new(far), head, home, drain.guard()).await;
            });
            Ok::<Box<dyn Pipe>, PeerError>(Box::new(near))
        })
    }
}

/// Two nodes, of which the first is joe's home at first. Both take clients.
struct Site {
    nodes: [Arc<Services>; 2],
    directory: EmbeddedDirectory,
    links: Arc<Links>,
    drain: Drain,
    _renames: Renames,
}

fn joe() -> UserName {
    UserName::parse("joe", "example.org").unwrap()
}

impl Site {
    async fn new() -> Site {
        let disk = SimDisk::new(1);
        let options = StoreOptions { background: None, ..StoreOptions::default() };
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
        let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
        let directory =
            EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine.clone()))).unwrap();
        Publications::start(store.clone(), Arc::new(directory.clone()), engine).await.unwrap();
        directory.add_domain("example.org".to_string()).await.unwrap();
        let home = Home { node: store.node(), store: store.store_id(), epoch: Epoch(1) };
        let entry = directory.reserve(AccountName::User(joe()), home, 1).await.unwrap();
        let mailboxes = vec![(MailboxPath::inbox(), vec![])];
        let new = NewAccount { owner: Some(joe()), mailboxes, subscriptions: vec![] };
        store.create_account(entry.id, new).await.unwrap();
        directory.activate(entry.id).await.unwrap();
        let (second, copy, renames) = second_node(&directory).await;
        let params = HashParams { memory_kib: 8, passes: 1, lanes: 1 };
        let hasher = Hasher::new(HasherOptions { workers: 1, params, ..HasherOptions::default() }).unwrap();
        let verifier = hasher.hash(b"secret").await.unwrap();
        let options = AuthenticatorOptions::new("example.org");
        let authenticator = Authenticator::new(Arc::new(EverySecret(verifier)), Arc::new(hasher), options);
        let (authenticator, links) = (Arc::new(authenticator), Arc::new(Links::default()));
        let services = |store: Store, directory: EmbeddedDirectory| {
            let services = Arc::new(Services {
                router: Router::new(Arc::new(directory), store.node(), Style::Rookery)
                    .with_moves(store.clone()),
                store: store.clone(),
                peers: links.clone(),
                keeper: Keeper::default(),
                authenticator: authenticator.clone(),
                tls: None,
                config: Pop3Config::default(),
                hostname: "mail.example.org".to_string(),
                trusted: Networks::none(),
                sessions: Sessions::new(),
            });
            links.0.lock().unwrap().insert(store.node(), services.clone());
            services
        };
        let nodes = [services(store, directory.clone()), services(second, copy)];
        Site { nodes, directory, links, drain: Drain::new(), _renames: renames }
    }

    fn stores(&self) -> [&Store; 2] {
        [&self.nodes[0].store, &self.nodes[1].store]
    }

    async fn relocate(&self) {
        relocate(&self.directory, &AccountName::User(joe()), self.stores()).await;
    }

    async fn begin_move(&self) -> Moving {
        Moving::begin(&self.directory, &AccountName::User(joe()), self.stores()).await
    }

    /// The account at its home.
    async fn account(&self) -> (Account, &Store) {
        let entry = self.directory.look_up(&AccountName::User(joe())).await.unwrap();
        loop {
            for store in self.stores() {
                if let Ok(account) = store.account(entry.id).await {
                    return (account, store);
                }
            }
            // It has come to the one while the other was looked at.
            tokio::task::yield_now().await;
        }
    }

    async fn append(&self, octets: &[u8]) {
        let (account, store) = self.account().await;
        let mut spool = store.spool();
        spool.push(octets).unwrap();
        let body = spool.finish().unwrap();
        let date = InternalDate::from_unix(1_000_000_000);
        let message = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
        let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
        account.append(inbox, vec![message]).await.unwrap();
    }

    /// Removes messages as an IMAP session does.
    async fn expunge(&self, uids: &[u32]) {
        let uids: UidSet = uids.iter().map(|n| Uid::new(*n).unwrap()).collect();
        let (account, _) = self.account().await;
        let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
        let mailbox = account.open(inbox).await.unwrap();
        let deleted = FlagList { flags: SystemFlags::DELETED, keywords: vec![] };
        mailbox.store_flags(&uids, FlagChange::Add(deleted), None).await.unwrap();
        mailbox.expunge(Some(&uids)).await.unwrap();
    }

    async fn uids(&self) -> Vec<u32> {
        let (account, _) = self.account().await;
        let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
        let mailbox = account.open(inbox).await.unwrap();
        mailbox.now().messages.clone().unwrap().iter().map(|found| found.unwrap().1.uid.get()).collect()
    }

    /// A client of one of the nodes, which has logged in.
    async fn login(&self, node: usize) -> Client {
        let (near, far) = tokio::io::duplex(1 << 16);
        let accepted = Accepted {
            stream: Stream::from(far),
            id: ConnId::next(),
            permit: Gate::new(ConnectionLimits::default()).admit_peer(Peer::Memory).unwrap(),
            drain: self.drain.guard(),
        };
        let session = tokio::spawn(serve_connection(accepted, self.nodes[node].clone(), false));
        let mut client = Client { stream: near, session };
        assert_eq!(client.line().await, "+OK mail.example.org Rookery POP3 ready");
        client.ok("USER joe").await;
        client.ok("PASS secret").await;
        client
    }
}

struct Client {
    stream: DuplexStream,
    session: JoinHandle<()>,
}

impl Client {
    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// One line, without its end; empty at the connection's end.
    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while let Ok(octet) = self.stream.read_u8().await {
            line.push(octet);
            if line.ends_with(b"\r\n") {
                line.truncate(line.len() - 2);
                break;
            }
        }
        String::from_utf8(line).unwrap()
    }

    async fn ok(&mut self, command: &str) -> String {
        self.send(&format!("{command}\r\n")).await;
        let line = self.line().await;
        assert!(line.starts_with("+OK"), "{command}: {line:?}");
        line
    }

    /// A command and all that is answered.
    async fn command(&mut self, command: &str) -> Vec<String> {
        self.send(&format!("{command}\r\n")).await;
        self.answer(command).await
    }

    async fn answer(&mut self, command: &str) -> Vec<String> {
        let mut lines = vec![self.line().await];
        let is_long = ["LIST", "UIDL", "RETR", "TOP", "CAPA"].iter().any(|verb| {
            let argument = command.strip_prefix(verb);
            argument.is_some_and(|rest| rest.is_empty() || ["RETR", "TOP"].contains(verb))
        });
        while is_long && lines[0].starts_with("+OK") && lines.last().unwrap() != "." {
            lines.push(self.line().await);
        }
        lines
    }

    async fn rest(&mut self) -> String {
        let mut text = String::new();
        self.stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// A dialogue, with what others do meanwhile: all that was answered, and what is left in the end.
async fn dialogue(node: usize, moves: bool) -> (Vec<String>, Vec<u32>) {
    let site = Site::new().await;
    for number in 1..=9 {
        let text = format!("Subject: {number}\r\n\r\n{}\r\n.dot\r\n", "x".repeat(number * 10));
        site.append(text.as_bytes()).await;
    }
    let mut client = site.login(node).await;
    let mut heard = Vec::new();
    let script = "STAT;LIST;UIDL;DELE 2;+;LIST;DELE 2;-4;RETR 4;LIST 4;UIDL 4;TOP 1 1;DELE 4;XYZZY;STAT;-5;RETR 5;RSET;\
                  STAT;UIDL;DELE 1;DELE 3;+;LIST;RETR 1;RETR 9;USER joe;NOOP;DELE 5;-6;CAPA;UIDL;LIST 10;QUIT";
    for step in script.split(';') {
        match step.split_at(1) {
            ("+", "") => site.append(b"Subject: new\r\n\r\nnew\r\n").await,
            ("-", uid) => site.expunge(&[uid.parse().unwrap()]).await,
            _ => {
                if moves {
                    site.relocate().await;
                }
                heard.push(format!("> {step}"));
                heard.extend(client.command(step).await);
            }
        }
    }
    heard.push(client.rest().await);
    // UIDVALIDITY is what it happens to be.
    let ids = heard.iter().find(|line| line.starts_with("1 ") && line.ends_with(".1")).unwrap();
    let validity = ids.split([' ', '.']).nth(1).unwrap().to_owned();
    let heard = heard.into_iter().map(|line| line.replace(&validity, "VALIDITY")).collect();
    (heard, site.uids().await)
}

#[tokio::test]
async fn every_command_is_answered_as_ever_when_the_account_has_moved_before_it() {
    let (heard, left) = dialogue(0, false).await;
    assert_eq!(left, [2, 7, 8, 9, 10, 11], "{heard:#?}");
    for node in [0, 1] {
        let (heard_moving, left_moving) = dialogue(node, true).await;
        assert_eq!(heard_moving, heard, "at node {node}");
        assert_eq!(left_moving, left, "at node {node}");
    }
}

#[tokio::test]
async fn what_was_marked_before_moves_is_removed_by_quit_behind_them() {
    for moves in 1..=4 {
        let site = Site::new().await;
        for number in 1..=6 {
            site.append(format!("Subject: {number}\r\n\r\n").as_bytes()).await;
        }
        let (mut near, mut far, mut idle) = (site.login(0).await, site.login(1).await, site.login(0).await);
        near.ok("DELE 1").await;
        far.ok("DELE 2").await;
        idle.ok("DELE 6").await;
        for _ in 0..moves {
            site.relocate().await;
        }
        near.ok("DELE 3").await;
        assert_eq!(site.uids().await, [1, 2, 3, 4, 5, 6], "nothing is gone before QUIT");
        assert_eq!(near.ok("STAT").await, "+OK 4 56");
        for client in [&mut near, &mut far] {
            assert_eq!(client.ok("QUIT").await, "+OK What you deleted is gone; bye");
            assert_eq!(client.rest().await, "");
        }
        assert_eq!(site.uids().await, [4, 5, 6]);
        // Whoever leaves without a word removes nothing.
        drop(idle.stream);
        idle.session.await.unwrap();
        assert_eq!(site.uids().await, [4, 5, 6]);
    }
}

#[tokio::test]
async fn quit_while_the_account_stands_still_or_is_given_away_is_done_at_its_new_home() {
    for (node, is_released) in [(0, false), (0, true), (1, false), (1, true)] {
        let site = Site::new().await;
        for number in 1..=3 {
            site.append(format!("Subject: {number}\r\n\r\n").as_bytes()).await;
        }
        let mut client = site.login(node).await;
        client.send("DELE 1\r\nDELE 3\r\n").await;
        assert_eq!([client.line().await, client.line().await], ["+OK Deleted when you say QUIT"; 2]);
        let mut moving = site.begin_move().await;
        if is_released {
            moving.release().await;
        }
        client.send("QUIT\r\n").await;
        // Long enough for whatever moves without the account.
        for _ in 0..1000 {
            tokio::select! {
                biased;
                said = client.stream.read_u8() => panic!("{said:?} was said at node {node}"),
                () = tokio::task::yield_now() => {}
            }
        }
        if !is_released {
            moving.release().await;
        }
        moving.end(&site.directory).await;
        assert_eq!(client.line().await, "+OK What you deleted is gone; bye");
        assert_eq!(client.rest().await, "");
        assert_eq!(site.uids().await, [2], "at node {node}");
    }
}

#[tokio::test]
async fn a_large_message_that_is_under_way_comes_whole() {
    for node in [0, 1] {
        let site = Site::new().await;
        let mut large = b"Subject: large\r\n\r\n".to_vec();
        while large.len() < 3 << 20 {
            large.extend_from_slice(format!("{} {}\r\n", large.len(), "y".repeat(60)).as_bytes());
        }
        site.append(&large).await;
        site.append(b"Subject: two\r\n\r\n").await;
        let mut client = site.login(node).await;
        client.send("RETR 1\r\nDELE 1\r\nRETR 2\r\nRETR 1\r\n").await;
        assert_eq!(client.line().await, format!("+OK {} octets", large.len()));
        let mut found = Vec::new();
        for part in 0..3 {
            for _ in 0..1000 {
                found.extend(format!("{}\r\n", client.line().await).into_bytes());
            }
            site.relocate().await;
            if part == 1 {
                site.expunge(&[2]).await;
            }
        }
        loop {
            match client.line().await.as_str() {
                "." => break,
                line => found.extend(format!("{line}\r\n").into_bytes()),
            }
        }
        assert!(found == large, "{} octets of {}", found.len(), large.len());
        assert_eq!(client.line().await, "+OK Deleted when you say QUIT");
        // It was removed meanwhile, and is still kept.
        assert_eq!(client.answer("RETR 2").await, ["+OK 16 octets", "Subject: two", "", "."]);
        assert_eq!(client.line().await, "-ERR That message is deleted");
        client.ok("QUIT").await;
        assert!(site.uids().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_refused_lost_or_removed_twice_while_the_account_moves_fifty_times() {
    let site = Arc::new(Site::new().await);
    let ends = Arc::new(AtomicBool::new(false));
    let delivering = {
        let (site, ends) = (site.clone(), ends.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while !ends.load(Ordering::Relaxed) && number < 2000 {
                let (account, store) = site.account().await;
                let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
                let mut spool = store.spool();
                spool
                    .push(format!("Subject: {number}\r\n\r\n{}", "z".repeat(number % 900)).as_bytes())
                    .unwrap();
                let body = spool.finish().unwrap();
                let date = InternalDate::from_unix(1_000_000_000);
                let message = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
                // It may have gone meanwhile; then nothing was added.
                if account.append(inbox, vec![message]).await.is_ok() {
                    number += 1;
                }
                tokio::task::yield_now().await;
            }
            number
        })
    };
    // Each takes every third subject, so that nobody else can have removed one.
    let clients: Vec<_> = (0..3)
        .map(|who| {
            let (site, ends) = (site.clone(), ends.clone());
            tokio::spawn(async move {
                let mut taken = BTreeSet::new();
                while !ends.load(Ordering::Relaxed) {
                    let mut client = site.login(who % 2).await;
                    let count: u32 = client.ok("STAT").await.split(' ').nth(1).unwrap().parse().unwrap();
                    let mut mine = Vec::new();
                    for number in (1..=count).rev().take(9) {
                        let message = client.command(&format!("RETR {number}")).await;
                        if message[0].starts_with("-ERR Another session") {
                            continue;
                        }
                        let subject = message[1].strip_prefix("Subject: ").unwrap().parse::<usize>().unwrap();
                        if subject % 3 == who {
                            client.ok(&format!("DELE {number}")).await;
                            mine.push(subject);
                        }
                    }
                    let bye = client.ok("QUIT").await;
                    assert_eq!(bye.ends_with("is gone; bye"), !mine.is_empty(), "{bye}");
                    assert_eq!(client.rest().await, "");
                    for subject in mine {
                        assert!(taken.insert(subject), "{subject} was there again");
                    }
                }
                taken
            })
        })
        .collect();
    for _ in 0..50 {
        site.relocate().await;
    }
    ends.store(true, Ordering::Relaxed);
    let delivered = delivering.await.unwrap();
    let mut all = BTreeSet::new();
    for client in clients {
        all.extend(client.await.unwrap());
    }
    let taken = all.len();
    let mut client = site.login(0).await;
    let left = client.command("LIST").await.len() - 2;
    for number in 1..=left {
        let message = client.command(&format!("TOP {number} 0")).await;
        let subject = message[1].strip_prefix("Subject: ").unwrap().parse::<usize>().unwrap();
        assert!(all.insert(subject), "{subject} was removed and is there");
    }
    assert_eq!(all, (0..delivered).collect::<BTreeSet<_>>());
    assert!(taken >= 20, "only {taken} of {delivered} messages were taken");
}

#[tokio::test]
async fn a_session_that_cannot_go_on_ends_and_removes_nothing() {
    for node in [0, 1] {
        let site = Site::new().await;
        site.append(b"Subject: one\r\n\r\n").await;
        let mut client = site.login(node).await;
        client.ok("DELE 1").await;
        let (account, _) = site.account().await;
        site.nodes[1].sessions.close(account.id());
        site.relocate().await;
        assert_eq!(client.rest().await, "-ERR [SYS/PERM] The account is closed at the moment\r\n");
        assert_eq!(site.uids().await, [1]);
    }
}

#[tokio::test]
async fn a_client_is_kept_while_another_program_takes_the_place_of_its_node() {
    // At its home, and at another node.
    for node in [0, 1] {
        let site = Site::new().await;
        for number in 1..=3 {
            site.append(format!("Subject: {number}\r\n\r\n").as_bytes()).await;
        }
        let mut client = site.login(node).await;
        client.ok("DELE 2").await;
        // Half of a command has come.
        client.send("RET").await;
        let keeper = &site.nodes[node].keeper;
        keeper.open();
        site.drain.start();
        client.session.await.unwrap();
        let [kept] = <[Kept; 1]>::try_from(keeper.close()).map_err(|all| all.len()).unwrap();
        assert_eq!((kept.service, kept.session.node), (PipeService::Pop3, site.nodes[0].store.node()));
        let links = site.links.clone();
        let edge = tokio::spawn(async move {
            let Kept { client: mut stream, service, head, session } = kept;
            let (keeper, drain) = (Keeper::default(), Drain::new());
            let reopening = Reopening { peers: &*links, service, head: &head, keeper: &keeper };
            rookery_route::go_on(&mut stream, session, &drain.guard(), reopening, &mut ()).await
        });
        let stream = client.stream;
        let mut client = Client { stream, session: tokio::spawn(async {}) };
        client.send("R 1\r\n").await;
        assert_eq!(client.answer("RETR 1").await, ["+OK 14 octets", "Subject: 1", "", "."]);
        client.ok("QUIT").await;
        assert!(matches!(edge.await.unwrap(), Relayed::Ended));
        assert_eq!(site.uids().await, [1, 3]);
    }
}
