//! A queue in which nobody waits behind somebody else's crowd: sources take turns, and inside a source the
//! users asked for take turns.
//!
//! Invariants:
//! - `len` is the number of jobs that were pushed and not popped; it stays at or below the limit.
//! - A source is in `turns` exactly once while it has a job waiting.
//! - A lane exists only while it has jobs waiting or running.

use std::collections::{HashMap, VecDeque};

use crate::throttle::Source;

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) total: usize,
    pub(crate) per_source: usize,
}

pub(crate) struct FairQueue<T> {
    turns: VecDeque<Source>,
    lanes: HashMap<Source, SourceLane<T>>,
    len: usize,
    limits: QueueLimits,
}

struct SourceLane<T> {
    turns: VecDeque<u64>,
    users: HashMap<u64, VecDeque<T>>,
    len: usize,
    running: usize,
    running_max: usize,
}

/// The queue, or the part of it that one source may take, is full.
#[derive(Debug)]
pub(crate) struct Full;

impl<T> FairQueue<T> {
    pub(crate) fn new(limits: QueueLimits) -> FairQueue<T> {
        FairQueue { turns: VecDeque::new(), lanes: HashMap::new(), len: 0, limits }
    }

    /// Puts a job at the end of its user's line. `running_max` is how many jobs of the source may run at once
    /// from now on.
    pub(crate) fn push(&mut self, source: Source, user: u64, running_max: usize, job: T) -> Result<(), Full> {
        let waiting = self.lanes.get(&source).map_or(0, |lane| lane.len);
        if self.len >= self.limits.total || waiting >= self.limits.per_source {
            return Err(Full);
        }
        let lane = self.lanes.entry(source).or_insert_with(|| SourceLane {
            turns: VecDeque::new(),
            users: HashMap::new(),
            len: 0,
            running: 0,
            running_max: 0,
        });
        lane.running_max = running_max.max(1);
        if lane.len == 0 {
            self.turns.push_back(source);
        }
        let jobs = lane.users.entry(user).or_default();
        if jobs.is_empty() {
            lane.turns.push_back(user);
        }
        jobs.push_back(job);
        lane.len += 1;
        self.len += 1;
        Ok(())
    }

    /// The next job of the first source in turn that may run one more; `done` must follow.
    pub(crate) fn pop(&mut self) -> Option<(Source, T)> {
        for at in 0..self.turns.len() {
            let source = *self.turns.get(at)?;
            let lane = self.lanes.get_mut(&source)?;
            if lane.running >= lane.running_max {
                continue;
            }
            let user = lane.turns.pop_front()?;
            let jobs = lane.users.get_mut(&user)?;
            let job = jobs.pop_front()?;
            if jobs.is_empty() {
                lane.users.remove(&user);
            } else {
                lane.turns.push_back(user);
            }
            lane.len -= 1;
            lane.running += 1;
            self.len -= 1;
            self.turns.remove(at);
            if lane.len > 0 {
                self.turns.push_back(source);
            }
            return Some((source, job));
        }
        None
    }

    /// A job of this source has ended.
    pub(crate) fn done(&mut self, source: Source) {
        if let Some(lane) = self.lanes.get_mut(&source) {
            lane.running = lane.running.saturating_sub(1);
            if lane.running == 0 && lane.len == 0 {
                self.lanes.remove(&source);
            }
        }
    }

    /// Jobs waiting.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of(Some([192, 0, 2, last].into()))
    }

    fn queue() -> FairQueue<&'static str> {
        FairQueue::new(QueueLimits { total: 6, per_source: 5 })
    }

    #[test]
    fn sources_and_users_take_turns() {
        let mut queue = queue();
        for (from, user, job) in
            [(1, 1, "a1"), (1, 1, "a2"), (1, 1, "a3"), (1, 2, "b1"), (2, 1, "c1"), (2, 1, "c2")]
        {
            queue.push(source(from), user, 9, job).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, job)| job).collect();
        assert_eq!(order, ["a1", "c1", "b1", "c2", "a2", "a3"]);
    }

    #[test]
    fn a_source_runs_only_so_many() {
        let mut queue = queue();
        for job in ["a", "b", "c"] {
            queue.push(source(1), 1, 2, job).unwrap();
        }
        queue.push(source(2), 1, 2, "other").unwrap();
        let first: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, job)| job).collect();
        assert_eq!(first, ["a", "other", "b"]);
        queue.done(source(2));
        assert!(queue.pop().is_none());
        queue.done(source(1));
        assert_eq!(queue.pop().unwrap().1, "c");
        queue.done(source(1));
        queue.done(source(1));
        assert!(queue.lanes.is_empty() && queue.turns.is_empty() && queue.len() == 0);
    }

    #[test]
    fn it_is_bounded_in_all_and_for_each_source() {
        let mut queue = queue();
        for _ in 0..5 {
            queue.push(source(1), 1, 1, "x").unwrap();
        }
        assert!(queue.push(source(1), 2, 1, "x").is_err());
        queue.push(source(2), 1, 1, "x").unwrap();
        assert!(queue.push(source(3), 1, 1, "x").is_err());
        assert!(queue.lanes.len() == 2, "a refused push leaves nothing behind");
    }

    proptest::proptest! {
        #[test]
        fn everything_pushed_comes_out_once(steps in proptest::collection::vec((0u8..4, 0u64..3, 0u8..3), 0..200)) {
            let mut queue = FairQueue::new(QueueLimits { total: 20, per_source: 8 });
            let (mut pushed, mut popped, mut running) = (0, Vec::new(), Vec::new());
            for (from, user, action) in steps {
                match action {
                    0 => pushed += usize::from(queue.push(source(from), user, 2, pushed).is_ok()),
                    1 => if let Some((from, job)) = queue.pop() { popped.push(job); running.push(from); },
                    _ => if let Some(from) = running.pop() { queue.done(from); },
                }
                proptest::prop_assert_eq!(queue.len(), pushed - popped.len());
            }
            for from in running { queue.done(from); }
            while let Some((from, job)) = queue.pop() { popped.push(job); queue.done(from); }
            popped.sort_unstable();
            proptest::prop_assert_eq!(popped, (0..pushed).collect::<Vec<_>>());
            proptest::prop_assert!(queue.lanes.is_empty());
        }
    }
}
