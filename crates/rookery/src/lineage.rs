//! Processes that come after one another: who the first is, and whether it still lives.
//!
//! The first process of a server stays as long as there is a server, since whoever started it watches it. A program that
//! was started beside it while it keeps clients has a line to it. On the line the program that serves says which it is;
//! when the line ends, the first process is gone, and the server ends too.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;
use tokio::sync::watch;

/// A process's end of the line.
pub(crate) struct Lineage {
    line: Option<Mutex<UnixStream>>,
    /// The first process has gone.
    orphaned: watch::Receiver<bool>,
}

impl Lineage {
    /// Of a process that was given this end of the line, or none: then it is the first.
    pub(crate) fn new(line: Option<OwnedFd>) -> io::Result<Lineage> {
        let (told, orphaned) = watch::channel(false);
        let line = line.map(UnixStream::from);
        if let Some(line) = &line {
            let mut reading = line.try_clone()?;
            // A thread of its own: it waits as long as the process lives.
            std::thread::Builder::new().name("lineage".to_owned()).spawn(move || {
                // Nothing is ever said in this direction.
                let _ = reading.read(&mut [0]);
                told.send_replace(true);
            })?;
        }
        Ok(Lineage { line: line.map(Mutex::new), orphaned })
    }

    /// Whether this is the first process.
    pub(crate) fn is_first(&self) -> bool {
        self.line.is_none()
    }

    /// Says to the first process that this one serves now.
    pub(crate) fn serves(&self) -> io::Result<()> {
        let Some(line) = &self.line else { return Ok(()) };
        line.lock().write_all(&std::process::id().to_be_bytes())
    }

    /// Returns when the first process has gone.
    pub(crate) async fn orphaned(&self) {
        if self.is_first() {
            std::future::pending().await
        }
        let _ = self.orphaned.clone().wait_for(|gone| *gone).await;
    }

    /// The end of the line for a process that this one starts, or becomes.
    pub(crate) fn next(&self) -> io::Result<Option<OwnedFd>> {
        self.line.as_ref().map(|line| line.lock().try_clone().map(OwnedFd::from)).transpose()
    }
}
