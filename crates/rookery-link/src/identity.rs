//! Who a node is, as its certificate says.

use std::fmt;

use rookery_types::NodeId;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a node may do for the cluster. In a certificate, so that no node gives itself more.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Duties(u8);

impl Duties {
    /// None.
    pub const NONE: Duties = Duties(0);
    /// Takes clients' connections: may act for users.
    pub const SERVE: Duties = Duties(1);
    /// Holds accounts.
    pub const HOLD: Duties = Duties(2);
    /// Is a source of the directory, and lets nodes join.
    pub const DIRECTORY: Duties = Duties(4);
    /// All of them.
    pub const ALL: Duties = Duties(7);

    const NAMES: [(Duties, &'static str); 3] =
        [(Duties::SERVE, "serve"), (Duties::HOLD, "hold"), (Duties::DIRECTORY, "directory")];

    /// Both together.
    pub const fn and(self, other: Duties) -> Duties {
        Duties(self.0 | other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Duties) -> bool {
        self.0 & other.0 == other.0
    }

    /// From text as in certificates: `serve&hold`. `None`: a word that is no duty.
    pub fn parse(text: &str) -> Option<Duties> {
        text.split('&').filter(|word| !word.is_empty()).try_fold(Duties::NONE, |duties, word| {
            let (duty, _) = Duties::NAMES.iter().find(|(_, name)| *name == word)?;
            Some(duties.and(*duty))
        })
    }
}

impl fmt::Display for Duties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Duties::NAMES.iter().filter(|(duty, _)| self.contains(*duty)).map(|(_, name)| *name);
        f.write_str(&names.collect::<Vec<_>>().join("&"))
    }
}

impl fmt::Debug for Duties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Duties({self})")
    }
}

/// What a certificate says of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Which node.
    pub node: NodeId,
    /// Its name, for people: `be2.example`.
    pub name: String,
    /// What it may do.
    pub duties: Duties,
}

/// The longest name of a node.
pub const NODE_NAME_OCTETS_MAX: usize = 255;

const URI: &str = "rookery://node/";

impl Identity {
    /// The name that certificates carry: `rookery://node/<id>?serve&hold`.
    pub fn uri(&self) -> String {
        format!("{URI}{}?{}", self.node, self.duties)
    }

    /// The host name that a dialling node asks for, so that TLS itself sees to it that the right node answers.
    pub fn server_name(node: NodeId) -> String {
        format!("{node}.node.rookery")
    }

    /// Reads a certificate. `None`: it is not one of a node.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Identity> {
        let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
        let alternatives = certificate.subject_alternative_name().ok().flatten()?;
        let mut uris = alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(URI),
            _ => None,
        });
        let uri = uris.next().filter(|_| rest.is_empty())?;
        if uris.next().is_some() || certificate.is_ca() {
            return None;
        }
        let (id, duties) = uri.split_once('?')?;
        let node = (id.len() == 16).then(|| u64::from_str_radix(id, 16).ok()).flatten()?;
        let mut names = certificate.subject().iter_common_name();
        let name = names.next().and_then(|name| name.as_str().ok())?;
        let name = (name.len() <= NODE_NAME_OCTETS_MAX).then(|| name.to_owned())?;
        Some(Identity { node: NodeId(node), name, duties: Duties::parse(duties)? })
    }
}
