//! One trace for each class, from its lease to its report, across both programs; and the W3C trace
//! context of calls between them. Names and attributes of calls and requests follow OpenTelemetry's
//! semantic conventions 1.45 for RPC and HTTP spans.
//!
//! Invariant: without a collector no span is created, sent or allocated, because the spans are
//! disabled.

use std::{
    collections::HashMap,
    fmt::{self, Display},
    mem,
    str::FromStr,
};

use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanContext, TraceContextExt as _, TraceState},
};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::{Code, Request, Status, codegen::http::HeaderMap, service::Interceptor};
use tracing::{
    Level, Span,
    field::{Empty, display},
    info_span,
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use url::Url;

use crate::{
    ids::LeaseToken, outcome::Outcome, protocol::status_name, url_secrets::without_credentials,
    wnid::Wnid,
};

/// Target of spans that go only to a collector. They are not in the log, which has lines of its own
/// for the same events.
pub const TARGET: &str = "trace";
/// Name of the header, and key of the text form.
const TRACEPARENT: &str = "traceparent";

/// Position in a trace, as in W3C's `traceparent`; the default value is no position. Small enough
/// to send with each lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceParent(Option<(TraceId, SpanId, TraceFlags)>);

impl TraceParent {
    /// The position of a span.
    pub fn of(span: &Span) -> Self {
        if span.is_disabled() {
            Self::default()
        } else {
            Self::at(&span.context())
        }
    }

    fn at(context: &Context) -> Self {
        let span = context.span();
        let found = span.span_context();
        let position = (found.trace_id(), found.span_id(), found.trace_flags());
        Self(found.is_valid().then_some(position))
    }

    /// Whether this is a position in a trace.
    pub fn is_somewhere(&self) -> bool {
        self.0.is_some()
    }

    /// Makes this position the parent of a new span. No effect without a position or if the span is
    /// disabled.
    pub fn adopt(&self, span: &Span) {
        if let Some((trace, parent, flags)) = self.0
            && !span.is_disabled()
        {
            let parent = SpanContext::new(trace, parent, flags, true, TraceState::default());
            adopt(span, Context::new().with_remote_span_context(parent));
        }
    }
}

/// Empty if there is no position.
impl Display for TraceParent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some((trace, span, flags)) => {
                write!(formatter, "00-{trace}-{span}-{:02x}", flags.to_u8())
            }
        }
    }
}

/// Invalid text is no position: a malformed trace context is no reason to refuse a class.
impl FromStr for TraceParent {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let header = HashMap::from([(TRACEPARENT.to_owned(), text.to_owned())]);
        Ok(Self::at(&context_in(&header)))
    }
}

/// Records the span of a grant. Returns its position, for the lease. Without a `first` position it
/// begins the trace of the class; otherwise it is below that of the first grant.
pub fn leased(wnid: Wnid, token: LeaseToken, first: TraceParent) -> TraceParent {
    let span =
        info_span!(target: TARGET, parent: None, "lease", otel.kind = "producer", %wnid, %token);
    if span.is_disabled() {
        return TraceParent::default();
    }
    first.adopt(&span);
    link_to_call(&span);
    TraceParent::of(&span)
}

/// The last span of a class's trace, which ends when it is dropped: a result was reported and is
/// being recorded. `traceparent` comes with the report; if it is empty, as for classes that were
/// complete before, there is no trace to end.
pub fn settling(wnid: Wnid, token: LeaseToken, outcome: &Outcome, traceparent: &str) -> Span {
    let outcome = match outcome {
        Outcome::Success(_) => "success",
        Outcome::Skipped(_) => "skipped",
        Outcome::Failed(_) => "failed",
    };
    let Ok(parent) = traceparent.parse::<TraceParent>();
    if !parent.is_somewhere() {
        return Span::none();
    }
    let span = info_span!(target: TARGET, parent: None, "settle", otel.kind = "consumer", %wnid, %token, outcome);
    if !span.is_disabled() {
        parent.adopt(&span);
        link_to_call(&span);
    }
    span
}

/// Links the span to the current call, which has a trace of its own.
fn link_to_call(span: &Span) {
    let call = Span::current().context();
    span.add_link(call.span().span_context().clone());
}

/// A span for a step of a class in the worker.
pub fn step(name: &'static str) -> Span {
    info_span!(target: TARGET, "step", otel.name = name)
}

/// The span of a call that this program makes. A call that is dropped before its answer is
/// recorded as cancelled, which is no failure: the caller no longer needed it.
#[derive(Debug)]
pub struct Calling(Span);

impl Calling {
    /// A call to `server`: `host:port`, a URL, or a path.
    pub fn new(method: &'static str, server: &str) -> Self {
        let (address, port) = address_and_port(server);
        Self(info_span!(
            target: TARGET, "call", otel.name = method, otel.kind = "client",
            rpc.system.name = "grpc", rpc.method = method, server.address = address,
            server.port = port, rpc.response.status_code = Empty, error.r#type = Empty,
            otel.status_code = Empty,
        ))
    }

    /// The span.
    pub fn span(&self) -> Span {
        self.0.clone()
    }

    /// Records the status of the answer and ends the call.
    pub fn answered(mut self, code: Code) {
        let span = mem::replace(&mut self.0, Span::none());
        answered(&span, code, code != Code::Ok);
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        answered(&self.0, Code::Cancelled, false);
    }
}

/// A span for a call that this program answers. Its parent is the caller's span, if the headers
/// name it. `method` is `None` for an unknown one.
pub fn called(method: Option<&'static str>, headers: &HeaderMap) -> Span {
    let method = method.unwrap_or("_OTHER");
    let span = info_span!(
        target: TARGET, parent: None, "call", otel.name = method, otel.kind = "server",
        rpc.system.name = "grpc", rpc.method = method, rpc.response.status_code = Empty,
        error.r#type = Empty, otel.status_code = Empty,
    );
    if !span.is_disabled() && headers.contains_key(TRACEPARENT) {
        adopt(&span, context_in(&HeaderExtractor(headers)));
    }
    span
}

/// Records the status of a call in its span.
pub fn answered(span: &Span, code: Code, has_failed: bool) {
    let name = status_name(code);
    span.record("rpc.response.status_code", name);
    if has_failed {
        fail(span, name);
    }
}

/// A span for a request to the origin, below the step of a class that needs it. Without such a step
/// there is none, so no request has a trace of its own. It ends with the head of the response.
/// `url`: the URL without credentials. `resent`: the number of the redirect that led to this
/// request. The origin gets no trace context.
pub fn requesting(method: &str, url: &Url, resent: usize) -> Span {
    if Span::current().is_disabled() {
        return Span::none();
    }
    let span = info_span!(
        target: TARGET, "request", otel.name = method, otel.kind = "client",
        http.request.method = method, url.full = Empty, server.address = url.host_str(),
        server.port = url.port_or_known_default(), http.request.resend_count = Empty,
        http.response.status_code = Empty, error.r#type = Empty, otel.status_code = Empty,
    );
    if !span.is_disabled() {
        span.record("url.full", without_credentials(url.as_str()));
        if resent > 0 {
            span.record("http.request.resend_count", resent);
        }
    }
    span
}

/// Records the status of a response, or the kind of the error, in the span of a request.
pub fn responded(span: &Span, response: Result<u16, impl Display>) {
    match response {
        Ok(status) => {
            span.record("http.response.status_code", status);
            if status >= 400 {
                fail(span, status);
            }
        }
        Err(kind) => fail(span, kind),
    }
}

/// An event of the current step: a request for the tar is about to be sent. `position`: bytes of
/// the tar that are here.
pub fn attempt(position: u64) {
    tracing::event!(name: "attempt", target: TARGET, Level::INFO, position);
}

/// An event of the current step: the tar goes on at `position`, after a break of the connection or
/// from a checkpoint.
pub fn resumed(position: u64) {
    tracing::event!(name: "resume", target: TARGET, Level::INFO, position);
}

fn fail(span: &Span, kind: impl Display) {
    span.record("error.type", display(kind));
    span.record("otel.status_code", "ERROR");
}

/// Host and port of a URL or of `host:port`; a path has no port.
fn address_and_port(server: &str) -> (&str, Option<u16>) {
    let authority = server.split_once("//").map_or(server, |(_, rest)| rest);
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let split = authority.rsplit_once(':');
    let parsed = split.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parsed.map_or((server, None), |(host, port)| (host, Some(port)))
}

fn context_in(headers: &dyn Extractor) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), headers)
}

fn adopt(span: &Span, parent: Context) {
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!(%error, "a span stands alone");
    }
}

/// Adds the context of the current span to the metadata of calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct WithContext;

impl Interceptor for WithContext {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let span = Span::current();
        if !span.is_disabled() {
            let mut headers = HeaderInjector(request.metadata_mut().as_mut());
            TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry::trace::{Status as SpanStatus, TracerProvider as _};
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
    use tracing_subscriber::{Layer as _, filter::filter_fn, layer::SubscriberExt as _};

    use super::*;
    use crate::{lock::lock, outcome::Published};

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// Held while a test has a subscriber: `tracing` may keep the interest of one subscriber for a
    /// callsite that is first reached while another thread adds its own.
    static SUBSCRIBER: Mutex<()> = Mutex::new(());

    fn subscribed(
        subscriber: impl tracing::Subscriber + Send + Sync + 'static,
        act: impl FnOnce(),
    ) {
        let _guard = lock(&SUBSCRIBER);
        tracing::subscriber::with_default(subscriber, act);
    }

    fn traced(act: impl FnOnce()) -> Vec<SpanData> {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        subscribed(tracing_subscriber::registry().with(layer), act);
        exporter.get_finished_spans().unwrap()
    }

    fn wnid() -> Wnid {
        "n02124075".parse().unwrap()
    }

    #[test]
    fn a_position_survives_the_wire_and_invalid_text_is_no_position() {
        let Ok(place) = TEXT.parse::<TraceParent>();
        assert_eq!(place.to_string(), TEXT);
        for nonsense in [
            "",
            "x",
            "00-0-0-0",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            &"0-".repeat(9999),
        ] {
            let Ok(nowhere) = nonsense.parse::<TraceParent>();
            assert_eq!(
                (nowhere, nowhere.to_string().as_str()),
                (TraceParent::default(), ""),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn a_class_has_one_trace_from_its_lease_to_its_settlement() {
        let spans = traced(|| {
            let leased = leased(wnid(), LeaseToken(7), TraceParent::default());
            let class = info_span!("class");
            leased.adopt(&class);
            let reported = TraceParent::of(&class).to_string();
            drop(class);
            drop(settling(
                wnid(),
                LeaseToken(7),
                &Outcome::Success(Published::default()),
                &reported,
            ));
        });
        let [lease, class, settle] = spans.as_slice() else {
            panic!("{spans:#?}")
        };
        assert_eq!(lease.parent_span_id, SpanId::INVALID);
        assert_eq!(class.parent_span_id, lease.span_context.span_id());
        assert_eq!(settle.parent_span_id, class.span_context.span_id());
        assert!(
            spans
                .iter()
                .all(|span| span.span_context.trace_id() == lease.span_context.trace_id())
        );
    }

    #[test]
    fn a_class_that_is_granted_again_continues_its_trace() {
        let spans = traced(|| {
            let first = leased(wnid(), LeaseToken(7), TraceParent::default());
            leased(wnid(), LeaseToken(8), first);
        });
        let [first, again] = spans.as_slice() else {
            panic!("{spans:#?}")
        };
        assert_eq!(first.parent_span_id, SpanId::INVALID);
        assert_eq!(again.parent_span_id, first.span_context.span_id());
        assert_eq!(again.span_context.trace_id(), first.span_context.trace_id());
    }

    #[test]
    fn a_call_carries_its_trace_context_in_its_metadata() {
        let spans = traced(|| {
            let call = Calling::new("Renew", "127.0.0.1:50051");
            let request = call
                .span()
                .in_scope(|| WithContext.call(Request::new(())).unwrap());
            drop(called(
                Some("Renew"),
                &request.into_parts().0.into_headers(),
            ));
        });
        let [server, client] = spans.as_slice() else {
            panic!("{spans:#?}")
        };
        assert_eq!(server.parent_span_id, client.span_context.span_id());
        assert_eq!(
            (server.name.as_ref(), client.name.as_ref()),
            ("Renew", "Renew")
        );
    }

    fn attribute(span: &SpanData, key: &str) -> Option<String> {
        let found = span.attributes.iter().find(|one| one.key.as_str() == key);
        found.map(|found| found.value.to_string())
    }

    #[test]
    fn a_request_shows_no_secret_and_its_error() {
        let url = Url::parse("http://user:pass@h:8000/x.tar?token=s3cr3t-s3cr3t").unwrap();
        let spans = traced(|| {
            step("receive").in_scope(|| {
                responded(&requesting("GET", &url, 2), Err::<u16, _>("Timeout"));
            });
        });
        let [request, receive] = spans.as_slice() else {
            panic!("{spans:#?}")
        };
        assert_eq!(request.parent_span_id, receive.span_context.span_id());
        assert!(
            matches!(request.status, SpanStatus::Error { .. }),
            "{request:#?}"
        );
        for (key, value) in [
            ("url.full", "http://h:8000/x.tar?token=…"),
            ("server.address", "h"),
            ("server.port", "8000"),
            ("http.request.resend_count", "2"),
            ("error.type", "Timeout"),
        ] {
            assert_eq!(attribute(request, key).as_deref(), Some(value), "{key}");
        }
    }

    #[test]
    fn a_request_without_a_class_has_no_trace() {
        let url = Url::parse("http://h/x.tar").unwrap();
        let spans = traced(|| responded(&requesting("GET", &url, 0), Err::<u16, _>("Timeout")));
        assert!(spans.is_empty(), "{spans:#?}");
    }

    #[test]
    fn a_call_names_its_server_and_its_status() {
        for (server, address, port) in [
            ("https://node1:50051", "node1", Some("50051")),
            ("http://[::1]:50051", "[::1]", Some("50051")),
            (
                "/data/.imagenet_downloader.sock",
                "/data/.imagenet_downloader.sock",
                None,
            ),
        ] {
            let spans = traced(|| Calling::new("Renew", server).answered(Code::Unavailable));
            let [call] = spans.as_slice() else {
                panic!("{spans:#?}")
            };
            assert_eq!(attribute(call, "server.address").as_deref(), Some(address));
            assert_eq!(attribute(call, "server.port").as_deref(), port);
            let status = attribute(call, "rpc.response.status_code");
            assert_eq!(status.as_deref(), Some("UNAVAILABLE"));
            assert!(matches!(call.status, SpanStatus::Error { .. }), "{call:#?}");
        }
    }

    #[test]
    fn a_call_that_is_dropped_is_cancelled_and_has_not_failed() {
        let spans = traced(|| drop(Calling::new("Acquire", "h:1")));
        let status = attribute(&spans[0], "rpc.response.status_code");
        assert_eq!(status.as_deref(), Some("CANCELLED"));
        assert!(matches!(spans[0].status, SpanStatus::Unset), "{spans:#?}");
    }

    #[test]
    fn nothing_is_traced_without_a_collector() {
        let log = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
        let log = log.with_filter(filter_fn(|metadata| metadata.target() != TARGET));
        subscribed(tracing_subscriber::registry().with(log), || {
            let nowhere = TraceParent::default();
            assert_eq!(leased(wnid(), LeaseToken(7), nowhere), nowhere);
            assert!(
                settling(
                    wnid(),
                    LeaseToken(7),
                    &Outcome::Success(Published::default()),
                    TEXT
                )
                .is_disabled()
            );
            let span = Calling::new("Renew", "127.0.0.1:50051").span();
            assert!(span.is_disabled());
            let request = span.in_scope(|| WithContext.call(Request::new(())).unwrap());
            assert!(request.metadata().is_empty());
        });
    }
}
