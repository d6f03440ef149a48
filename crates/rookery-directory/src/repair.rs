//! Repair of a directory that nobody uses: damaged records are put aside, and what is left is made to agree again
//! with itself and with the accounts that the store has.
//!
//! Invariants:
//! - Nothing is destroyed: a record that is taken away stands under `q` and its old key, with its octets as they
//!   were.
//! - An account that the store has is in the directory afterwards, under its own name where any record still says
//!   it. A lost verifier does not come back: the password has to be set again.
//! - Everything is one batch, and a second check finds nothing.

use crate::DirectoryError;
use crate::change::unavailable;
use crate::encoding::Damaged;
use crate::entry::{AccountState, Domain, Entry, Group, Home};
use crate::records::{self, KINDS, QUARANTINE, State};
use crate::source::Position;
use rookery_kv::{Batch, Engine, Space};
use rookery_types::{AccountId, AccountName, SharedName, UserName};
use std::collections::{BTreeMap, BTreeSet};

/// How far beyond what is seen a lost counter begins again.
const JUMP: u64 = 1 << 20;

/// An account that a store has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its id.
    pub id: AccountId,
    /// Its name, if the store knows it: that of its user.
    pub name: Option<AccountName>,
    /// Where it is.
    pub home: Home,
}

/// A record that was not as it should be, and what became of it. The texts are for the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mended {
    /// What was found.
    pub finding: String,
    /// What was done.
    pub outcome: String,
}

/// Makes the directory in `engine` whole again. `stored` are the accounts of the stores whose homes the directory
/// keeps; `domain` is the default domain if no record says which it was.
pub fn repair(engine: &dyn Engine, stored: &[Stored], domain: &str) -> Result<Vec<Mended>, DirectoryError> {
    let mut repair = Repair { batch: Batch::new(), mended: Vec::new() };
    let mut found = repair.sort(engine)?;
    repair.accounts(&mut found, stored, domain);
    repair.names(&found);
    repair.domains(&mut found, stored, domain);
    repair.groups(&found);
    if !repair.batch.is_empty() {
        engine.commit(repair.batch).map_err(unavailable)?;
    }
    Ok(repair.mended)
}

/// The sound records.
#[derive(Default)]
struct Found {
    accounts: BTreeMap<AccountName, Entry>,
    ids: BTreeMap<AccountId, AccountName>,
    reservations: BTreeMap<AccountId, AccountName>,
    domains: BTreeSet<Box<str>>,
    groups: BTreeMap<(Box<str>, Box<str>), Group>,
    /// Group and user, as the group says and as the user says.
    members: BTreeSet<(Box<str>, UserName)>,
    memberships: BTreeSet<(Box<str>, UserName)>,
    state: Option<State>,
    /// Of the position, or of a state that had one.
    revision: Option<u64>,
    position: Option<Position>,
    /// The state is that of a program that had no positions.
    has_old_state: bool,
    /// The changes in the log.
    logged: BTreeSet<u64>,
}

struct Repair {
    batch: Batch,
    mended: Vec<Mended>,
}

impl Repair {
    fn note(&mut self, key: &[u8], what: &'static str, outcome: impl Into<String>) {
        self.mended.push(Mended { finding: Damaged::new(key, what).to_string(), outcome: outcome.into() });
    }

    fn put_aside(&mut self, key: &[u8], value: &[u8], what: Damaged) {
        let aside = [&[QUARANTINE], key].concat();
        let outcome = format!("put aside under {}", aside.escape_ascii());
        self.batch.put(Space::Directory, aside, value.to_vec());
        self.batch.delete(Space::Directory, key.to_vec());
        self.mended.push(Mended { finding: what.to_string(), outcome });
    }

    /// Reads everything; what is damaged in itself is put aside.
    fn sort(&mut self, engine: &dyn Engine) -> Result<Found, DirectoryError> {
        let mut found = Found::default();
        let scanned = engine.snapshot().scan(Space::Directory, b"", None, false, &mut |key, value| {
            if let Err(damaged) = take(&mut found, key, value) {
                self.put_aside(key, value, damaged);
            }
            true
        });
        scanned.map_err(unavailable)?;
        Ok(found)
    }

    /// One entry for each id, and one for each account that the store has.
    fn accounts(&mut self, found: &mut Found, stored: &[Stored], domain: &str) {
        let mut by_id: BTreeMap<AccountId, AccountName> = BTreeMap::new();
        for entry in found.accounts.clone().into_values() {
            let Some(other) = by_id.get(&entry.id).and_then(|name| found.accounts.get(name)).cloned() else {
                by_id.insert(entry.id, entry.name);
                continue;
            };
            // Which of two has the id is said by the record of the id, and else by the later change.
            let named = found.ids.get(&entry.id);
            let newer =
                named == Some(&entry.name) || named != Some(&other.name) && entry.revision > other.revision;
            let (kept, loser) = if newer { (entry, other) } else { (other, entry) };
            let key = records::account_key(&loser.name);
            let value = records::encode_account(&key, &loser);
            self.put_aside(&key, &value, Damaged::new(&key, "its id is another account's"));
            found.accounts.remove(&loser.name);
            by_id.insert(kept.id, kept.name);
        }
        for account in stored {
            if by_id.contains_key(&account.id) {
                continue;
            }
            let known = found.ids.get(&account.id).or(found.reservations.get(&account.id)).cloned();
            let free = |name: &AccountName| !found.accounts.contains_key(name);
            let name = known.filter(free).or(account.name.clone().filter(free));
            let Some(name) = name.or_else(|| recovered(account.id, domain).filter(free)) else { continue };
            let key = records::account_key(&name);
            let entry = Entry {
                id: account.id,
                name: name.clone(),
                home: account.home,
                moving: None,
                state: AccountState::Active,
                verifier: None,
                revision: 0,
            };
            self.put(&key, records::encode_account(&key, &entry));
            let outcome = match name {
                AccountName::User(_) => "made anew from the store; its password has to be set again",
                AccountName::Shared(_) => "made anew from the store",
            };
            self.note(&key, "the store has this account, and the directory does not", outcome);
            found.accounts.insert(name, entry);
        }
    }

    /// The records that say which name an id has, and which accounts are reserved.
    fn names(&mut self, found: &Found) {
        let mut ids = found.ids.clone();
        let mut reservations = found.reservations.clone();
        for entry in found.accounts.values() {
            let reserved = entry.state.is_unfinished();
            let wanted = [
                (records::id_key(entry.id), ids.remove(&entry.id), true),
                (records::reservation_key(entry.id), reservations.remove(&entry.id), reserved),
            ];
            for (key, said, is_wanted) in wanted {
                match said {
                    Some(name) if is_wanted && name == entry.name => {}
                    Some(name) if !is_wanted => self.drop_name(&key, &name),
                    None if !is_wanted => {}
                    _ => {
                        self.put(&key, records::encode_name(&key, &entry.name));
                        self.note(&key, "it does not name its account", "made anew from the account");
                    }
                }
            }
        }
        let lost = ids.iter().map(|(id, name)| (records::id_key(*id), name));
        let lost = lost.chain(reservations.iter().map(|(id, name)| (records::reservation_key(*id), name)));
        lost.for_each(|(key, name)| self.drop_name(&key, name));
    }

    fn drop_name(&mut self, key: &[u8], name: &AccountName) {
        let what = Damaged::new(key, "no account has this id, or it is not reserved");
        self.put_aside(key, &records::encode_name(key, name), what);
    }

    /// A record for each domain that an account is in, and the numbers of the directory as a whole.
    fn domains(&mut self, found: &mut Found, stored: &[Stored], default_domain: &str) {
        let revision = found.accounts.values().map(|entry| entry.revision).max().unwrap_or(0);
        let state = found.state.clone();
        let default = state.as_ref().and_then(|state| state.default_domain.clone());
        let default = default.unwrap_or_else(|| default_domain.into());
        let used = found.accounts.keys().map(|name| Box::from(name.domain()));
        let used: BTreeSet<Box<str>> = used.chain([default.clone()]).collect();
        if found.accounts.is_empty() && found.domains.is_empty() && state.is_none() {
            return; // A directory that was never used.
        }
        for name in used {
            if found.domains.insert(name.clone()) {
                let key = records::domain_key(&name);
                self.put(&key, records::encode_domain(&key, &Domain { name, revision, closing: false }));
                self.note(&key, "the domain is in use and has no record", "made anew");
            }
        }
        let ids =
            found.accounts.values().map(|entry| entry.id).chain(stored.iter().map(|account| account.id));
        let last = ids.map(AccountId::get).max().unwrap_or(0);
        self.position(found, revision);
        if state
            .as_ref()
            .is_some_and(|state| state.next_account.get() > last && state.default_domain.is_some())
        {
            return;
        }
        // Ids beyond what is seen may have been given: those of accounts that are gone.
        let known = state.unwrap_or(State { next_account: AccountId::FIRST, mark: 0, default_domain: None });
        let next = known.next_account.get().max(last).saturating_add(JUMP);
        let state = State {
            next_account: AccountId::new(next).unwrap_or(known.next_account),
            mark: known.mark,
            default_domain: Some(default),
        };
        self.put(records::STATE_KEY, records::encode_state(&state));
        self.note(records::STATE_KEY, "it is missing or behind", "made anew, far beyond all numbers seen");
    }

    /// Revisions beyond what is seen may have been given, and seen by others.
    fn position(&mut self, found: &Found, seen: u64) {
        let newest = seen.max(found.logged.last().copied().unwrap_or(0));
        let mut revision = found.revision;
        if found.position.is_none() && !found.has_old_state
            || revision.is_none_or(|revision| revision < newest)
        {
            let known = found.position.unwrap_or(Position { cluster: rand::random(), term: 1, revision: 0 });
            let beyond = known.revision.max(newest).saturating_add(JUMP);
            let key = records::POSITION_KEY;
            self.put(key, records::encode_position(Position { revision: beyond, ..known }));
            self.note(key, "it is missing or behind", "made anew, far beyond all numbers seen");
            revision = Some(beyond);
        }
        // Followers read all of it again when the log does not lead up to the position.
        let contiguous = found.logged.iter().zip(found.logged.iter().skip(1)).all(|(a, b)| a + 1 == *b);
        if found.logged.is_empty() || contiguous && found.logged.last().copied() == revision {
            return;
        }
        for revision in &found.logged {
            self.batch.delete(Space::Directory, records::number_key(records::LOGGED, *revision));
        }
        self.note(
            &[records::LOGGED],
            "the change log has gaps",
            "forgotten; whoever follows reads all again",
        );
    }

    /// Whoever either record says is in a group is in it.
    fn groups(&mut self, found: &Found) {
        let mut counts: BTreeMap<(Box<str>, Box<str>), u64> =
            found.groups.keys().map(|key| (key.clone(), 0)).collect();
        for (group, user) in found.members.union(&found.memberships) {
            let member = (group.clone(), user.clone());
            for (known, key) in [
                (&found.members, records::member_key(group, user)),
                (&found.memberships, records::membership_key(group, user)),
            ] {
                if !known.contains(&member) {
                    self.put(&key, records::encode_empty(&key));
                    self.note(&key, "the group and its members disagree", "made anew from the other record");
                }
            }
            *counts.entry((user.domain().into(), group.clone())).or_default() += 1;
        }
        let revision = found.revision.unwrap_or(0);
        for ((domain, name), members) in counts {
            let known = found.groups.get(&(domain.clone(), name.clone()));
            if known.is_some_and(|group| group.members == members) {
                continue;
            }
            let key = records::group_key(&domain, &name);
            let revision = known.map_or(revision, |group| group.revision);
            self.put(&key, records::encode_group(&key, &Group { domain, name, revision, members }));
            self.note(&key, "it counts other members than there are", "made anew from its members");
        }
    }

    fn put(&mut self, key: &[u8], value: bytes::Bytes) {
        self.batch.put(Space::Directory, key.to_vec(), value);
    }
}

/// The name of an account that no record names any more.
fn recovered(id: AccountId, domain: &str) -> Option<AccountName> {
    SharedName::new(&format!("recovered-{id}"), domain).ok().map(AccountName::Shared)
}

fn take(found: &mut Found, key: &[u8], value: &[u8]) -> Result<(), Damaged> {
    let tag = key.first().copied().unwrap_or(0);
    match tag {
        records::ACCOUNT => {
            let entry = records::decode_account(key, value)?;
            found.accounts.insert(entry.name.clone(), entry);
        }
        records::ID | records::RESERVATION => {
            let (id, name) = records::decode_name_of_id(key, value)?;
            match tag {
                records::ID => found.ids.insert(id, name),
                _ => found.reservations.insert(id, name),
            };
        }
        records::DOMAIN => drop(found.domains.insert(records::decode_domain(key, value)?.name)),
        records::GROUP => {
            let group = records::decode_group(key, value)?;
            found.groups.insert((group.domain.clone(), group.name.clone()), group);
        }
        records::MEMBER => drop(found.members.insert(records::decode_member(key, value)?)),
        records::MEMBERSHIP => drop(found.memberships.insert(records::decode_member(key, value)?)),
        records::STATE => {
            let (state, revision) = records::decode_state(key, value)?;
            found.state = Some(state);
            found.revision = found.revision.or(revision);
            found.has_old_state = revision.is_some();
        }
        records::POSITION => {
            let position = records::decode_position(key, value)?;
            found.position = Some(position);
            found.revision = Some(position.revision);
        }
        records::LOGGED => drop(found.logged.insert(crate::change_log::decode_logged(key, value)?.0)),
        _ => match KINDS.iter().find(|kind| kind.tag == tag) {
            Some(kind) => (kind.check)(key, value)?,
            None => return Err(Damaged::new(key, "no kind of record has this key")),
        },
    }
    Ok(())
}
