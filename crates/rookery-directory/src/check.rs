//! The check of the whole directory: every record in itself, and that the records agree.

use crate::DirectoryError;
use crate::change::{domain, read_position, read_state, unavailable};
use crate::derive::derived;
use crate::encoding::Damaged;
use crate::entry::Entry;
use crate::published::{decode_published, published_key};
use crate::records::{self, KINDS, State};
use rookery_kv::{Read, Space, prefix_end};
use rookery_types::UserName;

/// Walks all records of `read`, which should be a snapshot, and tells `fault` of each that is damaged or does not
/// agree with the others. Returns how many records there are. Errs only if the engine does.
pub fn check(read: &dyn Read, fault: &mut dyn FnMut(Damaged)) -> Result<u64, DirectoryError> {
    let mut known = |found: Result<(), DirectoryError>| match found {
        Err(DirectoryError::Damaged(damaged)) => {
            fault(damaged);
            Ok(())
        }
        found => found,
    };
    let (mut state, mut revision) = (None, None);
    known(read_state(read).map(|found| state = Some(found)))?;
    known(read_position(read).map(|found| revision = found.map(|position| position.revision)))?;
    known(check_position(read, revision))?;
    let whole = Whole { read, state: state.as_ref(), revision };
    let mut records = 0;
    let mut failed = None;
    let scanned = read.scan(Space::Directory, b"", None, false, &mut |key, value| {
        records += 1;
        match whole.check_record(key, value) {
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

/// Whatever has a state has a position, but for what programs without positions have written.
fn check_position(read: &dyn Read, revision: Option<u64>) -> Result<(), DirectoryError> {
    let state = read.get(Space::Directory, records::STATE_KEY).map_err(unavailable)?;
    let old = state.and_then(|state| records::decode_state(records::STATE_KEY, &state).ok());
    let damaged = read.get(Space::Directory, records::POSITION_KEY).map_err(unavailable)?.is_some();
    match (revision, old) {
        (None, Some((_, None))) if !damaged => {
            Err(Damaged::new(records::POSITION_KEY, "it is missing").into())
        }
        _ => Ok(()),
    }
}

/// What the records must agree with.
struct Whole<'a> {
    read: &'a dyn Read,
    state: Option<&'a State>,
    revision: Option<u64>,
}

impl Whole<'_> {
    fn check_record(&self, key: &[u8], value: &[u8]) -> Result<(), DirectoryError> {
        let damaged = |what| DirectoryError::Damaged(Damaged::new(key, what));
        let tag = key.first().copied().unwrap_or(0);
        if tag == records::STATE && key == records::STATE_KEY {
            return self.check_default_domain();
        }
        if tag == records::POSITION && key == records::POSITION_KEY {
            return Ok(());
        }
        let kind = KINDS.iter().find(|kind| kind.tag == tag);
        let kind = kind.ok_or_else(|| damaged("no kind of record has this key"))?;
        (kind.check)(key, value)?;
        // What is to be published may already be told of by grants.
        let is_pending = tag == records::MAILBOX && self.is_pending(key)?;
        for (derived, expected) in derived(key, value)?.into_iter().filter(|_| !is_pending) {
            match self.get(&derived)? {
                Some(found) if found == expected => {}
                Some(_) if tag == records::ACCOUNT => return Err(damaged("its id is another account's")),
                Some(_) => return Err(damaged("what is derived of it is damaged")),
                // As programs left it that did not note deletions which they had begun.
                None if derived.first() == Some(&records::RESERVATION) => {
                    return Err(damaged(
                        "it is half made or half deleted, and nothing has its home do the rest",
                    ));
                }
                None if tag == records::ACCOUNT => return Err(damaged("its id leads nowhere")),
                None => return Err(damaged("what is derived of it is missing")),
            }
        }
        match tag {
            records::ACCOUNT => {
                self.check_account(&records::decode_account(key, value)?).map_err(damaged_or(key))
            }
            records::GROUP => {
                let group = records::decode_group(key, value)?;
                match self.count(&records::members_prefix(&group.domain, &group.name))? == group.members {
                    true => Ok(()),
                    false => Err(damaged("it counts other members than there are")),
                }
            }
            records::MEMBER => {
                let (group, user) = records::decode_member(key, value)?;
                match self.get(&records::group_key(user.domain(), &group))? {
                    Some(_) => Ok(()),
                    None => Err(damaged("the group and its members disagree")),
                }
            }
            records::LOGGED => {
                let (revision, _) = crate::change_log::decode_logged(key, value)?;
                let next = records::number_key(records::LOGGED, revision.saturating_add(1));
                match self.revision == Some(revision) || self.get(&next)?.is_some() {
                    true => Ok(()),
                    false => Err(damaged("what came after it is missing")),
                }
            }
            records::ID | records::RESERVATION | records::MEMBERSHIP | records::GRANT => {
                match self.is_derived(tag, key, value)? {
                    true => Ok(()),
                    false => Err(damaged("no record gives it")),
                }
            }
            _ => Ok(()),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, DirectoryError> {
        self.read.get(Space::Directory, key).map_err(unavailable)
    }

    /// Whether the outbox has something for a published mailbox.
    fn is_pending(&self, key: &[u8]) -> Result<bool, DirectoryError> {
        let outbox = [&[records::OUTBOX], key.get(1..).unwrap_or_default()].concat();
        Ok(self.get(&outbox)?.is_some())
    }

    fn count(&self, prefix: &[u8]) -> Result<u64, DirectoryError> {
        let mut count = 0;
        let end = prefix_end(prefix);
        let scanned = self.read.scan(Space::Directory, prefix, end.as_deref(), false, &mut |_, _| {
            count += 1;
            true
        });
        scanned.map_err(unavailable)?;
        Ok(count)
    }

    /// Whether a sound derived record follows from the primary record it must come from.
    fn is_derived(&self, tag: u8, key: &[u8], value: &[u8]) -> Result<bool, DirectoryError> {
        let from = match tag {
            records::MEMBERSHIP => {
                let (group, user): (Box<str>, UserName) = records::decode_member(key, value)?;
                records::member_key(&group, &user)
            }
            records::GRANT => published_key(records::decode_grant(key, value)?),
            _ => records::account_key(&records::decode_name_of_id(key, value)?.1),
        };
        if tag == records::GRANT && self.is_pending(&from)? {
            return Ok(true);
        }
        let Some(primary) = self.get(&from)? else { return Ok(false) };
        if tag == records::GRANT {
            return Ok(decode_published(&from, &primary)?.grants().contains(key));
        }
        Ok(derived(&from, &primary)?.iter().any(|(derived, expected)| derived == key && expected == value))
    }

    fn check_account(&self, entry: &Entry) -> Result<(), Fault> {
        if self.state.is_some_and(|state| state.next_account <= entry.id) {
            return Err(Fault::Here("its id was never given"));
        }
        if self.revision.is_some_and(|revision| revision < entry.revision) {
            return Err(Fault::Here("its revision is yet to come"));
        }
        match domain(self.read, entry.name.domain()).map_err(Fault::Elsewhere)? {
            Some(_) => Ok(()),
            None => Err(Fault::Here("its domain does not exist")),
        }
    }

    fn check_default_domain(&self) -> Result<(), DirectoryError> {
        match self.state.and_then(|state| state.default_domain.as_deref()) {
            Some(name) if domain(self.read, name)?.is_none() => {
                Err(Damaged::new(records::STATE_KEY, "its default domain does not exist").into())
            }
            _ => Ok(()),
        }
    }
}

/// What is wrong with an account that is sound in itself.
enum Fault {
    Here(&'static str),
    Elsewhere(DirectoryError),
}

fn damaged_or(key: &[u8]) -> impl FnOnce(Fault) -> DirectoryError {
    move |fault| match fault {
        Fault::Here(what) => Damaged::new(key, what).into(),
        Fault::Elsewhere(error) => error,
    }
}
