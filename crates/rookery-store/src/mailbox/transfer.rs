//! COPY and MOVE: messages of an open mailbox go to another.

use super::{Mailbox, Touch, expunge_messages, numbers_for, put_messages};
use crate::account::Account;
use crate::error::StoreError;
use crate::messages::{KeywordNumbers, Message, Messages};
use crate::quota;
use crate::readers::{self, Coming, Viewer};
use crate::records::{Change, Held};
use crate::sequencer::Transaction;
use crate::store::now_unix;
use rookery_kv::off_thread;
use rookery_types::{Keyword, MailboxId, Uid, UidSet, UidValidity};

/// What COPY or MOVE did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// UIDVALIDITY of the target.
    pub uid_validity: UidValidity,
    /// UIDs in the source, ascending.
    pub from: Vec<Uid>,
    /// Their UIDs in the target, in the same order.
    pub to: Vec<Uid>,
}

impl Mailbox {
    /// Copies messages, with flags, keywords and dates. UIDs without a message are left out. \Seen is as the user of
    /// this handle sees it, and stays that of the user of the target's handle.
    pub async fn copy(&self, uids: &UidSet, to: &Account, mailbox: MailboxId) -> Result<Copied, StoreError> {
        self.transfer(uids, to, mailbox, false).await
    }

    /// Moves messages: each slice leaves here and arrives there in one step. To another account, what has arrived
    /// durably is expunged here.
    pub async fn r#move(
        &self,
        uids: &UidSet,
        to: &Account,
        mailbox: MailboxId,
    ) -> Result<Copied, StoreError> {
        self.transfer(uids, to, mailbox, true).await
    }

    async fn transfer(
        &self,
        uids: &UidSet,
        to: &Account,
        target: MailboxId,
        leave: bool,
    ) -> Result<Copied, StoreError> {
        // Neither account moves to another home meanwhile.
        let (_from, _to) = (self.account.guard().await?, to.guard().await?);
        let state = to.tree().state(target).ok_or(StoreError::NoMailbox)?;
        let mut copied =
            Copied { uid_validity: state.settings.uid_validity, from: Vec::new(), to: Vec::new() };
        if to.id() != self.account.id() {
            return self.transfer_abroad(uids, to, target, leave, copied).await;
        }
        let source = self.cell.id;
        // A copy into the mailbox itself must not go on with its own copies.
        let last = self.now().summary.uid_next.saturating_sub(1);
        let uids = uids.intersection(&UidSet::range(1, last));
        {
            // All or nothing: slices that fit are not copied if the rest would not fit behind them.
            let t = self.account.peek()?;
            let more = self.held_of(&uids)?;
            match leave {
                true => quota::check_move(&t, source, target, more)?,
                false => quota::check(&t, target, more)?,
            }
        }
        let touch = if leave { Touch::Changes } else { Touch::Reads };
        self.in_slices(&uids, touch, |t, slice| {
            let messages: Vec<Message> = slice;
            if messages.is_empty() {
                return Ok(());
            }
            copied.from.extend(messages.iter().map(|m| m.uid));
            let shown = readers::shown(t, source, self.viewer(), &messages)?;
            copied.to.extend(copy_messages(t, source, target, &shown, to.viewer.as_ref(), leave)?);
            match leave {
                true => expunge_messages(t, source, &messages, false),
                false => Ok(()),
            }
        })
        .await?;
        Ok(copied)
    }

    /// What the messages with these UIDs come to.
    fn held_of(&self, uids: &UidSet) -> Result<Held, StoreError> {
        let messages = self.now().messages.clone().unwrap_or_default();
        let mut held = Held::default();
        each_of(&messages, uids, |message| held = held.plus(Held::of([&message])))?;
        Ok(held)
    }

    /// To another account: read, appended there, expunged here.
    async fn transfer_abroad(
        &self,
        uids: &UidSet,
        to: &Account,
        target: MailboxId,
        leave: bool,
        mut copied: Copied,
    ) -> Result<Copied, StoreError> {
        if leave {
            self.account.until_here(self.cell.id, Some(uids)).await?;
        }
        let state = self.now();
        let messages = state.messages.clone().unwrap_or_default();
        let mut chosen: Vec<Message> = Vec::new();
        each_of(&messages, uids, |message| chosen.push(message))?;
        quota::check(&to.peek()?, target, Held::of(&chosen))?;
        chosen.reverse();
        while let Some(message) = chosen.pop() {
            let account = self.account.clone();
            let content = message.content;
            let size = message.size;
            let body = off_thread(move || account.respool(content, size)).await??;
            let keywords = state.settings.keywords.clone();
            let names =
                message.keywords.as_slice().iter().filter_map(|n| keywords.get(usize::from(*n)).cloned());
            let new = crate::append::NewMessage {
                body,
                flags: message.flags,
                keywords: names.collect(),
                date: message.date,
            };
            let appended = to.append(target, vec![new]).await?;
            copied.from.push(message.uid);
            copied.to.extend(appended.uids);
            if leave {
                let uids = UidSet::from_iter([message.uid]);
                let expunge = |t: &mut Transaction<'_>, slice: Vec<Message>| {
                    expunge_messages(t, self.cell.id, &slice, true)
                };
                self.in_slices(&uids, Touch::Changes, expunge).await?;
            }
        }
        Ok(copied)
    }
}

/// Visits the messages of a set.
fn each_of(messages: &Messages, uids: &UidSet, mut visit: impl FnMut(Message)) -> Result<(), StoreError> {
    for (first, last) in uids.ranges() {
        for found in messages.iter_from(messages.place_of(first)?) {
            let (_, message) = found?;
            if message.uid.get() > last {
                break;
            }
            visit(message);
        }
    }
    Ok(())
}

/// Puts copies of messages into another mailbox of the account, and tells their UIDs. They have \Seen as they are
/// given, for the target's viewer. `moving`: the copies take over the references and the quota of the originals.
fn copy_messages(
    t: &mut Transaction<'_>,
    source: MailboxId,
    target: MailboxId,
    messages: &[Message],
    viewer: Option<&Viewer>,
    moving: bool,
) -> Result<Vec<Uid>, StoreError> {
    t.mailbox(target).ok_or(StoreError::NoMailbox)?;
    let table = t.mailbox(source).ok_or(StoreError::NoMailbox)?.settings.keywords.clone();
    let more = Held::of(messages);
    match moving {
        true => quota::check_move(t, source, target, more)?,
        false => quota::check(t, target, more)?,
    }
    // What is moved is taken off again when the originals go.
    quota::add(t, target, more);
    let now = now_unix();
    let modseq = t.modseq;
    let mut coming = Coming::new(viewer);
    let mut changes = Vec::with_capacity(messages.len());
    let mut uids = Vec::with_capacity(messages.len());
    for message in messages {
        let names: Vec<Keyword> =
            message.keywords.as_slice().iter().filter_map(|n| table.get(usize::from(*n)).cloned()).collect();
        let numbers = numbers_for(t, target, &names)?;
        if !moving {
            let mut content = t.content(message.content)?.ok_or(StoreError::NoContent)?;
            content.references =
                content.references.checked_add(1).ok_or(StoreError::Exhausted("references"))?;
            t.put_content(message.content, &content);
        }
        let mailbox = t.change(target).ok_or(StoreError::NoMailbox)?;
        let uid = crate::append::next_uid(&mut mailbox.summary)?;
        let flags = coming.flags(uid, message.flags);
        mailbox.summary.add(message.size, flags);
        let keywords = KeywordNumbers::new(numbers);
        let copy = Message { uid, modseq, flags, keywords, saved_unix_seconds: now, ..message.clone() };
        uids.push(uid);
        changes.push((uid, Some(copy)));
    }
    put_messages(t, target, &changes)?;
    t.note(target, Change::Arrived(uids.iter().copied().collect()));
    coming.finish(t, target)?;
    Ok(uids)
}
