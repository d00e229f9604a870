//! The command `coupon`: see [`coupon_dispatcher::cli`] for its commands and exit codes.

use std::process::ExitCode;

use clap::Parser as _;
use coupon_dispatcher::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    let ended = Cli::parse().run().await;
    if let Some(message) = ended.message() {
        eprintln!("coupon: {message}");
    }
    ExitCode::from(ended.code())
}
