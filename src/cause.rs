//! Why something happens: the request behind it. A cause goes along to the rows and events that follow from it.

use std::sync::Arc;

use crate::identity::Principal;

/// Characters of a [`RequestId`], at most.
pub const REQUEST_ID_LENGTH_MAX: usize = 128;
/// Characters of an [`IdempotencyKey`], at most.
pub const KEY_LENGTH_MAX: usize = 255;

/// The request that causes something. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The id of the request, which its answer and the log name too.
    pub request_id: Option<RequestId>,
    /// The trace that the request is part of, if it names one.
    pub traceparent: Option<Traceparent>,
    pub principal: Principal,
    /// What makes a retry of the request recognisable, if the caller gave it.
    pub key: Option<IdempotencyKey>,
}

impl Cause {
    /// A cause without an id, a trace and a key.
    #[must_use]
    pub fn of(principal: Principal) -> Self {
        Self { request_id: None, traceparent: None, principal, key: None }
    }
}

/// The value of a header `Request-Id`: 1 to 128 visible ASCII characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Reads the value of the header.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::is_one(text.as_bytes()).then(|| Self(text.into()))
    }

    /// Whether the value of a header is one.
    #[must_use]
    pub fn is_one(value: &[u8]) -> bool {
        (1..=REQUEST_ID_LENGTH_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
    }

    /// The text, as it stood in the header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A W3C trace context, version 00: `00-<trace id>-<span id>-<flags>`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traceparent(Arc<str>);

impl Traceparent {
    /// Reads the value of a header `traceparent`: parts in lower-case hexadecimal digits, neither id only zeros.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |text: &str, length| {
            text.len() == length
                && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let is_id = |text: &str, length| is_hex(text, length) && text.bytes().any(|byte| byte != b'0');
        let mut parts = text.split('-');
        let mut part = || parts.next().unwrap_or_default();
        let fits = part() == "00" && is_id(part(), 32) && is_id(part(), 16) && is_hex(part(), 2);
        (fits && parts.next().is_none()).then(|| Self(text.into()))
    }

    /// The text, as it stood in the header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the caller records this trace: the flag `sampled`.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        let flags = self.0.rsplit('-').next().and_then(|flags| u8::from_str_radix(flags, 16).ok());
        flags.is_some_and(|flags| flags & 1 == 1)
    }

    /// The id of the trace: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.0.split('-').nth(1).unwrap_or_default()
    }
}

/// The value of a header `Idempotency-Key`: 1 to 255 visible ASCII characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// Reads the value of the header.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits =
            (1..=KEY_LENGTH_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.into()))
    }

    /// The text, as it stood in the header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
