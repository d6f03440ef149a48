//! Search keys made ready for one mailbox, and asked of what memory knows.

use super::headers::{Field, HeaderRow};
use crate::answer::{Answer, Failure};
use crate::session::Selected;
use rookery_codec::imap::MessageSet;
use rookery_codec::imap::command::{DateField, DateTest, Day, SearchKey};
use rookery_mime::Needle;
use rookery_store::Message;
use rookery_types::{Keyword, SystemFlags, UidSet};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// A key, ready to be asked.
#[derive(Debug)]
pub(crate) enum Compiled {
    And(Vec<Compiled>),
    Or(Box<Compiled>, Box<Compiled>),
    Not(Box<Compiled>),
    Always(bool),
    Has(SystemFlags),
    Keyword(u16),
    Recent,
    Uids(UidSet),
    Date(DateField, DateTest, Day),
    Larger(u64),
    Smaller(u64),
    /// INTERNALDATE is this or later, seconds since 1970.
    NotBefore(i64),
    ModSeq(u64),
    EmailId(Box<str>),
    ThreadId(Box<str>),
    Text(Needle),
    Body(Needle),
    Header(Box<str>, Needle),
    /// One of the fields that are kept ready.
    Field(Field, Needle),
}

/// What of the session a key is asked against.
pub(crate) struct Scene<'a> {
    pub(crate) recent: &'a UidSet,
    /// The message's fields that are kept ready; `None`: nobody has looked.
    pub(crate) headers: Option<HeaderRow<'a>>,
}

/// Makes a key ready. Strings must be UTF-8, of which US-ASCII is a part.
pub(crate) fn compile(
    key: SearchKey,
    selected: &Selected,
    keywords: &[Keyword],
) -> Result<Compiled, Failure> {
    let number = |keyword: &Keyword| {
        let at = keywords.iter().position(|one| one == keyword).and_then(|at| u16::try_from(at).ok());
        at.map_or(Compiled::Always(false), Compiled::Keyword)
    };
    let header = |name: &str, value: &[u8]| Ok::<_, Failure>(Compiled::Header(name.into(), needle(value)?));
    Ok(match key {
        SearchKey::And(keys) => {
            let keys: Result<_, _> = keys.into_iter().map(|key| compile(key, selected, keywords)).collect();
            Compiled::And(keys?)
        }
        SearchKey::Or(a, b) => Compiled::Or(
            Box::new(compile(*a, selected, keywords)?),
            Box::new(compile(*b, selected, keywords)?),
        ),
        SearchKey::Not(key) => not(compile(*key, selected, keywords)?),
        SearchKey::All | SearchKey::SaveDateSupported => Compiled::Always(true),
        SearchKey::Has(flag) => Compiled::Has(flag),
        SearchKey::HasNot(flag) => not(Compiled::Has(flag)),
        SearchKey::Keyword(keyword) => number(&keyword),
        SearchKey::Unkeyword(keyword) => not(number(&keyword)),
        SearchKey::Recent => Compiled::Recent,
        SearchKey::New => Compiled::And(vec![Compiled::Recent, not(Compiled::Has(SystemFlags::SEEN))]),
        SearchKey::Old => not(Compiled::Recent),
        SearchKey::Date(field, test, day) => Compiled::Date(field, test, day),
        SearchKey::Bcc(value) => Compiled::Field(Field::Bcc, needle(&value)?),
        SearchKey::Cc(value) => Compiled::Field(Field::Cc, needle(&value)?),
        SearchKey::From(value) => Compiled::Field(Field::From, needle(&value)?),
        SearchKey::To(value) => Compiled::Field(Field::To, needle(&value)?),
        SearchKey::Subject(value) => Compiled::Field(Field::Subject, needle(&value)?),
        SearchKey::Header { field, value } => match std::str::from_utf8(&field) {
            Ok(field) if field.eq_ignore_ascii_case("Subject") => {
                Compiled::Field(Field::Subject, needle(&value)?)
            }
            Ok(field) => header(field, &value)?,
            Err(_) => Compiled::Always(false),
        },
        SearchKey::Body(value) => Compiled::Body(needle(&value)?),
        SearchKey::Text(value) => Compiled::Text(needle(&value)?),
        SearchKey::Larger(octets) => Compiled::Larger(octets),
        SearchKey::Smaller(octets) => Compiled::Smaller(octets),
        SearchKey::Older(seconds) => not(Compiled::NotBefore(now() - i64::from(seconds.get()) + 1)),
        SearchKey::Younger(seconds) => Compiled::NotBefore(now() - i64::from(seconds.get())),
        SearchKey::ModSeq { modseq, .. } => Compiled::ModSeq(modseq),
        SearchKey::EmailId(id) => Compiled::EmailId(String::from_utf8_lossy(&id).into()),
        SearchKey::ThreadId(id) => Compiled::ThreadId(String::from_utf8_lossy(&id).into()),
        SearchKey::Sequence(set) => Compiled::Uids(selected.uids_of_numbers(&set)?),
        SearchKey::Uid(MessageSet::Saved) => Compiled::Uids(selected.saved.clone()),
        SearchKey::Uid(MessageSet::Set(set)) => Compiled::Uids(set.resolve(selected.view.last_uid())),
    })
}

fn not(key: Compiled) -> Compiled {
    Compiled::Not(Box::new(key))
}

fn needle(value: &[u8]) -> Result<Needle, Failure> {
    let text = std::str::from_utf8(value).map_err(|_| Answer::bad("A search text is not in its charset"))?;
    Ok(Needle::new(text))
}

fn now() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// Whether a key asks for MODSEQ, so that the answer carries it (RFC 7162 §3.1.5).
pub(crate) fn mentions_modseq(key: &SearchKey) -> bool {
    mentions(key, &|key| matches!(key, SearchKey::ModSeq { .. }))
}

/// Whether a key holds sequence numbers. `$` are none.
pub(crate) fn mentions_numbers(key: &SearchKey) -> bool {
    mentions(key, &|key| matches!(key, SearchKey::Sequence(MessageSet::Set(_))))
}

fn mentions(key: &SearchKey, is_it: &impl Fn(&SearchKey) -> bool) -> bool {
    match key {
        SearchKey::And(keys) => keys.iter().any(|key| mentions(key, is_it)),
        SearchKey::Or(a, b) => mentions(a, is_it) || mentions(b, is_it),
        SearchKey::Not(key) => mentions(key, is_it),
        key => is_it(key),
    }
}

impl Compiled {
    /// Whether messages are likely to be read: then many are read at once.
    pub(crate) fn reads_whole(&self) -> bool {
        let reads = |key: &Compiled| {
            matches!(key, Compiled::Text(_) | Compiled::Body(_) | Compiled::Header(..) | Compiled::Field(..))
        };
        self.any(&reads)
    }

    /// Whether a field is asked that is kept ready.
    pub(crate) fn mentions_fields(&self) -> bool {
        self.any(&|key| matches!(key, Compiled::Field(..) | Compiled::Date(DateField::Sent, ..)))
    }

    fn any(&self, is_it: &impl Fn(&Compiled) -> bool) -> bool {
        match self {
            Compiled::And(keys) => keys.iter().any(|key| key.any(is_it)),
            Compiled::Or(a, b) => a.any(is_it) || b.any(is_it),
            Compiled::Not(key) => key.any(is_it),
            key => is_it(key),
        }
    }

    /// Whether a message matches, as far as memory knows; `None`: its content decides.
    pub(crate) fn known(&self, message: &Message, scene: &Scene<'_>) -> Option<bool> {
        Some(match self {
            Compiled::And(keys) => {
                let mut all = Some(true);
                for key in keys {
                    match key.known(message, scene) {
                        Some(false) => return Some(false),
                        Some(true) => {}
                        None => all = None,
                    }
                }
                return all;
            }
            Compiled::Or(a, b) => {
                return match (a.known(message, scene), b.known(message, scene)) {
                    (Some(true), _) | (_, Some(true)) => Some(true),
                    (Some(false), Some(false)) => Some(false),
                    _ => None,
                };
            }
            Compiled::Not(key) => return key.known(message, scene).map(|matches| !matches),
            Compiled::Always(matches) => *matches,
            Compiled::Has(flag) => message.flags.contains(*flag),
            Compiled::Keyword(number) => message.keywords.contains(*number),
            Compiled::Recent => scene.recent.contains_uid(message.uid),
            Compiled::Uids(uids) => uids.contains_uid(message.uid),
            Compiled::Date(DateField::Internal, test, day) => compares(message.date.day(), *test, *day),
            Compiled::Date(DateField::Saved, test, day) => {
                compares(i64::from(message.saved_unix_seconds) / DAY, *test, *day)
            }
            Compiled::Larger(octets) => u64::from(message.size) > *octets,
            Compiled::Smaller(octets) => u64::from(message.size) < *octets,
            Compiled::NotBefore(seconds) => message.date.unix_seconds() >= *seconds,
            Compiled::ModSeq(modseq) => message.modseq.get() >= *modseq,
            Compiled::EmailId(id) => message.content.objectid() == **id,
            Compiled::Field(field, needle) => return scene.headers.map(|row| row.holds(*field, needle)),
            Compiled::Date(DateField::Sent, test, day) => {
                let sent = scene.headers?.sent();
                sent.is_some_and(|sent| compares(sent, *test, *day))
            }
            Compiled::ThreadId(_) | Compiled::Text(_) | Compiled::Body(_) | Compiled::Header(..) => {
                return None;
            }
        })
    }
}

/// Whether a day compares to another as asked.
pub(super) fn compares(day: i64, test: DateTest, Day(than): Day) -> bool {
    match test {
        DateTest::Before => day < than,
        DateTest::On => day == than,
        DateTest::Since => day >= than,
    }
}
