//! What a server does whose place another program takes while clients stay connected to it: it starts that program beside
//! itself and passes octets between it and the clients. TLS lives in the memory of the process that began it, so the
//! process has to stay for it.
//!
//! Invariants:
//! - The first process outlives all others, forwards the signals it gets to the program that serves, and ends as that
//!   ends: whoever started the server sees one process.
//! - Others end when their last client has left.

use std::io;
use std::path::Path;
use std::sync::Weak;
use std::time::{Duration, Instant};

use rookery_kv::Engine;
use rookery_net::{ConnId, Drain, Handover, Held};
use rookery_route::{Keeper, Kept, PipeService, Relayed, Reopening, Witness};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::exit::Failure;
use crate::lineage::Lineage;
use crate::restart::command;
use crate::succession::Successor;

/// How long what is under way may hold on to the data.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// What is left of a server that has closed its store.
pub(crate) struct Keeping {
    pub(crate) sockets: Vec<Held>,
    pub(crate) clients: Vec<Kept>,
    pub(crate) lineage: Lineage,
    /// What must be gone before the next program opens the data.
    pub(crate) engine: Weak<dyn Engine>,
}

impl Keeping {
    /// Whether nothing in this process has the data open any more. What lets go of it last may be about to.
    pub(crate) async fn is_closed(&self) -> bool {
        let began = Instant::now();
        while self.engine.strong_count() > 0 && began.elapsed() < CLOSED_WITHIN {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.engine.strong_count() == 0
    }
}

/// Starts the next program and keeps the clients, until all of them have left and, in the first process, until the
/// server has ended.
pub(crate) async fn keep(keeping: Keeping, data_dir: &Path) -> Result<(), Failure> {
    let cannot = |what: &str, error: io::Error| Failure::failed(format!("{what}: {error}"));
    let signals = |error| cannot("signals", error);
    let mut children = signal(SignalKind::child()).map_err(signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(signals)?;
    let mut user2 = signal(SignalKind::user_defined2()).map_err(signals)?;
    let Keeping { sockets, clients, lineage, engine: _ } = keeping;
    let (mut line, next) = line(&lineage).map_err(|error| cannot("the line to the next program", error))?;
    let sockets = Handover::new(sockets, next).map_err(|error| cannot("the listening sockets", error))?;
    let program = command().map_err(Failure::failed)?;
    let child =
        sockets.spawn(program).map_err(|error| cannot("the server cannot be started again", error))?;
    let mut serving = child.id();
    tracing::info!(pid = serving, clients = clients.len(), "another program serves; clients are kept here");
    let (successor, drain) = (Successor::on(data_dir), Drain::new());
    let mut kept = JoinSet::new();
    for client in clients {
        kept.spawn(go_on(client, successor.clone(), drain.clone()));
    }
    let mut last = None;
    loop {
        tokio::select! {
            Some(_) = kept.join_next() => if kept.is_empty() {
                tracing::info!("the last client that was kept here has left");
                if !lineage.is_first() {
                    return Ok(());
                }
            },
            () = lineage.orphaned() => return Ok(()),
            pid = said(&mut line) => serving = pid,
            _ = children.recv() => {
                match reap(&mut last) {
                    Ok(true) => {}
                    Ok(false) => return ended(last),
                    Err(error) => return Err(cannot("the server", error.into())),
                }
            }
            _ = terminate.recv() => if lineage.is_first() { forward(serving, Signal::TERM) },
            // Whoever presses a key at a terminal reaches all processes at once.
            _ = interrupt.recv() => {}
            _ = hangup.recv() => if lineage.is_first() { forward(serving, Signal::HUP) },
            _ = user2.recv() => if lineage.is_first() { forward(serving, Signal::USR2) },
        }
    }
}

/// The line to those that come after: this end, if the process is the first, and the next one's.
fn line(lineage: &Lineage) -> io::Result<(Option<UnixStream>, Option<std::os::fd::OwnedFd>)> {
    if !lineage.is_first() {
        return Ok((None, lineage.next()?));
    }
    // Those whose parent has ended become its children.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let (mine, next) = std::os::unix::net::UnixStream::pair()?;
    mine.set_nonblocking(true)?;
    Ok((Some(UnixStream::from_std(mine)?), Some(next.into())))
}

/// Which process serves, as it has said.
async fn said(line: &mut Option<UnixStream>) -> u32 {
    if let Some(stream) = line {
        match stream.read_u32().await {
            Ok(pid) => return pid,
            Err(_) => *line = None,
        }
    }
    std::future::pending().await
}

fn forward(pid: u32, signal: Signal) {
    // It may just have ended, which shows by itself.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Takes note of children that have ended; false: there are none any more.
fn reap(last: &mut Option<WaitStatus>) -> rustix::io::Result<bool> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((_, status))) => *last = Some(status),
            Ok(None) => return Ok(true),
            Err(rustix::io::Errno::CHILD) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// As the server ended.
fn ended(last: Option<WaitStatus>) -> Result<(), Failure> {
    match last.and_then(WaitStatus::exit_status) {
        Some(0) => Ok(()),
        Some(code) => {
            Err(Failure::failed(format!("the server that took this one's place ended with {code}")))
        }
        None => Err(Failure::failed("the server that took this one's place was killed")),
    }
}

/// One client, to its end.
async fn go_on(kept: Kept, successor: Successor, drain: Drain) {
    let Kept { mut client, service, head, session } = kept;
    let keeper = Keeper::default();
    let reopening = Reopening { peers: &successor, service, head: &head, keeper: &keeper };
    let id = ConnId::carried(head.trace);
    let mut witness: Box<dyn Witness> = match service {
        PipeService::Imap => Box::new(rookery_imap::Witness::default()),
        _ => Box::new(()),
    };
    let drain = drain.guard();
    let relayed = rookery_route::go_on(&mut client, session, &drain, reopening, &mut *witness).await;
    let bye: &[u8] = match relayed {
        Relayed::Ended | Relayed::ClientGone => {
            tracing::info!(%id, "the client has left");
            b""
        }
        Relayed::Lost(error) | Relayed::NeverBegan(error) => {
            tracing::info!(%id, %error, "a session does not go on");
            b"* BYE [UNAVAILABLE] Your mailboxes cannot be reached any more\r\n"
        }
        Relayed::Garbled(error) => {
            tracing::info!(%id, %error, "the client does not compress as was agreed");
            b"* BYE What you send is not compressed as was agreed\r\n"
        }
        // Nobody logs in anew here, where no accounts are known.
        Relayed::Unauthenticated(_) | Relayed::Suspended(_) => b"* BYE [UNAVAILABLE] Connect again\r\n",
    };
    // POP3 has no word for it, and may be in the middle of a message.
    if service != PipeService::Pop3 {
        // It may be the client that is lost.
        let _ = client.write_all(bye).await;
    }
    let _ = client.shutdown().await;
}
