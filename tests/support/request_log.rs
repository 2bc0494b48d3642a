//! Log of the requests to the origin and of what was sent for them.

use std::collections::HashMap;

use tokio::time::Instant;

/// A request and what was sent for it.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// The class in the path.
    pub wnid: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `If-Range` header.
    pub if_range: Option<String>,
    /// All headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Time at which it was read.
    pub at: Instant,
    /// Number of its connection, counted from 1.
    pub connection: u64,
    /// Status of the answer; 0 if there is none yet.
    pub status: u16,
    /// Bytes of the body given to the kernel; the last 512 KiB may be sent only in part.
    pub sent: u64,
}

impl Request {
    /// First byte of the requested range.
    pub fn start(&self) -> u64 {
        let range = self
            .range
            .as_deref()
            .and_then(|range| range.strip_prefix("bytes="));
        range
            .and_then(|range| range.split('-').next()?.parse().ok())
            .unwrap_or(0)
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether bytes of a tar were sent for it.
    pub fn is_transfer(&self) -> bool {
        self.method == "GET" && matches!(self.status, 200 | 206)
    }
}

/// The requests since the start or since the log was last cleared.
#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    forgotten: usize,
    pub(crate) requests: Vec<Request>,
}

impl RequestLog {
    /// Records a request and returns its number.
    pub(crate) fn record(&mut self, request: Request) -> usize {
        self.requests.push(request);
        self.forgotten + self.requests.len() - 1
    }

    /// Records what was sent for the request with this number, unless the log was cleared
    /// meanwhile.
    pub(crate) fn note(&mut self, number: usize, status: u16, sent: u64) {
        let index = number.checked_sub(self.forgotten);
        if let Some(request) = index.and_then(|index| self.requests.get_mut(index)) {
            request.status = status;
            request.sent += sent;
        }
    }

    /// Clears the log.
    pub(crate) fn forget(&mut self) {
        self.forgotten += self.requests.len();
        self.requests.clear();
    }

    /// Bytes of tars sent for each class.
    pub(crate) fn sent(&self) -> HashMap<&str, u64> {
        let mut sent = HashMap::new();
        for request in self.requests.iter().filter(|request| request.is_transfer()) {
            *sent.entry(request.wnid.as_str()).or_default() += request.sent;
        }
        sent
    }
}
