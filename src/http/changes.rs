//! What becomes of coupons: they are redeemed, restored, cancelled.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;

use super::answer::{Answer, Listed, recorded_ok};
use super::api::Api;
use super::caller::Caller;
use super::campaigns::canonical;
use super::extract::{Id, JsonBody, NoBody, NoQuery, page_of, parameter};
use super::problem::{NOTHING_CHANGED, Problem};
use super::problem_kind::ProblemKind;
use crate::campaign::draft::FACE_VALUE_MAX;
use crate::coupon::code::Code;
use crate::idempotency::Keyed;
use crate::ids::{CouponId, ExternalIdError, FieldProblem, MerchantId, OrderRef, UserId};
use crate::json::{Object, Rejected};
use crate::lifecycle::log::Cursor;
use crate::lifecycle::{ChangeKind, CouponChange, LifecycleError, Outcome, Reason, Wanted};
use crate::money::Currency;
use crate::writer::WriteError;

/// What a retry does when it is not known whether a change was written.
const CHANGE_UNKNOWN: &str = "Retry: the outcome is unknown. If the change was made, a retry with the same Idempotency-Key gets its \
                              answer, and so does a redemption with the same order_ref.";

/// The answer to a request to change a coupon.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Changed {
    Change(Box<CouponChange>),
    Trial(Trial),
}

/// What a redemption would come to.
#[derive(Debug, Serialize)]
pub(super) struct Trial {
    redeemable: bool,
    /// All that stands against it.
    reasons: Vec<Reason>,
    /// The last change of the coupon, if there is one.
    last_change: Option<CouponChange>,
}

type OneChange = Result<Answer<Changed>, Problem>;

/// `POST /v1/coupons/{id}/redeem`
pub(super) async fn redeem(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(coupon): Id<CouponId>,
    uri: Uri,
    JsonBody(bytes): JsonBody,
) -> OneChange {
    let is_tried = dry_run(&uri)?;
    let object = Object::read(&bytes, REDEMPTION).map_err(Rejected::from)?;
    let (wanted, ()) = redemption(object, is_tried, |_| Some(()))?;
    let keyed = Keyed::of(&caller.cause, "redeemCoupon", &coupon.to_string(), &canonical(&bytes));
    change(&api, coupon, wanted, caller, keyed).await
}

/// `POST /v1/redemptions`
pub(super) async fn redeem_by_code(
    State(api): State<Arc<Api>>,
    caller: Caller,
    uri: Uri,
    JsonBody(bytes): JsonBody,
) -> OneChange {
    let is_tried = dry_run(&uri)?;
    let [order_ref, amount, currency, user_id, merchant_id] = REDEMPTION;
    let names = ["code", order_ref, amount, currency, user_id, merchant_id];
    let object = Object::read(&bytes, names).map_err(Rejected::from)?;
    let (wanted, code) = redemption(object, is_tried, |object| object.required::<String>("code"))?;
    let code: Code = code.parse().map_err(|error| one_invalid("code", &error))?;
    let found = api.coupons.find(code).await.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?;
    let coupon = found.ok_or_else(Problem::no_coupon)?;
    let keyed = Keyed::of(&caller.cause, "redeemCode", "", &canonical(&bytes));
    change(&api, coupon.id, wanted, caller, keyed).await
}

/// `POST /v1/coupons/{id}/restore`
pub(super) async fn restore(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(coupon): Id<CouponId>,
    _: NoQuery,
    JsonBody(bytes): JsonBody,
) -> OneChange {
    let mut object = Object::read(&bytes, ["order_ref"]).map_err(Rejected::from)?;
    let order_ref = object.required::<String>("order_ref");
    let problems = object.into_problems();
    let order_ref = match order_ref {
        Some(order_ref) if problems.is_empty() => OrderRef::parse(order_ref),
        Some(_) | None => return Err(Rejected { malformed: true, problems }.into()),
    };
    let order_ref = Some(order_ref.map_err(|error| one_invalid("order_ref", &error))?);
    let wanted = Wanted { order_ref, ..Wanted::of(ChangeKind::Restored) };
    let keyed = Keyed::of(&caller.cause, "restoreCoupon", &coupon.to_string(), &canonical(&bytes));
    change(&api, coupon, wanted, caller, keyed).await
}

/// `POST /v1/coupons/{id}/cancel`. End users cancel what is theirs; to them no other coupon exists.
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(coupon): Id<CouponId>,
    _: NoQuery,
    _: NoBody,
) -> OneChange {
    let wanted = Wanted { holder: caller.end_user().cloned(), ..Wanted::of(ChangeKind::Cancelled) };
    let keyed = Keyed::of(&caller.cause, "cancelCoupon", &coupon.to_string(), &[]);
    change(&api, coupon, wanted, caller, keyed).await
}

/// `GET /v1/coupons/{id}/changes`
pub(super) async fn changes(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(coupon): Id<CouponId>,
    uri: Uri,
) -> Result<Answer<Listed<CouponChange, Cursor>>, Problem> {
    let page = page_of(&uri).map_err(|errors| Problem::invalid(&errors))?;
    let page = api.lifecycle.changes(coupon, caller.merchant.as_ref(), page).await;
    let page =
        page.map_err(|error| Problem::storage(error, NOTHING_CHANGED))?.ok_or_else(Problem::no_coupon)?;
    Ok(Answer::Ok(Listed { name: "changes", page }))
}

/// Changes a coupon. To an end user no coupon of another user exists, and to a caller that is bound to a merchant none of
/// another merchant.
async fn change(
    api: &Api,
    coupon: CouponId,
    mut wanted: Wanted,
    caller: Caller,
    keyed: Option<Keyed>,
) -> OneChange {
    let (is_tried, is_end_user, is_bound) =
        (wanted.is_tried, caller.end_user().is_some(), caller.merchant.is_some());
    if let Some(merchant) = caller.merchant
        && wanted.merchant.replace(merchant.clone()).is_some_and(|named| named != merchant)
    {
        return Err(Problem::forbidden());
    }
    match api.lifecycle.change(coupon, wanted, caller.cause, keyed).await? {
        Outcome::Refused(reasons, _)
            if is_end_user && reasons.contains(&Reason::NotTheHolder)
                || is_bound && reasons.contains(&Reason::AnotherMerchant) =>
        {
            Err(Problem::no_coupon())
        }
        Outcome::Refused(reasons, last_change) if is_tried => {
            Ok(Answer::Ok(Changed::Trial(Trial { redeemable: false, reasons, last_change })))
        }
        // Who has changed it, and for which order, is not for its holder.
        Outcome::Refused(reasons, _) if is_end_user => Err(refused(&reasons, None)),
        Outcome::Refused(reasons, last_change) => Err(refused(&reasons, last_change.as_ref())),
        Outcome::Possible => {
            let trial = Trial { redeemable: true, reasons: Vec::new(), last_change: None };
            Ok(Answer::Ok(Changed::Trial(trial)))
        }
        // The redemption would get its first answer.
        Outcome::Replayed(change) if is_tried => {
            let trial = Trial { redeemable: true, reasons: Vec::new(), last_change: Some(change) };
            Ok(Answer::Ok(Changed::Trial(trial)))
        }
        Outcome::Changed(change, is_returned) => {
            if is_returned {
                api.campaigns.restocked(change.campaign_id).await;
            }
            Ok(Answer::Ok(Changed::Change(Box::new(change))))
        }
        Outcome::Replayed(change) => {
            let recorded = recorded_ok(&change);
            recorded
                .map(Answer::Replayed)
                .map_err(|error| Problem::internal("write a change of a coupon as JSON", error))
        }
        Outcome::KeyReused => Err(Problem::key_reused()),
        Outcome::NoSuchCoupon => Err(Problem::no_coupon()),
    }
}

/// The most telling of the reasons makes the kind of the problem.
fn refused(reasons: &[Reason], last_change: Option<&CouponChange>) -> Problem {
    let kind = |reason: &Reason| match reason {
        Reason::NotTheHolder | Reason::AnotherMerchant | Reason::AnotherCurrency | Reason::AnotherOrder => {
            ProblemKind::CouponMismatch
        }
        Reason::AmountTooHigh => ProblemKind::AmountTooHigh,
        Reason::AlreadyRedeemed => ProblemKind::AlreadyRedeemed,
        Reason::Cancelled => ProblemKind::Cancelled,
        Reason::Expired => ProblemKind::Expired,
        Reason::OrderRefUsed => ProblemKind::OrderRefUsed,
        Reason::NotRedeemed | Reason::NotDue => ProblemKind::NotRedeemed,
    };
    let kind = reasons.first().map_or(ProblemKind::NotRedeemed, kind);
    Problem::coupon_refused(kind, reasons, last_change)
}

/// The fields of a redemption.
const REDEMPTION: [&str; 5] = ["order_ref", "amount", "currency", "user_id", "merchant_id"];

/// The redemption that a body asks for, and what `own` reads from it.
fn redemption<const N: usize, T>(
    mut object: Object<'_, N>,
    is_tried: bool,
    own: impl FnOnce(&mut Object<'_, N>) -> Option<T>,
) -> Result<(Wanted, T), Rejected> {
    let own = own(&mut object);
    let order_ref = object.required::<String>("order_ref");
    let amount = object.optional::<Option<i64>>("amount", None);
    let [currency, user_id, merchant_id] =
        ["currency", "user_id", "merchant_id"].map(|name| object.optional::<Option<String>>(name, None));
    let mut problems = object.into_problems();
    let malformed = !problems.is_empty();
    let mut note = |field: &str, reason: String| problems.push(FieldProblem::new(field, reason));
    let amount = amount.flatten();
    if amount.is_some_and(|amount| !(1..=FACE_VALUE_MAX).contains(&amount)) {
        note("amount", format!("must be 1 to {FACE_VALUE_MAX}"));
    }
    let order_ref =
        order_ref.and_then(|text| OrderRef::parse(text).map_err(|e| note("order_ref", e.to_string())).ok());
    let currency = currency
        .flatten()
        .and_then(|text| text.parse::<Currency>().map_err(|error| note("currency", error.to_string())).ok());
    let external = |error: ExternalIdError| error.to_string();
    let holder = user_id
        .flatten()
        .and_then(|id| UserId::parse(id).map_err(|error| note("user_id", external(error))).ok());
    let merchant = merchant_id
        .flatten()
        .and_then(|id| MerchantId::parse(id).map_err(|error| note("merchant_id", external(error))).ok());
    match own {
        Some(own) if problems.is_empty() => {
            let kind = ChangeKind::Redeemed;
            Ok((Wanted { kind, order_ref, amount, holder, merchant, currency, is_tried }, own))
        }
        Some(_) | None => Err(Rejected { malformed, problems }),
    }
}

/// The parameter `dry_run` of a redemption.
fn dry_run(uri: &Uri) -> Result<bool, Problem> {
    let given = parameter::<DryRun>(uri, "dry_run").map_err(|errors| Problem::invalid(&errors))?;
    Ok(given.is_some_and(|DryRun(is_tried)| is_tried))
}

/// Whether a request is only tried.
struct DryRun(bool);

impl FromStr for DryRun {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        word.parse().map(Self).map_err(|_| "must be true or false")
    }
}

fn one_invalid(field: &str, error: &impl ToString) -> Problem {
    Problem::invalid(&[FieldProblem::new(field, error.to_string())])
}

impl From<LifecycleError> for Problem {
    fn from(error: LifecycleError) -> Self {
        match error {
            LifecycleError::Write(error) => match error {
                WriteError::Overloaded => Self::overloaded(),
                WriteError::NotWritten | WriteError::Unknown => Self::storage_unavailable(CHANGE_UNKNOWN),
            }
            .refused("a change of a coupon is refused", error),
            LifecycleError::Storage(error) => Self::storage(error, NOTHING_CHANGED),
        }
    }
}
