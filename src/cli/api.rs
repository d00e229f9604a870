//! The options of commands that call the API.

use clap::Args;

use crate::client::Client;
use crate::config::{Access, ConfigError};

/// Where these options stand in a help text: behind those of the command itself.
const LAST: usize = 1_000;

#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// URL of the API, such as `https://coupons.example.com`; by default `COUPON_URL`, or else http:// and `HTTP_ADDR`.
    #[arg(long, global = true, display_order = LAST)]
    url: Option<String>,
    /// File with the token; by default the token is in `COUPON_TOKEN` or, without that, in `ADMIN_TOKEN`.
    #[arg(long, global = true, value_name = "FILE", display_order = LAST)]
    token_file: Option<String>,
}

impl ApiArgs {
    /// A client of the API. It has not connected. `variable` looks up variables of the environment.
    ///
    /// # Errors
    /// Names every variable and option that is missing or wrong.
    pub(super) fn client(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Client, ConfigError> {
        let Self { url, token_file } = self;
        Access::read(url.as_deref(), token_file.as_deref(), variable).map(Client::of)
    }
}
