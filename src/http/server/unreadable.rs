//! Requests that cannot be read. hyper refuses them before any handler, by an answer without a body, and has no hook for
//! it: such an answer is recognised among the bytes that it writes, and a problem is written in its place.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;

use super::super::problem::{self, PROBLEM_TYPE};
use super::super::problem_kind::ProblemKind;
use super::super::request_id;
use super::reply::{member, with_member};

/// The end of a header.
const END: &[u8] = b"\r\n\r\n";

/// A problem that is being written in place of an answer of hyper's.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The bytes that hyper believes to be written.
    replaced: usize,
    left: Bytes,
}

impl Refusal {
    /// The refusal in place of hyper's answer, and where that begins, if it is the end of `bytes`. Every answer of a
    /// handler has the header `Request-Id`, which hyper's has not.
    fn at_end_of(bytes: &[u8]) -> Option<(usize, Self)> {
        let head = bytes.strip_suffix(END)?;
        let begin = (0..head.len()).rev().find(|at| head[*at..].starts_with(b"HTTP/1."))?;
        let answer = std::str::from_utf8(&head[begin..]).ok()?;
        let mut lines = answer.split("\r\n");
        let status_line = lines.next()?;
        let kind = problem::unreadable(status_line.split(' ').nth(1)?)?;
        let is_named =
            |line: &str, name: &str| line.split(':').next()?.eq_ignore_ascii_case(name).then_some(());
        if answer.split("\r\n").any(|line| is_named(line, request_id::REQUEST_ID.as_str()).is_some()) {
            return None;
        }
        let kept = lines.filter(|line| is_named(line, "content-length").is_none());
        let replaced = bytes.len() - begin;
        Some((begin, Self { replaced, left: answer_of(kind, status_line, kept) }))
    }

    /// Writes what is left. Ready with the bytes that it replaces.
    fn poll_write(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        while !self.left.is_empty() {
            match ready!(stream.as_mut().poll_write(cx, &self.left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.left.advance(written),
            }
        }
        Poll::Ready(Ok(self.replaced))
    }
}

/// The stream of a connection, in whose answers those of hyper's are replaced.
#[derive(Debug)]
pub(super) struct Answers<S> {
    pub(super) stream: S,
    refusal: Option<Refusal>,
}

impl<S: AsyncWrite + Unpin> Answers<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, refusal: None }
    }

    /// See [`AsyncWrite::poll_write_vectored`].
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = Pin::new(&mut self.stream);
        if self.refusal.is_none() {
            match parts
                .split_last()
                .and_then(|(last, before)| Some((Refusal::at_end_of(last)?, last, before)))
            {
                None => return stream.poll_write_vectored(cx, parts),
                Some(((0, refusal), _, [])) => self.refusal = Some(refusal),
                // The end of an earlier answer is written first.
                Some(((begin, _), last, [])) => return stream.poll_write(cx, &last[..begin]),
                Some((_, _, before)) => return stream.poll_write_vectored(cx, before),
            }
        }
        let Some(refusal) = &mut self.refusal else { return Poll::Ready(Ok(0)) };
        let replaced = ready!(refusal.poll_write(stream.as_mut(), cx));
        self.refusal = None;
        Poll::Ready(replaced)
    }
}

/// An answer with the status line and the headers of hyper's.
fn answer_of<'a>(kind: ProblemKind, status_line: &str, kept: impl Iterator<Item = &'a str>) -> Bytes {
    let id = request_id::generate();
    let body = with_member(problem::plain(kind), &member(&id));
    let kept: String = kept.flat_map(|line| [line, "\r\n"]).collect();
    let (id, length, name) = (id.to_str().unwrap_or_default(), body.len(), &request_id::REQUEST_ID);
    let head = format!(
        "{status_line}\r\n{kept}content-type: {PROBLEM_TYPE}\r\ncontent-length: {length}\r\n{name}: {id}\r\n\r\n"
    );
    tracing::debug!(request_id = id, "a request cannot be read: {status_line}");
    [head.as_bytes(), &body].concat().into()
}
