//! Python's imaplib: a whole session from LOGIN to LOGOUT, and IDLE by hand.

use anyhow::Result;
use rookery_tests::command;
use rookery_tests::server::PASSWORD;

use crate::server_with_joe;

#[test]
fn imaplib_session() -> Result<()> {
    let mut server = server_with_joe()?;
    let script = include_str!("imaplib_session.py");
    let (host, port) = (server.imap.ip().to_string(), server.imap.port().to_string());
    let lmtp = server.lmtp.port().to_string();
    command::ok("python3", &["-c", script, &host, &port, &lmtp, "joe", PASSWORD], b"")?;
    server.stop()
}
