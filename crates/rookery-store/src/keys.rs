//! Where records stand. Every key of an account begins with its id, so an account is a few ranges.

use crate::transit::TransitId;
use rookery_types::{AccountId, ContentId, MailboxId, ModSeq, OperationId, Uid, UserName};

/// Settings of the whole store, in [`rookery_kv::engine::Space::Meta`].
pub(crate) const STORE: &[u8] = b"store";
/// The number of the last group of batches.
pub(crate) const GROUP: &[u8] = b"group";
/// The bodies that the last group brought: the only ones that can be missing after a crash.
pub(crate) const TAIL: &[u8] = b"tail";
/// Before a volume's number: how many of its octets are in use.
pub(crate) const VOLUME: &[u8] = b"volume/";

pub(crate) fn volume(number: u32) -> Vec<u8> {
    [VOLUME, &number.to_be_bytes()].concat()
}

pub(crate) fn account(account: AccountId) -> [u8; 8] {
    account.get().to_be_bytes()
}

fn with<const N: usize>(account_id: AccountId, rest: &[u8]) -> [u8; N] {
    let mut key = [0; N];
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&account(account_id));
    tail.copy_from_slice(rest);
    key
}

/// The account's own record.
pub(crate) fn account_record(id: AccountId) -> [u8; 9] {
    with(id, &[0])
}

/// Before the names the account's user subscribes to.
pub(crate) fn subscriptions(id: AccountId) -> [u8; 9] {
    with(id, &[1])
}

/// All these names in one record, from which a lost one is known.
pub(crate) fn subscription_list(id: AccountId) -> [u8; 9] {
    with(id, &[2])
}

pub(crate) fn subscription(id: AccountId, name: &str) -> Vec<u8> {
    [&subscriptions(id)[..], name.as_bytes()].concat()
}

/// Before the annotations of a mailbox, or of the account itself.
pub(crate) fn annotations(id: AccountId, of: Option<MailboxId>) -> [u8; 13] {
    let number = of.map_or(0, |mailbox| mailbox.number);
    let mut rest = [3; 5];
    rest[1..].copy_from_slice(&number.to_be_bytes());
    with(id, &rest)
}

/// Before those that are one user's, or shared.
pub(crate) fn annotations_of(id: AccountId, of: Option<MailboxId>, owner: Option<&UserName>) -> Vec<u8> {
    let owner = owner.map_or("", UserName::as_str);
    [&annotations(id, of)[..], owner.as_bytes(), &[0]].concat()
}

pub(crate) fn annotation(
    id: AccountId,
    of: Option<MailboxId>,
    owner: Option<&UserName>,
    entry: &str,
) -> Vec<u8> {
    [&annotations_of(id, of, owner)[..], entry.as_bytes()].concat()
}

/// How many annotations the account has.
pub(crate) fn annotation_usage(id: AccountId) -> [u8; 9] {
    with(id, &[4])
}

/// Before what was delivered into the account a short while ago.
pub(crate) fn all_deliveries(id: AccountId) -> [u8; 9] {
    with(id, &[6])
}

/// The deliveries whose hashes begin with an octet.
pub(crate) fn deliveries(id: AccountId, slot: u8) -> [u8; 10] {
    with(id, &[6, slot])
}

/// The mailbox's number, the owner and the entry in an annotation's key.
pub(crate) fn annotation_parts(key: &[u8]) -> Option<(u32, Option<UserName>, &str)> {
    let number = u32::from_be_bytes(*key.get(9..13)?.first_chunk::<4>()?);
    let rest = std::str::from_utf8(key.get(13..)?).ok()?;
    let (owner, entry) = rest.split_once('\0')?;
    let owner = match owner {
        "" => None,
        owner => Some(UserName::parse(owner, "").ok()?),
    };
    (!entry.is_empty()).then_some((number, owner, entry))
}

/// Before all that users have seen of the account's mailboxes.
pub(crate) fn seen_of_account(id: AccountId) -> [u8; 9] {
    with(id, &[5])
}

/// Before what users have seen of one mailbox.
pub(crate) fn seen_of_mailbox(id: MailboxId) -> [u8; 13] {
    let mut rest = [5; 5];
    rest[1..].copy_from_slice(&id.number.to_be_bytes());
    with(id.account, &rest)
}

/// What is counted of all that a user has seen of a mailbox, and before the blocks of it.
pub(crate) fn seen(id: MailboxId, user: &UserName) -> Vec<u8> {
    [&seen_of_mailbox(id)[..], user.as_str().as_bytes(), &[0]].concat()
}

/// What a user has seen of some UIDs of a mailbox.
pub(crate) fn seen_block(id: MailboxId, user: &UserName, block: u32) -> Vec<u8> {
    [&seen(id, user)[..], &block.to_be_bytes()].concat()
}

/// The mailbox's number, the user and, if it is one's, the number of the block.
pub(crate) fn seen_parts(key: &[u8]) -> Option<(u32, UserName, Option<u32>)> {
    let number = u32::from_be_bytes(*key.get(9..13)?.first_chunk::<4>()?);
    let rest = key.get(13..)?;
    let end = rest.iter().position(|octet| *octet == 0)?;
    let user = UserName::parse(std::str::from_utf8(rest.get(..end)?).ok()?, "").ok()?;
    let block = match rest.get(end.checked_add(1)?..)? {
        [] => None,
        block => Some(u32::from_be_bytes(block.try_into().ok()?)),
    };
    Some((number, user, block))
}

/// The number at the end of a block's key.
pub(crate) fn seen_block_of(key: &[u8]) -> Option<u32> {
    seen_parts(key)?.2
}

/// Before what points to the moves to other homes, in [`rookery_kv::engine::Space::Meta`].
pub(crate) const TRANSIT: &[u8] = b"transit/";

/// What points to a move, so that a store that opens finds it without reading all accounts.
pub(crate) fn transit_pointer(id: TransitId) -> Vec<u8> {
    [TRANSIT, &account(id.account), &id.counter.to_be_bytes()].concat()
}

/// The move that a pointer's key names.
pub(crate) fn transit_of_pointer(key: &[u8]) -> Option<TransitId> {
    let (account, counter) = key.strip_prefix(TRANSIT)?.split_first_chunk::<8>()?;
    let account = AccountId::new(u64::from_be_bytes(*account))?;
    Some(TransitId { account, counter: u64::from_be_bytes(counter.try_into().ok()?) })
}

/// Before the moves out of an account to other homes.
pub(crate) fn departures(id: AccountId) -> [u8; 9] {
    with(id, &[7])
}

/// A move out of an account.
pub(crate) fn departure(id: AccountId, counter: u64) -> [u8; 17] {
    let mut rest = [7; 9];
    rest[1..].copy_from_slice(&counter.to_be_bytes());
    with(id, &rest)
}

/// The move in its key.
pub(crate) fn transit_of_departure(key: &[u8]) -> Option<TransitId> {
    let counter = key.get(9..)?.try_into().ok()?;
    Some(TransitId { account: account_of(key)?, counter: u64::from_be_bytes(counter) })
}

/// Below which number the moves of another account into this one are closed.
pub(crate) fn transit_floor(id: AccountId, source: AccountId) -> [u8; 17] {
    let mut rest = [8; 9];
    rest[1..].copy_from_slice(&account(source));
    with(id, &rest)
}

/// The other account in the key of a floor or of what was said of a move.
pub(crate) fn transit_source(key: &[u8]) -> Option<AccountId> {
    AccountId::new(u64::from_be_bytes(*key.get(9..17)?.first_chunk::<8>()?))
}

/// What was said of a move into an account.
pub(crate) fn verdict(id: AccountId, transit: TransitId) -> [u8; 25] {
    let mut rest = [8; 17];
    rest[1..9].copy_from_slice(&account(transit.account));
    rest[9..].copy_from_slice(&transit.counter.to_be_bytes());
    with(id, &rest)
}

/// Before what has come of operations that other nodes asked for.
pub(crate) fn operations(id: AccountId) -> [u8; 9] {
    with(id, &[9])
}

/// Before those of an hour.
pub(crate) fn operations_of(id: AccountId, hour: u32) -> [u8; 13] {
    let mut rest = [9; 5];
    rest[1..].copy_from_slice(&hour.to_be_bytes());
    with(id, &rest)
}

/// What has come of an operation, written in that hour.
pub(crate) fn operation(id: AccountId, hour: u32, operation: OperationId) -> [u8; 29] {
    let mut rest = [9; 21];
    rest[1..5].copy_from_slice(&hour.to_be_bytes());
    rest[5..].copy_from_slice(&operation.0);
    with(id, &rest)
}

/// The annotations of the server, in [`rookery_kv::engine::Space::Meta`].
pub(crate) const SERVER_ANNOTATIONS: &[u8] = b"annotations";

/// Before an account's id: its move to or from another node, in [`rookery_kv::engine::Space::Meta`].
pub(crate) const JOB: &[u8] = b"move/";

/// The move of an account.
pub(crate) fn job(id: AccountId) -> Vec<u8> {
    [JOB, &account(id)].concat()
}

/// Before what a repair has put aside.
pub(crate) const QUARANTINE: &[u8] = b"quarantine/";

fn mailbox_prefix(id: MailboxId) -> [u8; 12] {
    with(id.account, &id.number.to_be_bytes())
}

/// What is set on a mailbox: name, rights, keywords.
pub(crate) fn settings(id: MailboxId) -> Vec<u8> {
    [&mailbox_prefix(id)[..], &[0]].concat()
}

/// What is counted of a mailbox.
pub(crate) fn summary(id: MailboxId) -> Vec<u8> {
    [&mailbox_prefix(id)[..], &[1]].concat()
}

/// What the quota root that begins at a mailbox holds.
pub(crate) fn held(id: MailboxId) -> Vec<u8> {
    [&mailbox_prefix(id)[..], &[2]].concat()
}

/// Before all messages, or all tombstones, of a mailbox.
pub(crate) fn mailbox(id: MailboxId) -> [u8; 12] {
    mailbox_prefix(id)
}

/// A message's delta record, or the chunk that begins with its UID.
pub(crate) fn message(id: MailboxId, uid: Uid) -> Vec<u8> {
    [&mailbox_prefix(id)[..], &uid.get().to_be_bytes()].concat()
}

pub(crate) fn tombstone(id: MailboxId, modseq: ModSeq) -> Vec<u8> {
    [&mailbox_prefix(id)[..], &modseq.get().to_be_bytes()].concat()
}

pub(crate) fn log(id: AccountId, modseq: ModSeq) -> [u8; 16] {
    with(id, &modseq.get().to_be_bytes())
}

/// Where a content is and how often it is referred to.
pub(crate) fn content(id: AccountId, content: ContentId) -> [u8; 25] {
    let mut rest = [0; 17];
    rest[..16].copy_from_slice(&content.0);
    with(id, &rest)
}

/// What was found out about a content when it came.
pub(crate) fn facts(id: AccountId, content: ContentId) -> [u8; 25] {
    let mut key = self::content(id, content);
    key[24] = 1;
    key
}

/// The thread of a Message-ID.
pub(crate) fn thread(id: AccountId, message_id: u64) -> [u8; 16] {
    with(id, &message_id.to_be_bytes())
}

/// An expunged message, by the second of its expunge.
pub(crate) fn expunged(id: MailboxId, unix_seconds: u32, uid: Uid) -> [u8; 20] {
    let mut rest = [0; 12];
    rest[..4].copy_from_slice(&unix_seconds.to_be_bytes());
    rest[4..8].copy_from_slice(&id.number.to_be_bytes());
    rest[8..].copy_from_slice(&uid.get().to_be_bytes());
    with(id.account, &rest)
}

/// A deleted mailbox, by the second of its deletion: where an expunged message has its UID stands 0.
pub(crate) fn deleted_mailbox(id: MailboxId, unix_seconds: u32) -> [u8; 20] {
    let mut key = expunged(id, unix_seconds, Uid::FIRST);
    key[16..].fill(0);
    key
}

/// A deleted account, by the second of its deletion: mailbox number and UID are 0.
pub(crate) fn deleted_account(id: AccountId, unix_seconds: u32) -> [u8; 20] {
    deleted_mailbox(MailboxId { account: id, number: 0 }, unix_seconds)
}

/// The mailbox in the key of an expunged message or a deleted mailbox.
pub(crate) fn queued_mailbox(key: &[u8]) -> Option<MailboxId> {
    let number = u32::from_be_bytes(*key.get(12..16)?.first_chunk::<4>()?);
    Some(MailboxId { account: account_of(key)?, number })
}

/// The second in the key of what was expunged or deleted.
pub(crate) fn queued_second(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*key.get(8..12)?.first_chunk::<4>()?))
}

/// The UID at the end of a message's key.
pub(crate) fn uid_of(key: &[u8]) -> Option<Uid> {
    key.last_chunk::<4>().and_then(|octets| Uid::new(u32::from_be_bytes(*octets)))
}

/// The modseq at the end of a tombstone's or log entry's key.
pub(crate) fn modseq_of(key: &[u8]) -> Option<ModSeq> {
    key.last_chunk::<8>().and_then(|octets| ModSeq::new(u64::from_be_bytes(*octets)))
}

/// The mailbox at the beginning of a key.
pub(crate) fn mailbox_of(key: &[u8]) -> Option<MailboxId> {
    let account = AccountId::new(u64::from_be_bytes(*key.first_chunk::<8>()?))?;
    let number = u32::from_be_bytes(*key.get(8..12)?.first_chunk::<4>()?);
    Some(MailboxId { account, number })
}

/// The account at the beginning of a key.
pub(crate) fn account_of(key: &[u8]) -> Option<AccountId> {
    AccountId::new(u64::from_be_bytes(*key.first_chunk::<8>()?))
}
