//! What an operator can set about the MTA's sockets.

use rookery_net::ListenSpec;
use serde::{Deserialize, Serialize};

rookery_types::settings! {
    /// Sockets at which an MTA asks.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct MtaConfig {
        /// Where Dovecot's auth protocol is spoken, for Postfix's `smtpd_sasl_type = dovecot` and the like:
        /// `unix:/path`, or an address of this machine. Empty: nowhere.
        pub auth_listen: Vec<String>,
        /// Where recipients are looked up by Postfix's socketmap protocol: `unix:/path`, or an address of this machine.
        /// Empty: nowhere.
        pub lookup_listen: Vec<String>,
        /// The mode of Unix sockets' files, as octal text. Whoever may write to them may guess passwords and names.
        pub unix_mode: String,
    }
}

impl Default for MtaConfig {
    fn default() -> MtaConfig {
        MtaConfig { auth_listen: Vec::new(), lookup_listen: Vec::new(), unix_mode: "0660".to_owned() }
    }
}

impl MtaConfig {
    /// What is wrong with the values, as text for the administrator, each with the setting's name.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        for (name, list) in [("auth_listen", &self.auth_listen), ("lookup_listen", &self.lookup_listen)] {
            for text in list {
                match text.parse() {
                    Ok(ListenSpec::Tcp(address)) if !address.ip().is_loopback() => {
                        faults.push((
                            name,
                            format!("{address} is not on this machine: the protocol has no TLS"),
                        ));
                    }
                    Ok(_) => {}
                    Err(error) => faults.push((name, error.to_string())),
                }
            }
        }
        if self.unix_mode().is_none() {
            faults.push(("unix_mode", "must be an octal mode such as \"0660\"".to_owned()));
        }
        faults
    }

    /// [`MtaConfig::unix_mode`] as a number; `None` if it is no mode.
    pub fn unix_mode(&self) -> Option<u32> {
        u32::from_str_radix(&self.unix_mode, 8).ok().filter(|mode| *mode <= 0o777)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_the_world_is_refused() {
        assert!(MtaConfig::default().faults().is_empty());
        let odd = MtaConfig {
            auth_listen: vec!["0.0.0.0:12345".to_owned(), "127.0.0.1:12345".to_owned()],
            lookup_listen: vec!["unix:/run/x".to_owned(), "x".to_owned()],
            unix_mode: "9".to_owned(),
        };
        let names: Vec<_> = odd.faults().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["auth_listen", "lookup_listen", "unix_mode"]);
    }
}
