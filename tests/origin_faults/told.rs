//! What is said of an origin that does not answer: at once, with host and port, in words, once per
//! cause; and until when it is waited for.

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

use tests::{archives::images, cluster::Job, origin::Origin};
use tokio::time::Instant;

fn job(url: &str, args: &[&str]) -> Job {
    let wnids: Vec<String> = (1..=30).map(|number| format!("n{number:08}")).collect();
    Job::new().classes(wnids.iter().map(String::as_str)).url(url).args(args.iter().copied())
}

/// A port of loopback on which nothing listens.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    format!("http://{address}")
}

/// A server that answers whatever it hears with the same bytes and closes the connection.
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
                // What the client does meanwhile is not of interest.
                let _heard = stream.read(&mut [0; 4096]).unwrap_or_default();
                stream.write_all(answer).ok();
            }
        });
        Self { address, thread: Some(thread), is_over }
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
fn no_connection_is_told_within_two_seconds_with_host_and_port() {
    let closed = closed_port();
    for (url, said) in [
        (closed.as_str(), format!("no connection to {closed}: refused; is --url right?")),
        (
            "http://no-such-host.invalid:8099/x",
            "no connection to http://no-such-host.invalid:8099: the name".to_owned(),
        ),
    ] {
        let started = Instant::now();
        let job = job(url, &["--delete-tar"]);
        let mut running = job.start();
        running.wait_until("it says why", |running| running.stderr().contains(&said).then_some(()));
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert!(running.is_running(), "an origin that is away is waited for");
        running.kill();
    }
}

#[test]
fn the_pause_says_until_when_and_a_cause_is_told_once() {
    let closed = closed_port();
    let job = job(&closed, &["--delete-tar", "--retries", "0", "--workers", "4"]);
    let mut running = job.start();
    let pause =
        format!("no class can be had from {closed} (ConnectionError: no connection to {closed}: refused). Paused");
    running.wait_until("it says that it waits", |running| running.stderr().contains(&pause).then_some(()));
    let said = running.stderr();
    let line = said.lines().find(|line| line.contains(&pause)).expect("it was there just now");
    let (_, end) = line.split_once("until ").expect("it says until when");
    assert!(end.len() == "2026-01-01T00:00:00Z".len() && end.ends_with('Z'), "{end:?}");
    assert_eq!(said.matches("is --url right?").count(), 1, "{said}");
    assert_eq!(said.matches("WARN").count(), 2, "{said}");
    running.kill();
}

#[test]
fn a_coordinator_says_it_for_its_workers() {
    let closed = closed_port();
    let job = job(&closed, &["--delete-tar"]);
    let mut coordinator = job.start_coordinator();
    let workers = ["w1", "w2"].map(|name| job.start_worker(name, &coordinator, job.target_path()));
    let said = format!(": no connection to {closed}: refused; is --url right?");
    coordinator.running.wait_until("it says why", |running| running.stderr().contains(&said).then_some(()));
    for mut worker in workers {
        worker.wait_until("it says why", |running| running.stderr().contains(&said[2..]).then_some(()));
        worker.kill();
    }
    assert_eq!(coordinator.running.stderr().matches(&said).count(), 1, "once for all workers");
    coordinator.running.kill();
}

#[test]
fn an_answer_that_is_no_http_is_told_in_words() {
    // What a TLS server says to a request in plain HTTP: a fatal alert.
    let server = RawServer::start(&[21, 3, 3, 0, 2, 2, 70]);
    let url = format!("http://{}", server.address);
    let job = job(&url, &["--delete-tar"]);
    let mut running = job.start();
    let said = format!("the answer of {url} is no HTTP (does it speak TLS?)");
    running.wait_until("it says what is wrong", |running| running.stderr().contains(&said).then_some(()));
    running.kill();
}

#[test]
fn an_origin_that_has_answered_is_not_said_to_be_wrong() {
    let origin = Origin::start();
    let tar = images("n00000001", 1, 500..900, 1);
    origin
        .class("n00000001", tar)
        .script([tests::answer::Answer::cut_at(100), tests::answer::Answer::plain().hanging_up()]);
    let job = Job::new().classes(["n00000001"]).origin(&origin).args(["--delete-tar"]);
    let finished = job.run();
    assert!(!finished.stderr.contains("is --url right?"), "{}", finished.stderr);
}
