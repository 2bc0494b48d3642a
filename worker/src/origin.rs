//! The origin as one process sees it: pooled clients behind the gate of the pace, and what it says of a tar.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use reqwest::{
    Client, RequestBuilder, Response,
    header::{self, HeaderMap, HeaderValue},
};
use shared::job::JobOptions;
use tokio::time::timeout;
use url::Url;

use crate::{
    client::{Clients, OriginError},
    download_error::{DownloadError, shown},
    pace::{Gate, Permit, Priority, Transfer},
    receive_window::ReceiveWindow,
    source::Source,
};

/// No class is longer; twice what the whole of a large one takes with every image in full size.
const LONGEST_TAR: u64 = 64 << 30;

/// A pooled client for the job's origin; clones share all there is, connections included.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    client: Client,
    clients: Arc<Clients>,
    timeout: Duration,
    /// Every request goes through it.
    gate: Arc<Gate>,
    /// The client's last request left its connection to the next.
    keeps: Arc<AtomicBool>,
    window: Arc<ReceiveWindow>,
    /// Requests that are made again.
    pub(crate) retries: Counter,
}

/// The origin's answer to a request for a tar, or for the rest of one.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) transfer: Transfer,
    /// The tar that is being sent.
    pub(crate) source: Source,
    /// What of it the body is.
    pub(crate) part: Part,
}

/// What of a tar a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// From this offset on.
    From(u64),
    /// Nobody can tell.
    Unclear,
}

impl Origin {
    /// Reads what its clients need, and makes the first.
    pub(crate) fn new(job: &JobOptions, gate: Arc<Gate>, retries: Counter) -> Result<Self, OriginError> {
        let clients = Arc::new(Clients::for_job(job)?);
        let (client, keeps, window) = (clients.make()?, Arc::default(), Arc::default());
        Ok(Self { client, clients, timeout: job.timeout, gate, keeps, window, retries })
    }

    /// The same origin, over other connections: those of one client must all be used on the same runtime.
    pub(crate) fn with_own_connections(&self) -> Result<Self, OriginError> {
        Ok(Self { client: self.clients.make()?, keeps: Arc::default(), window: Arc::default(), ..self.clone() })
    }

    /// `--timeout`: the longest time without a byte.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What came of a request, or of a body on its way: told to the pace.
    pub(crate) fn failed(&self, error: &DownloadError) {
        self.gate.failed(error);
    }

    /// Whether bytes may come only so fast (`--max-rate`).
    pub(crate) fn has_rate(&self) -> bool {
        self.gate.has_rate()
    }

    /// Asks for a tar: all of it, or what is missing of a source of which the first `from` bytes are here. `until`: not the
    /// bytes from there on.
    pub(crate) async fn open(
        &self,
        url: &Url,
        known: Option<(&Source, u64)>,
        until: Option<u64>,
        priority: Priority,
    ) -> Result<Opened, DownloadError> {
        let mut request = self.client.get(url.clone());
        if let Some((source, from)) = known
            && let Some(validator) = source.validator()
        {
            let last = until.map_or(String::new(), |until| (until - 1).to_string());
            request = request.header(header::RANGE, format!("bytes={from}-{last}")).header(header::IF_RANGE, validator);
        }
        let transfer = self.send(request, priority).await?;
        let response = transfer.response();
        let part = part(response);
        let source = Source::of_answer(url, response, if let Part::From(from) = part { from } else { 0 });
        if let Some(length) = source.length.filter(|length| *length > LONGEST_TAR) {
            return Err(DownloadError::TooLong { length });
        }
        Ok(Opened { transfer, source, part })
    }

    /// Asks for a tar's length and validators only.
    pub(crate) async fn head(&self, url: &Url) -> Result<Source, DownloadError> {
        let answer = self.send(self.client.head(url.clone()), Priority::New).await?;
        Ok(Source::of_answer(url, answer.response(), 0))
    }

    /// Sends a request when the origin may be asked; anything but a plausible tar is an error.
    async fn send(&self, request: RequestBuilder, priority: Priority) -> Result<Transfer, DownloadError> {
        let again = request.try_clone();
        let mut permit = self.gate.permit(priority).await;
        let may_be_kept = self.keeps.load(Ordering::Relaxed);
        let mut sent = self.send_once(request, &permit).await;
        if let (Ok(Err(error)), Some(again)) = (&sent, again)
            && may_be_kept
            && may_be_stale(error)
        {
            // The origin drops idle connections without a word; who was about to use one tries again for free.
            drop(permit);
            permit = self.gate.permit(Priority::GoingOn).await;
            sent = self.send_once(again, &permit).await;
        }
        let answer = sent.and_then(|sent| plausible(sent.map_err(|error| DownloadError::from_client(&error))?));
        // Before the permit goes, so that nobody is let in whom this keeps out.
        let response = answer.inspect_err(|error| self.failed(error))?;
        if !self.has_rate() {
            // What comes before we read it has come faster than it may.
            self.window.widen(&response);
        }
        Ok(Transfer::new(response, permit))
    }

    /// The outer error: no answer in time.
    async fn send_once(
        &self,
        request: RequestBuilder,
        permit: &Permit,
    ) -> Result<reqwest::Result<Response>, DownloadError> {
        let keeps = permit.keeps_connection();
        self.keeps.store(keeps, Ordering::Relaxed);
        let request = if keeps { request } else { request.header(header::CONNECTION, "close") };
        let answer = timeout(self.timeout, request.send()).await;
        answer.map_err(|_| DownloadError::Timeout { after: self.timeout })
    }
}

/// Whether an answer may be the head of a tar.
fn plausible(response: Response) -> Result<Response, DownloadError> {
    let code = response.status().as_u16();
    if code != 200 && code != 206 {
        let retry_after = retry_after(response.headers());
        return Err(DownloadError::Status { code, url: shown(response.url()), retry_after });
    }
    refuse_what_is_no_tar(response.headers())?;
    Ok(response)
}

/// The connection was there and broke before an answer began.
fn may_be_stale(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout() && !error.is_redirect()
}

/// A page or a compressed body is told apart before a byte of it is read.
fn refuse_what_is_no_tar(headers: &HeaderMap) -> Result<(), DownloadError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let encoding = text(header::CONTENT_ENCODING);
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
        return Err(DownloadError::NotATar { why: format!("unexpected encoding: the body is {encoding}") });
    }
    Ok(())
}

/// `Retry-After` in either of its forms (RFC 9110 §10.2.3), from now.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}

/// Some origins answer 200 and send a part all the same: only 206 with `Content-Range: bytes 5-9/10`, or 200 without, is clear.
fn part(response: &Response) -> Part {
    let partial = response.status() == reqwest::StatusCode::PARTIAL_CONTENT;
    match (partial, response.headers().get(header::CONTENT_RANGE)) {
        (false, None) => Part::Whole,
        (true, Some(range)) => range_start(range).map_or(Part::Unclear, Part::From),
        _ => Part::Unclear,
    }
}

fn range_start(range: &HeaderValue) -> Option<u64> {
    range.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
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

    /// Whether each request of a connection is answered, or its connection closed. Says how many connections there were.
    async fn serve(listener: TcpListener, script: &[&[bool]]) -> usize {
        let mut connections = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            connections += 1;
            for answers in script.get(connections - 1).copied().unwrap_or_default() {
                if stream.read(&mut [0; 4096]).await.unwrap() == 0 || !answers {
                    break;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx").await.unwrap();
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
    async fn only_a_connection_that_was_kept_may_be_stale() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/x.tar", listener.local_addr().unwrap()).parse().unwrap();
        let origin = Origin::new(&job(), Gate::open(1, Arc::default()), Counter::default()).unwrap();
        let other = origin.with_own_connections().unwrap();
        let requests = async {
            assert!(fetch(&origin, &url).await.is_err(), "a new connection that breaks is trouble");
            fetch(&other, &url).await.unwrap();
            fetch(&other, &url).await.expect("over a third connection, for free");
        };
        let (connections, ()) = tokio::join!(serve(listener, &[&[false], &[true, false], &[true]]), requests);
        assert_eq!(connections, 3);
    }

    fn one(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn retry_after_comes_in_seconds_or_as_a_date() {
        let after = |value| retry_after(&one(header::RETRY_AFTER, value));
        assert_eq!(after("30"), Some(Duration::from_secs(30)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(100));
        assert!(after(&later).is_some_and(|wait| (90..=100).contains(&wait.as_secs())));
        assert_eq!(after("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn only_an_encoded_body_is_refused_by_its_headers() {
        assert!(refuse_what_is_no_tar(&one(header::CONTENT_ENCODING, "gzip")).is_err());
        assert!(refuse_what_is_no_tar(&one(header::CONTENT_ENCODING, "identity")).is_ok());
        assert!(refuse_what_is_no_tar(&one(header::CONTENT_TYPE, "application/x-tar")).is_ok());
    }
}
