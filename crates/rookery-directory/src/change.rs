//! One change of the directory: what is read, what is decided, and the conditional batch that comes of it.
//!
//! Invariants:
//! - Every primary record that was read is a condition of the batch, and so is every one that is written.
//! - A batch changes something, so that once applied it does not apply again.

use crate::DirectoryError;
use crate::alias::{self, Alias, AliasName, alias_key, encode_alias};
use crate::copy::scan_primary;
use crate::encoding::Damaged;
use crate::entry::{AccountState, Domain, Entry, Group, Home};
use crate::published::{Published, decode_published, published_key, published_prefix};
use crate::records::{
    self, POSITION_KEY, STATE_KEY, State, account_key, decode_account, decode_domain, decode_group,
    decode_member, decode_name_of_id, decode_position, decode_state, domain_key, domain_prefix,
    encode_account, encode_domain, encode_empty, encode_group, encode_state, group_key, group_name,
    groups_prefix, id_key, member_key, members_prefix, memberships_prefix,
};
use crate::source::{Condition, ConditionalBatch, Position, Write};
use bytes::Bytes;
use rookery_kv::{EngineError, Read, Space, prefix_end};
use rookery_types::{AccountId, AccountName, Epoch, MailboxId, UserName};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Records that one step of a change in many steps writes, or a little more. A source takes them in one batch.
const STEP_MAX: usize = 40;
/// Ids taken at a time.
const BLOCK: u64 = 256;

pub(crate) fn unavailable(error: EngineError) -> DirectoryError {
    DirectoryError::Unavailable(error.to_string())
}

pub(crate) fn get(read: &dyn Read, key: &[u8]) -> Result<Option<bytes::Bytes>, DirectoryError> {
    read.get(Space::Directory, key).map_err(unavailable)
}

pub(crate) fn read_state(read: &dyn Read) -> Result<State, DirectoryError> {
    match get(read, STATE_KEY)? {
        Some(value) => Ok(decode_state(STATE_KEY, &value)?.0),
        None if has_nothing(read)? => {
            Ok(State { next_account: AccountId::FIRST, mark: 0, default_domain: None })
        }
        // To begin again at id 1 would give ids twice.
        None => Err(Damaged::new(STATE_KEY, "it is missing").into()),
    }
}

/// How far the copy is; `None` if it was never one, or only that of a program which had no positions.
pub(crate) fn read_position(read: &dyn Read) -> Result<Option<Position>, DirectoryError> {
    let found = get(read, POSITION_KEY)?;
    Ok(found.map(|value| decode_position(POSITION_KEY, &value)).transpose()?)
}

/// Whether there is no primary record.
fn has_nothing(read: &dyn Read) -> Result<bool, DirectoryError> {
    let mut nothing = true;
    scan_primary(read, b"", &mut |_, _| {
        nothing = false;
        false
    })?;
    Ok(nothing)
}

/// Whether no key begins so.
fn is_empty(read: &dyn Read, prefix: &[u8]) -> Result<bool, DirectoryError> {
    let mut empty = true;
    let end = prefix_end(prefix);
    let scanned = read.scan(Space::Directory, prefix, end.as_deref(), false, &mut |_, _| {
        empty = false;
        false
    });
    scanned.map_err(unavailable)?;
    Ok(empty)
}

pub(crate) fn account(read: &dyn Read, name: &AccountName) -> Result<Option<Entry>, DirectoryError> {
    let key = account_key(name);
    Ok(get(read, &key)?.map(|value| decode_account(&key, &value)).transpose()?)
}

pub(crate) fn domain(read: &dyn Read, name: &str) -> Result<Option<Domain>, DirectoryError> {
    let key = domain_key(name);
    Ok(get(read, &key)?.map(|value| decode_domain(&key, &value)).transpose()?)
}

/// Reads an account by its id. `read` is a snapshot, or nothing changes meanwhile.
pub(crate) fn by_id(read: &dyn Read, id: AccountId) -> Result<Entry, DirectoryError> {
    let key = id_key(id);
    let value = get(read, &key)?.ok_or_else(|| DirectoryError::NotFound(format!("account {id}")))?;
    let (_, name) = decode_name_of_id(&key, &value)?;
    match account(read, &name)? {
        Some(entry) if entry.id == id => Ok(entry),
        _ => Err(Damaged::new(&key, "no account of this name has this id").into()),
    }
}

/// A domain's name as it is kept.
pub(crate) fn domain_name(text: &str) -> Result<Box<str>, DirectoryError> {
    match UserName::parse("x", text) {
        Ok(user) if !text.contains('@') => Ok(user.domain().into()),
        _ => Err(DirectoryError::Refused("this cannot be the name of a domain")),
    }
}

/// Remembers what is read of the primary records.
pub(crate) struct Recorder<'a> {
    read: &'a dyn Read,
    seen: RefCell<BTreeMap<Vec<u8>, Option<Bytes>>>,
}

impl Read for Recorder<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(value) = self.seen.borrow().get(key) {
            return Ok(value.clone());
        }
        let value = self.read.get(space, key)?;
        if records::is_primary(key) {
            self.seen.borrow_mut().insert(key.to_vec(), value.clone());
        }
        Ok(value)
    }

    /// What is found is no condition: who needs one reads it by its key.
    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        self.read.scan(space, start, end, reverse, visit)
    }
}

/// A change being decided.
pub(crate) struct Change<'a> {
    pub(crate) read: Recorder<'a>,
    /// Above every revision that was seen: it goes into the records that change.
    pub(crate) revision: u64,
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl<'a> Change<'a> {
    /// Begins a change of what `read` shows, which does not change meanwhile and is at `revision`.
    pub(crate) fn begin(read: &'a dyn Read, revision: u64) -> Change<'a> {
        let read = Recorder { read, seen: RefCell::default() };
        Change { read, revision: revision.saturating_add(1), writes: BTreeMap::new() }
    }

    /// The batch; `None` if there is nothing to change.
    pub(crate) fn finish(mut self) -> Result<Option<ConditionalBatch>, DirectoryError> {
        for key in self.writes.keys() {
            get(&self.read, key)?;
        }
        let seen = self.read.seen.take();
        self.writes.retain(|key, value| seen.get(key) != Some(value));
        if self.writes.is_empty() {
            return Ok(None);
        }
        let mut batch = ConditionalBatch::default();
        for (key, value) in seen {
            batch.conditions.push(Condition { key: key.into(), value });
        }
        // Whatever has records has a state: else ids would begin again.
        if !self.writes.contains_key(STATE_KEY) && get(self.read.read, STATE_KEY)?.is_none() {
            let state = encode_state(&read_state(self.read.read)?);
            self.writes.insert(STATE_KEY.to_vec(), Some(state));
            batch.conditions.retain(|condition| condition.key != STATE_KEY);
            batch.conditions.push(Condition { key: STATE_KEY.into(), value: None });
        }
        batch.writes = self.writes.into_iter().map(|(key, value)| Write { key: key.into(), value }).collect();
        Ok(Some(batch))
    }

    pub(crate) fn put_record(&mut self, key: Vec<u8>, value: Bytes) {
        self.writes.insert(key, Some(value));
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    fn put(&mut self, entry: &Entry) {
        let key = account_key(&entry.name);
        let value = encode_account(&key, entry);
        self.put_record(key, value);
    }

    pub(crate) fn put_state(&mut self, state: &State) {
        self.put_record(STATE_KEY.to_vec(), encode_state(state));
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

    /// Up to so many keys with a prefix.
    pub(crate) fn keys(&self, prefix: &[u8], max: usize) -> Result<Vec<Vec<u8>>, DirectoryError> {
        let mut keys = Vec::new();
        let end = prefix_end(prefix);
        let scanned = self.read.scan(Space::Directory, prefix, end.as_deref(), false, &mut |key, _| {
            keys.push(key.to_vec());
            keys.len() < max
        });
        scanned.map_err(unavailable)?;
        Ok(keys)
    }

    /// The groups that a user is in.
    fn groups_of(&self, user: &UserName) -> Result<Vec<Box<str>>, DirectoryError> {
        let keys = self.keys(&memberships_prefix(user), usize::MAX)?;
        keys.iter()
            .map(|key| {
                let value = get(&self.read, key)?.unwrap_or_default();
                Ok(decode_member(key, &value)?.0)
            })
            .collect()
    }

    fn group(&self, domain: &str, name: &str) -> Result<Group, DirectoryError> {
        let key = group_key(domain, name);
        let value = match self.writes.get(&key) {
            Some(value) => value.clone(),
            None => get(&self.read, &key)?,
        };
        let value = value.ok_or_else(|| DirectoryError::NotFound(format!("group {name} of {domain}")))?;
        Ok(decode_group(&key, &value)?)
    }

    fn put_group(&mut self, group: &Group) {
        let key = group_key(&group.domain, &group.name);
        let value = encode_group(&key, group);
        self.put_record(key, value);
    }

    pub(crate) fn add_group(&mut self, domain: &str, name: &str) -> Result<Group, DirectoryError> {
        self.need_domain(domain)?;
        let name = group_name(name).ok_or(DirectoryError::Refused("this cannot be the name of a group"))?;
        match self.group(domain, &name) {
            Ok(_) => return Err(DirectoryError::Exists(format!("group {name} of {domain}"))),
            Err(DirectoryError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let group = Group { domain: domain.into(), name, revision: self.revision, members: 0 };
        self.put_group(&group);
        Ok(group)
    }

    /// Forgets a group, or takes a step towards it: whether it is done. Whoever joins meanwhile changes the group's
    /// record, which is a condition.
    pub(crate) fn remove_group(&mut self, domain: &str, name: &str) -> Result<bool, DirectoryError> {
        let name = group_name(name).unwrap_or_default();
        let mut group = self.group(domain, &name)?;
        let members = self.keys(&members_prefix(domain, &name), STEP_MAX)?;
        let done = members.len() < STEP_MAX;
        group.members = group.members.saturating_sub(members.len() as u64);
        group.revision = self.revision;
        members.into_iter().for_each(|key| self.delete(key));
        match done {
            true => self.delete(group_key(domain, &name)),
            false => self.put_group(&group),
        }
        Ok(done)
    }

    fn put_member(&mut self, group: &str, user: &UserName) {
        let key = member_key(group, user);
        let value = encode_empty(&key);
        self.put_record(key, value);
    }

    /// Puts a user into a group, or takes them out.
    pub(crate) fn set_member(
        &mut self,
        group: &str,
        user: &UserName,
        is_member: bool,
    ) -> Result<(), DirectoryError> {
        let name = group_name(group).unwrap_or_default();
        let mut group = self.group(user.domain(), &name)?;
        let member = member_key(&name, user);
        if get(&self.read, &member)?.is_some() == is_member {
            return Ok(());
        }
        group.revision = self.revision;
        if is_member {
            group.members = group.members.saturating_add(1);
            self.put_member(&name, user);
        } else {
            group.members = group.members.saturating_sub(1);
            self.delete(member);
        }
        self.put_group(&group);
        Ok(())
    }

    /// Makes an alias, or leads it elsewhere. Name and targets are checked.
    pub(crate) fn put_alias(
        &mut self,
        name: AliasName,
        targets: Vec<UserName>,
    ) -> Result<Alias, DirectoryError> {
        if let AliasName::Address(user) = &name
            && account(&self.read, &AccountName::User(user.clone()))?.is_some()
        {
            return Err(DirectoryError::Exists(format!("the account {user}")));
        }
        self.need_domain(name.domain())?;
        let alias = Alias { name, targets, revision: self.revision };
        let key = alias_key(&alias.name);
        let value = encode_alias(&key, &alias);
        self.put_record(key, value);
        Ok(alias)
    }

    pub(crate) fn remove_alias(&mut self, name: &AliasName) -> Result<(), DirectoryError> {
        let key = alias_key(name);
        if get(&self.read, &key)?.is_none() {
            return Err(DirectoryError::NotFound(format!("the alias {name}")));
        }
        self.delete(key);
        Ok(())
    }

    /// Fails if an alias has the name that an account is to have.
    fn need_no_alias(&self, name: &AccountName) -> Result<(), DirectoryError> {
        let Some(user) = name.user() else { return Ok(()) };
        let alias = AliasName::Address(user.clone());
        match get(&self.read, &alias_key(&alias))? {
            Some(_) => Err(DirectoryError::Exists(format!("the alias {alias}"))),
            None => Ok(()),
        }
    }

    fn need_domain(&self, name: &str) -> Result<(), DirectoryError> {
        match domain(&self.read, name)? {
            Some(domain) if !domain.closing => Ok(()),
            _ => Err(DirectoryError::NotFound(format!("domain {name}"))),
        }
    }

    /// Makes a domain, or takes back that it is removed.
    pub(crate) fn add_domain(&mut self, name: &str) -> Result<Domain, DirectoryError> {
        let name = domain_name(name)?;
        if domain(&self.read, &name)?.is_some_and(|domain| !domain.closing) {
            return Err(DirectoryError::Exists(format!("domain {name}")));
        }
        let domain = Domain { name, revision: self.revision, closing: false };
        self.put_domain(&domain);
        let mut state = read_state(&self.read)?;
        if state.default_domain.is_none() {
            state.default_domain = Some(domain.name.clone());
            self.put_state(&state);
        }
        Ok(domain)
    }

    fn put_domain(&mut self, domain: &Domain) {
        let key = domain_key(&domain.name);
        let value = encode_domain(&key, domain);
        self.put_record(key, value);
    }

    /// The first step of removing a domain: nothing new is made in it. What it was before, if it is not closing.
    pub(crate) fn close_domain(&mut self, name: &str) -> Result<(), DirectoryError> {
        let name = domain_name(name)?;
        let found = domain(&self.read, &name)?;
        let mut domain = found.ok_or_else(|| DirectoryError::NotFound(format!("domain {name}")))?;
        self.need_unused(&name)?;
        if !domain.closing {
            domain.closing = true;
            domain.revision = self.revision;
            self.put_domain(&domain);
        }
        Ok(())
    }

    /// The second step, decided on a copy that has seen the first: forgets the domain, or opens it again if something
    /// is in it. Whether it is gone.
    pub(crate) fn remove_domain(&mut self, name: &str) -> Result<bool, DirectoryError> {
        let name = domain_name(name)?;
        let found = domain(&self.read, &name)?;
        let mut domain = found.ok_or_else(|| DirectoryError::NotFound(format!("domain {name}")))?;
        if !domain.closing {
            // Somebody made it anew.
            return Ok(false);
        }
        match self.need_unused(&name) {
            Ok(()) => {
                self.delete(domain_key(&name));
                Ok(true)
            }
            Err(DirectoryError::InUse(_)) => {
                domain.closing = false;
                domain.revision = self.revision;
                self.put_domain(&domain);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn need_unused(&self, name: &str) -> Result<(), DirectoryError> {
        let is_default = read_state(&self.read)?.default_domain.as_deref() == Some(name);
        let in_use = |prefix: Vec<u8>| is_empty(&self.read, &prefix).map(|empty| !empty);
        let is_used = in_use(domain_prefix(name))?
            || in_use(groups_prefix(name))?
            || in_use(alias::domain_prefix(name))?;
        match is_default || is_used {
            true => Err(DirectoryError::InUse(format!("domain {name}"))),
            false => Ok(()),
        }
    }

    pub(crate) fn set_default_domain(&mut self, name: &str) -> Result<(), DirectoryError> {
        let name = domain_name(name)?;
        self.need_domain(&name)?;
        let mut state = read_state(&self.read)?;
        if state.default_domain.as_ref() != Some(&name) {
            state.default_domain = Some(name);
            self.put_state(&state);
        }
        Ok(())
    }

    /// Publishes mailboxes, or takes them back. A mailbox of an account that is gone is not published.
    pub(crate) fn publish(
        &mut self,
        mailboxes: &[(MailboxId, Option<Published>)],
    ) -> Result<(), DirectoryError> {
        for (mailbox, published) in mailboxes {
            let key = published_key(*mailbox);
            let published = match published {
                // Under the name that the account has now: it may have got another since.
                Some(published) => match by_id(&self.read, mailbox.account) {
                    Ok(entry) => {
                        let Published { path, acl, special_use, .. } = published;
                        Published::of(&entry.name, *mailbox, path, acl, special_use)
                    }
                    Err(DirectoryError::NotFound(_)) => None,
                    Err(error) => return Err(error),
                },
                None => None,
            };
            match published {
                Some(published) => {
                    let (key, value) = published.record();
                    decode_published(&key, &value)?;
                    self.put_record(key, value);
                }
                None => self.delete(key),
            }
        }
        Ok(())
    }
}
