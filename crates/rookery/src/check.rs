//! `rookery check`: through the running server, or offline under the data lock if none runs.

use std::collections::BTreeSet;

use rookery_admin::socket::{CallError, Client};
use rookery_directory::Home;
use rookery_directory::published::{self, Shared};
use rookery_directory::repair::Stored;
use rookery_store::AccountRecord;
use rookery_store::AccountState;
use rookery_store::Settings;
use rookery_store::check::{check, homes, repair, shared_mailboxes};
use rookery_types::{AccountId, AccountName};
use serde_json::{Value, json};

use crate::cli::Check;
use crate::config::Config;
use crate::data::Folder;
use crate::exit::{Failure, Kind};
use crate::output::{self, Bar};

/// Verifies, prints what was found; exit code 7 if that is damage.
pub(crate) async fn run(config: &Config, options: Check) -> Result<(), Failure> {
    let (rows, end) = match Client::connect(&config.admin_socket()).await {
        Ok(_) if options.repair => {
            return Err(Failure::new(Kind::InUse, "the server runs; stop it to repair"));
        }
        Ok(_) if options.digests => {
            return Err(Failure::new(Kind::InUse, "the server runs; stop it for digests"));
        }
        Ok(mut client) => {
            let mut bar = Bar::new();
            let answer = client.call("check", json!({"user": options.user}), |now| bar.show(now)).await;
            bar.finish();
            answer?
        }
        Err(CallError::NoServer { source, .. })
            if source.kind() != std::io::ErrorKind::PermissionDenied && options.user.is_none() =>
        {
            return offline(config, options).await;
        }
        Err(error) => return Err(error.into()),
    };
    tell(options, rows, end)
}

/// Checks, and repairs if asked, a data folder that no server uses. Needs no store that opens.
async fn offline(config: &Config, options: Check) -> Result<(), Failure> {
    if !config.data_dir.is_dir() {
        let text = format!("there is no data folder {}", config.data_dir.display());
        return Err(Failure::new(Kind::NotFound, text));
    }
    let folder = Folder::open(config).await?;
    if options.digests {
        let work = tokio::task::spawn_blocking(move || digests(&*folder.engine));
        let digests = work.await.map_err(|error| Failure::failed(error.to_string()))??;
        match options.json.json {
            true => output::json(&json!(digests)),
            false => digests.iter().for_each(|digest| output::line(&digest.to_string())),
        }
        return Ok(());
    }
    let domain = config.default_domain.clone();
    let work = tokio::task::spawn_blocking(move || look(&folder, options.repair, &domain));
    let found = work.await.map_err(|error| Failure::failed(error.to_string()))??;
    if options.json.json {
        output::json(&json!({"checked": "offline", "faults": found.left, "mended": found.mended}));
    } else {
        let rows = found.mended.iter().map(|(text, outcome)| format!("{text}: {outcome}"));
        rows.chain(found.left.iter().cloned()).for_each(|row| output::line(&row));
        output::line(&match (found.mended.len(), found.left.len()) {
            (0, 0) => {
                "Checked the data folder (no server runs), every record and every message: no damage found."
                    .to_owned()
            }
            (mended, 0) => format!("{mended} records mended or set aside; a second check found no damage."),
            (0, left) if !options.repair => {
                format!("{left} faults; `rookery check --repair` mends what it can and destroys nothing.")
            }
            (mended, left) => format!("{mended} records mended or set aside, {left} faults are left."),
        });
    }
    if found.left.is_empty() { Ok(()) } else { Err(Failure::new(Kind::Damage, "")) }
}

/// What the store has of an account.
#[derive(serde::Serialize)]
struct Digest {
    account: u64,
    user: Option<String>,
    /// `home`; `left` of one that is at another node now.
    state: &'static str,
    /// Its epoch at its home.
    epoch: u64,
    digest: String,
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Digest { account, user, state, epoch, digest } = self;
        let user = user.as_deref().unwrap_or("shared");
        write!(f, "{digest}  {state} in epoch {epoch}  account {account}, {user}")
    }
}

/// Of the accounts that are at home here, or have gone from here.
fn digests(engine: &dyn rookery_kv::Engine) -> Result<Vec<Digest>, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::failed(crate::exit::with_causes(error));
    let all = rookery_store::check::digests(engine).map_err(|error| failed(&error))?;
    Ok(all
        .into_iter()
        .filter_map(|(id, record, digest)| {
            let (state, epoch) = match record.state {
                AccountState::Home => ("home", record.epoch),
                AccountState::Released(to) | AccountState::Moved(to) => ("left", to.epoch),
                AccountState::Deleted | AccountState::Receiving(_) | AccountState::Ready(_) => return None,
            };
            let digest = digest.iter().map(|octet| format!("{octet:02x}")).collect();
            let user = record.owner.map(|user| user.to_string());
            Some(Digest { account: id.get(), user, state, epoch: epoch.0, digest })
        })
        .collect())
}

/// What a check, or a repair, came to.
struct Found {
    /// What was found and what became of it.
    mended: Vec<(String, String)>,
    /// What is damaged still.
    left: Vec<String>,
}

fn look(folder: &Folder, mend: bool, default_domain: &str) -> Result<Found, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::failed(crate::exit::with_causes(error));
    let engine = &*folder.engine;
    let mut found = Found { mended: Vec::new(), left: Vec::new() };
    if mend {
        let report = repair(engine, folder.files.clone()).map_err(|error| failed(&error))?;
        let done = report.done.iter();
        found.mended = done.map(|(finding, outcome)| (finding.to_string(), outcome.to_string())).collect();
        found.left = report.left.iter().map(ToString::to_string).collect();
        // After the store, whose accounts are what the directory is made to agree with.
        let stored: Vec<Stored> =
            homes(engine).map_err(|error| failed(&error))?.into_iter().map(stored).collect();
        let mended = rookery_directory::repair::repair(engine, &stored, default_domain);
        let mut mended = mended.map_err(|error| failed(&error))?;
        let shared = shared(engine)?;
        let (batch, grants) =
            published::rebuild(engine, &shared, &here(engine)?).map_err(|error| failed(&error))?;
        engine.commit(batch).map_err(|error| failed(&error))?;
        mended.extend(grants);
        found.mended.extend(mended.into_iter().map(|m| (m.finding, m.outcome)));
    } else {
        let findings = check(engine, folder.files.clone()).map_err(|error| failed(&error))?;
        found.left = findings.iter().map(ToString::to_string).collect();
    }
    let mut fault = |damaged: rookery_directory::Damaged| found.left.push(damaged.to_string());
    rookery_directory::check::check(&*engine.snapshot(), &mut fault).map_err(|error| failed(&error))?;
    let shared = shared(engine)?;
    published::check(engine, &shared, &here(engine)?, &mut fault).map_err(|error| failed(&error))?;
    Ok(found)
}

/// The store's mailboxes that others may see.
fn shared(engine: &dyn rookery_kv::Engine) -> Result<Vec<Shared>, Failure> {
    let shared = shared_mailboxes(engine);
    let shared = shared.map_err(|error| Failure::failed(crate::exit::with_causes(&error)))?;
    let one = |(mailbox, settings)| {
        let Settings { path, acl, special_use, .. } = settings;
        Shared { mailbox, path, acl, special_use }
    };
    Ok(shared.into_iter().map(one).collect())
}

/// The accounts of the store.
fn here(engine: &dyn rookery_kv::Engine) -> Result<BTreeSet<AccountId>, Failure> {
    let homes = homes(engine).map_err(|error| Failure::failed(crate::exit::with_causes(&error)))?;
    Ok(homes.into_iter().map(|(id, _)| id).collect())
}

/// An account as the directory needs to know it.
fn stored((id, record): (AccountId, AccountRecord)) -> Stored {
    let home = Home { node: record.node, store: record.store, epoch: record.epoch };
    Stored { id, name: record.owner.map(AccountName::User), home }
}

fn tell(options: Check, rows: Vec<Value>, end: Value) -> Result<(), Failure> {
    let number = |member: &str| end.get(member).and_then(Value::as_u64).unwrap_or(0);
    let faults = number("faults");
    if options.json.json {
        output::json(&json!({"checked": "running", "sums": end, "faults": rows}));
    } else {
        for row in &rows {
            output::line(row.get("fault").and_then(Value::as_str).unwrap_or_default());
        }
        output::line(&format!(
            "Checked the messages of the running server (stopped, it can be checked record by record): {} accounts, {} mailboxes, {} messages ({}); {}.",
            number("accounts"),
            number("mailboxes"),
            number("messages"),
            output::size(number("octets")),
            if faults == 0 { "no damage found".to_owned() } else { format!("{faults} faults") },
        ));
    }
    if faults == 0 { Ok(()) } else { Err(Failure::new(Kind::Damage, "")) }
}
