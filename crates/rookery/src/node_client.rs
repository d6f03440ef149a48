//! Commands about nodes of a cluster.

use serde_json::{Value, json};

use crate::cli::{Json, NodeCommand, OfNode, PlacementCommand};
use crate::client::{call, confirm, print_members, print_rows, say, shown};
use crate::config::Config;
use crate::exit::Failure;
use crate::output::{self, column, octets};

/// `rookery node`.
pub(crate) async fn node(config: &Config, command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::List(json) => {
            let (rows, _) = call(config, "node.list", Value::Null).await?;
            let columns = [
                column("NODE", "name"),
                column("ID", "id"),
                column("ADDRESS", "address"),
                column("SERVE", "serve"),
                column("HOLD", "hold"),
                column("ACCOUNTS", "accounts"),
                octets("FREE", "octets_free"),
                column("TAGS", "tags"),
                column("VERSION", "version"),
                column("LINK", "link"),
            ];
            print_rows(json, &columns, rows);
        }
        NodeCommand::Show { of, json } => {
            let (_, node) = call(config, "node.show", json!({"node": of.node})).await?;
            print_members(json, &node);
        }
        NodeCommand::Serve { duty, within, of } => {
            let args = json!({"node": of.node, "serve": duty.word(), "within_s": within});
            let (_, done) = call(config, "node.edit", args).await?;
            let name = shown(&done, "node");
            if !told_later(&done) {
                match (duty.word(), done.get("clients").and_then(Value::as_u64).unwrap_or(0)) {
                    ("on", _) => say(&format!("{name} takes clients.")),
                    ("cordon", _) => say(&format!("{name} takes no new clients.")),
                    (_, 0) => say(&format!("{name} takes no clients, and has none.")),
                    (_, left) => say(&format!("{name} takes no clients; {left} have not left.")),
                }
            }
        }
        NodeCommand::Hold { duty, of } => {
            let (_, done) = call(config, "node.edit", json!({"node": of.node, "hold": duty.word()})).await?;
            let name = shown(&done, "node");
            say(&match duty.word() {
                "on" => format!("{name} holds accounts, and takes new ones."),
                "cordon" => format!("{name} takes no new accounts."),
                "drain" => format!("The accounts of {name} move to other nodes; see: rookery move status"),
                _ => format!("{name} holds no accounts."),
            });
        }
        NodeCommand::Tag { tags, of: OfNode { node } } => {
            let (_, done) = call(config, "node.edit", json!({"node": node, "tags": tags})).await?;
            let tags: Vec<&str> = done
                .get("tags")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let name = shown(&done, "node");
            say(&match tags.is_empty() {
                true => format!("{name} has no tags."),
                false => format!("{name} has the tags {}.", tags.join(", ")),
            });
        }
        NodeCommand::Remove { name, lost, yes } => {
            confirm(yes, &format!("Take the node {name} out of the cluster for good?"))?;
            let (rows, done) = call(config, "node.remove", json!({"name": name, "lost": lost})).await?;
            for row in &rows {
                output::line(shown(row, "account"));
            }
            match done.get("accounts").and_then(Value::as_u64).unwrap_or(0) {
                0 => say(&format!("{name} is no node of the cluster any more.")),
                count => say(&format!(
                    "{name} is no node of the cluster any more. {count} accounts are away until they are restored from an \
                     export (rookery restore)."
                )),
            }
        }
        NodeCommand::Accept => {
            call(config, "node.accept", Value::Null).await?;
            say("This node holds what its store has.");
        }
        NodeCommand::Token { duties, hours } => {
            let (_, answer) = call(config, "node.token", json!({"duties": duties, "hours": hours})).await?;
            output::line(shown(&answer, "token"));
        }
    }
    Ok(())
}

/// `rookery placement`.
pub(crate) async fn placement(config: &Config, command: PlacementCommand) -> Result<(), Failure> {
    match command {
        PlacementCommand::List(json) => {
            let (rows, _) = call(config, "placement.list", Value::Null).await?;
            print_rows(json, &[column("DOMAIN", "domain"), column("AT", "to")], rows);
        }
        PlacementCommand::Set { domain, to } => {
            call(config, "placement.set", json!({"domain": domain, "to": to})).await?;
            say(&format!("New accounts of {domain} are placed at {}.", to.join(", ")));
        }
        PlacementCommand::Delete { domain } => {
            call(config, "placement.set", json!({"domain": domain})).await?;
            say(&format!("New accounts of {domain} are placed at any node."));
        }
    }
    Ok(())
}

/// `rookery balance`.
pub(crate) async fn balance(config: &Config, dry_run: bool, json: Json) -> Result<(), Failure> {
    let (rows, done) = call(config, "balance", json!({"dry_run": dry_run})).await?;
    let columns =
        [column("ACCOUNT", "account"), column("FROM", "from"), column("TO", "to"), octets("SIZE", "octets")];
    if json.json || !rows.is_empty() {
        print_rows(json, &columns, rows);
    }
    if json.json {
        return Ok(());
    }
    let number = |member: &str| done.get(member).and_then(Value::as_u64).unwrap_or(0);
    say(&match number("accounts") {
        0 => "The nodes are even.".to_owned(),
        count if dry_run => format!("{count} accounts ({}) would move.", output::size(number("octets"))),
        count => format!(
            "{count} accounts ({}) move; {} could not begin. See: rookery move status",
            output::size(number("octets")),
            number("passed")
        ),
    });
    Ok(())
}

/// Says so if a node that is away will do something only when it is back.
fn told_later(done: &Value) -> bool {
    let is_later = done.get("reached").and_then(Value::as_bool) == Some(false);
    if is_later {
        say(&format!("{} is away; it will do so when it is back.", shown(done, "node")));
    }
    is_later
}
