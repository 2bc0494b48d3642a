//! One trace per class, from its lease to its report; an unavailable collector has no effect on a
//! class.

use std::{collections::BTreeSet, time::Duration};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tests::{
    answer::Answer,
    cluster::{Job, Table},
    log::assert_lines,
    origin::Origin,
    running::Signal,
};
use tokio::time::Instant;

use crate::{
    collector::{self, Collector, Span},
    origin, wnids,
};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PACE: &str = "imagenet.v1.Coordinator/Pace";
/// A class that the origin does not have.
const MISSING: &str = "n99999999";
/// Maximum delay of a job by a collector, whatever the collector does.
const MAX_DELAY: Duration = Duration::from_secs(5);

fn job(origin: &Origin, wnids: &[String]) -> Job {
    Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(origin)
        .args(["--delete-tar"])
}

#[track_caller]
fn assert_one_trace(collector: &Collector, wnid: &str) -> String {
    let [lease, class, settle] =
        ["lease", "class", "settle"].map(|name| collector.span_of(wnid, name));
    assert_eq!(lease.parent, "", "{lease:?}");
    assert_eq!(class.parent, lease.id, "{class:?} is not below {lease:?}");
    assert_eq!(settle.parent, class.id, "{settle:?} is not below {class:?}");
    assert!(
        lease.trace == class.trace && class.trace == settle.trace,
        "{lease:?} {class:?} {settle:?}"
    );
    lease.trace
}

#[test]
fn a_class_has_one_trace_from_its_lease_to_its_report_across_both_programs() {
    let collector = Collector::start();
    let wnids = wnids(3);
    let origin = origin(&wnids);
    let job = job(&origin, &wnids)
        .variable(ENDPOINT, &collector.url())
        .variable("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=cats");
    let coordinator = job.start_coordinator();
    let worker = job.start_worker("w1", &coordinator, job.target_path());
    assert_eq!(worker.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(3, 0, 0));
    let traces: Vec<String> = wnids
        .iter()
        .map(|wnid| assert_one_trace(&collector, wnid))
        .collect();
    assert!(
        traces[0] != traces[1] && traces[1] != traces[2],
        "{traces:?}"
    );
    for (name, service) in [
        ("lease", "coordinator"),
        ("class", "worker"),
        ("settle", "coordinator"),
    ] {
        assert_eq!(collector.span_of(&wnids[0], name).service, service);
    }
    assert_eq!(collector.header("x-tenant").as_deref(), Some("cats"));

    // Each call has its own trace: the worker's span is the parent of the coordinator's.
    let spans = collector.spans();
    for method in ["Register", "Acquire", "Report", "Leave"] {
        let name = format!("imagenet.v1.Coordinator/{method}");
        let mut answered = spans
            .iter()
            .filter(|span| span.name == name && span.service == "coordinator")
            .peekable();
        assert!(
            answered.peek().is_some(),
            "{method} was not traced: {spans:#?}"
        );
        for answer in answered {
            let call = spans
                .iter()
                .find(|span| span.id == answer.parent)
                .unwrap_or_else(|| panic!("{answer:?} has no parent among the spans"));
            assert!(
                call.service == "worker" && call.name == name && call.trace == answer.trace,
                "{call:?} {answer:?}"
            );
        }
    }
}

/// Every span is the root of a trace or below a span that arrived; no trace has two roots. Returns
/// the roots.
#[track_caller]
fn roots(spans: &[Span]) -> Vec<&Span> {
    let mut roots = Vec::new();
    let mut traces = BTreeSet::new();
    for span in spans {
        if span.parent.is_empty() {
            assert!(traces.insert(&span.trace), "a second root: {span:?}");
            roots.push(span);
        } else {
            let is_parent = |other: &Span| other.id == span.parent && other.trace == span.trace;
            assert!(spans.iter().any(is_parent), "no parent: {span:?}");
        }
    }
    roots
}

/// The spans of this name in the trace of a class.
fn in_trace(collector: &Collector, wnid: &str, name: &str) -> Vec<Span> {
    let trace = collector.span_of(wnid, "lease").trace;
    let mut spans = collector.spans();
    spans.retain(|span| span.trace == trace && span.name == name);
    spans
}

/// The span has these attributes.
#[track_caller]
fn assert_attributes(span: &Span, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(span.attribute(key), *value, "{key} of {span:#?}");
    }
}

#[test]
fn each_class_is_one_tree_in_which_requests_are_spans_and_attempts_and_resumes_events() {
    let collector = Collector::start();
    let wnids = wnids(3);
    let origin = origin(&wnids);
    let cut = origin.script_of(&wnids[1]).expect("the class is served");
    cut.script([Answer::cut_at(10_000)]);
    let rows = wnids.iter().map(String::as_str).chain([MISSING]);
    let job = Job::new()
        .classes(rows)
        .origin(&origin)
        .args(["--delete-tar"])
        .variable(ENDPOINT, &collector.url());
    let coordinator = job.start_coordinator();
    let worker = job.start_worker("w1", &coordinator, job.target_path());
    let port = coordinator.address.port().to_string();
    assert_eq!(worker.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 1, Table::of(3, 0, 1));

    // Both programs have ended, so all spans have arrived.
    let spans = collector.spans();
    let (classes, calls): (Vec<_>, Vec<_>) = roots(&spans)
        .into_iter()
        .partition(|root| root.name == "lease");
    let leased: BTreeSet<_> = classes.iter().map(|root| root.attribute("wnid")).collect();
    assert!(classes.len() == 4 && leased.len() == 4, "{classes:#?}");
    // The stream of budgets has a span in the coordinator only.
    for call in calls.iter().filter(|call| call.name != PACE) {
        assert_eq!(call.kind, SpanKind::Client, "{call:#?}");
        // The last Acquire is dropped when the job is done.
        let status = call.attribute("rpc.response.status_code");
        assert!(["OK", "CANCELLED"].contains(&status), "{call:#?}");
        let expected = [
            ("rpc.system.name", "grpc"),
            ("rpc.method", &call.name),
            ("server.address", "127.0.0.1"),
            ("server.port", &port),
        ];
        assert_attributes(call, &expected);
    }
    assert_resumed(&collector, &origin, &wnids[1]);
    let [refused] = &in_trace(&collector, MISSING, "GET")[..] else {
        panic!("{spans:#?}")
    };
    assert!(refused.has_failed, "{refused:#?}");
    let expected = [("http.response.status_code", "404"), ("error.type", "404")];
    assert_attributes(refused, &expected);
}

/// The tar of this class came with two requests, of which the second resumed the first.
#[track_caller]
fn assert_resumed(collector: &Collector, origin: &Origin, wnid: &str) {
    let [receive] = &in_trace(collector, wnid, "receive")[..] else {
        panic!("{:#?}", collector.spans())
    };
    let mut events = receive.events.clone();
    events.retain(|event| ["attempt", "resume"].contains(&event.as_str()));
    assert_eq!(events, ["attempt", "attempt", "resume"], "{receive:#?}");
    let requests = in_trace(collector, wnid, "GET");
    assert_eq!(requests.len(), 2, "{requests:#?}");
    let url = format!("{}/{wnid}.tar", origin.url());
    let address = origin.url();
    let (_, port) = address.rsplit_once(':').expect("a port");
    for (request, status) in requests.iter().zip(["200", "206"]) {
        assert_eq!(request.kind, SpanKind::Client);
        assert!(
            request.parent == receive.id && !request.has_failed,
            "{request:#?}"
        );
        let expected = [
            ("http.request.method", "GET"),
            ("url.full", &url),
            ("server.address", "127.0.0.1"),
            ("server.port", port),
            ("http.response.status_code", status),
        ];
        assert_attributes(request, &expected);
    }
}

#[test]
fn a_class_that_is_handed_back_and_granted_again_is_one_tree() {
    let collector = Collector::start();
    let wnids = wnids(2);
    let origin = origin(&wnids);
    let stalls = origin.script_of(&wnids[1]).expect("the class is served");
    stalls.script([Answer::stall_at(20_000)]);
    let job = job(&origin, &wnids).variable(ENDPOINT, &collector.url());
    let coordinator = job.start_coordinator();
    let mut first = job.start_worker("w1", &coordinator, job.target_path());
    first.wait_until("it waits for the rest of a class", |_| {
        (!origin.gets(&wnids[1]).is_empty() && job.class_folder(&wnids[0]).exists()).then_some(())
    });
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code, Some(143), "{}", job.log());
    let second = job.start_worker("w2", &coordinator, job.target_path());
    assert_eq!(second.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(2, 0, 0));

    let spans = collector.spans();
    let classes = roots(&spans).into_iter();
    let classes: Vec<_> = classes.filter(|root| root.name == "lease").collect();
    assert_eq!(classes.len(), 2, "{classes:#?}");
    let of_class = |name: &str| -> Vec<&Span> {
        let spans = spans.iter();
        spans
            .filter(|span| span.name == name && span.attribute("wnid") == wnids[1])
            .collect()
    };
    let leases = of_class("lease");
    assert_eq!(leases.len(), 2, "{leases:#?}");
    for lease in leases {
        let below = of_class("class").into_iter();
        let below: Vec<_> = below.filter(|class| class.parent == lease.id).collect();
        assert_eq!(below.len(), 1, "{lease:?} {spans:#?}");
    }
    assert_eq!(of_class("settle").len(), 1, "{spans:#?}");
}

#[test]
fn on_one_host_the_trace_is_the_same_and_the_standard_names_are_kept() {
    let collector = Collector::start();
    let wnids = wnids(1);
    let origin = origin(&wnids);
    let job = job(&origin, &wnids)
        .variable(ENDPOINT, &collector.url())
        .variable("OTEL_SERVICE_NAME", "cats");
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_one_trace(&collector, &wnids[0]);
    assert!(
        collector.spans().iter().all(|span| span.service == "cats"),
        "{:#?}",
        collector.spans()
    );
    let log = job.log();
    assert!(!log.is_empty());
    // The log has lines of its own for these spans.
    assert_lines(&log, 0, &["settle{"]);
    assert_lines(&log, 0, &["lease{"]);
}

#[test]
fn each_setting_that_disables_traces_works() {
    let wnids = wnids(1);
    let origin = origin(&wnids);
    for (name, value, has_warning) in [
        ("OTEL_SDK_DISABLED", "true", false),
        ("OTEL_TRACES_EXPORTER", "none", false),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", true),
    ] {
        let collector = Collector::start();
        let job = job(&origin, &wnids)
            .variable(ENDPOINT, &collector.url())
            .variable(name, value);
        let finished = job.run();
        job.assert_ended(&finished, 0, Table::of(1, 0, 0));
        assert!(
            collector.spans().is_empty(),
            "{name}: {:#?}",
            collector.spans()
        );
        assert_eq!(
            finished.stderr.contains("traces are not exported"),
            has_warning,
            "{name}: {}",
            finished.stderr
        );
    }
}

#[test]
fn an_unreachable_or_silent_collector_does_not_delay_a_job() {
    let wnids = wnids(20);
    let origin = origin(&wnids);
    let timed = |endpoint: Option<String>| {
        let mut job = job(&origin, &wnids);
        if let Some(endpoint) = endpoint {
            job = job.variable(ENDPOINT, &endpoint);
        }
        let start = Instant::now();
        let coordinator = job.start_coordinator();
        let worker = job.start_worker("w1", &coordinator, job.target_path());
        let worker = worker.wait();
        assert_eq!(worker.code, Some(0), "{}", worker.stderr);
        let finished = coordinator.running.wait();
        job.assert_ended(&finished, 0, Table::of(20, 0, 0));
        for stderr in [&worker.stderr, &finished.stderr] {
            assert!(
                !stderr.to_lowercase().contains("opentelemetry"),
                "an exporter error is shown to the user: {stderr}"
            );
        }
        start.elapsed()
    };
    let without = timed(None);
    let (_silent, hangs) = collector::silent();
    for endpoint in [collector::closed_port(), hangs] {
        let took = timed(Some(endpoint.clone()));
        eprintln!("without a collector {without:?}, with {endpoint} {took:?}");
        assert!(
            took < without + MAX_DELAY,
            "{took:?} instead of {without:?}"
        );
    }
}
