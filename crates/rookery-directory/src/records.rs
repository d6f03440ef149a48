//! The records of the directory: their keys in [`Space::Directory`](rookery_kv::Space) and their values.
//!
//! | kind | key | value, after the layout number |
//! |---|---|---|
//! | account | `a` domain 00 (`s` or `u`) name | id, node, store, epoch, state, verifier, revision |
//! | id | `i` id, big-endian | canonical name |
//! | reservation | `r` id, big-endian | canonical name |
//! | domain | `d` domain | revision |
//! | node | `n` id, big-endian | address, version |
//! | state | `s` | revision, next account id, default domain |
//! | alias | `l` domain 00 local part | revision, targets |
//! | put aside | `q` and the key it had | what a repair took away, as it was |
//!
//! Every kind is in [`KINDS`], which whatever walks the whole directory goes by.

use crate::alias::{ALIAS, decode_alias};
use crate::encoding::{Damaged, Decoder, Encoder, open};
use crate::entry::{AccountState, Domain, Entry, Home, Node, Verifier};
use bytes::Bytes;
use rookery_types::{AccountId, AccountName, Address, Epoch, NodeId, SharedName, StoreId, UserName};

/// The layout number that all values of this version begin with.
pub(crate) const LAYOUT: u8 = 1;

/// One kind of record.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The first octet of its keys.
    pub tag: u8,
    /// Its name, for the operator.
    pub name: &'static str,
    /// Reads a record and forgets it: whether it is sound in itself.
    pub check: fn(&[u8], &[u8]) -> Result<(), Damaged>,
}

/// All kinds, by tag.
pub const KINDS: [Kind; 8] = [
    Kind { tag: ACCOUNT, name: "account", check: |key, value| decode_account(key, value).map(drop) },
    Kind { tag: DOMAIN, name: "domain", check: |key, value| decode_domain(key, value).map(drop) },
    Kind { tag: ID, name: "id", check: |key, value| decode_name_of_id(key, value).map(drop) },
    Kind { tag: ALIAS, name: "alias", check: |key, value| decode_alias(key, value).map(drop) },
    Kind { tag: NODE, name: "node", check: |key, value| decode_node(key, value).map(drop) },
    Kind { tag: QUARANTINE, name: "put aside", check: |_, _| Ok(()) },
    Kind {
        tag: RESERVATION,
        name: "reservation",
        check: |key, value| decode_name_of_id(key, value).map(drop),
    },
    Kind { tag: STATE, name: "state", check: |key, value| decode_state(key, value).map(drop) },
];

pub(crate) const ACCOUNT: u8 = b'a';
pub(crate) const DOMAIN: u8 = b'd';
pub(crate) const ID: u8 = b'i';
pub(crate) const NODE: u8 = b'n';
pub(crate) const QUARANTINE: u8 = b'q';
pub(crate) const RESERVATION: u8 = b'r';
pub(crate) const STATE: u8 = b's';

/// The key of the one state record.
pub(crate) const STATE_KEY: &[u8] = &[STATE];

/// What is known of the directory as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    /// Rises by one with every change.
    pub(crate) revision: u64,
    /// The next account's id.
    pub(crate) next_account: AccountId,
    pub(crate) default_domain: Option<Box<str>>,
}

/// The key of an account's record.
pub(crate) fn account_key(name: &AccountName) -> Vec<u8> {
    let (kind, text) = match name {
        AccountName::Shared(shared) => (b's', shared.root()),
        AccountName::User(user) => (b'u', user.local()),
    };
    let mut key = domain_prefix(name.domain());
    key.push(kind);
    key.extend_from_slice(text.as_bytes());
    key
}

/// What the keys of all accounts of a domain begin with. No domain has a NUL.
pub(crate) fn domain_prefix(domain: &str) -> Vec<u8> {
    let mut key = vec![ACCOUNT];
    key.extend_from_slice(domain.as_bytes());
    key.push(0);
    key
}

fn name_of_key(key: &[u8]) -> Option<AccountName> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(char::from(ACCOUNT))?;
    let (domain, name) = text.split_once('\0')?;
    let name = match (name.strip_prefix('u'), name.strip_prefix('s')) {
        (Some(local), _) if !local.contains('@') => AccountName::User(UserName::parse(local, domain).ok()?),
        (_, Some(root)) => AccountName::Shared(SharedName::new(root, domain).ok()?),
        _ => return None,
    };
    (account_key(&name) == key).then_some(name)
}

fn number_key(tag: u8, n: u64) -> Vec<u8> {
    let mut key = vec![tag];
    key.extend_from_slice(&n.to_be_bytes());
    key
}

fn number_of_key(tag: u8, key: &[u8]) -> Option<u64> {
    let (first, rest) = key.split_first()?;
    let number = <[u8; 8]>::try_from(rest).ok()?;
    (*first == tag).then_some(u64::from_be_bytes(number))
}

pub(crate) fn id_key(id: AccountId) -> Vec<u8> {
    number_key(ID, id.get())
}

pub(crate) fn reservation_key(id: AccountId) -> Vec<u8> {
    number_key(RESERVATION, id.get())
}

pub(crate) fn node_key(id: NodeId) -> Vec<u8> {
    number_key(NODE, id.0)
}

pub(crate) fn domain_key(name: &str) -> Vec<u8> {
    let mut key = vec![DOMAIN];
    key.extend_from_slice(name.as_bytes());
    key
}

pub(crate) fn encode_account(key: &[u8], entry: &Entry) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    e.varint(entry.id.get()).u64(entry.home.node.0).raw(&entry.home.store.0).varint(entry.home.epoch.0);
    match entry.state {
        AccountState::Reserved { intent } => e.u8(0).u64(intent),
        AccountState::Active => e.u8(1),
        AccountState::Suspended => e.u8(2),
        AccountState::Deleted => e.u8(3),
        AccountState::LoginOnly => e.u8(4),
    };
    e.text(entry.verifier.as_ref().map_or("", Verifier::as_str)).varint(entry.revision);
    e.seal(key)
}

pub(crate) fn decode_account(key: &[u8], value: &[u8]) -> Result<Entry, Damaged> {
    let name = name_of_key(key).ok_or_else(|| Damaged::new(key, "its key is no account's"))?;
    open(key, value, LAYOUT, |d| {
        Some(Entry {
            id: AccountId::new(d.varint()?)?,
            name,
            home: Home { node: NodeId(d.u64()?), store: StoreId(d.array()?), epoch: Epoch(d.varint()?) },
            state: account_state(d)?,
            verifier: match d.text()? {
                "" => None,
                text => Some(Verifier::new(text).ok()?),
            },
            revision: d.varint()?,
        })
    })
}

fn account_state(d: &mut Decoder<'_>) -> Option<AccountState> {
    match d.u8()? {
        0 => Some(AccountState::Reserved { intent: d.u64()? }),
        1 => Some(AccountState::Active),
        2 => Some(AccountState::Suspended),
        3 => Some(AccountState::Deleted),
        4 => Some(AccountState::LoginOnly),
        _ => None,
    }
}

/// For the kinds `id` and `reservation`.
pub(crate) fn encode_name(key: &[u8], name: &AccountName) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    e.text(&name.to_string());
    e.seal(key)
}

/// The id in the key and the name in the value, of the kinds `id` and `reservation`.
pub(crate) fn decode_name_of_id(key: &[u8], value: &[u8]) -> Result<(AccountId, AccountName), Damaged> {
    let id = number_of_key(ID, key).or_else(|| number_of_key(RESERVATION, key)).and_then(AccountId::new);
    let id = id.ok_or_else(|| Damaged::new(key, "its key has no account id"))?;
    open(key, value, LAYOUT, |d| {
        let text = d.text()?;
        let (name, _) = Address::parse(text).ok()?.into_parts();
        (name.to_string() == text).then_some((id, name))
    })
}

pub(crate) fn encode_domain(key: &[u8], domain: &Domain) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    e.varint(domain.revision);
    e.seal(key)
}

pub(crate) fn decode_domain(key: &[u8], value: &[u8]) -> Result<Domain, Damaged> {
    let name = key.strip_prefix(&[DOMAIN]).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.filter(|name| UserName::parse("x", name).is_ok_and(|user| user.domain() == *name));
    let name = name.ok_or_else(|| Damaged::new(key, "its key is no domain's"))?;
    open(key, value, LAYOUT, |d| Some(Domain { name: name.into(), revision: d.varint()? }))
}

pub(crate) fn encode_node(key: &[u8], node: &Node) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    e.text(&node.address).text(&node.version);
    e.seal(key)
}

pub(crate) fn decode_node(key: &[u8], value: &[u8]) -> Result<Node, Damaged> {
    let id = number_of_key(NODE, key).ok_or_else(|| Damaged::new(key, "its key is no node's"))?;
    open(key, value, LAYOUT, |d| {
        Some(Node { id: NodeId(id), address: d.text()?.into(), version: d.text()?.into() })
    })
}

pub(crate) fn encode_state(state: &State) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    e.varint(state.revision)
        .varint(state.next_account.get())
        .text(state.default_domain.as_deref().unwrap_or(""));
    e.seal(STATE_KEY)
}

pub(crate) fn decode_state(key: &[u8], value: &[u8]) -> Result<State, Damaged> {
    if key != STATE_KEY {
        return Err(Damaged::new(key, "its key is not the state's"));
    }
    open(key, value, LAYOUT, |d| {
        Some(State {
            revision: d.varint()?,
            next_account: AccountId::new(d.varint()?)?,
            default_domain: Some(d.text()?).filter(|name| !name.is_empty()).map(Box::from),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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
        (name, state, numbers, proptest::option::of(".{1,40}")).prop_map(
            |(name, state, (id, node, store, epoch, revision), verifier)| Entry {
                id: AccountId::new(id).unwrap(),
                name: AccountName::parse(name).unwrap(),
                home: Home { node: NodeId(node), store: StoreId(store), epoch: Epoch(epoch) },
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
        let domain = Domain { name: entry.name.domain().into(), revision: entry.revision };
        let node = Node { id: entry.home.node, address: "[::1]:24".into(), version: "1.0".into() };
        let state = State {
            revision: entry.revision,
            next_account: entry.id,
            default_domain: entry.verifier.as_ref().map(|_| domain.name.clone()),
        };
        let (domain_key, node_key) = (domain_key(&domain.name), node_key(node.id));
        vec![
            (account.clone(), encode_account(&account, entry)),
            (domain_key.clone(), encode_domain(&domain_key, &domain)),
            (id.clone(), encode_name(&id, &entry.name)),
            (node_key.clone(), encode_node(&node_key, &node)),
            (reservation.clone(), encode_name(&reservation, &entry.name)),
            (STATE_KEY.to_vec(), encode_state(&state)),
        ]
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
    fn the_octets_of_a_record_stay_as_they_are() {
        let name = AccountName::parse("user/joe@example.org").unwrap();
        let key = account_key(&name);
        assert_eq!(key, b"aexample.org\0ujoe");
        let entry = Entry {
            id: AccountId::new(300).unwrap(),
            name,
            home: Home { node: NodeId(7), store: StoreId([9; 16]), epoch: Epoch(1) },
            state: AccountState::Active,
            verifier: Some(Verifier::new("$x").unwrap()),
            revision: 5,
        };
        let value = encode_account(&key, &entry);
        let fields = b"\x01\xac\x02\x07\0\0\0\0\0\0\0\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x01\x01\x02$x\x05";
        assert_eq!(value[..value.len() - 4], fields[..]);
        assert!(!format!("{entry:?}").contains("$x"));
    }
}
