//! The half of the home that messages go to: gives each move its verdict, once.

use super::wire::{Answer, Errand, Item, Put, Task};
use super::{Inner, Known, Transit, Trouble};
use crate::Authority;
use crate::framed::{END, JSON_OCTETS_MAX};
use rookery_directory::{AccountState, Entry};
use rookery_net::{DrainGuard, Pipe};
use rookery_store::{Account, Arrival, NewMessage, Refusal, Spooled, StoreError, TransitId};
use rookery_types::acl::Asker;
use rookery_types::{AccountId, NodeId, Rights};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Octets read at once.
const READ_OCTETS: usize = 16 << 10;
/// Octets of an errand without messages, at most.
const SHORT_OCTETS_MAX: usize = 128;

impl Transit {
    /// Does what another node asks for, and answers. What ends before its end does nothing.
    pub async fn serve(&self, mut pipe: Box<dyn Pipe>, peer: NodeId, drain: DrainGuard) {
        if let Err(error) = self.0.take(&mut *pipe, peer).await {
            tracing::info!(%error, node = %peer, "a move of another node has not come whole");
        }
        drop(drain);
    }
}

/// An account that a move goes to.
enum Target {
    /// It is here.
    Here(Account, Entry),
    /// It is deleted, and here as long as it is kept.
    Deleted(Account),
    /// There is nothing of it here.
    None,
}

impl Inner {
    pub(super) async fn take(&self, pipe: &mut dyn Pipe, peer: NodeId) -> io::Result<()> {
        let octets = self.read_in_time(pipe.read_u32()).await?;
        let octets = usize::try_from(octets).unwrap_or(usize::MAX);
        if octets > JSON_OCTETS_MAX {
            return Err(io::Error::other("an errand that is too long"));
        }
        // Those without messages do not wait behind those with some.
        let _permit = match octets > SHORT_OCTETS_MAX {
            true => Some(self.taking.acquire().await.map_err(io::Error::other)?),
            false => None,
        };
        let mut json = Vec::new();
        while json.len() < octets {
            let mut piece = [0; READ_OCTETS];
            let room =
                piece.get_mut(..octets.saturating_sub(json.len()).min(READ_OCTETS)).unwrap_or_default();
            match self.read_in_time(pipe.read(room)).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => json.extend_from_slice(piece.get(..read).unwrap_or_default()),
            }
        }
        let errand = Errand::decode(&json).map_err(io::Error::other)?;
        drop(json);
        let items = match &errand.task {
            Task::Put(put) => put.messages.as_slice(),
            Task::Refuse | Task::Forget => &[],
        };
        let mut bodies = Vec::with_capacity(items.len());
        for item in items {
            bodies.push(self.body(pipe, item).await?);
        }
        if self.read_in_time(pipe.read(&mut [0])).await? > 0 || pipe.take_note() != Some(END) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = match self.done(&errand, bodies, peer).await {
            Ok(answer) => answer,
            Err(Trouble(why)) => Answer::Failed(why),
        };
        tracing::debug!(transit = %errand.id, node = %peer, ?answer, "a move of another node");
        pipe.write_all(&answer.encode()).await?;
        pipe.shutdown().await
    }

    async fn read_in_time<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::time::timeout(self.times.stalled, work).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Takes the octets of a message in. Those of one that cannot be kept are passed over.
    async fn body(&self, pipe: &mut dyn Pipe, item: &Item) -> io::Result<Result<Spooled, StoreError>> {
        let mut spool = Ok(self.store.spool());
        let mut left = usize::try_from(item.octets).unwrap_or(usize::MAX);
        let mut piece = vec![0; READ_OCTETS.min(left)];
        while left > 0 {
            let room = piece.get_mut(..left.min(READ_OCTETS)).unwrap_or_default();
            let read = self.read_in_time(pipe.read(room)).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = left.saturating_sub(read);
            if let Ok(taking) = &mut spool
                && let Err(error) = taking.push(piece.get(..read).unwrap_or_default())
            {
                spool = Err(error);
            }
        }
        Ok(match spool {
            Ok(spool) => spool.finished().await,
            Err(error) => Err(error),
        })
    }

    /// Does a whole errand.
    async fn done(
        &self,
        errand: &Errand,
        bodies: Vec<Result<Spooled, StoreError>>,
        peer: NodeId,
    ) -> Result<Answer, Trouble> {
        if !self.may_ask(errand.id.account, peer).await? {
            return Err(Trouble("the account that the messages leave is not at home there".to_owned()));
        }
        let arrival = match (self.target(errand.target).await?, &errand.task) {
            (Target::None, _) => Arrival::NoAccount,
            (Target::Here(account, _) | Target::Deleted(account), Task::Forget) => {
                account.forget_arrivals(errand.id.account, errand.id.counter).await?;
                return Ok(Answer::Done);
            }
            (Target::Here(account, _), Task::Refuse) => account.refuse(errand.id, Refusal::GivenUp).await?,
            (Target::Deleted(account), Task::Refuse | Task::Put(_)) => {
                account.refuse(errand.id, Refusal::Gone).await?
            }
            (Target::Here(account, entry), Task::Put(put)) => {
                self.put(account, &entry, errand.id, put, bodies).await?
            }
        };
        Ok(match arrival {
            Arrival::Judged(verdict) => Answer::Verdict(verdict),
            Arrival::Closed => Answer::Closed,
            Arrival::NoAccount => Answer::NoAccount,
        })
    }

    /// Whether a node is the home of the account that messages leave.
    async fn may_ask(&self, source: AccountId, peer: NodeId) -> Result<bool, Trouble> {
        let is_home = |known| matches!(known, Known::At(entry) if entry.home.node == peer);
        if is_home(self.known(source).await?) {
            return Ok(true);
        }
        // The copy may lag.
        self.directory.barrier().await?;
        Ok(is_home(self.known(source).await?))
    }

    async fn target(&self, id: AccountId) -> Result<Target, Trouble> {
        let entry = match self.known(id).await? {
            Known::At(entry) if entry.home.node != self.here() => {
                return Err(Trouble("the account is at home elsewhere".to_owned()));
            }
            Known::At(entry) => match entry.state {
                AccountState::Active | AccountState::Suspended => Some(entry),
                AccountState::Deleted => None,
                AccountState::Reserved { .. } | AccountState::LoginOnly => {
                    return Err(Trouble("the account is not there yet".to_owned()));
                }
            },
            Known::Gone => None,
        };
        match (self.store.account_for_arrivals(id)?, entry) {
            (Some(account), Some(entry)) if account.exists() => Ok(Target::Here(account, entry)),
            (Some(account), None) if !account.exists() => Ok(Target::Deleted(account)),
            (None, None) => Ok(Target::None),
            // It is being deleted or brought back, or the store is not the one that the directory means.
            _ => Err(Trouble("the store and the directory do not agree on the account".to_owned())),
        }
    }

    async fn put(
        &self,
        account: Account,
        entry: &Entry,
        id: TransitId,
        put: &Put,
        bodies: Vec<Result<Spooled, StoreError>>,
    ) -> Result<Arrival, Trouble> {
        // What was said before counts, whatever the rights are now.
        if let Some(known) = account.judged(id).await? {
            return Ok(known);
        }
        let user = &put.user;
        let authority = self.administrators.authority(user);
        if authority != Authority::Site && user.domain() != entry.name.domain() {
            return Ok(account.refuse(id, Refusal::NoMailbox).await?);
        }
        let groups = self.directory.groups_of(user).await?;
        let owner = account.owner().as_ref() == Some(user);
        let administrator = authority != Authority::User;
        let asker = Asker { user: Some(user), groups: &groups, owner, administrator };
        let tree = account.tree();
        let state = tree.get(&put.path).and_then(|mailbox| tree.state(mailbox));
        let rights = state.as_ref().map_or(Rights::NONE, |state| state.settings.acl.rights_of(&asker));
        let Some(state) = state.filter(|_| rights.contains(Rights::LOOKUP)) else {
            let refusal = match tree.rights_above(&put.path, &asker).contains(Rights::CREATE) {
                true if tree.get(&put.path).is_none() => Refusal::MayCreate,
                _ => Refusal::NoMailbox,
            };
            return Ok(account.refuse(id, refusal).await?);
        };
        if !rights.contains(Rights::INSERT) {
            return Ok(account.refuse(id, Refusal::NoRight).await?);
        }
        let mut messages = Vec::with_capacity(bodies.len());
        for (item, body) in put.messages.iter().zip(bodies) {
            let body = match body {
                Ok(body) => body,
                Err(StoreError::TooLarge(_)) => return Ok(account.refuse(id, Refusal::TooLarge).await?),
                Err(StoreError::NoSpace) => return Ok(account.refuse(id, Refusal::NoSpace).await?),
                Err(error) => return Err(error.into()),
            };
            let (flags, keywords, date) = (item.flags, item.keywords.clone(), item.date);
            messages.push((item.uid, NewMessage { body, flags, keywords, date }));
        }
        let account = account.seen_by(user);
        let account = match rights.contains(Rights::SEEN) {
            true => account,
            false => account.without_keeping_seen(),
        };
        Ok(account.arrive(id, state.id, messages).await?)
    }
}
