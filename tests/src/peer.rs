//! Debian's Dovecot and Cyrus, started from our own minimal configurations (`bench/peers/`): for side-by-side
//! figures, and Dovecot as a stand-in that shows whether a failing test is the test's fault.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::command;
use crate::server::{PASSWORD, Server};

/// Writes the stand-in's configuration and its empty list of users.
pub(crate) fn dovecot_stand_in_config(server: &Server) -> Result<()> {
    command::require("dovecot")?;
    ensure!(
        Path::new("/usr/lib/dovecot/imap").exists(),
        "dovecot's IMAP part is missing; run bench/peers/install-debian.sh"
    );
    let template = include_str!("../../bench/peers/dovecot.conf");
    let root = server.root();
    std::fs::create_dir_all(root.join("run"))?;
    std::fs::create_dir_all(server.data())?;
    let users = root.join("users");
    if !users.exists() {
        std::fs::write(&users, "")?;
    }
    open_to_all(root)?;
    open_to_all(&server.data())?;
    std::os::unix::fs::chown(server.data(), Some(65534), Some(65534))?;
    let config = template
        .replace("@ROOT@", &root.display().to_string())
        .replace("@ADDRESS@", &server.imap.ip().to_string())
        .replace("@IMAP@", &server.imap.port().to_string())
        .replace("@IMAPS@", &server.imaps.port().to_string())
        .replace("@LMTP@", &server.lmtp.port().to_string());
    std::fs::write(server.config(), config)?;
    Ok(())
}

/// The stand-in's servers run as `nobody` and must get through the temporary folder's mode.
fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

/// Adds users to the stand-in's list.
pub(crate) fn dovecot_stand_in_users(server: &Server, names: &[String]) -> Result<()> {
    let path = server.root().join("users");
    let mut users = std::fs::read_to_string(&path)?;
    let data = server.data();
    for name in names {
        users.push_str(&format!("{name}:{{PLAIN}}{PASSWORD}:65534:65534::{}/{name}::\n", data.display()));
    }
    std::fs::write(&path, &users)?;
    // Dovecot looks at the file's time stamp once a second at most.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    Ok(())
}

/// Where Debian puts Cyrus's service programs.
pub const CYRUS_PROGRAMS: &str = "/usr/lib/cyrus/bin";

/// Writes Cyrus's two configuration files and makes its folders.
pub(crate) fn cyrus_config(server: &Server) -> Result<()> {
    ensure!(Path::new("/usr/sbin/cyrmaster").exists(), "Cyrus is missing; run bench/peers/install-debian.sh");
    let root = server.root();
    open_to_all(root)?;
    for folder in ["conf", "conf/socket", "conf/proc", "conf/lock", "spool", "sieve"] {
        std::fs::create_dir_all(server.data().join(folder))?;
    }
    let (imap, imaps) = (server.imap.to_string(), server.imaps.to_string());
    let lmtp = server.lmtp.to_string();
    let fill = |template: &str| {
        template
            .replace("@DATA@", &server.data().display().to_string())
            .replace("@ROOT@", &root.display().to_string())
            .replace("@BIN@", CYRUS_PROGRAMS)
            .replace("@HOST@", &server.imap.ip().to_string())
            .replace("@IMAPS@", &imaps)
            .replace("@IMAP@", &imap)
            .replace("@LMTP@", &lmtp)
    };
    std::fs::write(server.config(), fill(include_str!("../../bench/peers/cyrus-imapd.conf")))?;
    std::fs::write(root.join("services"), fill(include_str!("../../bench/peers/cyrus-services.conf")))?;
    cyrus_password(server, "cyrus")?;
    cyrus_own(server)
}

/// Gives Cyrus's user what was written for it.
pub fn cyrus_own(server: &Server) -> Result<()> {
    let root = server.root().display().to_string();
    command::ok("chown", &["-R", "cyrus:mail", &root], b"")?;
    Ok(())
}

/// Lets someone log in with [`PASSWORD`].
pub fn cyrus_password(server: &Server, name: &str) -> Result<()> {
    let secrets = server.root().join("sasldb2").display().to_string();
    let realm = server.imap.ip().to_string();
    command::ok("saslpasswd2", &["-p", "-c", "-f", &secrets, "-u", &realm, name], PASSWORD.as_bytes())?;
    Ok(())
}

/// The master process, in the foreground.
pub(crate) fn cyrus_command(server: &Server) -> Command {
    let mut command = Command::new("/usr/sbin/cyrmaster");
    command.arg("-C").arg(server.config()).arg("-M").arg(server.root().join("services"));
    command.arg("-p").arg(server.root().join("master.pid")).args(["-l", "1024"]);
    command
}

/// Adds passwords and, by the administrator, the mailboxes.
pub(crate) fn cyrus_users(server: &Server, names: &[String]) -> Result<()> {
    names.iter().try_for_each(|name| cyrus_password(server, name))?;
    let mut admin = server.login("cyrus")?;
    names.iter().try_for_each(|name| admin.ok(&format!("CREATE user/{name}")).map(drop))
}
