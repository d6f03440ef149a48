//! What a search or a sort tells of what it found: ESEARCH (RFC 4731), ESORT (RFC 5267 §3), PARTIAL (RFC 9394) and `$`
//! (RFC 5182).

use rookery_codec::imap::Tag;
use rookery_codec::imap::command::SearchReturn;
use rookery_codec::imap::response::Esearch;
use rookery_types::{ModSeq, UidSet};
use std::num::NonZeroU32;

/// One message found.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// Its sequence number or UID, as the answer has it.
    pub(crate) number: u32,
    pub(crate) uid: u32,
    pub(crate) modseq: ModSeq,
}

/// What `$` becomes: with MIN, MAX or PARTIAL and without ALL and COUNT only these (RFC 5182 §2.4, RFC 9394 §3.2).
pub(crate) fn saved(returns: &SearchReturn, found: &[Found]) -> UidSet {
    let some = returns.min || returns.max || returns.partial.is_some();
    match some && !returns.all && !returns.count {
        false => ascending(found.iter().map(|found| found.uid)),
        true => ascending(named(returns, found).map(|found| found.uid)),
    }
}

/// Inserting in order keeps a long set cheap.
fn ascending(uids: impl Iterator<Item = u32>) -> UidSet {
    let mut uids: Vec<u32> = uids.collect();
    uids.sort_unstable();
    uids.into_iter().collect()
}

/// What MIN, MAX and PARTIAL name.
fn named<'a>(returns: &SearchReturn, found: &'a [Found]) -> impl Iterator<Item = &'a Found> {
    let min = found.first().filter(|_| returns.min);
    let max = found.last().filter(|_| returns.max);
    let partial = returns.partial.and_then(|range| found.get(range.places(found.len()))).unwrap_or(&[]);
    min.into_iter().chain(max).chain(partial)
}

/// The ESEARCH response about what was found, in the order asked for; `None`: nothing but saving was asked for
/// (RFC 5182 §2.1).
pub(crate) fn esearch(
    tag: &Tag,
    uid: bool,
    returns: &SearchReturn,
    found: &[Found],
    with_modseq: bool,
) -> Option<Esearch> {
    let SearchReturn { min, max, all, count, save, partial } = *returns;
    if save && !min && !max && !all && !count && partial.is_none() {
        return None;
    }
    let number = |found: Option<&Found>| found.and_then(|found| NonZeroU32::new(found.number));
    let modseq = match all || count {
        true => found.iter().map(|found| found.modseq).max(),
        false => named(returns, found).map(|found| found.modseq).max(),
    };
    let numbers = |found: &[Found]| found.iter().map(|found| found.number).collect();
    Some(Esearch {
        tag: Some(tag.clone()),
        uid,
        min: number(found.first().filter(|_| min)),
        max: number(found.last().filter(|_| max)),
        all: if all { numbers(found) } else { numbers(&[]) },
        partial: partial
            .map(|range| (range, numbers(found.get(range.places(found.len())).unwrap_or_default()))),
        count: count.then(|| u32::try_from(found.len()).unwrap_or(u32::MAX)),
        modseq: modseq.filter(|_| with_modseq),
    })
}
