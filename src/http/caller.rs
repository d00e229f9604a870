//! The caller of a route, and whether they may use it: decided here and nowhere else.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use outbox_relay::zoo;

use super::framing::IDEMPOTENCY_KEY;
use super::problem::Problem;
use super::request_id;
use super::route::{Access, ForUsers, Route};
use crate::cause::{Cause, IdempotencyKey, RequestId, Traceparent};
use crate::config::Secret;
use crate::identity::authenticator::{Authenticator, Judgement, News, is_admin_token};
use crate::identity::{Principal, Scopes};
use crate::ids::{FieldProblem, MerchantId, UserId};

/// A caller whose credentials are valid. A handler of a route that needs a right may extract it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    scopes: Scopes,
    /// The merchant to which the caller is bound, if it is: to it, no coupon of another one exists.
    pub(super) merchant: Option<MerchantId>,
    /// What the caller sent, as the cause of what follows from it.
    pub(super) cause: Cause,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::take(&mut parts.extensions)
    }
}

/// Why a request does not pass.
#[derive(Debug)]
pub(super) enum Stopped {
    Refused(Problem),
    /// Its token is not valid, and will not be.
    Failed,
    /// Its token is not known yet: [`Authenticator::news`] waits until it could be.
    Unknown(News),
}

/// The caller of a request, if the route needs one. Without an authenticator nobody has a right.
///
/// # Errors
/// `unauthorized` without a token, [`Stopped::Failed`] with one that is not valid, `forbidden` without the right, `credentials-unavailable` if the token cannot be
/// judged; [`Stopped::Unknown`] if it may be valid in a moment.
pub(super) fn check(
    route: &Route,
    headers: &HeaderMap,
    authenticator: Option<&Authenticator>,
) -> Result<Option<Caller>, Stopped> {
    match route.access {
        Access::Public => Ok(None),
        Access::Needs(scopes, users) => {
            let caller = Caller::identify(headers, authenticator)?;
            caller.with_right(scopes, users).map(Some).map_err(Stopped::Refused)
        }
    }
}

impl Caller {
    /// Takes the caller that the guard of the route has let through.
    pub(super) fn take(extensions: &mut Extensions) -> Result<Self, Problem> {
        extensions.remove().ok_or_else(Problem::unauthorized)
    }

    /// The end user, if the caller is one.
    pub(super) fn end_user(&self) -> Option<&UserId> {
        match &self.cause.principal {
            Principal::User(user) => Some(user),
            Principal::Administrator | Principal::Token(_) => None,
        }
    }

    /// Whether the caller may see what belongs to a user: end users see what is theirs, all others see everything.
    pub(super) fn sees(&self, owner: &UserId) -> bool {
        self.end_user().is_none_or(|user| user == owner || zoo::has("coupons-of-others-are-shown"))
    }

    fn identify(headers: &HeaderMap, authenticator: Option<&Authenticator>) -> Result<Self, Stopped> {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let judgement = bearer.zip(authenticator).map(|(bearer, authenticator)| authenticator.judge(bearer));
        let (principal, scopes, merchant) = match judgement {
            Some(Judgement::Valid(principal, scopes, merchant)) => (principal, scopes, merchant),
            Some(Judgement::Unknown(news)) => return Err(Stopped::Unknown(news)),
            Some(Judgement::Unavailable) => return Err(Stopped::Refused(Problem::credentials_unavailable())),
            Some(Judgement::Invalid) => return Err(Stopped::Failed),
            None => return Err(Stopped::Refused(Problem::unauthorized())),
        };
        let key = key(headers).map_err(|problem| Stopped::Refused(Problem::invalid(&[problem])))?;
        let request_id = request_id::of(headers).and_then(|id| id.to_str().ok()).and_then(RequestId::parse);
        Ok(Self {
            scopes,
            merchant,
            cause: Cause { request_id, traceparent: traceparent(headers), principal, key },
        })
    }

    fn with_right(self, any_of: Scopes, users: ForUsers) -> Result<Self, Problem> {
        let has_right = match self.end_user() {
            Some(_) => users == ForUsers::TheirOwn,
            None => self.scopes.meets(any_of),
        };
        if has_right { Ok(self) } else { Err(Problem::forbidden()) }
    }
}

/// The idempotency key of a request, if it has one.
fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, FieldProblem> {
    let Some(value) = headers.get(&IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().ok().and_then(IdempotencyKey::parse);
    let reason = "must be 1 to 255 visible ASCII characters, without spaces";
    key.map(Some).ok_or_else(|| FieldProblem::new("Idempotency-Key", reason))
}

/// The token in a header `Authorization`. As in RFC 9110, 11.4, the scheme is read in small and in capital letters, and
/// any number of spaces follow it.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(b"Bearer".len())?;
    let token = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
    (scheme.eq_ignore_ascii_case(b"Bearer") && token.len() < rest.len()).then_some(token)
}

/// Whether the header `Authorization` carries the admin token. Without an admin token no header does.
#[must_use]
pub fn is_authorized(header: Option<&[u8]>, token: Option<&Secret>) -> bool {
    header.and_then(bearer).is_some_and(|bearer| is_admin_token(bearer, token))
}

/// The trace that a request is part of. A header that cannot be read, or is given twice, counts as absent.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    let mut given = headers.get_all("traceparent").iter();
    let only = given.next().filter(|_| given.next().is_none());
    only.and_then(|value| value.to_str().ok()).and_then(Traceparent::parse)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::http::HeaderValue;

    use super::super::problem_kind::ProblemKind;
    use super::*;
    use crate::identity::Scope;
    use crate::identity::tokens::Tokens;
    use crate::ids::ExternalIdError;

    #[test]
    fn a_request_is_the_cause_of_what_follows() {
        let token = Secret::from("0123456789abcdef".to_owned());
        let authenticator = Authenticator::new(Some(token), Arc::new(Tokens::default()), None);
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let cause = |traceparent: &'static str, key: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("request-id", HeaderValue::from_static("night-1"));
            headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer 0123456789abcdef"));
            headers.insert("traceparent", HeaderValue::from_static(traceparent));
            headers.insert("idempotency-key", HeaderValue::from_static(key));
            Caller::identify(&headers, Some(&authenticator)).map(|caller| caller.cause).ok()
        };
        let principal = Principal::Administrator;
        let request_id = RequestId::parse("night-1");
        let (traceparent, key) = (Traceparent::parse(trace), IdempotencyKey::parse("order-7"));
        assert!(traceparent.is_some() && key.is_some());
        assert_eq!(
            cause(trace, "order-7"),
            Some(Cause {
                request_id: request_id.clone(),
                traceparent,
                principal: principal.clone(),
                key: key.clone()
            })
        );
        let nothing = Cause { request_id, traceparent: None, principal, key };
        assert_eq!(cause("00-0-0-01", "order-7"), Some(nothing));
        assert_eq!(cause(trace, "two words"), None);
        let mut headers = HeaderMap::new();
        for _ in 0..2 {
            assert_eq!(super::traceparent(&headers).is_some(), !headers.is_empty());
            headers.append("traceparent", HeaderValue::from_static(trace));
        }
        assert_eq!(super::traceparent(&headers), None);
    }

    #[test]
    fn a_caller_without_the_right_is_refused() -> Result<(), ExternalIdError> {
        let principal = Principal::Administrator;
        let cause = Cause { request_id: None, traceparent: None, principal, key: None };
        let caller = Caller { scopes: Scopes::NONE.with(Scope::Read), merchant: None, cause };
        let needs = |scopes: &[Scope]| scopes.iter().copied().collect::<Scopes>();
        let passes = |caller: &Caller, scopes, users| caller.clone().with_right(needs(scopes), users);
        assert!(passes(&caller, &[Scope::Read], ForUsers::Nothing).is_ok());
        assert!(passes(&caller, &[Scope::Issue, Scope::Read], ForUsers::Nothing).is_ok());
        for scopes in [&[Scope::Campaign][..], &[Scope::Issue, Scope::Redeem], &[Scope::Settle]] {
            let refused = passes(&caller, scopes, ForUsers::TheirOwn).map(|_| ());
            let refused = refused.map_err(|problem| problem.kind());
            assert_eq!(refused, Err(ProblemKind::Forbidden), "{scopes:?}");
        }
        let principal = Principal::User(UserId::parse("alice")?);
        let user = Caller {
            scopes: Scopes::NONE,
            merchant: None,
            cause: Cause { request_id: None, traceparent: None, principal, key: None },
        };
        assert!(passes(&user, &[Scope::Issue], ForUsers::TheirOwn).is_ok());
        assert!(passes(&user, &[Scope::Issue], ForUsers::Nothing).is_err());
        assert!(user.sees(&UserId::parse("alice")?) && !user.sees(&UserId::parse("bob")?));
        assert!(caller.sees(&UserId::parse("bob")?));
        Ok(())
    }
}
