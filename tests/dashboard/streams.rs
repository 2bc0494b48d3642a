//! Viewers are bounded and slow nothing.

use std::{net::TcpStream, time::Duration};

use tests::{cluster::Table, http::get, wait::wait_for};

use crate::{
    Watched,
    client::{Client, Wire, read_until},
};

const EVENTS: &str = "/api/v1/events";
const VIEWERS: usize = 64;

fn stream(client: &Client) -> Box<dyn Wire> {
    let stream = client.send("GET", EVENTS, "");
    stream.expect("the port answers")
}

#[test]
fn viewers_that_do_not_read_are_bounded_and_the_job_ends_beside_them() {
    let watched = Watched::of(40);
    let mut running = watched.job.start();
    let http = running.wait_for_http();
    wait_for("the job has begun", Duration::from_secs(20), || {
        get(http, "/readyz").is_some_and(|(_, body)| body != "starting\n")
    });
    let client = Client::new(http);
    let mut reading = stream(&client);
    read_until(&mut *reading, "event: snapshot");
    let silent = (1..VIEWERS).map(|_| {
        let mut stream = stream(&client);
        read_until(&mut *stream, "HTTP/1.1 200 ");
        stream
    });
    let silent: Vec<_> = silent.collect();
    let refused = client.get(EVENTS);
    assert_eq!(refused.status, 503);
    assert!(
        refused.error().starts_with("64 viewers are connected"),
        "{refused:?}"
    );
    assert_eq!(
        client.get("/api/v1/snapshot").status,
        200,
        "what the page does then"
    );
    // Neither do connections push out viewers, nor the other way round.
    let idle: Vec<_> = (0..300).map(|_| TcpStream::connect(http)).collect();
    assert_eq!(get(http, "/healthz"), Some((200, "ok\n".to_owned())));
    let seen = read_until(&mut *reading, "\"phase\":\"done\"");
    assert!(seen.contains("event: update"), "{seen}");
    watched
        .job
        .assert_ended(&running.wait(), 1, Table::of(39, 0, 1));
    drop((silent, idle));
}
