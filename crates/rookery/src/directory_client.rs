//! `rookery directory`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rookery_admin::socket::Client;
use serde_json::{Value, json};

use crate::cli::DirectoryCommand;
use crate::client::{call, print_members, print_rows};
use crate::config::{Config, SourceKind};
use crate::exit::{Failure, Kind};
use crate::output::{self, column};

pub(crate) async fn directory(config: &Config, command: DirectoryCommand) -> Result<(), Failure> {
    match command {
        DirectoryCommand::Status(json) => {
            let (_, status) = call(config, "directory.status", Value::Null).await?;
            print_members(json, &status);
        }
        DirectoryCommand::Export { file } => export(config, file.as_deref()).await?,
        DirectoryCommand::Import { file } => {
            let path = std::path::absolute(&file).map_err(Failure::failed)?;
            let (_, done) = call(config, "directory.import", json!({"path": path})).await?;
            output::line(&format!("Imported {} records.", count(&done)));
        }
        DirectoryCommand::Promote => moved(config, "directory.promote").await?,
        DirectoryCommand::Rebuild => moved(config, "directory.rebuild").await?,
    }
    Ok(())
}

fn count(done: &Value) -> u64 {
    done.get("records").and_then(Value::as_u64).unwrap_or(0)
}

/// Has the directory go on in etcd, as the configuration describes it.
async fn moved(config: &Config, verb: &str) -> Result<(), Failure> {
    if config.directory.source != SourceKind::Etcd {
        return Err(Failure::new(
            Kind::Usage,
            "set directory.source to etcd in the configuration of every node first, and the rest of [directory]",
        ));
    }
    let (rows, done) = call(config, verb, json!({"directory": config.directory})).await?;
    output::line(&format!("The directory is in etcd, with {} records.", count(&done)));
    if !rows.is_empty() {
        print_rows(crate::cli::Json { json: false }, &[column("NODE", "node"), column("", "outcome")], rows);
    }
    Ok(())
}

/// Writes one line of JSON for each record.
async fn export(config: &Config, file: Option<&Path>) -> Result<(), Failure> {
    let cannot = |path: PathBuf| move |error| Failure::failed(format!("{}: {error}", path.display()));
    let mut out: Box<dyn Write> = match file {
        None => Box::new(std::io::stdout()),
        // It has what passwords are checked against.
        Some(path) => {
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Box::new(std::io::BufWriter::new(file.map_err(cannot(path.to_owned()))?))
        }
    };
    let mut client = Client::connect(&config.admin_socket()).await?;
    let mut written = Ok(());
    let row = |row: Value| {
        if written.is_ok() {
            written = writeln!(out, "{row}");
        }
    };
    let done = client.call_rows("directory.export", Value::Null, |_| (), row).await?;
    written.and_then(|()| out.flush()).map_err(Failure::failed)?;
    if let Some(path) = file {
        std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(cannot(path.to_owned()))?;
        output::line(&format!("Exported {} records.", count(&done)));
    }
    Ok(())
}
