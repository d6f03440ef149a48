//! `rookery move`, from the command line's side.

use serde_json::{Value, json};

use crate::cli::{MoveArgs, MoveCommand, MoveOf};
use crate::client::{call, print_rows, say};
use crate::config::Config;
use crate::exit::Failure;
use crate::output::{column, octets};

/// `rookery move`.
pub(crate) async fn r#move(config: &Config, args: MoveArgs) -> Result<(), Failure> {
    let Some(command) = args.command else {
        let (_, done) = call(config, "move.drain", json!({"node": args.from, "to": args.to})).await?;
        let begun = done.get("begun").and_then(Value::as_u64).unwrap_or(0);
        say(&format!("{begun} accounts begin to move; `rookery move status` shows them."));
        return Ok(());
    };
    match command {
        MoveCommand::User { name, to, wait } => begin(config, "user", &name, &to, wait).await?,
        MoveCommand::Shared { name, to, wait } => begin(config, "name", &name, &to, wait).await?,
        MoveCommand::Domain { name, to } => {
            let (_, done) = call(config, "move.domain", json!({"domain": name, "to": to})).await?;
            let count = |member: &str| done.get(member).and_then(Value::as_u64).unwrap_or(0);
            let begun =
                format!("{} accounts begin to move; `rookery move status` shows them.", count("begun"));
            match count("passed") {
                0 => say(&begun),
                passed => {
                    say(&format!("{begun} {passed} do not, since they move already or their home is away."))
                }
            }
        }
        MoveCommand::Status(json) => {
            let (mut rows, _) = call(config, "move.status", Value::Null).await?;
            if !json.json {
                told_once(&mut rows);
            }
            let columns = [
                column("ACCOUNT", "account"),
                column("FROM", "from"),
                column("TO", "to"),
                column("PHASE", "phase"),
                column("MESSAGES", "messages"),
                octets("SENT", "octets"),
                octets("OF", "account_octets"),
                octets("PER SECOND", "octets_per_s"),
                column("SECONDS", "age_s"),
                column("WAITS FOR", "why"),
            ];
            print_rows(json, &columns, rows);
        }
        MoveCommand::Pause(of) => {
            call(config, "move.pause", named(&of)).await?;
            say(&format!("The move of {} waits until it is resumed.", of.name));
        }
        MoveCommand::Resume(of) => {
            call(config, "move.resume", named(&of)).await?;
            say(&format!("The move of {} goes on.", of.name));
        }
        MoveCommand::Cancel(of) => {
            call(config, "move.cancel", named(&of)).await?;
            say(&format!("{} stays where it is.", of.name));
        }
    }
    Ok(())
}

fn named(of: &MoveOf) -> Value {
    match of.shared {
        true => json!({"name": of.name}),
        false => json!({"user": of.name}),
    }
}

/// Begins a move. `kind`: what the name is one of.
async fn begin(config: &Config, kind: &str, name: &str, to: &str, wait: bool) -> Result<(), Failure> {
    let (_, done) = call(config, "move.begin", json!({kind: name, "to": to, "wait": wait})).await?;
    match done.get("pause_ms").and_then(Value::as_u64) {
        Some(pause) => say(&format!("{name} is at {to} now; changes waited for {pause} ms.")),
        None => say(&format!("{name} begins to move to {to}; `rookery move status` shows how far it is.")),
    }
    Ok(())
}

/// Leaves out what the node says to which an account comes, where the account's home is there to say more.
fn told_once(rows: &mut Vec<Value>) {
    let comes = |row: &Value| row.get("phase").and_then(Value::as_str) == Some("receiving");
    let sent: Vec<Value> =
        rows.iter().filter(|row| !comes(row)).filter_map(|row| row.get("job").cloned()).collect();
    rows.retain(|row| !comes(row) || row.get("job").is_none_or(|job| !sent.contains(job)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_shown_once_though_two_nodes_tell_of_it() {
        let row = |job: &str, phase: &str| json!({"job": job, "phase": phase});
        let mut rows = vec![
            row("1", "receiving"),
            row("1", "copying"),
            row("2", "receiving"),
            json!({"phase": "unknown"}),
        ];
        told_once(&mut rows);
        assert_eq!(rows, [row("1", "copying"), row("2", "receiving"), json!({"phase": "unknown"})]);
    }
}
