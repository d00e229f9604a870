//! The command `coupon`: see [`coupon_dispatcher::cli`] for its commands and exit codes.

use std::io;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Parser as _;
use coupon_dispatcher::cli::Cli;
use mimalloc::MiMalloc;
use tokio::runtime::{Builder, Runtime};

/// A fifth of the service's time was spent in the system's allocator: see `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("coupon: start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(cli.run());
    if let Some(message) = ended.message() {
        eprintln!("coupon: {message}");
    }
    ExitCode::from(ended.code())
}

/// A thread for every two processors: HTTP has threads of its own, and more of these wake each other more often. On two
/// processors the service took 5 % less time for an issue with one thread than with two.
fn runtime() -> io::Result<Runtime> {
    let threads = available_parallelism().map_or(1, |processors| processors.get().div_ceil(2));
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}
