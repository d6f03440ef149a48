//! What SIGHUP and `rookery reload` do: the certificate is read again. Everything else needs a restart.

use std::sync::Arc;

use rookery_net::ServerTls;

/// Reads the certificate again. Connections take what was read last.
#[derive(Clone)]
pub(crate) struct Reload {
    pub(crate) tls: Option<Arc<ServerTls>>,
}

impl Reload {
    /// Reads the certificate if its files have changed, as a look now and then.
    pub(crate) fn look(&self) {
        match self.tls.as_ref().map(|tls| (tls, tls.reload())) {
            None | Some((_, Ok(false))) => {}
            Some((tls, Ok(true))) => {
                tracing::info!(cert = %tls.cert_file().display(), "the certificate has changed and was read again");
            }
            Some((_, Err(error))) => {
                tracing::error!(%error, "the certificate cannot be reloaded; the old one is served");
            }
        }
    }

    /// Says what was done.
    pub(crate) fn run(&self) -> Result<String, String> {
        let Some(tls) = &self.tls else { return Ok("There is no certificate to read again.".to_owned()) };
        match tls.reload() {
            Ok(true) => {
                tracing::info!(cert = %tls.cert_file().display(), "the certificate was reloaded");
                Ok("The certificate was read again. Other settings need a restart.".to_owned())
            }
            Ok(false) => {
                tracing::info!("reload: the certificate has not changed; other settings need a restart");
                Ok("The certificate has not changed. Other settings need a restart.".to_owned())
            }
            Err(error) => {
                tracing::error!(%error, "the certificate cannot be reloaded; the old one is served");
                Err(format!("the old certificate is still served: {error}"))
            }
        }
    }
}
