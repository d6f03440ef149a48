//! The settings: one typed section each. `docs/settings.md`, which describes them for operators, is made from their doc
//! comments by `rookery config reference`.

use std::path::PathBuf;

use rookery_auth::{CertificateName, HashParams, HasherOptions, MECHANISMS, password, verifier};
use rookery_imap::ImapConfig;
use rookery_lmtp::LmtpConfig;
use rookery_mta::MtaConfig;
use rookery_pop3::Pop3Config;
use rookery_types::Setting;
use serde::{Deserialize, Serialize};

use super::directory::DirectorySection;

rookery_types::settings! {
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
        /// POP3 (RFC 1939).
        pub pop3: Pop3Config,
        /// LMTP (RFC 2033).
        pub lmtp: LmtpConfig,
        /// What an MTA asks.
        pub mta: MtaConfig,
        /// Health and metrics.
        pub http: HttpSection,
        /// The certificate.
        pub tls: TlsSection,
        /// Logins.
        pub auth: AuthSection,
        /// The log, on standard error.
        pub log: LogSection,
        /// New accounts.
        pub accounts: AccountsSection,
        /// The store.
        pub store: StoreSection,
        /// Connections and shutdown.
        pub server: ServerSection,
        /// Other nodes.
        pub cluster: ClusterSection,
        /// Where the directory is.
        pub directory: DirectorySection,
    }
}

rookery_types::settings! {
    /// IMAP: where clients connect.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub(crate) struct ImapSection {
        /// Where to listen; TLS by STARTTLS.
        pub listen: Vec<String>,
        /// Where to listen with TLS from the first octet.
        pub listen_tls: Vec<String>,
        /// Where to listen for administrators alone (`admins`, `domain_admins`), also while the node takes no clients; TLS by
        /// STARTTLS.
        pub admins_listen: Vec<String>,
        /// What sessions may do.
        #[serde(flatten)]
        pub sessions: ImapConfig,
    }
}

rookery_types::settings! {
    /// The nodes of a cluster. A server whose `listen` is set and that has not joined a cluster is the first node of one.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct ClusterSection {
        /// Where other nodes connect, as `address:port`; empty: this server is alone.
        pub listen: String,
        /// Where other nodes reach this one, as `host:port`; empty: as `listen`.
        pub address: String,
        /// This node's name, `be2.example` say, whatever its addresses are; empty: the host's name. It counts when the
        /// cluster is founded or joined.
        pub name: String,
        /// Accounts that move to other nodes at once; others wait. At least one.
        pub moves_at_once: u64,
        /// Octets a second that all accounts that move to other nodes send together; 0: as many as go.
        pub move_octets_per_second: u64,
    }
}

impl Default for ClusterSection {
    fn default() -> ClusterSection {
        ClusterSection {
            listen: String::new(),
            address: String::new(),
            name: String::new(),
            moves_at_once: 4,
            move_octets_per_second: 0,
        }
    }
}

impl ClusterSection {
    /// Where other nodes reach this one.
    pub(crate) fn address(&self) -> &str {
        if self.address.is_empty() { &self.listen } else { &self.address }
    }

    /// This node's name.
    pub(crate) fn name(&self, hostname: &str) -> String {
        if self.name.is_empty() { hostname.to_owned() } else { self.name.clone() }
    }
}

rookery_types::settings! {
    /// HTTP: where to listen.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct HttpSection {
        /// Where to listen. Health and metrics are told to everybody who can connect.
        pub listen: Vec<String>,
    }
}

rookery_types::settings! {
    /// The certificate of IMAP.
    #[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct TlsSection {
        /// PEM file with the certificate chain; empty: a self-signed certificate is made in the data folder.
        pub cert: PathBuf,
        /// PEM file with the private key.
        pub key: PathBuf,
        /// PEM file with the authorities whose certificates clients may log in with (EXTERNAL); empty: clients are not
        /// asked for certificates. TLS sessions are not resumed then.
        pub client_ca: PathBuf,
        /// A folder with more certificates, for the names they are valid for: one folder each, with `fullchain.pem`
        /// and `privkey.pem`; empty: there are none.
        pub folder: PathBuf,
    }
}

rookery_types::settings! {
    /// How users prove who they are.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct AuthSection {
        /// A file of users and passwords besides the server's own, in the form of Dovecot's passwd-file:
        /// `user:{SCHEME}hash`. It counts for whom it names. It is read again when it changes. Empty: none.
        pub passwd_file: PathBuf,
        /// Whether users of that file get an account when they log in or mail comes for them; otherwise those without
        /// one do not exist.
        pub passwd_file_makes_accounts: bool,
        /// SASL mechanisms that are offered where they are possible: `EXTERNAL`, `SCRAM-SHA-256-PLUS`,
        /// `SCRAM-SHA-256`, `PLAIN`, `LOGIN`. Leave the two of SCRAM out if users have passwords from elsewhere,
        /// since many clients take the strongest that is offered.
        pub mechanisms: Vec<String>,
        /// Which name in a client's certificate says who it is: `cn`, the common name, or `email`, the one mail address
        /// among the alternative names.
        pub certificate_name: CertificateField,
        /// Iterations of the SCRAM keys that are stored beside the hash of a new password, at least 4096; 0: none are
        /// stored.
        pub scram_iterations: u32,
        /// Memory of the Argon2id hash of a new password, in KiB.
        pub hash_memory_kib: u32,
        /// Passes over it.
        pub hash_passes: u32,
        /// Threads that check passwords; 0: as many as there are processors, or fewer, so that all of them together
        /// stay below `hash_memory_total_kib`.
        pub hash_workers: usize,
        /// Memory that passwords being checked may take together, in KiB.
        pub hash_memory_total_kib: u32,
        /// Seconds that a checked password is believed without hashing it again; 0: it is always hashed.
        pub cache_lifetime_s: u64,
    }
}

/// A name in a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CertificateField {
    /// The common name.
    Cn,
    /// The mail address.
    Email,
}

impl From<CertificateField> for CertificateName {
    fn from(field: CertificateField) -> CertificateName {
        match field {
            CertificateField::Cn => CertificateName::CommonName,
            CertificateField::Email => CertificateName::Email,
        }
    }
}

rookery_types::settings! {
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

rookery_types::settings! {
    /// What a new account has.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct AccountsSection {
        /// Mailboxes made besides INBOX, and subscribed. `Sent`, `Drafts`, `Trash`, `Junk` and `Archive` get their
        /// special use; another name gets one by `Name=\Use`.
        pub mailboxes: Vec<String>,
    }
}

rookery_types::settings! {
    /// The store of mail.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct StoreSection {
        /// The largest message taken, in octets, by APPEND and by LMTP.
        pub message_octets_max: u64,
        /// Days that deleted mail can be undeleted.
        pub retention_days: u64,
        /// Annotations (METADATA) that one user can have on one mailbox, and that all can share there. At least 10.
        pub annotations_max: usize,
        /// Octets of the largest annotation. At least 1024.
        pub annotation_octets_max: u64,
        /// Octets that all annotations of an account can take, names included.
        pub account_annotation_octets_max: u64,
        /// Octets that must be free on the data folder's disk for the server to start.
        pub free_octets_min: u64,
        /// Whether messages are compressed, in the background while the server is idle. What is compressed stays so.
        pub compress: bool,
    }
}

rookery_types::settings! {
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
}

/// The sections' names with what describes their settings.
pub(super) const SECTIONS: [(&str, &[&[Setting]]); 13] = [
    ("imap", &[ImapSection::SETTINGS, ImapConfig::SETTINGS]),
    ("pop3", &[Pop3Config::SETTINGS]),
    ("lmtp", &[LmtpConfig::SETTINGS]),
    ("mta", &[MtaConfig::SETTINGS]),
    ("http", &[HttpSection::SETTINGS]),
    ("tls", &[TlsSection::SETTINGS]),
    ("auth", &[AuthSection::SETTINGS]),
    ("log", &[LogSection::SETTINGS]),
    ("accounts", &[AccountsSection::SETTINGS]),
    ("store", &[StoreSection::SETTINGS]),
    ("server", &[ServerSection::SETTINGS]),
    ("cluster", &[ClusterSection::SETTINGS]),
    ("directory", &[DirectorySection::SETTINGS]),
];

impl Default for Config {
    fn default() -> Config {
        Config {
            data_dir: "rookery-data".into(),
            default_domain: "localhost".to_owned(),
            hostname: String::new(),
            admins: Vec::new(),
            domain_admins: Vec::new(),
            imap: ImapSection::default(),
            pop3: Pop3Config::default(),
            lmtp: LmtpConfig::default(),
            mta: MtaConfig::default(),
            http: HttpSection::default(),
            tls: TlsSection::default(),
            auth: AuthSection::default(),
            log: LogSection::default(),
            accounts: AccountsSection::default(),
            store: StoreSection::default(),
            server: ServerSection::default(),
            cluster: ClusterSection::default(),
            directory: DirectorySection::default(),
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
            admins_listen: Vec::new(),
            sessions: ImapConfig::default(),
        }
    }
}

impl Default for HttpSection {
    fn default() -> HttpSection {
        HttpSection { listen: on_loopback(8080) }
    }
}

impl Default for AuthSection {
    fn default() -> AuthSection {
        let HashParams { memory_kib, passes, .. } = HashParams::default();
        AuthSection {
            passwd_file: PathBuf::new(),
            passwd_file_makes_accounts: false,
            mechanisms: MECHANISMS.map(str::to_owned).to_vec(),
            certificate_name: CertificateField::Cn,
            scram_iterations: password::SCRAM_ITERATIONS,
            hash_memory_kib: memory_kib,
            hash_passes: passes,
            hash_workers: 0,
            hash_memory_total_kib: verifier::MEMORY_KIB_MAX,
            cache_lifetime_s: rookery_auth::cache::LIFETIME.as_secs(),
        }
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
        StoreSection {
            message_octets_max: 64 << 20,
            retention_days: 7,
            free_octets_min: 64 << 20,
            compress: true,
            annotations_max: 100,
            annotation_octets_max: 32 << 10,
            account_annotation_octets_max: 16 << 20,
        }
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
            ("imap.admins_listen", &self.imap.admins_listen),
            ("http.listen", &self.http.listen),
        ];
        for (name, list) in listens {
            for text in list {
                if let Err(error) = text.parse::<rookery_net::ListenSpec>() {
                    fault(name, error.to_string());
                }
            }
        }
        for (name, text) in self.pop3.faults() {
            fault(&format!("pop3.{name}"), text);
        }
        for (name, text) in self.lmtp.faults() {
            fault(&format!("lmtp.{name}"), text);
        }
        if self.tls.cert.as_os_str().is_empty() != self.tls.key.as_os_str().is_empty() {
            fault("tls.cert", "cert and key must be given together".to_owned());
        }
        for (name, text) in self.mta.faults() {
            fault(&format!("mta.{name}"), text);
        }
        for (name, text) in self.auth.faults() {
            fault(&format!("auth.{name}"), text);
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
        if self.store.annotations_max < 10 {
            fault("store.annotations_max", "must be at least 10".to_owned());
        }
        if self.store.annotation_octets_max < 1024 {
            fault("store.annotation_octets_max", "must be at least 1024".to_owned());
        }
        if self.store.retention_days > 3650 {
            fault("store.retention_days", "must be 0 to 3650".to_owned());
        }
        if let Err(error) = rookery_net::Networks::parse(&self.server.plaintext_networks) {
            fault("server.plaintext_networks", error.to_string());
        }
        if self.imap.sessions.quota_warning_percent > 100 {
            fault("imap.quota_warning_percent", "must be 0 to 100".to_owned());
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

    /// Who administers what. What is no user's name was told as a fault.
    pub(crate) fn administrators(&self) -> rookery_route::Administrators {
        let users = |names: &[String]| {
            let names = names.iter();
            names.filter_map(|name| rookery_types::UserName::parse(name, &self.default_domain).ok()).collect()
        };
        rookery_route::Administrators::new(users(&self.admins), users(&self.domain_admins))
    }

    /// Where the running server takes commands.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }
}

impl AuthSection {
    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        for name in &self.mechanisms {
            if !MECHANISMS.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                faults.push(("mechanisms", format!("'{name}' is none of {}", MECHANISMS.join(", "))));
            }
        }
        if self.scram_iterations != 0 && !(4096..=1_000_000).contains(&self.scram_iterations) {
            faults.push(("scram_iterations", "must be 0, or 4096 to 1000000".to_owned()));
        }
        if !(8192..=verifier::MEMORY_KIB_MAX).contains(&self.hash_memory_kib) {
            faults.push(("hash_memory_kib", format!("must be 8192 to {}", verifier::MEMORY_KIB_MAX)));
        }
        if !(1..=verifier::PASSES_MAX).contains(&self.hash_passes) {
            faults.push(("hash_passes", format!("must be 1 to {}", verifier::PASSES_MAX)));
        }
        if self.hash_workers > 1024 {
            faults.push(("hash_workers", "must be 0 to 1024".to_owned()));
        }
        if self.hash_memory_total_kib < self.hash_memory_kib {
            faults.push(("hash_memory_total_kib", "must be at least hash_memory_kib".to_owned()));
        }
        if self.cache_lifetime_s > 86_400 {
            faults.push(("cache_lifetime_s", "must be 0 to 86400".to_owned()));
        }
        faults
    }

    /// For the service that hashes.
    pub(crate) fn hasher_options(&self) -> HasherOptions {
        let defaults = HasherOptions::default();
        HasherOptions {
            workers: if self.hash_workers == 0 { defaults.workers } else { self.hash_workers },
            memory_kib_max: self.hash_memory_total_kib,
            params: HashParams {
                memory_kib: self.hash_memory_kib,
                passes: self.hash_passes,
                ..defaults.params
            },
            scram_iterations: self.scram_iterations,
            ..defaults
        }
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
