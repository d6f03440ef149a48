//! Mailbox names: from what a client writes to an account and a path, and back. The only file that asks where
//! a name leads.
//!
//! Invariant: a mailbox that the user may not look up is answered exactly like one that does not exist.

use crate::answer::{Answer, Failure, no_such_mailbox};
use crate::session::User;
use rookery_codec::imap::{Code, WireName};
use rookery_directory::{DirectoryError, Published};
use rookery_route::AccountError;
use rookery_store::{Account, MailboxState};
use rookery_types::{
    AccountId, AccountName, Address, ClientNames, Encoding, Identifier, MailboxId, NameError, NodeId,
    Pattern, Rights,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How this session reads and writes names.
pub(crate) struct Names {
    pub(crate) client: ClientNames,
    encoding: Encoding,
}

/// A mailbox that exists and that the user may know of.
pub(crate) struct Found {
    pub(crate) account: Account,
    pub(crate) id: MailboxId,
    pub(crate) state: Arc<MailboxState>,
    pub(crate) address: Address,
    pub(crate) rights: Rights,
}

/// A place where a mailbox may be or be made.
pub(crate) struct Place {
    pub(crate) account: Account,
    pub(crate) address: Address,
}

impl Names {
    pub(crate) fn new(client: ClientNames) -> Names {
        Names { client, encoding: Encoding::Utf7 }
    }

    /// From here on names are UTF-8 (RFC 9051 §5.1).
    pub(crate) fn use_utf8(&mut self) {
        self.encoding = Encoding::Utf8;
    }

    /// The name above one, as patterns see them.
    pub(crate) fn parent(&self, shown: &str) -> Option<String> {
        self.client.parent(shown)
    }

    /// What a name is on the wire.
    pub(crate) fn wire(&self, text: &str) -> WireName {
        WireName(self.encoding.encode(text.to_owned()).into())
    }

    /// The name as patterns see it.
    pub(crate) fn show(&self, address: &Address) -> String {
        self.client.show(address)
    }

    /// Reads a reference and pattern.
    pub(crate) fn pattern(&self, reference: &WireName, pattern: &WireName) -> Result<Pattern, NameError> {
        Pattern::from_wire(reference.as_bytes(), pattern.as_bytes(), self.encoding)
    }

    /// Reads a pattern of text that is decoded already.
    pub(crate) fn pattern_utf8(&self, pattern: &WireName) -> Result<Pattern, NameError> {
        Pattern::from_wire(b"", pattern.as_bytes(), Encoding::Utf8)
    }

    /// A name as it is written, whether or not it can be a mailbox's.
    pub(crate) fn decoded(&self, name: &WireName) -> Option<String> {
        self.encoding.decode(name.as_bytes()).ok().map(Into::into)
    }

    /// Reads the name of something that may exist.
    pub(crate) fn address(&self, name: &WireName) -> Result<Address, Failure> {
        self.client.to_address(name.as_bytes(), self.encoding).map_err(|error| match error {
            // What cannot be a name names nothing; only a wrong encoding is worth other words.
            NameError::BadEncoding => badly_encoded(),
            _ => no_such_mailbox().into(),
        })
    }

    /// Reads a name that is in UTF-8 however the session writes names.
    pub(crate) fn address_of_text(&self, text: &str) -> Result<Address, NameError> {
        self.client.read(text)
    }

    /// Reads the name of something to be made.
    pub(crate) fn new_address(&self, name: &WireName) -> Result<Address, Failure> {
        self.client.to_new_address(name.as_bytes(), self.encoding).map_err(|error| match error {
            NameError::BadEncoding => badly_encoded(),
            error => error.into(),
        })
    }
}

/// There is no right to make it, or nothing to make it in; which, is not told.
pub(crate) fn nothing_can_be_made() -> Answer {
    Answer::no(Code::NoPerm, "Nothing can be made there")
}

fn badly_encoded() -> Failure {
    Answer::no(Code::Cannot, "The mailbox name is not well encoded").into()
}

impl User {
    /// The mailbox of that name, if it exists and the user may know of it.
    pub(crate) async fn find(&self, name: &WireName) -> Result<Found, Failure> {
        self.find_address(self.names.address(name)?).await
    }

    pub(crate) async fn find_address(&self, address: Address) -> Result<Found, Failure> {
        let account = self.account_of(address.account()).await?.ok_or_else(no_such_mailbox)?;
        let tree = account.tree();
        let id = tree.get(address.path()).ok_or_else(no_such_mailbox)?;
        let state = tree.state(id).ok_or_else(no_such_mailbox)?;
        let rights = self.rights(&account, &state);
        if !rights.contains(Rights::LOOKUP) {
            return Err(no_such_mailbox().into());
        }
        Ok(Found { account, id, state, address, rights })
    }

    /// The place of a name where something shall be made; refused if the user may not make it there.
    pub(crate) async fn place(&self, name: &WireName) -> Result<Place, Failure> {
        let address = self.names.new_address(name)?;
        let Some(account) = self.account_of(address.account()).await? else {
            return Err(nothing_can_be_made().into());
        };
        if !self.rights_above(&account, address.path()).contains(Rights::CREATE) {
            return Err(nothing_can_be_made().into());
        }
        Ok(Place { account, address })
    }

    /// Whether CREATE of that name would help.
    pub(crate) async fn may_create(&self, name: &WireName) -> bool {
        self.place(name).await.is_ok()
    }

    /// The account of that name, if there is one and it is here; as the user sees it, so with \Seen of their own if
    /// it is another's.
    pub(crate) async fn account_of(&self, name: &AccountName) -> Result<Option<Account>, Failure> {
        if let Some(own) = self.own.as_ref().filter(|_| name.user() == Some(&self.name)) {
            return Ok(Some(own.clone()));
        }
        // Decided before anything is looked up: what is out of reach is answered alike whether or not it exists.
        match self.reaches(name.domain()) {
            true => {
                let opened = self.services.router.open(&self.services.store, name).await;
                Ok(opened.map_err(not_opened)?.map(|account| account.seen_by(&self.name)))
            }
            false => Ok(None),
        }
    }

    /// The account of that name, if there is one and it is here; that of another home is none.
    pub(crate) async fn account_here(&self, name: &AccountName) -> Result<Option<Account>, Failure> {
        let own = self.own.as_ref().filter(|_| name.user() == Some(&self.name));
        match own {
            Some(own) => Ok(Some(own.clone())),
            None => match self.opened(name).await? {
                Opened::Here(account) => Ok(Some(account)),
                Opened::Elsewhere(_) | Opened::Nowhere => Ok(None),
            },
        }
    }

    /// Accounts of others in which a pattern can match something. For an administrator those that a subscription
    /// names; all there is, is listed elsewhere.
    ///
    /// What was shared anywhere before the call is among them, unless the directory is away; then it is what this
    /// node knows.
    pub(crate) async fn others(&self, patterns: &[Pattern]) -> Result<Vec<Others>, Failure> {
        if self.administers() {
            return self.subscribed_accounts().await;
        }
        let mut is_fresh = false;
        let mut to = vec![Identifier::Anyone, Identifier::User(self.name.clone())];
        to.extend(self.groups.iter().cloned().map(Identifier::Group));
        let namespaces = self.names.client.namespaces();
        let mut others = Vec::new();
        for (shared, prefix) in [(true, namespaces.shared.prefix), (false, namespaces.other_users.prefix)] {
            let reached = patterns.iter().any(|pattern| pattern.reaches(prefix));
            let above = prefix.trim_end_matches('/');
            if !reached && !patterns.iter().any(|pattern| pattern.matches(above)) {
                continue;
            }
            if !std::mem::replace(&mut is_fresh, true)
                && let Err(error) = self.services.directory.barrier().await
            {
                tracing::debug!(%error, "shared mailboxes are listed as this node knows them");
            }
            // Where only the prefix itself is asked for, one mailbox that has it says enough.
            let mut limit = if reached { GRANTS_MAX } else { GRANTS_FIRST };
            loop {
                let domain = self.name.domain().to_owned();
                let granted = self.services.directory.granted(domain, to.clone(), shared, limit).await;
                let granted = granted.map_err(directory_failed)?;
                let all = granted.len() < limit || limit == GRANTS_MAX;
                let found = self.seen_of(granted, patterns, !reached).await?;
                if all || !found.is_empty() {
                    others.extend(found);
                    break;
                }
                limit = GRANTS_MAX;
            }
        }
        Ok(others)
    }

    /// Those of some mailboxes that the user may look up, by account, as far as patterns can match there; or only
    /// the first account.
    async fn seen_of(
        &self,
        mailboxes: BTreeSet<MailboxId>,
        patterns: &[Pattern],
        only_one: bool,
    ) -> Result<Vec<Others>, Failure> {
        let prefixes: Vec<String> = patterns.iter().map(Pattern::literal_prefix).collect();
        let mut by_account: BTreeMap<AccountId, Vec<MailboxId>> = BTreeMap::new();
        for id in mailboxes {
            by_account.entry(id.account).or_default().push(id);
        }
        let mut found = Vec::new();
        for (id, mut mailboxes) in by_account {
            let name = match self.services.directory.by_id(id).await {
                Ok(entry) if entry.name.user() != Some(&self.name) => entry.name.clone(),
                // A grant may outlive its account by a moment.
                Ok(_) | Err(DirectoryError::NotFound(_)) => continue,
                Err(error) => return Err(directory_failed(error)),
            };
            let shown = self.names.show(&Address::top(name.clone()));
            let asked = |prefix: &String| only_one || prefix.starts_with(&shown) || shown.starts_with(prefix);
            if !prefixes.iter().any(asked) {
                continue;
            }
            match self.opened(&name).await? {
                Opened::Here(account) => {
                    let tree = account.tree();
                    mailboxes.retain(|id| {
                        let state = tree.state(*id);
                        state.is_some_and(|state| self.rights(&account, &state).contains(Rights::LOOKUP))
                    });
                    if mailboxes.is_empty() {
                        continue;
                    }
                    found.push(Others::Here { account, name, mailboxes: Some(mailboxes) });
                }
                Opened::Elsewhere(node) => {
                    let mailboxes = self.published(mailboxes).await?;
                    if mailboxes.is_empty() {
                        continue;
                    }
                    found.push(Others::Elsewhere { node, name, mailboxes: Some(mailboxes) });
                }
                Opened::Nowhere => continue,
            }
            if only_one {
                break;
            }
        }
        Ok(found)
    }

    /// An account, and where it is if it is not here. Another's as the user sees it.
    pub(crate) async fn opened(&self, name: &AccountName) -> Result<Opened, Failure> {
        if !self.reaches(name.domain()) {
            return Ok(Opened::Nowhere);
        }
        match self.services.router.open(&self.services.store, name).await {
            Ok(Some(account)) => Ok(Opened::Here(account.seen_by(&self.name))),
            Ok(None) => Ok(Opened::Nowhere),
            Err(AccountError::Elsewhere(node)) => Ok(Opened::Elsewhere(node)),
            Err(error) => Err(not_opened(error)),
        }
    }

    /// Those of some mailboxes that the user may look up, as they are published.
    async fn published(&self, mailboxes: Vec<MailboxId>) -> Result<Vec<(Published, Rights)>, Failure> {
        let mut found = Vec::new();
        for id in mailboxes {
            let published = self.services.directory.published(id).await.map_err(directory_failed)?;
            let Some(published) = published else { continue };
            let rights = self.rights_published(&published);
            if rights.contains(Rights::LOOKUP) {
                found.push((published, rights));
            }
        }
        Ok(found)
    }

    async fn subscribed_accounts(&self) -> Result<Vec<Others>, Failure> {
        let Some(own) = &self.own else { return Ok(Vec::new()) };
        let tree = own.tree();
        let names: BTreeSet<AccountName> = tree
            .subscriptions()
            .keys()
            .filter_map(|name| Address::parse(name).ok())
            .map(|address| address.into_parts().0)
            .filter(|name| name.user() != Some(&self.name))
            .collect();
        let mut found = Vec::new();
        for name in names {
            match self.opened(&name).await? {
                Opened::Here(account) => found.push(Others::Here { account, name, mailboxes: None }),
                Opened::Elsewhere(node) => found.push(Others::Elsewhere { node, name, mailboxes: None }),
                Opened::Nowhere => {}
            }
        }
        Ok(found)
    }
}

/// Somebody else's account, and what is looked at in it.
pub(crate) enum Others {
    /// At home here.
    Here {
        account: Account,
        name: AccountName,
        /// `None`: everything.
        mailboxes: Option<Vec<MailboxId>>,
    },
    /// At home at another node.
    Elsewhere {
        node: NodeId,
        name: AccountName,
        /// With the rights that the user has there. `None`: everything, which that node knows.
        mailboxes: Option<Vec<(Published, Rights)>>,
    },
}

impl Others {
    /// The node, if it is another one.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match self {
            Others::Here { .. } => None,
            Others::Elsewhere { node, .. } => Some(*node),
        }
    }
}

/// Where an account is.
pub(crate) enum Opened {
    Here(Account),
    Elsewhere(NodeId),
    Nowhere,
}

/// Grants that one LIST looks at, for each identifier and kind of tree.
const GRANTS_MAX: usize = 100_000;
/// Grants that are looked at first where one would do.
const GRANTS_FIRST: usize = 64;

pub(crate) fn not_opened(error: AccountError) -> Failure {
    match error {
        // It has left since it was found to be here, or a guest's session has not heard of that.
        AccountError::Elsewhere(_) => Failure::Moved,
        AccountError::Unavailable(error) => directory_failed(error),
        AccountError::Store(error) => error.into(),
    }
}

pub(crate) fn directory_failed(error: DirectoryError) -> Failure {
    tracing::error!(%error, "the directory failed a command");
    Answer::no(Code::Unavailable, "Names cannot be looked up at the moment").into()
}
