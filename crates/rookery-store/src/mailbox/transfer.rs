//! COPY and MOVE: messages of an open mailbox go to another.

use super::{Mailbox, SLICE_MESSAGES, Touch, expunge_messages, numbers_for, put_messages};
use crate::account::Account;
use crate::append::{Along, Appended, NewMessage};
use crate::error::StoreError;
use crate::messages::{KeywordNumbers, Message, Messages};
use crate::operations;
use crate::quota;
use crate::readers::{self, Coming, Viewer};
use crate::records::{Change, Held};
use crate::sequencer::{MailboxState, Transaction};
use crate::store::{Store, now_unix};
use rookery_kv::off_thread;
use rookery_types::{Keyword, MailboxId, OperationId, Uid, UidSet, UidValidity};

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
        self.copy_as(&[], uids, to, mailbox).await
    }

    /// The same as some operations of another node, as [`Account::append_as`] has them. Of a copy that takes more than one
    /// step, and is broken off, nobody says whether it is done.
    pub async fn copy_as(
        &self,
        operations: &[OperationId],
        uids: &UidSet,
        to: &Account,
        mailbox: MailboxId,
    ) -> Result<Copied, StoreError> {
        self.transfer(uids, to, mailbox, Way::Copy(operations)).await
    }

    /// Moves messages: each slice leaves here and arrives there in one step. To another account, what has arrived
    /// durably is expunged here.
    pub async fn r#move(
        &self,
        uids: &UidSet,
        to: &Account,
        mailbox: MailboxId,
    ) -> Result<Copied, StoreError> {
        self.move_as(&[], uids, to, mailbox).await
    }

    /// The same as some operations of another node, as [`Account::append_as`] has them. Whoever asks for one that is under
    /// way ends it: what has come by then is moved, and [`Store::finish_move`] sees to it that it is gone here.
    pub async fn move_as(
        &self,
        operations: &[OperationId],
        uids: &UidSet,
        to: &Account,
        mailbox: MailboxId,
    ) -> Result<Copied, StoreError> {
        self.transfer(uids, to, mailbox, Way::Move(operations)).await
    }

    async fn transfer(
        &self,
        uids: &UidSet,
        to: &Account,
        target: MailboxId,
        way: Way<'_>,
    ) -> Result<Copied, StoreError> {
        // Neither account moves to another home meanwhile.
        let (_from, _to) = (self.account.guard().await?, to.guard().await?);
        let state = to.tree().state(target).ok_or(StoreError::NoMailbox)?;
        let mut copied =
            Copied { uid_validity: state.settings.uid_validity, from: Vec::new(), to: Vec::new() };
        if to.id() != self.account.id() {
            return self.transfer_abroad(uids, to, target, way, copied).await;
        }
        let (leave, operations) = match way {
            Way::Move(operations) => (true, operations),
            Way::Copy(operations) => (false, operations),
        };
        let source = self.cell.id;
        // A copy into the mailbox itself must not go on with its own copies.
        let last = self.now().summary.uid_next.saturating_sub(1);
        let uids = uids.intersection(&UidSet::range(1, last));
        let more = self.held_of(&uids)?;
        {
            // All or nothing: slices that fit are not copied if the rest would not fit behind them.
            let t = self.account.peek()?;
            match leave {
                true => quota::check_move(&t, source, target, more)?,
                false => quota::check(&t, target, more)?,
            }
        }
        let touch = if leave { Touch::Changes } else { Touch::Reads };
        let is_one_step = more.messages <= SLICE_MESSAGES as u64;
        let (mut begun, mut are_all, mut known) = (false, false, None);
        let done = self.in_slices(&uids, touch, |t, slice| {
            let messages: Vec<Message> = slice;
            if messages.is_empty() {
                return Ok(());
            }
            if !begun {
                known = operations::copied(t, self.account.id(), operations)?;
                if known.is_some() {
                    return Err(StoreError::GivenUp);
                }
            } else if leave {
                operations::goes_on(t, self.account.id(), operations)?;
            }
            copied.from.extend(messages.iter().map(|m| m.uid));
            let shown = readers::shown(t, source, self.viewer(), &messages)?;
            copied.to.extend(copy_messages(t, source, target, &shown, to.viewer.as_ref(), leave)?);
            let is_first = !std::mem::replace(&mut begun, true);
            if !leave {
                return match is_first {
                    true => {
                        let known = is_one_step.then_some(&copied);
                        operations::remember_copied(t, target, operations, known)
                    }
                    false => Ok(()),
                };
            }
            if !operations.is_empty() {
                are_all = copied.from.len() as u64 >= more.messages;
                operations::remember_moved(t, (source, target), operations, &copied, are_all)?;
            }
            expunge_messages(t, source, &messages, false)
        });
        let done = done.await;
        if let Some(known) = known {
            return Ok(known);
        }
        done?;
        match leave {
            // Some of them were gone already.
            true if begun && !are_all => finish_move(to, (source, target), operations, &copied).await?,
            false if begun && !is_one_step => finish(to, target, operations, &copied).await?,
            _ => {}
        }
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
        way: Way<'_>,
        mut copied: Copied,
    ) -> Result<Copied, StoreError> {
        if let Way::Move(_) = way {
            self.account.until_here(self.cell.id, Some(uids)).await?;
        }
        let state = self.now();
        let messages = state.messages.clone().unwrap_or_default();
        let mut chosen: Vec<Message> = Vec::new();
        each_of(&messages, uids, |message| chosen.push(message))?;
        quota::check(&to.peek()?, target, Held::of(&chosen))?;
        let steps = match way {
            Way::Move([]) => chosen.chunks(1).collect(),
            Way::Move(_) | Way::Copy(_) => steps(&chosen),
        };
        let source = self.cell.id;
        for (number, step) in steps.iter().enumerate() {
            let mut messages = Vec::with_capacity(step.len());
            for message in *step {
                messages.push(self.as_new(&state, message).await?);
            }
            let from: Vec<Uid> = step.iter().map(|message| message.uid).collect();
            let along = match way {
                Way::Copy(operations) if number == 0 => {
                    Along::CopiesOf { from: &from, operations, are_all: steps.len() == 1 }
                }
                Way::Move(operations) if !operations.is_empty() => {
                    let are_all = number + 1 == steps.len();
                    Along::MovedFrom { source, before: &copied, from: &from, operations, are_all }
                }
                Way::Copy(_) | Way::Move(_) => Along::Nothing,
            };
            let Some(appended) = to.append_along(target, messages, Vec::new(), along).await? else {
                let (Way::Copy(operations) | Way::Move(operations)) = way;
                return operations::copied(&to.peek()?, to.id(), operations)?.ok_or(StoreError::NoContent);
            };
            copied.to.extend(appended.uids);
            if let Way::Move(_) = way {
                let expunge =
                    |t: &mut Transaction<'_>, slice: Vec<Message>| expunge_messages(t, source, &slice, true);
                self.in_slices(&from.iter().copied().collect(), Touch::Changes, expunge).await?;
            }
            copied.from.extend(from);
        }
        match way {
            Way::Copy(operations) if steps.len() > 1 => finish(to, target, operations, &copied).await?,
            Way::Copy(_) | Way::Move(_) => {}
        }
        Ok(copied)
    }

    /// A message as one that comes to another account.
    async fn as_new(&self, state: &MailboxState, message: &Message) -> Result<NewMessage, StoreError> {
        let (account, content, size) = (self.account.clone(), message.content, message.size);
        let body = off_thread(move || account.respool(content, size)).await??;
        let table = &state.settings.keywords;
        let names = message.keywords.as_slice().iter().filter_map(|n| table.get(usize::from(*n)).cloned());
        Ok(NewMessage { body, flags: message.flags, keywords: names.collect(), date: message.date })
    }
}

/// How messages go.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// They stay where they are, too; as these operations.
    Copy(&'a [OperationId]),
    /// They leave; as these operations.
    Move(&'a [OperationId]),
}

/// Octets that come to another account in one step, if they are of more than one message.
const STEP_OCTETS: u64 = 4 << 20;

/// What is copied to another account at once: all or none of it.
fn steps(messages: &[Message]) -> Vec<&[Message]> {
    let (mut steps, mut rest) = (Vec::new(), messages);
    while !rest.is_empty() {
        let mut octets = 0u64;
        let fits = |message: &&Message| {
            octets = octets.saturating_add(message.size.into());
            octets <= STEP_OCTETS
        };
        let count = rest.iter().take(SLICE_MESSAGES).take_while(fits).count().max(1);
        let (step, behind) = rest.split_at(count);
        steps.push(step);
        rest = behind;
    }
    steps
}

/// Writes down that a copy that took more than one step is done.
async fn finish(
    to: &Account,
    target: MailboxId,
    operations: &[OperationId],
    copied: &Copied,
) -> Result<(), StoreError> {
    match operations.is_empty() {
        true => Ok(()),
        false => to.transact(|t| operations::remember_copied(t, target, operations, Some(copied))).await,
    }
}

/// Writes down that a move is done.
async fn finish_move(
    to: &Account,
    way: (MailboxId, MailboxId),
    operations: &[OperationId],
    moved: &Copied,
) -> Result<(), StoreError> {
    if operations.is_empty() {
        return Ok(());
    }
    to.transact(|t| {
        operations::goes_on(t, to.id(), operations)?;
        operations::remember_moved(t, way, operations, moved, true)
    })
    .await
}

impl Account {
    /// Puts a message into a mailbox in place of another account's, as some operations; [`Store::finish_move`] takes
    /// that one out.
    pub async fn append_in_place_of(
        &self,
        operations: &[OperationId],
        to: MailboxId,
        message: NewMessage,
        (source, old): (MailboxId, Uid),
    ) -> Result<Appended, StoreError> {
        let state = self.tree().state(to).ok_or(StoreError::NoMailbox)?;
        let before = Copied { uid_validity: state.settings.uid_validity, from: Vec::new(), to: Vec::new() };
        let along = match operations.is_empty() {
            true => Along::Nothing,
            false => Along::MovedFrom { source, before: &before, from: &[old], operations, are_all: true },
        };
        let appended = self.append_along(to, vec![message], Vec::new(), along).await?;
        appended.ok_or(StoreError::GivenUp)
    }
}

impl Store {
    /// Takes messages that were moved out of where they were, if they are there still. False: that is not at home here any
    /// more.
    pub async fn finish_move(&self, source: MailboxId, moved: &Copied) -> Result<bool, StoreError> {
        let open = match self.account(source.account).await {
            Ok(account) => account.open(source).await,
            Err(error) => Err(error),
        };
        match open {
            Ok(mailbox) => {
                mailbox.remove(&moved.from.iter().copied().collect()).await?;
                Ok(true)
            }
            Err(StoreError::NoAccount | StoreError::NoMailbox) => Ok(true),
            Err(StoreError::Moved) => Ok(false),
            Err(error) => Err(error),
        }
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
