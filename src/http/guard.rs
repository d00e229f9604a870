//! What stands before every handler: rights, the bound on requests in progress, and the trace in the log.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::handler::Handler;
use axum::http::HeaderValue;
use axum::response::{IntoResponse as _, Response};
use futures_util::future::Either;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::instrument::{Instrument as _, Instrumented};
use tracing::{Level, Span};

use super::address::{self, Peer};
use super::api::Api;
use super::caller::{self, Stopped};
use super::failure::Failure;
use super::problem::Problem;
use super::request_id;
use super::route::{Load, Route};
use crate::cause::Traceparent;
use crate::identity::authenticator::{Authenticator, News};
use crate::limits::Limits;

/// Requests in progress of one [`Load`] that ask Postgres through the pool, at most; more are refused at once. They share
/// the few connections of the pool, and a request behind this many still waits far less than the pool's
/// `ACQUIRE_TIMEOUT`.
pub const POOL_REQUESTS_MAX: usize = 512;

/// What all guards of a process share.
#[derive(Debug)]
pub(super) struct Guards {
    /// Nothing in a process without the API.
    authenticator: Option<Authenticator>,
    /// Nothing in a process without the API.
    limits: Option<Arc<Limits>>,
    /// A permit for each request in progress of the routes with [`Load::Admin`].
    admin_requests: Arc<Semaphore>,
    /// The same for [`Load::Reads`].
    reads: Arc<Semaphore>,
}

impl Guards {
    pub(super) fn new(api: Option<&Api>) -> Self {
        let authenticator = api.map(|api| api.authenticator.clone());
        let limits = api.map(|api| api.limits.clone());
        let [admin_requests, reads] = [(); 2].map(|()| Arc::new(Semaphore::new(POOL_REQUESTS_MAX)));
        Self { authenticator, limits, admin_requests, reads }
    }
}

/// The guard of a route. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    route: &'static Route,
    guards: Arc<Guards>,
}

impl Guard {
    pub(super) fn new(route: &'static Route, guards: Arc<Guards>) -> Self {
        Self { route, guards }
    }

    /// Stands before a handler.
    pub(super) fn before<H>(self, handler: H) -> Guarded<H> {
        Guarded { guard: self, handler }
    }

    /// Lets a request through, which then holds a permit until it is answered.
    fn admit(&self, request: &mut Request) -> Result<Passage, Stopped> {
        self.limit_address(request).map_err(Stopped::Refused)?;
        self.pass(request)
    }

    /// The same for a request that counts already as one from its address.
    fn pass(&self, request: &mut Request) -> Result<Passage, Stopped> {
        let Self { route, guards } = self;
        let caller = caller::check(route, request.headers(), guards.authenticator.as_ref())?;
        if let Some((limits, caller)) = guards.limits.as_ref().zip(caller.as_ref()) {
            let counted = limits.of_principal(&caller.cause.principal);
            counted.map_err(|exceeded| Stopped::Refused(exceeded.into()))?;
        }
        let permits = match route.load {
            Load::Probe | Load::Light | Load::Claims => None,
            Load::Admin => Some(&guards.admin_requests),
            Load::Reads => Some(&guards.reads),
        };
        let permit = permits.map(|permits| permits.clone().try_acquire_owned()).transpose();
        let permit = permit.map_err(|_| Stopped::Refused(Problem::overloaded()))?;
        let request_id = request_id::of(request.headers()).cloned();
        let traceparent = caller.as_ref().and_then(|caller| caller.cause.traceparent.clone());
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        Ok(Passage { route, traceparent, request_id, _permit: permit })
    }

    /// The same, once the news is known. Only a request whose token is unknown comes here.
    async fn pass_later(&self, request: &mut Request, news: News) -> Result<Passage, Problem> {
        if let Some(authenticator) = &self.guards.authenticator {
            authenticator.news(news).await;
        }
        self.pass(request).map_err(|stopped| match stopped {
            Stopped::Refused(problem) => problem,
            Stopped::Failed | Stopped::Unknown(_) => self.failed(request),
        })
    }

    /// The limits of this process, and the peer that has sent the request.
    fn limits_of(&self, request: &Request) -> Option<(&Limits, Peer)> {
        self.guards.limits.as_deref().zip(request.extensions().get().copied())
    }

    fn limit_address(&self, request: &Request) -> Result<(), Problem> {
        match self.limits_of(request) {
            Some((limits, peer)) if self.route.load != Load::Probe => limits
                .of_address(|trusted| address::client(peer, request.headers(), trusted))
                .map_err(Problem::from),
            _ => Ok(()),
        }
    }

    /// What a request is answered whose token is not valid. One with a valid token is never refused because of others
    /// from its address: many clients may share an address behind a proxy.
    fn failed(&self, request: &Request) -> Problem {
        let counted = self.limits_of(request).map_or(Ok(()), |(limits, peer)| {
            limits.of_failed_login(|trusted| address::client(peer, request.headers(), trusted))
        });
        counted.map_or_else(Problem::from, |()| Problem::unauthorized())
    }
}

/// A handler behind a guard.
#[derive(Clone, Debug)]
pub(super) struct Guarded<H> {
    guard: Guard,
    handler: H,
}

/// Boxes nothing for a caller who is known: a claim costs no allocation more than the handler's own.
impl<H, T, S> Handler<T, S> for Guarded<H>
where
    H: Handler<T, S, Future: Unpin>,
    T: 'static,
    S: Send + 'static,
{
    type Future = Either<Ready<Response>, Either<Answering<H::Future>, Later>>;

    fn call(self, mut request: Request, state: S) -> Self::Future {
        let Self { guard, handler } = self;
        match guard.admit(&mut request) {
            Ok(passage) => Either::Right(Either::Left(passage.answer(handler, request, state))),
            Err(Stopped::Refused(problem)) => Either::Left(ready(problem.into_response())),
            Err(Stopped::Failed) => Either::Left(ready(guard.failed(&request).into_response())),
            Err(Stopped::Unknown(news)) => Either::Right(Either::Right(Box::pin(async move {
                match guard.pass_later(&mut request, news).await {
                    Ok(passage) => passage.answer(handler, request, state).await,
                    Err(problem) => problem.into_response(),
                }
            }))),
        }
    }
}

/// The answer to a request that waits before it is let through.
type Later = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A request in progress.
#[derive(Debug)]
struct Passage {
    route: &'static Route,
    traceparent: Option<Traceparent>,
    request_id: Option<HeaderValue>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Passage {
    fn answer<H, T, S>(self, handler: H, request: Request, state: S) -> Answering<H::Future>
    where
        H: Handler<T, S>,
    {
        let answer = handler.call(request, state).instrument(self.span());
        Answering { answer, passage: self }
    }

    /// The span in which the handler runs. A span costs 0.85 µs, a third of what routing, rights and parsing of a claim
    /// cost together: so all routes but those of operators have one only if the log shows DEBUG, and [`Answering`] logs the
    /// failure of a request without one.
    fn span(&self) -> Span {
        if self.route.load != Load::Admin && !tracing::enabled!(Level::DEBUG) {
            return Span::none();
        }
        self.log_span()
    }

    /// Method, template of the path, trace id, if there is one, and the id of the request. Its level is ERROR, so that every log level shows
    /// it.
    fn log_span(&self) -> Span {
        let trace_id = self.traceparent.as_ref().map(Traceparent::trace_id);
        let request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok());
        let Route { method, path, .. } = self.route;
        tracing::error_span!("request", %method, route = path, trace_id, request_id)
    }
}

/// The answer of a handler, while it is awaited.
#[derive(Debug)]
pub(super) struct Answering<F> {
    answer: Instrumented<F>,
    passage: Passage,
}

impl<F: Future<Output = Response> + Unpin> Future for Answering<F> {
    type Output = Response;

    /// Logs what made the handler fail, which happens here alone.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|mut response| {
            if let Some(failure) = response.extensions_mut().remove::<Failure>() {
                let Passage { route, traceparent, .. } = &self.passage;
                failure.log(route, traceparent.as_ref(), || self.passage.log_span());
            }
            response
        })
    }
}
