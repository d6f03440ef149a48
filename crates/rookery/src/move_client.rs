//! `rookery move`, from the command line's side.

use serde_json::{Value, json};

use crate::cli::{MoveArgs, MoveCommand};
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
        MoveCommand::User { name, to, wait } => {
            let args = json!({"user": name, "to": to, "wait": wait});
            let (_, done) = call(config, "move.begin", args).await?;
            match done.get("pause_ms").and_then(Value::as_u64) {
                Some(pause) => say(&format!("{name} is at {to} now; changes waited for {pause} ms.")),
                None => {
                    say(&format!("{name} begins to move to {to}; `rookery move status` shows how far it is."))
                }
            }
        }
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
            let (rows, _) = call(config, "move.status", Value::Null).await?;
            let columns = [
                column("NODE", "node"),
                column("ACCOUNT", "account"),
                column("OTHER NODE", "peer"),
                column("PHASE", "phase"),
                column("MESSAGES", "messages"),
                octets("SIZE", "octets"),
                column("SECONDS", "age_s"),
                column("WHY", "why"),
            ];
            print_rows(json, &columns, rows);
        }
        MoveCommand::Pause { user } => {
            call(config, "move.pause", json!({"user": user})).await?;
            say(&format!("The move of {user} waits until it is resumed."));
        }
        MoveCommand::Resume { user } => {
            call(config, "move.resume", json!({"user": user})).await?;
            say(&format!("The move of {user} goes on."));
        }
        MoveCommand::Cancel { user } => {
            call(config, "move.cancel", json!({"user": user})).await?;
            say(&format!("{user} stays where it is."));
        }
    }
    Ok(())
}
