//! INPROGRESS (RFC 9585): a client that waits for long hears that its command is under way.

use crate::wire::Wire;
use rookery_codec::imap::{Code, Response, Tag};
use rookery_net::IoError;
use std::time::Duration;
use tokio::time::Instant;

/// How long a client waits until it hears something, and then again.
const INTERVAL: Duration = Duration::from_secs(5);

/// Of one command.
pub(crate) struct Progress {
    tag: Tag,
    next: Instant,
}

impl Progress {
    /// The command has begun.
    pub(crate) fn new(tag: &Tag) -> Progress {
        Progress { tag: tag.clone(), next: Instant::now() + INTERVAL }
    }

    /// So much of the whole is done. Tells it if it is time to.
    pub(crate) async fn note(&mut self, wire: &mut Wire, done: usize, whole: usize) -> Result<(), IoError> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.tell(wire, Some((done as u64, whole as u64))).await
    }

    /// Waits for work of which nobody knows how far it is. What has begun is awaited to its end, also when the client
    /// cannot be told any more.
    pub(crate) async fn during<T>(&mut self, wire: &mut Wire, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep_until(self.next) => {}
            }
            if self.tell(wire, None).await.is_err() {
                return work.await;
            }
        }
    }

    async fn tell(&mut self, wire: &mut Wire, counts: Option<(u64, u64)>) -> Result<(), IoError> {
        self.next = Instant::now() + INTERVAL;
        let (done, whole) = counts.unzip();
        let code = Code::InProgress(Some((self.tag.clone(), done, whole)));
        wire.put(&Response::ok_code(code, "Still at work"));
        wire.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rookery_codec::imap::server::Limits;
    use rookery_net::{Connection, Stream};
    use tokio::io::{AsyncReadExt, DuplexStream};

    fn wire() -> (Wire, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let limits = Limits { command_octets: 1, append_octets: 0, depth: 1, literal_minus: false };
        (Wire::new(Connection::new(Stream::from(theirs)), limits, Duration::from_secs(1), 0), ours)
    }

    async fn heard(wire: Wire, mut client: DuplexStream) -> String {
        drop(wire);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test(start_paused = true)]
    async fn long_work_is_told_of_and_short_work_is_not() {
        let (mut wire, client) = wire();
        let mut progress = Progress::new(&Tag::new(b"a1").unwrap());
        progress.during(&mut wire, tokio::time::sleep(Duration::from_secs(4))).await;
        progress.note(&mut wire, 1, 9).await.unwrap();
        progress.during(&mut wire, tokio::time::sleep(Duration::from_secs(8))).await;
        progress.note(&mut wire, 2, 9).await.unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        progress.note(&mut wire, 3, 9).await.unwrap();
        assert_eq!(
            heard(wire, client).await,
            "* OK [INPROGRESS (\"a1\" NIL NIL)] Still at work\r\n\
             * OK [INPROGRESS (\"a1\" NIL NIL)] Still at work\r\n\
             * OK [INPROGRESS (\"a1\" 3 9)] Still at work\r\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_done_though_nobody_listens() {
        let (mut wire, client) = wire();
        drop(client);
        let mut progress = Progress::new(&Tag::new(b"a1").unwrap());
        let work = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            7
        };
        assert_eq!(progress.during(&mut wire, work).await, 7);
    }
}
