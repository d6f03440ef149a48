//! placeholder until merge
use std::sync::Arc;
use rookery_net::{Drain, Gate, Listener, ServerTls};
use tokio::task::JoinSet;
use crate::exit::Failure;
use crate::serve::Data;
pub(crate) struct Imap;
pub(crate) fn services(_d: &Data, _h: &str, _t: Option<&ServerTls>) -> Result<Imap, Failure> { Ok(Imap) }
impl Imap {
    pub(crate) fn renewer(&self, _tls: Option<Arc<ServerTls>>) -> Arc<dyn Fn() + Send + Sync> { Arc::new(|| ()) }
    pub(crate) fn spawn(&self, _t: &mut JoinSet<()>, _l: Listener, _o: bool, _g: &Gate, _d: &Drain) {}
}
