//! Where clients connect: sockets bound anew, or given to this process by a service manager or a predecessor.

use std::os::fd::OwnedFd;

use rookery_net::{BindError, Held, Inherited, ListenOptions, ListenSpec, Listener, Local};

use crate::config::Config;
use crate::exit::with_causes;
use crate::exit::{Failure, Kind};

/// Where a running server is reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub(crate) imap: Vec<Local>,
    pub(crate) imap_tls: Vec<Local>,
    pub(crate) imap_administrators: Vec<Local>,
    pub(crate) pop3: Vec<Local>,
    pub(crate) pop3_tls: Vec<Local>,
    pub(crate) lmtp: Vec<Local>,
    pub(crate) mta_auth: Vec<Local>,
    pub(crate) mta_lookup: Vec<Local>,
    pub(crate) http: Vec<Local>,
}

/// Listeners that are bound and not served yet.
pub(crate) struct Bound {
    pub(crate) imap: Vec<Listener>,
    pub(crate) imap_tls: Vec<Listener>,
    pub(crate) imap_administrators: Vec<Listener>,
    pub(crate) pop3: Vec<Listener>,
    pub(crate) pop3_tls: Vec<Listener>,
    pub(crate) lmtp: Vec<Listener>,
    pub(crate) mta_auth: Vec<Listener>,
    pub(crate) mta_lookup: Vec<Listener>,
    pub(crate) http: Vec<Listener>,
    /// The line to the first process, if this one is not that.
    pub(crate) line: Option<OwnedFd>,
}

impl Bound {
    /// Binds what the configuration names. What was given to this process is taken from there. `serves`: whether
    /// clients are let in from the start.
    pub(crate) fn all(config: &Config, serves: bool) -> Result<Bound, Failure> {
        let cannot = |error| Failure::failed(format!("the sockets given to the server: {error}"));
        let mut given = Inherited::take_all().map_err(cannot)?;
        let lmtp_mode = config.lmtp.unix_mode().unwrap_or(0o660);
        let mta_mode = config.mta.unix_mode().unwrap_or(0o660);
        let always = |unix_mode| ListenOptions { unix_mode, ..ListenOptions::default() };
        let clients = |unix_mode| ListenOptions { listens: serves, ..always(unix_mode) };
        let bound = Bound {
            imap: bind(&config.imap.listen, clients(0o666), &mut given)?,
            imap_tls: bind(&config.imap.listen_tls, clients(0o666), &mut given)?,
            imap_administrators: bind(&config.imap.admins_listen, always(0o660), &mut given)?,
            pop3: bind(&config.pop3.listen, clients(0o666), &mut given)?,
            pop3_tls: bind(&config.pop3.listen_tls, clients(0o666), &mut given)?,
            lmtp: bind(&config.lmtp.listen, clients(lmtp_mode), &mut given)?,
            mta_auth: bind(&config.mta.auth_listen, always(mta_mode), &mut given)?,
            mta_lookup: bind(&config.mta.lookup_listen, always(mta_mode), &mut given)?,
            http: bind(&config.http.listen, always(0o660), &mut given)?,
            line: given.take_line(),
        };
        for place in given.places() {
            tracing::warn!(at = %place, "a socket was given to the server where no setting listens; it is closed");
        }
        Ok(bound)
    }

    pub(crate) fn places(&self) -> Places {
        Places {
            imap: locals(&self.imap),
            imap_tls: locals(&self.imap_tls),
            imap_administrators: locals(&self.imap_administrators),
            pop3: locals(&self.pop3),
            pop3_tls: locals(&self.pop3_tls),
            lmtp: locals(&self.lmtp),
            mta_auth: locals(&self.mta_auth),
            mta_lookup: locals(&self.mta_lookup),
            http: locals(&self.http),
        }
    }

    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        let clients = self.imap.iter().chain(&self.imap_tls).chain(&self.pop3).chain(&self.pop3_tls);
        let clients = clients.chain(&self.imap_administrators);
        clients.chain(&self.lmtp).chain(&self.mta_auth).chain(&self.mta_lookup).chain(&self.http)
    }

    /// All sockets once more, for whoever comes after this process.
    pub(crate) fn hold(&self) -> std::io::Result<Vec<Held>> {
        self.listeners().map(Listener::hold).collect()
    }
}

fn bind(specs: &[String], options: ListenOptions, given: &mut Inherited) -> Result<Vec<Listener>, Failure> {
    let mut listeners = Vec::new();
    for text in specs {
        let spec: ListenSpec = text.parse().map_err(|error| Failure::new(Kind::Usage, error))?;
        if let Some(listener) = given.take(&spec) {
            listeners.push(listener);
            continue;
        }
        match Listener::bind_with(&spec, options) {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 is no reason not to start, where IPv4 beside it works.
            Err(error) if is_missing_family(&error) && !listeners.is_empty() => {
                tracing::info!(%error, "not listened to");
            }
            Err(error) => return Err(Failure::failed(with_causes(&error))),
        }
    }
    Ok(listeners)
}

fn is_missing_family(error: &BindError) -> bool {
    use std::io::ErrorKind;
    let BindError::Refused { spec: ListenSpec::Tcp(address), source } = error else {
        return false;
    };
    address.is_ipv6()
        && (source.kind() == ErrorKind::AddrNotAvailable
            || rustix::io::Errno::from_io_error(source) == Some(rustix::io::Errno::AFNOSUPPORT))
}

fn locals(listeners: &[Listener]) -> Vec<Local> {
    listeners.iter().filter_map(|listener| listener.local().ok()).collect()
}
