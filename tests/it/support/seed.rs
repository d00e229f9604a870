//! Randomness that can be had again: `SEED=<number> cargo test <name>`.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// The seed of `SEED`, or a new one, which is printed.
pub(crate) fn seeded() -> (u64, StdRng) {
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse().expect("SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("SEED={seed}");
    (seed, StdRng::seed_from_u64(seed))
}
