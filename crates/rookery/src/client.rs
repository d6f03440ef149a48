//! Commands that ask the running server.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rookery_admin::socket::Client;
use serde_json::{Value, json};

use crate::cli::{
    Acl, Alias, Domain, Group, Import, ImportArgs, Json, Mailbox, NewPassword, Quota, QuotaLimits,
    TransitCommand, User,
};
use crate::config::Config;
use crate::exit::{Failure, Kind};
use crate::output::{self, Bar, column, octets};

/// Asks the server and shows its progress.
pub(crate) async fn call(config: &Config, verb: &str, args: Value) -> Result<(Vec<Value>, Value), Failure> {
    let mut client = Client::connect(&config.admin_socket()).await?;
    let mut bar = Bar::new();
    let answer = client.call(verb, args, |now| bar.show(now)).await;
    bar.finish();
    Ok(answer?)
}

/// `rookery user`.
pub(crate) async fn user(config: &Config, command: User) -> Result<(), Failure> {
    match command {
        User::Add { name, login_only, node, password } => {
            let password = new_password(&name, &password)?;
            let args = json!({"name": name, "password": password, "login_only": login_only, "node": node});
            let (_, done) = call(config, "user.add", args).await?;
            say(&format!("Added {}.", shown(&done, "name")));
        }
        User::List(json) => {
            let (rows, _) = call(config, "user.list", Value::Null).await?;
            let columns = [
                column("NAME", "name"),
                column("STATE", "state"),
                column("ADMIN", "admin"),
                column("MAILBOXES", "mailboxes"),
                column("MESSAGES", "messages"),
                octets("SIZE", "octets"),
                column("HOME", "home"),
            ];
            print_rows(json, &columns, rows);
        }
        User::Passwd { name, password } => {
            let password = new_password(&name, &password)?;
            call(config, "user.passwd", json!({"name": name, "password": password})).await?;
            say("The password is changed.");
        }
        User::Suspend { name } => {
            call(config, "user.suspend", json!({"name": name})).await?;
            say(&format!("{name} cannot log in any more."));
        }
        User::Resume { name } => {
            call(config, "user.resume", json!({"name": name})).await?;
            say(&format!("{name} can log in again."));
        }
        User::Delete { name, yes } => {
            confirm(yes, &format!("Delete the account {name} with all its mail?"))?;
            call(config, "user.delete", json!({"name": name})).await?;
            say(&format!("Deleted {name}."));
        }
    }
    Ok(())
}

/// `rookery alias`.
pub(crate) async fn alias(config: &Config, command: Alias) -> Result<(), Failure> {
    match command {
        Alias::Add { name, targets } => {
            let (_, done) = call(config, "alias.add", json!({"name": name, "targets": targets})).await?;
            say(&format!("{} leads to {}.", shown(&done, "name"), shown(&done, "targets")));
        }
        Alias::List { domain, json } => {
            let (rows, _) = call(config, "alias.list", json!({"domain": domain})).await?;
            print_rows(json, &[column("ALIAS", "name"), column("TARGETS", "targets")], rows);
        }
        Alias::Delete { name } => {
            call(config, "alias.delete", json!({"name": name})).await?;
            say(&format!("Deleted the alias {name}."));
        }
    }
    Ok(())
}

/// `rookery mailbox`.
pub(crate) async fn mailbox(config: &Config, command: Mailbox) -> Result<(), Failure> {
    match command {
        Mailbox::List { user, json } => {
            let (rows, _) = call(config, "mailbox.list", json!({"user": user})).await?;
            let columns = [
                column("NAME", "name"),
                column("MESSAGES", "messages"),
                column("UNSEEN", "unseen"),
                octets("SIZE", "octets"),
                column("SUBSCRIBED", "subscribed"),
                column("USE", "special_use"),
            ];
            print_rows(json, &columns, rows);
        }
        Mailbox::Create { user, name, special_use } => {
            let args = json!({"user": user, "name": name, "special_use": special_use});
            call(config, "mailbox.create", args).await?;
            say(&format!("Created {name}."));
        }
        Mailbox::Delete { user, name, yes } => {
            confirm(yes, &format!("Delete the mailbox {name} of {user} with its mail?"))?;
            call(config, "mailbox.delete", json!({"user": user, "name": name})).await?;
            say(&format!("Deleted {name}."));
        }
        Mailbox::Rename { user, from, to } => {
            call(config, "mailbox.rename", json!({"user": user, "from": from, "to": to})).await?;
            say(&format!("Renamed {from} to {to}."));
        }
        Mailbox::Info { user, name, json } => {
            let (_, info) = call(config, "mailbox.info", json!({"user": user, "name": name})).await?;
            print_members(json, &info);
        }
    }
    Ok(())
}

/// `rookery quota`.
pub(crate) async fn quota(config: &Config, command: Quota) -> Result<(), Failure> {
    match command {
        Quota::Show { name, json } => {
            let (rows, _) = call(config, "quota.show", json!({"name": name})).await?;
            let columns = [
                column("ROOT", "root"),
                octets("STORAGE", "storage"),
                octets("MAX", "storage_max"),
                column("MESSAGES", "messages"),
                column("MAX", "messages_max"),
                column("MAILBOXES", "mailboxes"),
                column("MAX", "mailboxes_max"),
            ];
            print_rows(json, &columns, rows);
        }
        Quota::Set { name, limits, none, json } => {
            let QuotaLimits { storage, messages, mailboxes } = limits;
            if !none && [storage, messages, mailboxes].iter().all(Option::is_none) {
                let text = "say what to limit: --storage, --messages, --mailboxes, or --none";
                return Err(Failure::new(Kind::Usage, text));
            }
            let args =
                json!({"name": name, "storage": storage, "messages": messages, "mailboxes": mailboxes});
            let (_, done) = call(config, "quota.set", args).await?;
            match (json.json, done.is_null()) {
                (true, _) => output::json(&done),
                (false, true) => say(&format!("{name} has no limits of its own.")),
                (false, false) => say(&format!("The limits of {name} are set.")),
            }
        }
    }
    Ok(())
}

/// `rookery acl`.
pub(crate) async fn acl(config: &Config, command: Acl) -> Result<(), Failure> {
    match command {
        Acl::Show { name, json } => {
            let (rows, _) = call(config, "acl.show", json!({"name": name})).await?;
            print_rows(json, &[column("WHO", "identifier"), column("RIGHTS", "rights")], rows);
        }
        Acl::Set { name, identifier, rights } => {
            let args = json!({"name": name, "identifier": identifier, "rights": rights});
            call(config, "acl.set", args).await?;
            say(&format!("The rights of {identifier} on {name} are set."));
        }
        Acl::Delete { name, identifier } => {
            call(config, "acl.delete", json!({"name": name, "identifier": identifier})).await?;
            say(&format!("{identifier} has no entry for {name}."));
        }
    }
    Ok(())
}

/// `rookery domain`.
pub(crate) async fn domain(config: &Config, command: Domain) -> Result<(), Failure> {
    match command {
        Domain::List(json) => {
            let (rows, _) = call(config, "domain.list", Value::Null).await?;
            print_rows(json, &[column("DOMAIN", "domain"), column("DEFAULT", "default")], rows);
        }
        Domain::Add { name } => {
            call(config, "domain.add", json!({"name": name})).await?;
            say(&format!("Added {name}."));
        }
        Domain::Delete { name } => {
            call(config, "domain.delete", json!({"name": name})).await?;
            say(&format!("Deleted {name}."));
        }
    }
    Ok(())
}

/// `rookery transit`.
pub(crate) async fn transit(config: &Config, command: TransitCommand) -> Result<(), Failure> {
    match command {
        TransitCommand::List(json) => {
            let (rows, _) = call(config, "transit.list", Value::Null).await?;
            let columns = [
                column("MOVE", "id"),
                column("FROM", "from"),
                column("MAILBOX", "mailbox"),
                column("TO", "to"),
                column("MAILBOX", "to_mailbox"),
                column("MESSAGES", "messages"),
                column("SECONDS", "age_s"),
                column("WAITS FOR", "waits_for"),
                column("GIVEN UP", "given_up"),
                column("WHY", "why"),
            ];
            print_rows(json, &columns, rows);
        }
        TransitCommand::GiveUp { id } => {
            let (_, done) = call(config, "transit.give-up", json!({"id": id})).await?;
            say(match shown(&done, "outcome") {
                "stayed" => "The messages stay where they were.",
                "gone" => "The messages were there already; they have gone.",
                _ => {
                    "Given up. The other node has not answered yet: until it does, the messages stay as they are."
                }
            });
        }
    }
    Ok(())
}

/// `rookery group`.
pub(crate) async fn group(config: &Config, command: Group) -> Result<(), Failure> {
    match command {
        Group::List { domain, json } => {
            let (rows, _) = call(config, "group.list", json!({"domain": domain})).await?;
            let columns =
                [column("GROUP", "group"), column("DOMAIN", "domain"), column("MEMBERS", "members")];
            print_rows(json, &columns, rows);
        }
        Group::Members { name, json } => {
            let (rows, _) = call(config, "group.members", json!({"name": name})).await?;
            print_rows(json, &[column("USER", "user")], rows);
        }
        Group::Add { name } => {
            call(config, "group.add", json!({"name": name})).await?;
            say(&format!("Added {name}."));
        }
        Group::Delete { name } => {
            call(config, "group.delete", json!({"name": name})).await?;
            say(&format!("Deleted {name}."));
        }
        Group::Join { name, user } => {
            call(config, "group.member", json!({"name": name, "user": user, "is_member": true})).await?;
            say(&format!("{user} is in {name}."));
        }
        Group::Leave { name, user } => {
            call(config, "group.member", json!({"name": name, "user": user, "is_member": false})).await?;
            say(&format!("{user} is not in {name}."));
        }
    }
    Ok(())
}

/// `rookery import`.
pub(crate) async fn import(config: &Config, command: Import) -> Result<(), Failure> {
    let (verb, args) = match command {
        Import::Maildir(args) => ("import.maildir", args),
        Import::Mbox(args) => ("import.mbox", args),
    };
    let ImportArgs { user, path, into, json } = args;
    let path = absolute(&path)?;
    let (_, done) = call(config, verb, json!({"user": user, "path": path, "into": into})).await?;
    if json.json {
        output::json(&done);
    } else {
        let number = |member: &str| done.get(member).and_then(Value::as_u64).unwrap_or(0);
        say(&format!(
            "Imported {} messages ({}) into {} mailboxes; {} were there already, {} could not be read.",
            number("imported"),
            output::size(number("octets")),
            number("mailboxes"),
            number("skipped"),
            number("failed"),
        ));
        for failure in done.get("failures").and_then(Value::as_array).into_iter().flatten() {
            eprintln!("  {}", failure.as_str().unwrap_or_default());
        }
    }
    Ok(())
}

/// `rookery status`.
pub(crate) async fn status(config: &Config, json: Json) -> Result<(), Failure> {
    let (_, info) = call(config, "status", Value::Null).await?;
    print_members(json, &info);
    Ok(())
}

/// `rookery reload`.
pub(crate) async fn reload(config: &Config) -> Result<(), Failure> {
    let (_, done) = call(config, "reload", Value::Null).await?;
    say(shown(&done, "text"));
    Ok(())
}

/// `rookery restart`: asks, and waits until the next server answers.
pub(crate) async fn restart(config: &Config) -> Result<(), Failure> {
    let began = Instant::now();
    let (_, before) = call(config, "status", Value::Null).await?;
    call(config, "restart", Value::Null).await?;
    loop {
        tokio::time::sleep(RESTART_ASKED).await;
        if let Ok((_, status)) = call(config, "status", Value::Null).await
            && status.get("started_unix_ms") != before.get("started_unix_ms")
        {
            say(&format!("Restarted; the server runs version {}.", shown(&status, "version")));
            return Ok(());
        }
        if began.elapsed() > RESTART_MAX {
            return Err(Failure::failed("the server does not answer; its log says why"));
        }
    }
}

/// How often a restarting server is asked, and for how long.
const RESTART_ASKED: Duration = Duration::from_millis(50);
const RESTART_MAX: Duration = Duration::from_secs(120);

/// The server reads the path, and need not run where this command does.
pub(crate) fn absolute(path: &Path) -> Result<String, Failure> {
    let whole = std::fs::canonicalize(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Failed,
        };
        Failure::new(kind, format!("{}: {error}", path.display()))
    })?;
    whole
        .into_os_string()
        .into_string()
        .map_err(|path| Failure::failed(format!("the path {path:?} is not UTF-8")))
}

pub(crate) fn print_rows(json: Json, columns: &[output::Column], rows: Vec<Value>) {
    if json.json {
        output::json(&Value::Array(rows));
    } else {
        output::line(output::table(columns, &rows).trim_end());
    }
}

pub(crate) fn print_members(json: Json, info: &Value) {
    if json.json {
        return output::json(info);
    }
    let members = info.as_object().into_iter().flatten();
    let width = members.clone().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in members {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        output::line(&format!("{name:<width$}  {text}"));
    }
}

pub(crate) fn shown<'a>(value: &'a Value, member: &str) -> &'a str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// What a person wants to hear, and a program's pipe does not.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Asks on the terminal, twice, or reads standard input.
fn new_password(name: &str, how: &NewPassword) -> Result<String, Failure> {
    let password = if how.password_stdin {
        let mut line = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|error| Failure::failed(format!("the password cannot be read: {error}")))?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(
                Kind::Usage,
                "no terminal to ask for the password: use --password-stdin",
            ));
        }
        let ask = |prompt: String| {
            rpassword::prompt_password(prompt)
                .map_err(|error| Failure::failed(format!("the password cannot be read: {error}")))
        };
        let password = ask(format!("Password for {name}: "))?;
        if ask("Once more: ".to_owned())? != password {
            return Err(Failure::failed("the two passwords differ"));
        }
        password
    };
    if password.is_empty() {
        return Err(Failure::new(Kind::Usage, "the password is empty"));
    }
    Ok(password)
}

pub(crate) fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::failed("nothing was changed"))
    }
}
