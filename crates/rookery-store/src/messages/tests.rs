use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};

pub(crate) fn message(uid: u32, modseq: u64, flags: SystemFlags) -> Message {
    Message {
        uid: Uid::new(uid).unwrap(),
        size: uid * 3,
        modseq: ModSeq::new(modseq).unwrap(),
        date: InternalDate::from_unix(0),
        saved_unix_seconds: 0,
        flags,
        keywords: KeywordNumbers::default(),
        content: ContentId([0; 16]),
    }
}

type Model = BTreeMap<u32, Message>;

fn check(messages: &Messages, model: &Model) {
    let all: Vec<_> = messages.iter().map(|found| found.unwrap()).map(|(seq, m)| (seq.get(), m)).collect();
    let wanted: Vec<_> = model.values().cloned().enumerate().map(|(i, m)| (i as u32 + 1, m)).collect();
    assert_eq!(all, wanted);
    assert_eq!(messages.len(), model.len());
    let unseen = model.values().position(|m| !m.flags.contains(SystemFlags::SEEN)).map(|i| i as u32 + 1);
    assert_eq!(messages.first_unseen().unwrap().map(SeqNum::get), unseen);
    for (i, (uid, m)) in model.iter().enumerate().step_by(97) {
        assert_eq!(messages.get(i).unwrap().as_ref(), Some(m));
        assert_eq!(
            messages.by_uid(Uid::new(*uid).unwrap()).unwrap(),
            Some((SeqNum::new(i as u32 + 1).unwrap(), m.clone()))
        );
        let next = messages.iter_from(i).next().map(|found| found.unwrap());
        assert_eq!(next.map(|(seq, m)| (seq.get(), m)), Some((i as u32 + 1, m.clone())));
        let mut some = Vec::new();
        let places = i..(i + 150).min(model.len());
        messages.each(places.clone(), |seq, m| some.push((seq.get(), m.clone()))).unwrap();
        assert_eq!(some, wanted[places]);
    }
    assert_eq!(messages.get(model.len()).unwrap(), None);
    assert_eq!(messages.last_uid(), model.keys().last().copied().unwrap_or(0));
    let uids: Vec<u32> = messages.uids(0..messages.len()).unwrap().iter().collect();
    assert_eq!(uids, model.keys().copied().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Random steps against a map, and each difference against the naive one.
    #[test]
    fn versions_agree_with_a_map(
        start in 0usize..30_000,
        steps in proptest::collection::vec(proptest::collection::vec((1u32..50_000, 0u8..4), 1..40), 1..6)
    ) {
        let mut modseq = 1;
        let mut model: Model = (1..=start as u32).map(|uid| (uid, message(uid, 1, SystemFlags::SEEN))).collect();
        let mut uidnext = start as u32 + 1;
        let mut messages = Messages::from_sorted(model.values().cloned());
        for step in steps {
            modseq += 1;
            let mut changes: BTreeMap<u32, Option<Message>> = BTreeMap::new();
            for (uid, kind) in step {
                match kind {
                    0 => { changes.insert(uidnext, Some(message(uidnext, modseq, SystemFlags::NONE))); uidnext += 1; }
                    1 if model.contains_key(&uid) => { changes.insert(uid, None); }
                    _ if model.contains_key(&uid) => { changes.insert(uid, Some(message(uid, modseq, SystemFlags::FLAGGED))); }
                    _ => {}
                }
            }
            let before = (messages.clone(), model.clone());
            let list: Vec<_> = changes.into_iter().map(|(uid, m)| (Uid::new(uid).unwrap(), m)).collect();
            messages = messages.with(&list).unwrap();
            for (uid, change) in list {
                match change { Some(m) => { model.insert(uid.get(), m); } None => { model.remove(&uid.get()); } }
            }
            check(&messages, &model);
            let difference = before.0.difference(&messages).unwrap();
            let gone: Vec<_> = before.1.keys().enumerate().filter(|(_, uid)| !model.contains_key(uid)).map(|(i, uid)| (i as u32 + 1, *uid)).collect();
            prop_assert_eq!(difference.gone.iter().map(|(s, u)| (s.get(), u.get())).collect::<Vec<_>>(), gone);
            let changed: Vec<_> = model.values().filter(|m| before.1.get(&m.uid.get()).is_some_and(|o| o.modseq != m.modseq)).cloned().collect();
            prop_assert_eq!(&difference.changed, &changed);
            let last = before.1.keys().last().copied().unwrap_or(0);
            prop_assert_eq!(difference.arrived, model.keys().filter(|uid| **uid > last).count());
            // What somebody knows of before, made from what is there now.
            let uids: std::collections::BTreeSet<u32> = before.1.keys().chain(model.keys()).copied().collect();
            let differ = uids.iter().filter(|uid| before.1.get(uid) != model.get(uid));
            let told: Vec<_> = differ.map(|uid| (Uid::new(*uid).unwrap(), before.1.get(uid).cloned())).collect();
            let known = messages.as_told(modseq - 1, &told).unwrap();
            check(&known, &before.1);
            prop_assert_eq!(known.difference(&messages).unwrap(), difference);
        }
    }
}

#[test]
fn an_arrival_in_a_large_mailbox_copies_one_leaf() {
    let large = Messages::from_sorted((1..=1_000_000).map(|uid| message(uid, 1, SystemFlags::SEEN)));
    let newer = large
        .with(&[(Uid::new(1_000_001).unwrap(), Some(message(1_000_001, 2, SystemFlags::NONE)))])
        .unwrap();
    let old: HashSet<_> = large.leaves(0..large.0.branches.len()).map(|(_, leaf)| leaf.root()).collect();
    assert!(
        newer.leaves(0..newer.0.branches.len()).filter(|(_, leaf)| !old.contains(&leaf.root())).count() <= 1
    );
    assert_eq!(newer.first_unseen().unwrap().map(SeqNum::get), Some(1_000_001));
}
