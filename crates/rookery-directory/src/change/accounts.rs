//! Accounts in a change: their ids and names, homes and states, and what goes with them.
//!
//! Invariants:
//! - An id is given once: a block of them is taken by a change of the record that says which are left. An account that
//!   is restored has its own again.
//! - A name that nobody has is given only in a domain that is there and stays, and if it is no alias's.
//! - An account's own record goes in the last step of removing it, so that a broken off removal can be asked for again.

use super::{Change, STEP_MAX, account, by_id, get, read_state};
use crate::DirectoryError;
use crate::entry::{AccountState, Entry, Home};
use crate::published::published_prefix;
use crate::records::{account_key, encode_account, id_key, member_key};
use rookery_types::{AccountId, AccountName, Epoch};
use std::ops::Range;
use std::sync::Arc;

/// Ids taken at a time.
const BLOCK: u64 = 256;

impl Change<'_> {
    fn put(&mut self, entry: &Entry) {
        let key = account_key(&entry.name);
        let value = encode_account(&key, entry);
        self.put_record(key, value);
    }

    /// Changes an account's entry; an edit that changes nothing is no change.
    pub(crate) fn edit(
        &mut self,
        id: AccountId,
        edit: impl FnOnce(&mut Entry) -> Result<(), DirectoryError>,
    ) -> Result<Arc<Entry>, DirectoryError> {
        let mut entry = by_id(&self.read, id)?;
        let before = entry.clone();
        edit(&mut entry)?;
        if entry != before {
            entry.revision = self.revision;
            self.put(&entry);
        }
        Ok(Arc::new(entry))
    }

    /// Takes a block of ids that nobody else is given.
    pub(crate) fn take_ids(&mut self) -> Result<Range<u64>, DirectoryError> {
        let mut state = read_state(&self.read)?;
        let first = state.next_account.get();
        let next = first.checked_add(BLOCK).and_then(AccountId::new);
        state.next_account = next.ok_or(DirectoryError::Refused("no account id is left"))?;
        // Two nodes that take the same block write different things: what is found there after a lost answer tells
        // whose it is.
        state.mark = rand::random();
        self.put_state(&state);
        Ok(first..state.next_account.get())
    }

    /// `id`: one that was never given.
    pub(crate) fn reserve(
        &mut self,
        name: AccountName,
        home: Home,
        intent: u64,
        id: AccountId,
    ) -> Result<Arc<Entry>, DirectoryError> {
        if home.epoch != Epoch(1) {
            return Err(DirectoryError::Refused("an account's first home has epoch 1"));
        }
        let state = AccountState::Reserved { intent };
        match account(&self.read, &name)? {
            Some(entry) if entry.state == state && entry.home == home => return Ok(Arc::new(entry)),
            Some(_) => return Err(DirectoryError::Exists(name.to_string())),
            None => self.need_domain(name.domain())?,
        }
        self.need_holding(home.node)?;
        self.need_no_alias(&name)?;
        let entry = Entry { id, name, home, moving: None, state, verifier: None, revision: self.revision };
        self.put(&entry);
        Ok(Arc::new(entry))
    }

    pub(crate) fn restore(
        &mut self,
        id: AccountId,
        name: AccountName,
        home: Home,
    ) -> Result<Arc<Entry>, DirectoryError> {
        let mut state = read_state(&self.read)?;
        if id >= state.next_account {
            return Err(DirectoryError::Refused("only an id that was given before is restored"));
        }
        if account(&self.read, &name)?.is_some() || get(&self.read, &id_key(id))?.is_some() {
            return Err(DirectoryError::Exists(name.to_string()));
        }
        self.need_domain(name.domain())?;
        self.need_no_alias(&name)?;
        // No primary record says that an id is free. So restorations are made one after another.
        state.mark = rand::random();
        self.put_state(&state);
        let revision = self.revision;
        let state = AccountState::Active;
        let entry = Entry { id, name, home, moving: None, state, verifier: None, revision };
        self.put(&entry);
        Ok(Arc::new(entry))
    }

    /// `state`: what the reserved account becomes.
    pub(crate) fn activate(
        &mut self,
        id: AccountId,
        state: AccountState,
    ) -> Result<Arc<Entry>, DirectoryError> {
        self.edit(id, |entry| match entry.state {
            AccountState::Reserved { .. } => {
                entry.state = state;
                Ok(())
            }
            now if now == state => Ok(()),
            _ => Err(DirectoryError::Refused("only a reserved account is activated")),
        })
    }

    pub(crate) fn rename(&mut self, id: AccountId, to: AccountName) -> Result<Arc<Entry>, DirectoryError> {
        let mut entry = by_id(&self.read, id)?;
        if entry.name == to {
            return Ok(Arc::new(entry));
        }
        if entry.name.user().is_some() != to.user().is_some() {
            return Err(DirectoryError::Refused(
                "a user's account does not become a shared one, nor the reverse",
            ));
        }
        if matches!(entry.state, AccountState::Reserved { .. }) {
            return Err(DirectoryError::Refused("a reservation keeps its name"));
        }
        if account(&self.read, &to)?.is_some() {
            return Err(DirectoryError::Exists(to.to_string()));
        }
        self.need_domain(to.domain())?;
        self.need_no_alias(&to)?;
        self.delete(account_key(&entry.name));
        if let (Some(old), Some(new)) = (entry.name.user(), to.user()) {
            for group in self.groups_of(old)? {
                if new.domain() != old.domain() {
                    // Groups are of one domain.
                    self.set_member(&group, old, false)?;
                    continue;
                }
                self.delete(member_key(&group, old));
                self.put_member(&group, new);
            }
        }
        entry.name = to;
        entry.revision = self.revision;
        self.put(&entry);
        Ok(Arc::new(entry))
    }

    /// Forgets an account, or takes a step towards it: whether it is done.
    pub(crate) fn remove(&mut self, id: AccountId) -> Result<bool, DirectoryError> {
        let entry = by_id(&self.read, id)?;
        let mailboxes = self.keys(&published_prefix(id), STEP_MAX)?;
        let is_last = mailboxes.len() < STEP_MAX;
        mailboxes.into_iter().for_each(|key| self.delete(key));
        let groups = match entry.name.user() {
            Some(user) if is_last => self.groups_of(user)?,
            _ => Vec::new(),
        };
        let steps = groups.len().min(STEP_MAX / 2);
        for group in groups.iter().take(steps) {
            if let Some(user) = entry.name.user() {
                self.set_member(group, user, false)?;
            }
        }
        let done = is_last && steps == groups.len();
        if done {
            self.delete(account_key(&entry.name));
        }
        Ok(done)
    }

    /// Lets an account stand in the place of one that is lost, or takes a step towards it: whether it is done.
    pub(crate) fn take_over(&mut self, id: AccountId, place: &AccountName) -> Result<bool, DirectoryError> {
        let entry = by_id(&self.read, id)?;
        if entry.name == *place {
            // Asked again.
            return Ok(true);
        }
        let lost = account(&self.read, place)?.ok_or_else(|| DirectoryError::NotFound(place.to_string()))?;
        if !self.is_removed(lost.home.node)? {
            return Err(DirectoryError::Refused("the account's home is a node of the cluster"));
        }
        let is_user = |name: &AccountName| name.user().is_some();
        let stands = |state| matches!(state, AccountState::Active | AccountState::Suspended);
        if !stands(entry.state)
            || !stands(lost.state)
            || is_user(&entry.name) != is_user(place)
            || entry.name.domain() != place.domain()
        {
            return Err(DirectoryError::Refused("this account cannot stand in that one's place"));
        }
        let mailboxes = self.keys(&published_prefix(lost.id), STEP_MAX)?;
        let is_last = mailboxes.len() < STEP_MAX;
        mailboxes.into_iter().for_each(|key| self.delete(key));
        if is_last {
            self.delete(account_key(&entry.name));
            let verifier = lost.verifier.or(entry.verifier.clone());
            let revision = self.revision;
            self.put(&Entry { name: place.clone(), state: lost.state, verifier, revision, ..entry });
        }
        Ok(is_last)
    }
}
