//! Authentication: the files of `coordinator init` are sufficient for both programs, and no less
//! is.

mod abusive_clients;
mod certificates;
mod client;
mod idle_connections;
mod job_with_secrets;
mod joining;
mod large_messages;
mod names;
mod operators;
mod private_files;
mod revoked;
mod roles;
mod secrets;

use std::path::{Path, PathBuf};

use tests::{
    archives::images,
    cluster::{Coordinator, Job},
    origin::Origin,
    running::Running,
};

/// A job whose coordinator has a certificate and requires tokens.
struct Cluster {
    job: Job,
    origin: Origin,
    classes: Vec<(String, Vec<u8>)>,
}

impl Cluster {
    /// A job of `count` classes; `coordinator init` writes into `trust` beside the target.
    fn of(count: u64) -> Self {
        let origin = Origin::start();
        let class = |number| {
            let wnid = format!("n{number:08}");
            let tar = images(&wnid, 5, 1000..20_000, number);
            (wnid, tar)
        };
        let classes: Vec<(String, Vec<u8>)> = (1..=count).map(class).collect();
        for (wnid, tar) in &classes {
            origin.class(wnid, tar.clone());
        }
        let job = Job::new()
            .classes(classes.iter().map(|(wnid, _)| wnid.as_str()))
            .origin(&origin);
        init(&job, &job.folder().join("trust"));
        Self {
            job,
            origin,
            classes,
        }
    }

    /// The path of a file that `init` created.
    fn file(&self, name: &str) -> PathBuf {
        self.job.folder().join("trust").join(name)
    }

    /// The same path as the value of a flag.
    fn path(&self, name: &str) -> String {
        text(&self.file(name))
    }

    fn secret(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name))
            .expect("init created it")
            .trim()
            .to_owned()
    }

    /// Starts the coordinator on loopback with the files of `init` and further arguments.
    fn start(mut self, more: &[&str]) -> (Self, Coordinator) {
        let files = [
            ("--tls-cert", self.path("server.pem")),
            ("--tls-key", self.path("server.key")),
            ("--token-file", self.path("tokens")),
        ];
        let flags: Vec<&str> = files
            .iter()
            .flat_map(|(flag, path)| [*flag, path.as_str()])
            .collect();
        self.job = self.job.args(flags.into_iter().chain(more.iter().copied()));
        let coordinator = self.job.start_coordinator();
        (self, coordinator)
    }

    /// Starts a worker with these arguments; its target is the folder `name` beside the job's.
    fn worker(&self, name: &str, coordinator: &Coordinator, args: &[&str]) -> Running {
        let connect = format!("https://{}", coordinator.address);
        let target = text(&self.job.folder().join(name));
        let own = ["--connect", &connect, "--name", name, "--target", &target];
        self.job
            .start_worker_with(own.into_iter().chain(args.iter().copied()))
    }
}

/// Runs `coordinator init` for this folder and returns its output.
fn init(job: &Job, folder: &Path) -> String {
    let finished = job
        .start_with(["init", "--dir", &text(folder), "--advertise", "127.0.0.1"])
        .wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.stdout
}

fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}
