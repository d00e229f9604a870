//! One connection, from its first byte to its last.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Bytes, HttpBody};
use axum::http::Request;
use axum::response::IntoResponse as _;
use futures_util::future::{Either, ready};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::super::address::Peer;
use super::super::{framing, request_id};
use super::reply;
use super::slots::{Phase, Slot};
use super::unreadable::Answers;

/// Bytes of a request's header, at most. (It has at most 100 header lines, hyper's default.)
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Serves a connection until the client closes it, its slot is evicted, or, after `stop`, the request in progress is
/// answered.
pub(super) async fn serve(
    (stream, peer): (TcpStream, IpAddr),
    slot: Arc<Slot>,
    router: Router,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Watched { answers: Answers::new(stream), slot: slot.clone() });
    let service = service_fn(|mut request: Request<Incoming>| {
        slot.begin(Phase::Work);
        let id = request_id::identify(request.headers_mut());
        request.extensions_mut().insert(Peer(peer));
        let answer = match framing::refuse(&request) {
            Ok(()) => {
                let request = request.map(|body| WatchedBody { body, slot: slot.clone() });
                Either::Left(router.clone().oneshot(request))
            }
            Err(problem) => Either::Right(ready(Ok(problem.into_response()))),
        };
        let slot = slot.clone();
        async move {
            let answer = answer.await;
            slot.begin(Phase::Answer);
            answer.map(|answer| reply::identified(answer, id))
        }
    });
    let connection = http1::Builder::new()
        .half_close(true) // a client that ends its half behind a request still reads the answer
        .header_read_timeout(None) // its slot has one
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = slot.evicted() => Ok(()),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = slot.evicted() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The bytes of a connection. They move its slot from phase to phase.
struct Watched {
    answers: Answers<TcpStream>,
    slot: Arc<Slot>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.answers.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.slot.turn(Phase::Idle, Phase::Header);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.answers.poll_write(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answers.poll_write(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.answers.stream.is_write_vectored()
    }

    /// hyper flushes when it has written all of an answer.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.answers.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.slot.turn(Phase::Answer, Phase::Idle);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.answers.stream).poll_shutdown(cx)
    }
}

/// A body. It moves the slot into the phase in which the service waits for the client.
struct WatchedBody {
    body: Incoming,
    slot: Arc<Slot>,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match frame {
            Poll::Pending => self.slot.turn(Phase::Work, Phase::Body),
            Poll::Ready(_) => self.slot.turn(Phase::Body, Phase::Work),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
