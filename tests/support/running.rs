//! A running process: receives signals, is waited for, and is killed at its deadline.

use std::{
    ffi::OsStr,
    fs::File,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, kill_process};
use tokio::time::Instant;

pub use rustix::process::Signal;

use crate::{memory, wait::wait_until};

/// A process that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
    /// The target folder.
    pub target: PathBuf,
    /// Peak resident memory in bytes; Linux only.
    pub peak_memory: Option<u64>,
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    deadline: Instant,
    log: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
    target: PathBuf,
    peak_memory: Option<u64>,
}

impl Running {
    /// Starts a program with its output in files in `folder`.
    pub(crate) fn start(
        mut command: Command,
        folder: &Path,
        target: &Path,
        log: &str,
        deadline: Duration,
    ) -> Self {
        let stem = format!(
            "{}",
            folder.read_dir().map(Iterator::count).unwrap_or_default()
        );
        let output = |kind: &str| {
            let path = folder.join(format!("{stem}.{kind}"));
            (File::create_new(&path).expect("the folder is ours"), path)
        };
        let (out, stdout) = output("stdout");
        let (err, stderr) = output("stderr");
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_a_setting(name)) {
            if !command.get_envs().any(|(set, _)| set == name) {
                command.env_remove(&name);
            }
        }
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            deadline: Instant::now() + deadline,
            log: target.join(log),
            stdout,
            stderr,
            target: target.to_owned(),
            peak_memory: None,
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.sample_memory();
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the child is ours and was not waited for");
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(mut self) {
        self.end();
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until it prints a loopback address that is not among the `known` ones.
    #[track_caller]
    pub fn wait_for_address(&mut self, known: &[SocketAddr]) -> SocketAddr {
        self.wait_until("it prints the address it listens on", |running| {
            let printed = read(&running.stderr) + &read(&running.stdout);
            addresses(&printed).find(|address| !known.contains(address))
        })
    }

    /// Waits for the line with the address of its health and metrics.
    #[track_caller]
    pub fn wait_for_http(&mut self) -> SocketAddr {
        self.wait_until(
            "it prints the address of its health and metrics",
            |running| {
                let stderr = running.stderr();
                let (_, rest) = stderr.split_once("health and metrics at http://")?;
                rest.split_once('/')?.0.parse().ok()
            },
        )
    }

    /// Waits for a condition while the process runs; panics with the end of its output if it ends
    /// or reaches its deadline first.
    #[track_caller]
    pub fn wait_until<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let result = wait_until(left, || match found(self) {
            Some(found) => Some(Some(found)),
            None if self.is_running() => None,
            // The condition may have become true just before the end.
            None => Some(found(self)),
        });
        result.flatten().unwrap_or_else(|| self.fail_waiting(what))
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait(mut self) -> Finished {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if wait_until(left, || (!self.is_running()).then_some(())).is_none() {
            self.fail_waiting("it ends");
        }
        let status = self.child.wait().expect("the child is ours");
        Finished {
            code: status.code(),
            signal: status.signal(),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
            target: self.target.clone(),
            peak_memory: self.peak_memory,
        }
    }

    #[track_caller]
    fn fail_waiting(&mut self, what: &str) -> ! {
        let state = if self.is_running() {
            "was killed at its deadline"
        } else {
            "has ended"
        };
        self.end();
        panic!(
            "the program {state} before {what}\n--- stderr\n{}\n--- {}\n{}",
            tail(&read(&self.stderr)),
            self.log.display(),
            tail(&read(&self.log)),
        )
    }

    fn end(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn sample_memory(&mut self) {
        let peak = memory::of(self.child.id())
            .ok()
            .map(|memory| memory.peak)
            .filter(|peak| *peak > 0);
        self.peak_memory = self.peak_memory.max(peak);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether an inherited environment variable would change what the programs do.
fn is_a_setting(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    let begins = ["imagenet_", "otel_", "rust_log"]
        .iter()
        .any(|beginning| name.starts_with(beginning));
    begins || name.ends_with("_proxy")
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The last 40 lines.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

fn addresses(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.match_indices("127.0.0.1:").filter_map(|(at, found)| {
        let rest = &text[at + found.len()..];
        // A line may be incomplete, so the port counts only if another character follows.
        let end = rest.find(|character: char| !character.is_ascii_digit())?;
        rest[..end]
            .parse()
            .ok()
            .map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)))
    })
}
