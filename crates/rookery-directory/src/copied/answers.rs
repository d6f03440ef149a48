//! What a node's directory is asked: look-ups read the node's copy, changes go to the source.
//!
//! Invariants:
//! - "There is none" is said only of a copy that was whole once, as far as that is.
//! - A change that was begun goes on when its answer is dropped.

use super::{CopiedDirectory, Kept, detached};
use crate::alias::{self, Alias, AliasName, alias_key, decode_alias};
use crate::change::{Change, read_state, unavailable};
use crate::copy::{Copy, just_after};
use crate::entry::{AccountFilter, AccountState, Domain, Entry, Group, Home, Moving, Page, Verifier};
use crate::node::{Node, NodeEdit, decode_node};
use crate::placement::{PLACEMENT, Placement, decode_placement};
use crate::published::{Published, decode_published, published_key, published_prefix};
use crate::records::{self, domain_key, reservation_key};
use crate::{Answer, Directory, DirectoryError, PAGE_MAX};
use rookery_kv::Space;
use rookery_types::{AccountId, AccountName, Identifier, MailboxId, NodeId, UserName};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// Published mailboxes that change in one step.
const PUBLISH_STEP: usize = 16;

impl Directory for CopiedDirectory {
    fn look_up<'a>(&'a self, name: &'a AccountName) -> Answer<'a, Arc<Entry>> {
        Box::pin(async move { self.0.whole()?.look_up(name) })
    }

    fn by_id(&self, id: AccountId) -> Answer<'_, Arc<Entry>> {
        Box::pin(async move { self.0.whole()?.by_id(id) })
    }

    fn list(&self, filter: AccountFilter, after: Option<AccountName>, limit: usize) -> Answer<'_, Page> {
        self.read(move |copy| copy.list(&filter, after, limit))
    }

    fn reserve(&self, name: AccountName, home: Home, intent: u64) -> Answer<'_, Arc<Entry>> {
        let inner = self.0.clone();
        detached(async move { inner.reserve(name, home, intent).await })
    }

    fn reservations(&self, after: Option<AccountId>, limit: usize) -> Answer<'_, Vec<Arc<Entry>>> {
        self.read(move |copy| {
            let prefix = [records::RESERVATION];
            let start = after.map_or(prefix.to_vec(), |id| just_after(reservation_key(id)));
            copy.page(&prefix, start, limit, |read, key, value| {
                let (id, _) = records::decode_name_of_id(key, value)?;
                crate::change::by_id(read, id).map(Arc::new)
            })
        })
    }

    fn restore(&self, id: AccountId, name: AccountName, home: Home) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.restore(id, name.clone(), home))
    }

    fn activate(&self, id: AccountId) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.activate(id, AccountState::Active))
    }

    fn activate_login(&self, id: AccountId) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.activate(id, AccountState::LoginOnly))
    }

    fn set_verifier(&self, id: AccountId, verifier: Option<Verifier>) -> Answer<'_, Arc<Entry>> {
        self.change_entry(id, move |entry| {
            entry.verifier = verifier.clone();
            Ok(())
        })
    }

    fn set_state(&self, id: AccountId, state: AccountState) -> Answer<'_, Arc<Entry>> {
        self.change_entry(id, move |entry| match (entry.state, state) {
            (AccountState::Reserved { .. }, _) | (_, AccountState::Reserved { .. }) => {
                Err(DirectoryError::Refused(
                    "a reservation is activated or removed, and never made of an account",
                ))
            }
            _ => {
                entry.state = state;
                Ok(())
            }
        })
    }

    fn rename(&self, id: AccountId, to: AccountName) -> Answer<'_, Arc<Entry>> {
        self.change(move |change| change.rename(id, to.clone()))
    }

    fn remove(&self, id: AccountId) -> Answer<'_, ()> {
        self.change_in_steps(move |change| change.remove(id))
    }

    fn relocate(
        &self,
        id: AccountId,
        expected: (Home, Option<Moving>),
        to: (Home, Option<Moving>),
    ) -> Answer<'_, Arc<Entry>> {
        self.change_entry(id, move |entry| {
            let now = (entry.home, entry.moving);
            if now == to {
                // Asked again after a lost answer.
                return Ok(());
            }
            if now != expected {
                return Err(DirectoryError::HomeChanged(entry.home));
            }
            if to.0 != expected.0 && to.0.epoch <= expected.0.epoch {
                return Err(DirectoryError::Refused("the epoch of a home only rises"));
            }
            (entry.home, entry.moving) = to;
            Ok(())
        })
    }

    fn take_over(&self, id: AccountId, place: AccountName) -> Answer<'_, ()> {
        self.change_in_steps(move |change| change.take_over(id, &place))
    }

    fn alias<'a>(&'a self, name: &'a AliasName) -> Answer<'a, Option<Alias>> {
        Box::pin(async move {
            let key = alias_key(name);
            let found = self.0.whole()?.engine.get(Space::Directory, &key).map_err(unavailable)?;
            Ok(found.map(|value| decode_alias(&key, &value)).transpose()?)
        })
    }

    fn aliases(
        &self,
        domain: Option<String>,
        after: Option<AliasName>,
        limit: usize,
    ) -> Answer<'_, Vec<Alias>> {
        self.read(move |copy| {
            let prefix = domain.map_or(vec![alias::ALIAS], |domain| alias::domain_prefix(&domain));
            let start = after.map_or(prefix.clone(), |name| just_after(alias_key(&name)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(decode_alias(key, value)?))
        })
    }

    fn set_alias(&self, name: AliasName, targets: Vec<UserName>) -> Answer<'_, Alias> {
        match alias::checked(&name, targets) {
            Ok(targets) => self.change(move |change| change.put_alias(name.clone(), targets.clone())),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn remove_alias(&self, name: AliasName) -> Answer<'_, ()> {
        self.change(move |change| change.remove_alias(&name))
    }

    fn domains(&self, after: Option<String>, limit: usize) -> Answer<'_, Vec<Domain>> {
        self.read(move |copy| {
            let prefix = [records::DOMAIN];
            let start = after.map_or(prefix.to_vec(), |name| just_after(domain_key(&name)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(records::decode_domain(key, value)?))
        })
    }

    fn domain<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Domain>> {
        Box::pin(async move { crate::change::domain(&*self.0.whole()?.engine, name) })
    }

    fn add_domain(&self, name: String) -> Answer<'_, Domain> {
        self.change(move |change| change.add_domain(&name))
    }

    fn remove_domain(&self, name: String) -> Answer<'_, ()> {
        let inner = self.0.clone();
        detached(async move { inner.remove_domain(name).await })
    }

    fn default_domain(&self) -> Answer<'_, Option<Domain>> {
        Box::pin(async move {
            let snapshot = self.0.whole()?.engine.snapshot();
            match read_state(&*snapshot)?.default_domain {
                Some(name) => crate::change::domain(&*snapshot, &name),
                None => Ok(None),
            }
        })
    }

    fn set_default_domain(&self, name: String) -> Answer<'_, ()> {
        self.change(move |change| change.set_default_domain(&name))
    }

    fn groups(&self, domain: String, after: Option<String>, limit: usize) -> Answer<'_, Vec<Group>> {
        self.read(move |copy| {
            let prefix = records::groups_prefix(&domain);
            let start = after.map_or(prefix.clone(), |name| just_after(records::group_key(&domain, &name)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(records::decode_group(key, value)?))
        })
    }

    fn add_group(&self, domain: String, name: String) -> Answer<'_, Group> {
        self.change(move |change| change.add_group(&domain, &name))
    }

    fn remove_group(&self, domain: String, name: String) -> Answer<'_, ()> {
        self.change_in_steps(move |change| change.remove_group(&domain, &name))
    }

    fn members(
        &self,
        domain: String,
        group: String,
        after: Option<UserName>,
        limit: usize,
    ) -> Answer<'_, Vec<UserName>> {
        self.read(move |copy| {
            let group = records::group_name(&group).unwrap_or_default();
            let prefix = records::members_prefix(&domain, &group);
            let start = after.map_or(prefix.clone(), |user| just_after(records::member_key(&group, &user)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(records::decode_member(key, value)?.1))
        })
    }

    fn set_member(&self, group: String, user: UserName, is_member: bool) -> Answer<'_, ()> {
        self.change(move |change| change.set_member(&group, &user, is_member))
    }

    fn groups_of<'a>(&'a self, user: &'a UserName) -> Answer<'a, Vec<Box<str>>> {
        Box::pin(async move {
            let prefix = records::memberships_prefix(user);
            let group = |key: &[u8], value: &[u8]| Ok(records::decode_member(key, value)?.0);
            self.0.whole()?.page(&prefix, prefix.clone(), PAGE_MAX, |_, key, value| group(key, value))
        })
    }

    fn granted(
        &self,
        domain: String,
        to: Vec<Identifier>,
        shared: bool,
        limit: usize,
    ) -> Answer<'_, BTreeSet<MailboxId>> {
        Box::pin(
            async move { crate::published::granted(&*self.0.whole()?.engine, &domain, &to, shared, limit) },
        )
    }

    fn nodes(&self) -> Answer<'_, Vec<Node>> {
        self.read(|copy| known_nodes(copy, false))
    }

    fn removed_nodes(&self) -> Answer<'_, Vec<Node>> {
        self.read(|copy| known_nodes(copy, true))
    }

    fn put_node(&self, node: Node) -> Answer<'_, ()> {
        self.change(move |change| change.put_node(&node))
    }

    fn edit_node(&self, id: NodeId, edit: NodeEdit) -> Answer<'_, Node> {
        self.change(move |change| change.edit_node(id, &edit))
    }

    fn remove_node(&self, id: NodeId) -> Answer<'_, ()> {
        self.change(move |change| change.remove_node(id))
    }

    fn placements(&self) -> Answer<'_, Vec<(Box<str>, Placement)>> {
        self.read(|copy| {
            let prefix = [PLACEMENT];
            copy.page(&prefix, prefix.to_vec(), PAGE_MAX, |_, key, value| Ok(decode_placement(key, value)?))
        })
    }

    fn set_placement(&self, domain: String, placement: Option<Placement>) -> Answer<'_, ()> {
        self.change(move |change| change.put_placement(&domain, placement.as_ref()))
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.copy().revisions.subscribe()
    }

    fn barrier(&self) -> Answer<'_, u64> {
        Box::pin(async move {
            match &*self.0.kept() {
                Kept::Here(source) => {
                    // What was acknowledged is in it. A directory that cannot be read does not say what there is not.
                    read_state(&*source.copy().engine)?;
                    Ok(source.copy().position().unwrap_or_default().revision)
                }
                Kept::Elsewhere { follower, .. } => Ok(follower.barrier().await?.revision),
            }
        })
    }

    fn publish(&self, mailboxes: Vec<(MailboxId, Option<Published>)>) -> Answer<'_, ()> {
        let inner = self.0.clone();
        detached(async move {
            for step in mailboxes.chunks(PUBLISH_STEP) {
                inner.change(&|change: &mut Change<'_>| change.publish(step)).await?;
            }
            Ok(())
        })
    }

    fn published(&self, mailbox: MailboxId) -> Answer<'_, Option<Published>> {
        Box::pin(async move {
            let key = published_key(mailbox);
            let found = self.0.whole()?.engine.get(Space::Directory, &key).map_err(unavailable)?;
            Ok(found.map(|value| decode_published(&key, &value)).transpose()?)
        })
    }

    fn published_of(
        &self,
        account: AccountId,
        after: Option<MailboxId>,
        limit: usize,
    ) -> Answer<'_, Vec<Published>> {
        self.read(move |copy| {
            let prefix = published_prefix(account);
            let start = after.map_or(prefix.clone(), |mailbox| just_after(published_key(mailbox)));
            copy.page(&prefix, start, limit, |_, key, value| Ok(decode_published(key, value)?))
        })
    }
}

/// The nodes that were removed, or the others.
fn known_nodes(copy: &Copy, removed: bool) -> Result<Vec<Node>, DirectoryError> {
    let prefix = [records::NODE];
    let mut nodes =
        copy.page(&prefix, prefix.to_vec(), PAGE_MAX, |_, key, value| Ok(decode_node(key, value)?))?;
    nodes.retain(|node| node.removed == removed);
    Ok(nodes)
}
