//! `rookery move`: accounts that go to other nodes. What is about one account is done at its home.

use std::time::Duration;

use rookery_admin::socket::{Failed, Replies, Reply};
use rookery_directory::{AccountFilter, AccountState, DirectoryError, Node as Known, PAGE_MAX};
use rookery_route::{MoveOutcome, MoveStatus, MoverError, Phase};
use rookery_types::namespace::AdminNames;
use rookery_types::{AccountId, AccountName, Address, NameError, NodeId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Desk;
use crate::cluster::lost;
use crate::cluster::relocating::{self, Begun};
use crate::node::NodeError;

/// How often whoever waits is told how far a move is.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Whose move: a user's, or that of the account of a mailbox's name.
#[derive(Deserialize)]
pub(super) struct Of {
    user: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Begin {
    #[serde(flatten)]
    of: Of,
    to: String,
    #[serde(default)]
    wait: bool,
    /// A move that goes there already will do.
    #[serde(default)]
    join: bool,
}

#[derive(Deserialize)]
pub(super) struct Domain {
    domain: String,
    to: String,
}

#[derive(Deserialize)]
pub(super) struct Drain {
    to: Option<String>,
}

/// What the mover says, for the command line.
pub(crate) fn refused(error: &MoverError) -> Failed {
    let code = match error {
        MoverError::NoNode | MoverError::NoMove => "not-found",
        MoverError::AlreadyThere | MoverError::OnItsWay => "exists",
        MoverError::Closed { .. } => "no-place",
        _ => "failed",
    };
    Failed::new(code, crate::exit::with_causes(error))
}

async fn nodes(desk: &Desk) -> Result<Vec<Known>, Failed> {
    Ok(desk.node.directory.nodes().await.map_err(NodeError::from)?)
}

/// A node by its name or id.
fn named(nodes: &[Known], name: &str) -> Result<NodeId, Failed> {
    let found = nodes.iter().find(|node| *node.name == *name || node.id.to_string() == name);
    found.map(|node| node.id).ok_or_else(|| Failed::new("not-found", format!("there is no node {name}")))
}

fn name_of(nodes: &[Known], id: NodeId) -> String {
    let name = nodes.iter().find(|node| node.id == id).map(|node| node.name.to_string());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| id.to_string())
}

async fn account(desk: &Desk, of: &Of) -> Result<AccountId, Failed> {
    let usage = |error: NameError| Failed::new("usage", error.to_string());
    let account = match (&of.user, &of.name) {
        (Some(user), _) => AccountName::User(desk.node.user(user)?),
        (None, Some(name)) => {
            let names = AdminNames::new(&desk.node.config.default_domain).map_err(usage)?;
            let address = names.parse(name).map_err(usage)?;
            if address != Address::top(address.account().clone()) {
                let text = format!("{name} is kept where the mailboxes above it are; name the uppermost");
                return Err(Failed::new("usage", text));
            }
            address.into_parts().0
        }
        (None, None) => return Err(Failed::new("usage", "say whose account")),
    };
    match desk.node.directory.look_up(&account).await {
        Ok(entry) if matches!(entry.state, AccountState::Active | AccountState::Suspended) => Ok(entry.id),
        Ok(_) | Err(DirectoryError::NotFound(_)) => Err(Failed::new(
            "not-found",
            match account.user() {
                Some(user) => format!("the user {} has no mailboxes", desk.node.shown(user)),
                None => format!("there are no shared mailboxes {account}"),
            },
        )),
        Err(error) => Err(NodeError::from(error).into()),
    }
}

/// Begins the move of one account that is at home here, and perhaps waits for its end.
pub(super) async fn begin(desk: &Desk, args: Begin, replies: &Replies) -> Result<Value, Failed> {
    let to = named(&nodes(desk).await?, &args.to)?;
    let account = account(desk, &args.of).await?;
    if args.join {
        let begun = relocating::begin(&desk.mover, account, to).await.map_err(|error| refused(&error))?;
        return Ok(json!(begun));
    }
    let job = desk.mover.begin(account, to).await.map_err(|error| refused(&error))?;
    if !args.wait {
        return Ok(json!({"outcome": "begun"}));
    }
    let wait = desk.mover.wait(account, job);
    tokio::pin!(wait);
    loop {
        let outcome = match tokio::time::timeout(TELL_EVERY, &mut wait).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let status = desk.mover.status().map_err(|error| super::failed(&error))?;
                if let Some(one) = status.iter().find(|one| one.job == job) {
                    // Whoever asked may have gone; the move goes on.
                    let _ = replies.progress(one.messages, None, one.phase.name()).await;
                }
                continue;
            }
        };
        return match outcome {
            Some(MoveOutcome::Moved { pause }) => {
                // Whoever asks next is sent to where it is now.
                relocating::known(&*desk.node.directory, account, to).await;
                let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                Ok(json!({"outcome": "moved", "pause_ms": pause}))
            }
            Some(MoveOutcome::Cancelled) => Err(Failed::new("failed", "the move was cancelled")),
            Some(MoveOutcome::Failed(why)) => Err(Failed::new("failed", why)),
            None => Err(Failed::new("failed", "it is not known what became of the move")),
        };
    }
}

/// Waits for a move that was begun, for somebody at another node.
pub(super) async fn wait(desk: &Desk, begun: Begun) -> Result<Value, Failed> {
    Ok(json!(relocating::attend(&desk.mover, begun).await))
}

/// Begins the moves of all accounts of a domain that are not there.
pub(super) async fn domain(desk: &Desk, args: Domain) -> Result<Value, Failed> {
    let nodes = nodes(desk).await?;
    let to = named(&nodes, &args.to)?;
    let filter =
        AccountFilter { domain: Some(args.domain.to_lowercase().into()), ..AccountFilter::default() };
    let (mut after, mut begun, mut passed) = (None, 0_u64, 0_u64);
    loop {
        let page = desk.node.directory.list(filter.clone(), after, PAGE_MAX).await;
        let page = page.map_err(NodeError::from)?;
        for entry in page.entries {
            let moves = matches!(entry.state, AccountState::Active | AccountState::Suspended);
            if !moves || entry.home.node == to {
                continue;
            }
            let started = match (entry.home.node == desk.node.store.node(), &desk.cluster) {
                (false, Some(cluster)) => {
                    let name = name_of(&nodes, entry.home.node);
                    let args = json!({"name": entry.name.to_string(), "to": args.to});
                    match cluster.errand((entry.home.node, &name), "move.begin", args).await {
                        Ok(mut client) => match client.reply().await {
                            Ok(Reply::Failed(failed)) => Err(failed),
                            Ok(_) => Ok(()),
                            Err(error) => Err(lost(&name, error)),
                        },
                        Err(failed) => Err(failed),
                    }
                }
                _ => desk.mover.begin(entry.id, to).await.map(drop).map_err(|error| refused(&error)),
            };
            match started {
                Ok(()) => begun += 1,
                Err(failed) => {
                    tracing::info!(account = %entry.name, why = failed.text, "a move was not begun");
                    passed += 1;
                }
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(json!({"begun": begun, "passed": passed})),
        }
    }
}

/// Begins the moves of all accounts that are at home here.
pub(super) async fn drain(desk: &Desk, args: Drain) -> Result<Value, Failed> {
    let nodes = nodes(desk).await?;
    let to = args.to.map(|to| named(&nodes, &to)).transpose()?;
    Ok(json!({"begun": desk.mover.drain(to).await.map_err(|error| refused(&error))?}))
}

/// What a move waits for that nothing keeps from going on.
fn waits_for(one: &MoveStatus) -> Option<&'static str> {
    match (one.paused, one.phase) {
        (true, _) => Some("an operator paused it"),
        (false, Phase::Waiting) => Some("others, which come first"),
        (false, Phase::Switching) => Some("commands under way"),
        (false, Phase::Announcing) => Some("the directory to know"),
        (false, _) => None,
    }
}

/// The moves that this node has a part in, each a row.
pub(super) async fn here(desk: &Desk, replies: &Replies) -> Result<Value, Failed> {
    let nodes = nodes(desk).await?;
    let here = name_of(&nodes, desk.node.store.node());
    for one in desk.mover.status().map_err(|error| super::failed(&error))? {
        let account = match desk.node.directory.by_id(one.account).await {
            Ok(entry) => entry.name.to_string(),
            Err(_) => format!("account {}", one.account),
        };
        let peer = name_of(&nodes, one.peer);
        let (from, to) = match one.phase {
            Phase::Receiving => (&peer, &here),
            _ => (&here, &peer),
        };
        let record = desk.node.store.account_record(one.account).map_err(|error| super::failed(&error))?;
        let trouble = one.trouble.as_ref().filter(|_| !one.paused);
        let why = trouble.map(|(why, _)| why.as_str()).or_else(|| waits_for(&one));
        let row = json!({
            "node": here,
            "account": account,
            "peer": peer,
            "from": from,
            "to": to,
            "phase": if one.paused { "paused" } else { one.phase.name() },
            "messages": one.messages,
            "octets": one.octets,
            "account_octets": record.filter(|_| one.phase != Phase::Receiving).map(|record| record.octets),
            "octets_per_s": one.octets_per_second,
            "age_s": super::transit::age(one.unix_seconds),
            "job": one.job.to_string(),
            "why": why,
        });
        if replies.row(row).await.is_err() {
            break;
        }
    }
    Ok(Value::Null)
}

/// The moves of all nodes that answer, each a row; a row for each node that does not.
pub(super) async fn status(desk: &Desk, replies: &Replies) -> Result<Value, Failed> {
    here(desk, replies).await?;
    let Some(cluster) = &desk.cluster else { return Ok(Value::Null) };
    for node in nodes(desk).await? {
        if node.id == desk.node.store.node() {
            continue;
        }
        let asked = cluster.pass_on((node.id, &node.name), "move.here", json!({}), replies).await;
        if let Err(failed) = asked
            && replies.row(json!({"node": node.name, "phase": "unknown", "why": failed.text})).await.is_err()
        {
            break;
        }
    }
    Ok(Value::Null)
}

/// Stops a move of an account that is at home here, or lets it go on.
pub(super) async fn pause(desk: &Desk, args: Of, paused: bool) -> Result<Value, Failed> {
    desk.mover.pause(account(desk, &args).await?, paused).await.map_err(|error| refused(&error))?;
    Ok(Value::Null)
}

/// Gives a move of an account that is at home here up.
pub(super) async fn cancel(desk: &Desk, args: Of) -> Result<Value, Failed> {
    desk.mover.cancel(account(desk, &args).await?).await.map_err(|error| refused(&error))?;
    Ok(Value::Null)
}
