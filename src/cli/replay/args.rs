//! The arguments of `coupon replay`.

use std::num::NonZeroU32;

use clap::Args;
use clap::builder::PossibleValuesParser;
use outbox_relay::replay::{RunId, Selection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::confirm::Confirmation;
use super::super::print::Output;
use crate::event;
use crate::ids::CampaignId;

/// Fields of an event's data: the user who holds the coupon, and the merchant whose campaign it is.
const USER_FIELD: &str = "user_id";
const MERCHANT_FIELD: &str = "merchant_id";

/// A replay to start, or earlier runs to resume, cancel or list.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    selected: SelectionArgs,
    /// Name of the run, 1 to 48 letters, digits and hyphens; a new ULID if not given.
    #[arg(long)]
    pub(super) run: Option<RunId>,
    /// Events a second; 0, or none given, is as fast as NATS confirms them. With --resume it replaces the rate of the run.
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(super) rate: Option<u32>,
    #[command(flatten)]
    pub(super) confirmation: Confirmation,
    /// Continue a run that was stopped or killed.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["SelectionArgs", "run", "dry_run"])]
    pub(super) resume: Option<RunId>,
    /// End a run for good, and remove its messages from the stream.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["SelectionArgs", "run", "rate", "resume"])]
    pub(super) cancel: Option<RunId>,
    /// List all runs, the newest first.
    #[arg(long, conflicts_with_all = ["SelectionArgs", "run", "rate", "dry_run", "resume", "cancel"])]
    pub(super) list: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Which events: an event must match every filter that is given.
#[derive(Debug, Args)]
struct SelectionArgs {
    /// Every event of the outbox.
    #[arg(long, conflicts_with_all = ["campaign", "kind", "user", "merchant", "from", "to", "since", "until"])]
    all: bool,
    /// Events of this campaign; repeat it for more.
    #[arg(long, value_name = "ID")]
    campaign: Vec<CampaignId>,
    /// Events of this type; repeat it for more.
    #[arg(long = "type", value_parser = PossibleValuesParser::new(event::KINDS))]
    kind: Vec<String>,
    /// Events of this user's coupons.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Events of this merchant's campaigns.
    #[arg(long, value_name = "ID")]
    merchant: Option<String>,
    /// First position, in the outbox of each shard; the first of all is 1.
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(1..))]
    from: Option<i64>,
    /// Last position, itself included.
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
    /// Events committed at or after this time, such as 2026-11-20T18:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Events committed before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<OffsetDateTime>,
}

fn parse_time(text: &str) -> Result<OffsetDateTime, time::error::Parse> {
    OffsetDateTime::parse(text, &Rfc3339)
}

impl ReplayArgs {
    /// Events a second; without a limit if `None`.
    pub(super) fn rate(&self) -> Option<NonZeroU32> {
        self.rate.and_then(NonZeroU32::new)
    }

    /// The campaigns whose events are selected; all if there are none.
    pub(super) fn campaigns(&self) -> &[CampaignId] {
        &self.selected.campaign
    }

    /// Whether a run of every event would begin, which nothing but `--yes` or a question confirms.
    pub(super) fn is_unselected(&self) -> bool {
        let begins =
            !(self.confirmation.dry_run || self.list || self.resume.is_some() || self.cancel.is_some());
        begins && !self.selected.all && self.selection() == Selection::default()
    }

    /// Why these arguments ask for nothing that can be done; `None` if they do.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let SelectionArgs { from, to, since, until, .. } = &self.selected;
        if from.zip(*to).is_some_and(|(from, to)| from > to) {
            return Some("--from is above --to: no position is in this range");
        }
        if since.zip(*until).is_some_and(|(since, until)| since >= until) {
            return Some("--since is not before --until: no time is in this range");
        }
        None
    }

    /// The filters, as the run keeps them.
    #[must_use]
    pub fn selection(&self) -> Selection {
        let SelectionArgs { campaign, kind, user, merchant, from, to, since, until, .. } = &self.selected;
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
