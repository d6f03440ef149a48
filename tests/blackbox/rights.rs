//! `rookery acl`, `rookery group` and `rookery domain`, and what users see of them.

use anyhow::{Result, ensure};
use rookery_tests::server::Server;
use serde_json::Value;

use crate::server_with_joe;

fn said(server: &Server, args: &[&str]) -> Result<Value> {
    let output = server.cli(args, b"")?;
    ensure!(output.status.success(), "{args:?}: {}", output.text());
    Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

#[test]
fn groups_and_rights_by_the_command_line() -> Result<()> {
    let mut server = server_with_joe()?;
    server.add_user("ann")?;
    let mut ann = server.login("ann")?;
    for args in [
        &["group", "add", "Staff"][..],
        &["acl", "set", "user/joe/Archive", "group:staff", "lr"],
        &["acl", "set", "user/joe/Archive", "group:staff", "+s"],
        &["acl", "set", "user/joe/Archive", "-ann", "s"],
        &["group", "join", "staff", "ann"],
        &["domain", "add", "example.net"],
    ] {
        said(&server, args)?;
    }
    let entries = said(&server, &["acl", "show", "user/joe/Archive", "--json"])?;
    ensure!(entries[1]["identifier"] == "group:staff" && entries[1]["rights"] == "lrs", "{entries}");
    ensure!(entries[2]["identifier"] == "-ann", "{entries}");
    let members = said(&server, &["group", "members", "staff", "--json"])?;
    ensure!(members[0]["user"] == "ann", "{members}");
    let listed = ann.ok("LIST \"\" \"Other Users/*/%\"")?.lines();
    ensure!(listed.iter().any(|line| line.contains("Other Users/joe/Archive")), "{listed:?}");
    said(&server, &["group", "leave", "staff", "ann"])?;
    let listed = ann.ok("LIST \"\" \"Other Users/*/%\"")?.lines();
    ensure!(!listed.iter().any(|line| line.contains("Archive")), "{listed:?}");
    said(&server, &["acl", "delete", "user/joe/Archive", "group:staff"])?;
    said(&server, &["group", "delete", "staff"])?;
    let groups = said(&server, &["group", "list", "--json"])?;
    ensure!(groups == Value::Array(Vec::new()), "{groups}");
    let domains = said(&server, &["domain", "list", "--json"])?;
    ensure!(domains[0]["domain"] == "example.net" && domains[1]["default"] == true, "{domains}");
    said(&server, &["domain", "delete", "example.net"])?;
    let refused = server.cli(&["domain", "delete", "example.org"], b"")?;
    ensure!(!refused.status.success(), "a domain with accounts was deleted");
    let refused = server.cli(&["group", "join", "staff", "ann"], b"")?;
    ensure!(refused.status.code() == Some(3), "{}", refused.text());
    server.stop()
}
