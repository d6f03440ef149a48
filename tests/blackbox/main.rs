//! Black-box tests: the real binary, real clients, one file for each. A missing client is a failure.

mod accounts;
mod clock;
mod command_line;
mod corpus;
mod crash;
mod curl;
mod cyradm;
mod dialogue;
mod drills;
mod extremes;
mod failing_disk;
mod full_disk;
mod hostile;
mod idle;
mod imaplib;
mod import;
mod lmtp;
mod mbsync;
mod murder;
mod murder_duties;
mod murder_etcd;
mod murder_maildrops;
mod murder_moves;
mod murder_nodes;
mod murder_xfer;
mod neomutt;
mod outages;
mod pop3;
mod postfix;
mod postfix_lmtp;
mod quota;
mod recipes;
mod refusals;
mod restart;
mod rights;
mod saved;
mod shim;
mod swaks;
mod tls;
mod torture;
mod untrue_syncs;

/// A small message with this subject and body, lines ended by CRLF.
fn message(subject: &str, body: &str) -> String {
    format!(
        "From: Ada <ada@example.net>\r\nTo: joe@example.org\r\nSubject: {subject}\r\n\
         Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{}@example.net>\r\n\r\n{body}\r\n",
        subject.replace(' ', "-")
    )
}

/// A running server with the account `joe`.
fn server_with_joe() -> anyhow::Result<rookery_tests::server::Server> {
    let server = rookery_tests::server::Server::start()?;
    server.add_user("joe")?;
    Ok(server)
}
