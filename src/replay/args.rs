//! What the replay command can be told.

use std::num::NonZeroU32;

use clap::Args;
use clap::builder::PossibleValuesParser;
use outbox_relay::replay::{RunId, Selection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event;
use crate::ids::CampaignId;

/// Fields of the data of events: who holds the coupon, and whose campaign it is.
const USER_FIELD: &str = "user_id";
const MERCHANT_FIELD: &str = "merchant_id";

/// Of a replay that is to be started, or of runs that are there.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    selected: SelectionArgs,
    /// Name of the run, 1 to 48 letters, digits and hyphens; a new one if not given.
    #[arg(long)]
    pub(super) run: Option<RunId>,
    /// Events a second; 0, or not given, is as fast as it goes. With --resume: another than before.
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(super) rate: Option<u32>,
    /// Only print the plan.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Go on with a run that was cut off or stopped.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["SelectionArgs", "run", "dry_run"])]
    pub(super) resume: Option<RunId>,
    /// End a run for ever and remove its messages from the stream.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["SelectionArgs", "run", "rate", "dry_run", "resume"])]
    pub(super) cancel: Option<RunId>,
    /// List the runs, the newest first.
    #[arg(long, conflicts_with_all = ["SelectionArgs", "run", "rate", "dry_run", "resume", "cancel"])]
    pub(super) list: bool,
    #[arg(long)]
    pub(super) json: bool,
}

/// Which events; all that is given holds at once.
#[derive(Debug, Args)]
struct SelectionArgs {
    /// Only of this campaign; may be given again.
    #[arg(long, value_name = "ID")]
    campaign: Vec<CampaignId>,
    /// Only of this type; may be given again.
    #[arg(long = "type", value_parser = PossibleValuesParser::new(event::KINDS))]
    kind: Vec<String>,
    /// Only of this user, so only coupons.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Only of this merchant.
    #[arg(long, value_name = "ID")]
    merchant: Option<String>,
    /// First position.
    #[arg(long, value_name = "POSITION")]
    from: Option<i64>,
    /// Last position.
    #[arg(long, value_name = "POSITION")]
    to: Option<i64>,
    /// Committed at or after, such as 2026-11-20T18:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Committed before.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<OffsetDateTime>,
}

fn parse_time(text: &str) -> Result<OffsetDateTime, time::error::Parse> {
    OffsetDateTime::parse(text, &Rfc3339)
}

impl ReplayArgs {
    /// Nothing is as fast as it goes.
    pub(super) fn rate(&self) -> Option<NonZeroU32> {
        self.rate.and_then(NonZeroU32::new)
    }

    /// Which events are asked for.
    #[must_use]
    pub fn selection(&self) -> Selection {
        let SelectionArgs { campaign, kind, user, merchant, from, to, since, until } = &self.selected;
        let field = |name: &str, value: &Option<String>| Some((name.to_owned(), value.clone()?));
        let fields = [field(USER_FIELD, user), field(MERCHANT_FIELD, merchant)];
        Selection {
            kinds: kind.clone(),
            keys: campaign.iter().map(ToString::to_string).collect(),
            fields: fields.into_iter().flatten().collect(),
            from: *from,
            to: *to,
            since: *since,
            until: *until,
        }
    }
}
