//! Debian's Postfix as a process of its own: folders, configuration and port in a temporary folder, no service
//! manager. It is started and stopped by its master process, which ends its children.

use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::command;

/// How long Postfix may take until it greets.
const START_MAX: Duration = Duration::from_secs(60);
/// The master process.
const MASTER: &str = "/usr/lib/postfix/sbin/master";
/// What Postfix runs, besides the listener: name, type, and processes at most.
const SERVICES: &str = "postlog unix-dgram n - n - 1 postlogd\n\
    cleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\ntlsmgr unix - - n 1000? 1 tlsmgr\n\
    rewrite unix - - n - - trivial-rewrite\nbounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\n\
    trace unix - - n - 0 bounce\nproxymap unix - - n - - proxymap\nerror unix - - n - - error\n\
    retry unix - - n - - error\nlmtp unix - - n - - lmtp\nanvil unix - - n - 1 anvil\n";

/// A running Postfix.
#[derive(Debug)]
pub struct Postfix {
    folder: tempfile::TempDir,
    master: Child,
    /// Where it takes mail by SMTP.
    pub smtp: SocketAddr,
}

impl Postfix {
    /// Starts it on a free port of this loopback address, with these further lines in `main.cf`.
    pub fn start(address: IpAddr, settings: &str) -> Result<Postfix> {
        ensure!(Path::new(MASTER).exists(), "Postfix is not installed; run tests/install-debian.sh");
        let folder = tempfile::tempdir()?;
        let smtp = TcpListener::bind((address, 0))?.local_addr()?;
        let root = folder.path();
        // Its processes run as `postfix` and must get through.
        fs::set_permissions(root, Permissions::from_mode(0o755))?;
        let ids = ids()?;
        for name in ["conf", "data", "queue"] {
            fs::create_dir(root.join(name))?;
        }
        chown(root.join("data"), Some(ids.0), Some(ids.1))?;
        for name in [
            "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private",
            "saved", "trace", "maildrop", "public", "pid",
        ] {
            let path = root.join("queue").join(name);
            fs::create_dir(&path)?;
            if name != "pid" {
                chown(&path, Some(ids.0), Some(ids.1))?;
            }
        }
        let root_text = root.display();
        // No names are looked up: without a network each look-up would take a minute.
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {root_text}/queue\ndata_directory = {root_text}/data\n\
             command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\n\
             setgid_group = postdrop\ninet_interfaces = loopback-only\ninet_protocols = ipv4\n\
             myhostname = mx.example.org\nsmtpd_peername_lookup = no\nsmtp_dns_support_level = disabled\nmydestination =\nmynetworks =\nalias_maps =\nalias_database =\n\
             maillog_file = {root_text}/log\nmaillog_file_prefixes = {root_text}\n{settings}"
        );
        fs::write(root.join("conf/main.cf"), main)?;
        fs::write(root.join("conf/master.cf"), format!("{smtp} inet n - n - - smtpd\n{SERVICES}"))?;
        let output = fs::File::create(root.join("output"))?;
        let mut command = Command::new(MASTER);
        // It ends its children by its process group, which must be its own.
        command.arg("-c").arg(root.join("conf")).arg("-d").process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let master = command.spawn().context("Postfix's master cannot be started")?;
        let mut postfix = Postfix { folder, master, smtp };
        postfix.wait_until_ready()?;
        Ok(postfix)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(self.smtp).is_err() {
            if let Some(status) = self.master.try_wait()? {
                bail!("Postfix ended with {status} instead of starting:\n{}", self.log());
            }
            ensure!(Instant::now() < deadline, "Postfix does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The folder of its configuration, for `-c`.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("conf")
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        ["log", "output"]
            .map(|name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .concat()
    }

    /// `postmap -q KEY MAP` with this configuration: the value, or none.
    pub fn look_up(&self, key: &str, map: &str) -> Result<Option<String>> {
        let config = self.config().display().to_string();
        let output = command::run("postmap", &["-c", &config, "-q", key, map], b"")?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match output.status.code() {
            Some(0) => Ok(Some(text)),
            Some(1) if output.stderr.is_empty() => Ok(None),
            _ => bail!("postmap -q {key} {map} ended with {}:\n{}", output.status, output.text()),
        }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- Postfix's log:\n{}\n----", self.log());
        }
        // What cannot be ended is nothing that a test could do anything about.
        crate::process::signal(self.master.id(), Signal::TERM).ok();
        self.master.wait().ok();
    }
}

/// The ids of the user and the group `postfix`.
fn ids() -> Result<(u32, u32)> {
    let id = |flag: &str| -> Result<u32> {
        let output = command::ok("id", &[flag, "postfix"], b"")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
    };
    Ok((id("-u")?, id("-g")?))
}
