//! The worker's command line. Every flag has an environment variable; the doc comments are the manual.

use shared::job::JobStatus;
use std::{ffi::OsString, net::SocketAddr, path::PathBuf};
use tokio::sync::watch;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand as _};
use shared::{
    connect::ConnectArgs,
    exit_code,
    flag::yes_or_no,
    manual::Manual,
    worker_name::{host_name, parse_name},
};

const EXAMPLES: &str = "\
Examples:
  worker --connect http://127.0.0.1:50051 --target /data/imagenet
  worker --connect http://127.0.0.1:50051 --workers 5 --name disk2";

/// What a worker is told by its own command line; the rest comes from the coordinator.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Stable name, e.g. the host's.
    pub name: String,
    /// Parallel downloads, at least 1.
    pub slots: usize,
    /// Folder that gets the class folders.
    pub target: PathBuf,
    /// Folder in which classes are put together; beside the target where it is not given.
    pub staging: Option<PathBuf>,
    /// The coordinator may send it to an origin at a private or loopback address.
    pub allow_private_origin: bool,
    /// The job's counts as they are now, where the coordinator is in the same process. Without them
    /// the job's line shows those of the coordinator's last answer.
    pub counts: Option<watch::Receiver<JobStatus>>,
}

/// Downloads and unpacks the classes that a coordinator leases to it.
///
/// Start as many workers as you like; they may come and go at any time. The URL, the retries and all other options of the
/// job come from the coordinator: a worker only says where to put the images and how many downloads run at once.
///
/// A worker waits for its coordinator without a time limit: at the start, and after a connection is
/// lost. It finishes the classes that it has, keeps their results, and tries to connect again every
/// few seconds. It ends when the job is done.
#[derive(Debug, Clone, Parser)]
#[command(name = "worker", version = crate::version::VERSION, after_help = format!("{EXAMPLES}\n\n{}", exit_code::HELP))]
pub struct Cli {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the fields say it")]
    pub coordinator: ConnectArgs,
    /// Folder that gets one folder of images for each class; made if it is missing
    #[arg(long, env = "IMAGENET_TARGET", hide_env_values = true, value_name = "DIR", default_value = ".")]
    pub target: PathBuf,
    /// Folder in which classes are put together until they are complete, on the target's file
    /// system [default: beside the target]
    #[arg(long, env = "IMAGENET_STAGING", hide_env_values = true, value_name = "DIR")]
    pub staging: Option<PathBuf>,
    /// Ask an origin at a private or loopback address if the coordinator says so. Not needed where
    /// the coordinator is on this host; link-local addresses, where clouds serve credentials, are
    /// never asked
    #[arg(long, env = "IMAGENET_ALLOW_PRIVATE_ORIGIN", hide_env_values = true, value_parser = yes_or_no)]
    pub allow_private_origin: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the fields say it")]
    pub slots: SlotArgs,
    /// Answer /metrics, /healthz and /readyz there, in plaintext; port 0 takes a free one [default: nowhere]
    #[arg(long, env = "IMAGENET_HTTP", hide_env_values = true, value_name = "ADDR", value_parser = shared::http::parse_address)]
    pub http: Option<SocketAddr>,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// To work for a coordinator.
    Work(Box<Cli>),
    /// To be told about.
    Write(Manual),
}

impl Cli {
    /// Reads a command line and the environment. `Err` also stands for `--help` and `--version`; clap knows which.
    ///
    /// # Errors
    /// What clap says; it prints itself and knows its exit code.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, clap::Error> {
        let matches = Self::manual().try_get_matches_from(arguments)?;
        match matches.subcommand() {
            Some(_) => Manual::from_arg_matches(&matches).map(Asked::Write),
            None => Self::from_arg_matches(&matches).map(|cli| Asked::Work(Box::new(cli))),
        }
    }

    /// The command line as `--help`, completions and manual pages show it.
    pub fn manual() -> clap::Command {
        let about_itself = Manual::augment_subcommands(clap::Command::default());
        Self::command()
            .subcommands(about_itself.get_subcommands().cloned())
            .args_conflicts_with_subcommands(true)
            // Of a flag that is given twice the last one counts, as in other tools.
            .args_override_self(true)
            .subcommand_negates_reqs(true)
    }
}

/// How one worker works, in the worker program and in single-host mode.
#[derive(Debug, Clone, Args)]
pub struct SlotArgs {
    /// Parallel downloads, each over a connection of its own
    #[arg(long, env = "IMAGENET_WORKERS", hide_env_values = true, value_name = "N", default_value_t = 10,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub workers: usize,
    /// Name of this worker in logs and counts [default: the host's name]
    #[arg(long, env = "IMAGENET_NAME", hide_env_values = true, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,
}

impl SlotArgs {
    /// The name given, or the host's.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(host_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["worker"].iter().chain(arguments))
    }

    #[test]
    fn a_worker_needs_to_know_whom_to_ask() {
        assert!(cli(&[]).is_err());
        let cli = cli(&["--connect", "http://127.0.0.1:50051"]).unwrap();
        assert_eq!((cli.slots.workers, cli.target), (10, PathBuf::from(".")));
        assert!(!cli.slots.name().is_empty());
    }

    #[test]
    fn of_a_flag_that_is_given_twice_the_last_one_counts() {
        let words =
            ["worker", "--connect", "http://h:1", "--workers", "3", "--workers", "8", "--connect", "http://h:2"];
        let Asked::Work(cli) = Cli::read(words.map(OsString::from)).unwrap() else { panic!("it is to work") };
        assert_eq!(
            (cli.slots.workers, cli.coordinator.connect.map(|connect| connect.to_string())),
            (8, Some("http://h:2".to_owned()))
        );
    }

    #[test]
    fn what_cannot_work_is_refused_at_the_door() {
        for wrong in [
            ["--connect", "127.0.0.1:50051"],
            ["--connect", "ftp://h"],
            ["--workers", "0"],
            ["--workers", "1001"],
            ["--name", "../up"],
            ["--name", ""],
        ] {
            assert!(cli(&["--connect", "http://h:1", wrong[0], wrong[1]]).is_err(), "{wrong:?}");
        }
    }
}
