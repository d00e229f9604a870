//! Problems: their schemas and examples, and which an operation may answer.

use serde_json::{Map, Value, json};

use super::super::problem::NOTHING_CHANGED;
use super::super::problem_kind::{About, ProblemKind};
use super::super::route::{Access, Load, Route};
use super::operations::Operation;
use super::{examples, reference};

/// A member of a problem beyond those that every problem has.
enum Member {
    Always(&'static str),
    Sometimes(&'static str),
}
use Member::{Always, Sometimes};

/// The name of the schema of a kind.
pub(super) fn name(kind: ProblemKind) -> String {
    format!("Problem.{}", kind.about().slug)
}

/// The schemas of all kinds.
pub(super) fn schemas() -> Map<String, Value> {
    ProblemKind::ALL.iter().map(|kind| (name(*kind), schema(*kind))).collect()
}

/// A problem of a kind, with all the members that it may have.
pub(super) fn example(kind: ProblemKind) -> Value {
    let About { status, path, title, .. } = kind.about();
    let mut example = json!({
        "type": path, "title": title, "status": status.as_u16(), "request_id": examples::REQUEST_ID,
    });
    for Always(name) | Sometimes(name) in members(kind) {
        example[*name] = match *name {
            "errors" => wrong(kind),
            "coupon" => examples::of("Coupon"),
            "opens_at" => json!("2026-11-27T18:00:00Z"),
            "reasons" => json!([reason(kind)]),
            "last_change" => examples::of("CouponChange"),
            _ => json!(detail(kind)),
        };
    }
    example
}

/// Why a coupon is not changed.
fn reason(kind: ProblemKind) -> &'static str {
    if kind == ProblemKind::CouponMismatch { "another-merchant" } else { kind.about().slug }
}

/// What may be wrong with the fields of a request.
fn wrong(kind: ProblemKind) -> Value {
    let (field, reason) = match kind {
        ProblemKind::MalformedRequest => ("Host", "is missing"),
        ProblemKind::UnsupportedMediaType => ("Content-Type", "must be application/json, in UTF-8"),
        ProblemKind::TooLarge => ("body", "must be at most 16384 bytes"),
        ProblemKind::NotEditableInState => ("opens_at", "is kept while the campaign is open"),
        ProblemKind::MalformedBody => ("user_id", "must be a string, not a number"),
        _ => ("currency", "must be a code of ISO 4217, such as EUR"),
    };
    let first = json!({ "field": field, "reason": reason });
    if kind == ProblemKind::Invalid { json!([first, examples::of("FieldProblem")]) } else { json!([first]) }
}

/// What a problem may say in words.
fn detail(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::NotAllowedInState => "a campaign that is closed cannot be opened",
        ProblemKind::VersionMismatch => "The campaign has version 2 now.",
        ProblemKind::StorageUnavailable => NOTHING_CHANGED,
        ProblemKind::TooManyRequests => "at most 1 requests of this caller a second, and 3 at once",
        ProblemKind::TooLarge => "at most 16384 bytes",
        _ => "No campaign has this id.",
    }
}

/// The problems that an operation may answer.
pub(super) fn of(route: &Route, operation: &Operation) -> Vec<ProblemKind> {
    use ProblemKind as Kind;
    let mut kinds = vec![Kind::MalformedRequest, Kind::HeaderTooLarge, Kind::TooLarge, Kind::Invalid];
    if route.access != Access::Public {
        kinds.extend([Kind::Unauthorized, Kind::CredentialsUnavailable, Kind::Forbidden, Kind::NotFound]);
        kinds.extend([Kind::StorageUnavailable, Kind::Internal]);
    }
    if route.load != Load::Probe {
        kinds.push(Kind::TooManyRequests);
    }
    if matches!(route.load, Load::Admin | Load::Reads) {
        kinds.push(Kind::Overloaded);
    }
    if route.writes() {
        kinds.extend([Kind::IdempotencyKeyReused, Kind::IdempotencyKeyInUse, Kind::TooSlow]);
        kinds.extend([Kind::UnsupportedMediaType, Kind::MalformedBody]);
    }
    kinds.extend(operation.problems);
    kinds
}

fn schema(kind: ProblemKind) -> Value {
    let About { status, path, title, cause, advice, .. } = kind.about();
    let mut properties = json!({
        "type": { "const": path },
        "title": { "const": title },
        "status": { "const": status.as_u16() },
        "request_id": { "type": "string", "description": "The header Request-Id of this answer." },
    });
    let mut required = vec!["type", "title", "status", "request_id"];
    for member in members(kind) {
        let (Always(name) | Sometimes(name)) = *member;
        properties[name] = match name {
            "errors" => json!({ "type": "array", "items": reference("schemas", "FieldProblem") }),
            "coupon" => reference("schemas", "Coupon"),
            "opens_at" => json!({ "type": "string", "format": "date-time" }),
            "reasons" => json!({ "type": "array", "items": reference("schemas", "Reason") }),
            "last_change" => json!({ "oneOf": [reference("schemas", "CouponChange"), { "type": "null" }] }),
            _ => json!({ "type": "string" }),
        };
        if let Always(name) = member {
            required.push(name);
        }
    }
    let description = format!("{cause} {advice}");
    json!({ "type": "object", "description": description, "properties": properties, "required": required })
}

fn members(kind: ProblemKind) -> &'static [Member] {
    match kind {
        ProblemKind::NotFound
        | ProblemKind::NotAllowedInState
        | ProblemKind::VersionMismatch
        | ProblemKind::StorageUnavailable
        | ProblemKind::TooManyRequests => &[Always("detail")],
        ProblemKind::TooLarge => &[Always("detail"), Always("errors")],
        ProblemKind::UnsupportedMediaType
        | ProblemKind::MalformedBody
        | ProblemKind::Invalid
        | ProblemKind::NotEditableInState => &[Always("errors")],
        ProblemKind::AlreadyIssued | ProblemKind::UserLimitReached => &[Always("coupon")],
        ProblemKind::AlreadyRedeemed
        | ProblemKind::Cancelled
        | ProblemKind::Expired
        | ProblemKind::NotRedeemed
        | ProblemKind::OrderRefUsed
        | ProblemKind::CouponMismatch
        | ProblemKind::AmountTooHigh => &[Always("reasons"), Always("last_change")],
        ProblemKind::SoldOut | ProblemKind::Closed => &[Sometimes("coupon")],
        ProblemKind::NotOpen => &[Sometimes("opens_at"), Sometimes("coupon")],
        ProblemKind::MalformedRequest => &[Sometimes("errors")],
        ProblemKind::HeaderTooLarge
        | ProblemKind::MethodNotAllowed
        | ProblemKind::Unauthorized
        | ProblemKind::CredentialsUnavailable
        | ProblemKind::Forbidden
        | ProblemKind::TooSlow
        | ProblemKind::IdempotencyKeyRequired
        | ProblemKind::IdempotencyKeyReused
        | ProblemKind::IdempotencyKeyInUse
        | ProblemKind::GateUnavailable
        | ProblemKind::Overloaded
        | ProblemKind::Internal => &[],
    }
}
