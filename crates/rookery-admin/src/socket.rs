//! The socket through which the command line speaks to the running server.
//!
//! The form: each frame is one line of JSON, ended by LF, at most [`FRAME_OCTETS_MAX`] octets.
//! The client sends `{"verb":"user add","args":{...}}`; the server answers with any number of
//! `{"progress":{"done":1,"total":9,"text":"..."}}` and `{"row":...}` in the order they came up, and one last
//! `{"done":...}` or `{"failed":{"code":"...","text":"..."}}`. Then the client may send the next request.
//!
//! The same frames go over any other stream ([`answer_peer`], [`Client::over`]): who is at its other end is for whoever
//! made it to know.
//!
//! Invariants:
//! - At the socket only root and the server's own user are answered: its mode is 0600, and the kernel is asked who
//!   connected.
//! - Every request gets exactly one last frame, even if its handler panics.
//! - A handler whose client has gone is not stopped: it is told at its next frame, and ends where it is safe.
//!   Only the cut of the drain drops it.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rookery_net::{BindError, Drain, ListenOptions, ListenSpec, Listener, Peer, Stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Octets in the longest frame, its LF included.
pub const FRAME_OCTETS_MAX: usize = 16 * 1024 * 1024;
/// Connections at once; more wait.
pub const CONNECTIONS_MAX: usize = 32;
/// Frames that wait for a client to read them before their handler waits too.
const WAITING_FRAMES: usize = 16;
/// How long a client may take to read one frame.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a client asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is to be done.
    pub verb: String,
    /// With what. `null` if the client gave nothing.
    pub args: Value,
    /// Who asks.
    pub from: Asker,
}

/// Who asks for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Root, or the server's own user, by the number of that user.
    User(u32),
    /// Another node, for somebody whom it lets ask; by its name.
    Node(Box<str>),
}

/// One frame of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// How far the work is.
    Progress(Progress),
    /// One row of the result.
    Row(Value),
    /// The end: it was done. What is not a row, or `null`.
    Done(Value),
    /// The end: it was not done.
    Failed(Failed),
}

/// How far work is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// Steps in all, where that is known.
    pub total: Option<u64>,
    /// What is being done.
    pub text: String,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failed {
    /// For programs: short, lower case, stable between versions, such as `not-found`.
    pub code: String,
    /// For people.
    pub text: String,
}

impl Failed {
    /// A failure.
    pub fn new(code: &str, text: impl Into<String>) -> Failed {
        Failed { code: code.to_owned(), text: text.into() }
    }
}

/// The client has gone: finish what must be finished, and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub struct ClientGone;

/// Where a handler sends what comes before the end.
#[derive(Clone, Debug)]
pub struct Replies {
    frames: mpsc::Sender<Vec<u8>>,
}

impl Replies {
    /// Says how far the work is. Waits while the client is slow.
    pub async fn progress(
        &self,
        done: u64,
        total: Option<u64>,
        text: impl Into<String>,
    ) -> Result<(), ClientGone> {
        self.send(&Reply::Progress(Progress { done, total, text: text.into() })).await
    }

    /// Sends one row. Waits while the client is slow. A row beyond [`FRAME_OCTETS_MAX`] ends the answer.
    pub async fn row(&self, row: Value) -> Result<(), ClientGone> {
        self.send(&Reply::Row(row)).await
    }

    /// Passes on what another server has sent.
    pub async fn send(&self, reply: &Reply) -> Result<(), ClientGone> {
        self.frames.send(frame(reply)).await.map_err(|_| ClientGone)
    }

    /// Whether the client has gone.
    pub fn is_gone(&self) -> bool {
        self.frames.is_closed()
    }
}

/// A reply as a line. One that is too long, or cannot be written, becomes a failure that says so.
fn frame(reply: &Reply) -> Vec<u8> {
    let line = |reply: &Reply| {
        let mut line = serde_json::to_vec(reply).ok()?;
        line.push(b'\n');
        (line.len() <= FRAME_OCTETS_MAX).then_some(line)
    };
    line(reply)
        .or_else(|| line(&Reply::Failed(Failed::new("too-large", "the answer is too large for one frame"))))
        .unwrap_or_default()
}

/// A socket that is bound, and not served yet.
pub struct AdminSocket {
    listener: Listener,
}

/// Binds the socket, mode 0600. Fails with [`BindError::Answered`] if a server runs already.
pub fn bind(path: &Path) -> Result<AdminSocket, BindError> {
    let options = ListenOptions { unix_mode: 0o600, backlog: 128, ..ListenOptions::default() };
    Listener::bind_with(&ListenSpec::Unix(path.to_owned()), options).map(|listener| AdminSocket { listener })
}

/// Binds the socket and serves it until the drain starts; see [`AdminSocket::serve`].
pub async fn serve<H, F>(path: &Path, drain: Drain, handler: H) -> Result<(), BindError>
where
    H: Fn(Request, Replies) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Value, Failed>> + Send + 'static,
{
    bind(path)?.serve(drain, handler).await;
    Ok(())
}

impl AdminSocket {
    /// Answers requests until the drain starts. Then no new request is taken; those under way go on until
    /// they are done, or the drain is cut.
    pub async fn serve<H, F>(self, drain: Drain, handler: H)
    where
        H: Fn(Request, Replies) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Value, Failed>> + Send + 'static,
    {
        let _guard = drain.guard();
        let handler = Arc::new(handler);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let place = tokio::select! {
                () = drain.draining() => break,
                place = Arc::clone(&places).acquire_owned() => place,
            };
            while connections.try_join_next().is_some() {}
            let stream = tokio::select! {
                () = drain.draining() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "an admin connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                },
            };
            let (handler, drain) = (Arc::clone(&handler), drain.clone());
            connections.spawn(async move {
                let _place = place;
                if let Err(error) = converse(stream, &*handler, &drain).await {
                    tracing::debug!(%error, "an admin connection was lost");
                }
            });
        }
        tokio::select! {
            () = async { while connections.join_next().await.is_some() {} } => {}
            () = drain.cut_off() => connections.shutdown().await,
        }
    }
}

/// Whether this user may administer the server.
fn is_allowed(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// The requests of one client, one after another.
async fn converse<H, F>(stream: Stream, handler: &H, drain: &Drain) -> io::Result<()>
where
    H: Fn(Request, Replies) -> F,
    F: Future<Output = Result<Value, Failed>> + Send + 'static,
{
    let peer = stream.peer();
    let mut stream = BufReader::new(stream);
    let from = match peer {
        Peer::Unix { uid: Some(uid) } if is_allowed(uid) => Asker::User(uid),
        _ => {
            tracing::warn!(%peer, "someone who may not has asked the admin socket");
            let failed = Failed::new("not-allowed", "only root and the server's own user may ask");
            return write(&mut stream, &frame(&Reply::Failed(failed))).await;
        }
    };
    talk(stream, from, handler, drain).await
}

/// Answers the requests of another node over a stream, one after another, until it ends or the drain starts.
pub async fn answer_peer<S, H, F>(stream: S, node: &str, handler: &H, drain: &Drain) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request, Replies) -> F,
    F: Future<Output = Result<Value, Failed>> + Send + 'static,
{
    talk(BufReader::new(stream), Asker::Node(node.into()), handler, drain).await
}

async fn talk<S, H, F>(mut stream: BufReader<S>, from: Asker, handler: &H, drain: &Drain) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request, Replies) -> F,
    F: Future<Output = Result<Value, Failed>> + Send + 'static,
{
    loop {
        let line = tokio::select! {
            () = drain.draining() => return Ok(()),
            line = read_line(&mut stream) => line?,
        };
        let request = match line {
            Line::End => return Ok(()),
            Line::TooLong => {
                let failed = Failed::new("too-large", "the request is too large");
                return write(&mut stream, &frame(&Reply::Failed(failed))).await;
            }
            Line::Whole(line) => serde_json::from_slice::<WireRequest>(&line),
        };
        match request {
            Ok(WireRequest { verb, args }) => {
                let request = Request { verb, args, from: from.clone() };
                answer(&mut stream, handler, request, drain).await?;
            }
            Err(error) => {
                let failed =
                    Failed::new("bad-request", format!("the request is no JSON of its form: {error}"));
                write(&mut stream, &frame(&Reply::Failed(failed))).await?;
            }
        }
    }
}

/// Runs the handler in a task of its own, which main waits for, and writes what it sends.
async fn answer<S, H, F>(
    stream: &mut BufReader<S>,
    handler: &H,
    request: Request,
    drain: &Drain,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request, Replies) -> F,
    F: Future<Output = Result<Value, Failed>> + Send + 'static,
{
    let (frames, mut waiting) = mpsc::channel(WAITING_FRAMES);
    let verb = request.verb.clone();
    let (work, guard) = (handler(request, Replies { frames }), drain.guard());
    let task = tokio::spawn(async move {
        tokio::select! {
            ended = work => ended,
            () = guard.drain().cut_off() => Err(Failed::new("cut-off", "the server ends; this was not finished")),
        }
    });
    while let Some(frame) = waiting.recv().await {
        // On an error `waiting` is dropped, by which the handler learns that its client has gone.
        write(stream, &frame).await?;
    }
    let last = match task.await {
        Ok(Ok(done)) => Reply::Done(done),
        Ok(Err(failed)) => Reply::Failed(failed),
        Err(error) => {
            tracing::error!(verb, %error, "the handler of an admin request panicked");
            Reply::Failed(Failed::new("server-bug", "the server failed at this; its log says more"))
        }
    };
    write(stream, &frame(&last)).await
}

async fn write<S: AsyncWrite + AsyncRead + Unpin>(stream: &mut BufReader<S>, frame: &[u8]) -> io::Result<()> {
    let sent = async {
        stream.write_all(frame).await?;
        stream.flush().await
    };
    tokio::time::timeout(WRITE_TIMEOUT, sent).await.map_err(|_| io::ErrorKind::TimedOut)?
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRequest {
    verb: String,
    #[serde(default)]
    args: Value,
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

/// One line, without its LF. What follows the last LF of a stream is no frame.
async fn read_line<R: tokio::io::AsyncBufRead + Unpin>(stream: &mut R) -> io::Result<Line> {
    let mut line = Vec::new();
    let limit = u64::try_from(FRAME_OCTETS_MAX).unwrap_or(u64::MAX);
    stream.take(limit).read_until(b'\n', &mut line).await?;
    Ok(match line.pop() {
        Some(b'\n') => Line::Whole(line),
        Some(_) if line.len() + 1 >= FRAME_OCTETS_MAX => Line::TooLong,
        Some(_) | None => Line::End,
    })
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No server answers at the socket.
    #[error("no server answers at {path}: {source}")]
    NoServer {
        /// The socket.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server said why it was not done.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The connection was lost before the answer's end; what was asked may have been done or not.
    #[error("the connection to the server was lost: {0}")]
    Lost(#[source] io::Error),
    /// The server's frame is not understood: it is of another version.
    #[error("the server's answer is not understood: {0}")]
    BadFrame(String),
}

/// What frames go over.
trait Frames: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Frames for S {}

/// The asking end: the command line's, or another node's.
pub struct Client {
    stream: BufReader<Box<dyn Frames>>,
}

impl Client {
    /// Connects to a server.
    pub async fn connect(path: &Path) -> Result<Client, CallError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| CallError::NoServer { path: path.to_owned(), source })?;
        Ok(Client::over(stream))
    }

    /// Asks over a stream to a server.
    pub fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Client {
        Client { stream: BufReader::new(Box::new(stream)) }
    }

    /// Asks, tells progress as it comes, and collects the rows. After an error other than `Failed` the client
    /// is of no further use.
    pub async fn call(
        &mut self,
        verb: &str,
        args: Value,
        progress: impl FnMut(&Progress),
    ) -> Result<(Vec<Value>, Value), CallError> {
        let mut rows = Vec::new();
        let done = self.call_rows(verb, args, progress, |row| rows.push(row)).await?;
        Ok((rows, done))
    }

    /// The same for answers that are too long to be collected: rows are told as they come.
    pub async fn call_rows(
        &mut self,
        verb: &str,
        args: Value,
        mut progress: impl FnMut(&Progress),
        mut row: impl FnMut(Value),
    ) -> Result<Value, CallError> {
        self.ask(verb, args).await?;
        loop {
            match self.reply().await? {
                Reply::Progress(now) => progress(&now),
                Reply::Row(value) => row(value),
                Reply::Done(value) => return Ok(value),
                Reply::Failed(failed) => return Err(failed.into()),
            }
        }
    }

    /// Only asks; [`Client::reply`] gives what comes of it, frame by frame.
    pub async fn ask(&mut self, verb: &str, args: Value) -> Result<(), CallError> {
        let mut line = serde_json::to_vec(&WireRequest { verb: verb.to_owned(), args })
            .map_err(|error| CallError::BadFrame(error.to_string()))?;
        line.push(b'\n');
        if line.len() > FRAME_OCTETS_MAX {
            return Err(Failed::new("too-large", "the request is too large").into());
        }
        // A server that refuses answers and closes without reading: its answer says more than EPIPE.
        if self.stream.write_all(&line).await.is_ok() {
            let _ = self.stream.flush().await;
        }
        Ok(())
    }

    /// The next frame of the answer.
    pub async fn reply(&mut self) -> Result<Reply, CallError> {
        let reply = match read_line(&mut self.stream).await.map_err(CallError::Lost)? {
            Line::Whole(line) => serde_json::from_slice(&line),
            Line::TooLong => return Err(CallError::BadFrame("it is too large".to_owned())),
            Line::End => return Err(CallError::Lost(io::ErrorKind::UnexpectedEof.into())),
        };
        reply.map_err(|error| CallError::BadFrame(error.to_string()))
    }
}
