//! The check of the whole directory: every record in itself, and that the records agree.

use crate::DirectoryError;
use crate::change::{account, by_id, domain, read_state, unavailable};
use crate::encoding::Damaged;
use crate::entry::{AccountState, Entry};
use crate::records::{self, KINDS, State};
use rookery_kv::{Read, Space, prefix_end};

/// Walks all records of `read`, which should be a snapshot, and tells `fault` of each that is damaged or does not
/// agree with the others. Returns how many records there are. Errs only if the engine does.
pub fn check(read: &dyn Read, fault: &mut dyn FnMut(Damaged)) -> Result<u64, DirectoryError> {
    let state = match read_state(read) {
        Ok(state) => Some(state),
        Err(DirectoryError::Damaged(damaged)) => {
            fault(damaged);
            None
        }
        Err(error) => return Err(error),
    };
    let mut records = 0;
    let mut failed = None;
    let scanned = read.scan(Space::Directory, b"", None, false, &mut |key, value| {
        records += 1;
        match check_record(read, state.as_ref(), key, value) {
            Ok(()) => true,
            Err(DirectoryError::Damaged(damaged)) => {
                fault(damaged);
                true
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    });
    scanned.map_err(unavailable)?;
    failed.map_or(Ok(records), Err)
}

fn check_record(
    read: &dyn Read,
    state: Option<&State>,
    key: &[u8],
    value: &[u8],
) -> Result<(), DirectoryError> {
    let damaged = |what| DirectoryError::Damaged(Damaged::new(key, what));
    let tag = key.first().copied().unwrap_or(0);
    if tag == records::STATE && key == records::STATE_KEY {
        return check_default_domain(read, state);
    }
    let kind =
        KINDS.iter().find(|kind| kind.tag == tag).ok_or_else(|| damaged("no kind of record has this key"))?;
    (kind.check)(key, value)?;
    match tag {
        records::ACCOUNT => {
            let entry = records::decode_account(key, value)?;
            check_account(read, state, &entry).map_err(|fault| fault.unwrap_or_else(damaged))
        }
        records::ID => by_id(read, records::decode_name_of_id(key, value)?.0).map(drop),
        records::GROUP => {
            let group = records::decode_group(key, value)?;
            let mut members = 0;
            let prefix = records::members_prefix(&group.domain, &group.name);
            let scanned =
                read.scan(Space::Directory, &prefix, prefix_end(&prefix).as_deref(), false, &mut |_, _| {
                    members += 1;
                    true
                });
            scanned.map_err(unavailable)?;
            match members == group.members {
                true => Ok(()),
                false => Err(damaged("it counts other members than there are")),
            }
        }
        records::MEMBER | records::MEMBERSHIP => {
            let (group, user) = records::decode_member(key, value)?;
            let other = match tag {
                records::MEMBER => records::membership_key(&group, &user),
                _ => records::member_key(&group, &user),
            };
            for needed in [other, records::group_key(user.domain(), &group)] {
                if read.get(Space::Directory, &needed).map_err(unavailable)?.is_none() {
                    return Err(damaged("the group and its members disagree"));
                }
            }
            Ok(())
        }
        records::RESERVATION => {
            let (_, name) = records::decode_name_of_id(key, value)?;
            match account(read, &name)?.map(|entry| (entry.state, records::reservation_key(entry.id) == key))
            {
                Some((AccountState::Reserved { .. }, true)) => Ok(()),
                _ => Err(damaged("no account is reserved by it")),
            }
        }
        _ => Ok(()),
    }
}

/// What is wrong with an account that is sound in itself.
enum Fault {
    Here(&'static str),
    Elsewhere(DirectoryError),
}

impl Fault {
    fn unwrap_or_else(self, here: impl FnOnce(&'static str) -> DirectoryError) -> DirectoryError {
        match self {
            Fault::Here(what) => here(what),
            Fault::Elsewhere(error) => error,
        }
    }
}

fn check_account(read: &dyn Read, state: Option<&State>, entry: &Entry) -> Result<(), Fault> {
    if state.is_some_and(|state| state.next_account <= entry.id) {
        return Err(Fault::Here("its id was never given"));
    }
    if state.is_some_and(|state| state.revision < entry.revision) {
        return Err(Fault::Here("its revision is yet to come"));
    }
    if domain(read, entry.name.domain()).map_err(Fault::Elsewhere)?.is_none() {
        return Err(Fault::Here("its domain does not exist"));
    }
    match by_id(read, entry.id) {
        Ok(found) if found.name == entry.name => {}
        Ok(_) => return Err(Fault::Here("its id is another account's")),
        Err(DirectoryError::NotFound(_)) => return Err(Fault::Here("its id leads nowhere")),
        Err(error) => return Err(Fault::Elsewhere(error)),
    }
    let reserved = read.get(Space::Directory, &records::reservation_key(entry.id));
    let reserved = reserved.map_err(|error| Fault::Elsewhere(unavailable(error)))?.is_some();
    match reserved == matches!(entry.state, AccountState::Reserved { .. }) {
        true => Ok(()),
        false => Err(Fault::Here("its state and its reservation disagree")),
    }
}

fn check_default_domain(read: &dyn Read, state: Option<&State>) -> Result<(), DirectoryError> {
    match state.and_then(|state| state.default_domain.as_deref()) {
        Some(name) if domain(read, name)?.is_none() => {
            Err(Damaged::new(records::STATE_KEY, "its default domain does not exist").into())
        }
        _ => Ok(()),
    }
}
