//! A trace collector in the test's own process, and ports that do not behave like one.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{span::SpanKind, status::StatusCode},
};
use tests::wait::wait_until;
use tokio::runtime::Runtime;
use tonic::{
    Request, Response, Status,
    metadata::MetadataMap,
    transport::{Server, server::TcpIncoming},
};

/// The fields of a span that these tests check. Ids are hexadecimal; the parent of a root span is
/// empty.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    /// Values of attributes as text.
    pub(crate) attributes: BTreeMap<String, String>,
    /// Names of its events, in their order.
    pub(crate) events: Vec<String>,
    pub(crate) kind: SpanKind,
    pub(crate) has_failed: bool,
}

impl Span {
    /// The text of an attribute; empty without it.
    pub(crate) fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// Everything that the collector has received.
#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    headers: Vec<MetadataMap>,
}

/// An OTLP collector that keeps the spans and headers that it receives; stops when dropped.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Received>>,
    _runtime: Runtime,
}

/// The gRPC service of the collector.
struct TraceReceiver(Arc<Mutex<Received>>);

#[tonic::async_trait]
impl TraceService for TraceReceiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut received = self
            .0
            .lock()
            .expect("nothing panics while it holds this lock");
        received.headers.push(request.metadata().clone());
        for resource in request.into_inner().resource_spans {
            let about = resource
                .resource
                .map(|resource| resource.attributes)
                .unwrap_or_default();
            for span in resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                received.spans.push(Span {
                    service: attributes(&about)
                        .remove("service.name")
                        .unwrap_or_default(),
                    kind: span.kind(),
                    has_failed: span
                        .status
                        .as_ref()
                        .is_some_and(|status| status.code() == StatusCode::Error),
                    name: span.name,
                    trace: hexadecimal(&span.trace_id),
                    id: hexadecimal(&span.span_id),
                    parent: hexadecimal(&span.parent_span_id),
                    attributes: attributes(&span.attributes),
                    events: span.events.into_iter().map(|event| event.name).collect(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn attributes(found: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(is_true) => Some(is_true.to_string()),
        _ => None,
    };
    let entry = |attribute: &KeyValue| {
        let value = attribute.value.as_ref()?.value.as_ref()?;
        Some((attribute.key.clone(), text(value)?))
    };
    found.iter().filter_map(entry).collect()
}

impl Collector {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let received = Arc::<Mutex<Received>>::default();
        let service = TraceServiceServer::new(TraceReceiver(Arc::clone(&received)));
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a free port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let served = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        drop(runtime.spawn(served));
        Self {
            address,
            received,
            _runtime: runtime,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.received
            .lock()
            .expect("nothing panics while it holds this lock")
            .spans
            .clone()
    }

    /// The value of a header that every export had.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let received = self
            .received
            .lock()
            .expect("nothing panics while it holds this lock");
        let value = received
            .headers
            .last()?
            .get(name)?
            .to_str()
            .ok()?
            .to_owned();
        received
            .headers
            .iter()
            .all(|headers| headers.contains_key(name))
            .then_some(value)
    }

    /// The only span of this name for a class; waits for it.
    #[track_caller]
    pub(crate) fn span_of(&self, wnid: &str, name: &str) -> Span {
        let of_class = |span: &Span| span.name == name && span.attribute("wnid") == wnid;
        let found = || {
            Some(
                self.spans()
                    .into_iter()
                    .filter(of_class)
                    .collect::<Vec<_>>(),
            )
            .filter(|found| !found.is_empty())
        };
        let found = wait_until(Duration::from_secs(20), found);
        let found =
            found.unwrap_or_else(|| panic!("no span {name} of {wnid}: {:#?}", self.spans()));
        assert_eq!(found.len(), 1, "{found:#?}");
        found[0].clone()
    }
}

/// A port that accepts connections and never answers.
pub(crate) fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let address = listener.local_addr().expect("it is bound");
    (listener, format!("http://{address}"))
}

/// A port without a listener.
pub(crate) fn closed_port() -> String {
    silent().1
}
