//! Which accounts are on their way, so that a node that starts again goes on: one record for each, at either end.

use crate::encoding::{Damaged, Encoder, open, seal};
use crate::error::StoreError;
use crate::keys;
use crate::store::Store;
use bytes::Bytes;
use rookery_kv::engine::{Batch, Space, prefix_end};
use rookery_types::{AccountId, Epoch, JobId, NodeId};

/// How far a move is, as far as the account's own record does not say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Where it leaves: it waits for its turn, and the directory knows nothing of it.
    Waiting,
    /// Where it leaves: the directory is told, or may have been, and the other node has begun or may have.
    Prepared,
    /// Where it leaves: it is given up, and the other node and the directory are still to hear that.
    Aborting,
    /// Where it goes: it comes.
    Receiving,
    /// Where it goes: it has come, and the directory is still to be told.
    Announce,
}

/// An account's move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Job {
    /// Which.
    pub id: JobId,
    /// Of which account.
    pub account: AccountId,
    /// The other node.
    pub peer: NodeId,
    /// The epoch that the account has at its new home.
    pub epoch: Epoch,
    /// How far it is.
    pub stage: Stage,
    /// An operator has stopped it for now.
    pub paused: bool,
    /// When it was asked for, in seconds since 1970.
    pub unix_seconds: u32,
}

impl Job {
    pub(crate) fn key(&self) -> Vec<u8> {
        keys::job(self.account)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut e = Encoder::new(1);
        e.u64(self.id.0).u64(self.peer.0).varint(self.epoch.0);
        e.u8(match self.stage {
            Stage::Waiting => 0,
            Stage::Prepared => 1,
            Stage::Aborting => 2,
            Stage::Receiving => 3,
            Stage::Announce => 4,
        });
        e.u8(self.paused.into()).u32(self.unix_seconds);
        seal(Space::Meta, &self.key(), e)
    }
}

/// The account in a job's key.
pub(crate) fn job_of(key: &[u8]) -> Option<AccountId> {
    let id = key.strip_prefix(keys::JOB)?.try_into().ok()?;
    AccountId::new(u64::from_be_bytes(id))
}

pub(crate) fn read_job(key: &[u8], value: &[u8]) -> Result<Job, Damaged> {
    open(Space::Meta, key, value, |d| {
        d.layout(1)?;
        Some(Job {
            account: job_of(key)?,
            id: JobId(d.u64()?),
            peer: NodeId(d.u64()?),
            epoch: Epoch(d.varint()?),
            stage: match d.u8()? {
                0 => Stage::Waiting,
                1 => Stage::Prepared,
                2 => Stage::Aborting,
                3 => Stage::Receiving,
                4 => Stage::Announce,
                _ => return None,
            },
            paused: d.u8()? != 0,
            unix_seconds: d.u32()?,
        })
    })
}

impl Store {
    /// All moves of accounts that this store has a part in. Reads the disk.
    pub fn jobs(&self) -> Result<Vec<Job>, StoreError> {
        let mut jobs = Vec::new();
        let mut failure = None;
        let end = prefix_end(keys::JOB);
        self.engine().scan(Space::Meta, keys::JOB, end.as_deref(), false, &mut |key, value| {
            match read_job(key, value) {
                Ok(job) => jobs.push(job),
                Err(damaged) => failure = Some(damaged),
            }
            failure.is_none()
        })?;
        match failure {
            Some(damaged) => Err(StoreError::Damaged(damaged)),
            None => Ok(jobs),
        }
    }

    /// The move of an account, if it has one. Reads the disk.
    pub fn job(&self, id: AccountId) -> Result<Option<Job>, StoreError> {
        let key = keys::job(id);
        let Some(value) = self.engine().get(Space::Meta, &key)? else { return Ok(None) };
        read_job(&key, &value).map(Some).map_err(StoreError::Damaged)
    }

    /// Writes a move down.
    pub async fn put_job(&self, job: Job) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.put(Space::Meta, job.key(), job.encode());
        Ok(self.commit_foreign(batch).await?)
    }

    /// Forgets an account's move.
    pub async fn drop_job(&self, id: AccountId) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.delete(Space::Meta, keys::job(id));
        Ok(self.commit_foreign(batch).await?)
    }
}
