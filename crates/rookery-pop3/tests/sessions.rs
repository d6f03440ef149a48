//! Whole POP3 connections against a real store, directory and authenticator in memory.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop here

use std::sync::Arc;
use std::time::Duration;

use rookery_auth::{
    AccountState, Accounts, Authenticator, AuthenticatorOptions, Credential, HashParams, Hasher,
    HasherOptions, LookUp, Sessions,
};
use rookery_directory::{DirectCommit, Directory, EmbeddedDirectory, Home};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_net::{Accepted, ConnId, ConnectionLimits, Drain, Gate, Networks, Peer, ServerTls, Stream};
use rookery_pop3::{Pop3Config, Services, serve_connection};
use rookery_route::{Keeper, NoPeers, Router};
use rookery_store::{Account, FlagChange, FlagList, NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{
    AccountName, Acl, Epoch, Identifier, InternalDate, MailboxPath, Rights, Style, SystemFlags, UidSet,
    UserName,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Everyone's password is `secret`; joe has an account, `shut` is suspended, `lost` is known but has no account.
struct EverySecret(String);

impl Accounts for EverySecret {
    fn look_up<'a>(&'a self, user: &'a UserName) -> LookUp<'a> {
        let state = match user.local() {
            "joe" | "lost" => Some(AccountState::Active),
            "shut" => Some(AccountState::Suspended),
            _ => None,
        };
        let credential = state.map(|state| Credential { verifier: Some(self.0.clone()), state });
        Box::pin(async move { Ok(credential) })
    }
}

struct Site {
    services: Arc<Services>,
    account: Account,
    drain: Drain,
}

impl Site {
    async fn new() -> Site {
        Site::with(Pop3Config::default(), None).await
    }

    async fn with(config: Pop3Config, tls: Option<Arc<ServerTls>>) -> Site {
        let disk = SimDisk::new(1);
        let options = StoreOptions { background: None, ..StoreOptions::default() };
        let store =
            Store::open(options, Arc::new(MemoryEngine::new(disk.clone())), Arc::new(disk.files())).unwrap();
        let engine = Arc::new(MemoryEngine::new(SimDisk::new(2)));
        let directory = EmbeddedDirectory::open(engine.clone(), Arc::new(DirectCommit(engine))).unwrap();
        directory.add_domain("example.org".to_string()).await.unwrap();
        let joe = UserName::parse("joe", "example.org").unwrap();
        let home = Home { node: store.node(), store: store.store_id(), epoch: Epoch(1) };
        let entry = directory.reserve(AccountName::User(joe.clone()), home, 1).await.unwrap();
        let mailboxes = vec![(MailboxPath::inbox(), vec![])];
        let new = NewAccount { owner: Some(joe), mailboxes, subscriptions: vec![] };
        let account = store.create_account(entry.id, new).await.unwrap();
        directory.activate(entry.id).await.unwrap();
        let directory: Arc<dyn Directory> = Arc::new(directory);
        let params = HashParams { memory_kib: 8, passes: 1, lanes: 1 };
        let hasher = Hasher::new(HasherOptions { workers: 1, params, ..HasherOptions::default() }).unwrap();
        let verifier = hasher.hash(b"secret").await.unwrap();
        let options = AuthenticatorOptions::new("example.org");
        let authenticator = Authenticator::new(Arc::new(EverySecret(verifier)), Arc::new(hasher), options);
        let services = Services {
            router: Router::new(directory, store.node(), Style::Rookery),
            store,
            peers: Arc::new(NoPeers),
            keeper: Keeper::default(),
            authenticator: Arc::new(authenticator),
            tls,
            config,
            hostname: "mail.example.org".to_string(),
            trusted: Networks::none(),
            sessions: Sessions::new(),
        };
        Site { services: Arc::new(services), account, drain: Drain::new() }
    }

    async fn append(&self, octets: &[u8]) {
        let mut spool = self.services.store.spool();
        spool.push(octets).unwrap();
        let body = spool.finish().unwrap();
        let date = InternalDate::from_unix(1_000_000_000);
        let message = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
        let inbox = self.account.tree().get(&MailboxPath::inbox()).unwrap();
        self.account.append(inbox, vec![message]).await.unwrap();
    }

    /// Removes messages as an IMAP session does.
    async fn expunge(&self, uids: &[u32]) {
        let uids: UidSet = uids.iter().map(|n| rookery_types::Uid::new(*n).unwrap()).collect();
        let inbox = self.account.tree().get(&MailboxPath::inbox()).unwrap();
        let mailbox = self.account.open(inbox).await.unwrap();
        let deleted = FlagList { flags: SystemFlags::DELETED, keywords: vec![] };
        mailbox.store_flags(&uids, FlagChange::Add(deleted), None).await.unwrap();
        mailbox.expunge(Some(&uids)).await.unwrap();
    }

    async fn uids(&self) -> Vec<u32> {
        let inbox = self.account.tree().get(&MailboxPath::inbox()).unwrap();
        let mailbox = self.account.open(inbox).await.unwrap();
        mailbox.now().messages.clone().unwrap().iter().map(|found| found.unwrap().1.uid.get()).collect()
    }

    fn connect_from(&self, peer: Peer) -> Client {
        let (near, far) = tokio::io::duplex(1 << 16);
        let accepted = Accepted {
            stream: Stream::from(far).with_peer(peer),
            id: ConnId::next(),
            permit: Gate::new(ConnectionLimits::default()).admit_peer(peer).unwrap(),
            drain: self.drain.guard(),
        };
        let server = tokio::spawn(serve_connection(accepted, Arc::clone(&self.services), false));
        Client { stream: near, server }
    }

    fn connect(&self) -> Client {
        self.connect_from(Peer::Memory)
    }

    /// A client that has logged in.
    async fn login(&self) -> Client {
        let mut client = self.connect();
        client
            .talk(&[
                ("", "+OK mail.example.org Rookery POP3 ready"),
                ("USER joe", "+OK"),
                ("PASS secret", "+OK"),
            ])
            .await;
        client
    }
}

struct Client {
    stream: DuplexStream,
    server: tokio::task::JoinHandle<()>,
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

    /// Says each line and expects an answer that begins so.
    async fn talk(&mut self, script: &[(&str, &str)]) {
        for (line, expected) in script {
            if !line.is_empty() {
                self.send(&format!("{line}\r\n")).await;
            }
            let heard = self.line().await;
            assert!(heard.starts_with(expected), "{line:?}: {heard:?}, not {expected:?}");
        }
    }

    /// Says a line and reads the lines behind `+OK`, as they stand on the wire.
    async fn lines(&mut self, line: &str) -> Vec<String> {
        self.talk(&[(line, "+OK")]).await;
        let mut lines = Vec::new();
        loop {
            let line = self.line().await;
            if line == "." {
                return lines;
            }
            lines.push(line);
        }
    }

    /// Everything until the server closes.
    async fn rest(&mut self) -> String {
        let mut text = String::new();
        self.stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

const FIRST: &[u8] = b"Subject: one\r\n\r\n.dot\r\n..two\r\n.\r\nend\r\n";

#[tokio::test]
async fn a_maildrop_is_read_and_emptied() {
    let site = Site::new().await;
    site.append(FIRST).await;
    site.append(b"Subject: two\r\n\r\nbody").await;
    let mut client = site.connect();
    client.talk(&[("", "+OK mail.example.org"), ("USER joe@example.org", "+OK")]).await;
    client.talk(&[("PASS secret", "+OK maildrop has 2 messages (57 octets)"), ("STAT", "+OK 2 57")]).await;
    assert_eq!(client.lines("LIST").await, ["1 37", "2 20"]);
    client.talk(&[("LIST 2", "+OK 2 20"), ("LIST 3", "-ERR"), ("LIST 0", "-ERR")]).await;
    let ids = client.lines("UIDL").await;
    let (first, second) = (ids[0].strip_prefix("1 ").unwrap(), ids[1].strip_prefix("2 ").unwrap());
    assert!(first != second && first.ends_with(".1") && second.ends_with(".2"), "{ids:?}");
    client.talk(&[("UIDL 2", &format!("+OK 2 {second}")), ("UIDL 3", "-ERR")]).await;
    let message = client.lines("RETR 1").await;
    assert_eq!(message, ["Subject: one", "", "..dot", "...two", "..", "end"]);
    // What ends without a line end gets one.
    assert_eq!(client.lines("RETR 2").await, ["Subject: two", "", "body"]);
    assert_eq!(client.lines("TOP 1 0").await, ["Subject: one", ""]);
    assert_eq!(client.lines("TOP 1 2").await, ["Subject: one", "", "..dot", "...two"]);
    client
        .talk(&[
            ("DELE 1", "+OK"),
            ("DELE 1", "-ERR That message is deleted"),
            ("RETR 1", "-ERR"),
            ("TOP 1 1", "-ERR"),
            ("LIST 1", "-ERR"),
            ("UIDL 1", "-ERR"),
            ("DELE 3", "-ERR"),
            ("STAT", "+OK 1 20"),
        ])
        .await;
    assert_eq!(client.lines("LIST").await, ["2 20"]);
    assert_eq!(client.lines("UIDL").await, [format!("2 {second}")]);
    client.talk(&[("RSET", "+OK maildrop has 2 messages"), ("STAT", "+OK 2 57"), ("DELE 1", "+OK")]).await;
    assert_eq!(site.uids().await, [1, 2], "nothing is gone before QUIT");
    client.talk(&[("NOOP", "+OK"), ("QUIT", "+OK")]).await;
    assert_eq!((client.rest().await.as_str(), site.uids().await), ("", vec![2]));
    let mut client = site.login().await;
    assert_eq!(client.lines("UIDL").await, [format!("1 {second}")], "the id stays that of the message");
}

#[tokio::test]
async fn without_quit_nothing_is_removed() {
    let site = Site::new().await;
    site.append(FIRST).await;
    let mut client = site.login().await;
    client.talk(&[("DELE 1", "+OK")]).await;
    drop(client.stream);
    client.server.await.unwrap();
    assert_eq!(site.uids().await, [1]);
    let mut client = site.login().await;
    client.talk(&[("DELE 1", "+OK")]).await;
    site.drain.start();
    assert!(client.rest().await.starts_with("-ERR [SYS/TEMP]"));
    assert_eq!(site.uids().await, [1]);
}

#[tokio::test]
async fn a_closed_account_loses_its_sessions() {
    let site = Site::new().await;
    site.append(FIRST).await;
    let mut client = site.login().await;
    client.talk(&[("DELE 1", "+OK")]).await;
    site.services.sessions.close(site.account.id());
    assert_eq!(client.rest().await, "-ERR [SYS/PERM] The account was closed; nothing was removed\r\n");
    assert_eq!(site.uids().await, [1]);
    let mut client = site.connect();
    client.talk(&[("", "+OK"), ("USER joe", "+OK"), ("PASS secret", "-ERR [SYS/PERM]")]).await;
}

#[tokio::test]
async fn sessions_lock_nobody_out_and_see_what_they_began_with() {
    let site = Site::new().await;
    for n in 1..=4 {
        site.append(format!("Subject: {n}\r\n\r\n").as_bytes()).await;
    }
    let mut one = site.login().await;
    let mut two = site.login().await;
    assert_eq!(site.services.sessions.of(site.account.id()), 2);
    site.append(b"Subject: new\r\n\r\n").await;
    one.talk(&[("STAT", "+OK 4 56"), ("DELE 1", "+OK"), ("DELE 2", "+OK")]).await;
    two.talk(&[("DELE 2", "+OK"), ("DELE 3", "+OK")]).await;
    // IMAP removes one that POP3 has marked, and one that it has not.
    site.expunge(&[3, 4]).await;
    one.talk(&[("QUIT", "+OK")]).await;
    assert_eq!(site.uids().await, [5]);
    two.talk(&[("STAT", "+OK 2 28"), ("LIST 1", "+OK 1 14")]).await;
    // What another session has removed can still be read as long as it is kept.
    assert_eq!(two.lines("RETR 1").await, ["Subject: 1", ""]);
    two.talk(&[("QUIT", "+OK")]).await;
    assert_eq!(site.uids().await, [5]);
    let mut three = site.login().await;
    three.talk(&[("STAT", "+OK 1 16"), ("QUIT", "+OK")]).await;
    three.server.await.unwrap();
    assert_eq!(site.services.sessions.of(site.account.id()), 0);
}

#[tokio::test]
async fn answers_to_pipelined_commands_leave_together() {
    let site = Site::new().await;
    site.append(FIRST).await;
    let mut client = site.login().await;
    client.send("STAT\r\nLIST\r\nRETR 1\r\nDELE 1\r\nNOOP\r\n").await;
    let mut heard = vec![0; 1 << 16];
    let octets = client.stream.read(&mut heard).await.unwrap();
    let heard = String::from_utf8_lossy(&heard[..octets]).into_owned();
    let answers = heard.lines().filter(|line| line.starts_with("+OK")).count();
    assert!(answers == 5 && heard.contains("\r\n..dot\r\n"), "{heard}");
    client.send("QUIT\r\nNOOP\r\n").await;
    assert_eq!(client.rest().await.lines().count(), 1);
}

#[tokio::test]
async fn large_messages_come_whole() {
    let site = Site::new().await;
    let mut message = b"Subject: large\r\n\r\n".to_vec();
    while message.len() < 3 << 20 {
        message.extend_from_slice(format!(".{}\r\nplain\n.\r\n", message.len()).as_bytes());
    }
    site.append(&message).await;
    let mut client = site.login().await;
    client.talk(&[("RETR 1", &format!("+OK {} octets", message.len()))]).await;
    let mut found = Vec::new();
    loop {
        let mut line = client.line().await;
        if line == "." {
            break;
        }
        line.push_str("\r\n");
        found.extend(
            line.split_inclusive('\n').flat_map(|line| line.strip_prefix('.').unwrap_or(line).bytes()),
        );
    }
    assert!(found == message, "{} octets of {}", found.len(), message.len());
    assert_eq!(client.lines("TOP 1 0").await, ["Subject: large", ""]);
    assert_eq!(client.lines("TOP 1 9000000").await.join("\r\n").len() + 2 - message.len(), {
        // The doubled dots.
        message.split(|b| *b == b'\n').filter(|line| line.first() == Some(&b'.')).count()
    });
    client.talk(&[("QUIT", "+OK")]).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_nobody() {
    let site = Site::new().await;
    site.append(&vec![b'x'; 2 << 20]).await;
    let mut stuck = site.login().await;
    stuck.send("RETR 1\r\n").await;
    assert!(stuck.line().await.starts_with("+OK"));
    site.append(FIRST).await;
    let mut other = site.login().await;
    other.talk(&[("DELE 1", "+OK"), ("QUIT", "+OK")]).await;
    assert_eq!(site.uids().await, [2]);
    // The rest of the removed message still comes.
    let mut octets = 0;
    while octets < 2 << 20 {
        let mut some = [0; 4096];
        octets += stuck.stream.read(&mut some).await.unwrap();
    }
    stuck.talk(&[("", ""), ("NOOP", "")]).await;
}

#[tokio::test]
async fn logins_are_refused_with_their_reasons() {
    let config = Pop3Config { sessions_per_account_max: 1, ..Pop3Config::default() };
    let site = Site::with(config, None).await;
    let mut client = site.connect();
    client
        .talk(&[
            ("", "+OK"),
            ("STAT", "-ERR Log in first"),
            ("PASS secret", "-ERR Say USER first"),
            ("USER joe", "+OK"),
            ("PASS wrong", "-ERR [AUTH]"),
            ("PASS secret", "-ERR Say USER first"),
            ("USER nobody", "+OK"),
            ("PASS secret", "-ERR [AUTH]"),
            ("USER shut", "+OK"),
            ("PASS secret", "-ERR [SYS/PERM]"),
            ("USER lost", "+OK"),
            ("PASS secret", "-ERR [SYS/TEMP]"),
            ("APOP joe c4c9334bac560ecc979e58001b3e22fb", "-ERR Unknown command"),
            ("STLS", "-ERR There is no TLS to begin"),
        ])
        .await;
    let mut first = site.login().await;
    client.talk(&[("USER joe", "+OK"), ("PASS secret", "-ERR [IN-USE]")]).await;
    first.talk(&[("USER joe", "-ERR You have logged in already"), ("QUIT", "+OK")]).await;
    first.server.await.unwrap();
    client.talk(&[("USER joe", "+OK"), ("PASS secret", "+OK")]).await;
}

#[tokio::test]
async fn sasl_exchanges() {
    let site = Site::new().await;
    let mut client = site.connect();
    client
        .talk(&[
            ("", "+OK"),
            ("AUTH NONSENSE", "-ERR"),
            ("AUTH PLAIN", "+ "),
            ("*", "-ERR AUTH cancelled"),
            ("AUTH PLAIN", "+ "),
            ("!", "-ERR That is no base64"),
            ("AUTH LOGIN", "+ VXNlcm5hbWU6"),
            ("am9l", "+ UGFzc3dvcmQ6"),
            ("d3Jvbmc=", "-ERR [AUTH]"),
            ("AUTH PLAIN", "+ "),
            ("AGpvZQBzZWNyZXQ=", "+OK maildrop has 0 messages"),
        ])
        .await;
    let mut client = site.connect();
    client.talk(&[("", "+OK"), ("AUTH PLAIN AGpvZQBzZWNyZXQ=", "+OK")]).await;
    let mut client = site.connect();
    client.talk(&[("", "+OK")]).await;
    assert!(client.lines("AUTH").await.contains(&"PLAIN".to_owned()));
    client.talk(&[("AUTH PLAIN", "+ "), (&"x".repeat(20_000), "-ERR Line too long")]).await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn what_is_offered_depends_on_privacy() {
    let dir = tempfile::tempdir().unwrap();
    let made = rookery_net::tls::self_signed(&["mail.example.org".to_string()], dir.path()).unwrap();
    let tls = Arc::new(ServerTls::load(made.cert, made.key).unwrap());
    let site = Site::with(Pop3Config::default(), Some(tls)).await;
    let mut near = site.connect();
    near.talk(&[("", "+OK")]).await;
    let capabilities = near.lines("CAPA").await;
    for name in [
        "TOP",
        "UIDL",
        "USER",
        "RESP-CODES",
        "AUTH-RESP-CODE",
        "PIPELINING",
        "EXPIRE NEVER",
        "UTF8 USER",
        "STLS",
    ] {
        assert!(capabilities.iter().any(|line| line == name), "{name} is not in {capabilities:?}");
    }
    assert!(capabilities.iter().any(|line| line.starts_with("SASL ") && line.contains("PLAIN")));
    assert!(capabilities.iter().any(|line| line.starts_with("IMPLEMENTATION ")));
    near.talk(&[("UTF8", "+OK"), ("STLS", "-ERR STLS comes before UTF8")]).await;
    near.talk(&[("USER joe", "+OK"), ("PASS secret", "+OK"), ("STLS", "-ERR")]).await;
    assert!(!near.lines("CAPA").await.iter().any(|line| line == "STLS"));

    let mut far = site.connect_from(Peer::from_addr(([192, 0, 2, 1], 25).into()));
    far.talk(&[("", "+OK")]).await;
    let capabilities = far.lines("CAPA").await;
    assert!(!capabilities.iter().any(|line| line == "USER" || line.contains("PLAIN")), "{capabilities:?}");
    far.talk(&[
        ("USER joe", "-ERR Passwords are taken under TLS only"),
        ("PASS secret", "-ERR Passwords are taken under TLS only"),
        ("AUTH PLAIN AGpvZQBzZWNyZXQ=", "-ERR"),
        // What stands behind STLS in the clear is not believed.
        ("STLS\r\nUSER joe\r\nPASS secret", "+OK Begin TLS"),
    ])
    .await;
    assert_eq!(far.rest().await, "");
}

#[tokio::test]
async fn no_list_of_rights_shuts_owners_out_of_their_inbox() {
    let site = Site::new().await;
    site.append(FIRST).await;
    let inbox = site.account.tree().get(&MailboxPath::inbox()).unwrap();
    let mut acl = Acl::new();
    acl.set(Identifier::User(UserName::parse("joe", "example.org").unwrap()), false, Rights::LOOKUP);
    site.account.set_acl(inbox, acl).await.unwrap();
    let mut client = site.login().await;
    client.talk(&[("DELE 1", "+OK"), ("QUIT", "+OK")]).await;
    assert!(site.uids().await.is_empty());
}

#[tokio::test]
async fn a_session_that_waits_is_small() {
    let site = Site::new().await;
    let (_near, far) = tokio::io::duplex(64);
    let accepted = Accepted {
        stream: Stream::from(far),
        id: ConnId::next(),
        permit: Gate::new(ConnectionLimits::default()).admit_peer(Peer::Memory).unwrap(),
        drain: site.drain.guard(),
    };
    let session = serve_connection(accepted, Arc::clone(&site.services), false);
    let octets = std::mem::size_of_val(&session);
    assert!(octets < 3000, "{octets}");
}

#[tokio::test(start_paused = true)]
async fn silence_and_nonsense_end_a_connection() {
    let site = Site::new().await;
    site.append(FIRST).await;
    // Before the login nothing keeps a client here, not even commands.
    let mut client = site.connect();
    client.talk(&[("", "+OK")]).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        client.talk(&[("CAPA", "+OK")]).await;
        while client.line().await != "." {}
    }
    let began = tokio::time::Instant::now();
    assert_eq!(client.rest().await, "");
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
    // After it, silence does, without a word, and removes nothing (RFC 1939 §3).
    let mut client = site.login().await;
    client.talk(&[("DELE 1", "+OK")]).await;
    let began = tokio::time::Instant::now();
    assert_eq!(client.rest().await, "");
    assert!(began.elapsed() >= Duration::from_secs(600));
    assert_eq!(site.uids().await, [1]);
    let mut client = site.connect();
    client.talk(&[("", "+OK")]).await;
    for _ in 0..50 {
        client.talk(&[("XYZZY", "-ERR Unknown command")]).await;
    }
    assert_eq!(client.rest().await, "-ERR Too many commands that are none\r\n");
}
