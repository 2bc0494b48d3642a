//! The demo's HTTP origin: it supports ranges and validators and, by script, some faults of the
//! real server.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use shared::Wnid;

use super::{Script, pictures};

/// Bytes of one piece of a body.
const CHUNK: usize = 4096;
const LAST_MODIFIED: HeaderValue = HeaderValue::from_static("Sat, 01 Jan 2022 00:00:00 GMT");

/// A class and its number of requests.
struct DemoClass {
    script: Script,
    tar: Bytes,
    etag: HeaderValue,
    requests: AtomicU32,
}

/// All classes, and the duration of a class over one connection.
struct DemoClasses {
    by_file: HashMap<String, DemoClass>,
    class_takes: Duration,
}

/// Serves `/<wnid>.tar` for each class. Creates all images, so it must not run in an async task.
pub(super) fn router(classes: &[(Wnid, Script)], class_takes: Duration) -> Router {
    let class = |(seed, (wnid, script)): (u32, &(Wnid, Script))| {
        let tar = Bytes::from(pictures::tar_of(*wnid, seed));
        let etag = HeaderValue::try_from(format!("\"{wnid}-{:x}\"", tar.len()))
            .expect("an id and a number are text");
        let class = DemoClass {
            script: *script,
            tar,
            etag,
            requests: AtomicU32::new(0),
        };
        (format!("{wnid}.tar"), class)
    };
    let classes = DemoClasses {
        by_file: (0..).zip(classes).map(class).collect(),
        class_takes,
    };
    Router::new()
        .route("/{file}", get(answer))
        .with_state(Arc::new(classes))
}

async fn answer(
    State(classes): State<Arc<DemoClasses>>,
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let class = classes.by_file.get(&file);
    let Some(class) = class.filter(|class| class.script != Script::Missing) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let is_first = method == Method::GET && class.requests.fetch_add(1, Ordering::Relaxed) == 0;
    if is_first && class.script == Script::BusyFirst {
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        return (busy, [(header::RETRY_AFTER, "1")]).into_response();
    }
    let length = class.tar.len();
    let start = match range_start(&headers, &class.etag) {
        Some(start) if start >= length => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
        start => start,
    };
    let body = class.tar.slice(start.unwrap_or(0)..);
    let size = body.len();
    let paced = |part| paced(part, length, classes.class_takes);
    let body = if is_first && class.script == Script::CutFirst {
        let half = body.slice(..size / 2);
        let cut = stream::once(async { Err(io::Error::from(io::ErrorKind::ConnectionReset)) });
        Body::from_stream(paced(half).chain(cut))
    } else {
        Body::from_stream(paced(body))
    };
    let head = [
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-tar"),
        ),
        (header::CONTENT_LENGTH, size.into()),
        (header::ETAG, class.etag.clone()),
        (header::LAST_MODIFIED, LAST_MODIFIED),
    ];
    let Some(start) = start else {
        return (head, body).into_response();
    };
    let range = format!("bytes {start}-{}/{length}", length - 1);
    let range = [(header::CONTENT_RANGE, range)];
    (StatusCode::PARTIAL_CONTENT, head, range, body).into_response()
}

/// Parses `Range: bytes=N-`, unless `If-Range` names another version. A server may ignore other
/// forms of ranges (RFC 9110 §14.2).
fn range_start(headers: &HeaderMap, etag: &HeaderValue) -> Option<usize> {
    let version = headers.get(header::IF_RANGE);
    if version.is_some_and(|version| version != etag && version != LAST_MODIFIED) {
        return None;
    }
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

/// The body in small pieces, delayed so that a tar of `length` bytes takes `takes`.
fn paced(
    body: Bytes,
    length: usize,
    takes: Duration,
) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let pieces = u32::try_from(length.div_ceil(CHUNK)).unwrap_or(u32::MAX);
    let pause = takes / pieces.max(1);
    stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let piece = rest.split_to(rest.len().min(CHUNK));
        Some((Ok(piece), rest))
    })
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, extract::Request};
    use tower::ServiceExt as _;

    use super::*;

    async fn send(
        router: &Router,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
    ) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        router
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    }

    fn router_of(script: Script) -> Router {
        router(
            &[("n02124075".parse().unwrap(), script)],
            Duration::from_millis(1500),
        )
    }

    fn text(response: &Response, name: &header::HeaderName) -> String {
        response.headers()[name].to_str().unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_response_is_cut_and_a_range_request_gets_the_rest() {
        let router = router_of(Script::CutFirst);
        let head = send(&router, Method::HEAD, "/n02124075.tar", &[]).await;
        let length = text(&head, &header::CONTENT_LENGTH);
        let etag = text(&head, &header::ETAG);
        let mut first = send(&router, Method::GET, "/n02124075.tar", &[])
            .await
            .into_body()
            .into_data_stream();
        let mut received = Vec::new();
        while let Some(Ok(piece)) = first.next().await {
            received.extend(piece);
        }
        assert_eq!(received.len(), length.parse::<usize>().unwrap() / 2);
        let range = format!("bytes={}-", received.len());
        let rest = send(
            &router,
            Method::GET,
            "/n02124075.tar",
            &[(header::RANGE, &range), (header::IF_RANGE, &etag)],
        )
        .await;
        assert_eq!(rest.status(), StatusCode::PARTIAL_CONTENT);
        assert!(text(&rest, &header::CONTENT_RANGE).ends_with(&format!("/{length}")));
        received.extend(to_bytes(rest.into_body(), usize::MAX).await.unwrap());
        assert_eq!(received, pictures::tar_of("n02124075".parse().unwrap(), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn another_version_is_sent_whole_and_a_range_beyond_the_end_is_refused() {
        let router = router_of(Script::Plain);
        let other = [(header::RANGE, "bytes=5-"), (header::IF_RANGE, "\"other\"")];
        assert_eq!(
            send(&router, Method::GET, "/n02124075.tar", &other)
                .await
                .status(),
            StatusCode::OK
        );
        let beyond = [(header::RANGE, "bytes=99999999-")];
        let refused = send(&router, Method::GET, "/n02124075.tar", &beyond).await;
        assert_eq!(refused.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_class_is_served_the_second_time_and_a_missing_one_never() {
        let router = router_of(Script::BusyFirst);
        let busy = send(&router, Method::GET, "/n02124075.tar", &[]).await;
        assert_eq!(
            (busy.status(), text(&busy, &header::RETRY_AFTER)),
            (StatusCode::SERVICE_UNAVAILABLE, "1".into())
        );
        assert_eq!(
            send(&router, Method::GET, "/n02124075.tar", &[])
                .await
                .status(),
            StatusCode::OK
        );
        assert_eq!(
            send(&router, Method::GET, "/n00000000.tar", &[])
                .await
                .status(),
            StatusCode::NOT_FOUND
        );
        let missing = router_of(Script::Missing);
        for _ in 0..2 {
            assert_eq!(
                send(&missing, Method::GET, "/n02124075.tar", &[])
                    .await
                    .status(),
                StatusCode::NOT_FOUND
            );
        }
    }
}
