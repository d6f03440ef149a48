//! How many durable commits a second does one thread get out of the engine?
//!
//! Each commit is a batch of three puts of 150 octets, as in a small delivery. Run with
//! `cargo run --release -p rookery-kv --example commit_rate -- <folder> [seconds]`; the folder should lie on the disk
//! in question and is left as it is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::{Batch, Engine, Space};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("which folder?")?);
    let seconds = match arguments.next() {
        Some(text) => text.into_string().map_err(|_| "seconds are a number")?.parse()?,
        None => 5,
    };
    let engine = FjallEngine::open(&folder, FjallOptions::default())?;
    let begun = Instant::now();
    let mut number: u64 = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let mut batch = Batch::new();
        for space in [Space::Delta, Space::Log, Space::Content] {
            // Keys of a random mailbox, values that do not compress.
            let mut value = vec![0; 150];
            for (at, octets) in value.chunks_mut(8).enumerate() {
                let random = scramble(number * 64 + at as u64).to_le_bytes();
                octets.copy_from_slice(random.get(..octets.len()).unwrap_or_default());
            }
            let key = [scramble(number).to_be_bytes(), number.to_be_bytes()].concat();
            batch.put(space, key, value);
        }
        engine.commit(batch)?;
        number += 1;
    }
    let rate = number as f64 / begun.elapsed().as_secs_f64();
    #[expect(clippy::print_stdout, reason = "the answer")]
    {
        println!("{}: {rate:.0} commits/s, {} octets on disk", engine.name(), engine.disk_octets());
    }
    Ok(())
}

fn scramble(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}
