//! Tests of the origin's scripted answers, over a plain connection.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::{
    answer::Answer,
    archives::images,
    origin::{Origin, Validators},
    script_file,
    wait::wait_for,
};

const WNID: &str = "n00000001";

fn connect(origin: &Origin) -> TcpStream {
    let stream = TcpStream::connect(origin.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

/// Sends a request and reads until the origin closes; returns head and body.
fn exchange(origin: &Origin, method: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = connect(origin);
    write!(
        stream,
        "{method} /{WNID}.tar HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map_or(answer.len(), |at| at + 4);
    let body = answer.split_off(end);
    (String::from_utf8(answer).unwrap(), body)
}

#[test]
fn unscripted_answers_are_complete_or_the_requested_range() {
    let tar = images(WNID, 3, 1000..2000, 1);
    let origin = Origin::start();
    origin.class(WNID, tar.clone());
    let (head, body) = exchange(&origin, "GET", "");
    assert!(
        head.starts_with("HTTP/1.1 200")
            && head.contains(&format!("Content-Length: {}\r\n", tar.len()))
    );
    assert_eq!(body, tar);
    let etag = head
        .lines()
        .find_map(|line| line.strip_prefix("ETag: "))
        .unwrap();
    let (head, body) = exchange(
        &origin,
        "GET",
        &format!("Range: bytes=100-\r\nIf-Range: {etag}\r\n"),
    );
    assert!(
        head.contains(&format!(
            "Content-Range: bytes 100-{}/{}\r\n",
            tar.len() - 1,
            tar.len()
        )),
        "{head}"
    );
    assert_eq!(body, tar[100..]);
    assert_eq!(
        exchange(&origin, "GET", "Range: bytes=5-9\r\n").1,
        tar[5..10]
    );
    assert_eq!(
        exchange(&origin, "GET", "Range: bytes=5-\r\nIf-Range: \"other\"\r\n").1,
        tar
    );
    assert!(
        exchange(&origin, "GET", "Range: bytes=999999-\r\n")
            .0
            .starts_with("HTTP/1.1 416")
    );
    let (head, body) = exchange(&origin, "HEAD", "");
    assert!(head.contains(&format!("Content-Length: {}\r\n", tar.len())) && body.is_empty());
    assert_eq!(origin.gets(WNID).len(), 5);
    assert_eq!(origin.gets(WNID)[1].start(), 100);
}

#[test]
fn scripted_answers_come_once_and_in_order() {
    let tar = images(WNID, 3, 1000..2000, 1);
    let other = images(WNID, 4, 1000..2000, 2);
    let origin = Origin::start();
    origin
        .class(WNID, tar.clone())
        .validators(Validators::Date)
        .script([
            Answer::too_many_requests(1),
            Answer::cut_at(700),
            Answer::reset_at(0),
            Answer::plain().stating_length(20),
            Answer::plain().without_length(),
            Answer::body(b"<html>".to_vec()),
            Answer::plain().starting_late(10),
            Answer::plain().calling_a_part_whole(),
            Answer::plain().chunked().header("Content-Length", "17"),
            Answer::plain().then_replaced_by(other.clone()),
        ]);
    let (head, _) = exchange(&origin, "GET", "");
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("Retry-After: 1\r\n"));
    assert_eq!(exchange(&origin, "GET", "").1, tar[..700]);
    assert_eq!(exchange(&origin, "GET", "").1, b"");
    let (head, body) = exchange(&origin, "GET", "");
    assert!(head.contains("Content-Length: 20\r\n") && body == tar);
    let (head, body) = exchange(&origin, "GET", "");
    assert!(!head.contains("Content-Length") && !head.contains("ETag") && body == tar);
    assert_eq!(exchange(&origin, "GET", "").1, b"<html>");
    assert_eq!(exchange(&origin, "GET", "Range: bytes=5-\r\n").1, tar[15..]);
    let (head, body) = exchange(&origin, "GET", "Range: bytes=5-\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200")
            && head.contains("Content-Range: bytes 5-")
            && body == tar[5..]
    );
    let (head, _) = exchange(&origin, "GET", "");
    assert!(
        head.contains("Content-Length: 17\r\n") && head.contains("Transfer-Encoding: chunked\r\n")
    );
    assert_eq!(exchange(&origin, "GET", "").1, tar);
    assert_eq!(exchange(&origin, "GET", "").1, other);
    assert_eq!(origin.gets(WNID)[1].sent, 700);
}

#[test]
fn a_connection_is_kept_counted_and_closed() {
    let origin = Origin::start();
    origin
        .class(WNID, b"tar".to_vec())
        .script([Answer::plain(), Answer::plain().hanging_up_on_the_next()]);
    let mut stream = connect(&origin);
    for _ in 0..2 {
        write!(stream, "GET /{WNID}.tar HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\ntar") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
    }
    assert_eq!(
        (
            origin.open_connections(),
            origin.most_connections(),
            origin.bytes_sent()
        ),
        (1, 1, 6)
    );
    write!(stream, "GET /{WNID}.tar HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    wait_for("the connection is closed", Duration::from_secs(5), || {
        origin.open_connections() == 0
    });
    assert_eq!(origin.gets(WNID).last().unwrap().status, 0);
}

#[test]
fn a_stalled_client_does_not_keep_the_origin_from_stopping() {
    let origin = Origin::start();
    origin
        .class(WNID, vec![1; 100])
        .forever(Answer::stall_at(10));
    let mut stream = connect(&origin);
    write!(stream, "GET /{WNID}.tar HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(&[1; 10]) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    drop(origin);
    assert_eq!(
        stream.read(&mut [0]).unwrap_or(0),
        0,
        "nothing follows before the end"
    );
}

#[test]
fn stalls_can_be_ended() {
    let origin = Origin::start();
    origin
        .class(WNID, vec![1; 100])
        .forever(Answer::stall_at(10));
    origin.end_stalls();
    assert_eq!(exchange(&origin, "GET", "").1.len(), 10);
}

#[test]
fn a_script_file_is_read_line_by_line() {
    let origin = Origin::start();
    origin.class(WNID, vec![1; 100]);
    script_file::apply(
        "# faults\n\nn00000001 status 503\nn00000001 forever cut 5\n",
        &origin,
    )
    .unwrap();
    assert!(exchange(&origin, "GET", "").0.starts_with("HTTP/1.1 503"));
    assert_eq!(exchange(&origin, "GET", "").1.len(), 5);
    assert_eq!(exchange(&origin, "GET", "").1.len(), 5);
    assert!(
        script_file::apply("n00000001 explode", &origin)
            .unwrap_err()
            .contains("line 1")
    );
    assert!(script_file::apply("n00000002 cut 5", &origin).is_err());
}
