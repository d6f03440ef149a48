//! What two homes say to each other about a move: the codec of the coordinator and the server.
//!
//! The node that the messages leave sends an [`Errand`] and the octets of all messages one after another, as
//! [`framed`] has it. The other answers with JSON, an [`Answer`].

use crate::framed;
use bytes::Bytes;
use rookery_store::{Refusal, TransitId, Verdict};
use rookery_types::{AccountId, InternalDate, Keyword, MailboxPath, SystemFlags, Uid, UidValidity, UserName};
use serde::{Deserialize, Serialize};

/// What cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("another node says something about a move that makes no sense")]
pub(super) struct BadErrand;

/// What is asked of the home that messages go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Errand {
    /// Which move; for [`Task::Forget`] the first one that is not to be forgotten.
    pub(super) id: TransitId,
    /// The account that the messages go to.
    pub(super) target: AccountId,
    pub(super) task: Task,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Task {
    /// Take these messages.
    Put(Put),
    /// Refuse the move, unless it has its verdict.
    Refuse,
    /// Forget all moves below.
    Forget,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Put {
    pub(super) user: UserName,
    pub(super) path: MailboxPath,
    pub(super) messages: Vec<Item>,
}

/// A message, but for its octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Item {
    /// Its UID where it comes from.
    pub(super) uid: Uid,
    pub(super) octets: u32,
    pub(super) flags: SystemFlags,
    pub(super) keywords: Vec<Keyword>,
    pub(super) date: InternalDate,
}

#[derive(Serialize, Deserialize)]
struct ErrandJson {
    source: u64,
    counter: u64,
    target: u64,
    task: TaskJson,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TaskJson {
    Put { user: String, path: String, keywords: Vec<String>, messages: Vec<ItemJson> },
    Refuse,
    Forget,
}

#[derive(Serialize, Deserialize)]
struct ItemJson {
    uid: u32,
    octets: u32,
    flags: u8,
    /// Places in the list of all keywords.
    keywords: Vec<u16>,
    /// Seconds since 1970, and minutes east of Greenwich.
    date: (i64, i16),
}

impl Errand {
    /// With its length before it.
    pub(super) fn encode(&self) -> Bytes {
        let task = match &self.task {
            Task::Refuse => TaskJson::Refuse,
            Task::Forget => TaskJson::Forget,
            Task::Put(put) => {
                let mut names: Vec<String> = Vec::new();
                let mut messages = Vec::with_capacity(put.messages.len());
                for item in &put.messages {
                    messages.push(ItemJson {
                        uid: item.uid.get(),
                        octets: item.octets,
                        flags: item.flags.bits(),
                        keywords: item.keywords.iter().filter_map(|one| place(&mut names, one)).collect(),
                        date: (item.date.unix_seconds(), item.date.zone_minutes()),
                    });
                }
                let (user, path) = (put.user.to_string(), put.path.as_str().to_owned());
                TaskJson::Put { user, path, keywords: names, messages }
            }
        };
        let (source, counter) = (self.id.account.get(), self.id.counter);
        let errand = ErrandJson { source, counter, target: self.target.get(), task };
        framed::encode(&errand)
    }

    /// Reads it, without the length.
    pub(super) fn decode(json: &[u8]) -> Result<Errand, BadErrand> {
        let read: ErrandJson = serde_json::from_slice(json).map_err(|_| BadErrand)?;
        let account = |id| AccountId::new(id).ok_or(BadErrand);
        let task = match read.task {
            TaskJson::Refuse => Task::Refuse,
            TaskJson::Forget => Task::Forget,
            TaskJson::Put { user, path, keywords, messages } => {
                let (local, domain) = user.rsplit_once('@').ok_or(BadErrand)?;
                let keywords: Option<Vec<Keyword>> = keywords.iter().map(|name| Keyword::new(name)).collect();
                let keywords = keywords.ok_or(BadErrand)?;
                let messages: Option<Vec<Item>> =
                    messages.into_iter().map(|item| item.read(&keywords)).collect();
                Task::Put(Put {
                    user: UserName::parse(local, domain).map_err(|_| BadErrand)?,
                    path: match path.as_str() {
                        "" => MailboxPath::root(),
                        path => MailboxPath::new(path).map_err(|_| BadErrand)?,
                    },
                    messages: messages.ok_or(BadErrand)?,
                })
            }
        };
        let id = TransitId { account: account(read.source)?, counter: read.counter };
        Ok(Errand { id, target: account(read.target)?, task })
    }
}

/// Where a keyword stands in a list, which grows by it if it is new.
fn place(names: &mut Vec<String>, keyword: &Keyword) -> Option<u16> {
    let name = keyword.to_string();
    let known = names.iter().position(|known| *known == name);
    let place = known.unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    });
    u16::try_from(place).ok()
}

impl ItemJson {
    fn read(self, keywords: &[Keyword]) -> Option<Item> {
        let own = self.keywords.iter().map(|place| keywords.get(usize::from(*place)).cloned());
        Some(Item {
            uid: Uid::new(self.uid)?,
            octets: self.octets,
            flags: SystemFlags::from_bits(self.flags)?,
            keywords: own.collect::<Option<_>>()?,
            date: InternalDate::new(self.date.0, self.date.1)?,
        })
    }
}

/// What the other home says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// What became of the move, for ever.
    Verdict(Verdict),
    /// It was closed before.
    Closed,
    /// There is nothing of the account here.
    NoAccount,
    /// The moves are forgotten.
    Done,
    /// It cannot be said now; for the operator, why.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnswerJson {
    Moved { uidvalidity: u32, uids: Vec<(u32, u32)> },
    Refused(String),
    Closed,
    NoAccount,
    Done,
    Failed(String),
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let said = match self {
            Answer::Verdict(Verdict::Moved { uid_validity, uids }) => AnswerJson::Moved {
                uidvalidity: uid_validity.get(),
                uids: uids.iter().map(|(from, to)| (from.get(), to.get())).collect(),
            },
            Answer::Verdict(Verdict::Refused(refusal)) => AnswerJson::Refused(refusal.name().to_owned()),
            Answer::Closed => AnswerJson::Closed,
            Answer::NoAccount => AnswerJson::NoAccount,
            Answer::Done => AnswerJson::Done,
            Answer::Failed(why) => AnswerJson::Failed(why.clone()),
        };
        serde_json::to_vec(&said).unwrap_or_default()
    }

    pub(super) fn decode(json: &[u8]) -> Result<Answer, BadErrand> {
        Ok(match serde_json::from_slice(json).map_err(|_| BadErrand)? {
            AnswerJson::Moved { uidvalidity, uids } => {
                let uids = uids.into_iter().map(|(from, to)| Some((Uid::new(from)?, Uid::new(to)?)));
                Answer::Verdict(Verdict::Moved {
                    uid_validity: UidValidity::new(uidvalidity).ok_or(BadErrand)?,
                    uids: uids.collect::<Option<_>>().ok_or(BadErrand)?,
                })
            }
            // A reason that only a newer version knows is a refusal all the same.
            AnswerJson::Refused(why) => {
                Answer::Verdict(Verdict::Refused(Refusal::named(&why).unwrap_or(Refusal::Limit)))
            }
            AnswerJson::Closed => Answer::Closed,
            AnswerJson::NoAccount => Answer::NoAccount,
            AnswerJson::Done => Answer::Done,
            AnswerJson::Failed(why) => Answer::Failed(why),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errands_come_back_as_they_were() {
        let uid = |n| Uid::new(n).unwrap();
        let item = |n: u32, keywords: &[&str]| Item {
            uid: uid(n),
            octets: n * 10,
            flags: SystemFlags::SEEN | SystemFlags::DRAFT,
            keywords: keywords.iter().map(|name| Keyword::new(name).unwrap()).collect(),
            date: InternalDate::new(1_700_000_000, -90).unwrap(),
        };
        let put = Put {
            user: UserName::parse("joe", "a.test").unwrap(),
            path: MailboxPath::new("Lists/rust").unwrap(),
            messages: vec![item(1, &["$a", "$b"]), item(2, &["$b"]), item(9, &[])],
        };
        let to_root = Put { path: MailboxPath::root(), ..put.clone() };
        let id = TransitId { account: AccountId::new(5).unwrap(), counter: u64::MAX };
        for task in [Task::Put(put), Task::Put(to_root), Task::Refuse, Task::Forget] {
            let errand = Errand { id, target: AccountId::new(6).unwrap(), task };
            let octets = errand.encode();
            let (length, json) = octets.split_at(4);
            assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, json.len());
            assert_eq!(Errand::decode(json), Ok(errand));
            assert_eq!(Errand::decode(&json[1..]), Err(BadErrand));
        }
        let beyond =
            br#"{"source":1,"counter":2,"target":3,"task":{"put":{"user":"a@b.test","path":"x","keywords":[],
            "messages":[{"uid":1,"octets":1,"flags":0,"keywords":[0],"date":[0,0]}]}}}"#;
        assert_eq!(Errand::decode(beyond), Err(BadErrand));
    }

    #[test]
    fn answers_come_back_as_they_were_and_unknown_refusals_are_refusals() {
        let uid = |n| Uid::new(n).unwrap();
        let uids = vec![(uid(1), uid(7)), (uid(3), uid(8))];
        let moved = Verdict::Moved { uid_validity: UidValidity::new(4).unwrap(), uids };
        for answer in [
            Answer::Verdict(moved),
            Answer::Verdict(Verdict::Refused(Refusal::MayCreate)),
            Answer::Closed,
            Answer::NoAccount,
            Answer::Done,
            Answer::Failed("why".into()),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        let newer = Answer::decode(br#"{"refused":"full moon"}"#);
        assert_eq!(newer, Ok(Answer::Verdict(Verdict::Refused(Refusal::Limit))));
        assert!(Answer::decode(b"").is_err() && Answer::decode(br#""undone""#).is_err());
    }
}
