//! A message that another node has taken for recipients at home here: the half that stores it.
//!
//! Invariant: addresses are not followed any further. What is for a user who is not at home here any more follows them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use rookery_net::{DrainGuard, Pipe};
use rookery_route::{PipeHead, framed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backing::{Backing, LookUpError, Place};
use crate::body::{BodyError, Incoming};
use crate::deliver::{self, Job, Letter, Outcome};
use crate::follow::Onward;
use crate::parcel::{self, Parcel, Question, Request};
use crate::session::Services;

/// Octets read at once.
const READ_OCTETS: usize = 16 << 10;

/// What another node may do with messages, by its certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// It takes them from MTAs, and says who posts.
    Serves,
    /// It only has accounts: it passes on what has come for one that has left. Nobody's rights count, since users do
    /// not log in there.
    Holds,
}

/// Takes one message from another node, and answers. What ends before its end stores nothing.
/// `trace`: of the connection it came by.
pub async fn serve_pipe<B: Backing>(
    mut pipe: Box<dyn Pipe>,
    carrier: Carrier,
    trace: u64,
    services: Arc<Services<B>>,
    drain: DrainGuard,
) {
    if let Err(error) = take(&mut *pipe, carrier, PipeHead { trace }, &services).await {
        tracing::info!(%error, "a message of another node has not come whole");
    }
    drop(drain);
}

async fn take<B: Backing>(
    pipe: &mut dyn Pipe,
    carrier: Carrier,
    head: PipeHead,
    services: &Services<B>,
) -> io::Result<()> {
    let octets = usize::try_from(pipe.read_u32().await?).unwrap_or(usize::MAX);
    if octets > framed::JSON_OCTETS_MAX {
        return Err(io::Error::other("a parcel that is too long"));
    }
    let mut json = Vec::new();
    (&mut *pipe).take(octets as u64).read_to_end(&mut json).await?;
    let parcel = match Request::decode(&json).map_err(io::Error::other)? {
        Request::Parcel(parcel) => parcel,
        Request::Question(question) => {
            let outcomes = settle(&question, services).await?;
            pipe.write_all(&parcel::encode_answer(&outcomes)).await?;
            return pipe.shutdown().await;
        }
    };
    // The node that took it has seen to its size, and the store has a limit of its own.
    let mut incoming = Incoming::new(Arc::clone(&services.backing), u64::MAX, parcel.is_binary, true);
    let mut piece = vec![0; READ_OCTETS];
    loop {
        let read = pipe.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        incoming.push(piece.get(..read).unwrap_or_default());
    }
    if pipe.take_note() != Some(framed::END) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    drop(piece);
    let octets = incoming.octets();
    let outcomes = match carrier == Carrier::Holds && parcel.author().is_some() {
        // The MTA tries again, at a node that knows.
        true => {
            let why = "a node that takes no users' logins cannot say who posts".to_owned();
            vec![Outcome::Failed(BodyError::Failed(why)); parcel.addressees().count()]
        }
        false => store(incoming, &parcel, services, head).await,
    };
    let failed = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Failed(_))).count();
    let delivered = outcomes.len() - failed;
    tracing::info!(id = parcel.id, octets, delivered, failed, "a message came by another node");
    pipe.write_all(&parcel::encode_answer(&outcomes)).await?;
    pipe.shutdown().await
}

/// What became of deliveries whose answer was lost. Those that were not made never will be. No answer if that cannot be
/// said of all of them.
async fn settle<B: Backing>(question: &Question, services: &Services<B>) -> io::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for delivery in question.deliveries() {
        let (user, operation) = delivery.ok_or_else(|| io::Error::other("a question about nothing"))?;
        let account = match services.backing.at_home(&user).await.map_err(io::Error::other)? {
            Place::Here(account) => account,
            Place::At(..) => return Err(io::Error::other("the account is at home elsewhere")),
        };
        let settled = services.backing.settle(account, operation).await.map_err(io::Error::other)?;
        outcomes.push(Outcome::settled(settled));
    }
    Ok(outcomes)
}

/// Appends a whole message for its addressees; what became of each, in their order.
async fn store<B: Backing>(
    incoming: Incoming<B>,
    parcel: &Parcel,
    services: &Services<B>,
    head: PipeHead,
) -> Vec<Outcome> {
    let mut jobs = Vec::new();
    // Those who are not here any more.
    let mut gone = Vec::new();
    // Where there is an error, there is no job for the addressee.
    let mut errors = Vec::new();
    for (user, detail, operation) in parcel.addressees() {
        let account = match &user {
            Some(user) => services.backing.at_home(user).await,
            None => Err(LookUpError::NotFound),
        };
        match account {
            Ok(Place::Here(account)) => {
                jobs.push(Job { places: vec![Place::Here(account)], detail, operation });
                errors.push(None);
            }
            Ok(Place::At(node, user)) => {
                gone.push((errors.len(), node, (user, detail), operation));
                errors.push(Some(BodyError::Moved));
            }
            Err(LookUpError::NotFound | LookUpError::Closed) => errors.push(Some(BodyError::Gone)),
            Err(LookUpError::Unavailable(why)) => errors.push(Some(BodyError::Away(why))),
        }
    }
    let mut followed: HashMap<usize, Outcome> = HashMap::new();
    let outcomes = match incoming.finish().await {
        Ok(Some(message)) => {
            let once = services.once(&parcel.sender);
            let letter =
                Letter { message: message.clone(), date: parcel.date(), once, author: parcel.author() };
            let (backing, peers) = (Arc::clone(&services.backing), Arc::clone(&services.peers));
            let onward = Onward { peers, head: head.encode(), parcel: parcel.clone() };
            let parallel_max = services.config.parallel_max;
            let here = deliver::deliver(backing, &jobs, letter, parallel_max, onward.clone()).await;
            for (place, node, addressee, operation) in gone {
                let ids: Vec<_> = operation.into_iter().collect();
                let outcome = onward.carry(&*services.backing, &message, node, addressee, &ids).await;
                followed.insert(place, outcome);
            }
            here
        }
        Ok(None) => Vec::new(),
        Err(error) => vec![Outcome::Failed(error); jobs.len()],
    };
    let mut outcomes = outcomes.into_iter();
    let lost = || Outcome::Failed(BodyError::Failed("the delivery was broken off".to_owned()));
    errors
        .into_iter()
        .enumerate()
        .map(|(place, error)| match error {
            Some(error) => followed.remove(&place).unwrap_or(Outcome::Failed(error)),
            None => outcomes.next().unwrap_or_else(lost),
        })
        .collect()
}
