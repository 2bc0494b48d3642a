//! Counters and request log of an origin that runs as a separate program, at two paths that no
//! class has.

use std::{
    io::{self, Write as _},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::{origin::State, request_log::Request};

/// Path of the counters, as JSON.
pub const FIGURES: &str = "/.figures";
/// Path of all requests in order of arrival, as JSON.
pub const REQUESTS: &str = "/.requests";

/// Answers a request for counters, which is not counted itself; false for any other request.
pub(crate) fn answer(mut stream: &TcpStream, state: &State, request: &Request) -> io::Result<bool> {
    let figures = match request.path.as_str() {
        FIGURES => figures(state),
        REQUESTS => requests(state),
        _ => return Ok(false),
    };
    let text = format!("{figures}\n");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )?;
    Ok(true)
}

fn figures(state: &State) -> Value {
    let bytes_sent_again = state.sent_again();
    let log = state.requests();
    let of = |method: &str| {
        log.requests
            .iter()
            .filter(|request| request.method == method)
            .count()
    };
    json!({
        "gets": of("GET"),
        "heads": of("HEAD"),
        "bytes_sent": log.requests.iter().map(|request| request.sent).sum::<u64>(),
        "bytes_sent_again": bytes_sent_again,
        "most_connections": state.most_connections(),
        "most_transfers": state.traffic.most(),
        "overloads": state.traffic.overloads(),
    })
}

fn requests(state: &State) -> Value {
    let log = state.requests();
    let first = log.requests.first().map(|request| request.at);
    let seconds = |request: &Request| first.map_or(0.0, |first| (request.at - first).as_secs_f64());
    let entries = log.requests.iter().map(|request| {
        json!({
            "seconds": seconds(request),
            "connection": request.connection,
            "method": request.method,
            "wnid": request.wnid,
            "start": request.start(),
            "status": request.status,
            "sent": request.sent,
        })
    });
    entries.collect()
}
