//! The origin as one process uses it: pooled clients behind the origin limiter, and what the origin
//! announces about a tar.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use reqwest::{
    Method, RequestBuilder, Response,
    header::{self, HeaderMap, HeaderValue},
};
use shared::{job::JobOptions, origin_address::origin_address, telemetry::trace};
use tokio::time::timeout;
use tracing::Instrument as _;
use url::Url;

use crate::{
    observe::{progress::ClassProgress, waits::Waits},
    origin::{
        allowed_addresses::PrivateOrigin,
        client::{Clients, Connections, OriginError},
        download_error::DownloadError,
        limiter::{OriginLimiter, Permit, Priority, Transfer},
        response_head::{plausible, refuse_page},
        route::Route,
    },
    source::{BodyRange, Source, total_length},
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
mod response_head;
pub(crate) mod retry;
mod route;
mod speed_floor;

/// Upper limit for the length of a tar in bytes: twice the size of a large class with every image
/// in full size.
const LONGEST_TAR: u64 = 64 << 30;

/// A pooled client for the job's origin; clones share its state, connections included.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    connections: Arc<Connections>,
    clients: Arc<Clients>,
    /// `--timeout`: the longest time without a received byte.
    pub(crate) timeout: Duration,
    /// Every request passes through it.
    limiter: Arc<OriginLimiter>,
    /// The waits of the class that uses it.
    waits: Waits,
    /// Counts the requests for bytes of the class's tar.
    requests: Counter,
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

impl Origin {
    /// Reads what its clients need, and makes the first client. `private`: whether private
    /// addresses are allowed.
    pub(crate) fn new(
        job: &JobOptions,
        private: PrivateOrigin,
        limiter: Arc<OriginLimiter>,
    ) -> Result<Self, OriginError> {
        let clients = Clients::for_job(job, private)?;
        Ok(Self {
            connections: Arc::new(clients.make()?),
            clients: Arc::new(clients),
            timeout: job.timeout,
            limiter,
            waits: Waits::default(),
            requests: Counter::default(),
        })
    }

    /// The same origin with the same connections; its waits and requests count as those of a class.
    pub(crate) fn for_class(&self, class: &ClassProgress) -> Self {
        Self {
            waits: class.waits.clone(),
            requests: class.requests.clone(),
            ..self.clone()
        }
    }

    /// Waits for the permit of a request.
    async fn permit(&self, priority: Priority) -> Permit {
        let limiter = Arc::clone(&self.limiter);
        let _wait = self.waits.begin(move |now| limiter.reason_to_wait(now));
        self.limiter.permit(priority).await
    }

    /// The same origin over connections of its own: all requests of one client must be made on the
    /// same runtime.
    pub(crate) fn with_own_connections(&self) -> Result<Self, OriginError> {
        Ok(Self {
            connections: Arc::new(self.clients.make()?),
            ..self.clone()
        })
    }

    /// Returns an error if the origin's address is not allowed, before anything is sent to it.
    pub(crate) async fn check_address(&self) -> Result<(), OriginError> {
        let clients = &self.clients;
        let is_proxied = clients.proxies.for_url(&clients.base)?.is_some();
        Ok(clients.addresses.check_origin(is_proxied).await?)
    }

    /// Reports a failed request or body to the origin limiter.
    pub(crate) fn failed(&self, error: &DownloadError) {
        let address = origin_address(&self.clients.base);
        self.limiter.first_failures.note(error, &address);
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
        self.requests.inc();
        let transfer = self.send(&Method::GET, url, &headers, priority).await?;
        let (source, body) = Source::of_answer(url, transfer.response());
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
        let answer = self.send(&method, url, &headers, Priority::New).await?;
        let response = answer.response();
        if question == Question::Head {
            refuse_page(response.headers())?;
        }
        let (mut source, body) = Source::of_answer(url, response);
        if body != BodyRange::Whole {
            // The length of a part is not the length of the tar.
            source.length = total_length(response.headers());
        }
        Ok(source)
    }

    /// Sends a request when the origin limiter permits it, and follows redirects. A response that
    /// cannot be a tar is an error.
    async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        priority: Priority,
    ) -> Result<Transfer, DownloadError> {
        let mut permit = Some(self.permit(priority).await);
        let answer = self.follow(method, url, headers, &mut permit).await;
        // Done before the permit is dropped, so that a refusal also delays the request that takes
        // its place.
        let response = answer.inspect_err(|error| self.failed(error))?;
        if !self.has_rate() {
            // With a rate limit the window stays small: bytes that arrive before they are read
            // would exceed the limit.
            self.connections.window.widen(&response);
        }
        let permit = permit.expect("each request is sent with a permit");
        Ok(Transfer::new(response, permit))
    }

    /// Sends a request, and those to which redirects lead. Afterwards `permit` is that of the last
    /// one.
    async fn follow(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        permit: &mut Option<Permit>,
    ) -> Result<Response, DownloadError> {
        let mut route = Route::new(&self.clients, &self.connections, url.clone());
        loop {
            let request = route.request(method.clone(), headers)?;
            let span = trace::requesting(method.as_str(), route.url(), route.redirects());
            let sent = self
                .send_hop(request, permit)
                .instrument(span.clone())
                .await;
            let status = sent.as_ref().map(|response| response.status().as_u16());
            trace::responded(&span, status.map_err(|error| error.kind().0));
            let response = sent?;
            if !route.follow(&response).await? {
                return plausible(response);
            }
            self.limiter.counters.origin_redirects.inc();
        }
    }

    /// Sends one request of a route. Repeats it once, with another permit, if it was sent over a
    /// connection that the origin had closed in the meantime.
    async fn send_hop(
        &self,
        request: RequestBuilder,
        permit: &mut Option<Permit>,
    ) -> Result<Response, DownloadError> {
        let may_be_reused = self.connections.are_kept.load(Ordering::Relaxed);
        let again = request.try_clone().filter(|_| may_be_reused);
        let mut sent = self.send_once(request).await?;
        if let Err(error) = &sent
            && may_be_stale(error)
            && let Some(again) = again
        {
            // The origin may close idle connections at any time; the repetition is not counted as
            // an attempt.
            permit.take();
            *permit = Some(self.permit(Priority::GoingOn).await);
            sent = self.send_once(again).await?;
        }
        let proxies = &self.clients.proxies;
        let response = sent.map_err(|error| client_error::from_client(&error, proxies))?;
        self.limiter.first_failures.answered();
        Ok(response)
    }

    /// Sends a request once. The outer error: no response in time.
    async fn send_once(
        &self,
        mut request: RequestBuilder,
    ) -> Result<reqwest::Result<Response>, DownloadError> {
        let keeps = self.limiter.keeps_connections();
        self.connections.are_kept.store(keeps, Ordering::Relaxed);
        if !keeps {
            request = request.header(header::CONNECTION, "close");
        }
        let _wait = self.waits.begin_for("the origin's answer");
        let answer = timeout(self.timeout, request.send()).await;
        answer.map_err(|_| DownloadError::Timeout {
            after: self.timeout,
        })
    }
}

/// The value of a `Range` header; `until`: the end of the range, exclusive.
fn range(from: u64, until: Option<u64>) -> HeaderValue {
    let last = until.map_or(String::new(), |until| (until - 1).to_string());
    let range = format!("bytes={from}-{last}");
    range.parse().expect("digits are allowed in a header")
}

/// Whether a request failed on an open connection before its response began.
fn may_be_stale(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout() && !error.is_redirect()
}

#[cfg(test)]
mod tests {
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
}
