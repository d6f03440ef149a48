//! Message octets: every content that a record points to is read and compared with its checksum.

use super::{CheckError, Findings};
use crate::keys;
use crate::records::Locator;
use crate::store::read_live;
use crate::volume::Volumes;
use rookery_kv::engine::Engine;
use rookery_kv::files::FileLayer;
use rookery_types::{AccountId, ContentId, StoreId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A content that a record points to.
pub(super) struct Body {
    pub(super) account: AccountId,
    pub(super) content: ContentId,
    pub(super) locator: Locator,
}

pub(super) fn check(
    engine: &dyn Engine,
    files: Arc<dyn FileLayer>,
    store: Option<StoreId>,
    findings: &mut Findings,
    in_use: BTreeMap<u32, u64>,
    bodies: &[Body],
) -> Result<(), CheckError> {
    let volumes = Volumes::open(files, store.unwrap_or(StoreId([0; 16])), 0).map_err(CheckError::Volumes)?;
    for body in bodies {
        if let Err(error) = volumes.verify(body.locator, body.account, body.content) {
            let key = keys::content(body.account, body.content);
            findings.add(
                "content",
                &key,
                format!("its octets cannot be read: {}", crate::committer::describe(&error)),
            );
        }
    }
    let Ok(live) = read_live(engine) else { return Ok(()) };
    for number in live.keys().chain(in_use.keys()).copied().collect::<std::collections::BTreeSet<u32>>() {
        let (said, counted) =
            (live.get(&number).copied().unwrap_or(0), in_use.get(&number).copied().unwrap_or(0));
        if said != counted {
            let what = format!("it says that {said} octets are in use, and {counted} are");
            findings.add("volume", &keys::volume(number), what);
        }
    }
    Ok(())
}
