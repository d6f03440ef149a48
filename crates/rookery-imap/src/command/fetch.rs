//! FETCH (RFC 9051 §6.4.5), with CHANGEDSINCE and VANISHED (RFC 7162 §3.1.4, §3.2.6).

use super::Outcome;
use crate::answer::{Answer, Failure, blocking};
use crate::fetch::{Encoded, Job, Piece, Plan, Rendered, Source, render, render_from_memory, within};
use crate::session::{Selected, User};
use crate::tell;
use crate::view::{is_unknown, windows};
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::command::{Fetch, FetchItem};
use rookery_codec::imap::types::PartialRange;
use rookery_codec::imap::{Code, MessageSet, Response};
use rookery_mime::TransferDecoder;
use rookery_store::{BodyReader, FlagChange, FlagList, MailboxState, Message, Messages, StoreError};
use rookery_types::{ContentId, Rights, SeqNum, SystemFlags, UidSet};
use std::ops::Range;
use std::sync::Arc;

/// About how many octets one batch has.
const BATCH_OCTETS: usize = 256 << 10;
/// Messages in one batch.
const BATCH_MESSAGES: usize = 512;
/// PREVIEW (LAZY) is answered for so many messages of one FETCH, and NIL for the others (RFC 8970 §4.1): a
/// screenful and more costs some milliseconds, all of a large mailbox would keep the client waiting.
const LAZY_PREVIEWS: usize = 250;
/// Octets of a large body that are read at once, and of its last piece.
const STREAM_OCTETS: u64 = 1 << 20;
const LAST_OCTETS_MAX: u64 = 1280 << 10;

/// Answers with what is asked of messages.
pub(crate) async fn fetch(
    wire: &mut Wire,
    user: &mut User,
    selected: &mut Selected,
    fetch: Fetch,
) -> Outcome {
    if fetch.vanished && !user.enabled.qresync {
        return Err(Answer::bad("ENABLE QRESYNC comes first").into());
    }
    let mut places = selected.resolve(&fetch.set, fetch.uid)?;
    if let Some(range) = fetch.partial {
        places = some_of(&places, range);
    }
    if fetch.changed_since.is_some() || fetch.items.contains(&FetchItem::ModSeq) {
        user.enabled.condstore = true;
    }
    if let (true, Some(since)) = (fetch.vanished, fetch.changed_since) {
        vanished(wire, selected, &fetch.set, since).await?;
    }
    let with_uid = fetch.uid && !user.enabled.uid_only;
    let plan = Plan::new(fetch.items, with_uid, fetch.changed_since.is_some());
    let (state, newest) = selected.now();
    tell::new_keywords(wire, user, selected, &state);
    let since = fetch.changed_since.unwrap_or(0);
    // What has changed since the last checkpoint is told here, and need not be told there.
    let tells = plan.tells_flags(user.enabled.condstore) && !newest.same_as(selected.view.messages());
    let mut told = UidSet::new();
    if plan.source == Source::Memory {
        let job = job(user, selected, &state, Arc::new(plan), Vec::new());
        for window in windows(&places) {
            if since == 0 {
                selected.load(window.clone()).await?;
            }
            for found in selected.view.at_since(std::slice::from_ref(&window), &newest, since) {
                let (seq, message) = found?;
                if message.modseq.get() > since {
                    render_from_memory(&job, seq, &message, wire.connection.out());
                    wire.flush_if_full().await?;
                    if tells {
                        told.insert_uid(message.uid);
                    }
                }
            }
        }
        selected.view.note_told(told, &state, &newest);
        return Ok(Answer::ok("FETCH completed"));
    }
    let sees = plan.sees && !selected.read_only && selected.rights(user).contains(Rights::SEEN);
    let plan = Arc::new(plan);
    let mut fetching = Fetching { wire, user, selected, plan, failed: 0, gone: 0, unknown_cte: false };
    let fetched = fetching.all(&places, &newest, &state, since, sees).await?;
    if tells && fetching.failed == 0 {
        told.extend(&fetched);
        fetching.selected.view.note_told(told, &state, &newest);
    }
    Ok(match fetching {
        Fetching { failed: 1.., .. } => {
            let mut answer =
                Answer::no(Code::ServerBug, "Some messages cannot be read; the operator was told");
            answer.fault = true;
            answer
        }
        Fetching { gone: 1.., .. } => Answer::no(Code::ExpungeIssued, "Some of the messages are gone"),
        Fetching { unknown_cte: true, .. } => Answer::no(Code::UnknownCte, "A part has an unknown encoding"),
        _ => Answer::ok("FETCH completed"),
    })
}

/// Tells of new messages what NOTIFY asks of them (RFC 5465 §5.2).
pub(crate) async fn announce(
    wire: &mut Wire,
    user: &User,
    selected: &mut Selected,
    plan: Arc<Plan>,
    places: &[Range<usize>],
) -> Result<(), Failure> {
    let (state, newest) = selected.now();
    tell::new_keywords(wire, user, selected, &state);
    let mut fetching = Fetching { wire, user, selected, plan, failed: 0, gone: 0, unknown_cte: false };
    fetching.all(places, &newest, &state, 0, false).await.map(drop)
}

/// The places that PARTIAL names among these (RFC 9394 §3.3). It comes before CHANGEDSINCE (§3.4).
fn some_of(places: &[Range<usize>], range: PartialRange) -> Vec<Range<usize>> {
    let wanted = range.places(places.iter().map(Range::len).sum());
    let mut passed = 0;
    let cut = |here: &Range<usize>| {
        let at = |n: usize| here.start + n.saturating_sub(passed).min(here.len());
        let part = at(wanted.start)..at(wanted.end);
        passed += here.len();
        part
    };
    places.iter().map(cut).filter(|part| !part.is_empty()).collect()
}

fn job(
    user: &User,
    selected: &Selected,
    state: &MailboxState,
    plan: Arc<Plan>,
    messages: Vec<(SeqNum, Message)>,
) -> Job {
    Job {
        account: selected.mailbox.account().clone(),
        plan,
        keywords: state.settings.keywords.clone(),
        uid_only: user.enabled.uid_only,
        recent: (!user.enabled.rev2).then(|| selected.view.recent().clone()),
        messages,
        lazy_previews: 0,
    }
}

/// VANISHED (EARLIER): what is gone of the client's UIDs since a modseq.
async fn vanished(wire: &mut Wire, selected: &Selected, set: &MessageSet, since: u64) -> Result<(), Failure> {
    let asked = match set {
        MessageSet::Saved => selected.saved.clone(),
        MessageSet::Set(set) => set.resolve(selected.mailbox.now().summary.uid_next.saturating_sub(1)),
    };
    let mailbox = selected.mailbox.clone();
    let remembered = blocking(move || mailbox.vanished_since(since)).await??;
    let last = selected.mailbox.now().summary.uid_next.saturating_sub(1);
    let gone = remembered.unwrap_or_else(|| UidSet::range(1, last));
    let uids = gone.intersection(&asked).difference(&tell::uids_of(&selected.view)?);
    if !uids.is_empty() {
        wire.put(&Response::Vanished { earlier: true, uids });
    }
    Ok(())
}

/// A FETCH that needs records or content.
struct Fetching<'a> {
    wire: &'a mut Wire,
    user: &'a User,
    selected: &'a mut Selected,
    plan: Arc<Plan>,
    failed: usize,
    /// Messages of which nothing is known any more.
    gone: usize,
    unknown_cte: bool,
}

impl Fetching<'_> {
    /// All messages, batch by batch: while one is sent, the next is read. Says which were asked for.
    async fn all(
        &mut self,
        places: &[Range<usize>],
        newest: &Messages,
        state: &MailboxState,
        since: u64,
        sees: bool,
    ) -> Result<UidSet, Failure> {
        let mut fetched = UidSet::new();
        let mut cursor = Cursor { places: places.to_vec(), next: 0 };
        let mut lazy_previews = LAZY_PREVIEWS;
        loop {
            if let Some(next) = cursor.upcoming().filter(|_| since == 0) {
                self.selected.load(next).await?;
            }
            let mut batch = cursor.batch(self.selected, newest, &self.plan, since)?;
            if batch.is_empty() {
                return Ok(fetched);
            }
            let some = batch.len();
            batch.retain(|(_, message)| !is_unknown(message));
            self.gone += some - batch.len();
            batch.iter().for_each(|(_, message)| fetched.insert_uid(message.uid));
            let job = match sees {
                true => self.see(batch, state).await?,
                false => job(self.user, self.selected, state, self.plan.clone(), batch),
            };
            let job = Job { lazy_previews, ..job };
            lazy_previews = lazy_previews.saturating_sub(job.messages.len());
            let rendered = blocking(move || render(&job));
            // What is waiting goes out while the next batch is read.
            let (sent, rendered) = tokio::join!(self.wire.flush(), rendered);
            sent?;
            self.send(rendered?).await?;
        }
    }

    /// Sets \Seen on the messages of a batch that have it not; these then tell their flags as well.
    async fn see(&mut self, mut batch: Vec<(SeqNum, Message)>, state: &MailboxState) -> Result<Job, Failure> {
        let unseen: UidSet =
            batch.iter().filter(|(_, m)| !m.flags.contains(SystemFlags::SEEN)).map(|(_, m)| m.uid).collect();
        let as_it_is = |batch| Ok(job(self.user, self.selected, state, self.plan.clone(), batch));
        if unseen.is_empty() {
            return as_it_is(batch);
        }
        // Those that are being moved to another home are read and stay as they are.
        let unseen = unseen.difference(&self.selected.mailbox.departing()?);
        if unseen.is_empty() {
            return as_it_is(batch);
        }
        let change = FlagChange::Add(FlagList { flags: SystemFlags::SEEN, keywords: Vec::new() });
        let stored = match self.selected.mailbox.store_flags(&unseen, change, None).await {
            Err(StoreError::InUse) => return as_it_is(batch),
            stored => stored?,
        };
        let (state, newest) = self.selected.now();
        tell::new_keywords(self.wire, self.user, self.selected, &state);
        for (_, message) in &mut batch {
            if let Some(fresh) = newest.message(message.uid)? {
                *message = fresh;
            }
        }
        self.selected.view.note_told(stored.changed, &state, &newest);
        let plan = self.plan.with_flags(self.user.enabled.condstore);
        Ok(job(self.user, self.selected, &state, Arc::new(plan), batch))
    }

    async fn send(&mut self, rendered: Rendered) -> Result<(), Failure> {
        self.failed += rendered.failed;
        self.unknown_cte |= rendered.unknown_cte;
        for piece in rendered.pieces {
            match piece {
                Piece::Octets(octets) => self.wire.connection.push_body(octets),
                Piece::Body { content, range, encoded } => self.stream(content, range, encoded).await?,
            }
        }
        Ok(())
    }

    /// Sends a large body piece by piece. Its length was announced: if it cannot be read to the end, nothing
    /// sensible can be sent any more and the connection has to go.
    async fn stream(
        &mut self,
        content: ContentId,
        range: Range<u64>,
        encoded: Option<Encoded>,
    ) -> Result<(), Failure> {
        let mut undo = encoded.map(Undo::new);
        let mut from = range.start;
        let mut reader = None;
        while from < range.end {
            let left = range.end - from;
            let octets = if left <= LAST_OCTETS_MAX { left } else { STREAM_OCTETS };
            let wanted = usize::try_from(octets).unwrap_or(0);
            let account = self.selected.mailbox.account().clone();
            let known = reader.take();
            let read = blocking(move || {
                let reader: BodyReader = known.map_or_else(|| account.reader(content), Ok)?;
                Ok::<_, StoreError>((reader.read(from, wanted)?, reader))
            });
            let (sent, read) = tokio::join!(self.wire.flush(), read);
            sent?;
            match read? {
                Ok((body, known)) if body.len() == wanted => {
                    reader = Some(known);
                    let body = match &mut undo {
                        Some(undo) => undo.piece(&body, from + octets == range.end),
                        None => body,
                    };
                    self.wire.connection.push_body(body);
                }
                other => {
                    tracing::error!(error = ?other.map(drop).err(), "a message could not be read to its end");
                    return Err(crate::wire::closed());
                }
            }
            from += octets;
        }
        if undo.is_some_and(|undo| !undo.is_whole()) {
            tracing::error!("a part has another size than it had a moment ago");
            return Err(crate::wire::closed());
        }
        Ok(())
    }
}

/// A transfer encoding that is undone while a body is sent.
struct Undo {
    decoder: TransferDecoder,
    cut: Range<u64>,
    /// Octets that have come out.
    at: u64,
    sent: u64,
}

impl Undo {
    fn new(encoded: Encoded) -> Undo {
        Undo { decoder: TransferDecoder::new(encoded.encoding), cut: encoded.cut, at: 0, sent: 0 }
    }

    /// What of the next octets is to be sent.
    fn piece(&mut self, octets: &[u8], last: bool) -> Bytes {
        let mut made = Vec::with_capacity(octets.len() + 4);
        self.decoder.push(octets, &mut made);
        if last {
            self.decoder.finish(&mut made);
        }
        let piece = Bytes::copy_from_slice(within(&made, self.at, &self.cut));
        self.at += made.len() as u64;
        self.sent += piece.len() as u64;
        piece
    }

    /// Whether what was announced was sent.
    fn is_whole(&self) -> bool {
        self.sent == self.cut.end - self.cut.start
    }
}

/// How far a FETCH has got.
struct Cursor {
    places: Vec<Range<usize>>,
    next: usize,
}

impl Cursor {
    /// Where the next messages are, at most as many as make a batch.
    fn upcoming(&self) -> Option<Range<usize>> {
        let range = self.places.get(self.next)?;
        Some(range.start..range.end.min(range.start.saturating_add(BATCH_MESSAGES)))
    }

    /// The next messages, as many as make a batch.
    fn batch(
        &mut self,
        selected: &Selected,
        newest: &Messages,
        plan: &Plan,
        since: u64,
    ) -> Result<Vec<(SeqNum, Message)>, StoreError> {
        let mut batch = Vec::new();
        let mut octets = 0;
        while let Some(range) = self.places.get_mut(self.next) {
            let here = [range.clone()];
            for found in selected.view.at_since(&here, newest, since) {
                if octets >= BATCH_OCTETS || batch.len() >= BATCH_MESSAGES {
                    return Ok(batch);
                }
                let (seq, message) = found?;
                range.start = seq.get() as usize;
                if message.modseq.get() > since {
                    octets += plan.octets(message.size);
                    batch.push((seq, message));
                }
            }
            self.next += 1;
        }
        Ok(batch)
    }
}
