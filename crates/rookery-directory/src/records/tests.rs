use super::*;
use crate::node::{Node, encode_node};
use crate::renamed::Renamed;
use proptest::prelude::*;

fn any_entry() -> impl Strategy<Value = Entry> {
    let name = proptest::sample::select(vec![
        "user/joe@example.org",
        "team@example.org",
        "user/a.b@c-d.test",
        "überall@b.test",
        "user/jürgen@b.test",
    ]);
    let state = prop_oneof![
        any::<u64>().prop_map(|intent| AccountState::Reserved { intent }),
        Just(AccountState::Active),
        Just(AccountState::Suspended),
        Just(AccountState::Deleted),
        Just(AccountState::LoginOnly),
    ];
    let numbers = (1u64.., any::<u64>(), any::<[u8; 16]>(), any::<u64>(), any::<u64>());
    let moving = proptest::option::of((any::<u64>(), any::<u64>()));
    (name, state, numbers, moving, proptest::option::of(".{1,40}")).prop_map(
        |(name, state, (id, node, store, epoch, revision), moving, verifier)| Entry {
            id: AccountId::new(id).unwrap(),
            name: AccountName::parse(name).unwrap(),
            home: Home { node: NodeId(node), store: StoreId(store), epoch: Epoch(epoch) },
            moving: moving.map(|(node, job)| Moving { node: NodeId(node), job: JobId(job) }),
            state,
            verifier: verifier.map(|text| Verifier::new(&text).unwrap()),
            revision,
        },
    )
}

/// One record of every kind for an entry.
fn records(entry: &Entry) -> Vec<(Vec<u8>, Bytes)> {
    let account = account_key(&entry.name);
    let (id, reservation) = (id_key(entry.id), reservation_key(entry.id));
    let domain = Domain {
        name: entry.name.domain().into(),
        revision: entry.revision,
        closing: entry.state == AccountState::Active,
    };
    let node = Node { address: "[::1]:24".into(), version: "1.0".into(), ..Node::new(entry.home.node) };
    let position = Position { cluster: 7, term: 1, revision: entry.revision };
    let state = State {
        mark: u64::MAX,
        next_account: entry.id,
        default_domain: entry.verifier.as_ref().map(|_| domain.name.clone()),
    };
    let user = UserName::parse("joe", entry.name.domain()).unwrap();
    let group = Group {
        domain: domain.name.clone(),
        name: "domain users".into(),
        revision: entry.revision,
        members: 7,
    };
    let group_key = group_key(&group.domain, &group.name);
    let mailbox = MailboxId { account: entry.id, number: 3 };
    let grants = [Identifier::Anyone, Identifier::Group("staff".into()), Identifier::User(user.clone())];
    let empty = grants.iter().map(|to| grant_key(to, entry.name.domain(), true, mailbox).unwrap());
    let empty = empty.chain([member_key("staff", &user), membership_key("staff", &user)]);
    let empty: Vec<_> = empty.map(|key| (key.clone(), encode_empty(&key))).collect();
    let (domain_key, node_key) = (domain_key(&domain.name), node_key(node.id));
    let mut records = vec![
        (group_key.clone(), encode_group(&group_key, &group)),
        (account.clone(), encode_account(&account, entry)),
        (domain_key.clone(), encode_domain(&domain_key, &domain)),
        (id.clone(), encode_name(&id, &entry.name)),
        (node_key.clone(), encode_node(&node_key, &node)),
        (reservation.clone(), encode_name(&reservation, &entry.name)),
        (STATE_KEY.to_vec(), encode_state(&state)),
        (POSITION_KEY.to_vec(), encode_position(position)),
        (PUBLISHED_KEY.to_vec(), encode_complete()),
        crate::kinds::KindsRead::now([b'y', b'z'].into()).record(),
    ];
    records.extend(empty);
    let to = UserName::parse("jim", entry.name.domain()).unwrap();
    records.push(Renamed { number: entry.id.get(), from: user, to }.record());
    records
}

fn check(key: &[u8], value: &[u8]) -> Result<(), Damaged> {
    let kind = KINDS.iter().find(|kind| key.first() == Some(&kind.tag)).unwrap();
    (kind.check)(key, value)
}

proptest! {
    #[test]
    fn an_entry_reads_back(entry in any_entry()) {
        let key = account_key(&entry.name);
        prop_assert_eq!(decode_account(&key, &encode_account(&key, &entry)), Ok(entry.clone()));
        let key = id_key(entry.id);
        let value = encode_name(&key, &entry.name);
        prop_assert_eq!(decode_name_of_id(&key, &value), Ok((entry.id, entry.name)));
    }

    #[test]
    fn every_changed_octet_and_every_cut_is_found(entry in any_entry(), flip in 1u8..) {
        for (key, value) in records(&entry) {
            prop_assert_eq!(check(&key, &value), Ok(()));
            for at in 0..value.len() {
                let mut changed = value.to_vec();
                changed[at] ^= flip;
                prop_assert!(check(&key, &changed).is_err(), "{} at {at}", key.escape_ascii());
                prop_assert!(check(&key, &value[..at]).is_err());
            }
            for at in 1..key.len() {
                let mut elsewhere = key.clone();
                elsewhere[at] ^= flip;
                prop_assert!(check(&elsewhere, &value).is_err());
            }
        }
    }

    #[test]
    fn octets_do_no_harm(
        key in proptest::collection::vec(any::<u8>(), 0..20), value in proptest::collection::vec(any::<u8>(), 0..80)
    ) {
        for kind in KINDS.into_iter().filter(|kind| kind.tag != QUARANTINE) {
            let mut key = key.clone();
            prop_assert!((kind.check)(&key, &value).is_err());
            key.insert(0, kind.tag);
            // With a checksum that fits, so that the fields are looked at.
            for fields in [&value[..], &[&[LAYOUT], &value[..]].concat()] {
                let mut sealed = Encoder::new(LAYOUT);
                sealed.raw(fields);
                let _ = (kind.check)(&key, &sealed.seal(&key));
            }
        }
    }
}

#[test]
fn what_was_published_by_an_older_program_is_published_anew() {
    for (layout, complete) in [(1, Ok(false)), (2, Ok(false)), (3, Ok(true))] {
        let value = Encoder::new(layout).seal(PUBLISHED_KEY);
        assert_eq!(decode_complete(PUBLISHED_KEY, &value), complete);
    }
    assert!(decode_complete(PUBLISHED_KEY, &Encoder::new(4).seal(PUBLISHED_KEY)).is_err());
    assert!(decode_complete(PUBLISHED_KEY, &Encoder::new(0).seal(PUBLISHED_KEY)).is_err());
}

#[test]
fn the_octets_of_a_record_stay_as_they_are() {
    let name = AccountName::parse("user/joe@example.org").unwrap();
    let key = account_key(&name);
    assert_eq!(key, b"aexample.org\0ujoe");
    let entry = Entry {
        id: AccountId::new(300).unwrap(),
        name,
        home: Home { node: NodeId(7), store: StoreId([9; 16]), epoch: Epoch(1) },
        moving: None,
        state: AccountState::Active,
        verifier: Some(Verifier::new("$x").unwrap()),
        revision: 5,
    };
    let value = encode_account(&key, &entry);
    let fields = b"\x01\xac\x02\x07\0\0\0\0\0\0\0\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x01\x01\x02$x\x05";
    assert_eq!(value[..value.len() - 4], fields[..]);
    assert!(!format!("{entry:?}").contains("$x"));
}
