//! The half of the home that messages leave: says what is to be done until it is.

use super::wire::{Answer, Errand, Item, Put, Task};
use super::{Inner, Known, Trouble};
use crate::framed::{END, JSON_OCTETS_MAX};
use crate::relay::{PipeHead, PipeService};
use rookery_kv::off_thread;
use rookery_net::Pipe;
use rookery_store::{Account, BodyReader, Departure, Refusal, StoreError, Transit, TransitId, Verdict};
use rookery_types::{AccountId, ContentId, NodeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

/// Octets of a message that are read at once.
const PIECE_OCTETS: usize = 256 << 10;
/// Octets on their way to this node itself.
const OWN_PIPE_OCTETS: usize = 64 << 10;

/// How a step has gone.
enum Step {
    /// The next can follow.
    Next,
    /// It comes later.
    Later,
    /// There is none.
    Ended,
}

impl Inner {
    /// Brings a move to its end. `tell` hears the verdict once it is carried out; `flowing` counts octets of the first
    /// try.
    pub(super) async fn drive(
        self: Arc<Self>,
        id: TransitId,
        trace: u64,
        mut tell: Option<oneshot::Sender<Verdict>>,
        mut flowing: Arc<AtomicU64>,
    ) {
        let mut pause = self.times.pause_min;
        loop {
            match self.step(id, trace, &mut tell, &flowing).await {
                Ok(Step::Ended) => {
                    self.ended(id, None);
                    return;
                }
                Ok(Step::Next) => {
                    pause = self.times.pause_min;
                    continue;
                }
                Ok(Step::Later) => {}
                Err(Trouble(why)) => {
                    flowing = Arc::default();
                    self.waits(id, &why);
                    if pause == self.times.pause_min {
                        tracing::info!(transit = %id, why, "a move to another node waits");
                    }
                }
            }
            // Not all at once when a node comes back.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(self.times.pause_max);
        }
    }

    async fn step(
        self: &Arc<Self>,
        id: TransitId,
        trace: u64,
        tell: &mut Option<oneshot::Sender<Verdict>>,
        flowing: &AtomicU64,
    ) -> Result<Step, Trouble> {
        let account = match self.store.account(id.account).await {
            Ok(account) => account,
            // It goes on at the account's new home.
            Err(StoreError::Moved) => return Ok(Step::Ended),
            Err(StoreError::NoAccount) => {
                return Ok(match self.store.account_for_arrivals(id.account)? {
                    // It may come back.
                    Some(_) => Step::Later,
                    None => Step::Ended,
                });
            }
            Err(error) => return Err(error.into()),
        };
        match account.transit(id.counter)? {
            None => Ok(Step::Ended),
            Some(Transit::Open(departure)) => {
                self.begun(id, departure.begun_unix_seconds);
                let verdict = self.verdict(&account, id, &departure, trace, flowing).await?;
                account.settle(id.counter, &verdict).await?;
                tracing::debug!(transit = %id, ?verdict, "a move has ended");
                self.ended(id, Some(&verdict));
                if let Some(tell) = tell.take() {
                    // Whoever asked may have gone.
                    let _ = tell.send(verdict);
                }
                Ok(Step::Next)
            }
            Some(Transit::Done { account: target, home }) => {
                let below = account.settled_below().await?;
                if below <= id.counter {
                    return Ok(Step::Later);
                }
                if let Some(node) = self.home_of(target, home).await? {
                    let id = TransitId { counter: below, ..id };
                    let errand = Errand { id, target, task: Task::Forget };
                    let pipe = self.begin(node, trace, &errand).await?;
                    match self.answer(pipe).await? {
                        Answer::Done | Answer::NoAccount => {}
                        other => return Err(unexpected(&other)),
                    }
                }
                account.close_departure(id.counter).await?;
                Ok(Step::Ended)
            }
        }
    }

    /// The node to ask; `None`: there is nothing of the account any more.
    async fn home_of(&self, account: AccountId, hint: NodeId) -> Result<Option<NodeId>, Trouble> {
        if let Known::At(entry) = self.known(account).await? {
            return Ok(Some(entry.home.node));
        }
        // Its last home may have kept it.
        let nodes = self.directory.nodes().await?;
        Ok((hint == self.here() || nodes.iter().any(|node| node.id == hint)).then_some(hint))
    }

    async fn verdict(
        self: &Arc<Self>,
        account: &Account,
        id: TransitId,
        departure: &Departure,
        trace: u64,
        flowing: &AtomicU64,
    ) -> Result<Verdict, Trouble> {
        let target = departure.to.account;
        let Some(node) = self.home_of(target, departure.to.home).await? else {
            return Ok(Verdict::Refused(Refusal::Gone));
        };
        let _permit = self.sending.acquire().await;
        let (items, contents) = match departure.given_up {
            true => (Vec::new(), Vec::new()),
            false => carried(account, departure).await?,
        };
        let task = match items.is_empty() {
            // Given up; or a crash took them back, so nothing was ever sent.
            true => Task::Refuse,
            false => {
                let (user, path) = (departure.to.user.clone(), departure.to.path.clone());
                Task::Put(Put { user, path, messages: items })
            }
        };
        let mut pipe = self.begin(node, trace, &Errand { id, target, task }).await?;
        for content in contents {
            self.send(&mut *pipe, account, content, flowing).await?;
        }
        match self.answer(pipe).await? {
            Answer::Verdict(verdict) => Ok(verdict),
            // The directory has the last word.
            Answer::NoAccount => match self.known(target).await? {
                Known::Gone => Ok(Verdict::Refused(Refusal::Gone)),
                Known::At(_) => {
                    Err(Trouble(format!("node {node} has not the account that the directory sees there")))
                }
            },
            Answer::Closed => {
                let why = "the other home has closed a move that is open here: one of them was set back";
                tracing::error!(transit = %id, why);
                Err(Trouble(why.to_owned()))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Opens a pipe and says what is asked for.
    async fn begin(
        self: &Arc<Self>,
        node: NodeId,
        trace: u64,
        errand: &Errand,
    ) -> Result<Box<dyn Pipe>, Trouble> {
        let head = PipeHead { trace }.encode();
        let mut pipe = match node == self.here() {
            true => self.to_itself(),
            false => {
                let opened = self.peers.open(node, PipeService::Transit, head).await;
                opened.map_err(|error| Trouble(error.to_string()))?
            }
        };
        self.in_time(pipe.write_all(&errand.encode())).await?;
        Ok(pipe)
    }

    /// A pipe to this node: both accounts are at home here by now.
    fn to_itself(self: &Arc<Self>) -> Box<dyn Pipe> {
        let (near, mut far) = rookery_net::pipe::in_memory(OWN_PIPE_OCTETS);
        let inner = Arc::clone(self);
        self.spawn(async move {
            if let Err(error) = inner.take(&mut far, inner.here()).await {
                tracing::info!(%error, "a move within this node has not come whole");
            }
        });
        Box::new(near)
    }

    /// Sends a message's octets.
    async fn send(
        &self,
        pipe: &mut dyn Pipe,
        account: &Account,
        content: ContentId,
        flowing: &AtomicU64,
    ) -> Result<(), Trouble> {
        let owner = account.clone();
        let mut reader: BodyReader = blocking(move || owner.reader(content)).await?;
        let mut at = 0;
        while at < reader.size() {
            let octets;
            (reader, octets) = blocking(move || {
                let octets = reader.read(at, PIECE_OCTETS)?;
                Ok((reader, octets))
            })
            .await?;
            if octets.is_empty() {
                return Err(StoreError::NoContent.into());
            }
            for octets in octets.chunks(16 << 10) {
                self.in_time(pipe.write_all(octets)).await?;
                flowing.fetch_add(1, Ordering::Relaxed);
            }
            at += octets.len() as u64;
        }
        Ok(())
    }

    /// Ends what is asked for, and hears what became of it.
    async fn answer(&self, mut pipe: Box<dyn Pipe>) -> Result<Answer, Trouble> {
        pipe.put_note(END);
        self.in_time(pipe.flush()).await?;
        let mut json = Vec::new();
        let mut limited = (&mut pipe).take(JSON_OCTETS_MAX as u64);
        self.in_time(limited.read_to_end(&mut json)).await?;
        Answer::decode(&json).map_err(|_| Trouble("the other home gave no answer".to_owned()))
    }

    async fn in_time<T>(&self, work: impl Future<Output = std::io::Result<T>>) -> Result<T, Trouble> {
        let limit: Duration = self.times.stalled;
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(|error| Trouble(format!("the link: {error}"))),
            Err(_) => Err(Trouble("the other home does not go on".to_owned())),
        }
    }
}

/// The messages that go, as the user sees them, and their contents.
async fn carried(account: &Account, departure: &Departure) -> Result<(Vec<Item>, Vec<ContentId>), Trouble> {
    let mailbox = account.clone().seen_by(&departure.to.user).open(departure.mailbox).await?;
    let messages = departure.messages.clone();
    let found = blocking(move || {
        let state = mailbox.now();
        let all = state.messages.clone().unwrap_or_default();
        let (mut items, mut contents) = (Vec::new(), Vec::new());
        for (uid, content) in messages {
            let Some(message) = all.message(uid)?.filter(|message| message.content == content) else {
                continue;
            };
            let table = &state.settings.keywords;
            let keywords = message.keywords.as_slice().iter();
            items.push(Item {
                uid,
                octets: message.size,
                flags: message.flags,
                keywords: keywords.filter_map(|number| table.get(usize::from(*number)).cloned()).collect(),
                date: message.date,
            });
            contents.push(content);
        }
        Ok((items, contents))
    });
    Ok(found.await?)
}

fn unexpected(answer: &Answer) -> Trouble {
    match answer {
        Answer::Failed(why) => Trouble(format!("the other home: {why}")),
        other => Trouble(format!("the other home says {other:?}")),
    }
}

/// What reads the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    off_thread(work).await?
}
