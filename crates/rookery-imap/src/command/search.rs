//! SEARCH (RFC 9051 §6.4.4), with ESEARCH (RFC 4731), SEARCHRES (RFC 5182) and MODSEQ (RFC 7162 §3.1.5).

use super::Outcome;
use crate::answer::{Answer, Failure, blocking};
use crate::search::{self, Compiled, Scene};
use crate::session::{Selected, User};
use crate::view::windows;
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::command::{Search, SearchReturn};
use rookery_codec::imap::response::Esearch;
use rookery_codec::imap::{Code, Response, Tag};
use rookery_store::{Message, StoreError};
use rookery_types::{ModSeq, SeqNum, UidSet};
use std::num::NonZeroU32;
use std::sync::Arc;

/// About how many octets are read between two looks at the runtime.
const BATCH_OCTETS: u64 = 4 << 20;
/// Messages asked on one thread at once.
const BATCH_MESSAGES: usize = 256;

/// One message found.
struct Hit {
    number: u32,
    uid: u32,
    modseq: ModSeq,
}

/// Says which messages match.
pub(crate) async fn search(
    wire: &mut Wire,
    tag: &Tag,
    user: &mut User,
    selected: &mut Selected,
    search: Search,
) -> Outcome {
    let saves = search.returns.is_some_and(|returns| returns.save);
    if let Some(charset) = &search.charset
        && !charset.eq_ignore_ascii_case(b"UTF-8")
        && !charset.eq_ignore_ascii_case(b"US-ASCII")
    {
        forget(selected, saves);
        let known = vec![Bytes::from_static(b"US-ASCII"), Bytes::from_static(b"UTF-8")];
        return Err(Answer::no(Code::BadCharset(known), "That charset is not known").into());
    }
    let with_modseq = search::mentions_modseq(&search.key);
    user.enabled.condstore |= with_modseq;
    let keywords = selected.mailbox.now().settings.keywords.clone();
    let (uid, returns) = (search.uid, search.returns);
    let key = Arc::new(search::compile(search.key, selected, &keywords)?);
    let (hits, unread) = match find(selected, key, uid).await {
        Ok(found) => found,
        Err(failure) => {
            forget(selected, saves);
            return Err(failure);
        }
    };
    let extended = returns.is_some() || user.enabled.rev2;
    let returns = returns.unwrap_or(SearchReturn { all: true, ..SearchReturn::default() });
    if returns.save {
        selected.saved = saved(&returns, &hits);
    }
    if extended {
        tell_extended(wire, tag, uid, &returns, &hits, with_modseq);
    } else {
        let numbers = hits.iter().map(|hit| hit.number).collect();
        let modseq = hits.iter().map(|hit| hit.modseq).max().filter(|_| with_modseq);
        wire.put(&Response::Search { numbers, modseq });
    }
    Ok(match unread {
        0 => Answer::ok("SEARCH completed"),
        _ => Answer::ok("SEARCH completed, but some messages could not be read; the operator was told"),
    })
}

/// A search that failed leaves `$` empty (RFC 5182 §2.1).
fn forget(selected: &mut Selected, saves: bool) {
    if saves {
        selected.saved = UidSet::new();
    }
}

/// The messages that match, ascending, and how many could not be read.
async fn find(selected: &Selected, key: Arc<Compiled>, uid: bool) -> Result<(Vec<Hit>, usize), Failure> {
    let (_, newest) = selected.now();
    let everywhere = [selected.view.everywhere()];
    let hit = |seq: SeqNum, message: &Message| Hit {
        number: if uid { message.uid.get() } else { seq.get() },
        uid: message.uid.get(),
        modseq: message.modseq,
    };
    let mut hits = Vec::new();
    let mut undecided: Vec<(SeqNum, Message)> = Vec::new();
    let scene = Scene { recent: selected.view.recent() };
    for window in windows(&everywhere) {
        selected.load(window.clone()).await?;
        for found in selected.view.at(std::slice::from_ref(&window), &newest) {
            let (seq, message) = found?;
            match key.known(&message, &scene) {
                Some(true) => hits.push(hit(seq, &message)),
                Some(false) => {}
                None => undecided.push((seq, message)),
            }
        }
        tokio::task::yield_now().await;
    }
    let mut unread = 0;
    let mut rest = undecided.into_iter().peekable();
    while rest.peek().is_some() {
        let mut octets = 0;
        let mut batch = Vec::new();
        while octets < BATCH_OCTETS && batch.len() < BATCH_MESSAGES {
            let Some((seq, message)) = rest.next() else { break };
            octets += u64::from(message.size);
            batch.push((seq, message));
        }
        let account = selected.mailbox.account().clone();
        let recent = selected.view.recent().clone();
        let key = key.clone();
        let found = blocking(move || {
            let asked = batch.into_iter().map(|(seq, message)| {
                let matches = search::matches(&key, &account, &message, &recent);
                (seq, message, matches)
            });
            asked.collect::<Vec<_>>()
        });
        for (seq, message, matches) in found.await? {
            match matches {
                Ok(true) => hits.push(hit(seq, &message)),
                Ok(false) => {}
                Err(error) => {
                    note(&error);
                    unread += 1;
                }
            }
        }
    }
    hits.sort_unstable_by_key(|hit| hit.uid);
    Ok((hits, unread))
}

fn note(error: &StoreError) {
    tracing::error!(error = error as &dyn std::error::Error, "a message cannot be searched");
}

/// What `$` becomes: with MIN or MAX and without ALL and COUNT only these (RFC 5182 §2.4).
fn saved(returns: &SearchReturn, hits: &[Hit]) -> UidSet {
    if (!returns.min && !returns.max) || returns.all || returns.count {
        return hits.iter().map(|hit| hit.uid).collect();
    }
    ends(returns, hits).map(|hit| hit.uid).collect()
}

fn ends<'a>(returns: &SearchReturn, hits: &'a [Hit]) -> impl Iterator<Item = &'a Hit> {
    let min = hits.first().filter(|_| returns.min);
    let max = hits.last().filter(|_| returns.max);
    min.into_iter().chain(max)
}

fn tell_extended(
    wire: &mut Wire,
    tag: &Tag,
    uid: bool,
    returns: &SearchReturn,
    hits: &[Hit],
    with_modseq: bool,
) {
    let SearchReturn { min, max, all, count, save } = *returns;
    if save && !min && !max && !all && !count {
        // Nothing but the saving was asked for (RFC 5182 §2.1).
        return;
    }
    let number = |hit: Option<&Hit>| hit.and_then(|hit| NonZeroU32::new(hit.number));
    let modseq = match all || count {
        true => hits.iter().map(|hit| hit.modseq).max(),
        false => ends(returns, hits).map(|hit| hit.modseq).max(),
    };
    wire.put(&Response::Esearch(Esearch {
        tag: Some(tag.clone()),
        uid,
        min: number(hits.first().filter(|_| min)),
        max: number(hits.last().filter(|_| max)),
        all: if all { hits.iter().map(|hit| hit.number).collect() } else { UidSet::new() },
        count: count.then(|| u32::try_from(hits.len()).unwrap_or(u32::MAX)),
        modseq: modseq.filter(|_| with_modseq),
    }));
}
