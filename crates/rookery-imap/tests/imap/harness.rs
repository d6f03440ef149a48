//! A site in memory, clients, and the player of scripts.
//!
//! A script has a line for each thing that happens: `A> a1 NOOP` sends a command of client A and waits for its
//! tagged response; `A~ a1 IDLE` sends without waiting; `A< * 1 EXISTS` is the next line that A hears. In what is
//! sent `\n` stands for CRLF. `A= deflate`: from here on A compresses what it sends. In what is heard `<*>` stands
//! for anything; a line `A< ...` for any lines before the tagged one. What is heard and not written fails the test.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use parking_lot::Mutex;
use rookery_auth::{
    AccountState, Accounts, Authenticator, AuthenticatorOptions, Credential, HashParams, Hasher,
    HasherOptions, LookUp, Sessions,
};
use rookery_directory::{DirectCommit, Directory, EmbeddedDirectory, Home, Published};
use rookery_imap::{
    Entrance, HeaderTexts, ImapConfig, Services, SortTables, serve_connection, serve_guest, serve_pipe,
};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_kv::{Batch, Bytes, Engine, EngineError, Read, Space};
use rookery_net::pipe::FramedPipe;
use rookery_net::{Accepted, ConnId, ConnectionLimits, Drain, Gate, Networks, Pipe, ServerTls, Stream};
use rookery_route::{
    Administrators, Coming, NotMoved, PeerError, Peers, PipeService, Publications, Reaching, Registrar,
    Relocated, Relocator, Renames, Router, SessionHead, SessionNote, Transit, TransitTimes,
};
use rookery_store::{Account, Exchange, Incoming, NewAccount, NewMessage, Store, StoreOptions, Travel};
use rookery_types::namespace::parse_identifier;
use rookery_types::{
    AccountId, AccountName, Acl, Epoch, InternalDate, JobId, Keyword, MailboxId, MailboxPath, NodeId, Rights,
    SharedName, SpecialUse, StoreId, Style, SystemFlags, UserName,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

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
}

/// The links of all nodes, in memory.
#[derive(Default)]
pub(crate) struct Links {
    nodes: Mutex<BTreeMap<NodeId, Arc<Services>>>,
    /// Their ends here, to be cut.
    open: Mutex<Vec<(NodeId, AbortHandle, Arc<AtomicBool>)>>,
    /// What is said to a node is heard up to this, and then it is lost; what it says is lost from the start.
    deaf: Mutex<BTreeMap<NodeId, &'static str>>,
    /// The next guest of a node is lost so.
    cuts: Mutex<BTreeMap<NodeId, Cut>>,
    /// Told when that has happened.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) cut: Notify,
    /// Told when a node that is away was to be reached.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) missed: Notify,
    itself: Mutex<Weak<Links>>,
}

/// A link that is to be cut.
#[derive(Clone, Copy)]
struct Cut {
    /// What is not heard any more.
    before: &'static str,
    /// And the node is away from then on.
    away: bool,
}

impl Links {
    /// Passes on what both ends of a link say, until something is said before which it is cut.
    async fn until_cut(self: Arc<Links>, mut near: impl Pipe, mut far: impl Pipe, node: NodeId, cut: Cut) {
        let before = cut.before.as_bytes();
        let mut octets = ([0; 8192], [0; 8192]);
        // What was said last, either way.
        let mut said = (Vec::new(), Vec::new());
        loop {
            let (octets, said, to): (&[u8], &mut Vec<u8>, &mut dyn Pipe) = tokio::select! {
                read = near.read(&mut octets.0) => match (read.unwrap_or(0), near.take_note()) {
                    (0, None) => return,
                    (0, Some(note)) => {
                        far.put_note(note);
                        (b"", &mut said.0, &mut far)
                    }
                    (read, _) => (&octets.0[..read], &mut said.0, &mut far),
                },
                read = far.read(&mut octets.1) => match (read.unwrap_or(0), far.take_note()) {
                    (0, None) => return,
                    (0, Some(note)) => {
                        near.put_note(note);
                        (b"", &mut said.1, &mut near)
                    }
                    (read, _) => (&octets.1[..read], &mut said.1, &mut near),
                },
            };
            said.extend_from_slice(octets);
            if said.windows(before.len()).any(|said| said == before) {
                self.cuts.lock().remove(&node);
                if cut.away {
                    self.nodes.lock().remove(&node);
                }
                self.cut.notify_one();
                return;
            }
            said.drain(..said.len().saturating_sub(before.len()));
            to.write_all(octets).await.unwrap();
            to.flush().await.unwrap();
        }
    }
}

impl Links {
    /// Loses a node: its sessions end without a word, and it is not reached any more.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn lose(&self, node: NodeId) {
        self.nodes.lock().remove(&node);
        for (_, session, lost) in self.open.lock().iter().filter(|(of, ..)| *of == node) {
            lost.store(true, Ordering::Relaxed);
            session.abort();
        }
    }

    /// From here on new sessions of a node are lost once they have heard something that ends so.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn lose_after(&self, node: NodeId, heard: &'static str) {
        self.lose(node);
        self.deaf.lock().insert(node, heard);
    }

    /// The next guest at a node that says this, or is told it, is lost before that is heard.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn cut_before(&self, node: NodeId, before: &'static str) {
        self.cuts.lock().insert(node, Cut { before, away: false });
    }

    /// The same, and the node is away from then on.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn go_away_before(&self, node: NodeId, before: &'static str) {
        self.cuts.lock().insert(node, Cut { before, away: true });
    }

    /// Sessions that are open between nodes.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn sessions(&self) -> usize {
        self.open.lock().iter().filter(|(_, session, _)| !session.is_finished()).count()
    }

    /// It is there again.
    pub(crate) fn add(&self, services: Arc<Services>) {
        self.nodes.lock().insert(services.store.node(), services);
    }
}

impl Peers for Links {
    fn open(&self, node: NodeId, service: PipeService, head: Bytes) -> Reaching<'_> {
        Box::pin(async move {
            if let Some(last) = self.deaf.lock().get(&node).copied() {
                let (near, mut far) = rookery_net::pipe::in_memory(1 << 16);
                tokio::spawn(async move {
                    let mut heard = Vec::new();
                    while !heard.ends_with(last.as_bytes()) {
                        let mut octets = [0; 1000];
                        let read = far.read(&mut octets).await.unwrap_or(0);
                        if read == 0 && far.take_note().is_none() {
                            break;
                        }
                        heard.extend_from_slice(&octets[..read]);
                        if heard.ends_with(b"}\r\n") {
                            far.write_all(b"+ OK\r\n").await.unwrap();
                            far.flush().await.unwrap();
                        }
                    }
                });
                return Ok::<Box<dyn Pipe>, PeerError>(Box::new(near));
            }
            let home = self.nodes.lock().get(&node).cloned();
            let is_known = [PipeService::Imap, PipeService::Guest, PipeService::Transit].contains(&service);
            let Some(home) = home.filter(|_| is_known) else {
                self.missed.notify_one();
                return Err(PeerError { node, why: "there is no such node".to_string() });
            };
            let (near, far) = rookery_net::pipe::in_memory(1 << 16);
            // Without a drain of its own: the halves end together.
            let drain = Drain::new();
            let guard = drain.guard();
            if service == PipeService::Transit {
                let other = self.nodes.lock().keys().copied().find(|known| *known != node);
                let task = tokio::spawn(async move {
                    let _drain = drain;
                    home.transit.serve(Box::new(far), other.unwrap(), guard).await;
                });
                self.open.lock().push((node, task.abort_handle(), Arc::default()));
                return Ok::<Box<dyn Pipe>, PeerError>(Box::new(near));
            }
            let head = SessionHead::decode(&head).unwrap();
            let task = tokio::spawn(async move {
                let _drain = drain;
                match service {
                    PipeService::Guest => serve_guest(Box::new(far), head, home, guard).await,
                    _ => serve_pipe(Box::new(far), head, home, guard).await,
                }
            });
            let lost = Arc::new(AtomicBool::new(false));
            self.open.lock().push((node, task.abort_handle(), lost.clone()));
            let cut = self.cuts.lock().get(&node).copied().filter(|_| service == PipeService::Guest);
            if let Some((cut, links)) = cut.zip(self.itself.lock().upgrade()) {
                let (session, link) = rookery_net::pipe::in_memory(1 << 16);
                tokio::spawn(links.until_cut(link, near, node, cut));
                return Ok(Box::new(session));
            }
            Ok::<Box<dyn Pipe>, PeerError>(match (crate::NODES, service) {
                (Nodes::HandedOver, PipeService::Imap) => {
                    Box::new(Restless { pipe: near, is_suspended: false })
                }
                _ => Box::new(Losable { pipe: near, note: None, lost }),
            })
        })
    }
}

/// An end of a pipe whose other end may be lost, which is another thing than its end.
struct Losable {
    pipe: FramedPipe<DuplexStream>,
    note: Option<Bytes>,
    lost: Arc<AtomicBool>,
}

impl Pipe for Losable {
    fn take_note(&mut self) -> Option<Bytes> {
        self.note.take()
    }

    fn put_note(&mut self, note: Bytes) {
        self.pipe.put_note(note);
    }
}

impl AsyncRead for Losable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.note.is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            self.note = self.pipe.take_note();
            if self.note.is_none() && self.lost.load(Ordering::Relaxed) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Losable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// An edge's end of a pipe, whose session has to go on from its value behind the first line that it is sent.
struct Restless {
    pipe: FramedPipe<DuplexStream>,
    is_suspended: bool,
}

impl Pipe for Restless {
    fn take_note(&mut self) -> Option<Bytes> {
        self.pipe.take_note()
    }

    fn put_note(&mut self, note: Bytes) {
        self.pipe.put_note(note);
    }
}

impl AsyncRead for Restless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Restless {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        // A line of a command with literals may end no command, and would be given on for ever.
        let has_literal = octets.windows(3).any(|three| three == b"}\r\n");
        let line = match has_literal {
            true => octets.ends_with(b"\n").then(|| octets.len() - 1),
            false => octets.iter().position(|octet| *octet == b'\n'),
        };
        let line = line.filter(|_| !self.is_suspended);
        let octets = line.map_or(octets, |end| &octets[..=end]);
        let written = ready!(Pin::new(&mut self.pipe).poll_write(cx, octets))?;
        let whole = line.is_some() && !octets.ends_with(b"}\r\n");
        if whole && written == octets.len() {
            self.pipe.put_note(SessionNote::Suspend.encode());
            self.is_suspended = true;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// An engine that counts the records that are read.
struct Counting {
    inner: MemoryEngine,
    reads: Arc<AtomicU64>,
}

struct CountingRead(Box<dyn Read + Send>, Arc<AtomicU64>);

fn counted_scan(
    read: &dyn Read,
    reads: &AtomicU64,
    range: (Space, &[u8], Option<&[u8]>, bool),
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), EngineError> {
    let (space, start, end, reverse) = range;
    reads.fetch_add(1, Ordering::Relaxed);
    read.scan(space, start, end, reverse, &mut |key, value| {
        reads.fetch_add(1, Ordering::Relaxed);
        visit(key, value)
    })
}

impl Read for CountingRead {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        counted_scan(&*self.0, &self.1, (space, start, end, reverse), visit)
    }
}

impl Read for Counting {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        counted_scan(&self.inner, &self.reads, (space, start, end, reverse), visit)
    }
}

impl Engine for Counting {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        self.inner.commit(batch)
    }

    fn snapshot(&self) -> Box<dyn Read + Send> {
        Box::new(CountingRead(self.inner.snapshot(), self.reads.clone()))
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn disk_octets(&self) -> u64 {
        self.inner.disk_octets()
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
        let links = Arc::new(Links::default());
        *links.itself.lock() = Arc::downgrade(&links);
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
                Some(second_node(&directory).await)
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
        let user = |name| UserName::parse(name, "example.org").unwrap();
        let authenticator = Arc::new(authenticator);
        let services = |store: Store, directory: EmbeddedDirectory| {
            let directory: Arc<dyn Directory> = Arc::new(directory);
            let administrators =
                Administrators::new(vec![user("root"), user("max")], vec![user("adm@b.test")]);
            let times = TransitTimes { answer_max: Duration::from_millis(500), ..TransitTimes::default() };
            let transit =
                Transit::new(store.clone(), directory.clone(), links.clone(), administrators.clone(), times);
            let services = Arc::new(Services {
                keeper: Default::default(),
                registrar: Arc::new(Registrar::new(directory.clone(), store.clone(), vec![])),
                relocator: Arc::new(SaidByName),
                administrators,
                router: Router::new(directory.clone(), store.node(), Style::Rookery)
                    .with_moves(store.clone()),
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
        };
        let services_of_home = services(store, directory);
        Site {
            services: services_of_home,
            front: second.map(|(store, copy)| services(store, copy)),
            links,
            renames,
            drain: Drain::new(),
            reads,
            gate: Gate::new(ConnectionLimits::default()),
        }
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
        let directory = &self.services.directory;
        let entry = directory.look_up(&name).await.unwrap();
        let account = self.account(user).await;
        let other = self.front.as_ref().unwrap();
        let is_first = self.services.store.node() == entry.home.node;
        let (from, to) = if is_first { (&self.services, other) } else { (other, &self.services) };
        let epoch = Epoch(entry.home.epoch.0 + 1);
        let (job, id) = (JobId(epoch.0), entry.id);
        let travel = |peer| Travel { job, peer, epoch, modseq: 0 };
        let (incoming, fresh) = to.store.receive(id, travel(from.store.node())).await.unwrap();
        let mut wire = Carrying(incoming);
        let mut outgoing = account.outgoing();
        outgoing.copy(&mut wire, fresh).await.unwrap();
        let frozen = loop {
            outgoing.catch_up(&mut wire).await.unwrap();
            if let Some(frozen) = account.freeze(Duration::from_millis(100)).await.unwrap() {
                outgoing.seal(&mut wire, &frozen).await.unwrap();
                break frozen;
            }
        };
        drop(outgoing);
        let modseq = frozen.modseq();
        frozen.release(travel(to.store.node())).await.unwrap();
        to.store.take_home(id, job, modseq).await.unwrap();
        account.leave();
        // The directory hears of it later.
        let home = Home { node: to.store.node(), store: to.store.store_id(), epoch };
        directory.set_home(id, entry.home, home).await.unwrap();
        from.store.has_moved(id).await.unwrap();
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

    /// Plays a script. Clients come to be as users' sessions when they are first named: A and B are ann's, J is
    /// joe's, M max's, R root's, D adm@b.test's, E eve@b.test's; X has not logged in.
    pub(crate) async fn play(&self, script: &str) {
        let mut clients: BTreeMap<char, Client> = BTreeMap::new();
        let mut moves = 0;
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--")) {
            let (who, rest) = line.split_at(1);
            let who = who.chars().next().unwrap();
            if let std::collections::btree_map::Entry::Vacant(place) = clients.entry(who) {
                place.insert(match who {
                    'J' => self.login("joe").await,
                    'M' => self.login("max").await,
                    'R' => self.login("root").await,
                    'D' => self.login("adm@b.test").await,
                    'E' => self.login("eve@b.test").await,
                    'X' => self.connect().await,
                    _ => self.login("ann").await,
                });
            }
            if crate::NODES == Nodes::Travelling && "ABJ".contains(who) && !rest.starts_with(['<', '=']) {
                // Joe's account too, in turn with that of the mailboxes that he reaches.
                moves += 1;
                self.relocate(if who == 'J' && moves % 2 == 0 { "joe" } else { "ann" }).await;
            }
            let client = clients.get_mut(&who).unwrap();
            match rest.split_at(1) {
                (">", command) => {
                    client.must_be_quiet(line);
                    client.heard = client.command(command.trim_start()).await;
                }
                ("~", command) => {
                    client.must_be_quiet(line);
                    client.send(command.trim_start()).await;
                }
                ("=", _) => client.deflate(),
                ("<", " ...") => {
                    client.heard.drain(..client.heard.len() - 1);
                }
                ("<", wanted) => {
                    let heard = match client.heard.is_empty() {
                        true => client.line().await,
                        false => client.heard.remove(0),
                    };
                    let wanted = wanted.trim_start();
                    assert!(
                        fits(wanted, &heard),
                        "wanted: {wanted}\n heard: {heard}\n  then: {:#?}",
                        client.heard
                    );
                }
                other => panic!("not a line of a script: {other:?}"),
            }
        }
        for client in clients.values() {
            client.must_be_quiet("the end");
        }
    }
}

/// What carries an account from one store to the other.
struct Carrying(Incoming);

impl Exchange for Carrying {
    async fn ask(&mut self, request: Bytes) -> Result<Bytes, String> {
        self.0.handle(request).await.map_err(|error| error.to_string())
    }
}

/// A node that follows another's directory.
async fn second_node(directory: &EmbeddedDirectory) -> (Store, EmbeddedDirectory, Renames) {
    let disk = SimDisk::new(2);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
    let source = Arc::new(directory.embedded().unwrap());
    let commit = Arc::new(DirectCommit(engine.clone()));
    let copy = EmbeddedDirectory::follow(engine.clone(), commit, source, store.node()).unwrap();
    let mut revisions = copy.subscribe();
    while copy.position().is_none() {
        revisions.changed().await.unwrap();
    }
    Publications::start(store.clone(), Arc::new(copy.clone()), engine.clone()).await.unwrap();
    let renames = Renames::start(store.clone(), &copy, engine);
    (store, copy, renames)
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

/// The same line without what is \Recent: a home counts that anew, as after a restart.
fn as_old(line: &str) -> String {
    match line.strip_suffix(" RECENT") {
        Some(_) => "* RECENT".to_string(),
        None => line.replace(" \\Recent", "").replace("\\Recent", ""),
    }
}

/// Whether a line is what was wanted; `<*>` stands for anything.
fn fits(wanted: &str, heard: &str) -> bool {
    let (old_wanted, old_heard) = (as_old(wanted), as_old(heard));
    let is_old = crate::NODES == Nodes::Travelling;
    let (wanted, heard) = if is_old { (&*old_wanted, &*old_heard) } else { (wanted, heard) };
    let mut parts = wanted.split("<*>");
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = heard.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A connection, plain or not.
trait Octets: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Octets for T {}

/// Takes any certificate.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client's end of a connection.
pub(crate) struct Client {
    stream: Box<dyn Octets>,
    input: Vec<u8>,
    /// Octets of `input` that were told as lines, and those in which there is no further line end.
    told: usize,
    scanned: usize,
    heard: Vec<String>,
    deflate: Option<(Compress, Decompress)>,
    plain: bool,
    /// The beginning of what was said last.
    said: String,
}

impl Client {
    fn new(stream: impl Octets + 'static) -> Client {
        Client {
            stream: Box::new(stream),
            input: Vec::new(),
            told: 0,
            scanned: 0,
            heard: Vec::new(),
            deflate: None,
            plain: false,
            said: String::new(),
        }
    }

    /// Sends a command; `\n` in it is CRLF.
    pub(crate) async fn send(&mut self, command: &str) {
        self.said = command.chars().take(100).collect();
        let octets = self.packed(format!("{}\r\n", command.replace("\\n", "\r\n")).as_bytes());
        self.stream.write_all(&octets).await.unwrap();
    }

    /// The same client, under TLS.
    pub(crate) async fn start_tls(self) -> Client {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("mail.example.org").unwrap();
        let stream = connector.connect(name, self.stream).await.unwrap();
        Client::new(stream)
    }

    /// From here on octets are compressed both ways.
    pub(crate) fn deflate(&mut self) {
        let heard = self.input.split_off(self.told);
        (self.input, self.told, self.scanned) = (Vec::new(), 0, 0);
        self.deflate = Some((Compress::new(Compression::default(), false), Decompress::new(false)));
        self.unpacked(&heard);
    }

    /// What is sent from here on is not compressed. What is heard is, until the server ends it.
    pub(crate) fn send_plain(&mut self) {
        self.plain = true;
    }

    /// The octets as they go over the wire.
    pub(crate) fn packed(&mut self, octets: &[u8]) -> Vec<u8> {
        let Some((packer, _)) = self.deflate.as_mut().filter(|_| !self.plain) else { return octets.to_vec() };
        let mut packed = Vec::with_capacity(octets.len() + 1024);
        packer.compress_vec(octets, &mut packed, FlushCompress::Sync).unwrap();
        packed
    }

    fn unpacked(&mut self, octets: &[u8]) {
        let Some((_, unpacker)) = &mut self.deflate else { return self.input.extend_from_slice(octets) };
        let mut at = 0;
        loop {
            let mut room = Vec::with_capacity(1 << 16);
            let before = unpacker.total_in();
            let status = unpacker.decompress_vec(&octets[at..], &mut room, FlushDecompress::None).unwrap();
            at += usize::try_from(unpacker.total_in() - before).unwrap();
            self.input.extend_from_slice(&room);
            if status == Status::StreamEnd {
                self.deflate = None;
                self.plain = false;
                self.input.extend_from_slice(&octets[at..]);
                return;
            }
            if at == octets.len() && room.len() < 1 << 16 {
                return;
            }
        }
    }

    pub(crate) async fn send_octets(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.unwrap();
    }

    /// Sends octets to a server that may have gone already.
    pub(crate) async fn try_send_octets(&mut self, octets: &[u8]) {
        let _ = self.stream.write_all(octets).await;
    }

    /// Sends a command and gives all lines up to its tagged response.
    pub(crate) async fn command(&mut self, command: &str) -> Vec<String> {
        self.send(command).await;
        let tag = format!("{} ", command.split(' ').next().unwrap());
        self.until(&tag).await
    }

    /// All lines up to the one that begins so, or to the end of the connection.
    pub(crate) async fn until(&mut self, start: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.next_line().await {
            let last = line.starts_with(start);
            lines.push(line);
            if last {
                break;
            }
        }
        lines
    }

    /// The next line.
    pub(crate) async fn line(&mut self) -> String {
        self.next_line().await.expect("the server closed the connection")
    }

    /// The next line; `None` once the server has closed. Waits longer than the server asks another for an answer that
    /// was lost.
    pub(crate) async fn next_line(&mut self) -> Option<String> {
        loop {
            let rest = self.input.get(self.scanned..).unwrap_or_default();
            if let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
                let end = self.scanned + at;
                let line = String::from_utf8_lossy(&self.input[self.told..end]).into_owned();
                (self.told, self.scanned) = (end + 2, end + 2);
                // Cutting off each line by itself would take forever for a large body.
                if self.told == self.input.len() || self.told > 1 << 20 {
                    self.input.drain(..self.told);
                    (self.told, self.scanned) = (0, 0);
                }
                return Some(line);
            }
            self.scanned = self.input.len().saturating_sub(1).max(self.told);
            let mut octets = vec![0; 65536];
            let read = self.stream.read(&mut octets);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            let Ok(read) = read else { panic!("the server says nothing, after {:?}", self.said) };
            match read.unwrap() {
                0 => return None,
                n => self.unpacked(&octets[..n]),
            }
        }
    }

    fn must_be_quiet(&self, at: &str) {
        assert!(self.heard.is_empty(), "before {at}: heard and not written: {:#?}", self.heard);
        assert!(self.input.is_empty(), "before {at}: {:?}", String::from_utf8_lossy(&self.input));
    }
}
