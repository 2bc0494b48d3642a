//! All that was asked of the origin, and what was sent for it.

use std::collections::HashMap;

use tokio::time::Instant;

/// A request as it came, and what was sent for it.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// The class that the path names.
    pub wnid: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `If-Range` header.
    pub if_range: Option<String>,
    /// All headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// When it was read.
    pub at: Instant,
    /// Numbers the connections from 1 on.
    pub connection: u64,
    /// Status of the answer; 0 as long as there is none.
    pub status: u16,
    /// Bytes of the body handed to the kernel; of the last half megabyte perhaps only a part.
    pub sent: u64,
}

impl Request {
    /// Where the bytes that it asks for begin.
    pub fn start(&self) -> u64 {
        let range = self.range.as_deref().and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(0)
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether bytes of a tar were sent for it.
    pub fn is_transfer(&self) -> bool {
        self.method == "GET" && matches!(self.status, 200 | 206)
    }
}

#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    forgotten: usize,
    pub(crate) requests: Vec<Request>,
}

impl RequestLog {
    /// Takes up a request and says under which number.
    pub(crate) fn record(&mut self, request: Request) -> usize {
        self.requests.push(request);
        self.forgotten + self.requests.len() - 1
    }

    /// Notes what was sent for the request of that number, unless all were forgotten meanwhile.
    pub(crate) fn note(&mut self, number: usize, status: u16, sent: u64) {
        let index = number.checked_sub(self.forgotten);
        if let Some(request) = index.and_then(|index| self.requests.get_mut(index)) {
            request.status = status;
            request.sent += sent;
        }
    }

    /// Forgets the requests so far.
    pub(crate) fn forget(&mut self) {
        self.forgotten += self.requests.len();
        self.requests.clear();
    }

    /// Bytes of tars that were sent for each class.
    pub(crate) fn sent(&self) -> HashMap<&str, u64> {
        let mut sent = HashMap::new();
        for request in self.requests.iter().filter(|request| request.is_transfer()) {
            *sent.entry(request.wnid.as_str()).or_default() += request.sent;
        }
        sent
    }
}
