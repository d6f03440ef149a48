//! A backing in memory, whose accounts fail in the ways that their names say, and other homes that have one.
//!
//! Invariant: a delivery with an id is made once at most, and not at all once it was given up; otherwise the test fails.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rookery_lmtp::{
    Backing, Carrier, DeliverError, Delivered, LookUpError, Once, Place, Services, serve_pipe,
};
use rookery_net::Drain;
use rookery_route::{PeerError, Peers, PipeService, Reaching};
use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, NodeId, OperationId, UserName};

/// Numbers of everybody's mailboxes.
pub(crate) const INBOX: u32 = 1;
pub(crate) const LISTS: u32 = 2;
pub(crate) const PRIVATE: u32 = 3;
/// Users `joe`, `ann`, `full`, `broken`, `moving`, `away` and `u1`, `u2`, …
#[derive(Default)]
pub(crate) struct Memory {
    stored: Mutex<HashMap<MailboxId, Vec<Vec<u8>>>>,
    /// Mailbox, sender and Message-ID of what is not to be stored again.
    once: Mutex<HashSet<(MailboxId, String, String)>>,
    /// Deliveries that had ids, and whether they were made.
    operations: Mutex<HashMap<(AccountId, OperationId), bool>>,
    /// Who is at home at another node, and where; with an empty name all.
    elsewhere: Mutex<Vec<(&'static str, NodeId)>>,
    /// Accounts that have left since they were looked up.
    left: Mutex<HashMap<AccountId, (NodeId, UserName)>>,
}

const NAMES: [&str; 6] = ["joe", "ann", "full", "broken", "moving", "away"];

fn account(name: &str) -> Option<AccountId> {
    let number = match NAMES.iter().position(|known| *known == name) {
        Some(at) => at as u64 + 1,
        None => name.strip_prefix('u')?.parse::<u64>().ok()? + 100,
    };
    AccountId::new(number)
}

fn known(user: &UserName) -> Result<AccountId, LookUpError> {
    match user.local() {
        "moving" => Err(LookUpError::Closed),
        "away" => Err(LookUpError::Unavailable("no answer".to_owned())),
        local if user.domain() == "example.org" => account(local).ok_or(LookUpError::NotFound),
        _ => Err(LookUpError::NotFound),
    }
}

impl Backing for Memory {
    type Spool = Vec<u8>;
    type Message = Arc<Vec<u8>>;

    async fn look_up(&self, user: &UserName) -> Result<Vec<Place>, LookUpError> {
        let names = match user.local() {
            "both" => vec!["joe", "ann"],
            "some" => vec!["joe", "full"],
            local => vec![local],
        };
        let place = |name: &str| {
            let user = UserName::parse(name, user.domain()).map_err(|_| LookUpError::NotFound)?;
            let id = known(&user)?;
            Ok(self.elsewhere(name).map_or(Place::Here(id), |node| Place::At(node, user)))
        };
        names.into_iter().map(place).collect()
    }

    async fn at_home(&self, user: &UserName) -> Result<Place, LookUpError> {
        match self.elsewhere(user.local()) {
            Some(node) => Ok(Place::At(node, user.clone())),
            None => known(user).map(Place::Here),
        }
    }

    async fn whither(&self, account: AccountId) -> Result<Option<Place>, DeliverError> {
        let left = self.left.lock().unwrap().get(&account).cloned();
        Ok(Some(left.map_or(Place::Here(account), |(node, user)| Place::At(node, user))))
    }

    async fn read(&self, message: &Arc<Vec<u8>>, from: u64, octets: usize) -> Result<Bytes, DeliverError> {
        let rest = message.get(usize::try_from(from).unwrap()..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(&rest[..rest.len().min(octets)]))
    }

    async fn target(
        &self,
        account: AccountId,
        detail: Option<&MailboxPath>,
        author: Option<&UserName>,
    ) -> Result<MailboxId, DeliverError> {
        let number = match detail.map(MailboxPath::as_str) {
            Some("Lists/rust") => LISTS,
            Some("Private") if author.is_some_and(|user| user.local() == "ann") => PRIVATE,
            _ => INBOX,
        };
        Ok(MailboxId { account, number })
    }

    fn spool(&self) -> Vec<u8> {
        Vec::new()
    }

    fn push(&self, spool: &mut Vec<u8>, octets: &[u8]) -> Result<(), DeliverError> {
        spool.extend_from_slice(octets);
        Ok(())
    }

    async fn finish(&self, spool: Vec<u8>) -> Result<Arc<Vec<u8>>, DeliverError> {
        Ok(Arc::new(spool))
    }

    async fn append(
        &self,
        mailbox: MailboxId,
        message: Arc<Vec<u8>>,
        _date: InternalDate,
        once: Option<&Once>,
        operations: &[OperationId],
    ) -> Result<Delivered, DeliverError> {
        tokio::task::yield_now().await;
        if self.left.lock().unwrap().contains_key(&mailbox.account) {
            return Err(DeliverError::Moved);
        }
        if Some(mailbox.account) == account("full") {
            return Err(DeliverError::OverQuota);
        }
        if Some(mailbox.account) == account("broken") {
            return Err(DeliverError::Failed("the disk is on fire".to_owned()));
        }
        let text = String::from_utf8_lossy(&message).into_owned();
        let message_id = text.lines().find_map(|line| line.strip_prefix("Message-ID: ").map(str::to_owned));
        if let Some((once, message_id)) = once.zip(message_id)
            && !self.once.lock().unwrap().insert((mailbox, once.sender.clone(), message_id))
        {
            return Ok(Delivered::Before);
        }
        for id in operations {
            let before = self.operations.lock().unwrap().insert((mailbox.account, *id), true);
            assert_eq!(before, None, "nothing is asked for twice, and what was given up does not come");
        }
        self.stored.lock().unwrap().entry(mailbox).or_default().push(message.to_vec());
        Ok(Delivered::Stored)
    }

    async fn settle(&self, account: AccountId, operation: OperationId) -> Result<bool, DeliverError> {
        Ok(*self.operations.lock().unwrap().entry((account, operation)).or_insert(false))
    }
}

impl Memory {
    /// Whether nothing has come for anybody.
    pub(crate) fn is_empty(&self) -> bool {
        self.stored.lock().unwrap().is_empty()
    }

    /// With a user who leaves for another node while a message comes.
    #[allow(dead_code, reason = "only where there are several homes")]
    pub(crate) fn leaving(name: &str, node: NodeId) -> Memory {
        let user = UserName::parse(name, "example.org").unwrap();
        Memory {
            left: Mutex::new(HashMap::from([(account(name).unwrap(), (node, user))])),
            ..Memory::default()
        }
    }

    /// With these users at home elsewhere.
    pub(crate) fn without(elsewhere: Vec<(&'static str, NodeId)>) -> Memory {
        Memory { elsewhere: Mutex::new(elsewhere), ..Memory::default() }
    }

    fn elsewhere(&self, name: &str) -> Option<NodeId> {
        let elsewhere = self.elsewhere.lock().unwrap();
        elsewhere.iter().find(|(known, _)| known.is_empty() || *known == name).map(|(_, node)| *node)
    }

    /// A user is at home at another node from now on.
    #[allow(dead_code, reason = "only where there are several homes")]
    pub(crate) fn is_elsewhere(&self, name: &'static str, node: NodeId) {
        self.elsewhere.lock().unwrap().insert(0, (name, node));
    }

    /// What has come into a mailbox of somebody's.
    pub(crate) fn of(&self, name: &str, number: u32) -> Vec<String> {
        let id = MailboxId { account: account(name).unwrap(), number };
        let stored = self.stored.lock().unwrap();
        let messages = stored.get(&id).into_iter().flatten();
        messages.map(|message| String::from_utf8_lossy(message).into_owned()).collect()
    }
}

/// Homes that are reached by pipes in memory.
#[derive(Default)]
pub(crate) struct Homes {
    pub(crate) nodes: HashMap<NodeId, Arc<Services<Memory>>>,
    /// Whoever reaches them only holds accounts.
    pub(crate) for_a_holder: bool,
}

impl Peers for Homes {
    fn open(&self, node: NodeId, service: PipeService, _head: bytes::Bytes) -> Reaching<'_> {
        assert_eq!(service, PipeService::Lmtp);
        Box::pin(async move {
            let services = self.nodes.get(&node).ok_or(PeerError { node, why: "it is off".to_owned() })?;
            let (near, far) = rookery_net::pipe::in_memory(64);
            let carrier = if self.for_a_holder { Carrier::Holds } else { Carrier::Serves };
            tokio::spawn(serve_pipe(Box::new(far), carrier, 7, Arc::clone(services), Drain::new().guard()));
            Ok(Box::new(near) as Box<dyn rookery_net::Pipe>)
        })
    }
}
