//! A job with secrets for the origin on a host with several users: only programs with a credential
//! receive them.

use std::net::{SocketAddr, TcpListener};

use tests::{
    cluster::{Job, Table},
    origin::Origin,
    running::Running,
};

use super::{
    Cluster,
    private_files::{between, header_file},
    text,
};

/// A currently free port, for a coordinator whose address must be known before its start.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    listener.local_addr().expect("it is bound")
}

/// A job with secrets, and the arguments of its coordinator.
struct JobWithSecrets {
    job: Job,
    origin: Origin,
    wnid: String,
    csv: String,
    headers: String,
    /// The origin's URL with a password.
    url: String,
}

impl JobWithSecrets {
    fn new() -> Self {
        let cluster = Cluster::of(1);
        let origin = cluster.origin.url();
        Self {
            headers: header_file(&cluster.job),
            csv: text(&cluster.job.folder().join("data.csv")),
            url: origin.replace("http://", "http://user:s3cr3t-p4ss@"),
            wnid: cluster.classes[0].0.clone(),
            job: cluster.job,
            origin: cluster.origin,
        }
    }

    /// Starts a coordinator of the list with these flags.
    fn start(&self, flags: &[&str]) -> Running {
        let list = ["--fname", &self.csv, "--http", "127.0.0.1:0"];
        self.job
            .start_with(list.into_iter().chain(flags.iter().copied()))
    }

    /// Starts a coordinator with the password, the headers and these flags.
    fn start_with_secrets(&self, flags: &[&str]) -> Running {
        let secrets = ["--url", &self.url, "--header-file", &self.headers];
        self.start(&[&secrets, flags].concat())
    }
}

#[test]
fn a_job_with_secrets_requires_credentials() {
    let job = JobWithSecrets::new();
    let listen = free_address().to_string();
    let plain = job.origin.url();
    let query = format!("{plain}/{{wnid}}.tar?key=s3cr3t-k3y");
    let common = ["--target", ".", "--listen", &listen];
    for secret in [
        &["--url", &plain, "--header-file", &job.headers][..],
        &["--url", &job.url],
        &["--url", &query],
    ] {
        let refused = job.start(&[&common, secret].concat()).wait();
        job.job.assert_could_not_run(
            &refused,
            &["every user of this machine could connect and be told the secrets"],
        );
        assert!(!refused.stderr.contains("s3cr3t"), "{}", refused.stderr);
    }

    let harmless = format!("{plain}/{{wnid}}.tar?v=1&format=tar");
    let mut open = job.start(&[&common[..], &["--url", &harmless]].concat());
    open.wait_until("it listens", |running| {
        running.stderr().contains("listening on ").then_some(())
    });
    open.kill();
}

#[test]
fn the_message_about_a_job_with_secrets_works_as_printed() {
    let job = JobWithSecrets::new();
    let listen = free_address().to_string();
    let common = ["--target", ".", "--listen", &listen];
    let refused = job.start_with_secrets(&common).wait();
    let sentence = refused.stderr;
    let init = between(&sentence, "`coordinator ", "`");
    let made = job.job.start_with(init).wait();
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let closed = between(&sentence, "give the coordinator ", ", and workers ");
    let mut coordinator = job.start_with_secrets(&[&common, &closed[..]].concat());
    coordinator.wait_until("it listens", |running| {
        running.stderr().contains("listening on ").then_some(())
    });
    let worker = between(&sentence, "and workers ", ", or ");
    let target = text(&job.job.folder().join("w1"));
    let worker = job
        .job
        .start_worker_with(worker.into_iter().chain(["--target", &target]))
        .wait();
    assert_eq!(worker.code, Some(0), "{}", worker.stderr);
    let finished = coordinator.wait();
    assert_eq!(
        (finished.code, &finished.stdout),
        (Some(0), &Table::of(1, 0, 0).text()),
        "{}",
        finished.stderr
    );
    let requests = job.origin.gets(&job.wnid);
    assert_eq!(requests[0].header("x-key"), Some("s3cr3t-h3ader"));
}

#[test]
fn a_job_with_secrets_runs_with_dev_or_insecure() {
    let job = JobWithSecrets::new();
    let dev = job.start_with_secrets(&["--target", "dev", "--dev"]).wait();
    assert_eq!(dev.code, Some(0), "{}", dev.stderr);
    let flags = ["--target", "open", "--listen", "127.0.0.1:0", "--insecure"];
    let mut open = job.start_with_secrets(&flags);
    open.wait_until("it warns", |running| {
        running
            .stderr()
            .contains("--insecure: any program that reaches the port can join at 127.0.0.1")
            .then_some(())
    });
    open.kill();
}
