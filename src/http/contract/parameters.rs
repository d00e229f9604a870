//! The parameters of operations: those in the path, in the query, and headers.

use serde_json::{Map, Value, json};
use utoipa::ToSchema as _;

use super::super::problem_kind::ProblemKind;
use super::{reference, visible};
use crate::campaign::State;
use crate::cause::{KEY_LENGTH_MAX, REQUEST_ID_LENGTH_MAX};
use crate::coupon::CouponState;
use crate::coupon::code::CODE_LENGTH;
use crate::page::{PAGE_MAX, PageLimit};

const CODE: &str = "The code of a coupon: 20 characters, in large or small letters, with hyphens, blanks or neither between them; \
                    O, I and L are read as 0, 1 and 1.";
const STATUS: &str = "Which coupons to list; all if it is missing.";
const DRY_RUN: &str = "Whether the redemption is only tried; false if it is missing.";
const IF_MATCH: &str = "The version that the campaign must have, in quotation marks; several, separated by commas; or *. Without it \
                        any version will do.";
/// What a header `If-Match` may be.
const VERSIONS: &str = "^(\\*|\"[0-9]{1,9}\"(, *\"[0-9]{1,9}\")*)$";

/// Every parameter, by its name.
pub(super) fn all() -> Value {
    let ulid = json!({ "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$" });
    // `explode`: the items of an array share one parameter, with commas between them.
    let parameter = |place: &str, name: &str, about: &str, schema: Value, example: Value| {
        json!({ "in": place, "name": name, "required": place == "path" || name == "code", "description": about, "schema": schema,
            "explode": false, "example": example })
    };
    let text = json!({ "type": "string" });
    let code = json!({ "type": "string", "minLength": CODE_LENGTH });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PageLimit::default().get() });
    let statuses = [&["usable"][..], &CouponState::ALL.map(CouponState::as_str)].concat();
    let statuses = json!({ "type": "string", "enum": statuses });
    let states = json!({ "type": "array", "minItems": 1, "items": reference("schemas", &State::name()) });
    let slug = json!({ "type": "string", "enum": ProblemKind::ALL.iter().map(|kind| kind.about().slug).collect::<Vec<_>>() });
    let request_id = format!(
        "Names the request, in 1 to {REQUEST_ID_LENGTH_MAX} visible ASCII characters: the answer repeats it. Any other is \
         ignored."
    );
    let id = "01M7WFKGE14NWN561KVXBYTJTX";
    let all = [
        parameter("path", "id", "A ULID.", ulid.clone(), json!(id)),
        parameter("path", "user_id", "A user.", reference("schemas", "ExternalId"), json!("alice")),
        parameter("path", "slug", "The slug of a problem.", slug, json!("not-found")),
        parameter(
            "query",
            "state",
            "One or several states, separated by commas.",
            states,
            json!(["open", "closed"]),
        ),
        parameter("query", "status", STATUS, statuses, json!("usable")),
        parameter("query", "code", CODE, code, json!("CBDQ-JJS3-YXM5-5SWY-9BD6")),
        parameter("query", "dry_run", DRY_RUN, json!({ "type": "boolean", "default": false }), json!(true)),
        parameter("query", "cursor", "The next of the page before.", ulid, json!(id)),
        parameter("query", "limit", "Items of a page.", limit, json!(50)),
        parameter("header", "Request-Id", &request_id, text.clone(), json!("night-1")),
        parameter(
            "header",
            "If-Match",
            IF_MATCH,
            json!({ "type": "string", "pattern": VERSIONS }),
            json!("\"2\""),
        ),
        parameter(
            "header",
            "Idempotency-Key",
            "The same in every retry of a request.",
            visible(KEY_LENGTH_MAX),
            json!("order-7"),
        ),
        parameter(
            "header",
            "traceparent",
            "A trace context of W3C. One that cannot be read is ignored.",
            text,
            json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ),
    ];
    let named = all.into_iter().filter_map(|one| Some((one["name"].as_str()?.to_owned(), one)));
    named.collect::<Map<String, Value>>().into()
}
