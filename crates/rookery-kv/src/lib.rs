//! What the mail store rests on: an ordered key-value engine for metadata and a layer of append-only files for
//! message bodies, each in a real form and in a simulated one that loses power.
//!
//! Invariants:
//! - Nothing here knows what a key, a value or a file means; formats and versions belong to the store.
//! - A commit that returned `Ok` survives the loss of power; one that returned an error may or may not.
//! - After a failed commit an engine takes no further one: what the disk holds is known only after reopening.
//! - Everything simulated hangs on one [`sim::SimDisk`], so that one loss of power hits engine and files alike,
//!   and everything it does follows from its seed.

#[cfg(feature = "sim")]
pub mod defect;
pub mod engine;
pub mod files;
pub mod fjall_engine;
pub mod lock;
pub mod memory;
mod off_thread;
#[cfg(feature = "redb")]
pub mod redb_engine;
pub mod sim;
mod stable;

pub use engine::{Batch, Bytes, Engine, EngineError, Op, Read, Space, prefix_end};
pub use files::{FileLayer, RealFiles, VolumeFile};
pub use off_thread::{CutOff, off_thread};
