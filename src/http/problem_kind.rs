//! Everything that can be refused, one entry a kind: the room of the status codes of refusals.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};

/// Declares the kinds, their list, and what is said about each.
macro_rules! kinds {
    ($($name:ident: $status:ident $slug:literal $title:literal {
        cause: $cause:literal,
        advice: $advice:literal,
        retry: $retry:ident $(,)?
    })*) => {
        /// A kind of refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum ProblemKind {
            $($name,)*
        }

        impl ProblemKind {
            /// Every kind.
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            /// What is said about this kind.
            pub(super) const fn about(self) -> About {
                match self {
                    $(Self::$name => About {
                        status: StatusCode::$status,
                        slug: $slug,
                        path: concat!("/problems/", $slug),
                        title: $title,
                        cause: $cause,
                        advice: $advice,
                        retry: Retry::$retry,
                    },)*
                }
            }
        }
    };
}

/// What is said about a kind, to programs and to people.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    pub(super) status: StatusCode,
    /// Callers branch on it: it never changes.
    pub(super) slug: &'static str,
    /// The path of the page about this kind, which is the type of a problem.
    pub(super) path: &'static str,
    pub(super) title: &'static str,
    pub(super) cause: &'static str,
    /// What a caller can do about it.
    pub(super) advice: &'static str,
    pub(super) retry: Retry,
}

impl About {
    /// The header that the status calls for.
    pub(super) fn header(self) -> Option<(HeaderName, HeaderValue)> {
        match self.status {
            StatusCode::CONFLICT if matches!(self.retry, Retry::Useful) => {
                Some((header::RETRY_AFTER, HeaderValue::from_static("1"))) // second
            }
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, HeaderValue::from_static("1"))), // second
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            _ => None,
        }
    }
}

/// Whether a retry of the same request is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    Useless,
    Useful,
    /// The outcome of the request is not known.
    Unknown,
}

impl Retry {
    /// A sentence for people.
    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::Useless => {
                "A retry changes nothing: it returns the same answer until the request or the state of the service \
                 changes."
            }
            Self::Useful => "A retry is safe: the request changed nothing.",
            Self::Unknown => {
                "The request may have taken effect before it failed. A retry with the same Idempotency-Key is safe. Without one, \
                 POST /v1/campaigns may create a second campaign, and a claim may get a user another coupon of a campaign \
                 that gives each user several."
            }
        }
    }
}

kinds! {
    MalformedRequest: BAD_REQUEST "malformed-request" "The request cannot be read" {
        cause: "The request line, a header line, or what the header says about the length of the body, is not HTTP/1.1; or \
                a header can be read in two ways, because it is given twice, for example, and the member errors then \
                names it. The service closes the connection.",
        advice: "Correct the client, or whatever between it and the service changes requests.",
        retry: Useless,
    }
    HeaderTooLarge: REQUEST_HEADER_FIELDS_TOO_LARGE "header-too-large" "The header is too large" {
        cause: "The request line and the header lines have more than 16 KiB together, or there are more than 100 header \
                lines. The service closes the connection.",
        advice: "Send a shorter path, or fewer or shorter header lines.",
        retry: Useless,
    }
    NotFound: NOT_FOUND "not-found" "Not found" {
        cause: "No route has this path, or nothing has the id in the path.",
        advice: "Correct the path or the id; the member detail says which. An id has 26 characters, as the \
                 service returned it.",
        retry: Useless,
    }
    MethodNotAllowed: METHOD_NOT_ALLOWED "method-not-allowed" "Method not allowed" {
        cause: "A route has this path, but not with this method.",
        advice: "Use a method that the header Allow names.",
        retry: Useless,
    }
    Unauthorized: UNAUTHORIZED "unauthorized" "A valid bearer token is required" {
        cause: "The request has no bearer token, or one that is not valid: neither the admin token, nor a live API token, \
                nor a valid token of an end user.",
        advice: "Send a valid token in the header Authorization, after the word Bearer and a space.",
        retry: Useless,
    }
    CredentialsUnavailable: SERVICE_UNAVAILABLE "credentials-unavailable" "Tokens cannot be checked right now" {
        cause: "The service has not been able to read the API tokens from its database for a minute, or the keys of end \
                users from their URL for a day, and refuses all tokens that need them, because one may have been revoked.",
        advice: "Retry after the time in Retry-After.",
        retry: Useful,
    }
    TooManyRequests: TOO_MANY_REQUESTS "too-many-requests" "Too many requests" {
        cause: "The caller, or the address that the request comes from, has sent more requests than its limit allows, or the \
                address has sent too many invalid tokens. The member detail has the limit. Each process of the service counts \
                the requests that reach it.",
        advice: "Retry after the seconds that the header Retry-After says, and send requests evenly.",
        retry: Useful,
    }
    Forbidden: FORBIDDEN "forbidden" "The token does not give this right" {
        cause: "The token is valid, but does not give the right that this route requires, or it is that of an end user who \
                claims for somebody else.",
        advice: "Use a token that gives the right.",
        retry: Useless,
    }
    TooLarge: PAYLOAD_TOO_LARGE "too-large" "The body is too large" {
        cause: "The body has more bytes than the service reads.",
        advice: "Send fewer bytes; the member detail names the limit.",
        retry: Useless,
    }
    TooSlow: REQUEST_TIMEOUT "too-slow" "The body did not arrive in time" {
        cause: "The service waited for the rest of the body until its time limit.",
        advice: "Send the whole body without a pause.",
        retry: Useful,
    }
    UnsupportedMediaType: UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "The body is not sent as JSON" {
        cause: "The header Content-Type names another type than application/json or another character set than UTF-8, or \
                the header Content-Encoding says that the body is compressed.",
        advice: "Send the body as it is, with the header Content-Type: application/json.",
        retry: Useless,
    }
    MalformedBody: UNPROCESSABLE_ENTITY "malformed-body" "The body cannot be read" {
        cause: "The body is not a JSON object, or one of its fields is missing, unknown, given twice or of another type.",
        advice: "Correct the fields that the member errors names.",
        retry: Useless,
    }
    Invalid: UNPROCESSABLE_ENTITY "invalid" "Some fields are invalid" {
        cause: "Fields of the body, the path, the query or the header have values that the service does not accept.",
        advice: "Correct the fields that the member errors names. It names all of them, and of unknown ones the first 16.",
        retry: Useless,
    }
    NotAllowedInState: CONFLICT "not-allowed-in-state" "The campaign's state does not allow this" {
        cause: "The campaign is in a state in which this change does not exist: a closed campaign cannot be opened, nor one \
                whose closes_at has passed.",
        advice: "Read the campaign to see its state and its closes_at; the member detail says what is wrong.",
        retry: Useless,
    }
    NotEditableInState: CONFLICT "not-editable-in-state" "The campaign keeps these fields in its state" {
        cause: "The request changes fields that the campaign keeps in its state: some once it is scheduled, more once it is open, and \
                all once it is closed.",
        advice: "Leave out the fields that errors names.",
        retry: Useless,
    }
    VersionMismatch: PRECONDITION_FAILED "version-mismatch" "The campaign has another version" {
        cause: "The campaign was changed after the version that If-Match names.",
        advice: "Read the campaign, see whether the change is still wanted, and send it with the version that you have read.",
        retry: Useless,
    }
    AlreadyIssued: CONFLICT "already-issued" "The user already has a coupon of this campaign" {
        cause: "The campaign gives each user one coupon, and this user has theirs.",
        advice: "Show the user the coupon in the member coupon.",
        retry: Useless,
    }
    UserLimitReached: CONFLICT "user-limit-reached"
        "The user has as many coupons of this campaign as one user may have" {
        cause: "The user has per_user_limit coupons of this campaign.",
        advice: "Show the user their coupons; the member coupon has the newest one.",
        retry: Useless,
    }
    SoldOut: GONE "sold-out" "All coupons are issued" {
        cause: "The campaign has issued as many coupons as its quantity and its budget allow.",
        advice: "Tell the user that no coupon is left. If the member coupon is there, the user has coupons of an earlier \
                 claim: it is the newest one.",
        retry: Useless,
    }
    NotOpen: FORBIDDEN "not-open" "The campaign is not open" {
        cause: "The campaign is a draft or paused, or its opens_at has not come yet. A draft does not open by itself.",
        advice: "Claim again from the time in the member opens_at on or, if it is missing, when an operator has opened \
                 the campaign. If the member coupon is there, the user has coupons of an earlier claim: it is the newest \
                 one.",
        retry: Useless,
    }
    Closed: GONE "closed" "The campaign is closed" {
        cause: "An operator closed the campaign, or closes_at has passed.",
        advice: "Tell the user that the campaign is over. If the member coupon is there, the user has coupons of an \
                 earlier claim: it is the newest one.",
        retry: Useless,
    }
    AlreadyRedeemed: CONFLICT "already-redeemed" "The coupon is redeemed" {
        cause: "The coupon is redeemed for an order; the member last_change says for which one, and when.",
        advice: "Do not accept the coupon. If that order is refunded, restore the coupon first.",
        retry: Useless,
    }
    Cancelled: CONFLICT "cancelled" "The coupon is cancelled" {
        cause: "The coupon was cancelled; the member last_change says when, and by whom.",
        advice: "Do not accept the coupon: it cannot be used any more.",
        retry: Useless,
    }
    Expired: GONE "expired" "The coupon has expired" {
        cause: "The expires_at of the coupon has passed.",
        advice: "Do not accept the coupon: it cannot be used any more.",
        retry: Useless,
    }
    NotRedeemed: CONFLICT "not-redeemed" "The coupon is not redeemed" {
        cause: "A redemption is to be restored, and the coupon is not redeemed.",
        advice: "Read the coupon and its changes: it may have been restored before.",
        retry: Useless,
    }
    OrderRefUsed: CONFLICT "order-ref-used" "The order is that of another redemption" {
        cause: "A redemption of the merchant has this order_ref already, of another coupon or with another amount.",
        advice: "Give each redemption an order_ref of its own.",
        retry: Useless,
    }
    CouponMismatch: CONFLICT "coupon-mismatch" "The coupon is not what the request supposes" {
        cause: "The request names another holder, merchant, currency or order than the coupon has; the member reasons says \
                which of them.",
        advice: "Do not accept the coupon here, or correct the request.",
        retry: Useless,
    }
    AmountTooHigh: CONFLICT "amount-too-high" "The amount is above the face value" {
        cause: "The amount of the redemption is higher than the face value of the coupon.",
        advice: "Redeem at most the face value.",
        retry: Useless,
    }
    IdempotencyKeyRequired: BAD_REQUEST "idempotency-key-required" "The campaign requires an idempotency key" {
        cause: "The campaign has require_idempotency_key, and the claim has no header Idempotency-Key.",
        advice: "Send a header Idempotency-Key, with a new value for each coupon that the user asks for, and the same value in \
                 every retry.",
        retry: Useless,
    }
    IdempotencyKeyReused: UNPROCESSABLE_ENTITY "idempotency-key-reused" "The idempotency key belongs to another request" {
        cause: "An earlier request to this route with the same Idempotency-Key had another body, and took effect.",
        advice: "Send a new key with a new request, and the same body in every retry.",
        retry: Useless,
    }
    IdempotencyKeyInUse: CONFLICT "idempotency-key-in-use" "A request with this idempotency key is in progress" {
        cause: "An earlier request with the same Idempotency-Key was not answered within five seconds.",
        advice: "Retry with the same key after the seconds that the header Retry-After says.",
        retry: Useful,
    }
    GateUnavailable: SERVICE_UNAVAILABLE "gate-unavailable" "Claims cannot be taken right now" {
        cause: "Redis cannot be reached, answers too late or takes no writes; or the service is loading the campaign into it.",
        advice: "Retry after the seconds that the header Retry-After says.",
        retry: Useful,
    }
    Overloaded: SERVICE_UNAVAILABLE "overloaded" "Too many concurrent requests" {
        cause: "More requests are in progress than the service accepts at a time, or the claim waited too long for the database \
                to write it.",
        advice: "Retry after the seconds that the header Retry-After says, and wait longer after each refusal.",
        retry: Useful,
    }
    StorageUnavailable: SERVICE_UNAVAILABLE "storage-unavailable" "The database cannot be reached" {
        cause: "Postgres cannot be reached, or does not answer in time.",
        advice: "Retry after the seconds that the header Retry-After says; the member detail says what a retry does.",
        retry: Unknown,
    }
    Internal: INTERNAL_SERVER_ERROR "internal" "Internal error" {
        cause: "The service or its database has a fault. The log of the service has the details.",
        advice: "Tell the operator of the service. The trace id of the request finds its lines in the log.",
        retry: Unknown,
    }
}
