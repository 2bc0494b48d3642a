//! The origin as one process sees it: a pooled client, the time to leave it alone, and what it says of a tar.

use std::{sync::Mutex, time::Duration};

use prometheus_client::metrics::counter::Counter;
use reqwest::{
    Client, Response,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use shared::job::JobOptions;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::{
    download_error::{DownloadError, shown},
    redirect,
    retry::LONGEST_RETRY_AFTER,
    source::Source,
};

/// The real server drops idle connections within seconds, so they are not kept for longer.
const POOL_IDLE: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// No class is longer; twice what the whole of a large one takes with every image in full size.
const LONGEST_TAR: u64 = 64 << 30;

/// A pooled client for the job's origin.
#[derive(Debug)]
pub(crate) struct Origin {
    client: Client,
    timeout: Duration,
    /// Until then nobody of this process asks the origin for anything.
    quiet_until: Mutex<Instant>,
    /// Requests that are made again.
    pub(crate) retries: Counter,
}

/// Why no client for the origin could be made.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// A header of `--header-file` that HTTP does not allow.
    #[error("use the request header {name:?}: its name or value has characters that HTTP forbids")]
    Header {
        /// The header's name; the value is secret.
        name: String,
    },
    /// The extra certificate authority.
    #[error("read the certificates of --cacert: {0}")]
    Certificate(reqwest::Error),
    /// The client itself, e.g. because the system has no certificate authorities.
    #[error("start the HTTP client (on a system without CA certificates give --cacert): {0}")]
    Client(reqwest::Error),
}

/// The origin's answer to a request for a tar, or for the rest of one.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) response: Response,
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
    /// From this offset to the end.
    From(u64),
    /// Nobody can tell.
    Unclear,
}

impl Origin {
    /// Makes the client. `connections`: as many as downloads run at once.
    pub(crate) fn new(job: &JobOptions, connections: usize, retries: Counter) -> Result<Self, OriginError> {
        let base = job.url.for_class("n00000000".parse().expect("a well-formed id"));
        let host = base.host_str().unwrap_or_default().to_owned();
        let sent_to = redirect::SentTo::default();
        let mut builder = Client::builder()
            .http1_only() // one connection a transfer: HTTP/2 would put all of them on one
            .user_agent(concat!("imagenet-downloader/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers(job)?)
            .redirect(redirect::policy(base, !job.headers.is_empty(), sent_to.clone()))
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT.min(job.timeout))
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(connections);
        if is_loopback(&host) {
            builder = builder.no_proxy();
        }
        builder = builder.dns_resolver(redirect::PublicAddresses { sent_to });
        if !job.ca_pem.is_empty() {
            let certificates = reqwest::Certificate::from_pem_bundle(&job.ca_pem).map_err(OriginError::Certificate)?;
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(OriginError::Client)?;
        Ok(Self { client, timeout: job.timeout, quiet_until: Mutex::new(Instant::now()), retries })
    }

    /// `--timeout`: the longest time without a byte.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks for a tar: all of it, or what is missing of a source of which the first `from` bytes are here.
    pub(crate) async fn open(&self, url: &Url, known: Option<(&Source, u64)>) -> Result<Opened, DownloadError> {
        let mut request = self.client.get(url.clone());
        if let Some((source, from)) = known
            && let Some(validator) = source.validator()
        {
            request = request.header(header::RANGE, format!("bytes={from}-")).header(header::IF_RANGE, validator);
        }
        let response = self.send(request).await?;
        let part = part(&response);
        let source = Source::of_answer(url, &response, if let Part::From(from) = part { from } else { 0 });
        if let Some(length) = source.length.filter(|length| *length > LONGEST_TAR) {
            return Err(DownloadError::TooLong { length });
        }
        Ok(Opened { response, source, part })
    }

    /// Asks for a tar's length and validators only.
    pub(crate) async fn head(&self, url: &Url) -> Result<Source, DownloadError> {
        let response = self.send(self.client.head(url.clone())).await?;
        Ok(Source::of_answer(url, &response, 0))
    }

    /// Sends a request when the origin may be asked; anything but a plausible tar is an error.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, DownloadError> {
        let again = request.try_clone();
        let sent = match (self.send_once(request).await?, again) {
            // The origin drops idle connections without a word; who was about to use one tries again for free.
            (Err(error), Some(again)) if may_be_stale(&error) => self.send_once(again).await?,
            (sent, _) => sent,
        };
        let response = sent.map_err(|error| DownloadError::from_client(&error))?;
        let code = response.status().as_u16();
        if code != 200 && code != 206 {
            let retry_after = retry_after(response.headers());
            if let (429 | 503, Some(wait)) = (code, retry_after) {
                self.leave_alone(wait);
            }
            return Err(DownloadError::Status { code, url: shown(response.url()), retry_after });
        }
        refuse_what_is_no_tar(response.headers())?;
        Ok(response)
    }

    /// The outer error: no answer in time.
    async fn send_once(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Result<Response>, DownloadError> {
        self.quiet().await;
        let answer = timeout(self.timeout, request.send()).await;
        answer.map_err(|_| DownloadError::Timeout { after: self.timeout })
    }

    /// Holds back every request of this process for a while, because the origin asked one of them to wait.
    fn leave_alone(&self, wait: Duration) {
        let until = Instant::now() + wait.min(LONGEST_RETRY_AFTER);
        let mut quiet_until = self.quiet_until.lock().expect("nothing panics while it holds this lock");
        if until > *quiet_until {
            *quiet_until = until;
            tracing::info!(seconds = wait.as_secs(), "the origin asks us to wait");
        }
    }

    async fn quiet(&self) {
        loop {
            let until = *self.quiet_until.lock().expect("nothing panics while it holds this lock");
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// The connection was there and broke before an answer began.
fn may_be_stale(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout() && !error.is_redirect()
}

fn headers(job: &JobOptions) -> Result<HeaderMap, OriginError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for secret in &job.headers {
        let invalid = || OriginError::Header { name: secret.name.clone() };
        let name: HeaderName = secret.name.parse().map_err(|_| invalid())?;
        let mut value = HeaderValue::from_bytes(&secret.value).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
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
    use super::*;

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

    #[test]
    fn loopback_goes_round_the_proxy() {
        for (host, expected) in [("127.0.0.1", true), ("localhost", true), ("[::1]", true), ("image-net.org", false)] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}
