//! A wall clock of a server that is set as a test wants it.

use std::path::PathBuf;

use anyhow::Result;

use crate::command;
use crate::server::Server;

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// The wall clock of a server that was not started yet: so many seconds off, as a file says.
#[derive(Debug)]
pub struct Clock(PathBuf);

impl Clock {
    /// From the server's next start on. It goes right until it is shifted.
    pub fn of(server: &mut Server) -> Result<Clock> {
        let (shim, file) = (server.root().join("clock-shim.so"), server.root().join("clock"));
        let source = crate::workspace().join("tests/clock/shim.c").display().to_string();
        let target = shim.display().to_string();
        command::ok("cc", &["-O2", "-Wall", "-shared", "-fPIC", "-o", &target, &source, "-ldl"], b"")?;
        server.set_environment("LD_PRELOAD", shim);
        server.set_environment("ROOKERY_CLOCK", file.clone());
        let clock = Clock(file);
        clock.shift(0)?;
        Ok(clock)
    }

    /// Sets it so many seconds off.
    pub fn shift(&self, seconds: i64) -> Result<()> {
        // In one step: the server may read at any moment.
        let new = self.0.with_extension("new");
        std::fs::write(&new, seconds.to_string())?;
        Ok(std::fs::rename(new, &self.0)?)
    }
}
