//! SEARCH (RFC 9051 §6.4.4), with ESEARCH (RFC 4731), SEARCHRES (RFC 5182), PARTIAL (RFC 9394) and MODSEQ
//! (RFC 7162 §3.1.5).

use super::Outcome;
use crate::answer::{Answer, Failure};
use crate::progress::Progress;
use crate::search::{self, Compiled, Finding, Found, Hit};
use crate::session::{Selected, User};
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::command::{Search, SearchKey, SearchReturn};
use rookery_codec::imap::{Code, Response, Tag};
use rookery_store::Message;
use rookery_types::{SeqNum, UidSet};
use std::sync::Arc;

/// One message found, with both its numbers.
struct Match {
    seq: u32,
    found: Found,
}

impl Hit for Match {
    fn new(seq: SeqNum, message: &Message) -> Match {
        let (uid, modseq) = (message.uid.get(), message.modseq);
        Match { seq: seq.get(), found: Found { number: uid, uid, modseq } }
    }

    fn place(&self) -> u32 {
        self.found.uid
    }
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
    let with_modseq = search::mentions_modseq(&search.key);
    let (uid, returns) = (search.uid, search.returns);
    let key = prepare(user, selected, search.charset.as_ref(), search.key);
    let mut progress = Progress::new(tag);
    let found = match key {
        Ok(key) => {
            let texts = &user.services.header_texts;
            let finding = Finding { wire: &mut *wire, progress: &mut progress, selected, texts, key };
            finding.all::<Match>().await
        }
        Err(failure) => Err(failure),
    };
    let (hits, unread) = match found {
        Ok(found) => found,
        Err(failure) => {
            forget(selected, saves);
            return Err(failure);
        }
    };
    let found: Vec<Found> = hits
        .into_iter()
        .map(|hit| Found { number: if uid { hit.found.uid } else { hit.seq }, ..hit.found })
        .collect();
    let extended = returns.is_some() || user.enabled.rev2;
    let returns = returns.unwrap_or(SearchReturn { all: true, ..SearchReturn::default() });
    if returns.save {
        selected.saved = search::saved(&returns, &found);
    }
    if extended {
        if let Some(data) = search::esearch(tag, uid, &returns, &found, with_modseq) {
            wire.put(&Response::Esearch(data));
        }
    } else {
        let modseq = found.iter().map(|found| found.modseq).max().filter(|_| with_modseq);
        wire.put(&Response::Search { numbers: found.iter().map(|found| found.number).collect(), modseq });
    }
    Ok(completed("SEARCH completed", unread))
}

/// A search that failed leaves `$` empty (RFC 5182 §2.1).
pub(super) fn forget(selected: &mut Selected, saves: bool) {
    if saves {
        selected.saved = UidSet::new();
    }
}

/// The end of a command that looked through messages.
pub(super) fn completed(text: &'static str, unread: usize) -> Answer {
    match unread {
        0 => Answer::ok(text),
        _ => Answer::ok(format!("{text}, but some messages could not be read; the operator was told")),
    }
}

/// A command's search key, ready to be asked. A key with MODSEQ turns on CONDSTORE (RFC 7162 §3.1).
pub(super) fn prepare(
    user: &mut User,
    selected: &Selected,
    charset: Option<&Bytes>,
    key: SearchKey,
) -> Result<Arc<Compiled>, Failure> {
    if let Some(charset) = charset
        && !charset.eq_ignore_ascii_case(b"UTF-8")
        && !charset.eq_ignore_ascii_case(b"US-ASCII")
    {
        let known = vec![Bytes::from_static(b"US-ASCII"), Bytes::from_static(b"UTF-8")];
        return Err(Answer::no(Code::BadCharset(known), "That charset is not known").into());
    }
    user.enabled.condstore |= search::mentions_modseq(&key);
    let keywords = selected.mailbox.now().settings.keywords.clone();
    Ok(Arc::new(search::compile(key, selected, &keywords)?))
}
