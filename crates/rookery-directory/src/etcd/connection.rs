//! Connections to etcd's members: one at a time, to another member when it gives trouble.

use super::EtcdOptions;
use super::messages::{AuthenticateRequest, AuthenticateResponse};
use crate::source::SourceError;
use parking_lot::Mutex;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long one request may take. A member that has lost the others answers only after more than this.
const REQUEST_MAX: Duration = Duration::from_secs(3);
/// Not more often: etcd ends connections that ask more than every five seconds whether it is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(6);
const ALIVE_MAX: Duration = Duration::from_secs(2);
/// Octets of the largest answer that is taken.
pub(crate) const ANSWER_OCTETS_MAX: usize = 32 << 20;

pub(crate) struct Connections {
    options: EtcdOptions,
    endpoints: Vec<Endpoint>,
    current: Mutex<Current>,
    /// One connects at a time.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    /// Counts connections; also chooses the member.
    number: usize,
    connection: Option<Connection>,
}

/// A connection, and what it was told at its beginning.
#[derive(Clone)]
pub(crate) struct Connection {
    channel: Channel,
    token: Option<AsciiMetadataValue>,
    number: usize,
}

/// What came of a request.
pub(crate) enum Failure {
    /// Nobody could be asked.
    NotSent(String),
    /// It was refused.
    Refused(Status),
    /// It may have been done.
    Lost(String),
}

impl Connections {
    pub(crate) fn new(options: EtcdOptions) -> Result<Connections, SourceError> {
        let refused = |error: tonic::transport::Error| SourceError::Unavailable(with_causes(&error));
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &options.ca {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &options.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoints = options.endpoints.iter().map(|address| {
            let endpoint = Endpoint::from_shared(address.clone()).map_err(refused)?;
            let endpoint = match address.starts_with("https:") {
                true => endpoint.tls_config(tls.clone()).map_err(refused)?,
                false => endpoint,
            };
            Ok(endpoint
                .connect_timeout(CONNECT_MAX)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(ALIVE_EVERY)
                .keep_alive_timeout(ALIVE_MAX)
                .keep_alive_while_idle(true))
        });
        let endpoints = endpoints.collect::<Result<Vec<_>, SourceError>>()?;
        if endpoints.is_empty() {
            return Err(SourceError::Unavailable("no endpoint of etcd is named".to_owned()));
        }
        Ok(Connections { options, endpoints, current: Mutex::default(), connecting: Default::default() })
    }

    /// The connection in use, or a new one to the next member that takes one.
    pub(crate) async fn connection(&self) -> Result<Connection, Failure> {
        if let Some(connection) = self.current.lock().connection.clone() {
            return Ok(connection);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(connection) = self.current.lock().connection.clone() {
            return Ok(connection);
        }
        let mut why = String::new();
        for _ in 0..self.endpoints.len() {
            let number = {
                let mut current = self.current.lock();
                current.number = current.number.wrapping_add(1);
                current.number
            };
            let Some(endpoint) = self.endpoints.get(number % self.endpoints.len()) else { break };
            match tokio::time::timeout(CONNECT_MAX * 2, self.connect(endpoint, number)).await {
                Ok(Ok(connection)) => {
                    self.current.lock().connection = Some(connection.clone());
                    return Ok(connection);
                }
                Ok(Err(error)) => why = error,
                Err(_) => why = "no answer".to_owned(),
            }
        }
        Err(Failure::NotSent(why))
    }

    async fn connect(&self, endpoint: &Endpoint, number: usize) -> Result<Connection, String> {
        let channel = endpoint.connect().await.map_err(|error| with_causes(&error))?;
        let mut connection = Connection { channel, token: None, number };
        if let Some((name, password)) = &self.options.user {
            let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
            let answer: AuthenticateResponse = connection
                .unary("/etcdserverpb.Auth/Authenticate", request)
                .await
                .map_err(|status| status.message().to_owned())?;
            connection.token = Some(answer.token.parse().map_err(|_| "the token makes no sense".to_owned())?);
        }
        Ok(connection)
    }

    /// The connection gave trouble: the next request takes another.
    pub(crate) fn leave(&self, connection: &Connection) {
        let mut current = self.current.lock();
        if current.connection.as_ref().is_some_and(|known| known.number == connection.number) {
            current.connection = None;
        }
    }

    /// Asks once.
    pub(crate) async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Failure>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let connection = self.connection().await?;
        // Also when whoever asks does not wait any longer: another member may answer faster.
        let mut asking = Asking { connections: self, connection: &connection, is_answered: false };
        let answer = tokio::time::timeout(REQUEST_MAX, connection.unary(path, question)).await;
        let failure = match answer {
            Ok(Ok(answer)) => {
                asking.is_answered = true;
                return Ok(answer);
            }
            Ok(Err(status)) => failure(status),
            Err(_) => Failure::Lost("no answer".to_owned()),
        };
        asking.is_answered =
            matches!(&failure, Failure::Refused(status) if status.code() != Code::Unauthenticated);
        Err(failure)
    }
}

struct Asking<'a> {
    connections: &'a Connections,
    connection: &'a Connection,
    is_answered: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connections.leave(self.connection);
        }
    }
}

/// Only what was surely refused counts as not done.
pub(crate) fn failure(status: Status) -> Failure {
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::Unimplemented => Failure::Refused(status),
        _ => Failure::Lost(status.message().to_owned()),
    }
}

impl Connection {
    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_OCTETS_MAX)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // A member that has lost the others says so at once.
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    async fn unary<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|error| Status::unavailable(with_causes(&error)))?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc.unary(self.request(question), PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }

    /// Asks and goes on being told. The question's sender is to be kept as long as answers are wanted.
    pub(crate) async fn stream<Q, A>(
        &self,
        path: &'static str,
        questions: tokio::sync::mpsc::Receiver<Q>,
    ) -> Result<tonic::Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|error| Status::unavailable(with_causes(&error)))?;
        let questions = self.request(tokio_stream::wrappers::ReceiverStream::new(questions));
        let codec = ProstCodec::<Q, A>::default();
        let answers = grpc.streaming(questions, PathAndQuery::from_static(path), codec).await?;
        Ok(answers.into_inner())
    }
}

/// An error with its causes, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
