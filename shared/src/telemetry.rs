//! Logs and traces: all lines go to the log file, warnings and errors also to the screen, and spans
//! over OTLP to a collector if one is configured.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    fs::File,
    io,
    panic::{self, PanicHookInfo},
    thread,
};

use opentelemetry::{Key, trace::TracerProvider as _};
use opentelemetry_otlp::{
    SpanExporter, WithTonicConfig as _, tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt as _, filter_fn},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::{
    job_line::{self, Screen, json_line},
    output::Output,
    output_args::LogFormat,
    threads::{self, NoThread},
};

mod escaped;
mod export;
mod libraries;
pub mod trace;

use escaped::{Escape, escaped};
use export::Export;

/// Variables with the collector's address; if one is set, spans are exported.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
/// Variables with the collector's protocol; only `grpc` is supported.
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
/// Lines of these crates may go to the screen; those of libraries only to the log.
const OWN_CRATES: [&str; 3] = ["coordinator", "worker", "shared"];
/// Spans of these targets go to the collector; those of libraries do not.
const TRACED_TARGETS: [&str; 4] = [trace::TARGET, OWN_CRATES[0], OWN_CRATES[1], OWN_CRATES[2]];

/// The log and the export of spans; end them with [`Telemetry::flush`].
#[derive(Debug)]
pub struct Telemetry {
    log: Output,
    spans: Option<Export>,
}

/// Reasons for which logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter rejected its settings.
    #[error("start the export of traces, see OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Exporter(opentelemetry_otlp::ExporterBuildError),
    /// The thread of the log or of the exporter could not be started.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// The log filter cannot be parsed.
    #[error("read the log filter in RUST_LOG: {0}")]
    Filter(tracing_subscriber::filter::FromEnvError),
}

impl Telemetry {
    /// Sends log lines and panics to `log` (level `info`, or that of `RUST_LOG`), warnings and
    /// errors also to the screen, and spans to the collector that the standard
    /// `OTEL_EXPORTER_OTLP_…` variables name. Call it once, inside the tokio runtime.
    ///
    /// # Errors
    /// [`TelemetryError`] if the environment has settings that cannot be applied.
    pub fn start(
        log: File,
        screen: &Screen,
        service: &'static str,
    ) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::builder()
            .with_default_directive(LevelFilter::INFO.into())
            .from_env()
            .map_err(TelemetryError::Filter)?;
        let asked = variable(EnvFilter::DEFAULT_ENV).unwrap_or_default();
        let for_the_log = filter_fn(move |metadata| {
            metadata.target() != trace::TARGET
                && libraries::may_be_logged(&asked, metadata.target(), *metadata.level())
        });
        let log = start_log(log, screen)?;
        report_panics(&log, screen);
        let to_log = log.clone();
        let form = screen.log_format();
        let to_file = layer(form, Place::File, move |line| to_log.write(line))
            .with_filter(filter.and(for_the_log.with_max_level_hint(LevelFilter::TRACE)));
        // Libraries repeat messages for each handshake, or while a collector is unreachable.
        let of_own_crates = filter_fn(|metadata| OWN_CRATES.contains(&crate_of(metadata.target())));
        let lines = screen.clone();
        let to_screen = layer(form, Place::Screen, move |line| lines.write_formatted(line))
            .with_filter(
                LevelFilter::WARN.and(of_own_crates.with_max_level_hint(LevelFilter::TRACE)),
            );
        let endpoint = first_set(&ENDPOINTS).filter(|_| !is_export_off());
        let unsupported = first_set(&PROTOCOLS).filter(|protocol| protocol != "grpc");
        let spans = match &endpoint {
            Some(endpoint) if unsupported.is_none() => Some(export(endpoint, service)?),
            _ => None,
        };
        let to_collector = spans.as_ref().map(|export| {
            let ours = filter_fn(|metadata| {
                *metadata.level() <= Level::INFO
                    && TRACED_TARGETS.contains(&crate_of(metadata.target()))
            });
            tracing_opentelemetry::layer()
                .with_tracer(export.provider.tracer(service))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                // It would read the clock at each poll of a span.
                .with_tracked_inactivity(false)
                .with_filter(ours.with_max_level_hint(LevelFilter::INFO))
        });
        tracing_subscriber::registry()
            .with(to_file)
            .with(to_screen)
            .with(to_collector)
            .init();
        if let (Some(_), Some(protocol)) = (endpoint, unsupported) {
            tracing::warn!(
                "traces are not exported: only OTLP over gRPC is spoken here, not {protocol}; set \
                 {} to grpc",
                PROTOCOLS[1]
            );
        }
        Ok(Self { log, spans })
    }

    /// Sends and writes everything that is queued. Waits at most two seconds for a slow collector,
    /// a hundredth of the program's time for one that has never answered, and three seconds for a
    /// disk that accepts nothing; none of them fails the job.
    pub async fn flush(self) {
        if let Some(spans) = self.spans {
            spans.flush().await;
        }
        // The error was reported when the log first failed.
        self.log.flush().ok();
    }
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    File,
    Screen,
}

/// The layer that formats log lines and passes each to `write`. As text, those for the screen have
/// no time and no module: a person reads them as they appear.
fn layer<S>(
    form: LogFormat,
    place: Place,
    write: impl Fn(&[u8]) + Clone + Send + Sync + 'static,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .log_internal_errors(false);
    match (form, place) {
        (LogFormat::Json, _) => {
            let json = layer.json().flatten_event(true).with_span_list(false);
            json.with_writer(escaped(Escape::Json, write)).boxed()
        }
        (LogFormat::Text, Place::File) => layer.with_writer(escaped(Escape::Text, write)).boxed(),
        (LogFormat::Text, Place::Screen) => {
            let short = layer.without_time().with_target(false);
            short.with_writer(escaped(Escape::Text, write)).boxed()
        }
    }
}

/// Starts the thread of the log. A log that cannot be written loses lines, which is reported once.
fn start_log(log: File, screen: &Screen) -> Result<Output, NoThread> {
    let screen = screen.clone();
    let report = move |error: &io::Error| {
        screen.write_error(&format!(
            "the detailed log cannot be written, and lacks lines from here on: {error}"
        ));
    };
    Output::reporting("log", log, report)
}

/// Reports panics in the log and on the screen, without waiting for a lock that the panicking
/// thread may hold.
fn report_panics(log: &Output, screen: &Screen) {
    let log = log.clone();
    let screen = screen.clone();
    let form = screen.log_format();
    panic::set_hook(Box::new(move |panic| {
        let text = match form {
            LogFormat::Text => describe(panic),
            LogFormat::Json => json_line(job_line::Level::Error, describe(panic).trim()),
        };
        log.write(text.as_bytes());
        // The process may be about to abort.
        screen.write_at_once(text.as_bytes());
        log.flush().unwrap_or_default();
    }));
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let place = panic
        .location()
        .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let message = panic.payload_as_str().unwrap_or("no message");
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("{backtrace}\n"),
        _ => String::new(),
    };
    format!("\nthread {name} panicked at {place}: {message}\n{backtrace}")
}

/// Whether the environment forbids the export of spans.
fn is_export_off() -> bool {
    variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value != "otlp")
}

/// The exporter, which reads its other settings from the environment itself: headers, time limits.
fn exporter(endpoint: &str) -> Result<SpanExporter, TelemetryError> {
    let mut exporter = SpanExporter::builder().with_tonic();
    if !endpoint.starts_with("http:") {
        exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    exporter.build().map_err(TelemetryError::Exporter)
}

/// Starts the export, which reads sampling and batches from the environment.
fn export(endpoint: &str, service: &'static str) -> Result<Export, TelemetryError> {
    let spans = exporter(endpoint)?;
    let probe = exporter(endpoint)?;
    // Checks that the system has a thread for the exporter, which panics without one.
    threads::probe("traces")?;
    let mut resource = Resource::builder().build();
    let name = resource.get(&Key::new("service.name"));
    if name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        resource = Resource::builder().with_service_name(service).build();
    }
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(spans)
        .build();
    Ok(Export::start(provider, probe))
}

/// The value of the first of these variables that is set.
fn first_set(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| variable(name))
}

/// The value of a variable. By the OpenTelemetry standard an empty one counts as not set.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn crate_of(target: &str) -> &str {
    target.split("::").next().unwrap_or(target)
}
