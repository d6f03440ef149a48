//! Running client programs: with a time limit, with their whole output, and with a clear word when one is missing.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a client program may take before it is killed and counts as failed.
pub const LIMIT: Duration = Duration::from_secs(300);

/// What a program said.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output and error as text, for searching and for messages.
    pub fn text(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr))
    }
}

/// Fails with the way to install it when `program` is not in `PATH`.
pub fn require(program: &str) -> Result<()> {
    let found = std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join(program).is_file()));
    ensure!(found, "the client program {program} is not installed; run tests/install-debian.sh");
    Ok(())
}

/// Runs a program to its end and gives what it said, however it ended.
pub fn run<A: AsRef<OsStr>>(program: &str, args: &[A], stdin: &[u8]) -> Result<Output> {
    require(program)?;
    let mut command = Command::new(program);
    command.args(args);
    run_command(command, stdin)
}

/// Runs a program and fails unless it exits with 0.
pub fn ok<A: AsRef<OsStr>>(program: &str, args: &[A], stdin: &[u8]) -> Result<Output> {
    let output = run(program, args, stdin)?;
    ensure!(output.status.success(), "{program} ended with {}:\n{}", output.status, output.text());
    Ok(output)
}

/// Runs a prepared command to its end, killing it after [`LIMIT`].
pub fn run_command(mut command: Command, stdin: &[u8]) -> Result<Output> {
    let name = Path::new(command.get_program()).display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} cannot be started"))?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let deadline = Instant::now() + LIMIT;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read its input to the end is not at fault.
            input.map(|mut pipe| pipe.write_all(stdin).ok())
        });
        let reader = scope.spawn(move || drain(output));
        let complaints = scope.spawn(move || drain(errors));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("{name} did not end within {} s", LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let stdout = reader.join().unwrap_or_default();
        let stderr = complaints.join().unwrap_or_default();
        Ok(Output { status, stdout, stderr })
    })
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is what there is to show.
        pipe.read_to_end(&mut all).ok();
    }
    all
}
