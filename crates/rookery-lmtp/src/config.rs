//! The `[lmtp]` section of the configuration.

use std::time::Duration;

use rookery_types::UserName;
use serde::{Deserialize, Serialize};

rookery_types::settings! {
    /// Delivery by LMTP (RFC 2033): where MTAs connect, and what they may do.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct LmtpConfig {
        /// Where to listen: `address:port`, `[address]:port` or `unix:/path`. Empty: no LMTP.
        pub listen: Vec<String>,
        /// Who may deliver without authentication: addresses, networks (`192.0.2.0/24`), `unix` for Unix sockets,
        /// `loopback` for this machine. Everybody else gets `530`.
        pub trusted: Vec<String>,
        /// Users who may deliver from anywhere once they have authenticated, besides administrators. Other users have
        /// no business here.
        pub deliverers: Vec<String>,
        /// Seconds that a message's sender and Message-ID are remembered for each mailbox: a second one with both is
        /// answered with 250 and not stored. 0: every message is stored. Of an account at most some
        /// 4,000 are remembered.
        pub duplicate_window_s: u64,
        /// Recipients one transaction may have; `452 4.5.3` to those above. At least 100 (RFC 5321 §4.5.3.1.8).
        pub recipients_max: usize,
        /// Accounts that one transaction is appended to at the same time.
        pub parallel_max: usize,
        /// Seconds without an octet from the client after which the connection is closed (RFC 5321 §4.5.3.2.7).
        pub idle_timeout_s: u64,
        /// Whether a message for a full mailbox is refused for good (`552 5.2.2`) rather than for now (`452 4.2.2`).
        pub over_quota_is_permanent: bool,
        /// The mode of Unix sockets' files, as octal text.
        pub unix_mode: String,
    }
}

impl Default for LmtpConfig {
    fn default() -> LmtpConfig {
        LmtpConfig {
            listen: vec!["127.0.0.1:2003".to_owned(), "[::1]:2003".to_owned()],
            trusted: vec!["loopback".to_owned()],
            deliverers: Vec::new(),
            duplicate_window_s: 0,
            recipients_max: 5000,
            parallel_max: 64,
            idle_timeout_s: 300,
            over_quota_is_permanent: false,
            unix_mode: "0660".to_owned(),
        }
    }
}

impl LmtpConfig {
    /// What is wrong with the values, as text for the administrator, each with the setting's name.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        for text in &self.listen {
            if let Err(error) = text.parse::<rookery_net::ListenSpec>() {
                faults.push(("listen", error.to_string()));
            }
        }
        if let Err(error) = rookery_net::Networks::parse(&self.trusted) {
            faults.push(("trusted", error.to_string()));
        }
        for user in &self.deliverers {
            if let Err(error) = UserName::parse(user, "localhost") {
                faults.push(("deliverers", format!("'{user}': {error}")));
            }
        }
        if self.duplicate_window_s > 604_800 {
            faults.push(("duplicate_window_s", "must be 0 to 604800".to_owned()));
        }
        if !(100..=100_000).contains(&self.recipients_max) {
            faults.push(("recipients_max", "must be 100 to 100000".to_owned()));
        }
        if !(1..=1000).contains(&self.parallel_max) {
            faults.push(("parallel_max", "must be 1 to 1000".to_owned()));
        }
        if !(1..=86_400).contains(&self.idle_timeout_s) {
            faults.push(("idle_timeout_s", "must be 1 to 86400".to_owned()));
        }
        if self.unix_mode().is_none() {
            faults.push(("unix_mode", "must be an octal mode such as \"0660\"".to_owned()));
        }
        faults
    }

    /// [`LmtpConfig::unix_mode`] as a number; `None` if it is no mode.
    pub fn unix_mode(&self) -> Option<u32> {
        u32::from_str_radix(&self.unix_mode, 8).ok().filter(|mode| *mode <= 0o777)
    }

    /// Who may deliver once authenticated; what is no user's name is left out.
    pub(crate) fn deliverers(&self, default_domain: &str) -> impl Iterator<Item = UserName> {
        self.deliverers.iter().filter_map(move |name| UserName::parse(name, default_domain).ok())
    }

    pub(crate) fn duplicate_window(&self) -> Duration {
        Duration::from_secs(self.duplicate_window_s)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_unknown_keys_are_refused() {
        assert!(LmtpConfig::default().faults().is_empty());
        assert_eq!(toml::from_str::<LmtpConfig>("").unwrap(), LmtpConfig::default());
        assert!(toml::from_str::<LmtpConfig>("lisen = []").is_err());
        let odd: LmtpConfig = toml::from_str(
            "listen = [\"x\"]\ntrusted = [\"y\"]\ndeliverers = [\"\"]\nduplicate_window_s = 604801\nrecipients_max = 1\nparallel_max = 0\nunix_mode = \"9\"",
        )
        .unwrap();
        let names: Vec<_> = odd.faults().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "listen",
                "trusted",
                "deliverers",
                "duplicate_window_s",
                "recipients_max",
                "parallel_max",
                "unix_mode"
            ]
        );
    }
}
