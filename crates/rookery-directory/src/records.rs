//! The records of the directory: their keys in [`Space::Directory`](rookery_kv::Space) and their values.
//!
//! **Primary** records are what the directory's source holds. Keys and values are the same octets in the source and
//! in each node's copy.
//!
//! | kind | key | value, after the layout number |
//! |---|---|---|
//! | account | `a` domain 00 (`s` or `u`) name | id, node, store, epoch, state, verifier, revision |
//! | domain | `d` domain | revision; in layout 2 also that it is being removed |
//! | group | `g` domain 00 name | revision, members |
//! | alias | `l` domain 00 local part | revision, targets |
//! | member | `m` domain 00 group 00 local part | |
//! | node | `n` id, big-endian | name, addresses, duties, version, store, load, tags |
//! | published mailbox | `p` account, mailbox, big-endian | owner, domain, path, ACL; in layout 2 also what it is for |
//! | state | `s` | next account id, mark, default domain |
//! | placement | `x` domain | names and tags of nodes |
//!
//! **Derived** records are computed from one primary record each, by [`crate::derive`]. Only copies have them.
//!
//! | kind | key | value, after the layout number |
//! |---|---|---|
//! | id | `i` id, big-endian | canonical name |
//! | membership | `o` domain 00 local part 00 group | |
//! | reservation | `r` id, big-endian | canonical name |
//! | grant | `v` whom 00 (`s` or `u`) account, mailbox, big-endian | |
//!
//! **Local** records are a node's own.
//!
//! | kind | key | value, after the layout number |
//! |---|---|---|
//! | change log | `e` revision, big-endian | keys with what was written to them: of the embedded source |
//! | position | `t` | how far the copy is: cluster, term, revision |
//! | kinds read | `k` | the primary kinds that the copy was read with, and those that were left out |
//! | starts | `b` | how often the node has started |
//! | outbox | `u` account, mailbox, big-endian | what is to be published of a mailbox of this store |
//! | published | `w` | that the mailboxes of this node's store are published |
//! | renamed | `c` number, big-endian | a user's name before and after, which the node's store has to follow |
//! | put aside | `q` and the key it had | what a repair took away, as it was |
//!
//! Every kind is in [`KINDS`], which whatever walks the whole directory goes by.

use crate::alias::{ALIAS, decode_alias};
use crate::change_log::decode_logged;
use crate::encoding::{Damaged, Decoder, Encoder, layout_of, open};
use crate::entry::{AccountState, Domain, Entry, Group, Home, Moving, Verifier};
use crate::kinds::decode_kinds_read;
use crate::node::decode_node;
use crate::placement::{PLACEMENT, decode_placement};
use crate::published::{decode_outbox, decode_published};
use crate::renamed::decode_renamed;
use crate::source::Position;
use crate::turn::{TURN, decode_turn};
use bytes::Bytes;
use rookery_types::{
    AccountId, AccountName, Address, Epoch, Identifier, JobId, MailboxId, NodeId, SharedName, StoreId,
    UserName,
};

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
pub const KINDS: [Kind; 22] = [
    Kind { tag: ACCOUNT, name: "account", check: |key, value| decode_account(key, value).map(drop) },
    Kind { tag: BOOT, name: "starts", check: |key, value| decode_boot(key, value).map(drop) },
    Kind { tag: RENAMED, name: "renamed", check: |key, value| decode_renamed(key, value).map(drop) },
    Kind { tag: DOMAIN, name: "domain", check: |key, value| decode_domain(key, value).map(drop) },
    Kind { tag: TURN, name: "turn", check: |key, value| decode_turn(key, value).map(drop) },
    Kind { tag: LOGGED, name: "change log", check: |key, value| decode_logged(key, value).map(drop) },
    Kind { tag: GROUP, name: "group", check: |key, value| decode_group(key, value).map(drop) },
    Kind { tag: GRANT, name: "grant", check: |key, value| decode_grant(key, value).map(drop) },
    Kind { tag: MEMBER, name: "member", check: |key, value| decode_member(key, value).map(drop) },
    Kind { tag: MEMBERSHIP, name: "membership", check: |key, value| decode_member(key, value).map(drop) },
    Kind { tag: PUBLISHED, name: "published", check: |key, value| decode_complete(key, value).map(drop) },
    Kind {
        tag: MAILBOX,
        name: "published mailbox",
        check: |key, value| decode_published(key, value).map(drop),
    },
    Kind { tag: OUTBOX, name: "outbox", check: |key, value| decode_outbox(key, value).map(drop) },
    Kind { tag: POSITION, name: "position", check: |key, value| decode_position(key, value).map(drop) },
    Kind { tag: ID, name: "id", check: |key, value| decode_name_of_id(key, value).map(drop) },
    Kind { tag: KINDS_READ, name: "kinds read", check: |key, value| decode_kinds_read(key, value).map(drop) },
    Kind { tag: ALIAS, name: "alias", check: |key, value| decode_alias(key, value).map(drop) },
    Kind { tag: NODE, name: "node", check: |key, value| decode_node(key, value).map(drop) },
    Kind { tag: QUARANTINE, name: "put aside", check: |_, _| Ok(()) },
    Kind {
        tag: RESERVATION,
        name: "reservation",
        check: |key, value| decode_name_of_id(key, value).map(drop),
    },
    Kind { tag: STATE, name: "state", check: |key, value| decode_state(key, value).map(drop) },
    Kind { tag: PLACEMENT, name: "placement", check: |key, value| decode_placement(key, value).map(drop) },
];

/// The kinds that a source holds, by tag.
pub(crate) const PRIMARY: [u8; 10] =
    [ACCOUNT, DOMAIN, TURN, GROUP, ALIAS, MEMBER, NODE, MAILBOX, STATE, PLACEMENT];

/// Whether a source holds the record.
pub(crate) fn is_primary(key: &[u8]) -> bool {
    key.first().is_some_and(|tag| PRIMARY.contains(tag))
}

/// Whether this program has a kind for the record.
pub(crate) fn is_known(key: &[u8]) -> bool {
    key.first().is_some_and(|tag| KINDS.iter().any(|kind| kind.tag == *tag))
}

pub(crate) const ACCOUNT: u8 = b'a';
pub(crate) const BOOT: u8 = b'b';
pub(crate) const RENAMED: u8 = b'c';
pub(crate) const DOMAIN: u8 = b'd';
pub(crate) const GROUP: u8 = b'g';
pub(crate) const ID: u8 = b'i';
pub(crate) const KINDS_READ: u8 = b'k';
pub(crate) const MEMBER: u8 = b'm';
pub(crate) const LOGGED: u8 = b'e';
pub(crate) const MAILBOX: u8 = b'p';
pub(crate) const OUTBOX: u8 = b'u';
pub(crate) const POSITION: u8 = b't';
pub(crate) const MEMBERSHIP: u8 = b'o';
pub(crate) const GRANT: u8 = b'v';
pub(crate) const PUBLISHED: u8 = b'w';
pub(crate) const NODE: u8 = b'n';
pub(crate) const QUARANTINE: u8 = b'q';
pub(crate) const RESERVATION: u8 = b'r';
pub(crate) const STATE: u8 = b's';

/// The key of the one state record.
pub(crate) const STATE_KEY: &[u8] = &[STATE];

/// The key of the record that says that all of this store's mailboxes are published.
pub(crate) const PUBLISHED_KEY: &[u8] = &[PUBLISHED];
const BOOT_KEY: &[u8] = &[BOOT];

/// The key of the one record that says how far the copy is.
pub(crate) const POSITION_KEY: &[u8] = &[POSITION];

/// What is known of the directory as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    /// The first id that no block has been taken of.
    pub(crate) next_account: AccountId,
    /// A random number of whoever took ids or put an account back last, so that no two of these write the same.
    pub(crate) mark: u64,
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

pub(crate) fn name_of_key(key: &[u8]) -> Option<AccountName> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(char::from(ACCOUNT))?;
    let (domain, name) = text.split_once('\0')?;
    let name = match (name.strip_prefix('u'), name.strip_prefix('s')) {
        (Some(local), _) if !local.contains('@') => AccountName::User(UserName::parse(local, domain).ok()?),
        (_, Some(root)) => AccountName::Shared(SharedName::new(root, domain).ok()?),
        _ => return None,
    };
    (account_key(&name) == key).then_some(name)
}

pub(crate) fn number_key(tag: u8, n: u64) -> Vec<u8> {
    let mut key = vec![tag];
    key.extend_from_slice(&n.to_be_bytes());
    key
}

pub(crate) fn number_of_key(tag: u8, key: &[u8]) -> Option<u64> {
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
    let mut e = Encoder::new(if entry.moving.is_some() { 2 } else { LAYOUT });
    e.varint(entry.id.get()).u64(entry.home.node.0).raw(&entry.home.store.0).varint(entry.home.epoch.0);
    match entry.state {
        AccountState::Reserved { intent } => e.u8(0).u64(intent),
        AccountState::Active => e.u8(1),
        AccountState::Suspended => e.u8(2),
        AccountState::Deleted => e.u8(3),
        AccountState::LoginOnly => e.u8(4),
    };
    e.text(entry.verifier.as_ref().map_or("", Verifier::as_str)).varint(entry.revision);
    if let Some(moving) = entry.moving {
        e.u64(moving.node.0).u64(moving.job.0);
    }
    e.seal(key)
}

pub(crate) fn decode_account(key: &[u8], value: &[u8]) -> Result<Entry, Damaged> {
    let name = name_of_key(key).ok_or_else(|| Damaged::new(key, "its key is no account's"))?;
    let moves = layout_of(value) == Some(2);
    open(key, value, if moves { 2 } else { LAYOUT }, |d| {
        let mut entry = Entry {
            id: AccountId::new(d.varint()?)?,
            name,
            home: Home { node: NodeId(d.u64()?), store: StoreId(d.array()?), epoch: Epoch(d.varint()?) },
            moving: None,
            state: account_state(d)?,
            verifier: match d.text()? {
                "" => None,
                text => Some(Verifier::new(text).ok()?),
            },
            revision: d.varint()?,
        };
        if moves {
            entry.moving = Some(Moving { node: NodeId(d.u64()?), job: JobId(d.u64()?) });
        }
        Some(entry)
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
    // The usual case has the octets that it always had.
    let mut e = Encoder::new(if domain.closing { 2 } else { LAYOUT });
    e.varint(domain.revision);
    e.seal(key)
}

pub(crate) fn decode_domain(key: &[u8], value: &[u8]) -> Result<Domain, Damaged> {
    let name = key.strip_prefix(&[DOMAIN]).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.filter(|name| UserName::parse("x", name).is_ok_and(|user| user.domain() == *name));
    let name = name.ok_or_else(|| Damaged::new(key, "its key is no domain's"))?;
    let closing = layout_of(value) == Some(2);
    open(key, value, if closing { 2 } else { LAYOUT }, |d| {
        Some(Domain { name: name.into(), revision: d.varint()?, closing })
    })
}

/// Domain, or domain and name, each ended by a NUL: neither can have one.
fn joined(tag: u8, parts: &[&str]) -> Vec<u8> {
    let mut key = vec![tag];
    for part in parts {
        key.extend_from_slice(part.as_bytes());
        key.push(0);
    }
    key
}

/// The key of a group.
pub(crate) fn group_key(domain: &str, name: &str) -> Vec<u8> {
    let mut key = joined(GROUP, &[domain]);
    key.extend_from_slice(name.as_bytes());
    key
}

/// What the keys of all groups of a domain begin with.
pub(crate) fn groups_prefix(domain: &str) -> Vec<u8> {
    joined(GROUP, &[domain])
}

/// What the keys of all members of a group begin with.
pub(crate) fn members_prefix(domain: &str, group: &str) -> Vec<u8> {
    joined(MEMBER, &[domain, group])
}

/// What the keys of all memberships of a user begin with.
pub(crate) fn memberships_prefix(user: &UserName) -> Vec<u8> {
    joined(MEMBERSHIP, &[user.domain(), user.local()])
}

pub(crate) fn member_key(group: &str, user: &UserName) -> Vec<u8> {
    let mut key = members_prefix(user.domain(), group);
    key.extend_from_slice(user.local().as_bytes());
    key
}

pub(crate) fn membership_key(group: &str, user: &UserName) -> Vec<u8> {
    let mut key = memberships_prefix(user);
    key.extend_from_slice(group.as_bytes());
    key
}

pub(crate) fn encode_group(key: &[u8], group: &Group) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    e.varint(group.revision).varint(group.members);
    e.seal(key)
}

pub(crate) fn decode_group(key: &[u8], value: &[u8]) -> Result<Group, Damaged> {
    let text = std::str::from_utf8(key).ok().and_then(|text| text.strip_prefix(char::from(GROUP)));
    let named = text
        .and_then(|text| text.split_once('\0'))
        .filter(|(domain, name)| is_domain(domain) && group_name(name).as_deref() == Some(*name));
    let (domain, name) = named.ok_or_else(|| Damaged::new(key, "its key is no group's"))?;
    open(key, value, LAYOUT, |d| {
        Some(Group { domain: domain.into(), name: name.into(), revision: d.varint()?, members: d.varint()? })
    })
}

fn is_domain(text: &str) -> bool {
    UserName::parse("x", text).is_ok_and(|user| user.domain() == text)
}

/// A group's name as it is kept; `None` if it cannot be one.
pub(crate) fn group_name(text: &str) -> Option<Box<str>> {
    match rookery_types::namespace::parse_identifier(&format!("group:{text}"), "x") {
        Ok((Identifier::Group(name), false)) => Some(name),
        _ => None,
    }
}

/// The group and the user of the kinds `member` and `membership`.
pub(crate) fn decode_member(key: &[u8], value: &[u8]) -> Result<(Box<str>, UserName), Damaged> {
    let damaged = || Damaged::new(key, "its key names no group and user");
    let (tag, rest) = key.split_first().ok_or_else(damaged)?;
    let mut parts = std::str::from_utf8(rest).map_err(|_| damaged())?.split('\0');
    let (Some(domain), Some(first), Some(second), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(damaged());
    };
    let (group, local) = if *tag == MEMBER { (first, second) } else { (second, first) };
    let user = UserName::parse(local, domain).map_err(|_| damaged())?;
    let expected = if *tag == MEMBER { member_key(group, &user) } else { membership_key(group, &user) };
    if group_name(group).as_deref() != Some(group) || expected != key {
        return Err(damaged());
    }
    decode_empty(key, value, key)?;
    Ok((group.into(), user))
}

/// A record whose key says all.
pub(crate) fn encode_empty(key: &[u8]) -> Bytes {
    Encoder::new(LAYOUT).seal(key)
}

fn decode_empty(key: &[u8], value: &[u8], expected: &[u8]) -> Result<(), Damaged> {
    if key != expected {
        return Err(Damaged::new(key, "no such record is made"));
    }
    open(key, value, LAYOUT, |_| Some(()))
}

/// What the keys begin with of what is granted to somebody in one kind of tree.
pub(crate) fn grants_prefix(to: &Identifier, domain: &str, shared: bool) -> Option<Vec<u8>> {
    let whom = match to {
        Identifier::User(user) => format!("u{user}"),
        Identifier::Group(name) => format!("g{domain}/{name}"),
        Identifier::Anyone => format!("a{domain}"),
        Identifier::Anonymous => return None,
    };
    let mut key = joined(GRANT, &[&whom]);
    key.push(if shared { b's' } else { b'u' });
    Some(key)
}

/// A grant's key: that an identifier can look up a mailbox of a domain, in a shared tree or in a user's.
pub(crate) fn grant_key(to: &Identifier, domain: &str, shared: bool, mailbox: MailboxId) -> Option<Vec<u8>> {
    let mut key = grants_prefix(to, domain, shared)?;
    key.extend_from_slice(&mailbox.account.get().to_be_bytes());
    key.extend_from_slice(&mailbox.number.to_be_bytes());
    Some(key)
}

/// The mailbox in a grant's key.
pub(crate) fn decode_grant(key: &[u8], value: &[u8]) -> Result<MailboxId, Damaged> {
    let damaged = || Damaged::new(key, "its key grants nothing");
    let (rest, number) = key.split_last_chunk::<4>().ok_or_else(damaged)?;
    let (rest, account) = rest.split_last_chunk::<8>().ok_or_else(damaged)?;
    let (head, tree) = rest.split_last_chunk::<2>().ok_or_else(damaged)?;
    let whom =
        head.strip_prefix(&[GRANT]).filter(|whom| std::str::from_utf8(whom).is_ok_and(|w| !w.contains('\0')));
    if !matches!(whom.and_then(|whom| whom.first()), Some(b'u' | b'g' | b'a'))
        || !matches!(tree, [0, b's' | b'u'])
    {
        return Err(damaged());
    }
    let account = AccountId::new(u64::from_be_bytes(*account)).ok_or_else(damaged)?;
    decode_empty(key, value, key)?;
    Ok(MailboxId { account, number: u32::from_be_bytes(*number) })
}

pub(crate) fn encode_state(state: &State) -> Bytes {
    let mut e = Encoder::new(2);
    e.varint(state.next_account.get()).varint(state.mark).text(state.default_domain.as_deref().unwrap_or(""));
    e.seal(STATE_KEY)
}

/// The state, and of layout 1 also the revision that stood in it.
pub(crate) fn decode_state(key: &[u8], value: &[u8]) -> Result<(State, Option<u64>), Damaged> {
    if key != STATE_KEY {
        return Err(Damaged::new(key, "its key is not the state's"));
    }
    let old = layout_of(value) == Some(1);
    open(key, value, if old { 1 } else { 2 }, |d| {
        let revision = if old { Some(d.varint()?) } else { None };
        let state = State {
            next_account: AccountId::new(d.varint()?)?,
            mark: if old { 0 } else { d.varint()? },
            default_domain: Some(d.text()?).filter(|name| !name.is_empty()).map(Box::from),
        };
        Some((state, revision))
    })
}

pub(crate) fn encode_position(position: Position) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    e.u64(position.cluster).varint(position.term).varint(position.revision);
    e.seal(POSITION_KEY)
}

pub(crate) fn decode_position(key: &[u8], value: &[u8]) -> Result<Position, Damaged> {
    if key != POSITION_KEY {
        return Err(Damaged::new(key, "its key is not the position's"));
    }
    open(key, value, LAYOUT, |d| {
        Some(Position { cluster: d.u64()?, term: d.varint()?, revision: d.varint()? })
    })
}

/// The layout of the record that says that all is published as this program publishes it. Another one has it published
/// anew.
const PUBLISHED_LAYOUT: u8 = 3;

/// That the mailboxes of this store are published. Layout 1 said that there were grants, of which layout 2 knows
/// nothing.
pub(crate) fn encode_complete() -> Bytes {
    Encoder::new(PUBLISHED_LAYOUT).seal(PUBLISHED_KEY)
}

/// Whether they are.
pub(crate) fn decode_complete(key: &[u8], value: &[u8]) -> Result<bool, Damaged> {
    if key != PUBLISHED_KEY {
        return Err(Damaged::new(key, "no such record is made"));
    }
    let layout = layout_of(value).filter(|layout| (1..PUBLISHED_LAYOUT).contains(layout));
    open(key, value, layout.unwrap_or(PUBLISHED_LAYOUT), |_| Some(layout.is_none()))
}

/// The record of how often the node has started.
pub fn boot_record(boot: u64) -> (Vec<u8>, Bytes) {
    let mut e = Encoder::new(LAYOUT);
    e.varint(boot);
    (BOOT_KEY.to_vec(), e.seal(BOOT_KEY))
}

fn decode_boot(key: &[u8], value: &[u8]) -> Result<u64, Damaged> {
    match key == BOOT_KEY {
        true => open(key, value, LAYOUT, |d| d.varint()),
        false => Err(Damaged::new(key, "no such record is made")),
    }
}

/// How often the node has started.
pub fn boot_of(read: &dyn rookery_kv::Read) -> Result<u64, crate::DirectoryError> {
    let found = read.get(rookery_kv::Space::Directory, BOOT_KEY).map_err(crate::change::unavailable)?;
    Ok(found.map(|value| decode_boot(BOOT_KEY, &value)).transpose()?.unwrap_or(0))
}

#[cfg(test)]
mod tests;
