//! Metrics of both programs: counted in atomics, because they stand on hot paths, and put into words only when somebody asks.
//!
//! Invariant: every metric has its help and its type, under the name that its samples have.

use std::{
    fmt::{self, Debug},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

/// What the text form is, as HTTP names it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds in seconds: from a commit on a fast disk to a long poll.
const BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// A histogram of durations, recorded without a lock.
#[derive(Debug, Default)]
pub struct Durations {
    /// One for each bound, and one for what is longer.
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Durations {
    /// Counts one more.
    pub fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Whether there was none yet.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }

    fn encode(&self, mut metric: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Where the values of a program stand, named at each scrape.
pub trait Source: Debug + Send + Sync + 'static {
    /// Names all metrics, each once.
    ///
    /// # Errors
    /// Only when the page cannot grow.
    fn write(&self, page: &mut Page<'_>) -> fmt::Result;
}

/// What is being scraped.
#[derive(Debug)]
pub struct Page<'encoder>(DescriptorEncoder<'encoder>);

/// Labels with fixed names and fixed values; a class's id is never one of them.
pub type Label = (&'static str, &'static str);

impl Page<'_> {
    /// One value that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// Values that go up and down, told apart by a label.
    pub fn gauges(&mut self, name: &str, help: &str, values: &[(Label, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.iter().try_for_each(|(label, value)| metric.encode_family(&[*label])?.encode_gauge(value))
    }

    /// One value that only grows; its name gets `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// Values that only grow, told apart by a label; their name gets `_total`.
    pub fn counters(&mut self, name: &str, help: &str, values: &[(Label, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.iter().try_for_each(|(label, value)| {
            metric.encode_family(&[*label])?.encode_counter::<NoLabelSet, _, u64>(value, None)
        })
    }

    /// One histogram of durations.
    pub fn durations(&mut self, name: &str, help: &str, durations: &Durations) -> fmt::Result {
        durations.encode(self.0.encode_descriptor(name, help, None, MetricType::Histogram)?)
    }

    /// Histograms of durations, told apart by labels.
    pub fn durations_by<'times, Labels: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        durations: impl Iterator<Item = (Labels, &'times Durations)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, durations) in durations {
            durations.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// All metrics of a program.
#[derive(Debug)]
pub struct Metrics(Registry);

#[derive(Debug)]
struct Named<S> {
    program: &'static str,
    version: &'static str,
    source: Arc<S>,
}

impl<S: Source> Collector for Named<S> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let build = [("program", self.program), ("version", self.version)];
        page.0
            .encode_descriptor("build_info", "Which program this is; always 1.", None, MetricType::Gauge)?
            .encode_family(&build)?
            .encode_gauge(&1_u64)?;
        self.source.write(&mut page)
    }
}

impl Metrics {
    /// The metrics of a source, all of them named `imagenet_…`; beside them is told which program they are of.
    pub fn new(program: &'static str, version: &'static str, source: Arc<impl Source>) -> Self {
        let mut registry = Registry::with_prefix("imagenet");
        registry.register_collector(Box::new(Named { program, version, source }));
        Self(registry)
    }

    /// The text form, version 0.0.4, which everything that scrapes understands.
    ///
    /// # Errors
    /// When a source fails.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode_registry(&mut text, &self.0)?;
        Ok(classic(&text))
    }
}

/// The library speaks `OpenMetrics`, where a counter is described without the `_total` that its samples have. In the older and
/// wider spread form they have one name; else the samples would have neither help nor type.
fn classic(open_metrics: &str) -> String {
    let mut lines = open_metrics.lines().peekable();
    let mut text = String::with_capacity(open_metrics.len());
    while let Some(line) = lines.next() {
        let named = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
        let counter = named.and_then(|(name, help)| {
            let described = format!("# TYPE {name} counter");
            lines.next_if(|next| **next == described)?;
            Some(format!("# HELP {name}_total {help}\n# TYPE {name}_total counter\n"))
        });
        match counter {
            Some(counter) => text.push_str(&counter),
            None => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Everything(Durations);

    impl Source for Everything {
        fn write(&self, page: &mut Page<'_>) -> fmt::Result {
            page.gauge("slots", "Downloads at once.", 3)?;
            page.gauges("classes", "Classes by state.", &[(("state", "failed"), 1), (("state", "pending"), 2)])?;
            page.counter("received_bytes", "Bytes from the origin.", 10)?;
            page.counters("reports", "Results.", &[(("outcome", "success"), u64::MAX)])?;
            page.durations("commit_seconds", "Commits.", &self.0)?;
            page.durations_by("rpc_seconds", "Calls.", [([("code", "Ok")], &self.0)].into_iter())
        }
    }

    #[test]
    fn every_sample_has_help_and_type_under_its_own_name() {
        let everything = Everything::default();
        assert!(everything.0.is_empty());
        for seconds in [0.0004, 0.001, 0.2, 100.0] {
            everything.0.record(Duration::from_secs_f64(seconds));
        }
        let text = Metrics::new("worker", "1.2 (3f2a)", Arc::new(everything)).text().unwrap();
        for lines in [
            "# HELP imagenet_build_info Which program this is; always 1.\n# TYPE imagenet_build_info gauge\n\
             imagenet_build_info{program=\"worker\",version=\"1.2 (3f2a)\"} 1\n"
                .to_owned(),
            "# HELP imagenet_slots Downloads at once.\n# TYPE imagenet_slots gauge\nimagenet_slots 3\n".to_owned(),
            "# TYPE imagenet_classes gauge\nimagenet_classes{state=\"failed\"} 1\nimagenet_classes{state=\"pending\"} 2\n"
                .to_owned(),
            "# HELP imagenet_received_bytes_total Bytes from the origin.\n# TYPE imagenet_received_bytes_total counter\n\
             imagenet_received_bytes_total 10\n"
                .to_owned(),
            "# TYPE imagenet_reports_total counter\nimagenet_reports_total{outcome=\"success\"} 18446744073709551615\n"
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
        assert!(!text.contains("# EOF") && text.ends_with('\n'));
    }
}
