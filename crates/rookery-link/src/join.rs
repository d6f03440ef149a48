//! How a new node becomes one of the cluster: with a token it gets a certificate, once.
//!
//! The new node connects by TLS and accepts exactly one CA: the one whose fingerprint is in the token. It sends the
//! token's proof, a request for a certificate, and what it says of itself. It gets its certificate, the cluster's
//! CAs, and facts that this crate does not read. Both messages are JSON behind a length of four octets.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rookery_types::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client, server};

use crate::ca::{Ca, CaError, Credentials, Fingerprint, NODE_DAYS, NodeKey};
use crate::identity::{Duties, Identity};
use crate::tls::{ALPN_JOIN, provider};
use crate::token::{JoinToken, TokenError, TokenId, Tokens};

/// A message of the new node has so many octets at most.
const REQUEST_OCTETS_MAX: usize = 64 << 10;
/// The answer's.
const ANSWER_OCTETS_MAX: usize = 4 << 20;
/// The whole exchange takes so long at most; a cluster may have to write down the new node meanwhile.
const WITHIN: Duration = Duration::from_secs(30);
/// A new node says all it has to say within this.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
const EXPORTER_LABEL: &[u8] = b"EXPORTER-rookery-join";

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No connection.
    #[error("{address} cannot be reached: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// Whoever answers does not belong to the token's cluster.
    #[error("the node at {address} does not belong to the cluster of this token: {reason}")]
    Stranger {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// The cluster refuses.
    #[error("the cluster refuses: {0}")]
    Refused(String),
    /// The other side says what it should not.
    #[error("the other side breaks the protocol of joins: {0}")]
    Protocol(String),
    /// Certificates.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Tokens, at the side that gives them.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It takes too long.
    #[error("there was no answer within {WITHIN:?}")]
    Slow,
}

/// What a new node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// The id it has had as a single server; `None`: the cluster gives one.
    pub node: Option<NodeId>,
    /// Its name.
    pub name: String,
    /// What it wants to do.
    pub duties: Duties,
    /// What the cluster wants to know beyond that: addresses, store id, versions. Not read here.
    pub facts: Bytes,
}

/// What the cluster gives a new node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Who it is from now on; goes into the certificate.
    pub identity: Identity,
    /// What it needs to know: peers, the directory. Not read here.
    pub facts: Bytes,
}

/// What has come of a join.
pub struct Joined {
    /// To be saved, and used for [`crate::Links::new`].
    pub credentials: Credentials,
    /// What the cluster says.
    pub facts: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Request {
    token: [u8; 8],
    proof: String,
    /// Covered by the proof, so it travels as the text that was proved.
    wish: String,
}

#[derive(Serialize, Deserialize)]
struct Wish {
    request: String,
    node: Option<u64>,
    name: String,
    duties: String,
    facts: String,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Welcome { certificate: String, authorities: Vec<String>, facts: String },
    Refused { reason: String },
}

/// What decides about a new node: writes it down and says who it is. Gets what the token's note says.
pub type AdmitNew = Box<
    dyn Fn(NewNode, String) -> Pin<Box<dyn Future<Output = Result<Admission, String>> + Send>> + Send + Sync,
>;

/// Lets nodes join at a node that has the CA.
pub struct JoinDesk {
    ca: Arc<Ca>,
    tokens: Arc<Tokens>,
    admit: AdmitNew,
}

impl JoinDesk {
    /// One with a CA, the tokens it takes, and who decides.
    pub fn new(ca: Arc<Ca>, tokens: Arc<Tokens>, admit: AdmitNew) -> JoinDesk {
        JoinDesk { ca, tokens, admit }
    }

    /// Serves one joining node.
    pub(crate) async fn serve<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: server::TlsStream<T>,
    ) -> Result<(), JoinError> {
        let session = exported(stream.get_ref().1)?;
        let work = async {
            let answer = match self.decide(&mut stream, &session).await {
                Ok(welcome) => (welcome, Ok(())),
                Err(error) => (Answer::Refused { reason: error.to_string() }, Err(error)),
            };
            let (said, result) = answer;
            write(&mut stream, &said).await?;
            let _ = stream.shutdown().await;
            result
        };
        timeout(WITHIN, work).await.map_err(|_| JoinError::Slow)?
    }

    async fn decide<T: AsyncRead + Unpin>(
        &self,
        stream: &mut T,
        session: &[u8],
    ) -> Result<Answer, JoinError> {
        let request = timeout(REQUEST_WITHIN, read(stream, REQUEST_OCTETS_MAX)).await;
        let request: Request = request.map_err(|_| JoinError::Slow)??;
        let wish: Wish = serde_json::from_str(&request.wish).map_err(malformed)?;
        let proof = octets(&request.proof)?;
        let node = NewNode {
            node: wish.node.map(NodeId),
            name: wish.name,
            duties: Duties::parse(&wish.duties).ok_or_else(|| malformed("a duty that is not known here"))?,
            facts: octets(&wish.facts)?.into(),
        };
        let csr = CertificateSigningRequestDer::from(octets(&wish.request)?);
        let now = SystemTime::now();
        // A request that cannot be granted shall not cost the token.
        let probe = Identity { node: NodeId(0), name: node.name.clone(), duties: node.duties };
        self.ca.issue(&csr, &probe, now, NODE_DAYS)?;
        let token = TokenId(request.token);
        let redeemed = self.tokens.redeem(token, &proof, session, request.wish.as_bytes(), now)?;
        let name = node.name.clone();
        let admitted = (self.admit)(node, redeemed.note().to_owned()).await;
        let Admission { identity, facts } = match admitted {
            Ok(admission) => admission,
            Err(reason) => {
                self.tokens.restore(redeemed)?;
                return Err(JoinError::Refused(reason));
            }
        };
        let certificate = self.ca.issue(&csr, &identity, now, NODE_DAYS)?;
        tracing::info!(name, node = %identity.node, duties = %identity.duties, %token, "a node has joined");
        Ok(Answer::Welcome {
            certificate: STANDARD.encode(certificate),
            authorities: vec![STANDARD.encode(self.ca.certificate())],
            facts: STANDARD.encode(facts),
        })
    }
}

/// Joins the cluster that a token is of.
pub async fn join(token: &JoinToken, node: NewNode) -> Result<Joined, JoinError> {
    timeout(WITHIN, attempt(token, node)).await.map_err(|_| JoinError::Slow)?
}

async fn attempt(token: &JoinToken, node: NewNode) -> Result<Joined, JoinError> {
    let address = token.address.clone();
    let connected = TcpStream::connect(&address).await;
    let tcp = connected
        .map_err(|error| JoinError::Connect { address: address.clone(), reason: error.to_string() })?;
    let mut stream = secure(tcp, token).await?;
    let session = exported(stream.get_ref().1)?;

    let key = NodeKey::make()?;
    let wish = Wish {
        request: STANDARD.encode(key.request()?),
        node: node.node.map(|id| id.0),
        name: node.name,
        duties: node.duties.to_string(),
        facts: STANDARD.encode(node.facts),
    };
    let wish = serde_json::to_string(&wish).map_err(malformed)?;
    let proof = STANDARD.encode(token.proof(&session, wish.as_bytes()));
    write(&mut stream, &Request { token: token.id.0, proof, wish }).await?;
    match read(&mut stream, ANSWER_OCTETS_MAX).await? {
        Answer::Refused { reason } => Err(JoinError::Refused(reason)),
        Answer::Welcome { certificate, authorities, facts } => {
            let authorities: Result<Vec<_>, JoinError> =
                authorities.iter().map(|text| octets(text).map(CertificateDer::from)).collect();
            let credentials = Credentials::new(key, octets(&certificate)?.into(), authorities?)?;
            // Bad ones shall show now, not at the first link.
            crate::tls::TlsConfigs::new(&credentials)?;
            Ok(Joined { credentials, facts: octets(&facts)?.into() })
        }
    }
}

async fn secure(tcp: TcpStream, token: &JoinToken) -> Result<client::TlsStream<TcpStream>, JoinError> {
    let provider = provider();
    let pinned = Pinned { fingerprint: token.fingerprint, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(CaError::from)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.enable_sni = false;
    let address = token.address.clone();
    // Not looked at: the token pins the CA, and the certificate's duties are what matters.
    let name = ServerName::try_from("join.node.rookery").map_err(malformed)?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    connected.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(why))) => {
                JoinError::Stranger { address, reason: why.0.to_string() }
            }
            Some(rustls::Error::InvalidCertificate(_)) => {
                JoinError::Stranger { address, reason: error.to_string() }
            }
            _ => JoinError::Connect { address, reason: error.to_string() },
        }
    })
}

/// Accepts nodes with the duty of a directory whose certificate is of the one CA with the fingerprint.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug, thiserror::Error)]
enum NotPinned {
    #[error("its authority's fingerprint is not that of the token")]
    Fingerprint,
    #[error("its certificate has not the duty of a directory")]
    NoDuty,
}

fn refuse(why: NotPinned) -> rustls::Error {
    rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(Arc::new(why))))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|other| Fingerprint::of(other) == self.fingerprint);
        let authority = pinned.ok_or_else(|| refuse(NotPinned::Fingerprint))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms)?;
        match Identity::of_certificate(certificate) {
            Some(identity) if identity.duties.contains(Duties::DIRECTORY) => {
                Ok(ServerCertVerified::assertion())
            }
            _ => Err(refuse(NotPinned::NoDuty)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn exported<D>(tls: &rustls::ConnectionCommon<D>) -> Result<[u8; 32], JoinError> {
    tls.export_keying_material([0; 32], EXPORTER_LABEL, None).map_err(|error| JoinError::Ca(error.into()))
}

fn malformed(error: impl std::fmt::Display) -> JoinError {
    JoinError::Protocol(error.to_string())
}

fn octets(text: &str) -> Result<Vec<u8>, JoinError> {
    STANDARD.decode(text).map_err(malformed)
}

async fn write<T: AsyncWrite + Unpin>(stream: &mut T, message: &impl Serialize) -> Result<(), JoinError> {
    let octets = serde_json::to_vec(message).map_err(malformed)?;
    let length = u32::try_from(octets.len()).map_err(malformed)?;
    stream.write_all(&length.to_be_bytes()).await.map_err(malformed)?;
    stream.write_all(&octets).await.map_err(malformed)?;
    stream.flush().await.map_err(malformed)
}

async fn read<T: AsyncRead + Unpin, M: for<'a> Deserialize<'a>>(
    stream: &mut T,
    octets_max: usize,
) -> Result<M, JoinError> {
    let length = usize::try_from(stream.read_u32().await.map_err(malformed)?).unwrap_or(usize::MAX);
    if length > octets_max {
        return Err(malformed(format!("a message of {length} octets")));
    }
    let mut octets = vec![0; length];
    stream.read_exact(&mut octets).await.map_err(malformed)?;
    serde_json::from_slice(&octets).map_err(malformed)
}
