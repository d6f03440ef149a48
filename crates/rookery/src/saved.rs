//! Commands about what was deleted and what was saved: undelete, export, restore.

use serde_json::{Value, json};

use crate::cli::{Export, Restore, Undelete};
use crate::client::{absolute, call, print_rows, say};
use crate::config::Config;
use crate::exit::{Failure, Kind};
use crate::output::{self, column, octets};

fn number(done: &Value, member: &str) -> u64 {
    done.get(member).and_then(Value::as_u64).unwrap_or(0)
}

/// `rookery undelete`.
pub(crate) async fn undelete(config: &Config, command: Undelete) -> Result<(), Failure> {
    match command {
        Undelete::Users(json) => {
            let (rows, _) = call(config, "undelete.users", Value::Null).await?;
            let columns = [column("NAME", "name"), column("MESSAGES", "messages"), octets("SIZE", "octets")];
            print_rows(json, &columns, rows);
        }
        Undelete::List { user, json } => {
            let (rows, _) = call(config, "undelete.list", json!({"user": user})).await?;
            let columns = [
                column("WHAT", "what"),
                column("MAILBOX", "mailbox"),
                column("MESSAGES", "messages"),
                octets("SIZE", "octets"),
            ];
            print_rows(json, &columns, rows);
        }
        Undelete::Messages { user, mailbox, within } => {
            let within_s = within.map(|hours| hours.saturating_mul(3600));
            let args = json!({"user": user, "mailbox": mailbox, "within_s": within_s});
            let (_, done) = call(config, "undelete.messages", args).await?;
            say(&format!("Brought back {} messages.", number(&done, "messages")));
        }
        Undelete::Mailbox { user, name, into } => {
            let args = json!({"user": user, "name": name, "into": into});
            let (_, done) = call(config, "undelete.mailbox", args).await?;
            say(&format!("Brought back {name} with {} messages.", number(&done, "messages")));
        }
        Undelete::User { user } => {
            let (_, done) = call(config, "undelete.user", json!({"user": user})).await?;
            let messages = number(&done, "messages");
            say(&format!(
                "Brought back {user} with {messages} messages. Set a password: rookery user passwd {user}"
            ));
        }
    }
    Ok(())
}

/// `rookery export`.
pub(crate) async fn export(config: &Config, args: Export) -> Result<(), Failure> {
    let Export { folder, user, json } = args;
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))?;
    let (_, done) = call(config, "export", json!({"path": absolute(&folder)?, "user": user})).await?;
    if json.json {
        output::json(&done);
    } else {
        say(&format!(
            "Exported {} accounts with {} messages; {} of them ({}) were new here.",
            number(&done, "accounts"),
            number(&done, "messages"),
            number(&done, "written"),
            output::size(number(&done, "octets")),
        ));
    }
    told(&done, "damaged", "messages could not be read")
}

/// `rookery restore`.
pub(crate) async fn restore(config: &Config, args: Restore) -> Result<(), Failure> {
    let Restore { folder, user, json } = args;
    let (_, done) = call(config, "restore", json!({"path": absolute(&folder)?, "user": user})).await?;
    if json.json {
        output::json(&done);
    } else {
        let (accounts, messages) = (number(&done, "accounts"), number(&done, "messages"));
        say(&format!("Restored {accounts} accounts with {messages} messages."));
    }
    told(&done, "left", "accounts were not restored")
}

/// Lists what went wrong; none: success.
fn told(done: &Value, member: &str, what: &str) -> Result<(), Failure> {
    let list = done.get(member).and_then(Value::as_array).cloned().unwrap_or_default();
    for text in &list {
        eprintln!("  {}", text.as_str().unwrap_or_default());
    }
    match list.len() {
        0 => Ok(()),
        count => Err(Failure::new(Kind::Damage, format!("{count} {what}"))),
    }
}
