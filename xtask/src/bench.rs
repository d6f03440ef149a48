//! `cargo xtask bench`: the comparison, and a load on a server of the caller's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use rookery_bench::client::Target;
use rookery_bench::compare::{self, Plan};
use rookery_bench::load::{self, Bound, Users};
use rookery_tests::server::Program;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Rookery beside Cyrus, Dovecot and, before other servers, nginx, all of which bench/peers/install-debian.sh
    /// installs: a Markdown table.
    Compare(Compare),
    /// A load on one server, wherever it is.
    Load(Load),
}

#[derive(Args)]
pub(crate) struct Compare {
    /// Only rows whose names begin so, separated by commas; `--list` shows them.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Rounds of each row, interleaved; medians and spread are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Who takes part.
    #[arg(long, default_value = "rookery,cyrus,dovecot,nginx")]
    contenders: String,
    /// Writes all rounds' values to this file as JSON, after each row.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Rounds in which other programs took more of the machine's CPU, in percent, are discarded.
    #[arg(long, default_value_t = 15)]
    others_max: u32,
    /// Times that a discarded round is taken again.
    #[arg(long, default_value_t = 2)]
    retries: usize,
    /// This program of Rookery's instead of one built now.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Shows the rows and measures nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Args)]
pub(crate) struct Load {
    /// The server.
    #[arg(long, value_name = "ADDRESS:PORT")]
    target: SocketAddr,
    /// What to do.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Users' names; `{}` stands for a number from 1.
    #[arg(long, default_value = "u{}")]
    users: String,
    /// How many users there are.
    #[arg(long, default_value_t = 20)]
    user_count: usize,
    /// Everybody's password.
    #[arg(long, default_value = "secret")]
    password: String,
    /// Connections at the same time.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Seconds until no more is begun.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Operations after which no more is begun.
    #[arg(long, default_value_t = u64::MAX)]
    count: u64,
    /// Octets of each delivered message.
    #[arg(long, default_value_t = 4096)]
    octets: usize,
    /// TLS from the first octet, with a server that has the certificate in this PEM file.
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Deliveries by LMTP.
    Lmtp,
    /// IMAP: login, SELECT INBOX, logout.
    Logins,
    /// IMAP: sessions of 15 commands, a user for each connection. INBOX needs ten messages, and a mailbox Copies has to
    /// be there.
    Mixed,
    /// IMAP: flags of all messages of INBOX, again and again.
    Flags,
    /// IMAP: all messages of INBOX in full, again and again.
    Bodies,
    /// POP3: login, STAT, UIDL, RETR of up to ten messages, QUIT.
    Pop3,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Bench::Compare(compare) => compare.run(),
            Bench::Load(load) => load.run(),
        }
    }
}

impl Compare {
    fn run(self) -> Result<()> {
        if self.list {
            compare::row_names().iter().for_each(|(name, title)| println!("{name}: {title}"));
            return Ok(());
        }
        ensure!(self.rounds > 0, "--rounds must be at least 1");
        let contenders = rookery_bench::contenders(&self.contenders)?;
        let ours = contenders.contains(&Program::Rookery);
        let binary = match self.binary {
            None if ours => Some(rookery_bench::release_binary()?),
            given => given.map(std::path::absolute).transpose()?,
        };
        let plan = Plan {
            contenders,
            rows: self.rows,
            rounds: self.rounds,
            others_max: f64::from(self.others_max) / 100.0,
            retries: self.retries,
            binary,
        };
        let json = self.json;
        let report = compare::compare(
            &plan,
            |line| eprintln!("{line}"),
            |report| {
                if let Some(path) = &json {
                    std::fs::write(path, report.json())?;
                }
                Ok(())
            },
        )?;
        print!("{}", report.markdown());
        Ok(())
    }
}

impl Load {
    fn run(self) -> Result<()> {
        rookery_tests::process::raise_descriptor_limit(20_000)?;
        let target = match &self.tls_certificate {
            Some(certificate) => Target::tls(self.target, certificate)?,
            None => Target::plain(self.target),
        };
        let users = Users { pattern: self.users, count: self.user_count, password: self.password };
        let bound = Bound { count: self.count, time: Duration::from_secs_f64(self.seconds) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connections = self.connections;
        let (what, done) = runtime.block_on(async {
            let (target, users) = (&target, &users);
            anyhow::Ok(match self.kind {
                Kind::Lmtp => {
                    ("messages", load::deliver(target, users, connections, self.octets, bound).await?)
                }
                Kind::Logins => ("sessions", load::logins(target, users, connections, bound).await?),
                Kind::Mixed => ("commands", load::mixed(target, users, connections, bound).await?),
                Kind::Flags => {
                    ("messages", load::fetch_all(target, users, connections, "FLAGS", bound).await?)
                }
                Kind::Bodies => {
                    ("messages", load::fetch_all(target, users, connections, "BODY.PEEK[]", bound).await?)
                }
                Kind::Pop3 => ("sessions", load::pop3(target, users, connections, bound).await?),
            })
        })?;
        println!(
            "{} {what} in {:.2} s: {:.1} a second; {:.2} MB; ms of each operation: p50 {:.2}, p99 {:.2}",
            done.count,
            done.wall.as_secs_f64(),
            done.rate(),
            done.octets as f64 / 1e6,
            done.percentile_ms(50),
            done.percentile_ms(99),
        );
        Ok(())
    }
}
