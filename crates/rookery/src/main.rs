//! The program: command line, configuration, wiring, signals.

mod config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let _ = config::load(None).map(|l| config::show(&l));
}
