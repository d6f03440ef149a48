//! The `[pop3]` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

rookery_types::settings! {
    /// POP3 (RFC 1939): where clients connect, and what they may do.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct Pop3Config {
        /// Where to listen; TLS by STLS. Empty, as `listen_tls`: no POP3.
        pub listen: Vec<String>,
        /// Where to listen with TLS from the first octet.
        pub listen_tls: Vec<String>,
        /// How long a client that has not logged in may stay, in seconds.
        pub login_timeout_s: u64,
        /// How long a logged-in client may be silent before its connection is closed, in seconds. RFC 1939 §3 asks for
        /// at least 600. What it has marked with DELE stays then.
        pub idle_timeout_s: u64,
        /// How many sessions one account may have at once, those of IMAP counted with them.
        pub sessions_per_account_max: usize,
        /// After so many commands in a row that were not understood, the client is sent away.
        pub bad_commands_max: u32,
        /// Whether passwords are taken without TLS from clients that are not on this machine. For networks that are
        /// protected otherwise.
        pub plaintext_login: bool,
    }
}

impl Default for Pop3Config {
    fn default() -> Pop3Config {
        Pop3Config {
            listen: vec!["127.0.0.1:1110".to_owned(), "[::1]:1110".to_owned()],
            listen_tls: vec!["127.0.0.1:1995".to_owned(), "[::1]:1995".to_owned()],
            login_timeout_s: 60,
            idle_timeout_s: 600,
            sessions_per_account_max: 200,
            bad_commands_max: 50,
            plaintext_login: false,
        }
    }
}

impl Pop3Config {
    /// What is wrong with the values, as text for the administrator, each with the setting's name.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        for (name, list) in [("listen", &self.listen), ("listen_tls", &self.listen_tls)] {
            for text in list {
                if let Err(error) = text.parse::<rookery_net::ListenSpec>() {
                    faults.push((name, error.to_string()));
                }
            }
        }
        if !(1..=3600).contains(&self.login_timeout_s) {
            faults.push(("login_timeout_s", "must be 1 to 3600".to_owned()));
        }
        if !(600..=86_400).contains(&self.idle_timeout_s) {
            faults.push(("idle_timeout_s", "must be 600 (RFC 1939 §3) to 86400".to_owned()));
        }
        if self.sessions_per_account_max == 0 {
            faults.push(("sessions_per_account_max", "must be at least 1".to_owned()));
        }
        if self.bad_commands_max == 0 {
            faults.push(("bad_commands_max", "must be at least 1".to_owned()));
        }
        faults
    }

    /// How long a client that has not logged in may stay.
    pub fn login_timeout(&self) -> Duration {
        Duration::from_secs(self.login_timeout_s)
    }

    /// How long a logged-in client may be silent.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_faults_are_named() {
        assert!(Pop3Config::default().faults().is_empty());
        assert!(toml::from_str::<Pop3Config>("lisen = []").is_err());
        let odd: Pop3Config = toml::from_str(
            "listen = [\"x\"]\nlisten_tls = [\"y\"]\nlogin_timeout_s = 0\nidle_timeout_s = 599\n\
             sessions_per_account_max = 0\nbad_commands_max = 0",
        )
        .expect("it is of the right types");
        let names: Vec<_> = odd.faults().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "listen",
                "listen_tls",
                "login_timeout_s",
                "idle_timeout_s",
                "sessions_per_account_max",
                "bad_commands_max"
            ]
        );
    }
}
