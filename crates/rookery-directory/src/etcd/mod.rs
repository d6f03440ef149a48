//! A directory kept in etcd, so that it survives the loss of any machine.
//!
//! Each primary record is one key below a prefix, with the same octets as in the copies. A conditional batch is one
//! transaction that compares values; those that come at the same time go together.
//!
//! Invariants:
//! - Reads are linearizable.
//! - A commit counts as not done only if nobody could be asked or etcd has refused it. Everything else may be done.
//! - Revisions are etcd's own; the cluster is etcd's, too, so that a new one is not taken for the old.

mod connection;
mod gather;
mod messages;

use crate::records::{POSITION_KEY, decode_position, encode_position, is_known, is_primary};
use crate::source::{
    Changes, ConditionalBatch, Event, GET_MAX, Position, Record, RecordPage, Reply, Source, SourceError,
    Write,
};
use bytes::Bytes;
use connection::{Connections, Failure, failure};
use gather::{Gathered, KEYS_MAX, OCTETS_MAX, Transaction};
use messages::{
    Compare, Compared, DeleteRangeRequest, Header, KeyValue, Op, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use rookery_kv::prefix_end;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

/// Records of a page at most. With the largest records the answer is still taken.
const PAGE_MAX: usize = 1000;
/// Events of one follower that are held ready.
const EVENTS_READY: usize = 256;
/// What the keys begin with that are no records but the source's own.
const OWN: &[u8] = b"!";
/// The key, below the prefix, that is written to make etcd tell of its revision. No record has it.
const NUDGE: &[u8] = b"!nudge";
/// The key, below the prefix, with the position of another source whose place was taken.
const AFTER: &[u8] = b"!after";
/// etcd has one history as long as its cluster lives.
const TERM: u64 = 1;

/// How etcd is reached.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// Its members, as `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// Certificates of the authorities that vouch for the members, in PEM.
    pub ca: Option<Vec<u8>>,
    /// A certificate with its chain and its key, in PEM, that vouch for this node.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The source in etcd. Cheap to clone.
#[derive(Clone)]
pub struct EtcdSource(Arc<Inner>);

struct Inner {
    connections: Connections,
    prefix: Bytes,
    /// Just after every key with the prefix.
    end: Bytes,
    gathered: Gathered,
}

impl EtcdSource {
    /// Connects when it is first asked for something. Refuses addresses and certificates that make no sense.
    pub fn new(options: EtcdOptions) -> Result<EtcdSource, SourceError> {
        let prefix = Bytes::from(options.prefix.clone().into_bytes());
        // Without a prefix: all keys.
        let end = prefix_end(&prefix).map_or(Bytes::from_static(b"\0"), Bytes::from);
        let connections = Connections::new(options)?;
        Ok(EtcdSource(Arc::new(Inner { connections, prefix, end, gathered: Gathered::default() })))
    }

    /// Lets all who followed another source up to this position go on with this one, which has all that it had. May
    /// be asked again after a lost answer.
    pub async fn begin_after(&self, position: Position) -> Result<(), SourceError> {
        let key = self.key(AFTER);
        let compare = Compare {
            result: 0,
            target: Compare::VERSION,
            key: key.clone(),
            with: Some(Compared::Version(0)),
        };
        let put = op(Op::Put(PutRequest { key, value: encode_position(position) }));
        let answer = self.txn(TxnRequest { compare: vec![compare], success: vec![put] }).await;
        match answer {
            Ok(answer) if answer.succeeded => Ok(()),
            Err(Failure::NotSent(why)) => Err(SourceError::Unavailable(why)),
            Err(Failure::Refused(status)) => Err(SourceError::Unavailable(status.message().to_owned())),
            // It may be there, perhaps by this.
            Ok(_) | Err(Failure::Lost(_)) => match self.predecessor().await {
                Ok(Some(known)) if known == position => Ok(()),
                Ok(Some(_)) => Err(SourceError::WentBack("it goes on from another directory".to_owned())),
                Ok(None) => Err(SourceError::Unknown("it gave no answer".to_owned())),
                Err(error) => Err(SourceError::Unknown(error.to_string())),
            },
        }
    }

    fn key(&self, key: &[u8]) -> Bytes {
        [&self.0.prefix, key].concat().into()
    }

    async fn range(&self, key: Bytes, range_end: Bytes, limit: usize) -> Result<RangeResponse, Failure> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0.connections.ask("/etcdserverpb.KV/Range", RangeRequest { key, range_end, limit }).await
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Failure> {
        self.0.connections.ask("/etcdserverpb.KV/Txn", request).await
    }

    /// Has a transaction done.
    async fn send(self, transaction: Transaction) -> Result<Position, SourceError> {
        let Transaction { compared, written, .. } = transaction;
        let compare = compared.into_iter().map(|(key, value)| {
            let (target, with) = match value {
                Some(value) => (Compare::VALUE, Compared::Value(value)),
                None => (Compare::VERSION, Compared::Version(0)),
            };
            Compare { result: 0, target, key: self.key(&key), with: Some(with) }
        });
        let writes = written.into_iter().map(|(key, value)| {
            let key = self.key(&key);
            op(match value {
                Some(value) => Op::Put(PutRequest { key, value }),
                None => Op::Delete(DeleteRangeRequest { key }),
            })
        });
        let request = TxnRequest { compare: compare.collect(), success: writes.collect() };
        match self.txn(request).await {
            Ok(answer) if answer.succeeded => position(answer.header.as_ref()),
            Ok(_) => Err(SourceError::Conflict),
            Err(Failure::NotSent(why)) => Err(SourceError::Unavailable(why)),
            // Its limits may be set lower than they are as etcd comes.
            Err(Failure::Refused(status)) if status.code() == Code::InvalidArgument => {
                tracing::warn!(why = status.message(), "etcd refuses a change");
                Err(SourceError::TooLarge)
            }
            Err(Failure::Refused(status)) => Err(SourceError::Unavailable(status.message().to_owned())),
            Err(Failure::Lost(why)) => Err(SourceError::Unknown(why)),
        }
    }

    async fn position_now(&self) -> Result<Position, SourceError> {
        let answer = self.range(self.key(NUDGE), Bytes::new(), 1).await.map_err(unavailable)?;
        position(answer.header.as_ref())
    }

    async fn read_page(&self, start: &Bytes, limit: usize) -> Result<RecordPage, SourceError> {
        let mut limit = limit.clamp(1, PAGE_MAX);
        let key = self.key(start);
        // etcd takes an empty key for nothing.
        let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
        let answer = loop {
            match self.range(key.clone(), self.0.end.clone(), limit).await {
                Ok(answer) => break answer,
                // More octets than are taken at once.
                Err(Failure::Refused(status)) if status.code() == Code::OutOfRange && limit > 1 => limit /= 4,
                Err(failure) => return Err(unavailable(failure)),
            }
        };
        let next = match answer.kvs.last().filter(|_| answer.more) {
            Some(last) => Some([self.record_key(&last.key)?.as_ref(), &[0]].concat().into()),
            None => None,
        };
        let mut records = Vec::new();
        for KeyValue { key, value, .. } in answer.kvs {
            let key = self.record_key(&key)?;
            if is_record(&key) {
                records.push(Record { key, value });
            }
        }
        Ok(RecordPage { records, next, position: position(answer.header.as_ref())? })
    }

    fn record_key(&self, key: &Bytes) -> Result<Bytes, SourceError> {
        match key.starts_with(&self.0.prefix) {
            true => Ok(key.slice(self.0.prefix.len()..)),
            false => Err(SourceError::Damaged("etcd gave a key that was not asked for".to_owned())),
        }
    }

    /// Begins to watch. Keeps the sender of questions, whose end would end the watch.
    async fn watch(
        &self,
        since: Position,
    ) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>), SourceError> {
        let connections = &self.0.connections;
        let connection = connections.connection().await.map_err(unavailable)?;
        let (ask, questions) = mpsc::channel(1);
        let next = since.revision.saturating_add(1);
        let create = WatchCreateRequest {
            key: if self.0.prefix.is_empty() { Bytes::from_static(b"\0") } else { self.0.prefix.clone() },
            range_end: self.0.end.clone(),
            start_revision: i64::try_from(next).unwrap_or(i64::MAX),
            progress_notify: true,
        };
        let _ = ask.send(WatchRequest { create: Some(create) }).await;
        match connection.stream("/etcdserverpb.Watch/Watch", questions).await {
            Ok(answers) => Ok((ask, answers)),
            Err(status) => {
                connections.leave(&connection);
                Err(unavailable(failure(status)))
            }
        }
    }

    /// The events of one answer, each revision's together.
    fn events(&self, answer: WatchResponse, at: &mut Position) -> Result<Vec<Event>, SourceError> {
        let head = position(answer.header.as_ref())?;
        if head.cluster != at.cluster {
            return Err(SourceError::WentBack("it is another cluster".to_owned()));
        }
        if answer.compact_revision > 0 {
            return Err(SourceError::Compacted);
        }
        if answer.canceled {
            return Err(SourceError::Unavailable(format!("etcd ended the watch: {}", answer.cancel_reason)));
        }
        let is_progress = answer.events.is_empty() && !answer.created;
        let mut events: Vec<Event> = Vec::new();
        for told in answer.events {
            let kv = told.kv.ok_or_else(|| SourceError::Damaged("an event of etcd has no key".to_owned()))?;
            let revision = revision(kv.mod_revision)?;
            if revision < at.revision || revision == at.revision && events.is_empty() {
                return Err(SourceError::Damaged("the events of etcd are out of order".to_owned()));
            }
            at.revision = revision;
            let key = self.record_key(&kv.key)?;
            if events.last().is_none_or(|event| event.position != *at) {
                events.push(Event { position: *at, writes: Vec::new() });
            }
            if let Some(event) = events.last_mut().filter(|_| is_record(&key)) {
                event.writes.push(Write { key, value: (told.kind == 0).then_some(kv.value) });
            }
        }
        if is_progress && head.revision > at.revision {
            *at = head;
            events.push(Event { position: head, writes: Vec::new() });
        }
        Ok(events)
    }

    async fn tell(&self, mut at: Position, to: mpsc::Sender<Result<Event, SourceError>>) {
        let (_ask, mut answers) = match self.watch(at).await {
            Ok(watch) => watch,
            Err(error) => return drop(to.send(Err(error)).await),
        };
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                () = to.closed() => return,
            };
            let events = match answer {
                Ok(Some(answer)) => self.events(answer, &mut at),
                Ok(None) => Err(SourceError::Unavailable("etcd ended the watch".to_owned())),
                Err(status) => Err(unavailable(failure(status))),
            };
            match events {
                Ok(events) => {
                    for event in events {
                        if to.send(Ok(event)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => return drop(to.send(Err(error)).await),
            }
        }
    }
}

/// Whether a key is that of a primary record, perhaps of a kind that only newer programs know.
fn is_record(key: &[u8]) -> bool {
    is_primary(key) || !is_known(key) && !key.starts_with(OWN)
}

fn revision(number: i64) -> Result<u64, SourceError> {
    u64::try_from(number).map_err(|_| SourceError::Damaged("a revision of etcd is negative".to_owned()))
}

fn position(header: Option<&Header>) -> Result<Position, SourceError> {
    let header = header.ok_or_else(|| SourceError::Damaged("an answer of etcd has no header".to_owned()))?;
    Ok(Position { cluster: header.cluster_id, term: TERM, revision: revision(header.revision)? })
}

/// For what changes nothing.
fn unavailable(failure: Failure) -> SourceError {
    SourceError::Unavailable(match failure {
        Failure::NotSent(why) | Failure::Lost(why) => why,
        Failure::Refused(status) => status.message().to_owned(),
    })
}

fn op(op: Op) -> RequestOp {
    RequestOp { request: Some(op) }
}

impl Source for EtcdSource {
    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position> {
        Box::pin(async move {
            let keys = batch.conditions.len().max(batch.writes.len());
            if keys > KEYS_MAX || batch.octets() > OCTETS_MAX {
                return Err(SourceError::TooLarge);
            }
            let (told, sends) = self.0.gathered.wait(batch);
            if sends {
                let source = self.clone();
                tokio::spawn(async move {
                    source.0.gathered.send_all(|transaction| source.clone().send(transaction)).await;
                });
            }
            told.await.unwrap_or_else(|_| Err(SourceError::Unknown("the node is ending".to_owned())))
        })
    }

    fn head(&self) -> Reply<'_, Position> {
        Box::pin(self.position_now())
    }

    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)> {
        Box::pin(async move {
            let count = keys.len().min(GET_MAX);
            let ranges = keys.iter().take(GET_MAX).map(|key| {
                op(Op::Range(RangeRequest { key: self.key(key), range_end: Bytes::new(), limit: 1 }))
            });
            let request = TxnRequest { compare: Vec::new(), success: ranges.collect() };
            let answer = self.txn(request).await.map_err(unavailable)?;
            let position = position(answer.header.as_ref())?;
            let first = |range: RangeResponse| range.kvs.into_iter().next().map(|kv| kv.value);
            let values = answer.responses.into_iter().map(|response| response.range.and_then(first));
            let values: Vec<_> = values.collect();
            match values.len() == count {
                true => Ok((position, values)),
                false => Err(SourceError::Damaged("etcd answers other questions than were asked".to_owned())),
            }
        })
    }

    fn page(&self, start: Bytes, limit: usize) -> Reply<'_, RecordPage> {
        Box::pin(async move { self.read_page(&start, limit).await })
    }

    fn changes(&self, since: Position) -> Reply<'_, Changes> {
        Box::pin(async move {
            // etcd waits without a word for a revision that is yet to come.
            let head = self.position_now().await?;
            if since.cluster != head.cluster || since.term != TERM || since.revision > head.revision {
                return Err(SourceError::WentBack(format!(
                    "{since:?} was asked for, and {head:?} is the end"
                )));
            }
            let (events, changes) = mpsc::channel(EVENTS_READY);
            let source = self.clone();
            tokio::spawn(async move { source.tell(since, events).await });
            Ok(Changes::new(changes))
        })
    }

    fn predecessor(&self) -> Reply<'_, Option<Position>> {
        Box::pin(async move {
            let answer = self.range(self.key(AFTER), Bytes::new(), 1).await.map_err(unavailable)?;
            let Some(kv) = answer.kvs.into_iter().next() else { return Ok(None) };
            let position = decode_position(POSITION_KEY, &kv.value);
            position.map(Some).map_err(|error| SourceError::Damaged(error.to_string()))
        })
    }

    /// etcd's revision also rises by what others keep in it, of which a watch is not told.
    fn nudge(&self) -> Reply<'_, ()> {
        Box::pin(async move {
            let request = PutRequest { key: self.key(NUDGE), value: Bytes::new() };
            let answer: Result<PutResponse, Failure> =
                self.0.connections.ask("/etcdserverpb.KV/Put", request).await;
            answer.map(drop).map_err(unavailable)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_own_keys_are_no_records_of_a_newer_program() {
        for own in [NUDGE, AFTER] {
            assert!(own.starts_with(OWN) && !is_record(own));
        }
        assert!(is_record(b"d a.test") && is_record(b"?of a newer program"));
    }
}
