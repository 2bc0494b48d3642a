//! Tests of the origin's rate limits and overload simulation, over plain connections.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    answer::Answer,
    archives::images,
    figures::{FIGURES, REQUESTS},
    http,
    origin::Origin,
    script_file,
    wait::wait_for,
};

/// Sends a request on a connection of its own.
fn ask(origin: &Origin, method: &str, wnid: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(origin.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    write!(
        stream,
        "{method} /{wnid}.tar HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    stream
}

/// Reads to the end; returns the bytes and whether the end was an error.
fn rest(mut stream: TcpStream) -> (Vec<u8>, bool) {
    let mut received = Vec::new();
    let broke = stream.read_to_end(&mut received).is_err();
    (received, broke)
}

/// Reads until the first byte of a body has arrived.
fn wait_for_body(stream: &mut TcpStream) {
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.windows(4).any(|four| four == b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        received.push(byte[0]);
    }
    stream.read_exact(&mut byte).unwrap();
}

/// How long each of these transfers takes when all begin at once.
fn time_of(origin: &Origin, wnids: &[&str]) -> Vec<Duration> {
    let begin = Instant::now();
    let streams: Vec<TcpStream> = wnids
        .iter()
        .map(|wnid| ask(origin, "GET", wnid, ""))
        .collect();
    let threads = streams.into_iter().map(|stream| {
        std::thread::spawn(move || {
            assert!(!rest(stream).1);
            begin.elapsed()
        })
    });
    let threads: Vec<_> = threads.collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

const A: &str = "n00000001";
const B: &str = "n00000002";
const C: &str = "n00000003";

#[test]
fn a_total_rate_is_shared_and_a_single_transfer_gets_all_of_it() {
    let origin = Origin::start();
    origin.class(A, vec![1; 200_000]);
    origin.class(B, vec![1; 200_000]);
    origin.limit_total_rate(100_000);
    let alone = time_of(&origin, &[A])[0];
    assert!(
        alone > Duration::from_millis(1700),
        "{alone:?} is faster than the total rate"
    );
    let both = time_of(&origin, &[A, B]);
    // Neither transfer ends before the link has carried nearly all of both.
    assert!(
        both.iter().all(|took| *took > Duration::from_millis(3300)),
        "{both:?}"
    );
}

#[test]
fn a_rate_per_connection_holds_after_a_pause_of_the_client() {
    let origin = Origin::start();
    // More bytes than the kernel's buffers hold.
    origin.class(A, vec![1; 40_000_000]);
    origin.limit_rate(40_000_000);
    let mut stream = ask(&origin, "GET", A, "");
    wait_for_body(&mut stream);
    let mut before = 0;
    wait_for("the buffers are full", Duration::from_secs(10), || {
        std::thread::sleep(Duration::from_millis(100));
        let sent = origin.bytes_sent();
        std::mem::replace(&mut before, sent) == sent
    });
    let left = 40_000_000 - before;
    let begin = Instant::now();
    assert!(left > 10_000_000, "{left} bytes are left");
    assert!(!rest(stream).1);
    let took = begin.elapsed();
    let due = Duration::from_micros(left / 40);
    assert!(
        took + Duration::from_millis(40) > due,
        "{left} bytes took {took:?} at 40 MB/s"
    );
}

#[test]
fn an_overload_resets_all_transfers_and_then_leaves_requests_unanswered() {
    let origin = Origin::start();
    for wnid in [A, B, C] {
        origin.class(wnid, vec![1; 100_000]);
    }
    let silence = Duration::from_secs(3);
    origin.break_above(2, silence);
    origin.limit_rate(50_000);
    let mut two = [A, B].map(|wnid| ask(&origin, "GET", wnid, ""));
    two.iter_mut().for_each(wait_for_body);
    assert_eq!((origin.overloads(), origin.most_transfers()), (0, 2));
    let overload = Instant::now();
    let third = ask(&origin, "GET", C, "");
    for stream in two.into_iter().chain([third]) {
        let (received, broke) = rest(stream);
        assert!(
            broke && received.len() < 100_000,
            "{} bytes, reset: {broke}",
            received.len()
        );
    }
    assert_eq!((origin.overloads(), origin.most_transfers()), (1, 3));
    // The origin accepts the connection, reads the request and closes without an answer.
    let unanswered = ["GET", "HEAD"].map(|method| ask(&origin, method, A, ""));
    for stream in unanswered {
        assert!(rest(stream).0.is_empty() && overload.elapsed() > silence);
    }
    origin.limit_rate(0);
    assert!(rest(ask(&origin, "GET", A, "")).0.len() > 100_000);
    assert_eq!(origin.overloads(), 1);
}

#[test]
fn successive_transfers_within_the_limit_are_no_overload() {
    let origin = Origin::start();
    origin.class(A, vec![1; 3000]);
    origin.break_above(2, Duration::from_mins(1));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let address = origin.address();
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                for _ in 0..150 {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream
                        .write_all(format!("GET /{A}.tar HTTP/1.1\r\n\r\n").as_bytes())
                        .unwrap();
                    wait_for_body(&mut stream);
                    stream.read_exact(&mut [0; 2999]).unwrap();
                    kept.push(stream);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!((origin.overloads(), origin.gets(A).len()), (0, 300));
}

#[test]
fn a_disconnected_client_has_no_transfer() {
    let origin = Origin::start();
    origin.class(A, vec![1; 100_000]);
    origin.break_above(1, Duration::from_mins(1));
    // At this rate the connection's thread sleeps 50 ms at a time and does not notice the
    // disconnect meanwhile.
    origin.limit_rate(20);
    for _ in 0..20 {
        wait_for_body(&mut ask(&origin, "GET", A, ""));
    }
    assert_eq!((origin.overloads(), origin.most_transfers()), (0, 1));
}

#[test]
fn a_numbered_answer_goes_to_the_request_with_that_number() {
    let origin = Origin::start();
    for wnid in [A, B] {
        origin.class(wnid, images(wnid, 1, 10..20, 1));
    }
    origin.answer_request(2, Answer::too_many_requests(7));
    script_file::apply("request 4 status 503\n", &origin).unwrap();
    assert!(script_file::apply("request four status 503\n", &origin).is_err());
    let statuses =
        [A, B, B, A, A].map(|wnid| rest(ask(&origin, "GET", wnid, "")).0[9..12].to_vec());
    assert_eq!(
        statuses.map(|status| String::from_utf8(status).unwrap()),
        ["200", "429", "200", "503", "200"]
    );
}

#[test]
fn repeated_bytes_and_all_requests_are_reported() {
    let origin = Origin::start();
    origin.class(A, vec![1; 1000]).script([Answer::cut_at(600)]);
    origin.class(B, vec![1; 500]);
    rest(ask(&origin, "GET", A, ""));
    assert_eq!(origin.bytes_sent_again(), 0);
    rest(ask(&origin, "GET", A, "Range: bytes=400-\r\n"));
    rest(ask(&origin, "GET", B, ""));
    rest(ask(&origin, "HEAD", B, ""));
    assert_eq!(origin.bytes_sent_again(), 200);
    let fetch = |path| {
        serde_json::from_str::<serde_json::Value>(&http::get(origin.address(), path).unwrap().1)
            .unwrap()
    };
    let figures = fetch(FIGURES);
    let of = |name: &str| figures[name].as_u64().unwrap();
    assert_eq!(
        (
            of("gets"),
            of("heads"),
            of("bytes_sent"),
            of("bytes_sent_again")
        ),
        (3, 1, 1700, 200)
    );
    assert_eq!((of("overloads"), of("most_transfers")), (0, 1));
    let requests = fetch(REQUESTS);
    assert_eq!(requests.as_array().unwrap().len(), 4);
    assert_eq!(
        (
            &requests[1]["start"],
            &requests[1]["status"],
            &requests[1]["wnid"]
        ),
        (&400.into(), &206.into(), &A.into())
    );
    assert!(
        requests[0]["seconds"] == 0.0
            && requests[3]["seconds"].as_f64() > requests[1]["seconds"].as_f64()
    );
}
