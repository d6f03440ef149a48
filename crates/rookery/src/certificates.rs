//! The certificates that clients are shown: those that are set, or one that is made.

use std::sync::Arc;
use std::time::Duration;

use rookery_net::{Drain, ServerTls, TlsFiles};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::exit::{Failure, failed};
use crate::live::Apply;
use crate::reload::Reload;

/// How often their files are looked at.
const WATCH: Duration = Duration::from_secs(60);

/// What this node serves under TLS; nothing if no client comes here.
pub(crate) fn make(config: &Config, hostname: &str) -> Result<Option<Arc<ServerTls>>, Failure> {
    let clients =
        [&config.imap.listen, &config.imap.listen_tls, &config.pop3.listen, &config.pop3.listen_tls];
    let mut clients = clients.into_iter().chain([&config.imap.admins_listen]);
    if clients.all(|listen| listen.is_empty()) {
        return Ok(None);
    }
    let tls = ServerTls::load_files(files(config, hostname)?);
    tls.map(Arc::new).map(Some).map_err(|error| failed("TLS", &error))
}

/// The certificates that are set, or one that is made.
fn files(config: &Config, hostname: &str) -> Result<TlsFiles, Failure> {
    let given = |path: &std::path::PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
    let (folder, client_ca) = (given(&config.tls.folder), given(&config.tls.client_ca));
    if !config.tls.cert.as_os_str().is_empty() {
        return Ok(TlsFiles {
            cert: config.tls.cert.clone(),
            key: config.tls.key.clone(),
            folder,
            client_ca,
        });
    }
    let names = [hostname.to_owned(), "localhost".to_owned()];
    let made =
        rookery_net::tls::self_signed(&names, &config.data_dir).map_err(|error| failed("TLS", &error))?;
    if made.newly_made {
        tracing::info!(cert = %made.cert.display(), "made a self-signed certificate; set [tls] cert and key for a real one");
    }
    Ok(TlsFiles { cert: made.cert, key: made.key, folder, client_ca })
}

/// Takes certificates up again that the configuration names.
pub(crate) fn again(tls: Option<Arc<ServerTls>>, hostname: String) -> Apply {
    Box::new(move |config| {
        let Some(tls) = &tls else { return Ok(()) };
        let reloaded = tls.reload_from(files(config, &hostname)?);
        reloaded.map(drop).map_err(|error| failed("the old certificates are still served", &error))
    })
}

/// Takes certificates up whose files have changed, until the server ends.
pub(crate) fn watch(tasks: &mut JoinSet<()>, reload: &Reload, drain: &Drain) {
    let (reload, drain) = (reload.clone(), drain.clone());
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = drain.draining() => return,
                () = tokio::time::sleep(WATCH) => reload.look(),
            }
        }
    });
}
