//! The settings: one typed section each. `docs/settings.md` describes them for operators.

use std::path::PathBuf;

use rookery_imap::ImapConfig;
use rookery_lmtp::LmtpConfig;
use serde::{Deserialize, Serialize};

/// The whole configuration. A missing key has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The folder that holds everything: mail, directory, certificate, admin socket. Relative to where the
    /// server starts.
    pub data_dir: PathBuf,
    /// The domain of users that are named without one.
    pub default_domain: String,
    /// The server's name in greetings and Received lines; empty: what the system says.
    pub hostname: String,
    /// Users who administer the server: over IMAP they see all accounts as `user/NAME`. No password is theirs by
    /// being named here.
    pub admins: Vec<String>,
    /// Users who administer the domain in their name, as `NAME@domain`, and nothing outside of it.
    pub domain_admins: Vec<String>,
    /// IMAP.
    pub imap: ImapSection,
    /// LMTP.
    pub lmtp: LmtpConfig,
    /// HTTP: health and metrics.
    pub http: HttpSection,
    /// The certificate.
    pub tls: TlsSection,
    /// The log.
    pub log: LogSection,
    /// New accounts.
    pub accounts: AccountsSection,
    /// The store.
    pub store: StoreSection,
    /// Connections and shutdown.
    pub server: ServerSection,
}

/// IMAP: where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImapSection {
    /// Where to listen; TLS by STARTTLS.
    pub listen: Vec<String>,
    /// Where to listen with TLS from the first octet.
    pub listen_tls: Vec<String>,
    /// What sessions may do.
    #[serde(flatten)]
    pub sessions: ImapConfig,
}

/// HTTP: where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpSection {
    /// Where to listen. Health and metrics are told to everybody who can connect.
    pub listen: Vec<String>,
}

/// The certificate of IMAP.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsSection {
    /// PEM file with the certificate chain; empty: a self-signed certificate is made in the data folder.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// The log, which goes to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSection {
    /// `text` or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or filters such as `info,rookery_imap=debug`. The
    /// environment variable ROOKERY_LOG counts more.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What a new account has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AccountsSection {
    /// Mailboxes made besides INBOX, and subscribed. `Sent`, `Drafts`, `Trash`, `Junk` and `Archive` get their
    /// special use; another name gets one by `Name=\Use`.
    pub mailboxes: Vec<String>,
}

/// The store of mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreSection {
    /// The largest message taken, in octets, by APPEND and by LMTP.
    pub message_octets_max: u64,
    /// Days that deleted mail can be undeleted.
    pub retention_days: u64,
    /// Octets that must be free on the data folder's disk for the server to start.
    pub free_octets_min: u64,
}

/// Connections and shutdown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServerSection {
    /// Connections of all protocols.
    pub connections_max: usize,
    /// Connections of one address (IPv6: one /64) that have not logged in.
    pub unauthenticated_per_address_max: usize,
    /// Networks from which passwords are taken without TLS, besides this machine.
    pub plaintext_networks: Vec<String>,
    /// Seconds that sessions get to end when the server stops.
    pub drain_timeout_s: u64,
    /// Whether opened files and connections may be as many as the system allows (its hard limit).
    pub raise_file_limit: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: "rookery-data".into(),
            default_domain: "localhost".to_owned(),
            hostname: String::new(),
            admins: Vec::new(),
            domain_admins: Vec::new(),
            imap: ImapSection::default(),
            lmtp: LmtpConfig::default(),
            http: HttpSection::default(),
            tls: TlsSection::default(),
            log: LogSection::default(),
            accounts: AccountsSection::default(),
            store: StoreSection::default(),
            server: ServerSection::default(),
        }
    }
}

fn on_loopback(port: u16) -> Vec<String> {
    vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")]
}

impl Default for ImapSection {
    fn default() -> ImapSection {
        ImapSection {
            listen: on_loopback(1143),
            listen_tls: on_loopback(1993),
            sessions: ImapConfig::default(),
        }
    }
}

impl Default for HttpSection {
    fn default() -> HttpSection {
        HttpSection { listen: on_loopback(8080) }
    }
}

impl Default for LogSection {
    fn default() -> LogSection {
        LogSection { format: LogFormat::Text, level: "info".to_owned() }
    }
}

impl Default for AccountsSection {
    fn default() -> AccountsSection {
        let mailboxes = ["Drafts", "Sent", "Archive", "Junk", "Trash"];
        AccountsSection { mailboxes: mailboxes.map(str::to_owned).to_vec() }
    }
}

impl Default for StoreSection {
    fn default() -> StoreSection {
        StoreSection { message_octets_max: 64 << 20, retention_days: 7, free_octets_min: 64 << 20 }
    }
}

impl Default for ServerSection {
    fn default() -> ServerSection {
        ServerSection {
            connections_max: 200_000,
            unauthenticated_per_address_max: 500,
            plaintext_networks: Vec::new(),
            drain_timeout_s: 30,
            raise_file_limit: true,
        }
    }
}

impl Config {
    /// What is wrong with the values: the setting's name with its section, and what is wrong.
    pub(super) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut fault = |name: &str, text: String| faults.push((name.to_owned(), text));
        if rookery_types::UserName::parse("someone", &self.default_domain).is_err() {
            fault("default_domain", format!("'{}' is no domain", self.default_domain));
        }
        for admin in &self.admins {
            if let Err(error) = rookery_types::UserName::parse(admin, &self.default_domain) {
                fault("admins", error.to_string());
            }
        }
        for admin in &self.domain_admins {
            if !admin.contains('@') {
                fault("domain_admins", format!("'{admin}' must be written as NAME@domain"));
            } else if let Err(error) = rookery_types::UserName::parse(admin, &self.default_domain) {
                fault("domain_admins", error.to_string());
            }
        }
        if self.data_dir.as_os_str().is_empty() {
            fault("data_dir", "must name a folder".to_owned());
        }
        let listens = [
            ("imap.listen", &self.imap.listen),
            ("imap.listen_tls", &self.imap.listen_tls),
            ("http.listen", &self.http.listen),
        ];
        for (name, list) in listens {
            for text in list {
                if let Err(error) = text.parse::<rookery_net::ListenSpec>() {
                    fault(name, error.to_string());
                }
            }
        }
        for (name, text) in self.lmtp.faults() {
            fault(&format!("lmtp.{name}"), text);
        }
        if self.tls.cert.as_os_str().is_empty() != self.tls.key.as_os_str().is_empty() {
            fault("tls.cert", "cert and key must be given together".to_owned());
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.level) {
            fault("log.level", error.to_string());
        }
        if let Err(text) = self.accounts.parsed() {
            fault("accounts.mailboxes", text);
        }
        if !(1024..=1 << 31).contains(&self.store.message_octets_max) {
            fault("store.message_octets_max", "must be 1024 to 2147483648".to_owned());
        }
        if self.store.retention_days > 3650 {
            fault("store.retention_days", "must be 0 to 3650".to_owned());
        }
        if let Err(error) = rookery_net::Networks::parse(&self.server.plaintext_networks) {
            fault("server.plaintext_networks", error.to_string());
        }
        if self.server.connections_max == 0 {
            fault("server.connections_max", "must be at least 1".to_owned());
        }
        if self.server.unauthenticated_per_address_max == 0 {
            fault("server.unauthenticated_per_address_max", "must be at least 1".to_owned());
        }
        faults
    }

    /// The server's name: the setting, or the system's, or `localhost`.
    pub(crate) fn hostname(&self) -> String {
        if !self.hostname.is_empty() {
            return self.hostname.clone();
        }
        let system = rustix::system::uname();
        match system.nodename().to_str() {
            Ok(name) if !name.is_empty() => name.to_owned(),
            _ => "localhost".to_owned(),
        }
    }

    /// Where the running server takes commands.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }
}

impl AccountsSection {
    /// The mailboxes with their uses. Err: what is wrong.
    pub(crate) fn parsed(
        &self,
    ) -> Result<Vec<(rookery_types::MailboxPath, Vec<rookery_types::SpecialUse>)>, String> {
        use rookery_types::{MailboxPath, SpecialUse};
        let mut mailboxes = Vec::new();
        for text in &self.mailboxes {
            let (name, uses) = match text.split_once('=') {
                Some((name, word)) => {
                    (name, vec![SpecialUse::parse(word).ok_or(format!("'{word}' is no special use"))?])
                }
                None => {
                    let word = format!("\\{text}");
                    (text.as_str(), SpecialUse::parse(&word).into_iter().collect())
                }
            };
            let path = MailboxPath::new(name).map_err(|error| format!("'{name}': {error}"))?;
            mailboxes.push((path, uses));
        }
        Ok(mailboxes)
    }
}
