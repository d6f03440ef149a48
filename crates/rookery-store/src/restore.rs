//! Putting an account back as it was elsewhere, or earlier: mailboxes with their UIDVALIDITY, messages with their UIDs.
//!
//! Invariants:
//! - Restoring goes into mailboxes that nobody has used yet: UIDs rise, and none is given twice.
//! - Modseqs begin beyond anything that the account ever showed, so a client that knew it asks for everything that
//!   may have changed, and never misses a change.

use crate::account::{Account, create_mailbox, set};
use crate::append::{NewMessage, Numbered};
use crate::error::StoreError;
use crate::records::Limits;
use rookery_types::acl::Acl;
use rookery_types::{MailboxId, MailboxPath, ModSeq, SpecialUse, Uid, UidValidity};

/// How far beyond the modseq that was saved the restored account begins.
const MODSEQ_JUMP: u64 = 1 << 32;

/// A mailbox as it was.
#[derive(Clone, Debug)]
pub struct RestoredMailbox {
    /// Where it stands.
    pub path: MailboxPath,
    /// Its UIDVALIDITY.
    pub uid_validity: UidValidity,
    /// What it is for.
    pub special_use: Vec<SpecialUse>,
    /// Who may do what.
    pub acl: Acl,
}

/// A message as it was.
#[derive(Clone, Debug)]
pub struct RestoredMessage {
    /// Its UID.
    pub uid: Uid,
    /// When it came into its mailbox, seconds since 1970.
    pub saved_unix_seconds: u32,
    /// Everything else.
    pub message: NewMessage,
}

impl Account {
    /// Makes the account go on from a state in which it showed modseqs up to this one. To be called before anything is
    /// restored into it.
    pub async fn restore_from(&self, modseq: u64) -> Result<(), StoreError> {
        self.transact(|t| {
            let next = modseq.saturating_add(MODSEQ_JUMP).max(t.record.modseq.get());
            t.record.modseq = ModSeq::new(next).ok_or(StoreError::Exhausted("modseqs"))?;
            // What changed before is not in the log.
            t.record.log_floor = next;
            Ok(())
        })
        .await
    }

    /// Makes a mailbox as it was. One that is there and has never had a message becomes it.
    pub async fn restore_mailbox(&self, was: RestoredMailbox) -> Result<MailboxId, StoreError> {
        self.transact(|t| {
            let RestoredMailbox { path, uid_validity, special_use, acl } = was;
            let id = match t.by_path(&path) {
                Some(id) if t.mailbox(id).is_some_and(|state| state.summary.uid_next == 1) => id,
                Some(_) => return Err(StoreError::AlreadyExists),
                None => create_mailbox(t, self.id(), &path, Vec::new())?,
            };
            t.record.last_uid_validity = t.record.last_uid_validity.max(uid_validity.get());
            set(t, id, |settings| {
                settings.uid_validity = uid_validity;
                settings.special_use = special_use;
                settings.acl = acl;
            })?;
            Ok(id)
        })
        .await
    }

    /// Puts messages back under their UIDs, which ascend and are not below the next UID of the mailbox; all or none.
    pub async fn restore_messages(
        &self,
        to: MailboxId,
        messages: Vec<RestoredMessage>,
    ) -> Result<(), StoreError> {
        let mut news = Vec::with_capacity(messages.len());
        let mut numbers = Vec::with_capacity(messages.len());
        for RestoredMessage { uid, saved_unix_seconds, message } in messages {
            news.push(message);
            numbers.push(Numbered { uid, saved_unix_seconds });
        }
        self.append_numbered(to, news, numbers).await.map(drop)
    }

    /// Ends the restoring of a mailbox: new messages get UIDs from `uid_next` on.
    pub async fn restored_mailbox(&self, id: MailboxId, uid_next: u32) -> Result<(), StoreError> {
        self.transact(|t| {
            let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
            mailbox.summary.uid_next = mailbox.summary.uid_next.max(uid_next);
            Ok(())
        })
        .await
    }

    /// Restores the limits of a quota root; a root that holds more than it may hold is taken as it is.
    pub async fn restore_quota(&self, path: &MailboxPath, limits: Limits) -> Result<(), StoreError> {
        self.set_quota(path, limits).await
    }
}
