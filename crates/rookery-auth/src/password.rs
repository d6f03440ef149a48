//! Passwords against verifiers, and new ones made with Argon2id (RFC 9106), on threads of its own.
//!
//! Invariants:
//! - At most `workers` hashes run at once, and what they need of memory is at most `memory_kib_max` together: one
//!   whose verifier asks for more waits until others are done.
//! - At most `queue_max` jobs wait; what is more is answered `Busy`, never put off without an end.
//! - A job whose asker is gone is not run.
//! - Waiting jobs take turns (see [`Lane`]).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::queue::{FairQueue, QueueLimits};
use crate::throttle::Source;
use crate::verifier::{self, MEMORY_KIB_MAX, PASSES_MAX, Scratch};

/// Octets in the longest password. Longer ones are wrong without being looked at.
pub const PASSWORD_OCTETS_MAX: usize = 1024;

/// The iterations of new SCRAM keys, unless set. A client computes them at every login, this server once.
pub const SCRAM_ITERATIONS: u32 = 15_000;

/// A password on its way. Its memory is wiped when it is dropped, and it is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Copies the octets.
    pub fn new(octets: &[u8]) -> Password {
        Password(Zeroizing::new(octets.to_vec()))
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// What a new verifier costs. Verifiers carry their own parameters, so a change holds for new ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashParams {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes. They are computed one after another.
    pub lanes: u32,
}

impl Default for HashParams {
    fn default() -> HashParams {
        HashParams { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

/// How a [`Hasher`] is set up.
#[derive(Clone, Copy, Debug)]
pub struct HasherOptions {
    /// Threads that hash; as many as there are processors, unless set. Fewer if `memory_kib_max` is not enough.
    pub workers: usize,
    /// Memory that hashes under way may take together, in KiB, and so the most that one verifier may ask for.
    pub memory_kib_max: u32,
    /// What new verifiers cost.
    pub params: HashParams,
    /// The iterations of the SCRAM-SHA-256 keys that new verifiers have beside the hash; 0: they have none.
    pub scram_iterations: u32,
    /// Jobs that may wait.
    pub queue_max: usize,
    /// Jobs of one source that may wait. Above the unauthenticated connections one address may have, so that
    /// no address can fill its own part and shut out those behind it.
    pub queue_per_source_max: usize,
}

impl Default for HasherOptions {
    fn default() -> HasherOptions {
        HasherOptions {
            workers: thread::available_parallelism().map_or(2, usize::from),
            memory_kib_max: MEMORY_KIB_MAX,
            params: HashParams::default(),
            scram_iterations: SCRAM_ITERATIONS,
            queue_max: 8192,
            queue_per_source_max: 1024,
        }
    }
}

/// Why no answer was computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Too many jobs wait already.
    #[error("too many passwords are being checked")]
    Busy,
    /// The verifier is none that this server understands. The text says why, without the verifier.
    #[error("the verifier cannot be used: {0}")]
    BadVerifier(&'static str),
    /// The parameters, the password's length or the system do not allow to hash.
    #[error("the password cannot be hashed: {0}")]
    Failed(String),
}

/// Whose turn a job takes: sources take turns, and inside a source users.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// Where the asker is.
    pub source: Source,
    /// Which user is asked for, as any number that stands for them.
    pub user: u64,
    /// Whether the source may use half of the workers only.
    pub suspect: bool,
}

impl Lane {
    /// The administrator's own jobs.
    pub const LOCAL: Lane = Lane { source: Source::LOCAL, user: 0, suspect: false };
}

/// A service that hashes. Dropping it ends its threads once the jobs under way are done.
pub struct Hasher {
    shared: Arc<Shared>,
    workers: usize,
    /// A verifier that no password fits, for users that do not exist.
    dummy: String,
}

struct Shared {
    argon2: Argon2<'static>,
    scram_iterations: u32,
    memory: MemoryBudget,
    queue: Mutex<Queue>,
    wake: Condvar,
}

struct Queue {
    jobs: FairQueue<Job>,
    closed: bool,
}

enum Job {
    Verify { verifier: String, password: Password, answer: oneshot::Sender<Result<bool, HashError>> },
    Hash { password: Password, answer: oneshot::Sender<Result<String, HashError>> },
}

impl Hasher {
    /// Starts the threads.
    pub fn new(options: HasherOptions) -> Result<Hasher, HashError> {
        let HashParams { memory_kib, passes, lanes } = options.params;
        if memory_kib > options.memory_kib_max.min(MEMORY_KIB_MAX)
            || passes > PASSES_MAX
            || lanes > PASSES_MAX
        {
            return Err(HashError::Failed("the parameters are beyond their limits".to_owned()));
        }
        let params = Params::new(memory_kib, passes, lanes, None)
            .map_err(|error| HashError::Failed(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy = hash(&argon2, &rand::random::<[u8; 16]>())?;
        let hasher = Hasher::idle(argon2, dummy, options);
        for n in 0..hasher.workers {
            let shared = Arc::clone(&hasher.shared);
            thread::Builder::new()
                .name(format!("hash-{n}"))
                .spawn(move || shared.work())
                .map_err(|error| HashError::Failed(error.to_string()))?;
        }
        Ok(hasher)
    }

    fn idle(argon2: Argon2<'static>, dummy: String, options: HasherOptions) -> Hasher {
        let limits = QueueLimits { total: options.queue_max, per_source: options.queue_per_source_max };
        let queue = Mutex::new(Queue { jobs: FairQueue::new(limits), closed: false });
        let at_once = options.memory_kib_max / argon2.params().m_cost().max(1);
        let workers = options.workers.min(usize::try_from(at_once).unwrap_or(usize::MAX)).max(1);
        let shared = Arc::new(Shared {
            argon2,
            scram_iterations: options.scram_iterations,
            memory: MemoryBudget::new(options.memory_kib_max),
            queue,
            wake: Condvar::new(),
        });
        Hasher { shared, workers, dummy }
    }

    /// Whether a password fits a verifier. Safe to cancel: a job not yet begun is dropped then.
    pub async fn verify(&self, verifier: &str, password: &[u8]) -> Result<bool, HashError> {
        self.verify_in(Lane::LOCAL, verifier, password).await
    }

    /// The same, taking turns in a lane.
    pub async fn verify_in(&self, lane: Lane, verifier: &str, password: &[u8]) -> Result<bool, HashError> {
        let password = Password::new(password);
        let (answer, answered) = oneshot::channel();
        self.push(lane, Job::Verify { verifier: verifier.to_owned(), password, answer })?;
        answered.await.unwrap_or(Err(HashError::Busy))
    }

    /// Costs what [`verify_in`](Hasher::verify_in) costs for a verifier of this server, and is never right.
    pub async fn verify_dummy(&self, lane: Lane, password: &[u8]) -> Result<bool, HashError> {
        self.verify_in(lane, &self.dummy, password).await.map(|_| false)
    }

    /// The verifier that stands for users that do not exist. It differs in every process.
    pub fn dummy(&self) -> &str {
        &self.dummy
    }

    /// The iterations of new SCRAM keys, also where none are made: users without keys are shown this number.
    pub(crate) fn scram_iterations(&self) -> u32 {
        match self.shared.scram_iterations {
            0 => SCRAM_ITERATIONS,
            iterations => iterations.clamp(crate::scram::ITERATIONS_MIN, crate::scram::ITERATIONS_MAX),
        }
    }

    /// A new verifier for a password, with random salts: an Argon2id hash, and SCRAM keys unless they are off.
    pub async fn hash(&self, password: &[u8]) -> Result<String, HashError> {
        let (answer, answered) = oneshot::channel();
        self.push(Lane::LOCAL, Job::Hash { password: Password::new(password), answer })?;
        answered.await.unwrap_or(Err(HashError::Busy))
    }

    fn push(&self, lane: Lane, job: Job) -> Result<(), HashError> {
        let running_max = if lane.suspect { (self.workers / 2).max(1) } else { self.workers };
        let mut queue = self.shared.queue.lock();
        let pushed = queue.jobs.push(lane.source, lane.user, running_max, job);
        drop(queue);
        self.shared.wake.notify_one();
        pushed.map_err(|_| HashError::Busy)
    }

    /// Jobs waiting.
    pub fn waiting(&self) -> usize {
        self.shared.queue.lock().jobs.len()
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self) {
        let mut scratch = Scratch::new();
        let mut queue = self.queue.lock();
        while !queue.closed {
            let Some((source, job)) = queue.jobs.pop() else {
                // A server at rest holds none of it.
                scratch = Scratch::new();
                self.wake.wait(&mut queue);
                continue;
            };
            drop(queue);
            // A panic would be a bug of the hash function; it must not cost a worker and its place.
            let _ = catch_unwind(AssertUnwindSafe(|| self.run(job, &mut scratch)));
            queue = self.queue.lock();
            queue.jobs.done(source);
            // The place that came free may be what another worker's next job waits for.
            self.wake.notify_one();
        }
    }

    fn run(&self, job: Job, scratch: &mut Scratch) {
        // A failed send means that the asker has gone meanwhile.
        match job {
            Job::Verify { answer, .. } if answer.is_closed() => {}
            Job::Hash { answer, .. } if answer.is_closed() => {}
            Job::Verify { verifier, password, answer } => {
                let _ = answer.send(self.verify(&verifier, password.as_bytes(), scratch));
            }
            Job::Hash { password, answer } => {
                let _ = answer.send(self.hash(password.as_bytes()));
            }
        }
    }

    fn verify(&self, verifier: &str, password: &[u8], scratch: &mut Scratch) -> Result<bool, HashError> {
        let need = verifier::memory_kib(verifier);
        let _memory = self.memory.take(need)?;
        let checked = verifier::verify(verifier, password, scratch);
        if need > self.argon2.params().m_cost() {
            // More than hashes of our own need is not kept beyond what was taken for it.
            *scratch = Scratch::new();
        }
        checked
    }

    fn hash(&self, password: &[u8]) -> Result<String, HashError> {
        let _memory = self.memory.take(self.argon2.params().m_cost())?;
        Ok(verifier::with_scram(hash(&self.argon2, password)?, password, self.scram_iterations))
    }
}

/// Memory that is shared by what runs at the same time.
struct MemoryBudget {
    kib_max: u32,
    free: Mutex<u32>,
    freed: Condvar,
}

/// Some of a budget, until it is dropped.
struct Taken<'a>(&'a MemoryBudget, u32);

impl MemoryBudget {
    fn new(kib_max: u32) -> MemoryBudget {
        MemoryBudget { kib_max, free: Mutex::new(kib_max), freed: Condvar::new() }
    }

    /// Waits until there is so much.
    fn take(&self, kib: u32) -> Result<Taken<'_>, HashError> {
        if kib > self.kib_max {
            return Err(HashError::BadVerifier("its parameters are beyond the limits"));
        }
        let mut free = self.free.lock();
        self.freed.wait_while(&mut free, |free| *free < kib);
        *free -= kib;
        Ok(Taken(self, kib))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += self.1;
        self.0.freed.notify_all();
    }
}

fn hash(argon2: &Argon2<'_>, password: &[u8]) -> Result<String, HashError> {
    if password.is_empty() || password.len() > PASSWORD_OCTETS_MAX {
        return Err(HashError::Failed(format!("a password has 1 to {PASSWORD_OCTETS_MAX} octets")));
    }
    argon2
        .hash_password(password)
        .map(|hash| hash.to_string())
        .map_err(|error| HashError::Failed(error.to_string()))
}

#[cfg(test)]
pub(crate) mod simulated {
    //! A hasher under tokio's clock: a verifier is the password itself, and a check takes a given time.

    use std::time::Duration;

    use super::*;

    pub(crate) fn hasher(options: HasherOptions, cost: Duration) -> Hasher {
        let hasher = Hasher::idle(Argon2::default(), "\0".to_owned(), options);
        for _ in 0..hasher.workers {
            let shared = Arc::clone(&hasher.shared);
            tokio::spawn(async move {
                loop {
                    let popped = shared.queue.lock().jobs.pop();
                    let Some((source, job)) = popped else {
                        if shared.queue.lock().closed {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    };
                    if let Job::Verify { verifier, password, answer } = job {
                        tokio::time::sleep(cost).await;
                        let _ = answer.send(Ok(verifier.as_bytes() == password.as_bytes()));
                    }
                    shared.queue.lock().jobs.done(source);
                }
            });
        }
        hasher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> HasherOptions {
        let params = HashParams { memory_kib: 16, passes: 1, lanes: 1 };
        HasherOptions { workers: 2, params, scram_iterations: 4096, ..HasherOptions::default() }
    }

    #[tokio::test]
    async fn a_hash_verifies_its_password_alone() {
        let hasher = Hasher::new(cheap()).unwrap();
        let verifier = hasher.hash("pässwort".as_bytes()).await.unwrap();
        assert!(verifier.starts_with("$argon2id$v=19$m=16,t=1,p=1$"), "{verifier}");
        assert!(crate::verifier::scram_keys(&verifier).unwrap().fit("pässwort".as_bytes()));
        assert_ne!(hasher.hash("pässwort".as_bytes()).await.unwrap(), verifier, "salts differ");
        assert_eq!(hasher.verify(&verifier, "pässwort".as_bytes()).await, Ok(true));
        for wrong in ["passwort", "", "pässwort ", &"x".repeat(5000)] {
            assert_eq!(hasher.verify(&verifier, wrong.as_bytes()).await, Ok(false), "{wrong}");
        }
        assert_eq!(hasher.verify_dummy(Lane::LOCAL, b"x").await, Ok(false));
        assert!(hasher.hash(b"").await.is_err());
        assert!(hasher.hash(&[b'x'; 1025]).await.is_err());
    }

    #[tokio::test]
    async fn a_verifier_with_other_parameters_is_understood_and_a_bad_one_refused() {
        let hasher = Hasher::new(cheap()).unwrap();
        let params = HashParams { memory_kib: 64, passes: 3, lanes: 2 };
        let other = Hasher::new(HasherOptions { params, ..cheap() }).unwrap();
        let verifier = other.hash(b"secret").await.unwrap();
        assert_eq!(hasher.verify(&verifier, b"secret").await, Ok(true));
        let greedy = HashParams { memory_kib: 4096, passes: 1, lanes: 1 };
        let greedy =
            Hasher::new(HasherOptions { params: greedy, ..cheap() }).unwrap().hash(b"x").await.unwrap();
        let small = Hasher::new(HasherOptions { memory_kib_max: 1024, ..cheap() }).unwrap();
        for (hasher, bad) in [(&hasher, "{PLAIN"), (&small, greedy.as_str())] {
            let answer = hasher.verify(bad, b"x").await;
            assert!(matches!(answer, Err(HashError::BadVerifier(_))), "{bad:?} {answer:?}");
        }
        let params = HashParams { memory_kib: u32::MAX, passes: 1, lanes: 1 };
        assert!(Hasher::new(HasherOptions { params, ..cheap() }).is_err());
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_those_who_left_are_skipped() {
        // No thread works on this one.
        let hasher =
            Hasher::idle(Argon2::default(), String::new(), HasherOptions { queue_max: 3, ..cheap() });
        for _ in 0..3 {
            let gone = tokio::time::timeout(std::time::Duration::ZERO, hasher.hash(b"x")).await;
            assert!(gone.is_err());
        }
        assert_eq!(hasher.hash(b"x").await, Err(HashError::Busy));
        assert_eq!(hasher.waiting(), 3);
        let shared = Arc::clone(&hasher.shared);
        let worker = thread::spawn(move || shared.work());
        while hasher.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(hasher.hash(b"x").await.is_ok());
        drop(hasher);
        worker.join().unwrap();
    }

    #[tokio::test]
    async fn memory_is_shared_and_bounds_the_workers() {
        let params = HashParams { memory_kib: 1000, passes: 1, lanes: 1 };
        let hasher =
            Hasher::new(HasherOptions { workers: 64, memory_kib_max: 3100, params, ..cheap() }).unwrap();
        assert_eq!(hasher.workers, 3);
        let budget = &hasher.shared.memory;
        let taken = budget.take(3000).unwrap();
        assert_eq!(*budget.free.lock(), 100);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| drop(budget.take(200)));
            drop(taken);
            waiting.join().unwrap();
        });
        assert_eq!(*budget.free.lock(), 3100);
        assert!(budget.take(3101).is_err());
    }
}
