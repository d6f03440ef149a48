//! Moves to mailboxes of other homes, exactly once: what each home keeps of one. The store knows no other node; who
//! uses this carries the messages and the verdict.
//!
//! Where the messages are: [`Mailbox::depart`] writes down what is to go where, and from then on the messages stay as
//! they are until [`Account::settle`] takes them out or leaves them. Where they go: [`Account::arrive`] or
//! [`Account::refuse`] give a verdict, once; [`Account::forget_arrivals`] drops it.
//!
//! Invariants:
//! - A move's number is the modseq of the change that began it, so an account gives none twice, through crashes and
//!   repairs as well.
//! - The verdict stands in the batch of the messages it speaks of. Their octets are on the disk before, so no crash
//!   takes one back without the other.
//! - Messages in transit are read and copied like any. Whatever would change them, take them out or delete their mailbox
//!   waits for a moment and is then refused with [`StoreError::InUse`].
//! - Moves below the floor that an account keeps for another are closed: a late repetition of one brings nothing.

mod records;

pub use records::{Departure, Destination, Refusal, Transit, TransitId, Verdict};
pub(crate) use records::{decode_floor, decode_pointer, encode_pointer};

use crate::account::Account;
use crate::append::{Along, NewMessage};
use crate::error::StoreError;
use crate::keys;
use crate::mailbox::{Mailbox, SLICE_MESSAGES, expunge_messages, next_slice};
use crate::messages::Message;
use crate::records::{AccountState, Change};
use crate::sequencer::Transaction;
use crate::store::{Store, now_unix};
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{AccountId, MailboxId, Uid, UidSet};
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// How long a change waits for messages that are on their way to another home.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Octets that go in one move, unless a single message has more.
const SLICE_OCTETS_MAX: u64 = 64 << 20;
/// Verdicts that are forgotten in one step.
const STEP_VERDICTS: usize = 500;

/// What a home says of a move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It has its verdict.
    Judged(Verdict),
    /// It was closed before: the verdict is forgotten, and nothing was done now.
    Closed,
    /// There is no such account here any more.
    NoAccount,
}

/// Messages that come from another home.
pub(crate) struct Arriving<'a> {
    pub(crate) id: TransitId,
    /// Their UIDs there.
    pub(crate) from: &'a [Uid],
}

impl Mailbox {
    /// Begins to move messages to another home: of these as many, from the first on, as go in one move. When it returns
    /// they are in transit, durably. `None`: there are none of them.
    pub async fn depart(
        &self,
        uids: &UidSet,
        to: &Destination,
    ) -> Result<Option<(TransitId, UidSet)>, StoreError> {
        let (account, mailbox) = (self.account(), self.id());
        loop {
            let begun = {
                let mut t = account.begin().await?;
                let state = t.mailbox(mailbox).ok_or(StoreError::NoMailbox)?;
                let messages = state.messages.clone().ok_or(StoreError::NoMailbox)?;
                let mut slice = next_slice(&messages, uids, uids.first().unwrap_or(u32::MAX))?;
                slice.truncate(slice_end(&slice));
                let gone: UidSet = slice.iter().map(|message| message.uid).collect();
                if gone.is_empty() {
                    return Ok(None);
                }
                match t.is_departing(mailbox, Some(&gone)) {
                    true => Err(gone),
                    false => {
                        let id = begin(&mut t, account.id(), mailbox, &slice, to);
                        Ok((id, gone, t.finish(account.store.committer())))
                    }
                }
            };
            match begun {
                Ok((id, gone, ticket)) => {
                    ticket.wait().await?;
                    account.cell.tidy();
                    return Ok(Some((id, gone)));
                }
                Err(busy) => account.until_here(mailbox, Some(&busy)).await?,
            }
        }
    }

    /// The messages that are in transit to another home.
    pub fn departing(&self) -> Result<UidSet, StoreError> {
        Ok(self.account().peek()?.departing(self.id()))
    }
}

/// How many messages go in one move.
fn slice_end(slice: &[Message]) -> usize {
    let mut octets = 0;
    let fits = slice.iter().take(SLICE_MESSAGES).take_while(|message| {
        octets += u64::from(message.size);
        octets <= SLICE_OCTETS_MAX
    });
    fits.count().max(1)
}

fn begin(
    t: &mut Transaction<'_>,
    account: AccountId,
    mailbox: MailboxId,
    slice: &[Message],
    to: &Destination,
) -> TransitId {
    let id = TransitId { account, counter: t.modseq.get() };
    // So that the modseq, which is the move's number, counts as given.
    t.note(mailbox, Change::Flags(UidSet::new()));
    let messages = slice.iter().map(|message| (message.uid, message.content)).collect();
    let (to, begun_unix_seconds) = (to.clone(), now_unix());
    let transit = Transit::Open(Departure { mailbox, to, messages, begun_unix_seconds, given_up: false });
    let key = keys::departure(account, id.counter);
    let value = transit.encode(&key);
    t.put(Space::Account, key.to_vec(), value);
    let key = keys::transit_pointer(id);
    let value = encode_pointer(&key);
    t.put(Space::Meta, key, value);
    t.begin_departure(mailbox.number, id.counter, slice.iter().map(|message| message.uid).collect());
    id
}

/// A move as a change sees it.
fn transit(t: &Transaction<'_>, account: AccountId, counter: u64) -> Result<Option<Transit>, StoreError> {
    let key = keys::departure(account, counter);
    match t.get(Space::Account, &key)? {
        Some(value) => Transit::decode(&key, &value).map(Some).map_err(StoreError::Damaged),
        None => Ok(None),
    }
}

impl Account {
    /// Waits until no message of a mailbox, or none of these, is in transit.
    pub(crate) async fn until_here(
        &self,
        mailbox: MailboxId,
        uids: Option<&UidSet>,
    ) -> Result<(), StoreError> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let mut departed = pin!(self.cell.departed.notified());
            departed.as_mut().enable();
            if !self.peek()?.is_departing(mailbox, uids) {
                return Ok(());
            }
            tokio::time::timeout_at(deadline, departed).await.map_err(|_| StoreError::InUse)?;
        }
    }

    /// How far a move out of this account is; `None`: there is none of that number, or it is closed. Reads the disk.
    pub fn transit(&self, counter: u64) -> Result<Option<Transit>, StoreError> {
        transit(&self.peek()?, self.id(), counter)
    }

    /// Ends a move by its verdict: the messages that are there go here, kept for undelete, and the others stay. To be
    /// repeated after a crash; what is ended stays as it is.
    pub async fn settle(&self, counter: u64, verdict: &Verdict) -> Result<(), StoreError> {
        let kept = self.as_kept();
        let Some(Transit::Open(departure)) = kept.transit(counter)? else {
            // It may still be on its way to the disk.
            return kept.transact(|_| Ok(())).await;
        };
        // So that what is in memory of it changes as well.
        let _open = match kept.open(departure.mailbox).await {
            Ok(open) => Some(open),
            Err(StoreError::NoMailbox) => None,
            Err(error) => return Err(error),
        };
        kept.transact(|t| {
            let Some(Transit::Open(departure)) = transit(t, self.id(), counter)? else { return Ok(()) };
            let mailbox = departure.mailbox;
            if let (Verdict::Moved { uids, .. }, Some(state)) = (verdict, t.mailbox(mailbox)) {
                let messages = state.messages.clone().ok_or(StoreError::NoMailbox)?;
                let mut doomed = Vec::with_capacity(uids.len());
                for (uid, _) in uids {
                    let known = departure.messages.iter().find(|(known, _)| known == uid);
                    let message = messages.message(*uid)?;
                    doomed.extend(
                        message.filter(|message| known.is_some_and(|(_, id)| *id == message.content)),
                    );
                }
                expunge_messages(t, mailbox, &doomed, true)?;
            }
            let done = Transit::Done { account: departure.to.account, home: departure.to.home };
            let key = keys::departure(self.id(), counter);
            let value = done.encode(&key);
            t.put(Space::Account, key.to_vec(), value);
            t.end_departure(mailbox.number, counter);
            Ok(())
        })
        .await
    }

    /// Has a move ended without its messages going, if they are not there already: that is for the other home to say.
    /// Until it has, they stay as they are. False: no such move is under way.
    pub async fn give_up(&self, counter: u64) -> Result<bool, StoreError> {
        self.transact(|t| {
            let Some(Transit::Open(departure)) = transit(t, self.id(), counter)? else { return Ok(false) };
            if !departure.given_up {
                let key = keys::departure(self.id(), counter);
                let value = Transit::Open(Departure { given_up: true, ..departure }).encode(&key);
                t.put(Space::Account, key.to_vec(), value);
            }
            Ok(true)
        })
        .await
    }

    /// The number below which all moves out of this account have ended, durably.
    pub async fn settled_below(&self) -> Result<u64, StoreError> {
        self.transact(|t| {
            // Later ones get the modseqs of changes behind all that are queued.
            Ok(t.first_departure().unwrap_or_else(|| t.modseq.get()))
        })
        .await
    }

    /// Forgets a move that has ended, once the other home has.
    pub async fn close_departure(&self, counter: u64) -> Result<(), StoreError> {
        let id = TransitId { account: self.id(), counter };
        self.transact(|t| {
            if matches!(transit(t, self.id(), counter)?, Some(Transit::Done { .. })) {
                t.delete(Space::Account, keys::departure(self.id(), counter).to_vec());
                t.delete(Space::Meta, keys::transit_pointer(id));
            }
            Ok(())
        })
        .await
    }

    /// Puts messages that come from another home into a mailbox, all or none of them, unless the move has its verdict
    /// already. What cannot be for good is refused, and that is the verdict; an error is none.
    pub async fn arrive(
        &self,
        id: TransitId,
        to: MailboxId,
        messages: Vec<(Uid, NewMessage)>,
    ) -> Result<Arrival, StoreError> {
        if let Some(known) = self.judged(id).await? {
            return Ok(known);
        }
        let (from, messages): (Vec<Uid>, Vec<NewMessage>) = messages.into_iter().unzip();
        let arriving = Arriving { id, from: &from };
        let appended = self.append_along(to, messages, Vec::new(), Along::Verdict(&arriving)).await;
        match appended {
            Ok(Some(appended)) => {
                let uids = from.into_iter().zip(appended.uids).collect();
                Ok(Arrival::Judged(Verdict::Moved { uid_validity: appended.uid_validity, uids }))
            }
            // Somebody else was faster.
            Ok(None) => self.judged(id).await?.ok_or(StoreError::NoContent),
            Err(error) => match refusal(&error) {
                Some(refusal) => self.refuse(id, refusal).await,
                None => Err(error),
            },
        }
    }

    /// Refuses a move, unless it has its verdict already. Also in an account that is deleted and kept.
    pub async fn refuse(&self, id: TransitId, refusal: Refusal) -> Result<Arrival, StoreError> {
        let refused = Verdict::Refused(refusal);
        self.judge(|t| match known(t, self.id(), id)? {
            Some(known) => Ok(known),
            None => {
                remember(t, self.id(), id, &refused);
                Ok(Arrival::Judged(refused.clone()))
            }
        })
        .await
    }

    /// What was said of a move; `None`: nothing yet. Also in an account that is deleted and kept.
    pub async fn judged(&self, id: TransitId) -> Result<Option<Arrival>, StoreError> {
        self.judge(|t| known(t, self.id(), id)).await
    }

    /// Drops the verdicts on moves out of an account below a number, and closes those moves for good. Also in an account
    /// that is deleted and kept.
    pub async fn forget_arrivals(&self, source: AccountId, below: u64) -> Result<(), StoreError> {
        let (account, floor_key) = (self.id(), keys::transit_floor(self.id(), source));
        loop {
            let more = self
                .judge(|t| {
                    if floor(t, account, source)? < below {
                        let value = records::encode_floor(&floor_key, below);
                        t.put(Space::Account, floor_key.to_vec(), value);
                    }
                    let first = keys::verdict(account, TransitId { account: source, counter: 0 });
                    let end = keys::verdict(account, TransitId { account: source, counter: below });
                    let doomed = t.scan(Space::Account, &first, Some(&end), STEP_VERDICTS)?;
                    let more = doomed.len() == STEP_VERDICTS;
                    doomed.into_iter().for_each(|(key, _)| t.delete(Space::Account, key));
                    Ok(Steps(more))
                })
                .await?;
            if !more.0 {
                return Ok(());
            }
        }
    }

    /// Begins a change of an account that may be deleted; `None` while it is frozen.
    fn begin_judging(&self) -> Result<Option<Transaction<'_>>, StoreError> {
        match self.try_begin() {
            Err(StoreError::NoAccount) => self.cell.begin(self.store.engine()).map(Some),
            begun => begun,
        }
    }

    /// A change that is made to deleted accounts as well, as long as anything is kept of them.
    async fn judge<T: Judged>(
        &self,
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (result, ticket) = loop {
            // Nothing of what is begun lives while this waits.
            if let Some(mut t) = self.begin_judging()? {
                if t.record.state == AccountState::Deleted
                    && t.get(Space::Account, &keys::account_record(self.id()))?.is_none()
                {
                    return Ok(T::no_account());
                }
                let result = change(&mut t)?;
                break (result, t.finish(self.store.committer()));
            }
            self.until_open().await;
        };
        ticket.wait().await?;
        self.cell.tidy();
        Ok(result)
    }
}

/// What can be said of an account that is gone.
trait Judged {
    fn no_account() -> Self;
}

impl Judged for Arrival {
    fn no_account() -> Arrival {
        Arrival::NoAccount
    }
}

impl Judged for Option<Arrival> {
    fn no_account() -> Option<Arrival> {
        Some(Arrival::NoAccount)
    }
}

/// Whether there is more to do.
struct Steps(bool);

impl Judged for Steps {
    fn no_account() -> Steps {
        Steps(false)
    }
}

fn floor(t: &Transaction<'_>, account: AccountId, source: AccountId) -> Result<u64, StoreError> {
    let key = keys::transit_floor(account, source);
    match t.get(Space::Account, &key)? {
        Some(value) => decode_floor(&key, &value).map_err(StoreError::Damaged),
        None => Ok(0),
    }
}

/// What was said of a move before.
pub(crate) fn known(
    t: &Transaction<'_>,
    account: AccountId,
    id: TransitId,
) -> Result<Option<Arrival>, StoreError> {
    #[cfg(feature = "sim")]
    if rookery_kv::defect::is_planted(rookery_kv::defect::Defect::ForwardedDuplicate) {
        return Ok(None);
    }
    let key = keys::verdict(account, id);
    if let Some(value) = t.get(Space::Account, &key)? {
        return Verdict::decode(&key, &value).map(|v| Some(Arrival::Judged(v))).map_err(StoreError::Damaged);
    }
    Ok((id.counter < floor(t, account, id.account)?).then_some(Arrival::Closed))
}

/// Writes a verdict with the change it is about.
pub(crate) fn remember(t: &mut Transaction<'_>, account: AccountId, id: TransitId, verdict: &Verdict) {
    let key = keys::verdict(account, id);
    let value = verdict.encode(&key);
    t.put(Space::Account, key.to_vec(), value);
}

/// The verdict that an error is; `None`: another try may go better.
fn refusal(error: &StoreError) -> Option<Refusal> {
    match error {
        StoreError::NoMailbox => Some(Refusal::NoMailbox),
        StoreError::NoAccount => Some(Refusal::Gone),
        StoreError::OverQuota => Some(Refusal::OverQuota),
        StoreError::NoSpace => Some(Refusal::NoSpace),
        StoreError::TooMany(_) | StoreError::TooManyKeywords(_) | StoreError::Exhausted(_) => {
            Some(Refusal::Limit)
        }
        StoreError::TooLarge(_) => Some(Refusal::TooLarge),
        _ => None,
    }
}

/// Takes the pointers to an account's moves away, with the account.
pub(crate) fn forget_pointers(t: &mut Transaction<'_>, account: AccountId) -> Result<(), StoreError> {
    let prefix = keys::departures(account);
    for (key, _) in t.scan(Space::Account, &prefix, prefix_end(&prefix).as_deref(), usize::MAX)? {
        if let Some(id) = keys::transit_of_departure(&key) {
            t.delete(Space::Meta, keys::transit_pointer(id));
        }
    }
    Ok(())
}

impl Store {
    /// The moves to other homes that have not been closed. Reads the disk.
    pub fn departures(&self) -> Result<Vec<TransitId>, StoreError> {
        let mut found = Vec::new();
        let mut failure = None;
        let end = prefix_end(keys::TRANSIT);
        self.engine().scan(Space::Meta, keys::TRANSIT, end.as_deref(), false, &mut |key, value| {
            match decode_pointer(key, value) {
                Ok(id) => found.push(id),
                Err(damaged) => failure = Some(damaged),
            }
            failure.is_none()
        })?;
        match failure {
            Some(damaged) => Err(StoreError::Damaged(damaged)),
            None => Ok(found),
        }
    }

    /// An account for what comes from other homes: also one that is deleted and kept. Reads the disk.
    pub fn account_for_arrivals(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        self.load_account(id)
    }
}
