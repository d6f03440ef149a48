//! What two nodes say to each other about one message: the codec of [`crate::forward`] and [`crate::home`].
//!
//! The node that the MTA is connected to sends a [`Parcel`] and the message, as [`framed`] has it. The home of the
//! recipients answers with JSON: one [`Said`] for each addressee, in their order. If the answer is lost on the way, a
//! [`Question`] without a message asks for it.

use bytes::Bytes;
use rookery_route::framed;
use rookery_types::{InternalDate, MailboxPath, OperationId, UserName};
use serde::{Deserialize, Serialize};

use crate::body::BodyError;
use crate::deliver::Outcome;

/// Says what the octets behind it are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Parcel {
    /// What stands in the trace line and in the replies.
    pub(crate) id: String,
    /// When it came: seconds since 1970, and minutes east of Greenwich.
    date: (i64, i16),
    /// The envelope's sender; empty for `<>`.
    pub(crate) sender: String,
    /// Who posts, as far as rights are concerned: `local@domain`.
    author: Option<String>,
    /// It was announced as BINARYMIME.
    pub(crate) is_binary: bool,
    addressees: Vec<Addressee>,
    /// By so many nodes that were not the home of its account any more.
    #[serde(default)]
    hops: u8,
}

/// One user it is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Addressee {
    user: String,
    detail: Option<String>,
    /// The delivery's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
}

/// Asks what became of a parcel. What was not delivered by then is not delivered any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    asked: Vec<Addressee>,
}

/// What comes over a pipe first.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Request {
    /// A message follows.
    Parcel(Parcel),
    /// Nothing does.
    Question(Question),
}

impl Request {
    /// Reads it, without the length.
    pub(crate) fn decode(json: &[u8]) -> Result<Request, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

impl Question {
    /// Whom it is about, and the deliveries' ids.
    pub(crate) fn deliveries(&self) -> impl Iterator<Item = Option<(UserName, OperationId)>> {
        self.asked.iter().map(|addressee| user(&addressee.user).zip(addressee.operation()))
    }

    /// With its length before it.
    pub(crate) fn encode(&self) -> Bytes {
        framed::encode(self)
    }
}

impl Addressee {
    fn operation(&self) -> Option<OperationId> {
        self.operation.as_deref().and_then(OperationId::parse)
    }
}

impl Parcel {
    pub(crate) fn new(
        id: String,
        date: InternalDate,
        sender: String,
        author: Option<&UserName>,
        is_binary: bool,
    ) -> Parcel {
        let date = (date.unix_seconds(), date.zone_minutes());
        Parcel {
            id,
            date,
            sender,
            author: author.map(ToString::to_string),
            is_binary,
            addressees: Vec::new(),
            hops: 0,
        }
    }

    /// The same message, passed on once more; none if that was done as often as it may be.
    pub(crate) fn passed_on(&self, max: u8) -> Option<Parcel> {
        (self.hops < max).then(|| Parcel { hops: self.hops + 1, ..self.clone() })
    }

    /// The same message for some users; each delivery has an id.
    pub(crate) fn to<'a>(
        &self,
        addressees: impl Iterator<Item = (&'a UserName, Option<&'a MailboxPath>, OperationId)>,
    ) -> Parcel {
        let addressee =
            |(user, detail, operation): (&UserName, Option<&MailboxPath>, OperationId)| Addressee {
                user: user.to_string(),
                detail: detail.map(|path| path.as_str().to_owned()),
                operation: Some(operation.to_string()),
            };
        Parcel { addressees: addressees.map(addressee).collect(), ..self.clone() }
    }

    /// Asks what became of it, for each addressee.
    pub(crate) fn questions(&self) -> impl Iterator<Item = Question> {
        self.addressees.iter().map(|addressee| Question { asked: vec![addressee.clone()] })
    }

    pub(crate) fn date(&self) -> InternalDate {
        let (seconds, zone) = self.date;
        InternalDate::new(seconds, zone).unwrap_or(InternalDate::from_unix(seconds))
    }

    pub(crate) fn author(&self) -> Option<UserName> {
        self.author.as_deref().and_then(user)
    }

    /// The users it is for; `None` stands for one whose name is none. A detail that can name no mailbox is as good
    /// as one that names none. Then comes the delivery's id.
    pub(crate) fn addressees(
        &self,
    ) -> impl Iterator<Item = (Option<UserName>, Option<MailboxPath>, Option<OperationId>)> {
        self.addressees.iter().map(|addressee| {
            let detail = addressee.detail.as_deref().and_then(|path| MailboxPath::new(path).ok());
            (user(&addressee.user), detail, addressee.operation())
        })
    }

    /// With its length before it.
    pub(crate) fn encode(&self) -> Bytes {
        framed::encode(self)
    }
}

fn user(name: &str) -> Option<UserName> {
    let (local, domain) = name.rsplit_once('@')?;
    UserName::parse(local, domain).ok()
}

/// What became of one addressee, as it is said between nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    result: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    text: String,
}

impl From<&Outcome> for Said {
    fn from(outcome: &Outcome) -> Said {
        let (result, text) = match outcome {
            Outcome::Delivered => ("delivered", ""),
            Outcome::Duplicate => ("duplicate", ""),
            Outcome::Failed(error) => match error {
                BodyError::TooLarge => ("too large", ""),
                BodyError::Nul => ("nul", ""),
                BodyError::OverQuota => ("over quota", ""),
                BodyError::Gone => ("gone", ""),
                BodyError::NoSpace => ("no space", ""),
                BodyError::Moved => ("moved", ""),
                BodyError::GivenUp => ("given up", ""),
                BodyError::Away(text) => ("away", text.as_str()),
                BodyError::Failed(text) => ("failed", text.as_str()),
            },
        };
        Said { result: result.to_owned(), text: text.to_owned() }
    }
}

impl From<Said> for Outcome {
    /// What this version does not know is a failure, so that the MTA keeps the message.
    fn from(said: Said) -> Outcome {
        Outcome::Failed(match said.result.as_str() {
            "delivered" => return Outcome::Delivered,
            "duplicate" => return Outcome::Duplicate,
            "too large" => BodyError::TooLarge,
            "nul" => BodyError::Nul,
            "over quota" => BodyError::OverQuota,
            "gone" => BodyError::Gone,
            "no space" => BodyError::NoSpace,
            "moved" => BodyError::Moved,
            "given up" => BodyError::GivenUp,
            "away" => BodyError::Away(said.text),
            "failed" => BodyError::Failed(said.text),
            other => BodyError::Failed(format!("the home says: {other} {}", said.text)),
        })
    }
}

/// Writes an answer.
pub(crate) fn encode_answer(outcomes: &[Outcome]) -> Vec<u8> {
    let said: Vec<Said> = outcomes.iter().map(Said::from).collect();
    serde_json::to_vec(&said).unwrap_or_default()
}

/// Reads the answer for so many addressees.
pub(crate) fn decode_answer(json: &[u8], addressees: usize) -> Result<Vec<Outcome>, String> {
    let said: Vec<Said> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    match said.len() == addressees {
        true => Ok(said.into_iter().map(Outcome::from).collect()),
        false => Err(format!("{} outcomes for {addressees} recipients", said.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_come_back_as_they_were() {
        let joe = UserName::parse("joe", "a.test").unwrap();
        let ann = UserName::parse("ann+x", "b.test").unwrap();
        let path = MailboxPath::new("Lists/rust").unwrap();
        let date = InternalDate::new(1_700_000_000, -90).unwrap();
        let parcel = Parcel::new("7.1".into(), date, "a@b.test".into(), Some(&ann), true);
        let (one, two) = (OperationId([1; 16]), OperationId([2; 16]));
        let parcel = parcel.to([(&joe, Some(&path), one), (&ann, None, two)].into_iter());
        let octets = parcel.encode();
        let (length, json) = octets.split_at(4);
        assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, json.len());
        let Ok(Request::Parcel(read)) = Request::decode(json) else { panic!("no parcel") };
        assert_eq!(read, parcel);
        assert_eq!((read.date(), read.author()), (date, Some(ann.clone())));
        let addressees: Vec<_> = read.addressees().collect();
        let wanted = [(Some(joe.clone()), Some(path), Some(one)), (Some(ann.clone()), None, Some(two))];
        assert_eq!(addressees, wanted);
        assert!(Request::decode(&json[1..]).is_err());
        for (question, wanted) in parcel.questions().zip([(joe, one), (ann, two)]) {
            let Ok(Request::Question(asked)) = Request::decode(&question.encode()[4..]) else {
                panic!("no question")
            };
            assert_eq!(asked.deliveries().collect::<Vec<_>>(), [Some(wanted)]);
        }
    }

    #[test]
    fn outcomes_come_back_as_they_were_and_unknown_ones_are_failures() {
        let outcomes = [
            Outcome::Delivered,
            Outcome::Duplicate,
            Outcome::Failed(BodyError::TooLarge),
            Outcome::Failed(BodyError::Nul),
            Outcome::Failed(BodyError::OverQuota),
            Outcome::Failed(BodyError::Gone),
            Outcome::Failed(BodyError::NoSpace),
            Outcome::Failed(BodyError::Moved),
            Outcome::Failed(BodyError::GivenUp),
            Outcome::Failed(BodyError::Away("why".into())),
            Outcome::Failed(BodyError::Failed("why".into())),
        ];
        let json = encode_answer(&outcomes);
        assert_eq!(decode_answer(&json, outcomes.len()).unwrap(), outcomes);
        assert!(decode_answer(&json, 1).is_err());
        assert!(decode_answer(&json[1..], outcomes.len()).is_err());
        let newer = decode_answer(br#"[{"result":"bounced","more":1}]"#, 1).unwrap();
        assert!(matches!(&newer[..], [Outcome::Failed(BodyError::Failed(_))]));
    }
}
