//! Metrics of both programs. Values are counted in atomics, because they are updated on hot paths,
//! and formatted only at a scrape.
//!
//! Invariant: every metric has its help and its type, under the same name as its samples.

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::{
        MetricType, TypedMetric,
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

/// What the text form is, as HTTP names it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the buckets in seconds: from a commit on a fast disk to a long poll.
const BOUNDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// A histogram of durations in seconds.
#[derive(Debug, Clone)]
pub struct Durations(Histogram);

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(BOUNDS))
    }
}

impl Durations {
    /// Counts a duration.
    pub fn record(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Provides the values of a program's metrics at each scrape.
pub trait MetricsSource: Debug + Send + Sync + 'static {
    /// Writes all metrics, each once.
    ///
    /// # Errors
    /// Only if the page cannot grow.
    fn write(&self, page: &mut Page<'_>) -> fmt::Result;
}

/// The output of a scrape.
#[derive(Debug)]
pub struct Page<'encoder>(DescriptorEncoder<'encoder>);

/// A label with a fixed name and a fixed value; class ids are never label values.
pub type Label = (&'static str, &'static str);

impl Page<'_> {
    /// A single value that can increase and decrease.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.metric(name, help, &ConstGauge::new(value))
    }

    /// Values that can increase and decrease, distinguished by a label.
    pub fn gauges(&mut self, name: &str, help: &str, values: &[(Label, u64)]) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        values
            .iter()
            .try_for_each(|(label, value)| metric.encode_family(&[*label])?.encode_gauge(value))
    }

    /// A single value that only increases. The suffix `_total` is added to its name.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.metric(name, help, &ConstCounter::new(value))
    }

    /// Values that only increase, distinguished by a label. The suffix `_total` is added to their
    /// name.
    pub fn counters(&mut self, name: &str, help: &str, values: &[(Label, u64)]) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        values.iter().try_for_each(|(label, value)| {
            metric
                .encode_family(&[*label])?
                .encode_counter::<NoLabelSet, _, u64>(value, None)
        })
    }

    /// A metric, or a family of metrics told apart by labels.
    pub fn metric(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        let kind = metric.metric_type();
        metric.encode(self.0.encode_descriptor(name, help, None, kind)?)
    }
}

/// All metrics of a program.
#[derive(Debug)]
pub struct Metrics(Registry);

/// The values of a program.
#[derive(Debug)]
struct Values<S>(Arc<S>);

impl<S: MetricsSource> Collector for Values<S> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Page(encoder))
    }
}

impl Metrics {
    /// The metrics of a source, with the prefix `imagenet_`, and `build_info`, which names the
    /// program.
    pub fn new(
        program: &'static str,
        version: &'static str,
        source: Arc<impl MetricsSource>,
    ) -> Self {
        let build = Family::<[Label; 2], Gauge>::default();
        build
            .get_or_create(&[("program", program), ("version", version)])
            .set(1);
        let mut registry = Registry::with_prefix("imagenet");
        registry.register(
            "build_info",
            "Program and version; the value is always 1",
            build,
        );
        registry.register_collector(Box::new(Values(source)));
        Self(registry)
    }

    /// The text format, version 0.0.4, which all scrapers understand.
    ///
    /// # Errors
    /// If a source fails.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source with a metric of each kind.
    #[derive(Debug, Default)]
    struct Everything {
        commits: Durations,
        calls: Family<[Label; 1], Durations>,
    }

    impl MetricsSource for Everything {
        fn write(&self, page: &mut Page<'_>) -> fmt::Result {
            page.gauge("slots", "Downloads at once.", 3)?;
            page.gauges(
                "classes",
                "Classes by state.",
                &[(("state", "failed"), 1), (("state", "pending"), 2)],
            )?;
            page.counter("received_bytes", "Bytes from the origin.", 10)?;
            page.counters("reports", "Results.", &[(("outcome", "success"), u64::MAX)])?;
            page.metric("commit_seconds", "Commits.", &self.commits)?;
            page.metric("rpc_seconds", "Calls.", &self.calls)
        }
    }

    #[test]
    fn every_metric_has_help_and_type() {
        let everything = Everything::default();
        for seconds in [0.0004, 0.001, 0.2, 100.0] {
            everything.commits.record(Duration::from_secs_f64(seconds));
            everything
                .calls
                .get_or_create(&[("code", "Ok")])
                .record(Duration::from_secs_f64(seconds));
        }
        let text = Metrics::new("worker", "1.2 (3f2a)", Arc::new(everything))
            .text()
            .unwrap();
        for lines in [
            "# HELP imagenet_build_info Program and version; the value is always 1.\n# TYPE imagenet_build_info gauge\n\
             imagenet_build_info{program=\"worker\",version=\"1.2 (3f2a)\"} 1\n"
                .to_owned(),
            "# HELP imagenet_slots Downloads at once.\n# TYPE imagenet_slots gauge\nimagenet_slots 3\n".to_owned(),
            "# TYPE imagenet_classes gauge\nimagenet_classes{state=\"failed\"} 1\nimagenet_classes{state=\"pending\"} 2\n"
                .to_owned(),
            "# HELP imagenet_received_bytes Bytes from the origin.\n# TYPE imagenet_received_bytes counter\n\
             imagenet_received_bytes_total 10\n"
                .to_owned(),
            "# TYPE imagenet_reports counter\nimagenet_reports_total{outcome=\"success\"} 18446744073709551615\n"
                .to_owned(),
            "# TYPE imagenet_commit_seconds histogram\nimagenet_commit_seconds_sum 100.2014\n\
             imagenet_commit_seconds_count 4\nimagenet_commit_seconds_bucket{le=\"0.001\"} 2\n"
                .to_owned(),
            "imagenet_commit_seconds_bucket{le=\"0.25\"} 3\n".to_owned(),
            "imagenet_commit_seconds_bucket{le=\"30.0\"} 3\nimagenet_commit_seconds_bucket{le=\"+Inf\"} 4\n".to_owned(),
            "imagenet_rpc_seconds_bucket{le=\"+Inf\",code=\"Ok\"} 4\n".to_owned(),
        ] {
            assert!(text.contains(&lines), "no\n{lines}in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }
}
