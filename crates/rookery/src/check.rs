//! `rookery check`: through the running server, or offline under the data lock if none runs.

use rookery_admin::socket::{CallError, Client, Progress};
use serde_json::{Value, json};

use crate::admin::{Report, check};
use crate::cli::Check;
use crate::config::Config;
use crate::exit::{Failure, Kind};
use crate::output::{self, Bar};
use crate::serve::Data;

/// Verifies, prints what was found; exit code 7 if that is damage.
pub(crate) async fn run(config: &Config, options: Check) -> Result<(), Failure> {
    if options.repair {
        return Err(Failure::failed("this version cannot repair yet; without --repair the check only reads"));
    }
    let (rows, end, how) = match Client::connect(&config.admin_socket()).await {
        Ok(mut client) => {
            let mut bar = Bar::new();
            let answer = client.call("check", Value::Null, |now| bar.show(now)).await;
            bar.finish();
            let (rows, end) = answer?;
            (rows, end, "running")
        }
        Err(CallError::NoServer { source, .. }) if source.kind() != std::io::ErrorKind::PermissionDenied => {
            let (rows, end) = offline(config).await?;
            (rows, end, "offline")
        }
        Err(error) => return Err(error.into()),
    };
    tell(options, rows, end, how)
}

/// Faults as they come, kept; progress on the terminal.
struct Collected {
    rows: std::sync::Mutex<Vec<Value>>,
    bar: std::sync::Mutex<Bar>,
}

impl Report for Collected {
    async fn fault(&self, text: String) -> Result<(), ()> {
        self.rows.lock().map_err(|_| ())?.push(json!({"fault": text}));
        Ok(())
    }

    async fn progress(&self, done: u64, text: &str) -> Result<(), ()> {
        let now = Progress { done, total: None, text: text.to_owned() };
        self.bar.lock().map_err(|_| ())?.show(&now);
        Ok(())
    }
}

async fn offline(config: &Config) -> Result<(Vec<Value>, Value), Failure> {
    if !config.data_dir.is_dir() {
        return Err(Failure::new(
            Kind::NotFound,
            format!("there is no data folder {}", config.data_dir.display()),
        ));
    }
    let data = Data::open(config, false).await?;
    let collected = Collected { rows: Default::default(), bar: std::sync::Mutex::new(Bar::new()) };
    let end = check(&data.node, &collected).await.map_err(Failure::failed);
    data.close().await;
    if let Ok(bar) = collected.bar.into_inner() {
        bar.finish();
    }
    Ok((collected.rows.into_inner().unwrap_or_default(), end?))
}

fn tell(options: Check, rows: Vec<Value>, end: Value, how: &str) -> Result<(), Failure> {
    let number = |member: &str| end.get(member).and_then(Value::as_u64).unwrap_or(0);
    let faults = number("faults");
    if options.json.json {
        output::json(&json!({"checked": how, "sums": end, "faults": rows}));
    } else {
        for row in &rows {
            output::line(row.get("fault").and_then(Value::as_str).unwrap_or_default());
        }
        let whom = if how == "running" { "the running server" } else { "the data folder (no server runs)" };
        output::line(&format!(
            "Checked {whom}: {} accounts, {} mailboxes, {} messages ({}); {}.",
            number("accounts"),
            number("mailboxes"),
            number("messages"),
            output::size(number("octets")),
            if faults == 0 { "no damage found".to_owned() } else { format!("{faults} faults") },
        ));
    }
    if faults == 0 { Ok(()) } else { Err(Failure::new(Kind::Damage, "")) }
}
