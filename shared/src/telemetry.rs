//! Logs and traces: everything to the log file, what people must see to the screen, spans over OTLP where asked for.

use std::{fs::File, io, path::Path, sync::Mutex};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::job_line::Screen;

/// Standard variables of OpenTelemetry; one of them set turns the export of spans on.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Keeps the export of spans alive; end it with [`Telemetry::flush`].
#[derive(Debug)]
pub struct Telemetry {
    spans: Option<SdkTracerProvider>,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter refused its settings.
    #[error("start the export of traces, see OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Exporter(opentelemetry_otlp::ExporterBuildError),
    /// A log filter that cannot be read.
    #[error("read the log filter in RUST_LOG: {0}")]
    Filter(tracing_subscriber::filter::FromEnvError),
}

/// Opens a log file for appending.
///
/// # Errors
/// As the file system says.
pub fn open_log(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

impl Telemetry {
    /// Sends log lines to `log` (level `info`, or what `RUST_LOG` says), warnings and errors also to the screen, and spans
    /// to the collector that the standard `OTEL_EXPORTER_OTLP_…` variables name. Call it inside the tokio runtime, once.
    ///
    /// # Errors
    /// [`TelemetryError`] when the environment asks for what cannot be had.
    pub fn start(log: File, screen: &Screen, service: &'static str) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::builder()
            .with_default_directive(LevelFilter::INFO.into())
            .from_env()
            .map_err(TelemetryError::Filter)?;
        // A full disk costs lines of the log. The layer would tell standard error of it, and panic where that is closed too.
        let to_file = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .log_internal_errors(false)
            .with_writer(Mutex::new(log))
            .with_filter(filter);
        let to_screen = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .log_internal_errors(false)
            .without_time()
            .with_target(false)
            .with_writer(screen.clone())
            .with_filter(LevelFilter::WARN);
        let spans = if ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some()) {
            let exporter =
                opentelemetry_otlp::SpanExporter::builder().with_tonic().build().map_err(TelemetryError::Exporter)?;
            let resource = Resource::builder().with_service_name(service).build();
            Some(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
        } else {
            None
        };
        let to_collector = spans.as_ref().map(|spans| {
            tracing_opentelemetry::layer().with_tracer(spans.tracer(service)).with_filter(LevelFilter::INFO)
        });
        tracing_subscriber::registry().with(to_file).with(to_screen).with(to_collector).init();
        Ok(Self { spans })
    }

    /// Sends what is still queued. A collector that is away costs a few seconds at the most, and never the job.
    pub async fn flush(self) {
        let Some(spans) = self.spans else { return };
        match tokio::task::spawn_blocking(move || spans.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "spans were not delivered"),
            Err(error) => tracing::debug!(%error, "the export of spans ended badly"),
        }
    }
}
