//! The commands of `coupon`: a file each, called by `main` alone.
//!
//! A command prints its result on standard output (with `--json` as one line of JSON), its progress and its errors on
//! standard error, and returns [`Ended`], which decides the exit code:
//!
//! | code | `audit` | `doctor` | `rebuild`, `demo` | `replay` | `grant` | `serve` and all others |
//! |---|---|---|---|---|---|---|
//! | 0 | balanced | nothing is bad | done, and balanced | done | every line has an answer | done |
//! | 1 | not balanced | something is bad | failed, or not balanced | failed | failed | failed |
//! | 2 | could not tell | could not tell | wrong usage or configuration | as left | as left | as left |
//! | 3 | | | | stopped or cancelled | stopped | |
//! | 4 | | | | another replay is running | | |
//! | 5 | | | | no event matches | | |
//! | 6 | | | | | token refused by the API | token refused by the API |
//! | 7 | | | | | campaign not found by the API | not found by the API |
//! | 8 | | | | | API away, or lines without an answer | API away or overloaded |
//!
//! Wrong usage and a wrong configuration, found before anything connects, are 2 for every command, and so is a question
//! that was not answered with yes.

mod api;
mod assets;
mod asyncapi;
mod audit;
mod campaign;
mod confirm;
mod coupon;
mod dead;
mod demo;
mod doctor;
mod ended;
mod grant;
mod lifecycle;
mod logs;
mod migrate;
mod openapi;
mod print;
mod rebuild;
mod relay;
pub mod replay;
mod serve;
mod status;
mod stop;
mod token;
mod user;

use std::env;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::ended::CODES;
pub use self::ended::Ended;
use crate::client::Client;
use crate::config::{Config, ConfigError, Needs, VARIABLES};
use crate::storage::of_postgres;

/// Limited coupons, first come, first served.
#[derive(Debug, Parser)]
#[command(name = "coupon", version, after_long_help = help())]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or Ctrl-C. Example: coupon serve --roles api,relay
    Serve(serve::Arguments),
    /// Apply the migrations. Example: SHARDS=4 coupon migrate
    Migrate,
    /// Run everything on private servers. Example: coupon demo --coupons 1000 --users 5000
    ///
    /// Starts Postgres, Redis and NATS on free ports, lets users claim coupons over HTTP, and audits. Everything is gone
    /// afterwards, unless --data names a folder. The programs are those on the PATH or in Debian's folders, or those that `POSTGRES`, `REDIS_SERVER` and `NATS_SERVER` name.
    Demo(demo::Arguments),
    /// Create, list, show, edit, open, pause, sync and close campaigns through the API. Example: coupon campaign list
    Campaign(campaign::Arguments),
    /// Show one coupon, through the API. Example: coupon show 01M7WFKGE14NWN561KVXBYTJTY
    Show(coupon::ShowArguments),
    /// Find a coupon by its code, or the coupons of a user, through the API. Example: coupon find --user alice
    ///
    /// For a user it reads the wallet, which follows the coupons within some hundredths of a second, then each coupon.
    Find(coupon::FindArguments),
    #[command(flatten)]
    Change(lifecycle::Action),
    /// Show what a user holds, through the API. Example: coupon user coupons alice
    User(user::Arguments),
    /// Give coupons of a campaign to many users, from a file, through the API. Example: coupon grant --campaign 01M7WFKG18ZXF910ZZ3NJPGCJX --results results.csv users.csv
    ///
    /// Each line of the file is a claim, and gets a line in the results file. After an end of any kind --resume goes on
    /// behind the last result. No line gets a second coupon, as long as users, campaign, run and token are the same.
    /// Exit codes: 0 every line has an answer, whatever it is, 3 stopped, 8 lines without an answer.
    Grant(grant::Arguments),
    /// Publish events again, to subjects of their own. Example: coupon replay --type issued --dry-run
    ///
    /// Ctrl-C stops a run, and --resume continues it. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped or
    /// cancelled, 4 another replay is running, 5 no event matches.
    Replay(replay::ReplayArgs),
    /// Rebuild a projection from its events, and audit. Readers keep the old one until the new one has caught up.
    /// Example: coupon rebuild wallet
    Rebuild(rebuild::Arguments),
    /// Decide for a relay what it cannot decide itself. Example: coupon relay epoch new --shard 0
    Relay(relay::Arguments),
    /// List, show, redrive and drop events that a projection could not apply. Example: coupon dead list
    Dead(dead::Arguments),
    /// Create, list, revoke and rotate API tokens. Example: coupon token create --name shop --scope issue
    Token(token::Arguments),
    /// Show campaigns, waiting events, active relays, halts and parked events. Example: coupon status --watch
    ///
    /// It asks Postgres and NATS and not the API, so it works while the API is away. A rate is in coupons a second, over
    /// one second, or over two with --watch.
    Status(status::Arguments),
    /// Prove that gate, coupons, outbox, stream and projections agree. Example: coupon audit --full
    ///
    /// The quick audit reads ends and counts that the servers keep. It checks that no campaign has numbered more coupons
    /// than its quantity, that gate and stream have the same number, that the stream ends where the outbox ends and lacks no
    /// position, and that the projections have reached the end. It misses a row that was changed, exchanged or deleted
    /// from the middle of a table, and counts no rows: those columns of the sheet show `-`. The full audit compares every
    /// event, seat and row, and counts them. Exit codes: 0 balanced, 1 not balanced, 2 could not tell.
    Audit(audit::Arguments),
    /// Check whether Redis, Postgres and NATS are set up as the guarantees need them. Example: coupon doctor --json
    ///
    /// It only reads. Each check prints a line: its health (ok; warn: the guarantees hold, something else is weaker; bad:
    /// a guarantee is at risk; unknown: the check failed), what it found, why that matters and what to do. Use a login
    /// that may read every setting. Exit codes: 0 nothing is bad, 1 something is bad, 2 could not tell.
    Doctor(doctor::Arguments),
    /// Describe the API for programs, as a document in JSON. Example: coupon openapi > openapi.json
    Openapi,
    /// Describe the events for programs, as a document in JSON. Example: coupon asyncapi > asyncapi.json
    Asyncapi,
    /// Write completions for bash, fish and zsh, and man pages. Example: coupon assets /usr/local/share/coupon
    Assets(assets::Arguments),
}

impl Cli {
    /// Starts the logs, and runs the command to its end.
    pub async fn run(self) -> Ended {
        let _logs = match logs::start(self.command.log_level(), variable) {
            Ok(logs) => logs,
            Err(error) => return Ended::Misconfigured(error.and(self.command.other_problems())),
        };
        self.command.run().await.unwrap_or_else(Ended::Failed)
    }
}

impl Command {
    /// From which level on it logs, unless `RUST_LOG` says otherwise.
    fn log_level(&self) -> &'static str {
        match self {
            Self::Serve(_) | Self::Migrate => "info",
            // Servers that start and end give cause for warnings that tell a user of the demo nothing.
            Self::Demo(_) => "error",
            _ => "warn",
        }
    }

    /// What is wrong with the variables that it reads, apart from `RUST_LOG`.
    fn other_problems(&self) -> Option<ConfigError> {
        match self {
            Self::Demo(_) | Self::Assets(_) | Self::Openapi | Self::Asyncapi => None, // they need none
            Self::Campaign(campaign::Arguments { api, .. })
            | Self::Show(coupon::ShowArguments { api, .. })
            | Self::Find(coupon::FindArguments { api, .. })
            | Self::User(user::Arguments { api, .. })
            | Self::Grant(grant::Arguments { api, .. }) => api.client(variable).err(),
            Self::Change(action) => action.api().client(variable).err(),
            _ => Config::read_for(self.needs(), variable).err(),
        }
    }

    /// The servers without whose variables it does not start.
    fn needs(&self) -> Needs {
        match self {
            Self::Migrate | Self::Token(_) => Needs::Postgres,
            Self::Relay(_) | Self::Dead(_) | Self::Replay(_) | Self::Status(_) => Needs::PostgresAndNats,
            Self::Serve(arguments) => arguments.needs(),
            _ => Needs::All,
        }
    }

    async fn run(self) -> anyhow::Result<Ended> {
        let needs = self.needs();
        match self {
            Self::Serve(arguments) => {
                configured(needs, async |config| serve::run(arguments, &config).await).await
            }
            Self::Migrate => configured(needs, async |config| migrate::run(&config).await).await,
            Self::Demo(arguments) => demo::run(arguments).await,
            Self::Campaign(arguments) => {
                reaching(arguments.api.client(variable), async |api| campaign::run(arguments, &api).await)
                    .await
            }
            Self::Show(arguments) => {
                reaching(arguments.api.client(variable), async |api| coupon::show(arguments, &api).await)
                    .await
            }
            Self::Find(arguments) => {
                reaching(arguments.api.client(variable), async |api| coupon::find(arguments, &api).await)
                    .await
            }
            Self::Change(action) => {
                reaching(action.api().client(variable), async |api| action.run(&api).await).await
            }
            Self::User(arguments) => {
                reaching(arguments.api.client(variable), async |api| user::run(arguments, &api).await).await
            }
            Self::Grant(arguments) => {
                reaching(arguments.api.client(variable), async |api| grant::run(arguments, &api).await).await
            }
            Self::Replay(arguments) => {
                configured(needs, async |config| replay::run(arguments, &config).await).await
            }
            Self::Rebuild(arguments) => {
                configured(needs, async |config| rebuild::run(arguments, &config).await).await
            }
            Self::Relay(arguments) => {
                configured(needs, async |config| relay::run(arguments, &config).await).await
            }
            Self::Dead(arguments) => {
                configured(needs, async |config| dead::run(arguments, &config).await).await
            }
            Self::Token(arguments) => {
                configured(needs, async |config| token::run(arguments, &config).await).await
            }
            Self::Audit(arguments) => {
                configured(needs, async |config| Ok(audit::run(&arguments, &config).await)).await
            }
            Self::Status(arguments) => {
                configured(needs, async |config| status::run(arguments, &config).await).await
            }
            Self::Openapi => openapi::run(),
            Self::Asyncapi => asyncapi::run(),
            Self::Assets(arguments) => assets::run(&arguments, Cli::command().disable_help_subcommand(true)),
            Self::Doctor(arguments) => {
                configured(needs, async |config| Ok(doctor::run(&arguments, &config).await)).await
            }
        }
    }
}

/// Runs a command that needs the configuration of these servers.
async fn configured(
    needs: Needs,
    command: impl AsyncFnOnce(Config) -> anyhow::Result<Ended>,
) -> anyhow::Result<Ended> {
    match Config::read_for(needs, variable) {
        Ok(config) => command(config).await.map_err(advised),
        Err(error) => Ok(Ended::Misconfigured(error)),
    }
}

/// What to do about a login that may not do what the command does (`insufficient_privilege` in Postgres).
fn advised(error: anyhow::Error) -> anyhow::Error {
    let failed = of_postgres(error.as_ref()).and_then(sqlx::Error::as_database_error);
    if failed.and_then(sqlx::error::DatabaseError::code).is_none_or(|code| code != "42501") {
        return error;
    }
    error.context(
        "the login in DATABASE_URL lacks a right that this command needs (docs/how-to/least-privilege.md has the login of each)",
    )
}

/// Runs a command that calls the API.
async fn reaching(
    api: Result<Client, ConfigError>,
    command: impl AsyncFnOnce(Client) -> anyhow::Result<Ended>,
) -> anyhow::Result<Ended> {
    match api {
        Ok(api) => command(api).await,
        Err(error) => Ok(Ended::Misconfigured(error)),
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// The end of `coupon --help`: variables and exit codes, from their tables.
fn help() -> String {
    let width = VARIABLES.iter().map(|variable| variable.name.len()).max().unwrap_or_default();
    let variables = VARIABLES.iter().map(|variable| {
        let default = variable.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        format!("\n  {:<width$} {}{default}", variable.name, variable.about)
    });
    let codes = CODES.iter().map(|(code, when)| format!("\n  {code}  {when}"));
    format!("Environment:{}\n\nExit codes:{}", variables.collect::<String>(), codes.collect::<String>())
}
