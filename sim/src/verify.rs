//! What must be true when the cluster has come to rest.

use crate::client::Client;
use crate::model::{AccountState, BoxState, State};
use crate::ops::{self, Answer, Fact, Place, Question, Work};
use crate::world::{Machine, World};
use bytes::Bytes;
use rookery_directory::{AccountState as EntryState, Directory, published};
use rookery_store::check::{check, homes};
use rookery_types::{AccountId, AccountName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What each node knows of an account.
fn states(world: &World, account: AccountId) -> String {
    let of = |machine: &Machine| {
        let live = machine.live()?;
        let record = live.store.account_record(account).ok()?;
        let state = record.map(|record| (record.state, record.epoch, record.incarnation));
        Some(format!("at node {} {state:?}, {:?}", machine.index, live.mover.status()))
    };
    world.machines.iter().filter_map(of).collect::<Vec<_>>().join(", ")
}

/// What is still under way; empty: nothing.
pub(crate) async fn restless(world: &World) -> String {
    let Ok(head) = rookery_directory::Source::head(world.model.source()).await else {
        return "the directory is away".to_owned();
    };
    for machine in &world.machines {
        let index = machine.index;
        let Some(live) = machine.live() else { return format!("node {index} is down") };
        if live.directory.position() != Some(head) {
            return format!(
                "node {index} has the directory at {:?} and not at {head:?}",
                live.directory.position()
            );
        }
        match live.store.departures() {
            Ok(left) if left.is_empty() => {}
            left => return format!("node {index} has moves under way: {left:?}"),
        }
        match live.mover.status() {
            Ok(left) if left.is_empty() => {}
            left => {
                let left = left.unwrap_or_default();
                let states: Vec<String> = left.iter().map(|job| states(world, job.account)).collect();
                return format!("node {index} has accounts under way: {left:?}, {}", states.join("; "));
            }
        }
        match published::outbox(&*live.engine) {
            Ok(left) if left.is_empty() => {}
            left => return format!("node {index} has not published {left:?}"),
        }
        match live.directory.reservations(None, 1000).await {
            Ok(left) if left.is_empty() => {}
            left => return format!("there are reservations: {left:?}"),
        }
    }
    String::new()
}

/// Compares everything with everything.
pub(crate) async fn verify(world: &Arc<World>, clients: &[Client]) {
    accounts(world, clients).await;
    copies(world).await;
    messages(world, clients).await;
    checks(world).await;
}

/// One home for each account, and directory and stores agree.
async fn accounts(world: &Arc<World>, clients: &[Client]) {
    let Some(first) = world.machines.first().and_then(|machine| machine.live()) else { return };
    let mut at_home: BTreeMap<AccountId, (usize, u64)> = BTreeMap::new();
    for machine in &world.machines {
        let Some(live) = machine.live() else { continue };
        match homes(&*live.engine) {
            Ok(found) => {
                for (id, record) in found {
                    if let Some((other, _)) = at_home.insert(id, (machine.index, record.epoch.0)) {
                        world.trace.wrong(format_args!(
                            "account {id} is at home at node {other} and at node {}",
                            machine.index
                        ));
                    }
                    match live.directory.by_id(id).await {
                        Ok(entry)
                            if entry.home.node == live.store.node() && entry.home.epoch == record.epoch => {}
                        Ok(entry) => world.trace.wrong(format_args!(
                            "node {} has account {id}, and the directory says {:?}",
                            machine.index, entry.home
                        )),
                        Err(error) => world.trace.wrong(format_args!(
                            "node {} has account {id}, which the directory does not know: {error}",
                            machine.index
                        )),
                    }
                }
            }
            Err(error) => world.trace.wrong(format_args!("node {}: {error}", machine.index)),
        }
    }
    let page = match first.directory.list(Default::default(), None, 1000).await {
        Ok(page) => page,
        Err(error) => return world.trace.wrong(format_args!("the directory cannot be listed: {error}")),
    };
    let mut names = BTreeSet::new();
    for entry in page.entries {
        if !at_home.contains_key(&entry.id) {
            world.trace.wrong(format_args!("{} has no home: {:?}", entry.name, entry.state));
        }
        if entry.state == EntryState::Active {
            names.insert(entry.name.to_string());
        }
    }
    for client in clients {
        for (name, state) in &client.known.accounts {
            let is_well = match state {
                AccountState::There => names.contains(name),
                AccountState::Absent => !names.contains(name),
                AccountState::Unknown => true,
            };
            if !is_well {
                world.trace.wrong(format_args!("{name} must be {state:?}"));
            }
        }
    }
}

/// Every node's copy of the directory is the directory.
async fn copies(world: &Arc<World>) {
    let truth = world.model.source().records();
    for machine in &world.machines {
        let Some(live) = machine.live() else { continue };
        let mut copied = BTreeMap::new();
        let read = live.directory.whole().and_then(|whole| {
            let mut next = Some(Bytes::new());
            while let Some(start) = next {
                let (records, behind) = whole.page(&start, 1000)?;
                copied.extend(records.into_iter().map(|record| (record.key, record.value)));
                next = behind;
            }
            Ok(())
        });
        if let Err(error) = read {
            world.trace.wrong(format_args!("node {}: the directory's copy: {error}", machine.index));
        }
        if copied != truth {
            let differs = truth.iter().filter(|(key, value)| copied.get(*key) != Some(value)).count();
            let more = copied.keys().filter(|key| !truth.contains_key(*key)).count();
            world.trace.wrong(format_args!(
                "node {}: {differs} records of the directory are not copied, {more} are there alone",
                machine.index
            ));
        }
    }
}

/// Each message is exactly where it must be.
async fn messages(world: &Arc<World>, clients: &[Client]) {
    let mut found: BTreeMap<u64, BTreeMap<Place, usize>> = BTreeMap::new();
    let mut keywords: BTreeMap<(u64, Place), BTreeSet<String>> = BTreeMap::new();
    let mut places = BTreeSet::new();
    for machine in &world.machines {
        let Some(live) = machine.live() else { continue };
        for (id, record) in homes(&*live.engine).unwrap_or_default() {
            let Ok(account) = live.store.account(id).await else { continue };
            let Some(owner) = record.owner else { continue };
            let name = AccountName::User(owner).to_string();
            let paths: Vec<String> = account.tree().iter().map(|(path, _)| path.to_string()).collect();
            for path in paths {
                let place = Place { account: name.clone(), path };
                let question = Question { place: place.clone(), work: Work::Read };
                let seen = match ops::at_home(&live, question).await {
                    Answer::Done(Fact { seen: Some(seen), .. }) => seen,
                    answer => {
                        world.trace.wrong(format_args!("{place} cannot be read: {answer:?}"));
                        continue;
                    }
                };
                world.observe(&place, &seen, &world.seen_so_far());
                for message in seen.messages {
                    let Some(token) = message.token else { continue };
                    *found.entry(token).or_default().entry(place.clone()).or_default() += 1;
                    keywords.insert((token, place.clone()), message.keywords.into_iter().collect());
                }
                places.insert(place);
            }
        }
    }
    let none = BTreeMap::new();
    for client in clients {
        for one in &client.known.instances {
            let there = found.get(&one.token).unwrap_or(&none);
            // If one of the accounts has moved they may have been at one home.
            let mut one = one.clone();
            if let State::Either(a, b) = &one.state
                && a.account != b.account
                && world.epochs(&a.account, &b.account) != one.epochs
            {
                one.state = State::Both(a.clone(), b.clone());
            }
            if let Some(what) = one.judge(there) {
                world.trace.wrong(format_args!("client {}: {what}", client.number));
            }
            if let (State::At(place), Some(expected)) = (&one.state, &one.keywords)
                && let Some(words) = keywords.get(&(one.token, place.clone()))
                && words != expected
            {
                world
                    .trace
                    .wrong(format_args!("message t{} at {place} has {words:?}, not {expected:?}", one.token));
            }
            // And nowhere else.
            for place in there.keys() {
                let is_known = client
                    .known
                    .instances
                    .iter()
                    .any(|other| other.token == one.token && other.state.places().contains(&place));
                if !is_known {
                    world
                        .trace
                        .wrong(format_args!("message t{} is at {place}, where nobody put it", one.token));
                }
            }
        }
        for own in &client.known.boxes {
            let is_there = places.contains(&own.place);
            let is_well = match own.state {
                BoxState::There => is_there,
                BoxState::Gone => !is_there,
                BoxState::Unknown => true,
            };
            if !is_well {
                world.trace.wrong(format_args!("{own:?}, and it is there: {is_there}"));
            }
        }
    }
}

/// Every store and every copy of the directory is sound, and all that is shared is published.
async fn checks(world: &Arc<World>) {
    let mut shared = BTreeMap::new();
    for machine in &world.machines {
        let Some(live) = machine.live() else { continue };
        let index = machine.index;
        match check(&*live.engine, Arc::new(machine.disk.files())) {
            Ok(findings) if findings.is_empty() => {}
            findings => world.trace.wrong(format_args!("node {index}: check finds {findings:?}")),
        }
        let snapshot = live.engine.snapshot();
        let mut damaged = Vec::new();
        let checked =
            rookery_directory::check::check(&*snapshot, &mut |fault| damaged.push(fault.to_string()));
        if checked.is_err() || !damaged.is_empty() {
            world.trace.wrong(format_args!("node {index}: the directory's check: {checked:?} {damaged:?}"));
        }
        let all = match rookery_store::check::shared_mailboxes(&*live.engine) {
            Ok(all) => all,
            Err(error) => {
                world.trace.wrong(format_args!("node {index}: {error}"));
                continue;
            }
        };
        for (mailbox, set) in all {
            let published =
                published::published_of(&*live.engine, mailbox, &set.path, &set.acl, &set.special_use);
            if let Ok(Some(published)) = published {
                shared.insert(mailbox, published);
            }
        }
    }
    for machine in &world.machines {
        let Some(live) = machine.live() else { continue };
        let mut published = BTreeMap::new();
        let Ok(page) = live.directory.list(Default::default(), None, 1000).await else { continue };
        for entry in page.entries {
            for one in live.directory.published_of(entry.id, None, 1000).await.unwrap_or_default() {
                published.insert(one.mailbox, one);
            }
        }
        if published != shared {
            world.trace.wrong(format_args!(
                "node {}: published is {:?}, and shared is {:?}",
                machine.index,
                published.keys(),
                shared.keys()
            ));
        }
    }
}
