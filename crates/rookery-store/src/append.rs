//! Taking messages in: from the wire into a spool, from the spool into mailboxes.
//!
//! Invariants:
//! - UIDs are given when all octets are there, not when the first comes.
//! - What must not outlive the messages, nor they it, is done in the same change, and their octets are on the disk
//!   before that.

mod spool;

pub use spool::{Spool, Spooled};
pub(crate) use spool::{Waiting, facts_of};

use crate::account::Account;
use crate::committer::TailEntry;
use crate::deliveries::{self, Once};
use crate::error::StoreError;
use crate::keys;
use crate::mailbox::{Copied, expunge_messages, numbers_for, put_messages};
use crate::messages::{KeywordNumbers, Message};
use crate::operations;
use crate::quota;
use crate::readers::Coming;
use crate::records::{self, Change, ContentRecord, Held, Summary};
use crate::sequencer::Transaction;
use crate::store::now_unix;
use crate::transit::{self, Arriving, Verdict};
use crate::volume::Placed;
use rookery_kv::engine::Space;
use rookery_types::{
    AccountId, ContentId, InternalDate, Keyword, MailboxId, OperationId, SystemFlags, ThreadId, Uid, UidSet,
    UidValidity,
};

/// A message to be put into a mailbox.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Its octets.
    pub body: Spooled,
    /// Its system flags.
    pub flags: SystemFlags,
    /// Its keywords.
    pub keywords: Vec<Keyword>,
    /// Its INTERNALDATE.
    pub date: InternalDate,
}

/// What a message had before, and has again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbered {
    pub(crate) uid: Uid,
    pub(crate) saved_unix_seconds: u32,
}

/// What is done in the same change as messages are appended.
#[derive(Clone, Copy)]
pub(crate) enum Along<'a> {
    /// Nothing.
    Nothing,
    /// This message is expunged, and it is remembered what has come of these operations.
    InPlaceOf(MailboxId, Uid, &'a [OperationId]),
    /// It is remembered that the message was delivered, and what has come of these operations.
    Remembered { once: Option<&'a Once>, operations: &'a [OperationId] },
    /// It is remembered what became of their move.
    Verdict(&'a Arriving<'a>),
    /// They are copies, of messages with these UIDs, and it is remembered what has come of these operations; unless these
    /// are all of them, others follow.
    CopiesOf { from: &'a [Uid], operations: &'a [OperationId], are_all: bool },
    /// They were messages of a mailbox of another account, with these UIDs, which are about to go there; and it is
    /// remembered what has come of these operations, with those that came `before`.
    MovedFrom {
        source: MailboxId,
        before: &'a Copied,
        from: &'a [Uid],
        operations: &'a [OperationId],
        are_all: bool,
    },
}

impl Along<'_> {
    /// Whether it must not outlive the messages, nor they it.
    fn is_for_good(self) -> bool {
        matches!(self, Along::InPlaceOf(..) | Along::Verdict(_) | Along::MovedFrom { .. })
    }
}

/// Where new messages went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// UIDVALIDITY of the mailbox.
    pub uid_validity: UidValidity,
    /// Their UIDs, in the order of the messages.
    pub uids: Vec<Uid>,
}

impl Account {
    /// Begins to take a message for this account.
    pub fn spool(&self) -> Spool {
        Spool::new(&self.store, Some(self.id()))
    }

    /// Puts messages into a mailbox, all or none of them. When it returns they are on stable storage.
    pub async fn append(&self, to: MailboxId, messages: Vec<NewMessage>) -> Result<Appended, StoreError> {
        let appended = self.append_along(to, messages, Vec::new(), Along::Nothing).await?;
        appended.ok_or(StoreError::NoContent)
    }

    /// Puts a message into a mailbox and takes another out of an open mailbox of this account, in one step: both
    /// happen or neither, and the quota sees the difference only. `None`: the other is not there any more, and
    /// nothing was done.
    pub async fn replace(
        &self,
        to: MailboxId,
        message: NewMessage,
        old: (MailboxId, Uid),
    ) -> Result<Option<Appended>, StoreError> {
        self.replace_as(&[], to, message, old).await
    }

    /// The same as some operations, as [`Account::append_as`] has them.
    pub async fn replace_as(
        &self,
        operations: &[OperationId],
        to: MailboxId,
        message: NewMessage,
        (from, old): (MailboxId, Uid),
    ) -> Result<Option<Appended>, StoreError> {
        self.until_here(from, Some(&UidSet::from_iter([old]))).await?;
        let along = Along::InPlaceOf(from, old, operations);
        self.append_along(to, vec![message], Vec::new(), along).await
    }

    /// Puts messages into a mailbox under UIDs that they had before.
    pub(crate) async fn append_numbered(
        &self,
        to: MailboxId,
        messages: Vec<NewMessage>,
        numbers: Vec<Numbered>,
    ) -> Result<(), StoreError> {
        self.append_along(to, messages, numbers, Along::Nothing).await.map(drop)
    }

    /// What was appended, or what one of the operations came to before. `None`: what is to be replaced is not there, what is to come once has come, what is to be copied is, or there is a verdict already.
    pub(crate) async fn append_along(
        &self,
        to: MailboxId,
        messages: Vec<NewMessage>,
        numbers: Vec<Numbered>,
        along: Along<'_>,
    ) -> Result<Option<Appended>, StoreError> {
        if self.store.is_full() {
            return Err(StoreError::NoSpace);
        }
        let mut placed: Vec<Option<Placed>> = Vec::with_capacity(messages.len());
        for message in &messages {
            // A content that is here already needs no octets; whether it still is, is decided in the change.
            let known = matches!(self.content(message.body.content()), Ok(record) if record.references > 0);
            placed.push(match known {
                true => None,
                false => Some(message.body.place(&self.store, self.id())?),
            });
        }
        loop {
            // A crash can take back what was appended, if its octets did not reach the disk, but not what else was done
            // in the same change. So the octets are on the disk before.
            if along.is_for_good() {
                self.transact(|t| {
                    placed.iter().flatten().for_each(|placed| t.sync_body(placed));
                    Ok(())
                })
                .await?;
            }
            let (mut missing, mut is_pending) = (None, false);
            let outcome = self
                .transact(|t| {
                    let is_late = match along {
                        Along::Remembered { once, operations } => {
                            if let Some(appended) = operations::appended(t, self.id(), operations)? {
                                return Ok(Some(appended));
                            }
                            match once {
                                Some(once) => deliveries::is_known(t, self, to, once)?,
                                None => false,
                            }
                        }
                        Along::Verdict(arriving) => transit::known(t, self.id(), arriving.id)?.is_some(),
                        Along::InPlaceOf(_, _, operations) => {
                            if let Some(appended) = operations::appended(t, self.id(), operations)? {
                                return Ok(Some(appended));
                            }
                            false
                        }
                        Along::CopiesOf { operations, .. } => {
                            operations::copied(t, self.id(), operations)?.is_some()
                        }
                        Along::MovedFrom { before, operations, .. } => match before.from.is_empty() {
                            true => operations::copied(t, self.id(), operations)?.is_some(),
                            false => {
                                operations::goes_on(t, self.id(), operations)?;
                                false
                            }
                        },
                        Along::Nothing => false,
                    };
                    if is_late {
                        return Ok(None);
                    }
                    missing = first_missing(t, &messages, &placed)?;
                    if missing.is_some() {
                        return Err(StoreError::NoContent);
                    }
                    // Somebody else's change that brings the same octets is still on its way.
                    is_pending = along.is_for_good()
                        && messages.iter().any(|message| t.is_on_its_way(message.body.content()));
                    if is_pending {
                        return Err(StoreError::NoContent);
                    }
                    if let Along::InPlaceOf(from, old, _) = along
                        && !take_out(t, from, old)?
                    {
                        return Ok(None);
                    }
                    let appended = append_messages(t, self, to, &messages, &numbers, &placed)?;
                    match along {
                        Along::Remembered { once, operations } => {
                            if let Some(once) = once {
                                deliveries::remember(t, self, to, once)?;
                            }
                            operations::remember_appended(t, to, operations, &appended)?;
                        }
                        Along::Verdict(arriving) => {
                            let uids = arriving.from.iter().copied().zip(appended.uids.iter().copied());
                            let uid_validity = appended.uid_validity;
                            let verdict = Verdict::Moved { uid_validity, uids: uids.collect() };
                            transit::remember(t, self.id(), arriving.id, &verdict);
                        }
                        Along::InPlaceOf(_, _, operations) => {
                            operations::remember_appended(t, to, operations, &appended)?;
                        }
                        Along::CopiesOf { from, operations, are_all } => {
                            let Appended { uid_validity, uids } = appended.clone();
                            let copied = Copied { uid_validity, from: from.to_vec(), to: uids };
                            operations::remember_copied(t, to, operations, are_all.then_some(&copied))?;
                        }
                        Along::MovedFrom { source, before, from, operations, are_all } => {
                            let mut moved = before.clone();
                            moved.uid_validity = appended.uid_validity;
                            moved.from.extend_from_slice(from);
                            moved.to.extend_from_slice(&appended.uids);
                            operations::remember_moved(t, (source, to), operations, &moved, are_all)?;
                        }
                        Along::Nothing => {}
                    }
                    Ok(Some(appended))
                })
                .await;
            if is_pending {
                continue;
            }
            let Some((at, message)) = missing.and_then(|at| Some((at, messages.get(at)?))) else {
                return outcome;
            };
            let body = message.body.place(&self.store, self.id())?;
            if let Some(place) = placed.get_mut(at) {
                *place = Some(body);
            }
        }
    }

    /// The octets of a message here as a new message for elsewhere. Reads the disk.
    pub(crate) fn respool(&self, content: ContentId, size: u32) -> Result<Spooled, StoreError> {
        let mut spool = self.store.spool();
        let reader = self.reader(content)?;
        let mut at = 0;
        while at < u64::from(size) {
            let piece = reader.read(at, 256 * 1024)?;
            if piece.is_empty() {
                return Err(StoreError::NoContent);
            }
            spool.push(&piece)?;
            at += piece.len() as u64;
        }
        spool.finish()
    }
}

/// Expunges a message, whatever its flags; says whether there is one.
fn take_out(t: &mut Transaction<'_>, from: MailboxId, uid: Uid) -> Result<bool, StoreError> {
    let state = t.mailbox(from).ok_or(StoreError::NoMailbox)?;
    let messages = state.messages.as_ref().ok_or(StoreError::NoMailbox)?;
    let Some(old) = messages.message(uid)? else { return Ok(false) };
    if t.is_departing(from, Some(&UidSet::from_iter([uid]))) {
        return Err(StoreError::InUse);
    }
    expunge_messages(t, from, &[old], true)?;
    Ok(true)
}

/// The first message whose octets were thought to be here, and are not any more.
fn first_missing(
    t: &Transaction<'_>,
    messages: &[NewMessage],
    placed: &[Option<Placed>],
) -> Result<Option<usize>, StoreError> {
    for (at, (message, placed)) in messages.iter().zip(placed).enumerate() {
        if placed.is_none() && t.content(message.body.content())?.is_none() {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Gives the next UID of a mailbox.
pub(crate) fn next_uid(summary: &mut Summary) -> Result<Uid, StoreError> {
    let uid = Uid::new(summary.uid_next).ok_or(StoreError::Exhausted("UIDs"))?;
    summary.uid_next = summary.uid_next.checked_add(1).ok_or(StoreError::Exhausted("UIDs"))?;
    Ok(uid)
}

fn append_messages(
    t: &mut Transaction<'_>,
    account: &Account,
    to: MailboxId,
    messages: &[NewMessage],
    numbers: &[Numbered],
    placed: &[Option<Placed>],
) -> Result<Appended, StoreError> {
    let uid_validity = t.mailbox(to).ok_or(StoreError::NoMailbox)?.settings.uid_validity;
    let octets: u64 = messages.iter().map(|m| u64::from(m.body.size())).sum();
    let more = Held { octets, messages: messages.len() as u64 };
    quota::check(t, to, more)?;
    quota::add(t, to, more);
    let now = now_unix();
    let modseq = t.modseq;
    let mut coming = Coming::new(account.viewer.as_ref());
    let mut changes = Vec::with_capacity(messages.len());
    let mut uids = Vec::with_capacity(messages.len());
    for (at, (message, placed)) in messages.iter().zip(placed).enumerate() {
        let numbered = numbers.get(at);
        let saved_unix_seconds = numbered.map_or(now, |numbered| numbered.saved_unix_seconds);
        let keywords = KeywordNumbers::new(numbers_for(t, to, &message.keywords)?);
        let mailbox = t.change(to).ok_or(StoreError::NoMailbox)?;
        if let Some(numbered) = numbered {
            if numbered.uid.get() < mailbox.summary.uid_next {
                return Err(StoreError::AlreadyExists);
            }
            mailbox.summary.uid_next = numbered.uid.get();
        }
        let uid = next_uid(&mut mailbox.summary)?;
        let flags = coming.flags(uid, message.flags);
        mailbox.summary.add(message.body.size(), flags);
        refer(t, account, to, uid, &message.body, placed.as_ref())?;
        uids.push(uid);
        let content = message.body.content();
        let (size, date) = (message.body.size(), message.date);
        let message = Message { uid, size, modseq, date, saved_unix_seconds, flags, keywords, content };
        changes.push((uid, Some(message)));
    }
    put_messages(t, to, &changes)?;
    t.note(to, Change::Arrived(uids.iter().copied().collect::<UidSet>()));
    coming.finish(t, to)?;
    Ok(Appended { uid_validity, uids })
}

/// Refers once more to a content; its octets come with this change if no earlier one has brought them.
fn refer(
    t: &mut Transaction<'_>,
    account: &Account,
    mailbox: MailboxId,
    uid: Uid,
    body: &Spooled,
    placed: Option<&Placed>,
) -> Result<(), StoreError> {
    let content = body.content();
    let tail = |locator| TailEntry { batch: 0, mailbox, uid, content, locator };
    if let Some(mut record) = t.content(content)? {
        record.references = record.references.checked_add(1).ok_or(StoreError::Exhausted("references"))?;
        t.put_content(content, &record);
        // Its octets may have come with a change that is still on its way.
        t.watch_body(tail(record.locator));
        return Ok(());
    }
    let placed = placed.ok_or(StoreError::NoContent)?;
    let thread = thread_of(t, account.id(), content, &body.facts().message_ids)?;
    let record = ContentRecord {
        locator: placed.locator,
        size: body.size(),
        stored: placed.stored,
        references: 1,
        thread,
    };
    t.put_content(content, &record);
    let key = keys::facts(account.id(), content);
    let value = body.facts().encode(&key);
    t.put(Space::Content, key.to_vec(), value);
    t.bring(placed, tail(placed.locator));
    Ok(())
}

pub(crate) fn thread_key(account: AccountId, message_id: &str) -> [u8; 16] {
    let mut hash = [0; 8];
    hash.copy_from_slice(&blake3::hash(message_id.as_bytes()).as_bytes()[..8]);
    keys::thread(account, u64::from_le_bytes(hash))
}

/// The thread of a message: that of the first of its Message-IDs that is known, or its own. All of them belong to it
/// from now on.
fn thread_of(
    t: &mut Transaction<'_>,
    account: AccountId,
    content: ContentId,
    message_ids: &[String],
) -> Result<ThreadId, StoreError> {
    let mut thread = None;
    let mut unknown = Vec::new();
    for id in message_ids {
        let key = thread_key(account, id);
        match t.get(Space::Thread, &key)? {
            Some(value) if thread.is_none() => {
                thread = Some(records::decode_thread(&key, &value).map_err(StoreError::Damaged)?);
            }
            Some(_) => {}
            None => unknown.push(key),
        }
    }
    let mut own = [0; 8];
    own.copy_from_slice(&content.0[..8]);
    let thread = thread.unwrap_or(ThreadId(u64::from_le_bytes(own)));
    for key in unknown {
        let value = records::encode_thread(&key, thread);
        t.put(Space::Thread, key.to_vec(), value);
    }
    Ok(thread)
}
