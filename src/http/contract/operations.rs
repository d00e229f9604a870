//! What the document says about each operation beyond what its row in the table of routes says.

use super::super::problem_kind::ProblemKind;

/// An operation.
pub(super) struct Operation {
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// Names of parameters of the query.
    pub(super) query: &'static [&'static str],
    /// Names of headers of its own.
    pub(super) headers: &'static [&'static str],
    /// The schema of the body of the request.
    pub(super) body: Option<&'static str>,
    pub(super) answers: &'static [Answer],
    /// Refusals that do not follow from the row of the route.
    pub(super) problems: &'static [ProblemKind],
}

/// An answer that is not a problem: its status, and its body.
pub(super) struct Answer(pub(super) u16, pub(super) Content);

/// The body of an answer.
pub(super) enum Content {
    /// JSON of a schema.
    Json(&'static str),
    /// Text of any of these media types, each with an example in which `…` stands for more.
    Text(&'static [(&'static str, &'static str)]),
    /// JSON of any shape, with an example of a member.
    Object(&'static str, &'static str),
}

const HTML: (&str, &str) = ("text/html; charset=utf-8", "<!doctype html>\n<html lang=\"en\">\n…");
const METRICS: &str = "# HELP outbox_sampled 1 if the gauges of the outbox are current.\n# TYPE outbox_sampled gauge\n\
                       outbox_sampled 1\n…# EOF\n";

/// An operation that takes nothing and answers 200.
const fn plain(id: &'static str, summary: &'static str, answers: &'static [Answer]) -> Operation {
    Operation { id, summary, query: &[], headers: &[], body: None, answers, problems: &[] }
}

/// Why a coupon may not be redeemed.
const REDEMPTION_PROBLEMS: &[ProblemKind] = &[
    ProblemKind::AlreadyRedeemed,
    ProblemKind::Cancelled,
    ProblemKind::Expired,
    ProblemKind::OrderRefUsed,
    ProblemKind::CouponMismatch,
    ProblemKind::AmountTooHigh,
    ProblemKind::Overloaded,
];

/// Every operation, in the order of the table of routes.
pub(super) static OPERATIONS: [Operation; 26] = [
    plain(
        "live",
        "Says that the process runs",
        &[Answer(200, Content::Text(&[("text/plain; charset=utf-8", "ok")]))],
    ),
    plain("showDocs", "Describes the API for people", &[Answer(200, Content::Text(&[HTML]))]),
    plain(
        "listProblems",
        "Lists all types of problems",
        &[Answer(
            200,
            Content::Text(&[
                ("text/plain; charset=utf-8", "400 malformed-request: The request cannot be read\n…"),
                HTML,
            ]),
        )],
    ),
    Operation {
        problems: &[ProblemKind::NotFound],
        ..plain(
            "showProblem",
            "Tells the cause of a problem, what to do, and whether a retry is safe",
            &[Answer(
                200,
                Content::Text(&[
                    ("text/plain; charset=utf-8", "Not found\nStatus 404, slug not-found\n\nCause\n…"),
                    HTML,
                ]),
            )],
        )
    },
    plain("describeApi", "Returns this document", &[Answer(200, Content::Object("openapi", "3.1.0"))]),
    plain(
        "describeEvents",
        "Returns the AsyncAPI document of the events that the service publishes",
        &[Answer(200, Content::Object("asyncapi", "3.0.0"))],
    ),
    plain(
        "ready",
        "Says whether the process can serve, and what is away",
        &[Answer(200, Content::Json("Readiness")), Answer(503, Content::Json("Readiness"))],
    ),
    Operation {
        problems: &[ProblemKind::Internal, ProblemKind::StorageUnavailable],
        ..plain(
            "metrics",
            "Returns what the process measures, as OpenMetrics text",
            &[Answer(
                200,
                Content::Text(&[("application/openmetrics-text; version=1.0.0; charset=utf-8", METRICS)]),
            )],
        )
    },
    Operation {
        body: Some("NewCampaign"),
        ..plain("createCampaign", "Creates a campaign, as a draft", &[Answer(201, Content::Json("Campaign"))])
    },
    Operation {
        query: &["state", "cursor", "limit"],
        ..plain(
            "listCampaigns",
            "Lists campaigns, the newest first",
            &[Answer(200, Content::Json("CampaignPage"))],
        )
    },
    plain("showCampaign", "Shows a campaign and its counts", &[Answer(200, Content::Json("Campaign"))]),
    Operation {
        body: Some("CampaignEdit"),
        headers: &["If-Match"],
        problems: &[ProblemKind::NotEditableInState, ProblemKind::VersionMismatch],
        ..plain(
            "editCampaign",
            "Changes fields of a campaign, as far as its state allows",
            &[Answer(200, Content::Json("Campaign"))],
        )
    },
    Operation {
        body: Some("Nothing"),
        problems: &[ProblemKind::NotAllowedInState],
        ..plain(
            "openCampaign",
            "Opens a campaign, at once or at its opens_at",
            &[Answer(200, Content::Json("Campaign"))],
        )
    },
    Operation {
        body: Some("Nothing"),
        problems: &[ProblemKind::NotAllowedInState],
        ..plain(
            "pauseCampaign",
            "Stops the claims of an open campaign, until it is opened again",
            &[Answer(200, Content::Json("Campaign"))],
        )
    },
    Operation {
        body: Some("Nothing"),
        problems: &[ProblemKind::NotAllowedInState],
        ..plain("closeCampaign", "Closes a campaign for ever", &[Answer(200, Content::Json("Campaign"))])
    },
    Operation {
        query: &["cursor", "limit"],
        ..plain(
            "listChanges",
            "Lists what was changed of a campaign, by whom and when, the newest first",
            &[Answer(200, Content::Json("ChangePage"))],
        )
    },
    Operation {
        body: Some("Nothing"),
        problems: &[ProblemKind::GateUnavailable],
        ..plain(
            "syncCampaign",
            "Compares the seats of a campaign in Redis with Postgres, and loads them again",
            &[Answer(200, Content::Json("Sync"))],
        )
    },
    Operation {
        body: Some("Claim"),
        problems: &[
            ProblemKind::AlreadyIssued,
            ProblemKind::UserLimitReached,
            ProblemKind::SoldOut,
            ProblemKind::NotOpen,
            ProblemKind::Closed,
            ProblemKind::IdempotencyKeyRequired,
            ProblemKind::GateUnavailable,
            ProblemKind::Overloaded,
        ],
        ..plain("claimCoupon", "Claims a coupon for a user", &[Answer(201, Content::Json("Coupon"))])
    },
    Operation {
        query: &["code"],
        ..plain("findCoupon", "Finds the coupon with a code", &[Answer(200, Content::Json("CouponPage"))])
    },
    plain("showCoupon", "Shows a coupon", &[Answer(200, Content::Json("Coupon"))]),
    Operation {
        body: Some("Redemption"),
        query: &["dry_run"],
        problems: REDEMPTION_PROBLEMS,
        ..plain(
            "redeemCoupon",
            "Redeems a coupon for an order, or tries whether it can be",
            &[Answer(200, Content::Json("RedemptionAnswer"))],
        )
    },
    Operation {
        body: Some("RedemptionByCode"),
        query: &["dry_run"],
        problems: REDEMPTION_PROBLEMS,
        ..plain(
            "redeemCode",
            "Redeems the coupon with a code for an order, or tries whether it can be",
            &[Answer(200, Content::Json("RedemptionAnswer"))],
        )
    },
    Operation {
        body: Some("Restoration"),
        problems: &[ProblemKind::NotRedeemed, ProblemKind::CouponMismatch, ProblemKind::Overloaded],
        ..plain(
            "restoreCoupon",
            "Takes back the redemption of a coupon, when its order is refunded",
            &[Answer(200, Content::Json("CouponChange"))],
        )
    },
    Operation {
        body: Some("Nothing"),
        problems: &[
            ProblemKind::AlreadyRedeemed,
            ProblemKind::Cancelled,
            ProblemKind::Expired,
            ProblemKind::Overloaded,
        ],
        ..plain("cancelCoupon", "Cancels a coupon for ever", &[Answer(200, Content::Json("CouponChange"))])
    },
    Operation {
        query: &["cursor", "limit"],
        ..plain(
            "listCouponChanges",
            "Lists what became of a coupon, by whom and when, the newest first",
            &[Answer(200, Content::Json("CouponChangePage"))],
        )
    },
    Operation {
        query: &["status", "cursor", "limit"],
        ..plain(
            "listCouponsOfUser",
            "Lists a user's coupons from the wallet, the newest first",
            &[Answer(200, Content::Json("WalletPage"))],
        )
    },
];
