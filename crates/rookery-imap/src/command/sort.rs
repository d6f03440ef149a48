//! SORT (RFC 5256, RFC 5957), with ESORT (RFC 5267 §3), and THREAD (RFC 5256).

use super::Outcome;
use super::search::{completed, forget, prepare};
use crate::answer::{Answer, Failure, blocking};
use crate::progress::Progress;
use crate::search::{self, Finding, Found, Hit};
use crate::session::{Selected, User};
use crate::sorting::{self, SortTables, Sortable};
use crate::wire::Wire;
use rookery_codec::imap::command::{Sort, Thread};
use rookery_codec::imap::{Code, Response, Tag};
use rookery_store::Message;
use rookery_types::SeqNum;

/// The most messages that are sorted at once: what is compared of them takes some 200 octets each.
const MESSAGES_MAX: usize = 2_000_000;

/// One message to be sorted, with its sequence number.
struct Candidate {
    seq: u32,
    message: Sortable,
}

impl Hit for Candidate {
    fn new(seq: SeqNum, message: &Message) -> Candidate {
        let uid = message.uid.get();
        Candidate {
            seq: seq.get(),
            message: Sortable {
                number: uid,
                uid,
                date: message.date.unix_seconds(),
                size: message.size,
                modseq: message.modseq,
                content: message.content,
            },
        }
    }

    fn place(&self) -> u32 {
        self.message.uid
    }
}

/// Says which messages match, in an order.
pub(crate) async fn sort(
    wire: &mut Wire,
    tag: &Tag,
    user: &mut User,
    selected: &mut Selected,
    sort: Sort,
) -> Outcome {
    let saves = sort.returns.is_some_and(|returns| returns.save);
    let with_modseq = search::mentions_modseq(&sort.key);
    let uid = sort.uid;
    let mut progress = Progress::new(tag);
    let sorted = async {
        let key = prepare(user, selected, Some(&sort.charset), sort.key)?;
        let (messages, unread) = candidates(wire, &mut progress, user, selected, key, uid).await?;
        let tables = tables(user);
        let account = selected.mailbox.account().clone();
        let (mailbox, exists) = (selected.mailbox.id(), selected.view.messages().len());
        let criteria = sort.criteria;
        let work = blocking(move || {
            let (table, lost) = match sorting::needs_table(&criteria) {
                true => tables.table(&account, mailbox, exists, &messages),
                false => Default::default(),
            };
            let found = |place: u32| {
                let message = usize::try_from(place).ok().and_then(|place| messages.get(place))?;
                Some(Found { number: message.number, uid: message.uid, modseq: message.modseq })
            };
            let order = sorting::in_order(&messages, &criteria, &table);
            (order.into_iter().filter_map(found).collect::<Vec<_>>(), lost)
        });
        let (found, lost) = progress.during(wire, work).await?;
        Ok::<_, Failure>((found, unread + lost))
    };
    let (found, unread) = match sorted.await {
        Ok(sorted) => sorted,
        Err(failure) => {
            forget(selected, saves);
            return Err(failure);
        }
    };
    match sort.returns {
        Some(returns) => {
            if returns.save {
                selected.saved = search::saved(&returns, &found);
            }
            if let Some(data) = search::esearch(tag, uid, &returns, &found, with_modseq) {
                wire.put(&Response::Esearch(data));
            }
        }
        None => {
            let modseq = found.iter().map(|found| found.modseq).max().filter(|_| with_modseq);
            wire.put(&Response::Sort { numbers: found.iter().map(|found| found.number).collect(), modseq });
        }
    }
    Ok(completed("SORT completed", unread))
}

/// Says which messages match, in conversations.
pub(crate) async fn thread(
    wire: &mut Wire,
    tag: &Tag,
    user: &mut User,
    selected: &mut Selected,
    thread: Thread,
) -> Outcome {
    let by_subject = match &*thread.algorithm {
        "ORDEREDSUBJECT" => true,
        "REFERENCES" => false,
        _ => return Err(Answer::bad("That threading algorithm is not known").into()),
    };
    let mut progress = Progress::new(tag);
    let key = prepare(user, selected, Some(&thread.charset), thread.key)?;
    let (messages, unread) = candidates(wire, &mut progress, user, selected, key, thread.uid).await?;
    let tables = tables(user);
    let account = selected.mailbox.account().clone();
    let (mailbox, exists) = (selected.mailbox.id(), selected.view.messages().len());
    let work = blocking(move || {
        let (table, lost) = tables.table(&account, mailbox, exists, &messages);
        let lists = match by_subject {
            true => sorting::ordered_subject(&messages, &table),
            false => sorting::references(&messages, &table),
        };
        (lists, lost)
    });
    let (lists, lost) = progress.during(wire, work).await?;
    wire.put(&Response::Thread(lists));
    Ok(completed("THREAD completed", unread + lost))
}

fn tables(user: &User) -> SortTables {
    user.services.sort_tables.clone()
}

/// The messages that match, ascending, and how many could not be read.
async fn candidates(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &User,
    selected: &Selected,
    key: std::sync::Arc<search::Compiled>,
    uid: bool,
) -> Result<(Vec<Sortable>, usize), Failure> {
    let finding = Finding { wire, progress, selected, texts: &user.services.header_texts, key };
    let (candidates, unread) = finding.all::<Candidate>().await?;
    if candidates.len() > MESSAGES_MAX {
        return Err(Answer::no(Code::Limit, "Those are too many messages to be sorted at once").into());
    }
    let numbered = |candidate: Candidate| Sortable {
        number: if uid { candidate.message.uid } else { candidate.seq },
        ..candidate.message
    };
    Ok((candidates.into_iter().map(numbered).collect(), unread))
}
