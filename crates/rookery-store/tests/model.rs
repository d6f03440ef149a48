//! The store against a naive model: random operations, crashes at any moment, then everything is compared.
//!
//! After a loss of power each acknowledged operation must be there, and of the one that was under way either all or
//! nothing.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{
    Account, Annotation, AnnotationName, Appended, FlagChange, FlagList, Held, Limits, NewAccount,
    NewMessage, Store, StoreError, StoreOptions,
};
use rookery_types::{
    AccountId, InternalDate, Keyword, MailboxId, MailboxPath, OperationId, SystemFlags, Uid, UidSet, UserName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, PartialEq)]
struct ModelMessage {
    body: Vec<u8>,
    flags: u8,
    keywords: Vec<String>,
    /// Who has seen it, of those who are not the owner.
    seen_by: BTreeSet<&'static str>,
}

/// Users who read what is not theirs.
const READERS: [&str; 2] = ["kim@example.org", "lee@example.org"];

const SEEN: u8 = SystemFlags::SEEN.bits();

impl ModelMessage {
    /// Its flags as a user sees them; `None`: the owner.
    fn flags_for(&self, user: Option<&'static str>) -> u8 {
        match user {
            Some(user) => self.flags & !SEEN | if self.seen_by.contains(user) { SEEN } else { 0 },
            None => self.flags,
        }
    }

    /// The same message with other flags, as that user has set them.
    fn set_flags(&mut self, user: Option<&'static str>, flags: u8) {
        let Some(user) = user else { return self.flags = flags };
        self.flags = flags & !SEEN | self.flags & SEEN;
        match flags & SEEN != 0 {
            true => self.seen_by.insert(user),
            false => self.seen_by.remove(user),
        };
    }

    /// As it comes to a mailbox by that user, who sees it with these flags.
    fn coming(&self, user: Option<&'static str>, flags: u8) -> ModelMessage {
        let mut new = ModelMessage { flags: 0, seen_by: BTreeSet::new(), ..self.clone() };
        new.set_flags(user, flags);
        new
    }
}

impl std::fmt::Debug for ModelMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (octets, flags) = (self.body.len(), self.flags);
        write!(f, "{octets} octets, flags {flags:05b} {:?}, seen by {:?}", self.keywords, self.seen_by)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct ModelMailbox {
    uid_validity: u32,
    uid_next: u32,
    messages: BTreeMap<u32, ModelMessage>,
    highest_modseq: u64,
    /// The readers' own.
    own_modseqs: [u64; 2],
    /// It is a quota root; INBOX's limits are the account's.
    quota: Option<Limits>,
    annotations: BTreeMap<String, Vec<u8>>,
}

type Model = BTreeMap<String, ModelMailbox>;

/// The quota root of a name: the nearest mailbox with limits, or the account's, which is called INBOX.
fn root_of(model: &Model, name: &str) -> String {
    let mut at = name;
    loop {
        if model.get(at).is_some_and(|mailbox| mailbox.quota.is_some()) {
            return at.to_string();
        }
        match at.rsplit_once('/') {
            Some((above, _)) => at = above,
            None => return "INBOX".to_string(),
        }
    }
}

/// What each quota root holds.
fn held(model: &Model) -> BTreeMap<String, Held> {
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for (name, mailbox) in model {
        let octets = mailbox.messages.values().map(|m| m.body.len() as u64).sum();
        let here = Held { octets, messages: mailbox.messages.len() as u64 };
        let sum = held.entry(root_of(model, name)).or_default();
        *sum = sum.plus(here);
    }
    held
}

/// Whether a root would hold more than it may.
fn is_over(model: &Model, root: &str, held: Held) -> bool {
    let limits = model[root].quota.unwrap_or_default();
    limits.octets.is_some_and(|max| held.octets > max)
        || limits.messages.is_some_and(|max| held.messages > max)
}

/// Whether messages are too much for a mailbox.
fn too_much<'a>(model: &Model, name: &str, messages: impl Iterator<Item = &'a ModelMessage>) -> bool {
    let one = |m: &ModelMessage| Held { octets: m.body.len() as u64, messages: 1 };
    let more = messages.map(one).fold(Held::default(), Held::plus);
    let root = root_of(model, name);
    let now = held(model).get(&root).copied().unwrap_or_default();
    more.messages > 0 && is_over(model, &root, now.plus(more))
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }
}

fn options() -> StoreOptions {
    StoreOptions {
        background: None,
        volume_octets: 20_000,
        pack_octets_min: 5000,
        annotations_max: 3,
        retention: Duration::ZERO,
        ..StoreOptions::default()
    }
}

fn open(disk: &SimDisk) -> Result<Store, rookery_store::OpenError> {
    let engine = MemoryEngine::new(disk.clone());
    Store::open(options(), Arc::new(engine), Arc::new(disk.files()))
}

const ACCOUNT: u64 = 7;

fn account_id() -> AccountId {
    AccountId::new(ACCOUNT).unwrap()
}

/// What a reader has seen of a mailbox goes into the messages; tells the reader's HIGHESTMODSEQ. Whatever else the
/// store says of it must agree.
async fn seen_of(
    account: &Account,
    path: &MailboxPath,
    reader: &'static str,
    messages: &mut BTreeMap<u32, ModelMessage>,
) -> u64 {
    let account = account.clone().seen_by(&UserName::parse(reader, "").unwrap());
    let state = account.tree().state(account.tree().get(path).unwrap()).unwrap();
    let quick = account.summary_of(&state).await.expect("it is counted");
    let mailbox = account.open(state.id).await.expect("it opens");
    let (state, shared) = (mailbox.now(), state);
    assert_eq!((quick.unseen, quick.highest_modseq), (state.summary.unseen, state.summary.highest_modseq));
    let theirs = state.messages.as_ref().expect("an open mailbox has its messages");
    let mut first_unseen = None;
    let mut unseen = 0;
    for found in theirs.iter() {
        let (seq, message) = found.expect("it is read");
        assert!(message.modseq <= state.summary.highest_modseq, "{path}: a modseq above the highest");
        let known = messages.get_mut(&message.uid.get()).expect("all see the same messages");
        assert_eq!(message.flags.bits() & !SEEN, known.flags & !SEEN);
        if message.flags.contains(SystemFlags::SEEN) {
            known.seen_by.insert(reader);
        } else {
            unseen += 1;
            first_unseen = first_unseen.or(Some(seq));
        }
    }
    assert_eq!(state.summary.unseen, unseen, "{path}: what {reader} has not seen is counted");
    assert_eq!(theirs.first_unseen().expect("it is read"), first_unseen);
    assert!(state.summary.highest_modseq >= shared.summary.highest_modseq);
    state.summary.highest_modseq.get()
}

/// What the store says now, read back octet by octet.
async fn observed(store: &Store) -> Model {
    let account = store.account(account_id()).await.expect("the account is there");
    let mut model = Model::new();
    for (path, state) in account.tree().iter() {
        let mailbox = account.open(state.id).await.expect("it opens");
        let state = mailbox.now();
        let mut messages = BTreeMap::new();
        let mut unseen = 0;
        let mut octets = 0;
        for (_, message) in state
            .messages
            .as_ref()
            .expect("an open mailbox has its messages")
            .iter()
            .map(|found| found.expect("it is read"))
        {
            let body = account.read(message.content).expect("content is readable").to_vec();
            account.facts(message.content).expect("facts are readable");
            assert_eq!(body.len(), message.size as usize);
            let names = message.keywords.as_slice().iter();
            let keywords = names.map(|n| state.settings.keywords[usize::from(*n)].to_string()).collect();
            unseen += u32::from(!message.flags.contains(SystemFlags::SEEN));
            octets += u64::from(message.size);
            let (flags, seen_by) = (message.flags.bits(), BTreeSet::new());
            messages.insert(message.uid.get(), ModelMessage { body, flags, keywords, seen_by });
        }
        let mut own_modseqs = [0; 2];
        for (reader, own) in READERS.into_iter().zip(&mut own_modseqs) {
            *own = seen_of(&account, path, reader, &mut messages).await;
        }
        assert_eq!(state.summary.exists as usize, messages.len(), "{path}: the summary counts the messages");
        assert_eq!((state.summary.unseen, state.summary.octets), (unseen, octets), "{path}");
        let quota = account.quota_at(path).map(|quota| quota.limits);
        let annotations = account.annotations(Some(state.id), None).expect("annotations are readable");
        let annotations = annotations.into_iter().map(|(name, value)| (name, value.to_vec())).collect();
        model.insert(
            path.to_string(),
            ModelMailbox {
                uid_validity: state.settings.uid_validity.get(),
                uid_next: state.summary.uid_next,
                messages,
                highest_modseq: state.summary.highest_modseq.get(),
                own_modseqs,
                quota,
                annotations,
            },
        );
    }
    let usage = account.usage();
    let total: usize = model.values().flat_map(|m| m.messages.values()).map(|m| m.body.len()).sum();
    assert_eq!(usage.octets, total as u64, "the quota sum counts what is there");
    let held = held(&model);
    for quota in account.quotas() {
        let wanted = held.get(quota.path.as_str()).copied().unwrap_or_default();
        assert_eq!(quota.held, wanted, "{}: a quota root counts what it governs", quota.path);
    }
    model
}

fn without_modseq(model: &Model) -> Model {
    let mut model = model.clone();
    model.values_mut().for_each(|mailbox| (mailbox.highest_modseq, mailbox.own_modseqs) = (0, [0; 2]));
    model
}

/// Appends that had ids, and what they came to; nothing: that was not answered.
type Operations = Vec<(OperationId, Option<Appended>)>;

/// One random operation on the store, and the same on the model. Err: the store refused or crashed, and the second
/// model is what it would have been.
async fn step(
    store: &Store,
    rng: &mut Rng,
    model: &mut Model,
    operations: &mut Operations,
) -> Result<(), Box<Model>> {
    let account = store.account(account_id()).await.map_err(|_| Box::new(model.clone()))?;
    let names: Vec<String> = model.keys().cloned().collect();
    let name = names[rng.below(names.len() as u64) as usize].clone();
    let path = MailboxPath::new(&name).unwrap();
    let id = account.tree().get(&path).expect("the model's mailboxes exist");
    // By the owner, or by somebody else.
    let user = READERS.get(rng.below(4) as usize).copied();
    let account = match user {
        Some(user) => account.seen_by(&UserName::parse(user, "").unwrap()),
        None => account,
    };
    let mut next = model.clone();
    let pick = |rng: &mut Rng, mailbox: &ModelMailbox| -> UidSet {
        let mut set = UidSet::new();
        for uid in mailbox.messages.keys() {
            if rng.below(3) == 0 {
                set.insert(*uid);
            }
        }
        set.insert(mailbox.uid_next + 5);
        set
    };
    let failed = |next: Model| Err(Box::new(next));
    // Once nothing can be written, refusals go by changes that never came to be.
    let is_dead = || store.read_only_because().is_some();
    match rng.below(14) {
        0..=3 => {
            let count = 1 + rng.below(3);
            let mut new = Vec::new();
            for _ in 0..count {
                // Few bodies, so that contents are shared.
                let length = [0, 10, 300, 3000][rng.below(4) as usize] + rng.below(3);
                let body: Vec<u8> = (0..length).map(|i| b'a' + (i % 26) as u8).collect();
                let mut spool = store.spool();
                spool.push(&body).map_err(|_| Box::new(model.clone()))?;
                let flags = SystemFlags::from_bits(rng.below(32) as u8).unwrap();
                let keyword = format!("$k{}", rng.below(5));
                let mailbox = next.get_mut(&name).unwrap();
                let (keywords, seen_by) = (vec![keyword.clone()], BTreeSet::new());
                let mut message = ModelMessage { body, flags: 0, keywords, seen_by };
                message.set_flags(user, flags.bits());
                mailbox.messages.insert(mailbox.uid_next, message);
                mailbox.uid_next += 1;
                let body = spool.finish().map_err(|_| Box::new(model.clone()))?;
                let keywords = vec![Keyword::new(&keyword).unwrap()];
                new.push(NewMessage { body, flags, keywords, date: InternalDate::from_unix(1_000_000) });
            }
            let coming = next[&name].messages.range(model[&name].uid_next..).map(|(_, m)| m);
            let too_much = too_much(model, &name, coming);
            // Some have ids, and some of those come once more, which changes nothing.
            if let Some((known, Some(before))) = operations.last()
                && rng.below(4) == 0
            {
                match account.append_as(&[*known], id, new).await {
                    Ok(again) => assert_eq!(again, *before),
                    Err(_) => return failed(model.clone()),
                }
                return Ok(());
            }
            let operation = OperationId(
                [rng.next().to_le_bytes(), rng.next().to_le_bytes()].concat().try_into().unwrap(),
            );
            let ids = &[operation][..usize::from(rng.below(2) == 0)];
            match account.append_as(ids, id, new).await {
                Err(StoreError::OverQuota) => {
                    assert!(too_much || is_dead());
                    return Ok(());
                }
                Err(_) if too_much => return failed(model.clone()),
                Err(_) => {
                    operations.extend(ids.iter().map(|id| (*id, None)));
                    return failed(next);
                }
                Ok(appended) => {
                    operations.extend(ids.iter().map(|id| (*id, Some(appended.clone()))));
                    assert!(!too_much);
                }
            }
        }
        4 => {
            let uids = pick(rng, &model[&name]);
            let flags = SystemFlags::from_bits(rng.below(32) as u8).unwrap();
            let list = FlagList { flags, keywords: Vec::new() };
            let add = rng.below(2) == 0;
            for uid in uids.iter() {
                if let Some(message) = next.get_mut(&name).unwrap().messages.get_mut(&uid) {
                    let old = message.flags_for(user);
                    message.set_flags(user, if add { old | flags.bits() } else { old & !flags.bits() });
                }
            }
            let Ok(mailbox) = account.open(id).await else { return failed(model.clone()) };
            let change = if add { FlagChange::Add(list) } else { FlagChange::Remove(list) };
            if mailbox.store_flags(&uids, change, None).await.is_err() {
                return failed(next);
            }
        }
        5 => {
            let deleted = SystemFlags::DELETED.bits();
            next.get_mut(&name).unwrap().messages.retain(|_, m| m.flags & deleted == 0);
            let Ok(mailbox) = account.open(id).await else { return failed(model.clone()) };
            if mailbox.expunge(None).await.is_err() {
                return failed(next);
            }
        }
        6 | 7 => {
            let moving = rng.below(2) == 0;
            let target = names[rng.below(names.len() as u64) as usize].clone();
            let target_id = account.tree().get(&MailboxPath::new(&target).unwrap()).unwrap();
            let uids = pick(rng, &model[&name]);
            let chosen = model[&name].messages.iter().filter(|(uid, _)| uids.contains(**uid));
            let elsewhere = !moving || root_of(model, &name) != root_of(model, &target);
            let too_much = elsewhere && too_much(model, &target, chosen.map(|(_, m)| m));
            for uid in uids.iter().filter(|uid| model[&name].messages.contains_key(uid)) {
                let Some(message) = next[&name].messages.get(&uid).cloned() else { continue };
                if moving {
                    next.get_mut(&name).unwrap().messages.remove(&uid);
                }
                let to = next.get_mut(&target).unwrap();
                to.messages.insert(to.uid_next, message.coming(user, message.flags_for(user)));
                to.uid_next += 1;
            }
            let Ok(mailbox) = account.open(id).await else { return failed(model.clone()) };
            let result = match moving {
                true => mailbox.r#move(&uids, &account, target_id).await,
                false => mailbox.copy(&uids, &account, target_id).await,
            };
            match result {
                Err(StoreError::OverQuota) => {
                    assert!(too_much || is_dead());
                    return Ok(());
                }
                Err(_) if too_much => return failed(model.clone()),
                Err(_) => return failed(next),
                Ok(_) => assert!(!too_much),
            }
        }
        10 => {
            let target = names[rng.below(names.len() as u64) as usize].clone();
            let target_id = account.tree().get(&MailboxPath::new(&target).unwrap()).unwrap();
            let uid = 1 + rng.below(u64::from(model[&name].uid_next)) as u32;
            let body = vec![b'r'; 1 + rng.below(2000) as usize];
            let old = next.get_mut(&name).unwrap().messages.remove(&uid);
            if old.is_some() {
                let to = next.get_mut(&target).unwrap();
                let (flags, keywords, seen_by) = (0, Vec::new(), BTreeSet::new());
                let message = ModelMessage { body: body.clone(), flags, keywords, seen_by };
                to.messages.insert(to.uid_next, message);
                to.uid_next += 1;
            }
            let mut spool = store.spool();
            spool.push(&body).map_err(|_| Box::new(model.clone()))?;
            let body = spool.finish().map_err(|_| Box::new(model.clone()))?;
            let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1_000_000));
            let message = NewMessage { body, flags, keywords: Vec::new(), date };
            let Ok(_open) = account.open(id).await else { return failed(model.clone()) };
            match account.replace(target_id, message, (id, Uid::new(uid).unwrap())).await {
                Ok(appended) => assert_eq!(appended.is_some(), old.is_some()),
                // The new one is larger than the old one, or counts in another root.
                Err(StoreError::OverQuota) => return Ok(()),
                Err(_) => return failed(next),
            }
        }
        8 => {
            let below = ["", "/a", "/a/b"][rng.below(3) as usize];
            let new = MailboxPath::new(&format!("box{}{below}", rng.below(3))).unwrap();
            let result = account.create(&new, Vec::new()).await;
            match (&result, model.contains_key(new.as_str())) {
                (Ok(_), taken) => assert!(!taken),
                (Err(rookery_store::StoreError::AlreadyExists), taken) => assert!(taken),
                (Err(_), taken) => {
                    let fresh = ModelMailbox {
                        uid_validity: 0,
                        uid_next: 1,
                        messages: BTreeMap::new(),
                        highest_modseq: 1,
                        own_modseqs: [1; 2],
                        quota: None,
                        annotations: BTreeMap::new(),
                    };
                    if !taken {
                        next.insert(new.to_string(), fresh);
                    }
                    return failed(next);
                }
            }
            if let Ok(id) = result {
                let validity = account.tree().state(id).unwrap().settings.uid_validity.get();
                let fresh = ModelMailbox {
                    uid_validity: validity,
                    uid_next: 1,
                    messages: BTreeMap::new(),
                    highest_modseq: 1,
                    own_modseqs: [1; 2],
                    quota: None,
                    annotations: BTreeMap::new(),
                };
                next.insert(new.to_string(), fresh);
            }
        }
        11 => {
            let mut changes = Vec::new();
            let noted = &mut next.get_mut(&name).unwrap().annotations;
            for _ in 0..1 + rng.below(2) {
                let entry = format!("/shared/n{}", rng.below(4));
                let value = (rng.below(3) > 0).then(|| vec![b'v'; rng.below(50) as usize]);
                match &value {
                    Some(value) => drop(noted.insert(entry.clone(), value.clone())),
                    None => drop(noted.remove(&entry)),
                }
                let name = AnnotationName { owner: None, entry: entry.into() };
                changes.push(Annotation { name, value: value.map(Into::into) });
            }
            match account.annotate(Some(id), &changes, None).await {
                Err(StoreError::TooMany(_)) => {
                    assert!(noted.len() > 3 || is_dead());
                    return Ok(());
                }
                Err(_) if noted.len() > 3 => return failed(model.clone()),
                Err(_) => return failed(next),
                Ok(()) => {}
            }
        }
        // What the store does by itself, packing what is there among it, changes nothing.
        13 => {
            if store.tend_now().await.is_err() {
                return failed(next);
            }
        }
        9 => {
            let limits = Limits {
                octets: (rng.below(2) == 0).then(|| rng.below(20_000)),
                messages: (rng.below(2) == 0).then(|| rng.below(30)),
                mailboxes: None,
            };
            next.get_mut(&name).unwrap().quota = (limits != Limits::default()).then_some(limits);
            if account.set_quota(&path, limits).await.is_err() {
                return failed(next);
            }
        }
        _ => {
            if name == "INBOX" {
                return Ok(());
            }
            if rng.below(2) == 0 {
                next.remove(&name);
                if account.delete(id).await.is_err() {
                    return failed(next);
                }
            } else {
                // Sometimes below another root.
                let above = ["", "Sent/"][rng.below(2) as usize];
                let new = format!("{above}renamed{}", rng.below(20));
                let below = format!("{name}/");
                let moves = |one: &String| *one == name || one.starts_with(&below);
                let to = |one: &String| format!("{new}{}", &one[name.len()..]);
                if new.starts_with(&below)
                    || names.iter().filter(|one| moves(one)).any(|one| model.contains_key(&to(one)))
                {
                    return Ok(());
                }
                next = model
                    .iter()
                    .map(|(one, m)| (if moves(one) { to(one) } else { one.clone() }, m.clone()))
                    .collect();
                let before = held(model);
                let over = held(&next).into_iter().any(|(root, held)| {
                    let old = names.iter().find(|one| moves(one) && to(one) == root).unwrap_or(&root);
                    let had = before.get(old).copied().unwrap_or_default();
                    let limits = next[&root].quota.unwrap_or_default();
                    limits.octets.is_some_and(|max| held.octets > max && held.octets > had.octets)
                        || limits
                            .messages
                            .is_some_and(|max| held.messages > max && held.messages > had.messages)
                });
                match account.rename(&path, &MailboxPath::new(&new).unwrap()).await {
                    Err(StoreError::OverQuota) => {
                        assert!(over || is_dead());
                        return Ok(());
                    }
                    Err(_) if over => return failed(model.clone()),
                    Err(_) => return failed(next),
                    Ok(()) => assert!(!over),
                }
            }
        }
    }
    *model = next;
    Ok(())
}

async fn fresh(disk: &SimDisk) -> (Store, Model) {
    let store = open(disk).expect("an empty disk opens");
    let mailboxes = vec![(MailboxPath::inbox(), Vec::new()), (MailboxPath::new("Sent").unwrap(), Vec::new())];
    let owner = Some(UserName::parse("joe@example.org", "").unwrap());
    store.create_account(account_id(), NewAccount { mailboxes, owner, subscriptions: vec![] }).await.unwrap();
    let model = observed(&store).await;
    (store, model)
}

/// UIDs, UIDVALIDITYs and modseqs never go back.
fn assert_forward(before: &Model, after: &Model, seed: u64) {
    for (name, old) in before {
        let Some(new) = after.get(name).filter(|new| new.uid_validity == old.uid_validity) else { continue };
        assert!(new.uid_next >= old.uid_next, "seed {seed}: {name}: UIDNEXT went back");
        assert!(new.highest_modseq >= old.highest_modseq, "seed {seed}: {name}: HIGHESTMODSEQ went back");
        let own = old.own_modseqs.iter().zip(&new.own_modseqs);
        assert!(own.clone().all(|(old, new)| new >= old), "seed {seed}: {name}: a reader's went back");
    }
}

async fn life(seed: u64) {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let disk = SimDisk::new(seed);
    let (mut store, mut model) = fresh(&disk).await;
    let mut operations = Operations::new();
    for _ in 0..3 {
        disk.crash_after(rng.below(120));
        let mut other = model.clone();
        for _ in 0..60 {
            if let Err(next) = step(&store, &mut rng, &mut model, &mut operations).await {
                other = *next;
                break;
            }
            other = model.clone();
        }
        store.close().await;
        drop(store);
        disk.power_loss();
        store = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: the store does not open: {e:?}"));
        let seen = observed(&store).await;
        assert_forward(&model, &seen, seed);
        let (plain, wanted, or) = (without_modseq(&seen), without_modseq(&model), without_modseq(&other));
        let mut is_as_wanted = true;
        if plain != wanted {
            // What was under way may be there in whole; UIDs that were given may stay given.
            let lenient = |m: &Model| {
                let mut m = m.clone();
                m.values_mut().for_each(|mailbox| (mailbox.uid_next, mailbox.uid_validity) = (0, 0));
                m
            };
            let seen = lenient(&plain);
            is_as_wanted = seen == lenient(&wanted);
            assert!(
                seen == lenient(&or) || seen == lenient(&wanted),
                "seed {seed}:\nseen   {plain:?}\nwanted {wanted:?}\nor     {or:?}"
            );
        }
        let findings = rookery_store::check::check(&*store.engine_for_check(), Arc::new(disk.files()))
            .expect("check runs");
        assert!(findings.is_empty(), "seed {seed}: {findings:?}");
        let account = store.account(account_id()).await.unwrap();
        for (id, appended) in std::mem::take(&mut operations) {
            let settled = account.settle_operation(id).await.unwrap();
            match &appended {
                Some(_) => assert_eq!(settled, appended, "seed {seed}: what was answered is known"),
                None => assert_eq!(
                    settled.is_some(),
                    !is_as_wanted,
                    "seed {seed}: it is known whether it was done"
                ),
            }
            // That is so for good.
            assert_eq!(account.settle_operation(id).await.unwrap(), settled);
            operations.extend(appended.is_some().then_some((id, appended)));
        }
        drop(account);
        model = observed(&store).await;
    }
    store.close().await;
}

#[tokio::test]
async fn the_store_agrees_with_the_model_over_crashes() {
    let seeds: u64 = std::env::var("ROOKERY_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let first: u64 = std::env::var("ROOKERY_FIRST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds {
        life(seed).await;
    }
    println!("{seeds} seeds from {first}: every acknowledged change was there after each loss of power");
}

#[tokio::test]
async fn folding_and_reopening_change_nothing() {
    let disk = SimDisk::new(1);
    let (store, _) = fresh(&disk).await;
    let account = store.account(account_id()).await.unwrap();
    let inbox: MailboxId = account.tree().get(&MailboxPath::inbox()).unwrap();
    let mut spool = store.spool();
    spool.push(b"Subject: x\r\n\r\nbody\r\n").unwrap();
    let body = spool.finish().unwrap();
    let message = |flags| NewMessage {
        body: body.clone(),
        flags,
        keywords: Vec::new(),
        date: InternalDate::from_unix(5),
    };
    for _ in 0..30 {
        account.append(inbox, vec![message(SystemFlags::NONE); 100]).await.unwrap();
    }
    let mailbox = account.open(inbox).await.unwrap();
    let seen = FlagList { flags: SystemFlags::SEEN, keywords: Vec::new() };
    mailbox.store_flags(&UidSet::range(500, 700), FlagChange::Add(seen), None).await.unwrap();
    mailbox
        .store_flags(
            &UidSet::range(1, 10),
            FlagChange::Add(FlagList { flags: SystemFlags::DELETED, keywords: vec![] }),
            None,
        )
        .await
        .unwrap();
    assert_eq!(mailbox.expunge(None).await.unwrap(), UidSet::range(1, 10));
    let before = observed(&store).await;
    store.tend_now().await.unwrap();
    assert!(mailbox.now().summary.deltas < 1024);
    assert_eq!(observed(&store).await, before);
    drop(mailbox);
    store.close().await;
    let store = open(&disk).unwrap();
    assert_eq!(observed(&store).await, before);
    let account = store.account(account_id()).await.unwrap();
    let mailbox = account.open(inbox).await.unwrap();
    assert_eq!(mailbox.now().messages.as_ref().unwrap().len(), 2990);
    assert_eq!(mailbox.vanished_since(1).unwrap(), Some(UidSet::range(1, 10)));
    assert_eq!(
        mailbox.now().messages.as_ref().unwrap().by_uid(Uid::new(600).unwrap()).unwrap().unwrap().0.get(),
        590
    );
    let findings = rookery_store::check::check(&*store.engine_for_check(), Arc::new(disk.files())).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}

/// A failed write or sync is never acknowledged, and what was acknowledged before it stays.
async fn faulty_life(seed: u64) {
    use rookery_kv::sim::{Fault, OpKind};
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let disk = SimDisk::new(seed);
    let (store, mut model) = fresh(&disk).await;
    let mut operations = Operations::new();
    let kind = [OpKind::Write, OpKind::Sync, OpKind::Create, OpKind::SyncDirectory, OpKind::Commit]
        [rng.below(5) as usize];
    let fault = [Fault::Io, Fault::NoSpace, Fault::Short][rng.below(3) as usize];
    disk.fail_nth(kind, rng.below(15), fault);
    let mut others = vec![];
    for _ in 0..40 {
        if let Err(next) = step(&store, &mut rng, &mut model, &mut operations).await {
            others.push(*next);
            if store.read_only_because().is_some() {
                // Nothing is acknowledged any more.
                let mut copy = model.clone();
                let _ = step(&store, &mut rng, &mut copy, &mut operations).await;
                assert!(store.read_only_because().is_some());
                break;
            }
        }
    }
    store.close().await;
    drop(store);
    match rng.below(2) {
        0 => disk.process_crash(),
        _ => disk.power_loss(),
    }
    let store = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: the store does not open: {e:?}"));
    let seen = without_modseq(&observed(&store).await);
    let lenient = |m: &Model| {
        let mut m = without_modseq(m);
        m.values_mut().for_each(|mailbox| (mailbox.uid_next, mailbox.uid_validity) = (0, 0));
        m
    };
    let fits =
        lenient(&seen) == lenient(&model) || others.last().is_some_and(|or| lenient(&seen) == lenient(or));
    assert!(fits, "seed {seed} {kind:?} {fault:?}:\nseen   {seen:?}\nwanted {model:?}\nor     {others:?}");
    let findings = rookery_store::check::check(&*store.engine_for_check(), Arc::new(disk.files())).unwrap();
    assert!(findings.is_empty(), "seed {seed}: {findings:?}");
    store.close().await;
}

#[tokio::test]
async fn failing_writes_and_syncs_are_never_acknowledged() {
    for seed in 1..=300 {
        faulty_life(seed).await;
    }
}

#[tokio::test]
async fn an_engine_that_lost_its_end_is_refused() {
    let disk = SimDisk::new(3);
    let (store, _) = fresh(&disk).await;
    let account = store.account(account_id()).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    for n in 0..40 {
        let mut spool = store.spool();
        spool.push(format!("Subject: {n}\r\n\r\n").as_bytes()).unwrap();
        let body = spool.finish().unwrap();
        let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1));
        let new = NewMessage { body, flags, keywords: Vec::new(), date };
        account.append(inbox, vec![new]).await.unwrap();
    }
    drop(account);
    store.close().await;
    drop(store);
    disk.process_crash();
    assert!(disk.lose_suffix_of_durable(10) > 0);
    match open(&disk) {
        Err(rookery_store::OpenError::LostSuffix { engine, marked }) => assert!(engine < marked),
        Ok(_) => panic!("a store that lost acknowledged changes opened"),
        Err(error) => panic!("another error: {error:?}"),
    }
}

#[tokio::test]
async fn a_full_disk_takes_no_messages_and_lets_go_of_them() {
    let disk = SimDisk::new(4);
    let (store, _) = fresh(&disk).await;
    let account = store.account(account_id()).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let new = |body| NewMessage {
        body,
        flags: SystemFlags::DELETED,
        keywords: Vec::new(),
        date: InternalDate::from_unix(1),
    };
    let spool = |text: &[u8]| -> Result<_, rookery_store::StoreError> {
        let mut spool = store.spool();
        spool.push(text)?;
        spool.finish()
    };
    account.append(inbox, vec![new(spool(b"a: b\r\n\r\n").unwrap())]).await.unwrap();
    disk.set_full(true);
    store.tend_now().await.unwrap();
    assert!(matches!(spool(b"c: d\r\n\r\n"), Err(rookery_store::StoreError::NoSpace)));
    disk.set_full(false);
    store.tend_now().await.unwrap();
    account.append(inbox, vec![new(spool(b"c: d\r\n\r\n").unwrap())]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_get_different_uids_in_order() {
    let disk = SimDisk::new(5);
    let (store, _) = fresh(&disk).await;
    let account = store.account(account_id()).await.unwrap();
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let mailbox = account.open(inbox).await.unwrap();
    let mut tasks = Vec::new();
    for writer in 0..8 {
        let (store, account, mailbox) = (store.clone(), account.clone(), mailbox.clone());
        tasks.push(tokio::spawn(async move {
            let mut uids = Vec::new();
            for n in 0..50 {
                let mut spool = store.spool();
                spool.push(format!("Subject: {writer} {n}\r\n\r\n").as_bytes()).unwrap();
                let body = spool.finish().unwrap();
                let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1));
                let new = NewMessage { body, flags, keywords: Vec::new(), date };
                let uid = account.append(inbox, vec![new]).await.unwrap().uids[0];
                // Acknowledged is visible.
                assert!(mailbox.now().messages.as_ref().unwrap().by_uid(uid).unwrap().is_some());
                uids.push(uid);
            }
            uids
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        let uids = task.await.unwrap();
        assert!(uids.windows(2).all(|pair| pair[0] < pair[1]));
        all.extend(uids);
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), all.last().map(|uid| uid.get())), (400, Some(400)));
}

#[tokio::test]
async fn a_deleted_account_is_gone_at_once_and_its_space_is_won_back() {
    let disk = SimDisk::new(6);
    let (store, mut model) = fresh(&disk).await;
    let mut rng = Rng(9);
    for _ in 0..60 {
        step(&store, &mut rng, &mut model, &mut Operations::new()).await.expect("nothing fails here");
    }
    let account = store.account(account_id()).await.unwrap();
    store.delete_account(account_id()).await.unwrap();
    assert!(matches!(store.account(account_id()).await, Err(rookery_store::StoreError::NoAccount)));
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    let set = account.set_special_use(inbox, Vec::new()).await;
    assert!(
        matches!(set, Err(rookery_store::StoreError::NoAccount)),
        "a handle to it changes nothing either"
    );
    drop(account);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    store.tend_now().await.unwrap();
    store.close().await;
    drop(store);
    let store = open(&disk).unwrap();
    store.tend_now().await.unwrap();
    let engine = store.engine_for_check();
    for space in rookery_kv::engine::Space::ALL {
        let mut keys = 0;
        engine
            .scan(space, &[], None, false, &mut |_, _| {
                keys += 1;
                true
            })
            .unwrap();
        assert!(keys == 0 || space == rookery_kv::engine::Space::Meta, "{space:?} has {keys} keys left");
    }
    use rookery_kv::files::FileLayer;
    // One for what arrives and one for what is packed may be left.
    assert!(disk.files().list().unwrap().len() <= 2, "{:?}", disk.files().list());
    assert!(rookery_store::check::check(&*engine, Arc::new(disk.files())).unwrap().is_empty());
}
