//! The messages of a view that match: first by what memory knows, then by the header fields that are searched most, and
//! only then, on blocking threads, by their content.

use super::headers::{HeaderTexts, NewRow, read};
use super::{Compiled, Scene, matches};
use crate::answer::{Failure, blocking};
use crate::progress::Progress;
use crate::session::Selected;
use crate::view::windows;
use crate::wire::Wire;
use rookery_store::{Account, Message, StoreError};
use rookery_types::SeqNum;
use std::sync::Arc;

/// About how many octets are read between two looks at the runtime.
const BATCH_OCTETS: u64 = 4 << 20;
/// Messages asked on one thread at once.
const BATCH_MESSAGES: usize = 512;

/// What is kept of each message that matches.
pub(crate) trait Hit: Send {
    fn new(seq: SeqNum, message: &Message) -> Self;
    /// Its place in the mailbox: the UID.
    fn place(&self) -> u32;
}

/// A message with its sequence number.
type Numbered = (SeqNum, Message);

/// A search under way.
pub(crate) struct Finding<'a> {
    pub(crate) wire: &'a mut Wire,
    pub(crate) progress: &'a mut Progress,
    pub(crate) selected: &'a Selected,
    pub(crate) texts: &'a HeaderTexts,
    pub(crate) key: Arc<Compiled>,
}

impl Finding<'_> {
    /// The messages that match, ascending, and how many could not be read.
    pub(crate) async fn all<H: Hit>(mut self) -> Result<(Vec<H>, usize), Failure> {
        let mut hits: Vec<H> = Vec::new();
        let mut unread = 0;
        let undecided = self.by_memory(&mut hits).await?;
        if undecided.is_empty() {
            return Ok((hits, 0));
        }
        let undecided = match self.key.mentions_fields() {
            true => self.by_fields(undecided, &mut hits, &mut unread).await?,
            false => undecided,
        };
        self.by_content(undecided, &mut hits, &mut unread).await?;
        hits.sort_unstable_by_key(Hit::place);
        Ok((hits, unread))
    }

    /// What memory knows. Gives what it does not.
    async fn by_memory<H: Hit>(&self, hits: &mut Vec<H>) -> Result<Vec<Numbered>, Failure> {
        let (_, newest) = self.selected.now();
        let everywhere = [self.selected.view.everywhere()];
        let scene = Scene { recent: self.selected.view.recent(), headers: None };
        let mut undecided = Vec::new();
        for window in windows(&everywhere) {
            self.selected.load(window.clone()).await?;
            self.selected.view.each(window, &newest, |seq, message| {
                match self.key.known(message, &scene) {
                    Some(true) => hits.push(H::new(seq, message)),
                    Some(false) => {}
                    None => undecided.push((seq, message.clone())),
                }
            })?;
            tokio::task::yield_now().await;
        }
        Ok(undecided)
    }

    /// What the fields know that are kept ready. Those of messages that nobody has looked at are read now.
    async fn by_fields<H: Hit>(
        &mut self,
        undecided: Vec<Numbered>,
        hits: &mut Vec<H>,
        unread: &mut usize,
    ) -> Result<Vec<Numbered>, Failure> {
        let mailbox = self.selected.mailbox.id();
        let mut headers = self.texts.known(mailbox, self.selected.view.messages().len());
        let mut at = 0;
        let missing: Vec<Numbered> = undecided
            .iter()
            .filter(|(_, message)| headers.row(message.uid.get(), &mut at).is_none())
            .cloned()
            .collect();
        if !missing.is_empty() {
            let work = |account: &Account, batch: Vec<Numbered>| {
                let messages: Vec<&Message> = batch.iter().map(|(_, message)| message).collect();
                read(account, &messages)
            };
            let read: Vec<Result<NewRow, StoreError>> = self.in_batches(missing, work).await?;
            let mut rows = Vec::with_capacity(read.len());
            for row in read {
                match row {
                    Ok(row) => rows.push(row),
                    Err(error) => {
                        note(&error);
                        *unread += 1;
                    }
                }
            }
            headers = self.texts.learn(mailbox, &headers, rows);
        }
        let mut at = 0;
        let mut rest = Vec::new();
        for (seq, message) in undecided {
            // A message without a row could not be read.
            let Some(row) = headers.row(message.uid.get(), &mut at) else { continue };
            let scene = Scene { recent: self.selected.view.recent(), headers: Some(row) };
            match self.key.known(&message, &scene) {
                Some(true) => hits.push(H::new(seq, &message)),
                Some(false) => {}
                None => rest.push((seq, message)),
            }
        }
        Ok(rest)
    }

    /// What only the content knows.
    async fn by_content<H: Hit>(
        &mut self,
        undecided: Vec<Numbered>,
        hits: &mut Vec<H>,
        unread: &mut usize,
    ) -> Result<(), Failure> {
        let recent = self.selected.view.recent().clone();
        let key = self.key.clone();
        let work = move |account: &Account, batch: Vec<Numbered>| {
            let messages: Vec<&Message> = batch.iter().map(|(_, message)| message).collect();
            let answers = matches(&key, account, &messages, &recent);
            batch.into_iter().zip(answers).collect::<Vec<_>>()
        };
        for ((seq, message), matches) in self.in_batches(undecided, work).await? {
            match matches {
                Ok(true) => hits.push(H::new(seq, &message)),
                Ok(false) => {}
                Err(error) => {
                    note(&error);
                    *unread += 1;
                }
            }
        }
        Ok(())
    }

    /// Work on messages in batches of bounded size, on two threads at a time.
    async fn in_batches<R: Send + 'static>(
        &mut self,
        messages: Vec<Numbered>,
        work: impl Fn(&Account, Vec<Numbered>) -> Vec<R> + Clone + Send + 'static,
    ) -> Result<Vec<R>, Failure> {
        let whole = messages.len();
        let mut done = 0;
        let mut results = Vec::with_capacity(whole);
        let mut rest = messages.into_iter();
        let mut batch = || {
            let mut octets = 0;
            let mut batch = Vec::new();
            while octets < BATCH_OCTETS && batch.len() < BATCH_MESSAGES {
                let Some((seq, message)) = rest.next() else { break };
                octets += u64::from(message.size);
                batch.push((seq, message));
            }
            batch
        };
        let account = self.selected.mailbox.account();
        let start = |batch: Vec<Numbered>| {
            let (account, work) = (account.clone(), work.clone());
            blocking(move || work(&account, batch))
        };
        loop {
            let (one, other) = (batch(), batch());
            if one.is_empty() {
                return Ok(results);
            }
            done += one.len() + other.len();
            let (one, other) = match other.is_empty() {
                true => (start(one).await?, Vec::new()),
                false => tokio::try_join!(start(one), start(other))?,
            };
            results.extend(one);
            results.extend(other);
            self.progress.note(self.wire, done, whole).await?;
        }
    }
}

fn note(error: &StoreError) {
    tracing::error!(error = error as &dyn std::error::Error, "a message cannot be searched");
}
