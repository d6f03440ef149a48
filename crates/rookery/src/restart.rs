//! Restarting in place: the server ends, and the program that is installed now is started with its arguments and its
//! listening sockets. Who connects meanwhile waits. If nobody is connected the new program takes the process; else the
//! process stays for its clients ([`crate::keeping`]).

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use rookery_net::Handover;
use tokio::sync::mpsc;

use crate::exit::Failure;
use crate::keeping::Keeping;

/// The program's file. Asked at the start, since later the name may be that of a file which was replaced.
static PROGRAM: LazyLock<std::io::Result<PathBuf>> = LazyLock::new(std::env::current_exe);

/// Where a restart is asked for.
#[derive(Clone)]
pub(crate) struct Restart {
    wanted: mpsc::Sender<()>,
}

impl Restart {
    /// The other half is told once the server shall end.
    pub(crate) fn new() -> (Restart, mpsc::Receiver<()>) {
        LazyLock::force(&PROGRAM);
        let (wanted, restarts) = mpsc::channel(1);
        (Restart { wanted }, restarts)
    }

    /// Asks for a restart, unless the installed program or the configuration would not start. The text says why not.
    pub(crate) async fn ask(&self) -> Result<(), String> {
        let refused = self.rehearse().await;
        match &refused {
            Ok(()) => drop(self.wanted.try_send(())),
            Err(error) => tracing::error!(error, "not restarted"),
        }
        refused
    }

    /// Lets the installed program read the configuration that it would be started with.
    async fn rehearse(&self) -> Result<(), String> {
        let serving = command()?;
        if !serving.get_args().any(|argument| argument == "serve") {
            return Err("only `rookery serve` is restarted".to_owned());
        }
        let mut check = Command::new(serving.get_program());
        check.args(["config", "check"]);
        // `serve` has one option, which `config check` knows too.
        check.args(serving.get_args().filter(|argument| *argument != "serve"));
        check.stdin(std::process::Stdio::null());
        let checked = tokio::task::spawn_blocking(move || check.output()).await;
        let output = checked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

/// How the installed program is started as this one was.
pub(crate) fn command() -> Result<Command, String> {
    let program = PROGRAM.as_ref().map_err(|error| format!("the program's file is not known: {error}"))?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    Ok(command)
}

/// Becomes the installed program. Returns only if that fails.
pub(crate) fn become_new(keeping: Keeping) -> Failure {
    let sockets = keeping.lineage.next().and_then(|line| Handover::new(keeping.sockets, line));
    match (command(), sockets) {
        (Ok(program), Ok(sockets)) => {
            Failure::failed(format!("the server cannot be started again: {}", sockets.exec(program)))
        }
        (Err(error), _) => Failure::failed(error),
        (_, Err(error)) => Failure::failed(format!("the listening sockets: {error}")),
    }
}
