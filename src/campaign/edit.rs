//! To edit a campaign: which fields may be changed in which state, and what the campaign becomes.

use time::OffsetDateTime;

use super::draft::{Draft, DraftBody};
use super::duration::format_duration;
use super::store::TAKEN_BEFORE_OPENING;
use super::{Campaign, Expiry, SettleOn, State};
use crate::ids::FieldProblem;
use crate::json::{Object, Rejected};

/// The state until which a field may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// While the campaign is a draft.
    Draft,
    /// Until it is open: no coupon is issued yet.
    Scheduled,
    /// Until it is closed.
    Paused,
}

/// Until when each field may be changed.
pub const EDITABLE: [(&str, Until); 14] = [
    ("name", Until::Paused),
    ("merchant_id", Until::Draft),
    ("face_value", Until::Draft),
    ("currency", Until::Draft),
    ("quantity", Until::Paused),
    ("budget", Until::Paused),
    ("per_user_limit", Until::Scheduled),
    ("opens_at", Until::Scheduled),
    ("closes_at", Until::Paused),
    ("coupon_expires_at", Until::Scheduled),
    ("coupon_valid_for", Until::Scheduled),
    ("settle_on", Until::Draft),
    ("require_idempotency_key", Until::Paused),
    ("restock_on_cancel", Until::Paused),
];

impl Until {
    /// Whether a field may be changed in a state.
    #[must_use]
    pub fn includes(self, state: State) -> bool {
        match state {
            State::Draft => true,
            State::Scheduled => self != Self::Draft,
            State::Open | State::Paused => self == Self::Paused,
            State::Closed => false,
        }
    }
}

/// The versions of which a campaign must have one to be edited, as a header `If-Match` names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Any,
    OneOf(Vec<i32>),
}

impl Expected {
    /// Whether a campaign with this version may be edited.
    #[must_use]
    pub fn is(&self, version: i32) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}

/// The fields that a campaign is to have, as far as they are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    name: Option<String>,
    merchant_id: Option<String>,
    face_value: Option<i64>,
    currency: Option<String>,
    quantity: Option<i64>,
    budget: Option<i64>,
    per_user_limit: Option<i64>,
    opens_at: Option<OffsetDateTime>,
    closes_at: Option<OffsetDateTime>,
    coupon_expires_at: Option<OffsetDateTime>,
    coupon_valid_for: Option<String>,
    settle_on: Option<SettleOn>,
    require_idempotency_key: Option<bool>,
    restock_on_cancel: Option<bool>,
    /// The names of those that are given.
    given: Vec<&'static str>,
}

/// Why a campaign does not get the fields.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// These fields cannot be changed in this state.
    #[error("a campaign that is {} keeps its {}", state.as_str(), fields.join(", "))]
    NotEditable { state: State, fields: Vec<&'static str> },
    /// The campaign would not be one.
    #[error("some fields are invalid")]
    Invalid(Rejected),
}

impl Edit {
    /// Reads the body of a request. Null is as good as no value.
    ///
    /// # Errors
    /// When the bytes are not an object of JSON, or a field is unknown, given twice or of another type: names them all.
    pub fn read(bytes: &[u8]) -> Result<Self, Rejected> {
        let mut object = Object::read(bytes, EDITABLE.map(|(field, _)| field))?;
        let edit = Self {
            name: object.optional("name", None).flatten(),
            merchant_id: object.optional("merchant_id", None).flatten(),
            face_value: object.optional("face_value", None).flatten(),
            currency: object.optional("currency", None).flatten(),
            quantity: object.optional("quantity", None).flatten(),
            budget: object.optional("budget", None).flatten(),
            per_user_limit: object.optional("per_user_limit", None).flatten(),
            opens_at: object.optional("opens_at", None).flatten(),
            closes_at: object.optional("closes_at", None).flatten(),
            coupon_expires_at: object.optional("coupon_expires_at", None).flatten(),
            coupon_valid_for: object.optional("coupon_valid_for", None).flatten(),
            settle_on: object.optional("settle_on", None).flatten(),
            require_idempotency_key: object.optional("require_idempotency_key", None).flatten(),
            restock_on_cancel: object.optional("restock_on_cancel", None).flatten(),
            given: object.given(),
        };
        let problems = object.into_problems();
        if problems.is_empty() { Ok(edit) } else { Err(Rejected { malformed: true, problems }) }
    }

    /// What the campaign becomes, which has issued `issued` coupons; nothing if it has these fields already.
    ///
    /// # Errors
    /// When a field that differs may not be changed in the campaign's state, or the campaign would not be one.
    pub fn of(
        &self,
        campaign: &Campaign,
        issued: i32,
        now: OffsetDateTime,
    ) -> Result<Option<Draft>, EditError> {
        // From then on a claim may be on its way whose seat was given by the fields as they are.
        let counts_as_open_from = campaign.opens_at - TAKEN_BEFORE_OPENING;
        let state = campaign.state.due(counts_as_open_from, campaign.closes_at, now);
        let keeps = |fields: Vec<&'static str>| Err(EditError::NotEditable { state, fields });
        if state == State::Closed {
            return if self.given.is_empty() { Ok(None) } else { keeps(self.given.clone()) };
        }
        let before = Draft::of(campaign);
        let draft = self.clone().over(&before).parse(now).map_err(EditError::Invalid)?;
        let changed = EDITABLE.into_iter().zip(values(&before).into_iter().zip(values(&draft)));
        let changed = changed.filter(|(_, (before, after))| before != after).map(|(field, _)| field);
        let kept: Vec<_> =
            changed.filter(|(_, until)| !until.includes(state)).map(|(field, _)| field).collect();
        if !kept.is_empty() {
            return keeps(kept);
        }
        let issued = issued - campaign.returned; // of the others the seats are back on sale
        let issued_value = i64::from(issued).saturating_mul(draft.face_value.minor);
        let below = [
            (
                "quantity",
                draft.quantity < issued,
                format!("must be at least {issued}, the coupons that are issued"),
            ),
            (
                "budget",
                draft.budget.is_some_and(|budget| budget < issued_value),
                format!("must be at least {issued_value}, what the coupons that are issued are worth"),
            ),
        ];
        let below = below.into_iter().filter(|(_, is_below, _)| *is_below);
        let problems: Vec<_> = below.map(|(field, _, reason)| FieldProblem::new(field, reason)).collect();
        if !problems.is_empty() {
            return Err(EditError::Invalid(Rejected { malformed: false, problems }));
        }
        Ok(Some(draft).filter(|draft| *draft != before))
    }

    /// The fields that are given, and for the others those of a campaign.
    fn over(self, campaign: &Draft) -> DraftBody {
        let (expires_at, valid_for) = match campaign.expiry {
            _ if self.coupon_expires_at.is_some() || self.coupon_valid_for.is_some() => {
                (self.coupon_expires_at, self.coupon_valid_for)
            }
            Expiry::At(time) => (Some(time), None),
            Expiry::After(duration) => (None, Some(format_duration(duration))),
        };
        DraftBody {
            problems: Vec::new(),
            name: self.name.or_else(|| Some(campaign.name.clone())),
            merchant_id: self.merchant_id.or_else(|| Some(campaign.merchant_id.as_str().to_owned())),
            face_value: self.face_value.or(Some(campaign.face_value.minor)),
            currency: self.currency.or_else(|| Some(campaign.face_value.currency.to_string())),
            quantity: self.quantity.or(Some(campaign.quantity.into())),
            budget: self.budget.or(campaign.budget),
            per_user_limit: self.per_user_limit.or(Some(campaign.per_user_limit.into())),
            opens_at: self.opens_at.or(Some(campaign.opens_at)),
            closes_at: self.closes_at.or(Some(campaign.closes_at)),
            expiry: Some((expires_at, valid_for)),
            settle_on: self.settle_on.or(Some(campaign.settle_on)),
            require_idempotency_key: self.require_idempotency_key.or(Some(campaign.require_idempotency_key)),
            restock_on_cancel: self.restock_on_cancel.or(Some(campaign.restock_on_cancel)),
        }
    }
}

/// The values of the fields, in the order of [`EDITABLE`].
fn values(draft: &Draft) -> [String; 14] {
    let (expires_at, valid_for) = match draft.expiry {
        Expiry::At(time) => (time.to_string(), String::new()),
        Expiry::After(duration) => (String::new(), format_duration(duration)),
    };
    [
        draft.name.clone(),
        draft.merchant_id.as_str().to_owned(),
        draft.face_value.minor.to_string(),
        draft.face_value.currency.to_string(),
        draft.quantity.to_string(),
        draft.budget.map_or_else(String::new, |budget| budget.to_string()),
        draft.per_user_limit.to_string(),
        draft.opens_at.to_string(),
        draft.closes_at.to_string(),
        expires_at,
        valid_for,
        format!("{:?}", draft.settle_on),
        draft.require_idempotency_key.to_string(),
        draft.restock_on_cancel.to_string(),
    ]
}
