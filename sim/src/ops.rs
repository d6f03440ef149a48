//! What clients do with mailboxes: each at the home of the account, as a session there would.

use crate::node::Live;
use rookery_route::{AccountError, MoveError, Route, RouteError};
use rookery_store::{
    Account, CommitError, Copied, Destination, FlagChange, FlagList, Mailbox, NewMessage, Refusal, StoreError,
};
use rookery_types::acl::Asker;
use rookery_types::{
    AccountName, Acl, Identifier, InternalDate, Keyword, MailboxId, MailboxPath, NodeId, Rights, SystemFlags,
    UidSet,
};
use serde::{Deserialize, Serialize};

/// Rights of everybody on a mailbox that is shared.
pub(crate) const SHARED: &str = "lrsi";

/// Where a mailbox is: the account's name and the path below.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) account: String,
    pub(crate) path: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.account, self.path)
    }
}

/// What is to be done at a place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// A new message: which, and with which keywords.
    Append(u64, Vec<String>),
    /// A keyword for a message.
    Keyword(u32, String),
    /// A message is expunged.
    Expunge(u32),
    /// A message is copied.
    Copy(u32, Place),
    /// A message is moved.
    Move(u32, Place),
    /// What is there?
    Read,
    /// A mailbox is made.
    Make,
    /// It is deleted.
    Drop,
    /// It is renamed within its account.
    Rename(String),
    /// Others may see it, and put messages there; or not.
    Share(bool),
    /// The account moves to that node; only begun.
    Leave(u64),
    /// It stays, if it has not left.
    Stay,
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) place: Place,
    pub(crate) work: Work,
}

/// What was done or seen.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Fact {
    /// The new message's UID, where it went.
    pub(crate) uid: Option<u32>,
    /// What is in a mailbox.
    pub(crate) seen: Option<Seen>,
    /// It is done, and others may not see it yet.
    pub(crate) unpublished: bool,
}

/// A mailbox at one moment.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) account: u64,
    pub(crate) number: u32,
    pub(crate) uid_validity: u32,
    pub(crate) uid_next: u32,
    pub(crate) modseq: u64,
    pub(crate) messages: Vec<SeenMessage>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SeenMessage {
    pub(crate) uid: u32,
    /// Which; `None`: its octets are not those of any.
    pub(crate) token: Option<u64>,
    pub(crate) modseq: u64,
    pub(crate) keywords: Vec<String>,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done(Fact),
    /// Nothing was done, and nothing will be.
    No(String),
    /// There is no such account, mailbox or message.
    NoSuch(String),
    /// It may be done, now or later.
    Unknown(String),
}

impl Answer {
    fn done() -> Answer {
        Answer::Done(Fact::default())
    }

    fn at(uid: Option<u32>) -> Answer {
        Answer::Done(Fact { uid, ..Fact::default() })
    }
}

/// The octets of a message. Some are the same for several tokens but for their first line.
pub(crate) fn octets(token: u64) -> Vec<u8> {
    let filler = ["x", "yz", "0123456789"][(token % 3) as usize].repeat((token % 7) as usize * 150);
    format!("Subject: t{token}\r\nMessage-ID: <{token}@sim>\r\n\r\n{filler}\r\n").into_bytes()
}

fn token_of(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let token = text.strip_prefix("Subject: t")?.split_once('\r')?.0.parse().ok()?;
    (octets(token) == body).then_some(token)
}

/// Of the store's errors.
impl From<StoreError> for Answer {
    fn from(error: StoreError) -> Answer {
        let text = error.to_string();
        match error {
            StoreError::NoAccount | StoreError::NoMailbox => Answer::NoSuch(text),
            StoreError::Commit(CommitError::Unpublished) => {
                Answer::Done(Fact { unpublished: true, ..Fact::default() })
            }
            StoreError::Moved
            | StoreError::Commit(CommitError::Fenced)
            | StoreError::AlreadyExists
            | StoreError::InvalidName
            | StoreError::OverQuota
            | StoreError::TooMany(_)
            | StoreError::TooManyKeywords(_)
            | StoreError::InUse
            | StoreError::TooLarge(_)
            | StoreError::NoSpace => Answer::No(text),
            _ => Answer::Unknown(text),
        }
    }
}

/// Does it at the account's home, from any node.
pub(crate) async fn from_anywhere(live: &Live, question: Question) -> Answer {
    let Ok(name) = AccountName::parse(&question.place.account) else {
        return Answer::No("no name".to_owned());
    };
    match live.router.locate(&name).await {
        Ok((_, Route::Here { .. })) => at_home(live, question).await,
        Ok((_, Route::Proxy(node))) => match live.ask(node, &question).await {
            Ok(answer) => answer,
            Err(lost) if lost.unheard => Answer::No(lost.why),
            Err(lost) => Answer::Unknown(lost.why),
        },
        Err(RouteError::NonExistent(name)) => Answer::NoSuch(name.to_string()),
        Err(error) => Answer::No(error.to_string()),
    }
}

/// Does it here, if the account is at home here.
pub(crate) async fn at_home(live: &Live, question: Question) -> Answer {
    match done(live, question).await {
        Ok(answer) | Err(answer) => answer,
    }
}

async fn account(live: &Live, name: &AccountName) -> Result<Account, Answer> {
    match live.router.open(&live.store, name).await {
        Ok(Some(account)) => Ok(account),
        Ok(None) => Err(Answer::NoSuch(name.to_string())),
        Err(AccountError::Store(error)) => Err(error.into()),
        Err(error) => Err(Answer::No(error.to_string())),
    }
}

fn mailbox_of(account: &Account, path: &str) -> Result<(MailboxPath, Option<MailboxId>), Answer> {
    let path = MailboxPath::new(path).map_err(|error| Answer::No(error.to_string()))?;
    let id = account.tree().get(&path);
    Ok((path, id))
}

async fn done(live: &Live, question: Question) -> Result<Answer, Answer> {
    let Question { place, work } = question;
    let name = AccountName::parse(&place.account).map_err(|error| Answer::No(error.to_string()))?;
    let account = account(live, &name).await?;
    match work {
        Work::Leave(node) => {
            let begun = live.mover.begin(account.id(), NodeId(node)).await;
            return begun.map(|_| Answer::done()).map_err(|error| Answer::Unknown(error.to_string()));
        }
        Work::Stay => {
            let stays = live.mover.cancel(account.id()).await;
            return stays.map(|()| Answer::done()).map_err(|error| Answer::Unknown(error.to_string()));
        }
        _ => {}
    }
    // As a session has it: all of a command is done here, or nothing.
    let _guard = account.guard().await?;
    let (path, id) = mailbox_of(&account, &place.path)?;
    if let Work::Make = work {
        account.create(&path, Vec::new()).await?;
        return Ok(Answer::done());
    }
    let id = id.ok_or_else(|| Answer::NoSuch(place.to_string()))?;
    match work {
        Work::Append(token, keywords) => append(&account, id, token, &keywords).await,
        Work::Drop => account.delete(id).await.map(|()| Answer::done()).map_err(Answer::from),
        Work::Rename(to) => {
            let to = MailboxPath::new(&to).map_err(|error| Answer::No(error.to_string()))?;
            account.rename(&path, &to).await?;
            Ok(Answer::done())
        }
        Work::Share(shared) => {
            let mut acl = account.tree().state(id).ok_or_else(gone)?.settings.acl.clone();
            let rights = if shared { SHARED } else { "" };
            acl.set(Identifier::Anyone, false, Rights::parse(rights).unwrap_or(Rights::NONE));
            account.set_acl(id, acl).await?;
            Ok(Answer::done())
        }
        work => {
            let mailbox = account.open(id).await?;
            with_messages(live, &account, &mailbox, work).await
        }
    }
}

fn gone() -> Answer {
    Answer::NoSuch("the mailbox is gone".to_owned())
}

async fn append(account: &Account, to: MailboxId, token: u64, keywords: &[String]) -> Result<Answer, Answer> {
    let mut spool = account.spool();
    spool.push(&octets(token))?;
    let keywords = keywords.iter().filter_map(|word| Keyword::new(word)).collect();
    let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(77));
    let message = NewMessage { body: spool.finish()?, flags, keywords, date };
    let appended = account.append(to, vec![message]).await?;
    Ok(Answer::at(appended.uids.first().map(|uid| uid.get())))
}

async fn with_messages(
    live: &Live,
    account: &Account,
    mailbox: &Mailbox,
    work: Work,
) -> Result<Answer, Answer> {
    let none = || Answer::NoSuch("no such message".to_owned());
    match work {
        Work::Read => Ok(Answer::Done(Fact { seen: Some(seen(account, mailbox)?), ..Fact::default() })),
        Work::Keyword(uid, word) => {
            let keywords = Keyword::new(&word).into_iter().collect();
            let add = FlagChange::Add(FlagList { flags: SystemFlags::NONE, keywords });
            let stored = mailbox.store_flags(&UidSet::range(uid, uid), add, None).await?;
            if stored.missing.is_empty() { Ok(Answer::done()) } else { Err(none()) }
        }
        Work::Expunge(uid) => {
            let gone = mailbox.remove(&UidSet::range(uid, uid)).await?;
            if gone.is_empty() { Err(none()) } else { Ok(Answer::done()) }
        }
        Work::Copy(uid, to) => transfer(live, account, mailbox, uid, to, false).await,
        Work::Move(uid, to) => transfer(live, account, mailbox, uid, to, true).await,
        _ => Err(Answer::No("that is no work with messages".to_owned())),
    }
}

fn seen(account: &Account, mailbox: &Mailbox) -> Result<Seen, StoreError> {
    let state = mailbox.now();
    let all = state.messages.clone().unwrap_or_default();
    let mut messages = Vec::new();
    for one in all.iter() {
        let message = one?.1;
        let table = &state.settings.keywords;
        let words = message.keywords.as_slice().iter().filter_map(|number| table.get(usize::from(*number)));
        messages.push(SeenMessage {
            uid: message.uid.get(),
            token: token_of(&account.read(message.content)?),
            modseq: message.modseq.get(),
            keywords: words.map(ToString::to_string).collect(),
        });
    }
    Ok(Seen {
        account: account.id().get(),
        number: state.id.number,
        uid_validity: state.settings.uid_validity.get(),
        uid_next: state.summary.uid_next,
        modseq: state.summary.highest_modseq.get(),
        messages,
    })
}

async fn transfer(
    live: &Live,
    account: &Account,
    mailbox: &Mailbox,
    uid: u32,
    to: Place,
    moves: bool,
) -> Result<Answer, Answer> {
    let name = AccountName::parse(&to.account).map_err(|error| Answer::No(error.to_string()))?;
    let path = MailboxPath::new(&to.path).map_err(|error| Answer::No(error.to_string()))?;
    let uids = UidSet::range(uid, uid);
    let (id, route) = match live.router.locate(&name).await {
        Ok(found) => found,
        Err(RouteError::NonExistent(_)) => return Err(Answer::NoSuch(to.to_string())),
        Err(error) => return Err(Answer::No(error.to_string())),
    };
    let Some(user) = account.owner() else { return Err(Answer::No("a shared account".to_owned())) };
    match route {
        Route::Here { .. } => {
            let target = self::account(live, &name).await?;
            let _guard = target.guard().await?;
            let target_id = target.tree().get(&path).ok_or_else(|| Answer::NoSuch(to.to_string()))?;
            let acl: Acl = target.tree().state(target_id).ok_or_else(gone)?.settings.acl.clone();
            let owner = target.owner().as_ref() == Some(&user);
            let asker = Asker { user: Some(&user), groups: &[], owner, administrator: false };
            if !acl.rights_of(&asker).contains(Rights::INSERT) {
                return Err(Answer::No("no right".to_owned()));
            }
            let copied = match moves {
                true => mailbox.r#move(&uids, &target, target_id).await?,
                false => mailbox.copy(&uids, &target, target_id).await?,
            };
            first(&[copied])
        }
        Route::Proxy(home) if moves => {
            let to = Destination { account: id, home, path, user };
            let (copied, result) = live.transit.r#move(1, mailbox, &uids, &to).await;
            match result {
                Ok(()) => first(&copied),
                Err(MoveError::Refused(
                    refusal @ (Refusal::NoMailbox | Refusal::MayCreate | Refusal::Gone),
                )) => Err(Answer::NoSuch(refusal.name().to_owned())),
                Err(MoveError::Refused(refusal)) => Err(Answer::No(refusal.name().to_owned())),
                Err(MoveError::Pending) => Err(Answer::Unknown("pending".to_owned())),
                Err(MoveError::Store(error)) => Err(error.into()),
            }
        }
        // As a guest would put it there.
        Route::Proxy(home) => {
            let found = seen(account, mailbox)?.messages.into_iter().find(|message| message.uid == uid);
            let message = found.ok_or_else(|| Answer::NoSuch("no such message".to_owned()))?;
            let token = message.token.ok_or_else(|| Answer::No("unknown octets".to_owned()))?;
            let question = Question { place: to, work: Work::Append(token, message.keywords) };
            match live.ask(home, &question).await {
                Ok(answer) => Ok(answer),
                Err(lost) if lost.unheard => Err(Answer::No(lost.why)),
                Err(lost) => Err(Answer::Unknown(lost.why)),
            }
        }
    }
}

fn first(copied: &[Copied]) -> Result<Answer, Answer> {
    let uid = copied.first().and_then(|copied| copied.to.first()).map(|uid| uid.get());
    uid.map(|uid| Answer::at(Some(uid))).ok_or_else(|| Answer::NoSuch("no such message".to_owned()))
}
