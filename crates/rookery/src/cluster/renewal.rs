//! Certificates of nodes end; before that they are issued anew, by the node with the cluster's authority.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rookery_directory::{CopiedDirectory, Directory};
use rookery_link::{Class, Credentials, Duties, Identity, Incoming, Message, NODE_DAYS, TraceId};
use rookery_types::NodeId;

use super::Cluster;
use crate::exit::with_causes;

/// The name of the service.
const SERVICE: &str = "certificate";
/// How long the authority's node may take.
const WITHIN: Duration = Duration::from_secs(10);

impl Cluster {
    /// Issues certificates for other nodes, if the authority is here.
    pub(super) fn serve_renewals(&self, directory: &CopiedDirectory) {
        if self.giving.is_none() {
            return;
        }
        let (cluster, directory) = (self.clone(), directory.clone());
        self.links.serve(SERVICE, Duties::NONE, move |incoming| {
            let (cluster, directory) = (cluster.clone(), directory.clone());
            async move { cluster.issue(incoming, &directory).await }
        });
    }

    /// Who asks gets what they are now, for the key of the request; a node that was removed gets nothing.
    async fn issue(&self, mut incoming: Incoming, directory: &CopiedDirectory) {
        let peer = incoming.peer.clone();
        let nodes = directory.nodes().await.unwrap_or_default();
        let issued = match &self.giving {
            Some((ca, _)) if nodes.iter().any(|node| node.id == peer.node) => {
                let identity = Identity { node: peer.node, name: peer.name.clone(), duties: peer.duties };
                let request = incoming.head.to_vec().into();
                ca.issue(&request, &identity, SystemTime::now(), NODE_DAYS)
                    .map_err(|error| with_causes(&error))
            }
            _ => Err("it is no node of this cluster".to_owned()),
        };
        match issued {
            Ok(certificate) => {
                tracing::info!(peer = %peer.name, "a node's certificate is renewed");
                // Whoever asked may have gone, and asks again.
                let _ = incoming.stream.send(Message::Data(Bytes::copy_from_slice(&certificate))).await;
            }
            Err(error) => tracing::warn!(error, peer = %peer.name, "a node's certificate is not renewed"),
        }
        let _ = incoming.stream.finish();
    }

    /// Has this node's certificate renewed when two thirds of its time are over.
    pub(super) async fn renew(&self) -> Result<(), String> {
        let credentials = Credentials::load(&self.folder).map_err(|error| with_causes(&error))?;
        let now = SystemTime::now();
        if !credentials.needs_renewal(now) {
            return Ok(());
        }
        let cannot = |error: rookery_link::CaError| with_causes(&error);
        let request = credentials.renewal().map_err(cannot)?;
        let renewed = match (&self.giving, &self.site.directory) {
            (Some((ca, _)), _) => {
                let certificate =
                    ca.issue(&request, credentials.identity(), now, NODE_DAYS).map_err(cannot)?;
                credentials.renewed(certificate).map_err(cannot)?
            }
            (None, Some(at)) => {
                let request = Bytes::copy_from_slice(&request);
                let answer = tokio::time::timeout(WITHIN, self.ask_authority(NodeId(at.node), request)).await;
                let certificate = answer.unwrap_or_else(|_| Err("it takes too long".to_owned()))?;
                credentials.renewed(certificate.to_vec().into()).map_err(cannot)?
            }
            (None, None) => return Err("the cluster's authority is nowhere".to_owned()),
        };
        if renewed.identity() != credentials.identity() || renewed.needs_renewal(now) {
            return Err("the certificate that was issued is not this node's".to_owned());
        }
        renewed.save(&self.folder).map_err(cannot)?;
        self.links.set_credentials(&renewed).map_err(cannot)?;
        tracing::info!("this node's certificate is renewed");
        Ok(())
    }

    async fn ask_authority(&self, node: NodeId, request: Bytes) -> Result<Bytes, String> {
        let opened = self.links.open(node, Class::Interactive, SERVICE, TraceId::random(), request).await;
        let mut stream = opened.map_err(|error| with_causes(&error))?;
        stream.finish().map_err(|error| with_causes(&error))?;
        match stream.recv().await {
            Ok(Some(Message::Data(octets))) => Ok(octets),
            Ok(_) => Err("the node with the authority does not renew it".to_owned()),
            Err(error) => Err(with_causes(&error)),
        }
    }
}
