//! A layer around all services: records duration and status of each call for the metrics, and adds
//! it to its trace.

use axum::{body::Body, extract::State, middleware::Next};
use http::{Request, Response};
use shared::telemetry::trace;
use tonic::{Code, Status};
use tracing::Span;

use crate::counters::{Calls, known_method};

/// The span of a call. Health probes are too frequent to be traced.
pub(super) fn traced(request: &Request<()>) -> Span {
    let path = request.uri().path();
    if path.starts_with("/grpc.health.") {
        Span::none()
    } else {
        trace::called(known_method(path), request.headers())
    }
}

/// Answers a call, and counts it.
pub(super) async fn counted(
    State(calls): State<Calls>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let mut call = calls.begin(request.uri().path());
    let response = next.run(request).await;
    // An error is in the headers of the response; without one the call succeeded.
    let status = Status::from_header_map(response.headers());
    call.code = status.map_or(Code::Ok, |status| status.code());
    response
}
