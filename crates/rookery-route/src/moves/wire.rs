//! What two nodes say to each other about an account that moves: requests of the home it leaves and answers of the node
//! it goes to, one after another on one pipe.
//!
//! Each has a length of four octets, a kind, and as many octets. What the stores say to each other is carried unread.

use bytes::{Bytes, BytesMut};
use rookery_net::Pipe;
use rookery_store::FRAME_OCTETS_MAX;
use rookery_types::{AccountId, Epoch, JobId};
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Of the nodes: JSON.
pub(super) const TALK: u8 = b'J';
/// Of the stores.
pub(super) const FRAME: u8 = b'F';
/// It was not done; a text for the operator.
pub(super) const FAILED: u8 = b'E';
/// Octets read at once.
const READ_OCTETS: usize = 64 << 10;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Question {
    /// Receive an account, or go on. Frames of the stores follow, with records of this format of the store.
    Begin {
        account: u64,
        job: u64,
        epoch: u64,
        #[serde(default)]
        format: u32,
    },
    /// It has been released: take it home.
    Release { account: u64, job: u64, epoch: u64, modseq: u64 },
    /// It is given up.
    Cancel { account: u64, job: u64 },
    /// Does the directory know by now?
    Settled { account: u64, epoch: u64 },
    /// Of the node that an account goes to: is there still such a move?
    Known { account: u64, job: u64 },
}

/// What is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reply {
    /// It comes; whether nothing of it was there.
    Begun {
        fresh: bool,
    },
    /// It is at home there, and served.
    Active,
    Done,
    Yes,
    No,
}

/// An account's id, from another node.
pub(super) fn account(id: u64) -> io::Result<AccountId> {
    AccountId::new(id).ok_or_else(|| io::Error::other("no account has the id 0"))
}

pub(super) fn job(id: u64) -> JobId {
    JobId(id)
}

pub(super) fn epoch(epoch: u64) -> Epoch {
    Epoch(epoch)
}

pub(super) fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

pub(super) async fn send(pipe: &mut dyn Pipe, kind: u8, octets: &[u8]) -> io::Result<()> {
    let length = u32::try_from(octets.len()).map_err(io::Error::other)?;
    let mut head = BytesMut::with_capacity(5);
    head.extend_from_slice(&length.to_be_bytes());
    head.extend_from_slice(&[kind]);
    pipe.write_all(&head).await?;
    pipe.write_all(octets).await?;
    pipe.flush().await
}

/// What comes next; `None`: nothing any more.
pub(super) async fn receive(pipe: &mut dyn Pipe) -> io::Result<Option<(u8, Bytes)>> {
    let mut head = [0; 5];
    let mut got = 0;
    while got < head.len() {
        match pipe.read(head.get_mut(got..).unwrap_or_default()).await? {
            0 if got == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => got += read,
        }
    }
    let [a, b, c, d, kind] = head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(io::Error::other)?;
    if length > FRAME_OCTETS_MAX {
        return Err(io::Error::other("it is too long"));
    }
    let mut octets = BytesMut::with_capacity(length.min(READ_OCTETS));
    while octets.len() < length {
        let room = (length - octets.len()).min(READ_OCTETS);
        let at = octets.len();
        octets.resize(at + room, 0);
        let read = pipe.read(octets.get_mut(at..).unwrap_or_default()).await?;
        octets.truncate(at + read);
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some((kind, octets.freeze())))
}
