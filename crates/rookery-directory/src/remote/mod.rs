//! A source in another place: the same calls over a channel of messages, whatever carries it.
//!
//! Invariants:
//! - A commit whose answer did not come counts as one that may be done.
//! - What one end holds for the other is bounded: requests under way, and events that are ready.

mod codec;

pub use codec::{MESSAGE_OCTETS_MAX, Message, NotAMessage, Pieces, Request, Response, encode};

use crate::source::{Changes, ConditionalBatch, Event, Position, RecordPage, Reply, Source, SourceError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

/// Requests of one channel that are worked on at once; further ones wait.
const REQUESTS_MAX: usize = 256;
/// Messages that wait to be sent.
const READY_MAX: usize = 64;
/// Events of one follower that are held ready.
const EVENTS_READY: usize = 64;

/// A step of a channel that will be done.
pub type Step<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The end of a channel that octets go into, in order.
pub trait Outgoing: Send + 'static {
    /// Sends octets; waits while the other end does not take more. Err: nothing more can be sent.
    fn send(&mut self, octets: Bytes) -> Step<'_, Result<(), ()>>;
}

/// The end of a channel that octets come out of, in order.
pub trait Incoming: Send + 'static {
    /// The next octets; `None`: no more come.
    fn recv(&mut self) -> Step<'_, Option<Bytes>>;
}

/// Answers what comes until the channel ends.
pub async fn serve_source(source: Arc<dyn Source>, mut incoming: impl Incoming, outgoing: impl Outgoing) {
    let (answers, ready) = mpsc::channel(READY_MAX);
    let mut writer = tokio::spawn(write(ready, outgoing));
    let room = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut followers: HashMap<u64, AbortHandle> = HashMap::new();
    let mut pieces = Pieces::default();
    'channel: loop {
        let octets = tokio::select! {
            octets = incoming.recv() => octets,
            _ = &mut writer => break,
        };
        let Some(octets) = octets else { break };
        pieces.push(&octets);
        loop {
            let (number, request) = match pieces.message::<Request>() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "whoever follows the directory sends nonsense");
                    break 'channel;
                }
            };
            followers.retain(|_, follower| !follower.is_finished());
            if request == Request::Stop {
                if let Some(follower) = followers.remove(&number) {
                    follower.abort();
                }
                continue;
            }
            let Ok(room) = room.clone().acquire_owned().await else { break 'channel };
            let is_following = matches!(request, Request::Changes(_));
            let (source, answers) = (source.clone(), answers.clone());
            let task = tokio::spawn(async move {
                // One that follows holds its place as long.
                let _room = room;
                answer(&*source, number, request, &answers).await;
            });
            if is_following && let Some(other) = followers.insert(number, task.abort_handle()) {
                other.abort();
            }
        }
    }
    followers.values().for_each(AbortHandle::abort);
    writer.abort();
}

async fn write<M: Message + Send>(mut ready: mpsc::Receiver<(u64, M)>, mut outgoing: impl Outgoing) {
    while let Some((number, message)) = ready.recv().await {
        let Some(octets) = encode(number, &message) else {
            tracing::error!("a message of the directory is too long to be sent");
            return;
        };
        if outgoing.send(octets).await.is_err() {
            return;
        }
    }
}

async fn answer(source: &dyn Source, number: u64, request: Request, to: &mpsc::Sender<(u64, Response)>) {
    let answer = match request {
        Request::Commit(batch) => source.commit(batch).await.map(Response::At),
        Request::Head => source.head().await.map(Response::At),
        Request::Get(keys) => {
            source.get(keys).await.map(|(position, values)| Response::Values(position, values))
        }
        Request::Page(start, limit) => {
            source.page(start, usize::try_from(limit).unwrap_or(usize::MAX)).await.map(Response::Page)
        }
        Request::Changes(since) => match source.changes(since).await {
            Ok(changes) => return follow(number, changes, to).await,
            Err(error) => Err(error),
        },
        Request::Stop => return,
    };
    // Whoever asked may have gone.
    let _ = to.send((number, answer.unwrap_or_else(Response::Failed))).await;
}

async fn follow(number: u64, mut changes: Changes, to: &mpsc::Sender<(u64, Response)>) {
    let mut next = Response::Following;
    loop {
        let has_ended = matches!(next, Response::Failed(_));
        if to.send((number, next)).await.is_err() || has_ended {
            return;
        }
        next = changes.next().await.map_or_else(Response::Failed, Response::Event);
    }
}

/// Both ends of a channel that are here.
pub type Channel = (Box<dyn Outgoing>, Box<dyn Incoming>);

/// Makes channels to the place where the source is.
pub trait Connect: Send + Sync + 'static {
    /// A new channel. Err: why there is none.
    fn connect(&self) -> Step<'_, Result<Channel, String>>;
}

impl Outgoing for Box<dyn Outgoing> {
    fn send(&mut self, octets: Bytes) -> Step<'_, Result<(), ()>> {
        (**self).send(octets)
    }
}

impl Incoming for Box<dyn Incoming> {
    fn recv(&mut self) -> Step<'_, Option<Bytes>> {
        (**self).recv()
    }
}

/// A source that is asked over a channel. It connects when it is asked, and again after the channel has ended.
#[derive(Clone)]
pub struct RemoteSource {
    connect: Arc<dyn Connect>,
    asking: Slot,
    /// Events go over a channel of their own: answers do not wait behind them.
    following: Slot,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

/// A channel in use.
struct Connection {
    requests: mpsc::Sender<(u64, Request)>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    has_ended: bool,
    answers: HashMap<u64, oneshot::Sender<Response>>,
    followers: HashMap<u64, mpsc::Sender<Result<Event, SourceError>>>,
}

impl RemoteSource {
    /// Over the channels that `connect` makes.
    pub fn new(connect: Arc<dyn Connect>) -> RemoteSource {
        RemoteSource { connect, asking: Slot::default(), following: Slot::default() }
    }

    async fn connection(&self, slot: &Slot) -> Result<Arc<Connection>, SourceError> {
        let mut current = slot.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| !connection.waiting.lock().has_ended) {
            return Ok(connection.clone());
        }
        let (outgoing, incoming) = self.connect.connect().await.map_err(SourceError::Unavailable)?;
        let (requests, ready) = mpsc::channel(READY_MAX);
        let connection = Arc::new(Connection { requests, waiting: Mutex::default() });
        let reading = connection.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = write(ready, outgoing) => {}
                () = reading.read(incoming) => {}
            }
            reading.end();
        });
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Asks, and waits for the one answer.
    async fn ask(&self, request: Request) -> Result<Response, SourceError> {
        let connection = self.connection(&self.asking).await?;
        let lost = || SourceError::Unknown("the link has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        let number = connection.number(|waiting, number| drop(waiting.answers.insert(number, answer)))?;
        let asking = Asking { connection: &connection, number };
        connection.requests.send((number, request)).await.map_err(|_| lost())?;
        let answer = answered.await.map_err(|_| lost())?;
        drop(asking);
        match answer {
            Response::Failed(error) => Err(error),
            answer => Ok(answer),
        }
    }
}

/// Forgets a request whose answer nobody waits for.
struct Asking<'a> {
    connection: &'a Connection,
    number: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.connection.waiting.lock().answers.remove(&self.number);
    }
}

impl Connection {
    /// A new number, known to be waited for before anything is sent.
    fn number(&self, wait: impl FnOnce(&mut Waiting, u64)) -> Result<u64, SourceError> {
        let mut waiting = self.waiting.lock();
        if waiting.has_ended {
            return Err(SourceError::Unavailable("the link has ended".to_owned()));
        }
        waiting.next = waiting.next.wrapping_add(1);
        let number = waiting.next;
        wait(&mut waiting, number);
        Ok(number)
    }

    /// Gives answers to whoever waits for them, until the channel ends.
    async fn read(&self, mut incoming: impl Incoming) {
        let mut pieces = Pieces::default();
        while let Some(octets) = incoming.recv().await {
            pieces.push(&octets);
            loop {
                match pieces.message::<Response>() {
                    Ok(Some((number, response))) => self.take(number, response).await,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "the directory's source sends nonsense");
                        return;
                    }
                }
            }
        }
    }

    async fn take(&self, number: u64, response: Response) {
        let follower = {
            let mut waiting = self.waiting.lock();
            match (waiting.answers.remove(&number), &response) {
                (Some(answer), _) => {
                    // Whoever asked may have gone.
                    let _ = answer.send(response);
                    return;
                }
                (None, Response::Failed(_)) => waiting.followers.remove(&number),
                (None, _) => waiting.followers.get(&number).cloned(),
            }
        };
        let event = match response {
            Response::Event(event) => Ok(event),
            Response::Failed(error) => Err(error),
            _ => return,
        };
        let Some(follower) = follower else { return };
        if follower.send(event).await.is_err() {
            self.waiting.lock().followers.remove(&number);
            let _ = self.requests.send((number, Request::Stop)).await;
        }
    }

    fn end(&self) {
        let mut waiting = self.waiting.lock();
        waiting.has_ended = true;
        // Whoever waits is told by that.
        waiting.answers.clear();
        waiting.followers.clear();
    }
}

fn nonsense<T>() -> Result<T, SourceError> {
    Err(SourceError::Damaged("the directory's source answers other questions than were asked".to_owned()))
}

/// For what changes nothing.
fn not_done(error: SourceError) -> SourceError {
    match error {
        SourceError::Unknown(why) => SourceError::Unavailable(why),
        error => error,
    }
}

impl Source for RemoteSource {
    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position> {
        Box::pin(async move {
            if batch.octets() > MESSAGE_OCTETS_MAX / 2 {
                return Err(SourceError::TooLarge);
            }
            match self.ask(Request::Commit(batch)).await? {
                Response::At(position) => Ok(position),
                // Who answers nonsense may have done anything.
                _ => Err(SourceError::Unknown("its answer makes no sense".to_owned())),
            }
        })
    }

    fn head(&self) -> Reply<'_, Position> {
        Box::pin(async move {
            match self.ask(Request::Head).await.map_err(not_done)? {
                Response::At(position) => Ok(position),
                _ => nonsense(),
            }
        })
    }

    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)> {
        Box::pin(async move {
            let count = keys.len().min(crate::source::GET_MAX);
            match self.ask(Request::Get(keys)).await.map_err(not_done)? {
                Response::Values(position, values) if values.len() == count => Ok((position, values)),
                _ => nonsense(),
            }
        })
    }

    fn page(&self, start: Bytes, limit: usize) -> Reply<'_, RecordPage> {
        Box::pin(async move {
            let limit = u64::try_from(limit).unwrap_or(u64::MAX);
            match self.ask(Request::Page(start, limit)).await.map_err(not_done)? {
                Response::Page(page) => Ok(page),
                _ => nonsense(),
            }
        })
    }

    fn changes(&self, since: Position) -> Reply<'_, Changes> {
        Box::pin(async move {
            let connection = self.connection(&self.following).await?;
            let lost = || SourceError::Unavailable("the link has ended".to_owned());
            let (answer, answered) = oneshot::channel();
            let (events, changes) = mpsc::channel(EVENTS_READY);
            let number = connection.number(|waiting, number| {
                waiting.answers.insert(number, answer);
                waiting.followers.insert(number, events);
            })?;
            let _asking = Asking { connection: &connection, number };
            connection.requests.send((number, Request::Changes(since))).await.map_err(|_| lost())?;
            let failed = match answered.await.map_err(|_| lost())? {
                Response::Following => return Ok(Changes::new(changes)),
                Response::Failed(error) => Err(error),
                _ => nonsense(),
            };
            connection.waiting.lock().followers.remove(&number);
            failed
        })
    }
}
