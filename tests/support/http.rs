//! A minimal HTTP client over a plain socket, in the role of a probe or of Prometheus.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Timeout of connecting and of each read.
const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// Status and body of a path; `None` if the server does not answer.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut connection = TcpStream::connect_timeout(&address, IO_TIMEOUT).ok()?;
    connection
        .set_read_timeout(Some(IO_TIMEOUT))
        .expect("a socket takes a timeout");
    write!(
        connection,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A validated scrape: every sample belongs to a metric whose help and type precede it.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// The text as received.
    pub text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Scrapes `/metrics`; `None` if the server does not answer. Panics if the text violates the
    /// format of Prometheus.
    #[track_caller]
    pub fn of(address: SocketAddr) -> Option<Self> {
        let (status, text) = get(address, "/metrics")?;
        assert_eq!(status, 200, "{text}");
        Some(Self::read(text))
    }

    #[track_caller]
    fn read(text: String) -> Self {
        let (mut helped, mut typed, mut samples) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let metrics = text
            .strip_suffix("# EOF\n")
            .unwrap_or_else(|| panic!("no end: {text}"));
        for line in metrics.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help
                    .split_once(' ')
                    .unwrap_or_else(|| panic!("no help: {line}"));
                assert!(!help.is_empty() && !helped.contains(&name), "{line}");
                helped.push(name);
            } else if let Some((name, kind)) = line
                .strip_prefix("# TYPE ")
                .and_then(|rest| rest.split_once(' '))
            {
                assert!(
                    helped.last() == Some(&name) && typed.insert(name, kind).is_none(),
                    "{line}"
                );
                assert!(!name.ends_with("_total"), "{line}");
            } else {
                let (sample, value) = line
                    .rsplit_once(' ')
                    .unwrap_or_else(|| panic!("no sample: {line:?}"));
                let name = sample.split('{').next().expect("there is a first part");
                let ends = [
                    ("_total", "counter"),
                    ("_sum", "histogram"),
                    ("_count", "histogram"),
                    ("_bucket", "histogram"),
                ];
                let described = typed.get(name).is_some_and(|kind| *kind == "gauge")
                    || ends.iter().any(|(end, kind)| {
                        name.strip_suffix(end).and_then(|name| typed.get(name)) == Some(kind)
                    });
                assert!(
                    described && name.starts_with("imagenet_"),
                    "neither help nor type: {line}\n{text}"
                );
                let value = value
                    .parse()
                    .unwrap_or_else(|_| panic!("no number: {line}"));
                assert!(
                    samples.insert(sample.to_owned(), value).is_none(),
                    "twice: {line}"
                );
            }
        }
        Self { text, samples }
    }

    /// The value of a sample, e.g. `imagenet_classes{state="failed"}`. Panics if there is none.
    #[track_caller]
    pub fn value(&self, sample: &str) -> f64 {
        self.get(sample)
            .unwrap_or_else(|| panic!("no {sample} in\n{}", self.text))
    }

    /// The value of a sample, if present.
    pub fn get(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }

    /// The sum of all samples with this prefix.
    pub fn sum(&self, beginning: &str) -> f64 {
        self.samples
            .iter()
            .filter(|(sample, _)| sample.starts_with(beginning))
            .map(|(_, value)| value)
            .sum()
    }
}
