//! A maildrop on its way from one node to another.
//!
//! Sizes and contents of messages that are still in the mailbox never change, so that whoever goes on finds them; those of
//! others go along.

use rookery_codec::pop3::{Code, Reply};
use rookery_store::{Message, Messages, StoreError};
use rookery_types::{AccountId, MailboxId, Uid, UidSet, UidValidity, UserName};
use std::collections::BTreeMap;

use super::{Maildrop, Opened, Refusal, account_of, enter};
use crate::retrieve::blocking;
use crate::services::Services;
use crate::value::{GONE_MAX, MaildropValue};

impl Maildrop {
    /// What another node needs to go on with it.
    pub(crate) async fn value(&self) -> Result<MaildropValue, StoreError> {
        let (messages, newest) = (self.messages.clone(), self.mailbox.now().messages.clone());
        let newest = newest.filter(|_| self.mailbox.exists()).unwrap_or_default();
        let read = move || {
            let gone = messages.difference(&newest)?.gone;
            let gone = gone.into_iter().take(GONE_MAX).map(|(_, uid)| messages.message(uid)).collect();
            let gone: Result<Vec<Option<Message>>, StoreError> = gone;
            Ok((messages.uids(0..messages.len())?, gone?.into_iter().flatten().collect()))
        };
        let (uids, gone) = blocking(read).await?;
        let id = self.mailbox.id();
        Ok(MaildropValue {
            account: id.account.get(),
            mailbox: id.number,
            uid_validity: self.uid_validity.get(),
            uids,
            octets: self.octets,
            marked: self.marked.clone(),
            marked_octets: self.marked_octets,
            gone,
        })
    }

    /// Opens the maildrop of a session that was at another node.
    pub(crate) async fn resume(
        services: &Services,
        user: UserName,
        value: MaildropValue,
    ) -> Result<Opened, Refusal> {
        let account = match account_of(services, &user).await? {
            Ok(account) => account,
            Err(home) => return Ok(Opened::Away { user, home }),
        };
        // It was among the account's sessions before it came.
        let slot = enter(services, &account, usize::MAX)?;
        let MaildropValue { account: id, mailbox, uid_validity, uids, octets, marked, marked_octets, gone } =
            value;
        let is_of_it = AccountId::new(id) == Some(account.id());
        let uid_validity = UidValidity::new(uid_validity).filter(|_| is_of_it).ok_or_else(cannot_go_on)?;
        let id = MailboxId { account: account.id(), number: mailbox };
        let mailbox = match account.open(id).await {
            Ok(mailbox) if mailbox.now().settings.uid_validity == uid_validity => mailbox,
            Ok(_) | Err(StoreError::NoMailbox) => return Err(cannot_go_on()),
            Err(error) => return Err(Refusal::of(&error)),
        };
        let (newest, expunged) = (mailbox.now().messages.clone().unwrap_or_default(), account.clone());
        let expunged = move |uids: &UidSet| expunged.lately_expunged(id, uids);
        let messages = blocking(move || as_it_was(&newest, &uids, gone, expunged)).await;
        let messages = messages.map_err(|error| Refusal::of(&error))?.ok_or_else(cannot_go_on)?;
        let maildrop = Maildrop {
            user,
            messages,
            uid_validity,
            octets,
            home: account.whereabouts(),
            mailbox,
            marked_count: usize::try_from(marked.len()).unwrap_or(usize::MAX),
            marked,
            marked_octets,
            slot,
        };
        maildrop.opened()
    }
}

/// The messages of these UIDs, of which some are not in the mailbox any more: these, and those of which `expunged` knows.
/// None: some are not known.
fn as_it_was(
    newest: &Messages,
    uids: &UidSet,
    gone: Vec<Message>,
    expunged: impl FnOnce(&UidSet) -> Result<Vec<Message>, StoreError>,
) -> Result<Option<Messages>, StoreError> {
    let there = newest.uids(0..newest.len())?;
    // What has come since the login is not in the maildrop.
    let mut told: BTreeMap<Uid, Option<Message>> =
        there.difference(uids).uids().map(|uid| (uid, None)).collect();
    let mut missing = uids.difference(&there);
    let gone = gone.into_iter().filter(|message| !there.contains_uid(message.uid));
    for message in gone {
        missing.remove(message.uid.get());
        told.insert(message.uid, Some(message));
    }
    if !missing.is_empty() {
        for message in expunged(&missing)? {
            missing.remove(message.uid.get());
            told.insert(message.uid, Some(message));
        }
    }
    if !missing.is_empty() {
        return Ok(None);
    }
    let messages = match told.is_empty() {
        true => newest.clone(),
        false => newest.with(&told.into_iter().collect::<Vec<_>>())?,
    };
    Ok(Some(messages))
}

fn cannot_go_on() -> Refusal {
    Refusal::Never(Reply::refused(Code::SysTemp, "The session cannot go on; nothing was removed"))
}
