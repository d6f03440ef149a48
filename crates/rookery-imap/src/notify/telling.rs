//! Telling what has happened to the accounts that a client wants to hear of.

use super::{
    CHANGES_MAX, Filter, Notify, is_own, is_own_change, listed, overflow, put_status, subscriptions,
};
use crate::answer::{Failure, blocking};
use crate::session::User;
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::response::{ListAttribute, MetadataEntries};
use rookery_codec::imap::{Response, WireName};
use rookery_store::{Account, AnnotationName, Change, LogEntry, Tree};
use rookery_types::{AccountName, Address, MailboxId, MailboxPath, Rights, UserName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What has happened to one mailbox.
#[derive(Default)]
struct Happened {
    /// Somebody else did some of it.
    is_news: bool,
    messages: bool,
    flags: bool,
    created: bool,
    old: Option<MailboxPath>,
    annotations: BTreeSet<String>,
}

/// The changes, by the number of the mailbox. Of a mailbox that others have changed too, only their changes.
fn by_mailbox(entries: Vec<(LogEntry, bool)>, user: &UserName) -> BTreeMap<u32, Happened> {
    let mut all: BTreeMap<u32, Happened> = BTreeMap::new();
    let changes =
        entries.into_iter().flat_map(|(entry, own)| entry.changes.into_iter().map(move |one| (one, own)));
    for ((number, change), own) in changes {
        if matches!(&change, Change::Seen(who, _) if who != user) {
            continue;
        }
        let happened = all.entry(number).or_default();
        if own {
            continue;
        }
        happened.is_news = true;
        match change {
            Change::Arrived(_) | Change::Expunged(_) => happened.messages = true,
            Change::Flags(_) | Change::Seen(..) => happened.flags = true,
            Change::Created => happened.created = true,
            Change::Renamed(old) => {
                happened.old.get_or_insert(old);
            }
            Change::Annotations(names) => {
                let ours = |name: &AnnotationName| name.owner.as_ref().is_none_or(|owner| owner == user);
                let names = names.into_iter().filter(ours).map(|name| name.entry.into());
                happened.annotations.extend(names);
            }
            // Rights are compared with what was visible before, and names with the tree.
            Change::Settings | Change::Deleted => {}
        }
    }
    all
}

impl Notify {
    pub(super) async fn tell(
        &mut self,
        wire: &mut Wire,
        user: &User,
        selected: Option<MailboxId>,
    ) -> Result<(), Failure> {
        for at in 0..self.watched.len() {
            self.tell_account(wire, user, at, selected).await?;
        }
        self.tell_subscriptions(wire, user).await?;
        let now = user.services.store.server_annotations();
        if let Some((_, known)) = &mut self.server
            && !Arc::ptr_eq(&now, known)
        {
            let names = now.keys().chain(known.keys());
            let differ: BTreeSet<&String> = names.filter(|name| now.get(*name) != known.get(*name)).collect();
            put_metadata(wire, WireName::from(""), differ.into_iter().cloned());
            *known = now;
        }
        Ok(())
    }

    async fn tell_account(
        &mut self,
        wire: &mut Wire,
        user: &User,
        at: usize,
        selected: Option<MailboxId>,
    ) -> Result<(), Failure> {
        let Some(watched) = self.watched.get_mut(at) else { return Ok(()) };
        let until = *watched.changed.borrow_and_update();
        if until == watched.modseq {
            return Ok(());
        }
        let (account, since) = (watched.account.clone(), watched.modseq);
        watched.modseq = until;
        let reader = account.clone();
        let entries = blocking(move || reader.changes(since, until, CHANGES_MAX)).await??;
        let entries = entries.ok_or_else(overflow)?;
        // Every modseq has its entry.
        let entries = (since.saturating_add(1)..).zip(entries);
        let own = |modseq| is_own_change(&self.own, account.id(), modseq);
        let entries: Vec<(LogEntry, bool)> = entries.map(|(modseq, entry)| (entry, own(modseq))).collect();
        if entries.iter().any(|(entry, own)| entry.subscriptions && !own) && is_own(user, &account) {
            self.others_subscribed = true;
        }
        let happened = by_mailbox(entries, &user.name);
        let owner = watched.name.clone();
        let mut visible = std::mem::take(&mut watched.visible);
        let tree = account.tree();
        let renamed: Vec<MailboxPath> = happened.values().filter_map(|one| one.old.clone()).collect();
        let mut parents: BTreeSet<MailboxPath> = BTreeSet::new();
        for (number, happened) in happened {
            if number == 0 {
                if self.server.is_some() && is_own(user, &account) {
                    put_metadata(wire, WireName::from(""), happened.annotations);
                }
                continue;
            }
            let id = MailboxId { account: account.id(), number };
            let knew = visible.contains(number);
            let state = tree.state(id);
            let rights = state.as_ref().map_or(Rights::NONE, |state| user.rights(&account, state));
            let Some(state) = state.filter(|_| rights.contains(Rights::LOOKUP)) else {
                visible.remove(number);
                if knew && happened.is_news {
                    let reader = account.clone();
                    let path = blocking(move || reader.last_path(id)).await??;
                    self.tell_gone(wire, user, &account, &owner, path, &mut parents);
                }
                continue;
            };
            visible.insert(number);
            if !happened.is_news {
                continue;
            }
            let path = &state.settings.path;
            let Ok(address) = Address::new(owner.clone(), path.clone()) else { continue };
            let wanted = self.wanted(user, &account, &address);
            let name = user.names.wire(&user.names.show(&address));
            let old = happened.old.filter(|old| old != path && !happened.created && knew);
            if !knew {
                parents.extend(path.parent());
                if wanted.names {
                    wire.put(&listed(name.clone(), attributes(user, &tree, &address), None));
                }
            } else if let Some(old) = old
                && !renamed.iter().any(|above| old.is_below(above))
                && let Ok(old) = Address::new(owner.clone(), old)
                && (wanted.names || self.wanted(user, &account, &old).names)
            {
                let old = user.names.wire(&user.names.show(&old));
                wire.put(&listed(name.clone(), attributes(user, &tree, &address), Some(old)));
            }
            let unselected = Some(id) != selected && rights.contains(Rights::READ);
            if unselected && ((happened.messages && wanted.messages) || (happened.flags && wanted.flags)) {
                let modseq = user.enabled.condstore;
                put_status(wire, name.clone(), &account, &state, wanted.flags, modseq).await?;
            }
            if wanted.metadata && rights.contains(Rights::READ) {
                put_metadata(wire, name, happened.annotations);
            }
            wire.flush_if_full().await?;
        }
        self.tell_parents(wire, user, &account, &owner, parents);
        if let Some(watched) = self.watched.get_mut(at) {
            watched.visible = visible;
        }
        Ok(())
    }

    /// A mailbox that was deleted, or may not be looked up any more.
    fn tell_gone(
        &self,
        wire: &mut Wire,
        user: &User,
        account: &Account,
        owner: &AccountName,
        path: Option<MailboxPath>,
        parents: &mut BTreeSet<MailboxPath>,
    ) {
        let Some(path) = path else { return };
        // Another mailbox may have its name by now, and is told of by itself.
        let tree = account.tree();
        let known = tree.get(&path).and_then(|id| tree.state(id));
        if known.is_some_and(|state| user.rights(account, &state).contains(Rights::LOOKUP)) {
            return;
        }
        parents.extend(path.parent());
        let Ok(address) = Address::new(owner.clone(), path) else { return };
        if self.wanted(user, account, &address).names {
            let name = user.names.wire(&user.names.show(&address));
            wire.put(&listed(name, vec![ListAttribute::NonExistent], None));
        }
    }

    /// The names directly above what was made or deleted: they may have children now, or none any more.
    fn tell_parents(
        &self,
        wire: &mut Wire,
        user: &User,
        account: &Account,
        owner: &AccountName,
        parents: BTreeSet<MailboxPath>,
    ) {
        let tree = account.tree();
        for path in parents {
            let Ok(address) = Address::new(owner.clone(), path) else { continue };
            if self.wanted(user, account, &address).names {
                let known = tree.get(address.path()).and_then(|id| tree.state(id));
                let exists = known.is_some_and(|state| user.rights(account, &state).contains(Rights::LOOKUP));
                let mut attributes = attributes(user, &tree, &address);
                if !exists {
                    attributes.insert(0, ListAttribute::NonExistent);
                }
                let name = user.names.wire(&user.names.show(&address));
                wire.put(&listed(name, attributes, None));
            }
        }
    }

    async fn tell_subscriptions(&mut self, wire: &mut Wire, user: &User) -> Result<(), Failure> {
        let now = subscriptions(user);
        let others = std::mem::take(&mut self.others_subscribed);
        if !others && Arc::ptr_eq(&now, &self.subscriptions) {
            return Ok(());
        }
        // The client's own changes are told with the next of somebody else, so that none of those is missed.
        let before = match others {
            true => std::mem::replace(&mut self.told_subscriptions, now.clone()),
            false => now.clone(),
        };
        let names = now.keys().chain(before.keys());
        let differ: BTreeSet<&String> =
            names.filter(|name| now.contains_key(*name) != before.contains_key(*name)).collect();
        for canonical in differ {
            let Ok(address) = Address::parse(canonical) else { continue };
            let account = match address.account().user() == Some(&user.name) {
                true => user.own.clone(),
                false => {
                    let known = self.watched.iter().find(|watched| watched.name == *address.account());
                    known.map(|watched| watched.account.clone())
                }
            };
            let Some(seen_in) = account.as_ref().or(user.own.as_ref()) else { continue };
            if !self.wanted(user, seen_in, &address).subscriptions {
                continue;
            }
            let tree = account.as_ref().map(Account::tree).unwrap_or_default();
            let known = tree.get(address.path()).and_then(|id| tree.state(id));
            let exists = known
                .zip(account.as_ref())
                .is_some_and(|(state, account)| user.rights(account, &state).contains(Rights::LOOKUP));
            let mut attributes = attributes(user, &tree, &address);
            // Whether there is one at another home is not known here.
            if !exists && user.home_of(address.account()).await?.is_none() {
                attributes.insert(0, ListAttribute::NonExistent);
            }
            wire.put(&listed(user.names.wire(&user.names.show(&address)), attributes, None));
        }
        self.subscriptions = now;
        if self.groups.iter().any(|(filter, _)| matches!(filter, Filter::Subscribed)) {
            self.watch(user).await?;
        }
        Ok(())
    }
}

/// The attributes of a name, but whether it exists.
fn attributes(user: &User, tree: &Tree, address: &Address) -> Vec<ListAttribute> {
    let mut attributes = Vec::new();
    if subscriptions(user).contains_key(&address.to_string()) {
        attributes.push(ListAttribute::Subscribed);
    }
    attributes.push(match tree.has_children(address.path()) {
        true => ListAttribute::HasChildren,
        false => ListAttribute::HasNoChildren,
    });
    if let Some(state) = tree.get(address.path()).and_then(|id| tree.state(id)) {
        attributes.extend(state.settings.special_use.iter().map(|one| ListAttribute::SpecialUse(*one)));
    }
    attributes
}

fn put_metadata(wire: &mut Wire, mailbox: WireName, names: impl IntoIterator<Item = String>) {
    let names: Vec<Bytes> = names.into_iter().map(Bytes::from).collect();
    if !names.is_empty() {
        wire.put(&Response::Metadata { mailbox, entries: MetadataEntries::Changed(names) });
    }
}
