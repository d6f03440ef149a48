//! Groups in a change: each is of one domain, and counts who is in it.
//!
//! Invariants:
//! - Whoever joins or leaves changes the record of the group. So nobody joins one that goes meanwhile, and the count
//!   is right whatever comes at once.

use super::{Change, STEP_MAX, get};
use crate::DirectoryError;
use crate::entry::Group;
use crate::records::{
    decode_group, decode_member, encode_empty, encode_group, group_key, group_name, member_key,
    members_prefix, memberships_prefix,
};
use rookery_types::UserName;

impl Change<'_> {
    /// The groups that a user is in.
    pub(super) fn groups_of(&self, user: &UserName) -> Result<Vec<Box<str>>, DirectoryError> {
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

    pub(super) fn put_member(&mut self, group: &str, user: &UserName) {
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
}
