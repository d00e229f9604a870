//! What a request beyond a limit is answered.
//!
//! The fields `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-11: of the limit that is
//! named nothing is left (`r`) for `t` seconds, and it admits `q` requests at once, and as many more in `w` seconds.

use axum::http::{HeaderName, HeaderValue, header};

use super::problem::Problem;
use crate::limits::{Counted, Exceeded};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

impl From<Exceeded> for Problem {
    fn from(Exceeded { counted, rate, wait }: Exceeded) -> Self {
        let whose = match counted {
            Counted::Principal => "requests of this caller",
            Counted::Address => "requests from this address",
            Counted::FailedLogin => "invalid tokens from this address",
        };
        let (name, per_second, burst) = (counted.as_str(), rate.per_second, rate.burst);
        let window = burst.get().div_ceil(per_second.get());
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0); // never 0: an empty bucket makes wait
        let headers = [
            (header::RETRY_AFTER, Ok(seconds.into())),
            (RATE_LIMIT, HeaderValue::try_from(format!("\"{name}\";r=0;t={seconds}"))),
            (RATE_LIMIT_POLICY, HeaderValue::try_from(format!("\"{name}\";q={burst};w={window}"))),
        ];
        let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value.ok()?)));
        let detail = format!("at most {per_second} {whose} a second, and {burst} at once");
        Self::too_many_requests(&detail, headers.collect())
    }
}
