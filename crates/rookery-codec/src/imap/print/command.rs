//! Commands, as a client sends them: octets, and the places where it has to wait for `+`.

mod messages;

use super::basic::{
    can_be_quoted, day, is_astring_atom, joined, literal_header, number, partial_range, quoted, sequence_set,
};
use crate::imap::client::{EncodeError, Literals};
use crate::imap::command::{
    Change, Command, EntryType, Event, EventGroup, List, MailboxFilter, MetadataDepth, Notify, Qresync,
    SelectParameters, Tagged,
};
use crate::imap::types::{IdParams, MessageSet, PartialRange, StatusItem, WireName};
use crate::sasl;
use bytes::{BufMut, Bytes, BytesMut};
use rookery_types::{Flag, SystemFlags};

/// What grows while a command is printed.
pub(crate) struct CommandWriter {
    pub(crate) out: BytesMut,
    /// Where the client must wait for `+`, ascending.
    waits: Vec<usize>,
    literals: Literals,
    /// The first thing that could not be printed.
    fault: Option<EncodeError>,
}

impl CommandWriter {
    pub(crate) fn new(literals: Literals) -> CommandWriter {
        CommandWriter { out: BytesMut::new(), waits: Vec::new(), literals, fault: None }
    }

    /// The chunks between the waits.
    pub(crate) fn finish(mut self) -> Result<Vec<Bytes>, EncodeError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut chunks = Vec::with_capacity(self.waits.len() + 1);
        let mut start = 0;
        for at in self.waits {
            chunks.push(self.out.split_to(at - start).freeze());
            start = at;
        }
        chunks.push(self.out.freeze());
        Ok(chunks)
    }

    fn fail(&mut self, fault: EncodeError) {
        self.fault.get_or_insert(fault);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn word(&mut self, word: &str) {
        let legal = |b: u8| crate::imap::parse::scan::is_atom_char(b);
        if word.is_empty() || !word.bytes().all(legal) {
            self.fail(EncodeError::NotAnAtom);
        }
        self.text(word);
    }

    fn literal(&mut self, octets: &[u8]) {
        if memchr::memchr(0, octets).is_some() {
            return self.fail(EncodeError::Nul);
        }
        self.literal_of_any(octets);
    }

    fn literal_of_any(&mut self, octets: &[u8]) {
        let waits = match self.literals {
            Literals::Synchronising => true,
            Literals::NonSynchronising => false,
        };
        if waits {
            literal_header(&mut self.out, false, octets.len() as u64);
            self.waits.push(self.out.len());
        } else {
            self.out.put_u8(b'{');
            number(&mut self.out, octets.len() as u64);
            self.text("+}\r\n");
        }
        self.out.extend_from_slice(octets);
    }

    fn string(&mut self, octets: &[u8]) {
        if can_be_quoted(octets) { quoted(&mut self.out, octets) } else { self.literal(octets) }
    }

    pub(crate) fn astring(&mut self, octets: &[u8]) {
        if is_astring_atom(octets) { self.out.extend_from_slice(octets) } else { self.string(octets) }
    }

    fn nstring(&mut self, octets: Option<&[u8]>) {
        match octets {
            Some(octets) => self.string(octets),
            None => self.text("NIL"),
        }
    }

    /// `value = nstring / literal8` of RFC 5464.
    fn value(&mut self, octets: Option<&[u8]>) {
        match octets {
            Some(octets) if memchr::memchr(0, octets).is_some() => {
                self.text("~");
                self.literal_of_any(octets);
            }
            octets => self.nstring(octets),
        }
    }

    fn mailbox(&mut self, name: &WireName) {
        self.astring(name.as_bytes());
    }

    /// Patterns are always strings: quoting does not stop wildcards.
    fn pattern(&mut self, pattern: &WireName) {
        self.string(pattern.as_bytes());
    }

    fn many<T>(&mut self, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut Self, T)) {
        for (i, one) in items.into_iter().enumerate() {
            if i > 0 {
                self.text(" ");
            }
            item(self, one);
        }
    }

    pub(crate) fn set(&mut self, set: &MessageSet) {
        match set {
            MessageSet::Set(set) => sequence_set(&mut self.out, set),
            MessageSet::Saved => self.text("$"),
        }
    }

    fn status_items(&mut self, items: &[StatusItem]) {
        self.text("(");
        self.many(items, |w, item| w.text(item.name()));
        self.text(")");
    }

    fn flag_list(&mut self, list: &[Flag]) {
        self.text("(");
        self.many(list, |w, flag| match flag {
            Flag::System(flag) => {
                w.text(SystemFlags::ALL.iter().find(|(one, _)| one == flag).map_or("", |(_, name)| name));
            }
            Flag::Keyword(keyword) => w.text(keyword.as_str()),
        });
        self.text(")");
    }

    /// Tag, command and line end.
    pub(crate) fn tagged(&mut self, tagged: &Tagged) {
        self.text(tagged.tag.as_str());
        self.text(" ");
        self.command(&tagged.command);
        self.text("\r\n");
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Capability => self.text("CAPABILITY"),
            Command::Noop => self.text("NOOP"),
            Command::Logout => self.text("LOGOUT"),
            Command::StartTls => self.text("STARTTLS"),
            Command::Unauthenticate => self.text("UNAUTHENTICATE"),
            Command::Namespace => self.text("NAMESPACE"),
            Command::Idle => self.text("IDLE"),
            Command::Check => self.text("CHECK"),
            Command::Close => self.text("CLOSE"),
            Command::Unselect => self.text("UNSELECT"),
            Command::Expunge { uids: None } => self.text("EXPUNGE"),
            Command::Expunge { uids: Some(uids) } => {
                self.text("UID EXPUNGE ");
                self.set(uids);
            }
            Command::Id(parameters) => self.id(parameters),
            Command::Login { user, password } => {
                self.text("LOGIN ");
                self.astring(user);
                self.text(" ");
                self.astring(password.as_bytes());
            }
            Command::Authenticate { mechanism, initial } => {
                self.text("AUTHENTICATE ");
                self.word(mechanism);
                if let Some(initial) = initial {
                    self.text(" ");
                    self.text(&sasl::encode_initial(initial.as_bytes()));
                }
            }
            Command::Enable(names) => {
                self.text("ENABLE ");
                self.many(names, |w, name| w.word(name));
            }
            Command::Compress { mechanism } => {
                self.text("COMPRESS ");
                self.word(mechanism);
            }
            Command::Notify(notify) => self.notify(notify),
            Command::Search(search) => self.search(search),
            Command::Sort(sort) => self.sort(sort),
            Command::Thread(thread) => self.thread(thread),
            Command::Fetch(fetch) => self.fetch(fetch),
            Command::Store(store) => self.store(store),
            Command::Copy { uid, set, mailbox } => self.transfer(*uid, "COPY ", set, mailbox),
            Command::Move { uid, set, mailbox } => self.transfer(*uid, "MOVE ", set, mailbox),
            Command::Unknown { .. } => self.fail(EncodeError::Unknown),
            _ => self.mailbox_command(command),
        }
    }

    fn notify(&mut self, notify: &Notify) {
        let (status, groups) = match notify {
            Notify::None => return self.text("NOTIFY NONE"),
            Notify::Set { status, groups } => (status, groups),
        };
        self.text(if *status { "NOTIFY SET STATUS " } else { "NOTIFY SET " });
        self.many(groups, |w, EventGroup { filter, events }| {
            w.text("(");
            match filter {
                MailboxFilter::Selected => w.text("SELECTED"),
                MailboxFilter::SelectedDelayed => w.text("SELECTED-DELAYED"),
                MailboxFilter::Inboxes => w.text("INBOXES"),
                MailboxFilter::Personal => w.text("PERSONAL"),
                MailboxFilter::Subscribed => w.text("SUBSCRIBED"),
                MailboxFilter::Subtree(names) => w.mailboxes("SUBTREE (", names),
                MailboxFilter::Mailboxes(names) => w.mailboxes("MAILBOXES (", names),
            }
            if events.is_empty() {
                return w.text(" NONE)");
            }
            w.text(" (");
            w.many(events, |w, event| {
                w.word(event.name());
                if let Event::MessageNew(items) = event
                    && !items.is_empty()
                {
                    w.text(" (");
                    w.many(items, Self::fetch_item);
                    w.text(")");
                }
            });
            w.text("))");
        });
    }

    fn mailboxes(&mut self, begin: &str, names: &[WireName]) {
        self.text(begin);
        self.many(names, |w, name| w.mailbox(name));
        self.text(")");
    }

    fn id(&mut self, parameters: &IdParams) {
        self.text("ID ");
        let Some(parameters) = parameters else { return self.text("NIL") };
        self.text("(");
        self.many(parameters, |w, (name, value)| {
            w.string(name);
            w.text(" ");
            w.nstring(value.as_deref());
        });
        self.text(")");
    }

    pub(crate) fn uid(&mut self, uid: bool) {
        if uid {
            self.text("UID ");
        }
    }

    fn transfer(&mut self, uid: bool, name: &str, set: &MessageSet, mailbox: &WireName) {
        self.uid(uid);
        self.text(name);
        self.set(set);
        self.text(" ");
        self.mailbox(mailbox);
    }

    fn named(&mut self, name: &str, mailbox: &WireName) {
        self.text(name);
        self.text(" ");
        self.mailbox(mailbox);
    }

    fn place(&mut self, at: Option<&Bytes>) {
        if let Some(at) = at {
            self.text(" ");
            self.astring(at);
        }
    }

    fn mailbox_command(&mut self, command: &Command) {
        match command {
            Command::Select { mailbox, read_only, parameters } => {
                self.named(if *read_only { "EXAMINE" } else { "SELECT" }, mailbox);
                self.select_parameters(parameters);
            }
            Command::Create { mailbox, special_use, at } => {
                self.named("CREATE", mailbox);
                if !special_use.is_empty() {
                    self.text(" (USE (");
                    self.many(special_use, |w, one| w.text(one.attribute()));
                    self.text(")");
                }
                if let Some(at) = at {
                    self.text(if special_use.is_empty() { " (PARTITION " } else { " PARTITION " });
                    self.astring(at);
                }
                if !special_use.is_empty() || at.is_some() {
                    self.text(")");
                }
            }
            Command::Delete { mailbox } => self.named("DELETE", mailbox),
            Command::Rename { from, to, at } => {
                self.named("RENAME", from);
                self.text(" ");
                self.mailbox(to);
                self.place(at.as_ref());
            }
            Command::Xfer { mailbox, node, partition } => {
                self.named("XFER", mailbox);
                self.place(Some(node));
                self.place(partition.as_ref());
            }
            Command::Subscribe { mailbox } => self.named("SUBSCRIBE", mailbox),
            Command::Unsubscribe { mailbox } => self.named("UNSUBSCRIBE", mailbox),
            Command::List(list) => self.list(list),
            Command::Lsub { reference, pattern } => {
                self.named("LSUB", reference);
                self.text(" ");
                self.pattern(pattern);
            }
            Command::Status { mailbox, items } => {
                self.named("STATUS", mailbox);
                self.text(" ");
                self.status_items(items);
            }
            _ => self.rights_quota_metadata(command),
        }
    }

    fn rights_quota_metadata(&mut self, command: &Command) {
        match command {
            Command::SetAcl { mailbox, identifier, change, rights } => {
                self.named("SETACL", mailbox);
                self.text(" ");
                self.astring(identifier);
                self.text(" ");
                self.string(format!("{}{rights}", sign(*change)).as_bytes());
            }
            Command::DeleteAcl { mailbox, identifier } => {
                self.named("DELETEACL", mailbox);
                self.text(" ");
                self.astring(identifier);
            }
            Command::GetAcl { mailbox } => self.named("GETACL", mailbox),
            Command::ListRights { mailbox, identifier } => {
                self.named("LISTRIGHTS", mailbox);
                self.text(" ");
                self.astring(identifier);
            }
            Command::MyRights { mailbox } => self.named("MYRIGHTS", mailbox),
            Command::GetQuota { root } => self.named("GETQUOTA", root),
            Command::GetQuotaRoot { mailbox } => self.named("GETQUOTAROOT", mailbox),
            Command::SetQuota { root, limits } => {
                self.named("SETQUOTA", root);
                self.text(" (");
                self.many(limits, |w, (name, limit)| {
                    w.word(name);
                    w.text(" ");
                    number(&mut w.out, *limit);
                });
                self.text(")");
            }
            Command::GetMetadata { mailbox, max_size, depth, entries } => {
                self.text("GETMETADATA ");
                self.metadata_options(*max_size, *depth);
                self.mailbox(mailbox);
                self.text(" (");
                self.many(entries, |w, entry| w.astring(entry));
                self.text(")");
            }
            Command::SetMetadata { mailbox, entries } => {
                self.named("SETMETADATA", mailbox);
                self.text(" (");
                self.many(entries, |w, (entry, value)| {
                    w.astring(entry);
                    w.text(" ");
                    w.value(value.as_deref());
                });
                self.text(")");
            }
            _ => self.fail(EncodeError::Unknown),
        }
    }

    fn metadata_options(&mut self, max_size: Option<u32>, depth: MetadataDepth) {
        let depth = match depth {
            MetadataDepth::Zero => None,
            MetadataDepth::One => Some("DEPTH 1"),
            MetadataDepth::Infinity => Some("DEPTH infinity"),
        };
        let max_size = max_size.map(|octets| format!("MAXSIZE {octets}"));
        let options: Vec<&str> = max_size.as_deref().into_iter().chain(depth).collect();
        if !options.is_empty() {
            self.text(&format!("({}) ", options.join(" ")));
        }
    }

    fn select_parameters(&mut self, parameters: &SelectParameters) {
        let SelectParameters { condstore, qresync } = parameters;
        if !condstore && qresync.is_none() {
            return;
        }
        self.text(if *condstore { " (CONDSTORE" } else { " (" });
        if let Some(Qresync { uid_validity, modseq, known_uids, sequence_match }) = qresync {
            self.text(if *condstore { " QRESYNC (" } else { "QRESYNC (" });
            number(&mut self.out, uid_validity.get());
            self.text(" ");
            number(&mut self.out, *modseq);
            if let Some(uids) = known_uids {
                self.text(" ");
                sequence_set(&mut self.out, uids);
            }
            if let Some((numbers, uids)) = sequence_match {
                self.text(" (");
                sequence_set(&mut self.out, numbers);
                self.text(" ");
                sequence_set(&mut self.out, uids);
                self.text(")");
            }
            self.text(")");
        }
        self.text(")");
    }

    fn list(&mut self, list: &List) {
        let List { select, reference, patterns, returns, extended } = list;
        self.text("LIST ");
        let options = [
            (select.subscribed, "SUBSCRIBED"),
            (select.remote, "REMOTE"),
            (select.recursive_match, "RECURSIVEMATCH"),
            (select.special_use, "SPECIAL-USE"),
        ];
        if options.iter().any(|(on, _)| *on) {
            self.text("(");
            self.many(options.iter().filter(|(on, _)| *on), |w, (_, name)| w.text(name));
            self.text(") ");
        }
        self.mailbox(reference);
        self.text(" ");
        match patterns.as_slice() {
            [only] if !extended => self.pattern(only),
            several => {
                self.text("(");
                self.many(several, |w, pattern| w.pattern(pattern));
                self.text(")");
            }
        }
        let options = [
            (returns.subscribed, "SUBSCRIBED"),
            (returns.children, "CHILDREN"),
            (returns.special_use, "SPECIAL-USE"),
            (returns.my_rights, "MYRIGHTS"),
            (!returns.metadata.is_empty(), "METADATA "),
            (!returns.status.is_empty(), "STATUS "),
        ];
        if options.iter().any(|(on, _)| *on) {
            self.text(" RETURN (");
            self.many(options.iter().filter(|(on, _)| *on), |w, (_, name)| {
                w.text(name);
                match *name {
                    "STATUS " => w.status_items(&returns.status),
                    "METADATA " => {
                        w.text("(");
                        w.many(&returns.metadata, |w, entry| w.astring(entry));
                        w.text(")");
                    }
                    _ => {}
                }
            });
            self.text(")");
        }
    }

    pub(crate) fn partial_range(&mut self, range: PartialRange) {
        partial_range(&mut self.out, range);
    }

    pub(crate) fn number(&mut self, n: impl Into<u64>) {
        number(&mut self.out, n);
    }

    pub(crate) fn day(&mut self, days: i64) {
        day(&mut self.out, days);
    }

    pub(crate) fn entry(&mut self, name: &[u8], kind: EntryType) {
        if !can_be_quoted(name) {
            self.fail(EncodeError::FieldName);
        }
        quoted(&mut self.out, name);
        self.text(match kind {
            EntryType::Private => " priv ",
            EntryType::Shared => " shared ",
            EntryType::All => " all ",
        });
    }

    /// Names joined by spaces.
    pub(crate) fn names(&mut self, names: &[&str]) {
        joined(&mut self.out, " ", names, |out, name| out.extend_from_slice(name.as_bytes()));
    }

    pub(crate) fn atom(&mut self, word: &str) {
        self.word(word);
    }

    /// An object id, which nothing quotes.
    pub(crate) fn object_id(&mut self, id: &[u8]) {
        let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if id.is_empty() || !id.iter().all(legal) {
            self.fail(EncodeError::NotAnAtom);
        }
        self.out.extend_from_slice(id);
    }
}

fn sign(change: Change) -> &'static str {
    match change {
        Change::Replace => "",
        Change::Add => "+",
        Change::Remove => "-",
    }
}
