//! The program: command line, configuration, wiring, signals.

mod admin;
mod certificates;
mod check;
mod cli;
mod client;
mod cluster;
mod config;
mod data;
mod demo;
mod directory_client;
mod entrances;
mod exit;
mod export;
mod imap;
mod import;
mod keeping;
mod lineage;
mod listen;
mod live;
mod lmtp;
mod logging;
mod move_client;
mod mta;
mod newcomers;
mod node;
mod node_client;
mod notify;
mod output;
mod pop3;
mod reload;
mod restart;
mod saved;
mod secret;
mod serve;
mod signals;
mod succession;
mod top;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, ConfigCommand};
use exit::{Failure, Kind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// A runtime for a server.
fn server_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)
}

/// A runtime for one question.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)
}

fn run(cli: Cli) -> Result<(), Failure> {
    let named = cli.config.as_deref();
    if let Command::Config(command) = cli.command {
        return configuration(named, command);
    }
    if let Command::Demo(options) = cli.command {
        return demo::run(options, &server_runtime()?);
    }
    let loaded = config::load(named)?;
    if let Command::Serve = cli.command {
        return serve(loaded);
    }
    let config = loaded.config;
    match cli.command {
        Command::User(command) => client_runtime()?.block_on(client::user(&config, command)),
        Command::Alias(command) => client_runtime()?.block_on(client::alias(&config, command)),
        Command::Mailbox(command) => client_runtime()?.block_on(client::mailbox(&config, command)),
        Command::Acl(command) => client_runtime()?.block_on(client::acl(&config, command)),
        Command::Domain(command) => client_runtime()?.block_on(client::domain(&config, command)),
        Command::Group(command) => client_runtime()?.block_on(client::group(&config, command)),
        Command::Node(command) => client_runtime()?.block_on(node_client::node(&config, command)),
        Command::Move(args) => client_runtime()?.block_on(move_client::r#move(&config, args)),
        Command::Transit(command) => client_runtime()?.block_on(client::transit(&config, command)),
        Command::Placement(command) => client_runtime()?.block_on(node_client::placement(&config, command)),
        Command::Balance { dry_run, json } => {
            client_runtime()?.block_on(node_client::balance(&config, dry_run, json))
        }
        Command::Directory(command) => {
            client_runtime()?.block_on(directory_client::directory(&config, command))
        }
        Command::Join { token } => server_runtime()?.block_on(cluster::join(&config, &token)),
        Command::Quota(command) => client_runtime()?.block_on(client::quota(&config, command)),
        Command::Import(command) => client_runtime()?.block_on(client::import(&config, command)),
        Command::Undelete(command) => client_runtime()?.block_on(saved::undelete(&config, command)),
        Command::Export(args) => client_runtime()?.block_on(saved::export(&config, args)),
        Command::Restore(args) => client_runtime()?.block_on(saved::restore(&config, args)),
        Command::Top(options) => client_runtime()?.block_on(top::top(&config, options)),
        Command::Status(json) => client_runtime()?.block_on(client::status(&config, json)),
        Command::Restart => client_runtime()?.block_on(client::restart(&config)),
        Command::Reload => client_runtime()?.block_on(client::reload(&config)),
        Command::Check(options) => server_runtime()?.block_on(check::run(&config, options)),
        Command::Config(_) | Command::Demo(_) | Command::Serve => Ok(()),
    }
}

fn serve(loaded: config::Loaded) -> Result<(), Failure> {
    logging::start(&loaded.config);
    let file = loaded.file.as_ref().map_or("none".to_owned(), |file| file.display().to_string());
    tracing::info!(config = file, data_dir = %loaded.config.data_dir.display(), "starting");
    let runtime = server_runtime()?;
    let data_dir = loaded.config.data_dir.clone();
    match runtime.block_on(serve::run(loaded, async |_, _| Ok(())))? {
        serve::End::Stopped => Ok(()),
        serve::End::Restart(keeping) => {
            if !keeping.clients.is_empty() {
                if runtime.block_on(keeping.is_closed()) {
                    return runtime.block_on(keeping::keep(keeping, &data_dir));
                }
                tracing::error!("the data is still open; connections end that would be kept");
            }
            // The runtime is gone before another program takes the process.
            drop(runtime);
            Err(restart::become_new(keeping))
        }
    }
}

fn configuration(named: Option<&std::path::Path>, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show => output::line(config::show(&config::load(named)?).trim_end()),
        ConfigCommand::Reference => output::line(config::reference().trim_end()),
        ConfigCommand::Check { file } => {
            let loaded = match &file {
                Some(file) if !file.exists() => {
                    return Err(Failure::new(Kind::NotFound, format!("there is no file {}", file.display())));
                }
                Some(file) => config::load_file(file)?,
                None => config::load(named)?,
            };
            match &loaded.file {
                Some(file) => output::line(&format!("{}: no mistakes found", file.display())),
                None => output::line("there is no configuration file; the defaults are used"),
            }
        }
    }
    Ok(())
}
