//! The page and the JSON under `/api/v1/`: routes, and their access rules.
//!
//! Every answer of the API is JSON, errors too: `{"error": "one sentence that says what to do"}`.

use std::{collections::HashMap, convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::{Path, RawQuery, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use futures_util::{StreamExt as _, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use serde::{Deserialize, Serialize};
use shared::{
    Wnid,
    http::{LongStream, Peer, Source, json_error},
    protocol::MAX_BATCH,
};

use super::{
    CoordinatorState, RunningJob,
    access::{self, Refusal, Viewer},
    assets, reach,
};
use crate::{
    auth::ServerCredentials,
    dashboard::{ClassesQuery, QueryError, WorkersQuery},
    dispatcher::{DispatchError, Retried},
};

/// Limit on the body of a request, in bytes: [`MAX_BATCH`] class ids have 53 KB.
const MAX_BODY: usize = 128 << 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the page and the API show, and to whom.
#[derive(Clone)]
pub(super) struct PortState {
    pub(super) coordinator: Arc<CoordinatorState>,
    pub(super) credentials: Arc<ServerCredentials>,
    /// Where the port is.
    pub(super) address: SocketAddr,
}

/// The routes of the page and of the API.
pub(super) fn routes(port: PortState) -> Router {
    let page = assets::routes().layer(from_fn_with_state(port.clone(), only_page));
    let api = Router::new()
        .route("/api/v1/viewer", get(viewer))
        .route("/api/v1/snapshot", get(snapshot))
        .route("/api/v1/events", get(events))
        .route("/api/v1/workers", get(workers))
        .route("/api/v1/classes", get(classes))
        .route("/api/v1/classes/{wnid}", get(class))
        .route("/api/v1/retry", post(retry))
        .route("/api/{*rest}", any(no_such_path))
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(port.clone(), only_viewers))
        .with_state(port);
    page.merge(api).layer(from_fn(protect))
}

/// Adds the headers of every answer.
async fn protect(request: Request<Body>, next: Next) -> Response {
    let mut answer = next.run(request).await;
    for (name, value) in assets::PROTECTION {
        let value = HeaderValue::from_static(value);
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// Serves the files of the page to browsers that can show it, and others a text.
async fn only_page(State(port): State<PortState>, request: Request<Body>, next: Next) -> Response {
    let (source, peer) = sender(&request);
    if access::may_load_page(source, peer) {
        return next.run(request).await;
    }
    let status = if request.uri().path() == "/" {
        StatusCode::OK
    } else {
        StatusCode::FORBIDDEN
    };
    (status, reach::text(port.address)).into_response()
}

/// Answers those who may look. The [`Viewer`] is in the extensions of the request.
async fn only_viewers(
    State(port): State<PortState>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let (source, peer) = sender(&request);
    let mut answer = match access::viewer(source, peer, request.headers(), &port.credentials) {
        Ok(viewer) => {
            request.extensions_mut().insert(Arc::new(viewer));
            next.run(request).await
        }
        Err(refusal) => {
            tracing::debug!(address = %peer.address, "a viewer was refused: {refusal}");
            refusal.into_response()
        }
    };
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Where a request comes from.
fn sender(request: &Request<Body>) -> (Source, Peer) {
    let extensions = request.extensions();
    let source = extensions.get().copied();
    let peer = extensions.get().copied();
    let known = source.zip(peer);
    known.expect("the server adds both to each request")
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut answer = json_error(self.status(), &self.to_string());
        if self.status() == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        answer
    }
}

/// Why a request of the API has no answer. The messages are sentences for people.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the coordinator is starting: ask again in a moment")]
    Starting,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("the coordinator is at its end: start it again to resume the job")]
    Ended,
    #[error("the job is done: start the coordinator again with --retry-failed")]
    Done,
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Refused(refusal) => return refusal.into_response(),
            Self::Query(ref error) if error.is_bad_request() => StatusCode::BAD_REQUEST,
            Self::Starting | Self::Ended | Self::Query(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Done => StatusCode::CONFLICT,
        };
        json_error(status, &self.to_string())
    }
}

impl From<DispatchError> for ApiError {
    fn from(error: DispatchError) -> Self {
        match error {
            DispatchError::NotInList(_) => Self::NotFound(error.to_string()),
            _ => Self::Ended,
        }
    }
}

type Answer = Result<Response, ApiError>;

fn json(value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("the types of the API have text keys");
    ([(CONTENT_TYPE, JSON)], text).into_response()
}

impl PortState {
    fn job(&self) -> Result<&RunningJob, ApiError> {
        self.coordinator.running_job.get().ok_or(ApiError::Starting)
    }
}

/// What this viewer may do.
#[derive(Debug, Serialize)]
struct ViewerAnswer {
    may_retry: bool,
}

async fn viewer(Extension(viewer): Extension<Arc<Viewer>>) -> Response {
    json(&ViewerAnswer {
        may_retry: viewer.may_retry,
    })
}

async fn snapshot(State(port): State<PortState>) -> Answer {
    let snapshot = port.job()?.dashboard.snapshot().await?;
    Ok(([(CONTENT_TYPE, JSON)], snapshot).into_response())
}

/// The stream of events. It ends when the token of its viewer is revoked.
async fn events(
    State(port): State<PortState>,
    Extension(viewer): Extension<Arc<Viewer>>,
) -> Answer {
    let subscription = port.job()?.dashboard.subscribe()?;
    let events = stream::unfold(subscription, |mut subscription| async {
        let event = subscription.next().await?;
        Some((Ok::<_, Infallible>(event), subscription))
    });
    let events = events.take_until(viewer.revoked.clone().cancelled_owned());
    let kind = HeaderValue::from_static("text/event-stream");
    // nginx would collect the events.
    let unbuffered = (
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    let body = Body::from_stream(events);
    let mut answer = ([(CONTENT_TYPE, kind), unbuffered], body).into_response();
    answer.extensions_mut().insert(LongStream);
    Ok(answer)
}

async fn workers(State(port): State<PortState>, query: RawQuery) -> Answer {
    let parameters = Parameters::of(query);
    let query = WorkersQuery {
        sort: parameters.text("sort"),
        state: parameters.text("state"),
        q: parameters.text("q"),
        after: parameters.number("after")?,
        limit: parameters.number("limit")?,
    };
    Ok(json(&port.job()?.dashboard.workers(query).await?))
}

async fn classes(State(port): State<PortState>, query: RawQuery) -> Answer {
    let parameters = Parameters::of(query);
    let query = ClassesQuery {
        state: parameters.text("state"),
        worker: parameters.text("worker"),
        q: parameters.text("q"),
        after: parameters.text("after"),
        limit: parameters.number("limit")?,
    };
    Ok(json(&port.job()?.dashboard.classes(query).await?))
}

async fn class(State(port): State<PortState>, Path(text): Path<String>) -> Answer {
    let wnid = wnid(&text)?;
    let found = port.job()?.dashboard.class(wnid).await?;
    let missing = || ApiError::NotFound(format!("{wnid} is not in the list of this job"));
    Ok(json(&found.ok_or_else(missing)?))
}

/// The parameters of a question. An empty one is the same as an absent one; of a repeated one the
/// last applies.
struct Parameters(HashMap<String, String>);

impl Parameters {
    fn of(RawQuery(query): RawQuery) -> Self {
        let query = query.unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned();
        Self(pairs.filter(|(_, value)| !value.is_empty()).collect())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn number(&self, name: &str) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.0.get(name) else {
            return Ok(None);
        };
        let number = text.parse();
        number
            .map(Some)
            .map_err(|_| ApiError::Invalid(format!("{name}={} is no number", shown(text))))
    }
}

/// The beginning of a text of the request, for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The body of a retry: the class ids; none means all failed classes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryRequest {
    wnids: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RetryAnswer {
    retried: u64,
    invalid_rows: u64,
}

/// Retries failed classes, by the same command of the dispatcher as `coordinator retry`. At the end
/// of the job, when the counts are final, it is refused: this port is still open then.
async fn retry(
    State(port): State<PortState>,
    Extension(viewer): Extension<Arc<Viewer>>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    access::may_retry(&viewer, &headers)?;
    if port.coordinator.is_stopping() {
        return Err(ApiError::Ended);
    }
    let handle = &port.job()?.handle;
    if handle.status().is_done() {
        return Err(ApiError::Done);
    }
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| {
        ApiError::Invalid(format!("the body of a retry has at most {MAX_BODY} bytes"))
    })?;
    let wnids = parse_retry(&body)?;
    let Retried {
        classes,
        invalid_rows,
    } = handle.retry_failed(wnids).await?;
    Ok(json(&RetryAnswer {
        retried: classes,
        invalid_rows,
    }))
}

fn parse_retry(body: &[u8]) -> Result<Vec<Wnid>, ApiError> {
    let form = "send {\"wnids\": [\"n01440764\"]}, with an empty list for all failed classes";
    let RetryRequest { wnids } = serde_json::from_slice(body)
        .map_err(|error| ApiError::Invalid(format!("{form}: {error}")))?;
    if wnids.len() > MAX_BATCH {
        let named = wnids.len();
        let error = format!("a retry may name {MAX_BATCH} classes, this one {named}");
        return Err(ApiError::Invalid(error));
    }
    wnids.iter().map(|text| wnid(text)).collect()
}

/// Parses a class id.
fn wnid(text: &str) -> Result<Wnid, ApiError> {
    text.parse()
        .map_err(|error| ApiError::Invalid(format!("{:?} is {error}", shown(text))))
}

async fn no_such_path() -> Response {
    let error = "there is no such path: see deploy/http-api.md for those that there are";
    json_error(StatusCode::NOT_FOUND, error)
}

async fn no_such_method() -> Response {
    let error = "this path takes another method: POST for api/v1/retry, GET for the others";
    json_error(StatusCode::METHOD_NOT_ALLOWED, error)
}
