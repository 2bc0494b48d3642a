//! Messages about an origin that does not answer: immediate, with host, port and cause, once per
//! cause, and with the end of the pause.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tests::{archives::images, cluster::Job, log::lines_with, origin::Origin};
use tokio::time::Instant;

fn job(url: &str, args: &[&str]) -> Job {
    let wnids: Vec<String> = (1..=30).map(|number| format!("n{number:08}")).collect();
    Job::new()
        .classes(wnids.iter().map(String::as_str))
        .url(url)
        .args(args.iter().copied())
}

/// A loopback port without a listener.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    format!("http://{address}")
}

/// A server that answers every request with the same bytes and closes the connection.
pub(crate) struct RawServer {
    pub(crate) address: SocketAddr,
    thread: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl RawServer {
    pub(crate) fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let is_over = Arc::<AtomicBool>::default();
        let ends = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                // Errors of the client are ignored.
                let _heard = stream.read(&mut [0; 4096]).unwrap_or_default();
                stream.write_all(answer).ok();
            }
        });
        Self {
            address,
            thread: Some(thread),
            is_over,
        }
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        TcpStream::connect(self.address).ok();
        self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn a_failed_connection_is_reported_within_two_seconds_with_host_and_port() {
    let closed = closed_port();
    for (url, message) in [
        (
            closed.as_str(),
            format!("no connection to {closed}: refused; is --url right?"),
        ),
        (
            "http://no-such-host.invalid:8099/x",
            "no connection to http://no-such-host.invalid:8099: the name".to_owned(),
        ),
    ] {
        let started = Instant::now();
        let job = job(url, &["--delete-tar"]);
        let mut running = job.start();
        running.wait_until("it prints the cause", |running| {
            running.stderr().contains(&message).then_some(())
        });
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert!(running.is_running(), "the job waits for the origin");
        running.kill();
    }
}

#[test]
fn the_pause_message_has_its_end_and_a_cause_is_reported_once() {
    let closed = closed_port();
    let job = job(
        &closed,
        &["--delete-tar", "--retries", "0", "--workers", "4"],
    );
    let mut running = job.start();
    let pause = format!(
        "no class can be had from {closed} (ConnectionError: no connection to {closed}: refused). \
         Paused"
    );
    running.wait_until("it prints that it waits", |running| {
        running.stderr().contains(&pause).then_some(())
    });
    let message = running.stderr();
    let line = lines_with(&message, &[&pause])[0];
    let (_, end) = line
        .split_once("until ")
        .expect("the line has the end of the pause");
    assert!(
        end.len() == "2026-01-01T00:00:00Z".len() && end.ends_with('Z'),
        "{end:?}"
    );
    assert_eq!(message.matches("is --url right?").count(), 1, "{message}");
    assert_eq!(message.matches("WARN").count(), 2, "{message}");
    running.kill();
}

#[test]
fn a_coordinator_reports_the_cause_for_its_workers() {
    let closed = closed_port();
    let job = job(&closed, &["--delete-tar"]);
    let mut coordinator = job.start_coordinator();
    let workers = ["w1", "w2"].map(|name| job.start_worker(name, &coordinator, job.target_path()));
    let message = format!(": no connection to {closed}: refused; is --url right?");
    coordinator
        .running
        .wait_until("it prints the cause", |running| {
            running.stderr().contains(&message).then_some(())
        });
    for mut worker in workers {
        worker.wait_until("it prints the cause", |running| {
            running.stderr().contains(&message[2..]).then_some(())
        });
        worker.kill();
    }
    assert_eq!(
        coordinator.running.stderr().matches(&message).count(),
        1,
        "once for all workers"
    );
    coordinator.running.kill();
}

#[test]
fn an_answer_that_is_not_http_is_reported_clearly() {
    // A TLS server's answer to plain HTTP: a fatal alert.
    let server = RawServer::start(&[21, 3, 3, 0, 2, 2, 70]);
    let url = format!("http://{}", server.address);
    let job = job(&url, &["--delete-tar"]);
    let mut running = job.start();
    let message = format!("the answer of {url} is no HTTP (does it speak TLS?)");
    running.wait_until("it prints the cause", |running| {
        running.stderr().contains(&message).then_some(())
    });
    running.kill();
}

#[test]
fn after_an_answer_the_url_is_not_questioned() {
    let origin = Origin::start();
    let tar = images("n00000001", 1, 500..900, 1);
    origin.class("n00000001", tar).script([
        tests::answer::Answer::cut_at(100),
        tests::answer::Answer::plain().hanging_up(),
    ]);
    let job = Job::new()
        .classes(["n00000001"])
        .origin(&origin)
        .args(["--delete-tar"]);
    let finished = job.run();
    assert!(
        !finished.stderr.contains("is --url right?"),
        "{}",
        finished.stderr
    );
}
