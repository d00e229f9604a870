//! The caller of a route, and whether they may use it: decided here and nowhere else.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use subtle::ConstantTimeEq as _;

use super::problem::Problem;
use super::route::Access;
use crate::cause::{Cause, IdempotencyKey, Traceparent};
use crate::config::Secret;
use crate::identity::{Principal, Scope, Scopes};

/// A caller whose credentials are valid. A handler of a route that needs a right may extract it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    scopes: Scopes,
    /// What the caller sent, as the cause of what follows from it.
    pub(super) cause: Cause,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    /// Takes the caller that the guard of the route has let through.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.remove().ok_or_else(Problem::unauthorized)
    }
}

/// The caller of a request, if the route needs one.
///
/// # Errors
/// `unauthorized` without a valid token, `forbidden` without the right.
pub(super) fn check(
    access: Access,
    headers: &HeaderMap,
    admin_token: Option<&Secret>,
) -> Result<Option<Caller>, Problem> {
    match access {
        Access::Public => Ok(None),
        Access::Needs(scope) => Caller::identify(headers, admin_token)?.with_right(scope).map(Some),
    }
}

impl Caller {
    fn identify(headers: &HeaderMap, admin_token: Option<&Secret>) -> Result<Self, Problem> {
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        if !is_authorized(given, admin_token) {
            return Err(Problem::unauthorized());
        }
        let principal = Principal::Administrator;
        let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
        let key = key.and_then(IdempotencyKey::parse);
        let scopes = principal.scopes();
        Ok(Self { scopes, cause: Cause { traceparent: traceparent(headers), principal, key } })
    }

    fn with_right(self, scope: Scope) -> Result<Self, Problem> {
        if self.scopes.contains(scope) { Ok(self) } else { Err(Problem::forbidden()) }
    }
}

/// Whether the header `Authorization` carries the token. Without a token no caller is authorized. As in RFC 9110, 11.4,
/// the scheme is read in small and in capital letters, and any number of spaces follow it.
#[must_use]
pub fn is_authorized(header: Option<&[u8]>, token: Option<&Secret>) -> bool {
    let given = header.and_then(|header| {
        let (scheme, rest) = header.split_at_checked(b"Bearer".len())?;
        let token = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
        (scheme.eq_ignore_ascii_case(b"Bearer") && token.len() < rest.len()).then_some(token)
    });
    given.zip(token).is_some_and(|(given, token)| given.ct_eq(token.reveal().as_bytes()).into())
}

/// The trace that a request is part of. A header that cannot be read counts as absent.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    headers.get("traceparent").and_then(|value| value.to_str().ok()).and_then(Traceparent::parse)
}

#[cfg(test)]
mod tests {
    use super::super::problem_kind::ProblemKind;
    use super::*;

    #[test]
    fn a_request_is_the_cause_of_what_follows() {
        let token = Secret::from("0123456789abcdef".to_owned());
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let cause = |traceparent: &'static str, key: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer 0123456789abcdef"));
            headers.insert("traceparent", HeaderValue::from_static(traceparent));
            headers.insert("idempotency-key", HeaderValue::from_static(key));
            Caller::identify(&headers, Some(&token)).map(|caller| caller.cause).ok()
        };
        let principal = Principal::Administrator;
        let (traceparent, key) = (Traceparent::parse(trace), IdempotencyKey::parse("order-7"));
        assert!(traceparent.is_some() && key.is_some());
        assert_eq!(cause(trace, "order-7"), Some(Cause { traceparent, principal: principal.clone(), key }));
        let nothing = Cause { traceparent: None, principal, key: None };
        assert_eq!(cause("00-0-0-01", "two words"), Some(nothing));
    }

    #[test]
    fn a_caller_without_the_right_is_refused() {
        let cause = Cause { traceparent: None, principal: Principal::Administrator, key: None };
        let caller = Caller { scopes: Scopes::NONE.with(Scope::ReadCoupons), cause };
        assert!(caller.clone().with_right(Scope::ReadCoupons).is_ok());
        for scope in [Scope::ReadCampaigns, Scope::ChangeCampaigns, Scope::ClaimCoupons] {
            let refused = caller.clone().with_right(scope).map(|_| ()).map_err(|problem| problem.kind());
            assert_eq!(refused, Err(ProblemKind::Forbidden), "{scope:?}");
        }
    }
}
