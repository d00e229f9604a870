//! What every answer gets on its way out: the header `Request-Id`, and a problem also the member `request_id`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, Response, header};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::super::problem::PROBLEM_TYPE;
use super::super::request_id::REQUEST_ID;

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Reply {
    body: Body,
    /// What the body gets before its last brace.
    member: Option<Vec<u8>>,
}

/// The answer to the request with this id.
pub(super) fn identified(answer: Response<Body>, id: HeaderValue) -> Response<Reply> {
    let (mut parts, body) = answer.into_parts();
    let is_problem = parts.headers.get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_TYPE);
    let member = is_problem.then(|| member(&id));
    parts.headers.insert(REQUEST_ID.clone(), id);
    let Some(member) = member else { return Response::from_parts(parts, Reply { body, member: None }) };
    // The length changes. An answer to HEAD has the header without the body; for others hyper writes it.
    let length = parts.headers.remove(header::CONTENT_LENGTH);
    if body.is_end_stream() {
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        parts.headers.extend(length.map(|length| (header::CONTENT_LENGTH, (length + member.len()).into())));
        return Response::from_parts(parts, Reply { body, member: None });
    }
    Response::from_parts(parts, Reply { body, member: Some(member) })
}

/// The member `request_id` of a problem, with the comma before it.
pub(super) fn member(id: &HeaderValue) -> Vec<u8> {
    let mut member = Vec::with_capacity(48); // for a ULID
    member.extend_from_slice(br#","request_id":""#);
    for byte in id.as_bytes() {
        if matches!(byte, b'"' | b'\\') {
            member.push(b'\\'); // no other visible character needs it
        }
        member.push(*byte);
    }
    member.push(b'"');
    member
}

/// The body of a problem with one more member at its end. A body that is not a JSON object is returned unchanged.
pub(super) fn with_member(body: Bytes, member: &[u8]) -> Bytes {
    match body.strip_suffix(b"}") {
        Some(open) => [open, member, b"}"].concat().into(),
        None => body,
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    /// The body of a problem is one frame.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match (frame, self.member.take()) {
            (Some(Ok(frame)), Some(member)) => Some(Ok(frame.map_data(|data| with_member(data, &member)))),
            (frame, _) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        if let (Some(length), Some(member)) = (hint.exact(), &self.member) {
            hint.set_exact(length + member.len() as u64);
        }
        hint
    }
}
