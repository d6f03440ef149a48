//! SEARCH, SORT and THREAD.

use super::scan::{Fault, Parsed, Scanner};
use crate::imap::command::{
    Command, DateField, DateTest, Day, EntryType, Search, SearchKey, SearchReturn, Sort, SortCriterion,
    SortKey, Thread,
};
use crate::imap::types::PartialRange;
use bytes::Bytes;
use rookery_types::date::parse_day;
use rookery_types::{Keyword, SystemFlags};
use std::num::NonZeroU32;

/// Names longer than this are no search key's.
const NAME_OCTETS_MAX: usize = 24;

/// ```abnf
/// search         = "SEARCH" [search-return-opts] SP search-program
/// search-program = ["CHARSET" SP charset SP] search-key *(SP search-key)
/// ```
pub(crate) fn search(s: &mut Scanner<'_>, uid: bool) -> Parsed<Command> {
    let returns = returns(s)?;
    s.sp()?;
    let charset = if s.take_word("CHARSET ") {
        let charset = s.astring()?;
        s.sp()?;
        Some(charset)
    } else {
        None
    };
    Ok(Command::Search(Search { uid, returns, charset, key: keys(s)? }))
}

/// ```abnf
/// search-return-opts = SP "RETURN" SP "(" [search-return-opt *(SP search-return-opt)] ")"
/// ```
fn returns(s: &mut Scanner<'_>) -> Parsed<Option<SearchReturn>> {
    if !s.take_word(" RETURN ") {
        return Ok(None);
    }
    let mut returns = SearchReturn::default();
    let options = s.list(|s| {
        match &*s.atom_upper()? {
            "PARTIAL" if returns.partial.is_none() => {
                s.sp()?;
                returns.partial = Some(partial_range(s)?);
            }
            "MIN" => returns.min = true,
            "MAX" => returns.max = true,
            "ALL" => returns.all = true,
            "COUNT" => returns.count = true,
            "SAVE" => returns.save = true,
            _ => return Err(Fault("Unknown RETURN option")),
        }
        Ok(())
    })?;
    // RFC 4731 §3.1: an empty list is as good as ALL.
    returns.all |= options.is_empty();
    if returns.all && returns.partial.is_some() {
        return Err(Fault("ALL and PARTIAL cannot go together"));
    }
    Ok(Some(returns))
}

/// ```abnf
/// partial-range       = partial-range-first / partial-range-last
/// partial-range-first = nz-number ":" nz-number
/// partial-range-last  = MINUS nz-number ":" MINUS nz-number
/// ```
pub(crate) fn partial_range(s: &mut Scanner<'_>) -> Parsed<PartialRange> {
    let from_last = s.take(b'-');
    let start = s.number_as(NonZeroU32::new)?;
    s.expect(b':', "Malformed range")?;
    if s.take(b'-') != from_last {
        return Err(Fault("Malformed range"));
    }
    Ok(PartialRange { from_last, start, end: s.number_as(NonZeroU32::new)? })
}

/// ```abnf
/// sort           = ["UID" SP] "SORT" SP sort-criteria SP search-criteria
/// sort-criteria  = "(" sort-criterion *(SP sort-criterion) ")"
/// sort-criterion = ["REVERSE" SP] sort-key
/// ```
pub(crate) fn sort(s: &mut Scanner<'_>, uid: bool) -> Parsed<Command> {
    let returns = returns(s)?;
    s.sp()?;
    let criteria = s.list1(|s| {
        let reverse = s.take_word("REVERSE ");
        let name = s.atom_upper()?;
        let found = SORT_KEYS.iter().find(|(_, one)| *one == &*name);
        let (key, _) = found.ok_or(Fault("Unknown sort key"))?;
        Ok(SortCriterion { reverse, key: *key })
    })?;
    s.sp()?;
    let charset = s.astring()?;
    s.sp()?;
    Ok(Command::Sort(Sort { uid, returns, criteria, charset, key: keys(s)? }))
}

/// `sort-key`
pub(crate) const SORT_KEYS: [(SortKey, &str); 9] = [
    (SortKey::Arrival, "ARRIVAL"),
    (SortKey::Cc, "CC"),
    (SortKey::Date, "DATE"),
    (SortKey::DisplayFrom, "DISPLAYFROM"),
    (SortKey::DisplayTo, "DISPLAYTO"),
    (SortKey::From, "FROM"),
    (SortKey::Size, "SIZE"),
    (SortKey::Subject, "SUBJECT"),
    (SortKey::To, "TO"),
];

/// ```abnf
/// thread = ["UID" SP] "THREAD" SP thread-alg SP search-criteria
/// ```
pub(crate) fn thread(s: &mut Scanner<'_>, uid: bool) -> Parsed<Command> {
    s.sp()?;
    let algorithm = s.atom_upper()?;
    s.sp()?;
    let charset = s.astring()?;
    s.sp()?;
    Ok(Command::Thread(Thread { uid, algorithm, charset, key: keys(s)? }))
}

/// `search-key *(SP search-key)` to the end of the command.
fn keys(s: &mut Scanner<'_>) -> Parsed<SearchKey> {
    let mut keys = vec![key(s)?];
    while s.peek() == Some(b' ') && s.rest().iter().any(|b| *b != b' ') {
        s.sp()?;
        keys.push(key(s)?);
    }
    s.end()?;
    Ok(together(keys))
}

/// Several keys are one; a single one needs no AND.
fn together(mut keys: Vec<SearchKey>) -> SearchKey {
    match (keys.pop(), keys.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            keys.extend(last);
            SearchKey::And(keys)
        }
    }
}

/// `search-key`
fn key(s: &mut Scanner<'_>) -> Parsed<SearchKey> {
    match s.peek() {
        Some(b'(') => s.deeper(|s| s.list1(key).map(together)),
        Some(b'0'..=b'9' | b'*' | b'$') => s.message_set().map(SearchKey::Sequence),
        _ => named(s),
    }
}

fn named(s: &mut Scanner<'_>) -> Parsed<SearchKey> {
    let atom = s.atom()?;
    let mut buffer = [0; NAME_OCTETS_MAX];
    let name = buffer.get_mut(..atom.len()).ok_or(Fault("Unknown search key"))?;
    name.copy_from_slice(atom);
    name.make_ascii_uppercase();
    let name = &*name;
    if let Some(key) = without_argument(name) {
        return Ok(key);
    }
    if let Some((field, test)) = date_key(name) {
        s.sp()?;
        return Ok(SearchKey::Date(field, test, day(s)?));
    }
    let text: Option<fn(Bytes) -> SearchKey> = match name {
        b"BCC" => Some(SearchKey::Bcc),
        b"BODY" => Some(SearchKey::Body),
        b"CC" => Some(SearchKey::Cc),
        b"FROM" => Some(SearchKey::From),
        b"SUBJECT" => Some(SearchKey::Subject),
        b"TEXT" => Some(SearchKey::Text),
        b"TO" => Some(SearchKey::To),
        _ => None,
    };
    if let Some(make) = text {
        s.sp()?;
        return s.astring().map(make);
    }
    with_argument(s, name)
}

fn without_argument(name: &[u8]) -> Option<SearchKey> {
    use SearchKey::{Has, HasNot};
    Some(match name {
        b"ALL" => SearchKey::All,
        b"ANSWERED" => Has(SystemFlags::ANSWERED),
        b"DELETED" => Has(SystemFlags::DELETED),
        b"DRAFT" => Has(SystemFlags::DRAFT),
        b"FLAGGED" => Has(SystemFlags::FLAGGED),
        b"SEEN" => Has(SystemFlags::SEEN),
        b"UNANSWERED" => HasNot(SystemFlags::ANSWERED),
        b"UNDELETED" => HasNot(SystemFlags::DELETED),
        b"UNDRAFT" => HasNot(SystemFlags::DRAFT),
        b"UNFLAGGED" => HasNot(SystemFlags::FLAGGED),
        b"UNSEEN" => HasNot(SystemFlags::SEEN),
        b"RECENT" => SearchKey::Recent,
        b"NEW" => SearchKey::New,
        b"OLD" => SearchKey::Old,
        b"SAVEDATESUPPORTED" => SearchKey::SaveDateSupported,
        _ => return None,
    })
}

fn date_key(name: &[u8]) -> Option<(DateField, DateTest)> {
    let (field, test) = match name {
        [b'S', b'E', b'N', b'T', test @ ..] => (DateField::Sent, test),
        [b'S', b'A', b'V', b'E', b'D', test @ ..] => (DateField::Saved, test),
        test => (DateField::Internal, test),
    };
    let test = match test {
        b"BEFORE" => DateTest::Before,
        b"ON" => DateTest::On,
        b"SINCE" => DateTest::Since,
        _ => return None,
    };
    Some((field, test))
}

fn with_argument(s: &mut Scanner<'_>, name: &[u8]) -> Parsed<SearchKey> {
    let rule: fn(&mut Scanner<'_>) -> Parsed<SearchKey> = match name {
        b"OR" => |s| {
            s.deeper(|s| {
                let one = key(s)?;
                s.sp()?;
                Ok(SearchKey::Or(Box::new(one), Box::new(key(s)?)))
            })
        },
        b"NOT" => |s| s.deeper(|s| Ok(SearchKey::Not(Box::new(key(s)?)))),
        b"KEYWORD" => |s| keyword(s).map(SearchKey::Keyword),
        b"UNKEYWORD" => |s| keyword(s).map(SearchKey::Unkeyword),
        b"HEADER" => |s| {
            let field = s.astring()?;
            s.sp()?;
            Ok(SearchKey::Header { field, value: s.astring()? })
        },
        b"LARGER" => |s| s.number64().map(SearchKey::Larger),
        b"SMALLER" => |s| s.number64().map(SearchKey::Smaller),
        b"OLDER" => |s| s.number_as(NonZeroU32::new).map(SearchKey::Older),
        b"YOUNGER" => |s| s.number_as(NonZeroU32::new).map(SearchKey::Younger),
        b"MODSEQ" => modseq,
        b"EMAILID" => |s| object_id(s).map(SearchKey::EmailId),
        b"THREADID" => |s| object_id(s).map(SearchKey::ThreadId),
        b"UID" => |s| s.message_set().map(SearchKey::Uid),
        _ => return Err(Fault("Unknown search key")),
    };
    s.sp()?;
    rule(s)
}

fn keyword(s: &mut Scanner<'_>) -> Parsed<Keyword> {
    let atom = s.atom()?;
    std::str::from_utf8(atom).ok().and_then(Keyword::new).ok_or(Fault("Keyword too long"))
}

/// ```abnf
/// date = date-text / DQUOTE date-text DQUOTE
/// ```
fn day(s: &mut Scanner<'_>) -> Parsed<Day> {
    let quoted = s.take(b'"');
    let text = s.run(|b| b.is_ascii_alphanumeric() || b == b'-');
    if quoted {
        s.expect(b'"', "Malformed date")?;
    }
    std::str::from_utf8(text).ok().and_then(parse_day).map(Day).ok_or(Fault("Malformed date"))
}

/// ```abnf
/// search-modsequence = "MODSEQ" [search-modseq-ext] SP mod-sequence-valzer
/// search-modseq-ext  = SP entry-name SP entry-type-req
/// ```
fn modseq(s: &mut Scanner<'_>) -> Parsed<SearchKey> {
    let mut entry = None;
    if s.peek() == Some(b'"') {
        let name = s.string()?;
        s.sp()?;
        let kind = match &*s.atom_upper()? {
            "PRIV" => EntryType::Private,
            "SHARED" => EntryType::Shared,
            "ALL" => EntryType::All,
            _ => return Err(Fault("Unknown entry type")),
        };
        s.sp()?;
        entry = Some((name, kind));
    }
    Ok(SearchKey::ModSeq { entry, modseq: s.number64()? })
}

/// ```abnf
/// objectid = 1*255(ALPHA / DIGIT / "_" / "-")
/// ```
pub(crate) fn object_id(s: &mut Scanner<'_>) -> Parsed<Bytes> {
    let id = s.run(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if id.is_empty() || id.len() > 255 {
        return Err(Fault("Malformed object id"));
    }
    Ok(s.own(id))
}
