//! Accounts that somebody at this node wants at another, and waits for: begun at the account's home, whichever that is,
//! and followed until the account is at home there.
//!
//! Invariants:
//! - Whoever hears that an account stays where it is, hears it of its home or of the directory; where neither answers,
//!   that is said.
//! - Nobody's absence ends a move: it goes on at the home while the link, this node or the home itself is away.

use std::sync::Arc;
use std::time::Duration;

use rookery_admin::socket::{Failed, Reply};
use rookery_directory::{AccountState, Directory, DirectoryError, Entry, Node as Known};
use rookery_route::{Attended, Coming, MoveOutcome, Mover, MoverError, NotMoved, Relocated, Relocator};
use rookery_types::{AccountId, AccountName, JobId, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Cluster;

/// How long a move may not get on until it is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a home may be away that has begun a move.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// A home that was asked for so long was there meanwhile.
const WAS_THERE: Duration = Duration::from_secs(15);
/// How long until it is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long this node's copy of the directory is waited for, once the account is there.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// Moves accounts for whoever asks at this node.
pub(crate) struct Relocations {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) mover: Mover,
    pub(crate) cluster: Cluster,
}

/// A move that was begun, as its home says it.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// The account's id; it may get another name meanwhile.
    account: u64,
    job: u64,
    /// It was not begun before.
    is_new: bool,
}

/// Has the home of an account begin its move; joins the one that goes there already.
pub(crate) async fn begin(mover: &Mover, account: AccountId, to: NodeId) -> Result<Begun, MoverError> {
    let (job, is_new) = mover.begin_or_join(account, to).await?;
    Ok(Begun { account: account.get(), job: job.0, is_new })
}

/// What whoever waits for a move hears of its home.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Heard {
    Moved,
    Cancelled,
    Failed(String),
    Paused,
    Stuck(String),
    /// The home knows of no such move.
    Unknown,
}

/// Waits at the home of an account for its move.
pub(crate) async fn attend(mover: &Mover, begun: Begun) -> Heard {
    let Some(account) = AccountId::new(begun.account) else { return Heard::Unknown };
    match mover.attend(account, JobId(begun.job), PATIENCE, begun.is_new).await {
        Attended::Ended(MoveOutcome::Moved { .. }) => Heard::Moved,
        Attended::Ended(MoveOutcome::Cancelled) => Heard::Cancelled,
        Attended::Ended(MoveOutcome::Failed(why)) => Heard::Failed(why),
        Attended::Paused => Heard::Paused,
        Attended::Stuck(why) => Heard::Stuck(why),
        Attended::Unknown => Heard::Unknown,
    }
}

/// Why a home has not said what came of what it was asked.
enum Unsaid {
    /// Its answer is no.
    Refused(Failed),
    /// It is not reached, or was lost.
    Away(String),
}

impl Relocator for Relocations {
    fn relocate<'a>(
        &'a self,
        account: &'a AccountName,
        node: &'a str,
    ) -> Coming<'a, Result<Relocated, NotMoved>> {
        Box::pin(async move {
            let nodes = self.nodes().await?;
            let named = nodes.iter().find(|one| one.name.eq_ignore_ascii_case(node));
            let to = named.ok_or_else(|| NotMoved::Refused(format!("There is no node {node}")))?;
            let entry = self.entry(account).await?;
            if entry.home.node == to.id {
                return Ok(Relocated::WasThere);
            }
            self.carry(&entry, to).await
        })
    }
}

impl Relocations {
    async fn nodes(&self) -> Result<Vec<Known>, NotMoved> {
        self.directory.nodes().await.map_err(|error| away(&error))
    }

    /// What the directory says of an account, up to date.
    async fn entry(&self, account: &AccountName) -> Result<Arc<Entry>, NotMoved> {
        self.directory.barrier().await.map_err(|error| away(&error))?;
        match self.directory.look_up(account).await {
            Ok(entry) if matches!(entry.state, AccountState::Active | AccountState::Suspended) => Ok(entry),
            Ok(_) | Err(DirectoryError::NotFound(_)) => Err(NotMoved::NonExistent),
            Err(error) => Err(away(&error)),
        }
    }

    /// Has the move begun, and follows it.
    async fn carry(&self, entry: &Entry, to: &Known) -> Result<Relocated, NotMoved> {
        let (account, home) = (&entry.name, entry.home.node);
        let home_name = self.name_of(home).await?;
        let mut begun = None;
        let mut lost: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            let unsaid = match self.go_on(entry, (home, &home_name), to, &mut begun).await {
                Ok(heard) => {
                    match self.outcome(heard, entry, to, begun.is_some_and(|one| one.is_new)).await {
                        Some(outcome) => return outcome,
                        None => format!("{home_name} does not know what came of the move"),
                    }
                }
                Err(Unsaid::Refused(failed)) => return Err(refused(failed)),
                Err(Unsaid::Away(why)) if begun.is_none() && lost.is_none() => {
                    tracing::info!(%account, why, "the move of an account could not be begun");
                    return Err(NotMoved::Unavailable(format!(
                        "{home_name}, where it is at home, is not reached"
                    )));
                }
                Err(Unsaid::Away(why)) => why,
            };
            tracing::debug!(%account, why = unsaid, "the home of an account that moves gives no answer");
            if asked.elapsed() > WAS_THERE {
                lost = None;
            }
            let since = *lost.get_or_insert_with(Instant::now);
            if is_there(&*self.directory, entry.id, to.id).await {
                return Ok(Relocated::Moved);
            }
            if since.elapsed() > AWAY_MAX {
                let text =
                    format!("{home_name}, where it is at home, is away; the move goes on when it is back");
                return Err(NotMoved::Unavailable(text));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Asks the home, here or elsewhere.
    async fn go_on(
        &self,
        entry: &Entry,
        (home, home_name): (NodeId, &str),
        to: &Known,
        begun: &mut Option<Begun>,
    ) -> Result<Heard, Unsaid> {
        if home == self.cluster.links.identity().node {
            let known = match *begun {
                Some(known) => known,
                None => {
                    let new = begin(&self.mover, entry.id, to.id).await;
                    let new = new.map_err(|error| Unsaid::Refused(crate::admin::move_refused(&error)))?;
                    *begun.insert(new)
                }
            };
            return Ok(attend(&self.mover, known).await);
        }
        if !self.cluster.may_reach_accounts() {
            let text =
                format!("It is at home at {home_name}, and this node may not ask there; ask at another");
            return Err(Unsaid::Refused(Failed::new("not-allowed", text)));
        }
        let name = entry.name.to_string();
        let known = match *begun {
            Some(known) => known,
            None => {
                let args = json!({"name": name, "to": to.name, "join": true});
                let said = self.ask((home, home_name), "move.begin", args).await?;
                let new = serde_json::from_value(said).map_err(|_| senseless(home_name))?;
                *begun.insert(new)
            }
        };
        let said = self.ask((home, home_name), "move.wait", json!(known)).await?;
        serde_json::from_value(said).map_err(|_| senseless(home_name))
    }

    async fn ask(&self, home: (NodeId, &str), verb: &str, args: Value) -> Result<Value, Unsaid> {
        let unsaid = |failed: Failed| match failed.code.as_str() {
            "away" => Unsaid::Away(failed.text),
            _ => Unsaid::Refused(failed),
        };
        let mut client = self.cluster.errand(home, verb, args).await.map_err(unsaid)?;
        loop {
            match client.reply().await.map_err(|error| unsaid(super::lost(home.1, error)))? {
                Reply::Done(said) => return Ok(said),
                Reply::Failed(failed) => return Err(Unsaid::Refused(failed)),
                Reply::Progress(_) | Reply::Row(_) => {}
            }
        }
    }

    /// What is said of a move; none: that is not known yet.
    async fn outcome(
        &self,
        heard: Heard,
        entry: &Entry,
        to: &Known,
        is_new: bool,
    ) -> Option<Result<Relocated, NotMoved>> {
        Some(match heard {
            Heard::Moved => {
                known(&*self.directory, entry.id, to.id).await;
                Ok(Relocated::Moved)
            }
            Heard::Cancelled => Err(NotMoved::Unavailable("An operator has cancelled the move".to_owned())),
            Heard::Failed(why) => Err(NotMoved::Unavailable(format!("It stays where it is: {why}"))),
            Heard::Paused => Err(NotMoved::InUse(
                "An operator has paused the move; it goes on when that is resumed".to_owned(),
            )),
            Heard::Stuck(why) if is_new => Err(NotMoved::Unavailable(format!(
                "It stays where it is, since the move did not get on: {why}"
            ))),
            Heard::Stuck(why) => {
                let text = format!("The move was begun before, does not get on, and is tried again: {why}");
                Err(NotMoved::Unavailable(text))
            }
            // The home has been started anew: the directory knows whether the account has gone before that.
            Heard::Unknown => match self.directory.barrier().await {
                Ok(_) if is_there(&*self.directory, entry.id, to.id).await => Ok(Relocated::Moved),
                Ok(_) => Err(NotMoved::Unavailable("It stays where it is: the move was given up".to_owned())),
                Err(_) => return None,
            },
        })
    }

    async fn name_of(&self, node: NodeId) -> Result<String, NotMoved> {
        let nodes = self.nodes().await?;
        Ok(nodes
            .iter()
            .find(|one| one.id == node)
            .map_or_else(|| node.to_string(), |one| one.name.to_string()))
    }
}

/// Whether the directory says that an account is at home at a node.
async fn is_there(directory: &dyn Directory, account: AccountId, node: NodeId) -> bool {
    directory.by_id(account).await.is_ok_and(|entry| entry.home.node == node)
}

/// Waits until this node's copy of the directory says what is so, but not for ever.
pub(crate) async fn known(directory: &dyn Directory, account: AccountId, node: NodeId) {
    let known = async {
        let mut revisions = directory.subscribe();
        loop {
            revisions.mark_unchanged();
            if is_there(directory, account, node).await || revisions.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(KNOWN_WITHIN, known).await.is_err() {
        tracing::info!(%account, "an account has moved, and this node's directory has not heard of it");
    }
}

fn senseless(node: &str) -> Unsaid {
    Unsaid::Refused(Failed::new("failed", format!("{node}: its answer makes no sense")))
}

fn away(error: &DirectoryError) -> NotMoved {
    tracing::info!(%error, "the directory cannot say where an account is");
    NotMoved::Unavailable("The directory cannot be asked at the moment".to_owned())
}

/// What a home's refusal is, to whoever asked.
fn refused(failed: Failed) -> NotMoved {
    let mut letters = failed.text.chars();
    let text = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    match failed.code.as_str() {
        "exists" => NotMoved::InUse(text),
        "no-place" => NotMoved::Refused(text),
        _ => NotMoved::Unavailable(text),
    }
}
