//! One change of the directory: what is read, what is decided, and the batch that comes of it.
//!
//! Invariants:
//! - A batch that changes anything also writes the state record, with the next revision.
//! - An account's three records (by name, by id, its reservation) change together.

use crate::DirectoryError;
use crate::alias::{self, AliasName, alias_key};
use crate::encoding::Damaged;
use crate::entry::{AccountState, Domain, Entry, Group, Home, Node};
use crate::records::{
    STATE_KEY, State, account_key, decode_account, decode_domain, decode_group, decode_member,
    decode_name_of_id, decode_node, decode_state, domain_key, domain_prefix, encode_account, encode_domain,
    encode_empty, encode_group, encode_name, encode_node, encode_state, group_key, group_name, groups_prefix,
    id_key, member_key, members_prefix, membership_key, memberships_prefix, node_key, reservation_key,
};
use rookery_kv::{Batch, EngineError, Read, Space, prefix_end};
use rookery_types::{AccountId, AccountName, Epoch, NodeId, UserName};
use std::sync::Arc;

/// Nodes at most: [`crate::Directory::nodes`] answers with all.
const NODES_MAX: usize = crate::PAGE_MAX;

pub(crate) fn unavailable(error: EngineError) -> DirectoryError {
    DirectoryError::Unavailable(error.to_string())
}

fn get(read: &dyn Read, key: &[u8]) -> Result<Option<bytes::Bytes>, DirectoryError> {
    read.get(Space::Directory, key).map_err(unavailable)
}

pub(crate) fn read_state(read: &dyn Read) -> Result<State, DirectoryError> {
    match get(read, STATE_KEY)? {
        Some(value) => Ok(decode_state(STATE_KEY, &value)?),
        None if is_empty(read, b"")? => {
            Ok(State { revision: 0, next_account: AccountId::FIRST, default_domain: None })
        }
        // To begin again at id 1 would give ids twice.
        None => Err(Damaged::new(STATE_KEY, "it is missing").into()),
    }
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
fn domain_name(text: &str) -> Result<Box<str>, DirectoryError> {
    match UserName::parse("x", text) {
        Ok(user) if !text.contains('@') => Ok(user.domain().into()),
        _ => Err(DirectoryError::Refused("this cannot be the name of a domain")),
    }
}

/// A change being decided.
pub(crate) struct Change<'a> {
    read: &'a dyn Read,
    state: State,
    batch: Batch,
    names: Vec<AccountName>,
}

/// A change that was decided.
pub(crate) struct Finished {
    pub(crate) batch: Batch,
    /// The accounts it touches, by all their names.
    pub(crate) names: Vec<AccountName>,
    pub(crate) revision: u64,
}

impl<'a> Change<'a> {
    /// Begins a change; no other may be under way.
    pub(crate) fn begin(read: &'a dyn Read) -> Result<Change<'a>, DirectoryError> {
        let mut state = read_state(read)?;
        state.revision =
            state.revision.checked_add(1).ok_or(DirectoryError::Refused("no revision is left"))?;
        Ok(Change { read, state, batch: Batch::new(), names: Vec::new() })
    }

    /// The batch; `None` if there is nothing to change.
    pub(crate) fn finish(mut self) -> Option<Finished> {
        if self.batch.is_empty() {
            return None;
        }
        self.batch.put(Space::Directory, STATE_KEY.to_vec(), encode_state(&self.state));
        Some(Finished { batch: self.batch, names: self.names, revision: self.state.revision })
    }

    fn put(&mut self, entry: &Entry) {
        let key = account_key(&entry.name);
        let value = encode_account(&key, entry);
        self.batch.put(Space::Directory, key, value);
        self.names.push(entry.name.clone());
    }

    fn put_name(&mut self, key: Vec<u8>, name: &AccountName) {
        let value = encode_name(&key, name);
        self.batch.put(Space::Directory, key, value);
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete(Space::Directory, key);
    }

    /// Changes an account's entry; an edit that changes nothing is no change.
    pub(crate) fn edit(
        &mut self,
        id: AccountId,
        edit: impl FnOnce(&mut Entry) -> Result<(), DirectoryError>,
    ) -> Result<Arc<Entry>, DirectoryError> {
        let mut entry = by_id(self.read, id)?;
        let before = entry.clone();
        edit(&mut entry)?;
        if entry != before {
            entry.revision = self.state.revision;
            self.put(&entry);
        }
        Ok(Arc::new(entry))
    }

    pub(crate) fn reserve(
        &mut self,
        name: AccountName,
        home: Home,
        intent: u64,
    ) -> Result<Arc<Entry>, DirectoryError> {
        if home.epoch != Epoch(1) {
            return Err(DirectoryError::Refused("an account's first home has epoch 1"));
        }
        let state = AccountState::Reserved { intent };
        match account(self.read, &name)? {
            Some(entry) if entry.state == state && entry.home == home => return Ok(Arc::new(entry)),
            Some(_) => return Err(DirectoryError::Exists(name.to_string())),
            None => self.need_domain(name.domain())?,
        }
        self.need_no_alias(&name)?;
        let id = self.state.next_account;
        let next = id.get().checked_add(1).and_then(AccountId::new);
        self.state.next_account = next.ok_or(DirectoryError::Refused("no account id is left"))?;
        let entry = Entry { id, name, home, state, verifier: None, revision: self.state.revision };
        self.put(&entry);
        self.put_name(id_key(id), &entry.name);
        self.put_name(reservation_key(id), &entry.name);
        Ok(Arc::new(entry))
    }

    /// `state`: what the reserved account becomes.
    pub(crate) fn activate(
        &mut self,
        id: AccountId,
        state: AccountState,
    ) -> Result<Arc<Entry>, DirectoryError> {
        let entry = self.edit(id, |entry| match entry.state {
            AccountState::Reserved { .. } => {
                entry.state = state;
                Ok(())
            }
            now if now == state => Ok(()),
            _ => Err(DirectoryError::Refused("only a reserved account is activated")),
        })?;
        if !self.batch.is_empty() {
            self.delete(reservation_key(id));
        }
        Ok(entry)
    }

    pub(crate) fn rename(&mut self, id: AccountId, to: AccountName) -> Result<Arc<Entry>, DirectoryError> {
        let mut entry = by_id(self.read, id)?;
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
        if account(self.read, &to)?.is_some() {
            return Err(DirectoryError::Exists(to.to_string()));
        }
        self.need_domain(to.domain())?;
        self.need_no_alias(&to)?;
        self.delete(account_key(&entry.name));
        if let (Some(old), Some(new)) = (entry.name.user(), to.user()) {
            for group in self.groups_of(old)? {
                for (user, is_member) in [(old, false), (new, true)] {
                    // Groups are of one domain.
                    if is_member && new.domain() != old.domain() {
                        continue;
                    }
                    self.move_member(&group, user, is_member);
                }
                if new.domain() != old.domain() {
                    self.set_member(&group, old, false)?;
                }
            }
        }
        self.names.push(entry.name);
        entry.name = to;
        entry.revision = self.state.revision;
        self.put(&entry);
        self.put_name(id_key(id), &entry.name);
        Ok(Arc::new(entry))
    }

    pub(crate) fn remove(&mut self, id: AccountId) -> Result<(), DirectoryError> {
        let entry = by_id(self.read, id)?;
        self.delete(account_key(&entry.name));
        self.delete(id_key(id));
        self.delete(reservation_key(id));
        if let Some(user) = entry.name.user() {
            for group in self.groups_of(user)? {
                self.set_member(&group, user, false)?;
            }
        }
        self.names.push(entry.name);
        Ok(())
    }

    /// All keys with a prefix; of one user or one group.
    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, DirectoryError> {
        let mut keys = Vec::new();
        let end = prefix_end(prefix);
        let scanned = self.read.scan(Space::Directory, prefix, end.as_deref(), false, &mut |key, _| {
            keys.push(key.to_vec());
            true
        });
        scanned.map_err(unavailable)?;
        Ok(keys)
    }

    /// The groups that a user is in.
    fn groups_of(&self, user: &UserName) -> Result<Vec<Box<str>>, DirectoryError> {
        let keys = self.keys(&memberships_prefix(user))?;
        keys.iter()
            .map(|key| {
                let value = get(self.read, key)?.unwrap_or_default();
                Ok(decode_member(key, &value)?.0)
            })
            .collect()
    }

    fn group(&self, domain: &str, name: &str) -> Result<Group, DirectoryError> {
        let key = group_key(domain, name);
        let value = get(self.read, &key)?;
        let value = value.ok_or_else(|| DirectoryError::NotFound(format!("group {name} of {domain}")))?;
        Ok(decode_group(&key, &value)?)
    }

    fn put_group(&mut self, group: &Group) {
        let key = group_key(&group.domain, &group.name);
        let value = encode_group(&key, group);
        self.batch.put(Space::Directory, key, value);
    }

    pub(crate) fn add_group(&mut self, domain: &str, name: &str) -> Result<Group, DirectoryError> {
        self.need_domain(domain)?;
        let name = group_name(name).ok_or(DirectoryError::Refused("this cannot be the name of a group"))?;
        match self.group(domain, &name) {
            Ok(_) => return Err(DirectoryError::Exists(format!("group {name} of {domain}"))),
            Err(DirectoryError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let group = Group { domain: domain.into(), name, revision: self.state.revision, members: 0 };
        self.put_group(&group);
        Ok(group)
    }

    pub(crate) fn remove_group(&mut self, domain: &str, name: &str) -> Result<(), DirectoryError> {
        let name = group_name(name).unwrap_or_default();
        self.group(domain, &name)?;
        for key in self.keys(&members_prefix(domain, &name))? {
            let (group, user) = decode_member(&key, &get(self.read, &key)?.unwrap_or_default())?;
            self.delete(membership_key(&group, &user));
            self.delete(key);
        }
        self.delete(group_key(domain, &name));
        Ok(())
    }

    /// The records of a membership alone: the group has as many members as before.
    fn move_member(&mut self, group: &str, user: &UserName, is_member: bool) {
        for key in [member_key(group, user), membership_key(group, user)] {
            match is_member {
                true => {
                    let value = encode_empty(&key);
                    self.batch.put(Space::Directory, key, value);
                }
                false => self.delete(key),
            }
        }
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
        let (member, membership) = (member_key(&name, user), membership_key(&name, user));
        if get(self.read, &member)?.is_some() == is_member {
            return Ok(());
        }
        group.revision = self.state.revision;
        if is_member {
            group.members = group.members.saturating_add(1);
            for key in [member, membership] {
                let value = encode_empty(&key);
                self.batch.put(Space::Directory, key, value);
            }
        } else {
            group.members = group.members.saturating_sub(1);
            self.delete(member);
            self.delete(membership);
        }
        self.put_group(&group);
        Ok(())
    }

    /// The revision that the change makes.
    pub(crate) fn revision(&self) -> u64 {
        self.state.revision
    }

    pub(crate) fn record(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, DirectoryError> {
        get(self.read, key)
    }

    pub(crate) fn put_record(&mut self, key: Vec<u8>, value: bytes::Bytes) {
        self.batch.put(Space::Directory, key, value);
    }

    pub(crate) fn need_no_account(&self, user: &UserName) -> Result<(), DirectoryError> {
        match account(self.read, &AccountName::User(user.clone()))? {
            Some(_) => Err(DirectoryError::Exists(format!("the account {user}"))),
            None => Ok(()),
        }
    }

    /// Fails if an alias has the name that an account is to have.
    fn need_no_alias(&self, name: &AccountName) -> Result<(), DirectoryError> {
        let Some(user) = name.user() else { return Ok(()) };
        let alias = AliasName::Address(user.clone());
        match get(self.read, &alias_key(&alias))? {
            Some(_) => Err(DirectoryError::Exists(format!("the alias {alias}"))),
            None => Ok(()),
        }
    }

    pub(crate) fn need_domain(&self, name: &str) -> Result<(), DirectoryError> {
        match domain(self.read, name)? {
            Some(_) => Ok(()),
            None => Err(DirectoryError::NotFound(format!("domain {name}"))),
        }
    }

    pub(crate) fn add_domain(&mut self, name: &str) -> Result<Domain, DirectoryError> {
        let name = domain_name(name)?;
        if domain(self.read, &name)?.is_some() {
            return Err(DirectoryError::Exists(format!("domain {name}")));
        }
        let domain = Domain { name, revision: self.state.revision };
        let key = domain_key(&domain.name);
        let value = encode_domain(&key, &domain);
        self.batch.put(Space::Directory, key, value);
        self.state.default_domain.get_or_insert_with(|| domain.name.clone());
        Ok(domain)
    }

    pub(crate) fn remove_domain(&mut self, name: &str) -> Result<(), DirectoryError> {
        let name = domain_name(name)?;
        self.need_domain(&name)?;
        let is_default = self.state.default_domain.as_ref() == Some(&name);
        let in_use = |prefix: Vec<u8>| is_empty(self.read, &prefix).map(|empty| !empty);
        let is_used = in_use(domain_prefix(&name))?
            || in_use(groups_prefix(&name))?
            || in_use(alias::domain_prefix(&name))?;
        if is_default || is_used {
            return Err(DirectoryError::InUse(format!("domain {name}")));
        }
        self.delete(domain_key(&name));
        Ok(())
    }

    pub(crate) fn set_default_domain(&mut self, name: &str) -> Result<(), DirectoryError> {
        let name = domain_name(name)?;
        self.need_domain(&name)?;
        if self.state.default_domain.as_ref() != Some(&name) {
            self.state.default_domain = Some(name);
            // The state record is all that changes; `finish` writes it again with the revision.
            self.batch.put(Space::Directory, STATE_KEY.to_vec(), encode_state(&self.state));
        }
        Ok(())
    }

    pub(crate) fn put_node(&mut self, node: &Node) -> Result<(), DirectoryError> {
        if node.address.len() > Node::TEXT_OCTETS_MAX || node.version.len() > Node::TEXT_OCTETS_MAX {
            return Err(DirectoryError::Refused("a node's address or version is too long"));
        }
        let key = node_key(node.id);
        match get(self.read, &key)? {
            Some(value) if decode_node(&key, &value)? == *node => return Ok(()),
            Some(_) => {}
            None if self.count_nodes()? >= NODES_MAX => {
                return Err(DirectoryError::Refused("there are too many nodes"));
            }
            None => {}
        }
        let value = encode_node(&key, node);
        self.batch.put(Space::Directory, key, value);
        Ok(())
    }

    fn count_nodes(&self) -> Result<usize, DirectoryError> {
        let mut nodes = 0;
        let prefix = [crate::records::NODE];
        let end = prefix_end(&prefix);
        let scanned = self.read.scan(Space::Directory, &prefix, end.as_deref(), false, &mut |_, _| {
            nodes += 1;
            nodes < NODES_MAX
        });
        scanned.map_err(unavailable)?;
        Ok(nodes)
    }

    pub(crate) fn remove_node(&mut self, id: NodeId) -> Result<(), DirectoryError> {
        let key = node_key(id);
        if get(self.read, &key)?.is_none() {
            return Err(DirectoryError::NotFound(format!("node {id}")));
        }
        self.delete(key);
        Ok(())
    }
}
