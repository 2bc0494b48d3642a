//! The origin as one process uses it: pooled clients behind the origin limiter, and what the origin
//! announces about a tar.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::counter::Counter;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};
use shared::{job::JobOptions, origin_address::origin_address};
use tokio::time::timeout;
use url::Url;

use crate::source::shown;
use crate::{
    origin::{
        allowed_addresses::PrivateOrigin,
        client::{Clients, Connections, OriginError},
        download_error::DownloadError,
        limiter::{OriginLimiter, Permit, Priority, Transfer},
        receive_window::ReceiveWindow,
        route::Route,
    },
    source::{ContentRange, Source},
};

mod address_range;
pub(crate) mod allowed_addresses;
mod attempts;
mod authorities;
pub(crate) mod client;
mod client_error;
pub(crate) mod download;
pub(crate) mod download_error;
pub(crate) mod limiter;
mod lookup;
mod proxies;
mod receive_window;
mod redirect;
pub(crate) mod retry;
mod route;

/// Upper limit for the length of a tar in bytes: twice the size of a large class with every image
/// in full size.
const LONGEST_TAR: u64 = 64 << 30;

/// A pooled client for the job's origin; clones share its state, connections included.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    connections: Connections,
    clients: Arc<Clients>,
    timeout: Duration,
    /// Every request passes through it.
    limiter: Arc<OriginLimiter>,
    /// The client's last request left its connection open for the next one.
    reuses_connection: Arc<AtomicBool>,
    window: Arc<ReceiveWindow>,
    /// Number of repeated requests.
    pub(crate) retries: Counter,
}

/// The origin's response to a request for a tar, or for the rest of one.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) transfer: Transfer,
    /// The tar that is being sent.
    pub(crate) source: Source,
    /// The range of the tar that the body contains.
    pub(crate) body: BodyRange,
}

/// The kind of request for the length and validators of a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// `HEAD`, which some origins answer without a length or not at all.
    Head,
    /// `GET` of the first byte.
    FirstByte,
}

/// The range of a tar that a body contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyRange {
    /// All of it.
    Whole,
    /// The bytes from this offset on.
    From(u64),
    /// The headers of the response contradict one another.
    Unclear,
}

impl Origin {
    /// Reads what its clients need, and makes the first client. `private`: whether private
    /// addresses are allowed.
    pub(crate) fn new(
        job: &JobOptions,
        private: PrivateOrigin,
        limiter: Arc<OriginLimiter>,
        retries: Counter,
    ) -> Result<Self, OriginError> {
        let clients = Arc::new(Clients::for_job(job, private)?);
        let connections = clients.make()?;
        let reuses_connection = Arc::default();
        let window = Arc::default();
        Ok(Self {
            connections,
            clients,
            timeout: job.timeout,
            limiter,
            reuses_connection,
            window,
            retries,
        })
    }

    /// The same origin over connections of its own: all requests of one client must be made on the
    /// same runtime.
    pub(crate) fn with_own_connections(&self) -> Result<Self, OriginError> {
        Ok(Self {
            connections: self.clients.make()?,
            reuses_connection: Arc::default(),
            window: Arc::default(),
            ..self.clone()
        })
    }

    /// Returns an error if the origin's address is not allowed, before anything is sent to it.
    pub(crate) async fn check_address(&self) -> Result<(), OriginError> {
        self.clients.check_origin().await
    }

    /// `--timeout`: the longest time without a received byte.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Reports a failed request or body to the origin limiter.
    pub(crate) fn failed(&self, error: &DownloadError) {
        self.limiter
            .tell_first_failure(error, &origin_address(&self.clients.base));
        self.limiter.failed(error);
    }

    /// Whether a rate limit applies (`--max-rate`).
    pub(crate) fn has_rate(&self) -> bool {
        self.limiter.has_rate()
    }

    /// Requests a tar: all of it, or the rest of a source of which the first `from` bytes were
    /// received. `until`: the end of the requested range, exclusive.
    pub(crate) async fn open(
        &self,
        url: &Url,
        known: Option<(&Source, u64)>,
        until: Option<u64>,
        priority: Priority,
    ) -> Result<Opened, DownloadError> {
        let mut headers = HeaderMap::new();
        if let Some((source, from)) = known
            && let Some(Ok(validator)) = source.validator().map(HeaderValue::from_str)
        {
            headers.insert(header::RANGE, range(from, until));
            headers.insert(header::IF_RANGE, validator);
        }
        let transfer = self.send(&Method::GET, url, headers, priority).await?;
        let response = transfer.response();
        let body = body_range(response.status(), response.headers());
        let source = Source::of_answer(
            url,
            response,
            if let BodyRange::From(from) = body {
                from
            } else {
                0
            },
        );
        if let Some(length) = source.length.filter(|length| *length > LONGEST_TAR) {
            return Err(DownloadError::TooLong { length });
        }
        Ok(Opened {
            transfer,
            source,
            body,
        })
    }

    /// Requests only the length and the validators of a tar.
    pub(crate) async fn describe(
        &self,
        url: &Url,
        question: Question,
    ) -> Result<Source, DownloadError> {
        let mut headers = HeaderMap::new();
        let method = match question {
            Question::Head => Method::HEAD,
            Question::FirstByte => {
                headers.insert(header::RANGE, range(0, Some(1)));
                Method::GET
            }
        };
        let answer = self.send(&method, url, headers, Priority::New).await?;
        if question == Question::Head {
            refuse_page(answer.response().headers())?;
        }
        let source = Source::of_answer(url, answer.response(), 0);
        // The length of a part is not the length of the tar.
        let is_part =
            body_range(answer.response().status(), answer.response().headers()) != BodyRange::Whole;
        let total = ContentRange::of(answer.response().headers()).and_then(|range| range.total);
        Ok(Source {
            length: if is_part { total } else { source.length },
            ..source
        })
    }

    /// Sends a request when the origin limiter permits it, and follows redirects. A response that
    /// cannot be a tar is an error.
    async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        priority: Priority,
    ) -> Result<Transfer, DownloadError> {
        let mut permit = self.limiter.permit(priority).await;
        let mut route = Route::new(&self.clients, &self.connections, url.clone());
        let answer = loop {
            let request = match route.request(method.clone(), &headers) {
                Ok(request) => request,
                Err(refused) => break Err(refused.into()),
            };
            let sent;
            (sent, permit) = self.send_hop(request, permit).await;
            let Ok(response) = sent else { break sent };
            match route.follow(&response).await {
                Ok(true) => self.limiter.redirected(),
                Ok(false) => break plausible(response),
                Err(refused) => break Err(refused.into()),
            }
        };
        // Done before the permit is dropped, so that a refusal also delays the request that takes
        // its place.
        let response = answer.inspect_err(|error| self.failed(error))?;
        if !self.has_rate() {
            // With a rate limit the window stays small: bytes that arrive before they are read
            // would exceed the limit.
            self.window.widen(&response);
        }
        Ok(Transfer::new(response, permit))
    }

    /// Sends one request of a route. Repeats it once if it was sent over a connection that the
    /// origin had closed in the meantime.
    async fn send_hop(
        &self,
        request: RequestBuilder,
        mut permit: Permit,
    ) -> (Result<Response, DownloadError>, Permit) {
        let again = request.try_clone();
        let may_be_reused = self.reuses_connection.load(Ordering::Relaxed);
        let mut sent = self.send_once(request, &permit).await;
        if let (Ok(Err(error)), Some(again)) = (&sent, again)
            && may_be_reused
            && may_be_stale(error)
        {
            // The origin may close idle connections at any time; the repetition is not counted as
            // an attempt.
            drop(permit);
            permit = self.limiter.permit(Priority::GoingOn).await;
            sent = self.send_once(again, &permit).await;
        }
        if matches!(sent, Ok(Ok(_))) {
            self.limiter.answered();
        }
        (
            sent.and_then(|sent| sent.map_err(|error| self.download_error(&error))),
            permit,
        )
    }

    fn download_error(&self, error: &reqwest::Error) -> DownloadError {
        let proxy = error
            .url()
            .and_then(|url| self.clients.proxies.for_url(url).ok().flatten());
        client_error::from_client(error, proxy.as_ref())
    }

    /// Sends a request once. The outer error: no response in time.
    async fn send_once(
        &self,
        request: RequestBuilder,
        permit: &Permit,
    ) -> Result<reqwest::Result<Response>, DownloadError> {
        let keeps = permit.keeps_connection();
        self.reuses_connection.store(keeps, Ordering::Relaxed);
        let request = if keeps {
            request
        } else {
            request.header(header::CONNECTION, "close")
        };
        let answer = timeout(self.timeout, request.send()).await;
        answer.map_err(|_| DownloadError::Timeout {
            after: self.timeout,
        })
    }
}

/// Accepts a response whose headers can be those of a tar.
fn plausible(response: Response) -> Result<Response, DownloadError> {
    let code = response.status().as_u16();
    if code != 200 && code != 206 {
        let retry_after = retry_after(response.headers());
        return Err(DownloadError::Status {
            code,
            url: shown(response.url()),
            retry_after,
        });
    }
    refuse_encoded(response.headers())?;
    Ok(response)
}

/// Whether a request failed on an open connection before its response began.
fn may_be_stale(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout() && !error.is_redirect()
}

/// Refuses web pages, for example of a login: their length is not the tar's. A body is judged by
/// its bytes and not by this header.
fn refuse_page(headers: &HeaderMap) -> Result<(), DownloadError> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if ["text/html", "application/xhtml+xml"]
        .iter()
        .any(|page| page.eq_ignore_ascii_case(kind))
    {
        return Err(DownloadError::NotATar {
            why: format!("not a tar: the answer to HEAD is {kind}, e.g. a login page"),
        });
    }
    Ok(())
}

/// Encodings that leave the body unchanged. Uploads to S3 have `aws-chunked`; servers that do not
/// encode the body send the others.
const PLAIN_ENCODINGS: [&str; 6] = [
    "identity",
    "aws-chunked",
    "chunked",
    "none",
    "binary",
    "utf-8",
];

/// Refuses a compressed body before any byte of it is read.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), DownloadError> {
    let values = headers
        .get_all(header::CONTENT_ENCODING)
        .into_iter()
        .map(|value| value.to_str().unwrap_or("unreadable"));
    let encodings: Vec<&str> = values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let is_plain = |name: &str| {
        name.is_empty()
            || PLAIN_ENCODINGS
                .iter()
                .any(|plain| plain.eq_ignore_ascii_case(name))
    };
    if encodings.iter().all(|name| is_plain(name)) {
        return Ok(());
    }
    Err(DownloadError::NotATar {
        why: format!("unexpected encoding: the body is {}", encodings.join(", ")),
    })
}

/// The wait of `Retry-After` in either of its forms (RFC 9110 §10.2.3), from now. A date is
/// relative to the origin's clock, which is `Date` plus the `Age` of the response in a cache (RFC
/// 9111 §4.2.3). Without a `Date` the clock of this host is used.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let date = |name| httpdate::parse_http_date(text(name)?).ok();
    let seconds = |name| {
        text(name).filter(|text: &&str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    if let Some(digits) = seconds(header::RETRY_AFTER) {
        // A number with too many digits for its type means a long wait.
        return Some(Duration::from_secs(digits.parse().unwrap_or(u64::MAX)));
    }
    let until = date(header::RETRY_AFTER)?;
    let Some(answered) = date(header::DATE) else {
        return Some(until.duration_since(SystemTime::now()).unwrap_or_default());
    };
    let age = Duration::from_secs(
        seconds(header::AGE).map_or(0, |digits| digits.parse().unwrap_or(u64::MAX)),
    );
    Some(
        until
            .duration_since(answered)
            .unwrap_or_default()
            .saturating_sub(age),
    )
}

/// The value of a `Range` header; `until`: the end of the range, exclusive.
fn range(from: u64, until: Option<u64>) -> HeaderValue {
    let last = until.map_or(String::new(), |until| (until - 1).to_string());
    HeaderValue::from_str(&format!("bytes={from}-{last}")).expect("digits are allowed in a header")
}

/// The range of the tar that a body contains. Some origins answer 200 and still send a part, and
/// some proxies answer every request with 206. Only these are unambiguous: 206 with `Content-Range:
/// bytes 5-9/10`, 200 without that header, and either with the range of the whole.
fn body_range(status: StatusCode, headers: &HeaderMap) -> BodyRange {
    let is_partial = status == StatusCode::PARTIAL_CONTENT;
    match ContentRange::of(headers) {
        None if !is_partial && !headers.contains_key(header::CONTENT_RANGE) => BodyRange::Whole,
        Some(range) if range.is_whole() => BodyRange::Whole,
        Some(range) if is_partial => BodyRange::From(range.first),
        _ => BodyRange::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderName;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::fixture::job;

    /// For each connection of the script: whether each of its requests is answered, or the
    /// connection closed. Returns the number of connections.
    async fn serve(listener: TcpListener, script: &[&[bool]]) -> usize {
        let mut connections = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            connections += 1;
            for answers in script.get(connections - 1).copied().unwrap_or_default() {
                if stream.read(&mut [0; 4096]).await.unwrap() == 0 || !answers {
                    break;
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
                    .await
                    .unwrap();
            }
            if connections == script.len() {
                break;
            }
        }
        connections
    }

    async fn fetch(origin: &Origin, url: &Url) -> Result<(), DownloadError> {
        let mut opened = origin.open(url, None, None, Priority::New).await?;
        while opened.transfer.chunk().await.unwrap().is_some() {}
        Ok(())
    }

    #[tokio::test]
    async fn only_a_reused_connection_may_be_stale() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/x.tar", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let origin = Origin::new(
            &job(),
            PrivateOrigin::Allowed,
            OriginLimiter::without_budget(1, Arc::default()),
            Counter::default(),
        )
        .unwrap();
        let other = origin.with_own_connections().unwrap();
        let requests = async {
            assert!(
                fetch(&origin, &url).await.is_err(),
                "a new connection that breaks is a failure"
            );
            fetch(&other, &url).await.unwrap();
            fetch(&other, &url)
                .await
                .expect("the repetition uses a third connection");
        };
        let (connections, ()) = tokio::join!(
            serve(listener, &[&[false], &[true, false], &[true]]),
            requests
        );
        assert_eq!(connections, 3);
    }

    /// Forms that browsers and curl accept too.
    #[tokio::test]
    async fn the_head_of_a_response_is_parsed_in_the_forms_that_servers_send() {
        for (head, length) in [
            (
                " 200 OK\r\nContent-Length: 1\r\nX-Folded: one\r\n two\r\n",
                Some(1),
            ),
            (" 200 OK\r\nContent-Length : 1\r\n", Some(1)),
            (
                " 200 OK\r\nContent-Length: 1\r\nNo header at all\r\n",
                Some(1),
            ),
            (
                " 200 OK\r\nContent-Length: 1\r\nX-Latin: f\u{fc}r\r\n",
                Some(1),
            ),
            (" 200\r\nContent-Length: 1\r\n", Some(1)),
            (" 200 OK\r\nTransfer-Encoding: chunked\r\n", None),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url: Url = format!("http://{}/x.tar", listener.local_addr().unwrap())
                .parse()
                .unwrap();
            let origin = Origin::new(
                &job(),
                PrivateOrigin::Allowed,
                OriginLimiter::without_budget(1, Arc::default()),
                Counter::default(),
            )
            .unwrap();
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
                stream
                    .write_all(format!("HTTP/1.1{head}\r\n").as_bytes())
                    .await
                    .unwrap();
            };
            let (opened, ()) = tokio::join!(origin.open(&url, None, None, Priority::New), serve);
            assert_eq!(opened.unwrap().source.length, length, "{head}");
        }
    }

    fn one(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn retry_after_is_in_seconds_or_a_date() {
        let after = |value| retry_after(&one(header::RETRY_AFTER, value));
        assert_eq!(after("30"), Some(Duration::from_secs(30)));
        assert_eq!(
            after("99999999999999999999999"),
            Some(Duration::from_secs(u64::MAX))
        );
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(after(&later).is_some_and(|wait| (90..=100).contains(&wait.as_secs())));
        for unclear in [
            "soon",
            "",
            "-5",
            "+5",
            "1.5",
            "Wed, 31 Feb 2015 07:28:00 GMT",
        ] {
            assert_eq!(after(unclear), None, "{unclear:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_date_of_retry_after_is_relative_to_the_origins_clock() {
        const UNTIL: &str = "Wed, 21 Oct 2065 07:28:30 GMT";
        let after = |until, date, age: Option<&str>| {
            let mut headers = one(header::RETRY_AFTER, until);
            headers.extend(one(header::DATE, date));
            headers.extend(age.map(|age| (header::AGE, HeaderValue::from_str(age).unwrap())));
            retry_after(&headers).unwrap().as_secs()
        };
        assert_eq!(after(UNTIL, "Wed, 21 Oct 2065 07:28:00 GMT", None), 30);
        // The obsolete forms, of either header (RFC 9110 §5.6.7).
        assert_eq!(after(UNTIL, "Wed Oct 21 07:28:00 2065", None), 30);
        assert_eq!(
            after(
                "Wednesday, 21-Oct-65 07:28:30 GMT",
                "Wed, 21 Oct 2065 07:28:00 GMT",
                None
            ),
            30
        );
        assert_eq!(after(UNTIL, "Wed, 21 Oct 2065 07:28:30 GMT", None), 0);
        assert_eq!(
            after(UNTIL, "Wed, 21 Oct 2065 07:29:00 GMT", None),
            0,
            "the date has passed"
        );
        assert_eq!(
            after(UNTIL, "Thu, 01 Jan 1970 00:00:00 GMT", None),
            3_023_335_710,
            "a limit is set elsewhere"
        );
        // The response was in a cache.
        assert_eq!(
            after(UNTIL, "Wed, 21 Oct 2065 07:28:00 GMT", Some("20")),
            10
        );
        assert_eq!(
            after(UNTIL, "Wed, 21 Oct 2065 07:28:00 GMT", Some("3600")),
            0
        );
        assert_eq!(
            after(
                UNTIL,
                "Wed, 21 Oct 2065 07:28:00 GMT",
                Some("99999999999999999999999")
            ),
            0
        );
        assert_eq!(
            after(UNTIL, "Wed, 21 Oct 2065 07:28:00 GMT", Some("-5")),
            30,
            "an invalid age"
        );
        assert_eq!(
            after("30", "Wed, 21 Oct 2065 07:28:00 GMT", Some("20")),
            30,
            "seconds are relative to now"
        );
        // Without a readable date the clock of this host is used.
        assert_eq!(after("Wed, 21 Oct 2015 07:28:30 GMT", "today", None), 0);
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!((90..=100).contains(&after(&later, "today", None)));
    }

    #[test]
    fn only_an_encoded_body_is_refused_by_its_headers() {
        for (encoding, is_plain) in [
            ("gzip", false),
            ("br", false),
            ("zstd", false),
            ("gzip, aws-chunked", false),
            ("aws-chunked,gzip", false),
            ("rot13", false),
            ("identity", true),
            ("Identity", true),
            ("aws-chunked", true),
            ("aws-chunked, identity", true),
            ("aws-chunked,", true),
            ("binary", true),
            ("UTF-8", true),
            ("chunked", true),
            ("", true),
        ] {
            assert_eq!(
                refuse_encoded(&one(header::CONTENT_ENCODING, encoding)).is_ok(),
                is_plain,
                "{encoding}"
            );
        }
        let mut two = one(header::CONTENT_ENCODING, "aws-chunked");
        two.append(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let refused = refuse_encoded(&two).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "unexpected encoding: the body is aws-chunked, gzip"
        );
        assert!(refuse_encoded(&one(header::CONTENT_TYPE, "application/x-tar")).is_ok());
    }

    #[test]
    fn a_body_is_the_whole_or_a_part_only_if_status_and_range_agree() {
        for (status, range, expected) in [
            (200, None, BodyRange::Whole),
            (206, None, BodyRange::Unclear),
            (206, Some("bytes 5-9/10"), BodyRange::From(5)),
            (206, Some("bytes 0-4/10"), BodyRange::From(0)),
            (206, Some("bytes 5-9/*"), BodyRange::From(5)),
            (206, Some("Bytes 5-9/10"), BodyRange::From(5)),
            (206, Some("bytes 0-9/10"), BodyRange::Whole),
            (200, Some("bytes 0-9/10"), BodyRange::Whole),
            (206, Some("bytes 0-9/*"), BodyRange::From(0)),
            (206, Some("bytes 0-10/10"), BodyRange::Unclear),
            (206, Some("bytes 9-5/10"), BodyRange::Unclear),
            (206, Some("bytes */10"), BodyRange::Unclear),
            (206, Some("items 0-9/10"), BodyRange::Unclear),
            (200, Some("bytes 5-9/10"), BodyRange::Unclear),
            (200, Some("bytes"), BodyRange::Unclear),
        ] {
            let headers = range
                .map(|range| one(header::CONTENT_RANGE, range))
                .unwrap_or_default();
            assert_eq!(
                body_range(StatusCode::from_u16(status).unwrap(), &headers),
                expected,
                "{status} {range:?}"
            );
        }
    }
}
