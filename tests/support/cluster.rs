//! A job with the real programs, a CSV, a target folder and a deadline.

mod outcome;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

pub use crate::summary_table::Table;

use crate::{
    http,
    origin::Origin,
    programs::program,
    running::{Finished, Running},
};

/// How long a job may take unless the test sets another deadline.
const DEADLINE: Duration = Duration::from_mins(3);

/// A job in a temporary folder. It can be run again, also with other classes or arguments.
#[derive(Debug)]
pub struct Job {
    folder: TempDir,
    target: PathBuf,
    csv: Option<PathBuf>,
    url: Option<String>,
    args: Vec<String>,
    under: Vec<String>,
    variables: Vec<(String, String)>,
    deadline: Duration,
}

impl Default for Job {
    fn default() -> Self {
        Self::new()
    }
}

impl Job {
    /// A job without classes.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("imagenet-job-")
            .tempdir()
            .expect("a temporary folder");
        let target = folder.path().join("target");
        std::fs::create_dir_all(folder.path().join("output")).expect("the folder is ours");
        std::fs::create_dir(&target).expect("the folder is ours");
        Self {
            folder,
            target,
            csv: None,
            url: None,
            args: Vec::new(),
            under: Vec::new(),
            variables: Vec::new(),
            deadline: DEADLINE,
        }
    }

    /// Writes a CSV with these ids, in this order.
    #[must_use]
    pub fn classes<'id>(self, wnids: impl IntoIterator<Item = &'id str>) -> Self {
        let row = |wnid| format!("{wnid},\"a label, with a comma\"\n");
        let lines: Vec<String> = std::iter::once("wnid,label\n".to_owned())
            .chain(wnids.into_iter().map(row))
            .collect();
        self.csv_text(lines.concat())
    }

    /// Writes a CSV with this text.
    #[must_use]
    pub fn csv_text(mut self, text: impl AsRef<[u8]>) -> Self {
        let path = self.folder.path().join("data.csv");
        std::fs::write(&path, text).expect("the folder is ours");
        self.csv = Some(path);
        self
    }

    /// Uses the CSV at this path, which need not exist.
    #[must_use]
    pub fn csv_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.csv = Some(path.into());
        self
    }

    /// Uses this origin for the tars.
    #[must_use]
    pub fn origin(self, origin: &Origin) -> Self {
        self.url(&origin.url())
    }

    /// Uses this base URL, as given on the command line.
    #[must_use]
    pub fn url(mut self, url: &str) -> Self {
        self.url = Some(url.to_owned());
        self
    }

    /// Uses another target folder.
    #[must_use]
    pub fn target(mut self, path: impl Into<PathBuf>) -> Self {
        self.target = path.into();
        self
    }

    /// Sets further arguments; they replace earlier ones.
    #[must_use]
    pub fn args<'word>(mut self, args: impl IntoIterator<Item = &'word str>) -> Self {
        self.args = args.into_iter().map(str::to_owned).collect();
        self
    }

    /// Runs the coordinator under another command, to which the program and its arguments are
    /// appended.
    #[must_use]
    pub fn under<'word>(mut self, command: impl IntoIterator<Item = &'word str>) -> Self {
        self.under = command.into_iter().map(str::to_owned).collect();
        self
    }

    /// Adds an environment variable for the coordinator and the workers.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the default deadline of three minutes.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// A folder for other files of the test, removed with the job.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The target folder.
    pub fn target_path(&self) -> &Path {
        &self.target
    }

    /// The folder of a class under its final name.
    pub fn class_folder(&self, wnid: &str) -> PathBuf {
        self.target.join(wnid)
    }

    /// The lines of `failed_downloads.log`; none if the file does not exist.
    pub fn failures(&self) -> Vec<String> {
        let text =
            std::fs::read_to_string(self.target.join("failed_downloads.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The log of the coordinator or of a job in one process; empty if there is none yet.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.target.join("imagenet_downloader.log")).unwrap_or_default()
    }

    /// The log of a worker whose target is that of the job; empty if there is none yet.
    pub fn log_of(&self, worker: &str) -> String {
        let name = format!("imagenet_downloader.{worker}.log");
        std::fs::read_to_string(self.target.join(name)).unwrap_or_default()
    }

    /// The line of a class in `failed_downloads.log`, without the class. Panics unless there is
    /// exactly one.
    #[track_caller]
    pub fn failure_of(&self, wnid: &str) -> String {
        let prefix = format!("{wnid} - ");
        let failures = self.failures();
        let found: Vec<&str> = failures
            .iter()
            .filter_map(|line| line.strip_prefix(prefix.as_str()))
            .collect();
        let [failure] = found.as_slice() else {
            panic!("expected one line of {wnid} in the failure log: {failures:#?}")
        };
        (*failure).to_owned()
    }

    /// Runs the job on one host, in one process, to its end.
    #[track_caller]
    pub fn run(&self) -> Finished {
        self.start().wait()
    }

    /// Starts the job on one host, in one process.
    pub fn start(&self) -> Running {
        let mut command = self.coordinator_command();
        command.arg("--dev");
        self.spawn(command, "imagenet_downloader.log")
    }

    /// Starts the program with exactly these arguments and the job's target as its working
    /// directory.
    pub fn start_with<'word>(&self, args: impl IntoIterator<Item = &'word str>) -> Running {
        let mut command = self.coordinator();
        command.args(args).current_dir(&self.target);
        self.spawn(command, "imagenet_downloader.log")
    }

    /// Starts only the coordinator; workers on loopback can join it.
    pub fn start_coordinator(&self) -> Coordinator {
        let mut command = self.coordinator_command();
        // Set by the environment variable, not the flag: the dashboard is not under test here.
        command
            .args(["--listen", "127.0.0.1:0"])
            .env("IMAGENET_HTTP", "127.0.0.1:0");
        let mut running = self.spawn(command, "imagenet_downloader.log");
        let http = running.wait_for_http();
        let origin = self
            .url
            .as_deref()
            .and_then(|url| url.strip_prefix("http://")?.parse().ok());
        let known: Vec<SocketAddr> = origin.into_iter().chain([http]).collect();
        let address = running.wait_for_address(&known);
        // The addresses are printed shortly before the job's state is available.
        running.wait_until("it is ready", |_| {
            let (_, body) = http::get(http, "/readyz")?;
            (body != "starting\n").then_some(())
        });
        Coordinator {
            running,
            address,
            http,
        }
    }

    /// Starts the coordinator at a fixed address, which a later start can use again.
    pub fn start_coordinator_at(&self, address: SocketAddr) -> Running {
        let mut command = self.coordinator_command();
        command
            .args(["--listen", &address.to_string()])
            .env("IMAGENET_HTTP", "127.0.0.1:0");
        self.spawn(command, "imagenet_downloader.log")
    }

    /// Starts a worker with this target folder, which may be the job's.
    pub fn start_worker(&self, name: &str, coordinator: &Coordinator, target: &Path) -> Running {
        let mut command = Command::new(program("worker"));
        command.args([
            "--connect",
            &format!("http://{}", coordinator.address),
            "--name",
            name,
        ]);
        command.arg("--target").arg(target);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = self.folder.path().join("output");
        Running::start(
            command,
            &output,
            target,
            &format!("imagenet_downloader.{name}.log"),
            self.deadline,
        )
    }

    /// Starts a worker that connects to this URL.
    pub fn start_worker_at(&self, url: &str, name: &str, slots: u32, target: &Path) -> Running {
        let slots = slots.to_string();
        let target = target.to_str().expect("a plain path");
        let args = ["--connect", url, "--name", name, "--workers", &slots];
        self.start_worker_with(args.into_iter().chain(["--target", target]))
    }

    /// Starts a worker with exactly these arguments.
    pub fn start_worker_with<'word>(&self, args: impl IntoIterator<Item = &'word str>) -> Running {
        let mut command = Command::new(program("worker"));
        command.args(args).current_dir(&self.target);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        self.spawn(command, "imagenet_downloader.log")
    }

    /// Starts another program with the job's target as its working directory.
    pub fn start_program(&self, mut command: Command) -> Running {
        command.current_dir(&self.target);
        self.spawn(command, "imagenet_downloader.log")
    }

    /// The command without arguments.
    fn coordinator(&self) -> Command {
        let mut words = self
            .under
            .iter()
            .map(PathBuf::from)
            .chain([program("coordinator")]);
        let mut command = Command::new(words.next().expect("the program itself is always there"));
        command
            .args(words)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn coordinator_command(&self) -> Command {
        let mut command = self.coordinator();
        if let Some(csv) = &self.csv {
            command.arg("--fname").arg(csv);
        }
        command.arg("--target").arg(&self.target);
        if let Some(url) = &self.url {
            command.args(["--url", url]);
        }
        command.args(&self.args);
        command
    }

    fn spawn(&self, command: Command, log: &str) -> Running {
        Running::start(
            command,
            &self.folder.path().join("output"),
            &self.target,
            log,
            self.deadline,
        )
    }
}

/// A coordinator that workers can join.
#[derive(Debug)]
pub struct Coordinator {
    /// The process.
    pub running: Running,
    /// The address that it listens on for workers.
    pub address: SocketAddr,
    /// The address of its dashboard.
    pub http: SocketAddr,
}
