//! What opening a store does about a crash.

use crate::account::Account;
use crate::committer::TailEntry;
use crate::deliveries;
use crate::error::StoreError;
use crate::keys;
use crate::mailbox::expunge_messages;
use crate::messages::Message;
use crate::operations;
use crate::records;
use crate::sequencer::Transaction;
use crate::store::Store;
use rookery_kv::engine::Space;
use rookery_types::{AccountId, ContentId, MailboxId};
use std::collections::BTreeMap;

/// Expunges messages whose octets never reached the disk. Their UIDs are not given again, and that they were delivered, or
/// appended for another node, is forgotten: their sender tries again.
pub(crate) fn take_back(store: &Store, id: AccountId, entries: &[TailEntry]) -> Result<(), StoreError> {
    let Some(account) = store.load_account(id)? else { return Ok(()) };
    let ticket = {
        let mut t = account.peek()?;
        let mut doomed: BTreeMap<MailboxId, Vec<Message>> = BTreeMap::new();
        for entry in entries {
            doomed.entry(entry.mailbox).or_default().extend(message_of(&t, entry)?);
        }
        for (mailbox, messages) in doomed {
            if t.any_mailbox(mailbox).is_some_and(|state| state.messages.is_none()) {
                // Nothing is on its way yet, so nothing needs to be kept.
                crate::load::messages(&mut t, store.source(), mailbox)?;
            }
            expunge_messages(&mut t, mailbox, &messages, false)?;
            for message in messages {
                release(&mut t, &account, message.content)?;
            }
        }
        deliveries::forget(&mut t, id)?;
        operations::take_back(&mut t, id, entries)?;
        t.finish(store.committer())
    };
    store.committer().settle(ticket)?;
    Ok(())
}

/// The message that brought the body, if it is still what the group wrote.
fn message_of(t: &Transaction<'_>, entry: &TailEntry) -> Result<Option<Message>, StoreError> {
    let key = keys::message(entry.mailbox, entry.uid);
    let message = match t.get(Space::Delta, &key)? {
        Some(value) => records::decode_delta(&key, &value).map_err(StoreError::Damaged)?.1,
        // The same group may have folded it.
        None => match t.last_at(Space::Chunk, &keys::mailbox(entry.mailbox), &key)? {
            Some((key, value)) => {
                let chunk = records::decode_chunk(&key, &value).map_err(StoreError::Damaged)?;
                chunk.into_iter().find(|message| message.uid == entry.uid)
            }
            None => None,
        },
    };
    Ok(message.filter(|message| message.content == entry.content && t.any_mailbox(entry.mailbox).is_some()))
}

/// Takes away one reference to a content, and the content with the last.
pub(crate) fn release(
    t: &mut Transaction<'_>,
    account: &Account,
    content: ContentId,
) -> Result<(), StoreError> {
    let Some(mut record) = t.content(content)? else { return Ok(()) };
    record.references = record.references.saturating_sub(1);
    if record.references > 0 {
        t.put_content(content, &record);
        return Ok(());
    }
    t.delete(Space::Content, keys::content(account.id(), content).to_vec());
    t.delete(Space::Content, keys::facts(account.id(), content).to_vec());
    t.live(record.locator.volume, -i64::from(record.stored));
    Ok(())
}
