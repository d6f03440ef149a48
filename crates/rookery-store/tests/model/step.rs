//! Random operations, each on the store and on the model.
//!
//! Invariant: what is done goes by the seed, the model and what the store answered before, never by a clock, so that a
//! seed repeats a life whole.

use crate::account_id;
use crate::naive::{Model, ModelMailbox, ModelMessage, READERS, held, root_of, too_much};
use rookery_store::{
    Annotation, AnnotationName, Appended, FlagChange, FlagList, Limits, NewMessage, Store, StoreError,
};
use rookery_types::{InternalDate, Keyword, MailboxPath, OperationId, SystemFlags, Uid, UidSet, UserName};
use std::collections::{BTreeMap, BTreeSet};

/// Numbers that one seed gives.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }
}

/// Appends that had ids, and what they came to; nothing: that was not answered.
pub(crate) type Operations = Vec<(OperationId, Option<Appended>)>;

/// One random operation on the store, and the same on the model. Err: the store refused or crashed, and the second
/// model is what it would have been.
pub(crate) async fn step(
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
                let mut spool = account.spool();
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
            let mut spool = account.spool();
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
