//! A layer around all services: records duration and status of each call for the metrics, and adds
//! it to its trace.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use shared::telemetry::trace;
use tonic::{
    Code, Status,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};
use tracing::Span;

use crate::counters::{Call, JobCounters, known_call};

/// The span of a call. Health probes are too frequent to be traced.
pub(super) fn traced(request: &Request<()>) -> Span {
    let path = request.uri().path();
    if path.starts_with("/grpc.health.") {
        Span::none()
    } else {
        trace::called(known_call(path), request.headers())
    }
}

/// The layer that counts calls.
#[derive(Debug, Clone)]
pub(super) struct CallMetricsLayer(pub(super) Arc<JobCounters>);

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub(super) struct CountedService<S> {
    inner: S,
    counters: Arc<JobCounters>,
}

impl<S> Layer<S> for CallMetricsLayer {
    type Service = CountedService<S>;

    fn layer(&self, inner: S) -> CountedService<S> {
        CountedService {
            inner,
            counters: Arc::clone(&self.0),
        }
    }
}

impl<S, Body, Answer> Service<Request<Body>> for CountedService<S>
where
    S: Service<Request<Body>, Response = Response<Answer>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut running = RunningCall {
            call: Call::begin(request.uri().path()),
            counters: Arc::clone(&self.counters),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let Ok(response) = &answer {
                // An error is in the headers of the response; without one the call succeeded.
                let status = Status::from_header_map(response.headers());
                running
                    .call
                    .answered(status.map_or(Code::Ok, |status| status.code()));
            }
            answer
        })
    }
}

/// Counts the call when it is dropped, also if the client has disconnected.
struct RunningCall {
    call: Call,
    counters: Arc<JobCounters>,
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.counters.calls.ended(&self.call);
    }
}
