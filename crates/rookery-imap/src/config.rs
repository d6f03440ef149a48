//! What an operator can set about IMAP sessions.

use serde::{Deserialize, Serialize};
use std::time::Duration;

rookery_types::settings! {
    /// Sessions of IMAP clients.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct ImapConfig {
        /// How long a client that has not logged in may stay, in seconds.
        pub login_timeout_s: u64,
        /// How long a logged-in client may be silent before it is logged out, in seconds. RFC 9051 §5.4 asks for
        /// at least 1800.
        pub idle_timeout_s: u64,
        /// How often a client in IDLE hears `* OK Still here`, in seconds: often enough that devices between do
        /// not forget the connection.
        pub still_here_s: u64,
        /// How many sessions one account may have at once, those of POP3 counted with them.
        pub sessions_per_account_max: usize,
        /// After so many commands in a row that were not understood, the client is sent away.
        pub bad_commands_max: u32,
        /// The longest command before a login, in octets, with its literals. The longest ID that RFC 2971 allows
        /// needs some 33,000.
        pub command_octets_before_login_max: usize,
        /// The longest command after it, in octets, with its literals but without the messages of APPEND.
        pub command_octets_max: usize,
        /// The largest message taken by APPEND, in octets.
        pub message_octets_max: u64,
        /// How many messages one APPEND may bring (RFC 3502).
        pub append_messages_max: usize,
        /// How much memory may hold the header fields that SEARCH asks most (SUBJECT, FROM, TO, CC, BCC and the sent
        /// dates), in octets, for all mailboxes together. A message takes some 300; a mailbox that does not fit is
        /// read anew for each command.
        pub search_memory_octets_max: usize,
        /// How much memory may hold what SORT and THREAD compare of messages, in octets, for all mailboxes together. A
        /// message takes some 200; a mailbox that does not fit is read anew for each command.
        pub sort_memory_octets_max: usize,
        /// How to reach the administrator, as a URI: the server's annotation `/shared/admin` (RFC 5464). Empty: there
        /// is none.
        pub admin_contact: String,
        /// From how much of a quota on, in percent, clients are warned when they select a mailbox or add messages
        /// (RFC 9208 §4.3.1). 0: never.
        pub quota_warning_percent: u8,
        /// Whether clients may ask for compression (RFC 4978). A client that does costs some 60 KiB while idle.
        pub compress: bool,
        /// Whether a client may log out of an account without leaving the connection (RFC 8437). Turn it off behind
        /// a proxy that decides at the first login what a connection may do.
        pub unauthenticate: bool,
        /// Whether passwords are taken without TLS from clients that are not on this machine. For networks that
        /// are protected otherwise.
        pub plaintext_login: bool,
    }
}

impl Default for ImapConfig {
    fn default() -> ImapConfig {
        ImapConfig {
            login_timeout_s: 60,
            idle_timeout_s: 30 * 60,
            still_here_s: 120,
            sessions_per_account_max: 200,
            bad_commands_max: 50,
            command_octets_before_login_max: 40 << 10,
            command_octets_max: 64 << 10,
            message_octets_max: 64 << 20,
            append_messages_max: 1000,
            search_memory_octets_max: 64 << 20,
            sort_memory_octets_max: 64 << 20,
            admin_contact: String::new(),
            quota_warning_percent: 90,
            compress: true,
            unauthenticate: true,
            plaintext_login: false,
        }
    }
}

impl ImapConfig {
    /// How long a client that has not logged in may stay.
    pub fn login_timeout(&self) -> Duration {
        Duration::from_secs(self.login_timeout_s)
    }

    /// How long a logged-in client may be silent.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }

    /// How often a client in IDLE hears that the server is there.
    pub fn still_here(&self) -> Duration {
        Duration::from_secs(self.still_here_s.max(1))
    }
}
